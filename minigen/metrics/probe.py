"""What features are good for: how well a linear classifier reads the labels from them (Alain & Bengio 2016, 1610.01644)."""

import numpy as np
from jaxtyping import Float, Int

from kernels.backend import Array

STRENGTH = 1.0  # inverse of the penalty on the weights


def linear_probe(
    train: Float[Array, "n d"], train_labels: Int[Array, " n"], test: Float[Array, "m d"], test_labels: Int[Array, " m"]
) -> float:
    """Test accuracy of logistic regression on the features, each first brought to mean 0 and deviation 1 on ``train``.

    Raises ValueError for NaN and for fewer than two classes (scikit-learn's messages).
    """
    from sklearn.linear_model import LogisticRegression

    mean, scale = train.mean(axis=0, dtype=np.float64), train.std(axis=0, dtype=np.float64)  # float32 may overflow
    scale = np.where(scale > 0, scale, 1.0)
    model = LogisticRegression(C=STRENGTH, max_iter=2000)
    model.fit((train - mean) / scale, train_labels)
    return float(model.score((test - mean) / scale, test_labels))
