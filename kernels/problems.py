"""What the benchmark measures: for every operation a few shapes that matter, with their work in FLOP and bytes.

FLOP count a multiply-add as two and are those of the definition (a faster algorithm may do fewer); bytes are those
that must move: every input read once, every result written once. The peer's function is the usual torch one in
torch's usual layout (images n, c, h, w), eager, on the same float32 numbers.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

Run = Callable[[], Any]


@dataclass(frozen=True)
class Problem:
    """One line of the benchmark. ``ours(rng)`` and ``peer(rng, torch)`` prepare inputs and return what is timed."""

    op: str
    name: str
    flop: float
    bytes: float
    ours: Callable[[Any], Run]
    peer: Callable[[Any, Any], Run]
    goal: float | None = None  # ratio to the peer that this project aims for


def _normal(rng: Any, *shape: int) -> Any:
    return rng.standard_normal(shape).astype(np.float32)


def _matmul(m: int, k: int, n: int) -> Problem:
    from .matmul import matmul

    def ours(rng: Any) -> Run:
        a, b = _normal(rng, m, k), _normal(rng, k, n)
        return lambda: matmul(a, b)

    def peer(rng: Any, torch: Any) -> Run:
        a, b = (torch.from_numpy(_normal(rng, *s)) for s in ((m, k), (k, n)))
        return lambda: a @ b

    return Problem("matmul", f"{m} x {k} x {n}", 2 * m * k * n, 4 * (m * k + k * n + m * n), ours, peer)


def _conv2d(
    n: int, size: int, c_in: int, c_out: int, k: int = 3, stride: int = 1, goal: float | None = None
) -> Problem:
    from .conv2d import conv2d, conv2d_grad_w, conv2d_grad_x

    padding = (k - 1) // 2
    out = (size + 2 * padding - k) // stride + 1
    settings = {"stride": stride, "padding": padding}

    def ours(rng: Any) -> Run:
        x, w, g = _normal(rng, n, size, size, c_in), _normal(rng, k, k, c_in, c_out), _normal(rng, n, out, out, c_out)

        def run() -> Any:
            y = conv2d(x, w, **settings)
            return y, conv2d_grad_x(g, w, x.shape, **settings), conv2d_grad_w(x, g, w.shape, **settings)

        return run

    def peer(rng: Any, torch: Any) -> Run:
        x = torch.from_numpy(_normal(rng, n, c_in, size, size)).requires_grad_()
        w = torch.from_numpy(_normal(rng, c_out, c_in, k, k)).requires_grad_()
        g = torch.from_numpy(_normal(rng, n, c_out, out, out))
        return lambda: torch.autograd.grad(torch.nn.functional.conv2d(x, w, **settings), (x, w), g)

    flop = 3 * 2 * n * out * out * k * k * c_in * c_out
    moved = 4 * (3 * n * size * size * c_in + 3 * n * out * out * c_out + 3 * k * k * c_in * c_out)
    step = f", stride {stride}" if stride > 1 else ""
    name = f"{k}x{k} {c_in}->{c_out} at {size}x{size}, n {n}{step}, with gradients"
    return Problem("conv2d", name, flop, moved, ours, peer, goal)


def _conv_transpose2d(n: int, size: int, c: int) -> Problem:
    from .conv2d import conv_transpose2d, conv_transpose2d_grad_w, conv_transpose2d_grad_x

    settings = {"stride": 2, "padding": 1}

    def ours(rng: Any) -> Run:
        x, w, g = _normal(rng, n, size, size, c), _normal(rng, 4, 4, c, c), _normal(rng, n, 2 * size, 2 * size, c)

        def run() -> Any:
            y = conv_transpose2d(x, w, **settings)
            return y, conv_transpose2d_grad_x(g, w, **settings), conv_transpose2d_grad_w(x, g, w.shape, **settings)

        return run

    def peer(rng: Any, torch: Any) -> Run:
        x = torch.from_numpy(_normal(rng, n, c, size, size)).requires_grad_()
        w = torch.from_numpy(_normal(rng, c, c, 4, 4)).requires_grad_()
        g = torch.from_numpy(_normal(rng, n, c, 2 * size, 2 * size))
        return lambda: torch.autograd.grad(torch.nn.functional.conv_transpose2d(x, w, **settings), (x, w), g)

    flop = 3 * 2 * n * size * size * 16 * c * c
    moved = 4 * (3 * n * size * size * c * 5 + 3 * 16 * c * c)
    name = f"4x4 transposed {c}->{c} at {size}x{size}, n {n}, stride 2, with gradients"
    return Problem("conv2d", name, flop, moved, ours, peer)


def _attention(
    n: int, heads: int, t: int, d: int, *, t_k: int = 0, causal: bool = False, goal: float | None = None
) -> Problem:
    from .attention import attention_backward, attention_forward

    t_k = t_k or t

    def ours(rng: Any) -> Run:
        q, g = _normal(rng, n, heads, t, d), _normal(rng, n, heads, t, d)
        k, v = _normal(rng, n, heads, t_k, d), _normal(rng, n, heads, t_k, d)

        def run() -> Any:
            o, saved = attention_forward(q, k, v, causal=causal)
            return attention_backward(g, q, k, v, o, saved, causal=causal)

        return run

    def peer(rng: Any, torch: Any) -> Run:
        q, g = (
            torch.from_numpy(_normal(rng, n, heads, t, d)).requires_grad_(),
            torch.from_numpy(_normal(rng, n, heads, t, d)),
        )
        k, v = (torch.from_numpy(_normal(rng, n, heads, t_k, d)).requires_grad_() for _ in range(2))
        function = torch.nn.functional.scaled_dot_product_attention
        return lambda: torch.autograd.grad(function(q, k, v, is_causal=causal), (q, k, v), g)

    flop = 7 * 2 * n * heads * t * t_k * d * (0.5 if causal else 1)
    moved = 4 * n * heads * d * (5 * t + 6 * t_k)
    name = f"n {n}, {heads} heads, {t} x {t_k}, d {d}{', causal' if causal else ''}, with gradients"
    return Problem("attention", name, flop, moved, ours, peer, goal)


def _nearest(m: int, k: int, d: int, goal: float | None = None) -> Problem:
    from .quantize import nearest_code

    def ours(rng: Any) -> Run:
        z, codebook = _normal(rng, m, d), _normal(rng, k, d)
        return lambda: nearest_code(z, codebook)

    def peer(rng: Any, torch: Any) -> Run:
        z, codebook = torch.from_numpy(_normal(rng, m, d)), torch.from_numpy(_normal(rng, k, d))
        return lambda: torch.cdist(z, codebook).argmin(1)

    return Problem(
        "quantize", f"{m} vectors, {k} codes, d {d}", 2 * m * k * d, 4 * (m + k) * d + 8 * m, ours, peer, goal
    )


def _group_norm(n: int, size: int, c: int, groups: int = 8, goal: float | None = None) -> Problem:
    from .norm import group_norm_backward, group_norm_forward

    def ours(rng: Any) -> Run:
        x, g = _normal(rng, n, size, size, c), _normal(rng, n, size, size, c)
        gamma, beta = np.ones(c, np.float32), np.zeros(c, np.float32)

        def run() -> Any:
            _, saved = group_norm_forward(x, gamma, beta, groups, silu=True)
            return group_norm_backward(g, x, gamma, beta, saved, groups, silu=True)

        return run

    def peer(rng: Any, torch: Any) -> Run:
        x, g = (
            torch.from_numpy(_normal(rng, n, c, size, size)).requires_grad_(),
            torch.from_numpy(_normal(rng, n, c, size, size)),
        )
        gamma, beta = torch.ones(c, requires_grad=True), torch.zeros(c, requires_grad=True)
        f = torch.nn.functional
        return lambda: torch.autograd.grad(f.silu(f.group_norm(x, groups, gamma, beta)), (x, gamma, beta), g)

    elements = n * size * size * c
    name = f"group norm + SiLU {c} at {size}x{size}, n {n}, with gradients"
    return Problem("norm", name, 30 * elements, 4 * 5 * elements, ours, peer, goal)


def _layer_norm(rows: int, c: int) -> Problem:
    from .norm import layer_norm_backward, layer_norm_forward

    def ours(rng: Any) -> Run:
        x, g = _normal(rng, rows, c), _normal(rng, rows, c)
        gamma, beta = np.ones(c, np.float32), np.zeros(c, np.float32)

        def run() -> Any:
            _, saved = layer_norm_forward(x, gamma, beta)
            return layer_norm_backward(g, x, gamma, saved)

        return run

    def peer(rng: Any, torch: Any) -> Run:
        x, g = torch.from_numpy(_normal(rng, rows, c)).requires_grad_(), torch.from_numpy(_normal(rng, rows, c))
        gamma, beta = torch.ones(c, requires_grad=True), torch.zeros(c, requires_grad=True)
        f = torch.nn.functional
        return lambda: torch.autograd.grad(f.layer_norm(x, (c,), gamma, beta), (x, gamma, beta), g)

    return Problem("norm", f"layer norm {rows} x {c}, with gradients", 20 * rows * c, 4 * 5 * rows * c, ours, peer)


def _gelu(elements: int) -> Problem:
    from .activation import gelu, gelu_grad

    def ours(rng: Any) -> Run:
        x, g = _normal(rng, elements // 512, 512), _normal(rng, elements // 512, 512)
        return lambda: (gelu(x), gelu_grad(g, x))

    def peer(rng: Any, torch: Any) -> Run:
        x, g = (
            torch.from_numpy(_normal(rng, elements // 512, 512)).requires_grad_(),
            torch.from_numpy(_normal(rng, elements // 512, 512)),
        )
        return lambda: torch.autograd.grad(torch.nn.functional.gelu(x, approximate="tanh"), x, g)

    return Problem(
        "activation", f"gelu, {elements} elements, with gradient", 40 * elements, 4 * 5 * elements, ours, peer
    )


def _cross_entropy(rows: int, classes: int) -> Problem:
    from .cross_entropy import cross_entropy_backward, cross_entropy_forward

    def ours(rng: Any) -> Run:
        logits, targets = _normal(rng, rows, classes), rng.integers(0, classes, rows)
        g = np.full(rows, 1 / rows, np.float32)

        def run() -> Any:
            _, saved = cross_entropy_forward(logits, targets)
            return cross_entropy_backward(g, logits, targets, saved)

        return run

    def peer(rng: Any, torch: Any) -> Run:
        logits, targets = (
            torch.from_numpy(_normal(rng, rows, classes)).requires_grad_(),
            torch.from_numpy(rng.integers(0, classes, rows)),
        )
        return lambda: torch.autograd.grad(torch.nn.functional.cross_entropy(logits, targets), logits)

    elements = rows * classes
    return Problem("cross_entropy", f"{rows} x {classes}, with gradient", 8 * elements, 4 * 3 * elements, ours, peer)


def _embedding(rows: int, d: int, count: int) -> Problem:
    from .embedding import embedding, embedding_grad

    def ours(rng: Any) -> Run:
        table, indices, g = _normal(rng, rows, d), rng.integers(0, rows, count), _normal(rng, count, d)
        return lambda: (embedding(table, indices), embedding_grad(g, indices, rows))

    def peer(rng: Any, torch: Any) -> Run:
        table = torch.from_numpy(_normal(rng, rows, d)).requires_grad_()
        indices, g = torch.from_numpy(rng.integers(0, rows, count)), torch.from_numpy(_normal(rng, count, d))
        return lambda: torch.autograd.grad(torch.nn.functional.embedding(indices, table), table, g)

    moved = 4 * d * (3 * count + rows)
    return Problem("embedding", f"{count} of {rows} rows, d {d}, with scatter", count * d, moved, ours, peer)


def _resample(n: int, size: int, c: int) -> Problem:
    from .resample import avg_pool, avg_pool_grad, upsample_nearest, upsample_nearest_grad

    def ours(rng: Any) -> Run:
        x, g = _normal(rng, n, size, size, c), _normal(rng, n, size // 2, size // 2, c)
        return lambda: (
            (avg_pool(x, 2), upsample_nearest_grad(x, 2)),  # the large one in
            (upsample_nearest(g, 2), avg_pool_grad(g, 2)),  # the small one in
        )

    def peer(rng: Any, torch: Any) -> Run:
        f = torch.nn.functional
        large, small = (torch.from_numpy(_normal(rng, n, c, s, s)).requires_grad_() for s in (size, size // 2))
        to_small, to_large = torch.from_numpy(_normal(rng, n, c, size // 2, size // 2)), large.detach()
        return lambda: (
            torch.autograd.grad(f.avg_pool2d(large, 2), large, to_small),
            torch.autograd.grad(f.interpolate(small, scale_factor=2, mode="nearest"), small, to_large),
        )

    elements = n * size * size * c  # each of the four reads or writes this many, and a quarter as many
    name = f"mean of 2x2 and nearest, {c} at {size}x{size}, n {n}, with gradients"
    return Problem("resample", name, 4 * elements, 4 * 5 * elements, ours, peer)


def _adam(elements: int) -> Problem:
    from .adam import adam_step

    def ours(rng: Any) -> Run:
        p, g, m = _normal(rng, elements), _normal(rng, elements), np.zeros(elements, np.float32)
        v = np.zeros(elements, np.float32)
        return lambda: adam_step(p, g, m, v, step=10, lr=1e-4)

    def peer(rng: Any, torch: Any) -> Run:
        p = torch.from_numpy(_normal(rng, elements)).requires_grad_()
        p.grad = torch.from_numpy(_normal(rng, elements))
        optimiser = torch.optim.AdamW([p], lr=1e-4, weight_decay=0.0, fused=True)
        return optimiser.step

    return Problem("adam", f"{elements} parameters (peer: fused)", 12 * elements, 4 * 7 * elements, ours, peer)


def problems() -> list[Problem]:
    """The whole list, in the order of the table."""
    return [
        _matmul(2048, 2048, 2048),
        _matmul(4096, 128, 512),
        _conv2d(64, 32, 64, 64, goal=0.8),
        _conv2d(32, 32, 32, 32),
        _conv2d(32, 16, 64, 64),
        _conv2d(32, 8, 64, 64),
        _conv2d(32, 16, 128, 64),
        _conv2d(32, 32, 3, 32),
        _conv2d(16, 16, 128, 128, stride=2),
        _conv2d(16, 16, 128, 128, k=1),
        _conv_transpose2d(64, 16, 64),
        _attention(8, 4, 256, 32, goal=0.9),
        _attention(8, 4, 256, 32, causal=True),
        _attention(8, 4, 256, 32, t_k=77),
        _attention(64, 2, 16, 24),
        _nearest(16384, 8192, 64, goal=0.2),
        _nearest(4096, 256, 16),
        _group_norm(64, 32, 64, goal=2.0),
        _group_norm(32, 32, 32),
        _group_norm(32, 16, 64),
        _layer_norm(4096, 128),
        _resample(32, 32, 64),
        _gelu(4096 * 512),
        _cross_entropy(4096, 512),
        _embedding(8192, 128, 4096),
        _adam(2_000_000),
    ]
