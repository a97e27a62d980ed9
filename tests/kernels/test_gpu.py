"""What a GPU has to show: every rung right and, where arithmetic allows, with the emulator's bits; whole models on it.

The tests that are marked gpu need a card (`make gpu` has them in the order that tells the most first). Their bodies run
here too, on a stand-in for the card, so that what fails there is the card's or the kernel's and not the test's.
"""

from pathlib import Path
from types import SimpleNamespace

import beside
import numpy as np
import pytest
from beside import StandIn
from rungs import needs_compiler

from kernels import activation, companions, emulate, emulator, gradients, launch, random
from kernels.activation import cuda as activation_cuda
from kernels.emulator import Emulator
from kernels.gpu_bench.through_host import ThroughHost
from kernels.precision import precision
from kernels.random import cuda as random_cuda
from minigen import data
from minigen.cli import arguments, curriculum
from minigen.models import ddpm
from minigen.train.loop import Trainer

OPERATIONS = emulate.OPERATIONS
EVERY = [(op, rung) for op, (*_, rungs) in OPERATIONS.items() for rung in rungs]
# Sums of small whole numbers are exact however they are added up, and these three are made to have the same bits
# everywhere.
EXACT = ("matmul", "conv2d", "conv2d-grad", "quantize", "embedding", "random", "eight_bit")
# Of these, the rungs on tensor cores add up nothing by themselves but what those have added up.
OF_TENSOR_CORES = ("matmul", "matmul-float32", "conv2d", "conv2d-float32", "conv2d-grad", "conv2d-grad-float32")
SECOND = {  # sizes that are larger than a block's, or odd, for a card
    "attention": (2, 3, 300, 64), "attention-short": (2, 3, 300, 77, 64), "attention-grad": (1, 2, 150, 130, 64), "conv2d": (3, 17, 16, 72), "conv2d-grad": (3, 17, 16, 72, 1),
    "matmul": (300, 1100, 200), "quantize": (500, 700, 64), "random": (7, 1001), "group_norm": (3, 400, 4, 8),
    "layer_norm": (300, 1024), "cross_entropy": (50, 5000), "activation": (100_003,), "adam": (100_003,),
    "sampler_step": (7, 1001), "embedding": (3000, 500, 33), "codebook": (3000, 500, 33), "gather": (3000, 500, 33), "eight_bit": (130, 256, 136),
}  # fmt: skip


def cards():
    """The card of this machine and, without one, another emulator that must agree with the first."""
    return [pytest.param("stand-in", marks=needs_compiler), pytest.param("gpu", marks=pytest.mark.gpu)]


@pytest.fixture(params=cards())
def card(request):
    if request.param == "stand-in":
        return ThroughHost(StandIn(), np)
    gpu = launch.Device()
    return ThroughHost(gpu, gpu.xp)


every_rung = pytest.mark.parametrize(("op", "rung"), EVERY, ids=lambda x: str(x))


def can_run(device, run, rung):
    """Whether the rung takes these sizes and is for this card."""
    try:
        run(device, rung)
    except (ValueError, launch.NoCuda) as error:
        assert isinstance(error, launch.NoCuda) or f"rung {rung}" in str(error)
        return False
    return True


@every_rung
def test_every_rung_is_right(op, rung, card):
    """Against the definition in float64, within the error that the arithmetic allows (kernels/compare.py)."""
    make, _, sizes, _ = OPERATIONS[op]
    on_gpu = not isinstance(card.device, StandIn)
    for some in (sizes, SECOND.get(op, sizes)) if on_gpu else (sizes,):
        if can_run(card, make(*some), rung):
            assert card.ran
        card.check()


def whole(*shapes):
    rng = np.random.default_rng(0)
    return [rng.integers(-3, 4, shape).astype(np.float32) for shape in shapes]


def heard(device, run, rung):
    """What a problem's results are: all that it has something to say about."""
    results = []
    device.expect = lambda array, *_: results.append(np.array(array))
    return results if can_run(device, run, rung) else None


def check_same_bits(ours, theirs):
    assert ours and len(ours) == len(theirs)
    for a, b in zip(ours, theirs):
        assert a.dtype == b.dtype and a.tobytes() == b.tobytes()


