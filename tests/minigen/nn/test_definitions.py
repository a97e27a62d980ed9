"""Every layer and block against its equation in plain NumPy, with weights that are all at work.

Gradients are checked elsewhere: they would not see a sign before a bias, nor another constant.
"""

import numpy as np
import pytest

import autograd as ag
from minigen import nn
from minigen.nn.text_unet import Positions, TextUNet, Words

EVALUATED_AND_TRAINED = pytest.mark.parametrize("seed", [None, 7], ids=["evaluated", "trained"])  # of dropout's masks


def made(module):
    """In float64, with every parameter far from where it starts."""
    rng = np.random.default_rng(5)
    for p in module.astype(np.float64).parameters():
        p.data = p.data + 0.4 * rng.standard_normal(p.shape)
    return module


def value(module, *args, **kwargs):
    with ag.no_grad():
        return ag.raw(module(*args, **kwargs))


def close(got, want):
    np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-12)


# --- the equations ----------------------------------------------------------------------------------------------------


def silu(x):
    return x / (1 + np.exp(-x))


def gelu(x):
    return x / 2 * (1 + np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3)))


def masks(seed):
    """What draws the masks of dropout while training; nothing does at evaluation."""
    return None if seed is None else np.random.default_rng(seed)


def dropout(p, seed):
    rng = masks(seed)
    return lambda x: x if rng is None else x * (rng.random(x.shape) >= p) / (1 - p)


def linear(m, x):
    return x @ m.w.data + m.b.data


def conv(m, x, stride=1, padding=(1, 1)):
    high, wide, _, c_out = m.w.shape
    x = np.pad(x, ((0, 0), (padding[0],) * 2, (padding[1],) * 2, (0, 0)))
    rows, columns = (x.shape[1] - high) // stride + 1, (x.shape[2] - wide) // stride + 1
    y = np.empty((len(x), rows, columns, c_out))
    for i in range(rows):
        for j in range(columns):
            window = x[:, i * stride : i * stride + high, j * stride : j * stride + wide]
            y[:, i, j] = np.tensordot(window, m.w.data, 3) + (0 if m.b is None else m.b.data)
    return y


def normal(x, axes):
    return (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + 1e-5)


def layer_norm(m, x):
    return m.gamma.data * normal(x, -1) + m.beta.data


def group_norm(m, x, groups, scale=0.0, shift=0.0):
    parts = normal(x.reshape(*x.shape[:3], groups, -1), (1, 2, 4)).reshape(x.shape)
    return (1 + scale) * (m.gamma.data * parts + m.beta.data) + shift


def attention(q, k, v, seen=True):
    """(n, t, c) of one head; what is not ``seen`` (n, t, t_k) has no weight."""
    s = np.where(seen, q @ k.swapaxes(1, 2) / q.shape[-1] ** 0.5, -np.inf)
    p = np.exp(s - s.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True) @ v


def many_heads(m, x, context=None, seen=True):
    q, kv = linear(m.q, x), linear(m.kv, x if context is None else context)
    k, v = np.split(kv, 2, -1)
    parts = [attention(*h, seen) for h in zip(*(np.split(a, m.heads, -1) for a in (q, k, v)))]
    return linear(m.out, np.concatenate(parts, -1))


def block(m, x, context=None, seen=True, context_seen=True, drop=lambda h: h):
    x = x + drop(many_heads(m.attention, layer_norm(m.norm_1, x), None, seen))
    if context is not None:
        x = x + drop(many_heads(m.cross, layer_norm(m.norm_context, x), context, context_seen))
    return x + drop(linear(m.linear_2, gelu(linear(m.linear_1, layer_norm(m.norm_2, x)))))


# --- layers -----------------------------------------------------------------------------------------------------------


def test_linear_and_mlp(rng):
    x = rng.standard_normal((2, 5, 4))
    close(value(layer := made(nn.Linear(4, 3, rng=rng)), x), linear(layer, x))
    close(value(layer := made(nn.Linear(4, 3, bias=False, rng=rng)), x), x @ layer.w.data)
    mlp = made(nn.MLP(4, 6, 5, 2, rng=rng))
    first, second, third = mlp.layers[::2]
    close(value(mlp, x), linear(third, silu(linear(second, silu(linear(first, x))))))
    close(value(nn.Sequential(np.exp, np.sin), x), np.sin(np.exp(x)))


@pytest.mark.parametrize("bias", [True, False])
def test_convolutions(bias, rng):
    x = rng.standard_normal((2, 5, 7, 3))
    close(value(layer := made(nn.Conv2d(3, 4, bias=bias, rng=rng)), x), conv(layer, x))
    layer = made(nn.Conv2d(3, 4, (1, 3), stride=2, bias=bias, rng=rng))
    close(value(layer, x), conv(layer, x, 2, (0, 1)))
    layer, y = made(nn.ConvTranspose2d(3, 2, bias=bias, rng=rng)), np.zeros((2, 12, 16, 2))
    for i in range(5):
        for j in range(7):
            y[:, 2 * i : 2 * i + 4, 2 * j : 2 * j + 4] += np.einsum("nc,abcd->nabd", x[:, i, j], layer.w.data)
    close(value(layer, x), y[:, 1:-1, 1:-1] + (layer.b.data if bias else 0))


