"""What the property-based tests draw: descriptions made of small integers, from which arrays are built."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from hypothesis import strategies as st

VIEWS = ("plain", "sliced", "reversed", "transposed", "broadcast")


@dataclass(frozen=True)
class ConvProblem:
    """A convolution: shapes, a seed for the numbers, and how the arrays lie in memory. All arrays are read-only."""

    n: int
    size: tuple[int, int]
    channels: tuple[int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    seed: int
    dtype: str = "float32"
    view: str = "plain"

    @property
    def x_shape(self) -> tuple[int, int, int, int]:
        return (self.n, *self.size, self.channels[0])

    @property
    def w_shape(self) -> tuple[int, int, int, int]:
        return (*self.kernel, *self.channels)

    @property
    def y_shape(self) -> tuple[int, int, int, int]:
        h, w = ((self.size[a] + 2 * self.padding[a] - self.kernel[a]) // self.stride[a] + 1 for a in (0, 1))
        return (self.n, h, w, self.channels[1])

    @property
    def geometry(self) -> dict[str, tuple[int, int]]:
        return {"stride": self.stride, "padding": self.padding}

    @cached_property
    def x(self) -> np.ndarray:
        return self._array(0, self.x_shape)

    @cached_property
    def w(self) -> np.ndarray:
        return self._array(1, self.w_shape)

    @cached_property
    def b(self) -> np.ndarray:
        return self._array(2, self.w_shape[3:])

    @cached_property
    def g(self) -> np.ndarray:
        return self._array(3, self.y_shape)

    @cached_property
    def time(self) -> np.ndarray:
        return self._array(4, (self.n, self.channels[1]))

    @cached_property
    def residual(self) -> np.ndarray:
        return self._array(5, self.y_shape)

    def _array(self, which: int, shape: tuple[int, ...]) -> np.ndarray:
        return laid_out(np.random.default_rng((self.seed, which)), shape, self.dtype, self.view)


def laid_out(rng: np.random.Generator, shape: tuple[int, ...], dtype: str, view: str) -> np.ndarray:
    """A read-only array of normal numbers that lies in memory as ``view`` says."""
    if view == "sliced":  # every second element of a larger array, off its start
        base = rng.standard_normal([2 * size + 1 for size in shape]).astype(dtype)
        x = base[tuple(slice(1, None, 2) for _ in shape)]
    elif view == "reversed":
        x = rng.standard_normal(shape).astype(dtype)[tuple(slice(None, None, -1) for _ in shape)]
    elif view == "transposed":
        x = rng.standard_normal(shape[::-1]).astype(dtype).T
    elif view == "broadcast":  # the first axis repeats one element's memory
        x = np.broadcast_to(rng.standard_normal((1, *shape[1:])).astype(dtype), shape)
    else:
        x = rng.standard_normal(shape).astype(dtype)
    x.flags.writeable = False
    assert x.shape == tuple(shape)
    return x


def _pair(low: int, high: int) -> st.SearchStrategy[tuple[int, int]]:
    both = st.integers(low, high)
    return st.one_of(both.map(lambda v: (v, v)), st.tuples(both, both))


@st.composite
def conv_problems(
    draw: st.DrawFn,
    *,
    kernel: st.SearchStrategy[tuple[int, int]] | None = None,
    stride: st.SearchStrategy[tuple[int, int]] | None = None,
    channels: st.SearchStrategy[int] | None = None,
    dtype: st.SearchStrategy[str] | None = None,
) -> ConvProblem:
    """A convolution whose kernel fits: odd and even kernels, sides from 1, empty batches, padding beyond the kernel."""
    k = draw(kernel if kernel is not None else _pair(1, 5))
    p = draw(_pair(0, 4))
    s = draw(stride if stride is not None else _pair(1, 3))
    size = tuple(draw(st.integers(max(1, k[a] - 2 * p[a]), 11)) for a in (0, 1))
    count = channels if channels is not None else st.sampled_from([1, 2, 3, 4, 7, 16])
    return ConvProblem(
        n=draw(st.integers(0, 3)),
        size=(size[0], size[1]),
        channels=(draw(count), draw(count)),
        kernel=k,
        stride=s,
        padding=p,
        seed=draw(st.integers(0, 2**32 - 1)),
        dtype=draw(dtype if dtype is not None else st.sampled_from(["float32", "float32", "float64"])),
        view=draw(st.sampled_from(VIEWS)),
    )
