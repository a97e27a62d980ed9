"""Strategies give what they say; and on whatever they draw, our samplers and filters keep their laws."""

import re
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from hypothesis import event, example, given, note, settings
from hypothesis import strategies as st

from minigen.laws import LAWS, Ours, Transform, beds, run_laws
from minigen.laws import strategies as some
from minigen.laws.protocol import Level
from minigen.laws.strategies import Chain, Filter, Grid, Table, Walk
from minigen.laws.token_laws import slow_filter
from minigen.laws.verdict import judge
from minigen.maths.schedules import Schedule
from minigen.samplers import autoregressive, choose

# --- descriptions -----------------------------------------------------------------------------------------------------


@given(some.walks(flat=True))
def test_a_walk_falls_from_noise_to_data(walk):
    a = walk.chain.alpha_bar
    assert a.shape == (walk.chain.T + 1,) and a[0] == 1 and (np.diff(a) < 0).all() and a[-1] >= 0
    assert (a[-1] == 0) == walk.chain.flat
    levels = np.array(walk.levels())
    assert len(levels) == walk.grid.n + 1 and levels[-1].tolist() == [0, 1, 0]
    assert (np.diff(levels[:, 0]) < 0).all() and levels[0, 0] == walk.grid.T == walk.chain.T
    np.testing.assert_allclose(levels[:, 1] ** 2 + levels[:, 2] ** 2, 1, atol=1e-12)


@given(st.integers(1, 60).flatmap(lambda T: some.grids(T, spacings=some.SPACINGS)))
def test_a_grid_has_n_times(grid):
    times = grid.times
    assert len(times) == grid.n and (np.diff(times) < 0).all() and times[-1] >= 1 and times[0] <= grid.T
    assert grid.spacing == "leading" or times[0] == grid.T


def test_it_shrinks_to_the_smallest_case():
    """A rounding fault in a float step, found as the smallest chain and grid that show it."""
    smallest = []

    @settings(max_examples=2000, database=None, derandomize=True)
    @given(st.integers(2, 100).flatmap(lambda T: some.grids(T, most=50, spacings=("even",))))
    def search(grid):
        if len(np.arange(grid.T, 0, -grid.T / grid.n)) != grid.n:
            smallest.append(grid)
            raise ValueError

    with pytest.raises(ValueError):
        search()
    last = smallest[-1]
    assert (last.T, last.n) == (17, 7) and repr(last) == "Grid(T=17, n=7, spacing='even', seed=0)"


@given(some.beds() | some.full_gaussians(1), st.integers(1, 99), st.integers(0, 99))
def test_the_guesses_of_a_bed_belong_together(bed, signal, seed):
    alpha = signal / 100
    x = np.random.default_rng(seed).standard_normal((5, 1))
    for level in (Level(1, alpha, (1 - alpha**2) ** 0.5), Level(1, 1.0, 3 * alpha), Level(1, alpha, 1 - alpha)):
        x_0, eps = bed(x, level, 0)
        np.testing.assert_allclose(level.alpha * x_0 + level.sigma * eps, x, atol=1e-9)


@given(some.strings() | some.pictures())
def test_a_table_of_strings_is_a_distribution_with_its_conditionals(bed):
    assert bed.table.sum() == pytest.approx(1, abs=1e-12) and bed.strings.shape == (bed.table.size, bed.length)
    possible = bed.strings[bed.table.reshape(-1) > 0]
    log_p = np.zeros(len(possible))
    for k in range(bed.length):
        rows = bed(possible[:, :k])
        log_p += np.take_along_axis(rows, possible[:, k : k + 1], 1)[:, 0] - np.log(np.exp(rows).sum(1))
    np.testing.assert_allclose(log_p, bed.log_p(possible), atol=1e-9)
    assert bed.holes or len(possible) == len(bed.strings)


@pytest.mark.parametrize("right", [True, False])
def test_the_example_of_the_strategies_is_a_test(right):
    """The docstring's example passes; with too much noise in it, it fails."""
    block = some.__doc__[some.__doc__.index("    from itertools") :]
    lines = [text.removeprefix("    ") for text in block.splitlines()]
    code = "\n".join(lines).replace("s_u * eps", "s_u * eps" if right else "1.01 * s_u * eps")
    scope: dict = {}
    exec(code, scope)
    test = settings(max_examples=10, database=None, derandomize=True)(scope["test_my_sampler"])
    if right:
        test()
    else:
        with pytest.raises(AssertionError, match="L6"):
            test()


def test_a_failing_test_of_ones_own_prints_the_smallest_case(tmp_path):
    """Hypothesis adds it to the exception; pytest shows what was added to an error, not to a `pytest.fail`."""
    block = some.__doc__[some.__doc__.index("    from itertools") :].replace("s_u * eps", "1.01 * s_u * eps")
    file = tmp_path / "test_walks.py"
    file.write_text(textwrap.dedent(block))
    run = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", tmp_path, file]
    said = subprocess.run(run, capture_output=True, text=True, cwd=tmp_path).stdout
    assert "fail  L6" in said
    assert re.search(r"test_my_sampler\(\s*E +walk=Walk\(chain=Chain\(", said), said


def test_hypothesis_is_imported_by_the_strategies_alone():
    said = "import sys, minigen.laws, minigen.laws.catalogue, minigen.laws.loss_catalogue; print('hypothesis' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", said], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"


# --- our filters on whatever is drawn ---------------------------------------------------------------------------------


