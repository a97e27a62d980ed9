r"""DALL-E. Ramesh et al. 2021, "Zero-shot text-to-image generation", arXiv 2102.12092.

A codec turns pictures into small grids of integers; appended to the words of their captions these make one sequence of
tokens, and a transformer learns to predict the next token. Given a caption it continues with a picture. Of several
pictures for one prompt, CLIP chooses the one that fits best.

| symbol | code | shape |
|---|---|---|
| $y$, the caption | ``text``: words, <eos>, <pad> as the tokenizer writes them | (n, T) |
| $z$, the picture's codes | ``codes`` | (n, h', w') |
| the sequence | ``tokens`` = `sequence` (text, codes) | (n, T + h' w') |
| $\ln p_\psi(y, z)$ | ``DALLE.logits``: entry i is for token i, given those before it | (n, t, V + T + K) |
| $w$ | ``text_weight`` | |

$$\ln p_{\theta,\psi}(x, y) \ge \mathbb E_{q_\phi(z \mid x)} \big[ \ln p_\theta(x \mid y, z) - \beta\, \mathrm{KL}(q_\phi(y, z \mid x), p_\psi(y, z)) \big] \qquad (1)$$
$$L = w\, \frac1{T} \sum_{i < T} -\ln p(y_i \mid y_{<i}) + (1 - w)\, \frac1{h'w'} \sum_{j < h'w'} -\ln p(z_j \mid y, z_{<j}), \quad w = \tfrac18 \qquad \text{(section 2.2)}$$
$$\ell = \ell_\varnothing + s\, (\ell_y - \ell_\varnothing) \qquad \text{(guidance, Ho \& Salimans 2022, 2207.12598; not in the paper)}$$
$$x = \operatorname{argmax}_{k \le N} \mathrm{CLIP}(x_k, y) \qquad \text{(section 2.6)}$$

(1) is maximised in two stages: the codec first, with a uniform $p_\psi$ (`dvae`; or `vq_vae`, whose KL is a constant),
then $p_\psi$ alone.

**Tokens.** One numbering without overlaps: words are $0 \dots V - 1$, the padding at text position i is $V + i$, a
token of its own as in the paper, and code k is $V + T + k$. Two heads, one over words and padding, one over codes: a
text position has the logit $-\infty$ for every code, a picture position for every word.

**What differs from the paper.** The paper's 64 layers attend along rows, columns and in small windows; here four layers
attend to all tokens, and each place also takes the codes above it and to its left as direct inputs. Some training pairs
lose their captions (the null prompt, <eos> alone), so that guidance can exaggerate prompts.

You need: `samplers/autoregressive.py`, `models/vq_vae.py` and `models/dvae.py` (codecs), `models/clip.py` (the judge).
New here: two kinds of tokens in one sequence, and best-of-N.

Details that matter, and the tests that guard them (tests/minigen/models/test_dalle.py):
- nothing writes into a caption: the null prompt is another array, in training and in sampling, and CLIP scores
  the prompt that the picture was drawn for, completed where it was left open;
- no position can draw a token of the other kind, whatever the network outputs;
- tokens behind <eos> change nothing;
- a code is predicted from what precedes it only: the codes above and to the left are looked up, never later ones;
- sample i and its candidates have random numbers of their own: for a fixed number of candidates they do not depend on
  how many samples are drawn;
- of equally good candidates the first wins.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np

import autograd as ag
from kernels.backend import array_module, to_numpy
from minigen.data import Dataset, Split
from minigen.data.captions import completed
from minigen.data.oracle import prompt_accuracy
from minigen.data.tokenizer import WordTokenizer
from minigen.metrics.prompts import GROUPS, notes_for, prompt_report, prompts_for, prompts_of
from minigen.nn import Linear, Module, Transformer, init, parameter
from minigen.samplers import autoregressive

from . import clip, dvae, vq_vae
from .system import Objective, Stage, System

TITLE = "DALL-E"
PAPER = "Ramesh et al. 2021, arXiv 2102.12092"
EQUATION = "ln p(x, y) ≥ E_q(z|x)[ln p(x|y, z) − β KL(q(y, z|x), p(y, z))]"
DATA = "shapes"
TOUR: dict[str, Any] = {"codec_steps": 400, "clip_steps": 200, "steps": 800}
PRESETS: dict[str, dict[str, Any]] = {"long": {"codec_steps": 4000, "clip_steps": 4000, "steps": 12000}}
PICTURES = {
    "reranked": "one prompt per row, its 16 candidates sorted by CLIP's score, the best first",
    "completion": "test pictures, what is kept of them (the upper half of the codes), and four completions for their captions",
}

OFFSETS = (
    (1, -1),
    (1, 0),
    (1, 1),
    (0, 2),
)  # codes that a place takes as inputs besides the one before it: rows up, columns to the right (0, 2: left)
BLOCK = 256  # sequences that are drawn at once
SHOWN = 64  # prompts per group in the figures
CANDIDATES = 16


@dataclass(frozen=True)
class Config:
    """Settings of the run."""

    codec: Literal["vq", "dvae"] = "vq"
    """How pictures become codes: the VQ-VAE, or the paper's discrete VAE."""
    codes: int = 256
    """Number of codes in the codebook."""
    codec_steps: int = 2400
    """Training steps of the codec."""
    clip_steps: int = 1000
    """Training steps of CLIP."""
    width: int = 128
    """Channels of the transformer."""
    layers: int = 4
    """Its blocks."""
    heads: int = 4
    """Its attention heads."""
    text_weight: float = 1 / 8
    """Weight of the caption's tokens in the loss; the codes have the rest."""
    p_uncond: float = 0.1
    """Share of the captions that are dropped in training, for guidance."""
    steps: int = 3000
    """Training steps of the transformer."""
    batch_size: int = 32
    """Pairs per step of the transformer."""
    lr: float = 4e-3
    """Peak learning rate of Muon and AdamW; falls along a cosine."""
    weight_decay: float = 0.01
    """Decoupled weight decay."""
    ema: float = 0.99
    """Decay of the averaged weights, which are used outside training."""
    max_norm: float = 1.0
    """Largest global norm of the gradient."""


