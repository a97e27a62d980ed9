"""One test per law: ``from minigen.laws.pytest import laws`` and ``test_mine = laws(MySampler())`` in a test file; or,
inside a test, `obeys`.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest

from . import protocol
from .suite import choose, report, run_laws, sound_dtype
from .verdict import judge


def laws(sampler: Any, names: Iterable[str] | str | None = None, dtype: str = "float64") -> Callable[..., None]:
    """A test with one case per law; a law that is not claimed is skipped, with the reason.

    Raises TypeError or ValueError, when the test file is imported, for what is no sampler, law or dtype.
    """
    protocol.check(sampler)
    kind = sound_dtype(dtype)
    chosen = [law for law in choose(names) if names is not None or sampler.space in law.spaces]

    @pytest.mark.parametrize("law", chosen, ids=[law.name for law in chosen])
    def test(law: Any) -> None:
        verdict = judge(law, sampler, kind)
        if verdict.status == "skip":
            pytest.skip(verdict.detail)
        if verdict.failed:
            numbers = (
                "" if verdict.value is None else f": {verdict.value:.3g} {verdict.what}, {verdict.limit:.3g} allowed"
            )
            pytest.fail(f"{law.name}, {law.title}: {verdict.detail}{numbers}", pytrace=False)

    return test


def obeys(subject: Any, names: Iterable[str] | str | None = None, dtypes: Sequence[str] | str = ("float64",)) -> None:
    """Raise AssertionError, with the report, if one of the laws fails or, where laws are named, does not apply.

    Not by ``pytest.fail``, which would drop the smallest case that hypothesis adds.
    """
    __tracebackhide__ = True
    verdicts = [*run_laws(subject, names, dtypes)]
    allowed = ("pass",) if names is not None else ("pass", "skip")
    if any(verdict.status not in allowed for verdict in verdicts):
        raise AssertionError(report(verdicts))
