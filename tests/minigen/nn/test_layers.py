import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import autograd as ag
from minigen import nn
from minigen.nn import init


def gradcheck_module(module, *inputs, order=1):
    """Gradients with respect to the inputs and to the parameters, which are handed over as one long vector."""
    module.astype(np.float64)
    places = [
        (owner, name, value)
        for _, owner in module.named_modules()
        for name, value in vars(owner).items()
        if isinstance(value, ag.Tensor)
    ]
    flat = np.concatenate([p.data.reshape(-1) for _, _, p in places])
    flat = flat + 0.3 * np.random.default_rng(3).standard_normal(flat.size)  # zero weights would hide what is behind

    def function(*xs):
        start = 0
        for owner, name, p in places:
            setattr(owner, name, ag.reshape(xs[-1][start : start + p.size], p.shape))
            start += p.size
        try:
            return module(*xs[:-1])
        finally:
            for owner, name, p in places:
                setattr(owner, name, p)

    ag.gradcheck(function, [*inputs, flat], order=order, step=1e-4)


def test_a_convolution_may_have_a_kernel_of_rows_and_columns(rng):
    x = rng.standard_normal((2, 4, 5, 3)).astype(np.float32)
    conv = nn.Conv2d(3, 6, (1, 5), rng=rng)
    assert conv.w.shape == (1, 5, 3, 6) and conv(x).shape == (2, 4, 5, 6), "which keeps the size as a square one does"
    assert nn.Conv2d(3, 6, (2, 3), padding=(0, 1), rng=rng)(x).shape == (2, 3, 5, 6)


def test_layers_differentiate(rng):
    image, rows = rng.standard_normal((2, 4, 4, 4)), rng.standard_normal((5, 4))
    gradcheck_module(nn.Linear(4, 3, rng=rng), rows, order=2)
    gradcheck_module(nn.Conv2d(4, 2, rng=rng), image, order=2)
    gradcheck_module(nn.ConvTranspose2d(4, 2, rng=rng), image, order=2)
    gradcheck_module(nn.GroupNorm(4, 2, silu=True), image, order=2)
    gradcheck_module(nn.LayerNorm(4), rows, order=2)
    gradcheck_module(nn.BatchNorm(4), image, order=2)
    gradcheck_module(nn.MLP(4, 6, 2, rng=rng), rows, order=2)


def test_blocks_differentiate(rng):
    image, sequence = rng.standard_normal((2, 2, 2, 4)), rng.standard_normal((2, 3, 4))
    e = rng.standard_normal((2, 6))
    gradcheck_module(nn.ResBlock(4, 8, 6, groups=2, rng=rng), image, e, order=2)
    gradcheck_module(nn.ResBlock(4, 4, 6, groups=2, scale_shift=True, rng=rng), image, e, order=2)
    gradcheck_module(nn.ResBlock(4, 8, 6, groups=2, scale_shift=True, resample="down", rng=rng), image, e, order=2)
    gradcheck_module(nn.ResBlock(4, 4, 6, groups=2, resample="up", rng=rng), image, e, order=2)
    gradcheck_module(nn.PixelAttention(4, 2, groups=2, rng=rng), image)
    gradcheck_module(nn.Attention(4, 2, c_context=5, rng=rng), sequence, rng.standard_normal((2, 7, 5)))
    gradcheck_module(nn.Block(4, 2, c_context=5, rng=rng), sequence, rng.standard_normal((2, 7, 5)))
    gradcheck_module(nn.Downsample(4, rng=rng), image)
    gradcheck_module(nn.Upsample(4, rng=rng), image)


