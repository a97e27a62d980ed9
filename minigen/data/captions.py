"""What a picture of the ``shapes`` world shows, as a value; the sentences that say it; and a parser that reads them back.

    caption    = [there is | a picture of] thing (place | relation thing) [on a BACKGROUND background]
    thing      = a SIZE COLOUR SHAPE                                 size: small, little, tiny | large, big, huge
    place      = at the PLACE, in the PLACE corner, on the PLACE side, ...                   (one thing: nine places)
    relation   = left of | to the left of | above | over         (two things), or turned round:
                 right of | to the right of | below | under

A scene has many captions; all of them are read back as the same scene, except for a background that they do not name.
The parser also takes prompts that name less ("a red circle", "a circle above a square"): the rest is ``None``.

You need: nothing. New here: a language so small that "is this what was asked for?" has an exact answer.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cache
from itertools import product
from typing import Any

SHAPES = ("circle", "square", "triangle", "cross", "ring")
COLOURS = ("red", "green", "blue", "yellow", "purple", "cyan", "orange")
SIZES = ("small", "large")
PLACES = ("top left", "top", "top right", "left", "middle", "right", "bottom left", "bottom", "bottom right")
RELATIONS = ("left of", "above")
BACKGROUNDS = ("black", "gray", "white")


ATTRIBUTES = {"shape": SHAPES, "colour": COLOURS, "size": SIZES, "background": BACKGROUNDS}


@dataclass(frozen=True)
class Thing:
    """One coloured shape; an attribute that a prompt does not name is None."""

    shape: str
    colour: str | None
    size: str | None


@dataclass(frozen=True)
class Scene:
    """What is in a picture, or (with None for what is not named) what a prompt asks for.

    One thing has a ``place`` and no ``relation``; of two, the first is ``relation`` ("left of" or "above") the second.
    """

    things: tuple[Thing, ...]
    place: str | None
    relation: str | None
    background: str | None

    def __str__(self) -> str:
        return canonical(self)


# --- the phrases ------------------------------------------------------------------------------------------------------

OPENINGS = ("", "there is ", "a picture of ")
SIZE_WORDS = {"small": ("small", "little", "tiny"), "large": ("large", "big", "huge")}
CORNER = ("at the {}", "in the {}", "in the {} corner")
EDGE, SIDE, MIDDLE = ("at the {}",), ("on the {}", "on the {} side"), ("in the middle", "in the center")
PLACE_PHRASES = {
    place: tuple(
        phrase.format(place)
        for phrase in (
            MIDDLE
            if place == "middle"
            else SIDE
            if place in ("left", "right")
            else EDGE
            if " " not in place
            else CORNER
        )
    )
    for place in PLACES
}
RELATION_PHRASES = {"left of": ("left of", "to the left of"), "above": ("above", "over")}
INVERSE_PHRASES = {"left of": ("right of", "to the right of"), "above": ("below", "under")}
CHOICES = (
    5  # a caption's free choices: opening, size word of either thing, phrase of place or relation, background or not
)
NEAR, LONGEST = 0.7, 60  # similarity from which a known word is suggested; letters of a prompt that a message shows
SPELLINGS = {"an": "a", "grey": "gray", "centre": "center"}  # read as the word on the right


def _thing(thing: Thing, word: str | None) -> str:
    return " ".join(filter(None, ("a", word, thing.colour, thing.shape)))


def _background(scene: Scene) -> str:
    return f" on a {scene.background} background" if scene.background else ""


def canonical(scene: Scene) -> str:
    """The plain caption that names every attribute of the scene (or all that a prompt asks for), for evaluation."""
    first, *second = (_thing(thing, thing.size) for thing in scene.things)
    if second:
        return f"{first} {scene.relation} {second[0]}{_background(scene)}"
    return first + (f" {PLACE_PHRASES[scene.place][0]}" if scene.place else "") + _background(scene)


def _options(scene: Scene) -> tuple[tuple[str, ...], ...]:
    """The phrases that each of the five choices has for a complete scene."""
    sizes = [SIZE_WORDS[str(thing.size)] for thing in scene.things]
    between: tuple[str, ...]
    if scene.relation:
        between = RELATION_PHRASES[scene.relation] + INVERSE_PHRASES[scene.relation]
    else:
        between = PLACE_PHRASES[str(scene.place)]
    return OPENINGS, sizes[0], sizes[1] if len(sizes) > 1 else ("",), between, (_background(scene), "")


def _say(scene: Scene, chosen: Sequence[str]) -> str:
    opening, word_0, word_1, between, background = chosen
    first = _thing(scene.things[0], word_0)
    if scene.relation is None:
        return f"{opening}{first} {between}{background}"
    second = _thing(scene.things[1], word_1)
    if between in INVERSE_PHRASES[scene.relation]:
        first, second = second, first
    return f"{opening}{first} {between} {second}{background}"


def caption(scene: Scene, u: Sequence[float]) -> str:
    """One of the scene's captions; ``u`` are five numbers in [0, 1), each of which picks one phrase uniformly.

    In order: the opening, the size words of the two things, the phrase of place or relation (half of the latter are
    turned round), and whether the background is named.
    """
    return _say(scene, [options[int(x * len(options))] for options, x in zip(_options(scene), u, strict=True)])


def attribute(word: str) -> str:
    """The attribute that a word is a value of; ValueError, which lists the words, for any other."""
    for name, known in ATTRIBUTES.items():
        if word in known:
            return name
    known_words = [word for known in ATTRIBUTES.values() for word in known]
    raise ValueError(f"edits must be words of {', '.join(known_words)}, got {word!r}")


def rewritten(scene: Scene, word: str) -> Scene:
    """``scene`` with the word's attribute changed wherever the scene names it. What it does not name stays open."""
    name = attribute(word)
    if name == "background":
        return replace(scene, background=word if scene.background else None)

    def changed(thing: Thing) -> Thing:
        return replace(thing, **{name: word}) if getattr(thing, name) else thing

    return replace(scene, things=tuple(changed(thing) for thing in scene.things))


