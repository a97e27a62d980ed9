"""``kernels.precision``: which rung a product takes, what NumPy computes in its place, and what stays float32."""

import threading

import numpy as np
import pytest
from emulation import Counting
from rungs import needs_compiler

from kernels import attention, bfloat16, conv2d, matmul
from kernels.backend import to_numpy
from kernels.compare import assert_close, bound
from kernels.device import running_on
from kernels.emulator import Emulator
from kernels.matmul.cuda import as_bf16
from kernels.precision import PRECISIONS, in_force, precision

UNIT = {"bf16": bfloat16.UNIT_ROUNDOFF, "tf32": 2.0**-11}


def normal(*shape):
    return np.random.default_rng(shape).standard_normal(shape).astype(np.float32)


def gradients(q, k, v, g, **how):
    o, saved = attention.attention_forward(q, k, v, **how)
    return o, *attention.attention_backward(g, q, k, v, o, saved, **how)


HEADS = (normal(1, 2, 40, 16), normal(1, 2, 30, 16), normal(1, 2, 30, 24), normal(1, 2, 40, 24))
HALF = {"stride": 2, "padding": 1}
# name -> the call, its factors, terms of a sum, the kernel
PRODUCTS = {
    "matmul": (matmul.matmul, (normal(70, 56), normal(56, 88)), 56, "matmul"),
    "transposed": (lambda a, b: matmul.matmul(a.T, b), (normal(56, 24), normal(56, 40)), 56, "matmul"),
    "batch": (matmul.matmul, (normal(2, 3, 9, 8), normal(2, 3, 8, 16)), 8, "matmul"),
    "vector": (matmul.matmul, (normal(9), normal(9, 4)), 9, "matmul"),
    "linear": (
        lambda x, w: matmul.linear(x, w, np.full(24, 0.3, x.dtype)), (normal(2, 5, 16), normal(16, 24)), 17, "matmul",
    ),
    "conv2d": (
        lambda x, w: conv2d.conv2d(x, w, **HALF), (normal(2, 6, 5, 16), normal(3, 3, 16, 8)), 144, "conv2d",
    ),
    "conv2d_grad_x": (
        lambda g, w: conv2d.conv2d_grad_x(g, w, (2, 6, 5, 16), **HALF),
        (normal(2, 3, 3, 8), normal(3, 3, 16, 8)), 72, "conv2d_grad_x",
    ),
    "conv2d_grad_w": (
        lambda x, g: conv2d.conv2d_grad_w(x, g, (3, 3, 16, 8), **HALF),
        (normal(2, 6, 5, 16), normal(2, 3, 3, 8)), 18, "conv2d_grad_w",
    ),
    "conv_transpose2d": (
        lambda x, w: conv2d.conv_transpose2d(x, w, **HALF),
        (normal(2, 3, 4, 16), normal(3, 3, 16, 8)), 144, "conv2d_grad_x",
    ),
    "conv_transpose2d_grad_x": (
        lambda g, w: conv2d.conv_transpose2d_grad_x(g, w, **HALF),
        (normal(2, 5, 7, 8), normal(3, 3, 16, 8)), 72, "conv2d",
    ),
    "conv_transpose2d_grad_w": (
        lambda x, g: conv2d.conv_transpose2d_grad_w(x, g, (3, 3, 16, 8), **HALF),
        (normal(2, 3, 4, 16), normal(2, 5, 7, 8)), 24, "conv2d_grad_w",
    ),
}  # fmt: skip
every_product = pytest.mark.parametrize("name", PRODUCTS)


@needs_compiler
@every_product
@pytest.mark.parametrize("architecture, said", [("90a", "bf16"), ("80", "bf16"), ("90a", "tf32")])
def test_a_product_takes_tensor_cores_and_numpy_multiplies_what_they_do(name, architecture, said):
    """Both are the float64 product of the rounded factors, but for the rounding of float32 sums."""
    call, factors, terms, kernel = PRODUCTS[name]
    file = ("4_wgmma" if (architecture, said) == ("90a", "bf16") else "3_mma") + "_gradients" * ("grad" in kernel)
    with precision(said):
        with running_on(Counting(architecture)) as device:
            got = call(*factors)
        plain = call(*factors)
        wide = call(*(x.astype(np.float64) for x in factors))
    device.check()
    rounding = {"matmul/to_bf16:to_bf16s"} if said == "bf16" else set()
    assert set(device.launched) == {f"{kernel.partition('_')[0]}/{file}:{kernel}_{said}"} | rounding
    to = bfloat16.rounded if said == "bf16" else bfloat16.rounded_to_tf32
    exact = [to(x).astype(np.float64) for x in factors]
    size = call(*(abs(x) for x in exact))
    for what, result in (("the rung", got), ("NumPy", plain)):
        assert result.dtype == np.float32
        assert_close(result, call(*exact), bound(terms, size, np.float32, 4), what)
    off = np.abs(plain - wide)
    assert (off <= 2 * UNIT[said] * size + bound(terms, size, np.float32)).all() and off.max() > UNIT[said] / 8
    np.testing.assert_array_equal(wide, call(*(x.astype(np.float64) for x in factors)))  # float64 is not rounded
    assert_close(call(*factors), wide, bound(terms, size, np.float32, 4), "outside")


