"""numbers: ordinals, thousands, Roman numerals."""

import pytest

from textkit import numbers


@pytest.mark.parametrize(("number", "expected"), [(1, "1st"), (2, "2nd"), (3, "3rd"), (4, "4th")])
def test_ordinal_takes_the_suffix_of_the_last_digit(number, expected):
    assert expected == numbers.ordinal(number)


@pytest.mark.parametrize(
    ("number", "expected"), [(1, "I"), (4, "IV"), (1994, "MCMXCIV"), (3999, "MMMCMXCIX")]
)
def test_to_roman_writes_the_numeral(number, expected):
    assert expected == numbers.to_roman(number)


def test_to_roman_refuses_zero():
    with pytest.raises(ValueError, match="from 1 to 3999"):
        numbers.to_roman(0)


def test_thousands_groups_by_three():
    assert "1,234,567" == numbers.thousands(1234567)


def test_thousands_takes_another_separator():
    assert "12 345" == numbers.thousands(12345, separator=" ")
