"""Torch's side of the GPU benchmark: for each operation the ways to do it, each a name and a maker of its run.

The tensors are the very memory of our arrays. Images stay as they are, channels last, and are handed over a second time
with channels first where torch has another path for that. Gradients are timed without the forward pass before them.
Nothing is imported here: torch comes as an argument.
"""

from collections.abc import Callable
from typing import Any

from .problem import Arrays, Run

Peer = tuple[str, Callable[[Any, Arrays], Run]]


def tensors(torch: Any, x: Arrays) -> Arrays:
    """The arrays among the inputs as torch's tensors of the same memory; bits of bfloat16 numbers as bfloat16."""

    def tensor(value: Any) -> Any:
        if value.dtype.char != "H":
            return torch.from_dlpack(value)
        return torch.from_dlpack(value.view("int16")).view(torch.bfloat16)

    return {name: tensor(v) if hasattr(v, "dtype") and hasattr(v, "ndim") else v for name, v in x.items()}


def _matmul(torch: Any, x: Arrays) -> Run:
    return lambda: torch.matmul(x["a"], x["b"])


MATMUL: list[Peer] = [("torch.matmul", _matmul)]


# --- convolution ------------------------------------------------------------------------------------------------------


def _images(torch: Any, x: Arrays, last: bool) -> Callable[[Any], Any]:
    """From (n, h, w, c) to torch's (n, c, h, w), in memory as it is or with the channels first."""
    return lambda a: a.permute(0, 3, 1, 2) if last else a.permute(0, 3, 1, 2).contiguous()


def _weights(torch: Any, w: Any, last: bool) -> Any:
    """From (k, k, c_in, c_out) to torch's (c_out, c_in, k, k)."""
    layout = torch.channels_last if last else torch.contiguous_format
    return w.permute(3, 2, 0, 1).contiguous(memory_format=layout)


def _conv2d(last: bool) -> Callable[[Any, Arrays], Run]:
    def make(torch: Any, x: Arrays) -> Run:
        images, w = _images(torch, x, last)(x["x"]), _weights(torch, x["w"], last)
        settings = {"stride": x["stride"], "padding": x["padding"]}
        return lambda: torch.nn.functional.conv2d(images, w, **settings)

    return make


def _conv2d_fused(torch: Any, x: Arrays) -> Run:
    move, f = _images(torch, x, True), torch.nn.functional
    images, residual, w = move(x["x"]), move(x["residual"]).to(x["x"].dtype), _weights(torch, x["w"], True)
    b, time = x["b"].to(images.dtype), x["time"].to(images.dtype)[:, :, None, None]
    settings = {"stride": x["stride"], "padding": x["padding"]}
    return lambda: f.silu(f.conv2d(images, w, b, **settings) + time + residual)


def _conv2d_grad(which: int, last: bool) -> Callable[[Any, Arrays], Run]:
    wanted = [which == 0, which == 1, False]

    def make(torch: Any, x: Arrays) -> Run:
        move, w = _images(torch, x, last), _weights(torch, x["w"], last)
        images, g, stride, padding = move(x["x"]), move(x["g"]), list(x["stride"]), list(x["padding"])
        backward = torch.ops.aten.convolution_backward
        given = (g, images, w, None, stride, padding, [1, 1], False, [0, 0], 1, wanted)
        return lambda: backward(*given)[which]

    return make


CONV2D: list[Peer] = [("cuDNN, channels last", _conv2d(True)), ("cuDNN, channels first", _conv2d(False))]
CONV2D_FUSED: list[Peer] = [("cuDNN and three kernels", _conv2d_fused)]
CONV2D_GRAD_X: list[Peer] = [
    ("cuDNN, channels last", _conv2d_grad(0, True)),
    ("cuDNN, channels first", _conv2d_grad(0, False)),
]
CONV2D_GRAD_W: list[Peer] = [
    ("cuDNN, channels last", _conv2d_grad(1, True)),
    ("cuDNN, channels first", _conv2d_grad(1, False)),
]


# --- attention --------------------------------------------------------------------------------------------------------

BACKENDS = {
    "SDPA flash": "FLASH_ATTENTION",
    "SDPA cuDNN": "CUDNN_ATTENTION",
    "SDPA efficient": "EFFICIENT_ATTENTION",
    "SDPA math": "MATH",
}


