r"""GPT.

Radford et al. 2019, "Language models are unsupervised multitask learners"; attention: Vaswani et al. 2017, arXiv
1706.03762.

A text is a sequence of tokens, and its probability is the product of the probability of each token given those before
it. One transformer gives all of these at once, because attention is cut off at each token's own place. It does not
matter what a token is: read a picture pixel by pixel, and the same network models pictures (Chen et al. 2020, iGPT).

| symbol | code | shape |
|---|---|---|
| $x_1 \dots x_t$ | ``tokens``: grey levels in raster order, or byte pairs; slot 0 of an array is $x_1$ | (n, t) |
| $W_e$, $W_p$ | ``table``, ``positions`` | (vocab, d), (length, d) |
| $h_i$: features of $x_1 \dots x_{i-1}$ | ``h = gpt(tokens)`` | (n, t, d) |
| $\ell_{iv}$ | ``gpt.logits(tokens)``: of token $i$, in slot $i$ | (n, t, vocab) |
| keys and values of the slots so far | ``cache`` | |

$$p(x) = \prod_{i=1}^{t} p(x_i \mid x_1, \dots, x_{i-1}) \qquad (\text{Radford et al., eq. } 1)$$
$$h_i = \mathrm{transformer}(e_1 + p_1, \dots, e_i + p_i), \quad e_1 = \text{start}, \; e_{i > 1} = W_e[x_{i-1}]; \qquad \ell_i = W_e h_i$$
$$\mathrm{attention}(Q, K, V) = \mathrm{softmax}(Q K^\top / \sqrt{d_k} + M) V, \quad M_{ij} = -\infty \text{ for } j > i, \text{ else } 0 \qquad (\text{Vaswani et al., eq. } 1)$$

**Names.** Byte pairs are names: token 7 is not between 6 and 8. A table gives each a vector, and the same table,
transposed, gives its logit ("weight tying", Press & Wolf 2016, 1608.05859): two gradients meet in one parameter.

**Numbers.** Grey levels are numbers, and in a picture the pixel above is as near as the last token, though a whole row
away. So the network is given the level as a number, whether it is 0 (the background), and whether it is there: of the
last token, and of the earlier pixels up to ``reach`` rows and columns around the predicted one. It predicts a mixture
of discretised logistics (Salimans et al. 2017, 1701.05517, eq. 2) with a uniform share of 0.001. The logarithm of the mixture's probability of each
level serves as its logit, so everything below sees logits in both cases. On the 1,000 digits names cost 84.1 nats per
test picture, numbers with reach 0, 1 and 2 cost 85.2, 81.4 and 79.7 (the default steps, one seed each; the default was
chosen by them, so its figure is a little favourable): what helps is the reach.

You need: `nn/transformer.py` (the blocks), `samplers/autoregressive.py` (drawing), `maths/likelihood.py` (the mixture).
New here: what goes into a transformer and what comes out of it, the shift by one, the cache.

Details that matter, and the tests that guard them (tests/minigen/models/test_gpt.py):
- slot $i$ sees the tokens before $i$ and no other: every pair is tested, and the probabilities of ALL sequences add up
  to 1;
- the first token is predicted too, from a start vector that is no token: without it nothing gives $p(x_1)$;
- a step with the cache returns what the whole pass returns, for every prefix;
- the mask is $-\infty$: a large negative number can be overcome by the scores;
- the tied table is one parameter, initialised with std 0.02, so that at first all tokens are nearly equally likely;
  what is added to the positions starts as small as they are (larger inputs cost 3 nats with reach 0);
- other weights start with the variance 1 / fan-in, and what is added to the residual stream at 0, where GPT-2 has std
  0.02 and $1 / \sqrt N$ of it;
- nats are sums over the tokens of a sequence; bits per byte divide by the bytes that the tokens spell.
"""

import lzma
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

