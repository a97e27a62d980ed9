"""ADM: parts against their definitions, guidance with exact networks, and the traps that its file lists."""

import dataclasses
import itertools

import numpy as np
import pytest
from mutants import mutant

import autograd as ag
from kernels.adam import adam_step
from minigen.data import Dataset, Split, load, shift
from minigen.maths import schedules
from minigen.maths.diffusion import q_sample
from minigen.models import adm
from minigen.train.loop import Trainer

SMALL = {"base": 8, "channels_per_head": 4, "classifier_base": 8, "T": 30}


@pytest.fixture(scope="module")
def digits():
    return load("digits")


def shaken(module, rng, size=0.2):
    """The module with numbers in every weight: zeros would hide what is behind them."""
    for p in module.parameters():
        p.data = p.data + size * rng.standard_normal(p.shape).astype(p.dtype)
    return module


# --- networks ---------------------------------------------------------------------------------------------------------


def test_the_denoiser_returns_a_pair_and_starts_at_silence(rng):
    net = adm.Denoiser(3, 10, base=8, multipliers=(1, 2), blocks=1, attention=(0, 1), channels_per_head=4, rng=rng)
    x, t = rng.standard_normal((2, 4, 4, 3)).astype(np.float32), np.array([1, 9])
    with ag.no_grad():
        eps, v = net(x, t, np.array([3, 7]))
    assert eps.shape == v.shape == x.shape
    assert not eps.data.any() and np.all(v.data == 0.5), "no noise is guessed, and the variance is half-way (in logs)"
    shaken(net, rng)
    with ag.no_grad():
        whole = net.unet(x, t, net.embed(np.array([3, 7]))).data
        eps, v = net(x, t, np.array([3, 7]))
    np.testing.assert_array_equal(eps.data, whole[..., :3])
    np.testing.assert_array_equal(v.data, (whole[..., 3:] + 1) / 2)


def test_the_denoiser_heeds_labels_only_if_it_was_built_with_classes(rng):
    x, t = rng.standard_normal((2, 4, 4, 1)).astype(np.float32), np.array([3, 3])
    settings = {"multipliers": (1, 2), "attention": ()}
    for classes in (0, 10):
        net = shaken(adm.Denoiser(1, classes, base=8, channels_per_head=4, rng=rng, **settings), rng)
        with ag.no_grad():
            a, b = (net(x, t, np.array(y))[0].data for y in ([1, 5], [1, 6]))
        np.testing.assert_array_equal(a[0], b[0])
        assert np.any(a[1] != b[1]) == bool(classes)


def test_the_classifier_has_the_parts_it_should_and_starts_undecided(rng):
    net = adm.NoisyClassifier((8, 8, 1), 10, base=8, attention=(0, 1), channels_per_head=4, rng=rng)
    heads = [(m.attention.q.w.shape[0], m.attention.heads) for _, m in net.named_modules() if hasattr(m, "attention")]
    assert heads == [(8, 2), (16, 4), (16, 4), (16, 4)], "both levels, the middle, the pooling"

    def block(a, b):
        return 2 * (a + b) + 9 * a * b + b + 9 * b * b + b + 33 * 2 * b + (a * b + b if a != b else 0)

    def attention(c):
        return 4 * c * c + 4 * c

    time = (8 + 1) * 32 + (32 + 1) * 32
    down = block(8, 8) + attention(8) + 16 + block(8, 8) + block(8, 16) + attention(16) + 32
    middle, pool = block(16, 16) * 2 + attention(16) + 32, 17 * 16 + attention(16)
    assert net.count() == time + 9 * 8 + 8 + down + middle + 32 + pool + 17 * 10
    x = rng.standard_normal((3, 8, 8, 1)).astype(np.float32)
    with ag.no_grad():
        assert not net(x, np.array([1, 5, 30])).data.any()
        shaken(net, rng)
        logits, alone, later = (
            net(*a).data for a in ((x, np.array([1, 5, 30])), (x[1:2], np.array([5])), (x, np.array([1, 6, 30])))
        )
    np.testing.assert_allclose(alone[0], logits[1], rtol=1e-4, atol=1e-4, err_msg="samples do not meet")
    assert np.all((logits != later).any(1) == [False, True, False]), "each is told its own time"


