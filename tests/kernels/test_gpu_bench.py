"""The benchmark on a GPU, without one: every problem's inputs, checks, peers and times on stand-ins for the card and for torch."""

import functools
import importlib
import json
import re
from types import SimpleNamespace

import cupy_on_cpu
import numpy as np
import pytest
from rungs import needs_compiler, needs_nvrtc
from torch_on_cpu import torch

from kernels import adam, bench, bfloat16, launch
from kernels import problems as bench_problems
from kernels.eight_bit import cuda as eight_bit_cuda
from kernels.emulator import Emulator
from kernels.gpu_bench import companions, measure, pages, peers, products, stamps
from kernels.gpu_bench import problem as problem_module
from kernels.gpu_bench.problem import (
    Nothing,
    Source,
    judge,
    rehearse,
    rungs_by_format,
    rungs_that_can,
    some,
    take,
)
from kernels.quantize import cuda as quantize_cuda
from kernels.source import ROOT

HERE = ROOT / "quantize"
WHOLE = products.problems() + companions.problems()
TINY = [
    products.matmul(20, 24, 17, "float32"),
    products.matmul(20, 24, 24, "bf16"),
    products.matmul(20, 24, 17, "tf32"),
    products.conv2d(2, 5, 3, 8, "float32"),
    products.conv2d(2, 5, 8, 8, "bf16", stride=2),
    products.conv2d(2, 5, 8, 8, "tf32", 1),
    products.conv2d_fused(2, 5, 8, "float32"),
    products.conv2d_fused(2, 5, 8, "bf16"),
    products.conv2d_grad("x", 2, 5, 8, 8, "float32", stride=2),
    products.conv2d_grad("w", 2, 5, 3, 8, "float32"),
    products.conv2d_grad("x", 2, 5, 8, 8, "bf16"),
    products.conv2d_grad("w", 2, 5, 8, 8, "tf32", stride=2),
    products.attention(2, 1, 20, 16, "float32", causal=True),
    products.attention(1, 2, 20, 16, "bf16", t_k=7),
    products.attention(1, 2, 20, 16, "bf16", t_k=7, short=True),
    products.attention_grad(1, 2, 20, 16, "float32", causal=True),
    products.attention_grad(1, 2, 20, 16, "bf16"),
    products.quantize(40, 50, 20),
    companions.codebook(40, 7, 3),
    companions.gather(40, 7, 3),
    companions.group_norm(2, 3, 8, 2, False),
    companions.group_norm(2, 3, 8, 2, True),
    companions.layer_norm(5, 24, False),
    companions.layer_norm(5, 24, True),
    companions.cross_entropy(6, 30),
    companions.adam_step(50),
    companions.embedding(30, 9, 3),
    companions.ddim_step(2, 12, False),
    companions.ddim_step(2, 12, True),
    companions.normals(2, 12),
    companions.gelu(50, False),
    companions.gelu(50, True),
    companions.quantize_numbers(9, 5, "int8"),
    companions.quantize_numbers(9, 5, "e4m3"),
    companions.linear_weight_only(3, 20, 5),
    companions.linear_int8(3, 20, 5),
    companions.linear_fp8(3, 20, 5),
]
named = [pytest.param(p, id=p.title) for p in TINY]


def small(device, xp):
    return Source(device, xp, 1 << 12)


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.setattr(launch, "nvrtc_version", lambda: "13.0")
    monkeypatch.setattr(stamps, "machine", lambda launches, architecture: f"{len(launches)} on {architecture}")
    monkeypatch.setattr(measure, "FLUSH", 1 << 12)
    with cupy_on_cpu.installed() as gpu:
        yield gpu
    assert not gpu.findings


@needs_compiler
@pytest.mark.parametrize("problem", named)
def test_every_problem_is_made_checked_timed_and_placed(problem, gpu):
    clock = measure.Clock(gpu.xp)
    row = measure.measure(problem, clock, small(gpu, gpu.xp), torch, rungs=problem.rungs, rounds=3)
    row = json.loads(json.dumps(measure.placed(row, {"copy": {"gb_per_s": 1.0}, "float32": {"tflop_per_s": 1.0}})))
    theirs = [c for c in row["contestants"] if c.get("peer")]
    assert [c["name"] for c in theirs] == [name for name, _ in problem.peers]
    assert len(row["contestants"]) == len(theirs) + len(problem.rungs)
    for c in row["contestants"]:
        if c["name"] == "SDPA cuDNN" and problem.dtype == "float32":
            assert c["failed"] == "RuntimeError: No available kernel. Aborting execution." and "cold_ms" not in c
            continue
        if "not run" in c:  # such small sizes are none of the last rung's
            continue
        assert "failed" not in c and "wrong" not in c, c
        assert c["samples"] == 3 and 0 < c["cold_ms"] == pytest.approx(c["hot_ms"]) and c["cold_spread"] < 1e-6, c
        assert c["tflop_per_s"] == pytest.approx(problem.flop / c["cold_ms"] / 1e9)
        assert c.get("peer") or c["checked"] > 0
    assert (row["ratio"] is None) == (not theirs or not problem.rungs)


@needs_compiler
@pytest.mark.parametrize("problem", [p for p in named if p.values[0].rungs])
def test_a_result_that_is_a_little_off_is_not_timed(problem, gpu, monkeypatch):
    """Each result by itself, a thousandth more of every number (bf16: a tenth), or its first or last number alone."""
    inputs = problem.make(small(gpu, gpu.xp))
    rung = max(problem.rungs)
    result = problem.run(gpu, inputs, rung)
    if result is None:  # Adam's, in place
        assert not judge(problem.check(inputs, result, rung))[1]
        as_before = iter([1.0] * 4)  # p, g, m, v before the step; what is a thousandth off comes after it
        monkeypatch.setattr(companions, "take", lambda x, *i: take(x, *i) * next(as_before, 1.001))
        assert len(judge(problem.check(inputs, result, rung))[1]) == 3
        return
    parts = result if isinstance(result, tuple) else (result,)
    looked, wrong = judge(problem.check(inputs, result, rung))
    assert looked and not wrong
    for k, part in enumerate(parts):
        factor = np.float32(1.1 if problem.dtype == "bf16" else 1.001)
        off = part.on_host ^ 1 if part.on_host.dtype.kind in "iu" else part.on_host * factor
        for array in (off, spoiled(part.on_host, 0), spoiled(part.on_host, -1)):
            changed = (*parts[:k], cupy_on_cpu.Ndarray(array), *parts[k + 1 :])
            _, wrong = judge(problem.check(inputs, changed if isinstance(result, tuple) else changed[0], rung))
            statistics = problem.op.startswith("norm") and problem.name.endswith("forward") and k == 1
            assert wrong or statistics, f"{problem.title}: its check does not look at part {k} of what run returns"


def spoiled(array, place):
    """A copy in which one number is another; of bits of bfloat16 numbers a large one."""
    copy = array.copy()
    if array.dtype.kind in "iu":
        copy.reshape(-1)[place] ^= 0x4000 if array.dtype == np.uint16 else 1
    else:
        copy.reshape(-1)[place] += 1
    return copy


