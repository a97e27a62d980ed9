"""What a stranger meets: the README's example, the command with settings and sweeps, shrinking, the page, faults that
are not ours.
"""

import json
import re
import shlex
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from minigen.cli import laws as command
from minigen.cli import laws_page
from minigen.errors import UserError
from minigen.laws import Fault, Law, arrays, beds, catalogue, ours, protocol, recorder, run_laws, scripts, shrink, suite
from minigen.laws.verdict import Check, judge, nothing

ROOT = Path(__file__).parents[3]


def failed(sampler, names=None):
    return {v.law: v for v in run_laws(sampler, names, ["float64"]) if v.failed}


# --- the README's example ---------------------------------------------------------------------------------------------


def readme_example():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    block = text.split("<!-- example of laws: begin -->")[1].split("<!-- example of laws: end -->")[0]
    return "\n".join(line.removeprefix("    ") for line in block.strip("\n").splitlines()).strip()


def test_the_readme_s_example_is_short_and_obeys_its_laws(tmp_path, monkeypatch, capsys):
    code = readme_example()
    assert len([line for line in code.splitlines() if line.strip()]) <= 15
    (tmp_path / "readme_mine.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    assert command.main(["readme_mine:Mine", "--html", "report.html"]) == 0
    assert "0 fail" in capsys.readouterr().out and (tmp_path / "report.html").stat().st_size > 10_000


def test_the_readme_s_example_with_a_fault_fails():
    scope: dict = {}
    exec(readme_example().replace("(u - t)", "0.99 * (u - t)"), scope)
    assert {"L4", "L6"} <= set(failed(scope["Mine"]()))


# --- settings, sweeps -------------------------------------------------------------------------------------------------

STRANGER = """
class Mine:
    space, claims = "flow", {"calls": "n", "draws": "0", "point": True}

    def __init__(self, factor=1.0, from_n=1, other="x", deep=None):
        self.factor, self.from_n = factor, from_n

    def levels(self, n):
        return [(k / n, 1 - k / n, k / n) for k in range(n, -1, -1)]

    def sample(self, model, x, n, noise):
        for k in range(n, 0, -1):
            x = x - model(x, k / n) * (self.factor if n >= self.from_n else 1) / n
        return x
"""


@pytest.fixture
def stranger(tmp_path, monkeypatch):
    (tmp_path / "stranger_outer.py").write_text(STRANGER)
    monkeypatch.chdir(tmp_path)
    return "stranger_outer:Mine"


def test_settings_and_sweeps(stranger, capsys):
    assert (
        command.main([stranger, "--sweep", "factor=1.0,1.1", "--sweep", "N=2,5", "--json", "o.json", "--law", "L6"])
        == 1
    )
    out = capsys.readouterr().out
    assert "L6 fails with 2, 5 steps, 2 of 2" in out
    told = json.loads(Path("o.json").read_text())
    assert told["counts"] == {"pass": 2, "fail": 2, "skip": 0}
    assert (
        command.main([stranger, "--config", "factor=1.1", "--config", "from_n=4", "--sweep", "N=1..6", "--law", "L6"])
        == 1
    )
    assert "L6 fails with 4, 5, 6 steps, 3 of 6" in capsys.readouterr().out


def test_a_sweep_tells_samplers_apart_and_adds_up(stranger, capsys):
    swept = ["--sweep", "factor=1.0,1.1", "--sweep", "N=2,3", "--sweep", "N=4", "--law", "L6", "--all"]
    assert command.main([stranger, *swept]) == 1
    out = capsys.readouterr().out
    assert "Mine (factor=1.0): 2 pass, 0 fail" in out and "Mine (factor=1.1): 0 pass, 2 fail" in out
    assert "Mine (factor=1.1): L6 fails with 2, 3, 4 steps, 3 of 3" in out
    assert "[data of one point: every state exact]" in next(line for line in out.splitlines() if "  pass" in line)


@pytest.mark.parametrize("name", ["made", "Mine.again", "one"])
def test_a_script_imports_what_was_named_and_sees_one_percent(name, stranger, capsys):
    with Path("stranger_named.py").open("w") as file:
        file.write(STRANGER + "\n    again = classmethod(lambda cls, **settings: cls(**settings))\n")
        file.write("\nmade = lambda factor=1.0: Mine(factor)\none = Mine(1.01)\n")
    factor = [] if name == "one" else ["--config", "factor=1.01"]
    assert command.main(["shrink", f"stranger_named:{name}", *factor, "--law", "L6", "--script", "s.py"]) == 1
    assert f"from stranger_named import {name.partition('.')[0]}\n" in Path("s.py").read_text()
    done = subprocess.run([sys.executable, "s.py"], capture_output=True, text=True, check=True)
    assert "WRONG" in done.stdout, done.stdout
    sys.modules.pop("stranger_named")


def test_shrinking_drops_settings_and_steps_and_its_script_reproduces(stranger, capsys):
    settings = [f"--config={text}" for text in ("factor=1.2", "from_n=3", "other=long", "deep=[1,2]")]
    assert command.main(["shrink", stranger, *settings, "--law", "L6", "--script", "s.py"]) == 1
    out = capsys.readouterr().out
    assert "smallest: 1 step, factor=1.2 (" in out  # without from_n even one step fails
    script = Path("s.py").read_text()
    assert script in out and len(script.splitlines()) <= scripts.LIMIT and "minigen" not in script
    done = subprocess.run([sys.executable, "s.py"], capture_output=True, text=True, check=True)
    assert "WRONG" in done.stdout, done.stdout + done.stderr
    Path("s.py").write_text(script.replace("factor=1.2", "factor=1.0"))
    done = subprocess.run([sys.executable, "s.py"], capture_output=True, text=True, check=True)
    assert "right" in done.stdout and "WRONG" not in done.stdout
    assert command.main(["shrink", stranger]) == 0
    assert "breaks no law that it claims, with 1, 2, 3, 7, 20 steps\n" in capsys.readouterr().out


def test_a_fault_at_some_numbers_of_steps_is_shrunk_by_the_command_that_is_named(stranger, capsys):
    late = ["--config", "factor=1.1", "--config", "from_n=60"]
    assert command.main([stranger, *late, "--sweep", "N=64", "--sweep", "N=50", "--law", "L6"]) == 1
    next_ = re.search(r"next: `minigen laws (.*?)`", capsys.readouterr().out)
    assert next_ and "--sweep N=64 --sweep N=50" in next_[1]
    assert command.main(shlex.split(next_[1])) == 1
    assert "smallest: 1 step, factor=1.1 (" in capsys.readouterr().out  # found from 64 steps with from_n
    assert command.main(["shrink", stranger, *late, "--law", "L6,L4"]) == 0
    assert "breaks none of L6, L4, with 1, 2, 3, 7, 20 steps" in capsys.readouterr().out


def test_a_law_that_is_not_claimed_is_not_said_to_hold(stranger):
    with pytest.raises(UserError, match=r"nothing was checked: L3 \(not claimed: leak\)"):
        command.main(["shrink", stranger, "--law", "L3"])


def test_a_file_is_not_the_name_of_a_sampler(stranger):
    for name in ("stranger_outer", "stranger_outer.py", "./stranger_outer.py"):
        with pytest.raises(UserError, match="is a file: name a sampler in it, stranger_outer:Name"):
            command.main([name])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("return [1, 2, 3]", r"a level is \(time, alpha, sigma\), and levels\(1\) has 1"),
        ("return [('noisy', 1, 2)]", r"a level is \(time, alpha, sigma\), and levels\(1\) has \('noisy', 1, 2\)"),
    ],
)
def test_levels_that_are_none(change, words):
    scope: dict = {}
    exec(STRANGER.replace("return [(k / n, 1 - k / n, k / n) for k in range(n, -1, -1)]", change), scope)
    assert re.search(words, failed(scope["Mine"](), ["L0"])["L0"].detail)


