r"""Improved diffusion models. Nichol & Dhariwal 2021, "Improved denoising diffusion probabilistic models", arXiv 2102.09672.

The reverse step's variance is not fixed but learned: the network says, for every pixel, where between its two bounds
the variance lies. The loss that draws well does not depend on a variance, so a little of the variational bound is added
to it, from which only the variance learns. With variances that are good at every step, steps can be left out: the same
network samples in far fewer. Trained on the bound alone, a model codes better and draws worse; then the noise of the
gradient is reduced by drawing the times whose terms are large more often.

| symbol | code | shape |
|---|---|---|
| $\epsilon_\theta(x_t, t)$ | ``eps_theta``, the first half of the network's channels | like $x_t$ |
| $v$ | ``v`` $= (o + 1) / 2$ of the second half $o$ | like $x_t$ |
| $\mu_\theta$, $\Sigma_\theta$ | mean and variance of $p_\theta(x_{t-1} \mid x_t)$ | like $x_t$ |
| $L_t$ | ``bound_term(..., t + 1, ...)``: $L_0$ is the decoder's, at time 1 | (n,) nats per sample |
| $p_t$ | ``time_probabilities(...)[t]``, of time t + 1, as for $L_t$ | (T,) |

$$L_{\text{vlb}} = L_0 + L_1 + \dots + L_{T-1} + L_T \qquad (4)$$
$$\Sigma_\theta(x_t, t) = \exp(v \ln \beta_t + (1 - v) \ln \tilde\beta_t) \qquad (15)$$
$$L_{\text{hybrid}} = L_{\text{simple}} + \lambda L_{\text{vlb}} \qquad (16)$$
$$\bar\alpha_t = \frac{f(t)}{f(0)}, \quad f(t) = \cos^2 \Big(\frac{t / T + s}{1 + s} \cdot \frac\pi2 \Big) \qquad (17)$$
$$L_{\text{vlb}} = \mathbb E_{t \sim p_t} \Big[\frac{L_t}{p_t}\Big], \quad p_t \propto \sqrt{\mathbb E[L_t^2]}, \quad \sum_t p_t = 1 \qquad (18)$$
$$\beta_{S_t} = 1 - \frac{\bar\alpha_{S_t}}{\bar\alpha_{S_{t-1}}}, \quad \tilde\beta_{S_t} = \frac{1 - \bar\alpha_{S_{t-1}}}{1 - \bar\alpha_{S_t}}\, \beta_{S_t} \qquad (19)$$

The paper does not say how $o$ is scaled; $(o + 1) / 2$ is the authors' code. As in the paper, $v$ is not limited to
$[0, 1]$. (15) is in `samplers/ancestral.py`, (17) and (19) are in `maths/schedules.py`: after respacing, the same $v$
is read between the wider bounds. $L_{\text{vlb}}$ of the loss is in nats per dimension (the authors' code: bits, which
makes its $\lambda = 0.001$ a factor 1.44 heavier).

You need: `models/ddpm.py` (the bound), `samplers/ancestral.py` (eq. 15). New here: a learned variance, the hybrid loss,
times drawn by their importance.

Details that matter, and the tests that guard them (tests/minigen/models/test_improved_ddpm.py):
- in the hybrid loss the bound sends no gradient to the mean: its weights, large at small $t$, would drown
  $L_{\text{simple}}$;
- $L_{\text{vlb}}$ is a SUM over T terms: the mean over drawn times is multiplied by T before $\lambda$ (the authors'
  code multiplies one term by $T / 1000$, which is both);
- $\tilde\beta_1 = 0$ has no logarithm: at $t = 1$ the lower bound is $\tilde\beta_2$;
- importance weights are $1 / (p_t T)$, so that they are 1 for uniform times and the loss keeps its meaning;
- times are uniform until each has 10 losses. The losses are a buffer that is saved with the weights: a resumed run is
  the same run;
- figures are in bits: nats / (dimensions $\ln 2$).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

import autograd as ag
from kernels.backend import array_module, to_numpy
from minigen.data import Dataset, Split
from minigen.maths import gaussian, schedules
from minigen.maths.diffusion import at, mean_from_eps, posterior_mean, q_sample, x_0_from_eps
from minigen.maths.schedules import Schedule
from minigen.nn import Module, UNet
from minigen.samplers.ancestral import learned_log_variance, log_variance_range

from . import sampling
from .ddpm import Bound, prior_term
from .sampling import Editing as Editing
from .sampling import Sampling as Sampling
from .system import Objective, Stage, System

TITLE = "Improved diffusion"
PAPER = "Nichol & Dhariwal 2021, arXiv 2102.09672"
EQUATION = "L = E‖ε − ε_θ(x_t, t)‖² + λ L_vlb,  Σ_θ = exp(v ln β_t + (1 − v) ln β̃_t)"
TOUR: dict[str, Any] = {"steps": 900}
WALKS = tuple(
    (sampler, steps) for sampler in ("ancestral", "ddim", "dpmpp-2m") for steps in (5, 10, 20, None)
)  # None: T
PICTURES = {
    "shorter_walks": "the same noise in 5, 10, 20 and all steps: four rows by the ancestral chain with the learned variance, "
    "four by DDIM, four by DPM-Solver++(2M)"
}

HISTORY = 10  # losses that are kept for each time
UNIFORM = 1e-3  # share of uniform times beside eq. 18, as in the authors' code: no time is forgotten


@dataclass(frozen=True)
class Config:
    """Settings of the run. The defaults draw 8x8 digits after about two minutes on two cores."""

    T: int = 200
    """Length of the noising chain."""
    schedule: Literal["linear", "scaled-linear", "cosine", "sigmoid"] = "cosine"
    """Noise schedule."""
    loss: Literal["hybrid", "vlb"] = "hybrid"
    """Eq. 16, which draws well, or the bound alone, which codes well."""
    lam: float = 0.001
    """Weight of the bound in the hybrid loss (lambda)."""
    times: Literal["uniform", "loss-aware"] = "uniform"
    """How training draws t: uniformly, or by eq. 18. The paper uses the second with the bound alone."""
    sample_steps: int = 20
    """Levels that sampling visits, spread evenly over the chain; T or more visits all."""
    base: int = 24
    """Channels at full resolution."""
    multipliers: tuple[int, ...] = (1, 2)
    """Channels at each resolution, in units of base; each level halves the size."""
    blocks: int = 1
    """Residual blocks per level on the way down (one more on the way up)."""
    attention: tuple[int, ...] = ()
    """Levels that attend over their pixels, besides the middle; 0 is full resolution."""
    heads: int = 2
    """Attention heads."""
    dropout: float = 0.0
    """Share of features dropped in every residual block while training."""
    steps: int = 1700
    """Training steps."""
    batch_size: int = 64
    """Pictures per step."""
    lr: float = 2e-3
    """Peak learning rate of AdamW; falls along a cosine."""
    weight_decay: float = 0.01
    """Decoupled weight decay."""
    warmup: int = 100
    """Steps over which the learning rate rises; at most a tenth of all steps."""
    ema: float = 0.999
    """Decay of the averaged weights that samples are drawn with."""
    max_norm: float = 1.0
    """Largest global norm of the gradient."""


# --- the bound with a learned variance --------------------------------------------------------------------------------


def bound_term(
    x_0: Any,
    x_t: Any,
    t: Any,
    eps_theta: Any,
    v: Any,
    schedule: Schedule,
    levels: int,
    clip: float | None = None,
) -> Any:
    r"""$L_{t-1}$ in nats per sample (n,), for levels ``t`` (n,) or one for all: arrays or Tensors, with gradients.

    $\mathrm{KL}(N(\tilde\mu_t, \tilde\beta_t I) \| N(\mu_\theta, \Sigma_\theta))$ for $t > 1$; for $t = 1$ the
    discretised decoder $-\ln p_\theta(x_0 \mid x_1)$ (Ho et al. 2020, eq. 13). ``clip`` limits $\hat x_0$ as sampling
    may do.
    """
    if clip is None:
        mu = mean_from_eps(x_t, t, eps_theta, schedule)
    else:
        mu = posterior_mean(ag.clip(x_0_from_eps(x_t, t, eps_theta, schedule), -clip, clip), x_t, t, schedule)
    log_var = learned_log_variance(v, t, schedule)
    low, _ = log_variance_range(schedule)
    kl = gaussian.kl(posterior_mean(x_0, x_t, t, schedule), at(low, t, x_0), mu, log_var)
    first = np.equal(to_numpy(t), 1)
    if not first.any():
        return per_sample(kl)
    decoder = -gaussian.discretised_log_likelihood(x_0, mu, 0.5 * log_var, levels)
    return ag.where(array_module(x_0).asarray(first), per_sample(decoder), per_sample(kl))


def per_sample(x: Any) -> Any:
    """The sum over all but the first axis."""
    return ag.sum(ag.reshape(x, (x.shape[0], -1)), 1)


def l_vlb(x_0: Any, x_t: Any, t: Any, eps_theta: Any, v: Any, schedule: Schedule, levels: int) -> Any:
    r"""$T\, L_{t-1}$ per dimension, in nats (n,): its mean over uniform $t$ is $L_{\text{vlb}}$ without $L_T$, which
    nothing trains.
    """
    return bound_term(x_0, x_t, t, eps_theta, v, schedule, levels) * (schedule.T / x_0[0].size)


def l_hybrid(
    x_0: Any, x_t: Any, t: Any, eps: Any, eps_theta: Any, v: Any, schedule: Schedule, levels: int, lam: float = 0.001
) -> Any:
    r"""$L_{\text{simple}} + \lambda L_{\text{vlb}}$ (eq. 16) per sample (n,), with $\mathrm{sg}[\mu_\theta]$ in the
    second term: there only $\Sigma_\theta$ learns.
    """
    d = eps_theta - eps
    simple = per_sample(d * d) * (1 / x_0[0].size)
    return simple + lam * l_vlb(x_0, x_t, t, ag.stop_gradient(eps_theta), v, schedule, levels)


def variational_bound(
    model: Callable[..., Any],
    x_0: Any,
    schedule: Schedule,
    levels: int,
    *,
    rng: Any,
    clip: float | None = 1.0,
) -> Bound:
    r"""Eq. 4 over the batch ``x_0`` (n, ...): every term with one draw of $x_t$ for each sample, in bits per dimension.

    ``model`` returns the pair (eps, v). On a respaced schedule it is the bound of the shorter chain, whose samples are
    those of respaced sampling. Computed in float64 except for the network, which sees float32.
    """
    x_0 = np.asarray(x_0, np.float64)
    unit = x_0[0].size * np.log(2)
    terms = np.zeros(schedule.T)
    for t in range(1, schedule.T + 1):
        x_t = q_sample(x_0, t, rng.standard_normal(x_0.shape), schedule)
        with ag.no_grad():
            said = model(x_t.astype(np.float32), np.full(len(x_0), schedule.times[t]))
            eps_theta, v = (to_numpy(ag.raw(part)).astype(np.float64) for part in said)
            nats = ag.raw(bound_term(x_0, x_t, t, eps_theta, v, schedule, levels, clip))
        terms[t - 1] = nats.mean() / unit
    return Bound(terms, float(prior_term(x_0, schedule).mean() / unit))


# --- times by their importance ----------------------------------------------------------------------------------------


def time_probabilities(losses: Any, known: Any) -> Any:
    r"""Eq. 18 for the last losses (T, K) of each time, of which ``known`` (T,) are there already: the probabilities
    (T,) of the times $1 \dots T$, float64.

    Uniform until all K are known for every time, and where all losses are 0; 0.1 % uniform times are always mixed in.
    """
    T, K = losses.shape
    uniform = np.full(T, 1 / T)
    if np.any(known < K):
        return uniform
    root = np.square(losses, dtype=np.float64).mean(axis=1) ** 0.5
    if not root.any():
        return uniform
    return (1 - UNIFORM) * root / root.sum() + UNIFORM * uniform


def draw_times(p: Any, u: Any) -> tuple[Any, Any]:
    r"""The times $t$ at which the sum of ``p`` passes the uniform numbers ``u`` (n,), and the weights $1 / (p_t T)$ of
    their losses.
    """
    t = 1 + np.minimum(np.searchsorted(np.cumsum(p), u, side="right"), len(p) - 1)
    return t, 1 / (p[t - 1] * len(p))


class History(Module):
    """The last 10 losses of every time, as buffers: row t - 1 is that of t, the oldest first; ``known`` is how many there are."""

    BUFFERS = ("losses", "known")

    def __init__(self, T: int):
        self.losses, self.known = np.zeros((T, HISTORY), np.float32), np.zeros(T, np.float32)

    def probabilities(self) -> Any:
        """Eq. 18 as things stand."""
        return time_probabilities(to_numpy(self.losses), to_numpy(self.known))

    def observe(self, t: Any, losses: Any) -> None:
        """Remember the (unweighted) losses (n,) of the times (n,), in their order. In training only."""
        if not self.training:
            return
        for i, loss in zip(t, losses):
            row = self.losses[i - 1]
            row[:-1] = row[1:].copy()
            row[-1] = loss
            self.known[i - 1] = min(HISTORY, self.known[i - 1] + 1)


# --- the network, training and sampling -------------------------------------------------------------------------------


def eps_and_v(output: Any) -> tuple[Any, Any]:
    r"""The pair $(\epsilon_\theta, v)$ in a network's channels (n, h, w, 2 c): two of (n, h, w, c)."""
    c = output.shape[-1] // 2
    return output[..., :c], 0.5 * (output[..., c:] + 1)


