"""The verdict: Student's interval against known values, and how often it is wrong."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from minigen.claims.ledger import NOT_SUPPORTED, SUPPORTED, UNDECIDED, holm, interval, judge


def test_the_interval_is_students():
    """Five values 1..5: mean 3, s^2 = 2.5, t_{0.975, 4} = 2.776445 (Student's table)."""
    mean, low, high = interval([1.0, 2.0, 3.0, 4.0, 5.0])
    half = 2.7764451 * np.sqrt(2.5 / 5)
    assert mean == 3.0
    assert low == pytest.approx(3 - half, abs=1e-6) and high == pytest.approx(3 + half, abs=1e-6)


def test_the_interval_covers_as_often_as_it_says():
    """Of 4,000 intervals of 5 normal values 95 % hold the true mean: within 5 standard errors, 0.0034 each."""
    draws = np.random.default_rng(0).normal(2.0, 3.0, (4000, 5))
    held = [low <= 2.0 <= high for _, low, high in (interval(list(row)) for row in draws)]
    assert abs(np.mean(held) - 0.95) < 5 * np.sqrt(0.95 * 0.05 / 4000)


def test_the_verdict_is_about_the_whole_interval():
    assert judge([1.0, 1.1, 0.9, 1.0, 1.05]).verdict == SUPPORTED
    assert judge([-1.0, -1.1, -0.9, -1.0, -1.05]).verdict == NOT_SUPPORTED
    assert judge([1.0, -1.0, 0.5, -0.2, 0.1]).verdict == UNDECIDED
    assert judge([1.0, 1.1, 0.9, 1.0, 1.05], smallest=2.0).verdict == NOT_SUPPORTED
    assert judge([1.0, 1.1, 0.9, 1.0, 1.05], smallest=1.0).verdict == UNDECIDED
    assert judge([0.0] * 5).verdict == UNDECIDED, "no difference at all does not support a difference"


def test_seeds_that_are_all_alike_decide_nothing():
    for effect in (0.0, 1.0, -1.0):
        assert judge([effect] * 5, smallest=0.5).said == "undecided (all seeds alike: the figure is at its end)"
    rounded = [0.3 - 0.2, 0.4 - 0.3, 0.5 - 0.4, 0.6 - 0.5, 0.7 - 0.6]
    assert len(set(rounded)) > 1 and judge(rounded, smallest=0.05).said == judge([0.1] * 5).said


@pytest.mark.parametrize("smallest", [0.0, 0.9, 2.0])
def test_p_is_that_of_the_t_test_and_goes_with_the_verdict(smallest: float):
    effects = [1.0, 1.1, 0.9, 1.0, 1.05]
    found = judge(effects, smallest)
    assert found.p == pytest.approx(stats.ttest_1samp(effects, smallest).pvalue, rel=1e-9)
    assert (found.verdict == UNDECIDED) == (found.p > 0.05)
    assert judge([0.5] * 5).p == 1


def test_holm_by_hand():
    """Four verdicts: 0.05 / 4 = 0.0125, 0.05 / 3 = 0.0167, 0.05 / 2 = 0.025; what comes after one that fails does not stand."""
    ps = [0.01, 0.04, 0.03, 0.005]
    found = [replace(judge([1.0, 1.1]), p=p) for p in ps]
    assert holm(found) == [True, False, False, True]
    assert holm(found[:2]) == [True, True] and holm([]) == [] and holm(found[1:3]) == [False, False]


@given(st.lists(st.integers(-50, 50), min_size=5, max_size=9), st.integers(1, 40))
def test_a_verdict_does_not_depend_on_the_unit_or_the_order(values: list[int], scale: int):
    effects = [float(v) for v in values]
    found = judge(effects)
    other = judge([scale * e for e in reversed(effects)])
    assert found.low <= found.mean <= found.high
    assert other.mean == pytest.approx(scale * found.mean)
    if abs(found.low) > 1e-9 and abs(found.high) > 1e-9:  # not on the edge, where rounding decides
        assert other.verdict == found.verdict


@pytest.mark.parametrize(("values", "what"), [([1.0], "at least 2 values, got 1"), ([1.0, float("nan")], "finite")])
def test_what_has_no_interval_is_refused(values: list[float], what: str):
    with pytest.raises(ValueError, match=what):
        interval(values)
