"""The problems of the memory-bound operations, of the random stream and of eight-bit numbers. Their arrays are float32."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from .. import adam, eight_bit, norm, random, sampler_step
from ..activation import cuda as activation_cuda
from ..activation import reference as activation_reference
from ..adam import cuda as adam_cuda
from ..codebook import cuda as codebook_cuda
from ..codebook import reference as codebook_reference
from ..companions import norm_expected
from ..compare import bound
from ..cross_entropy import cuda as cross_entropy_cuda
from ..cross_entropy import reference as cross_entropy_reference
from ..eight_bit import cuda as eight_bit_cuda
from ..embedding import cuda as embedding_cuda
from ..norm import cuda as norm_cuda
from ..quantize import cuda as quantize_cuda
from ..quantize import reference as quantize_reference
from ..random import cuda as random_cuda
from ..sampler_step import cuda as sampler_step_cuda
from . import peers
from .problem import Arrays, Expected, Problem, Source, some, take

Checks = Iterator[Expected]
EPS = 1e-5


def _numbers(flop: float, floats: float) -> tuple[str, float, float]:
    return "float32", flop, 4 * floats


def group_norm(n: int, size: int, c: int, groups: int, backward: bool, goal: float | None = None) -> Problem:
    """Group norm and SiLU, or its gradients."""
    pixels = size * size

    def make(source: Source) -> Arrays:
        x, g, gamma, beta = (source.normal(*s) for s in ((n, pixels, c), (n, pixels, c), (c,), (c,)))
        _, saved = norm_cuda.group_norm_forward(source.device, x, gamma, beta, groups, eps=EPS, silu=True, rung=1)
        return {"x": x, "g": g, "gamma": gamma, "beta": beta, "saved": saved, "size": size, "groups": groups}

    def run(device: Any, x: Arrays, rung: int) -> Any:
        given = (x["x"], x["gamma"], x["beta"])
        settings: dict[str, Any] = {"silu": True, "rung": rung}
        if backward:
            return norm_cuda.group_norm_backward(device, x["g"], *given, x["saved"], groups, **settings)
        return norm_cuda.group_norm_forward(device, *given, groups, eps=EPS, **settings)

    def check(x: Arrays, result: Any, rung: int) -> Checks:
        for group in sorted({0, groups - 1}):
            part = slice(group * (c // groups), (group + 1) * (c // groups))
            arrays = (take(x["g"], ..., part), take(x["x"], ..., part), take(x["gamma"], part), take(x["beta"], part))
            y, dx, allowed, allowed_dx = norm_expected(*arrays, 1, True)
            want, most = (dx, allowed_dx) if backward else (y, allowed)
            yield Expected("dx" if backward else "y", take(result[0], ..., part), want, most)
            if backward:
                _, dgamma, dbeta = norm.reference.group_norm_backward(*arrays, 1, EPS, True)
                sizes = norm.reference.group_norm_backward(np.abs(arrays[0]), *arrays[1:], 1, EPS, False)
                most = bound(n * pixels, 8 * (sizes[2] + np.abs(arrays[3]) * sizes[2]), np.float32)
                yield Expected("dgamma", take(result[1], part), dgamma, most * (1 + np.abs(arrays[2])))
                yield Expected("dbeta", take(result[2], part), dbeta, most)

    elements = n * pixels * c
    what = "gradients" if backward else "forward"
    name = f"group norm + SiLU {c} at {size}x{size}, n {n}, {groups} groups, {what}"
    work = _numbers(30 * elements if backward else 12 * elements, (3 if backward else 2) * elements)
    theirs = peers.GROUP_NORM_GRAD if backward else peers.GROUP_NORM
    return Problem("norm-group", name, *work, norm_cuda.RUNGS, make, run, check, theirs, goal)


def layer_norm(rows: int, c: int, backward: bool, goal: float | None = None) -> Problem:
    """Layer norm, or its gradients."""

    def make(source: Source) -> Arrays:
        x, g, gamma, beta = (source.normal(*s) for s in ((rows, c), (rows, c), (c,), (c,)))
        _, saved = norm_cuda.layer_norm_forward(source.device, x, gamma, beta, eps=EPS)
        return {"x": x, "g": g, "gamma": gamma, "beta": beta, "saved": saved}

    def run(device: Any, x: Arrays, rung: int) -> Any:
        if backward:
            return norm_cuda.layer_norm_backward(device, x["g"], x["x"], x["gamma"], x["saved"])
        return norm_cuda.layer_norm_forward(device, x["x"], x["gamma"], x["beta"], eps=EPS)

    def check(x: Arrays, result: Any, rung: int) -> Checks:
        i = some(rows)
        g, z, gamma, beta = take(x["g"], i), take(x["x"], i), take(x["gamma"]), take(x["beta"])
        y, dx, allowed, allowed_dx = (
            a.reshape(len(i), c) for a in norm_expected(g[:, None], z[:, None], gamma, beta, 1, False)
        )
        want, most = (dx, allowed_dx) if backward else (y, allowed)
        yield Expected("dx" if backward else "y", take(result[0], i), want, most)
        if backward:
            g, z = take(x["g"]), take(x["x"])
            _, dgamma, dbeta = norm.reference.layer_norm_backward(g, z, gamma, EPS)
            r = (z.var(axis=1, keepdims=True) + EPS) ** -0.5
            sizes = np.abs(g) * (np.abs(z) * r + np.abs(z.mean(axis=1, keepdims=True)) * r + 1)
            yield Expected("dgamma", take(result[1]), dgamma, bound(rows + c, sizes.sum(axis=0), np.float32))
            yield Expected("dbeta", take(result[2]), dbeta, bound(rows, np.abs(g).sum(axis=0), np.float32))

    what = "gradients" if backward else "forward"
    elements = rows * c
    work = _numbers(20 * elements if backward else 8 * elements, (3 if backward else 2) * elements)
    theirs = peers.LAYER_NORM_GRAD if backward else peers.LAYER_NORM
    rungs = {1: "layer_norm.cu"}
    return Problem("norm-layer", f"layer norm {rows} x {c}, {what}", *work, rungs, make, run, check, theirs, goal)


def cross_entropy(rows: int, classes: int, goal: float | None = None) -> Problem:
    """The loss of each row and the gradient of their weighted sum."""

    def make(source: Source) -> Arrays:
        return {
            "x": source.normal(rows, classes),
            "targets": source.below(classes, rows).astype(np.int64),
            "g": source.normal(rows),
        }

    def run(device: Any, x: Arrays, rung: int) -> Any:
        return cross_entropy_cuda.loss_and_gradient(device, x["g"], x["x"], x["targets"], rung=rung)

    def check(x: Arrays, result: Any, rung: int) -> Checks:
        i = some(rows)
        g, z, targets = take(x["g"], i), take(x["x"], i), take(x["targets"], i).astype(np.int64)
        depth = float(z.max() - z.min()) + 3
        want = cross_entropy_reference.cross_entropy(z, targets)
        yield Expected("loss", take(result[0], i), want, bound(2 * classes, depth + np.log(classes), np.float32))
        want = cross_entropy_reference.cross_entropy_backward(g, z, targets)
        most = bound(2 * classes, 2 * depth * np.abs(g[:, None]), np.float32)
        yield Expected("dlogits", take(result[1], i), want, most)

    elements = rows * classes
    name, rungs = f"{rows} x {classes}, with gradient", cross_entropy_cuda.RUNGS
    return Problem(
        "cross_entropy", name, *_numbers(8 * elements, 2 * elements), rungs, make, run, check, peers.CROSS_ENTROPY, goal
    )


def adam_step(elements: int, goal: float | None = None) -> Problem:
    """One step over a flat buffer."""
    settings: dict[str, Any] = {"step": 10, "lr": 1e-4, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.01}

    def make(source: Source) -> Arrays:
        moments = {"m": source.zeros(elements), "v": source.zeros(elements)}
        return {"p": source.normal(elements), "g": source.normal(elements), **moments, "device": source.device}

    def run(device: Any, x: Arrays, rung: int) -> Any:
        adam_cuda.adam_step(device, x["p"], x["g"], x["m"], x["v"], **settings)

    def check(x: Arrays, result: Any, rung: int) -> Checks:
        """What a further step makes of these numbers."""
        i = some(elements, 1000)
        before = [take(x[name], i) for name in "pgmv"]
        run(x["device"], x, rung)
        want = [a.copy() for a in before]
        adam.reference.adam_step(want[0], want[1], want[2], want[3], **settings)
        for k, name in ((0, "p"), (2, "m"), (3, "v")):
            most = bound(16, np.abs(want[k]) + np.abs(before[k]) + np.abs(before[1]) ** 2 + 1e-3, np.float32)
            yield Expected(name, take(x[name], i), want[k], most)

    work = _numbers(12 * elements, 7 * elements)
    return Problem("adam", f"{elements} parameters", *work, adam_cuda.RUNGS, make, run, check, peers.ADAM, goal)


def embedding(count: int, rows: int, d: int) -> Problem:
    """The gradient of a table of which ``count`` rows were looked up."""

    def make(source: Source) -> Arrays:
        return {"g": source.normal(count, d), "indices": source.below(rows, count), "rows": rows}

    def run(device: Any, x: Arrays, rung: int) -> Any:
        return embedding_cuda.scatter_add(device, x["g"], x["indices"], rows, rung=rung)

    def check(x: Arrays, dtable: Any, rung: int) -> Checks:
        indices = take(x["indices"]).astype(np.int64)
        for row in some(rows, 6):
            g = take(x["g"], np.flatnonzero(indices == row))
            yield Expected(
                f"row {row}", take(dtable, int(row)), g.sum(axis=0), bound(len(g), np.abs(g).sum(axis=0), np.float32)
            )

    work = _numbers(count * d, count * d + rows * d)
    name, rungs = f"gradient of a table {rows} x {d}, {count} looked up", embedding_cuda.RUNGS
    return Problem("embedding", name, *work, rungs, make, run, check, peers.EMBEDDING)


def codebook(n: int, codes: int, d: int, goal: float | None = None) -> Problem:
    """The codebook's moving average."""

    def make(source: Source) -> Arrays:
        return {
            "N": source.put(np.linspace(0.5, 40, codes).astype(np.float32)),
            "m": source.normal(codes, d),
            "e": source.normal(codes, d),
            "z": source.normal(n, d),
            "codes": source.below(codes, n),
        }

    def run(device: Any, x: Arrays, rung: int) -> Any:
        return codebook_cuda.codebook_ema(device, x["N"], x["m"], x["e"], x["z"], x["codes"], 0.99)

    def check(x: Arrays, result: Any, rung: int) -> Checks:
        chosen = take(x["codes"]).astype(np.int64)
        for code in some(codes, 6):
            at = int(code)
            N, m, e = (take(x[name], slice(at, at + 1)) for name in "Nme")
            z = take(x["z"], np.flatnonzero(chosen == at))
            zero = np.zeros(len(z), np.int64)
            want = codebook_reference.codebook_ema(N, m, e, z, zero, 0.99)
            size = codebook_reference.codebook_ema(N, np.abs(m), np.abs(e), np.abs(z), zero, 0.99)
            for name, got, w, s in zip("Nme", result, want, size):
                yield Expected(
                    f"{name} of code {at}", take(got, slice(at, at + 1)), w, bound(2 * len(z) + 8, s, np.float32)
                )

    work = _numbers(n * d, n * d + 4 * codes * d)
    name, rungs = f"moving average of {codes} codes, {n} vectors, d {d}", codebook_cuda.RUNGS
    return Problem("codebook", name, *work, rungs, make, run, check, peers.CODEBOOK, goal)


