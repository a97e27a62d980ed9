"""Inline PTX in the emulator: known answers, by both compilers, and what it refuses."""

import numpy as np
import pytest
from rungs import needs_compiler, needs_nvrtc

from kernels import bfloat16, launch
from kernels.emulator import DoesNotCompile, EmulatorError
from kernels.emulator.assembly import translated
from kernels.emulator.raw import RawKernel

pytestmark = needs_compiler

# The register that is written, the statement without `asm`, and what it must be. `one` is 1, `f` is 3.0f.
ANSWERS = [
    ("unsigned", '("add.u32 %0, %1, 41;" : "=r"(r) : "r"(one))', 42),
    ("int", '("sub.s32 %0, %1, %2;" : "=r"(r) : "r"(one), "r"(3))', -2),
    ("unsigned", '("mad.lo.u32 %0, %1, 5, 7;" : "=r"(r) : "r"(one))', 12),
    ("long long", '("mul.wide.s32 %0, %1, -3;" : "=l"(r) : "r"(0x7fffffff))', -3 * (2**31 - 1)),
    ("unsigned", '("mul.hi.u32 %0, %1, %1;" : "=r"(r) : "r"(0x80000000u))', 0x40000000),
    ("unsigned", '("lop3.b32 %0, %1, %2, %3, 0xEA;" : "=r"(r) : "r"(0xF0u), "r"(0x3Cu), "r"(1u))', 0xF0 & 0x3C | 1),
    ("unsigned", '("prmt.b32 %0, %1, %2, 0x5410;" : "=r"(r) : "r"(0x33221100u), "r"(0x77665544u))', 0x55441100),
    ("unsigned", '("bfe.u32 %0, %1, 4, 8;" : "=r"(r) : "r"(0xABCDu))', 0xBC),
    ("int", '("bfe.s32 %0, %1, 4, 8;" : "=r"(r) : "r"(0xABCD))', 0xBC - 256),
    ("unsigned", '("bfi.b32 %0, %1, %2, 8, 4;" : "=r"(r) : "r"(0xFFu), "r"(one))', 0xF01),
    ("unsigned", '("shl.b32 %0, %1, 33;" : "=r"(r) : "r"(one))', 0),
    ("int", '("shr.s32 %0, %1, 40;" : "=r"(r) : "r"(-5))', -1),
    ("unsigned", '("not.b32 %0, %1;" : "=r"(r) : "r"(one))', 2**32 - 2),
    ("unsigned", '("clz.b32 %0, %1;" : "=r"(r) : "r"(one))', 31),
    ("unsigned", '("popc.b32 %0, %1;" : "=r"(r) : "r"(0xF0F0u))', 8),
    ("float", '("fma.rn.f32 %0, %1, %2, %3;" : "=f"(r) : "f"(f), "f"(f), "f"(1.0f))', 10),
    ("float", '("fma.rn.ftz.f32 %0, %1, %1, 0f3F800000;" : "=f"(r) : "f"(f))', 10),
    ("float", '("ex2.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(f))', 8),
    ("float", '("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(f + 1))', 0.25),
    ("float", '("max.f32 %0, %1, 5.5;" : "=f"(r) : "f"(f))', 5.5),
    ("float", '("abs.f32 %0, %1;" : "=f"(r) : "f"(-f))', 3),
    ("float", '("neg.f32 %0, %0;" : "+f"(r))', 0),
    ("double", '("fma.rn.f64 %0, %1, %1, %1;" : "=d"(r) : "d"(3.0))', 12),
    ("int", '("cvt.rni.s32.f32 %0, %1;" : "=r"(r) : "f"(f * 0.5f))', 2),
    ("unsigned", '("cvt.rzi.u32.f32 %0, %1;" : "=r"(r) : "f"(-f))', 0),
    ("float", '("cvt.rn.f32.s32 %0, %1;" : "=f"(r) : "r"(-7))', -7),
    ("unsigned short", '("cvt.rn.f16.f32 %0, %1;" : "=h"(r) : "f"(f))', 0x4200),
    ("float", '("cvt.f32.f16 %0, %1;" : "=f"(r) : "h"((unsigned short)0x4200))', 3),
    ("unsigned", '("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(f), "f"(1.0f))', 0x42003C00),
    ("unsigned", '("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(f), "f"(1.0f))', 0x40403F80),
    ("unsigned", '("cvt.rna.tf32.f32 %0, %1;" : "=r"(r) : "f"(1.0f + 0x1p-11f))', 0x3F802000),
    ("unsigned", '("add.f16x2 %0, %1, %1;" : "=r"(r) : "r"(0x42003C00u))', 0x46004000),
    ("unsigned", '("fma.rn.f16x2 %0, %1, %1, %2;" : "=r"(r) : "r"(0x40003C00u), "r"(0x3C003C00u))', 0x45004000),
    ("unsigned", '("fma.rn.bf16x2 %0, %1, %1, %1;" : "=r"(r) : "r"(0x3F803F80u))', 0x40004000),
    ("unsigned", '("mov.b32 %0, {%1, %2};" : "=r"(r) : "h"((unsigned short)1), "h"((unsigned short)2))', 0x20001),
    ("unsigned", '("mov.u32 %0, %%laneid;" : "=r"(r))', 0),
    ("unsigned", '("mov.u32 %0, %%ntid.x;" : "=r"(r))', 1),
    ("unsigned", '("{ .reg .pred p; setp.ne.b32 p, %1, 0; selp.b32 %0, 5, 6, p; }" : "=r"(r) : "r"(one))', 5),
    ("unsigned", '("{.reg .b32 x<2>;\\n\\t add.u32 x0, %1, %1; add.u32 x1, x0, x0; mov.u32 %0, x1;}" : "=r"(r) : "r"(one))', 4),
    ("unsigned", '("{ .reg .pred p; mov.u32 %0, 0; AGAIN: add.u32 %0, %0, 1; setp.lt.u32 p, %0, 9; @p bra AGAIN; }" : "=r"(r))', 9),
    ("unsigned", '("{ .reg .pred p; setp.eq.s32 p, %1, 3; mov.u32 %0, 1; @!p mov.u32 %0, 2; }" : "=r"(r) : "r"(one))', 2),
    ("unsigned", ' volatile ("mov.u32 %0, %1;" // (a comment)\n : "=r"(r) : "r"(one) : "memory")', 1),
    ("unsigned", '("red.global.add.u32 [%0], %1;" :: "l"(y_of), "r"(2)); r = *y_of; (void(0))', 2),
    ("unsigned", '("atom.global.max.u32 %0, [%1], 9;" : "=r"(r) : "l"(y_of))', 2),
    ("unsigned", '("ld.global.nc.L1::no_allocate.u32 %0, [%1];" : "=r"(r) : "l"(y_of))', 9),
]  # fmt: skip


