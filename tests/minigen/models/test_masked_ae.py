"""The masked autoencoder: masks, the loss on hidden patches alone, no leak into the encoder, and the traps that its file lists."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import autograd as ag
from kernels.compare import assert_close
from minigen.data import Dataset, Split, load
from minigen.models import masked_ae
from minigen.models.masked_ae import Masks, random_masks
from minigen.train.loop import Trainer

NETWORKS = ("transformer", "mlp")


def tiny(network="transformer", **settings):
    return masked_ae.Config(network=network, width=16, heads=2, layers=2, decoder_width=8, **settings)


def network(name, seed=0):
    """A float64 network on 8x8 pictures in 16 patches whose every layer says something (some begin at zero)."""
    system = masked_ae.build(tiny(name), load("digits"), seed=seed)
    net = system.modules["network"].astype(np.float64).flatten()
    net.flat += 0.3 * np.random.default_rng(seed).standard_normal(net.flat.size)
    return net.eval()


@given(
    n=st.integers(1, 3), high=st.integers(1, 4), wide=st.integers(1, 4), p=st.integers(1, 3), c=st.sampled_from([1, 3])
)
def test_patches_are_squares_row_by_row_and_come_back(n, high, wide, p, c):
    images = np.random.default_rng(0).random((n, high * p, wide * p, c))
    patches = masked_ae.patchify(images, p)
    assert patches.shape == (n, high * wide, p * p * c)
    np.testing.assert_array_equal(masked_ae.unpatchify(patches, images.shape[1:], p), images)
    for i in range(high * wide):
        y, x = p * (i // wide), p * (i % wide)
        np.testing.assert_array_equal(patches[:, i], images[:, y : y + p, x : x + p].reshape(n, -1))


# --- masks ------------------------------------------------------------------------------------------------------------


@given(n=st.integers(1, 6), L=st.integers(2, 12), data=st.data(), seed=st.integers(0, 2**32 - 1))
def test_eq3_unshuffling_the_shuffled_is_the_identity(n, L, data, seed):
    visible = data.draw(st.integers(1, L - 1))
    noise = np.random.default_rng(seed).random((n, L))
    masks = random_masks(noise, visible)
    shuffle = np.argsort(noise, axis=1)
    np.testing.assert_array_equal(np.take_along_axis(shuffle, masks.restore, 1), np.tile(np.arange(L), (n, 1)))
    np.testing.assert_array_equal(masks.keep, shuffle[:, :visible])
    assert np.all(masks.hidden.sum(1) == L - visible), "exactly that many, in every sample"
    assert np.all(np.take_along_axis(masks.hidden, masks.keep, 1) == 0), "and the kept ones are not among them"


def test_eq3_masks_differ_between_samples_and_every_patch_is_hidden_equally_often():
    masks = random_masks(np.random.default_rng(0).random((4000, 16)), 4)
    assert len(np.unique(masks.hidden, axis=0)) > 1500, "of 1,820 possible ones"
    assert np.all(np.abs(masks.hidden.mean(0) - 0.75) < 5 * np.sqrt(0.75 * 0.25 / 4000))


def test_eq3_each_training_sample_has_a_mask_of_its_own(monkeypatch):
    digits = load("digits")
    seen = []
    monkeypatch.setattr(masked_ae, "random_masks", lambda *a, real=random_masks: seen.append(real(*a)) or seen[-1])
    system = masked_ae.build(tiny(), digits, seed=0)
    loss = system.stages()[0].objectives[0].loss
    loss(digits.train.take(slice(0, 64)), np.random.default_rng(0), 0)
    assert seen[0].hidden.shape == (64, 16) and np.all(seen[0].hidden.sum(1) == 12)
    assert len(np.unique(seen[0].hidden, axis=0)) > 50


def test_rows_takes_each_samples_own(rng):
    x, ids = rng.standard_normal((3, 5, 2)), rng.integers(0, 5, (3, 4))
    np.testing.assert_array_equal(ag.raw(masked_ae.rows(x, ids)), np.take_along_axis(x, ids[:, :, None], 1))
    ag.gradcheck(lambda a: masked_ae.rows(a, ids), [x])


# --- the loss ---------------------------------------------------------------------------------------------------------


def test_eq1_is_the_mean_over_hidden_patches(rng):
    pred, target = rng.standard_normal((2, 3, 6, 4))
    masks = random_masks(rng.random((3, 6)), 2)
    want = np.mean(np.square(pred - target).mean(-1)[masks.hidden == 1])
    assert float(masked_ae.masked_loss(pred, target, masks.hidden)) == pytest.approx(want, rel=1e-12)
    ag.gradcheck(lambda p: masked_ae.masked_loss(p, target, masks.hidden), [pred], order=2)


def test_eq1_visible_patches_have_no_part_in_it(rng):
    masks = random_masks(rng.random((3, 6)), 2)
    pred, target = (ag.Tensor(rng.standard_normal((3, 6, 4)), requires_grad=True) for _ in range(2))
    masked_ae.masked_loss(pred, target, masks.hidden).backward()
    for leaf in (pred, target):
        assert np.all(leaf.grad[masks.hidden == 0] == 0) and np.all(leaf.grad[masks.hidden == 1] != 0)


@pytest.mark.parametrize("P", [2, 4, 48])
def test_eq2_a_network_that_says_nothing_loses_p_minus_1_over_p(P, rng):
    """The variance is divided by P - 1, the loss by P; eps only takes something away."""
    patches = 3 * rng.standard_normal((20, 6, P)) - 1
    masks = random_masks(rng.random((20, 6)), 2)
    for eps, allowed in ((1e-15, 1e-9), (0.5, None)):
        loss = float(masked_ae.masked_loss(np.zeros(patches.shape), masked_ae.normalise(patches, eps), masks.hidden))
        if allowed:
            assert abs(loss - (P - 1) / P) < allowed
        else:
            var = patches.var(-1, ddof=1)[masks.hidden == 1]
            assert loss == pytest.approx((P - 1) / P * np.mean(var / (var + eps)), rel=1e-12), "eps is inside the root"


def test_eq2_backwards_is_the_patch_again_also_where_it_is_flat(rng):
    patches = rng.standard_normal((3, 5, 4))
    patches[0] = 0.25
    target = masked_ae.normalise(patches)
    assert np.all(target[0] == 0)
    assert_close(masked_ae.denormalise(target, patches), patches, 1e-12)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_gradient_of_the_whole_loss_is_right(name, rng):
    net = network(name)
    patches = rng.standard_normal((3, 16, 4))
    masks = random_masks(rng.random((3, 16)), 4)
    where = net.flat.copy()

    def loss():
        return masked_ae.masked_loss(net(patches, masks), patches, masks.hidden)

    net.zero_grad()
    loss().backward()
    u, h = rng.standard_normal(len(where)), 1e-4
    exact, values = float(net.flat_grad @ u), []
    for k in (-2, -1, 1, 2):
        net.flat[...] = where + k * h * u
        values.append(float(loss()))
    numeric = (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * h)
    assert numeric == pytest.approx(exact, rel=1e-6)


@pytest.mark.parametrize("norm_target", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_training_is_eq1_towards_the_very_patches_that_filling_in_brings_back(name, norm_target):
    """The stage's loss from its parts, and what `fill_in` makes of a network that has reached its target."""
    digits = load("digits")
    system = masked_ae.build(tiny(name, norm_target=norm_target), digits, seed=0)
    net, batch = system.modules["network"], digits.train.take(slice(0, 6))
    got = float(system.stages()[0].objectives[0].loss(batch, np.random.default_rng(5), 0)[0])
    patches = masked_ae.patchify(digits.scale(batch.images), 2)
    masks = random_masks(np.random.default_rng(5).random((6, 16)), 4)
    mean, var = patches.mean(-1, keepdims=True), patches.var(-1, ddof=1, keepdims=True)
    targets = {False: patches, True: (patches - mean) / np.sqrt(var + 1e-6)}
    pred = ag.raw(net(patches, masks))
    want = {kind: np.square(pred - x).mean(-1)[masks.hidden == 1].mean() for kind, x in targets.items()}
    assert got == pytest.approx(want[norm_target], rel=1e-5)
    assert abs(want[True] - want[False]) > 1e-2
    reached = masked_ae.fill_in(lambda *_: targets[norm_target], patches, masks, norm_target=norm_target)
    assert_close(reached, patches, 1e-5)


