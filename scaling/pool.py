"""A pool as it stands at one moment, as decisions see it; pure."""

import math
from dataclasses import dataclass, replace

from scaling.standby import Sizes


@dataclass(frozen=True, slots=True)
class Apart:
    """
    Slots on duty that are of no use to whoever waits.

    ready: of agents that are idle or busy, and of these `busy` ones that will be no use when they
    are free again, either. starting: of those still to come. idle: agents, not slots, without any
    work.
    """

    ready: int = 0
    busy: int = 0
    starting: int = 0
    idle: int = 0

    @property
    def slots(self) -> int:
        """All of them, free, busy or still to come."""
        return self.ready + self.starting

    @property
    def free(self) -> int:
        """Those without work."""
        return self.slots - self.busy


NOBODY = Apart()


@dataclass(frozen=True, slots=True)
class PoolState:
    """
    A pool as it stands; all but the sizes of agents in slots, one lease each.

    ready: slots of agents that are idle or busy. starting: slots still to come. standby: of those
    that a wake would bring. kept: agents among them that an operator put there. Draining agents
    supply nothing and are not counted. rate: arrivals per second, last ten minutes. service_s:
    mean of the last 500. average_wait_s: of those started in the last 300 s and those waiting.
    startup_s: 0.9 quantile of the pool's launches, None: the policy's. None elsewhere: not known.
    waiting: those whom another agent would help. apart: what of all this could serve none of them;
    nothing, while nobody waits. held_back: what serves nobody, in quarantine or maintenance; it is
    not in `apart`. slots_per_agent: of new ones. counted: the pool in agents, None: each has so
    many slots; its `busy` is not looked at.
    """

    ready: int
    busy: int
    starting: int = 0
    waiting: int = 0
    rate: float | None = None
    service_s: float | None = None
    average_wait_s: float | None = None
    peak_demand_ratio: float = 1.0
    slots_per_agent: int = 1
    observed_at: float | None = None
    standby: int = 0
    kept: int = 0
    startup_s: float | None = None
    apart: Apart = NOBODY
    held_back: Apart = NOBODY
    counted: Sizes | None = None

    @property
    def of_use(self) -> "PoolState":
        """The pool as whoever waits sees it: without what could not serve them."""
        without = (self.apart, self.held_back)
        ready = max(0, self.ready - sum(each.ready for each in without))
        return replace(
            self,
            ready=ready,
            busy=min(ready, max(0, self.busy - sum(each.busy for each in without))),
            starting=max(0, self.starting - sum(each.starting for each in without)),
            apart=NOBODY,
            held_back=NOBODY,
            counted=None,
        )

    @property
    def supply(self) -> int:
        """Slots on duty: there or coming."""
        return self.ready + self.starting

    def agents(self, slots: int) -> int:
        """Return how many new agents so many slots are."""
        return slots if self.slots_per_agent == 1 else math.ceil(slots / self.slots_per_agent)

    def sized(self, slots: int) -> int:
        """
        Return how large a pool of so many slots on duty is, in agents.

        Those who are there count with the slots that they have, alike where not all are left.
        """
        if self.counted is None:
            return self.agents(slots)
        there = self.counted.ready + self.counted.starting
        if slots < self.supply:
            return math.ceil(slots * there / self.supply)
        return there + self.agents(slots - self.supply)

    @property
    def sizes(self) -> Sizes:
        """The pool in agents; busy: so many as would do for the work that they have."""
        if self.counted is not None:
            return replace(self.counted, busy=self.sized(self.busy))
        ready = self.agents(self.ready)
        starting = self.agents(self.supply) - ready
        return Sizes(ready, self.agents(self.busy), starting, self.agents(self.standby))