import autograd as ag
from kernels.backend import array_module, to_numpy
from minigen.data import Dataset, Split
from minigen.data.dataset import shift
from minigen.data.tokenizer import BytePair
from minigen.maths.likelihood import categorical_log_likelihood, logistic_mixture_log_likelihood
from minigen.metrics.likelihood import FITTED, baselines, bits_per_dimension
from minigen.nn import Dropout, Linear, Module, Transformer, init, parameter
from minigen.samplers import autoregressive

from .system import Objective, Stage, System

TITLE = "GPT"
PAPER = "Radford et al. 2019; Vaswani et al. 2017, arXiv 1706.03762; on pixels: Chen et al. 2020"
EQUATION = "ln p(x) = Σ_i ln p(x_i | x_1 … x_(i−1))"
DATA_SETS = ("digits", "mnist", "binary-mnist", "folder", "shapes", "text")
TOUR: dict[str, Any] = {"steps": 400}
PRESETS: dict[str, dict[str, Any]] = {"binary-mnist": {"steps": 1800, "batch_size": 16}}
PICTURES = {"completion": "a test picture, its upper half, and eight draws of the model for the lower half"}

MEASURED = 512  # test pictures the likelihood is taken over, at most
UNIFORM = 1e-3  # share of the uniform distribution in each logistic: one odd pixel costs at most ln(L / 1e-3)
STD = 0.02  # of the tables at the start (Radford et al. 2018, section 4.1)


@dataclass(frozen=True)
class Config:
    """Settings of the run."""

    output: Literal["auto", "logistics", "softmax"] = "auto"
    """Tokens as numbers (logistics) or as names (softmax, embedded by the same table); auto: grey levels are numbers,
    texts names.
    """
    width: int = 48
    """Numbers in a token's vector."""
    layers: int = 3
    """Transformer blocks."""
    heads: int = 4
    """Heads of attention; they share the width."""
    reach: int = 2
    """Rows and columns around its pixel that an input shows, besides the last token: 0 is a plain sequence."""
    mixture: int = 2
    """Logistics in the mixture that a grey level is drawn from."""
    dropout: float = 0.1
    """Share of the features dropped while training."""
    shift: float = 0.15
    """Share of the pictures moved by up to a pixel while training; texts are not moved."""
    steps: int = 600
    """Training steps."""
    batch_size: int = 64
    """Sequences per step."""
    lr: float = 4e-3
    """Peak learning rate of AdamW; falls along a cosine."""
    weight_decay: float = 0.01
    """Decoupled weight decay of all parameters: of biases and gains too, which Radford et al. 2018 exempt."""
    ema: float = 0.99
    """Decay of the averaged weights that everything but training uses."""
    max_norm: float = 1.0
    """Largest global norm of the gradient of the nats per token."""


@dataclass(frozen=True)
class Sampling:
    """Settings of sampling."""

    temperature: float = 1.0
    """Divides the logits: below 1 the likely becomes more likely, 0 takes the likeliest token only."""
    top_k: int | None = None
    """Draw from this many of the likeliest tokens only."""
    top_p: float | None = None
    """Draw from the fewest of the likeliest tokens that together have this probability."""
    prompt: str | None = None
    """A beginning to continue, for weights that were trained on text."""


def quiet(shape: tuple[int, ...], rng: Any) -> Any:
    """First weights of every table, and of what is added to one: larger inputs would drown the positions."""
    return init.normal(shape, STD, rng)


# --- what goes in, what comes out -------------------------------------------------------------------------------------


