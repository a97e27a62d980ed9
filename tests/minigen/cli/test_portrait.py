"""The family portrait: the same for everybody, every figure from the JSON beside it, every gap with its reason."""

import dataclasses
import json
import math
import re
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest

from minigen.__main__ import main
from minigen.cli import curriculum, portrait, portrait_page, quality, tour, tour_page
from minigen.data import load
from minigen.data.captions import parse
from minigen.data.oracle import prompt_accuracy
from minigen.metrics.prompts import GROUPS, prompts_of, standard_error
from tests.minigen.cli.conftest import FIGURES
from tests.minigen.train import toy
from tests.support.pages import Page, pixels, read

PROMPTS = 4  # a group, here


@dataclasses.dataclass(frozen=True)
class Labelled:
    """Settings of a system that can be asked for a class."""

    label: int | None = None
    """The class."""


def model(name: str, data: str, **changes: Any) -> ModuleType:
    """A model file around the toy: it trains the toy, and its system has ``changes``, functions of the data set."""
    found = ModuleType(f"tests.{name}")
    found.__file__, found.__spec__ = toy.__file__, ModuleSpec(found.__name__, None)
    found.__doc__ = f"What {name} is. You need: `toy.py`. New here: the <way> of `{name}`. Details that matter: none."
    settings = {"TITLE": f"The {name}", "PAPER": "Nobody", "EQUATION": "x = x", "DATA": data, "Config": toy.Config}
    vars(found).update(settings, TOUR={"steps": 2, "first_steps": 1}, PICTURES={})

    def build(config: Any, dataset: Any, *, seed: int) -> Any:
        system = toy.build(config, dataset, seed=seed)
        made = {key: make(dataset) for key, make in changes.items()}
        return dataclasses.replace(system, **{"pictures": {}, "notes": None, **made})

    found.build = build  # type: ignore[attr-defined]
    return found


def painter(shift: int) -> Any:
    """Makes a ``paint`` that draws what the prompts ask for, and some pictures for the next prompt instead: every
    third, from ``shift`` on, and of prompts for two things all but every fourth."""

    def make(dataset: Any) -> Any:
        def paint(prompts: Any, *, rng: Any) -> Any:
            right = dataset.scale(quality.drawn_again(prompts, seed=int(rng.integers(1000))))
            two = len(parse(prompts[0]).things) == 2
            wrong = [i % 4 != 0 if two else (i + shift) % 3 == 0 for i in range(len(right))]
            return np.stack([right[(i + wrong[i]) % len(right)] for i in range(len(right))])

        return paint

    return make


def labelled(told: bool) -> Any:
    """Makes a ``sample`` that can be asked for a class, a picture of one grey for each, or that refuses to."""

    def make(dataset: Any) -> Any:
        def sample(n: int, *, rng: Any, label: int | None = None, callback: Any = None, steps: Any = None) -> Any:
            if label is not None and not told:
                raise ValueError(f"label {label} needs what this one has not")
            return np.full((n, *dataset.shape), -1 + (label or 0) / 8, np.float32)

        return sample

    return make


def pictures_of(dataset: Any) -> Any:
    """Makes a ``sample`` that returns validation pictures, the first ones always; a loaded system's data set has none."""
    return lambda n, **how: dataset.scale(load("shapes").val.take(np.arange(n)).images)


