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
from minigen.laws import as_json, order_laws, run_laws, scripts
from minigen.laws.suite import line

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

    def __init__(self, order=2):
        super().__init__()
        self.claims = {**Right.claims, "order": order}

    def on(self, sigmas):
        new = type(self)()
        new.sigmas = sigmas.tolist()
        return new

    def levels(self, n):
        if self.sigmas is None:
            return super().levels(n)
        return [(s / (1 + s), 1 / (1 + s), s / (1 + s)) for s in self.sigmas] + [(0.0, 1.0, 0.0)]

class Drifts(Order):  # but only a batch of seven, of which no script is
    def __init__(self):
        super().__init__(1)

    def sample(self, model, x, n, noise):
        return super().sample(lambda x, t: model(x, t) + 0.1 * (len(x) == 7), x, n, noise)

class Both(Order):  # of order 1 where 2 is claimed, and wrong by a factor from two levels on
    def sample(self, model, x, n, noise):
        return super().sample(model, x, n, noise) * (1.01 if n > 1 else 1)

class Fixed(Right):  # seven levels, whatever is asked for
    def levels(self, n):
        return super().levels(7)

    def sample(self, model, x, n, noise):
        return super().sample(model, x, 7, noise)

class Table(Right):
    def levels(self, n):
        return {4: super().levels(4), 8: super().levels(8)}[n]

class Late(Right):  # breaks laws of counts from three levels on, those of states from two
    claims = {**Right.claims, "calls": lambda n: n + (n > 2)}

    def sample(self, model, x, n, noise):
        return super().sample(model, x, n, noise) * (1.01 if n > 1 else 1)
