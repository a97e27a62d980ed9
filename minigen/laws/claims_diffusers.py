"""What diffusers' schedulers claim: by class and config, and only what these document."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from .adapters_diffusers import Diffusers


def claims(sampler: "Diffusers") -> dict[str, Any]:
    """What a scheduler's class and config document, as claims of the protocol."""
    said, known = sampler.said, sampler.known
    found = next((make(sampler) for name, make in CLAIMS.items() if name in known), None)
    if found is None:
        return {}
    found = {key: value for key, value in {"leak": 0.1, "calls": "n", **found}.items() if value is not None}
    if said.get("final_sigmas_type") == "sigma_min" or said.get("set_alpha_to_one") is False:
        found["rest"] = _lowest(sampler)
    if said.get("clip_sample") or said.get("thresholding") or said.get("clip_denoised"):
        for name in ("eta", "rule", "order", "weak_order"):
            found.pop(name, None)
    bent = any(said.get(f"use_{name}") for name in ("karras_sigmas", "exponential_sigmas", "beta_sigmas", "lu_lambdas"))
    spacing = said.get("timestep_spacing")
    whole = ("linspace", "trailing") if sampler.family == "vp" else ("trailing",)
    if sampler.family in ("vp", "scaled") and not bent:
        if spacing in whole or "UnCLIPScheduler" in known:
            found["times"] = (0, sampler.T - 1)
        betas = _betas(said)
        if betas is not None and (sampler.family == "vp" or spacing != "linspace"):
            found["betas"] = betas
    if bent or said.get("rescale_betas_zero_snr") or sampler.family == "flow":
        found.pop("order", None)
        found.pop("weak_order", None)
    others = ("use_dynamic_shifting", "shift_terminal", "invert_sigmas", "use_flow_sigmas")
    if "shift" in said and sampler.family == "flow" and not bent and not any(said.get(name) for name in others):
        found["published"] = lambda n: _shifted(n, sampler.T, float(said["shift"]))
    return found


def _lowest(sampler: "Diffusers") -> float:
    """The share of noise of the lowest level that is trained on, and a thousandth of it, for rounding."""
    if sampler.family == "flow":
        return 1.0  # of its own levels, so it depends on their number
    if sampler.family == "edm":
        sigma = float(sampler.said["sigma_min"])
        return 1.001 * sigma / float(np.hypot(1, sigma))
    return 1.001 * sampler.at(0)[1]


def _betas(said: Any) -> Any:
    """The published schedule in float64; None where the config has another."""
    T, low, high = int(said.get("num_train_timesteps", 1000)), said.get("beta_start"), said.get("beta_end")
    kind = said.get("beta_schedule")
    if said.get("trained_betas") is not None or said.get("rescale_betas_zero_snr") or said.get("snr_shift_scale"):
        return None
    if kind == "linear":
        return np.linspace(low, high, T)
    if kind == "scaled_linear":
        return np.linspace(low**0.5, high**0.5, T) ** 2
    if kind == "squaredcos_cap_v2":
        t = np.arange(T + 1) / T
        kept = np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2
        return np.minimum(1 - kept[1:] / kept[:-1], 0.999)
    return None


def _shifted(n: int, T: int, shift: float) -> Any:
    """Esser et al. 2024, 2403.03206, eq. 23: even times from 1 to 1 / T, moved towards the noise once."""
    t = np.linspace(1, 1 / T, n)
    sigma = shift * t / (1 + (shift - 1) * t)
    return np.stack([1 - sigma, sigma], 1)


def _ddim(s: "Diffusers") -> dict[str, Any]:
    eta = float(s.options.get("eta", s.said.get("eta", 0.0)))
    found: dict[str, Any] = {"point": True, "eta": eta, "rule": "ddim", "weak_order" if eta else "order": 1}
    if s._jumps():
        return {"calls": None, "point": True, "draws": lambda n: _jumped(s, n)}
    if eta or "RePaintScheduler" not in s.known:  # which draws at eta = 0 too, and does not use it: no claim
        found["draws"] = "n" if eta else "0"
    return found


