r"""Optimisers over a module's one flat parameter buffer, sorted by complexity; clipping, learning rates, averages.

A `Module` keeps its parameters in ``module.flat`` and their gradients in ``module.flat_grad``, so a step is a few
passes over two long arrays, and an optimiser's memory is one array of the same length for each moment. A module that
was not flattened is refused with a ValueError.
"""

import math
from typing import Any

import numpy as np
from jaxtyping import Float

from kernels.adam import adam_step
from kernels.backend import Array, array_module, is_cuda
from kernels.matmul import matmul
from kernels.precision import precision
from kernels.threads import map_tiles


def _check_betas(betas: tuple[float, float]) -> None:
    for name, beta in zip(("beta1", "beta2"), betas, strict=True):
        if not 0.0 <= beta < 1.0:
            raise ValueError(f"{name} must be in [0, 1), got {beta}")


def _check_decay(weight_decay: float) -> None:
    if not weight_decay >= 0:
        raise ValueError(f"weight_decay must be at least 0, got {weight_decay}")


def _check_flat(module: Any) -> None:
    if module.flat is None:
        raise ValueError(f"an optimiser needs its module flat: call {type(module).__name__}.flatten() first")


class SGD:
    r"""$u \leftarrow \mu u + g, \quad p \leftarrow p - \eta\, u$ (Polyak 1964); $\mu = 0$ is plain descent."""

    def __init__(self, module: Any, *, momentum: float = 0.0):
        if not 0.0 <= momentum < 1.0:
            raise ValueError(f"momentum must be in [0, 1), got {momentum}")
        _check_flat(module)
        self.module, self.momentum = module, momentum
        self.state = {"u": array_module(module.flat).zeros_like(module.flat)} if momentum else {}

    def step(self, step: int, lr: float) -> None:
        """Move the parameters by the gradients. ``step`` counts from 1; this optimiser does not use it."""
        update = self.module.flat_grad
        if self.momentum:
            update = self.state["u"]
            update *= self.momentum
            update += self.module.flat_grad
        self.module.flat -= lr * update


class RMSProp:
    r"""$v \leftarrow \alpha v + (1-\alpha) g^2, \quad p \leftarrow p - \eta\, g / (\sqrt v + \epsilon)$ (Tieleman &
    Hinton 2012, lecture 6.5).
    """

    def __init__(self, module: Any, *, alpha: float = 0.99, eps: float = 1e-8):
        if not 0.0 <= alpha < 1.0:
            raise ValueError(f"alpha must be in [0, 1), got {alpha}")
        _check_flat(module)
        self.module, self.alpha, self.eps = module, alpha, eps
        self.state = {"v": array_module(module.flat).zeros_like(module.flat)}

    def step(self, step: int, lr: float) -> None:
        """Move the parameters by the gradients. ``step`` counts from 1; this optimiser does not use it."""
        g, v = self.module.flat_grad, self.state["v"]
        v *= self.alpha
        v += (1.0 - self.alpha) * g * g
        self.module.flat -= lr * g / (array_module(v).sqrt(v) + self.eps)


class Adam:
    r"""Moving averages of the gradient and of its square, both corrected for their start at 0.

    $m \leftarrow \beta_1 m + (1-\beta_1) g, \quad v \leftarrow \beta_2 v + (1-\beta_2) g^2, \quad
    p \leftarrow p - \eta\, \frac{m / (1-\beta_1^k)}{\sqrt{v / (1-\beta_2^k)} + \epsilon}$ at step $k = 1, 2, \dots$
    (Kingma & Ba 2015, arXiv 1412.6980, Algorithm 1).
    """

    weight_decay = 0.0

    def __init__(self, module: Any, *, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8):
        _check_betas(betas)
        _check_flat(module)
        self.module, self.betas, self.eps = module, betas, eps
        xp = array_module(module.flat)
        self.state = {"m": xp.zeros_like(module.flat), "v": xp.zeros_like(module.flat)}

    def step(self, step: int, lr: float) -> None:
        """Move the parameters by the gradients. ``step`` counts from 1."""
        beta1, beta2 = self.betas
        adam_step(
            self.module.flat,
            self.module.flat_grad,
            self.state["m"],
            self.state["v"],
            step=step,
            lr=lr,
            beta1=beta1,
            beta2=beta2,
            eps=self.eps,
            weight_decay=self.weight_decay,
        )


