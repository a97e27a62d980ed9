"""What a caller may hand to the public functions of ``kernels``: the right result or one clear error, on NumPy and on the device.

The device is the emulator, which reports what would be a fault on a GPU. Every function is called with views that lie in
every way an array can lie, with NumPy's numbers in the place of Python's, and with arguments that are wrong, one by one.
"""

import importlib
import inspect
from contextlib import contextmanager, nullcontext

import cupy_on_cpu
import numpy as np
import pytest
from numpy.lib.stride_tricks import as_strided
from rungs import needs_compiler

from kernels import activation, adam, attention, cross_entropy, embedding, matmul, norm, sampler_step
from kernels.checks import check_float
from kernels.compare import assert_close, bound
from kernels.device import contiguous, running_on
from kernels.emulator import Emulator
from kernels.source import ROOT

PATHS = [pytest.param("numpy"), pytest.param("device", marks=needs_compiler)]
every_path = pytest.mark.parametrize("path", PATHS)


@contextmanager
def on(path):
    """Inside, NumPy arrays are where ``path`` says; the emulator must find nothing."""
    device = Emulator() if path == "device" else None
    with running_on(device) if device else nullcontext():
        yield
    if device:
        device.check()


def normal(*shape, seed=0):
    return np.random.default_rng((seed, *shape)).standard_normal(shape).astype(np.float32)


# --- every public function with plain arguments -----------------------------------------------------------------------

X, G, W = normal(2, 4, 4, 2), normal(2, 4, 4, 3), normal(3, 3, 2, 3)
Q, K, V = normal(2, 2, 3, 4), normal(2, 2, 5, 4), normal(2, 2, 5, 6)
MASK = np.array([[True, True, False, True, True], [False, True, True, True, True]])
ROWS, GAMMA, BETA = normal(4, 6), normal(6, seed=1), normal(6, seed=2)
CHANNELS, OWN = normal(2, 3, 6), normal(2, 6)
CODES = np.arange(12, dtype=np.int8).reshape(4, 3)
CLASSES, PLACES = np.array([3, 0, 5, 5]), np.array([[2, 0], [2, 4]])
TO_MASK = {"causal": True, "key_mask": MASK, "scale": 0.5}
TO_FIT = {"stride": 1, "padding": 1}
GROUPED = {"groups": 2, "eps": 1e-5, "silu": True}
AT = {"seed": 7, "first": 1, "step": 2, "purpose": 3}
STEP = {"step": 2, "lr": 0.1, "beta1": 0.9, "beta2": 0.99, "eps": 1e-8, "weight_decay": 0.1}
LEVELS = {"a_t": 0.3, "a_u": 0.7, "scale": 2.0, "kind": "eps", "eta": 0.5, "clip": 1.0}

