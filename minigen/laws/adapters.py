r"""Samplers in the protocol's form: ours by name, and any function ``step`` from one level to the next."""

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minigen.maths import schedules
from minigen.maths.schedules import Schedule
from minigen.samplers import choose

from .protocol import SPACES, Level

BETAS = np.linspace(1e-4, 0.02, 1000)  # Ho et al. 2020, section 4: written out, not taken from the samplers' schedule
RULES = {
    "ancestral": "ancestral",
    "ancestral-large": "ancestral-large",
    "ancestral-learned": "ancestral",
    "ddim": "ddim",
    "plms": "plms",
    "dpmpp-2m": "dpmpp-2m",
    "dpmpp-2s": "dpmpp-2s",
    "dpmpp-3m": "dpmpp-3m",
    "euler": "ddim",
    "heun": "heun",
    "euler-ancestral": "ddim",
}
ORDERS = {
    "ddim": 1,
    "euler": 1,
    "euler-ancestral": 1,
    "plms": 2,
    "heun": 2,
    "dpmpp-2m": 2,
    "dpmpp-2s": 2,
    "dpmpp-3m": 3,
}
ETAS: dict[str, Any] = {
    "ancestral": 1.0,
    "ancestral-large": "large",
    "ancestral-learned": 1.0,
    "ddim": 0.0,
    "euler": 0.0,
}


class _Rng:
    """The random generator of our samplers, which draws the protocol's noise."""

    def __init__(self, noise: Callable[..., Any]) -> None:
        self.standard_normal = noise


class Ours:
    """A sampler of `minigen.samplers` on a spacing of a schedule, with the claims that its file makes.

    ``sample`` is the function to test; if None, the one of this name.
    """

    space = "vp"

    def __init__(
        self,
        known_as: str,
        *,
        eta: float | None = None,
        spacing: str = "uniform",
        schedule: Schedule | None = None,
        sample: Callable[..., Any] | None = None,
        sigmas: Any = None,
    ) -> None:
        self.known_as, self.spacing, self.given, self.sigmas = known_as, spacing, eta, sigmas
        self.function = choose.find(known_as, eta) if sample is None else sample
        self.training = schedules.linear(1000) if schedule is None else schedule
        marks = [f"eta={eta:g}"] if eta is not None else []
        marks += [spacing] if spacing != "uniform" else []
        flat = self.training.alpha_bar[-1] == 0
        marks += ["no signal at T"] if flat else []
        self.name = known_as + (f" ({', '.join(marks)})" if marks else "")
        self.kinds = ("x_0", "v") if flat else ("eps", "x_0", "v", "score")
        self.steps = (2, 3, 4, 7, 20) if flat else (1, 2, 3, 7, 20)
        self.claims = self._claims(eta)

    def _claims(self, eta: float | None) -> dict[str, Any]:
        if eta is None:
            eta = 1.0 if self.known_as == "euler-ancestral" else ETAS.get(self.known_as)
        noisy, flat = eta is not None and eta != 0, self.training.alpha_bar[-1] == 0
        rule, exact = RULES[self.known_as], eta != "large"
        claims: dict[str, Any] = {
            "calls": "2n-1" if rule == "heun" else "n",
            "draws": "n-1" if noisy else "0",
            "leak": 0.01,
            "shared": True,
            "point": exact,
            "rule": rule,
            "clip": True,
        }
        if eta is not None:
            claims["eta"] = eta
        if self.spacing == "uniform" and not flat:  # for one spacing only: on() has its own levels
            claims |= {"weak_order": 1} if noisy else {"order": ORDERS[self.known_as]}
        if self.known_as == "plms" and "order" in claims:
            claims["order_uneven"] = 1
        if self.known_as.startswith("ancestral"):
            claims["score"] = "mean"
        if self.known_as == "ancestral-learned":
            claims["learned"] = True
        if self.spacing != "karras":
            claims["times"] = (1, self.training.T)
        if len(BETAS) == self.training.T and not flat and self.spacing != "karras":
            claims["betas"] = BETAS
        if flat and len(BETAS) == self.training.T and self.spacing != "karras":
            claims["published"] = self._without_signal
        return claims

    def _without_signal(self, n: int) -> Any:
        r"""Signal and noise (n, 2) of the chain of `BETAS`, with $\sqrt{\bar\alpha}$ shifted and scaled to be 0 at T
        and unchanged at 1 (Lin et al. 2023, 2305.08891, algorithm 1).
        """
        a = np.sqrt(np.cumprod(1 - BETAS))
        a = (a - a[-1]) * a[0] / (a[0] - a[-1])
        a = a[[int(time) - 1 for time, _, _ in self.levels(n)[:-1]]]
        return np.stack([a, np.sqrt(1 - a**2)], 1)

    def _schedule(self, n: int) -> Schedule:
        if self.sigmas is None:
            return schedules.spaced(self.training, n, self.spacing)
        return Schedule(np.concatenate([[1.0], 1 / (1 + np.asarray(self.sigmas)[::-1] ** 2)]))

    def levels(self, n: int) -> list[tuple[float, float, float]]:
        """Those of the spacing, from T down."""
        s = self._schedule(n)
        rows = zip(s.times, s.alpha_bar**0.5, (1 - s.alpha_bar) ** 0.5)
        return [(float(t), float(a), float(b)) for t, a, b in rows][::-1]

    def on(self, sigmas: Any) -> "Ours":
        """The same function on levels with these noise-to-signal ratios."""
        return Ours(self.known_as, eta=self.given, schedule=self.training, sample=self.function, sigmas=sigmas)

    def sample(self, model: Any, x: Any, n: int, noise: Any, kind: str = "eps", clip: Any = None, **given: Any) -> Any:
        """Our sampler with the protocol's model and noise."""

        def ours(x_t: Any, t: Any, cond: Any = None) -> Any:
            said = model(x_t, t)
            if self.known_as != "ancestral-learned" or isinstance(said, tuple):
                return said
            return said, 0 * x_t  # a share of 0: the small variance

        if "score" in given:
            score = given["score"]
            given["score"] = lambda x, t, cond: score(x, t)
        return self.function(ours, x, self._schedule(n), rng=_Rng(noise), kind=kind, clip=clip, **given)


