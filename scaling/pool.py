"""A pool as it stands at one moment, as decisions see it; pure."""

import math
from dataclasses import dataclass

from scaling.standby import Sizes


@dataclass(frozen=True, slots=True)
class PoolState:
    """
    A pool as it stands; all but the sizes of agents in slots, one lease each.

    ready: slots of agents that are idle or busy. starting: slots still to come. standby: of those
    that a wake would bring, `kept` of them put there by an operator. Draining agents
    supply nothing and are not counted. rate: arrivals per second, last ten minutes. service_s:
    mean of the last 500. average_wait_s: of those started in the last 300 s and those waiting.
    startup_s: 0.9 quantile of the pool's launches, None: the policy's. None elsewhere: not known.
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

    @property
    def supply(self) -> int:
        """Slots on duty: there or coming."""
        return self.ready + self.starting

    def agents(self, slots: int) -> int:
        """Return how many agents so many slots are."""
        return slots if self.slots_per_agent == 1 else math.ceil(slots / self.slots_per_agent)

    @property
    def sizes(self) -> Sizes:
        """The pool in agents."""
        ready = self.agents(self.ready)
        starting = self.agents(self.supply) - ready
        return Sizes(ready, self.agents(self.busy), starting, self.agents(self.standby))
