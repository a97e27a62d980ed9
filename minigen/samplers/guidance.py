r"""Guidance by a gradient: a diffusion model draws what is asked for, without being trained again.

By Bayes' rule the score of $p(x_t \mid y)$ is that of $p(x_t)$ plus $\nabla_{x_t} \ln p(y \mid x_t)$ (Dhariwal & Nichol
2021, 2105.05233, section 4). Any differentiable measure of how well $x_t$ fits $y$ will do for $\ln p(y \mid x_t)$: a
classifier, CLIP, features of another picture, its pixels. So every guidance here takes a model ``model(x_t, t, cond)``
and returns a model of the same kind, which any sampler can use, and which can be guided again: scores add up.

| symbol | code | shape |
|---|---|---|
| $\ln p(y \mid x_t)$, or what stands for it | ``log_p(x_t, t, cond)``, $x_t$ a Tensor | (n,) |
| $s$, how often the evidence counts | ``scale``, a number or a function of the times | (n,) |
| $g = s\, \nabla_{x_t} \ln p(y \mid x_t)$ | ``pull`` | like $x_t$ |
| $\hat x_0(x_t)$, the model's guess | ``guess`` | like $x_t$ |
| $\bar\alpha_t$ of the schedule the network was TRAINED with | ``schedule.alpha_bar_at(t)`` | (n,) |

The sampled density is $p(x_t)\, p(y \mid x_t)^s$ at each level; $s = 0$ is the model, $s = 1$ Bayes' rule. A change of
the score by $g$ is, in the four kinds of prediction (`maths.parametrisation`),

$$\hat\epsilon - \sqrt{1 - \bar\alpha_t}\, g \;\;(1) \qquad \hat x_0 + \frac{1 - \bar\alpha_t}{\sqrt{\bar\alpha_t}}\, g \;\;(2) \qquad \hat v - \sqrt{\frac{1 - \bar\alpha_t}{\bar\alpha_t}}\, g \;\;(3) \qquad \text{score} + g \;\;(4)$$

(1) is line 4 of algorithm 2 of Dhariwal & Nichol; (2) to (4) are the same for the other kinds, so that the sampled path
does not depend on the kind. Algorithm 1, which moves the mean of ancestral sampling, is `classifier_score` for
`ancestral.sample`.

The four guides, each a ``log_p``:
1. `label_log_p`: a classifier that was trained on noisy pictures;
2. `clip_log_p`: a CLIP that is given $t$ (Nichol et al. 2021, 2112.10741, section 2.4), or a clean one on $\hat x_0$;
3. `feature_log_p`: features of a reference picture, as `content`, `structure` or `style` (Liu et al. 2021, 2112.05744);
4. `pixel_log_p`: $-\| A(\hat x_0) - y \|^2$ (Ho et al. 2022, 2204.03458; Chung et al. 2022, 2209.14687); `replaced` is
   its hard form (after Choi et al. 2021, 2108.02938).

A guide that knows only clean pictures is evaluated at $\hat x_0(x_t)$ and differentiated through the network:
`by_x_0_gradient`, or `through_x_0` if the guess is another model's than the guided one's.

**Order.** ``by_x_0_gradient(by_gradient(model, ...), ...)`` uses the guess of the guided model, and differentiates the
inner gradient too; ``by_gradient(by_x_0_gradient(model, ...), ...)`` uses the guess of ``model``, and the two scores
add up.

**What is not exact.** (1) with the true $p(y \mid x_t)$ and $s = 1$ samples the posterior; all else is heuristic. For
$s \ne 1$ the densities $p(x_t)\, p(y \mid x_t)^s$ are not those of one noising chain. $\ln p(y \mid \hat x_0(x_t))$ in
place of $\ln p(y \mid x_t)$ ignores that $x_0$ is still uncertain: tests/minigen/samplers/test_guidance.py measures the
error on Gaussian data.

Details that matter, and the tests that guard them (same file):
- the factor $\sqrt{1 - \bar\alpha_t}$ and its sign; $\bar\alpha$ of the time that the model is given, not of the level
  in a respaced schedule;
- the gradient of the SUM over samples of ``log_p``: a sample's own, whatever else is in the batch;
- a learned variance is never guided: of a pair (prediction, v), v passes unchanged;
- no gradient reaches a guide's or the model's parameters; samplers may call a guided model inside ``no_grad``;
- where the scale is 0 for the whole batch the guide is not called, and the model's own arrays are returned.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

import autograd as ag
from kernels.backend import array_module, to_numpy
from minigen.maths.parametrisation import check_kind, x_0_of
from minigen.maths.schedules import Schedule

Scale = float | Callable[[Any], Any]  # a number, or a function of times (n,) -> (n,)
LogP = Callable[[Any, Any, Any], Any]  # (x_t Tensor, t, cond) -> (n,) Tensor


# --- scales -----------------------------------------------------------------------------------------------------------


def scale_at(scale: Scale, t: Any) -> Any:
    """The scale at times ``t`` (n,): (n,) float64. Raises ValueError unless it is finite."""
    times = np.asarray(to_numpy(t), np.float64)
    s = np.broadcast_to(np.asarray(scale(times) if callable(scale) else scale, np.float64), times.shape)
    wrong = ~np.isfinite(s)
    if wrong.any():
        when = f" at time {times[wrong][0]:g}" if callable(scale) else ""
        raise ValueError(f"scale must be finite, got {s[wrong][0]}{when}")
    return s


def interval(scale: Scale, low: float, high: float, *, outside: float) -> Scale:
    r"""``scale`` at times within [``low``, ``high``], ``outside`` elsewhere (Kynkaanniemi et al. 2024, 2404.07724).

    ``outside`` is the value that leaves the model unguided: 0 for a gradient's scale and for $w$ of `classifier_free`,
    1 for its $s$.
    """
    if not low <= high:
        raise ValueError(f"an interval needs low <= high, got {low} and {high}")

    def at(times: Any) -> Any:
        return np.where((low <= times) & (times <= high), scale(times) if callable(scale) else scale, outside)

    return at


def of_sigma(scale: Callable[[Any], Any], schedule: Schedule) -> Scale:
    r"""A function of $\sigma = \sqrt{(1 - \bar\alpha_t) / \bar\alpha_t}$, in which papers give intervals, as one of
    times of ``schedule``.
    """

    def at(times: Any) -> Any:
        a = schedule.alpha_bar_at(times)
        with np.errstate(divide="ignore"):
            return scale(((1 - a) / a) ** 0.5)

    return at


def reconstruction_scale(weight: float, schedule: Schedule) -> Scale:
    r"""$\frac{w_r}{2} \frac{\bar\alpha_t}{1 - \bar\alpha_t}$: with `pixel_log_p`, $\hat x_0$ moves by
    $-\frac{w_r \sqrt{\bar\alpha_t}}{2} \nabla_{x_t} \| A(\hat x_0) - y \|^2$ (Ho et al. 2022).
    """
    return of_sigma(lambda sigma: 0.5 * weight / sigma**2, schedule)


# --- the core: score arithmetic ---------------------------------------------------------------------------------------


def gradient(log_p: LogP, x_t: Any, t: Any, cond: Any = None) -> Any:
    r"""$\nabla_{x_t} \ln p$ (n, ...) of ``log_p`` at ``x_t``, an array: each sample's own, as no term of the sum
    mixes samples.

    Given a Tensor that is being differentiated, the gradient is itself recorded.
    """
    with ag.enable_grad():
        x, tracked = _leaf(x_t)
        g = ag.grad(ag.sum(_checked(log_p(x, t, cond), len(x))), x, create_graph=tracked)
    return g if tracked else ag.raw(g)


def by_gradient(
    model: Callable[..., Any], log_p: LogP, schedule: Schedule, scale: Scale = 1.0, kind: str = "eps"
) -> Callable[..., Any]:
    r"""``model`` with its score moved by $s\, \nabla_{x_t} \ln p(y \mid x_t)$: eqs. 1 to 4, whichever ``kind`` it predicts.

    $s$ is the exponent of $p(y \mid x_t)^s$: 0 is the model, 1 Bayes' rule. ``schedule`` is that of training.
    Raises ValueError where $\bar\alpha_t = 0$ and the kind is "x_0" or "v": (2) and (3) have no value there.
    """
    check_kind(kind)

    def guided(x_t: Any, t: Any, cond: Any = None) -> Any:
        said = model(x_t, t, cond)
        s = scale_at(scale, _times(t, x_t))
        return said if not s.any() else pulled(said, gradient(log_p, x_t, t, cond), s, _signal(t, x_t, schedule), kind)

    return guided


def by_x_0_gradient(
    model: Callable[..., Any], log_p: LogP, schedule: Schedule, scale: Scale = 1.0, kind: str = "eps"
) -> Callable[..., Any]:
    r"""``model`` with its score moved by $s\, \nabla_{x_t} \ln p(y \mid \hat x_0(x_t))$, through the network:
    ``log_p(x_0, t, cond)`` is evaluated at its guess.

    The scale's convention is that of `by_gradient`. One evaluation of the network gives the guess and is
    differentiated. The model must be computed with autograd's operations: TypeError otherwise.
    """
    check_kind(kind)

    def guided(x_t: Any, t: Any, cond: Any = None) -> Any:
        s = scale_at(scale, _times(t, x_t))
        if not s.any():
            return model(x_t, t, cond)
        signal = _signal(t, x_t, schedule)
        with ag.enable_grad():
            x, tracked = _leaf(x_t)
            said = model(x, t, cond)
            value = _checked(log_p(_guess(said, x, t, schedule, kind), t, cond), len(x))
            g = ag.grad(ag.sum(value), x, create_graph=tracked)
        if not tracked:
            said, g = tuple(map(ag.raw, said)) if isinstance(said, tuple) else ag.raw(said), ag.raw(g)
        return pulled(said, g, s, signal, kind)

    return guided


def through_x_0(model: Callable[..., Any], log_p: LogP, schedule: Schedule, kind: str = "eps") -> LogP:
    r"""$\ln p(y \mid \hat x_0(x_t))$ as a function of $x_t$: ``log_p`` at the guess of ``model``.

    For `score_of`, and for a guess that must not depend on other guides; otherwise `by_x_0_gradient` saves a call.
    """
    check_kind(kind)

    def of_x_t(x_t: Any, t: Any, cond: Any = None) -> Any:
        return log_p(_guess(model(x_t, t, cond), x_t, t, schedule, kind), t, cond)

    return of_x_t


def score_of(log_p: LogP, scale: Scale = 1.0) -> Callable[..., Any]:
    r"""``score(x, t, cond)`` $= s\, \nabla_x \ln p(y \mid x)$, an array: what `ancestral.sample` moves the mean by
    (Dhariwal & Nichol 2021, algorithm 1).

    There the sampler multiplies by $\sigma_t^2$, and decides whether $x$ is the mean or $x_t$.
    """

    def score(x: Any, t: Any, cond: Any = None) -> Any:
        s = scale_at(scale, _times(t, x))
        return _shaped(s, x) * gradient(log_p, x, t, cond) if s.any() else x * 0

    return score


def pulled(said: Any, g: Any, scale: Any, signal: Any, kind: str) -> Any:
    r"""Eqs. 1 to 4: a model's output ``said`` (of a pair, only the prediction) when its score changes by ``scale`` (n,)
    times ``g``; ``signal`` (n,) is $\bar\alpha_t$.
    """
    noise = 1 - signal
    with np.errstate(divide="ignore"):
        factor = {
            "eps": -(noise**0.5),
            "x_0": noise / signal**0.5,
            "v": -((noise / signal) ** 0.5),
            "score": np.ones_like(noise),
        }[kind]
    return _added(said, np.where(scale == 0, 0.0, scale) * np.where(scale == 0, 0.0, factor), g)


def replaced(
    model: Callable[..., Any], project: Callable[[Any], Any], y: Any, schedule: Schedule, kind: str = "eps"
) -> Callable[..., Any]:
    r"""``model`` with $\hat x_0 \leftarrow \hat x_0 - \phi(\hat x_0) + \phi(y)$: what ``project`` $\phi$ keeps is taken
    from ``y``, the rest from the model.

    With $\phi$ = `low_pass` this is the replacement of Choi et al. 2021, made on the guess of $x_0$ at every level
    instead of on $x_{t-1}$, so that no noise need be drawn for $y$. For a linear projection $\phi$ all guesses have the
    same $\phi(\hat x_0)$, so the result has $\phi(x_0) = \phi(y)$, to rounding. ``y`` is like $x_0$, or a function of
    cond, or None for cond itself.
    """
    check_kind(kind)

    def guided(x_t: Any, t: Any, cond: Any = None) -> Any:
        said = model(x_t, t, cond)
        signal = _signal(t, x_t, schedule)
        change = project(_asked(y, cond)) - project(_guess(said, x_t, t, schedule, kind))
        noise = 1 - signal
        with np.errstate(divide="ignore"):
            factor = {  # eqs. 1 to 4 in units of x_0
                "eps": -((signal / noise) ** 0.5),
                "x_0": np.ones_like(noise),
                "v": -(noise**-0.5),
                "score": signal**0.5 / noise,
            }[kind]
        return _added(said, factor, change)

    return guided


def low_pass(factor: int) -> Callable[[Any], Any]:
    r"""$\phi$: every ``factor`` x ``factor`` block of pixels replaced by its mean; linear, and $\phi \circ \phi = \phi$."""
    return lambda x: ag.upsample_nearest(ag.avg_pool(x, factor), factor)


# --- guide 1: a classifier --------------------------------------------------------------------------------------------


def label_log_p(classifier: Callable[..., Any], label: Any = None) -> LogP:
    r"""$\ln p(y \mid x_t)$: log softmax of ``classifier(x_t, t)`` (n, classes) at the wanted label.

    ``label`` is an integer, (n,) integers, or a function of cond; None: cond is the label. A classifier that mixes
    samples (batch norm in training) would give every sample a gradient of the others.
    """

    def log_p(x_t: Any, t: Any, cond: Any = None) -> Any:
        logits = classifier(x_t, t)
        n, classes = logits.shape
        y = np.asarray(to_numpy(_asked(label, cond)))
        if y.dtype.kind not in "iu" or y.shape not in ((), (n,)) or np.any(y < 0) or np.any(y >= classes):
            raise ValueError(f"labels must be one or {n} integers from 0 to {classes - 1}, got {y}")
        return -ag.cross_entropy(logits, array_module(ag.raw(logits)).asarray(np.broadcast_to(y, (n,))))

    return log_p


def classifier_score(classifier: Callable[..., Any], scale: Scale = 1.0, label: Any = None) -> Callable[..., Any]:
    r"""$s\, \nabla_x \ln p(y \mid x)$ of a classifier, for ``ancestral.sample(score=...)``: `score_of` of `label_log_p`."""
    return score_of(label_log_p(classifier, label), scale)


# --- guide 2: CLIP ----------------------------------------------------------------------------------------------------


def clip_log_p(embed: Callable[..., Any], target: Any = None, similarity: str = "cosine") -> LogP:
    r"""$f(x) \cdot g(y)$ (GLIDE, section 2.4), of vectors scaled to unit length ("cosine") or as they are ("dot").

    ``embed(x, t)`` is the image network on the tape: `CLIP.embed_image` if it takes $t$, or
    ``lambda x, t: net.embed_image(x)`` for a clean one, with `by_x_0_gradient`. ``target`` (n, d) or (1, d) embeds the
    text (or a picture); or it is a function of cond, or None for cond itself. CLIP's logits are the cosine times its
    own $e^\tau$: with that as the scale, the pull is that of a classifier over captions, without its normaliser.
    """
    if similarity not in ("cosine", "dot"):
        raise ValueError(f"similarity must be 'cosine' or 'dot', got {similarity!r}")

    def log_p(x: Any, t: Any, cond: Any = None) -> Any:
        image, wanted = embed(x, t), ag.raw(_asked(target, cond))
        if similarity == "cosine":
            image, wanted = unit(image), unit(wanted)
        return ag.sum(image * wanted, -1)

    return log_p


def unit(x: Any) -> Any:
    """Vectors along the last axis, scaled to unit length (0 stays 0)."""
    return x / ag.sqrt(ag.sum(x * x, -1, keepdims=True) + 1e-24)


# --- guide 3: features of a picture -----------------------------------------------------------------------------------


def content(a: Any, b: Any) -> Any:
    r"""Cosine of the features' means over all places (n,): what is shown, wherever it is (Liu et al. 2021)."""
    return ag.sum(unit(_pooled(a)) * unit(_pooled(b)), -1)


