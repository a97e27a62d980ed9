"""Guidance by a gradient against exact answers on Gaussian data and mixtures, and against planted bugs."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mutants import mutant
from oracles import OneHotNoise, gaussian, gaussian_eps

import autograd as ag
from minigen.maths import parametrisation, schedules
from minigen.nn import Linear
from minigen.samplers import ancestral, ddim, guidance

SCHEDULE = schedules.linear(60)
KINDS = parametrisation.KINDS
IDENTITY = staticmethod(lambda x: x).__func__


def shaped(t, x, schedule=SCHEDULE):
    return schedule.alpha_bar_at(t).reshape(-1, *(1,) * (x.ndim - 1))


def as_kind(eps_model, kind, schedule=SCHEDULE):
    def model(x, t, cond=None):
        a, eps = shaped(t, x, schedule), eps_model(x, t, cond)
        x_0 = (x - np.sqrt(1 - a) * eps) / np.sqrt(a)
        v = np.sqrt(a) * eps - np.sqrt(1 - a) * x_0
        return {"eps": eps, "x_0": x_0, "v": v, "score": eps / -np.sqrt(1 - a)}[kind]

    return model


def close(got, want, rel=1e-11):
    got, want = np.asarray(ag.raw(got)), np.asarray(ag.raw(want))
    assert got.shape == want.shape and np.isfinite(got).all()
    assert abs(got - want).max() <= rel * max(1.0, abs(want).max()), abs(got - want).max()


class Mix:
    """Data of K Gaussians N(m_k, s_k^2 I): the model of all, of one class, and the exact classifier of noisy points."""

    def __init__(self, seed, k=3, d=2, schedule=SCHEDULE):
        rng = np.random.default_rng(seed)
        self.w, self.m, self.s = rng.dirichlet(np.ones(k)), rng.normal(0, 1.5, (k, d)), rng.uniform(0.3, 1.2, k)
        self.schedule, self.d = schedule, d

    def logits(self, x, t):
        a = shaped(t, x, self.schedule)
        V = a * self.s**2 + 1 - a  # (n, k)
        d = ag.reshape(x, (len(x), 1, self.d)) - np.sqrt(a)[:, :, None] * self.m
        return np.log(self.w) - 0.5 * self.d * np.log(V) + ag.sum(d * d, -1) * (-0.5 / V)

    def eps(self, x, t, cond=None):
        a = shaped(t, x, self.schedule)
        V = a * self.s**2 + 1 - a
        share = ag.softmax(self.logits(x, t))
        d = ag.reshape(x, (len(x), 1, self.d)) - np.sqrt(a)[:, :, None] * self.m
        return np.sqrt(1 - a) * ag.sum(ag.reshape(share / V, (len(x), -1, 1)) * d, 1)

    def one(self, k):
        return gaussian_eps(self.m[k], self.s[k], self.schedule)


# --- exact facts, each a function of the module so that planted bugs can be shown to it -------------------------------


def exact_classifier(g, seed=0, k=3, d=2):
    mix, rng = Mix(seed, k, d), np.random.default_rng(seed + 1)
    n = 4
    x, t, y = rng.standard_normal((n, d)), rng.integers(1, 61, n), int(rng.integers(k))
    guided = g.by_gradient(mix.eps, g.label_log_p(mix.logits, y), SCHEDULE)
    close(guided(x, t), mix.one(y)(x, t), 1e-11)


def exact_paths(g):
    """The guided model on a coarser grid is told the times of the training schedule; the path is that of the class."""
    mix, y = Mix(3), 1
    grid = SCHEDULE.respaced([3, 8, 20, 41, 60])
    x_T = np.random.default_rng(0).standard_normal((5, 2))
    want = ancestral.sample(mix.one(y), x_T, grid, rng=np.random.default_rng(1))
    for kind in KINDS:
        guided = g.by_gradient(as_kind(mix.eps, kind), g.label_log_p(mix.logits), SCHEDULE, kind=kind)
        got = ancestral.sample(guided, x_T, grid, rng=np.random.default_rng(1), kind=kind, cond=np.full(5, y))
        close(got, want, 1e-9)


def one_path(g):
    """Also from where next to nothing is left of the signal, alpha_bar_T = 2e-9: all kinds walk one path."""
    schedule = schedules.cosine(1000)
    x_T = np.random.default_rng(0).standard_normal((5, 3))
    states = {kind: [] for kind in KINDS}
    for kind, seen in states.items():
        model = gaussian(kind, 0.3, 0.5, schedule)
        guided = g.by_gradient(model, lambda x, t, cond: 100 * ag.sum(x, 1), schedule, kind=kind)
        ddim.sample(
            guided, x_T, schedules.spaced(schedule, 10), kind=kind, callback=lambda *s, seen=seen: seen.append(s)
        )
        for (_, *got), (_, *want) in zip(seen, states["eps"]):
            close(got, want, 1e-12)


def moments(model, schedule, **settings):
    """Mean and variance of the result for data of one dimension: a chain that is affine in its draws, no sampling."""
    T = schedule.T
    x_T = np.zeros((T + 1, 1))
    x_T[1] = 1  # row 0 sees no draw at all
    out = ancestral.sample(model, x_T, schedule, rng=OneHotNoise(first=2), **settings)[:, 0]
    return out[0], np.sum((out[1:] - out[0]) ** 2)


def recursion(schedule, gain, shift):
    """The same, from eq. 11 alone, for eps(x, t) = gain_t x + shift_t."""
    M, V = 0.0, 1.0
    for t in range(schedule.T, 0, -1):
        a, b = schedule.alpha_bar[t], schedule.beta[t]
        c = b / np.sqrt(1 - a)
        M = (M - c * (gain(a) * M + shift(a))) / np.sqrt(1 - b)
        V = ((1 - c * gain(a)) / np.sqrt(1 - b)) ** 2 * V + (schedule.beta_tilde[t] if t > 1 else 0.0)
    return M, V


def base_gain(a, std):
    return np.sqrt(1 - a) / (a * std**2 + 1 - a)


def linear_evidence(g):
    """ln p = k x: a shift of every mean, the variance as it was (law L13)."""
    k, s, std = 0.4, 1.7, 0.6
    guided = g.by_gradient(gaussian_eps(0.0, std, SCHEDULE), lambda x, t, c: k * ag.sum(x, 1), SCHEDULE, s)
    want = recursion(SCHEDULE, lambda a: base_gain(a, std), lambda a: -np.sqrt(1 - a) * s * k)
    close(moments(guided, SCHEDULE), want)
    assert want[1] == pytest.approx(moments(gaussian_eps(0.0, std, SCHEDULE), SCHEDULE)[1], rel=1e-12)


def gaussian_evidence(g):
    """ln p = -(x - y)^2 / 2 r^2: the chain stays affine, for any scale."""
    y, r, std = 0.8, 0.9, 0.5
    for s in (0.5, 1.0, 6.0):
        guided = g.by_gradient(
            gaussian_eps(0.0, std, SCHEDULE), lambda x, t, c: ag.sum((x - y) ** 2, 1) * (-0.5 / r**2), SCHEDULE, s
        )
        want = recursion(
            SCHEDULE,
            lambda a: base_gain(a, std) + np.sqrt(1 - a) * s / r**2,  # noqa: B023
            lambda a: -np.sqrt(1 - a) * s * y / r**2,  # noqa: B023
        )
        close(moments(guided, SCHEDULE), want)


def dps(g, schedule, std, y, r, s=1.0):
    """Mean and variance when ln p(y | x_0_hat) stands for ln p(y | x_t), data N(0, s^2), y = x_0 + N(0, r^2)."""
    log_p = g.pixel_log_p(IDENTITY, np.full((1, 1), y))
    return moments(g.by_x_0_gradient(gaussian_eps(0.0, std, schedule), log_p, schedule, s / (2 * r**2)), schedule)


def dps_recursion(schedule, std, y, r):
    def j(a):  # d x_0_hat / d x_t
        return np.sqrt(a) * std**2 / (a * std**2 + 1 - a)

    return recursion(
        schedule,
        lambda a: base_gain(a, std) + np.sqrt(1 - a) * j(a) ** 2 / r**2,
        lambda a: -np.sqrt(1 - a) * j(a) * y / r**2,
    )


def gaussian_dps(g):
    close(dps(g, SCHEDULE, 0.7, 0.9, 0.5), dps_recursion(SCHEDULE, 0.7, 0.9, 0.5))


def pixel_gradient(g):
    """Linear A and a Gaussian prior: the gradient is -2 J A^T (A x_0_hat - y), J the shrinkage of the prior; all kinds."""
    rng, std = np.random.default_rng(0), 0.6
    A, y, x, t = (
        rng.standard_normal((4, 3)),
        rng.standard_normal((2, 3)),
        rng.standard_normal((2, 4)),
        np.array([7, 40]),
    )
    a = shaped(t, x)
    J = np.sqrt(a) * std**2 / (a * std**2 + 1 - a)
    pull = -2 * J * ((J * x) @ A - y) @ A.T
    eps_model = gaussian_eps(0.0, std, SCHEDULE)
    want = eps_model(x, t) - np.sqrt(1 - a) * 0.3 * pull
    for kind in KINDS:
        model = as_kind(eps_model, kind)
        guided = g.by_x_0_gradient(model, g.pixel_log_p(lambda v: v @ A, y), SCHEDULE, 0.3, kind)
        close(guided(x, t), as_kind(lambda *_: want, kind)(x, t))
        twice = g.by_gradient(
            model, g.through_x_0(model, g.pixel_log_p(lambda v: v @ A, y), SCHEDULE, kind), SCHEDULE, 0.3, kind
        )
        close(twice(x, t), guided(x, t), 1e-13)


def ho_weight(g):
    """x_0_hat moves by -(w sqrt(alpha_bar) / 2) grad |A x_0_hat - y|^2."""
    x, t, y = np.array([[0.3], [-1.0]]), np.array([5, 33]), np.array([[1.0], [1.0]])
    a = shaped(t, x)
    J = np.sqrt(a) * 0.36 / (a * 0.36 + 1 - a)
    model = as_kind(gaussian_eps(0.0, 0.6, SCHEDULE), "x_0")
    scale = g.reconstruction_scale(3.0, SCHEDULE)
    got = g.by_x_0_gradient(model, g.pixel_log_p(IDENTITY, y), SCHEDULE, scale, "x_0")(x, t)
    close(got, J * x - 1.5 * np.sqrt(a) * 2 * J * (J * x - y))


def replacement(g):
    """The low frequencies of the result are those of y, the rest is the model's; whatever the kind."""
    rng = np.random.default_rng(0)
    x_T, y = rng.standard_normal((2, 4, 4, 1)), rng.standard_normal((2, 4, 4, 1))
    low = g.low_pass(2)
    close(low(y), y.reshape(2, 2, 2, 2, 2, 1).mean((2, 4)).repeat(2, 1).repeat(2, 2), 1e-14)
    close(low(low(y)), low(y), 1e-14)
    grid = SCHEDULE.respaced([2, 30, 60])
    results = []
    for kind in KINDS:
        seen = []
        guided = g.replaced(as_kind(gaussian_eps(0.0, 0.6, SCHEDULE), kind), low, y, SCHEDULE, kind)
        x_0 = ancestral.sample(
            guided,
            x_T,
            grid,
            rng=np.random.default_rng(1),
            kind=kind,
            callback=lambda t, x, guess: seen.append(guess),  # noqa: B023
        )
        close(low(seen[0]), low(y), 1e-9)
        close(low(x_0), low(y), 1e-9)
        results.append(x_0)
    for x_0 in results[1:]:
        close(x_0, results[0], 1e-8)
    free = as_kind(gaussian_eps(0.0, 0.6, SCHEDULE), "x_0")(x_T, np.array([60, 60]))
    moved = g.replaced(as_kind(gaussian_eps(0.0, 0.6, SCHEDULE), "x_0"), low, y, SCHEDULE, "x_0")(
        x_T, np.array([60, 60])
    )
    close(moved - low(moved), free - low(free))


