"""Recall at k by hand: ties, several right answers, and what cannot be ranked."""

import numpy as np
import pytest

from minigen.metrics.retrieval import ranks, recall_at

SCORES = np.array([[0.9, 0.5, 0.1], [0.5, 0.9, 0.1], [0.5, 0.5, 0.5], [0.2, 0.7, 0.7]])


def test_recall_by_hand():
    right = np.array([[1, 0, 0], [1, 0, 0], [1, 0, 0], [0, 0, 1]], bool)
    np.testing.assert_array_equal(ranks(SCORES, right), [0, 1, 2, 1])  # a tie with a wrong one is lost
    assert [recall_at(k, SCORES, right) for k in (1, 2, 3)] == [0.25, 0.75, 1.0]


def test_any_right_answer_is_a_hit():
    right = np.array([[0, 1, 1], [1, 1, 0], [1, 1, 1], [0, 1, 1]], bool)
    np.testing.assert_array_equal(ranks(SCORES, right), [1, 0, 0, 0])


def test_equal_candidates_are_right_together_or_lost_together():
    """Two copies of one caption: the first picture's own is level with the copy, so alone it is not found at 1."""
    scores = np.array([[0.8, 0.8], [0.8, 0.8]])
    assert recall_at(1, scores, np.eye(2, dtype=bool)) == 0
    assert recall_at(1, scores, np.ones((2, 2), bool)) == 1


def test_constant_scores_find_nothing():
    scores = np.zeros((5, 5))
    assert [recall_at(k, scores, np.eye(5, dtype=bool)) for k in (1, 4, 5)] == [0, 0, 1]


def test_what_cannot_be_ranked():
    right = np.eye(3, dtype=bool)
    with pytest.raises(ValueError, match="NaN has no rank"):
        ranks(np.full((3, 3), np.nan), right)
    with pytest.raises(ValueError, match="every query needs a right answer: number 1 has none"):
        ranks(np.zeros((3, 3)), right * [[1], [0], [1]] > 0)
    with pytest.raises(ValueError, match=r"one shape, got \(3, 3\) and \(2, 3\)"):
        ranks(np.zeros((3, 3)), right[:2])
    for items in (3, 0):
        with pytest.raises(ValueError, match=rf"at least one query, got shape \(0, {items}\)"):
            recall_at(1, np.zeros((0, items)), np.zeros((0, items), bool))
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        recall_at(0, np.zeros((3, 3)), right)
