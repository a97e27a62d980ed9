"""DALL-E against enumeration: a vocabulary so small that every caption with every picture can be written down."""

import dataclasses

import numpy as np
import pytest
from autoregression import ALPHA, check_cached, check_causal, check_histogram, check_sums_to_one, every_sequence
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import norm

import autograd as ag
from minigen.data import Dataset, Split, load
from minigen.data.tokenizer import WordTokenizer
from minigen.metrics.prompts import prompts_of
from minigen.models import dalle
from minigen.samplers import autoregressive as ar
from minigen.train.loop import Trainer

TINY = dalle.Config(codes=8, codec_steps=2, clip_steps=2, steps=3, width=16, layers=1, heads=2, batch_size=4)
TOY = dalle.Vocabulary(words=3, length=2, codes=2)  # 3 words, of which 2 is <eos>, 2 paddings, 2 codes: 7 tokens
EOS = 2


def toy(seed, vocabulary=TOY, grid=(1, 2), layers=2, scale=0.6):
    """A network in float64 with weights that are all at work."""
    config = dataclasses.replace(TINY, width=8, layers=layers)
    net = dalle.DALLE(vocabulary, grid, config, rng=np.random.default_rng(seed)).astype(np.float64)
    rng = np.random.default_rng((seed, 1))
    for p in net.parameters():
        p.data[...] = scale * rng.standard_normal(p.shape)
    return net


def frozen(a):
    a = np.array(a)
    a.flags.writeable = False
    return a


@pytest.fixture(scope="module")
def shapes() -> Dataset:
    return load("shapes")


@pytest.fixture(scope="module")
def system(shapes):
    """A system that has done its few steps, in the order of its stages."""
    found = dalle.build(TINY, shapes, seed=0)
    trainer = Trainer(found, seed=0)
    for _ in range(trainer.total):
        trainer.advance(shapes.train)
    return found


# --- one sequence of two kinds ----------------------------------------------------------------------------------------


def test_tokens_of_the_two_kinds_do_not_overlap():
    text, codes = frozen([[0, EOS, 1], [1, 1, EOS]]), frozen([[[0, 1], [3, 2]], [[2, 2], [0, 0]]])
    v = dalle.Vocabulary(words=3, length=3, codes=4)
    tokens = dalle.sequence(v, text, codes, EOS)
    np.testing.assert_array_equal(tokens, [[0, 2, 5, 6, 7, 9, 8], [1, 1, 2, 8, 8, 6, 6]])
    np.testing.assert_array_equal(v.codes_of(tokens), codes.reshape(2, 4))
    assert len(v) == 10 and v.first_code == 6
    many = dalle.Vocabulary(words=60, length=20, codes=256)
    assert many.of_codes(np.array([[200]], np.uint8)).tolist() == [[280]]


@given(st.integers(0, 999))
def test_what_stands_behind_eos_changes_nothing(seed):
    rng = np.random.default_rng(seed)
    v = dalle.Vocabulary(words=9, length=6, codes=2)
    text = rng.integers(0, 9, (4, 6))
    ends = np.array([(row == EOS).argmax() if (row == EOS).any() else 6 for row in text])
    other = np.where(np.arange(6) > ends[:, None], rng.integers(0, 9, (4, 6)), text)
    first, second = v.of_text(frozen(text), EOS), v.of_text(frozen(other), EOS)
    np.testing.assert_array_equal(first, second)
    padding = np.arange(6) > ends[:, None]
    np.testing.assert_array_equal(first[padding], (9 + np.arange(6) + 0 * first)[padding])
    np.testing.assert_array_equal(first[~padding], text[~padding])


def test_earlier_places_by_hand():
    np.testing.assert_array_equal(
        dalle.earlier((2, 3), ((1, -1), (1, 0), (1, 1), (0, 2))),
        [[-1, -1, -1, -1], [-1, -1, -1, -1], [-1, -1, -1, 0], [-1, 0, 1, -1], [0, 1, 2, -1], [1, 2, -1, 3]],
    )


