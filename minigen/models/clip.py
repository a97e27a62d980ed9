r"""CLIP. Radford, Kim, Hallacy, Ramesh, Goh et al. 2021, "Learning transferable visual models from natural language
supervision", arXiv 2103.00020.

Two networks, one for pictures and one for captions, embed their inputs on one sphere. In a batch of pairs, each picture
must pick its caption among all the captions, and each caption its picture; there are no other labels. A classifier
for any classes that words can name then needs no training: it is the nearest caption.

| symbol | code | shape |
|---|---|---|
| $I_i, T_j$, of unit length | ``image``, ``text`` | (n, d) |
| $s = e^\tau$, the inverse temperature | ``log_scale`` $= \tau$, a parameter | (1,) |
| $P$, which captions are right for which pictures | ``targets`` | (n, n), rows and columns add up to 1 |
| $F_{im}$, false captions of picture i alone | ``false`` | (n, m, d) |
| $x_t$, a noisy picture | ``x``, ``t`` | (n, h, w, c), (n,) |

The paper has pseudocode (figure 3) instead of numbered equations; the numbers here are this file's.

$$\ell_{ij} = s\, I_i \cdot T_j \qquad (1)$$
$$L = -\frac{1}{2n} \sum_{ij} P_{ij} \Big[ \ln \frac{e^{\ell_{ij}}}{\sum_k e^{\ell_{ik}} + \sum_m e^{s\, I_i \cdot F_{im}}} + \ln \frac{e^{\ell_{ij}}}{\sum_k e^{\ell_{kj}}} \Big] \qquad (2)$$
$$P_{ij} = [c_i = c_j] \,/\, |\{k : c_k = c_i\}| \qquad (3)$$
$$W = \mathrm{norm}\Big(\frac1K \sum_k \mathrm{norm}\, T(\text{prompt}_k)\Big) \qquad (4, \text{ section 3.1.4})$$
$$p(c \mid I) \propto \sum_{r} e^{s\, I \cdot W_{cr}} \qquad (5)$$

The paper has $P$ = the identity and no $F$. (3) is for a world of few captions: $c_i$ is what caption i MEANS, so that
a paraphrase of the right answer is right as well (a caption that does not name the background means something else,
even where it is true). If equal captions have equal embeddings, (3) gives the same loss as the identity (the terms of
copies of a column can be summed in any order), whose minimum is $\ln$ of the number of copies, not 0; the two differ
where paraphrases do. $F$ are captions of the same picture with one thing wrong (Yuksekgonul et al. 2022, 2210.01936):
without them nothing in a batch asks which thing is on the left, and a bag of words suffices.

**Zero-shot.** (4) is one vector for prompts that say the same in other words. A class may leave open what a caption
always names: "a red circle" can have any size and place. The mean over all of these is close to none of them, so (5)
adds up their probabilities instead; for a class with one description it is the paper's classifier.

**What the best score is.** For pairs from $p(i, t)$, (2) with the identity is minimal where
$\ell = \ln \frac{p(i, t)}{p(i)\,p(t)} + \text{const}$, whatever n, and $\ln n - \mathbb E L$ never exceeds the mutual
information of picture and caption (van den Oord, Li & Vinyals 2018, 1807.03748, eq. 4 and appendix A).

**Noise.** With ``noise_aware`` the image network is given $t$ and trained on
$x_t = \sqrt{\bar\alpha_t}\, x_0 + \sqrt{1 - \bar\alpha_t}\, \epsilon$, $t$ uniform over $0 \dots T$ (Nichol et al.
2021, 2112.10741, section 2.4), because guidance needs to know what a picture shows when there is hardly a picture yet.
At $t = 0$ it is CLIP.

**Sampling.** CLIP draws nothing. `sample` RETRIEVES: of 4,096 test pictures those that fit the prompt best, the best
first. For a prompt about two things there may be no right one among them.

You need: `nn/transformer.py`, `data/captions.py`, `maths/diffusion.py` (the noise). New here: two networks that meet in
one space.

Details that matter, and the tests that guard them (tests/minigen/models/test_clip.py):
- the PARAMETER $\tau$ is clamped to $[0, \ln 100]$ after each step: clamping where it is used would make its gradient
  zero beyond the bound;
- it starts at $\ln(1 / 0.07)$, not at 0;
- the text's vector is the output at <eos>, whose position is searched for: here <eos> is not the largest token;
- attention is causal, as in the paper: the padding behind <eos> changes nothing;
- false captions compete in the sum over captions only; they have no picture of their own;
- compositions that are held out of training are not used as false captions either: a sentence that is always wrong
  would be learnt as wrong;
- prompts are normalised before AND after taking their mean.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

import autograd as ag
from kernels.backend import array_module, to_numpy
from minigen.data import Dataset, Split, captions, load, shapes
from minigen.data.captions import BACKGROUNDS, COLOURS, PLACES, RELATIONS, SHAPES, SIZES, Scene, Thing, canonical, parse
from minigen.data.oracle import matches, verdicts
from minigen.data.tokenizer import WordTokenizer
from minigen.maths import schedules
from minigen.maths.diffusion import q_sample
from minigen.metrics.retrieval import recall_at
from minigen.nn import Conv2d, Embedding, GroupNorm, Linear, Module, TimeEmbedding, Transformer, fold, init, parameter

from .system import Objective, Stage, System

TITLE = "CLIP"
PAPER = "Radford et al. 2021, arXiv 2103.00020"
EQUATION = "L = ½ [CE(s I T′, own caption) + CE(s T I′, own picture)], I and T of unit length"
DATA = "shapes"
TOUR = {"steps": 400}

PROMPTS = (
    "a small red circle in the top left corner",
    "a large blue square in the middle",
    "a tiny yellow ring on the right side",
    "there is a huge purple cross at the bottom",
    "a small green triangle above a large orange ring",
    "a big cyan circle to the right of a little red square",
)
PICTURES = {"retrieval": "the test pictures that fit best, one row per prompt: " + "; ".join(PROMPTS)}
POOL = 4096  # test pictures that are searched
RETRIEVED = 512  # test pictures, with their captions, on which retrieval is measured
MEASURED = 1024  # pictures on which everything else is measured

LOG_SCALE = (0.0, float(np.log(100.0)))  # the bounds of tau
START = float(np.log(1 / 0.07))
BLOCK = 256  # pictures or prompts that go through a network at once outside training


@dataclass(frozen=True)
class Config:
    """Settings of the run."""

    width: int = 128
    """Numbers in an embedding."""
    patch: int = 4
    """Side of the squares of pixels that become one pixel with more channels before the first convolution."""
    channels: tuple[int, ...] = (96, 128)
    """Channels of the image network at each resolution; each further one halves the size."""
    text_width: int = 64
    """Channels of the text network."""
    layers: int = 2
    """Blocks of the text network."""
    heads: int = 4
    """Its attention heads."""
    false: int = 2
    """False captions of each picture in a batch; 0 for the paper's loss."""
    noise_aware: bool = False
    """Tell the image network the time t and train it on noisy pictures, for guidance."""
    T: int = 200
    """Length of the noising chain of noise_aware."""
    shift: float = 1.0
    """The chain's SNR is that of the cosine schedule divided by shift^2, see `schedules.shifted`."""
    steps: int = 1200
    """Training steps."""
    batch_size: int = 128
    """Pairs per step."""
    lr: float = 5e-3
    """Peak learning rate of Muon (hidden matrices) and AdamW (the rest); falls along a cosine."""
    warmup: int = 100
    """Steps over which the learning rate rises; at most a tenth of all steps."""
    weight_decay: float = 0.01
    """Decoupled decay of all parameters (it pulls the scale towards 1, far more weakly than the loss pulls)."""
    ema: float = 0.99
    """Decay of the averaged weights, which are used outside training."""
    max_norm: float = 1.0
    """Largest global norm of the gradient."""