LINES = "\n".join(f"{{ {kind} r = 0; asm{said}; y[{i}] = r; }}" for i, (kind, said, _) in enumerate(ANSWERS))
ALL = f'extern "C" __global__ void k(double* y, unsigned* y_of) {{ const unsigned one = blockDim.x; const float f = 3;\n{LINES} }}'


@needs_nvrtc
def test_a_gpu_takes_the_same_instructions(tmp_path):
    (tmp_path / "all.cu").write_text(ALL)
    launch.compile_for(tmp_path / "all.cu", "90")


def test_instructions_and_their_answers(each_compiler):
    y = np.zeros(len(ANSWERS))
    RawKernel(ALL, "k")((1,), (1,), (y, np.zeros(1, np.uint32)))
    for got, (_, said, want) in zip(y, ANSWERS):
        assert got == want, said


@pytest.mark.parametrize(
    "said, why",
    [
        (
            '("wgmma.fence.sync.aligned;")',
            r"wgmma\.fence\.sync\.aligned is not among the inline PTX that the emulator has",
        ),
        ('("mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%0}, {%1}, {%2}, {%3};")', r"mma.sync\S+f64 is not among"),
        ('("mov.u32 %0, %%clock_hi;" : "=r"(r))', "inline PTX with the operand clock_hi"),
        ('("mov.u32 " WHAT ", %0;" :: "r"(1))', "inline PTX that is not a string as it stands: mov.u32  WHAT"),
        ('("ld.acquire.gpu.u32 %0, [%1];" : "=r"(r) : "l"(y))', r"ld\.acquire\.gpu\.u32 is not among"),
        ('("add.cc.u32 %0, %1, %1;" : "=r"(r) : "r"(1))', r"add\.cc\.u32 is not among"),
        ('("mov.b128 %0, %1;" : "=q"(r) : "r"(1))', "inline PTX with an operand of the kind q"),
    ],
)
def test_what_is_not_known_is_found_where_a_kernel_comes_to_it(said, why):
    code = f'extern "C" __global__ void k(float* y) {{ unsigned r;\nif (y[0] > 0)\nasm{said}; }}'
    with pytest.raises(EmulatorError, match=rf"kernel\.cu:3: bad operand: {why}"):
        RawKernel(code, "k")((1,), (1,), (np.ones(1, np.float32),))
    RawKernel(code, "k")((1,), (1,), (np.zeros(1, np.float32),))


