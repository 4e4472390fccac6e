"""thousands: signs and decimals."""

import pytest

from textkit import numbers


@pytest.mark.parametrize(("number", "expected"), [(-123, "-123"), (-123456, "-123,456"), (0, "0")])
def test_thousands_puts_the_sign_first(number, expected):
    assert expected == numbers.thousands(number)


def test_thousands_shows_decimals():
    assert "1,234.50" == numbers.thousands(1234.5, decimals=2)
    assert "-9,999.9" == numbers.thousands(-9999.87, decimals=1)


def test_thousands_takes_any_separator():
    assert "1&nbsp;000&nbsp;000" == numbers.thousands(1_000_000, separator="&nbsp;")
    assert "1000" == numbers.thousands(1000, separator="")
