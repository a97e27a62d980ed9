"""`minigen laws`: verdicts and exit status for ours and for a stranger's file; mistakes in one sentence."""

import json
from pathlib import Path

import pytest

from kernels import command
from minigen.__main__ import main
from minigen.cli import laws
from minigen.errors import UserError

STRANGER = """
class Mine:
    space, claims = "flow", {"calls": "n", "draws": "0", "point": True}

    def levels(self, n):
        return [(k / n, 1 - k / n, k / n) for k in range(n, -1, -1)]

    def sample(self, model, x, n, noise):
        for k in range(n, 0, -1):
            x = x - model(x, k / n) * FACTOR / n
        return x
"""


@pytest.mark.parametrize("factor, status", [("1", 0), ("1.01", 1)])
def test_a_stranger_s_file(factor, status, tmp_path, monkeypatch, capsys):
    name = f"stranger_{status}"
    (tmp_path / f"{name}.py").write_text(STRANGER.replace("FACTOR", factor))
    monkeypatch.chdir(tmp_path)
    assert laws.main([f"{name}:Mine", "--json", "out.json"]) == status
    told = json.loads((tmp_path / "out.json").read_text())
    assert bool(told["counts"]["fail"]) == bool(status) and told["counts"]["skip"] > 0
    assert "not claimed: eta" in capsys.readouterr().out


def test_ctrl_c_names_the_law_that_ran_and_loses_no_verdict(tmp_path, monkeypatch, capsys):
    endless = STRANGER.replace("FACTOR", "1").replace("return x", "raise KeyboardInterrupt")
    (tmp_path / "endless.py").write_text(endless)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    arguments = ["laws", "dpmpp-2m", "endless:Mine", "--law", "L0", "--dtype", "float64"]
    assert command.run(lambda: main(arguments), "minigen") == 130
    told = capsys.readouterr()
    assert told.err == "minigen: stopped in L0 of Mine, float64\n"
    assert "dpmpp-2m (karras): 1 pass, 0 fail, 0 skipped" in told.out and "Mine" not in told.out


def test_one_law_on_one_of_ours_and_the_list(capsys):
    assert laws.main(["dpmpp-2m", "--law", "L14", "--dtype", "float64"]) == 0
    assert "dpmpp-2m (karras): 1 pass, 0 fail, 0 skipped" in capsys.readouterr().out
    assert laws.main(["--list"]) == 0
    assert "L8   Gaussian data: every moment exact" in capsys.readouterr().out
    assert laws.main(["--list", "--law", "L8"]) == 0
    assert "recursion of `transition`" in capsys.readouterr().out


@pytest.mark.parametrize(
    "args, words",
    [
        (["ddpm"], "unknown sampler 'ddpm': use ancestral"),
        (["ddpm"], "or what else has laws: discrete, sequence, filter"),
        (["slerp", "--config", "foo=1"], "'foo' is no setting here"),
        (["slerp", "--config", "foo={[]: 1}"], "'foo' is no setting here"),
        (["slerp", "--sweep", "N=2,3"], "--sweep N=... is for samplers that walk levels"),
        (["slerp", "--sweep", f"N=1..{'9' * 5000}"], "--sweep must be N=1..100"),
        (["slerp", "--law", "L6"], "nothing was checked: L6 (a law of vp, sigma, flow, not of slerp)"),
        (["no_such_module_here:X"], "cannot import 'no_such_module_here'"),
        (["json:Nothing"], "'json' has no 'Nothing'"),
        (["json:JSONDecoder"], "a sampler must have a method levels"),
        (["json:__name__"], "is no sampler"),
        (
            ["shrink", "json:JSONDecoder"],
            "json:JSONDecoder: a sampler must have a method levels, got JSONDecoder without",
        ),
        (["shrink", "ddim", "--law", "L12"], "nothing was checked: L12 is no law of vp"),
        (["some/mine.py:Mine"], "(without .py: some.mine:Mine)"),
        (["./mine.py:Mine"], "(without .py: mine:Mine)"),
        (["./mine:Mine"], "'./mine' must be a module, as in an import: mine:Mine"),
        (["shrink", "ddim", "--sweep", "eta=1"], "--sweep of shrink must be numbers of steps, N=1..100 or N=2,5,10"),
        (["../mine.py:Mine"], "(in its folder, without .py: mine:Mine)"),
        (["ddim", "--law", "L99"], "unknown law 'L99'"),
        (["ddim", "--dtype", "int8"], "--dtype must be float64 or float32"),
        (["ddim", "--law", "L2", "--json", "/dev/null/x.json"], "cannot write /dev/null/x.json: "),
    ],
)
def test_mistakes_are_said_in_one_sentence(args, words):
    with pytest.raises(UserError) as told:
        laws.main(args)
    assert words in str(told.value) and "\n" not in str(told.value)


