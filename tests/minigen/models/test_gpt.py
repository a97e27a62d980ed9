"""GPT against enumeration, perturbation, its own cache, and a Markov chain whose entropy rate is known."""

import dataclasses
import itertools
import lzma

import numpy as np
import pytest
from autoregression import check_cached, check_causal, check_histogram, check_sums_to_one, every_sequence
from hypothesis import given
from hypothesis import strategies as st

import autograd as ag
from minigen.data import Dataset, Split, load
from minigen.data import text as text_data
from minigen.data.tokenizer import BytePair
from minigen.maths.likelihood import categorical_log_likelihood
from minigen.models import gpt
from minigen.samplers import autoregressive as ar
from minigen.train.loop import Trainer
from tests.support.baselines import check_baselines, check_baselines_of_pictures_on_demand

TINY = gpt.Config(width=8, layers=2, heads=2, steps=20, batch_size=8)


def names(vocab, length, *, seed=0, width=8, layers=2, heads=2, scale=0.5, dropout=0.0):
    """A GPT on names in float64, moved away from its quiet start so that every part of it speaks."""
    rng = np.random.default_rng(seed)
    net = gpt.GPT(gpt.Names(vocab, width, rng=rng), length, width, layers, heads, dropout=dropout, rng=rng)
    return loud(net, scale, rng)


def numbers(levels, shape, *, seed=0, width=8, layers=2, heads=2, scale=0.5, mixture=3, reach=1):
    """The same on the grey levels of pictures."""
    rng = np.random.default_rng(seed)
    ends = gpt.Numbers(levels, shape, reach, width, mixture, rng=rng)
    return loud(gpt.GPT(ends, int(np.prod(shape)), width, layers, heads, rng=rng), scale, rng)


def loud(net, scale, rng):
    net.astype(np.float64)
    for p in net.parameters():
        p.data = p.data + scale * rng.standard_normal(p.shape)
    return net


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load("digits")


@pytest.fixture(scope="module")
def prose() -> Dataset:
    """A text data set of a few windows: the same sentences again and again, other ones in val and test."""
    parts = ("the cat sat on the mat. " * 40, "a cat and a mat. " * 12, "the mat sat on a cat! " * 12)
    pairs = BytePair.train(parts[0], 8)
    splits = [Split(text_data.windows(pairs.encode(part), 12)) for part in parts]
    return Dataset("prose", *splits, levels=len(pairs), classes=(), tokenizer=pairs)


@pytest.fixture(scope="module")
def few(digits) -> Dataset:
    """A few digits, for figures in no time."""
    parts = (s.take(slice(0, n)) for s, n in ((digits.train, 60), (digits.val, 20), (digits.test, 12)))
    return Dataset("digits", *parts, levels=17, classes=digits.classes)


# --- eq. 1: a distribution over sequences ----------------------------------------------------------------------------


@pytest.mark.parametrize("vocab, length", [(2, 1), (2, 8), (3, 5), (5, 3)])
def test_eq1_all_sequences_of_names_add_up_to_one(vocab, length):
    _, p = check_sums_to_one(names(vocab, length).logits, vocab, length)
    assert p.max() > 2 * p.min(), "and are not all alike"


@pytest.mark.parametrize("levels, shape", [(2, (3, 3, 1)), (3, (2, 3, 1)), (4, (2, 2, 1)), (2, (1, 2, 3))])
def test_eq1_all_pictures_add_up_to_one(levels, shape):
    """Among them all 2^9 binary pictures of 3x3, and pictures of three colours."""
    _, p = check_sums_to_one(numbers(levels, shape).logits, levels, int(np.prod(shape)))
    assert p.max() > 2 * p.min()


@pytest.mark.parametrize(
    "net",
    [
        names(5, 6),
        names(3, 5, heads=4, layers=1),
        numbers(4, (3, 3, 1)),
        numbers(3, (2, 2, 3)),
        numbers(3, (3, 3, 1), reach=0),
        numbers(3, (3, 3, 1), reach=2, layers=1),
    ],
)
def test_slot_i_depends_on_every_token_before_i_and_on_no_other(net):
    vocab = net.ends.levels if isinstance(net.ends, gpt.Numbers) else net.ends.table.shape[0]
    length = len(net.positions.data)
    check_causal(net.logits, np.random.default_rng(3).integers(0, vocab, (2, length)), vocab, roundings=1e3)


