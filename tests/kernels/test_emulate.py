"""What ``python -m kernels.emulate`` says of a rung with a mistake: one report, and the other rungs all the same."""

import contextlib
import itertools
import re
from functools import partial

import numpy as np
import pytest
from emulation import write
from rungs import needs_compiler, normal, plant

from kernels import emulate
from kernels.conv2d import cuda as conv2d_cuda
from kernels.eight_bit import cuda as eight_bit_cuda
from kernels.emulator import BadArguments, DoesNotCompile, Emulator
from kernels.launch import CompileError
from kernels.norm import cuda as norm_cuda
from kernels.quantize import cuda
from kernels.source import kernels_in

pytestmark = needs_compiler

TILED = cuda.RUNGS[2]
BARRIER = "__syncthreads();  // all are done with it"
SHAPE = ["--shape", "40,20,5"]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("double smallest", "doubel smallest", "the kernel does not compile for the emulator:\n"),
        (
            "int codes, int d) {",
            "int codes, int D) { const int d = D;",
            "kernel nearest_code takes z, codebook, indices, m, codes, D; missing",
        ),
        ("const float* z", "const double* z", "kernel nearest_code: z must be an array of double, got one of float32"),
        ("nearest_code(", "nearest(", f"{TILED} has no kernel 'nearest_code', it has nearest"),
        (
            "__launch_bounds__(ROWS)",
            "__launch_bounds__(32)",
            "kernel nearest_code: its launch bounds are 32 threads per block, got ",
        ),
        ("__global__", "", f'{TILED} has no kernel, which would be extern "C" __global__ void name(...)'),
    ],
    ids=["typo", "another name", "another type", "another kernel", "fewer threads", "no kernel"],
)
def test_a_mistake_in_a_rung_is_one_report_and_the_others_run(old, new, said, monkeypatch, tmp_path, capsys):
    plant(monkeypatch, tmp_path, cuda, TILED, old, new)
    assert emulate.main(["quantize", *SHAPE]) == 1
    told = capsys.readouterr()
    assert told.out.count(f"quantize {TILED}: not run: {said}") == 1 and told.err == ""
    assert told.out.count(": right, nothing found") == len(cuda.RUNGS) - 1
    assert ("'doubel'" in told.out.replace("‘", "'").replace("’", "'")) == (new == "doubel smallest")
    assert emulate.main(["quantize", "--rung", "2", *SHAPE]) == 2
    assert capsys.readouterr().err == "error: nothing was run\n"


def test_a_size_that_a_rung_does_not_take_is_no_mistake(capsys):
    assert emulate.main(["quantize", "--shape", "3,2,300", "--seeds", "1"]) == 0
    assert ": not run: rung 3 takes rows of at most " in capsys.readouterr().out


def test_the_rungs_of_another_card(capsys):
    assert emulate.main(["matmul", "--architecture", "80", "--seeds", "1", "--shape", "8,8,8"]) == 0
    out = capsys.readouterr().out
    assert out.count(": right, nothing found") == 3 and "4_wgmma.cu is for sm_90a, it cannot run on sm_80" in out


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--architecture", "70"], "--architecture must be one of 75, 80, .*, got '70'"),
        (
            ["--architecture", "80", "--device", "cuda"],
            "--banks and --architecture are the emulator's: a GPU has neither",
        ),
        (["--banks", "--device", "cuda"], "--banks and --architecture are the emulator's: a GPU has neither"),
    ],
)
def test_flags_of_the_emulated_card(flags, said, capsys):
    with pytest.raises(SystemExit, match="2"):
        emulate.main(["matmul", *flags])
    assert re.search(said, capsys.readouterr().err)


def test_a_launch_that_no_gpu_can_make_is_a_mistake(monkeypatch, capsys):
    monkeypatch.setattr(cuda, "ROWS", 2048)  # of the host code of rungs 1 and 2
    assert emulate.main(["quantize", "--seeds", "1", *SHAPE]) == 1
    out = capsys.readouterr().out
    said = "not run: kernel nearest_code: a block has 1 to 1024 threads, at most 64 deep, got (2048, 1, 1)"
    assert out.count(said) == 2 and out.count(": right, nothing found") == len(cuda.RUNGS) - 2


def test_what_does_not_compile_for_a_card_is_a_mistake_too(monkeypatch, capsys):
    class Card(Emulator):
        def run(self, source, *_, **__):
            if source.name == TILED:
                raise CompileError(f"{TILED} does not compile with -arch=sm_90:\nerror")
            super().run(source, *_, **__)

    monkeypatch.setattr(emulate, "_gpu", lambda: Card)
    assert emulate.main(["quantize", "--device", "cuda", "--seeds", "1", *SHAPE]) == 1
    assert f"quantize {TILED}: not run: {TILED} does not compile with -arch=sm_90:\n" in capsys.readouterr().out


