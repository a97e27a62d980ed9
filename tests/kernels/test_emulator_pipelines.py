"""<cuda/pipeline>, <cooperative_groups/memcpy_async.h>: right kernels of the usual shapes, and what goes wrong with them."""

import ast
import re

import numpy as np
import pytest
from rungs import needs_compiler, needs_nvrtc

from kernels import launch
from kernels.emulator import Emulator, EmulatorError
from kernels.emulator.raw import RawModule
from kernels.source import ROOT

pytestmark = needs_compiler

# y[i] = x[i] + 1 in batches of 64 numbers, of which a thread adds those that others have brought. `without` names a mistake.
KERNELS = """#include <cooperative_groups.h>
#include <cooperative_groups/memcpy_async.h>
#include <cuda/pipeline>
#pragma nv_diag_suppress static_var_with_dynamic_init
namespace cg = cooperative_groups;
enum { NOTHING, WAIT, RELEASE, ACQUIRE, BARRIER, COMMIT, ONE_WAIT };
#define LEFT(what, call) if (without != what) call
typedef cuda::pipeline_shared_state<cuda::thread_scope_block, 2> State;

extern "C" __global__ void ring(const int* x, int* y, int n, int without) {
    auto block = cg::this_thread_block();
    __shared__ int stage[2][64];
    __shared__ State state;
    auto pipe = cuda::make_pipeline(block, &state);
    for (int made = 0, read = 0; read < n; read++) {
        for (; made < n && made < read + 2; made++) {
            LEFT(ACQUIRE, pipe.producer_acquire());
            cuda::memcpy_async(block, stage[made % 2], x + 64 * made, sizeof stage[0], pipe);
            LEFT(COMMIT, pipe.producer_commit());
        }
        LEFT(WAIT, pipe.consumer_wait());
        y[64 * read + threadIdx.x] = stage[read % 2][threadIdx.x] + 1;
        LEFT(RELEASE, pipe.consumer_release());
    }
}

extern "C" __global__ void stages(const int* x, int* y, int n, int without) {
    __shared__ int stage[4][64];
    auto pipe = cuda::make_pipeline();
    const int t = threadIdx.x;
    for (int made = 0, read = 0; read < n; read++) {
        for (; made < read + 3; made++) {
            pipe.producer_acquire();
            if (made < n) cuda::memcpy_async(&stage[made % 4][t], x + 64 * made + t, cuda::aligned_size_t<4>(sizeof(int)), pipe);
            LEFT(COMMIT, pipe.producer_commit());
        }
        if (without == ONE_WAIT) cuda::pipeline_consumer_wait_prior<3>(pipe);
        else if (read % 2) cuda::pipeline_consumer_wait_prior<2>(pipe);
        else LEFT(WAIT, pipe.consumer_wait());
        LEFT(BARRIER, __syncthreads());
        y[64 * read + 63 - t] = stage[read % 4][63 - t] + 1;
        pipe.consumer_release();
    }
}

template <class Pipe>
__device__ void produce(Pipe& pipe, int (*stage)[64], const int* x, int n, int without) {
    auto warp = cg::tiled_partition<32>(cg::this_thread_block());
    for (int i = 0; i < n; i++) {
        LEFT(ACQUIRE, pipe.producer_acquire());
        cuda::memcpy_async(warp, stage[i % 2], x + 64 * i, cuda::aligned_size_t<16>(sizeof(int) * 64), pipe);
        LEFT(COMMIT, pipe.producer_commit());
    }
}
template <class Pipe>
__device__ void consume(Pipe& pipe, int (*stage)[64], int* y, int n, int without) {
    for (int i = 0; i < n; i++) {
        LEFT(WAIT, pipe.consumer_wait());
        y[64 * i + threadIdx.x - 32] = stage[i % 2][threadIdx.x - 32] + 1;
        LEFT(RELEASE, pipe.consumer_release());
    }
}
extern "C" __global__ void roles(const int* x, int* y, int n, int without) {
    __shared__ alignas(16) int stage[2][64];
    __shared__ State state;
    const bool makes = threadIdx.x < 32;
    auto pipe = cuda::make_pipeline(
        cg::this_thread_block(), &state, makes ? cuda::pipeline_role::producer : cuda::pipeline_role::consumer);
    if (makes) produce(pipe, stage, x, n, without);
    else consume(pipe, stage, y, n, without);
}
extern "C" __global__ void counted(const int* x, int* y, int n, int without) {
    __shared__ alignas(16) int stage[2][64];
    __shared__ State state;
    __shared__ int last;
    if (threadIdx.x == 0) last = 0;
    auto pipe = cuda::make_pipeline(cg::this_thread_block(), &state, 32);
    if (threadIdx.x < 32) produce(pipe, stage, x, n, without);
    else consume(pipe, stage, y, n, without);
    if (pipe.quit()) atomicAdd(&last, 1);
    __syncthreads();
    if (last != 1) y[0] = -1;
}

extern "C" __global__ void grouped(const int* x, int* y, int n, int without) {
    __shared__ int stage[2][64];
    auto block = cg::this_thread_block();
    cg::memcpy_async(block, stage[0], x, sizeof stage[0]);
    for (int i = 0; i < n; i++) {
        const int room = i % 2 ? 64 : 100, there = i % 2 ? 100 : 64;
        if (i + 1 < n) cg::memcpy_async(block, stage[(i + 1) % 2], room, x + 64 * (i + 1), there);
        if (i + 1 == n || without == NOTHING) cg::wait(block);
        else if (without == ONE_WAIT) cg::wait_prior<2>(block);
        else LEFT(WAIT, cg::wait_prior<1>(block));
        y[64 * i + threadIdx.x] = stage[i % 2][threadIdx.x] + 1;
        LEFT(BARRIER, block.sync());
    }
}

extern "C" __global__ void small_groups(const int* x, int* y, int n, int without) {
    __shared__ int stage[64];
    auto tile = cg::tiled_partition<16>(cg::this_thread_block());
    auto part = cg::binary_partition(tile, tile.thread_rank() >= 6);
    const int first = threadIdx.x / 16 * 16, t = tile.thread_rank();
    for (int i = 0; i < n; i++, x += 64, y += 64) {
        if (i % 3 == 0) {
            cg::memcpy_async(tile, stage + first, x + first, cuda::aligned_size_t<16>(64));
            LEFT(WAIT, cg::wait(tile));
        } else if (i % 3 == 1) {
            cg::memcpy_async(part, stage + first + t - part.thread_rank(), x + first + t - part.thread_rank(), part.size() * 4);
            LEFT(WAIT, cg::wait(part));
        } else {
            cg::memcpy_async(cg::this_thread(), stage + threadIdx.x, x + threadIdx.x, sizeof(int));
            LEFT(WAIT, cg::wait(cg::this_thread()));
        }
        y[threadIdx.x] = stage[threadIdx.x] + 1;
        LEFT(BARRIER, tile.sync());
    }
}

extern "C" __global__ void arriving(const int* x, int* y, int n, int without) {
    __shared__ alignas(16) int stage[64];
    __shared__ cuda::barrier<cuda::thread_scope_block> come;
    auto block = cg::this_thread_block();
    auto pipe = cuda::make_pipeline();
    const int t = threadIdx.x;
    if (t == 0) init(&come, blockDim.x);
    block.sync();
    for (int i = 0; i < n; i++, x += 64) {
        if (i % 3 == 0) cuda::memcpy_async(block, stage, x, cuda::aligned_size_t<16>(sizeof stage), come);
        else if (i % 3 == 1) cuda::memcpy_async(block, stage, x, sizeof stage, come);
        else {
            cuda::memcpy_async(stage + t, x + t, sizeof(int), pipe);
            LEFT(COMMIT, cuda::pipeline_producer_commit(pipe, come));
        }
        LEFT(WAIT, come.arrive_and_wait());
        y[64 * i + 63 - t] = stage[63 - t] + 1;
        LEFT(BARRIER, block.sync());
    }
    if (t % 2) return come.arrive_and_drop();
    come.arrive_and_wait();
    come.arrive_and_wait();
}

extern "C" __global__ void by_tma(const int* x, int* y, int n, int without) {
    __shared__ alignas(16) int stage[64];
    __shared__ cuda::barrier<cuda::thread_scope_block> come;
    typedef cuda::barrier<cuda::thread_scope_block>::arrival_token Token;
    if (threadIdx.x == 0) {
        init(&come, blockDim.x);
        cuda::device::experimental::fence_proxy_async_shared_cta();
    }
    __syncthreads();
    for (int i = 0; i < n; i++) {
        Token token;
        if (threadIdx.x == 0) {
            cuda::device::memcpy_async_tx(stage, x + 64 * i, cuda::aligned_size_t<16>(sizeof stage), come);
            token = cuda::device::barrier_arrive_tx(come, 1, sizeof stage);
        } else {
            token = come.arrive();
        }
        LEFT(WAIT, come.wait(static_cast<Token&&>(token)));
        y[64 * i + threadIdx.x] = stage[threadIdx.x] + 1;
        LEFT(BARRIER, __syncthreads());
    }
}

extern "C" __global__ void bytes(const unsigned char* x, unsigned char* y, int start, int size, int aligned, int without) {
    __shared__ alignas(16) unsigned char stage[64];
    auto block = cg::this_thread_block();
    auto pipe = cuda::make_pipeline();
    if (aligned == 4) cuda::memcpy_async(block, (int*)stage, (const int*)(x + start), size, pipe);
    else if (aligned) cuda::memcpy_async(block, stage, x + start, cuda::aligned_size_t<16>(size), pipe);
    else cuda::memcpy_async(block, static_cast<void*>(stage), static_cast<const void*>(x + start), size, pipe);
    pipe.producer_commit();
    LEFT(WAIT, pipe.consumer_wait());
    LEFT(BARRIER, block.sync());
    if (threadIdx.x < size) y[threadIdx.x] = stage[threadIdx.x];
}
"""
MISTAKES = [w.strip() for w in KERNELS.partition("enum {")[2].partition("}")[0].split(",")]
THREADS = {
    "ring": 64,
    "stages": 64,
    "roles": 96,
    "counted": 96,
    "grouped": 64,
    "small_groups": 64,
    "arriving": 64,
    "by_tma": 64,
}


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    file = tmp_path_factory.mktemp("pipelines") / "kernel.cu"
    file.write_text(KERNELS)
    return file


