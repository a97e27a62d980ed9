"""The bits of tensor cores' sums: the emulator's against exact arithmetic, that against mmasim, and on a GPU against its own."""

import itertools

import numpy as np
import pytest
from rungs import needs_compiler, needs_nvrtc
from tensor_core_sums import BYTES, SMALLEST, dot, sums

from kernels import bfloat16, launch
from kernels.emulator import Emulator
from kernels.emulator.raw import RawKernel

# One instruction. A row of x, w or y is a row of A, a column of B or a row of D; those of x and w have 32 bytes.
MMA = """
extern "C" __global__ void k(const unsigned* x, const unsigned* w, WORD* y) {
    const int row = threadIdx.x / 4, four = threadIdx.x % 4, at = 8 * row + four;
    WORD *d = y + PER_ROW * row + PER_ROW / 4 * four, *e = d + 8 * PER_ROW;
    asm volatile("mma.sync.aligned.SHAPE {SUMS}, {%2N, %3N, %4N, %5N}, {%6N, %7N}, {SUMS};"
        : OUTPUTS : "r"(x[at]), "r"(x[at + 64]), "r"(x[at + 4]), "r"(x[at + 68]), "r"(w[at]), "r"(w[at + 4]));
}
"""
WGMMA = """// Needs sm_90a
extern "C" __global__ void k(const unsigned* x, const unsigned* w, WORD* y) {
    __shared__ __align__(128) unsigned tile[64];
    const int row = threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4, four = threadIdx.x % 4, at = 8 * row + four;
    WORD *d = y + PER_ROW * row + PER_ROW / 4 * four, *e = d + 8 * PER_ROW;
    if (threadIdx.x < 64) tile[threadIdx.x / 4 % 2 * 32 + threadIdx.x / 8 * 4 + threadIdx.x % 4] = w[threadIdx.x];
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    __syncthreads();
    unsigned long long b = (unsigned)__cvta_generic_to_shared(tile) >> 4 | 8 << 16 | 8ull << 32;
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
    asm volatile("wgmma.mma_async.sync.aligned.SHAPE {SUMS}, {%2N, %3N, %4N, %5N}, %6N, 1, 1, 1ACROSS;"
        : OUTPUTS : "r"(x[at]), "r"(x[at + 64]), "r"(x[at + 4]), "r"(x[at + 68]), "l"(b));
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
    asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
}
"""
PTX = {"bf16": "bf16", "fp16": "f16", "tf32": "tf32", "e4m3": "e4m3", "e5m2": "e5m2"}
KINDS = [
    ("bf16", False),
    ("fp16", False),
    ("fp16", True),
    ("tf32", False),
    ("e4m3", False),
    ("e5m2", False),
]  # half sums?
WARPGROUPS_KINDS = [*KINDS, ("e4m3", True)]
ALIKE, ANY, TINY = "of about one size", "any finite bits", "A and sums are subnormal numbers and their neighbours"


def cards_for(kind):
    """One card of each way in which an instruction adds up such products."""
    return ("89", "120") if BYTES[kind] == 1 else ("80", "90a")


def source(kind, half, warpgroup):
    """The kernel for one instruction."""
    depth = 32 // BYTES[kind]
    into, of = "f16" if half else "f32", PTX[kind]
    shape = f"m64n8k{depth}.{into}.{of}.{of}" if warpgroup else f"m16n8k{depth}.row.col.{into}.{of}.{of}.{into}"
    first = 2 if half else 4
    words = {f"%{n}N": f"%{n - 2 + first}" for n in range(2, 8)}
    words |= {"SHAPE": shape, "PER_ROW": "4" if half else "8", "WORD": "unsigned" if half else "float"}
    words |= {"ACROSS": ", 0" if BYTES[kind] == 2 else "", "SUMS": ", ".join(f"%{i}" for i in range(first))}
    outputs = ["d[0]", "e[0]"] if half else ["d[0]", "d[1]", "e[0]", "e[1]"]
    words["OUTPUTS"] = ", ".join(f'"+{"r" if half else "f"}"({y})' for y in outputs)
    text = WGMMA if warpgroup else MMA
    for word, value in words.items():
        text = text.replace(word, value)
    return text


