"""DALL-E 2's priors: Gaussian embeddings in closed form, two candidates, and embeddings as sentences whose
probabilities add up to 1.
"""

from functools import partial

import numpy as np
import pytest
from autoregression import check_cached, check_causal, check_sums_to_one
from hypothesis import given
from hypothesis import strategies as st
from systems import shaken

import autograd as ag
from minigen.data import load
from minigen.data.tokenizer import WordTokenizer
from minigen.maths import schedules
from minigen.maths.diffusion import q_sample
from minigen.models import clip
from minigen.models import dalle2_ar_prior as ar
from minigen.models import dalle2_prior as dp
from minigen.samplers import autoregressive

CLIP = clip.Config(width=6, channels=(8,), text_width=8, heads=2)
PROMPTS = ["a small red circle in the middle", "a large blue ring above a small cyan cross on a gray background", ""]


def frozen(a):
    a = np.array(a)
    a.flags.writeable = False
    return a


@pytest.fixture(scope="module")
def text():
    net = clip.CLIP((32, 32, 3), CLIP, rng=np.random.default_rng(0))
    return clip.Embedder(shaken(net, 0).astype(np.float64))


def captions_of(z):
    """Captions that are nothing but their vectors."""
    n = len(z)
    return dp.Caption(np.zeros((n, 1)), np.zeros((n, 1, 1)), np.zeros((n, 1), bool), frozen(z))


def diffusion_prior(seed=0):
    rng = np.random.default_rng(seed)
    net = dp.DiffusionPrior(6, 8, WordTokenizer().length, channels=8, layers=2, heads=2, rng=rng)
    return shaken(net.astype(np.float64), seed)


# --- captions ---------------------------------------------------------------------------------------------------------


def test_unclip_captions_do_not_depend_on_their_neighbours(text):
    said = dp.read(text, PROMPTS)
    length = WordTokenizer().length
    assert said.words.shape == (3, length, 8) and said.mask.shape == (3, length)
    for i, prompt in enumerate(PROMPTS):
        alone = dp.read(text, [prompt])
        assert said.mask[i].sum() == len(prompt.split()) + 1
        for a, b in zip(said, alone):
            np.testing.assert_allclose(a[i], b[0], atol=1e-12)
    np.testing.assert_allclose(said.z, text.encode_text(PROMPTS), atol=1e-12)
    assert not said.words[~said.mask].any()


def test_unclip_what_stands_behind_eos_is_one_learned_vector(text):
    said = dp.read(text, PROMPTS)
    tokens = shaken(dp.CaptionTokens(8, 6, 4, rng=np.random.default_rng(0)).astype(np.float64), 1)
    rubbish = said._replace(words=np.where(said.mask[..., None], said.words, 7.0))
    found = tokens(said).data
    np.testing.assert_array_equal(found, tokens(rubbish).data)
    assert (found[:, :-1][~said.mask] == tokens.absent.data).all()


# --- the diffusion prior ----------------------------------------------------------------------------------------------


def test_the_prior_takes_one_time_for_all_embeddings(text, rng):
    net, said, z_t = diffusion_prior(), dp.read(text, PROMPTS[:2]), rng.standard_normal((2, 6))
    with ag.no_grad():
        np.testing.assert_array_equal(net(z_t, 3, said).data, net(z_t, np.array([3, 3]), said).data)


def test_unclip_prior_hears_every_token_and_reads_the_last(text):
    net, said = diffusion_prior(), dp.read(text, PROMPTS[:2])
    z_t, t = np.random.default_rng(0).standard_normal((2, 6)), np.array([3, 9])
    before = net(z_t, t, said).data
    words = said.words.copy()
    words[:, 0] += 0.1
    told = {
        "a word": (z_t, t, said._replace(words=words)),
        "the caption's vector": (z_t, t, said._replace(z=said.z + 0.1)),
        "the time": (z_t, t + 1, said),
        "the noised embedding": (z_t + 0.1, t, said),
    }
    for what, changed in told.items():
        assert (abs(net(*changed).data - before).max(1) > 1e-6).all(), what
    net.query.data[..., 0] += 0.1
    assert abs(net(z_t, t, said).data - before).max() > 1e-6, "the token without content"


