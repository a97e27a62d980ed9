"""Rules of the emulator that need a launch of their own, and what findings say word for word."""

import re

import numpy as np
import pytest
from emulation import kept
from rungs import needs_compiler

from kernels.emulator import DoesNotCompile, Emulator, planted
from kernels.emulator.tools import compiler
from kernels.tensor_map import Im2colMap, TensorMap

pytestmark = needs_compiler
SEEDS = range(5)


def run(body, arrays, threads=32, *, grid=1, seed=0, device=None, name="kernel.cu", blocks=1, **settings):
    """Run a kernel, whose parameters are the arrays, maps and numbers, and whose body begins in line 4."""
    types = {"f4": "float*", "i4": "int*", "u2": "unsigned short*"}
    words = {k: types[v.dtype.str[1:]] if isinstance(v, np.ndarray) else "int" for k, v in arrays.items()}
    words |= {k: "const __grid_constant__ TensorMap" for k, v in arrays.items() if isinstance(v, TensorMap)}
    attributes = f"__launch_bounds__(256, 2) __cluster_dims__({blocks}, 1, 1)"
    head = f'extern "C" __global__ void {attributes} k({", ".join(f"{word} {k}" for k, word in words.items())})'
    text = f'#include "lib/ptx90.cuh"\n\n{head} {{\n{body}\n}}\n'
    device = device or Emulator(seed)
    device.run(kept(name, text), "k", grid, threads, arrays, **settings)
    return device


def kinds(device):
    return {f.kind for f in device.findings}


def test_a_warp_may_meet_in_more_than_64_groups():
    body = """for (int mask = 1; mask < 128; mask++)
        if (mask >> threadIdx.x & 1) y[threadIdx.x] += __popc(__ballot_sync(mask, 1));"""
    y = np.zeros(32, np.float32)
    run(body, {"y": y}).check()
    want = [sum(m.bit_count() for m in range(128) if m >> lane & 1) for lane in range(32)]
    np.testing.assert_array_equal(y, want)


@pytest.mark.parametrize("body", [
    "for (int o = 16; o >= 0; o /= 2) v += __shfl_down_sync(~0u, v, o);",
    "while (__any_sync(~0u, 1)) v++;",
    "for (int o = 16; o >= 0; o /= 2) __syncthreads();",
    "for (int o = 16; o >= 0; o /= 2) __syncwarp();",
    "while (__syncthreads_count(1)) v++;",
    "for (;;) named_barrier_sync(1, 32);",
])  # fmt: skip
def test_a_loop_that_only_meets_does_not_go_on_forever(body):
    device = run(
        f"unsigned v = threadIdx.x; {body} y[threadIdx.x] = v;",
        {"y": np.zeros(32, np.float32)},
        device=Emulator(most_accesses=1000),
    )
    assert kinds(device) == {"endless"}


@pytest.mark.parametrize("width", [0, -1, 12, 33, 64])
@pytest.mark.parametrize("shuffle", ["", "_xor", "_up", "_down"])
def test_groups_of_lanes_that_a_shuffle_cannot_have(shuffle, width):
    body = f"y[threadIdx.x] = __shfl{shuffle}_sync(~0u, y[threadIdx.x], 1, w);"
    device = run(body, {"y": np.zeros(32, np.float32), "w": width})
    (finding,) = device.findings
    assert (
        finding.kind == "bad operand"
        and f"in groups of {width} lanes: they have 1, 2, 4, 8, 16 or 32" in finding.message
    )


@pytest.mark.parametrize("name", ["Max", "Min_block", "Sub", "Xor", "Inc"])
def test_atomics_that_cuda_has_for_whole_numbers_only(name):
    with pytest.raises(DoesNotCompile, match=f"atomic{name.partition('_')[0]} is of whole numbers only"):
        run(f"atomic{name}(y, 1.0f);", {"y": np.zeros(32, np.float32)})


@pytest.mark.parametrize(
    ("threads", "body", "kind", "said"),
    [
        (48, "mma_bf16(d, a, 0, 0);", "lane", "an instruction for 32 lanes in a warp that has 16"),
        (
            96,
            "wgmma_fence(); wgmma_bf16(w, 0, 0);",
            "bad operand",
            "wgmma is for four warps, and this group has only 96",
        ),
        (
            96,
            "registers_down<24>();",
            "bad operand",
            "registers move to and from four warps, and this group has only 96",
        ),
    ],
)
def test_a_group_that_is_too_small_is_told(threads, body, kind, said):
    start = "unsigned a[4] = {}; float d[4] = {}, w[32] = {};"
    device = run(f"{start} {body} y[threadIdx.x] = d[0] + w[0];", {"y": np.zeros(256, np.float32)}, threads)
    assert any(f.kind == kind and said in f.message for f in device.findings), device.findings