def composition(g):
    """Two guides: the changes of the score add up, in either order."""
    mix, rng = Mix(1), np.random.default_rng(2)
    x, t = rng.standard_normal((3, 2)), np.array([4, 30, 60])
    label, linear = g.label_log_p(mix.logits, 0), lambda x, t, c: ag.sum(x * x, 1)
    one = lambda m: g.by_gradient(m, label, SCHEDULE, 2.0)  # noqa: E731
    two = lambda m: g.by_gradient(m, linear, SCHEDULE, 0.3)  # noqa: E731
    base = mix.eps(x, t)
    close(one(two(mix.eps))(x, t) - base, (one(mix.eps)(x, t) - base) + (two(mix.eps)(x, t) - base))
    close(one(two(mix.eps))(x, t), two(one(mix.eps))(x, t))
    inner = g.by_x_0_gradient(mix.eps, g.pixel_log_p(IDENTITY, np.ones((3, 2))), SCHEDULE, 0.5)
    close(one(inner)(x, t) - base, (one(mix.eps)(x, t) - base) + (inner(x, t) - base))


def learned_variance(g):
    """Of a pair, v goes through untouched, and is the very array."""
    v = np.full((2, 1), 0.3)
    pair = lambda x, t, c=None: (gaussian_eps(0.0, 0.6, SCHEDULE)(x, t), v)  # noqa: E731
    x, t = np.array([[0.3], [-1.0]]), np.array([5, 33])
    plain = lambda x, t, c=None: pair(x, t)[0]  # noqa: E731
    y = np.zeros((2, 1))
    for wrap in (
        lambda m: g.by_gradient(m, lambda x, t, c: ag.sum(x, 1), SCHEDULE, 2.0),
        lambda m: g.by_x_0_gradient(m, g.pixel_log_p(IDENTITY, y), SCHEDULE, 2.0),
        lambda m: g.replaced(m, lambda x: 0.5 * x, y, SCHEDULE),
    ):
        eps, share = wrap(pair)(x, t)
        np.testing.assert_array_equal(share, v)
        np.testing.assert_array_equal(eps, wrap(plain)(x, t))


