"""
Learns one pool's demand, event by event: what to expect, and how much to hold in reserve for it.

Pure: every call brings its time, and times never go back. The live loop feeds it the rows that are
new since it was stored; the simulator feeds it a trace. Both then ask for the same `Outlook`.

A request that arrives within `lead_s` = start-up + reaction - SLO can't be helped by an agent that
is launched after it. So the reserve must cover, with the wanted certainty, the arrivals of such a
window less the work that ends before their patience does.
"""

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from scaling.arrivals import SLOT_S, WEEK_SLOTS, Arrivals
from scaling.durations import Durations
from scaling.forecast import Announced, DemandPrediction, Forecast
from scaling.steering import Steering
from scaling.surges import Foreseen, Surges
from scaling.tails import FIRST_LOG, LEAST_LOG, MOST_LOG, Tails

VERSION = 3
# Shorter windows cost more than they tell; without a lead they only feed the forecast.
LEAST_WINDOW_S, NO_LEAD_WINDOW_S = 5.0, 60.0
FIT_FIRST_S, FIT_EVERY_S = 3600.0, 6 * 3600.0
# Of few requests, this share of those that may be late, one a window: the least share of windows.
SPARSE, LEAST_SHARE = 0.6, 1e-9
# Windows are learnt for one lead; another that differs less than this share does not matter.
LEAD_TOLERANCE = 0.2
# Announced work counts until it has come, at most so long after its time.
ANNOUNCED_KEPT_S = 900.0
# Surges that recur within the forecast's horizon count as its events.
FORESEEN_S = 1800.0


def trusted_ends(expected: float) -> float:
    """
    Return how many ends may be counted on: at most twice as many as arrivals are expected.

    Work that began together ends together, later than its mean says; a hundred ends that are
    expected and do not come must not be taken for a demand of a hundred.
    """
    return 2 * expected


class StateInvalid(Exception):
    """A stored state is of a version that this code does not read; learning begins anew."""


@dataclass(frozen=True, slots=True)
class Outlook:
    """
    What to expect of the next `lead_s` seconds.

    expected: arrivals. held: spare slots that are exceeded with probability exp(log_share).
    ending: running work that will have ended before whoever arrives now runs out of patience.
    announced: requests known ahead that have not come yet. surge: what a surge asks for that goes
    on or is foreseen; None: nothing.
    """

    lead_s: float
    expected: float
    held: float
    ending: float
    announced: int
    log_share: float
    surge: Foreseen | None = None

    @property
    def spare(self) -> float:
        """Slots to hold beyond those that are busy or asked for; below 0 when enough will end."""
        return self.held - self.ending


