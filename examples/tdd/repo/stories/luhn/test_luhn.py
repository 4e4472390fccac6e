"""luhn: check digits."""

import pytest

from textkit import luhn


def test_is_valid_ignores_blanks_and_hyphens():
    assert luhn.is_valid("4539 1488-0343 6467")


def test_is_valid_catches_every_single_wrong_digit():
    number = "79927398713"
    changed = [
        number[:place] + digit + number[place + 1 :]
        for place in range(len(number))
        for digit in "0123456789"
        if digit != number[place]
    ]

    assert luhn.is_valid(number)
    assert not any(luhn.is_valid(wrong) for wrong in changed)


def test_check_digit_completes_a_number():
    assert 3 == luhn.check_digit("7992739871")


def test_luhn_refuses_what_is_no_number():
    assert not luhn.is_valid("4539 x")
    assert not luhn.is_valid("")
    with pytest.raises(ValueError, match="digits only"):
        luhn.check_digit("12a")
