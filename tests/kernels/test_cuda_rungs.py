"""Every rung of every CUDA ladder, emulated: the definition's values, no findings, the same bits under every schedule."""

import functools
from pathlib import Path

import numpy as np
import pytest
from attending import float32_error, hide
from emulation import emulated
from hypothesis import given, settings
from hypothesis import strategies as st
from rungs import needs_compiler

import kernels
from kernels import emulate, emulator
from kernels.attention import cuda as attention_cuda
from kernels.attention import reference as attention_reference
from kernels.compare import bound
from kernels.conv2d import cuda as conv2d_cuda
from kernels.conv2d import reference as conv2d_reference
from kernels.emulator import Emulator, NoCompiler
from kernels.launch import Device
from kernels.quantize import cuda as quantize_cuda
from kernels.quantize import reference as quantize_reference

ROOT = Path(kernels.__file__).parent
SEEDS = st.integers(0, 2**32 - 1)
few = settings(max_examples=12)


pytestmark = needs_compiler


# --- quantize ---------------------------------------------------------------------------------------------------------

rungs_of_quantize = pytest.mark.parametrize("rung", quantize_cuda.RUNGS)


def nearest(rung, z, codebook, seed):
    """The index must be argmin's, up to codes whose distances the order of a float64 sum of d squares cannot tell."""
    want = quantize_reference.nearest_code(z, codebook)
    with np.errstate(all="ignore"):
        distances = quantize_reference.squared_distances(z[:, None], codebook[None])
    rows = np.arange(len(z))
    got = []
    for s in (seed, seed + 1):
        device = Emulator(s % 2**32)
        got.append(quantize_cuda.nearest_code(device, z, codebook, rung=rung))
        device.check()
    np.testing.assert_array_equal(got[0], got[1])
    other = got[0] != want
    slack = 2 * bound(z.shape[1], distances[rows, want][other], np.float64)
    assert (np.abs(distances[rows, got[0]][other] - distances[rows, want][other]) <= slack).all()
    return got[0], want


@rungs_of_quantize
@few
@given(
    m=st.sampled_from([1, 2, 127, 128, 129]),
    codes=st.sampled_from([1, 2, 15, 16, 17, 33]),
    d=st.sampled_from([1, 3, 31, 32, 33]),
    kind=st.sampled_from(["normal", "far", "grid", "tiny", "huge", "few distinct"]),
    seed=SEEDS,
)
def test_nearest_code(rung, m, codes, d, kind, seed):
    rng = np.random.default_rng(seed)
    z, codebook = rng.standard_normal((m, d)), rng.standard_normal((codes, d))
    match kind:
        case "far":
            z, codebook = z + 1e4, codebook + 1e4
        case "grid":
            z, codebook = np.round(2 * z) / 2, np.round(codebook)
        case "tiny":
            z, codebook = z * 1e-21, codebook * 1e-21
        case "huge":
            z, codebook = z * 1e19, codebook * 1e19
        case "few distinct":
            codebook = codebook[rng.integers(0, min(3, codes), codes)]
    got, want = nearest(rung, z.astype(np.float32), codebook.astype(np.float32), seed)
    if kind in ("grid", "few distinct"):  # exact sums, or equal codes: the lowest index wins, always
        np.testing.assert_array_equal(got, want)


@rungs_of_quantize
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nearest_code_with_nan_and_inf(rung, value):
    rng = np.random.default_rng(0)
    for in_codebook in (False, True):
        z, codebook = (rng.standard_normal((n, 5)).astype(np.float32) for n in (40, 20))
        (codebook if in_codebook else z)[7, 3] = value
        with np.errstate(all="ignore"):
            want = quantize_reference.nearest_code(z, codebook)
        device = Emulator(0)
        np.testing.assert_array_equal(quantize_cuda.nearest_code(device, z, codebook, rung=rung), want)
        device.check()


