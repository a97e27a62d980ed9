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
    ("int", '("add.s32 %0, %1, 1;" : "=r"(r) : "r"(0x7fffffff))', -(2**31)),
    ("int", '("mul.hi.s32 %0, %1, 5;" : "=r"(r) : "r"(-1))', -1),
    ("unsigned long long", '("mul.hi.u64 %0, %1, %1;" : "=l"(r) : "l"(0ull - one))', 2**64),
    ("unsigned long long", '("mul.wide.u32 %0, %1, 2;" : "=l"(r) : "r"(0u - one))', 2**33 - 2),
    ("unsigned", '("bfe.u32 %0, %1, 4, %2;" : "=r"(r) : "r"(0xABCDu), "r"(264))', 0xBC),
    ("unsigned", '("bfe.u32 %0, %1, 4, 40;" : "=r"(r) : "r"(0xABCDu))', 0xABC),
    ("unsigned", '("bfe.u32 %0, %1, 4, 0;" : "=r"(r) : "r"(0xABCDu))', 0),
    ("int", '("bfe.s32 %0, %1, 40, 8;" : "=r"(r) : "r"(-5))', -1),
    ("unsigned", '("bfi.b32 %0, %1, %2, 0, 32;" : "=r"(r) : "r"(0xFFu), "r"(one))', 0xFF),
    ("unsigned", '("bfi.b32 %0, %1, %2, 40, 4;" : "=r"(r) : "r"(0xFFu), "r"(one))', 1),
    ("unsigned", '("shl.b32 %0, %1, 32;" : "=r"(r) : "r"(one))', 0),
    ("unsigned", '("clz.b64 %0, %1;" : "=r"(r) : "l"(1ull))', 63),
    ("unsigned", '("clz.b32 %0, %1;" : "=r"(r) : "r"(one - 1))', 32),
    ("unsigned", '("clz.b64 %0, %1;" : "=r"(r) : "l"(0ull))', 64),
    ("float", '("min.f32 %0, %1, %2;" : "=f"(r) : "f"(__int_as_float(0x7fffffff)), "f"(f))', 3),
    ("float", '("max.f32 %0, %1, %2;" : "=f"(r) : "f"(__int_as_float(0x7fffffff)), "f"(f))', 3),
    ("float", '("div.full.f32 %0, %1, 0F40000000;" : "=f"(r) : "f"(f))', 1.5),
    ("double", '("neg.f64 %0, %1;" : "=d"(r) : "d"(f - 3.0)); r = 1 / r; (void(0))', -np.inf),
    ("double", '("abs.f64 %0, %1;" : "=d"(r) : "d"(-0.0)); r = 1 / r; (void(0))', np.inf),
    ("double", '("add.f64 %0, %1, 0.1;" : "=d"(r) : "d"(f - 3.0))', 0.1),
    ("unsigned", '("mov.f32 %0, 1.5;" : "=r"(r))', 0x3FC00000),
    ("unsigned", '("sub.f16x2 %0, %1, %2;" : "=r"(r) : "r"(0x42003C00u), "r"(0x3C003C00u))', 0x40000000),
    ("unsigned", '("mul.f16x2 %0, %1, %2;" : "=r"(r) : "r"(0x42003C00u), "r"(0x40004200u))', 0x46004200),
    ("unsigned", '("min.f16x2 %0, %1, %2;" : "=r"(r) : "r"(0x42003C00u), "r"(0x40004200u))', 0x40003C00),
    ("unsigned", '("max.bf16x2 %0, %1, %2;" : "=r"(r) : "r"(0x3F804040u), "r"(0x40003F80u))', 0x40004040),
    ("unsigned", '("neg.f16x2 %0, %1;" : "=r"(r) : "r"(0x42003C00u))', 0xC200BC00),
    ("int", '("cvt.rmi.s32.f32 %0, %1;" : "=r"(r) : "f"(-2.5f))', -3),
    ("int", '("cvt.rpi.s32.f32 %0, %1;" : "=r"(r) : "f"(2.5f))', 3),
    ("int", '("cvt.rzi.s32.f32 %0, %1;" : "=r"(r) : "f"(-2.5f))', -2),
    ("int", '("cvt.rni.s8.f32 %0, %1;" : "=r"(r) : "f"(300.0f))', 127),
    ("long long", '("cvt.rzi.s64.f32 %0, %1;" : "=l"(r) : "f"(-0x1p40f))', -(2**40)),
    ("unsigned long long", '("cvt.rzi.u64.f64 %0, %1;" : "=l"(r) : "d"(0x1p63))', 2**63),
    ("unsigned long long", '("cvt.rzi.u64.f64 %0, %1;" : "=l"(r) : "d"(1e300))', 2**64),
    ("int", '("cvt.rzi.s32.f64 %0, %1;" : "=r"(r) : "d"(__longlong_as_double(-1)))', -(2**31)),
    ("int", '("cvt.rzi.s32.f32 %0, %1;" : "=r"(r) : "f"(__int_as_float(0x7fffffff)))', 0),
    ("unsigned long long", '("mov.b64 %0, {%1, %2};" : "=l"(r) : "f"(f), "f"(2.0f))', 0x4000000040400000),
    ("double", '("mov.b64 %0, {%1, %2};" : "=d"(r) : "r"(0), "r"(0x3ff00000))', 1),
    ("unsigned", '("{ .reg .b16 low, high; mov.b32 {low, high}, %1; cvt.u32.u16 %0, high; }" : "=r"(r) : "r"(0x20001u))', 2),
    ("float", '("{ .reg .f32 low; mov.b64 {low, %0}, %1; }" : "=f"(r) : "l"(0x4000000040400000ull))', 2),
    ("unsigned", '("{ .reg .b32 low; mov.b64 {low, %0}, %1; }" : "=r"(r) : "d"(1.0))', 0x3FF00000),
    ("unsigned", '("{ .reg .pred p; mov.u32 %0, 0; setp.le.s32 p, %1, 1; @p add.u32 %0, %0, 1; setp.ge.u32 p, %1, 1; @p add.u32 %0, %0, 2;"'
     '"setp.ls.u32 p, %1, 1; @p add.u32 %0, %0, 4; setp.hi.u32 p, %1, 0; @p add.u32 %0, %0, 8; setp.gt.s32 p, %1, 1; @p add.u32 %0, %0, 16;"'
     '"setp.lo.u32 p, %1, 1; @p add.u32 %0, %0, 32; setp.hs.u32 p, %1, 0x1U; @p add.u32 %0, %0, 64; }" : "=r"(r) : "r"(one))', 79),
    ("unsigned", ' __volatile__("mov.u32 %0, 1; // (a comment;\\n\\t add.u32 %0, %0, %1; /* another */" : "=&r"(r) : "r"(one ? 2 : 3))', 3),
    ("unsigned", '("{ bra.uni OVER; OVER: mov.u32 %0, 2; }" : "=r"(r))', 2),
    ("unsigned long long", '("cvta.to.global.u64 %0, %1;" : "=l"(r) : "l"(y_of)); r -= (unsigned long long)y_of; (void(0))', 0),
    ("unsigned", '("atom.global.min.u32 %0, [%1], 5;" : "=r"(r) : "l"(y_of))', 9),
    ("unsigned", '("atom.global.or.b32 %0, [%1], 2;" : "=r"(r) : "l"(y_of))', 5),
    ("unsigned", '("atom.global.and.b32 %0, [%1], 6;" : "=r"(r) : "l"(y_of))', 7),
    ("unsigned", '("atom.global.xor.b32 %0, [%1], 3;" : "=r"(r) : "l"(y_of))', 6),
    ("unsigned", '("atom.global.exch.b32 %0, [%1], 8;" : "=r"(r) : "l"(y_of))', 5),
    ("unsigned", '("atom.global.add.u32 %0, [%1], 1;" : "=r"(r) : "l"(y_of))', 8),
    ("unsigned", '("atom.relaxed.cta.global.cas.b32 %0, [%1], 9, 4;" : "=r"(r) : "l"(y_of))', 9),
    ("unsigned", '("atom.global.cas.b32 %0, [%1], 9, 3;" : "=r"(r) : "l"(y_of))', 4),
    ("unsigned", '("atom.global.exch.b32 %0, [%1], 9;" : "=r"(r) : "l"(y_of))', 4),
    ("unsigned", '("atom.global.add.noftz.f16x2 %0, [%1], %2;" : "=r"(r) : "l"(y_of), "r"(0))', 9),
    ("int", '("cvt.rni.sat.s8.f32 %0, %1;" : "=r"(r) : "f"(-300.0f))', -128),
    ("int", '("cvt.sat.s8.s32 %0, %1;" : "=r"(r) : "r"(-300))', -128),
    ("int", '("cvt.sat.u8.s32 %0, %1;" : "=r"(r) : "r"(-3))', 0),
    ("unsigned", '("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "r"(0x40400000), "r"(0x3f800000))', 0x40403F80),
    ("unsigned", '("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "r"(0x40400000), "r"(0x3f800000))', 0x42003C00),
    ("unsigned", '("cvt.rna.tf32.f32 %0, %1;" : "=r"(r) : "r"(0x3f801000))', 0x3F802000),
    ("unsigned", '("shf.r.wrap.b32 %0, %1, %2, 36;" : "=r"(r) : "r"(0x12345678u), "r"(0xABCDEF01u))', 0x11234567),
    ("unsigned", '("shf.l.clamp.b32 %0, %1, %2, 36;" : "=r"(r) : "r"(0x12345678u), "r"(0xABCDEF01u))', 0x12345678),
    ("unsigned", '("{ .reg .b16 low, high; mov.b32{low, high}, %1; cvt.u32.u16 %0, high; }" : "=r"(r) : "r"(0x20001u))', 2),
    ("unsigned", '("ex2.approx.f16x2 %0, %1;" : "=r"(r) : "r"(0x42003C00u))', 0x48004000),
    ("unsigned short", '("ex2.approx.f16 %0, %1;" : "=h"(r) : "h"((unsigned short)0x4200))', 0x4800),
    ("unsigned", '("tanh.approx.f16x2 %0, %1;" : "=r"(r) : "r"(0x4C00CC00u))', 0x3C00BC00),
    ("volatile int", '("add.s32 %0, %1, 1;" : "=r"(r) : "r"(one))', 2),
    ("unsigned", '("bar.warp.sync 1; prefetchu.L1 [%1]; mov.u32 %0, 7;" : "=r"(r) : "l"(y_of))', 7),
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
            '("cp.reduce.async.bulk.global.shared::cta.bulk_group.inc.u32 [%0], [%1], 16;" :: "l"(y), "r"(0))',
            r"cp\.reduce\.async\S+ is not among the inline PTX that the emulator has",
        ),
        (
            '("cp.reduce.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes.add.u32 [%0], [%0], 16, [%0];" :: "r"(0))',
            r"cp\.reduce\.async\.bulk\.shared::cluster\.shared\S+ is not among",
        ),
        (
            '("wgmma.mma_async.sp.sync.aligned.m64n8k32.f32.bf16.bf16 {%0, %0, %0, %0}, %1, %1, %0, 0, 1, 1, 1, 0, 0;" '
            ':: "r"(r), "l"(0ull))',
            r"wgmma\.mma_async\.sp\S+ is not among",
        ),
        ('("mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%0}, {%1}, {%2}, {%3};")', r"mma.sync\S+f64 is not among"),
        ('("mov.u32 %0, %%clock_hi;" : "=r"(r))', "inline PTX with the operand clock_hi"),
        ('("mov.u32 " WHAT ", %0;" :: "r"(1))', "inline PTX that is not a string as it stands: mov.u32  WHAT"),
        ('("ld.acquire.gpu.v2.u32 {%0, %0}, [%1];" : "=r"(r) : "l"(y))', r"ld\.acquire\.gpu\.v2\.u32 is not among"),
        ('("add.cc.u32 %0, %1, %1;" : "=r"(r) : "r"(1))', r"add\.cc\.u32 is not among"),
        ('("mbarrier.complete_tx.shared.b64 [%0], 16;" :: "r"(0))', r"mbarrier\.complete_tx\S+ is not among"),
        ('("mov.u32 %0, %1;" : "=q"(r) : "r"(1))', "inline PTX with an operand of the kind q"),
        ('("ld.param.u32 %0, [%1];" : "=r"(r) : "l"(y))', r"ld\.param\.u32 is not among"),
        ('("cvt.rn.relu.f16x2.f32 %0, %1, %1;" : "=r"(r) : "f"(1.0f))', r"cvt\.rn\.relu\.f16x2\.f32 is not among"),
        ('("cvt.rn.tf32.f32 %0, %1;" : "=r"(r) : "f"(1.0f))', r"cvt\.rn\.tf32\.f32 is not among"),
        ('("cvt.rz.f32.f64 %0, %1;" : "=f"(*y) : "d"(1.0))', r"cvt\.rz\.f32\.f64 is not among"),
        ('("cvt.rni.f32.f32 %0, %1;" : "=f"(*y) : "f"(1.0f))', r"cvt\.rni\.f32\.f32 is not among"),
        ('("{ .reg .b8 t; }")', "inline PTX with a register of the kind b8"),
        ('("{ .reg .pred p; setp.lt.and.u32 p, %0, 3, p; }" :: "r"(1))', r"setp\.lt\.and\.u32 is not among"),
        ('("fence.proxy.tensormap::generic.release.gpu;")', r"fence\.proxy\.tensormap\S+ is not among"),
        (
            '("mma.sync.aligned.m16n8k16.row.col.f32.e5m2.e5m2.f32 {_, _, _, _}, {%0, %0, %0, %0}, {%0, %0}, {0., 0., 0., 0.};" :: "r"(r))',
            "mma.sync.aligned.m16n8k16.row.col.f32.e5m2.e5m2.f32 has 11 registers, not 14",
        ),
        (
            '("mma.sync.aligned.m16n8k32.row.col.satfinite.s32.u8.u8.s32 {%0}, {%0}, {%0}, {%0};" : "+r"(r))',
            r"mma\.sync\S+satfinite\S+ is not among",
        ),
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
    assert "emulator::ptx::fence<true>()" in translated('__asm volatile ("membar.gl;");')
    assert "emulator::ptx::fence<false>()" in translated('__asm__ __volatile__("fence.acq_rel.cta;");')
    assert translated('asm volatile("membar.gl;"\n ::: "memory");\n').count("\n") == 2
    macro = '#define WAIT(N) \\\n    asm volatile("cp.async.wait_group %0;\\n" \\\n :: "n"(N))\nint x;'
    assert translated(macro).count("\n") == 3 and translated(macro).count("\\\n") == 2


