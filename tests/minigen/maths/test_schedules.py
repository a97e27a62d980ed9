import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minigen.maths import schedules
from minigen.maths.schedules import Schedule, uniform_times

ANY = st.one_of(
    st.integers(21, 300).map(schedules.linear),
    st.integers(1, 300).map(schedules.cosine),
)


@given(ANY)
def test_invariants(s):
    assert s.alpha_bar[0] == 1 and s.beta[0] == 0 and s.beta_tilde[0] == 0 and s.beta_tilde[1] == 0
    assert np.all(np.diff(s.alpha_bar) < 0) and s.alpha_bar[-1] >= 0
    assert np.all((s.beta[1:] > 0) & (s.beta[1:] < 1))
    assert np.all(s.beta_tilde <= s.beta)
    np.testing.assert_allclose(np.cumprod(s.alpha), s.alpha_bar, rtol=1e-12)
    assert not s.alpha_bar.flags.writeable


@given(ANY, st.data())
def test_respacing_keeps_the_marginals(s, data):
    steps = data.draw(st.integers(1, s.T))
    times = uniform_times(s.T, steps)
    r = s.respaced(times)
    assert steps == r.T and r.times[0] == 0 and r.times[-1] == s.T
    np.testing.assert_array_equal(r.alpha_bar, s.alpha_bar[r.times])
    twice = r.respaced(uniform_times(r.T, max(1, r.T // 2)))
    np.testing.assert_array_equal(twice.alpha_bar, s.alpha_bar[twice.times])


@given(st.integers(1, 2000), st.data())
def test_uniform_times_end_at_T_and_never_repeat(T, data):
    steps = data.draw(st.integers(1, T))
    times = uniform_times(T, steps)
    assert len(times) == steps and times[-1] == T and times[0] >= 1
    gaps = np.diff(np.concatenate([[0], times]))
    assert gaps.min() >= 1 and gaps.max() - gaps.min() <= 1


def test_ddpm_section_4_linear_schedule_at_1000():
    s = schedules.linear(1000)
    assert s.beta[1] == pytest.approx(1e-4) and s.beta[1000] == pytest.approx(0.02)
    assert s.alpha_bar[1000] == pytest.approx(4.036e-5, rel=1e-3)


def test_rescaled_linear_still_ends_in_noise():
    assert all(schedules.linear(T).alpha_bar[-1] < 1e-4 for T in (50, 100, 200, 4000))


def test_iddpm_eq17_cosine():
    s = schedules.cosine(1000)
    f = lambda t: np.cos((t / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2  # noqa: E731
    np.testing.assert_allclose(s.alpha_bar[:990], [f(t) / f(0) for t in range(990)], rtol=1e-9)
    assert s.beta[1000] == pytest.approx(0.999)
    assert s.alpha_bar[1000] == pytest.approx(2.4e-9, rel=0.05)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: schedules.linear(20), "more than 20"),
        (lambda: schedules.linear(0), "more than 20"),
        (lambda: schedules.cosine(0), "at least one"),
        (lambda: schedules.make("cosin", 10), "unknown schedule 'cosin'"),
        (lambda: uniform_times(10, 0), "from 1 to 10"),
        (lambda: uniform_times(10, 11), "from 1 to 10"),
        (lambda: schedules.cosine(10).respaced([3, 3]), "rise strictly"),
        (lambda: schedules.cosine(10).respaced([0, 3]), "rise strictly"),
        (lambda: schedules.cosine(10).respaced([3, 11]), "rise strictly"),
        (lambda: Schedule([0.9, 0.5]), "start at 1"),
        (lambda: Schedule([1.0, 0.5, 0.5]), "fall strictly"),
        (lambda: Schedule([1.0, np.nan]), "fall strictly"),
        (lambda: Schedule([1.0]), "at least two"),
    ],
)
def test_bad_schedules_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
