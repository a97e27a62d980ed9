"""Products and gradients as problems for ``python -m kernels.emulate``: inputs, expected results, allowed errors.

Each function takes the sizes and returns a function that runs one rung on a device and tells it what to expect.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from . import bfloat16
from .attention import cuda_backward as attention_cuda
from .attention import reference as attention_reference
from .companions import normals
from .compare import bound
from .conv2d import cuda as conv2d_cuda
from .conv2d import reference as conv2d_reference
from .matmul import cuda as matmul_cuda
from .matmul import reference as matmul_reference

Run = Callable[[Any, int], None]  # of a device and a rung


def _wide(*arrays: np.ndarray) -> list[np.ndarray]:
    return [a.astype(np.float64) for a in arrays]


def _near(*arrays: np.ndarray) -> list[np.ndarray]:
    return [bfloat16.rounded(np.ascontiguousarray(a)).astype(np.float64) for a in arrays]  # what rung 3 multiplies


def _product(a: np.ndarray, b: np.ndarray, bias: np.ndarray | None = None) -> dict[bool, tuple[np.ndarray, Any]]:
    """(a b + bias, the allowed error) for rungs 3 and 4 (True) and for the others (False)."""
    found = {}
    for near in (False, True):
        a64, b64 = _near(a, b) if near else _wide(a, b)
        sizes = matmul_reference.linear(abs(a64), abs(b64), None if bias is None else abs(bias))
        allowed = bound(a.shape[1] + 1, sizes, np.float32, 2 if near else 1)
        found[near] = matmul_reference.linear(a64, b64, bias), allowed
    return found


def _matmul(m: int, k: int, n: int, precision: str = "bf16") -> Run:
    x, w, b, g = normals((m, k), (k, n), (n,), (m, n))
    y, dx, dw = _product(x, w, b), _product(g, w.T), _product(x.T, g)

    def run(device: Any, rung: int) -> None:
        how: dict[str, Any] = {"rung": rung, "precision": precision}
        near = rung >= 3 and precision == "bf16"
        device.expect(matmul_cuda.linear(device, x, w, b, **how), *y[near], "y")
        device.expect(matmul_cuda.linear_grad_x(device, g, w, **how), *dx[near], "dx")
        device.expect(matmul_cuda.linear_grad_w(device, x, g, **how), *dw[near], "dw")

    return run


def _conv2d_grad(n: int, size: int, c_in: int, c_out: int, stride: int, precision: str = "bf16") -> Run:
    settings: dict[str, Any] = {"stride": (stride, stride), "padding": (1, 1)}
    out = (size - 1) // stride + 1
    x, w, g = normals((n, size, size, c_in), (3, 3, c_in, c_out), (n, out, out, c_out))

    def expected(near: bool) -> tuple[tuple[np.ndarray, Any], tuple[np.ndarray, Any]]:
        x64, w64, g64 = _near(x, w, g) if near else _wide(x, w, g)
        factor = 2 if near else 1
        want_x = conv2d_reference.conv2d_grad_x(g64, w64, x.shape, **settings)
        sizes_x = conv2d_reference.conv2d_grad_x(abs(g64), abs(w64), x.shape, **settings)
        want_w = conv2d_reference.conv2d_grad_w(x64, g64, w.shape, **settings)
        sizes_w = conv2d_reference.conv2d_grad_w(abs(x64), abs(g64), w.shape, **settings)
        allowed_x = bound(9 * c_out, sizes_x, np.float32, factor)
        return (want_x, allowed_x), (want_w, bound(n * out * out, sizes_w, np.float32, factor))

    both = {near: expected(near) for near in (False, True)}

    def run(device: Any, rung: int) -> None:
        want, how = both[rung >= 3 and precision == "bf16"], {**settings, "rung": rung, "precision": precision}
        device.expect(conv2d_cuda.conv2d_grad_x(device, g, w, x.shape, **how), *want[0], "dx")
        device.expect(conv2d_cuda.conv2d_grad_w(device, x, g, w.shape, **how), *want[1], "dw")

    return run


def _attention_grad(n: int, heads: int, t_q: int, t_k: int, d: int, precision: str = "bf16") -> Run:
    q, k, v, g = normals(*((n, heads, t, d) for t in (t_q, t_k, t_k, t_q)))
    k, g = k[:, :, ::-1].copy(), g[..., ::-1].copy()
    settings: dict[str, Any] = {"causal": False, "key_mask": None, "scale": d**-0.5}
    both = {near: _attention_grad_expected(near, q, k, v, g, settings) for near in (False, True)}

    def run(device: Any, rung: int) -> None:
        o, log_sum, *expected = both[rung >= 3 and precision == "bf16"]
        how = {**settings, "rung": rung, "precision": precision}
        got = attention_cuda.attention_backward(device, g, q, k, v, o, log_sum, **how)
        for array, (want, allowed), name in zip(got, expected, ("dq", "dk", "dv")):
            device.expect(array, want, allowed, name)

    return run


def _attention_grad_expected(
    near: bool, q: np.ndarray, k: np.ndarray, v: np.ndarray, g: np.ndarray, settings: dict[str, Any]
) -> list[Any]:
    """o and L as they are kept, then (the definition's gradient, the allowed error) of q, k and v."""
    (t_q, d), t_k = q.shape[2:], k.shape[2]
    q64, k64, v64, g64 = (_near if near else _wide)(q, k, v, g)
    o = attention_reference.forward(q64, k64, v64, **settings)
    want = attention_reference.backward(g64, q64, k64, v64, **settings)
    # A score's error, and that of the row's sum, go through exp into p; dp and g o have the error of their sums.
    size = d**-0.5 * (abs(q64) @ abs(k64).swapaxes(2, 3))
    p = np.exp(d**-0.5 * (q64 @ k64.swapaxes(2, 3)))
    log_sum = np.log(p.sum(axis=3))
    p /= p.sum(axis=3, keepdims=True)
    relative = bound(d + t_k, 3 * size.max(initial=0) + np.log(t_k) + 4, np.float32)
    ds = p * (abs(g64) @ abs(v64).swapaxes(2, 3) + (abs(g64) * abs(o)).sum(axis=3, keepdims=True))
    off = relative + bound(max(d + 2, t_q, t_k), 2, np.float32)
    if near:  # twice for tensor cores, and p and ds are rounded to bfloat16
        off = 2 * off + bfloat16.UNIT_ROUNDOFF
    scale = d**-0.5 * off
    allowed = (scale * (ds @ abs(k64)), scale * (ds.swapaxes(2, 3) @ abs(q64)), off * (p.swapaxes(2, 3) @ abs(g64)))
    return [o.astype(np.float32), log_sum.astype(np.float32), *zip(want, allowed)]


# As OPERATIONS in emulate.py: what makes the problem, the names of its sizes, sizes that take a second, its rungs.
GRADIENTS: dict[str, tuple[Callable[..., Run], str, tuple[int, ...], dict[int, str]]] = {
    "attention-grad": (_attention_grad, "n,heads,t_q,t_k,d", (1, 2, 40, 77, 16), attention_cuda.RUNGS),
    "attention-grad-float32": (
        partial(_attention_grad, precision="float32"),
        "n,heads,t_q,t_k,d",
        (1, 2, 40, 77, 16),
        attention_cuda.FLOAT32_RUNGS,
    ),
    "conv2d-grad": (_conv2d_grad, "n,size,c_in,c_out,stride", (2, 9, 8, 24, 2), conv2d_cuda.GRADIENT_RUNGS),
    "conv2d-grad-float32": (
        partial(_conv2d_grad, precision="float32"),
        "n,size,c_in,c_out,stride",
        (2, 9, 7, 24, 2),
        conv2d_cuda.FLOAT32_GRADIENT_RUNGS,
    ),
    "matmul": (_matmul, "m,k,n", (70, 56, 88), matmul_cuda.RUNGS),
    "matmul-float32": (partial(_matmul, precision="float32"), "m,k,n", (70, 77, 88), matmul_cuda.FLOAT32_RUNGS),
}
