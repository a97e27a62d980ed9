"""The loop as a function of (seed, step): what trains, what stays, and that a cut anywhere changes nothing."""

import dataclasses
from typing import Any

import numpy as np
import pytest

import autograd as ag
from kernels.compare import assert_close, bound
from minigen.data import load
from minigen.errors import NonFinite, UserError
from minigen.models.system import Objective, Stage, System
from minigen.nn import BatchNorm, Linear, Sequential
from minigen.train.loop import Trainer, put_weights, rng_for, weights_of
from tests.minigen.train import toy

DIGITS = load("digits")


def trainer(seed: int = 0, **settings: Any) -> Trainer:
    return Trainer(toy.build(toy.Config(**settings), DIGITS, seed=seed), seed=seed)


def copied(arrays: dict[str, Any]) -> dict[str, Any]:
    return {name: array.copy() for name, array in arrays.items()}


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


def test_draws_depend_on_seed_stage_objective_and_step_and_on_nothing_else():
    def draw(*key: Any) -> float:
        return rng_for(*key).random()

    keys = [(0, "a", "b", 0), (1, "a", "b", 0), (0, "b", "b", 0), (0, "a", "c", 0), (0, "a", "b", 1)]
    assert len({draw(*key) for key in keys}) == len(keys)
    assert [draw(*key) for key in keys] == [draw(*key) for key in reversed(keys)][::-1]


def test_training_lowers_the_loss():
    run = trainer(first_steps=60)
    losses = [run.advance(DIGITS.train)["square.loss"] for _ in range(60)]
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])


def test_figures_may_be_tensors_and_come_out_as_numbers():
    figures = trainer().advance(DIGITS.train)
    assert figures["square.twice"] == 2 * figures["square.loss"] and type(figures["square.twice"]) is float


def test_equal_seeds_give_equal_bits_and_other_seeds_do_not():
    runs = [trainer(seed) for seed in (0, 0, 1)]
    for run in runs:
        for _ in range(run.total):
            run.advance(DIGITS.train)
    assert same(runs[0].arrays(), runs[1].arrays())
    assert not same(runs[0].arrays(), runs[2].arrays())


def test_a_run_cut_after_any_step_ends_with_the_same_bits():
    """Every position, both stages, the hand-over between them included."""
    whole = trainer(steps=8, first_steps=4)
    cuts = [(dict(whole.position), copied(whole.arrays()))]
    for _ in range(whole.total):
        whole.advance(DIGITS.train)
        cuts.append((dict(whole.position), copied(whole.arrays())))
    for position, arrays in cuts:
        run = trainer(steps=8, first_steps=4)
        run.load(position, lambda expected, arrays=arrays: {name: arrays[name] for name in expected})
        while run.done < run.total:
            run.advance(DIGITS.train)
        assert same(run.arrays(), whole.arrays()), position


def test_sampling_on_the_way_changes_nothing():
    plain, watched = trainer(), trainer()
    for step in range(plain.total):
        plain.advance(DIGITS.train)
        watched.advance(DIGITS.train)
        if step % 7 == 0:
            with watched.averaged() as system:
                system.sample(2, rng=np.random.default_rng(step))
    assert same(plain.arrays(), watched.arrays())


def test_averaged_weights_are_the_moving_average_and_the_next_stage_starts_from_them():
    run = trainer(steps=2, first_steps=3, ema=0.5)
    average = run.system.modules["net"].flat.copy()
    for n in range(3):
        run.advance(DIGITS.train)
        d = min(0.5, (1 + n) / (10 + n))
        average = d * average + (1 - d) * run.system.modules["net"].flat
    allowed = bound(8, np.abs(average), np.float32)
    with run.averaged() as system:
        assert_close(system.modules["net"].flat, average, allowed)
        assert not system.modules["net"].norm.training
    assert run.system.modules["net"].norm.training
    assert not np.array_equal(run.system.modules["net"].flat, run.averages["net"])
    run._hand_over()
    assert run.position == {"stage": 1, "step": 0} and set(run.averages) == {"net", "critic"}
    assert_close(run.system.modules["net"].flat, average, allowed)
    assert np.array_equal(run.system.modules["net"].flat, run.averages["net"])
    run.advance(DIGITS.train)
    assert run.position == {"stage": 1, "step": 1}


