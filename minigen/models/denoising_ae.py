r"""The denoising autoencoder. Vincent, Larochelle, Bengio & Manzagol 2008 (ICML); Vincent 2011, Neural Computation 23(7).

Noise is added to a picture and a network learns to remove it. As it cannot know which clean picture the noisy one came
from, the best it can do is to return the mean of the candidates, and from the noisy picture that mean lies in the
direction in which pictures become more likely: the residual is $\sigma^2$ times the score of the noised data (Tweedie's
formula; Efron 2011, JASA 106; for autoencoders Alain & Bengio 2012, arXiv 1211.4246). A chain that follows the score
draws pictures.

| symbol | code | shape |
|---|---|---|
| $x$, $\tilde x = x + \sigma \epsilon$ | ``x``, ``x_noisy`` | (n, h, w, c), data in $[-1, 1]$ |
| $r(\tilde x)$ | ``denoiser(x_noisy)`` | like $x$ |
| $\sigma$ | ``sigma`` | one number |
| $p_\sigma = p * N(0, \sigma^2 I)$ | density of $\tilde x$ | |
| $\delta$ | ``step_size`` $\cdot\, \sigma^2$ | one number |

The papers' own numbers differ; the numbers here are this file's.

$$J = \mathbb E_{x, \epsilon}\, \tfrac1d \| x - r(x + \sigma \epsilon) \|^2 \qquad (1)$$
$$\mathbb E[x \mid \tilde x] = \tilde x + \sigma^2 \nabla \ln p_\sigma(\tilde x) \quad\Rightarrow\quad s(\tilde x) = \frac{r(\tilde x) - \tilde x}{\sigma^2} \qquad (2)$$
$$\tfrac{d}{\sigma^4} J = \mathbb E \big\| s(\tilde x) - \nabla_{\tilde x} \ln N(\tilde x; x, \sigma^2 I) \big\|^2 \qquad (3)$$
$$p = N(m, S): \quad r(\tilde x) = m + S (S + \sigma^2 I)^{-1} (\tilde x - m) \qquad (4)$$
$$p = \text{a finite set}: \quad r(\tilde x) = \textstyle\sum_i w_i x_i, \quad w = \operatorname{softmax}\big( -\| \tilde x - x_i \|^2 / 2 \sigma^2 \big) \qquad (5)$$
$$y' = y + \tfrac\delta2\, s(y) + \sqrt\delta\, \xi, \quad \xi \sim N(0, I) \qquad (6)$$

(3) is denoising score matching (Vincent 2011). (4) is also the best linear denoiser of any data with that mean and
covariance (the Wiener filter), and (5) the best of all if the data are just the training pictures. (6) is Langevin
dynamics: its states have density $p_\sigma$ for small $\delta$. They are noisy pictures, so one denoising step follows
(walk and jump, Saremi & Hyvärinen 2019, arXiv 1903.02334).

**What the samples look like.** One noise level serves two conflicting purposes. A large $\sigma$ merges the pictures
into one cloud, in which the walk mixes, but one jump from there lands on a mean of several pictures; a small one gives
sharp jumps and a walk that never leaves the basin it began in. The default is a compromise: soft digits, about six in
ten clear ones. The remedy is many levels, one after the other: `models/ddpm.py`.

You need: `nn` (linear layers). New here: the score that a denoiser contains, and the walk.

Details that matter, and the tests that guard them (tests/minigen/models/test_denoising_ae.py):
- the target is the clean picture, and the network sees the noisy one only;
- the residual is divided by $\sigma^2$, not by $\sigma$, and its sign is "towards the clean picture";
- the walk's noise is $\sqrt\delta$ where its drift is $\delta / 2$; half of either samples another density;
- no noise is added after the last denoising step;
- during the walk, $r$ is clipped to $[-1, 1]$, where every mean of pictures lies: far from all data a network's
  residual is arbitrary, and without the clip the walk diverges. The states themselves are not clipped.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import autograd as ag
from kernels.backend import array_module, to_numpy
from minigen.data import Dataset, Split, shift
from minigen.metrics.frechet import gaussian_fit
from minigen.nn import MLP, Module

from .system import Objective, Stage, System

TITLE = "Denoising autoencoder"
PAPER = "Vincent et al. 2008; Vincent 2011; Tweedie's formula: Efron 2011; Alain & Bengio 2012, arXiv 1211.4246"
EQUATION = "J = E‖x − r(x + σε)‖², (r(x̃) − x̃) / σ² = ∇ ln p_σ(x̃)"
PICTURES = {"denoising": "test pictures; the same with noise; the noise taken off"}


@dataclass(frozen=True)
class Config:
    """Settings of the run."""

    sigma: float = 0.5
    """Standard deviation of the noise, where black is -1 and white is 1."""
    hidden: tuple[int, ...] = (512, 512)
    """Widths of the network's hidden layers; with none at all it learns the best linear denoiser (eq. 4)."""
    shift: float = 0.3
    """Share of the training pictures that are moved by up to one pixel."""
    steps: int = 2000
    """Training steps."""
    batch_size: int = 128
    """Pictures per step."""
    lr: float = 2e-3
    """Peak learning rate of AdamW; falls along a cosine."""
    warmup: int = 100
    """Steps over which the learning rate rises; at most a tenth of all steps."""
    weight_decay: float = 0.01
    """Decoupled weight decay."""
    ema: float = 0.99
    """Decay of the averaged weights that denoise and draw."""
    sample_steps: int = 200
    """Steps of the walk when pictures are drawn."""


