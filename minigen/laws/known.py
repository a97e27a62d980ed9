"""The list of findings: who breaks which law, with what settings; `findings` measures them.

Numbers of issues and pull requests are those that describe the same, as far as a search found them.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from .adapters_diffusers import Diffusers
from .adapters_kdiffusion import KDiffusion
from .shrink import CHAIN

PLMS = {"skip_prk_steps": True, "set_alpha_to_one": True}
MULTI = ("DEISMultistepScheduler", "UniPCMultistepScheduler", "SASolverScheduler")


@dataclass(frozen=True)
class Finding:
    """A law broken by somebody's sampler."""

    title: str
    words: str
    sampler: str
    settings: dict[str, Any]
    law: str
    numbers: Iterable[int]
    also: tuple[str, ...] = ()  # other classes with the same settings, tried with the same numbers
    known: str = ""
    new: bool = False  # not in the first list of what these laws found
    dtype: str = "float32"  # of the states
    peer: str = "diffusers"
    minimal: dict[str, Any] = field(default_factory=dict)  # settings that stay while shrinking; a chain's length, too

    def make(self, **settings: Any) -> Any:
        """The sampler with settings."""
        made = {**self.minimal, **settings}
        if self.peer != "diffusers":
            return KDiffusion(self.sampler, **made)
        sampler = Diffusers(self.sampler, **made)
        sampler.chain = sampler.chain and CHAIN not in self.minimal
        return sampler