def test_the_next_stage_begins_by_itself_with_the_averages():
    one, two = (trainer(steps=1, first_steps=3) for _ in range(2))
    for _ in range(3):
        one.advance(DIGITS.train)
        two.advance(DIGITS.train)
    one._hand_over()
    one.advance(DIGITS.train)
    two.advance(DIGITS.train)
    assert same(one.arrays(), two.arrays())


def test_without_ema_there_is_no_average():
    run = trainer(ema=0.0)
    run.advance(DIGITS.train)
    assert run.averages == {} and not any(name.startswith("average/") for name in run.arrays())
    raw = run.system.modules["net"].flat.copy()
    with run.averaged() as system:
        assert np.array_equal(system.modules["net"].flat, raw)


def test_an_objective_moves_its_own_module_and_nothing_else():
    run = trainer(first_steps=2)
    critic = run.system.modules["critic"].flat.copy()
    run.advance(DIGITS.train)
    assert np.array_equal(run.system.modules["critic"].flat, critic)
    assert all(p.requires_grad for m in run.system.modules.values() for p in m.parameters())


def two_player(record: list[Any]) -> System:
    """Two scalars a, b; a's loss is (a - b)^2, b's is (b - 2a)^2, in this order."""
    rng = np.random.default_rng(0)
    a, b = Linear(1, 1, bias=False, rng=rng), Linear(1, 1, bias=False, rng=rng)
    a.w.data[...], b.w.data[...] = 1.0, 3.0

    def loss_a(batch: Any, rng: Any, step: int) -> Any:
        record.append(("a", step, b.w.requires_grad))
        return ag.sum((a.w - b.w) ** 2), {}

    def loss_b(batch: Any, rng: Any, step: int) -> Any:
        record.append(("b", step, a.w.requires_grad))
        return ag.sum((b.w - a.w * 2.0) ** 2), {"b": float(b.w.data[0, 0])}

    def stages() -> list[Stage]:
        objectives = [Objective("a", a, loss_a), Objective("b", b, loss_b)]
        return [Stage("game", objectives, 2, 1, lr=0.25, optimiser="sgd", betas=(0.0, 0.0))]

    return System(None, "digits", (8, 8, 1), {"a": a, "b": b}, stages, lambda n, **_: None)


def test_objectives_are_taken_in_turn_each_seeing_the_one_before():
    """a: 1 -> 1 - .25 * 2 (1 - 3) = 2; then b: 3 -> 3 - .25 * 2 (3 - 4) = 3.5; then a: 2 -> 2.75; b: 3.5 -> 4.5."""
    record: list[Any] = []
    run = Trainer(two_player(record), seed=0)
    figures = run.advance(DIGITS.train)
    assert figures["a.loss"] == 4.0 and figures["b.loss"] == 1.0 and figures["a.norm"] == 4.0 and figures["b.b"] == 3.0
    assert (run.system.modules["a"].flat[0], run.system.modules["b"].flat[0]) == (2.0, 3.5)
    run.advance(DIGITS.train)
    assert (run.system.modules["a"].flat[0], run.system.modules["b"].flat[0]) == (2.75, 4.5)
    assert record == [("a", 0, False), ("b", 0, False), ("a", 1, False), ("b", 1, False)]


def test_a_step_is_as_long_as_the_stages_clipping_and_learning_rate_say():
    """a goes from 1 towards 3 with the gradient 2 (a - 3), clipped to length 0.5, times the rate of each step."""
    system = two_player([])
    (stage,) = system.stages()
    changes = {"steps": 6, "warmup": 2, "schedule": "flat-then-linear", "flat": 0.25, "max_norm": 0.5}
    stage = dataclasses.replace(stage, objectives=stage.objectives[:1], **changes)
    run = Trainer(dataclasses.replace(system, stages=lambda: [stage]), seed=0)
    a = 1.0
    for share in (1 / 2, 1, 1, 1, 2 / 3, 1 / 3):  # two steps of warm-up, then u = 0, 1/4, 2/4, 3/4
        figures = run.advance(DIGITS.train)
        assert figures["lr"] == pytest.approx(0.25 * share) and figures["a.norm"] == pytest.approx(2 * (3 - a))
        a += 0.25 * share * 0.5
        assert run.system.modules["a"].flat[0] == pytest.approx(a)


