"""morse: encode and decode."""

import pytest

from textkit import morse


def test_encode_parts_letters_and_words():
    assert "... --- ... / -. --- .--" == morse.encode("SOS now")


def test_decode_undoes_encode():
    assert "CQ DE K7ABC" == morse.decode(morse.encode("cq de k7abc"))


def test_morse_names_what_it_cannot_say():
    with pytest.raises(ValueError, match="'#'"):
        morse.encode("C#")
    with pytest.raises(ValueError, match=r"'\.\.\.\.\.\.\.'"):
        morse.decode(".......")
