"""The rungs of attention in CUDA: which file, which grid. ``device`` is a GPU or the emulator."""

from pathlib import Path
from typing import Any

from ..backend import Array

RUNGS = {1: "1_naive.cu", 2: "2_online_softmax.cu"}
THREADS = 128  # of a block of rung 1
QUERIES = 64  # of a block of rung 2, one thread each


def attention(
    device: Any, q: Array, k: Array, v: Array, *, causal: bool, key_mask: Array | None, scale: float, rung: int
) -> Array:
    """As ``attention.attention``, for contiguous float32 arrays on the device."""
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
    elif d_v:
        arguments = {"q": q, "k": k, "v": v, "o": o, "scale": scale, **common}
        blocks = pairs * -(-t_q // QUERIES)
        device.run(source, "attention", blocks, QUERIES, arguments, defines={"D": d, "D_V": d_v})
    return device.result(o, "o")