@pytest.mark.parametrize(("op", "rung"), [(op, r) for op, r in EVERY if op in EXACT], ids=lambda x: str(x))
def test_the_bits_are_the_emulators(op, rung, card, monkeypatch):
    for module in (emulate, companions, gradients):
        monkeypatch.setattr(module, "normals", whole)
    make, _, sizes, _ = OPERATIONS[op]
    run = make(*sizes)
    ours, theirs = heard(Emulator(), run, rung), heard(card, run, rung)
    if theirs is None:
        return  # not for this card
    check_same_bits(ours, theirs)


@pytest.mark.parametrize(
    ("op", "rung"), [(op, r) for op, r in EVERY if op in OF_TENSOR_CORES and r > 2], ids=lambda x: str(x)
)
def test_the_bits_of_any_numbers_on_tensor_cores_are_the_emulators(op, rung, card):
    """Whose sums are those of the card: see test_tensor_core_sums.py."""
    make, _, sizes, _ = OPERATIONS[op]
    run = make(*sizes)
    theirs = heard(card, run, rung)
    if theirs is None:
        return  # not for this card
    ours = heard(Emulator(architecture=card.architecture), run, rung)
    check_same_bits(ours, theirs)


def test_second_sizes_are_of_operations_that_exist():
    assert SECOND.keys() <= OPERATIONS.keys() and all(len(SECOND[op]) == len(OPERATIONS[op][2]) for op in SECOND)
    assert OPERATIONS.keys() > set(EXACT) | set(OF_TENSOR_CORES)


# --- the ways to a card, tried on the stand-in ------------------------------------------------------------------------


class Off(StandIn):
    """A card whose results are one more than they should be."""

    def run(self, *args, **settings):
        super().run(*args, **settings)
        args[4]["y"][...] += 1


@needs_compiler
def test_beside_the_emulator_the_cards_results_count(monkeypatch):
    x = np.linspace(-3, 3, 100, dtype=np.float32)
    want = activation_cuda.silu(Emulator(), x)
    monkeypatch.setattr(beside, "COMPARED", {})
    for card, more in ((StandIn(), 0), (Off(), 1)):
        monkeypatch.setattr(beside.Beside, "card", card)
        np.testing.assert_array_equal(activation_cuda.silu(beside.Beside(), x), want + np.float32(more))
    (line,) = list(beside.report())[1:]
    assert line.startswith(
        "  activation/1_fours.cu: silu: 2, 1, 3."
    )  # one of two with the same bits, the other off by 1 / 3


@needs_compiler
def test_what_the_emulator_finds_fault_with_does_not_reach_the_card(monkeypatch):
    planted = Path(emulator.__file__).parent / "planted.cu"
    monkeypatch.setattr(beside.Beside, "card", Off())
    for kernel in ("one_too_many", "clean"):
        device = beside.Beside(0, most_accesses=20_000)
        y, (x,) = device.empty((128,), np.float32), whole((128,))
        device.run(planted, kernel, 2, 64, {"x": x, "y": y, "n": 128})
        assert bool(device.findings) == (kernel != "clean")
        if kernel == "clean":
            np.testing.assert_array_equal(y - 1, x.reshape(2, 64)[:, ::-1].reshape(-1))


@needs_compiler
def test_the_command_runs_on_a_card(capsys, monkeypatch):
    """As compute-sanitizer will run it."""
    chosen = []
    xp = SimpleNamespace(asarray=np.array, empty=np.empty, cuda=SimpleNamespace(set_allocator=chosen.append))
    monkeypatch.setattr(launch, "Device", lambda: Card)
    monkeypatch.setattr(launch, "nvrtc", lambda: None)
    Card = StandIn()
    Card.xp = xp
    for op, (make, names, sizes, rungs) in OPERATIONS.items():
        monkeypatch.setitem(OPERATIONS, op, (make, names, sizes, {min(rungs): rungs[min(rungs)]}))
    assert emulate.main(["all", "--device", "cuda", "--seeds", "1"]) == 0
    out = capsys.readouterr().out
    assert out.count("right, nothing found (1 runs on a GPU") == len(OPERATIONS) and chosen == [None]
    Off.xp = xp
    monkeypatch.setattr(launch, "Device", Off)
    assert emulate.main(["activation", "--device", "cuda", "--seeds", "1"]) == 1
    assert "wrong value" in capsys.readouterr().out