def structure(a: Any, b: Any) -> Any:
    r"""$-\sum_{ijc} (a_{ijc} - b_{ijc})^2$ (n,): the same at the same place.

    The paper's average over places and channels is left to the scale.
    """
    d = a - b
    return -_total(d * d)


def style(a: Any, b: Any) -> Any:
    r"""$-\| G(a) - G(b) \|_F^2$ (n,) with the Gram matrix $G_{cd} = \frac{1}{hw} \sum_{ij} a_{ijc}\, a_{ijd}$: which
    features go together, wherever they are.
    """
    return structure(_gram(a), _gram(b))


def feature_log_p(features: Callable[..., Any], reference: Any, compare: Callable[[Any, Any], Any]) -> LogP:
    r"""``compare`` (`content`, `structure`, `style`) of the features of $x$ and of a reference picture, added up if
    there are several maps.

    ``features(x, t)`` gives (n, h, w, c), or a list of such maps. ``reference`` is a picture (n or 1, h, w, c), for
    features of $\hat x_0$ (`by_x_0_gradient`), or a function of the times, for a network trained on noise: see
    `noised`.
    """

    def log_p(x: Any, t: Any, cond: Any = None) -> Any:
        with ag.no_grad():
            told = _times(t, x)
            shown = reference(told) if callable(reference) else reference
            theirs = features(shown, told[: len(shown)])
        ours = features(x, t)
        if not isinstance(ours, list | tuple):
            ours, theirs = [ours], [theirs]
        total: Any = 0.0
        for a, b in zip(ours, theirs, strict=True):
            total = total + compare(a, ag.raw(b))
        return total

    return log_p


