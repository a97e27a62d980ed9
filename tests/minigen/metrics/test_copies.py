"""What a copy leaves to say: a distribution over levels, with the scale that costs least."""

import numpy as np
import pytest

from minigen.metrics import copies


def test_each_brightness_of_a_copy_has_the_scale_that_costs_least(rng):
    """Where copies of black are always right and grey ones off by a lot: a small scale for one, a large one for the other."""
    x_hat = np.tile([-1.0, 0.0], (50, 1)).reshape(50, 1, 2, 1)
    levels = np.stack([np.zeros(50, int), rng.integers(0, 17, 50)], axis=-1).reshape(x_hat.shape)
    found = copies.fit_log_scales(levels, x_hat, 17)
    assert found.shape == (64,) and found[0] <= -3 and found[32] >= -1.5
    whole = [copies.residual_nats(levels, x_hat, np.full(64, scale), 17).sum() for scale in copies.CANDIDATES]
    assert set(np.delete(found, [0, 32])) == {copies.CANDIDATES[np.argmin(whole)]}, "of shades that no pixel has"
    nats = copies.residual_nats(levels, x_hat, found, 17).mean()
    for k, by in ((0, 2.0), (32, 0.5), (32, -0.5)):
        moved = found.copy()
        moved[k] += by
        assert copies.residual_nats(levels, x_hat, moved, 17).mean() > nats
    np.testing.assert_array_equal(copies.brightness(np.array([-1, -0.97, -0.96, 0, 0.99, 1])), [0, 0, 1, 32, 63, 63])


@pytest.mark.parametrize("count", [2, 17, 256])
def test_residual_nats_are_those_of_a_distribution(count, rng):
    """Over all levels of one pixel the probabilities add up to 1, whatever the copy and its scale; a picture's are products."""
    x_hat = rng.uniform(-1, 1, (1, 2, 2, 1)).astype(np.float32)
    scales = rng.uniform(-6, 0, copies.SHADES)
    one = np.repeat(x_hat[:, :1, :1], count, axis=0)
    nats = copies.residual_nats(np.arange(count).reshape(-1, 1, 1, 1), one, scales, count)
    assert np.exp(-nats).sum() == pytest.approx(1, abs=1e-10)
    levels = rng.integers(0, count, (1, 2, 2, 1))
    whole = copies.residual_nats(levels, x_hat, scales, count)
    parts = [
        copies.residual_nats(levels[:, i : i + 1, j : j + 1], x_hat[:, i : i + 1, j : j + 1], scales, count)
        for i in (0, 1)
        for j in (0, 1)
    ]
    assert whole == pytest.approx(np.sum(parts, axis=0))
