"""spell: numbers in words."""

import pytest

from textkit.spell import spell


@pytest.mark.parametrize(
    ("number", "expected"), [(0, "zero"), (13, "thirteen"), (40, "forty"), (99, "ninety-nine")]
)
def test_spell_hyphenates_tens_and_ones(number, expected):
    assert expected == spell(number)


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (100, "one hundred"),
        (342, "three hundred and forty-two"),
        (1_007, "one thousand and seven"),
        (2_500_000, "two million five hundred thousand"),
    ],
)
def test_spell_names_the_groups(number, expected):
    assert expected == spell(number)


def test_spell_says_minus():
    assert "minus twenty-one" == spell(-21)


def test_spell_refuses_very_large_numbers():
    with pytest.raises(ValueError, match="quadrillion"):
        spell(10**15)