@dataclass(frozen=True)
class Sampling:
    """Settings of sampling, which retrieves test pictures: CLIP draws none."""

    prompt: str | None = None
    """What the pictures should show; six prompts in turn if left out."""


# --- the loss ---------------------------------------------------------------------------------------------------------


def normalise(x: Any) -> Any:
    """Vectors along the last axis, scaled to unit length."""
    return x / ag.sqrt(ag.sum(x * x, -1, keepdims=True) + 1e-12)


def same_meaning(meanings: Sequence[Any]) -> Any:
    """Eq. 3: $P$ (n, n) float64 from the meanings of n captions, any hashable values."""
    first: dict[Any, int] = {}
    group = np.array([first.setdefault(m, len(first)) for m in meanings])
    same = group[:, None] == group
    return same / same.sum(1, keepdims=True)


def contrastive_loss(image: Any, text: Any, log_scale: Any, targets: Any = None, false: Any = None) -> Any:
    """Eq. 2: a scalar. ``image`` and ``text`` (n, d) of unit length, ``targets`` (n, n) or None for the identity,
    ``false`` (n, m, d) of unit length or None.
    """
    n, d = image.shape
    if text.shape != (n, d):
        raise ValueError(f"image and text must be pairs of one shape, got {image.shape} and {text.shape}")
    scale = ag.exp(log_scale)
    logits = (image @ ag.transpose(text)) * scale  # eq. 1
    targets = array_module(ag.raw(logits)).asarray(np.eye(n) if targets is None else targets, logits.dtype)
    rivals = logits
    if false is not None:
        wrong = ag.sum(ag.reshape(image, (n, 1, d)) * false, -1) * scale  # (n, m)
        rivals = ag.concat([logits, wrong], 1)
    among_captions = logits - ag.logsumexp(rivals, 1, keepdims=True)
    among_pictures = logits - ag.logsumexp(logits, 0, keepdims=True)
    return ag.sum((among_captions + among_pictures) * targets) * (-0.5 / n)


