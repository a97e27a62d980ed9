r"""Scaled dot-product attention, $o_i = \sum_j \mathrm{softmax}_j(\mathrm{scale}\; q_i \cdot k_j)\, v_j$, and its gradients."""

import math
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from ..backend import Array, array_module, is_cuda
from ..checks import array_type, check_array, check_flag, check_float, check_same, check_saved, check_shape, is_number
from ..device import contiguous, device_of
from ..precision import in_force, rounded
from . import numpy_tiles, reference

__all__ = ["attention", "attention_backward", "attention_forward"]

LARGEST_HEAD = 256  # numbers of a head: for more, the rungs' registers and shared memory do not suffice


def attention(
    q: Float[Array, "n heads t_q d"],
    k: Float[Array, "n heads t_k d"],
    v: Float[Array, "n heads t_k d_v"],
    *,
    causal: bool = False,
    key_mask: Bool[Array, "n t_k"] | None = None,
    scale: float | None = None,
) -> Float[Array, "n heads t_q d_v"]:
    r"""$o_i = \sum_j p_{ij} v_j$ with $p_{ij} = \mathrm{softmax}_j(\mathrm{scale}\; q_i \cdot k_j)$ over the allowed keys $j$.

    (Vaswani et al. 2017, arXiv 1706.03762, eq. 1.) ``key_mask`` (n, t_k) is True where a key may be attended to;
    with ``causal`` query i sees the keys $j \le i + t_k - t_q$, aligned at the end as a key/value cache needs it.
    ``scale`` is $1/\sqrt{d}$ unless given. The result is 0 where a query may attend to nothing. Keys and values that
    are not allowed never matter, even if they are NaN; what is allowed propagates NaN and Inf without a warning.
    Raises TypeError for other dtypes than float32 and float64, ValueError for shapes that do not fit.
    """
    return _forward(q, k, v, causal, key_mask, scale, keep=False)[0]


def attention_forward(
    q: Float[Array, "n heads t_q d"],
    k: Float[Array, "n heads t_k d"],
    v: Float[Array, "n heads t_k d_v"],
    *,
    causal: bool = False,
    key_mask: Bool[Array, "n t_k"] | None = None,
    scale: float | None = None,
) -> tuple[Float[Array, "n heads t_q d_v"], Any]:
    """``attention`` and what ``attention_backward`` needs besides the arguments.

    On NumPy the probabilities are kept up to ``numpy_tiles.KEEP_BYTES``; above, and on a device, only each row's
    log-sum-exp.
    """
    return _forward(q, k, v, causal, key_mask, scale, keep=True)


