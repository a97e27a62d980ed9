"""What the commands write with ``--device cuda`` is what they write without; the GPU's arrays are a stand-in's."""

from pathlib import Path
from typing import Any

import cupy_on_cpu
import numpy as np
import pytest
import systems
from PIL import Image

from minigen.__main__ import main
from minigen.cli import quality


def flags(name: str) -> list[str]:
    """The small configuration of a system, as a command line has it."""
    said = ((f"--{key.replace('_', '-')}", value) for key, value in systems.SMALL[name].items())
    return [str(x) for flag, value in said for x in (flag, *(value if isinstance(value, tuple) else (value,)))]


@pytest.fixture
def of_ddpm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> Any:
    """All that DDPM writes on a device: the pictures, and what is said."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(quality, "SAMPLES", 64)
    monkeypatch.setattr(quality, "known", lambda dataset: (None, {}))
    monkeypatch.setattr("minigen.metrics.report.chance", lambda dataset, ruler, **how: (1.0, 0.25))
    flow = lambda model, x_0, *args, **how: x_0.reshape(len(x_0), -1).mean(1)  # noqa: E731  by the definitions it takes a minute
    monkeypatch.setattr("minigen.models.ddpm.bits_per_dim", flow)
    measured = lambda dataset, samples, *, seed: {"these samples": {"fd_ratio": dataset.unscale(samples).mean()}}  # noqa: E731
    monkeypatch.setattr(quality, "figures", measured)

    def run(device: str) -> tuple[dict[str, Any], str]:
        there = ("--weights", f"{device}/weights.safetensors", "--device", device)
        assert main(["train", "ddpm", "--out", device, "--device", device, *flags("ddpm")]) == 0
        capsys.readouterr()
        assert main(["sample", "ddpm", *there, "--n", "8", "--out", "x.png", "--trajectory", "--quality"]) == 0
        assert main(["edit", "ddpm", "test:3", "--mask", "0:4,0:8", *there, "--out", "y.png"]) == 0
        files = sorted(tmp_path.glob("*.png"))
        return {file.name: np.asarray(Image.open(file), np.int16) for file in files}, capsys.readouterr().out

    return run


def test_pictures_figures_and_edits_are_those_of_the_cpu(of_ddpm: Any):
    pictures, said = of_ddpm("cpu")
    with cupy_on_cpu.installed(kernels=False):
        also, heard = of_ddpm("cuda")
    assert len(pictures) >= 3 and "FD x" in said
    assert heard == said
    for name, picture in pictures.items():
        assert np.abs(also[name] - picture).max() <= 20, name  # grey levels of 17: a rounding may move one


def test_grey_levels_of_pictures_on_a_gpu_are_numpys():
    digits = systems.data_of("ddpm")
    x = digits.scale(digits.test.images[:3])
    np.testing.assert_array_equal(digits.unscale(cupy_on_cpu.asarray(x)), digits.test.images[:3])