@given(st.integers(1, 6), st.integers(1, 6))
def test_earlier_places_are_earlier(h, w):
    found = dalle.earlier((h, w))
    assert (found < np.arange(h * w)[:, None]).all()


def test_the_probabilities_of_all_captions_with_all_pictures_add_up_to_one():
    x, p = check_sums_to_one(toy(0).logits, len(TOY), 4)
    of_their_kind = (x[:, :2] < TOY.first_code).all(1) & (x[:, 2:] >= TOY.first_code).all(1)
    assert (p[~of_their_kind] == 0).all() and (p[of_their_kind] > 0).all()


@given(st.integers(0, 999))
def test_no_position_allows_a_token_of_the_other_kind(seed):
    """Whatever the network says, also where it says it with all its might."""
    net = toy(seed, scale=50.0)
    tokens = np.random.default_rng(seed).integers(0, 2, (5, 4)) + np.array([0, 0, TOY.first_code, TOY.first_code])
    ell = net.logits(tokens)
    assert np.isneginf(ell[:, :2, TOY.first_code :]).all() and np.isneginf(ell[:, 2:, : TOY.first_code]).all()
    assert np.isfinite(ell[:, :2, : TOY.first_code]).all() and np.isfinite(ell[:, 2:, TOY.first_code :]).all()


def test_every_token_sees_all_before_it_and_none_after_it():
    v = dalle.Vocabulary(words=3, length=3, codes=3)
    net = toy(1, v, grid=(3, 3))
    first = np.where(np.arange(12) < 3, 0, v.first_code)

    def finite(a):  # the tokens of the other kind, which are -inf whatever is known, as 0
        return np.nan_to_num(net.logits(a + first[: a.shape[1]]), neginf=0.0)

    check_causal(finite, np.random.default_rng(0).integers(0, 3, (2, 12)), 3, roundings=100)


def test_the_cached_step_says_what_the_whole_pass_says():
    v = dalle.Vocabulary(words=3, length=3, codes=3)
    net = toy(2, v, grid=(2, 3))
    tokens = np.random.default_rng(0).integers(0, 3, (2, 9)) + np.where(np.arange(9) < 3, 0, v.first_code)
    check_cached(net.logits, net.step, frozen(tokens))


# --- the loss ---------------------------------------------------------------------------------------------------------


@given(st.integers(0, 999), st.sampled_from([0.0, 1 / 8, 0.3, 1.0]))
def test_dalle_loss_weighs_the_means_of_the_two_kinds(seed, w):
    net = toy(seed)
    rng = np.random.default_rng(seed)
    tokens = np.concatenate([rng.integers(0, 5, (3, 2)), TOY.first_code + rng.integers(0, 2, (3, 2))], 1)
    of_text, of_codes = net.losses(frozen(tokens))
    log_p = ar.token_log_p(net.logits(tokens), tokens)
    assert float(of_text) == pytest.approx(-log_p[:, :2].mean(), rel=1e-10)
    assert float(of_codes) == pytest.approx(-log_p[:, 2:].mean(), rel=1e-10)
    want = -(w * log_p[:, :2].mean() + (1 - w) * log_p[:, 2:].mean())
    assert float(dalle.weighted(of_text, of_codes, w)) == pytest.approx(want, rel=1e-10)


def test_an_untrained_network_knows_nothing_at_all(shapes):
    """Its heads start at 0: ln(V + T) a word and ln K a code."""
    net = dalle.DALLE(TOY, (1, 2), TINY, rng=np.random.default_rng(0))
    tokens = np.array([[0, 2, 5, 6]])
    of_text, of_codes = net.losses(tokens)
    assert float(of_text) == pytest.approx(np.log(5), rel=1e-6) and float(of_codes) == pytest.approx(
        np.log(2), rel=1e-6
    )