HOSTILE = f"""
import numpy as np
{STRANGER.replace("FACTOR", "1.01")}

def raising(error):
    def look(self):
        raise error
    return property(look)

class NoLevels(Mine):
    levels = None

class LevelsRaise(Mine):
    levels = raising(RuntimeError("no grid\\nto be seen"))

class SpaceRaises(Mine):
    space = raising(RuntimeError("no room"))

class SpaceLeaves(Mine):
    space = raising(SystemExit(3))

class ClaimsRaise(Mine):
    claims = raising(KeyError("calls"))

class NameRaises(Mine):
    name = raising(RuntimeError("nobody"))

class SpaceIsAList(Mine):
    space = ["flow"]

class SweepIsANumber(Mine):
    sweep = 5

class CallsAreAnArray(Mine):
    claims = {{"calls": np.ones(2)}}

class EtaIsAnArray(Mine):
    claims = {{"eta": np.ones(2)}}

class OrderIsAnArray(Mine):
    claims = {{"order": np.ones(2)}}

class NothingInside(Mine):
    __slots__ = ()

    def __init__(self):
        raise SystemExit("not\\ntoday")

class Nobody:
    def __getattr__(self, name):
        raise RuntimeError(f"nobody has {{name}}")

nobody = Nobody()

class Slots:
    __slots__ = ()
    space, claims, levels, sample = "flow", Mine.claims, Mine.levels, Mine.sample

class Draws(Mine):
    claims = {{**Mine.claims, "draws": lambda n: [][0]}}

class LevelsLeave(Mine):
    def levels(self, n):
        raise SystemExit(3)

class Many(Mine):
    claims = {{**Mine.claims, "draws": lambda n: 10**15}}

class Blend:
    space, claims = "slerp", {{}}

    def apply(self, a, b, t):
        raise SystemExit(3)
"""


@pytest.fixture
def hostile(module_here):
    return module_here("stranger_hostile", HOSTILE)


@pytest.mark.parametrize(
    "inside, words",
    [
        ("NoLevels", "a sampler must have a method levels, got NoLevels without one"),
        ("LevelsRaise", "a member of LevelsRaise raised RuntimeError: no grid to be seen"),
        ("SpaceRaises", "a member of SpaceRaises raised RuntimeError: no room"),
        ("SpaceLeaves", "a member of SpaceLeaves raised SystemExit: 3"),
        ("ClaimsRaise", "a member of ClaimsRaise raised KeyError: 'calls'"),
        ("NameRaises", "a member of NameRaises raised RuntimeError: nobody"),
        ("SpaceIsAList", "space must be one of 'vp', 'sigma', 'flow', 'discrete'"),
        ("SweepIsANumber", "sweep must be a tuple of whole numbers of at least 1, such as (1, 7), got 5"),
        ("CallsAreAnArray", "claim 'calls' must be a function of n or one of '0', "),
        ("EtaIsAnArray", "claim 'eta' must be from 0 to 1, or 'large', got array("),
        ("OrderIsAnArray", "claim 'order' must be 1, 2, 3 or 4, got array("),
        ("NothingInside", "cannot make a sampler of 'stranger_hostile:NothingInside': SystemExit: not today"),
        ("nobody", "cannot find 'nobody' in 'stranger_hostile': RuntimeError: nobody has sample"),
    ],
)
@pytest.mark.parametrize("before, after", [([], []), ([], ["--sweep", "N=1,2"]), (["shrink"], [])])
def test_what_only_looks_like_a_sampler_is_one_sentence(before, after, inside, words, hostile):
    with pytest.raises(UserError) as told:
        laws.main([*before, f"{hostile}:{inside}", *after])
    assert words in str(told.value) and "\n" not in str(told.value)


@pytest.mark.parametrize(
    "inside, words, script",
    [
        ("Draws", "claim 'draws' raised IndexError: list index out of range for n = ", False),
        ("LevelsLeave", "levels(1) raised SystemExit: 3", True),
        ("Blend", "apply raised SystemExit: 3", False),
        ("Many", "Unable to allocate", True),
    ],
)
def test_faults_are_verdicts_in_all_that_is_written(inside, words, script, hostile, capsys):
    name = f"{hostile}:{inside}"
    assert laws.main([name, "--html", "new/out.html"]) == 1
    page, told = Path("new/out.html").read_text(), capsys.readouterr().out
    assert words in told or words in page
    assert laws.main(["shrink", name, "--seconds", "1"]) == 1
    assert ("import numpy" in capsys.readouterr().out) == script


def test_numbers_of_steps_that_cannot_be_set_are_one_sentence(hostile):
    for args in (["shrink", f"{hostile}:Slots"], [f"{hostile}:Slots", "--sweep", "N=1,2"]):
        with pytest.raises(UserError, match="cannot set the numbers of steps of Slots: AttributeError: "):
            laws.main(args)


def test_a_frozen_dataclass_is_swept_and_shrunk(tmp_path, monkeypatch, capsys):
    frozen = "import dataclasses\n@dataclasses.dataclass(frozen=True)" + STRANGER.replace("FACTOR", "1.01")
    (tmp_path / "stranger_frozen.py").write_text(frozen)
    monkeypatch.chdir(tmp_path)
    assert laws.main(["stranger_frozen:Mine", "--sweep", "N=2,3", "--law", "L6"]) == 1
    assert "L6 fails with 2, 3 steps, 2 of 2" in capsys.readouterr().out
    assert laws.main(["shrink", "stranger_frozen:Mine", "--law", "L6"]) == 1
    assert "smallest: 1 step, no setting" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["-" * 20_000 + "1", "1" + "+1" * 20_000], ids=["memory", "recursion"])
def test_a_setting_too_deep_to_be_parsed_is_a_word(text):
    assert laws._value(text) == text


def test_a_file_too_deep_to_be_parsed_is_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "stranger_deep.py").write_text(f"x = {'-' * 20_000}1\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"^cannot import 'stranger_deep': (Memory|Recursion)Error"):
        laws.main(["stranger_deep:x"])
