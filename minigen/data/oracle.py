r"""Reads a picture of the ``shapes`` world back to its scene, or says that it shows none: the judge of prompts.

A network would judge by its own taste; this world is small enough to try everything that it can show. For every thing
in the picture, each shape at each size, half pixel and colour is compared with the pixels, and the one with the least
squared difference is what the thing is; a picture that even the best one does not explain is no scene.

| symbol | code | |
|---|---|---|
| $b$ | ``background`` | median of the border's pixels, per channel |
| $q = p - b$ | ``window`` | the 19x19 pixels around a thing; those nearer to another thing count as background |
| $T_k$ | ``TEMPLATES`` | coverage of 5 shapes x 2 sizes x 3 radii x 9x9 half-pixel offsets: 2,430 pictures in [0, 1] |
| $d_c$ | ``contrast`` | colour $c$ of the palette minus $b$ |
| $\theta$ | ``centre``, ``radius`` | where the thing is, and how large within the world's 5 % |

A thing is a 4-connected set of at least 6 pixels with $|q| > 0.25$. What it is:

$$ (\hat k, \hat c) = \arg\min_{k, c} |q - T_k d_c|^2, \qquad |q - T_k d_c|^2 = |q|^2 - 2\, T_k \cdot (q\, d_c) + |T_k|^2 |d_c|^2 \qquad (1) $$

where the inner products of all things with all templates are one matrix product. Then two Gauss-Newton steps on
$\theta$ put the shape exactly where it is, and the residual says whether it is that shape:

$$ g = \frac{\sum_{i \in S} |q_i - T_i(\hat\theta)\, d_{\hat c}|^2}{|T(\hat\theta)|^2\, |d_{\hat c}|^2} \le G, \qquad S = \{i: T_i > 0 \text{ or } |q_i| > 0.25\} \qquad (2) $$

$g$ is about the share of the thing's area that is wrong: at most 0.02 for a clean picture (its tints), 0.09 with noise
of standard deviation 0.1 on [-1, 1], 1/4 for a thing at half contrast, more for half of a thing. Without the two steps
$g$ would reach 0.08 for clean pictures, and a gate for noisy ones would let broken ones pass. A small thing stuck to a
large one is little of it, so the residual's mean over 3x3 pixels must not exceed the foreground threshold either:

$$ \max_{3 \times 3} |\mathrm{mean}(q - T(\hat\theta)\, d_{\hat c})| \le 0.25 \qquad (3) $$

(a mean, because the soft edge of a blurred shape is too dark on one side and too bright on the other). Beside the
things there must be nothing: with the pixels $B$ that are more than 2 away from the box of every thing,

$$ \sum_{i \in B} [\,|q_i| > 0.25\,] < 6, \qquad \max_{5 \times 5} \Big|\frac{1}{25} \sum_{i \in B} q_i\Big| \le 0.12 \qquad (4) $$

(specks, and what is too faint or too wide for a thing; the noise above reaches 1 pixel and 0.084).

`python -m minigen.data.oracle --check 10000` prints how often all of this is right.

You need: `data/shapes.py`, `data/captions.py`. New here: an exact answer to "is this what was asked for?".

Details that matter, and the tests that guard them (tests/minigen/data/test_oracle.py):
- shape and colour are fitted together: a small ring has no pixel of its own pure colour;
- a large thing tints a few pixels of the border, so the background is a median and not a mean;
- a neighbour in the window would count as a misfit: its pixels are left out;
- a picture that is no scene is never right, even if the prompt asks for little.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from jaxtyping import Bool, Float, Float32, Int
from scipy import ndimage

from kernels.backend import Array, to_numpy

from .captions import BACKGROUNDS, COLOURS, PLACES, RELATIONS, SHAPES, SIZES, Scene, Thing, parse
from .shapes import ACROSS, GREYS, GRID, GROWTH, JITTER, PALETTE, RADII, SIDE, coverage

FOREGROUND = 0.25  # distance from the background, in RGB of 0..1, from which a pixel belongs to a thing
SMALLEST = 6  # pixels of a thing
GATE = 0.15  # G of eq. 2
GHOST = 0.12  # largest mean of 5x5 pixels beside the things, eq. 4
GREY = 0.2  # distance of a background from its grey
SLACK = 2.25  # pixels that a thing may stand beyond where the world would put it
WINDOW = 19  # pixels per side
BLOCK = 64  # pictures read at once


def _templates() -> tuple[Float32[Array, "k pixels"], Int[Array, "k 2"], Float[Array, "k 2"], Float[Array, " k"]]:
    """Templates as rows, with (shape, size), (x, y) of the centre in the window, and the factor of the radius."""
    offsets = np.arange(-4, 5) / 2 + WINDOW // 2
    rows = list(product(range(len(SHAPES)), range(len(SIZES)), (1 - GROWTH, 1.0, 1 + GROWTH), offsets, offsets))
    shape, size = np.array([row[:2] for row in rows], np.int64).T
    growth, x, y = np.array([row[2:] for row in rows]).T
    pictures = coverage(shape, np.stack([x, y], -1), RADII[size] * growth, np.arange(WINDOW))
    return pictures.reshape(len(rows), WINDOW**2), np.stack([shape, size], -1), np.stack([x, y], -1), growth


TEMPLATES, _KIND, _CENTRE, _GROWTH = _templates()
_POWER = np.square(TEMPLATES).sum(1)  # |T_k|^2


@dataclass(frozen=True)
class Reading:
    """What was read in one picture.

    ``scene`` is the best guess, or None where there is not one thing or two; ``fault`` says in a few words why the
    picture is no scene, and is empty for one that is. ``misfit`` is the left side of eq. 2 or 3 in units of the right
    one, the largest of its things: above 1 it is a fault.
    """

    scene: Scene | None
    fault: str = ""
    misfit: float = 0.0


# --- reading ----------------------------------------------------------------------------------------------------------


def read(images: Array) -> list[Scene | None]:
    """The scene of each picture, or None for one that shows none.

    ``images`` (n, h, h, 3) uint8, or floats that are clipped to -1..1; h is 32 or a multiple, which is averaged down.
    Raises ValueError for another shape and TypeError for other numbers.
    """
    return [None if reading.fault else reading.scene for reading in readings(images)]


def readings(images: Array) -> list[Reading]:
    """The same with the reasons, and with the best guess where there is one."""
    images = to_numpy(images)
    if images.ndim != 4 or images.shape[1] != images.shape[2] or images.shape[3] != 3 or images.shape[1] % SIDE:
        raise ValueError(f"images must have shape (n, h, h, 3) with h = 32, 64, 128, ..., got {images.shape}")
    if images.dtype != np.uint8 and images.dtype.kind != "f":
        raise TypeError(f"images must be uint8 or floats in [-1, 1], got {images.dtype}")
    return [reading for i in range(0, len(images), BLOCK) for reading in _read_block(_unit(images[i : i + BLOCK]))]


def _unit(images: Array) -> Float32[Array, "n 32 32 3"]:
    """Pictures as float32 of 0..1, 32x32. One that is not finite becomes all 0, which is blank."""
    x = images.astype(np.float32)
    finite = np.isfinite(x).all((1, 2, 3))
    x = x / 255 if images.dtype == np.uint8 else np.clip((x + 1) / 2, 0, 1)
    n, s = len(x), x.shape[1] // SIDE
    x = x.reshape(n, SIDE, s, SIDE, s, 3).mean((2, 4)) if s > 1 else x
    x[~finite] = 0
    return x


def _read_block(p: Float32[Array, "n 32 32 3"]) -> list[Reading]:
    border = np.concatenate([p[:, 0], p[:, -1], p[:, 1:-1, 0], p[:, 1:-1, -1]], 1)
    background = np.median(border, 1)  # (n, 3)
    q = p - background[:, None, None]
    picture, box = _things(np.square(q).sum(-1) > FOREGROUND**2)
    number = np.bincount(picture, minlength=len(p))
    vast = (box[:, 2:] - box[:, :2]).max(1, initial=0) > WINDOW - 2
    readable = (number >= 1) & (number <= 2) & (np.bincount(picture[vast], minlength=len(p)) == 0)
    kept = readable[picture]
    picture, box = picture[kept], box[kept]
    littered = _littered(q, picture, box)
    window, corner = _windows(q, picture, box)
    kind, colour, centre, misfit = _fit(window, PALETTE.astype(np.float32) - background[picture][:, None])
    centre = centre + corner
    found = [Reading(None, _uncounted(int(k))) for k in number]
    for i in np.flatnonzero(readable):
        of = np.flatnonzero(picture == i)
        things = [Thing(SHAPES[kind[j, 0]], COLOURS[colour[j]], SIZES[kind[j, 1]]) for j in of]
        found[i] = _reading(things, centre[of], float(misfit[of].max()), background[i], bool(littered[i]))
    return found


def _uncounted(number: int) -> str:
    """Why a picture with so many things cannot be read: with one or two, one of them is larger than the window."""
    return "nothing to see" if number == 0 else f"{number} things" if number > 2 else "too large a thing"


def _things(foreground: Bool[Array, "n 32 32"]) -> tuple[Int[Array, " m"], Int[Array, "m 4"]]:
    """The picture and the box (top, left, bottom, right; the last two exclusive) of every thing."""
    beside = ndimage.generate_binary_structure(3, 1)
    beside[[0, 2]] = False  # the pictures of a batch do not touch
    labels, _ = ndimage.label(foreground, beside)
    large = np.bincount(labels.ravel())[1:] >= SMALLEST
    slices = [where for where, keep in zip(ndimage.find_objects(labels), large) if keep]
    rows = [(z.start, y.start, x.start, y.stop, x.stop) for z, y, x in slices]
    table = np.array(rows, np.int64).reshape(-1, 5)
    return table[:, 0], table[:, 1:]


def _littered(q: Float32[Array, "n 32 32 3"], picture: Int[Array, " m"], box: Int[Array, "m 4"]) -> Bool[Array, " n"]:
    """Whether there is more than background beside the things, eq. 4."""
    beside = np.ones(q.shape[:3], bool)
    for i, (top, left, bottom, right) in zip(picture, box):
        beside[i, max(top - 2, 0) : bottom + 2, max(left - 2, 0) : right + 2] = False
    q = np.where(beside[..., None], q, 0)
    specks = (np.square(q).sum(-1) > FOREGROUND**2).sum((1, 2))
    ghost = np.square(ndimage.uniform_filter(q, (0, 5, 5, 0), mode="constant")).sum(-1).max((1, 2))
    return (specks >= SMALLEST) | (ghost > GHOST**2)


def _windows(q: Array, picture: Array, box: Array) -> tuple[Float32[Array, "m 19 19 3"], Int[Array, "m 2"]]:
    """The pixels around each thing, those nearer to the picture's other thing set to 0; and (x, y) of their corners."""
    half = WINDOW // 2
    corner = (box[:, :2] + box[:, 2:] - 1) // 2 - half  # (m, 2): y, x
    y = corner[:, :1] + np.arange(WINDOW)
    x = corner[:, 1:] + np.arange(WINDOW)
    padded = np.pad(q, ((0, 0), (half, half), (half, half), (0, 0)))
    window = padded[picture[:, None, None], y[:, :, None] + half, x[:, None, :] + half]
    other = np.arange(len(picture))  # the picture's other thing, or the thing itself
    pair = np.flatnonzero(picture[:-1] == picture[1:])
    other[pair], other[pair + 1] = pair + 1, pair
    nearer = _distance(box[other], y, x) < _distance(box, y, x)
    window[nearer] = 0
    return window, corner[:, ::-1]


