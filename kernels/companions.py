"""The memory-bound operations as problems for ``python -m kernels.emulate``: inputs, expected results, allowed errors.

Each function takes the sizes and returns a function that runs one rung on a device and tells it what to expect.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.random import default_rng  # loaded now: while it loads, Ctrl-C can be lost

from . import activation, adam, codebook, cross_entropy, eight_bit, embedding, norm, quantize, random, sampler_step
from .activation import cuda as activation_cuda
from .adam import cuda as adam_cuda
from .codebook import cuda as codebook_cuda
from .compare import bound
from .cross_entropy import cuda as cross_entropy_cuda
from .eight_bit import cuda as eight_bit_cuda
from .embedding import cuda as embedding_cuda
from .norm import cuda as norm_cuda
from .quantize import cuda as quantize_cuda
from .random import cuda as random_cuda
from .sampler_step import cuda as sampler_step_cuda

Run = Callable[[Any, int], None]  # of a device and a rung
EPS = 0.1  # of a norm: large enough to be seen beside a variance of 1


def normals(*shapes: tuple[int, ...]) -> list[np.ndarray]:
    """Arrays of normal numbers, no two of them alike: a kernel may have taken one for the other."""
    rng = default_rng(0)
    return [rng.standard_normal(shape).astype(np.float32) for shape in shapes]


def _wide(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float64)


def _random(n: int, per_sample: int) -> Run:
    at: dict[str, Any] = {"seed": 2**40 + 7, "first": 3, "step": 5, "purpose": 1}
    shape = (n, per_sample)

    def run(device: Any, rung: int) -> None:
        pairs = (
            (random.random_bits, random_cuda.random_bits),
            (random.uniform, random_cuda.uniform),
            (random.normal, random_cuda.normal),
        )
        for ours, theirs in pairs:
            device.expect(theirs(device, shape, **at), ours(shape, **at), 0, ours.__name__)

    return run


def _group_norm(n: int, pixels: int, groups: int, width: int) -> Run:
    c = groups * width
    g, x, gamma, beta = normals((n, pixels, c), (n, pixels, c), (c,), (n, c))
    gamma += 1
    want, want_dx, allowed, allowed_dx = norm_expected(g, x, gamma, beta, groups, True, EPS)

    def run(device: Any, rung: int) -> None:
        y, saved = norm_cuda.group_norm_forward(device, x, gamma, beta, groups, eps=EPS, silu=True, rung=rung)
        device.expect(y, want, allowed, "y")
        dx, _, _ = norm_cuda.group_norm_backward(device, g, x, gamma, beta, saved, groups, silu=True, rung=rung)
        device.expect(dx, want_dx, allowed_dx, "dx")

    return run


def _layer_norm(rows: int, c: int) -> Run:
    g, x, gamma, beta = normals((rows, c), (rows, c), (c,), (c + 1,))
    gamma, beta = 1 + gamma, beta[1:]  # which begins beside a multiple of 16 bytes
    expected = norm_expected(g[:, None], x[:, None], gamma, beta, 1, False, EPS)
    want, want_dx, allowed, allowed_dx = (a.reshape(rows, c) for a in expected)

    def run(device: Any, rung: int) -> None:
        y, saved = norm_cuda.layer_norm_forward(device, x, gamma, beta, eps=EPS)
        device.expect(y, want, allowed, "y")
        device.expect(norm_cuda.layer_norm_backward(device, g, x, gamma, saved)[0], want_dx, allowed_dx, "dx")

    return run


def norm_expected(
    g: Any, x: Any, gamma: Any, beta: Any, groups: int, silu: bool, eps: float = 1e-5
) -> tuple[Any, Any, Any, Any]:
    """y, dx and their allowed errors: x_hat and every sum are rounded relative to the absolute values in them."""
    n, pixels, c = x.shape
    grouped = (n, pixels, groups, c // groups)
    g, x, gamma, beta = (_wide(a) for a in (g, x, gamma, beta))
    y = norm.reference.group_norm(x, gamma, beta, groups, eps, silu)
    dx = norm.reference.group_norm_backward(g, x, gamma, beta, groups, eps, silu)[0]
    slab = x.reshape(grouped)
    r = (slab.var(axis=(1, 3), keepdims=True) + eps) ** -0.5
    hat = np.abs(slab) * r + np.abs(slab.mean(axis=(1, 3), keepdims=True)) * r + 1
    size = np.abs(gamma) * hat.reshape(x.shape) + np.abs(beta).reshape(-1, 1, c)
    pull = (np.abs(gamma * g) * (1 + size if silu else 1)).reshape(grouped)
    mean, slope = (v.mean(axis=(1, 3), keepdims=True) for v in (pull, pull * hat))
    terms, size_dx = pixels * c // groups, (r * (pull + mean + hat * slope)).reshape(x.shape)
    return y, dx, bound(terms, size, np.float32), bound(terms, size_dx, np.float32)


def _cross_entropy(rows: int, classes: int) -> Run:
    (g, x), targets = normals((rows,), (rows, classes)), np.arange(rows) % classes
    x *= 3
    want = cross_entropy.reference.cross_entropy(_wide(x), targets)
    want_dx = cross_entropy.reference.cross_entropy_backward(_wide(g), _wide(x), targets)
    depth = float(x.max() - x.min()) + 3  # the relative error of exp(x - largest), in units
    allowed = bound(2 * classes, depth + np.log(classes), np.float32)

    def run(device: Any, rung: int) -> None:
        loss, dx = cross_entropy_cuda.loss_and_gradient(device, g, x, targets, rung=rung)
        device.expect(loss, want, allowed, "loss")
        most = bound(2 * classes, 2 * depth * np.abs(g[:, None]), np.float32)
        device.expect(dx, want_dx, most, "dlogits")
        if rung == 2:
            _, foreseen = cross_entropy_cuda.foresee(device, x, targets)
            device.expect(
                cross_entropy_cuda.rescale(device, g, foreseen), want_dx, most, "dlogits of the mean, rescaled"
            )

    return run


def _adam(n: int) -> Run:
    *state, v = normals(*[(n,)] * 4)
    state.append(np.abs(v))
    settings: dict[str, Any] = {"step": 3, "lr": 1e-3, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.01}
    want = [_wide(a) for a in state]
    adam.reference.adam_step(want[0], want[1], want[2], want[3], **settings)
    sizes = [np.abs(w) + np.abs(s) + np.abs(state[1]) for w, s in zip(want, state)]

    def run(device: Any, rung: int) -> None:
        p, g, m, v = (a.copy() for a in state)
        adam_cuda.adam_step(device, p, g, m, v, **settings)
        for name, got, i in (("p", p, 0), ("m", m, 2), ("v", v, 3)):
            device.expect(got, want[i], bound(16, sizes[i], np.float32), name)

    return run


def _activation(n: int) -> Run:
    x, g = normals((n,), (n,))
    x *= 2
    ours, theirs = activation.reference, activation_cuda
    size = 2 + 2 * np.abs(x)  # what rounding errors are relative to

    def run(device: Any, rung: int) -> None:
        for name in ("silu", "gelu", "softplus"):
            want = getattr(ours, name)(_wide(x))
            device.expect(getattr(theirs, name)(device, x), want, bound(10, size, np.float32), name)
        for name in ("silu_grad", "gelu_grad"):
            want = getattr(ours, name)(_wide(g), _wide(x))
            device.expect(getattr(theirs, name)(device, g, x), want, bound(10, np.abs(g) * size, np.float32), name)

    return run


def _sampler_step(n: int, per_sample: int) -> Run:
    shape = (n, per_sample)
    x, c, u = normals(shape, shape, shape)
    plan, scales = sampler_step.plan(0.3, 0.7, eta=0.5), np.linspace(0, 7.5, n).astype(np.float32)
    noise = random.normal(shape, seed=9, step=2)
    wide = [_wide(a) for a in (x, c, u, scales)]
    want, guess = sampler_step.reference.step(wide[0], wide[1], wide[2], wide[3], plan, 1.0, _wide(noise))
    size = 4 * (np.abs(x) + scales[:, None] * (np.abs(c) + np.abs(u)) + np.abs(u) + np.abs(noise)) + 1

    def run(device: Any, rung: int) -> None:
        stream = random.Stream(9, step=2)
        got = sampler_step_cuda.ddim_step(device, x, c, u, scales, plan, clip=1.0, noise=stream)
        for name, array, exact in zip(("x_u", "x_0"), got, (want, guess)):
            device.expect(array, exact, bound(12, size, np.float32), name)

    return run


def _embedding(m: int, rows: int, d: int) -> Run:
    (g,), indices = normals((m, d)), (np.arange(m) * 7919 % (m + 1) % rows).astype(np.int32)
    want = embedding.reference.scatter_add(_wide(g), indices, rows)
    allowed = bound(m, embedding.reference.scatter_add(_wide(np.abs(g)), indices, rows), np.float32)

    def run(device: Any, rung: int) -> None:
        device.expect(embedding_cuda.scatter_add(device, g, indices, rows, rung=rung), want, allowed, "dtable")

    return run


def _codebook(n: int, codes: int, d: int) -> Run:
    z, m, e, N = normals((n, d), (codes, d), (codes, d), (codes,))
    N = 1 + np.abs(N)
    chosen = (np.arange(n) * 7919 % (n + 1) % codes).astype(np.int32)
    want = codebook.reference.codebook_ema(_wide(N), _wide(m), _wide(e), _wide(z), chosen, 0.9)
    size = codebook.reference.codebook_ema(_wide(N), np.abs(_wide(m)), _wide(e), np.abs(_wide(z)), chosen, 0.9)[1]
    allowed = [bound(n, s, np.float32) for s in (want[0], size, 2 * size / want[0][:, None])]

    def run(device: Any, rung: int) -> None:
        got = codebook_cuda.codebook_ema(device, N, m, e, z, chosen, 0.9)
        for name, array, exact, off in zip("Nme", got, want, allowed):
            device.expect(array, exact, off, name)

    return run


def _gather(m: int, codes: int, d: int) -> Run:
    (z, e), chosen = normals((m, d), (codes, d)), np.arange(m) * 7919 % (m + 1) % codes
    want, (_, errors, counts) = e[chosen], quantize.reference.gather(_wide(z), _wide(e), chosen)

    def run(device: Any, rung: int) -> None:
        got = quantize_cuda.gather(device, z, e, chosen)
        device.expect(got[0], want, 0, "e")
        device.expect(got[1], errors, bound(d + 2, errors, np.float32), "errors")
        device.expect(got[2], counts, 0, "counts")

    return run


def _eight_bit(m: int, k: int, n: int) -> Run:
    x, w = normals((m, k), (k, n))
    (p, t), (q, s) = eight_bit.quantize(x, axis=0), eight_bit.quantize(w, axis=1)
    want = eight_bit.reference.linear_weight_only(_wide(x), q, _wide(s), None)
    allowed = bound(k + 1, (np.abs(x) @ np.abs(q.astype(np.float32))) * s, np.float32)
    # Of sums of small whole numbers fp8 tensor cores lose nothing either.
    fp8 = (eight_bit.encode(np.rint(x), "e4m3"), t, eight_bit.encode(np.rint(w), "e5m2"), s)
    exact = eight_bit.reference.linear_fp8(*fp8, None, "e4m3", "e5m2")

    def run(device: Any, rung: int) -> None:
        device.expect(eight_bit_cuda.linear_fp8(device, *fp8, form="e5m2", rung=rung), exact, 0, "fp8 by fp8")
        if rung not in eight_bit_cuda.INT8_RUNGS:
            return
        for form in eight_bit.FORMS:
            codes, scale = eight_bit_cuda.quantize(device, w, axis=1, form=form)
            device.expect(codes, eight_bit.quantize(w, axis=1, form=form)[0], 0, f"{form} codes")
            back = eight_bit_cuda.dequantize(device, codes, scale, axis=1, form=form)
            device.expect(back, eight_bit.dequantize(codes, scale, axis=1, form=form), 0, form)
        device.expect(eight_bit_cuda.linear_weight_only(device, x, q, s, rung=rung), want, allowed, "weight only")
        device.expect(
            eight_bit_cuda.linear_int8(device, p, t, q, s, rung=rung), eight_bit.linear_int8(p, t, q, s), 0, "y"
        )

    return run


# operation -> (what makes its problem, the names of its sizes, sizes that take a second, its rungs)
COMPANIONS: dict[str, tuple[Callable[..., Run], str, tuple[int, ...], dict[int, str]]] = {
    "random": (_random, "n,per_sample", (5, 333), random_cuda.RUNGS),
    "group_norm": (_group_norm, "n,pixels,groups,width", (2, 50, 3, 7), norm_cuda.RUNGS),
    "layer_norm": (_layer_norm, "rows,c", (20, 300), {1: "layer_norm.cu"}),
    "cross_entropy": (_cross_entropy, "rows,classes", (9, 333), cross_entropy_cuda.RUNGS),
    "activation": (_activation, "n", (5001,), activation_cuda.RUNGS),
    "adam": (_adam, "n", (5001,), adam_cuda.RUNGS),
    "sampler_step": (_sampler_step, "n,per_sample", (5, 333), sampler_step_cuda.RUNGS),
    "embedding": (_embedding, "m,rows,d", (300, 40, 5), embedding_cuda.RUNGS),
    "codebook": (_codebook, "n,codes,d", (300, 40, 5), codebook_cuda.RUNGS),
    "gather": (_gather, "m,codes,d", (300, 40, 6), {1: quantize_cuda.GATHER}),
    "eight_bit": (_eight_bit, "m,k,n", (20, 77, 33), eight_bit_cuda.RUNGS),
}
