r"""The cross-entropy by definition, any float dtype, NumPy or CuPy."""

from ..backend import Array, array_module


def cross_entropy(logits: Array, targets: Array) -> Array:
    r"""$-\ln p_{i c_i}$ with $\ln p_{ij} = x_{ij} - \mu_i - \ln \sum_k e^{x_{ik} - \mu_i}$."""
    xp = array_module(logits, targets)
    return -_log_softmax(logits)[xp.arange(logits.shape[0]), targets]


def cross_entropy_backward(g: Array, logits: Array, targets: Array) -> Array:
    r"""$g_i (p_{ij} - [j = c_i])$."""
    xp = array_module(g, logits, targets)
    one_hot = (xp.arange(logits.shape[1]) == targets[:, None]).astype(logits.dtype)
    return g[:, None] * (xp.exp(_log_softmax(logits)) - one_hot)


def _log_softmax(x: Array) -> Array:
    if x.size == 0:
        return x
    xp = array_module(x)
    x = x - x.max(axis=1, keepdims=True)
    return x - xp.log(xp.exp(x).sum(axis=1, keepdims=True))
