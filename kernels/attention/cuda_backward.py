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
FLOAT32_RUNGS = {1: RUNGS[1], 2: RUNGS[2], 3: "3_split_backward.cu"}  # as exact as float32, or about
THREADS = 128  # of a block

HERE = Path(__file__).parent

LARGEST = 256  # head size of the rungs in bfloat16
LARGEST_SPLIT = 128  # of those in three bfloat16 numbers for each of float32


def precision_for(device: Any, d: int, d_v: int) -> str:
    """The ``precision`` in force, where there is a rung for heads of these sizes: "bf16", or else "float32"."""
    return "bf16" if matmul.by_precision(device) == "bf16" and _takes(LARGEST, d, d_v) else "float32"


def rung_for(device: Any, precision: str, q: Array, v: Array) -> int:
    """The last rung in this ``precision`` that pays for attention of q (n, heads, t_q, d) to v (n, heads, t_k, d_v)."""
    if precision == "bf16":
        return matmul.last_rung(device)
    multiplications = q.size * v.shape[2] + v.size * q.shape[2]
    pays = device.architecture in matmul.SPLIT_PAYS and multiplications >= matmul.SPLIT_FROM
    return 3 if pays and _takes(LARGEST_SPLIT, q.shape[3], v.shape[3]) else 2


def _takes(largest: int, *sizes: int) -> bool:
    return all(size % 8 == 0 < size <= largest for size in sizes)


def check_heads(rung: int, d: int, d_v: int, largest: int = LARGEST) -> None:
    """Raise WrongSize for head sizes that the rungs for tensor cores do not take."""
    if not _takes(largest, d, d_v):
        raise WrongSize(f"rung {rung} takes heads of 8, 16, ... {largest} numbers, got d = {d} and d_v = {d_v}")


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
    precision: str = "bf16",
) -> tuple[Array, Array, Array]:
    """(dq, dk, dv) as ``attention.attention_backward``, for contiguous float32 arrays on the device.

    ``o`` and ``log_sum``, L (n, heads, t_q), are what the forward pass has kept. Keys that are hidden never matter.
    Rungs 3 and 4 round g, q, k and v to bfloat16, or take their bits; their head sizes are those of the forward pass.
    With the ``precision`` "float32" rung 3 takes three bfloat16 numbers for each, and there is no rung 4.
    """
    split = precision == "float32" and rung > 2
    check_rung(rung, FLOAT32_RUNGS if precision == "float32" else RUNGS)
    n, heads, t_q, d = q.shape
    t_k, d_v = v.shape[2:]
    pairs = n * heads
    check_lengths(t_q, t_k)
    dq, dk, dv = (device.empty(x.shape, "float32") for x in (q, k, v))
    delta = device.empty((n, heads, t_q), "float32")
    if split:
        check_heads(rung, d, d_v, LARGEST_SPLIT)
    elif rung >= 3:
        check_heads(rung, d, d_v)
        g, q, k, v = (bits(device, x) for x in (g, q, k, v))
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
            how = {"shared_bytes": 2 * sum(map(pitch, (d, d_v))) * (rows + 2 * (16 if large else 32))}
        deltas = {"g": g, "o": o, "delta": delta, "rows": delta.size}
        of_deltas = file_in(HERE, RUNGS[2 if split else min(rung, 3)])
        device.run(of_deltas, "deltas", -(-delta.size // (THREADS // 32)), THREADS, deltas, defines=defines)
        arguments = {**inputs, **common, "scale": scale}
        if split:
            _by_parts(device, arguments, {"dq": dq, "dk": dk, "dv": dv}, pairs)
            return device.result(dq, "dq"), device.result(dk, "dk"), device.result(dv, "dv")
        blocks = pairs * -(-t_q // rows)
        device.run(source, "grad_q", blocks, threads, {**arguments, "dq": dq}, defines=defines, **how)
        arguments |= {"dk": dk, "dv": dv}
        device.run(source, "grad_kv", pairs * -(-t_k // rows) * parts, threads, arguments, defines=defines, **how)
    return device.result(dq, "dq"), device.result(dk, "dk"), device.result(dv, "dv")


def _by_parts(device: Any, arguments: dict[str, Any], gradients: dict[str, Array], pairs: int) -> None:
    """The gradients by rung 3 for float32."""
    d, d_v = (arguments[name].shape[3] for name in ("q", "v"))
    source, rows, step = file_in(HERE, FLOAT32_RUNGS[3]), 64, 16 if max(d, d_v) > 64 else 32
    how = {"shared_bytes": 2 * 3 * sum(map(pitch, (d, d_v))) * (rows + 2 * step), "defines": {"D": d, "D_V": d_v}}
    arguments = {**arguments, "pairs": pairs}
    for name in ("q", "k", "v", "g"):
        arguments[name] = matmul.in_parts(device, arguments[name])
    for name, gradient in gradients.items():
        blocks = pairs * -(-gradient.shape[2] // rows)
        device.run(source, f"grad_{name[1]}_float32", blocks, 2 * rows, {**arguments, name: gradient}, **how)


def pitch(size: int) -> int:
    """From row to row of tiles in shared memory: an odd number of pieces of 8 numbers, so that 8 rows meet in no bank."""
    return -(-size // 16) * 16 + 8