@pytest.mark.parametrize("c_out", [4, 6])
@pytest.mark.parametrize("resample", ["up", "down"])
def test_a_block_that_resamples_is_its_definition(resample, c_out, rng):
    """BigGAN's block: conv_1 sees the resampled norm_1(x), the skip the resampled x, and conv_2 the new resolution."""

    def resized(x):
        if resample == "up":
            return x.repeat(2, axis=1).repeat(2, axis=2)
        return (x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]) / 4

    block = nn.ResBlock(4, c_out, 6, groups=2, scale_shift=True, resample=resample, rng=rng).astype(np.float64)
    x, e = rng.standard_normal((2, 4, 6, 4)), rng.standard_normal((2, 6))
    skip = (lambda a: a) if c_out == 4 else block.skip
    with ag.no_grad():
        np.testing.assert_allclose(ag.raw(block(x, e)), ag.raw(skip(resized(x))), rtol=1e-12, atol=1e-12)
        block.conv_2.w.data = rng.standard_normal(block.conv_2.w.shape)
        scale, shift = np.split(block.embed(e).data, 2, axis=1)
        h = block.conv_1(resized(block.norm_1(x).data)).data
        h = block.conv_2(block.norm_2(h, scale, shift)).data
        np.testing.assert_allclose(block(x, e).data, ag.raw(skip(resized(x))) + h, rtol=1e-12, atol=1e-12)


def test_channels_per_head_decide_the_number_of_heads(rng):
    unet = nn.UNet(1, 2, base=8, multipliers=(1, 3), blocks=2, attention=(0, 1), channels_per_head=4, groups=2, rng=rng)
    found = [
        (m.attention.q.w.shape[0], m.attention.heads)
        for _, m in unet.named_modules()
        if isinstance(m, nn.PixelAttention)
    ]
    down, middle, up = [(8, 2), (8, 2), (24, 6), (24, 6)], [(24, 6)], [(24, 6)] * 3 + [(8, 2)] * 3
    assert found == [*down, *middle, *up]


def test_unet_that_resamples_in_blocks(rng):
    """No convolution of its own changes the resolution, and every block that does is told the time."""
    settings = {"base": 4, "multipliers": (1, 2), "blocks": 1, "attention": (), "heads": 2, "groups": 2}
    unet = nn.UNet(1, 1, **settings, scale_shift=True, resample_in_blocks=True, rng=rng)
    modules = [m for _, m in unet.named_modules()]
    assert not any(isinstance(m, nn.Downsample | nn.Upsample) for m in modules)
    changes = [(m.resample, m.conv_1.w.shape[2:], m.embed.w.shape) for m in modules if isinstance(m, nn.ResBlock)]
    assert [c for c in changes if c[0]] == [("down", (4, 4), (16, 8)), ("up", (8, 8), (16, 16))]

    def block(a, b):  # two norms, two convolutions, the embedding's layer, the skip's
        return 2 * (a + b) + 9 * a * b + b + 9 * b * b + b + 17 * 2 * b + (a * b + b if a != b else 0)

    time = (4 + 1) * 16 + (16 + 1) * 16
    attention = 2 * 8 + 4 * 8 * 8 + 4 * 8
    down, middle = block(4, 4) + block(4, 4) + block(4, 8), block(8, 8) + attention + block(8, 8)
    up = block(8 + 8, 8) + block(8 + 4, 8) + block(8, 8) + block(8 + 4, 4) + block(4 + 4, 4)
    assert unet.count() == time + (9 * 4 + 4) + down + middle + up + 2 * 4 + (9 * 4 + 1)
    gradcheck_module(Told(unet, np.array([3, 8])), rng.standard_normal((2, 4, 4, 1)))


def test_unet_differentiates_and_is_told_the_time(rng):
    unet = nn.UNet(1, 1, base=4, multipliers=(1, 2), blocks=1, attention=(1,), heads=2, groups=2, rng=rng)
    x = rng.standard_normal((2, 4, 4, 1))
    t = np.array([3, 8])
    gradcheck_module(Told(unet, t), x)
    for p in unet.parameters():
        p.data = p.data + 0.3 * rng.standard_normal(p.shape)
    with ag.no_grad():
        one, other = unet(x, t).data, unet(x, np.array([3, 9])).data
    np.testing.assert_allclose(one[0], other[0])
    assert np.abs(one[1] - other[1]).max() > 1e-3


