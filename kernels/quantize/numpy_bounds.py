r"""The nearest code by one matrix product, and by exact distances only where that cannot decide.

With the codebook's middle as the origin, $|z - c|^2 - |z|^2 = |c|^2 - 2 z \cdot c =: s$ is one product with $|c|^2$ as
an extra column. A sum of n products in working precision is off by at most $n u$ times the sum of their absolute values
(Higham 2002, eq. 3.4), here by less than $\Gamma (|c|^2 + 2 |z| |c|)$ with $\Gamma$ about $(d + 8) u$. That error is a
product too, so the columns are chosen such that the result is a *lower bound* of s:

$$L = [-2 c, \; (1 - \Gamma) |c|^2, \; -2 \Gamma |c|] \cdot [z, \; 1, \; |z|], \qquad
  L \le s \le L + 2 \Gamma (|c|^2 + 2 |z| |c|) =: U.$$

The nearest code has $L \le \min U$. Few codes have that: a single one is the answer, of several the distances in
float64 decide, and a row with many (equal codes, say) is left to the definition. Each code brings its own error, so a
code that lies far out does not make the others harder to tell apart.
"""

from typing import NamedTuple

import numpy as np

from ..compare import unit_roundoff
from ..threads import map_tiles, scratch, split
from . import reference

GROUP = 32  # codes of which only the smallest bound is looked at first
BLOCK, CODES = 1 << 17, 256  # bounds computed at once, 512 KiB in float32, and of how many codes at least
KEPT = 1 << 20  # bounds of a tile
ROWS = 512  # rows of z in a tile at most
TILE_WORK = 20_000_000  # multiplications (200 microseconds) below which work is not cut: a tile's overhead is as large
SAMPLE = 64  # codes whose median is taken for the codebook's middle; a mean would follow a few that lie far out
MANY = 16  # candidates from which a row is left to the definition


class Codes(NamedTuple):
    """The codebook as the product wants it: in blocks; in a block, code ``member * groups + group``."""

    columns: np.ndarray  # (blocks, GROUP * groups, d + 2), the left factor of L; where there is no code, L is made huge
    length: np.ndarray  # (blocks * GROUP * groups,): |c| in float64
    centre: np.ndarray  # (d,) float64
    codebook: np.ndarray
    groups: int
    rows: int  # of z in a tile


