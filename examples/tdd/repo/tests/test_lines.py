"""lines: wrap, indent and number."""

import pytest

from textkit import lines


def test_wrap_breaks_between_words():
    assert ["one two", "three"] == lines.wrap("one two three", width=8)


def test_wrap_joins_all_white_space():
    assert ["a b c"] == lines.wrap("a\n b\t c", width=10)


def test_wrap_of_nothing_is_no_line():
    assert [] == lines.wrap("  ", width=10)


def test_wrap_refuses_a_width_below_one():
    with pytest.raises(ValueError, match="at least 1"):
        lines.wrap("text", width=0)


def test_indent_skips_blank_lines():
    assert "  a\n\n  b" == lines.indent("a\n\nb", prefix="  ")


def test_number_lines_aligns_the_numbers():
    assert " 9  a\n10  b" == lines.number_lines("a\nb", start=9)
