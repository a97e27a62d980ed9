"""In torch's place where it is not installed: the few functions that the benchmark's peers call, with their values by NumPy.

It is stricter than torch in that it knows nothing else, so a wrong name or argument fails. Gradients are zeros of the
right shape, except for the convolution's: whether torch's own are right is no question here.
"""

import types

import numpy as np

from kernels import bfloat16
from kernels.attention import reference as attention_reference
from kernels.conv2d import reference as conv2d_reference
from kernels.eight_bit import decode
from kernels.norm import reference as norm_reference

DTYPES = {"float32": np.float32, "int64": np.int64, "int32": np.int32, "int16": np.int16, "int8": np.int8}


class Dtype:
    def __init__(self, name):
        self.name = name


float32, int64, int32, int16, int8, uint8, bfloat16_, float8 = map(
    Dtype, ("float32", "int64", "int32", "int16", "int8", "uint8", "bfloat16", "float8_e4m3fn")
)
BY_NAME = {d.name: d for d in (float32, int64, int32, int16, int8, uint8, bfloat16_, float8)}


class Tensor(np.lib.mixins.NDArrayOperatorsMixin):
    device = "cuda:0"

    def __init__(self, array, dtype=None):
        self.array, self.grad, self.needs = np.asarray(array), None, False
        self.dtype = dtype or BY_NAME.get(self.array.dtype.name, float32)

    shape = property(lambda self: self.array.shape)
    T = property(lambda self: Tensor(self.array.T, self.dtype))

    def __array_ufunc__(self, ufunc, method, *inputs, **kwargs):
        assert method == "__call__" and not kwargs
        return Tensor(ufunc(*(x.array if isinstance(x, Tensor) else x for x in inputs)))

    def __getitem__(self, index):
        if isinstance(index, Tensor):
            assert index.dtype is int64
            index = index.array
        return Tensor(self.array[index], self.dtype)

    def __len__(self):
        return len(self.array)

    def numpy(self):
        return self.array

    def detach(self):
        return Tensor(self.array, self.dtype)

    def requires_grad_(self, needs):
        self.needs = needs
        return self

    def permute(self, *axes):
        return Tensor(self.array.transpose(axes), self.dtype)

    def contiguous(self, memory_format=None):
        assert memory_format in (None, "last", "any")
        return self

    def view(self, dtype):
        if self.dtype is uint8 and dtype is float8:
            return Tensor(decode(self.array, "e4m3"), float8)
        assert self.dtype is int16 and dtype is bfloat16_
        return Tensor(bfloat16.from_bits(self.array.view(np.uint16)), bfloat16_)

    def to(self, dtype):
        assert isinstance(dtype, Dtype)
        return Tensor(self.array.astype(DTYPES.get(dtype.name, np.float32)), dtype)

    def reshape(self, *shape):
        return Tensor(self.array.reshape(shape), self.dtype)

    def t(self):
        assert self.array.ndim == 2
        return self.T

    def clone(self):
        return Tensor(self.array.copy(), self.dtype)

    def sum(self, axis):
        return Tensor(self.array.sum(axis))

    def argmin(self, axis):
        return Tensor(self.array.argmin(axis))

    def index_add_(self, axis, index, source):
        assert axis == 0 and index.dtype is int64
        np.add.at(self.array, index.array, source.array)
        return self


def from_dlpack(x):
    assert type(x).__module__ == "cupy" and x.dtype.char != "H", "bits of bfloat16 are handed over as int16"
    return Tensor(x.on_host)


def grad(y, inputs, g, retain_graph=False):
    inputs = inputs if isinstance(inputs, tuple) else (inputs,)
    assert all(x.needs for x in inputs) and g.shape == y.shape
    return tuple(Tensor(np.zeros(x.shape, np.float32)) for x in inputs)


def _conv(x, w):
    return x.array.transpose(0, 2, 3, 1), w.array.transpose(2, 3, 1, 0)


def conv2d(x, w, b=None, *, stride, padding):
    y = conv2d_reference.conv2d(*_conv(x, w), None if b is None else b.array, stride, padding)
    return Tensor(y.transpose(0, 3, 1, 2))


def convolution_backward(g, x, w, bias_sizes, stride, padding, dilation, transposed, output_padding, groups, mask):
    assert (bias_sizes, dilation, transposed, output_padding, groups) == (None, [1, 1], False, [0, 0], 1)
    images, weights = _conv(x, w)
    pull, settings = g.array.transpose(0, 2, 3, 1), (tuple(stride), tuple(padding))
    dx = conv2d_reference.conv2d_grad_x(pull, weights, images.shape, *settings) if mask[0] else None
    dw = conv2d_reference.conv2d_grad_w(images, pull, weights.shape, *settings) if mask[1] else None
    return (
        None if dx is None else Tensor(dx.transpose(0, 3, 1, 2)),
        None if dw is None else Tensor(dw.transpose(3, 2, 0, 1)),
        None,
    )