# --- the networks -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_hidden_patches_cannot_reach_the_encoder_or_the_prediction(name, rng):
    net = network(name)
    patches = rng.standard_normal((3, 16, 4))
    masks = random_masks(rng.random((3, 16)), 4)
    other = np.where(masks.hidden[:, :, None] == 1, 1e3 * rng.standard_normal(patches.shape), patches)
    for part in (net.encode, net):
        np.testing.assert_array_equal(ag.raw(part(patches, masks)), ag.raw(part(other, masks)))
    shown = np.where(masks.hidden[:, :, None] == 0, 2 * patches, patches)
    assert np.all(ag.raw(net(patches, masks)) != ag.raw(net(shown, masks))), "while the visible ones reach all of it"


def test_the_encoder_does_not_care_in_which_order_it_is_shown_the_visible_patches(rng):
    net = network("transformer")
    patches = rng.standard_normal((3, 16, 4))
    masks = random_masks(rng.random((3, 16)), 5)
    order = np.array([3, 0, 4, 1, 2])
    turned = Masks(masks.keep[:, order], masks.restore, masks.hidden)
    straight = ag.raw(net.encode(patches, masks))
    assert straight.shape == (3, 5, 16)
    assert_close(ag.raw(net.encode(patches, turned)), straight[:, order], 1e-12)


