"""dates: parse, move and say."""

from datetime import date

import pytest

from textkit import dates


@pytest.mark.parametrize("text", ["2024-02-29", "29.02.2024", "29 February 2024"])
def test_parse_date_reads_the_usual_forms(text):
    assert date(2024, 2, 29) == dates.parse_date(text)


def test_parse_date_names_the_text_it_refuses():
    with pytest.raises(ValueError, match="soon"):
        dates.parse_date("soon")


def test_add_months_crosses_the_year():
    assert date(2025, 2, 15) == dates.add_months(date(2024, 11, 15), months=3)


def test_add_months_goes_back():
    assert date(2023, 12, 1) == dates.add_months(date(2024, 1, 1), months=-1)


def test_quarter_counts_from_one():
    assert [1, 1, 2, 4] == [dates.quarter(date(2024, month, 1)) for month in (1, 3, 4, 12)]


def test_month_end_knows_leap_years():
    assert date(2024, 2, 29) == dates.month_end(date(2024, 2, 3))


def test_relative_day_counts_both_ways():
    today = date(2024, 5, 10)

    assert "3 days ago" == dates.relative_day(date(2024, 5, 7), today=today)
    assert "in 4 days" == dates.relative_day(date(2024, 5, 14), today=today)