@pytest.mark.parametrize("seed", [0, 1])
def test_gradients(seed):
    """Of the loss with respect to every parameter that it has."""
    net = toy(seed, layers=1, scale=0.3)
    tokens = np.array([[0, 2, 5, 6], [1, 1, 6, 6]])
    found = net.parameters()

    def loss(*values):
        kept = [p.data for p in found]
        named = {id(p): v for p, v in zip(found, values)}
        swap(net, named)
        try:
            return dalle.weighted(*net.losses(tokens), 1 / 8)
        finally:
            swap(net, {id(v): p for p, v in zip(found, values)})
            assert all(p.data is k for p, k in zip(found, kept))

    ag.gradcheck(loss, [p.data for p in found])


def swap(net, to):
    for _, module in net.named_modules():
        for name, value in list(vars(module).items()):
            if id(value) in to:
                setattr(module, name, to[id(value)])


@given(st.integers(0, 999))
def test_captions_are_left_out_in_another_array(seed):
    rng = np.random.default_rng(seed)
    text, null, out = frozen(rng.integers(0, 9, (5, 4))), frozen([2, 0, 0, 0]), frozen(rng.random(5) < 0.5)
    before = text.copy()
    found = dalle.without_captions(text, null, out)
    np.testing.assert_array_equal(text, before)
    assert not np.shares_memory(found, text)
    np.testing.assert_array_equal(found[out], np.broadcast_to(null, (out.sum(), 4)))
    np.testing.assert_array_equal(found[~out], text[~out])


def test_a_share_of_the_captions_is_left_out_in_training(shapes):
    """All of them: the caption's loss is then that of one caption, whatever the pictures'."""
    net_of = {}
    for null in (0.0, 1.0):
        found = dalle.build(dataclasses.replace(TINY, p_uncond=null), shapes, seed=0)
        loss = found.stages()[2].objectives[0].loss
        rng = np.random.default_rng(3)
        for p in found.modules["transformer"].parameters():
            p.data[...] = 0.3 * rng.standard_normal(p.shape)
        net_of[null] = [
            float(loss(shapes.train.take(slice(k, k + 4)), np.random.default_rng(0), 0)[1]["text"]) for k in (0, 4)
        ]
    assert net_of[1.0][0] == pytest.approx(net_of[1.0][1], rel=1e-6)
    assert abs(net_of[0.0][0] - net_of[0.0][1]) > 1e-3


def listening(shapes, **settings):
    """A system whose transformer says something of every token."""
    found = dalle.build(dataclasses.replace(TINY, **settings), shapes, seed=0)
    rng = np.random.default_rng(3)
    for p in found.modules["transformer"].parameters():
        p.data[...] = 0.3 * rng.standard_normal(p.shape)
    return found


def nats_by_hand(found, images, text):
    """-ln p a token of captions and of codes, from the contract of the samplers."""
    net, words = found.modules["transformer"], WordTokenizer()
    codes = dalle.vq_vae.Codec(found.modules["codec"]).encode(images)
    tokens = dalle.sequence(net.vocabulary, text, codes, words.eos)
    log_p = ar.token_log_p(net.logits(tokens), tokens)
    T = net.vocabulary.length
    return -log_p[:, :T].mean(dtype=np.float64), -log_p[:, T:].mean(dtype=np.float64)


@pytest.mark.parametrize(("settings", "w"), [({}, 1 / 8), ({"text_weight": 0.7}, 0.7)])
def test_training_weighs_the_caption_by_text_weight_and_the_codes_by_the_rest(settings, w, shapes):
    """The stage's loss from its parts: captions left out by the same rng, the codec's codes, means a token."""
    found = listening(shapes, p_uncond=0.5, **settings)
    batch = shapes.train.take(slice(0, 6))
    got, figures = found.stages()[2].objectives[0].loss(batch, np.random.default_rng(0), 0)
    words, left_out = WordTokenizer(), np.random.default_rng(0).random(6) < 0.5
    assert 0 < left_out.sum() < 6
    text = words.batch(list(batch.captions))[0]
    text[left_out] = words.null
    of_text, of_codes = nats_by_hand(found, shapes.scale(batch.images), text)
    assert abs(of_text - of_codes) > 0.1
    assert float(figures["text"]) == pytest.approx(of_text, rel=1e-4)
    assert float(figures["codes"]) == pytest.approx(of_codes, rel=1e-4)
    assert float(got) == pytest.approx(w * of_text + (1 - w) * of_codes, rel=1e-4)


