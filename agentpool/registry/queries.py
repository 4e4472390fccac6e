"""Reads facts about agents, pools and the control plane itself; writes nothing."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import connection, transaction
from django.db.models import (
    Count,
    F,
    OuterRef,
    Prefetch,
    Q,
    QuerySet,
    Subquery,
    Sum,
)
from django.db.models.functions import Now

from agentpool.registry import health
from agentpool.registry.errors import Gone, Invalid, NotFound
from agentpool.registry.health import Absence, Windows
from agentpool.registry.models import (
    Agent,
    Credential,
    Event,
    EventNumber,
    Lease,
    LogChunk,
    LogTotal,
    Pool,
    RelayState,
    Request,
    Tick,
)
from agentpool.registry.states import (
    LIVE,
    PLACEABLE_STATUS,
    AgentStatus,
    RequestStatus,
)

# Performance shown beside an agent looks back this far.
PERFORMANCE_WINDOW = timedelta(days=7)
DAY = timedelta(days=1)
_COUNT_CACHE_S = 5.0
_live_agents: tuple[float, int] = (-_COUNT_CACHE_S, 0)


@contextmanager
def snapshot() -> Iterator[None]:
    """
    Let all reads inside see the database at one moment; nothing can be written there.

    Inside another transaction it is that one's to say, and this does nothing.
    """
    if connection.in_atomic_block:
        yield
        return
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        yield


def now() -> datetime:
    """Return the database's clock, the only one."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp()")
        at: datetime = cursor.fetchone()[0]
        return at


def windows() -> Windows:
    """Return the lengths of silence that the settings allow."""
    return Windows(
        heartbeat_s=settings.HEARTBEAT_S,
        suspect_s=settings.SUSPECT_S,
        lost_s=settings.LOST_S,
    )


def heartbeat_interval_s() -> float:
    """Return how often agents shall speak now; the fleet's size is counted every few seconds."""
    global _live_agents
    at, count = _live_agents
    if time.monotonic() - at > _COUNT_CACHE_S:
        count = Agent.objects.exclude(status__in=[AgentStatus.LOST, AgentStatus.RETIRED]).count()
        _live_agents = (time.monotonic(), count)
    return health.heartbeat_interval_s(base_s=settings.HEARTBEAT_S, agents=count)


# -- agents ----------------------------------------------------------------------------------


def agents() -> QuerySet[Agent]:
    """Return agents with what their JSON needs, in three queries for any number of them."""
    live = Lease.objects.filter(status__in=LIVE).order_by("-fencing_token")
    return Agent.objects.select_related("liveness").prefetch_related(
        Prefetch("leases", queryset=live, to_attr="live_leases")
    )


def agent_by(*, id: UUID | None = None, agent_id: str | None = None) -> Agent:
    """
    Return one agent by row id or by external id.

    Raises: NotFound.
    """
    found = agents().filter(id=id) if id else agents().filter(agent_id=agent_id)
    agent = found.first()
    if agent is None:
        raise NotFound(f"There is no agent {id or agent_id}.")
    return agent


def agent_row(agent_id: str) -> Agent:
    """
    Return one agent by external id, without what only its JSON needs.

    Raises: NotFound.
    """
    agent = Agent.objects.filter(agent_id=agent_id).first()
    if agent is None:
        raise NotFound(f"There is no agent {agent_id}.")
    return agent