def noised(reference: Any, noise: Any, schedule: Schedule) -> Callable[[Any], Any]:
    r"""The function $t \mapsto x'_t = \sqrt{\bar\alpha_t}\, x'_0 + \sqrt{1 - \bar\alpha_t}\, \epsilon$ of a reference
    $x'_0$, as noisy as the picture it is compared with.

    One $\epsilon$ = ``noise`` (n, ...) for all levels, so that the guided model stays deterministic.
    """

    def at(times: Any) -> Any:
        a = schedule.alpha_bar_at(to_numpy(times))
        return _shaped(a**0.5, noise) * reference + _shaped((1 - a) ** 0.5, noise) * noise

    return at


# --- guide 4: pixels --------------------------------------------------------------------------------------------------


def pixel_log_p(operator: Callable[[Any], Any], y: Any = None) -> LogP:
    r"""$-\| A(x) - y \|^2$ (n,), for `by_x_0_gradient`: ``operator`` $A$ (a mask, a down-sampling) is known, ``y`` is
    what was observed.

    For $y = A(x_0) + N(0, r^2 I)$ the scale $1 / (2 r^2)$ makes it $\ln p(y \mid x_0)$ up to a constant (Chung et al.
    2022), `reconstruction_scale` is the weight of Ho et al. 2022. ``y``: also a function of cond, or None for cond.
    """

    def log_p(x: Any, t: Any, cond: Any = None) -> Any:
        return structure(operator(x), ag.raw(_asked(y, cond)))

    return log_p


