"""cron: the next time."""

from datetime import datetime

import pytest

from textkit import cron

FRIDAY_EVENING = datetime(2024, 3, 1, 18, 30)


@pytest.mark.parametrize(
    ("field", "expected"),
    [("*/20", {0, 20, 40}), ("5", {5}), ("1-3,58", {1, 2, 3, 58}), ("50-59/5", {50, 55})],
)
def test_parse_reads_numbers_ranges_lists_and_steps(field, expected):
    assert expected == cron.parse(f"{field} * * * *").minutes


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("45 * * * *", datetime(2024, 3, 1, 18, 45)),
        ("*/15 9-17 * * 1-5", datetime(2024, 3, 4, 9, 0)),
        ("0 0 29 2 *", datetime(2028, 2, 29)),
    ],
)
def test_next_time_crosses_days_months_and_years(line, expected):
    assert expected == cron.next_time(line, after=FRIDAY_EVENING)


def test_next_time_takes_either_day_field():
    assert datetime(2024, 3, 3) == cron.next_time("0 0 15 * 0", after=FRIDAY_EVENING)
    assert datetime(2024, 3, 15) == cron.next_time("0 0 15 * 6", after=datetime(2024, 3, 9, 1))


@pytest.mark.parametrize("line", ["* * * *", "* 24 * * *", "* a * * *", "* */0 * * *"])
def test_parse_names_the_bad_field(line):
    with pytest.raises(ValueError, match=r"five fields|hour"):
        cron.parse(line)


def test_next_time_refuses_a_day_that_never_comes():
    with pytest.raises(ValueError, match="never"):
        cron.next_time("0 0 30 2 *", after=FRIDAY_EVENING)
