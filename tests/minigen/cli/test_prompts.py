"""`minigen sample SYSTEM --prompts N`: the report over prompts, for systems that draw what a prompt says."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from minigen.cli import sample
from minigen.data import shapes
from minigen.data.captions import parse
from minigen.errors import UserError

FLAGS = sample.SampleFlags(Path("weights.safetensors"), prompts=5)


def test_the_report_is_printed_for_the_settings_but_their_prompt(capsys: pytest.CaptureFixture[str]):
    asked = []

    def paint(prompts, *, rng, rerank):
        asked.extend(prompts)
        assert rerank == 3
        return shapes.render(shapes.arrange([parse(text) for text in prompts], rng=rng)) / np.float32(127.5) - 1

    sample.print_prompts(SimpleNamespace(paint=paint), FLAGS, {"prompt": "a red circle", "rerank": 3})
    lines = capsys.readouterr().out.splitlines()
    assert len(asked) == 20 and "a red circle" not in asked
    assert [line.split("  ")[0] for line in lines[1:]] == [
        "seen, one thing",
        "seen, two things",
        "held out, one thing",
        "held out, two things",
    ]
    assert all("1.000 ± 0.139" in line for line in lines[1:])


def test_a_system_without_prompts_and_settings_that_do_not_fit_are_one_sentence():
    with pytest.raises(UserError, match="--prompts is for systems that draw what a prompt says"):
        sample.check(SimpleNamespace(paint=None), SimpleNamespace(shape=(8, 8, 1)), FLAGS, [])

    def paint(prompts, *, rng):
        raise ValueError("rerank must be at least 1, got 0")

    with pytest.raises(UserError, match="rerank must be at least 1, got 0"):
        sample.print_prompts(SimpleNamespace(paint=paint), FLAGS, {})
