"""Classifier-free guidance: whose label is dropped and how often, exact guidance with known models, and the traps."""

import dataclasses

import numpy as np
import pytest
from mutants import mutant

import autograd as ag
from minigen.data import Dataset, Split, load
from minigen.maths import schedules
from minigen.maths.diffusion import eps_from_x_0
from minigen.models import classifier_free as cf

SMALL = {"base": 8, "heads": 1, "T": 30}
SCHEDULE = schedules.cosine(30)


@pytest.fixture(scope="module")
def digits():
    return load("digits")


def shaken(module, rng):
    """The module with numbers in every weight: zeros would hide what is behind them."""
    for p in module.parameters():
        p.data = p.data + 0.1 * rng.standard_normal(p.shape).astype(p.dtype)
    return module


# --- the loss ---------------------------------------------------------------------------------------------------------


def test_labels_are_dropped_where_it_is_said():
    y = np.array([3, 0, 9, 4])
    got = cf.without_labels(y, np.array([True, False, True, False]), 10)
    np.testing.assert_array_equal(got, [10, 0, 10, 4])
    np.testing.assert_array_equal(y, [3, 0, 9, 4])


def labels_seen(module=cf, p_uncond=0.1, batches=200, n=64):
    """The labels (batches, n) that a model is told in training, of pictures whose label is their index modulo 10."""
    seen, x_0, y = [], np.zeros((n, 1, 1, 1)), np.arange(n) % 10

    def model(x_t, t, told):
        seen.append(np.array(told))
        return x_t * 0

    for i in range(batches):
        module.training_loss(model, x_0, y, 10, p_uncond, SCHEDULE, np.random.default_rng(i))
    return np.stack(seen), y


def is_right(seen, y, p_uncond):
    """Labels are the picture's own or null; null as often as asked (6 sigma), and one sample apart from the other."""
    dropped = seen == 10
    rate = abs(dropped.mean() - p_uncond) < 6 * (p_uncond * (1 - p_uncond) / dropped.size) ** 0.5
    own = np.array_equal(np.where(dropped, y, seen), np.broadcast_to(y, seen.shape))
    expected = (
        seen.shape[1] * p_uncond * (1 - p_uncond)
    )  # variance of a batch's number of drops, if they are independent
    spread = dropped.sum(1).var(ddof=1) / expected
    return bool(rate and own and abs(spread - 1) < 6 * (2 / len(seen)) ** 0.5)


@pytest.mark.parametrize("p_uncond", [0.1, 0.5])
def test_cfg_algorithm_1_drops_labels_one_sample_at_a_time(p_uncond):
    assert is_right(*labels_seen(p_uncond=p_uncond), p_uncond)
    assert not np.any(labels_seen(p_uncond=0.0, batches=5)[0] == 10)
    assert np.all(labels_seen(p_uncond=1.0, batches=5)[0] == 10)


BUGS = {
    "per batch": ("rng.random(len(x_0)) < p_uncond", "np.full(len(x_0), rng.random() < p_uncond)"),
    "class 0 is null": ("np.where(dropped, null, y)", "np.where(dropped, 0, y)"),
    "the others are dropped": ("np.where(dropped, null, y)", "np.where(dropped, y, null)"),
    "in place": ("return np.where(dropped, null, y)", "y[dropped] = null\n    return y"),
    "half as often": ("< p_uncond, null)", "< 0.5 * p_uncond, null)"),
}


@pytest.mark.parametrize("bug", BUGS)
def test_the_check_of_drops_sees_planted_bugs(bug):
    module = mutant(cf, *BUGS[bug])
    assert not is_right(*labels_seen(module), 0.1)


def test_the_model_is_told_the_time_that_made_its_picture():
    """A reader of known pictures, one for each label, has no error; times run from 1 to T; a null label costs it."""
    pictures = np.linspace(-1, 1, 10).reshape(10, 1, 1, 1)
    y, seen = np.arange(600) % 10, []

    def reader(x_t, t, told):
        seen.append(t)
        return eps_from_x_0(x_t, t, np.concatenate([pictures, pictures[:1] * 0])[told], SCHEDULE)

    assert float(cf.training_loss(reader, pictures[y], y, 10, 0.0, SCHEDULE, np.random.default_rng(0))) < 1e-20
    assert set(seen[0].tolist()) == set(range(1, 31))
    assert float(cf.training_loss(reader, pictures[y], y, 10, 0.1, SCHEDULE, np.random.default_rng(0))) > 1e-3


