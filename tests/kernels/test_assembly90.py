"""Inline PTX of Hopper in the emulator: products of warp groups, TMA, mbarriers and clusters in kernels that are not ours."""

import itertools
import os
import re

import numpy as np
import pytest
from hopper import HEAD, on_a_gpu
from rungs import needs_compiler, needs_nvrtc

from kernels import bfloat16
from kernels.emulator import EmulatorError
from kernels.emulator.raw import RawKernel, RawModule
from kernels.source import WrongSource
from kernels.tensor_map import TensorMap

pytestmark = needs_compiler


def listed(count, form):
    return ", ".join(form.format(i) for i in range(count))


def line_of(words, code):
    return next(i for i, line in enumerate((HEAD + code).split("\n"), 1) if words in line)


# --- wgmma ---------------------------------------------------------------------------------------------------------------

# One product of tiles whose bytes the host has laid out. The sums begin as what is in d.
TILES = """
extern "C" __global__ void k(const uint4* a, const uint4* b, unsigned* d, const unsigned* fragments) {
    extern __shared__ __align__(1024) uint8_t tiles[];
    for (int i = threadIdx.x; i < BYTES / 16; i += 128) {
        ((uint4*)tiles)[i] = a[i];
        ((uint4*)tiles)[i + BYTES / 16] = b[i];
    }
    fence();
    __syncthreads();
    REGISTER r[SUMS];
    for (int i = 0; i < SUMS; i++) r[i] = ((REGISTER*)d)[threadIdx.x * SUMS + i];
    const unsigned* of_a = fragments + 4 * threadIdx.x;
    uint64_t a_tile = (uint64_t)A_REST << 16 | address(tiles) >> 4, b_tile = (uint64_t)B_REST << 16 | address(tiles + BYTES) >> 4;
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
    asm volatile("wgmma.mma_async.sync.aligned.SHAPE {NAMES}, OF_A, %TILE_B, 1SIGNS_AND_ACROSS;"
        : OUTPUTS : "l"(a_tile), "l"(b_tile), "r"(of_a[0]), "r"(of_a[1]), "r"(of_a[2]), "r"(of_a[3]));
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
    asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
    for (int i = 0; i < SUMS; i++) ((REGISTER*)d)[threadIdx.x * SUMS + i] = r[i];
}
"""
BYTES = 32 * 1024
KINDS = {128: 1, 64: 2, 32: 3, 0: 0}  # of a descriptor, by the swizzle


