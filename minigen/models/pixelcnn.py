r"""PixelCNN. Van den Oord, Kalchbrenner & Kavukcuoglu 2016, arXiv 1601.06759; gated: van den Oord et al. 2016, arXiv 1606.05328.

A picture is read like a text, row by row, and its probability is the product of the probability of every pixel given
those before it. One convolutional network gives all of them at once, because none of its outputs sees its own pixel or
a later one; so the likelihood is exact and training is plain maximum likelihood. Drawing has to go pixel by pixel.

| symbol | code | shape |
|---|---|---|
| $x_i$, $i$ in raster order | ``x``: grey levels $0 \dots L - 1$, or any tokens | (n, h, w); as a sequence (n, t), t = h w |
| $W_f, W_g$ of the two stacks | ``down``, ``across``: both gates in one convolution | (k // 2 + 1, k, c_in, 2c), (1, k // 2 + 1, c_in, 2c); in the first layer k // 2 taps across |
| $V_f^\top h, V_g^\top h$, $h$ the class | ``classes``, a row for each class | (classes, 2c), for each stack |
| vertical and horizontal stack | ``v``, ``h`` | (n, h, w, c) |
| $\pi_m, \mu_m, s_m$ | ``logits``, ``mean``, ``log_scale`` | (n, h, w, M) |

$$p(x) = \prod_{i = 1}^{n^2} p(x_i \mid x_1, \dots, x_{i - 1}) \qquad (1601.06759, \text{ eq. } 1)$$
$$y = \tanh(W_f * x + V_f^\top h) \odot \sigma(W_g * x + V_g^\top h) \qquad (1606.05328, \text{ eqs. } 2, 4)$$
$$P(k) = \sum_m \pi_m \big[ \sigma((x_k + \tfrac{1}{L - 1} - \mu_m) / s_m) - \sigma((x_k - \tfrac{1}{L - 1} - \mu_m) / s_m) \big] \qquad (\text{Salimans et al. 2017, } 1701.05517, \text{ eq. } 2)$$

**What a convolution may see** (1601.06759, fig. 2 and section 3.4). The first PixelCNN multiplies a square kernel by a
mask: A, in the first layer, keeps the taps before the middle in raster order; B, in all others, the middle too, which
by then stands for what the first layer saw. Stacked, such kernels reach to the right only as far as they reach up: one
pixel in the row above, two in the row above that. The triangle beyond is never seen, however deep the network.

    A    1 1 1    B    1 1 1         3 x 3, any depth:    # # # # # . .
         1 0 0         1 1 0         seen by ?            # # # # . . .     the dots are the blind spot
         0 0 0         0 0 0                              # # ?

**Two stacks** have no blind spot (1606.05328, section 2.2, fig. 2). The vertical stack sees whole rows, with kernels
that reach to both sides; its row i has seen row i itself, so it enters the horizontal stack one row further down. The
horizontal stack adds what is to the left. Both kernels are cut to the taps that a mask would keep, and zeros are added
above or to the left of the picture, so that no weight is there to be masked.

**Grey levels** are shown to the network as a number and a flag for level 0, and predicted by a mixture of logistics, in
which level 7 lies between 6 and 8: six numbers per pixel, however many levels there are. The bins of the first and the last
level reach to infinity, and a uniform share of 0.001 is mixed in (`maths/likelihood.py`). (With the 17 levels of the
digits a softmax does as well.) Tokens that are mere names, such as a VQ-VAE's codes, are embedded and predicted by a
softmax; `TokenPixelCNN` takes either.

You need: `maths/likelihood.py` (the mixture over grey levels), `samplers/autoregressive.py` (drawing), `nn` (layers).
New here: the masks, the two stacks, and a cache that makes drawing a pixel as cheap as that pixel.

Details that matter, and the tests that guard them (tests/minigen/models/test_pixelcnn.py):
- output $i$ depends on all pixels before $i$ and on no other: every pair is tested; the first output on none;
- the vertical stack enters the horizontal one shifted down by a row, or it leaks the pixels to the right of its own;
- no residual connection around the first layer: its input holds the very pixel that is predicted;
- the probabilities of all pictures add up to one, and those of all levels, whatever their number;
- masks multiply the weights on the tape, so a hidden tap has gradient 0 and changes only by weight decay;
- one channel only: three colours would need masks that order them too (1601.06759, eq. 2), which are not here.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

import autograd as ag
from kernels.backend import array_module, to_numpy
from minigen.data import Dataset, Split, shift
from minigen.maths.likelihood import categorical_log_likelihood, logistic_mixture_log_likelihood
from minigen.metrics.likelihood import baselines, bits_per_dimension, log_mean_exp
from minigen.nn import Conv2d, Dropout, Embedding, Linear, Module, init, parameter
from minigen.samplers import autoregressive

from .system import Objective, Stage, System

TITLE = "PixelCNN"
PAPER = "van den Oord et al. 2016, arXiv 1601.06759 and 1606.05328; mixture of logistics: Salimans et al. 2017, arXiv 1701.05517"
EQUATION = "ln p(x) = Σᵢ ln p(xᵢ | x₁ … xᵢ₋₁)"
DATA_SETS = ("digits", "mnist", "binary-mnist", "folder")  # one channel
TOUR: dict[str, Any] = {"steps": 800}
PRESETS: dict[str, dict[str, Any]] = {"binary-mnist": {"layers": 8, "dropout": 0.1, "steps": 2500, "batch_size": 32}}
PICTURES = {
    "completion": "test pictures; the same without their lower half, which is grey; four completions by the model",
    "nats": "test pictures above, the cost of each pixel below: black 0 nats, white 4 or more",
    "classes": "a row for each class, drawn with the same random numbers",
}

MEASURED = 512  # test pictures the likelihood is taken over, at most
BLOCK = 64  # pictures at once where nothing is learnt
UNIFORM = 1e-3  # share of the uniform distribution in the logistics: one odd pixel costs at most ln(L / 1e-3)
BRIGHT = 4.0  # nats that are white in the picture of them


@dataclass(frozen=True)
class Config:
    """Settings of the run."""

    decoder: Literal["logistic", "categorical"] = "logistic"
    """Distribution of a pixel: over grey levels as a scale (a mixture of logistics), or over grey levels as mere names."""
    mixtures: int = 2
    """Logistics in the mixture."""
    conditional: bool = False
    """Give every layer the class of the picture."""
    channels: int = 16
    """Channels of both stacks."""
    layers: int = 6
    """Layers; the picture that one pixel can see grows with each."""
    first: int = 7
    """Width of the first layer's kernel, odd."""
    kernel: int = 3
    """Width of the other layers' kernels, odd."""
    dropout: float = 0.2
    """Share of the features dropped while training."""
    shift: float = 0.15
    """Share of the training pictures that are moved by up to one pixel."""
    steps: int = 2200
    """Training steps."""
    batch_size: int = 64
    """Pictures per step."""
    lr: float = 3e-3
    """Peak learning rate of AdamW; falls along a cosine."""
    warmup: int = 100
    """Steps over which the learning rate rises; at most a tenth of all steps."""
    weight_decay: float = 0.01
    """Decoupled weight decay."""
    ema: float = 0.99
    """Decay of the averaged weights that everything but training uses."""
    max_norm: float = 100.0
    """Largest global norm of the gradient: tames the first steps, where a sum over pixels is steep."""