def completed(prompts: Sequence[str], *, rng: Any) -> list[str]:
    """The prompts, with open attributes that every caption names (colours, sizes, one thing's place) drawn by ``rng``.

    A system that has learnt from captions has never met a prompt without them. The background stays open: half of the
    captions do not name it. Prompts that leave nothing open, and those with no meaning, are returned as they are, and
    nothing is drawn for them. What is drawn comes from a child of ``rng``, a row of numbers for each prompt: it depends
    on no other prompt, and the numbers that ``rng`` gives next do not depend on what was open.
    """
    rows = cache(lambda: rng.spawn(1)[0].random((len(prompts), 5)).tolist())  # two colours and sizes, a place
    return [_completed(prompt, i, rows) for i, prompt in enumerate(prompts)]


def _completed(prompt: str, i: int, rows: Callable[[], list[list[float]]]) -> str:
    try:
        scene = parse(prompt)
    except ValueError:
        return prompt

    def drawn(value: str | None, known: Sequence[str], k: int) -> str:
        return value or known[int(rows()[i][k] * len(known))]

    things = tuple(
        Thing(t.shape, drawn(t.colour, COLOURS, 2 * i), drawn(t.size, SIZES, 2 * i + 1))
        for i, t in enumerate(scene.things)
    )
    place = drawn(scene.place, PLACES, 4) if len(things) == 1 else None
    whole = Scene(things, place, scene.relation, scene.background)
    return prompt if whole == scene else canonical(whole)


def paraphrases(scene: Scene) -> Iterator[str]:
    """All captions of a complete scene, each once."""
    return (_say(scene, chosen) for chosen in product(*_options(scene)))


# --- reading them back ------------------------------------------------------------------------------------------------


def _phrases(table: Mapping[str, Sequence[str]]) -> list[tuple[list[str], str]]:
    """(words, meaning) of a table of phrases, the longest first, so that the first that fits is the right one."""
    found = [(phrase.split(), meaning) for meaning, phrases in table.items() for phrase in phrases]
    return sorted(found, key=lambda entry: -len(entry[0]))


