"""In CuPy's place where there is no GPU: arrays that refuse what CuPy's refuse, kernels on the emulator.

An array is a NumPy array that nobody can reach by accident: it does not turn into a NumPy array, does not mix with one,
and NumPy's functions go to this module's function of the same name, as CuPy's arrays have it (``__array_ufunc__`` and
``__array_function__`` of cupy/_core/core.pyx). What CuPy lacks is not known here, except for the names in ``LACKS``.
"""

import dataclasses
import sys
import types
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from types import SimpleNamespace

import numpy as np

from kernels import device as dispatch
from kernels import launch
from kernels.emulator import Emulator
from kernels.tensor_map import TensorMap

REFUSED = ("initial", "where")  # of reductions
LACKS = ("errstate", "ndindex", "nditer", "matrix", "testing")
SCALARS = (bool, int, float, complex, np.generic)


class Ndarray(np.lib.mixins.NDArrayOperatorsMixin):
    def __init__(self, array):
        assert type(array) is np.ndarray
        self.on_host = array

    device = SimpleNamespace(id=0)
    shape = property(lambda self: self.on_host.shape)
    dtype = property(lambda self: self.on_host.dtype)
    ndim = property(lambda self: self.on_host.ndim)
    size = property(lambda self: self.on_host.size)
    nbytes = property(lambda self: self.on_host.nbytes)
    itemsize = property(lambda self: self.on_host.itemsize)
    strides = property(lambda self: self.on_host.strides)
    T = property(lambda self: Ndarray(self.on_host.T))
    data = property(lambda self: SimpleNamespace(ptr=self.on_host.ctypes.data))

    @property
    def flags(self):
        flags = self.on_host.flags  # CuPy's arrays have no flag writeable
        return SimpleNamespace(c_contiguous=flags.c_contiguous, f_contiguous=flags.f_contiguous, owndata=flags.owndata)

    def get(self):
        return self.on_host.copy()

    def __array__(self, *args, **kwargs):
        raise TypeError("Implicit conversion to a NumPy array is not allowed.")

    def __array_ufunc__(self, ufunc, method, *inputs, **kwargs):
        return call(ufunc, inputs, kwargs) if method == "__call__" else NotImplemented

    def __array_function__(self, func, kinds, args, kwargs):
        known = hasattr(module, func.__name__) or func.__module__ == "numpy.linalg"
        return call(func, args, kwargs) if known else NotImplemented

    def __len__(self):
        return len(self.on_host)

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    def __bool__(self):
        return bool(self.on_host)

    def __int__(self):
        return int(self.on_host)

    def __float__(self):
        return float(self.on_host)

    def __index__(self):
        return self.on_host.__index__()

    def __getitem__(self, index):
        return there(self.on_host[index_here(index)])

    def __setitem__(self, index, value):
        self.on_host[index_here(index)] = here(value)


Ndarray.__module__, Ndarray.__name__, Ndarray.__qualname__ = "cupy", "ndarray", "ndarray"


def _method(name):
    return lambda self, *args, **kwargs: call(getattr(self.on_host, name), args, kwargs)


METHODS = """all any argmax argmin argsort astype clip copy cumsum dot fill item max mean min prod ravel repeat reshape round
squeeze std sum swapaxes take tolist transpose var view"""
for _name in METHODS.split():
    setattr(Ndarray, _name, _method(_name))


def here(x):
    """What lies in the arrays of an argument; TypeError for NumPy's."""
    if isinstance(x, Ndarray):
        return x.on_host
    if isinstance(x, np.ndarray):
        raise TypeError("Unsupported type <class 'numpy.ndarray'>")
    if isinstance(x, tuple | list):
        return type(x)(here(part) for part in x)
    if isinstance(x, dict):
        return {key: here(part) for key, part in x.items()}
    return x


def index_here(x):
    """As ``here``; an index may be NumPy's array, which CuPy moves (cupy/_core/_routines_indexing.pyx)."""
    if isinstance(x, tuple):
        return tuple(map(index_here, x))
    return x if isinstance(x, np.ndarray) else here(x)


def there(x):
    """A result of NumPy's as CuPy gives it: numbers are arrays without axes."""
    if hasattr(x, "_fields"):
        return type(x)(*map(there, x))
    if isinstance(x, tuple | list):
        return type(x)(there(part) for part in x)
    return Ndarray(np.asarray(x)) if isinstance(x, np.ndarray | np.generic) else x