def gather(m: int, codes: int, d: int) -> Problem:
    """The vectors of the chosen codes, the squared errors, and the codes' usage."""

    def make(source: Source) -> Arrays:
        return {
            "z": source.normal(m, d),
            "codebook": source.normal(codes, d),
            "indices": source.below(codes, m).astype(np.int64),
        }

    def run(device: Any, x: Arrays, rung: int) -> Any:
        return quantize_cuda.gather(device, x["z"], x["codebook"], x["indices"])

    def check(x: Arrays, result: Any, rung: int) -> Checks:
        rows, chosen, codebook = some(m), take(x["indices"]).astype(np.int64), take(x["codebook"])
        e, errors, _ = quantize_reference.gather(np.float64(take(x["z"], rows)), codebook, chosen[rows])
        yield Expected("e", take(result[0], rows), e)
        yield Expected("errors", take(result[1], rows), errors, bound(d + 2, errors, np.float32))
        yield Expected("counts", take(result[2]), np.bincount(chosen, minlength=codes))

    work = _numbers(3 * m * d, 2 * m * d + codes * d + 3 * m + 2 * codes)
    name = f"codes gathered, {m} of {codes}, d {d}"
    return Problem("quantize-gather", name, *work, {1: quantize_cuda.GATHER}, make, run, check, peers.GATHER)