"""


@pytest.fixture
def strangers(module_here):
    return module_here("stranger_reports", STRANGERS)


# --- scripts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sampler, law",
    [("Miscounted", "L5"), ("Leaky", "L3"), ("Remembers", "L5b"), ("Single", "L0"), ("Tall", "L0"), ("Drifts", "L21")],
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
    "sampler, law, words",
    [
        *[("Right", "L4", "WRONG"), ("Raises", "L0", "RuntimeError: few"), ("Large", "L0", "WRONG")],
        *[("Order", "L21", "WRONG"), ("Order", "L22", "WRONG")],
    ],
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
    if sampler == "Order":
        script = Path("s.py").read_text()
        assert len(script.splitlines()) == scripts.LIMIT and "minigen" not in script
        Path("s.py").write_text(script.replace("Order()", "Order(1)").replace("> 1.8", "> 0.85"))
        assert "right" in subprocess.run([sys.executable, "s.py"], capture_output=True, text=True, check=True).stdout


def test_an_order_has_no_smallest_number_of_steps(strangers, capsys):
    assert command.main(["shrink", f"{strangers}:Order"]) == 1
    out = capsys.readouterr().out
    assert "with no setting (2 tried)" in out and "smallest:" not in out
    assert "1 other law is broken too, in no smaller case: L22 (--law L22 shows its own)" in out
    assert command.main(["shrink", f"{strangers}:Miscounted"]) == 1
    assert "smallest: 1 step, no setting" in capsys.readouterr().out


def test_the_smallest_case_is_that_of_all_broken_laws(strangers, capsys):
    """L5 is the first that is broken, from 3 steps on; L6 from 2."""
    assert command.main(["shrink", f"{strangers}:Late"]) == 1
    out = capsys.readouterr().out
    first, steps, detail, others = out.splitlines()[:4]
    assert first.startswith("L6, ") and steps.startswith("smallest: 2 steps, ") and "result, 2 levels" in detail
    assert others.startswith("2 other laws are broken too, in no smaller case: L5, L15 (--law L5 shows its own)"), (
        others
    )
    assert command.main(["shrink", f"{strangers}:Both"]) == 1  # an order is of many numbers of steps, not of one
    out = capsys.readouterr().out
    assert out.startswith(f"{first}\nsmallest: 2 steps, ") and "in no smaller case: L15, L21, L22 (" in out
    assert command.main(["shrink", f"{strangers}:Late", "--law", "L6,L15"]) == 1
    assert "\n1 other law is broken too, in no smaller case: L15 (" in capsys.readouterr().out
    assert command.main(["shrink", f"{strangers}:Late", "--law", "L5"]) == 1
    out = capsys.readouterr().out
    assert out.startswith("L5, ") and "smallest: 3 steps" in out and "broken too" not in out


# --- the report -------------------------------------------------------------------------------------------------------


def test_numbers_have_names_and_what_is_skipped_is_one_line(strangers, capsys):
    assert command.main([f"{strangers}:Right", "--config", "factor=1.1"]) == 1
    out = capsys.readouterr().out
    assert re.search(r"fail  L4 .*e-02 found, .*e-13 allowed: call 2 at time 0.5, 2 levels", out), out
    skipped = [line for line in out.splitlines() if "not claimed: eta" in line]
    assert len(skipped) == 1 and "L3 (not claimed: leak); L5c" in skipped[0] and "\n  skip " not in out


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


def test_a_slope_is_said_where_it_passes_too(strangers):
    (sampler,) = command.find(f"{strangers}:Order", {"order": 1})
    even, uneven = run_laws(sampler, ["L21", "L22"], "float64")
    assert [even.status, uneven.status] == ["pass", "pass"]
    assert re.fullmatch(r"slope \d\.\d\d on an even grid", even.note) and line(even).endswith(f"; {even.note}")
    assert re.fullmatch(r"slope \S+ on steps 1:2; slope \S+ on steps 3:1:2:5:1", uneven.note)
    assert even.note in as_json([even]) and f"; {even.note}" in laws_page.render([sampler], [even])


def test_every_verdict_is_a_line_if_all_are_asked_for(strangers, capsys):
    for asked in ([], ["--all"]):
        assert command.main([f"{strangers}:Right", *asked]) == 0
        out = capsys.readouterr().out
        assert ("  skipped: L3 (not claimed: leak)" in out) is not bool(asked)
        assert ("  skip  L3   float64  not claimed: leak" in out) is bool(asked)


@pytest.mark.parametrize(
    "sampler, words",
    [("Fixed", "levels(1) has 7 noisy levels: "), ("Table", "levels(1) raised KeyError: 1"), ("Leaky", "")],
)
def test_numbers_of_levels_that_there_are_not_are_told_where_to_name_those_that_are(sampler, words, strangers):
    (found,) = command.find(f"{strangers}:{sampler}")
    told = [v.detail for v in run_laws(found, ["L0", "L2"], "float64") if v.failed]
    hint = "; a sampler that has only some numbers of levels names them in `steps` and `sweep`"
    assert bool(told) is bool(words) and all(detail.startswith(words) and detail.endswith(hint) for detail in told)
    found.steps = found.sweep = (7,) if sampler == "Fixed" else (4, 8)
    assert not [v for v in run_laws(found, ["L0", "L2"], "float64") if v.failed]


def test_a_number_of_levels_that_is_off_by_one_is_no_fixed_number(strangers):
    (sampler,) = command.find(f"{strangers}:Right")
    plain = sampler.levels
    sampler.levels = lambda n: plain(n + (n == 61))
    (verdict,) = run_laws(sampler, "L2", "float64")
    assert "levels(61) has 62 noisy levels" in verdict.detail and "`sweep`" not in verdict.detail


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
    assert "order 2, as claimed" in page and errors[2] == pytest.approx(ideal[2])
    assert (errors[3:] > 1.5 * ideal[3:]).all()


@pytest.mark.parametrize("order", [1, 3])
def test_the_pictures_of_orders_are_of_what_is_judged(order, strangers, axes):
    """An even grid for L21, both uneven ones for L22; from order 3 on what comes after the first steps."""
    (sampler,) = command.find(f"{strangers}:Order", {"order": order})
    page = laws_page.render([sampler], [])
    late = order == 3
    assert ("after the first quarter of the levels" in page) is late
    for picture, patterns in ((axes[1], ((1.0,),)), (axes[2], order_laws.UNEVEN)):
        shown = [line.get_ydata() for line in picture.lines[1::2]]
        assert len(shown) == len(patterns)
        for errors, pattern in zip(shown, patterns):
            np.testing.assert_allclose(errors, order_laws.flow_errors(sampler, pattern, late=late))
            assert f"{order_laws.slope(errors):.2f} on {order_laws.worded(pattern)}" in page


def test_a_level_without_signal_is_all_noise_and_calls_are_whole(strangers, axes):
    sampler = command.find(f"{strangers}:Right", {"factor": 1.1})[0]
    sampler.steps = (2,)
    laws_page.render([sampler], [])
    told, state = (np.asarray(line.get_ydata()) for line in axes[0].lines)
    np.testing.assert_allclose(told, [1, 0.5**0.5])
    np.testing.assert_allclose(state, [1, 0.45 / np.hypot(0.45, 0.55)])
    assert axes[0].get_yscale() == "linear" and all(tick == round(tick) for tick in axes[0].get_xticks())
