"""The pictures under a directory as a data set.

Every file below the directory whose suffix belongs to an image format that Pillow reads is taken (in the order of its
path), turned upright by its EXIF tag, cropped to the largest centred square, and resized to ``size``. Links are
followed; a directory to which several paths lead is taken once, under the first of them. Hidden files and files of
other kinds (``NO_PICTURES`` names those that Pillow opens too) are skipped. A picture that cannot be read and a
link that leads nowhere are errors that name it: silently training on half of a directory would be worse.

If every picture lies in a subfolder and there are at least two of them, the first-level subfolders are the classes.
The split is a fixed permutation: a tenth each for val and test.
"""

import os
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from kernels.backend import Array

from .dataset import Dataset, Split, three_way

SEED = 0  # of the split's permutation
SIZE = 32
GREY_MODES = ("1", "L", "LA", "La")
NO_PICTURES = ("BUFR", "EPS", "FITS", "GRIB", "HDF5", "MPEG", "WMF")  # Pillow opens them: measurements, pages, films
LARGEST = 16_384  # pixels per side; far above, Pillow takes minutes or runs out of memory and blames the picture
SIXTEEN_BITS = ("PNG", "PPM")  # their mode I is 0..65535; Pillow 10.1 opens every 16-bit PNG in it
# Tags of a TIFF: Pillow widens 12 bits to 16 without scaling, and leaves a 0 that is white.
BITS, PHOTOMETRIC = 258, 262


def folder(data_dir: str | Path | None, size: int | None = None, *, grey: bool | None = None) -> Dataset:
    """The data set ``folder``: images (n, size, size, 1 or 3), 256 levels.

    ``size`` is the side in pixels (32 when not given). ``grey`` asks for one channel (True) or three; by default it is
    one if all files are of grey modes, else three (also of a palette, whatever its colours). Transparent pixels become
    white.

    Raises ValueError for a missing directory, fewer than three pictures, a bad size, a picture that cannot be read (or
    has 32-bit values, whose range is unknown), and a link that leads nowhere.
    """
    size = SIZE if size is None else size
    if not 1 <= size <= LARGEST:
        raise ValueError(f"size must be at least 1 pixel and at most {LARGEST}, got {size}")
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
    """All files under ``root`` with the suffix of an image format that Pillow reads, sorted; hidden ones left out.

    Raises ValueError for a link that leads nowhere and a directory that cannot be listed.
    """
    opened = Image.registered_extensions().items()
    readable = {ending for ending, name in opened if name in Image.OPEN and name not in NO_PICTURES}
    found, visited = [], set()
    for directory, folders, files in os.walk(root, onerror=_unlisted, followlinks=True):
        real = os.path.realpath(directory)
        if real in visited:  # a link back up, or a second link to the same place
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for path in (Path(directory, name) for name in files if not name.startswith(".")):
            if path.is_symlink() and not path.exists():
                raise ValueError(f"the link {str(path)!r} leads nowhere; mend or remove it")
            if path.suffix.lower() in readable and path.is_file():
                found.append(path)
    return sorted(found, key=lambda path: path.relative_to(root).as_posix())


def _unlisted(error: OSError) -> None:
    raise ValueError(f"cannot list the directory {str(error.filename)!r}: {error.strerror}") from None


def read_image(path: Path, size: int) -> Image.Image:
    """One picture, upright, cropped to the centred square, ``size`` x ``size``, in mode L or RGB."""
    try:
        with Image.open(path) as image:
            image.draft(
                None, (2 * size, 2 * size)
            )  # lets a JPEG be decoded at a fraction of its size; others ignore it
            return ImageOps.fit(plain(image), (size, size), Image.Resampling.LANCZOS)
    except Exception as error:  # Pillow's readers raise nearly everything: OSError, struct.error, RuntimeError, ...
        why = str(error) or type(error).__name__
        raise ValueError(f"cannot read the picture {str(path)!r}: {why}; mend or remove it") from None


def plain(image: Image.Image) -> Image.Image:
    """The picture of a file, upright, in mode L or RGB, transparency over white, 12-bit and 16-bit grey scaled to 8 bits.

    Raises ValueError for 32-bit integers and floats: whether they reach to 1, 255, or 65535 is not in the file.
    """
    grey, file_format, tags = image.mode in GREY_MODES, image.format, getattr(image, "tag_v2", {})
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16") or (image.mode == "I" and file_format in SIXTEEN_BITS):
        values = np.asarray(image).astype(np.int64)
        clear = values == image.info.get("transparency", -1)
        levels = values >> (tags.get(BITS, (16,))[0] - 8)
        levels = 255 - levels if tags.get(PHOTOMETRIC) == 0 else levels
        return Image.fromarray(np.where(clear, 255, levels).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"the range of its values (mode {image.mode}) is unknown")
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
