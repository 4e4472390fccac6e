"""slugify: titles as addresses."""

import pytest

from textkit.slugify import slugify


@pytest.mark.parametrize(
    ("title", "expected"),
    [("Crème brûlée", "creme-brulee"), ("C++ & Python: a tour", "c-python-a-tour")],
)
def test_slugify_keeps_ascii_letters_and_digits(title, expected):
    assert expected == slugify(title)


def test_slugify_trims_hyphens():
    assert "hello" == slugify("  ¡Hello! ")


def test_slugify_cuts_between_words():
    assert "one-two" == slugify("One two three", limit=9)
    assert "incompre" == slugify("Incomprehensible", limit=8)


def test_slugify_refuses_a_title_without_letters():
    with pytest.raises(ValueError, match="no letter or digit"):
        slugify("!!!")
