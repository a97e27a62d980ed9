r"""What a latent diffusion model is told in words, $\tau_\theta(y)$. Rombach et al. 2022, arXiv 2112.10752, section 3.3 and appendix E.2.1.

The paper trains a transformer over the caption together with the U-Net, Stable Diffusion reads the caption with a frozen CLIP. Here
both speak: CLIP knows from the first step what goes together, but its vectors are made to tell pictures apart, and which word
carries which attribute is blurred in them; the small transformer learns what is missing from eq. 3 itself.

| symbol | code | shape |
|---|---|---|
| $y$ | ``tokens`` | (n, t) |
| $c(y)$, words as CLIP's text network reads them; that of <eos> | ``words``; ``vector`` | (n, t, c); (n, c) |
| $e(y)$, a transformer's, trained | `Words` | (n, t, c) |

$$\tau_\theta(y) = c(y) + e(y) \qquad (1)$$

**What is not the paper's.** The sum: it takes one or the other.

Details that matter, and the tests that guard them (tests/minigen/models/test_stable_diffusion.py):
- padding is attended to by nobody, neither here nor in the U-Net;
- the vector is that of the last word, and a row's own, however long the other captions are;
- the null prompt is the empty caption as both read it, not zeros.
"""

from typing import Any, NamedTuple

import numpy as np

import autograd as ag
from kernels.backend import to_numpy
from minigen.nn import Embedding, Module, TextUNet, Transformer, init
from minigen.nn.module import parameter

from . import clip, glide


class Told(NamedTuple):
    """What the U-Net is told besides the time, with a row a sample."""

    vector: Any  # (n, c), of the last word
    words: Any  # (n, t, c)
    mask: Any  # (n, t), which of them are words
    beside: Any = None  # (n, h, w, d), maps that lie beside the noisy one
    tokens: Any = None  # (n, t)


def read(text: clip.Embedder, prompts: Any, *, penultimate: bool = False, beside: Any = None) -> Told:
    """Prompts (strings, or rows of tokens) as CLIP's text network reads them, after its last block or the one before, and its last norm."""
    tokens = text.net.read(prompts)
    if not penultimate:
        return Told(*glide.read(text, tokens, beside), tokens)
    tower = text.net.text
    with ag.no_grad():
        h = tower.embed(tokens) + tower.positions[: tokens.shape[1]]
        for block in tower.transformer.blocks[:-1]:
            h = block(h, causal=True)
        words = ag.raw(tower.transformer.norm(h))
    mask = tokens != text.net.tokenizer.pad
    return Told(words[np.arange(len(words)), last(mask)], words, mask, beside, tokens)


def last(mask: Any) -> Any:
    """Where the last word of each row of the mask (n, t) is: (n,)."""
    return to_numpy(mask).sum(1) - 1


class Words(Module):
    """$e(y)$: a transformer that sees the whole caption, both ways."""

    def __init__(self, vocabulary: int, length: int, channels: int, *, layers: int, heads: int = 4, rng: Any):
        self.embed = Embedding(vocabulary, channels, rng=rng)
        self.positions = parameter(init.normal((length, channels), 0.5, rng))
        self.transformer = Transformer(channels, layers, heads, rng=rng)

    def forward(self, tokens: Any, mask: Any) -> Any:
        """Tokens and which of them are words (n, t) -> (n, t, c)."""
        return self.transformer(self.embed(tokens) + self.positions[: tokens.shape[1]], key_mask=mask)


class LatentUNet(Module):
    """A `TextUNet` and the words that are trained with it."""

    def __init__(self, unet: TextUNet, words: Words | None):
        self.unet, self.words = unet, words

    def forward(
        self, z_t: Any, t: Any, vector: Any, words: Any, mask: Any, beside: Any = None, tokens: Any = None
    ) -> Any:
        """(n, h, w, d), (n,) and the parts of `Told` -> like ``z_t``."""
        if self.words is not None:  # eq. 1
            e = self.words(tokens, mask)
            vector, words = vector + e[np.arange(len(tokens)), last(mask)], words + e
        return self.unet(z_t, t, vector, words, mask, beside)
