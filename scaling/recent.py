"""Reads what a pool's leases left behind lately as a situation that can be replayed."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from django.db.models import Q

from agentpool.registry import measuring
from agentpool.registry.models import (
    Agent,
    Lease,
    LeaseOutcome,
    Pool,
    Request,
    ResourceLimit,
    ScalingEvent,
)
from agentpool.registry.states import (
    HOLDING,
    PLACEABLE_HEALTH,
    PLACEABLE_STATUS,
    LimitLevel,
    Outcome,
    RequestStatus,
)
from scaling import situations
from scaling.fleet import Member
from scaling.situations import Attempt, Situation

# The newest so many leases are enough to see what is wrong; a replay of them takes about a second.
MOST_LEASES = 5000
FAILED = (Outcome.FAILURE, Outcome.TIMEOUT, Outcome.LOST)
_USUAL_OVER = timedelta(days=1)
_COLUMNS = (
    "id",
    "request_id",
    "project",
    "cycle_id",
    "phase",
    "waited_s",
    "acquired_at",
    "released_at",
    "parked_s",
    "agent__agent_id",
    "outcome",
    "memory_mb",
    "cpu_cores",
    "peak_memory_mb",
    "cpu_seconds",
)


def situation(pool: Pool, *, since: datetime, until: datetime) -> Situation:
    """
    Return what a pool was like between two moments; the beginning moves up if there were too many.

    Who still waits is there, too; the policy is for the caller to add.
    """
    rows = list(
        Lease.objects.filter(pool=pool, acquired_at__gt=since, acquired_at__lte=until)
        .order_by("-fencing_token")
        .values(*_COLUMNS)[:MOST_LEASES]
    )
    if len(rows) == MOST_LEASES:
        since = rows[-1]["acquired_at"]
    over_s = max(1.0, (until - since).total_seconds())
    attempts = [
        *_attempts(_running(pool, since, until), since, until),
        *_attempts(reversed(rows), since, until),
        *_waiting(pool, since, until),
    ]
    found = situations.made(
        pool.agent_type, over_s=over_s, attempts=attempts, seats=list(_seats(pool, since, over_s))
    )
    return replace(
        found,
        turns=_turns(pool, since, until),
        usual_throughput=_throughput(pool, since),
        weights=_weights(),
    )


def _running(pool: Pool, since: datetime, until: datetime) -> Iterator[Mapping[str, Any]]:
    """Yield the leases that were running when the window began: they still are, or ended in it."""
    ended = LeaseOutcome.objects.filter(pool=pool, ended_at__gt=since, ended_at__lte=until)
    for known in (
        Q(status__in=[status.value for status in HOLDING]),
        # By the index of outcomes: leases have none by time.
        Q(id__in=ended.order_by("-ended_at").values("lease_id")[:MOST_LEASES]),
    ):
        found = Lease.objects.filter(known, pool=pool, acquired_at__lte=since)
        yield from found.order_by("fencing_token").values(*_COLUMNS)[:MOST_LEASES]


def _attempts(
    rows: Iterator[Mapping[str, Any]], since: datetime, until: datetime
) -> Iterator[Attempt]:
    """Yield leases; those of one phase of one cycle are one piece of work until it succeeds."""
    done: dict[str, int] = {}
    for row in rows:
        named = row["cycle_id"] and row["phase"]
        name = f"{row['project']}/{row['cycle_id']}/{row['phase']}" if named else ""
        name = name or str(row["request_id"])
        began_s = (row["acquired_at"] - since).total_seconds()
        released = row["released_at"]
        ended_s = (released - since).total_seconds() if released and released <= until else None
        if ended_s is not None and row["parked_s"]:
            # It held no slot then.
            ended_s = max(0.0, began_s, ended_s - row["parked_s"])
        lasted_s = ended_s - began_s if ended_s is not None else 0.0
        is_success, is_cancelled = row["outcome"] not in FAILED, row["outcome"] == Outcome.CANCELLED
        if is_cancelled:
            name = f"cancelled/{row['id']}"
        yield Attempt(
            key=f"{name}#{done.get(name, 0)}",
            arrival_s=began_s - row["waited_s"],
            waited_s=row["waited_s"],
            began_s=began_s,
            ended_s=ended_s,
            agent=row["agent__agent_id"],
            project=row["project"],
            is_success=is_success,
            is_cancelled=is_cancelled,
            memory_mb=float(row["memory_mb"]),
            cores=float(row["cpu_cores"]),
            peak_mb=row["peak_memory_mb"] or None,
            used_cores=row["cpu_seconds"] / lasted_s
            if lasted_s > 1 and row["cpu_seconds"]
            else None,
        )
        if ended_s is not None and is_success:
            done[name] = done.get(name, 0) + 1


def _waiting(pool: Pool, since: datetime, until: datetime) -> Iterator[Attempt]:
    rows = Request.objects.filter(
        pool=pool, status=RequestStatus.WAITING, queued_at__lte=until, unsatisfiable=False
    ).order_by("number")
    for row in rows[:MOST_LEASES]:
        yield Attempt(
            key=f"waiting/{row.id}",
            arrival_s=(row.queued_at - since).total_seconds(),
            waited_s=(until - row.queued_at).total_seconds(),
            project=row.project,
            memory_mb=float(row.memory_mb),
            cores=float(row.cpu_cores),
        )


def _seats(pool: Pool, since: datetime, over_s: float) -> Iterator[Member]:
    """Yield the agents that could work in the window, until when as far as their rows say."""
    rows = Agent.objects.filter(pool=pool).filter(
        Q(status__in=PLACEABLE_STATUS) | Q(updated_at__gt=since)
    )
    for row in rows.order_by("created_at", "id"):
        from_s = (row.created_at - since).total_seconds()
        is_there = row.status in PLACEABLE_STATUS and row.health in PLACEABLE_HEALTH
        until_s = (row.updated_at - since).total_seconds()
        if from_s >= over_s or not (is_there or until_s > 0):
            continue
        yield Member(
            name=row.agent_id,
            slots=row.max_concurrent,
            memory_mb=float(row.memory_mb),
            cores=float(row.cpu_cores),
            from_s=max(0.0, from_s),
            until_s=math.inf if is_there else until_s,
        )


def _turns(pool: Pool, since: datetime, until: datetime) -> int:
    rows = ScalingEvent.objects.filter(pool=pool, at__gt=since, at__lte=until).order_by("at")
    sizes = rows.values_list("current_size", "target_size")
    return situations.turns([target - current for current, target in sizes])


def _throughput(pool: Pool, until: datetime) -> float | None:
    """Return what an agent did an hour in the day before; None: nothing was counted."""
    span = {"at__gte": until - _USUAL_OVER, "at__lt": until}
    rows = measuring.samples(300).filter(pool=pool, **span)
    done, hours = 0, 0.0
    for succeeded, agents, covered_s in rows.values_list("succeeded", "total_agents", "covered_s"):
        if succeeded:
            done += succeeded
            hours += agents * covered_s / 3600
    return done / hours if hours else None


def _weights() -> dict[str, float]:
    rows = ResourceLimit.objects.filter(level=LimitLevel.PROJECT).exclude(weight=1)
    return dict(rows.values_list("name", "weight"))