def test_an_index_that_is_none_is_wrong():
    """Even where the code that is nearest to it in the codebook would be the right one."""
    problem = products.quantize(3, 2, 4)
    inputs = {"z": np.zeros((3, 4), np.float32), "codebook": np.array([[9] * 4, [1] * 4], np.float32)}
    for last, wrong in ((1, 0), (2, 1)):
        looked, said = judge(problem.check(inputs, np.array([1, 1, last]), 1))
        assert len(said) == wrong and looked == 3 + 3, "a range and a distance of each"


def on_host(result):
    """A peer's result or results as a tuple of NumPy's arrays."""
    return tuple(y.detach().numpy() for y in (result if isinstance(result, tuple) else (result,)))


IMAGES = lambda y: y.transpose(0, 2, 3, 1)  # noqa: E731
PIXELS = lambda y: IMAGES(y).reshape(y.shape[0], -1, y.shape[1])  # noqa: E731
SAME = {  # which result of a peer is compared, and how it is brought to our layout; for those whose values the stand-in for torch knows
    "matmul": lambda y: y,
    "conv2d": IMAGES,
    "conv2d-grad-x": IMAGES,
    "conv2d-grad-w": lambda y: y.transpose(2, 3, 1, 0),
    "attention": lambda y: y,
    "attention-short": lambda y: y,
    "norm-group": PIXELS,
    "norm-layer": lambda y: y,
    "cross_entropy": lambda y, *_: y,
    "embedding": lambda y: y,
    "codebook": lambda *y: y[2],
    "quantize-gather": lambda *y: y[1],
    "sampler_step": lambda y, *_: y,
    "activation": lambda y: y,
    "eight_bit": lambda y: y,
    "quantize": lambda y: y,
}
compared = [p for p in named if p.values[0].op in SAME and not p.values[0].name.endswith(("gradients", "gradient"))]


@needs_compiler
@pytest.mark.parametrize("problem", compared)
def test_peers_do_the_same_work(problem, gpu):
    """So that a ratio of times is one of the same thing: a layout, a factor or an axis may be the wrong one."""
    if not problem.rungs or "with noise" in problem.name:
        pytest.skip("nothing of ours to compare with, or other noise")
    inputs = problem.make(small(gpu, gpu.xp))
    ours = problem.run(gpu, inputs, min(problem.rungs))
    which = {"codebook": 2, "quantize-gather": 1}.get(problem.op, 0)
    ours = (ours[which] if isinstance(ours, tuple) else ours).on_host
    ours = (bfloat16.from_bits(ours) if ours.dtype == np.uint16 else ours).astype(np.float64)
    for name, make in problem.peers:
        if "inexact" in name or (name == "SDPA cuDNN" and problem.dtype == "float32"):
            continue
        got = SAME[problem.op](*on_host(make(torch, peers.tensors(torch, inputs))()))
        assert got.shape == ours.shape, name
        np.testing.assert_allclose(got, ours, rtol=2e-2, atol=2e-2 * np.abs(ours).max(), err_msg=name)


# --- the whole list, rehearsed ----------------------------------------------------------------------------------------


def test_every_problem_of_the_list_could_be_launched():
    """At their full sizes, in memory that is never touched: grids, arguments, shared memory."""
    assert len({p.title for p in WHOLE}) == len(WHOLE) > 80
    new = sorted({p.op for p in WHOLE} - {p.op for p in TINY})
    assert not new, f"TINY in {__file__} needs a small problem of {', '.join(new)}"
    for p in WHOLE:
        assert p.flop > 0 < p.bytes and (p.peers or p.op == "eight_bit-codes")
        able, unable = rungs_that_can(p)
        assert able.keys() | unable.keys() == p.rungs.keys() and len(set(able.values())) == len(able)
        for why in unable.values():  # the rung below is taken, or the sizes are none of this rung's
            assert why.startswith(("takes ", "rung ")), (p.title, why)


def test_rungs_come_from_the_folders(tmp_path, monkeypatch):
    """A file more in a folder's declaration is a rung more here, under the numbers that its source says it multiplies."""
    (tmp_path / "1.cu").write_text('extern "C" __global__ void k(float* y) {}')
    (tmp_path / "7.cu").write_text('// Needs sm_90a\nextern "C" __global__ void k_bf16(const bf16* x, float* y) {}')
    (tmp_path / "8.cu").write_text('// Needs sm_80\nextern "C" __global__ void k_tf32(const float* x, float* y) {}')
    found = rungs_by_format(tmp_path, {1: "1.cu", 7: "7.cu", 8: "8.cu"})
    assert found == {"float32": {1: "1.cu"}, "bf16": {7: "7.cu", 8: "8.cu"}, "tf32": {8: "8.cu"}}
    assert products.MATMUL["bf16"].keys() >= {3} and products.MATMUL["float32"].keys() == {1, 2, 3, 4}


def test_a_rehearsal_refuses_what_a_card_would():
    attention = products.attention(1, 1, 5, 12, "bf16")
    with pytest.raises(ValueError, match=r"rung 3 takes heads of 8, 16, ... 256 numbers, got d = 12"):
        rehearse(attention, 3)
    with pytest.raises(launch.NoCuda, match=r"3_mma.cu is for sm_80, it cannot run on sm_75"):
        rehearse(products.matmul(64, 64, 64, "bf16"), 3, "75")
    device = problem_module.Rehearsal("75")
    arguments = {"z": Nothing().normal(5, 3), "codebook": Nothing().normal(5, 3), "m": 5, "codes": 5, "d": 3}
    source = quantize_cuda.RUNGS[1]
    run = functools.partial(device.run, HERE / source, "nearest_code", 1)
    arguments["indices"] = np.zeros(5, np.int64)
    run(128, arguments)
    for change, error, sentence in [
        ({"threads": 2048}, ValueError, "a block has 1 to 1024 threads"),
        ({"shared_bytes": 65 << 10}, ValueError, "a block has at most 65536 bytes of shared memory"),
        ({"arguments": {**arguments, "m": 5.0}}, TypeError, "m must be a whole number"),
    ]:
        with pytest.raises(error, match=sentence):
            run(**{"threads": 128, "arguments": arguments, **change})
    with pytest.raises(ValueError, match=r"1_naive.cu has no kernel 'nearest'"):
        device.run(HERE / source, "nearest", 1, 1, {})


@needs_nvrtc
@pytest.mark.slow
def test_every_kernel_of_the_list_compiles_without_spills():
    """With the very settings that the benchmark compiles them with."""
    wanted = {
        (f.source, tuple(sorted(f.defines.items())), f.kernel)
        for p in WHOLE
        for rung in rungs_that_can(p)[0]
        for f in rehearse(p, rung)
    }
    faults = []
    for source, defines, kernel in sorted(wanted, key=str):
        binary = launch.compile_for(source, "90a", dict(defines))
        needs = binary.resources()[kernel]
        if re.search(r"\(C75\d\d\)", binary.log) or needs.local_bytes or needs.spill_bytes:
            faults.append((source.name, kernel, dict(defines), needs))
    # A thread of this rung holds a query and its output: 2 x 128 numbers are more than 255 registers.
    known = [f for f in faults if f[0] == "2_online_softmax.cu" and f[2]["D"] == 128]
    assert faults == known