def ddim_step(n: int, per_sample: int, noise: bool) -> Problem:
    """One guided step of a sampler; with noise it is drawn inside."""
    plan = sampler_step.plan(0.3, 0.7, eta=1.0 if noise else 0.0)

    def make(source: Source) -> Arrays:
        x, c, u = (source.normal(n, per_sample) for _ in range(3))
        scales = source.put(np.linspace(1, 7.5, n).astype(np.float32))
        return {"x": x, "c": c, "u": u, "scales": scales, "plan": plan}

    def run(device: Any, x: Arrays, rung: int) -> Any:
        stream = random.Stream(9, step=2) if noise else None
        return sampler_step_cuda.ddim_step(device, x["x"], x["c"], x["u"], x["scales"], plan, clip=1.0, noise=stream)

    def check(x: Arrays, result: Any, rung: int) -> Checks:
        for sample in sorted({0, n - 1}):
            part = slice(sample, sample + 1)
            z, c, u, scales = take(x["x"], part), take(x["c"], part), take(x["u"], part), take(x["scales"], part)
            drawn = random.normal((1, per_sample), seed=9, step=2, first=sample).astype(np.float64) if noise else 0.0
            want = sampler_step.reference.step(z, c, u, scales, plan, 1.0, drawn)
            size = 4 * (np.abs(z) + scales * (np.abs(c) + np.abs(u)) + np.abs(u) + np.abs(drawn)) + 1
            for name, got, w in zip(("x_u", "x_0"), result, want):
                yield Expected(f"{name} of sample {sample}", take(got, part), w, bound(12, size, np.float32))

    elements = n * per_sample
    name = f"DDIM, guided, {n} x {per_sample}{', with noise' if noise else ''}"
    work, rungs = _numbers(16 * elements, 5 * elements), sampler_step_cuda.RUNGS
    return Problem("sampler_step", name, *work, rungs, make, run, check, peers.SAMPLER_STEP)