def test_the_mask_cannot_be_overcome():
    """Scores of 1e8 for a later token: a mask by a large negative number would let it through."""
    net = names(3, 5, layers=1)
    attention = net.transformer.blocks[0].attention
    attention.q.w.data = attention.q.w.data * 1e4
    attention.kv.w.data = attention.kv.w.data * 1e4
    x = np.array([[0, 1, 2, 0, 1]])
    for j in range(5):
        changed = x.copy()
        changed[:, j] = (x[:, j] + 1) % 3
        before, after = net.logits(x).data, net.logits(changed).data
        np.testing.assert_array_equal(before[:, : j + 1], after[:, : j + 1])


@pytest.mark.parametrize("net, vocab", [(names(3, 4), 3), (numbers(3, (2, 2, 1)), 3)])
def test_the_loss_is_the_likelihood_that_is_reported(net, vocab):
    """``log_p`` of training and the logits that everything else uses are one model, summed over tokens."""
    x = every_sequence(vocab, 4)
    log_p = net.log_p(x).data
    np.testing.assert_allclose(log_p, categorical_log_likelihood(x, net.logits(x).data), rtol=1e-10)
    np.testing.assert_allclose(ar.log_likelihood(net.logits, x), log_p.sum(1), rtol=1e-12)
    assert float(gpt.negative_log_likelihood(ag.Tensor(log_p))) == pytest.approx(-log_p.sum() / (81 * 4))


def test_mixture_logits_are_log_probabilities():
    net = numbers(6, (2, 3, 1))
    logits = net.logits(np.random.default_rng(0).integers(0, 6, (4, 6))).data
    np.testing.assert_allclose(np.exp(logits).sum(-1), 1, rtol=1e-12)


def test_the_mixture_starts_with_different_means_and_is_alike_in_all_else():
    """Equal means would get equal gradients for ever; scales and weights may start equal."""
    ends = gpt.Numbers(17, (4, 4, 1), 1, 8, 3, rng=np.random.default_rng(0)).astype(np.float64)
    weight, mean, log_scale = (a.data for a in ends.parts(np.random.default_rng(1).standard_normal((2, 5, 8))))
    assert np.all(weight == 0) and np.all(log_scale == -2)
    np.testing.assert_allclose(mean, np.broadcast_to(1.2 * np.tanh([-0.5, 0, 0.5]), mean.shape), rtol=1e-6)


@pytest.mark.parametrize("levels", [17, 256])
def test_no_output_breaks_the_mixture(levels):
    """Whatever the network says, a level has a finite cost and a finite gradient: scales stay from ln s = -7 to 3."""
    ends = gpt.Numbers(levels, (4, 4, 1), 1, 6, 2, rng=np.random.default_rng(0))
    ends.out.w.data[...] = np.eye(6)
    said = np.array([*itertools.product([-1e4, -90, 0, 90, 1e4], repeat=2)], np.float32)  # mean and log scale
    h = np.zeros((25, levels, 6), np.float32)
    h[..., 2:4], h[..., 4:] = said[:, None, :1], said[:, None, 1:]
    h = ag.Tensor(h, requires_grad=True)
    log_p = ends.log_p(np.tile(np.arange(levels), (25, 1)), h)
    ag.sum(log_p).backward()
    assert np.isfinite(log_p.data).all() and np.isfinite(h.grad).all()
    np.testing.assert_allclose(np.exp(log_p.data.astype(np.float64)).sum(1), 1, rtol=4 * levels * 1.2e-7)
    _, _, log_scale = ends.parts(h)
    assert log_scale.data.min() == pytest.approx(-7) and log_scale.data.max() == pytest.approx(3)


# --- the cache -------------------------------------------------------------------------------------------------------


@given(st.integers(0, 999), st.integers(1, 3), st.sampled_from([(1, 1), (2, 2), (3, 4)]), st.integers(1, 7))
def test_a_step_says_what_the_whole_pass_says(seed, n, layers_heads, length):
    layers, heads = layers_heads
    net = names(4, length, seed=seed, layers=layers, heads=heads, scale=0.3)
    check_cached(net.logits, net.step, np.random.default_rng(seed).integers(0, 4, (n, length)))


