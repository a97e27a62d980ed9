"""PixelCNN against exact answers: what every output sees, pictures that are counted one by one, draws against their
probabilities.
"""

import dataclasses

import numpy as np
import pytest
from autoregression import check_cached, check_causal, check_histogram, check_sums_to_one, every_sequence
from hypothesis import given
from hypothesis import strategies as st

import autograd as ag
from kernels.compare import assert_close, unit_roundoff
from minigen.data import Dataset, Split, load, shift
from minigen.metrics.likelihood import bits_per_dimension
from minigen.models import pixelcnn
from minigen.models.pixelcnn import GatedPixelCNN, GreyLevels, MaskedConv2d, TokenPixelCNN, logistics
from minigen.nn import Dropout
from minigen.samplers import autoregressive
from minigen.train.loop import Trainer
from tests.support.baselines import check_baselines

TINY = pixelcnn.Config(channels=8, layers=2, first=3, steps=20, batch_size=16)


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load("digits")


@pytest.fixture(scope="module")
def few(digits) -> Dataset:
    """A few of them, for figures in no time."""
    parts = (s.take(slice(0, n)) for s, n in ((digits.train, 60), (digits.val, 20), (digits.test, 12)))
    return Dataset("digits", *parts, levels=17, classes=digits.classes)


def density(shape, levels, *, names=False, channels=16, layers=3, seed=0, spread=0.3, **settings):
    """A float64 model far from its start: grey levels by logistics, or ``names`` by a softmax."""
    rng = np.random.default_rng(seed)
    grey = {} if names else {"read": GreyLevels(levels), "token": logistics(levels, 2)}
    net = TokenPixelCNN(shape, levels, channels, layers, rng=rng, **grey, **settings).astype(np.float64)
    for p in net.parameters():
        p.data[...] += spread * rng.standard_normal(p.shape)
    return net


# --- what a pixel sees ----------------------------------------------------------------------------------------------


def seen(function, h, w):
    """(h, w, h, w): whether output (i, j) changes with input (k, l), by the gradient of a network of positive weights."""
    found = np.zeros((h, w, h, w), bool)
    for i in range(h):
        for j in range(w):
            x = ag.Tensor(np.ones((1, h, w, 1)), requires_grad=True)
            ag.sum(function(x)[:, i, j]).backward()
            found[i, j] = x.grad[0, ..., 0] != 0
    return found


def steps_back(h, w):
    """Rows up and columns to the right from output (i, j) to input (k, l)."""
    i, j, k, l = np.ogrid[:h, :w, :h, :w]
    return i - k, l - j


def positive(module, rng):
    for p in module.parameters():
        p.data[...] = rng.uniform(0.5, 1, p.shape)
    return module.astype(np.float64)


def test_masks_are_the_raster_order():
    np.testing.assert_array_equal(pixelcnn.mask(3, "A"), [[1, 1, 1], [1, 0, 0], [0, 0, 0]])
    np.testing.assert_array_equal(pixelcnn.mask(3, "B"), [[1, 1, 1], [1, 1, 0], [0, 0, 0]])
    assert pixelcnn.mask(7, "A").sum() == 24 and pixelcnn.mask(7, "B").sum() == 25


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_masked_convolutions_see_a_triangle_and_have_a_blind_spot(layers, rng):
    """n layers of 3 x 3: n to the left and up, and to the right only as far as up."""
    h, w, n = 5, 9, layers
    convs = [positive(MaskedConv2d(1, 1, 3, "B" if i else "A", rng=rng), rng) for i in range(n)]

    def network(x):
        for conv in convs:
            x = conv(x)
        return x

    up, right = steps_back(h, w)
    same_row = (up == 0) & (right >= -n) & (right <= -1)
    np.testing.assert_array_equal(
        seen(network, h, w), same_row | ((up >= 1) & (up <= n) & (right >= -n) & (right <= up))
    )