FINDINGS = (
    Finding(
        "Trailing spacing lists a timestep too many, and it is -1",
        "`np.arange(T, 0, -T / N)` has a float step, so for some N rounding lets in one more value. DDIM, DDPM and PNDM then read "
        "`alphas_cumprod[-1]`, the noisiest level, as the last one; `clip_sample=True` hides it.",
        "DDIMScheduler",
        {"timestep_spacing": "trailing"},
        "L2",
        range(1, 1001),
        (
            *("DDPMScheduler", "PNDMScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler"),
            *("EulerDiscreteScheduler", "HeunDiscreteScheduler", "LMSDiscreteScheduler"),
        ),
    ),
    Finding(
        "DDIM, trailing: the step does not lead to the next timestep",
        "The previous timestep is computed as `t - T // N`, not read off the list. Where N does not divide T the state is at another level than "
        "the model is told, and some noise is left at the end.",
        "DDIMScheduler",
        {"timestep_spacing": "trailing"},
        "L6",
        range(2, 51),
        ("CogVideoXDDIMScheduler", "DDIMParallelScheduler"),
        "diffusers #9261, #12633, #11347; PR 14357",
    ),
    Finding(
        "DDIM with eta = 1 is not DDPM, linspace",
        "The same cause, seen by another law: on the same timesteps, with the same noise, the path must be that of ancestral sampling.",
        "DDIMScheduler",
        {"timestep_spacing": "linspace", "eta": 1.0},
        "L10",
        range(2, 51),
        (),
        "diffusers #12633",
    ),
    Finding(
        "DDIM, linspace: the step does not lead to the next timestep",
        "The same cause; here no number of steps is right but N = T.",
        "DDIMScheduler",
        {"timestep_spacing": "linspace"},
        "L6",
        range(2, 51),
        ("CogVideoXDDIMScheduler", "DDIMParallelScheduler"),
        "diffusers #12633, #11347; PR 14357",
    ),
    Finding(
        "PNDM, linspace and trailing: the same, multiplied by the extrapolation",
        "PLMS extrapolates what the model said at levels that the state did not have.",
        "PNDMScheduler",
        {**PLMS, "timestep_spacing": "linspace"},
        "L6",
        range(2, 51),
    ),
    Finding(
        "PNDM, trailing",
        "As before; smaller, because here only the remainder of T / N is left out.",
        "PNDMScheduler",
        {**PLMS, "timestep_spacing": "trailing"},
        "L6",
        range(2, 51),
        minimal={**PLMS, "timestep_spacing": "trailing"},
    ),
    Finding(
        "PNDM: v_prediction is another path than epsilon",
        "The same guess, told as v instead of eps, leads elsewhere.",
        "PNDMScheduler",
        PLMS,
        "L11",
        range(2, 51),
        (),
        "diffusers #14816",
    ),
    Finding(
        "UniPC, solver_type='bh1': the result is NaN",
        "With `final_sigmas_type='zero'`, the default, B(h) = -h is infinite in the last step and is multiplied by 0.",
        "UniPCMultistepScheduler",
        {"solver_type": "bh1"},
        "L0",
        range(1, 21),
    ),
    Finding(
        "UniPC, predict_x0=False: the result is NaN",
        "As before: with `final_sigmas_type='zero'` the last step multiplies infinity by 0.",
        "UniPCMultistepScheduler",
        {"predict_x0": False},
        "L0",
        range(1, 21),
        new=True,
    ),
    Finding(
        "UniPC, lower_order_final=False: the result is NaN",
        "The last step, to a noise of 0, is then of second order, with an infinite log-SNR.",
        "UniPCMultistepScheduler",
        {"lower_order_final": False},
        "L0",
        range(1, 21),
    ),
    Finding(
        "linspace with N = T lists a timestep twice",
        "`linspace(0, T - 1, N + 1).round()[:-1]` has equal neighbours there. The step between them divides by 0: NaN, or an error in `linalg.solve`.",
        "DPMSolverMultistepScheduler",
        {"timestep_spacing": "linspace", "num_train_timesteps": 50},
        "L2",
        range(1, 51),
        MULTI,
        "diffusers PR 2969 (2023), #12771",
    ),
    Finding(
        "leading with N = T: all timesteps are 0",
        "`step_ratio = T // (N + 1)` is 0.",
        "DPMSolverMultistepScheduler",
        {"timestep_spacing": "leading", "num_train_timesteps": 50},
        "L2",
        range(1, 51),
        MULTI,
        "diffusers #10003 (DDIM's cousin)",
        minimal={"timestep_spacing": "leading"},
    ),
    Finding(
        "leading spacing starts far from noise",
        "The first timestep is (N - 1)(T // N), or N (T // (N + 1)), while the state handed in is pure noise. With 501 steps of 1000 more than a quarter of the signal "
        "is missing; 100 steps start lower than 50.",
        "DDIMScheduler",
        {"timestep_spacing": "leading"},
        "L3",
        range(2, 1001),
        ("DDPMScheduler", "DPMSolverMultistepScheduler", "EulerDiscreteScheduler"),
        "diffusers #2585, #5921, #13887 (by design)",
    ),
    Finding(
        "DDPM, variance_type='fixed_large_log': NaN",
        "The logarithm of the variance is multiplied in as if it were the standard deviation, and its root is taken.",
        "DDPMScheduler",
        {"variance_type": "fixed_large_log"},
        "L0",
        range(1, 21),
        (),
        "diffusers #14569",
    ),
    Finding(
        "FlowMatchEuler: the shift is applied twice",
        "Once to the ends of the range when the scheduler is made, and again in `set_timesteps`: the last noise is not shift / T / (1 + (shift - 1) / T). No test of accuracy sees it.",
        "FlowMatchEulerDiscreteScheduler",
        {"shift": 3.0},
        "L1",
        range(1, 51),
        ("FlowMatchHeunDiscreteScheduler", "FlowMatchLCMScheduler"),
        "diffusers #13243; PRs 13246, 13724, 13962",
    ),
    Finding(
        "FlowMatchEuler, shift_terminal with one step: the noise is NaN",
        "The range is stretched by dividing by 1 - sigma of the last step, which is the first one.",
        "FlowMatchEulerDiscreteScheduler",
        {"shift_terminal": 0.1},
        "L1",
        range(1, 21),
        (),
        "diffusers #14411; PR 14572",
    ),
    Finding(
        "EulerAncestral, cosine schedule, trailing: NaN",
        "In float32 `sigma_up` comes out larger than `sigma_to`, and the root of the difference is taken.",
        "EulerAncestralDiscreteScheduler",
        {"beta_schedule": "squaredcos_cap_v2", "timestep_spacing": "trailing"},
        "L0",
        range(1, 21),
        (),
        "diffusers #14213",
    ),
    Finding(
        "Karras, exponential and Lu levels: the time told is rounded, the noise is not",
        "The model is told the level of another state than the one that it is shown.",
        "DPMSolverMultistepScheduler",
        {"use_karras_sigmas": True},
        "L6",
        range(2, 31),
        ("UniPCMultistepScheduler", "DEISMultistepScheduler", "DPMSolverSinglestepScheduler"),
        "by design",
    ),
    Finding(
        "DDIM and DDPM, rescale_betas_zero_snr with epsilon: not finite",
        "Where no signal is left, eps says nothing about x_0; nothing stops one from asking.",
        "DDIMScheduler",
        {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"},
        "L0",
        range(1, 21),
        ("DDPMScheduler",),
        "diffusers #3851",
    ),
    Finding(
        "PNDM with its Runge-Kutta start cannot be set to fewer than 4 steps",
        "The shapes (2N,) and (8,) do not fit.",
        "PNDMScheduler",
        {"set_alpha_to_one": True},
        "L1",
        range(1, 21),
    ),
    Finding(
        "linspace with one step starts at timestep 0",
        "`linspace(0, T - 1, 1)` is [0]: pure noise is taken for a picture with almost none.",
        "DDIMScheduler",
        {"timestep_spacing": "linspace"},
        "L3",
        range(1, 21),
        (
            *("DDPMScheduler", "PNDMScheduler", "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler"),
            *("HeunDiscreteScheduler", "LMSDiscreteScheduler", "KDPM2DiscreteScheduler", "DPMSolverSDEScheduler"),
        ),
        new=True,
        minimal={"timestep_spacing": "linspace"},
    ),
    Finding(
        "Exponential levels with one step start at the lowest noise",
        "`linspace(log(sigma_min), log(sigma_max), 1)` is [log(sigma_min)], before the list is turned round.",
        "CosineDPMSolverMultistepScheduler",
        {},
        "L3",
        range(1, 21),
        new=True,
    ),
    Finding(
        "EDM, sigma_schedule='exponential': the same",
        "Both EDM schedulers share the line.",
        "EDMEulerScheduler",
        {"sigma_schedule": "exponential"},
        "L3",
        range(1, 21),
        ("EDMDPMSolverMultistepScheduler",),
        new=True,
    ),
    Finding(
        "UnCLIP cannot be set to one step",
        "`(T - 1) / (N - 1)`: ZeroDivisionError.",
        "UnCLIPScheduler",
        {},
        "L1",
        range(1, 21),
        new=True,
    ),
    Finding(
        "CogVideoX-DDIM takes eta and ignores it",
        "`step(eta=...)` is documented as the weight of added noise; no noise is drawn, and the path is that of eta = 0.",
        "CogVideoXDDIMScheduler",
        {"eta": 0.4},
        "L5",
        range(2, 21),
        new=True,
    ),
    Finding(
        "TCD: set_alpha_to_one is ignored",
        "The last step leads to timestep 0, whose noise (3 % of the schedule's) stays in the result, although the default config says that alpha is one there.",
        "TCDScheduler",
        {},
        "L6",
        range(1, 21),
        new=True,
    ),
    Finding(
        "Flow noises in multistep solvers: timesteps cut to whole numbers coincide",
        "`use_flow_sigmas` turns the timesteps into integers by cutting digits off. With a large shift and many steps the first ones are equal, the first step is "
        "then looked up as the second, and the walk runs off the end of the list.",
        "UniPCMultistepScheduler",
        {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 12.0},
        "L0",
        (20, 40, 60, 80, 84, 85, 90, 100, 120),
        ("DPMSolverMultistepScheduler", "DEISMultistepScheduler", "SASolverScheduler"),
        new=True,
        minimal={"use_flow_sigmas": True, "prediction_type": "flow_prediction"},
    ),
    Finding(
        "KDPM2Ancestral, linspace, two steps: a time told that the state does not have",
        "The middle of the ancestral step lies far below the last listed level, where no time is left to tell.",
        "KDPM2AncestralDiscreteScheduler",
        {"timestep_spacing": "linspace"},
        "L4",
        range(2, 21),
        minimal={"timestep_spacing": "linspace", CHAIN: 1000},
    ),
    Finding(
        "RePaint: a jump towards the noise uses the betas of one step too low",
        "`undo_step` goes from t to t + n with betas t ... t + n - 1; x_(t+1) given x_t has beta_(t+1). After a jump the state has less noise than the model is told.",
        "RePaintScheduler",
        {"jump_length": 3, "jump_n_sample": 2},
        "L4",
        range(5, 31),
        new=True,
        minimal={"jump_n_sample": 2},
    ),
    Finding(
        "DPM-Singlestep: an odd number of steps changes all later runs",
        "`set_timesteps` writes `lower_order_final=True` into the config where N does not divide into steps of the solver's order, and never takes it back: "
        "the next run, of an even number, is another one than that of a new scheduler.",
        "DPMSolverSinglestepScheduler",
        {"final_sigmas_type": "sigma_min"},
        "L5b",
        range(4, 13),
        new=True,
    ),
    Finding(
        "Flow noises in DEIS and SA-Solver: the last step leads nowhere",
        "`use_flow_sigmas` appends the last noise once more instead of 0, so what is returned still has it: with 3 steps a third of it is noise.",
        "DEISMultistepScheduler",
        {"use_flow_sigmas": True, "prediction_type": "flow_prediction"},
        "L1",
        range(2, 31),
        ("SASolverScheduler",),
        new=True,
        minimal={"use_flow_sigmas": True, "prediction_type": "flow_prediction"},
    ),
    Finding(
        "SDE-DPM-Solver of third order fails",
        "`algorithm_type='sde-dpmsolver'` has no branch for `solver_order=3`, which the config allows: UnboundLocalError in the third step.",
        "DPMSolverMultistepScheduler",
        {"algorithm_type": "sde-dpmsolver", "solver_order": 3, "final_sigmas_type": "sigma_min"},
        "L0",
        range(1, 21),
        new=True,
        minimal={"final_sigmas_type": "sigma_min"},
    ),
    Finding(
        "k-diffusion: DPM-Solver++(2M) and (3M) SDE fail with one step",
        "`h_last = h` is reached although `h` is only set where the next noise is not 0: UnboundLocalError.",
        "sample_dpmpp_2m_sde",
        {},
        "L0",
        range(1, 21),
        ("sample_dpmpp_3m_sde",),
        new=True,
        peer="kdiffusion",
    ),
    Finding(
        "k-diffusion: DPM2 ancestral drops the noise where sigma_down rounds to 0",
        "Noise is added only in the branch `sigma_down != 0`. In float32 a step by a factor of 4000 takes the other one: the state has no noise, and the model is told 0.02.",
        "sample_dpm_2_ancestral",
        {"sigmas": (80.0, 0.02)},
        "L6",
        (2,),
        new=True,
        peer="kdiffusion",
        minimal={"sigmas": (80.0, 0.02)},
    ),
    Finding(
        "DPM-Solver++(3M) is of second order",
        "The third-order multistep update multiplies `D2 = (D1_0 - D1_1) / (r0 + r1)` by the weight of h^2 times the second derivative, "
        "but a divided difference of second order is half of that derivative: `D2` lacks a factor 2, "
        "which the single-step scheduler has. The error falls as 1 / N^2; with `D2` doubled it falls as 1 / N^3. All algorithm types use this `D2`, and so do the EDM and the inverse scheduler.",
        "DPMSolverMultistepScheduler",
        {"solver_order": 3},
        "L21",
        (320,),
        new=True,
        dtype="float64",
        minimal={"solver_order": 3},
    ),
    Finding(
        "DEIS of third order gets worse with more steps",
        "The weights are differences of closed integrals in float32, divided by products of small differences of logarithms: with many steps no digit is left. With `sigmas` in float64 the error falls as it should.",
        "DEISMultistepScheduler",
        {"solver_order": 3},
        "L21",
        (320,),
        new=True,
        dtype="float64",
        minimal={"solver_order": 3},
    ),
    Finding(
        "SDE-DPM-Solver++ of third order is of first order",
        "The weight of `D2` ends in `- 0.5` and must end in `+ 0.5`: with short steps it is -1 instead of 0, and variances converge more slowly than with `solver_order=2`. With the other sign they are of order 2.",
        "DPMSolverMultistepScheduler",
        {"algorithm_type": "sde-dpmsolver++", "solver_order": 3},
        "L22b",
        (320,),
        new=True,
        dtype="float64",
        minimal={"algorithm_type": "sde-dpmsolver++", "solver_order": 3},
    ),
    Finding(
        "k-diffusion: DPM-Solver++(3M), without noise, is of second order",
        "The same: `d2` is multiplied by the weight of the second derivative, and is half of it.",
        "sample_dpmpp_3m_sde",
        {"eta": 0.0},
        "L21",
        (320,),
        new=True,
        peer="kdiffusion",
        dtype="float64",
        minimal={"eta": 0.0},
    ),
)