def _distance(box: Array, y: Array, x: Array) -> Array:
    """Squared distance of pixels from a box (m, 19, 19)."""
    dy = np.maximum(0, np.maximum(box[:, :1] - y, y - box[:, 2:3] + 1))
    dx = np.maximum(0, np.maximum(box[:, 1:2] - x, x - box[:, 3:] + 1))
    return np.square(dy)[:, :, None] + np.square(dx)[:, None, :]


def _fit(
    window: Float32[Array, "m 19 19 3"], contrast: Float32[Array, "m 7 3"]
) -> tuple[Int[Array, "m 2"], Int[Array, " m"], Float[Array, "m 2"], Float[Array, " m"]]:
    """(Shape, size), colour, centre (x, y) in the window, and misfit, of m things."""
    m, every = len(window), np.arange(len(window))
    pixels = window.reshape(m, WINDOW**2, 3)
    planes = np.ascontiguousarray(pixels.transpose(0, 2, 1)).reshape(3 * m, WINDOW**2)
    inner = np.matmul(planes, TEMPLATES.T).reshape(m, 3, len(TEMPLATES))
    least, best, colour = np.full(m, np.inf, np.float32), np.zeros(m, np.int64), np.zeros(m, np.int64)
    for c in range(len(COLOURS)):  # eq. 1, minus |q|^2
        d = contrast[:, c]
        cost = np.square(d).sum(1, keepdims=True) * _POWER - 2 * np.matmul(d[:, None], inner)[:, 0]
        k = cost.argmin(1)
        better = cost[every, k] < least
        least[better], best[better], colour[better] = cost[every, k][better], k[better], c
    d = contrast[every, colour]
    power = np.maximum(np.square(d).sum(1), 1e-6)  # |d|^2, which is 0 on a background of the thing's own colour
    seen = np.matmul(pixels, d[:, :, None])[..., 0] / power[:, None]  # the coverage that the colour suggests
    shape, size = _KIND[best].T
    theta = np.concatenate([_CENTRE[best], (RADII[size] * _GROWTH[best])[:, None]], 1)
    for _ in range(2):
        theta = _gauss_newton_step(seen, shape, theta)
        theta[:, 2] = np.clip(theta[:, 2], RADII[size] * (1 - GROWTH), RADII[size] * (1 + GROWTH))
    t = _covered(shape, theta)
    left = pixels - t[..., None] * d[:, None]
    support = (t > 0) | (np.square(pixels).sum(2) > FOREGROUND**2)
    g = (np.square(left).sum(2) * support).sum(1) / (np.square(t).sum(1) * power)
    off = np.sqrt(np.square(_means(left.reshape(window.shape))).sum(-1)).max((1, 2))
    return _KIND[best], colour, theta[:, :2], np.maximum(g / GATE, off / FOREGROUND)