class Names(Module):
    """Tokens as names: rows of ``table`` go in, products with its rows come out."""

    def __init__(self, vocab: int, width: int, *, rng: Any):
        self.table = parameter(quiet((vocab, width), rng))
        self.start = parameter(quiet((1, width), rng))

    def embed(self, tokens: Any, first: int) -> Any:
        """$e$ of the slots from ``first`` to the one after the last of ``tokens`` (n, t): (n, t + 1 - first, d)."""
        start = self.table.shape[0]  # the row below the table
        before = np.pad(tokens.astype(np.int64), ((0, 0), (1, 0)), constant_values=start)[:, first:]
        table = ag.concat([self.table, self.start], axis=0)
        return ag.embedding(table, array_module(self.table.data).asarray(before))

    def logits(self, h: Any) -> Any:
        r"""$W_e h$: (n, t, d) -> (n, t, vocab)."""
        return ag.matmul(h, ag.transpose(self.table, (1, 0)))

    def log_p(self, tokens: Any, h: Any) -> Any:
        """(n, t), (n, t, d) -> (n, t)."""
        return categorical_log_likelihood(tokens, self.logits(h))


class Numbers(Module):
    """Tokens as numbers 0..levels-1 of a picture (h, w, c): three features of each earlier neighbour go in, logistics come out."""

    def __init__(self, levels: int, shape: tuple[int, ...], reach: int, width: int, mixture: int, *, rng: Any):
        self.levels, self.neighbours = levels, neighbours(shape, reach)
        self.linear_in = Linear(3 * self.neighbours.shape[1], width, initial=quiet, rng=rng)
        self.out = Linear(width, 3 * mixture, initial=init.zeros, rng=rng)
        start = np.zeros(3 * mixture)
        start[mixture : 2 * mixture] = np.linspace(-1, 1, mixture + 2)[1:-1]  # or all parts would stay equal
        self.out.b = parameter(start)

    def embed(self, tokens: Any, first: int) -> Any:
        """As `Names.embed`."""
        known = np.pad(tokens.astype(np.int64), ((0, 0), (0, 1)), constant_values=-1)  # slot -1 is absent
        seen = known[:, self.neighbours[first : tokens.shape[1] + 1]]  # (n, slots, neighbours)
        there = seen >= 0
        level = np.where(there, 2 * seen / (self.levels - 1) - 1, 0)
        features = np.concatenate([level, seen == 0, there], axis=-1)
        return self.linear_in(array_module(self.linear_in.w.data).asarray(features, self.linear_in.w.dtype))

    def parts(self, h: Any) -> tuple[Any, Any, Any]:
        """Logits, means and log scales of the mixture's parts, each (n, t, mixture)."""
        out = self.out(h)
        m = out.shape[-1] // 3
        mean = 1.2 * ag.tanh(out[..., m : 2 * m])  # beyond the ends, so that black can be nearly certain
        log_scale = 5 * ag.tanh(0.2 * out[..., 2 * m :]) - 2  # -7 to 3: from one level of 256 to all alike
        return out[..., :m], mean, log_scale

    def logits(self, h: Any) -> Any:
        r"""$\ln P(k)$ of every level $k$: (n, t, d) -> (n, t, levels)."""
        weight, mean, log_scale = (a[..., None, :] for a in self.parts(h))
        levels = np.arange(self.levels)
        return logistic_mixture_log_likelihood(levels, weight, mean, log_scale, self.levels, uniform=UNIFORM)

    def log_p(self, tokens: Any, h: Any) -> Any:
        """(n, t), (n, t, d) -> (n, t)."""
        return logistic_mixture_log_likelihood(tokens, *self.parts(h), self.levels, uniform=UNIFORM)


def neighbours(shape: tuple[int, ...], reach: int) -> Any:
    """For each token of a picture (h, w, c), the slots of the last token and of the earlier ones at most ``reach`` away: (t, k).

    Each column is one neighbour; -1 where the picture has none there.
    """
    h, w, c = shape
    slots = np.arange(h * w * c)
    up, aside = min(reach, h - 1), min(reach, w - 1)  # there is nothing beyond
    wide = np.pad(slots.reshape(shape), ((up, 0), (aside, aside), (0, 0)), constant_values=-1)
    around = [wide[i : i + h, j : j + w] for i in range(up + 1) for j in range(2 * aside + 1)]  # each (h, w, c)
    near = np.repeat(
        np.concatenate(around, axis=2).reshape(h * w, -1), c, axis=0
    )  # all channels of a pixel see the same
    found = np.concatenate([slots[:, None] - 1, near], axis=1)
    found = np.where(found < slots[:, None], found, -1)
    return found[:, (found >= 0).any(axis=0) | (np.arange(found.shape[1]) == 0)]