@pytest.mark.parametrize(("layers", "first"), [(1, 3), (2, 3), (3, 3), (1, 5), (2, 5)])
def test_two_stacks_see_a_rectangle_and_have_none(layers, first, rng):
    """With R the sum of the kernels' halves: R to the left in the own row, R to both sides in the R + 1 rows above."""
    h, w = 6, 9
    net = positive(GatedPixelCNN((h, w), 1, 2, layers, 1, first=first, rng=rng), rng)
    for layer in net.layers:  # far from saturation, so that no gradient vanishes in rounding
        for p in (layer.down.w, layer.across.w, layer.link.w, layer.places):
            p.data *= 0.02
    R = first // 2 + layers - 1
    up, right = steps_back(h, w)
    same_row = (up == 0) & (right >= -R) & (right <= -1)
    rows_above = (up >= 1) & (up <= R + 1) & (np.abs(right) <= R)
    np.testing.assert_array_equal(seen(net, h, w), same_row | rows_above)


@pytest.mark.parametrize("names", [False, True])
@pytest.mark.parametrize(("shape", "layers", "first"), [((3, 4), 3, 3), ((4, 3), 2, 5), ((2, 7), 4, 7), ((1, 5), 4, 3)])
def test_no_logit_sees_its_own_or_a_later_pixel_and_all_see_every_earlier_one(shape, layers, first, names, rng):
    net = density(shape, 3, names=names, layers=layers, first=first, classes=2)
    tokens = rng.integers(0, 3, (4, shape[0] * shape[1]))
    check_causal(lambda x: net.logits(x, np.array([0, 1, 1, 0])), tokens, 3)


def test_training_noise_does_not_let_it_peek(rng):
    """With dropout on, the same masks for both pictures: still nothing of the own pixel and the later ones."""
    net = density((3, 4), 3, dropout=0.5)
    x = rng.integers(0, 3, (2, 3, 4))
    before = ag.raw(net(x, rng=np.random.default_rng(1)))
    for i in range(3):
        for j in range(4):
            other = x.copy()
            other[:, i, j] = (other[:, i, j] + 1) % 3
            after = ag.raw(net(other, rng=np.random.default_rng(1)))
            k = 4 * i + j + 1
            np.testing.assert_array_equal(after.reshape(2, 12, -1)[:, :k], before.reshape(2, 12, -1)[:, :k])


@pytest.mark.parametrize("first", [True, False])
def test_dropout_thins_the_gated_features_of_both_stacks(first, rng):
    """By the masks of the given stream, the horizontal stack's first, in front of its last layer and of no residual."""
    layer = pixelcnn.GatedLayer((3, 4), 5, 5, 3, first=first, classes=0, dropout=0.5, rng=rng).astype(np.float64)
    v, h = rng.standard_normal((2, 2, 3, 4, 5))
    found_v, found_h = map(ag.raw, layer(v, h, rng=np.random.default_rng(1)))
    stream = np.random.default_rng(1)
    kept_h, kept_v = (stream.random((2, 3, 4, 5)) >= 0.5 for _ in range(2))
    plain_v, _ = map(ag.raw, layer(v, h))
    np.testing.assert_allclose(found_v, 2 * kept_v * plain_v, rtol=1e-12)
    down = ag.raw(layer.down(pixelcnn.add_rows(v, 1)))[:, :-1]
    wide = ag.raw(pixelcnn.add_columns(h, 1))
    a = (
        layer.across(wide[:, :, :-1] if first else wide)
        + layer.link(pixelcnn.add_rows(down, 1))
        + layer.biases(None)[1]
    )
    want = ag.raw(layer.out(2 * kept_h * ag.raw(pixelcnn.gate(a)))) + (0 if first else h)
    np.testing.assert_allclose(found_h, want, rtol=1e-12)


def test_every_layer_drops_features_twice_a_step(digits, few, monkeypatch):
    """And nowhere else: in the training loss both stacks draw masks from the step's stream, in figures none."""
    seen, real = [], Dropout.forward
    monkeypatch.setattr(Dropout, "forward", lambda self, x, rng=None: seen.append((self, rng)) or real(self, x, rng))
    system, rng = pixelcnn.build(dataclasses.replace(TINY, layers=3), digits, seed=0), np.random.default_rng(0)
    system.stages()[0].objectives[0].loss(digits.train.take(slice(0, 2)), rng, 0)
    layers = system.modules["pixelcnn"].net.layers
    assert [d for d, _ in seen] == [layer.dropout for layer in layers for _ in range(2)]
    assert all(stream is rng and d.p == 0.2 for d, stream in seen)
    seen.clear()
    system.figures(few, rng=np.random.default_rng(0))
    assert seen and all(stream is None for _, stream in seen)


