"""The part of the list of findings on orders: samplers that gain less from more steps than they should."""

from .finding import Finding

ORDERS = (
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