def test_the_encoder_does_care_where_a_patch_was(rng):
    net = network("transformer")
    patches = np.repeat(rng.standard_normal((1, 1, 4)), 16, axis=1)  # the same everywhere
    a, b = (Masks(np.array([keep]), None, None) for keep in ([0, 5], [0, 6]))
    assert np.all(ag.raw(net.encode(patches, a)) != ag.raw(net.encode(patches, b)))


def test_the_decoder_puts_every_token_in_its_place(rng):
    """Whatever the shuffle, the same visible set gives the same prediction: un-shuffling by the shuffle would not."""
    net = network("transformer")
    patches = rng.standard_normal((2, 16, 4))
    noise = rng.random((2, 16))
    visible = noise < np.sort(noise, axis=1)[:, 4:5]
    other = np.where(visible, rng.random((2, 16)), 1 + rng.random((2, 16)))  # another order of the same sets
    a, b = (random_masks(u, 4) for u in (noise, other))
    assert np.any(a.keep != b.keep)
    np.testing.assert_array_equal(a.hidden, b.hidden)
    assert_close(ag.raw(net(patches, a)), ag.raw(net(patches, b)), 1e-12)


def test_mask_tokens_have_positions(rng):
    """Hidden patches share one token; without positions the decoder would say the same of all of them."""
    net = network("transformer")
    masks = random_masks(rng.random((1, 16)), 4)
    hidden = ag.raw(net(rng.standard_normal((1, 16, 4)), masks))[0, masks.hidden[0] == 1]
    assert np.abs(hidden[:, None] - hidden[None]).max(-1)[~np.eye(12, dtype=bool)].min() > 1e-3


def test_positions_tell_rows_from_columns_and_all_places_apart():
    places = masked_ae.positions(3, 5, 8)
    assert places.shape == (15, 8) and len(np.unique(places, axis=0)) == 15
    np.testing.assert_array_equal(places[1, :4], places[4, :4])  # one row
    np.testing.assert_array_equal(places[2, 4:], places[7, 4:])  # one column


