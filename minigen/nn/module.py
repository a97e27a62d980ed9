"""A tree of layers, and all its numbers in one buffer.

A module's parameters are its attributes that are Tensors with ``requires_grad``; its children are its attributes that
are modules, or lists of modules. What lies deeper, in a dict or a list of lists, would be neither trained nor saved:
`Module.flatten` refuses it. Names follow the attributes (``down.0.conv_1.w``), order follows their definition.

`Module.flatten` moves every parameter into one contiguous buffer and every gradient into a second one; the parameters
become views with their old names. An optimiser is then a few passes over one long array, clearing gradients is one
memset, and a moving average of the weights is one line.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from autograd import Tensor
from kernels.backend import array_module, to_numpy


def _hides(value: Any) -> bool:
    """Whether an attribute holds modules or parameters that are not found there: anything but the modules of a list."""
    listed = isinstance(value, list | tuple)
    return _holds([v for v in value if not isinstance(v, Module)] if listed else value)


def _holds(value: Any) -> bool:
    """Whether a dict or a list has a module or a parameter in it, however deep."""
    within = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return any(isinstance(v, Module) or (isinstance(v, Tensor) and v.requires_grad) or _holds(v) for v in within)


class Module:
    """Base of every layer: subclasses define ``forward``."""

    BUFFERS: tuple[str, ...] = ()  # names of array attributes that are saved but not trained
    training = True
    flat: Any = None
    flat_grad: Any = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.forward(*args, **kwargs)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} does not define forward")

    def children(self) -> Iterator[tuple[str, "Module"]]:
        """(name, module) of every direct child."""
        for name, value in vars(self).items():
            if isinstance(value, Module):
                yield name, value
            elif isinstance(value, list | tuple):
                for i, item in enumerate(value):
                    if isinstance(item, Module):
                        yield f"{name}.{i}", item

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, "Module"]]:
        """(dotted name, module) of this module and everything below it."""
        yield prefix, self
        for name, child in self.children():
            yield from child.named_modules(f"{prefix}{name}.")

    def named_parameters(self) -> dict[str, Tensor]:
        """Parameters by dotted name; one that is shared by two layers appears once, under its first name."""
        found: dict[str, Tensor] = {}
        seen: set[int] = set()
        for prefix, module in self.named_modules():
            for name, value in vars(module).items():
                if isinstance(value, Tensor) and value.requires_grad and id(value) not in seen:
                    seen.add(id(value))
                    found[prefix + name] = value
        return found

    def parameters(self) -> list[Tensor]:
        """All parameters, in the order of their definition."""
        return list(self.named_parameters().values())

    def count(self) -> int:
        """How many numbers the parameters hold."""
        return sum(p.size for p in self.parameters())

    def flatten(self) -> "Module":
        """Move parameters and gradients into one buffer each (``flat``, ``flat_grad``); returns the module.

        Called once, after construction: an enclosing module that is flattened later takes the parameters with it. Raises
        ValueError for a module without parameters, with some kept where they are not found, or with some in the buffer
        of an enclosing module, and TypeError for parameters of several dtypes.
        """
        for prefix, module in self.named_modules():
            for name, value in vars(module).items():
                if _hides(value):
                    raise ValueError(
                        f"{type(module).__name__} keeps layers or parameters in '{prefix}{name}', a {type(value).__name__}, "
                        "where they are not found: they must be attributes, or modules in a list"
                    )
        parameters = self.parameters()
        if not parameters:
            raise ValueError(f"{type(self).__name__} has no parameters to flatten")
        own = [id(module.flat_grad) for _, module in self.named_modules()]
        if any(_is_part(p.grad) and id(p.grad.base) not in own for p in parameters):
            raise ValueError(
                f"{type(self).__name__} has parameters in the buffer of a module that encloses it: it is flat"
            )
        for _, module in self.named_modules():
            module.flat = module.flat_grad = None  # a part that was flat on its own no longer is
        xp = array_module(parameters[0].data)
        dtype = parameters[0].dtype
        if any(p.dtype != dtype for p in parameters):
            raise TypeError("the parameters of one module must share one dtype")
        self.flat = xp.empty(self.count(), dtype)
        self.flat_grad = xp.zeros(self.count(), dtype)
        start = 0
        for p in parameters:
            stop = start + p.size
            self.flat[start:stop] = p.data.reshape(-1)
            if p.grad is not None:
                self.flat_grad[start:stop] = p.grad.reshape(-1)
            p.data = self.flat[start:stop].reshape(p.shape)
            p.grad = self.flat_grad[start:stop].reshape(p.shape)
            start = stop
        return self

    def __setstate__(self, state: dict[str, Any]) -> None:
        """A copy (`copy.deepcopy`, `pickle`) of a flat module is flat, in buffers of its own."""
        vars(self).update(state)
        if self.flat is not None:
            self.flatten()

    def zero_grad(self) -> None:
        """Clear every gradient: one memset where the module is flat. A part of a flat module stays a part of it."""
        if self.flat_grad is not None:
            self.flat_grad[...] = 0
            return
        for p in self.parameters():
            if _is_part(p.grad):
                p.grad[...] = 0
            else:
                p.grad = None

    def train(self, training: bool = True) -> "Module":
        """Set the flag that batch norm reads, here and below; returns the module."""
        for _, module in self.named_modules():
            module.training = training
        return self

    def eval(self) -> "Module":
        """``train(False)``."""
        return self.train(False)

    def arrays(self) -> dict[str, Any]:
        """Every parameter and buffer by name: the module's own arrays, not copies."""
        found = {name: p.data for name, p in self.named_parameters().items()}
        for prefix, module in self.named_modules():
            found.update({prefix + name: getattr(module, name) for name in module.BUFFERS})
        return found

    def load_arrays(self, arrays: dict[str, Any]) -> None:
        """Copy values in by name. ValueError, before anything is changed, for a missing, unknown or misshapen array."""
        own = self.arrays()
        missing, unknown = sorted(own.keys() - arrays.keys()), sorted(arrays.keys() - own.keys())
        if missing or unknown:
            what = f"lacks {missing[0]!r}" if missing else f"has {unknown[0]!r}, which the model lacks"
            raise ValueError(f"the weights are of another model: the file {what}")
        for name, array in arrays.items():
            if tuple(array.shape) != tuple(own[name].shape):
                raise ValueError(f"the weights are of another model: {name!r} is {array.shape}, not {own[name].shape}")
        for name, array in arrays.items():
            own[name][...] = array

    def astype(self, dtype: Any) -> "Module":
        """Convert parameters and buffers (before `flatten`); returns the module."""
        return self._replace(lambda a: a.astype(dtype))

    def to(self, xp: Any) -> "Module":
        """Move parameters and buffers to an array module, ``numpy`` or ``cupy`` (before `flatten`); returns the module."""
        return self._replace(to_numpy if xp is np else xp.asarray)

    def _replace(self, function: Any) -> "Module":
        if any(module.flat is not None for _, module in self.named_modules()):
            raise RuntimeError("convert or move a module before it is flattened")
        for p in self.parameters():
            p.data = function(p.data)
            p.grad = None if p.grad is None else function(p.grad)
        for _, module in self.named_modules():
            for name in module.BUFFERS:
                setattr(module, name, function(getattr(module, name)))
        return self


def _is_part(gradient: Any) -> bool:
    """Whether it lies in the ``flat_grad`` of a module: all other gradients own their memory."""
    return gradient is not None and gradient.base is not None


def parameter(array: Any) -> Tensor:
    """A trainable float32 Tensor (`Module.astype` converts a whole module to float64)."""
    return Tensor(np.asarray(array, np.float32), requires_grad=True)