def own_gradient(g):
    """A row of a batch is the batch of that row alone."""
    mix, rng = Mix(5), np.random.default_rng(5)
    x, t, y = rng.standard_normal((4, 2)), np.array([1, 9, 30, 60]), np.array([0, 1, 2, 1])
    guided = g.by_gradient(mix.eps, g.label_log_p(mix.logits), SCHEDULE, lambda times: times / 10)
    both = guided(x, t, y)
    for i in range(4):
        close(guided(x[i : i + 1], t[i : i + 1], y[i : i + 1]), both[i : i + 1], 1e-13)


def what_is_fixed_goes_first(g):
    """A label or target that was given holds whatever the condition is; a function of the condition is asked; else the condition."""
    mix, x, t, y = Mix(6), np.array([[0.3, -0.2], [1.0, 0.4]]), np.array([9, 30]), np.array([0, 2])
    fixed, other = g.label_log_p(mix.logits)(x, t, y), np.array([1, 1])
    close(g.label_log_p(mix.logits, y)(x, t, other), fixed)
    close(g.label_log_p(mix.logits, lambda c: 2 * c)(x, t, np.array([0, 1])), fixed)
    embed = lambda x, t: x  # noqa: E731
    wanted = g.clip_log_p(embed)(x, t, x[::-1])
    close(g.clip_log_p(embed, x[::-1])(x, t, x), wanted)
    pixels = g.pixel_log_p(IDENTITY)(x, t, x[::-1])
    close(g.pixel_log_p(IDENTITY, x[::-1])(x, t, x), pixels)


