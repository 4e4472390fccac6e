"""workdays: counting without free days."""

from datetime import date

from textkit import workdays

FRIDAY, SATURDAY, MONDAY = date(2024, 3, 1), date(2024, 3, 2), date(2024, 3, 4)


def test_is_workday_knows_weekends_and_holidays():
    assert workdays.is_workday(FRIDAY)
    assert not workdays.is_workday(SATURDAY)
    assert not workdays.is_workday(MONDAY, holidays={MONDAY})


def test_add_workdays_skips_free_days_both_ways():
    assert MONDAY == workdays.add_workdays(FRIDAY, days=1)
    assert date(2024, 3, 5) == workdays.add_workdays(FRIDAY, days=1, holidays={MONDAY})
    assert FRIDAY == workdays.add_workdays(MONDAY, days=-1)


def test_add_workdays_of_none_leaves_a_free_day():
    assert MONDAY == workdays.add_workdays(SATURDAY, days=0)
    assert FRIDAY == workdays.add_workdays(FRIDAY, days=0)


def test_count_workdays_excludes_the_end():
    assert 5 == workdays.count_workdays(FRIDAY, date(2024, 3, 8))
    assert 4 == workdays.count_workdays(FRIDAY, date(2024, 3, 8), holidays={MONDAY})
    assert 0 == workdays.count_workdays(MONDAY, FRIDAY)
