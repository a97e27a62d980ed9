"""img2img and inpainting on Gaussian data, where every step is linear and every law is known, and against planted bugs."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mutants import mutant
from oracles import OneHotNoise, gaussian_eps

from minigen.maths import parametrisation, schedules
from minigen.samplers import ancestral, choose, ddim, inpaint
from minigen.samplers.inpaint import img2img, keep, path, replace


def never(x, t, cond=None):
    raise AssertionError("the model is not asked here")


# --- img2img ----------------------------------------------------------------------------------------------------------


def img2img_law(schedule, strength, x_0, std, eta):
    """Mean and variance of the result for data N(0, s^2), from the papers' formulas alone."""
    a = schedule.alpha_bar
    start = next(t for t in range(schedule.T + 1) if t >= strength * schedule.T - 1e-9)
    mean, var = np.sqrt(a[start]) * x_0, 1 - a[start]
    for t in range(start, 0, -1):
        v = a[t] * std**2 + 1 - a[t]
        sigma2 = eta**2 * (1 - a[t - 1]) / (1 - a[t]) * (1 - a[t] / a[t - 1])
        gain = np.sqrt(a[t - 1] * a[t]) * std**2 / v + np.sqrt(1 - a[t - 1] - sigma2) * np.sqrt(1 - a[t]) / v
        mean, var = gain * mean, gain**2 * var + sigma2
    return mean, var


def law_of(run, draws, *args, **settings):
    """Mean and variance of something linear in its noise: one sample a draw, and one that sees none."""
    out = run(OneHotNoise(first=0), draws + 1, *args, **settings)
    return out[-1], ((out[:-1] - out[-1]) ** 2).sum(0)


@given(st.integers(1, 12), st.integers(0, 100), st.sampled_from([0.0, 0.4, 1.0]), st.floats(0.1, 2))
def test_sdedit_gives_the_known_mean_and_variance(T, percent, eta, std):
    schedule, strength = schedules.cosine(T), percent / 100

    def run(tape, n):
        model = gaussian_eps(0.0, std, schedule)
        return img2img(model, np.full((n, 1), 0.7), schedule, strength, rng=tape, sampler=ddim.sample, eta=eta)

    mean, var = law_of(run, T + 1)
    want = img2img_law(schedule, strength, 0.7, std, eta)
    assert (mean[0], var[0]) == pytest.approx(want, rel=1e-6, abs=1e-9)


def test_sdedit_any_sampler_starts_at_the_level_that_was_noised_to(rng):
    schedule = schedules.linear(100)
    x_0, seen = rng.standard_normal((2, 3)), []

    def sampler(model, x_t, cut, *, rng, clip):
        seen.append((x_t, cut.T, cut.times[-1], cut.alpha_bar[-1], clip))
        return x_t * 0

    for strength, level in [(0.07, 7), (0.071, 8), (0.001, 1), (1.0, 100)]:
        img2img(never, x_0, schedule, strength, rng=np.random.default_rng(5), sampler=sampler, clip=1.0)
        x_t, T, time, a, clip = seen[-1]
        assert (T, time, a, clip) == (level, level, schedule.alpha_bar[level], 1.0)
        eps = np.random.default_rng(5).standard_normal((2, 3))
        np.testing.assert_allclose(x_t, a**0.5 * x_0 + (1 - a) ** 0.5 * eps)
    same = img2img(never, x_0, schedule, 0.0, rng=None)
    np.testing.assert_array_equal(same, x_0)
    assert same is not x_0
    point = gaussian_eps(0.3, 0.0, schedule)  # data of one point: whatever the picture was, that point comes out
    np.testing.assert_allclose(img2img(point, x_0, schedule, 0.5, rng=rng, sampler=ancestral.sample), 0.3)


# --- known pixels -----------------------------------------------------------------------------------------------------


def test_repaint_algorithm_1_visits_every_step_so_often():
    assert path(4) == [4, 3, 2, 1, 0]
    assert path(3, resample=2) == [3, 2, 3, 2, 1, 2, 1, 0]
    assert path(5, resample=3, jump=2) == [5, 4, 3, 5, 4, 3, 5, 4, 3, 2, 1, 3, 2, 1, 3, 2, 1, 0]