@pytest.mark.parametrize("shape", [(3, 3, 1), (2, 2, 3), (1, 4, 1), (4, 1, 1)])
def test_a_step_says_what_the_whole_pass_says_of_pictures(shape):
    net = numbers(5, shape, scale=0.3)
    length = int(np.prod(shape))
    check_cached(net.logits, net.step, np.random.default_rng(1).integers(0, 5, (3, length)))


def test_a_step_leaves_its_cache_as_it_was():
    """Two ways to go on from one beginning."""
    net = names(4, 4)
    _, cache = net.step(np.array([[1], [2]]))
    first, _ = net.step(np.array([[0], [3]]), cache)
    net.step(np.array([[2], [2]]), cache)
    again, _ = net.step(np.array([[0], [3]]), cache)
    np.testing.assert_array_equal(first.data, again.data)


def test_samples_have_the_law_that_is_enumerated():
    """20,000 pictures of 2x2 by the cache against the probabilities of all 81."""
    net = numbers(3, (2, 2, 1))
    x, p = check_sums_to_one(net.logits, 3, 4)
    samples = ar.sample_cached(net.step, ar.uniforms(20_000, 4, rng=np.random.default_rng(5)))
    check_histogram(samples, x, p)


# --- the start, the ends ---------------------------------------------------------------------------------------------


def test_at_first_every_token_is_nearly_equally_likely():
    """A table with std 0.02 makes logits of sizes up to |h| |row| = d 0.02 x a few: ln vocab and a little."""
    rng = np.random.default_rng(0)
    net = gpt.GPT(gpt.Names(50, 32, rng=rng), 20, 32, 2, 4, rng=rng)
    log_p = net.log_p(rng.integers(0, 50, (200, 20))).data
    assert -log_p.mean() == pytest.approx(np.log(50), abs=0.02)


def test_a_vocabulary_that_fills_the_type_of_its_tokens(rng):
    """The start's row, 256, is no uint8."""
    net = gpt.GPT(gpt.Names(256, 8, rng=rng), 4, 8, 1, 2, rng=rng)
    net.ends.start.data = net.ends.start.data + 1
    x = rng.integers(0, 256, (3, 4))
    np.testing.assert_array_equal(net.logits(x.astype(np.uint8)).data, net.logits(x).data)


def test_what_stands_before_the_first_token_is_no_token():
    """The start vector moves every distribution, the first of all; no token's row is in its place."""
    net = names(3, 4)
    x = np.array([[1, 0, 2, 1]])
    before = net.logits(x).data
    some = np.arange(8.0)  # a constant would not survive the first norm
    for token in range(3):  # the table's rows reach slot 0 through the logits alone, so what is thought there stays
        h, kept = net(x).data[0, 0], net.ends.table.data
        net.ends.table.data = kept + np.eye(3)[token][:, None] * some
        np.testing.assert_allclose(net(x).data[0, 0], h, rtol=1e-9)
        net.ends.table.data = kept
    net.ends.start.data = net.ends.start.data + some
    assert (np.abs(net.logits(x).data - before).max(-1) > 1e-3).all()


