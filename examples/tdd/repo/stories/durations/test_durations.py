"""durations: several units."""

import pytest

from textkit import units


@pytest.mark.parametrize(
    ("text", "expected"), [("1h 30m", 5400), ("1d2h3m4s", 93784), (" 2H 5S ", 7205)]
)
def test_parse_duration_adds_units(text, expected):
    assert expected == units.parse_duration(text)


@pytest.mark.parametrize("seconds", [0, 61, 3660, 90000])
def test_parse_duration_reads_what_format_duration_writes(seconds):
    assert seconds == units.parse_duration(units.format_duration(seconds))


@pytest.mark.parametrize("text", ["", "5", "1m 1h", "1h 1h", "1.5h", "h"])
def test_parse_duration_refuses_disorder(text):
    with pytest.raises(ValueError, match="not a duration"):
        units.parse_duration(text)