@dataclass(frozen=True)
class Sampling:
    """Settings of sampling."""

    temperature: float = 1.0
    """Below 1 likely levels become likelier, 0 always takes the likeliest; 1 is the model."""
    label: int | None = None
    """The class of all samples, for a conditional model; if left out, each sample draws its own."""


# --- masks: the first PixelCNN ----------------------------------------------------------------------------------------


def mask(kernel: int, kind: Literal["A", "B"]) -> Any:
    """(kernel, kernel): 1 for the taps before the middle in raster order, in mask B for the middle too, else 0."""
    order, middle = np.arange(kernel * kernel).reshape(kernel, kernel), kernel * kernel // 2
    return (order < middle if kind == "A" else order <= middle).astype(np.float32)


class MaskedConv2d(Conv2d):
    """A layer of the first PixelCNN, whose stack has a blind spot."""

    def __init__(self, c_in: int, c_out: int, kernel: int, kind: Literal["A", "B"], *, rng: Any):
        super().__init__(c_in, c_out, kernel, rng=rng)
        self.mask = mask(kernel, kind)[:, :, None, None]

    def forward(self, x: Any, time: Any = None, residual: Any = None) -> Any:
        """(n, h, w, c_in) -> (n, h, w, c_out)."""
        w = self.w * array_module(self.w.data).asarray(self.mask, self.w.dtype)
        return ag.conv2d(x, w, self.b, time=time, residual=residual, padding=self.padding)