REGISTERS = {
    "laneid": "t % 32", "warpid": "t / 32", "lanemask_lt": "(1u << t % 32) - 1", "lanemask_le": "(2u << t % 32) - 1",
    "lanemask_eq": "1u << t % 32", "lanemask_ge": "~0u << t % 32", "lanemask_gt": "~0u << t % 32 << 1",
    "tid.x": "threadIdx.x", "tid.z": "threadIdx.z", "ctaid.y": "blockIdx.y", "ntid.y": "blockDim.y", "nctaid.x": "gridDim.x",
}  # fmt: skip


def test_registers_that_every_thread_has(each_compiler):
    said = "\n".join(
        f'asm("mov.u32 %0, %%{name};" : "=r"(r)); if (r != ({want})) y[{i}] = 1;'
        for i, (name, want) in enumerate(REGISTERS.items())
    )
    code = 'extern "C" __global__ void k(int* y) { unsigned r; const unsigned t = threadIdx.x + 5 * (threadIdx.y + 7 * threadIdx.z);\n'
    y = np.zeros(len(REGISTERS), np.int32)
    RawKernel(code + said + "}", "k")((2, 3), (5, 7, 2), (y,))
    assert [name for name, off in zip(REGISTERS, y) if off] == []


TOGETHER = r"""
extern "C" __global__ void k(const unsigned* x, unsigned* y) {
    __shared__ unsigned s[64], kept[64];
    __shared__ __align__(16) unsigned copied[4];
    __shared__ unsigned long long full;
    const unsigned t = threadIdx.x + 16 * threadIdx.y;
    unsigned mine = __cvta_generic_to_shared(&s[t]), other = __cvta_generic_to_shared(&s[63 - t]), bar = __cvta_generic_to_shared(&full);
    if (t == 0) asm volatile("mbarrier.init.shared::cta.b64 [%0], 64;" :: "r"(bar));
    asm volatile("st.shared.u32 [%0], %1;" :: "r"(mine), "r"(t));
    asm volatile("bar.sync 0;");
    asm volatile("ld.shared.u32 %0, [%1];" : "=r"(kept[t]) : "r"(other));
    asm volatile("bar.sync 1;");
    asm volatile("st.shared.u32 [%0], %1;" :: "r"(mine), "r"(t + kept[63 - t]));
    asm volatile("mbarrier.arrive.release.cta.shared::cta.b64 _, [%0];" :: "r"(bar) : "memory");
    asm volatile("{ .reg .pred over; AGAIN: mbarrier.try_wait.parity.shared::cta.b64 over, [%0], 0; @over bra OVER; bra AGAIN; OVER: }" :: "r"(bar));
    asm volatile("ld.shared.u32 %0, [%1];" : "=r"(y[t]) : "r"(other));
    if (t == 0) {
        unsigned at = __cvta_generic_to_shared(copied);
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, 8;" :: "r"(at), "l"(x));
        asm volatile("cp.async.wait_all;");
        for (int i = 0; i < 4; i++) y[64 + i] = copied[i];
    }
    *(unsigned*)__cvta_shared_to_generic(__cvta_generic_to_shared(&kept[t])) = 0;
    if (t < 32) asm volatile("bar.arrive 2, 64;" ::: "memory");
    else asm volatile("bar.sync 2, 64;" ::: "memory");
    if (t >= 32) y[t + 36] = kept[63 - t];
}
"""


