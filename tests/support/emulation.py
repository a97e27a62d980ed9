"""What the tests of emulated kernels share: one problem under two schedules, and a kernel with a mistake in it."""

import hashlib
import os
from pathlib import Path

import numpy as np
import rungs

from kernels.emulator import Emulator
from kernels.source import ROOT, cache_directory


def emulated(function, seed, expected):
    """Run ``function(device)`` under two schedules: no findings, right values, the same bits. Its results, as a tuple.

    ``function`` returns an array or a tuple of them; ``expected`` is a list of (want, allowed error, name) for these.
    """

    def compared(device):
        got = function(device)
        for array, (want, allowed, name) in zip(got if isinstance(got, tuple) else (got,), expected, strict=True):
            assert array.shape == want.shape
            device.expect(array, want, allowed, name)
        return got

    return rungs.emulated(compared, seed)


ROUNDS = ("to_bf16.cu", "split.cu")  # the factors of products in bfloat16


def products(device):
    """The files that ran, except for what rounds factors."""
    return [name for name in device.ran if name not in ROUNDS]


def only(device, *files):
    """The device, which takes no other kernels than those of these files, and what rounds factors."""
    run = device.run

    def checked(source, *arguments, **more):
        assert source.name in (*files, *ROUNDS)
        run(source, *arguments, **more)

    device.run = checked
    return device


HEAD = '#include "lib/cuda.cuh"\n'


def write(folder, body, parameters="float* y", before="", name="kernel.cu"):
    """A file with the kernel ``k`` of that body, which begins in line 4, after a line of ``before``."""
    file = folder / name
    file.write_text(f'{HEAD}{before}\nextern "C" __global__ void k({parameters}) {{\n{body}\n}}\n')
    return file


def wrong_answers(file, table):
    """Of a table of calls and answers, which kernel ``k`` of the file writes in its order, what is something else."""
    device = Emulator()
    y = device.empty((len(table),), np.float64)
    device.run(file, "k", 1, 1, {"y": y, "one": 1})
    device.check()
    return {c: v for c, v in zip(table, y.tolist()) if not np.array_equal(v, float(table[c]), equal_nan=True)}


def kept(name, text):
    """A file of that name and text, always the same for the same text, so that it is compiled once."""
    folder = cache_directory() / "planted" / hashlib.sha256(text.encode()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f"{name}.{os.getpid()}"
    part.write_text(text, encoding="utf-8")
    return part.replace(folder / name)  # at once, so that another process never reads half a file


class Counting(Emulator):
    """Also counts what is launched: "folder/file:kernel" -> times."""

    def __init__(self, architecture="90a"):
        super().__init__(architecture=architecture)
        self.launched = {}

    def run(self, source, kernel, *args, **settings):
        super().run(source, kernel, *args, **settings)
        name = f"{source.parent.name}/{source.stem}:{kernel}"
        self.launched[name] = self.launched.get(name, 0) + 1


class Mistaken(Emulator):
    """An emulator that, for one source file, takes a copy in which ``old`` has become ``new``.

    With ``header`` (as in "matmul/mma.cuh") the mistake is in that header, which the copy has in the place of its
    #include; with several, one after the other.
    """

    def __init__(self, source: Path, old: str, new: str, seed: int = 3, header: str | tuple[str, ...] = ()):
        super().__init__(seed)
        text = source.read_text(encoding="utf-8")
        for name in (header,) if isinstance(header, str) else header:
            assert f'#include "{name}"' in text
            text = text.replace(f'#include "{name}"', (ROOT / name).read_text(encoding="utf-8"))
        assert old in text
        text = text.replace(old, new)
        self.source, self.copy = source, kept(source.name, text)

    def run(self, source, *args, **settings):
        super().run(self.copy if source == self.source else source, *args, **settings)