# --- two stacks: the gated PixelCNN -----------------------------------------------------------------------------------


def gate(a: Any) -> Any:
    r"""$\tanh(a_f) \odot \sigma(a_g)$ of the two halves of the channels (1606.05328, eq. 2)."""
    c = a.shape[-1] // 2
    return ag.tanh(a[..., :c]) * ag.sigmoid(a[..., c:])


def add_rows(x: Any, rows: int) -> Any:
    """Zeros above: (n, h, w, c) -> (n, rows + h, w, c)."""
    return ag.pad(x, ((0, 0), (rows, 0), (0, 0), (0, 0)))


def add_columns(x: Any, columns: int) -> Any:
    """Zeros to the left: (n, h, w, c) -> (n, h, columns + w, c)."""
    return ag.pad(x, ((0, 0), (0, 0), (columns, 0), (0, 0)))


class GatedLayer(Module):
    """One layer of both stacks (1606.05328, fig. 2).

    ``first``: mask A and no residual, else mask B and one around the horizontal stack.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        c_in: int,
        c: int,
        kernel: int,
        *,
        first: bool,
        classes: int,
        dropout: float,
        rng: Any,
    ):
        self.first, self.half = first, kernel // 2
        taps = self.half + (not first)  # to the left, and in mask B the middle
        self.down = Conv2d(c_in, 2 * c, (self.half + 1, kernel), padding=(0, self.half), bias=False, rng=rng)
        self.across = Conv2d(c_in, 2 * c, (1, taps), padding=0, bias=False, rng=rng)
        self.link = Linear(2 * c, 2 * c, bias=False, rng=rng)
        self.out = Linear(c, c, rng=rng)
        self.places = parameter(np.zeros((2, *shape, 2 * c)))  # a bias for each stack and place
        self.classes = [Embedding(classes, 2 * c, std=0.1, rng=rng) for _ in range(2 if classes else 0)]
        self.dropout = Dropout(dropout)

    def biases(self, label: Any) -> list[Any]:
        r"""What is added before the gates of either stack, the $V^\top h$ of eq. 4 and a number for each place: two of
        (1 or n, h, w, 2c).
        """
        places = [self.places[i : i + 1] for i in range(2)]
        if bool(self.classes) != (label is not None):
            raise ValueError("a network built with classes needs a label for each picture, one without takes none")
        if not self.classes:
            return places
        label = array_module(self.places.data).asarray(label)
        return [a + ag.reshape(e(label), (-1, 1, 1, a.shape[-1])) for a, e in zip(places, self.classes)]

    def horizontal(self, h: Any, above: Any, bias: Any, rng: Any = None) -> Any:
        """Columns with the ``half`` to their left, and what ``down`` makes of the row above -> the columns after this layer."""
        a = self.across(h[:, :, :-1] if self.first else h) + self.link(above) + bias
        y = self.out(self.dropout(gate(a), rng))
        return y if self.first else y + h[:, :, self.half :]

    def forward(self, v: Any, h: Any, label: Any = None, rng: Any = None) -> tuple[Any, Any]:
        """Both stacks (n, h, w, c_in) -> (n, h, w, c)."""
        bias_v, bias_h = self.biases(label)
        a = self.down(add_rows(v, self.half))
        # row i of a has seen all of row i, of which the horizontal stack may know the left part only: one row down
        above = add_rows(a[:, :-1], 1)
        h = self.horizontal(add_columns(h, self.half), above, bias_h, rng)
        return self.dropout(gate(a + bias_v), rng), h


@dataclass
class Cache:
    """What a `GatedPixelCNN` has computed of pictures whose first ``known`` places it has been given."""

    known: int
    biases: list[list[Any]]  # of each layer
    v: list[Any]  # the input of each layer's vertical stack under ``half`` rows of zeros
    h: list[Any]  # the input of each layer's horizontal stack in the current row, right of ``half`` columns of zeros
    above: list[Any]  # what each layer's ``down`` makes of the row above
    out: Any = None  # the outputs (n, outputs) at the first unknown place


class GatedPixelCNN(Module):
    """Features of an h x w grid in; out, numbers that at each place depend on what comes strictly before it.

    The ``c_in`` channels of a place are known together: they are features of one token, not colours with an order.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        c_in: int,
        channels: int,
        layers: int,
        outputs: int,
        *,
        classes: int = 0,
        dropout: float = 0.0,
        first: int = 7,
        kernel: int = 3,
        rng: Any,
    ):
        self.shape, self.widths = shape, [c_in] + [channels] * (layers - 1)
        self.layers = [
            GatedLayer(
                shape,
                width,
                channels,
                kernel if i else first,
                first=i == 0,
                classes=classes,
                dropout=dropout,
                rng=rng,
            )
            for i, width in enumerate(self.widths)
        ]
        self.hidden = Linear(channels, channels, initial=init.he, rng=rng)
        self.out = Linear(channels, outputs, initial=init.zeros, rng=rng)
        self.places = parameter(np.zeros((1, *shape, outputs)))

    def head(self, h: Any) -> Any:
        """The horizontal stack's end to the outputs, without the bias of each place."""
        return self.out(ag.relu(self.hidden(ag.relu(h))))

    def forward(self, x: Any, label: Any = None, rng: Any = None) -> Any:
        """(n, h, w, c_in), labels (n,) -> (n, h, w, outputs); ``rng`` draws the dropout masks."""
        v = h = x
        for layer in self.layers:
            v, h = layer(v, h, label, rng)
        return self.head(h) + self.places

    def begin(self, n: int, label: Any = None) -> Cache:
        """A cache of ``n`` pictures of which nothing is known."""
        height, width = self.shape
        xp, dtype = array_module(self.out.w.data), self.out.w.dtype

        def zeros(*shape: int) -> Any:
            return xp.zeros((n, *shape), dtype)

        cache = Cache(
            known=0,
            biases=[[ag.raw(b) for b in layer.biases(label)] for layer in self.layers],
            v=[zeros(l.half + height, width, c) for l, c in zip(self.layers, self.widths)],
            h=[zeros(1, l.half + width, c) for l, c in zip(self.layers, self.widths)],
            above=[zeros(1, width, l.link.w.shape[0]) for l in self.layers],
        )
        self.ask(cache)
        return cache

    def tell(self, cache: Cache, x: Any) -> None:
        """Add one place, with features ``x`` (n, c_in); at the end of a row the vertical stack computes that row."""
        i, j = divmod(cache.known, self.shape[1])
        cache.v[0][:, self.layers[0].half + i, j] = x
        cache.h[0][:, 0, self.layers[0].half + j] = x
        if j + 1 == self.shape[1]:
            for l, layer in enumerate(self.layers):
                a = ag.raw(layer.down(cache.v[l][:, i : i + layer.half + 1]))
                cache.above[l] = a
                if l + 1 < len(self.layers):
                    cache.v[l + 1][:, self.layers[l + 1].half + i] = gate(a + cache.biases[l][0][:, i : i + 1])[:, 0]
        cache.known += 1
        self.ask(cache)

    def ask(self, cache: Cache) -> None:
        """Compute the outputs at the first unknown place: one pixel of each layer of the horizontal stack."""
        i, j = divmod(cache.known, self.shape[1])
        y: Any = None
        for l, layer in enumerate(self.layers):
            if l:
                cache.h[l][:, :, layer.half + j] = y[:, :, 0]
            left = cache.h[l][:, :, j : j + layer.half + 1]
            bias = cache.biases[l][1][:, i : i + 1, j : j + 1]
            y = ag.raw(layer.horizontal(left, cache.above[l][:, :, j : j + 1], bias))
        cache.out = ag.raw(self.head(y) + self.places[:, i : i + 1, j : j + 1])[:, 0, 0]


