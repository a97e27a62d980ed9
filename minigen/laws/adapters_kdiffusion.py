r"""k-diffusion's sampling functions in the protocol's form, with the claims that their papers make.

    KDiffusion("sample_dpmpp_2m")
    KDiffusion("sample_euler_ancestral", eta=0.4)

States are $x_0 + \sigma \epsilon$; the model is given $\sigma$ and predicts $\hat x_0$. Levels are those of Karras et
al. 2022, eq. 5, from 20 to 0.02, rounded to float32, so that a run in float32 gives the model exactly these. Noise is
passed as ``noise_sampler``. What Euler, Heun and DPM-2 draw at a churn of 0 is left to torch's generator: if it
mattered, two equal runs would differ.
"""

import ast
import importlib
import importlib.util
import inspect
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np

MISSING = (
    "k-diffusion's samplers need torch and k-diffusion: pip install torch torchdiffeq torchsde tqdm; "
    "pip install --no-deps k-diffusion (otherwise pip downgrades NumPy to 1.26, which minigen cannot use)"
)
HIGH, LOW, RHO = 20.0, 0.02, 7.0


def _claims(name: str, eta: float, order: int) -> dict[str, Any]:
    noisy = {"draws": "n-1" if eta else "0"}
    drawn = {"draws": "n-1"} if eta else {}  # these draw at eta = 0 too, and do not use it: no claim
    first, second = ({"weak_order" if eta else "order": k} for k in (1, 2))
    found: dict[str, dict[str, Any]] = {
        "euler": {"draws": "0", "eta": 0.0, "rule": "ddim", "order": 1},
        "euler_ancestral": {**drawn, "eta": float(eta), "rule": "ddim", **first},
        "heun": {"calls": "2n-1", "draws": "0", "rule": "heun", "order": 2},
        "dpm_2": {"calls": "2n-1", "draws": "0", "order": 2},
        "dpm_2_ancestral": {"calls": "2n-1", **drawn, **second},
        "lms": {"draws": "0", "order": min(order, 4)},
        "dpm_fast": {"calls": lambda n: 3 * n - 2},
        "dpmpp_2s_ancestral": {"calls": "2n-1", **drawn, **second},
        "dpmpp_sde": {"calls": "2n-1", **({"draws": lambda n: 2 * (n - 1)} if eta else {"order": 2})},
        "dpmpp_2m": {"draws": "0", "rule": "dpmpp-2m", "order": 2},
        "dpmpp_2m_sde": {**noisy, **second},
        "dpmpp_3m_sde": {**noisy, **(second if eta else {"order": 3})},
    }
    return found[name]


NAMES = (
    *("euler", "euler_ancestral", "heun", "dpm_2", "dpm_2_ancestral", "lms", "dpm_fast"),
    *("dpmpp_2s_ancestral", "dpmpp_sde", "dpmpp_2m", "dpmpp_2m_sde", "dpmpp_3m_sde"),
)


def module() -> Any:
    """``k_diffusion.sampling``; on its own if the dependencies of other parts of k-diffusion are missing."""
    try:
        return importlib.import_module("k_diffusion.sampling")
    except Exception as whole:
        found = importlib.util.find_spec("k_diffusion")
        if found is None or not found.submodule_search_locations:
            raise ImportError(f"{MISSING} ({whole})") from whole
        try:
            return _alone(list(found.submodule_search_locations))
        except Exception as error:
            raise ImportError(f"{MISSING} ({error})") from error


def _alone(folders: list[str]) -> Any:
    """The file sampling.py, with the one function of utils.py that it uses."""
    source = ast.parse((Path(folders[0]) / "utils.py").read_text(encoding="utf-8"))
    kept: list[ast.stmt] = [
        part for part in source.body if isinstance(part, ast.FunctionDef) and part.name == "append_dims"
    ]
    package, utils = types.ModuleType("k_diffusion"), types.ModuleType("k_diffusion.utils")
    package.__path__ = folders
    exec(compile(ast.Module(kept, []), "utils.py", "exec"), vars(utils))
    package.utils = utils  # type: ignore[attr-defined]
    names = {"k_diffusion": package, "k_diffusion.utils": utils}
    sys.modules.update(names)
    try:
        return importlib.import_module("k_diffusion.sampling")
    finally:
        for name in names:
            sys.modules.pop(name, None)


