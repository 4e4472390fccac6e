"""Describes what Chart.js draws on a page: lines over the same moments, as plain JSON."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

# Lines of one chart that a reader can still tell apart.
MOST_LINES = 6
Row = Mapping[str, Any]


def pools_drawn(pools: int) -> int:
    """Return how many of so many pools a chart has lines for; 0: all of them."""
    return MOST_LINES if pools > MOST_LINES else 0


def line(
    label: str,
    values: Sequence[float | None],
    *,
    tone: str = "",
    style: str = "",
    axis: str = "",
) -> dict[str, Any]:
    """
    Return one line; None: nothing is known of that moment.

    tone: the colour, by the style sheet's name; "": the next one. style: "steps" or "points".
    axis: "right" for one of its own.
    """
    return {
        "label": label,
        "values": list(values),
        "tone": tone,
        "style": style,
        "axis": axis,
    }


def chart(
    at: Sequence[datetime],
    lines: Sequence[Mapping[str, Any]],
    *,
    most: float | None = None,
    stacks: bool = False,
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    """
    Return a chart of lines; most: the top of its scale, None: what the values need.

    stacks: the lines are parts of a whole and stand on each other. notes: a word on each moment.
    """
    return {
        "at": [moment.isoformat() for moment in at],
        "lines": list(lines),
        "most": most,
        "stacks": stacks,
        "notes": list(notes),
    }


def by_pool(
    samples: Mapping[str, Sequence[Row]],
    column: str,
    *,
    factor: float = 1.0,
    most: float | None = None,
    stacks: bool = False,
) -> dict[str, Any]:
    """
    Return a chart with a line for each pool, those with the largest values only.

    samples: rows with `at` and the column, by pool, in the order of time; factor: of each value.
    stacks: a pool that was not there yet had nothing, or those above it would stand on nothing.
    """
    sums = {pool: sum(row[column] or 0 for row in rows) for pool, rows in samples.items()}
    shown = sorted(sorted(sums, key=lambda pool: -sums[pool])[:MOST_LINES])
    at = sorted({row["at"] for pool in shown for row in samples[pool]})
    absent = 0.0 if stacks else None
    lines = []
    for pool in shown:
        known = {row["at"]: round(float(row[column] or 0) * factor, 2) for row in samples[pool]}
        lines.append(line(pool, [known.get(moment, absent) for moment in at]))
    return chart(at, lines, most=most, stacks=stacks)