def algorithm_1(g):
    """The score for `ancestral.sample` is s times the gradient; with ln p = k x each step's mean moves by beta tilde s k."""
    score = g.score_of(lambda x, t, c: 0.3 * ag.sum(x, 1), 2.0)
    close(score(np.zeros((2, 1)), np.array([3, 4])), np.full((2, 1), 0.6))
    got = moments(gaussian_eps(0.0, 0.5, SCHEDULE), SCHEDULE, score=score)[0]
    M = 0.0
    for t in range(SCHEDULE.T, 0, -1):
        a, b = SCHEDULE.alpha_bar[t], SCHEDULE.beta[t]
        M = (1 - b / np.sqrt(1 - a) * base_gain(a, 0.5)) / np.sqrt(1 - b) * M + SCHEDULE.beta_tilde[t] * 0.6
    assert got == pytest.approx(M, rel=1e-11)
    mix, x, t = Mix(0), np.ones((2, 2)), np.array([3, 40])
    a = shaped(t, x)
    want = -(mix.one(2)(x, t) - mix.eps(x, t)) / np.sqrt(1 - a)
    close(g.classifier_score(mix.logits, 1.5)(x, t, np.array([2, 2])), 1.5 * want)


def scales(g):
    f = g.interval(3.0, 2, 5, outside=1.0)
    np.testing.assert_array_equal(g.scale_at(f, np.array([1, 2, 5, 6])), [1, 3, 3, 1])
    f = g.of_sigma(g.interval(lambda sigma: 2 * sigma, 0.3, 2.0, outside=0.0), SCHEDULE)
    sigma = SCHEDULE.sigma[1:]
    close(g.scale_at(f, np.arange(1, 61)), np.where((sigma >= 0.3) & (sigma <= 2), 2 * sigma, 0))
    dark = schedules.zero_terminal_snr(SCHEDULE)  # its last level is noise alone: sigma is infinite
    assert g.scale_at(g.of_sigma(g.interval(3.0, 0.3, np.inf, outside=1.0), dark), np.array([60])) == 3
    asked = []

    def log_p(x, t, cond):
        asked.append(t)
        return ag.sum(x, 1)

    said = np.ones((2, 1))
    guided = g.by_gradient(lambda x, t, c: said, log_p, SCHEDULE, g.interval(1.0, 3, 4, outside=0.0))
    assert guided(said, np.array([9, 9])) is said and not asked
    close(guided(said, np.array([9, 4])), [[1], [1 - np.sqrt(1 - SCHEDULE.alpha_bar[4])]])


