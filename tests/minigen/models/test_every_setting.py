"""No setting is without effect, and no flag of `minigen sample` or `edit`: whatever is changed, something changes.

Of a field of a system's ``Config`` is looked at, in this order and until a difference is found: the weights at the
start; the stages' records; then, after the weights have been shaken out of their quiet start, two samples, and three
steps of every stage (its first, its middle and its last) with what they log and leave in the modules. Of a field of
``Sampling`` or ``Editing`` the pictures are looked at.
"""

import dataclasses
import functools
import hashlib
import itertools
import typing
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import pytest
import systems

from minigen.cli import curriculum
from minigen.maths import schedules
from minigen.models import dalle2_edits, latent_codec
from minigen.samplers import ddim
from minigen.train.loop import Trainer


@pytest.fixture(autouse=True)
def few_pictures_to_measure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latent_codec, "MEASURED", 64)
    monkeypatch.setattr(dalle2_edits, "LEVELS", 7)


def test_every_system_has_a_small_configuration():
    assert set(systems.SMALL) == {entry.name for entry in curriculum.systems().values() if entry.exists}


# --- settings of training ---------------------------------------------------------------------------------------------


def digest(*values: Any) -> str:
    """Of arrays, their shapes and bytes; of anything else its words."""
    found = hashlib.sha256()
    for value in values:
        array = isinstance(value, np.ndarray)
        found.update(f"{value.shape}".encode() + value.tobytes() if array else repr(value).encode())
    return found.hexdigest()


def weights(system: Any) -> str:
    """The digest of all arrays of all modules, by name."""
    return digest(*(x for name, m in system.modules.items() for pair in m.arrays().items() for x in (name, *pair)))


def records(system: Any) -> str:
    """The digest of the stages, but for their losses."""
    return digest(
        *(
            [getattr(stage, field.name) for field in dataclasses.fields(stage) if field.name != "objectives"]
            + [(o.name, o.every, o.after is None) for o in stage.objectives]
            for stage in system.stages()
        )
    )


def at_rest(name: str, config: Any) -> Iterator[str]:
    """What a configuration builds."""
    system = systems.model_of(name).build(config, systems.data_of(name), seed=0)
    yield weights(system)
    yield records(system)


