"""Reads requests, leases and silences; writes nothing."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.db import connection
from django.db.models import Count, Exists, F, OuterRef, Q, QuerySet, Sum
from django.db.models.functions import Now

from agentpool.registry import health
from agentpool.registry import queries as registry_queries
from agentpool.registry.errors import NotFound
from agentpool.registry.models import (
    Agent,
    Event,
    Lease,
    LeaseIsolation,
    Pool,
    Request,
    ResourceLimit,
)
from agentpool.registry.states import HOLDING, LIVE, AgentStatus, LeaseStatus, LimitLevel


def agent(agent_id: UUID) -> Agent:
    """
    Return one agent by row id, with what its JSON needs.

    Raises: NotFound.
    """
    return registry_queries.agent_by(id=agent_id)


def leases() -> QuerySet[Lease]:
    """Return leases with what their JSON needs."""
    return Lease.objects.select_related("agent", "request")


def lease(lease_id: UUID) -> Lease:
    """
    Return one lease.

    Raises: NotFound.
    """
    found = leases().filter(id=lease_id).first()
    if found is None:
        raise NotFound(f"There is no lease {lease_id}.")
    return found


def live_lease_of(request_id: UUID) -> Lease | None:
    """Return the live lease of a request, None: it has none."""
    return leases().filter(request_id=request_id, status__in=LIVE).first()


def agents_of(lease_ids: Sequence[str]) -> Mapping[str, str]:
    """Return whose some leases are: the ids of their agents' rows; all ids as text."""
    rows = Lease.objects.filter(id__in=lease_ids).values_list("id", "agent_id")
    return {str(lease_id): str(agent_id) for lease_id, agent_id in rows}


def newest_lease_of(request_id: UUID) -> Lease | None:
    """Return the last lease that a request had, None: none yet."""
    return leases().filter(request_id=request_id).order_by("-fencing_token").first()


def newest_leases_of(request_ids: Sequence[UUID]) -> Mapping[UUID, Lease]:
    """Return the last lease of each request that had one, in one query."""
    rows = (
        leases()
        .filter(request_id__in=request_ids)
        .order_by("request_id", "-fencing_token")
        .distinct("request_id")
    )
    return {row.request_id: row for row in rows}


def request(request_id: UUID) -> Request:
    """
    Return one request.

    Raises: NotFound.
    """
    found = Request.objects.filter(id=request_id).first()
    if found is None:
        raise NotFound(f"There is no request {request_id}.")
    return found


def limit(limit_id: UUID) -> ResourceLimit:
    """
    Return one resource limit.

    Raises: NotFound.
    """
    found = ResourceLimit.objects.filter(id=limit_id).first()
    if found is None:
        raise NotFound(f"There is no limit {limit_id}.")
    return found


def isolation_of(lease: Lease) -> LeaseIsolation | None:
    """Return how a lease's work is isolated, None: nobody has reported it."""
    return LeaseIsolation.objects.filter(lease=lease).first()


def incidents_of(lease: Lease) -> Sequence[Event]:
    """Return what was refused to a lease's work, oldest first."""
    found = Event.objects.filter(request_id=lease.request_id, lease_id=lease.id)
    return list(found.filter(kind__startswith="security.").order_by("id"))


def offers_of(agent_row: Agent) -> Sequence[Lease]:
    """Return what an agent is offered and has not acknowledged, oldest first."""
    return list(
        leases()
        .filter(
            agent=agent_row,
            status=LeaseStatus.OFFERED,
            incarnation=agent_row.incarnation,
        )
        .order_by("fencing_token")
    )


def unanswered_resizes(agent_id: UUID) -> Sequence[tuple[UUID, Mapping[str, Any]]]:
    """
    Return the new limits of an agent's leases that its runtime has not answered, oldest first.

    Each with the lease's id. A lease whose runtime never said what it holds is not asked.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT l.id, e.detail FROM lease l JOIN lease_isolation i ON i.lease_id = l.id"
            " JOIN event e ON e.request_id = l.request_id AND e.lease_id = l.id"
            " WHERE l.agent_id = %s AND l.status = 'active'"
            " AND e.kind IN ('lease.resized', 'lease.resize_asked') AND e.at > i.at ORDER BY e.id",
            [agent_id],
        )
        return [(row[0], json.loads(row[1])) for row in cursor.fetchall()]


def overdue_leases(*, slack_s: float) -> Sequence[Lease]:
    """
    Return live leases whose term ended more than `slack_s` seconds ago.

    After the control plane's own absence, when nobody could renew, only leases that it gave out
    since its return are among them, until a full lost window has passed.
    """
    rows = leases().filter(status__in=LIVE, expires_at__lt=Now() - timedelta(seconds=slack_s))
    grace = registry_queries.grace_until()
    if grace is not None:
        returned_at = grace - timedelta(seconds=registry_queries.windows().lost_s)
        rows = rows.filter(acquired_at__gt=returned_at)
    return list(rows.order_by("id")[:1000])


def silent_agents() -> Sequence[tuple[Agent, AgentStatus, Q]]:
    """
    Return agents that have been silent too long, each with what it must become.

    The third value is the condition that still has to hold when its row is moved.
    """
    windows = registry_queries.windows()
    suspects = (
        Agent.objects.filter(
            status__in=health.WATCHED,
            liveness__last_heartbeat_at__lt=Now() - timedelta(seconds=windows.suspect_s),
        )
        .annotate(silence=Now() - F("liveness__last_heartbeat_at"))
        .order_by("id")
    )
    found = []
    for row in suspects:
        to = health.verdict(
            status=AgentStatus(row.status),
            silent_s=row.silence.total_seconds(),
            windows=windows,
        )
        if to != row.status:
            allowed = windows.lost_s if to is AgentStatus.LOST else windows.suspect_s
            still = Now() - timedelta(seconds=allowed)
            found.append((row, to, Q(liveness__last_heartbeat_at__lt=still)))
    return found


def pools_with_servable_waiters() -> Sequence[str]:
    """Return pools where somebody waits beside a free agent that fits: a look was missed."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT k FROM serveable_pools_1() k WHERE EXISTS"
            " (SELECT FROM request q WHERE q.agent_type = k AND q.status = 'waiting'"
            "   AND (q.not_before IS NULL OR q.not_before <= now()))"
        )
        return [row[0] for row in cursor.fetchall()]