def normals(n: int, per_sample: int) -> Problem:
    """Normal numbers from the random stream: the bits of the host's."""

    def make(source: Source) -> Arrays:
        return {"shape": (n, per_sample)}

    def run(device: Any, x: Arrays, rung: int) -> Any:
        return random_cuda.normal(device, (n, per_sample), seed=2**40 + 7, step=5)

    def check(x: Arrays, y: Any, rung: int) -> Checks:
        for sample in sorted({0, n - 1}):
            want = random.normal((1, per_sample), seed=2**40 + 7, step=5, first=sample)
            yield Expected(f"sample {sample}", take(y, slice(sample, sample + 1)), want)

    elements = n * per_sample
    work, rungs = _numbers(60 * elements, elements), random_cuda.RUNGS
    return Problem("random", f"normals {n} x {per_sample}", *work, rungs, make, run, check, peers.RANDOM)


def gelu(elements: int, backward: bool) -> Problem:
    """The GELU in its tanh form, or its gradient."""

    def make(source: Source) -> Arrays:
        return {"x": source.normal(elements), "g": source.normal(elements)}

    def run(device: Any, x: Arrays, rung: int) -> Any:
        return activation_cuda.gelu_grad(device, x["g"], x["x"]) if backward else activation_cuda.gelu(device, x["x"])

    def check(x: Arrays, y: Any, rung: int) -> Checks:
        i = some(elements, 1000)
        z, g = take(x["x"], i), take(x["g"], i) if backward else 1.0
        want = activation_reference.gelu_grad(g, z) if backward else activation_reference.gelu(z)
        yield Expected("y", take(y, i), want, bound(10, np.abs(g) * (2 + 2 * np.abs(z)), np.float32))

    work = _numbers(20 * elements, (3 if backward else 2) * elements)
    name, theirs = f"gelu, {elements} elements, {'gradient' if backward else 'forward'}", peers.GELU
    return Problem(
        "activation", name, *work, activation_cuda.RUNGS, make, run, check, peers.GELU_GRAD if backward else theirs
    )


