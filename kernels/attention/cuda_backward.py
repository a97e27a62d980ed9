"""The rungs of attention's gradients in CUDA: which file, which grid. ``device`` is a GPU or the emulator."""

from pathlib import Path
from typing import Any

from ..backend import Array, is_cuda
from ..checks import WrongSize, check_rung
from ..matmul import cuda as matmul
from ..source import file_in
from ..tensor_map import MOST, TensorMap

RUNGS = {
    1: "1_naive_backward.cu",
    2: "2_recomputed_backward.cu",
    3: "3_mma_backward.cu",
    4: "4_wgmma_backward.cu",
}
THREADS = 128  # of a block

HERE = Path(__file__).parent

LARGEST = 256  # head size of the rungs in bfloat16


def rung_by_precision(device: Any, d: int, d_v: int) -> int:
    """The rung for heads of these sizes and the ``precision`` in force: 2, which is exact, or the last in bfloat16."""
    in_bf16 = matmul.by_precision(device) == "bf16" and _takes(d) and _takes(d_v)
    return matmul.last_rung(device) if in_bf16 else 2


def _takes(size: int) -> bool:
    return size % 8 == 0 < size <= LARGEST


def check_heads(rung: int, d: int, d_v: int) -> None:
    """Raise WrongSize for head sizes that the rungs in bfloat16 do not take."""
    if not (_takes(d) and _takes(d_v)):
        raise WrongSize(f"rung {rung} takes heads of 8, 16, ... {LARGEST} numbers, got d = {d} and d_v = {d_v}")


def check_lengths(t_q: int, t_k: int) -> None:
    """Raise WrongSize if a kernel's int would not hold the number of queries and keys together."""
    if t_q + t_k > MOST:
        raise WrongSize(f"t_q + t_k must be at most {MOST}, got t_q = {t_q} and t_k = {t_k}")


def bits(device: Any, x: Array) -> Array:
    """bfloat16 bits at an address that 16-byte copies can start from."""
    x = matmul.as_bf16(device, x)
    return x.copy() if is_cuda(x) and x.data.ptr % 16 else x


def log_sums(device: Any, q: Array, k: Array, *, causal: bool, key_mask: Array | None, scale: float) -> Array:
    """L (n, heads, t_q), the logarithm of each query's sum of exp(score), for a forward pass that has not kept it."""
    n, heads, t_q, d = q.shape
    check_lengths(t_q, k.shape[2])
    log_sum = device.empty((n, heads, t_q), "float32")
    arguments = {"q": q, "k": k, "key_mask": key_mask, "log_sum": log_sum, "pairs": n * heads, "heads": heads}
    arguments |= {"t_q": t_q, "t_k": k.shape[2], "d": d, "scale": scale, "causal": causal}
    device.run(file_in(HERE, RUNGS[1]), "log_sums", -(-log_sum.size // THREADS), THREADS, arguments)
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
    Rungs 3 and 4 round g, q, k and v to bfloat16, or take their bits; their head sizes are those of the forward pass.
    """
    check_rung(rung, RUNGS)
    n, heads, t_q, d = q.shape
    t_k, d_v = v.shape[2:]
    pairs = n * heads
    check_lengths(t_q, t_k)
    if rung >= 3:
        check_heads(rung, d, d_v)
        g, q, k, v = (bits(device, x) for x in (g, q, k, v))
    dq, dk, dv = (device.empty(x.shape, "float32") for x in (q, k, v))
    delta = device.empty((n, heads, t_q), "float32")
    inputs = {"q": q, "k": k, "v": v, "g": g, "log_sum": log_sum, "delta": delta}
    common = {"key_mask": key_mask, "heads": heads, "t_q": t_q, "t_k": t_k, "causal": causal}
    if rung == 4 and (max(d, d_v) > 128 or not q.size or not k.size):
        rung = 3  # there are no registers for the sums of larger heads, and TMA has no map of an empty array
    source = file_in(HERE, RUNGS[rung])
    if rung == 1 or d_v == 0:
        source = file_in(HERE, RUNGS[1])

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
        defines, large = {"D": d, "D_V": d_v}, max(d, d_v) > 128
        if rung == 2:  # threads and rows, queries or keys, of a block; blocks that share the columns of dk and dv
            threads, rows, parts, how = THREADS, THREADS // (8 if large else 4), 1, {}
        elif rung == 4:
            maps = {f"{name}_map": TensorMap(inputs[name].reshape(pairs, -1, size), (1, 64, 64), swizzle=128)
                    for name, size in (("q", d), ("k", d), ("v", d_v), ("g", d_v))}  # fmt: skip
            inputs |= maps
            threads, rows, parts = 384, 128, 1
            how = {"shared_bytes": 2 * 64 * (-(-d // 64) + -(-d_v // 64)) * (rows + 2 * 64)}
        else:
            threads, rows, parts = (64, 32, 2) if large else (128, 64, 1)
            pitches = sum(-(-size // 16) * 16 + 8 for size in (d, d_v))
            how = {"shared_bytes": 2 * pitches * (rows + 2 * (16 if large else 32))}
        deltas = {"g": g, "o": o, "delta": delta, "rows": delta.size}
        of_deltas = file_in(HERE, RUNGS[min(rung, 3)])
        device.run(of_deltas, "deltas", -(-delta.size // (THREADS // 32)), THREADS, deltas, defines=defines)
        arguments = {**inputs, **common, "scale": scale}
        blocks = pairs * -(-t_q // rows)
        device.run(source, "grad_q", blocks, threads, {**arguments, "dq": dq}, defines=defines, **how)
        arguments |= {"dk": dk, "dv": dv}
        device.run(source, "grad_kv", pairs * -(-t_k // rows) * parts, threads, arguments, defines=defines, **how)
    return device.result(dq, "dq"), device.result(dk, "dk"), device.result(dv, "dv")
