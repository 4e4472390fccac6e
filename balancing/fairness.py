"""
Keeps the score of who used how much, so that waiting projects are served by weight.

Pure. Usage halves every half-life. Instead of shrinking every stored number all the time, a new
cost is inflated by 2^(time / half-life) and the sum is stored as its log2: stored numbers only
change when somebody is charged, their order never changes with time, and an index can keep it.
"""

from collections.abc import Iterable
from math import exp2, inf, log1p, log2
from math import log as ln

# The log2 of no usage at all: whoever has it comes first.
NOTHING = -inf
# Seconds in which usage halves by default: long enough to remember a burst, short enough to forgive
# it the same day.
HALF_LIFE_S = 3600


def charge(
    log_usage: float, *, cost: float, weight: float, at_s: float, half_life_s: float
) -> float:
    """
    Return the log usage after a cost: log2(2^u + cost / weight x 2^(at / half-life)).

    Args:
        log_usage: the stored number, NOTHING at first.
        cost: slot-seconds, or whatever is shared; >= 0.
        weight: the project's share against others, > 0; twice the weight pays half.
        at_s: seconds since any epoch, always the same one.
        half_life_s: seconds in which usage halves; > 0.
    Raises: ValueError, a value is out of range.
    Source: docs/balancing.md, "Fair share"; Kueue's admission fair sharing decays alike.
    """
    if cost < 0 or weight <= 0 or half_life_s <= 0:
        raise ValueError(f"{cost=} must be >= 0, {weight=} and {half_life_s=} > 0")
    if cost == 0:
        return log_usage
    added = log2(cost) - log2(weight) + at_s / half_life_s
    # 2^(1.7e9 / 3600) fits no float: take the larger power out, the other one is at most 1.
    larger, smaller = max(log_usage, added), min(log_usage, added)
    return larger + log1p(exp2(smaller - larger)) / ln(2)


def usage_now(log_usage: float, *, at_s: float, half_life_s: float) -> float:
    """Return what is left of the usage at a time: slot-seconds per unit of weight, >= 0."""
    return exp2(log_usage - at_s / half_life_s)


def entry(log_usage: float | None, others: Iterable[float]) -> float:
    """
    Return the log usage with which a project begins to wait.

    It starts level with whoever used least among the projects that wait now (others), so that
    having been away earns nothing: neither a newcomer nor somebody who returns can overtake the
    whole queue with a burst. None: the project was never charged.
    """
    own = NOTHING if log_usage is None else log_usage
    return max(own, min(others, default=NOTHING))