class Demand:
    """Everything that is learnt about one pool's demand; small, and stored as JSON."""

    def __init__(self, *, lead_s: float, patience_s: float, late: float) -> None:
        """
        Begin with nothing learnt.

        lead_s: start-up + reaction - SLO, not below 0. patience_s: start-up + reaction. late: the
        share of requests that may be late.
        """
        self.lead_s, self.patience_s, self.late = max(lead_s, 0.0), patience_s, late
        self.arrivals = Arrivals(window_s=_window_s(lead_s))
        self.durations = Durations()
        self.tails = Tails()
        self.steering = Steering(late=late)
        self.surges = Surges()
        self.forecast = Forecast()
        self.running: dict[float, int] = {}
        self.announced: list[Announced] = []
        self.base = FIRST_LOG
        self._window: tuple[float, list[float], float] | None = None
        self._count = 0
        self._usual = 0.0
        self._pending: deque[tuple[float, list[float], float, int]] = deque()
        self._ended: deque[float] = deque()
        self._since, self._next_fit_s = 0.0, FIT_FIRST_S
        self._fitted_at = 0.0

    # -- what happens ------------------------------------------------------------------------------

    def arrived(self, at: float) -> None:
        """Count a request at its arrival, whatever became of it."""
        self.advance(at)
        self._close_slots(at)
        if self._take_announced(at):
            # It says nothing of what is not announced.
            self.arrivals.arrived(at, is_telling=False)
            return
        self._count += 1
        self.surges.arrived(at, rate=self._usual)
        self.arrivals.arrived(at, is_telling=not self.surges.is_in_large(at, at))

    def began(self, at: float) -> None:
        """Count a piece of work that has begun to run."""
        self.advance(at)
        self.running[at] = self.running.get(at, 0) + 1

    def ended(self, at: float, *, began_at: float, story_type: str = "") -> None:
        """Count a piece of work that has ended."""
        self.advance(at)
        left = self.running.get(began_at, 1) - 1
        if left:
            self.running[began_at] = left
        else:
            self.running.pop(began_at, None)
        self.durations.ended(at - began_at, story_type)
        self._ended.append(at)

    def forget_begun_before(self, at: float) -> None:
        """Count no work as running that began earlier: its end was never heard of."""
        self.running = {began: count for began, count in self.running.items() if began >= at}

    def judged(self, *, at: float, arrived_at: float, is_late: bool) -> None:
        """Steer by a request of which it is known whether it waited longer than the SLO."""
        is_steering = not self.surges.is_in_large(arrived_at, arrived_at)
        self.steering.judged(at=at, is_late=is_late, is_steering=is_steering)

    def announce(self, event: Announced) -> None:
        """Take note of work that is known ahead."""
        self.announced.append(event)

    def retuned(self, *, lead_s: float, patience_s: float) -> None:
        """Take another lead (start-up was learnt anew); windows are learnt again if it differs."""
        lead_s = max(lead_s, 0.0)
        if abs(lead_s - self.lead_s) <= LEAD_TOLERANCE * max(self.lead_s, LEAST_WINDOW_S):
            return
        self.lead_s, self.patience_s = lead_s, patience_s
        self.arrivals.forget_window(window_s=_window_s(lead_s))
        self.tails = Tails()
        self.base, self._window = FIRST_LOG, None
        self._pending.clear()

    # -- what to expect ----------------------------------------------------------------------------

    def log_share(self, now: float) -> float:
        """Return the logarithm of the share of windows in which the reserve may be exceeded."""
        log_share = self.base + self.steering.correction(now)
        return min(max(log_share, self._least_log(now)), MOST_LOG)

    def outlook(self, now: float) -> Outlook:
        """Return what to hold in reserve now."""
        self.advance(now)
        expected = self.arrivals.expected(self._rates(now))
        held, log_share, surge = 0.0, self.log_share(now), None
        if self.lead_s > 0:
            held = self.tails.held(expected=expected, log_share=log_share)
            surge = self.surges.foreseen(now, lead_s=self.lead_s, startup_s=self.patience_s)
        return Outlook(
            lead_s=self.lead_s,
            expected=expected,
            held=held,
            ending=min(self._ending(now), trusted_ends(expected)) if self.lead_s > 0 else 0.0,
            announced=self._announced(now) if self.announced else 0,
            log_share=log_share,
            surge=surge,
        )

    def predict(self, now: float) -> DemandPrediction:
        """Return the forecast over its horizon, with its track record."""
        self.advance(now)
        rates = self._rates(now)
        return self.forecast.predict(
            now=now,
            profile=self.arrivals.profile,
            recent=rates[2],
            announced=self.announced,
            surging=self.surges.ahead(now, lead_s=self.lead_s, within_s=FORESEEN_S),
        )

    def rate(self, now: float) -> float:
        """Return arrivals per second over about the last ten minutes."""
        return self._rates(now)[2]

    def peak_ratio(self, now: float, *, ahead_s: float) -> float:
        """Return the usual rate of this time of day some seconds ahead over that of now."""
        profile = self.arrivals.profile
        return profile.rates(now + ahead_s)[0] / profile.rates(now)[0]

    def _least_log(self, now: float) -> float:
        """
        Return how low the logarithm of the share may be.

        A pool of few requests has to hold for longer for each that is not to be late: with the
        least, one late each time the reserve is exceeded must still be within what is aimed at.
        """
        mean = self.arrivals.profile.rates(now)[2] * self.lead_s
        return min(LEAST_LOG, math.log(max(mean * self.late * SPARSE, LEAST_SHARE)))

    def _take_announced(self, at: float) -> bool:
        """Count an arrival for the first announcement that has some left; False: there is none."""
        for place, event in enumerate(self.announced):
            if event.count > 0 and event.at - self.patience_s <= at < _over_at(event):
                self.announced[place] = replace(event, count=event.count - 1)
                return True
        return False

    def _ending(self, now: float) -> float:
        return self.durations.ending(self.running, now=now, within_s=self.patience_s)

    def _announced(self, now: float) -> int:
        self.announced = [
            event for event in self.announced if event.count > 0 and now < _over_at(event)
        ]
        # Launched a start-up and a tick before its time, so that it finds them ready.
        due = [e.count for e in self.announced if e.at - 2 * self.patience_s <= now]
        return round(sum(due))

    # -- learning ----------------------------------------------------------------------------------

    def advance(self, now: float) -> None:
        """Close the windows that have ended, and fit when it is time."""
        self.surges.advance(now)
        if self._window is None:
            self._window = (now, self._rates(now), self._ending(now))
            self._since, self._fitted_at, self._next_fit_s = now, now, now + FIT_FIRST_S
            return
        window_s = self.arrivals.window_s
        while now >= self._window[0] + window_s:
            began, rates, ending = self._window
            self._pending.append((began, rates, ending, self._count))
            self._count = 0
            began += window_s
            self._window = (began, self._rates(began), self._ending(began))
            self._usual = self.arrivals.expected(self._window[1]) / window_s
            self._learn(began)
            if began >= self._next_fit_s:
                self._fit(began)

    def _learn(self, now: float) -> None:
        """Learn from the windows whose patience has ended, too."""
        while self._pending and self._pending[0][0] + self.patience_s <= now:
            began, rates, ending, count = self._pending.popleft()
            while self._ended and self._ended[0] <= began:
                self._ended.popleft()
            if self.surges.is_in_large(began, began + self.arrivals.window_s):
                continue
            ended = sum(1 for at in self._ended if at <= began + self.patience_s)
            expected = self.arrivals.expected(rates)
            # What the ends asked for, beyond what was expected of them, counts as demand.
            trusted = trusted_ends(expected)
            net = round(count - min(ended, trusted) + min(ending, trusted))
            self.tails.learn(expected=expected, arrivals=count, net=net)
            self.arrivals.learn(rates, count)

    def _fit(self, now: float) -> None:
        age_s = now - self._since
        self._next_fit_s = now + min(FIT_EVERY_S, max(FIT_FIRST_S, age_s / 4))
        self.arrivals.fit()
        self.durations.fit()
        self.tails.fit(passed_s=now - self._fitted_at)
        self._fitted_at = now
        self.base = self.tails.allowed_log(late=self.steering.aim(now))

    def _rates(self, now: float) -> list[float]:
        """Return the rates of arrivals; the profile forgets the count of a slot that it closes."""
        self._close_slots(now)
        return self.arrivals.features(now)

    def _close_slots(self, now: float) -> None:
        """Hand the ended ten minutes to the forecast."""
        profile = self.arrivals.profile
        slot = int(now // SLOT_S)
        if profile.slot is None or slot <= profile.slot:
            return
        first = max(profile.slot, slot - WEEK_SLOTS)
        count = profile.count if first == profile.slot else 0
        profile.advance(now)
        for ended in range(first, slot):
            self.forecast.close(ended, count, profile)
            count = 0

    # -- state -------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Return all of it as JSON; a restored one goes on as if nothing had happened."""
        return {
            "version": VERSION,
            **{name: getattr(self, name) for name in _PLAIN},
            **{name: getattr(self, name).state() for name in _PARTS},
            "running": [[at, count] for at, count in self.running.items()],
            "announced": [asdict(event) for event in self.announced],
            "window": self._window,
            "pending": list(self._pending),
            "ended": list(self._ended),
        }

    @classmethod
    def restored(cls, state: Mapping[str, Any]) -> "Demand":
        """Return the demand of a stored state; raises StateInvalid, it is of another version."""
        if state.get("version") != VERSION:
            raise StateInvalid(f"version {state.get('version')!r}, not {VERSION}")
        made = cls(lead_s=state["lead_s"], patience_s=state["patience_s"], late=state["late"])
        for name in _PLAIN:
            setattr(made, name, state[name])
        for name in _PARTS:
            getattr(made, name).restore(state[name])
        made.running = dict(state["running"])
        made.announced = [Announced(**event) for event in state["announced"]]
        made._window = tuple(state["window"]) if state["window"] else None
        made._pending = deque(tuple(each) for each in state["pending"])
        made._ended = deque(state["ended"])
        return made


def _over_at(event: Announced) -> float:
    """Return until when announced work may still come."""
    return event.at + event.spread_s + ANNOUNCED_KEPT_S


def _window_s(lead_s: float) -> float:
    return max(lead_s, LEAST_WINDOW_S) if lead_s > 0 else NO_LEAD_WINDOW_S


_PARTS = ("arrivals", "durations", "tails", "steering", "surges", "forecast")
_PLAIN = (
    "lead_s",
    "patience_s",
    "late",
    "base",
    "_count",
    "_usual",
    "_since",
    "_next_fit_s",
    "_fitted_at",
)
