r"""How crisp pictures are, without anything to compare them with.

$$ \text{sharpness}(x) = \frac{\sum_p (L x)_p^2}{\sum_p (x_p - \bar x)^2}, \qquad
   (L x)_p = \sum_{q \sim p} (x_p - x_q) $$

$L$ is the discrete Laplacian over the up to four neighbours $q$ of a pixel; a picture's border is no edge. The quotient
does not change with brightness and contrast. $L$'s eigenvectors are the cosine waves of the discrete cosine transform,
with $\lambda_{ab} = 4 - 2 \cos(\pi a / h) - 2 \cos(\pi b / w)$, so sharpness is the mean of $\lambda^2$ over the
picture's spectrum: 0 for a constant picture (by definition), below 64 always, and at its largest for the finest wave,
whose signs are a checkerboard's. Smoothing damps the large $\lambda$ and so lowers it.

**Noise is sharper than any photograph** (independent pixels have about 20 inside; with the border, 16 on 8x8 pictures
and 19 on 28x28). So sharpness means something only as a ratio to real pictures', and only beside ``accepted`` or
precision: a blurry model has a ratio below 1, a grainy one above.
"""

import numpy as np
from jaxtyping import Float, UInt8

from kernels.backend import Array
from minigen.metrics.checks import check_rows


def sharpness(images: Float[Array, "n h w c"] | UInt8[Array, "n h w c"]) -> Float[Array, " n"]:
    """The module's quotient for each picture, summed over its channels. Raises ValueError for no pictures, and NaN."""
    check_rows("images", images)
    x = images.astype(np.float64)
    across, down = np.diff(x, axis=2), np.diff(x, axis=1)
    laplacian = np.zeros_like(x)
    laplacian[:, :, :-1] -= across
    laplacian[:, :, 1:] += across
    laplacian[:, :-1] -= down
    laplacian[:, 1:] += down
    spread = np.square(x - x.mean(axis=(1, 2), keepdims=True)).sum(axis=(1, 2, 3))
    edges = np.square(laplacian).sum(axis=(1, 2, 3))
    return np.divide(edges, spread, out=np.zeros_like(edges), where=spread > 0)


def relative_sharpness(images: Float[Array, "n h w c"] | UInt8[Array, "n h w c"], real: Array) -> float:
    """Mean sharpness of pictures over that of real ones; infinite where all the real ones are constant."""
    ours, theirs = sharpness(images).mean(), sharpness(real).mean()
    return float(ours / theirs) if theirs > 0 else float("inf")