def clamp(log_scale: Any) -> None:
    """Clamp the parameter to its bounds, in place: called after every step."""
    log_scale.data[...] = np.clip(log_scale.data, *LOG_SCALE)


# --- false captions ---------------------------------------------------------------------------------------------------


def changes(scene: Scene, kinds: Collection[str] | None = None) -> dict[str, list[Scene]]:
    """What a picture of ``scene`` certainly does NOT show: kind of change -> scenes that differ in it alone.

    The change is in one attribute of one thing ("shape", "colour", "size"), in the "place", the "background" or the
    "relation" (left of: above), or two things exchange their places ("order"), their "shapes", "colours" or "sizes".
    ``scene`` names all of these, except perhaps the background, which is changed if it is named. Compositions that are
    held out of training are left out, as are kinds with nothing to change. Only ``kinds`` are looked for, all if None.
    """
    things, place, relation, background = scene.things, scene.place, scene.relation, scene.background

    def with_thing(k: int, thing: Thing) -> Scene:
        return Scene((*things[:k], thing, *things[k + 1 :]), place, relation, background)

    found: dict[str, Iterable[Scene]] = {}
    each = list(enumerate(things))
    found["shape"] = (with_thing(k, Thing(shape, a.colour, a.size)) for k, a in each for shape in SHAPES)
    found["colour"] = (with_thing(k, Thing(a.shape, colour, a.size)) for k, a in each for colour in COLOURS)
    found["size"] = (with_thing(k, Thing(a.shape, a.colour, size)) for k, a in each for size in SIZES)
    if place:
        found["place"] = (Scene(things, other, None, background) for other in PLACES)
    if background:
        found["background"] = (Scene(things, place, relation, other) for other in BACKGROUNDS)
    if relation:
        a, b = things
        swapped = {
            "order": (b, a),
            "shapes": (Thing(b.shape, a.colour, a.size), Thing(a.shape, b.colour, b.size)),
            "colours": (Thing(a.shape, b.colour, a.size), Thing(b.shape, a.colour, b.size)),
            "sizes": (Thing(a.shape, a.colour, b.size), Thing(b.shape, b.colour, a.size)),
        }
        found["relation"] = (Scene(things, None, other, background) for other in RELATIONS)
        found |= {kind: [Scene(pair, None, relation, background)] for kind, pair in swapped.items()}
    asked = {kind: scenes for kind, scenes in found.items() if kinds is None or kind in kinds}
    allowed = {kind: [s for s in scenes if s != scene and not shapes.held_out(s)] for kind, scenes in asked.items()}
    return {kind: scenes for kind, scenes in allowed.items() if scenes}