def test_tied_weights_are_one_parameter_with_both_gradients():
    """The gradient of the table is that of a table that is only embedded plus that of one that only gives logits."""
    net = names(4, 5)
    found = net.named_parameters()
    assert sum(p.shape == (4, 8) for p in found.values()) == 1
    x = np.random.default_rng(2).integers(0, 4, (3, 5))
    gpt.negative_log_likelihood(net.log_p(x)).backward()
    both, table = net.ends.table.grad.copy(), net.ends.table.data

    def loss(rows_in, rows_out):
        net.ends.table = rows_in
        h = net(x)
        return -ag.mean(categorical_log_likelihood(x, ag.matmul(h, ag.transpose(rows_out, (1, 0)))))

    rows_in, rows_out = (ag.Tensor(table.copy(), requires_grad=True) for _ in range(2))
    loss(rows_in, rows_out).backward()
    assert np.abs(rows_in.grad).max() > 1e-3 and np.abs(rows_out.grad).max() > 1e-3
    np.testing.assert_allclose(both, rows_in.grad + rows_out.grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("net, vocab", [(names(4, 4, layers=1), 4), (numbers(4, (2, 2, 1), layers=1), 4)])
def test_the_loss_differentiates(net, vocab):
    x = np.random.default_rng(0).integers(0, vocab, (2, 4))
    parameters = net.named_parameters()
    places = {id(p): (m, key) for _, m in net.named_modules() for key, p in vars(m).items() if isinstance(p, ag.Tensor)}

    for name, p in parameters.items():
        owner, key = places[id(p)]

        def loss(value, owner=owner, key=key):
            setattr(owner, key, value)
            return gpt.negative_log_likelihood(net.log_p(x))

        ag.gradcheck(loss, [p.data], step=1e-4)
        setattr(owner, key, p)
        assert net.named_parameters()[name] is p


def test_numbers_are_told_the_level_whether_it_is_0_and_whether_it_is_there():
    """Of a picture of 2 x 3 before each pixel: the last token, those above (left, middle, right), the one to the left."""
    ends = gpt.Numbers(5, (2, 3, 1), 1, 4, 1, rng=np.random.default_rng(0))
    ends.linear_in.w = ag.Tensor(np.eye(15), requires_grad=True)
    ends.linear_in.b = ag.Tensor(np.zeros(15), requires_grad=True)
    e = ends.embed(np.array([[4, 0, 1, 2, 3]]), 0).data
    assert e.shape == (1, 6, 15)
    np.testing.assert_array_equal(e[0, 0], np.zeros(15))  # before the first: nothing
    np.testing.assert_array_equal(e[0, 2].reshape(3, 5), [[-1, 0, 0, 0, -1], [1, 0, 0, 0, 1], [1, 0, 0, 0, 1]])
    np.testing.assert_array_equal(e[0, 3].reshape(3, 5), [[-0.5, 0, 1, -1, 0], [0, 0, 0, 1, 0], [1, 0, 1, 1, 0]])
    np.testing.assert_array_equal(e[0, 4].reshape(3, 5), [[0, 1, -1, -0.5, 0], [0, 0, 1, 0, 0], [1, 1, 1, 1, 1]])
    np.testing.assert_array_equal(ends.embed(np.array([[4, 0, 1, 2, 3]]), 3).data, e[:, 3:])


@given(st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3)), st.integers(0, 3))
def test_neighbours_are_earlier_near_and_all_of_them(shape, reach):
    found = gpt.neighbours(shape, reach)
    places = [np.array(place) for place in np.ndindex(shape)]
    for i, row in enumerate(found):
        assert row[0] == i - 1 and (row < i).all()
        near = [j for j in range(i) if (np.abs(places[i] - places[j])[:2] <= reach).all()]
        assert sorted(row[1:][row[1:] >= 0]) == near, "each of them once"
    for column in found.T[1:]:
        there = np.flatnonzero(column >= 0)
        steps = {(*(places[column[i]] - places[i])[:2], places[column[i]][2]) for i in there}
        assert len(steps) == 1, "the same neighbour in a column"
    np.testing.assert_array_equal(gpt.neighbours(shape, 10**9), gpt.neighbours(shape, max(shape)))


# --- training ---------------------------------------------------------------------------------------------------------


def markov(transition, n, t, rng):
    """Sequences of a chain that starts in its stationary distribution."""
    values, vectors = np.linalg.eig(transition.T)
    pi = np.real(vectors[:, np.argmax(np.real(values))])
    pi /= pi.sum()
    x = np.empty((n, t), np.int64)
    x[:, 0] = rng.random(n) < pi[1]
    for i in range(1, t):
        x[:, i] = rng.random(n) < transition[x[:, i - 1], 1]
    return x, pi


