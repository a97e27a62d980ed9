"""Bank conflicts and sectors as the emulator counts them: known answers, planted ones, and what the rungs are to have none of."""

import numpy as np
import pytest
from emulation import Mistaken
from rungs import needs_compiler

from kernels import emulate
from kernels.attention import cuda as attention_cuda
from kernels.emulator import Emulator, Use
from kernels.emulator.raw import RawKernel
from kernels.matmul import cuda as matmul_cuda
from kernels.quantize import cuda as quantize_cuda

pytestmark = needs_compiler
START = """#include "lib/ptx90.cuh"
__device__ void fill(char* shared) {
    for (int i = threadIdx.x; i < 4096; i += blockDim.x) reinterpret_cast<float*>(shared)[i] = i;
    __syncthreads();
}
"""
FILL = 3  # the line that fills


def counted(folder, bodies, threads=32, banks=True):
    """Of each body of a kernel, which is one line of a file, what that line and the one that fills asked for."""
    name = f"{abs(hash(tuple(bodies)))}.cu"
    text = START
    for i, body in enumerate(bodies):
        text += f'extern "C" __global__ void k{i}(float* y) {{ DYNAMIC_SHARED(char, shared); const int t = threadIdx.x; fill(shared);\n'
        text += f"float* const words = reinterpret_cast<float*>(shared); {body} }}\n"
    (folder / name).write_text(text)
    for i in range(len(bodies)):
        device = Emulator(1, banks=banks)
        y = device.empty((1024,), np.float32)
        device.run(folder / name, f"k{i}", 1, threads, {"y": y}, shared_bytes=1 << 14)
        device.check()
        found = {int(line.partition(":")[2]): use for line, use in device.bank_uses.items()}
        assert found.keys() <= {FILL, START.count("\n") + 2 * i + 2}
        yield found.get(START.count("\n") + 2 * i + 2), found.get(FILL)


KNOWN = [  # what a warp does, the passes that it takes at least, and those that it takes
    ("y[t] = words[t];", 1, 1),
    ("y[t] = words[2 * t];", 1, 2),
    ("y[t] = words[3 * t];", 1, 1),
    ("y[t] = words[32 * t];", 1, 32),
    ("y[t] = words[33 * t];", 1, 1),
    ("y[t] = words[7];", 1, 1),  # all of them the same word
    ("y[t] = words[t / 2];", 1, 1),
    ("y[t] = words[t / 16 * 32];", 1, 2),  # two words of one bank
    ("y[t] = words[t ^ 5];", 1, 1),
    ("y[t] = words[t * 4 % 32 + t / 8 * 36];", 1, 4),
    ("words[t] = t;", 1, 1),
    ("words[16 * t] = t;", 1, 16),
    ("words[31 * t] = t;", 1, 1),
    ("if (t < 16) y[t] = words[32 * t];", 1, 16),
    ("y[t] = shared[t];", 1, 1),  # bytes: 4 lanes to a word
    ("y[t] = shared[4 * t];", 1, 1),
    ("y[t] = shared[128 * t];", 1, 32),
    ("y[t] = reinterpret_cast<short*>(shared)[t];", 1, 1),
    ("y[t] = reinterpret_cast<short*>(shared)[66 * t];", 1, 1),
    ("float2 v = reinterpret_cast<float2*>(shared)[t]; y[t] = v.x + v.y;", 2, 2),
    ("float2 v = reinterpret_cast<float2*>(shared)[2 * t]; y[t] = v.x + v.y;", 2, 4),
    ("float2 v = reinterpret_cast<float2*>(shared)[16 * t]; y[t] = v.x + v.y;", 2, 32),
    ("float2 v = reinterpret_cast<float2*>(shared)[17 * t]; y[t] = v.x + v.y;", 2, 2),
    ("float2 v = reinterpret_cast<float2*>(shared)[3]; y[t] = v.x + v.y;", 2, 2),
    ("double v = reinterpret_cast<double*>(shared)[t]; y[t] = v;", 2, 2),
    ("float4 v = reinterpret_cast<float4*>(shared)[t]; y[t] = v.x + v.w;", 4, 4),
    ("float4 v = reinterpret_cast<float4*>(shared)[2 * t]; y[t] = v.x + v.w;", 4, 8),
    ("float4 v = reinterpret_cast<float4*>(shared)[8 * t]; y[t] = v.x + v.w;", 4, 32),
    ("float4 v = reinterpret_cast<float4*>(shared)[9 * t]; y[t] = v.x + v.w;", 4, 4),
    ("reinterpret_cast<float4*>(shared)[8 * t] = float4{1, 2, 3, 4};", 4, 32),
    ("reinterpret_cast<uint2*>(shared)[t] = uint2{1, 2};", 2, 2),
    ("uint4 v = {}; v.z = 3; reinterpret_cast<uint4*>(shared)[t] = v;", 4, 4),
    ("if (t < 8) y[t] = reinterpret_cast<float4*>(shared)[t].y;", 1, 1),  # one number of the four: 4 bytes
    ("for (int i = 0; i < 5; i++) y[32 * i + t] = words[2 * t + 64 * i];", 5, 10),
    ("for (int i = 0; i < t; i++) y[i] = words[32 * t];", 31, sum(range(1, 32))),  # the i-th time: lanes from i + 1 on
]