def test_data_are_normal_or_whole_numbers_and_no_two_arrays_alike():
    source = Source(None, np, 1 << 12)
    a, b = source.normal(100, 77), source.normal(100, 77)
    assert a.shape == (100, 77) and a.dtype == np.float32 and not np.array_equal(a, b)
    assert abs(a.mean()) < 0.1 and abs(a.std() - 1) < 0.1
    k = source.below(7, 5000)
    assert k.dtype == np.int32 and set(k.tolist()) == set(range(7))
    assert len(set(source.below(10**6, 4000).tolist())) > 3900, "a table's rows are not looked up again and again"
    bits = source.normal(3, 5, dtype="bf16")
    assert bits.dtype == np.uint16 and abs(take(bits, 1, slice(2))).max() < 6
    empty = Nothing().normal(1 << 20, 1 << 20)
    assert empty.shape == (1 << 20, 1 << 20) and empty[-1, -1] == 0  # 4 TB, of which a page exists


def test_places():
    assert some(3).tolist() == [0, 1, 2]
    assert some(1000)[0] == 0 and some(1000)[-1] == 999 and len(set(some(1000))) == 16
    pixels = set(zip(*(axis.tolist() for axis in products._pixels(3, 40))))
    assert pixels >= {(image, i, j) for image in (0, 2) for i in (0, 39) for j in (0, 39)} and len(pixels) > 64


# --- the clock --------------------------------------------------------------------------------------------------------


def test_the_cache_is_cold_for_the_first_of_two_runs_and_the_card_is_busy_while_the_host_hands_them_in(gpu):
    """The order of what is handed in: overwriting, an event, a run, an event, a run, an event."""
    clock, order = measure.Clock(gpu.xp), []

    class Event(cupy_on_cpu.Event):
        def record(self):
            order.append("event")
            super().record()

    class Buffer:
        def fill(self, value):
            order.append("overwrite")

    gpu.xp.cuda.Event, before = Event, gpu.xp.cuda.Event
    try:
        clock.buffer, clock.flush_seconds = Buffer(), 1e-3

        def run():
            order.append("run")
            cupy_on_cpu.Event.now += 2.0 if order.count("run") == 1 else 1.0  # milliseconds

        cold, hot = clock.sample(run, 2.5e-3)
        overwritten = order.count("overwrite")
        clock.sample(run, 10.0)  # a second of the host's is not waited for
    finally:
        gpu.xp.cuda.Event = before
    assert order[:13] == ["overwrite"] * 8 + ["event", "run", "event", "run", "event"]
    assert (cold, hot) == pytest.approx((2.01e-3, 1.01e-3))
    assert overwritten == 8 and order.count("overwrite") == 8 + 201


@pytest.mark.parametrize(("cache", "size"), [(0, 1 << 12), (1 << 10, 1 << 12), (1 << 11, 1 << 13)])
def test_what_is_overwritten_is_four_times_the_cache(gpu, monkeypatch, cache, size):
    monkeypatch.setattr(gpu.xp.cuda.runtime, "getDeviceProperties", lambda number: {"l2CacheSize": cache})
    assert measure.Clock(gpu.xp).buffer.nbytes == size


