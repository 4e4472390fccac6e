"""Dates: parse them, move them by months, say them in words."""

import calendar
from datetime import date, datetime

FORMATS = ("%Y-%m-%d", "%d.%m.%Y", "%d %B %Y", "%B %d, %Y")


def parse_date(text: str) -> date:
    """
    Return the day that a text names, in one of the usual written forms.

    Raises: ValueError, no form fits.
    """
    for form in FORMATS:
        try:
            return datetime.strptime(text.strip(), form).date()
        except ValueError:
            continue
    raise ValueError(f"not a date in a known form: {text!r}")


def add_months(day: date, *, months: int) -> date:
    """Return the same day of another month; `months` may be negative."""
    index = day.year * 12 + day.month - 1 + months
    year, month = divmod(index, 12)
    return day.replace(year=year, month=month + 1)


def quarter(day: date) -> int:
    """Return the quarter of the year, 1 to 4."""
    return (day.month + 2) // 3


def month_end(day: date) -> date:
    """Return the last day of the month."""
    return day.replace(day=calendar.monthrange(day.year, day.month)[1])


def relative_day(day: date, *, today: date) -> str:
    """Return how far a day is from today in words: "3 days ago"."""
    distance = (day - today).days
    if distance < 0:
        return f"{-distance} days ago"
    return f"in {distance} days"
