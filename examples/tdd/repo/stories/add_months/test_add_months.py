"""add_months: short months."""

from datetime import date

import pytest

from textkit import dates


@pytest.mark.parametrize(
    ("months", "expected"),
    [(1, date(2023, 2, 28)), (3, date(2023, 4, 30)), (-2, date(2022, 11, 30))],
)
def test_add_months_stops_at_the_last_day(months, expected):
    assert expected == dates.add_months(date(2023, 1, 31), months=months)


def test_add_months_respects_leap_years():
    assert date(2024, 2, 29) == dates.add_months(date(2024, 1, 31), months=1)
    assert date(2025, 2, 28) == dates.add_months(date(2024, 2, 29), months=12)


def test_add_months_keeps_a_day_that_exists():
    assert date(2023, 3, 31) == dates.add_months(date(2023, 1, 31), months=2)