def test_the_first_pixel_is_drawn_without_having_seen_anything(rng):
    net = density((3, 3), 17)
    out = ag.raw(net(rng.integers(0, 17, (5, 3, 3))))[:, 0, 0]
    np.testing.assert_array_equal(out, np.broadcast_to(out[0], out.shape))


def test_hidden_taps_stay_where_they_are(rng):
    """The product with the mask is on the tape: gradients of hidden taps are 0 exactly, those of all others are not."""
    conv = MaskedConv2d(2, 3, 5, "A", rng=rng)
    ag.sum(ag.square(conv(rng.standard_normal((2, 6, 6, 2)).astype(np.float32)))).backward()
    np.testing.assert_array_equal((conv.w.grad != 0).all((2, 3)), pixelcnn.mask(5, "A") == 1)
    np.testing.assert_array_equal(conv.w.grad[pixelcnn.mask(5, "A") == 0], 0)


# --- equations ------------------------------------------------------------------------------------------------------


def test_gated_eq2_the_first_half_of_the_channels_is_the_tanh(rng):
    a = rng.standard_normal((2, 3, 3, 8))
    np.testing.assert_allclose(ag.raw(pixelcnn.gate(a)), np.tanh(a[..., :4]) / (1 + np.exp(-a[..., 4:])), rtol=1e-12)


def test_gated_eq4_the_class_moves_both_gates_of_both_stacks(rng):
    """Zeros everywhere but in V of the last layer's vertical stack change nothing, since nothing follows; elsewhere they do."""
    x = rng.integers(0, 17, (1, 3, 3))
    for layer, stack, half in np.ndindex(2, 2, 2):
        net = density((3, 3), 17, classes=3, layers=2)
        for part in net.net.layers:
            for e in part.classes:
                e.table.data[...] = 0
        c = 16
        net.net.layers[layer].classes[stack].table.data[1, half * c : (half + 1) * c] = 1
        a, b, same = (ag.raw(net(x, np.array([y]))) for y in (0, 1, 2))
        np.testing.assert_array_equal(a, same)
        assert np.any(a != b) == ((layer, stack) != (1, 0))


def test_labels_are_asked_for_exactly_where_there_are_classes(rng):
    x = rng.integers(0, 17, (1, 3, 3))
    for classes, label in ((0, np.array([1])), (3, None)):
        with pytest.raises(ValueError, match="built with classes needs a label for each picture"):
            density((3, 3), 17, classes=classes)(x, label)


def test_the_class_reaches_every_pixel_the_first_one_too(rng):
    net = density((3, 3), 17, classes=3)
    x = rng.integers(0, 17, (1, 3, 3))
    a, b = (ag.raw(net(x, np.array([y]))) for y in (0, 1))
    assert np.all(np.any(a != b, -1))


@pytest.mark.parametrize("names", [False, True])
def test_pixelcnn_eq1_all_512_binary_pictures_add_up_to_one(names):
    net = density((3, 3), 2, names=names, classes=2)
    for y in (0, 1):
        x, p = check_sums_to_one(lambda x, y=y: net.logits(x, np.full(len(x), y)), 2, 9)
        assert p.min() > 0 and p.max() > 4 / 512, "and they are not all alike"
        ours = np.exp(ag.raw(net.log_p(x.reshape(-1, 3, 3), np.full(512, y))).sum((1, 2)))
        np.testing.assert_allclose(
            ours, p, rtol=1e-9, err_msg="the loss is the log of the probability that is drawn by"
        )


def test_pixelcnn_eq1_all_pictures_of_three_levels_add_up_to_one():
    net = density((2, 3), 3)
    check_sums_to_one(net.logits, 3, 6)


@given(st.sampled_from([2, 17, 256]), st.integers(1, 4), st.floats(0, 1e4), st.integers(0, 99))
def test_logistics_probabilities_of_all_levels_add_up_to_one(levels, mixtures, spread, seed):
    """Whatever the network says; ``logits`` are the logarithms of those probabilities."""
    token = logistics(levels, mixtures)
    out = spread * np.random.default_rng(seed).standard_normal((3, 1, token.outputs))
    log_p = ag.raw(token.log_p(np.broadcast_to(np.arange(levels), (3, levels)), np.repeat(out, levels, 1)))
    rtol = (
        4 * (levels + mixtures) * float(np.finfo(float).eps) * max(1, 5 * spread)
    )  # a logit is rounded by eps of itself
    np.testing.assert_allclose(np.exp(log_p).sum(-1), 1, rtol=rtol)
    np.testing.assert_allclose(ag.raw(token.logits(out[:, 0])), log_p, rtol=1e-12)


