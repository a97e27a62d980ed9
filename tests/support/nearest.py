"""Nearest codes for tests: rows and codebooks of the kinds that make an inexact search go wrong; rung 1's indices."""

import numpy as np

from kernels.emulator import Emulator
from kernels.quantize import cuda


def halfway(rng, rows, d):
    """Numbers that bfloat16 rounds by almost half a unit of its last place, all of a row up or all of it down."""
    return 1 + rng.integers(0, 2, (rows, d)) / 128 + rng.choice([0.49, 0.51], (rows, 1)) / 128


def problem(kind, m, codes, d, seed):
    rng = np.random.default_rng(seed)
    z, codebook = rng.standard_normal((m, d)), rng.standard_normal((codes, d))
    match kind:
        case "far":
            z, codebook = z + 300, codebook + 300
        case "equal codes":
            codebook = codebook[rng.integers(0, min(3, codes), codes)]
        case "near ties":  # which bfloat16 cannot tell apart, and float32 can
            codebook = codebook[rng.integers(0, codes // 9 + 1, codes)] * (1 + rng.integers(0, 9, (codes, 1)) * 1e-6)
        case "halfway":
            z, codebook = halfway(rng, m, d), halfway(rng, codes, d)
        case "scales":
            z *= 10.0 ** rng.integers(-30, 30, (m, 1))
            codebook *= 10.0 ** rng.integers(-22, 20, (codes, 1))
        case "last bits":  # distances that differ in the last bits of a double, if at all
            z, codebook = 1e13 * z, 1e-3 * codebook
        case "shuffled":  # all codes as near as the others, but for the order in which their terms are added
            z, codebook = z[:, :1].repeat(d, 1), rng.permuted(codebook[:1].repeat(codes, 0), axis=1)
        case "zeros":
            z[::3], codebook[::5] = 0, 0
        case "nan":
            z = codebook[rng.integers(0, min(codes, 60), m)] + 0.1 * z
            z[::7], codebook[codes // 2] = np.nan, np.inf
            codebook[codes - 1, 0] = np.nan if seed % 2 else 1
        case "trained":  # rows lie near their codes
            z = codebook[rng.integers(0, codes, m)] + 0.3 * z
    with np.errstate(over="ignore"):
        return z.astype(np.float32), codebook.astype(np.float32)


KINDS = [
    "normal",
    "far",
    "equal codes",
    "near ties",
    "halfway",
    "scales",
    "last bits",
    "shuffled",
    "zeros",
    "nan",
    "trained",
]


def emulated_as_rung_1(z, codebook, rung, seed=0):
    """A rung under two schedules: no findings, and rung 1's indices. Returns the devices."""
    want = cuda.nearest_code(Emulator(), z, codebook, rung=1)
    devices = [Emulator(s % 2**32) for s in (seed, seed + 1)]
    for device in devices:
        np.testing.assert_array_equal(cuda.nearest_code(device, z, codebook, rung=rung), want)
        device.check()
    return devices


def on_a_gpu_as_rung_1(device, kind, d, rung):
    z, codebook = (device.xp.asarray(x) for x in problem(kind, 700, 1000, d, d))
    want, got = (cuda.nearest_code(device, z, codebook, rung=r).get() for r in (1, rung))
    np.testing.assert_array_equal(got, want)