def run(file, kernel, without="NOTHING", batches=5, seed=0):
    device = Emulator(seed, strict=kernel != "by_tma")  # whose fence is the one of CUDA's guide
    x = np.random.default_rng(seed).integers(0, 1000, 64 * batches).astype(np.int32)
    y = device.empty(x.shape, np.int32)
    device.run(file, kernel, 1, THREADS[kernel], {"x": x, "y": y, "n": batches, "without": MISTAKES.index(without)})
    return x, y, device


@pytest.mark.parametrize("kernel", THREADS)
def test_right_kernels_are_right(kernel, file, each_compiler):
    for seed in range(4):
        for batches in (1, 5):
            x, y, device = run(file, kernel, "NOTHING", batches, seed)
            device.check()
            np.testing.assert_array_equal(y, x + 1)


READS = {  # the line where a kernel reads what was copied, and those where it copies
    "ring": ("stage[read % 2][threadIdx.x]", "stage[made % 2]"),
    "stages": ("stage[read % 4]", "&stage[made % 4]"),
    "roles": ("stage[i % 2][threadIdx.x - 32]", "memcpy_async(warp"),
    "grouped": ("stage[i % 2][threadIdx.x] +", "stage[(i + 1) % 2]"),
    "small_groups": ("= stage[threadIdx.x]", "memcpy_async(tile"),
    "arriving": ("= stage[63 - t]", "stage, x, cuda::aligned_size_t"),
    "by_tma": ("= stage[threadIdx.x]", "memcpy_async_tx"),
}


