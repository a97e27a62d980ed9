"""Our samplers keep every claim they make. Levels of other spacings are another schedule to the same code: fewer laws there."""

from contextlib import nullcontext
from copy import copy

import cupy_on_cpu
import numpy as np
import pytest

from minigen.laws import Ours, ours, report, run_laws
from minigen.laws.catalogue import Edited, Replacement
from minigen.samplers.choose import SAMPLERS

ALL = ours()
PLAIN = [s for s in ALL if s.spacing == "uniform" and "no signal" not in s.name]
CLAIMED = ("L3", "L21", "L22", "L22b")  # whose limits are no rounding
LEVELS = ["L1", "L2", "L3", "L6", "L14"]


@pytest.mark.parametrize("sampler", PLAIN, ids=lambda sampler: sampler.name)
def test_every_law(sampler):
    verdicts = [*run_laws(sampler, dtypes=["float64"])]
    assert not [v for v in verdicts if v.failed], report(verdicts)
    assert sum(v.status == "pass" for v in verdicts) >= 10


@pytest.mark.parametrize("sampler", PLAIN, ids=lambda sampler: sampler.name)
def test_in_single_precision(sampler):
    verdicts = [*run_laws(sampler, ["L0", "L6", "L14"], ["float32"])]
    assert not [v for v in verdicts if v.failed], report(verdicts)


@pytest.mark.parametrize("card", ["stand-in", pytest.param("gpu", marks=pytest.mark.gpu)])
@pytest.mark.parametrize(
    "sampler", [*map(Ours, SAMPLERS), Ours("ddim", eta=0.4), Replacement(), Edited()], ids=lambda s: s.name
)
def test_on_a_gpu(sampler, card):
    def no_numpy(method):
        def checked(*given, **settings):
            assert not [a for a in given if isinstance(a, np.ndarray)]
            return method(*given, **settings)

        return checked

    sampler = copy(sampler)
    sampler.arrays = "cupy"
    for name in {"sample", "encode", "decode"} & {*dir(sampler)}:
        setattr(sampler, name, no_numpy(getattr(sampler, name)))
    if card == "stand-in":
        sampler.steps = (2, 3)
    with cupy_on_cpu.installed() if card == "stand-in" else nullcontext():
        verdicts = [*run_laws(sampler)]
    assert not [v for v in verdicts if v.failed], report(verdicts)
    assert "pass" in [v.status for v in verdicts]


@pytest.mark.parametrize(
    "sampler", [s for s in ALL if s not in PLAIN and s.spacing != "quadratic"], ids=lambda sampler: sampler.name
)
def test_laws_of_levels_on_other_spacings(sampler):
    verdicts = [*run_laws(sampler, LEVELS, ["float64"])]
    assert not [v for v in verdicts if v.failed], report(verdicts)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_every_law_on_every_spacing(dtype):
    verdicts = [*run_laws(ALL, dtypes=[dtype])]
    assert not [v for v in verdicts if v.failed], report(verdicts, whole=False)
    loose = [v for v in verdicts if v.status == "pass" and v.law not in CLAIMED and v.value > 0.1 * v.limit]
    assert not loose, "rounding comes too near to its limit, or a limit too near to rounding"