def test_attention_pool_is_its_definition(rng):
    """One head, one query: the mean's; keys and values are the mean and the pixels, with positions."""
    pool = shaken(adm.AttentionPool(4, 6, 1, rng=rng), rng).astype(np.float64)
    x = rng.standard_normal((2, 2, 2, 6))
    rows = x.reshape(2, 4, 6)
    tokens = np.concatenate([rows.mean(1, keepdims=True), rows], 1) + pool.positions.data
    layer = pool.attention
    q = tokens[:, 0] @ layer.q.w.data + layer.q.b.data
    kv = tokens @ layer.kv.w.data + layer.kv.b.data
    weights = np.exp(np.einsum("nc,ntc->nt", q, kv[..., :6]) / 6**0.5)
    mixed = np.einsum("nt,ntc->nc", weights / weights.sum(1, keepdims=True), kv[..., 6:])
    np.testing.assert_allclose(pool(x).data, mixed @ layer.out.w.data + layer.out.b.data, rtol=1e-10)


def test_the_classifiers_gradient_is_right(rng):
    """What guidance stands on: d ln p(y | x_t) / d x_t through all of the classifier."""
    net = adm.NoisyClassifier((4, 4, 1), 3, base=4, attention=(1,), channels_per_head=4, groups=2, rng=rng)
    shaken(net, rng).astype(np.float64)
    t, y = np.array([2, 9]), np.array([0, 2])
    ag.gradcheck(lambda x: ag.sum(ag.cross_entropy(net(x, t), y)), [rng.standard_normal((2, 4, 4, 1))])


# --- losses -----------------------------------------------------------------------------------------------------------


def test_the_classifier_sees_the_t_that_made_x_t(rng):
    """A classifier that undoes the noise with the t it is told, and knows the two pictures, is never wrong."""
    schedule = schedules.cosine(50)
    y, t = rng.integers(0, 2, 400), rng.integers(1, 51, 400)
    x_0 = (2.0 * y - 1).reshape(-1, 1, 1, 1)
    eps = rng.standard_normal(x_0.shape)
    seen = []

    def reader(x_t, told):
        np.testing.assert_allclose(x_t, q_sample(x_0, told, eps, schedule))
        seen.append(told)
        return np.stack([-x_0.reshape(-1) * 50, x_0.reshape(-1) * 50], 1)

    loss, logits = adm.noisy_cross_entropy(reader, x_0, y, t, eps, schedule)
    assert float(loss) < 1e-12 and np.array_equal(seen[0], t) and logits.shape == (400, 2)
    told_nothing, _ = adm.noisy_cross_entropy(lambda x, t: np.zeros((400, 2)), x_0, y, t, eps, schedule)
    assert float(told_nothing) == pytest.approx(np.log(2)), "as many nats as there are classes, if nothing is known"


def test_the_losses_differentiate(rng):
    schedule = schedules.cosine(20)
    x_0, eps, a, b = rng.uniform(-1, 1, (4, 3, 2, 2, 1))
    y, t, w = np.array([0, 2, 1]), np.array([2, 9, 20]), rng.standard_normal((4, 3))
    ag.gradcheck(
        lambda w: adm.noisy_cross_entropy(lambda x, t: ag.reshape(x, (3, 4)) @ w, x_0, y, t, eps, schedule)[0], [w]
    )
    ag.gradcheck(lambda b: adm.hybrid_loss(lambda x, t, y: (a, b), x_0, y, t, eps, schedule, 17, lam=0.1), [b])