@dataclass(frozen=True)
class Sampling:
    """Settings of sampling."""

    prompt: str | None = None
    """What to draw; if left out, the captions of validation scenes, one per sample. A size, colour or place that it
    does not name is chosen at random; the empty prompt asks for anything.
    """
    rerank: int = 1
    """Candidates per sample, of which CLIP's favourite is shown."""
    temperature: float = 0.5
    """Below 1 favours likely codes; 0 takes the likeliest; 1 is the model's own spread, often without clean shapes."""
    top_k: int | None = None
    """Draw among this many of the likeliest codes."""
    top_p: float | None = None
    """Draw among the fewest likeliest codes whose total probability reaches this."""
    guidance: float = 1.5
    """s in null + s (prompt - null), of logits: 0 ignores the prompt, 1 is the model, more exaggerates the prompt."""


# --- tokens -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Vocabulary:
    """Words are 0 .. V-1, the padding at position i is V+i, code k is V+T+k."""

    words: int
    length: int
    codes: int

    def __len__(self) -> int:
        return self.words + self.length + self.codes

    @property
    def first_code(self) -> int:
        """The token of code 0."""
        return self.words + self.length

    def of_text(self, text: Any, eos: int) -> Any:
        """Rows of words (n, T) -> tokens: everything behind the first <eos> becomes padding."""
        is_eos = text == eos
        behind = np.cumsum(is_eos, 1) - is_eos > 0
        return np.where(behind, self.words + np.arange(self.length), text)

    def of_codes(self, codes: Any) -> Any:
        """Codes (n, ...) -> tokens (n, h' w')."""
        return codes.reshape(len(codes), -1).astype(np.int64) + self.first_code

    def codes_of(self, tokens: Any) -> Any:
        """The codes of sequences: (n, T + m) -> (n, m)."""
        return tokens[:, self.length :] - self.first_code


def sequence(vocabulary: Vocabulary, text: Any, codes: Any, eos: int) -> Any:
    """Captions (n, T) and codes (n, h', w') as tokens (n, T + h' w')."""
    return np.concatenate([vocabulary.of_text(text, eos), vocabulary.of_codes(codes)], axis=1)


def without_captions(text: Any, null: Any, left_out: Any) -> Any:
    """``text`` (n, T) with ``null`` (T,) in the rows that are ``left_out`` (n,): a new array."""
    return np.where(left_out[:, None], null, text)


