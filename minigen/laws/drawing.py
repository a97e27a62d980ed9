r"""Sampling with a trained network and any sampler in the protocol's form: what passes the laws can draw.

    mine = as_sampler(MySampler())
    pictures = minigen.load("out/ddpm/weights.safetensors").sample(16, rng=rng, sampler=mine, steps=20)

and ``minigen sample ddpm --sampler mymodule:MySampler --steps 20``. The sampler keeps its own levels and times. Its
state $x = \alpha x_0 + \sigma \epsilon$ is shown to the network as $x / \sqrt{\alpha^2 + \sigma^2}$, with the time at
which the network's own schedule has the noise $\sigma / \alpha$, limited to the range of that schedule. The network's
guess of $x_0$ is clipped as the model requires (to [-1, 1] for pictures: at the noisiest levels an unclipped guess can
be far off), and returned as the kind of prediction that the sampler takes.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from kernels.backend import array_module, to_numpy
from minigen.maths.schedules import Schedule
from minigen.samplers.predict import Clip, predict

from . import arrays, protocol
from .beds import said
from .recorder import check_drawn, level_told, state_shown, walked


@contextmanager
def in_one_sentence(name: str, ours: Sequence[BaseException]) -> Iterator[None]:
    """Raise a sampler's Fault as ValueError, as for a wrong argument; errors in ``ours`` are raised as they were."""
    try:
        yield
    except protocol.Fault as fault:
        cause = fault.__cause__
        if cause is not None and cause in ours:
            raise cause from cause.__cause__
        raise ValueError(f"the sampler {name}: {fault}") from fault


def as_sampler(sampler: Any) -> Callable[..., Any]:
    """What ``system.sample(n, rng=rng, sampler=..., steps=...)`` of a diffusion model takes as ``sampler``.

    Raises TypeError or ValueError for what is no sampler; while sampling, ValueError if it raises, has invalid levels
    or times or not ``steps`` levels, or changes the shape or dtype of its states.
    """
    protocol.check(sampler)
    if sampler.space not in protocol.SPACES:
        raise ValueError(f"only a sampler draws, and this has the space {sampler.space!r}")
    library, kinds, name = getattr(sampler, "arrays", "numpy"), protocol.kinds(sampler), protocol.name(sampler)

    def sample(
        model: Callable[..., Any],
        x_T: Any,
        schedule: Schedule,
        *,
        steps: int,
        rng: Any,
        clip: Clip = None,
        cond: Any = None,
        kind: str = "eps",
        callback: Callable[[float, Any], None] | None = None,
    ) -> Any:
        xp = array_module(x_T)
        ours: list[BaseException] = []
        with in_one_sentence(name, ours):
            levels = protocol.levels(sampler, steps)
            times = [level.time for level in levels[:-1]]
            if len(times) != steps:
                raise protocol.Fault(f"levels({steps}) has {len(times)} noisy levels: {protocol.short(times)}")
            if any(level.sigma == 0 for level in levels[:-1]) or len({*times}) < steps:
                told = protocol.short(times)
                raise protocol.Fault(
                    f"levels({steps}) repeat a time, or hold one without noise before the data: {told}"
                )
        by_time = {level.time: level for level in levels[:-1]}
        begun = to_numpy(x_T) * levels[0].size

        def guess(x: Any, time: Any, *_: Any, **__: Any) -> Any:
            level, x = level_told(sampler, by_time, time, len(x_T)), state_shown(x, begun)
            try:
                x_0 = guessed(x, level)
            except Exception as error:
                ours.append(error)
                raise
            return arrays.into(library, said(kinds[0], x_0, (x - level.alpha * x_0) / level.sigma, level))

        def guessed(x: Any, level: protocol.Level) -> Any:
            ratio = level.sigma / level.alpha if level.alpha > 0 else np.inf
            own = schedule.at_sigmas([min(max(ratio, schedule.sigma[1]), schedule.sigma[-1])])
            shown = xp.asarray(x / level.size, x_T.dtype)
            if callback is not None:
                callback(float(own.times[1]), shown)
            return to_numpy(predict(model, shown, 1, own, cond=cond, kind=kind, clip=clip).x_0)

        def noise(shape: Any) -> Any:
            check_drawn(shape, begun)
            return arrays.into(library, rng.standard_normal(tuple(shape)).astype(x_T.dtype))

        settings = {"kind": kinds[0]} if len(kinds) > 1 else {}
        with in_one_sentence(name, ours):
            found = walked(sampler, guess, begun, steps, noise, **settings)
        return xp.asarray(found / levels[-1].size, x_T.dtype)

    return sample
