"""One test a law: ``from minigen.laws.pytest import laws`` and ``test_mine = laws(MySampler())`` in a test file."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest

from .suite import choose
from .verdict import judge


def laws(sampler: Any, names: Iterable[str] | None = None, dtype: str = "float64") -> Callable[..., None]:
    """A test with a case a law; a law that is not claimed is skipped, with the reason."""
    chosen = choose(names)

    @pytest.mark.parametrize("law", chosen, ids=[law.name for law in chosen])
    def test(law: Any) -> None:
        verdict = judge(law, sampler, np.dtype(dtype))
        if verdict.status == "skip":
            pytest.skip(verdict.detail)
        if verdict.failed:
            numbers = "" if verdict.value is None else f": {verdict.value:.3g}, allowed {verdict.limit:.3g}"
            pytest.fail(f"{law.name}, {law.title}: {verdict.detail}{numbers}", pytrace=False)

    return test
