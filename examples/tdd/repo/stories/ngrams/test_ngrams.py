"""ngrams: overlapping runs."""

import pytest

from textkit import ngrams


def test_word_ngrams_overlap():
    assert [("to", "be"), ("be", "or")] == ngrams.word_ngrams("To be, or", n=2)


def test_letter_ngrams_can_be_padded():
    assert ["abc"] == ngrams.letter_ngrams("abc", n=3)
    assert ["  a", " ab", "ab ", "b  "] == ngrams.letter_ngrams("ab", n=3, padding=" ")


def test_ngrams_of_a_short_text_are_none():
    assert [] == ngrams.word_ngrams("alone", n=2)


def test_ngrams_refuse_a_length_below_one():
    with pytest.raises(ValueError, match="at least 1"):
        ngrams.letter_ngrams("abc", n=0)