def test_known_answers(tmp_path):
    bodies = [body.replace("y[i] =", "*(volatile float*)&y[1023 - t] =") for body, _, _ in KNOWN]
    for (body, least, passes), (found, filled) in zip(KNOWN, counted(tmp_path, bodies), strict=True):
        assert filled == Use(128, 128, 1)
        assert found[:2] == (least, passes), body
        assert found.worst <= passes and (found.worst > 1) == (passes > least), body


def test_each_warp_has_its_own_passes_and_a_short_one_too(tmp_path):
    column = "y[t] = words[32 * (t % 32)];"
    for body, threads, want in [
        ("y[t] = words[2 * t];", 96, (3, 6, 2)),
        (column, 40, (2, 40, 32)),
        (column, 8, (1, 8, 8)),
    ]:
        ((found, _),) = counted(tmp_path, [body], threads)
        assert found == want


def test_a_warp_that_comes_together_counts_anew(tmp_path):
    """Lanes with another number of turns in the first loop would be out of step in the second."""
    at = "(n ? 64 + (t ^ 1) : t) + 32 * i"  # an even lane's bank in the second round is its neighbour's in the first
    loop = f"for (int i = 0; i <= t % 2 * int(blockDim.x / 32); i++) *(volatile float*)&y[t] = words[{at}];"
    bodies = [
        f"for (int n = 0; n < blockDim.x / 16; n++) {{ {loop} {together}(); }}"
        for together in ("__syncwarp", "__syncthreads")
    ]
    assert [found for found, _ in counted(tmp_path, bodies)] == [(4, 4, 1)] * 2


def test_copies_and_matrices_are_counted_too(tmp_path):
    copy = "y[t] = 0; y[t + 32] = 0; __syncthreads(); cp_async<16>(shared + {} * t, y); cp_async_commit(); cp_async_wait<0>();"
    load = "unsigned r[1]; ldmatrix(r, shared + {} * (t % 8)); y[t] = r[0];"
    store = "unsigned r[1] = {{1}}; stmatrix(shared + {} * (t % 8), r);"
    bodies = [copy.format(n) for n in (16, 128)] + [m.format(n) for m in (load, store) for n in (16, 128, 144)]
    matrices = [(1, 1, 1), (1, 8, 8), (1, 1, 1)]
    assert [found for found, _ in counted(tmp_path, bodies)] == [(4, 4, 1), (4, 32, 8), *matrices, *matrices]


def test_atomics_are_left_out_and_so_is_everything_unless_asked_for(tmp_path):
    bodies = ["atomicAdd(reinterpret_cast<int*>(shared) + 32 * t, 1);", "y[t] = words[32 * t];"]
    assert [found for found, _ in counted(tmp_path, bodies)] == [None, (1, 32, 32)]
    assert list(counted(tmp_path, bodies, banks=False)) == [(None, None)] * 2