def test_repaint_s_own_settings_walk_each_step_below_level_241_ten_times():
    """Of 250 levels, but for the last step: the authors go up from their 0, 10 ... 230, counted from 0."""
    levels = path(250, resample=10, jump=10)
    down = [t for t, u in zip(levels, levels[1:]) if u < t]
    assert [down.count(t) for t in (250, 242, 241, 240, 11, 2, 1)] == [1, 1, 10, 10, 10, 10, 1]
    assert {t for t, u in zip(levels, levels[1:]) if u > t} == set(range(1, 232, 10))


@given(st.integers(1, 20), st.integers(1, 4), st.integers(1, 5))
def test_paths_go_from_T_to_0_by_steps_and_jumps(T, resample, jump):
    jump = min(jump, max(1, T - 1))
    levels = path(T, resample, jump)
    assert levels[0] == T and levels[-1] == 0 and levels.count(0) == 1 and max(levels) == T
    moves = np.diff(levels)
    assert set(moves) <= {-1, jump}
    ups = [t for t, move in zip(levels, moves) if move == jump]
    for t in range(1, T):
        assert ups.count(t) == (resample - 1 if (t - 1) % jump == 0 and t + jump <= T else 0)


def tape_run(schedule, eta, resample, jump, std=0.5, module=inpaint):
    """All that the model is asked about, (calls, draws + 1, 2): pixel 0 is known (0.7), pixel 1 is not; the last sample
    sees no noise.
    """
    draws = 3 * len(path(schedule.T, resample, jump)) + 2
    states, x_T = [], np.zeros((draws + 1, 2))
    model = gaussian_eps(0.0, std, schedule)
    known = np.tile([[0.7, np.nan]], (draws + 1, 1))
    out = module.replace(
        model,
        x_T,
        known,
        np.array([[1, 0]]),
        schedule,
        rng=OneHotNoise(first=0),
        eta=eta,
        resample=resample,
        jump=jump,
        callback=lambda t, x, guess: states.append((t, x)),
    )
    return states, out


@pytest.mark.parametrize("resample, jump", [(1, 1), (3, 1), (2, 3)])
@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_law18_known_pixels_have_the_noise_of_their_level_at_every_call(resample, jump, eta):
    schedule = schedules.linear(60).respaced([2, 10, 20, 30, 40, 50, 60])
    states, out = tape_run(schedule, eta, resample, jump)
    levels = path(7, resample, jump)
    assert [t for t, _ in states] == [t for t, u in zip(levels, levels[1:]) if u < t] + [0]
    for t, x in states:
        a, weights = schedule.alpha_bar[t], x[:-1] - x[-1]
        assert x[-1, 0] == pytest.approx(a**0.5 * 0.7, rel=1e-12)
        assert (weights[:, 0] ** 2).sum() == pytest.approx(1 - a, rel=1e-12, abs=1e-15)
    assert (out[:, 0] == 0.7).all() and np.isfinite(out).all()


def test_law18_walking_up_again_keeps_the_variance_of_unit_data():
    """And it leads from the mean of one level to that of the other."""
    schedule = schedules.cosine(8)
    a = schedule.alpha_bar
    for u in range(1, 8):
        for t in range(u + 1, 9):
            x, z = np.array([[1.0], [0.0]]), np.array([[0.0], [1.0]])
            assert (inpaint.step_up(x, u, t, z, schedule) ** 2).sum() == pytest.approx(1)
            x = np.array([[a[u] ** 0.5]])  # of a point at 1, the mean
            assert float(inpaint.step_up(x, u, t, 0.0, schedule)[0, 0]) == pytest.approx(a[t] ** 0.5)


