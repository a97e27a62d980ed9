r"""The masked autoencoder. He, Chen, Xie, Li, Dollár & Girshick 2021, arXiv 2111.06377.

A picture is cut into patches, most of them are hidden, and a network predicts them. The encoder sees the
visible patches only, which makes it cheap; a light decoder gets its output, one shared token in place of every hidden
patch, and all the positions. As pictures are redundant, hiding few patches teaches little: three quarters are hidden.

| symbol | code | shape |
|---|---|---|
| $x$ | ``patches`` | (n, L, P), pixels of data in $[-1, 1]$ |
| $M$, the hidden patches of a picture | ``masks.hidden`` | (n, L), 1 where hidden |
| the visible ones, in the order the encoder sees them | ``masks.keep`` | (n, v) |
| the way back from that order | ``masks.restore`` | (n, L) |
| $\hat x$ | ``pred`` | (n, L, P) |

The paper does not number its equations; the numbers here are this file's.

$$J = \frac{1}{|M|} \sum_{i \in M} \tfrac1P \| \hat x_i - x_i \|^2 \qquad (1)$$
$$x_i' = \frac{x_i - \mu_i}{\sqrt{\sigma_i^2 + \epsilon}}, \quad \sigma_i^2 = \tfrac{1}{P - 1} \| x_i - \mu_i \|^2 \qquad (2)$$
$$s = \operatorname{argsort}(u), \quad u \sim U(0, 1)^L, \qquad r = \operatorname{argsort}(s), \qquad M = \{ i : r_i \ge v \} \qquad (3)$$

With ``norm_target``, (2) is the target instead of $x_i$. In (3) $s$ lists the patches in a random order whose first $v$
are kept, and $r_i$ is the place of patch $i$ in it: ``shuffled[r]`` restores the picture's own order.

**What is drawn.** The paper's model is not a generative model: it fills in what is missing. `sample` does this
repeatedly: starting from pixel noise, each round hides random patches and replaces them by the prediction.
A prediction is a mean over all that could be there, so the chain settles on smooth pictures that are typical for the
model. Many look like digits, but nothing makes their distribution that of the data: whole classes never appear.

You need: `nn/transformer.py`, `nn/time.py` (sinusoids). New here: the masks, and the loss on what was hidden.

Details that matter, and the tests that guard them (tests/minigen/models/test_masked_ae.py):
- masks are drawn for each sample, and each hides exactly the stated number of patches;
- the loss is over hidden patches only: visible targets have gradient 0; hidden pixels never reach the encoder;
- ``restore`` is the argsort of the shuffle, and un-shuffling by the shuffle itself is the classic bug;
- the decoder's positions are added to the mask tokens too;
- (2) divides by P - 1, with $\epsilon$ inside the root: a network that outputs 0 has loss (P - 1) / P on patches
  that are not flat (and 0 on flat ones);
- with ``norm_target``, showing pictures takes $\mu_i$ and $\sigma_i$ of the HIDDEN patch. That leaks the answer's
  brightness and contrast into the picture (and into the figures, which then say so).
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

import autograd as ag
from kernels.backend import array_module, to_numpy
from minigen.data import Dataset, Split, shift
from minigen.metrics.fill import linear_fill, mean_fill
from minigen.metrics.frechet import gaussian_fit
from minigen.nn import Dropout, LayerNorm, Linear, Module, Transformer, fold, parameter, sinusoidal, unfold

from .system import Objective, Stage, System

TITLE = "Masked autoencoder"
PAPER = "He, Chen, Xie, Li, Dollár & Girshick 2021, arXiv 2111.06377"
EQUATION = "J = mean over hidden patches i of ‖x̂_i − x_i‖² / P"
TOUR = {"steps": 1000}
PICTURES = {
    "reconstruction": "test pictures; the same with patches hidden; hidden patches filled in, visible ones pasted back"
}


@dataclass(frozen=True)
class Config:
    """Settings of the run."""

    network: Literal["transformer", "mlp"] = "transformer"
    """The paper's transformer, or a perceptron that takes picture and mask (better on pictures this small)."""
    patch: int = 2
    """Side of a patch in pixels; it divides the picture's sides."""
    mask_ratio: float = 0.75
    """Share of the patches that are hidden."""
    norm_target: bool = False
    """Predict each patch with its own mean and variance taken out (eq. 2)."""
    width: int = 64
    """Channels of the encoder (a good perceptron: width 512, layers 3, batch_size 128, lr 2e-3, steps 4000, shift 0.1,
    ema 0.998).
    """
    layers: int = 3
    """Blocks of the encoder."""
    heads: int = 4
    """Attention heads, of encoder and decoder."""
    decoder_width: int = 64
    """Channels of the decoder."""
    decoder_layers: int = 1
    """Blocks of the decoder."""
    dropout: float = 0.0
    """Share of features dropped in every block while training."""
    shift: float = 0.0
    """Share of the training pictures that are moved by up to one pixel."""
    steps: int = 2500
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
    """Decay of the averaged weights that fill in pictures."""
    max_norm: float = 1.0
    """Largest global norm of the gradient."""
    sample_steps: int = 20
    """Rounds of hiding and filling in when pictures are drawn."""