def performance(agent_ids: Iterable[UUID]) -> Mapping[UUID, Mapping[str, Any]]:
    """
    Return leases, success_rate (0-1), mean_s, p95_s and tokens per agent over the last 7 days.

    An agent without outcomes is not in the mapping.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT agent_id, count(*),"
            " avg((outcome = 'success')::int) FILTER (WHERE outcome <> 'cancelled'),"
            " avg(duration_s),"
            " percentile_cont(0.95) WITHIN GROUP (ORDER BY duration_s), sum(tokens_in + tokens_out)"
            " FROM outcome WHERE agent_id = ANY(%s)"
            " AND ended_at > now() - make_interval(secs => %s) GROUP BY agent_id",
            [list(agent_ids), PERFORMANCE_WINDOW.total_seconds()],
        )
        return {
            row[0]: {
                "leases": row[1],
                "success_rate": round(float(row[2]), 4) if row[2] is not None else None,
                "mean_s": round(row[3], 3),
                "p95_s": round(row[4], 3),
                "tokens": int(row[5]),
            }
            for row in cursor.fetchall()
        }


def credential(credential_id: UUID) -> Credential:
    """
    Return one credential, revoked or not.

    Raises: NotFound.
    """
    found = Credential.objects.filter(id=credential_id).first()
    if found is None:
        raise NotFound(f"There is no token {credential_id}.")
    return found


def pool(agent_type: str) -> Pool:
    """
    Return one pool.

    Raises: NotFound.
    """
    found = Pool.objects.filter(agent_type=agent_type).first()
    if found is None:
        names = ", ".join(Pool.objects.values_list("agent_type", flat=True)) or "none yet"
        raise NotFound(f"There is no pool {agent_type}; the pools are: {names}.")
    return found


# -- the control plane itself ------------------------------------------------------------------


def grace_until() -> datetime | None:
    """
    Return until when no agent may be judged, None: judge.

    The control plane was away when its web process, which hears the agents, was.
    """
    tick = Tick.objects.filter(name="web").annotate(read_at=Now()).first()
    at = tick.read_at if tick else now()
    absence = Absence(
        last_seen_at=tick.at if tick else None, until=tick.grace_until if tick else None
    )
    return health.grace_until(absence=absence, now=at, windows=windows())


def tick_age_s(name: str) -> float | None:
    """Return how long ago a part of the control plane was seen working, None: never."""
    tick = Tick.objects.filter(name=name).annotate(age=Now() - F("at")).first()
    return tick.age.total_seconds() if tick else None


# -- events and logs ---------------------------------------------------------------------------


def events_after(seq: int, *, limit: int) -> list[Event]:
    """
    Return the events that follow a number, in order, gapless.

    Raises: Gone, the next one is no longer kept; Invalid, no event has that number yet.
    """
    numbers = EventNumber.objects.filter(seq__gt=seq).select_related("event").order_by("seq")
    found = [number.event for number in numbers[:limit]]
    # Who asks from the beginning takes whatever is kept.
    if found and seq > 0 and found[0].number.seq != seq + 1:
        raise Gone(f"Events before {found[0].number.seq} are no longer kept; begin there.")
    if not found and seq > last_seq():
        # As after a restore: waiting here for that number would miss all that comes before it.
        raise Invalid("after is ahead of the stream.", errors=[("after", "No event has it yet.")])
    return found


def own_events(found: Sequence[Event], *, name: str) -> list[Event]:
    """
    Return the events that an orchestrator may see: all but those of requests that others made.

    name: the principal's. A request that was refused may have left no row: its event says by whom.
    """
    asked = {event.request_id for event in found if event.request_id}
    own = Request.objects.filter(id__in=asked, requested_by=name)
    shown = {None, *own.values_list("id", flat=True)}
    return [event for event in found if event.request_id in shown or event.actor == name]


def last_seq() -> int:
    """Return the number of the newest event that has one."""
    return RelayState.objects.values_list("last_seq", flat=True).first() or 0


def log_after(lease: Lease, *, after: int, limit: int = 500) -> list[LogChunk]:
    """Return the chunks of a lease's log that follow one, in order."""
    return list(LogChunk.objects.filter(lease=lease, id__gt=after).order_by("id")[:limit])


def dropped_bytes(lease: Lease) -> int:
    """Return how much of a lease's log was dropped to stay under the cap, bytes."""
    total = LogTotal.objects.filter(lease=lease).first()
    return total.dropped_bytes if total else 0


# -- pools as they are ---------------------------------------------------------------------------


def pool_states() -> Sequence[Mapping[str, Any]]:
    """Return each pool with its agents counted by status, its slots, and its queue, right now."""
    statuses = {
        str(status): Count("agent", filter=Q(agent__status=status)) for status in AgentStatus
    }
    placeable = Q(agent__status__in=PLACEABLE_STATUS)
    queue = Request.objects.filter(status=RequestStatus.WAITING, pool_id=OuterRef("agent_type"))
    depth = queue.order_by().values("pool").annotate(n=Count("id")).values("n")
    oldest = queue.order_by("queued_at").values("queued_at")[:1]
    return [
        {**row, "oldest_wait_s": _age_s(row["oldest"], row["read_at"])}
        for row in Pool.objects.values("agent_type", "min_size", "max_size")
        .annotate(
            **{f"n_{name}": count for name, count in statuses.items()},
            slots=Sum("agent__max_concurrent", filter=placeable, default=0),
            slots_used=Sum("agent__load", filter=placeable, default=0),
            queue_depth=Subquery(depth),
            oldest=Subquery(oldest),
            read_at=Now(),
        )
        .order_by("agent_type")
    ]


def _age_s(since: datetime | None, at: datetime) -> float:
    return (at - since).total_seconds() if since else 0.0


# -- invariants --------------------------------------------------------------------------------