@needs_nvrtc
def test_a_gpu_takes_what_threads_do_together(tmp_path):
    (tmp_path / "together.cu").write_text(TOGETHER)
    launch.compile_for(tmp_path / "together.cu", "90")


def test_what_threads_do_together(each_compiler):
    x, y, t = np.arange(5, 9, dtype=np.uint32), np.ones(100, np.uint32), np.arange(64)
    RawKernel(TOGETHER, "k")((1,), (16, 4), (x, y))
    assert y.tolist() == [*(2 * (63 - t)), 5, 6, 0, 0, *np.zeros(32)]


@pytest.mark.parametrize("type_", ["f16", "bf16"])
def test_a_product_of_half_as_many_columns(type_, each_compiler, rng):
    code = """
extern "C" __global__ void k(const unsigned* x, const unsigned* w, float* y) {
    const int row = threadIdx.x / 4, pair = threadIdx.x % 4;
    float *d = y + 8 * row + 2 * pair, *e = d + 64;
    asm("mma.sync.aligned.m16n8k8.row.col.f32.TYPE.TYPE.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(e[0]), "+f"(e[1])
        : "r"(x[4 * row + pair]), "r"(x[4 * row + 32 + pair]), "r"(w[4 * row + pair]));
}
"""
    x, w = rng.integers(-4, 5, (16, 8)).astype(np.float32), rng.integers(-4, 5, (8, 8)).astype(np.float32)
    y = np.arange(128, dtype=np.float32).reshape(16, 8)
    bits = [v.astype(np.float16) if type_ == "f16" else bfloat16.to_bits(v) for v in (x, w)]
    RawKernel(code.replace("TYPE", type_), "k")((1,), (32,), (*(b.view(np.uint32) for b in bits), y))
    np.testing.assert_array_equal(y, x @ w.T + np.arange(128).reshape(16, 8))