def numbers(kind, bits):
    """What bits mean, in float64."""
    with np.errstate(invalid="ignore"):  # casts of NaN
        return _numbers(kind, bits)


def _numbers(kind, bits):
    if kind == "fp16":
        return bits.view(np.float16).astype(np.float64)
    if kind == "e5m2":
        return (bits.astype(np.uint16) << 8).view(np.float16).astype(np.float64)
    if kind == "e4m3":
        exponent, rest = bits >> 3 & 15, (bits & 7).astype(np.float64)
        x = np.where(exponent > 0, np.ldexp(8 + rest, exponent.astype(int) - 10), np.ldexp(rest, -9))
        return np.where(bits & 127 == 127, np.nan, np.where(bits & 128, -x, x))
    return (bfloat16.from_bits(bits) if kind == "bf16" else bits.view(np.float32)).astype(np.float64)


def drawn(kind, shape, at, rng):
    """Bits of numbers of about the size 2^``at``, of any size if that is None; a fifth are 0."""
    of = {1: np.uint8, 2: np.uint16, 4: np.uint32}[BYTES.get(kind, 4)]
    if at is None:
        bits = rng.integers(0, 256, (*shape, of().itemsize), dtype=np.uint8).view(of)[..., 0]
    else:
        most = 2 ** {"fp16": 11, "tf32": 11, "float": 24}.get(kind, 8) - 1
        x = np.ldexp(rng.integers(-most, most + 1, shape) / most, rng.integers(-2, 5, shape) + at).astype(np.float32)
        if BYTES.get(kind) == 1:
            every = numbers(kind, np.arange(256, dtype=np.uint8))
            every[~np.isfinite(every)] = np.inf
            bits = abs(x[..., None] - every).argmin(-1).astype(np.uint8)
        elif kind == "fp16":
            bits = x.astype(np.float16).view(np.uint16)
        else:
            bits = bfloat16.to_bits(x) if kind == "bf16" else x.view(np.uint32).copy()
    if kind == "tf32":
        bits &= ~np.uint32(0x1FFF)
    bits[(rng.random(shape) < 0.2) | ~np.isfinite(numbers(kind, bits))] = 0
    return bits


def problem(kind, half, warpgroup, way, rng):
    """Bits of A, of B transposed and of the sums."""
    depth, rows, of_sums = 32 // BYTES[kind], 64 if warpgroup else 16, "fp16" if half else "float"
    if way == TINY:
        of_a = SMALLEST[kind]
        of_b = (SMALLEST[of_sums] if half else -148) - of_a if half or of_a == -126 else 0
        sizes = of_a, of_b, of_a + of_b
    else:
        sizes = (None if way == ANY else 0,) * 3
    shapes = (kind, (rows, depth)), (kind, (8, depth)), (of_sums, (rows, 8))
    return [drawn(of, shape, at, rng) for (of, shape), at in zip(shapes, sizes)]


def bits_by(device, file, x, w, y):
    """The sums' bits after the instruction."""
    xp = getattr(device, "xp", np)
    sums_type = np.uint32 if y.itemsize == 2 else np.float32
    given = {"x": x.view(np.uint32), "w": w.view(np.uint32), "y": y.copy().view(sums_type)}
    given = {name: xp.asarray(array) for name, array in given.items()}
    device.run(file, "k", 1, 2 * len(x), given)
    return (given["y"] if xp is np else given["y"].get()).view(y.dtype)


def written(kind, half, warpgroup, tmp_path):
    """The kernel's file."""
    file = tmp_path / "k.cu"
    file.write_text(source(kind, half, warpgroup))
    return file


def exact(kind, how, x, w, c):
    """The sums (rows, 8) in exact arithmetic: of the bits of A and of B transposed, and the numbers ``c`` before."""
    a, b = numbers(kind, x), numbers(kind, w)
    return [[dot([*a[i]], [*b[j]], c[i, j], (kind, kind), how) for j in range(8)] for i in range(len(a))]


