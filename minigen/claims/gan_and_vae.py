"""GAN and VAE: fidelity against diversity.

All but the last use 512 samples of systems trained with their defaults and the test split of the digits. A
VAE is shown in the two ways that papers use: as the *mean* picture of its decoder, or as a *draw* from the decoder's
distribution.
"""

from typing import Any

from minigen.claims.ledger import Claim, Setting
from minigen.claims.trained import rng_of, trained
from minigen.data import Dataset
from minigen.data.rings import Rings
from minigen.metrics.clouds import normalised, overlap
from minigen.metrics.modes import ring_modes
from minigen.metrics.ruler import load_ruler
from minigen.metrics.sharpness import relative_sharpness
from minigen.models import gan, vae

N = 512  # samples, and real pictures, in every comparison


def samples(setting: Setting) -> tuple[dict[str, Any], Dataset]:
    """512 pictures each of the GAN and of the VAE in its two ways, rounded to grey levels, and the data set."""
    one, dataset = trained(gan, setting)
    two, _ = trained(vae, setting)
    drawn = {
        "GAN": one.sample(N, rng=rng_of(setting, "GAN")),
        "VAE, mean": two.sample(N, rng=rng_of(setting, "VAE"), mean=True),
        "VAE, draw": two.sample(N, rng=rng_of(setting, "VAE"), mean=False),
    }
    return {name: dataset.scale(dataset.unscale(x)) for name, x in drawn.items()}, dataset


def flat(images: Any) -> Any:
    """Pictures as rows of pixels."""
    return images.reshape(len(images), -1)


def train_and_test(dataset: Dataset) -> tuple[Any, Any]:
    """As many training pictures as there are samples, and the test pictures."""
    return dataset.scale(dataset.train.images[:N]), dataset.scale(dataset.test.images[:N])


def sharp(setting: Setting) -> dict[str, float]:
    """Sharpness over that of the test pictures."""
    drawn, dataset = samples(setting)
    train, test = train_and_test(dataset)
    return {name: relative_sharpness(x, test) for name, x in ({"train": train} | drawn).items()}


def faithful(setting: Setting) -> dict[str, float]:
    """Share that the classifier with a reject class accepts as a digit."""
    drawn, dataset = samples(setting)
    ruler, (train, _) = load_ruler(dataset), train_and_test(dataset)
    return {name: float(ruler.accepted(x).mean()) for name, x in ({"train": train} | drawn).items()}


def covered(setting: Setting) -> dict[str, float]:
    """Coverage of the test split, in pixels."""
    drawn, dataset = samples(setting)
    train, test = train_and_test(dataset)
    return {name: overlap(flat(test), flat(x)).coverage for name, x in ({"train": train} | drawn).items()}


def recalled_in_pixels(setting: Setting) -> dict[str, float]:
    """Recall of the test split, in pixels."""
    drawn, dataset = samples(setting)
    train, test = train_and_test(dataset)
    return {name: overlap(flat(test), flat(x)).recall for name, x in ({"train": train} | drawn).items()}


def recalled_in_features(setting: Setting) -> dict[str, float]:
    """Recall of the test split, in the ruler's normalised features."""
    drawn, dataset = samples(setting)
    ruler = load_ruler(dataset)
    train, test = (normalised(ruler.features(x)) for x in train_and_test(dataset))
    found = {"train": train} | {name: normalised(ruler.features(x)) for name, x in drawn.items()}
    return {name: overlap(test, x).recall for name, x in found.items()}


RING = {
    "steps": 2000,
    "batch_size": 64,
    "latent": 8,
    "width": 128,
    "critic_steps": 1,
}  # the same for every game on the ring
GAMES = {
    "saturating": {"loss": "saturating", "r1": 0.0},
    "non-saturating": {"loss": "non-saturating", "r1": 0.0},
    "non-saturating, R1": {"loss": "non-saturating", "r1": 1.0},
    "WGAN-GP": {"loss": "wgan-gp", "gradient_penalty": 1.0},
}


