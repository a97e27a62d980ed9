"""The problems of the four ladders: matrix products, convolution, attention, nearest codes.

Where a whole result in float64 would take longer than the benchmark, some numbers of it are checked: the ends of each
axis and others at random. The allowed errors are those of the tests, from ``compare.bound``.
"""

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from .. import bfloat16
from ..attention import cuda as attention_cuda
from ..attention import cuda_backward as attention_grad_cuda
from ..compare import bound
from ..conv2d import cuda as conv2d_cuda
from ..conv2d import reference as conv2d_reference
from ..matmul import cuda as matmul_cuda
from ..quantize import cuda as quantize_cuda
from ..quantize.reference import squared_distances
from . import peers
from .problem import ITEM, Arrays, Expected, Problem, Source, rungs_by_format, some, take

Checks = Iterator[Expected]
MATMUL = {**rungs_by_format(matmul_cuda.HERE, matmul_cuda.RUNGS), "float32": matmul_cuda.FLOAT32_RUNGS}
CONV2D = {**rungs_by_format(conv2d_cuda.HERE, conv2d_cuda.RUNGS), "float32": conv2d_cuda.FLOAT32_RUNGS}
CONV2D_GRAD = {
    **rungs_by_format(conv2d_cuda.HERE, conv2d_cuda.GRADIENT_RUNGS),
    "float32": conv2d_cuda.FLOAT32_GRADIENT_RUNGS,
}
ATTENTION = {
    **rungs_by_format(attention_grad_cuda.HERE, attention_cuda.RUNGS),
    "float32": attention_cuda.FLOAT32_RUNGS,
}
SHORT = rungs_by_format(attention_grad_cuda.HERE, attention_cuda.SHORT)
ATTENTION_GRAD = {
    **rungs_by_format(attention_grad_cuda.HERE, attention_grad_cuda.RUNGS),
    "float32": attention_grad_cuda.FLOAT32_RUNGS,
}


def _precision(dtype: str) -> dict[str, Any]:
    return {"precision": dtype}


def _factor(dtype: str, *arrays: Any) -> list[Any]:
    """The factors as a rung of this format multiplies them."""
    return [bfloat16.rounded_to_tf32(x).astype(np.float64) for x in arrays] if dtype == "tf32" else list(arrays)


def _off(terms: int, magnitude: Any, dtype: str) -> Any:
    return bound(terms, magnitude, np.float32, 1 if dtype == "float32" else 2)  # tensor cores cut sums off


def matmul(m: int, k: int, n: int, dtype: str, goal: float | None = None) -> Problem:
    """y = a b."""

    def make(source: Source) -> Arrays:
        return {"a": source.normal(m, k, dtype=dtype), "b": source.normal(k, n, dtype=dtype)}

    def run(device: Any, x: Arrays, rung: int) -> Any:
        return matmul_cuda.matmul(device, x["a"], x["b"], rung=rung, **_precision(dtype))

    def check(x: Arrays, y: Any, rung: int) -> Checks:
        rows, columns = some(m), some(n)
        a, b = _factor(dtype, take(x["a"], rows), take(x["b"], slice(None), columns))
        got = take(y, rows)[:, columns]
        yield Expected("y", got, a @ b, _off(k, np.abs(a) @ np.abs(b), dtype))

    moved = ITEM[dtype] * (m * k + k * n + m * n)
    return Problem(
        "matmul", f"{m} x {k} x {n}", dtype, 2 * m * k * n, moved, MATMUL[dtype], make, run, check, peers.MATMUL, goal
    )


# --- convolution ------------------------------------------------------------------------------------------------------


def _shape(n: int, size: int, c_in: int, c_out: int, k: int, stride: int) -> tuple[dict[str, Any], int, str]:
    padding = (k - 1) // 2
    settings = {"stride": (stride, stride), "padding": (padding, padding)}
    step = f", stride {stride}" if stride > 1 else ""
    return settings, (size + 2 * padding - k) // stride + 1, f"{k}x{k} {c_in}->{c_out} at {size}x{size}, n {n}{step}"


def _conv_work(n: int, size: int, out: int, c_in: int, c_out: int, k: int, dtype: str) -> tuple[float, float]:
    moved = ITEM[dtype] * (n * size * size * c_in + n * out * out * c_out + k * k * c_in * c_out)
    return 2 * n * out * out * k * k * c_in * c_out, moved