@pytest.mark.parametrize("scale_shift", [False, True])
def test_one_time_stands_for_all_pictures(scale_shift, rng):
    unet = nn.UNet(1, 1, base=4, blocks=1, attention=(), heads=2, groups=2, scale_shift=scale_shift, rng=rng)
    x = rng.standard_normal((3, 4, 4, 1)).astype(np.float32)
    unet.conv_out.w.data = 1 + unet.conv_out.w.data
    with ag.no_grad():
        whole = unet(x, np.array([5, 5, 5])).data
        assert np.any(whole)
        for t in (5, np.int64(5), np.array(5), np.array([5])):
            np.testing.assert_array_equal(unet(x, t).data, whole)
        with pytest.raises(ValueError, match=r"t must be one time or 3, one a sample, got shape \(2,\)"):
            unet(x, np.array([5, 5]))


class Told(nn.Module):
    def __init__(self, model, t):
        self.model, self.t = model, t

    def forward(self, x):
        return self.model(x, self.t)


@given(
    st.sampled_from([(1,), (1, 2), (1, 2, 2)]),
    st.integers(1, 2),
    st.sampled_from([(), (0,)]),
    st.integers(0, 2),
    st.integers(1, 3),
)
def test_unet_shapes(multipliers, blocks, attention, n, channels):
    rng = np.random.default_rng(0)
    unet = nn.UNet(
        channels, 2, base=4, multipliers=multipliers, blocks=blocks, attention=attention, heads=2, groups=2, rng=rng
    )
    size = unet.factor
    with ag.no_grad():
        y = unet(np.ones((n, size, 2 * size, channels), np.float32), np.ones(n), np.zeros((n, 16), np.float32))
    assert y.shape == (n, size, 2 * size, 2) and y.dtype == np.float32
    assert not np.any(y.data), "the last convolution starts at zero"


def test_unet_refuses_a_size_it_cannot_halve(rng):
    unet = nn.UNet(1, 1, base=4, multipliers=(1, 2, 2), groups=2, rng=rng)
    with pytest.raises(ValueError, match="multiple of 4, got 8 x 6"):
        unet(np.ones((1, 8, 6, 1), np.float32), np.ones(1))


@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3))
def test_fold_is_undone_by_unfold(h, w, c, p):
    x = np.random.default_rng(0).standard_normal((2, h * p, w * p, c))
    folded = ag.raw(nn.fold(x, p))
    assert folded.shape == (2, h, w, p * p * c)
    np.testing.assert_array_equal(folded[1, h - 1, 0], x[1, -p:, :p].reshape(-1))
    np.testing.assert_array_equal(ag.raw(nn.unfold(folded, p)), x)


def test_a_causal_transformer_does_not_peek(rng):
    model = nn.Transformer(8, 2, 2, rng=rng)
    for p in model.parameters():
        p.data = p.data + 0.2 * rng.standard_normal(p.shape).astype(np.float32)
    x = rng.standard_normal((1, 6, 8)).astype(np.float32)
    with ag.no_grad():
        before = model(x, causal=True).data
        for j in range(6):
            changed = x.copy()
            changed[0, j] += 1
            after = model(changed, causal=True).data
            np.testing.assert_array_equal(before[:, :j], after[:, :j])
            assert np.all(np.any(before[:, j:] != after[:, j:], axis=-1))


@pytest.mark.parametrize("c_context", [None, 5])
def test_steps_with_kept_keys_and_values_are_the_causal_pass(rng, c_context):
    """Rows in pieces of any sizes; what was kept is not changed by going on."""
    model = nn.Transformer(8, 2, 2, c_context=c_context, rng=rng).astype(np.float64)
    for p in model.parameters():
        p.data = p.data + 0.3 * rng.standard_normal(p.shape)
    x = rng.standard_normal((2, 7, 8))
    context = None if c_context is None else rng.standard_normal((2, 3, c_context))
    mask = {} if c_context is None else {"context_mask": np.array([[True, True, False], [True, True, True]])}
    with ag.no_grad():
        whole = model(x, context, causal=True, **mask).data
        for cuts in ([0, 7], [0, 1, 2, 3, 4, 5, 6, 7], [0, 3, 4, 7]):
            past, rows = None, []
            for a, b in zip(cuts, cuts[1:]):
                y, past = model.step(x[:, a:b], past, context, **mask)
                rows.append(y.data)
            np.testing.assert_allclose(np.concatenate(rows, axis=1), whole, rtol=1e-12, atol=1e-12)
        again, _ = model.step(x[:, 3:4], model.step(x[:, :3], None, context, **mask)[1], context, **mask)
    np.testing.assert_allclose(again.data, whole[:, 3:4], rtol=1e-12, atol=1e-12)


