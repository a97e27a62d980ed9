"""Pictures that are no scene of the ``shapes`` world, for the oracle to refuse, and a table of how often it is right.

| kind | what |
|---|---|
| noise | every channel of every pixel its own U(0, 1) |
| clouds | Gaussian noise, blurred over 2 pixels |
| blank | a background and nothing else |
| half | the left, right or upper half of a thing is missing (of a triangle without its lower half, a triangle is left) |
| fused | two things that overlap: centres half to 0.8 of the sum of their radii apart |
| three | three things in three corners |
| tiny, huge | one thing of radius 2 to 2.6, or 8 to 10 (the world has 3.7 to 6.5) |
| average | the mean of two pictures |
| specks | a scene with twelve specks of one or two pixels, of the palette's colours, beside its things |
| gradient | a scene on a background that grows brighter by a quarter of the range from one side to the other |
| ghost | one thing, and in the opposite corner a large one, too pale to count |

`python -m minigen.data.oracle --check N` prints the table for N pictures per row.

You need: `data/shapes.py`. New here: a judge is tested on what it must refuse as well as on what it must read.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from jaxtyping import UInt8
from scipy import ndimage

from kernels.backend import Array

from . import oracle, shapes
from .shapes import GRID, RADII, SIDE, Scenes


def _of(count: int, n: int, rng: np.random.Generator) -> Scenes:
    """n scenes with ``count`` things each."""
    found = shapes.draw(4 * n + 64, rng=rng)
    return found[np.flatnonzero(found.number == count)[:n]]


def noise(n: int, *, rng: np.random.Generator) -> Array:
    """Independent uniform levels."""
    return rng.integers(0, 256, (n, SIDE, SIDE, 3)).astype(np.uint8)


def clouds(n: int, *, rng: np.random.Generator) -> Array:
    """Blurred noise of mean 0.5 and standard deviation 0.25."""
    z = ndimage.gaussian_filter(rng.standard_normal((n, SIDE, SIDE, 3)), (0, 2, 2, 0))
    return _levels(0.5 + 0.25 * z / z.std())


def blank(n: int, *, rng: np.random.Generator) -> Array:
    """Backgrounds."""
    background = shapes.draw(n, rng=rng).rgb[:, 0]
    return _levels(np.broadcast_to(background[:, None, None], (n, SIDE, SIDE, 3)))


def half(n: int, *, rng: np.random.Generator) -> Array:
    """Scenes in which half of a thing has the background's colour."""
    scenes = shapes.draw(n, rng=rng)
    which, side = rng.integers(0, scenes.number), rng.integers(0, 3, n)[:, None, None]
    pictures = shapes.render(scenes) / 255
    centre, reach = scenes.centre[np.arange(n), which], scenes.radius[np.arange(n), which][:, None, None] + 1
    x = np.arange(SIDE) - centre[:, :1, None]  # (n, 1, 32)
    y = (np.arange(SIDE) - centre[:, 1:])[:, :, None]
    gone = np.where(side == 0, x <= 0, np.where(side == 1, x >= 0, y <= 0)) & (abs(x) <= reach) & (abs(y) <= reach)
    return _levels(np.where(gone[..., None], scenes.rgb[:, 0][:, None, None], pictures))


def fused(n: int, *, rng: np.random.Generator) -> Array:
    """Two things on top of each other in the middle."""
    scenes = _of(2, n, rng)
    apart = rng.uniform(0.5, 0.8, n) * scenes.radius.sum(1)
    angle = rng.uniform(0, 2 * np.pi, n)
    offset = np.stack([np.cos(angle), np.sin(angle)], -1) * apart[:, None] / 2
    return shapes.render(replace(scenes, centre=GRID[1] + np.stack([offset, -offset], 1)))


def three(n: int, *, rng: np.random.Generator) -> Array:
    """One thing each in three of the four corners of the grid."""
    scenes = [_of(1, n, rng) for _ in range(3)]
    corners = GRID[[[0, 0], [2, 0], [0, 2], [2, 2]]]
    order = rng.permuted(np.tile(np.arange(4), (n, 1)), axis=1)
    picture = np.broadcast_to(scenes[0].rgb[:, :1, None], (n, SIDE, SIDE, 3))
    for k, s in enumerate(scenes):
        alpha = shapes.coverage(s.shape[:, 0], corners[order[:, k]], s.radius[:, 0], np.arange(SIDE))[..., None]
        picture = picture + alpha * (s.rgb[:, 1][:, None, None] - picture)
    return _levels(picture)


def tiny(n: int, *, rng: np.random.Generator) -> Array:
    """One thing, too small."""
    return shapes.render(replace(_of(1, n, rng), radius=rng.uniform(2, 2.6, (n, 2))))


def huge(n: int, *, rng: np.random.Generator) -> Array:
    """One thing, too large."""
    return shapes.render(replace(_of(1, n, rng), radius=rng.uniform(8, 10, (n, 2))))


def average(n: int, *, rng: np.random.Generator) -> Array:
    """Two pictures at half contrast each."""
    a, b = (shapes.render(shapes.draw(n, rng=rng)) / 510 for _ in range(2))
    return _levels(a + b)


