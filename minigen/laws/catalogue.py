r"""What of ours has laws besides the samplers of `adapters`: tokens and their filters, guidance, inpainting, latents.

Each function makes the object to be checked from the module that it is given; tests pass modules with a planted bug.
Losses are in `loss_catalogue`.
"""

from typing import Any

import numpy as np
from scipy.special import ndtr

import autograd as ag
from kernels import quantize
from minigen.data import Dataset, Split
from minigen.maths import interpolation, schedules
from minigen.maths.schedules import Schedule
from minigen.models import dalle, gan, gpt, pixelcnn, vq_vae
from minigen.samplers import autoregressive, classifier_free, ddim, guidance, inpaint

from .adapters import Ours, _Rng
from .beds import Gaussian, said
from .protocol import Level, Transform

LINEAR = schedules.linear(1000)
KINDS = ("eps", "x_0", "v", "score")


# --- tokens -----------------------------------------------------------------------------------------------------------


def every_prefix(model: Any) -> Any:
    """A model of the next token as one of all tokens: ``logits(tokens (n, t))``, entry i from the tokens before i."""
    return lambda tokens: np.stack([model(tokens[:, :i]) for i in range(tokens.shape[1])], axis=1)


class Tokens:
    """`samplers.autoregressive`: the loop that recomputes everything, or the one with a cache."""

    space = "discrete"

    def __init__(self, module: Any = autoregressive, *, cached: bool = False) -> None:
        self.module, self.cached = module, cached
        self.name = "autoregressive" + (" (cached)" if cached else "")
        self.claims = {"settings": ("temperature", "top_k", "top_p"), "prefix": True, "uniforms": True, "log_p": True}

    def sample(self, model: Any, n: int, length: int, rng: Any, prefix: Any = None, **settings: Any) -> Any:
        """One uniform number per token."""
        u = self.module.uniforms(n, length, rng=rng)
        if not self.cached:
            return self.module.sample(every_prefix(model), u, prefix=prefix, **settings)

        def step(new: Any, cache: Any) -> tuple[Any, Any]:
            tokens = new if cache is None else np.concatenate([cache, new], axis=1)
            return model(tokens), tokens

        return self.module.sample_cached(step, u, prefix=prefix, **settings)

    def log_p(self, model: Any, tokens: Any) -> Any:
        """ln p of whole strings."""
        return self.module.log_likelihood(every_prefix(model), tokens)


class Network:
    """One of our networks, with random weights far larger than its initial ones."""

    space = "sequence"

    def __init__(self, name: str, net: Any, vocab: int, length: int, **claims: Any) -> None:
        rng = np.random.default_rng(1)
        net.astype(np.float64)
        for p in net.parameters():
            p.data = p.data + 0.4 * rng.standard_normal(p.shape)
        self.name, self.net, self.vocab, self.length, self.claims = name, net, vocab, length, {"step": True, **claims}

    def logits(self, tokens: Any) -> Any:
        """The whole pass."""
        with ag.no_grad():
            return ag.raw(self.net.logits(tokens))

    def step(self, new: Any, cache: Any) -> tuple[Any, Any]:
        """The cached step."""
        with ag.no_grad():
            found, cache = self.net.step(new, cache)
        return ag.raw(found), cache


def pixel_network(module: Any = pixelcnn) -> Network:
    """The gated PixelCNN on pictures of 3 x 3 pixels, black or white."""
    net = module.TokenPixelCNN((3, 3), 2, 8, 3, first=3, rng=np.random.default_rng(0))
    return Network("pixelcnn", net, 2, 9, grid=(3, 3), sees="all")


def word_network(module: Any = gpt) -> Network:
    """The transformer on strings of names."""
    rng = np.random.default_rng(0)
    net = module.GPT(module.Names(3, 8, rng=rng), 5, 8, 2, 2, rng=rng)
    return Network("gpt (names)", net, 3, 5, sees="all", roundings=64)


def picture_network(module: Any = gpt) -> Network:
    """The transformer on pictures of 3 x 3 pixels."""
    rng = np.random.default_rng(0)
    net = module.GPT(module.Numbers(2, (3, 3, 1), 2, 8, 2, rng=rng), 9, 8, 2, 2, rng=rng)
    return Network("gpt (pictures)", net, 2, 9, grid=(3, 3), sees="all", roundings=64)


def token_filter(module: Any = autoregressive) -> Transform:
    """Temperature, top-k and top-p."""
    claims = {"settings": ("temperature", "top_k", "top_p"), "ties": "first", "greedy": True}
    return Transform(
        "filter",
        lambda logits, temperature, top_k, top_p: module.filtered(
            logits, temperature=temperature, top_k=top_k, top_p=top_p
        ),
        "token filters",
        claims,
    )


# --- guidance ---------------------------------------------------------------------------------------------------------


