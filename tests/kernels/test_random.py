"""The random stream: the published vectors, the same bits everywhere, the definition, independence of the batch."""

import inspect
import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from arrays import threads
from hypothesis import given, settings
from hypothesis import strategies as st
from rungs import emulated, kinds, needs_compiler, plant

from kernels import random
from kernels.compare import assert_close
from kernels.emulator import Emulator
from kernels.random import Stream, cuda, normal, random_bits, reference, uniform

ALPHA = 1e-6  # of every statistical test here; the seeds are fixed
SEEDS = st.one_of(st.integers(0, 2**64 - 1), st.sampled_from([0, 2**32, 2**63, 2**64 - 1]))
AT = st.fixed_dictionaries({k: st.sampled_from([0, 1, 2**31, 2**32 - 1]) for k in ("step", "purpose")})

# philox 4x32 with 10 rounds: counter, key, output. From the file tests/kat_vectors of the distribution of Random123 (D.
# E. Shaw Research), as the tests of several other implementations quote it; the last input is the digits of pi.
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]
EXTREME = np.array([0, 1, 2, 2**29, 2**30 - 1, 2**30, 2**31 - 1, 2**31, 3 * 2**30, 2**32 - 2, 2**32 - 1], np.uint64)


@pytest.mark.parametrize(("counter", "key", "output"), KNOWN)
def test_the_known_answers_of_random123(counter, key, output):
    got = reference.philox(tuple(np.array([c], np.uint64) for c in counter), key)
    assert tuple(int(w[0]) for w in got) == output


WORDS_OF = """#include "lib/cuda.cuh"
#include "random/philox.cuh"
extern "C" __global__ void words(const unsigned* c, const unsigned* key, unsigned* out) {
    const Words w = philox({{c[0], c[1], c[2], c[3]}}, key[0], key[1]);
    for (int i = 0; i < 4; i++) out[i] = w.w[i];
}
extern "C" __global__ void normals(const unsigned* c, float* out, double* parts, int n) {
    if (threadIdx.x >= n) return;
    const unsigned* w = c + 4 * threadIdx.x;
    const Four z = box_muller({{w[0], w[1], w[2], w[3]}});
    for (int i = 0; i < 4; i++) out[4 * threadIdx.x + i] = z.v[i];
    double* of = parts + 3 * threadIdx.x;
    of[0] = log_uniform(w[0]);
    cos_sin_turn(w[1], &of[1], &of[2]);
}
"""


@needs_compiler
@pytest.mark.parametrize(("counter", "key", "output"), KNOWN)
def test_the_known_answers_in_cuda(counter, key, output, tmp_path):
    device, file = Emulator(), tmp_path / "words.cu"
    file.write_text(WORDS_OF)
    out = device.empty((4,), np.uint32)
    device.run(file, "words", 1, 1, {"c": np.array(counter, "u4"), "key": np.array(key, "u4"), "out": out})
    device.check()
    assert tuple(out) == output


