r"""Captioned pictures of one or two coloured shapes: a world small enough that its pictures can be read back exactly.

Every picture is a pure function of (seed, split, index), so the sets are drawn on demand, need no file,
and a million training pictures cost no memory. Coordinates are those of 32x32 pixels whatever the size in pixels:
pixel $j$ of a picture of side $32 s$ has its centre at $(j + \frac12) / s - \frac12$. A shape of signed distance
$d(x)$ (negative inside) covers the share $\alpha = \mathrm{clip}(\frac12 - s\, d, 0, 1)$ of a pixel, which is all the
anti-aliasing there is, and the picture is $(1 - \alpha)\,background + \alpha\,colour$.

| what | values |
|---|---|
| shape of radius $r$ | circle; square of half side 0.86 r; triangle with apex (0, -r), base at y = 0.8 r of half width r; cross of two bars of half sides r and 0.34 r; ring of outer radius r and stroke 0.46 r |
| size | r = 3.9 or 6.2 pixels, times U(0.95, 1.05) |
| colour, background | ``PALETTE``, ``GREYS``, plus U(-0.03, 0.03) per channel, clipped to [0, 1] |
| one thing (half of the pictures) | centre on the grid {7.5, 15.5, 23.5}^2, plus U(-0.75, 0.75) |
| two things | "left of": x = 7.5 and 23.5, y = 15.5 plus U(-2, 2) each; "above": the transpose; plus U(-0.75, 0.75) |

**Held out of training** are five of the 35 colour-shape pairs (``HELD_PAIRS``: each shape once, five colours), wherever
they stand, and five of the 50 ordered relations (``HELD_RELATIONS``: each shape once first and once second, so "circle
left of square" is never seen, "square left of circle" is). ``train``, ``val`` and ``test`` are separate draws from the
same distribution, uniform over the remaining compositions. Every scene of the split ``held`` has a composition
that was held out: half are one thing of a held pair; a quarter two things, at least one of a held pair; a quarter two
things of seen pairs in a held relation.

**Random numbers.** Item $i$ owns the SplitMix64 stream (Steele, Lea & Flood 2014, doi 10.1145/2660193.2660195) whose
state is (seed, split, i), mixed in one after the other; column $k$ of its ``COLUMNS`` uniform numbers is output $k$.
``_scenes`` says what each column decides.

You need: `data/captions.py` (scenes and their sentences). New here: data as a function instead of a file, and
compositions that are held out on purpose, so that "has it learnt to combine?" can be asked.

Details that matter, and the tests that guard them (tests/minigen/data/test_shapes.py):
- an item does not depend on which others are drawn with it, in which order or how many;
- what is held out is left out of the table that compositions are drawn from: no draw is rejected, so none slips
  through;
- coordinates, radii and jitter ignore the size in pixels, so 64x64 pictures averaged over 2x2 are the 32x32 ones;
- two things never touch, and none leaves the frame: `data/oracle.py` relies on it.
"""

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from jaxtyping import Float, Float32, Int, Real, UInt8

from kernels.backend import Array

from .captions import BACKGROUNDS, CHOICES, COLOURS, PLACES, RELATIONS, SHAPES, SIZES, Scene, Thing, caption
from .dataset import Dataset, Split, rows_of

SIDE = 32
LENGTHS = {"train": 1_000_000, "val": 10_000, "test": 10_000, "held": 10_000}
RADII = np.array([3.9, 6.2])  # of SIZES
GRID = np.array([7.5, 15.5, 23.5])
JITTER, ACROSS, GROWTH, TINT = 0.75, 2.0, 0.05, 0.03
PALETTE = np.array(
    [
        [0.90, 0.08, 0.10],
        [0.10, 0.65, 0.15],
        [0.12, 0.22, 0.92],
        [0.97, 0.90, 0.10],
        [0.65, 0.10, 0.80],
        [0.10, 0.85, 0.92],
        [1.00, 0.50, 0.00],
    ]
)  # of COLOURS, 0..1; the nearest two are 0.41 apart, the nearest to a background 0.50
GREYS = np.array([0.04, 0.45, 0.96])  # of BACKGROUNDS

