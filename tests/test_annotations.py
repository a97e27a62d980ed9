"""What the other tests lean on: annotations are checked while testing, those with shapes and those without."""

import numpy as np
import pytest
from beartype.roar import BeartypeCallHintParamViolation
from jaxtyping import TypeCheckError

from minigen.metrics.frechet import gaussian_distance
from minigen.metrics.prompts import standard_error


def test_shapes_in_annotations_are_compared():
    mean, cov = np.zeros(3), np.eye(3)
    assert gaussian_distance(mean, cov, mean, cov) == 0
    with pytest.raises(TypeCheckError, match="gaussian_distance"):
        gaussian_distance(mean, cov, np.zeros(2), cov)


def test_annotations_without_shapes_are_checked_too():
    assert standard_error(0.5, 100) == 0.05  # an int where a float is asked for
    with pytest.raises(BeartypeCallHintParamViolation, match="standard_error"):
        standard_error("a half", 100)
