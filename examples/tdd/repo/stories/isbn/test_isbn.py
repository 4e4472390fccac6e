"""isbn: validity and the new form."""

import pytest

from textkit import isbn


@pytest.mark.parametrize("number", ["0-306-40615-2", "0306406152", "978-0-306-40615-7"])
def test_is_valid_knows_both_lengths(number):
    assert isbn.is_valid(number)
    assert not isbn.is_valid(number[:-1] + "9")


def test_is_valid_takes_x_only_as_last_of_ten():
    assert isbn.is_valid("0-8044-2957-X")
    assert not isbn.is_valid("0-80X4-2957-4")


def test_to_isbn13_computes_a_new_check_digit():
    assert "9780306406157" == isbn.to_isbn13("0-306-40615-2")
    assert "9780306406157" == isbn.to_isbn13("978-0-306-40615-7")


def test_to_isbn13_refuses_a_wrong_number():
    with pytest.raises(ValueError, match="not an ISBN"):
        isbn.to_isbn13("0-306-40615-3")
