import os
import shutil

import pytest


@pytest.fixture(params=dict.fromkeys((os.environ.get("CXX") or "g++", "clang++")))
def each_compiler(request, monkeypatch):
    """The test runs with each of them that is there."""
    if not shutil.which(request.param.split()[0]):
        pytest.skip(f"needs {request.param}")
    monkeypatch.setenv("CXX", request.param)
