"""
Says how few agent-hours would have done, had everything been known: the yardstick of a replay.

Pure. An agent is paid from its launch to its end; it is launched one start-up before its first
job. No job begins later than the SLO allows. Jobs are taken in the order of their arrival, and each

1. takes the free agent that became free last, if that is less than a start-up ago (keeping it was
   cheaper than another launch): paid is the gap;
2. else waits for the agent that becomes free next, if that is within the SLO: paid is nothing;
3. else gets an agent launched for it, which is ready as it arrives: paid is a start-up.

`lower_hours` is what no schedule can be below: the service times alone. The two lie a few per cent
apart; ratios are told against the schedule's hours, which somebody who knew the future could
really have had.
"""

from bisect import bisect_right, insort
from dataclasses import dataclass

from scaling.traces import Trace


@dataclass(frozen=True)
class Clairvoyant:
    """Agent-hours after the warm-up: of the schedule above, and below which there is nothing."""

    hours: float
    lower_hours: float


def clairvoyant(trace: Trace, *, startup_s: float, slo_s: float, warmup_s: float) -> Clairvoyant:
    """Return the hours that would have done; only what is paid after the warm-up counts."""
    free: list[float] = []
    paid, work = 0.0, 0.0
    for job in trace.jobs:
        at = job.arrival_s
        begin, since = at, at - startup_s
        place = bisect_right(free, at)
        if place and at - free[place - 1] < startup_s:
            since = free.pop(place - 1)
        elif place < len(free) and free[place] <= at + slo_s:
            begin = since = free.pop(place)
        end = begin + job.duration_s
        paid += max(0.0, end - max(since, warmup_s))
        work += max(0.0, end - max(begin, warmup_s))
        insort(free, end)
        # Whoever has been free for a start-up is never taken again.
        del free[: bisect_right(free, at - startup_s)]
    return Clairvoyant(hours=paid / 3600, lower_hours=work / 3600)