@rungs_of_quantize
def test_differences_are_not_rounded_to_float32(rung):
    z, codebook = np.float32([[1, 1, 0]]), np.float32([[0.6, 0.6, 0], [0.49, 0.715, 0]]) * np.float32(2**-24)
    device = Emulator()
    assert quantize_cuda.nearest_code(device, z, codebook, rung=rung).tolist() == [1]
    device.check()


@rungs_of_quantize
def test_nearest_code_of_no_rows_and_no_columns(rung):
    device = Emulator()
    assert quantize_cuda.nearest_code(device, np.ones((0, 3), "f"), np.ones((2, 3), "f"), rung=rung).shape == (0,)
    assert (quantize_cuda.nearest_code(device, np.ones((4, 0), "f"), np.ones((2, 0), "f"), rung=rung) == 0).all()
    device.check()


# --- attention --------------------------------------------------------------------------------------------------------

rungs_of_attention = pytest.mark.parametrize("rung", [1, 2])  # in float32; rung 3: test_attention_mma.py


def attend(rung, q, k, v, causal, mask, scale, seed):
    how = {"causal": causal, "key_mask": mask, "scale": scale}
    with np.errstate(all="ignore"):
        want = attention_reference.forward(*(x.astype(np.float64) for x in (q, k, v)), **how)
    expected = [(want, float32_error(q, k, v, scale), "o")]
    emulated(lambda device: attention_cuda.attention(device, q, k, v, **how, rung=rung), seed, expected)


@rungs_of_attention
@few
@given(
    n=st.integers(1, 2),
    heads=st.integers(1, 2),
    t_q=st.sampled_from([1, 2, 15, 63, 64, 65]),
    t_k=st.sampled_from([0, 1, 15, 16, 17, 33]),
    sizes=st.sampled_from([(8, 8), (5, 3)]),  # each is compiled on its own
    causal=st.booleans(),
    masked=st.booleans(),
    spread=st.sampled_from([1.0, 10.0]),
    seed=SEEDS,
)
def test_attention(rung, n, heads, t_q, t_k, sizes, causal, masked, spread, seed):
    rng = np.random.default_rng(seed)
    q, k, v = (
        (spread * rng.standard_normal((n, heads, t, d))).astype(np.float32)
        for t, d in ((t_q, sizes[0]), (t_k, sizes[0]), (t_k, sizes[1]))
    )
    mask = hide(k, v, rng.random((n, t_k)) < 0.6) if masked else None
    attend(rung, q, k, v, causal, mask, sizes[0] ** -0.5, seed)


@rungs_of_attention
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", [0, 6])
def test_attention_with_nan_and_inf(rung, value, where):
    for which in range(3):
        arrays = [np.random.default_rng(i).standard_normal((1, 1, 20, 8)).astype(np.float32) for i in range(3)]
        arrays[which][0, 0, where, 2] = value
        attend(rung, *arrays, True, None, 0.3, 5)


# --- conv2d -----------------------------------------------------------------------------------------------------------

convolutions = given(
    n=st.integers(1, 2),
    size=st.tuples(st.integers(3, 8), st.integers(3, 8)),
    channels=st.tuples(st.sampled_from([1, 3, 5]), st.sampled_from([1, 2, 15, 16, 17])),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    bias=st.booleans(),
    seed=SEEDS,
)


