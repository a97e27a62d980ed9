r"""A toy density with an exact answer: $k$ equal Gaussians with their centres on a circle.

$$ p(x) = \frac{1}{k} \sum_{j=0}^{k-1} \mathcal{N}(x;\, r c_j,\, s^2 I), \qquad
c_j = (\cos\tfrac{2\pi j}{k}, \sin\tfrac{2\pi j}{k}) $$

The usual test bed for mode collapse (a ring of eight: Metz et al. 2017, Unrolled GANs, arXiv 1611.02163, figure 2).
Here r = 0.75 and s = 0.05, so that nearly all points lie in [-1, 1], where a tanh output can reach them.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from kernels.backend import Array

from .dataset import Dataset, Split

SEED = 0  # of the three splits' draws
SIZES = (8000, 1000, 1000)


@dataclass(frozen=True)
class Rings:
    """The mixture itself: ``k`` Gaussians of standard deviation ``sd`` at distance ``radius`` from the origin."""

    k: int = 8
    radius: float = 0.75
    sd: float = 0.05

    def __post_init__(self) -> None:
        if self.k < 1 or self.radius < 0 or not self.sd > 0:
            raise ValueError(f"k must be at least 1, radius at least 0 and sd above 0, got {self}")

    @property
    def centres(self) -> Float[Array, "k 2"]:
        """The means, float64, number 0 on the positive x axis and the others counter-clockwise."""
        angle = 2 * np.pi * np.arange(self.k) / self.k
        return self.radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)

    def squared_distances(self, x: Float[Array, "n 2"]) -> Float[Array, "n k"]:
        """$|x_i - c_j|^2$, float64."""
        return np.square(x[:, None, :].astype(np.float64) - self.centres).sum(-1)

    def log_density(self, x: Float[Array, "n 2"]) -> Float[Array, " n"]:
        r"""$\log p(x)$, exact, float64."""
        exponent = -self.squared_distances(x) / (2 * self.sd**2)  # (n, k)
        return np.logaddexp.reduce(exponent, axis=1) - np.log(self.k * 2 * np.pi * self.sd**2)

    def modes(self, x: Float[Array, "n 2"]) -> Int[Array, " n"]:
        """The number of the nearest centre of each point."""
        return self.squared_distances(x).argmin(axis=1)

    def sample(self, n: int, *, rng: np.random.Generator) -> tuple[Float[Array, "n 2"], Int[Array, " n"]]:
        """``n`` points, float32, and their modes. Draws ``integers(0, k, n)``, then ``standard_normal((n, 2))``."""
        mode = rng.integers(0, self.k, n)
        x = self.centres[mode] + self.sd * rng.standard_normal((n, 2))
        return x.astype(np.float32), mode.astype(np.int64)


def rings(density: Rings | None = None) -> Dataset:
    """The data set ``rings``: float32 points (n, 2), 8,000 / 1,000 / 1,000; the label is the mode."""
    density = density or Rings()
    rng = np.random.default_rng(SEED)
    train, val, test = (Split(*density.sample(n, rng=rng)) for n in SIZES)
    return Dataset("rings", train, val, test, levels=None, classes=tuple(str(j) for j in range(density.k)))
