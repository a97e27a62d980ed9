r"""diffusers' schedulers in the protocol's form: any class, any config, with the claims that class and config document.

    Diffusers("DDIMScheduler", timestep_spacing="trailing", eta=0.4)

Levels are computed from what a scheduler publishes: the time given to the model is looked up in ``alphas_cumprod``, is
the noise itself (flow matching) or its logarithm (EDM). What the scheduler carries between calls does not matter, only
what it shows the model. That is converted to the protocol's space by the family's formula for the time *given to the
model*, never by the scheduler's own state, so a state at another level than that is detected. Noise is injected where
schedulers draw it, ``randn_tensor`` or ``noise_sampler``.

| family | recognised by its | time given | space |
|---|---|---|---|
| variance preserving | ``alphas_cumprod`` | t | vp |
| scaled: carries $x_0 + \sigma\epsilon$, shows it divided by $\sqrt{1 + \sigma^2}$ | the same, and ``scale_model_input`` | t, possibly fractional | vp |
| flow | ``use_flow_sigmas``, or ``sigmas`` and no ``alphas_cumprod`` | $T \sigma$ | flow |
| EDM, consistency models | ``sigma_data`` | $\frac14 \ln \sigma$ and the like | sigma |
| angles: iPNDM, sCM | class | the angle whose sine is $\sigma$ (iPNDM: in units of $\pi / 2$) | vp |

The beds' data go beyond 1, so ``clip_sample`` and ``clip_denoised`` are off unless set; with them, or with
thresholding, only claims about data within 1 are made, and L15, which always shifts the data, detects the clip.
Schedulers compute in float32 whatever the states' dtype, so rounding here is that of float32.
"""

import contextlib
import importlib
import inspect
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from .claims_diffusers import claims

NAMES = {"eps": "epsilon", "x_0": "sample", "v": "v_prediction", "velocity": "flow_prediction"}
MISSING = "diffusers' schedulers need torch and diffusers: pip install torch diffusers"
OFF = {"clip_sample": False, "clip_denoised": False}
GRID: dict[str, dict[str, Any]] = {  # straight down, unless set otherwise
    "RePaintScheduler": {"jump_length": 1, "jump_n_sample": 1},
    "SCMScheduler": {"intermediate_timesteps": None},
}
OTHERS = {  # whose networks no bed here can replace
    "HeliosScheduler": "works in stages of rising resolution",
    "HeliosDMDScheduler": "works in stages of rising resolution",
    "PiflowScheduler": "asks its network for a policy, not for a guess",
    "ConsistencyDecoderScheduler": "has times of its own, for two steps only",
}
ANGLES = {"IPNDMScheduler": math.pi / 2, "SCMScheduler": 1.0}
TWO = ("HeunDiscreteScheduler", "FlowMatchHeunDiscreteScheduler")
MIDDLE = ("KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler", "DPMSolverSDEScheduler")
KINDS = {
    "EulerAncestralDiscreteScheduler": ("eps", "v"),
    "KDPM2DiscreteScheduler": ("eps", "v"),
    "KDPM2AncestralDiscreteScheduler": ("eps", "v"),
    "DPMSolverSDEScheduler": ("eps", "v"),
    "PNDMScheduler": ("eps", "v"),
    "UnCLIPScheduler": ("eps", "x_0"),
    "RePaintScheduler": ("eps",),
    "IPNDMScheduler": ("v",),
    "SCMScheduler": ("v",),
}


def find(scheduler: Any) -> Any:
    """The class of this name in diffusers, or at this dotted path; ValueError or ImportError in one sentence."""
    if isinstance(scheduler, type):
        return scheduler
    try:
        import diffusers
        import torch  # noqa: F401
    except ImportError as error:
        raise ImportError(f"{MISSING} ({error})") from error
    module, _, name = str(scheduler).rpartition(".")
    found = getattr(importlib.import_module(module) if module else diffusers, name, None)
    if found is None and not module:  # some are not exported at the top level
        with contextlib.suppress(ImportError):
            found = getattr(importlib.import_module("diffusers.schedulers"), name, None)
    if not (isinstance(found, type) and hasattr(found, "step")):
        raise ValueError(f"diffusers has no scheduler {scheduler!r}")
    return found


