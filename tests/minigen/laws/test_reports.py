"""What a failing run says to a stranger: numbers with their names, one line of what is skipped, what to do next;
scripts that show the fault; the page's lines.
"""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import matplotlib.figure
import numpy as np
import pytest

from minigen.cli import laws as command
from minigen.cli import laws_page

STRANGERS = """
import numpy as np

class Right:
    space, claims = "flow", {"calls": "n", "draws": "0", "point": True}

    def __init__(self, factor=1.0):
        self.factor = factor

    def levels(self, n):
        return [(k / n, 1 - k / n, k / n) for k in range(n, -1, -1)]

    def sample(self, model, x, n, noise):
        levels = self.levels(n)
        for (t, _, _), (u, _, _) in zip(levels, levels[1:]):
            x = x + self.factor * (u - t) * model(x, t)
        return x

class Miscounted(Right):
    claims = {**Right.claims, "calls": "2n"}

class Leaky(Right):
    claims = {**Right.claims, "leak": 0.0}

    def levels(self, n):
        return [(0.9 * t, 1 - 0.9 * s, 0.9 * s) for t, _, s in super().levels(n)]

class Remembers(Right):
    runs = 0

    def sample(self, model, x, n, noise):
        self.runs += 1
        return super().sample(model, x, n, noise) + 1e-9 * self.runs

class Raises(Right):
    def sample(self, model, x, n, noise):
        raise KeyError("sigmas") if n > 2 else RuntimeError("few")

class Endless(Right):
    def sample(self, model, x, n, noise):
        while True:
            noise(x.shape)

class Single(Right):
    def sample(self, model, x, n, noise):
        return super().sample(model, x, n, noise).astype(np.float32)

class Large(Right):  # claims nothing of data of one point, and is not exact there
    claims = {}

    def sample(self, model, x, n, noise):
        x = super().sample(model, x, n, noise)
        return 1.1 * x if n < 20 else x * np.nan

class Tall(Large):  # the size of the result is not its fault, the dtype is
    def sample(self, model, x, n, noise):
        return super().sample(model, x, 1, noise).astype(np.float32)

class Order(Right):
    claims, sigmas = {**Right.claims, "order": 2}, None

    def on(self, sigmas):
        new = type(self)()
        new.sigmas = sigmas.tolist()
        return new

    def levels(self, n):
        if self.sigmas is None:
            return super().levels(n)
        return [(s / (1 + s), 1 / (1 + s), s / (1 + s)) for s in self.sigmas] + [(0.0, 1.0, 0.0)]
"""


@pytest.fixture
def strangers(module_here):
    return module_here("stranger_reports", STRANGERS)


# --- scripts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sampler, law",
    [("Miscounted", "L5"), ("Leaky", "L3"), ("Remembers", "L5b"), ("Single", "L0"), ("Tall", "L0"), ("Order", "L21")],
)
def test_there_is_no_script_that_does_not_show_the_fault(sampler, law, strangers, capsys):
    assert command.main(["shrink", f"{strangers}:{sampler}", "--law", law, "--script", "s.py"]) == 1
    out = capsys.readouterr().out
    assert "no script: a script without this project does not show this" in out and "import" not in out
    assert not Path("s.py").exists()


def test_a_fault_beside_another_has_no_script_of_the_other(strangers, capsys):
    assert command.main(["shrink", f"{strangers}:Right", "--config", "factor=1.1", "--law", "L15"]) == 1
    assert "no script" in capsys.readouterr().out


def test_a_script_that_never_ends_is_not_handed_out(strangers, monkeypatch, capsys):
    monkeypatch.setattr("minigen.laws.scripts.SECONDS", 2.0)
    assert command.main(["shrink", f"{strangers}:Endless"]) == 1
    assert "no script" in capsys.readouterr().out


@pytest.mark.parametrize(
    "sampler, law, words", [("Right", "L4", "WRONG"), ("Raises", "L0", "RuntimeError: few"), ("Large", "L0", "WRONG")]
)
def test_a_script_that_is_handed_out_shows_the_fault(sampler, law, words, strangers, capsys):
    settings = ["--config", "factor=1.1"] if sampler == "Right" else []
    assert command.main(["shrink", f"{strangers}:{sampler}", *settings, "--law", law, "--script", "s.py"]) == 1
    done = subprocess.run([sys.executable, "s.py"], capture_output=True, text=True, check=False)
    assert words in done.stdout + done.stderr
    if sampler == "Large":  # what it does not claim is not what is wrong
        script = Path("s.py").read_text()
        assert script.count(" 0.7, 20, []") == 1
        Path("s.py").write_text(script.replace(" 0.7, 20, []", " 0.7, 3, []"))
        assert "right" in subprocess.run([sys.executable, "s.py"], capture_output=True, text=True, check=True).stdout


