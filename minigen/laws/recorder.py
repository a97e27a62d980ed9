"""One run of a sampler, with a recorder inside the model and scripted noise from outside.

A law that looks only at the result misses most faults, because the last step, to the guess of x_0, repairs nearly
anything: what counts is each state that the model is shown, with the time that it is told. And on Gaussian data a
sampler is affine in its start and its draws, so a tape of ones and zeros shows mean and variance exactly, where
sampling would take millions of draws.
"""

import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from . import arrays, protocol
from .beds import Bed, said
from .protocol import Fault, Level

FEW = 8  # roundings by which the time given to the model may differ from that of its level


@dataclass(frozen=True)
class Call:
    """The level and state that the model was given, and what it guessed; arrays in float64."""

    level: Level
    x: Any
    x_0: Any
    eps: Any


@dataclass
class Trace:
    """A run: all calls, for each draw the number of calls before it, the result in float64."""

    levels: list[Level]
    calls: list[Call] = field(default_factory=list)
    draws: list[int] = field(default_factory=list)
    result: Any = None


class Tape:
    """Noise that is 1 for row ``first + k`` of the batch at draw k, and 0 for all others."""

    def __init__(self, first: int = 2) -> None:
        self.next = first

    def __call__(self, shape: tuple[int, ...]) -> Any:
        """The next draw."""
        z = np.zeros(shape)
        if self.next < shape[0]:
            z[self.next] = 1
        self.next += 1
        return z


class Seeded:
    """Normal draws from a seed, for ``rows`` of a batch: a row gets the same draws whatever else is in its batch."""

    def __init__(self, seed: int, size: int = 8, rows: Any = None) -> None:
        self.rng, self.size = np.random.default_rng(seed), size
        self.rows = np.arange(size) if rows is None else np.asarray(rows)

    def __call__(self, shape: tuple[int, ...]) -> Any:
        """The next draw."""
        return self.rng.standard_normal((self.size, *shape[1:]))[self.rows]


def tape_start(sampler: Any, level: Level, mean: float, std: float, draws: int, dtype: Any) -> Any:
    """The batch for a `Tape`: row 0 the mean, row 1 a standard deviation more, then a row for every draw, at the mean."""
    x = np.full((2 + draws, *protocol.shape(sampler)), mean * level.size, dtype)
    x[1] += std * level.size
    return x


def moments(x: Any) -> tuple[Any, Any]:
    """Mean and standard deviation of a state on a tape, for every entry of an item: two of shape (d,)."""
    flat = x.reshape(len(x), -1)
    return flat[0], np.sqrt(np.sum((flat[1:] - flat[0]) ** 2, 0))


def level_told(sampler: Any, by_time: dict[float, Level], time: Any, rows: int) -> Level:
    """The level whose time the model was given, once or for each row. Fault for a time that no level has."""
    times = np.ravel(np.asarray(arrays.out(time), np.float64))
    if times.size not in (1, rows) or (times != times[:1]).any():
        raise Fault(f"the model was told {times.size} times for a batch of {rows}, or not the same for all rows")
    told = float(times[0])
    if told in by_time:
        return by_time[told]
    near, own = min(by_time, key=lambda t: abs(t - told)), np.asarray(arrays.out(time)).dtype
    eps = float(np.finfo(own if own.kind == "f" else np.float64).eps)
    if abs(near - told) <= FEW * eps * max(1.0, abs(told)):
        return by_time[near]
    if hasattr(sampler, "at"):
        return Level(told, *(float(value) for value in sampler.at(told)))
    levels = protocol.short(list(by_time))
    raise Fault(f"the model was told time {told!r}, which no noisy level has: {levels}; the nearest is {near!r}")


def run(
    sampler: Any,
    n: int,
    bed: Bed,
    x: Any,
    *,
    noise: Callable[..., Any] | None = None,
    kind: str | None = None,
    clip: Any = None,
    share: Callable[[Level], float] | None = None,
    score: Callable[..., Any] | None = None,
) -> Trace:
    """Run the sampler on n levels from ``x``. Fault, with a sentence, if it breaks the protocol or raises.

    A budget of 20 n + 50 calls and as many draws, or twice the draws claimed, ends what would run forever. With
    ``share`` the model returns a pair, whose second half is everywhere that share of a learned variance; ``score`` is
    passed to the sampler.
    """
    trace = Trace(protocol.levels(sampler, n))
    by_time = {level.time: level for level in trace.levels[:-1]}
    budget = max(20 * n + 50, 2 * protocol.draws(sampler, n))
    library = getattr(sampler, "arrays", "numpy")
    kinds = protocol.kinds(sampler)
    own = kinds[0] if kind is None else kind
    tape = Tape() if noise is None else noise

    def model(x_t: Any, time: Any, *_: Any, **__: Any) -> Any:
        level, shown = level_told(sampler, by_time, time, len(x)), state_shown(x_t, x)
        if len(trace.calls) >= budget:
            raise Fault(f"asked the model more than {budget} times for {n} levels: stopped")
        x_0, eps = bed(shown, level, len(trace.calls))
        trace.calls.append(Call(level, *(np.array(part, np.float64) for part in (shown, x_0, eps))))
        output = arrays.into(library, said(own, x_0, eps, level))
        return output if share is None else (output, arrays.into(library, np.full_like(shown, share(level))))

    def draw(shape: Any) -> Any:
        check_drawn(shape, x)
        if len(trace.draws) >= budget:
            raise Fault(f"drew noise more than {budget} times for {n} levels: stopped")
        trace.draws.append(len(trace.calls))
        return arrays.into(library, tape(x.shape).astype(x.dtype))

    settings: dict[str, Any] = {"kind": own} if len(kinds) > 1 else {}
    if clip is not None:
        settings["clip"] = clip
    if score is not None:
        settings["score"] = score
    with np.errstate(all="ignore"):
        found = walked(sampler, model, x, n, draw, **settings)
    if not trace.calls:
        raise Fault(f"sample never asked the model, {n} level{'s' if n > 1 else ''}")
    trace.result = found.astype(np.float64)
    return trace


