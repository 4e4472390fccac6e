"""wrap: words longer than the width."""

import pytest

from textkit import lines

TEXT = "see https://example.org/a/very/long/address for more"


@pytest.mark.parametrize("width", [1, 2, 7, 20, 39])
def test_wrap_never_exceeds_the_width(width):
    wrapped = lines.wrap(TEXT, width=width)

    assert max(len(line) for line in wrapped) <= width
    assert TEXT.replace(" ", "") == "".join(wrapped).replace(" ", "")


def test_wrap_cuts_a_long_word_into_full_lines():
    assert ["a", "bcde", "fghi"] == lines.wrap("a bcdefghi", width=4)


def test_wrap_goes_on_after_the_last_piece():
    assert ["abcd", "ef g", "h"] == lines.wrap("abcdef g h", width=4)
