r"""Editing pictures with DALL-E 2: variations, interpolations, text diffs, inpainting, and how well they work.

Ramesh et al. 2022, arXiv 2204.06125, section 3.

All but inpainting start from the picture's embedding $z_i$ and its noise $x_T$ (`dalle2_decoder`) and change these or
add noise on the way down. The oracle of this world reads the results exactly:

| use | goal | figure |
|---|---|---|
| variations | all attributes stay, pixels change | share kept, mean change of a pixel |
| interpolation | each differing attribute changes once, with no other value in between; at least it never goes back | shares of the attributes |
| text diff | what the texts differ in becomes as in the second, all else stays | share that succeed |
| painting | the prompt is met, known pixels stay | share met, largest change of a known pixel |

You need: `dalle2.py` (the chain), `data/oracle.py`. New here: nothing; these are the uses.

Details that matter, and the tests that guard them (tests/minigen/models/test_dalle2.py):
- what a text leaves open is filled in from the picture, in the same way for both texts of a diff;
- one use at a time; each user error is reported in one sentence.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np

from kernels.backend import array_module, to_numpy
from minigen.data import Dataset, Split, shapes
from minigen.data.captions import (
    BACKGROUNDS,
    COLOURS,
    PLACES,
    SIZES,
    Scene,
    Thing,
    canonical,
    completed,
    parse,
)
from minigen.data.oracle import prompt_accuracy, verdicts
from minigen.data.oracle import read as read_pictures
from minigen.data.oracle import readings as readings_of
from minigen.maths import schedules
from minigen.maths.schedules import Schedule
from minigen.metrics.prompts import GROUPS, notes_for, prompt_report, prompts_of
from minigen.samplers import ddim

from . import clip, dalle2_decoder, glide_edits, sampling

SHOWN = 32  # prompts per group, and pictures per use, in the figures
LEVELS = 25  # between a picture and its noise
ITERATIONS = 1  # corrections of each step up
PATH = 9  # pictures of an interpolation in the figures
BLOCK = 64  # pictures that are processed at once
PRIORS = ("diffusion", "autoregressive", "text", "none")
UNSET = {"prompt": "", "eta": None, "theta": None, "noise": "arc"}  # settings of only some uses, in BELONG
BELONG = {
    "IMAGE": ("prompt",),
    "--variations": ("eta",),
    "--interpolate": ("eta", "noise"),
    "--text-diff": ("eta", "theta"),
}


# --- the uses ---------------------------------------------------------------------------------------------------------


def levels_of(chain: Any, steps: int | None) -> Schedule:
    """The levels between a picture and its noise, for both directions."""
    return schedules.spaced(chain.of_pixels, min(LEVELS, chain.config.T) if steps is None else steps)


def walked(chain: Any, x_T: Any, z: Any, levels: Schedule, *, guidance: float, eta: float, rng: Any) -> Any:
    """Pictures (n, h, w, c) from pairs of noise and embedding, block by block."""
    found = [np.zeros((0, *chain.shape), np.float32)]
    for i in range(0, len(z), BLOCK):
        part = z[i : i + BLOCK]
        told, null = chain.told(part), chain.told(0 * part)
        how: dict[str, Any] = {"guidance": guidance, "eta": eta, "rng": rng}
        found.append(to_numpy(dalle2_decoder.walk(chain.decoder, x_T[i : i + BLOCK], told, null, levels, **how)))
    return np.concatenate(found)


def inverted(chain: Any, x_0: Any, z: Any, levels: Schedule) -> Any:
    """The noise of pictures (n, h, w, c) with the embeddings ``z``, block by block."""
    found = [x_0[:0]]
    for i in range(0, len(z), BLOCK):
        told = chain.told(z[i : i + BLOCK])
        found.append(dalle2_decoder.invert(chain.decoder, x_0[i : i + BLOCK], told, levels, iterations=ITERATIONS))
    return array_module(x_0).concatenate(found)


def varied(
    chain: Any,
    x_0: Any,
    *,
    times: int = 1,
    eta: float = 0.5,
    guidance: float = 1.0,
    steps: int | None = None,
    rng: Any = None,
) -> Any:
    """``times`` pictures with the embedding of each of ``x_0`` (n, h, w, c), from its own noise: (n times, h, w, c).

    With ``eta`` 0 they are its reconstruction.
    """
    x_0, levels = chain.device(x_0), levels_of(chain, steps)
    z = chain.text.encode_image(x_0)
    x_T, z = (a.repeat(times, axis=0) for a in (inverted(chain, x_0, z, levels), z))
    return walked(chain, x_T, z, levels, guidance=guidance, eta=eta, rng=rng)


def interpolated(
    chain: Any,
    a: Any,
    b: Any,
    shares: Any,
    *,
    noise: str = "arc",
    guidance: float = 2.0,
    eta: float = 0.0,
    steps: int | None = None,
    rng: Any = None,
) -> Any:
    """Pictures (k, h, w, c) from ``a`` to ``b`` (h, w, c) at ``shares`` (k,) of ``b``; ``noise`` as in `Editing`."""
    if noise not in ("arc", "fixed"):
        raise ValueError(f"noise must be 'arc' or 'fixed', got {noise!r}")
    x_0, levels = chain.device(np.stack([a, b])), levels_of(chain, steps)
    if np.array_equal(a, b):
        raise ValueError("interpolation needs two different pictures, got the same one twice")
    z = chain.text.encode_image(x_0)
    fixed = chain.noise(1, rng)[0] if noise == "fixed" else None
    z, x_T = dalle2_decoder.between(z, inverted(chain, x_0, z, levels), shares, fixed)
    return walked(chain, x_T, z, levels, guidance=guidance, eta=eta, rng=rng)


def readings(prompt: str) -> list[Scene]:
    """All complete scenes that a prompt can mean: what it leaves open, the background too, takes every value."""
    asked = parse(prompt)
    things = [
        [Thing(t.shape, colour, size) for colour in given(t.colour, COLOURS) for size in given(t.size, SIZES)]
        for t in asked.things
    ]
    places: Sequence[str | None] = given(asked.place, PLACES) if len(things) == 1 else (None,)
    rest = product(places, given(asked.background, BACKGROUNDS))
    return [
        Scene(chosen, place, asked.relation, background)
        for (place, background), chosen in product(rest, product(*things))
    ]


def given(value: str | None, known: Sequence[str]) -> Sequence[str]:
    """The value if it is named, else all known values."""
    return known if value is None else (value,)


def filled(asked: Scene, like: Scene) -> Scene:
    """``asked`` with what it leaves open as in ``like``, thing by thing (further things as in the last of ``like``)."""
    models = [like.things[min(k, len(like.things) - 1)] for k in range(len(asked.things))]
    things = tuple(Thing(t.shape, t.colour or m.colour, t.size or m.size) for t, m in zip(asked.things, models))
    place = (asked.place or like.place or "middle") if len(things) == 1 else None
    return Scene(things, place, asked.relation, asked.background or like.background)


def direction(text: clip.Embedder, z: Any, before: str, after: str) -> Any:
    r"""$z_t - z_{t_0}$ (d,) from ``before`` to ``after`` for a picture with the embedding ``z`` (d,).

    A text that leaves something open has many readings $y_k$. CLIP gives the probability that the picture shows each,
    $p_k \propto e^{s\, z_i \cdot z(y_k)}$ over those of ``before``, and the difference is the mean over these, with
    what ``after`` leaves open as in $y_k$. Raises ValueError for texts that are not captions, and for two that mean the
    same.
    """
    asked, scenes = parse(after), readings(before)
    first = text.encode_text([canonical(scene) for scene in scenes])
    second = text.encode_text([canonical(filled(asked, scene)) for scene in scenes])
    scores = np.exp(text.net.log_scale.data) * (first @ z)
    p = np.exp(scores - scores.max())
    p = p / p.sum()
    return dalle2_decoder.difference(p @ second, p @ first)


def led(
    chain: Any,
    x_0: Any,
    before: Sequence[str],
    after: Sequence[str],
    shares: Any,
    *,
    theta: float | None = None,
    guidance: float = 2.0,
    eta: float = 1.0,
    steps: int | None = None,
    rng: Any = None,
) -> Any:
    r"""Text diffs of pictures ``x_0`` (n, h, w, c) from ``before`` to ``after``, two texts per picture, at the k
    ``shares`` of $\theta$: (n, k, h, w, c).

    Without ``theta``, $\theta$ is each picture's own $\theta^*$ (eq. 5).
    """
    x_0, levels = chain.device(x_0), levels_of(chain, steps)
    z, k, shares = chain.text.encode_image(x_0), len(shares), np.asarray(shares, np.float64)
    d = [direction(chain.text, own, *texts) for own, *texts in zip(z, before, after)]
    x_T = inverted(chain, x_0, z, levels).repeat(k, axis=0)
    thetas = [dalle2_decoder.own_theta(own, way) if theta is None else theta for own, way in zip(z, d)]
    moved = [dalle2_decoder.towards(own, way, far * shares) for own, way, far in zip(z, d, thetas)]
    z = chain.device(np.concatenate([to_numpy(part) for part in moved]))
    images = walked(chain, x_T, z, levels, guidance=guidance, eta=eta, rng=rng)
    return images.reshape(len(x_0), k, *chain.shape)


def painted(
    chain: Any, image: Any, keep: Any, prompts: Sequence[str], *, rng: Any, guidance: float = 2.0, **how: Any
) -> Any:
    """``image`` (n, h, w, c) inpainted for ``prompts`` where ``keep`` (n or 1, h, w, 1) is 0; where it is 1 the pixels
    stay.
    """
    if not chain.config.paint_steps:
        raise ValueError("this model was trained without paint_steps: it cannot paint into pictures")
    image, keep = chain.device(image), chain.device(keep)
    z = chain.embeddings(prompts, rng=rng)
    return to_numpy(chain.decode(z, prompts, rng=rng, guidance=guidance, image=image, keep=keep, **how))


# --- minigen edit -----------------------------------------------------------------------------------------------------


def edit(
    chain: Any,
    image: Any,
    keep: Any,
    *,
    n: int,
    rng: Any,
    variations: Any = None,
    interpolate: Any = None,
    text_diff: Any = None,
    prompt: str = "",
    eta: float | None = None,
    theta: float | None = None,
    noise: str = "arc",
    guidance: float | None = None,
    steps: int | None = None,
) -> Any:
    """``n`` pictures (n, h, w, c) of the one requested use; the settings are those of `dalle2.Editing`."""
    uses = {"IMAGE": image, "--variations": variations, "--interpolate": interpolate, "--text-diff": text_diff}
    asked = [name for name, value in uses.items() if value is not None]
    if len(asked) != 1:
        raise ValueError(f"one use at a time: got {' and '.join(asked) or 'no picture'}")
    if keep is not None and image is None:
        raise ValueError(f"a mask says where to paint into IMAGE: leave --mask out with {asked[0]}")
    settings = {"prompt": prompt, "eta": eta, "theta": theta, "noise": noise}
    sampling.check_belong(asked[0], settings, UNSET, BELONG[asked[0]])
    ddim.check_eta(eta or 0.0, rng)  # before a picture is inverted to its noise
    if guidance is not None and not np.isfinite(guidance):
        raise ValueError(f"guidance must be a finite number, got {guidance}")
    if image is not None:
        if keep is None:
            raise ValueError("painting needs a mask, which says where: give --mask (or another use: --variations, ...)")
        whole = completed([prompt] * n, rng=rng)
        pictures = np.repeat(np.asarray(image, np.float32)[None], n, axis=0)
        strength = 2.0 if guidance is None else guidance
        return painted(
            chain, pictures, np.asarray(keep, np.float32)[None], whole, rng=rng, guidance=strength, steps=steps
        )
    how: dict[str, Any] = {"steps": steps, "rng": rng}
    how |= {name: value for name, value in (("guidance", guidance), ("eta", eta)) if value is not None}
    if variations is not None:
        return varied(chain, variations[None], times=n, **how)
    if interpolate is not None:
        a, b = interpolate
        return interpolated(chain, a, b, np.linspace(0, 1, n), noise=noise, **how)
    picture, before, after = text_diff
    if not (before.strip() and after.strip()):
        raise ValueError(f"a text diff needs two texts, and one is empty: got {before!r} and {after!r}")
    if theta is not None and not 0 < theta <= 1:
        raise ValueError(f"theta must be above 0 and at most 1, a share of the arc, got {theta}")
    return led(chain, picture[None], [before], [after], np.arange(1, n + 1) / n, theta=theta, **how)[0]


def notes_of_edits(
    images: Any,
    *,
    image: Any,
    variations: Any = None,
    text_diff: Any = None,
    prompt: str = "",
    **settings: Any,
) -> list[str]:
    """The oracle's readings: whether the prompt is met, what a variation lost, whether a text diff succeeded, or the
    scenes of an interpolation.
    """
    if image is not None:
        return notes_for([prompt] * len(images), images)
    wanted = None
    if variations is not None:
        (wanted,) = read_pictures(variations[None])
    if text_diff is not None:
        picture, before, after = text_diff
        (scene,) = read_pictures(picture[None])
        wanted = None if scene is None else rewritten(scene, before, after)
    if wanted is not None:
        return [f"{wanted}\n{verdict}" for verdict in verdicts([wanted] * len(images), images)]
    return ["no scene of this world" if scene is None else str(scene) for scene in read_pictures(images)]


def rewritten(scene: Scene, before: str, after: str) -> Scene | None:
    """``scene`` with what the two texts differ in as in ``after``; None if that has no meaning, or nothing matches
    ``before``.
    """
    try:
        a, b = parse(before), parse(after)
    except ValueError:
        return None
    if len(a.things) != len(b.things) or len(a.things) > len(scene.things):
        return None
    things = list(scene.things)
    for old, new in zip(a.things, b.things):
        like = [k for k, t in enumerate(things) if all(v in (None, vars(t)[name]) for name, v in vars(old).items())]
        if not like:
            return None
        changed = {name: v for name, v in vars(new).items() if v is not None and v != vars(old)[name]}
        things[like[0]] = replace(things[like[0]], **changed)
    named = {name: getattr(b, name) for name in ("place", "relation", "background")}
    moved = {name: v for name, v in named.items() if v is not None and v != getattr(a, name)}
    return replace(scene, things=tuple(things), **moved)


# --- evaluation -------------------------------------------------------------------------------------------------------


def one_thing(split: str, n: int) -> tuple[Any, list[Scene]]:
    """The first ``n`` pictures (uint8) of a split that show one thing, and their scenes."""
    of = shapes.scenes(split)
    rows: list[int] = []
    start = 0
    while len(rows) < n and start < len(of):
        block = of[start : start + 256]
        rows += [start + int(i) for i in np.flatnonzero(block.number == 1)]
        start += 256
    some = of[np.array(rows[:n], np.int64)]
    return shapes.render(some), list(some)


def said(thing: Thing) -> str:
    """A prompt with a thing's colour and shape that leaves the rest open."""
    return f"a {thing.colour} {thing.shape}"


