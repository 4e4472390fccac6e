"""
Steers by what became of the requests: how far the reserve's share is to move from the learnt one.

Pure; times in seconds. Two parts are added to the logarithm of the share of windows that may be
exceeded: a slow one that lets late and other requests balance at the aim over weeks, and a quick
one that spends what the last days have left of the late ones that are allowed, and saves when they
have taken more.
"""

import math
from collections.abc import Mapping
from typing import Any

# The slow part: what a late request moves it by; another one moves it back by so much that both
# cancel at the aim. It begins below 0: the past has always seen too little.
GAIN, FIRST, LEAST, MOST = 0.01, -0.15, -3.0, 2.0
# The quick part: its memory, what as many late ones as the aim weigh, requests at the aim that it
# begins with, and its bounds. Bursts come in company: it must hold more before the next.
MEMORY_S, WEIGHT, DOUBT = 3 * 86_400.0, 2.0, 200.0
QUICK_LEAST, QUICK_MOST = -3.0, 0.7


class Steering:
    """What is known of the requests that were served, and what follows from it."""

    def __init__(self, *, late: float) -> None:
        """Begin with nothing known. late: the share of late requests that is aimed at."""
        self.late = late
        self.slow = FIRST
        self.requests, self.late_requests = 0, 0
        self._seen, self._seen_late, self._at = 0.0, 0.0, 0.0

    def judged(self, *, at: float, is_late: bool, is_steering: bool = True) -> None:
        """
        Count a request of which it is known whether it waited longer than the SLO.

        is_steering: False for those of a surge: no reserve that anybody would pay for had helped.
        """
        self.requests += 1
        self.late_requests += is_late
        if not is_steering:
            return
        self._fade(at)
        self._seen += 1
        self._seen_late += is_late
        moved = self.slow - GAIN * (1 - self.late) if is_late else self.slow + GAIN * self.late
        self.slow = min(max(moved, LEAST), MOST)

    def correction(self, now: float) -> float:
        """Return what to add to the logarithm of the share."""
        self._fade(now)
        late_share = (self._seen_late + DOUBT * self.late) / (self._seen + DOUBT)
        quick = WEIGHT * (1 - late_share / self.late)
        return self.slow + min(max(quick, QUICK_LEAST), QUICK_MOST)

    def _fade(self, now: float) -> None:
        passed = now - self._at
        if passed <= 0:
            return
        kept = math.exp(-passed / MEMORY_S)
        self._seen *= kept
        self._seen_late *= kept
        self._at = now

    def state(self) -> dict[str, Any]:
        """Return all of it as JSON."""
        return {name: getattr(self, name) for name in _KEPT}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take a stored state."""
        for name in _KEPT:
            setattr(self, name, state[name])


_KEPT = ("slow", "requests", "late_requests", "_seen", "_seen_late", "_at")