def earlier(grid: tuple[int, int], offsets: Sequence[tuple[int, int]] = OFFSETS) -> Any:
    """For every place in raster order, the places of its neighbours ``offsets``, or -1 beyond the edge: (h' w', offsets).

    In grids of at least three columns, all of them are at least two places earlier: the code just before is an input anyway.
    """
    h, w = grid
    row, column = np.divmod(np.arange(h * w), w)
    found = []
    for up, right in offsets:
        r, c = row - up, column + (right if up else -right)
        found.append(np.where((r >= 0) & (c >= 0) & (c < w), r * w + c, -1))
    return np.stack(found, axis=1)


class DALLE(Module):
    """The transformer over captions of ``length`` words and grids of codes."""

    def __init__(self, vocabulary: Vocabulary, grid: tuple[int, int], config: Config, *, rng: Any):
        d, (h, w) = config.width, grid
        self.vocabulary, self.grid = vocabulary, grid
        self.earlier = earlier(grid)
        self.table = parameter(init.normal((len(vocabulary), d), 0.02, rng))
        self.start = parameter(init.normal((1, d), 0.02, rng))
        self.near = parameter(init.normal((len(OFFSETS) * (vocabulary.codes + 1), d), 0.02, rng))
        self.text_positions = parameter(init.normal((vocabulary.length, d), 0.02, rng))
        self.rows = parameter(init.normal((h, 1, d), 0.02, rng))
        self.columns = parameter(init.normal((1, w, d), 0.02, rng))
        self.transformer = Transformer(d, config.layers, config.heads, rng=rng)
        self.text_head = Linear(d, vocabulary.first_code, initial=init.zeros, rng=rng)
        self.code_head = Linear(d, vocabulary.codes, initial=init.zeros, rng=rng)

    @property
    def length(self) -> int:
        """Tokens of a sequence."""
        return self.vocabulary.length + len(self.earlier)

    def embed(self, tokens: Any, first: int) -> Any:
        """Inputs at positions ``first`` .. t, from the ``tokens`` (n, t) before them: (n, t + 1 - first, d)."""
        n, t = tokens.shape
        T, K = self.vocabulary.length, self.vocabulary.codes
        xp = array_module(self.table.data)
        before = np.concatenate([np.full((n, 1), len(self.vocabulary)), tokens], axis=1)[:, first:]
        x = ag.embedding(ag.concat([self.table, self.start], axis=0), xp.asarray(before))
        d = x.shape[-1]
        places = ag.reshape(self.rows + self.columns, (-1, d))
        x = x + ag.concat([self.text_positions, places], axis=0)[first : t + 1]
        shown = max(first - T, 0)  # the first place among these positions
        if t < T:
            return x
        known = np.full((n, len(self.earlier) + 1), K)  # K: no code there; the last column is for -1
        known[:, : t - T] = self.vocabulary.codes_of(tokens)
        rows = known[:, self.earlier[shown : t + 1 - T]] + (K + 1) * np.arange(len(OFFSETS))  # (n, places, offsets)
        told = ag.sum(ag.embedding(self.near, xp.asarray(rows)), 2)
        words = T - first
        return x + told if words <= 0 else ag.concat([x[:, :words], x[:, words:] + told], axis=1)

    def forward(self, tokens: Any) -> Any:
        """The last hidden states, from which each token is predicted: (n, t) -> (n, t, d)."""
        return self.transformer(self.embed(tokens[:, :-1], 0), causal=True)

    def losses(self, tokens: Any) -> tuple[Any, Any]:
        """The mean of -ln p over all caption tokens, and over all codes, of whole sequences."""
        h, T = self(tokens), self.vocabulary.length
        return (
            mean_cross_entropy(self.text_head(h[:, :T]), tokens[:, :T]),
            mean_cross_entropy(self.code_head(h[:, T:]), self.vocabulary.codes_of(tokens)),
        )

    def heads(self, h: Any, first: int) -> Any:
        """Logits over all tokens at the positions from ``first`` on, a plain array: -inf for tokens of the other kind."""
        n, t = h.shape[:2]
        words, head = max(0, self.vocabulary.length - first), self.vocabulary.first_code
        xp = array_module(ag.raw(h))
        out = xp.full((n, t, len(self.vocabulary)), -np.inf, h.dtype)
        out[:, :words, :head] = ag.raw(self.text_head(h[:, :words]))
        out[:, words:, head:] = ag.raw(self.code_head(h[:, words:]))
        return out

    def logits(self, tokens: Any) -> Any:
        """The interface of `samplers/autoregressive.py`: (n, t) -> (n, t, V + T + K)."""
        return self.heads(self(tokens), 0)

    def step(self, new: Any, cache: Any = None) -> tuple[Any, Any]:
        """The cached step of the same interface."""
        first, past = 0, None
        if cache is not None:
            before, past = cache
            first = before.shape[1] + 1
            new = np.concatenate([before, new], axis=1)
        h, past = self.transformer.step(self.embed(new, first), past)
        return self.heads(h[:, -1:], new.shape[1])[:, 0], (new, past)


