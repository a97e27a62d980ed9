r"""The convolution's definition, its transpose and the gradients of both: obvious, slow, any float dtype, NumPy or CuPy.

$$y[n, i, j, o] = b[o] + \sum_{u, v, c} \hat x[n,\; i s_h + u,\; j s_w + v,\; c] \; w[u, v, c, o]$$

where $\hat x$ is $x$ with $p_h$ rows and $p_w$ columns of zeros on each side. (Deep learning's convolution: the kernel
is not mirrored, so a signal processor would call it a correlation.)

``conv2d_scalar`` is that sum in seven loops. The other functions loop over the kernel's positions $(u, v)$ only: each
position takes one strided window of $\hat x$, and its contribution is one matrix product over the channels.
"""

from collections.abc import Iterator
from typing import Any

from ..backend import Array, array_module

Pair = tuple[int, int]


def conv2d_scalar(x: Array, w: Array, stride: Pair, padding: Pair) -> Array:
    """The definition, one multiplication at a time. A read outside of the image is a zero."""
    xp = array_module(x, w)
    n, height, width, c_in = x.shape
    kh, kw, _, c_out = w.shape
    h_out, w_out = _out_size(x.shape, w.shape, stride, padding)
    y = xp.zeros((n, h_out, w_out, c_out), x.dtype)
    for sample in range(n):
        for i in range(h_out):
            for j in range(w_out):
                for o in range(c_out):
                    for u in range(kh):
                        for v in range(kw):
                            for c in range(c_in):
                                row = i * stride[0] + u - padding[0]
                                column = j * stride[1] + v - padding[1]
                                inside = 0 <= row < height and 0 <= column < width
                                value = x[sample, row, column, c] if inside else 0.0
                                y[sample, i, j, o] += value * w[u, v, c, o]
    return y


def conv2d(x: Array, w: Array, b: Array | None, stride: Pair, padding: Pair) -> Array:
    r"""$y = b + \sum_{u,v} \hat x[\text{window}(u, v)]\, w[u, v]$."""
    xp = array_module(x, w)
    h_out, w_out = _out_size(x.shape, w.shape, stride, padding)
    x_hat = _pad(xp, x, padding)
    y = xp.zeros((x.shape[0], h_out, w_out, w.shape[3]), x.dtype)
    for u, v, window in _windows(w.shape, h_out, w_out, stride):
        y += x_hat[window] @ w[u, v]
    return y if b is None else y + b


def conv2d_grad_x(g: Array, w: Array, x_shape: tuple[int, ...], stride: Pair, padding: Pair) -> Array:
    r"""$\partial\hat x[\text{window}(u, v)] \mathrel{+}= g\, w[u, v]^T$, then the padding is cut off."""
    xp = array_module(g, w)
    n, height, width, c_in = x_shape
    dx_hat = xp.zeros((n, height + 2 * padding[0], width + 2 * padding[1], c_in), g.dtype)
    for u, v, window in _windows(w.shape, g.shape[1], g.shape[2], stride):
        dx_hat[window] += g @ w[u, v].T
    return dx_hat[:, padding[0] : padding[0] + height, padding[1] : padding[1] + width]


def conv2d_grad_w(x: Array, g: Array, w_shape: tuple[int, ...], stride: Pair, padding: Pair) -> Array:
    r"""$\partial w[u, v] = \sum_{n,i,j} \hat x[\text{window}(u, v)]^T g$."""
    xp = array_module(x, g)
    x_hat = _pad(xp, x, padding)
    dw = xp.zeros(w_shape, x.dtype)
    for u, v, window in _windows(w_shape, g.shape[1], g.shape[2], stride):
        dw[u, v] = xp.tensordot(x_hat[window], g, axes=((0, 1, 2), (0, 1, 2)))
    return dw


def conv_transpose2d(x: Array, w: Array, b: Array | None, stride: Pair, padding: Pair, output_padding: Pair) -> Array:
    """Every input pixel adds its multiple of the kernel to the output: the transpose (adjoint) of ``conv2d``."""
    kh, kw, _, c_out = w.shape
    height = (x.shape[1] - 1) * stride[0] - 2 * padding[0] + kh + output_padding[0]
    width = (x.shape[2] - 1) * stride[1] - 2 * padding[1] + kw + output_padding[1]
    y = conv2d_grad_x(x, w.transpose(0, 1, 3, 2), (x.shape[0], height, width, c_out), stride, padding)
    return y if b is None else y + b


def conv_transpose2d_grad_x(g: Array, w: Array, stride: Pair, padding: Pair) -> Array:
    """The transpose of the transpose: an ordinary convolution of ``g``."""
    return conv2d(g, w.transpose(0, 1, 3, 2), None, stride, padding)


def conv_transpose2d_grad_w(x: Array, g: Array, w_shape: tuple[int, ...], stride: Pair, padding: Pair) -> Array:
    """As ``conv2d_grad_w`` with the two images in each other's place."""
    kh, kw, c_in, c_out = w_shape
    return conv2d_grad_w(g, x, (kh, kw, c_out, c_in), stride, padding).transpose(0, 1, 3, 2)


def _out_size(x_shape: tuple[int, ...], w_shape: tuple[int, ...], stride: Pair, padding: Pair) -> Pair:
    height = (x_shape[1] + 2 * padding[0] - w_shape[0]) // stride[0] + 1
    width = (x_shape[2] + 2 * padding[1] - w_shape[1]) // stride[1] + 1
    return height, width


def _pad(xp: Any, x: Array, padding: Pair) -> Array:
    n, height, width, c = x.shape
    x_hat = xp.zeros((n, height + 2 * padding[0], width + 2 * padding[1], c), x.dtype)
    x_hat[:, padding[0] : padding[0] + height, padding[1] : padding[1] + width] = x
    return x_hat


def _windows(w_shape: tuple[int, ...], h_out: int, w_out: int, stride: Pair) -> Iterator[tuple[int, int, Any]]:
    """For each kernel position the index of the padded pixels that it meets, one for each output pixel."""
    for u in range(w_shape[0]):
        for v in range(w_shape[1]):
            rows = slice(u, u + (h_out - 1) * stride[0] + 1, stride[0])
            columns = slice(v, v + (w_out - 1) * stride[1] + 1, stride[1])
            yield u, v, (slice(None), rows, columns)