# --- distributions of one token ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Token:
    """The distribution of a token that ``outputs`` numbers give: ``log_p(token (...), out (..., outputs))`` (...), and
    ``logits(out)`` of all (..., vocab).
    """

    outputs: int
    log_p: Callable[[Any, Any], Any]
    logits: Callable[[Any], Any]


def categorical(vocab: int) -> Token:
    """Tokens as names: the outputs are their logits."""
    return Token(vocab, categorical_log_likelihood, lambda out: out)


def logistics(levels: int, mixtures: int) -> Token:
    """Tokens as grey levels: a mixture of discretised logistics.

    Outputs of 0 are logistics of different means, alike in all else.
    """
    spread = np.linspace(-1, 1, mixtures + 2)[1:-1]

    def log_p(level: Any, out: Any) -> Any:
        m, xp, dtype = mixtures, array_module(ag.raw(out)), ag.raw(out).dtype
        # means go beyond the ends, so that black can be certain; scales from one level of 256 to all alike, and no
        # further
        mean = 1.2 * ag.tanh(out[..., m : 2 * m] + xp.asarray(spread, dtype))
        log_scale = 5 * ag.tanh(0.2 * out[..., 2 * m :]) - 2
        return logistic_mixture_log_likelihood(level, out[..., :m], mean, log_scale, levels, uniform=UNIFORM)

    return Token(3 * mixtures, log_p, lambda out: log_p(np.arange(levels), out[..., None, :]))