def call(function, args, kwargs):
    for name in REFUSED:
        if name in kwargs:
            raise TypeError(f"{function.__name__}() got an unexpected keyword argument {name!r}")
    return there(function(*here(args), **here(kwargs)))


def asarray(x, dtype=None):
    return Ndarray(np.array(here(x) if isinstance(x, Ndarray) else x, dtype))  # a copy, as going to a GPU is one


class Module(types.ModuleType):
    """The module ``cupy``: NumPy's functions for these arrays, NumPy's types and constants as they are."""

    def __getattr__(self, name):
        if name in LACKS or name.startswith("__"):
            raise AttributeError(f"module 'cupy' has no attribute {name!r}")
        found = getattr(np, name)
        if isinstance(found, type) or not callable(found):
            return found
        function = lambda *args, **kwargs: call(found, args, kwargs)  # noqa: E731
        if name == "add":
            function.at = lambda y, index, x: np.add.at(here(y), index_here(index), here(x))
        return function


module = Module("cupy")
module.__spec__ = ModuleSpec("cupy", None)
module.ndarray, module.asarray, module.array = Ndarray, asarray, asarray


class Event:
    """A card whose time goes on by a millisecond with every launch, and a little with every event."""

    now = 0.0

    def record(self):
        Event.now += 0.01
        self.at = Event.now

    def synchronize(self):
        assert self.at <= Event.now


module.cuda = SimpleNamespace(
    Device=lambda *number: SimpleNamespace(id=0, compute_capability="90", synchronize=lambda: None),
    Event=Event,
    get_elapsed_time=lambda a, b: b.at - a.at,
    runtime=SimpleNamespace(
        getDeviceCount=lambda: 1,
        getDeviceProperties=lambda number: {
            "name": b"A card of paper",
            "multiProcessorCount": 1,
            "l2CacheSize": 1 << 10,
        },
        driverGetVersion=lambda: 13010,
        runtimeGetVersion=lambda: 13000,
    ),
)
module.__version__ = "0.0"
module.get_default_memory_pool = lambda: SimpleNamespace(free_all_blocks=lambda: None)


class Gpu:
    """In ``launch.Device``'s place: a fresh emulator for each launch, so that nothing is kept of what it ran."""

    architecture, xp = "90a", module

    def __init__(self):
        self.launched, self.findings = {}, []

    def empty(self, shape, dtype):
        array = np.empty(shape, dtype)
        array.reshape(-1).view(np.uint8)[:] = 0xFF
        return Ndarray(array)

    def result(self, array, name="the result"):
        return array

    def run(self, source, kernel, grid, threads, arguments, **settings):
        for name, value in arguments.items():
            if isinstance(value, np.ndarray):
                raise TypeError(f"kernel {kernel}: {name} must be on the GPU, got a NumPy array")
        emulator = Emulator()
        on_host = {
            k: dataclasses.replace(v, array=here(v.array)) if isinstance(v, TensorMap) else here(v)
            for k, v in arguments.items()
        }
        emulator.run(source, kernel, grid, threads, on_host, **settings)
        self.findings += emulator.findings
        Event.now += 1
        folder = source.parent.name
        self.launched[folder] = self.launched.get(folder, 0) + 1


@contextmanager
def installed(kernels=True):
    """Within it ``cupy`` is this module; gives the GPU, which counts launches by folder and collects findings.

    Without ``kernels``, operations are computed by their definitions, as those on float64 are: faster than emulated.
    """
    gpu = Gpu()
    before, device, nvrtc, gpu_of = sys.modules.get("cupy"), launch.Device, launch.nvrtc, dispatch._gpu_of
    sys.modules["cupy"], launch.Device, launch.nvrtc = module, lambda: gpu, lambda: None
    if not kernels:
        dispatch._gpu_of = lambda arrays: None
    dispatch._gpu.cache_clear()
    try:
        yield gpu
    finally:
        launch.Device, launch.nvrtc, dispatch._gpu_of = device, nvrtc, gpu_of
        dispatch._gpu.cache_clear()
        if before is None:
            del sys.modules["cupy"]
        else:
            sys.modules["cupy"] = before