def test_unclip_prior_is_causal(text, monkeypatch):
    """What stands at a token knows nothing of those behind it: the words nothing of the noised embedding."""
    net, said, states = diffusion_prior(), dp.read(text, PROMPTS[:2]), []
    forward = type(net.transformer).forward

    def watched(self, x, **settings):
        states.append(forward(self, x, **settings))
        return states[-1]

    monkeypatch.setattr(type(net.transformer), "forward", watched)
    for z_t in np.random.default_rng(0).standard_normal((2, 2, 6)):
        net(z_t, np.array([3, 9]), said)
    one, two = (ag.raw(x) for x in states)
    assert np.array_equal(one[:, :-2], two[:, :-2]) and (one[:, -2:] != two[:, -2:]).all()


def test_unclip_eq2_loss_by_hand_and_by_differences():
    schedule, rng = schedules.cosine(20), np.random.default_rng(0)
    z, eps, w = rng.standard_normal((3, 4, 5))
    w, t = w[:, :1], np.array([1, 5, 12, 20])
    a = schedule.alpha_bar[t][:, None]
    by_hand = np.mean((w * (a**0.5 * z + (1 - a) ** 0.5 * eps) - z) ** 2)
    assert dp.l_prior(lambda z_t, t: w * z_t, z, t, eps, schedule) == pytest.approx(by_hand, rel=1e-12)
    assert dp.l_prior(lambda z_t, t: z, z, t, eps, schedule) == 0
    ag.gradcheck(lambda w: dp.l_prior(lambda z_t, t: w * z_t, z, t, eps, schedule), [w])


@given(st.integers(1, 300), st.integers(0, 99))
def test_unclip_embeddings_are_scaled_to_the_size_of_noise_and_back(d, seed):
    z = frozen(dp.unit(np.random.default_rng(seed).standard_normal((5, d))))
    np.testing.assert_allclose((dp.scaled(z) ** 2).mean(1), 1, rtol=1e-9)
    np.testing.assert_allclose(dp.unit(dp.scaled(z)), z, atol=1e-12)
    assert not dp.unit(np.zeros((1, d))).any()


class Gaussian:
    """(z_i, z_t) of one Gaussian, and what is best in closed form, about sqrt(d) z_i, which is called x here."""

    def __init__(self, d, seed):
        rng = np.random.default_rng(seed)
        root = rng.standard_normal((2 * d, 2 * d)) / d**0.5
        self.root, self.mean, self.d = root, rng.standard_normal(2 * d), d
        s = root @ root.T
        gain = s[:d, d:] @ np.linalg.inv(s[d:, d:])
        self.conditional = lambda z_text: self.mean[:d] + (z_text - self.mean[d:]) @ gain.T  # E[x | z_t]
        self.covariance = s[:d, :d] - gain @ s[d:, :d]  # of x given z_t

    def draws(self, n, rng):
        both = self.mean + rng.standard_normal((n, 2 * self.d)) @ self.root.T
        return both[:, : self.d], both[:, self.d :]

    def guess(self, schedule):
        """E[x | x_t, z_t]: what a prior that has learnt all there is to learn says."""

        def model(x_t, t, said):
            m, c, eye = self.conditional(said.z), self.covariance, np.eye(self.d)
            a = schedule.alpha_bar[np.asarray(t)]
            gain = a[:, None, None] ** 0.5 * c @ np.linalg.inv(a[:, None, None] * c + (1 - a)[:, None, None] * eye)
            return m + (gain @ (x_t - a[:, None] ** 0.5 * m)[..., None])[..., 0]

        return model


def test_unclip_eq2_is_least_at_the_conditional_mean_of_a_gaussian():
    """The gradient of the loss along every linear change of the closed form is 0, within 6 standard errors."""
    of, schedule, rng, n = Gaussian(3, 1), schedules.cosine(12), np.random.default_rng(0), 40_000
    x, z_text = of.draws(n, rng)
    best, said, t = of.guess(schedule), captions_of(z_text), rng.integers(1, 13, n)
    eps = rng.standard_normal(x.shape)
    x_t = q_sample(x, t, eps, schedule)
    known = np.concatenate([x_t, z_text, np.ones((n, 1))], axis=1)
    change = ag.Tensor(np.zeros((known.shape[1], 3)), requires_grad=True)

    def model(z_t, times):
        np.testing.assert_array_equal(z_t, x_t)
        return best(z_t, times, said) + ag.matmul(ag.Tensor(known), change)

    gradient = ag.raw(ag.grad(dp.l_prior(model, x, t, eps, schedule), change))
    residual = best(x_t, t, said) - x
    spread = 2 / 3 * np.einsum("ni,nj->ij", known**2, residual**2) ** 0.5 / n
    assert (abs(gradient) < 6 * spread).all()
    assert (abs(gradient + 2 / 3 * known.T @ (0.1 * x) / n) > 6 * spread).any(), "a tenth of x beside it would show"


