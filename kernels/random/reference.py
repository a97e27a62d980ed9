r"""Philox 4x32-10 and what is drawn from it, in whole-array arithmetic: NumPy or CuPy, the same bits on both.

The generator (Salmon, Moraes, Dror & Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3", section 3.3) mixes a
counter of four 32-bit words with a key of two. One round is two full products of 32-bit words and four exclusive ors,

$$(c_0, c_1, c_2, c_3) \mapsto (\mathrm{hi}(M_1 c_2) \oplus c_1 \oplus k_0,\ \mathrm{lo}(M_1 c_2),\
\mathrm{hi}(M_0 c_0) \oplus c_3 \oplus k_1,\ \mathrm{lo}(M_0 c_0)),$$

and after each round the key moves on by a constant, $(k_0, k_1) \leftarrow (k_0 + W_0, k_1 + W_1)$. Ten rounds.

A normal pair comes from two words by Box & Muller (1958), with $u, a$ the words plus a half, over $2^{32}$:

$$z_0 = \sqrt{-2 \ln u}\, \cos 2\pi a, \qquad z_1 = \sqrt{-2 \ln u}\, \sin 2\pi a.$$

No library's logarithm or sine is the same on every device. Here they are sums of their series in float64, made of
additions, products, one quotient and one square root, all of which IEEE 754 rounds in one way only. The CUDA rung does
the same operations in the same order, so its normals are these, bit for bit.
"""

from typing import Any

MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)  # the golden ratio's and the square root of 3's fractions, as the paper has them
ROUNDS = 10
LOW = 0xFFFFFFFF

LN_2 = 0.6931471805599453
HALF_PI = 1.5707963267948966
ROOT_HALF = 0.7071067811865476


def philox(counter: tuple[Any, Any, Any, Any], key: tuple[int, int]) -> tuple[Any, Any, Any, Any]:
    """Four words from four: uint64 arrays that hold 32-bit words."""
    c_0, c_1, c_2, c_3 = counter
    k_0, k_1 = key
    for _ in range(ROUNDS):
        a, b = c_0 * MULTIPLIERS[0], c_2 * MULTIPLIERS[1]  # 64 bits each: the product of two words has no carry beyond
        c_0, c_1, c_2, c_3 = (b >> 32) ^ c_1 ^ k_0, b & LOW, (a >> 32) ^ c_3 ^ k_1, a & LOW
        k_0, k_1 = (k_0 + WEYL[0]) & LOW, (k_1 + WEYL[1]) & LOW
    return c_0, c_1, c_2, c_3


def words(block: Any, sample: Any, step: int, purpose: int, seed: int, xp: Any) -> Any:
    """The four words of each block of a sample's numbers: uint64 arrays of one shape -> (..., 4)."""
    zero = xp.zeros_like(block)
    counter = (block, sample, zero + step, zero + purpose)
    return xp.stack(philox(counter, (seed & LOW, seed >> 32)), axis=-1)


def uniform_32(w: Any, xp: Any) -> Any:
    """The upper 24 bits of each word, over 2^24: float32 in [0, 1), each value exact."""
    return (w >> 8).astype(xp.float32) * xp.float32(2.0**-24)


def uniform_64(w: Any, xp: Any) -> Any:
    """27 bits of one word before 26 of the next, over 2^53: float64 in [0, 1), two from (..., 4) words."""
    return ((w[..., 0::2] >> 5) * 2**26 + (w[..., 1::2] >> 6)).astype(xp.float64) * 2.0**-53


def normal_64(w: Any, xp: Any) -> Any:
    """Box-Muller of the pairs of words (..., 4) -> float64 (..., 4)."""
    radius = xp.sqrt(-2.0 * log_uniform(w[..., 0::2], xp))
    cosine, sine = cos_sin_turn(w[..., 1::2], xp)
    return xp.stack([radius * cosine, radius * sine], axis=-1).reshape(w.shape)


def log_uniform(w: Any, xp: Any) -> Any:
    r"""$\ln u$ for $u = (w + 1/2) / 2^{32}$.

    $u = f\, 2^e$ with $f$ in $[\sqrt{1/2}, \sqrt 2)$, and $\ln f = 2 s (1 + s^2/3 + s^4/5 + \dots)$ with
    $s = (f - 1) / (f + 1)$. Near $u = 1$ the difference $f - 1$ is exact, so the result is right relative to its own
    small size.
    """
    f, e = xp.frexp((w * 2 + 1).astype(xp.float64) * 2.0**-33)
    low = f < ROOT_HALF
    f, e = xp.where(low, 2 * f, f), xp.where(low, e - 1, e)
    s = (f - 1.0) / (f + 1.0)
    square = s * s
    series = xp.zeros_like(s) + 1.0 / 21
    for k in range(19, 0, -2):
        series = series * square + 1.0 / k
    return e * LN_2 + (2.0 * s) * series


def cos_sin_turn(w: Any, xp: Any) -> tuple[Any, Any]:
    r"""$\cos 2\pi a$ and $\sin 2\pi a$ for $a = (w + 1/2) / 2^{32}$.

    $4a = q + r$ with the nearest whole number $q$ of quarter turns and $y = r \pi / 2$ within an eighth of a turn,
    where $\sin y = y (1 - \tfrac{y^2}{2 \cdot 3} (1 - \tfrac{y^2}{4 \cdot 5} (\dots)))$ and the cosine likewise.
    """
    a = (w * 2 + 1).astype(xp.float64) * 2.0**-31  # 4 a: 33 bits, exact
    q = xp.floor(a + 0.5)
    y = (a - q) * HALF_PI
    square = y * y
    sine, cosine = xp.ones_like(y), xp.ones_like(y)
    for k in range(15, 2, -2):
        sine = 1.0 - square * (1.0 / (k * (k - 1))) * sine
    for k in range(16, 1, -2):
        cosine = 1.0 - square * (1.0 / (k * (k - 1))) * cosine
    sine = sine * y
    quarter = q.astype(xp.int64) & 3
    odd = (quarter & 1) == 1
    cosine, sine = xp.where(odd, sine, cosine), xp.where(odd, cosine, sine)
    return xp.where((quarter == 1) | (quarter == 2), -cosine, cosine), xp.where(quarter >= 2, -sine, sine)
