"""Mistakes in lib/ring.cuh, whose places producers fill and consumers read: each is found in every kernel that has them."""

import numpy as np
import pytest
from attending import operands, outputs
from attending import problem as gradients
from convolutions import Convolution
from emulation import Mistaken
from nearest import problem as nearest
from rungs import needs_compiler

from kernels.attention import cuda as attention
from kernels.attention import cuda_backward as attention_backward
from kernels.conv2d import cuda as conv2d
from kernels.emulator import Emulator
from kernels.matmul import cuda as matmul
from kernels.quantize import cuda as quantize
from kernels.source import ROOT

FULL = "mbarrier_wait(&full[turn.place], turn.parity);"
EMPTY = "mbarrier_wait(&empty[turn.place], turn.parity ^ 1);"
MISTAKES = {  # what is changed into what, and what must be found
    "nobody waits for full": (FULL, "", "race"),
    "full in the round before": (FULL, FULL.replace("parity)", "parity ^ 1)"), "race"),
    "nobody waits for empty": (EMPTY, "", "bad operand"),
    "empty in this round": (EMPTY, EMPTY.replace(" ^ 1", ""), "deadlock"),
    "next stays in the first round": ("place = 0, parity ^= 1;", "place = 0;", "bad operand"),
    "numbers are of the first round": ("number / PLACES % 2", "0", "bad operand"),
    "places are not given back": ("mbarrier_arrive(&empty[turn.place]);", ";", "deadlock"),
    "a lane gives back what others read": ("        __syncwarp();", "        ", "race"),
}


def multiply(device):
    rng = np.random.default_rng(0)
    a, b = (rng.integers(-4, 5, shape).astype(np.float32) for shape in ((2, 136, 392), (392, 72)))
    device.expect(matmul.matmul(device, a, b, tile=(128, 128), parts=1), a @ b, 0, "y")


def convolve(device):
    c = Convolution(3, (11, 9), (136, 136), (3, 3), (2, 1), (1, 1), 2).on(4, tile=(128, 128))
    device.most_accesses = 10_000_000
    device.expect(conv2d.conv2d(device, c.x, c.w, c.b, **c.how()), *c.y())


def search(device):
    z, codebook = nearest("normal", 128, 700, 72, 1)
    want = quantize.nearest_code(Emulator(), z, codebook, rung=1)
    device.expect(quantize.nearest_code(device, z, codebook, rung=4), want, 0, "indices")


def attend(device):
    _, q, k, v = operands(0, 1, 2, 130, 400, 72, 24)
    o = attention.attention(device, q, k, v, causal=True, key_mask=None, scale=0.1, rung=4)
    device.expect(o, *outputs(q, k, v, True, None, 0.1), "o")


def differentiate(device):
    a = gradients(4, 1, 2, 230, 260, (24, 8), False, False)
    for array, expected in zip(a.run(device, 4), a.expected(), strict=True):
        device.expect(array, *expected)


PRODUCTS = ("matmul/wgmma.cuh", "lib/ring.cuh")
MATMUL = ("matmul/product.cuh", *PRODUCTS)
NUMBERS, NEXT = "numbers are of the first round", "next stays in the first round"
LANE = "a lane gives back what others read"  # no mistake where only products read: a lane that has waited knows of all
KERNELS = {  # the file, the headers on the way to the mistake, what is computed, and mistakes that are not in its way
    "matmul": (matmul.HERE / matmul.RUNGS[4], MATMUL, multiply, (NUMBERS, LANE)),
    "conv2d": (conv2d.HERE / conv2d.RUNGS[4], PRODUCTS, convolve, (NUMBERS, LANE)),
    "quantize": (ROOT / "quantize" / quantize.RUNGS[4], "lib/ring.cuh", search, (NEXT,)),
    "attention": (ROOT / "attention" / attention.RUNGS[4], "lib/ring.cuh", attend, (NEXT, LANE)),
    "attention backward": (
        attention_backward.HERE / attention_backward.RUNGS[4],
        "lib/ring.cuh",
        differentiate,
        (NEXT,),
    ),
}


@needs_compiler
@pytest.mark.parametrize("kernel, mistake", [(k, m) for k, how in KERNELS.items() for m in MISTAKES if m not in how[3]])
def test_a_mistake_is_found(kernel, mistake, monkeypatch):
    monkeypatch.setattr(matmul, "MULTIPROCESSORS", 1)  # so that a block has several tiles
    file, headers, compute, _ = KERNELS[kernel]
    old, new, kind = MISTAKES[mistake]
    device = Mistaken(file, old, new, header=headers)
    compute(device)
    assert kind in {f.kind for f in device.findings}, device.findings