HELD_PAIRS = (
    ("red", "cross"),
    ("green", "circle"),
    ("blue", "ring"),
    ("yellow", "square"),
    ("purple", "triangle"),
)
HELD_RELATIONS = (
    ("circle", "left of", "square"),
    ("square", "above", "triangle"),
    ("triangle", "left of", "cross"),
    ("cross", "above", "ring"),
    ("ring", "left of", "circle"),
)


def held_out(scene: Scene) -> list[str]:
    """The compositions of a scene that training never shows: "red cross", "circle left of square"; [] if all are seen."""
    found = [f"{t.colour} {t.shape}" for t in scene.things if (t.colour, t.shape) in HELD_PAIRS]
    if scene.relation:
        triple = (scene.things[0].shape, scene.relation, scene.things[1].shape)
        found += [" ".join(triple)] if triple in HELD_RELATIONS else []
    return list(dict.fromkeys(found))


# --- scenes as arrays -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Scenes(Sequence):
    """n scenes as arrays, with everything that the renderer needs. An integer gives a Scene, anything else Scenes.

    Attributes are numbers into SHAPES, COLOURS, ...; -1 where there is none. Of one thing, the second column is
    meaningless. ``words`` are the numbers that choose each scene's caption.
    """

    number: Int[Array, " n"]  # of things, 1 or 2
    place: Int[Array, " n"]
    relation: Int[Array, " n"]
    background: Int[Array, " n"]
    shape: Int[Array, "n 2"]
    colour: Int[Array, "n 2"]
    size: Int[Array, "n 2"]
    centre: Float[Array, "n 2 2"]  # x, y of either thing, in pixels of a 32x32 picture
    radius: Float[Array, "n 2"]
    rgb: Float[Array, "n 3 3"]  # of the background and of either thing, 0..1
    words: Float[Array, "n 5"]

    def __len__(self) -> int:
        return len(self.number)

    def __getitem__(self, index):
        if not isinstance(index, int | np.integer):
            rows = rows_of(index, len(self))
            return Scenes(**{name: field[rows] for name, field in vars(self).items()})
        i = int(rows_of([index], len(self))[0])
        things = tuple(
            Thing(SHAPES[self.shape[i, k]], COLOURS[self.colour[i, k]], SIZES[self.size[i, k]])
            for k in range(self.number[i])
        )
        place = PLACES[self.place[i]] if self.number[i] == 1 else None
        relation = RELATIONS[self.relation[i]] if self.number[i] == 2 else None
        return Scene(things, place, relation, BACKGROUNDS[self.background[i]])

    def captions(self) -> list[str]:
        """Each scene's own caption."""
        return [caption(scene, u) for scene, u in zip(self, self.words.tolist())]


# the compositions, as rows (shape, colour) and (shape, colour, relation, shape, colour)
_PAIRS = np.array(list(product(range(len(SHAPES)), range(len(COLOURS)))))
_PAIR_HELD = np.array([(COLOURS[c], SHAPES[s]) in HELD_PAIRS for s, c in _PAIRS])
_TWOS = np.array([(*a, r, *b) for a in _PAIRS for r in range(len(RELATIONS)) for b in _PAIRS])
_TWO_HAS_PAIR = np.array([a or b for a in _PAIR_HELD for _ in RELATIONS for b in _PAIR_HELD])
_TWO_HAS_RELATION = np.array([(SHAPES[t[0]], RELATIONS[t[2]], SHAPES[t[3]]) in HELD_RELATIONS for t in _TWOS])
# split -> tables of one thing and of two things; two things come from the first or the last table by a fair coin
_SEEN = (_PAIRS[~_PAIR_HELD], (_TWOS[~_TWO_HAS_PAIR & ~_TWO_HAS_RELATION],) * 2)
_HELD = (_PAIRS[_PAIR_HELD], (_TWOS[_TWO_HAS_PAIR], _TWOS[~_TWO_HAS_PAIR & _TWO_HAS_RELATION]))