def test_an_objective_that_waits_moves_each_third_step_only_and_counts_its_own_steps():
    """Adam's first step has length lr whatever the gradient; the second is corrected as the second of b, not as the loop's fourth."""
    clipped = []
    system = two_player([])
    (stage,) = system.stages()
    a, b = stage.objectives
    b = dataclasses.replace(b, every=3, after=lambda: clipped.append(float(system.modules["b"].flat[0])))
    stage = dataclasses.replace(stage, objectives=[a, b], steps=7, optimiser="adam", betas=(0.5, 0.5))
    run = Trainer(dataclasses.replace(system, stages=lambda: [stage]), seed=0)
    seen, beside = [3.0], []
    for step in range(7):
        figures = run.advance(DIGITS.train)
        assert ("b.loss" in figures) == (step % 3 == 0)
        seen.append(float(system.modules["b"].flat[0]))
        beside.append(float(system.modules["a"].flat[0]))  # a has moved when b does
    assert seen[1] == pytest.approx(3.0 - 0.25) and seen[1] == seen[2] == seen[3] and seen[4] == seen[5] == seen[6]
    assert clipped == [seen[1], seen[4], seen[7]]
    first, second = (2 * (seen[k] - 2 * beside[k]) for k in (0, 3))
    m, v = 0.25 * first + 0.5 * second, 0.25 * first**2 + 0.5 * second**2
    assert seen[4] == pytest.approx(seen[3] - 0.25 * (m / 0.75) / (v / 0.75) ** 0.5, rel=1e-5)


@pytest.mark.parametrize(
    ("setting", "what"), [("poison", "the loss 'gen"), ("poison_gradient", "the gradient of the loss 'gen")]
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_numbers_that_are_none_stop_the_step_before_the_weights_see_them(setting: str, what: str):
    run = trainer(first_steps=2, **{setting: 3})
    for _ in range(5):
        run.advance(DIGITS.train)
    flat = run.system.modules["net"].flat.copy()
    with pytest.raises(NonFinite, match=f"^{what}erator' became (nan|inf) at step 6"):
        run.advance(DIGITS.train)
    assert np.array_equal(run.system.modules["net"].flat, flat) and run.done == 5
    assert all(p.requires_grad for m in run.system.modules.values() for p in m.parameters())


def with_a_loss_that_returns(found: Any) -> Trainer:
    """Of two players, the first of whom returns what ``found`` makes of the loss."""
    system = two_player([])
    (stage,) = system.stages()
    a, b = stage.objectives
    bad = dataclasses.replace(a, loss=lambda *args: found(a.loss(*args)[0]))
    stage = dataclasses.replace(stage, objectives=[bad, b])
    return Trainer(dataclasses.replace(system, stages=lambda: [stage]), seed=0)


@pytest.mark.parametrize(
    ("found", "got"),
    [
        (lambda loss: loss, "got Tensor"),
        (lambda loss: (loss,), "got 1 values"),
        (lambda loss: (loss, None), "got Tensor and NoneType"),
        (lambda loss: (1.0, {}), "got float and dict"),
        (lambda loss: (ag.reshape(loss, (1, 1)), {}), r"got a Tensor of shape \(1, 1\)"),
    ],
)
def test_a_loss_that_is_not_a_scalar_with_figures_is_told_by_its_name(found: Any, got: str):
    run = with_a_loss_that_returns(found)
    with pytest.raises(UserError, match=f"^the loss 'a' must return a scalar Tensor and a dict of figures, {got}$"):
        run.advance(DIGITS.train)


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (lambda loss: (loss, {"norm": 1.0}), "a figure of the loss 'a' is called 'norm', which the loop itself uses: rename it"),
        (lambda loss: (loss, {"loss": 1.0}), "a figure of the loss 'a' is called 'loss', which the loop itself uses: rename it"),
        (lambda loss: (loss, {"v": np.ones(3)}), "the figure 'v' of the loss 'a' must be a number, got an array of shape (3,)"),
        (lambda loss: (loss, {"v": "big"}), "the figure 'v' of the loss 'a' must be a number, got 'big'"),
        (lambda loss: (ag.Tensor(loss.data), {}), "the loss 'a' depends on no weight of the module that it trains"),
    ],
)  # fmt: skip
def test_a_loss_whose_figures_are_no_numbers_or_that_trains_nothing_is_told_by_its_name(found: Any, said: str):
    run = with_a_loss_that_returns(found)
    with pytest.raises(UserError) as told:
        run.advance(DIGITS.train)
    assert str(told.value) == said


