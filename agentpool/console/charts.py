"""Geometry of the pictures that the server draws itself: sparklines, timelines, score bars."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

SPARK_WIDTH = 120.0
SPARK_HEIGHT = 28.0
LANES_WIDTH = 1000.0
# Steps between the marks of a time axis, seconds; the first that leaves at most so many is taken.
_STEPS = (10, 30, 60, 300, 600, 1800, 3600, 10_800, 21_600, 86_400)
_MARKS = 8


def spark_line(values: Sequence[float | None], *, most: float) -> str:
    """Return the points of a line through values, 0 to `most`; gaps are passed over."""
    if len(values) < 2:
        return ""
    step = SPARK_WIDTH / (len(values) - 1)
    top = most or 1.0
    points = [
        f"{number * step:.1f},{SPARK_HEIGHT - 1 - (SPARK_HEIGHT - 2) * min(1.0, value / top):.1f}"
        for number, value in enumerate(values)
        if value is not None
    ]
    return " ".join(points) if len(points) > 1 else ""


@dataclass(frozen=True)
class Span:
    """A stretch of time to be drawn: in which lane, from when to when, None: to now."""

    lane: int
    begin: datetime
    end: datetime | None


@dataclass(frozen=True)
class Scale:
    """A stretch of time, laid out from 0 to LANES_WIDTH."""

    begin: datetime
    end: datetime

    def x(self, at: datetime) -> float:
        """Return where a moment stands; what is outside stands at the edge."""
        share = (at - self.begin) / (self.end - self.begin)
        return round(LANES_WIDTH * min(1.0, max(0.0, share)), 1)

    def box(self, span: Span) -> tuple[float, float]:
        """Return x and width of a span, wide enough to be seen."""
        left = self.x(span.begin)
        width = max(3.0, self.x(span.end or self.end) - left)
        return min(left, LANES_WIDTH - 3), round(min(width, LANES_WIDTH - left + 3), 1)

    def marks(self) -> list[tuple[float, datetime]]:
        """Return the round moments of the axis with where they stand."""
        length_s = (self.end - self.begin).total_seconds()
        step = next((s for s in _STEPS if length_s / s <= _MARKS), length_s / _MARKS)
        first = -(-self.begin.timestamp() // step) * step
        count = int((self.end.timestamp() - first) // step) + 1
        moments = [
            self.begin + timedelta(seconds=first + n * step - self.begin.timestamp())
            for n in range(max(0, count))
        ]
        return [(self.x(at), at) for at in moments]


def marked(found: Scale) -> list[dict[str, object]]:
    """Return a scale's marks as templates take them; percent: where their words stand."""
    return [{"x": x, "percent": round(x / 10, 1), "at": at} for x, at in found.marks()]


def scale(spans: Sequence[Span], *, now: datetime, least_s: float = 60.0) -> Scale:
    """Return the scale that all spans fit on; least_s: its least length, seconds."""
    begin = min((span.begin for span in spans), default=now)
    end = max((span.end or now for span in spans), default=now)
    return Scale(min(begin, end - timedelta(seconds=least_s)), end)


def score_bars(
    parts: Mapping[str, float], weights: Mapping[str, float]
) -> list[dict[str, float | str]]:
    """Return each part's share of the score, 0 to 100, beside the one before it."""
    bars: list[dict[str, float | str]] = []
    at = 0.0
    for number, (name, weight) in enumerate(weights.items(), 1):
        width = round(100 * weight * min(1.0, max(0.0, parts[name])), 2)
        bars.append({"name": name, "number": number, "x": round(at, 2), "width": width})
        at += width
    return bars
