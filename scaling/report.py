"""
Sums up replays: rows for a table or JSON, the timeline as CSV, and a queue replayed from it.

Pure but for the files it is given.
"""

import csv
import heapq
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TextIO

import numpy as np

from scaling import standby
from scaling.clairvoyant import Clairvoyant
from scaling.simulation import Change, Replay, days
from scaling.sizing import Floats
from scaling.traces import Trace

TIMELINE = tuple(field.name for field in fields(Change))


@dataclass(frozen=True)
class Row:
    """
    One policy on one trace, after the warm-up.

    ratio: agent-hours over the clairvoyant's. Waits in seconds; utilization: busy over paid time.
    standby_hit_pct: of the agents that were missing, how many were woken; None: none was kept.
    """

    trace: str
    policy: str
    requests: int
    agent_hours: float
    clairvoyant_hours: float
    clairvoyant_lower_hours: float
    ratio: float
    over_slo_pct: float
    wait_mean_s: float
    wait_p50_s: float
    wait_p95_s: float
    wait_p99_s: float
    utilization: float
    launches_per_day: float
    actions_per_day: float
    decisions_per_day: float
    cost_usd: float
    woken_per_day: float
    standby_hit_pct: float | None


class NothingScored(Exception):
    """No request arrives after the warm-up."""


def row(replay: Replay, *, policy: str, best: Clairvoyant) -> Row:
    """Return the figures of a replay; raises NothingScored."""
    if not replay.scored:
        raise NothingScored(
            f"{replay.trace} has no request after a warm-up of {days(replay.warmup_s):g} days"
        )
    waits = replay.waits_s[-replay.scored :]
    p50, p95, p99 = (float(value) for value in np.quantile(waits, (0.5, 0.95, 0.99)))
    hours = replay.paid_s / 3600
    span = days(replay.end_s - replay.warmup_s)
    return Row(
        trace=replay.trace,
        policy=policy,
        requests=replay.scored,
        agent_hours=hours,
        clairvoyant_hours=best.hours,
        clairvoyant_lower_hours=best.lower_hours,
        ratio=hours / best.hours,
        over_slo_pct=100 * float(np.mean(waits > replay.policy.slo_s)),
        wait_mean_s=float(waits.mean()),
        wait_p50_s=p50,
        wait_p95_s=p95,
        wait_p99_s=p99,
        utilization=replay.busy_s / replay.paid_s if replay.paid_s else 0.0,
        launches_per_day=replay.launches / span,
        actions_per_day=replay.actions / span,
        decisions_per_day=replay.decisions / days(replay.end_s),
        cost_usd=hours * replay.policy.usd_per_agent_hour,
        woken_per_day=replay.hits / span,
        standby_hit_pct=_hit_pct(replay),
    )


def _hit_pct(replay: Replay) -> float | None:
    if not replay.policy.standby:
        return None
    share = standby.hit_share(hits=replay.hits, misses=replay.misses)
    return None if share is None else 100 * share


def as_json(rows: Iterable[Row]) -> list[dict[str, object]]:
    """Return rows as JSON values."""
    return [asdict(each) for each in rows]


def write_timeline(timeline: Sequence[Change], file: TextIO) -> None:
    """Write a timeline as CSV, times so exact that a replay gets the same waits."""
    out = csv.writer(file)
    out.writerow(TIMELINE)
    for change in timeline:
        out.writerow([getattr(change, name) for name in TIMELINE])


def read_timeline(file: TextIO) -> list[Change]:
    """Read a timeline that was written."""
    return [
        Change(float(line["t_s"]), *(int(line[name]) for name in TIMELINE[1:]))
        for line in csv.DictReader(file)
    ]


def waits_of(timeline: Sequence[Change], trace: Trace) -> Floats:
    """
    Replay the queue against nothing but the timeline's `ready`: anybody can check the waits so.

    At one moment: work ends, `ready` changes, work arrives, waiting work begins.
    """
    waits, ends = [0.0] * len(trace.jobs), list[float]()
    queue: deque[int] = deque()
    busy, ready, upcoming = 0, 0, 0
    moments = sorted({change.t_s for change in timeline} | {job.arrival_s for job in trace.jobs})
    sizes = {change.t_s: change.ready for change in timeline}
    heapq.heapify(moments)
    while moments:
        now = heapq.heappop(moments)
        while ends and ends[0] <= now:
            heapq.heappop(ends)
            busy -= 1
        ready = sizes.get(now, ready)
        while upcoming < len(trace.jobs) and trace.jobs[upcoming].arrival_s <= now:
            queue.append(upcoming)
            upcoming += 1
        while queue and busy < ready:
            job = queue.popleft()
            waits[job] = now - trace.jobs[job].arrival_s
            busy += 1
            end = now + trace.jobs[job].duration_s
            heapq.heappush(ends, end)
            heapq.heappush(moments, end)
    return np.array(waits)


def paid_hours(timeline: Sequence[Change], *, from_s: float, to_s: float) -> float:
    """Return agent-hours: the integral of the timeline's `paid`."""
    total = 0.0
    nexts = [*(change.t_s for change in timeline[1:]), to_s]
    for change, until in zip(timeline, nexts, strict=True):
        total += change.paid * max(0.0, min(until, to_s) - max(change.t_s, from_s))
    return total / 3600