def test_a_place_is_told_the_codes_above_it_and_the_two_to_its_left_and_no_others():
    """Another code at row 1, column 2 of 4 x 5 changes the inputs of the places that it is a neighbour of."""
    v = dalle.Vocabulary(words=3, length=2, codes=3)
    net = toy(0, v, grid=(4, 5))
    tokens = np.concatenate([[0, EOS], v.first_code + np.random.default_rng(0).integers(0, 2, 20)])[None]
    other = tokens.copy()
    other[0, 2 + 1 * 5 + 2] += 1
    a, b = (ag.raw(net.embed(x[:, :-1], 0))[0, 2:].reshape(4, 5, -1) for x in (tokens, other))
    told = {tuple(place) for place in np.argwhere((a != b).any(-1)).tolist()}
    assert told == {(1, 3), (1, 4), (2, 1), (2, 2), (2, 3)}


def test_figures_nats_a_code_are_the_codes_and_not_the_captions(shapes, monkeypatch):
    found = listening(shapes)
    monkeypatch.setattr(dalle, "prompt_report", lambda *args: {})
    monkeypatch.setattr(dalle, "prompt_accuracy", lambda *args: {"all": 0.0})
    monkeypatch.setattr(dalle, "BLOCK", 4)
    few = dataclasses.replace(shapes, test=shapes.test.take(slice(0, 12)))
    got = found.figures(few, rng=np.random.default_rng(0))["nats a code, test"]
    text = WordTokenizer().batch(list(few.test.captions))[0]
    of_text, of_codes = nats_by_hand(found, shapes.scale(few.test.images), text)
    assert got == pytest.approx(of_codes, rel=1e-4) and abs(of_text - of_codes) > 0.1


def test_figures_of_the_codec_and_of_prompts_say_what_was_measured(shapes, monkeypatch):
    """Pictures of one thing and of two after the codec, each beside its own scene; prompts with 1 candidate and with more."""
    found, asked = listening(shapes), []

    def accuracy(scenes, images):
        number = len(scenes[0].things)
        rows = [i for i, scene in enumerate(test.scenes) if len(scene.things) == number]
        assert list(map(str, scenes)) == [str(test.scenes[i]) for i in rows]
        codec = dalle.vq_vae.Codec(found.modules["codec"])
        np.testing.assert_array_equal(images, codec.decode(codec.encode(shapes.scale(test.images[rows]))))
        return {"all": 0.1 * number}

    def report(draw, n, groups):
        asked.append((draw.keywords["rerank"], n, groups))
        return {group: {"all": 0.3 * len(asked), "n": n} for group in groups}

    monkeypatch.setattr(dalle, "prompt_accuracy", accuracy)
    monkeypatch.setattr(dalle, "prompt_report", report)
    test = shapes.test.take(slice(0, 12))
    got = found.figures(dataclasses.replace(shapes, test=test), rng=np.random.default_rng(0))
    seen = ["seen, one thing", "seen, two things"]
    assert asked == [(1, dalle.SHOWN, seen), (dalle.CANDIDATES, dalle.SHOWN, seen)]
    for count, share in ((1, 0.3), (dalle.CANDIDATES, 0.6)):
        assert [got[f"prompts met, {group}, best of {count}"] for group in seen] == [share, share]
    assert [got[f"pictures of {what} right after the codec"] for what in ("one thing", "two things")] == [0.1, 0.2]


# --- sampling ---------------------------------------------------------------------------------------------------------

CAPTION, NULL = TOY.of_text(np.array([[1, EOS]]), EOS), TOY.of_text(np.array([[EOS, 0]]), EOS)[0]


