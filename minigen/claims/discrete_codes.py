"""Discrete codes: what keeps a codebook alive, and what a prior over the codes is worth."""

from typing import Any

import numpy as np

from minigen.claims.ledger import Claim, Setting
from minigen.claims.trained import QUICK, rng_of, trained
from minigen.metrics.ruler import load_ruler
from minigen.models import vq_vae

N = 512  # samples in every comparison
CODES = 256  # in the codebooks that may collapse
SHORT: dict[str, Any] = {"codes": CODES, "steps": 200, "prior_steps": 1}  # a codebook that collapses does so at once
RULES = {"gradient": "gradient", "averages": "average"}


def used(setting: Setting) -> dict[str, float]:
    """Codes used of 256, by the rule that moves the codebook; all but the last start at random."""
    ways: dict[str, dict[str, Any]] = {
        f"{name}, {revived}": {"rule": rule, "restart": share, "from_data": False}
        for name, rule in RULES.items()
        for revived, share in (("none revived", 0.0), ("revived", vq_vae.Config().restart))
    }
    ways["averages, none revived, started on data"] = {"rule": "average", "restart": 0.0}
    found = {}
    for name, changes in ways.items():
        system, dataset = trained(vq_vae, setting, **SHORT, **changes)
        codes = vq_vae.Codec(system.modules["codec"]).encode(dataset.scale(dataset.train.images))
        found[name] = float((vq_vae.usage(codes, CODES) > 0).sum())
    return found


def accepted(setting: Setting) -> dict[str, float]:
    """Share accepted as a digit: of uniform codes, of each place's code from another training picture, of the prior's,
    of copies.
    """
    changes: dict[str, Any] = {}
    if setting.quick:
        changes["prior_steps"] = vq_vae.Config().prior_steps // QUICK
    system, dataset = trained(vq_vae, setting, **changes)
    codec = vq_vae.Codec(system.modules["codec"])
    codes = codec.encode(dataset.scale(dataset.train.images))
    places = codes.reshape(len(codes), -1)
    picture = rng_of(setting, "independent").integers(0, len(places), (N, places.shape[1]))
    apart = np.take_along_axis(places, picture, axis=0).reshape(-1, *codec.grid)
    pictures = {
        "uniform codes": system.sample(N, rng=rng_of(setting, "samples"), prior="uniform"),
        "places on their own": codec.decode(apart),
        "PixelCNN": system.sample(N, rng=rng_of(setting, "samples")),
        "copies of test pictures": codec.decode(codec.encode(dataset.scale(dataset.test.images[:N]))),
    }
    ruler = load_ruler(dataset)
    return {name: float(ruler.accepted(dataset.scale(dataset.unscale(x))).mean()) for name, x in pictures.items()}


def revived_more(g: dict[str, float]) -> float:
    """The smaller of the two gains by reviving."""
    return min(g[f"{name}, revived"] - g[f"{name}, none revived"] for name in RULES)


CLAIMS = [
    Claim(
        name="restarts-prevent-collapse",
        systems=("vq_vae",),
        sentence="reviving dead codes prevents codebook collapse",
        source="Dhariwal et al. 2020, 2005.00341, section 3.1; Lancucki et al. 2020, 2005.08520",
        unit="codes used of 256",
        in_words="used codes with dead ones revived minus without, from a random start, by the rule that gains less",
        experiment=used,
        effect=revived_more,
        smallest=0.1 * CODES,
    ),
    Claim(
        name="prior-beats-uniform",
        systems=("vq_vae",),
        sentence="a learned prior over the codes draws better pictures than uniform codes",
        source="van den Oord et al. 2017, 1711.00937, section 3.3",
        unit="share accepted as a digit",
        in_words="the accepted share with the PixelCNN minus that with uniform codes",
        experiment=accepted,
        effect=lambda g: g["PixelCNN"] - g["uniform codes"],
        smallest=0.05,
    ),
    Claim(
        name="prior-knows-what-goes-together",
        systems=("vq_vae",),
        sentence="what counts in the prior is which codes go together, not how often each one stands where",
        source="what an autoregressive prior adds; van den Oord et al. 2017, 1711.00937",
        unit="share accepted as a digit",
        in_words="the accepted share with the PixelCNN minus that with each place's code from another training picture",
        experiment=accepted,
        effect=lambda g: g["PixelCNN"] - g["places on their own"],
        smallest=0.05,
    ),
]
