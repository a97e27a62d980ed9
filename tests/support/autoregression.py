"""What must hold for every autoregressive model: checks that enumerate, perturb and compare.

A model is ``logits(tokens (n, t)) -> (n, t, vocab)``; a step is that of `minigen.samplers.autoregressive`.
"""

import itertools

import numpy as np
from scipy.stats import chisquare

from kernels.compare import assert_close, unit_roundoff
from minigen.samplers import autoregressive as ar

ALPHA = 1e-6  # of every statistical test, each with a fixed seed


def every_sequence(vocab, length):
    """All vocab^length sequences (vocab^length, length), the last token fastest."""
    return np.array(list(itertools.product(range(vocab), repeat=length)), np.int64).reshape(vocab**length, length)


def check_sums_to_one(logits, vocab, length, *, tolerance=1e-10):
    """The probabilities of all sequences add up to 1; returns them with the sequences. In float64 1e-10 is far above rounding."""
    x = every_sequence(vocab, length)
    p = np.exp(ar.log_likelihood(logits, x))
    assert abs(p.sum() - 1) <= tolerance, f"the probabilities of all {len(x)} sequences add up to {p.sum()!r}"
    return x, p


def check_causal(logits, tokens, vocab, *, roundings=0):
    """Token j changes no logits at i <= j, and some logits of every i > j: every predecessor is seen and nothing else.

    Each is compared over all other values that token j could have. Bit for bit, or with ``roundings`` of them allowed
    where a kernel picks its way by the largest number of a block (attention does).
    """
    n, t = tokens.shape
    before = ar.to_numpy(ar.raw(logits(tokens)))
    allowed = roundings * unit_roundoff(before.dtype) * max(1, np.abs(before).max())
    for j in range(t):
        moved = np.zeros((n, t), bool)
        for by in range(1, vocab):
            changed = tokens.copy()
            changed[:, j] = (tokens[:, j] + by) % vocab
            after = ar.to_numpy(ar.raw(logits(changed)))
            difference = np.abs(before - after).max(-1)
            early = (difference[:, : j + 1] > allowed).any(0)
            assert not early.any(), f"token {j} is seen too early, at {np.flatnonzero(early)}"
            moved |= difference > allowed
        late = moved[:, j + 1 :].any(0)
        assert late.all(), f"token {j} is not seen at {j + 1 + np.flatnonzero(~late)}"


def check_cached(logits, step, tokens, *, allowed=None):
    """A step says what the whole pass says, from every prefix, token by token. ``allowed`` defaults to 1e4 roundings of float64."""
    t = tokens.shape[1]
    want = ar.to_numpy(ar.raw(logits(tokens)))
    limit = 1e4 * unit_roundoff(want.dtype) * np.abs(want[np.isfinite(want)]).max() if allowed is None else allowed
    for known in range(t):
        new, cache = tokens[:, :known], None
        for i in range(known, t):
            got, cache = step(new, cache)
            assert_close(ar.to_numpy(ar.raw(got)), want[:, i], limit, f"token {i} after a prefix of {known}")
            new = tokens[:, i : i + 1]


def check_histogram(samples, sequences, p):
    """Pearson's chi-square of ``samples`` against the probabilities ``p`` of ``sequences``; rare ones are pooled."""
    number = {tuple(row): k for k, row in enumerate(sequences.tolist())}
    counts = np.bincount([number[tuple(row)] for row in samples.tolist()], minlength=len(p))
    rare = p * len(samples) < 5
    observed, expected = list(counts[~rare]), list(p[~rare] * len(samples))
    if rare.any():
        observed.append(counts[rare].sum())
        expected.append(p[rare].sum() * len(samples))
    expected = np.array(expected) * (sum(observed) / sum(expected))
    found = chisquare(observed, expected)
    assert found.pvalue > ALPHA, f"chi-square {found.statistic:.1f} over {len(observed)} cells: p = {found.pvalue:.2e}"
