"""The rungs of attention in CUDA: which file, which grid. ``device`` is a GPU or the emulator."""

from pathlib import Path
from typing import Any

import numpy as np

from .. import bfloat16
from ..backend import Array, is_cuda

RUNGS = {1: "1_naive.cu", 2: "2_online_softmax.cu", 3: "3_mma.cu"}
THREADS = 128  # of a block of rung 1
QUERIES = 64  # of a block of rung 2, one thread each, and of rung 3, 16 to a warp
LARGEST = 256  # head size of rung 3


def attention(
    device: Any, q: Array, k: Array, v: Array, *, causal: bool, key_mask: Array | None, scale: float, rung: int
) -> Array:
    """As ``attention.attention``, for contiguous float32 arrays on the device.

    Rung 3 rounds q, k and v to bfloat16, unless they are that already (uint16 arrays of the bits, see ``bfloat16``), and
    takes heads whose sizes are multiples of 8 up to 256; it raises ValueError for others.
    """
    n, heads, t_q, d = q.shape
    t_k, d_v = v.shape[2:]
    pairs, source = n * heads, Path(__file__).parent / RUNGS[rung]
    o = device.empty((n, heads, t_q, d_v), "float32")
    common = {"key_mask": key_mask, "heads": heads, "t_q": t_q, "t_k": t_k, "causal": causal}
    if rung == 1:
        s = device.empty((n, heads, t_q, t_k), "float32")

        def run(kernel: str, count: int, **arguments: Any) -> None:
            device.run(source, kernel, -(-count // THREADS), THREADS, {**common, "pairs": pairs, **arguments})

        run("scores", pairs * t_q * t_k, q=q, k=k, s=s, d=d, scale=scale)
        run("softmax", pairs * t_q, s=s)
        run("weighted_sum", pairs * t_q * d_v, p=s, v=v, o=o, d_v=d_v)
    elif rung == 3:
        _mma(device, source, q, k, v, o, {"scale": scale, **common})
    elif d_v:
        arguments = {"q": q, "k": k, "v": v, "o": o, "scale": scale, **common}
        blocks = pairs * -(-t_q // QUERIES)
        device.run(source, "attention", blocks, QUERIES, arguments, defines={"D": d, "D_V": d_v})
    return device.result(o, "o")


def _mma(device: Any, source: Path, q: Array, k: Array, v: Array, o: Array, common: dict[str, Any]) -> None:
    d, d_v = q.shape[3], v.shape[3]
    if d % 8 or d_v % 8 or not 8 <= d <= LARGEST or not 8 <= d_v <= LARGEST:
        raise ValueError(f"rung 3 takes heads of 8, 16, ... {LARGEST} numbers, got d = {d} and d_v = {d_v}")
    keys = 64 if max(d, d_v) <= 128 else 32  # of a tile: the registers for sums and scores must suffice
    defines = {"D": d, "D_V": d_v, "KEYS": keys}
    pitch, pitch_v = (-(-size // 16) * 16 + 8 for size in (d, d_v))
    shared_bytes = 2 * (QUERIES * pitch + 2 * keys * (pitch + pitch_v))
    blocks = q.shape[0] * q.shape[1] * -(-q.shape[2] // QUERIES)
    arguments = {"q": _bits(q), "k": _bits(k), "v": _bits(v), "o": o, **common}
    device.run(source, "attention", blocks, 32 * QUERIES // 16, arguments, shared_bytes=shared_bytes, defines=defines)


def _bits(x: Array) -> Array:
    """bfloat16 bits at an address that 16-byte copies can start from."""
    bits = x if x.dtype == np.uint16 else bfloat16.to_bits(x)
    return bits.copy() if is_cuda(bits) and bits.data.ptr % 16 else bits
