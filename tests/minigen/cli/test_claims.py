"""`minigen claims`: every experiment once, a page that grows, sentences for mistakes."""

import dataclasses
import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

import minigen.claims
from minigen.__main__ import main
from minigen.claims import plot
from minigen.claims.ledger import Claim, Setting, judge
from minigen.errors import Interrupted
from tests.minigen.cli.test_tour import Page


class Lab:
    """Two made-up claims, and how often their experiments were run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.runs: list[tuple[str, int, bool]] = []
        self.end_at = -1
        self.claims = [self.claim("a-over-b", ("gan", "vae"), 1.0), self.claim("b_over_a", ("vae",), -1.0)]

    def claim(self, name: str, systems: tuple[str, ...], sign: float) -> Claim:
        def experiment(setting: Setting) -> dict[str, float]:
            if len(self.runs) == self.end_at:
                raise Interrupted("stopped at step 1", signal.SIGINT)
            self.runs.append((name, setting.seed, setting.quick))
            return {"A <small>": 2.0 + 0.1 * setting.seed, "B": 1.0}

        sentence = f"it is said that {name} & more"
        return Claim(
            name,
            systems,
            sentence,
            "Nobody 2026",
            "metres",
            "A - B",
            experiment,
            lambda g: sign * (g["A <small>"] - g["B"]),
        )


@pytest.fixture
def lab(inside: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    lab = Lab(inside)
    monkeypatch.setattr(minigen.claims, "CLAIMS", lab.claims)
    return lab


def test_the_ledger_runs_every_seed_once_and_writes_its_page(lab: Lab, capsys: pytest.CaptureFixture[str]):
    assert main(["claims"]) == 0
    said = capsys.readouterr().out
    assert "[1/10] a-over-b, seed 0" in said and "[10/10] b_over_a, seed 4" in said and "out/claims/index.html" in said
    assert "not supported" in said and "+1.2" in said and "-1.2" in said
    assert len(lab.runs) == 10 and main(["claims"]) == 0 and len(lab.runs) == 10
    text = Path("out/claims/index.html").read_text(encoding="utf-8")
    assert "it is said that a-over-b &amp; more”: supported" in text and "b_over_a &amp; more”: not supported" in text
    assert "A &lt;small&gt;" in text and "quoted" not in text and "src=" not in text and text.count("<svg") == 2
    low, high = judge([1.0, 1.1, 1.2, 1.3, 1.4]).low, judge([1.0, 1.1, 1.2, 1.3, 1.4]).high
    assert f"{low:+.3g} .. {high:+.3g}" in text
    seen = Page(text)
    assert [attrs["href"] for attrs in seen.all("a")] == ["#a-over-b", "#b_over_a"]


def test_claims_that_share_an_experiment_share_its_runs(lab: Lab):
    first, second = lab.claims
    lab.claims[1] = dataclasses.replace(second, experiment=first.experiment)
    assert main(["claims"]) == 0 and len(lab.runs) == 5
    found = json.loads(Path("out/claims/results.json").read_text())["results"]
    assert found["a-over-b"] == found["b_over_a"] and len(found["a-over-b"]) == 5


def test_only_takes_claims_and_systems(lab: Lab):
    assert main(["claims", "--only", "gan"]) == 0 and {name for name, _, _ in lab.runs} == {"a-over-b"}
    assert main(["claims", "--only", " b-over-a, "]) == 0 and len(lab.runs) == 10
    assert set(json.loads(Path("out/claims/results.json").read_text())["results"]) == {"a-over-b", "b_over_a"}


def test_the_page_keeps_the_claims_that_were_not_asked_for(lab: Lab, capsys: pytest.CaptureFixture[str]):
    assert main(["claims", "--only", "b_over_a", "--seeds", "6"]) == 0
    capsys.readouterr()
    lab.end_at = 8
    assert main(["claims", "--only", "gan"]) == 128 + signal.SIGINT
    page = Path("out/claims/index.html")
    links = [attrs["href"] for attrs in Page(page.read_text(encoding="utf-8")).all("a")]
    assert links == ["#b_over_a"], "of a-over-b two seeds are done"
    lab.end_at = -1
    assert main(["claims", "--only", "gan"]) == 0
    text = page.read_text(encoding="utf-8")
    assert [attrs["href"] for attrs in Page(text).all("a")] == ["#a-over-b", "#b_over_a"]
    assert "(95 %, 5 seeds)" in text and "(95 %, 6 seeds)" in text
    assert "b_over_a" not in capsys.readouterr().out, "only what was asked for is printed"


def test_quick_results_are_kept_apart(lab: Lab):
    assert main(["claims", "--quick", "--only", "gan"]) == 0 and all(quick for _, _, quick in lab.runs)
    assert [seed for _, seed, _ in lab.runs] == [0, 1]
    assert "Not to be quoted" in Path("out/claims/quick/index.html").read_text(encoding="utf-8")
    assert not Path("out/claims/results.json").exists()


def test_a_stopped_ledger_goes_on(lab: Lab, capsys: pytest.CaptureFixture[str]):
    lab.end_at = 7
    assert main(["claims"]) == 128 + signal.SIGINT
    assert "the same 'minigen claims' command goes on from here" in capsys.readouterr().err
    text = Path("out/claims/index.html").read_text(encoding="utf-8")
    assert "a-over-b" in text and "b_over_a" not in text, "a claim is on the page when all its seeds are done"
    lab.end_at = -1
    assert main(["claims"]) == 0 and len(lab.runs) == 10


def test_more_seeds_are_added_to_those_there_are(lab: Lab):
    assert main(["claims"]) == 0 and main(["claims", "--seeds", "6"]) == 0
    assert [seed for _, seed, _ in lab.runs[10:]] == [5, 5]


def test_a_figure_that_is_no_number_is_refused_and_not_kept(lab: Lab, refused: Callable[..., str]):
    good = lab.claims[0].experiment
    lab.claims[0] = dataclasses.replace(lab.claims[0], experiment=lambda setting: {"A <small>": float("nan"), "B": 1.0})
    assert "a-over-b, seed 0: A <small> is nan" in refused("claims", "--only", "gan")
    assert not Path("out/claims/results.json").exists()
    lab.claims[0] = dataclasses.replace(lab.claims[0], experiment=good)
    assert main(["claims", "--only", "gan"]) == 0


def test_the_page_says_how_many_are_judged_and_which_do_not_stand_together(lab: Lab):
    """Both only just at 95 %: of two the smaller p must be at most 2.5 %."""
    low = judge([1.0, 1.1, 1.2, 1.3, 1.4]).low
    first, second = lab.claims
    lab.claims[0] = dataclasses.replace(first, smallest=low - 1e-3)
    assert main(["claims"]) == 0
    page = Path("out/claims/index.html")
    assert "2 claims are judged" in page.read_text(encoding="utf-8") and "doubted" not in page.read_text(
        encoding="utf-8"
    )
    lab.claims[1] = dataclasses.replace(second, smallest=1e-3 - low)
    assert main(["claims"]) == 0
    said = "To be doubted: it is said that a-over-b &amp; more; it is said that b_over_a &amp; more. The seeds"
    assert said in page.read_text(encoding="utf-8")


def paragraph(lab: Lab, *args: str) -> str:
    """What the page says of all verdicts together."""
    assert main(["claims", *args]) == 0
    text = Path("out/claims/index.html").read_text(encoding="utf-8")
    return "".join(line for line in text.splitlines() if "judged, " in line or "jointly" in line)


def test_of_one_claim_nothing_is_said_of_many(lab: Lab):
    said = paragraph(lab, "--only", "gan")
    assert "<p>1 claim is judged, at 95 %. The seeds" in said and "jointly" not in said and "Holm" not in said


def test_where_nothing_is_decided_nothing_is_said_of_verdicts(lab: Lab):
    lab.claims[:] = [
        dataclasses.replace(claim, smallest=claim.smallest + s) for claim, s in zip(lab.claims, (1.2, -1.2))
    ]
    assert paragraph(lab) == ""


def test_how_many_verdicts_stand_is_counted(lab: Lab):
    low = judge([1.0, 1.1, 1.2, 1.3, 1.4]).low
    first, second = lab.claims
    assert "2 claims are judged, each on its own at 95 %. 2 of 2 verdicts hold jointly" in paragraph(lab)
    lab.claims[0] = dataclasses.replace(first, smallest=1.2)
    assert "The one verdict that is decided holds jointly with the others: with 95 % confidence" in paragraph(lab)
    lab.claims[1] = dataclasses.replace(second, smallest=1e-3 - low)
    said = paragraph(lab)
    assert "The one verdict that is decided does not hold jointly with the others (Holm 1979). To be doubted: " in said


def test_list_runs_nothing(lab: Lab, capsys: pytest.CaptureFixture[str]):
    assert main(["claims", "--list"]) == 0
    assert "it is said that b_over_a" in capsys.readouterr().out and not lab.runs and not list(lab.folder.iterdir())


def test_mistakes_have_a_sentence(lab: Lab, refused: Callable[..., str]):
    assert "--seeds must be at least 5" in refused("claims", "--seeds", "3")
    assert "--seeds must be at least 2" in refused("claims", "--quick", "--seeds", "1")
    assert "unknown claim or system 'gam': did you mean 'gan'?" in refused("claims", "--only", "gam")
    assert "unknown claim or system 'c-over-d': did you mean " in refused("claims", "--only", "c-over-d")
    assert "'A-over-b': did you mean 'a-over-b'" in refused("claims", "--only", "gan,A-over-b")
    assert "there is no claim about 'glide' yet" in refused("claims", "--only", "glide")
    assert "--only names no claim" in refused("claims", "--only", ",")
    Path("file").write_text("in the way")
    assert "cannot write to the folder file" in refused("claims", "--out", "file/a")
    assert not lab.runs


def test_an_unknown_claim_of_the_project_names_the_nearest(refused: Callable[..., str]):
    said = refused("claims", "--only", "vae-blurred")
    assert "unknown claim or system 'vae-blurred': did you mean 'vae-" in said and "_" not in said


def test_every_claim_of_the_project_is_complete(capsys: pytest.CaptureFixture[str]):
    from minigen.cli import curriculum

    claims = minigen.claims.CLAIMS
    assert len({claim.name for claim in claims}) == len(claims)
    for claim in claims:
        assert claim.sentence and claim.source and claim.unit and claim.in_words
        for system in claim.systems:
            assert curriculum.systems()[system].exists


def test_the_picture_of_a_claim_depends_on_its_figures_alone(lab: Lab):
    claim = lab.claims[0]
    found = {str(seed): claim.experiment(Setting(seed, False, Path())) for seed in range(5)}
    first, second = (plot.svg(claim, found) for _ in range(2))
    assert first == second and first.startswith("<svg") and "metres" in first
    assert plot.svg(claim, {**found, "4": {"A <small>": 9.0, "B": 1.0}}) != first
