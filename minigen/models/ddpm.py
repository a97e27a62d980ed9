r"""Denoising diffusion probabilistic models. Ho, Jain & Abbeel 2020, arXiv 2006.11239.

Noise is added to a picture in $T$ small steps until nothing is left of it, and a network learns to undo one step. The
reverse chain is a latent variable model whose bound on the likelihood decomposes into one Gaussian KL for each step.
Predicting the noise that was added, and dropping the weights of the bound, turns training into plain regression: draw a
picture, a time and a noise, and predict the noise.

| symbol | code | shape |
|---|---|---|
| $x_0$, $x_t$ | ``x_0``, ``x_t`` | (n, h, w, c), data in $[-1, 1]$ |
| $\epsilon$ | ``eps`` | like $x_t$ |
| $\epsilon_\theta(x_t, t)$ | ``eps_model(x_t, t)`` | like $x_t$ |
| $t$ | ``t`` | (n,), 1 to T |
| $\beta_t, \alpha_t, \bar\alpha_t, \tilde\beta_t$ | ``schedule.beta[t]`` ... | (T + 1,) |
| $\sigma_t^2$ | ``variance`` | ``"small"`` $\tilde\beta_t$ or ``"large"`` $\beta_t$ |
| $q$, $p_\theta$ | the chain that adds noise; the one that is learned, $p_\theta(x_{t-1} \mid x_t) = N(\mu_\theta(x_t, t), \sigma_t^2 I)$ | |

$$L = \mathbb E \Big[ \underbrace{\mathrm{KL}(q(x_T \mid x_0) \,\|\, p(x_T))}_{L_T} + \sum_{t > 1} \underbrace{\mathrm{KL}(q(x_{t-1} \mid x_t, x_0) \,\|\, p_\theta(x_{t-1} \mid x_t))}_{L_{t-1}} \underbrace{-\, \ln p_\theta(x_0 \mid x_1)}_{L_0} \Big] \qquad (5)$$
$$L_{\text{simple}} = \mathbb E_{t, x_0, \epsilon} \big\| \epsilon - \epsilon_\theta(\sqrt{\bar\alpha_t}\, x_0 + \sqrt{1 - \bar\alpha_t}\, \epsilon, t) \big\|^2 \qquad (14)$$

You need: `maths/schedules.py`, `maths/diffusion.py` (the chain, eqs. 2 to 11), `nn/unet.py`, `samplers/ancestral.py`
(Algorithm 2, by way of $\hat x_0$; eq. 11 is `maths.diffusion.mean_from_eps`), `models/sampling.py` (the other
samplers). New here: the two losses and the bound in bits.

Unlike the paper, so that 8x8 digits take three minutes: the default schedule is the cosine of `models/improved_ddpm.py`
with $T = 200$, of which sampling visits 20 levels; the optimiser is AdamW or Muon, with a cosine learning rate. The
bound and its bits are over all 200 levels.

Details that matter, and the tests that guard them (tests/minigen/models/test_ddpm.py):
- one $t$ and one $\epsilon$ for each sample, and the network sees the $t$ that made its $x_t$;
- the linear schedule is the paper's at $T = 1000$ and is rescaled for shorter chains;
- the decoder $L_0$ knows how many grey levels the data have: the digits have 17, not 256;
- samples are drawn with the averaged weights, and $\hat x_0$ is clipped to $[-1, 1]$ during sampling, as in the paper's
  code.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

import autograd as ag
from kernels.backend import array_module, to_numpy
from minigen.data import Dataset, Split
from minigen.maths import gaussian, schedules
from minigen.maths.diffusion import posterior_mean, q_sample, x_0_from_eps
from minigen.maths.schedules import Schedule
from minigen.nn import UNet
from minigen.samplers import ancestral, ddim
from minigen.samplers.probability_flow import bits_per_dim

from . import sampling
from .sampling import Editing as Editing
from .sampling import Sampling as Sampling
from .system import Objective, Stage, System

TITLE = "Denoising diffusion"
PAPER = "Ho, Jain & Abbeel 2020, arXiv 2006.11239"
EQUATION = "L = E‖ε − ε_θ(√ᾱ_t x₀ + √(1−ᾱ_t) ε, t)‖²"
PRESETS: dict[str, dict[str, Any]] = {
    "mnist": {"sample_steps": 50, "multipliers": (1, 2, 2), "optimiser": "muon", "lr": 4e-3, "steps": 2500}
}
PICTURES = {"interpolation": "test pictures (outermost), and the interpolation of their DDIM latents between them"}


@dataclass(frozen=True)
class Config:
    """Settings of the run. The defaults draw 8x8 digits after about three minutes on two cores."""

    T: int = 200
    """Length of the noising chain."""
    schedule: Literal["linear", "scaled-linear", "cosine", "sigmoid"] = "cosine"
    """Noise schedule: the paper's linear one (rescaled to T), or one of its successors'."""
    variance: Literal["small", "large"] = "small"
    """Variance of a reverse step: "small" (beta tilde) or "large" (beta)."""
    sample_steps: int = 20
    """Levels that sampling visits, spread evenly over the chain; T or more visits all."""
    base: int = 24
    """Channels at full resolution."""
    multipliers: tuple[int, ...] = (1, 2)
    """Channels at each resolution, in units of base; each level halves the size."""
    blocks: int = 1
    """Residual blocks per level on the way down (one more on the way up)."""
    attention: tuple[int, ...] = ()
    """Levels with attention over their pixels, besides the middle; 0 is full resolution."""
    heads: int = 2
    """Attention heads."""
    dropout: float = 0.0
    """Share of features dropped in every residual block while training."""
    tell_time: bool = True
    """Tell the network the time. Otherwise it must infer from the picture how noisy it is."""
    steps: int = 1700
    """Training steps."""
    batch_size: int = 64
    """Pictures per step."""
    optimiser: Literal["adamw", "muon"] = "adamw"
    """The optimiser. Muon, at twice the rate, draws about as well after half the steps."""
    lr: float = 2e-3
    """Its peak learning rate; falls along a cosine."""
    weight_decay: float = 0.01
    """Decoupled weight decay."""
    warmup: int = 100
    """Steps over which the learning rate rises; at most a tenth of all steps."""
    ema: float = 0.999
    """Decay of the averaged weights that samples are drawn with."""
    max_norm: float = 1.0
    """Largest global norm of the gradient."""


# --- losses -----------------------------------------------------------------------------------------------------------


def l_simple(eps: Any, eps_theta: Any) -> Any:
    r"""$\| \epsilon - \epsilon_\theta \|^2$ (eq. 14), averaged over samples and pixels: a scalar, 1 for a network that
    outputs 0.
    """
    d = eps_theta - eps
    return ag.mean(d * d)


def l_t_weight(t: Any, schedule: Schedule, variance: str = "small") -> Any:
    r"""$\frac{\beta_t^2}{2 \sigma_t^2 \alpha_t (1 - \bar\alpha_t)}$ (eq. 12): $L_{t-1}$ is this times
    $\| \epsilon - \epsilon_\theta \|^2$, plus a constant; ``t`` at least 2.
    """
    sigma2 = ancestral.variances(schedule, variance)
    return schedule.beta[t] ** 2 / (2 * sigma2[t] * schedule.alpha[t] * (1 - schedule.alpha_bar[t]))


def prior_term(x_0: Any, schedule: Schedule) -> Any:
    r"""$L_T = \mathrm{KL}(q(x_T \mid x_0) \| N(0, I))$ in nats per sample (n,): what the last level still tells of
    $x_0$; it depends on no parameters.
    """
    a = float(schedule.alpha_bar[-1])
    return gaussian.kl(a**0.5 * x_0, np.log(1 - a), x_0 * 0, 0.0).reshape(len(x_0), -1).sum(1)


def bound_term(
    x_0: Any,
    x_t: Any,
    t: int,
    eps_theta: Any,
    schedule: Schedule,
    levels: int,
    variance: str = "small",
    clip: float | None = 1.0,
) -> Any:
    r"""$L_{t-1}$ for $t > 1$, or $L_0$ for $t = 1$ (eq. 5), in nats per sample (n,).

    $\mathrm{KL}(N(\tilde\mu_t, \tilde\beta_t I) \| N(\mu_\theta, \sigma_t^2 I))$ (eq. 8, with the terms of the
    variances), or the discretised decoder (eq. 13) with $\sigma_1^2 = \beta_1$, as $\tilde\beta_1 = 0$ gives no
    density. ``clip`` limits $\hat x_0$ as in sampling.
    """
    x_0_hat = x_0_from_eps(x_t, t, eps_theta, schedule)
    if clip is not None:
        x_0_hat = np.clip(x_0_hat, -clip, clip)
    mu = posterior_mean(x_0_hat, x_t, t, schedule)
    if t == 1:
        log_std = 0.5 * np.log(schedule.beta[1]) + mu * 0
        term = -gaussian.discretised_log_likelihood(x_0, mu, log_std, levels)
    else:
        sigma2 = ancestral.variances(schedule, variance)[t]
        target = posterior_mean(x_0, x_t, t, schedule)
        term = gaussian.kl(target, np.log(schedule.beta_tilde[t]), mu, np.log(sigma2))
    return np.asarray(ag.raw(term)).reshape(len(x_0), -1).sum(1)


@dataclass(frozen=True)
class Bound:
    """The variational bound, term by term, in bits per dimension: ``terms[t - 1]`` is $L_{t-1}$, ``prior`` is $L_T$."""

    terms: Any
    prior: float

    @property
    def total(self) -> float:
        """The bound on the negative log-likelihood."""
        return float(self.terms.sum() + self.prior)


def variational_bound(
    eps_model: Callable[..., Any],
    x_0: Any,
    schedule: Schedule,
    levels: int,
    *,
    rng: Any,
    variance: str = "small",
    clip: float | None = 1.0,
) -> Bound:
    r"""Eq. 5 over the batch ``x_0`` (n, ...): every one of the $T$ terms, with one draw of $x_t$ for each sample and term.

    Computed in float64. Bits per dimension: nats / (dimensions $\ln 2$).
    """
    x_0 = np.asarray(x_0, np.float64)
    unit = x_0[0].size * np.log(2)
    terms = np.zeros(schedule.T)
    for t in range(1, schedule.T + 1):
        x_t = q_sample(x_0, t, rng.standard_normal(x_0.shape), schedule)
        with ag.no_grad():
            eps_theta = ag.raw(eps_model(x_t.astype(np.float32), np.full(len(x_0), schedule.times[t])))
        nats = bound_term(x_0, x_t, t, eps_theta.astype(np.float64), schedule, levels, variance, clip)
        terms[t - 1] = nats.mean() / unit
    return Bound(terms, float(prior_term(x_0, schedule).mean() / unit))


# --- training and sampling --------------------------------------------------------------------------------------------


def training_loss(eps_model: Callable[..., Any], x_0: Any, schedule: Schedule, rng: Any) -> Any:
    r"""Algorithm 1: $t \sim U\{1..T\}$ and $\epsilon \sim N(0, I)$ for each sample, then $L_{\text{simple}}$."""
    t = rng.integers(1, schedule.T + 1, len(x_0))
    eps = array_module(x_0).asarray(rng.standard_normal(x_0.shape), x_0.dtype)
    return l_simple(eps, eps_model(q_sample(x_0, t, eps, schedule), t))


def build(config: Config, dataset: Dataset, *, seed: int) -> System:
    """The network and what `minigen train`, `sample` and `tour` do with it.

    Raises ValueError for settings that do not fit the data.
    """
    sampling.check_pictures(config, dataset)
    h, w, c = dataset.shape
    schedule = schedules.make(config.schedule, config.T)
    unet = UNet(
        c,
        c,
        base=config.base,
        multipliers=config.multipliers,
        blocks=config.blocks,
        attention=config.attention,
        heads=config.heads,
        dropout=config.dropout,
        rng=np.random.default_rng(seed),
    )

    def eps_model(x_t: Any, t: Any, cond: Any = None, *, rng: Any = None) -> Any:
        return unet(x_t, t if config.tell_time else 0 * t, cond, rng=rng)

    def loss(batch: Split, rng: Any, step: int) -> tuple[Any, dict[str, float]]:
        xp = array_module(unet.conv_in.w.data)
        x_0 = xp.asarray(dataset.scale(batch.images))
        return training_loss(lambda x_t, t: eps_model(x_t, t, rng=rng), x_0, schedule, rng), {}

    def stages() -> list[Stage]:
        return [
            Stage(
                name="ddpm",
                objectives=[Objective("eps", unet, loss)],
                steps=config.steps,
                batch_size=config.batch_size,
                lr=config.lr,
                warmup=min(config.warmup, config.steps // 10),
                ema=config.ema,
                max_norm=config.max_norm,
                weight_decay=config.weight_decay,
                schedule="cosine",
                optimiser=config.optimiser,
                apart=("conv_in", "conv_out"),
            )
        ]

    def sample(n: int, *, rng: Any, steps: int | None = None, callback: Any = None, **how: Any) -> Any:
        """``n`` pictures in [-1, 1] over ``steps`` levels (``sample_steps`` if None); ``how`` are fields of `Sampling`."""
        steps = min(config.sample_steps, config.T) if steps is None else steps
        xp = array_module(unet.conv_in.w.data)
        x_T = xp.asarray(rng.standard_normal((n, h, w, c)), np.float32)
        return sampling.draw(
            eps_model, x_T, schedule, steps=steps, rng=rng, own=config.variance, callback=callback, **how
        )

    def edit(image: Any, keep: Any, *, n: int, rng: Any, steps: int | None = None, **how: Any) -> Any:
        """``n`` pictures made of one; ``how`` are fields of `Editing`."""
        steps = min(config.sample_steps, config.T) if steps is None else steps
        image = array_module(unet.conv_in.w.data).asarray(image, np.float32)
        return sampling.edit(eps_model, image, keep, schedule, n=n, rng=rng, steps=steps, **how)

    def interpolation(split: Split, *, rng: Any) -> Any:
        """Rows of 9: a picture, seven on the path between the two DDIM latents, over 50 levels, another picture."""
        half = min(4, len(split) // 2)
        if not half:
            raise ValueError(f"an interpolation needs two test pictures, got {len(split)}")
        a, b = (dataset.scale(split.images[rows]) for rows in (slice(half), slice(half, 2 * half)))
        xp, grid = array_module(unet.conv_in.w.data), schedules.spaced(schedule, min(50, config.T))
        with ag.no_grad():
            path = ddim.interpolate(
                eps_model, xp.asarray(a), xp.asarray(b), np.linspace(0, 1, 7).tolist(), grid, iterations=3, clip=1.0
            )
        return np.concatenate([a[:, None], to_numpy(path), b[:, None]], axis=1)

    def figures(dataset: Dataset, *, rng: Any) -> dict[str, float]:
        """The bound, $L_0$ and $L_T$ over at most 128 test images, and the likelihood by probability flow over 64."""
        x_0 = dataset.scale(dataset.test.images[:128])
        xp, levels = array_module(unet.conv_in.w.data), dataset.levels or 256
        seen = sampling.on_host(eps_model, xp)
        bound = variational_bound(seen, x_0, schedule, levels, rng=rng, variance=config.variance)
        return {
            "bound, bits/dim": bound.total,
            "of it decoder (t = 1)": float(bound.terms[0]),
            "of it prior (t = T)": bound.prior,
            "probability flow, bits/dim": float(
                bits_per_dim(
                    eps_model,
                    xp.asarray(x_0[:64]),
                    schedule,
                    levels,
                    rng=rng,
                    divergence="hutchinson",
                    rtol=1e-3,
                    atol=1e-3,
                ).mean()
            ),
        }

    return System(
        config,
        dataset.name,
        (h, w, c),
        {"unet": unet},
        stages,
        sample,
        figures,
        {"interpolation": interpolation},
        edit=edit,
    )