def places(rows, depth, item, swizzle, across, leading, stride):
    """The byte at which a tile has the element (row, place on the inner axis), by the manual's canonical layouts.

    In units of 16 bytes, T of them the swizzle's rows. Straight: ((8, m), (T, 2k)) : ((T, stride), (1, leading)), where
    leading counts only without a swizzle. Across: ((T, 8, m), (8, k)) : ((1, leading), (T, stride)).
    """
    row, k = np.indices((rows, depth))
    numbers, width = 16 // item, swizzle or 16
    if across:
        chunk, inside = row // numbers, row % numbers
        a, b = (leading, stride) if swizzle else (stride, leading)
        at = chunk // (width // 16) * a + chunk % (width // 16) * 16 + k // 8 * b + k % 8 * width + inside * item
    else:
        chunk, inside = k // numbers, k % numbers
        at = row // 8 * stride + row % 8 * width + chunk * (16 if swizzle else leading) + inside * item
    return at ^ ((at >> 7 & (swizzle // 16 - 1 if swizzle else 0)) << 4)


def numbers_of(type_, shape, rng):
    """Numbers whose products and sums are exact, and their bits."""
    small = rng.integers(0 if type_ == "u8" else -4, 5, shape)
    if type_ in ("s8", "u8"):
        return small, small.astype(np.int8).view(np.uint8)
    x = small.astype(np.float32)
    if type_ == "bf16":
        return small, bfloat16.to_bits(x)
    if type_ == "f16":
        return small, x.astype(np.float16).view(np.uint16)
    if type_ == "tf32":
        return small, x.view(np.uint32) | 0x1FFF  # bits that a product does not look at
    if type_ == "e5m2":
        return small, (x.astype(np.float16).view(np.uint16) >> 8).astype(np.uint8)
    codes = {0: 0, 1: 0x38, 2: 0x40, 3: 0x44, 4: 0x48}  # e4m3
    return small, np.vectorize(lambda v: codes[abs(v)] | 128 * (v < 0))(small).astype(np.uint8)


def laid(bits, at):
    image = np.zeros(BYTES, np.uint8)
    for i in range(bits.itemsize):
        image[at + i] = bits.view(np.uint8).reshape(*bits.shape, -1)[..., i]
    assert len(np.unique(at)) == at.size
    return image


def tiles(
    a_type="bf16",
    b_type=None,
    sum_type="f32",
    columns=64,
    swizzles=(128, 128),
    across=(0, 0),
    signs=(1, 1),
    registers=False,
):
    """The kernel for one product, and what to give it."""
    b_type = b_type or a_type
    item = {"tf32": 4, "bf16": 2, "f16": 2}.get(a_type, 1)
    depth, half = 32 // item, sum_type == "f16"
    sums = columns // (4 if half else 2)
    more = "" if sum_type == "s32" else f", {signs[0]}, {signs[1]}"
    if item == 2:
        more += f", {across[1]}" if registers else f", {across[0]}, {across[1]}"
    said = TILES
    rests = []
    for swizzle in swizzles:
        leading, stride = (2048, 1024) if swizzle else (8192, 128)
        rests.append((leading, stride, KINDS[swizzle] << 46 | stride >> 4 << 16 | leading >> 4))
    of_a = "{" + ", ".join(f"%{sums + 2 + i}" for i in range(4)) + "}" if registers else f"%{sums}"
    kind = {"f32": "float", "s32": "int", "f16": "unsigned"}[sum_type]
    for word, value in {
        "BYTES": BYTES, "REGISTER": kind, "SUMS": sums, "A_REST": f"{rests[0][2]}ull", "B_REST": f"{rests[1][2]}ull",
        "SHAPE": f"m64n{columns}k{depth}.{sum_type}.{a_type}.{b_type}", "NAMES": listed(sums, "%{0}"), "OF_A": of_a,
        "TILE_B": sums + 1, "SIGNS_AND_ACROSS": more,
        "OUTPUTS": listed(sums, '"+f"(r[{0}])' if kind == "float" else '"+r"(r[{0}])'),
    }.items():  # fmt: skip
        said = said.replace(word, str(value))
    layouts = [(depth, item, s, x, leading, stride) for s, x, (leading, stride, _) in zip(swizzles, across, rests)]
    return said, layouts, sums


def check_product(rng, columns=64, **how):
    code, layouts, _ = tiles(columns=columns, **how)
    a_type, sum_type, signs = how.get("a_type", "bf16"), how.get("sum_type", "f32"), how.get("signs", (1, 1))
    depth = layouts[0][0]
    a, a_bits = numbers_of(a_type, (64, depth), rng)
    b, b_bits = numbers_of(how.get("b_type") or a_type, (columns, depth), rng)
    start = rng.integers(-9, 10, (64, columns))
    # d[4 j + i] of lane 4 g + t of warp w is D[16 w + g + i / 2 * 8][8 j + 2 t + i % 2]
    thread, j, i = np.indices((128, columns // 8, 4))
    row, column = thread // 32 * 16 + thread % 32 // 4 + i // 2 * 8, 8 * j + thread % 4 * 2 + i % 2
    kind = {"f32": np.float32, "s32": np.int32, "f16": np.float16}[sum_type]
    d = start[row, column].astype(kind)
    fragments = np.zeros((128, 4, 4 // a_bits.itemsize), a_bits.dtype)
    t, r, e = np.indices(fragments.shape)
    per = 4 // a_bits.itemsize
    fragments[...] = a_bits[t // 32 * 16 + t % 32 // 4 + r % 2 * 8, r // 2 * 4 * per + t % 4 * per + e]
    images = [laid(bits, places(len(bits), *layout)) for bits, layout in zip((a_bits, b_bits), layouts)]
    words = d.view(np.uint32).reshape(-1)
    kernel = RawKernel(HEAD + code, "k", seeds=1)
    kernel.max_dynamic_shared_size_bytes = 2 * BYTES
    kernel((1,), (128,), (*images, words, fragments.view(np.uint32).reshape(-1)), shared_mem=2 * BYTES)
    want = start + signs[0] * signs[1] * (a @ b.T)
    np.testing.assert_array_equal(words.view(kind).reshape(d.shape), want[row, column])


@pytest.mark.parametrize("swizzle, lies", [*itertools.product((128, 64, 32, 0), (0, 1))])
def test_where_operands_of_a_product_lie(swizzle, lies, rng):
    of_b = {128: 64, 64: 32, 32: 0, 0: 128}[swizzle]
    check_product(rng, columns=136, swizzles=(swizzle, of_b), across=(lies, 1 - lies))


TYPES = [
    {"a_type": "f16"}, {"a_type": "f16", "sum_type": "f16"}, {"a_type": "tf32"}, {"a_type": "e4m3"}, {"a_type": "e5m2", "b_type": "e4m3"},
    {"a_type": "e4m3", "b_type": "e5m2", "sum_type": "f16"}, {"a_type": "s8", "sum_type": "s32"},
    {"a_type": "u8", "b_type": "s8", "sum_type": "s32"},
]  # fmt: skip


@pytest.mark.parametrize("how", TYPES, ids=lambda how: "-".join(how.values()))
def test_numbers_of_a_product(how, rng):
    check_product(rng, columns=24, **how)
    check_product(rng, columns=256, registers=True, **how)


@pytest.mark.parametrize("signs", [(-1, 1), (1, -1), (-1, -1)])
def test_signs_of_a_product(signs, rng):
    check_product(rng, signs=signs)


def test_a_product_by_both_compilers(each_compiler, rng):
    check_product(rng)


@needs_nvrtc
def test_a_gpu_takes_these_products(tmp_path):
    for how in (*TYPES, {"across": (1, 1)}, {"signs": (-1, 1)}, {"registers": True}):
        on_a_gpu(tmp_path, tiles(**how)[0])


def test_a_tile_that_begins_within_the_pattern_of_its_swizzle(rng):
    code, _, sums = tiles()
    for old, new in (("address(tiles) >> 4", "address(tiles + 256) >> 4"), (">> 4;", ">> 4; b_tile |= 1ull << 49;")):
        kernel = RawKernel(HEAD + code.replace(old, new), "k", seeds=1)
        kernel.max_dynamic_shared_size_bytes = 2 * BYTES
        image = np.zeros(BYTES, np.uint8)
        with pytest.raises(EmulatorError, match="must begin at a multiple of 1024 bytes, with the base offset 0"):
            kernel(
                (1,),
                (128,),
                (image, image, np.zeros(128 * sums, np.uint32), np.zeros(512, np.uint32)),
                shared_mem=2 * BYTES,
            )


WAIT = '    asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");'


@pytest.mark.skipif("clang" in (os.environ.get("CXX") or ""), reason="clang++ does not tell of these accesses")
@pytest.mark.parametrize("apart", [1, 2])
@pytest.mark.parametrize(
    "touch, how",
    [
        ("kept[0] = r[AT];", "read of 4 bytes at byte 8"),
        ("r[AT] = 0;", "write of 4 bytes at byte 8"),
        ("memcpy(kept, r, sizeof r);", "read of (16|32) bytes at byte 0"),
    ],
)
def test_sums_that_are_touched_before_the_wait(apart, touch, how):
    """By one thread; they lie together, or every second one of an array is a sum."""
    code, _, sums = tiles(columns=8)
    code = re.sub(r"\br\[([i0-3])\]", rf"r[{apart} * \1]", code).replace("r[4];", f"r[{4 * apart}];")
    assert sums == 4 and code.count(f'"+f"(r[{apart} * 3])') == code.count(WAIT) == 1
    early = f"    __shared__ float kept[8];\n    if (threadIdx.x == 5) {touch.replace('AT', str(2 * apart))}\n"
    code = code.replace(WAIT, early + WAIT)
    kernel = RawKernel(HEAD + code, "k", seeds=1)
    kernel.max_dynamic_shared_size_bytes = 2 * BYTES
    image, words = np.zeros(BYTES, np.uint8), np.zeros(128 * sums, np.uint32)
    with pytest.raises(EmulatorError) as raised:
        kernel((1,), (128,), (image, image, words, np.zeros(512, np.uint32)), shared_mem=2 * BYTES)
    at, product = line_of("threadIdx.x == 5", code), line_of("wgmma.mma_async", code)
    assert re.fullmatch(
        rf"kernel\.cu:{at}: missing wait: {how} of its sums by thread 5 of block \(0, 0, 0\), "
        rf"where a product begun at kernel\.cu:{product} is not waited for",
        str(raised.value),
    )


@pytest.mark.parametrize("order", [(8, 16), (16, 8)])
def test_products_of_several_sizes_that_are_under_way_at_once(order, each_compiler, rng):
    """Here of nothing but 0, so that the sums stay as they were."""
    code, _, sums = tiles(columns=16)
    one = {n: re.search(r'    asm volatile\("wgmma.mma_async.*?\);\n', tiles(columns=n)[0], re.S)[0] for n in order}
    code = code.replace(one[16], f'{one[order[0]]}    asm volatile("wgmma.fence.sync.aligned;");\n{one[order[1]]}')
    kernel = RawKernel(HEAD + code, "k", seeds=1)
    kernel.max_dynamic_shared_size_bytes = 2 * BYTES
    image, d = np.zeros(BYTES, np.uint8), rng.standard_normal(128 * sums).astype(np.float32)
    words = d.view(np.uint32).copy()
    kernel((1,), (128,), (image, image, words, np.zeros(512, np.uint32)), shared_mem=2 * BYTES)
    np.testing.assert_array_equal(words.view(np.float32), d)


# --- a whole product: TMA in, wgmma, TMA out -----------------------------------------------------------------------------

PRODUCT = """
extern "C" __global__ void __launch_bounds__(128) product(const __grid_constant__ CUtensorMap x, const CUtensorMap* w,
                                                          const __grid_constant__ CUtensorMap y, int k) {
    extern __shared__ __align__(1024) uint8_t shared[];
    uint8_t *a = shared, *b = a + 64 * 128;
    float* c = (float*)(b + 64 * 128);
    __shared__ alignas(8) uint64_t full;
    if (threadIdx.x == 0) init(&full, 1);
    __syncthreads();
    float d[8][4];
    for (int step = 0; step < k / 64; step++) {
        if (threadIdx.x == 0) {
            expect(&full, 2 * 64 * 128);
            asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];"
                         :: "r"(address(a)), "l"(&x), "r"(address(&full)), "r"(step * 64), "r"((int)blockIdx.x * 64) : "memory");
            asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint"
                         " [%0], [%1, {0, %3, %4}], [%2], %5;"
                         :: "r"(address(b)), "l"(w), "r"(address(&full)), "r"(0), "r"(step), "l"(0ull) : "memory");
        }
        wait(&full, step & 1);
        WGMMA_FENCE
        for (int i = 0; i < 4; i++) {
            uint64_t a_tile = 0x4000004000000000ull | (address(a + 32 * i) & 0x3ffff) >> 4;
            uint64_t b_tile = 0x4000004000000000ull | (address(b + 32 * i) & 0x3ffff) >> 4;
            asm volatile("{\\n.reg .pred p;\\nsetp.ne.b32 p, %34, 0;\\n"
                         "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {NAMES}, %32, %33, p, 1, 1, 0, 0;\\n}"
                         : SUMS : "l"(a_tile), "l"(b_tile), "r"(step + i));
        }
        asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
        asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
        __syncthreads();
    }
    for (int i = 0; i < 32; i++) {
        int row = threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4 + i / 2 % 2 * 8, column = i / 4 * 8 + threadIdx.x % 4 * 2 + i % 2;
        c[row * 64 + column] = d[i / 4][i % 4];
    }
    fence();
    __syncthreads();
    if (threadIdx.x == 0) {
        asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%0, {%2, %3}], [%1];"
                     :: "l"(&y), "r"(address(c)), "r"(0), "r"((int)blockIdx.x * 64) : "memory");
        asm volatile("cp.async.bulk.commit_group;");
        asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
    }
}
""".replace("NAMES", listed(32, "%{0}")).replace("SUMS", ", ".join(f'"+f"(d[{i // 4}][{i % 4}])' for i in range(32)))
WGMMA_FENCE = 'asm volatile("wgmma.fence.sync.aligned;" ::: "memory");'


def product(code, rng, **more):
    x, w = (bfloat16.rounded(rng.standard_normal((n, 128), np.float32)) for n in (100, 64))
    y = np.full((100, 64), 7, np.float32)
    of_w = bfloat16.to_bits(w)
    maps = [
        TensorMap(bfloat16.to_bits(x), (64, 64), 128),
        TensorMap(of_w, (1, 64, 64), 128, shape=(2, 64, 64), strides=(128, 256, 2)),
        TensorMap(y, (64, 64)),
    ]
    RawKernel(HEAD + code.replace("WGMMA_FENCE", WGMMA_FENCE), "product", **more)(
        (2,), (128,), (*maps, np.int32(128)), shared_mem=32 << 10
    )
    return y, x.astype(np.float64) @ w.T


def test_a_product_by_tma_and_wgmma(each_compiler, rng):
    got, want = product(PRODUCT, rng)
    np.testing.assert_allclose(got, want, rtol=0, atol=2e-5)


def test_who_has_waited_for_a_product_knows_that_all_four_warps_have_read(each_compiler, rng):
    code = PRODUCT.replace("        __syncthreads();\n    }\n", "    }\n")  # thread 0 alone brings the next tiles
    assert code != PRODUCT
    got, want = product(code, rng, seeds=10)
    np.testing.assert_allclose(got, want, rtol=0, atol=2e-5)


@needs_nvrtc
def test_a_gpu_takes_this_product(tmp_path):
    on_a_gpu(tmp_path, PRODUCT.replace("WGMMA_FENCE", WGMMA_FENCE))


@pytest.mark.parametrize(
    "old, new, at, why",
    [
        ("WGMMA_FENCE", "", "setp.ne", "missing fence: wgmma with no wgmma_fence since"),
        ("    fence();\n", "", "bulk.tensor.2d.global", "missing fence: read of 256 bytes at byte 16384 of dynamic shared memory by the async"),
        ("wait(&full, step & 1);", "", "setp.ne", "race: read of 16 bytes"),
        ("wait(&full, step & 1);", "wait(&full, 0);", "setp.ne", "race: read of 16 bytes"),
        (
            'asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");', "", "bulk.tensor.2d.shared",
            "missing wait: a write to byte 0 of dynamic shared memory, which a product or a copy may still be reading",
        ),
        (
            'asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");', "", "bulk.tensor.2d.global",
            "missing wait: nobody waits for this copy before the thread returns",
        ),
        (
            'asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");',
            "c[0] = 0; "
            'asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");', "bulk.wait_group.read",
            "missing wait: a write to byte 16384 of dynamic shared memory, which a product or a copy may still be reading",
        ),
        ("expect(&full, 2 * 64 * 128);", "expect(&full, 64 * 128);", "setp.ne", "missing wait: read of 16 bytes"),
        ("full, 1)", "full, 2)", "mbarrier.try_wait", "deadlock: thread"),
    ],
)  # fmt: skip
def test_mistakes_in_a_product_are_found_at_their_lines(old, new, at, why, rng):
    assert old in PRODUCT
    code = PRODUCT.replace(old, new)
    with pytest.raises(EmulatorError, match=rf"kernel\.cu:{line_of(at, code)}: {why}"):
        product(code, rng)


def test_a_map_by_a_threads_own_copy(rng):
    with pytest.raises(
        WrongSource, match="parameter y must be const __grid_constant__, or TMA gets the address of a thread's own"
    ):
        product(PRODUCT.replace("const __grid_constant__ CUtensorMap y", "const CUtensorMap y"), rng)


# --- mbarriers, bytes and clusters ----------------------------------------------------------------------------------------

BYTES_BY_TMA = """
extern "C" __global__ void turn(const unsigned* x, unsigned* y) {
    __shared__ alignas(128) unsigned tile[256], turned[256];
    __shared__ uint64_t full, all;
    if (threadIdx.x == 0) {
        init(&full, 1);
        init(&all, 64);
        asm volatile("mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%0], %1;" :: "r"(address(&full)), "r"(1024) : "memory");
        asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];"
                     :: "r"(address(tile)), "l"(x + 256 * blockIdx.x), "r"(1024), "r"(address(&full)) : "memory");
        asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0], %1;" :: "r"(address(&full)), "r"(1) : "memory");
    }
    __syncthreads();
    wait(&full, 0);
    for (int i = threadIdx.x; i < 256; i += 32) turned[255 - i] = tile[i];
    fence();
    uint64_t state;
    asm volatile("mbarrier.arrive.release.cta.shared::cta.b64 %0, [%1], 2;" : "=l"(state) : "r"(address(&all)) : "memory");
    unsigned over = 0;
    while (!over)
        asm volatile("{ .reg .pred p; mbarrier.test_wait.acquire.cta.shared::cta.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }"
                     : "=r"(over) : "r"(address(&all)), "l"(state) : "memory");
    unsigned leader = 0, lane;
    asm volatile("{ .reg .pred p; elect.sync %1|p, 0xffffffff; selp.u32 %0, 1, 0, p; }" : "=r"(leader), "=r"(lane));
    if (leader) {
        asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" :: "l"(y + 256 * blockIdx.x), "r"(address(turned)), "r"(1024) : "memory");
        asm volatile("cp.async.bulk.commit_group; cp.async.bulk.wait_group 0;" ::: "memory");
    }
}
"""
CLUSTER = """
template <int BLOCKS>
__global__ void __cluster_dims__(BLOCKS) gather(const __grid_constant__ CUtensorMap x, unsigned* y) {
    __shared__ alignas(128) unsigned tile[BLOCKS][32];
    __shared__ uint64_t full, left;
    unsigned rank, cluster, count;
    asm volatile("mov.u32 %0, %cluster_ctarank; mov.u32 %1, %clusterid.x; mov.u32 %2, %cluster_nctarank;" : "=r"(rank), "=r"(cluster), "=r"(count));
    if (threadIdx.x == 0) {
        init(&full, 1);
        init(&left, BLOCKS * 2);
        expect(&full, BLOCKS * 128);
    }
    asm volatile("barrier.cluster.arrive.release.aligned; barrier.cluster.wait.acquire.aligned;" ::: "memory");
    if (threadIdx.x == 0)
        asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster"
                     " [%0], [%1, {%3, %4}], [%2], %5;"
                     :: "r"(address(tile[rank])), "l"(&x), "r"(address(&full)), "r"(0), "r"((int)blockIdx.x), "h"((unsigned short)((1 << BLOCKS) - 1)) : "memory");
    wait(&full, 0);
    unsigned sum = 0;
    for (unsigned r = 0; r < count; r++) sum = 10 * sum + tile[r][threadIdx.x];
    y[blockIdx.x * 32 + threadIdx.x] = sum + 1000 * cluster;
    __syncwarp();
    tile[rank][threadIdx.x] = threadIdx.x + 100 * rank;
    __syncwarp();
    if (threadIdx.x < BLOCKS)
        asm volatile("{ .reg .b32 there; mapa.shared::cluster.u32 there, %0, %1; mbarrier.arrive.release.cluster.shared::cluster.b64 _, [there], 2; }"
                     :: "r"(address(&left)), "r"(threadIdx.x) : "memory");
    unsigned over = 0;
    while (!over)
        asm volatile("{ .reg .pred p; mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%1], 0; selp.u32 %0, 1, 0, p; }"
                     : "=r"(over) : "r"(address(&left)) : "memory");
    unsigned other = (rank + 1) % BLOCKS, there, seen;
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(address(&tile[other][threadIdx.x])), "r"(other));
    READ
    y[(gridDim.x + blockIdx.x) * 32 + threadIdx.x] = seen;
    asm volatile("barrier.cluster.arrive.aligned;\\nbarrier.cluster.wait.aligned;" ::: "memory");
}
"""
READ = 'asm volatile("ld.shared::cluster.u32 %0, [%1];" : "=r"(seen) : "r"(there));'


def test_bytes_by_tma(each_compiler):
    x, y = np.arange(512, dtype=np.uint32).reshape(2, 256), np.zeros((2, 256), np.uint32)
    RawKernel(HEAD + BYTES_BY_TMA, "turn")((2,), (32,), (x, y))
    np.testing.assert_array_equal(y, x[:, ::-1])
    with pytest.raises(EmulatorError, match="misaligned: a bulk copy is of a multiple of 16 bytes"):
        RawKernel(
            HEAD + BYTES_BY_TMA.replace('256 * blockIdx.x), "r"(1024)', '257 * blockIdx.x), "r"(1024)', 1), "turn"
        )((2,), (32,), (np.tile(x, 2), y))


def gather(code, **more):
    x, y = np.arange(128, dtype=np.uint32).reshape(4, 32) % 7, np.zeros((2, 4, 32), np.uint32)
    module = RawModule(code=HEAD + code, name_expressions=("gather<2>",), **more)
    module.get_function("gather<2>")((4,), (32,), (TensorMap(x, (1, 32)), y))
    return x, y


def test_a_cluster_in_ptx(each_compiler):
    x, (sums, seen) = gather(CLUSTER.replace("READ", READ))
    np.testing.assert_array_equal(sums, np.repeat(10 * x[::2] + x[1::2] + 1000 * np.arange(2)[:, None], 2, axis=0))
    np.testing.assert_array_equal(seen, np.arange(32) + 100 * np.array([1, 0, 1, 0])[:, None])


def test_mistakes_in_a_cluster():
    with pytest.raises(EmulatorError, match="wild address: read of 4 bytes"):
        gather(CLUSTER.replace("READ", READ.replace("::cluster", "")))
    with pytest.raises(EmulatorError, match="absent block: an access to the shared memory of block"):
        gather(CLUSTER.replace("READ", READ).replace("cluster.arrive.release", "cluster.arrive.relaxed"))
    to_next = "{ .reg .b32 there; mapa.shared::cluster.u32 there, %0, 1; cp.async.bulk.tensor.2d"
    with pytest.raises(EmulatorError, match="bad operand: TMA from global memory to another block, but by multicast"):
        gather(
            CLUSTER.replace("READ", READ)
            .replace('"cp.async.bulk.tensor.2d', f'"{to_next}')
            .replace("[%0], [%1, {", "[there], [%1, {")
            .replace("[%2], %5;", "[%2], %5; }")
        )
    with pytest.raises(EmulatorError, match="bad operand: block 2 of a cluster of 2 blocks"):
        gather(CLUSTER.replace("READ", READ).replace("threadIdx.x < BLOCKS", "threadIdx.x <= BLOCKS"))
    with pytest.raises(EmulatorError, match="race: write of 4 bytes"):
        gather(
            CLUSTER.replace(
                "READ",
                'seen = 0; asm volatile("st.shared::cluster.u32 [%0], %1;" :: "r"(there - 4 * threadIdx.x), "r"(threadIdx.x) : "memory");',
            )
        )
    ends = 'asm volatile("barrier.cluster.arrive.aligned;\\nbarrier.cluster.wait.aligned;" ::: "memory");'
    assert ends in CLUSTER
    with pytest.raises(EmulatorError, match="absent block"):
        gather(CLUSTER.replace("READ", READ).replace(ends, ""))


@needs_nvrtc
def test_a_gpu_takes_these_copies(tmp_path):
    on_a_gpu(
        tmp_path,
        BYTES_BY_TMA,
        CLUSTER.replace("READ", READ)
        + "template __global__ void gather<2>(const __grid_constant__ CUtensorMap, unsigned*);",
    )


def test_a_cluster_that_cannot_be():
    with pytest.raises(ValueError, match=r"the grid must be a multiple of the cluster of \(2, 1, 1\) blocks"):
        RawModule(HEAD + CLUSTER.replace("READ", READ), name_expressions=("gather<2>",)).get_function("gather<2>")(
            (3,), (32,), (TensorMap(np.zeros((4, 32), np.uint32), (1, 32)), np.zeros(256, np.uint32))
        )
    with pytest.raises(WrongSource, match="a cluster is 1 to 8 blocks, as in"):
        RawModule(HEAD + CLUSTER.replace("READ", READ), name_expressions=("gather<16>",)).compile()


OF_CUDA = """
#include <cuda.h>
#include <cuda/barrier>
using barrier = cuda::barrier<cuda::thread_scope_block>;
namespace cde = cuda::device::experimental;
extern "C" __global__ void twice(const __grid_constant__ CUtensorMap map, const int* more, int* sums, int column, int row) {
    __shared__ alignas(128) int tile[8][16], other[128];
    #pragma nv_diag_suppress static_var_with_dynamic_init
    __shared__ barrier full, bytes;
    if (threadIdx.x == 0) {
        init(&full, blockDim.x);
        init(&bytes, blockDim.x);
        cde::fence_proxy_async_shared_cta();
    }
    __syncthreads();
    barrier::arrival_token token;
    if (threadIdx.x == 0) {
        cde::cp_async_bulk_tensor_2d_global_to_shared(&tile, &map, column, row, full);
        token = cuda::device::barrier_arrive_tx(full, 1, sizeof(tile));
        cuda::memcpy_async(other, more, cuda::aligned_size_t<16>(sizeof(other)), bytes);
    } else {
        token = full.arrive();
    }
    full.wait(std::move(token));
    bytes.arrive_and_wait();
    tile[threadIdx.x / 16][threadIdx.x % 16] *= 2;
    sums[threadIdx.x] = other[127 - threadIdx.x];
    cde::fence_proxy_async_shared_cta();
    __syncthreads();
    if (threadIdx.x == 0) {
        cde::cp_async_bulk_tensor_2d_shared_to_global(&map, column, row, &tile);
        cde::cp_async_bulk_commit_group();
        cde::cp_async_bulk_wait_group_read<0>();
        (&full)->~barrier();
    }
}
"""


def test_barriers_of_cuda(each_compiler):
    def twice(code):
        x, more, sums = (
            np.arange(40 * 64, dtype=np.int32).reshape(40, 64),
            np.arange(128, dtype=np.int32),
            np.zeros(128, np.int32),
        )
        want = x.copy()
        want[36:40, 32:48] *= 2  # the box reaches beyond the last row
        RawKernel(code, "twice")((1,), (128,), (TensorMap(x, (8, 16)), more, sums, np.int32(32), np.int32(36)))
        np.testing.assert_array_equal(x, want)
        np.testing.assert_array_equal(sums, more[::-1])

    twice(OF_CUDA)
    with pytest.raises(
        EmulatorError, match=r"missing wait: read of 4 bytes at byte .* of tile by .* where a copy begun at"
    ):
        twice(OF_CUDA.replace("    full.wait(std::move(token));\n", ""))
    with pytest.raises(EmulatorError, match="missing fence: an mbarrier that was made without"):
        twice(OF_CUDA.replace("        cde::fence_proxy_async_shared_cta();\n", ""))


TURNED = """
extern "C" __global__ void k(const unsigned* x, unsigned short* y) {
    __shared__ alignas(128) unsigned short tile[32][8];
    asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared::cta.b16 [%0], {%1, %2, %3, %4};"
                 :: "r"(address(tile[threadIdx.x])), "r"(x[threadIdx.x]), "r"(x[threadIdx.x + 32]), "r"(x[threadIdx.x + 64]), "r"(x[threadIdx.x + 96]));
    __syncwarp();
    for (int i = 0; i < 8; i++) y[threadIdx.x * 8 + i] = tile[threadIdx.x][i];
}
"""


def test_matrices_stored_turned(each_compiler):
    x = np.arange(256, dtype=np.uint16)
    y = np.zeros((4, 8, 8), np.uint16)
    RawKernel(HEAD + TURNED, "k")((1,), (32,), (x.view(np.uint32), y))
    np.testing.assert_array_equal(y, x.reshape(4, 8, 8).transpose(0, 2, 1))


def test_a_launch_that_was_given_up_leaves_nothing_behind(rng):
    wrong = PRODUCT.replace("0x4000004000000000ull | (address(b", "0x40003ff000000000ull | (address(b")
    assert wrong != PRODUCT
    with pytest.raises(EmulatorError, match="wild address: read of 16 bytes"):
        product(wrong, rng, seeds=1)
    product(PRODUCT, rng, seeds=1)


def test_who_has_waited_for_a_product_knows_what_its_threads_had_read_before(rng, each_compiler):
    """One thread of the warp group brings what another has read (CUTLASS with A in registers, DeepGEMM's scales)."""
    after = "        __syncthreads();\n    }\n"
    code = PRODUCT.replace(after, "LATE        if (threadIdx.x == 0) scales[threadIdx.x + step + 1] = scale;\n    }\n")
    code = code.replace(
        "    float d[8][4];\n",
        "    __shared__ float scales[8];\n    scales[threadIdx.x % 8] = 1;\n    __syncthreads();\n    float scale = 0;\n    float d[8][4];\n",
    )
    read = "scale += scales[1];"
    code = code.replace("        WGMMA_FENCE\n", f"        {read}\n        WGMMA_FENCE\n")
    assert read in code and "LATE" in code
    got, want = product(code.replace("LATE", ""), rng, seeds=10)
    np.testing.assert_allclose(got, want, rtol=0, atol=2e-5)
    with pytest.raises(EmulatorError, match=r"race: write of 4 bytes at byte 4 of scales .* and a read by thread"):
        product(code.replace("LATE", ""), rng, seeds=3, strict=True)
    with pytest.raises(EmulatorError, match=r"race: .* of 4 bytes at byte 4 of scales"):
        product(code.replace("LATE", f"        {read}\n"), rng, seeds=3)