def test_unclip_draws_of_a_gaussian_prior_have_the_conditional_mean_and_covariance():
    """DDIM is affine in z_T: its mean is exact, its gain in each direction that of the recursion, which goes to the covariance."""
    of, schedule, d = Gaussian(4, 2), schedules.cosine(400), 4
    z_text = np.broadcast_to(np.array([0.3, -1.0, 0.5, 2.0]), (d + 1, d))

    class Basis:
        def standard_normal(self, shape):
            assert shape == (d + 1, d)
            return np.concatenate([np.zeros((1, d)), np.eye(d)])

    said = captions_of(z_text)
    found = dp.sample(of.guess(schedule), said, schedule, steps=400, rng=Basis(), sampler="ddim")
    mean, gain = found[0], (found[1:] - found[0]).T
    variances, axes = np.linalg.eigh(of.covariance)
    a = schedule.alpha_bar

    def walked(m, s2, x):  # one direction, N(m, s2)
        for t in range(400, 0, -1):
            x_0 = m + a[t] ** 0.5 * s2 / (a[t] * s2 + 1 - a[t]) * (x - a[t] ** 0.5 * m)
            eps = (x - a[t] ** 0.5 * x_0) / (1 - a[t]) ** 0.5
            x = a[t - 1] ** 0.5 * x_0 + (1 - a[t - 1]) ** 0.5 * eps
        return x

    m = of.conditional(z_text[0]) @ axes
    np.testing.assert_allclose(mean @ axes, walked(m, variances, 0 * m), atol=1e-9)
    exact = np.diag(walked(0 * m, variances, 1.0))
    np.testing.assert_allclose(axes.T @ gain @ axes, exact, atol=1e-9)
    np.testing.assert_allclose(mean, of.conditional(z_text[0]), atol=0.02)
    np.testing.assert_allclose(gain @ gain.T, of.covariance, atol=0.03 * variances.max())


def test_unclip_eq3_keeps_the_nearer_of_each_captions_own_candidates():
    z = np.array([[[1.0, 0], [0, 1]], [[0, -1], [1, 0]], [[0, 1], [0, 1]]])
    z_text = np.array([[0.1, 1], [0, -1], [5, 0]])
    np.testing.assert_array_equal(dp.closer(z, z_text), [[0, 1], [0, -1], [0, 1]])


def test_unclip_candidates_of_a_caption_stand_side_by_side_and_do_not_mix(text):
    net, said, schedule = diffusion_prior(), dp.read(text, PROMPTS), schedules.cosine(20)
    with ag.no_grad():
        how = {"steps": 4, "sampler": "ddim"}
        draws = dp.unit(dp.sample(net, dp.repeated(said, 2), schedule, rng=np.random.default_rng(3), **how))
        found = dp.draw(net, said, schedule, rng=np.random.default_rng(3), **how)
        alone = dp.draw(net, said, schedule, rng=np.random.default_rng(3), candidates=1, **how)
    np.testing.assert_array_equal(dp.repeated(said, 2).z, said.z[[0, 0, 1, 1, 2, 2]])
    pairs = draws.reshape(3, 2, 6)
    for i in range(3):
        best = (pairs[i] @ said.z[i]).argmax()
        np.testing.assert_array_equal(found[i], pairs[i, best])
    assert (np.linalg.norm(alone, axis=1) - 1 < 1e-12).all()
    assert ((found * said.z).sum(1) >= (draws[::2] * said.z).sum(1)).all()
    with pytest.raises(ValueError, match="candidates must be at least 1"):
        dp.draw(net, said, schedule, rng=np.random.default_rng(0), candidates=0, steps=2)


