"""Autoencoders: holes between the codes, and how much to mask."""

import numpy as np

from minigen.claims.ledger import Claim, Setting
from minigen.claims.trained import rng_of, trained
from minigen.data import Dataset
from minigen.metrics.probe import linear_probe
from minigen.metrics.ruler import load_ruler
from minigen.models import autoencoder, masked_ae, vae

N = 512  # samples in every comparison
STEPS = 600  # of each of its trainings: the ledger compares, it does not polish
RATIOS = {"25 %": 0.25, "50 %": 0.5, "75 %": 0.75}


def holes(setting: Setting) -> dict[str, float]:
    """Share accepted as a digit: copies of test pictures, codes halfway between two of them, codes from one Gaussian."""
    system, dataset = trained(autoencoder, setting)
    net, ruler, rng = system.modules["autoencoder"], load_ruler(dataset), rng_of(setting, "pairs")
    z = autoencoder.encode(net, dataset.scale(dataset.test.images[:N]))
    halfway = (z + z[rng.permutation(len(z))]) / 2
    pictures = {
        "copies of test pictures": autoencoder.decode(net, z).clip(-1, 1),
        "halfway between two": autoencoder.decode(net, halfway).clip(-1, 1),
        "drawn codes": system.sample(N, rng=rng_of(setting, "samples")),
    }
    return {name: float(ruler.accepted(dataset.scale(dataset.unscale(x))).mean()) for name, x in pictures.items()}


def holes_beside_vae(setting: Setting) -> dict[str, float]:
    """Share accepted: the autoencoder's drawn codes beside the VAE's mean pictures of codes from its prior."""
    system, dataset = trained(vae, setting)
    mean = system.sample(N, rng=rng_of(setting, "samples"), mean=True)
    accepted = float(load_ruler(dataset).accepted(dataset.scale(dataset.unscale(mean))).mean())
    return {"autoencoder, drawn codes": holes(setting)["drawn codes"], "VAE, codes from the prior": accepted}


def masking(setting: Setting) -> dict[str, float]:
    """Test accuracy of a linear probe on the encoder's features of whole pictures, by the share that training hid."""
    found = {}
    for label, ratio in RATIOS.items():
        system, dataset = trained(masked_ae, setting, mask_ratio=ratio, steps=STEPS)
        found[label] = probe_accuracy(system, dataset)
    return found


def probe_accuracy(system: object, dataset: Dataset) -> float:
    """Test accuracy of a linear probe on the masked autoencoder's features."""
    net, patch = system.modules["network"], system.config.patch  # type: ignore[attr-defined]
    of = [
        masked_ae.features(net, masked_ae.patchify(dataset.scale(s.images), patch))
        for s in (dataset.train, dataset.test)
    ]
    return linear_probe(of[0], dataset.train.labels, of[1], dataset.test.labels)


def masking_copied(setting: Setting) -> dict[str, float]:
    """Error in hidden patches when a quarter is visible, by the share that training hid; in (white - black)^2."""
    found = {}
    for label, ratio in RATIOS.items():
        system, dataset = trained(masked_ae, setting, mask_ratio=ratio, steps=STEPS)
        net, patch = system.modules["network"], system.config.patch
        patches = masked_ae.patchify(dataset.scale(dataset.test.images), patch)
        rng = rng_of(setting, "masks")
        masks = masked_ae.random_masks(rng.random(patches.shape[:2]), patches.shape[1] // 4)
        error = np.square(masked_ae.fill_in(net, patches, masks) - patches).mean(-1)
        found[label] = float((error * masks.hidden).sum() / masks.hidden.sum() / 4)
    return found


CLAIMS = [
    Claim(
        name="autoencoder-holes",
        systems=("autoencoder",),
        sentence="an autoencoder's latent space has holes",
        source="said of Hinton & Salakhutdinov 2006; Kingma & Welling 2013, 1312.6114",
        unit="share accepted as a digit",
        in_words="the accepted share of copies of test pictures minus that of drawn codes",
        experiment=holes,
        effect=lambda g: g["copies of test pictures"] - g["drawn codes"],
        smallest=0.05,
    ),
    Claim(
        name="vae-no-holes",
        systems=("autoencoder", "vae"),
        sentence="the VAE's prior fills the holes",
        source="Kingma & Welling 2013, 1312.6114",
        unit="share accepted as a digit",
        in_words="the accepted share of the VAE's mean pictures minus that of the autoencoder's drawn codes",
        experiment=holes_beside_vae,
        effect=lambda g: g["VAE, codes from the prior"] - g["autoencoder, drawn codes"],
        smallest=0.05,
    ),
    Claim(
        name="masking-75-features",
        systems=("masked_ae",),
        sentence="masking 75 % is what makes the masked autoencoder work (its features)",
        source="He et al. 2021, 2111.06377, figure 5",
        unit="test accuracy of a linear probe",
        in_words="the accuracy after masking 75 % minus the better one after 25 % and 50 %",
        experiment=masking,
        effect=lambda g: g["75 %"] - max(g["25 %"], g["50 %"]),
    ),
    Claim(
        name="masking-75-filling",
        systems=("masked_ae",),
        sentence="to fill in three quarters of a picture, one must train at masking 75 %",
        source="what a loss over the hidden patches says; He et al. 2021, 2111.06377",
        unit="error in hidden patches, white = 1, a quarter visible",
        in_words="the lower error after 25 % and 50 % minus the error after masking 75 %",
        experiment=masking_copied,
        effect=lambda g: min(g["25 %"], g["50 %"]) - g["75 %"],
    ),
]
