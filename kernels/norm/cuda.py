"""The norms in CUDA: which file, which grid. ``device`` is a GPU or the emulator.

The functions have the contract of ``norm``'s, for contiguous float32 arrays on the device; ``x`` is (n, pixels, c) for
group norm and (rows, c) for layer norm. ``saved`` holds three numbers for each group or row.
"""

from pathlib import Path
from typing import Any

from ..backend import Array
from ..checks import check_rung
from ..launch import fits_on_chip
from ..source import file_in

RUNGS = {1: "1_group_norm.cu", 2: "2_group_norm_on_chip.cu"}
THREADS = 256
MANY = 1024  # for groups so large that a multiprocessor has room for few
LARGE = 48 << 10  # bytes of such a group
SLICE = 256  # pixels, or rows, that one block adds up before the slices are added in their order
PER = 8  # numbers of a row in a thread's registers; layer norm
WARPS = 32  # at most, for a row

HERE = Path(__file__).parent


def group_norm_forward(
    device: Any, x: Array, gamma: Array, beta: Array, groups: int, *, eps: float, silu: bool, rung: int
) -> tuple[Array, Array]:
    """(y, saved). Rung 2 is taken for groups that fit on the chip, else rung 1."""
    check_rung(rung, RUNGS)
    n, pixels, c = x.shape
    y, saved = device.empty(x.shape, "float32"), device.empty((n, groups, 3), "float32")
    slab = pixels * (c // groups) * 4
    file, shared = (RUNGS[2], slab) if rung == 2 and fits_on_chip(device, slab) else (RUNGS[1], 0)
    if x.size:
        arguments = {"x": x, "gamma": gamma, "beta": beta, "y": y, "statistics": saved, "eps": eps}
        arguments |= _settings(x, gamma, beta, groups, silu)
        _run_groups(device, file, "group_norm", n * groups, shared, arguments)
        device.result(saved, "saved")
    return device.result(y, "y"), saved


def group_norm_backward(
    device: Any, g: Array, x: Array, gamma: Array, beta: Array, saved: Array, groups: int, *, silu: bool, rung: int
) -> tuple[Array, Array, Array]:
    """(dx, dgamma, dbeta). Rung 2 is taken for groups of which two fit on the chip, else rung 1."""
    check_rung(rung, RUNGS)
    n, pixels, c = x.shape
    dx, sums = device.empty(x.shape, "float32"), device.empty((n, 1, 2, c), "float32")
    if x.size == 0:
        return dx, _zeros(device, gamma.shape), _zeros(device, beta.shape)
    arguments = {"g": g, "x": x, "gamma": gamma, "beta": beta, "statistics": saved}
    arguments |= _settings(x, gamma, beta, groups, silu)
    slabs = 2 * pixels * (c // groups) * 4
    file, shared = (RUNGS[2], slabs) if rung == 2 and fits_on_chip(device, slabs) else (RUNGS[1], 0)
    if file == RUNGS[1]:
        slices = max(1, pixels // SLICE)
        parts, blocks = device.empty((n, slices, 2, c), "float32"), n * slices * -(-c // 32)
        device.run(_file(file), "channel_sums", blocks, THREADS, {**arguments, "sums": parts, "slices": slices})
        _add_slices(device, parts, sums, slices)
    arguments |= {"sums": sums, "dx": dx}
    _run_groups(device, file, "group_norm_backward", n * groups, shared, arguments)
    total = device.result(sums, "the sums")
    if 1 in (gamma.ndim, beta.ndim):
        total = device.empty((1, 2, c), "float32")
        _add_slices(device, sums, total, n)
    dbeta, dgamma = (
        total.reshape(2, c)[k] if p.ndim == 1 else sums.reshape(n, 2, c)[:, k] for k, p in ((0, beta), (1, gamma))
    )
    return device.result(dx, "dx"), dgamma, dbeta


def layer_norm_forward(device: Any, x: Array, gamma: Array, beta: Array, *, eps: float) -> tuple[Array, Array]:
    """(y, saved)."""
    rows, c = x.shape
    sizes = _row_sizes(c)
    if sizes is None:
        y, saved = group_norm_forward(device, x.reshape(rows, 1, c), gamma, beta, 1, eps=eps, silu=False, rung=2)
        return y.reshape(rows, c), saved.reshape(rows, 3)
    y, saved = device.empty(x.shape, "float32"), device.empty((rows, 3), "float32")
    arguments = {"x": x, "gamma": gamma, "beta": beta, "y": y, "statistics": saved, "rows": rows, "c": c, "eps": eps}
    _run_rows(device, "layer_norm", rows, sizes, arguments)
    return device.result(y, "y"), device.result(saved, "saved")


def layer_norm_backward(device: Any, g: Array, x: Array, gamma: Array, saved: Array) -> tuple[Array, Array, Array]:
    """(dx, dgamma, dbeta)."""
    rows, c = x.shape
    sizes = _row_sizes(c)
    if sizes is None:
        shape, beta = (rows, 1, c), gamma  # without SiLU, beta plays no part
        dx, dgamma, dbeta = group_norm_backward(
            device, g.reshape(shape), x.reshape(shape), gamma, beta, saved, 1, silu=False, rung=2
        )
        return dx.reshape(rows, c), dgamma, dbeta
    dx, sums = device.empty(x.shape, "float32"), device.empty((1, 2, c), "float32")
    if rows == 0:
        return dx, _zeros(device, (c,)), _zeros(device, (c,))
    arguments = {"g": g, "x": x, "statistics": saved, "rows": rows, "c": c}
    _run_rows(device, "layer_norm_backward", rows, sizes, {**arguments, "gamma": gamma, "dx": dx})
    slices = max(1, rows // SLICE)
    parts = device.empty((1, slices, 2, c), "float32")
    blocks, defines = slices * -(-c // 32), dict(zip(("PER", "WARPS"), sizes))
    arguments |= {"sums": parts, "slices": slices}
    device.run(_file("layer_norm.cu"), "column_sums", blocks, THREADS, arguments, defines=defines)
    _add_slices(device, parts, sums, slices)
    return device.result(dx, "dx"), sums[0, 1], sums[0, 0]


def _row_sizes(c: int) -> tuple[int, int] | None:
    """(PER, WARPS) for a row of c numbers, or None if registers cannot hold it."""
    warps = 1
    while 32 * PER * warps < c:
        warps *= 2
    if warps > WARPS:
        return None
    per = 1
    while 32 * per * warps < c:
        per *= 2
    return per, warps


def _run_rows(device: Any, kernel: str, rows: int, sizes: tuple[int, int], arguments: dict[str, Any]) -> None:
    per, warps = sizes
    together = 8 if warps == 1 else 1  # rows of a block
    threads = (32 * warps, together)
    defines = {"PER": per, "WARPS": warps}
    device.run(_file("layer_norm.cu"), kernel, -(-rows // together), threads, arguments, defines=defines)


def _run_groups(device: Any, file: str, kernel: str, blocks: int, shared: int, arguments: dict[str, Any]) -> None:
    """A block for each group, of more threads if it is large."""
    threads = MANY if shared > LARGE else THREADS
    defines = {"THREADS": threads} if threads != THREADS else None
    device.run(_file(file), kernel, blocks, threads, arguments, shared_bytes=shared, defines=defines)


def _add_slices(device: Any, x: Array, y: Array, slices: int) -> None:
    inner = y.shape[-1] * y.shape[-2]
    outer = x.size // (slices * inner)
    arguments = {"x": x, "y": y, "outer": outer, "slices": slices, "inner": inner}
    device.run(_file(RUNGS[1]), "add_slices", -(-outer * inner // THREADS), THREADS, arguments)
    device.result(y, "the sums")


def _settings(x: Array, gamma: Array, beta: Array, groups: int, silu: bool) -> dict[str, Any]:
    own = {"own_gamma": gamma.ndim == 2, "own_beta": beta.ndim == 2}
    return {"pixels": x.shape[1], "c": x.shape[2], "groups": groups, "with_silu": silu, **own}


def _zeros(device: Any, shape: tuple[int, ...]) -> Array:
    zeros = device.empty(shape, "float32")
    zeros[...] = 0
    return zeros


def _file(name: str) -> Path:
    return file_in(HERE, name)