COLUMNS = 23 + CHOICES


def _scenes(u: Float[Array, "n columns"], held: bool) -> Scenes:
    """The scenes that uniform numbers encode.

    Columns: 0 one thing or two, 1 composition, 2 place, 3 background, 4-5 sizes, 6-22 geometry and colours and 23-27
    the caption (see ``_arranged``). In ``held``, the second half of column 0 is halved again: a held pair or relation.
    """
    ones, (twos, others) = _HELD if held else _SEEN
    count = 1 + (u[:, 0] >= 0.5)
    pick = np.where((u[:, 0] < 0.75)[:, None], twos[_index(u[:, 1], len(twos))], others[_index(u[:, 1], len(others))])
    one, single = ones[_index(u[:, 1], len(ones))], count == 1
    shape = np.where(single[:, None], one[:, :1], pick[:, [0, 3]])
    colour = np.where(single[:, None], one[:, 1:], pick[:, [1, 4]])
    place = np.where(single, _index(u[:, 2], len(PLACES)), -1)
    relation = np.where(single, -1, pick[:, 2])
    size = _index(u[:, 4:6], len(SIZES))
    return _arranged(count, place, relation, _index(u[:, 3], len(BACKGROUNDS)), shape, colour, size, u[:, 6:])


def _index(u: Array, n: int) -> Array:
    return (u * n).astype(np.int64)