class Seen(NamedTuple):
    """A tour of seven kinds of systems: its folder, the facts by name, the page."""

    out: Path
    facts: dict[str, dict[str, Any]]
    text: str
    page: Page


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """The tour, made once."""
    models = {
        "toy": toy,
        "told": model("told", "digits", sample=labelled(True)),
        "untold": model("untold", "digits", sample=labelled(False)),
        "painter": model("painter", "shapes", paint=painter(0)),
        "second": model("second", "shapes", paint=painter(1)),
        "drawer": model("drawer", "shapes", sample=pictures_of),
        "finder": model(
            "finder", "shapes", sample=pictures_of, notes=lambda dataset: lambda x: ["a <ring>\nright"] * len(x)
        ),
        "broken": model("broken", "shapes", sample=lambda dataset: lambda n, **how: 1 / 0),
    }
    for name in ("told", "untold"):
        models[name].Sampling = Labelled  # type: ignore[attr-defined]
    entries = [
        dataclasses.replace(toy.ENTRY, chapter=i, name=name, title=f"The {name}", draws=name != "finder")
        if name == "toy"
        else curriculum.Entry(i, name, f"The {name}", "Nobody", f"tests.{name}", draws=name != "finder")
        for i, name in enumerate(models, start=1)
    ]
    out = tmp_path_factory.mktemp("tour")
    with pytest.MonkeyPatch.context() as patch:
        for name, found in models.items():
            if name != "toy":
                patch.setitem(sys.modules, f"tests.{name}", found)
        patch.setattr(toy, "TOUR", {"steps": 2, "first_steps": 1})
        patch.setattr(curriculum, "CURRICULUM", entries)
        patch.setattr(portrait, "PROMPTS", PROMPTS)
        patch.setattr(portrait, "PICTURES", 16)
        patch.setattr(quality, "SAMPLES", 64)
        patch.setattr(quality, "figures", lambda dataset, samples, *, seed: FIGURES)
        patch.setattr(quality, "errors", lambda dataset, samples: (0.125, (1.5, 0.25)))
        classes = [0, 1, 2, 4, 4, 5, 6, 7, 8, 9]
        patch.setattr(quality, "classes_of", lambda dataset, samples: np.resize(classes, len(samples)))
        patch.setattr("minigen.models.adm.as_asked", lambda dataset, images: 0.625)
        assert main(["tour", "--out", str(out)]) == 1  # one of them is broken
        text, page = read(out)
        kept = {e.name: {**(tour.read_facts(out / e.name) or {}), **tour.known(e)} for e in entries}
    return Seen(out, kept, text, page)


def again(seen: Seen, **changed: dict[str, Any]) -> tuple[str, Page]:
    """The page with some facts changed."""
    text = tour_page.render([{**facts, **changed.get(name, {})} for name, facts in seen.facts.items()], seen.out)
    return text, Page(text)


# --- the same for everybody -------------------------------------------------------------------------------------------


def test_every_system_that_ran_has_a_row_and_every_section_a_link_to_it(seen: Seen):
    rows = {row[0] for row in seen.page.table("FD x", "parameters")}
    assert {f"The {name}" for name in seen.facts if name != "toy"} | {"Toy"} <= rows
    assert [s["id"] for s in seen.page.all("section") if "id" in s] == ["portrait", *seen.facts]
    assert {"classes", "prompts", "others", "figures"} <= {str(div.get("id")) for div in seen.page.all("div")}
    links = {str(a["href"]) for a in seen.page.all("a")}
    assert {f"#{name}" for name in (*seen.facts, "classes", "prompts", "others", "figures")} <= links


def test_all_painters_show_the_same_prompts_in_the_same_order(seen: Seen):
    prompts = portrait.prompts_shown()
    assert prompts == [p for split, things in GROUPS.values() for p in prompts_of(split, things, portrait.SHOWN)]
    assert len(set(prompts)) == 4 * portrait.SHOWN
    table = seen.page.table("prompt", "The painter", "The second")
    assert table[0] == ["prompt", "as it should be", "The painter", "The second"]
    assert [row[0] for row in table[1:] if len(row) > 1] == prompts
    assert [row[0] for row in table[1:] if len(row) == 1] == list(GROUPS)


def test_the_pictures_are_the_first_that_were_measured_each_beside_its_prompt(seen: Seen):
    shapes = load("shapes")
    cells = [
        image
        for image in seen.page.all("img")
        if str(image["alt"]).startswith(("as it should", "The painter: ", "The second: "))
    ]
    assert len(cells) == 3 * len(portrait.prompts_shown())
    for shift, name, at in ((0, "painter", 1), (1, "second", 2)):
        rng = np.random.default_rng(0)
        asked = [prompts_of(split, things, PROMPTS) for split, things in GROUPS.values()]
        drawn = [painter(shift)(shapes)(prompts, rng=rng) for prompts in asked]  # block by block, as they were measured
        expected = shapes.to_rgb8(np.concatenate([x[: portrait.SHOWN] for x in drawn]))
        for row, picture in enumerate(expected):
            np.testing.assert_array_equal(pixels(cells[3 * row + at])[::2, ::2], picture, err_msg=f"{name}, {row}")
        right = np.mean([prompt_accuracy(p, x)["all"] for p, x in zip(asked, drawn)])
        assert 0.3 < right < 1


def test_the_words_below_a_picture_are_the_oracles(seen: Seen):
    said = seen.facts["painter"]["shown"]["said"]
    assert said[1] == said[2] == "right" != said[0]
    table = seen.page.table("prompt", "The painter")
    shown = [row[2] for row in table[1:] if len(row) > 1]
    assert shown == ["✓ right" if s == "right" else f"✗ {s}" for s in said]
    alts = [str(image["alt"]) for image in seen.page.all("img")]
    assert all(f"The painter: {s}" in alts for s in said)