def classifier_free_guidance(module: Any = classifier_free, *, w: bool = False) -> Transform:
    """Classifier-free guidance of a model whose condition is a row's number, or its negative for the null."""

    def apply(conditional: Any, unconditional: Any, scale: float) -> Any:
        rows = np.arange(1, len(conditional) + 1)

        def model(x_t: Any, t: Any, cond: Any) -> Any:
            mine = np.abs(cond) - 1
            first = (cond > 0).reshape(-1, *(1,) * (conditional.ndim - 1))
            return np.where(first, conditional[mine], unconditional[mine])

        guided = module.classifier_free_w if w else module.classifier_free
        return ag.raw(guided(model, scale, lambda cond: -cond)(0 * conditional, np.ones(len(rows)), rows))

    name = "classifier-free guidance" + (" (w)" if w else "")
    return Transform("guidance", apply, name, {"scale": "w"} if w else {"exact": True})


def guided_logits(module: Any = autoregressive) -> Transform:
    """Classifier-free guidance of logits."""
    claims = {"logits": True, "exact": True}
    return Transform("guidance", lambda c, u, scale: module.guided(c, u, scale), "guidance of logits", claims)


def gradient_guidance(module: Any = guidance) -> Transform:
    """A model's score moved by a gradient at x_t."""

    def apply(said: Any, gradient: Any, scale: float, alpha_bar: float, kind: str, x: Any) -> Any:
        model = module.by_gradient(
            lambda x_t, t, cond: said, lambda x_t, t, cond: ag.sum(x_t * gradient, 1), _one(alpha_bar), scale, kind
        )
        return ag.raw(model(x, np.ones(len(x))))

    return Transform("pull", apply, "guidance by a gradient", {"kinds": KINDS})


def guess_guidance(module: Any = guidance) -> Transform:
    """A model's score moved by a gradient at its guess of x_0."""

    def apply(x: Any, mean: float, std: float, gradient: Any, scale: float, alpha_bar: float, kind: str) -> Any:
        level = Level(1.0, alpha_bar**0.5, (1 - alpha_bar) ** 0.5)

        def model(x_t: Any, t: Any, cond: Any) -> Any:
            return said(kind, *Gaussian(mean, std)(x_t, level, 0), level)

        guided = module.by_x_0_gradient(
            model, lambda x_0, t, cond: ag.sum(x_0 * gradient, 1), _one(alpha_bar), scale, kind
        )
        return ag.raw(guided(x, np.ones(len(x))))

    return Transform("guess pull", apply, "guidance by the guess", {"kinds": KINDS})


def _one(alpha_bar: float) -> Schedule:
    return Schedule([1.0, alpha_bar])


def rescaled_guidance(module: Any = classifier_free) -> Transform:
    """Guidance rescaled to the contrast of the conditional prediction."""
    return Transform("rescale", lambda guided, c, phi: ag.raw(module.rescaled(guided, c, phi)), "rescaled guidance")


def dynamic_threshold(module: Any = classifier_free) -> Transform:
    """The guess of x_0 brought into range by a quantile of it."""
    return Transform(
        "threshold", lambda x_0, share, bound: module.dynamic_threshold(share, bound)(x_0), "dynamic threshold"
    )


# --- something given --------------------------------------------------------------------------------------------------


class _Walk:
    """Levels evenly picked from the linear schedule's thousand."""

    steps: tuple[int, ...] = (2, 3, 7)

    def levels(self, n: int) -> Any:
        """As `adapters.Ours` has them."""
        return Ours("ddim").levels(n)


def _schedule(n: int) -> Schedule:
    return schedules.spaced(LINEAR, n)


def _told(model: Any) -> Any:
    return lambda x_t, t, cond=None: model(x_t, t)


class Replacement(_Walk):
    """`samplers.inpaint.replace`; RePaint with ``resample`` above 1."""

    space = "inpainting"

    def __init__(self, module: Any = inpaint, *, resample: int = 1, jump: int = 1, eta: float = 1.0) -> None:
        self.module, self.settings = module, {"resample": resample, "jump": jump, "eta": eta}
        self.name = ("repaint" if resample > 1 else "replacement") + f" ({resample}, {jump}, eta={eta:g})"
        ups = lambda n: (resample - 1) * len(range(1, n - jump + 1, jump))  # noqa: E731
        downs = lambda n: n + jump * ups(n)  # noqa: E731
        draws = lambda n: 1 + (downs(n) - 1) * (1 + (eta > 0)) + ups(n)  # noqa: E731
        self.claims = {"calls": downs, "draws": draws, "noised": True, "exact": True, "point": True}
        self.steps = tuple(n for n in (1, 2, 3, 7) if jump <= max(1, n - 1))

    def sample(self, model: Any, x: Any, known: Any, mask: Any, n: int, noise: Any) -> Any:
        """From x at the first level."""
        return self.module.replace(_told(model), x, known, mask, _schedule(n), rng=_Rng(noise), **self.settings)