def test_sums_of_half_precision(each_compiler, rng):
    code = """
extern "C" __global__ void k(const unsigned* x, const unsigned* w, unsigned* y) {
    const int row = threadIdx.x / 4, pair = threadIdx.x % 4, at = 8 * row + pair;
    asm("mma.sync.aligned.m16n8k16.row.col.f16.f16.f16.f16 {%0, %1}, {%2, %3, %4, %5}, {%6, %7}, {%0, %1};"
        : "+r"(y[4 * row + pair]), "+r"(y[4 * row + 32 + pair])
        : "r"(x[at]), "r"(x[at + 64]), "r"(x[at + 4]), "r"(x[at + 68]), "r"(w[at]), "r"(w[at + 4]));
}
"""
    x, w = (rng.integers(-4, 5, (n, 16)).astype(np.float16) for n in (16, 8))
    y = np.arange(128, dtype=np.float16).reshape(16, 8)
    RawKernel(code, "k")((1,), (32,), (x.view(np.uint32), w.view(np.uint32), y.view(np.uint32)))
    np.testing.assert_array_equal(y, x @ w.T + np.arange(128).reshape(16, 8))


OF_8_BITS = """
extern "C" __global__ void k(const unsigned* x, const unsigned* w, REGISTER* y, REGISTER* half) {
    const int row = threadIdx.x / 4, four = threadIdx.x % 4, at = 8 * row + four;
    REGISTER *d = y + 8 * row + 2 * four, *e = d + 64, *f = half + 8 * row + 2 * four, *g = f + 64;
    asm("mma.sync.aligned.m16n8k32.row.col.SATURATES.SUMS.TYPE.TYPE.SUMS {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+LETTER"(d[0]), "+LETTER"(d[1]), "+LETTER"(e[0]), "+LETTER"(e[1])
        : "r"(x[at]), "r"(x[at + 64]), "r"(x[at + 4]), "r"(x[at + 68]), "r"(w[at]), "r"(w[at + 4]));
    asm("mma.sync.aligned.m16n8k16.row.col.SUMS.TYPE.TYPE.SUMS {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
        : "+LETTER"(f[0]), "+LETTER"(f[1]), "+LETTER"(g[0]), "+LETTER"(g[1]) : "r"(x[at]), "r"(x[at + 64]), "r"(w[at]));
}
"""


