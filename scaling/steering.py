"""
Steers by what became of the requests: how far the reserve's share is to move from the learnt one.

Pure; times in seconds. Two parts are added to the logarithm of the share of windows that may be
exceeded: a slow one that lets late and other requests balance at the aim over weeks, and a quick
one, for bursts come in company: after a half day with more late ones than the aim it holds more.
"""

import math
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

# The slow part: what a late request moves it by; another one moves it back by so much that both
# cancel at the aim. It begins below 0: the past has always seen too little.
GAIN, FIRST, LEAST, MOST = 0.005, -0.27, -3.0, 2.0
# More late ones than this in a row are a storm: no reserve that anybody would pay for had helped.
STORM_LATE = 30
# The other parts: their memory, what as many late ones as the aim weigh, requests of doubt, bounds.
# Half a day, for bursts come in company.
PARTS = ((43_200.0, 0.7, 100.0, -1.2, 0.25),)


class Steering:
    """What is known of the requests that were served, and what follows from it."""

    def __init__(self, *, late: float) -> None:
        """Begin with nothing known. late: the share of late requests that is aimed at."""
        self.late = late
        self.slow = FIRST
        self.requests, self.late_requests = 0, 0
        self._run, self._before = 0, (FIRST, [0.0] * len(PARTS))
        self._seen, self._seen_late, self._at = [0.0] * len(PARTS), [0.0] * len(PARTS), 0.0

    def judged(self, *, at: float, is_late: bool) -> None:
        """Count a request of which it is known whether it waited longer than the SLO."""
        self.requests += 1
        self.late_requests += is_late
        self._fade(at)
        if is_late and self._run == 0:
            self._before = (self.slow, list(self._seen_late))
        self._run = self._run + 1 if is_late else 0
        if self._run > STORM_LATE:
            # It is a storm: what its first ones have taught is taken back.
            self.slow, self._seen_late = self._before[0], list(self._before[1])
            return
        for part in range(len(PARTS)):
            self._seen[part] += 1
            self._seen_late[part] += is_late
        moved = self.slow - GAIN * (1 - self.late) if is_late else self.slow + GAIN * self.late
        self.slow = min(max(moved, LEAST), MOST)

    def correction(self, now: float) -> float:
        """Return what to add to the logarithm of the share."""
        self._fade(now)
        total = self.slow
        for part, (_, weight, doubt, least, most) in enumerate(PARTS):
            late = self._seen_late[part] + doubt * self.late
            share = late / (self._seen[part] + doubt) / self.late
            total += min(max(weight * (1 - share), least), most)
        return total

    def _fade(self, now: float) -> None:
        passed = now - self._at
        if passed <= 0:
            return
        for part, (memory_s, *_) in enumerate(PARTS):
            kept = math.exp(-passed / memory_s)
            self._seen[part] *= kept
            self._seen_late[part] *= kept
        self._at = now

    def state(self) -> dict[str, Any]:
        """Return all of it as JSON."""
        return deepcopy({name: getattr(self, name) for name in _KEPT})

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take a stored state."""
        for name in _KEPT:
            setattr(self, name, deepcopy(state[name]))


_KEPT = ("slow", "requests", "late_requests", "_run", "_before", "_seen", "_seen_late", "_at")