# --- eight bits -------------------------------------------------------------------------------------------------------


def quantize_numbers(m: int, n: int, form: str) -> Problem:
    """Codes and a scale for each column."""

    def make(source: Source) -> Arrays:
        return {"x": source.normal(m, n)}

    def run(device: Any, x: Arrays, rung: int) -> Any:
        return eight_bit_cuda.quantize(device, x["x"], axis=1, form=form)

    def check(x: Arrays, result: Any, rung: int) -> Checks:
        columns = some(n)
        part = np.ascontiguousarray(take(x["x"], slice(None), columns), np.float32)
        codes, scale = eight_bit.quantize(part, axis=1, form=form)
        yield Expected("codes", take(result[0], slice(None), columns), codes)
        yield Expected("scale", take(result[1], columns), scale)

    moved, rungs = 5 * m * n + 4 * n, {1: "quantize.cu"}
    return Problem("eight_bit-codes", f"to {form}, {m} x {n}", "float32", 4 * m * n, moved, rungs, make, run, check)


def linear_weight_only(m: int, k: int, n: int) -> Problem:
    """x (m, k) times int8 weights (k, n) with a scale for each column."""

    def make(source: Source) -> Arrays:
        codes = (source.below(255, k, n) - source.xp.int32(127)).astype(np.int8)
        return {"x": source.normal(m, k), "codes": codes, "scale": source.normal(n)}

    def run(device: Any, x: Arrays, rung: int) -> Any:
        return eight_bit_cuda.linear_weight_only(device, x["x"], x["codes"], x["scale"], rung=rung)

    def check(x: Arrays, y: Any, rung: int) -> Checks:
        rows, columns = some(m), some(n)
        a, codes, scale = take(x["x"], rows), take(x["codes"], slice(None), columns), take(x["scale"], columns)
        most = bound(k + 1, (np.abs(a) @ np.abs(codes)) * np.abs(scale), np.float32)
        yield Expected("y", take(y, rows)[:, columns], (a @ codes) * scale, most)

    moved, name = 4 * m * k + k * n + 4 * m * n, f"int8 weights, {m} x {k} x {n}"
    rungs = eight_bit_cuda.WEIGHT_ONLY_RUNGS
    return Problem("eight_bit", name, "float32", 2 * m * k * n, moved, rungs, make, run, check, peers.WEIGHT_ONLY)