_OPENING = _phrases({"opening": [opening for opening in OPENINGS if opening]})
_SIZE, _PLACE = _phrases(SIZE_WORDS), _phrases(PLACE_PHRASES)
_RELATION, _INVERSE = _phrases(RELATION_PHRASES), _phrases(INVERSE_PHRASES)
_COLOUR, _SHAPE = _phrases({c: [c] for c in COLOURS}), _phrases({s: [s] for s in SHAPES})
_BACKGROUND = _phrases({b: [f"on a {b} background"] for b in BACKGROUNDS})
_ARTICLE = _phrases({"a": ["a"]})
_TABLES = (_OPENING, _ARTICLE, _SIZE, _COLOUR, _SHAPE, _PLACE, _RELATION, _INVERSE, _BACKGROUND)
WORDS = tuple(dict.fromkeys(word for table in _TABLES for phrase, _ in table for word in phrase))  # each once
_KNOWN = frozenset(WORDS)


def words(text: str) -> list[str]:
    """The words of a caption in lower case and in our spelling; a full stop at the end is dropped.

    Raises ValueError that names the words which the language does not have (each with a similar one that it has, if
    there is one) and says what it has.
    """
    found = [SPELLINGS.get(word, word) for word in text.lower().strip().removesuffix(".").split()]
    if not _KNOWN.issuperset(found):
        unknown = [word for word in dict.fromkeys(found) if word not in _KNOWN]
        near = [get_close_matches(word, WORDS, n=1, cutoff=NEAR) for word in unknown[:5]]
        hints = [f"{cut(word)}" + (f" (nearest known: '{k[0]}')" if k else "") for word, k in zip(unknown, near)]
        hints += [f"{len(unknown) - 5} more"] if unknown[5:] else []
        raise ValueError(
            f"the prompt {cut(text)} has words that this language does not have: {', '.join(hints)}; it has the shapes "
            f"{', '.join(SHAPES)}, the colours {', '.join(COLOURS)}, the sizes {', '.join(SIZES)}, and places as in "
            f"'{PLACE_PHRASES['top left'][0]}', '{PLACE_PHRASES['right'][0]}', '{PLACE_PHRASES['middle'][0]}'"
        )
    return found


def cut(text: str) -> str:
    """A text between quotes, for a message: its beginning, if it is long."""
    return repr(text if len(text) <= LONGEST else f"{text[:LONGEST]}...")


def parse(text: str) -> Scene:
    """The scene that a caption or prompt asks for, None for every attribute that it does not name.

    Raises ValueError for unknown words, for words that make no sentence of the grammar, and for an empty prompt.
    """
    rest = words(text)
    if not rest:
        raise ValueError("the prompt is empty: it must name a thing, as in 'a red circle'")
    try:
        return _sentence(rest)
    except ValueError as error:
        where = f"before {cut(' '.join(rest))}" if rest else "at its end"
        raise ValueError(f"the prompt {cut(text)} cannot be read: {error} {where}") from None


def _sentence(rest: list[str]) -> Scene:
    """Reads all the words and removes those that it has read; its ValueError says what is wrong with the rest."""
    _take(_OPENING, rest)
    things, place, relation = [_read_thing(rest)], None, _take(_RELATION, rest)
    inverse = None if relation else _take(_INVERSE, rest)
    if relation or inverse:
        things.append(_read_thing(rest))
    else:
        place = _take(_PLACE, rest)
    background = _take(_BACKGROUND, rest)
    if rest:
        raise ValueError("the sentence should have ended")
    return Scene(tuple(reversed(things) if inverse else things), place, relation or inverse, background)


def _read_thing(rest: list[str]) -> Thing:
    if not _take(_ARTICLE, rest):
        raise ValueError("the article 'a' is missing")
    size, colour, shape = _take(_SIZE, rest), _take(_COLOUR, rest), _take(_SHAPE, rest)
    if not shape:
        raise ValueError(f"a shape ({', '.join(SHAPES)}) is missing")
    return Thing(shape, colour, size)


def _take(table: list[tuple[list[str], str]], rest: list[str]) -> str | None:
    """The meaning of the first phrase of the table that the rest begins with (and which is removed), or None."""
    for phrase, meaning in table:
        if rest[: len(phrase)] == phrase:
            del rest[: len(phrase)]
            return meaning
    return None
