"""Autoregressive sampling against enumerated distributions; the filters by the laws that define them."""

import numpy as np
import pytest
from autoregression import ALPHA, check_cached, check_causal, check_histogram, check_sums_to_one, every_sequence
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from kernels.compare import unit_roundoff
from minigen.samplers import autoregressive as ar

U = unit_roundoff(np.float64)


class Table:
    """A model that is a table: the logits of a token are those of the beginning before it, each with numbers of its own."""

    def __init__(self, vocab, length, seed=0, scale=1.0):
        self.vocab, self.length, self.seed, self.scale = vocab, length, seed, scale
        self.told = []

    def row(self, beginning):
        return self.scale * np.random.default_rng((self.seed, *beginning, len(beginning))).standard_normal(self.vocab)

    def logits(self, tokens):
        self.told.append(tokens.copy())
        return np.array([[self.row(x[:i]) for i in range(len(x))] for x in tokens.tolist()]).reshape(
            *tokens.shape, self.vocab
        )

    def step(self, new, cache):
        seen = new if cache is None else np.concatenate([cache, new], axis=1)
        return np.array([self.row(x) for x in seen.tolist()]), seen


class Given:
    """In place of a generator: hands out the numbers it was made of."""

    def __init__(self, u):
        self.u = u

    def random(self, shape):
        assert shape == self.u.shape
        return self.u


def logits_of(seed, n=3, vocab=7):
    """Rows with ties and forbidden tokens: halves of small integers, a few -inf, never all of them."""
    rng = np.random.default_rng(seed)
    logits = rng.integers(-6, 7, (n, vocab)) / 2
    logits[rng.random((n, vocab)) < 0.2] = -np.inf
    logits[:, rng.integers(vocab)] = 1.0
    return logits


seeds = st.integers(0, 2**32 - 1)
temperatures = st.floats(0.05, 20)
shares = st.floats(0.01, 0.999)


# --- the distribution of one token -----------------------------------------------------------------------------------


def test_every_axis_but_the_last_is_a_batch():
    """One row, or rows laid out in any number of axes, give what each row gives alone."""
    rows, u = logits_of(0, n=6), np.random.default_rng(1).random(6)
    for function in (
        ar.probabilities,
        lambda l: ar.filtered(l, temperature=0.7, top_k=4, top_p=0.8),
        lambda l: ar.with_temperature(l, 0),
        lambda l: ar.guided(l, 0.5 * l, 2.0),
        lambda l: ar.draw(l, u.reshape(l.shape[:-1]) if l.ndim > 1 else u[0]),
    ):
        whole = function(rows)
        np.testing.assert_array_equal(function(rows.reshape(3, 2, 7)), whole.reshape(3, 2, *whole.shape[1:]))
        np.testing.assert_array_equal(function(rows[0]), whole[0])


@given(seeds, temperatures)
def test_temperature_divides_the_log_odds_and_keeps_the_order(seed, tau):
    logits = logits_of(seed)
    p, heated = ar.probabilities(logits), ar.probabilities(ar.with_temperature(logits, tau))
    for row, want in zip(heated, p ** (1 / tau)):
        np.testing.assert_allclose(row, want / want.sum(), rtol=200 * (1 + 1 / tau) * U, atol=1e-300)
    assert (np.argmax(heated, -1) == np.argmax(p, -1)).all()


@given(seeds)
def test_temperature_0_is_the_limit_and_takes_the_first_of_equal_ones(seed):
    logits = logits_of(seed)
    cold = ar.with_temperature(logits, 0)
    first = logits.argmax(-1)
    np.testing.assert_array_equal(np.isfinite(cold), np.arange(7) == first[:, None])
    best = logits == logits.max(-1, keepdims=True)
    near = ar.probabilities(ar.with_temperature(logits, 1e-3))
    np.testing.assert_allclose(near, best / best.sum(-1, keepdims=True), atol=1e-200)  # e^-500 is left of the next
    u = np.random.default_rng(seed).random(3)
    np.testing.assert_array_equal(ar.draw(cold, u), first)


