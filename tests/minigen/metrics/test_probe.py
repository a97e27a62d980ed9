"""The linear probe on features whose labels are known to be readable, or not."""

import numpy as np
import pytest

from minigen.data import load
from minigen.metrics.probe import linear_probe


def test_separable_features_are_read_whatever_their_scale(rng):
    labels = rng.integers(0, 3, 200)
    x = np.eye(3)[labels] + 0.05 * rng.standard_normal((200, 3))
    x = np.concatenate([x * [1e-6, 1.0, 1e6], np.ones((200, 1))], axis=1)  # and one feature that never changes
    assert linear_probe(x[:100], labels[:100], x[100:], labels[100:]) == 1.0


@pytest.mark.filterwarnings("error")
def test_features_as_large_as_float32_can_hold_are_read(rng):
    labels = rng.integers(0, 2, 200)
    x = (np.where(labels, 1, -1)[:, None] * [1e38, 3e38]).astype(np.float32)
    x[:, 1] = 3e38  # and one that never changes, whose sum is too large too
    assert linear_probe(x[:100], labels[:100], x[100:], labels[100:]) == 1.0


def test_the_mean_and_the_deviation_are_those_of_the_training_features():
    """Of two features that tell the same in training, each counts half; by the deviations of the test split the second
    would count more.
    """
    labels = np.array([0, 1] * 20)
    x = np.repeat(2.0 * labels[:, None] - 1, 2, axis=1)
    test = np.array([[1, 0], [3, -0.5], [2, -0.9]])  # all sums are above 0; around their own means the last is below
    assert linear_probe(x, labels, test, np.ones(3, int)) == 1


def test_features_without_the_label_give_chance():
    """900 test items of 3 classes: the accuracy's deviation is 0.016; five of them are allowed."""
    rng = np.random.default_rng(0)
    x, labels = rng.standard_normal((1800, 4)), rng.integers(0, 3, 1800)
    accuracy = linear_probe(x[:900], labels[:900], x[900:], labels[900:])
    assert abs(accuracy - 1 / 3) < 5 * np.sqrt(2 / 9 / 900)


def test_what_is_not_linear_is_not_read(rng):
    """The exclusive or of two signs is in the features, and no line separates it."""
    x = rng.standard_normal((1000, 2))
    labels = (x[:, 0] * x[:, 1] > 0).astype(int)
    assert linear_probe(x[:500], labels[:500], x[500:], labels[500:]) < 0.65
    assert (
        linear_probe(*(a for p in (slice(0, 500), slice(500, None)) for a in (x[p, :1] * x[p, 1:], labels[p]))) > 0.95
    )


def test_pixels_of_the_digits():
    data = load("digits")
    train, test = (s.images.reshape(len(s), -1).astype(float) for s in (data.train, data.test))
    accuracy = linear_probe(train, data.train.labels, test, data.test.labels)
    assert 0.88 < accuracy < 0.93, "logistic regression reaches about 0.90 on this split"


def test_one_class_is_refused(rng):
    with pytest.raises(ValueError, match="2 classes"):
        linear_probe(rng.standard_normal((5, 2)), np.zeros(5, int), rng.standard_normal((5, 2)), np.zeros(5, int))
