r"""Pictures that are partly given: img2img and inpainting with a network that was never trained for it.

*SDEdit* (Meng et al. 2021, 2108.01073) noises a picture to some level and walks down from there: the less noise, the
more of the picture stays. *Replacement* (Song et al. 2020, 2011.13456, appendix I.2) knows some pixels exactly: before
each call of the network it overwrites them with the known picture at the noise of that level. *RePaint* (Lugmayr et al.
2022, 2201.09865) observes that the new pixels then adapt to the known ones too late, and walks up and down again so
that they can agree. The code that was released with *GLIDE* (Nichol et al. 2021, 2112.10741) instead overwrites the
known pixels of the guess $\hat x_0$.

| symbol | code | meaning |
|---|---|---|
| $m$ | ``mask`` | 1 where the picture is known and kept, 0 where it is painted: GLIDE's convention |
| $x_0^{\text{known}}$ | ``known`` | the picture; never read where the mask is 0 |
| $r$, $j$ | ``resample``, ``jump`` | how often a stretch of levels is walked (`path`), and how many levels long it is |

$$x_u^{\text{known}} \sim N\big(\sqrt{\bar\alpha_u}\, x_0^{\text{known}}, (1 - \bar\alpha_u) I\big) \quad (8a) \qquad
x_u = m \odot x_u^{\text{known}} + (1 - m) \odot x_u^{\text{unknown}} \quad (8c)$$
$$x_{t} \sim N\Big(\sqrt{\tfrac{\bar\alpha_t}{\bar\alpha_u}}\, x_u,\; \big(1 - \tfrac{\bar\alpha_t}{\bar\alpha_u}\big) I\Big), \quad t = u + j \quad (\text{algorithm 1, line 10, in one draw})$$

(The paper prints $\bar\alpha_t$ for $x_{t-1}$ in 8a, and $(1 - \bar\alpha)\epsilon$ and $\beta_{t-1}$ in algorithm 1;
it means its eqs. 7 and 1.)

You need: `samplers/ddim.py`. New here: known pixels, walking up again.

Claims, checked in tests: whenever the network is called, known pixels have exactly the mean and variance of their
level; at the end they are the known picture, bit for bit. Replacement is biased: on Gaussian data its law is a linear
recursion that differs from the conditional; as $r$ grows, RePaint's mean comes closer and its variance falls, on coarse
grids below the true one. Correcting the guess (`keep`) is about as biased as replacement if the network sees only the
noisy values of the known pixels; if it sees them beside $x_t$, as a network with a mask channel does
(`models/glide.py`), there is next to no bias. Draws of ``standard_normal`` of the state's shape: `img2img` one, then
the sampler's; `replace` one for the start, then for each step down to a level above 0 one for the known pixels and, if
$\eta > 0$, one for the step, and one for each way up.

Details that matter, and the tests that guard them:
- img2img walks from the very level that it noised to, and strength 1 is the whole chain (`test_sdedit_...`);
- the last replacement is with the picture itself, after the last step, not before it;
- the mask selects, it does not multiply: NaN under a 0 has no effect.
"""

from collections.abc import Callable
from math import ceil
from typing import Any

import autograd as ag
from kernels.backend import array_module
from minigen.maths.diffusion import eps_from_x_0, q_sample
from minigen.maths.parametrisation import check_kind, target, x_0_of
from minigen.maths.schedules import Schedule

from . import ddim
from .predict import Clip, predict


def img2img(
    model: Callable[..., Any],
    x_0: Any,
    schedule: Schedule,
    strength: float,
    *,
    rng: Any,
    sampler: Callable[..., Any] = ddim.sample,
    **settings: Any,
) -> Any:
    r"""SDEdit: ``x_0`` (n, ...) with the noise of level $\lceil$ ``strength`` $\cdot\, T \rceil$, walked down from
    there by ``sampler``.

    Strength 0 returns the picture, 1 walks all levels of ``schedule`` (and still starts from what $\sqrt{\bar\alpha_T}$
    leaves of it). ``settings`` go to the sampler, which is called as ``sampler(model, x_t, schedule, rng=rng, ...)``
    with the schedule cut at the level. Raises ValueError for a strength outside [0, 1].
    """
    if not 0 <= strength <= 1:
        raise ValueError(f"strength must be from 0 (the picture itself) to 1 (all of the chain), got {strength}")
    level = ceil(strength * schedule.T - 1e-9)  # 0.07 * 100 is a hair above 7
    if level == 0:
        return x_0.copy()
    eps = array_module(x_0).asarray(rng.standard_normal(x_0.shape), x_0.dtype)
    return sampler(model, q_sample(x_0, level, eps, schedule), schedule.up_to(level), rng=rng, **settings)


def check_mask(mask: Any, shape: tuple[int, ...]) -> Any:
    """``mask`` as booleans of this shape; ValueError unless it holds 0 and 1 alone and broadcasts to the picture."""
    xp = array_module(mask)
    try:
        keep = xp.broadcast_to(mask, shape)
    except ValueError:
        raise ValueError(
            f"mask must have the size of the picture, {shape}, or 1 in place of an axis, got {tuple(mask.shape)}"
        ) from None
    if not xp.all((keep == 0) | (keep == 1)):
        raise ValueError("mask must hold 1 where the picture is kept and 0 where it is painted, and nothing between")
    return keep == 1


