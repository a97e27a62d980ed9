"""How annotations are checked while testing: beartype, with an int allowed where a float is asked for (PEP 484's tower).

jaxtyping, which compares the shapes, takes 30 microseconds a call. It is left out of functions whose annotations name
no shapes, many of which are called in a sampler's every step: for these beartype alone checks the same.
"""

import inspect
from collections.abc import Callable
from typing import Any

import jaxtyping
from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
_with_shapes = jaxtyping.jaxtyped


def jaxtyped(*given: Any, typechecker: Callable[..., Any]) -> Any:
    """jaxtyping's decorator, but for a function without shapes the type checker itself."""
    if not given:
        return lambda checked: jaxtyped(checked, typechecker=typechecker)
    (checked,) = given
    if inspect.isfunction(checked) and not any(map(_may_name_shapes, checked.__annotations__.values())):
        return typechecker(checked)
    return _with_shapes(checked, typechecker=typechecker)


def _may_name_shapes(annotation: Any) -> bool:
    return isinstance(annotation, str) or "jaxtyping" in repr(annotation)


jaxtyping.jaxtyped = jaxtyped  # which its import hook puts on every function and class
