"""The rungs of attention in CUDA: which file, which grid, and which rung a problem takes.

``device`` is a GPU or the emulator.
"""

from pathlib import Path
from typing import Any

import numpy as np

from ..backend import Array
from ..checks import WrongSize, check_rung
from ..launch import fits_on_chip
from ..matmul.cuda import in_parts
from ..source import file_in
from ..tensor_map import TensorMap
from .cuda_backward import LARGEST_SPLIT, bits, check_heads, check_lengths, log_sums, pitch, rung_for

RUNGS = {1: "1_naive.cu", 2: "2_online_softmax.cu", 3: "3_mma.cu", 4: "4_wgmma.cu"}
FLOAT32_RUNGS = {1: RUNGS[1], 2: RUNGS[2], 3: "3_split.cu"}  # as exact as float32, or about
SHORT = {2: "2_short.cu", 3: "3_short.cu"}  # beside these rungs, for up to FEW keys that every query may see
FEW = 128
BUSY = 512  # with more blocks than this, a block of SHORT takes more queries instead
WARPS = {2: 4, 3: 8}  # of a block of SHORT
THREADS = 128  # of a block of rung 1
QUERIES = 64  # of a block of rung 2, one thread each, and of rung 3, 16 to a warp
WGMMA_QUERIES, WGMMA_STAGES, WGMMA_THREADS = 128, 2, 384  # of a block of rung 4

HERE = Path(__file__).parent


def best(
    device: Any,
    q: Array,
    k: Array,
    v: Array,
    *,
    causal: bool,
    key_mask: Array | None,
    scale: float,
    keep: bool = True,
    precision: str = "float32",
) -> tuple[Array, Array | None]:
    """As ``attention_forward``, by the best rung for this problem: exact ("float32") or with products of "bf16".

    Few keys, if none is hidden by ``causal`` and the chip has room for them and their values, have a path of their own.
    Otherwise it is the rung of ``rung_for``.
    """
    n_keys, d_v = v.shape[2:]
    how: dict[str, Any] = {"key_mask": key_mask, "scale": scale, "keep": keep}
    rung = 2 if precision == "float32" else 3
    if not causal and d_v and 0 < n_keys <= FEW and fits_on_chip(device, _short_bytes(rung, n_keys, q.shape[3], d_v)):
        return short_forward(device, q, k, v, **how, rung=rung)
    rung = rung_for(device, precision, q, v)
    return attention_forward(device, q, k, v, **how, causal=causal, rung=rung, precision=precision)


def attention(device: Any, q: Array, k: Array, v: Array, **settings: Any) -> Array:
    """``attention_forward`` without what gradients need."""
    return attention_forward(device, q, k, v, **settings, keep=False)[0]


