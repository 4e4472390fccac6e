"""
Learns how fast work arrives, of late and usually at this time, and what that says of the next.

Pure: the caller brings the times. Rates are per second. The expected count in the next window is a
weighted sum of the rates, with weights >= 0 fitted to what came after (weighted least squares, the
weights of a Poisson count, forgetting). A seasonal profile that tells nothing gets weight 0.
"""

import math
from collections.abc import Mapping
from operator import mul
from typing import Any

import numpy as np

DAY_S = 86_400.0
SLOT_S = 600.0
DAY_SLOTS = int(DAY_S / SLOT_S)
WEEK_SLOTS = 7 * DAY_SLOTS
# Seconds over which the recent rates forget: from "right now" to "today".
MEMORIES_S = (30.0, 120.0, 600.0, 3600.0, 21_600.0, 86_400.0)
# What a day, and a week, ago still counts for in the profiles.
DAY_KEPT, WEEK_KEPT = 0.85, 0.7
# Slots to either side over which a profile is smoothed.
SMOOTH = 3
# Before anything is fitted: a mixture that follows within minutes.
PRIOR = (0.0, 0.2, 0.3, 0.5, 0.0, 0.0, 0.0, 0.0, 0.0)
FEATURES = (*(f"rate over {memory:g} s" for memory in MEMORIES_S), "day", "week", "mean")
HALF_LIFE_S = 7 * DAY_S
RIDGE = 0.01
LEAST_MEAN = 1e-5
# Windows that are added up together.
TOGETHER = 32