CALLS = {
    "activation.silu": {"x": X},
    "activation.silu_grad": {"g": X[::-1].copy(), "x": X},
    "activation.gelu": {"x": X},
    "activation.gelu_grad": {"g": X[::-1].copy(), "x": X},
    "activation.gelu_forward": {"x": X},
    "activation.gelu_backward": {"g": X[::-1].copy(), "saved": X},
    "activation.softplus": {"x": X},
    "adam.adam_step": {"p": ROWS[0], "g": ROWS[1], "m": ROWS[2], "v": ROWS[3] ** 2, **STEP},
    "attention.attention": {"q": Q, "k": K, "v": V, **TO_MASK},
    "attention.attention_forward": {"q": Q, "k": K, "v": V, **TO_MASK},
    "attention.attention_backward": {"g": normal(2, 2, 3, 6), "q": Q, "k": K, "v": V, "o": None, "saved": None, **TO_MASK},
    "codebook.codebook_ema": {"N": GAMMA**2, "m": ROWS.T.copy(), "e": normal(6, 4), "z": normal(4, 4), "codes": CLASSES, "gamma": 0.9},
    "conv2d.conv2d": {"x": X, "w": W, "b": normal(3), "time": normal(2, 3), "residual": G, **TO_FIT},
    "conv2d.conv2d_grad_x": {"g": G, "w": W, "x_shape": X.shape, **TO_FIT},
    "conv2d.conv2d_grad_w": {"x": X, "g": G, "w_shape": W.shape, **TO_FIT},
    "conv2d.conv_transpose2d": {"x": X, "w": W, "b": normal(3), **TO_FIT, "output_padding": 0},
    "conv2d.conv_transpose2d_grad_x": {"g": G, "w": W, **TO_FIT},
    "conv2d.conv_transpose2d_grad_w": {"x": X, "g": G, "w_shape": W.shape, **TO_FIT},
    "cross_entropy.cross_entropy_forward": {"logits": ROWS, "targets": CLASSES},
    "cross_entropy.cross_entropy_backward": {"g": normal(4), "logits": ROWS, "targets": CLASSES, "saved": None},
    "eight_bit.quantize": {"x": ROWS, "axis": 1, "form": "int8"},
    "eight_bit.dequantize": {"codes": CODES, "scale": normal(3), "axis": 1, "form": "int8"},
    "eight_bit.linear_weight_only": {"x": normal(2, 4), "codes": CODES, "scale": normal(3), "bias": normal(3, seed=1)},
    "eight_bit.linear_int8": {"x_codes": CODES.T.copy(), "x_scale": normal(3), "codes": CODES, "scale": normal(3), "bias": normal(3, seed=1)},
    "eight_bit.linear_fp8": {"x_codes": CODES.T.copy().view(np.uint8), "x_scale": normal(3), "codes": CODES.view(np.uint8), "scale": normal(3), "bias": normal(3, seed=1), "x_form": "e5m2", "form": "e4m3"},
    "eight_bit.decode": {"codes": CODES.view(np.uint8), "form": "e4m3"},
    "eight_bit.encode": {"x": ROWS, "form": "e4m3"},
    "embedding.embedding": {"table": ROWS.T.copy(), "indices": PLACES},
    "embedding.embedding_grad": {"g": normal(2, 2, 3), "indices": PLACES, "rows": 5},
    "matmul.matmul": {"a": normal(2, 3, 4), "b": normal(4, 5)},
    "matmul.linear": {"x": normal(2, 3, 4), "w": normal(4, 5), "b": normal(5)},
    "matmul.sum_rows": {"g": CHANNELS},
    "norm.group_norm_forward": {"x": CHANNELS, "gamma": GAMMA, "beta": OWN, **GROUPED},
    "norm.group_norm_backward": {"g": normal(2, 3, 6, seed=1), "x": CHANNELS, "gamma": GAMMA, "beta": OWN, "saved": None, **GROUPED},
    "norm.layer_norm_forward": {"x": ROWS, "gamma": GAMMA, "beta": BETA, "eps": 1e-5},
    "norm.layer_norm_backward": {"g": normal(4, 6, seed=1), "x": ROWS, "gamma": GAMMA, "saved": None, "eps": 1e-5},
    "quantize.nearest_code": {"z": normal(4, 3), "codebook": normal(5, 3)},
    "quantize.quantize": {"z": normal(4, 3), "codebook": normal(5, 3)},
    "random.normal": {"shape": (3, 4), **AT, "dtype": np.float32, "like": X},
    "random.random_bits": {"shape": (3, 4), **AT, "like": X},
    "random.uniform": {"shape": (3, 4), **AT, "dtype": np.float32, "like": X},
    "resample.avg_pool": {"x": X, "factor": 2},
    "resample.avg_pool_grad": {"g": X, "factor": 2},
    "resample.upsample_nearest": {"x": X, "factor": 2},
    "resample.upsample_nearest_grad": {"g": X, "factor": 2},
    "sampler_step.ddim_step": {"x_t": ROWS, "conditional": normal(4, 6, seed=1), "unconditional": normal(4, 6, seed=2), **LEVELS, "noise": normal(4, 6, seed=3)},
}  # fmt: skip
every_call = pytest.mark.parametrize("name", CALLS)
WITHOUT = {
    "sampler_step.plan",
    "random.Stream",
    "eight_bit.FORMS",
    "eight_bit.LARGEST",
    "quantize.Quantized",
}  # they take no arrays
OPTIONAL = {
    "b",
    "bias",
    "time",
    "residual",
    "key_mask",
    "clip",
    "like",
    "unconditional",
}  # and "scale" and "saved" of attention