class AdamW(Adam):
    r"""Adam with decoupled weight decay, outside the gradient: $p \leftarrow p - \eta \lambda p - \dots$

    The decay then does not pass through $v$ (Loshchilov & Hutter 2019, arXiv 1711.05101, Algorithm 2, with the
    schedule multiplier folded into $\eta$). All parameters decay, biases and gains too.
    """

    def __init__(
        self,
        module: Any,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ):
        _check_decay(weight_decay)
        super().__init__(module, betas=betas, eps=eps)
        self.weight_decay = weight_decay


def orthogonalise(g: Float[Array, "*batch a b"], rounds: int = 5) -> Float[Array, "*batch a b"]:
    r"""Nearly $U V^\top$ of $g = U \Sigma V^\top$, without a decomposition:
    $X \leftarrow a X + (b\, X X^\top + c\, (X X^\top)^2) X$ from $X = g / \|g\|$.

    Each round maps every singular value by $\sigma \mapsto a \sigma + b \sigma^3 + c \sigma^5$ and leaves U and V
    alone. The coefficients make small ones grow fast and end between about 0.7 and 1.2, which serves as well as 1
    (Jordan et al. 2024).
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    product = matmul if is_cuda(g) else np.matmul  # ours on a GPU; NumPy's own knows that x x^T is symmetric
    tall = g.shape[-2] > g.shape[-1]
    norm = array_module(g).sqrt((g * g).reshape(*g.shape[:-2], -1).sum(-1))[..., None, None]
    x = (g.swapaxes(-1, -2) if tall else g) / (norm + 1e-7)
    with precision("float32"):  # whatever the model's products are
        for _ in range(rounds):
            square = product(x, x.swapaxes(-1, -2))
            x = a * x + product(b * square + c * product(square, square), x)
    return x.swapaxes(-1, -2) if tall else x


class Muon:
    r"""Momentum, orthogonalised: all directions of a weight matrix move alike. AdamW for all but hidden matrices.

    $M \leftarrow \mu M + G, \quad W \leftarrow W - \eta\, (0.2 \sqrt{\max(a, b)}\; \mathrm{orthogonalise}(G + \mu M) + \lambda W)$
    for a weight called ``w`` of shape (..., b), taken as a matrix (a, b) (Jordan et al. 2024,
    kellerjordan.github.io/posts/muon). The factor gives the update the size of AdamW's, so one learning rate serves
    both (Liu et al. 2025, arXiv 2502.16982, eq. 4). Weights whose names begin with one of ``apart`` (first and last
    layers) are left to AdamW as well.

    On a GPU, where starting a kernel takes longer than running it, all matrices of one shape move together, and so
    does the rest.
    """

    def __init__(
        self,
        module: Any,
        *,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 0.0,
        apart: tuple[str, ...] = (),
    ):
        if not 0.0 <= momentum < 1.0:
            raise ValueError(f"momentum must be in [0, 1), got {momentum}")
        _check_betas(betas)
        _check_decay(weight_decay)
        _check_flat(module)
        self.module, self.momentum, self.betas, self.weight_decay = module, momentum, betas, weight_decay
        matrices: list[tuple[Any, tuple[int, int]]] = []  # where each is in the flat buffer, and its shape (a, b)
        rest: list[Any] = []  # what lies between them
        start = end = 0
        for name, p in module.named_parameters().items():
            here = slice(end, end := end + p.size)
            if p.ndim >= 2 and name.rpartition(".")[2] == "w" and not name.startswith(apart or ("\0",)):
                matrices.append((here, (p.size // p.shape[-1], p.shape[-1])))
                rest.append(slice(start, here.start))
                start = end
        rest = [between for between in (*rest, slice(start, end)) if between.start < between.stop]
        xp = array_module(module.flat)
        if is_cuda(module.flat):  # indices in place of slices: (n, a, b) of the n matrices of a shape, a <= b; (n,)
            alike: dict[tuple[int, int], list[Any]] = {}
            for at, (a, b) in matrices:
                places = xp.arange(at.start, at.stop).reshape(a, b)
                wide = places if a <= b else places.T
                alike.setdefault(wide.shape, []).append(wide)
            matrices = [(xp.stack(wide), shape) for shape, wide in alike.items()]
            rest = [xp.concatenate([xp.arange(at.start, at.stop) for at in rest])] if rest else []
        self.matrices, self.rest = matrices, rest
        self.state = {"m": xp.zeros_like(module.flat), "v": xp.zeros_like(module.flat)}

    def step(self, step: int, lr: float) -> None:
        """Move the parameters by the gradients. ``step`` counts from 1."""
        flat, grad, m, v = self.module.flat, self.module.flat_grad, self.state["m"], self.state["v"]
        beta1, beta2 = self.betas
        for at in self.rest:
            part = flat[at], grad[at], m[at], v[at]  # views on a CPU, copies on a GPU
            adam_step(*part, step=step, lr=lr, beta1=beta1, beta2=beta2, weight_decay=self.weight_decay)
            flat[at], _, m[at], v[at] = part

        def move(matrix: tuple[Any, tuple[int, int]]) -> None:
            at, shape = matrix
            g = grad[at]
            m[at] = self.momentum * m[at] + g
            update = (g + self.momentum * m[at]).reshape(-1, *shape)
            size = 0.2 * max(shape) ** 0.5
            flat[at] = (1 - lr * self.weight_decay) * flat[at] - lr * size * orthogonalise(update).reshape(g.shape)

        if is_cuda(flat):
            for matrix in self.matrices:
                move(matrix)
        else:
            map_tiles(move, self.matrices)


OPTIMISERS = ("adamw", "adam", "muon", "rmsprop", "sgd")
DECAYING = ("adamw", "muon")  # those that support weight decay


def check_settings(stage: Any) -> None:
    """Raise ValueError, which names the stage, where its optimiser or its schedule could not be made, or would ignore
    its ``weight_decay``.
    """
    for name, choices in (("optimiser", OPTIMISERS), ("schedule", SCHEDULES)):
        if (value := getattr(stage, name)) not in choices:
            raise ValueError(f"{name} of the stage '{stage.name}' must be one of {', '.join(choices)}, got {value!r}")
    if len(stage.betas) != 2 or not all(0.0 <= beta < 1.0 for beta in stage.betas):
        raise ValueError(f"betas of the stage '{stage.name}' must be two numbers in [0, 1), got {stage.betas}")
    if isinstance(stage.apart, str):
        raise ValueError(f"apart of the stage '{stage.name}' must be a tuple of words, got the word {stage.apart!r}")
    if not 0.0 <= stage.flat < 1.0:
        raise ValueError(f"flat of the stage '{stage.name}' must be in [0, 1), got {stage.flat}")
    if stage.weight_decay and stage.optimiser not in DECAYING:
        raise ValueError(
            f"weight_decay of the stage '{stage.name}' must be 0, got {stage.weight_decay}: its optimiser "
            f"'{stage.optimiser}' has none ({' and '.join(DECAYING)} have)"
        )


def make_optimiser(stage: Any, module: Any) -> SGD | RMSProp | Adam | Muon:
    """The optimiser that a stage asks for, one of ``OPTIMISERS``; "rmsprop" takes alpha from ``betas[1]``, "sgd" its
    momentum from ``betas[0]``.

    Raises ValueError for another name, and for values that the chosen one uses and that are out of range.
    """
    if stage.optimiser == "adamw":
        return AdamW(module, betas=stage.betas, weight_decay=stage.weight_decay)
    if stage.optimiser == "adam":
        return Adam(module, betas=stage.betas)
    if stage.optimiser == "muon":
        return Muon(module, betas=stage.betas, weight_decay=stage.weight_decay, apart=tuple(stage.apart))
    if stage.optimiser == "sgd":
        return SGD(module, momentum=stage.betas[0])
    if stage.optimiser == "rmsprop":
        return RMSProp(module, alpha=stage.betas[1])
    raise ValueError(f"optimiser must be 'adamw', 'adam', 'muon', 'rmsprop' or 'sgd', got {stage.optimiser!r}")


def global_norm(g: Float[Array, " n"]) -> float:
    r"""$\|g\| = \sqrt{\sum_i g_i^2}$ over all parameters at once; NaN or infinity if any element is."""
    with np.errstate(over="ignore"):
        square = float((g * g).sum() if is_cuda(g) else np.dot(g, g))
    if square in (0, math.inf):  # the squares may be beyond float32 where the norm is not
        most = float(abs(g).max(initial=0))
        if 0 < most < math.inf:
            return most * global_norm(g / most)
    return math.sqrt(square)


def clip_by_global_norm(g: Float[Array, " n"], most: float) -> float:
    r"""$g \leftarrow g \cdot \min(1, c / \|g\|)$ in place, $c$ = ``most`` (0: leave it). Returns the norm before.

    The direction stays (Pascanu, Mikolov & Bengio 2013, arXiv 1211.5063, Algorithm 1). A norm that is not finite
    leaves ``g`` as it is: the caller stops.
    """
    if most < 0:
        raise ValueError(f"the clipping norm must be at least 0, got {most}")
    norm = global_norm(g)
    if most and norm > most and math.isfinite(norm):
        g *= most / norm
    return norm


SCHEDULES = ("constant", "linear", "cosine", "flat-then-linear", "flat-then-cosine")


def learning_rate(
    step: int, *, steps: int, lr: float, warmup: int = 0, schedule: str = "constant", flat: float = 0.5
) -> float:
    r"""$\eta_k = \eta \cdot \min(1, (k+1)/w) \cdot s(u)$ for step $k = 0 \dots K-1$, with $u = (k-w)/(K-w)$ after warm-up.

    $s(u)$ is 1 (``constant``), $1-u$ (``linear``) or $(1+\cos \pi u)/2$ (``cosine``, Loshchilov & Hutter 2017, arXiv
    1608.03983, eq. 5). The ``flat-then-...`` schedules stay at 1 until $u$ reaches the share ``flat`` and fall over the
    rest. During warm-up $s = 1$. Since $u < 1$, no step has a rate of 0.
    """
    if schedule not in SCHEDULES:
        raise ValueError(f"schedule must be one of {', '.join(SCHEDULES)}, got {schedule!r}")
    if not 0.0 <= flat < 1.0:
        raise ValueError(f"flat must be in [0, 1), got {flat}")
    if step < warmup:
        return lr * (step + 1) / warmup
    u = (step - warmup) / max(1, steps - warmup)
    if schedule.startswith("flat-then-"):
        u = max(0.0, (u - flat) / (1.0 - flat))
    if schedule.endswith("linear"):
        return lr * (1.0 - u)
    if schedule.endswith("cosine"):
        return lr * 0.5 * (1.0 + math.cos(math.pi * u))
    return lr


def ema_decay(step: int, decay: float) -> float:
    r"""$d_n = \min(d, (1+n)/(10+n))$ with $n$ updates done before: a young average forgets its random start sooner."""
    return min(decay, (1.0 + step) / (10.0 + step))


def ema_step(average: Float[Array, " n"], p: Float[Array, " n"], *, step: int, decay: float) -> None:
    r"""$\bar p \leftarrow d_n \bar p + (1 - d_n) p$ in place; ``step`` $= n$ counts from 0."""
    d = ema_decay(step, decay)
    average *= d
    average += (1.0 - d) * p