def attention_backward(
    g: Float[Array, "n heads t_q d_v"],
    q: Float[Array, "n heads t_q d"],
    k: Float[Array, "n heads t_k d"],
    v: Float[Array, "n heads t_k d_v"],
    o: Float[Array, "n heads t_q d_v"],
    saved: Any,
    *,
    causal: bool = False,
    key_mask: Bool[Array, "n t_k"] | None = None,
    scale: float | None = None,
) -> tuple[Float[Array, "n heads t_q d"], Float[Array, "n heads t_k d"], Float[Array, "n heads t_k d_v"]]:
    r"""$(dq, dk, dv)$ for $g = \partial L / \partial o$, with ``o, saved = attention_forward(q, k, v, ...)``.

    $dv_j = \sum_i p_{ij} g_i$, $ds_{ij} = p_{ij} (g_i \cdot v_j - g_i \cdot o_i)$,
    $dq_i = \mathrm{scale} \sum_j ds_{ij} k_j$, $dk_j = \mathrm{scale} \sum_i ds_{ij} q_i$; 0 for what had no part in o.
    The settings must be those of the forward pass. Raises as ``attention`` does.
    """
    scale = _check(q, k, v, causal, key_mask, scale)
    check_same("g, q, o", g, q, o)
    for name, x in (("g", g), ("o", o)):
        check_shape(name, x, (*q.shape[:3], v.shape[3]), "q's n, heads, t_q and v's last axis")
    if saved is not None and not isinstance(saved, numpy_tiles.Saved):
        check_saved("attention_forward", saved, array_type(q), q.shape[:3])
    if (device := _device(q, v)) is not None:
        from . import cuda_backward

        settings = {"causal": causal, "key_mask": contiguous(key_mask), "scale": scale}
        g, q, k, v, o = (contiguous(x) for x in (g, q, k, v, o))
        log_sum = saved
        if saved is None or isinstance(saved, numpy_tiles.Saved):  # the forward pass was not on this device
            log_sum = cuda_backward.log_sums(device, q, k, **settings)
        precision = cuda_backward.precision_for(device, q.shape[3], v.shape[3])
        how = {**settings, "precision": precision, "rung": cuda_backward.rung_for(device, precision, q, v)}
        return cuda_backward.attention_backward(device, g, q, k, v, o, log_sum, **how)
    g, q, k, v = _rounded(g, q, k, v)
    if isinstance(saved, numpy_tiles.Saved):
        try:
            return numpy_tiles.backward(g, q, k, v, o, saved, causal=causal, scale=scale)
        except numpy_tiles.NotFinite:
            pass
    with np.errstate(all="ignore"):
        return reference.backward(g, q, k, v, causal=causal, key_mask=key_mask, scale=scale)


def _forward(
    q: Array, k: Array, v: Array, causal: bool, key_mask: Array | None, scale: float | None, keep: bool
) -> tuple[Array, Any]:
    scale = _check(q, k, v, causal, key_mask, scale)
    if (device := _device(q, v)) is not None:
        from . import cuda, cuda_backward

        settings = {"causal": causal, "key_mask": contiguous(key_mask), "scale": scale}
        precision = cuda_backward.precision_for(device, q.shape[3], v.shape[3])
        return cuda.best(device, *(contiguous(x) for x in (q, k, v)), **settings, keep=keep, precision=precision)
    q, k, v = _rounded(q, k, v)
    if not is_cuda(q):
        try:
            return numpy_tiles.forward(q, k, v, causal=causal, key_mask=key_mask, scale=scale, keep=keep)
        except numpy_tiles.NotFinite:
            pass
    with np.errstate(all="ignore"):
        return reference.forward(q, k, v, causal=causal, key_mask=key_mask, scale=scale), None


def _rounded(*factors: Array) -> tuple[Array, ...]:
    return rounded(*factors) if in_force() == "bf16" else factors


def _device(q: Array, v: Array) -> Any:
    return device_of(q) if max(q.shape[3], v.shape[3]) <= LARGEST_HEAD else None


def _check(q: Array, k: Array, v: Array, causal: bool, key_mask: Array | None, scale: float | None) -> float:
    for name, x in (("q", q), ("k", k), ("v", v)):
        check_float(name, x, 4)
    check_same("q, k, v", q, k, v)
    n, heads, _, d = q.shape
    t_k = k.shape[2]
    check_shape("k", k, (n, heads, t_k, d), "q's n, heads and d")
    check_shape("v", v, (n, heads, t_k, v.shape[3]), "k's n, heads and t_k")
    if d == 0:
        raise ValueError(f"q must have a last axis of at least 1, got shape {q.shape}")
    check_flag("causal", causal)
    if key_mask is not None:
        check_array("key_mask", key_mask)
        array_module(q, key_mask)
        if key_mask.dtype != bool:
            raise TypeError(f"key_mask must be a bool array, got {key_mask.dtype}")
        check_shape("key_mask", key_mask, (n, t_k), "n and t_k of k")
    if scale is None:
        return 1 / math.sqrt(d)
    if not (is_number(scale) and math.isfinite(scale)):
        raise ValueError(f"scale must be a finite number, got {scale!r}")
    return float(scale)