# --- small things -----------------------------------------------------------------------------------------------------


def _asked(what: Any, cond: Any) -> Any:
    """What is asked for: a fixed value, a function of the condition, or the condition itself."""
    return cond if what is None else what(cond) if callable(what) else what


def _leaf(x_t: Any) -> tuple[Any, bool]:
    """``x_t`` as a Tensor to differentiate by, and whether the caller differentiates it too."""
    if _tracked(x_t):
        return x_t, True
    return ag.Tensor(ag.raw(x_t), requires_grad=True), False


def _tracked(x: Any) -> bool:
    return isinstance(x, ag.Tensor) and (x.node is not None or x.requires_grad)


def _checked(value: Any, n: int) -> Any:
    if not isinstance(value, ag.Tensor):
        raise TypeError(f"log_p must be computed from x_t with autograd's operations, got {type(value).__name__}")
    if value.shape != (n,):
        raise ValueError(f"log_p must be one number per sample, shape ({n},), got {value.shape}")
    return value


def _times(t: Any, x_t: Any) -> Any:
    return np.broadcast_to(to_numpy(t), (len(x_t),))


def _signal(t: Any, x_t: Any, schedule: Schedule) -> Any:
    r"""$\bar\alpha_t$ (n,) in float64; a small one would lose its digits in $1 - (1 - \bar\alpha_t)$."""
    return schedule.alpha_bar_at(_times(t, x_t))