@given(some.token_tables(), some.filters())
@example(Table(1, 2, 0, 0), Filter(100, None, 50))
@example(Table(1, 4, 10, 0, ties=True), Filter(0, 2, 1))
def test_filters_keep_what_a_slow_loop_keeps(table, chosen):
    """Where the sum of the kept comes as near to p as rounding, either is right: such tables are left out."""
    found = autoregressive.filtered(table.logits, **chosen.settings)
    e = np.exp(found - found.max(-1, keepdims=True))
    got = e / e.sum(-1, keepdims=True)
    for row, mine in zip(table.logits, got):
        want = np.array(slow_filter(row, **chosen.settings))
        if chosen.top_p is not None:
            plain = np.array(slow_filter(row, **{**chosen.settings, "top_p": None}))
            sums = np.cumsum(np.sort(plain)[::-1])
            if (abs(sums - chosen.top_p / 100) < 1e-9).any():
                event("a tie in p")
                continue
        spread = 1 + np.ptp(row[np.isfinite(row)]) / min(1, chosen.temperature / 100 or 1)
        np.testing.assert_allclose(mine, want, atol=64 * np.finfo(float).eps * spread)


# --- our samplers on whatever is drawn --------------------------------------------------------------------------------

CASES = [(name, eta) for name in choose.SAMPLERS for eta in (None, 0.4, 1.0) if eta is None or name in choose.WITH_ETA]
NO_SIGNAL = [name for name in choose.SAMPLERS if not name.startswith(("euler", "heun"))]
BY_NAME = {law.name: law for law in LAWS}
OF_WALKS = tuple(law for law in LAWS if "vp" in law.spaces and law.name not in ("L21", "L22", "L22b"))


class OnWalk(Ours):
    """A sampler of ours on a walk that was drawn; what it claims of the thousand levels of training is not claimed."""

    def __init__(self, known_as, walk, eta=None):
        super().__init__(known_as, eta=eta, schedule=Schedule(walk.chain.alpha_bar))
        self.walk, self.steps, self.sweep = walk, (walk.grid.n,), (walk.grid.n,)
        left_out = ("leak", "order", "order_uneven", "betas")
        self.claims = {name: value for name, value in self.claims.items() if name not in left_out}
        self.claims["times"] = (1, walk.chain.T)
        self.name = f"{self.name} on {walk}"

    def _schedule(self, n):
        if self.sigmas is not None or n != self.walk.grid.n:
            return super()._schedule(n)
        return Schedule(self.walk.alpha_bar, [0, *self.walk.grid.times[::-1]])


@st.composite
def cases(draw):
    """A sampler of ours on a walk that it can go, and a law that its claims ask for."""
    name, eta = draw(st.sampled_from(CASES))
    sampler = OnWalk(name, draw(some.walks(flat=name in NO_SIGNAL)), eta)
    law = draw(st.sampled_from([law for law in OF_WALKS if law.needs(sampler, np.float64) is None]))
    return sampler, law, draw(st.sampled_from(["float64", "float32"]))


def keeps(sampler, law, dtype):
    verdict = judge(law, sampler, np.dtype(dtype))
    note(str(verdict))
    event(law.name)
    assert verdict.status == "pass", verdict


@settings(max_examples=150)
@given(cases())
@example((OnWalk("ddim", Walk(Chain(17), Grid(17, 7))), BY_NAME["L2"], "float64"))
@example((OnWalk("dpmpp-2m", Walk(Chain(4), Grid(4, 4))), BY_NAME["L0"], "float64"))
@example((OnWalk("plms", Walk(Chain(3), Grid(3, 2))), BY_NAME["L6"], "float64"))
@example((OnWalk("heun", Walk(Chain(971, "cosine"), Grid(971, 2, "drawn"))), BY_NAME["L17"], "float64"))
def test_every_law_on_every_walk(case):
    keeps(*case)


@pytest.mark.slow
@settings(max_examples=10_000)
@given(cases())
def test_ten_thousand_walks(case):
    keeps(*case)


@given(st.sampled_from(CASES), some.walks(), some.beds())
def test_noise_and_data_of_any_kind_stay_finite(case, walk, bed):
    from minigen.laws.recorder import Seeded, run

    name, eta = case
    sampler = OnWalk(name, walk, eta)
    x = Seeded(1, 3)((3, 1))
    paths = [run(sampler, walk.grid.n, bed, x, noise=Seeded(2, 3), kind=kind) for kind in ("eps", "x_0")]
    assert np.isfinite(paths[0].result).all()
    size = 1 + max(float(np.abs(call.x).max()) for call in paths[0].calls)
    low = min(level[2] / level[1] for level in walk.levels()[:-1])
    allowed = 1e-12 * walk.grid.n * size / walk.alpha_bar[-1] ** 0.5 / min(low, 1) ** 2
    np.testing.assert_allclose(paths[0].result, paths[1].result, atol=allowed)


@given(some.full_gaussians())
def test_a_transform_is_told_by_its_function(bed):
    """The covariance of a full Gaussian is one: its guess of x_0 at no noise is x itself."""
    x = np.linspace(-1, 1, 4).reshape(2, 2)
    np.testing.assert_allclose(bed(x, Level(0, 1.0, 1e-9), 0)[0], x, atol=1e-6)
    still = Transform("rescale", lambda guided, conditional, phi: guided)
    assert [v.law for v in run_laws(still) if v.failed] == ["L12b", "L12b"]
    assert isinstance(beds.Strings(2, 2).table, np.ndarray)
