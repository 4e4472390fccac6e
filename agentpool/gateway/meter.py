"""Counts one connection's messages against what is allowed: a bucket that refills."""

import time
from collections.abc import Callable

# Seconds of the allowed rate that may come at once, and that may be overdrawn before the end.
BURST_S = 2.0


class Meter:
    """The allowance of one connection, messages a second."""

    def __init__(self, *, per_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_s, self._clock = per_s, clock
        self._left = per_s * BURST_S
        self._at = clock()

    def spend(self) -> float | None:
        """Count one message; return None when it is allowed, else how long to wait, seconds."""
        now = self._clock()
        most = self._per_s * BURST_S
        self._left = min(most, self._left + (now - self._at) * self._per_s) - 1
        self._at = now
        return None if self._left >= 0 else -self._left / self._per_s

    @property
    def is_hopeless(self) -> bool:
        """Whether the other side goes on sending although it is told to wait."""
        return self._left < -self._per_s * BURST_S
