r"""Matrix products and Einstein sums."""

from typing import Any

import numpy as np

from kernels import matmul as kernel
from kernels.backend import array_module

from .reduce import sum
from .shape import reshape, transpose
from .tensor import operation, raw


def _t(x: Any) -> Any:
    return transpose(x, (*range(x.ndim - 2), x.ndim - 1, x.ndim - 2))


@operation(lambda g, y, a, b: _matmul(g, _t(b)), lambda g, y, a, b: _matmul(_t(a), g), keep="01")
def _matmul(a: Any, b: Any) -> Any:
    return kernel.matmul(a, b)


def matmul(a: Any, b: Any) -> Any:
    r"""$Y = A B$; $\bar A = \bar Y B^\top$, $\bar B = A^\top \bar Y$; leading axes are a batch and broadcast."""
    if a.ndim < 1 or b.ndim < 1:
        raise ValueError(f"matmul needs at least one axis on both sides, got shapes {a.shape} and {b.shape}")
    if a.ndim == 1:
        y = matmul(reshape(a, (1, -1)), b)
        return reshape(y, y.shape[:-1] if b.ndim == 1 else (*y.shape[:-2], y.shape[-1]))
    if b.ndim == 1:
        y = matmul(a, reshape(b, (-1, 1)))
        return reshape(y, y.shape[:-1])
    if a.ndim > 2 and b.ndim == 2:  # one large product instead of a batch of small ones
        return reshape(_matmul(_rows(a), b), (*a.shape[:-1], b.shape[-1]))
    return _matmul(a, b)


def _rows(x: Any) -> Any:
    n = 1
    for size in x.shape[:-1]:
        n *= size
    return reshape(x, (n, x.shape[-1]))


@operation(
    lambda g, y, x, w, b: reshape(_matmul(_rows(g), _t(w)), x.shape),
    lambda g, y, x, w, b: _matmul(_t(_rows(x)), _rows(g)),
    lambda g, y, x, w, b: sum(g, tuple(range(g.ndim - 1))),
    keep="01",
)
def _linear(x: Any, w: Any, b: Any) -> Any:
    return kernel.linear(x, w, b)


def linear(x: Any, w: Any, b: Any = None) -> Any:
    r"""$Y = X W + b$ over the last axis; $\bar X = \bar Y W^\top$, $\bar W = X^\top \bar Y$, $\bar b = \sum \bar Y$."""
    return _linear(x, w, b) if b is not None else matmul(x, w)


def einsum(spec: str, *xs: Any) -> Any:
    r"""$y = \sum \prod_k x_k$ over the letters that the result lacks, e.g. ``einsum("nhid,nhjd->nhij", q, k)``.

    $\bar x_k$ is again an Einstein sum: swap $x_k$'s letters with the result's. Raises ValueError for an ellipsis, a
    missing arrow, a letter twice in one operand, or a letter with two sizes.
    """
    if "..." in spec or "->" not in spec or "," in spec.split("->")[1]:
        raise ValueError(f"einsum needs an explicit result and no ellipsis, got {spec!r}")
    parts = spec.replace(" ", "").split("->")[0].split(",")
    if len(parts) != len(xs) or any(len(set(p)) < len(p) for p in parts):
        raise ValueError(f"einsum {spec!r} needs {len(parts)} operands with distinct letters each, got {len(xs)}")
    sizes: dict[str, int] = {}
    for letters, x in zip(parts, xs):
        for letter, size in zip(letters, np.shape(raw(x))):
            if sizes.setdefault(letter, size) != size:
                raise ValueError(f"einsum {spec!r}: {letter!r} stands for {sizes[letter]} and for {size} numbers")
    return _einsum_of(spec.replace(" ", ""))(*xs)


_einsums: dict[str, Any] = {}


def _einsum_of(spec: str) -> Any:
    if spec not in _einsums:
        left, out = spec.split("->")
        parts = left.split(",")

        def product(k: int) -> Any:
            others = [i for i in range(len(parts)) if i != k]
            seen = set(out).union(*(parts[i] for i in others))
            alone = [c for c in parts[k] if c not in seen]  # letters that only x_k has: every entry gets the same

            def vjp(g: Any, y: Any, *xs: Any) -> Any:
                xp = array_module(raw(xs[k]))
                ones = [xp.ones(xs[k].shape[parts[k].index(c)], xs[k].dtype) for c in alone]
                left = ",".join([out, *(parts[i] for i in others), *alone])
                return einsum(f"{left}->{parts[k]}", g, *(xs[i] for i in others), *ones)

            return vjp

        def contract(*xs: Any) -> Any:
            return np.einsum(spec, *xs, optimize=True)

        keep = "".join(str(i) for i in range(len(parts)))
        _einsums[spec] = operation(*[product(k) for k in range(len(parts))], keep=keep)(contract)
    return _einsums[spec]