def test_salimans_eq2_is_the_mixture_written_out(rng):
    """Means 1.2 tanh around evenly spread ones, log scales from -7 to 3 that start at -2: narrow enough for single levels."""
    out, level = rng.standard_normal((5, 6)), rng.integers(1, 16, 5)
    for o in (out, 0 * out):
        weight = np.exp(o[:, :2]) / np.exp(o[:, :2]).sum(1, keepdims=True)
        mean, scale = 1.2 * np.tanh(o[:, 2:4] + [-1 / 3, 1 / 3]), np.exp(5 * np.tanh(0.2 * o[:, 4:]) - 2)
        x = 2 * level[:, None] / 16 - 1
        upper, lower = (1 / (1 + np.exp(-(x + side / 16 - mean) / scale)) for side in (1, -1))
        p = (weight * (upper - lower)).sum(1)
        want = (1 - pixelcnn.UNIFORM) * p + pixelcnn.UNIFORM / 17
        np.testing.assert_allclose(np.exp(ag.raw(logistics(17, 2).log_p(level, o))), want, rtol=1e-9)


def test_at_the_start_names_are_uniform_and_logistics_know_the_scale_only(digits):
    """D ln L nats a picture for a softmax; the mixture's start is one fixed distribution at every place, symmetric in
    the levels.
    """
    start = dataclasses.replace(TINY, decoder="categorical")
    batch = digits.train.take(slice(0, 9))
    loss, _ = pixelcnn.build(start, digits, seed=0).stages()[0].objectives[0].loss(batch, np.random.default_rng(0), 0)
    assert float(loss) == pytest.approx(64 * np.log(17), rel=1e-6)
    net = pixelcnn.build(TINY, digits, seed=0).modules["pixelcnn"]
    log_p = ag.raw(net.logits(digits.train.images[:3].reshape(3, 64).astype(np.int64)))
    assert np.all(log_p == log_p[0, 0])
    np.testing.assert_allclose(log_p, log_p[..., ::-1], rtol=1e-4)


@pytest.mark.parametrize("names", [False, True])
def test_gradients_of_the_loss(names, rng):
    """Against differences, for every parameter of a conditional model at once."""
    net = density((3, 3), 5, names=names, channels=4, layers=2, first=3, classes=2, spread=0.2)
    x, y = rng.integers(0, 5, (3, 3, 3)), np.array([0, 1, 1])
    owners = [(m, name, v) for _, m in net.named_modules() for name, v in vars(m).items() if isinstance(v, ag.Tensor)]

    def loss(*values):
        for (module, name, _), value in zip(owners, values):
            setattr(module, name, value)
        return pixelcnn.nats(net.log_p(x, y))

    ag.gradcheck(loss, [p.data for _, _, p in owners], step=1e-4)


def test_every_parameter_but_one_stack_end_learns(rng):
    """All have a gradient, except what would make the last layer's vertical features, which nothing reads."""
    net = density((4, 4), 5, classes=2)
    pixelcnn.nats(net.log_p(rng.integers(0, 5, (8, 4, 4)), np.arange(8) % 2)).backward()
    idle = {name for name, p in net.named_parameters().items() if p.grad is None or not np.any(p.grad)}
    assert idle == {"net.layers.2.classes.0.table"}


def test_a_pictures_likelihood_does_not_depend_on_its_company(rng):
    net = density((4, 4), 17, classes=3)
    x, y = rng.integers(0, 17, (7, 4, 4)), rng.integers(0, 3, 7)
    together = ag.raw(net.log_p(x, y)).sum((1, 2))
    alone = np.array([ag.raw(net.log_p(x[i : i + 1], y[i : i + 1])).sum() for i in range(7)])
    assert_close(together, alone, 1e4 * unit_roundoff(np.float64) * np.abs(alone).max())


def test_grey_levels_are_two_features():
    np.testing.assert_array_equal(GreyLevels(5)(np.array([0, 1, 4])), [[0, 1], [0.25, 0], [1, 0]])


