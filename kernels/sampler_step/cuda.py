"""The sampler step in CUDA: which file, which grid. ``device`` is a GPU or the emulator."""

import math
from pathlib import Path
from typing import Any

from ..backend import Array
from ..random import Stream, check_counters
from ..random.cuda import signed
from ..source import file_in
from . import Plan

RUNGS = {1: "1_fused.cu"}
THREADS = 128

HERE = Path(__file__).parent


def ddim_step(
    device: Any,
    x_t: Array,
    conditional: Array,
    unconditional: Array | None,
    scales: Array,
    plan: Plan,
    *,
    clip: float | None = None,
    noise: Array | Stream | None = None,
    guess: bool = True,
) -> tuple[Array, Array | None]:
    """As ``reference.step``, for contiguous float32 arrays on the device. A ``Stream`` draws inside the kernel and moves on.

    Without ``guess`` the guess of x_0 is not written and None is returned for it.
    """
    x_u = device.empty(x_t.shape, "float32")
    x_0 = device.empty(x_t.shape, "float32") if guess else None
    draws = isinstance(noise, Stream)
    stream = noise if isinstance(noise, Stream) else Stream(0)
    n, per_sample = x_t.shape[0], math.prod(x_t.shape[1:])
    if draws and plan.x_u[2]:
        check_counters(x_t.shape, stream.first, n, -(-per_sample // 4))
    names = ("x0_x", "x0_o", "e_x", "e_o", "again_x", "again_0", "to_0", "to_e", "sigma")
    arguments: dict[str, Any] = dict(zip(names, (*plan.x_0, *plan.eps, *plan.again, *plan.x_u)))
    arguments |= {"x_t": x_t, "conditional": conditional, "unconditional": unconditional, "scales": scales}
    arguments |= {"noise": None if draws else noise, "x_u": x_u, "x_0": x_0, "n": n, "per_sample": per_sample}
    arguments |= {"clip": clip or 0.0, "draws": draws, "seed": signed(stream.seed), "first": stream.first}
    arguments |= {"step": stream.step, "purpose": stream.purpose}
    blocks = -(-n * -(-per_sample // 4) // THREADS)
    device.run(file_in(HERE, RUNGS[1]), "ddim_step", blocks, THREADS, arguments)
    if draws and plan.x_u[2]:
        stream.step += 1
    return device.result(x_u, "x_u"), x_0 if x_0 is None else device.result(x_0, "x_0")