def test_the_denoisers_mean_learns_from_l_simple_alone(rng):
    """The bound's gradient goes to the variance, whatever its weight."""
    schedule, x_0, eps = schedules.cosine(20), *rng.uniform(-1, 1, (2, 3, 2, 2, 1))
    t = np.array([2, 9, 20])
    grads = []
    for lam in (0.0, 10.0):
        a, b = (ag.Tensor(np.full(x_0.shape, 0.3), requires_grad=True) for _ in range(2))
        adm.hybrid_loss(lambda x, t, y, a=a, b=b: (a, b), x_0, None, t, eps, schedule, 17, lam=lam).backward()
        grads.append((a.grad, b.grad))
    np.testing.assert_allclose(grads[0][0], grads[1][0], rtol=1e-12)
    np.testing.assert_allclose(grads[0][0], 2 * (0.3 - eps) / eps.size, rtol=1e-10)
    assert not np.any(grads[0][1]) and np.all(grads[1][1] != 0)


# --- guidance with exact networks -------------------------------------------------------------------------------------


class Oracles:
    """Data of two classes in two dimensions, N(m_k, s^2) with unequal shares: everything about $x_t$ is known."""

    means = np.array([[0.5, -0.2], [-0.4, 0.7]])
    shares = np.array([0.3, 0.7])

    def __init__(self, schedule, std=0.4):
        self.schedule, self.std, self.told = schedule, std, []

    def parts(self, t):
        a = self.schedule.alpha_bar_at(t)[:, None]
        return a**0.5, a * self.std**2 + 1 - a, (1 - a) ** 0.5

    def conditional(self, x, t, cond):
        """(eps, v) of the class ``cond``."""
        root, variance, noise = self.parts(t)
        return noise * (x - root * self.means[cond]) / variance, np.full(x.shape, 0.3)

    def logits(self, x, t):
        """ln p(x_t | y) + ln p(y) and a constant: the true classifier, on the tape."""
        self.told.append(np.array(t))
        root, variance, _ = self.parts(t)
        found = [ag.sum((x - root * m) * (x - root * m), 1) * (-0.5 / variance[:, 0]) + np.log(p)
                 for m, p in zip(self.means, self.shares)]  # fmt: skip
        return ag.stack(found, 1)

    def unconditional(self, x, t, cond=None):
        """(eps, v) of the mixture: the mean of the classes' eps under p(y | x_t)."""
        with ag.no_grad():
            logits = ag.raw(self.logits(x, t))
        self.told.pop()
        p = np.exp(logits - logits.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        both = [self.conditional(x, t, np.full(len(x), k))[0] for k in (0, 1)]
        return p[:, :1] * both[0] + p[:, 1:] * both[1], np.full(x.shape, 0.3)


SCHEDULE = schedules.cosine(60)
HOWS = [
    {},
    {"variance": "large"},
    {"sampler": "ddim"},
    {"sampler": "dpmpp-2m", "spacing": "karras"},
    {"sampler": "heun"},
]


def paths(guidance, scale=1.0, module=adm, denoiser=None, steps=12, n=40, **how):
    """All states of n samples, half of either class, and the end."""
    oracles, seen = Oracles(SCHEDULE), []
    x_T, y = np.random.default_rng(0).standard_normal((n, 2)), np.arange(n) % 2
    x_0 = module.draw(
        denoiser or oracles.unconditional,
        oracles.logits,
        x_T,
        SCHEDULE,
        steps=steps,
        rng=np.random.default_rng(1),
        y=y,
        guidance=guidance,
        scale=scale,
        clip=None,
        callback=lambda t, x: seen.append(np.array(x)),
        **how,
    )
    return np.stack([*seen, x_0]), oracles.told


@pytest.mark.parametrize("how", HOWS, ids=str)
def test_adm_algorithm_2_with_the_true_classifier_is_conditional_sampling(how):
    """Bayes' rule, at every state of every sampler: eps - sqrt(1 - abar) grad ln p(y | x_t) is the class's own eps."""
    guided, told = paths("classifier", **how)
    conditional, _ = paths("none", denoiser=Oracles(SCHEDULE).conditional, **how)
    np.testing.assert_allclose(guided, conditional, atol=1e-11)
    if how.get("spacing") != "karras" and how.get("sampler") != "heun":
        visited = set(schedules.uniform_times(60, 12).tolist())
        assert {float(t) for times in told for t in times} == visited, "the original times, not 1 to 12"


def test_adm_algorithm_1_moves_the_mean_by_the_variance_times_the_gradient():
    """One step, from the last level to the one below, at the mean and at x_t."""
    oracles, grid = Oracles(SCHEDULE), schedules.spaced(SCHEDULE, 2)
    x_T, y = np.random.default_rng(0).standard_normal((40, 2)), np.arange(40) % 2
    log_low, log_high = np.log(grid.beta_tilde[2]), np.log(grid.beta[2])
    variance = np.exp(0.3 * log_high + 0.7 * log_low)
    eps = oracles.unconditional(x_T, np.full(40, 60))[0]
    a, before = grid.alpha_bar[2], grid.alpha_bar[1]
    x_0 = (x_T - (1 - a) ** 0.5 * eps) / a**0.5
    mu = before**0.5 * grid.beta[2] / (1 - a) * x_0 + (a / before) ** 0.5 * (1 - before) / (1 - a) * x_T

    def gradient(x, time):
        x = ag.Tensor(x, requires_grad=True)
        log_p = -ag.cross_entropy(oracles.logits(x, np.full(40, time)), y)
        return ag.raw(ag.grad(ag.sum(log_p), x))

    noise = np.random.default_rng(1).standard_normal((40, 2))
    for guidance, pull in (("mean", gradient(mu, 30)), ("mean-at-x_t", gradient(x_T, 60))):
        states, _ = paths(guidance, scale=3.0, steps=2)
        np.testing.assert_allclose(states[1], mu + 3 * variance * pull + variance**0.5 * noise, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("guidance", ["mean", "mean-at-x_t"])
def test_adm_algorithm_1_nears_conditional_sampling_as_steps_grow(guidance):
    """The law is right to first order in the step: the gap to the class's mean shrinks with the number of steps."""
    gaps = []
    for steps in (15, 60):
        end = paths(guidance, steps=steps, n=2000)[0][-1]
        gaps.append(max(np.abs(end[k::2].mean(0) - Oracles.means[k]).max() for k in (0, 1)))
    assert gaps[1] < 6 * 0.4 / 1000**0.5 + 0.02 and gaps[1] < gaps[0] + 0.02


@pytest.mark.parametrize("guidance", ["classifier", "mean", "mean-at-x_t"])
def test_scale_0_is_no_guidance_bit_for_bit(guidance):
    np.testing.assert_array_equal(paths(guidance, scale=0.0)[0], paths("none")[0])


def test_a_larger_scale_is_surer():
    """Of the class's own mean no more than once: from scale 1 on, samples go beyond it, away from the other class."""
    towards = (Oracles.means[0] - Oracles.means[1]) / np.linalg.norm(Oracles.means[0] - Oracles.means[1])
    at = [(paths("classifier", scale=s)[0][-1][::2] @ towards).mean() for s in (0.0, 1.0, 4.0)]
    assert at[0] < at[1] < at[2]


BUGS = {
    "the gradient is subtracted": ("by_gradient(denoiser, label_log_p(classifier), schedule, scale)",
                                   "by_gradient(denoiser, label_log_p(classifier), schedule, -scale)"),
    "the wrong class": ("label_log_p(classifier)", "label_log_p(classifier, lambda y: 1 - y)"),
    "the classifier is told levels of the short chain": (
        "label_log_p(classifier)",
        "label_log_p(lambda x, t: classifier(x, -(-t * steps // schedule.T)))",
    ),
    "alpha bar of another chain": ("label_log_p(classifier), schedule, scale", "label_log_p(classifier), schedules.linear(60), scale"),
    "a scale that is forgotten": ("label_log_p(classifier), schedule, scale", "label_log_p(classifier), schedule, 2.0"),
}  # fmt: skip


@pytest.mark.parametrize("bug", BUGS)
def test_the_equality_sees_planted_bugs(bug):
    guided, _ = paths("classifier", module=mutant(adm, *BUGS[bug]))
    conditional, _ = paths("none", denoiser=Oracles(SCHEDULE).conditional)
    assert np.abs(guided - conditional).max() > 1e-3


# --- the system -------------------------------------------------------------------------------------------------------


def losses(module, digits, monkeypatch, calls=1):
    """What the two networks of a system are shown while it trains: (x_t, t) of the classifier and of the denoiser."""
    shown = {"classifier": [], "denoiser": []}
    for name, owner in (("classifier", module.NoisyClassifier), ("denoiser", module.Denoiser)):
        forward = owner.forward

        def spy(self, x_t, t, *rest, forward=forward, name=name, **more):
            shown[name].append((np.array(ag.raw(x_t)), np.array(t)))
            return forward(self, x_t, t, *rest, **more)

        monkeypatch.setattr(owner, "forward", spy)
    system = module.build(module.Config(**SMALL, classifier_shift=0.0, batch_size=256), digits, seed=0)
    batch = digits.train.take(slice(0, 256))
    for stage in system.stages():
        for i in range(calls):
            stage.objectives[0].loss(batch, np.random.default_rng(i), i)
    return shown, digits.scale(batch.images)


def noise_of(x_t, t, x_0):
    a = schedules.cosine(SMALL["T"]).alpha_bar[t].reshape(-1, 1, 1, 1)
    return (x_t - a**0.5 * x_0) / (1 - a) ** 0.5


def looks_noised(shown, x_0):
    """Whether x_t minus its picture, at the told time, is noise of variance 1 in every sample (64 pixels each)."""
    power = (noise_of(*shown, x_0) ** 2).mean((1, 2, 3))
    return bool(np.all(np.abs(power - 1) < 6 * (2 / 64) ** 0.5)) and abs(power.mean() - 1) < 6 * (2 / 64 / 256) ** 0.5


def test_both_networks_are_trained_on_noisy_pictures_with_their_own_times(digits, monkeypatch):
    shown, x_0 = losses(adm, digits, monkeypatch)
    for name in ("classifier", "denoiser"):
        assert looks_noised(shown[name][0], x_0), name
        assert set(shown[name][0][1].tolist()) == set(range(1, 31)), "every time, 1 to T"


@pytest.mark.parametrize(
    "old, new",
    [
        ("logits = classifier(q_sample(x_0, t, eps, schedule), t)", "logits = classifier(x_0, t)"),
        ("logits = classifier(q_sample(x_0, t, eps, schedule), t)", "logits = classifier(q_sample(x_0, t, eps, schedule), t[::-1])"),
        ("logits = classifier(q_sample(x_0, t, eps, schedule), t)", "logits = classifier(q_sample(x_0, t, 0 * eps, schedule), t)"),
    ],
)  # fmt: skip
def test_a_classifier_trained_on_something_else_is_seen(old, new, digits, monkeypatch):
    shown, x_0 = losses(mutant(adm, old, new), digits, monkeypatch)
    assert not looks_noised(shown["classifier"][0], x_0)


def test_each_network_is_told_the_labels_of_its_own_pictures(digits):
    """Both stages' losses from their parts, with the draws of the same rng; other labels give other values."""
    config = adm.Config(**SMALL, conditional=True, classifier_shift=0.7, classifier_dropout=0.0)
    system, batch = adm.build(config, digits, seed=0), digits.train.take(slice(0, 12))
    denoiser, classifier = (shaken(net, np.random.default_rng(1), 0.1) for net in system.modules.values())
    schedule = schedules.cosine(SMALL["T"])
    for stage, y in itertools.product(system.stages(), (batch.labels, np.roll(batch.labels, 1))):
        got, rng = float(stage.objectives[0].loss(batch, np.random.default_rng(5), 0)[0]), np.random.default_rng(5)
        images = batch.images if stage.name == "denoiser" else shift(batch.images, rng=rng, p=0.7)
        x_0 = digits.scale(images)
        t, eps = rng.integers(1, SMALL["T"] + 1, 12), rng.standard_normal(x_0.shape).astype(np.float32)
        if stage.name == "denoiser":
            want = float(adm.hybrid_loss(denoiser, x_0, y, t, eps, schedule, 17))
        else:
            log_p = ag.raw(ag.log_softmax(classifier(q_sample(x_0, t, eps, schedule), t)))
            want = -float(log_p[np.arange(12), y].mean())
        assert (got == pytest.approx(want, rel=1e-4)) == (y is batch.labels), stage.name


def test_two_stages_train_one_network_each(digits):
    config = adm.Config(**SMALL, steps=2, classifier_steps=2, batch_size=4, warmup=0)
    trainer = Trainer(adm.build(config, digits, seed=0), seed=0)
    assert trainer.total == 4 and set(trainer.system.modules) == {"denoiser", "classifier"}
    weights = {name: m.flat.copy() for name, m in trainer.system.modules.items()}
    for _ in range(2):
        trainer.advance(digits.train)
    assert np.any(weights["denoiser"] != trainer.system.modules["denoiser"].flat)
    np.testing.assert_array_equal(weights["classifier"], trainer.system.modules["classifier"].flat)
    figures = trainer.advance(digits.train)
    assert figures["classifier.loss"] == pytest.approx(np.log(10), abs=1e-5), "it starts undecided"
    kept = trainer.system.modules["denoiser"].flat.copy()
    trainer.advance(digits.train)
    np.testing.assert_array_equal(kept, trainer.system.modules["denoiser"].flat)


def test_the_classifier_overfits_one_batch(digits):
    system = adm.build(adm.Config(**SMALL, classifier_shift=0.0, classifier_dropout=0.0), digits, seed=0)
    net = system.modules["classifier"].flatten()
    batch = digits.train.take(slice(0, 16))
    loss_of = system.stages()[1].objectives[0].loss
    m, v = np.zeros_like(net.flat), np.zeros_like(net.flat)
    found = []
    for step in range(1, 61):
        net.zero_grad()
        loss, figures = loss_of(batch, np.random.default_rng(step % 2), step)
        loss.backward()
        adam_step(net.flat, net.flat_grad, m, v, step=step, lr=4e-3)
        found.append(float(loss))
    assert np.mean(found[-8:]) < 0.7 and 0 <= figures["right"] <= 1


def test_classes_in_turn_and_the_notes_say_so(digits):
    system = adm.build(adm.Config(**SMALL, sample_steps=2), digits, seed=0)
    assert system.notes(np.zeros((12, 8, 8, 1))) == [*"012345678901"]
    for label in (0, 7, 9):
        assert system.notes(np.zeros((2, 8, 8, 1)), label=label, scale=2.0) == [str(label)] * 2
    for unguided in ({"guidance": "none"}, {"scale": 0.0}):
        assert system.notes(np.zeros((2, 8, 8, 1)), **unguided) == []
    told = []
    classifier = system.modules["classifier"]
    shaken(classifier, np.random.default_rng(0))
    shaken(system.modules["denoiser"], np.random.default_rng(0), 0.1)
    a = system.sample(12, rng=np.random.default_rng(0), steps=4, sampler="ddim", callback=lambda t, x: told.append(t))
    assert a.shape == (12, 8, 8, 1) and a.dtype == np.float32 and np.abs(a).max() <= 1
    assert told == [30, 23, 15, 8, 0]
    b = system.sample(12, rng=np.random.default_rng(0), steps=4, sampler="ddim")
    np.testing.assert_array_equal(a, b)
    c = system.sample(12, rng=np.random.default_rng(0), steps=4, sampler="ddim", label=3)
    same = [np.allclose(a[i], c[i], atol=1e-5) for i in range(12)]
    assert same == [i == 3 for i in range(12)], "sample i of the turn is of class i"
    rows = system.pictures["scales"](digits.test, rng=np.random.default_rng(0))
    assert rows.shape == (len(adm.SCALES), 10, 8, 8, 1) and set(system.pictures) == set(adm.PICTURES)
    key = int(np.random.default_rng(0).integers(2**32))
    for i in (0, 3):  # every row begins with the same noise
        np.testing.assert_array_equal(rows[i], system.sample(10, rng=np.random.default_rng(key), scale=adm.SCALES[i]))


def test_an_untrained_classifier_pulls_nowhere(digits):
    system = adm.build(adm.Config(**SMALL), digits, seed=0)
    a, b = (system.sample(3, rng=np.random.default_rng(0), steps=3, guidance=g) for g in ("classifier", "none"))
    np.testing.assert_array_equal(a, b)


def test_figures_say_what_was_asked_for_and_came(digits, monkeypatch):
    monkeypatch.setattr(adm, "as_asked", lambda dataset, images: len(images) / 1000)
    small = dataclasses.replace(digits, test=digits.test.take(slice(0, 20)))
    system = adm.build(adm.Config(**SMALL, conditional=True, sample_steps=2), digits, seed=0)
    found = system.figures(small, rng=np.random.default_rng(0))
    assert found["samples of the asked class, by the ruler"] == 0.5
    assert found["classifier right at t = 1"] == np.mean(small.test.labels == 0), "logits of 0: the first class"
    assert found["bound, bits/dim"] > 0


def test_figures_are_of_noisy_test_pictures_and_of_a_denoiser_that_is_told_the_label(digits, monkeypatch):
    """From their parts, with the draws of the same rng."""
    monkeypatch.setattr(adm, "as_asked", lambda dataset, images: 0.0)
    small = dataclasses.replace(digits, test=digits.test.take(slice(0, 20)))
    system = adm.build(adm.Config(**SMALL, conditional=True, sample_steps=1), digits, seed=0)
    denoiser, classifier = (
        shaken(net, np.random.default_rng(1), size) for net, size in zip(system.modules.values(), (0.1, 0.4))
    )
    x_0, rng, schedule = digits.scale(small.test.images), np.random.default_rng(0), schedules.cosine(SMALL["T"])
    x_t = q_sample(x_0, 1, rng.standard_normal(x_0.shape).astype(np.float32), schedule)
    y = ag.raw(classifier(x_t, np.full(20, 1))).argmax(1)  # labels that it often names
    y[:4] = small.test.labels[:4]
    small = dataclasses.replace(small, test=dataclasses.replace(small.test, labels=y))
    found, rng = system.figures(small, rng=np.random.default_rng(2)), np.random.default_rng(2)
    bound = adm.variational_bound(lambda x, t: denoiser(x, t, y), x_0, schedule, 17, rng=rng)
    assert found["bound, bits/dim"] == pytest.approx(bound.total, rel=1e-6)
    differ = False
    for t in (1, 7, 15, 22):
        x_t = q_sample(x_0, t, rng.standard_normal(x_0.shape).astype(np.float32), schedule)
        noisy, clean = ((ag.raw(classifier(x, np.full(20, t))).argmax(1) == y).mean() for x in (x_t, x_0))
        assert found[f"classifier right at t = {t}"] == noisy > 0.1
        differ |= noisy != clean
    assert differ, "noise changes what this classifier says"


def test_as_asked_counts_by_the_order_of_the_labels(digits, monkeypatch):
    class Reader:
        def probabilities(self, images):
            return np.eye(10)[np.arange(len(images)) % 10]

    monkeypatch.setattr(adm, "load_ruler", lambda dataset: Reader())
    assert adm.as_asked(digits, np.zeros((20, 8, 8, 1), np.float32)) == 1


def test_settings_that_do_not_fit_are_named(digits):
    unlabelled = Dataset("grey", *(Split(np.zeros((8, 8, 8, 1), np.uint8)) for _ in range(3)), 256, ())
    bad = [
        (adm.Config(), load("rings"), "'rings' holds no pictures"),
        (adm.Config(), unlabelled, "need labels, and the data set 'grey' has none"),
        (adm.Config(classifier_steps=-1), digits, "classifier_steps must be at least 0, got -1"),
        (adm.Config(lam=-1.0), digits, "lam must be at least 0"),
        (adm.Config(classifier_base=-8), digits, "classifier_base must be at least 1, got -8"),
        (adm.Config(classifier_shift=2.0), digits, "classifier_shift must be from 0 to 1, got 2.0"),
        (adm.Config(channels_per_head=5), digits, "channels_per_head must divide a level's channels, got 5"),
    ]
    for config, dataset, message in bad:
        with pytest.raises(ValueError, match=message):
            adm.build(config, dataset, seed=0)
    with_classifier = adm.build(adm.Config(**SMALL), digits, seed=0)
    without = adm.build(adm.Config(**SMALL, classifier_steps=0), digits, seed=0)
    plain = adm.build(adm.Config(**SMALL, classifier_steps=0), unlabelled, seed=0)
    for system, settings, message in [
        (with_classifier, {"label": 10}, "label must be from 0 to 9, got 10"),
        (with_classifier, {"label": -1}, "label must be from 0 to 9, got -1"),
        (with_classifier, {"label": 1, "guidance": "none"}, "label 1 needs guidance"),
        (with_classifier, {"label": 1, "scale": 0.0}, "label 1 needs guidance"),
        (with_classifier, {"guidance": "none", "scale": 2.0}, "guidance 'none' has no scale: leave it out, got 2.0"),
        (without, {"scale": 2.0}, "guidance 'none' has no scale"),
        (with_classifier, {"guidance": "clip"}, "guidance must be one of none, classifier"),
        (
            with_classifier,
            {"guidance": "mean", "sampler": "ddim"},
            "moves the mean of the sampler 'ancestral', got 'ddim'",
        ),
        (with_classifier, {"scale": float("nan")}, "scale must be finite"),
        (with_classifier, {"steps": 31}, "steps must be from 1 to 30"),
        (with_classifier, {"guidance": "mean", "steps": 0}, "steps must be from 1 to 30"),
        (with_classifier, {"guidance": "mean", "steps": 31, "spacing": "karras"}, "steps must be from 1 to 30"),
        (with_classifier, {"guidance": "mean-at-x_t", "eta": 7.0}, "'ancestral' has no eta"),
        (without, {"guidance": "classifier"}, "needs a noisy classifier, and these weights have none"),
        (without, {"guidance": "mean", "label": 2}, "needs a noisy classifier|knows of classes"),
        (without, {"label": 2}, "label 2 needs"),
        (plain, {"guidance": "classifier"}, "these weights have none"),
    ]:
        with pytest.raises(ValueError, match=message):
            system.sample(2, rng=np.random.default_rng(0), **settings)
    for guidance in adm.GUIDANCES:  # a setting that there is not
        with pytest.raises(TypeError, match="spacings"):
            with_classifier.sample(2, rng=np.random.default_rng(0), guidance=guidance, spacings="karras")
    assert without.sample(2, rng=np.random.default_rng(0), steps=2).shape == (2, 8, 8, 1)
    assert plain.notes is None and not without.pictures
    with pytest.raises(ValueError, match="needs labels to guide to"):
        adm.draw(None, lambda x, t: x, None, SCHEDULE, steps=2, rng=None)


def test_both_networks_warm_up_alike_within_a_tenth_of_the_denoisers_steps(digits):
    for steps, warm in ((300, 30), (5000, 100)):
        stages = adm.build(adm.Config(**SMALL, steps=steps, classifier_steps=50), digits, seed=0).stages()
        assert [stage.warmup for stage in stages] == [warm, warm]


def test_the_classifier_takes_one_time_for_all_pictures(rng):
    net = shaken(adm.NoisyClassifier((4, 4, 1), 3, base=4, attention=(1,), channels_per_head=4, groups=2, rng=rng), rng)
    x = rng.standard_normal((2, 4, 4, 1)).astype(net.conv_in.w.dtype)
    with ag.no_grad():
        np.testing.assert_array_equal(net(x, 7).data, net(x, np.array([7, 7])).data)
