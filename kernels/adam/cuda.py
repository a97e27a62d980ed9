"""Adam in CUDA: which file, which grid. ``device`` is a GPU or the emulator."""

from pathlib import Path
from typing import Any

from ..backend import Array
from ..source import file_in

RUNGS = {1: "1_fours.cu"}
PER_BLOCK = 4 * 256

HERE = Path(__file__).parent


def adam_step(
    device: Any,
    p: Array,
    g: Array,
    m: Array,
    v: Array,
    *,
    step: int,
    lr: float,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
) -> None:
    """As ``adam.adam_step``, in place on contiguous float32 arrays on the device."""
    unbiased = (1 - beta2**step) ** 0.5
    rate, floor = lr * unbiased / (1 - beta1**step), eps * unbiased
    numbers = {"rate": rate, "floor": floor, "keep": 1 - lr * weight_decay}
    numbers |= {"beta1": beta1, "rest1": 1 - beta1, "beta2": beta2, "rest2": 1 - beta2}
    arguments = {"p": p, "g": g, "m": m, "v": v, "n": p.size, **numbers}
    device.run(file_in(HERE, RUNGS[1]), "adam_step", -(-p.size // PER_BLOCK), 256, arguments)