def diff_tasks(n: int, *, split: str = "test", rng: Any) -> tuple[Any, list[str], list[str], list[Scene]]:
    """Pictures of one thing (n, h, w, 3) uint8, two texts for each, of the thing and of one with another shape or
    colour, and the scenes that should result.

    Compositions that are held out of training are not asked for.
    """
    images, scenes = one_thing(split, n)
    before, after, wanted = [], [], []
    for i, scene in enumerate(scenes):
        (old,) = scene.things
        while True:
            another = glide_edits.with_another(scene, 0, rng=rng).things[0]
            change = {"shape": another.shape} if i % 2 == 0 else {"colour": another.colour}
            new = replace(old, **change)
            if not shapes.held_out(replace(scene, things=(new,))):
                break
        before.append(said(old))
        after.append(said(new))
        wanted.append(replace(scene, things=(new,)))
    return images, before, after, wanted


def attributes(scene: Scene) -> dict[str, str | None]:
    """The attributes of a scene of one thing, by name."""
    (thing,) = scene.things
    return {**vars(thing), "place": scene.place, "background": scene.background}


def flips_once(values: Sequence[Any]) -> bool:
    """Whether a path of values goes from its first to its last, which differ, in one step, without other values in
    between.
    """
    steps = sum(a != b for a, b in zip(values, values[1:]))
    return values[0] != values[-1] and steps == 1