def at_work(name: str, config: Any) -> Iterator[str]:
    """What is computed with it."""
    system = systems.awake(name, config)
    yield digest(np.asarray(system.sample(2, rng=np.random.default_rng(2))))
    for module in system.modules.values():
        module.train()
    trainer = Trainer(system, seed=0)
    for i, stage in enumerate(trainer.stages):
        if stage.steps:
            trainer.enter(i)
            for step in sorted({0, stage.steps // 2, stage.steps - 1}):
                trainer.step = step
                yield digest(trainer.advance(systems.data_of(name).train)) + weights(system)
    trainer.close()


class Remembered:
    """An iterator that may be gone through again, and goes no further than it must."""

    def __init__(self, iterator: Iterator[str]):
        self.iterator, self.found = iterator, list[str]()

    def __iter__(self) -> Iterator[str]:
        for i in itertools.count():
            if i == len(self.found):
                self.found.extend(itertools.islice(self.iterator, 1))
            if i == len(self.found):
                return
            yield self.found[i]


@functools.cache
def unchanged(way: Any, name: str, config: Any) -> Remembered:
    """The effects of a configuration that others are compared with."""
    return Remembered(way(name, config))


def others(kind: Any, value: Any) -> list[Any]:
    """Values to set in the place of one, of the same type."""
    parts = [part for part in (kind, *typing.get_args(kind)) if typing.get_origin(part) is Literal]
    if parts:
        return [x for part in parts for x in typing.get_args(part) if x != value]
    if value is None:
        return [4] if int in typing.get_args(kind) else [0.25]
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [2 * value, value + 1, value + 2, value // 2, value - 1] if value else [1, 2]
    if isinstance(value, float):
        return [value / 2 if value > 0.5 else (1 + value) / 2, 2 * value] if value else [0.25, 1.0]
    if value and isinstance(value[0], str):
        return [value[1:], value[:-1]]
    return [(*value[:-1], 2 * value[-1]), (*value[:-1], value[-1] // 2)] if value else [(0,)]


# What a setting works with, where that is not the default.
BESIDE: dict[tuple[str, str], dict[str, Any]] = {
    ("clip", "T"): {"noise_aware": True},
    ("clip", "shift"): {"noise_aware": True},
    ("vq_vae", "restart"): {"codes": 64, "decay": 0.5},
    ("vq_vae", "restart_until"): {"codes": 64, "decay": 0.5, "restart": 0.9},
}
SETTINGS = [(name, field.name) for name in systems.SMALL for field in dataclasses.fields(systems.model_of(name).Config)]


@pytest.mark.parametrize("system", systems.SMALL)
def test_the_same_settings_change_nothing(system: str):
    config = systems.small(system)
    assert list(unchanged(at_work, system, config)) == list(at_work(system, config))


@pytest.mark.parametrize(("system", "name"), SETTINGS)
def test_a_setting_changes_something(system: str, name: str):
    default = systems.model_of(system).Config()
    small = systems.small(system, **BESIDE.get((system, name), {}))
    # warm-ups are shares of the steps
    long = dataclasses.replace(small, **{k: v for k, v in vars(default).items() if k.endswith("steps")})
    tried = []
    for way, config in ((at_rest, long), (at_work, small)):
        for value in others(typing.get_type_hints(type(default))[name], getattr(config, name)):
            try:
                after = way(system, dataclasses.replace(config, **{name: value}))
                if any(a != b for a, b in zip(unchanged(way, system, config), after)):
                    return
                tried.append(value)
            except ValueError:  # does not go with the others
                continue
    raise AssertionError(f"{name} = {tried} do not differ from {getattr(small, name)!r}")


# Stages that do not follow a setting of training: parts that another file trains as it likes, and those that have such a
# setting of their own.
OTHERS_FILE = {"dalle": {"clip", "codec"}, "glide": {"clip"}, "diffusionclip": {"clip"}, "dalle2": {"clip"}}
OTHERS_FILE |= {"stable_diffusion": {"clip", "codec", "adversarial"}}
EDITS = {"edit_blue", "edit_white"}
OWN: dict[tuple[str, str], set[str]] = {
    ("vq_vae", "lr"): {"prior"}, ("vq_vae", "batch_size"): {"prior"}, ("vq_vae", "ema"): {"codec"},
    ("adm", "weight_decay"): {"classifier"},
    ("diffusionclip", "lr"): EDITS, ("diffusionclip", "batch_size"): EDITS, ("diffusionclip", "ema"): EDITS,
    ("diffusionclip", "weight_decay"): EDITS,
    ("dalle2", "lr"): {"prior", "ar_prior"}, ("dalle2", "batch_size"): {"upsampler_64"},
}  # fmt: skip
OF_TRAINING = [(n, name) for n, name in SETTINGS if name in ("lr", "weight_decay", "ema", "max_norm", "batch_size")]


@pytest.mark.parametrize(("system", "name"), OF_TRAINING)
def test_every_stage_follows_a_setting_of_training(system: str, name: str):
    clip = {"clip_steps": 2} if hasattr(systems.model_of(system).Config, "clip_steps") else {}
    config = systems.small(system, **clip)
    value = 0.5 if name == "ema" else 2 * (getattr(config, name) or 1)
    one, two = (
        systems.model_of(system).build(c, systems.data_of(system), seed=0).stages()
        for c in (config, dataclasses.replace(config, **{name: value}))
    )
    same = {a.name for a, b in zip(one, two, strict=True) if getattr(a, name) == getattr(b, name)}
    assert same == OTHERS_FILE.get(system, set()) | OWN.get((system, name), set())


@pytest.mark.parametrize("system", [name for name in systems.SMALL if name != "gan"])
def test_every_stage_warms_up_within_a_tenth_of_its_steps(system: str):
    config = systems.small(system)
    lengths = [name for name in vars(config) if name.endswith("steps") and name != "sample_steps"]
    for steps, most in ((300, 30), (5000, 100)):
        long = dataclasses.replace(config, **dict.fromkeys(lengths, steps))
        stages = systems.model_of(system).build(long, systems.data_of(system), seed=0).stages()
        found = {stage.name: stage.warmup for stage in stages}
        assert found == dict.fromkeys(found, most) | dict.fromkeys(EDITS & found.keys(), 10)


# --- flags ------------------------------------------------------------------------------------------------------------


def to(value: Any, settings: Any = None, **beside: Any) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """Another value of a flag, the settings of the system and the other flags that it works with."""
    return value, settings or {}, beside


PROMPT, CONDITIONAL = "a large blue ring at the top left", {"conditional": True}
WALK = {
    "sampler": to("plms"),
    "spacing": to("karras", sampler="ddim"),
    "eta": to(0.5, sampler="ddim"),
    "variance": to("large", sampler="ancestral"),
}
WORDS = {"prompt": to(PROMPT), "negative": to("a black square", prompt=PROMPT), "guidance": to(4.0, prompt=PROMPT)}
SAMPLING: dict[str, dict[str, Any]] = {
    "denoising_ae": {"step_size": to(0.5)},
    "gan": {"label": to(3, CONDITIONAL), "truncation": to(0.5)},
    "vae": {"mean": to(True)},
    "vq_vae": {"prior": to("uniform"), "temperature": to(0.5), "label": to(3, CONDITIONAL)},
    "pixelcnn": {"temperature": to(0.5), "label": to(3, CONDITIONAL)},
    "gpt": {"temperature": to(0.5), "top_k": to(2), "top_p": to(0.3)},
    "clip": {"prompt": to(PROMPT)},
    "dalle": {
        "prompt": to(PROMPT), "rerank": to(3), "temperature": to(1.0), "top_k": to(2), "top_p": to(0.3),
        "guidance": to(4.0),
    },
    "ddpm": WALK,
    "improved_ddpm": WALK,
    "adm": WALK | {"label": to(3), "guidance": to("mean"), "scale": to(2.0)},
    "classifier_free": WALK | {"label": to(3), "scale": to(2.0), "away_from": to(3), "rescale": to(0.7, scale=3.0)},
    "glide": WALK | WORDS | {"clip_guidance": to(0.0), "size": to(64)},
    "diffusionclip": WALK | {"edit": to(("white",))},
    "dalle2": WALK | {
        "spacing": to("uniform"), "prompt": to(PROMPT), "prior": to("text"), "prior_guidance": to(3.0),
        "guidance": to(4.0), "size": to(64),
    },
    "stable_diffusion": WALK | WORDS | {"layout": to("circle 4:20,4:20"), "size": to(64)},
}  # fmt: skip
FIRST, SECOND = "first picture", "second picture"  # the pictures themselves are put there below
PAINT = {"keep": True}  # a mask, below
PICTURES = {"variations", "interpolate", "text_diff", "img2img", "upscale"}  # flags in the place of the image
EDITING: dict[str, dict[str, Any]] = {
    "ddpm": {"steps": to(5), "strength": to(0.8), "resample": to(2, keep=True)},
    "improved_ddpm": {"steps": to(5), "strength": to(0.8), "resample": to(2, keep=True)},
    "glide": {
        **{flag: (value, {}, beside | PAINT) for flag, (value, _, beside) in (WALK | WORDS).items()},
        "clip_guidance": to(0.0, prompt=PROMPT, keep=True),
        "steps": to(5, keep=True),
    },
    "diffusionclip": {"edit": to(("white",)), "strength": to((0.5,)), "t_0": to(4), "eta": to(0.5)},
    "dalle2": {
        "variations": to(SECOND, variations=FIRST), "interpolate": to((FIRST, SECOND), interpolate=(SECOND, FIRST)),
        "text_diff": to((FIRST, "a ring", "a circle"), text_diff=(FIRST, "a ring", "a square")),
        "prompt": to(PROMPT, keep=True), "eta": to(0.9, variations=FIRST),
        "theta": to(0.9, text_diff=(FIRST, "a ring", "a square")),
        "noise": to("fixed", interpolate=(FIRST, SECOND)), "guidance": to(4.0, variations=FIRST),
        "steps": to(5, variations=FIRST),
    },
    "stable_diffusion": {
        **{flag: (value, {}, beside | PAINT) for flag, (value, _, beside) in (WALK | WORDS).items()},
        "img2img": to(SECOND, img2img=FIRST), "strength": to(0.9, img2img=FIRST), "upscale": to(SECOND, upscale=FIRST),
        "steps": to(5, keep=True),
    },
}  # fmt: skip


awake = functools.cache(systems.awake)


@pytest.mark.parametrize(("table", "of"), [(SAMPLING, "Sampling"), (EDITING, "Editing")])
def test_every_flag_is_here(table: Any, of: str):
    found = {name: getattr(systems.model_of(name), of, None) for name in systems.SMALL}
    fields = {name: {field.name for field in dataclasses.fields(flags)} for name, flags in found.items() if flags}
    if of == "Sampling":
        fields["gpt"].remove("prompt")  # of texts; the small one draws digits
    assert {name: set(flags) for name, flags in table.items()} == fields


@pytest.mark.parametrize(("name", "flag"), [(name, flag) for name, flags in SAMPLING.items() for flag in flags])
def test_a_flag_changes_the_samples(name: str, flag: str):
    value, settings, beside = SAMPLING[name][flag]
    system = awake(name, systems.small(name, **settings))
    one, two = (
        np.asarray(system.sample(3, rng=np.random.default_rng(0), **flags))
        for flags in (beside, beside | {flag: value})
    )
    assert one.shape != two.shape or not np.array_equal(one, two)


@pytest.mark.parametrize("name", [name for name, flags in SAMPLING.items() if "sampler" in flags])
def test_a_sampler_of_ones_own_draws_beside_flags_that_are_left_out(name: str):
    asked = []

    def own(model: Any, x_T: Any, schedule: Any, *, steps: int, **how: Any) -> Any:
        asked.append(steps)
        return ddim.sample(model, x_T, schedules.spaced(schedule, steps), cond=how["cond"], kind=how["kind"])

    left_out = dataclasses.asdict(systems.model_of(name).Sampling())
    system = awake(name, systems.small(name))
    assert np.isfinite(system.sample(2, rng=np.random.default_rng(0), **left_out | {"sampler": own})).all()
    assert asked == [3]


@pytest.mark.parametrize(("name", "flag"), [(name, flag) for name, flags in EDITING.items() for flag in flags])
def test_a_flag_changes_the_edits(name: str, flag: str):
    value, settings, beside = EDITING[name][flag]
    system, data = awake(name, systems.small(name, **settings)), systems.data_of(name)
    first, second = data.scale(data.test.images[:2])
    keep = np.zeros((*first.shape[:2], 1), bool)
    keep[:, : first.shape[1] // 2] = True

    def put(x: Any) -> Any:
        if isinstance(x, tuple):
            return tuple(put(part) for part in x)
        return {FIRST: first, SECOND: second}.get(x, x) if isinstance(x, str) else x

    def edited(flags: dict[str, Any]) -> Any:
        flags = {name: put(x) for name, x in flags.items()}
        mask = keep if flags.pop("keep", None) else None
        image = None if PICTURES & set(flags) else first
        return np.asarray(system.edit(image, mask, n=3, rng=np.random.default_rng(0), **flags))

    one, two = edited(beside), edited(beside | {flag: value})
    assert one.shape != two.shape or not np.array_equal(one, two)
