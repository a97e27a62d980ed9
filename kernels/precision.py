"""How exact products are: ``with precision("bf16"):`` rounds the factors of matrix products, convolutions and attention.

That is what tensor cores multiply: numbers of 8 bits ("bf16") or 11 ("tf32", which attention has not), whose products are
exact and are added up in float32. On a GPU, from Ampere on, the last rung on such cores is taken, where it takes the sizes;
on a CPU the factors are rounded first, which is no faster and shows what a GPU would compute. (There, attention also rounds
its probabilities and the gradients of its scores.) Sums, results, other operations and a model's weights stay float32.

By default, "float32", nothing is rounded. (Where large products take tensor cores even so, each factor is three numbers of
8 bits: matmul/3_split.cu.) float64 never is, nor are products that a model takes by ``@`` on plain arrays.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal, get_args

import numpy as np

from . import bfloat16
from .backend import is_cuda

Precision = Literal["float32", "tf32", "bf16"]
PRECISIONS = get_args(Precision)
_now: ContextVar[str] = ContextVar("what the factors of products are rounded to", default="float32")


@contextmanager
def precision(name: str) -> Iterator[None]:
    """Inside, factors are rounded to ``name``, one of ``PRECISIONS``: also for gradients, if these are taken inside.

    In this thread only. Raises ValueError for another name.
    """
    if name not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {name!r}")
    before = _now.set(name)
    try:
        yield
    finally:
        _now.reset(before)


def in_force() -> str:
    """What ``precision`` says here."""
    return _now.get()


def rounded(*factors: Any) -> tuple[Any, ...]:
    """These arrays, those of NumPy's float32 rounded as ``precision`` says."""
    name = _now.get()
    if name == "float32":
        return factors
    to = bfloat16.rounded if name == "bf16" else bfloat16.rounded_to_tf32
    return tuple(to(x) if x.dtype == np.float32 and not is_cuda(x) else x for x in factors)