def test_unclip_prior_guidance(text):
    """1 is the caption alone, 0 the null prompt alone, whose words and vector both are those of the empty prompt."""
    net, said, null = diffusion_prior(), dp.read(text, PROMPTS[:2]), dp.read(text, [""])
    schedule = schedules.cosine(20)

    def sample(said, **how):
        return dp.sample(net, said, schedule, steps=3, rng=np.random.default_rng(0), sampler="ddim", **how)

    np.testing.assert_array_equal(sample(said), sample(said, guidance=1.0, null=null))
    np.testing.assert_array_equal(sample(said, guidance=0.0, null=null), sample(dp.repeated(null, 2)))
    assert abs(sample(said, guidance=3.0, null=null) - sample(said)).max() > 1e-6
    with pytest.raises(ValueError, match="null must be a Caption"):
        sample(said, guidance=2.0)


# --- embeddings as sentences ------------------------------------------------------------------------------------------


def ar_prior(dims=3, buckets=4, dots=4, seed=0):
    rng = np.random.default_rng(seed)
    how = {"dims": dims, "buckets": buckets, "dots": dots, "channels": 8, "layers": 2, "heads": 2}
    net = ar.ARPrior(6, 8, WordTokenizer().length, rng=rng, **how)
    return shaken(net.astype(np.float64), seed)


def embeddings(n, seed=0):
    rng = np.random.default_rng(seed)
    return dp.unit(rng.standard_normal((n, 6)) * np.array([3.0, 0.1, 1, 2, 0.5, 0.2]) + 0.5)


def context(text, n=1):
    said = dp.repeated(dp.read(text, [PROMPTS[1]]), n)
    return {"said": said, "dot": np.full(n, 2)}


def test_unclip_eq1_all_sequences_of_buckets_add_up_to_1(text):
    net = ar_prior()

    def logits(tokens):
        return net.logits(tokens, **context(text, len(tokens)))

    _, p = check_sums_to_one(logits, 4, 3)
    assert p.std() > 1e-4, "not all alike"


def test_unclip_ar_prior_sees_what_is_before_and_nothing_else(text):
    net, tokens = ar_prior(), np.random.default_rng(0).integers(0, 4, (2, 3))
    check_causal(lambda x: net.logits(x, **context(text, len(x))), tokens, 4)


def test_unclip_ar_prior_step_says_what_the_whole_pass_says(text):
    net, tokens = ar_prior(), np.random.default_rng(1).integers(0, 4, (2, 3))
    net.fit(embeddings(300), embeddings(300, 1))
    told = context(text, 2)
    assert len(set(net.tokens(told["said"].z)[0])) > 1, "the caption's own tokens differ from place to place"
    check_cached(lambda x: net.logits(x, **told), lambda new, cache: net.step(new, cache, **told), tokens)
    u = np.random.default_rng(2).random((2, 3))
    whole = autoregressive.sample(partial(net.logits, **told), u)
    np.testing.assert_array_equal(whole, autoregressive.sample_cached(partial(net.step, **told), u))


def test_unclip_ar_prior_hears_the_caption_and_the_fit(text):
    net, tokens, told = ar_prior(), np.zeros((1, 3), np.int64), context(text)
    before = net.logits(tokens, **told).data
    for changed in (
        {**told, "dot": np.array([3])},
        {**told, "said": told["said"]._replace(z=told["said"].z + 0.1)},
        {**told, "said": dp.read(text, [PROMPTS[0]])},
    ):
        assert (abs(net.logits(tokens, **changed).data - before).max((0, 2)) > 1e-6).all()


def test_unclip_priors_tell_places_apart(text):
    """What is learned of each place, of the caption's and of those behind it, has a share in the outcome."""
    said, rng = dp.read(text, PROMPTS[:2]), np.random.default_rng(0)
    priors = {
        "diffusion": (diffusion_prior(), lambda net: net(rng.standard_normal((2, 6)), np.array([3, 9]), said)),
        "autoregressive": (ar_prior(), lambda net: net.logits(rng.integers(0, 4, (2, 3)), said, np.array([2, 3]))),
    }
    for name, (net, outcome) in priors.items():
        gradient = ag.raw(ag.grad(ag.sum(outcome(net) ** 3), net.positions))
        assert (abs(gradient).max(1) > 1e-9).all(), name


