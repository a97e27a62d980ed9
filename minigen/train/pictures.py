"""Pictures of samples: grids and strips as PNG, points as a density, loss curves as inline SVG."""

import html
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from kernels.backend import Array, to_numpy
from minigen.train.checkpoint import write_atomically

GAP = 2  # pixels between two pictures
PAPER = 255  # their colour
NOTED, NOTE_SIZE = 160, 12  # pixels per side of an image with a note below, and the note's font size
TILE = 48  # small images are enlarged until they have about this many pixels per side
POINTS_SIDE, POINTS_EDGE = 64, 1.25  # a plot of points: squares per side, and the coordinate at its edge
POINTS_ZOOM, POINTS_COLUMNS = 6, 5  # pixels per side of such a square, and plots side by side in a strip
POINTS_PAPER = 240  # the grey where no points lie, which sets a plot off from the gap around it


def tile(images: UInt8[Array, "n h w 3"], columns: int, *, zoom: int = 1) -> UInt8[Array, "height width 3"]:
    """Images side by side, row by row, each pixel repeated ``zoom`` times, with a light gap around each."""
    if columns < 1 or zoom < 1:
        raise ValueError(f"columns and zoom must be at least 1, got {columns} and {zoom}")
    n, h, w, c = images.shape
    rows = max(1, -(-n // columns))
    high, wide = h * zoom + GAP, w * zoom + GAP
    canvas = np.full((rows * high + GAP, columns * wide + GAP, c), PAPER, np.uint8)
    for i, image in enumerate(images.repeat(zoom, axis=1).repeat(zoom, axis=2)):
        y, x = GAP + i // columns * high, GAP + i % columns * wide
        canvas[y : y + h * zoom, x : x + w * zoom] = image
    return canvas


def points(x: Any) -> UInt8[Array, "1 side side 3"]:
    """A 2D histogram of points (n, 2), dark where many lie; y grows upward."""
    edges = np.linspace(-POINTS_EDGE, POINTS_EDGE, POINTS_SIDE + 1)
    count, _, _ = np.histogram2d(x[:, 1], x[:, 0], bins=(edges, edges))
    ink = np.log1p(count[::-1]) / max(np.log1p(count.max()), 1e-9)
    grey = (POINTS_PAPER - 215 * ink).astype(np.uint8)
    return np.repeat(grey[None, :, :, None], 3, axis=3)


def grid(dataset: Any, samples: Any, *, columns: int | None = None) -> UInt8[Array, "height width 3"]:
    """The samples (floats in [-1, 1] or levels) of a data set as one picture, nearly square by default."""
    samples = to_numpy(samples)
    if samples.ndim == 2 and samples.shape[1] == 2:
        return tile(points(samples), 1, zoom=POINTS_ZOOM)
    return tile(
        dataset.to_rgb8(samples),
        columns or max(1, math.ceil(math.sqrt(len(samples)))),
        zoom=max(1, TILE // max(samples.shape[1:3], default=TILE)),
    )


def noted(dataset: Any, samples: Any, notes: Sequence[str], *, columns: int = 6) -> UInt8[Array, "height width 3"]:
    """The samples of a data set as one picture, each with its note below, broken at newlines and to its width."""
    from PIL import Image, ImageDraw, ImageFont

    images = dataset.to_rgb8(to_numpy(samples))
    if len(notes) != len(images):
        raise ValueError(f"notes must have one entry a sample: got {len(notes)} for {len(images)} samples")
    n, h, w, _ = images.shape
    zoom = max(1, NOTED // max(h, w, 1))
    font = ImageFont.load_default(NOTE_SIZE)
    broken = [[part for line in note.split("\n") for part in _broken(line, w * zoom, font)] for note in notes]
    line = NOTE_SIZE + 3
    high = h * zoom + line * max((len(lines) for lines in broken), default=0) + GAP
    canvas = np.full((n, high, w * zoom, 3), PAPER, np.uint8)
    canvas[:, : h * zoom] = images.repeat(zoom, axis=1).repeat(zoom, axis=2)
    sheet = Image.fromarray(tile(canvas, min(columns, max(1, n))))
    draw = ImageDraw.Draw(sheet)
    for i, lines in enumerate(broken):
        x = GAP + i % columns * (w * zoom + GAP)
        y = GAP + i // columns * (high + GAP) + h * zoom
        for j, words in enumerate(lines):
            draw.text((x, y + j * line), words, fill=(0, 0, 0), font=font)
    return np.asarray(sheet)


def _broken(line: str, width: int, font: Any) -> list[str]:
    """A line in pieces that fit into ``width`` pixels, broken at spaces; a longer word stands alone."""
    pieces: list[str] = []
    for word in line.split():
        if pieces and font.getlength(f"{pieces[-1]} {word}") <= width:
            pieces[-1] += f" {word}"
        else:
            pieces.append(word)
    return pieces


def strip(dataset: Any, states: Sequence[Any], *, rows: int = 8, columns: int = 10) -> UInt8[Array, "height width 3"]:
    """How samples came about: a row per sample, a column per state, evenly spaced from the first to the last.

    For points, each state is a plot of all of them; the plots are read row by row.
    """
    if not states:
        raise ValueError("states must hold at least one state to show")
    chosen = [to_numpy(states[i]) for i in np.unique(np.linspace(0, len(states) - 1, columns).round().astype(int))]
    if chosen[0].ndim == 2:
        plots = np.concatenate([points(x) for x in chosen])
        return tile(plots, min(len(chosen), POINTS_COLUMNS), zoom=POINTS_ZOOM)
    order = np.stack([x[:rows] for x in chosen], axis=1)  # (rows, columns, h, w, c)
    return grid(dataset, order.reshape(-1, *order.shape[2:]), columns=len(chosen))


def png(picture: UInt8[Array, "height width 3"]) -> bytes:
    """The bytes of a PNG file."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


FRAMES, FRAME_MS, LAST_MS = 40, 80, 1600  # of an animation: at most how many; milliseconds for each and for the last


def gif(dataset: Any, states: Sequence[Any], *, samples: int = 36) -> bytes:
    """The same as the bytes of an animated GIF: a grid per state, evenly spaced from the first to the last."""
    from PIL import Image

    if not states:
        raise ValueError("states must hold at least one state to show")
    chosen = np.unique(np.linspace(0, len(states) - 1, FRAMES).round().astype(int))
    frames = [Image.fromarray(grid(dataset, to_numpy(states[i])[:samples])) for i in chosen]
    buffer = io.BytesIO()
    times = [FRAME_MS] * (len(frames) - 1) + [LAST_MS]
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], duration=times, loop=0)
    return buffer.getvalue()


def save_png(path: Path, picture: UInt8[Array, "height width 3"]) -> None:
    """Write a picture in one step; UserError if that fails."""
    write_atomically(path, png(picture))


def save_samples(path: Path, dataset: Any, samples: Any, notes: Sequence[str] = ()) -> Path:
    """Write samples as a PNG file, with any notes below them; texts, which are their notes, as a .txt file instead.

    Returns the path that was written.
    """
    if is_text(dataset):
        path = path.with_suffix(ending(dataset))
        write_atomically(path, "".join(f"--- {i} ---\n{note}\n" for i, note in enumerate(notes, start=1)).encode())
    else:
        save_png(path, noted(dataset, samples, notes) if notes else grid(dataset, samples))
    return path


def save_singles(path: Path, dataset: Any, samples: Any) -> list[Path]:
    """Write each sample as a PNG file of its own size beside ``path``: grid-1.png, grid-2.png, ... Returns the paths."""
    paths = [path.with_name(f"{path.stem}-{i}.png") for i in range(1, len(samples) + 1)]
    for one, image in zip(paths, dataset.to_rgb8(to_numpy(samples))):
        save_png(one, image)
    return paths


def ending(dataset: Any) -> str:
    """The suffix of the file that samples are written to."""
    return ".txt" if is_text(dataset) else ".png"


def is_text(dataset: Any) -> bool:
    """Whether the items of a data set are rows of tokens, which have no picture."""
    return dataset.levels is not None and len(dataset.shape) == 1


# --- loss curves ------------------------------------------------------------------------------------------------------

WIDTH, HEIGHT, LEFT, BOTTOM = 480, 200, 56, 24
COLOURS = ("#3b7dd8", "#d9722e", "#2f9e5f", "#b04fc4")
BINS = 160


def curve_svg(series: Mapping[str, tuple[Sequence[float], Sequence[float]]], *, title: str) -> str:
    """Curves of (steps, values) as an SVG element in the page's text colour that needs no other file.

    Each curve is averaged within at most 160 equal pieces. The vertical axis is logarithmic if all values are positive
    and span more than a factor of 20.
    """
    lines = {name: _averaged(x, y) for name, (x, y) in series.items() if len(x)}
    if not lines:
        return ""
    xs = np.concatenate([x for x, _ in lines.values()])
    ys = np.concatenate([y for _, y in lines.values()])
    logarithmic = bool(ys.min() > 0 and ys.max() > 20 * ys.min())
    height_of = np.log10 if logarithmic else np.asarray
    x0, x1 = float(xs.min()), float(xs.max())
    y0, y1 = float(height_of(ys.min())), float(height_of(ys.max()))

    def at(x: Any, y: Any) -> tuple[Any, Any]:
        across = LEFT + (np.asarray(x) - x0) / (x1 - x0 or 1.0) * (WIDTH - LEFT - 8)
        down = 8 + (y1 - height_of(y)) / (y1 - y0 or 1.0) * (HEIGHT - BOTTOM - 16)
        return across, down

    label = html.escape(title)
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}"><title>{label}</title>']
    for value in np.linspace(y0, y1, 3):
        value = 10**value if logarithmic else value
        y = float(at(x0, value)[1])
        parts.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - 8}" stroke="currentColor" stroke-opacity=".2"/>')
        parts.append(_text(LEFT - 6, y + 4, f"{value:.3g}", "end"))
    parts.append(_text(LEFT, HEIGHT - 6, f"step {x0:,.0f}", "start"))
    parts.append(_text(WIDTH - 8, HEIGHT - 6, f"{x1:,.0f}", "end"))
    for i, (name, (x, y)) in enumerate(lines.items()):
        colour = COLOURS[i % len(COLOURS)]
        dots = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(*at(x, y)))
        parts.append(f'<polyline points="{dots}" fill="none" stroke="{colour}" stroke-width="1.6"/>')
        if len(lines) > 1:
            parts.append(_text(WIDTH - 12, 20 + 14 * i, html.escape(name), "end", colour))
    return "".join([*parts, "</svg>"])


def _averaged(x: Sequence[float], y: Sequence[float]) -> tuple[Any, Any]:
    pieces = np.array_split(np.arange(len(x)), min(BINS, len(x)))
    xs, ys = np.asarray(x, float), np.asarray(y, float)
    return np.array([xs[p].mean() for p in pieces]), np.array([ys[p].mean() for p in pieces])


def _text(x: float, y: float, text: str, anchor: str, colour: str = "currentColor") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="11" text-anchor="{anchor}" fill="{colour}">{text}</text>'