@dataclass(frozen=True)
class Sampling:
    """Settings of the walk."""

    step_size: float = 0.25
    """Step $\\delta$ of the walk in units of sigma^2: small is accurate and slow; from 4 on the walk diverges."""


class Denoiser(Module):
    r"""$r$: a perceptron over all pixels."""

    def __init__(self, shape: tuple[int, ...], hidden: tuple[int, ...], *, rng: Any):
        pixels = int(np.prod(shape))
        self.mlp = MLP(pixels, *hidden, pixels, rng=rng)

    def forward(self, x_noisy: Any) -> Any:
        """(n, h, w, c) -> (n, h, w, c)."""
        n, *shape = x_noisy.shape
        return ag.reshape(self.mlp(ag.reshape(x_noisy, (n, int(np.prod(shape))))), x_noisy.shape)


# --- losses, and their known optima -----------------------------------------------------------------------------------


def denoising_loss(x: Any, x_hat: Any) -> Any:
    r"""Eq. 1: $\| x - \hat x \|^2$ averaged over samples and pixels, a scalar."""
    d = x_hat - x
    return ag.mean(d * d)


def training_loss(denoiser: Callable[..., Any], x: Any, eps: Any, sigma: float) -> Any:
    """Eq. 1 for pictures ``x`` and standard normal ``eps`` of the same shape."""
    return denoising_loss(x, denoiser(x + sigma * eps))


def score(denoiser: Callable[..., Any], x_noisy: Any, sigma: float) -> Any:
    r"""Eq. 2: the denoiser's estimate of $\nabla \ln p_\sigma(\tilde x)$."""
    return (denoiser(x_noisy) - x_noisy) / sigma**2


def wiener(x_noisy: Any, mean: Any, cov: Any, sigma: float) -> Any:
    """Eq. 4 for rows (n, d): the best linear denoiser of data with this mean and covariance."""
    gain = np.linalg.solve(cov + sigma**2 * np.eye(len(cov)), cov)  # (S + sigma^2 I)^-1 S, its transpose is in eq. 4
    return mean + (x_noisy - mean) @ gain


def finite_set(x_noisy: Any, points: Any, sigma: float) -> Any:
    """Eq. 5 for rows (n, d): the best denoiser of data that are equally likely to be each of ``points`` (m, d)."""
    found = []
    for block in np.array_split(x_noisy, max(1, len(x_noisy) * len(points) >> 20)):  # some MB of distances at a time
        d2 = np.square(block).sum(1)[:, None] - 2 * block @ points.T + np.square(points).sum(1)
        w = np.exp((d2.min(axis=1, keepdims=True) - d2) / (2 * sigma**2))
        found.append(w / w.sum(axis=1, keepdims=True) @ points)
    return np.concatenate(found)


# --- sampling ---------------------------------------------------------------------------------------------------------


def langevin_step(y: Any, score: Any, delta: float, xi: Any) -> Any:
    """Eq. 6."""
    return y + delta / 2 * score + delta**0.5 * xi


def walk_and_jump(
    denoiser: Callable[..., Any],
    y: Any,
    sigma: float,
    steps: int,
    *,
    rng: Any,
    step_size: float = Sampling.step_size,
    callback: Any = None,
) -> Any:
    """``steps`` of eq. 6 from ``y``, then one denoising step.

    ``callback(t, y)`` is given the state before each step, t = steps..1, and the result of the jump, t = 0.

    Draws ``standard_normal(y.shape)`` once per step.
    """
    xp = array_module(y)
    for t in range(steps, 0, -1):
        if callback is not None:
            callback(t, y)
        xi = xp.asarray(rng.standard_normal(y.shape), y.dtype)
        y = langevin_step(y, score(denoiser, y, sigma), step_size * sigma**2, xi)
    y = denoiser(y)
    if callback is not None:
        callback(0, y)
    return y