def _covered(shape: Array, theta: Array) -> Float32[Array, "m pixels"]:
    return coverage(shape, theta[:, :2], theta[:, 2], np.arange(WINDOW)).reshape(len(shape), WINDOW**2)


def _gauss_newton_step(seen: Array, shape: Array, theta: Float[Array, "m 3"]) -> Float[Array, "m 3"]:
    """A step of at most half a pixel towards the x, y and radius that explain the coverage seen, in least squares."""
    t, h = _covered(shape, theta), 0.1
    slope = np.stack([(_covered(shape, theta + h * e) - t) / h for e in np.eye(3)], 1, dtype=np.float64)
    normal = slope @ slope.transpose(0, 2, 1) + 1e-3 * np.eye(3)
    step = np.linalg.solve(normal, slope @ (seen - t)[..., None])[..., 0]
    return theta + np.clip(step, -0.5, 0.5)


def _means(a: Float32[Array, "m h w 3"]) -> Float32[Array, "m h2 w2 3"]:
    """Means over 3x3 pixels."""
    a = a[:, :-2] + a[:, 1:-1] + a[:, 2:]
    return (a[:, :, :-2] + a[:, :, 1:-1] + a[:, :, 2:]) / 9


def _reading(things: list[Thing], centre: Array, misfit: float, background: Array, littered: bool) -> Reading:
    """Names for what was fitted, and the reasons not to believe it."""
    grey = np.sqrt(np.square(background - GREYS[:, None]).sum(1))
    name = BACKGROUNDS[int(grey.argmin())]
    if len(things) == 1:
        column, row = (int(abs(GRID - at).argmin()) for at in centre[0])
        away = abs(centre[0] - GRID[[column, row]]).max() - JITTER
        scene = Scene(tuple(things), PLACES[3 * row + column], None, name)
    else:
        apart = abs(centre[0] - centre[1])
        axis = 0 if apart[0] > apart[1] else 1  # along which the two stand
        order = np.argsort(centre[:, axis], kind="stable")
        along = abs(centre[order, axis] - GRID[[0, 2]]).max() - JITTER
        across = abs(centre[:, 1 - axis] - GRID[1]).max() - JITTER - ACROSS
        away = max(along, across)
        scene = Scene(tuple(things[i] for i in order), None, RELATIONS[axis], name)
    fault = ""
    if misfit > 1:
        fault = "no clean shape"
    elif littered:
        fault = "something beside the things"
    elif grey.min() > GREY:
        fault = "odd background"
    elif away > SLACK:
        fault = "out of place"
    return Reading(scene, fault, misfit)