@pytest.mark.parametrize(
    "type_, codes", [("s8", None), ("e4m3", [0x30, 0x38, 0xB8, 0x44]), ("e5m2", [0x38, 0x3C, 0xBC, 0x42])]
)
def test_products_of_8_bits(type_, codes, each_compiler, rng):
    sums = np.int32 if codes is None else np.float32
    at = [rng.integers(-128, 128, (n, 32)) if codes is None else rng.integers(0, 4, (n, 32)) for n in (16, 8)]
    bytes_ = [a.astype(np.int8) if codes is None else np.array(codes, np.uint8)[a] for a in at]
    x, w = at if codes is None else (np.array([0.5, 1, -1, 3])[a] for a in at)
    y, half = np.arange(128, dtype=sums).reshape(16, 8), np.arange(128, dtype=sums).reshape(16, 8)
    want = y + x @ w.T
    if codes is None:
        y[0, 0] = 2**31 - 1
        want[0, 0] = min(2**31 - 1, y[0, 0] + x[0] @ w[0])
    words = {"REGISTER": "int" if codes is None else "float", "LETTER": "r" if codes is None else "f"}
    words |= {
        "SATURATES.": "satfinite." if codes is None else "",
        "SUMS": "s32" if codes is None else "f32",
        "TYPE": type_,
    }
    code = OF_8_BITS
    for name, word in words.items():
        code = code.replace(name, word)
    RawKernel(code, "k")((1,), (32,), (*(b.view(np.uint32) for b in bytes_), y, half))
    np.testing.assert_array_equal(y, want)
    np.testing.assert_array_equal(half, np.arange(128).reshape(16, 8) + x[:, :16] @ w[:, :16].T)