def features(g):
    """Cases whose answer is known: what each comparison sees and what it does not."""
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 2, 3, 4, 5))
    turned = a[:, ::-1]  # another place, the same things
    np.testing.assert_allclose(ag.raw(g.content(a, turned)), 1, rtol=1e-12)
    np.testing.assert_allclose(ag.raw(g.content(3 * a, -a)), -1, rtol=1e-12)
    np.testing.assert_allclose(ag.raw(g.style(a, turned)), 0, atol=1e-24)
    assert (ag.raw(g.structure(a, turned)) < -1).all()
    pa, pb = a.mean((1, 2)), b.mean((1, 2))
    close(g.content(a, b), (pa * pb).sum(1) / np.sqrt((pa**2).sum(1) * (pb**2).sum(1)))
    close(g.structure(a, b), -((a - b) ** 2).sum((1, 2, 3)))
    gram = lambda f: np.einsum("nijc,nijd->ncd", f, f) / 12  # noqa: E731
    close(g.style(a, b), -((gram(a) - gram(b)) ** 2).sum((1, 2)))
    # identity features are pixels; one reference serves all, several maps add up
    one = g.feature_log_p(lambda x, t: x, b[:1], g.structure)(ag.Tensor(a), np.array([3, 4]))
    close(one, g.pixel_log_p(IDENTITY, b[:1])(ag.Tensor(a), None, None), 0)
    two = g.feature_log_p(lambda x, t: [x, 2 * x], b[:1], g.structure)(ag.Tensor(a), np.array([3, 4]))
    close(two, 5 * ag.raw(one))
    noise, t = rng.standard_normal(b.shape), np.array([3, 40])
    k = SCHEDULE.alpha_bar[t].reshape(2, 1, 1, 1)
    x_t = np.sqrt(k) * b + np.sqrt(1 - k) * noise
    close(g.noised(b, noise, SCHEDULE)(t), x_t)
    close(
        g.feature_log_p(lambda x, t: x, g.noised(b, noise, SCHEDULE), g.structure)(ag.Tensor(a), t),
        -((a - x_t) ** 2).sum((1, 2, 3)),
    )


def clip_similarity(g):
    rng = np.random.default_rng(0)
    W, x, text = rng.standard_normal((3, 4)), rng.standard_normal((2, 3)), rng.standard_normal((2, 4))
    embed = lambda x, t: x @ W  # noqa: E731
    dot = (x @ W * text).sum(1)
    close(g.clip_log_p(embed, text, "dot")(ag.Tensor(x), None, None), dot)
    lengths = np.linalg.norm(x @ W, axis=1) * np.linalg.norm(text, axis=1)
    close(g.clip_log_p(embed)(ag.Tensor(x), None, text), dot / lengths)


CHECKS = [
    exact_classifier, exact_paths, one_path, linear_evidence, gaussian_evidence, gaussian_dps, pixel_gradient,
    ho_weight, replacement, composition, learned_variance, own_gradient, what_is_fixed_goes_first, algorithm_1, scales,
    features, clip_similarity,
]  # fmt: skip


@pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.__name__)
def test_exact(check):
    check(guidance)


