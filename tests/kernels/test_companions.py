"""The memory-bound operations as problems of ``kernels.emulate``: every rung right. On a GPU: test_gpu.py."""

from types import SimpleNamespace

import numpy as np
import pytest
from rungs import needs_compiler

from kernels import emulate
from kernels.companions import COMPANIONS
from kernels.emulator import Emulator, EmulatorError
from kernels.gpu_bench.through_host import ThroughHost
from kernels.norm import cuda as norm_cuda

SMALL = {
    "random": (2, 5), "group_norm": (1, 5, 2, 3), "layer_norm": (3, 5), "cross_entropy": (3, 5), "adam": (7,), "activation": (7,),
    "sampler_step": (2, 5), "embedding": (9, 4, 2), "codebook": (9, 4, 2), "gather": (9, 4, 2), "eight_bit": (3, 5, 4),
}  # fmt: skip
every_rung = pytest.mark.parametrize(("op", "rung"), [(op, r) for op, (*_, rungs) in COMPANIONS.items() for r in rungs])


def assert_all_have_small_sizes():
    new, gone = sorted(COMPANIONS.keys() - SMALL.keys()), sorted(SMALL.keys() - COMPANIONS.keys())
    assert not new, (
        f"SMALL in {__file__} needs sizes of at most 9 for {', '.join(f'{o} ({COMPANIONS[o][1]})' for o in new)}"
    )
    assert not gone, f"SMALL in {__file__} has sizes for {', '.join(gone)}, which kernels/companions.py has not"


def test_a_new_companion_is_told_what_to_add(monkeypatch):
    for op in COMPANIONS.keys() - SMALL.keys():
        monkeypatch.setitem(SMALL, op, ())  # one that lacks them now is told by the test that runs all
    monkeypatch.setitem(COMPANIONS, "new", COMPANIONS["embedding"])
    with pytest.raises(AssertionError, match=r"SMALL in .*test_companions.py needs sizes .* for new \(m,rows,d\)"):
        assert_all_have_small_sizes()
    monkeypatch.delitem(COMPANIONS, "new")
    monkeypatch.delitem(COMPANIONS, "adam")
    with pytest.raises(AssertionError, match=r"has sizes for adam, which kernels/companions.py has not"):
        assert_all_have_small_sizes()


@needs_compiler
def test_the_command_runs_every_companion(capsys):
    assert_all_have_small_sizes()
    assert COMPANIONS.keys() <= emulate.OPERATIONS.keys()
    for op, sizes in SMALL.items():
        assert emulate.main([op, "--shape", ",".join(map(str, sizes)), "--seeds", "2"]) == 0
    rungs = sum(len(rungs) for *_, rungs in COMPANIONS.values())
    assert capsys.readouterr().out.count("right, nothing found (2 schedules") == rungs


def test_layer_norm_runs_with_one_warp_a_row_and_with_several():
    """They have other sums, and only those of several have barriers."""
    small, large = (
        norm_cuda._row_sizes(sizes["layer_norm"][1]) for sizes in (SMALL, {o: c[2] for o, c in COMPANIONS.items()})
    )
    assert small[1] == 1 < large[1]


@needs_compiler
@every_rung
def test_a_result_that_is_a_little_off_is_noticed(op, rung, monkeypatch):
    """The allowed errors are not so wide that anything would pass: a thousandth more of every number is too much."""
    found = []

    def expect(array, want, allowed=0.0, name="the result"):
        other = Emulator()
        other.expect(array * np.float32(1.001) if array.dtype == np.float32 else array ^ 1, want, allowed, name)
        found.append(bool(other.findings))

    device, sizes = Emulator(), COMPANIONS[op][2]
    monkeypatch.setattr(device, "expect", expect)
    COMPANIONS[op][0](*sizes)(device, rung)
    assert found and all(found)


@needs_compiler
def test_the_way_through_the_host_changes_nothing():
    for op, sizes in SMALL.items():
        for rung in COMPANIONS[op][3]:
            inner = Emulator()
            device = ThroughHost(inner, np)
            COMPANIONS[op][0](*sizes)(device, rung)
            inner.check()
            device.check()
    with pytest.raises(EmulatorError, match="wrong value"):
        device.expect(np.ones(3), np.zeros(3))
        device.check()


def test_what_a_card_is_given_is_new_until_it_is_written_and_begins_where_it_began(tmp_path):
    """So that a tool sees who reads what nobody wrote, and a copy of 16 bytes is as possible there as here."""
    file, made, given = tmp_path / "k.cu", [], []
    file.write_text('extern "C" __global__ void k(const float* x, float* y) {}')
    card = SimpleNamespace(architecture="90a", run=lambda *a, **_: given.append(a[4]))
    xp = SimpleNamespace(asarray=np.asarray, empty=lambda *a: made.append(a) or np.zeros(*a))
    device = ThroughHost(card, xp)
    x, y = np.arange(9, dtype=np.float32)[3:], device.empty((5,), np.float32)
    assert np.isfinite(y).all() and y.any()
    for _ in range(2):
        device.run(file, "k", 1, 1, {"x": x, "y": y})
        assert made == [((5,), np.float32)] and not y.any()
        np.testing.assert_array_equal(given[-1]["x"], x)
        assert given[-1]["x"].ctypes.data % 16 == x.ctypes.data % 16 == 12
    z = device.empty((5,), np.float32)
    z[...] = 0  # as the host may
    device.run(file, "k", 1, 1, {"x": x, "y": z})
    assert len(made) == 1 and given[-1]["y"].tolist() == [0] * 5
