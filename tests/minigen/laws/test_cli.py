"""`minigen laws`: verdicts and exit status for ours and for a stranger's file; mistakes in one sentence."""

import json

import pytest

from minigen.cli import laws
from minigen.errors import UserError

STRANGER = """
class Mine:
    space, claims = "flow", {"calls": "n", "draws": "0", "point": True}

    def levels(self, n):
        return [(k / n, 1 - k / n, k / n) for k in range(n, -1, -1)]

    def sample(self, model, x, n, noise):
        for k in range(n, 0, -1):
            x = x - model(x, k / n) * FACTOR / n
        return x
"""


@pytest.mark.parametrize("factor, status", [("1", 0), ("1.01", 1)])
def test_a_stranger_s_file(factor, status, tmp_path, monkeypatch, capsys):
    name = f"stranger_{status}"
    (tmp_path / f"{name}.py").write_text(STRANGER.replace("FACTOR", factor))
    monkeypatch.chdir(tmp_path)
    assert laws.main([f"{name}:Mine", "--json", "out.json"]) == status
    told = json.loads((tmp_path / "out.json").read_text())
    assert bool(told["counts"]["fail"]) == bool(status) and told["counts"]["skip"] > 0
    assert "not claimed: eta" in capsys.readouterr().out


def test_one_law_on_one_of_ours_and_the_list(capsys):
    assert laws.main(["dpmpp-2m", "--law", "L14", "--dtype", "float64"]) == 0
    assert "dpmpp-2m (karras): 1 pass, 0 fail, 0 skipped" in capsys.readouterr().out
    assert laws.main(["--list"]) == 0
    assert "L8   Gaussian data: every moment exact" in capsys.readouterr().out
    assert laws.main(["--list", "--law", "L8"]) == 0
    assert "recursion of `transition`" in capsys.readouterr().out


@pytest.mark.parametrize(
    "args, words",
    [
        (["ddpm"], "unknown sampler 'ddpm': use ancestral"),
        (["ddpm"], "or what else has laws: discrete, sequence, filter"),
        (["slerp", "--config", "foo=1"], "'foo' is no setting here"),
        (["slerp", "--config", "foo={[]: 1}"], "'foo' is no setting here"),
        (["slerp", "--sweep", "N=2,3"], "--sweep N=... is for samplers that walk levels"),
        (["slerp", "--law", "L6"], "nothing was checked: L6 (a law of vp, sigma, flow, not of slerp)"),
        (["no_such_module_here:X"], "cannot import 'no_such_module_here'"),
        (["json:Nothing"], "'json' has no 'Nothing'"),
        (["json:JSONDecoder"], "a sampler must have a method levels"),
        (["json:__name__"], "is no sampler"),
        (["ddim", "--law", "L99"], "unknown law 'L99'"),
        (["ddim", "--dtype", "int8"], "--dtype must be float64 or float32"),
        (["ddim", "--law", "L2", "--json", "/no/such/folder/x.json"], "cannot write /no/such/folder/x.json"),
    ],
)
def test_mistakes_are_said_in_one_sentence(args, words):
    with pytest.raises(UserError) as told:
        laws.main(args)
    assert words in str(told.value) and "\n" not in str(told.value)
