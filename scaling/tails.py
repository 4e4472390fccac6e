"""
Learns how far demand exceeds what was expected, and how much to hold so that it seldom matters.

Pure. For each half octave of the expected count it keeps how often the net demand of a window was
how large; thin evidence leans on neighbouring cells and on a negative binomial whose dispersion is
learnt, too. From the same counts comes the share of windows that may be exceeded: the one with
which, in this pool's own past, no more requests would have been late than the SLO allows.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from scaling.sizing import Floats, negative_binomial_above, smallest_above

CELLS_AN_OCTAVE = 2
UPTO = 400
# Rare bursts are what this is about: they are remembered for long.
HALF_LIFE_S = 365 * 86_400.0
# Cells to either side, circle by circle, and how many windows must have exceeded a count before a
# circle is evidence enough about it.
CIRCLES = ((0, 1, -1), (2, -2), (3, -3), (4, -4), (5, -5, 6, -6), (7, -7, 8, -8))
ENOUGH_EXCEEDED = 2.0
# Windows that the negative binomial weighs as much as.
PRIOR_WINDOWS = 3000.0
# Before anything is known, counts vary 1.5 times as much as Poisson's.
PRIOR_DISPERSION, PRIOR_MEANS = 1.5, 2.0
LEAST_DISPERSION, MOST_DISPERSION = 1.02, 200.0
# Logarithms of the share of windows that may be exceeded: the first guess and its bounds.
FIRST_LOG, LEAST_LOG, MOST_LOG = -7.0, -9.125, -1.0
ENOUGH_ARRIVALS = 20
# How many more are late when the reserve is exceeded than was seen: bursts come larger than before.
BEYOND = 1.0


class Tails:
    """Net demand of windows, by what was expected of them."""

    def __init__(self) -> None:
        # Cell: windows, arrivals, windows by net demand.
        self.cells: dict[int, tuple[float, float, dict[int, float]]] = {}
        self.arrivals = 0.0
        self._above: dict[int, Floats] = {}
        self._held: dict[tuple[int, int], int] = {}

    def learn(self, *, expected: float, arrivals: int, net: int) -> None:
        """Add one window: what was expected, what came, and what it asked of the spare slots."""
        cell = _cell(expected)
        windows, came, by_net = self.cells.get(cell, (0.0, 0.0, {}))
        if net > 0:
            by_net[net] = by_net.get(net, 0.0) + 1
        self.cells[cell] = (windows + 1, came + arrivals, by_net)
        self.arrivals += arrivals

    def fit(self, *, passed_s: float) -> None:
        """Forget as much as the passed time asks for, and let the answers be found anew."""
        kept = 0.5 ** (passed_s / HALF_LIFE_S)
        self.cells = {
            cell: (number * kept, came * kept, {net: n * kept for net, n in by_net.items()})
            for cell, (number, came, by_net) in self.cells.items()
            if number * kept > 0.01
        }
        self.arrivals *= kept
        self._above.clear()
        self._held.clear()

    def held(self, *, expected: float, log_share: float) -> float:
        """
        Return the spare that is exceeded in at most exp(log_share) of the windows.

        Between the middles of two cells it is between the smallest that do for each.
        """
        place = math.log2(expected) * CELLS_AN_OCTAVE - 0.5
        cell = math.floor(place)
        eighths = round(log_share * 8)
        low, high = self._held_in(cell, eighths), self._held_in(cell + 1, eighths)
        return low + (place - cell) * (high - low)

    def _held_in(self, cell: int, eighths: int) -> int:
        key = (cell, eighths)
        found = self._held.get(key)
        if found is None:
            share = math.exp(eighths / 8)
            found = self._held[key] = smallest_above(above=self.above(cell), share=share)
        return found

    def above(self, cell: int) -> Floats:
        """Return P(net demand > j) for windows of a cell: (UPTO + 1,)."""
        if cell not in self._above:
            self._above[cell] = self._mixed(cell)
        return self._above[cell]

    def _mixed(self, cell: int) -> Floats:
        """
        Return the evidence about a cell, mixed with the prior.

        For each j the narrowest circle of neighbours in which enough windows exceeded it.
        """
        circles, sizes = [], []
        seen, counted = 0.0, dict[int, float]()
        for near in CIRCLES:
            for step in near:
                windows, _, by_net = self.cells.get(cell + step, (0.0, 0.0, {}))
                seen += windows
                # A window of twice the expectation is twice as likely to hold a rare burst.
                scale = 2 ** (-step / CELLS_AN_OCTAVE)
                for net, number in by_net.items():
                    counted[net] = counted.get(net, 0.0) + scale * number
            exceeded = np.zeros(UPTO + 1)
            for net, number in counted.items():
                exceeded[: min(net, UPTO + 1)] += number
            circles.append(exceeded)
            sizes.append(seen)
        evidence = np.array(circles)
        is_enough = evidence >= ENOUGH_EXCEEDED
        chosen = np.where(is_enough.any(axis=0), is_enough.argmax(axis=0), len(circles) - 1)
        mean = 2 ** ((cell + 0.5) / CELLS_AN_OCTAVE)
        prior = negative_binomial_above(mean=mean, dispersion=self.dispersion(cell), upto=UPTO)
        exceeded = evidence[chosen, np.arange(UPTO + 1)]
        mixed = (exceeded + PRIOR_WINDOWS * prior) / (np.array(sizes)[chosen] + PRIOR_WINDOWS)
        falling: Floats = np.minimum.accumulate(mixed)
        return falling

    def dispersion(self, cell: int) -> float:
        """Return variance over mean of the counts within two octaves of a cell."""
        spread, means = PRIOR_DISPERSION * PRIOR_MEANS, PRIOR_MEANS
        for other, (windows, came, by_net) in self.cells.items():
            if abs(other - cell) > 4 or windows < 5:
                continue
            mean = came / windows
            square = sum(number * net * net for net, number in by_net.items()) / windows
            spread += windows * (square - mean * mean)
            means += windows * mean
        return min(max(spread / means, LEAST_DISPERSION), MOST_DISPERSION)

    def allowed_log(self, *, late: float) -> float:
        """
        Return the logarithm of the share of windows that may be exceeded.

        With it, the windows seen so far would have had at most a share `late` of late requests.
        """
        if self.arrivals < ENOUGH_ARRIVALS:
            return FIRST_LOG
        cells = []
        for cell, (number, _, _) in self.cells.items():
            above = self.above(cell)
            # Of j: the requests expected beyond a reserve of j in a window.
            cells.append((number, above, np.cumsum(above[::-1])[::-1]))
        low, high = LEAST_LOG, MOST_LOG
        for _ in range(12):
            middle = (low + high) / 2
            share, missed = math.exp(middle), 0.0
            for windows, above, beyond in cells:
                spare = smallest_above(above=above, share=share)
                if spare <= UPTO:
                    missed += windows * float(beyond[spare] + BEYOND * above[spare])
            low, high = (low, middle) if missed > late * self.arrivals else (middle, high)
        return low

    def state(self) -> dict[str, Any]:
        """Return all of it as JSON."""
        return {
            "arrivals": self.arrivals,
            "cells": {
                str(cell): [windows, came, {str(net): n for net, n in by_net.items()}]
                for cell, (windows, came, by_net) in self.cells.items()
            },
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take a stored state."""
        self.arrivals = state["arrivals"]
        self.cells = {
            int(cell): (windows, came, {int(net): n for net, n in by_net.items()})
            for cell, (windows, came, by_net) in state["cells"].items()
        }
        self._above.clear()
        self._held.clear()


def _cell(expected: float) -> int:
    return math.floor(math.log2(expected) * CELLS_AN_OCTAVE)