# --- drawing --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", [False, True])
@pytest.mark.parametrize(("shape", "first"), [((3, 4), 3), ((4, 2), 7)])
def test_the_cache_says_what_the_whole_network_says(shape, first, names, rng):
    net = density(shape, 5, names=names, first=first, classes=3)
    tokens, y = rng.integers(0, 5, (3, shape[0] * shape[1])), np.array([2, 0, 1])
    check_cached(lambda x: net.logits(x, y), lambda new, cache: net.step(new, cache, y), tokens)


def test_a_step_changes_no_input_and_knows_its_end(rng):
    net = density((2, 3), 5)
    tokens = rng.integers(0, 5, (2, 5))
    kept = tokens.copy()
    _, cache = net.step(tokens, None)
    np.testing.assert_array_equal(tokens, kept)
    with pytest.raises(ValueError, match="must leave one of the 6 places to ask for, got 1 after 5"):
        net.step(tokens[:, :1], cache)


@pytest.mark.parametrize("names", [False, True])
def test_samples_come_with_their_probabilities(names):
    """All 16 binary 2 x 2 pictures, 20,000 draws; one uniform number each would show an error of 0.02 in any of them."""
    net = density((2, 2), 2, names=names, spread=0.6)
    x = every_sequence(2, 4)
    p = np.exp(autoregressive.log_likelihood(net.logits, x))
    u = autoregressive.uniforms(20_000, 4, rng=np.random.default_rng(0))
    check_histogram(autoregressive.sample_cached(net.step, u), x, p)


def test_whole_and_cached_draws_are_the_same(rng):
    net = density((3, 4), 17)
    u = autoregressive.uniforms(20, 12, rng=rng)
    np.testing.assert_array_equal(
        autoregressive.sample(net.logits, u), autoregressive.sample_cached(lambda new, cache: net.step(new, cache), u)
    )


# --- the system -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [{}, {"decoder": "categorical"}, {"conditional": True, "mixtures": 1}])
def test_training_lowers_the_nats(digits, few, change):
    config = dataclasses.replace(TINY, steps=30, lr=3e-2, warmup=0, **change)
    system = pixelcnn.build(config, digits, seed=0)
    trainer = Trainer(system, seed=0)
    small = digits.train.take(slice(0, 16))
    found = [trainer.advance(small)["nats.loss"] for _ in range(30)]
    assert found[-1] < 0.7 * found[0]
    with trainer.averaged():
        figures = system.figures(few, rng=np.random.default_rng(0))
    assert np.isfinite(list(figures.values())).all()
    bits = bits_per_dimension(figures["-ln p(picture), test, exact, nats"], 64)
    assert figures["the same in bits/dim"] == pytest.approx(bits)
    assert figures["uniform levels, nats"] == pytest.approx(64 * np.log(17))


def trained(digits, **changes):
    """A system whose weights are anything but at their start."""
    system = pixelcnn.build(dataclasses.replace(TINY, **changes), digits, seed=0)
    rng = np.random.default_rng(1)
    for p in system.modules["pixelcnn"].parameters():
        p.data[...] += (0.3 * rng.standard_normal(p.shape)).astype(np.float32)
    return system


def test_training_is_the_nats_of_moved_pictures_that_are_told_their_own_class(digits):
    """The stage's loss from its parts, with the draws of the same rng; other classes give another value."""
    system, batch = trained(digits, conditional=True, shift=0.6, dropout=0.0), digits.train.take(slice(0, 12))
    got = float(system.stages()[0].objectives[0].loss(batch, np.random.default_rng(4), 0)[0])
    images = shift(batch.images, rng=np.random.default_rng(4), p=0.6)
    x, net = images.reshape(12, 64).astype(np.int64), system.modules["pixelcnn"]
    for y in (batch.labels, np.roll(batch.labels, 1)):
        want = -autoregressive.log_likelihood(lambda x, y=y: net.logits(x, y), x).mean()
        assert (got == pytest.approx(want, rel=1e-5)) == (y is batch.labels)


def test_figures_are_the_likelihood_of_the_test_pictures(digits, few):
    """Sums over pixels, means over pictures, by the distribution that is drawn from."""
    system = trained(digits)
    net, x = system.modules["pixelcnn"], few.test.images.reshape(12, 64).astype(np.int64)
    found = system.figures(few, rng=np.random.default_rng(0))["-ln p(picture), test, exact, nats"]
    assert found == pytest.approx(-autoregressive.log_likelihood(net.logits, x).mean(), rel=1e-5)


