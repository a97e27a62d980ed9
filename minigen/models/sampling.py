"""How the diffusion models of this folder are sampled from the command line: one set of flags, and what they do.

A model file gets these flags by importing ``Sampling``, or by a dataclass of its own that begins with its fields; its
``sample`` passes them to `draw`, together with the (guided) network and $x_T$. The samplers themselves are in
`minigen/samplers/`, which knows nothing of flags.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

import numpy as np

from autograd.tensor import raw
from kernels.backend import array_module, to_numpy
from minigen.maths.schedules import Schedule, spaced, uniform_times
from minigen.samplers import ancestral, choose, inpaint
from minigen.samplers.predict import Clip

Named = Literal["ancestral", "ddim", "plms", "dpmpp-2m", "dpmpp-2s", "dpmpp-3m", "euler", "heun", "euler-ancestral"]
Sampler = Named | str
Spacing = Literal["uniform", "quadratic", "karras"]
BY_VARIANCE = {"small": "ancestral", "large": "ancestral-large", "learned": "ancestral-learned"}  # names in `choose`
# The last of evenly spread levels are far apart in sigma, too far for Heun's mean of two slopes.
OWN_SPACING = {"heun": "karras"}


@dataclass(frozen=True)
class Sampling:
    """Settings of sampling; --steps says how many levels of the chain are visited."""

    sampler: Sampler = "ancestral"
    """The path from noise to picture: random at every step (ancestral, euler-ancestral), or along an ODE (all others).
    Or your own sampler, in the form that `minigen laws` checks: module:Name.
    """
    spacing: Spacing | None = None
    """Which levels are visited: evenly spread, denser near the data, or evenly in the 7th root of the noise. If left
    out, "karras" for "heun", "uniform" for all others.
    """
    eta: float | None = None
    """Noise of "ddim" (default 0) and "euler-ancestral" (default 1): from 0, none, to 1, as much as "ancestral"."""
    variance: Literal["small", "large", "learned"] | None = None
    """Variance of "ancestral": the posterior's, the forward step's, the network's; the model's choice if left out."""


@dataclass(frozen=True)
class Editing:
    """Settings of editing with a network that was never trained for it (`samplers/inpaint.py`)."""

    steps: int | None = None
    """Levels of the chain; the model's own choice if left out."""
    strength: float = 0.5
    """Without a mask (SDEdit): how far up the chain the picture is noised before it is denoised; 1 is all the way."""
    resample: int = 5
    """With a mask: how often each step is repeated (RePaint); 1 only replaces the known pixels."""


def check_pictures(config: Any, dataset: Any, patch: int = 1) -> None:
    """Raise ValueError for data that are not pictures, or whose sides ``config.multipliers`` cannot halve, in patches of so
    many pixels, and for ``config.sample_steps`` below 1.
    """
    if len(dataset.shape) != 3:
        raise ValueError(f"this model draws pictures, and the data set '{dataset.name}' holds no pictures")
    (h, w, _), factor = dataset.shape, patch * 2 ** (len(config.multipliers) - 1)
    if h % factor or w % factor:
        also = f"patch is {patch} and " if patch > 1 else ""
        raise ValueError(
            f"{also}multipliers has {len(config.multipliers)} levels, each of half the size: the sides of the pictures must "
            f"be multiples of {factor}, got {h} x {w}"
        )
    if config.sample_steps < 1:
        raise ValueError(f"sample_steps must be at least 1, got {config.sample_steps}")


def sides_up_to(size: int, sides: Sequence[int]) -> Sequence[int]:
    """Of the sides of a picture and of its up-sampled versions, those up to ``size``, which must be one of them."""
    if size not in sides:
        raise ValueError(f"size must be one of {', '.join(map(str, sides))} with these weights, got {size}")
    return sides[: sides.index(size) + 1]


def check_belong(
    use: str, settings: Mapping[str, Any], defaults: Mapping[str, Any], names: Collection[str] = ()
) -> None:
    """Raise ValueError for the first of ``settings`` that differs from its default and is not in ``names``, those that
    ``use`` has.
    """
    for name, value in settings.items():
        if name not in names and value != defaults[name]:
            said = "one of yours" if callable(value) else repr(value)
            raise ValueError(f"{use} has no {name}: leave it out, got {said}")


