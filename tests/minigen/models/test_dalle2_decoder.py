"""DALL-E 2's decoder: what it is told, what is left out, there and back, arcs and text differences."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracles import gaussian
from systems import shaken

import autograd as ag
from kernels.compare import unit_roundoff
from minigen.maths import schedules
from minigen.maths.parametrisation import eps_of
from minigen.models import dalle2_decoder as dd
from minigen.models import glide
from minigen.samplers import ddim

N, D, C_TEXT, T_WORDS = 3, 6, 8, 5


def frozen(a):
    a = np.array(a)
    a.flags.writeable = False
    return a


def units(n, d, seed=0):
    z = np.random.default_rng(seed).standard_normal((n, d))
    return frozen(z / np.linalg.norm(z, axis=1, keepdims=True))


def decoder(seed=0):
    rng = np.random.default_rng(seed)
    net = dd.Decoder(3, size=8, width=D, c_text=C_TEXT, patch=2, base=8, heads=2, rng=rng)
    return shaken(net.astype(np.float64), seed)


def told(z, seed=0, beside=None):
    rng, n = np.random.default_rng((seed, 1)), len(z)
    words = rng.standard_normal((n, T_WORDS, C_TEXT))
    mask = np.arange(T_WORDS) < np.array([[5], [2], [4]])[:n]
    return dd.Told(z, glide.Told(words[:, 1], words, mask, beside))


def silent(net, part):
    """``net`` with the weights of one way in at 0."""
    if part == "tokens":
        net.tokens.w.data[...] = 0
    else:
        net.unet.vector.w.data[C_TEXT:] = 0
    return net


# --- what it is told --------------------------------------------------------------------------------------------------


def test_unclip_eq1_embedding_comes_in_beside_the_time_and_as_tokens():
    x, t, z = np.random.default_rng(0).standard_normal((N, 8, 8, 3)), np.array([1, 5, 9]), units(N, D)
    for deaf in ("tokens", "vector"):  # each way alone is heard
        net = silent(decoder(), deaf)
        moved = abs(net(x, t, told(z)).data - net(x, t, told(z[::-1])).data).max((1, 2, 3))
        assert moved[0] > 1e-5 and moved[2] > 1e-5, deaf
        assert moved[1] == 0, "the middle row is told the same"
    both = silent(silent(decoder(), "tokens"), "vector")
    np.testing.assert_array_equal(both(x, t, told(z)).data, both(x, t, told(z[::-1])).data)


def test_unclip_numbers_of_an_embedding_are_brought_to_size_1():
    """A network for d numbers is told sqrt(d) z: with the identity in place of its layers it shows."""
    net, z, seen = decoder(), units(N, D), {}

    def unet(x, t, vector, words, mask, beside):
        seen.update(vector=ag.raw(vector), words=ag.raw(words), mask=mask)
        return x

    net.unet = unet
    net(np.zeros((N, 8, 8, 3)), np.ones(N), told(z))
    np.testing.assert_allclose((seen["vector"][:, C_TEXT:] ** 2).mean(1), 1)
    assert seen["words"].shape == (N, T_WORDS + dd.TOKENS, C_TEXT)
    want = (z * D**0.5) @ net.tokens.w.data + net.tokens.b.data
    np.testing.assert_allclose(seen["words"][:, T_WORDS:].reshape(N, -1), want)
    assert seen["mask"][:, T_WORDS:].all()
    np.testing.assert_array_equal(seen["mask"][:, :T_WORDS], told(z).text.mask)


def test_unclip_eq1_embeddings_are_left_out_row_by_row_in_a_new_array():
    z, left_out = units(5, D), np.array([True, False, False, True, False])
    found = dd.without_embeddings(z, left_out)
    assert not found[left_out].any()
    np.testing.assert_array_equal(found[~left_out], z[~left_out])


def test_unclip_known_pixels_start_unheard_and_stay_bit_for_bit():
    rng = np.random.default_rng(0)
    net = dd.Decoder(3, size=8, width=D, c_text=C_TEXT, patch=2, base=8, heads=2, rng=rng).astype(np.float64)
    x, z = frozen(rng.standard_normal((N, 8, 8, 3))), units(N, D)
    image, keep = frozen(np.clip(x, -1, 1)), frozen(glide.random_masks(N, 8, rng=rng, nothing=0.0))
    beside = glide.known_pixels(image, keep)
    for p in [*net.unet.conv_out.parameters()]:
        p.data[...] += 0.1 * rng.standard_normal(p.shape)
    t = np.ones(N)
    np.testing.assert_array_equal(net(x, t, told(z)).data, net(x, t, told(z, beside=beside)).data)

    net, schedule = decoder(), schedules.cosine(20)
    how = {"steps": 4, "guidance": 2.0, "image": image, "keep": keep}
    found = dd.decode(net, told(z), told(0 * z, 1), x, schedule, rng=np.random.default_rng(1), **how)
    kept = np.broadcast_to(keep == 1, x.shape)
    np.testing.assert_array_equal(found[kept], image[kept])
    assert abs(found[~kept] - image[~kept]).max() > 0.1
    whole = dd.decode(net, told(z), told(0 * z, 1), x, schedule, rng=rng, **{**how, "keep": np.ones((1, 8, 8, 1))})
    np.testing.assert_array_equal(whole, image)
    heard = []
    watched = lambda x, t, said: (heard.append(said.text.beside), net(x, t, said))[1]  # noqa: E731
    dd.decode(watched, told(z), told(0 * z, 1), x, schedule, rng=rng, **how)
    for known in heard:
        np.testing.assert_array_equal(known, np.concatenate([beside, beside]), "with and without the condition")
    assert len(heard) == 4


def test_unclip_decoder_guidance():
    """1 is told all, 0 nothing; between and beyond the guess is affine in s."""
    net, x, t, z = decoder(), np.random.default_rng(0).standard_normal((N, 8, 8, 3)), np.array([3, 4, 5]), units(N, D)
    all_, none = told(z), told(0 * z, 1)
    full, empty = net(x, t, all_).data, net(x, t, none).data
    for s in (0.0, 1.0):
        np.testing.assert_array_equal(dd.guided(net, none, s)(x, t, all_).data, full if s else empty)
    guess = dd.guided(net, none, 3.0)(x, t, all_)
    np.testing.assert_allclose(getattr(guess, "data", guess), empty + 3 * (full - empty), atol=1e-9)


# --- there and back ---------------------------------------------------------------------------------------------------


class Oracle:
    """The best guess for data N(m(z), 0.25) with m = the first number of the embedding; it notes what it is told."""

    def __init__(self, schedule):
        self.schedule, self.told = schedule, []

    def __call__(self, x, t, said):
        self.told.append(said)
        mean = said.z[:, 0].reshape(-1, 1, 1, 1)
        return gaussian("x_0", mean, 0.5, self.schedule)(x, t)


def round_trip(levels, x, z):
    schedule = schedules.cosine(1000)
    net, grid = Oracle(schedule), schedules.spaced(schedule, levels)
    x_T = dd.invert(net, x, told(z), grid, iterations=0)
    return abs(dd.walk(net, x_T, told(z), told(0 * z), grid, guidance=1.0, eta=0.0, rng=None) - x).max()


def test_unclip_eq2_variations_without_noise_are_reconstructions_to_first_order():
    x, z = frozen(np.random.default_rng(0).uniform(-0.9, 0.9, (N, 4, 4, 3))), units(N, D)
    errors = np.array([round_trip(levels, x, z) for levels in (50, 100, 200)])
    assert errors[-1] < 0.03
    np.testing.assert_allclose(errors[:-1] / errors[1:], 2, atol=0.3)


def test_unclip_eq2_both_ways_are_told_the_same_and_nothing_is_guided_on_the_way_up():
    schedule = schedules.cosine(40)
    net, grid, z = Oracle(schedule), schedules.spaced(schedule, 4), units(N, D)
    x = np.zeros((N, 4, 4, 3))
    x_T = dd.invert(net, x, told(z), grid)
    assert all(len(said.z) == N and said.z is z for said in net.told), (
        "one call a level, of the pictures' own embeddings"
    )
    del net.told[:]
    dd.walk(net, x_T, told(z), told(0 * z), grid, guidance=2.0, eta=0.0, rng=None)
    assert len(net.told) == 4 and all(len(said.z) == 2 * N for said in net.told)


def test_unclip_eq2_noise_makes_variations_of_the_right_spread():
    """With the exact guess and eta = 1 the noise of x_T is forgotten: what comes is a new draw of N(m(z), 0.25)."""
    schedule, n = schedules.cosine(200), 400
    z = np.broadcast_to(units(1, D), (n, D)) * 0.2
    net = Oracle(schedule)
    x_T = np.broadcast_to(np.linspace(-2, 2, 12).reshape(1, 2, 2, 3), (n, 2, 2, 3))
    said = dd.Told(z, glide.Told(np.zeros((n, 1)), np.zeros((n, 1, 1)), np.zeros((n, 1), bool)))
    model = dd.guided(net, said, 1.0)
    found = ddim.sample(model, x_T, schedule, rng=np.random.default_rng(0), eta=1.0, cond=said, kind="x_0")
    assert abs(found.mean(0) - z[0, 0]).max() < 6 * 0.5 / n**0.5 + 0.02
    assert abs(found.std(0) / 0.5 - 1).max() < 6 / (2 * n) ** 0.5 + 0.02


# --- arcs -------------------------------------------------------------------------------------------------------------


@given(st.integers(0, 999), st.integers(2, 9))
def test_unclip_eq3_arc_has_both_ends_unit_length_and_even_angles(seed, k):
    z, rng = units(2, D, seed), np.random.default_rng(seed)
    x_T, shares = rng.standard_normal((2, 2, 2, 3)), np.linspace(0, 1, k)
    z_theta, noise = dd.between(z, x_T, shares)
    np.testing.assert_array_equal(z_theta[[0, -1]], z)
    np.testing.assert_array_equal(noise[[0, -1]], x_T)
    np.testing.assert_allclose(np.linalg.norm(z_theta, axis=1), 1)
    angle = np.arccos(np.clip((z_theta * z[0]).sum(1), -1, 1))
    np.testing.assert_allclose(angle, shares * angle[-1], atol=1e-6)
    flat = noise.reshape(k, -1)
    between = (1 - shares) * np.linalg.norm(x_T[0]) + shares * np.linalg.norm(x_T[1])
    np.testing.assert_allclose(np.linalg.norm(flat, axis=1), between)


def test_unclip_eq3_noise_may_be_held_and_two_pictures_must_be_two():
    z, x_T, held = units(2, D), np.random.default_rng(0).standard_normal((2, 2, 2, 3)), frozen(np.ones((2, 2, 3)))
    z_theta, noise = dd.between(z, x_T, np.array([0.0, 0.3, 1.0]), held)
    np.testing.assert_array_equal(noise, np.stack([held] * 3))
    np.testing.assert_array_equal(z_theta[[0, 2]], z)
    with pytest.raises(ValueError, match="two different pictures"):
        dd.between(z[[0, 0]], x_T[[0, 0]], np.array([0.5]))


def test_unclip_eq4_equal_texts_have_no_difference():
    after, before = units(2, D)
    np.testing.assert_array_equal(dd.difference(after, before), after - before)
    with pytest.raises(ValueError, match="two texts that say different things"):
        dd.difference(after, after.copy())


def test_unclip_eq4_turns_towards_the_difference_by_a_share_of_the_arc():
    z, z_d = units(2, D, 3)
    found = dd.towards(z, 3 * z_d, np.array([0.0, 0.25, 0.5, 1.0]))
    np.testing.assert_array_equal(found[0], z)
    np.testing.assert_allclose(found[3], z_d, atol=1e-12)
    angle = np.arccos(z @ z_d)
    np.testing.assert_allclose(np.arccos(np.clip(found @ z, -1, 1)), angle * np.array([0, 0.25, 0.5, 1]), atol=1e-6)


@pytest.mark.parametrize("length", [0.1, 1.0, 1.9])
@pytest.mark.parametrize("seed", range(4))
def test_unclip_eq5_own_theta_leads_to_the_sum(length, seed):
    z, z_d = units(2, D, seed)
    for way in (z_d, -z_d):  # ahead and behind
        d = length * way
        (found,) = dd.towards(z, d, [dd.own_theta(z, d)])
        np.testing.assert_allclose(found, (z + d) / np.linalg.norm(z + d), atol=1e-9)
    assert dd.own_theta(z, 0.5 * z) == 1.0  # there already


def test_unclip_walk_is_what_the_equations_say_for_one_level():
    """One step of DDIM from T to 0 is the guess itself, whatever eps says; guided, limited to [-1, 1]."""
    net, z, schedule = decoder(), units(N, D), schedules.cosine(10)
    x_T, levels = np.random.default_rng(0).standard_normal((N, 8, 8, 3)), schedules.spaced(schedule, 1)
    guess = net(x_T, np.full(N, 10), told(z)).data
    found = dd.walk(net, x_T, told(z), told(0 * z), levels, guidance=1.0, eta=0.0, rng=None)
    np.testing.assert_allclose(found, np.clip(guess, -1, 1), atol=1e4 * unit_roundoff(np.float64))
    assert np.isfinite(eps_of(guess, x_T, 1, levels, "x_0")).all()
