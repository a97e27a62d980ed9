"""Grids whose blocks wait for each other: cooperative launches, and launches that are none."""

from functools import partial

import numpy as np
import pytest
from emulation import kept
from rungs import needs_compiler

from kernels.emulator import Emulator, EmulatorError
from kernels.emulator.raw import RawKernel

pytestmark = needs_compiler

SUM = """#include <cooperative_groups.h>
namespace cg = cooperative_groups;
extern "C" __global__ void sum(const float* x, float* part, float* y, int n) {
    cg::grid_group grid = cg::this_grid();
    float mine = 0;
    for (int i = blockIdx.x; i < n; i += gridDim.x) mine += x[i];
    if (threadIdx.x == BLOCK_SAYS) part[blockIdx.x] = mine;
    BEFORE
    SYNC;
    float all = 0;
    for (int b = 0; b < gridDim.x; b++) all += part[b];
    y[grid.thread_rank()] = grid.is_valid() ? all : -1;
}"""
BLOCKS, THREADS = 5, 32
X = np.arange(40, dtype=np.float32)


def run(sync="grid.sync()", before="", says=0, cooperative=True, code=SUM):
    """What the sum's kernel leaves; raises EmulatorError with what is wrong with it."""
    code = code.replace("SYNC", sync).replace("BEFORE", before).replace("BLOCK_SAYS", str(says))
    y = np.zeros((BLOCKS, THREADS), np.float32)
    kernel = RawKernel(code, "sum", enable_cooperative_groups=cooperative)
    kernel((BLOCKS,), (THREADS,), (X, np.zeros(BLOCKS, np.float32), y, len(X)))
    return y


@pytest.mark.parametrize(
    "sync",
    [
        "grid.sync()",
        "cg::sync(grid)",
        "grid.sync(); grid.sync()",
        "auto token = grid.barrier_arrive(); grid.barrier_wait(static_cast<decltype(token)&&>(token))",
    ],
)
def test_a_grid_meets(sync, each_compiler):
    assert (run(sync) == X.sum()).all()


def test_a_grid_that_does_not_meet(each_compiler):
    with pytest.raises(EmulatorError, match=r"kernel\.cu:\d+: race: .* of block \d of the grid at kernel\.cu:\d+"):
        run("__syncthreads()")


def test_a_launch_that_is_not_cooperative(each_compiler):
    with pytest.raises(EmulatorError, match=r"^kernel\.cu:9: bad operand: grid\.sync\(\) in a launch that is not coop"):
        run(cooperative=False)
    assert (run("if (grid.is_valid()) grid.sync()", "if (!grid.is_valid()) return;", cooperative=False) == 0).all()


def test_who_has_returned_is_missed_where_a_blocks_first_thread_is_the_one():
    """The barrier is one of blocks: the first thread of each comes for those of it that are left."""
    y = run(before="if (threadIdx.x == 3) return;")
    assert (y[:, 3] == 0).all() and (np.delete(y, 3, 1) == X.sum()).all()
    for gone, says in (("blockIdx.x == 3", 0), ("blockIdx.x == 3 && threadIdx.x == 0", 1)):
        with pytest.raises(
            EmulatorError, match=r"^kernel\.cu:9: deadlock: .*the grid.* the first is thread 0 of its block 3"
        ):
            run(before=f"if ({gone}) return;", says=says)


def test_a_block_that_goes_another_way():
    with pytest.raises(EmulatorError, match=r"kernel\.cu:9: deadlock: .* the first is thread 0 of its block 1\)"):
        run("if (blockIdx.x != 1) grid.sync(); else __syncthreads()")


def test_a_grid_of_more_threads_than_there_are_clocks_for():
    kernel = RawKernel('extern "C" __global__ void k(int* y) { y[0] = 1; }', "k", enable_cooperative_groups=True)
    with pytest.raises(ValueError, match="kernel k: a cooperative launch has at most 8192 threads here, got 8224"):
        kernel((257,), (32,), (np.zeros(1, np.int32),))
    code = 'extern "C" __global__ void __cluster_dims__(2, 1, 1) k(int* y) { y[0] = 1; }'
    with pytest.raises(ValueError, match="kernel k: the emulator does not support cooperative launches of clusters"):
        RawKernel(code, "k", enable_cooperative_groups=True)((2,), (32,), (np.zeros(1, np.int32),))


BY_HAND = SUM.replace("(const float* x", "(const float* x, unsigned* came").replace(
    "SYNC;",
    """__syncthreads();
    if (threadIdx.x == 0) {
        __threadfence();
        atomicAdd(came, 1);
        while (atomicAdd(came, 0) < gridDim.x) {}
        __threadfence();
    }
    __syncthreads();""",
)