@given(st.integers(0, 2**32 - 2), st.integers(2, 5), st.integers(1, 4))
def test_adm_algorithm_2_with_the_exact_classifier_is_the_conditional_model(seed, k, d):
    exact_classifier(guidance, seed, k, d)


MUTANTS = {
    "no root in (1)": ('"eps": -(noise**0.5),', '"eps": -noise,'),
    "no factor in (1)": ('"eps": -(noise**0.5),', '"eps": -np.ones_like(noise),'),
    "sign of (1)": ('"eps": -(noise**0.5),', '"eps": noise**0.5,'),
    "root of signal in (2)": ('"x_0": noise / signal**0.5,', '"x_0": noise / signal,'),
    "sign of (3)": ('"v": -((noise / signal) ** 0.5),', '"v": (noise / signal) ** 0.5,'),
    "sign of (4)": ('"score": np.ones_like(noise),\n        }[kind]\n    return _added(said, np', '"score": -np.ones_like(noise),\n        }[kind]\n    return _added(said, np'),
    "scale left out": ("np.where(scale == 0, 0.0, scale) * np", "np.where(scale == 0, 0.0, 1.0) * np"),
    "level for time": ("schedule.alpha_bar_at(_times(t, x_t))", "schedule.alpha_bar_at(_times(t, x_t) - 1)"),
    "mean over the batch": ("g = ag.grad(ag.sum(_checked(log_p(x, t, cond)", "g = ag.grad(ag.mean(_checked(log_p(x, t, cond)"),
    "guided variance": ("return (moved, *rest) if rest", "return (moved, *[r + _shaped(factor, change) * change for r in rest]) if rest"),
    "likelihood for its logarithm": ("return -ag.cross_entropy(", "return ag.exp(-ag.cross_entropy("),
    "no gradient through the network": ("value = _checked(log_p(_guess(said, x,", "said = tuple(map(ag.raw, said)) if isinstance(said, tuple) else ag.raw(said) * 1 + 0 * x\n            value = _checked(log_p(_guess(said, x,"),
    "about x_t, not x_0": ("value = _checked(log_p(_guess(said, x, t, schedule, kind), t", "value = _checked(log_p(x, t"),
    "nothing taken out": ("project(_asked(y, cond)) - project(_guess(said, x_t, t, schedule, kind))", "project(_asked(y, cond))"),
    "replacement's sign": ('"eps": -((signal / noise) ** 0.5),', '"eps": (signal / noise) ** 0.5,'),
    "replacement in v": ('"v": -(noise**-0.5),', '"v": -(noise**0.5),'),
    "replacement in score": ('"score": signal**0.5 / noise,', '"score": signal / noise,'),
    "score without scale": ("return _shaped(s, x) * gradient", "return gradient"),
    "interval turned round": ("(low <= times) & (times <= high)", "(low > times) | (times > high)"),
    "weight of the reconstruction": ("0.5 * weight / sigma**2", "0.5 * weight / sigma"),
    "Gram not averaged": (" * (1 / x.shape[1])", ""),
    "Gram over places": ("ag.transpose(x, (0, 2, 1)) @ x)", "x @ ag.transpose(x, (0, 2, 1)))"),
    "norm over the batch": ("ag.sum(x * x, -1, keepdims=True)", "ag.sum(x * x, 0, keepdims=True)"),
    "distance, not closeness": ("return -_total(d * d)", "return _total(d * d)"),
    "clean reference": ("_shaped(a**0.5, noise) * reference", "reference"),
    "cosine and dot exchanged": ('if similarity == "cosine"', 'if similarity == "dot"'),
    "none": ("return x / ag.sqrt(", "return x / ag.sqrt("),
}  # fmt: skip


@pytest.mark.parametrize("name", MUTANTS)
def test_every_planted_bug_is_seen(name):
    old, new = MUTANTS[name]
    if name.startswith("likelihood"):
        new, old = (
            "return ag.exp(-ag.cross_entropy(logits, array_module(ag.raw(logits)).asarray(np.broadcast_to(y, (n,)))))",
            ("return -ag.cross_entropy(logits, array_module(ag.raw(logits)).asarray(np.broadcast_to(y, (n,))))"),
        )
    broken = mutant(guidance, old, new)
    seen = []
    for check in CHECKS:
        try:
            check(broken)
        except (AssertionError, ValueError, TypeError):
            seen.append(check.__name__)
            break
    assert bool(seen) == (name != "none")


