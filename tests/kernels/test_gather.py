"""What follows the choice of the nearest codes: vectors, squared errors, usage; on NumPy and, emulated, in CUDA."""

import numpy as np
import pytest
from emulation import Mistaken
from hypothesis import given, settings
from hypothesis import strategies as st
from rungs import needs_compiler

from kernels.compare import bound
from kernels.device import running_on
from kernels.emulator import Emulator
from kernels.quantize import cuda, nearest_code, quantize


def same(found, z, codebook):
    """Against the definition, each part in its own words."""
    exact = z.astype(np.float64) - codebook[found.indices]
    np.testing.assert_array_equal(found.indices, nearest_code(z, codebook))
    np.testing.assert_array_equal(found.e, [codebook[k] for k in found.indices] if len(z) else np.empty(z.shape))
    errors = np.array([np.sum(row * row) for row in exact]).reshape(len(z))
    assert np.all(np.abs(found.errors - errors) <= bound(z.shape[1] + 2, errors, z.dtype))
    assert found.counts.tolist() == [np.count_nonzero(found.indices == k) for k in range(len(codebook))]
    assert found.errors.dtype == found.e.dtype == z.dtype
    assert found.indices.dtype == found.counts.dtype == np.int64


sizes = {"m": st.integers(0, 70), "k": st.integers(1, 9), "d": st.integers(0, 40), "seed": st.integers(0, 99)}


@given(**sizes, dtype=st.sampled_from(["float32", "float64"]))
def test_the_definition(m, k, d, seed, dtype):
    rng = np.random.default_rng(seed)
    z, codebook = rng.standard_normal((m, d)).astype(dtype), rng.standard_normal((k, d)).astype(dtype)
    same(quantize(z, codebook), z, codebook)


@needs_compiler
@settings(max_examples=15)
@given(**sizes)
def test_on_a_device(m, k, d, seed):
    rng = np.random.default_rng(seed)
    z, codebook = rng.standard_normal((m, d), np.float32), rng.standard_normal((k, d), np.float32)
    found = []
    for schedule in (0, 1):
        with running_on(Emulator(seed=schedule)) as device:
            found.append(quantize(z, codebook))
            device.check()
        same(found[-1], z, codebook)
    np.testing.assert_array_equal(found[0].errors, found[1].errors)


@needs_compiler
@pytest.mark.parametrize("d", [1, 5, 127, 128, 129, 300])
def test_long_rows_and_strange_numbers(d):
    """Rows of more numbers than 32 threads take at a time; NaN and infinity stay in their row."""
    rng = np.random.default_rng(d)
    z, codebook = rng.standard_normal((9, d), np.float32), rng.standard_normal((4, d), np.float32)
    z[1, 0], z[2, -1] = np.nan, -np.inf
    with running_on(Emulator()) as device:
        found = quantize(z, codebook)
        device.check()
    assert np.isnan(found.errors[1]) and found.errors[2] == np.inf
    rest = np.delete(np.arange(9), (1, 2))
    want = np.square(z[rest].astype(np.float64) - codebook[found.indices[rest]]).sum(1)
    np.testing.assert_allclose(found.errors[rest], want, rtol=1e-6)


@needs_compiler
@pytest.mark.parametrize(
    ("old", "new", "kind"),
    [
        ("j += 4 * lanes", "j += 4 * lanes + 4", "wrong value"),
        ("codebook, code * d + j", "codebook, row * d + j", "out of range"),
        ("atomicAdd(&counts[code], 1ull)", "counts[code] += 1", "race"),
        ("if (lane == 0) atomicAdd", "atomicAdd", "wrong value"),
        ("bit = lanes / 2", "bit = 16", "wrong value"),
        ("if (k < codes) counts[k] = 0", "if (k < codes - 1) counts[k] = 0", "uninitialised"),
        ("if (row < m && lane == 0) errors", "if (lane == 0) errors", "out of range"),
    ],
)
def test_a_planted_mistake_is_found(old, new, kind):
    source = cuda.HERE / cuda.GATHER
    assert source.read_text().count(old) == 1
    rng, d = np.random.default_rng(0), 150 if "lanes + 4" in new else 20  # more than 32 threads take at a time
    z, codebook = rng.standard_normal((50, d), np.float32), rng.standard_normal((6, d), np.float32)
    indices = np.arange(50) % 6
    device = Mistaken(source, old, new)
    e, errors, counts = cuda.gather(device, z, codebook, indices)
    device.expect(e, codebook[indices], 0, "e")
    device.expect(errors, np.square(z - codebook[indices]).sum(1), 1e-4, "errors")
    device.expect(counts, np.bincount(indices, minlength=6), 0, "counts")
    assert kind in {finding.kind for finding in device.findings}
