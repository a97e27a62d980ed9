"""Inline PTX of Hopper that works on its own: what a wait may answer, what arrives later, additions by TMA."""

import numpy as np
import pytest
from hopper import HEAD, on_a_gpu
from rungs import needs_compiler, needs_nvrtc

from kernels.emulator import EmulatorError
from kernels.emulator.raw import RawKernel

pytestmark = needs_compiler

# Each thread hands its number on to the one before it.
TOKENS = """
extern "C" __global__ void k(int* x) {
    __shared__ uint64_t bar;
    __shared__ int v[64];
    if (threadIdx.x == 0) init(&bar, 64);
    __syncthreads();
    v[threadIdx.x] = x[threadIdx.x];
    uint64_t token;
    asm volatile("{ .reg .b64 state; mbarrier.arrive.shared::cta.b64 state, [%1]; mov.b64 %0, state; }"
                 : "=l"(token) : "r"(address(&bar)) : "memory");
    unsigned over;
    do asm volatile("{ .reg .pred p; mbarrier.WAIT.shared::cta.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }"
                    : "=r"(over) : "r"(address(&bar)), "l"(token) : "memory");
    while (LOOP);
    x[threadIdx.x] = v[(threadIdx.x + 1) % 64];
}
"""


@pytest.mark.parametrize("wait", ["try_wait", "test_wait.acquire.cta"])
def test_a_wait_may_answer_no(wait, each_compiler):
    code, x = HEAD + TOKENS.replace("WAIT", wait), np.arange(64, dtype=np.int32)
    RawKernel(code.replace("LOOP", "!over"), "k")((1,), (64,), (x,))
    np.testing.assert_array_equal(x, (np.arange(64) + 1) % 64)
    with pytest.raises(EmulatorError, match=r"race: read of 4 bytes at byte .* of v"):
        RawKernel(code.replace("LOOP", "0"), "k")((1,), (64,), (x,))


@needs_nvrtc
def test_a_gpu_takes_these(tmp_path):
    on_a_gpu(tmp_path, TOKENS.replace("WAIT", "try_wait").replace("LOOP", "!over"))