def test_attention_without_positions_is_equivariant(rng):
    layer = nn.Attention(6, 3, rng=rng)
    layer.out.w.data = rng.standard_normal((6, 6)).astype(np.float32)
    x = rng.standard_normal((2, 5, 6)).astype(np.float32)
    order = rng.permutation(5)
    with ag.no_grad():
        np.testing.assert_allclose(layer(x[:, order]).data, layer(x).data[:, order], atol=1e-5)


def test_masked_keys_have_no_weight(rng):
    block = nn.Block(6, 2, c_context=4, rng=rng)
    block.cross.out.w.data = rng.standard_normal((6, 6)).astype(np.float32)
    x, context = rng.standard_normal((1, 3, 6)).astype(np.float32), rng.standard_normal((1, 4, 4)).astype(np.float32)
    mask = np.array([[True, True, False, False]])
    changed = context.copy()
    changed[:, 2:] = 100
    with ag.no_grad():
        a, b = (block(x, c, context_mask=mask).data for c in (context, changed))
    np.testing.assert_array_equal(a, b)


def test_batch_norm_statistics(rng):
    norm = nn.BatchNorm(3, momentum=0.25)
    x = (3 + 2 * rng.standard_normal((6, 2, 3))).astype(np.float32)
    y = norm(x).data
    np.testing.assert_allclose(y.mean((0, 1)), 0, atol=1e-5)
    np.testing.assert_allclose(y.var((0, 1)), 1, atol=1e-3)
    np.testing.assert_allclose(norm.running_mean, 0.25 * x.mean((0, 1)), rtol=1e-5)
    np.testing.assert_allclose(norm.running_var, 0.75 + 0.25 * x.var((0, 1), ddof=1), rtol=1e-5)
    kept = norm.running_mean.copy()
    norm.eval()
    z = norm(x).data
    np.testing.assert_array_equal(norm.running_mean, kept)
    np.testing.assert_allclose(z, (x - kept) / np.sqrt(norm.running_var + 1e-5), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="batch of one"):
        norm.train()(np.ones((1, 3), np.float32))


def test_dropout_needs_a_generator(rng):
    x = np.ones((200, 50), np.float32)
    layer = nn.Dropout(0.25)
    assert layer(x) is x
    y = layer(ag.Tensor(x), rng).data
    assert set(np.unique(y)) == {np.float32(0), np.float32(1 / 0.75)}
    assert abs((y == 0).mean() - 0.25) < 5 * np.sqrt(0.25 * 0.75 / 10_000)
    with pytest.raises(ValueError, match="dropout must be"):
        nn.Dropout(1.0)


def test_sinusoidal_embedding_of_known_angles():
    s = nn.sinusoidal(np.array([0, 1]), 4, max_period=10_000.0)
    np.testing.assert_allclose(s[0], [1, 1, 0, 0])
    np.testing.assert_allclose(s[1], [np.cos(1), np.cos(0.01), np.sin(1), np.sin(0.01)], rtol=1e-6)
    for dtype in (np.float32, np.float64):  # a time between two levels is a time of its own
        (between,) = nn.sinusoidal(np.array([2.75], dtype), 4, max_period=10_000.0)
        want = [np.cos(2.75), np.cos(0.0275), np.sin(2.75), np.sin(0.0275)]
        np.testing.assert_allclose(between, want, rtol=1e-6)
    assert np.linalg.matrix_rank(nn.sinusoidal(np.arange(1000), 16).astype(np.float64)) == 16
    with pytest.raises(ValueError, match="even"):
        nn.sinusoidal(np.array([1]), 3)
    for t in (1, np.ones((2, 1))):
        with pytest.raises(ValueError, match="one time per item"):
            nn.TimeEmbedding(4, 4, rng=np.random.default_rng(0))(t)


