"""The pictures under a directory as a data set.

Every file below the directory whose ending belongs to an image format that Pillow reads is taken (in the order of its
path), turned upright by its EXIF tag, cropped to the largest centred square, and resized to ``size``. Hidden files and
files of other kinds are passed over. A picture that cannot be read is an error that names it: silently training on
half of a directory would be worse.

If every picture lies in a subfolder and there are at least two of them, the first-level subfolders are the classes.
The split is a fixed permutation: a tenth each for val and test.
"""

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from kernels.backend import Array

from .dataset import Dataset, Split, three_way

SEED = 0  # of the split's permutation
SIZE = 32
GREY_MODES = ("1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "F")


def folder(data_dir: str | Path | None, size: int | None = None, *, grey: bool | None = None) -> Dataset:
    """The data set ``folder``: images (n, size, size, 1 or 3), 256 levels.

    ``size`` is the side in pixels (32 when not given). ``grey`` asks for one channel or three; when not given, it is
    one exactly if all files are grey. Transparent pixels become white.

    Raises ValueError for a missing directory, fewer than three pictures, a bad size, and a picture that cannot be read.
    """
    size = SIZE if size is None else size
    if size < 1:
        raise ValueError(f"size must be at least 1 pixel, got {size}")
    if data_dir is None:
        raise ValueError("the data set 'folder' needs the directory of the pictures: give it with --data-dir")
    root = Path(data_dir)
    if not root.is_dir():
        raise ValueError(f"data_dir must be an existing directory of pictures, got {str(root)!r}")
    paths = find_images(root)
    if len(paths) < 3:
        raise ValueError(
            f"{str(root)!r} must hold at least 3 pictures (one each for train, val, test), got {len(paths)}"
        )
    everything, classes = _read_all(root, paths, size, grey)
    train, val, test = (everything.take(rows) for rows in three_way(len(paths), seed=SEED))
    return Dataset("folder", train, val, test, levels=256, classes=classes)


def find_images(root: Path) -> list[Path]:
    """All files under ``root`` with an ending of an image format that Pillow reads, sorted; hidden ones left out."""
    readable = {
        ending
        for ending, name in Image.registered_extensions().items()
        if name in Image.OPEN and Image.MIME.get(name, "").startswith("image/")
    }
    found = (path for path in root.rglob("*") if path.suffix.lower() in readable and path.is_file())
    visible = (path for path in found if not any(part.startswith(".") for part in path.relative_to(root).parts))
    return sorted(visible, key=lambda path: path.relative_to(root).as_posix())


def read_image(path: Path, size: int) -> Image.Image:
    """One picture, upright, cropped to the centred square, ``size`` x ``size``, in mode L or RGB."""
    try:
        with Image.open(path) as image:
            image.draft(
                None, (2 * size, 2 * size)
            )  # lets a JPEG be decoded at a fraction of its size; others ignore it
            upright = ImageOps.exif_transpose(image)
            return ImageOps.fit(_plain(upright), (size, size), Image.Resampling.LANCZOS)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # what Pillow's readers raise
        raise ValueError(f"cannot read the picture {str(path)!r}: {error}; mend or remove it") from None


def _plain(image: Image.Image) -> Image.Image:
    """The picture in mode L or RGB, transparency over white, 16-bit grey brought to 8 bits."""
    grey = image.mode in GREY_MODES
    if image.mode.startswith("I;16") or image.mode == "I":
        return Image.fromarray((np.clip(np.asarray(image).astype(np.int64), 0, 65535) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("L" if grey else "RGB")


def _read_all(root: Path, paths: list[Path], size: int, grey: bool | None) -> tuple[Split, tuple[str, ...]]:
    pictures = [read_image(path, size) for path in paths]
    if grey is None:
        grey = all(picture.mode == "L" for picture in pictures)
    arrays = [np.asarray(picture.convert("L" if grey else "RGB")) for picture in pictures]
    images = np.stack(arrays).reshape(len(paths), size, size, 1 if grey else 3)
    labels, classes = _labels(root, paths)
    return Split(images, labels), classes


def _labels(root: Path, paths: list[Path]) -> tuple[Array | None, tuple[str, ...]]:
    parts = [path.relative_to(root).parts for path in paths]
    classes = sorted({p[0] for p in parts})
    if any(len(p) == 1 for p in parts) or len(classes) < 2:
        return None, ()
    number = {name: i for i, name in enumerate(classes)}
    return np.array([number[p[0]] for p in parts], np.int64), tuple(classes)