def test_registers_of_a_product_are_bits(each_compiler, rng):
    """Sums in registers for whole numbers, and factors in those for floats; a matrix that is transposed; of halves."""
    code = """
extern "C" __global__ void k(const float* x, const float* w, unsigned* y, const unsigned* h, unsigned* turned, unsigned* sums) {
    const int row = threadIdx.x / 4, column = threadIdx.x % 4;
    unsigned *d = y + 8 * row + 2 * column, *e = d + 64;
    asm("mma.sync.aligned.m16n8k4.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
        : "+r"(d[0]), "+r"(d[1]), "+r"(e[0]), "+r"(e[1])
        : "f"(x[4 * row + column]), "f"(x[4 * row + 32 + column]), "f"(w[4 * row + column]));
    asm("mma.sync.aligned.m16n8k4.row.col.f32.tf32.tf32.f32 {%0, _, %1, _}, {%2, %3}, {%4}, {%0, 0., %1, 0.};"
        : "+r"(d[0]), "+r"(e[0]) : "r"(0), "r"(0), "r"(0));
    asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(turned[threadIdx.x]) : "r"(h[threadIdx.x]));
    asm("mma.sync.aligned.m16n8k8.row.col.f16.f16.f16.f16 {%0, %1}, {%2, %2}, {%2}, {%3, %3};"
        : "=r"(sums[threadIdx.x]), "=r"(sums[threadIdx.x + 32]) : "r"(h[threadIdx.x]), "r"(0));
}
"""
    x, w = rng.integers(-4, 5, (16, 4)).astype(np.float32), rng.integers(-4, 5, (8, 4)).astype(np.float32)
    y = np.arange(128, dtype=np.float32).reshape(16, 8)
    h, turned, sums = (
        rng.integers(-4, 5, (8, 8)).astype(np.float16),
        np.zeros((8, 8), np.float16),
        np.zeros((16, 8), np.float16),
    )
    bits = [a.view(np.uint32) for a in (y, h, turned, sums)]
    RawKernel(code, "k")((1,), (32,), (x, w, *bits))
    np.testing.assert_array_equal(y, x @ w.T + np.arange(128).reshape(16, 8))
    np.testing.assert_array_equal(turned, h.T)
    np.testing.assert_array_equal(sums, np.concatenate([h @ h.T] * 2))


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