@pytest.mark.parametrize("name, variance", [("he", 2 / 72), ("lecun", 1 / 72), ("glorot", 2 / (9 * 24))])
def test_initialisers_have_their_variance(name, variance, rng):
    w = np.concatenate([getattr(init, name)((3, 3, 8, 16), rng).reshape(-1) for _ in range(20)])
    assert w.dtype == np.float32
    assert np.var(w) == pytest.approx(variance, rel=0.05) and abs(w.mean()) < 5 * np.sqrt(variance / w.size)


@pytest.mark.parametrize("name, variance", [("he", 2), ("lecun", 1)])
def test_weights_of_one_input_have_their_variance(name, variance, rng):
    assert np.var(getattr(init, name)((1, 10_000), rng)) == pytest.approx(variance, rel=0.05)


@pytest.mark.parametrize("name", ["he", "lecun", "glorot"])
def test_weights_of_no_inputs_are_no_weights(name, rng):
    for shape in ((0, 3), (3, 3, 0, 0)):
        assert getattr(init, name)(shape, rng).shape == shape


def test_layers_start_with_the_variance_of_their_inputs(rng):
    """Each output of a transposed convolution sees k^2 / s^2 positions; an MLP's layers have He's factor 2 for what
    follows them.
    """
    x = rng.standard_normal((8, 8, 8, 32)).astype(np.float32)
    for initial, gain in (({}, 1), ({"initial": init.he}, 2)):
        for shape in ({}, {"kernel": 3, "stride": 1}, {"kernel": 6, "stride": 3, "padding": 0}):
            y = nn.ConvTranspose2d(32, 32, **shape, **initial, rng=rng)(x).data[:, 3:-3, 3:-3]
            assert y.var() == pytest.approx(gain, rel=0.1)
        assert nn.Conv2d(32, 32, **initial, rng=rng)(x).data[:, 1:-1, 1:-1].var() == pytest.approx(gain, rel=0.1)
        assert nn.Linear(32, 256, **initial, rng=rng)(x).data.var() == pytest.approx(gain, rel=0.1)
    for layer in nn.MLP(32, 128, 64, 256, rng=rng).layers[::2]:
        assert layer.w.data.var() * layer.w.shape[0] == pytest.approx(2, rel=0.1)


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda rng: nn.GroupNorm(6, 4), "4 groups for 6 channels"),
        (lambda rng: nn.GroupNorm(6, 0), "0 groups for 6 channels"),
        (lambda rng: nn.GroupNorm(6, -2), "-2 groups for 6 channels"),
        (lambda rng: nn.UNet(1, 1, base=8, rng=rng)(np.ones((4, 4, 1), np.float32), 1), r"images \(n, h, w, c\), got"),
        (lambda rng: nn.Attention(6, 4, rng=rng), "4 heads for 6 channels"),
        (lambda rng: nn.Block(4, 2, c_context=4, rng=rng)(np.ones((1, 2, 4), np.float32)), "needs a context"),
        (lambda rng: nn.Block(4, 2, rng=rng)(*np.ones((2, 1, 2, 4), np.float32)), "takes none"),
        (lambda rng: nn.Attention(6, 0, rng=rng), "0 heads for 6 channels"),
        (lambda rng: nn.UNet(1, 1, base=8, multipliers=(), rng=rng), "at least 1, got 8, 2, "),
        (lambda rng: nn.UNet(1, 1, base=8, blocks=0, rng=rng), "at least 1, got 8, 0, "),
        (lambda rng: nn.UNet(1, 1, base=8, multipliers=(1, 2), attention=(2,), rng=rng), "levels from 0 to 1"),
        (
            lambda rng: nn.UNet(1, 1, base=8, channels_per_head=3, rng=rng),
            "must divide a level's channels, got 3 for 1?6",
        ),
        (lambda rng: nn.UNet(1, 1, base=8, channels_per_head=0, rng=rng), "got 0 for"),
        (lambda rng: nn.ResBlock(8, 8, resample="left", rng=rng), "'up', 'down' or None, got 'left'"),
    ],
)
def test_bad_settings_are_named(build, message, rng):
    with pytest.raises(ValueError, match=message):
        build(rng)
