"""The VQ-VAE against exact answers: gradients by differences, means of clusters, grids that can all be counted."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import autograd as ag
from kernels.codebook import codebook_ema
from kernels.compare import unit_roundoff
from minigen.data import Dataset, Split, load
from minigen.metrics import copies
from minigen.models import pixelcnn, vq_vae, vq_vae_prior
from minigen.train.loop import Trainer
from minigen.train.run import WEIGHTS, Run, train
from tests.support.autoregression import check_sums_to_one, every_sequence
from tests.support.runs import same_state

TINY = vq_vae.Config(
    codes=8,
    dimension=3,
    channels=(8, 8),
    blocks=1,
    steps=8,
    batch_size=8,
    prior_channels=8,
    prior_layers=2,
    prior_steps=6,
)


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load("digits")


@pytest.fixture(scope="module")
def few(digits) -> Dataset:
    parts = (s.take(slice(0, n)) for s, n in ((digits.train, 40), (digits.val, 20), (digits.test, 12)))
    return Dataset("digits", *parts, levels=17, classes=digits.classes)


def tiny(shape=(8, 8, 1), **changes):
    """A codec in float64, its codebook on random vectors, its last layers not at zero."""
    config = dataclasses.replace(TINY, **changes)
    net = vq_vae.VQVAE(shape, config, rng=np.random.default_rng(0))
    rng = np.random.default_rng(1)
    for p in net.parameters():
        p.data[...] += 0.1 * rng.standard_normal(p.shape)
    net.codebook.vectors[...] = rng.standard_normal(net.codebook.vectors.shape)
    return config, net.astype(np.float64).flatten()


def loss_of(net, x, config, revive=False):
    u = np.random.default_rng(2).random(len(x) * net.grid[0] * net.grid[1])
    return vq_vae.objective(net, x, config, revive=revive, u=u)[0]


# --- eq. 1 and 2: the nearest code ------------------------------------------------------------------------------------


def test_eq1_is_the_nearest_and_the_lowest_on_ties():
    codebook = np.array([[1.0, 0], [-1, 0], [1, 0], [5, 5]])
    z = np.array([[[[0.0, 3], [0.1, 0]], [[-0.1, 0], [4, 4]]]])  # the first is as near to codes 0, 1 and 2
    np.testing.assert_array_equal(vq_vae.nearest(z, codebook), [[[0, 0], [1, 3]]])


@given(st.integers(0, 999))
def test_eq1_against_every_distance(seed):
    rng = np.random.default_rng(seed)
    z, codebook = rng.standard_normal((2, 3, 2, 4)), rng.standard_normal((6, 4))
    distance = ((z[..., None, :] - codebook) ** 2).sum(-1)
    np.testing.assert_array_equal(vq_vae.nearest(ag.Tensor(z), codebook), distance.argmin(-1))


def test_eq2_the_straight_through_value_is_the_code_to_rounding(rng):
    z_e, e = rng.standard_normal((2, 5, 2, 2, 3)).astype(np.float32)
    z_q = ag.straight_through(e, ag.Tensor(100 * z_e, requires_grad=True)).data
    assert np.all(np.abs(z_q - e) <= 2 * unit_roundoff(np.float32) * (np.abs(100 * z_e) + np.abs(e)))


# --- eq. 3: which gradient goes where ---------------------------------------------------------------------------------


def test_eq3_two_terms_of_one_value_and_two_gradients(rng):
    """d/de of the first is 2 (e - z) over the number of numbers, d/dz of the second the opposite; nothing else moves."""
    z, e = (ag.Tensor(a, requires_grad=True) for a in rng.standard_normal((2, 4, 3)))
    pull, commitment = vq_vae.latent_losses(z, e)
    assert float(pull) == float(commitment) == pytest.approx(np.mean((z.data - e.data) ** 2))
    of_z, of_e = ag.grad(pull + 0 * ag.sum(z), [z, e])
    assert np.all(of_z.data == 0)
    np.testing.assert_allclose(of_e.data, 2 * (e.data - z.data) / 12)
    of_z, of_e = ag.grad(commitment + 0 * ag.sum(e), [z, e])
    assert np.all(of_e.data == 0)
    np.testing.assert_allclose(of_z.data, 2 * (z.data - e.data) / 12)
    fixed_z, fixed_e = z.data, e.data
    ag.gradcheck(lambda e: vq_vae.latent_losses(fixed_z, e)[0], [fixed_e], order=2)
    ag.gradcheck(lambda z: vq_vae.latent_losses(z, fixed_e)[1], [fixed_z], order=2)


def test_eq3_a_code_is_pulled_to_the_mean_of_its_vectors(rng):
    """d/de_k = 2 n_k (e_k - mean of its z) / (n d); a code that nobody chose is not pulled."""
    z, codebook = rng.standard_normal((10, 3)), ag.Tensor(rng.standard_normal((5, 3)), requires_grad=True)
    codes = np.array([0, 1, 1, 0, 0, 3, 1, 0, 1, 0])
    pull, _ = vq_vae.latent_losses(z, ag.embedding(codebook, codes))
    pull.backward()
    for k in range(5):
        n = (codes == k).sum()
        want = 2 * n * (codebook.data[k] - z[codes == k].mean(0)) / 30 if n else np.zeros(3)
        np.testing.assert_allclose(codebook.grad[k], want, rtol=1e-12, atol=1e-15)


def test_eq3_reconstruction_loss(rng):
    x, x_hat = rng.standard_normal((2, 3, 2, 2, 1))
    assert float(vq_vae.reconstruction_loss(x, x_hat)) == pytest.approx(np.mean((x - x_hat) ** 2))
    with_absolute = np.mean((x - x_hat) ** 2 + 0.3 * np.abs(x - x_hat))
    assert float(vq_vae.reconstruction_loss(x, x_hat, 0.3)) == pytest.approx(with_absolute)
    d = x_hat - x
    of_edges = 0.7 * (np.mean((d[:, 1] - d[:, 0]) ** 2) + np.mean((d[:, :, 1] - d[:, :, 0]) ** 2))
    assert float(vq_vae.reconstruction_loss(x, x_hat, 0.3, 0.7)) == pytest.approx(with_absolute + of_edges)
    tint = vq_vae.reconstruction_loss(x, x + 0.5, 0.0, 7.0)
    assert float(tint) == pytest.approx(0.25), "an even error has no edges"
    ag.gradcheck(lambda a: vq_vae.reconstruction_loss(x, a, 0.3, 0.7), [x_hat])


@pytest.mark.parametrize("rule", ["gradient", "average"])
def test_eq3_the_whole_gradient_by_differences(rule):
    """Differences of what each part is said to minimise, the codes and everything stopped held where they are.

    The encoder sees the decoder's gradient as it is at the codes, and beta times the commitment; the decoder the
    reconstruction; the codebook its pull, without beta, and only where it learns by gradient.
    """
    config, net = tiny(rule=rule, beta=0.7)
    x = np.random.default_rng(3).uniform(-1, 1, (3, 8, 8, 1))
    net.eval()  # so that no average moves
    net.zero_grad()
    loss_of(net, x, config).backward()
    with ag.no_grad():
        z_0 = ag.raw(net.encode(x))
    codes = vq_vae.nearest(z_0, net.codebook.vectors)
    e_0 = net.codebook.vectors[codes].copy()
    assert len(np.unique(codes)) > 3

    def said(part):
        with ag.no_grad():
            if part == "codebook":
                return np.mean((z_0 - net.codebook.vectors[codes]) ** 2)
            z = ag.raw(net.encode(x))
            x_hat = ag.raw(net.decode(e_0 + (z - z_0)))
            return float(vq_vae.reconstruction_loss(x, x_hat, 0.1)) + 0.7 * np.mean((z - e_0) ** 2)

    rng, checked = np.random.default_rng(4), set()
    for name, p in net.named_parameters().items():
        part, direction, step = name.split(".")[0], rng.standard_normal(p.shape), 1e-6
        here = p.data.copy()
        values = []
        for sign in (1, -1):
            p.data[...] = here + sign * step * direction
            values.append(said(part))
        p.data[...] = here
        assert np.sum(p.grad * direction) == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-6, abs=1e-8), (
            name
        )
        assert np.any(p.grad != 0), name
        checked.add(part)
    assert checked == {"encoder", "decoder"} | ({"codebook"} if rule == "gradient" else set())


def test_eq3_beta_weighs_the_commitment_and_not_the_codebook():
    x = np.random.default_rng(3).uniform(-1, 1, (3, 8, 8, 1))
    found = {}
    for beta in (0.0, 1.0):
        config, net = tiny(rule="gradient", beta=beta)
        loss_of(net, x, config).backward()
        found[beta] = {name: p.grad.copy() for name, p in net.named_parameters().items()}
    np.testing.assert_array_equal(found[0.0]["codebook.e"], found[1.0]["codebook.e"])
    assert all(np.any(found[0.0][name] != found[1.0][name]) for name in found[0.0] if name.startswith("encoder"))
    assert all(np.all(found[0.0][name] == found[1.0][name]) for name in found[0.0] if name.startswith("decoder"))


# --- eq. 6 to 8: the codebook by averages -----------------------------------------------------------------------------


@given(st.integers(0, 999))
def test_eq8_is_the_mean_of_all_vectors_weighed_by_their_age(seed):
    """From nothing: e_k = sum of gamma^age z / sum of gamma^age over the vectors that chose k, after every number of steps."""
    rng = np.random.default_rng(seed)
    gamma, K = rng.uniform(0.1, 0.99), 4
    N, m, e = np.zeros(K), np.zeros((K, 2)), rng.standard_normal((K, 2))
    start, seen = e.copy(), []
    for t in range(6):
        z, codes = rng.standard_normal((5, 2)), rng.integers(0, K - 1, 5)  # nobody ever chooses the last
        N, m, e = codebook_ema(N, m, e, z, codes, gamma)
        seen += [(k, v, t) for k, v in zip(codes, z)]
        for k in range(K):
            mine = [(v, gamma ** (t - age)) for code, v, age in seen if code == k]
            want = sum(w * v for v, w in mine) / sum(w for _, w in mine) if mine else start[k]
            np.testing.assert_allclose(e[k], want, rtol=1e-9, atol=1e-12)


def test_eq8_after_one_step_a_code_is_the_mean_of_its_vectors(rng):
    z, codes = rng.standard_normal((6, 2)), np.array([0, 0, 2, 2, 2, 0])
    N, _, e = codebook_ema(np.zeros(3), np.zeros((3, 2)), np.ones((3, 2)), z, codes, 0.99)
    np.testing.assert_allclose(e, [z[codes == 0].mean(0), [1, 1], z[codes == 2].mean(0)], rtol=1e-12)
    np.testing.assert_allclose(N / (1 - 0.99), [3, 0, 3], rtol=1e-12)


def test_eq8_constant_data_have_their_clusters_means_as_fixed_point(rng):
    z, codes = rng.standard_normal((8, 2)), np.array([0, 1, 1, 0, 0, 1, 1, 1])
    means = np.array([z[codes == k].mean(0) for k in range(2)])
    N, m, e = np.array([0.5, 40.0]), rng.standard_normal((2, 2)), rng.standard_normal((2, 2))
    for _ in range(400):
        N, m, e = codebook_ema(N, m, e, z, codes, 0.9)
    np.testing.assert_allclose(e, means, rtol=1e-12)
    np.testing.assert_allclose(N, [3, 5], rtol=1e-12)
    np.testing.assert_array_equal(
        codebook_ema(N, N[:, None] * means, means, z, codes, 0.9)[2].round(12), means.round(12)
    )


@pytest.mark.parametrize("gamma", [0.5, 0.7])
def test_eq8_a_code_that_nobody_chooses_keeps_its_place_to_the_bit_for_ever(gamma):
    """N and m fall by gamma each step, to 0 or to the last numbers above it, where m / N means nothing any more."""
    book = vq_vae.Codebook(2, 1, "average", rng=np.random.default_rng(0))
    book.observe(np.array([[1.1], [-3.3]], np.float32), np.array([0, 1]), gamma)
    kept = book.vectors[1].copy()
    assert kept == pytest.approx(-3.3, rel=1e-6)
    for _ in range(400):
        book.observe(np.array([[1.1]], np.float32), np.array([0]), gamma)
        assert book.vectors[1] == kept
    assert book.N[1] < 1e-44, "it has underflown"
    book.observe(np.array([[7.0]], np.float32), np.array([1]), gamma)
    assert book.vectors[1] == pytest.approx(7, rel=1e-6)


@pytest.mark.parametrize("rule", ["gradient", "average"])
def test_two_points_and_two_codes(rule):
    """The best codes of two points are the points, at loss 0."""
    z = np.array([[-1.0], [3], [3], [-1]])
    book = vq_vae.Codebook(2, 1, rule, rng=np.random.default_rng(0)).astype(np.float64)
    book.vectors[...] = [[0.2], [0.9]]
    for _ in range(300):
        codes = vq_vae.nearest(z, book.vectors)
        pull, _ = vq_vae.latent_losses(z, book(codes))
        if rule == "gradient":
            (g,) = ag.grad(pull, [book.e])
            book.e.data -= 0.2 * g.data
        book.observe(z, codes, 0.9)
    np.testing.assert_allclose(book.vectors, [[-1], [3]], atol=1e-12)
    assert float(ag.raw(vq_vae.latent_losses(z, book(codes))[0])) < 1e-24


def test_a_codebook_is_moved_by_its_average_or_by_the_optimiser_and_never_by_both(digits):
    for rule, other in (("average", "gradient"), ("gradient", "average")):
        assert rule != other
        config = dataclasses.replace(TINY, rule=rule, restart=0.0, decay=0.0, lr=0.1)
        system = vq_vae.build(config, digits, seed=0)
        net = system.modules["codec"]
        assert ("codebook.e" in net.named_parameters()) == (rule == "gradient")
        assert "codebook.e" in net.arrays(), "it is saved under both"
        trainer = Trainer(system, seed=0)
        trainer.advance(digits.train)
        seen = []
        real = net.codebook.observe

        def observe(z, codes, gamma, seen=seen, real=real):
            seen.append((z.copy(), codes.copy()))
            real(z, codes, gamma)

        net.codebook.observe = observe
        before = net.codebook.vectors.copy()
        trainer.advance(digits.train)
        z, codes = seen[0]
        means = np.array([z[codes == k].mean(0) if np.any(codes == k) else before[k] for k in range(8)])
        if rule == "average":  # with gamma = 0 the codes are the means of this batch, after the optimiser too
            np.testing.assert_allclose(net.codebook.vectors, means, rtol=1e-5, atol=1e-6)
        else:
            assert not np.allclose(net.codebook.vectors, means, atol=1e-3)
            assert np.abs(net.codebook.vectors - before).max() < 1, "but it has moved, by a step of Adam"
            assert np.any(net.codebook.vectors != before)


@pytest.mark.parametrize("rule", ["average", "gradient"])
def test_averages_move_while_training_and_at_no_other_time(rule):
    """And the codes with them under "average" alone: under "gradient" they wait for the optimiser."""
    config, net = tiny(rule=rule)
    x = np.random.default_rng(3).uniform(-1, 1, (3, 8, 8, 1))
    before = {name: a.copy() for name, a in net.arrays().items()}
    net.eval()
    loss_of(net, x, config, revive=True)
    codec = vq_vae.Codec(net)
    net.train()
    codec.decode(codec.encode(x))
    for name, a in net.arrays().items():
        np.testing.assert_array_equal(a, before[name])
    loss_of(net, x, config)
    moved = {name for name, a in net.arrays().items() if np.any(a != before[name])}
    assert moved == {"codebook.N", "codebook.m", "codebook.weight"} | ({"codebook.e"} if rule == "average" else set())


def test_the_choice_is_by_the_codebook_before_it_moves():
    """The loss of a step is that of the codes it found."""
    config, net = tiny(beta=1.0, absolute=0.0)
    x = np.random.default_rng(3).uniform(-1, 1, (3, 8, 8, 1))
    net.eval()
    still = float(loss_of(net, x, config))
    net.train()
    assert float(loss_of(net, x, config)) == still
    assert float(loss_of(net, x, config)) != still


# --- dead codes -------------------------------------------------------------------------------------------------------


def test_a_code_is_dead_below_its_share_whatever_the_number_of_steps():
    """16 vectors a batch and 4 codes: an even part is 4. Used 4.1, 2.1, 1.9 and 0 times a batch."""
    for weight in (0.01, 0.5, 1.0):
        N = weight * np.array([4.1, 2.1, 1.9, 0])
        np.testing.assert_array_equal(vq_vae.dead(N, np.array([weight]), 16, 0.5), [False, False, True, True])
        np.testing.assert_array_equal(vq_vae.dead(N, np.array([weight]), 16, 0.0), [False, False, False, True])
    assert vq_vae.dead(np.zeros(4), np.zeros(1), 16, 0.5).all(), "before the first step all are"


def test_dead_codes_come_back_on_vectors_of_the_batch_and_get_time(rng):
    book = vq_vae.Codebook(5, 2, "average", rng=rng)
    z = rng.standard_normal((20, 2)).astype(np.float32)
    for _ in range(200):
        book.observe(z, np.array([0] * 9 + [3] * 11), 0.9)
    kept = book.vectors[[0, 3]].copy()
    u = rng.random(20)
    book.revive(z, 0.5, u)
    np.testing.assert_array_equal(book.vectors[[1, 2, 4]], z[np.argsort(u)[:3]])
    np.testing.assert_array_equal(book.vectors[[0, 3]], kept)
    again = {name: a.copy() for name, a in book.arrays().items()}
    book.revive(z, 0.5, rng.random(20))
    for name, a in book.arrays().items():
        np.testing.assert_array_equal(a, again[name])
    steps = 0
    while not vq_vae.dead(book.N, book.weight, 20, 0.5)[1]:
        book.observe(z, np.zeros(20, int), 0.9)
        steps += 1
    assert steps == 7, "ln 0.5 / ln 0.9 = 6.6"


def test_more_dead_codes_than_vectors_wait(rng):
    book = vq_vae.Codebook(5, 2, "average", rng=rng)
    before, z = book.vectors.copy(), rng.standard_normal((3, 2)).astype(np.float32)
    book.revive(z, 0.5, np.array([0.5, 0.1, 0.9]))
    np.testing.assert_array_equal(book.vectors, [*z[[1, 0, 2]], *before[3:]])


@pytest.mark.parametrize("rule", ["gradient", "average"])
def test_the_first_batch_is_the_first_codebook(rule, digits):
    system = vq_vae.build(dataclasses.replace(TINY, rule=rule, restart=0.0), digits, seed=3)
    net = system.modules["codec"]
    before = net.codebook.vectors.copy()
    assert np.abs(before).max() <= 1 / 8
    batch = digits.train.take(slice(0, 8))
    objective = system.stages()[0].objectives[0]
    with ag.no_grad():
        z = ag.raw(net.encode(digits.scale(batch.images))).reshape(-1, 3)
    net.codebook.observe = lambda *_: None
    objective.loss(batch, np.random.default_rng(0), 0)
    assert all(np.any(np.all(z == code, axis=1)) for code in net.codebook.vectors)
    old = dataclasses.replace(TINY, rule=rule, restart=0.0, from_data=False)
    system = vq_vae.build(old, digits, seed=3)
    system.modules["codec"].codebook.observe = lambda *_: None
    system.stages()[0].objectives[0].loss(batch, np.random.default_rng(0), 0)
    np.testing.assert_array_equal(system.modules["codec"].codebook.vectors, before)


def test_restarts_are_functions_of_seed_and_step_and_end_when_they_should(digits):
    """Steps 0 to 4 of 8 revive (the share 0.6); equal seeds revive alike."""
    config = dataclasses.replace(TINY, restart=0.9, codes=64)
    found = []
    for _ in range(2):
        system = vq_vae.build(config, digits, seed=0)
        book, objective = system.modules["codec"].codebook, system.stages()[0].objectives[0]
        calls, real = [], book.revive

        def revive(z, share, u, calls=calls, real=real, book=book):
            real(z, share, u)
            calls.append(book.vectors.copy())

        book.revive = revive
        for step in range(8):
            batch = digits.train.take(slice(8 * step, 8 * step + 8))
            objective.loss(batch, np.random.default_rng(step), step)
        found.append(calls)
    assert len(found[0]) == 5
    np.testing.assert_array_equal(found[0], found[1])
    assert np.any(found[0][4] != found[0][3])


def test_eq6_and_eq7_of_a_revived_code_stand_for_its_vector(rng):
    """m = N e with N an even part, so that eq. 8 leaves the code where it was put, however often it is revived."""
    book = vq_vae.Codebook(5, 2, "average", rng=rng)
    z = rng.standard_normal((20, 2)).astype(np.float32)
    for _ in range(3):
        book.observe(z, np.zeros(20, int), 0.9)
    book.revive(z, 0.5, np.arange(20.0))
    np.testing.assert_array_equal(book.vectors[1:], z[:4])
    np.testing.assert_allclose(book.N[1:], (1 - 0.9**3) * 20 / 5, rtol=1e-6)
    np.testing.assert_allclose(book.m / book.N[:, None], book.vectors, rtol=1e-5)
    book.observe(z[:4], np.arange(1, 5), 0.9)  # each is chosen by the vector it was put on: nothing pulls at it
    np.testing.assert_allclose(book.vectors[1:], z[:4], rtol=1e-5)


@pytest.mark.parametrize("rule", ["gradient", "average"])
def test_a_book_in_even_use_is_alive_from_its_first_step_on(rule, rng):
    """``weight`` is 1 - gamma^t: without it N of the first steps would look like too little use."""
    book = vq_vae.Codebook(4, 2, rule, rng=rng)
    z, codes = rng.standard_normal((16, 2)).astype(np.float32), np.arange(16) % 4
    for t in range(1, 6):
        book.observe(z, codes, 0.97)
        np.testing.assert_allclose(book.weight, 1 - 0.97**t, rtol=1e-5)
        before = book.vectors.copy()
        book.revive(z, 0.9, rng.random(16))
        np.testing.assert_array_equal(book.vectors, before)


@pytest.mark.parametrize("from_data", [True, False])
def test_step_0_revives_exactly_where_the_codebook_starts_on_data(from_data, digits, monkeypatch):
    """With restarts on, which begin at step 1; every step hands on the config's share and its own stream's order."""
    config = dataclasses.replace(TINY, from_data=from_data, restart=0.05)
    system, told = vq_vae.build(config, digits, seed=0), []
    real = vq_vae.objective
    monkeypatch.setattr(vq_vae, "objective", lambda *a, **kw: told.append((a, kw)) or real(*a, **kw))
    book = system.modules["codec"].codebook
    start, batch = book.vectors.copy(), digits.train.take(slice(0, 8))
    book.observe = lambda *_: None
    loss = system.stages()[0].objectives[0].loss
    loss(batch, np.random.default_rng(5), 0)
    assert np.array_equal(book.vectors, start) != from_data
    for step in range(1, 8):
        loss(batch, np.random.default_rng(5), step)
    assert [kw["revive"] for _, kw in told] == [from_data, True, True, True, True, False, False, False]
    (_, x, said), kw = told[0]
    np.testing.assert_array_equal(x, digits.scale(batch.images).astype(np.float32))
    np.testing.assert_array_equal(kw["u"], np.random.default_rng(5).random(8 * 16))
    assert said is config


# --- usage ------------------------------------------------------------------------------------------------------------


def test_perplexity_of_even_use_is_k_and_of_a_single_code_is_1():
    assert vq_vae.perplexity(vq_vae.usage(np.arange(24).reshape(2, 3, 4) % 6, 6)) == pytest.approx(6, rel=1e-12)
    assert vq_vae.perplexity(vq_vae.usage(np.full((2, 3), 4), 6)) == 1
    np.testing.assert_array_equal(vq_vae.usage(np.array([[0, 2], [2, 2]]), 4), [1, 0, 3, 0])
    assert vq_vae.entropy(np.array([1, 3])) == pytest.approx(-0.25 * np.log(0.25) - 0.75 * np.log(0.75))


# --- the prior and the likelihood, by enumeration ---------------------------------------------------------------------


def loud(net, seed=0, dtype=np.float64):
    """Random numbers in all its layers."""
    rng = np.random.default_rng(seed)
    for p in net.parameters():
        p.data = p.data + 0.5 * rng.standard_normal(p.shape)
    return net.astype(dtype)


@pytest.mark.parametrize(("grid", "K"), [((1, 1), 3), ((1, 2), 3), ((1, 3), 2), ((2, 2), 2), ((2, 2), 3)])
def test_the_prior_over_all_grids_sums_to_one(grid, K):
    meet = vq_vae_prior.CodeVectors(vq_vae.Codebook(K, 3, "average", rng=np.random.default_rng(1)))
    settings = {"read": meet, "token": meet.token, "first": 5}
    prior = loud(pixelcnn.TokenPixelCNN(grid, K, 4, 2, rng=np.random.default_rng(0), **settings))
    _, p = check_sums_to_one(prior.logits, K, grid[0] * grid[1])
    assert p.std() > 0.01 / len(p), "and it is not uniform"


def test_the_prior_meets_codes_as_vectors_in_units_of_their_spread(rng):
    """Codes of one place are read alike and are equally likely; the codebook's unit does not matter; the prior trains
    none of it.
    """
    book = vq_vae.Codebook(4, 3, "gradient", rng=rng)
    book.vectors[...] = rng.standard_normal((4, 3))
    book.vectors[2] = book.vectors[0]
    meet, out = vq_vae_prior.CodeVectors(book), rng.standard_normal((2, 5, 7)).astype(np.float32)
    assert np.mean(meet.table**2) == pytest.approx(1, rel=1e-6)
    np.testing.assert_array_equal(meet(np.array([2, 1])), meet(np.array([0, 1])))
    bar = book.vectors / np.sqrt(np.mean(book.vectors**2))
    want = out[..., :4] + np.einsum("...d,kd->...k", out[..., 4:], bar)
    np.testing.assert_allclose(meet.logits(out), want, rtol=1e-5, atol=1e-5)
    out[..., :4] = 0
    p = ag.softmax(meet.logits(out))
    np.testing.assert_allclose(p[..., 0], p[..., 2], rtol=1e-6)
    np.testing.assert_allclose(meet.token.log_p(np.full((2, 5), 1), out), np.log(p[..., 1]), rtol=1e-4)
    before = meet.logits(out)
    book.vectors[...] *= 4
    np.testing.assert_allclose(meet.logits(out), before, rtol=1e-5, atol=1e-5)
    prior = pixelcnn.TokenPixelCNN((2, 2), 4, 8, 1, read=meet, token=meet.token, first=3, rng=rng)
    assert not any(p is book.e for p in prior.parameters())


def test_the_likelihood_of_pictures_is_the_sum_over_all_grids_and_the_figure_bounds_it():
    """Pictures of 2 x 2 black or white pixels with a code each: p(x) = sum of p(k) p(x | k) over 16 grids sums to 1
    over 16 pictures.

    And the nats that the figures add up, of the one grid that the encoder chooses, are never fewer than -ln p(x).
    """
    config = dataclasses.replace(TINY, codes=2, channels=(8,), patch=1)
    everything = every_sequence(2, 4).reshape(16, 2, 2, 1).astype(np.uint8)
    data = Dataset("squares", Split(everything), Split(everything), Split(everything), levels=2, classes=())
    system = vq_vae.build(config, data, seed=0)
    net, prior = loud(system.modules["codec"]), loud(system.modules["prior"])
    net.codebook.e[...] = np.random.default_rng(5).standard_normal((2, 3))
    codec = vq_vae.Codec(net)
    grids = every_sequence(2, 4)
    p_k = np.exp(-np.array([nats_of(prior, g.reshape(1, 2, 2)) for g in grids]))
    chosen = codec.encode(data.scale(everything))
    log_scales = copies.fit_log_scales(everything, codec.decode(chosen), 2)
    means = codec.decode(grids.reshape(16, 2, 2))
    p_x_k = np.exp(
        [[-copies.residual_nats(x[None], mean[None], log_scales, 2)[0] for mean in means] for x in everything]
    )
    p_x = p_x_k @ p_k
    assert p_k.sum() == pytest.approx(1, abs=1e-10) and p_x.sum() == pytest.approx(1, abs=1e-10)
    own = np.array([np.flatnonzero((grids == c.reshape(-1)).all(1))[0] for c in chosen])
    two_parts = -np.log(p_k[own]) - np.log(p_x_k[np.arange(16), own])
    assert np.all(two_parts >= -np.log(p_x))
    figures = list(system.figures(data, rng=np.random.default_rng(0)).values())
    assert figures[-1] == pytest.approx(two_parts.mean(), rel=1e-6)
    assert figures[-1] > -np.log(p_x).mean()


def nats_of(prior, codes):
    with ag.no_grad():
        return float(ag.raw(pixelcnn.nats(prior.log_p(codes))))


def test_a_prior_that_knows_nothing_costs_ln_k_a_code(few):
    system = vq_vae.build(TINY, few, seed=0)
    found = system.figures(few, rng=np.random.default_rng(0))
    assert found["nats of the code under the prior, test, exact"] == pytest.approx(16 * np.log(8), rel=1e-6)
    assert found["nats of the code, all codes alike, exact"] == pytest.approx(16 * np.log(8))


def test_the_prior_learns_the_codes_of_pictures_as_they_are(digits):
    """Pictures are shifted for the codec only."""
    batch, found = digits.train.take(slice(0, 8)), []
    for share in (0.0, 1.0):
        system = vq_vae.build(dataclasses.replace(TINY, shift=share, prior_dropout=0.0), digits, seed=0)
        loud(system.modules["prior"])
        codec, prior = (stage.objectives[0].loss for stage in system.stages())
        losses = [float(loss(batch, np.random.default_rng(0), 7)[0]) for loss in (prior, codec)]
        found.append(losses)
    assert found[0][0] == found[1][0] and found[0][1] != found[1][1]


def test_a_conditional_prior_learns_the_codes_with_their_own_labels(digits):
    """As samples are told them, 0 the first class; the codec learns from pictures between -1 and 1."""
    config = dataclasses.replace(TINY, conditional=True, prior_dropout=0.0, restart=0.0, from_data=False)
    system, batch = vq_vae.build(config, digits, seed=0), digits.train.take(slice(0, 12))
    net, prior = system.modules["codec"], loud(system.modules["prior"], dtype=np.float32)
    codes = vq_vae.Codec(net).encode(batch.images / 8 - 1)
    got = float(system.stages()[1].objectives[0].loss(batch, np.random.default_rng(0), 0)[0])
    for y in (batch.labels, np.roll(batch.labels, 1)):
        with ag.no_grad():
            want = -float(ag.raw(prior.log_p(codes, y)).sum((1, 2)).mean())
        assert (got == pytest.approx(want, rel=1e-5)) == (y is batch.labels)
    net.eval()  # the codebook stays
    want = float(vq_vae.objective(net, (batch.images / 8 - 1).astype(np.float32), config, revive=False, u=None)[0])
    codec = system.stages()[0].objectives[0].loss
    assert float(codec(batch, np.random.default_rng(0), 0)[0]) == pytest.approx(want, rel=1e-5)


def test_figures_are_of_the_test_split_with_scales_of_the_validation_split(few):
    """Each by hand, and none what another split, or a code in place of a picture, would give."""
    system = vq_vae.build(TINY, few, seed=0)
    net, prior = system.modules["codec"], loud(system.modules["prior"], dtype=np.float32)
    net.codebook.e[...] = np.random.default_rng(8).standard_normal(net.codebook.e.shape)
    codec = vq_vae.Codec(net)
    codes = {s: codec.encode(few.scale(getattr(few, s).images)) for s in ("train", "val", "test")}
    copy = {s: codec.decode(k) for s, k in codes.items()}
    scales = {s: copies.fit_log_scales(getattr(few, s).images, copy[s], 17) for s in copy}
    residual = {s: copies.residual_nats(few.test.images, copy["test"], scales[s], 17).mean() for s in scales}
    nats = {s: nats_of(prior, k) for s, k in codes.items()}
    assert len(np.unique(codes["train"])) > len(np.unique(codes["test"]))
    for found in (residual, nats):
        assert len({round(float(v), 2) for v in found.values()}) == 3, "the splits can be told apart"
    found = system.figures(few, rng=np.random.default_rng(0))
    assert found == pytest.approx(
        {
            "error of the copy, test, MSE a pixel": np.mean((few.scale(few.test.images) - copy["test"]) ** 2),
            "codes used of 8, first 40 of the training split": len(np.unique(codes["train"])),
            "codes used of 8, test split": len(np.unique(codes["test"])),
            "perplexity of the codes, test split": vq_vae.perplexity(vq_vae.usage(codes["test"], 8)),
            "entropy of a single code, test split, nats": vq_vae.entropy(vq_vae.usage(codes["test"], 8)),
            "nats of the code under the prior, test, exact": nats["test"],
            "bits of the code under the prior, test, exact": nats["test"] / np.log(2),
            "nats of the code, all codes alike, exact": 16 * np.log(8),
            "nats of the picture given its code, logistic around the copy": residual["val"],
            "the two together, nats: a bound on -ln p(x), as other codes could give x too": nats["test"]
            + residual["val"],
        },
        rel=1e-5,
    )


# --- the codec --------------------------------------------------------------------------------------------------------


def test_codes_are_integers_of_the_grid_and_pictures_are_in_range():
    config, net = tiny((16, 24, 3), codes=5)
    codec = vq_vae.Codec(net)
    x = np.random.default_rng(0).uniform(-1, 1, (130, 16, 24, 3))
    codes = codec.encode(x)
    assert codes.shape == (130, 4, 6) == (130, *codec.grid) and codes.dtype == np.int64
    assert codec.codes == 5 and codec.codebook.shape == (5, config.dimension)
    images = codec.decode(codes)
    assert images.shape == x.shape and np.abs(images).max() <= 1
    np.testing.assert_array_equal(codec.encode(x[128:]), codes[128:])
    np.testing.assert_allclose(codec.decode(codes[128:]), images[128:], atol=1e-12)
    assert codec.encode(x[:0]).shape == (0, 4, 6) and codec.decode(codes[:0]).shape == (0, 16, 24, 3)
    for wrong in (np.full((1, 4, 6), 5), np.full((1, 4, 6), -1)):
        with pytest.raises(ValueError, match="codes must be from 0 to 4, got"):
            codec.decode(wrong)


def test_the_decoder_sees_the_codes_and_nothing_else():
    _, net = tiny()
    codec = vq_vae.Codec(net)
    x = np.random.default_rng(0).uniform(-1, 1, (3, 8, 8, 1))
    moved = x + 1e-9  # another picture with the same codes
    np.testing.assert_array_equal(codec.encode(x), codec.encode(moved))
    np.testing.assert_array_equal(codec.decode(codec.encode(x)), codec.decode(codec.encode(moved)))


def test_one_code_says_nothing(few):
    """A codebook of one is allowed: every picture is the same, its code costs 0 nats."""
    system = vq_vae.build(dataclasses.replace(TINY, codes=1), few, seed=0)
    trainer = Trainer(system, seed=0)
    while trainer.done < trainer.total:
        trainer.advance(few.train)
    codec = vq_vae.Codec(system.modules["codec"])
    assert np.all(codec.encode(few.scale(few.test.images)) == 0)
    images = system.sample(3, rng=np.random.default_rng(0))
    np.testing.assert_array_equal(images[0], images[2])
    found = system.figures(few, rng=np.random.default_rng(0))
    assert found["nats of the code under the prior, test, exact"] == 0
    assert found["perplexity of the codes, test split"] == 1


# --- the system -------------------------------------------------------------------------------------------------------


class Boom(BaseException):
    """Ends a run from inside."""


@pytest.mark.parametrize(("rule", "at"), [("average", 3), ("average", 8), ("average", 11), ("gradient", 5)])
def test_a_run_that_ended_anywhere_goes_on_to_the_same_bits(few, tmp_path, monkeypatch, rule, at):
    """In either stage and between them: 8 steps of the codec, which revive codes all the way, then 6 of the prior."""
    config = dataclasses.replace(TINY, rule=rule, restart=0.9, restart_until=1.0, codes=24)

    def go(name, resume=False):
        run = Run(out=tmp_path / name, system="vq_vae", samples=2, samples_every=0, save_seconds=0.0)
        train(vq_vae.build(config, few, seed=0), few, run, resume=resume)

    go("whole")
    real = Trainer.advance

    def advance(self, split):
        if self.done == at:
            raise Boom
        return real(self, split)

    monkeypatch.setattr(Trainer, "advance", advance)
    with pytest.raises(Boom):
        go("cut")
    monkeypatch.undo()
    go("cut", resume=True)
    assert (tmp_path / "cut" / WEIGHTS).read_bytes() == (tmp_path / "whole" / WEIGHTS).read_bytes()
    assert same_state(tmp_path / "cut", tmp_path / "whole")


@pytest.mark.parametrize("rule", ["average", "gradient"])
def test_training_lowers_both_losses(digits, rule):
    config = dataclasses.replace(TINY, rule=rule, steps=40, lr=1e-2, prior_steps=40, prior_lr=1e-2)
    system = vq_vae.build(config, digits, seed=0)
    trainer, small = Trainer(system, seed=0), digits.train.take(slice(0, 16))
    found = [trainer.advance(small) for _ in range(trainer.total)]
    assert found[39]["codec.reconstruction"] < 0.6 * found[0]["codec.reconstruction"]
    assert found[-1]["prior.loss"] < 0.8 * found[40]["prior.loss"]
    assert "codec.loss" not in found[40], "the codec rests while the prior learns"


def test_the_codec_rests_while_the_prior_learns(few):
    system = vq_vae.build(TINY, few, seed=0)
    trainer = Trainer(system, seed=0)
    for _ in range(9):
        trainer.advance(few.train)
    kept = {name: a.copy() for name, a in system.modules["codec"].arrays().items()}
    for _ in range(5):
        trainer.advance(few.train)
    for name, a in system.modules["codec"].arrays().items():
        np.testing.assert_array_equal(a, kept[name])


def test_samples_come_from_the_prior_that_was_asked_for(few):
    """A prior that gives code 3 the probability 0.6 draws it so often, the uniform one draws all alike; temperature 0
    is the likeliest.
    """
    system = vq_vae.build(TINY, few, seed=0)
    codec, prior = vq_vae.Codec(system.modules["codec"]), system.modules["prior"]
    prior.net.out.b.data[:8] = np.log(np.where(np.arange(8) == 3, 0.6, 0.4 / 7))
    images = system.sample(6, rng=np.random.default_rng(0), temperature=0.0)
    want = codec.decode(np.full((1, 4, 4), 3))
    np.testing.assert_allclose(images, np.broadcast_to(want, images.shape), atol=1e-6)
    flat = [system.sample(6, rng=np.random.default_rng(0), prior="uniform", temperature=t) for t in (1.0, 0.0)]
    np.testing.assert_array_equal(flat[1], flat[0], err_msg="the temperature is the learned prior's")
    counts, real = {}, vq_vae.Codec.decode
    for name in ("pixelcnn", "uniform"):
        drawn = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(vq_vae.Codec, "decode", lambda self, k, drawn=drawn: drawn.append(k) or real(self, k))
            images = system.sample(400, rng=np.random.default_rng(0), prior=name)
        assert images.shape == (400, 8, 8, 1) and images.dtype == np.float32
        counts[name] = vq_vae.usage(drawn[0], 8)
    n = 6400  # 6 standard deviations: a share wrong by 0.037 is seen
    for name, p in (("pixelcnn", np.where(np.arange(8) == 3, 0.6, 0.4 / 7)), ("uniform", np.full(8, 1 / 8))):
        assert np.all(np.abs(counts[name] - n * p) < 6 * np.sqrt(n * p * (1 - p)))


def test_without_a_label_a_conditional_prior_is_told_all_of_them(few, monkeypatch):
    system, told = vq_vae.build(dataclasses.replace(TINY, conditional=True), few, seed=0), []
    prior = type(system.modules["prior"])
    step = prior.step
    monkeypatch.setattr(prior, "step", lambda self, new, cache, y: (told.append(y), step(self, new, cache, y))[1])
    system.sample(200, rng=np.random.default_rng(0))
    assert set(told[0]) == set(range(10)) and all((y == told[0]).all() for y in told)


def test_a_conditional_prior_is_told_the_label(few):
    system = vq_vae.build(dataclasses.replace(TINY, conditional=True), few, seed=0)
    loud(system.modules["prior"], dtype=np.float32)
    a, b, c = (system.sample(20, rng=np.random.default_rng(0), label=y) for y in (0, 0, 9))
    np.testing.assert_array_equal(a, b)
    assert np.any(a != c)
    batch = few.train.take(slice(0, 8))
    wrong = Split(batch.images, (batch.labels + 1) % 10)
    loss = system.stages()[1].objectives[0].loss
    assert float(loss(batch, np.random.default_rng(0), 0)[0]) != float(loss(wrong, np.random.default_rng(0), 0)[0])
    assert system.sample(3, rng=np.random.default_rng(0)).shape == (3, 8, 8, 1)
    found = system.figures(few, rng=np.random.default_rng(0))  # of p(x | y), which is no bound on p(x)
    codes = vq_vae.Codec(system.modules["codec"]).encode(few.scale(few.test.images))
    with ag.no_grad():
        log_p = ag.raw(system.modules["prior"].log_p(codes, few.test.labels))
    want = pytest.approx(-log_p.sum((1, 2)).mean(), rel=1e-5)
    assert found["nats of the code given the class under the prior, test, exact"] == want
    assert any("a bound on -ln p(x | class)" in name for name in found)
    assert not any("-ln p(x)" in name for name in found)
    with pytest.raises(ValueError, match="label must be from 0 to 9, got 10"):
        system.sample(1, rng=np.random.default_rng(0), label=10)


def test_a_trajectory_ends_in_the_sample_and_is_grey_where_no_code_is_yet(few):
    system = vq_vae.build(TINY, few, seed=0)
    loud(system.modules["prior"], dtype=np.float32)
    states = []
    images = system.sample(2, rng=np.random.default_rng(0), callback=lambda t, x: states.append((t, x)))
    assert [t for t, _ in states] == list(range(16, -1, -1))
    assert np.all(states[0][1] == 0)
    np.testing.assert_array_equal(states[-1][1], images)
    assert np.all(states[5][1][:, 2:4, 2:] == 0) and np.any(states[5][1][:, 2:4, :2] != 0), "five codes: a row and one"


def test_samples_and_figures_are_functions_of_their_rng(few):
    system = vq_vae.build(TINY, few, seed=0)
    a, b = (system.sample(9, rng=np.random.default_rng(5)) for _ in range(2))
    np.testing.assert_array_equal(a, b)
    assert system.figures(few, rng=np.random.default_rng(1)) == system.figures(few, rng=np.random.default_rng(1))


def test_a_weights_file_needs_no_data(digits):
    nothing = Split(np.zeros((0, 8, 8, 1), np.uint8))
    bare = Dataset("digits", nothing, nothing, nothing, levels=17, classes=digits.classes)
    a, b = (vq_vae.build(TINY, d, seed=0).sample(2, rng=np.random.default_rng(0)) for d in (bare, digits))
    np.testing.assert_array_equal(a, b)


def test_pictures(few):
    system = vq_vae.build(dataclasses.replace(TINY, codes=20), few, seed=0)
    assert set(system.pictures) == set(vq_vae.PICTURES)
    found = {name: draw(few.test, rng=np.random.default_rng(0)) for name, draw in system.pictures.items()}
    shapes = {name: x.shape for name, x in found.items()}
    assert shapes == {"reconstruction": (2, 12, 8, 8, 1), "codes": (2, 16, 8, 8, 1), "priors": (4, 12, 8, 8, 1)}
    assert all(x.min() >= -1 and x.max() <= 1 for x in found.values())


def test_pictures_show_codes_by_their_use_and_the_learned_prior_above_the_uniform_one(few):
    system = vq_vae.build(dataclasses.replace(TINY, codes=20), few, seed=0)
    trained, codec = Trainer(system, seed=0), vq_vae.Codec(system.modules["codec"])
    for _ in range(trained.total):
        trained.advance(few.train)
    used = np.bincount(codec.encode(few.scale(few.test.images)).ravel(), minlength=20)
    order = sorted(range(20), key=lambda k: (-used[k], k))
    assert len(set(used)) > 2 and order != list(range(20))
    alone = codec.decode(np.broadcast_to(np.reshape(order, (-1, 1, 1)), (20, *codec.grid)))
    shown = system.pictures["codes"](few.test, rng=np.random.default_rng(0)).reshape(-1, 8, 8, 1)
    np.testing.assert_allclose(shown[:20], alone, atol=1e-5)
    rng = np.random.default_rng(0)
    learned, uniform = (system.sample(24, rng=rng, prior=name) for name in ("pixelcnn", "uniform"))
    rows = system.pictures["priors"](few.test, rng=np.random.default_rng(0)).reshape(-1, 8, 8, 1)
    np.testing.assert_array_equal(rows, np.concatenate([learned, uniform]))


def test_settings_that_do_not_fit_are_named(digits):
    text = Dataset("prose", *(Split(np.zeros((2, 8), np.uint16)) for _ in range(3)), levels=300, classes=())
    for data in (load("rings"), text):
        with pytest.raises(ValueError, match=f"'{data.name}' holds no pictures"):
            vq_vae.build(vq_vae.Config(), data, seed=0)
    for change, words in (
        ({"codes": 0}, "codes must be at least 1, got 0"),
        ({"dimension": 0}, "dimension must be at least 1, got 0"),
        ({"beta": -1.0}, "beta must be at least 0, got -1.0"),
        ({"beta": float("nan")}, "beta must be at least 0, got nan"),
        ({"rule": "both"}, "rule must be 'average' or 'gradient', got 'both'"),
        ({"decay": 1.0}, r"decay must be in \[0, 1\), got 1.0"),
        ({"restart": 1.5}, "restart must be a share in 0..1, got 1.5"),
        ({"shift": -0.1}, "shift must be a share in 0..1, got -0.1"),
        ({"channels": ()}, "channels must hold at least one width"),
        ({"channels": (8, 12)}, "the last a multiple of 8"),
        ({"patch": 3}, "a code is 6 x 6 pixels .* does not divide a picture of 8 x 8"),
        ({"channels": (8, 8, 8, 8, 8)}, "a code is 16 x 16 pixels"),
        ({"prior_layers": 0}, "prior_layers must be at least 1, got 0"),
        ({"prior_steps": 0}, "prior_steps must be at least 1, got 0"),
        ({"prior_dropout": 1.0}, "dropout must be at least 0 and below 1, got 1.0"),
    ):
        with pytest.raises(ValueError, match=words):
            vq_vae.build(dataclasses.replace(TINY, **change), digits, seed=0)
    unlabelled = Dataset("faces", *(Split(digits.train.images[:9]) for _ in range(3)), levels=17, classes=())
    with pytest.raises(ValueError, match="conditional needs labels, and the data set 'faces' has none"):
        vq_vae.build(dataclasses.replace(TINY, conditional=True), unlabelled, seed=0)
    row = dataclasses.replace(TINY, channels=(8,))
    vq_vae.check_codec(row, (1, 4, 1))
    with pytest.raises(ValueError, match="edges needs pictures of at least 2 x 2 pixels, got 1 x 4"):
        vq_vae.check_codec(dataclasses.replace(row, edges=0.5), (1, 4, 1))
    system = vq_vae.build(TINY, digits, seed=0)
    for settings, words in (
        ({"steps": 3}, "16 a picture: steps must be left out, got 3"),
        ({"prior": "flat"}, "prior must be 'pixelcnn' or 'uniform', got 'flat'"),
        ({"prior": "uniform", "label": 1}, "label 1 is for the learned prior"),
        ({"label": 1}, "label 1 needs a conditional prior"),
        ({"temperature": -1.0}, "temperature must be a number of at least 0"),
    ):
        with pytest.raises(ValueError, match=words):
            system.sample(1, rng=np.random.default_rng(0), **settings)