def function(name):
    """The function itself, without the shape checks that tests switch on."""
    folder, _, function_name = name.partition(".")
    return inspect.unwrap(getattr(importlib.import_module(f"kernels.{folder}"), function_name))


def arguments(name):
    """The plain arguments, made anew, with what the forward pass keeps; to be called on the path that is meant."""
    given = {key: x.copy() if isinstance(x, np.ndarray) else x for key, x in CALLS[name].items()}
    if name == "attention.attention_backward":
        given["o"], given["saved"] = attention.attention_forward(Q, K, V, **TO_MASK)
    elif name == "cross_entropy.cross_entropy_backward":
        given["saved"] = cross_entropy.cross_entropy_forward(ROWS, CLASSES)[1]
    elif name == "norm.group_norm_backward":
        given["saved"] = norm.group_norm_forward(CHANNELS, GAMMA, OWN, **GROUPED)[1]
    elif name == "norm.layer_norm_backward":
        given["saved"] = norm.layer_norm_forward(ROWS, GAMMA, BETA)[1]
    return given


def results(name, given):
    """What the function returns, or has changed, as a list of arrays; not what is for a backward pass."""
    result = function(name)(**given)
    if name == "adam.adam_step":
        return [given[key] for key in "pmv"]
    if name.endswith("_forward"):
        return [result[0]]
    return list(result) if isinstance(result, tuple) else [result]


def test_every_public_function_is_here():
    folders = [file.parent.name for file in ROOT.glob("*/reference.py")]
    public = {f"{f}.{name}" for f in folders for name in importlib.import_module(f"kernels.{f}").__all__}
    new, gone = sorted(public - WITHOUT - CALLS.keys()), sorted(CALLS.keys() - (public - WITHOUT))
    assert not new, f"CALLS in {__file__}, or WITHOUT, needs {', '.join(new)}"
    assert not gone, f"CALLS in {__file__} has {', '.join(gone)}, which no __all__ has"


# --- however an array lies --------------------------------------------------------------------------------------------


def unaligned(x):
    y = np.empty(x.nbytes + 1, np.uint8)[1:].view(x.dtype).reshape(x.shape)
    y[...] = x
    return y


def backwards(x):
    """Negative strides along every axis."""
    turn = (slice(None, None, -1),) * x.ndim
    return x[turn].copy()[turn]


def gaps(x):
    """Every third number of memory that holds others between, unaligned."""
    y = unaligned(np.full((*x.shape, 3), 99).astype(x.dtype))
    y[..., 1] = x
    return y[..., 1]


def repeated(x):
    """The first of the leading axis in the place of all, without taking memory for them; not to be written."""
    return np.broadcast_to(x[:1], x.shape)


VIEWS = {
    "unaligned": [unaligned],
    "backwards": [backwards],
    "Fortran": [lambda x: x.copy(order="F")],
    "gaps": [gaps],
    "broadcast": [repeated],
    "mixed": [unaligned, backwards, lambda x: x.copy(order="F"), gaps, repeated],
}
# On NumPy a sum is BLAS's where the arrays lie as it takes them, and has another order of terms than NumPy's own.
BY_BLAS = {
    *("adam.adam_step", "attention.attention_backward", "matmul.linear", "matmul.matmul", "matmul.sum_rows"),
    *("norm.layer_norm_backward", "norm.layer_norm_forward"),
}
ON_NUMPY = {"adam.adam_step", "matmul.sum_rows"}  # whatever the path, with buffers that are views; and always