def test_the_loss_differentiates(rng):
    (x_0, eps), w = rng.standard_normal((2, 2, 2, 2, 1)), rng.standard_normal(11)
    t, y = np.array([3, 30]), np.array([4, 10])

    def loss(w):
        def model(x_t, t, y):
            return x_t * ag.reshape(ag.embedding(ag.reshape(w, (11, 1)), y), (2, 1, 1, 1))

        return cf.conditional_loss(model, x_0, y, t, eps, SCHEDULE)

    ag.gradcheck(loss, [w], order=2)


def test_the_null_label_is_a_row_of_its_own_and_is_trained(digits):
    system = cf.build(cf.Config(**SMALL), digits, seed=0)
    model = system.modules["model"]
    assert model.null == 10 and model.embed.table.shape == (11, 32)
    assert model.count() == model.unet.count() + 11 * 32
    shaken(model, np.random.default_rng(0))
    batch = digits.train.take(slice(0, 64))
    loss, _ = system.stages()[0].objectives[0].loss(batch, np.random.default_rng(0), 0)
    loss.backward()
    assert np.all(np.abs(model.embed.table.grad).sum(1) > 0)
    x, t = np.ones((2, 8, 8, 1), np.float32), np.array([5, 5])
    with ag.no_grad():
        a, b = (model(x, t, np.array(y)).data for y in ([3, 10], [3, 0]))
    np.testing.assert_array_equal(a[0], b[0])
    assert np.any(a[1] != b[1])


def test_training_is_algorithm_1_of_pictures_from_minus_1_to_1_with_their_own_labels(digits):
    """The stage's loss from its parts, with the draws of the same rng; other labels give another value."""
    system, batch = cf.build(cf.Config(**SMALL, p_uncond=0.5), digits, seed=0), digits.train.take(slice(0, 12))
    model = shaken(system.modules["model"], np.random.default_rng(0))
    got = float(system.stages()[0].objectives[0].loss(batch, np.random.default_rng(0), 0)[0])
    rng, x_0 = np.random.default_rng(0), batch.images / 8.0 - 1
    dropped, t = rng.random(12) < 0.5, rng.integers(1, 31, 12)
    assert 3 < dropped.sum() < 9
    eps, a = rng.standard_normal(x_0.shape), SCHEDULE.alpha_bar[t].reshape(-1, 1, 1, 1)
    x_t = (a**0.5 * x_0 + (1 - a) ** 0.5 * eps).astype(np.float32)
    for y in (batch.labels, np.roll(batch.labels, 1)):
        want = np.square(ag.raw(model(x_t, t, np.where(dropped, 10, y))) - eps).mean()
        assert (got == pytest.approx(want, rel=1e-5)) == (y is batch.labels)


# --- sampling ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def system(digits):
    """A system with numbers in every weight."""
    system = cf.build(cf.Config(**SMALL, sample_steps=4), digits, seed=0)
    shaken(system.modules["model"], np.random.default_rng(0))
    return system


def drawn(system, n=12, seed=0, **settings):
    return system.sample(n, rng=np.random.default_rng(seed), **settings)


def by_hand(system, scale, null=10, n=12, steps=4):
    """DDIM written out, eq. 6 with w = s - 1, two calls a step, x_0 clipped after guidance."""
    model, grid = system.modules["model"], schedules.spaced(SCHEDULE, steps)
    x, y = np.random.default_rng(0).standard_normal((n, 8, 8, 1)).astype(np.float32), np.arange(n) % 10
    for t in range(steps, 0, -1):
        a, before, times = grid.alpha_bar[t], grid.alpha_bar[t - 1], np.full(n, grid.times[t])
        with ag.no_grad():
            c, u = model(x, times, y).data, model(x, times, np.full(n, null)).data
        eps = scale * c - (scale - 1) * u
        x_0 = np.clip((x - (1 - a) ** 0.5 * eps) / a**0.5, -1, 1)
        eps = (x - a**0.5 * x_0) / (1 - a) ** 0.5
        x = (before**0.5 * x_0 + (1 - before) ** 0.5 * eps).astype(np.float32)
    return x


@pytest.mark.parametrize("scale", [0.0, 1.0, 3.0])
def test_cfg_eq6_in_a_whole_walk(system, scale):
    np.testing.assert_allclose(drawn(system, sampler="ddim", scale=scale), by_hand(system, scale), atol=2e-4)


def test_away_from_takes_the_place_of_the_null_label(system):
    got = drawn(system, sampler="ddim", scale=3.0, away_from=4)
    np.testing.assert_allclose(got, by_hand(system, 3.0, null=4), atol=2e-4)
    assert np.abs(got - drawn(system, sampler="ddim", scale=3.0)).max() > 0.01