# --- loads and stores that are flags -------------------------------------------------------------------------------------

# The last thread to arrive, which may be of any block, adds up what all have written.
TICKETS = """
extern "C" __global__ void k(const int* x, int* parts, unsigned* tickets, int* y) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x, all = gridDim.x * blockDim.x;
    parts[i] = 2 * x[i];
    STORE(tickets + i);
    int sum = 0;
    for (int j = 0; j < all; j++) {
        unsigned set;
        LOAD(set, tickets + j);
        if (!set) return;
        sum += parts[j];
    }
    y[i] = sum;
}
"""
RELEASE = 'asm volatile("st.release.gpu.global.u32 [%0], %1;" :: "l"(TO), "r"(1) : "memory")'
ACQUIRE = 'asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(TO) : "l"(FROM) : "memory")'


def tickets(store=RELEASE, load=ACQUIRE):
    code = f"#define STORE(TO) {store}\n#define LOAD(TO, FROM) {load}\n" + TICKETS
    x, y = np.arange(96, dtype=np.int32), np.zeros(96, np.int32)
    RawKernel(code, "k", seeds=5)((3,), (32,), (x, np.zeros(96, np.int32), np.zeros(96, np.uint32), y))
    assert x.sum() * 2 in y and set(y) <= {0, x.sum() * 2}


def test_a_release_and_an_acquire_order_what_they_should(each_compiler):
    tickets()
    tickets(
        RELEASE.replace("release", "relaxed").replace("asm", 'asm volatile("fence.acq_rel.gpu;" ::: "memory"); asm', 1),
        ACQUIRE.replace("acquire", "relaxed") + '; asm volatile("fence.acq_rel.gpu;" ::: "memory")',
    )


@pytest.mark.parametrize(
    "how, why",
    [
        ({"store": RELEASE.replace("release", "relaxed")}, r"kernel\.cu:13: race: read of 4 bytes at .* of parts"),
        ({"store": RELEASE.replace("release.gpu", "release.cta")}, "race: (read|atomic operation) of 4 bytes"),
        ({"store": "*(TO) = 1"}, r"race: .* of tickets"),
        ({"load": "TO = *(FROM)"}, r"race: .* of tickets"),
    ],
)
def test_flags_without_an_order_are_found(how, why):
    with pytest.raises(EmulatorError, match=why):
        tickets(**how)


def test_a_flag_in_an_array_that_the_kernel_only_reads():
    y = np.zeros(32, np.uint32)
    code = """extern "C" __global__ void k(const unsigned* flag, unsigned* y) {
        unsigned set;
        LOAD(set, flag);
        y[threadIdx.x] = set;
    }"""
    RawKernel(f"#define LOAD(TO, FROM) {ACQUIRE}\n{code}", "k")((1,), (32,), (np.full(1, 7, np.uint32), y))
    assert set(y) == {7}


# --- votes, and numbers of 8 bits ----------------------------------------------------------------------------------------

WARP = """
extern "C" __global__ void k(const unsigned* x, unsigned* y, const float* f, unsigned short* pairs, unsigned* halves) {
    const unsigned t = threadIdx.x, v = x[t];
    unsigned r[6];
    asm volatile("{ .reg .pred p, q; setp.gt.u32 p, %2, 9; vote.sync.ballot.b32 %0, p, 0xffffffff;"
                 " vote.sync.any.pred q, p, 0xffffffff; selp.u32 %1, 1, 0, q; }" : "=r"(r[0]), "=r"(r[1]) : "r"(v));
    asm volatile("redux.sync.max.u32 %0, %1, 0xffffffff;" : "=r"(r[2]) : "r"(v));
    asm volatile("redux.sync.add.s32 %0, %1, 0xffffffff;" : "=r"(r[3]) : "r"(v));
    asm volatile("match.any.sync.b32 %0, %1, 0xffffffff;" : "=r"(r[4]) : "r"(v));
    asm volatile("ld.global.nc.L1::no_allocate.L2::cache_hint.u32 %0, [%1], %2;" : "=r"(r[5]) : "l"(x + t), "l"(0ull));
    for (int i = 0; i < 6; i++) y[i * 32 + t] = r[i];
    for (int i = t; i < 1024; i += 32) {
        asm("cvt.rn.satfinite.KINDx2.f32 %0, %1, %2;" : "=h"(pairs[i]) : "f"(f[2 * i + 1]), "f"(f[2 * i]));
        asm("cvt.rn.f16x2.KINDx2 %0, %1;" : "=r"(halves[i]) : "h"(pairs[i]));
    }
}
"""