def by_hand(code, cooperative):
    code = code.replace("BEFORE", "").replace("BLOCK_SAYS", "0")
    y = np.zeros((BLOCKS, THREADS), np.float32)
    kernel = RawKernel(code, "sum", enable_cooperative_groups=cooperative)
    kernel((BLOCKS,), (THREADS,), (X, np.zeros(1, np.uint32), np.zeros(BLOCKS, np.float32), y, len(X)))
    return y


def test_a_barrier_of_ones_own(each_compiler):
    assert (by_hand(BY_HAND, True) == X.sum()).all()
    with pytest.raises(EmulatorError, match="race"):
        by_hand(BY_HAND.replace("__threadfence();", "", 1), True)
    with pytest.raises(
        EmulatorError,
        match=r"^kernel\.cu:13: endless: waits for a flag that no thread sets before it goes on: blocks run one after the "
        r"other \(thread 0 of block",
    ):
        by_hand(BY_HAND, False)
    with pytest.raises(EmulatorError, match=r"endless: waits for a flag that no thread sets \(thread 0 of block"):
        by_hand(BY_HAND.replace("< gridDim.x", "<= gridDim.x"), True)


def test_who_counts_is_not_waiting(each_compiler):
    """Whoever asks again and again and gets other answers comes to an end."""
    code = 'extern "C" __global__ void k(int* y) { while (atomicAdd(y, 1) < 20000) {} }'
    y = np.zeros(1, np.int32)
    RawKernel(code, "k", seeds=1)((1,), (2,), (y,))
    assert y == 20002


def test_who_waits_for_two_flags_in_turn(each_compiler):
    code = """extern "C" __global__ void k(int* y) {
        if (threadIdx.x == 0) atomicExch(y, 1);
        else if (threadIdx.x == 1) atomicExch(y + 1, 1);
        else
            while (atomicAdd(y, 0) + atomicAdd(y + 1, 0) < 2) {}
    }"""
    for seed in range(4):
        device = Emulator(seed, most_accesses=20_000)
        y = np.zeros(2, np.int32)
        device.run(kept("kernel.cu", code), "k", 1, 4, {"y": y})
        device.check()


@pytest.mark.parametrize("first, then", [("threadIdx.x == 0", "atomicAdd(other, 1)"), ("true", "__syncwarp(3)")])
def test_who_gives_up_and_goes_on_is_not_waiting(first, then, each_compiler):
    """A hundred times a thread asks in vain for a while: together that is longer than a thread may ask that does not go on."""
    code = f"""extern "C" __global__ void k(int* flag, int* other) {{
        for (int round = 0; round < 100 && {first}; round++) {{
            for (int i = 0; i < 200; i++) atomicAdd(flag, 0);
            {then};
        }}
        if (threadIdx.x == 0) atomicExch(flag, 1);
        while (atomicAdd(flag, 0) == 0) {{}}
    }}"""
    flag, other = np.zeros(1, np.int32), np.zeros(1, np.int32)
    RawKernel(code, "k")((1,), (2,), (flag, other))
    assert (flag[0], other[0]) == (1, 100 if "other" in then else 0)


def test_a_volatile_flag_is_seen_and_orders_nothing(each_compiler):
    code = """extern "C" __global__ void k(volatile int* flag, int* y) {
        if (threadIdx.x == 0) flag[0] = 1;
        else
            while (flag[0] == 0) {}
        y[threadIdx.x] = 1;
    }"""
    flag, y = np.zeros(1, np.int32), np.zeros(32, np.int32)
    with pytest.raises(EmulatorError) as found:
        RawKernel(code, "k")((1,), (32,), (flag, y))
    assert "race" in str(found.value) and "endless" not in str(found.value) and y.all()


def test_who_sleeps_for_ever(monkeypatch, each_compiler):
    """It is found once: no other schedule of it runs."""
    ran, launch = [], Emulator.launch
    monkeypatch.setattr(Emulator, "launch", lambda device, *given: (ran.append(device.seed), launch(device, *given)))
    monkeypatch.setattr("kernels.emulator.raw.Emulator", partial(Emulator, most_accesses=1000))
    code = 'extern "C" __global__ void k(int* y) { while (true) __nanosleep(100); }'
    with pytest.raises(EmulatorError, match=r"^kernel\.cu:1: endless: thread 0 of block \(0, 0, 0\) does not end$"):
        RawKernel(code, "k")((1,), (1,), (np.zeros(1, np.int32),))
    assert ran == [0]