def test_models_without_a_network_are_fitted_to_train_chosen_on_val_and_measured_on_test(few, monkeypatch):
    check_baselines(pixelcnn, pixelcnn.build(TINY, few, seed=0), few, 17, monkeypatch)


def test_figures_of_a_conditional_model_are_bayes_rule(digits, few):
    """Of each picture: ln p(x | its y), ln of the mean of p(x | y) over all classes, and whether its class is the likeliest."""
    system = trained(digits, conditional=True)
    net, x, y = system.modules["pixelcnn"], few.test.images.reshape(12, 64).astype(np.int64), few.test.labels
    each = np.array(
        [autoregressive.log_likelihood(lambda x, k=k: net.logits(x, np.full(len(x), k)), x) for k in range(10)]
    )
    y = np.where(np.arange(12) < 7, each.argmax(0), y)
    labelled = dataclasses.replace(few, test=dataclasses.replace(few.test, labels=y))
    own, accuracy, marginal = list(system.figures(labelled, rng=np.random.default_rng(0)).values())[:3]
    assert own == pytest.approx(-each[y, np.arange(12)].mean(), rel=1e-5)
    assert accuracy == np.mean(each.argmax(0) == y) >= 7 / 12
    assert marginal == pytest.approx(-np.mean(np.logaddexp.reduce(each, axis=0) - np.log(10)), rel=1e-5)


def test_samples_are_grey_levels_and_a_function_of_their_rng(digits):
    system = trained(digits)
    a, b = (system.sample(5, rng=np.random.default_rng(5)) for _ in range(2))
    assert a.shape == (5, 8, 8, 1) and a.dtype == np.float32
    np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(digits.scale(digits.unscale(a)), a)
    more = system.sample(9, rng=np.random.default_rng(5))
    np.testing.assert_array_equal(more[:5], a, "more samples keep the first")


def test_temperature_zero_takes_the_likeliest(digits):
    system = trained(digits)
    a, b = (system.sample(2, rng=np.random.default_rng(seed), temperature=0.0) for seed in (0, 1))
    np.testing.assert_array_equal(a, b)
    assert np.any(system.sample(1, rng=np.random.default_rng(0)) != a[:1])


def test_labels_are_what_a_conditional_model_draws_by(digits):
    system = trained(digits, conditional=True)
    a, b = (system.sample(3, rng=np.random.default_rng(0), label=y) for y in (0, 7))
    assert np.any(a != b)
    u = np.random.default_rng(0).random((6, 65))[:, 0]
    own = system.sample(6, rng=np.random.default_rng(0))
    np.testing.assert_array_equal(own[:3], system.sample(3, rng=np.random.default_rng(0)))
    for i in range(6):
        told = system.sample(6, rng=np.random.default_rng(0), label=int(10 * u[i]))
        np.testing.assert_array_equal(own[i], told[i], "the label is the first draw, all alike")
    with pytest.raises(ValueError, match="label must be from 0 to 9, got 10"):
        system.sample(1, rng=np.random.default_rng(0), label=10)
    with pytest.raises(ValueError, match="label 3 needs a conditional model"):
        trained(digits).sample(1, rng=np.random.default_rng(0), label=3)


def test_the_way_of_a_sample_is_seen_row_by_row(digits):
    states = []
    images = trained(digits).sample(2, rng=np.random.default_rng(0), callback=lambda t, x: states.append((t, x)))
    assert [t for t, _ in states] == list(range(8, -1, -1))
    np.testing.assert_array_equal(states[-1][1], images)
    for t, x in states:
        np.testing.assert_array_equal(x[:, : 8 - t], images[:, : 8 - t])
        assert np.all(x[:, 8 - t :] == 0), "grey where nothing is known"


