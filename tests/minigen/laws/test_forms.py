"""What is no walk of a continuous state: ours keep their laws, a stranger's ten lines do, and what is broken is said in
a verdict.
"""

import re
from typing import ClassVar

import cupy_on_cpu
import numpy as np
import pytest
from scipy.special import ndtr

from minigen.laws import FORMS, LAWS, Transform, catalogue, loss_catalogue, report, run_laws
from minigen.laws.protocol import SPACES
from minigen.laws.pytest import laws as one_test_a_law

DTYPES = ("float64", "float32")
OURS = [*catalogue.everything(), *loss_catalogue.everything()]


@pytest.mark.parametrize("subject", OURS, ids=lambda subject: subject.name)
def test_ours_keep_every_law(subject):
    verdicts = [*run_laws(subject)]
    assert verdicts and {v.status for v in verdicts} == {"pass"}, report(verdicts)


def test_every_form_has_a_law_and_every_law_a_form():
    spaces = {space for law in LAWS for space in law.spaces}
    assert spaces == {*SPACES, *FORMS}
    assert {subject.space for subject in OURS} == {*FORMS}
    assert len({law.name for law in LAWS}) == len(LAWS)
    assert all(form.call and form.members for form in FORMS.values())


# --- strangers --------------------------------------------------------------------------------------------------------


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


class MyTokens:
    space, claims = "discrete", {"settings": ("temperature",)}

    def sample(self, model, n, length, rng, temperature=1.0):
        tokens = np.zeros((n, 0), int)
        for _ in range(length):
            p = softmax(model(tokens) / temperature)
            token = (np.cumsum(p, 1) < rng.random((n, 1))).sum(1)
            tokens = np.concatenate([tokens, token[:, None]], 1)
        return tokens


test_a_stranger_s_tokens = one_test_a_law(MyTokens(), ["L26", "L28b"])


