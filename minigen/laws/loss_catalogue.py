"""Our losses in the form that their laws take: with gradients, and with the random draws of a training step given."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

import autograd as ag
from minigen.maths import gaussian, likelihood
from minigen.maths.schedules import Schedule
from minigen.models import classifier_free, ddpm, gan, improved_ddpm, vae, vq_vae

from .protocol import Transform

LEVELS = 17


class _Drawn:
    """A random generator that draws these times and this noise; no condition is left out."""

    def __init__(self, t: Any, eps: Any) -> None:
        self.t, self.eps = t, eps

    def integers(self, low: int, high: int, size: Any) -> Any:
        """The times."""
        return self.t

    def standard_normal(self, shape: Any) -> Any:
        """The noise."""
        return self.eps

    def random(self, size: Any) -> Any:
        """Above any share."""
        return np.full(size, 0.999999)


def simple(module: Any = ddpm) -> Transform:
    """DDPM's training step."""

    def apply(model: Any, x_0: Any, t: Any, eps: Any, alpha_bar: Any) -> Any:
        return ag.raw(module.training_loss(model, x_0, Schedule(alpha_bar), _Drawn(t, eps)))

    return Transform("simple loss", apply, "ddpm's loss")


def simple_with_labels(module: Any = classifier_free) -> Transform:
    """The training step with labels, none of them left out."""

    def apply(model: Any, x_0: Any, t: Any, eps: Any, alpha_bar: Any) -> Any:
        labels = np.arange(len(x_0))
        return ag.raw(
            module.training_loss(
                lambda x_t, t, y: model(x_t, t), x_0, labels, -1, 0.1, Schedule(alpha_bar), _Drawn(t, eps)
            )
        )

    return Transform("simple loss", apply, "classifier-free loss")


def training_times(module: Any = ddpm) -> Transform:
    """The times that DDPM's training step gives the network."""

    def apply(n: int, T: int, rng: Any) -> Any:
        seen: list[Any] = []
        schedule = Schedule(np.linspace(1, 0.1, T + 1))
        module.training_loss(_remembering(seen, 0), np.zeros((n, 1)), schedule, rng)
        return seen[0]

    return Transform("times", apply, "ddpm's times")


def times_with_labels(module: Any = classifier_free) -> Transform:
    """The times of the training step with labels."""

    def apply(n: int, T: int, rng: Any) -> Any:
        seen: list[Any] = []
        schedule = Schedule(np.linspace(1, 0.1, T + 1))
        module.training_loss(_remembering(seen, 0), np.zeros((n, 1)), np.zeros(n, int), -1, 0.1, schedule, rng)
        return seen[0]

    return Transform("times", apply, "classifier-free times")


def important_times(module: Any = improved_ddpm) -> Transform:
    """Times drawn by their importance."""
    return Transform("importance", lambda p, u: module.draw_times(p, u), "improved ddpm's times")


def dropped_labels(module: Any = classifier_free) -> Transform:
    """Which labels the training step leaves out."""

    def apply(n: int, share: float, rng: Any) -> Any:
        seen: list[Any] = []
        schedule = Schedule(np.linspace(1, 0.1, 5))
        module.training_loss(_remembering(seen, 1), np.zeros((n, 1)), np.zeros(n, int), 7, share, schedule, rng)
        return seen[0] == 7

    return Transform("dropout", apply, "dropped labels")


def _remembering(seen: list[Any], which: int) -> Callable[..., Any]:
    def model(x_t: Any, *told: Any) -> Any:
        seen.append(np.array(told[which]))
        return 0 * x_t

    return model


class BoundTerm:
    """DDPM's terms of the bound for a fixed variance, and the last level's."""

    space = "bound"

    def __init__(self, module: Any = ddpm, variance: str = "small") -> None:
        self.module, self.variance = module, variance
        self.name, self.claims = f"ddpm's bound ({variance})", {"variance": variance, "prior": True}

    def apply(self, x_0: Any, x_t: Any, t: int, eps_theta: Any, v: Any, alpha_bar: Any) -> Any:
        """One term in nats per sample."""
        return self.module.bound_term(x_0, x_t, t, eps_theta, Schedule(alpha_bar), LEVELS, self.variance, clip=None)

    def prior(self, x_0: Any, alpha_bar: Any) -> Any:
        """The last level's term."""
        return self.module.prior_term(x_0, Schedule(alpha_bar))


def learned_bound(module: Any = improved_ddpm) -> Transform:
    """The terms with a learned variance."""

    def apply(x_0: Any, x_t: Any, t: int, eps_theta: Any, v: Any, alpha_bar: Any) -> Any:
        times = np.full(len(x_0), t)
        return ag.raw(module.bound_term(x_0, x_t, times, eps_theta, v, Schedule(alpha_bar), LEVELS))

    return Transform("bound", apply, "improved ddpm's bound", {"variance": "learned"})


