"""The benchmark's problem list: every operation is on it, and what its work is."""

import importlib
import json
from typing import Any

import numpy as np
import pytest

from kernels import bench, emulate, problems, resample
from kernels.gpu_bench import companions, pages, products
from kernels.source import ROOT


def test_every_operation_has_a_problem():
    folders, with_rungs = ({f.parent.name for f in ROOT.glob(f"*/{name}.py")} for name in ("reference", "cuda"))
    on_cpu, on_gpu = (
        {p.op.partition("-")[0] for p in listed} for listed in (problems.problems(), bench.gpu_problems())
    )
    assert len(folders) > 10 and folders >= on_cpu | on_gpu
    new = sorted(with_rungs - on_gpu)
    assert not new, f"a list of problems in kernels/gpu_bench needs {', '.join(new)}"
    new = sorted(folders - with_rungs - on_cpu)
    assert not new, f"problems() in kernels/problems.py needs {', '.join(new)}"


def test_every_ladder_can_be_emulated():
    ladders = {
        f.parent.name: importlib.import_module(f"kernels.{f.parent.name}.cuda").RUNGS for f in ROOT.glob("*/cuda.py")
    }
    emulated = [rungs for *_, rungs in emulate.OPERATIONS.values()]
    new = [folder for folder, rungs in ladders.items() if not any(rungs is of for of in emulated)]
    assert len(ladders) > 10 and not new, f"COMPANIONS in kernels/companions.py needs {', '.join(new)}, with its RUNGS"


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


WORK = [  # problems, their FLOP and bytes: sums that were done by hand
    (problems._matmul(2, 3, 5), 60, 4 * (6 + 15 + 10)),
    (problems._conv2d(2, 5, 3, 7, stride=2), 3 * 6804, 3 * 4 * (150 + 126 + 189)),
    (problems._conv_transpose2d(2, 5, 3), 3 * 14400, 3 * 4 * (150 + 600 + 144)),
    (problems._attention(2, 3, 5, 8, t_k=7), 7 * 3360, 4 * 48 * (5 * 5 + 6 * 7)),
    (problems._attention(2, 3, 5, 8, causal=True), 7 * 1200, 4 * 48 * 11 * 5),
    (problems._nearest(5, 7, 3), 210, 4 * 12 * 3 + 8 * 5),
    (problems._group_norm(2, 3, 8), 30 * 144, 4 * 5 * 144),
    (problems._layer_norm(5, 6), 20 * 30, 4 * 5 * 30),
    (problems._gelu(1024), 40 * 1024, 4 * 5 * 1024),
    (problems._cross_entropy(5, 7), 8 * 35, 4 * 3 * 35),
    (problems._embedding(7, 3, 5), 15, 4 * 3 * (5 + 5 + 5 + 7)),
    (problems._resample(2, 4, 3), 4 * 96, 4 * 4 * (96 + 24)),
    (problems._adam(10), 120, 4 * 7 * 10),
    (products.matmul(2, 3, 5, "float32"), 60, 4 * 31),
    (products.matmul(2, 3, 5, "tf32"), 60, 4 * 31),
    (products.matmul(2, 3, 5, "bf16"), 60, 2 * 31),
    (products.conv2d(2, 5, 3, 7, "float32", stride=2), 6804, 4 * (150 + 126 + 189)),
    (products.conv2d_fused(2, 5, 4, "bf16"), 14400, 2 * (200 + 200 + 144) + 4 * 200),
    (products.conv2d_grad("x", 2, 5, 3, 7, "bf16", stride=2), 6804, 2 * (150 + 126 + 189)),
    (products.conv2d_grad("w", 2, 5, 3, 7, "float32", stride=2), 6804, 4 * (150 + 126 + 189)),
    (products.attention(2, 3, 5, 8, "float32", t_k=7), 2 * 3360, 4 * 48 * 2 * (5 + 7)),
    (products.attention(2, 3, 5, 8, "bf16", causal=True), 2 * 1200, 2 * 48 * 2 * (5 + 5)),
    (products.attention_grad(2, 3, 5, 8, "bf16"), 5 * 2400, 2 * 48 * 8 * 5),
    (products.attention_grad(2, 3, 5, 8, "float32", causal=True), 5 * 1200, 4 * 48 * 8 * 5),
    (products.quantize(5, 7, 3), 210, 4 * 12 * 3 + 8 * 5),
    (companions.codebook(5, 7, 3), 15, 4 * (15 + 4 * 21)),
    (companions.gather(5, 7, 3), 45, 4 * (15 + 21 + 15 + 5) + 8 * (5 + 7)),
    (companions.group_norm(2, 3, 8, 2, False), 12 * 144, 4 * 2 * 144),
    (companions.group_norm(2, 3, 8, 2, True), 30 * 144, 4 * 3 * 144),
    (companions.layer_norm(5, 6, False), 8 * 30, 4 * 2 * 30),
    (companions.layer_norm(5, 6, True), 20 * 30, 4 * 3 * 30),
    (companions.cross_entropy(5, 7), 8 * 35, 4 * 2 * 35),
    (companions.adam_step(10), 120, 4 * 7 * 10),
    (companions.embedding(5, 7, 3), 15, 4 * (15 + 21)),
    (companions.ddim_step(2, 3, True), 16 * 6, 4 * 5 * 6),
    (companions.normals(2, 3), 60 * 6, 4 * 6),
    (companions.gelu(10, False), 200, 4 * 2 * 10),
    (companions.gelu(10, True), 200, 4 * 3 * 10),
    (companions.quantize_numbers(3, 5, "int8"), 60, 4 * 15 + 15 + 4 * 5),
    (companions.linear_weight_only(2, 3, 5), 60, 4 * 6 + 15 + 4 * 10),
    (companions.linear_int8(2, 3, 5), 60, 6 + 15 + 4 * 10),
    (companions.linear_fp8(2, 3, 5), 60, 6 + 15 + 4 * 10),
]


def test_work_is_the_definitions_and_bytes_are_read_and_written_once():
    for p, flop, moved in WORK:
        assert (p.flop, p.bytes) == (flop, moved), (p.op, p.name)
    for listed in (problems.problems(), bench.gpu_problems()):
        done = {p.op for p, *_ in WORK if isinstance(p, type(listed[0]))}
        new = sorted({p.op for p in listed} - done - {"attention-short"})  # which is attention's
        assert not new, f"WORK in {__file__} needs {', '.join(new)} of {type(listed[0]).__module__}"


def test_the_committed_results_are_of_the_work_that_the_problems_have():
    work = {(p.op, p.name, p.dtype): (p.flop, p.bytes) for p in bench.gpu_problems()}
    for row in pages.all_rows():
        assert (row["flop"], row["bytes"]) == work[pages.key(row)], pages.key(row)
    for p, row in _on_a_cpu():
        assert row["gflop_per_s"] * row["ms"] * 1e6 == pytest.approx(p.flop), p.name
        assert row["gb_per_s"] * row["ms"] * 1e6 == pytest.approx(p.bytes), p.name


def _on_a_cpu() -> list[tuple[problems.Problem, dict[str, Any]]]:
    rows = json.loads((pages.RESULTS / "cpu.json").read_text(encoding="utf-8"))["rows"]
    of = {(p.op, p.name): p for p in problems.problems()}
    return [(of[row["op"], row["problem"]], row) for row in rows if (row["op"], row["problem"]) in of]