class GPT(Module):
    """A causal transformer between ``ends`` (`Names` or `Numbers`), of sequences of up to ``length`` tokens.

    ``spelling`` is not used here: it is saved with the weights.
    """

    def __init__(
        self,
        ends: Any,
        length: int,
        width: int,
        layers: int,
        heads: int,
        *,
        dropout: float = 0.0,
        spelling: "Spelling | None" = None,
        rng: Any,
    ):
        self.ends, self.spelling = ends, spelling
        self.positions = parameter(quiet((length, width), rng))
        self.dropout = Dropout(dropout)
        self.transformer = Transformer(width, layers, heads, dropout=dropout, rng=rng)

    def forward(self, tokens: Any, rng: Any = None) -> Any:
        """$h$: (n, t) -> (n, t, d), slot $i$ from the tokens before $i$; ``rng`` draws the dropout masks."""
        x = self.ends.embed(tokens[:, :-1], 0) + self._positions(0, tokens.shape[1])
        return self.transformer(self.dropout(x, rng), causal=True, rng=rng)

    def logits(self, tokens: Any) -> Any:
        """(n, t) -> (n, t, vocab): the model that `samplers.autoregressive` asks for."""
        return self.ends.logits(self(tokens))

    def log_p(self, tokens: Any, rng: Any = None) -> Any:
        r"""$\ln p(x_i \mid x_1 \dots x_{i-1})$ of each token, (n, t)."""
        return self.ends.log_p(tokens, self(tokens, rng))

    def step(self, new: Any, cache: Any = None) -> tuple[Any, Any]:
        """The logits (n, vocab) of the token after ``new`` (n, k), which follow those in ``cache``: `logits` at the
        cost of k tokens.
        """
        before, past = cache if cache is not None else (new[:, :0], None)
        first = 0 if cache is None else before.shape[1] + 1  # the slot after those that are done
        tokens = np.concatenate([before, new], axis=1)
        x = self.ends.embed(tokens, first) + self._positions(first, tokens.shape[1] + 1)
        h, past = self.transformer.step(x, past)
        return self.ends.logits(h[:, -1:])[:, 0], (tokens, past)

    def _positions(self, first: int, stop: int) -> Any:
        if stop > len(self.positions.data):
            raise ValueError(
                f"this model's sequences have at most {len(self.positions.data)} tokens, and number {stop} was asked for"
            )
        return self.positions[first:stop]


class Spelling(Module):
    """The byte pairs of a text, kept with the weights: what the tokens of these weights spell."""

    BUFFERS = ("merges",)

    def __init__(self, merges: Any):
        self.merges = np.array(merges, np.int32).reshape(-1, 2)

    def tokenizer(self) -> BytePair:
        """Strings to tokens and back. Raises ValueError for merges that make no sense."""
        return BytePair(np.rint(to_numpy(self.merges)).astype(np.int64).tolist())


# --- the loss ---------------------------------------------------------------------------------------------------------


def negative_log_likelihood(log_p: Any) -> Any:
    r"""$-\frac1{n t} \sum_{x} \sum_i \ln p(x_i \mid x_1 \dots x_{i-1})$: nats per token, from (n, t)."""
    return -ag.mean(log_p)


# --- training and sampling --------------------------------------------------------------------------------------------