def specks(n: int, *, rng: np.random.Generator) -> Array:
    """Scenes with a dozen specks, where no thing is near."""
    scenes = shapes.draw(n, rng=rng)
    pictures = shapes.render(scenes)
    there = abs(pictures.astype(int) - pictures[:, :1, :1]).max(-1) > 20
    free = ~ndimage.binary_dilation(there, np.ones((1, 7, 7)))[:, :, :-1]  # and one pixel to the right of it
    for picture, place in zip(pictures, free):
        at = rng.choice(np.flatnonzero(place), 12, replace=False)
        y, x = np.divmod(at, SIDE - 1)
        picture[y, x + rng.integers(0, 2, 12)] = picture[y, x] = 255 * shapes.PALETTE[rng.integers(0, 7, 12)]
    return pictures


def gradient(n: int, *, rng: np.random.Generator) -> Array:
    """Scenes whose background is no single colour."""
    pictures = shapes.render(shapes.draw(n, rng=rng)) / 255
    slope = np.linspace(-0.13, 0.13, SIDE)[None, :, None, None] * rng.choice([-1, 1], (n, 1, 1, 1))
    across = rng.random((n, 1, 1, 1)) < 0.5
    return _levels(pictures + np.where(across, slope, slope.transpose(0, 2, 1, 3)))


def ghost(n: int, *, rng: np.random.Generator) -> Array:
    """One thing in a corner; in the opposite corner a large one whose colour is 0.2 to 0.25 from the background's."""
    a, b = _of(1, n, rng), replace(_of(1, n, rng), radius=np.full((n, 2), RADII[1]))
    corner = rng.integers(0, 2, (n, 2))
    picture = np.broadcast_to(a.rgb[:, :1, None], (n, SIDE, SIDE, 3))
    away = np.sqrt(np.square(b.rgb[:, 1] - a.rgb[:, 0]).sum(-1)).reshape(n, 1, 1, 1)
    pale = rng.uniform(0.2, 0.25, (n, 1, 1, 1)) / away
    for s, at, share in ((a, GRID[2 * corner], 1.0), (b, GRID[2 - 2 * corner], pale)):
        alpha = share * shapes.coverage(s.shape[:, 0], at, s.radius[:, 0], np.arange(SIDE))[..., None]
        picture = picture + alpha * (s.rgb[:, 1][:, None, None] - picture)
    return _levels(picture)


def _levels(x: Array) -> UInt8[Array, "n 32 32 3"]:
    return np.rint(255 * np.clip(x, 0, 1)).astype(np.uint8)


KINDS: dict[str, Callable[..., Array]] = {
    function.__name__: function
    for function in (noise, clouds, blank, half, fused, three, tiny, huge, average, specks, gradient, ghost)
}


# --- the table --------------------------------------------------------------------------------------------------------


def disturbed(scenes: Scenes, how: str, *, rng: np.random.Generator) -> Array:
    """Pictures of scenes: ``clean``, ``noise`` of standard deviation 0.1 on [-1, 1], ``blur`` over half a pixel,
    ``64``, ``128``.
    """
    if how in ("64", "128"):
        return shapes.render(scenes, int(how))
    x = (shapes.render(scenes) / 127.5 - 1).astype(np.float32)
    if how == "noise":
        return x + 0.1 * rng.standard_normal(x.shape, np.float32)
    return ndimage.gaussian_filter(x, (0, 0.5, 0.5, 0)) if how == "blur" else x


def check(n: int, *, rng: np.random.Generator) -> str:
    """How often the oracle is right, as a table: n pictures per row, half of them with held-out compositions."""
    lines = [
        f"{n} pictures a row",
        "",
        "read            one: attributes     all    two: attributes     all   ms a picture",
    ]
    for how in ("clean", "noise", "blur", "64", "128"):
        right = []
        spent = 0.0
        for i in range(0, n, 500):
            k = min(500, n - i)
            for held, m in ((False, k - k // 2), (True, k // 2)):
                scenes = shapes.draw(m, rng=rng, held=held)
                images = disturbed(scenes, how, rng=rng)
                start = time.process_time()
                found = oracle.readings(images)
                spent += time.process_time() - start
                right += [(len(s.things), s == f.scene, s == f.scene and not f.fault) for s, f in zip(scenes, found)]
        table = np.array(right)
        shares = [f"{table[table[:, 0] == things, column].mean():>8.4f}" for things in (1, 2) for column in (1, 2)]
        lines.append(f"{how:<16}{shares[0]:>15}{shares[1]}{shares[2]:>19}{shares[3]}{1e3 * spent / n:>15.2f}")
    lines += ["", "refused"]
    for kind, make in KINDS.items():
        refused = sum(scene is None for i in range(0, n, 500) for scene in oracle.read(make(min(500, n - i), rng=rng)))
        lines.append(f"{kind:<16}{refused / n:>15.4f}")
    return "\n".join(lines)


def main() -> int:
    """The command line of ``python -m minigen.data.oracle``; its exit status."""
    parser = argparse.ArgumentParser(prog="python -m minigen.data.oracle", description="How often the oracle is right.")
    parser.add_argument("--check", type=int, default=1000, metavar="N", help="pictures per row (default 1000)")
    n = parser.parse_args().check
    if n < 8:
        parser.error(f"--check must be at least 8, got {n}")
    print(check(n, rng=np.random.default_rng(0)))
    return 0