ASKED = ("shape", "order", "shapes", "colours", "sizes")  # kinds that the other captions of a batch hardly test


def false_captions(scene: Scene, count: int, *, rng: Any) -> list[str]:
    """``count`` false captions of a picture of ``scene``, cycling through the kinds of ``ASKED`` that it has, in random
    order.
    """
    found = changes(scene, ASKED)
    kinds = [found[kind] for kind in ASKED if kind in found]
    kinds = [[some[i] for i in rng.permutation(len(some))] for some in kinds]
    order = np.resize(rng.permutation(len(kinds)), count)
    u = rng.random((count, captions.CHOICES))
    u[:, -1] = 0  # the background is named exactly where the caption names it
    wrong = [kinds[k][i // len(kinds) % len(kinds[k])] for i, k in enumerate(order)]
    return [captions.caption(other, x) for other, x in zip(wrong, u.tolist())]


# --- the networks -----------------------------------------------------------------------------------------------------


class ImageTower(Module):
    """Convolutions down to few pixels, which are not pooled: half of what a caption says is where things are."""

    def __init__(self, shape: tuple[int, ...], config: Config, *, rng: Any):
        h, w, c = shape
        p, widths = config.patch, config.channels
        k = p * 2 ** (len(widths) - 1)
        self.patch = p
        self.conv_in = Conv2d(p * p * c, widths[0], initial=init.he, rng=rng)
        self.down = [Conv2d(a, b, stride=2, initial=init.he, rng=rng) for a, b in zip(widths, widths[1:])]
        self.norms = [GroupNorm(a, 8, silu=True) for a in widths]
        self.out = Linear(h // k * (w // k) * widths[-1], config.width, rng=rng)
        self.time: TimeEmbedding | None = None
        self.told: list[Linear] = []
        if config.noise_aware:
            self.time = TimeEmbedding(64, 128, rng=rng)
            self.told = [Linear(128, a, initial=init.zeros, rng=rng) for a in widths]

    def forward(self, x: Any, t: Any = None) -> Any:
        """(n, h, w, c) in [-1, 1], and times (n,) for a noise-aware tower (None: clean) -> (n, d)."""
        e = None
        if self.time is not None:
            e = ag.silu(self.time(0 if t is None else t, len(x)))
        h = fold(x, self.patch)
        for i, conv in enumerate([self.conv_in, *self.down]):
            h = self.norms[i](conv(h, time=None if e is None else self.told[i](e)))
        return self.out(ag.reshape(h, (h.shape[0], int(np.prod(h.shape[1:])))))


class TextTower(Module):
    """A causal transformer over the words; its output at <eos> is the text's vector."""

    def __init__(self, tokenizer: WordTokenizer, config: Config, *, rng: Any):
        self.eos = tokenizer.eos
        self.embed = Embedding(len(tokenizer), config.text_width, rng=rng)
        self.positions = parameter(0.5 * rng.standard_normal((tokenizer.length, config.text_width)))
        self.transformer = Transformer(config.text_width, config.layers, config.heads, rng=rng)
        self.out = Linear(config.text_width, config.width, rng=rng)

    def features(self, tokens: Any, *, penultimate: bool = False) -> Any:
        """Tokens (n, t) -> a vector for each of them (n, t, c): the output of the last block, or of the one before it,
        after the final norm.
        """
        h = self.embed(tokens) + self.positions[: tokens.shape[1]]
        for block in self.transformer.blocks[: -1 if penultimate else None]:
            h = block(h, causal=True)
        return self.transformer.norm(h)

    def forward(self, tokens: Any) -> Any:
        """Tokens (n, t) -> (n, d).

        The shorter half of the texts is processed separately, as each row of a batch costs as much as the longest.
        """
        xp, at = array_module(tokens), ends(tokens, self.eos)
        order, found = xp.argsort(at), []
        for rows in xp.array_split(order, 2 if len(order) > 1 else 1):
            h = self.features(tokens[rows, : int(at[rows[-1]]) + 1 if len(rows) else 1])
            n, t, c = h.shape
            found.append(self.out(ag.embedding(ag.reshape(h, (n * t, c)), at[rows] + t * xp.arange(n))))
        return ag.embedding(ag.concat(found), xp.argsort(order))


def ends(tokens: Any, eos: int) -> Any:
    """The position of the first ``eos`` in every row (n,); ValueError for a row without one."""
    at = tokens == eos
    if not at.any(1).all():
        raise ValueError(f"tokens must have the end-of-text token {eos} in every row")
    return at.argmax(1)


class CLIP(Module):
    """The two towers and the scale. Everything here is recorded on the tape; see `Embedder` for plain arrays."""

    def __init__(self, shape: tuple[int, ...], config: Config, *, rng: Any):
        check(config, shape)
        self.shape, self.T = tuple(shape), config.T if config.noise_aware else 0
        self.tokenizer = WordTokenizer()
        self.image = ImageTower(shape, config, rng=rng)
        self.text = TextTower(self.tokenizer, config, rng=rng)
        self.log_scale = parameter([START])

    def embed_image(self, x: Any, t: Any = None) -> Any:
        """Pictures (n, h, w, c) in [-1, 1], and times (n,) if they are noisy -> unit vectors (n, d)."""
        if tuple(x.shape[1:]) != self.shape:
            raise ValueError(f"images must have shape (n, {', '.join(map(str, self.shape))}), got {tuple(x.shape)}")
        if t is not None and not self.T:
            raise ValueError("t must be left out: this CLIP was trained on clean pictures (noise_aware is off)")
        return normalise(self.image(x, t))

    def embed_text(self, tokens: Any) -> Any:
        """Tokens (n, t) with an <eos> in every row -> unit vectors (n, d)."""
        return normalise(self.text(tokens))

    def read(self, prompts: Any) -> Any:
        """Prompts (a list of strings, or an array of tokens) as tokens (n, t) on the network's device, t minimal."""
        tokens = to_numpy(prompts) if hasattr(prompts, "dtype") else self.tokenizer.batch(prompts)[0]
        if tokens.ndim != 2 or tokens.shape[1] > self.tokenizer.length or tokens.dtype.kind not in "iu":
            raise ValueError(
                f"prompts must be a list of strings or integer tokens (n, t) with t at most {self.tokenizer.length}, "
                f"got {tokens.dtype} of shape {tokens.shape}"
            )
        used = np.flatnonzero((tokens != self.tokenizer.pad).any(0))
        return array_module(self.log_scale.data).asarray(tokens[:, : used[-1] + 1 if used.size else 1])


@dataclass(frozen=True)
class Embedder:
    """A trained CLIP as functions of plain arrays: nothing is recorded, and large inputs are processed in blocks."""

    net: CLIP

    def encode_image(self, images: Any, t: Any = None) -> Any:
        """Pictures (n, h, w, c) in [-1, 1], at times ``t`` (a number or (n,)) if they are noisy -> unit vectors (n, d)."""
        xp = array_module(self.net.log_scale.data)
        times = None if t is None else np.broadcast_to(to_numpy(t), (len(images),))

        def block(rows: slice) -> Any:
            x = xp.asarray(images[rows], self.net.log_scale.dtype)
            return self.net.embed_image(x, None if times is None else times[rows])

        return self._in_blocks(len(images), block)

    def encode_text(self, prompts: Any) -> Any:
        """Prompts, strings or rows of tokens (n, t) -> unit vectors (n, d).

        "" is the null prompt: no training caption is empty, so its vector is meaningless.
        """
        return self._in_blocks(len(prompts), lambda rows: self.net.embed_text(self.net.read(prompts[rows])))

    def text_features(self, prompts: Any, *, penultimate: bool = False) -> tuple[Any, Any]:
        """A vector for every word of the prompts (n, t, c), before any projection, and which of them are words or <eos> (n, t)."""
        tokens = self.net.read(prompts)
        read = partial(self.net.text.features, penultimate=penultimate)
        features = self._in_blocks(len(tokens), lambda rows: read(tokens[rows]))
        return features, tokens != self.net.tokenizer.pad

    def scores(self, images: Any, prompts: Any) -> Any:
        """The cosine of each picture with its own prompt (n,): the key of re-ranking."""
        if len(images) != len(prompts):
            raise ValueError(f"every picture needs a prompt: got {len(images)} pictures and {len(prompts)} prompts")
        return (self.encode_image(images) * self.encode_text(prompts)).sum(1)

    def _in_blocks(self, n: int, function: Any) -> Any:
        xp = array_module(self.net.log_scale.data)
        with ag.no_grad():
            return xp.concatenate([ag.raw(function(slice(i, i + BLOCK))) for i in range(0, max(n, 1), BLOCK)])


# --- zero-shot --------------------------------------------------------------------------------------------------------


def ensemble(vectors: Any) -> Any:
    """Eq. 4: one vector (..., d) for prompts (..., k, d) that mean the same."""
    return ag.raw(normalise(ag.mean(normalise(vectors), -2)))


def zero_shot(image: Any, vectors: Any, log_scale: Any) -> Any:
    """Eq. 5: ln p(class | picture) (n, classes) of pictures (n, d) and each class's descriptions (classes, k, d)."""
    classes, k, d = vectors.shape
    scores = np.exp(log_scale) * (image @ vectors.reshape(classes * k, d).T)
    return ag.log_softmax(ag.logsumexp(scores.reshape(len(image), classes, k), -1), -1)


PAIRS = [(colour, shape) for shape in SHAPES for colour in COLOURS]  # the 35 classes


def pair_prompts(colour: str, shape: str) -> list[list[str]]:
    """One thing of this colour and shape in every size and place, each with the three openings that captions have."""
    scenes = [Scene((Thing(shape, colour, size),), place, None, None) for size in SIZES for place in PLACES]
    return [[opening + canonical(scene) for opening in captions.OPENINGS] for scene in scenes]


def pair_classifier(embedder: Any) -> Any:
    """The descriptions of every one of ``PAIRS``, each an ensemble (eq. 4): (35, 18, d), for `zero_shot`."""
    prompts = np.array([pair_prompts(*pair) for pair in PAIRS])  # (35, 18, 3)
    return ensemble(embedder.encode_text(prompts.ravel().tolist()).reshape(*prompts.shape, -1))


# --- training and evaluation ------------------------------------------------------------------------------------------


def check(config: Config, shape: tuple[int, ...]) -> None:
    """Raise ValueError for the first setting that does not fit."""
    for name in ("width", "patch", "text_width", "layers", "heads", "T"):
        if getattr(config, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(config, name)}")
    if not 0 < config.shift < np.inf:
        raise ValueError(f"shift must be a positive number, got {config.shift}")
    if config.false < 0:
        raise ValueError(f"false must be at least 0, got {config.false}")
    if not config.channels or min(config.channels) < 8 or any(c % 8 for c in config.channels):
        raise ValueError(f"channels must hold multiples of 8 (the groups of a norm), got {config.channels}")
    if config.text_width % config.heads:
        raise ValueError(f"heads must divide text_width, got {config.heads} heads for {config.text_width}")
    k = config.patch * 2 ** (len(config.channels) - 1)
    if len(shape) != 3 or shape[0] % k or shape[1] % k:
        raise ValueError(f"a picture's sides must be multiples of {k} (patch and halvings), got {shape}")


def stage(net: CLIP, config: Config, dataset: Dataset, name: str = "clip") -> Stage:
    """The training stage of a CLIP, for the systems that contain one."""
    schedule = schedules.shifted(schedules.cosine(config.T), config.shift)

    def loss(batch: Split, rng: Any, step: int) -> tuple[Any, dict[str, float]]:
        xp = array_module(net.log_scale.data)
        x, t = xp.asarray(dataset.scale(batch.images)), None
        if config.noise_aware:
            t = rng.integers(0, schedule.T + 1, len(x))
            x = q_sample(x, t, xp.asarray(rng.standard_normal(x.shape), x.dtype), schedule)
        said = list(batch.captions or ())
        meanings = [parse(text) for text in said]
        wrong = [text for meaning in meanings for text in false_captions(meaning, config.false, rng=rng)]
        n = len(said)
        vectors = net.embed_text(net.read(said + wrong))
        false = ag.reshape(vectors[n:], (n, config.false, config.width)) if config.false else None
        image = net.embed_image(x, t)
        value = contrastive_loss(image, vectors[:n], net.log_scale, same_meaning(meanings), false)
        return value, {"scale": float(np.exp(net.log_scale.data[0]))}

    return Stage(
        name=name,
        objectives=[Objective("contrast", net, loss, after=lambda: clamp(net.log_scale))],
        steps=config.steps,
        batch_size=config.batch_size,
        lr=config.lr,
        warmup=min(config.warmup, config.steps // 10),
        ema=config.ema,
        max_norm=config.max_norm,
        weight_decay=config.weight_decay,
        schedule="cosine",
        optimiser="muon",
        apart=("image.conv_in", "image.out", "text.out"),
    )


def truth(prompts: Sequence[Scene], scenes: Sequence[Scene]) -> Any:
    """Which prompts are true of which scenes: (scenes, prompts) bool."""
    return np.array([[matches(prompt, scene) for prompt in prompts] for scene in scenes], bool)


def true_beats_false(embedder: Any, images: Any, scenes: Sequence[Scene], *, rng: Any) -> dict[str, float]:
    """How often a picture is nearer to its true caption than to one with a single change, by kind of change.

    One random change of each kind per picture; both captions name everything. A tie counts as a failure.
    """
    image, true = embedder.encode_image(images), embedder.encode_text([canonical(scene) for scene in scenes])
    rows: dict[str, list[int]] = {}
    wrong: dict[str, list[str]] = {}
    for i, scene in enumerate(scenes):
        for kind, some in changes(scene).items():
            rows.setdefault(kind, []).append(i)
            wrong.setdefault(kind, []).append(canonical(some[int(rng.integers(len(some)))]))
    margin = {
        kind: (image[which] * (true[which] - embedder.encode_text(wrong[kind]))).sum(1) for kind, which in rows.items()
    }
    return {kind: float((m > 0).mean()) for kind, m in margin.items()}


def build(config: Config, dataset: Dataset, *, seed: int) -> System:
    """The network and what `minigen train`, `sample` and `tour` do with it.

    Raises ValueError for settings that do not fit the data.
    """
    if dataset.name != "shapes":
        raise ValueError(f"this model needs pictures with captions, data set 'shapes': '{dataset.name}' has none")
    net = CLIP(dataset.shape, config, rng=np.random.default_rng(seed))
    embedder, size = Embedder(net), dataset.shape[0]

    def best(split: Split, prompts: Sequence[str], count: int) -> Any:
        """The ``count`` best pictures for each prompt, of the first ``POOL`` of a split: (prompts, count, h, w, c)."""
        x = dataset.scale(split.images[:POOL])
        if count > len(x):
            raise ValueError(f"at most {len(x)} pictures can be retrieved for one prompt, {count} were asked for")
        order = np.argsort(to_numpy(-embedder.encode_text(prompts) @ embedder.encode_image(x).T), axis=1, kind="stable")
        return x[order[:, :count]]

    def sample(n: int, *, rng: Any, steps: int | None = None, callback: Any = None, prompt: str | None = None) -> Any:
        """``n`` test pictures: those nearest to ``prompt``, the nearest first; without one, those of each of
        ``PROMPTS`` in turn.
        """
        if steps is not None:
            raise ValueError(f"CLIP retrieves in one step: steps must be left out, got {steps}")
        test = load("shapes", size=size).test
        if prompt is not None:
            parse(prompt)
            return best(test, [prompt], n)[0]
        found = best(test, PROMPTS, -(-n // len(PROMPTS)))
        return found.swapaxes(0, 1).reshape(-1, *dataset.shape)[:n]

    def notes(images: Any, *, prompt: str | None = None) -> list[str]:
        """The prompt that each picture was retrieved for, and whether it is right."""
        asked = [prompt or PROMPTS[i % len(PROMPTS)] for i in range(len(images))]
        return [f"{text}\n{verdict}" for text, verdict in zip(asked, verdicts(asked, images))]

    def figures(dataset: Dataset, *, rng: Any) -> dict[str, float]:
        """Retrieval among 512 test pictures, zero-shot classification, and true captions against false ones."""
        found: dict[str, float] = {}
        b = dataset.test.take(slice(0, RETRIEVED))
        scores = to_numpy(embedder.encode_image(dataset.scale(b.images)) @ embedder.encode_text(b.captions).T)
        right = truth([parse(text) for text in b.captions or ()], b.scenes)
        for k in (1, 5):
            found[f"caption of a picture, R@{k} of {len(b)}, true ones are right"] = recall_at(k, scores, right)
            found[f"picture of a caption, R@{k} of {len(b)}, true ones are right"] = recall_at(k, scores.T, right.T)
        found[f"caption of a picture, R@1 of {len(b)}, only its own is right"] = recall_at(
            1, scores, np.eye(len(b)) > 0
        )
        classifier = pair_classifier(embedder)

        def named(x: Any, t: Any = None) -> Any:
            return to_numpy(zero_shot(embedder.encode_image(x, t), classifier, net.log_scale.data)).argmax(1)

        for name, split in (("", dataset.test), (", held out", shapes.part("held", size=size))):
            b = split.take(slice(0, MEASURED))
            x, scenes = dataset.scale(b.images), list(b.scenes)
            one = np.array([len(scene.things) == 1 for scene in scenes])
            pairs = [(scene.things[0].colour, scene.things[0].shape) for scene in scenes if len(scene.things) == 1]
            want = np.array([PAIRS.index(pair) for pair in pairs])
            what = f"zero-shot colour and shape of one thing, of {len(PAIRS)}{name}"
            found[what] = float((named(x[one]) == want).mean())
            for t in (net.T // 4, net.T // 2, 3 * net.T // 4) if config.noise_aware else ():
                noisy = schedules.shifted(schedules.cosine(net.T), config.shift)
                x_t = q_sample(x[one], t, rng.standard_normal(x[one].shape).astype(np.float32), noisy)
                found[f"{what}, at t = {t} of {net.T}"] = float((named(x_t, t) == want).mean())
            for number, which in (("one thing", one), ("two things", ~one)):
                some = [scene for scene, is_one in zip(scenes, which) if is_one]
                for kind, share in true_beats_false(embedder, x[which], some, rng=rng).items():
                    found[f"{number}, true caption beats one with another {kind}{name}"] = share
        return found

    def retrieval(split: Split, *, rng: Any) -> Any:
        """A row for each prompt."""
        return best(split, PROMPTS, 10)

    def stages() -> list[Stage]:
        return [stage(net, config, dataset)]

    pictures = {"retrieval": retrieval}
    return System(config, dataset.name, dataset.shape, {"clip": net}, stages, sample, figures, pictures, notes)