def nearest_code(z: np.ndarray, codebook: np.ndarray) -> np.ndarray:
    """What the definition gives for every row."""
    with np.errstate(all="ignore"):
        if len(codebook) == 1 or z.size == 0 or not np.isfinite(codebook).all():
            return reference.nearest_code(z, codebook)
        codes = _prepare(codebook)
        indices = np.empty(len(z), np.int64)
        tiles = split(len(z), codes.rows, smallest=TILE_WORK // codebook.size + 1)
        left = np.concatenate(map_tiles(lambda rows: rows.start + _tile(z[rows], codes, indices[rows]), tiles))
        if len(left):
            first = np.sort(np.unique(codebook, axis=0, return_index=True)[1])  # the lowest index of equal codes
            if len(first) < len(codebook):
                indices[left] = first[nearest_code(z[left], codebook[first])]
            else:
                indices[left] = reference.nearest_code(z[left], codebook)
        return indices


def _gamma(d: int, dtype: np.dtype) -> float:
    """Twice (d + 8) u: d + 2 for the product, 2 for rounding z and c, 1 for |c|^2, 3 to spare; twice for gamma's own."""
    return 2 * (d + 8) * unit_roundoff(dtype)


def _prepare(codebook: np.ndarray) -> Codes:
    k, d = codebook.shape
    dtype = codebook.dtype.newbyteorder("=")
    rows = min(ROWS, max(32, KEPT // k))
    groups = min(-(-k // GROUP), max(CODES, BLOCK // rows) // GROUP)
    blocks = -(-k // (groups * GROUP))
    sample = codebook[:: -(-k // SAMPLE)]
    centre = np.partition(sample, len(sample) // 2, axis=0)[len(sample) // 2].astype(np.float64)
    c = codebook - centre
    length = np.zeros(blocks * groups * GROUP)
    length[:k] = np.sqrt(np.vecdot(c, c))
    gamma = _gamma(d, dtype)
    columns = np.zeros((len(length), d + 2), dtype)
    np.multiply(c, -2, out=columns[:k, :d], casting="same_kind")
    columns[:, d] = (1 - gamma) * np.square(length)
    columns[k:, d] = np.finfo(dtype).max / 2
    columns[:, d + 1] = -2 * gamma * length
    return Codes(columns.reshape(blocks, -1, d + 2), length, centre, codebook, groups, rows)


def _tile(z: np.ndarray, codes: Codes, indices: np.ndarray) -> np.ndarray:
    """Write the answers of these rows to ``indices``; returns the rows that are left to the definition."""
    dtype = codes.columns.dtype
    z_columns, length, left = _columns(z, codes)
    low, smallest = _bounds(codes, z_columns)
    row, best = np.arange(len(z)), smallest.argmin(axis=0)
    bounds = low[best // codes.groups, :, best % codes.groups, row]  # (rows, GROUP): the group that looks best
    code = _codes_of(best, bounds.argmin(axis=1), codes.groups)
    upper = smallest[best, row] + _width(length, codes.length[code], z.shape[1], dtype)
    limit = np.nextafter(upper.astype(dtype), dtype.type(np.inf))

    near, member = np.divmod(np.flatnonzero(bounds <= limit[:, None]), GROUP)
    candidates = [(near, _codes_of(best[near], member, codes.groups))]
    group, row = np.divmod(np.flatnonzero(smallest <= limit), len(z))
    other = group != best[row]
    if other.any():
        group, row = group[other], row[other]
        bounds = low[group // codes.groups, :, group % codes.groups, row]
        near, member = np.divmod(np.flatnonzero(bounds <= limit[row, None]), GROUP)
        candidates.append((row[near], _codes_of(group[near], member, codes.groups)))
    row, code = (np.concatenate(parts) for parts in zip(*candidates))

    indices[row] = code  # right where there is one candidate
    count = np.bincount(row, minlength=len(z))
    left |= (count == 0) | (count > MANY)
    several = (count[row] > 1) & ~left[row]
    if several.any():
        _decide(z, codes.codebook, row[several], code[several], indices)
    return np.flatnonzero(left)


def _columns(z: np.ndarray, codes: Codes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """``[z, 1, |z|]`` as columns, |z| in float64, and the rows that the product cannot handle: NaN, Inf, overflow."""
    dtype, d = codes.columns.dtype, z.shape[1]
    moved = z - codes.centre
    length = np.sqrt(np.vecdot(moved, moved))
    longest = codes.length.max()
    left = ~(longest * longest + 2 * length * longest + length < np.finfo(dtype).max / 4)  # NaN is not less
    if left.any():
        moved[left], length[left] = 0, 0
    columns = scratch("z", (d + 2, len(z)), dtype)
    columns[:d], columns[d], columns[d + 1] = moved.astype(dtype).T, 1, length
    return columns, length, left


def _bounds(codes: Codes, z_columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """L as (blocks, GROUP, groups, rows) and each group's smallest, (blocks * groups, rows)."""
    blocks, rows = len(codes.columns), z_columns.shape[1]
    low = scratch("low", (blocks, GROUP, codes.groups * rows), z_columns.dtype)
    smallest = scratch("smallest", (blocks, codes.groups * rows), z_columns.dtype)
    for columns, bounds, least in zip(codes.columns, low, smallest):
        np.matmul(columns, z_columns, out=bounds.reshape(-1, rows))
        np.minimum.reduce(bounds, axis=0, out=least)  # while the block is in cache
    return low.reshape(blocks, GROUP, codes.groups, rows), smallest.reshape(-1, rows)


def _codes_of(group: np.ndarray, member: np.ndarray, groups: int) -> np.ndarray:
    """The code that is this member of this group."""
    block, group = np.divmod(group, groups)
    return (block * GROUP + member) * groups + group


def _width(z: np.ndarray, c: np.ndarray, d: int, dtype: np.dtype) -> np.ndarray:
    r"""What must be added to L such that no code above is nearer: $U - L$, the float64 distances' error, underflow."""
    error = 2 * _gamma(d, dtype) * (c * c + 2 * z * c)
    definition = 8 * (d + 2) * unit_roundoff(np.float64) * (z * z + c * c)
    return error + definition + 8 * (d + 2) * float(np.finfo(dtype).tiny)


def _decide(z: np.ndarray, codebook: np.ndarray, row: np.ndarray, code: np.ndarray, indices: np.ndarray) -> None:
    """Among several candidates of a row the one at the smallest distance in float64, the lowest index on ties."""
    distance = reference.squared_distances(z[row], codebook[code])
    order = np.lexsort((code, distance, row))
    row, code = row[order], code[order]
    first = np.flatnonzero(np.diff(row, prepend=-1))
    indices[row[first]] = code[first]
