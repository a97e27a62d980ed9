"""PLMS: its weights, and its order over the times of a schedule. Its laws and planted bugs: tests/minigen/laws."""

import numpy as np
import pytest
from oracles import best, level_of

from minigen.laws import Ours, beds, order_laws
from minigen.laws.pytest import obeys
from minigen.laws.reference import adams_bashforth
from minigen.maths import schedules
from minigen.samplers import plms


def test_pndm_eq12_the_weights_integrate_the_polynomial_through_the_last_values():
    for k in (1, 2, 3, 4):
        np.testing.assert_allclose(plms.WEIGHTS[k - 1], adams_bashforth(k), rtol=1e-12)
    np.testing.assert_allclose(np.array(plms.WEIGHTS[3]) * 24, (55, -59, 37, -9), rtol=1e-15)


@pytest.mark.parametrize("spacing", schedules.SPACINGS)
def test_pndm_eq11_eq12_a_scripted_model_shows_every_weight(spacing):
    sampler = Ours("plms", spacing=spacing)
    sampler.steps = (1, 2, 3, 4, 5, 9)
    obeys(sampler, ["L14"])


def test_the_order_is_2_on_even_grids_and_1_where_steps_alternate():
    even, uneven = (order_laws.flow_errors(Ours("plms"), pattern) for pattern in ((1.0,), (1.0, 2.0)))
    assert 1.8 < np.log2(even[-2] / even[-1]) < 2.2 and even[-1] < 1e-4
    assert 0.85 < np.log2(uneven[-2] / uneven[-1]) < 1.2
    # both far below DDIM at the same number of calls
    assert even[0] < order_laws.flow_errors(Ours("ddim"), counts=(20,))[0] / 10


@pytest.mark.parametrize("spacing", ["uniform", "quadratic"])
def test_the_order_is_2_over_the_times_of_a_schedule(spacing):
    bed, p, errors = beds.Mixture(), np.array(order_laws.QUANTILES), []
    for n in (50, 100, 200):
        fine = schedules.spaced(schedules.linear(20000), n, spacing)
        states = {}
        x_T = bed.quantile(p, level_of(fine, n)).reshape(-1, 1)
        plms.sample(
            best(bed, fine),
            x_T,
            fine,
            callback=lambda t, x, _: states.__setitem__(t, x),  # noqa: B023
        )
        level = n // 2
        errors.append(abs(states[level][:, 0] - bed.quantile(p, level_of(fine, level))).max())
    assert (np.log2(np.array(errors[:-1]) / errors[1:]) > 1.7).all()