@needs_compiler
@pytest.mark.parametrize("how", [{}, {"causal": True}], ids=["short", "causal"])
@pytest.mark.parametrize("architecture", ["90a", "80"])
def test_attention_takes_tensor_cores_for_its_gradients_too(how, architecture):
    with precision("bf16"):
        with running_on(Counting(architecture)) as device:
            got = gradients(*HEADS, **how)
        plain = gradients(*HEADS, **how)
    device.check()
    file = "4_wgmma" if architecture == "90a" else "3_mma"
    kernels = {f"{file}_backward:grad_q", f"{file}_backward:grad_kv", "3_mma_backward:deltas"}
    kernels.add(f"{file if how else '3_short'}:attention")
    assert set(device.launched) == {f"attention/{kernel}" for kernel in kernels} | {"matmul/to_bf16:to_bf16s"}
    rounded = gradients(*(bfloat16.rounded(x).astype(np.float64) for x in HEADS), **how)
    exact = gradients(*(x.astype(np.float64) for x in HEADS), **how)
    for g, p, r, e in zip(got, plain, rounded, exact):
        size = np.abs(e).max()
        assert_close(p, r, bound(64, size, np.float32, 4), "NumPy")
        assert_close(g, r, 4 * UNIT["bf16"] * size, "the rung, which rounds probabilities and slopes, too")
        assert np.abs(r - e).max() > UNIT["bf16"] / 16 * size


@needs_compiler
@pytest.mark.parametrize(
    "d, said, architecture", [(12, "bf16", "90a"), (16, "tf32", "90a"), (16, "bf16", "75"), (16, "float32", "90a")]
)
def test_where_attention_stays_float32(d, said, architecture):
    """Heads that are no multiple of 8, no rung in tf32, and a GPU whose tensor cores know no bfloat16."""
    q, k, v, g = (x[..., :d] for x in HEADS)
    with precision(said):
        with running_on(Counting(architecture)) as device:
            got = gradients(q, k, v, g, causal=True)
        plain = gradients(q, k, v, g, causal=True)
    device.check()
    files = {kernel.partition(":")[0] for kernel in device.launched}
    assert files == {"attention/2_online_softmax", "attention/2_recomputed_backward"}
    wide = gradients(*(x.astype(np.float64) for x in (q, k, v, g)), causal=True)
    for a, b, want in zip(got, plain, wide):
        assert_close(a, want, bound(64, np.abs(want).max(), np.float32, 4))
        if said != "bf16":
            assert_close(b, want, bound(64, np.abs(want).max(), np.float32, 4))


@needs_compiler
@pytest.mark.parametrize("said", PRECISIONS)
def test_a_gpu_before_ampere_rounds_nothing(said):
    call, factors, *_ = PRODUCTS["matmul"]
    with precision(said), running_on(Counting("75")) as device:
        got = call(*factors)
    with running_on(Counting("75")) as other:
        np.testing.assert_array_equal(got, call(*factors))
    assert device.launched == other.launched == {"matmul/2_tiled:matmul": 1}


def test_a_precision_is_for_this_thread_and_ends_with_its_block():
    seen = []
    with precision("bf16"):
        with precision("float32"):
            seen.append(in_force())
        thread = threading.Thread(target=lambda: seen.append(in_force()))
        thread.start()
        thread.join()
        seen.append(in_force())
        with pytest.raises(ZeroDivisionError), precision("tf32"):
            seen.append(in_force())
            raise ZeroDivisionError
        seen.append(in_force())
    assert [*seen, in_force()] == ["float32", "float32", "bf16", "tf32", "bf16", "float32"]
    for name in ("fp16", "", None):
        with pytest.raises(ValueError, match=r"^precision must be one of float32, tf32, bf16, got "), precision(name):
            pass


def test_nan_and_infinity_stay_what_they_are():
    x = np.float32([np.nan, -np.nan, np.inf, -np.inf, 0, -0.0, 1 + 2**-9, np.finfo(np.float32).max])
    x[:1].view(np.uint32)[...] = 0x7FFFFFFF
    for to in (bfloat16.rounded, bfloat16.rounded_to_tf32):
        y = to(x)
        np.testing.assert_array_equal(y[:6], x[:6])
        np.testing.assert_array_equal(np.signbit(y[2:6]), np.signbit(x[2:6]))
        assert y[7] == np.inf
    one = np.ones((1, 1), np.float32)
    for said in ("bf16", "tf32"):
        with precision(said):
            np.testing.assert_array_equal(matmul.matmul(x[:4, None], one)[:, 0], x[:4])


# --- the kernel that rounds -------------------------------------------------------------------------------------------


@needs_compiler
@pytest.mark.parametrize("n", [0, 1, 2, 3, 4, 5, 1023, 1024, 1030])
def test_the_bits_of_a_rounded_number_are_the_hosts(n):
    bits = np.random.default_rng(n).integers(0, 2**32, n, dtype=np.uint32)
    bits[: n // 4] &= 0xFFFF0000
    bits[: n // 8] |= 0x8000  # ties
    device, x = Emulator(), bits.view(np.float32)
    got = as_bf16(device, x)
    device.check()
    np.testing.assert_array_equal(to_numpy(got), bfloat16.to_bits(x))
    assert as_bf16(device, got) is got


@needs_compiler
def test_numbers_that_begin_between_sixteen_bytes_or_lie_apart_are_rounded_too():
    for x in (normal(30)[1:], normal(6, 5).T, normal(40)[::3]):
        device = Emulator()
        np.testing.assert_array_equal(as_bf16(device, x), bfloat16.to_bits(x))
        device.check()
