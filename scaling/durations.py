"""
Learns how long work takes, and from that how much of what runs now will soon have ended.

Pure. Times in seconds. Kept are counts on a grid of eight steps an octave, so the state is small
and a heavy tail costs nothing.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

STEPS = 8
CELLS = 200  # 1 s to 2^25 s
KEPT = 0.9998  # for each ended work; half counts after 3,466
# The seed's simulation took five pieces of work of ten minutes for granted.
PRIOR_S, PRIOR_COUNT = 600.0, 5.0
MEAN_OF = 500.0
# Until so many have ended, what a piece of work will do is half a guess: nothing ends soon.
TRUSTED = 20.0
_LOG = STEPS / math.log(2)
# The cells of ages in whole seconds: looking up is faster than a logarithm.
LOOKED_UP = 8192
_CELLS = [int(_LOG * math.log(age + 1)) for age in range(LOOKED_UP)]


class Durations:
    """Service times of one pool, and their means per story type."""

    def __init__(self) -> None:
        self.counts = [0.0] * CELLS
        self.mean_s, self._seen = PRIOR_S, PRIOR_COUNT
        self.by_type: dict[str, tuple[float, float]] = {}
        self._soon: dict[float, list[float]] = {}

    def ended(self, duration_s: float, story_type: str = "") -> None:
        """Add one piece of work that has ended."""
        self._seen = min(self._seen + 1, MEAN_OF)
        self.mean_s += (duration_s - self.mean_s) / self._seen
        self.counts[_cell(duration_s)] += 1
        if story_type:
            seen, mean = self.by_type.get(story_type, (0.0, 0.0))
            seen = min(seen + 1, MEAN_OF)
            self.by_type[story_type] = (seen, mean + (duration_s - mean) / seen)

    def fit(self) -> None:
        """Forget a little, and find the shares that end soon anew."""
        total = sum(self.counts)
        if total > 1 / (1 - KEPT):
            factor = 1 / (1 - KEPT) / total
            self.counts = [count * factor for count in self.counts]
        self._soon.clear()

    def ending(self, running_since: Iterable[float], *, now: float, within_s: float) -> float:
        """Return how many of the running pieces are expected to end within the time."""
        if within_s not in self._soon:
            self._soon[within_s] = self._ending_soon(within_s)
        soon = self._soon[within_s]
        total = 0.0
        for began in running_since:
            age = int(now - began)
            total += soon[_CELLS[age] if age < LOOKED_UP else int(_LOG * math.log(age + 1))]
        return total

    def _ending_soon(self, within_s: float) -> list[float]:
        """Return P(ends within the time | has run for the cell's age), by cells of age + 1 s."""
        counts = np.array(self.counts)
        total = counts.sum()
        longer = np.concatenate([[1.0], 1 - np.cumsum(counts) / max(total, 1)])
        edges = 2 ** (np.arange(CELLS + 1) / STEPS)
        ages = 2 ** ((np.arange(CELLS) + 0.5) / STEPS) - 1
        runs = np.interp(ages, edges, longer)
        still = np.interp(ages + within_s, edges, longer)
        share = np.where(runs > 1e-4, 1 - still / np.maximum(runs, 1e-9), 0.0)
        return [float(value) for value in share * total / (total + TRUSTED)]

    def state(self) -> dict[str, Any]:
        """Return all of it as JSON."""
        return {
            "counts": {str(cell): count for cell, count in enumerate(self.counts) if count},
            "mean_s": self.mean_s,
            "seen": self._seen,
            "by_type": {name: list(pair) for name, pair in self.by_type.items()},
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take a stored state."""
        self.counts = [float(state["counts"].get(str(cell), 0.0)) for cell in range(CELLS)]
        self.mean_s, self._seen = state["mean_s"], state["seen"]
        self.by_type = {name: (pair[0], pair[1]) for name, pair in state["by_type"].items()}
        self._soon.clear()


def _cell(seconds: float) -> int:
    return min(int(_LOG * math.log(max(seconds, 1.0))), CELLS - 1)