def _pixels(n: int, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Some pixels of n images: the corners of the first and the last, and others."""
    flat = some(n * size * size, 64)
    corners = [i * size * size + a * size + b for i in (0, n - 1) for a in (0, size - 1) for b in (0, size - 1)]
    flat = np.unique(np.concatenate([flat, corners]))
    return flat // (size * size), flat // size % size, flat % size


def _at(x: Any, image: np.ndarray, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """The rows of channels at these pixels, zeros where a pixel is outside."""
    inside = (i >= 0) & (i < x.shape[1]) & (j >= 0) & (j < x.shape[2])
    return take(x, image, np.where(inside, i, 0), np.where(inside, j, 0)) * inside[:, None]


def conv2d(
    n: int, size: int, c_in: int, c_out: int, dtype: str, k: int = 3, stride: int = 1, goal: float | None = None
) -> Problem:
    """y = conv(x, w)."""
    settings, out, name = _shape(n, size, c_in, c_out, k, stride)

    def make(source: Source) -> Arrays:
        x, w = source.normal(n, size, size, c_in, dtype=dtype), source.normal(k, k, c_in, c_out, dtype=dtype)
        return {"x": x, "w": w, **settings}

    def run(device: Any, x: Arrays, rung: int) -> Any:
        return conv2d_cuda.conv2d(device, x["x"], x["w"], None, **settings, rung=rung, **_precision(dtype))

    def check(x: Arrays, y: Any, rung: int) -> Checks:
        want, magnitude, got = _convolved(x["x"], x["w"], y, settings, dtype)
        yield Expected("y", got, want, _off(k * k * c_in, magnitude, dtype))

    flop, moved = _conv_work(n, size, out, c_in, c_out, k, dtype)
    return Problem("conv2d", name, dtype, flop, moved, CONV2D[dtype], make, run, check, peers.CONV2D, goal)


def _convolved(x: Any, w: Any, y: Any, settings: dict[str, Any], dtype: str) -> tuple[Any, Any, Any]:
    """At some pixels of y: the definition, the sum of its terms' absolute values, and y."""
    (stride, _), (padding, _) = settings["stride"], settings["padding"]
    image, i, j = _pixels(y.shape[0], y.shape[1])
    want, magnitude = np.zeros((len(i), y.shape[3])), np.zeros((len(i), y.shape[3]))
    for u, v in itertools.product(range(w.shape[0]), range(w.shape[1])):
        at, weights = _factor(dtype, _at(x, image, i * stride + u - padding, j * stride + v - padding), take(w, u, v))
        want += at @ weights
        magnitude += np.abs(at) @ np.abs(weights)
    return want, magnitude, take(y, image, i, j)


def conv2d_fused(n: int, size: int, c: int, dtype: str, goal: float | None = None) -> Problem:
    """silu(conv(x, w) + b + time + residual): a U-Net's block in one launch."""
    settings, out, name = _shape(n, size, c, c, 3, 1)

    def make(source: Source) -> Arrays:
        x, w = source.normal(n, size, size, c, dtype=dtype), source.normal(3, 3, c, c, dtype=dtype)
        more = {"b": source.normal(c), "time": source.normal(n, c), "residual": source.normal(n, size, size, c)}
        return {"x": x, "w": w, **more, **settings}

    def run(device: Any, x: Arrays, rung: int) -> Any:
        more = {"time": x["time"], "residual": x["residual"], "silu": True}
        return conv2d_cuda.conv2d(device, x["x"], x["w"], x["b"], **more, **settings, rung=rung, **_precision(dtype))

    def check(x: Arrays, y: Any, rung: int) -> Checks:
        z, magnitude, got = _convolved(x["x"], x["w"], y, settings, dtype)
        image, i, j = _pixels(n, out)
        for more in (take(x["b"]), take(x["time"], image), take(x["residual"], image, i, j)):
            z, magnitude = z + more, magnitude + np.abs(more)
        yield Expected("y", got, z / (1 + np.exp(-z)), _off(9 * c + 10, 2 * magnitude, dtype))

    flop, moved = _conv_work(n, size, out, c, c, 3, dtype)
    moved += 4 * n * out * out * c
    name += ", bias, time, residual, SiLU"
    return Problem("conv2d", name, dtype, flop, moved, CONV2D[dtype], make, run, check, peers.CONV2D_FUSED, goal)


def conv2d_grad(
    which: str, n: int, size: int, c_in: int, c_out: int, dtype: str, k: int = 3, stride: int = 1,
    goal: float | None = None,
) -> Problem:  # fmt: skip
    """The gradient of the images, ``which`` = "x", or of the weights, "w"."""
    settings, out, name = _shape(n, size, c_in, c_out, k, stride)
    x_shape, w_shape = (n, size, size, c_in), (k, k, c_in, c_out)

    def make(source: Source) -> Arrays:
        shapes = {"x": x_shape, "w": w_shape, "g": (n, out, out, c_out)}
        return {key: source.normal(*shape, dtype=dtype) for key, shape in shapes.items()} | settings

    def run(device: Any, x: Arrays, rung: int) -> Any:
        given = {**settings, "rung": rung, **_precision(dtype)}
        if which == "x":
            return conv2d_cuda.conv2d_grad_x(device, x["g"], x["w"], x_shape, **given)
        return conv2d_cuda.conv2d_grad_w(device, x["x"], x["g"], w_shape, **given)

    def check_x(x: Arrays, dx: Any, rung: int) -> Checks:
        """dx[a, b] adds up g[i, j] w[u, v] over all i stride + u - padding = a, and the same of b."""
        image, a, b = _pixels(n, size)
        want, magnitude = np.zeros((len(a), c_in)), np.zeros((len(a), c_in))
        for u, v in itertools.product(range(k), range(k)):
            (i, i_rest), (j, j_rest) = (np.divmod(p + (k - 1) // 2 - q, stride) for p, q in ((a, u), (b, v)))
            inside = (i_rest == 0) & (j_rest == 0)
            at, weights = _factor(dtype, _at(x["g"], image, np.where(inside, i, -1), j), take(x["w"], u, v))
            want += at @ weights.T
            magnitude += np.abs(at) @ np.abs(weights).T
        yield Expected("dx", take(dx, image, a, b), want, _off(k * k * c_out, magnitude, dtype))

    def check_w(x: Arrays, dw: Any, rung: int) -> Checks:
        rows, columns = some(c_in, 3), some(c_out, 3)
        images, g = _factor(dtype, take(x["x"], ..., rows), take(x["g"], ..., columns))
        shape = (k, k, len(rows), len(columns))
        want = conv2d_reference.conv2d_grad_w(images, g, shape, **settings)
        magnitude = conv2d_reference.conv2d_grad_w(np.abs(images), np.abs(g), shape, **settings)
        got = take(dw)[:, :, rows][..., columns]
        yield Expected("dw", got, want, _off(n * out * out, magnitude, dtype))

    flop, moved = _conv_work(n, size, out, c_in, c_out, k, dtype)
    check, theirs = (check_x, peers.CONV2D_GRAD_X) if which == "x" else (check_w, peers.CONV2D_GRAD_W)
    return Problem(f"conv2d-grad-{which}", name, dtype, flop, moved, CONV2D_GRAD[dtype], make, run, check, theirs, goal)


# --- attention --------------------------------------------------------------------------------------------------------


def _attention_name(n: int, heads: int, t: int, t_k: int, d: int, causal: bool) -> str:
    return f"n {n}, {heads} heads, {t} x {t_k}, d {d}{', causal' if causal else ''}"


def _scores(q: np.ndarray, k: np.ndarray, i: np.ndarray, scale: float, causal: bool, t: int) -> np.ndarray:
    """scale q k^T of the queries ``i``, -inf where a key is hidden."""
    s = scale * q @ k.T
    return np.where(np.arange(len(k)) > i[:, None] + len(k) - t, -np.inf, s) if causal else s


def attention(
    n: int, heads: int, t: int, d: int, dtype: str, *, t_k: int = 0, causal: bool = False, short: bool = False,
    goal: float | None = None,
) -> Problem:  # fmt: skip
    """o = softmax(q k^T / sqrt(d)) v; ``short`` are the rungs for few keys."""
    t_k, scale = t_k or t, d**-0.5

    def make(source: Source) -> Arrays:
        q = source.normal(n, heads, t, d, dtype=dtype)
        k, v = (source.normal(n, heads, t_k, d, dtype=dtype) for _ in range(2))
        return {"q": q, "k": k, "v": v, "causal": causal}

    def run(device: Any, x: Arrays, rung: int) -> Any:
        settings: dict[str, Any] = {"key_mask": None, "scale": scale, "rung": rung}
        if short:
            return attention_cuda.short_forward(
                device, x["q"], x["k"], x["v"], **settings, keep=False, rounded=dtype == "bf16"
            )[0]
        return attention_cuda.attention(device, x["q"], x["k"], x["v"], **settings, causal=causal, **_precision(dtype))

    def check(x: Arrays, o: Any, rung: int) -> Checks:
        i = some(t)
        for sample, head in {(0, 0), (n - 1, heads - 1)}:
            q, k, v = take(x["q"], sample, head, i), take(x["k"], sample, head), take(x["v"], sample, head)
            s = _scores(q, k, i, scale, causal, t)
            p = np.exp(s - s.max(axis=1, keepdims=True))
            p /= p.sum(axis=1, keepdims=True)
            size = scale * float((np.abs(q) @ np.abs(k).T).max())
            allowed = (bound(d + 1, 4 * size + 4, np.float32) + bound(2 * t_k, 4, np.float32)) * np.abs(v).max()
            if dtype == "bf16":  # the weights are rounded too
                allowed = 2 * allowed + bfloat16.UNIT_ROUNDOFF * (p @ np.abs(v))
            if short and dtype == "bf16":  # and so is the result
                allowed = allowed + bfloat16.UNIT_ROUNDOFF * np.abs(p @ v)
            yield Expected(f"o of head {head} of sample {sample}", take(o, sample, head, i), p @ v, allowed)

    flop = 2 * 2 * n * heads * t * t_k * d * (0.5 if causal else 1)
    moved = ITEM[dtype] * n * heads * d * 2 * (t + t_k)
    name = _attention_name(n, heads, t, t_k, d, causal)
    op, rungs = ("attention-short", SHORT[dtype]) if short else ("attention", ATTENTION[dtype])
    return Problem(op, name, dtype, flop, moved, rungs, make, run, check, peers.ATTENTION, goal)


def attention_grad(
    n: int, heads: int, t: int, d: int, dtype: str, *, causal: bool = False, goal: float | None = None
) -> Problem:
    """(dq, dk, dv), given o and the logarithms of the sums of the forward pass."""
    scale, settings = d**-0.5, {"causal": causal, "key_mask": None, "scale": d**-0.5}

    def make(source: Source) -> Arrays:
        q, k, v, g = (source.normal(n, heads, t, d) for _ in range(4))
        if dtype == "bf16":
            bits = [source.bits(a) for a in (q, k, v, g)]
            q, k, v, g = (source.numbers(b) for b in bits)
        o = attention_cuda.attention(source.device, q, k, v, **settings, rung=2)
        log_sum = attention_grad_cuda.log_sums(source.device, q, k, **settings)
        found = dict(zip("qkvg", bits if dtype == "bf16" else (q, k, v, g)))
        return {**found, "o": o, "log_sum": log_sum, "causal": causal}

    def run(device: Any, x: Arrays, rung: int) -> Any:
        given = (x["g"], x["q"], x["k"], x["v"], x["o"], x["log_sum"])
        how: dict[str, Any] = {**settings, "rung": rung, **_precision(dtype)}
        return attention_grad_cuda.attention_backward(device, *given, **how)

    def check(x: Arrays, result: Any, rung: int) -> Checks:
        places = some(t)
        for sample, head in {(0, 0), (n - 1, heads - 1)}:
            q, k, v, g = (take(x[c], sample, head) for c in "qkvg")
            o, log_sum = (take(x[c], sample, head) for c in ("o", "log_sum"))
            delta = (g * o).sum(axis=1)
            size = 3 * scale * float((np.abs(q[places]) @ np.abs(k).T).max()) + np.log(t) + 4
            off = bound(d + t, size, np.float32) + bound(max(d + 2, t), 2, np.float32)
            if dtype == "bf16":  # tensor cores cut sums off, and p and ds are rounded
                off = 2 * off + bfloat16.UNIT_ROUNDOFF
            # The rows of some queries give their dq, the columns of some keys their dk and dv.
            rows = np.exp(_scores(q[places], k, places, scale, causal, t) - log_sum[places, None])
            pull = g[places] @ v.T - delta[places, None]
            widest = np.abs(g[places]) @ np.abs(v).T + (np.abs(g) * np.abs(o)).sum(axis=1)[places, None]
            allowed = off * scale * ((rows * widest) @ np.abs(k))
            where = f"of head {head} of sample {sample}"
            yield Expected(f"dq {where}", take(result[0], sample, head, places), scale * (rows * pull) @ k, allowed)
            s = scale * q @ k[places].T
            if causal:
                s = np.where(places > np.arange(t)[:, None], -np.inf, s)
            columns = np.exp(s - log_sum[:, None])
            pull = g @ v[places].T - delta[:, None]
            widest = np.abs(g) @ np.abs(v[places]).T + (np.abs(g) * np.abs(o)).sum(axis=1)[:, None]
            want, allowed = scale * (columns * pull).T @ q, off * scale * ((columns * widest).T @ np.abs(q))
            yield Expected(f"dk {where}", take(result[1], sample, head, places), want, allowed)
            got = take(result[2], sample, head, places)
            yield Expected(f"dv {where}", got, columns.T @ g, off * (columns.T @ np.abs(g)))

    flop = 5 * 2 * n * heads * t * t * d * (0.5 if causal else 1)
    moved = ITEM[dtype] * n * heads * t * d * 8
    name = _attention_name(n, heads, t, t, d, causal)
    rungs = ATTENTION_GRAD[dtype]
    return Problem("attention-grad", name, dtype, flop, moved, rungs, make, run, check, peers.ATTENTION_GRAD, goal)


# --- nearest codes ----------------------------------------------------------------------------------------------------


def quantize(m: int, codes: int, d: int, goal: float | None = None) -> Problem:
    """The nearest of ``codes`` codes to each of m rows. All rungs give the float32 answer, whatever they multiply."""

    def make(source: Source) -> Arrays:
        return {"z": source.normal(m, d), "codebook": source.normal(codes, d)}

    def run(device: Any, x: Arrays, rung: int) -> Any:
        return quantize_cuda.nearest_code(device, x["z"], x["codebook"], rung=rung)

    def check(x: Arrays, indices: Any, rung: int) -> Checks:
        rows, codebook = some(m), take(x["codebook"])
        z, got = take(x["z"], rows), take(indices, rows).astype(np.int64)
        yield Expected("the range of the indices", (got < 0) | (got >= codes), np.zeros(len(rows)))
        for row, chosen in zip(z, np.clip(got, 0, codes - 1)):
            distance = squared_distances(row[None], codebook)
            allowed = bound(d + 2, 2 * distance[chosen], np.float32)
            yield Expected("the chosen code's distance", distance[chosen], distance.min(), allowed)

    moved = 4 * (m + codes) * d + 8 * m
    name = f"{m} vectors, {codes} codes, d {d}"
    rungs = quantize_cuda.RUNGS
    return Problem("quantize", name, "float32", 2 * m * codes * d, moved, rungs, make, run, check, peers.QUANTIZE, goal)


# --- the list ---------------------------------------------------------------------------------------------------------

# n, size, channels in, channels out, kernel: the U-Net of Stable Diffusion, DDPM's, a VAE's, the first layer, 1x1
CONVOLUTIONS = (
    (16, 64, 320, 320, 3),
    (16, 32, 640, 640, 3),
    (64, 32, 128, 128, 3),
    (1, 512, 128, 128, 3),
    (64, 32, 3, 128, 3),
    (16, 64, 320, 320, 1),
)


def problems() -> list[Problem]:
    """The whole list."""
    both = ("bf16", "float32")
    found = [matmul(8192, 8192, 8192, dtype) for dtype in (*both, "tf32")]
    found += [matmul(4096, 4096, 4096, dtype) for dtype in both]
    for *shape, k in CONVOLUTIONS:
        goal = 1.3 if k == 3 and shape[2] >= 320 else None
        n, size, c_in, c_out = shape
        for dtype in (*both, "tf32") if goal else both:
            here = goal if dtype == "bf16" else None
            found.append(conv2d(n, size, c_in, c_out, dtype, k, goal=here))
            found += [conv2d_grad(which, n, size, c_in, c_out, dtype, k, goal=here) for which in "xw"]
    found += [conv2d_fused(64, 32, 128, dtype) for dtype in both]
    found += [conv2d(16, 64, 128, 128, "bf16", stride=2)]
    found += [conv2d_grad(which, 16, 64, 128, 128, "bf16", stride=2) for which in "xw"]
    for dtype in both:
        goal = 1.3 if dtype == "bf16" else None
        found += [
            attention(2, 16, 8192, 128, dtype, goal=goal),
            attention(2, 16, 8192, 128, dtype, causal=True, goal=goal),
            attention(32, 16, 1024, 64, dtype, goal=goal),
            attention(16, 8, 4096, 64, dtype, goal=goal),
            attention(16, 8, 4096, 40, dtype),
            attention(16, 8, 4096, 64, dtype, t_k=77),
            attention(16, 8, 4096, 64, dtype, t_k=77, short=True, goal=0.8 if goal else None),
            attention_grad(2, 16, 8192, 128, dtype, causal=True),
            attention_grad(32, 16, 1024, 64, dtype),
        ]
    found += [quantize(65536, 8192, 256, goal=0.15), quantize(65536, 1024, 64), quantize(1 << 20, 16384, 8)]
    return found