def test_planted_prompts_in_another_order_are_seen(seen: Seen):
    shown = seen.facts["second"]["shown"]
    turned = {**shown, "asked": shown["asked"][::-1]}
    written, page = again(seen, second={"shown": turned})
    assert "The second was shown other prompts, or in another order" in written
    assert "The second" not in page.table("prompt", "The painter")[0]
    assert "was shown other" not in seen.text


def test_samples_of_all_classes_in_turn_are_asked_for_already(monkeypatch: pytest.MonkeyPatch, without_ruler: None):
    """No more are drawn where the notes say so; all of them count for the share, and the first of each class is shown."""
    digits, calls = load("digits"), []
    monkeypatch.setattr("minigen.models.adm.as_asked", lambda dataset, images: len(images) / 100)

    def sample(n: int, *, rng: Any, **how: Any) -> Any:
        calls.append((n, how))
        greys = np.linspace(-1, 1, 10, dtype=np.float32)[np.arange(n) % 10]
        return np.broadcast_to(greys[:, None, None, None], (n, *digits.shape)).copy()

    def sit(first: int) -> portrait.Sitting:
        notes = lambda images, **how: [digits.classes[(first + i) % 10] for i in range(len(images))]  # noqa: E731
        system = SimpleNamespace(paint=None, sample=sample, notes=notes)
        told = SimpleNamespace(Sampling=Labelled)
        return portrait.sit(SimpleNamespace(draws=True), told, system, digits, seed=0)  # type: ignore[arg-type]

    found = sit(0)
    assert calls == [(64, {"label": None})] and found.facts["right"] == {"rate": 0.64, "n": 64}
    assert found.facts["shown"]["how"] == "asked" and (np.diff(found.shown[:, 0, 0, 0]) > 0).all()
    calls.clear()
    assert sit(1).facts["right"] == {"rate": 1.6, "n": 160}  # in another order: every class is asked for
    assert [how["label"] for _, how in calls] == [None, *range(10)]


def test_planted_other_classes_are_seen(seen: Seen):
    shown = seen.facts["told"]["shown"]
    written, page = again(seen, told={"shown": {**shown, "asked": [*shown["asked"][:-1], "nine"]}})
    assert "The told was shown other classes, or in another order" in written
    assert not [image for image in page.all("img") if str(image["alt"]).startswith("The told, asked")]


def test_planted_pictures_in_another_order_lose_the_oracles_favour(monkeypatch: pytest.MonkeyPatch):
    """The report and the words see the pictures, not only the list of prompts."""
    monkeypatch.setattr(portrait, "PROMPTS", PROMPTS)
    shapes = load("shapes")

    def turned(prompts: Any, *, rng: Any) -> Any:
        return shapes.scale(quality.drawn_again(prompts[::-1], seed=0))

    asked = SimpleNamespace(draws=True)
    system = SimpleNamespace(paint=turned, sample=lambda n, *, rng: turned(portrait.prompts_shown(), rng=rng))
    facts = portrait.sit(asked, SimpleNamespace(), system, shapes, seed=0).facts  # type: ignore[arg-type]
    assert max(rates["all"] for rates in facts["prompts"].values()) < 0.1
    assert facts["quality"]["these samples"]["valid"] == 1
    assert "right" not in facts["shown"]["said"]


def test_a_class_is_asked_for_where_that_can_be_and_else_found_among_the_samples(seen: Seen):
    told, untold, unlabelled = (seen.facts[name]["shown"] for name in ("told", "untold", "toy"))
    assert told["asked"] == untold["asked"] == unlabelled["asked"] == list("0123456789")
    assert (told["how"], untold["how"], unlabelled["how"]) == ("asked", "found", "found")
    assert told["said"][3] == "taken for 4" and not told["said"][4]
    assert untold["said"] == [""] * 3 + ["none of 64"] + [""] * 6
    strips = {str(i["alt"]).split(",")[0]: pixels(i) for i in seen.page.all("img") if "0 to 9" in str(i["alt"])}
    assert set(strips) == {"Toy", "The told", "The untold"}
    tiles = np.split(strips["The told"][2:, 2:], 10, axis=1)
    greys = [int(tile[0, 0, 0]) for tile in tiles]
    assert greys == sorted(set(greys)) and greys[0] == 0  # one grey a class, in order
    missing = np.split(strips["Toy"][2:, 2:], 10, axis=1)[3]
    assert len(np.unique(missing[:-2, :-2])) == 1