@functools.cache
def conv_arrays(n, size, channels, kernel, stride, padding, seed):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, *size, channels[0])).astype(np.float32)
    w = rng.standard_normal((*kernel, *channels)).astype(np.float32)
    b = rng.standard_normal(channels[1]).astype(np.float32)
    out = [(s + 2 * p - k) // t + 1 for s, p, k, t in zip(size, padding, kernel, stride)]
    return x, w, b, rng.standard_normal((n, *out, channels[1])).astype(np.float32)


def both(function, *arrays, **settings):
    """The definition in float64, and the same of the absolute values."""
    wide = [None if a is None else a.astype(np.float64) for a in arrays]
    return function(*wide, **settings), function(*(None if a is None else np.abs(a) for a in wide), **settings)


@pytest.mark.parametrize("rung", [1, 2])  # and 3 with its rounding: test_cuda_gradients.py
@few
@convolutions
def test_conv2d(rung, n, size, channels, kernel, stride, padding, bias, seed):
    x, w, b, _ = conv_arrays(n, size, channels, kernel, stride, padding, seed)
    b = b if bias else None
    settings = {"stride": stride, "padding": padding}
    want, magnitude = both(conv2d_reference.conv2d, x, w, b, **settings)
    allowed = bound(w[..., 0].size + 1, magnitude, np.float32)
    emulated(lambda device: conv2d_cuda.conv2d(device, x, w, b, **settings, rung=rung), seed, [(want, allowed, "y")])


@few
@convolutions
def test_conv2d_gradients(n, size, channels, kernel, stride, padding, bias, seed):
    x, w, _, g = conv_arrays(n, size, channels, kernel, stride, padding, seed)
    settings = {"stride": stride, "padding": padding}
    want, magnitude = both(conv2d_reference.conv2d_grad_x, g, w, x_shape=x.shape, **settings)
    allowed = bound(w[0, 0, 0].size * w[..., 0, 0].size, magnitude, np.float32)
    run = functools.partial(conv2d_cuda.conv2d_grad_x, g=g, w=w, x_shape=x.shape, **settings, rung=2)
    emulated(run, seed, [(want, allowed, "dx")])
    want, magnitude = both(conv2d_reference.conv2d_grad_w, x, g, w_shape=w.shape, **settings)
    run = functools.partial(conv2d_cuda.conv2d_grad_w, x=x, g=g, w_shape=w.shape, **settings, rung=2)
    emulated(run, seed, [(want, bound(g[..., 0].size, magnitude, np.float32), "dw")])


# --- on a GPU ---------------------------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.parametrize("rung", [1, 2])
def test_on_a_gpu_as_in_the_emulator(rung):
    device, host = Device(), Emulator(0)
    rng = np.random.default_rng(0)
    z, codebook, x, w = (
        rng.standard_normal(s).astype(np.float32) for s in ((300, 20), (50, 20), (2, 9, 9, 8), (3, 3, 8, 20))
    )
    q, k, v = (rng.standard_normal((2, 2, 70, 8)).astype(np.float32) for _ in range(3))
    attend_settings = {"causal": True, "key_mask": rng.random((2, 70)) < 0.7, "scale": 0.3}
    there = {"causal": True, "key_mask": device.xp.asarray(attend_settings["key_mask"]), "scale": 0.3}
    conv_settings = {"stride": (1, 1), "padding": (1, 1), "rung": rung}

    def move(*arrays):
        return [device.xp.asarray(a) for a in arrays]

    got = quantize_cuda.nearest_code(device, *move(z, codebook), rung=rung).get()
    np.testing.assert_array_equal(got, quantize_cuda.nearest_code(host, z, codebook, rung=rung))
    got = attention_cuda.attention(device, *move(q, k, v), **there, rung=rung).get()
    host.expect(got, attention_cuda.attention(host, q, k, v, **attend_settings, rung=rung), 1e-4)
    got = conv2d_cuda.conv2d(device, *move(x, w), None, **conv_settings).get()
    magnitude = conv2d_reference.conv2d(np.abs(x), np.abs(w), None, (1, 1), (1, 1))
    host.expect(got, conv2d_cuda.conv2d(host, x, w, None, **conv_settings), 2 * bound(72, magnitude, np.float32))
    host.check()


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command_runs_every_rung_of_every_operation(capsys):
    shapes = (("quantize", "9,5,3"), ("attention", "1,2,9,8"), ("conv2d", "1,5,3,4"))
    for op, shape in shapes:
        assert emulate.main([op, "--shape", shape, "--seeds", "2"]) == 0
    out = capsys.readouterr().out
    assert out.count("right, nothing found (2 schedules") == sum(len(emulate.OPERATIONS[op][3]) for op, _ in shapes)
    assert emulate.main(["quantize", "--rung", "2", "--shape", "9,5,3"]) == 0
    assert "1_naive" not in capsys.readouterr().out


def test_the_command_reports_and_refuses(capsys, monkeypatch):
    assert emulate.main(["--planted"]) == 0
    out = capsys.readouterr().out
    assert "clean (planted.cu): nothing found" in out
    race = next(line.strip() for line in out.splitlines() if "planted.cu:23: race: write of 4 bytes" in line)
    assert race in (ROOT.parent / "README.md").read_text(encoding="utf-8"), "what the README shows"
    for arguments, message in [
        ([], "name an operation"),
        (
            ["quantize", "--shape", f"1,2,{'9' * 5000}"],
            r"--shape must be 3 sizes of at least 1 (m,codes,d), got '1,2,999",
        ),
        (["quantize", "--shape", "1,2"], r"--shape must be 3 sizes of at least 1 (m,codes,d), got '1,2'"),
        (["quantize", "--shape", "1,2,0"], "--shape must be"),
        (["quantize", "--rung", "9"], "--rung must be all or one of 1, 2, 3, 4, got '9'"),
        (["quantize", "--seeds", "0"], "--seeds must be at least 1, got 0"),
    ]:
        with pytest.raises(SystemExit) as stopped:
            emulate.main(arguments)
        assert stopped.value.code == 2 and message in capsys.readouterr().err

    def none(*_):
        raise NoCompiler("no C++ compiler was found")

    monkeypatch.setattr(emulator, "build", none)
    assert emulate.main(["quantize"]) == 2
    assert capsys.readouterr().err == "error: no C++ compiler was found\n"


# --- the tests themselves ---------------------------------------------------------------------------------------------

PLANTED = [  # file, what is changed into what, what must be found and in which line of the changed file
    ("quantize/2_tiled.cu", "            __syncthreads();  // the tile is there\n", "\n", "race"),
    ("quantize/2_tiled.cu", "            __syncthreads();  // all are done with it\n", "\n", "race"),
    ("quantize/1_naive.cu", "if (i >= m) return;", "if (i > m) return;", "out of range"),
    ("quantize/1_naive.cu", "distance < smallest", "distance <= smallest", "wrong value"),
    ("attention/2_online_softmax.cu", "        __syncthreads();  // all are done with the tile before\n", "\n", "race"),
    ("attention/2_online_softmax.cu", "total *= correction;", "", "wrong value"),
    ("attention/1_naive.cu", "at >= pairs * t_q * d_v", "at > pairs * t_q * d_v", "out of range"),
]


@pytest.mark.parametrize("file, old, new, kind", PLANTED)
def test_a_mistake_in_a_rung_is_found(file, old, new, kind, tmp_path, monkeypatch):
    text = (ROOT / file).read_text()
    assert old in text
    op, name = file.split("/")
    (tmp_path / name).write_text(text.replace(old, new))
    module = {"quantize": quantize_cuda, "attention": attention_cuda}[op]
    monkeypatch.setattr(module, "HERE", tmp_path)
    device, rung = Emulator(3), int(name[0])
    rng = np.random.default_rng(0)

    def normal(*shape):
        return rng.standard_normal(shape).astype(np.float32)

    if op == "quantize":
        z, codebook = normal(120, 40), np.repeat(normal(20, 40), 2, axis=0)
        got, want = (
            quantize_cuda.nearest_code(device, z, codebook, rung=rung),
            quantize_reference.nearest_code(z, codebook),
        )
    else:
        q, k, v = normal(1, 2, 20, 8), normal(1, 2, 35, 8), normal(1, 2, 35, 8)
        settings = {"causal": False, "key_mask": None, "scale": 1.0}
        got = attention_cuda.attention(device, q, k, v, **settings, rung=rung)
        want = attention_reference.forward(q, k, v, **settings)
    device.expect(got, want, 1e-3)
    assert kind in {f.kind for f in device.findings}
    assert all(f.where.startswith(name) for f in device.findings)