# --- patches and masks ------------------------------------------------------------------------------------------------


def patchify(images: Any, p: int) -> Any:
    """(n, h, w, c) -> (n, L, P): the patches row by row, P = p p c."""
    folded = ag.raw(fold(images, p))
    n, high, wide, P = folded.shape
    return folded.reshape(n, high * wide, P)


def unpatchify(patches: Any, shape: tuple[int, int, int], p: int) -> Any:
    """The inverse of `patchify` for pictures of ``shape`` (h, w, c)."""
    h, w, _ = shape
    return ag.raw(unfold(patches.reshape(len(patches), h // p, w // p, patches.shape[-1]), p))


@dataclass(frozen=True)
class Masks:
    """One mask per sample (eq. 3): ``keep`` (n, v) and ``restore`` (n, L) are integers, ``hidden`` (n, L) is 1 or 0."""

    keep: Any
    restore: Any
    hidden: Any


def random_masks(noise: Any, visible: int) -> Masks:
    """Eq. 3 with ``noise`` $u$ (n, L): the patches with the ``visible`` smallest values are kept."""
    xp = array_module(noise)
    shuffle = xp.argsort(noise, axis=1)
    restore = xp.argsort(shuffle, axis=1)
    return Masks(shuffle[:, :visible], restore, (restore >= visible).astype(np.float32))


def rows(x: Any, ids: Any) -> Any:
    """(n, t, d), (n, k) -> (n, k, d): entry (i, j) is ``x[i, ids[i, j]]``."""
    n, t, d = x.shape
    flat = ids + t * array_module(ids).arange(n)[:, None]  # rows of (n t, d): a single integer index is the fastest
    return ag.embedding(ag.reshape(x, (n * t, d)), flat)


# --- losses -----------------------------------------------------------------------------------------------------------


def masked_loss(pred: Any, target: Any, hidden: Any) -> Any:
    """Eq. 1 over a batch's hidden patches: a scalar, also the mean of the samples' losses, as all hide equally many."""
    d = pred - target
    return ag.sum(ag.mean(d * d, -1) * hidden) / hidden.sum()


def statistics(patches: Any) -> tuple[Any, Any]:
    r"""$\mu_i$ and $\sigma_i^2$ (divided by P - 1) of every patch, both (n, L, 1)."""
    return patches.mean(-1, keepdims=True), patches.var(-1, ddof=1, keepdims=True)


def normalise(patches: Any, eps: float = 1e-6) -> Any:
    """Eq. 2."""
    mean, var = statistics(patches)
    return (patches - mean) / (var + eps) ** 0.5


def denormalise(pred: Any, patches: Any, eps: float = 1e-6) -> Any:
    """Eq. 2 inverted, with mean and variance of ``patches``, the very patches that ``pred`` predicts."""
    mean, var = statistics(patches)
    return pred * (var + eps) ** 0.5 + mean


# --- networks ---------------------------------------------------------------------------------------------------------


def positions(high: int, wide: int, channels: int) -> Any:
    """Fixed sinusoids of a patch's row and of its column, half of the channels each: (L, channels) float32."""
    row, column = np.divmod(np.arange(high * wide), wide)
    return np.concatenate([sinusoidal(row, channels // 2), sinusoidal(column, channels // 2)], axis=1)


class PatchTransformer(Module):
    """The paper's network: a transformer over the visible patches, and a lighter one over all of them."""

    BUFFERS = ("positions", "decoder_positions")

    def __init__(self, high: int, wide: int, P: int, config: Config, *, rng: Any):
        c, c_decoder = config.width, config.decoder_width
        self.positions, self.decoder_positions = positions(high, wide, c), positions(high, wide, c_decoder)
        self.embed = Linear(P, c, rng=rng)
        self.encoder = Transformer(c, config.layers, config.heads, dropout=config.dropout, rng=rng)
        self.decoder_embed = Linear(c, c_decoder, rng=rng)
        self.mask_token = parameter(0.02 * rng.standard_normal(c_decoder))
        self.decoder = Transformer(c_decoder, config.decoder_layers, config.heads, dropout=config.dropout, rng=rng)
        self.out = Linear(c_decoder, P, rng=rng)

    def encode(self, patches: Any, masks: Masks, rng: Any = None) -> Any:
        """(n, L, P) -> (n, v, c): hidden patches are left out before anything else is done."""
        return self.encoder(self.embed(rows(patches, masks.keep)) + self.positions[masks.keep], rng=rng)

    def decode(self, z: Any, masks: Masks, rng: Any = None) -> Any:
        """(n, v, c) -> (n, L, P)."""
        z = self.decoder_embed(z)
        n, v, c = z.shape
        tokens = ag.broadcast_to(self.mask_token, (n, len(self.positions) - v, c))
        x = rows(ag.concat([z, tokens], axis=1), masks.restore) + self.decoder_positions  # in the picture's own order
        return self.out(self.decoder(x, rng=rng))

    def forward(self, patches: Any, masks: Masks, rng: Any = None) -> Any:
        """(n, L, P) -> (n, L, P)."""
        return self.decode(self.encode(patches, masks, rng), masks, rng)

    def features(self, patches: Any, masks: Masks) -> Any:
        """The encoder's output, averaged over its patches: (n, c)."""
        return ag.mean(self.encode(patches, masks), 1)


class PatchMLP(Module):
    """A perceptron with residual layers over the whole picture, with zeros for what is hidden, and the mask."""

    def __init__(self, L: int, P: int, config: Config, *, rng: Any):
        c = config.width
        self.embed = Linear(L * (P + 1), c, rng=rng)
        self.norms = [LayerNorm(c) for _ in range(config.layers)]
        self.linears = [Linear(c, c, rng=rng) for _ in range(config.layers)]
        self.dropout = Dropout(config.dropout)
        self.out = Linear(c, L * P, rng=rng)

    def encode(self, patches: Any, masks: Masks, rng: Any = None) -> Any:
        """(n, L, P) -> (n, c)."""
        shown = 1 - masks.hidden
        n, L, P = patches.shape
        told = ag.concat([ag.reshape(patches * shown[:, :, None], (n, L * P)), shown], axis=1)
        h = self.embed(told)
        for norm, linear in zip(self.norms, self.linears):
            h = h + self.dropout(linear(ag.silu(norm(h))), rng)
        return h

    def decode(self, z: Any, masks: Masks, rng: Any = None) -> Any:
        """(n, c) -> (n, L, P)."""
        n, L = masks.hidden.shape
        x = self.out(ag.silu(z))
        return ag.reshape(x, (n, L, x.shape[1] // L))

    def forward(self, patches: Any, masks: Masks, rng: Any = None) -> Any:
        """(n, L, P) -> (n, L, P)."""
        return self.decode(self.encode(patches, masks, rng), masks, rng)

    def features(self, patches: Any, masks: Masks) -> Any:
        """The encoder's output (n, c)."""
        return self.encode(patches, masks)


# --- filling in -------------------------------------------------------------------------------------------------------


def fill_in(net: Any, patches: Any, masks: Masks, *, norm_target: bool = False) -> Any:
    """The patches (n, L, P), the hidden ones replaced by the prediction and the visible ones as they were."""
    with ag.no_grad():
        pred = ag.raw(net(patches, masks))
    if norm_target:
        pred = denormalise(pred, patches)
    return array_module(pred).where(masks.hidden[:, :, None] == 1, pred, patches)


def features(net: Any, patches: Any) -> Any:
    """The encoder's features of whole pictures, (n, L, P) -> (n, c): for a linear probe."""
    n, L, _ = patches.shape
    everything = random_masks(array_module(patches).tile(np.arange(L), (n, 1)), L)
    with ag.no_grad():
        return ag.raw(net.features(patches, everything))


def check(config: Config, dataset: Dataset) -> tuple[int, int]:
    """The number L of patches and the number of visible ones. Raises ValueError for settings that do not fit the pictures."""
    if len(dataset.shape) != 3:
        raise ValueError(f"this model cuts pictures into patches, and the data set '{dataset.name}' holds no pictures")
    h, w, c = dataset.shape
    if config.network not in ("transformer", "mlp"):
        raise ValueError(f"network must be 'transformer' or 'mlp', got {config.network!r}")
    if config.patch < 1 or h % config.patch or w % config.patch:
        raise ValueError(f"patch must divide the picture's sides {h} x {w}, got {config.patch}")
    for name in ("width", "layers", "decoder_width", "decoder_layers"):
        if getattr(config, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(config, name)}")
    if not 0 <= config.shift <= 1:
        raise ValueError(f"shift must be a share in 0..1, got {config.shift}")
    if config.norm_target and config.patch**2 * c == 1:
        raise ValueError("norm_target needs patches of at least two numbers, as one number has no variance")
    if config.sample_steps < 1:
        raise ValueError(f"sample_steps must be at least 1, got {config.sample_steps}")
    if not 0 <= config.mask_ratio <= 1:
        raise ValueError(f"mask_ratio must be a share in 0..1, got {config.mask_ratio}")
    L = (h // config.patch) * (w // config.patch)
    visible = L - round(config.mask_ratio * L)
    if not 1 <= visible <= L - 1:
        raise ValueError(
            f"mask_ratio must leave at least one of the {L} patches visible and hide at least one, got {config.mask_ratio}"
        )
    if config.network == "transformer" and (config.width % 4 or config.decoder_width % 4):
        raise ValueError(
            f"width and decoder_width must be multiples of 4 (sines and cosines of two axes), got {config.width} and {config.decoder_width}"
        )
    return L, visible


def build(config: Config, dataset: Dataset, *, seed: int) -> System:
    """The network and what `minigen train`, `sample` and `tour` do with it.

    Raises ValueError for settings that do not fit the data.
    """
    L, visible = check(config, dataset)
    (h, w, c), p = dataset.shape, config.patch
    P = p * p * c
    rng = np.random.default_rng(seed)
    net = (
        PatchMLP(L, P, config, rng=rng)
        if config.network == "mlp"
        else PatchTransformer(h // p, w // p, P, config, rng=rng)
    )

    def patches_of(images: Any) -> Any:
        """Scaled images as patches, on the network's device."""
        return array_module(net.embed.w.data).asarray(patchify(images, p))

    def masks_for(n: int, visible: int, rng: Any) -> Masks:
        return random_masks(array_module(net.embed.w.data).asarray(rng.random((n, L))), visible)

    def loss(batch: Split, rng: Any, step: int) -> tuple[Any, dict[str, float]]:
        images = shift(batch.images, rng=rng, p=config.shift) if config.shift else batch.images
        patches = patches_of(dataset.scale(images))
        masks = masks_for(len(patches), visible, rng)
        target = normalise(patches) if config.norm_target else patches
        return masked_loss(net(patches, masks, rng), target, masks.hidden), {}

    def stages() -> list[Stage]:
        return [
            Stage(
                name="masked_ae",
                objectives=[Objective("fill", net, loss)],
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

    def sample(n: int, *, rng: Any, steps: int | None = None, callback: Any = None) -> Any:
        """``n`` pictures after ``steps`` rounds (``sample_steps`` if None) from pixel noise: see "What is drawn"."""
        steps = config.sample_steps if steps is None else steps
        if steps < 1:
            raise ValueError(f"steps must be at least 1 round, got {steps}")
        patches = patches_of((2 * rng.random((n, h, w, c)) - 1).astype(np.float32))
        for t in range(steps, -1, -1):
            if callback is not None:
                callback(t, unpatchify(patches, (h, w, c), p))
            if t:
                patches = fill_in(net, patches, masks_for(n, visible, rng), norm_target=config.norm_target).clip(-1, 1)
        return unpatchify(patches, (h, w, c), p)

    def figures(dataset: Dataset, *, rng: Any) -> dict[str, float]:
        """Error in hidden patches of at most 512 test pictures (four masks each if they have few patches), and of fills
        that need no network.

        On the scale from 0 to 1, so a quarter of the squared error on [-1, 1].
        """
        test = dataset.scale(dataset.test.images[:512])
        test = np.repeat(test, 4 if L <= 16 else 1, axis=0)
        mean, cov = gaussian_fit(dataset.scale(dataset.train.images[:4096]).reshape(-1, h * w * c))
        patches, flat = patchify(test, p), test.reshape(len(test), -1)
        told = " told each hidden patch's mean and variance" if config.norm_target else ""
        found = {}
        for count in sorted({visible, L // 4, L // 2} - {0}):
            masks = masks_for(len(test), count, rng)
            filled = to_numpy(fill_in(net, patches_of(test), masks, norm_target=config.norm_target))
            hidden = np.broadcast_to(to_numpy(masks.hidden)[:, :, None] == 1, patches.shape)
            shown = unpatchify(~hidden, (h, w, c), p).reshape(len(test), -1)
            fills = {
                f"filled in{told}": unpatchify(filled, (h, w, c), p).reshape(len(test), -1),
                "linear regression": linear_fill(flat, shown, mean, cov),
                "training mean": mean_fill(flat, shown, mean),
                "black": np.where(shown, flat, -1.0),
            }
            for name, x in fills.items():
                found[f"{name}, {count} of {L} visible, MSE (black 0, white 1)"] = float(
                    np.square(x - flat)[~shown].mean() / 4
                )
        return found

    def reconstruction(split: Split, *, rng: Any) -> Any:
        """Three rows: originals, the same with hidden patches in grey, the same filled in."""
        x = dataset.scale(split.take(rng.permutation(len(split))[:12]).images)
        patches = patches_of(x)
        masks = masks_for(len(x), visible, rng)
        shown = patches * (1 - masks.hidden[:, :, None])
        filled = fill_in(net, patches, masks, norm_target=config.norm_target)
        return np.stack([to_numpy(unpatchify(a, (h, w, c), p)) for a in (patches, shown, filled)]).clip(-1, 1)

    pictures = {"reconstruction": reconstruction}
    return System(config, dataset.name, (h, w, c), {"network": net}, stages, sample, figures, pictures)