def test_a_mask_of_ones_returns_the_picture_and_one_of_zeros_never_reads_it(rng):
    schedule = schedules.cosine(6)
    model = gaussian_eps(0.2, 0.5, schedule)
    picture = rng.standard_normal((2, 4, 4, 3)).astype(np.float32)
    x_T = rng.standard_normal(picture.shape).astype(np.float32)
    all_of_it = replace(model, x_T, picture, np.ones((2, 4, 4, 1)), schedule, rng=rng, resample=2)
    np.testing.assert_array_equal(all_of_it, picture)
    assert all_of_it.dtype == np.float32
    outs = []
    for filler in (np.nan, 99.0):
        known = np.full_like(picture, filler)
        none_of_it = np.zeros((1, 1, 1, 1), bool)
        outs.append(replace(model, x_T, known, none_of_it, schedule, rng=np.random.default_rng(0), eta=0))
    np.testing.assert_array_equal(*outs)
    np.testing.assert_allclose(outs[0], ddim.sample(model, x_T, schedule), rtol=1e-6)
    how = {"cond": np.float32(0.8), "kind": "x_0", "clip": 0.5, "eta": 0}  # all of which reach the network's guess
    asked = (lambda x, t, cond: cond * x), x_T
    same = replace(*asked, picture, none_of_it, schedule, rng=rng, **how)
    np.testing.assert_allclose(same, ddim.sample(*asked, schedule, **how), rtol=1e-5)


# --- correlated Gaussian data: replacement's bias ---------------------------------------------------------------------

RHO, K = 0.9, 1.0  # data N(0, [[1, rho], [rho, 1]]), the first coordinate known to be K


def correlated(schedule, rho=RHO):
    def model(x, t, cond=None):
        a = schedule.alpha_bar_at(t)[0]
        inverse = np.linalg.inv(a * np.array([[1, rho], [rho, 1]]) + (1 - a) * np.eye(2))
        return (1 - a) ** 0.5 * x @ inverse

    return model


def recursion(schedule, resample, eta=1.0):
    """Mean and variance of the painted coordinate, carried on as the mean (2,) and covariance (2, 2) of the state."""
    a, C = schedule.alpha_bar, np.array([[1, RHO], [RHO, 1]])

    def known(mean, cov, u):
        mean, cov = np.array([a[u] ** 0.5 * K, mean[1]]), cov.copy()
        cov[0] = cov[:, 0] = 0
        cov[0, 0] = 1 - a[u]
        return mean, cov

    mean, cov = known(np.zeros(2), np.eye(2), schedule.T)
    for t in range(schedule.T, 0, -1):
        for again in range(resample if t > 1 else 1):
            if again:
                r = a[t] / a[t - 1]
                mean, cov = r**0.5 * mean, r * cov + (1 - r) * np.eye(2)
            inverse = np.linalg.inv(a[t] * C + (1 - a[t]) * np.eye(2))
            sigma2 = eta**2 * (1 - a[t - 1]) / (1 - a[t]) * (1 - a[t] / a[t - 1])
            to_x_0 = a[t] ** 0.5 * C @ inverse
            A = a[t - 1] ** 0.5 * to_x_0 + (1 - a[t - 1] - sigma2) ** 0.5 * (1 - a[t]) ** 0.5 * inverse
            mean, cov = known(A @ mean, A @ cov @ A.T + sigma2 * np.eye(2), t - 1)
    return mean[1], cov[1, 1]


class OneHotPixels(OneHotNoise):
    """A tape on which every pixel of every draw is a sample of its own: two pixels share no noise."""

    def standard_normal(self, shape):
        noise = np.zeros(shape)
        for pixel in range(shape[1]):
            noise[self.draws, pixel] = 1
            self.draws += 1
        return noise


def measured(schedule, resample, eta=1.0, module=inpaint):
    """The same by the tape. The start of the painted pixel is one more draw of variance 1."""
    draws = 6 * len(path(schedule.T, resample))
    x_T = np.zeros((draws + 2, 2))
    x_T[0, 1] = 1
    known = np.tile([[K, np.nan]], (draws + 2, 1))
    mask, rng = np.array([[1, 0]]), OneHotPixels(first=1)
    out = module.replace(correlated(schedule), x_T, known, mask, schedule, rng=rng, resample=resample, eta=eta)[:, 1]
    return out[-1], ((out[:-1] - out[-1]) ** 2).sum()


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("resample", [1, 2, 5])
def test_repaint_eq8_follows_the_recursion(resample, eta):
    schedule = schedules.linear(100).respaced([1, 5, 20, 40, 60, 80, 100])
    assert measured(schedule, resample, eta) == pytest.approx(recursion(schedule, resample, eta), rel=1e-9)