class LearnedVariance(Module):
    r"""``model(x_t, t, cond=None)`` -> the pair $(\epsilon_\theta, v)$, of a network with twice the channels; and the
    losses of its times.
    """

    def __init__(self, unet: UNet, T: int):
        self.unet, self.history = unet, History(T)

    def forward(self, x_t: Any, t: Any, cond: Any = None, *, rng: Any = None) -> tuple[Any, Any]:
        """(n, h, w, c), (n,) -> two of (n, h, w, c); ``rng``: dropout."""
        return eps_and_v(self.unet(x_t, t, cond, rng=rng))


def training_loss(
    model: Callable[..., tuple[Any, Any]],
    x_0: Any,
    schedule: Schedule,
    levels: int,
    rng: Any,
    *,
    history: History,
    loss: str = "hybrid",
    lam: float = 0.001,
    times: str = "uniform",
) -> Any:
    """One estimate of eq. 16, or of the bound in nats per dimension, from one time and one noise for each sample; in
    training, the history grows.
    """
    xp, T = array_module(x_0), schedule.T
    p = np.full(T, 1 / T) if times == "uniform" else history.probabilities()
    t, weights = draw_times(p, rng.random(len(x_0)))
    eps = xp.asarray(rng.standard_normal(x_0.shape), x_0.dtype)
    x_t = q_sample(x_0, t, eps, schedule)
    eps_theta, v = model(x_t, t)
    if loss == "hybrid":
        each = l_hybrid(x_0, x_t, t, eps, eps_theta, v, schedule, levels, lam)
    else:
        each = l_vlb(x_0, x_t, t, eps_theta, v, schedule, levels)
    if times == "loss-aware":
        history.observe(t, to_numpy(ag.raw(each)))
    return ag.mean(each * xp.asarray(weights, x_0.dtype))