def attention_forward(
    device: Any,
    q: Array,
    k: Array,
    v: Array,
    *,
    causal: bool,
    key_mask: Array | None,
    scale: float,
    rung: int,
    keep: bool = True,
    precision: str = "bf16",
) -> tuple[Array, Array | None]:
    """As ``attention.attention_forward``, for contiguous float32 arrays on the device: the output, and L if ``keep``.

    L (n, heads, t_q) is the logarithm of each query's sum of exp(score), which ``cuda_backward`` needs.
    Rungs 3 and 4 round q, k and v to bfloat16, unless they are that already (uint16 arrays of the bits, see
    ``bfloat16``), and take heads whose sizes are multiples of 8 up to 256; they raise ValueError for others. With the
    ``precision`` "float32" rung 3 takes three bfloat16 numbers for each and heads up to 128, and there is no rung 4.
    """
    check_rung(rung, FLOAT32_RUNGS if precision == "float32" else RUNGS)
    n, heads, t_q, d = q.shape
    t_k, d_v = v.shape[2:]
    pairs, source = n * heads, file_in(HERE, RUNGS[rung])
    check_lengths(t_q, t_k)
    o = device.empty((n, heads, t_q, d_v), "float32")
    log_sum = device.empty((n, heads, t_q), "float32") if keep else None
    common = {"key_mask": key_mask, "heads": heads, "t_q": t_q, "t_k": t_k, "causal": causal}
    if rung == 1:
        s = device.empty((n, heads, t_q, t_k), "float32")

        def run(kernel: str, count: int, **arguments: Any) -> None:
            device.run(source, kernel, -(-count // THREADS), THREADS, {**common, "pairs": pairs, **arguments})

        run("scores", pairs * t_q * t_k, q=q, k=k, s=s, d=d, scale=scale)
        run("softmax", pairs * t_q, s=s, log_sum=log_sum)
        run("weighted_sum", pairs * t_q * d_v, p=s, v=v, o=o, d_v=d_v)
    elif rung == 3 and precision == "float32":
        check_heads(rung, d, d_v, LARGEST_SPLIT)
        _split(device, q, k, v, {"o": o, "log_sum": log_sum, "scale": scale, **common, "pairs": pairs})
    elif rung >= 3:
        check_heads(rung, d, d_v)
        # Rung 3 does what rung 4 cannot: TMA has no map of an empty array, and a hidden score is -inf times scale,
        # NaN where scale is 0.
        launch = _wgmma if rung == 4 and o.size and t_k and scale else _mma
        launch(device, q, k, v, {"o": o, "log_sum": log_sum, "scale": scale, **common})
    elif d_v:
        arguments = {"q": q, "k": k, "v": v, "o": o, "log_sum": log_sum, "scale": scale, **common}
        blocks = pairs * -(-t_q // QUERIES)
        device.run(source, "attention", blocks, QUERIES, arguments, defines={"D": d, "D_V": d_v})
    elif keep:
        log_sum = log_sums(device, q, k, causal=causal, key_mask=key_mask, scale=scale)
    return device.result(o, "o"), None if log_sum is None else device.result(log_sum, "log_sum")


def short_forward(
    device: Any,
    q: Array,
    k: Array,
    v: Array,
    *,
    key_mask: Array | None,
    scale: float,
    rung: int,
    keep: bool = True,
    rounded: bool = False,
) -> tuple[Array, Array | None]:
    """``attention_forward`` by the files of ``SHORT``: 1 to ``FEW`` keys, not causal.

    With ``rounded``, rung 3 gives the output in bfloat16 (its bits), half as much to write.
    """
    check_rung(rung, SHORT)
    n, heads, t_q, d = q.shape
    t_k, d_v = v.shape[2:]
    if not 0 < t_k <= FEW:
        raise WrongSize(f"{SHORT[rung]} takes 1 to {FEW} keys, got {t_k}")
    check_lengths(t_q, t_k)
    if rung == 3:
        check_heads(rung, d, d_v)
        q, k, v = bits(device, q), bits(device, k), bits(device, v)
    elif rounded:
        raise ValueError(f"{SHORT[rung]} computes in float32 alone")
    o = device.empty((n, heads, t_q, d_v), "uint16" if rounded else "float32")
    log_sum = device.empty((n, heads, t_q), "float32") if keep else None
    warps = WARPS[rung]
    times = max(1, min(64 // warps, n * heads * -(-t_q // (16 * warps)) // BUSY))  # 16 queries for each warp
    arguments = {"q": q, "k": k, "v": v, "key_mask": key_mask, "log_sum": log_sum, "heads": heads}
    arguments |= {"t_q": t_q, "t_k": t_k, "tiles": warps * times, "scale": scale}
    arguments |= {"o": None if rounded else o, "bits": o if rounded else None} if rung == 3 else {"o": o}
    defines = {"D": d, "D_V": d_v, "KEYS": -(-t_k // 16) * 16}
    blocks, shared_bytes = n * heads * -(-t_q // (16 * warps * times)), _short_bytes(rung, t_k, d, d_v)
    source = file_in(HERE, SHORT[rung])
    device.run(source, "attention", blocks, 32 * warps, arguments, shared_bytes=shared_bytes, defines=defines)
    return device.result(o, "o"), None if log_sum is None else device.result(log_sum, "log_sum")


def _short_bytes(rung: int, t_k: int, d: int, d_v: int) -> int:
    """Shared memory of a block of ``SHORT``: the keys, the values, and for rung 2 the queries of its warps."""
    keys = -(-t_k // 16) * 16
    if rung == 3:
        return 2 * keys * sum(-(-size // 32) * 32 + 8 for size in (d, d_v))
    pitch = (-(-d // 4) | 1) * 4
    row = (-(-max(pitch, keys) // 16) | 1) * 16
    return 4 * (keys * (pitch + -(-d_v // 64) * 64) + 64 * row)


def _mma(device: Any, q: Array, k: Array, v: Array, arguments: dict[str, Any]) -> None:
    d, d_v = q.shape[3], v.shape[3]
    keys = 64 if max(d, d_v) <= 128 else 32  # of a tile: the registers for sums and scores must suffice
    defines = {"D": d, "D_V": d_v, "KEYS": keys}
    shared_bytes = 2 * (QUERIES * pitch(d) + 2 * keys * (pitch(d) + pitch(d_v)))
    blocks = q.shape[0] * q.shape[1] * -(-q.shape[2] // QUERIES)
    arguments = {"q": bits(device, q), "k": bits(device, k), "v": bits(device, v), **arguments}
    source, threads = file_in(HERE, RUNGS[3]), 32 * QUERIES // 16
    device.run(source, "attention", blocks, threads, arguments, shared_bytes=shared_bytes, defines=defines)


def _split(device: Any, q: Array, k: Array, v: Array, arguments: dict[str, Any]) -> None:
    d, d_v = q.shape[3], v.shape[3]
    keys = 16 if max(d, d_v) > 64 else 32  # of a tile
    shared_bytes = 2 * 3 * (QUERIES * pitch(d) + 2 * keys * (pitch(d) + pitch(d_v)))
    blocks = q.shape[0] * q.shape[1] * -(-q.shape[2] // QUERIES)
    arguments |= {name: in_parts(device, x) for name, x in (("q", q), ("k", k), ("v", v))}
    source, how = file_in(HERE, FLOAT32_RUNGS[3]), {"shared_bytes": shared_bytes, "defines": {"D": d, "D_V": d_v}}
    device.run(source, "attention_float32", blocks, 32 * QUERIES // 16, arguments, **how)


def _wgmma(device: Any, q: Array, k: Array, v: Array, arguments: dict[str, Any]) -> None:
    d, d_v = q.shape[3], v.shape[3]
    keys = 128 if max(d, d_v) <= 128 else 64  # of a tile, as in rung 3
    panels, panels_v = -(-d // 64), -(-d_v // 64)
    numbers = 64 * (panels * WGMMA_QUERIES + WGMMA_STAGES * keys * (panels + panels_v))
    arrays = {"q": bits(device, q), "k": bits(device, k), "v": bits(device, v)}
    if arguments["scale"] < 0:  # the kernel's must be positive
        arrays["q"], arguments["scale"] = arrays["q"] ^ np.uint16(0x8000), -arguments["scale"]
    for (name, x), rows in zip(tuple(arrays.items()), (WGMMA_QUERIES, keys, keys), strict=True):
        arrays[f"{name}_map"] = TensorMap(x.reshape(-1, *x.shape[2:]), (1, rows, 64), swizzle=128)
    blocks = q.shape[0] * q.shape[1] * -(-q.shape[2] // WGMMA_QUERIES)
    source, defines = file_in(HERE, RUNGS[4]), {"D": d, "D_V": d_v, "KEYS": keys}
    arguments = {**arrays, **arguments}
    device.run(source, "attention", blocks, WGMMA_THREADS, arguments, shared_bytes=2 * numbers, defines=defines)
