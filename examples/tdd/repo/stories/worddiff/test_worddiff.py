"""worddiff: differences by words."""

import pytest

from textkit import worddiff


def test_diff_marks_removed_and_added_words():
    assert "the [-quick-] {+slow+} fox" == worddiff.diff("the quick fox", "the slow fox")


def test_diff_joins_neighbours():
    assert "a {+b c+} d" == worddiff.diff("a d", "a b c d")


def test_diff_of_equal_sentences_has_no_mark():
    assert "as it was" == worddiff.diff("as it was", "as  it was")


@pytest.mark.parametrize(
    ("old", "new", "expected"), [("a b c d", "a x c d", 0.75), ("a", "b", 0.0), ("", "", 1.0)]
)
def test_kept_share_counts_equal_words(old, new, expected):
    assert expected == worddiff.kept_share(old, new)