# --- derivatives, and what stays as it was ----------------------------------------------------------------------------


def guides(g=guidance):
    rng = np.random.default_rng(7)
    W, y = rng.standard_normal((2, 2, 3)), rng.standard_normal((3, 4, 4, 2))
    maps = lambda x, t: [ag.tanh(x @ W[0]), ag.avg_pool(x @ W[1])]  # noqa: E731
    flat = lambda x, t: ag.tanh(ag.reshape(x, (len(x), -1))) @ np.linspace(-1, 1, 160).reshape(32, 5)  # noqa: E731
    model = lambda x, t, c=None: ag.tanh(x @ (W[0] @ W[1].T))  # noqa: E731
    found = {
        "label": g.label_log_p(flat, np.array([0, 4, 2])),
        "cosine": g.clip_log_p(flat, rng.standard_normal((1, 5))),
        "dot": g.clip_log_p(flat, rng.standard_normal((3, 5)), "dot"),
        "content": g.feature_log_p(maps, y, g.content),
        "structure": g.feature_log_p(maps, y, g.structure),
        "style": g.feature_log_p(maps, y, g.style),
        "pixel": g.pixel_log_p(ag.avg_pool, ag.avg_pool(y)),
    }
    found["through"] = g.through_x_0(model, found["style"], SCHEDULE)
    found["through a guided model"] = g.through_x_0(
        g.by_gradient(model, found["cosine"], SCHEDULE, 0.5), found["structure"], SCHEDULE
    )
    found["through a model guided through x_0"] = g.through_x_0(
        g.by_x_0_gradient(model, found["pixel"], SCHEDULE, 0.1), found["pixel"], SCHEDULE
    )
    return found


@pytest.mark.parametrize("name", guides())
def test_every_guide_has_the_gradient_of_finite_differences(name):
    log_p, t = guides()[name], np.array([3, 20, 35])
    x = np.random.default_rng(1).standard_normal((3, 4, 4, 2))
    ag.gradcheck(lambda x: log_p(x, t, None), [x], order=1 if "through" in name else 2, step=3e-4)  # deep: small steps


def test_parameters_are_left_alone_inside_no_grad_and_float32_stays():
    net, guide = Linear(2, 2, rng=np.random.default_rng(0)), Linear(2, 3, rng=np.random.default_rng(1))
    model = lambda x, t, c=None: net(x)  # noqa: E731
    guided = guidance.by_gradient(model, guidance.label_log_p(lambda x, t: guide(x), 1), SCHEDULE, 2.0)
    guided = guidance.by_x_0_gradient(guided, guidance.pixel_log_p(IDENTITY, np.ones((1, 2), np.float32)), SCHEDULE)
    x = np.ones((3, 2), np.float32)
    with ag.no_grad():
        out = guided(x, np.array([3, 3, 9]))
    x_0 = ancestral.sample(guided, x, SCHEDULE.respaced([5, 60]), rng=np.random.default_rng(0))
    assert ag.raw(out).dtype == x_0.dtype == np.float32
    assert (x == 1).all() and x.flags.writeable
    for p in (*net.parameters(), *guide.parameters()):
        assert p.grad is None and p.data.flags.writeable


def test_a_real_clip_guides_noise_aware_and_through_x_0():
    from minigen.models import clip

    config = clip.Config(width=8, channels=(8,), text_width=8, layers=1, heads=1, noise_aware=True, T=60)
    net = clip.CLIP((8, 8, 3), config, rng=np.random.default_rng(0)).astype(np.float64)
    text = clip.Embedder(net).encode_text(["a red circle"])
    x, t = np.random.default_rng(1).standard_normal((2, 8, 8, 3)), np.array([4, 30])
    noisy = guidance.clip_log_p(net.embed_image, text)
    ag.gradcheck(lambda x: noisy(x, t, None), [x], step=1e-4)
    base = gaussian_eps(0.0, 0.6, SCHEDULE)
    clean = guidance.clip_log_p(lambda x, t: net.embed_image(x), text)
    for guided in (
        guidance.by_gradient(base, noisy, SCHEDULE, 3.0),
        guidance.by_x_0_gradient(base, clean, SCHEDULE, 3.0),
    ):
        assert abs(guided(x, t) - base(x, t)).max() > 1e-3
    assert all(p.grad is None for p in net.parameters())