def draw(
    model: Callable[..., Any],
    x_T: Any,
    schedule: Schedule,
    *,
    steps: int,
    rng: Any,
    own: str = "small",
    sampler: str | Callable[..., Any] = "ancestral",
    spacing: str | None = None,
    eta: float | None = None,
    variance: str | None = None,
    clip: Clip = 1.0,
    cond: Any = None,
    kind: str = "eps",
    callback: Callable[[float, Any], None] | None = None,
    start: Any = None,
    strength: float | None = None,
) -> Any:
    r"""$x_0$ from ``x_T`` (n, ...) over ``steps`` levels of the training schedule, by the settings of `Sampling`.

    ``own`` is the default ``variance``. If ``clip`` is a number, the result is clipped as $\hat x_0$ is.
    ``callback(t, x_t)`` is given the network's time, which is fractional with the spacing "karras". Raises ValueError,
    before the first network call, for settings that do not exist or do not go together. ``start``, of pictures (n, ...),
    takes the place of ``x_T``: they are noised up the levels as far as ``strength``, above 0 and at most 1, and denoised
    from there (SDEdit).

    A function as ``sampler``, such as `minigen.laws.as_sampler` returns, chooses its own levels:
    ``sampler(model, x_T, schedule, steps=, rng=, clip=, cond=, kind=, callback=)``.
    """
    if isinstance(sampler, type) or not (callable(sampler) or isinstance(sampler, str)):
        made = f"{sampler.__name__}()" if isinstance(sampler, type) else f"your {type(sampler).__name__}"
        raise ValueError(f"sampler must be a name or a function: hand over minigen.laws.as_sampler({made})")
    if callable(sampler):
        if not (start is None and strength is None):
            raise ValueError("a sampler of your own begins with noise: to begin with a picture name one of ours")
        settings = {"spacing": spacing, "eta": eta, "variance": variance}
        check_belong("a sampler of your own", settings, dict.fromkeys(settings))
        x_0 = sampler(model, x_T, schedule, steps=steps, rng=rng, clip=clip, cond=cond, kind=kind, callback=callback)
    else:
        name = checked(schedule, steps, sampler, variance, eta, own)
        grid = levels(schedule, steps, sampler, spacing)
        see = None if callback is None else (lambda t, x_t, x_0: callback(grid.times[t].item(), x_t))
        how: dict[str, Any] = {"rng": rng, "eta": eta, "clip": clip, "cond": cond, "kind": kind, "callback": see}
        if start is None:
            check_belong("drawing from noise", {"strength": strength}, {"strength": None})
            x_0 = choose.draw(name, model, x_T, grid, **how)
        elif strength is not None and 0 < strength <= 1:
            x_0 = inpaint.img2img(model, start, grid, strength, sampler=partial(choose.draw, name), **how)
        else:
            raise ValueError(f"strength must be above 0 and at most 1, got {strength}")
    return np.clip(x_0, -clip, clip) if isinstance(clip, float | int) else x_0


def edit(
    model: Callable[..., Any],
    image: Any,
    keep: Any,
    schedule: Schedule,
    *,
    n: int,
    rng: Any,
    steps: int,
    strength: float = Editing.strength,
    resample: int = Editing.resample,
) -> Any:
    r"""``n`` edits of ``image`` (h, w, c) by the settings of `Editing`; $\eta = 1$, $\hat x_0$ clipped to [-1, 1].

    Where ``keep`` (h, w, 1) is True pixels stay, bit for bit, and the others are inpainted; None redraws the whole
    picture. Raises ValueError for settings that are out of range, and for ``strength`` with a mask or ``resample``
    without one.
    """
    use, name = ("an edit without a mask", "strength") if keep is None else ("painting by a mask", "resample")
    check_belong(use, {"strength": strength, "resample": resample}, vars(Editing()), (name,))
    xp = array_module(image)
    x_0 = xp.repeat(image[None], n, 0)
    if keep is None:
        how: dict[str, Any] = {"sampler": "ddim", "eta": 1.0, "start": x_0, "strength": strength}
        return draw(model, None, schedule, steps=steps, rng=rng, **how)
    grid = levels(schedule, steps)
    x_T = xp.asarray(rng.standard_normal(x_0.shape), x_0.dtype)
    return inpaint.replace(model, x_T, x_0, xp.asarray(keep), grid, rng=rng, resample=resample, clip=1.0)


def on_host(model: Callable[..., Any], xp: Any) -> Callable[..., Any]:
    """A network of the device of ``xp`` as a function of NumPy's arrays: ``x_t`` is moved there, what it says back."""

    def moved(x_t: Any, *how: Any) -> Any:
        said = model(xp.asarray(x_t), *how)
        return tuple(to_numpy(raw(part)) for part in said) if isinstance(said, tuple) else to_numpy(raw(said))

    return moved


def levels(schedule: Schedule, steps: int, sampler: str = "ancestral", spacing: str | None = None) -> Schedule:
    """The levels that are visited; None is the sampler's default ``spacing``."""
    return spaced(schedule, steps, spacing or OWN_SPACING.get(sampler, "uniform"))


def checked(
    schedule: Schedule, steps: int, sampler: str, variance: str | None, eta: float | None, own: str = "small"
) -> str:
    """The name in `choose` of what these settings ask for.

    Raises ValueError for settings that do not exist or do not go together, whatever the spacing.
    """
    uniform_times(schedule.T, steps)
    if sampler not in get_args(Named):
        known = ", ".join(get_args(Named))
        raise ValueError(f"unknown sampler {sampler!r}: use one of {known}, or one of yours: --sampler module:Name")
    choose.find(sampler, eta)
    return with_variance(sampler, variance, own)


def with_variance(sampler: str, variance: str | None, own: str) -> str:
    """The name in `choose` of a sampler with a variance; ``own`` is "learned" if the network predicts one.

    Raises ValueError for a variance that is unknown, or that the sampler or the network does not have.
    """
    if variance is not None and sampler != "ancestral":
        raise ValueError(
            f"variance is a setting of the sampler 'ancestral', and '{sampler}' has none, got {variance!r}"
        )
    if (variance or own) not in BY_VARIANCE:
        raise ValueError(
            f"variance must be one of {', '.join(map(repr, ancestral.VARIANCES))}, got {variance or own!r}"
        )
    if variance == "learned" and own != "learned":
        raise ValueError("variance 'learned' needs a model that has learnt one, and this one has not")
    return BY_VARIANCE[variance or own] if sampler == "ancestral" else sampler