@given(seeds, temperatures, temperatures)
def test_temperatures_multiply(seed, one, other):
    logits = logits_of(seed)
    twice = ar.probabilities(ar.with_temperature(ar.with_temperature(logits, one), other))
    np.testing.assert_allclose(
        twice,
        ar.probabilities(ar.with_temperature(logits, one * other)),
        rtol=1e4 / (one * other) * U + 1e3 * U,
        atol=1e-300,
    )


@given(seeds, st.integers(1, 9))
def test_top_k_keeps_exactly_k_of_the_largest_and_of_equal_ones_the_first(seed, k):
    logits = logits_of(seed)
    kept = ar.keep_top_k(logits, k)
    for before, after in zip(logits, kept):
        allowed = np.isfinite(before).sum()
        assert np.isfinite(after).sum() == min(k, allowed)
        want = sorted(range(7), key=lambda v: (-before[v], v))[:k]
        stay = np.isin(np.arange(7), want)
        np.testing.assert_array_equal(after, np.where(stay, before, -np.inf))


@given(seeds, shares)
def test_top_p_keeps_the_smallest_set_whose_mass_reaches_p(seed, p):
    logits = logits_of(seed)
    kept = np.isfinite(ar.keep_top_p(logits, p))
    mass = ar.probabilities(logits)
    for before, keep, m in zip(logits, kept, mass):
        assert keep.any()
        order = sorted(range(7), key=lambda v: (-before[v], v))
        np.testing.assert_array_equal(np.sort(order[: keep.sum()]), np.flatnonzero(keep))
        assert m[keep].sum() >= p - 16 * U, "it reaches p"
        assert m[order[: keep.sum() - 1]].sum() < p + 16 * U, "and one fewer would not"


@pytest.mark.parametrize(
    "p, kept",
    [(0.5, [1]), (0.75, [1, 0]), (0.75 + 1e-9, [1, 0, 2]), (0.875, [1, 0, 2]), (0.9, [1, 0, 2, 3]), (1e-9, [1])],
)
def test_top_p_of_known_probabilities(p, kept):
    """0.25, 0.5, 0.125, 0.125: exact in binary, also for p that a set reaches to the last bit; of the equal ones the first."""
    logits = np.log2([[0.25, 0.5, 0.125, 0.125]]) * np.log(2)
    assert set(np.flatnonzero(np.isfinite(ar.keep_top_p(logits, p))[0])) == set(kept)


@given(seeds, st.integers(2, 9))
def test_top_p_stops_where_the_cumulated_probabilities_say_p(seed, vocab):
    """For a p that is itself a cumulated probability: to the last bit the same sums as those that `draw` inverts."""
    weights = np.random.default_rng(seed).integers(1, 20, vocab)
    logits = np.log(weights / weights.sum())
    reached = np.cumsum(-np.sort(-ar.probabilities(logits)))
    for p in reached[reached < 1]:
        assert np.isfinite(ar.keep_top_p(logits, p)).sum() == np.searchsorted(reached, p) + 1


@given(seeds, st.integers(1, 8), st.integers(1, 8), shares, shares)
def test_filters_are_nested_and_idempotent(seed, k, l, p, q):
    logits = logits_of(seed)
    for function, a, b in ((ar.keep_top_k, *sorted((k, l))), (ar.keep_top_p, *sorted((p, q)))):
        small, large = function(logits, a), function(logits, b)
        assert (np.isfinite(small) <= np.isfinite(large)).all()
        kept = np.isfinite(small)
        np.testing.assert_array_equal(small[kept], logits[kept])
        if function is ar.keep_top_k:
            np.testing.assert_array_equal(function(small, a), small)


@given(seeds, st.integers(-64, 64), st.integers(1, 7), shares)
def test_a_constant_changes_nothing(seed, constant, k, p):
    """Halves plus an integer are exact, so the results are equal to the last bit."""
    logits, u = logits_of(seed), np.random.default_rng(seed).random(3)
    moved = logits + constant
    np.testing.assert_array_equal(ar.probabilities(moved), ar.probabilities(logits))
    for settings in ({"temperature": 0.5}, {"temperature": 0.0}, {"top_k": k}, {"top_p": p}):
        a, b = (ar.filtered(x, **settings) for x in (logits, moved))
        np.testing.assert_array_equal(np.isfinite(a), np.isfinite(b))
        np.testing.assert_array_equal(ar.draw(a, u), ar.draw(b, u))