INVARIANTS = {
    "what an agent has given out is what its holding leases reserve": """
        SELECT a.agent_id FROM agent a LEFT JOIN lease l
          ON l.agent_id = a.id AND l.status IN ('active', 'offered')
        GROUP BY a.id
        HAVING a.load <> count(l.id) OR a.used_memory_mb <> coalesce(sum(l.memory_mb), 0)
          OR a.used_cpu_cores <> coalesce(sum(l.cpu_cores), 0)
          OR a.used_token_budget <> coalesce(sum(l.token_budget), 0)
          OR a.used_disk_space_mb <> coalesce(sum(l.disk_space_mb), 0)""",
    "a granted request has exactly one live lease": """
        SELECT r.id::text FROM request r LEFT JOIN lease l
          ON l.request_id = r.id AND l.status IN ('active', 'offered', 'parked')
        GROUP BY r.id HAVING (r.status = 'granted') <> (count(l.id) = 1)""",
    "a lock key is held by a live lease": """
        SELECT k.key FROM lock_key k JOIN lease l ON l.id = k.lease_id
        WHERE l.status NOT IN ('active', 'offered', 'parked')""",
    "every ended lease has left an outcome": """
        SELECT l.id::text FROM lease l LEFT JOIN outcome o ON o.lease_id = l.id
        WHERE (o.lease_id IS NULL) <> (l.status IN ('active', 'offered', 'parked'))""",
    "an agent that is lost or retired holds nothing": """
        SELECT a.agent_id FROM agent a JOIN lease l ON l.agent_id = a.id
        WHERE a.status IN ('lost', 'retired') AND l.status IN ('active', 'offered', 'parked')""",
    "no agent holds more leases than it has slots": """
        SELECT a.agent_id FROM agent a JOIN lease l ON l.agent_id = a.id
        WHERE l.status IN ('active', 'offered')
        GROUP BY a.id HAVING count(*) > a.max_concurrent""",
    "a live lease holds all of its lock keys": """
        SELECT l.id::text FROM lease l JOIN request r ON r.id = l.request_id,
          unnest(r.lock_keys) k (key)
        WHERE l.status IN ('active', 'offered', 'parked')
          AND NOT EXISTS (SELECT FROM lock_key h WHERE h.key = k.key AND h.lease_id = l.id)""",
    "what is free under a limit is what its holding leases leave": """
        SELECT btrim(x.level || ' ' || x.name) FROM resource_limit x
        CROSS JOIN LATERAL (
          SELECT coalesce(sum(memory_mb), 0) AS memory_mb, coalesce(sum(cpu_cores), 0) AS cpu_cores,
            coalesce(sum(token_budget), 0) AS token_budget,
            coalesce(sum(disk_space_mb), 0) AS disk_space_mb,
            coalesce(sum(network_bandwidth_mbps), 0) AS network_bandwidth_mbps
          FROM lease l WHERE l.status IN ('active', 'offered')
            AND (x.level = 'installation' OR (x.level = 'pool' AND l.agent_type = x.name)
              OR (x.level = 'project' AND l.project = x.name))) held
        CROSS JOIN LATERAL (
          SELECT sum(memory_mb) AS memory_mb, sum(cpu_cores) AS cpu_cores,
            sum(token_budget) AS token_budget, sum(disk_space_mb) AS disk_space_mb,
            sum(network_bandwidth_mbps) AS network_bandwidth_mbps
          FROM limit_shard s WHERE s.resource_limit_id = x.id) free
        WHERE (x.memory_mb - held.memory_mb, x.cpu_cores - held.cpu_cores,
            x.token_budget - held.token_budget, x.disk_space_mb - held.disk_space_mb,
            x.network_bandwidth_mbps - held.network_bandwidth_mbps)
          IS DISTINCT FROM (free.memory_mb, free.cpu_cores, free.token_budget, free.disk_space_mb,
            free.network_bandwidth_mbps)""",
    "only a limit that was lowered below its use is overdrawn": """
        SELECT btrim(x.level || ' ' || x.name) FROM resource_limit x
        WHERE NOT x.is_overdrawn AND EXISTS (
          SELECT FROM limit_shard s WHERE s.resource_limit_id = x.id
            AND least(s.memory_mb, s.cpu_cores, s.token_budget, s.disk_space_mb,
              s.network_bandwidth_mbps) < 0)""",
    "a capability class counts its agents": """
        SELECT c.id::text FROM capability_class c LEFT JOIN agent a
          ON a.capability_class = c.id AND a.status NOT IN ('lost', 'retired')
        GROUP BY c.id HAVING c.agents <> count(a.id)""",
    "an agent is of the capability class that says what it can": """
        SELECT a.agent_id FROM agent a LEFT JOIN capability_class c ON c.id = a.capability_class
        WHERE (a.agent_type, a.memory_mb, a.cpu_cores, a.token_budget, a.disk_space_mb,
            a.security_level, a.isolation_levels, a.labels)
          IS DISTINCT FROM (c.agent_type, c.memory_mb, c.cpu_cores, c.token_budget,
            c.disk_space_mb, c.security_level, c.isolation_levels, c.labels)
          OR NOT (a.tools @> c.tools AND c.tools @> a.tools
            AND a.capabilities @> c.capabilities AND c.capabilities @> a.capabilities)""",
    "a fencing token was drawn before it is used": """
        SELECT l.id::text FROM lease l, lease_fencing_token_seq s
        WHERE l.fencing_token > s.last_value""",
}


def broken_invariants() -> Mapping[str, Sequence[str]]:
    """Return each broken promise with the rows that break it; empty when all hold."""
    broken = {}
    with connection.cursor() as cursor:
        for promise, sql in INVARIANTS.items():
            cursor.execute(sql)
            if rows := [row[0] for row in cursor.fetchall()]:
                broken[promise] = rows
    return broken