def check(kind, half, warpgroup, cards, tmp_path, rng):
    """The emulator's bits are those of exact arithmetic."""
    file, of_sums = written(kind, half, warpgroup, tmp_path), "fp16" if half else "float"
    for card in cards:
        how = sums(card, kind, half=half, warpgroup=warpgroup)
        for way in (ALIKE, ANY, TINY):
            x, w, y = problem(kind, half, warpgroup, way, rng)
            device = Emulator(architecture=card)
            got = numbers(of_sums, bits_by(device, file, x, w, y))
            device.check()
            np.testing.assert_array_equal(got, exact(kind, how, x, w, numbers(of_sums, y)), err_msg=f"{card}, {way}")
            assert not np.signbit(got[got == 0]).any()


@needs_compiler
@pytest.mark.parametrize("kind, half", KINDS)
def test_mma(kind, half, tmp_path, rng):
    check(kind, half, False, cards_for(kind), tmp_path, rng)


@needs_compiler
@pytest.mark.parametrize("kind, half", WARPGROUPS_KINDS)
def test_wgmma(kind, half, tmp_path, rng):
    check(kind, half, True, ("90a",), tmp_path, rng)


@needs_compiler
def test_sums_that_are_not_finite(tmp_path):
    """Inf and NaN, the largest sums that are finite, and one that is so only in between; a sum of 0 has no sign."""
    file = written("bf16", False, False, tmp_path)
    inf, nan, big, largest = np.inf, np.nan, 2.0**127, 2.0**128 - 2.0**104
    for a, b, c, want in [
        ([inf], [1], 0, inf),
        ([inf], [1], -inf, nan),
        ([inf], [0], 1, nan),
        ([1], [1], nan, nan),
        ([big, big], [1, 1], 0, inf),
        ([big, big, 2.0**103], [1, 1, -1], 0, largest),
        ([-big, -big, 2.0**103], [1, 1, 1], 0, -largest),
        ([big, -big], [4, 4], 1, 1 - 1),
        ([big, -big], [2.0**-130, 2.0**-130], 1, 1),
        ([0], [-1], -0.0, 0),
        ([-(2.0**-75)], [2.0**-75], 0, 0),
    ]:
        x, w = np.zeros((16, 16), np.float32), np.zeros((8, 16), np.float32)
        x[3, : len(a)], w[5, : len(b)] = a, b
        y = np.zeros((16, 8), np.float32)
        y[3, 5] = c
        got = bits_by(Emulator(), file, bfloat16.to_bits(x), bfloat16.to_bits(w), y.view(np.uint32))
        bits = np.float32(want).view(np.uint32) if want == want else 0x7FFFFFFF
        assert got[3, 5] == bits, (a, b, c, hex(got[3, 5]))


@needs_compiler
@pytest.mark.parametrize(
    ("before", "left", "right", "after"),
    [
        # a float in between would lose the second product, and be a tie
        (1, (2.0**-11, 2.0**-12), (1, 2.0**-13), 1 + 2.0**-10),
        # a tie, for what is added to a subnormal half is cut off below 2^(-14 - 25)
        (2.0**-23, (2.0**-14, 2.0**-20), (2.0**-11, 2.0**-21), 2.0**-23),
    ],
)
def test_sums_of_half_precision_are_rounded_once(before, left, right, after, tmp_path):
    x, w, y = np.zeros((16, 16), np.float16), np.zeros((8, 16), np.float16), np.zeros((16, 8), np.float16)
    x[0, :2], w[0, :2], y[0, 0] = left, right, before
    file = written("fp16", True, False, tmp_path)
    got = bits_by(Emulator(), file, x.view(np.uint16), w.view(np.uint16), y.view(np.uint16))
    assert got.view(np.float16)[0, 0] == after


def test_cards():
    for made in (Emulator, lambda architecture: RawKernel("", "k", architecture=architecture)):
        with pytest.raises(ValueError, match="unknown architecture '70'"):
            made(architecture="70")


@needs_compiler
def test_a_kernel_as_text_on_an_a100():
    """1 and half the last bit that a Hopper keeps in between, which an A100 does not."""
    x, w = np.zeros((2, 16, 16), np.float32)
    x[0, :3], w[0, :3] = (1, -1, 2.0**-25), 1
    found = []
    for card in ("90a", "80"):
        y = np.zeros((16, 8), np.float32)
        kernel = RawKernel(source("bf16", False, False), "k", architecture=card)
        kernel((1,), (32,), (*(bfloat16.to_bits(v).view(np.uint32) for v in (x, w[:8])), y))
        found.append(y[0, 0])
    assert found == [2.0**-25, 0]