def _arranged(count, place, relation, background, shape, colour, size, u) -> Scenes:
    """Geometry and colours: columns 0-1 radii, 2-5 centres, 6-7 across the relation, 8-16 tints, 17-21 words."""
    signed = 2 * u - 1
    radius = RADII[size] * (1 + GROWTH * signed[:, :2])
    single = np.stack([GRID[place % 3], GRID[place // 3]], -1)  # (n, 2): x, y
    along = np.broadcast_to(GRID[[0, 2]], (len(u), 2))
    across = GRID[1] + ACROSS * signed[:, 6:8]
    beside = (relation == 0)[:, None]
    pair = np.stack([np.where(beside, along, across), np.where(beside, across, along)], -1)  # (n, thing, xy)
    centre = np.where((count == 1)[:, None, None], single[:, None, :], pair)
    centre = centre + JITTER * signed[:, 2:6].reshape(-1, 2, 2)
    plain = np.concatenate([np.repeat(GREYS[background][:, None, None], 3, -1), PALETTE[colour]], 1)  # (n, 3, rgb)
    rgb = np.clip(plain + TINT * signed[:, 8:17].reshape(-1, 3, 3), 0, 1)
    return Scenes(count, place, relation, background, shape, colour, size, centre, radius, rgb, u[:, 17:])


def draw(n: int, *, rng: np.random.Generator, held: bool = False) -> Scenes:
    """n scenes of the training distribution, or of ``held``, from ``rng.random((n, COLUMNS))``."""
    return _scenes(rng.random((n, COLUMNS)), held)


def arrange(scenes: Sequence[Scene], *, rng: np.random.Generator) -> Scenes:
    """Scenes of your own, placed and tinted by ``rng.random((n, COLUMNS - 6))``.

    Raises ValueError for a scene that lacks an attribute or names one that the world does not have.
    """
    for scene in scenes:
        check(scene)

    def numbers(name: str, known: Sequence[str]) -> Array:
        values = [getattr(scene, name) for scene in scenes]
        return np.array([-1 if value is None else known.index(value) for value in values], np.int64)

    def of_things(name: str, known: Sequence[str]) -> Array:
        pairs = [[*scene.things, *scene.things][:2] for scene in scenes]
        return np.array([[known.index(getattr(t, name)) for t in pair] for pair in pairs], np.int64).reshape(-1, 2)

    return _arranged(
        np.array([len(scene.things) for scene in scenes], np.int64),
        numbers("place", PLACES),
        numbers("relation", RELATIONS),
        numbers("background", BACKGROUNDS),
        of_things("shape", SHAPES),
        of_things("colour", COLOURS),
        of_things("size", SIZES),
        rng.random((len(scenes), COLUMNS - 6)),
    )


def check(scene: Scene) -> None:
    """Raise ValueError unless the scene is complete and one of this world's."""
    if len(scene.things) not in (1, 2):
        raise ValueError(f"a scene has one thing or two, got {len(scene.things)}")
    single = len(scene.things) == 1
    said: list[tuple[str, str | None, tuple[str | None, ...]]] = [("background", scene.background, BACKGROUNDS)]
    said += [("place", scene.place, PLACES if single else (None,))]
    said += [("relation", scene.relation, (None,) if single else RELATIONS)]
    for thing in scene.things:
        said += [("shape", thing.shape, SHAPES), ("colour", thing.colour, COLOURS), ("size", thing.size, SIZES)]
    for name, value, known in said:
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(map(str, known))}, got {value}: {scene.things}")


# --- the renderer -----------------------------------------------------------------------------------------------------


def signed_distance(shape: str, x: Array, y: Array, r: Array) -> Array:
    """Distance from the edge of a shape of radius ``r`` about the origin, negative inside; y points down."""
    if shape == "circle":
        return np.hypot(x, y) - r
    if shape == "square":
        return np.maximum(abs(x), abs(y)) - 0.86 * r
    if shape == "triangle":  # the two sides have the normals (+-1.8, -1), through the apex
        return np.maximum((1.8 * abs(x) - y - r) / np.hypot(1.8, 1.0), y - 0.8 * r)
    if shape == "cross":
        long, short = np.maximum(abs(x), abs(y)), np.minimum(abs(x), abs(y))
        return np.maximum(long - r, short - 0.34 * r)
    return abs(np.hypot(x, y) - 0.77 * r) - 0.23 * r  # ring


def coverage(
    shape: Int[Array, " m"], centre: Float[Array, "m 2"], radius: Float[Array, " m"], axis: Real[Array, " s"]
) -> Float32[Array, "m s s"]:
    r"""The share $\alpha$ of each pixel that each of m shapes covers; ``axis`` are the pixels' centres, evenly spaced."""
    x = (axis - centre[:, :1]).astype(np.float32)[:, None, :]
    y = (axis - centre[:, 1:]).astype(np.float32)[:, :, None]
    r = radius.astype(np.float32)[:, None, None]
    scale = np.float32(1 / (axis[1] - axis[0]))
    alpha = np.empty((len(shape), len(axis), len(axis)), np.float32)
    for number, name in enumerate(SHAPES):
        of = np.flatnonzero(shape == number)
        if len(of):
            alpha[of] = 0.5 - scale * signed_distance(name, x[of], y[of], r[of])
    return np.clip(alpha, 0, 1, out=alpha)


def render(scenes: Scenes, size: int = SIDE) -> UInt8[Array, "n size size 3"]:
    """The pictures, uint8. Raises ValueError for a size below 8 pixels."""
    if size < 8:
        raise ValueError(f"size must be at least 8 pixels, got {size}")
    axis = (np.arange(size) + 0.5) * (SIDE / size) - 0.5
    rgb = (255 * scenes.rgb).astype(np.float32)[..., None, None]  # (n, 3, rgb, 1, 1)
    alpha = coverage(scenes.shape[:, 0], scenes.centre[:, 0], scenes.radius[:, 0], axis)[:, None]
    planes = rgb[:, 0] + alpha * (rgb[:, 1] - rgb[:, 0])  # (n, 3, size, size): long rows for the loops
    two = np.flatnonzero(scenes.number == 2)
    alpha = coverage(scenes.shape[two, 1], scenes.centre[two, 1], scenes.radius[two, 1], axis)[:, None]
    planes[two] += alpha * (rgb[two, 2] - planes[two])  # the second thing lies over the first
    return np.ascontiguousarray(np.rint(planes).astype(np.uint8).transpose(0, 2, 3, 1))


# --- the data set -----------------------------------------------------------------------------------------------------


def _mix(z: Array) -> Array:
    """SplitMix64's output function: a bijection of 64-bit numbers in which every bit of z moves every bit of the result."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


GAMMA = np.uint64(0x9E3779B97F4A7C15)


def uniform(seed: int, split: str, rows: Int[Array, " n"], columns: int = COLUMNS) -> Float[Array, "n columns"]:
    """Numbers in [0, 1), float64, each a function of (seed, split, row, column) alone."""
    state = np.zeros(1, np.uint64)
    for word in (seed, list(LENGTHS).index(split), rows):
        state = _mix(state + GAMMA + np.asarray(word).astype(np.uint64))
    counter = np.arange(1, columns + 1, dtype=np.uint64) * GAMMA
    return (_mix(state[:, None] + counter) >> np.uint64(11)) * 2.0**-53


@dataclass(frozen=True)
class LazyScenes(Sequence):
    """The scenes of one split, drawn when asked for: an integer gives a Scene, an index array or a slice Scenes."""

    split: str
    seed: int
    n: int

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index):
        if isinstance(index, int | np.integer):
            return self[[index]][0]
        return _scenes(uniform(self.seed, self.split, rows_of(index, self.n)), self.split == "held")


@dataclass(frozen=True)
class LazyImages:
    """The pictures of one split, drawn when asked for, with the interface of a uint8 array (n, size, size, 3)."""

    scenes: LazyScenes
    size: int
    dtype = np.dtype(np.uint8)
    ndim = 4

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return (len(self.scenes), self.size, self.size, 3)

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index):
        if isinstance(index, int | np.integer):
            return self[[index]][0]
        return render(self.scenes[index], self.size)

    def __iter__(self) -> Iterator[Array]:
        return (self[i] for i in range(len(self)))

    @property
    def identity(self) -> tuple:
        """Equal for the same pictures: the settings, and a checksum of the first few, which changes with the world."""
        first = self.scenes[: min(64, len(self))]
        checksum = zlib.crc32(render(first, self.size).tobytes(), zlib.crc32(repr(first.captions()).encode()))
        return (self.scenes, self.size, checksum)

    def __array__(self, dtype=None, copy=None) -> Array:
        if len(self) > 100_000:
            raise ValueError(
                f"these {len(self)} pictures are drawn on demand and would not fit: take the rows you need"
            )
        return self[:].astype(dtype or np.uint8)


@dataclass(frozen=True)
class LazyCaptions(Sequence):
    """The captions of one split: an integer gives one, an index array or a slice a list."""

    scenes: LazyScenes

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index):
        if isinstance(index, int | np.integer):
            return self[[index]][0]
        return self.scenes[index].captions()


def scenes(split: str, *, seed: int = 0, n: int | None = None) -> LazyScenes:
    """The scenes of ``train``, ``val``, ``test`` or ``held``; index them as you would an array.

    Raises ValueError for another split and for a seed that is negative or does not fit into 64 bits.
    """
    if split not in LENGTHS:
        raise ValueError(f"split must be one of {', '.join(LENGTHS)}, got {split!r}")
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed must be in 0..2^64-1, got {seed}")
    return LazyScenes(split, seed, LENGTHS[split] if n is None else n)


def part(split: str, *, size: int = SIDE, seed: int = 0) -> Split:
    """One split of the data set, ``held`` included."""
    of = scenes(split, seed=seed)
    return Split(LazyImages(of, size), None, LazyCaptions(of), of)


def shapes(size: int | None = None, *, seed: int = 0) -> Dataset:
    """The data set ``shapes``: uint8 (n, size, size, 3), captions, scenes; 1,000,000 / 10,000 / 10,000, drawn on demand.

    ``size`` is 32, 64 or 128 pixels (32 when not given): the same scenes at another resolution.
    """
    if size not in (None, SIDE, 2 * SIDE, 4 * SIDE):
        raise ValueError(f"size must be 32, 64 or 128 for the data set 'shapes', got {size}")
    train, val, test = (part(name, size=size or SIDE, seed=seed) for name in ("train", "val", "test"))
    return Dataset("shapes", train, val, test, levels=256, classes=())
