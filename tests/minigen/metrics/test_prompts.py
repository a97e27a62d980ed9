"""The report over prompts: painters whose rates are known."""

import math

import numpy as np
import pytest

from minigen.data import shapes
from minigen.data.captions import parse
from minigen.metrics import prompts


def painted(said, rng):
    """Pictures that show exactly what the prompts say."""
    return shapes.render(shapes.arrange([parse(text) for text in said], rng=rng)) / np.float32(127.5) - 1


def test_prompts_name_everything_and_stay_as_they_are():
    for split, things in prompts.GROUPS.values():
        found = prompts.prompts_of(split, things, 9)
        assert found[:5] == prompts.prompts_of(split, things, 5)
        for text in found:
            scene = parse(text)
            shapes.check(scene)  # complete
            assert len(scene.things) == things
            assert bool(shapes.held_out(scene)) == (split == "held")


def test_who_paints_what_is_said_is_always_right_and_who_paints_another_never():
    rng = np.random.default_rng(0)
    report = prompts.prompt_report(lambda said: painted(said, rng), 70)
    assert list(report) == list(prompts.GROUPS)
    for group, rates in report.items():
        assert rates["all"] == 1 and rates["n"] == 70, group
    blank = prompts.prompt_report(lambda said: np.zeros((len(said), 32, 32, 3), np.float32), 3, ["seen, one thing"])
    assert blank["seen, one thing"]["all"] == 0


def test_a_rate_counts_the_pictures_that_are_right():
    """Every other picture is that of a prompt with another colour."""
    rng, asked = np.random.default_rng(1), []

    def draw(said):
        asked.append(len(said))
        turned = [text.replace("red", "RED").replace("blue", "red").replace("RED", "blue") for text in said]
        return painted([new if i % 2 else text for i, (text, new) in enumerate(zip(said, turned))], rng)

    found = prompts.prompt_report(draw, 80, ["seen, one thing"])["seen, one thing"]
    touched = [
        text
        for i, text in enumerate(prompts.prompts_of("val", 1, 80))
        if i % 64 % 2 and ("red" in text or "blue" in text)
    ]
    assert asked == [64, 16]
    assert found["all"] == found["colour"] == pytest.approx(1 - len(touched) / 80)
    assert found["shape"] == found["size"] == found["place"] == 1


def test_notes_are_counted_where_they_could_be_judged():
    one, other = prompts.prompts_of("val", 1, 2)
    pictures = painted([one] * 4, np.random.default_rng(0))
    notes = prompts.notes_for([one, other, "", "what is this"], pictures)
    assert prompts.tally(notes) == "met: 1 of 2"
    assert prompts.tally(notes[:1] * 3) == "met: 3 of 3" and prompts.tally(notes[1:2]) == "met: 0 of 1"
    assert prompts.tally(notes[2:]) == prompts.tally([]) == ""


def test_attributes_met():
    """All in pictures of the prompts, some in those of the next prompt, a fifth less for a wrong colour, none in blank ones."""
    asked = prompts.prompts_of("val", 1, 8)
    images = painted(asked, np.random.default_rng(0))
    assert prompts.attributes_met(asked, images) == 1
    assert 1 / 5 < prompts.attributes_met(asked, np.roll(images, 1, 0)) < 0.8
    recoloured = [text.replace("purple", "orange") for text in asked]
    changed = sum(a != b for a, b in zip(asked, recoloured))
    assert changed and prompts.attributes_met(recoloured, images) == pytest.approx(1 - changed / 8 / 5)
    assert prompts.attributes_met(asked, 0 * images) == 0


def test_each_of_the_five_attributes_counts_alike():
    """What a picture shows -> how many of count, colour, size, shape and place are as asked for; the background is not
    asked about.
    """
    asked = "a small red circle at the top left on a black background"
    shown = {
        asked: 5,
        asked.replace("red", "blue"): 4,
        asked.replace("small", "large"): 4,
        asked.replace("circle", "square"): 4,
        asked.replace("top left", "bottom"): 4,
        asked.replace("black", "white"): 5,
        asked.replace("red", "blue").replace("top left", "bottom"): 3,
        "a small red circle above a large blue square on a black background": 0,
    }
    images = painted(list(shown), np.random.default_rng(0))
    for image, met in zip(images, shown.values()):
        assert prompts.attributes_met([asked], image[None]) == pytest.approx(met / 5)
    assert prompts.attributes_met([asked] * len(shown), images) == pytest.approx(sum(shown.values()) / 5 / len(shown))


def test_standard_error_and_table():
    assert prompts.standard_error(0.5, 100) == 0.05 and prompts.standard_error(0.0, 60) == prompts.standard_error(
        1.0, 60
    )
    assert prompts.standard_error(1.0, 60) == pytest.approx((2 / 64 * 62 / 64 / 64) ** 0.5)  # not 0
    rates = dict.fromkeys(prompts.SHOWN, 0.5) | {"relation": math.nan, "n": 100.0}
    lines = prompts.format_report({"seen, one thing": rates}).splitlines()
    assert len(lines) == 2 and "0.500 ± 0.050" in lines[1] and lines[1].split()[-2] == "-"
    assert lines[0].split() == list(prompts.SHOWN)


def test_notes_of_prompts_of_which_one_means_nothing():
    asked = prompts.prompts_of("val", 1, 2)
    images = painted(asked, np.random.default_rng(0))
    notes = prompts.notes_for([asked[0], "ring red a of", "", asked[1], "  "], images[[0, 0, 0, 1, 0]])
    assert notes[0].startswith(asked[0] + "\n") and notes[3].startswith(asked[1] + "\n")
    assert notes[1] == "ring red a of\nno caption of this world" and notes[2] == notes[4] == "no prompt"
    with pytest.raises(ValueError, match="images must have shape"):
        prompts.notes_for(asked, images[:, :16, :16])


def test_what_cannot_be_asked_is_named():
    with pytest.raises(ValueError, match="n must be at least 1, got 0"):
        prompts.prompt_report(lambda said: None, 0)
    with pytest.raises(ValueError, match=r"groups must be of .*, got 'all of them'"):
        prompts.prompt_report(lambda said: None, 1, ["all of them"])
    with pytest.raises(ValueError, match="how many scenes of 'val' have 1 thing, got 9999"):
        prompts.prompts_of("val", 1, 9999)
    every = prompts.prompts_for(10_000)
    assert len(every) == 10_000 and prompts.prompts_for(3) == every[:3]
    with pytest.raises(ValueError, match="without a prompt n must be at most 10000"):
        prompts.prompts_for(10_001)


def test_more_prompts_than_a_group_has_are_refused_before_any_is_drawn():
    """There are 4,961 scenes of one thing in ``val`` and 5,039 of two: the last group in the list can be the smallest."""
    drawn: list[str] = []
    assert prompts.most_prompts() == 4961 and prompts.most_prompts(["seen, two things"]) == 5039
    with pytest.raises(ValueError, match=r"n must be at most 4961, .* got 4962"):
        prompts.prompt_report(drawn.extend, 4962, ["seen, two things", "seen, one thing"])
    assert not drawn