def mean_cross_entropy(logits: Any, tokens: Any) -> Any:
    """The mean of -ln softmax(logits)[token] over all tokens (n, t)."""
    tokens = array_module(ag.raw(logits)).asarray(np.ascontiguousarray(tokens).reshape(-1))
    return ag.mean(ag.cross_entropy(ag.reshape(logits, (len(tokens), -1)), tokens))


def weighted(of_text: Any, of_codes: Any, text_weight: float) -> Any:
    """The loss of section 2.2."""
    return text_weight * of_text + (1 - text_weight) * of_codes


def transformer_stage(net: DALLE, loss: Any, config: Config) -> Stage:
    """How the transformer is trained by a ``loss(batch, rng, step)``."""
    return Stage(
        name="transformer",
        objectives=[Objective("nats", net, loss)],
        steps=config.steps,
        batch_size=config.batch_size,
        lr=config.lr,
        warmup=min(100, config.steps // 10),
        ema=config.ema,
        max_norm=config.max_norm,
        weight_decay=config.weight_decay,
        betas=(0.9, 0.99),
        schedule="cosine",
        optimiser="muon",
        apart=("text_head", "code_head"),
        shards=2,
    )


# --- sampling ---------------------------------------------------------------------------------------------------------


def with_null(step: autoregressive.Step, null: Any) -> autoregressive.Step:
    """The same step with the caption replaced by ``null`` (T,); the sequences themselves are not modified."""

    def unconditional(new: Any, cache: Any) -> tuple[Any, Any]:
        if cache is None:  # the first tokens: the caption and whatever is given of the picture
            new = np.concatenate([np.broadcast_to(null, (len(new), len(null))), new[:, len(null) :]], axis=1)
        return step(new, cache)

    return unconditional


def draw_codes(
    net: DALLE, text: Any, null: Any, u: Any, *, guidance: float = 1.0, kept: Any = None, **filters: Any
) -> Any:
    """Codes (n, h', w') for captions as tokens (n, T), by ``u`` (n, T + h' w'), whose caption part is not used.

    ``null`` (T,) is the null prompt as tokens, ``kept`` (n, k) are the first codes, if they are given; ``filters`` are
    those of `autoregressive.sample`.
    """
    codes = net.vocabulary
    prefix = text if kept is None else np.concatenate([text, codes.of_codes(kept)], axis=1)
    step: autoregressive.Step = net.step
    if guidance != 1:
        step = autoregressive.guided_step(net.step, with_null(net.step, null), guidance)
    found = [np.zeros((0, net.length), np.int64)]
    for i in range(0, len(u), BLOCK):
        rows = slice(i, i + BLOCK)
        found.append(autoregressive.sample_cached(step, u[rows], prefix=prefix[rows], **filters))
    return codes.codes_of(np.concatenate(found)).reshape(-1, *net.grid)


def best(scores: Any) -> Any:
    """The winner of each row of candidates: (n, N) -> (n,), the first in case of a tie."""
    return np.argmax(scores, axis=1)


def unfinished(images: Any, done: int, grid: tuple[int, int]) -> Any:
    """Pictures (n, h, w, c) with the first ``done`` places, in raster order, shown and the others grey."""
    h, w = images.shape[1:3]
    rows, columns = grid
    shown = (np.arange(rows * columns) < done).reshape(rows, columns)
    return np.where(np.kron(shown, np.ones((h // rows, w // columns), bool))[..., None], images, 0).astype(images.dtype)


def build(config: Config, dataset: Dataset, *, seed: int) -> System:
    """The three networks and what `minigen train`, `sample` and `tour` do with them.

    Raises ValueError for settings that do not fit.
    """
    check(config, dataset)
    rng = np.random.default_rng(seed)
    codec_file: Any = {"vq": vq_vae, "dvae": dvae}[config.codec]
    of_codec = codec_file.Config(codes=config.codes, steps=config.codec_steps)
    codec_file.check_codec(of_codec, dataset.shape)
    codec_net: Any = (vq_vae.VQVAE if config.codec == "vq" else dvae.DVAE)(dataset.shape, of_codec, rng=rng)
    codec = codec_file.Codec(codec_net)
    of_clip = clip.Config(steps=config.clip_steps)
    clip_net = clip.CLIP(dataset.shape, of_clip, rng=rng)
    judge = clip.Embedder(clip_net)
    tokenizer = WordTokenizer()
    vocabulary = Vocabulary(len(tokenizer), tokenizer.length, codec.codes)
    net = DALLE(vocabulary, codec.grid, config, rng=rng)
    places = codec.grid[0] * codec.grid[1]

    def read(text: Any) -> Any:
        return vocabulary.of_text(text, tokenizer.eos)

    def draw(prompts: Sequence[str], u: Any, guidance: float, kept: Any = None, **filters: Any) -> Any:
        text, null = read(tokenizer.batch(prompts)[0]), read(tokenizer.null[None])[0]
        return draw_codes(net, text, null, u, guidance=guidance, kept=kept, **filters)

    def loss(batch: Split, rng: Any, step: int) -> tuple[Any, dict[str, Any]]:
        text, _ = tokenizer.batch(list(batch.captions or ()))
        text = without_captions(text, tokenizer.null, rng.random(len(text)) < config.p_uncond)
        codes = to_numpy(codec.encode(dataset.scale(batch.images)))
        of_text, of_codes = net.losses(sequence(vocabulary, text, codes, tokenizer.eos))
        figures = {"text": ag.raw(of_text), "codes": ag.raw(of_codes)}
        return weighted(of_text, of_codes, config.text_weight), figures

    def stages() -> list[Stage]:
        return [
            codec_file.codec_stage(codec_net, of_codec, dataset),
            clip.stage(clip_net, of_clip, dataset),
            transformer_stage(net, loss, config),
        ]

    def candidates(prompts: Sequence[str], count: int, rng: Any, guidance: float, **filters: Any) -> tuple[Any, Any]:
        """``count`` pictures for every prompt (n, N, h, w, c), and their CLIP scores (n, N)."""
        n = len(prompts)
        repeated = [prompt for prompt in prompts for _ in range(count)]
        u = autoregressive.uniforms(n, count * net.length, rng=rng).reshape(-1, net.length)  # a row a prompt
        codes = draw(repeated, u, guidance, **filters)
        images = to_numpy(codec.decode(codes))
        scores = to_numpy(judge.scores(images, repeated)) if count > 1 else np.zeros(n)
        return images.reshape(n, count, *dataset.shape), scores.reshape(n, count)

    def paint(
        prompts: Sequence[str],
        *,
        rng: Any,
        rerank: int = 1,
        temperature: float = Sampling.temperature,
        top_k: int | None = None,
        top_p: float | None = None,
        guidance: float = Sampling.guidance,
        callback: Any = None,
    ) -> Any:
        """A picture in [-1, 1] for each prompt, completed at random: CLIP's favourite of ``rerank`` candidates."""
        if rerank < 1:
            raise ValueError(f"rerank must be at least 1, which shows every candidate, got {rerank}")
        if not np.isfinite(guidance):
            raise ValueError(f"guidance must be a finite number, got {guidance}")
        filters = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
        images, scores = candidates(completed(prompts, rng=rng), rerank, rng, guidance, **filters)
        chosen = np.arange(len(prompts)), best(scores)
        if callback is not None:
            for done in range(0, places + 1, codec.grid[1]):
                callback(places - done, unfinished(images[chosen], done, codec.grid))
        return images[chosen]

    def sample(
        n: int, *, rng: Any, steps: int | None = None, callback: Any = None, prompt: str | None = None, **settings: Any
    ) -> Any:
        """``n`` pictures in [-1, 1], of ``prompt`` or of `prompts_for(n)`."""
        if steps is not None:
            raise ValueError(f"codes are drawn one by one, {places} a picture: steps must be left out, got {steps}")
        prompts = prompts_for(n) if prompt is None else [prompt] * n
        return paint(prompts, rng=rng, callback=callback, **settings)

    def notes(images: Any, *, prompt: str | None = None, **settings: Any) -> list[str]:
        """What was asked for, and whether the picture shows it."""
        return notes_for(prompts_for(len(images)) if prompt is None else [prompt] * len(images), images)

    def figures(dataset: Dataset, *, rng: Any) -> dict[str, float]:
        """What the codec preserves, nats per code, and how often prompts are met, with and without CLIP's choice."""
        found = {}
        for what, things in (("one thing", 1), ("two things", 2)):
            rows = np.array([i for i, s in enumerate(dataset.test.scenes[:1024]) if len(s.things) == things])[:256]
            split = dataset.test.take(rows)
            restored = to_numpy(codec.decode(codec.encode(dataset.scale(split.images))))
            accuracy = prompt_accuracy(list(split.scenes), restored)
            found[f"pictures of {what} right after the codec"] = accuracy["all"]
        some = dataset.test.take(slice(0, 512))
        text, codes = tokenizer.batch(list(some.captions or ()))[0], to_numpy(codec.encode(dataset.scale(some.images)))
        tokens = sequence(vocabulary, text, codes, tokenizer.eos)
        with ag.no_grad():
            parts = [net.losses(tokens[i : i + BLOCK]) for i in range(0, len(tokens), BLOCK)]
        found["nats a code, test"] = float(np.mean([float(ag.raw(of_codes)) for _, of_codes in parts]))
        for count in (1, CANDIDATES):
            report = prompt_report(partial(paint, rng=rng, rerank=count), SHOWN, list(GROUPS)[:2])
            for group, rates in report.items():
                found[f"prompts met, {group}, best of {count}"] = rates["all"]
        return found

    def reranked(split: Split, *, rng: Any) -> Any:
        """Rows of candidates, sorted by score."""
        prompts = [*prompts_of("val", 1, 3), *prompts_of("val", 2, 3)]
        images, scores = candidates(prompts, CANDIDATES, rng, Sampling.guidance)
        return np.take_along_axis(images, np.argsort(-scores, axis=1, kind="stable")[:, :, None, None, None], 1)

    def completion(split: Split, *, rng: Any) -> Any:
        """Rows: a picture, its upper half, four completions."""
        some = split.take(rng.permutation(min(len(split), 10_000))[:6])
        x, more = dataset.scale(some.images), 4
        codes = to_numpy(codec.encode(x)).reshape(len(x), -1)
        half = codec.grid[0] // 2 * codec.grid[1]
        u = autoregressive.uniforms(len(x) * more, net.length, rng=rng)
        said = [text for text in list(some.captions or ()) for _ in range(more)]
        drawn = draw(said, u, Sampling.guidance, kept=np.repeat(codes[:, :half], more, axis=0))
        ends = to_numpy(codec.decode(drawn)).reshape(len(x), more, *dataset.shape)
        return np.concatenate([x[:, None], unfinished(x, half, codec.grid)[:, None], ends], axis=1)

    modules = {"codec": codec_net, "clip": clip_net, "transformer": net}
    pictures = {"reranked": reranked, "completion": completion}
    return System(config, dataset.name, dataset.shape, modules, stages, sample, figures, pictures, notes, paint)


def check(config: Config, dataset: Dataset) -> None:
    """Raise ValueError for the first setting that does not fit."""
    if config.codec not in ("vq", "dvae"):
        raise ValueError(f"codec must be 'vq' or 'dvae', got {config.codec!r}")
    for name in ("codes", "codec_steps", "clip_steps", "width", "layers", "heads"):
        if getattr(config, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(config, name)}")
    if config.width % config.heads:
        raise ValueError(f"heads must divide width, got {config.heads} heads for width {config.width}")
    for name in ("text_weight", "p_uncond"):
        if not 0 <= getattr(config, name) <= 1:
            raise ValueError(f"{name} must be a share from 0 to 1, got {getattr(config, name)}")
    if len(dataset.train) and dataset.train.captions is None:
        raise ValueError(f"this model draws what captions say, and the data set '{dataset.name}' has none: take shapes")