def of_pictures(net, caption):
    """Every picture's tokens with the caption before it, and p(picture | caption) by enumeration."""
    pictures = every_sequence(2, 2) + TOY.first_code
    whole = np.concatenate([np.repeat(caption, len(pictures), 0), pictures], 1)
    return whole, np.exp(ar.token_log_p(net.logits(whole), whole)[:, 2:].sum(1))


def test_the_sampler_draws_pictures_given_the_caption():
    net, n = toy(3), 4000
    _, p = of_pictures(net, CAPTION)
    assert p.sum() == pytest.approx(1, abs=1e-12)
    u = ar.uniforms(n, 4, rng=np.random.default_rng(0))
    drawn = dalle.draw_codes(net, np.repeat(CAPTION, n, 0), NULL, u)
    check_histogram(drawn.reshape(n, 2), every_sequence(2, 2), p)


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 2.5])
def test_guided_pictures_are_drawn_from_the_combined_softmax(scale):
    """Code by code: softmax of null + s (caption - null), enumerated."""
    net, n = toy(4), 4000
    (with_caption, _), (without, _) = of_pictures(net, CAPTION), of_pictures(net, NULL[None])
    c, u = (net.logits(x)[:, 2:, TOY.first_code :] for x in (with_caption, without))
    p = np.exp(ar.token_log_p(u + scale * (c - u), every_sequence(2, 2)).sum(1))
    assert p.sum() == pytest.approx(1, abs=1e-12)
    uniform = ar.uniforms(n, 4, rng=np.random.default_rng(0))
    drawn = dalle.draw_codes(net, np.repeat(CAPTION, n, 0), NULL, uniform, guidance=scale)
    check_histogram(drawn.reshape(n, 2), every_sequence(2, 2), p)


@given(st.integers(0, 999), st.sampled_from([0.0, 1.0, 1.7, -0.5]))
def test_sampling_writes_into_nothing_and_both_routes_agree(seed, scale):
    """Read-only captions, null prompt, uniform numbers and kept codes; cached steps against the whole pass."""
    v = dalle.Vocabulary(words=3, length=3, codes=3)
    net, rng = toy(seed, v, grid=(2, 2)), np.random.default_rng(seed)
    text, null = frozen(v.of_text(rng.integers(0, 3, (3, 3)), EOS)), frozen(v.of_text(np.array([[EOS, 0, 0]]), EOS)[0])
    u, kept = frozen(rng.random((3, 7))), frozen(rng.integers(0, 3, (3, 1)))
    codes = dalle.draw_codes(net, text, null, u, guidance=scale, kept=kept)
    np.testing.assert_array_equal(codes.reshape(3, 4)[:, :1], kept)

    def unconditional(tokens):
        return net.logits(np.concatenate([np.broadcast_to(null, (len(tokens), 3)), tokens[:, 3:]], 1))

    prefix = np.concatenate([text, v.of_codes(kept)], 1)
    model = ar.guided_logits(net.logits, unconditional, scale)
    np.testing.assert_array_equal(codes.reshape(3, 4), v.codes_of(ar.sample(model, u, prefix=prefix)))


def test_the_null_prompt_is_put_in_once_and_in_another_array():
    seen = []

    def step(new, cache):
        seen.append(new)
        return new, 1

    null, new = frozen([2, 5]), frozen([[0, 1, 7], [1, 1, 8]])
    model = dalle.with_null(step, null)
    model(new, None)
    model(new[:, 2:], 1)
    np.testing.assert_array_equal(seen[0], [[2, 5, 7], [2, 5, 8]])
    assert seen[1].shape == (2, 1) and not np.shares_memory(seen[0], new)


@given(st.integers(0, 999))
def test_a_sample_does_not_know_the_others(seed):
    net = toy(seed, grid=(1, 2))
    u = np.random.default_rng(seed).random((5, 4))
    text = TOY.of_text(np.random.default_rng(seed).integers(0, 3, (5, 2)), EOS)
    together = dalle.draw_codes(net, text, NULL, u, guidance=1.5)
    for i in range(5):
        alone = dalle.draw_codes(net, text[i : i + 1], NULL, u[i : i + 1], guidance=1.5)
        np.testing.assert_array_equal(together[i], alone[0])


