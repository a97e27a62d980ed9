r"""Operations that are one kernel forward and one kernel backward.

Each is defined by a composition of simple operations (given in its docstring and in `COMPOSED`). The kernels must
agree with the composition: that is their test. Convolutions are closed under differentiation, each product being
another convolution. For the others, a second derivative goes through the composition.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from kernels import attention as attention_kernel
from kernels import conv2d as conv
from kernels import cross_entropy as cross_entropy_kernel
from kernels import embedding as embedding_kernel
from kernels import norm, resample
from kernels.backend import array_module
from kernels.checks import whole

from . import tensor
from .elementwise import exp, silu, sqrt, where
from .linalg import matmul, transpose
from .reduce import log_softmax, mean, sum, top_of
from .reduce import max as maximum_over
from .shape import broadcast_to, gather, reshape
from .tensor import Tensor, grad, operation, raw

# --- convolution -----------------------------------------------------------------------------------------------------


@operation(
    lambda g, y, x, w, b, time, residual, **how: _conv_grad_x(g, w, x_shape=x.shape, **how),
    lambda g, y, x, w, b, time, residual, **how: _conv_grad_w(x, g, w_shape=w.shape, **how),
    lambda g, y, x, w, b, time, residual, **how: sum(g, (0, 1, 2)),
    lambda g, y, x, w, b, time, residual, **how: sum(g, (1, 2)),
    lambda g, y, x, w, b, time, residual, **how: g,
    keep="01",
)
def _conv2d(x: Any, w: Any, b: Any, time: Any, residual: Any, *, stride: Any, padding: Any) -> Any:
    return conv.conv2d(x, w, b, time=time, residual=residual, stride=stride, padding=padding)


@operation(
    lambda g, y, gy, w, x_shape, stride, padding: conv2d(g, w, stride=stride, padding=padding),
    lambda g, y, gy, w, x_shape, stride, padding: _conv_grad_w(g, gy, w_shape=w.shape, stride=stride, padding=padding),
    keep="01",
)
def _conv_grad_x(gy: Any, w: Any, *, x_shape: Any, stride: Any, padding: Any) -> Any:
    return conv.conv2d_grad_x(gy, w, x_shape, stride=stride, padding=padding)


@operation(
    lambda g, y, x, gy, w_shape, stride, padding: _conv_grad_x(gy, g, x_shape=x.shape, stride=stride, padding=padding),
    lambda g, y, x, gy, w_shape, stride, padding: conv2d(x, g, stride=stride, padding=padding),
    keep="01",
)
def _conv_grad_w(x: Any, gy: Any, *, w_shape: Any, stride: Any, padding: Any) -> Any:
    return conv.conv2d_grad_w(x, gy, w_shape, stride=stride, padding=padding)


def conv2d(
    x: Any, w: Any, b: Any = None, *, time: Any = None, residual: Any = None, stride: Any = 1, padding: Any = 0
) -> Any:
    r"""$y_{n i j o} = b_o + \sum_{u v c} x_{n,\, s i + u - p,\, s j + v - p,\, c}\, w_{u v c o}$ (zero outside the image).

    Channels last; ``w`` is (kh, kw, c_in, c_out). Both gradients are convolutions again. ``time`` (n, c_out) and
    ``residual`` of y's shape are added to y: how residual blocks end, without a pass over memory for it.
    """
    return _conv2d(x, w, b, time, residual, stride=stride, padding=padding)


@operation(
    lambda g, y, x, w, b, stride, padding, output_padding: conv2d(g, _swap(w), stride=stride, padding=padding),
    lambda g, y, x, w, b, stride, padding, output_padding: _swap(
        _conv_grad_w(g, x, w_shape=_swap(w).shape, stride=stride, padding=padding)
    ),
    lambda g, y, x, w, b, stride, padding, output_padding: sum(g, (0, 1, 2)),
    keep="01",
)
def _conv_transpose2d(x: Any, w: Any, b: Any, *, stride: Any, padding: Any, output_padding: Any) -> Any:
    return conv.conv_transpose2d(x, w, b, stride=stride, padding=padding, output_padding=output_padding)


def conv_transpose2d(
    x: Any, w: Any, b: Any = None, *, stride: Any = 1, padding: Any = 0, output_padding: Any = 0
) -> Any:
    r"""The adjoint of `conv2d` with the weights' channels swapped:
    $\langle \mathrm{convT}(x, w), z \rangle = \langle x, \mathrm{conv}(z, w^{\mathrm{io}}) \rangle$.

    ``w`` is (kh, kw, c_in, c_out) with c_in the channels of ``x``; the output is $(h - 1) s - 2p + k + $
    ``output_padding`` high.
    """
    return _conv_transpose2d(x, w, b, stride=stride, padding=padding, output_padding=output_padding)


def _swap(w: Any) -> Any:
    return transpose(w, (0, 1, 3, 2))


# --- operations with a composed definition ---------------------------------------------------------------------------

COMPOSED: dict[str, Callable[..., Any]] = {}


def _composed(function: Callable[..., Any]) -> Callable[..., Any]:
    COMPOSED[function.__name__.removeprefix("_").removesuffix("_composed")] = function
    return function


def _through(definition: Callable[..., Any], g: Any, inputs: list[Any], **kwargs: Any) -> list[Any]:
    """The vector-Jacobian products for recorded gradients: differentiate the composed definition.

    Each input gets a node of its own, so that one that is passed twice, or depends on another, is counted once.
    """
    own = [reshape(x, x.shape) if isinstance(x, Tensor) else x for x in inputs]
    tensors = [x for x in own if isinstance(x, Tensor)]
    products = iter(grad(definition(*own, **kwargs), tensors, g, create_graph=True))
    return [next(products) if isinstance(x, Tensor) else None for x in inputs]


@_composed
def attention_composed(q: Any, k: Any, v: Any, *, causal: bool, key_mask: Any, scale: float | None) -> Any:
    """softmax(q k^T scale + mask) v, written out."""
    xp = array_module(raw(q))
    t_q, t_k = q.shape[2], k.shape[2]
    scale = q.shape[3] ** -0.5 if scale is None else scale
    allowed = xp.tri(t_q, t_k, t_k - t_q, dtype=bool) if causal else xp.ones((t_q, t_k), bool)
    if key_mask is not None:
        allowed = allowed & raw(key_mask)[:, None, None, :]
        v = where(raw(key_mask)[:, None, :, None], v, 0.0)
    scores = matmul(q, transpose(k, (0, 1, 3, 2))) * scale  # (n, heads, t_q, t_k)
    top = top_of(np.where(allowed, raw(scores), -np.inf))
    e = exp(where(allowed, scores - top, -np.inf))
    total = sum(e, -1, keepdims=True)
    return matmul(e / where(raw(total) == 0, 1.0, total), v)


def _attention_products(g: Any, y: Any, saved: Any, q: Any, k: Any, v: Any, **settings: Any) -> Any:
    if isinstance(g, Tensor):
        return _through(attention_composed, g, [q, k, v], **settings)
    return attention_kernel.attention_backward(g, q, k, v, y, saved, **settings)


@operation(joint=_attention_products, keep="012y")
def _attention(q: Any, k: Any, v: Any, *, causal: bool, key_mask: Any, scale: float | None) -> Any:
    return attention_kernel.attention_forward(q, k, v, causal=causal, key_mask=key_mask, scale=scale)


def attention(q: Any, k: Any, v: Any, *, causal: bool = False, key_mask: Any = None, scale: float | None = None) -> Any:
    r"""$\mathrm{softmax}(q k^\top / \sqrt d + \text{mask})\, v$ (Vaswani et al. 2017, 1706.03762, eq. 1).

    ``q`` (n, heads, t_q, d), ``k`` (n, heads, t_k, d), ``v`` (n, heads, t_k, d_v); ``key_mask`` (n, t_k) is True where
    a key may be attended. With ``causal``, query i sees keys up to i + t_k - t_q. A query that sees no key gives 0.
    """
    return _attention(q, k, v, causal=causal, key_mask=raw(key_mask), scale=scale)


@_composed
def group_norm_composed(x: Any, gamma: Any, beta: Any, *, groups: int, eps: float, silu_after: bool) -> Any:
    """(x - mean) / sqrt(var + eps) over each sample's groups of channels, times gamma plus beta, then SiLU if asked."""
    n, c, places = x.shape[0], x.shape[-1], math.prod(x.shape[1:-1])
    xs = reshape(x, (n, places, groups, c // groups))
    centred = xs - mean(xs, (1, 3), keepdims=True)
    z = reshape(centred / sqrt(mean(centred * centred, (1, 3), keepdims=True) + eps), (n, places, c))
    gamma, beta = (reshape(p, (1 if p.ndim == 1 else n, 1, c)) for p in (gamma, beta))
    y = reshape(z * gamma + beta, x.shape)
    return silu(y) if silu_after else y


def _group_norm_products(g: Any, y: Any, saved: Any, x: Any, gamma: Any, beta: Any, **settings: Any) -> Any:
    if isinstance(g, Tensor):
        return _through(group_norm_composed, g, [x, gamma, beta], **settings)
    groups, eps, after = settings["groups"], settings["eps"], settings["silu_after"]
    return norm.group_norm_backward(g, x, gamma, beta, saved, groups, eps=eps, silu=after)


@operation(joint=_group_norm_products, keep="012")
def _group_norm(x: Any, gamma: Any, beta: Any, *, groups: int, eps: float, silu_after: bool) -> Any:
    return norm.group_norm_forward(x, gamma, beta, groups, eps=eps, silu=silu_after)


def group_norm(x: Any, gamma: Any, beta: Any, groups: int, *, eps: float = 1e-5, silu: bool = False) -> Any:
    r"""$y = \gamma\, (x - \mu_g) / \sqrt{\sigma_g^2 + \epsilon} + \beta$ over each sample's groups of channels (Wu & He
    2018, 1803.08494), then SiLU if asked.

    ``x`` (n, ..., c); ``gamma`` and ``beta`` (c,), or (n, c) for adaptive group norm.
    """
    return _group_norm(x, gamma, beta, groups=groups, eps=eps, silu_after=silu)


@_composed
def layer_norm_composed(x: Any, gamma: Any, beta: Any, *, eps: float) -> Any:
    """(x - mean) / sqrt(var + eps) over the last axis, times gamma plus beta."""
    centred = x - mean(x, -1, keepdims=True)
    return centred / sqrt(mean(centred * centred, -1, keepdims=True) + eps) * gamma + beta


def _layer_norm_products(g: Any, y: Any, saved: Any, x: Any, gamma: Any, beta: Any, *, eps: float) -> Any:
    if isinstance(g, Tensor):
        return _through(layer_norm_composed, g, [x, gamma, beta], eps=eps)
    return norm.layer_norm_backward(g, x, gamma, saved, eps=eps)


@operation(joint=_layer_norm_products, keep="012")
def _layer_norm(x: Any, gamma: Any, beta: Any, *, eps: float) -> Any:
    return norm.layer_norm_forward(x, gamma, beta, eps=eps)


def layer_norm(x: Any, gamma: Any, beta: Any, *, eps: float = 1e-5) -> Any:
    r"""$y = \gamma\, (x - \mu) / \sqrt{\sigma^2 + \epsilon} + \beta$ over the last axis (Ba et al. 2016, 1607.06450)."""
    return _layer_norm(x, gamma, beta, eps=eps)


@_composed
def cross_entropy_composed(logits: Any, *, targets: Any) -> Any:
    """-log softmax(logits)[target], one value per row."""
    return -reshape(gather(log_softmax(logits), raw(targets)[:, None], axis=1), (-1,))


def _cross_entropy_products(g: Any, y: Any, saved: Any, logits: Any, *, targets: Any, **_: Any) -> Any:
    if isinstance(g, Tensor):
        return _through(cross_entropy_composed, g, [logits], targets=targets)
    return (cross_entropy_kernel.cross_entropy_backward(g, logits, targets, saved),)


@operation(joint=_cross_entropy_products, keep="0")
def _cross_entropy(logits: Any, *, targets: Any, backward_follows: bool = False) -> Any:
    return cross_entropy_kernel.cross_entropy_forward(logits, targets, backward_follows=backward_follows)


def cross_entropy(logits: Any, targets: Any) -> Any:
    r"""$y_i = -\ln \mathrm{softmax}(\ell_i)_{c_i}$ in nats, one per row; ``logits`` (m, k), ``targets`` (m,) integers.

    On a GPU, logits that need a gradient are read only once if a row fits on the chip: the forward pass also computes
    the gradient of the mean, which the tape keeps and the backward pass scales in place. First derivatives then no
    longer need the logits, but the tape holds them for second ones, so peak memory is twice that of the logits, as it
    is when the backward pass computes the gradient. Any reduction but the mean costs another pass over the gradient.
    """
    recorded = tensor._recording.get() and type(logits) is Tensor and (logits.node is not None or logits.requires_grad)
    return _cross_entropy(logits, targets=raw(targets), backward_follows=recorded)


@operation(
    lambda g, y, table, indices, rows: _embedding_grad(g, indices=indices, rows=rows),
    keep="",
)
def _embedding(table: Any, *, indices: Any, rows: int) -> Any:
    return embedding_kernel.embedding(table, indices)


@operation(lambda g, y, x, indices, rows: _embedding(g, indices=indices, rows=rows), keep="")
def _embedding_grad(x: Any, *, indices: Any, rows: int) -> Any:
    return embedding_kernel.embedding_grad(x, indices, rows)


def embedding(table: Any, indices: Any) -> Any:
    r"""$y_i = W_{c_i}$: rows of ``table`` (v, d) for ``indices`` of any shape; $\bar W$ sums over repeated indices."""
    return _embedding(table, indices=raw(indices), rows=table.shape[0])


@operation(lambda g, y, x, factor: _upsample_nearest_grad(g, factor=factor), keep="")
def _upsample_nearest(x: Any, *, factor: int) -> Any:
    return resample.upsample_nearest(x, factor)


@operation(lambda g, y, x, factor: _upsample_nearest(g, factor=factor), keep="")
def _upsample_nearest_grad(x: Any, *, factor: int) -> Any:
    return resample.upsample_nearest_grad(x, factor)


@_composed
def upsample_nearest_composed(x: Any, *, factor: int) -> Any:
    """Every pixel repeated factor x factor times."""
    n, h, w, c = x.shape
    return reshape(
        broadcast_to(reshape(x, (n, h, 1, w, 1, c)), (n, h, factor, w, factor, c)), (n, h * factor, w * factor, c)
    )


def upsample_nearest(x: Any, factor: int = 2) -> Any:
    r"""Every pixel repeated ``factor`` x ``factor`` times; $\bar x$ is the sum over the repeats. ``x`` (n, h, w, c)."""
    return _upsample_nearest(x, factor=factor)


@operation(lambda g, y, x, factor: _avg_pool_grad(g, factor=factor), keep="")
def _avg_pool(x: Any, *, factor: int) -> Any:
    return resample.avg_pool(x, factor)


@operation(lambda g, y, x, factor: _avg_pool(g, factor=factor), keep="")
def _avg_pool_grad(x: Any, *, factor: int) -> Any:
    return resample.avg_pool_grad(x, factor)


@_composed
def avg_pool_composed(x: Any, *, factor: int) -> Any:
    """The mean of every factor x factor block."""
    n, h, w, c = x.shape
    return mean(reshape(x, (n, h // factor, factor, w // factor, factor, c)), (2, 4))


def avg_pool(x: Any, factor: int = 2) -> Any:
    r"""The mean of every ``factor`` x ``factor`` block of pixels. ``x`` (n, h, w, c); the factor divides h and w."""
    return _avg_pool(x, factor=factor)


def max_pool(x: Any, factor: int = 2) -> Any:
    r"""The maximum of every ``factor`` x ``factor`` block; ties share the gradient. ``x`` (n, h, w, c)."""
    if x.ndim != 4:
        raise ValueError(f"x must have 4 axes, got shape {x.shape}")
    n, h, w, c = x.shape
    factor = whole("factor", factor, 1)
    if h % factor or w % factor:
        raise ValueError(f"the factor {factor} must divide the image's size, got {h} x {w}")
    return maximum_over(reshape(x, (n, h // factor, factor, w // factor, factor, c)), (2, 4))


def dropout(x: Any, keep: Any, p: float) -> Any:
    r"""$y = x \cdot k / (1 - p)$ with the mask $k \in \{0, 1\}$ given: randomness is the caller's.

    Raises ValueError unless 0 <= p < 1.
    """
    if not 0 <= p < 1:
        raise ValueError(f"p must be at least 0 and below 1, got {p}")
    return x * (raw(keep).astype(raw(x).dtype) * (1 / (1 - p)))
