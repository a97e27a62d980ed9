"""The nearest code: the fast way must give the definition's index, always, not nearly always."""

import inspect
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from unittest.mock import patch

import numpy as np
import pytest
from arrays import LAYOUTS, laid_out, threads
from hypothesis import example, given
from hypothesis import strategies as st

from kernels.quantize import nearest_code, numpy_bounds, reference

KINDS = (
    "normal",
    "far",
    "grid",
    "tiny",
    "huge",
    "small codebook",
    "outliers",
    "few distinct",
    "close pairs",
    "z far out",
)


@dataclass(frozen=True)
class Problem:
    m: int = 40
    k: int = 30
    d: int = 3
    kind: str = "normal"
    dtype: str = "float32"
    layout: str = "contiguous"
    seed: int = 0

    @cached_property
    def arrays(self):
        rng = np.random.default_rng(self.seed)
        z, c = rng.standard_normal((self.m, self.d)), rng.standard_normal((self.k, self.d))
        match self.kind:
            case "far":
                z, c = z + 1e4, c + 1e4
            case "grid":  # exact ties between different codes
                z, c = np.round(2 * z) / 2, np.round(c)
            case "tiny":  # squares are not normal numbers
                z, c = z * 1e-21, c * 1e-21
            case "huge":  # squares overflow in float32
                z, c = z * 1e19, c * 1e19
            case "small codebook":
                c = c / 1000
            case "outliers":
                c[:: max(1, self.k // 3)] *= 1e6
            case "z far out":  # the definition's own rounding makes different codes equally near
                z = z * 1e14
            case "few distinct":
                c = c[rng.integers(0, min(3, self.k), self.k)]
            case "close pairs":  # apart by less than float32 can tell in |c|^2 - 2 z.c
                c[self.k // 2 :] = c[: self.k - self.k // 2] * (1 + 1e-7)
        return laid_out(z.astype(self.dtype), self.layout), laid_out(c.astype(self.dtype), self.layout)


@st.composite
def problems(draw):
    return Problem(
        m=draw(st.sampled_from([0, 1, 2, 7, 65, 130])),
        k=draw(st.sampled_from([1, 2, 3, 31, 32, 33, 97, 600])),
        d=draw(st.sampled_from([1, 2, 3, 8, 9, 17, 130])),
        kind=draw(st.sampled_from(KINDS)),
        dtype=draw(st.sampled_from(["float32", "float64"])),
        layout=draw(st.sampled_from(LAYOUTS)),
        seed=draw(st.integers(0, 2**32 - 1)),
    )


@contextmanager
def small_pieces():
    """Many tiles of few rows, several blocks of codes, groups that a small codebook fills."""
    constants = {"GROUP": 4, "BLOCK": 128, "CODES": 8, "KEPT": 1 << 10, "ROWS": 16, "TILE_WORK": 1}
    with patch.multiple(numpy_bounds, **constants):
        yield


def check(z, codebook):
    got, want = nearest_code(z, codebook), reference.nearest_code(z, codebook)
    assert got.dtype == np.int64 and got.shape == (len(z),)
    np.testing.assert_array_equal(got, want)


@given(problems())
@example(Problem(d=0))
def test_is_the_definition(p):
    check(*p.arrays)


@given(problems())
def test_is_the_definition_in_many_small_pieces(p):
    with small_pieces():
        check(*p.arrays)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", KINDS)
def test_is_the_definition_at_the_sizes_the_pieces_are_made_for(kind, dtype):
    check(*Problem(m=600, k=1100, d=9, kind=kind, dtype=dtype).arrays)


@pytest.mark.parametrize("exponent", range(26, 38, 2))
def test_is_the_definition_where_only_the_product_overflows(exponent):
    """Neither |z|^2 nor |c|^2 tells: 2 z.c is beyond float32 though z and all |c|^2 are not."""
    rng = np.random.default_rng(exponent)
    for code in (10.0 ** (38 - exponent), 10.0 ** (39 - exponent)):
        z = rng.standard_normal((40, 4)) * 10.0**exponent
        check(z.astype(np.float32), (rng.standard_normal((50, 4)) * code).astype(np.float32))


@given(problems())
@example(Problem(m=65, k=2, d=8, kind="z far out", layout="fortran", seed=0))
def test_the_definition_is_argmin_over_float64_distances(p):
    """Row after row, over arrays in plain order: NumPy adds up in another order in others, which shows where codes nearly tie."""
    z, codebook = (np.ascontiguousarray(x, np.float64) for x in p.arrays)
    want = [int(np.argmin(((row - codebook) ** 2).sum(axis=1))) for row in z]
    np.testing.assert_array_equal(reference.nearest_code(*p.arrays), want)


@given(problems())
def test_the_bounds_hold(p):
    """The left end L never exceeds the exact |c|^2 - 2 z.c, and U is never below it (longdouble stands for exact)."""
    z, codebook = p.arrays
    if p.kind == "huge" or not len(z):
        return
    codes = numpy_bounds._prepare(codebook)
    columns, length, _ = numpy_bounds._columns(z, codes)
    low = numpy_bounds._bounds(codes, columns)[0].reshape(-1, len(z))[: p.k].T.astype(np.longdouble)
    a, b = (x.astype(np.longdouble) - codes.centre for x in (z, codebook))
    exact = (b * b).sum(-1) - 2 * (a[:, None, :] * b[None]).sum(-1)
    width = numpy_bounds._width(length[:, None], codes.length[None, : p.k], p.d, codes.columns.dtype)
    slack = 4 * p.d * np.finfo(codes.columns.dtype).tiny  # underflow, which the width has on both ends
    assert (low <= exact + slack).all() and (exact <= low + width).all()


def test_few_rows_are_left_to_the_definition():
    for kind in ("normal", "far", "small codebook", "outliers"):
        z, codebook = Problem(m=512, k=1024, d=16, kind=kind).arrays
        codes = numpy_bounds._prepare(codebook)
        assert not len(numpy_bounds._tile(z, codes, np.empty(512, np.int64))), kind
    z, codebook = Problem(m=512, k=1024, d=16, kind="few distinct").arrays  # hundreds of candidates for every row
    assert len(numpy_bounds._tile(z, numpy_bounds._prepare(codebook), np.empty(512, np.int64))) == 512


def test_far_from_the_origin_float32_scores_are_wrong_and_ours_are_not():
    z, codebook = Problem(m=500, k=100, d=8, kind="far").arrays
    naive = ((codebook * codebook).sum(1) - 2 * z @ codebook.T).argmin(1)
    want = reference.nearest_code(z, codebook)
    assert (naive != want).mean() > 0.5
    np.testing.assert_array_equal(nearest_code(z, codebook), want)


def test_equal_codes_give_the_lowest_index():
    codebook = np.repeat(np.arange(5, dtype=np.float32)[::-1], 40)[:, None]
    z = np.linspace(-1, 5, 77, dtype=np.float32)[:, None]
    got = nearest_code(z, codebook)
    check(z, codebook)
    assert set(got.tolist()) <= {0, 40, 80, 120, 160}
    check(np.float32([[0.5]]), np.float32([[1.0], [0.0], [0.0], [1.0]]))  # a tie of different codes


@given(problems(), st.sampled_from([np.nan, np.inf, -np.inf]), st.booleans(), st.integers(0, 2**16))
def test_nan_and_inf_are_argmins_first_nan_and_nothing_warns(p, value, in_codebook, where):
    z, codebook = (x.copy() for x in p.arrays)
    target = codebook if in_codebook else z
    if not target.size:
        return
    target.reshape(-1)[where % target.size] = value
    with np.errstate(all="ignore"):
        want = reference.nearest_code(z, codebook)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(nearest_code(z, codebook), want)
    if np.isnan(value) and not in_codebook:
        assert nearest_code(z, codebook)[(where % target.size) // p.d] == 0
    if np.isnan(value) and in_codebook:
        assert (nearest_code(z, codebook) == (where % target.size) // p.d).all()


@given(problems())
def test_threads_change_nothing_and_inputs_stay(p):
    before = [x.copy() for x in p.arrays]
    with small_pieces():
        results = []
        for count in (1, 2, 3):
            with threads(count):
                results.append(nearest_code(*p.arrays))
    for other in results[1:]:
        np.testing.assert_array_equal(results[0], other)
    for x, copy in zip(p.arrays, before):
        np.testing.assert_array_equal(x, copy)


@given(problems())
def test_codes_are_their_own_nearest(p):
    codebook = p.arrays[1]
    same = nearest_code(codebook, codebook)
    np.testing.assert_array_equal(codebook[same], codebook)
    assert (same <= np.arange(p.k)).all()


def test_bad_input_is_named():
    z, codebook = Problem().arrays
    cases = [
        (TypeError, "z must be float32 or float64, got int64", (z.astype(int), codebook)),
        (TypeError, "z, codebook must share one dtype", (z, codebook.astype(np.float64))),
        (ValueError, r"z must have 2 axes, got shape \(3,\)", (z[0], codebook)),
        (ValueError, r"codebook must have rows of length 3 as z has, got shape \(30, 2\)", (z, codebook[:, 1:])),
        (ValueError, r"codebook must hold at least one code, got shape \(0, 3\)", (z, codebook[:0])),
    ]
    for kind, message, args in cases:
        with pytest.raises(kind, match=message):
            inspect.unwrap(nearest_code)(*args)
