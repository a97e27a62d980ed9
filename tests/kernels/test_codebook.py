"""The codebook's moving average in NumPy: the definition, known values, bad input."""

import inspect

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rungs import needs_compiler

from kernels.codebook import codebook_ema, reference
from kernels.compare import assert_close, bound
from kernels.device import running_on
from kernels.emulator import Emulator


@given(
    n=st.sampled_from([0, 1, 7, 100]),
    k=st.sampled_from([1, 4, 50]),
    d=st.sampled_from([1, 6]),
    gamma=st.sampled_from([0.0, 0.5, 0.99]),
    dtype=st.sampled_from([np.float32, np.float64]),
    index=st.sampled_from([np.int64, np.int32, np.uint8]),
    seed=st.integers(0, 2**32 - 1),
)
def test_van_den_oord_2017_eq_6_to_8(n, k, d, gamma, dtype, index, seed):
    rng = np.random.default_rng(seed)
    N, codes = rng.random(k).astype(dtype), rng.integers(0, k, n).astype(index)
    m, e, z = (rng.standard_normal((rows, d)).astype(dtype) for rows in (k, k, n))
    copies = [a.copy() for a in (N, m, e, z, codes)]
    got = codebook_ema(N, m, e, z, codes, np.float64(gamma))
    assert all(np.array_equal(a, b) for a, b in zip(copies, (N, m, e, z, codes)))
    want = reference.codebook_ema(*(a.astype(np.float64) for a in (N, m, e, z)), codes, gamma)
    sums = reference.codebook_ema(N, np.abs(m).astype("f8"), e, np.abs(z).astype("f8"), codes, gamma)[1]
    counts = np.bincount(codes.astype(int), minlength=k)
    steps = int(counts.max()) + 4
    allowed_e = bound(steps, np.where(counts[:, None] > 0, 2 * sums / np.maximum(want[0], 1e-30)[:, None], 0), dtype)
    for a, b, error in zip(got, want, (bound(4, want[0], dtype), bound(steps, sums, dtype), allowed_e)):
        assert a.dtype == dtype
        assert_close(a, b, error)
    np.testing.assert_array_equal(got[2][counts == 0], e[counts == 0])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_infinity_stays_in_its_code_and_warns_of_nothing(dtype):
    inf, nan = np.inf, np.nan
    z = np.array([[inf, 1], [-inf, 2], [inf, 3], [4, inf]], dtype)
    m = np.array([[1, 1], [-inf, 2], [3, inf]], dtype)
    _, m, e = codebook_ema(np.ones(3, dtype), m, np.ones((3, 2), dtype), z, np.array([0, 0, 1, 2]), 0.5)
    np.testing.assert_array_equal(m, [[nan, 2], [nan, 2.5], [3.5, inf]])
    np.testing.assert_allclose(e, m / np.array([[1.5], [1], [1]]), rtol=1e-6)


def test_known_values():
    """With gamma 0 a code becomes the mean of its vectors."""
    z = np.array([[1.0, 2.0], [3.0, 4.0], [10.0, 20.0]])
    N, m, e = codebook_ema(np.ones(3), np.ones((3, 2)), np.full((3, 2), 7.0), z, np.array([2, 2, 0]), 0.0)
    np.testing.assert_array_equal(e, [[10, 20], [7, 7], [2, 3]])
    np.testing.assert_array_equal(N, [1, 0, 2])
    np.testing.assert_array_equal(m, [[10, 20], [0, 0], [4, 6]])


@needs_compiler
def test_vectors_of_no_numbers_have_counts_on_a_device_too():
    nothing, device = np.zeros((3, 0), np.float32), Emulator()
    with running_on(device):
        N, _, _ = codebook_ema(np.ones(3, np.float32), nothing, nothing, nothing[:2], np.array([2, 2]), 0.5)
    device.check()
    np.testing.assert_array_equal(N, np.float32([0.5, 0.5, 1.5]))


def test_bad_input_is_named():
    good = [np.ones(3), np.ones((3, 2)), np.ones((3, 2)), np.ones((4, 2)), np.array([0, 1, 2, 2]), 0.5]
    for at, value, error, message in [
        (0, np.ones(2), ValueError, r"N must have shape \(3,\)"),
        (1, np.ones((3, 3)), ValueError, r"m must have shape \(3, 2\)"),
        (3, np.ones((4, 3)), ValueError, r"z must have shape \(4, 2\)"),
        (3, np.ones((4, 2), "f"), TypeError, "N, m, e, z must share one dtype"),
        (4, np.array([0, 1, 2, 3]), ValueError, "codes must be from 0 to 2, got 0 to 3"),
        (4, np.zeros(4), TypeError, "codes must be an integer array"),
        (5, 1.0, ValueError, r"gamma must be in \[0, 1\), got 1.0"),
    ]:
        with pytest.raises(error, match=message):
            inspect.unwrap(codebook_ema)(*good[:at], value, *good[at + 1 :])