def build(config: Config, dataset: Dataset, *, seed: int) -> System:
    """The network and what `minigen train`, `sample` and `tour` do with it. Raises ValueError for settings that do not fit."""
    check(config, dataset)
    shape, levels = dataset.shape, dataset.levels or 0
    length, text = int(np.prod(shape)), len(shape) == 1
    rng = np.random.default_rng(seed)
    if config.output == "logistics" or (config.output == "auto" and not text):
        ends: Any = Numbers(levels, shape, config.reach, config.width, config.mixture, rng=rng)
    else:
        ends = Names(levels, config.width, rng=rng)
    # the merges are zeros where weights will be loaded into them
    merges = np.zeros((max(levels - 256, 0), 2)) if dataset.tokenizer is None else dataset.tokenizer.merges
    spelling = Spelling(merges)
    net = GPT(
        ends,
        length,
        config.width,
        config.layers,
        config.heads,
        dropout=config.dropout,
        spelling=spelling if text else None,
        rng=rng,
    )

    def tokens_of(images: Any) -> Any:
        return images.reshape(len(images), length).astype(np.int64)

    def nats(images: Any) -> Any:
        """Exact, of each item."""
        return -autoregressive.log_likelihood(net.logits, tokens_of(images))

    def loss(batch: Split, rng: Any, step: int) -> tuple[Any, dict[str, Any]]:
        images = batch.images if text else shift(batch.images, rng=rng, p=config.shift)
        value = negative_log_likelihood(net.log_p(tokens_of(images), rng))
        return value, {"nats": float(ag.raw(value)) * length}

    def stages() -> list[Stage]:
        return [
            Stage(
                name="gpt",
                objectives=[Objective("token", net, loss)],
                steps=config.steps,
                batch_size=config.batch_size,
                lr=config.lr,
                warmup=min(100, config.steps // 10),
                ema=config.ema,
                max_norm=config.max_norm,
                weight_decay=config.weight_decay,
                schedule="cosine",
            )
        ]

    def pictures_of(tokens: Any) -> Any:
        """Pictures in [-1, 1] of the first tokens (n, t) of pictures; what is not known yet is grey."""
        known = np.zeros((len(tokens), length), np.float32)
        known[:, : tokens.shape[1]] = dataset.scale(tokens)
        return known.reshape(len(tokens), *shape)

    def sample(
        n: int, *, rng: Any, steps: int | None = None, callback: Any = None, prompt: str | None = None, **settings: Any
    ) -> Any:
        """``n`` pictures in [-1, 1], or texts as tokens (n, t), which `notes` spells; ``settings`` are those of `filtered`."""
        if steps is not None:
            raise ValueError(f"a GPT draws token by token: steps must be left out, got {steps}")
        if callback is not None and text:
            raise ValueError("a text has no trajectory of pictures to show")
        prefix = None if prompt is None else np.tile(prompt_tokens(prompt), (n, 1))

        def seen(i: int, tokens: Any) -> None:
            callback(length - i, pictures_of(tokens))

        u = autoregressive.uniforms(n, length, rng=rng)
        told = None if callback is None else seen
        tokens = autoregressive.sample_cached(net.step, u, prefix=prefix, callback=told, **settings)
        return tokens if text else pictures_of(tokens)

    def prompt_tokens(prompt: str) -> list[int]:
        if not text:
            raise ValueError(f"a prompt needs weights that were trained on text, not on '{dataset.name}'")
        found = spelling.tokenizer().encode(prompt)
        if len(found) > length:
            raise ValueError(f"the prompt must be at most {length} tokens long, got {len(found)}")
        return found

    def notes(tokens: Any, **settings: Any) -> list[str]:
        """The texts that the tokens spell; characters that a terminal cannot print become U+FFFD."""
        tokenizer = spelling.tokenizer()
        texts = (tokenizer.decode(row) for row in tokens.tolist())
        return ["".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in text) for text in texts]

    def figures(dataset: Dataset, *, rng: Any) -> dict[str, float]:
        """The exact test likelihood beside models without a network."""
        if text:
            return text_figures(float(nats(dataset.test.images).mean()), dataset, spelling.tokenizer())
        most = (dataset.train, FITTED), (dataset.val, FITTED), (dataset.test, MEASURED)
        train, val, test = (split.images[:n] for split, n in most)
        value = float(nats(test).mean())
        found = {"-ln p(picture), test, exact, nats": value, "the same in bits/dim": bits_per_dimension(value, length)}
        known = baselines(train, val, test, levels, rng=rng)
        return found | {f"{name} levels, nats": nll for name, nll in known.items()}

    def completion(split: Split, *, rng: Any) -> Any:
        """(8, 10, h, w, c): see `PICTURES`."""
        some = split.take(rng.permutation(len(split))[:8])
        tokens, half = tokens_of(some.images), shape[0] // 2 * shape[1] * shape[2]
        each = np.repeat(tokens, 8, axis=0)
        u = autoregressive.uniforms(len(each), length, rng=rng)
        drawn = pictures_of(autoregressive.sample_cached(net.step, u, prefix=each[:, :half]))
        beside = np.stack([pictures_of(tokens), pictures_of(tokens[:, :half])], axis=1)
        return np.concatenate([beside, drawn.reshape(len(tokens), 8, *shape)], axis=1)

    own = {} if text else {"completion": completion}
    return System(config, dataset.name, shape, {"gpt": net}, stages, sample, figures, own, notes if text else None)