def test_norms(rng):
    x, scale, shift = 0.01 * rng.standard_normal((2, 3, 4, 6)), rng.standard_normal((2, 6)), rng.standard_normal((2, 6))
    norm = made(nn.GroupNorm(6, 3))
    close(value(norm, x), group_norm(norm, x, 3))
    close(value(norm, x, scale, shift), group_norm(norm, x, 3, scale[:, None, None], shift[:, None, None]))
    close(value(norm, x, scale), value(norm, x, scale, 0 * shift))
    close(value(norm, x, shift=shift), value(norm, x, 0 * scale, shift))
    norm = made(nn.GroupNorm(6, 2, silu=True))
    close(value(norm, x), silu(group_norm(norm, x, 2)))
    close(value(norm := made(nn.LayerNorm(6)), x), layer_norm(norm, x))


def test_batch_norm_with_weights(rng):
    x, norm = 0.01 * rng.standard_normal((5, 3, 4)), made(nn.BatchNorm(4))
    close(value(norm, x), norm.gamma.data * normal(x, (0, 1)) + norm.beta.data)
    close(norm.running_var, 0.9 + 0.1 * x.var((0, 1), ddof=1))
    mean, var = norm.running_mean, norm.running_var
    close(value(norm.eval(), x), norm.gamma.data * (x - mean) / np.sqrt(var + 1e-5) + norm.beta.data)


def test_embeddings(rng):
    table, at = made(nn.Embedding(7, 3, rng=rng)), np.array([[6, 0], [2, 2]])
    close(value(table, at), table.table.data[at])
    time, t = made(nn.TimeEmbedding(4, 5, rng=rng)), np.array([3.0, 700.5])
    s = nn.sinusoidal(t, 4).astype(np.float64)
    angles = t[:, None] * np.array([1.0, 0.01])
    np.testing.assert_allclose(s, np.concatenate([np.cos(angles), np.sin(angles)], 1), atol=1e-7)
    close(value(time, t), linear(time.linear_2, silu(linear(time.linear_1, s))))
    positions, x = made(Positions(2, 3, rng=rng)), rng.standard_normal((4, 2, 2, 3))
    close(value(positions, x), x + positions.map.data)


# --- attention and transformers ---------------------------------------------------------------------------------------


def test_attention(rng):
    x, context = rng.standard_normal((2, 4, 6)), rng.standard_normal((2, 5, 3))
    mask, before = np.array([[1, 1, 0, 1, 1], [0, 1, 1, 1, 0]], bool), np.tri(4, dtype=bool)
    layer = made(nn.Attention(6, 2, rng=rng))
    close(value(layer, x), many_heads(layer, x))
    close(value(layer, x, causal=True), many_heads(layer, x, seen=before))
    layer = made(nn.Attention(6, 3, c_context=3, rng=rng))
    close(value(layer, x, context, key_mask=mask), many_heads(layer, x, context, mask[:, None]))


def test_pixel_attention(rng):
    x, layer = rng.standard_normal((2, 2, 3, 4)), made(nn.PixelAttention(4, 2, groups=2, rng=rng))
    h = group_norm(layer.norm, x, 2).reshape(2, 6, 4)
    close(value(layer, x), x + many_heads(layer.attention, h).reshape(x.shape))


@EVALUATED_AND_TRAINED
def test_transformers(seed, rng):
    x, context = rng.standard_normal((2, 4, 6)), rng.standard_normal((2, 5, 3))
    own, mask = np.array([[1, 1, 1, 0], [1, 0, 1, 1]], bool), np.array([[1, 1, 0, 1, 1], [0, 1, 1, 1, 0]], bool)
    before = np.tri(4, dtype=bool)
    model = made(nn.Transformer(6, 2, 3, c_context=3, dropout=0.3, rng=rng))
    want, drop = x, dropout(0.3, seed)
    for m in model.blocks:
        want = block(m, want, context, own[:, None] & before, mask[:, None], drop)
    got = value(model, x, context, causal=True, key_mask=own, context_mask=mask, rng=masks(seed))
    close(got, layer_norm(model.norm, want))
    model = made(nn.Transformer(6, 1, 2, rng=rng))
    close(value(model, x), layer_norm(model.norm, block(model.blocks[0], x)))


def test_words(rng):
    """The last word is that before the padding."""
    net = made(Words(9, 6, 4, layers=1, heads=2, rng=rng))
    tokens, mask = rng.integers(0, 9, (2, 5)), np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], bool)
    vector, words = rng.standard_normal((2, 4)), rng.standard_normal((2, 5, 4))
    h = net.embed.table.data[tokens] + net.positions.data[:5]
    e = layer_norm(net.transformer.norm, block(net.transformer.blocks[0], h, seen=mask[:, None]))
    with ag.no_grad():
        got = net(vector, words, mask, tokens)
    close(ag.raw(got[0]), vector + e[[0, 1], [2, 4]])
    close(ag.raw(got[1]), words + e)


