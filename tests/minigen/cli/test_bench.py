"""`python -m minigen.bench`: what it says without measuring."""

import pytest

from minigen import bench


def test_the_list_has_a_line_for_every_step(capsys: pytest.CaptureFixture[str]):
    assert bench.main(["--list"]) == 0
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert names == list(bench.GOALS)
    assert bench.main(["--list", "mlp"]) == 0
    assert capsys.readouterr().out.startswith("mlp      784-512-512-10")


def test_a_file_that_cannot_be_written_is_refused_before_the_measurement(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stopped:
        bench.main(["import", "--json", "/nowhere/x.json"])
    assert stopped.value.code == 2 and "--json: there is no folder /nowhere" in capsys.readouterr().err
