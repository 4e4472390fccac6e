"""
Notices surges, many requests within seconds where few were expected, and foresees those that recur.

Pure: every call brings its time. Of a surge that goes on, as many as came of late are expected over
the next lead, and more; of one that came at this time of the day or of the week on most of the
last days or weeks, as many as then. What a large surge brings says nothing of the days without one:
nothing else learns from it.
"""

import math
from bisect import bisect_right
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

DAY_S = 86_400.0
# A sum of the arrivals that drains by DRAIN a second and by so many times the expected ones, and is
# not below 0 (CUSUM), begins a surge at BEGINS. It is over when QUIET_S bring less than DRAIN a
# second and half so many times the expected ones.
BEGINS, DRAIN, TIMES, QUIET_S = 12.0, 0.25, 4.0, 30.0
# What goes on for longer is no surge but how things are now; none begins until the sum was 0 again.
LONGEST_S = 900.0
# From so many on it is none of the bursts that are held for all the time.
LARGE = 50
# While it goes on: so many times its pace of the last PACE_S, for a minute at most, and no more in
# all than the largest of the newest past ones brought, until it is larger itself.
PACE_TIMES, PACE_S, LEAST_PACE_S, PACE_UPTO_S = 2.0, 15.0, 2.0, 60.0
NEWEST = 8
# Past surges are kept for so long, and at most so many of them.
KEPT_S, MOST_KEPT = 28 * DAY_S, 100
# One recurs when it came around the same time, twice at least, on this share of the days or weeks.
AROUND_S, RECURS_SHARE = 180.0, 0.5
PERIODS = {"day": DAY_S, "week": 7 * DAY_S}


@dataclass(frozen=True, slots=True)
class Surge:
    """
    A surge: its first arrival, how many came, how many were expected, its last arrival.

    ended_at: infinite while it goes on. expected: by the pace before it, until its last arrival.
    """

    began_at: float
    arrivals: int
    expected: float
    ended_at: float = math.inf

    @property
    def is_large(self) -> bool:
        """Whether it is beyond what a reserve that is held all the time is for."""
        return self.arrivals >= LARGE


@dataclass(frozen=True, slots=True)
class Foreseen:
    """
    What surges ask for now.

    held: slots. surge: the one that goes on; None: one is foreseen, for it came `times` times at
    this time of each `period`. past: how many earlier large ones brought on average; None: none.
    """

    held: int
    surge: Surge | None = None
    times: int = 0
    period: str = ""
    past: float | None = None

    @property
    def said(self) -> str:
        """The sentence that says why, a form for the inputs."""
        past = "" if self.past is None else "; past ones brought {surge_past:.0f}"
        return (_DUE if self.surge is None else _GOES_ON) + past

    def inputs(self, now: float) -> dict[str, Any]:
        """Return what is known of it, under the names that a decision keeps it by."""
        known: dict[str, Any] = {"surge_held": self.held}
        if self.past is not None:
            known["surge_past"] = self.past
        if self.surge is None:
            return {**known, "surge_times": self.times, "surge_period": self.period}
        return {
            **known,
            "surge_s": now - self.surge.began_at,
            "surge_arrivals": self.surge.arrivals,
            "surge_expected": self.surge.expected,
        }


_GOES_ON = (
    "a surge began {surge_s:.0f} s ago: {surge_arrivals} arrivals where {surge_expected:.2g} were"
    " expected; room is held for {surge_held} more"
)
_DUE = (
    "a surge is due: {surge_times} came about this time of the {surge_period};"
    " room is held for {surge_held}"
)


