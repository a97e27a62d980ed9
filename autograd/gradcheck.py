r"""Is a derivative right? Two ways to the same number.

For random directions $u$ (the output's shape) and $v$ (the inputs'),
$$\langle u, J v \rangle \approx \langle u, \tfrac{1}{12h}\,(f(x-2hv) - 8 f(x-hv) + 8 f(x+hv) - f(x+2hv)) \rangle, \qquad \langle u, J v \rangle = \langle J^\top u, v \rangle .$$
The first needs only values of $f$ (error $O(h^4)$), the second is what the tape computes. One projection detects any
wrong entry of $J$ with probability one, at the cost of four evaluations whatever the size.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np

from . import reduce
from .tensor import Tensor, grad, no_grad

TOLERANCE = 1e-8  # relative to the gradient
ROUNDING = 1e-7  # errors are relative to at least this |f| / h, since rounding alone makes a few 1e-16 |f| / h


def gradcheck(
    function: Callable[..., Any], inputs: Sequence[Any], order: int = 1, seed: int = 0, step: float = 1e-3
) -> None:
    r"""Raise AssertionError unless the gradients of ``function(*inputs)`` are right, up to ``order`` 1 or 2.

    ``inputs`` are float64 arrays, moved by up to 2 ``step`` $h$: keep away from kinks. The differences' own error is
    $h^4 / 30$ times the fifth derivative, so deep compositions need a smaller step. At order 2 the first gradient,
    projected on a random direction, is the function that is checked. ``function`` may itself take gradients, by
    ``grad(..., create_graph=True)``. Raises TypeError for other dtypes, inputs that are no sequence of arrays and a
    function that returns no Tensor, ValueError for another order.
    """
    if order not in (1, 2):
        raise ValueError(f"order must be 1 or 2, got {order}")
    if not isinstance(inputs, Sequence):
        raise TypeError(f"inputs must be a list of arrays, one for each argument, got {type(inputs).__name__}")
    arrays = [np.array(x) for x in inputs]
    if any(a.dtype != np.float64 for a in arrays):
        raise TypeError(f"gradcheck needs float64 inputs, got {[str(a.dtype) for a in arrays]}")
    rng = np.random.default_rng(seed)
    _check(function, arrays, rng, step, "first")
    if order >= 2:
        shape = function(*(Tensor(a, requires_grad=True) for a in arrays)).shape
        u = rng.standard_normal(shape)
        _check_recorded(function, arrays, u)
        directions = [rng.standard_normal(a.shape) for a in arrays]

        def slope(*xs: Any) -> Any:
            leaves = [Tensor(x, requires_grad=True) if not isinstance(x, Tensor) else x for x in xs]
            gradients = grad(function(*leaves), leaves, u, create_graph=True)
            return _sum_of([reduce.sum(g * d) for g, d in zip(gradients, directions)])

        _check(slope, arrays, rng, step, "second")


def _check_recorded(function: Callable[..., Any], arrays: list[Any], u: Any) -> None:
    """The recorded gradient must equal the plain one: two computations of the same numbers."""
    leaves = [Tensor(a, requires_grad=True) for a in arrays]
    plain = grad(function(*leaves), leaves, u)
    recorded = grad(function(*leaves), leaves, u, create_graph=True)
    for i, (g, h) in enumerate(zip(plain, recorded)):
        if not np.allclose(
            g.data, h.data, rtol=TOLERANCE, atol=TOLERANCE * max(1.0, float(np.max(np.abs(g.data), initial=0)))
        ):
            raise AssertionError(f"input {i} of shape {g.shape}: the gradient differs with create_graph=True")


def _sum_of(terms: list[Any]) -> Any:
    """The sum of a list of scalars."""
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


def _differentiates(function: Callable[..., Any], arrays: list[Any]) -> bool:
    """Whether a function takes a gradient itself, so that even its values need the tape."""
    try:
        with no_grad():
            function(*(Tensor(a) for a in arrays))
    except RuntimeError:  # of `grad` and `backward`, where nothing was recorded
        return True
    return False


def _check(function: Callable[..., Any], arrays: list[Any], rng: np.random.Generator, step: float, which: str) -> None:
    leaves = [Tensor(a, requires_grad=True) for a in arrays]
    y = function(*leaves)
    if not isinstance(y, Tensor):
        raise TypeError(f"the function must return a Tensor, got {type(y).__name__}")
    without_tape = which == "first" and not _differentiates(function, arrays)
    u = rng.standard_normal(y.shape)
    gradients = (
        grad(y, leaves, u) if y.node is not None or y.requires_grad else [Tensor(np.zeros_like(a)) for a in arrays]
    )
    for i, (array, g) in enumerate(zip(arrays, gradients)):
        if g.shape != array.shape:
            raise AssertionError(f"{which} derivative, input {i}: gradient of shape {g.shape} for shape {array.shape}")
        v = rng.standard_normal(array.shape)

        def along(h: float, i: int = i, array: Any = array, v: Any = v) -> float:
            moved = [array + h * v if j == i else a for j, a in enumerate(arrays)]
            with no_grad() if without_tape else nullcontext():
                value = function(*(Tensor(a, requires_grad=not without_tape) for a in moved))
            return float(np.sum(u * value.data))

        values = [along(k * step) for k in (-2, -1, 1, 2)]
        numeric = (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * step)
        exact = float(np.sum(g.data * v))
        # the size of the terms of the sum: where they cancel, fewer digits can be required
        scale = max(
            abs(exact), float(np.sqrt(np.sum((g.data * v) ** 2))), ROUNDING / step * max(1.0, *map(abs, values))
        )
        if not abs(numeric - exact) <= TOLERANCE * scale:
            raise AssertionError(
                f"{which} derivative, input {i} of shape {array.shape}: the tape says {exact!r}, differences say "
                f"{numeric!r} (relative error {abs(numeric - exact) / scale:.2e})"
            )