def build(config: Config, dataset: Dataset, *, seed: int) -> System:
    """The network and what `minigen train`, `sample` and `tour` do with it.

    Raises ValueError for settings that do not fit the data.
    """
    check(config, dataset)
    h, w, c = dataset.shape
    levels = dataset.levels or 256
    schedule = schedules.make(config.schedule, config.T)
    unet = UNet(
        c,
        2 * c,
        base=config.base,
        multipliers=config.multipliers,
        blocks=config.blocks,
        attention=config.attention,
        heads=config.heads,
        dropout=config.dropout,
        rng=np.random.default_rng(seed),
    )
    net = LearnedVariance(unet, config.T)

    def loss(batch: Split, rng: Any, step: int) -> tuple[Any, dict[str, float]]:
        x_0 = array_module(unet.conv_in.w.data).asarray(dataset.scale(batch.images))

        def model(x_t: Any, t: Any) -> tuple[Any, Any]:
            return net(x_t, t, rng=rng)

        found = training_loss(
            model,
            x_0,
            schedule,
            levels,
            rng,
            history=net.history,
            loss=config.loss,
            lam=config.lam,
            times=config.times,
        )
        return found, {}

    def stages() -> list[Stage]:
        return [
            Stage(
                name="improved_ddpm",
                objectives=[Objective(config.loss, net, loss)],
                steps=config.steps,
                batch_size=config.batch_size,
                lr=config.lr,
                warmup=min(config.warmup, config.steps // 10),
                ema=config.ema,
                max_norm=config.max_norm,
                weight_decay=config.weight_decay,
                schedule="cosine",
            )
        ]

    def sample(n: int, *, rng: Any, steps: int | None = None, callback: Any = None, **how: Any) -> Any:
        """``n`` pictures in [-1, 1] over ``steps`` levels (``sample_steps`` if None); ``how`` are fields of `Sampling`."""
        steps = min(config.sample_steps, config.T) if steps is None else steps
        x_T = np.asarray(rng.standard_normal((n, h, w, c)), np.float32)
        return walk(x_T, steps, rng, callback, **how)

    def walk(x_T: Any, steps: int, rng: Any, callback: Any = None, **how: Any) -> Any:
        x_T = array_module(unet.conv_in.w.data).asarray(x_T)
        return sampling.draw(net, x_T, schedule, steps=steps, rng=rng, own="learned", callback=callback, **how)

    def edit(image: Any, keep: Any, *, n: int, rng: Any, steps: int | None = None, **how: Any) -> Any:
        """``n`` pictures made of one; ``how`` are fields of `Editing`."""
        steps = min(config.sample_steps, config.T) if steps is None else steps
        image = array_module(unet.conv_in.w.data).asarray(image, np.float32)
        return sampling.edit(net, image, keep, schedule, n=n, rng=rng, steps=steps, **how)

    def figures(dataset: Dataset, *, rng: Any) -> dict[str, float]:
        """The variational bound over at most 128 test images, whole, by its parts, and of shorter chains."""
        x_0 = dataset.scale(dataset.test.images[:128])
        seen = sampling.on_host(net, array_module(unet.conv_in.w.data))
        bound = variational_bound(seen, x_0, schedule, levels, rng=rng)
        found = {
            "bound, bits/dim": bound.total,
            "of it decoder (t = 1)": float(bound.terms[0]),
            "of it prior (t = T)": bound.prior,
        }
        for steps in (10, 20, 50):
            if steps < config.T:
                short = variational_bound(seen, x_0, schedules.spaced(schedule, steps), levels, rng=rng)
                found[f"bound in {steps} steps, bits/dim"] = short.total
        return found

    def shorter_walks(split: Split, *, rng: Any) -> Any:
        """Rows of 12 from the same noise: one for each of ``WALKS``, which says how many steps it takes."""
        x_T = rng.standard_normal((12, h, w, c)).astype(np.float32)
        seed = int(rng.integers(2**32))  # of every row's own noise
        rows = [
            walk(x_T, min(steps or config.T, config.T), np.random.default_rng(seed), sampler=sampler)
            for sampler, steps in WALKS
        ]
        return np.stack([to_numpy(row) for row in rows])

    pictures = {"shorter_walks": shorter_walks}
    return System(config, dataset.name, (h, w, c), {"improved_ddpm": net}, stages, sample, figures, pictures, edit=edit)


def check(config: Config, dataset: Dataset) -> None:
    """Raise ValueError for the first setting that does not fit."""
    sampling.check_pictures(config, dataset)
    for name, known in (("loss", ("hybrid", "vlb")), ("times", ("uniform", "loss-aware"))):
        if getattr(config, name) not in known:
            raise ValueError(f"{name} must be '{known[0]}' or '{known[1]}', got {getattr(config, name)!r}")
    if not config.lam >= 0:
        raise ValueError(f"lam must be at least 0, got {config.lam}")
