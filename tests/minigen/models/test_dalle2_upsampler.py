"""DALL-E 2's up-samplers: how small pictures are spoilt, crops of both sizes, and a cascade that begins as doubled pixels."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

import autograd as ag
from minigen.maths import schedules
from minigen.models import dalle2_upsampler as up


def frozen(a):
    a = np.array(a)
    a.flags.writeable = False
    return a


def pictures(n, side=8, seed=0):
    return frozen(np.random.default_rng(seed).uniform(-1, 1, (n, side, side, 3)))


def doubled(x):
    return x.repeat(2, 1).repeat(2, 2)


class Tape:
    """Uniform numbers that are given, and noise of ones."""

    def __init__(self, u):
        self.u = np.asarray(u, float)

    def random(self, shape):
        assert shape == self.u.shape
        return self.u

    def standard_normal(self, shape):
        return np.ones(shape)


@given(st.floats(0.2, 1.0), st.integers(0, 99))
def test_unclip_blur_is_gaussian(sigma, seed):
    x = pictures(2, seed=seed)
    found = up.blurred(x, np.array([sigma, 0.0]))
    want = ndimage.gaussian_filter(x[0], (sigma, sigma, 0), mode="nearest", radius=(up.REACH, up.REACH, 0))
    np.testing.assert_allclose(found[0], want, atol=1e-12)
    np.testing.assert_array_equal(found[1], x[1])


def test_unclip_blur_keeps_a_plain_picture_plain_and_knows_no_negative_width():
    x = frozen(np.full((3, 8, 8, 3), 0.7, np.float32))
    found = up.blurred(x, np.array([0.0, 0.5, 2.0]))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, x, rtol=1e-6)
    with pytest.raises(ValueError, match="sigma must be at least 0"):
        up.blurred(x, np.array([0.0, -0.5, 2.0]))


def test_unclip_first_upsamplers_pictures_are_blurred_every_second_time():
    x = pictures(3)
    found = up.softened(x, rng=Tape([[0.49, 0.0], [0.5, 0.9], [0.1, 1.0]]))
    np.testing.assert_array_equal(found[1], x[1])
    np.testing.assert_array_equal(found[[0, 2]], up.blurred(x[[0, 2]], np.array(up.BLUR)))


def test_unclip_second_upsamplers_pictures_are_spoilt_in_every_order():
    orders, x = list(permutations("bhn")), pictures(6)
    u = np.stack([(np.arange(6) + 0.5) / 6, np.ones(6), np.zeros(6), np.ones(6)], axis=1)
    found = up.degraded(x, rng=Tape(u))
    for i, order in enumerate(orders):
        want = x[i : i + 1]
        for what in order:
            if what == "b":
                want = up.blurred(want, np.array([up.WORST_BLUR]))
            elif what == "h":
                want = doubled(want.reshape(1, 4, 2, 4, 2, 3).mean((2, 4)))
            else:
                want = want + up.WORST_NOISE
        np.testing.assert_allclose(found[i], want[0], atol=1e-12, err_msg=str(order))
    mild = np.stack([u[:, 0], np.zeros(6), np.ones(6), np.zeros(6)], axis=1)
    np.testing.assert_array_equal(up.degraded(x, rng=Tape(mild)), x)


@given(st.integers(0, 999))
def test_unclip_crops_of_both_sizes_show_the_same(seed):
    low = pictures(4)
    large, small = up.cropped(doubled(low), low, rng=np.random.default_rng(seed))
    assert small.shape == (4, 4, 4, 3)
    np.testing.assert_array_equal(large, doubled(small))


def test_unclip_crops_lie_everywhere():
    low = np.broadcast_to(
        np.arange(8.0)[None, :, None, None] * 10 + np.arange(8.0)[None, None, :, None], (400, 8, 8, 1)
    )
    _, small = up.cropped(doubled(low), low, rng=np.random.default_rng(0))
    assert set(small[:, 0, 0, 0]) == {10 * i + j for i in range(5) for j in range(5)}


def test_unclip_cascade_begins_as_doubled_pixels():
    """Its last layers are 0, so before any training 8 -> 16 -> 32 is the small picture, every pixel 4 x 4 times."""
    rng, schedule, low = np.random.default_rng(0), schedules.cosine(20), frozen(pictures(2).astype(np.float32))
    x = low
    for size in (16, 32):
        x = up.upsample(up.Upsampler(3, size, base=8, rng=rng), x, schedule, rng=rng, steps=3)
    np.testing.assert_array_equal(x, doubled(doubled(low)))


def test_unclip_upsampler_is_shown_the_small_picture_as_it_is():
    """In sampling nothing is spoilt: what the network is shown are the doubled pixels themselves."""
    low, seen = frozen(pictures(2).astype(np.float32)), []

    class Net:
        def __call__(self, x_t, t, shown):
            seen.append(shown)
            return doubled(shown)

    up.upsample(Net(), low, schedules.cosine(20), rng=np.random.default_rng(0), steps=3)
    assert len(seen) == 3 and all(shown is low for shown in seen)


def test_unclip_upsampler_hears_time_noise_and_small_picture():
    rng = np.random.default_rng(0)
    net = up.Upsampler(3, 16, base=8, rng=rng).astype(np.float64)
    for p in net.parameters():
        p.data[...] += 0.1 * rng.standard_normal(p.shape)
    low, x_t, t = pictures(2), np.random.default_rng(1).standard_normal((2, 16, 16, 3)), np.array([2, 9])
    with ag.no_grad():
        before = ag.raw(net(x_t, t, low))
        for given_ in ((x_t + 0.1, t, low), (x_t, t + 1, low), (x_t, t, low * 0.9)):
            assert abs(ag.raw(net(*given_)) - before).max() > 1e-5