@pytest.mark.parametrize("kind, mantissa, least, most", [("e4m3", 3, -6, 448.0), ("e5m2", 2, -14, 57344.0)])
def test_votes_and_numbers_of_8_bits(kind, mantissa, least, most, rng, each_compiler):
    x, y = rng.integers(0, 12, 32).astype(np.uint32), np.zeros((6, 32), np.uint32)
    f = (rng.standard_normal(2048) * 2.0 ** rng.integers(-18, 18, 2048)).astype(np.float32)
    f[:6] = 0, -0.0, 2 * most, -3e38, np.nan, 1 + 2.0 ** -(mantissa + 1)  # the last half-way between two
    pairs, halves = np.zeros(1024, np.uint16), np.zeros(1024, np.uint32)
    RawKernel(WARP.replace("KIND", kind), "k")((1,), (32,), (x, y, f, pairs, halves))
    ballot = sum(1 << i for i in range(32) if x[i] > 9)
    match = [sum(1 << i for i in range(32) if x[i] == v) for v in x]
    np.testing.assert_array_equal(y[0], ballot)
    np.testing.assert_array_equal(y[1], int(ballot > 0))
    np.testing.assert_array_equal(y[2:4], [[x.max()] * 32, [x.sum()] * 32])
    np.testing.assert_array_equal(y[4:], [match, x])
    clipped = np.clip(f.astype(np.float64), -most, most)
    unit = 2.0 ** (np.maximum(np.floor(np.log2(np.maximum(np.abs(clipped), 1e-30))), least) - mantissa)
    want = np.round(clipped / unit) * unit
    np.testing.assert_array_equal(halves.view(np.float16), want.astype(np.float16))
    assert pairs.view(np.uint8)[4] == 0x7F and pairs.view(np.uint8)[1] == 0x80


@needs_nvrtc
def test_a_gpu_takes_flags_votes_and_numbers_of_8_bits(tmp_path):
    flags = f"#define STORE(TO) {RELEASE}\n#define LOAD(TO, FROM) {ACQUIRE}\n{TICKETS}"
    for code in (flags, WARP.replace("KIND", "e4m3"), WARP.replace("KIND", "e5m2")):
        (tmp_path / "k.cu").write_text(code)
        launch.compile_for(tmp_path / "k.cu", "90")


MACROS = """#include <cuda_fp16.h>
#define TEXT(x) #x
#define SHOWN(x) TEXT(x)
#define LANES 0xffff
#define OF_TWO(name, op) \\
    __device__ float name(float a, float b) { float c; asm(op ".f32 %0, %1, %2;" : "=f"(c) : "f"(a), "f"(b)); return c; }
OF_TWO(plus, "add.rn")
#if LANES > 9
OF_TWO(times, "mul.rn")
#endif
extern "C" __global__ void k(float* y, const __half* x) {
    unsigned lanes;
    asm("mov.u32 %0, " SHOWN(LANES) ";"
        : "=r"(lanes));
    y[threadIdx.x] = times(plus(threadIdx.x, 1.5f), __half2float(x[0])) + lanes;
    WRONG
}
"""


def test_programs_that_macros_put_together(each_compiler, tmp_path):
    x, y = np.full(1, 2, np.float16), np.zeros(32, np.float32)
    RawKernel(MACROS.replace("WRONG", ""), "k")((1,), (32,), (y, x))
    np.testing.assert_array_equal(y, 2 * (np.arange(32) + 1.5) + 0xFFFF)
    with pytest.raises(EmulatorError, match=r"kernel\.cu:16: race: write of 4 bytes"):
        RawKernel(MACROS.replace("WRONG", "y[0] = threadIdx.x;"), "k")((1,), (32,), (y, x))