def test_the_counter_and_the_key_are_what_they_are_said_to_be():
    seed, sample, step, purpose = 2**40 + 3, 5, 7, 11
    got = random_bits((1, 9), seed=seed, first=sample, step=step, purpose=purpose)[0]
    for i in range(9):
        counter = tuple(np.array([c], np.uint64) for c in (i // 4, sample, step, purpose))
        assert got[i] == reference.philox(counter, (3, 2**8))[i % 4][0]


# --- the same everywhere ----------------------------------------------------------------------------------------------


@needs_compiler
@settings(max_examples=12)
@given(
    n=st.integers(0, 3),
    rest=st.lists(st.sampled_from([1, 3, 4, 5, 43]), max_size=2).map(tuple),
    first=st.sampled_from([0, 1, 2**31, 2**32 - 3]),
    seed=SEEDS,
    at=AT,
)
def test_cuda_gives_the_same_bits(n, rest, first, seed, at):
    at = {"seed": seed, "first": first, **at}
    for ours, theirs in ((random_bits, cuda.random_bits), (uniform, cuda.uniform), (normal, cuda.normal)):
        got, want = emulated(lambda device, draw=theirs: draw(device, (n, *rest), **at))[0], ours((n, *rest), **at)
        assert got.dtype == want.dtype and got.shape == want.shape and got.tobytes() == want.tobytes()


@given(
    n=st.integers(1, 9),
    rest=st.lists(st.integers(0, 5), max_size=2).map(tuple),
    seed=SEEDS,
    at=AT,
    dtype=st.sampled_from([np.float32, np.float64]),
)
def test_a_sample_does_not_depend_on_its_batch(n, rest, seed, at, dtype):
    for draw in (uniform, normal):
        whole = draw((n, *rest), seed=seed, **at, dtype=dtype)
        alone = [draw((1, *rest), seed=seed, first=i, **at, dtype=dtype)[0] for i in range(n)]
        np.testing.assert_array_equal(whole, np.array(alone).reshape(whole.shape))
        longer = draw((n, 40), seed=seed, **at, dtype=dtype)  # and a sample's first numbers not on how many there are
        np.testing.assert_array_equal(whole.reshape(n, math.prod(rest))[:, :40], longer[:, : math.prod(rest)])


def test_all_that_names_a_draw_changes_it():
    base = {"seed": 1, "first": 2, "step": 3, "purpose": 4}
    draws = [normal((1, 100), **{**base, **change}) for change in ({}, *({k: base[k] + 1} for k in base))]
    draws += [normal((1, 100), **{**base, "seed": 1 + 2**32})]
    for i, a in enumerate(draws):
        for b in draws[:i]:
            assert not (a == b).any()


def test_numpys_whole_numbers_are_whole_numbers():
    at = {"seed": 2**40, "first": 5, "step": 6, "purpose": 7}
    numpys = {k: np.int64(v) for k, v in at.items()}
    np.testing.assert_array_equal(inspect.unwrap(normal)((np.int64(3), 9), **numpys), normal((3, 9), **at))


def test_tiles_do_not_show(monkeypatch):
    whole = [draw((3, 50, 7), seed=1) for draw in (random_bits, uniform, normal)]
    monkeypatch.setattr(random, "TILE", 8)
    for draw, want in zip((random_bits, uniform, normal), whole):
        with threads(2):
            np.testing.assert_array_equal(draw((3, 50, 7), seed=1), want)


def test_a_stream_takes_the_next_step():
    whole, third = Stream(9, purpose=1), Stream(9, purpose=1, first=2)
    for step in range(3):
        z = whole.standard_normal((5, 2, 3))
        np.testing.assert_array_equal(z, normal((5, 2, 3), seed=9, purpose=1, step=step))
        np.testing.assert_array_equal(third.standard_normal((1, 2, 3))[0], z[2])
    np.testing.assert_array_equal(whole.random((4,), np.float64), uniform((4,), seed=9, purpose=1, step=3, dtype="f8"))


def test_a_streams_integers_are_those_of_its_uniform_numbers():
    from scipy import stats

    stream = Stream(9, purpose=1, step=5)
    for step, (low, high) in enumerate([(0, 10), (-3, 4), (7, 8), (-(2**62), 2**53 - 2**62)], start=5):
        got = stream.integers(low, high, 4000)
        u = uniform((4000,), seed=9, purpose=1, step=step, dtype=np.float64)
        assert got.dtype == np.int64
        assert got.tolist() == [low + math.floor(Fraction(x) * (high - low)) for x in u.tolist()]
    assert stream.step == 9
    np.testing.assert_array_equal(
        Stream(9).integers(0, 1000, (5, 3))[3], Stream(9, first=3).integers(0, 1000, (1, 3))[0]
    )
    counts = np.bincount(Stream(0).integers(0, 10, 100_000))
    assert len(counts) == 10
    assert stats.chisquare(counts).pvalue > ALPHA
    for low, high in ((3, 3), (3, 2), (0, 2**53 + 1), (0.0, 3), (0, True)):
        with pytest.raises(ValueError, match="high must be above low"):
            Stream(0).integers(low, high, 3)


def test_spawned_streams_are_of_the_same_samples_and_disturb_nothing():
    stream, alone = Stream(9, purpose=3, first=4), Stream(9, purpose=3, first=4)
    children = [*stream.spawn(2), *stream.spawn(1)]
    np.testing.assert_array_equal(stream.random((2, 5)), alone.random((2, 5)))
    drawn = [child.random((2, 5)) for child in children]
    assert (
        len({x.tobytes() for x in (*drawn, alone.random((2, 5)), Stream(9, first=4).spawn(1)[0].random((2, 5)))}) == 5
    )
    np.testing.assert_array_equal(Stream(9, purpose=3).spawn(1)[0].random((6, 5))[4:], drawn[0])
    with pytest.raises(ValueError, match=r"purpose must be below 2\^16 to spawn"):
        children[0].spawn(1)
    assert Stream(0, purpose=2**16 - 1).spawn(2**16 - 1)[-1].purpose == 2**32 - 1
    with pytest.raises(ValueError, match=r"2\^16 - 1 at most, got 3 and 65536"):
        stream.spawn(2**16 - 3)
    assert stream.spawn(0) == []


def test_the_largest_uniform_number_gives_the_last_integer(monkeypatch):
    monkeypatch.setattr(Stream, "_next", lambda self, draw, size, dtype: np.full(size, 1 - 2.0**-53))
    for span in [*range(1, 3000), *(2**k + d for k in range(12, 53) for d in (-1, 0, 1) if 2**k + d <= 2**53)]:
        assert Stream(0).integers(0, span, 1).tolist() == [span - 1]


# --- the definition ---------------------------------------------------------------------------------------------------


def box_muller(words):
    """The definition in extended precision. Whole quarter turns are taken off first: pi has not enough digits for them."""
    u, a = ((words[..., k::2].astype(np.longdouble) + 0.5) / 2.0**32 for k in (0, 1))
    quarter = np.rint(4 * a)
    rest = 2 * np.longdouble("3.14159265358979323846264338327950288") * (a - quarter / 4)
    turned = [np.cos(rest), np.sin(rest), -np.cos(rest), -np.sin(rest)]
    cosine = np.choose(quarter.astype(int) % 4, [turned[0], turned[3], turned[2], turned[1]])
    sine = np.choose(quarter.astype(int) % 4, [turned[1], turned[0], turned[3], turned[2]])
    radius = np.sqrt(-2 * np.log1p(u - 1))
    return np.stack([radius * cosine, radius * sine], axis=-1).reshape(words.shape)


def extreme_and_random_words():
    pairs = np.stack(np.meshgrid(EXTREME, EXTREME), -1).reshape(-1, 2)
    pairs = np.concatenate([pairs, pairs[:1]])  # an even number
    w = np.random.default_rng(0).integers(0, 2**32, (20_000, 4), np.uint64)
    return np.concatenate([pairs.reshape(-1, 4), w])


def test_box_muller_1958_within_2_ulp():
    words = extreme_and_random_words()
    got = reference.normal_64(words, np)
    want = box_muller(words)
    assert np.abs(got / want - 1).max() < 20 * np.finfo(np.float64).eps  # the 20 rounded operations of the series
    want = want.astype(np.float64)
    ulp = np.spacing(np.abs(want).astype(np.float32))
    assert np.abs(got.astype(np.float32) - want).max() < 6.8 and (np.abs(got.astype("f4") - want) <= 0.51 * ulp).all()


@needs_compiler
def test_box_muller_in_cuda_at_extreme_words(tmp_path):
    words, device, file = extreme_and_random_words()[:128], Emulator(), tmp_path / "words.cu"
    file.write_text(WORDS_OF)
    z, parts = device.empty((128, 4), np.float32), device.empty((128, 3), np.float64)
    device.run(file, "normals", 1, 128, {"c": words.astype(np.uint32), "out": z, "parts": parts, "n": 128})
    device.check()
    np.testing.assert_array_equal(z, reference.normal_64(words, np).astype(np.float32))
    want = reference.log_uniform(words[:, 0], np), *reference.cos_sin_turn(words[:, 1], np)
    np.testing.assert_array_equal(parts, np.stack(want, axis=1))


def test_uniform_numbers_are_the_upper_bits():
    w, at = random_bits((2, 50), seed=3), {"seed": 3}
    np.testing.assert_array_equal(uniform((2, 50), **at), (w >> 8) / np.float32(2**24))
    wide = uniform((2, 25), **at, dtype=np.float64)
    np.testing.assert_array_equal(wide, ((w[:, ::2] >> 5) * 2.0**26 + (w[:, 1::2] >> 6)) / 2.0**53)
    highest = np.full((1, 4), 2**32 - 1, np.uint64)
    assert reference.uniform_32(highest, np).max() == 1 - 2.0**-24
    assert reference.uniform_64(highest, np).max() == 1 - 2.0**-53


def test_the_numbers_are_distributed_as_they_should_be():
    from scipy import stats

    z = normal((400, 500), seed=11)
    assert stats.kstest(z.reshape(-1), "norm").pvalue > ALPHA
    assert stats.kstest(uniform((400, 500), seed=12).reshape(-1), "uniform").pvalue > ALPHA
    limit = stats.norm.isf(ALPHA / 2)
    for power, mean, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        moment = (z.astype(np.float64) ** power).mean()
        assert_close(moment, mean, limit * (variance / z.size) ** 0.5, f"moment {power}")
    ones = np.unpackbits(random_bits((100, 640), seed=13).view(np.uint8)).mean()
    assert_close(ones, 0.5, limit * 0.5 / (100 * 640 * 32) ** 0.5, "share of ones")


def test_neighbours_are_not_correlated():
    from scipy import stats

    m, limit = 40_000, stats.norm.isf(ALPHA / 12)
    base = normal((2, m), seed=5).astype(np.float64)
    others = [
        base[1],
        normal((1, m), seed=6)[0],
        normal((1, m), seed=5, step=1)[0],
        normal((1, m), seed=5, purpose=1)[0],
    ]
    others += [np.roll(base[0], 1), np.roll(base[0], 4)]
    for other in others:
        assert abs((base[0] * other).mean()) < limit / m**0.5


# --- bad input, planted mistakes --------------------------------------------------------------------------------------


def test_bad_input_is_named():
    for change, message in [
        ({"seed": -1}, r"seed must be a whole number from 0 to 2\^64 - 1, got -1"),
        ({"seed": 2**64}, "seed must be"),
        ({"step": 2**32}, r"step must be a whole number from 0 to 2\^32 - 1, got 4294967296"),
        ({"purpose": -1}, "purpose must be"),
        ({"first": 2**32 - 1}, r"samples and blocks of a sample are numbered below 2\^32, got shape \(2, 3\) from"),
    ]:
        with pytest.raises(ValueError, match=message):
            normal((2, 3), **{"seed": 0, **change})
    assert normal((0, 2**34), seed=0).shape == (0, 2**34)
    for draw, most, dtype in ((normal, 2**34, "f4"), (uniform, 2**33, "f8")):
        with pytest.raises(ValueError, match=rf"are numbered below 2\^32, got shape \(0, {most + 1}\) from 0 on"):
            draw((0, most + 1), seed=0, dtype=dtype)
    with pytest.raises(ValueError, match=r"shape must be \(n, ...\) with whole numbers of at least 0, got \(\)"):
        normal((), seed=0)
    with pytest.raises(TypeError, match="dtype must be float32 or float64, got float16"):
        normal((2,), seed=0, dtype=np.float16)
    with pytest.raises(ValueError, match="purpose must be"):
        Stream(0, purpose=-1)


@needs_compiler
@pytest.mark.parametrize(
    ("old", "new", "kind"),
    [
        ("if (thread >= n * blocks) return false;", "if (thread > n * blocks) return false;", "out of range"),
        ("y, p.at, p.left, box_muller", "y, p.at, 4, box_muller", "out of range"),
        ("first + p.sample, step, purpose)));", "first, step, purpose)));", "wrong value"),
        ("per_sample - 4 * p->block", "per_sample - 4 * p->block - 1", "unwritten"),
    ],
)
def test_a_planted_mistake_is_found(old, new, kind, monkeypatch, tmp_path):
    plant(monkeypatch, tmp_path, cuda, "1_philox.cu", old, new)

    def draw(device):
        for ours, theirs in ((uniform, cuda.uniform), (normal, cuda.normal)):
            device.expect(theirs(device, (3, 41), seed=1), ours((3, 41), seed=1), 0)

    assert kind in kinds(draw)


def test_the_files_name_the_same_constants():
    text = (Path(cuda.__file__).parent / "philox.cuh").read_text()
    for word in (*reference.MULTIPLIERS, *reference.WEYL):
        assert f"0x{word:08X}u" in text