def modes(setting: Setting) -> dict[str, float]:
    """Modes of eight found by 2,000 points of each game's generator."""
    found = {}
    for name, changes in GAMES.items():
        system, _ = trained(gan, setting, data="rings", **RING, **changes)
        found[name] = float(ring_modes(Rings(), system.sample(2000, rng=rng_of(setting, "ring"))).found)
    return found


CLAIMS = [
    Claim(
        name="gan-sharp",
        systems=("gan", "vae"),
        sentence="a GAN is sharp, a VAE is blurred",
        source="Goodfellow et al. 2014, 1406.2661; Larsen et al. 2016, 1512.09300",
        unit="sharpness, in units of the test pictures'",
        in_words="the GAN's sharpness minus that of the VAE's mean pictures",
        experiment=sharp,
        effect=lambda g: g["GAN"] - g["VAE, mean"],
        smallest=0.05,
    ),
    Claim(
        name="gan-fidelity",
        systems=("gan", "vae"),
        sentence="a GAN draws more convincing pictures than a VAE",
        source="Larsen et al. 2016, 1512.09300",
        unit="share accepted as a digit",
        in_words="the GAN's accepted share minus that of the VAE's better way (mean or draw)",
        experiment=faithful,
        effect=lambda g: g["GAN"] - max(g["VAE, mean"], g["VAE, draw"]),
        smallest=0.02,
    ),
    Claim(
        name="gan-not-diverse",
        systems=("gan",),
        sentence="a GAN is not diverse",
        source="Arora & Zhang 2017, 1706.08224; Kynkäänniemi et al. 2019, 1904.06991",
        unit="coverage of the test pictures, in pixels",
        in_words="the coverage of as many training pictures minus the GAN's",
        experiment=covered,
        effect=lambda g: g["train"] - g["GAN"],
        smallest=0.02,
    ),
    Claim(
        name="vae-diverse-coverage",
        systems=("gan", "vae"),
        sentence="a VAE is more diverse than a GAN (coverage)",
        source="Naeem et al. 2020, 2002.09797",
        unit="coverage of the test pictures, in pixels",
        in_words="the coverage of the VAE's better way minus the GAN's",
        experiment=covered,
        effect=lambda g: max(g["VAE, mean"], g["VAE, draw"]) - g["GAN"],
        smallest=0.02,
    ),
    Claim(
        name="vae-diverse-pixels",
        systems=("gan", "vae"),
        sentence="a VAE is more diverse than a GAN (recall in pixels)",
        source="Kynkäänniemi et al. 2019, 1904.06991",
        unit="recall of the test pictures, in pixels",
        in_words="the recall of the VAE's draws minus the GAN's",
        experiment=recalled_in_pixels,
        effect=lambda g: g["VAE, draw"] - g["GAN"],
        smallest=0.02,
    ),
    Claim(
        name="vae-diverse-features",
        systems=("gan", "vae"),
        sentence="a VAE is more diverse than a GAN (recall in features)",
        source="Kynkäänniemi et al. 2019, 1904.06991",
        unit="recall of the test pictures, in normalised features",
        in_words="the recall of the VAE's draws minus the GAN's",
        experiment=recalled_in_features,
        effect=lambda g: g["VAE, draw"] - g["GAN"],
        smallest=0.02,
    ),
    Claim(
        name="gan-drops-modes",
        systems=("gan",),
        sentence="a plain GAN drops modes, a penalty on the discriminator's gradient keeps them",
        source="Metz et al. 2017, 1611.02163; Gulrajani et al. 2017, 1704.00028; Mescheder et al. 2018, 1801.04406",
        unit="modes found of 8 on a ring",
        in_words="modes of the non-saturating game with R1 minus those without",
        experiment=modes,
        effect=lambda g: g["non-saturating, R1"] - g["non-saturating"],
        smallest=0.5,
    ),
]