class GreyLevels(Module):
    """Grey levels 0 .. levels - 1 as two features: the level from 0 to 1, and whether it is 0."""

    def __init__(self, levels: int):
        self.levels, self.channels = levels, 2

    def forward(self, x: Any) -> Any:
        """Integers (...) -> (..., 2)."""
        return np.stack([x / (self.levels - 1), x == 0], axis=-1)


# --- the density ------------------------------------------------------------------------------------------------------


class TokenPixelCNN(Module):
    """A distribution over h x w grids of tokens 0 .. vocab - 1, with the methods that `samplers.autoregressive` needs.

    Tokens are names, embedded and predicted by a softmax, unless ``read`` (tokens (...) -> features (...,
    read.channels)) and ``token`` (their distribution) say otherwise. It starts with all outputs at 0.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        vocab: int,
        channels: int,
        layers: int,
        *,
        read: Any = None,
        token: Token | None = None,
        rng: Any,
        **settings: Any,
    ):
        self.shape, self.vocab = shape, vocab
        self.token = categorical(vocab) if token is None else token
        self.read = Embedding(vocab, channels, std=0.3, rng=rng) if read is None else read
        c_in = channels if read is None else read.channels
        self.net = GatedPixelCNN(shape, c_in, channels, layers, self.token.outputs, rng=rng, **settings)

    def features(self, tokens: Any) -> Any:
        """Integers (...) -> (..., c_in) of the network's dtype, on its device."""
        xp, dtype = array_module(self.net.out.w.data), self.net.out.w.dtype
        x = self.read(xp.asarray(tokens))
        return x if isinstance(x, ag.Tensor) else x.astype(dtype)

    def forward(self, tokens: Any, label: Any = None, rng: Any = None) -> Any:
        """Integers (n, h, w), labels (n,) -> (n, h, w, outputs): the outputs of the network."""
        return self.net(self.features(tokens), label, rng)

    def log_p(self, tokens: Any, label: Any = None, rng: Any = None) -> Any:
        r"""$\ln p(x_i \mid x_{<i})$ of every token: (n, h, w) -> (n, h, w); their sum is the log-likelihood of the grid."""
        return self.token.log_p(tokens, self(tokens, label, rng))

    def logits(self, tokens: Any, label: Any = None) -> Any:
        """(n, t), t up to h w -> (n, t, vocab): entry i is the distribution of token i given tokens 0 .. i - 1."""
        n, t = tokens.shape
        whole = np.zeros((n, self.shape[0] * self.shape[1]), np.int64)
        whole[:, :t] = tokens
        out = self(whole.reshape(n, *self.shape), label)
        return self.token.logits(ag.reshape(out, (n, whole.shape[1], -1))[:, :t])

    def step(self, new: Any, cache: Cache | None, label: Any = None) -> tuple[Any, Cache]:
        """Tokens (n, k) after those of the cache -> the logits (n, vocab) of the one after them, and the cache."""
        known, places = 0 if cache is None else cache.known, self.shape[0] * self.shape[1]
        if known + new.shape[1] >= places:
            raise ValueError(f"new must leave one of the {places} places to ask for, got {new.shape[1]} after {known}")
        with ag.no_grad():
            if cache is None:
                cache = self.net.begin(len(new), label)
            for j in range(new.shape[1]):
                self.net.tell(cache, ag.raw(self.features(new[:, j])))
            return ag.raw(self.token.logits(cache.out)), cache


