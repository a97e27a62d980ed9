r"""Two-dimensional convolution, its transpose and their gradients. Images NHWC, kernels (kh, kw, c_in, c_out).

$$y[n, i, j, o] = b[o] + \sum_{u, v, c} \hat x[n, i s_h + u, j s_w + v, c]\, w[u, v, c, o]$$

``reference`` is the definition. NumPy arrays take one of two ways, whichever is faster for the sizes at hand
(``choice``): ``numpy_direct`` (im2col in tiles; float64 always) or ``numpy_winograd`` (float32, kernels of 2 or 3 taps
for each step of the stride). Data gradients and transposed convolutions are small stride-1 convolutions, one for each
phase of the stride (``numpy_transposed``). Arrays on a GPU take rung 2 of the CUDA ladder if they are float32, else the
definition.

Every way has NaN and Inf where the definition has them, and gives the same bits for any number of threads.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float

from ..backend import Array, is_cuda
from ..checks import check_float, check_same, check_shape, is_whole, pair
from ..device import contiguous, device_of
from ..precision import rounded
from . import choice, reference
from .numpy_transposed import transposed

__all__ = [
    "conv2d",
    "conv2d_grad_w",
    "conv2d_grad_x",
    "conv_transpose2d",
    "conv_transpose2d_grad_w",
    "conv_transpose2d_grad_x",
]

Pair = tuple[int, int]
Shape = tuple[int, ...]


def conv2d(
    x: Float[Array, "n h w c_in"],
    w: Float[Array, "kh kw c_in c_out"],
    b: Float[Array, "c_out"] | None = None,
    *,
    time: Float[Array, "n c_out"] | None = None,
    residual: Float[Array, "n h_out w_out c_out"] | None = None,
    stride: int | Pair = 1,
    padding: int | Pair = 0,
) -> Float[Array, "n h_out w_out c_out"]:
    r"""$y[i, j] = b + \sum_{u,v} \hat x[i s_h + u, j s_w + v]\, w[u, v]$, with $\hat x$ padded by ``padding`` zeros a side.

    The output has $\lfloor (h + 2 p - k) / s \rfloor + 1$ rows, and columns likewise. ``time``, one vector for each
    image, and ``residual`` are added to it, in this order: on a GPU by the same launch.

    Raises TypeError for a dtype other than float32 and float64 or for mixed ones, ValueError for shapes that do not fit
    together and for a kernel larger than the padded image.
    """
    s, p = _operands("x", x, w, "c_in", x_axis=2, b=b, stride=stride, padding=padding)
    shape = (x.shape[0], *_out_size("x", x.shape, w.shape, s, p), w.shape[3])
    if time is not None:
        _check_added("time", time, x, (x.shape[0], w.shape[3]), "one vector of w's output channels for each image")
    if residual is not None:
        _check_added("residual", residual, x, shape, "the output's")
    if (device := device_of(x)) is not None:
        return _conv2d(device, x, w, b, s, p, time=contiguous(time), residual=contiguous(residual))
    with np.errstate(invalid="ignore", over="ignore"):  # Inf - Inf is NaN without a warning, on every way
        if is_cuda(x):
            y = reference.conv2d(x, w, b, s, p)
        else:
            y = np.empty(shape, x.dtype)
            x, w = rounded(x, w)
            choice.correlate(x, w, b, y, s, (-p[0], -p[1]))
        if time is not None:
            y += time[:, None, None]
        if residual is not None:
            y += residual
    return y


def conv2d_grad_x(
    g: Float[Array, "n h_out w_out c_out"],
    w: Float[Array, "kh kw c_in c_out"],
    x_shape: Shape,
    *,
    stride: int | Pair = 1,
    padding: int | Pair = 0,
) -> Float[Array, "n h w c_in"]:
    r"""$dx[i] = \sum_u g[(i + p - u) / s]\, w[u]^T$ over integer indices: the gradient of $\langle y, g \rangle$.

    ``x_shape`` is the shape of ``x``, which a stride does not leave determined. Raises as ``conv2d`` does.
    """
    s, p = _operands("g", g, w, "c_out", x_axis=3, stride=stride, padding=padding)
    x_shape = _shape("x_shape", x_shape)
    if x_shape[3] != w.shape[2]:
        raise ValueError(f"x_shape must end in w's {w.shape[2]} input channels, got {x_shape}")
    _check_output("g", g, (x_shape[0], *_out_size("x", x_shape, w.shape, s, p), w.shape[3]), x_shape)
    if (device := device_of(g)) is not None:
        return _grad_x(device, g, w, x_shape, s, p)
    g, w = rounded(g, w)
    if is_cuda(g) or not _finite(w):
        return _by_definition(reference.conv2d_grad_x, g, w, x_shape, s, p)
    dx = np.empty(x_shape, g.dtype)
    transposed(choice.correlate, g, w.transpose(0, 1, 3, 2), None, dx, s, p)
    return dx


def conv2d_grad_w(
    x: Float[Array, "n h w c_in"],
    g: Float[Array, "n h_out w_out c_out"],
    w_shape: Shape,
    *,
    stride: int | Pair = 1,
    padding: int | Pair = 0,
) -> Float[Array, "kh kw c_in c_out"]:
    r"""$dw[u, v] = \sum_{n,i,j} \hat x[i s_h + u, j s_w + v]^T g[i, j]$. (The gradient of $b$ is the sum of ``g``.)

    Raises as ``conv2d`` does.
    """
    w_shape = _gradient_operands(x, g, w_shape)
    s, p = pair("stride", stride, 1), pair("padding", padding, 0)
    if (x.shape[3], g.shape[3]) != w_shape[2:]:
        raise ValueError(f"w_shape must end in the channels of x and g, {(x.shape[3], g.shape[3])}, got {w_shape}")
    _check_output("g", g, (x.shape[0], *_out_size("x", x.shape, w_shape, s, p), w_shape[3]), x.shape)
    if (device := device_of(x)) is not None:
        return _grad_w(device, x, g, w_shape, s, p)
    if is_cuda(x):
        return _by_definition(reference.conv2d_grad_w, x, g, w_shape, s, p)
    x, g = rounded(x, g)
    return choice.correlate_grad_w(x, g, (w_shape[0], w_shape[1]), s, (-p[0], -p[1]))


def conv_transpose2d(
    x: Float[Array, "n h w c_in"],
    w: Float[Array, "kh kw c_in c_out"],
    b: Float[Array, "c_out"] | None = None,
    *,
    stride: int | Pair = 1,
    padding: int | Pair = 0,
    output_padding: int | Pair = 0,
) -> Float[Array, "n h_out w_out c_out"]:
    r"""$y[i] = b + \sum_u x[(i + p - u) / s]\, w[u]$ over integer indices: every pixel adds its multiple of the kernel.

    The transpose of the convolution that has $w$'s channels exchanged. The output has
    $(h - 1) s - 2 p + k + \text{output\_padding}$ rows, and columns likewise; ``output_padding`` must be less than the
    stride and chooses among the sizes that the convolution maps to $h$. Raises as ``conv2d`` does.
    """
    s, p = _operands("x", x, w, "c_in", x_axis=2, b=b, stride=stride, padding=padding)
    extra = pair("output_padding", output_padding, 0)
    if extra[0] >= s[0] or extra[1] >= s[1]:
        raise ValueError(f"output_padding must be less than the stride {s}, got {extra}")
    height, width = ((x.shape[1 + a] - 1) * s[a] - 2 * p[a] + w.shape[a] + extra[a] for a in (0, 1))
    if height < 1 or width < 1:
        raise ValueError(f"padding {p} leaves an output of {height} x {width} pixels from x of shape {x.shape}")
    if (device := device_of(x)) is not None:
        y = _grad_x(device, x, w.transpose(0, 1, 3, 2), (x.shape[0], height, width, w.shape[3]), s, p)
        return y if b is None else y + b
    x, w = rounded(x, w)
    if is_cuda(x) or not _finite(w):
        return _by_definition(reference.conv_transpose2d, x, w, b, s, p, extra)
    y = np.empty((x.shape[0], height, width, w.shape[3]), x.dtype)
    transposed(choice.correlate, x, w, b, y, s, p)
    return y


def conv_transpose2d_grad_x(
    g: Float[Array, "n h_out w_out c_out"],
    w: Float[Array, "kh kw c_in c_out"],
    *,
    stride: int | Pair = 1,
    padding: int | Pair = 0,
) -> Float[Array, "n h w c_in"]:
    r"""$dx[i] = \sum_u \hat g[i s + u]\, w[u]^T$: an ordinary convolution of ``g``. Raises as ``conv2d`` does."""
    s, p = _operands("g", g, w, "c_out", x_axis=3, stride=stride, padding=padding)
    size = _out_size("g", g.shape, w.shape, s, p)
    if (device := device_of(g)) is not None:
        return _conv2d(device, g, w.transpose(0, 1, 3, 2), None, s, p)
    if is_cuda(g):
        return _by_definition(reference.conv_transpose2d_grad_x, g, w, s, p)
    g, w = rounded(g, w)
    dx = np.empty((g.shape[0], *size, w.shape[2]), g.dtype)
    choice.correlate(g, w.transpose(0, 1, 3, 2), None, dx, s, (-p[0], -p[1]))
    return dx


def conv_transpose2d_grad_w(
    x: Float[Array, "n h w c_in"],
    g: Float[Array, "n h_out w_out c_out"],
    w_shape: Shape,
    *,
    stride: int | Pair = 1,
    padding: int | Pair = 0,
) -> Float[Array, "kh kw c_in c_out"]:
    r"""$dw[u, v] = \sum_{n,i,j} x[i, j]^T \hat g[i s_h + u, j s_w + v]$. Raises as ``conv2d`` does."""
    w_shape = _gradient_operands(x, g, w_shape)
    s, p = pair("stride", stride, 1), pair("padding", padding, 0)
    if (x.shape[3], g.shape[3]) != w_shape[2:]:
        raise ValueError(f"w_shape must end in the channels of x and g, {(x.shape[3], g.shape[3])}, got {w_shape}")
    _check_output("x", x, (g.shape[0], *_out_size("g", g.shape, w_shape, s, p), w_shape[2]), g.shape)
    if (device := device_of(x)) is not None:
        dw = _grad_w(device, g, x, (*w_shape[:2], w_shape[3], w_shape[2]), s, p)
        return contiguous(dw.transpose(0, 1, 3, 2))
    if is_cuda(x):
        return _by_definition(reference.conv_transpose2d_grad_w, x, g, w_shape, s, p)
    g, x = rounded(g, x)
    dw = choice.correlate_grad_w(g, x, (w_shape[0], w_shape[1]), s, (-p[0], -p[1]))
    return np.ascontiguousarray(dw.transpose(0, 1, 3, 2))


def _how(device: Any, s: Pair, p: Pair) -> dict[str, Any]:
    from ..matmul.cuda import by_precision

    return {"stride": s, "padding": p, "precision": by_precision(device)}


def _conv2d(device: Any, x: Array, w: Array, b: Array | None, s: Pair, p: Pair, **ending: Any) -> Array:
    from . import cuda

    return cuda.conv2d(device, contiguous(x), contiguous(w), contiguous(b), **ending, **_how(device, s, p))


def _grad_x(device: Any, g: Array, w: Array, x_shape: Shape, s: Pair, p: Pair) -> Array:
    from . import cuda

    return cuda.conv2d_grad_x(device, contiguous(g), contiguous(w), x_shape, **_how(device, s, p))


def _grad_w(device: Any, x: Array, g: Array, w_shape: Shape, s: Pair, p: Pair) -> Array:
    from . import cuda

    return cuda.conv2d_grad_w(device, contiguous(x), contiguous(g), w_shape, **_how(device, s, p))


def _by_definition(function: Callable[..., Array], *args: Any) -> Array:
    with np.errstate(invalid="ignore", over="ignore"):  # Inf - Inf is NaN without a warning, on every way
        return function(*args)


def _operands(
    name: str,
    x: Array,
    w: Array,
    channels: str,
    *,
    x_axis: int,
    stride: int | Pair,
    padding: int | Pair,
    b: Array | None = None,
) -> tuple[Pair, Pair]:
    """Check an image ``x`` (called ``name``) against a kernel; stride and padding as pairs."""
    check_float(name, x, 4)
    check_float("w", w, 4)
    check_same(f"{name}, w", x, w)
    _no_empty_axis(name, x.shape[1:], x.shape)
    _no_empty_axis("w", w.shape, w.shape)
    if x.shape[3] != w.shape[x_axis]:
        raise ValueError(
            f"{name} has {x.shape[3]} channels, but w of shape {tuple(w.shape)} has {channels} = {w.shape[x_axis]}"
        )
    if b is not None:
        _check_added("b", b, x, (w.shape[3],), "one number for each of w's output channels")
    return pair("stride", stride, 1), pair("padding", padding, 0)


def _check_added(name: str, a: Array, x: Array, shape: Shape, why: str) -> None:
    """Check what is added to the convolution of ``x``."""
    check_float(name, a, len(shape))
    check_same(f"x, {name}", x, a)
    check_shape(name, a, shape, why)


def _gradient_operands(x: Array, g: Array, w_shape: Shape) -> Shape:
    check_float("x", x, 4)
    check_float("g", g, 4)
    check_same("x, g", x, g)
    _no_empty_axis("x", x.shape[1:], x.shape)
    _no_empty_axis("g", g.shape[1:], g.shape)
    w_shape = _shape("w_shape", w_shape)
    _no_empty_axis("w_shape", w_shape, w_shape)
    return w_shape


def _shape(name: str, shape: Shape) -> Shape:
    if not np.iterable(shape) or len(shape) != 4 or not all(is_whole(size) for size in shape):
        raise ValueError(f"{name} must have 4 numbers, all of them whole, got {shape!r}")
    return tuple(int(size) for size in shape)


def _no_empty_axis(name: str, sizes: Shape, shape: Shape) -> None:
    if min(sizes) < 1:
        where = "along the batch axis only" if len(sizes) < len(shape) else "along no axis"
        raise ValueError(f"{name} may be empty {where}, got shape {tuple(shape)}")


def _out_size(name: str, x_shape: Shape, w_shape: Shape, s: Pair, p: Pair) -> Pair:
    padded = (x_shape[1] + 2 * p[0], x_shape[2] + 2 * p[1])
    if w_shape[0] > padded[0] or w_shape[1] > padded[1]:
        raise ValueError(
            f"the kernel, {w_shape[0]} x {w_shape[1]}, must not be larger than {name} with its padding, "
            f"{padded[0]} x {padded[1]}"
        )
    return (padded[0] - w_shape[0]) // s[0] + 1, (padded[1] - w_shape[1]) // s[1] + 1


def _check_output(name: str, g: Array, shape: Shape, x_shape: Shape) -> None:
    check_shape(name, g, shape, f"what the convolution makes of an image of shape {tuple(x_shape)}")


def _finite(w: np.ndarray) -> bool:
    """Whether the kernel is finite: a phase multiplies it with zeros that the definition does not read."""
    flat = w.ravel(order="K")
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(np.dot(flat, flat))) or bool(np.isfinite(w).all())