def text_figures(nats: float, dataset: Dataset, tokenizer: BytePair) -> dict[str, float]:
    """``nats`` per window of the test part as bits per byte, beside those by the tokens' frequencies and of a
    compressor that saw the training part.
    """
    if dataset.tokenizer.merges != tokenizer.merges:
        raise ValueError("the text of this version of Python is not the one that the weights were trained on")
    train, test = (s.images.astype(np.int64) for s in (dataset.train, dataset.test))
    sizes = np.array([len(token) for token in tokenizer.tokens])
    bits_per_byte = test.size / sizes[test].sum() / np.log(2)  # of one nat a token
    frequency = (np.bincount(train.ravel(), minlength=len(sizes)) + 1) / (train.size + len(sizes))
    before, whole = (
        b"".join(tokenizer.tokens[k] for part in parts for k in part.ravel()) for parts in ((train,), (train, test))
    )
    packed = len(lzma.compress(whole, preset=9)) - len(lzma.compress(before, preset=9))
    return {
        f"-ln p(window of {test.shape[1]} tokens), test, exact, nats": nats,
        "bits a byte": nats / test.shape[1] * bits_per_byte,
        "bits a byte, tokens by their frequency": -float(np.log(frequency)[test].mean()) * bits_per_byte,
        "bits a byte, xz after the training part": 8 * packed / int(sizes[test].sum()),
    }


def check(config: Config, dataset: Dataset) -> None:
    """Raise ValueError for the first setting that does not fit."""
    if dataset.levels is None:
        raise ValueError(f"this model gives tokens a probability, and the data set '{dataset.name}' holds points")
    text = len(dataset.shape) == 1
    if text and dataset.levels < 256:
        raise ValueError(
            f"a vocabulary of byte pairs has at least 256 tokens, that of '{dataset.name}' {dataset.levels}"
        )
    if config.output not in ("auto", "logistics", "softmax"):
        raise ValueError(f"output must be one of auto, logistics, softmax, got {config.output!r}")
    if text and config.output == "logistics":
        raise ValueError("output must be softmax for texts, whose tokens are no numbers, got 'logistics'")
    for name in ("width", "layers", "heads", "mixture"):
        if getattr(config, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(config, name)}")
    if config.reach < 0:
        raise ValueError(f"reach must be at least 0, got {config.reach}")
    if config.width % config.heads:
        raise ValueError(f"heads must divide the width, got {config.heads} heads for a width of {config.width}")
    if not 0 <= config.shift <= 1:
        raise ValueError(f"shift must be a share from 0 to 1, got {config.shift}")