# --- judging ----------------------------------------------------------------------------------------------------------

ATTRIBUTES = ("valid", "count", "shape", "colour", "size", "place", "relation", "background")
OF_A_THING = ("size", "colour", "shape")


@dataclass(frozen=True)
class Verdict:
    """Whether a picture shows what its prompt asks for.

    ``wrong`` says in a few words each what is not as asked; ``str`` joins them to one line, a caption for the picture.
    ``attributes`` has True or False for ``valid`` (a scene of this world), ``count``, and each attribute that the
    prompt names, which can be judged only where the count is right.
    """

    wrong: tuple[str, ...]
    attributes: dict[str, bool]

    @property
    def right(self) -> bool:
        return not self.wrong

    def __str__(self) -> str:
        return "; ".join(self.wrong) or "right"


def matches(prompt: Scene, scene: Scene | None) -> bool:
    """Whether a scene has everything that the prompt names (what is None in the prompt may be anything)."""
    return scene is not None and verdict(prompt, Reading(scene)).right


def verdict(prompt: Scene, reading: Reading) -> Verdict:
    """Compare what was read with what was asked, attribute by attribute, each thing at its named place."""
    scene, attributes = reading.scene, {"valid": not reading.fault}
    attributes["count"] = scene is not None and len(scene.things) == len(prompt.things)
    if scene is None:
        return Verdict((reading.fault,), attributes)
    if not attributes["count"]:
        return Verdict((f"number of things: {len(scene.things)}, not {len(prompt.things)}",), attributes)
    wrong = [reading.fault] if reading.fault else []
    things, relation = _in_order_of(prompt, scene)
    asked = [(name, getattr(t, name), getattr(s, name)) for t, s in zip(prompt.things, things) for name in OF_A_THING]
    asked += [("place", prompt.place, scene.place), ("relation", prompt.relation, relation)]
    asked += [("background", prompt.background, scene.background)]
    for name, wanted, seen in asked:
        if wanted is not None:
            attributes[name] = attributes.get(name, True) and wanted == seen
            wrong += [f"{seen}, not {wanted}"] if wanted != seen else []
    return Verdict(tuple(wrong), attributes)


