"""units: sizes and durations."""

import pytest

from textkit import units


@pytest.mark.parametrize(
    ("count", "expected"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KB"), (5 * 1024**3, "5.0 GB")]
)
def test_human_bytes_chooses_the_unit(count, expected):
    assert expected == units.human_bytes(count)


@pytest.mark.parametrize(("text", "expected"), [("12 B", 12), ("1.5kb", 1536), ("2 GB", 2 << 30)])
def test_parse_bytes_reads_sizes(text, expected):
    assert expected == units.parse_bytes(text)


def test_parse_bytes_refuses_other_text():
    with pytest.raises(ValueError, match="not a size"):
        units.parse_bytes("many")


@pytest.mark.parametrize(("seconds", "expected"), [(0, "0s"), (59, "59s"), (3725, "1h 2m")])
def test_format_duration_shows_two_units(seconds, expected):
    assert expected == units.format_duration(seconds)


@pytest.mark.parametrize(("text", "expected"), [("90s", 90), ("5 m", 300), ("2d", 172800)])
def test_parse_duration_reads_one_unit(text, expected):
    assert expected == units.parse_duration(text)