@pytest.mark.parametrize(
    ("what", "said"),
    [
        (lambda s: {"stages": s.stages()}, "stages must be a function that returns a list of them, got list"),
        (lambda s: {"stages": lambda: s.stages()[0]}, "stages must be a function that returns a list of them, got Stage"),
        (lambda s: {"modules": list(s.modules.values())}, "modules must be a dict, name to module, got list"),
    ],
)  # fmt: skip
def test_a_system_whose_stages_or_modules_are_something_else_is_refused(what: Any, said: str):
    system = two_player([])
    with pytest.raises(ValueError) as told:
        Trainer(dataclasses.replace(system, **what(system)), seed=0)
    assert str(told.value) == said


def test_weights_go_out_and_in():
    one, two = trainer(seed=0).system, trainer(seed=1).system
    assert {name.split("/")[0] for name in weights_of(one)} == {"net", "critic"}
    put_weights(two, weights_of(one))
    assert same(weights_of(one), weights_of(two))


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"optimiser": "lion"}, "optimiser of the stage 'game' must be one of adamw, adam, muon, rmsprop, sgd, got 'lion'"),
    ({"schedule": "step"}, "schedule of the stage 'game' must be one of constant, linear, .*-cosine, got 'step'"),
    ({"flat": 1.0}, r"flat of the stage 'game' must be in \[0, 1\), got 1.0"),
    ({"betas": (1.0, 0.9)}, r"betas of the stage 'game' must be two numbers in \[0, 1\), got \(1.0, 0.9\)"),
    ({"betas": (0.9, -0.1)}, r"betas of the stage 'game' must be two numbers"),
    ({"betas": (0.9, float("nan"))}, r"betas of the stage 'game' must be two numbers"),
    ({"betas": (0.9,)}, r"betas of the stage 'game' must be two numbers in \[0, 1\), got \(0.9,\)"),
    *(
        (
            {"optimiser": name, "weight_decay": 0.5},
            f"weight_decay of the stage 'game' must be 0, got 0.5: .*'{name}' has",
        )
        for name in ("adam", "sgd", "rmsprop")
    ),
]  # of the optimiser and the schedule


@pytest.mark.parametrize(("change", "message"), WRONG)
def test_a_later_stage_is_checked_before_the_first_one_begins(change: dict[str, Any], message: str):
    system = two_player([])
    (stage,) = system.stages()
    stages = [dataclasses.replace(stage, name="before"), dataclasses.replace(stage, **change)]
    with pytest.raises(ValueError, match=message):
        Trainer(dataclasses.replace(system, stages=lambda: stages), seed=0)


@pytest.mark.parametrize("optimiser", ["adamw", "muon"])
def test_weight_decay_goes_with_the_optimisers_that_know_it(optimiser: str):
    system = two_player([])
    (stage,) = system.stages()
    stage = dataclasses.replace(stage, optimiser=optimiser, weight_decay=0.5)
    Trainer(dataclasses.replace(system, stages=lambda: [stage]), seed=0).advance(DIGITS.train)


