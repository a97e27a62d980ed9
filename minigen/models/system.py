"""What a model file hands to the training loop, the sampler and the tour: a `System` made of stages of objectives.

    System      everything one paper trains and samples, e.g. DDPM: {"unet": UNet}
      Stage       trains until its steps are done, then the next begins (an autoencoder, then diffusion in its latents)
        Objective   one loss and the module whose parameters it trains; a GAN's stage has two, updated in turn each step

These are plain records of functions, without inheritance: a model file's ``build(config, dataset, *, seed)`` returns a
`System`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NewType

Picture = NewType("Picture", str)
"""The type of a field of ``Editing`` that names a picture, a file or test:K: `minigen edit` reads it into floats in
[-1, 1], (h, w, c).
"""


@dataclass(frozen=True)
class Objective:
    """One loss and the module that it trains.

    ``loss(batch, rng, step)`` returns a scalar Tensor and a dict of numbers to log; the loop adds "loss" and "norm" (of
    its gradient). ``batch`` is a `Split`, ``step`` counts from 0 within the stage, and ``rng``
    depends on nothing but (seed, stage, objective, step). While a loss runs, the other modules of the system require no
    gradients.

    The module is updated in steps 0, ``every``, 2 ``every`` ... only (a critic takes several steps for each of
    its generator's). ``after()`` is called after each update of the module (to clip a critic's weights, say).
    """

    name: str
    module: Any
    loss: Callable[..., Any]
    every: int = 1
    after: Callable[[], None] | None = None


@dataclass(frozen=True)
class Stage:
    """How some objectives are trained together: every step takes one batch and updates each of them in order.

    ``lr`` is the peak learning rate, reached after ``warmup`` steps and then shaped by ``schedule`` (one of
    ``train.optim.SCHEDULES``; ``flat`` is the share of a ``flat-then-...`` one before its fall). ``ema`` is the decay
    of the averaged weights (0: none), ``max_norm`` the largest global gradient norm (0: no clipping). ``apart`` are
    name prefixes of weights that the optimiser "muon" leaves to AdamW: first and last layers. When a stage
    ends, the modules it trained take over their averaged weights, so that a later stage builds on what sampling uses.

    ``shards`` is the number of parts (of at least one item) of each batch, whose gradients are computed separately,
    with draws of their own, and added: two take three fifths of the time on two cores (`train/shards.py`);
    on a GPU the batch is one part. For losses that are a mean of one term per item, and modules without buffers.
    """

    name: str
    objectives: Sequence[Objective]
    steps: int
    batch_size: int = 64
    lr: float = 1e-3
    warmup: int = 0
    ema: float = 0.0
    max_norm: float = 0.0
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    schedule: str = "constant"
    flat: float = 0.5
    optimiser: str = "adamw"
    apart: tuple[str, ...] = ()
    shards: int = 1


@dataclass(frozen=True)
class System:
    """A model that can be trained, saved, loaded and sampled.

    ``modules`` is what a checkpoint holds; every objective's module is one of them. ``stages()`` returns the list of
    stages.

    ``sample(n, *, rng, steps=None, callback=None, **settings)`` returns float images in [-1, 1], (n, h, w, c), drawn
    with the modules' current weights; ``callback(t, x_t)`` is given the intermediate states, from noise to the end, in
    systems that sample in steps (the others raise ValueError for ``steps`` that are not None). ``settings`` are the
    fields of the model file's dataclass ``Sampling``, if it has one: flags of `minigen sample`.

    ``figures(dataset, *, rng)`` returns the system's own metrics on the test split: name with unit -> number.

    ``pictures`` are further pictures, under the names of the model file's ``PICTURES`` (name -> what it shows):
    ``function(split, *, rng)`` returns float images in [-1, 1] of shape (rows, columns, h, w, c). The tour shows all
    of them, and `minigen sample` those whose name is given as a flag.

    ``notes(images, **settings)`` returns one string per image that ``sample`` drew with these settings: what was asked
    for, and whether the image shows it. They are written under the pictures.

    ``edit(image, keep, *, n, rng, **settings)`` returns ``n`` edits of one picture, (n, h, w, c); ``keep`` (h, w, 1) is
    True where pixels stay, or None for the whole picture; ``settings`` are the fields of the model file's dataclass
    ``Editing``, flags of `minigen edit`. Fields of the type `Picture`, or tuples with one, arrive as pictures (h, w,
    c); where ``Editing`` has some, ``image`` may be None. ``notes_of_edits(edits, *, image, **settings)`` is to
    ``edit`` what ``notes`` is to ``sample``.

    ``paint(prompts, *, rng, **settings)`` draws one picture per prompt, in systems that take prompts;
    ``settings`` are those of ``Sampling`` except ``prompt``. `minigen.metrics.prompts` measures its pictures.
    """

    config: Any
    dataset_name: str
    image_shape: tuple[int, ...]
    modules: dict[str, Any]
    stages: Callable[[], list[Stage]]
    sample: Callable[..., Any]
    figures: Callable[..., dict[str, float]] | None = None
    pictures: dict[str, Callable[..., Any]] = field(default_factory=dict)
    notes: Callable[..., list[str]] | None = None
    paint: Callable[..., Any] | None = None
    edit: Callable[..., Any] | None = None
    notes_of_edits: Callable[..., list[str]] | None = None
