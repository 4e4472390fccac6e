"""ordinals: the teens."""

import pytest

from textkit import numbers


@pytest.mark.parametrize("number", [11, 12, 13, 111, 1012])
def test_ordinal_of_the_teens_takes_th(number):
    assert f"{number}th" == numbers.ordinal(number)


@pytest.mark.parametrize(("number", "expected"), [(21, "21st"), (102, "102nd"), (1003, "1003rd")])
def test_ordinal_of_other_numbers_is_as_before(number, expected):
    assert expected == numbers.ordinal(number)


def test_ordinal_of_a_negative_number_looks_at_its_amount():
    assert "-12th" == numbers.ordinal(-12)
    assert "-1st" == numbers.ordinal(-1)