def _parameters(function: Any) -> dict[str, Any]:
    return dict(list(inspect.signature(function).parameters.items())[1:])


@contextlib.contextmanager
def injected(scheduler: Any, noise: Callable[[Any], Any]) -> Iterator[None]:
    """Let a scheduler draw from ``noise(shape)``, and put things back afterwards."""

    def draw(shape: Any, *_: Any, dtype: Any = None, **__: Any) -> Any:
        drawn = noise(tuple(shape))
        return drawn if dtype is None else drawn.to(dtype)

    import sys

    modules = {sys.modules[kind.__module__] for kind in type(scheduler).__mro__ if kind.__module__ in sys.modules}
    before = [(module, module.randn_tensor) for module in modules if hasattr(module, "randn_tensor")]
    for module, _ in before:
        setattr(module, "randn_tensor", draw)  # noqa: B010
    if hasattr(scheduler, "noise_sampler"):
        scheduler.noise_sampler = lambda *_: noise(None)
    try:
        yield
    finally:
        for module, own in before:
            setattr(module, "randn_tensor", own)  # noqa: B010
        if hasattr(scheduler, "noise_sampler"):
            scheduler.noise_sampler = None


class Diffusers:
    """A scheduler of diffusers. ``config`` may also hold arguments of its ``step``, such as eta, and of ``set_timesteps``."""

    arrays = "torch"
    precision = "float32"
    _has_on = False

    def __init__(self, scheduler: Any, **config: Any) -> None:
        self.cls = find(scheduler)
        self.given = dict(config)
        made, stepped = _parameters(self.cls.__init__), _parameters(self.cls.step)
        placed = _parameters(self.cls.set_timesteps)
        self.known = {kind.__name__ for kind in self.cls.__mro__}
        self.config = {key: value for key, value in OFF.items() if key in made}
        self.options: dict[str, Any] = {}
        self.grid = next((dict(grid) for name, grid in GRID.items() if name in self.known), {})
        for key, value in config.items():
            home = self.config if key in made else self.options if key in stepped else self.grid
            if home is self.grid and key not in placed:
                allowed = [*made, *(k for k in stepped if k in ("eta", "order", "s_churn", "s_noise"))]
                raise ValueError(f"{self.cls.__name__} has no setting {key!r}: use one of {', '.join(allowed)}")
            home[key] = value
        self._stepped, self._made = stepped, made
        self.chain = "num_train_timesteps" in made  # whose length can be chosen
        known = {"self", "model_output", "timestep", "sample", *self.options}
        given = {"original_image", "mask", "old_pred_original_sample", "timestep_back"}
        unknown = [k for k, p in stepped.items() if p.default is p.empty and k not in known | given and p.kind < 2]
        if unknown:
            raise ValueError(f"{self.cls.__name__}.step needs {unknown[0]!r}, which this adapter cannot give")
        marks = [f"{key}={value}" for key, value in config.items() if key != "trained_betas"]
        self.name = self.cls.__name__ + (f"({', '.join(marks)})" if marks else "")
        self._schedulers: dict[str, Any] = {}
        self._rows: dict[int, Any] = {}
        for name, reason in OTHERS.items():
            if name in self.known:
                raise ValueError(f"{name} {reason}: no law here is about it")
        first = self.scheduler()
        self.said = first.config
        self.T = int(self.said.get("num_train_timesteps", 1000))
        self.family = self._family(first)
        self.space = {"flow": "flow", "edm": "sigma"}.get(self.family, "vp")
        self.kinds = self._kinds()
        self.claims = claims(self)
        chains = {"trained_betas", "timestep_spacing"} <= set(made) and "original_inference_steps" not in made
        plain = bool(self.said.get("skip_prk_steps", True))  # a Runge-Kutta start adds levels between its own
        orders = bool({"order", "weak_order"} & set(self.claims))
        self._has_on = chains and plain and self.family != "flow" and (orders or self._end()[1] == 0)
        if not self._has_on:  # its levels cannot be chosen, as the laws of order do
            self.claims = {key: value for key, value in self.claims.items() if "order" not in key}
        longest = min(130, self.T, int(self.said.get("original_inference_steps", 130)))
        if self.known & {"CMStochasticIterativeScheduler"}:
            longest = min(longest, self.T - 1)  # with T steps, the last noisy level is the one where it ends
        self.sweep: Any = range(2 if "MiniMaxH3Scheduler" in self.known else 1, longest + 1)
        steps = [n for n in (1, 2, 3, 7, 20) if n <= longest]
        self.steps: Any = tuple(n for n in steps if self._takes(n)) or tuple(steps)

    # --- what the scheduler publishes ---

    def scheduler(self, kind: str | None = None) -> Any:
        """The scheduler for a kind of prediction, one object for all runs; for None, one that is only used for its
        levels.
        """
        own = None if kind is None or kind == self.kinds[0] else NAMES[kind]
        key = own or ("" if kind is None else "own")
        if key not in self._schedulers:
            settings = self.config if own is None else {**self.config, "prediction_type": own}
            try:
                self._schedulers[key] = self.cls(**settings)
            except Exception as error:
                raise ValueError(f"{self.cls.__name__} cannot be made: {' '.join(str(error).split())}") from error
        return self._schedulers[key]

    def _family(self, scheduler: Any) -> str:
        if self.said.get("use_flow_sigmas"):
            return "flow"
        if self.known & set(ANGLES):
            return "angle"
        if "sigma_data" in self.said:
            return "edm"
        if hasattr(scheduler, "alphas_cumprod"):
            import torch

            scheduler.set_timesteps(min(4, self.T), **self.grid)
            one, t = torch.ones(1, 1), scheduler.timesteps[0]
            scaled = hasattr(scheduler, "scale_model_input") and bool(scheduler.scale_model_input(one, t) != one)
            return "scaled" if scaled else "vp"
        if hasattr(scheduler, "sigmas"):
            return "flow"
        raise ValueError(f"cannot tell the levels of {self.cls.__name__}: it has neither alphas_cumprod nor sigmas")

    def _kinds(self) -> tuple[str, ...]:
        own = {name: kind for kind, name in NAMES.items()}.get(self.said.get("prediction_type", ""))
        found = next((kinds for name, kinds in KINDS.items() if name in self.known), None)
        if self.family == "edm":
            return ("x_0",)  # from which `_ask` computes the network's own output by the paper's formulas
        if self.family == "flow":
            found = (
                ("velocity", "x_0") if "prediction_type" in self.said else ("velocity",)
            )  # eps divides by almost no signal
            own = own if self.said.get("prediction_type") in ("flow_prediction", "sample") else "velocity"
            if self.said.get("use_flow_sigmas") and self.said.get("prediction_type") == "epsilon":
                own = "eps"
        found = ("eps", "x_0", "v") if found is None else found
        if self.said.get("rescale_betas_zero_snr"):
            found = (own,) if own else found[:1]
        return found if own is None else (own, *(kind for kind in found if kind != own))

    def _takes(self, n: int) -> bool:
        """Whether it can be set to n steps; if not, the laws of levels report it."""
        try:
            self.levels(n)
        except Exception:
            return False
        return True

    def set(self, n: int, kind: str | None = None) -> Any:
        """The scheduler after ``set_timesteps(n)``."""
        scheduler = self.scheduler(kind)
        scheduler.set_timesteps(n, **self.grid)
        return scheduler

    def listed(self, n: int) -> list[float]:
        """The times that the scheduler lists for n steps, including calls between levels and second calls."""
        return [float(t) for t in self.set(n).timesteps]

    def levels(self, n: int) -> list[tuple[float, float, float]]:
        """The levels of the listed times, each once, and the level where the last step ends."""
        if n not in self._rows:
            self._rows[n] = self._levels(n)
        return self._rows[n]

    def _levels(self, n: int) -> list[tuple[float, float, float]]:
        told = self.listed(n)
        if self.known & set(MIDDLE):
            told = told[::2]
        elif self.known & set(TWO):
            told = [*told[:1], *told[1::2]]
        elif "PNDMScheduler" in self.known:
            told = [float(t) for t in self.scheduler()._timesteps[::-1]]
        elif self.known & {"SCMScheduler"}:
            told = told[:-1]
        elif self._jumps():
            told = sorted(set(told), reverse=True)
        return [*((t, *self.at(t)) for t in told), (-1.0, *self._end())]

    def _jumps(self) -> bool:
        return int(self.grid.get("jump_n_sample", 1)) > 1

    def _end(self) -> tuple[float, float]:
        scheduler = self.scheduler()
        if self.family in ("flow", "edm"):
            sigma = float(scheduler.sigmas[-1])
            return (1 - sigma if self.family == "flow" else 1.0), sigma
        if self.family == "angle" or self.known & {"LCMScheduler"}:
            return 1.0, 0.0
        if hasattr(scheduler, "sigmas"):
            sigma = float(scheduler.sigmas[-1])
            return 1 / math.hypot(1, sigma), sigma / math.hypot(1, sigma)
        final = float(getattr(scheduler, "final_alpha_cumprod", 1.0))
        return final**0.5, (1 - final) ** 0.5

    def at(self, time: float) -> tuple[float, float]:
        """Signal and noise at a time, by the family's formula; between times of a table as the config interpolates."""
        if self.family == "flow":
            return 1 - time / self.T, time / self.T
        if self.family == "angle":
            angle = time * next(unit for name, unit in ANGLES.items() if name in self.known)
            return math.cos(angle), math.sin(angle)
        if self.family == "edm":
            return 1.0, self._told_sigma(time)
        table = self.scheduler().alphas_cumprod.double().numpy()
        if time < 0:
            return 1.0, 0.0
        if time == round(time):
            abar = float(table[int(time)])  # IndexError for a time beyond the table
        else:
            abar = 1 / (1 + self._between(table, time) ** 2)
        return abar**0.5, (1 - abar) ** 0.5

    def _between(self, table: Any, time: float) -> float:
        low, high = (math.sqrt((1 - table[i]) / table[i]) for i in (math.floor(time), math.ceil(time)))
        share = time - math.floor(time)
        logs = any(self.said.get(f"use_{name}_sigmas") for name in ("karras", "exponential", "beta"))
        logs = logs or self.said.get("interpolation_type") == "log_linear"
        if not logs and self.known & set(MIDDLE):
            logs = True
        return (
            math.exp((1 - share) * math.log(low) + share * math.log(high)) if logs else (1 - share) * low + share * high
        )

    # --- EDM: Karras et al. 2022, table 1, and the same of consistency models, Song et al. 2023, appendix C ---

    def _told_sigma(self, time: float) -> float:
        if self.known & {"CosineDPMSolverMultistepScheduler"}:
            sigma = math.tan(time * math.pi / 2)
            near = min((float(s) for s in self.scheduler().sigmas), key=lambda s: abs(s - sigma))
            return near if abs(near - sigma) < 1e-3 * sigma else sigma  # a float32 near pi / 2 has lost some digits
        return math.exp(4 * time / (1000 if self.known & {"CMStochasticIterativeScheduler"} else 1))

    def _scales(self, sigma: float) -> tuple[float, float, float]:
        """c_in, c_skip, c_out."""
        data, least = float(self.said["sigma_data"]), 0.0
        size = math.hypot(sigma, data)
        if self.known & {"CMStochasticIterativeScheduler"}:
            least = float(self.said["sigma_min"])
        skip = data**2 / ((sigma - least) ** 2 + data**2)
        out = (sigma - least) * data / size
        return 1 / size, skip, -out if self.said.get("prediction_type") == "v_prediction" else out

    # --- the walk ---

    def sample(self, model: Any, x: Any, n: int, noise: Any, kind: str | None = None) -> Any:
        """The loop of diffusers' pipelines."""
        import torch

        scheduler = self.set(n, kind or self.kinds[0])
        scaled = hasattr(scheduler, "scale_model_input")
        before, shape = None, x.shape
        with torch.no_grad(), injected(scheduler, lambda given: noise(shape if given is None else given)):
            x, times = self._enter(scheduler, x), list(scheduler.timesteps)
            if self.known & {"SCMScheduler"}:
                times = times[:-1]
            for i, t in enumerate(times):
                if i and self._jumps() and t > times[i - 1]:  # as RePaint's pipeline does
                    x = scheduler.undo_step(x, times[i - 1])
                    continue
                shown = scheduler.scale_model_input(x, t) if scaled else x
                said = self._ask(model, shown, t)
                if "old_pred_original_sample" in self._stepped:
                    back = None if i == 0 else times[i - 1]
                    x, before = scheduler.step(said, before, t, back, x, **self.options)[:2]
                    continue
                x = scheduler.step(said, t, x, return_dict=False, **self.options, **self._extras(i, times, x))[0]
        return self._leave(scheduler, x)

    def _extras(self, i: int, times: Any, x: Any) -> dict[str, Any]:
        extras: dict[str, Any] = {}
        if "prev_timestep" in self._stepped:
            extras["prev_timestep"] = times[i + 1] if i + 1 < len(times) else None
        if "mask" in self._stepped:  # nothing is known, so the picture must not be read
            extras["original_image"], extras["mask"] = 0 * x + 99, 0 * x
        return extras

    def _enter(self, scheduler: Any, x: Any) -> Any:
        if self.family == "scaled":
            return x * math.hypot(1, float(scheduler.sigmas[0]))
        return x * float(self.said["sigma_data"]) if self.known & {"SCMScheduler"} else x

    def _leave(self, scheduler: Any, x: Any) -> Any:
        if self.family == "scaled":
            return x / math.hypot(1, float(scheduler.sigmas[-1]))
        return x / float(self.said["sigma_data"]) if self.known & {"SCMScheduler"} else x

    def _ask(self, model: Any, shown: Any, t: Any) -> Any:
        if self.family == "edm":
            into, skip, out = self._scales(self._told_sigma(float(t)))
            x = shown / into
            said = model(x, t)
            if self.known & {
                "CMStochasticIterativeScheduler"
            }:  # a consistency function leads to sigma_min, along the eps of the guess
                sigma = self._told_sigma(float(t))
                said = said + float(self.said["sigma_min"]) / sigma * (x - said)
            return (said - skip * x) / out
        if self.known & {"SCMScheduler"}:
            data = float(self.said["sigma_data"])
            return model(shown / data, t) * data
        said = model(shown, t)
        kept = self.said.get("variance_type")
        if isinstance(said, tuple) or kept == "learned_range":
            import torch

            said, share = said if isinstance(said, tuple) else (said, 0 * said)
            return torch.cat([said, 2 * share - 1], 1)
        return said

    def on(self, sigmas: Any) -> "Diffusers":
        """The same scheduler trained on a chain of just these levels, so that its steps lie on them whatever it rounds."""
        sigmas = np.asarray(sigmas, np.float64)
        abar = 1 / (1 + sigmas[::-1] ** 2)
        betas = 1 - abar / np.concatenate([[1.0], abar[:-1]])
        settings = {**self.given, "trained_betas": betas.tolist(), "num_train_timesteps": len(sigmas)}
        if "snr_shift_scale" in self._made:
            settings["snr_shift_scale"] = 1.0
        for name in ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas"):
            settings.pop(name, None)
        return Diffusers(self.cls, **{**settings, "timestep_spacing": "trailing"})

    def fresh(self) -> "Diffusers":
        """The same with a scheduler that has not run."""
        new = Diffusers(self.cls, **self.given)
        new.steps, new.sweep = self.steps, self.sweep
        return new

    def __getattribute__(self, name: str) -> Any:
        if name == "on" and not self._has_on:
            raise AttributeError(name)
        return super().__getattribute__(name)
