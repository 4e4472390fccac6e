"""truncate: the limit holds."""

import pytest

from textkit import words


@pytest.mark.parametrize("limit", range(1, 20))
def test_truncate_never_exceeds_the_limit(limit):
    assert len(words.truncate("one two three four five", limit=limit)) <= limit


def test_truncate_cuts_between_words():
    assert "one two…" == words.truncate("one two three", limit=10)
    assert "one two…" == words.truncate("one two three", limit=8)
    assert "incompre…" == words.truncate("incomprehensible", limit=9)


def test_truncate_refuses_a_limit_below_its_ellipsis():
    with pytest.raises(ValueError, match="no room"):
        words.truncate("one two", limit=2, ellipsis="...")