def test_an_order_has_no_smallest_number_of_steps(strangers, capsys):
    assert command.main(["shrink", f"{strangers}:Order"]) == 1
    out = capsys.readouterr().out
    assert "with no setting (1 tried)" in out and "smallest" not in out
    assert command.main(["shrink", f"{strangers}:Miscounted"]) == 1
    assert "smallest: 1 step, no setting" in capsys.readouterr().out


# --- the report -------------------------------------------------------------------------------------------------------


def test_numbers_have_names_and_what_is_skipped_is_one_line(strangers, capsys):
    assert command.main([f"{strangers}:Right", "--config", "factor=1.1"]) == 1
    out = capsys.readouterr().out
    assert re.search(r"fail  L4 .*e-02 found, .*e-13 allowed: call 2 at time 0.5, 2 levels", out), out
    skipped = [line for line in out.splitlines() if "not claimed: eta" in line]
    assert len(skipped) == 1 and "L3 (not claimed: leak); L7" in skipped[0] and "\n  skip " not in out


def test_a_failing_run_ends_in_what_to_do_next(strangers, capsys):
    asked = [f"{strangers}:Right", "--config", "factor=1.1", "--dtype", "float32"]
    assert command.main([*asked, "--law", "L5,L6"]) == 1
    last = capsys.readouterr().out.splitlines()[-1]
    to_shrink, to_read = re.findall("`(.*?)`", last)
    assert to_shrink == f"minigen laws shrink {strangers}:Right --config factor=1.1 --law L6 --dtype float32"
    assert to_read == "minigen laws --list --law L6" and "says what L6 is" in last
    assert command.main(shlex.split(to_shrink)[2:]) == 1 and command.main(shlex.split(to_read)[2:]) == 0
    capsys.readouterr()
    assert command.main([f"{strangers}:Right", f"{strangers}:Miscounted"]) == 1  # the one that fails
    assert f"`minigen laws shrink {strangers}:Miscounted` finds" in capsys.readouterr().out.splitlines()[-1]
    assert command.main([f"{strangers}:Right"]) == 0
    assert "next:" not in capsys.readouterr().out


def test_samplers_of_one_name_are_told_apart_by_what_was_asked_for(strangers, capsys):
    for name, factor in (("one", 1.0), ("two", 1.1)):
        Path(f"{strangers}_{name}.py").write_text(f"{STRANGERS}\nmine = Right({factor})\n")
    assert command.main([f"{strangers}_one:mine", f"{strangers}_two:mine", "--law", "L6"]) == 1
    assert f"shrink {strangers}_two:mine" in capsys.readouterr().out.splitlines()[-1]


def test_what_cannot_be_shrunk_is_not_said_to_be(strangers, capsys):
    Path(f"{strangers}_form.py").write_text(
        "from minigen.laws import Transform\nmix = Transform('slerp', lambda a, b, t: (1 - t) * a + t * b)\n"
    )
    assert command.main([f"{strangers}_form:mix"]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "next: `minigen laws --list --law L19` says what L19 is"


# --- the page ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def axes(monkeypatch):
    """The axes of every picture that is drawn, in order."""
    found, subplots = [], matplotlib.figure.Figure.subplots
    monkeypatch.setattr(
        matplotlib.figure.Figure, "subplots", lambda self: found.append(subplots(self)) or found[-1], raising=True
    )
    return found


def test_a_sampler_of_a_lower_order_lies_above_the_line_that_it_claims(strangers, axes):
    page = laws_page.render(command.find(f"{strangers}:Order"), [])
    ideal, errors = (line.get_ydata() for line in axes[1].lines)
    assert "order 2, as claimed" in page and errors[0] == pytest.approx(ideal[0])
    assert (errors[1:] > 1.5 * ideal[1:]).all()


def test_a_level_without_signal_is_all_noise_and_calls_are_whole(strangers, axes):
    sampler = command.find(f"{strangers}:Right", {"factor": 1.1})[0]
    sampler.steps = (2,)
    laws_page.render([sampler], [])
    told, state = (np.asarray(line.get_ydata()) for line in axes[0].lines)
    np.testing.assert_allclose(told, [1, 0.5**0.5])
    np.testing.assert_allclose(state, [1, 0.45 / np.hypot(0.45, 0.55)])
    assert axes[0].get_yscale() == "linear" and all(tick == round(tick) for tick in axes[0].get_xticks())
