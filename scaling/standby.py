"""
Says how many agents to keep on standby, and who wakes, is set aside, is launched or let go.

Pure. Whoever is on standby is up and paid, and gets no work until it is woken.
"""

import math
from dataclasses import dataclass
from typing import Literal

AUTO: Literal["auto"] = "auto"
Wish = int | Literal["auto"]

# Fewer arrivals than this during one start-up: nobody is kept for them. One in twenty start-ups.
LEAST_EXPECTED = 0.05


def wanted(wish: Wish, *, rate: float | None, startup_s: float, slots_per_agent: int = 1) -> int:
    """
    Return how many agents to keep on standby.

    wish: so many, or `auto`: as many as work arrives for while one agent starts up. rate: arrivals
    per second, None: not known. startup_s: the 0.9 quantile of the pool's launches, seconds.
    Source: Little's law, L = arrival rate x start-up, rounded up to whole agents.
    """
    if wish != AUTO:
        return wish
    expected = (rate or 0.0) * startup_s
    if expected < LEAST_EXPECTED:
        return 0
    return math.ceil(expected / slots_per_agent)


@dataclass(frozen=True, slots=True)
class Sizes:
    """A pool's agents: `ready` are idle or busy; `busy` of them hold a lease."""

    ready: int
    busy: int
    starting: int
    standby: int

    @property
    def total(self) -> int:
        """All that are paid and supply something, now or later."""
        return self.ready + self.starting + self.standby


@dataclass(frozen=True, slots=True)
class Plan:
    """Agents that there are to be: in all, of them up for work, and of them on standby."""

    target: int
    on_duty: int
    standby: int


@dataclass(frozen=True, slots=True)
class Moves:
    """
    How many agents do what at once.

    wake: standby to idle. set_aside: idle to standby. let_go: those that start first, then standby
    ones beyond what is wanted, then idle ones. cold: of those launched, how many because they are
    missing and nobody is left to wake; the others only refill the standby.
    """

    wake: int = 0
    set_aside: int = 0
    launch: int = 0
    let_go: int = 0
    cold: int = 0


def moves(sizes: Sizes, plan: Plan) -> Moves:
    """Return what leads to a plan, waking before launching, setting aside before letting go."""
    missing = max(0, plan.on_duty - sizes.ready)
    wake = min(sizes.standby, missing)
    launch = max(0, plan.target - sizes.total)
    spare = min(sizes.ready - sizes.busy, max(0, sizes.ready - plan.on_duty))
    return Moves(
        wake=wake,
        set_aside=min(spare, max(0, plan.standby - sizes.standby)),
        launch=launch,
        let_go=max(0, sizes.total - plan.target),
        cold=min(launch, missing - wake),
    )


def hit_share(*, hits: int, misses: int) -> float | None:
    """Return the share of agents that were woken rather than launched; None: none was needed."""
    return hits / (hits + misses) if hits + misses else None
