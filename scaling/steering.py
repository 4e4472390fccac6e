"""
Steers by what became of the requests: how far the reserve's share is to move from the learnt one.

Pure; times in seconds. The SLO is a budget of late requests. Whatever took more than its share of
the last weeks, surges included, is paid back: less is aimed at, until the budget is in order.
Around that aim the last days steer, for bursts come in company.
"""

import math
from collections.abc import Mapping
from typing import Any

# The past has always seen too little: what is added to the logarithm of the share, always.
MARGIN = -0.15
# The budget: its memory, requests at the aim that it begins with, how many times what is above the
# aim is taken from it, and the share of the aim that is left however much was late: to hold more
# than that against ordinary days gives nothing back of what a batch of hundreds took.
BUDGET_S, BUDGET_DOUBT, PAID_BACK, LEAST_AIM = 10 * 86_400.0, 1000.0, 3.0, 0.4
# The last days: their memory, what as many late ones as the aim weigh, requests at the aim that
# they begin with, and the bounds of what they add.
NEAR_S, WEIGHT, NEAR_DOUBT = 3 * 86_400.0, 2.0, 200.0
NEAR_LEAST, NEAR_MOST = -3.0, 0.7


class Steering:
    """What is known of the requests that were served, and what follows from it."""

    def __init__(self, *, late: float) -> None:
        """Begin with nothing known. late: the share of late requests that the budget allows."""
        self.late = late
        self.requests, self.late_requests = 0, 0
        # Requests and late ones, forgotten: of weeks, all of them; of days, without large surges.
        self._all, self._all_late = 0.0, 0.0
        self._near, self._near_late = 0.0, 0.0
        self._at = 0.0

    def judged(self, *, at: float, is_late: bool, is_steering: bool = True) -> None:
        """
        Count a request of which it is known whether it waited longer than the SLO.

        is_steering: False for those of a large surge: no reserve that anybody would pay for had
        helped, so that they are paid back, but say nothing of the reserve.
        """
        self.requests += 1
        self.late_requests += is_late
        self._fade(at)
        self._all += 1
        self._all_late += is_late
        if is_steering:
            self._near += 1
            self._near_late += is_late

    def aim(self, now: float) -> float:
        """Return the share of late requests to aim at, so that the budget comes into order."""
        self._fade(now)
        taken = (self._all_late + BUDGET_DOUBT * self.late) / (self._all + BUDGET_DOUBT)
        aim = self.late + PAID_BACK * (self.late - taken)
        return min(max(aim, LEAST_AIM * self.late), self.late)

    def correction(self, now: float) -> float:
        """Return what to add to the logarithm of the share."""
        aim = self.aim(now)
        late_share = (self._near_late + NEAR_DOUBT * aim) / (self._near + NEAR_DOUBT)
        near = WEIGHT * (1 - late_share / aim)
        return MARGIN + min(max(near, NEAR_LEAST), NEAR_MOST)

    def _fade(self, now: float) -> None:
        passed = now - self._at
        if passed <= 0:
            return
        kept = math.exp(-passed / BUDGET_S)
        self._all *= kept
        self._all_late *= kept
        kept = math.exp(-passed / NEAR_S)
        self._near *= kept
        self._near_late *= kept
        self._at = now

    def state(self) -> dict[str, Any]:
        """Return all of it as JSON."""
        return {name: getattr(self, name) for name in _KEPT}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take a stored state."""
        for name in _KEPT:
            setattr(self, name, state[name])


_KEPT = ("requests", "late_requests", "_all", "_all_late", "_near", "_near_late", "_at")