@given(seeds)
def test_filters_that_are_off_are_the_identity(seed):
    logits = logits_of(seed)
    for off in (ar.filtered(logits), ar.filtered(logits, top_k=7, top_p=1.0), ar.filtered(logits, top_k=100)):
        np.testing.assert_array_equal(off, logits)


def test_filters_are_applied_in_their_order():
    """0.4, 0.3, 0.2, 0.1: of the best three the best two have 7 / 9 of the mass, more than 0.75; of all four only 0.7."""
    logits = np.log([[0.4, 0.3, 0.2, 0.1]])
    assert np.isfinite(ar.filtered(logits, top_p=0.75)).sum() == 3
    assert np.isfinite(ar.filtered(logits, top_k=3, top_p=0.75)).sum() == 2
    assert np.isfinite(ar.filtered(logits, temperature=0.25, top_p=0.75)).sum() == 2
    assert np.isfinite(ar.filtered(logits, temperature=0.0, top_k=3, top_p=0.75)).sum() == 1


def test_eq_of_the_draw_inverts_the_cumulated_probabilities():
    logits = np.log([[0.25, 0.5, 0.125, 0.125]])
    for u, token in (
        (0.0, 0),
        (0.2499, 0),
        (0.2501, 1),
        (0.7499, 1),
        (0.7501, 2),
        (0.8749, 2),
        (0.8751, 3),
        (1 - U, 3),
    ):
        assert ar.draw(logits, np.array([u])) == [token], u


def test_a_token_of_probability_0_is_never_drawn():
    """At both ends of u, where rounding of the sum would let it in."""
    rng = np.random.default_rng(0)
    for _ in range(300):
        logits = rng.standard_normal((1, 50)) * rng.choice([1, 30, 300])
        forbidden = rng.random(50) < 0.5
        forbidden[[0, -1]] = True
        forbidden[rng.integers(1, 49)] = False
        logits[0, forbidden] = -np.inf
        for u in (0.0, 2.0**-60, 0.5, 1 - U):
            assert not forbidden[ar.draw(logits, np.array([u]))[0]]


def test_draws_have_their_frequencies():
    p = np.array([0.02, 0.5, 0.0, 0.3, 0.18])
    n = 200_000
    with np.errstate(divide="ignore"):
        logits = np.tile(np.log(p), (n, 1))
    counts = np.bincount(ar.draw(logits, np.random.default_rng(1).random(n)), minlength=5)
    assert counts[2] == 0
    assert chisquare(counts[p > 0], p[p > 0] * n).pvalue > ALPHA  # would see 0.18 become 0.185


# --- guidance ---------------------------------------------------------------------------------------------------------


@given(seeds, st.floats(-3, 8))
def test_guidance_is_the_power_of_the_ratio(seed, s):
    c, u = np.random.default_rng(seed).standard_normal((2, 3, 5))
    pc, pu = ar.probabilities(c), ar.probabilities(u)
    want = pc**s * pu ** (1 - s)
    got = ar.probabilities(ar.guided(c, u, s))
    np.testing.assert_allclose(got, want / want.sum(-1, keepdims=True), rtol=1e-12)
    w = s - 1
    np.testing.assert_allclose(ar.guided(c, u, s), (1 + w) * c - w * u, rtol=1e-12, atol=1e-12)


@given(seeds)
def test_guidance_of_0_and_1_are_the_models_bit_for_bit(seed):
    c, u = logits_of(seed), logits_of(seed + 1)
    np.testing.assert_array_equal(ar.guided(c, u, 1), c)
    np.testing.assert_array_equal(ar.guided(c, u, 0.0), u)
    same = ar.guided(c, c, 3.7)
    np.testing.assert_array_equal(np.isfinite(same), np.isfinite(c))
    np.testing.assert_array_equal(same[np.isfinite(c)], c[np.isfinite(c)])
    np.testing.assert_array_equal(np.isneginf(ar.guided(c, u, 2.0)), np.isneginf(c) | np.isneginf(u))