# --- filling in -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm_target", [False, True])
def test_visible_patches_are_pasted_back_to_the_bit(norm_target, rng):
    net = network("mlp")
    patches = rng.standard_normal((3, 16, 4))
    masks = random_masks(rng.random((3, 16)), 4)
    filled = masked_ae.fill_in(net, patches, masks, norm_target=norm_target)
    np.testing.assert_array_equal(filled[masks.hidden == 0], patches[masks.hidden == 0])
    pred = ag.raw(net(patches, masks))
    want = masked_ae.denormalise(pred, patches) if norm_target else pred  # in units of the hidden patch's own contrast
    np.testing.assert_array_equal(filled[masks.hidden == 1], want[masks.hidden == 1])
    assert np.all(want[masks.hidden == 1] != patches[masks.hidden == 1])


def test_features_see_all_patches(rng):
    patches = rng.standard_normal((3, 16, 4))
    for name in NETWORKS:
        net = network(name)
        found = masked_ae.features(net, patches)
        assert found.shape == (3, 16)
        for i in range(16):
            other = patches.copy()
            other[:, i] += 1
            assert np.all(np.any(masked_ae.features(net, other) != found, axis=1))


def test_features_are_the_mean_of_what_the_encoder_says_of_every_patch(rng):
    net, patches = network("transformer"), rng.standard_normal((3, 16, 4))
    everything = np.tile(np.arange(16), (3, 1))
    said = ag.raw(net.encode(patches, Masks(everything, everything, np.zeros((3, 16)))))
    assert said.shape == (3, 16, 16)
    assert_close(masked_ae.features(net, patches), said.mean(1), 1e-12)
    assert np.abs(said - said.mean(1, keepdims=True)).max() > 0.1, "no patch says what their mean says"


@pytest.fixture(scope="module", params=NETWORKS)
def trained(request):
    digits = load("digits")
    system = masked_ae.build(tiny(request.param, steps=60, sample_steps=5), digits, seed=0)
    trainer = Trainer(system, seed=0)
    while trainer.done < trainer.total:
        trainer.advance(digits.train)
    system.modules["network"].eval()
    return system


def test_figures_stand_beside_fills_without_a_network(trained):
    found = trained.figures(load("digits"), rng=np.random.default_rng(0))
    # measured before by another program with other masks, four a picture here: within 3 %
    for count, linear, mean, black in ((4, 0.0518, 0.0738, 0.2355), (8, 0.0416, 0.0739, 0.2352)):
        ours = found[f"filled in, {count} of 16 visible, MSE (black 0, white 1)"]
        for name, want in (("linear regression", linear), ("training mean", mean), ("black", black)):
            assert found[f"{name}, {count} of 16 visible, MSE (black 0, white 1)"] == pytest.approx(want, rel=0.03)
        assert linear / 2 < ours < black


def test_pictures_and_samples(trained):
    digits = load("digits")
    assert set(trained.pictures) == set(masked_ae.PICTURES)
    original, masked, filled = trained.pictures["reconstruction"](digits.test, rng=np.random.default_rng(0))
    assert original.shape == (12, 8, 8, 1) and np.abs(filled).max() <= 1
    patches = [masked_ae.patchify(a, 2) for a in (original, masked, filled)]
    hidden = np.all(patches[1] == 0, axis=-1)
    assert np.all(hidden.sum(1) == 12)
    np.testing.assert_array_equal(patches[2][~hidden], patches[0][~hidden])
    seen = []
    x = trained.sample(5, rng=np.random.default_rng(1), callback=lambda t, y: seen.append((t, y)))
    assert x.shape == (5, 8, 8, 1) and x.dtype == np.float32 and np.abs(x).max() <= 1
    assert [t for t, _ in seen] == list(range(5, -1, -1))
    for (_, a), (_, b) in zip(seen, seen[1:]):
        same = np.all(masked_ae.patchify(a, 2) == masked_ae.patchify(b, 2), axis=-1)
        assert np.all(same.sum(1) >= 4), "a round leaves its visible patches alone"
    np.testing.assert_array_equal(x, seen[-1][1])
    np.testing.assert_array_equal(x, trained.sample(5, rng=np.random.default_rng(1)))
    with pytest.raises(ValueError, match="steps must be at least 1 round, got 0"):
        trained.sample(1, rng=np.random.default_rng(0), steps=0)