def _jumped(s: "Diffusers", n: int) -> int:
    """Draws with jumps: one per step down, T // n per step up."""
    told = s.listed(n)
    up = sum(b > a for a, b in zip(told, told[1:]))
    return len(told) - up + up * (s.T // n)


def _ddpm(s: "Diffusers") -> dict[str, Any]:
    kind = str(s.said.get("variance_type"))
    large = kind.startswith("fixed_large")
    found = {"draws": lambda n: sum(t > 0 for t in s.listed(n)), "point": not large}
    found["eta"], found["rule"] = ("large", "ancestral-large") if large else (1.0, "ancestral")
    found["weak_order"] = 1
    if kind == "learned_range":
        found["learned"] = True
    return found


def _pndm(s: "Diffusers") -> dict[str, Any]:
    return {"calls": lambda n: len(s.listed(n)), "draws": "0", "point": True, "order": 2, "order_uneven": 1}


def _dpm(s: "Diffusers") -> dict[str, Any]:
    kind, order = str(s.said.get("algorithm_type", "dpmsolver++")), int(s.said.get("solver_order", 2))
    single = "DPMSolverSinglestepScheduler" in s.known
    zero = s.said.get("final_sigmas_type") == "zero"
    if kind.startswith("sde"):
        found: dict[str, Any] = {"draws": "n", "point": kind == "sde-dpmsolver++", "weak_order": min(order, 2)}
        if order == 1 and kind == "sde-dpmsolver++" and s.family == "vp":
            found |= {"eta": 1.0, "rule": "ancestral"}
        return found
    found = {"draws": "0", "point": True, "order": order}
    if order == 1 and s.family == "vp":
        found |= {"eta": 0.0, "rule": "ddim"}
    if (order, kind, s.said.get("solver_type"), zero, single) == (2, "dpmsolver++", "midpoint", True, False):
        found["rule"] = "dpmpp-2m"
    return found


def _solver(s: "Diffusers") -> dict[str, Any]:
    return {"draws": "0", "point": True, "order": int(s.said.get("solver_order", 2))}


def _lms(s: "Diffusers") -> dict[str, Any]:
    return {"draws": "0", "point": True, "order": min(int(s.options.get("order", 4)), 4)}


def _euler(s: "Diffusers") -> dict[str, Any]:
    if s.options.get("s_churn") or s.said.get("stochastic_sampling"):
        return {"point": True}
    return {"draws": "0", "point": True, "eta": 0.0, "rule": "ddim", "order": 1}


def _fixed(**found: Any) -> Callable[["Diffusers"], dict[str, Any]]:
    return lambda s: dict(found)


CLAIMS: dict[str, Callable[["Diffusers"], dict[str, Any]]] = {
    "DDIMScheduler": _ddim,
    "DDIMParallelScheduler": _ddim,
    "CogVideoXDDIMScheduler": _ddim,
    "RePaintScheduler": _ddim,
    "DDPMScheduler": _ddpm,
    "DDPMParallelScheduler": _ddpm,
    "UnCLIPScheduler": _ddpm,
    "PNDMScheduler": _pndm,
    "DPMSolverMultistepScheduler": _dpm,
    "DPMSolverSinglestepScheduler": _dpm,
    "EDMDPMSolverMultistepScheduler": _dpm,
    "DEISMultistepScheduler": _solver,
    "UniPCMultistepScheduler": _solver,
    "SASolverScheduler": _fixed(point=True),
    "EulerDiscreteScheduler": _euler,
    "EDMEulerScheduler": _euler,
    "FlowMatchEulerDiscreteScheduler": _euler,
    "EulerAncestralDiscreteScheduler": _fixed(draws="n", point=True, eta=1.0, rule="ancestral", weak_order=1),
    "HeunDiscreteScheduler": _fixed(calls="2n-1", draws="0", point=True, rule="heun", order=2),
    "FlowMatchHeunDiscreteScheduler": _fixed(calls="2n-1", draws="0", point=True, order=2),
    "LMSDiscreteScheduler": _lms,
    "KDPM2DiscreteScheduler": _fixed(calls="2n-1", draws="0", point=True, order=2),
    "KDPM2AncestralDiscreteScheduler": _fixed(calls="2n-1", point=True, weak_order=2),
    "DPMSolverSDEScheduler": _fixed(calls="2n-1", draws=lambda n: 2 * (n - 1), point=True),
    "LCMScheduler": _fixed(draws="n-1", point=True),
    "TCDScheduler": _fixed(draws="n-1", point=True),
    "CMStochasticIterativeScheduler": lambda s: {"point": True, "rest": _lowest(s)},  # Song et al. 2023, algorithm 1
    "IPNDMScheduler": _fixed(draws="0", point=True),
    "SCMScheduler": _fixed(point=True),
    "CosineDPMSolverMultistepScheduler": _fixed(draws="n", point=True),
    "FlowMatchLCMScheduler": _fixed(point=True),
    "LTXEulerAncestralRFScheduler": _fixed(point=True),
}
