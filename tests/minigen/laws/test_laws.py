"""The suite itself: a stranger's sampler, ours, bugs in levels, broken adapters, verdicts and reports."""

import json
import re
from itertools import count, pairwise
from typing import ClassVar

import numpy as np
import pytest

from minigen.laws import (
    LAWS,
    FromStep,
    Law,
    Level,
    Ours,
    as_json,
    beds,
    order_laws,
    reference,
    report,
    run_laws,
    schedule_laws,
)
from minigen.laws.pytest import laws as one_test_a_law
from minigen.laws.pytest import obeys
from minigen.laws.suite import choose, line
from minigen.laws.verdict import judge
from minigen.maths import schedules

BETAS = np.linspace(1e-4, 0.02, 1000)
ABAR = np.concatenate([[1.0], np.cumprod(1 - BETAS)])


class MyDDIM:
    space = "vp"
    claims: ClassVar = {"calls": "n", "draws": "0", "leak": 0.01, "point": True, "eta": 0.0, "rule": "ddim"}

    def levels(self, n):
        times = [1000 * i // n for i in range(n, -1, -1)]
        return [(t, ABAR[t] ** 0.5, (1 - ABAR[t]) ** 0.5) for t in times]

    def sample(self, model, x, n, noise):
        for (t, a, s), (_, a_u, s_u) in pairwise(self.levels(n)):
            eps = model(x, t)
            x = float(a_u / a) * (x - float(s) * eps) + float(s_u) * eps
        return x


test_a_stranger_s_sampler = one_test_a_law(MyDDIM())


def failed(sampler, names=None, dtypes=("float64",)):
    return {v.law: v for v in run_laws(sampler, names, dtypes) if v.failed}


def test_an_alpha_bar_that_is_looked_up_next_to_its_time_is_told_whose_it_is():
    class Next(MyDDIM):
        claims: ClassVar = {"betas": 1 - ABAR[1:] / ABAR[:-1], "times": (1, 1000)}

        def levels(self, n):
            return [(t, *level) for t, level in zip(range(1000, 1000 - n, -1), self.looked_up(n))] + [(0, 1.0, 0.0)]

        def looked_up(self, n):
            return [(ABAR[t - self.off] ** 0.5, (1 - ABAR[t - self.off]) ** 0.5) for t in range(1000, 1000 - n, -1)]

    right, wrong, between = Next(), Next(), Next()
    right.off, wrong.off, between.off = 0, 1, 1
    between.looked_up = lambda n: [(0.5**0.5, 0.5**0.5)] * n
    assert failed(right, ["L1"]) == {}
    assert failed(wrong, ["L1"])["L1"].detail == "time 1000 of 1 levels has the noise of the chain's time 999"
    assert "time 1000 of 1 levels is no level of the chain" in failed(between, ["L1"])["L1"].detail


# --- other spaces, a bare step ----------------------------------------------------------------------------------------


def euler_step(y, denoised, level, below, z):
    return y + (below.sigma - level.sigma) / level.sigma * (y - denoised)


def flow_step(x, velocity, level, below, z):
    return x + (below.sigma - level.sigma) * velocity


def noises(n):
    return [(s, 1.0, s) for s in [*np.geomspace(80, 0.02, n), 0.0]]


def straight(n):
    return [(s, 1 - s, s) for s in np.linspace(1, 0, n + 1)]


def test_a_bare_step_in_the_spaces_of_noise_and_of_flows():
    claims = {"point": True, "eta": 0.0, "rule": "ddim", "leak": 0.02}
    for step, levels, space, kind in (
        (euler_step, noises, "sigma", "x_0"),
        (flow_step, straight, "flow", "velocity"),
    ):
        sampler = FromStep(step, levels, space=space, kind=kind, claims=claims)
        if space == "flow":  # straight paths take other steps than DDIM's on Gaussian data
            sampler.claims = {"calls": "n", "draws": "0", "point": True, "leak": 0.02}
        verdicts = [*run_laws(sampler)]
        assert not [v for v in verdicts if v.failed], report(verdicts)


def test_a_bare_step_with_noise():
    def step(x, x_0, level, below, z):
        v = reference.ddim_variance(level, below, 1.0)
        eps = (x - level.alpha * x_0) / level.sigma
        x = below.alpha * x_0 + max(below.sigma**2 - v, 0.0) ** 0.5 * eps
        return x if z is None else x + v**0.5 * z

    claims = {"point": True, "eta": 1.0, "rule": "ancestral"}
    sampler = FromStep(step, MyDDIM().levels, kind="x_0", noisy=True, claims=claims)
    assert not failed(sampler)
    sampler.claims["eta"] = 0.4
    assert "L8" in failed(sampler)


# --- bugs in levels ---------------------------------------------------------------------------------------------------


class Spaced(MyDDIM):
    def __init__(self, spacing, **claims):
        self.spacing, self.claims = spacing, {**MyDDIM.claims, **claims}

    def levels(self, n):
        return [(t, ABAR[t] ** 0.5, (1 - ABAR[t]) ** 0.5) for t in self.spacing(n)]


def test_a_float_step_gives_a_level_too_many_at_61_levels():
    """Rounding in an "arange" with a float step: the smallest number of levels where it shows is named."""
    sampler = Spaced(lambda n: [*(int(t) for t in np.round(np.arange(1000, 0, -1000 / n))), 0])
    verdict = failed(sampler, ["L2"])["L2"]
    assert "61" in verdict.detail and verdict.value == 1


def test_leading_spacing_starts_with_signal_left():
    sampler = Spaced(lambda n: [1 + k * (1000 // n) for k in range(n - 1, -1, -1)] + [0], times=(1, 1000))
    broken = failed(sampler, ["L2", "L3"])
    assert set(broken) == {"L2", "L3"} and "start at" in broken["L2"].detail


def test_levels_off_the_chain_or_out_of_the_space():
    class Off(MyDDIM):
        claims: ClassVar = {"betas": BETAS}

        def levels(self, n):
            chain = np.concatenate([[1], np.cumprod(1 - BETAS.astype(np.float32))])
            return [(t, chain[t] ** 0.5, (1 - chain[t]) ** 0.5) for t in [1000 * i // n for i in range(n, -1, -1)]]

    assert "no level of the chain" in failed(Off(), ["L1"])["L1"].detail

    class Out(MyDDIM):
        def levels(self, n):
            return [(t, a, 1 - a) for t, a, _ in super().levels(n)]

    assert "not in space 'vp'" in failed(Out(), ["L1"])["L1"].detail

    class Up(MyDDIM):
        def levels(self, n):
            first, *rest = super().levels(n)
            return [*rest[:-1], first, rest[-1]]

    assert "does not fall" in failed(Up(), ["L1"])["L1"].detail


def test_a_previous_time_that_is_not_the_next_one_listed_is_seen_though_the_result_is_exact():
    """The result is the last guess of x_0, which is right: only the states in between show it."""

    class Skips(MyDDIM):
        def sample(self, model, x, n, noise):
            for t, a, s in self.levels(n)[:-1]:
                eps, u = model(x, t), max(t - 1000 // n, 0)
                x = float((ABAR[u] / a**2) ** 0.5) * (x - float(s) * eps) + float((1 - ABAR[u]) ** 0.5) * eps
            return x

    assert {"L4", "L6"} <= set(failed(Skips()))


# --- what is no sampler, or a broken one ------------------------------------------------------------------------------


def broken(change):
    class Broken(MyDDIM):
        sample = change

    return Broken()


def forever(self, model, x, n, noise):
    while True:
        model(x, 1000)


def raises(self, model, x, n, noise):
    raise ZeroDivisionError("by nothing")


def mutates(self, model, x, n, noise):
    model(x, 1000)
    x += 1
    return x.copy()


BROKEN = {
    "not an array|returned float64 ()": lambda self, model, x, n, noise: model(x, 1000)[0, 0],
    "returned int64": lambda self, model, x, n, noise: (model(x, 1000) * 0).astype(int),
    "never asked the model": lambda self, model, x, n, noise: x,
    "asked the model more than": forever,
    "raised ZeroDivisionError: by nothing": raises,
    "changed x, its input": mutates,
    "told time 3.5, which no noisy level has": lambda self, model, x, n, noise: model(x, 3.5),
    "drew noise of shape (1,)": lambda self, model, x, n, noise: model(x, 1000) + noise((1,)),
    "was shown float32": lambda self, model, x, n, noise: model(x.astype(np.float32), 1000),
    "is not finite": lambda self, model, x, n, noise: model(x, 1000) * np.nan,
    "raised TypeError": lambda self, model, x: x,
}


@pytest.mark.parametrize("words", BROKEN)
def test_a_broken_sampler_gets_a_verdict_that_names_its_fault(words):
    verdict = failed(broken(BROKEN[words]), ["L0"])["L0"]
    assert any(word in verdict.detail for word in words.split("|")), verdict.detail


@pytest.mark.parametrize("change", [lambda x: x * np.float64(1), lambda x: x.astype(np.float16)])
def test_states_of_another_dtype_are_one_fault_whatever_the_batch(change):
    def sample(self, model, x, n, noise):
        return MyDDIM.sample(self, lambda x, t: model(change(x), t), x, n, noise)

    found = failed(broken(sample), None, ["float32"])
    wider = change(np.float32([0])).dtype == np.float64
    assert list(found) == ["L0"] and ("a Python float does not" in found["L0"].detail) == wider


def test_levels_that_are_none():
    for levels, words in (
        (lambda self, n: [(0, 1, 0)], "gave 1 levels"),
        (lambda self, n: [(1, np.nan, 1), (0, 1, 0)], "not all finite"),
        (lambda self, n: 1 / 0, "raised ZeroDivisionError"),
        (lambda self, n: [(1, 2), (0, 1)], "a level is (time, alpha, sigma)"),
        (lambda self, n: ((1 / k, 0.6, 0.8) for k in count(1)), "gave more than 20000 levels: stopped"),
    ):
        sampler = type("Sampler", (MyDDIM,), {"levels": levels})()
        assert all(words in v.detail for v in failed(sampler).values()) and "L0" in failed(sampler)


@pytest.mark.parametrize(
    "members, words",
    [
        ({"space": "ve"}, "space must be one of 'vp', 'sigma', 'flow', 'discrete', .* got 've'"),
        ({"claims": {"ordr": 1}}, "unknown claim 'ordr'"),
        ({"claims": None}, "claims must be a dict"),
        ({"claims": {"calls": "3n"}}, "claim 'calls' must be a function of n or one of"),
        ({"claims": {"eta": 1.5}}, "claim 'eta' must be from 0 to 1"),
        ({"kinds": ("velocity",)}, "kinds in space 'vp' must be among"),
        ({"levels": None}, "must have a method levels"),
        ({"kinds": "velocity"}, "kinds must be a tuple of names, such as ('eps',), got 'velocity'"),
        ({"shape": 3}, "shape must be a tuple of whole numbers of at least 1, such as (3,), got 3"),
        ({"steps": 7}, "steps must be a tuple of whole numbers of at least 1, such as (1, 7), got 7"),
        ({"steps": ()}, "steps must be a tuple of whole numbers of at least 1"),
        ({"steps": (0, 2)}, "steps must be a tuple of whole numbers of at least 1"),
        ({"claims": {"calls": ["n"]}}, "claim 'calls' must be a function of n or one of"),
        ({"claims": {"clip": "eps"}}, "claim 'clip' must be True, False or 'x_0 only'"),
        ({"claims": {"order": 5}}, "claim 'order' must be 1, 2, 3 or 4, got 5"),
        ({"claims": {"rule": "adams"}}, "or a function rule(levels, x, ask, noise) -> x_0, got 'adams'"),
        ({"claims": {"order": 2}}, "claim 'order' needs a method on(sigmas)"),
    ],
)
def test_what_is_no_sampler_is_said_in_one_sentence(members, words):
    with pytest.raises((TypeError, ValueError), match=re.escape(words).replace(r"\.\*", ".*")):
        list(run_laws(type("Sampler", (MyDDIM,), members)()))


def test_other_noise_must_matter_where_it_is_claimed():
    sampler = MyDDIM()
    sampler.claims = {**MyDDIM.claims, "draws": "n-1"}
    assert {"L5", "L28"} <= set(failed(sampler))


def test_counts_are_checked_where_one_of_both_is_claimed():
    sampler = MyDDIM()
    for claims, words in (({"calls": "2n"}, "calls where"), ({"draws": "n"}, "draws where")):
        sampler.claims = claims
        assert words in failed(sampler, ["L5"])["L5"].detail


def test_a_leak_of_0_is_a_claim():
    sampler = MyDDIM()
    sampler.claims = {"leak": 0.0}
    assert "signal left" in failed(sampler, ["L3"])["L3"].detail


def test_a_time_told_in_single_precision_is_that_of_its_level():
    class Told(MyDDIM):
        def levels(self, n):
            return [(t / 1000, a, s) for t, a, s in super().levels(n)]

        def sample(self, model, x, n, noise):
            return super().sample(lambda x, t: model(x, self.off + np.full(len(x), t, np.float32)), x, n, noise)

    Told.off = np.float32(0)
    assert not failed(Told())
    Told.off = np.float32(1e-3 / 7)
    assert re.search(r"told time 1\.000142\d+, .*the nearest is 1\.0", failed(Told(), ["L0"])["L0"].detail)


def test_a_schedule_in_single_precision_is_in_its_space():
    class Rounded(MyDDIM):
        def levels(self, n):
            return [(t, np.float32(a), np.float32(s)) for t, a, s in super().levels(n)]

    sampler = Rounded()
    assert "L1" in failed(sampler, ["L1"])
    sampler.precision = "float32"
    assert not failed(sampler, ["L1"])


def euler(levels, x, ask, noise):
    """DDIM as Euler's method in x / a, by s / a."""
    for i, (top, bottom) in enumerate(pairwise(levels)):
        _, eps = ask(i, x)
        x = bottom.a * (x / top.a + (bottom.s / bottom.a - top.s / top.a) * eps)
    return x


def test_a_rule_may_be_a_function_of_one_s_own():
    sampler = MyDDIM()
    sampler.claims = {**MyDDIM.claims, "rule": euler}
    assert [v.status for v in run_laws(sampler, "L14")] == ["pass", "pass"]
    sampler.claims["rule"] = lambda levels, x, ask, noise: 0.999 * euler(levels, x, ask, noise)
    assert "weights of eps at result" in failed(sampler, "L14")["L14"].detail
    sampler.claims["rule"] = lambda levels, x, ask, noise: 1 // 0
    assert "claim 'rule' raised ZeroDivisionError: " in failed(sampler, "L14")["L14"].detail
    sampler.claims["rule"] = lambda levels, x, ask, noise: None
    assert "claim 'rule' gave NoneType, not an array of shape" in failed(sampler, "L14")["L14"].detail


def test_the_example_of_a_rule_is_one():
    example = "\n".join(
        text.removeprefix("    ") for text in reference.__doc__.partition("``rule``:\n\n")[2].splitlines()
    )
    scope: dict = {"pairwise": pairwise}
    exec(example, scope)
    sampler = MyDDIM()
    sampler.claims = {**MyDDIM.claims, "rule": scope["euler"]}
    assert not failed(sampler, "L14")


class Clipping(MyDDIM):
    """diffusers' convention: the guess is clipped, and the eps that goes with it is the model's."""

    def sample(self, model, x, n, noise, clip=None):
        for (t, a, s), (_, b, r) in pairwise(self.levels(n)):
            eps = model(x, t)
            x_0 = (x - float(s) * eps) / float(a)
            x_0 = x_0 if clip is None else clip(x_0) if callable(clip) else x_0.clip(-clip, clip)
            x = float(b) * x_0 + float(r) * eps
        return x


@pytest.mark.parametrize("claim", [True, "x_0 only"])
def test_a_clip_may_be_of_x_0_only(claim):
    sampler = Clipping()
    sampler.claims = {**MyDDIM.claims, "clip": claim}
    assert ("L17" in failed(sampler, ["L17"])) is (claim is True)


# --- verdicts, beds ---------------------------------------------------------------------------------------------------


def test_a_claim_not_made_is_skipped_and_shown():
    sampler = MyDDIM()
    sampler.claims = {}
    verdicts = {v.law: v for v in run_laws(sampler)}
    assert verdicts["L6"].status == "skip" and verdicts["L6"].detail == "not claimed: point"
    text = report([*verdicts.values()], whole=False)
    assert "L6 (not claimed: point)" in text and "skipped because" in text


def test_a_number_of_an_order_says_what_it_is():
    """The nearest to its limit may be an error or a slope."""
    slope, error = order_laws.of_order([2.0**-k for k in range(5)], 1, 0.1, "an even grid")
    for check, words in ((slope, "0.00e+00 short of slope 1, "), (error, "6.25e-02 error with 320 levels, 1.00e-01 ")):
        law = Law("L21", "", lambda sampler, dtype, check=check: iter([check]), lambda sampler, dtype: None)
        verdict = judge(law, MyDDIM(), np.dtype("float64"))
        assert words in line(verdict) and verdict.as_dict()["what"] in words
    (verdict,) = run_laws(MyDDIM(), "L6", "float64")
    assert " found, " in line(verdict)


def test_verdicts_that_come_one_by_one_are_counted():
    whole = [*run_laws(MyDDIM(), ["L2", "L6"])]
    assert report(run_laws(MyDDIM(), ["L2", "L6"])) == report(whole) and "3 pass, 0 fail" in report(whole)
    assert as_json(run_laws(MyDDIM(), ["L2", "L6"])) == as_json(whole)


def test_what_a_test_file_gets_wrong_is_said_when_it_is_read():
    for mistaken, words in (
        (lambda: one_test_a_law(MyDDIM), "MyDDIM is a class, give an instance: MyDDIM()"),
        (lambda: obeys(MyDDIM), "MyDDIM is a class, give an instance: MyDDIM()"),
        (lambda: one_test_a_law(3), "a sampler must have a method levels, got int without one"),
        (lambda: one_test_a_law(MyDDIM(), "L99"), "unknown law 'L99': use one of L0, L1"),
        (lambda: one_test_a_law(MyDDIM(), dtype="float16"), "dtype must be one of float64, float32, got 'float16'"),
        (lambda: one_test_a_law(MyDDIM(), dtype="double64"), "dtype must be one of float64, float32, got 'double64'"),
        (lambda: obeys(MyDDIM(), dtypes=["int8"]), "dtype must be one of float64, float32, got 'int8'"),
    ):
        with pytest.raises((TypeError, ValueError), match=re.escape(words)):
            mistaken()


test_one_law_of_a_stranger_s_sampler = one_test_a_law(MyDDIM(), "L6")


def test_one_law_may_be_named_alone():
    assert [law.name for law in choose("l6")] == ["L6"]
    obeys(MyDDIM(), "L6", "float32")
    assert {(v.law, v.dtype) for v in run_laws(MyDDIM(), "L6", "float32")} == {("L6", "float32")}


def test_json_has_every_verdict_and_no_nan():
    verdicts = [*run_laws(broken(BROKEN["is not finite"]))]
    told = json.loads(as_json(verdicts), parse_constant=lambda word: pytest.fail(word))
    assert told["counts"]["fail"] == sum(v.failed for v in verdicts) > 0 and len(told["verdicts"]) == len(verdicts)
    assert {"law", "sampler", "dtype", "status", "value", "limit", "detail"} <= set(told["verdicts"][0])


def test_laws_are_chosen_by_name_and_have_their_maths():
    assert [law.name for law in choose(["l8", "L2"])] == ["L8", "L2"] and choose() == LAWS
    with pytest.raises(ValueError, match="unknown law 'L99': use one of L0, L1"):
        choose(["L99"])
    assert all(len(law.maths) > 80 and "atches" in law.maths for law in LAWS)


def test_beds_know_what_they_say():
    """The pair gives the state back; a Gaussian is a mixture of one; quantiles go along the flow."""
    x = np.linspace(-2, 2, 7).reshape(-1, 1)
    for level in (Level(1, 0.8, 0.6), Level(1, 1.0, 3.0), Level(1, 0.4, 0.6)):
        one = beds.Mixture([1.0], [0.3], [0.5])
        for bed in (beds.Gaussian(0.3, 0.5), one, beds.Mixture(), beds.FullGaussian([0.3], [[0.25]]), beds.Gaussian()):
            x_0, eps = bed(x, level, 0)
            np.testing.assert_allclose(level.alpha * x_0 + level.sigma * eps, x, atol=1e-12)
        np.testing.assert_allclose(one(x, level, 0), beds.Gaussian(0.3, 0.5)(x, level, 0), atol=1e-12)
        np.testing.assert_allclose(beds.FullGaussian([0.3], [[0.25]])(x, level, 0), one(x, level, 0), atol=1e-12)
        for kind in ("eps", "x_0", "score", "velocity") if level.alpha != 0.8 else ("eps", "x_0", "score", "v"):
            if kind == "velocity" and level.alpha + level.sigma != 1:
                continue
            x_0, eps = beds.Mixture()(x, level, 0)
            back = beds.pair(kind, beds.said(kind, x_0, eps, level), x, level)
            np.testing.assert_allclose(back, (x_0, eps), atol=1e-12)


def test_an_order_that_is_not_reached_is_not_passed():
    sampler = Ours("ddim")
    sampler.claims = {**sampler.claims, "order": 2}
    verdict = failed(sampler, ["L21"])["L21"]
    assert 0.8 < verdict.value < 1.2 and "short of order 2" in verdict.detail
    assert " short of slope 2, 2.00e-01 allowed: slope 1.01 on an even grid, " in line(verdict)
    assert order_laws.log_sigmas(5)[[0, -1]] == pytest.approx([20, 0.02])
    assert schedule_laws.SWEEP >= 61 and schedules.linear(1000).alpha_bar == pytest.approx(ABAR)