def goes_on(values: Sequence[Any]) -> bool:
    """Whether a path goes from its first to its last, which differ, and never returns to a value that it has left."""
    runs = [b for a, b in zip([None, *values], [*values]) if a != b]
    return values[0] != values[-1] and len(runs) == len(set(runs))


def flips(path: Sequence[Scene | None], test: Callable[[Sequence[Any]], bool] = flips_once) -> list[bool]:
    """For each attribute in which the ends of a path of scenes of one thing differ, whether it passes the ``test``.

    Pictures that cannot be read, or that show another number of things, have no attributes and count as a value of
    their own.
    """
    read = [attributes(s) if s is not None and len(s.things) == 1 else None for s in path]
    first, last = read[0], read[-1]
    if first is None or last is None:
        return []
    differing = [name for name in first if first[name] != last[name]]
    return [test([None if a is None else a[name] for a in read]) for name in differing]


def figures(chain: Any, dataset: Dataset, *, rng: Any) -> dict[str, float]:
    """How often prompts are met with each prior, how near each is to true embeddings, and how well each use works."""
    found: dict[str, float] = {}
    kinds = [kind for kind in PRIORS if kind != "autoregressive" or chain.ar_prior is not None]
    for kind in kinds:

        def paint(prompts: Sequence[str], kind: str = kind) -> Any:
            return chain.paint(prompts, rng=rng, prior=kind)

        report = prompt_report(paint, SHOWN, list(GROUPS) if kind == "diffusion" else list(GROUPS)[:2])
        for group, rates in report.items():
            found[f"prompts met, {group}, prior: {kind}"] = rates["all"]
    some = dataset.test.take(slice(0, 256))
    captions, z = list(some.captions or ()), to_numpy(chain.text.encode_image(dataset.scale(some.images)))
    for kind in kinds[:-1]:
        drawn = to_numpy(chain.embeddings(captions, rng=rng, prior=kind))
        found[f"cosine with the picture's own embedding, prior: {kind}"] = float((z * drawn).sum(1).mean())
    images, scenes = one_thing("test", SHOWN)
    x = dataset.scale(images)
    for eta in (0.0, 0.5):
        y = varied(chain, x, eta=eta, rng=rng)
        found[f"variations, eta {eta:g}, with all attributes kept"] = prompt_accuracy(scenes, y)["all"]
        found[f"variations, eta {eta:g}, mean change of a pixel"] = float(abs(y - x).mean())
    paths = [path_between(chain, x[i], x[i + 1]) for i in range(0, SHOWN // 2, 2)]
    for name, test in (("flip once", flips_once), ("never go back", goes_on)):
        kept = [passed for path in paths for passed in flips(path, test)]
        found[f"attributes that {name} in an interpolation"] = float(np.mean(kept)) if kept else float("nan")
    images, before, after, wanted = diff_tasks(SHOWN, rng=rng)
    y = led(chain, dataset.scale(images), before, after, [1.0], rng=rng)[:, 0]
    found["text diffs that succeed"] = prompt_accuracy(wanted, y)["all"]
    if chain.config.paint_steps:
        images, keep, prompts = glide_edits.tasks(SHOWN, rng=rng)
        x = dataset.scale(images)
        y = painted(chain, x, keep, prompts, rng=rng)
        found["edits done"] = prompt_accuracy(prompts, y)["all"]
        found["largest change of a known pixel"] = float(abs((y - x) * keep).max())
    if chain.upsamplers:
        size, prompts = max(chain.upsamplers), prompts_of("val", 1, SHOWN)
        large = chain.paint(prompts, rng=rng, size=size)
        found[f"prompts met, seen, one thing, at {size} x {size}"] = prompt_accuracy(prompts, large)["all"]
    return found


def path_between(chain: Any, a: Any, b: Any, **how: Any) -> list[Scene | None]:
    """The scenes that the oracle reads along the interpolation between two pictures."""
    path = readings_of(interpolated(chain, a, b, np.linspace(0, 1, PATH), **how))
    return [reading.scene for reading in path]


# --- pictures for the tour --------------------------------------------------------------------------------------------


def pictures(chain: Any, dataset: Dataset) -> dict[str, Callable[..., Any]]:
    """The functions behind `dalle2.PICTURES`: (rows, columns, h, w, c)."""

    def show_priors(split: Split, *, rng: Any) -> Any:
        """Rows: a prompt with each prior."""
        prompts = [*prompts_of("val", 1, 3), *prompts_of("val", 2, 3)]
        kinds = [kind for kind in PRIORS if kind != "autoregressive" or chain.ar_prior is not None]
        return np.stack([chain.paint(prompts, rng=rng, prior=kind) for kind in kinds for _ in range(4)], axis=1)

    def show_variations(split: Split, *, rng: Any) -> Any:
        """Rows: a picture, its reconstruction, four variations."""
        x = dataset.scale(split.take(slice(0, 6)).images)
        etas = (0.0, 0.5, 0.5, 0.5, 0.5)
        return np.stack([x, *(varied(chain, x, eta=eta, rng=rng) for eta in etas)], axis=1)

    def show_interpolations(split: Split, *, rng: Any) -> Any:
        """Rows: from one picture to another."""
        x = dataset.scale(one_thing("test", 8)[0])
        return np.stack([interpolated(chain, x[i], x[i + 1], np.linspace(0, 1, PATH)) for i in range(0, 8, 2)])

    def show_diffs(split: Split, *, rng: Any) -> Any:
        """Rows: a picture, and text diffs going further and further."""
        images, before, after, _ = diff_tasks(6, rng=rng)
        x = dataset.scale(images)
        return np.concatenate([x[:, None], led(chain, x, before, after, np.linspace(0.2, 1.2, 6), rng=rng)], axis=1)

    def show_paintings(split: Split, *, rng: Any) -> Any:
        """Rows: a picture, what is kept of it, four inpaintings."""
        images, keep, prompts = glide_edits.tasks(6, rng=rng)
        x = dataset.scale(images)
        return np.stack([x, x * keep, *(painted(chain, x, keep, prompts, rng=rng) for _ in range(4))], axis=1)

    def show_enlarged(split: Split, *, rng: Any) -> Any:
        """Rows: the same picture doubled pixel by pixel, and by the up-samplers."""
        prompts, side, size = prompts_of("val", 1, 6), chain.shape[0], max(chain.upsamplers)
        small = chain.device(chain.paint(prompts, rng=rng))
        times = size // side
        large = to_numpy(chain.enlarge(small, size, rng=rng))
        return np.stack([to_numpy(small).repeat(times, 1).repeat(times, 2), large], axis=1)

    found: dict[str, Callable[..., Any]] = {"priors": show_priors, "variations": show_variations}
    found |= {"interpolations": show_interpolations, "text_diffs": show_diffs}
    found |= {"edits": show_paintings} if chain.config.paint_steps else {}
    return found | ({"upsampled": show_enlarged} if chain.upsamplers else {})
