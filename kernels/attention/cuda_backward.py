"""The rungs of attention's gradients in CUDA: which file, which grid. ``device`` is a GPU or the emulator."""

from pathlib import Path
from typing import Any

from ..backend import Array

RUNGS = {1: "1_naive_backward.cu", 2: "2_recomputed_backward.cu"}
THREADS = 128  # of a block

HERE = Path(__file__).parent


def log_sums(device: Any, q: Array, k: Array, *, causal: bool, key_mask: Array | None, scale: float) -> Array:
    """L (n, heads, t_q), the logarithm of each query's sum of exp(score), for a forward pass that has not kept it."""
    n, heads, t_q, d = q.shape
    log_sum = device.empty((n, heads, t_q), "float32")
    arguments = {"q": q, "k": k, "key_mask": key_mask, "log_sum": log_sum, "pairs": n * heads, "heads": heads}
    arguments |= {"t_q": t_q, "t_k": k.shape[2], "d": d, "scale": scale, "causal": causal}
    device.run(HERE / RUNGS[1], "log_sums", -(-log_sum.size // THREADS), THREADS, arguments)
    return device.result(log_sum, "log_sum")


def attention_backward(
    device: Any,
    g: Array,
    q: Array,
    k: Array,
    v: Array,
    o: Array,
    log_sum: Array,
    *,
    causal: bool,
    key_mask: Array | None,
    scale: float,
    rung: int,
) -> tuple[Array, Array, Array]:
    """(dq, dk, dv) as ``attention.attention_backward``, for contiguous float32 arrays on the device.

    ``o`` and ``log_sum``, L (n, heads, t_q), are what the forward pass has kept. Keys that are hidden never matter.
    """
    n, heads, t_q, d = q.shape
    t_k, d_v = v.shape[2:]
    pairs = n * heads
    dq, dk, dv = (device.empty(x.shape, "float32") for x in (q, k, v))
    delta = device.empty((n, heads, t_q), "float32")
    inputs = {"q": q, "k": k, "v": v, "g": g, "log_sum": log_sum, "delta": delta}
    common = {"key_mask": key_mask, "heads": heads, "t_q": t_q, "t_k": t_k, "causal": causal}
    source = HERE / RUNGS[rung]
    if rung == 1 or d_v == 0:
        source = HERE / RUNGS[1]

        def run(kernel: str, count: int, **arguments: Any) -> None:
            device.run(source, kernel, -(-count // THREADS), THREADS, {**arguments, **common, "pairs": pairs})

        p, ds = (device.empty((n, heads, t_q, t_k), "float32") for _ in range(2))
        deltas = {"g": g, "o": o, "delta": delta, "rows": delta.size, "d_v": d_v}
        device.run(source, "deltas", -(-delta.size // THREADS), THREADS, deltas)
        run("weights", p.size, **inputs, p=p, ds=ds, d=d, d_v=d_v, scale=scale)
        run("over_keys", dq.size, weight=ds, x=k, result=dq, d=d, factor=scale)
        run("over_queries", dk.size, weight=ds, x=q, result=dk, d=d, factor=scale)
        run("over_queries", dv.size, weight=p, x=g, result=dv, d=d_v, factor=1.0)
    else:
        defines = {"D": d, "D_V": d_v}
        rows = THREADS // (8 if max(d, d_v) > 128 else 4)  # queries, or keys, of a block
        deltas = {"g": g, "o": o, "delta": delta, "rows": delta.size}
        device.run(source, "deltas", -(-delta.size // (THREADS // 32)), THREADS, deltas, defines=defines)
        arguments = {**inputs, **common, "scale": scale}
        device.run(source, "grad_q", pairs * -(-t_q // rows), THREADS, {**arguments, "dq": dq}, defines=defines)
        arguments |= {"dk": dk, "dv": dv}
        device.run(source, "grad_kv", pairs * -(-t_k // rows), THREADS, arguments, defines=defines)
    return device.result(dq, "dq"), device.result(dk, "dk"), device.result(dv, "dv")