def build(config: Config, dataset: Dataset, *, seed: int) -> System:
    """The network and what `minigen train`, `sample` and `tour` do with it.

    Raises ValueError for settings that do not fit the data.
    """
    if len(dataset.shape) != 3:
        raise ValueError(f"this model denoises pictures, and the data set '{dataset.name}' holds no pictures")
    if not 0 < config.sigma < np.inf:
        raise ValueError(f"sigma must be a finite number above 0, got {config.sigma}")
    if any(width < 1 for width in config.hidden):
        raise ValueError(f"hidden must hold widths of at least 1, got {config.hidden}")
    if not 0 <= config.shift <= 1:
        raise ValueError(f"shift must be a share in 0..1, got {config.shift}")
    if config.sample_steps < 1:
        raise ValueError(f"sample_steps must be at least 1, got {config.sample_steps}")
    h, w, c = dataset.shape
    sigma = config.sigma
    net = Denoiser((h, w, c), config.hidden, rng=np.random.default_rng(seed))

    def on_device(x: Any) -> Any:
        return array_module(net.mlp.layers[0].w.data).asarray(x, np.float32)

    def denoise(x_noisy: Any) -> Any:
        """The network on plain arrays, without a tape."""
        with ag.no_grad():
            return ag.raw(net(x_noisy))

    def loss(batch: Split, rng: Any, step: int) -> tuple[Any, dict[str, float]]:
        images = shift(batch.images, rng=rng, p=config.shift) if config.shift else batch.images
        x = on_device(dataset.scale(images))
        return training_loss(net, x, on_device(rng.standard_normal(x.shape)), sigma), {}

    def stages() -> list[Stage]:
        return [
            Stage(
                name="denoising_ae",
                objectives=[Objective("denoise", net, loss)],
                steps=config.steps,
                batch_size=config.batch_size,
                lr=config.lr,
                warmup=min(config.warmup, config.steps // 10),
                ema=config.ema,
                weight_decay=config.weight_decay,
                schedule="cosine",
            )
        ]

    def sample(
        n: int, *, rng: Any, steps: int | None = None, callback: Any = None, step_size: float = Sampling.step_size
    ) -> Any:
        """``n`` pictures in [-1, 1]: ``steps`` of the walk (``sample_steps`` if None) from white noise, and the jump."""
        steps = config.sample_steps if steps is None else steps
        if steps < 1:
            raise ValueError(f"steps must be at least 1, got {steps}")
        if not 0 < step_size < 4:
            raise ValueError(f"step_size must be above 0 and below 4 (where the walk falls apart), got {step_size}")
        start = on_device((1 + sigma**2) ** 0.5 * rng.standard_normal((n, h, w, c)))
        return walk_and_jump(
            lambda y: denoise(y).clip(-1, 1), start, sigma, steps, rng=rng, step_size=step_size, callback=callback
        )

    def figures(dataset: Dataset, *, rng: Any) -> dict[str, float]:
        """Error after denoising at most 512 test pictures, compared with denoisers in closed form."""
        x = dataset.scale(dataset.test.images[:512])
        x_noisy = (x + sigma * rng.standard_normal(x.shape)).astype(np.float32)
        train = dataset.scale(dataset.train.images[:4096]).reshape(-1, h * w * c).astype(np.float64)
        flat, flat_noisy = (a.reshape(len(x), -1).astype(np.float64) for a in (x, x_noisy))
        guesses = {
            "denoised": to_numpy(denoise(on_device(x_noisy))).reshape(len(x), -1),
            "best linear denoiser": wiener(flat_noisy, *gaussian_fit(train), sigma),
            "best denoiser of the training pictures": finite_set(flat_noisy, train, sigma),
            "with its noise": flat_noisy,
        }
        return {f"{name}, test, MSE a pixel": float(np.square(g - flat).mean()) for name, g in guesses.items()}

    def denoising(split: Split, *, rng: Any) -> Any:
        """Three rows: clean, noisy, denoised."""
        x = dataset.scale(split.take(rng.permutation(len(split))[:12]).images)
        x_noisy = on_device(x + sigma * rng.standard_normal(x.shape))
        return np.stack([x, to_numpy(x_noisy), to_numpy(denoise(x_noisy))]).clip(-1, 1)

    return System(config, dataset.name, (h, w, c), {"denoiser": net}, stages, sample, figures, {"denoising": denoising})