def test_on_a_markov_chain_the_loss_reaches_the_entropy_rate():
    r"""$H = H(\pi) + (t - 1) \sum_i \pi_i H(P_i)$ nats a sequence, and no model can do better but by chance.

    10,000 held-out sequences measure the mean to about 0.02 nats; what is left to learn is less than 0.02 nats a
    sequence of 12 tokens. Knowing only how often each state comes would cost 1.2 nats more.
    """
    rng = np.random.default_rng(0)
    transition = np.array([[0.9, 0.1], [0.4, 0.6]])
    t = 12
    train, pi = markov(transition, 4000, t, rng)
    test, _ = markov(transition, 10_000, t, rng)

    def entropy(p):
        return -np.sum(p * np.log(p), -1)

    rate = float(pi @ entropy(transition))
    exact = float(entropy(pi)) + (t - 1) * rate
    blind = t * float(entropy(pi))
    net = gpt.GPT(gpt.Names(2, 8, rng=rng), t, 8, 1, 2, rng=rng)
    data = Split(train)
    stage = gpt.Stage(
        "chain", [gpt.Objective("nats", net, lambda b, rng, step: (-ag.mean(net.log_p(b.images)), {}))], 200
    )
    stage = dataclasses.replace(stage, batch_size=64, lr=1e-2, warmup=20, schedule="cosine", ema=0.98)
    system = gpt.System(None, "chain", (t,), {"net": net}, lambda: [stage], lambda n, rng: None)
    trainer = Trainer(system, seed=0)
    for _ in range(200):
        trainer.advance(data)
    with trainer.averaged():
        log_p = ar.log_likelihood(net.logits, test, block=5000)
    first = np.log(pi)[test[:, 0]]
    true = first + np.log(transition)[test[:, :-1], test[:, 1:]].sum(1)
    assert abs(-true.mean() - exact) < 5 * true.std() / np.sqrt(len(test)), "the chain is the one that it should be"
    divergence = float(
        (true - log_p).mean()
    )  # KL(chain || model), with the noise of 10,000 draws of a small difference
    assert -5 * (true - log_p).std() / np.sqrt(len(test)) < divergence < 0.03
    assert blind - exact > 1


def test_a_batch_can_be_learnt_by_heart(few):
    config = dataclasses.replace(TINY, width=16, dropout=0.0, shift=0.0, steps=60, lr=2e-2, batch_size=4)
    few4 = dataclasses.replace(few, train=few.train.take(slice(0, 4)))
    system = gpt.build(config, few4, seed=0)
    trainer = Trainer(system, seed=0)
    losses = [trainer.advance(few4.train)["token.loss"] for _ in range(60)]
    assert losses[-1] < 0.6 * losses[5], "far below what the pixels' own frequencies would give"


def test_dropout_is_drawn_from_the_given_stream(few):
    system = gpt.build(dataclasses.replace(TINY, dropout=0.5), few, seed=0)
    loss = system.stages()[0].objectives[0].loss
    batch = few.train.take(slice(0, 4))
    one, two, other = (float(loss(batch, np.random.default_rng(seed), 0)[0]) for seed in (0, 0, 1))
    assert one == two != other


# --- the system ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("output", ["auto", "softmax"])
def test_nats_are_sums_over_pixels(few, output):
    """A silent network says the same of every pixel: its nats are those of one pixel times 64, in loss and figures."""
    system = gpt.build(dataclasses.replace(TINY, output=output, shift=0.0, dropout=0.0), few, seed=0)
    net = system.modules["gpt"]
    if output == "softmax":
        net.ends.table.data[...] = 0
        each = np.full(17, np.log(17))
    else:
        net.ends.out.w.data[...] = 0
        each = -net.ends.logits(np.zeros((1, 1, 8), np.float32)).data[0, 0]
    want = each[few.test.images].sum((1, 2, 3)).mean()
    found = system.figures(few, rng=np.random.default_rng(0))
    assert found["-ln p(picture), test, exact, nats"] == pytest.approx(want, rel=1e-5)
    assert found["the same in bits/dim"] == pytest.approx(want / 64 / np.log(2), rel=1e-5)
    assert found["uniform levels, nats"] == pytest.approx(64 * np.log(17))
    batch = few.test.take(slice(0, 5))
    _, figures = system.stages()[0].objectives[0].loss(batch, np.random.default_rng(0), 0)
    assert figures["nats"] == pytest.approx(each[batch.images].sum((1, 2, 3)).mean(), rel=1e-5)


