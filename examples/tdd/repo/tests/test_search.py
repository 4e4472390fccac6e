"""search: distance, similarity, closest."""

import pytest

from textkit import search


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [("", "abc", 3), ("kitten", "sitting", 3), ("same", "same", 0), ("flaw", "lawn", 2)],
)
def test_distance_counts_edits(left, right, expected):
    assert expected == search.distance(left, right)


def test_similarity_is_one_for_equal_texts():
    assert 1.0 == search.similarity("", "")
    assert 0.75 == search.similarity("word", "ward")


def test_closest_finds_the_nearest_word():
    assert "commit" == search.closest("comit", ["branch", "commit", "merge"])


def test_closest_finds_nothing_far_away():
    assert search.closest("xyz", ["branch", "merge"]) is None
