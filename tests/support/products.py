"""Matrix products for tests: random factors, the definition in float64, and what a rung may be off."""

import numpy as np

from kernels import bfloat16
from kernels.compare import bound
from kernels.launch import compile_for
from kernels.matmul import reference

TURNS = [(False, False), (False, True), (True, False), (True, True)]  # which factors lie transposed


def normal(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


def turned(x, turn):
    return np.ascontiguousarray(x.swapaxes(-1, -2)) if turn else x


def rounded(x, rung, precision="bf16"):
    """What a rung multiplies: rungs 3 and 4 round their factors, to bfloat16 or to tf32 (halves away from 0), or not."""
    if rung < 3 or precision == "float32":
        return x
    if precision == "bf16":
        return bfloat16.rounded(x)
    return bfloat16.rounded_to_tf32(x)


def expected(a, b, bias, rung=1, precision="bf16"):
    """The definition in float64 and the error of a float32 sum in any order, of tensor cores twice that of others."""
    a, b = (rounded(np.ascontiguousarray(x), rung, precision) for x in (a, b))
    with np.errstate(all="ignore"):
        want = reference.linear(a, b, bias) if b.ndim == 2 else reference.matmul(a, b)
        finite = [np.where(np.isfinite(x), np.abs(x), 0) for x in (a, b, 0 if bias is None else bias)]
    allowed = bound(a.shape[-1] + 1, reference.matmul(*finite[:2]) + finite[2], np.float32, 2 if rung >= 3 else 1)
    return want if bias is None or b.ndim == 2 else want + bias, allowed, "y"


def check_compiled_by_wgmma(source, columns, turns):
    """No spills, nothing that the compiler serialises, and registers for as many blocks as are to run at a time."""
    names = {"TILE_N": columns, "TRANSPOSE_A": str(turns[0]).lower(), "TRANSPOSE_B": str(turns[1]).lower()}
    binary = compile_for(source, "90a", names)
    (r,) = binary.resources().values()
    assert r.local_bytes == r.spill_bytes == 0 and r.registers * 288 * (1 if columns > 128 else 2) <= 65536
    assert "Performance Loss" not in binary.log