def test_guidance_is_affine_in_its_scale(rng):
    c, u = rng.standard_normal((2, 3, 5))
    a, b, mid = (ar.guided(c, u, s) for s in (-1.0, 4.0, 1.5))
    np.testing.assert_allclose(mid, (a + b) / 2, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("s", [0.0, 1.0, 2.5])
def test_guided_models_have_the_guided_law(s):
    """Steps and whole passes agree, and every token's distribution is the enumerated one."""
    c, u = Table(3, 4, 0), Table(3, 4, 1)
    logits = ar.guided_logits(c.logits, u.logits, s)
    step = ar.guided_step(c.step, u.step, s)
    x, _ = check_sums_to_one(logits, 3, 4)
    np.testing.assert_allclose(
        ar.probabilities(logits(x)), ar.probabilities(u.logits(x) + s * (c.logits(x) - u.logits(x)))
    )
    check_cached(logits, step, x[::7])
    draws = ar.uniforms(50, 4, rng=np.random.default_rng(2))
    np.testing.assert_array_equal(ar.sample(logits, draws), ar.sample_cached(step, draws))


# --- the loop ---------------------------------------------------------------------------------------------------------


def test_the_support_checks_pass_for_a_table_and_see_what_they_are_for():
    table = Table(2, 4)
    x, p = check_sums_to_one(table.logits, 2, 4)
    check_causal(table.logits, x[:3], 2)
    check_cached(table.logits, table.step, x)
    with pytest.raises(AssertionError, match="add up to"):  # a token that changes its own distribution
        check_sums_to_one(lambda t: table.logits(t) + np.eye(2)[t], 2, 4)
    with pytest.raises(AssertionError, match="too early"):
        check_causal(lambda t: table.logits(t) + np.eye(2)[t], x[:3], 2)
    with pytest.raises(AssertionError, match="not seen at"):
        check_causal(lambda t: table.logits(np.where(np.arange(t.shape[1]) == 1, 0, t)), x[:3], 2)
    with pytest.raises(AssertionError, match="after a prefix"):
        check_cached(table.logits, lambda new, cache: table.step(new, None), x)
    with pytest.raises(AssertionError, match="chi-square"):
        check_histogram(x[np.random.default_rng(0).integers(0, len(x), 4000)], x, p)


@pytest.mark.parametrize("cached", [False, True])
def test_samples_have_the_enumerated_law(cached):
    """20,000 sequences against the probabilities of all 27: a cell's share is known to 0.3 % of the whole."""
    table = Table(3, 3, seed=5, scale=1.5)
    x, p = check_sums_to_one(table.logits, 3, 3)
    known = {tuple(row): table.row(row) for i in range(3) for row in every_sequence(3, i).tolist()}
    table.row = lambda beginning: known[tuple(beginning)]
    u = ar.uniforms(20_000, 3, rng=np.random.default_rng(7))
    samples = ar.sample_cached(table.step, u) if cached else ar.sample(table.logits, u)
    check_histogram(samples, x, p)


def test_filtered_samples_have_the_filtered_law():
    table = Table(4, 3, seed=5, scale=1.5)
    x = every_sequence(4, 3)
    p = np.exp(ar.token_log_p(ar.filtered(table.logits(x), temperature=0.7, top_k=3, top_p=0.9), x).sum(1))
    assert p.sum() == pytest.approx(1, abs=1e-12) and (p == 0).any()
    known = {tuple(row): table.row(row) for i in range(3) for row in every_sequence(4, i).tolist()}
    table.row = lambda beginning: known[tuple(beginning)]
    u = ar.uniforms(20_000, 3, rng=np.random.default_rng(8))
    samples = ar.sample_cached(table.step, u, temperature=0.7, top_k=3, top_p=0.9)
    allowed = {tuple(row) for row in x[p > 0].tolist()}
    assert {tuple(row) for row in samples.tolist()} <= allowed
    check_histogram(samples, x[p > 0], p[p > 0])


@given(seeds, st.integers(1, 4), st.integers(1, 6), st.data())
def test_both_loops_draw_the_same_and_a_prefix_gives_the_sample_again(seed, n, t, data):
    table = Table(3, t, seed=seed)
    u = ar.uniforms(n, t, rng=np.random.default_rng(seed))
    settings = data.draw(st.sampled_from([{}, {"temperature": 0.5}, {"top_k": 2}, {"top_p": 0.6}, {"temperature": 0}]))
    whole = ar.sample(table.logits, u, **settings)
    np.testing.assert_array_equal(ar.sample_cached(table.step, u, **settings), whole)
    k = data.draw(st.integers(0, t))
    for function, model in ((ar.sample, table.logits), (ar.sample_cached, table.step)):
        again = function(model, np.where(np.arange(t) < k, np.nan, u), prefix=whole[:, :k], **settings)
        np.testing.assert_array_equal(again, whole)
    rows = data.draw(st.permutations(range(n)))[: data.draw(st.integers(1, n))]
    np.testing.assert_array_equal(
        ar.sample(table.logits, u[rows], **settings), whole[rows]
    )  # whoever else is in the batch


def test_the_model_is_asked_for_beginnings_and_never_told_of_later_tokens():
    table = Table(3, 4)
    u = np.random.default_rng(0).random((2, 4))
    x = ar.sample(table.logits, u, prefix=np.array([[2], [1]]))
    assert [t.shape for t in table.told] == [(2, 2), (2, 3), (2, 4)]
    for t in table.told:
        i = t.shape[1] - 1
        np.testing.assert_array_equal(t[:, :i], x[:, :i])
        assert not t[:, i].any()
    told = []

    def step(new, cache):
        told.append(new.copy())
        return table.step(new, cache)

    ar.sample_cached(step, u, prefix=x[:, :2])
    np.testing.assert_array_equal(told[0], x[:, :2])
    np.testing.assert_array_equal(told[1], x[:, 2:3])
    assert len(told) == 2
    told.clear()
    ar.sample_cached(step, u)
    assert told[0].shape == (2, 0), "without a prefix the first call tells nothing"


def test_every_state_can_be_seen_and_not_changed():
    table, seen = Table(3, 4), []

    def callback(i, tokens):
        seen.append((i, tokens.copy()))
        tokens[...] = 2

    u = np.random.default_rng(0).random((2, 4))
    want = ar.sample(table.logits, u)
    x = ar.sample(table.logits, u, prefix=want[:, :1], callback=callback)
    np.testing.assert_array_equal(x, want)
    assert [i for i, _ in seen] == [1, 2, 3, 4]
    for i, tokens in seen:
        np.testing.assert_array_equal(tokens, x[:, :i])


def test_uniforms_are_part_of_the_contract():
    """One call, sample by sample: more samples keep the first."""
    u = ar.uniforms(3, 4, rng=np.random.default_rng(0))
    np.testing.assert_array_equal(u, np.random.default_rng(0).random(12).reshape(3, 4))
    np.testing.assert_array_equal(ar.uniforms(5, 4, rng=np.random.default_rng(0))[:3], u)


def test_what_is_not_allowed_is_not_drawn_however_likely_it_is():
    """A mask by a large negative number would be overcome by these logits."""
    allowed = np.ones((3, 4), bool)
    allowed[1] = [True, False, False, False]
    logits = np.array([0.0, 1e30, 1e30, 0.0])
    u = ar.uniforms(50, 3, rng=np.random.default_rng(0))
    x = ar.sample(lambda t: np.tile(logits, (*t.shape, 1)), u, allowed=allowed)
    assert (x[:, 1] == 0).all() and set(x[:, 0]) == {1, 2}
    each = np.tile(allowed, (50, 1, 1))
    each[7, 1] = [False, False, False, True]
    x = ar.sample(lambda t: np.tile(logits, (*t.shape, 1)), u, allowed=each)
    assert x[7, 1] == 3 and (np.delete(x[:, 1], 7) == 0).all()
    each[7, 1] = False
    with pytest.raises(ValueError, match="at least one token"):
        ar.sample(lambda t: np.tile(logits, (*t.shape, 1)), u, allowed=each)


def test_padded_models_are_models_of_beginnings():
    table = Table(3, 4)
    shapes = []

    def whole(tokens):
        shapes.append(tokens.shape[1])
        return table.logits(tokens)

    u = np.random.default_rng(0).random((3, 4))
    np.testing.assert_array_equal(ar.sample(ar.padded(whole, 4), u), ar.sample(table.logits, u))
    assert shapes == [4] * 4


def test_log_likelihood_is_exact_in_blocks_and_keeps_its_digits():
    table = Table(3, 5, scale=20)
    x = every_sequence(3, 5)[::17]
    want = [sum(row[v] - np.logaddexp.reduce(row) for row, v in zip(table.logits(y[None])[0], y)) for y in x]
    for block in (1, 4, 64):
        np.testing.assert_allclose(ar.log_likelihood(table.logits, x, block=block), want, rtol=1e-13)
    assert ar.log_likelihood(table.logits, x[:0]).shape == (0,)
    single = ar.log_likelihood(lambda t: table.logits(t).astype(np.float32), x)
    double = ar.log_likelihood(lambda t: table.logits(t).astype(np.float32).astype(np.float64), x)
    np.testing.assert_array_equal(single, double)  # float32 is what the model says, not what is added up
    rare = ar.token_log_p(np.array([[0.0, -800.0]]), np.array([1]))
    assert rare == [-800.0], "no probability underflows on the way"


def test_nothing_is_changed():
    table = Table(3, 4)
    u, logits = np.random.default_rng(0).random((2, 4)), logits_of(0)
    prefix, allowed = np.array([[1], [2]]), np.ones((4, 3), bool)
    for a in (u, logits, prefix, allowed):
        a.flags.writeable = False
    ar.filtered(logits, temperature=0.5, top_k=3, top_p=0.5)
    ar.sample(table.logits, u, prefix=prefix, allowed=allowed)
    ar.guided(logits, logits, 2.0)


# --- mistakes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_broken_model_stops_the_sampler_at_its_position(bad):
    def broken(tokens):
        logits = np.zeros((*tokens.shape, 3))
        logits[-1, 2:] = bad
        return logits

    u = np.random.default_rng(0).random((2, 5))
    with pytest.raises(FloatingPointError, match=r"for token 2$"):
        ar.sample(broken, u)
    with pytest.raises(FloatingPointError, match=r"for token 2$"):
        ar.log_likelihood(broken, np.zeros((2, 5), np.int64))
    with pytest.raises(ValueError, match="finite or -inf"):
        ar.draw(np.array([[0, bad]]), np.array([0.5]))


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda l: ar.with_temperature(l, -0.1), "temperature must be a number of at least 0, got -0.1"),
        (lambda l: ar.with_temperature(l, np.nan), "temperature"),
        (lambda l: ar.with_temperature(l, np.inf), "temperature"),
        (lambda l: ar.keep_top_k(l, 0), "top_k must be at least 1, or None to keep every token, got 0"),
        (lambda l: ar.keep_top_p(l, 0.0), "top_p must be above 0 and at most 1"),
        (lambda l: ar.keep_top_p(l, 1.1), "top_p must be above 0 and at most 1"),
        (lambda l: ar.keep_top_p(l, np.nan), "top_p"),
        (lambda l: ar.guided(l, l, np.inf), "scale must be a finite number, got inf"),
        (lambda l: ar.draw(np.full((1, 3), -np.inf), np.array([0.1])), "at least one token"),
        (lambda l: ar.sample(Table(3, 2).logits, np.array([[0.5, 1.0]])), "u must be in"),
        (lambda l: ar.sample(Table(3, 2).logits, np.full((1, 2), np.nan)), "u must be in"),
        (
            lambda l: ar.sample(Table(3, 2).logits, np.zeros((1, 2)), prefix=np.zeros((1, 3), int)),
            "prefix must hold at most 2",
        ),
    ],
)
def test_mistakes_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(logits_of(0))
