"""CUB's collectives: known answers by both compilers, tiles of many sizes, and the mistakes made with them, at their lines."""

import numpy as np
import pytest
from rungs import needs_compiler, needs_nvrtc

from kernels.emulator import DoesNotCompile, EmulatorError
from kernels.emulator.raw import RawKernel, RawModule

pytestmark = needs_compiler

BEFORE = """#include <cub/cub.cuh>
struct Line { unsigned slope, at; };  // x -> slope x + at: which of two comes first matters
struct Wide { double a, b, c, d, e; };
struct After { __device__ Line operator()(const Line& f, const Line& g) const { return {f.slope * g.slope, f.at * g.slope + g.at}; } };
struct Added { __device__ Wide operator()(Wide x, Wide y) const { return {x.a + y.a, x.b + y.b, x.c + y.c, x.d + y.d, x.e + y.e}; } };
struct Larger { template <class T> __device__ T operator()(T a, T b) const { return a < b ? b : a; } };
struct Plus { template <class T> __device__ T operator()(T a, T b) const { return a + b; } };
struct Running { int total; __device__ int operator()(int all) { int old = total; total += all; return old; } };
typedef cub::KeyValuePair<int, float> Pair;
"""
# A block of 8 x 6 x 2 threads: three warps. Each line is a collective C with storage s, what is done with it, and r.
BLOCK = "8, {}, 6, 2"
T = np.arange(96)
X = T * 37 % 101 - 40  # what a thread has, and its three items
X3 = (np.arange(288) * 53 % 211 - 100).reshape(96, 3)
FLAT = X3.reshape(-1)
LANE = T % 32
W8 = X.reshape(12, 8)


def only(rank, values, of=32):
    """Values of the threads of one rank in their group; what others get is not looked at."""
    return np.where(T % of == rank, np.repeat(np.asarray(values, float), of)[:96], np.nan)


def lines(f, g):
    return f[0] * g[0] % 2**32, (f[1] * g[0] + g[1]) % 2**32


def composed(upto):
    """Of the lines of the first threads, what all of them make of 0."""
    f = (1, 0)
    for t in range(upto):
        f = lines(f, (2 * t + 3, t))
    return float(f[1])


COMPOSED = np.array([composed(t) for t in range(97)])
HEAD, TAIL = T % 5 == 2, T % 7 == 3
REDUCE = "cub::BlockReduce<int, 8, cub::BLOCK_REDUCE_WARP_REDUCTIONS, 6, 2>"
RAKING = "cub::BlockReduce<{}, 8, cub::BLOCK_REDUCE_RAKING, 6, 2>"
COMMUTING = "cub::BlockReduce<int, 8, cub::BLOCK_REDUCE_RAKING_COMMUTATIVE_ONLY, 6, 2>"
SCAN = "cub::BlockScan<int, 8, cub::BLOCK_SCAN_WARP_SCANS, 6, 2>"
LINES = "cub::BlockScan<Line, 8, cub::BLOCK_SCAN_RAKING, 6, 2>"
EXCHANGE = "cub::BlockExchange<int, 8, 3, false, 6, 2>"
WARP, EIGHT = "cub::WarpReduce<int>", "cub::WarpReduce<int, 8>"
WSCAN, SCAN8 = "cub::WarpScan<int>", "cub::WarpScan<int, 8>"
THREE = "int i[3] = {x3[3 * t], x3[3 * t + 1], x3[3 * t + 2]}; "
FIRST_OF = [0] * 96
CUMULATED = X.cumsum()
BEFORE_X = CUMULATED - X
MAXIMA = np.maximum.accumulate(X)


def segments(starts):
    """Sums of a warp's items from each thread that begins a segment to the next such one."""
    begins = starts | (LANE == 0)
    ends = [next((j for j in range(t + 1, 96) if begins[j]), 96) for t in T]
    return np.where(begins, [X[t:end].sum() for t, end in zip(T, ends)], np.nan)


def from_striped(items):
    """Items that lie striped in 96 threads, as these have them, in blocked order: (thread, item)."""
    return items.T.reshape(96, 3)