class Surges:
    """The surge that goes on, those of the last weeks, and what follows from them."""

    def __init__(self) -> None:
        self.current: Surge | None = None
        # Large ones; and how many came in each of the newest of any size.
        self.past: deque[Surge] = deque(maxlen=MOST_KEPT)
        self.newest: deque[int] = deque(maxlen=NEWEST)
        # Arrivals of the last QUIET_S, in the order of time: thousands, in a storm.
        self._lately: list[float] = []
        self._rate = 0.0
        # The sum, when it was last counted, since when it is above 0, of how many arrivals.
        self._sum, self._at, self._since, self._arrivals = 0.0, 0.0, 0.0, 0
        self._is_level = False

    def arrived(self, at: float, *, rate: float) -> None:
        """Count an arrival. rate: arrivals per second that were expected as it came."""
        self._lately.append(at)
        if self._lately[0] <= at - QUIET_S:
            del self._lately[: bisect_right(self._lately, at - QUIET_S)]
        if self.current is not None:
            self.current = replace(
                self.current,
                arrivals=self.current.arrivals + 1,
                expected=(at - self.current.began_at) * self._rate,
            )
            return
        self._sum -= (at - self._at) * (DRAIN + TIMES * rate)
        self._at = at
        if self._sum <= 0:
            self._sum, self._since, self._arrivals, self._is_level = 0.0, at, 0, False
        self._sum = min(self._sum + 1, BEGINS)
        self._arrivals += 1
        if self._sum >= BEGINS and not self._is_level:
            self._rate = rate
            self.current = Surge(self._since, self._arrivals, (at - self._since) * rate)

    def advance(self, now: float) -> None:
        """End the surge when it has calmed down, or gone on for too long to be one."""
        surge = self.current
        if surge is None:
            return
        is_calm = self._count(now, QUIET_S) < QUIET_S * (DRAIN + TIMES * self._rate / 2)
        lasted_s = (self._lately[-1] if is_calm else now) - surge.began_at
        if not is_calm and lasted_s <= LONGEST_S:
            return
        self.current, self._at, self._is_level = None, now, lasted_s > LONGEST_S
        if self._is_level:
            return
        self._sum = 0.0
        self.newest.append(surge.arrivals)
        if surge.is_large:
            self.past.append(replace(surge, ended_at=self._lately[-1]))
        while self.past and self.past[0].began_at < now - KEPT_S:
            self.past.popleft()

    def is_in_large(self, begin: float, end: float) -> bool:
        """Return whether the time between, both included, has to do with a large surge."""
        current = self.current
        if current is not None and current.is_large and current.began_at <= end:
            return True
        return any(past.began_at <= end and begin <= past.ended_at for past in self.past)

    def foreseen(self, now: float, *, lead_s: float, startup_s: float) -> Foreseen | None:
        """
        Return what to hold for surges now; None: nothing.

        lead_s: for as long no launch after now helps. startup_s: how long before its time a surge
        has to be launched for.
        """
        self.advance(now)
        if self.current is None:
            return self._recurring(now, startup_s)
        return Foreseen(
            self._to_come(self.current, now, lead_s), self.current, past=self.mean_past()
        )

    def ahead(self, now: float, *, lead_s: float, within_s: float) -> int:
        """Return how many arrivals of surges are foreseen: of this one, or of those that recur."""
        if self.current is not None:
            return self._to_come(self.current, now, lead_s)
        step_s = 2 * AROUND_S
        steps = (self._recurring(now + n * step_s, 0.0) for n in range(1 + int(within_s / step_s)))
        return max((found.held for found in steps if found is not None), default=0)

    def mean_past(self) -> float | None:
        """Return how many the past large surges brought on average; None: there was none."""
        sizes = [surge.arrivals for surge in self.past]
        return sum(sizes) / len(sizes) if sizes else None

    def _to_come(self, surge: Surge, now: float, lead_s: float) -> int:
        """Return how many more of a surge are to be held for: its pace goes on for the lead."""
        span_s = min(max(now - surge.began_at, LEAST_PACE_S), PACE_S)
        pace = PACE_TIMES * self._count(now, span_s) / span_s
        left = max(self.newest, default=0) - surge.arrivals
        to_come = math.ceil(pace * min(lead_s, PACE_UPTO_S))
        return min(to_come, left) if left > 0 else to_come

    def _recurring(self, now: float, startup_s: float) -> Foreseen | None:
        if len(self.past) < 2 or now - self.past[-1].began_at <= 2 * AROUND_S + startup_s:
            return None
        found = None
        for period, period_s in PERIODS.items():
            alike = [s for s in self.past if _is_around(now - s.began_at, period_s, startup_s)]
            if len(alike) < 2:
                continue
            passed = max(round((now - alike[0].began_at) / period_s), len(alike))
            held = max(surge.arrivals for surge in alike)
            if len(alike) >= RECURS_SHARE * passed and (found is None or held > found.held):
                found = Foreseen(held, None, len(alike), period, self.mean_past())
        return found

    def _count(self, now: float, span_s: float) -> int:
        return len(self._lately) - bisect_right(self._lately, now - span_s)

    def state(self) -> dict[str, Any]:
        """Return all of it as JSON."""
        return {
            "current": None if self.current is None else _unended(self.current),
            "past": [asdict(surge) for surge in self.past],
            "newest": list(self.newest),
            "lately": list(self._lately),
            **{name: getattr(self, name) for name in _KEPT},
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take a stored state."""
        self.current = Surge(**state["current"]) if state["current"] else None
        self.past = deque((Surge(**each) for each in state["past"]), maxlen=MOST_KEPT)
        self.newest = deque(state["newest"], maxlen=NEWEST)
        self._lately = list(state["lately"])
        for name in _KEPT:
            setattr(self, name, state[name])


_KEPT = ("_rate", "_sum", "_at", "_since", "_arrivals", "_is_level")


def _unended(surge: Surge) -> dict[str, float]:
    """Return a surge that goes on as JSON, which knows no infinity."""
    return {name: value for name, value in asdict(surge).items() if name != "ended_at"}


def _is_around(passed_s: float, period_s: float, startup_s: float) -> bool:
    """Return whether whole periods have passed, AROUND_S more or less, or will have by then."""
    if passed_s < period_s / 2:
        return False
    over_s = passed_s % period_s
    if over_s > period_s / 2:
        over_s -= period_s
    return -(startup_s + AROUND_S) <= over_s <= AROUND_S
