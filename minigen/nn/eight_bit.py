r"""Trained linear layers in eight bits: rounded once, after training, for sampling.

Each column of the weights gets a scale, $W_{lj} \approx s_j q_{lj}$, and with ``"int8"`` and ``"fp8"`` so does each row
of the input, $x_l \approx t\, p_l$, anew in every call (vector-wise quantization: Dettmers et al. 2022, LLM.int8(),
2208.07339, section 3.1; fp8: Micikevicius et al. 2022, 2209.05433):

$$y_j = s_j \sum_l x_l\, q_{lj} + b_j \quad (\texttt{"weights"}) \qquad\qquad
  y_j = t\, s_j \sum_l p_l\, q_{lj} + b_j \quad (\texttt{"int8"}, \texttt{"fp8"})$$

q and p are int8, or e4m3 for ``"fp8"``. `kernels.eight_bit` rounds and multiplies. Everything else, convolutions and
attention included, stays as it was. The gradient with respect to x, which guidance needs, takes the rounding of x for
the identity (a straight-through estimator): $\bar x_l = \sum_j \bar y_j\, s_j q_{lj}$.
"""

from typing import Any, Literal, get_args

import autograd as ag
from kernels import eight_bit
from kernels.backend import array_module

from .layers import Linear
from .module import Module

Way = Literal["weights", "int8", "fp8"]
WAYS: tuple[str, ...] = get_args(Way)


def _check_way(way: str) -> None:
    if way not in WAYS:
        raise ValueError(f"way must be one of {', '.join(map(repr, WAYS))}, got {way!r}")


class EightBitLinear(Module):
    """What a trained `Linear` becomes: the same function, about, without parameters."""

    def __init__(self, layer: Linear, way: str):
        _check_way(way)
        self.way, self.form = way, "e4m3" if way == "fp8" else "int8"
        codes, self.scale = eight_bit.quantize(layer.w.data, axis=1, form=self.form)
        # Tensor cores take codes with the inner axis last; few rows of x (weights only) go along the rows of q.
        self.codes = codes if way == "weights" else array_module(codes).asfortranarray(codes)
        self.bias = None if layer.b is None else layer.b.data

    @property
    def w(self) -> Any:
        """The weights that the codes stand for, (c_in, c_out)."""
        return ag.Tensor(eight_bit.dequantize(self.codes, self.scale, axis=1, form=self.form))

    def forward(self, x: Any) -> Any:
        """(..., c_in) -> (..., c_out), float32."""
        return _product(x if isinstance(x, ag.Tensor) else ag.Tensor(x), layer=self)


@ag.operation(lambda g, y, x, layer: ag.matmul(g, layer.w.data.T), keep="")
def _product(x: Any, *, layer: EightBitLinear) -> Any:
    rows = x.reshape(-1, x.shape[-1])
    if layer.way == "weights":
        y = eight_bit.linear_weight_only(rows, layer.codes, layer.scale, layer.bias)
    else:
        p, t = eight_bit.quantize(rows, axis=0, form=layer.form)
        product = eight_bit.linear_int8 if layer.way == "int8" else eight_bit.linear_fp8
        y = product(p, t, layer.codes, layer.scale, layer.bias)
    return y.reshape(*x.shape[:-1], y.shape[1])


def in_eight_bits(module: Module, way: str) -> int:
    """Put every `Linear` below ``module`` in eight bits, in place; returns how many there were.

    A layer that is used in two places stays one. Raises ValueError for another ``way`` than ``WAYS``, and TypeError for
    weights that are not float32.
    """
    _check_way(way)
    made: dict[int, EightBitLinear] = {}

    def changed(layer: Any) -> Any:
        if type(layer) is not Linear:
            return layer
        if id(layer) not in made:
            made[id(layer)] = EightBitLinear(layer, way)
        return made[id(layer)]

    for _, part in list(module.named_modules()):
        for name, value in list(vars(part).items()):
            if type(value) is Linear:
                setattr(part, name, changed(value))
            elif type(value) in (list, tuple) and any(type(v) is Linear for v in value):
                setattr(part, name, type(value)(map(changed, value)))
    return len(made)