ITEMS_OUT = "r = i[0] + 1000 * i[1] + 1000000 * i[2];"
PACKED = np.array([1, 1000, 1000000])
FLOATS = "cub::BlockReduce<float, 8, cub::BLOCK_REDUCE_WARP_REDUCTIONS_NONDETERMINISTIC, 6, 2>"
RANKS = (np.arange(288) * 5 % 288).reshape(96, 3)
SCATTERED = np.empty(288, int)
SCATTERED[RANKS.reshape(-1)] = FLAT
ANSWERS = [
    (REDUCE, "r = C(s).Sum(x);", only(0, [X.sum()], 96)),
    (REDUCE, "r = C(s).Sum(x, 71);", only(0, [X[:71].sum()], 96)),
    (REDUCE, "r = C(s).Sum(x, 7);", only(0, [X[:7].sum()], 96)),
    (REDUCE, "r = C(s).Reduce(x, cub::Max());", only(0, [X.max()], 96)),
    (REDUCE, "r = C(s).Reduce(x, cuda::minimum<>{});", only(0, [X.min()], 96)),
    (REDUCE, "r = C(s).Reduce(x, cuda::maximum<int>(), 33);", only(0, [X[:33].max()], 96)),
    (REDUCE, "r = C(s).Reduce(x, [=](int a, int b) { return a + b + one; });", only(0, [X.sum() + 95], 96)),
    (REDUCE, f"{THREE} r = C(s).Sum(i);", only(0, [FLAT.sum()], 96)),
    (REDUCE, f"{THREE} r = C(s).Reduce(i, cub::Min());", only(0, [FLAT.min()], 96)),
    (REDUCE, "r = C().Sum(2 * x);", only(0, [2 * X.sum()], 96)),
    (COMMUTING, "r = C(s).Sum(x);", only(0, [X.sum()], 96)),
    (RAKING.format("int"), "r = C(s).Reduce(x, cuda::std::plus<>{}, 50);", only(0, [X[:50].sum()], 96)),
    (RAKING.format("Line"), "r = C(s).Reduce(Line{2 * t + 3, t}, After()).at;", only(0, [COMPOSED[96]], 96)),
    (
        RAKING.format("Line").replace("RAKING", "WARP_REDUCTIONS"),
        "r = C(s).Reduce(Line{2 * t + 3, t}, After(), 90).at;",
        only(0, [COMPOSED[90]], 96),
    ),
    (RAKING.format("Wide"), "r = C(s).Reduce(Wide{0, 0, 0, 0, 0.5 * x}, Added()).e;", only(0, [X.sum() / 2], 96)),
    (FLOATS, "r = C(s).Sum(x / 4.0f);", only(0, [X.sum() / 4], 96)),
    (
        RAKING.format("Pair"),
        "r = C(s).Reduce(Pair(95 - t, float(x / 8)), cub::ArgMax()).key;",
        only(0, [np.argmax(np.trunc(X / 8)[::-1])], 96),
    ),
    (
        RAKING.format("Pair").replace("RAKING", "WARP_REDUCTIONS"),
        "r = C(s).Reduce({95 - int(t), float(x / 16)}, cub::ArgMin()).key;",
        only(0, [np.argmin(np.trunc(X / 16)[::-1])], 96),
    ),
    (WARP, "r = C(s).Sum(x);", only(0, X.reshape(3, 32).sum(1))),
    (WARP, "r = C(s).Sum(x, 19);", only(0, X.reshape(3, 32)[:, :19].sum(1))),
    (WARP, "r = C(s).Reduce(x, cub::Max(), 3);", only(0, X.reshape(3, 32)[:, :3].max(1))),
    (EIGHT, "r = C(s).Sum(x);", only(0, W8.sum(1), 8)),
    (EIGHT, "r = C(s).Sum(x, t / 8 % 8 + 1);", only(0, [w[: i % 8 + 1].sum() for i, w in enumerate(W8)], 8)),
    ("cub::WarpReduce<int, 1>", "r = C(s).Sum(x);", X),
    (
        "cub::WarpReduce<int, 12>",
        "r = C(s).Reduce(x, cub::Min());",
        np.where((LANE == 0) | (LANE == 12), [X[t : t + 12].min() for t in T], np.nan),
    ),
    ("cub::WarpReduce<Wide>", "r = C(s).Reduce(Wide{0, 0, 0, 0, 1.0 * x}, Added()).e;", only(0, X.reshape(3, 32).sum(1))),
    (WARP, "r = C(s).HeadSegmentedSum(x, t % 5 == 2);", segments(HEAD)),
    (WARP, "r = C(s).TailSegmentedSum(x, t % 7 == 3);", segments(np.roll(TAIL, 1))),
    (WARP, "r = C(s).HeadSegmentedReduce(x, t % 5 == 2, Plus());", segments(HEAD)),
    (WSCAN, "C(s).InclusiveSum(x, r);", X.reshape(3, 32).cumsum(1).reshape(-1)),
    (WSCAN, "C(s).InclusiveSum(x, r, all); r += 1000 * all;", (X.reshape(3, 32).cumsum(1) + 1000 * X.reshape(3, 32).sum(1)[:, None])),
    (SCAN8, "C(s).ExclusiveSum(x, r);", W8.cumsum(1) - W8),
    (SCAN8, "C(s).ExclusiveSum(x, r, all); r += 1000 * all;", W8.cumsum(1) - W8 + 1000 * W8.sum(1)[:, None]),
    (SCAN8, "C(s).InclusiveScan(x, r, cub::Max());", np.maximum.accumulate(W8, 1)),
    (SCAN8, "C(s).InclusiveScan(x, r, cub::Max(), all); r += 1000 * all;", np.maximum.accumulate(W8, 1) + 1000 * W8.max(1)[:, None]),
    (SCAN8, "C(s).InclusiveScan(x, r, 20, cub::Max());", np.maximum(np.maximum.accumulate(W8, 1), 20)),
    (SCAN8, "C(s).ExclusiveScan(x, r, 7, cub::Sum());", W8.cumsum(1) - W8 + 7),
    (SCAN8, "C(s).ExclusiveScan(x, r, 7, cub::Sum(), all); r += 1000 * all;", W8.cumsum(1) - W8 + 7 + 1000 * W8.sum(1)[:, None]),
    (SCAN8, "C(s).ExclusiveScan(x, r, cub::Sum());", np.where(T % 8, (W8.cumsum(1) - W8).reshape(-1), np.nan)),
    (SCAN8, "C(s).Scan(x, r, all, 3, cub::Sum()); r += 1000 * all;", W8.cumsum(1) + 3 + 1000 * (W8.cumsum(1) - W8 + 3)),
    (SCAN8, "r = C(s).Broadcast(x, 5);", np.repeat(W8[:, 5], 8)),
    (SCAN, "C(s).InclusiveSum(x, r);", CUMULATED),
    (SCAN, "C(s).InclusiveSum(x, r, all); r += 1000 * all;", CUMULATED + 1000 * X.sum()),
    (SCAN, "C(s).ExclusiveSum(x, r);", BEFORE_X),
    (SCAN, "C(s).ExclusiveSum(x, r, all); r += 1000 * all;", BEFORE_X + 1000 * X.sum()),
    (SCAN, "Running p{100}; C(s).ExclusiveSum(x, r, p); r += t ? 0 : p.total;", BEFORE_X + 100 + (T == 0) * (100 + X.sum())),
    (SCAN, "Running p{100}; C(s).InclusiveSum(x, r, p);", CUMULATED + 100),
    (SCAN, "C(s).InclusiveScan(x, r, cub::Max());", MAXIMA),
    (SCAN, "C(s).InclusiveScan(x, r, cub::Max(), all); r += 1000 * all;", MAXIMA + 1000 * X.max()),
    (SCAN, "C(s).ExclusiveScan(x, r, -7, cub::Max());", np.maximum(np.append(-7, MAXIMA[:-1]), -7)),
    (SCAN, "C(s).ExclusiveScan(x, r, -7, cub::Max(), all); r += 1000 * all;", np.maximum(np.append(-7, MAXIMA[:-1]), -7) + 1000 * X.max()),
    (SCAN, "C(s).ExclusiveScan(x, r, cub::Max());", np.append(np.nan, MAXIMA[:-1])),
    (SCAN, f"{THREE} C(s).InclusiveSum(i, i); {ITEMS_OUT}", FLAT.cumsum().reshape(96, 3) @ PACKED),
    (SCAN, f"{THREE} C(s).ExclusiveSum(i, i); {ITEMS_OUT}", (FLAT.cumsum() - FLAT).reshape(96, 3) @ PACKED),
    (SCAN, f"{THREE} C(s).ExclusiveSum(i, i, all); r = i[2] + 1000 * all;", (FLAT.cumsum() - FLAT)[2::3] + 1000 * FLAT.sum()),
    (SCAN, f"{THREE} Running p{{5}}; C(s).ExclusiveSum(i, i, p); {ITEMS_OUT}", (FLAT.cumsum() - FLAT + 5).reshape(96, 3) @ PACKED),
    (SCAN, f"{THREE} C(s).InclusiveScan(i, i, 3, cub::Sum()); r = i[2];", FLAT.cumsum()[2::3] + 3),
    (SCAN, f"{THREE} C(s).ExclusiveScan(i, i, cub::Max()); r = i[1];", np.maximum.accumulate(FLAT)[::3]),
    (LINES, "Line l; C(s).InclusiveScan(Line{2 * t + 3, t}, l, After()); r = l.at;", COMPOSED[1:]),
    (LINES, "Line l; C(s).ExclusiveScan(Line{2 * t + 3, t}, l, Line{1, 0}, After()); r = l.at;", COMPOSED[:-1]),
    ("cub::BlockScan<int, 8, cub::BLOCK_SCAN_RAKING_MEMOIZE, 6, 2>", "C().InclusiveSum(x, r);", CUMULATED),
    (EXCHANGE, f"{THREE} C(s).StripedToBlocked(i); {ITEMS_OUT}", from_striped(X3) @ PACKED),
    (EXCHANGE, f"{THREE} C(s).BlockedToStriped(i); {ITEMS_OUT}", FLAT.reshape(3, 96).T @ PACKED),
    (
        EXCHANGE,
        f"{THREE} C(s).BlockedToWarpStriped(i, i); {ITEMS_OUT}",
        FLAT.reshape(3, 3, 32).transpose(0, 2, 1).reshape(96, 3) @ PACKED,
    ),
    (
        EXCHANGE,
        f"{THREE} C(s).WarpStripedToBlocked(i); {ITEMS_OUT}",
        X3.reshape(3, 32, 3).transpose(0, 2, 1).reshape(96, 3) @ PACKED,
    ),
    (
        EXCHANGE,
        f"{THREE} int to[3]; for (int k = 0; k < 3; k++) to[k] = (3 * t + k) * 5 % 288; C(s).ScatterToBlocked(i, to); {ITEMS_OUT}",
        SCATTERED.reshape(96, 3) @ PACKED,
    ),
    (
        EXCHANGE,
        f"{THREE} int to[3]; for (int k = 0; k < 3; k++) to[k] = (3 * t + k) * 5 % 288; C(s).ScatterToStriped(i, to); {ITEMS_OUT}",
        SCATTERED.reshape(3, 96).T @ PACKED,
    ),
    (WARP, "r = cub::ShuffleUp<8>(x, 3, 0, ~0u);", np.where(T % 8 < 3, X, np.roll(X, 3))),
    (WARP, "r = cub::ShuffleDown<8>(x, 2, 6, ~0u);", np.where(T % 8 > 4, X, np.roll(X, -2))),
    (WARP, "r = cub::ShuffleIndex<8>(Wide{0, 0, 0, 0, 1.0 * x}, t % 3, 255u << t % 32 / 8 * 8).e;", [W8[t // 8][t % 3] for t in T]),
    (WARP, "r = cub::LaneId() + 100 * cub::RowMajorTid(8, 6, 2);", LANE + 100 * T),
]  # fmt: skip
TABLE = """extern "C" __global__ void table(const int* data, const int* x3, const bool* wanted, double* y, int one) {
    const unsigned t = cub::RowMajorTid(8, 6, 2);
    const int x = data[t];
"""
for number, (kind, does, _) in enumerate(ANSWERS):
    result = "unsigned" if "Line" in kind else "float" if "float" in kind else "int"
    result = "double" if "Wide" in kind else result
    TABLE += f"    {{ typedef {kind} C; __shared__ C::TempStorage s; {result} r; int all; {does} if (wanted[{96 * number} + t]) y[{96 * number} + t] = r; }}\n"
TABLE += "}\n"


# --- tiles of any size ------------------------------------------------------------------------------------------------

TILES = """
// What a tile of X * N items becomes: loaded, scanned, reduced and stored.
template <class Number, int X, int N, cub::BlockLoadAlgorithm LOAD, cub::BlockStoreAlgorithm STORE>
__global__ void tile(const Number* x, Number* y, Number* sums, int n) {
    typedef cub::BlockLoad<Number, X, N, LOAD> Load;
    typedef cub::BlockStore<Number, X, N, STORE> Store;
    typedef cub::BlockScan<Number, X> Scan;
    typedef cub::BlockReduce<Number, X> Reduce;
    __shared__ union {
        typename Load::TempStorage load;
        typename Store::TempStorage store;
        typename Scan::TempStorage scan;
        typename Reduce::TempStorage reduce;
    } temp;
    const int begin = blockIdx.x * X * N, left = n - begin;
    Number items[N];
    if (left >= X * N) Load(temp.load).Load(x + begin, items);
    else Load(temp.load).Load(x + begin, items, left, 0);
    __syncthreads();
    const Number sum = Reduce(temp.reduce).Sum(items);
    if (threadIdx.x == 0) sums[blockIdx.x] = sum;
    __syncthreads();
    if (LOAD != cub::BLOCK_LOAD_STRIPED) Scan(temp.scan).InclusiveSum(items, items);
    __syncthreads();
    if (left >= X * N) Store(temp.store).Store(y + begin, items);
    else Store(temp.store).Store(y + begin, items, left);
}

template <class Key, int X, int N, bool DOWN>
__global__ void sort(Key* keys, int* values, int begin, int end, bool striped) {
    typedef cub::BlockRadixSort<Key, X, N, int> Sort;
    typedef cub::BlockRadixSort<Key, X, N> SortKeys;
    __shared__ typename Sort::TempStorage storage;
    __shared__ typename SortKeys::TempStorage of_keys;
    Key k[N], only[N];
    int v[N];
    cub::LoadDirectBlocked(threadIdx.x, keys, k);
    cub::LoadDirectBlocked(threadIdx.x, keys, only);
    cub::LoadDirectBlocked(threadIdx.x, values, v);
    if (DOWN) SortKeys(of_keys).SortDescending(only, begin, end);
    else SortKeys(of_keys).Sort(only, begin, end);
    if (striped) {
        if (DOWN) Sort(storage).SortDescendingBlockedToStriped(k, v, begin, end);
        else Sort(storage).SortBlockedToStriped(k, v, begin, end);
        cub::StoreDirectStriped<X>(threadIdx.x, values, v);
    } else {
        if (DOWN) Sort(storage).SortDescending(k, v, begin, end);
        else Sort(storage).Sort(k, v, begin, end);
        for (int i = 0; i < N; i++) assert(k[i] == only[i]);
        cub::StoreDirectBlocked(threadIdx.x, values, v);
    }
    cub::StoreDirectBlocked(threadIdx.x, keys, only);
}
"""
# How tiles are loaded, and how they are stored again. Items that lie striped are not scanned.
STORES = {
    "DIRECT": "WARP_TRANSPOSE", "STRIPED": "STRIPED", "VECTORIZE": "TRANSPOSE", "TRANSPOSE": "VECTORIZE", "WARP_TRANSPOSE": "DIRECT",
}  # fmt: skip
TILE_NAMES = {
    (kind, x, n, way): f"tile<{kind}, {x}, {n}, cub::BLOCK_LOAD_{way}, cub::BLOCK_STORE_{STORES[way]}>"
    for kind, x, n, ways in (
        ("float", 1, 1, ["TRANSPOSE"]), ("int", 33, 2, ["VECTORIZE"]), ("double", 64, 3, ["WARP_TRANSPOSE"]),
        ("float", 96, 4, STORES),
    )
    for way in ways
}  # fmt: skip
TYPES = {"int": "i4", "float": "f4", "double": "f8", "unsigned char": "u1", "long long": "i8", "unsigned": "u4"}
SORT_NAMES = {
    (kind, down, x, n): f"sort<{kind}, {x}, {n}, {'true' if down else 'false'}>"
    for kind, x, n, down in (
        ("int", 64, 3, False), ("float", 40, 2, False), ("double", 32, 2, True),
        ("unsigned char", 64, 3, True), ("long long", 33, 1, False), ("unsigned", 40, 2, True),
    )
}  # fmt: skip
RIGHT = RawModule(
    BEFORE + TABLE + TILES, name_expressions=("table", *TILE_NAMES.values(), *SORT_NAMES.values()), seeds=2
)


@pytest.mark.usefixtures("each_compiler")
def test_collectives_have_the_answers_that_are_known():
    want = np.array([np.reshape(answer, -1) for _, _, answer in ANSWERS], float)
    wanted, y = ~np.isnan(want), np.full(want.shape, np.nan)
    RIGHT.get_function("table")((1,), (8, 6, 2), (X.astype(np.int32), FLAT.astype(np.int32), wanted, y, 1))
    for (kind, does, _), ours, right in zip(ANSWERS, y, want, strict=True):
        np.testing.assert_array_equal(ours, right, f"{kind} {does}")


@pytest.mark.usefixtures("each_compiler")
@pytest.mark.parametrize(("kind", "threads", "items", "way"), TILE_NAMES)
def test_tiles_are_loaded_scanned_reduced_and_stored(kind, threads, items, way):
    tile = RIGHT.get_function(TILE_NAMES[kind, threads, items, way])
    for n in (1, threads * items, 3 * threads * items - 1):
        tiles = -(-n // (threads * items))
        x = np.random.default_rng(n).integers(-9, 10, n).astype(TYPES[kind])
        y, sums = np.zeros_like(x), np.zeros(tiles, x.dtype)
        tile((tiles,), (threads,), (x, y, sums, n))
        parts = np.pad(x, (0, tiles * threads * items - n)).reshape(tiles, -1)
        np.testing.assert_array_equal(y, x if way == "STRIPED" else parts.cumsum(1).reshape(-1)[:n])
        np.testing.assert_array_equal(sums, parts.sum(1))


@pytest.mark.parametrize("striped", [False, True])
@pytest.mark.parametrize(("kind", "down", "threads", "items"), SORT_NAMES)
@pytest.mark.usefixtures("each_compiler")
def test_keys_and_values_are_sorted(kind, down, threads, items, striped):
    rng, n, bits = np.random.default_rng(threads), threads * items, 8 * np.dtype(TYPES[kind]).itemsize
    sort = RIGHT.get_function(SORT_NAMES[kind, down, threads, items])
    for begin, end in ((0, bits), (3, bits - 2), (5, 5)):
        keys = rng.integers(-20 if kind[0] not in "u" else 0, 20, n).astype(TYPES[kind])
        if keys.dtype.kind == "f":
            keys = keys / 4 * rng.choice([-1, 1], n).astype(keys.dtype)  # zeros of both signs, which are equal
        bits_of = (keys + 0).view(f"u{keys.itemsize}")  # -0 becomes 0
        sign = bits_of.dtype.type(1 << bits - 1)
        if keys.dtype.kind == "f":
            bits_of = np.where(bits_of & sign, ~bits_of, bits_of | sign)
        elif keys.dtype.kind == "i":
            bits_of = bits_of ^ sign
        seen = np.array([int(b) >> begin & (1 << end - begin) - 1 for b in bits_of], object)
        order = np.argsort(-seen if down else seen, kind="stable")
        got, values = keys.copy(), np.arange(n, dtype=np.int32)
        sort((1,), (threads,), (got, values, begin, end, striped))
        np.testing.assert_array_equal(got, keys[order])
        np.testing.assert_array_equal(values, order)


@pytest.mark.slow
@needs_nvrtc
def test_cubs_own_headers_take_these_kernels():
    """But for what CUB 3 has no longer, and with one header for each: NVRTC refuses <cub/cub.cuh>."""
    blocks, warps = ("reduce", "scan", "load", "store", "exchange", "radix_sort"), ("reduce", "scan")
    headers = [f"cub/block/block_{b}.cuh" for b in blocks] + [f"cub/warp/warp_{w}.cuh" for w in warps]
    includes = "".join(f"#include <{h}>\n" for h in (*headers, "cuda/functional", "cuda/std/functional"))
    removed = "typedef ::cuda::std::plus<> Sum; typedef ::cuda::maximum<> Max; typedef ::cuda::minimum<> Min;"
    now = f"{includes}namespace cub {{ {removed} __device__ unsigned LaneId() {{ return 0; }} }}\n"
    RawModule(RIGHT.text.replace("#include <cub/cub.cuh>\n", now), name_expressions=RIGHT.names).resources()


IN_DYNAMIC_MEMORY = """#include <cub/block/block_scan.cuh>
typedef cub::BlockScan<float2, 64> Scan;
struct Then { __device__ float2 operator()(float2 a, float2 b) const { return make_float2(a.x * b.x, b.x * a.y + b.y); } };
extern __shared__ char outside[];
extern "C" __global__ void k(float2* x, int here) {
    extern __shared__ __align__(16) char inside[];
    auto& storage = here ? reinterpret_cast<Scan::TempStorage&>(inside) : reinterpret_cast<typename Scan::TempStorage &>( outside );
    Scan(storage).InclusiveScan(x[threadIdx.x], x[threadIdx.x], Then());
}
"""


@pytest.mark.usefixtures("each_compiler")
def test_storage_may_lie_in_dynamic_shared_memory():
    for here in (0, 1):
        x = np.random.default_rng(here).uniform(-1, 1, (64, 2)).astype(np.float32)
        want = [x[0].astype(float)]
        for factor, term in x[1:].astype(float):
            want.append(np.array([want[-1][0] * factor, want[-1][1] * factor + term]))
        RawKernel(IN_DYNAMIC_MEMORY, "k")((1,), (64,), (x, here), shared_mem=64)
        np.testing.assert_allclose(x, want, rtol=0, atol=1e-6)


# --- what is wrong ----------------------------------------------------------------------------------------------------

# Kernels of 64 threads unless they say another number, and what is found at the line with the mark.
REUSED = """__shared__ typename C::TempStorage s;
    int v[2] = {x[threadIdx.x], 1}, at[2] = {2 * int(threadIdx.x) ^ 64, 2 * int(threadIdx.x) + 1 ^ 64}, sum = 0;
    CALL  //!
    SYNC
    CALL  //!
    y[threadIdx.x] = v[0];
    if (threadIdx.x == 0) y[0] = sum;"""
COLLECTIVES = {
    "cub::BlockReduce<int, 64>": "sum += C(s).Sum(v);",
    "cub::BlockReduce<int, 64, cub::BLOCK_REDUCE_RAKING>": "sum += C(s).Sum(v[0]);",
    "cub::BlockScan<int, 64>": "C(s).InclusiveSum(v, v);",
    "cub::BlockScan<int, 64, cub::BLOCK_SCAN_WARP_SCANS>": "C(s).ExclusiveScan(v, v, 3, cub::Max());",
    "cub::BlockExchange<int, 64, 2>": "C(s).StripedToBlocked(v);",
    "cub::BlockExchange<int, 64, 2, true>": "C(s).ScatterToBlocked(v, at);",
    "cub::BlockLoad<int, 64, 2, cub::BLOCK_LOAD_TRANSPOSE>": "C(s).Load(x + 128 * sum++, v); v[0] -= v[1];",
    "cub::BlockStore<int, 64, 2, cub::BLOCK_STORE_TRANSPOSE>": "C(s).Store(z, v);",
    "cub::BlockRadixSort<int, 64, 2>": "C(s).Sort(v);",
}
SUM = "__shared__ cub::BlockReduce<{0}, 64>::TempStorage s; {0} r = cub::BlockReduce<{0}, 64>(s).Sum(x[threadIdx.x]);"
WARP_SUM = "__shared__ cub::WarpReduce<float>::TempStorage s[2]; float r = cub::WarpReduce<float>(s[threadIdx.x / 32]).Sum(x[threadIdx.x]);"
MISTAKES = {
    "the sum is thread 0's": (SUM.format("int") + "\n y[threadIdx.x] = r; //!", {"uninitialised"}),
    "it is in floats too": (SUM.format("float") + "\n f[threadIdx.x] = r; //!", {"uninitialised"}),
    "a warp's is lane 0's": (WARP_SUM + "\n f[threadIdx.x] = r; //!", {"uninitialised"}),
    "nothing is before the first": (
        "__shared__ cub::BlockScan<int, 64>::TempStorage s;\n"
        "int r; cub::BlockScan<int, 64>(s).ExclusiveScan(x[threadIdx.x], r, cub::Max());\n y[threadIdx.x] = r; //!",
        {"uninitialised"},
    ),
    "what is not loaded is not set": (
        "float v[2]; cub::BlockLoad<float, 64, 2>().Load(x, v, 127);\n for (float one : v) f[threadIdx.x] = one; //!",
        {"uninitialised"},
    ),
    "half of the block": ("if (threadIdx.x < 32) {\n" + SUM.format("int") + " //!\n if (!threadIdx.x) y[0] = r; }", {"uninitialised"}),
    "and the other half elsewhere": (
        "if (threadIdx.x >= 32) {\n __syncthreads(); //!\n } else {\n" + SUM.format("int") + " //!\n if (!threadIdx.x) y[0] = r; }",
        {"divergence", "uninitialised"},
    ),
    "half a warp": ("if (threadIdx.x % 32 < 20) {\n" + WARP_SUM + " //!\n if (threadIdx.x == 0) f[0] = r; }", {"lane"}),
    "half a warp waits": (
        "if (threadIdx.x % 32 < 20) {\n" + WARP_SUM + " //!\n if (threadIdx.x == 0) f[0] = r; }\n __syncthreads(); //!",
        {"deadlock"},
    ),
    "threads that returned": ("if (threadIdx.x > 60) return;\n" + SUM.format("int") + " //!\n if (!threadIdx.x) y[0] = r;", {"lane"}),
    "too many are valid": (
        "__shared__ cub::BlockReduce<int, 64>::TempStorage s;\n int r = cub::BlockReduce<int, 64>(s).Sum(x[threadIdx.x], 65); //!\n"
        " if (!threadIdx.x) y[0] = r;",
        {"bad operand"},
    ),
    "too many of a warp": (
        "__shared__ cub::WarpReduce<int, 8>::TempStorage s;\n int r = cub::WarpReduce<int, 8>(s).Sum(x[threadIdx.x], 9); //!\n"
        " if (!threadIdx.x) y[0] = r;",
        {"bad operand"},
    ),
    "a larger block": (SUM.format("int") + " //!\n if (!threadIdx.x) y[0] = r;", {"bad operand"}, 96),
    "a smaller block": (SUM.format("int") + " //!\n if (!threadIdx.x) y[0] = r;", {"bad operand"}, 32),
    "a block of another shape": (SUM.format("int") + " //!\n if (!threadIdx.x) y[0] = r;", {"bad operand"}, (32, 2)),
    "a scan's block": (
        "int r;\n cub::BlockScan<int, 8, cub::BLOCK_SCAN_RAKING, 8>().InclusiveSum(x[0], r); //!\n y[threadIdx.x] = r;", {"bad operand"},
    ),
    "a load's block": ("int v[2];\n cub::BlockLoad<int, 32, 2>().Load(x, v); //!\n y[threadIdx.x] = v[0];", {"bad operand"}),
    "a sort's block": ("int v[2] = {};\n cub::BlockRadixSort<int, 32, 2>().Sort(v); //!\n y[threadIdx.x] = v[0];", {"bad operand"}),
    "bits that keys do not have": (
        "int v[2] = {};\n cub::BlockRadixSort<int, 64, 2>().Sort(v, 0, 33); //!\n y[threadIdx.x] = v[0];", {"bad operand"},
    ),
    "ranks beyond the block": (
        "int v[1] = {}, at[1] = {int(threadIdx.x) + 1};\n cub::BlockExchange<int, 64, 1>().ScatterToStriped(v, at); //!\n"
        " y[threadIdx.x] = v[0];",
        {"bad operand"},
    ),
    "a rank that nobody has": (
        "int v[1] = {}, at[1] = {int(threadIdx.x) - 1};\n cub::BlockExchange<int, 64, 1>().ScatterToStripedGuarded(v, at); //!\n"
        " y[threadIdx.x] = v[0];",
        {"uninitialised"},
    ),
    "a vector that is not aligned": (
        "int v[4];\n cub::BlockLoad<int, 64, 4, cub::BLOCK_LOAD_VECTORIZE>().Load(x + 1, v); //!\n"
        " y[threadIdx.x] = v[0] + v[1] + v[2] + v[3];",
        {"misaligned"},
    ),
    "a store that is not aligned": (
        "int v[2] = {};\n cub::BlockStore<int, 64, 2, cub::BLOCK_STORE_VECTORIZE>().Store(z + 1, v); //!", {"misaligned"},
    ),
    "storage that is used for something else": (
        "__shared__ union { cub::BlockReduce<int, 64>::TempStorage s; int other[64]; } u;\n"
        "int r = cub::BlockReduce<int, 64>(u.s).Sum(x[threadIdx.x]); //!\n u.other[63 - threadIdx.x] = 1; //!\n if (!threadIdx.x) y[0] = r;",
        {"race"},
    ),
    "a block that is shorter, if that is said": (
        "__shared__ cub::BlockReduce<int, 1024>::TempStorage s;\n int r = cub::BlockReduce<int, 1024>(s).Sum(x[threadIdx.x], blockDim.x);\n"
        " if (!threadIdx.x) assert(r == 63 * 64 / 2);",
        set(),
    ),
}  # fmt: skip
for kind, call in COLLECTIVES.items():
    for sync in ("", "__syncthreads();"):
        body = f"typedef {kind} C; " + REUSED.replace("CALL", f"{{ {call} }}").replace("SYNC", sync)
        MISTAKES[f"{kind} again{' after a barrier' * bool(sync)}"] = (body, set() if sync else {"race"})
HEAD_LINE = 'extern "C" __global__ void k{}(const int* x, int* y, int* z, float* f) {{\n'
WRONG = RawModule(
    BEFORE + "".join(HEAD_LINE.format(i) + f"{body}\n}}\n" for i, (body, *_) in enumerate(MISTAKES.values())), seeds=2
)
MARKED = {number for number, line in enumerate(WRONG.text.splitlines(), 1) if "//!" in line}


@pytest.mark.usefixtures("each_compiler")
@pytest.mark.parametrize("what", MISTAKES)
def test_mistakes_are_found_at_their_lines(what):
    _, kinds, *block = MISTAKES[what]
    block = (block or [(64,)])[0]
    x, y, z = np.arange(512, dtype=np.int32), np.zeros(96, np.int32), np.zeros(512, np.int32)
    kernel = WRONG.get_function(f"k{list(MISTAKES).index(what)}")
    arguments = (1,), block if isinstance(block, tuple) else (block,), (x, y, z, np.zeros(96, np.float32))
    if not kinds:
        kernel(*arguments)
        return
    with pytest.raises(EmulatorError) as error:
        kernel(*arguments)
    found = [line.split(": ")[:2] for line in str(error.value).splitlines() if line.startswith("kernel.cu:")]
    assert {kind for _, kind in found} <= kinds and found[0][1] in kinds
    assert {int(where.partition(":")[2]) for where, _ in found} <= MARKED


def test_a_sum_that_cub_leaves_undefined_is_called_so():
    said = (
        r"element \(1,\) of y \(96,\), int32, is the number that collectives give here where CUB leaves it undefined$"
    )
    with pytest.raises(EmulatorError, match=said):
        x, y = np.arange(64, dtype=np.int32), np.zeros(96, np.int32)
        WRONG.get_function("k0")((1,), (64,), (x, y, x.copy(), np.zeros(1, np.float32)))


def test_a_header_of_a_kernels_own_may_have_the_name_of_one_of_cubs(tmp_path):
    (tmp_path / "block_reduce.cuh").write_text(
        "#pragma once\n__device__ void set(int* y) {\n    y[threadIdx.x] = 1;\n}\n"
    )
    code = '#include <cub/cub.cuh>\n#include "block_reduce.cuh"\nextern "C" __global__ void k(int* y) { set(y); }'
    with pytest.raises(EmulatorError, match=r"^block_reduce\.cuh:3: out of range"):
        RawKernel(code, "k", options=(f"-I{tmp_path}",))((1,), (33,), (np.zeros(32, np.int32),))


# --- what is not there ------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("each_compiler")
@pytest.mark.parametrize(
    ("include", "body", "said"),
    [
        ("cub/cub.cuh", "cub::DeviceReduce::Sum(y, y, y, y, 1);", "device-wide algorithms .* are host code"),
        ("cub/device/device_scan.cuh", "", "includes cub/device/device_scan.cuh, which .*\n.*device-wide algorithms .* are host code"),
        ("cub/block/block_histogram.cuh", "", "includes cub/block/block_histogram.cuh, which the emulator does not have$"),
        ("cub/warp/warp_reduce.cuh", "typedef cub::WarpReduce<int, 64> C;\nC::TempStorage s; C c(s);", "a logical warp has 1 to 32 threads"),
        (
            "cub/block/block_load.cuh",
            "typedef cub::BlockLoad<int, 48, 1, cub::BLOCK_LOAD_WARP_TRANSPOSE> C;\nint v[1]; C().Load(y, v);",
            "whole warps",
        ),
    ],
)  # fmt: skip
def test_what_is_not_there_is_said(include, body, said):
    code = f'#include <{include}>\nextern "C" __global__ void k(int* y) {{\n{body}\n}}'
    with pytest.raises(DoesNotCompile, match=said):
        RawKernel(code, "k").compile()
