"""`minigen edit SYSTEM IMAGE`: change a picture with a trained model."""

import dataclasses
import re
import types
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import numpy as np
from tyro.conf import arg

from kernels.backend import to_numpy
from kernels.precision import Precision, precision
from minigen.cli import arguments, curriculum
from minigen.cli.sample import check_out, with_own_sampler
from minigen.errors import UserError, os_reason, said_in_one_sentence
from minigen.models.system import Picture
from minigen.nn.eight_bit import Way

WHOLE = r"\d{1,18}"  # a number, of fewer digits than `int` refuses to read
USAGE = """usage: minigen edit SYSTEM IMAGE [--mask FILE | ROWS,COLUMNS] [--weights FILE] [--n 4] [--out edit.png] [--seed N]
           [flags of the system]

Changes a picture with weights that 'minigen train' wrote. IMAGE is a picture file, or test:K for the K-th test picture;
systems with flags for pictures of their own do without it.
'minigen edit SYSTEM --help' explains every flag."""


@dataclasses.dataclass(frozen=True)
class EditFlags:
    """Flags of `minigen edit`."""

    weights: Path
    """The weights.safetensors that 'minigen train' wrote; the one in its default folder if left out."""
    mask: Annotated[str | None, arg(metavar="FILE|ROWS,COLUMNS")] = None
    """Where to paint, for systems that inpaint: a picture, white where to paint and black where to keep, or rows and
    columns as in 8:24,0:16.
    """
    n: int = 4
    """Number of edits."""
    out: Path = Path("edit.png")
    """The PNG file to write: the pictures that were given, what was kept if there is a mask, and the edits."""
    seed: int = 0
    """Seed of all random draws."""
    device: str = "cpu"
    """cpu or cuda."""
    precision: Precision = "float32"
    """What the factors of products are rounded to while edits are made: as for 'minigen train'."""
    eight_bit: Way | None = None
    """Put the linear layers in eight bits: as for 'minigen sample'."""
    data_dir: Annotated[str | None, arg(metavar="DIR")] = None
    """Folder of the data set's files, for pictures test:K: as for 'minigen train'."""