@pytest.mark.parametrize("between", [" ", "\n"])
@pytest.mark.parametrize("other", ["mma_bf16(d, a, 0, 1);", "ldmatrix(a, tile + threadIdx.x * 8);"])
def test_lanes_at_two_instructions_diverge_and_go_on_only_where_it_is_the_same_one(other, between):
    """On one line it may be one call, of which the compiler made two copies."""
    body = f"""__shared__ __align__(16) bf16 tile[32 * 8];
    for (int i = 0; i < 8; i++) tile[threadIdx.x * 8 + i] = bf16();
    unsigned a[4] = {{}}; float d[4] = {{1}};
    __syncthreads();
    if (threadIdx.x < 16) mma_bf16(d, a, 0, 0);{between}else {other}
    y[threadIdx.x] = d[0] + a[0];"""
    y, same = np.zeros(32, np.float32), other.startswith("mma")
    device = run(body, {"y": y})
    assert kinds(device) == (set() if same and between == " " else {"divergence"}) and (y == same).all()
    assert all(("for another instruction" in f.message) != same for f in device.findings)


def test_a_named_barrier_of_two_sizes_is_told_where_it_is_one_call():
    device = run(
        "named_barrier_sync(1, threadIdx.x < 32 ? 32 : 64); y[threadIdx.x] = 1;", {"y": np.zeros(64, np.float32)}, 64
    )
    (finding,) = device.findings
    assert finding.kind == "divergence" and re.search(r"for (32|64) threads, where it is for (32|64)", finding.message)


def test_dynamic_shared_memory_that_nobody_wrote_is_nan_in_every_block():
    body = """DYNAMIC_SHARED(float, row);
    y[blockIdx.x] = row[0];
    row[0] = 1;"""
    y = np.zeros(3, np.float32)
    device = run(body, {"y": y}, 1, grid=3, shared_bytes=16)
    assert kinds(device) == {"uninitialised"} and np.isnan(y).all()


def test_dynamic_shared_memory_ends_at_its_last_byte():
    body = "DYNAMIC_SHARED(unsigned char, row); row[n] = 1; y[0] = row[n];"
    for at, found in ((4, set()), (5, {"out of range"})):
        assert kinds(run(body, {"y": np.zeros(1, np.float32), "n": at}, 1, shared_bytes=5)) == found