def test_samples_are_grey_levels_and_every_state_is_a_picture(few):
    system = gpt.build(TINY, few, seed=0)
    seen = []
    x = system.sample(3, rng=np.random.default_rng(0), callback=lambda t, x: seen.append((t, x)))
    assert x.shape == (3, 8, 8, 1) and x.dtype == np.float32
    np.testing.assert_array_equal(few.scale(few.unscale(x)), x)
    assert [t for t, _ in seen] == list(range(64, -1, -1))
    np.testing.assert_array_equal(seen[-1][1], x)
    for t, state in seen:
        flat, whole = state.reshape(3, 64), x.reshape(3, 64)
        np.testing.assert_array_equal(flat[:, : 64 - t], whole[:, : 64 - t])
        assert not flat[:, 64 - t :].any(), "what is not known yet is mid-grey"
    np.testing.assert_array_equal(system.sample(2, rng=np.random.default_rng(0)), x[:2])
    cold = system.sample(3, rng=np.random.default_rng(0), temperature=0.0)
    np.testing.assert_array_equal(cold, np.repeat(cold[:1], 3, axis=0))


def test_completions_keep_their_half(few):
    system = gpt.build(TINY, few, seed=0)
    rows = system.pictures["completion"](few.test, rng=np.random.default_rng(0))
    assert rows.shape == (8, 10, 8, 8, 1)
    want = few.scale(few.test.images[np.random.default_rng(0).permutation(12)[:8]])
    np.testing.assert_array_equal(rows[:, 0], want)
    np.testing.assert_array_equal(rows[:, 1, :4], want[:, :4])
    assert not rows[:, 1, 4:].any()
    np.testing.assert_array_equal(rows[:, 2:, :4], np.repeat(want[:, None, :4], 8, axis=1))
    assert (rows[:, 2, 4:] != rows[:, 3, 4:]).any()


def test_text_goes_in_and_comes_out(prose):
    system = gpt.build(TINY, prose, seed=0)
    assert isinstance(system.modules["gpt"].ends, gpt.Names) and system.pictures == {}
    tokens = system.sample(4, rng=np.random.default_rng(0), prompt="the cat")
    assert tokens.shape == (4, 12) and tokens.max() < prose.levels
    texts = system.notes(tokens, prompt="the cat")
    assert all(text.startswith("the cat") for text in texts)
    assert all(c.isprintable() or c == "\n" for text in texts for c in text)
    assert system.notes(prose.test.images[:1])[0] == prose.tokenizer.decode(prose.test.images[0].tolist())
    with pytest.raises(ValueError, match="at most 12 tokens long"):
        system.sample(1, rng=np.random.default_rng(0), prompt="xyz" * 9)
    with pytest.raises(ValueError, match="no trajectory"):
        system.sample(1, rng=np.random.default_rng(0), callback=print)


def test_weights_carry_their_byte_pairs(prose):
    """What a weights file rebuilds knows how its tokens are spelt, without the data."""
    trained = gpt.build(TINY, prose, seed=0)
    nothing = Split(np.zeros((0, 12), np.uint16))
    loaded = gpt.build(TINY, Dataset("prose", nothing, nothing, nothing, prose.levels, ()), seed=1)
    loaded.modules["gpt"].load_arrays(trained.modules["gpt"].arrays())
    rng = np.random.default_rng
    x = trained.sample(2, rng=rng(0), prompt="a mat")
    np.testing.assert_array_equal(loaded.sample(2, rng=rng(0), prompt="a mat"), x)
    assert loaded.notes(x) == trained.notes(x)
    other = dataclasses.replace(prose, tokenizer=BytePair(prose.tokenizer.merges[:-1]))
    with pytest.raises(ValueError, match="not the one that the weights"):
        loaded.figures(other, rng=rng(0))


def test_bits_a_byte_divide_by_what_the_tokens_spell(prose):
    """A silent network costs ln vocab nats a token; the bytes are those of the text that was cut into windows."""
    system = gpt.build(TINY, prose, seed=0)
    system.modules["gpt"].ends.table.data[...] = 0
    found = system.figures(prose, rng=np.random.default_rng(0))
    tokens = prose.test.images
    n_bytes = sum(len(prose.tokenizer.decode(row)) for row in tokens.tolist())
    assert found["-ln p(window of 12 tokens), test, exact, nats"] == pytest.approx(12 * np.log(prose.levels), rel=1e-6)
    assert found["bits a byte"] == pytest.approx(tokens.size * np.log2(prose.levels) / n_bytes, rel=1e-6)
    assert all(value > 0 for value in found.values())


