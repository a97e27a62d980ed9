"""The codebook's moving average in CUDA: which file, which grid. ``device`` is a GPU or the emulator."""

from pathlib import Path
from typing import Any

from ..backend import Array
from ..embedding import cuda as embedding_cuda
from ..source import file_in

RUNGS = {1: "1_segments.cu"}
THREADS = 128

HERE = Path(__file__).parent


def codebook_ema(
    device: Any, N: Array, m: Array, e: Array, z: Array, codes: Array, gamma: float
) -> tuple[Array, Array, Array]:
    """As ``codebook.codebook_ema``, for contiguous float32 arrays and int32 codes on the device."""
    k, d = e.shape
    segments = embedding_cuda.sort(device, codes, k)
    total = embedding_cuda.sums(device, z, segments)
    new = [device.empty(x.shape, "float32") for x in (N, m, e)]
    arguments = {"start": segments.start, "total": total, "old_N": N, "old_m": m, "old_e": e, "count": e.size, "d": d}
    arguments |= {"N": new[0], "m": new[1], "e": new[2], "gamma": gamma, "rest": 1 - gamma}
    device.run(file_in(HERE, RUNGS[1]), "moving_average", -(-e.size // THREADS), THREADS, arguments)
    return device.result(new[0], "N"), device.result(new[1], "m"), device.result(new[2], "e")