def test_an_access_may_not_end_beside_an_array():
    body = "const float4 four = *reinterpret_cast<const float4*>(x + 4 * n); y[0] = four.x;"
    for n, found in ((2, set()), (3, {"out of range"})):
        x = np.ones(14, np.float32)[-(-np.ones(1).ctypes.data // 4) % 1 :]
        assert kinds(run(body, {"x": x, "y": np.zeros(1, np.float32), "n": n}, 1)) == found


def test_bytes_of_one_number_may_have_been_written_by_different_launches():
    device = Emulator()
    h, y = device.empty((8,), np.uint16), np.zeros(8, np.float32)
    for first, missing in ((0, {1, 3, 5, 7}), (1, set())):
        run("h[2 * threadIdx.x + n] = 7;", {"h": h, "n": first}, 4, device=device)
        device.findings.clear()
        run("y[threadIdx.x] = h[threadIdx.x];", {"h": h, "y": y}, 8, device=device)
        assert kinds(device) == ({"uninitialised"} if missing else set())
        device.findings.clear()
        device.result(h)
        assert [f.message for f in device.findings] == (
            ["4 of 8 elements of the result were never written, the first at (1,)"] if missing else []
        )


def test_what_the_host_writes_into_new_memory_is_written():
    """But for numbers all of whose bits are 1, of which nobody can tell, and for the rest of what a kernel wrote a part of."""
    for value, kind in ((0, set()), (0x00FFFFFF, set()), (-1, {"uninitialised"})):
        device = Emulator()
        y = device.empty((8,), np.int32)
        y[:5] = value
        run("atomicAdd(y + threadIdx.x, n);", {"y": y, "n": 1}, 5, device=device)
        assert kinds(device) == kind and y[:5].tolist() == [value + 1] * 5
        device.findings.clear()
        run("atomicAdd(y + threadIdx.x, n);", {"y": y, "n": 1}, 6, device=device)
        assert kinds(device) == {"uninitialised"}
        assert "element (5,) of y (8,), int32" in device.findings[-1].message
    device = Emulator()
    y, h = device.empty((4,), np.float32), device.empty((4,), np.int32)
    y[...] = 0
    assert device.result(y) is y and not device.findings
    run("*reinterpret_cast<short*>(h + threadIdx.x) = 0;", {"h": h}, 4, device=device)
    device.result(h)
    assert "4 of 4 elements of the result were never written" in device.findings[0].message


def test_a_wrong_value_has_no_line_of_another_file():
    device = Emulator()
    y = device.empty((2,), np.float32)
    run("y[0] = 1;", {"y": y}, 1, device=device, name="first.cu")
    run("\n\ny[1] = 2;", {"y": y}, 1, device=device, name="second.cu")
    device.expect(y, [1, 3])
    device.expect(y, [2, 2])
    assert [f.where for f in device.findings] == ["second.cu:6", "the result"]


def test_reads_are_forgotten_only_if_they_came_before():
    """However many reads there were, the other thread's last one races with a write."""
    body = """for (int i = 0; i < n; i++) {
        sum[threadIdx.x] += y[0];
        __syncwarp();
    }
    sum[threadIdx.x] += y[0];
    if (threadIdx.x == 1) y[0] = 2;"""
    for n in range(6):
        for seed in SEEDS:
            arrays = {"y": np.ones(1, np.float32), "sum": np.zeros(2, np.float32), "n": n}
            assert kinds(run(body, arrays, 2, seed=seed)) == {"race"}, (n, seed)


def test_a_race_says_who_did_what():
    body = """__shared__ int sum;
    if (threadIdx.x == 33) sum = 1;
    __syncthreads();
    if (threadIdx.x < 2) atomicAdd(&sum, 1);
    if (threadIdx.x == 40) sum = 2;
    if (blockIdx.z == 2 && threadIdx.x == 7) y[7] = 1;"""
    said = "\n".join(
        str(f) for s in SEEDS for f in run(body, {"y": np.zeros(7, "f")}, 64, grid=(1, 2, 3), seed=s).findings
    )
    assert "kernel.cu:7: race: atomic operation of 4 bytes at byte 0 of sum by thread " in said
    assert "and a write by thread 40 at kernel.cu:8, and nothing orders the two" in said
    assert "and an atomic operation by thread " in said
    assert "element (7,) of y (7,), float32, by thread 7 of block (0, " in said
    assert {f"of block (0, {i}, 2)" in said for i in range(2)} == {True}


def test_who_visits_a_block_that_may_be_gone_is_named():
    body = """__shared__ float number;
    if (threadIdx.x == 0) number = 1;
    cluster_sync();
    if (cluster_rank() == 1 && threadIdx.x == 5) y[0] = cluster_load(&number, 0);"""
    (found,) = run(body, {"y": np.zeros(1, "f")}, 8, grid=4, blocks=4).findings
    assert found.message == (
        "an access to the shared memory of block 0 of the cluster, which may have returned before "
        "(thread 5 of block (1, 0, 0))"
    )


MADE = """__shared__ __align__(128) float tile[2][32];
    __shared__ mbarrier full[2];
    __shared__ int come;
    const int t = threadIdx.x, part = t / 32;
    if (t == 0) {
        come = 0;
        for (int i = 0; i < 2; i++) mbarrier_init(&full[i], 1);
        fence_mbarrier_init();
    }
    __syncthreads();
"""


def test_copies_arrive_in_any_order():
    body = f"""{MADE}
    if (t == 0)
        for (int i = 0; i < 2; i++) {{
            mbarrier_arrive_expect(&full[i], 128);
            tma_load(tile[i], &x, &full[i], 0, i);
        }}
    mbarrier_wait(&full[part], 0);
    if (t % 32 == 0) y[part] = atomicAdd(&come, 1);"""
    x, orders = TensorMap(np.ones((2, 32), np.float32), (1, 32)), set()
    for seed in range(8):
        y = np.zeros(2, np.int32)
        run(body, {"x": x, "y": y}, 64, seed=seed).check()
        orders.add(tuple(y))
    assert orders == {(0, 1), (1, 0)}


def test_blocks_run_in_any_order():
    orders = set()
    for seed in range(8):
        y = np.zeros(5, np.int32)
        run("y[1 + blockIdx.x] = atomicAdd(&y[0], 1);", {"y": y}, 1, grid=4, seed=seed).check()
        orders.add(tuple(y[1:]))
    assert len(orders) > 4 and all(sorted(order) == [0, 1, 2, 3] for order in orders)


@pytest.mark.parametrize(
    ("column", "row", "down", "said"),
    [
        (-1, 1, 2, ""),
        (0, 1, 2, "no window begins at column 0"),
        (-1, 0, 2, "no window begins at row 0"),
        (-3, 1, 2, "no window begins at column -3"),
        (-1, 5, 2, "no window begins at row 5"),
        (-1, 1, 256, "an offset of 256 within the window"),
    ],
)
def test_windows_begin_where_the_map_says(column, row, down, said):
    body = f"""{MADE}
    if (t == 0) {{
        mbarrier_arrive_expect(&full[0], 2 * 16);
        tma_load_windows(tile[0], &x, &full[0], 0, column, row, 0, 1, down);
    }}
    mbarrier_wait(&full[0], 0);
    if (t < 8) y[t] = tile[0][t];"""
    images = np.arange(64, dtype=np.float32).reshape(1, 4, 4, 4)
    x = Im2colMap(images, (2, 4), start=(-1, -1), windows=(2, 2), stride=(2, 2))
    y = np.zeros((2, 4), np.float32)
    device = run(body, {"x": x, "y": y, "column": column, "row": row, "down": down}, 32)
    assert [said in f.message for f in device.findings] == [True] * bool(said), device.findings
    if not said:
        np.testing.assert_array_equal(y, images[0, 3, [0, 2]])


@pytest.mark.parametrize(
    ("arriving", "waiting"),
    [
        (
            "named_barrier_arrive(1, 64); if (t == 0) *tile = 0;",
            "named_barrier_sync(1, 64); if (t == 32) y[0] = *tile;",
        ),
        (
            "named_barrier_arrive(1, 64); if (t == 0) y[0] = *tile;",
            "if (t == 32) *tile = 0; named_barrier_sync(1, 64);",
        ),
    ],
)
def test_who_arrives_and_does_not_wait_is_ordered_by_nothing_even_as_the_last(arriving, waiting):
    """Two threads come later than all others."""
    body = f"""__shared__ float tile[1];
    const int t = threadIdx.x;
    if (t < 2) for (int i = 0; i < 20; i++) __syncwarp(3);
    if (t < 32) {{ {arriving} }} else {{ {waiting} }}"""
    for seed in range(10):
        assert "race" in kinds(run(body, {"y": np.zeros(1, "f")}, 64, seed=seed)), seed


def test_who_waits_at_an_mbarrier_is_told_how_many_are_missing():
    device = Emulator(most_accesses=100_000)
    planted.judge(device, planted.file_of("planted90.cu"), "never_released")
    assert any(
        "1 wait here for the end of an mbarrier's phase, 32 arrivals missing" in f.message for f in device.findings
    )


WAIT = "wgmma_wait<0>(); __syncthreads(), (void)0)"
PRODUCT = "wgmma_bf16(d, wgmma_descriptor(tile + k), wgmma_descriptor(j + k));"


@pytest.mark.parametrize(
    ("old", "new"), [(WAIT, WAIT.replace("0", "1", 1)), (PRODUCT, f"{{ {PRODUCT} if (k == 16) d[3] += 1; }}")]
)
def test_sums_and_operands_are_left_alone_up_to_the_wait(old, new):
    """If it leaves the newest group under way; and between two products of a group."""
    text = planted.file_of("planted90a.cu").read_text()
    assert old in text
    if old is PRODUCT:
        text = text.replace(f"{old}  ", f"{new}  ")
    device = Emulator()
    planted.judge(device, kept("planted90a.cu", text.replace(old, new) if old is WAIT else text), "products")
    assert kinds(device) == {"missing wait"}


def test_sums_are_undecided_until_the_wait(each_compiler):
    """Even those that the products leave as they were: here one is kept, and put back after the wait."""
    text = planted.file_of("planted90a.cu").read_text()
    early = text.replace(WAIT, "const float early = d[5]; wgmma_wait<0>(), __syncthreads(); d[5] = early)", 1)
    assert early != text
    device = Emulator()
    y = planted.judge(device, kept("planted90a.cu", early), "products")
    row, column = np.indices(y.shape)
    np.testing.assert_array_equal(np.isnan(y), (row % 16 < 8) & (column // 8 == 1) & (column % 2 == 1))
    assert kinds(device) == ({"wrong value"} if "clang" in compiler() else {"missing wait"})


def test_a_deadlock_of_lanes_speaks_of_its_warp_only():
    body = """if (threadIdx.x < 16 || threadIdx.x >= 32) __syncthreads();
    else __shfl_sync(0xffff0001u, 1, 0);"""
    (said,) = [m for f in run(body, {"y": np.zeros(1, "f")}, 64).findings if (m := f.message).startswith("thread 16 ")]
    assert "16 wait here, 0 have returned, 1 wait elsewhere; thread 0 waits at kernel.cu:4" in said


def test_numbers_that_are_none_stay_so():
    body = """const float nan = __int_as_float(bits[0]), inf = INFINITY;
    h[0] = to_bf16(nan).bits;
    h[1] = to_fp16(nan).bits;
    h[2] = to_bf16(-inf).bits;
    h[3] = to_fp16(-inf).bits;
    y[0] = to_float(fp16{0x7fff});
    y[1] = to_float(fp16{0xfc00});
    y[2] = __uint_as_float(to_tf32(nan));
    y[3] = __uint_as_float(to_tf32(-inf));"""
    for bits in (2**31 - 1, -1, 0x7F800001):
        h, y = np.zeros(4, np.uint16), np.zeros(4, np.float32)
        run(body, {"h": h, "y": y, "bits": np.array([bits], np.int32)}, 1).check()
        assert h.tolist() == [0x7FFF, 0x7FFF, 0xFF80, 0xFC00]
        np.testing.assert_array_equal(y, np.float32([np.nan, -np.inf, np.nan, -np.inf]))


def test_every_line_and_every_pair_of_lines_is_a_finding():
    body = "\n".join(f"if (threadIdx.x == {i}) y[{i + 1}] = 1;" for i in range(20))
    assert [f.where for f in run(body, {"y": np.zeros(1, "f")}).findings if f.kind != "out of range"] == []
    found = run(body, {"y": np.zeros(1, "f")}).findings
    assert {f.where for f in found} == {f"kernel.cu:{4 + i}" for i in range(20)}
    body = """if (threadIdx.x == 0) y[0] = 1;
    if (threadIdx.x == 1) y[1] = y[0];
    if (threadIdx.x == 2) y[2] = y[0];"""
    pairs = [
        {(f.where[-1], f.other_where[-1]) for f in run(body, {"y": np.zeros(3, "f")}, seed=s).findings}
        for s in range(8)
    ]
    assert {("4", "5"), ("4", "6")} in pairs


def test_another_threads_variables_are_out_of_reach():
    body = """__shared__ float* theirs;
    float mine = 1;
    if (threadIdx.x == 1) theirs = &mine;
    __syncthreads();
    if (threadIdx.x == 0) *theirs = 2;
    __syncthreads();
    y[threadIdx.x] = mine;"""
    found = run(body, {"y": np.zeros(2, "f")}, 2).findings
    assert [(f.kind, f.where) for f in found] == [("wild address", "kernel.cu:8")]


def test_accesses_are_those_of_the_launches():
    device, y = Emulator(), np.zeros(32, np.float32)
    counts = []
    for _ in range(2):
        run("y[threadIdx.x] = 1;", {"y": y}, device=device)
        counts.append(device.accesses)
    assert counts[1] == 2 * counts[0] > 0


def test_a_race_of_two_blocks_names_the_last_write():
    body = """if (blockIdx.x == 0) {
        y[0] = 1;
        atomicAdd(y, 1.0f);
        y[0] = 2;
    } else y[1] = y[0];"""
    found = [f for s in SEEDS for f in run(body, {"y": np.zeros(2, "f")}, 1, grid=2, seed=s).findings]
    assert {f.other_where for f in found if f.where == "kernel.cu:8"} == {"kernel.cu:7"}
