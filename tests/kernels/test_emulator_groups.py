"""Cooperative groups: known answers by both compilers, a sum by tiles, and what is wrong with a group, at its line."""

import numpy as np
import pytest
from emulation import write
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rungs import emulated, needs_compiler, needs_nvrtc

from kernels import launch
from kernels.emulator import DoesNotCompile, Emulator

pytestmark = needs_compiler

INCLUDES = "".join(f"#include <cooperative_groups{part}.h>\n" for part in ("", "/reduce", "/scan"))
BEFORE = f"""{INCLUDES}namespace cg = cooperative_groups;
struct Pair {{ double sum; float product; int most; }};
struct Wide {{ double a, b, c; int d; }};
struct Five {{ int x[5]; }};
__device__ Pair joined(Pair a, Pair b) {{ return {{a.sum + b.sum, a.product * b.product, max(a.most, b.most)}}; }}
template <class Group> __device__ int size_of(const Group& group) {{ return group.size(); }}
__device__ int rank_in(cg::thread_group group) {{ return group.thread_rank(); }}
__device__ int rank_in_8(cg::thread_block_tile<8> tile) {{ return tile.thread_rank(); }}
"""
FIRST = 4 + BEFORE.count("\n")  # a kernel's first line
GROUPS = """
    auto grid = cg::this_grid();
    auto block = cg::this_thread_block();
    auto tile = cg::tiled_partition<8>(block);
    auto small = cg::tiled_partition<2>(tile);
    cg::thread_group four = cg::tiled_partition(block, 4);
    const int t = block.thread_rank();
    auto label = cg::labeled_partition(tile, t % 3);
    auto parts = cg::binary_partition(tile, t % 8 == 5);
    auto halves = cg::tiled_partition(parts, 4);
    int all = 7;
"""
T, B = np.arange(48), np.arange(3)[:, None]  # of a block of 6 x 4 x 2 threads, and of blocks
R, TILE = T % 8, T // 8 * 8  # the rank in a tile of 8, its first thread
LONE = R == 5
SAME = [[j for j in range(8) if (TILE[i] + j) % 3 == i % 3] for i in T]  # the ranks whose number leaves the same rest
OTHERS = [0, 1, 2, 3, 4, 6, 7]
ANSWERS = {
    "block.size() + block.num_threads()": 96,
    "block.thread_rank()": T,
    "block.thread_index().x + 6 * block.thread_index().y + 24 * block.thread_index().z": T,
    "block.group_index().x": B,
    "block.group_dim().x * 100 + block.dim_threads().z": 602,
    "grid.thread_rank()": 48 * B + T,
    "grid.size() + grid.num_threads()": 288,
    "grid.block_rank() * 10 + grid.num_blocks()": 10 * B + 3,
    "grid.dim_blocks().x + grid.is_valid()": 3,
    "tile.size() + tile.num_threads()": 16,
    "tile.thread_rank()": R,
    "tile.meta_group_rank() * 10 + tile.meta_group_size()": T // 8 * 10 + 6,
    "small.meta_group_rank() * 10 + small.meta_group_size()": R // 2 * 10 + 4,
    "four.thread_rank() * 10 + four.size()": T % 4 * 10 + 4,
    "size_of(four) + size_of(tile) + size_of(block) + size_of(cg::this_thread())": 61,
    "rank_in(block)": T,
    "rank_in(grid)": 48 * B + T,
    "rank_in(tile) * 10 + rank_in_8(tile)": R * 11,
    "cg::thread_rank(small) + cg::group_size(block)": T % 2 + 48,
    "decltype(tile)::size() + cg::thread_block::thread_rank()": 8 + T,
    "tile.shfl(t, 3)": TILE + 3,
    "tile.shfl(t, 11)": TILE + 3,
    "tile.shfl_up(t, 3)": np.where(R >= 3, T - 3, T),
    "tile.shfl_down(t, 3)": np.where(R < 5, T + 3, T),
    "tile.shfl_xor(t, 5)": T ^ 5,
    "small.shfl(t, 1)": T | 1,
    "tile.shfl(Wide{1.0 * t, 2, 3, t}, 6).d * 100 + tile.shfl(Wide{1.0 * t, 2, 3, t}, 2).a": (TILE + 6) * 100
    + TILE
    + 2,
    "tile.shfl(Five{{0, 1, 2, 3, t}}, 6).x[4]": TILE + 6,
    "tile.any(t == 9) * 2 + tile.all(t >= 8)": 2 * (TILE == 8) + (TILE >= 8),
    "tile.ballot(t % 3 == 0)": [sum(((TILE[i] + j) % 3 == 0) << j for j in range(8)) for i in T],
    "tile.match_any(t % 3)": [sum(1 << j for j in ranks) for ranks in SAME],
    "tile.match_all(t / 16, all) * 2 + all": 255 * 2 + 1,
    "tile.match_all(t / 4, all) * 2 + all": 0,
    "cg::reduce(tile, t, cg::plus<int>())": 8 * TILE + 28,
    "cg::reduce(tile, t, cg::less<int>()) * 100 + cg::reduce(tile, t, cg::greater<int>())": 101 * TILE + 7,
    "cg::reduce(tile, t | 1, cg::bit_and<int>())": TILE | 1,
    "cg::reduce(tile, t, cg::bit_or<int>()) + cg::reduce(tile, 1 << R, cg::bit_xor<int>())": TILE + 7 + 255,
    "cg::reduce(tile, 0.5f * t, cg::plus<float>())": 4 * TILE + 14,
    "cg::reduce(tile, Pair{1.0 * t, 2, -t}, joined).sum": 8 * TILE + 28,
    "cg::reduce(tile, Pair{1.0 * t, 2, -t}, joined).product": 256,
    "cg::reduce(tile, Pair{1.0 * t, 2, -t}, joined).most": -TILE,
    "cg::reduce(tile, t, [=](int a, int b) { return a + b + one; })": 8 * TILE + 35,
    "cg::inclusive_scan(tile, R)": R * (R + 1) // 2,
    "cg::exclusive_scan(tile, R)": R * (R - 1) // 2,
    "cg::inclusive_scan(tile, t, cg::greater<int>())": T,
    "cg::exclusive_scan(tile, t + 1, cg::greater<int>())": np.where(R, T, 0),
    "label.size() * 10 + label.thread_rank()": [10 * len(ranks) + ranks.index(i % 8) for i, ranks in zip(T, SAME)],
    "label.meta_group_rank() * 10 + label.meta_group_size()": [
        10 * sorted({ranks[0] for ranks in SAME[i // 8 * 8 :][:8]}).index(SAME[i][0]) + 3 for i in T
    ],
    "label.shfl(t, 1)": [TILE[i] + SAME[i][1] for i in T],
    "label.shfl_down(t, 1)": [i + 3 if R[i] + 3 < 8 else i for i in T],
    "label.shfl_up(t, 1)": [i - 3 if R[i] >= 3 else i for i in T],
    "label.ballot(R > 2)": [sum((rank > 2) << i for i, rank in enumerate(ranks)) for ranks in SAME],
    "label.match_any(R > 2) * 2 + label.all(R < 8)": [
        2 * sum(((r > 2) == (R[i] > 2)) << k for k, r in enumerate(SAME[i])) + 1 for i in T
    ],
    "cg::reduce(label, R, cg::plus<int>())": [sum(ranks) for ranks in SAME],
    "cg::reduce(parts, R, cg::plus<int>())": np.where(LONE, 5, sum(OTHERS)),
    "parts.size() * 100 + parts.meta_group_rank() * 10 + parts.meta_group_size()": np.where(LONE, 112, 702),
    "cg::inclusive_scan(parts, R)": np.where(LONE, 5, [sum(j for j in OTHERS if j <= r) for r in R]),
    "cg::binary_partition(tile, true).meta_group_size()": 1,
    "halves.size() * 100 + halves.meta_group_rank() * 10 + halves.meta_group_size()": np.where(
        LONE, 101, np.where(R < 4, 402, 312)
    ),
    "cg::reduce(halves, R, cg::plus<int>())": np.where(LONE, 5, np.where(R < 4, 6, 17)),
}


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    lines = [f"y[{i} + {len(ANSWERS)} * grid.thread_rank()] = double({call});" for i, call in enumerate(ANSWERS)]
    body = "\n".join([GROUPS, "const int R = tile.thread_rank();", *lines])
    return write(tmp_path_factory.mktemp("answers"), body, "double* y, int one", BEFORE)


@pytest.mark.usefixtures("each_compiler")
def test_groups_have_the_answers_that_are_known(answers):
    for seed in range(2):
        device = Emulator(seed)
        y = device.empty((3, 48, len(ANSWERS)), np.float64)
        device.run(answers, "k", 3, (6, 4, 2), {"y": y, "one": 1})
        device.check()
        for i, (call, want) in enumerate(ANSWERS.items()):
            np.testing.assert_array_equal(y[..., i], np.broadcast_to(want, (3, 48)), call)


@needs_nvrtc
def test_a_gpus_compiler_knows_them_too(answers):
    launch.compile_for(answers, "90")


# --- a reduction ------------------------------------------------------------------------------------------------------

SUM = """
    const auto block = cg::this_thread_block();
    const auto tile = cg::tiled_partition<SIZE>(block);
    __shared__ int sums[1024];
    int sum = 0;
    for (int i = block.thread_rank(); i < n; i += block.size()) sum += x[i];
    sum = cg::reduce(tile, sum, cg::plus<int>());
    if (tile.thread_rank() == 0) sums[tile.meta_group_rank()] = sum;
    block.sync();
    if (block.thread_rank()) return;
    for (int i = 1; i < tile.meta_group_size(); i++) sum += sums[i];
    y[0] = sum;
"""


@pytest.fixture(scope="module")
def sum_file(tmp_path_factory):
    return write(tmp_path_factory.mktemp("sum"), SUM, "const int* x, int* y, int n", BEFORE)


@settings(max_examples=25)
@given(
    size=st.sampled_from([1, 2, 4, 8, 16, 32]), tiles=st.integers(1, 40), n=st.integers(0, 300), seed=st.integers(0, 99)
)
@example(size=32, tiles=32, n=1024, seed=0)
def test_a_block_adds_by_tiles(sum_file, size, tiles, n, seed):
    tiles = min(tiles, 1024 // size)
    x = np.random.default_rng(seed).integers(-1000, 1000, max(n, 1)).astype(np.int32)

    def run(device):
        y = device.empty((1,), np.int32)
        arguments = {"x": x, "y": y, "n": n}
        device.run(sum_file, "k", 1, size * tiles, arguments, defines={"SIZE": size})
        return device.result(y)

    assert emulated(run, seed) == (x[:n].sum(),)


# --- what is wrong ----------------------------------------------------------------------------------------------------


def found(tmp_path, body, threads=16, parameters="int* y", seed=0):
    """The kinds and lines of what is found, the lines counted from the body's first."""
    device = Emulator(seed)
    y = np.zeros(64, np.int32)
    device.run(write(tmp_path, body, parameters, BEFORE), "k", 1, threads, {"y": y})
    lines = {f.where.partition(":")[0] for f in device.findings}
    assert lines <= {"kernel.cu"}
    return {(f.kind, int(f.where.partition(":")[2]) - FIRST) for f in device.findings}


EXCHANGE = """auto tile = cg::tiled_partition<8>(cg::this_thread_block()); auto small = cg::tiled_partition<2>(tile);
const int t = threadIdx.x; __shared__ int shared[64];
shared[t] = t;
SYNC
y[t] = shared[t ^ 2];"""


@pytest.mark.usefixtures("each_compiler")
@pytest.mark.parametrize(
    ("sync", "lines"),
    [
        ("tile.sync();", set()),
        ("cg::sync(tile);", set()),
        ("cg::thread_group group = tile; group.sync();", set()),
        ("cg::tiled_partition(cg::this_thread_block(), 4).sync();", set()),
        ("cg::labeled_partition(tile, t & 1).sync();", set()),
        ("cg::this_thread_block().sync();", set()),
        ("", {2, 4}),
        ("small.sync();", {2, 4}),
        ("tile.any(1);", {2, 4}),  # which makes lanes wait and does not order what they do
    ],
)
def test_a_sync_that_was_forgotten_is_a_race(sync, lines, tmp_path):
    for seed in range(3):
        got = found(tmp_path, EXCHANGE.replace("SYNC", sync), seed=seed)
        kinds = {kind for kind, _ in got}
        assert kinds <= {"race", "uninitialised"} and ("race" in kinds) == bool(lines)
        assert {line for _, line in got} <= lines


DIVERGENT = """auto tile = cg::tiled_partition<8>(cg::this_thread_block());
if (CONDITION)
tile.sync();
else
ELSE;"""


@pytest.mark.usefixtures("each_compiler")
@pytest.mark.parametrize(
    ("condition", "other", "kind"),
    [
        ("tile.meta_group_rank() == 0", "tile.sync()", None),
        ("tile.meta_group_rank() == 0", "return", None),
        ("tile.thread_rank() == 0", "tile.sync()", "divergence"),
        ("tile.thread_rank() == 0", "tile.any(1)", "divergence"),
        ("tile.thread_rank() == 0", "return", None),  # it waits for those that have not returned
        ("threadIdx.x == 0", "__syncthreads()", "deadlock"),
    ],
)
def test_a_tile_that_is_not_together(condition, other, kind, tmp_path):
    got = found(tmp_path, DIVERGENT.replace("CONDITION", condition).replace("ELSE", other))
    assert {k for k, _ in got} == ({kind} if kind else set()) and {line for _, line in got} <= {2, 4}


@pytest.mark.usefixtures("each_compiler")
def test_a_block_that_is_not_together(tmp_path):
    body = "auto block = cg::this_thread_block();\nif (threadIdx.x < 9)\nblock.sync();\nelse\ncg::sync(block);"
    ((kind, line),) = found(tmp_path, body)
    assert kind == "divergence" and line in (2, 4)


RETURNED = """auto tile = cg::tiled_partition<8>(cg::this_thread_block()); const int t = threadIdx.x;
if (t == 5) return;
y[t] = CALL;"""


@pytest.mark.usefixtures("each_compiler")
@pytest.mark.parametrize(
    ("call", "found_there"),
    [
        ("tile.shfl(t, 5)", True),
        ("tile.shfl(t, 4)", False),
        ("cg::reduce(tile, t, cg::plus<int>())", True),
        ("cg::inclusive_scan(tile, t)", True),
        ("cg::reduce(cg::binary_partition(tile, true), t, cg::plus<int>())", False),
    ],
)
def test_nobody_reads_from_a_lane_that_has_returned(call, found_there, tmp_path):
    assert found(tmp_path, RETURNED.replace("CALL", call), threads=8) == ({("lane", 2)} if found_there else set())


ALONE = """auto block = cg::this_thread_block(); auto tile = cg::tiled_partition<8>(block);
cg::thread_group group = tile; auto part = cg::binary_partition(tile, threadIdx.x % 8 < 3); int all;
if (threadIdx.x % 8 == 1)
y[0] = CALL;
__syncthreads();"""
CALLS = [
    "(tile.sync(), 0)", "(group.sync(), 0)", "(cg::sync(part), 0)", "tile.shfl(1, 2)",
    "tile.shfl_up(1, 2)", "tile.shfl_down(1, 2)", "tile.shfl_xor(1, 2)", "part.shfl(1, 2)", "tile.any(1)",
    "tile.all(1)", "tile.ballot(1)", "part.match_any(1)", "tile.match_all(1, all)", "cg::reduce(part, 1, cg::plus<int>())",
    "cg::inclusive_scan(tile, 1)", "cg::exclusive_scan(tile, 1, cg::plus<int>())",
    "cg::labeled_partition(tile, 1).size()", "cg::binary_partition(part, 1).size()",
]  # fmt: skip


@pytest.mark.usefixtures("each_compiler")
@pytest.mark.parametrize("call", CALLS)
def test_a_lane_that_waits_alone_is_named_at_its_line(call, tmp_path):
    assert found(tmp_path, ALONE.replace("CALL", call), threads=8) == {("deadlock", 3), ("deadlock", 4)}


@pytest.mark.usefixtures("each_compiler")
def test_what_a_reduction_is_given_is_read_at_its_line(tmp_path):
    body = """auto tile = cg::tiled_partition<8>(cg::this_thread_block()); __shared__ Pair pairs[8];
pairs[threadIdx.x % 7] = {1, 2, 3};
tile.sync();
y[threadIdx.x] = cg::reduce(tile, pairs[threadIdx.x], joined).most;"""
    assert found(tmp_path, body, threads=8) == {("race", 1), ("uninitialised", 3)}


@pytest.mark.usefixtures("each_compiler")
@pytest.mark.parametrize(
    ("call", "threads", "said"),
    [
        ("cg::tiled_partition<32>(block)", 48, "a block must be whole tiles, and 16 of its threads are left"),
        ("cg::tiled_partition(block, 4)", 7, "a block must be whole tiles, and 3 of its threads are left"),
        ("cg::tiled_partition(block, 6)", 6, "a tile has 1, 2, 4, 8, 16 or 32 threads, not 6"),
        ("cg::tiled_partition(block, 64)", 64, "a tile has 1, 2, 4, 8, 16 or 32 threads, not 64"),
        ("cg::coalesced_threads().shfl(1, 1)", 4, "a group has no thread of rank 1"),
        ("cg::tiled_partition<4>(block).shfl_xor(1, 4)", 4, "a group has no thread of rank"),
    ],
)
def test_what_a_group_cannot_do(call, threads, said, tmp_path):
    device = Emulator()
    body = f"auto block = cg::this_thread_block();\n{call};"
    device.run(write(tmp_path, body, "int* y", BEFORE), "k", 2, threads, {"y": np.zeros(1, np.int32)})
    (finding,) = device.findings
    assert (finding.kind, finding.where) == ("bad operand", f"kernel.cu:{FIRST + 1}")
    assert finding.message.startswith(said)


@pytest.mark.usefixtures("each_compiler")
@pytest.mark.parametrize(
    ("call", "said"),
    [
        ("cg::tiled_partition<64>(block)", "here a tile has 1, 2, 4, 8, 16 or 32 threads"),
        ("cg::tiled_partition<3>(block)", "here a tile has 1, 2, 4, 8, 16 or 32 threads"),
        ("cg::tiled_partition<8>(cg::tiled_partition<8>(block))", "a tile's tiles are smaller than it"),
        ("cg::reduce(cg::tiled_partition<8>(block), 1, cg::plus<float>())", "its result must be of one type"),
        ("cg::reduce(block, 1, cg::plus<int>())", "reduce"),
        ("cg::tiled_partition<8>(block).shfl(Far(), 1)", "groups move values of at most 32 bytes"),
    ],
)
def test_what_no_group_is_does_not_compile(call, said, tmp_path):
    body = f"struct Far {{ double a[5]; }};\nauto block = cg::this_thread_block();\n{call};"
    with pytest.raises(DoesNotCompile, match=said):
        Emulator().run(write(tmp_path, body, "int* y", BEFORE), "k", 1, 64, {"y": np.zeros(1, np.int32)})


COUNT = """
    if (x[threadIdx.x] > 0) {
        auto here = cg::coalesced_threads();
        int before = 0;
        if (here.thread_rank() == 0) before = atomicAdd(count, here.size());
        before = here.shfl(before, 0) + here.thread_rank();
        y[before] = x[threadIdx.x];
    }
"""


@pytest.mark.usefixtures("each_compiler")
def test_coalesced_threads_go_together_as_far_as_they_say(tmp_path):
    device = Emulator()
    x, y, count = np.arange(-5, 27, dtype=np.int32), np.zeros(32, np.int32), np.zeros(1, np.int32)
    file = write(tmp_path, COUNT, "const int* x, int* y, int* count", BEFORE)
    device.run(file, "k", 1, 32, {"x": x, "y": y, "count": count})
    device.check()
    assert count == 26 and sorted(y[:26]) == [*range(1, 27)]