@every_path
@every_call
@pytest.mark.parametrize("kind", VIEWS)
def test_a_view_gives_what_its_copy_gives(kind, name, path):
    with on(path):
        given = arguments(name)
        arrays = [key for key, x in given.items() if isinstance(x, np.ndarray) and key not in ("saved", "like")]
        for i, key in enumerate(arrays):
            view = VIEWS[kind][i % len(VIEWS[kind])]
            if not (view is repeated and name == "adam.adam_step" and key in "pmv"):  # these are written
                given[key] = view(given[key])
        plain = {**given, **{key: given[key].copy(order="C") for key in arrays}}
        before = {key: given[key].copy() for key in arrays}
        got, want = results(name, given), results(name, plain)
    for key in arrays:
        if not (name == "adam.adam_step" and key in "pmv"):
            np.testing.assert_array_equal(given[key], before[key])
    for g, w in zip(got, want, strict=True):
        assert (g.dtype, g.shape) == (w.dtype, w.shape)
        if name in BY_BLAS and (path == "numpy" or name in ON_NUMPY):
            assert_close(g, w, bound(24, 1 + np.abs(w).max(), np.float32))
        else:
            assert g.tobytes() == w.tobytes()


def test_contiguous_copies_what_a_kernel_cannot_read():
    x = normal(3, 4)
    for other in (unaligned(x), backwards(x), gaps(x), repeated(x), x.T, np.float32(2)):
        copy = contiguous(other)
        assert type(copy) is np.ndarray and copy.flags.c_contiguous and copy.flags.aligned
        np.testing.assert_array_equal(copy, other)
    assert contiguous(x) is x


@needs_compiler
def test_a_number_beside_an_array_without_axes():
    with on("device"):
        got = activation.silu_grad(np.array(1, np.float32), np.float32(2))
    assert_close(got, activation.silu_grad(np.array(1.0), np.array(2.0)), bound(16, 2, np.float32))


@every_path
@every_call
def test_numpy_numbers_are_as_good_as_pythons(name, path):
    with on(path):
        plain, given = arguments(name), arguments(name)
        for key, x in given.items():
            kind = {bool: np.bool_, int: np.int64, float: np.float64}.get(type(x))
            if kind is not None:
                given[key] = kind(x)
            elif isinstance(x, tuple) and all(type(size) is int for size in x):
                given[key] = tuple(map(np.int64, x))
        got, want = results(name, given), results(name, plain)
    for g, w in zip(got, want, strict=True):
        assert g.dtype == w.dtype and g.tobytes() == w.tobytes()


@pytest.fixture(autouse=True)
def unchecked_plan(monkeypatch):
    monkeypatch.setattr(sampler_step, "plan", inspect.unwrap(sampler_step.plan))  # ddim_step calls it


# --- what is wrong ----------------------------------------------------------------------------------------------------


def wrong(x):
    """Values of the wrong kind in the place of ``x``."""
    if isinstance(x, np.ndarray):
        yield from (None, x.tolist(), "a", 1.5, normal(1, 1, 1, 1, 1).astype(np.complex64), np.ma.array(x))
        yield from (x.astype(np.float16), x.astype(object), np.array("a"))
        yield x.astype(np.int32 if x.dtype.kind == "f" else np.float32)
        if x.dtype.kind == "f":
            yield x.astype(x.dtype.newbyteorder())
    elif isinstance(x, bool):
        yield from (None, 1, 0.0, "a", np.array(True))
    elif isinstance(x, int):
        yield from (None, 1.5, 4.0, "a", True, -1, 2**70, np.array(1), [1.5], float("nan"))
    elif isinstance(x, float):
        yield from (None, "a", True, float("nan"), 1j, [0.5, 0.5], np.array("a"))
    elif isinstance(x, str):
        yield from (None, 1, "a", np.array(["a", "b"]), [x])
    elif isinstance(x, tuple):
        yield from (None, 5, "a", (), (*x[:-1], 1.5), (*x[:-1], -1), (*x[:-1], None), (*x[:-1], True))
    elif isinstance(x, type):
        yield from (None, 1, "float16", np.int32, ">f4", [1.0])