# --- every figure from the JSON ---------------------------------------------------------------------------------------


def cells_of(seen: Seen, title: str) -> dict[str, str]:
    head, *rows = seen.page.table("FD x", "parameters")
    (row,) = [row for row in rows if row[0] == title]
    return dict(zip(head, row))


def test_figures_on_the_page_are_those_in_the_json(seen: Seen):
    facts = json.loads((seen.out / "told" / tour.FACTS).read_text())
    cells = cells_of(seen, "The told")
    ours = facts["quality"]["these samples"]
    assert (facts["samples"], facts["real"]) == (64, len(load("digits").test))
    assert cells["FD x"] == f"{ours['fd_ratio']:.2f} ± {facts['spread']:.2f}" == "0.91 ± 0.12"
    assert cells["accepted"] == f"{ours['accepted']:.2f} ± {math.sqrt(0.75 * 0.25 / 64):.2f}"
    assert cells["recall"] == f"{ours['recall']:.2f} ± {math.sqrt(0.25 / facts['real']):.2f}"
    assert cells["coverage"] == f"{ours['coverage']:.2f} ± {math.sqrt(0.25 * 0.75 / facts['real']):.2f}"
    assert cells["one thing"] == f"{facts['right']['rate']:.2f} ± {math.sqrt(0.625 * 0.375 / 160):.2f}"
    assert cells["parameters"] == f"{facts['parameters']:,}" == "1,177"
    for heading, value in {
        "train, s": facts["seconds"],
        "train, CPU s": facts["cpu_seconds"],
        "a sample, s": facts["sampling_seconds"] / facts["samples"],
    }.items():
        assert cells[heading] == (f"{value:,.0f}" if value >= 100 else f"{value:.2g}") and value > 0
    facts = json.loads((seen.out / "painter" / tour.FACTS).read_text())
    cells = cells_of(seen, "The painter")
    for heading, group in (("one thing", "seen, one thing"), ("two things", "seen, two things")):
        rate = facts["prompts"][group]["all"]
        assert (
            cells[heading] == f"{rate:.2f} ± {standard_error(rate, PROMPTS):.2f}"
            and facts["prompts"][group]["n"] == PROMPTS
        )
    assert cells["accepted"] == f"{facts['quality']['these samples']['valid']:.2f} ± 0.07" == "1.00 ± 0.07"  # of 16
    assert facts["samples"] == facts["real"] == 4 * PROMPTS
    assert cells["one thing"] != cells["two things"]


def test_a_changed_figure_changes_the_page(seen: Seen):
    for key, heading, value in (("seconds", "train, s", 12345.0), ("parameters", "parameters", 7654321)):
        _, page = again(seen, told={key: value})
        assert cells_of(seen._replace(page=page), "The told")[heading] == f"{value:,.0f}"


def test_all_four_kinds_of_prompts_stand_below_the_pictures(seen: Seen):
    table = seen.page.table("everything right", *GROUPS)
    for row in table[1:]:
        facts = seen.facts[row[0].removeprefix("The ")]
        assert row[1:] == [
            f"{r['all']:.2f} ± {standard_error(r['all'], r['n']):.2f}" for r in facts["prompts"].values()
        ]
    assert [row[0] for row in table[1:]] == ["The painter", "The second"]


def test_real_pictures_and_pixel_noise_stand_in_the_table_too(seen: Seen):
    rows = {row[0]: row for row in seen.page.table("FD x", "parameters")[::-1]}  # of the digits, which come first
    assert rows["pixel noise"][1:3] == ["24.00", "0.00"] and rows["train, drawn with replacement"][1] == "1.50 ± 0.25"
    real = rows["real pictures of the same prompts"]
    assert real[2] == "1.00" and real[4] == "1.00" and real[5] == ""
    assert rows["their backgrounds alone"][2:4] == ["0.00", "0.00"]  # nothing to read, and nothing is recalled


def test_of_real_images_without_a_distance_nothing_is_said_of_chance(seen: Seen):
    none = {name: {"chance": [None, None]} for name, facts in seen.facts.items() if facts.get("chance")}
    text, _ = again(seen, **none)
    assert none and "train, drawn with replacement" not in text