def test_noise_of_a_number_and_a_library_that_is_not_there(monkeypatch):
    scope: dict = {}
    exec(
        STRANGER.replace("        for k in range(n, 0, -1):", "        noise(3)\n        for k in range(n, 0, -1):"),
        scope,
    )
    assert "noise takes a shape, and was given 3" in failed(scope["Mine"](), ["L0"])["L0"].detail
    sampler = scope["Mine"]()
    sampler.arrays = "cupy"
    monkeypatch.setattr(protocol.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="arrays is 'cupy', which is not installed"):
        protocol.check(sampler)


def test_shrinking_keeps_the_kind_of_failure():
    """NaN at many steps is not shrunk to a number that is merely too large at few."""

    class Two:
        space: ClassVar = "flow"
        claims: ClassVar = {"calls": "n", "draws": "0", "point": True}

        def levels(self, n):
            return [(k / n, 1 - k / n, k / n) for k in range(n, -1, -1)]

        def sample(self, model, x, n, noise):
            for k in range(n, 0, -1):
                x = x - model(x, k / n) / n
            return x * (np.nan if n >= 5 else 1.01)

    law = suite.choose(["L6"])[0]
    whole = Two()
    nan = next(v for v in run_laws(shrink.one(whole, 9, law), ["L6"], ["float32"]))
    assert shrink.smallest(Two, {}, law, nan).n == 5
    large = next(v for v in run_laws(shrink.one(whole, 2, law), ["L6"], ["float32"]))
    assert shrink.smallest(Two, {}, law, large).n == 1


