"""Finds the cheapest setting of a knob that keeps the SLO, by few replays."""

import math
from collections.abc import Callable

# Where the search of a whole number begins, and by how much the late share is taken to fall from
# one number to the next (natural logarithm) until two have been tried; below the least, nobody is.
FIRST_TRIED, USUAL_SLOPE, LEAST_LATE = 5, 0.4, 5e-5
# A flatter line says nothing of where it ends: the middle is tried.
LEAST_SLOPE = 0.01

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
    if fails in tried and does in tried:
        near, far = does, fails
    else:
        # All lie on one side: the two that are nearest to the aim, or the only one.
        near = fails if fails in tried else does
        far = min((each for each in tried if each != near), key=lambda n: abs(n - near), default=-1)
    slope = (tried[far] - tried[near]) / (near - far) if far in tried else USUAL_SLOPE
    guess = near + tried[near] / slope if slope > LEAST_SLOPE else (fails + does) / 2
    return min(max(math.ceil(guess), fails + 1), does - 1)


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