class MyInpainting:
    """Replacement under DDIM, on 1, 2, 3 and 7 levels of a chain of 1000."""

    space, claims = "inpainting", {"calls": "n", "noised": True, "exact": True, "point": True}
    abar: ClassVar = np.concatenate([[1.0], np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))])

    def levels(self, n):
        return [(t, self.abar[t] ** 0.5, (1 - self.abar[t]) ** 0.5) for t in (1000 * i // n for i in range(n, -1, -1))]

    def sample(self, model, x, known, mask, n, noise):
        rows = [tuple(map(float, row)) for row in self.levels(n)]
        _, a, s = rows[0]
        x = np.where(mask == 1, a * known + s * noise(x.shape), x)
        for (t, a, s), (_, b, r) in zip(rows, rows[1:]):
            eps = model(x, t)
            x = b / a * (x - s * eps) + r * eps
            x = np.where(mask == 1, known if r == 0 else b * known + r * noise(x.shape), x)
        return x


test_a_stranger_s_inpainting = one_test_a_law(MyInpainting(), dtype="float32")


@pytest.mark.parametrize("left", [0, 1e-4])
def test_what_an_inpainter_draws_after_its_last_call_may_be_thrown_away_but_not_stay(left):
    class Late(MyInpainting):
        claims: ClassVar = {"calls": "n"}

        def sample(self, model, x, known, mask, n, noise):
            return super().sample(model, x, known, mask, n, noise) + left * noise(x.shape)

    details = [v.detail for v in run_laws(Late(), dtypes="float64") if v.failed]
    assert ["stays in the result" in detail for detail in details] == [True] * (left > 0)


def my_slerp(a, b, t):
    theta = np.arccos(np.clip((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1), -1, 1))[:, None]
    return (np.sin((1 - t) * theta) * a + np.sin(t * theta) * b) / np.sin(theta)


def guarded_slerp(a, b, t):
    """The formula of the literature, and the straight line where it divides by 0."""
    u, v = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
    theta = np.arccos(np.clip((u * v).sum(1, keepdims=True), -1, 1))
    sine = np.where(np.sin(theta) < 1e-6, 1, np.sin(theta))
    arc = np.sin((1 - t) * theta) / sine * a + np.sin(t * theta) / sine * b
    return np.where(np.sin(theta) < 1e-6, (1 - t) * a + t * b, arc).astype(a.dtype)


def my_temperature(logits, temperature, top_k, top_p):
    x = logits / np.asarray(temperature, logits.dtype)
    x = x - np.log(np.exp(x - x.max(-1, keepdims=True)).sum(-1, keepdims=True)) - x.max(-1, keepdims=True)
    return x.astype(logits.dtype)


def my_top_p(logits, temperature, top_k, top_p):
    order = np.argsort(-logits, 1)
    p = np.take_along_axis(softmax(logits), order, 1)
    out = logits.copy()
    if top_p is not None:
        dropped = np.cumsum(p, 1) - p >= top_p
        dropped[:, 0] = False
        np.put_along_axis(out, order, np.where(dropped, -np.inf, np.take_along_axis(out, order, 1)), 1)
    return out


def failed(subject, dtypes=("float64",)):
    return {v.law: v for v in run_laws(subject, dtypes=dtypes) if v.failed}


def test_bare_functions():
    assert not failed(Transform("filter", my_top_p, claims={"settings": ("top_p",)}))
    verdict = failed(Transform("slerp", my_slerp))["L19"]
    assert "not finite" in verdict.detail  # it has no guard for equal points
    lerp = failed(Transform("slerp", lambda a, b, t: (1 - t) * a + t * b))["L19"]
    assert lerp.value > 1
    assert not failed(Transform("slerp", guarded_slerp), DTYPES)
    with pytest.raises(ValueError, match=r"space must be one of 'vp', .*, got 'slurp'"):
        failed(Transform("slurp", my_slerp))
    assert "norm" in failed(Transform("slerp", guarded_slerp, claims={"norms": "linear"}))["L19"].detail
    textbook = lambda c, u, s: u + s * (c - u)  # noqa: E731
    assert not failed(Transform("guidance", textbook), DTYPES)
    assert "not the first model" in failed(Transform("guidance", textbook, claims={"exact": True}))["L12"].detail
    logits = lambda c, u, s: np.where(np.isneginf(c) | np.isneginf(u), -np.inf, textbook(c, u, s)).astype(c.dtype)  # noqa: E731
    with np.errstate(invalid="ignore"):
        assert not failed(Transform("guidance", logits, claims={"logits": True}), DTYPES)
        assert failed(Transform("guidance", logits, claims={"logits": True, "exact": True}))
    assert not failed(Transform("guidance", lambda c, u, s: np.where(s == 1, c, u + s * (c - u)).astype(c.dtype)))
    told_wrong = failed(Transform("guidance", lambda c, u, w: (1 + w) * c - w * u))["L12"]
    assert "not the first model" in told_wrong.detail
    right = Transform("guidance", lambda c, u, w: (1 + w) * c - w * u, claims={"scale": "w"})
    assert not failed(right)
    far = Transform("quantizer", lambda z, c: ((z[:, None] - c) ** 2).sum(-1).argmin(1), claims={"far": True})
    assert not failed(far)
    assert not failed(Transform("ranking", lambda scores, k: np.argsort(-scores, 1, kind="stable")[:, :k]))
    assert failed(Transform("ranking", lambda scores, k: np.argsort(scores, 1, kind="stable")[:, ::-1][:, :k]))


class TokensOnGpu(MyTokens):
    """All that it is told and asks is CuPy's; the random numbers are NumPy's."""

    arrays = "cupy"
    claims: ClassVar = {"settings": (), "prefix": True, "log_p": True}

    def sample(self, model, n, length, rng, prefix=None):
        import cupy as cp

        tokens = cp.zeros((n, 0), int) if prefix is None else prefix
        while tokens.shape[1] < length:
            u = cp.asarray(rng.random((n, 1)))
            token = (cp.cumsum(softmax(model(tokens)), 1) < u).sum(1)
            tokens = cp.concatenate([tokens, token[:, None]], 1)
        return tokens

    def log_p(self, model, tokens):
        import cupy as cp

        rows = cp.arange(len(tokens))
        return sum(cp.log(softmax(model(tokens[:, :i]))[rows, tokens[:, i]]) for i in range(tokens.shape[1]))


class NetworkOnGpu:
    """Logits are those of a token's own number and of the sum of all before; the cache is that sum."""

    space, arrays, vocab, length = "sequence", "cupy", 3, 4
    claims: ClassVar = {"step": True, "sees": "all"}

    def logits(self, tokens):
        import cupy as cp

        before = cp.cumsum(tokens, 1) - tokens
        return cp.sin(before[..., None] + cp.arange(3.0))

    def step(self, new, cache):
        import cupy as cp

        total = (0 if cache is None else cache) + new.sum(1)
        return cp.sin(total[:, None] + cp.arange(3.0)), total


class PriorOnGpu:
    space, arrays, claims = "prior", "cupy", {}

    def sample(self, decode, n, d, noise):
        return decode(1.0 * noise((n, d)))


def test_forms_of_arrays_that_are_not_numpys():
    textbook = Transform("guidance", lambda c, u, s: u + float(s) * (c - u), arrays="cupy")
    with cupy_on_cpu.installed():
        for subject in (TokensOnGpu(), NetworkOnGpu(), PriorOnGpu(), textbook):
            assert not failed(subject), report(run_laws(subject))


def test_latents_of_a_prior():
    class Prior:
        space, claims = "prior", {}

        def __init__(self, scale=1.0):
            self.scale = scale

        def sample(self, decode, n, d, noise):
            return decode(self.scale * noise((n, d)))

    assert not failed(Prior())
    assert "not the draws" in failed(Prior(2.0))["L20b"].detail


def test_resampled_truncation_needs_no_quantiles():
    def again(z, c):
        rng, z = np.random.default_rng(0), z.copy()
        while (abs(z) > c).any():
            z = np.where(abs(z) > c, rng.standard_normal(z.shape).astype(z.dtype), z)
        return z

    assert not failed(Transform("truncation", again))
    assert "pile up" in failed(Transform("truncation", lambda z, c: np.clip(z, -c, c)))["L20c"].detail

    def reflected(z, c):
        while (abs(z) > c).any():
            z = np.where(z > c, 2 * c - z, np.where(z < -c, -2 * c - z, z))
        return z

    uniform = lambda z, c: c * (2 * ndtr(z) - 1) if c < 8 else z  # noqa: E731
    for other in (uniform, reflected):
        assert "not the truncated Gaussian" in failed(Transform("truncation", other))["L20c"].detail


def test_temperature_0_is_a_claim_and_large_logits_lose_digits():
    claims = {"settings": ("temperature",)}
    assert not failed(Transform("filter", my_temperature, claims=claims), DTYPES)
    with np.errstate(all="ignore"):
        assert (
            "temperature 0"
            in failed(Transform("filter", my_temperature, claims={**claims, "greedy": True}))["L25"].detail
        )


# --- broken ones ------------------------------------------------------------------------------------------------------


def tokens_by(change):
    return type("Broken", (MyTokens,), {"sample": change})()


@pytest.mark.parametrize(
    "subject, law, words",
    [
        (tokens_by(lambda self, model, n, length, rng, **_: np.zeros((n, length))), "L26", "returned float64"),
        (
            tokens_by(lambda self, model, n, length, rng, **_: np.zeros((n, length), int)),
            "L26",
            "never asked the model",
        ),
        (
            tokens_by(lambda self, model, n, length, rng, **_: model(np.zeros((n, 0), int)).argmax(1)),
            "L26",
            "returned int64",
        ),
        (tokens_by(lambda self, model, n, length, rng, **_: model(np.full((n, 1), 9))), "L26", "of a vocabulary of 3"),
        (
            tokens_by(lambda self, model, n, length, rng, **_: model(np.zeros((n, length), int))),
            "L26",
            "not a beginning of",
        ),
        (
            tokens_by(lambda self, model, n, length, rng, **_: [model(np.zeros((n, 0), int)) for _ in range(200)]),
            "L26",
            "more than",
        ),
        (tokens_by(lambda self, model, n, length, rng, **_: 1 / 0), "L26", "sample raised ZeroDivisionError"),
        (Transform("slerp", lambda a, b, t: a.astype(np.float16)), "L19", "returned float16"),
        (Transform("slerp", lambda a, b, t: np.add(a, 1, out=a)), "L19", "changed argument 1"),
        (Transform("quantizer", lambda z, c: np.zeros(len(z))), "L20a", "not integers from 0 to 0"),
        (Transform("quantizer", lambda z, c: np.full(len(z), 99)), "L20a", "from 99 to 99"),
        (Transform("hybrid loss", lambda *args: np.zeros(())), "L31", "must return the loss and its gradients"),
        (Transform("game", lambda real, fake: np.nan), "L35", "must return the losses"),
        (Transform("times", lambda n, T, rng: rng.random(n)), "L32", "not integers from 1 to 4"),
        (Transform("simple loss", lambda *args: np.array(np.nan)), "L29", "t = 1"),
        (Transform("filter", lambda logits, *a, **k: logits * np.nan), "L25", "NaN or +inf"),
        (Transform("ranking", lambda scores, k: scores[:, :k]), "L20d", "not integers from 0 to 8"),
        (Transform("importance", lambda p, u: (u, u)), "L32", "not integers from 1 to 5"),
        (Transform("truncation", lambda z, c: z[:1]), "L20c", "not (143, 7)"),
    ],
)
def test_a_broken_one_gets_a_verdict_that_names_its_fault(subject, law, words):
    assert words in failed(subject)[law].detail, failed(subject)


NETWORK = {"space": "sequence", "logits": len, "vocab": 2, "length": 3}


@pytest.mark.parametrize(
    "members, words",
    [
        ({"space": "slerp"}, "must have apply: apply"),
        ({"space": "discrete", "sample": None}, "must have sample: sample"),
        ({"space": "discrete", "claims": {"top_p": True}}, "unknown claim 'top_p': use settings, prefix"),
        ({"space": "rescale", "apply": len, "claims": {"exact": 1}}, "unknown claim 'exact': space 'rescale' has none"),
        ({"space": "discrete", "claims": None}, "claims must be a dict, got NoneType"),
        ({"space": "pull", "apply": len, "claims": {"kinds": ("velocity",)}}, "claim 'kinds' must be among eps"),
        ({"space": "ranking", "apply": len, "claims": {"most": 0}}, "claim 'most' must be a whole number"),
        (
            {"claims": {"settings": "top_p"}},
            "claim 'settings' must be a tuple of names among temperature, top_k, top_p",
        ),
        ({"claims": {"settings": ("topk",)}}, "claim 'settings' must be a tuple of names among temperature, top_k"),
        ({"claims": {"prefix": "yes"}}, "claim 'prefix' must be True or False, got 'yes'"),
        ({"space": "filter", "apply": len, "claims": {"ties": "last"}}, "claim 'ties' must be 'first', got 'last'"),
        ({"space": "slerp", "apply": len, "claims": {"norms": "any"}}, "claim 'norms' must be 'linear', got 'any'"),
        ({"space": "guidance", "apply": len, "claims": {"scale": "W"}}, "claim 'scale' must be 'w', got 'W'"),
        (
            {"space": "bound", "apply": len, "claims": {"variance": "some"}},
            "must be 'small', 'large' or 'learned', got 'some'",
        ),
        ({"space": "penalty", "apply": len, "claims": {"penalty": "gp"}}, "must be 'r1' or 'gradient', got 'gp'"),
        ({"space": "penalty", "apply": len, "claims": {"weight": "3"}}, "claim 'weight' must be a number above 0"),
        (
            {"space": "game", "apply": len, "claims": {"game": ("chess", "go")}},
            "claim 'game' must be a pair: one of minimax",
        ),
        ({**NETWORK, "claims": {"sees": "some"}}, "claim 'sees' must be 'all' or 'near', got 'some'"),
        ({**NETWORK, "claims": {"grid": 3}}, "claim 'grid' must be a pair (rows, columns), got 3"),
        ({**NETWORK, "claims": {"roundings": -1}}, "claim 'roundings' must be a number of at least 0, got -1"),
        ({"space": "inpainting", "levels": len, "claims": {"calls": "3n"}}, "claim 'calls' must be a function of n"),
    ],
)
def test_what_has_no_form_is_said_in_one_sentence(members, words):
    with pytest.raises((TypeError, ValueError), match=re.escape(words)):
        list(run_laws(type("Subject", (MyTokens,), members)()))


def test_a_claim_of_none_is_no_claim():
    nothing = MyTokens()
    nothing.claims = {"settings": None, "prefix": None}
    assert not failed(nothing)


def test_a_law_of_something_else_is_skipped_where_it_is_asked_for_by_name():
    (verdict,) = run_laws(MyTokens(), ["L6"], ["float64"])
    assert verdict.status == "skip" and verdict.detail == "a law of vp, sigma, flow, not of discrete"
    names = [v.law for v in run_laws(MyTokens(), dtypes=["float64"])]
    assert names == ["L24", "L26", "L26b", "L28b"]
    assert [v.status for v in run_laws(MyTokens(), ["L24", "L26b"], ["float64"])] == ["skip", "skip"]