def test_unclip_eq2_error_is_at_most_half_a_bucket():
    net, z = ar_prior(dims=6, buckets=8), embeddings(500)
    net.fit(z, z)
    a = (z - net.mean) @ net.axes.T
    tokens = net.tokens(z)
    assert tokens.min() == 0 and tokens.max() == 7
    middles = net.low + (tokens + 0.5) * (net.high - net.low) / 8
    assert (abs(middles - a) <= (net.high - net.low) / 16 * (1 + 1e-9)).all()
    np.testing.assert_allclose(net.embeddings(tokens), dp.unit(net.mean + middles @ net.axes), atol=1e-12)
    np.testing.assert_array_equal(net.tokens(net.mean + middles @ net.axes), tokens)


def test_unclip_axes_are_principal_and_all_of_them_lose_nothing():
    z = frozen(embeddings(400))
    mean, axes = ar.principal(z, 6)
    np.testing.assert_allclose(axes @ axes.T, np.eye(6), atol=1e-12)
    np.testing.assert_allclose(mean + (z - mean) @ axes.T @ axes, z, atol=1e-12)
    covariance = np.cov(((z - mean) @ axes.T).T, bias=True)
    np.testing.assert_allclose(covariance, np.diag(np.diag(covariance)), atol=1e-12)
    assert (np.diff(np.diag(covariance)) <= 0).all()
    fine = ar_prior(dims=6, buckets=4000)
    fine.fit(z, z)
    np.testing.assert_allclose(fine.embeddings(fine.tokens(z)), z, atol=1e-3)


def test_unclip_beyond_the_outermost_buckets():
    net, z = ar_prior(), embeddings(300)
    net.fit(z, z)
    far = net.mean + 100 * net.axes[0]
    np.testing.assert_array_equal(net.tokens(np.stack([far, 2 * net.mean - far]))[:, 0], [3, 0])


def test_unclip_buckets_of_the_product_hold_equally_many_and_the_upper_half_is_asked_for():
    net, z = ar_prior(dots=4), embeddings(400)
    z_text = embeddings(400, seed=1)
    net.fit(z, z_text)
    dot = net.dot(z, z_text)
    assert (abs(np.bincount(dot, minlength=4) - 100) <= 1).all()
    product = (z * z_text).sum(1)
    assert product[dot == 3].min() >= product[dot == 2].max() >= product[dot == 0].max()
    np.testing.assert_array_equal(ar.good_fits(np.array([0.0, 0.49, 0.5, 0.999]), 4), [2, 2, 3, 3])
    np.testing.assert_array_equal(ar.good_fits(np.array([0.0, 0.999]), 3), [1, 2])


def test_unclip_eq3_by_hand_and_by_differences():
    rng = np.random.default_rng(0)
    logits, tokens = rng.standard_normal((2, 3, 4)), rng.integers(0, 4, (2, 3))
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    by_hand = -np.mean(np.log(np.take_along_axis(p, tokens[..., None], -1)))
    assert float(ag.raw(ar.negative_log_likelihood(logits, tokens))) == pytest.approx(by_hand)
    ag.gradcheck(lambda x: ar.negative_log_likelihood(x, tokens), [logits])


def test_unclip_ar_prior_draws_unit_vectors_and_guides(text):
    net, z = ar_prior(), embeddings(300)
    net.fit(z, z)
    said, null = dp.read(text, PROMPTS[:2] * 20), dp.read(text, [""])

    def draw(**how):
        return ar.draw(net, said, rng=np.random.default_rng(0), **how)

    found = draw()
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1)
    np.testing.assert_array_equal(found, draw(guidance=1.0, null=null))
    assert abs(draw(guidance=9.0, null=null) - found).max() > 1e-3
    np.testing.assert_array_equal(
        draw(temperature=0.0), ar.draw(net, said, rng=np.random.default_rng(0), temperature=0.0)
    )
    with pytest.raises(ValueError, match="null must be a Caption"):
        draw(guidance=2.0)


def test_unclip_buffers_travel_with_the_weights():
    net, other, z = ar_prior(), ar_prior(seed=1), embeddings(300)
    net.fit(z, z)
    other.load_arrays(net.arrays())
    np.testing.assert_array_equal(net.tokens(z), other.tokens(z))


def test_unclip_clip_of_pictures_and_texts_meets_in_one_space(text):
    """The vector that stands for a caption in the sequence is the one that the products are taken with."""
    data = load("shapes")
    some = data.test.take(slice(0, 4))
    z, said = text.encode_image(data.scale(some.images)), dp.read(text, list(some.captions))
    np.testing.assert_allclose(
        (z * said.z).sum(1), text.scores(data.scale(some.images), list(some.captions)), atol=1e-9
    )
