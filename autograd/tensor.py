r"""What a gradient is: values that remember how they were made, and one walk back.

Reverse-mode differentiation in three sentences. Every operation $y = f(x_1, \dots, x_k)$ knows, beside its value, its
*vector-Jacobian product*: given $\bar y = \partial L / \partial y$ it returns
$\bar x_i = \bar y \, \partial f / \partial x_i$. While operations run, each leaves a `Node` that points to the nodes
its inputs came from; the nodes are the tape. `backward` visits the tape from the newest node to the oldest, adds up
what reaches a node, hands it to the node's vector-Jacobian products, and frees the node.

    operation given arrays   -> an array, nothing recorded
    operation given a Tensor -> a Tensor, and a Node if a gradient will need it

Vector-Jacobian products are themselves written with operations. Given arrays (`backward`) they are plain NumPy; given
Tensors (`grad(..., create_graph=True)`) they are recorded in turn, and that is all there is to second derivatives.

What the tape holds must not change before it is used. Results of operations stay read-only, and an array of the
caller's (a parameter, a batch) is made read-only while a node needs its values: writing to it during that time raises
NumPy's "assignment destination is read-only" at the very line that writes. (A view taken earlier stays writable, and so
does memory that NumPy could not make writable again, such as that of `np.from_dlpack`; CuPy arrays have no such flag.)
Only one thread may record at a time; `no_grad` applies to the thread that enters it.
"""

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from operator import attrgetter
from typing import Any

import numpy as np

_count = itertools.count()
_itemsize = attrgetter("itemsize")
_new = object.__new__
_recording: ContextVar[bool] = ContextVar("whether operations are recorded", default=True)


class Tensor:
    """An array and the way it was made.

    ``data`` is a NumPy or CuPy array (float32 or float64 to be differentiated; anything else is a constant), shared
    with the caller and never copied. ``requires_grad`` marks a leaf whose ``grad`` ``backward`` adds to.
    """

    __slots__ = ("__weakref__", "data", "grad", "node", "requires_grad")
    __array_ufunc__ = None  # so that array * tensor calls Tensor.__rmul__

    def __init__(self, data: Any, requires_grad: bool = False):
        if isinstance(data, Tensor):
            raise TypeError("data is already a Tensor")
        data = data if hasattr(data, "__array_function__") and hasattr(data, "flags") else np.asarray(data)
        if requires_grad and data.dtype not in (np.float32, np.float64):
            raise TypeError(f"only float32 and float64 can require a gradient, got {data.dtype}")
        self.data: Any = np.asarray(data) if isinstance(data, np.generic) else data
        self.requires_grad = requires_grad
        self.grad: Any = None
        self.node: Node | None = None

    shape = property(lambda self: self.data.shape)
    dtype = property(lambda self: self.data.dtype)
    ndim = property(lambda self: self.data.ndim)
    size = property(lambda self: self.data.size)

    def __len__(self) -> int:
        return len(self.data)

    def __iter__(self) -> Iterator["Tensor"]:
        if not self.ndim:
            raise TypeError("a Tensor without axes has no elements to go through")
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        return f"Tensor({self.data!r}{', requires_grad=True' if self.requires_grad else ''})"

    def __bool__(self) -> bool:
        return bool(self.data)

    def __float__(self) -> float:
        return float(self.data)

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("NumPy functions do not record gradients: use autograd's functions, or .data for the array")

    def backward(self, grad: Any = None) -> None:
        r"""Add $\partial$ self $/ \partial$ leaf to ``leaf.grad`` of every leaf below, and free the tape.

        ``grad`` (same shape) is $\bar y$; it may be left out for a scalar, where it is 1. Raises RuntimeError if
        nothing was recorded or the tape was walked before.
        """
        if self.node is None and not self.requires_grad:
            raise RuntimeError("backward() on a Tensor that depends on no leaf with requires_grad=True")
        for leaf, g in _walk([self], [grad], (), create_graph=False):
            if leaf.grad is None:
                leaf.grad = np.array(g) if isinstance(g, np.generic) else g.copy()  # g may be shared with another leaf
            else:
                leaf.grad += g

    def __getitem__(self, index: Any) -> Any:
        return _methods["getitem"](self, index=index)

    def __eq__(self, other: object) -> bool:
        raise TypeError("comparisons have no gradient: compare arrays, as in x.data == y")

    __hash__ = object.__hash__  # by identity, so a Tensor may be in a set or be a key

    # The operators are filled in by autograd/__init__.py, where the operations are known.
    def __add__(self, other: Any) -> "Tensor": ...  # type: ignore[empty-body]
    def __radd__(self, other: Any) -> "Tensor": ...  # type: ignore[empty-body]
    def __sub__(self, other: Any) -> "Tensor": ...  # type: ignore[empty-body]
    def __rsub__(self, other: Any) -> "Tensor": ...  # type: ignore[empty-body]
    def __mul__(self, other: Any) -> "Tensor": ...  # type: ignore[empty-body]
    def __rmul__(self, other: Any) -> "Tensor": ...  # type: ignore[empty-body]
    def __truediv__(self, other: Any) -> "Tensor": ...  # type: ignore[empty-body]
    def __rtruediv__(self, other: Any) -> "Tensor": ...  # type: ignore[empty-body]
    def __pow__(self, other: Any) -> "Tensor": ...  # type: ignore[empty-body]
    def __matmul__(self, other: Any) -> "Tensor": ...  # type: ignore[empty-body]
    def __rmatmul__(self, other: Any) -> "Tensor": ...  # type: ignore[empty-body]
    def __neg__(self) -> "Tensor": ...  # type: ignore[empty-body]
    def sum(self, axis: Any = None, keepdims: bool = False) -> "Tensor": ...  # type: ignore[empty-body]
    def mean(self, axis: Any = None, keepdims: bool = False) -> "Tensor": ...  # type: ignore[empty-body]
    def reshape(self, *shape: Any) -> "Tensor": ...  # type: ignore[empty-body]
    def transpose(self, *axes: int) -> "Tensor": ...  # type: ignore[empty-body]