def test_repaint_replacement_is_biased_and_resampling_takes_the_bias_away():
    """The truth is N(rho K, 1 - rho^2); the new pixel hears of the known one too late, so its mean falls short."""
    schedule = schedules.linear(100)
    laws = [recursion(schedule, r) for r in (1, 2, 4, 8, 16)]
    known = [
        (0.614757, 0.288429),
        (0.754805, 0.213175),
        (0.833481, 0.174629),
        (0.868717, 0.153132),
        (0.883906, 0.139028),
    ]
    np.testing.assert_allclose(laws, known, atol=1e-6)
    assert measured(schedule, 4) == pytest.approx(laws[2], rel=1e-9)
    mean, var = np.transpose(laws)
    assert np.all(np.diff(np.abs(mean - RHO * K)) < 0)  # the truth is 0.9
    assert np.all(np.diff(var) < 0)  # the truth is 0.19: too wide at first, then too narrow, as "small" steps are


def shown(schedule):
    """What a network learns that is shown the known coordinate, as one trained with a mask channel is: the best guess
    given both."""

    def model(x, t, cond=None):
        a = schedule.alpha_bar_at(t)[0]
        known = (x[:, :1] - a**0.5 * K) / (1 - a) ** 0.5
        V = a * (1 - RHO**2) + 1 - a
        return np.concatenate([known, (1 - a) ** 0.5 * (x[:, 1:] - a**0.5 * RHO * K) / V], axis=1)

    return model


def kept_recursion(schedule, informed, eta=1.0):
    """Mean and variance of the painted coordinate where the known one of every guess is put right."""
    a, C, mean, cov = schedule.alpha_bar, np.array([[1, RHO], [RHO, 1]]), np.zeros(2), np.eye(2)
    for t in range(schedule.T, 0, -1):
        if informed:
            gain = a[t] ** 0.5 * (1 - RHO**2) / (a[t] * (1 - RHO**2) + 1 - a[t])
            guess, shift = np.diag([0, gain]), np.array([K, (1 - gain * a[t] ** 0.5) * RHO * K])
        else:
            guess, shift = a[t] ** 0.5 * C @ np.linalg.inv(a[t] * C + (1 - a[t]) * np.eye(2)), np.array([K, 0])
            guess[0] = 0
        sigma2 = eta**2 * (1 - a[t - 1]) / (1 - a[t]) * (1 - a[t] / a[t - 1])
        noise = ((1 - a[t - 1] - sigma2) / (1 - a[t])) ** 0.5  # of what is left of the noise
        A = a[t - 1] ** 0.5 * guess + noise * (np.eye(2) - a[t] ** 0.5 * guess)
        mean = A @ mean + (a[t - 1] ** 0.5 - noise * a[t] ** 0.5) * shift
        cov = A @ cov @ A.T + sigma2 * np.eye(2)
    return mean[1], cov[1, 1]


def kept_measured(model, schedule, eta=1.0):
    draws = 2 * schedule.T
    x_T = np.zeros((draws + 1, 2))
    x_T[0, 0] = x_T[1, 1] = 1
    kept = keep(model, np.tile([[K, np.nan]], (draws + 1, 1)), np.array([[1, 0]]), schedule)
    out = ddim.sample(kept, x_T, schedule, rng=OneHotPixels(first=2), eta=eta)
    np.testing.assert_allclose(out[:, 0], K, rtol=1e-9)
    return out[-1, 1], ((out[:-1, 1] - out[-1, 1]) ** 2).sum()


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("informed", [False, True])
def test_glide_guesses_put_right_follow_the_recursion(informed, eta):
    schedule = schedules.linear(100).respaced([1, 5, 20, 40, 60, 80, 100])
    model = (shown if informed else correlated)(schedule)
    assert kept_measured(model, schedule, eta) == pytest.approx(kept_recursion(schedule, informed, eta), rel=1e-9)


def test_glide_a_network_that_is_shown_the_known_pixel_paints_without_the_bias():
    """The truth is N(0.9, 0.19). Putting the guess right is no better than replacement for a network that sees none of it."""
    schedule = schedules.linear(100)
    unshown, seeing = (kept_recursion(schedule, informed) for informed in (False, True))
    np.testing.assert_allclose([unshown, seeing], [(0.614751, 0.334493), (0.899997, 0.164254)], atol=1e-6)
    assert kept_measured(shown(schedule), schedule) == pytest.approx(seeing, rel=1e-9)
    assert kept_recursion(schedules.linear(4000), True) == pytest.approx((RHO * K, 1 - RHO**2), rel=5e-3)


