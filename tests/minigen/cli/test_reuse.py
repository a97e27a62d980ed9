"""`minigen train SYSTEM --clip FILE`: a CLIP that is trained already takes the place of the first stage."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minigen.__main__ import main
from minigen.data import load
from minigen.models import clip, dalle2
from minigen.train import checkpoint

SMALL = [
    "--prior-steps", "1", "--ar-steps", "0", "--steps", "2", "--paint-steps", "0", "--upsample", "0", "--base", "8", "--channels", "8",
    "--layers", "1", "--heads", "2", "--batch-size", "2", "--sample-steps", "2", "--prior-sample-steps", "2", "--samples-every", "0",
]  # fmt: skip


def weights(
    path: Path, config: clip.Config, *, data: str = "shapes", shape: tuple[int, ...] = (32, 32, 3)
) -> dict[str, Any]:
    """A weights file as 'minigen train clip' leaves it, without the training; returns its arrays."""
    net = clip.CLIP((32, 32, 3), config, rng=np.random.default_rng(3))
    arrays = {f"clip/{name}": array for name, array in net.arrays().items()}
    about = {"name": data, "shape": shape, "levels": 256, "classes": []}
    said = {"kind": "weights", "system": "clip", "config": dataclasses.asdict(config), "seed": 3, "dataset": about}
    checkpoint.save(path, arrays, said)
    return arrays


def test_clip_comes_from_the_file_stays_as_it_is_and_is_not_needed_to_go_on(inside: Path, capsys: Any):
    arrays = weights(Path("clip.safetensors"), clip.Config())
    assert main(["train", "dalle2", "--clip", "clip.safetensors", *SMALL]) == 0
    assert "trained 3 steps" in capsys.readouterr().out, "those of the prior and the decoder"
    system = dalle2.build(dataclasses.replace(dalle2.Config(), clip_steps=0), load("shapes"), seed=0)
    with checkpoint.opened(Path("out/dalle2/weights.safetensors"), kind="weights") as reader:
        assert reader.about["config"]["clip_steps"] == 0
        expected = {f"clip/{name}": array for name, array in system.modules["clip"].arrays().items()}
        found = reader.arrays(expected, within="clip/")
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
    assert main(["train", "dalle2", "--resume"]) == 0
    Path("clip.safetensors").unlink()
    assert main(["train", "dalle2", "--resume"]) == 0
    assert main(["sample", "dalle2", "--n", "1"]) == 0


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--clip", "none.safetensors"], "none.safetensors"),
        (["--clip", "narrow.safetensors"], "--clip must hold a CLIP of the width and build of this model's: narrow"),
        (["--clip", "noisy.safetensors"], "--clip must hold a CLIP of the width and build of this model's: noisy"),
        (
            ["--clip", "digits.safetensors"],
            "learnt from 'digits' of shape (32, 32, 3), not from 'shapes' of shape (32, 32, 3)",
        ),
        (["--clip", "toy.safetensors"], "toy.safetensors holds no CLIP, it belongs to the system 'toy'"),
        (["--clip-steps", "0"], "--clip-steps 0 needs a CLIP that is trained already: give its weights by --clip FILE"),
        (["--clip-steps", "0", "--resume"], "--clip-steps 0 needs a CLIP"),
    ],
)
def test_mistakes(inside: Path, refused: Any, args: list[str], said: str):
    weights(Path("narrow.safetensors"), clip.Config(width=64))
    weights(Path("noisy.safetensors"), clip.Config(noise_aware=True))
    weights(Path("digits.safetensors"), clip.Config(), data="digits")
    about = {"name": "shapes", "shape": (32, 32, 3), "levels": 256, "classes": []}
    checkpoint.save(
        Path("toy.safetensors"), {"net/w": np.zeros(3)}, {"kind": "weights", "system": "toy", "dataset": about}
    )
    assert said in refused("train", "dalle2", *args, *SMALL)


def test_only_systems_that_stand_on_a_clip_have_the_flag(inside: Path, refused: Any):
    assert "--clip" in refused("train", "vae", "--clip", "clip.safetensors")
