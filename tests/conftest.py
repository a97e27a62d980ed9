"""Hypothesis profiles, and annotations that are checked while testing.

Profiles: ``dev`` (default), ``ci`` (repeatable), ``deep`` (long, random); choose with HYPOTHESIS_PROFILE.

The shapes in annotations are checked by beartype: in the rooms named in pyproject.toml for every function, in kernels
for the public functions of each operation (wrapping all the small functions inside would make the tests ten times
slower).
"""

import gc
import importlib
import inspect
import os
import pkgutil
import signal

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from jaxtyping import jaxtyped
from typecheck import check

import kernels

_common = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large]}
settings.register_profile("dev", max_examples=25, **_common)
settings.register_profile("ci", max_examples=50, derandomize=True, database=None, print_blob=True, **_common)
settings.register_profile("deep", max_examples=2000, **_common)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "dev"))

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a run in a shell's background ignores Ctrl-C, our tests do not
    signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # and nohup a closed terminal
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

for _info in pkgutil.iter_modules(kernels.__path__):
    if _info.ispkg:
        _module = importlib.import_module(f"kernels.{_info.name}")
        for _name, _function in inspect.getmembers(_module, inspect.isfunction):
            if _function.__module__ == _module.__name__ and not _name.startswith("_"):
                setattr(_module, _name, jaxtyped(_function, typechecker=check))


def pytest_addoption(parser):
    parser.addoption("--beside", choices=["gpu", "stand-in"], help="run emulated kernels on a GPU too: see beside.py")


def pytest_configure(config):
    if config.getoption("--beside"):
        import beside

        beside.install(config.getoption("--beside"))


def pytest_collection_finish():
    gc.collect()
    gc.freeze()  # what thousands of tests are made of stays to the end: the collector need not look at it again and again


def pytest_sessionfinish(session):
    if session.config.getoption("--beside") and hasattr(session.config, "workeroutput"):  # one of several processes
        import beside

        session.config.workeroutput["beside"] = beside.collected()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    if node.config.getoption("--beside"):
        import beside

        beside.add(*getattr(node, "workeroutput", {}).get("beside", ({}, {})))


def pytest_terminal_summary(terminalreporter, config):
    if config.getoption("--beside"):
        import beside

        for line in beside.report():
            terminalreporter.write_line(line)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
