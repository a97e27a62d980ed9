"""Strangers called ``autograd`` or ``kernels`` are refused by name."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", ["autograd", "kernels"])
def test_a_stranger_first_on_the_path_is_named(tmp_path, name):
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("grad = None\n")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    run = subprocess.run(
        [sys.executable, "-c", "import minigen"], env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert run.returncode != 0
    last = run.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: minigen needs its own package")
    assert str(tmp_path / name / "__init__.py") in last and f"pip uninstall {name}" in last


def test_importing_minigen_loads_nothing_heavy(tmp_path):
    code = "import sys, minigen; print([m for m in ('scipy', 'sklearn', 'matplotlib', 'rich', 'tyro', 'cupy') if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_a_folder_of_that_name_nearby_hides_nothing(tmp_path):
    """A script beside its clone: the clone's folder is called minigen too, and has no ``__init__.py``."""
    (tmp_path / "minigen").mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    code = "import minigen, autograd; print(minigen.load.__name__, autograd.__file__)"
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert run.stdout.split() == ["load", str(ROOT / "autograd" / "__init__.py")], run.stderr