def path(T: int, resample: int = 1, jump: int = 1) -> list[int]:
    """The levels that are visited, from T to 0: ``jump`` levels up again, ``resample`` - 1 times from each of the levels
    1, 1 + jump, 1 + 2 jump ... that has room, as in the authors' code.

    Algorithm 1 is ``jump`` 1: every step from level 2 or above is taken ``resample`` times. Raises ValueError for a
    number below 1, and for a ``jump`` that leaves no room below T.
    """
    if resample < 1:
        raise ValueError(f"resample must be at least 1, got {resample}")
    if not 1 <= jump <= max(1, T - 1):
        raise ValueError(
            f"jump must be from 1 to {max(1, T - 1)}, one less than the levels of the schedule, got {jump}"
        )
    left = dict.fromkeys(range(1, T - jump + 1, jump), resample - 1)
    levels, t = [T], T
    while t > 0:
        if left.get(t, 0) > 0:
            left[t] -= 1
            t += jump
        else:
            t -= 1
        levels.append(t)
    return levels


def step_up(x_u: Any, u: int, t: int, noise: Any, schedule: Schedule) -> Any:
    r"""The chain forwards from level ``u`` to ``t`` above it:
    $\sqrt{\bar\alpha_t / \bar\alpha_u}\, x_u + \sqrt{1 - \bar\alpha_t / \bar\alpha_u}\, z$.
    """
    ratio = float(schedule.alpha_bar[t] / schedule.alpha_bar[u])
    return ratio**0.5 * x_u + (1 - ratio) ** 0.5 * noise


def replace(
    model: Callable[..., Any],
    x_T: Any,
    known: Any,
    mask: Any,
    schedule: Schedule,
    *,
    rng: Any,
    resample: int = 1,
    jump: int = 1,
    eta: float = 1.0,
    clip: Clip = None,
    cond: Any = None,
    kind: str = "eps",
    callback: Callable[[int, Any, Any], None] | None = None,
) -> Any:
    r"""Paint where ``mask`` is 0, from ``x_T`` (n, ...), keeping ``known`` (n, ...) where it is 1; returns an array like ``x_T``.

    ``resample`` 1 is replacement; above, RePaint, whose settings for 250 levels are 10 and ``jump`` 10. Steps are
    DDIM's with ``eta``, 1 being ancestral sampling with the variance "small"; the model is called once per step down.
    ``callback(t, x_t, x_0)`` sees every state that the model is called with, and its guess, on repeated stretches too,
    and at the end ``(0, x_0, x_0)``.
    """
    ddim.check_eta(eta, rng)
    if rng is None:
        raise ValueError("the known pixels are noised at every eta, so rng must be a generator, got None")
    if known.shape != x_T.shape:
        raise ValueError(f"the known picture must have the shape of x_T, {x_T.shape}, got {known.shape}")
    keep = check_mask(mask, x_T.shape)
    levels = path(schedule.T, resample, jump)
    xp = array_module(x_T)
    known = xp.asarray(known, x_T.dtype)

    def draw() -> Any:
        return xp.asarray(rng.standard_normal(x_T.shape), x_T.dtype)

    x_t = xp.where(keep, q_sample(known, schedule.T, draw(), schedule), x_T)
    for t, u in zip(levels, levels[1:]):
        if u > t:
            x_t = step_up(x_t, t, u, draw(), schedule)
            continue
        guess = predict(model, x_t, t, schedule, cond=cond, kind=kind, clip=clip)
        if callback is not None:
            callback(t, x_t, guess.x_0)
        at_level = q_sample(known, u, draw(), schedule) if u > 0 else known  # 8a
        noise = draw() if u > 0 and eta > 0 else None
        painted = ddim.step(guess.x_0, guess.eps, t, u, noise, schedule, eta=eta)
        x_t = xp.where(keep, at_level, painted)  # 8c
    if callback is not None:
        callback(0, x_t, x_t)
    return x_t


def keep(model: Callable[..., Any], known: Any, mask: Any, schedule: Schedule, kind: str = "eps") -> Callable[..., Any]:
    r"""``model`` with the known pixels of its $\hat x_0$ corrected: GLIDE's ``denoised_fn``, of the same ``kind``.

    $\hat x_0 \leftarrow m \odot x_0^{\text{known}} + (1 - m) \odot \hat x_0$, and $\hat\epsilon$ follows from it. The
    known pixels of the state are left alone: they drift to the known picture because every step aims there, and the
    last step lands on it, to rounding. (With `plms`, which combines earlier guesses, that can be 5e-3 in float32. A
    ``clip`` that does the same replacement lands bit for bit where the last step returns the guess itself, as in `ddim`
    and not in `euler`.) ``schedule`` is the one that the network was trained with; a learned variance stays.
    """
    check_kind(kind)
    chosen = check_mask(mask, known.shape)

    def kept(x_t: Any, t: Any, cond: Any = None) -> Any:
        said = model(x_t, t, cond)
        output = said[0] if isinstance(said, tuple) else said
        levels, level = schedule.told(t)
        picture = array_module(ag.raw(x_t)).asarray(known, x_t.dtype)
        x_0 = ag.where(chosen, picture, x_0_of(output, x_t, level, levels, kind))
        output = target(kind, x_0, eps_from_x_0(x_t, level, x_0, levels), level, levels)
        return (output, said[1]) if isinstance(said, tuple) else output

    return kept