def _attention(backend: str, gradients: bool) -> Callable[[Any, Arrays], Run]:
    def make(torch: Any, x: Arrays) -> Run:
        attention, sdpa = torch.nn.attention, torch.nn.functional.scaled_dot_product_attention
        chosen = getattr(attention.SDPBackend, backend)
        q, k, v = (x[name].detach().requires_grad_(gradients) for name in "qkv")

        def forward() -> Any:
            with attention.sdpa_kernel(chosen):
                return sdpa(q, k, v, is_causal=x["causal"])

        if not gradients:
            return forward
        o = forward()
        return lambda: torch.autograd.grad(o, (q, k, v), x["g"], retain_graph=True)

    return make


ATTENTION: list[Peer] = [(name, _attention(backend, False)) for name, backend in BACKENDS.items()]
ATTENTION_GRAD: list[Peer] = [(name, _attention(backend, True)) for name, backend in BACKENDS.items()]


# --- nearest codes ----------------------------------------------------------------------------------------------------


def _cdist(torch: Any, x: Arrays) -> Run:
    return lambda: torch.cdist(x["z"], x["codebook"]).argmin(1)


def _scores(torch: Any, x: Arrays) -> Run:
    """In bfloat16, so its answers are not always the nearest."""
    z, codebook = x["z"].to(torch.bfloat16), x["codebook"].to(torch.bfloat16)
    half = (x["codebook"] ** 2).sum(1) / 2
    half = half.to(torch.bfloat16)
    return lambda: (half - z @ codebook.T).argmin(1)


QUANTIZE: list[Peer] = [("cdist + argmin", _cdist), ("bf16 product + argmin, inexact", _scores)]


def _index_add(torch: Any, x: Arrays) -> Run:
    """Counts and sums with atomic additions, then the averages."""
    codes = x["codes"].to(torch.int64)

    def run() -> Any:
        n = torch.bincount(codes, minlength=len(x["N"])).to(x["N"].dtype)
        total = torch.zeros_like(x["m"]).index_add_(0, codes, x["z"])
        N, m = 0.99 * x["N"] + (1 - 0.99) * n, 0.99 * x["m"] + (1 - 0.99) * total
        return N, m, torch.where((n > 0)[:, None], m / N[:, None], x["e"])

    return run


def _gather(torch: Any, x: Arrays) -> Run:
    z, codebook, indices = (x[name] for name in ("z", "codebook", "indices"))

    def run() -> Any:
        e = codebook[indices]
        return e, ((z - e) ** 2).sum(1), torch.bincount(indices, minlength=len(codebook))

    return run


GATHER: list[Peer] = [("eager, one kernel an operation", _gather)]
CODEBOOK: list[Peer] = [("index_add_, atomic", _index_add)]


# --- norms, losses, steps ---------------------------------------------------------------------------------------------


def _grad(torch: Any, y: Any, inputs: tuple[Any, ...], g: Any) -> Run:
    return lambda: torch.autograd.grad(y, inputs, g, retain_graph=True)


def _group_norm(gradients: bool) -> Callable[[Any, Arrays], Run]:
    def make(torch: Any, x: Arrays) -> Run:
        size, f = x["size"], torch.nn.functional
        n, _, c = x["x"].shape
        images, g = (x[name].reshape(n, size, size, c).permute(0, 3, 1, 2) for name in ("x", "g"))
        leaves = tuple(a.detach().requires_grad_(gradients) for a in (images, x["gamma"], x["beta"]))

        def forward() -> Any:
            return f.silu(f.group_norm(leaves[0], x["groups"], leaves[1], leaves[2]))

        return _grad(torch, forward(), leaves, g) if gradients else forward

    return make


def _layer_norm(gradients: bool) -> Callable[[Any, Arrays], Run]:
    def make(torch: Any, x: Arrays) -> Run:
        leaves = tuple(x[name].detach().requires_grad_(gradients) for name in ("x", "gamma", "beta"))
        c = x["x"].shape[1]

        def forward() -> Any:
            return torch.nn.functional.layer_norm(leaves[0], (c,), leaves[1], leaves[2])

        return _grad(torch, forward(), leaves, x["g"]) if gradients else forward

    return make