class KDiffusion:
    """A function of ``k_diffusion.sampling``; ``settings`` are its own, such as eta. ``sigmas`` replaces the levels."""

    arrays, space, kinds = "torch", "sigma", ("x_0",)
    steps: tuple[int, ...] = (1, 2, 3, 7, 20)

    def __init__(self, function: str, sigmas: Any = None, **settings: Any) -> None:
        short = function.removeprefix("sample_")
        if short == "dpm_adaptive":
            raise ValueError("sample_dpm_adaptive chooses its own steps, from the whole batch: no law here is about it")
        if short not in NAMES:
            raise ValueError(f"k-diffusion has no sampler {function!r}: use one of {', '.join(NAMES)}")
        self.short, self.settings, self.sigmas = short, settings, sigmas
        self.function = getattr(module(), f"sample_{short}")
        allowed = inspect.signature(self.function).parameters
        for key in settings:
            if key not in allowed:
                raise ValueError(f"sample_{short} has no setting {key!r}: use one of {', '.join([*allowed][3:])}")
        marks = ", ".join(f"{key}={value}" for key, value in settings.items())
        self.name = f"sample_{short}" + (f"({marks})" if marks else "")
        eta = settings.get("eta", allowed["eta"].default if "eta" in allowed else 0.0)
        plain = not settings.get("s_churn") and settings.get("s_noise", 1.0) == 1.0
        self.claims = (
            {"leak": 0.05, "calls": "n", "point": True, **_claims(short, eta, settings.get("order", 4))}
            if plain
            else {}
        )
        if short == "dpm_fast":
            self.claims["rest"] = LOW  # it takes sigma_min, and ends there
            self.precision = "float32"  # of the sigmas that it computes

    def _sigmas(self, n: int) -> Any:
        if self.sigmas is not None:
            if len(self.sigmas) != n:
                raise ValueError(f"{len(self.sigmas)} noises were given for {n} levels")
            return np.asarray(self.sigmas, np.float64)
        if self.short == "dpm_fast":
            found = np.exp(np.linspace(np.log(HIGH), np.log(LOW), n + 1))
        else:
            share = np.linspace(0, 1, n)
            found = (HIGH ** (1 / RHO) + share * (LOW ** (1 / RHO) - HIGH ** (1 / RHO))) ** RHO
        return found.astype(np.float32).astype(np.float64)

    def levels(self, n: int) -> list[tuple[float, float, float]]:
        """Those of Karras et al. and the data; for DPM-Solver-fast, even steps in the logarithm, which end at 0.02."""
        sigmas = [*map(float, self._sigmas(n))]
        if self.short != "dpm_fast":
            return [*((s, 1.0, s) for s in sigmas), (0.0, 1.0, 0.0)]
        return [(s, 1.0, s) for s in sigmas]

    def at(self, time: float) -> tuple[float, float]:
        """The time is the noise itself."""
        return 1.0, time

    def on(self, sigmas: Any) -> "KDiffusion":
        """The same function on these noises."""
        return KDiffusion(self.short, sigmas, **self.settings)

    def __getattribute__(self, name: str) -> Any:
        if name == "on" and self.short == "dpm_fast":
            raise AttributeError(name)  # it chooses its own levels
        return super().__getattribute__(name)

    def sample(self, model: Any, x: Any, n: int, noise: Any) -> Any:
        """The function, with the protocol's model and noise."""
        import torch

        settings = dict(self.settings)
        if "noise_sampler" in inspect.signature(self.function).parameters:
            settings["noise_sampler"] = lambda *_: noise(tuple(x.shape))
        sigmas = self._sigmas(n)
        if self.short == "dpm_fast":  # three calls per step, one in the last
            return self.function(model, x, float(sigmas[-1]), float(sigmas[0]), 3 * n - 2, disable=True, **settings)
        levels = torch.from_numpy(np.append(sigmas, 0.0)).to(x.dtype)
        return self.function(model, x, levels, disable=True, **settings)