def test_captioned_pictures_are_set_against_real_ones_of_the_same_prompts(seen: Seen):
    shapes = load("shapes")
    asked = [text for split, things in GROUPS.values() for text in prompts_of(split, things, 16)]
    real, other = (quality.drawn_again(asked, seed=seed) for seed in (0, 1))
    assert prompt_accuracy(asked, shapes.scale(real))["all"] == 1 and (real != other).any()
    found = quality.captioned(shapes, shapes.scale(real), real, other, "others")
    assert list(found) == ["these samples", "others", "their backgrounds alone", "pixel noise"]
    assert found["these samples"] == {
        "valid": 1.0,
        "precision": 1.0,
        "recall": 1.0,
        "density": pytest.approx(4 / 3),
        "coverage": 1.0,
    }
    alike = np.broadcast_to(real[:1], real.shape)
    collapsed = quality.captioned(shapes, shapes.scale(alike), real, other, "others")["these samples"]
    assert (collapsed["valid"], collapsed["precision"]) == (1, 1) and max(
        collapsed["recall"], collapsed["coverage"]
    ) < 0.2


def test_the_numbers_are_those_of_minigen_sample(without_ruler: None, inside: Path, monkeypatch: Any, capsys: Any):
    """The samples and the seed that the figures are made of are the same to the bit, with the flags that the page names."""
    given: list[tuple[Any, int]] = []
    monkeypatch.setattr(quality, "figures", lambda dataset, x, *, seed: given.append((x.copy(), seed)) or FIGURES)
    monkeypatch.setattr(quality, "known", lambda dataset: (None, {}))
    monkeypatch.setattr("minigen.metrics.report.chance", lambda dataset, ruler, *, n: (1.0, 0.25))
    assert main(["tour", "--only", "toy", "--seed", "3"]) == 0
    line = re.search(r"<code>minigen (sample NAME [^<]*)</code>", read(Path("out/tour"))[0])
    assert line is not None
    args = line[1].replace("NAME/", "out/tour/toy/").replace("NAME", "toy").split()
    assert main(args) == 0
    (tours, tours_seed), (samples, seed) = given
    assert len(samples) == quality.SAMPLES and tours_seed == seed == 3
    np.testing.assert_array_equal(tours, samples)


def test_the_report_is_that_of_minigen_sample_prompts(seen: Seen):
    """The same function with the same draws: `quality.prompts` is what `minigen sample --prompts` prints."""
    shapes = load("shapes")
    report = quality.prompts(painter(0)(shapes), PROMPTS, seed=0, settings={"prompt": "not this one"})
    kept = seen.facts["painter"]["prompts"]
    assert portrait.without_nan(report) == kept


# --- every gap with its reason ----------------------------------------------------------------------------------------


def test_a_missing_figure_has_a_reason(seen: Seen):
    reasons = {str(li["id"]) for li in seen.page.all("li") if li.get("id")}
    links = [str(a["href"]) for a in seen.page.all("a") if str(a["href"]).startswith("#why-")]
    assert {link.removeprefix("#") for link in links} == reasons and len(links) > 10
    gaps = [cell for row in seen.page.table("FD x", "parameters")[1:] for cell in row[1:] if cell.startswith("n/a")]
    assert len(gaps) == len(links) and all(re.fullmatch(r"n/a \d+", cell) for cell in gaps)
    for name, facts in seen.facts.items():
        found = portrait.row(facts)
        assert list(found) == list(portrait.COLUMNS), name
        for value in found.values():
            assert isinstance(value, portrait.Figure) or (len(value) > 10 and value in seen.text), (name, value)


def test_which_figures_a_system_cannot_have(seen: Seen):
    def gaps(name: str) -> dict[str, str]:
        return {key: value for key, value in portrait.row(seen.facts[name]).items() if isinstance(value, str)}

    assert gaps("toy") == {"one": portrait.UNTOLD, "two": portrait.UNTOLD}
    assert gaps("untold") == dict.fromkeys(("one", "two"), "label 0 needs what this one has not")
    assert gaps("told") == {"two": portrait.ONE_CLASS}
    assert gaps("painter") == {"fd_ratio": portrait.NO_RULER}
    assert gaps("drawer") == {"fd_ratio": portrait.NO_RULER, "one": portrait.UNTOLD, "two": portrait.UNTOLD}
    drawing = ("fd_ratio", "accepted", "recall", "coverage", "one", "two", "sample")
    assert gaps("finder") == dict.fromkeys(drawing, portrait.NOTHING_DRAWN)
    assert gaps("broken") == dict.fromkeys(portrait.COLUMNS, portrait.FAILED)