def ours(pattern: str | None = None) -> list[Ours]:
    """All our samplers: each by name, with other etas, on every spacing, and without signal at T if it supports that.

    ``pattern`` keeps those of one name, such as "ddim".
    """
    flat = schedules.zero_terminal_snr(schedules.linear(1000))
    found: list[Ours] = []
    for name in choose.SAMPLERS:
        if pattern is not None and pattern != name:
            continue
        for eta in (None, 0.4, 1.0) if name == "ddim" else (None, 0.4) if name == "euler-ancestral" else (None,):
            found += [Ours(name, eta=eta, spacing=spacing) for spacing in schedules.SPACINGS]
            if not re.match("euler|heun", name):
                found.append(Ours(name, eta=eta, schedule=flat))
    return found


class FromStep:
    """Any function ``step(x, prediction, level, next_level, z)`` as a sampler; levels are `Level`, and z is None where
    nothing is drawn.

    ``levels(n)`` gives its levels. The model is called once per level; if ``noisy``, all steps but the last draw noise.
    """

    def __init__(
        self,
        step: Callable[..., Any],
        levels: Callable[[int], Sequence[tuple[float, float, float]]],
        *,
        space: str = "vp",
        kind: str | None = None,
        noisy: bool = False,
        name: str | None = None,
        claims: dict[str, Any] | None = None,
    ) -> None:
        self.step, self.levels, self.space, self.noisy = step, levels, space, noisy
        self.kinds = SPACES.get(space, ("eps",))[:1] if kind is None else (kind,)
        self.name = getattr(step, "__name__", "step") if name is None else name
        self.claims = {"calls": "n", "draws": "n-1" if noisy else "0", **(claims or {})}

    def sample(self, model: Any, x: Any, n: int, noise: Any) -> Any:
        """The loop."""
        rows = [
            Level(*(float(value) for value in row)) for row in self.levels(n)
        ]  # NumPy's numbers would widen float32
        for i, (top, bottom) in enumerate(zip(rows, rows[1:])):
            said = model(x, top.time)
            x = self.step(x, said, top, bottom, noise(x.shape) if self.noisy and i < n - 1 else None)
        return x