def asked_of(system, monkeypatch, **settings):
    """Labels of every call of the network."""
    model, calls = system.modules["model"], []
    forward = type(model).forward

    def spy(self, x_t, t, y, **more):
        calls.append(np.array(y).tolist())
        return forward(self, x_t, t, y, **more)

    monkeypatch.setattr(type(model), "forward", spy)
    x = drawn(system, n=3, **settings)
    monkeypatch.setattr(type(model), "forward", forward)
    return x, calls


def test_scales_1_and_0_ask_one_model_alone(system, monkeypatch):
    """s = 1 is the conditional model bit for bit: the same calls as without guidance; s = 0 never shows a label."""
    x, calls = asked_of(system, monkeypatch, scale=1.0)
    assert calls == [[0, 1, 2]] * 4
    model = system.modules["model"]
    x_T = np.random.default_rng(0)
    noise = x_T.standard_normal((3, 8, 8, 1)).astype(np.float32)
    plain = cf.sampling.draw(model, noise, SCHEDULE, steps=4, rng=x_T, cond=np.arange(3))
    np.testing.assert_array_equal(x, plain)
    x, calls = asked_of(system, monkeypatch, scale=0.0)
    assert calls == [[10, 10, 10]] * 4
    np.testing.assert_array_equal(x, asked_of(system, monkeypatch, scale=0.0, rescale=0.7)[0])
    with pytest.raises(
        ValueError, match="label goes with guidance: with scale 0 the model draws whatever it likes, got 7"
    ):
        asked_of(system, monkeypatch, scale=0.0, label=7)
    assert system.notes(x, scale=0.0) == [] and len(system.notes(x, label=7)) == 3
    _, calls = asked_of(system, monkeypatch, scale=2.0, label=7)
    assert calls == [[7, 7, 7, 10, 10, 10]] * 4


class Classes:
    """Two classes N(m_k, s^2) of unequal shares, in place of the network: labels 0, 1, and 2 = null."""

    means, shares, std, null = np.array([0.5, -0.6]), np.array([0.3, 0.7]), 0.3, 2

    def __call__(self, x, t, y):
        a = SCHEDULE.alpha_bar_at(t).reshape(-1, 1)
        variance = a * self.std**2 + 1 - a
        both = np.stack([(x - a**0.5 * m) / variance for m in self.means])  # - score of each class
        log = -0.5 * both**2 * variance + np.log(self.shares)[:, None, None]
        p = np.exp(log - log.max(0))
        mixed = (p / p.sum(0) * both).sum(0)
        return (1 - a) ** 0.5 * np.where((y == 2)[:, None], mixed, np.where((y == 0)[:, None], both[0], both[1]))


def test_guidance_of_known_models_is_bayes_rule_to_the_power_s():
    """eps(c) - eps() is minus the noise times the gradient of ln p(c | x_t), at every scale."""
    model, x = Classes(), np.linspace(-2, 2, 9)[:, None]
    t, h = np.full(9, 12), 1e-5
    a = SCHEDULE.alpha_bar[12]

    def log_posterior(x):
        log = -((x - a**0.5 * model.means) ** 2) / (2 * (a * model.std**2 + 1 - a)) + np.log(model.shares)
        return log[:, 0] - np.logaddexp(log[:, 0], log[:, 1])

    slope = (log_posterior(x + h) - log_posterior(x - h)) / (2 * h)
    for s in (0.5, 1.0, 4.0):
        guided = cf.classifier_free(model, s, model.null)(x, t, np.zeros(9, int))
        want = model(x, t, np.full(9, 2))[:, 0] - (1 - a) ** 0.5 * s * slope
        np.testing.assert_allclose(guided[:, 0], want, atol=1e-7)


def test_guided_samples_of_known_models_are_of_their_class_and_narrower():
    model, n = Classes(), 4000
    x_T, y = np.random.default_rng(0).standard_normal((n, 1)), np.zeros(n, int)
    ends = {}
    for s in (0.0, 1.0, 3.0):
        guided = cf.classifier_free(model, s, model.null)
        ends[s] = cf.sampling.draw(
            guided, x_T, SCHEDULE, steps=30, rng=np.random.default_rng(1), cond=y, clip=None, sampler="ddim"
        )
    assert abs(np.mean(ends[0.0] > 0) - 0.3) < 6 * (0.21 / n) ** 0.5 + 0.05, "no label: both classes by their shares"
    assert abs(ends[1.0].mean() - 0.5) < 0.03 and abs(ends[1.0].std() - 0.3) < 0.03
    assert ends[3.0].mean() > ends[1.0].mean() + 0.01 and ends[3.0].std() < ends[1.0].std()


