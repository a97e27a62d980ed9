"""What the fast convolutions are made of: Winograd's matrices, the choice of a path, windows and blocks."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels.compare import assert_close, bound
from kernels.conv2d import choice, numpy_direct, windows
from kernels.conv2d import numpy_winograd as winograd

TILES = [(m, r) for r, sizes in winograd.OUTPUT_TILES.items() for m in sizes]


@pytest.mark.parametrize(("m", "r"), TILES)
def test_winograd_eq8_filters_exactly(m, r):
    at, g, bt = winograd.toom_cook(m, r, np.float64)
    rng = np.random.default_rng(0)
    d, w = rng.standard_normal(m + r - 1), rng.standard_normal(r)
    want = np.correlate(d, w, "valid")
    allowed = bound(r, np.correlate(np.abs(d), np.abs(w), "valid").max(), np.float64, winograd.amplification(m, r))
    assert_close(at @ ((g @ w) * (bt @ d)), want, allowed)


def test_winograds_amplification_is_as_documented():
    assert round(winograd.amplification(2, 3)) == 7
    assert round(winograd.amplification(4, 3)) == 69
    assert max(winograd.amplification(m, r) for m, r in TILES) == winograd.amplification(4, 3)


def test_choice():
    def tile(x=(64, 32, 32, 64), kernel=(3, 3), stride=(1, 1), g=(64, 32, 32, 64), dtype="f4", cost=choice.FORWARD):
        return choice.winograd_tile(x, kernel, stride, g, np.dtype(dtype), cost)

    assert tile() == tile(cost=choice.SUM) == 4
    assert tile(dtype="f8") == 0  # its users want float64's precision
    assert tile(x=(64, 32, 32, 3)) == tile(g=(64, 32, 32, 3)) == 0  # too few channels
    assert tile(kernel=(5, 5)) == tile(kernel=(3, 2)) == tile(kernel=(1, 1)) == 0  # not a kernel of 2 or 3 taps
    assert tile(x=(1, 2, 2, 64), g=(1, 2, 2, 64)) == 0  # the kernel's transform would cost more than it saves
    assert tile(kernel=(4, 4), stride=(2, 2), g=(64, 16, 16, 64)) > 0
    assert tile(kernel=(3, 3), stride=(2, 2), g=(64, 16, 16, 64)) == 0  # the stride does not divide the kernel


def test_a_correlation_and_its_gradient_go_the_way_that_is_chosen(monkeypatch):
    gone = []
    for way in (winograd, numpy_direct):
        for name in ("correlate", "correlate_grad_w"):
            monkeypatch.setattr(way, name, lambda *a, way=way: gone.append(way))
    for channels, way in ((64, winograd), (3, numpy_direct)):
        x, w, y = (
            np.zeros(shape, np.float32) for shape in ((64, 32, 32, channels), (3, 3, channels, 64), (64, 32, 32, 64))
        )
        choice.correlate(x, w, None, y, (1, 1), (-1, -1))
        choice.correlate_grad_w(x, y, (3, 3), (1, 1), (-1, -1))
        assert gone[-2:] == [way, way]


@given(
    x=st.integers(0, 2**32 - 1),
    start=st.tuples(st.integers(-12, 12), st.integers(-12, 12)),
    size=st.tuples(st.integers(1, 15), st.integers(1, 15)),
    copy=st.booleans(),
    small=st.booleans(),
)
def test_region_is_a_window_of_the_padded_image(x, start, size, copy, small):
    image = np.random.default_rng(x).standard_normal((3, 6, 5, 2))
    padded = np.pad(image, ((0, 0), (30, 30), (30, 30), (0, 0)))
    want = padded[1:3, 30 + start[0] : 30 + start[0] + size[0], 30 + start[1] : 30 + start[1] + size[1]]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(windows, "SMALL_BYTES", windows.SMALL_BYTES if small else 0)
        got = windows.region(image, slice(1, 3), start, size, copy)
    np.testing.assert_array_equal(got, want)
    assert not copy or got.flags.c_contiguous


@given(
    samples=st.integers(0, 9),
    rows=st.integers(1, 9),
    cost=st.integers(1, 9),
    sizes=st.tuples(*[st.integers(1, 99)] * 2),
)
def test_blocks_cover_everything_once(samples, rows, cost, sizes):
    seen = np.zeros((samples, rows), int)
    for block in windows.share(samples, rows, cost, *sizes):
        assert seen[block].size > 0
        assert seen[block].size * cost <= sizes[0] or seen[block].size == 1 or seen[block].shape[1] * cost <= sizes[0]
        seen[block] += 1
    np.testing.assert_array_equal(seen, 1)