def state_shown(x_t: Any, x: Any) -> Any:
    """The state that the model is given, as an array; Fault if it has not the shape and dtype of ``x``, the start."""
    shown = arrays.out(x_t)
    if shown.shape != x.shape:
        raise Fault(f"the model was shown {shown.dtype} {shown.shape} where the run began with {x.dtype} {x.shape}")
    if shown.dtype != x.dtype:  # in the same words for all batches, so that it is reported once
        raise Fault(f"the model was shown {shown.dtype} where the run began with {x.dtype}{_why(shown, x)}")
    return shown


def _why(state: Any, x: Any) -> str:
    """Why states are wider than at the start."""
    wider = state.dtype.kind == "f" and state.dtype.itemsize > x.dtype.itemsize
    return ": a coefficient that is an np.float64 widens them, a Python float does not" if wider else ""


def check_drawn(shape: Any, x: Any) -> None:
    """Raise Fault for noise of another shape than the states'."""
    if not np.iterable(shape):
        raise Fault(f"noise takes a shape, and was given {shape!r}")
    if tuple(shape) != x.shape:
        raise Fault(f"drew noise of shape {tuple(shape)} for states of shape {x.shape}")


def walked(sampler: Any, model: Callable[..., Any], x: Any, n: int, noise: Callable[..., Any], **settings: Any) -> Any:
    """What ``sample`` returns for ``x``, as an array. Fault if it changes ``x``, returns another shape or dtype, or
    raises; the exception is then its cause.
    """
    given = x.copy()
    try:
        result = sampler.sample(model, arrays.into(getattr(sampler, "arrays", "numpy"), x), n, noise, **settings)
    except Fault:
        raise
    except (Exception, SystemExit) as error:
        first = str(error).strip().splitlines()[:1]
        raise Fault(f"sample raised {type(error).__name__}: {first[0] if first else ''}{_place(error)}") from error
    if not (given == x).all():
        raise Fault("sample changed x, its input")
    if result is None:
        raise Fault("sample returned None: it ends without a return")
    try:
        found = arrays.out(result)
    except Exception as error:
        raise Fault(f"sample returned {type(result).__name__}, not an array") from error
    if found.shape != x.shape:
        raise Fault(f"sample returned {found.dtype} {found.shape} for {x.dtype} {x.shape}")
    if found.dtype != x.dtype:
        raise Fault(f"sample returned {found.dtype} for states of {x.dtype}{_why(found, x)}")
    return found


def _place(error: BaseException) -> str:
    """Where it was raised, for the sampler's author: the innermost line in a file neither ours nor installed."""
    ours = Path(__file__).parent
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        file = Path(frame.filename)
        if file.parent != ours and "site-packages" not in file.parts and file.exists():
            return f" ({file.name}:{frame.lineno})"
    return ""


def asked(subject: Any, *arguments: Any, method: str = "apply", **settings: Any) -> Any:
    """What a method returns, as an array or a tuple of arrays. Fault if it raises, or changes an array it was given.

    Arrays that it is given, or gets from functions that it is given, are of its own library.
    """
    before = [np.array(a) if isinstance(a, np.ndarray) else None for a in arguments]
    library = getattr(subject, "arrays", "numpy")

    def told(a: Any) -> Any:
        if isinstance(a, np.ndarray):
            return arrays.into(library, a)
        return arrays.speaking(library, a) if callable(a) else a

    given, settings = [told(a) for a in arguments], {key: told(a) for key, a in settings.items()}
    try:
        with np.errstate(all="ignore"):
            found = getattr(subject, method)(*given, **settings)
        found = tuple(map(arrays.out, found)) if isinstance(found, tuple) else arrays.out(found)
    except Fault:
        raise
    except (Exception, SystemExit) as error:
        first = str(error).strip().splitlines()[:1]
        raise Fault(f"{method} raised {type(error).__name__}: {first[0] if first else ''}") from error
    for k, (a, copy) in enumerate(zip(arguments, before)):
        if copy is not None and not np.array_equal(a, copy, equal_nan=copy.dtype.kind == "f"):
            raise Fault(f"{method} changed argument {k + 1}, its input")
    return found


def whole(found: Any, shape: tuple[int, ...], low: int, high: int) -> Any:
    """A result that is integers from low to high, of this shape; Fault otherwise."""
    found = shaped(found, shape)
    if found.dtype.kind not in "iu" or (found.size and not low <= found.min() <= found.max() <= high):
        raise Fault(f"returned {found.dtype} from {found.min()} to {found.max()}, not integers from {low} to {high}")
    return found


def shaped(found: Any, shape: tuple[int, ...], dtype: Any = None) -> Any:
    """A result that has this shape, and this dtype if one is given; Fault otherwise."""
    if not isinstance(found, np.ndarray):
        raise Fault(f"returned {len(found)} arrays, not one")
    if found.shape != shape or (dtype is not None and found.dtype != dtype):
        wanted = f"{np.dtype(dtype).name} " if dtype is not None else ""
        raise Fault(f"returned {found.dtype} {found.shape}, not {wanted}{shape}")
    return found