# --- GLIDE's guess with the known pixels put right --------------------------------------------------------------------


@pytest.mark.parametrize("kind", parametrisation.KINDS)
def test_glide_known_pixels_of_the_guess_are_the_picture_and_the_others_are_the_models(kind, rng):
    schedule = schedules.linear(50)
    grid = schedules.spaced(schedule, 7, "karras")  # told fractions of the training schedule's times
    known, mask = rng.standard_normal((3, 2, 2, 1)), np.array([[1, 0], [0, 1]]).reshape(1, 2, 2, 1)
    x = rng.standard_normal(known.shape)
    said = rng.standard_normal(known.shape)
    model = keep(lambda x, t, cond: (said, "v"), known, mask, schedule, kind)
    output, v = model(x, np.full(3, grid.times[4]))
    before = parametrisation.x_0_of(said, x, 4, grid, kind)
    after = parametrisation.x_0_of(output, x, 4, grid, kind)
    np.testing.assert_allclose(after, np.where(mask == 1, known, before), rtol=1e-9, atol=1e-9)
    assert v == "v"
    out = ddim.sample(keep(lambda x, t, cond: said, known, mask, schedule, kind), x, grid, kind=kind)
    np.testing.assert_allclose(out[:, [0, 1], [0, 1]], known[:, [0, 1], [0, 1]], rtol=1e-9, atol=1e-9)
    exact = ddim.sample(lambda x, t, cond: said, x, grid, kind=kind, clip=lambda x_0: np.where(mask == 1, known, x_0))
    np.testing.assert_array_equal(exact[:, [0, 1], [0, 1]], known[:, [0, 1], [0, 1]])


def test_glide_a_known_picture_of_another_dtype_widens_nothing(rng):
    schedule = schedules.linear(50)
    known, x = rng.standard_normal((3, 4)), rng.standard_normal((3, 4)).astype(np.float32)
    model = keep(lambda x, t, cond: 0.5 * x, known, np.array([1, 0, 1, 0]), schedule)
    assert ddim.sample(model, x, schedules.spaced(schedule, 5)).dtype == np.float32


@pytest.mark.parametrize("name", choose.SAMPLERS)
def test_glide_the_last_step_lands_on_the_known_picture(name, rng):
    """Where the last step returns the guess, a `clip` that puts the known pixels in lands bit for bit."""
    schedule = schedules.cosine(100)
    grid = schedules.spaced(schedule, 7, "karras")
    known, mask, x_T = rng.standard_normal((3, 4)), np.array([1.0, 0, 1, 0]), rng.standard_normal((3, 4))

    def model(x, t, cond=None):
        return (np.tanh(x), x) if name == "ancestral-learned" else np.tanh(x)

    kept = choose.draw(name, keep(model, known, mask, schedule), x_T, grid, rng=rng)
    clipped = choose.draw(name, model, x_T, grid, rng=rng, clip=lambda x_0: np.where(mask == 1, known, x_0))
    np.testing.assert_allclose(kept[:, mask == 1], known[:, mask == 1], rtol=0, atol=1e-11)
    exact = (clipped == known)[:, mask == 1].all()
    assert exact == (name not in ("plms", "euler", "heun", "euler-ancestral"))


# --- planted bugs, bad input ------------------------------------------------------------------------------------------