@pytest.mark.parametrize("optimiser", ["adamw", "adam", "muon", "rmsprop", "sgd"])
@pytest.mark.parametrize("b", [3.0, 1.0])
def test_a_step_beyond_the_largest_number_gives_no_warning(optimiser: str, b: float):
    """To infinity, or, where the gradient is 0, to NaN."""
    system = two_player([])
    system.modules["b"].w.data[...] = b
    (stage,) = system.stages()
    stage = dataclasses.replace(stage, objectives=stage.objectives[:1], optimiser=optimiser, lr=1e40)
    run = Trainer(dataclasses.replace(system, stages=lambda: [stage]), seed=0)
    run.advance(DIGITS.train)
    assert not np.isfinite(run.system.modules["a"].flat).any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps of the stage 'game' must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size of the stage 'game' must be at least 1, got 0"),
        ({"lr": -1.0}, "lr of the stage 'game' must be at least 0, got -1.0"),
        ({"max_norm": float("nan")}, "max_norm of the stage 'game' must be at least 0, got nan"),
        ({"ema": 1.0}, "ema of the stage 'game' must be in"),
        ({"apart": "head"}, "apart of the stage 'game' must be a tuple of words, got the word 'head'"),
        ({"objectives": []}, "needs objectives with names of their own"),
        ({"objectives": "twice"}, "needs objectives with names of their own"),
        ({"objectives": "stranger"}, "must train one of the modules"),
        ({"objectives": "late"}, "an objective of the stage 'game' must have every = 1"),
        ({"objectives": "never"}, "an objective of the stage 'game' must have every = 1"),
    ],
)
def test_stages_that_cannot_be_trained_are_refused(change: dict[str, Any], message: str):
    system = two_player([])
    (stage,) = system.stages()
    first = stage.objectives[0]
    stranger = Objective("c", Linear(1, 1, rng=np.random.default_rng(0)), first.loss)
    late, never = (dataclasses.replace(first, every=every) for every in (2, 0))
    lists = {"twice": [first, first], "stranger": [stranger], "late": [late], "never": [never]}
    change = {name: lists.get(value, value) if isinstance(value, str) else value for name, value in change.items()}
    bad = dataclasses.replace(system, stages=lambda: [dataclasses.replace(stage, **change)])
    with pytest.raises(ValueError, match=message):
        Trainer(bad, seed=0)


def test_modules_that_share_a_parameter_are_refused():
    """It would be moved by neither: while one module trains, the others' parameters ask for no gradients."""
    system = two_player([])
    system.modules["b"].inner = system.modules["a"]
    with pytest.raises(ValueError, match=r"the modules 'a' and 'b' share 'inner\.w'"):
        Trainer(system, seed=0)


def test_weights_come_back_where_the_averages_cannot_be_put_in():
    system = two_player([])
    (stage,) = system.stages()
    run = Trainer(dataclasses.replace(system, stages=lambda: [dataclasses.replace(stage, ema=0.5)]), seed=0)
    run.advance(DIGITS.train)
    before = run.system.modules["a"].flat.copy()
    run.trained["b"].flat.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"), run.averaged():
        pass
    np.testing.assert_array_equal(run.system.modules["a"].flat, before)


def test_weights_come_back_where_sampling_is_broken_off_while_a_tape_holds_them():
    """As by Ctrl-C in a guide's gradient: the interrupt is told, not that the weights are read-only."""
    run = trainer()
    run.advance(DIGITS.train)
    before = run.system.modules["net"].flat.copy()
    with pytest.raises(KeyboardInterrupt), run.averaged() as system:
        net = system.modules["net"]
        held = net(np.ones((1, 64), np.float32))
        assert not net.flat.flags.writeable and not np.array_equal(net.flat, before)
        raise KeyboardInterrupt
    assert held.node is not None and np.array_equal(net.flat, before)


def test_a_module_that_is_not_trained_stays_in_evaluation_mode():
    """A teacher's batch norm: whether samples were drawn on the way must not decide what it says from there on."""
    system = two_player([])
    (stage,) = system.stages()
    a, teacher = system.modules["a"], Sequential(BatchNorm(64))  # which a stage before would have left in training mode

    def loss(batch: Any, rng: Any, step: int) -> Any:
        return ag.sum(a.w * ag.mean(teacher(DIGITS.scale(batch.images).reshape(len(batch), -1)))), {}

    stage = dataclasses.replace(stage, objectives=[Objective("a", a, loss)], batch_size=4)
    a.eval()
    system = dataclasses.replace(system, modules={"a": a, "teacher": teacher}, stages=lambda: [stage])
    run = Trainer(system, seed=0)
    with run.averaged():
        assert not a.training
    run.advance(DIGITS.train)
    assert a.training and not teacher.layers[0].training and not teacher.layers[0].running_mean.any()


def test_a_system_without_stages_is_refused():
    with pytest.raises(ValueError, match="at least one stage"):
        Trainer(dataclasses.replace(two_player([]), stages=lambda: []), seed=0)