def allowed(name, key, value):
    """Whether ``value``, of ``wrong``, is right all the same."""
    if value is None:
        return key in OPTIONAL or (name.startswith("attention") and key in ("saved", "scale"))
    if (name, key) == ("sampler_step.ddim_step", "scale"):
        return isinstance(value, float)  # NaN is the result, then
    return key == "like" and isinstance(value, np.ndarray)


@every_call
def test_what_is_wrong_is_told_in_one_sentence_that_names_it(name):
    for key, plain in CALLS[name].items():
        for value in wrong(plain):
            if allowed(name, key, value):
                continue
            errors = []
            for device in (None, Emulator()):
                with running_on(device):
                    given = {**arguments(name), key: value}
                    with pytest.raises((TypeError, ValueError)) as error:
                        function(name)(**given)
                errors.append((error.type, str(error.value)))
            assert errors[0] == errors[1], (key, value)
            said = errors[0][1].replace(repr(value), "")
            assert key in said and "\n" not in said and not said.startswith("kernel "), (key, value, errors[0])


@pytest.mark.parametrize("dtype", [">f4", ">f8"])
def test_arrays_in_another_byte_order_are_refused(dtype):
    if np.dtype(dtype).isnative:
        dtype = dtype.replace(">", "<")
    x = normal(4, 4).astype(dtype)
    for call in (lambda: matmul.matmul(x, x), lambda: matmul.linear(x, x), lambda: activation.silu(x)):
        with pytest.raises(TypeError, match="must be in the machine's byte order, got "):
            call()
    with pytest.raises(TypeError, match="p must be in the machine's byte order"):
        adam.adam_step(x[0], x[1], x[2], x[3], step=1, lr=0.1)


@every_path
def test_indices_may_be_in_any_byte_order(path):
    with on(path):
        for dtype in (">i8", "<i8", ">u2", "u1", "i4"):
            got = embedding.embedding_grad(normal(4, 3), CLASSES.astype(dtype), 6)
            np.testing.assert_array_equal(got, embedding.embedding_grad(normal(4, 3), CLASSES, 6))
            loss = cross_entropy.cross_entropy_forward(ROWS, CLASSES.astype(dtype))[0]
            np.testing.assert_array_equal(loss, cross_entropy.cross_entropy_forward(ROWS, CLASSES)[0])


# --- what a forward pass has kept -------------------------------------------------------------------------------------

OTHERS = {
    "attention.attention_backward": lambda: attention.attention_forward(Q[:, :, :2], K, V, **TO_MASK)[1],
    "cross_entropy.cross_entropy_backward": lambda: cross_entropy.cross_entropy_forward(ROWS[:2], CLASSES[:2])[1],
    "norm.group_norm_backward": lambda: norm.group_norm_forward(CHANNELS, GAMMA, BETA, 3)[1],
    "norm.layer_norm_backward": lambda: norm.layer_norm_forward(ROWS[:2], GAMMA, BETA)[1],
}


@every_path
@pytest.mark.parametrize("name", OTHERS)
def test_a_backward_pass_takes_only_what_its_forward_pass_has_kept(name, path):
    with on(path):
        given = arguments(name)
        function(name)(**given)
        forward = name.partition(".")[2].replace("backward", "forward")
        for saved in (5, "a", (), [1.0], {}, None):
            if saved is not None or "attention" not in name:
                with pytest.raises(TypeError, match=f"^saved must be what {forward} returned on the same device, got "):
                    function(name)(**{**given, "saved": saved})
        with pytest.raises(ValueError, match=r"^saved belongs to a forward pass of other shapes"):
            function(name)(**{**given, "saved": OTHERS[name]()})
        if "cross_entropy" in name:
            with pytest.raises(ValueError, match=r"^saved belongs to a forward pass of other shapes"):
                function(name)(**{**given, "saved": (1, 2)})