class Profile:
    """The usual rate in each ten minutes of the day and of the week, and the rate now and then."""

    def __init__(self) -> None:
        self.day, self.day_s = np.zeros(DAY_SLOTS), np.zeros(DAY_SLOTS)
        self.week, self.week_s = np.zeros(WEEK_SLOTS), np.zeros(WEEK_SLOTS)
        self.slot: int | None = None
        self.count = 0
        self._known: tuple[int, tuple[float, float, float]] | None = None

    def arrived(self, at: float) -> None:
        """Count one arrival."""
        self.advance(at)
        self.count += 1

    def advance(self, now: float) -> None:
        """Close the slots that have ended; a gap of more than eight weeks is closed as one."""
        slot = int(now // SLOT_S)
        if self.slot is None:
            self.slot = slot
        if slot - self.slot > 8 * WEEK_SLOTS:
            self.slot = slot - 8 * WEEK_SLOTS
        while self.slot < slot:
            in_week = self.slot % WEEK_SLOTS
            in_day = in_week % DAY_SLOTS
            self.week[in_week] = self.week[in_week] * WEEK_KEPT + self.count
            self.week_s[in_week] = self.week_s[in_week] * WEEK_KEPT + SLOT_S
            self.day[in_day] = self.day[in_day] * DAY_KEPT + self.count
            self.day_s[in_day] = self.day_s[in_day] * DAY_KEPT + SLOT_S
            self.slot, self.count = self.slot + 1, 0

    def rates(self, at: float) -> tuple[float, float, float]:
        """
        Return the usual rate at this time of day, of the week, and at any time.

        Each leans on the next coarser one with the weight of an hour (the week's: of three).
        """
        slot = int(at // SLOT_S)
        if self._known is not None and self._known[0] == slot:
            return self._known[1]
        mean = (float(self.day.sum()) + 1) / (float(self.day_s.sum()) + SLOT_S)
        around = np.arange(slot - SMOOTH, slot + SMOOTH + 1)
        days = around % DAY_SLOTS
        day = (float(self.day[days].sum()) + mean * 3600) / (float(self.day_s[days].sum()) + 3600)
        weeks = around % WEEK_SLOTS
        week = (float(self.week[weeks].sum()) + day * 10_800) / (
            float(self.week_s[weeks].sum()) + 10_800
        )
        self._known = (slot, (day, week, mean))
        return day, week, mean

    def state(self) -> dict[str, Any]:
        """Return all of it as JSON."""
        return {
            "slot": self.slot,
            "count": self.count,
            **{name: _short(getattr(self, name)) for name in ("day", "day_s", "week", "week_s")},
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take a stored state."""
        self.slot, self.count = state["slot"], state["count"]
        for name in ("day", "day_s", "week", "week_s"):
            setattr(self, name, np.array(state[name], dtype=float))
        self._known = None


class Arrivals:
    """The expected count of arrivals in the next `window_s` seconds."""

    def __init__(self, *, window_s: float) -> None:
        self.window_s = window_s
        self.profile = Profile()
        self.recent = [0.0] * len(MEMORIES_S)
        self.at = 0.0
        self.weights = list(PRIOR)
        self._products = np.zeros((len(PRIOR), len(PRIOR)))
        self._counts = np.zeros(len(PRIOR))
        self._seen: list[list[float]] = []

    def arrived(self, at: float, *, is_telling: bool = True) -> None:
        """Count one arrival; times never go back. is_telling: it says something of the rate."""
        self._fade(at)
        self.profile.arrived(at)
        if not is_telling:
            return
        for place, memory in enumerate(MEMORIES_S):
            self.recent[place] += 1 / memory

    def features(self, now: float) -> list[float]:
        """Return the rates that an expectation is made of, in the order of FEATURES."""
        self._fade(now)
        self.profile.advance(now)
        return [*self.recent, *self.profile.rates(now)]

    def expected(self, rates: list[float]) -> float:
        """Return the expected count in a window that begins at these rates."""
        total: float = sum(map(mul, self.weights, rates))
        return max(total * self.window_s, LEAST_MEAN)

    def learn(self, rates: list[float], count: int) -> None:
        """Add what came in a window that began at these rates."""
        self._seen.append([*rates, count])
        if len(self._seen) >= TOGETHER:
            self._add()

    def _add(self) -> None:
        """Add the gathered windows to the sums, all at once: numpy is slow on one row."""
        if not self._seen:
            return
        seen = np.array(self._seen)
        self._seen.clear()
        means, counts = seen[:, :-1] * self.window_s, seen[:, -1]
        weight = 1 / (np.maximum(means @ np.array(self.weights), LEAST_MEAN) + 0.01)
        kept = 0.5 ** (len(seen) * self.window_s / HALF_LIFE_S)
        self._products = self._products * kept + (means * weight[:, None]).T @ means
        self._counts = self._counts * kept + means.T @ (counts * weight)

    def fit(self) -> None:
        """Find the weights anew: least squares, none below 0, drawn a little to the prior."""
        self._add()
        drawn = np.diag(self._products) * RIDGE + 1e-9
        products = self._products + np.diag(drawn)
        counts = self._counts + drawn * np.array(PRIOR)
        weights = np.array(self.weights)
        for _ in range(60):
            for place in range(len(weights)):
                rest = counts[place] - products[place] @ weights
                here = weights[place] + rest / products[place, place]
                weights[place] = max(here, 0.0)
        self.weights = [float(weight) for weight in weights]

    def forget_window(self, *, window_s: float) -> None:
        """Start to learn the weights for another window; the rates stay."""
        self.window_s = window_s
        self._seen.clear()
        self._products[:] = 0
        self._counts[:] = 0

    def _fade(self, now: float) -> None:
        passed = now - self.at
        if passed > 0:
            recent = self.recent
            for place, memory in enumerate(MEMORIES_S):
                recent[place] *= math.exp(-passed / memory)
            self.at = now

    def state(self) -> dict[str, Any]:
        """Return all of it as JSON."""
        return {
            "window_s": self.window_s,
            "at": self.at,
            "recent": self.recent,
            "weights": self.weights,
            "seen": self._seen,
            "products": self._products.tolist(),
            "counts": self._counts.tolist(),
            "profile": self.profile.state(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take a stored state."""
        self.window_s, self.at = state["window_s"], state["at"]
        self.recent, self.weights = list(state["recent"]), list(state["weights"])
        self._seen = [list(row) for row in state["seen"]]
        self._products = np.array(state["products"], dtype=float)
        self._counts = np.array(state["counts"], dtype=float)
        self.profile.restore(state["profile"])


def _short(values: "np.ndarray") -> list[float]:
    return [float(f"{value:.9g}") for value in values.tolist()]