def test_points_have_their_figures_in_their_own_section(seen: Seen):
    found = {"modes": 8.0, "near": 0.9, "mode_kl": 0.01}
    points = {"data": "rings", "quality": {"these samples": found, "test split": found}, "right": None, "real": 500}
    points["shown"] = {"how": "none", "asked": [], "said": []}
    row = portrait.row({**seen.facts["toy"], **points})
    assert {row[key] for key in ("fd_ratio", "accepted", "recall", "coverage")} == {portrait.POINTS}
    text, page = again(seen, toy=points)
    table = page.table("FD x", "parameters")
    assert all(any(cells[1:]) for cells in table if len(cells) > 1), "a row holds something"
    assert portrait.POINTS in text and "rings: 64 samples" not in text and portrait.NO_MEASURE not in text


def test_what_is_no_number_is_said_to_be_none(seen: Seen):
    assert portrait.without_nan({"a": [float("nan"), 1.0, (float("inf"),)], "b": "nan"}) == {
        "a": [None, 1.0, [None]],
        "b": "nan",
    }
    ours = {**FIGURES["these samples"], "fd_ratio": None, "recall": None}
    changed = {
        **seen.facts["told"],
        "quality": {"these samples": ours},
        "cpu_seconds": None,
        "right": {"rate": None, "n": 160},
    }
    found = portrait.row(changed)
    assert found["fd_ratio"] == found["recall"] == found["one"] == portrait.NOT_FINITE
    assert found["train_cpu"] == portrait.NO_CPU


def test_a_system_that_draws_nothing_shows_what_it_finds_and_its_own_figure(seen: Seen):
    (strip,) = [i for i in seen.page.all("img") if str(i["alt"]).startswith("The finder: its first samples")]
    assert "a <ring>: right" in str(strip["alt"])
    assert f"test pictures: {len(load('shapes').test):.4g}." in seen.text.split("<h3>")[0]


# --- the page ---------------------------------------------------------------------------------------------------------


def test_the_page_needs_no_network_and_says_every_picture_in_words(seen: Seen):
    assert "http" not in seen.text and not seen.page.all("script") and not seen.page.all("link")
    assert all(
        str(image["src"]).startswith("data:image/png;base64,") and image["alt"] for image in seen.page.all("img")
    )
    assert "<way>" not in seen.text and "<ring>" not in seen.text  # nobody's words become tags
    regions = [div for div in seen.page.all("div") if div.get("class") == "wide"]
    assert regions and all(div["role"] == "region" and div["tabindex"] == "0" and div["aria-label"] for div in regions)
    headings = [th for th in seen.page.all("th") if th.get("scope") == "col"]
    assert len(headings) >= len(portrait.COLUMNS)


def test_what_is_new_and_whom_it_stands_on_come_from_the_models_own_files(seen: Seen):
    assert "the &lt;way&gt; of <code>told</code>." in seen.text
    entries = curriculum.systems()
    for name, parents in {
        "dalle": ["vq_vae", "clip"],
        "improved_ddpm": ["ddpm"],
        "stable_diffusion": ["gan", "vae", "vq_vae", "clip", "glide"],
        "gan": [],
    }.items():
        if name in entries:
            assert portrait.parents(entries[name]) == parents


def test_every_model_file_says_what_is_new():
    for entry in curriculum.systems().values():
        line = portrait.news(curriculum.load(entry).__doc__)
        assert 10 < len(line) < 140 and "\n" not in line, entry.name
    assert portrait.news("no such words") == portrait.news(None) == ""


def test_no_path_of_this_machine_is_on_the_page_or_in_the_facts(seen: Seen):
    root = str(Path(toy.__file__).resolve().parents[3])
    for path in seen.out.glob("*/tour.json"):
        assert root not in path.read_text()


def test_the_time_that_the_portrait_takes_is_measured(seen: Seen):
    for name, facts in seen.facts.items():
        if name != "broken":
            assert facts["sitting_cpu_seconds"] >= facts["sampling_cpu_seconds"] > 0
    whole = [facts for facts in seen.facts.values() if "failed" not in facts]
    spent = sum(facts["sitting_cpu_seconds"] for facts in whole)
    assert f"took {spent:,.0f} CPU seconds" in seen.text


def test_an_empty_portrait_is_nothing(tmp_path: Path):
    assert portrait_page.render([], tmp_path) == ""