def test_a_mistake_in_python_keeps_its_traceback(monkeypatch):
    def mistaken(*_, **__):
        return None + 1

    monkeypatch.setattr(cuda, "nearest_code", mistaken)
    with pytest.raises(TypeError, match="unsupported operand"):
        emulate.main(["quantize", *SHAPE])


def refusal(tmp_path, text):
    file = tmp_path / "k.cu"
    file.write_text(text)
    with pytest.raises(DoesNotCompile, match=r"^the kernel does not compile for the emulator:\n") as refused:
        Emulator().run(file, "k", 1, 1, {"y": np.zeros(1, np.float32)})
    return str(refused.value)


@pytest.mark.parametrize(
    ("include", "body", "hint"),
    [
        ("#include <cstdio>\n", 'printf("%f", y[0]);', True),
        ("# include <stdio.h>\n", "y[0] = wrong;", True),
        ("", "y[0] = wrong;  // printf(y)", False),
        ("/* #include <cstdio> */", "y[0] = wrong;", False),
    ],
)
def test_that_there_is_no_cstdio_is_said(include, body, hint, tmp_path):
    said = refusal(
        tmp_path, f'#include "lib/cuda.cuh"\n{include}extern "C" __global__ void k(float* y) {{ {body}\n}}\n'
    )
    assert said.endswith("\nNVRTC has no <cstdio>: take it out, printf is there without.") == hint


def test_the_errors_are_still_what_they_were():
    assert issubclass(DoesNotCompile, RuntimeError) and issubclass(BadArguments, TypeError)


def test_a_finding_of_several_schedules_is_told_once(monkeypatch, tmp_path, capsys):
    plant(monkeypatch, tmp_path, cuda, TILED, BARRIER, "")
    assert emulate.main(["quantize", "--rung", "2"]) == 1
    shape, first, *found = capsys.readouterr().out.splitlines()
    assert shape == "quantize --shape 200,50,20 (m,codes,d)"
    some = "1 finding" if len(found) == 1 else f"{len(found)} findings"
    assert first.startswith(f"quantize {TILED}: {some} (3 schedules, ")
    assert len({tuple(line.split(": ")[:2]) for line in found}) == len(found) and len(found) <= 3
    races = [line for line in found if ": race: " in line]
    assert len(races) == 1 and all(line.endswith("nothing orders the two (in 3 of 3 schedules)") for line in races)
    assert emulate.main(["quantize", "--rung", "2", "--seeds", "1"]) == 1
    assert " schedules)" not in capsys.readouterr().out.partition("\n")[2].partition("\n")[2]


def told(monkeypatch, found):
    """Let every schedule find ``found(seed)``."""

    class Told(Emulator):
        def __init__(self, seed, **_):
            super().__init__(seed)
            self.findings = [emulate.Finding(*f) for f in found(seed)]

    monkeypatch.setattr(emulate, "Emulator", Told)


def test_a_race_and_its_mirror_are_one_finding(monkeypatch, capsys):
    one, mirror = ("race", "k.cu:1", "k.cu:2", "of 1 with 2"), ("race", "k.cu:2", "k.cu:1", "of 2 with 1")
    other = ("race", "k.cu:2", "k.cu:3", "of 2 with 3")
    told(monkeypatch, lambda seed: [[one, mirror], [mirror], []][seed])
    assert emulate.main(["quantize", "--rung", "1", *SHAPE]) == 1
    _, first, *found = capsys.readouterr().out.splitlines()
    assert ": 1 finding (" in first and found == ["  k.cu:1: race: of 1 with 2 (in 2 of 3 schedules)"]
    told(monkeypatch, lambda seed: [one, mirror, other])
    assert emulate.main(["quantize", "--rung", "1", "--seeds", "1", *SHAPE]) == 1
    _, first, *found = capsys.readouterr().out.splitlines()
    assert ": 2 findings (" in first
    assert found == ["  k.cu:1: race: of 1 with 2", "  k.cu:2: race: of 2 with 3"]


def test_lines_that_one_line_races_with_are_all_named(monkeypatch, capsys):
    def found(seed):
        race = ("race", "k.cu:1", f"k.cu:{2 + seed % 2}", f"with k.cu:{2 + seed % 2}")
        return [race, ("lane", "k.cu:9", "", "a lane")] if seed else [race]

    told(monkeypatch, found)
    assert emulate.main(["quantize", "--rung", "1", *SHAPE]) == 1
    assert capsys.readouterr().out.splitlines()[2:] == [
        "  k.cu:1: race: with k.cu:2 (also with k.cu:3, in 3 of 3 schedules)",
        "  k.cu:9: lane: a lane (in 2 of 3 schedules)",
    ]


