"""relative_days: how people say it."""

from datetime import date, timedelta

import pytest

from textkit import dates

TODAY = date(2024, 5, 10)


def say(days):
    return dates.relative_day(TODAY + timedelta(days=days), today=TODAY)


@pytest.mark.parametrize(("days", "expected"), [(0, "today"), (1, "tomorrow"), (-1, "yesterday")])
def test_relative_day_names_the_days_around_today(days, expected):
    assert expected == say(days)


@pytest.mark.parametrize(
    ("days", "expected"), [(14, "in 2 weeks"), (-20, "2 weeks ago"), (-21, "3 weeks ago")]
)
def test_relative_day_counts_weeks(days, expected):
    assert expected == say(days)


@pytest.mark.parametrize(("days", "expected"), [(2, "in 2 days"), (-13, "13 days ago")])
def test_relative_day_counts_days_in_between(days, expected):
    assert expected == say(days)