def test_more_samples_begin_with_the_fewer(system):
    """Also with candidates: those of sample i are its own."""
    for settings in ({"rerank": 1}, {"rerank": 3}, {"prompt": "a circle"}):
        few = system.sample(2, rng=np.random.default_rng(5), **settings)
        more = system.sample(4, rng=np.random.default_rng(5), **settings)
        np.testing.assert_allclose(more[:2], few, atol=1e-5)


def test_the_empty_prompt_is_the_null_prompt(system):
    """Guidance from the null prompt towards the null prompt goes nowhere, however far."""
    assert WordTokenizer().null.tolist() == WordTokenizer().encode("").tolist()
    drawn = [system.sample(2, rng=np.random.default_rng(0), prompt="", guidance=s) for s in (0.0, 1.0, 3.0)]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    np.testing.assert_array_equal(drawn[1], drawn[2])


def test_temperature_zero_is_the_likeliest_code_whatever_the_draws(system):
    prompt = "a small red circle"
    found = [
        system.sample(1, rng=np.random.default_rng(seed), prompt=prompt, **settings)
        for seed, settings in (
            (0, {"temperature": 0.0}),
            (1, {"temperature": 0.0}),
            (2, {"top_k": 1}),
            (3, {"top_p": 1e-9}),
        )
    ]
    for x in found[1:]:
        np.testing.assert_array_equal(x, found[0])


def test_a_trajectory_fills_the_picture_row_by_row(system):
    states = []
    x = system.sample(2, rng=np.random.default_rng(0), callback=lambda t, x_t: states.append((t, x_t)))
    assert [t for t, _ in states] == [64, 56, 48, 40, 32, 24, 16, 8, 0]
    np.testing.assert_array_equal(states[-1][1], x)
    assert (states[0][1] == 0).all() and (states[3][1][:, 12:] == 0).all()
    np.testing.assert_array_equal(states[3][1][:, :12], x[:, :12])


# --- best of N --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("N", "mean"), [(1, 0.0), (2, 0.564), (4, 1.029), (8, 1.424), (16, 1.766), (32, 2.070)])
def test_best_of_N_is_the_largest_of_N_draws(N, mean):
    """F^N: the mean of the largest of N standard normals, by quadrature; and of 4,000 rows that `best` chose from."""

    def moment(k):
        return quad(lambda x: x**k * N * norm.pdf(x) * norm.cdf(x) ** (N - 1), -9, 9, epsabs=1e-10)[0]

    assert moment(1) == pytest.approx(mean, abs=6e-4)
    scores = np.random.default_rng(N).standard_normal((4000, N))
    chosen = scores[np.arange(4000), dalle.best(frozen(scores))]
    error = np.sqrt((moment(2) - moment(1) ** 2) / 4000)
    assert abs(chosen.mean() - moment(1)) < norm.isf(ALPHA / 2) * error


def test_the_first_of_equals_wins():
    np.testing.assert_array_equal(dalle.best(frozen([[1.0, 3.0, 3.0], [2.0, 2.0, 2.0], [0.0, 1.0, 5.0]])), [1, 0, 2])


def test_reranking_shows_the_candidate_that_clip_scores_highest(system):
    """Among the candidates of one sample, which are those of that many samples with the same draws."""
    prompt, judge = "a small red circle at the top", dalle.clip.Embedder(system.modules["clip"])
    shown = system.sample(1, rng=np.random.default_rng(0), prompt=prompt, rerank=6)
    candidates = system.sample(6, rng=np.random.default_rng(0), prompt=prompt, rerank=1)
    winner = int(np.argmax(judge.scores(candidates, [prompt] * 6)))
    np.testing.assert_allclose(shown[0], candidates[winner], atol=1e-5)


