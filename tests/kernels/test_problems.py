"""The benchmark's problem list: every operation is on it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kernels
from kernels import bench, problems, resample


def test_every_operation_has_a_problem():
    folders = {path.parent.name for path in Path(kernels.__file__).parent.glob("*/reference.py")}
    listed = {p.op.partition("-")[0] for p in (*problems.problems(), *bench.gpu_problems())}
    assert len(folders) > 10 and listed == folders


def test_the_resampling_problem_runs_all_four_functions_on_matching_shapes(monkeypatch: pytest.MonkeyPatch):
    called = []

    def watched(name: str, function: Any) -> Any:
        def call(x: Any, factor: int) -> Any:
            called.append(name)
            return function(x, factor)

        return call

    for name in resample.__all__:
        monkeypatch.setattr(resample, name, watched(name, getattr(resample, name)))
    (problem,) = (p for p in problems.problems() if p.op == "resample")
    (pooled, g_small), (upsampled, g_large) = problem.ours(np.random.default_rng(0))()
    assert sorted(called) == sorted(resample.__all__)
    assert pooled.shape == g_small.shape == (32, 16, 16, 64) and upsampled.shape == g_large.shape == (32, 32, 32, 64)
    assert problem.bytes == 4 * 4 * (pooled.size + upsampled.size)
