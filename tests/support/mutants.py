"""Planted bugs: a module with one piece of its text changed."""

import inspect
import sys
import types


def mutant(module, old, new):
    """A copy of ``module`` in which the text ``old``, which stands there exactly once, is ``new``."""
    source = inspect.getsource(module)
    assert source.count(old) == 1, f"{old!r} stands {source.count(old)} times in {module.__name__}"
    copy = types.ModuleType(module.__name__ + "_mutant")
    copy.__package__, copy.__file__ = module.__package__, module.__file__
    sys.modules[copy.__name__] = copy  # dataclasses look their module up
    try:
        exec(compile(source.replace(old, new), str(module.__file__), "exec"), copy.__dict__)
    finally:
        del sys.modules[copy.__name__]
    return copy