def test_candidates_are_those_of_their_own_prompt(shapes, monkeypatch):
    """A network that listens, and a judge that likes the last candidate: that of sample 0 is row 1, for its prompt."""
    found = dalle.build(TINY, shapes, seed=0)
    rng = np.random.default_rng(0)
    for p in found.modules["transformer"].parameters():
        p.data[...] = 0.5 * rng.standard_normal(p.shape)
    a, b = "a small red circle at the top", "a large blue ring on the left"
    asked = []

    def scores(self, images, prompts):
        asked.append(prompts)
        return np.arange(len(images))

    monkeypatch.setattr(dalle.clip.Embedder, "scores", scores)
    shown = found.paint([a, b], rng=np.random.default_rng(0), rerank=2)
    alone = {text: found.paint([text] * 4, rng=np.random.default_rng(0)) for text in (a, b)}
    assert asked == [[a, a, b, b]]
    np.testing.assert_allclose(shown, [alone[a][1], alone[b][3]], atol=1e-5)
    assert np.abs(alone[a][1] - alone[b][1]).max() > 1e-3, "the prompts matter"


def test_what_a_prompt_leaves_open_is_drawn_once_for_all_candidates_of_a_sample(system, monkeypatch):
    asked = []
    monkeypatch.setattr(
        dalle.clip.Embedder, "scores", lambda self, images, prompts: asked.extend(prompts) or np.zeros(len(images))
    )
    system.paint(["a green triangle"] * 8, rng=np.random.default_rng(0), rerank=2)
    assert asked[::2] == asked[1::2] and len(set(asked)) > 4
    assert all(text.split()[2:4] == ["green", "triangle"] and text.split()[1] in ("small", "large") for text in asked)


# --- the system -------------------------------------------------------------------------------------------------------


def test_stages_train_one_module_each_in_order_and_go_on_anywhere(shapes):
    whole = Trainer(dalle.build(TINY, shapes, seed=0), seed=0)
    assert [stage.name for stage in whole.stages] == ["codec", "clip", "transformer"]
    assert list(whole.system.modules) == ["codec", "clip", "transformer"]
    moved, saved = [], {}
    for done in range(whole.total):
        before = {name: m.flat.copy() for name, m in whole.system.modules.items()}
        if done in (3, 5):
            saved[done] = whole.position, {k: np.array(v) for k, v in whole.arrays().items()}
        whole.advance(shapes.train)
        moved.append([name for name, m in whole.system.modules.items() if (m.flat != before[name]).any()])
    assert moved[:2] == [["codec"]] * 2 and moved[2:3] == [["clip"]] and moved[5:] == [["transformer"]] * 2
    assert all(names[-1] == "transformer" for names in moved[4:])
    for done, (position, arrays) in saved.items():
        again = Trainer(dalle.build(TINY, shapes, seed=1), seed=0)
        again.load(position, lambda expected, arrays=arrays: arrays)
        for _ in range(whole.total - done):
            again.advance(shapes.train)
        for name, module in whole.system.modules.items():
            for key, array in module.arrays().items():
                np.testing.assert_array_equal(again.system.modules[name].arrays()[key], array, f"{name}/{key}")


def test_pictures_and_notes(system, shapes):
    found = {name: draw(shapes.test, rng=np.random.default_rng(0)) for name, draw in system.pictures.items()}
    assert {name: x.shape for name, x in found.items()} == {
        "reranked": (6, 16, 32, 32, 3),
        "completion": (6, 6, 32, 32, 3),
    }
    for x in found.values():
        assert x.min() >= -1 and x.max() <= 1
    whole, half = found["completion"][:, 0], found["completion"][:, 1]
    np.testing.assert_array_equal(half[:, :16], whole[:, :16])
    assert (half[:, 16:] == 0).all()
    images = shapes.scale(shapes.val.images[:3])
    assert [note.split("\n") for note in system.notes(images)] == [[said, "right"] for said in dalle.prompts_for(3)]
    assert system.notes(images[:1], prompt="") == ["no prompt"]
    assert system.notes(images[:1], prompt="circle red a") == ["circle red a\nno caption of this world"]