# --- how far off the usual approximation is ---------------------------------------------------------------------------


def test_dps_bias_on_a_gaussian_is_a_number():
    """Data N(0, 1), y = x_0 + N(0, 0.5^2) seen as 1: the posterior is N(0.8, 0.2).

    ln p(y | x_0_hat) forgets what is not known of x_0, so it is too sure: the mean is too near to y, the variance too
    small. With what is not known put back, r^2 + Var(x_0 | x_t), the result is the posterior.
    """
    schedule, std, y, r = schedules.linear(1000), 1.0, 1.0, 0.5
    exact_mean, exact_var = std**2 * y / (std**2 + r**2), std**2 * r**2 / (std**2 + r**2)
    mean, var = dps_recursion(schedule, std, y, r)
    close(dps(guidance, schedule, std, y, r), (mean, var))
    assert mean > exact_mean and var < exact_var
    assert (round(mean, 3), round(var, 3)) == (0.982, 0.122)

    def whole(x, t, cond):
        a = shaped(t, x, schedule)
        unknown = std**2 * (1 - a) / (a * std**2 + 1 - a)
        guess = np.sqrt(a) * std**2 / (a * std**2 + 1 - a) * x
        return ag.sum((guess - y) ** 2 * (-0.5 / (r**2 + unknown)), 1)

    right = guidance.by_gradient(gaussian_eps(0.0, std, schedule), whole, schedule)
    rng = np.random.default_rng(0)
    x, t = rng.standard_normal((5, 1)), np.array([1, 10, 300, 700, 1000])
    close(right(x, t), gaussian_eps(exact_mean, exact_var**0.5, schedule)(x, t))
    mean, var = moments(right, schedule)
    assert mean == pytest.approx(exact_mean, abs=1e-3) and var == pytest.approx(exact_var, rel=0.02)


# --- bad input --------------------------------------------------------------------------------------------------------


def test_bad_input_is_one_sentence():
    x, t = np.zeros((2, 3)), np.array([1, 2])
    model = lambda x, t, c=None: x * 0.5  # noqa: E731
    total = lambda x, t, c: ag.sum(x, 1)  # noqa: E731
    cases = [
        (ValueError, "kind must be", lambda: guidance.by_gradient(model, total, SCHEDULE, kind="mean")),
        (ValueError, "labels must be", lambda: guidance.label_log_p(lambda x, t: x, 3)(x, t, None)),
        (ValueError, "labels must be", lambda: guidance.label_log_p(lambda x, t: x)(x, t, np.array([0.0, 1.0]))),
        (ValueError, "similarity must be", lambda: guidance.clip_log_p(model, x, "l2")),
        (ValueError, "low <= high", lambda: guidance.interval(1.0, 3, 2, outside=0.0)),
        (ValueError, "scale must be finite, got nan$", lambda: guidance.by_gradient(model, total, SCHEDULE, np.nan)(x, t)),
        (ValueError, "scale must be finite, got inf at time 2$", lambda: guidance.scale_at(lambda t: np.where(t > 1, np.inf, 1), t)),
        (ValueError, "one number per sample", lambda: guidance.gradient(lambda x, t, c: ag.sum(x), x, t)),
        (TypeError, "autograd's operations", lambda: guidance.gradient(lambda x, t, c: np.zeros(2), x, t)),
        (TypeError, "autograd's operations", lambda: guidance.by_x_0_gradient(lambda x, t, c: np.zeros((2, 3)), total, SCHEDULE)(x, t)),
    ]  # fmt: skip
    for error, says, call in cases:
        with pytest.raises(error, match=says):
            call()
    zero = schedules.zero_terminal_snr(SCHEDULE)
    last = np.array([60, 3])
    for kind in ("x_0", "v"):
        with pytest.raises(ValueError, match="alpha_bar is 0"):
            guidance.by_gradient(model, total, zero, kind=kind)(x, last)
    off = guidance.interval(1.0, 0, 59, outside=0.0)
    assert np.isfinite(guidance.by_gradient(model, total, zero, off, kind="v")(x, last)).all()
    with pytest.raises(ValueError, match="alpha_bar"):
        guidance.by_x_0_gradient(model, total, zero)(x, last[::-1])