TRANSPOSE = """
#include "lib/cuda.cuh"
extern "C" __global__ void turn(const float* x, float* y) {
    __shared__ float tile[32][PITCH];
    const int i = threadIdx.x / 32, j = threadIdx.x % 32;
    tile[i][j] = x[i * 32 + j];
    __syncthreads();
    y[i * 32 + j] = tile[j][i];
}
"""


@pytest.mark.parametrize("pitch, passes", [(32, 32 * 32), (33, 32)])
def test_a_planted_conflict(pitch, passes, tmp_path):
    """The transposed tile of every tutorial: right either way, and 32 times as slow without the 33rd column."""
    (tmp_path / "turn.cu").write_text(TRANSPOSE)
    device, x = Emulator(0, banks=True), np.arange(1024, dtype=np.float32)
    y = device.empty((1024,), np.float32)
    device.run(tmp_path / "turn.cu", "turn", 1, 1024, {"x": x, "y": y}, defines={"PITCH": pitch})
    device.check()
    np.testing.assert_array_equal(y, x.reshape(32, 32).T.ravel())
    assert device.bank_uses == {"turn.cu:6": (32, 32, 1), "turn.cu:8": (32, passes, passes // 32)}


def test_a_conflict_planted_in_a_rung():
    """Rows of a tile that are a multiple of 32 words apart: what SIZE + 4 is there for."""
    a, b = (np.ones((64, 64), np.float32) for _ in range(2))
    right = Emulator(banks=True)
    matmul_cuda.matmul(right, a, b, transpose_b=True, rung=2)
    assert right.bank_uses and all(use.taken == use.least for use in right.bank_uses.values())
    source = matmul_cuda.HERE / matmul_cuda.RUNGS[2]
    wrong = Mistaken(source, "float at[DEPTH][SIZE + 4];", "float at[DEPTH][SIZE];", header="matmul/tile.cuh")
    wrong.banks = True
    matmul_cuda.matmul(wrong, a, b, transpose_b=True, rung=2)
    wrong.check()
    assert any(use.taken >= 4 * use.least for use in wrong.bank_uses.values()), wrong.bank_uses


def test_the_inner_loops_of_rung_2_have_none():
    rng = np.random.default_rng(0)
    z, codebook = (rng.standard_normal(s).astype(np.float32) for s in ((130, 20), (40, 20)))
    q, k, v = (rng.standard_normal((1, 1, 70, 16)).astype(np.float32) for _ in range(3))
    device = Emulator(banks=True)
    quantize_cuda.nearest_code(device, z, codebook, rung=2)
    attention_cuda.attention(device, q, k, v, causal=False, key_mask=None, scale=0.25, rung=2)
    assert len(device.bank_uses) >= 4 and all(use.taken == use.least for use in device.bank_uses.values())


@pytest.mark.parametrize("precision", ["bf16", "tf32"])
@pytest.mark.parametrize("transposed", [(False, False), (False, True), (True, False), (True, True)])
def test_rung_3_of_the_matrix_product_has_none(precision, transposed):
    a, device = np.ones((64, 64), np.float32), Emulator(banks=True)
    how = dict(zip(("transpose_a", "transpose_b"), transposed))
    matmul_cuda.matmul(device, a, a, **how, rung=3, precision=precision)
    assert len(device.bank_uses) == 3 and all(use.taken == use.least for use in device.bank_uses.values())


SECTORS = [  # what a warp does, the sectors of global memory that it takes at least, and those that it takes
    ("y[t] = 1;", 4, 4),
    ("y[t + 1] = 1;", 4, 5),
    ("y[2 * t] = 1;", 4, 8),
    ("y[8 * t] = 1;", 4, 32),
    ("y[31 - t] = 1;", 4, 4),
    ("y[t / 8 * 8] = 1;", 1, 4),  # 4 numbers
    ("if (t < 3) y[t] = 1;", 1, 1),
    ("if (t % 2) y[t] = 1;", 2, 4),  # half of each
    ("reinterpret_cast<char*>(y)[t] = 1;", 1, 1),
    ("reinterpret_cast<char*>(y)[32 * t] = 1;", 1, 32),
    ("reinterpret_cast<float2*>(y)[t] = float2{1, 2};", 8, 8),
    ("reinterpret_cast<float4*>(y)[t] = float4{1, 2, 3, 4};", 16, 16),
    ("reinterpret_cast<float4*>(y)[2 * t] = float4{1, 2, 3, 4};", 16, 32),
    ("if (t == 0) { y[3] = 1; }", 1, 1),
    ("for (int i = 0; i < 4; i++) y[t * 4 + i] = 1;", 16, 64),
    ("cp_async<16>(shared + 16 * t, y + 8 * t); cp_async_commit(); cp_async_wait<0>();", 16, 32),
]


def test_known_sectors(tmp_path):
    text = '#include "lib/ptx.cuh"\n'
    for i, (body, _, _) in enumerate(SECTORS):
        text += f'extern "C" __global__ void k{i}(float* y) {{ DYNAMIC_SHARED(char, shared); const int t = threadIdx.x; {body} }}\n'
    (tmp_path / "k.cu").write_text(text)
    for i, (body, least, taken) in enumerate(SECTORS):
        device = Emulator(1, banks=True)
        device.run(tmp_path / "k.cu", f"k{i}", 2, 32, {"y": np.ones(1024, np.float32)}, shared_bytes=1024)
        lines = device.sector_uses.values()
        assert [(use.least, use.taken) for use in lines] == [(2 * least, 2 * taken)], (body, device.sector_uses)


TURN = """
extern "C" __global__ void turn(const float* x, float* y) {
    __shared__ float tile[32][PITCH];
    tile[threadIdx.y][threadIdx.x] = x[threadIdx.y * 32 + threadIdx.x];
    __syncthreads();
    y[threadIdx.y * 32 + threadIdx.x] = tile[threadIdx.x][threadIdx.y];
    y[1024 + threadIdx.x * 32 + threadIdx.y] = tile[threadIdx.y][threadIdx.x];
}
"""


def test_a_kernel_of_ones_own_is_counted_once_whatever_its_schedules(each_compiler):
    x, y = np.ones(1024, np.float32), np.ones(2048, np.float32)
    for pitch, passes in ((32, 1024), (33, 32)):
        kernel = RawKernel(TURN, "turn", (f"-DPITCH={pitch}",), banks=True)
        kernel((1,), (32, 32), (x, y))
        assert kernel.bank_uses == {
            "kernel.cu:4": (32, 32, 1), "kernel.cu:6": (32, passes, passes // 32), "kernel.cu:7": (32, 32, 1)
        }  # fmt: skip
        assert kernel.sector_uses == {
            "kernel.cu:4": (128, 128, 4), "kernel.cu:6": (128, 128, 4), "kernel.cu:7": (128, 1024, 32)
        }  # fmt: skip
    kernel = RawKernel(TURN, "turn", ("-DPITCH=33",))
    kernel((1,), (32, 32), (x, y))
    assert not kernel.bank_uses and not kernel.sector_uses


def test_the_command_reports_line_by_line(capsys):
    assert emulate.main(["quantize", "--rung", "all", "--banks", "--seeds", "1"]) == 0
    out = capsys.readouterr().out
    assert "1_naive.cu: right, nothing found" in out and "  no shared memory was used\n" in out
    lines = [line for line in out.splitlines() if line.startswith("  2_tiled.cu:") and "sectors" not in line]
    assert len(lines) >= 2 and all("passes through shared memory, without bank conflicts " in line for line in lines)
    lines = [line for line in out.splitlines() if line.startswith("  1_naive.cu:")]
    assert len(lines) >= 2 and all("sectors of global memory, side by side " in line for line in lines)
    assert emulate.main(["quantize", "--rung", "2", "--seeds", "1"]) == 0
    out = capsys.readouterr().out
    assert "passes" not in out and "sectors" not in out
