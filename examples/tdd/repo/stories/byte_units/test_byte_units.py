"""byte_units: rounding."""

import pytest

from textkit import units


@pytest.mark.parametrize(
    ("count", "expected"),
    [(1024**2 - 1, "1.0 MB"), (1024**3 - 1, "1.0 GB"), (1048000, "1023.4 KB")],
)
def test_human_bytes_rounds_into_the_next_unit(count, expected):
    assert expected == units.human_bytes(count)


def test_human_bytes_stops_at_the_largest_unit():
    assert "2048.0 PB" == units.human_bytes(2 * 1024**6)


def test_human_bytes_keeps_a_sign():
    assert "-1.5 KB" == units.human_bytes(-1536)
    assert "-12 B" == units.human_bytes(-12)
