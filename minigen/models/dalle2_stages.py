"""How DALL-E 2's networks are trained once CLIP is: the priors, the decoder, painting, the up-samplers.

The losses are those of `dalle2_prior.py`, `dalle2_ar_prior.py` and `glide.py`; here is what they are given.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from minigen.data import Dataset, Split, shapes
from minigen.data.tokenizer import WordTokenizer

from . import dalle2_ar_prior, dalle2_decoder, dalle2_prior, dalle2_upsampler, glide
from .dalle import without_captions
from .dalle2_decoder import Told
from .dalle2_prior import Caption
from .system import Objective, Stage

FITTED = 4096  # training pictures to whose embeddings the buckets of the autoregressive prior are fitted


def after_clip(chain: Any, dataset: Dataset) -> list[Stage]:
    """How the priors, the decoder and the up-samplers are trained, in this order."""
    config, text, tokenizer, schedule = chain.config, chain.text, WordTokenizer(), chain.schedule

    def pictures(batch: Split) -> Any:
        return chain.device(dataset.scale(batch.images))

    def captions(batch: Split, left_out: Any) -> Caption:
        tokens, _ = tokenizer.batch(list(batch.captions or ()))
        return dalle2_prior.read(text, without_captions(tokens, tokenizer.null, left_out))

    def prior_loss(batch: Split, rng: Any, step: int) -> tuple[Any, dict[str, float]]:
        said = captions(batch, rng.random(len(batch)) < config.no_caption)
        z = text.encode_image(pictures(batch))
        return dalle2_prior.training_loss(lambda z_t, t: chain.prior(z_t, t, said), z, schedule, rng), {}

    def ar_loss(batch: Split, rng: Any, step: int) -> tuple[Any, dict[str, float]]:
        net: Any = chain.ar_prior
        if step == 0:
            some = dataset.train.take(slice(0, FITTED))
            net.fit(text.encode_image(pictures(some)), text.encode_text(list(some.captions or ())))
        left_out = rng.random(len(batch)) < config.no_caption
        z, said = text.encode_image(pictures(batch)), captions(batch, left_out)
        dot = np.where(left_out, net.dots, net.dot(z, said.z))
        tokens = net.tokens(z)
        return dalle2_ar_prior.negative_log_likelihood(net.logits(tokens, said, dot), tokens), {}

    def decoder_loss(batch: Split, rng: Any, step: int, masks: bool = False) -> tuple[Any, dict[str, float]]:
        x_0 = pictures(batch)
        no_image, no_text = (rng.random(len(batch)) < share for share in (config.no_image, config.no_text))
        z, said = dalle2_decoder.without_embeddings(text.encode_image(x_0), no_image), captions(batch, no_text)
        beside = glide.known_pixels(x_0, glide.random_masks(len(x_0), chain.shape[0], rng=rng)) if masks else None
        told = Told(z, glide.Told(said.vector, said.words, said.mask, beside, said.tokens))
        return glide.training_loss(lambda x_t, t: chain.decoder(x_t, t, told), x_0, chain.of_pixels, config, rng), {}

    def upsampling_loss(size: int) -> Callable[..., Any]:
        spoilt = dalle2_upsampler.softened if size == dalle2_upsampler.SIDES[1] else dalle2_upsampler.degraded

        def of_batch(batch: Split, rng: Any, step: int) -> tuple[Any, dict[str, float]]:
            large, low = (chain.device(dataset.scale(shapes.render(batch.scenes, s))) for s in (size, size // 2))
            large, low = dalle2_upsampler.cropped(large, spoilt(low, rng=rng), rng=rng)
            net = chain.upsamplers[size]
            return glide.training_loss(lambda x_t, t: net(x_t, t, low), large, schedule, config, rng), {}

        return of_batch

    def stage(name: str, net: Any, loss: Any, steps: int, **different: Any) -> Stage:
        return Stage(
            **{
                "name": name,
                "objectives": [Objective("x_0", net, loss)],
                "steps": steps,
                "batch_size": config.batch_size,
                "lr": config.lr,
                "warmup": min(100, steps // 10),
                "ema": config.ema,
                "max_norm": config.max_norm,
                "weight_decay": config.weight_decay,
                "optimiser": "muon",
                "betas": (0.9, 0.99),
                "schedule": "cosine",
                "shards": 2,
                **different,
            }
        )

    of_prior: dict[str, Any] = {"lr": config.prior_lr, "apart": ("caption", "time", "noised", "out")}
    of_decoder = {"apart": ("tokens", "unet.conv_in", "unet.conv_out", "unet.conv_beside")}
    found = [stage("prior", chain.prior, prior_loss, config.prior_steps, **of_prior)]
    if chain.ar_prior is not None:
        found.append(stage("ar_prior", chain.ar_prior, ar_loss, config.ar_steps, shards=1, **of_prior))
    found.append(stage("decoder", chain.decoder, decoder_loss, config.steps, **of_decoder))
    if config.paint_steps:
        painting = partial(decoder_loss, masks=True)
        found.append(stage("paint", chain.decoder, painting, config.paint_steps, lr=config.lr / 2, **of_decoder))
    ends = ("unet.conv_in", "unet.conv_out")
    for size, net in chain.upsamplers.items():
        how: dict[str, Any] = {"batch_size": config.upsample_batch, "apart": ends}
        found.append(stage(f"upsampler_{size}", net, upsampling_loss(size), config.upsample_steps, **how))
    return found
