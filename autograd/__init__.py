r"""What a gradient is. Read `tensor` first, then the operations: elementwise, shape, reduce, linalg, fused, estimators.

The derivative of $x \sin x$ is $\sin x + x \cos x$:

    import autograd as ag

    x = ag.Tensor(np.linspace(0, 1, 5), requires_grad=True)
    ag.sum(ag.sin(x) * x).backward()
    x.grad
"""

from types import ModuleType as _ModuleType

from . import elementwise, linalg, reduce, shape
from . import tensor as _tensor
from .elementwise import (
    abs,
    add,
    clip,
    cos,
    div,
    exp,
    gelu,
    leaky_relu,
    log,
    log1p,
    maximum,
    minimum,
    mul,
    neg,
    normal_cdf,
    power,
    relu,
    sigmoid,
    silu,
    sin,
    softplus,
    sqrt,
    square,
    sub,
    tanh,
    where,
)
from .estimators import gumbel_softmax, reparameterize, stop_gradient, straight_through
from .fused import (
    attention,
    avg_pool,
    conv2d,
    conv_transpose2d,
    cross_entropy,
    dropout,
    embedding,
    group_norm,
    layer_norm,
    max_pool,
    upsample_nearest,
)
from .gradcheck import gradcheck
from .linalg import einsum, linear, matmul
from .reduce import cumsum, log_softmax, logsumexp, max, mean, min, softmax, sum, top_k, var
from .shape import broadcast_to, concat, gather, getitem, pad, reshape, stack, transpose
from .tensor import Tensor, enable_grad, grad, no_grad, operation, raw

__part_of__ = "minigen"

_tensor._methods.update(getitem=shape.getitem, reshape=shape.reshape, sum=reduce.sum)
for _name, _function in {
    "__add__": elementwise.add,
    "__radd__": elementwise.add,
    "__sub__": elementwise.sub,
    "__rsub__": lambda a, b: elementwise.sub(b, a),
    "__mul__": elementwise.mul,
    "__rmul__": elementwise.mul,
    "__truediv__": elementwise.div,
    "__rtruediv__": lambda a, b: elementwise.div(b, a),
    "__pow__": elementwise.power,
    "__matmul__": linalg.matmul,
    "__rmatmul__": lambda a, b: linalg.matmul(b, a),
    "__neg__": elementwise.neg,
    "sum": reduce.sum,
    "mean": reduce.mean,
    "reshape": lambda x, *s: shape.reshape(x, s[0] if len(s) == 1 and isinstance(s[0], tuple | list) else s),
    "transpose": lambda x, *axes: shape.transpose(x, axes or None),
}.items():
    setattr(Tensor, _name, _function)

__all__ = [name for name, value in list(globals().items()) if name[0] != "_" and not isinstance(value, _ModuleType)]