@needs_compiler
@pytest.mark.parametrize("name", ["norm.group_norm_backward", "norm.layer_norm_backward"])
def test_what_was_kept_on_another_device_is_refused(name):
    kept = arguments(name)["saved"]
    with on("device"):
        given = arguments(name)
        with pytest.raises(TypeError, match="returned on the same device, got Saved"):
            function(name)(**{**given, "saved": kept})
    with pytest.raises(TypeError, match="returned on the same device, got ndarray"):
        function(name)(**given)


# --- Adam's buffers ---------------------------------------------------------------------------------------------------


@every_path
def test_adam_refuses_buffers_that_overlap(path):
    memory = np.ones(60, np.float32)
    p, g, m, v = memory.reshape(4, 15)
    strided = memory[::2], memory[1::2]  # these do not
    cases = {
        "p and m": (p, g, p, v),
        "g and v": (p, g, m, g),
        "m and v": (p, g, memory[30:45], memory[44:59]),
        "p and g": (p, p[::-1], m, v),
        "p and v": (strided[0], np.ones(30, np.float32), np.ones(30, np.float32), memory[2:32]),
    }
    before = memory.copy()
    with on(path):
        for names, buffers in cases.items():
            with pytest.raises(ValueError, match=f"must not overlap, got {names} that share memory"):
                adam.adam_step(*buffers, step=1, lr=0.1)
        for first, stride in ((m, 0), (m, 2), (m[14:], -3)):
            with pytest.raises(ValueError, match="m is updated in place and must not overlap itself"):
                adam.adam_step(p, g, as_strided(first, (15,), (stride,)), v, step=1, lr=0.1)
        np.testing.assert_array_equal(memory, before)
        empty = memory[:0]
        adam.adam_step(empty, empty, empty, empty, step=1, lr=0.1)
        adam.adam_step(*strided, np.ones(30, np.float32), np.ones(30, np.float32), step=1, lr=0.1)
    assert (memory[::2] != before[::2]).all() and (memory[1::2] == before[1::2]).all()


# --- on a GPU ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_a_gpu_cannot_read_is_refused(dtype):
    with cupy_on_cpu.installed():
        x, odd = (cupy_on_cpu.Ndarray(a) for a in (normal(4, 4).astype(dtype), unaligned(normal(4, 4).astype(dtype))))
        check_float("x", x)
        for name, call in (
            ("x", lambda: activation.silu(odd)),
            ("w", lambda: matmul.linear(x, odd)),
            ("g", lambda: adam.adam_step(x[0], odd[1], x[2], x[3], step=1, lr=0.1)),
            ("m", lambda: adam.adam_step(x[0], x[1], odd[2], x[3], step=1, lr=0.1)),
            ("noise", lambda: sampler_step.ddim_step(x, x, a_t=0.3, a_u=0.7, noise=odd)),
        ):
            with pytest.raises(ValueError, match=rf"^{name} must begin at a multiple of {x.itemsize} bytes on a GPU"):
                call()


@needs_compiler
def test_adams_buffers_are_told_apart_on_a_gpu_without_a_look_at_every_address(monkeypatch):
    with cupy_on_cpu.installed():
        buffers = [cupy_on_cpu.Ndarray(np.ones(8, np.float32)) for _ in range(4)]
        with pytest.raises(ValueError, match="must not overlap, got p and m that share memory"):
            adam.adam_step(buffers[0], buffers[1], buffers[0], buffers[3], step=1, lr=0.1)
        monkeypatch.setattr(cupy_on_cpu.module, "shares_memory", None, raising=False)
        adam.adam_step(*buffers, step=1, lr=0.1)
    assert (buffers[0].get() < 1).all()


def test_a_mix_of_devices_is_refused():
    with cupy_on_cpu.installed():
        for name in CALLS:
            given = arguments(name)
            arrays = [key for key, x in given.items() if isinstance(x, np.ndarray) and key not in ("like", "saved")]
            for key in arrays if len(arrays) > 1 else []:
                with pytest.raises(TypeError, match="different devices"):
                    function(name)(**{**given, key: cupy_on_cpu.Ndarray(given[key])})
