"""Until when, and whether, the work under a lease may go on; shared between threads."""

import threading
from enum import StrEnum

from agentpool.client import clock

# Between asking the work to end and killing it.
GRACE_S = 10.0
# The work is asked to end so long before its lease does, at most a quarter of the term.
_MARGIN_S = 12.0
_MARGIN_SHARE = 0.25
# The same before the hard end, which no renewal moves: the work may use nearly all of its time.
_HARD_MARGIN_S = 2.0
_HARD_MARGIN_SHARE = 0.1
# Of that margin, what the work gets to end by itself; the rest is for killing it.
_GRACE_SHARE = 0.8
# The server cuts leases at their hard end; such a one is known by ending no earlier than that.
_SAME_S = 0.5


class Reason(StrEnum):
    """Why the work is stopped from outside."""

    LOST = "lost"
    CANCELLED = "cancelled"
    LEAVING = "leaving"
    TIMEOUT = "timeout"
    UNRENEWED = "unrenewed"
    LIMIT = "limit"


class Control:
    """
    The say over one lease's work.

    The lease is counted by this machine's clock from the moment the last acknowledged renewal was
    *sent*, so its end here always comes before the server's.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._reason: Reason | None = None
        self._note = ""
        self._lease_end_at: float | None = None
        self._margin_s = _MARGIN_S
        self._hard_end_at: float | None = None
        self._hard_margin_s = _HARD_MARGIN_S
        self._is_urgent = False

    def renewed(self, *, sent_at: float, expires_in_s: float) -> None:
        """Note that a renewal sent at `sent_at` makes the lease hold `expires_in_s` from then."""
        with self._lock:
            end_at = sent_at + expires_in_s
            # Answers may overtake each other; a later end stays.
            if self._lease_end_at is None or end_at > self._lease_end_at:
                self._lease_end_at = end_at
                self._margin_s = min(_MARGIN_S, expires_in_s * _MARGIN_SHARE)

    def ends(self, *, at: float) -> None:
        """Set the moment at which the lease ends whatever happens; the work stops just before."""
        with self._lock:
            self._hard_end_at = at
            self._hard_margin_s = min(_HARD_MARGIN_S, (at - clock.now()) * _HARD_MARGIN_SHARE)

    def stop(self, reason: Reason, note: str = "", *, is_urgent: bool = False) -> None:
        """
        Stop the work; LOST wins over anything said before, else the first reason stays.

        `is_urgent` leaves the work no time to end by itself.
        """
        with self._lock:
            self._is_urgent = self._is_urgent or is_urgent
            if self._reason is None or reason is Reason.LOST:
                self._reason, self._note = reason, note

    @property
    def note(self) -> str:
        """What was said along with the reason."""
        return self._note

    @property
    def is_urgent(self) -> bool:
        """Whether the work must be gone now."""
        return self._is_urgent or self.is_lost

    @property
    def is_lost(self) -> bool:
        """Whether the lease belongs to somebody else now."""
        return self._reason is Reason.LOST

    def reason(self) -> Reason | None:
        """Return why the work must stop now, None while it may go on."""
        now = clock.now()
        with self._lock:
            due = self._due()
            if self._reason is None and due is not None and now >= due[0]:
                self._reason = due[1]
            return self._reason

    def grace_s(self, reason: Reason) -> float:
        """Return how long the work gets to end by itself; none when the lease is lost."""
        with self._lock:
            if reason in (Reason.LOST, Reason.LIMIT) or self._is_urgent:
                return 0.0
            due = self._due()
            if due is None:
                return GRACE_S
            # A cancelled work, too, must be gone before its lease is.
            stop_at, _, margin_s = due
            return min(GRACE_S, max(0.0, stop_at + margin_s * _GRACE_SHARE - clock.now()))

    def _due(self) -> tuple[float, Reason, float] | None:
        """When the work must stop by the clock, why, and how long before the end that is."""
        lease_end, hard_end = self._lease_end_at, self._hard_end_at
        if hard_end is not None and (lease_end is None or lease_end >= hard_end - _SAME_S):
            return hard_end - self._hard_margin_s, Reason.TIMEOUT, self._hard_margin_s
        if lease_end is None:
            return None
        return lease_end - self._margin_s, Reason.UNRENEWED, self._margin_s