# --- U-Nets -----------------------------------------------------------------------------------------------------------


@EVALUATED_AND_TRAINED
@pytest.mark.parametrize("scale_shift", [True, False])
def test_residual_blocks(scale_shift, seed, rng):
    x, e = rng.standard_normal((2, 4, 3, 4)), rng.standard_normal((2, 5))
    m = made(nn.ResBlock(4, 6, 5, groups=2, dropout=0.3, scale_shift=scale_shift, rng=rng))
    told = linear(m.embed, e)[:, None, None]
    h = conv(m.conv_1, silu(group_norm(m.norm_1, x, 2)))
    h = group_norm(m.norm_2, h, 2, told[..., :6], told[..., 6:]) if scale_shift else group_norm(m.norm_2, h + told, 2)
    h = dropout(0.3, seed)(silu(h))
    close(value(m, x, e, masks(seed)), conv(m.conv_2, h) + conv(m.skip, x, padding=(0, 0)))
    m = made(nn.ResBlock(4, 4, groups=2, rng=rng))
    h = conv(m.conv_1, silu(group_norm(m.norm_1, x, 2)))
    close(value(m, x), conv(m.conv_2, silu(group_norm(m.norm_2, h, 2))) + x)


def test_changes_of_resolution(rng):
    x = rng.standard_normal((2, 4, 5, 3))
    close(value(m := made(nn.Downsample(3, rng=rng)), x), conv(m.conv, x, 2))
    close(value(m := made(nn.Upsample(3, rng=rng)), x), conv(m.conv, x.repeat(2, 1).repeat(2, 2)))


@EVALUATED_AND_TRAINED
def test_unet_is_its_diagram(seed, rng):
    """conv_in, down, middle, up with what was kept, norm, conv_out; the condition is added to the time before its SiLU."""
    small = {"base": 4, "multipliers": (1, 2), "blocks": 1, "attention": (1,), "heads": 2, "groups": 2}
    net = made(nn.UNet(2, 3, **small, dropout=0.3, rng=rng))
    assert {m.p for _, m in net.named_modules() if isinstance(m, nn.Dropout)} == {0.3}
    x, t, cond = rng.standard_normal((2, 4, 6, 2)), np.array([3, 90]), rng.standard_normal((2, 16))

    def through(stack, h):
        for part in stack.parts:
            h = value(part, h, e, drawn) if isinstance(part, nn.ResBlock) else value(part, h)
        return h

    for given, added in ((cond, cond), (None, 0)):
        drawn = masks(seed)
        e = silu(value(net.time, t) + added)
        first = conv(net.conv_in, x)
        one, two, three = net.down
        a = through(one, first)
        b = value(two, a)
        c = through(three, b)
        h = through(net.middle, c)
        for part, kept in zip(net.up, (c, b, a, first), strict=True):
            h = through(part, np.concatenate([h, kept], -1))
        close(value(net, x, t, given, rng=masks(seed)), conv(net.conv_out, silu(group_norm(net.norm_out, h, 2))))


def test_text_unet_is_its_diagram(rng):
    """As the U-Net; a vector beside the time, words in attention, positions at each resolution, channels beside the picture."""
    net = made(
        TextUNet(
            3, 2, size=8, c_vector=6, c_words=5, c_beside=1, patch=2, base=4, multipliers=(1, 2), attention=(1,), heads=2,
            groups=2, rng=rng,
        )
    )  # fmt: skip
    x, t, vector = rng.standard_normal((2, 8, 8, 3)), np.array([3, 90]), rng.standard_normal((2, 6))
    words, mask, beside = rng.standard_normal((2, 3, 5)), np.array([[1, 1, 0], [1, 1, 1]], bool), x[..., :1] ** 2

    def folded(x):
        return x.reshape(2, 4, 2, 4, 2, -1).swapaxes(2, 3).reshape(2, 4, 4, -1)

    def through(stack, h):
        for part in stack.parts:
            told = {"ResBlock": (e,), "TextAttention": (words, mask)}.get(type(part).__name__, ())
            h = value(part, h, *told)
        return h

    e = silu(value(net.time, t) + linear(net.vector, vector))
    first = conv(net.conv_in, folded(x)) + conv(net.conv_beside, folded(beside)) + net.positions[0].map.data
    one, two, three = net.down
    a = through(one, first)
    b = value(two, a) + net.positions[1].map.data
    c = through(three, b)
    h = through(net.middle, c)
    for part, kept in zip(net.up, (c, b, a, first), strict=True):
        h = through(part, np.concatenate([h, kept], -1))
    y = conv(net.conv_out, silu(group_norm(net.norm_out, h, 2)))
    close(folded(value(net, x, t, vector, words, mask, beside)), y)
