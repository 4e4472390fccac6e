"""
Foretells demand some minutes ahead, keeps its own track record, and steps back when it loses.

Pure. Counts are arrivals; rates in the seed's DemandPrediction are per minute. The rival is the
seasonal naive forecast: as many as in the same minutes a week ago (a day ago in the first week).
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scaling.arrivals import DAY_SLOTS, SLOT_S, WEEK_SLOTS, Profile

KEPT = 0.5 ** (1 / WEEK_SLOTS)  # for each forecast, one every ten minutes: half counts after a week
ENOUGH = DAY_SLOTS
LEVEL_SLOTS = 6
# How much the level of the last hour moves: an hour's own count against four expected arrivals.
LEVEL_WEIGHT = 4.0
SURGE_FROM = 2.0


@dataclass(frozen=True)
class Announced:
    """Work that is known ahead: `count` requests from `at` on, spread over `spread_s` seconds."""

    at: float
    count: float
    spread_s: float = 60.0
    name: str = ""


@dataclass(frozen=True)
class DemandPrediction:
    """
    The seed's fields; demand in requests a minute, over `time_horizon_minutes` from now.

    predicted = base x seasonal x event. confidence: 1 - own mean error / mean count, 0 to 1, as
    measured; None until a day of forecasts could be judged. skill: how far the own error lies
    below the naive one's (negative: it loses). source: `seasonal`, or `naive` when it loses.
    """

    time_horizon_minutes: float
    predicted_demand: float
    base_demand: float
    seasonal_multiplier: float
    event_multiplier: float
    peak_demand_ratio: float
    confidence: float | None
    skill: float | None
    source: str
    reason: str


class Forecast:
    """Forecasts of one pool over a fixed horizon, and how they came out."""

    def __init__(self, *, horizon_s: float = 1800.0) -> None:
        self.horizon = max(1, round(horizon_s / SLOT_S))
        self.counts: deque[int] = deque(maxlen=WEEK_SLOTS + self.horizon)
        self.judged, self.own_error, self.naive_error, self.came = 0.0, 0.0, 0.0, 0.0
        self._open: deque[tuple[int, float, float | None]] = deque()
        self.slot: int | None = None

    def close(self, slot: int, count: int, profile: Profile) -> None:
        """Take the count of a slot that has ended, judge what is due, and forecast anew."""
        self.slot = slot
        self.counts.append(count)
        while self._open and self._open[0][0] + self.horizon <= slot:
            _, own, naive = self._open.popleft()
            if naive is not None:
                self._judge(own, naive, sum(list(self.counts)[-self.horizon :]))
        base, seasonal = self._parts((slot + 1) * SLOT_S, profile)
        self._open.append((slot, base * seasonal * self.horizon * SLOT_S, self._naive()))

    def _judge(self, own: float, naive: float, came: int) -> None:
        self.judged = self.judged * KEPT + 1
        self.own_error = self.own_error * KEPT + abs(own - came)
        self.naive_error = self.naive_error * KEPT + abs(naive - came)
        self.came = self.came * KEPT + came

    @property
    def skill(self) -> float | None:
        """How far the own mean error lies below the naive one's, as a share of it."""
        if self.judged < ENOUGH:
            return None
        if self.naive_error == 0:
            return 0.0 if self.own_error == 0 else -1.0
        return 1 - self.own_error / self.naive_error

    def predict(
        self,
        *,
        now: float,
        profile: Profile,
        recent: float,
        announced: Sequence[Announced],
        surging: int = 0,
    ) -> DemandPrediction:
        """
        Return the demand expected over the horizon.

        recent: rate of the last ten minutes, per second: it counts when it exceeds twice the usual.
        surging: arrivals that are expected of surges, over the horizon.
        """
        horizon_s = self.horizon * SLOT_S
        base, seasonal = self._parts(now, profile)
        skill, naive = self.skill, self._naive()
        is_off = skill is not None and skill < 0 and naive is not None
        if is_off and naive is not None:
            base, seasonal = naive / horizon_s, 1.0
        ends = now + horizon_s
        known = surging + sum(each.count for each in announced if now <= each.at < ends)
        event = _event(
            usual=base * seasonal * horizon_s, ratio=recent / max(base, 1e-9), known=known
        )
        confidence = max(0.0, 1 - self.own_error / max(self.came, 1e-9))
        return DemandPrediction(
            time_horizon_minutes=horizon_s / 60,
            predicted_demand=60 * base * seasonal * event,
            base_demand=60 * base,
            seasonal_multiplier=seasonal,
            event_multiplier=event,
            peak_demand_ratio=max(seasonal, event),
            confidence=None if skill is None else confidence,
            skill=skill,
            source="naive" if is_off else "seasonal",
            reason=_why(skill, is_off),
        )

    def _parts(self, now: float, profile: Profile) -> tuple[float, float]:
        """Return the level (per second), and the usual rate of the horizon over that of now."""
        here = profile.rates(now)[1]
        lately = list(self.counts)[-LEVEL_SLOTS:]
        usual = here * SLOT_S * len(lately)
        level = here * (sum(lately) + LEVEL_WEIGHT) / (usual + LEVEL_WEIGHT)
        ahead = [profile.rates(now + step * SLOT_S)[1] for step in range(self.horizon)]
        return level, sum(ahead) / len(ahead) / here

    def _naive(self) -> float | None:
        for back in (WEEK_SLOTS, DAY_SLOTS):
            if len(self.counts) >= back:
                counts = list(self.counts)[-back:]
                return float(sum(counts[: self.horizon]))
        return None

    def state(self) -> dict[str, Any]:
        """Return all of it as JSON."""
        return {
            "horizon": self.horizon,
            "slot": self.slot,
            "counts": list(self.counts),
            "open": [list(each) for each in self._open],
            **{name: getattr(self, name) for name in _SUMS},
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take a stored state."""
        self.horizon, self.slot = state["horizon"], state["slot"]
        self.counts = deque(state["counts"], maxlen=WEEK_SLOTS + self.horizon)
        self._open = deque((slot, own, naive) for slot, own, naive in state["open"])
        for name in _SUMS:
            setattr(self, name, state[name])


_SUMS = ("judged", "own_error", "naive_error", "came")


def _event(*, usual: float, ratio: float, known: float) -> float:
    """Return what events multiply the usual count by: a higher rate, or arrivals known beside."""
    return max(1.0, ratio if ratio > SURGE_FROM else 1.0, 1 + known / max(usual, 1e-9))


def _why(skill: float | None, is_off: bool) -> str:
    if skill is None:
        return "no day of forecasts has been judged yet"
    if is_off:
        return f"switched off: its error is {-skill:.0%} above the naive forecast's"
    return f"its error is {skill:.0%} below the naive forecast's"
