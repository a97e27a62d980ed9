"""The cross-entropy in CUDA: which file, which grid. ``device`` is a GPU or the emulator."""

from pathlib import Path
from typing import Any

from ..backend import Array, array_module
from ..checks import check_rung
from ..launch import fits_on_chip
from ..source import file_in

RUNGS = {1: "1_online.cu", 2: "2_on_chip.cu", 3: "3_cluster.cu"}
PER_THREAD = 8  # numbers of a row per thread, so a row gets a warp for each 32 times as many
CLUSTERS = (2, 4, 8)  # blocks that share a row
MOST_THREADS = 1024  # a long row is alone on its multiprocessor

HERE = Path(__file__).parent


def cross_entropy_forward(device: Any, logits: Array, targets: Array) -> tuple[Array, tuple[Array, Array]]:
    """As ``cross_entropy.cross_entropy_forward``, for contiguous float32 logits and int64 targets on the device."""
    m, k = logits.shape
    loss, largest, total = (device.empty((m,), "float32") for _ in range(3))
    arguments = {"x": logits, "targets": targets, "loss": loss, "largest": largest, "total": total, "k": k}
    _run(device, 1, "cross_entropy", m, k, arguments)
    return device.result(loss, "loss"), (device.result(largest, "largest"), device.result(total, "total"))


def cross_entropy_backward(device: Any, g: Array, logits: Array, targets: Array, saved: tuple[Array, Array]) -> Array:
    """As ``cross_entropy.cross_entropy_backward``."""
    m, k = logits.shape
    dx = device.empty((m, k), "float32")
    arguments = {"g": g, "x": logits, "targets": targets, "largest": saved[0], "total": saved[1], "dx": dx, "k": k}
    _run(device, 1, "cross_entropy_backward", m, k, arguments)
    return device.result(dx, "dlogits")


def can_foresee(device: Any, k: int) -> bool:
    """Whether rows of ``k`` classes fit on the chip."""
    return _blocks_of_a_row(device, k, rung=2) == 1


def foresee(device: Any, logits: Array, targets: Array) -> tuple[Array, Array]:
    """The loss of each row, and the gradient of the mean of all rows, with one read of the logits (rung 2)."""
    m = logits.shape[0]
    return loss_and_gradient(device, array_module(logits).full(m, 1 / m, "float32"), logits, targets, rung=2)


def rescale(device: Any, g: Array, foreseen: Array) -> Array:
    """The gradient of ``sum(g * loss)``, written over that of the mean. A row with ``g`` = 1 / m is not even read."""
    m, k = foreseen.shape
    _run(device, 2, "rescale", m, k, {"g": g, "foreseen": 1 / m, "dx": foreseen, "k": k})
    return foreseen


def loss_and_gradient(device: Any, g: Array, logits: Array, targets: Array, *, rung: int) -> tuple[Array, Array]:
    """The loss of each row, and the gradient of ``sum(g * loss)``.

    Rung 2 is taken for rows that fit on the chip, rung 3 for those that fit on it in a cluster of blocks, else rung 1.
    """
    check_rung(rung, RUNGS)
    m, k = logits.shape
    blocks = _blocks_of_a_row(device, k, rung)
    if not blocks:
        loss, saved = cross_entropy_forward(device, logits, targets)
        return loss, cross_entropy_backward(device, g, logits, targets, saved)
    loss, dx = device.empty((m,), "float32"), device.empty((m, k), "float32")
    arguments = {"g": g, "x": logits, "targets": targets, "loss": loss, "dx": dx, "k": k}
    part, defines = -(-k // blocks), {"BLOCKS": blocks} if rung == 3 else None
    _run(device, rung, "loss_and_gradient", m * blocks, part, arguments, 4 * part, defines)
    return device.result(loss, "loss"), device.result(dx, "dlogits")


def _blocks_of_a_row(device: Any, k: int, rung: int) -> int:
    """How many blocks keep a row in their shared memory, the fewest that the rung can take; 0 if none can."""
    clusters = CLUSTERS if int(device.architecture.rstrip("a")) >= 90 else ()
    return next((n for n in {1: (), 2: (1,), 3: clusters}[rung] if fits_on_chip(device, 4 * -(-k // n))), 0)


def _run(
    device: Any,
    rung: int,
    kernel: str,
    blocks: int,
    k: int,
    arguments: dict[str, Any],
    shared: int = 0,
    defines: dict[str, Any] | None = None,
) -> None:
    """With threads for ``k`` numbers of a row in each block."""
    threads = min(MOST_THREADS, 32 * -(-k // (32 * PER_THREAD)))
    device.run(file_in(HERE, RUNGS[rung]), kernel, blocks, threads, arguments, shared_bytes=shared, defines=defines)
