"""What minigen promises, in fifteen tests that run in under a second. Read this first."""

import numpy as np
import pytest

import autograd as ag
import kernels
from kernels.attention import attention
from kernels.conv2d import conv2d
from kernels.quantize import nearest_code
from minigen.data import batch, load
from minigen.maths import diffusion, schedules
from minigen.models import ddpm
from minigen.nn import Linear, UNet
from minigen.samplers import ancestral


def test_01_a_gradient_is_the_derivative():
    x = ag.Tensor(np.linspace(0, 1, 5), requires_grad=True)
    ag.sum(ag.sin(x) * x).backward()
    np.testing.assert_allclose(x.grad, np.sin(x.data) + x.data * np.cos(x.data))


def test_02_of_any_order():
    x = ag.Tensor(np.array([2.0]), requires_grad=True)
    first = ag.grad(x**3, x, np.ones(1), create_graph=True)
    assert ag.grad(first, x, np.ones(1)).data == 12


def test_03_and_you_can_check_it():
    ag.gradcheck(lambda a, b: ag.softmax(a @ b), [np.eye(3), np.arange(6.0).reshape(3, 2)], order=2)


def test_04_arrays_in_arrays_out():
    assert isinstance(ag.exp(np.zeros(2)), np.ndarray)


def test_05_a_convolution_is_a_sum_over_a_window():
    x = np.arange(16.0).reshape(1, 4, 4, 1)
    np.testing.assert_array_equal(conv2d(x, np.ones((3, 3, 1, 1)))[0, :, :, 0], [[45, 54], [81, 90]])


def test_06_attention_averages_values():
    v = np.arange(6.0).reshape(1, 1, 3, 2)
    np.testing.assert_allclose(attention(np.zeros((1, 1, 1, 4)), np.zeros((1, 1, 3, 4)), v)[0, 0, 0], [2, 3])


def test_07_the_nearest_code_is_the_lowest_of_equals():
    assert nearest_code(np.array([[0.5]]), np.array([[0.0], [1.0]])).tolist() == [0]


def test_08_images_are_channels_last_and_in_minus_one_to_one():
    digits = load("digits")
    x = digits.scale(digits.train.images[:2])
    assert x.shape == (2, 8, 8, 1) and x.dtype == np.float32 and x.min() == -1 and x.max() <= 1


def test_09_a_batch_is_a_function_of_seed_and_step():
    train = load("digits").train
    a, b = (batch(train, seed=1, step=7, size=4) for _ in range(2))
    np.testing.assert_array_equal(a.images, b.images)


def test_10_time_runs_as_in_the_papers():
    s = schedules.linear(1000)
    assert s.alpha_bar[0] == 1 and s.beta[1] == pytest.approx(1e-4) and s.T == 1000


def test_11_noise_goes_in_and_comes_out():
    s, x_0, eps = schedules.cosine(10), np.ones((1, 1)), np.full((1, 1), 0.5)
    x_t = diffusion.q_sample(x_0, 7, eps, s)
    np.testing.assert_allclose(diffusion.x_0_from_eps(x_t, 7, eps, s), x_0)


def test_12_a_sampler_with_the_exact_noise_finds_the_data():
    s = schedules.cosine(10)

    def knows(x_t, t, cond=None):
        return diffusion.eps_from_x_0(x_t, t, np.full_like(x_t, 3.0), s)

    x_0 = ancestral.sample(knows, np.zeros((2, 1)), s, rng=np.random.default_rng(0))
    np.testing.assert_allclose(x_0, 3.0)


def test_13_a_model_is_a_loss_a_network_and_a_sampler():
    system = ddpm.build(ddpm.Config(base=8, heads=1, T=3), load("digits"), seed=0)
    assert isinstance(system.modules["unet"], UNet)
    loss, _ = system.stages()[0].objectives[0].loss(load("digits").train, np.random.default_rng(0), 0)
    assert float(loss) == pytest.approx(1, abs=0.1)  # it guesses nothing yet, and the noise has unit variance


def test_14_parameters_live_in_one_buffer():
    layer = Linear(2, 3, rng=np.random.default_rng(0)).flatten()
    layer.flat[...] = 7
    assert (layer.w.data == 7).all() and layer.count() == 9


def test_15_our_autograd_and_kernels_are_the_ones_found():
    assert kernels.__part_of__ == ag.__part_of__ == "minigen"