def test_what_stands_beside_bits_a_byte_has_seen_the_training_part_only(prose):
    """Frequencies of the training tokens, each seen once more than it was; xz's further bytes for the test part, in bits."""
    train, test, spelt = prose.train.images, prose.test.images, prose.tokenizer.tokens
    n_bytes = sum(len(spelt[k]) for k in test.ravel())

    def bits(part):
        share = (np.bincount(part.ravel(), minlength=prose.levels) + 1) / (part.size + prose.levels)
        return -np.log2(share[test]).sum() / n_bytes

    found = gpt.text_figures(30.0, prose, prose.tokenizer)
    assert abs(bits(train) - bits(test)) > 0.1 and abs(bits(train) - bits(prose.val.images)) > 0.01
    assert found["bits a byte, tokens by their frequency"] == pytest.approx(bits(train), rel=1e-9)
    known, new = (b"".join(spelt[k] for k in part.ravel()) for part in (train, test))
    sizes = [len(lzma.compress(text, preset=9)) for text in (known, known + new)]
    assert found["bits a byte, xz after the training part"] == pytest.approx(8 * (sizes[1] - sizes[0]) / n_bytes)
    assert found["bits a byte"] == pytest.approx(30 / 12 * test.size / np.log(2) / n_bytes)
    few = dataclasses.replace(prose, test=prose.test.take(slice(0, 7)))  # other numbers of windows and of tokens in one
    n_bytes = sum(len(spelt[k]) for k in test[:7].ravel())
    assert gpt.text_figures(30.0, few, prose.tokenizer)["bits a byte"] == pytest.approx(30 * 7 / np.log(2) / n_bytes)


def test_models_without_a_network_are_fitted_to_train_chosen_on_val_and_measured_on_test(few, monkeypatch):
    check_baselines(gpt, gpt.build(TINY, few, seed=0), few, 17, monkeypatch)


def test_figures_of_pictures_that_are_drawn_on_demand(monkeypatch):
    shapes = load("shapes")
    check_baselines_of_pictures_on_demand(gpt, gpt.build(TINY, shapes, seed=0), shapes, monkeypatch)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"width": 9}, "heads must divide the width, got 2 heads for a width of 9"),
        ({"layers": 0}, "layers must be at least 1, got 0"),
        ({"mixture": 0}, "mixture must be at least 1, got 0"),
        ({"output": "argmax"}, "output must be one of auto, logistics, softmax, got 'argmax'"),
        ({"shift": 1.5}, "shift must be a share from 0 to 1, got 1.5"),
        ({"dropout": 1.0}, "dropout must be at least 0 and below 1"),
    ],
)
def test_settings_that_do_not_fit_are_named(few, changes, message):
    with pytest.raises(ValueError, match=message):
        gpt.build(dataclasses.replace(TINY, **changes), few, seed=0)


def test_data_that_do_not_fit_are_named(few, prose):
    with pytest.raises(ValueError, match="holds points"):
        gpt.build(TINY, load("rings"), seed=0)
    with pytest.raises(ValueError, match="output must be softmax for texts"):
        gpt.build(dataclasses.replace(TINY, output="logistics"), prose, seed=0)
    with pytest.raises(ValueError, match="at least 256 tokens"):
        gpt.build(TINY, dataclasses.replace(prose, levels=200), seed=0)
    system = gpt.build(TINY, few, seed=0)
    with pytest.raises(ValueError, match="steps must be left out, got 5"):
        system.sample(1, rng=np.random.default_rng(0), steps=5)
    with pytest.raises(ValueError, match="a prompt needs weights that were trained on text, not on 'digits'"):
        system.sample(1, rng=np.random.default_rng(0), prompt="a")
    with pytest.raises(ValueError, match="sequences have at most 64 tokens, and number 65 was asked for"):
        system.modules["gpt"].logits(np.zeros((1, 65), np.int64))