_methods: dict[str, Callable[..., Any]] = {}


class Node:
    """One recorded operation: where its inputs came from, and what its vector-Jacobian products need."""

    __slots__ = ("__weakref__", "hold", "index", "kwargs", "parents", "products", "saved", "shapes")

    index: int  # counts nodes as they are made: a node's is larger than its parents'
    parents: Any  # of each argument: a Node, a leaf Tensor, or None
    shapes: list[Any]  # of each argument that has a parent
    products: tuple[Any, Any]  # one vector-Jacobian product for each argument, or (None, a joint one for all)
    kwargs: dict[str, Any]
    saved: Any  # the kept arguments (None for the others), what the forward function saved, the result if it is kept
    hold: Any

    def free(self) -> None:
        """Drop every array and every link to older nodes."""
        self.parents = self.saved = self.hold = None


def operation(
    *vjps: Callable[..., Any] | None, joint: Callable[..., Any] | None = None, keep: str
) -> Callable[..., Any]:
    """Make a function of arrays an operation that Tensors can go through.

    The decorated function computes ``y`` from its positional arguments (arrays, or numbers) and its keyword arguments
    (settings, never differentiated). ``vjps[i](g, y, *args, **kwargs)`` is the vector-Jacobian product for argument
    ``i``. If the products share work, ``joint(g, y, saved, *args, **kwargs)`` returns all of them in one tuple; the
    function then returns ``(y, saved)``. ``keep`` lists what the products read: digits for arguments, ``y`` for the
    result; the others are passed as None, so that the tape need not hold them. A product may return more axes
    than its argument had (broadcasting): the walk sums them.
    """
    kept = frozenset(int(c) for c in keep if c.isdigit())
    keep_y = "y" in keep
    products = (vjps, joint)

    def wrap(forward: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(forward)
        def apply(*args: Any, **kwargs: Any) -> Any:
            for a in args:
                if type(a) is Tensor:
                    break
            else:  # arrays in, an array out
                y = forward(*args, **kwargs)
                return y if joint is None else y[0]
            raw: list[Any] = []
            parents: list[Any] = []
            shapes: list[Any] = []
            dtype = None
            record = scalars = False
            for a in args:
                parent: Any = None
                shape = None
                if type(a) is Tensor:
                    parent = a.node
                    if parent is None and a.requires_grad:
                        parent = a
                    a = a.data
                    if dtype is None or a.dtype != dtype:
                        dtype = a.dtype if dtype is None else min(dtype, a.dtype, key=_itemsize)
                    if parent is not None:
                        record, shape = True, a.shape
                elif type(a) is not float and isinstance(a, np.generic):
                    scalars = True
                raw.append(a)
                parents.append(parent)
                shapes.append(shape)
            if scalars and dtype is not None:  # a NumPy scalar must not widen a float32 Tensor
                raw = [a.item() if isinstance(a, np.generic) else a for a in raw]
            y = forward(*raw, **kwargs)
            saved = None
            if joint is not None:
                y, saved = y
            if isinstance(y, np.generic):
                y = np.asarray(y)
            if y.dtype is not dtype and y.dtype != dtype:
                raise TypeError(
                    f"{forward.__name__}: a {dtype} Tensor and other inputs gave {y.dtype}; convert them first"
                )
            result = _new(Tensor)
            result.data, result.grad, result.requires_grad, result.node = y, None, False, None
            if record and _recording.get():
                result.node = node = Node()
                node.index = next(_count)
                node.parents, node.shapes, node.products, node.kwargs = parents, shapes, products, kwargs
                for a in raw:
                    if a is y:  # the caller's own array, which must not stay read-only
                        result.data = y = y.view()
                raw = [a if i in kept else None for i, a in enumerate(raw)] if kept else [None] * len(raw)
                if kept or kwargs:
                    node.hold = _hold([*raw, *_arrays_in(kwargs)] if kwargs else raw)
                node.saved = raw, saved, (y if keep_y else None)
                if type(y) is np.ndarray:
                    y.flags.writeable = False
            return result

        return apply

    return wrap


def grad(
    outputs: Tensor | Sequence[Tensor],
    inputs: Tensor | Sequence[Tensor],
    grad_outputs: Any = None,
    create_graph: bool = False,
) -> Any:
    r"""$\sum_k \bar y_k \, \partial y_k / \partial x_i$ for every input, without touching any ``.grad``.

    ``grad_outputs`` are the $\bar y_k$ (1 for scalars if left out). Returns a Tensor for a single input and a list for
    a sequence; an input that the outputs do not depend on gets zeros. With ``create_graph`` the result is itself
    recorded, and the tape is kept; without, the tape is freed.
    """
    ys = [outputs] if isinstance(outputs, Tensor) else list(outputs)
    xs = [inputs] if isinstance(inputs, Tensor) else list(inputs)
    gs = [grad_outputs] if isinstance(outputs, Tensor) else grad_outputs
    gs = [None] * len(ys) if gs is None else list(gs)
    if len(gs) != len(ys):
        raise ValueError(f"grad_outputs must hold one gradient for each of {len(ys)} outputs, got {len(gs)}")
    for x in xs:
        if x.node is None and not x.requires_grad:
            raise RuntimeError("an input of grad() must be a leaf with requires_grad=True or depend on one")
    edges = [x.node or x for x in xs]
    found = dict(_walk(ys, gs, edges, create_graph))
    results = []
    for x, edge in zip(xs, edges):
        g = found.get(edge)
        g = np.zeros_like(x.data) if g is None else g
        results.append(g if isinstance(g, Tensor) else Tensor(np.array(g) if isinstance(g, np.generic) else g.copy()))
    return results[0] if isinstance(inputs, Tensor) else results


@contextmanager
def no_grad() -> Iterator[None]:
    """Within it, operations on Tensors compute values and record nothing."""
    with _set_recording(False):
        yield


@contextmanager
def enable_grad() -> Iterator[None]:
    """Within it, operations record even inside `no_grad`: a guided sampler differentiates its guide."""
    with _set_recording(True):
        yield


@contextmanager
def _set_recording(recording: bool) -> Iterator[None]:
    before = _recording.get()
    _recording.set(recording)
    try:
        yield
    finally:
        _recording.set(before)


def raw(x: Any) -> Any:
    """The array in a Tensor, or the array itself."""
    return x.data if type(x) is Tensor else x


def _walk(
    outputs: list[Tensor], grads: list[Any], wanted: Iterable[Any], create_graph: bool
) -> Iterator[tuple[Any, Any]]:
    """Yield (leaf or wanted node, gradient), each once, when its gradient is complete."""
    pending: dict[Any, Any] = {}
    wanted = set(wanted)
    for y, g in zip(outputs, grads, strict=True):
        edge = y.node or y
        if g is None:
            if y.data.size != 1:
                raise ValueError(f"a gradient for an output of shape {y.shape} must be given: only a scalar's is 1")
            g = 1.0
        if isinstance(g, int | float):
            g = np.full_like(y.data, g)
        if not hasattr(raw(g), "dtype"):
            raise TypeError(f"a gradient must be an array, a Tensor or a number, got {type(g).__name__}")
        if raw(g).dtype != y.dtype:
            raise TypeError(f"the gradient of a {y.dtype} output is {raw(g).dtype}")
        if raw(g).shape != y.shape:
            raise ValueError(f"the gradient of an output of shape {y.shape} has shape {raw(g).shape}")
        g = (g if isinstance(g, Tensor) else Tensor(g)) if create_graph else raw(g)
        pending[edge] = pending[edge] + g if edge in pending else g
    order = _reachable(list(pending))
    if any(node.parents is None for node in order):
        raise RuntimeError("the tape was freed: backward() walks it once; use grad(create_graph=True) to keep it")
    useful = _leading_to(wanted, order) if wanted else None
    while order:
        node = order.pop()
        if useful is None or node in useful:
            g = pending.pop(node)
            if wanted and node in wanted:
                yield node, g
            for parent, g_parent in _products(node, g, create_graph, useful):
                pending[parent] = pending[parent] + g_parent if parent in pending else g_parent
        if not create_graph:
            node.free()
    yield from ((leaf, g) for leaf, g in pending.items() if isinstance(leaf, Tensor) and (leaf in wanted or not wanted))


def _reachable(edges: list[Any]) -> list[Node]:
    """All nodes below the edges, oldest first. A node is always younger than its parents."""
    seen: set[Any] = set()
    while edges:
        edge = edges.pop()
        if edge is not None and type(edge) is Node and edge not in seen:
            seen.add(edge)
            edges.extend(edge.parents or ())
    return sorted(seen, key=attrgetter("index"))


def _leading_to(wanted: set[Any], order: list[Node]) -> set[Any]:
    """The wanted nodes and those in ``order`` (oldest first) that depend on one: no others need a gradient."""
    useful = set(wanted)
    for node in order:
        if any(parent in useful for parent in node.parents):
            useful.add(node)
    return useful


def _products(node: Node, g: Any, create_graph: bool, useful: set[Any] | None) -> list[tuple[Any, Any]]:
    """The vector-Jacobian products of one node for the parents that lead to a leaf, with broadcast axes summed.

    ``useful`` (all if None) holds the parents whose gradients are asked for.
    """
    if useful is not None and not any(parent in useful for parent in node.parents):
        return []
    args, saved, y = node.saved
    if create_graph:  # the same arrays, as Tensors with their place in the graph
        args = [_rebuild(a, parent) for a, parent in zip(args, node.parents)]
        y = None if y is None else _rebuild(y, node)
    vjps, joint = node.products
    together = joint(g, y, saved, *args, **node.kwargs) if joint is not None else None
    found = []
    for i, parent in enumerate(node.parents):
        if parent is not None and (useful is None or parent in useful):
            g_i = together[i] if together is not None else vjps[i](g, y, *args, **node.kwargs)
            if g_i.shape != node.shapes[i]:
                g_i = unbroadcast(g_i, node.shapes[i])
            found.append((parent, g_i))
    return found


def _rebuild(array: Any, edge: Any) -> Any:
    if array is None or edge is None:
        return array if edge is None else edge
    if type(edge) is Tensor:
        if edge.data is not array:
            raise RuntimeError("the data of a Tensor was replaced while second derivatives needed it")
        return edge
    tensor = Tensor(array)
    tensor.node = edge
    return tensor


def unbroadcast(g: Any, shape: tuple[int, ...]) -> Any:
    """Sum ``g`` over the axes along which an array of this shape was repeated to ``g.shape``."""
    extra = g.ndim - len(shape)
    axes = tuple(range(extra)) + tuple(i + extra for i, n in enumerate(shape) if n == 1 and g.shape[i + extra] != 1)
    return _methods["reshape"](_methods["sum"](g, axis=axes), shape=shape)


# --- arrays that the tape needs are read-only while it needs them ----------------------------------------------------

_locked: dict[int, list[Any]] = {}  # id of an owner of memory -> [how many nodes hold it, the arrays made read-only]


class _Hold:
    """Keeps the owners of memory read-only, and with them the views that were passed to operations.

    Any call may run the garbage collector, which may delete another hold, or raise KeyboardInterrupt. So nothing is
    called between reading ``_locked`` and changing it, and an owner is counted as soon as it is locked.
    """

    __slots__ = ("owners",)

    def __init__(self) -> None:
        self.owners: list[Any] = []

    def __del__(self) -> None:
        for owner in self.owners:
            key = id(owner)
            entry = _locked[key]
            entry[0] -= 1
            if entry[0] == 0:
                del _locked[key]
                for a in entry[1]:  # the owner comes first: a view can only be made writable after it
                    a.flags.writeable = True


def _arrays_in(settings: dict[str, Any]) -> Iterator[Any]:
    """Targets, indices, masks and conditions: the arrays among an operation's settings, and within a tuple of indices."""
    for value in settings.values():
        if isinstance(value, tuple):
            yield from value
        else:
            yield value


def _hold(arrays: Iterable[Any]) -> _Hold | None:
    """Lock those arrays that could still be written to."""
    hold = None
    for a in arrays:
        if not isinstance(a, np.ndarray):
            continue
        owner = _owner(a)
        key = id(owner)
        if key not in _locked and not (owner.flags.writeable and _can_be_opened(owner)):
            continue  # permanently read-only: a result, or an array that the caller made so
        if hold is None:
            hold = _Hold()
        if key not in _locked:
            _locked[key] = [0, [owner]]
            owner.flags.writeable = False
        _locked[key][0] += 1
        hold.owners.append(owner)
        if a.flags.writeable and _can_be_opened(a):
            _locked[key][1].append(a)
            a.flags.writeable = False
    return hold


def _owner(a: np.ndarray) -> np.ndarray:
    """The array at the end of the chain of arrays that this one is a view of; the array itself if it is no view."""
    base: Any = a.base
    while base is not None:
        if isinstance(base, np.ndarray):
            a = base
        base = getattr(base, "base", None)
    return a


def _can_be_opened(a: np.ndarray) -> bool:
    """Whether NumPy lets an array be made writable again: it owns its memory, or got it from an array or a writable buffer."""
    if a.flags.owndata or isinstance(a.base, np.ndarray):
        return True
    try:
        return not memoryview(a.base).readonly  # type: ignore[arg-type]
    except TypeError:
        return False
