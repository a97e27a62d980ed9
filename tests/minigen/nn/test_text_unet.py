"""The U-Net that is told a text: what its words and its vector reach, and what the channels beside the picture do not."""

import numpy as np
import pytest
from systems import shaken

import autograd as ag
from minigen.nn.text_unet import TextAttention, TextUNet


def unet(seed, c_beside=4, size=8):
    net = TextUNet(
        3, 3, size=size, c_vector=6, c_words=5, c_beside=c_beside, patch=2, base=8, multipliers=(1, 1), heads=2,
        rng=np.random.default_rng(seed),
    )  # fmt: skip
    return net.astype(np.float64)


def said(rng, n=2, t=4):
    return rng.standard_normal((n, 6)), rng.standard_normal((n, t, 5)), np.arange(t) < rng.integers(1, t, (n, 1))


def test_attention_is_one_softmax_over_pixels_and_words(rng):
    """Against the definition, written out; a word that is masked has no weight."""
    layer = shaken(TextAttention(4, 1, 5, groups=2, rng=rng).astype(np.float64), 0)
    x, words, mask = rng.standard_normal((1, 2, 2, 4)), rng.standard_normal((1, 3, 5)), np.array([[True, True, False]])
    pixels = ag.raw(layer.qkv(ag.reshape(layer.norm(x), (1, 4, 4))))[0]
    kv = np.concatenate([pixels[:, 4:], ag.raw(layer.words(words))[0][:2]])
    scores = pixels[:, :4] @ kv[:, :4].T / 2
    p = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    expected = x + ag.raw(layer.out((p @ kv[:, 4:])[None])).reshape(1, 2, 2, 4)
    np.testing.assert_allclose(ag.raw(layer(x, words, mask)), expected, rtol=1e-12)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_padding_reaches_no_pixel_and_every_word_does(seed):
    rng = np.random.default_rng(seed)
    net = shaken(unet(seed), seed)
    x, t = rng.standard_normal((2, 8, 8, 3)), np.array([3, 9])
    vector, words, mask = said(rng)
    first = ag.raw(net(x, t, vector, words, mask))
    other = np.where(mask[..., None], words, 9.0)
    np.testing.assert_array_equal(first, ag.raw(net(x, t, vector, other, mask)))
    moved = words.copy()
    moved[:, 0] += 1
    changed = abs(ag.raw(net(x, t, vector, moved, mask)) - first) > 1e-12
    assert changed.any(axis=3).all(), "the first word is heard at every pixel"
    assert abs(ag.raw(net(x, t, vector + 1, words, mask)) - first).max() > 1e-9, "and so is the vector"


def test_network_is_differentiable_in_everything_it_is_told(rng):
    net = shaken(unet(0), 0)
    x, (vector, words, mask), beside = rng.standard_normal((2, 8, 8, 3)), said(rng), rng.standard_normal((2, 8, 8, 4))
    u = rng.standard_normal(x.shape)
    ag.gradcheck(lambda x, v, w, b: ag.sum(net(x, np.array([1, 5]), v, w, mask, b) * u), [x, vector, words, beside])


def test_zero_channels_leave_the_base_model_as_it_is_bit_for_bit(rng):
    net = unet(3)
    x, t, (vector, words, mask) = rng.standard_normal((2, 8, 8, 3)), np.array([3, 9]), said(rng)
    for name, p in net.named_parameters().items():
        if not name.startswith("conv_beside"):
            p.data[...] += 0.1 * rng.standard_normal(p.shape)
    beside = rng.standard_normal((2, 8, 8, 4))
    base, shown = ag.raw(net(x, t, vector, words, mask)), ag.raw(net(x, t, vector, words, mask, beside))
    assert abs(base).max() > 0.1
    np.testing.assert_array_equal(base, shown)


def test_bad_input(rng):
    with pytest.raises(ValueError, match="size must be a multiple of 4"):
        unet(0, size=10)
    for multipliers in ((), (0,), (1, -1)):
        with pytest.raises(ValueError, match="every multiplier must be at least 1"):
            TextUNet(3, 3, size=8, c_vector=6, c_words=5, multipliers=multipliers, attention=(), rng=rng)
    with pytest.raises(ValueError, match="heads must divide the channels"):
        TextAttention(6, 4, 5, groups=2, rng=rng)
    with pytest.raises(ValueError, match="images must be 8 x 8 pixels"):
        unet(0)(np.zeros((2, 4, 8, 3)), np.array([1, 1]), *said(rng))
    with pytest.raises(ValueError, match="without channels beside"):
        unet(0, c_beside=0)(np.zeros((2, 8, 8, 3)), np.array([1, 1]), *said(rng), np.zeros((2, 8, 8, 4)))


def test_one_time_stands_for_all_pictures(rng):
    net, x, (vector, words, mask) = unet(0), rng.standard_normal((2, 8, 8, 3)), said(rng)
    net.conv_out.w.data = 1 + net.conv_out.w.data
    with ag.no_grad():
        whole = net(x, np.array([7, 7]), vector, words, mask).data
        assert np.any(whole)
        np.testing.assert_array_equal(net(x, 7, vector, words, mask).data, whole)
        with pytest.raises(ValueError, match="t must be one time or 2"):
            net(x, np.array([7, 7, 7]), vector, words, mask)