def test_one_run_does_not_count_before_the_one_that_is_waited_for(gpu, monkeypatch):
    """A short one runs once more: the first may compile, the second chooses how often to repeat."""
    clock, runs, now = measure.Clock(gpu.xp), [], [0.0]
    monkeypatch.setattr(measure.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(clock, "wait", lambda: now.__setitem__(0, now[0] + 0.5))

    def run():
        runs.append(1)
        now[0] += len(runs) / 8

    assert clock.warm(run) == (0.5 + 3 / 8, 3 / 8) and len(runs) == 3


def test_contestants_take_turns_and_a_slow_one_has_fewer(gpu, monkeypatch):
    clock, order = measure.Clock(gpu.xp), []
    monkeypatch.setattr(clock, "warm", lambda run: (run(), (0.1 if run is slow else 1e-3, 2e-3))[1])
    monkeypatch.setattr(clock, "flush_seconds", 1.0)

    def fast():
        order.append("f")

    def slow():
        order.append("s")

    def broken():
        raise MemoryError("out of memory\nand more")

    def breaks_later():
        order.append("b")
        if order.count("b") > 2:
            raise MemoryError("later")

    found = measure.race(clock, {"fast": fast, "slow": slow, "broken": broken, "later": breaks_later}, 5)
    assert found.pop("later") == {"failed": "MemoryError: later"}
    order[:] = [name for name in order if name != "b"]
    assert found["broken"] == {"failed": "MemoryError: out of memory and more"}
    assert "".join(order) == "fs" + "ffss" * 3 + "ff" * 2
    assert found["fast"]["samples"] == 5 and found["slow"]["samples"] == measure.LEAST
    assert found["fast"]["host_ms"] == 2


def test_samples_that_were_disturbed_are_taken_once_more(gpu, monkeypatch):
    clock = measure.Clock(gpu.xp)
    times = {
        "calm": iter([1.0, 1.05, 0.95]),
        "disturbed": iter([1, 2, 3, 1, 1, 1]),
        "restless": iter([1, 2, 3, 4, 5, 9]),
    }
    monkeypatch.setattr(clock, "warm", lambda run: (0.2, 0.0))  # three samples of each
    monkeypatch.setattr(clock, "sample", lambda run, host: (next(times[run]), 7.0))
    found = measure.race(clock, {name: name for name in times}, 9)
    assert all(next(left, None) is None for left in times.values())  # no more samples than these
    assert [f["cold_ms"] for f in found.values()] == [1e3, 1e3, 5e3]
    assert found["disturbed"]["cold_spread"] == 0 < found["restless"]["cold_spread"]
    assert all((f["hot_ms"], f["hot_spread"]) == (7e3, 0) for f in found.values())


def test_what_takes_seconds_is_timed_once_by_the_wall(gpu, monkeypatch):
    clock, runs = measure.Clock(gpu.xp), []
    times = iter([0.0, 2.5])
    monkeypatch.setattr(measure.time, "perf_counter", lambda: next(times, 5.0))
    found = measure.race(clock, {"slow": lambda: runs.append(1)})["slow"]
    assert len(runs) == 2 and found["samples"] == 1 and found["cold_ms"] == found["hot_ms"] == 5000


def test_versions_are_read_from_their_numbers():
    assert [measure._version(n) for n in (12080, 12100, 13000)] == ["12.8", "12.10", "13.0"]


def test_spread():
    assert measure.spread([1.0]) == 0.0
    assert measure.spread([1, 2, 3, 4, 5]) == pytest.approx(2 / 3)


# --- rows, files, tables, plots ---------------------------------------------------------------------------------------

ROW = {
    "op": "matmul", "problem": "8192 x 8192 x 8192", "dtype": "bf16", "flop": 4e12, "bytes": 1e9, "goal": None,
    "contestants": [
        {"name": "rung 3", "file": "3_mma.cu", "checked": 9, "samples": 3, "cold_ms": 8.0, "hot_ms": 7.0, "cold_spread": 0.01, "hot_spread": 0.0, "host_ms": 0.1,
         "code": {"sources": stamps.sources(rehearse(WHOLE[0], 3))}},
        {"name": "rung 4", "file": "4_wgmma.cu", "wrong": "y is off"},
        {"name": "torch.matmul", "peer": True, "samples": 3, "cold_ms": 5.0, "hot_ms": 5.0, "cold_spread": 0.0, "hot_spread": 0.0, "host_ms": 0.1},
        {"name": "another", "peer": True, "samples": 3, "cold_ms": 10.0, "hot_ms": 5.0, "cold_spread": 0.0, "hot_spread": 0.0, "host_ms": 0.1},
        {"name": "none", "peer": True, "failed": "RuntimeError"},
    ],
}  # fmt: skip
LIMITS = {"bf16": {"tflop_per_s": 800.0, "by": "torch.matmul"}, "copy": {"gb_per_s": 3000.0, "by": "a copy"}}
CONDITIONS = {"device": "A card", "architecture": "90a", "date": "2001-02-03"}


def test_a_time_is_placed_under_the_limits():
    row = measure.placed(ROW, LIMITS)
    rung, wrong, *_ = row["contestants"]
    assert rung["tflop_per_s"] == pytest.approx(500) and rung["gb_per_s"] == pytest.approx(125)
    assert (
        rung["of_product"] == rung["of_roofline"] == pytest.approx(500 / 800)
    )  # 5 ms for the product, 0.33 for the bytes
    assert rung["of_copy"] == pytest.approx(125 / 3000) and row["ratio"] == pytest.approx(8 / 5)
    assert "tflop_per_s" not in wrong and "tflop_per_s" not in ROW["contestants"][0]
    faster = {**ROW, "contestants": [*ROW["contestants"], {**ROW["contestants"][0], "cold_ms": 2.0}]}
    assert measure.placed(faster, LIMITS)["ratio"] == pytest.approx(2 / 5)
    many = measure.placed({**ROW, "bytes": 18e9}, LIMITS)["contestants"][0]  # 6 ms for the bytes
    assert many["of_roofline"] == many["of_copy"] == pytest.approx(6 / 8)
    few = measure.placed({**ROW, "dtype": "int8"}, LIMITS)["contestants"][0]  # no limit is known for these
    assert few["of_product"] is None and few["of_roofline"] == pytest.approx(1e9 / 3e9 / 8)
    limits = {**LIMITS, "float32": {"tflop_per_s": 50.0, "by": "torch.matmul"}}
    for op, share in (("eight_bit", 500 / 800), ("quantize", 500 / 800), ("matmul", 500 / 50)):
        exact = measure.placed({**ROW, "op": op, "dtype": "float32"}, limits)["contestants"][0]
        assert exact["of_product"] == exact["of_roofline"] == pytest.approx(share)


def test_the_limits_are_the_fastest_products_and_a_copy_there_and_back(monkeypatch):
    asked, times = {}, {"rung 9": 4.0, "torch.matmul": 2.0, "another": 3.0}

    def measured(problem, clock, source, torch, *, rungs, rounds):
        asked[problem.dtype] = list(rungs)
        return {"contestants": [{"name": "none", "failed": ""}, *({"name": n, "cold_ms": t} for n, t in times.items())]}

    monkeypatch.setattr(measure, "measure", measured)
    monkeypatch.setattr(
        measure, "race", lambda clock, contestants, rounds: {name: {"cold_ms": 0.5} for name in contestants}
    )
    found = measure.limits(None, Nothing(), None, size=64)
    assert asked == {"bf16": [4], "tf32": [3], "float32": [2]}  # those after these are not yet measured
    for dtype in asked:
        assert found[dtype] == {"tflop_per_s": pytest.approx(2 * 64**3 / 2e-3 / 1e12), "by": "torch.matmul"}
    assert found["copy"]["gb_per_s"] == pytest.approx(2 * 4 * (32 * 64 * 64 // 8) / 0.5e-3 / 1e9)


def test_only_what_is_right_is_timed_and_the_rest_is_said(monkeypatch):
    def run(device, inputs, rung):
        if rung == 4:
            raise MemoryError("too large")
        return np.full(3, float(rung))

    def check(inputs, result, rung):
        yield problem_module.Expected("y", result, np.full(3, 2.0 if rung == 2 else 1.0), 0.5)

    def broken(torch, inputs):
        raise RuntimeError("none for this")

    torch = SimpleNamespace(
        backends=SimpleNamespace(cuda=SimpleNamespace(matmul=SimpleNamespace()), cudnn=SimpleNamespace())
    )
    torch.cuda = SimpleNamespace(empty_cache=lambda: None)
    settings, raced = [], []

    def race(clock, contestants, rounds):
        raced.extend(contestants)
        backends = torch.backends
        settings.append((backends.cuda.matmul.allow_tf32, backends.cudnn.allow_tf32, backends.cudnn.benchmark))
        return {name: {"cold_ms": 1.0} for name in contestants}

    monkeypatch.setattr(measure, "race", race)
    rungs = {1: "1.cu", 2: "2.cu", 3: "3.cu", 4: "4.cu", 5: "5.cu"}
    able = {1: "1.cu", 2: "beside.cu", 3: "3.cu", 4: "4.cu"}
    monkeypatch.setattr(measure, "rungs_that_can", lambda problem, architecture: (able, {5: "takes 4.cu"}))
    monkeypatch.setattr(stamps, "stamp", lambda problem, rung, architecture: f"{rung} on {architecture}")
    source = SimpleNamespace(device=SimpleNamespace(architecture="90a"), xp=cupy_on_cpu.module)
    for dtype in ("tf32", "float32"):
        listed = [("fast", lambda torch, inputs: None), ("broken", broken)]
        problem = problem_module.Problem("matmul", "a", dtype, 6.0, 7.0, rungs, lambda s: {}, run, check, listed, 0.9)
        row = measure.measure(problem, None, source, torch, rungs=rungs)
    assert settings == [(True, True, True), (False, False, True)]
    assert raced == ["rung 1", "rung 2", "fast"] * 2 and (row["flop"], row["bytes"], row["goal"]) == (6.0, 7.0, 0.9)
    one, two, three, four, five, fast, failed = row["contestants"]
    assert one == {"name": "rung 1", "file": "1.cu", "checked": 3, "code": "1 on 90a", "cold_ms": 1.0}
    assert two["file"] == "beside.cu" and two["code"] == "2 on 90a"
    assert "y" in three["wrong"] and "cold_ms" not in three
    assert four == {"name": "rung 4", "file": "4.cu", "failed": "MemoryError: too large"}
    assert five == {"name": "rung 5", "file": "5.cu", "not run": "takes 4.cu"}
    assert fast == {"name": "fast", "peer": True, "cold_ms": 1.0}
    assert failed == {"name": "broken", "peer": True, "failed": "RuntimeError: none for this"}


def test_what_is_compiled_ahead_is_for_the_card_that_is_there(monkeypatch):
    wanted, rehearsed = [], []
    monkeypatch.setattr(launch, "compile_ahead", wanted.extend)
    monkeypatch.setattr(measure, "rehearse", lambda *asked: rehearsed.append(asked) or rehearse(*asked))
    problem = products.matmul(64, 64, 64, "bf16")
    assert measure.compile_ahead([problem, problem], "80") == len(wanted) > 0
    assert {(file.name, on) for file, on, _ in wanted} == {("3_mma.cu", "80")}
    assert rehearsed == [(problem, 3, "80")] * 2
    assert measure.compile_ahead([problem], "75") == 0


def test_what_tensor_cores_do_is_not_faster_than_their_roofline():
    shares = [
        c["of_roofline"]
        for r in pages.all_rows()
        if r["op"] in ("eight_bit", "quantize")
        for c in r["contestants"]
        if c.get("of_roofline")
    ]
    assert len(shares) > 10 and max(shares) < 1


def test_a_new_run_replaces_the_rows_that_it_measured(tmp_path):
    other = {**ROW, "problem": "4096 x 4096 x 4096"}
    first = {"conditions": CONDITIONS, "limits": LIMITS, "rows": [ROW, other]}
    again = {"conditions": {**CONDITIONS, "date": "2001-02-04"}, "limits": LIMITS, "rows": [{**ROW, "goal": 1}]}
    runs = pages.merged([first], again)
    file = tmp_path / "results" / "a.json"
    pages.write(file, runs)
    assert list(file.parent.iterdir()) == [file], "and no part of it beside it"
    rows = pages.rows_of(pages.read(file))
    assert [(r["problem"], r["date"], r["goal"]) for r in rows] == [
        (other["problem"], "2001-02-03", None),
        (ROW["problem"], "2001-02-04", 1),
    ]
    assert pages.merged([{**first, "rows": [ROW]}], again) == [again] and pages.read(tmp_path / "none.json") == []
    assert pages.file_of("NVIDIA H100 80GB HBM3").name == "gpu-nvidia-h100-80gb-hbm3.json"


def test_tables_stand_between_their_markers_and_say_what_was_not_measured():
    text = "before\n<!-- bench: matmul -->\nold\n<!-- bench end -->\nbetween\n<!-- bench: quantize -->\n<!-- bench end -->\nafter"
    rows = [{**measure.placed(ROW, LIMITS), **CONDITIONS}]
    page = ROOT / "matmul" / "README.md"
    got = pages.with_tables(text, WHOLE, rows, page)
    assert pages.with_tables(got, WHOLE, rows, page) == got and "\nold\n" not in got
    start, _, end = got.partition("between")
    assert start.startswith("before\n<!-- bench: matmul -->\n| rung | |") and end.endswith("after")
    assert "| 1 | [`1_naive.cu`](1_naive.cu): The product of two matrices as it is defined" in start
    assert "| 8192 x 8192 x 8192, bf16 | rung 3 | 8.000 | 7.000 | 1.0% | 500.0 | 125 | 62% | 1.60 |" in start
    assert "| 8192 x 8192 x 8192, bf16 | rung 4 | wrong |" in start and "A card, 2001-02-03" in start
    assert "| 8192 x 8192 x 8192, bf16 | none | failed |" in start
    assert "| 8192 x 8192 x 8192, bf16 | torch.matmul | 5.000 | 5.000 | 0.0% | 800.0 | 200 | 100% |  |" in start
    names = [line.split("|")[2].strip() for line in start.splitlines() if line.startswith("| 8192")]
    assert names == ["rung 3", "rung 4", "another", "none", "torch.matmul"]
    assert "(../README.md#tables)" in start and "\n## Tables\n" in (ROOT / "README.md").read_text()
    assert end.count(pages.NOT_YET) == 1, "of all of its rungs at once"
    remarked = {line.split("`")[1] for line in start.splitlines() if line.endswith(f". {pages.NOT_YET} |")}
    others = {"1_naive.cu", "2_tiled.cu", "3_split.cu", "4_split.cu", "5_multicast.cu"}
    assert remarked == others, "the row has 3_mma.cu, and 4_wgmma.cu, whose result was wrong"
    table = [line for line in start.splitlines() if line.startswith(("| 8192", "| problem"))]
    assert {line.count("|") for line in table} == {10}


def test_a_file_that_took_a_rungs_place_is_named_where_it_did():
    """Few rows of x have a kernel of their own, so the time of that row is not 2_tiled.cu's."""
    problem, beside = next(p for p in WHOLE if p.name == "int8 weights, 1 x 4096 x 4096"), eight_bit_cuda.FEW_ROWS
    assert rungs_that_can(problem)[0][2] == beside and problem.rungs[2] != beside
    rung = {**ROW["contestants"][0], "name": "rung 2", "file": beside}
    row = {**ROW, "op": problem.op, "problem": problem.name, "dtype": problem.dtype, "contestants": [rung]}
    text = pages.table("eight_bit", WHOLE, [{**measure.placed(row, LIMITS), **CONDITIONS}], ROOT / "README.md")
    assert f"| {problem.name}, float32 | rung 2, `{beside}` † | 8.000 |" in text, "with another's stamp"
    listed = [line for line in text.splitlines() if line.startswith("| 2 |")]
    assert [beside in line for line in listed] == [True, False] and pages.NOT_YET not in listed[0]
    assert listed[1].endswith(f"{pages.NOT_YET} |"), "2_tiled.cu has not run in this row"


def test_the_committed_tables_are_those_of_the_committed_results():
    """After a new rung or a new result: python -m kernels.bench --tables."""
    rows = pages.all_rows()
    marked = [f for f in pages.readmes() if pages.MARKED.search(f.read_text(encoding="utf-8"))]
    tables = {m[2] for f in marked for m in pages.MARKED.finditer(f.read_text(encoding="utf-8"))}
    new = sorted({p.op for p in WHOLE} - tables)
    assert not new, (
        f"a page has no table of {', '.join(new)}: kernels/README.md needs <!-- bench: {new[0]} --> and <!-- bench end -->"
    )
    for file in marked:
        text = file.read_text(encoding="utf-8")
        assert pages.with_tables(text, WHOLE, rows, file) == text, f"{file}: python -m kernels.bench --tables"


def test_a_plot_shows_what_was_measured_and_only_that():
    rows = [{**measure.placed(ROW, LIMITS), **CONDITIONS}]
    svg = pages.plot("matmul", rows)
    assert svg.startswith("<svg") and svg == pages.plot("matmul", rows)
    for text in ("8192 x 8192 x 8192, bf16", "rung 3", "torch.matmul", "500", "A card"):
        assert text in svg
    assert "rung 4" not in svg and pages.plot("conv2d", rows) is None


def test_a_problem_is_told_by_its_format_and_rows_are_under_the_limits_of_their_run():
    float32, slower = {**ROW, "dtype": "float32"}, {**LIMITS, "copy": {"gb_per_s": 1000.0}}
    first = {"conditions": CONDITIONS, "limits": LIMITS, "rows": [ROW]}
    again = {"conditions": {**CONDITIONS, "date": "2001-02-04"}, "limits": slower, "rows": [float32]}
    rows = pages.rows_of(pages.merged([first], again))
    assert [(r["dtype"], r["date"]) for r in rows] == [("bf16", "2001-02-03"), ("float32", "2001-02-04")]
    assert [r["contestants"][0]["of_copy"] for r in rows] == pytest.approx([125 / 3000, 125 / 1000])


def test_rows_stand_in_the_order_of_the_list_and_a_plot_is_of_one_card(tmp_path, monkeypatch):
    sizes = [p.name for p in WHOLE if p.op == "matmul" and p.dtype == "bf16"]
    rows = [
        {**measure.placed({**ROW, "problem": size}, LIMITS), **CONDITIONS, "device": device}
        for device in ("A card", "B card")
        for size in reversed(sizes)
    ]
    lines = pages.table("matmul", WHOLE, rows, ROOT / "README.md").splitlines()
    assert [line.split(",")[0][2:] for line in lines if " rung 3 " in line] == [
        size for size in sizes for _ in range(2)
    ]
    monkeypatch.setattr(pages, "RESULTS", tmp_path)
    monkeypatch.setattr(
        pages, "plot", lambda op, rows: f"{op} {[r['device'] for r in rows]}" if op in ("matmul", "conv2d") else None
    )
    written, both = pages.write_plots(rows), [(card, op) for card in "AB" for op in ("matmul", "conv2d")]
    assert [f.name for f in written] == [f"gpu-{card.lower()}-card-{op}.svg" for card, op in both]
    assert [f.read_text() for f in written] == [f"{op} {[f'{card} card'] * len(sizes)}" for card, op in both]


def test_plots_have_a_colour_for_ours():
    svg = pages.plot("matmul", [{**measure.placed(ROW, LIMITS), **CONDITIONS}])
    assert svg.count(f"fill: {pages.OURS}") == 1 and svg.count(f"fill: {pages.PEER}") == 2


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """Results, tables and plots go to a folder of the test's."""
    readme = tmp_path / "README.md"
    readme.write_text("<!-- bench: quantize -->\n<!-- bench end -->\n")
    monkeypatch.setattr(pages, "RESULTS", tmp_path)
    monkeypatch.setattr(pages, "readmes", lambda: [readme])
    monkeypatch.setattr(bench, "gpu_problems", lambda: [products.quantize(40, 50, 20), companions.adam_step(50)])
    monkeypatch.setattr(bench, "load_torch", lambda name: torch if name == "torch" else None)
    monkeypatch.setattr(problem_module, "Source", small)
    monkeypatch.setattr(measure, "compile_ahead", lambda problems, architecture: len(problems))
    limits = measure.limits
    monkeypatch.setattr(measure, "limits", lambda *args: limits(*args, size=16))
    return tmp_path


@needs_compiler
def test_the_command_from_limits_to_pages(gpu, kept, capsys):
    assert bench.main(["--device", "cuda", "--record", "--rounds", "3"]) == 0
    out = capsys.readouterr().out
    assert (
        "device A card of paper; architecture 90a" in out and "cuda of the driver 13.1; runtime 13.0; nvrtc 13.0" in out
    )
    for limit in ("bf16", "tf32", "float32", "copy"):
        assert f"limit of {limit}: " in out
    assert out.count("ms cold") == len(products.quantize(4, 5, 6).rungs) + 2 + 2 and "ours over the best peer" in out
    (run,) = pages.read(kept / "gpu-a-card-of-paper.json")
    assert [r["op"] for r in run["rows"]] == ["quantize", "adam"] and set(run["limits"]) == {
        "bf16",
        "tf32",
        "float32",
        "copy",
    }
    assert run["conditions"]["torch"] == "0.0" and run["conditions"]["cudnn"] == "1"
    assert "cdist + argmin" in (kept / "README.md").read_text()
    assert (kept / "gpu-a-card-of-paper-quantize.svg").read_text().startswith("<svg")
    assert bench.main(["adam", "--rung", "1", "--peer", "none", "--json", str(kept / "one.json"), "--rounds", "3"]) == 0
    (run,) = pages.read(kept / "one.json")
    assert [c["name"] for r in run["rows"] for c in r["contestants"]] == ["rung 1"] and run["conditions"][
        "torch"
    ] is None
    assert bench.main(["--op", "quantize", "--rung", "none", "--json", str(kept / "one.json"), "--rounds", "3"]) == 0
    assert all(c["peer"] for c in pages.read(kept / "one.json")[0]["rows"][0]["contestants"])


@needs_compiler
def test_a_run_that_was_cut_off_goes_on(gpu, kept, capsys):
    assert bench.main(["--device", "cuda", "--record", "--rounds", "3", "--minutes", "0"]) == 0
    assert "the time is up: 2 problems were not begun" in capsys.readouterr().out
    assert bench.main(["adam", "--device", "cuda", "--record", "--rounds", "3"]) == 0
    capsys.readouterr()
    assert bench.main(["--device", "cuda", "--record", "--missing", "--rounds", "3", "--peer", "none"]) == 0
    out = capsys.readouterr().out
    assert "1 kernels compiled" in out and "\nquantize 40" in out and "\nadam" not in out
    first, second = pages.read(kept / "gpu-a-card-of-paper.json")
    assert first["conditions"]["torch"] == "0.0" and second["conditions"]["torch"] is None
    assert [r["op"] for run in (first, second) for r in run["rows"]] == ["adam", "quantize"]


def test_a_rung_that_was_never_measured_is_missing():
    problem = WHOLE[0]
    row = {"op": problem.op, "problem": problem.name, "dtype": problem.dtype}
    names = [{"name": f"rung {r}"} for r in problem.rungs]
    assert pages.without([], [problem]) == [problem]
    assert pages.without([{**row, "contestants": names}], [problem]) == []
    assert pages.without([{**row, "contestants": names[:-1]}], [problem]) == [problem]


def test_a_rung_that_has_changed_since_is_marked_and_missing():
    assert (WHOLE[0].op, WHOLE[0].name, WHOLE[0].dtype) == (ROW["op"], ROW["problem"], ROW["dtype"])
    names = [{"name": f"rung {r}"} for r in WHOLE[0].rungs if r != 3]
    rung, *others = ROW["contestants"]
    for code, changed in ((rung["code"], False), ({"sources": "0" * 16}, True), (None, True)):
        measured = {**{k: v for k, v in rung.items() if k != "code"}, **({"code": code} if code else {})}
        row = {**measure.placed({**ROW, "contestants": [measured, *others]}, LIMITS), **CONDITIONS}
        text = pages.table("matmul", WHOLE, [row], ROOT / "README.md")
        assert (f"rung 3{' †' * changed} | 8.000" in text) and text.count("†") == 2 * changed
        assert "torch.matmul | 5.000" in text and "rung 4 | wrong" in text
        row = {**row, "contestants": [measured, *names]}
        assert pages.without([row], WHOLE[:1]) == WHOLE[: int(changed)]


WIDE, TALL = "3x3 320->320 at 64x64, n 16", "3x3 640->640 at 32x32, n 16"
HEADLINES = {  # how a line of the README's table begins, and the rows whose ratios it shows, in order
    "attention forward": [("attention", f"n {n}", "bf16") for n in (
        "2, 16 heads, 8192 x 8192, d 128", "2, 16 heads, 8192 x 8192, d 128, causal", "32, 16 heads, 1024 x 1024, d 64",
        "16, 8 heads, 4096 x 4096, d 64",
    )],
    "attention to 77 keys": [("attention-short", "n 16, 8 heads, 4096 x 77, d 64", "bf16")],
    "convolution 3x3, 320": [(f"conv2d{part}", WIDE, "bf16") for part in ("", "-grad-x", "-grad-w")],
    "convolution 3x3, 640": [(f"conv2d{part}", TALL, "bf16") for part in ("", "-grad-x", "-grad-w")],
    "nearest code": [("quantize", "65536 vectors, 8192 codes, d 256", "float32")],
    "group norm + SiLU": [("norm-group", f"group norm + SiLU {n}, 32 groups, forward", "float32") for n in (
        "320 at 64x64, n 16", "128 at 32x32, n 64",
    )],
    "layer norm": [("norm-layer", f"layer norm 16384 x 1024, {part}", "float32") for part in ("forward", "gradients")],
    "Adam": [("adam", "100000000 parameters", "float32")],
    "codebook": [("codebook", "moving average of 8192 codes, 65536 vectors, d 256", "float32")],
    "matrix product": [("matmul", f"{n} x {n} x {n}", "bf16") for n in (8192, 4096)],
    "attention's gradients": [("attention-grad", f"n {n}", "bf16") for n in (
        "2, 16 heads, 8192 x 8192, d 128, causal", "32, 16 heads, 1024 x 1024, d 64",
    )],
    "guided DDIM": [
        ("sampler_step", "DDIM, guided, 64 x 196608", "float32"), ("cross_entropy", "16384 x 50257, with gradient", "float32"),
        ("embedding", "gradient of a table 50257 x 768, 32768 looked up", "float32"),
    ],
}  # fmt: skip


def test_the_readmes_ratios_are_those_of_the_committed_results():
    """And a line is marked where the fastest rung of one of its rows has changed since."""
    rows, problems = {pages.key(r): r for r in pages.all_rows()}, {(p.op, p.name, p.dtype): p for p in WHOLE}
    tables = []
    for page in ("README.md", "docs/figures.md"):
        text = (ROOT.parent / page).read_text(encoding="utf-8")
        (table,) = re.findall(r"^\| \| ratio \| goal \| \|\n\|[-|]+\n((?:\|.*\n)+)", text, re.MULTILINE)
        tables.append(table.splitlines())
    assert tables[0] == tables[1] and len(tables[0]) == len(HEADLINES)
    for line, (start, keys) in zip(tables[0], HEADLINES.items()):
        _, what, said, goal, *_ = line.split("|")
        assert what.strip().startswith(start)
        want = [rows[k]["ratio"] for k in keys]
        if start == "nearest code":  # to the peer that the goal is about, and in brackets to the fastest
            times = {c["name"]: c["cold_ms"] for c in rows[keys[0]]["contestants"] if "cold_ms" in c}
            want.insert(0, min(t for name, t in times.items() if name.startswith("rung")) / times["cdist + argmin"])
        assert re.findall(r"\b\d\.\d\d\b", said) == [f"{ratio:.2f}" for ratio in want], line
        assert not goal.strip() or float(goal) == rows[keys[0]]["goal"], line
        fastest = [
            min((c for c in rows[k]["contestants"] if "cold_ms" in c and not c.get("peer")), key=lambda c: c["cold_ms"])
            for k in keys
        ]
        changed = any(not stamps.is_here(c, problems[k], rows[k]["architecture"]) for c, k in zip(fastest, keys))
        assert (pages.CHANGED in what) == changed, line


def test_every_committed_time_of_ours_has_a_stamp():
    ours = [c for r in pages.all_rows() for c in r["contestants"] if "cold_ms" in c and not c.get("peer")]
    assert len(ours) > 100 and all(set(c["code"]) == {"sources", "nvrtc", "machine"} for c in ours)


@needs_compiler
def test_a_card_that_answers_nothing_more_ends_the_run(gpu, kept, capsys, monkeypatch):
    """And what was measured before is kept as it is."""
    assert bench.main(["adam", "--device", "cuda", "--record", "--rounds", "3"]) == 0
    kept_before = (kept / "gpu-a-card-of-paper.json").read_text()

    def lost(self):
        raise RuntimeError("cudaErrorIllegalAddress: an illegal memory access was encountered")

    limits = measure.limits
    monkeypatch.setattr(
        measure, "limits", lambda *args: (limits(*args), monkeypatch.setattr(measure.Clock, "wait", lost))[0]
    )
    assert bench.main(["--device", "cuda", "--record", "--rounds", "3"]) == 1
    assert "stopped, and 1 problems not begun: cudaErrorIllegalAddress" in capsys.readouterr().err
    assert (kept / "gpu-a-card-of-paper.json").read_text() == kept_before


@needs_nvrtc
def test_what_will_be_launched_is_compiled_before(monkeypatch, tmp_path):
    """The bench compiles on all cores at once what it will need."""
    monkeypatch.setenv("MINIGEN_CACHE", str(tmp_path))
    assert measure.compile_ahead([companions.adam_step(50), companions.quantize_numbers(9, 5, "int8")], "90a") == 2
    assert len(list(tmp_path.rglob("*.cubin"))) == 2


@needs_compiler
def test_a_wrong_rung_is_said_and_is_the_exit_status(gpu, kept, capsys, monkeypatch):
    right = quantize_cuda.nearest_code

    def wrong(device, z, codebook, *, rung):
        return right(device, z, codebook, rung=rung) + np.int64(rung == 2)

    monkeypatch.setattr(quantize_cuda, "nearest_code", wrong)
    assert bench.main(["quantize", "--device", "cuda", "--rounds", "3"]) == 1
    out = capsys.readouterr().out
    assert "rung 2                           wrong: " in out and "rung 1                            " in out


@pytest.mark.parametrize(
    ("contestant", "status", "said"),
    [
        ({"name": "rung 1", "wrong": "y is off"}, 1, "wrong: y is off"),
        ({"name": "rung 1", "failed": "MemoryError"}, 1, "failed: MemoryError"),
        ({"name": "rung 1", "not run": "takes 2.cu"}, 0, "not run: takes 2.cu"),
        ({"name": "none", "peer": True, "failed": "RuntimeError"}, 0, "failed: RuntimeError"),
    ],
)
def test_the_exit_status_is_of_our_rungs(contestant, status, said, capsys):
    row = measure.placed({**ROW, "contestants": [contestant, *ROW["contestants"][2:]]}, LIMITS)
    assert bench.print_row(row) == status and said in capsys.readouterr().out


@pytest.fixture
def rehearsed(gpu, kept, monkeypatch):
    """The command with two problems, each of which takes 45 seconds; the first is wrong."""
    now = [0.0]
    monkeypatch.setattr(bench, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(measure, "limits", lambda *_: LIMITS)

    def measured(problem, *_, **__):
        now[0] += 45
        contestants = ROW["contestants"][1:] if problem.op == "quantize" else ROW["contestants"][:1]
        return {**ROW, "op": problem.op, "problem": problem.name, "contestants": contestants}

    monkeypatch.setattr(measure, "measure", measured)


def test_one_wrong_rung_is_the_exit_status(rehearsed, capsys):
    assert bench.main(["--device", "cuda"]) == 1 and bench.main(["adam", "--device", "cuda"]) == 0


@pytest.mark.parametrize(("minutes", "begun"), [("0.5", 1), ("1", 2)])
def test_minutes_are_minutes(rehearsed, minutes, begun, capsys):
    bench.main(["--device", "cuda", "--minutes", minutes])
    out = capsys.readouterr().out
    assert [op for op in ("quantize", "adam") if f"\n{op} " in out] == ["quantize", "adam"][:begun]
    assert ("the time is up: 1 problems were not begun" in out) == (begun == 1)


def test_the_list_needs_no_gpu(capsys):
    assert bench.main(["--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(WHOLE) + len(bench.problems())
    assert any("cuda attention" in x and "4096 x 77" in x and "SDPA flash" in x and "bf16" in x for x in lines)
    assert bench.main(["matmul", "--list", "--device", "cuda", "--dtype", "float32"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and all("rungs: 1, 2, 3, 4  peers: torch.matmul" in x for x in lines)


def test_what_the_command_needs_is_one_sentence(capsys, monkeypatch):
    def none(name):
        raise ValueError("no GPU can be used: CuPy is not installed")

    monkeypatch.setattr("kernels.backend.module_for", none)
    assert bench.main(["matmul", "--rung", "all"]) == 2
    assert capsys.readouterr().err == (
        "error: the benchmark of the CUDA rungs needs a GPU, CuPy and NVRTC: no GPU can be used: CuPy is not installed\n"
    )
    for arguments, sentence in [
        (["--rung", "x"], "--rung must be a number, all or none, got 'x'"),
        (["--device", "cpu", "--rung", "2"], "--rung, --dtype, --record and --launches are for a GPU"),
        (["--device", "cuda", "--threads", "1"], "--threads and --fresh-memory are for the CPU"),
        (["--rounds", "0"], "--rounds and --threads must be at least 1"),
        (["--op", "nothing"], "unknown operation 'nothing'"),
    ]:
        with pytest.raises(SystemExit) as stopped:
            bench.main(arguments)
        assert stopped.value.code == 2 and sentence in capsys.readouterr().err


def test_without_a_gpu_the_command_is_the_cpu_s(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(bench, "gpu_can_be_used", lambda: False)
    monkeypatch.setattr(bench, "problems", lambda: [bench_problems._layer_norm(8, 16)])
    monkeypatch.setattr(bench, "measured_limits", lambda: {"gflop_per_s": 1.0, "gb_per_s": 1.0})
    monkeypatch.setattr(bench, "MINIMUM", 1e-4)
    assert bench.main(["norm", "--peer", "none", "--json", str(tmp_path / "cpu.json"), "--fresh-memory"]) == 0
    (row,) = json.loads((tmp_path / "cpu.json").read_text())["rows"]
    assert row["problem"] == "layer norm 8 x 16, with gradients" and row["ms"] > 0


# --- with torch itself ------------------------------------------------------------------------------------------------


@pytest.mark.peer
@pytest.mark.parametrize("problem", [p for p in named if p.values[0].dtype == "float32"])
def test_torch_itself_knows_what_the_peers_ask_for(problem):
    """On the CPU. That a way is not there for a CPU is no mistake of the peer's."""
    for _name, run in peers_of_torch_itself(problem, problem.make(Source(Emulator(), np, 1 << 12))):
        try:
            run()
        except (RuntimeError, NotImplementedError) as error:
            assert "TypeError" not in str(error)


def peers_of_torch_itself(problem, inputs):
    real = pytest.importorskip("torch")
    importlib.import_module("torch.nn.attention")
    theirs = peers.tensors(real, {k: v for k, v in inputs.items() if k != "device"})
    for name, make in problem.peers:
        yield name, lambda make=make: make(real, theirs)()


GRADIENTS = {  # all results of a peer whose results are gradients, brought to our layout
    "attention-grad": lambda *all_three: all_three,
    "norm-group": lambda dx, *others: (PIXELS(dx), *others),
    "norm-layer": lambda *all_three: all_three,
    "cross_entropy": lambda *both: both,
    "activation": lambda dx: (dx,),
    "embedding": lambda dw: (dw,),
    "conv2d-grad-x": lambda dx: (SAME["conv2d-grad-x"](dx),),
    "conv2d-grad-w": lambda dw: (SAME["conv2d-grad-w"](dw),),
}


def is_of_gradients(problem):
    return problem.dtype == "float32" and problem.op in GRADIENTS and "grad" in problem.title


@pytest.mark.peer
@pytest.mark.parametrize("problem", [p for p in named if is_of_gradients(p.values[0])])
def test_torch_itself_computes_our_gradients(problem, gpu):
    """The stand-in's are zeros, and a ratio of times would be of two things if ours were of another loss."""
    inputs = problem.make(small(gpu, gpu.xp))
    ours = problem.run(gpu, inputs, min(problem.rungs))
    ours = [y.on_host for y in (ours if isinstance(ours, tuple) else (ours,))]
    able = 0
    for name, run in peers_of_torch_itself(problem, problem.make(small(Emulator(), np))):
        try:
            got = on_host(run())
        except (RuntimeError, NotImplementedError):
            continue
        for mine, theirs in zip(ours, GRADIENTS[problem.op](*got), strict=True):
            np.testing.assert_allclose(theirs, mine, rtol=1e-4, atol=1e-4 * np.abs(mine).max(), err_msg=name)
        able += 1
    assert able


@pytest.mark.peer
def test_torch_itself_takes_our_step():
    """Adam's first, from moments of 0: with other settings the ratio would be of two things."""
    real, problem = pytest.importorskip("torch"), companions.adam_step(50)
    inputs = problem.make(small(Emulator(), np))
    p, g = (inputs[name].copy() for name in "pg")
    adam.reference.adam_step(
        p, g, np.zeros_like(p), np.zeros_like(p), step=1, lr=1e-4, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.01
    )
    ((_, make),) = problem.peers
    step = make(real, peers.tensors(real, {name: inputs[name] for name in "pgmv"}))
    step()
    (theirs,) = step.__self__.param_groups[0]["params"]
    moved = theirs.detach().numpy() - inputs["p"]
    np.testing.assert_allclose(moved, p - inputs["p"], rtol=0, atol=4e-7)
    assert abs(moved).min() > 5e-5


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--device", "cpu", "sampler_step"], "no CPU problem for sampler_step, see --list"),
        (["--device", "cpu", "norm", "sampler_step"], "no CPU problem for sampler_step, see --list"),
        (["--device", "cuda", "adam", "--dtype", "tf32"], "no GPU problem of tf32 for adam, see --list"),
        (["--device", "cpu", "--missing"], "--minutes and --missing are for a GPU"),
        (["--device", "cpu", "--minutes", "3"], "--minutes and --missing are for a GPU"),
        (["adam", "--rung", "9"], "no chosen problem has rung 9, they have 1"),
        (["--device", "cpu", "--json", "/nowhere/x.json"], "--json: there is no folder /nowhere"),
        (["--device", "cpu", "--json", "/"], "--json: / is a folder"),
    ],
)
def test_what_would_measure_nothing_or_keep_nothing_is_refused(arguments, sentence, capsys, monkeypatch):
    for name in ("run_on_cpu", "run_on_gpu"):
        monkeypatch.setattr(bench, name, lambda *_: pytest.fail("it was measured"))
    with pytest.raises(SystemExit) as stopped:
        bench.main(arguments)
    assert stopped.value.code == 2 and sentence in capsys.readouterr().err


def test_what_goes_on_with_a_run_is_for_a_gpu(capsys, monkeypatch):
    monkeypatch.setattr(bench, "run_on_gpu", lambda chosen, options: 7)
    assert bench.main(["--missing"]) == bench.main(["--minutes", "1"]) == 7
