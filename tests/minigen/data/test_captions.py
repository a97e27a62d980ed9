"""The captions' grammar: every paraphrase is read back as the scene it describes, and nothing else is read."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scenes import pairs, scene_of, scenes

from minigen.data.captions import (
    BACKGROUNDS,
    CHOICES,
    COLOURS,
    INVERSE_PHRASES,
    PLACES,
    SIZES,
    WORDS,
    Scene,
    Thing,
    canonical,
    caption,
    completed,
    paraphrases,
    parse,
    words,
)

RED = Thing("circle", "red", "small")
BLUE = Thing("square", "blue", "large")


def test_captions_by_hand():
    one, two = Scene((RED,), "top left", None, "white"), Scene((RED, BLUE), None, "above", "gray")
    assert canonical(one) == str(one) == "a small red circle at the top left on a white background"
    assert canonical(two) == "a small red circle above a large blue square on a gray background"
    assert caption(one, [0.4, 0.9, 0, 0.99, 0.7]) == "there is a tiny red circle in the top left corner"
    assert (
        caption(two, [0.9, 0, 0.5, 0.6, 0.2])
        == "a picture of a big blue square below a small red circle on a gray background"
    )


@given(scenes)
def test_every_paraphrase_is_read_back_as_its_scene(description):
    scene = scene_of(description)
    every = list(paraphrases(scene))
    assert len(set(every)) == len(every)
    for text in every:
        found = parse(text)
        assert replace(found, background=scene.background) == scene
        assert found.background == (scene.background if "background" in text else None)


@given(scenes)
def test_the_canonical_caption_names_everything_and_is_a_paraphrase(description):
    scene = scene_of(description)
    assert parse(canonical(scene)) == scene
    assert canonical(scene) in set(paraphrases(scene))


@given(scenes, st.lists(st.floats(0, 1, exclude_max=True), min_size=CHOICES, max_size=CHOICES))
def test_a_drawn_caption_is_a_paraphrase(description, u):
    scene = scene_of(description)
    assert caption(scene, u) in set(paraphrases(scene))


@given(scenes)
def test_each_choice_draws_its_phrases_equally_often(description):
    """12 divides the number of phrases of every choice, so a grid of 12 numbers draws each equally often."""
    scene = scene_of(description)
    for k in range(CHOICES):
        drawn = [caption(scene, [0.0] * k + [(i + 0.5) / 12] + [0.0] * (CHOICES - 1 - k)) for i in range(12)]
        assert len({drawn.count(text) for text in drawn}) == 1


@given(pairs)
def test_an_inverse_relation_swaps_the_order_of_the_words_but_not_the_scene(description):
    scene = scene_of(description)
    first, second = (f"a {t.size} {t.colour} {t.shape}" for t in scene.things)
    for phrase in INVERSE_PHRASES[scene.relation]:
        found = parse(f"{second} {phrase} {first}")
        assert found.things == scene.things and found.relation == scene.relation


def test_words_alone_and_together():
    assert len(WORDS) == len(set(WORDS)) == 44
    every = [Scene((RED,), place, None, b) for place in PLACES for b in BACKGROUNDS]
    every += [Scene((RED, BLUE), None, relation, "black") for relation in ("left of", "above")]
    every += [
        Scene((Thing(s, c, "small"),), "top", None, "black") for s in ("triangle", "cross", "ring") for c in COLOURS
    ]
    assert {word for scene in every for text in paraphrases(scene) for word in text.split()} == set(WORDS)
    assert max(len(text.split()) for scene in every for text in paraphrases(scene)) == 19


@pytest.mark.parametrize(
    ("text", "scene"),
    [
        ("a circle", Scene((Thing("circle", None, None),), None, None, None)),
        ("An orange ring.", Scene((Thing("ring", "orange", None),), None, None, None)),
        ("  A  HUGE square in the Centre", Scene((Thing("square", None, "large"),), "middle", None, None)),
        ("a ring on the right side", Scene((Thing("ring", None, None),), "right", None, None)),
        ("a red cross on a grey background", Scene((Thing("cross", "red", None),), None, None, "gray")),
        (
            "there is a circle under a red square",
            Scene((Thing("square", "red", None), Thing("circle", None, None)), None, "above", None),
        ),
    ],
)
def test_prompts_may_say_less(text, scene):
    assert parse(text) == scene
    assert parse(canonical(scene)) == scene


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a redd circle", r"words that this language does not have: 'redd' \(nearest known: 'red'\)"),
        ("a pink elephant", r"'pink', 'elephant'"),
        ("red circle", "the article 'a' is missing before 'red circle'"),
        ("a small red", r"a shape \(circle, square, triangle, cross, ring\) is missing at its end"),
        ("a red small circle", "a shape .* is missing before 'small circle'"),
        ("a circle a square", "the sentence should have ended before 'a square'"),
        ("a circle at the top left of a square", "should have ended before 'of a square'"),
        ("a circle above a square above a ring", "should have ended before 'above a ring'"),
        ("a circle above", "the article 'a' is missing at its end"),
        ("", "the prompt is empty: it must name a thing"),
        (" . ", "the prompt is empty"),
    ],
)
def test_what_is_no_sentence_is_named(text, message):
    with pytest.raises(ValueError, match=message):
        parse(text)


def test_words_are_brought_to_one_spelling():
    assert words("An  Orange ring in the centre on a grey background. ") == words(
        "a orange ring in the center on a gray background"
    )
    assert words("") == []


# --- what a prompt leaves open ----------------------------------------------------------------------------------------


class Never:
    """A generator that must not be asked."""

    def spawn(self, n):
        raise AssertionError("something was drawn")


@given(scenes)
def test_a_prompt_that_names_everything_stays_as_it_is(description):
    prompts = [*itertools.islice(paraphrases(scene_of(description)), 20), "", "a ring above", "a hexagon"]
    assert completed(prompts, rng=Never()) == prompts


@pytest.mark.parametrize(
    "prompt",
    ["a ring", "a red ring", "a large ring at the top", "a ring above a blue cross", "a ring on a gray background"],
)
def test_what_a_prompt_leaves_open_is_drawn_and_what_it_names_is_kept(prompt):
    asked, found = parse(prompt), set()
    for text in completed([prompt] * 200, rng=np.random.default_rng(0)):
        scene = parse(text)
        assert all(t.colour and t.size for t in scene.things) and (scene.place or scene.relation)
        for said, got in zip(asked.things, scene.things, strict=True):
            assert got.shape == said.shape and said.colour in (None, got.colour) and said.size in (None, got.size)
        assert asked.place in (None, scene.place) and (asked.relation, asked.background) == (
            scene.relation,
            scene.background,
        )
        found.add(scene)
    fewer, more = (np.random.default_rng(0) for _ in range(2))
    assert (
        completed([prompt] * 3, rng=fewer) == completed([prompt] * 5, rng=more)[:3] and fewer.random() == more.random()
    )
    open_ = [len(v) for t in asked.things for v, said in ((COLOURS, t.colour), (SIZES, t.size)) if not said]
    ways = math.prod(open_) * (9 if not asked.place and not asked.relation else 1)
    assert len(found) > min(ways, 200) * 0.5, "the draws are spread"