class Kept(_Walk):
    """`samplers.inpaint.keep` under DDIM: known pixels are corrected in the guess."""

    space, name = "inpainting", "known pixels of the guess"

    def __init__(self, module: Any = inpaint) -> None:
        self.module, self.claims = module, {"calls": "n", "point": True}

    def sample(self, model: Any, x: Any, known: Any, mask: Any, n: int, noise: Any) -> Any:
        """From x at the first level."""
        return ddim.sample(self.module.keep(_told(model), known, mask, LINEAR), x, _schedule(n))


class Edited(_Walk):
    """`samplers.inpaint.img2img`."""

    space, name = "editing", "img2img"

    def __init__(self, module: Any = inpaint) -> None:
        self.module = module
        self.claims: dict[str, Any] = {}

    def sample(self, model: Any, x_0: Any, strength: float, n: int, noise: Any) -> Any:
        """Up to the level of the strength, and down again."""
        return self.module.img2img(_told(model), x_0, _schedule(n), strength, rng=_Rng(noise))


class Inverted:
    """`samplers.ddim.encode`, and DDIM for the way back."""

    space, name = "inversion", "ddim inversion"

    def __init__(self, module: Any = ddim, sigmas: Any = None) -> None:
        self.module, self.claims = module, {"order": 1}
        self.walk = Ours("ddim", sigmas=sigmas)

    def levels(self, n: int) -> Any:
        """Those of DDIM."""
        return self.walk.levels(n)

    def on(self, sigmas: Any) -> "Inverted":
        """The same on levels with these noise-to-signal ratios."""
        return Inverted(self.module, sigmas)

    def encode(self, model: Any, x_0: Any, n: int) -> Any:
        """The latent of x_0."""
        return self.module.encode(_told(model), x_0, self.walk._schedule(n))

    def decode(self, model: Any, x: Any, n: int) -> Any:
        """Down again."""
        return self.module.sample(_told(model), x, self.walk._schedule(n))


# --- points, codes, candidates ----------------------------------------------------------------------------------------


def arc(module: Any = interpolation) -> Transform:
    """Spherical interpolation."""
    return Transform("slerp", lambda a, b, t: module.slerp(a, b, t), "slerp", {"norms": "linear"})


def nearest_code(module: Any = quantize) -> Transform:
    """The nearest-code kernel."""
    return Transform("quantizer", lambda z, codes: module.nearest_code(z, codes), "nearest code", {"far": True})


def vq_choice(module: Any = vq_vae) -> Transform:
    """The VQ-VAE's choice of codes."""
    return Transform("quantizer", lambda z, codes: module.nearest(z, codes), "vq-vae's choice", {"far": True})


def reparameterisation(module: Any = ag) -> Transform:
    """A Gaussian's draw as a function of its parameters."""
    return Transform(
        "latent", lambda mu, log_var, eps: ag.raw(module.reparameterize(mu, log_var, eps)), "reparameterize"
    )


class GanLatents:
    """The latents that a GAN's `sample` gives its generator, here replaced by a function."""

    space, name = "prior", "gan's latents"

    def __init__(self, module: Any = gan) -> None:
        self.module = module
        self.claims: dict[str, Any] = {}

    def sample(self, decode: Any, n: int, d: int, noise: Any) -> Any:
        """A GAN of points with d latents, built for this."""
        points = Split(np.zeros((1, d), np.float32))
        data = Dataset("points", points, points, points, levels=None, classes=())
        system = self.module.build(self.module.Config(latent=d, width=1, depth=1, batch_norm=False), data, seed=0)
        system.modules["generator"].forward = lambda z, y=None: decode(z)
        return system.sample(n, rng=_Rng(noise))


def truncated(module: Any = gan) -> Transform:
    """The truncation trick, given its bound."""
    return Transform("truncation", lambda z, c: module.truncated(z, 2 * ndtr(c) - 1), "truncation", {"quantiles": True})


def reranking(module: Any = dalle) -> Transform:
    """The winner of each row of candidates."""
    return Transform("ranking", lambda scores, k: module.best(scores)[:, None], "best of N", {"most": 1})


def everything() -> list[Any]:
    """All of ours but the samplers of `adapters` and the losses."""
    return [
        Tokens(),
        Tokens(cached=True),
        pixel_network(),
        word_network(),
        picture_network(),
        token_filter(),
        guided_logits(),
        classifier_free_guidance(),
        classifier_free_guidance(w=True),
        gradient_guidance(),
        guess_guidance(),
        rescaled_guidance(),
        dynamic_threshold(),
        Replacement(),
        Replacement(eta=0.4),
        Replacement(resample=3),
        Replacement(resample=2, jump=2, eta=0.0),
        Kept(),
        Edited(),
        Inverted(),
        arc(),
        nearest_code(),
        vq_choice(),
        reparameterisation(),
        GanLatents(),
        truncated(),
        reranking(),
    ]