@pytest.mark.parametrize(
    "kernel, without, kind, where",
    [
        ("ring", "WAIT", "missing wait", "read"),
        ("ring", "WAIT", "race", "read"),
        ("ring", "RELEASE", "deadlock", "LEFT(ACQUIRE"),
        ("ring", "ACQUIRE", "race", "copy"),
        ("ring", "COMMIT", "deadlock", "LEFT(WAIT"),
        ("stages", "WAIT", "missing wait", "read"),
        ("stages", "COMMIT", "missing wait", "read"),
        ("stages", "ONE_WAIT", "missing wait", "read"),
        ("stages", "BARRIER", "race", "read"),
        ("stages", "BARRIER", "race", "copy"),
        ("roles", "WAIT", "race", "read"),
        ("roles", "ACQUIRE", "race", "copy"),
        ("roles", "RELEASE", "deadlock", "LEFT(ACQUIRE"),
        ("roles", "COMMIT", "deadlock", "LEFT(WAIT"),
        ("grouped", "WAIT", "missing wait", "read"),
        ("grouped", "ONE_WAIT", "missing wait", "read"),
        ("grouped", "BARRIER", "race", "copy"),
        ("small_groups", "WAIT", "missing wait", "read"),
        ("small_groups", "BARRIER", "race", "copy"),
        ("arriving", "WAIT", "missing wait", "read"),
        ("arriving", "COMMIT", "missing wait", "read"),
        ("arriving", "BARRIER", "race", "copy"),
        ("by_tma", "WAIT", "race", "read"),
        ("by_tma", "BARRIER", "race", "copy"),
    ],
)  # fmt: skip
def test_mistakes_are_found(kernel, without, kind, where, file, each_compiler):
    read, copy = READS[kernel]
    text = {"read": read, "copy": copy}.get(where, where)
    after = KERNELS.index(f"void {'produce' if kernel == 'roles' else kernel}(")  # where the kernel begins
    want = f"kernel.cu:{1 + KERNELS.count(chr(10), 0, KERNELS.index(text, after))}"
    for seed in range(3):
        *_, device = run(file, kernel, without, seed=seed)
        assert (kind, want) in {(f.kind, f.where) for f in device.findings}, "\n".join(map(str, device.findings))