def hybrid(module: Any = improved_ddpm) -> Transform:
    """The hybrid loss and its gradients."""

    def apply(x_0: Any, x_t: Any, t: Any, eps: Any, eps_theta: Any, v: Any, alpha_bar: Any, lam: float) -> Any:
        mean, share = ag.Tensor(eps_theta, requires_grad=True), ag.Tensor(v, requires_grad=True)
        loss = ag.mean(module.l_hybrid(x_0, x_t, t, eps, mean, share, Schedule(alpha_bar), LEVELS, lam))
        loss.backward()
        return ag.raw(loss), *(0 * p.data if p.grad is None else ag.raw(p.grad) for p in (mean, share))

    return Transform("hybrid loss", apply, "improved ddpm's loss")


def codebook(module: Any = vq_vae) -> Transform:
    """The VQ-VAE's objective around an encoder and a decoder that do nothing."""

    def apply(z_e: Any, codes: Any, x: Any, beta: float) -> Any:
        rng = np.random.default_rng(0)
        book = module.Codebook(*codes.shape, "gradient", rng=rng).eval()
        book.e, z = ag.Tensor(codes.copy(), requires_grad=True), ag.Tensor(z_e, requires_grad=True)
        net = SimpleNamespace(encode=lambda x: z, decode=lambda z_q: z_q, codebook=book, training=False)
        config = module.Config(dimension=z_e.shape[1], beta=beta, rule="gradient", absolute=0.0, edges=0.0)
        loss, _ = module.objective(net, x, config, revive=False, u=None)
        loss.backward()
        return ag.raw(loss), *(0 * p.data if p.grad is None else ag.raw(p.grad) for p in (z, book.e))

    return Transform("codebook loss", apply, "vq-vae's loss")


def bound_of_a_vae(module: Any = vae) -> Transform:
    """The ELBO, its KL in closed form."""

    def apply(x: Any, mu: Any, log_var: Any, log_likelihood: Any, eps: Any) -> Any:
        log_p, kl = module.elbo_terms(x, (mu, log_var), log_likelihood, eps)
        return ag.raw(log_p).mean(0) - ag.raw(kl).sum(1)

    return Transform("elbo", apply, "vae's bound")


def weighted_bound(module: Any = vae) -> Transform:
    """The importance-weighted bound."""

    def apply(x: Any, mu: Any, log_var: Any, log_likelihood: Any, eps: Any) -> Any:
        return ag.raw(module.importance_weighted_bound(module.log_weights(x, (mu, log_var), log_likelihood, eps)))

    return Transform("elbo", apply, "importance-weighted bound", {"weighted": True})


GAMES = {
    "saturating": ("minimax", "saturating"),
    "non-saturating": ("minimax", "non-saturating"),
    "least-squares": ("least-squares", "least-squares"),
    "hinge": ("hinge", "critic"),
    "wasserstein": ("wasserstein", "critic"),
}


def game(name: str, module: Any = gan) -> Transform:
    """Both losses of one of the GAN's games."""

    def apply(real: Any, fake: Any) -> Any:
        chosen = module.GAMES[name]
        return ag.raw(chosen.d_loss(real, fake)), ag.raw(chosen.g_loss(fake))

    return Transform("game", apply, f"gan ({name})", {"game": GAMES[name]})


def penalty(kind: str, module: Any = gan) -> Transform:
    """A penalty on the slope of a linear discriminator."""

    def apply(w: Any, x: Any) -> Any:
        at = ag.Tensor(x, requires_grad=True)
        outputs = ag.sum(at * w, 1)
        return ag.raw((module.r1_penalty if kind == "r1" else module.gradient_penalty)(outputs, at, 3.0))

    return Transform("penalty", apply, f"{kind} penalty", {"penalty": kind, "weight": 3.0})


def grey_levels(which: str, gaussians: Any = gaussian, others: Any = likelihood) -> Transform:
    """A distribution over grey levels with arbitrary parameters."""

    def apply(k: Any, levels: int) -> Any:
        x, even = 2 * k / (levels - 1) - 1, np.zeros(len(k))
        if which == "gaussian":
            return ag.raw(gaussians.discretised_log_likelihood(x, even + 0.3, even - 1.2, levels))
        if which == "logistic":
            return ag.raw(others.discretised_logistic_log_likelihood(k, even - 0.8, even - 2.0, levels, uniform=0.01))
        if which == "mixture":
            parts = (
                np.tile([[0.3, -1.0]], (len(k), 1)),
                np.tile([[-0.9, 0.4]], (len(k), 1)),
                np.tile([[-2.0, -1.0]], (len(k), 1)),
            )
            return ag.raw(others.logistic_mixture_log_likelihood(k, *parts, levels, uniform=0.01))
        logits = np.linspace(-3, 2, levels)
        return ag.raw(others.categorical_log_likelihood(k, np.tile(logits, (levels, 1))))

    return Transform("grey levels", apply, f"grey levels ({which})")


def everything() -> list[Any]:
    """All our losses."""
    return [
        simple(),
        simple_with_labels(),
        training_times(),
        times_with_labels(),
        important_times(),
        dropped_labels(),
        BoundTerm(),
        BoundTerm(variance="large"),
        learned_bound(),
        hybrid(),
        codebook(),
        bound_of_a_vae(),
        weighted_bound(),
        *(game(name) for name in GAMES),
        penalty("r1"),
        penalty("gradient"),
        *(grey_levels(which) for which in ("gaussian", "logistic", "mixture", "categorical")),
    ]
