import sys

import pytest


@pytest.fixture
def module_here(tmp_path, monkeypatch):
    """``module_here(name, source)`` writes a module into the working folder of the test, where commands find it."""
    written = []

    def write(name, source):
        (tmp_path / f"{name}.py").write_text(source)
        monkeypatch.chdir(tmp_path)
        written.append(name)
        return name

    yield write
    for name in written:
        sys.modules.pop(name, None)