def main(args: list[str]) -> int:
    """Parse, check, change, write."""
    name, args = arguments.system_name("edit", args, USAGE)
    entry = curriculum.find(name)
    model = curriculum.load(entry)
    if not hasattr(model, "Editing"):
        raise UserError(f"'{entry.name}' does not edit pictures: these do: {', '.join(editors()) or 'none yet'}")
    image_name, flags, settings = parse(entry, model, args)
    arguments.check_at_least(1, n=flags.n)
    arguments.check_at_least(0, seed=flags.seed)
    check_out(flags.out)
    system, about = arguments.load_weights(flags.weights, entry, device=flags.device)
    arguments.say_unfinished(flags.weights, system)
    arguments.say_unguided(settings)
    arguments.put_in_eight_bits(system, flags.eight_bit)
    given: list[Any] = []

    def read(name: str) -> Any:
        given.append(read_picture(name, about, flags.data_dir))
        return given[-1]

    image = None if image_name is None else read(image_name)
    kinds = picture_fields(model)
    settings = {name: with_pictures(kinds.get(name), value, read) for name, value in settings.items()}
    keep = None if flags.mask is None else read_mask(flags.mask, about.shape[:2])

    from minigen.train import pictures
    from minigen.train.run import check_finite

    try:
        with precision(flags.precision):
            edits = to_numpy(system.edit(image, keep, n=flags.n, rng=np.random.default_rng(flags.seed), **settings))
    except FloatingPointError as error:
        raise UserError(f"editing with {flags.weights} broke down: {error}") from error
    except ValueError as error:
        raise UserError(f"cannot edit: {error}") from error
    check_finite(edits, f"editing with {flags.weights} broke down:")
    shown = list(given)
    notes = ["the picture"] if len(given) == 1 else [f"picture {k}" for k in range(1, len(given) + 1)]
    if keep is not None:
        shown, notes = [*shown, np.where(keep, given[0], 0)], [*notes, "what is kept"]
    said = (
        ["an edit"] * len(edits)
        if system.notes_of_edits is None
        else system.notes_of_edits(edits, image=image, **settings)
    )
    times = max(1, edits.shape[1] // about.shape[0])  # edits may be larger than the pictures
    large = np.stack(shown).repeat(times, axis=1).repeat(times, axis=2)
    pictures.save_png(flags.out, pictures.noted(about, np.concatenate([large, edits]), [*notes, *said]))
    for note in said if system.notes_of_edits is not None else ():
        print(note.replace("\n", ": "))
    print(f"{len(edits)} edits: {flags.out}")
    return 0


def editors() -> list[str]:
    """The systems that edit pictures."""
    return [e.name for e in curriculum.systems().values() if e.exists and hasattr(curriculum.load(e), "Editing")]


def parse(entry: curriculum.Entry, model: Any, args: list[str]) -> tuple[str | None, EditFlags, dict[str, Any]]:
    """The picture's name, the flags of every system, and the model's own settings."""
    weights, own = arguments.default_weights(entry), picture_fields(model)
    parts: list[tuple[str, Any, Any]] = [("run", EditFlags, EditFlags(weights))]
    settings_of = with_names_for_pictures(model.Editing)
    parts.append(("settings", settings_of, settings_of()))
    together = dataclasses.make_dataclass("Flags", [(name, kind) for name, kind, _ in parts], frozen=True)
    name, positional = None, "[IMAGE]" if own else "IMAGE"
    if args and not args[0].startswith("-"):
        name, args = args[0], args[1:]
    elif not own and not {"-h", "--help"} & set(args):
        raise UserError(f"name a picture: minigen edit {entry.name} IMAGE (a file, or test:K)")
    flags: Any = arguments.parse(
        together,
        args,
        prog=f"minigen edit {entry.name} {positional}",
        description=f"{entry.title} ({entry.paper})",
        default=together(*(value for _, _, value in parts)),
    )
    settings = with_own_sampler(dataclasses.asdict(flags.settings))
    if name is None and not any(settings[field] for field in own):
        instead = ", ".join(f"--{field.replace('_', '-')}" for field in own)
        raise UserError(f"name a picture: minigen edit {entry.name} IMAGE (a file, or test:K), or give {instead}")
    arguments.check_trained(entry, flags.run.weights)
    return name, flags.run, settings


def picture_fields(model: Any) -> dict[str, Any]:
    """The fields of the model's ``Editing`` that hold pictures, and their types."""
    return {name: kind for name, kind in get_type_hints(model.Editing).items() if holds_picture(kind)}


def with_names_for_pictures(editing: Any) -> Any:
    """The dataclass ``Editing`` of a model, with what the help shows as values of the flags that name pictures.

    It has its parent's name, by which the texts below the fields are found in the source.
    """
    default = editing()
    fields = [
        (name, Annotated[kind, arg(metavar=metavar(kind))], getattr(default, name))
        for name, kind in get_type_hints(editing).items()
        if holds_picture(kind)
    ]
    same = {"__module__": editing.__module__, "__doc__": editing.__doc__, "__qualname__": editing.__qualname__}
    return dataclasses.make_dataclass(editing.__name__, fields, bases=(editing,), namespace=same, frozen=True)


def metavar(kind: Any) -> str:
    """IMAGE for a `Picture`, TEXT for words, IMAGE TEXT for a pair of both, as the help shows a setting."""
    if kind is Picture:
        return "IMAGE"
    parts = [part for part in get_args(kind) if part is not type(None)]
    if get_origin(kind) is tuple:
        return " ".join("..." if part is Ellipsis else metavar(part) for part in parts)
    return "|".join(map(metavar, parts)) or ("TEXT" if kind is str else kind.__name__.upper())


def holds_picture(kind: Any) -> bool:
    """Whether a type is `Picture`, or is made of one: ``Picture | None``, ``tuple[Picture, str]``."""
    return kind is Picture or any(holds_picture(part) for part in get_args(kind))


def with_pictures(kind: Any, value: Any, read: Callable[[str], Any]) -> Any:
    """``value``, of the type ``kind``, with every `Picture` in it ``read``."""
    if value is None or not holds_picture(kind):
        return value
    parts = get_args(kind)
    if get_origin(kind) in (Union, types.UnionType):
        (kind,) = (part for part in parts if holds_picture(part))
        return with_pictures(kind, value, read)
    if get_origin(kind) is tuple:
        kinds = parts[:1] * len(value) if parts[-1] is Ellipsis else parts
        return tuple(with_pictures(k, v, read) for k, v in zip(kinds, value))
    return read(value)


def read_picture(name: str, about: Any, data_dir: str | None) -> Any:
    """A picture of the data set's shape, floats in [-1, 1]: from a file, or the K-th of the test split.

    UserError for any other name.
    """
    h, w, c = about.shape
    if name.startswith("test:"):
        dataset = arguments.load_data_of(about, data_dir)
        number = name.removeprefix("test:")
        if not re.fullmatch(WHOLE, number) or int(number) >= len(dataset.test.images):
            raise UserError(f"test:K needs a K from 0 to {len(dataset.test.images) - 1}, got '{name}'")
        return dataset.scale(dataset.test.take(np.array([int(number)])).images)[0]
    levels = about.levels or 256
    pixels = pixels_of(Path(name), "RGB" if c == 3 else "L")
    pixels = pixels.reshape(*pixels.shape[:2], c)
    if pixels.shape != (h, w, c):
        raise UserError(
            f"{name} has {pixels.shape[1]} x {pixels.shape[0]} pixels, the model draws {w} x {h}: 'minigen sample --singles' writes such pictures, test:K is one of the data set"
        )
    return about.scale(np.round(pixels / 255 * (levels - 1)).astype(np.min_scalar_type(levels - 1)))


def read_mask(text: str, size: tuple[int, int]) -> Any:
    """What is kept, (h, w, 1) booleans, of a picture file (white is painted) or of rows and columns to paint.

    UserError for nonsense.
    """
    h, w = size
    parts = text.split(",")
    if len(parts) == 2 and all(part.count(":") == 1 for part in parts):
        bounds = [end.strip() for part in parts for end in part.split(":")]
        if not all(re.fullmatch(WHOLE, end) for end in bounds):
            raise UserError(f"--mask needs rows and columns as in 8:24,0:16, got '{text}'")
        top, bottom, left, right = map(int, bounds)
        if not (top < bottom <= h and left < right <= w):
            raise UserError(f"--mask must be rows within 0:{h} and columns within 0:{w}, got '{text}'")
        keep = np.ones((h, w, 1), bool)
        keep[top:bottom, left:right] = False
        return keep
    if not Path(text).exists():
        raise UserError(f"--mask must be a picture, or rows and columns as in 8:24,0:16: there is no file '{text}'")
    pixels = pixels_of(Path(text), "L")
    if pixels.shape != (h, w):
        raise UserError(f"the mask {text} has {pixels.shape[1]} x {pixels.shape[0]} pixels, the picture {w} x {h}")
    return (pixels < 128)[..., None]


def pixels_of(path: Path, mode: str) -> Any:
    """The pixels of a picture file in Pillow's ``mode``, read as those of the data set 'folder'; UserError if it cannot be read."""
    from PIL import Image

    from minigen.data.folder import plain

    with said_in_one_sentence("cannot edit"):
        try:
            with Image.open(path) as image:
                return np.asarray(plain(image).convert(mode))
        except Exception as error:  # Pillow's readers raise nearly everything
            reason = os_reason(error, path) if isinstance(error, OSError) else str(error) or type(error).__name__
            raise ValueError(f"cannot read the picture {str(path)!r}: {reason}") from None