def test_asm_without_its_end_is_the_compilers_to_say():
    with pytest.raises(DoesNotCompile):
        RawKernel('extern "C" __global__ void k(float* y) { asm("exit;" }', "k")((1,), (1,), (np.ones(1, np.float32),))


def test_what_only_looks_like_asm_stays():
    text = '// asm("x");\n/* asm(" */ f("asm(1)"); int asm_(int); plasm(3);'
    assert translated(text) == text
    assert translated('asm volatile("membar.gl;"\n ::: "memory");\n').count("\n") == 2
    macro = '#define WAIT(N) \\\n    asm volatile("cp.async.wait_group %0;\\n" \\\n :: "n"(N))\nint x;'
    assert translated(macro).count("\n") == 3 and translated(macro).count("\\\n") == 2


PRODUCT = """
#include <cstdint>
#define LDMATRIX_X4(R0, R1, R2, R3, addr) \\
    asm volatile("ldmatrix.sync.aligned.x4.m8n8.shared.b16 {%0, %1, %2, %3}, [%4];\\n" \\
                 : "=r"(R0), "=r"(R1), "=r"(R2), "=r"(R3) : "r"(addr))

template <int BYTES>
__device__ void copy(void* to, const void* from) {
    uint32_t at = static_cast<uint32_t>(__cvta_generic_to_shared(to));
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], %2;\\n" ::"r"(at), "l"(from), "n"(BYTES));
}

__device__ uint32_t address(const void* pointer) {
    uint32_t a;
    asm("{ .reg .u64 u; cvta.to.shared.u64 u, %1; cvt.u32.u64 %0, u; }" : "=r"(a) : "l"(pointer));
    return a;
}

extern "C" __global__ void product(const uint16_t* x, const uint16_t* w, float* y) {
    __shared__ __align__(16) uint16_t a[16 * 16];
    extern __shared__ uint16_t b[];
    const int lane = threadIdx.x;
    copy<16>(&a[lane * 8], &x[lane * 8]);
    if (lane < 16) copy<16>(&b[lane * 8], &w[lane * 8]);
    asm volatile("cp.async.commit_group;\\n" ::);
    WAIT
    __syncwarp();
    uint32_t r[4], s[2];
    LDMATRIX_X4(r[0], r[1], r[2], r[3], address(&a[lane % 16 * 16 + lane / 16 * 8]));
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];" : "=r"(s[0]), "=r"(s[1]) : "r"(address(&b[lane % 16 * 8])));
    float d[4] = {};
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, "
                 "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};\\n"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3]), "r"(s[0]), "r"(s[1]));
    float* row = &y[lane / 4 * 8 + lane % 4 * 2];
    asm volatile("st.global.v2.f32 [%0], {%1, %2};" ::"l"(row), "f"(d[0]), "f"(d[1]) : "memory");
    asm volatile("st.global.v2.f32 [%0 + 256], {%1, %2};" ::"l"(row), "f"(d[2]), "f"(d[3]) : "memory");
}
"""
WAIT = 'asm volatile("cp.async.wait_group 0;");'


def product(code, rng):
    x, w = (bfloat16.rounded(rng.standard_normal(shape, np.float32)) for shape in ((16, 16), (16, 8)))
    y = np.zeros((16, 8), np.float32)
    RawKernel(code, "product")((1,), (32,), (*map(bfloat16.to_bits, (x, w)), y), shared_mem=256)
    return y, x.astype(np.float64) @ w


def test_a_product_by_copies_matrices_and_mma(each_compiler, rng):
    got, want = product(PRODUCT.replace("WAIT", WAIT), rng)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)


def test_mistakes_around_asm_are_found_at_its_line(each_compiler, rng):
    at = (
        PRODUCT.split("\n").index(
            '    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];" : "=r"(s[0]), "=r"(s[1]) : "r"(address(&b[lane % 16 * 8])));'
        )
        + 1
    )
    with pytest.raises(EmulatorError, match=rf"kernel\.cu:{at - 1}: missing wait: read of 4 bytes at byte \d+ of a "):
        product(PRODUCT.replace("WAIT", ""), rng)
    with pytest.raises(
        EmulatorError,
        match=rf"kernel\.cu:{at}: out of range: read of 16 bytes at byte 256 of dynamic",
    ):
        product(PRODUCT.replace("WAIT", WAIT).replace("b[lane % 16 * 8]", "b[lane % 16 * 8 + 8]"), rng)
    with pytest.raises(
        EmulatorError, match=rf"kernel\.cu:{at + 8}: out of range: write of 8 bytes at element \(16, 0\) of y"
    ):
        product(PRODUCT.replace("WAIT", WAIT).replace("%0 + 256", "%0 + 288"), rng)