def nats(log_p: Any) -> Any:
    r"""$-\ln p(x)$ in nats, the sum over the places, averaged over the pictures: a scalar, from `TokenPixelCNN.log_p`."""
    return -ag.mean(ag.sum(log_p, (1, 2)))


# --- training and sampling --------------------------------------------------------------------------------------------


def build(config: Config, dataset: Dataset, *, seed: int) -> System:
    """The network and what `minigen train`, `sample` and `tour` do with it. Raises ValueError for settings that do not fit."""
    levels = check(config, dataset)
    h, w, _ = dataset.shape
    classes = len(dataset.classes) if config.conditional else 0
    net = TokenPixelCNN(
        (h, w),
        levels,
        config.channels,
        config.layers,
        read=GreyLevels(levels),
        token=logistics(levels, config.mixtures) if config.decoder == "logistic" else categorical(levels),
        classes=classes,
        dropout=config.dropout,
        first=config.first,
        kernel=config.kernel,
        rng=np.random.default_rng(seed),
    )

    def labels(split: Split) -> Any:
        return split.labels if classes else None

    def loss(batch: Split, rng: Any, step: int) -> tuple[Any, dict[str, float]]:
        images = shift(batch.images, rng=rng, p=config.shift) if config.shift else batch.images
        return nats(net.log_p(images[..., 0], labels(batch), rng)), {}

    def stages() -> list[Stage]:
        return [
            Stage(
                name="pixelcnn",
                objectives=[Objective("nats", net, loss)],
                steps=config.steps,
                batch_size=config.batch_size,
                lr=config.lr,
                warmup=min(config.warmup, config.steps // 10),
                ema=config.ema,
                max_norm=config.max_norm,
                weight_decay=config.weight_decay,
                schedule="cosine",
            )
        ]

    def pictures_of(tokens: Any) -> Any:
        """The first tokens (n, t) of pictures in [-1, 1], grey where nothing is known: (n, h, w, 1)."""
        n, t = tokens.shape
        x = np.zeros((n, h * w), np.float32)
        x[:, :t] = dataset.scale(tokens)
        return x.reshape(n, h, w, 1)

    def draw(u: Any, label: Any, **settings: Any) -> Any:
        """Pictures in [-1, 1] with the uniform numbers ``u`` (n, h w)."""
        return pictures_of(autoregressive.sample_cached(lambda new, cache: net.step(new, cache, label), u, **settings))

    def sample(
        n: int,
        *,
        rng: Any,
        steps: int | None = None,
        callback: Any = None,
        temperature: float = 1.0,
        label: int | None = None,
    ) -> Any:
        """``n`` pictures in [-1, 1], pixel by pixel: one uniform number each, and for a conditional model one before
        them for the label.

        ``callback(t, x_t)`` sees the pictures at the start and after every row, with t rows to go.
        """
        if steps is not None:
            raise ValueError(f"a PixelCNN draws one pixel after the other: steps must be left out, got {steps}")
        if label is not None and not classes:
            raise ValueError(f"label {label} needs a conditional model, and this one was trained without --conditional")
        if label is not None and not 0 <= label < classes:
            raise ValueError(f"label must be from 0 to {classes - 1}, got {label}")
        u, y = autoregressive.uniforms(n, h * w + bool(classes), rng=rng), None
        if classes:
            y = (classes * u[:, 0]).astype(np.int64) if label is None else np.full(n, label)

        def see(i: int, tokens: Any) -> None:
            if i % w == 0:
                callback(h - i // w, pictures_of(tokens))

        return draw(u[:, -h * w :], y, temperature=temperature, callback=None if callback is None else see)

    def nats_of(split: Split, label: int | None = None) -> Any:
        """(n, h, w): what every pixel costs a model that is given the pictures' own classes, or ``label`` for all."""
        y = labels(split) if label is None else np.full(len(split), label)
        found = []
        for i in range(0, len(split), BLOCK):
            rows = slice(i, i + BLOCK)
            with ag.no_grad():
                log_p = net.log_p(split.images[rows][..., 0], None if y is None else y[rows])
            found.append(-to_numpy(ag.raw(log_p)).astype(np.float64))
        return np.concatenate(found)

    def figures(dataset: Dataset, *, rng: Any) -> dict[str, float]:
        """The exact test likelihood, beside models without a network, in nats per picture."""
        test = dataset.test.take(slice(0, MEASURED))
        found = {}
        if classes:
            # -ln p(x | y) of every class y, (classes, n); p(x) is the mean of p(x | y), all classes being equally likely
            each = np.stack([nats_of(test, label).sum((1, 2)) for label in range(classes)])
            cost, own = float(-log_mean_exp(-each).mean()), each[test.labels, np.arange(len(test))]
            found["-ln p(picture | its class), test, exact, nats"] = float(own.mean())
            found["test pictures whose own class makes them likeliest"] = float((each.argmin(0) == test.labels).mean())
        else:
            cost = float(nats_of(test).sum((1, 2)).mean())
        found |= {"-ln p(picture), test, exact, nats": cost, "the same in bits/dim": bits_per_dimension(cost, h * w)}
        simple = baselines(dataset.train.images, dataset.val.images, test.images, levels, rng=np.random.default_rng(0))
        return found | {f"{name} levels, nats": value for name, value in simple.items()}

    def completion(split: Split, *, rng: Any) -> Any:
        """Six rows: originals, their upper halves, four completions, each with random numbers of its own."""
        some = split.take(rng.permutation(len(split))[:12])
        tokens = some.images.reshape(len(some), h * w).astype(np.int64)
        prefix = tokens[:, : h // 2 * w]
        rows = [pictures_of(tokens), pictures_of(prefix)]
        for _ in range(4):
            rows.append(draw(autoregressive.uniforms(*tokens.shape, rng=rng), labels(some), prefix=prefix))
        return np.stack(rows)

    def costs(split: Split, *, rng: Any) -> Any:
        """Two rows: pictures, the nats of their pixels."""
        some = split.take(rng.permutation(len(split))[:12])
        return np.stack([dataset.scale(some.images), 2 * (nats_of(some)[..., None] / BRIGHT).clip(0, 1) - 1])

    def by_class(split: Split, *, rng: Any) -> Any:
        """A row for each class, the same ten rows of uniform numbers in each."""
        u = np.tile(autoregressive.uniforms(10, h * w, rng=rng), (classes, 1))
        return draw(u, np.repeat(np.arange(classes), 10)).reshape(classes, 10, h, w, 1)

    pictures = {"completion": completion, "nats": costs} | ({"classes": by_class} if classes else {})
    return System(config, dataset.name, (h, w, 1), {"pixelcnn": net}, stages, sample, figures, pictures)


def check(config: Config, dataset: Dataset) -> int:
    """The number of grey levels. Raises ValueError for the first setting that does not fit."""
    if dataset.levels is None or len(dataset.shape) != 3:
        raise ValueError(
            f"this model gives grey levels a probability, and the data set '{dataset.name}' holds no pictures"
        )
    if dataset.shape[2] != 1:
        raise ValueError(
            f"this model is of pictures with one channel, and the data set '{dataset.name}' has {dataset.shape[2]}: "
            "it has no order for the colours of a pixel"
        )
    if config.decoder not in ("logistic", "categorical"):
        raise ValueError(f"decoder must be 'logistic' or 'categorical', got {config.decoder!r}")
    for name in ("mixtures", "channels", "layers"):
        if getattr(config, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(config, name)}")
    for name in ("first", "kernel"):
        if getattr(config, name) < 3 or getattr(config, name) % 2 == 0:
            raise ValueError(f"{name} must be an odd number of at least 3, got {getattr(config, name)}")
    if not 0 <= config.shift <= 1:
        raise ValueError(f"shift must be a share from 0 to 1, got {config.shift}")
    if config.conditional and not dataset.classes:
        raise ValueError(f"conditional needs labels, and the data set '{dataset.name}' has none")
    return dataset.levels
