r"""One step of Adam with decoupled weight decay (AdamW), in place on flat buffers.

$$m \leftarrow \beta_1 m + (1 - \beta_1) g, \qquad v \leftarrow \beta_2 v + (1 - \beta_2) g^2, \qquad
p \leftarrow (1 - \eta\lambda)\, p - \eta\, \frac{m / (1 - \beta_1^k)}{\sqrt{v / (1 - \beta_2^k)} + \epsilon}$$

at step $k = 1, 2, \dots$ with the learning rate $\eta$ and the decay $\lambda$ (Kingma & Ba 2015, arXiv 1412.6980,
Algorithm 1; Loshchilov & Hutter 2019, arXiv 1711.05101, Algorithm 2, with the schedule's factor inside $\eta$).
"""

import itertools
from typing import Any

from jaxtyping import Float

from ..backend import Array, array_module, is_cuda
from ..checks import check_float, check_same, check_shape, is_number, whole
from ..device import contiguous, device_of, in_order
from . import numpy_pieces, reference

__all__ = ["adam_step"]


def adam_step(
    p: Float[Array, " n"],
    g: Float[Array, " n"],
    m: Float[Array, " n"],
    v: Float[Array, " n"],
    *,
    step: int,
    lr: float,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
) -> None:
    r"""Update ``p``, ``m`` and ``v`` in place from the gradient ``g``; ``step`` counts from 1, ``m`` and ``v`` start at 0.

    $p \leftarrow (1 - \eta\lambda) p - a\, m / (\sqrt v + e)$ with $a = \eta \sqrt{1 - \beta_2^k} / (1 - \beta_1^k)$
    and $e = \epsilon \sqrt{1 - \beta_2^k}$: the same update with both corrections folded into two numbers. The buffers
    may be strided views but must not overlap.

    Raises TypeError for dtypes other than float32 or float64 and for a mix, ValueError for shapes, buffers that
    are read-only or overlap, and settings out of range; nothing has been changed then.
    """
    check_float("p", p, 1)
    check_same("p, g, m, v", p, g, m, v)
    for name, x in (("g", g), ("m", m), ("v", v)):
        check_shape(name, x, p.shape, "the shape of p")
    _check_settings(step, lr, beta1, beta2, eps, weight_decay)
    for name, x in (("p", p), ("m", m), ("v", v)):
        if not is_cuda(x) and not x.flags.writeable:
            raise ValueError(f"{name} is updated in place and must be writable, got a read-only array")
    _check_apart({"p": p, "g": g, "m": m, "v": v})
    if (device := device_of(p)) is not None and all(in_order(x) for x in (p, m, v)):
        from . import cuda

        g = contiguous(g)
        cuda.adam_step(
            device, p, g, m, v, step=step, lr=lr, beta1=beta1, beta2=beta2, eps=eps, weight_decay=weight_decay
        )
        return
    if is_cuda(p):
        reference.adam_step(p, g, m, v, step, lr, beta1, beta2, eps, weight_decay)
        return
    rate = lr * (1 - beta2**step) ** 0.5 / (1 - beta1**step)
    floor = eps * (1 - beta2**step) ** 0.5
    numpy_pieces.run(p, g, m, v, (beta1, beta2, rate, floor, 1 - lr * weight_decay))


def _check_apart(arrays: dict[str, Any]) -> None:
    """Raise ValueError if two of the buffers share memory, or two elements of one that is written."""
    xp = array_module(arrays["p"])
    for (a, x), (b, y) in itertools.combinations(arrays.items(), 2):
        if xp.may_share_memory(x, y) and xp.shares_memory(x, y):  # the second is slow with CuPy: it sorts addresses
            raise ValueError(f"p, g, m and v must not overlap, got {a} and {b} that share memory")
    for name, x in arrays.items():
        if name != "g" and x.size > 1 and abs(x.strides[0]) < x.itemsize:
            raise ValueError(f"{name} is updated in place and must not overlap itself, got strides {x.strides}")


def _check_settings(step: Any, lr: float, beta1: float, beta2: float, eps: float, weight_decay: float) -> None:
    whole("step", step, 1)
    for name, beta in (("beta1", beta1), ("beta2", beta2)):
        if not (is_number(beta) and 0 <= beta < 1):
            raise ValueError(f"{name} must be in [0, 1), got {beta!r}")
    for name, value in (("lr", lr), ("weight_decay", weight_decay)):
        if not (is_number(value) and 0 <= value < float("inf")):
            raise ValueError(f"{name} must be a finite number of at least 0, got {value!r}")
    if not (is_number(eps) and 0 < eps < float("inf")):
        raise ValueError(f"eps must be a finite number greater than 0, got {eps!r}")
