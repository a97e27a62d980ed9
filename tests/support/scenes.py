"""Scenes of the shapes world for property-based tests: drawn as small integers, from which ``scene_of`` builds them."""

from hypothesis import strategies as st

from minigen.data.captions import BACKGROUNDS, COLOURS, PLACES, RELATIONS, SHAPES, SIZES, Scene, Thing

_things = st.tuples(*(st.integers(0, len(known) - 1) for known in (SHAPES, COLOURS, SIZES)))
_backgrounds = st.integers(0, len(BACKGROUNDS) - 1)
singles = st.tuples(st.tuples(_things), st.integers(0, len(PLACES) - 1), _backgrounds)
pairs = st.tuples(st.tuples(_things, _things), st.integers(0, len(RELATIONS) - 1), _backgrounds)
scenes = singles | pairs


def scene_of(description) -> Scene:
    """The scene that the integers stand for."""
    things, where, background = description
    found = tuple(Thing(SHAPES[s], COLOURS[c], SIZES[z]) for s, c, z in things)
    place = PLACES[where] if len(found) == 1 else None
    return Scene(found, place, None if place else RELATIONS[where], BACKGROUNDS[background])