def test_pictures(digits):
    system = trained(digits, conditional=True)
    assert set(system.pictures) == set(pixelcnn.PICTURES)
    assert set(trained(digits).pictures) == {"completion", "nats"}
    found = {name: draw(digits.test, rng=np.random.default_rng(0)) for name, draw in system.pictures.items()}
    shapes = {name: x.shape for name, x in found.items()}
    assert shapes == {"completion": (6, 12, 8, 8, 1), "nats": (2, 12, 8, 8, 1), "classes": (10, 10, 8, 8, 1)}
    for x in found.values():
        assert x.min() >= -1 and x.max() <= 1
    rows = found["completion"]
    for row in rows[1:]:
        np.testing.assert_array_equal(row[:, :4], rows[0][:, :4], "what is given stays")
    assert np.all(rows[1][:, 4:] == 0) and np.any(rows[2] != rows[3])
    assert len(np.unique(found["classes"].reshape(10, -1), axis=0)) == 10
    net, u = system.modules["pixelcnn"], autoregressive.uniforms(10, 64, rng=np.random.default_rng(0))
    for label in (0, 7):  # every class is drawn with the same numbers
        y = np.full(10, label)
        drawn = autoregressive.sample_cached(lambda new, cache, y=y: net.step(new, cache, y), u)
        np.testing.assert_array_equal(found["classes"][label], digits.scale(drawn).reshape(10, 8, 8, 1))


def test_classes_are_drawn_one_a_row_with_the_same_random_numbers(digits):
    system = trained(digits, conditional=True)
    net, u = system.modules["pixelcnn"], np.random.default_rng(0).random((10, 64))
    rows = system.pictures["classes"](digits.test, rng=np.random.default_rng(0))

    def drawn(label):
        return autoregressive.sample_cached(lambda new, cache: net.step(new, cache, np.full(10, label)), u)

    for label in (0, 7):
        np.testing.assert_array_equal(rows[label], digits.scale(drawn(label).reshape(10, 8, 8, 1)))


def test_a_weights_file_needs_no_data(digits):
    nothing = Split(np.zeros((0, 8, 8, 1), np.uint8))
    bare = Dataset("digits", nothing, nothing, nothing, levels=17, classes=digits.classes)
    config = dataclasses.replace(TINY, conditional=True)
    a, b = (pixelcnn.build(config, d, seed=0).sample(2, rng=np.random.default_rng(0)) for d in (bare, digits))
    np.testing.assert_array_equal(a, b)


def test_other_sizes_and_256_levels():
    images = np.random.default_rng(0).integers(0, 256, (6, 5, 7, 1)).astype(np.uint8)
    data = Dataset("grey", Split(images), Split(images), Split(images), levels=256, classes=())
    system = pixelcnn.build(TINY, data, seed=0)
    loss, _ = system.stages()[0].objectives[0].loss(data.train, np.random.default_rng(0), 0)
    assert np.isfinite(float(loss)) and system.sample(3, rng=np.random.default_rng(0)).shape == (3, 5, 7, 1)
    assert system.pictures["completion"](data.test, rng=np.random.default_rng(0)).shape == (6, 6, 5, 7, 1)


def test_settings_that_do_not_fit_are_named(digits):
    with pytest.raises(ValueError, match="'rings' holds no pictures"):
        pixelcnn.build(pixelcnn.Config(), load("rings"), seed=0)
    colour = Split(np.zeros((1, 4, 4, 3), np.uint8))
    with pytest.raises(ValueError, match="one channel, and the data set 'rgb' has 3"):
        pixelcnn.build(TINY, Dataset("rgb", colour, colour, colour, levels=256, classes=()), seed=0)
    unlabelled = dataclasses.replace(digits, classes=())
    for change, data, words in (
        ({"decoder": "gaussian"}, digits, "decoder must be 'logistic' or 'categorical', got 'gaussian'"),
        ({"mixtures": 0}, digits, "mixtures must be at least 1, got 0"),
        ({"layers": 0}, digits, "layers must be at least 1, got 0"),
        ({"first": 4}, digits, "first must be an odd number of at least 3, got 4"),
        ({"kernel": 1}, digits, "kernel must be an odd number of at least 3, got 1"),
        ({"shift": 1.5}, digits, "shift must be a share from 0 to 1, got 1.5"),
        ({"dropout": 1.0}, digits, "dropout must be at least 0 and below 1, got 1.0"),
        ({"conditional": True}, unlabelled, "conditional needs labels, and the data set 'digits' has none"),
    ):
        with pytest.raises(ValueError, match=words):
            pixelcnn.build(dataclasses.replace(TINY, **change), data, seed=0)
    with pytest.raises(ValueError, match="steps must be left out, got 3"):
        pixelcnn.build(TINY, digits, seed=0).sample(1, rng=np.random.default_rng(0), steps=3)