def test_candidates_are_shown_with_the_best_first(system, shapes):
    judge = dalle.clip.Embedder(system.modules["clip"])
    prompts = [*prompts_of("val", 1, 3), *prompts_of("val", 2, 3)]
    for row, prompt in zip(system.pictures["reranked"](shapes.test, rng=np.random.default_rng(0)), prompts):
        scores = judge.scores(row, [prompt] * 16)
        assert np.diff(scores).max() < 1e-5 and scores[0] > scores[-1] + 1e-4


def test_completions_go_on_from_the_upper_half_for_the_pictures_own_caption(system, shapes, monkeypatch):
    draw, given = dalle.draw_codes, {}

    def noted(net, text, null, u, *, kept=None, **how):
        given.update(text=text, kept=kept, codes=draw(net, text, null, u, kept=kept, **how))
        return given["codes"]

    monkeypatch.setattr(dalle, "draw_codes", noted)
    shown = system.pictures["completion"](shapes.test, rng=np.random.default_rng(0))
    some, codec = (
        shapes.test.take(np.random.default_rng(0).permutation(10_000)[:6]),
        dalle.vq_vae.Codec(system.modules["codec"]),
    )
    said = system.modules["transformer"].vocabulary.of_text(
        WordTokenizer().batch(list(some.captions))[0], WordTokenizer.eos
    )
    upper = codec.encode(shapes.scale(some.images)).reshape(6, -1)[:, :32]
    np.testing.assert_array_equal(given["text"], np.repeat(said, 4, axis=0))
    np.testing.assert_array_equal(given["kept"], np.repeat(upper, 4, axis=0))
    np.testing.assert_array_equal(shown[:, 2:].reshape(-1, 32, 32, 3), codec.decode(given["codes"]))


def test_prompts_are_the_same_however_many_there_are():
    assert dalle.prompts_for(24) == dalle.prompts_for(64)[:24] and len(set(dalle.prompts_for(64))) > 60


def test_the_discrete_vae_is_a_codec_as_well(shapes):
    found = dalle.build(dataclasses.replace(TINY, codec="dvae"), shapes, seed=0)
    assert found.sample(2, rng=np.random.default_rng(0)).shape == (2, 32, 32, 3)


def test_settings_that_do_not_fit_are_named(shapes, system):
    bare = Dataset("bare", *(Split(np.zeros((2, 32, 32, 3), np.uint8)) for _ in range(3)), levels=256, classes=())
    with pytest.raises(ValueError, match="the data set 'bare' has none: take shapes"):
        dalle.build(TINY, bare, seed=0)
    for change, words in (
        ({"codec": "kl"}, "codec must be 'vq' or 'dvae', got 'kl'"),
        ({"codes": 0}, "codes must be at least 1, got 0"),
        ({"heads": 3}, "heads must divide width, got 3 heads for width 16"),
        ({"p_uncond": 1.5}, "p_uncond must be a share from 0 to 1, got 1.5"),
    ):
        with pytest.raises(ValueError, match=words):
            dalle.build(dataclasses.replace(TINY, **change), shapes, seed=0)
    odd = Dataset("odd", *(Split(np.zeros((0, 30, 30, 3), np.uint8)) for _ in range(3)), levels=256, classes=())
    with pytest.raises(ValueError, match="does not divide a picture of 30 x 30"):
        dalle.build(TINY, odd, seed=0)
    for settings, words in (
        ({"prompt": "a small red zebra"}, "'zebra'"),
        ({"prompt": " ".join(["a"] * 20)}, "has 20 words, at most 19 fit"),
        ({"top_k": 0}, "top_k must be at least 1"),
        ({"top_p": 0.0}, "top_p must be above 0"),
        ({"temperature": -1.0}, "temperature must be a number of at least 0, got -1.0"),
        ({"rerank": 0}, "rerank must be at least 1, which shows every candidate, got 0"),
        ({"guidance": float("nan")}, "guidance must be a finite number, got nan"),
        ({"steps": 3}, "steps must be left out, got 3"),
    ):
        with pytest.raises(ValueError, match=words):
            system.sample(1, rng=np.random.default_rng(0), **settings)