def linear_int8(m: int, k: int, n: int) -> Problem:
    """int8 times int8, with scales: exact."""

    def make(source: Source) -> Arrays:
        p, q = ((source.below(255, *s) - source.xp.int32(127)).astype(np.int8) for s in ((m, k), (k, n)))
        return {"p": p, "q": q, "t": source.normal(m), "scale": source.normal(n)}

    def run(device: Any, x: Arrays, rung: int) -> Any:
        return eight_bit_cuda.linear_int8(device, x["p"], x["t"], x["q"], x["scale"], rung=rung)

    def check(x: Arrays, y: Any, rung: int) -> Checks:
        rows, columns = some(m), some(n)
        p, q = take(x["p"], rows).astype(np.int64), take(x["q"], slice(None), columns).astype(np.int64)
        t, scale = (np.float32(a) for a in (take(x["t"], rows), take(x["scale"], columns)))
        yield Expected("y", take(y, rows)[:, columns], eight_bit.reference.scaled(p @ q, t, scale, None))

    moved = m * k + k * n + 4 * m * n
    rungs = eight_bit_cuda.INT8_RUNGS
    return Problem(
        "eight_bit", f"int8 x int8, {m} x {k} x {n}", "int8", 2 * m * k * n, moved, rungs, make, run, check, peers.INT8
    )


def linear_fp8(m: int, k: int, n: int, goal: float | None = None) -> Problem:
    """e4m3 times e4m3, with scales; for rung 5 the weights lie as its tensor cores take them, as the peer's do."""

    def make(source: Source) -> Arrays:
        device = source.device
        p, q = (eight_bit_cuda.quantize(device, source.normal(*s), axis=1, form="e4m3")[0] for s in ((m, k), (k, n)))
        t, scale = (source.put(np.full(size, 1 / 64, np.float32)) for size in (m, n))  # the peer has one for all
        return {"p": p, "q": q, "turned": eight_bit_cuda.turned(device, q, k), "t": t, "scale": scale}

    def run(device: Any, x: Arrays, rung: int) -> Any:
        q = x["turned"].T if rung == max(rungs) else x["q"]
        return eight_bit_cuda.linear_fp8(device, x["p"], x["t"], q, x["scale"], rung=rung)

    def check(x: Arrays, y: Any, rung: int) -> Checks:
        rows, columns = some(m), some(n)
        codes = take(x["p"], rows), take(x["q"], slice(None), columns)
        p, q = (eight_bit.decode(a.astype(np.uint8), "e4m3").astype(np.float64) for a in codes)
        allowed = bound(k + 2, np.abs(p) @ np.abs(q), np.float32)
        if rung == max(rungs):  # in the emulator's model, a sixth of this is the usual error (rms)
            allowed = allowed + 6 * 2.0**-13 * np.sqrt(p**2 @ q**2)
        yield Expected("y", take(y, rows)[:, columns], p @ q / 64**2, allowed / 64**2)

    moved, rungs = m * k + k * n + 4 * m * n, eight_bit_cuda.FP8_RUNGS
    name, work = f"fp8 x fp8, {m} x {k} x {n}", (2 * m * k * n, moved)
    return Problem("eight_bit", name, "fp8", *work, rungs, make, run, check, peers.FP8, goal)


def problems() -> list[Problem]:
    """The whole list."""
    return [
        codebook(65536, 8192, 256, goal=0.4),
        gather(65536, 8192, 256),
        group_norm(16, 64, 320, 32, False, goal=0.5),
        group_norm(16, 64, 320, 32, True),
        group_norm(64, 32, 128, 32, False, goal=0.5),
        layer_norm(16384, 1024, False, goal=1.0),
        layer_norm(16384, 1024, True, goal=1.0),
        cross_entropy(16384, 50257),
        cross_entropy(4096, 128_000),
        adam_step(100_000_000, goal=1.0),
        embedding(32768, 50257, 768),
        ddim_step(64, 3 * 256 * 256, False),
        ddim_step(64, 3 * 256 * 256, True),
        normals(64, 3 * 256 * 256),
        gelu(16384 * 4096, False),
        gelu(16384 * 4096, True),
        *(quantize_numbers(4096, 4096, form) for form in eight_bit.FORMS),
        linear_weight_only(1, 4096, 4096),
        linear_weight_only(4096, 4096, 4096),
        linear_int8(4096, 4096, 4096),
        linear_fp8(8192, 8192, 8192, goal=1.05),
    ]  # fmt: skip
