import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minigen.metrics import likelihood


@given(st.integers(1, 9), st.integers(-2000, 2000), st.integers(0, 99))
def test_iwae_eq8_is_the_log_of_the_mean_weight(k, shift, seed):
    """The mean is inside the logarithm, with its -ln K; a shift of the log weights by any size shifts the answer."""
    log_w = np.random.default_rng(seed).standard_normal((k, 3))
    want = -np.log(np.exp(log_w).mean(axis=0))
    np.testing.assert_allclose(likelihood.importance_weighted_nll(log_w + shift), want - shift, rtol=1e-12, atol=1e-12)
    single = likelihood.importance_weighted_nll((log_w + shift).astype(np.float32))
    assert single.dtype == np.float64
    np.testing.assert_allclose(single, want - shift, rtol=1e-6, atol=1e-4)


def test_copies_of_a_weight_change_nothing():
    log_w = np.array([[-90.0, -5000.0]])
    for k in (1, 2, 64):
        np.testing.assert_array_equal(likelihood.importance_weighted_nll(log_w.repeat(k, 0)), [90, 5000])


def test_impossible_pictures_cost_infinitely_much():
    np.testing.assert_array_equal(likelihood.importance_weighted_nll(np.full((2, 1), -np.inf)), [np.inf])
    with pytest.raises(ValueError, match="at least one value"):
        likelihood.importance_weighted_nll(np.zeros((0, 1)))


def test_units():
    assert likelihood.uniform_nll(64, 17) == pytest.approx(181.3257, abs=1e-4)
    assert likelihood.bits_per_dimension(likelihood.uniform_nll(784, 256), 784) == pytest.approx(8)


def some_mixture(seed, levels=3, dimensions=3, n=40, parts=4):
    rng = np.random.default_rng(seed)
    x = rng.integers(0, levels, (n, dimensions)) * rng.integers(0, 2, (n, 1))
    lean = likelihood.independent(x, levels, 0.3)
    return x, lean, likelihood.fit_mixture(x, lean, parts, 1.0, rng=rng)


@given(st.integers(0, 99))
def test_probabilities_of_all_pictures_add_up_to_one(seed):
    _, lean, (theta, pi) = some_mixture(seed)
    every = np.array(list(itertools.product(range(3), repeat=3)))
    for model in ((lean[None], np.ones(1)), (theta, pi)):
        assert np.exp(likelihood.log_joint(every, *model)).sum() == pytest.approx(1, rel=1e-12)


def test_independent_is_a_smoothed_count():
    x = np.array([[0, 2], [0, 1], [1, 2]])
    np.testing.assert_allclose(likelihood.independent(x, 3, 0.5), np.array([[2.5, 1.5, 0.5], [0.5, 1.5, 2.5]]) / 4.5)


def test_the_likelihood_of_a_mixture_by_hand(rng):
    theta, pi = rng.dirichlet(np.ones(4), (2, 5)), np.array([0.3, 0.7])
    x = rng.integers(0, 4, (600, 5))  # more than one block
    want = [-np.log(sum(pi[j] * np.prod([theta[j, d, row[d]] for d in range(5)]) for j in range(2))) for row in x]
    assert likelihood.nll(x, theta, pi) == pytest.approx(np.mean(want), rel=1e-12)


@given(st.integers(0, 99))
def test_every_round_of_em_raises_what_it_climbs(seed):
    """The log of likelihood times the Dirichlet prior: no round may lower it."""
    objective = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(likelihood, "ENOUGH", -1.0)
        for rounds in range(1, 8):
            patch.setattr(likelihood, "ROUNDS", rounds)
            x, lean, (theta, pi) = some_mixture(seed)
            prior = (3 * lean * np.log(theta)).sum() + np.log(pi).sum()
            objective.append(prior - len(x) * likelihood.nll(x, theta, pi))
    assert np.all(np.diff(objective) >= -1e-9)


def test_the_shares_of_the_parts_are_smoothed_counts(monkeypatch):
    """After one round the groups are those of the random start: whole numbers of images."""
    monkeypatch.setattr(likelihood, "ROUNDS", 1)
    _, _, (_, pi) = some_mixture(0)
    images = pi * (40 + 4) - 1
    np.testing.assert_allclose(images, np.rint(images), atol=1e-9)
    assert images.sum() == pytest.approx(40) and images.min() >= -1e-9


def test_two_kinds_of_pictures_are_told_apart():
    """All black or all white, half and half: one bit a picture, where independent pixels need one each."""
    x = np.repeat(np.array([0, 1] * 50)[:, None], 8, axis=1)
    found = likelihood.baselines(x, x, x, 2, rng=np.random.default_rng(0))
    assert found["independent"] == pytest.approx(8 * np.log(2), rel=1e-6)
    assert np.log(2) < found["mixture"] < 2.1 * np.log(2)


def test_settings_are_chosen_on_the_validation_split(monkeypatch):
    """Training and test pictures, all black, like the least smoothing; the validation's, half white, the most: alpha 1, kappa 3."""
    monkeypatch.setattr(likelihood, "PARTS", (1,))
    black, half = np.zeros((10, 4), int), np.indices((10, 4)).sum(0) % 2
    found = likelihood.baselines(black, half, black, 2, rng=np.random.default_rng(0))
    assert found["independent"] == pytest.approx(4 * np.log(12 / 11), rel=1e-12)
    assert found["mixture"] == pytest.approx(4 * np.log(16 / 15.5), rel=1e-12)  # of white: 3 x 2 x 1/12 of 10 + 6


def test_the_first_pictures_are_fitted_to_and_chosen_on(monkeypatch, rng):
    monkeypatch.setattr(likelihood, "FITTED", 20)
    train, val, test = rng.integers(0, 3, (3, 30, 4))
    whole, first = (likelihood.baselines(train[:n], val[:n], test, 3, rng=np.random.default_rng(0)) for n in (None, 20))
    assert whole == first


def test_baselines_of_the_digits(digits):
    """The prototypes' figures (another code, other starts): 181.3, 106.3 and 98.5 nats a picture."""
    found = likelihood.baselines(
        *(s.images for s in (digits.train, digits.val, digits.test)), 17, rng=np.random.default_rng(0)
    )
    assert list(found) == ["uniform", "independent", "mixture"]
    assert found["uniform"] == pytest.approx(181.3, abs=0.05)
    assert found["independent"] == pytest.approx(106.3, abs=0.05)
    assert found["mixture"] == pytest.approx(98.5, abs=1), "starts differ by half a nat"


def test_bad_splits_are_named():
    x = np.zeros((2, 3), np.uint8)
    with pytest.raises(ValueError, match="val must hold at least one image"):
        likelihood.baselines(x, x[:0], x, 2, rng=np.random.default_rng(0))
    with pytest.raises(ValueError, match="test must hold levels from 0 to 1, got 2 to 2"):
        likelihood.baselines(x, x, x + 2, 2, rng=np.random.default_rng(0))
