"""
Keeps a stream of values as counts in log-spaced buckets, from which any quantile can be read.

Pure. Sketches merge by adding their counts, so an hour is the sum of its half-minutes, and a
quantile of it is as exact as of any of them: within 5 % of a value that has been seen.
Source: the bounds of DDSketch, with a fixed lowest value and no collapsing.
"""

import math
from collections.abc import Iterable, Mapping

RELATIVE_ERROR = 0.05
GAMMA = (1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR)
# Seconds; what is not longer counts as nothing. 210 buckets reach from here to 15 days.
LOWEST = 0.001

# How many values fell into each bucket.
Sketch = Mapping[int, int]


def bucket_of(value: float) -> int:
    """Return the bucket of a value: 0 up to LOWEST, then (GAMMA^(n-1), GAMMA^n] times LOWEST."""
    return 0 if value <= LOWEST else math.ceil(math.log(value / LOWEST) / math.log(GAMMA))


def value_of(bucket: int) -> float:
    """Return the value that is within RELATIVE_ERROR of all values of a bucket."""
    return 0.0 if bucket == 0 else LOWEST * 2 * GAMMA**bucket / (GAMMA + 1)


def sketch_of(values: Iterable[float]) -> Sketch:
    """Return the sketch of some values."""
    found: dict[int, int] = {}
    for value in values:
        bucket = bucket_of(value)
        found[bucket] = found.get(bucket, 0) + 1
    return found


def merged(one: Sketch, other: Sketch) -> Sketch:
    """Return the sketch of the values of both."""
    if not other:
        return one
    found = dict(one)
    for bucket, count in other.items():
        found[bucket] = found.get(bucket, 0) + count
    return found


def quantile(sketch: Sketch, share: float) -> float | None:
    """
    Return the value below which a share, 0 to 1, of the values lies; None: there are none.

    Of n values in order it is that at place share x (n - 1), counted from 0 and rounded down.
    """
    count = sum(sketch.values())
    if not count:
        return None
    place, seen = share * (count - 1), 0
    for bucket in sorted(sketch):
        seen += sketch[bucket]
        if seen > place:
            return value_of(bucket)
    raise AssertionError("a place beyond the last value")
