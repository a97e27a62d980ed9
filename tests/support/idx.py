"""IDX files as the original distribution of MNIST has them, of noise."""

import gzip
import struct

import numpy as np


def idx_bytes(array: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def write_mnist(directory, *, n=24, tests=5, names="-", zipped=False, labels=None):
    """The four files; returns the arrays."""
    rng = np.random.default_rng(0)
    arrays = {
        f"train-images{names}idx3-ubyte": rng.integers(0, 256, (n, 28, 28)).astype(np.uint8),
        f"train-labels{names}idx1-ubyte": rng.integers(0, 10, n).astype(np.uint8) if labels is None else labels,
        f"t10k-images{names}idx3-ubyte": rng.integers(0, 256, (tests, 28, 28)).astype(np.uint8),
        f"t10k-labels{names}idx1-ubyte": rng.integers(0, 10, tests).astype(np.uint8),
    }
    for name, array in arrays.items():
        raw = idx_bytes(array)
        (directory / (name + ".gz" * zipped)).write_bytes(gzip.compress(raw) if zipped else raw)
    return list(arrays.values())