def _shaped(values: Any, x: Any) -> Any:
    """(n,) float64 -> (n, 1, ...) that multiplies ``x`` in its dtype."""
    x = ag.raw(x)
    return array_module(x).asarray(values, x.dtype).reshape(-1, *(1,) * (x.ndim - 1))


def _added(said: Any, factor: Any, change: Any) -> Any:
    """The prediction plus ``factor`` (n,) times ``change``; ``v`` of a pair is unchanged."""
    if not np.all(np.isfinite(factor)):
        raise ValueError(
            "a guide cannot move this kind of prediction where alpha_bar is 0 or 1: set the scale to 0 there"
        )
    output, *rest = said if isinstance(said, tuple) else (said,)
    moved = output + _shaped(factor, change) * change
    return (moved, *rest) if rest else moved


def _guess(said: Any, x_t: Any, t: Any, schedule: Schedule, kind: str) -> Any:
    r"""$\hat x_0$ from a model's output ``said`` at ``x_t``."""
    output = said[0] if isinstance(said, tuple) else said
    if _tracked(x_t) and not isinstance(output, ag.Tensor):
        raise TypeError("the model must be computed with autograd's operations: its guess of x_0 is differentiated")
    levels, level = schedule.told(_times(t, x_t))
    return x_0_of(output, x_t, level, levels, kind)


def _flat(x: Any) -> Any:
    """(n, ..., c) -> (n, places, c)."""
    return ag.reshape(x, (x.shape[0], -1, x.shape[-1]))


def _total(x: Any) -> Any:
    """The sum over everything but samples: (n, ...) -> (n,)."""
    return ag.sum(ag.reshape(x, (x.shape[0], -1)), 1)


def _pooled(x: Any) -> Any:
    return ag.mean(_flat(x), 1)


def _gram(x: Any) -> Any:
    x = _flat(x)
    return (ag.transpose(x, (0, 2, 1)) @ x) * (1 / x.shape[1])