def test_the_system_draws_classes_in_turn(system, digits):
    assert system.notes(np.zeros((12, 8, 8, 1))) == [*"012345678901"]
    for label in (0, 7, 9):
        assert system.notes(np.zeros((2, 8, 8, 1)), label=label, scale=2.0) == [str(label)] * 2
    times = []
    a = drawn(system, sampler="ddim", callback=lambda t, x: times.append(t))
    assert a.shape == (12, 8, 8, 1) and a.dtype == np.float32 and np.abs(a).max() <= 1 and times == [30, 23, 15, 8, 0]
    np.testing.assert_array_equal(a, drawn(system, sampler="ddim"))
    c = drawn(system, sampler="ddim", label=3)
    assert [np.allclose(a[i], c[i], atol=1e-4) for i in range(12)] == [i == 3 for i in range(12)]
    rows = system.pictures["scales"](digits.test, rng=np.random.default_rng(0))
    assert rows.shape == (len(cf.SCALES), 10, 8, 8, 1) and set(system.pictures) == set(cf.PICTURES)
    key = int(np.random.default_rng(0).integers(2**32))
    for i in (0, 3):  # every row begins with the same noise
        np.testing.assert_array_equal(rows[i], system.sample(10, rng=np.random.default_rng(key), scale=cf.SCALES[i]))


def test_figures(digits, monkeypatch):
    monkeypatch.setattr(cf, "as_asked", lambda dataset, images: len(images) / 1000)
    small = dataclasses.replace(digits, test=digits.test.take(slice(0, 20)))
    found = cf.build(cf.Config(**SMALL, sample_steps=1), digits, seed=0).figures(small, rng=np.random.default_rng(0))
    assert list(found.values())[2:] == [0.5, 0.5] and found["bound with labels, bits/dim"] > 0


def test_figures_are_the_bound_with_the_pictures_labels_and_with_the_null_label(digits, monkeypatch):
    """From their parts, with the draws of the same rng."""
    drawn = []
    monkeypatch.setattr(cf, "as_asked", lambda dataset, images: drawn.append(images) or 0.0)
    system = cf.build(cf.Config(**SMALL, sample_steps=1, variance="large"), digits, seed=0)
    small = dataclasses.replace(digits, test=digits.test.take(slice(0, 4)))
    model = shaken(system.modules["model"], np.random.default_rng(0))
    found, rng = system.figures(small, rng=np.random.default_rng(4)), np.random.default_rng(4)
    for what, y in (("with labels", small.test.labels), ("without", np.full(4, 10))):
        x_0, of_label = digits.scale(small.test.images), lambda x, t, y=y: model(x, t, y)
        bound = cf.variational_bound(of_label, x_0, SCHEDULE, 17, rng=rng, variance="large")
        assert found[f"bound {what}, bits/dim"] == pytest.approx(bound.total, rel=1e-6), what
    for images, scale in zip(drawn, (1.0, cf.Sampling.scale), strict=True):
        np.testing.assert_array_equal(images, system.sample(500, rng=rng, scale=scale))


def test_untrained_is_silent(digits):
    """The last convolution starts at zero: the first loss is that of guessing no noise, 1."""
    system = cf.build(cf.Config(**SMALL), digits, seed=0)
    batch = digits.train.take(slice(0, 64))
    loss, _ = system.stages()[0].objectives[0].loss(batch, np.random.default_rng(0), 0)
    assert float(loss) == pytest.approx(1, abs=6 * (2 / 64 / 64) ** 0.5)


def test_settings_that_do_not_fit_are_named(digits, system):
    unlabelled = Dataset("grey", *(Split(np.zeros((8, 8, 8, 1), np.uint8)) for _ in range(3)), 256, ())
    for config, dataset, message in [
        (cf.Config(), load("rings"), "'rings' holds no pictures"),
        (cf.Config(), unlabelled, "needs labels, and the data set 'grey' has none"),
        (
            cf.Config(p_uncond=1.5),
            digits,
            "p_uncond must be above 0, or the null label is never trained, and at most 1, got 1.5",
        ),
        (
            cf.Config(p_uncond=0.0),
            digits,
            "p_uncond must be above 0, or the null label is never trained, and at most 1, got 0.0",
        ),
    ]:
        with pytest.raises(ValueError, match=message):
            cf.build(config, dataset, seed=0)
    for settings, message in [
        ({"label": 10}, "label must be from 0 to 9, got 10"),
        ({"label": -1}, "label must be from 0 to 9, got -1"),
        ({"away_from": 12}, "away_from must be from 0 to 9, got 12"),
        ({"scale": float("inf")}, "scale must be finite"),
        ({"rescale": 2.0}, "rescale must be from 0 to 1, got 2.0"),
        ({"steps": 31}, "steps must be from 1 to 30"),
    ]:
        with pytest.raises(ValueError, match=message):
            drawn(system, n=2, **settings)