@pytest.mark.parametrize(
    "start, size, aligned, without, found",
    [
        (0, 64, 16, "NOTHING", ""),
        (16, 48, 16, "NOTHING", ""),
        (4, 12, 4, "NOTHING", ""),
        (3, 61, 0, "NOTHING", ""),
        (2, 6, 0, "NOTHING", ""),
        (0, 0, 0, "NOTHING", ""),
        (3, 61, 0, "WAIT", "missing wait: read of 1 bytes at byte .* of stage"),
        (1, 63, 0, "BARRIER", "race: read of 1 bytes at byte .* of stage"),  # though each reads as many as it copies
        (4, 32, 16, "NOTHING", "misaligned: the source of this copy must be a multiple of 16, and is 4 after one"),
        (0, 60, 16, "NOTHING", "misaligned: the size of this copy must be a multiple of 16, and is 12 after one"),
        (2, 32, 4, "NOTHING", "misaligned: the source of this copy must be a multiple of 4, and is 2 after one"),
        (32, 61, 0, "NOTHING", "out of range: read of 1 bytes at element .* of x"),
    ],
)
def test_copies_of_bytes(start, size, aligned, without, found, file):
    device = Emulator()
    x, y = np.arange(64, dtype=np.uint8), np.zeros(64, np.uint8)
    arguments = {"x": x, "y": y, "start": start, "size": size, "aligned": aligned, "without": MISTAKES.index(without)}
    device.run(file, "bytes", 1, 64, arguments)
    if found:
        with pytest.raises(EmulatorError, match=rf"kernel\.cu:\d+: {found}"):
            device.check()
    else:
        device.check()
        np.testing.assert_array_equal(y, np.pad(x[start : start + size], (0, 64 - size)))


@needs_nvrtc
def test_a_gpus_compiler_takes_them_too(file):
    launch.compile_for(file, "90")


# As in CUDA's guide: stages in dynamic memory, their number a template's parameter. Batch by batch, blocks turn x around.
STAGED = """#include <cooperative_groups.h>
#include <cuda/pipeline>

template <size_t STAGES, class T>
__global__ void turned(const T* x, T* y, size_t batches) {
    auto grid = cooperative_groups::this_grid();
    auto block = cooperative_groups::this_thread_block();
    extern __shared__ __align__(16) char shared[];
    T* const stages = reinterpret_cast<T*>(shared);
    __shared__ cuda::pipeline_shared_state<cuda::thread_scope::thread_scope_block, STAGES> state;
    cuda::pipeline<cuda::thread_scope_block> pipeline = cuda::make_pipeline(block, &state);
    auto first = [&](size_t batch) { return block.group_index().x * block.size() + grid.size() * batch; };
    for (size_t used = 0, fetched = 0; used < batches; ++used) {
        for (; fetched < batches && fetched < used + STAGES; ++fetched) {
            pipeline.producer_acquire();
            T* const stage = stages + fetched % STAGES * block.size();
            cuda::memcpy_async(block, stage, x + first(fetched), sizeof(T) * block.size(), pipeline);
            pipeline.producer_commit();
        }
        pipeline.consumer_wait();
        const unsigned t = block.thread_rank();
        y[first(used) + t] = stages[used % STAGES * block.size() + block.size() - 1 - t];
        pipeline.consumer_release();
    }
}
"""


def test_a_raw_kernel_with_stages_of_a_template():
    x = np.arange(2 * 3 * 48, dtype=np.float64)
    names = ("turned<2, double>", "turned<3, double>")
    module = RawModule(STAGED, name_expressions=names)
    for name in names:
        y = np.zeros_like(x)
        module.get_function(name)((2,), (48,), (x, y, np.uint64(3)), shared_mem=3 * 48 * 8)
        np.testing.assert_array_equal(y.reshape(6, 48), x.reshape(6, 48)[:, ::-1])


def test_an_installed_package_has_every_header():
    written = re.search(r'package_data=\{"kernels": (\[.*?\])', (ROOT.parent / "setup.py").read_text())
    patterns = ast.literal_eval(written[1])
    packed = {f for pattern in patterns for f in ROOT.glob(pattern)}
    headers = {f for f in (ROOT / "emulator" / "include").rglob("*") if f.is_file()}
    assert headers <= packed