def _in_order_of(prompt: Scene, scene: Scene) -> tuple[tuple[Thing, ...], str | None]:
    """The scene's things and relation, turned round where that is closer to what was asked.

    If the things stand along the other axis, the order with more right attributes counts. Along the axis that was
    asked for, the turned order counts only if all attributes are then right: "right of" is the only mistake.
    """
    turned = scene.things[::-1]
    straight, other = _agreeing(prompt.things, scene.things), _agreeing(prompt.things, turned)
    asked = _agreeing(prompt.things, prompt.things)
    if scene.relation is None or other <= straight or (prompt.relation == scene.relation and other < asked):
        return scene.things, scene.relation
    return turned, {"left of": "right of", "above": "below"}[scene.relation]


def _agreeing(asked: Sequence[Thing], seen: Sequence[Thing]) -> int:
    """How many of the named attributes agree, thing by thing."""
    return sum(a is not None and a == vars(s)[name] for t, s in zip(asked, seen) for name, a in vars(t).items())


def verdicts(prompts: Sequence[str | Scene], images: Array) -> list[Verdict]:
    """One verdict per picture, for prompts in words (of the captions' language) or as scenes.

    Raises ValueError for prompts that cannot be read and for a number of prompts other than that of the images.
    """
    asked = [parse(prompt) if isinstance(prompt, str) else prompt for prompt in prompts]
    if len(asked) != len(images):
        raise ValueError(f"prompts must be one for each image, got {len(asked)} for {len(images)} images")
    return [verdict(prompt, reading) for prompt, reading in zip(asked, readings(images))]


def prompt_accuracy(prompts: Sequence[str | Scene], images: Array) -> dict[str, float]:
    """The share of pictures that show what their prompts ask for, and the shares of each attribute.

    ``all``: everything is right, and a scene of this world. ``valid``: a scene of this world, right or wrong.
    ``count``: as many things as asked for. The rest are shares of the pictures with the right count whose prompts name
    the attribute (of two things, both must have it, each at its place). NaN where there is nothing to count.
    """
    judged = verdicts(prompts, images)
    rates = {"all": [v.right for v in judged]}
    rates |= {name: [v.attributes[name] for v in judged if name in v.attributes] for name in ATTRIBUTES}
    return {name: float(np.mean(values)) if values else float("nan") for name, values in rates.items()}


if __name__ == "__main__":
    from kernels import command
    from minigen.data import broken

    sys.exit(command.run(broken.main, "minigen.data.oracle"))
