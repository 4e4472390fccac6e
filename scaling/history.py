"""
Remembers of a pool's past decisions what the bounds ask about: when, which way, how high, how much.

Pure. Times in seconds; small, and stored as JSON.
"""

from collections import deque
from collections.abc import Mapping
from typing import Any

DAY_S = 86_400.0
KEPT_S = 3600.0


class History:
    """What was decided and paid lately."""

    def __init__(self) -> None:
        self.last_up_at: float | None = None
        self.last_down_at: float | None = None
        # Falling sizes: each is the highest from its time on.
        self._wanted: deque[tuple[float, int]] = deque()
        self._turns: deque[float] = deque()
        self._day, self._hours, self._size, self._since = 0, 0.0, 0, 0.0

    def decided(
        self, *, at: float, wanted: int, current: int, target: int, keep_s: float = 0.0
    ) -> None:
        """
        Note a decision that was carried out, and the wish behind it.

        keep_s: for how long wishes are asked about at most; an hour they are kept anyhow.
        """
        while self._wanted and self._wanted[-1][1] <= wanted:
            self._wanted.pop()
        self._wanted.append((at, wanted))
        while self._wanted[0][0] < at - max(keep_s, KEPT_S) and len(self._wanted) > 1:
            self._wanted.popleft()
        if target == current:
            return
        is_up = target > current
        before, opposite = self.last_up_at, self.last_down_at
        if not is_up:
            before, opposite = opposite, before
        if opposite is not None and (before is None or before < opposite):
            self._turns.append(at)
            while self._turns[0] < at - KEPT_S:
                self._turns.popleft()
        if is_up:
            self.last_up_at = at
        else:
            self.last_down_at = at

    def highest(self, *, since: float, at_least: int) -> int:
        """Return the highest size wanted since a time."""
        for at, wanted in self._wanted:
            if at >= since:
                return max(wanted, at_least)
        return at_least

    def turns(self, *, since: float) -> int:
        """Return how often the direction has changed since a time (an hour back at most)."""
        return sum(1 for at in self._turns if at >= since)

    def paid(self, *, at: float, size: int) -> None:
        """Note how many agents are paid for from now on."""
        self._settle(at)
        self._size = size

    def agent_hours(self, now: float) -> float:
        """Return agent-hours paid since midnight UTC."""
        self._settle(now)
        return self._hours

    def _settle(self, now: float) -> None:
        if now < self._since:
            return
        day = int(now // DAY_S)
        if day != self._day:
            self._day, self._hours, self._since = day, 0.0, max(self._since, day * DAY_S)
        self._hours += self._size * (now - self._since) / 3600
        self._since = now

    def state(self) -> dict[str, Any]:
        """Return all of it as JSON."""
        return {
            "last_up_at": self.last_up_at,
            "last_down_at": self.last_down_at,
            "wanted": [list(each) for each in self._wanted],
            "turns": list(self._turns),
            "paid": [self._day, self._hours, self._size, self._since],
        }

    @classmethod
    def restored(cls, state: Mapping[str, Any]) -> "History":
        """Return the history of a stored state."""
        made = cls()
        made.last_up_at, made.last_down_at = state["last_up_at"], state["last_down_at"]
        made._wanted = deque((at, wanted) for at, wanted in state["wanted"])
        made._turns = deque(state["turns"])
        made._day, made._hours, made._size, made._since = state["paid"]
        return made
