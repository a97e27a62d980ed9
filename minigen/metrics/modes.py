r"""Which modes are there, and in what shares: of labelled classes, and of a ring of Gaussians.

$$ \mathrm{KL}(p \,\|\, q) = \sum_c p_c \log \frac{p_c}{q_c} \quad \text{(nats)} $$

with $p$ the histogram of the samples and $q$ that of the training set. This direction (the "reverse" one) stays finite
when a class is missing from the samples, where $p_c = 0$ adds nothing, so it grades collapse: all samples in one of
$k$ equal classes give $\log k$. The other direction is infinite as soon as one class is missing. With $n$ samples of
the right distribution the mean is not 0 but about $(k - 1) / 2n$.

**On a ring** a sample has *high quality* within 3 standard deviations of its nearest centre (Srivastava et al. 2017,
VEEGAN, arXiv 1705.07761); exact samples reach $1 - e^{-9/2} = 0.989$ in two dimensions. There one such sample is enough
for a mode to be found, which every scattered cloud reaches with $n$ large enough. Here a mode is found if a tenth
of its fair share $n / k$ is there.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.special import rel_entr

from kernels.backend import Array
from minigen.data.rings import Rings
from minigen.metrics.checks import check_rows

NEAR = 3.0  # standard deviations
FOUND = 0.1  # of a mode's fair share


def histogram_kl(counts: Int[Array, " k"], reference: Int[Array, " k"]) -> float:
    r"""$\mathrm{KL}(p \,\|\, q)$ of two histograms of counts; infinite where ``reference`` lacks a class of ``counts``.

    Raises ValueError for an empty histogram.
    """
    for name, histogram in (("counts", counts), ("reference", reference)):
        if histogram.sum() < 1 or histogram.min() < 0:
            raise ValueError(f"{name} must be counts with a positive sum, got {histogram.tolist()}")
    return max(float(rel_entr(counts / counts.sum(), reference / reference.sum()).sum()), 0.0)


@dataclass(frozen=True)
class RingModes:
    """``found`` modes; the share ``near`` a centre; ``kl`` of the nearest centres' histogram from the uniform one."""

    found: int
    near: float
    kl: float


def ring_modes(density: Rings, points: Float[Array, "n 2"]) -> RingModes:
    """The figures of points, for a ring. Raises ValueError for no points, and NaN."""
    check_rows("points", points)
    nearest = density.modes(points)
    near = density.squared_distances(points).min(axis=1) <= np.square(NEAR * density.sd)
    all_of_them, good = (np.bincount(modes, minlength=density.k) for modes in (nearest, nearest[near]))
    return RingModes(
        found=int((good >= FOUND * len(points) / density.k).sum()),
        near=float(near.mean()),
        kl=histogram_kl(all_of_them, np.ones(density.k, np.int64)),
    )
