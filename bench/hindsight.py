"""Finds the cheapest setting of a knob that keeps the SLO, by few replays."""

import math
from collections.abc import Callable

# Where the search of a whole number begins, and by how much the late share is taken to fall from
# one number to the next (natural logarithm) until two have been tried; below the least, nobody is.
FIRST_TRIED, USUAL_SLOPE, LEAST_LATE = 5, 0.4, 5e-5

Late = Callable[[float], float]


def whole(late_of: Late, *, most: int, aim: float) -> int:
    """
    Return the smallest number from 0 to `most` with at most the aim late; `most` if there is none.

    The logarithm of the late share falls about evenly with the number: the next one tried is where
    the line through the two nearest meets the aim, always between one that fails and one that does.
    So it ends at the neighbours where bisecting ends, after about half as many replays.
    """
    tried: dict[int, float] = {}
    fails, does = -1, most + 1
    knob = min(most, FIRST_TRIED)
    while does - fails > 1:
        tried[knob] = math.log(max(late_of(knob), LEAST_LATE) / aim)
        if tried[knob] <= 0:
            does = knob
        else:
            fails = knob
        knob = _between(fails, does, tried)
    return min(does, most)


def _between(fails: int, does: int, tried: dict[int, float]) -> int:
    slope, ends = USUAL_SLOPE, [number for number in (fails, does) if number in tried]
    if len(ends) == 2:
        slope = (tried[fails] - tried[does]) / (does - fails)
    guess = ends[-1] + tried[ends[-1]] / max(slope, 1e-9)
    if math.isfinite(guess):
        return min(max(math.ceil(guess), fails + 1), does - 1)
    return (fails + does) // 2


def bisected(late_of: Late, *, cheap: float, careful: float, steps: int, aim: float) -> float:
    """Return the setting nearest to the cheap end with at most the aim late, else the careful."""
    if late_of(careful) > aim:
        return careful
    for _ in range(steps):
        knob = math.sqrt(cheap * careful)
        if late_of(knob) <= aim:
            careful = knob
        else:
            cheap = knob
    return careful