def _cross_entropy(torch: Any, x: Arrays) -> Run:
    logits = x["x"].detach().requires_grad_(True)

    def run() -> Any:
        loss = torch.nn.functional.cross_entropy(logits, x["targets"], reduction="none")
        return loss, torch.autograd.grad(loss, logits, x["g"])[0]

    return run


def _adam(torch: Any, x: Arrays) -> Run:
    p = x["p"].clone().requires_grad_(True)
    p.grad = x["g"]
    return torch.optim.AdamW([p], lr=1e-4, weight_decay=0.01, fused=True).step


def _embedding(torch: Any, x: Arrays) -> Run:
    indices = x["indices"].to(torch.int64)
    return lambda: torch.ops.aten.embedding_dense_backward(x["g"], indices, x["rows"], -1, False)


def _ddim(torch: Any, x: Arrays) -> Run:
    plan, s = x["plan"], x["scales"][:, None]

    def run() -> Any:
        o = x["u"] + s * (x["c"] - x["u"])
        x_0 = torch.clamp(plan.x_0[0] * x["x"] + plan.x_0[1] * o, -1, 1)
        eps = plan.again[0] * x["x"] + plan.again[1] * x_0
        x_u = plan.x_u[0] * x_0 + plan.x_u[1] * eps
        return (x_u + plan.x_u[2] * torch.randn_like(x_u) if plan.x_u[2] else x_u), x_0

    return run


def _randn(torch: Any, x: Arrays) -> Run:
    return lambda: torch.randn(x["shape"], device="cuda" if torch.cuda.is_available() else "cpu")


def _gelu(torch: Any, x: Arrays) -> Run:
    return lambda: torch.nn.functional.gelu(x["x"], approximate="tanh")


def _gelu_grad(torch: Any, x: Arrays) -> Run:
    z = x["x"].detach().requires_grad_(True)
    return _grad(torch, torch.nn.functional.gelu(z, approximate="tanh"), (z,), x["g"])


GROUP_NORM: list[Peer] = [("group_norm, silu", _group_norm(False))]
GROUP_NORM_GRAD: list[Peer] = [("group_norm, silu", _group_norm(True))]
LAYER_NORM: list[Peer] = [("layer_norm", _layer_norm(False))]
LAYER_NORM_GRAD: list[Peer] = [("layer_norm", _layer_norm(True))]
CROSS_ENTROPY: list[Peer] = [("cross_entropy", _cross_entropy)]
ADAM: list[Peer] = [("AdamW, fused", _adam)]
EMBEDDING: list[Peer] = [("embedding_dense_backward", _embedding)]
SAMPLER_STEP: list[Peer] = [("eager, one kernel an operation", _ddim)]
RANDOM: list[Peer] = [("randn", _randn)]
GELU: list[Peer] = [("gelu", _gelu)]
GELU_GRAD: list[Peer] = [("gelu", _gelu_grad)]


# --- eight bits -------------------------------------------------------------------------------------------------------


def _weights_of(dtype: str) -> Callable[[Any, Arrays], Run]:
    def make(torch: Any, x: Arrays) -> Run:
        kind = getattr(torch, dtype)
        w, a = (x["codes"].to(kind) * x["scale"].to(kind)), x["x"].to(kind)
        return lambda: a @ w

    return make


def _int_mm(torch: Any, x: Arrays) -> Run:
    q, t, scale = x["q"].t().contiguous().t(), x["t"][:, None], x["scale"]
    return lambda: torch._int_mm(x["p"], q).to(t.dtype) * t * scale


def _scaled_mm(torch: Any, x: Arrays) -> Run:
    a, b = x["p"].view(torch.float8_e4m3fn), x["turned"].view(torch.float8_e4m3fn).t()
    scales = {"scale_a": x["t"][0], "scale_b": x["scale"][0]}
    return lambda: torch._scaled_mm(a, b, **scales, out_dtype=torch.bfloat16)


WEIGHT_ONLY: list[Peer] = [
    ("matmul, float32 weights", _weights_of("float32")),
    ("matmul, bf16 weights", _weights_of("bfloat16")),
]
INT8: list[Peer] = [("_int_mm", _int_mm)]
FP8: list[Peer] = [("_scaled_mm", _scaled_mm)]
