"""Mistakes in rung 4 of the convolution and its gradients: each is found. (Headers: test_matmul_wgmma.py, test_ring.py.)"""

import numpy as np
import pytest
from convolutions import Convolution
from emulation import Mistaken
from rungs import needs_compiler

from kernels.conv2d import cuda
from kernels.matmul import cuda as matmul_cuda

PLANTED = [  # what is computed, what is changed into what, what must be found
    ("y", "turn = produce<true>(", "produce<true>(", "bad operand"),
    (
        "y",
        "turn = consume<false, true>(d, ring, tiles, steps, turn)",
        "consume<false, true>(d, ring, tiles, steps)",
        "deadlock",
    ),
    ("y", "c, u * kernel_w + v", "c, u + v", "wrong value"),
    ("y", "first_o + panel * 64, c", "first_o, c", "wrong value"),
    ("y", "i * stride_h - padding_h", "i * stride_h", "bad operand"),
    ("y", "n, v, u);", "n, u, v);", "wrong value"),
    ("y", "if ((c += STEP) < c_in) return;", "if ((c += STEP) + STEP <= c_in) return;", "wrong value"),
    ("y", "            if (pixel >= pixels) continue;\n", "", "out of range"),
    ("y", "                if (o >= c_out) continue;\n", "", "race"),
    ("dx", "taps_w - 1 - t_w", "t_w", "wrong value"),
    ("dx", "phase_h + t_h * stride_h", "phase_h + t_h", "wrong value"),
    ("dx", "top + first_pixel / columns % rows", "top + first_pixel / columns", "bad operand"),
    ("dx", "if (c < c_in) store_two", "store_two", "race"),
    ("dx with Inf", "if (!any_nan) return;", "return;", "wrong value"),
    ("dw", "    if (r >= blocks_r) return;\n", "", "out of range"),
    ("dw", "if (++i == h_out) i = 0, n++;", "if (i++ == h_out) i = 0, n++;", "wrong value"),
    ("dw", "(part * kernel_h * kernel_w + r / blocks_c)", "(r / blocks_c)", "race"),
    ("dw", "place % kernel_w, place / kernel_w", "place / kernel_w, place % kernel_w", "wrong value"),
    ("dw", "consume<true, true>", "consume<false, true>", "wrong value"),
]


@needs_compiler
@pytest.mark.parametrize("what, old, new, kind", PLANTED)
def test_a_mistake_is_found(what, old, new, kind, monkeypatch):
    monkeypatch.setattr(matmul_cuda, "MULTIPROCESSORS", 1)  # so that a block has several tiles
    stride = (1, 1) if "Inf" in what else (2, 1)
    channels = (8 if what == "dw" else 136, 136)  # 27 steps: a ring of 3 does not come round to where it began
    c = Convolution(3, (11, 9), channels, (3, 3), stride, (1, 1), 2).on(4, tile=(128, 128))
    device = Mistaken(cuda.HERE / (cuda.RUNGS[4] if what == "y" else cuda.GRADIENT_RUNGS[4]), old, new)
    device.most_accesses = 10_000_000
    if what == "y":
        device.expect(cuda.conv2d(device, c.x, c.w, c.b, **c.how()), *c.y())
    elif what == "dw":
        device.expect(cuda.conv2d_grad_w(device, c.x, c.g, c.w.shape, **c.how(), parts=2), *c.dw())
    else:
        if "Inf" in what:
            c.w[2, 2, 2, 4] = np.inf
        device.expect(cuda.conv2d_grad_x(device, c.g, c.w, c.x.shape, **c.how()), *c.dx())
    assert kind in {f.kind for f in device.findings}