def pools_with_waiters() -> Sequence[str]:
    """Return pools where somebody waits."""
    waiting = Request.objects.filter(status="waiting", pool_id=OuterRef("agent_type"))
    return list(Pool.objects.filter(Exists(waiting)).values_list("agent_type", flat=True))


def pools_concerned(agent_type: str) -> Sequence[str]:
    """Return the pools where somebody may get what a lease of this one has given back."""
    # Under an installation's or a project's limit all that wait, as ends_1 has it.
    shared = ResourceLimit.objects.exclude(level=LimitLevel.POOL)
    return pools_with_waiters() if shared.exists() else [agent_type]


def pools_with_keeping() -> Sequence[str]:
    """Return pools where somebody waits, or where capacity may still be kept for who gave up."""
    waiting = Request.objects.filter(status="waiting", pool_id=OuterRef("agent_type"))
    kept = Agent.objects.filter(reserved_for__isnull=False, pool_id=OuterRef("agent_type"))
    # A limit may be shared by all pools.
    bound = ResourceLimit.objects.filter(reserved_for__isnull=False)
    rows = Pool.objects.filter(Exists(waiting) | Exists(kept) | Exists(bound))
    return list(rows.values_list("agent_type", flat=True))


# -- resources -----------------------------------------------------------------------------------

AMOUNTS = ("memory_mb", "cpu_cores", "token_budget", "disk_space_mb", "network_bandwidth_mbps")
Amounts = Mapping[str, Any]


@dataclass(frozen=True)
class Resources:
    """
    What there is and what is reserved, read at one moment.

    totals: by agent type, of agents that hold or may take leases. used: by (agent type, project),
    sums over live leases that hold a slot. limits: all rows.
    """

    totals: Mapping[str, Amounts]
    used: Mapping[tuple[str, str], Amounts]
    limits: Sequence[ResourceLimit]

    def used_under(self, limit: ResourceLimit) -> Amounts:
        """Return what is reserved under a limit."""
        level, name = limit.level, limit.name
        return summed(
            amounts
            for (agent_type, project), amounts in self.used.items()
            if level == LimitLevel.INSTALLATION
            or name == (agent_type if level == LimitLevel.POOL else project)
        )


def resources() -> Resources:
    """Return totals, uses and limits, in one snapshot."""
    with registry_queries.snapshot():
        return Resources(_totals(), _used(), list(ResourceLimit.objects.order_by("level", "name")))


def summed(rows: Iterable[Amounts]) -> Amounts:
    """Return the sums of some amounts, by their names."""
    total: dict[str, Any] = {}
    for row in rows:
        for name, value in row.items():
            total[name] = total.get(name, 0) + value
    return total


def _totals() -> dict[str, Amounts]:
    rows = Agent.objects.filter(status__in=_PRESENT).order_by().values("pool_id")
    sums = {name: Sum(name) for name in AMOUNTS[:4]}
    found: Any = rows.annotate(agents=Count("id"), slots=Sum("max_concurrent"), **sums)
    return {row.pop("pool_id"): row for row in found}


def _used() -> dict[tuple[str, str], Amounts]:
    rows = Lease.objects.filter(status__in=HOLDING).order_by().values("pool_id", "project")
    found: Any = rows.annotate(leases=Count("id"), **{name: Sum(name) for name in AMOUNTS})
    return {(row.pop("pool_id"), row.pop("project")): row for row in found}


_PRESENT = (
    AgentStatus.IDLE,
    AgentStatus.BUSY,
    AgentStatus.DRAINING,
    AgentStatus.UNREACHABLE,
)