def test_a_law_that_cannot_be_shrunk_does_not_stop_the_others():
    """It looks at several numbers of steps at once; the other at one."""

    class Far(Base):
        claims: ClassVar = {"calls": "n", "draws": "0", "point": True}

        def sample(self, model, x, n, noise):
            return silent(self, model, x, n, noise) * 1.01

    several = Law("L1", "", lambda s, dtype: iter([Check(len({*protocol.steps(s)}) - 1.0, 0.0, "")]), nothing)
    broken = [(law, judge(law, Far(), np.dtype("float64"))) for law in (several, suite.choose("L6")[0])]
    assert [verdict.failed for _, verdict in broken] == [True, True]
    assert shrink.smallest_of(Far, {}, broken).law == "L6"
    with pytest.raises(ValueError, match="L1 is broken, but by no single number of steps"):
        shrink.smallest_of(Far, {}, broken[:1])


def test_shrinking_does_not_take_rounding_for_the_fault():
    """One percent at many steps is not shrunk to a few limits' worth at few."""

    class Far(Base):
        claims: ClassVar = {"calls": "n", "draws": "0", "point": True}

        def sample(self, model, x, n, noise):
            return silent(self, model, x, n, noise) * (1.01 if n >= 5 else 1 + 4e-5)

    law = suite.choose(["L6"])[0]
    for n, least in ((9, 5), (2, 1)):
        (broken,) = (v for v in run_laws(shrink.one(Far(), n, law), ["L6"], ["float32"]))
        assert broken.failed and shrink.smallest(Far, {}, law, broken).n == least


@pytest.mark.parametrize(
    "args, words",
    [
        (["ddim", "--config", "eta=1"], "'eta' is no setting here"),
        (["json:JSONDecoder", "--config", "eta"], "--config must be KEY=VALUE"),
        (["json:JSONDecoder", "--config", "no_such=1"], "cannot make a sampler of 'json:JSONDecoder'"),
        (["ddim", "--sweep", "N=0..3"], "--sweep must be N=1..100"),
        (["ddim", "--sweep", "N=a"], "--sweep must be N=1..100"),
        (["ddim", "--sweep", "N=1..100000000000"], "--sweep must be N=1..100"),
        (["ddim", "--law", "L2", "--html", "/dev/null/x.html"], "cannot write /dev/null/x.html"),
        (["shrink"], "name one sampler to shrink"),
        (["shrink", "ours"], "name one sampler to shrink"),
        (["kdiffusion:sample_dpm_adaptive"], "chooses its own steps"),
        (["kdiffusion:sample_nothing"], "k-diffusion has no sampler 'sample_nothing'"),
    ],
)
def test_mistakes_are_said_in_one_sentence(args, words):
    with pytest.raises(UserError) as told:
        command.main(args)
    assert words in str(told.value) and "\n" not in str(told.value)


