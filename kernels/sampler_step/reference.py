r"""The step by definition, one equation after the other, any float dtype, NumPy or CuPy."""

from typing import Any

from ..backend import Array, array_module


def step(
    x_t: Array,
    conditional: Array,
    unconditional: Array | None,
    scales: Array,
    plan: Any,
    clip: float | None,
    noise: Any,
) -> tuple[Array, Array]:
    r"""$(x_u, \hat x_0)$; ``scales`` (n,), ``noise`` may be None where its factor is 0."""
    xp = array_module(x_t)
    output = conditional
    if unconditional is not None:
        s = scales.reshape(-1, *(1,) * (x_t.ndim - 1))
        guided = unconditional + s * (conditional - unconditional)
        output = xp.where(s == 1, conditional, xp.where(s == 0, unconditional, guided))
    x_0, eps = _mix(plan.x_0, x_t, output), _mix(plan.eps, x_t, output)
    if clip is not None:
        x_0 = xp.clip(x_0, -clip, clip)
        eps = _mix(plan.again, x_t, x_0)
    x_u = _mix(plan.x_u[:2], x_0, eps)
    return (x_u + plan.x_u[2] * noise if plan.x_u[2] else x_u), x_0


def _mix(factors: tuple[float, float], a: Any, b: Any) -> Any:
    """The sum of both products; what has the factor 0 plays no part, not even if it is infinite."""
    products = [f * x for f, x in zip(factors, (a, b)) if f != 0]
    return sum(products[1:], products[0])