def test_the_command_says_what_it_needs(capsys, monkeypatch):
    def lacks():
        raise launch.NoCuda("no GPU can be used: CuPy is not installed")

    monkeypatch.setattr(launch, "Device", lacks)
    assert emulate.main(["all", "--device", "cuda"]) == 2
    assert capsys.readouterr().err == "error: no GPU can be used: CuPy is not installed\n"
    with pytest.raises(SystemExit):
        emulate.main(["all", "--shape", "1,2"])
    assert "--shape is for one operation" in capsys.readouterr().err


# --- the card itself --------------------------------------------------------------------------------------------------


@pytest.mark.gpu
def test_a_launch_goes_to_the_current_stream():
    device = launch.Device()
    xp = device.xp
    x = xp.asarray(np.linspace(-3, 3, 1 << 20, dtype=np.float32))
    stream = xp.cuda.Stream(non_blocking=True)
    with stream:
        begun, ended = xp.cuda.Event(), xp.cuda.Event()
        begun.record()
        for _ in range(20):
            y = activation_cuda.silu(device, x)
        ended.record()
    stream.synchronize()
    assert xp.cuda.get_elapsed_time(begun, ended) > 0
    np.testing.assert_allclose(y.get(), activation.silu(x.get()), rtol=1e-5, atol=1e-6)


@pytest.mark.gpu
def test_more_than_two_to_the_31_numbers():
    device = launch.Device()
    free, _ = device.xp.cuda.runtime.memGetInfo()
    n = 2**31 + 1000
    if free < 3 * 4 * n:
        pytest.skip("needs 26 GB of free memory")
    y = random_cuda.normal(device, (1, n), seed=3)
    want = random.normal((1, 1000), seed=3)
    np.testing.assert_array_equal(y[0, :1000].get(), want[0])
    z = activation_cuda.silu(device, y.reshape(-1))
    for part in (slice(0, 1000), slice(2**31 - 500, 2**31 + 500), slice(n - 1000, n)):
        np.testing.assert_allclose(z[part].get(), activation.silu(y[0, part].get()), rtol=1e-5, atol=1e-6)


# --- models -----------------------------------------------------------------------------------------------------------

# Of the losses of 100 steps. On a CPU, 16 roundings more in every weight move them by 5e-6, or in bf16 by 1.7e-3.
DRIFT = {"float32": 1e-4, "bf16": 1e-2}


def losses(device, steps):
    dataset = data.load("digits")
    settings = ddpm.Config(T=100, base=16, batch_size=16, steps=steps)
    trainer = Trainer(arguments.build(ddpm, settings, dataset, seed=0, device=device), seed=0)
    return np.array([trainer.advance(dataset.train)["eps.loss"] for _ in range(steps)])


@pytest.mark.gpu
@pytest.mark.parametrize("said", DRIFT)
def test_ddpm_follows_the_run_on_the_cpu(said):
    with precision(said):
        ours, theirs = losses("cpu", 100), losses("cuda", 100)
    drift = np.abs(ours - theirs) / ours
    print(f"largest drift of a loss: {drift[:10].max():.1e} in 10 steps, {drift.max():.1e} in 100")
    assert drift.max() <= DRIFT[said]


SYSTEMS = [e for e in curriculum.CURRICULUM if hasattr(curriculum.load(e), "build")]


@pytest.mark.gpu
@pytest.mark.parametrize("entry", SYSTEMS, ids=lambda e: e.name)
def test_every_model_trains_and_samples(entry):
    model = curriculum.load(entry)
    dataset = data.load(getattr(model, "DATA", "digits"))
    system = arguments.build(model, model.Config(batch_size=2), dataset, seed=0, device="cuda")
    trainer = Trainer(system, seed=0)
    for i in (i for i, stage in enumerate(trainer.stages) if stage.steps):
        trainer.enter(i)
        for _ in range(2):
            figures = trainer.advance(dataset.train)
        assert all(np.isfinite(value) for name, value in figures.items() if name.endswith("loss"))
    trainer.finish()
    assert all(launch.backend.is_cuda(a) for a in trainer.arrays().values())
    try:
        pictures = system.sample(2, rng=np.random.default_rng(0), steps=4)
    except ValueError:  # it does not sample in steps
        pictures = system.sample(2, rng=np.random.default_rng(0))
    assert len(pictures) == 2 and bool(np.isfinite(launch.backend.to_numpy(pictures)).all())
