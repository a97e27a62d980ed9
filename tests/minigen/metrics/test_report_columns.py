"""Columns of the report from their definitions: which split, which classifier, which order, which threshold."""

import copy
from dataclasses import replace

import numpy as np
import pytest

from minigen.metrics.frechet import frechet_distance
from minigen.metrics.report import quality


@pytest.fixture(scope="module")
def few(digits):
    """Fewer images, and another mixture of classes in the training split than in the test split."""
    train = digits.train.take(np.flatnonzero(digits.train.labels % 3 != 1)[:200])
    return replace(digits, train=train, val=digits.val.take(slice(0, 80)), test=digits.test.take(slice(0, 150)))


def figures(few, ruler, levels):
    return quality(few, few.scale(levels), ruler, rng=np.random.default_rng(0))


def answering(ruler, logits):
    """The ruler with a plain classifier that says the same of every image; its twin is as it was."""
    ruler = copy.deepcopy(ruler)
    ruler.plain.head.w.data[...], ruler.plain.head.b.data[...] = 0, logits
    return ruler


def test_class_kl_is_that_of_the_samples_from_the_training_labels(few, tiny_ruler):
    """All samples in one class, of which training has the share q: -ln q. No share of a class is 0 / 0 in that order."""
    row = figures(few, answering(tiny_ruler, 9.0 * np.eye(10)[3]), few.val.images)
    assert row["class_kl"] == pytest.approx(-np.log((few.train.labels == 3).mean()), rel=1e-12)
    assert (row["classes"], row["min_class"]) == (1, 0)
    assert figures(few, answering(tiny_ruler, 9.0 * np.eye(10)[4]), few.val.images)["class_kl"] == np.inf


def test_fd_train_is_the_distance_to_the_whole_training_split(few, tiny_ruler):
    whole, half = (figures(few, tiny_ruler, few.train.images[:n])["fd_train"] for n in (200, 100))
    other = figures(few, tiny_ruler, few.val.images)
    ours, train = (tiny_ruler.features(few.scale(x)) for x in (few.val.images, few.train.images))
    assert whole < 1e-6 * half and other["fd_train"] == frechet_distance(ours, train) != other["fd_test"]


@pytest.mark.parametrize(("share", "confident"), [(0.89, 0), (0.91, 1)])
def test_confident_is_the_plain_classifier_above_90_percent(few, tiny_ruler, share, confident):
    logit = np.log(9 * share / (1 - share))  # beside nine zeros
    row = figures(few, answering(tiny_ruler, logit * np.eye(10)[0]), few.val.images)
    assert row["confident"] == confident
    assert row["accepted"] == figures(few, tiny_ruler, few.val.images)["accepted"] > 0