MUTANTS = {
    "none": ("x_t = xp.where(keep, at_level, painted)", "x_t = xp.where(keep, at_level, painted)"),
    "mask turned round": ("x_t = xp.where(keep, at_level, painted)", "x_t = xp.where(keep, painted, at_level)"),
    "known pixels without noise": (
        "q_sample(known, u, draw(), schedule) if",
        "q_sample(known, u, 0 * draw(), schedule) if",
    ),
    "known pixels of the level above": (
        "q_sample(known, u, draw(), schedule) if",
        "q_sample(known, t, draw(), schedule) if",
    ),
    "no last replacement": ("if u > 0 else known  # 8a", "if u > 0 else painted_at_the_end(x_t)  # 8a"),
    "nothing known at the start": (
        "x_t = xp.where(keep, q_sample(known, schedule.T, draw(), schedule), x_T)",
        "x_t = x_T",
    ),
    "up by variance, not its root": ("(1 - ratio) ** 0.5 * noise", "(1 - ratio) * noise"),
    "up without shrinking": ("ratio**0.5 * x_u", "x_u"),
    "never up": ("jump), resample - 1)", "jump), 0)"),
    "once too often": ("jump), resample - 1)", "jump), resample)"),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_every_planted_bug_is_seen(name):
    module = mutant(inpaint, *MUTANTS[name])
    module.painted_at_the_end = lambda x: x
    schedule = schedules.linear(60).respaced([2, 10, 20, 40, 60])
    try:
        law = measured(schedule, 3, module=module) == pytest.approx(recursion(schedule, 3), rel=1e-9)
        states, out = tape_run(schedule, 1.0, 3, 1, module=module)
        noise = [((x[:-1, 0] - x[-1, 0]) ** 2).sum() - (1 - schedule.alpha_bar[t]) for t, x in states]
        right = law and np.allclose(noise, 0, atol=1e-9) and bool((out[:, 0] == 0.7).all())
    except (FloatingPointError, IndexError):  # NaN under the mask came to light; more draws than the path has
        right = False
    assert right == (name == "none")


IMG2IMG_MUTANTS = {
    "none": ("ceil(strength", "ceil(strength"),
    "walks one level less": ("schedule.up_to(level)", "schedule.up_to(max(1, level - 1))"),
    "noised to one level less": ("q_sample(x_0, level,", "q_sample(x_0, max(1, level - 1),"),
    "rounded down": ("ceil(strength * schedule.T - 1e-9)", "int(strength * schedule.T)"),
    "strength turned round": ("ceil(strength", "ceil((1 - strength)"),
    "no noise": ("q_sample(x_0, level, eps,", "q_sample(x_0, level, 0 * eps,"),
}


@pytest.mark.parametrize("name", IMG2IMG_MUTANTS)
def test_every_planted_bug_of_img2img_is_seen(name):
    module, schedule = mutant(inpaint, *IMG2IMG_MUTANTS[name]), schedules.cosine(10)

    def run(tape, n):
        model = gaussian_eps(0.0, 0.5, schedule)
        return module.img2img(model, np.full((n, 1), 0.7), schedule, 0.31, rng=tape, eta=0.4)

    mean, var = law_of(run, 11)
    right = (mean[0], var[0]) == pytest.approx(img2img_law(schedule, 0.31, 0.7, 0.5, 0.4), rel=1e-9)
    assert right == (name == "none")


def painted(**change):
    given = {"known": np.zeros((2, 4, 4, 1)), "mask": np.ones((2, 4, 4, 1)), "rng": np.random.default_rng(0), **change}
    return replace(lambda x, t, c: x * 0, np.zeros((2, 4, 4, 1)), schedule=schedules.cosine(4), **given)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: painted(mask=np.ones((2, 3, 3, 1))), r"mask must have the size of the picture, \(2, 4, 4, 1\)"),
        (lambda: painted(mask=np.full((2, 4, 4, 1), 0.5)), "mask must hold 1"),
        (lambda: painted(mask=np.full((2, 4, 4, 1), np.nan)), "mask must hold 1"),
        (lambda: painted(known=np.zeros((2, 4, 4, 3))), "the known picture must have the shape of x_T"),
        (lambda: painted(resample=0), "resample must be at least 1, got 0"),
        (lambda: painted(jump=0), "jump must be from 1 to 3"),
        (lambda: painted(jump=4), "jump must be from 1 to 3"),
        (lambda: painted(eta=1.5), "eta must be from 0"),
        (lambda: painted(eta=0.0, rng=None), "rng must be a generator, got None"),
        (
            lambda: keep(never, np.zeros((1, 2, 2, 1)), np.ones((1, 4, 4, 1)), schedules.cosine(4)),
            "size of the picture",
        ),
        (lambda: keep(never, np.zeros((1, 1)), np.ones((1, 1)), schedules.cosine(4), "eps_0"), "kind must be one of"),
        (lambda: img2img(never, np.zeros((1, 1)), schedules.cosine(4), 1.01, rng=None), "strength must be from 0"),
        (
            lambda: img2img(never, np.zeros((1, 1)), schedules.cosine(4), float("nan"), rng=None),
            "strength must be from 0",
        ),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