@pytest.mark.parametrize(("width", "counts"), [(4, [1]), (8, [1, 2])])
def test_figures_of_few_patches_always_show_one(width, counts):
    """Of 2 patches a quarter is none, of 4 it is one."""
    split = Split(np.random.default_rng(0).integers(0, 17, (20, 8, width, 1)).astype(np.uint8))
    few = Dataset("digits", split, split, split, 17, ())
    system = masked_ae.build(tiny("mlp", patch=4, mask_ratio=0.5), few, seed=0)
    found = system.figures(few, rng=np.random.default_rng(0))
    assert [name for name in found if name.startswith("black")] == [
        f"black, {count} of {width // 2} visible, MSE (black 0, white 1)" for count in counts
    ]


def test_normalised_targets_say_what_their_figures_were_told():
    digits = load("digits")
    system = masked_ae.build(tiny("mlp", norm_target=True), digits, seed=0)
    found = system.figures(digits, rng=np.random.default_rng(0))
    assert any("told each hidden patch's mean and variance" in name for name in found)
    assert np.isfinite(system.sample(3, rng=np.random.default_rng(0))).all()


@pytest.mark.parametrize("name", NETWORKS)
def test_pictures_of_mnists_shape_train_and_fill_in(name):
    """28x28 in patches of 4: 49 patches, of which a quarter, 12, are visible."""
    images = np.random.default_rng(0).integers(0, 256, (20, 28, 28, 1)).astype(np.uint8)
    split = Split(images)
    shaped = Dataset("mnist", split, split, Split(images[:2]), 256, ())
    system = masked_ae.build(tiny(name, patch=4, steps=2, batch_size=8), shaped, seed=0)
    trainer = Trainer(system, seed=0)
    while trainer.done < trainer.total:
        assert np.isfinite(trainer.advance(split)["fill.loss"])
    assert system.sample(2, rng=np.random.default_rng(0), steps=2).shape == (2, 28, 28, 1)
    assert "filled in, 12 of 49 visible, MSE (black 0, white 1)" in system.figures(shaped, rng=np.random.default_rng(0))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"mask_ratio": 0.99}, "at least one of the 16 patches visible and hide at least one, got 0.99"),
        ({"mask_ratio": 0.0}, "at least one of the 16 patches visible and hide at least one, got 0.0"),
        ({"patch": 3}, "patch must divide the picture's sides 8 x 8, got 3"),
        ({"patch": 0}, "patch must divide the picture's sides 8 x 8, got 0"),
        ({"patch": 8}, "at least one of the 1 patches visible"),
        ({"patch": 1, "norm_target": True}, "one number has no variance"),
        ({"width": 18}, "multiples of 4"),
        ({"layers": 0}, "layers must be at least 1, got 0"),
        ({"network": "cnn"}, "network must be 'transformer' or 'mlp', got 'cnn'"),
        ({"shift": 1.5}, "shift must be a share in 0..1, got 1.5"),
    ],
)
def test_settings_that_do_not_fit_are_named(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        masked_ae.build(masked_ae.Config(**settings), load("digits"), seed=0)


def test_points_have_no_patches():
    with pytest.raises(ValueError, match="'rings' holds no pictures"):
        masked_ae.build(masked_ae.Config(), load("rings"), seed=0)
