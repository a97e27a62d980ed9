r"""Softmax cross-entropy with integer targets, one value per row, forward and backward.

$$\ell_i = -\ln \frac{e^{x_{i c_i}}}{\sum_j e^{x_{ij}}} = \ln \sum_j e^{x_{ij} - \mu_i} - (x_{i c_i} - \mu_i), \quad \mu_i = \max_j x_{ij},
\qquad \bar x_{ij} = g_i \left( \frac{e^{x_{ij} - \mu_i}}{\sum_k e^{x_{ik} - \mu_i}} - [j = c_i] \right).$$

In nats. Logits of $-\infty$ (forbidden classes) have probability 0 and a gradient of 0 if they are not the target.
"""

from typing import Any

from jaxtyping import Float, Integer

from ..backend import Array, array_module, is_cuda
from ..checks import array_type, check_float, check_index, check_same, check_saved, check_shape
from ..device import contiguous, device_of
from . import numpy_rows, reference

__all__ = ["cross_entropy_backward", "cross_entropy_forward"]


def cross_entropy_forward(
    logits: Float[Array, "m k"], targets: Integer[Array, " m"], *, backward_follows: bool = False
) -> tuple[Float[Array, " m"], Any]:
    r"""$\ell_i = \ln \sum_j e^{x_{ij}} - x_{i c_i}$, not averaged. Returns (loss, saved); ``saved`` is two numbers a row.

    With ``backward_follows``, on a GPU whose chip can hold a row, the gradient of $\frac1m \sum_i \ell_i$ is computed
    with the same read of the logits. Then ``saved`` is that gradient, (m, k), for one call of
    ``cross_entropy_backward``.

    Raises TypeError for dtypes, ValueError for shapes and for a target outside of 0..k-1 (negative ones too).
    """
    _check(logits, targets)
    if (device := device_of(logits)) is not None and logits.size:
        from . import cuda

        logits, targets = contiguous(logits), contiguous(targets.astype("int64"))
        if backward_follows and cuda.can_foresee(device, logits.shape[1]):
            return cuda.foresee(device, logits, targets)
        return cuda.cross_entropy_forward(device, logits, targets)
    if is_cuda(logits):
        return reference.cross_entropy(logits, targets), None
    return numpy_rows.forward(logits, targets)


def cross_entropy_backward(
    g: Float[Array, " m"], logits: Float[Array, "m k"], targets: Integer[Array, " m"], saved: Any
) -> Float[Array, "m k"]:
    r"""$\bar x_{ij} = g_i\,(\mathrm{softmax}(x_i)_j - [j = c_i])$; the softmax is computed again from ``logits``.

    Or, if ``saved`` is the gradient of the mean, it is multiplied in place by $m g_i$: that needs no memory, and
    no time where $g_i = 1/m$.
    """
    _check(logits, targets)
    check_same("g, logits", g, logits)
    check_shape("g", g, logits.shape[:1], "one value per row of logits")
    if (device := device_of(logits)) is not None and logits.size:
        from . import cuda

        _check_saved(saved, logits)
        g, logits, targets = (contiguous(x) for x in (g, logits, targets.astype("int64")))
        if not isinstance(saved, tuple):
            return cuda.rescale(device, g, saved)
        return cuda.cross_entropy_backward(device, g, logits, targets, saved)
    if is_cuda(logits):
        return reference.cross_entropy_backward(g, logits, targets)
    _check_saved(saved, logits)
    return numpy_rows.backward(g, logits, targets, saved)


def _check_saved(saved: Any, logits: Any) -> None:
    if device_of(logits) is not None and isinstance(saved, array_type(logits)):  # the gradient of the mean
        check_saved("cross_entropy_forward", saved, array_type(logits), logits.shape)
        return
    check_saved("cross_entropy_forward", saved, tuple, logits.shape[:1], parts=2)
    array_module(logits, *saved)


def _check(logits: Any, targets: Any) -> None:
    check_float("logits", logits, 2)
    check_index("targets", targets, 1)
    array_module(logits, targets)
    check_shape("targets", targets, logits.shape[:1], "one class per row of logits")
    m, k = logits.shape
    if m and k == 0:
        raise ValueError(f"logits must have at least one class, got shape {(m, k)}")
    if m and (int(targets.min()) < 0 or int(targets.max()) >= k):
        raise ValueError(f"targets must be classes from 0 to {k - 1}, got {int(targets.min())} to {int(targets.max())}")