@needs_compiler
def test_what_another_card_has_is_not_emulated_for_it(tmp_path):
    with pytest.raises(launch.NoCuda, match=r"k\.cu is for sm_90a, it cannot run on sm_80"):
        bits_by(
            Emulator(architecture="80"),
            written("bf16", False, True, tmp_path),
            *problem("bf16", False, True, ALIKE, np.random.default_rng(0)),
        )


@needs_nvrtc
@pytest.mark.parametrize("kind, half", WARPGROUPS_KINDS)
def test_a_gpu_takes_these_instructions(kind, half, tmp_path):
    launch.compile_for(written(kind, half, True, tmp_path), "90a")
    if (kind, half) in KINDS:
        launch.compile_for(written(kind, half, False, tmp_path), cards_for(kind)[0])


MODELS = {
    "75": "Turing",
    "80": "Ampere",
    "89": "Ada Lovelace",
    "90a": "Hopper",
    "100": "Blackwell",
    "120": "RTX Blackwell",
}


@pytest.mark.peer
@pytest.mark.parametrize("card", MODELS)
def test_exact_arithmetic_has_the_bits_of_a_model_that_has_those_of_the_cards(card, rng):
    """mmasim, by Xie et al.: ``pip install torch==2.13.0 mmasim`` (torch first, or it comes with CUDA)."""
    torch, model = pytest.importorskip("torch"), pytest.importorskip("mmasim.nv_ptx.sim")
    types = {"bf16": "bfloat16", "fp16": "float16", "tf32": "float32", "e4m3": "float8_e4m3fn", "e5m2": "float8_e5m2"}
    same = 0
    for warpgroup, (kind, half) in itertools.product((False, True), WARPGROUPS_KINDS):
        depth, into, of = 32 // BYTES[kind], "f16" if half else "f32", PTX[kind]
        depth = 8 if card == "75" else depth
        shape = f"m64n8k{depth}.{into}.{of}.{of}" if warpgroup else f"m16n8k{depth}.{into}.{of}.{of}.{into}"
        try:
            product = (model.WGMMA if warpgroup else model.MMA)(MODELS[card], shape)
        except AssertionError:  # no such instruction
            continue
        how = sums(card, kind, half=half, warpgroup=warpgroup)
        for way in (ALIKE, ANY, TINY):
            x, w, y = problem(kind, half, warpgroup, way, rng)
            x, w, of_sums = x[:16, :depth], w[:, :depth], "fp16" if half else "float"
            factors = [torch.tensor(v.copy()).view(getattr(torch, types[kind])) for v in (x, w)]
            before = torch.tensor(y[:16]).view(torch.float16 if half else torch.float32)
            got = product.dpa(factors[0][:, None].expand(-1, 8, -1), factors[1][None].expand(16, -1, -1), before)
            want = exact(kind, how, x, w, numbers(of_sums, y[:16]))
            np.testing.assert_array_equal(got.float().numpy(), want, err_msg=f"{shape}, {way}")
            same += 1
    assert same == {"75": 6, "80": 12, "89": 21, "90a": 33, "100": 12, "120": 21}[card]


@pytest.mark.gpu
@pytest.mark.parametrize("warpgroup", [False, True])
@pytest.mark.parametrize("kind, half", WARPGROUPS_KINDS)
def test_on_a_gpu(kind, half, warpgroup, tmp_path, rng):
    """The card has the bits that the emulator has for it."""
    device = launch.Device()
    has = WARPGROUPS_KINDS if warpgroup else KINDS if device.architecture in ("89", "120") else KINDS[:4]
    if (kind, half) not in has or (warpgroup and device.architecture != "90a") or device.architecture == "75":
        pytest.skip(f"sm_{device.architecture} has no such instruction")
    file = written(kind, half, warpgroup, tmp_path)
    for way in (ALIKE, ANY, TINY):
        x, w, y = problem(kind, half, warpgroup, way, rng)
        np.testing.assert_array_equal(
            bits_by(device, file, x, w, y), bits_by(Emulator(architecture=device.architecture), file, x, w, y)
        )