@pytest.mark.parametrize(("whole", "status"), [(False, 1), (True, 0)])
def test_a_sum_that_has_no_order_has_other_bits_under_another_schedule(whole, status, monkeypatch, tmp_path, capsys):
    file, x = write(tmp_path, "atomicAdd(y, x[blockIdx.x]);", "const float* x, float* y"), normal(0, (64,))[0]
    x = np.round(x) if whole else x

    def run(device, rung):
        y = np.zeros(1, np.float32)
        device.run(file, "k", 64, 1, {"x": x, "y": y})
        device.expect(y, x.sum(dtype=np.float64), 1e-4, "y")

    monkeypatch.setitem(emulate.OPERATIONS, "sum", (lambda n: run, "n", (64,), {1: file.name}))
    assert emulate.main(["sum"]) == status
    assert ("  y: other bits: not the bits of the first schedule: " in capsys.readouterr().out) == (not whole)


def test_a_kernel_that_never_ends_runs_once(monkeypatch, tmp_path, capsys):
    plant(monkeypatch, tmp_path, cuda, TILED, "first += CODES", "first += 0")
    monkeypatch.setattr(emulate, "Emulator", partial(Emulator, most_accesses=20_000))
    assert emulate.main(["quantize", "--rung", "2"]) == 1
    out = capsys.readouterr().out
    assert out.count("endless") == 1 and " finding" in out and " (1 of 3 schedules, " in out and "(in " not in out


@pytest.mark.parametrize("op", ["group_norm", "layer_norm"])
def test_a_norm_with_another_epsilon_is_noticed(op, monkeypatch, capsys):
    class Other(Emulator):
        def run(self, source, kernel, grid, threads, arguments, **settings):
            more = {"eps": 2 * arguments["eps"]} if "eps" in arguments else {}
            super().run(source, kernel, grid, threads, {**arguments, **more}, **settings)

    monkeypatch.setattr(emulate, "Emulator", Other)
    assert emulate.main([op, "--seeds", "1"]) == 1
    assert capsys.readouterr().out.count("wrong value") == 2 * len(emulate.OPERATIONS[op][3])


class Comparing(Emulator):
    """Notes the inputs of a launch that are alike."""

    def run(self, source, kernel, grid, threads, arguments, **settings):
        const = [p.name for p in kernels_in(source)[kernel] if p.pointer and p.const and arguments[p.name] is not None]
        for a, b in itertools.combinations(const, 2):
            x, y = arguments[a], arguments[b]
            if x is not y and x.size == y.size > 4 and np.array_equal(x.reshape(-1), y.reshape(-1)):
                self.alike.add((source.name, kernel, a, b))
        super().run(source, kernel, grid, threads, arguments, **settings)


@pytest.mark.parametrize("op", emulate.OPERATIONS)
def test_no_two_inputs_are_alike(op):
    """Else a kernel that takes the one for the other is right: at the default sizes, and at sizes that are all the same."""
    make, _, sizes, rungs = emulate.OPERATIONS[op]
    device = Comparing()
    device.alike = set()
    for shape in (sizes, (8,) * len(sizes)):
        for rung in rungs:
            with contextlib.suppress(ValueError):  # not every rung takes every size
                make(*shape)(device, rung)
    assert device.ran and not device.alike


@pytest.mark.parametrize("rung", [0, 9])
@pytest.mark.parametrize("op", [op for op, (*_, rungs) in emulate.OPERATIONS.items() if len(rungs) > 1])
def test_a_rung_that_there_is_not_is_named_beside_those_that_there_are(op, rung):
    make, _, sizes, rungs = emulate.OPERATIONS[op]
    known = ", ".join(map(str, rungs))
    with pytest.raises(ValueError, match=rf"^rung must be one of {known}, got {rung}$"):
        make(*sizes)(Emulator(), rung)


def test_the_other_functions_with_rungs_name_them_too():
    x, codes, ones = np.zeros((2, 3), np.float32), np.zeros((3, 2), np.int8), np.ones(3, np.float32)
    g = np.zeros((1, 2, 2, 1), np.float32)
    for of_rung in (
        partial(eight_bit_cuda.linear_weight_only, Emulator(), x, codes, ones),
        partial(eight_bit_cuda.linear_int8, Emulator(), codes, ones, codes, ones),
        partial(eight_bit_cuda.linear_fp8, Emulator(), codes, ones, codes, ones),
        partial(conv2d_cuda.conv2d_grad_w, Emulator(), g, g, (1, 1, 1, 1), stride=(1, 1), padding=(0, 0)),
        partial(conv2d_cuda.conv2d_grad_x, Emulator(), g, g, g.shape, stride=(1, 1), padding=(0, 0)),
        partial(norm_cuda.group_norm_forward, Emulator(), x, ones, ones, 1, eps=1e-5, silu=False),
        partial(norm_cuda.group_norm_backward, Emulator(), x, x, ones, ones, ones, 1, silu=False),
    ):
        with pytest.raises(ValueError, match=r"^rung must be one of 1, 2.*, got 9$"):
            of_rung(rung=9)