def test_missing_peers_are_said_in_one_sentence(monkeypatch):
    for name in ("torch", "diffusers", "k_diffusion", "k_diffusion.sampling"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match="need torch and diffusers: pip install torch diffusers"):
        command.main(["diffusers:DDIMScheduler"])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"need torch and k-diffusion: .*pip install --no-deps k-diffusion"):
        command.main(["kdiffusion:sample_euler"])


def test_nothing_imports_a_peer_by_itself():
    code = (
        "import sys, minigen.laws, minigen.laws.findings, minigen.cli.laws, minigen.cli.laws_page as p; "
        "print([m for m in sys.modules if m.split('.')[0] in ('torch', 'diffusers', 'k_diffusion', 'matplotlib')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


# --- faults -----------------------------------------------------------------------------------------------------------


class Base:
    space: ClassVar = "flow"
    claims: ClassVar = {"calls": "n", "draws": "n-1", "point": True}

    def levels(self, n):
        return [(k / n, 1 - k / n, k / n) for k in range(n, -1, -1)]


def leaves(self, model, x, n, noise):
    sys.exit(3)


def single(self, model, x, n, noise):
    for k in range(n, 0, -1):
        x = np.asarray(x - model(x, k / n) / n, np.float32)
    return x


def silent(self, model, x, n, noise):
    for k in range(n, 0, -1):
        x = x - model(x, k / n) / n
    return x


def forgets(self, model, x, n, noise):
    x = silent(self, model, x, n, noise)


def draws_forever(self, model, x, n, noise):
    while True:
        noise(x.shape)


@pytest.mark.parametrize(
    "sample, law, words",
    [
        (leaves, "L0", "sample raised SystemExit: 3"),
        (single, "L0", "float32"),
        (silent, "L5", "0 draws where 1 are claimed, 2 levels"),
        (draws_forever, "L0", "drew noise more than"),
        (forgets, "L0", "sample returned None: it ends without a return"),
    ],
)
def test_a_fault_is_named_in_a_verdict(sample, law, words):
    sampler = type("Broken", (Base,), {"sample": sample})()
    assert words in failed(sampler, [law])[law].detail


@pytest.mark.parametrize(
    "levels, words",
    [
        (
            lambda n: [(k / n, 1 - k / n, k / n) for k in (*range(n + 1, 1, -1), 0)],
            "alpha and sigma must be at least 0: levels(1) have -1 and 2 at time 2",
        ),
        (
            lambda n: [(k / n, 1 - k / n, k / n) for k in range(n - 1, -2, -1)],
            "alpha and sigma must be at least 0: levels(1) have 2 and -1 at time -1",
        ),
        (
            lambda n: [(1 - k / n, k / n) for k in range(n, -1, -1)],
            "a level is (time, alpha, sigma), and levels(1) has one of 2 numbers: [0.0, 1.0]",
        ),
        (lambda n: list(n), "levels(1) raised TypeError: 'int' object is not iterable"),
        (lambda n: [(), ()][n + 1], "levels(1) raised IndexError: list index out of range; a sampler that has only"),
    ],
    ids=["before the noise", "after the data", "without times", "a slip", "some n"],
)
def test_levels_that_are_none_are_told_once_and_nothing_else_is_blamed(levels, words):
    sampler = type("Broken", (Base,), {"sample": silent, "levels": lambda self, n: levels(n)})()
    broken = failed(sampler)
    assert broken["L0"].detail.startswith(words) and words.endswith((broken["L0"].detail, "only")), broken["L0"]
    assert {law: verdict.detail for law, verdict in broken.items() if "levels(" not in verdict.detail} == {}


def test_a_first_time_that_is_rounded_up_is_no_level_beyond_noise():
    """Half a turn as 1.5708 has a signal of -4e-6 (the default of diffusers' SCMScheduler)."""

    class Turning:
        space: ClassVar = "vp"
        kinds: ClassVar = ("v",)
        claims: ClassVar = {"calls": "n", "draws": "0", "point": True}

        def levels(self, n):
            return [(t, float(np.cos(t)), float(np.sin(t))) for t in np.linspace(1.5708, 0, n + 1).tolist()]

        def sample(self, model, x, n, noise):
            levels = self.levels(n)
            for (t, _, _), (u, _, _) in zip(levels, levels[1:]):
                x = float(np.cos(t - u)) * x - float(np.sin(t - u)) * model(x, t)
            return x

    assert Turning().levels(1)[0][1] < 0 and not failed(Turning())


@pytest.mark.parametrize("share, broken", [(1.0, False), (1.1, True)])
def test_a_second_slope_is_granted_what_it_makes_of_rounding(share, broken):
    """Heun's step from much noise to little, without a claim of that rule: its second slope divides float32's rounding
    by little.
    """

    class Second:
        space: ClassVar = "sigma"
        kinds: ClassVar = ("x_0",)
        claims: ClassVar = {"calls": "2n-1", "draws": "0", "point": True}

        def levels(self, n):
            return [(s, 1.0, s) for s in (*np.geomspace(20, 0.01, n).tolist(), 0.0)]

        def sample(self, model, x, n, noise):
            sigma = [s for s, _, _ in self.levels(n)]
            for high, low in zip(sigma, sigma[1:]):
                slope, step = (x - model(x, high)) / high, low - high
                if low:
                    end = x + step * slope
                    slope = (slope + share * (end - model(end, low)) / low) / 2
                x = x + step * slope
            return x

    (verdict,) = run_laws(Second(), ["L6"], ["float32"])
    assert verdict.failed == broken


def test_what_a_sampler_has_besides_may_raise_too():
    """A fault in ``on`` is a verdict, not a traceback."""

    class Bad(Base):
        claims: ClassVar = {"order": 1}
        sample = silent

        def on(self, sigmas):
            raise KeyError("sigmas")

    assert "KeyError" in failed(Bad(), ["L21"])["L21"].detail


@pytest.mark.parametrize("scale, broken", [(0.0, False), (1e-3, True)])
def test_a_draw_after_the_last_call_must_not_stay_in_the_result(scale, broken):
    def sample(self, model, x, n, noise):
        for k in range(n, 0, -1):
            x = x - model(x, k / n) / n
            x = x + scale * noise(x.shape) * (k == 1)
        return x

    sampler = type("Late", (Base,), {"sample": sample, "claims": {"calls": "n", "draws": "n"}})()
    assert ("L5" in failed(sampler, ["L5"])) is broken


def test_a_published_formula_of_the_levels():
    class Said(Base):
        claims: ClassVar = {"published": lambda n: [(1 - k / n, k / n) for k in range(n, 0, -1)]}
        sample = silent

    assert not failed(Said(), ["L1"])
    Said.claims["published"] = lambda n: [(1 - k / n, k / n) for k in range(n, 1, -1)] + [(0.5, 0.5)]
    assert "where the formula has 0.5" in failed(Said(), ["L1"])["L1"].detail


def test_precision_widens_limits_and_sweep_narrows_levels():
    class Rounded(Base):
        claims: ClassVar = {"calls": "n", "draws": "0", "point": True}

        def sample(self, model, x, n, noise):
            for k in range(n, 0, -1):
                x = x - float(np.float32(1 / n)) * model(x, k / n)
            return x

    sampler = Rounded()
    assert "L6" in failed(sampler)
    sampler.precision = "float32"
    assert not failed(sampler)
    sampler.levels = lambda n: Base().levels(n + (n == 50))
    assert "L2" in failed(sampler)
    sampler.sweep = range(1, 50)
    assert not failed(sampler, ["L2"])


# --- arrays -----------------------------------------------------------------------------------------------------------


def test_arrays_of_numpy_are_not_touched_and_others_are_named():
    x = np.ones((2, 1))
    assert arrays.into("numpy", x) is x and arrays.out(x) is x
    with pytest.raises(ValueError, match="arrays must be one of numpy, torch, cupy, got 'jax'"):
        arrays.into("jax", x)

    class Jax(Base):
        arrays: ClassVar = "jax"
        sample = silent

    with pytest.raises((Fault, ValueError)):
        recorder.run(Jax(), 2, beds.Gaussian(), x)
    assert "arrays must be one of" in failed(Jax(), ["L0"])["L0"].detail


# --- the page ---------------------------------------------------------------------------------------------------------


class Reader(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.links, self.text, self.svgs = [], [], [], 0

    def handle_starttag(self, tag, attrs):
        self.svgs += tag == "svg"
        if tag not in ("meta", "br", "img", "path", "use", "rect", "circle", "line"):
            self.open.append(tag)
        self.links += [value for key, value in attrs if key in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag):
        if tag in self.open:
            while self.open and self.open.pop() != tag:
                pass

    def handle_data(self, data):
        self.text.append(data)


def test_the_page_needs_nothing_but_itself_and_says_where_it_is_wrong(stranger):
    mine = [command.find(stranger, {"factor": f})[0] for f in (1.0, 1.3)]
    for sampler, name in zip(mine, ("right", "wrong <b>")):
        sampler.name = name
    noisy, tokens = ours("euler-ancestral")[0], catalogue.Tokens()
    samplers = [*mine, noisy, ours("ddim")[0], tokens]
    verdicts = [*run_laws(samplers, ["L0", "L5", "L6"], ["float64"])]
    page = laws_page.render(samplers, verdicts)
    reader = Reader()
    reader.feed(page)
    assert not [link for link in reader.links if not link.startswith("#")], reader.links
    text = " ".join(reader.text)
    assert "wrong <b>" in text and "<b>" not in re.sub("<title>.*?</title>", "", page).replace("&lt;b&gt;", "")
    assert reader.svgs >= 6  # levels of four, errors of one, weights of one, strings of one
    assert "order 1, as claimed" in text and "Weight of the start" in text and "Frequency of every string" in text
    assert page.index("wrong &lt;b&gt;</h2>") < page.index("right</h2>")  # what fails comes first
    assert laws_page.render([tokens], []) == laws_page.render([tokens], [])


def test_the_page_pictures_the_number_of_steps_that_failed_and_says_why_laws_are_skipped(stranger):
    sampler = command.find(stranger, {"factor": 1.2, "from_n": 20})[0]
    page = laws_page.render([sampler], [*run_laws(sampler, ["L3", "L6"], ["float64"])])
    assert "Level given to the model and that of the state, 20 steps" in page
    assert "Skipped: L3 (not claimed: leak)" in page and "[data of one point: every state exact]</li>" in page


def test_a_page_of_what_is_broken_outright():
    def sample(self, model, x, n, noise):
        return x * np.nan if model(x, 1.0) is not None else x

    sampler = type(
        "Nan", (Base,), {"sample": sample, "claims": {"calls": "n", "draws": "0", "point": True, "order": 1}}
    )()
    sampler.on = lambda sigmas: sampler
    page = laws_page.render([sampler], [*run_laws(sampler, dtypes=["float64"])])
    assert "not finite" in page
    sampler.on = lambda sigmas: {}[0]
    page = laws_page.render([sampler], [])
    assert "No errors of L21: KeyError" in page and "No errors of L22: KeyError" in page
    sampler.on = lambda sigmas: sampler
    sampler.levels = lambda n: 1 / 0
    assert "ZeroDivisionError" in laws_page.render([sampler], [*run_laws(sampler, dtypes=["float64"])])