def scaled_dot_product_attention(q, k, v, *, is_causal):
    if chosen[-1] == "CUDNN_ATTENTION" and q.dtype is float32:
        raise RuntimeError("No available kernel. Aborting execution.")
    settings = {"causal": is_causal, "key_mask": None, "scale": q.shape[3] ** -0.5}
    return Tensor(attention_reference.forward(q.array, k.array, v.array, **settings))


def group_norm(x, groups, gamma, beta):
    images = x.array.transpose(0, 2, 3, 1)
    y = norm_reference.group_norm(images, gamma.array, beta.array, groups, 1e-5, False)
    return Tensor(y.transpose(0, 3, 1, 2))


def layer_norm(x, shape, gamma, beta):
    assert shape == (x.shape[1],)
    return Tensor(norm_reference.layer_norm(x.array, gamma.array, beta.array, 1e-5))


def cross_entropy(x, targets, *, reduction):
    assert reduction == "none" and targets.dtype is int64
    shifted = x.array - x.array.max(axis=1, keepdims=True)
    return Tensor(np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(shifted)), targets.array])


def embedding_dense_backward(g, indices, rows, padding, scale):
    assert (padding, scale) == (-1, False) and indices.dtype is int64
    y = np.zeros((rows, g.shape[1]), np.float32)
    np.add.at(y, indices.array, g.array)
    return Tensor(y)


def gelu(x, *, approximate):
    assert approximate == "tanh"
    return Tensor(0.5 * x.array * (1 + np.tanh(np.sqrt(2 / np.pi) * (x.array + 0.044715 * x.array**3))))


def cdist(a, b):
    return Tensor(np.sqrt(((a.array[:, None] - b.array[None]) ** 2).sum(axis=2)))


class AdamW:
    def __init__(self, parameters, *, lr, weight_decay, fused):
        (self.p,) = parameters
        assert self.p.needs and self.p.grad.shape == self.p.shape and fused

    def step(self):
        self.p.array -= 0.01 * np.sign(self.p.grad.array)


def _int_mm(a, b):
    assert a.dtype is b.dtype is int8
    return Tensor(a.array.astype(np.int32) @ b.array.astype(np.int32))


def _scaled_mm(a, b, *, scale_a, scale_b, out_dtype):
    assert a.dtype is b.dtype is float8 and out_dtype is bfloat16_ and scale_a.shape == scale_b.shape == ()
    return Tensor(a.array @ b.array * scale_a.array * scale_b.array, bfloat16_)


chosen = [None]


class sdpa_kernel:
    def __init__(self, backend):
        self.backend = backend

    def __enter__(self):
        chosen.append(self.backend)

    def __exit__(self, *_):
        chosen.pop()


Space = types.SimpleNamespace
silu = lambda x: Tensor(x.array / (1 + np.exp(-x.array)))  # noqa: E731
functional = Space(
    conv2d=conv2d, silu=silu, gelu=gelu, group_norm=group_norm, layer_norm=layer_norm, cross_entropy=cross_entropy,
    scaled_dot_product_attention=scaled_dot_product_attention,
)  # fmt: skip
BACKENDS = ("FLASH_ATTENTION", "CUDNN_ATTENTION", "EFFICIENT_ATTENTION", "MATH")
torch = Space(
    __version__="0.0", float32=float32, int64=int64, bfloat16=bfloat16_, float8_e4m3fn=float8, channels_last="last",
    contiguous_format="any", from_dlpack=from_dlpack, _int_mm=_int_mm, _scaled_mm=_scaled_mm, cdist=cdist,
    nn=Space(functional=functional, attention=Space(SDPBackend=Space(**{b: b for b in BACKENDS}), sdpa_kernel=sdpa_kernel)),
    ops=Space(aten=Space(convolution_backward=convolution_backward, embedding_dense_backward=embedding_dense_backward)),
    autograd=Space(grad=grad), optim=Space(AdamW=AdamW),
    matmul=lambda a, b: Tensor(a.array @ b.array),
    bincount=lambda x, minlength: Tensor(np.bincount(x.array, minlength=minlength)),
    zeros_like=lambda x: Tensor(np.zeros_like(x.array)), randn_like=lambda x: Tensor(np.zeros_like(x.array)),
    randn=lambda shape, device: Tensor(np.zeros(shape, np.float32)),
    where=lambda mask, a, b: Tensor(np.where(mask.array, a.array, b.array)),
    clamp=lambda x, low, high: Tensor(np.clip(x.array, low, high)),
    cuda=Space(is_available=lambda: True, empty_cache=lambda: None),
    backends=Space(cuda=Space(matmul=Space(allow_tf32=None)), cudnn=Space(allow_tf32=None, benchmark=None, version=lambda: 1)),
)  # fmt: skip
