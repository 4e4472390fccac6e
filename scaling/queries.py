"""Reads launches, sizes, and what was asked for; writes nothing."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.db import connection
from django.db.models import BooleanField, Case, Count, Q, QuerySet, Sum, When
from django.db.models.expressions import RawSQL
from django.db.models.functions import Now

from agentpool.registry import queries as registry_queries
from agentpool.registry.models import Agent, Launch, Lease, Pool, Request, ScalingEvent
from agentpool.registry.states import (
    PLACEABLE_HEALTH,
    PLACEABLE_STATUS,
    AgentStatus,
    AgentWish,
    LaunchStatus,
    LeaseStatus,
    RequestStatus,
)
from scaling.pool import Apart
from scaling.standby import Sizes

if TYPE_CHECKING:
    from scaling.traces import Job, Trace

GONE = (AgentStatus.RETIRED, AgentStatus.LOST)
# Agents that do, or soon will, supply capacity: draining ones do not, starting ones do.
SUPPLY = (AgentStatus.STARTING, AgentStatus.STANDBY, AgentStatus.IDLE, AgentStatus.BUSY)


@dataclass(frozen=True, slots=True)
class Slots:
    """
    What a pool has, and what is asked of it: slots there and coming, leases, requests.

    busy: live leases of those that are ready, parked ones, too. *_agents: who has the slots. apart:
    of all this what could serve nobody who waits. held_back: what is in quarantine or maintenance.
    """

    ready: int
    starting: int
    busy: int
    waiting: int
    ready_agents: int
    starting_agents: int
    apart: Apart
    held_back: Apart


# Over which what standby was worth is told.
GROWTH_OVER = timedelta(days=1)

# What a request that never got a lease is taken to last, when its pool is gone, too.
UNKNOWN_SERVICE_S = 60.0


def size(agent_type: str) -> int:
    """Return how many agents of a pool supply capacity, those that are starting included."""
    return Agent.objects.filter(pool_id=agent_type, status__in=SUPPLY).count()


def paid(agent_type: str) -> int:
    """Return how many agents of a pool are paid for: from their launch until they are gone."""
    return Agent.objects.filter(pool_id=agent_type).exclude(status__in=GONE).count()


def on_standby(agent_type: str) -> QuerySet[Agent]:
    """
    Return whom a wake would bring, in the order in which to wake.

    Alive: heard of lately, and their runtime not ended as far as anybody knows. Fit for work, and,
    while somebody waits, fit for one of the first who do. Those that scaling set aside come first,
    of them the last one set aside; `victims` begins at the other end.
    """
    heard_s = registry_queries.windows().suspect_s
    ended = Launch.objects.exclude(status=LaunchStatus.STARTED).values("agent_id")
    return (
        Agent.objects.filter(
            pool_id=agent_type, status=AgentStatus.STANDBY, health__in=PLACEABLE_HEALTH
        )
        .filter(liveness__last_heartbeat_at__gte=Now() - timedelta(seconds=heard_s))
        .exclude(id__in=ended)
        .annotate(is_kept=_KEPT, fits=_FITS)
        .filter(fits=True)
        .order_by("is_kept", "-updated_at", "id")
    )


# Put there by an operator: scaling leaves an agent's wish as it is.
_KEPT = Case(When(wish=AgentWish.STANDBY, then=1), default=0)


def _asks(row: str) -> str:
    """Return when a request waits for an agent: not for a lock, nor until it may be tried again."""
    return f"""{row}.status = 'waiting' AND NOT {row}.unsatisfiable
    AND ({row}.not_before IS NULL OR {row}.not_before <= statement_timestamp())
    AND ({row}.lock_keys = '{{}}' OR NOT EXISTS (
      SELECT FROM lock_key h WHERE h.key = ANY ({row}.lock_keys)))"""


# Of the first fifty that ask for an agent: is there none, or one that this agent can serve?
_FITS = RawSQL(  # noqa: S611
    "SELECT count(*) = 0 OR bool_or(fits_1(agent, w.asked)) FROM (SELECT q AS asked"  # noqa: S608
    f" FROM request q WHERE q.agent_type = agent.agent_type AND {_asks('q')}"
    " ORDER BY q.priority DESC, q.number LIMIT 50) w",
    (),
    output_field=BooleanField(),
)


def sizes(agent_type: str) -> Sizes:
    """Return a pool in agents; on standby are those whom a wake would bring."""
    is_ready = Q(status__in=PLACEABLE_STATUS)
    found = Agent.objects.filter(pool_id=agent_type).aggregate(
        ready=Count("id", filter=is_ready),
        busy=Count("id", filter=is_ready & Q(load__gt=0)),
        starting=Count("id", filter=Q(status=AgentStatus.STARTING)),
    )
    return Sizes(**found, standby=on_standby(agent_type).count())


def longest_idle(agent_type: str, *, count: int, is_fit: bool | None = None) -> Sequence[Agent]:
    """
    Return agents that hold nothing, nor parked, and are kept for nobody, longest idle first.

    is_fit: of those who wait, whether one of the first could be served, or nobody waits.
    """
    idle = Agent.objects.filter(
        pool_id=agent_type,
        status=AgentStatus.IDLE,
        health__in=PLACEABLE_HEALTH,
        reserved_for__isnull=True,
    )
    idle = idle.exclude(leases__status=LeaseStatus.PARKED)
    if is_fit is not None:
        idle = idle.annotate(fits=_FITS).filter(fits=is_fit)
    return list(idle.order_by("updated_at", "id")[:count])


def victims(agent_type: str, *, count: int, standby: int = 0) -> Sequence[Agent]:
    """
    Return whom to let go.

    Who is idle and serves none of those who wait, if anybody does; who has not started yet, the
    newest first; then who is on standby beyond so many; then the one idle longest, whoever is held
    back after the others; then the busy, and at the very last the others on standby.
    """
    of_pool = Agent.objects.filter(pool_id=agent_type)
    unfit = longest_idle(agent_type, count=count, is_fit=False)
    of_pool = of_pool.exclude(id__in=[agent.id for agent in unfit])
    starting = of_pool.filter(status=AgentStatus.STARTING).order_by("-created_at", "id")
    ready = of_pool.filter(status__in=PLACEABLE_STATUS).annotate(
        is_busy=Case(When(load__gt=0, then=1), default=0),
        is_held_back=Case(When(health__in=PLACEABLE_HEALTH, then=0), default=1),
    )
    ready = ready.order_by("is_busy", "is_held_back", "load", "updated_at", "id")
    warm = of_pool.filter(status=AgentStatus.STANDBY).annotate(is_kept=_KEPT)
    warm = warm.order_by("is_kept", "updated_at", "id")
    surplus = max(0, warm.count() - standby)
    order = [*unfit, *starting[:count], *warm[:surplus], *ready[:count], *warm[surplus:]]
    return order[:count]


def growth() -> dict[str, tuple[int, int]]:
    """
    Return of each pool how many agents that were missing lately were woken, and how many launched.

    Within `GROWTH_OVER`; a pool that has not grown is left out.
    """
    rows = ScalingEvent.objects.filter(at__gt=Now() - GROWTH_OVER).filter(
        Q(woken__gt=0) | Q(cold__gt=0)
    )
    found = rows.order_by().values("pool_id").annotate(hits=Sum("woken"), misses=Sum("cold"))
    return {str(row["pool_id"]): (row["hits"], row["misses"]) for row in found}


def asking(agent_type: str) -> QuerySet[Request]:
    """Return the requests of a pool that wait for an agent: not those that wait for a lock."""
    asks = RawSQL(_asks("request"), (), output_field=BooleanField())  # noqa: S611
    waiting = Request.objects.filter(pool_id=agent_type, status=RequestStatus.WAITING)
    return waiting.annotate(asks=asks).filter(asks=True)


def slots(agent_type: str) -> Slots:
    """
    Return a pool's slots and leases, and how many wait whom another agent would help.

    Another agent: a new one from the launch template, made as large as they ask, or one on standby.
    The fifty commonest kinds of request are judged; whoever is of another one counts as waiting.
    """
    with connection.cursor() as cursor:
        cursor.execute(_SLOTS, _named(agent_type))
        ready, starting, busy, waiting, *agents, apart, held_back = cursor.fetchone()
    of_no_use = (Apart(*(part or ())) for part in (apart, held_back))
    return Slots(ready, starting, busy, waiting, *agents, *of_no_use)


def next_waiting(agent_type: str, *, count: int) -> Sequence[Request]:
    """
    Return requests that new agents are to be made for, at most `count`.

    Whom nobody fits who is free or starting comes first, then as the queue has them.
    """
    with connection.cursor() as cursor:
        cursor.execute(_KINDS, _named(agent_type))
        kinds = cursor.fetchall()
    alone = [shape for shape, is_helped, is_met in kinds if is_helped and not is_met]
    vain = [shape for shape, is_helped, _ in kinds if not is_helped]
    first = Case(When(shape__in=alone, then=0), default=1)
    waiting = asking(agent_type).exclude(shape__in=vain).annotate(place=first)
    return list(waiting.order_by("place", "-priority", "number")[:count])


def _named(agent_type: str) -> dict[str, Any]:
    return {"type": agent_type, "heard_s": registry_queries.windows().suspect_s}


# One of each kind that asks for an agent, and whether another one would help: one on standby that
# is alive, or a new one. Of that all but the amounts are the template's (`satisfiable_1`). How far
# its machine can isolate the template can't know: as the newest did that came up within the hour,
# or one after the other would be launched in vain.
_ASKING = f"""
    asking AS MATERIALIZED (
      SELECT q.shape, count(*) AS n, min(q.number) AS first FROM request q
        WHERE q.agent_type = %(type)s AND {_asks("q")} GROUP BY q.shape),
    kinds AS MATERIALIZED (
      SELECT k.n, q, q.shape, q.avoid_agents,
          (t.driver = '' OR t.security_level >= q.security_level
            AND q.isolation_level <= ANY (coalesce(
              (SELECT a.isolation_levels FROM scaling_event e
                  JOIN launch l ON l.event_id = e.id JOIN agent a ON a.id = l.agent_id
                WHERE e.agent_type = t.agent_type AND a.incarnation > 1
                  AND e.at > statement_timestamp() - interval '1 h'
                ORDER BY e.at DESC LIMIT 1), t.isolation_levels))
            AND t.tools @> q.special_tools AND t.capabilities @> q.capabilities
            AND q.labels = '{{}}'
            AND (q.rules = '[]' OR rules_hold_1('{{}}', t.capabilities, q.rules)))
          AND (q.affinity <> 'hard' OR bound_to_1(q) IS NULL)
          OR EXISTS (SELECT FROM agent a JOIN liveness v ON v.agent_id = a.id
            WHERE a.agent_type = t.agent_type AND a.status = 'standby'
              AND a.health IN ('good', 'probation', 'unknown') AND fits_1(a, q)
              AND v.last_heartbeat_at >= statement_timestamp() - %(heard_s)s * interval '1 s'
              AND NOT EXISTS (SELECT FROM launch l
                WHERE l.agent_id = a.id AND l.status <> 'started')) AS is_helped
        FROM (SELECT * FROM asking ORDER BY n DESC, first LIMIT 50) k
          JOIN request q ON q.number = k.first JOIN pool t ON t.agent_type = q.agent_type)"""  # noqa: S608
# What could serve none of them: when it has nothing else to do (by its class), or now. Only of an
# agent that has work, or is avoided or kept, the second is not known from the first; of those the
# least that anybody asks for spares most a closer look.
_SLOTS = f"""
    WITH {_ASKING},
    classes AS MATERIALIZED (
      SELECT c.id, array_agg(k.q) AS asked, bool_or(k.avoid_agents = '{{}}') AS any_agent,
          min(greatest((k.q).min_memory_mb, (k.q).memory_mb::bigint * 8 / 10)) AS memory_mb,
          min((k.q).token_budget) AS token_budget, min((k.q).disk_space_mb) AS disk_space_mb
        FROM capability_class c JOIN kinds k ON k.is_helped AND able_1(c, k.q)
        WHERE c.agent_type = %(type)s AND c.agents > 0 GROUP BY c.id),
    duty AS (
      SELECT a.status, a.load, a.max_concurrent AS slots, s.is_sound,
          s.is_sound AND a.load < a.max_concurrent AND (a.reserved_for IS NOT NULL OR CASE
            WHEN c.id IS NULL THEN false WHEN a.load = 0 AND c.any_agent THEN true
            WHEN a.memory_mb - a.used_memory_mb < c.memory_mb
              OR a.token_budget - a.used_token_budget < c.token_budget
              OR a.disk_space_mb - a.used_disk_space_mb < c.disk_space_mb THEN false
            ELSE EXISTS (SELECT FROM unnest(c.asked) u WHERE fits_1(a, u)) END) AS fits,
          s.is_sound AND CASE WHEN c.id IS NULL THEN false WHEN c.any_agent THEN true
            ELSE EXISTS (SELECT FROM unnest(c.asked) u WHERE a.agent_id <> ALL (u.avoid_agents))
            END AS is_able
        FROM agent a LEFT JOIN classes c ON c.id = a.capability_class
          CROSS JOIN LATERAL (SELECT a.health IN ('good', 'probation', 'unknown') AS is_sound) s
        WHERE a.agent_type = %(type)s AND a.status IN ('busy', 'idle', 'starting')),
    useless AS (
      SELECT is_sound,
          ARRAY[coalesce(sum(CASE WHEN fits THEN 0 WHEN is_able THEN slots - load ELSE slots END)
              FILTER (WHERE status <> 'starting'), 0),
            coalesce(sum(load) FILTER (WHERE NOT (is_able OR fits)), 0),
            coalesce(sum(slots) FILTER (WHERE status = 'starting' AND NOT fits), 0),
            count(*) FILTER (WHERE status = 'idle' AND load = 0 AND NOT fits)]::int[] AS slots
        FROM duty WHERE NOT is_sound OR EXISTS (SELECT FROM kinds WHERE is_helped)
        GROUP BY is_sound)
    SELECT coalesce(sum(d.slots) FILTER (WHERE d.status <> 'starting'), 0)::int,
      coalesce(sum(d.slots) FILTER (WHERE d.status = 'starting'), 0)::int,
      (SELECT count(*)::int FROM lease l JOIN agent a ON a.id = l.agent_id
        WHERE l.agent_type = %(type)s AND l.status IN ('offered', 'active', 'parked')
          AND a.status IN ('busy', 'idle')),
      (SELECT coalesce(sum(n), 0)::int FROM asking)
        - (SELECT coalesce(sum(n), 0)::int FROM kinds WHERE NOT is_helped),
      (count(*) FILTER (WHERE d.status <> 'starting'))::int,
      (count(*) FILTER (WHERE d.status = 'starting'))::int,
      (SELECT slots FROM useless WHERE is_sound), (SELECT slots FROM useless WHERE NOT is_sound)
    FROM duty d"""  # noqa: S608
_KINDS = f"""
    WITH {_ASKING}
    SELECT k.shape, k.is_helped, EXISTS (
        SELECT FROM (SELECT c.id FROM capability_class c
            WHERE c.agent_type = %(type)s AND c.agents > 0 AND able_1(c, k.q) OFFSET 0) c
          JOIN agent a ON a.capability_class = c.id
        WHERE a.status IN ('busy', 'idle', 'starting')
          AND a.health IN ('good', 'probation', 'unknown') AND a.load < a.max_concurrent
          AND fits_1(a, k.q))
      FROM kinds k"""  # noqa: S608


def unsettled(*, looked_at_s: float) -> Sequence[Launch]:
    """
    Return launches that need a hand: intended, to be stopped, late, of an agent that is gone.

    And those of one that has missed a heartbeat: the driver may know that its runtime has ended.
    looked_at_s: of a started runtime it is looked whether it lives when it has not spoken by then.
    """
    late = Q(
        status=LaunchStatus.STARTED,
        agent__status=AgentStatus.STARTING,
        started_at__lt=Now() - timedelta(seconds=looked_at_s),
    )
    gone = Q(status=LaunchStatus.STARTED, agent__status__in=GONE)
    silent = Q(
        status=LaunchStatus.STARTED,
        agent__liveness__last_heartbeat_at__lt=Now()
        - timedelta(seconds=settings.HEARTBEAT_S * 1.5),
    )
    open_ = Q(status__in=[LaunchStatus.INTENDED, LaunchStatus.STOPPING])
    return list(Launch.objects.filter(open_ | late | gone | silent).order_by("created_at"))


def running() -> Sequence[Launch]:
    """Return launches whose runtime should be running."""
    return list(
        Launch.objects.select_related("agent").filter(
            status__in=[LaunchStatus.STARTED, LaunchStatus.STOPPING]
        )
    )


def recorded(*, over_s: float, agent_type: str = "") -> "Trace":
    """
    Return what was asked for lately as a trace: each request with the service time of its leases.

    over_s: how far back. agent_type: empty, all together. Requests are counted at their arrival,
    also those that were refused or cancelled: one that never got a lease is taken to last as long
    as its pool's leases do on average. Raises: TraceInvalid, there was none.
    """
    # Only here: traces are arrays, which cost each process 20 MB.
    from scaling import traces

    since = registry_queries.now() - timedelta(seconds=over_s)
    asked = Request.objects.filter(created_at__gte=since).order_by("number")
    if agent_type:
        asked = asked.filter(pool_id=agent_type)
    served: dict[Any, tuple[float, int]] = {}
    ended = Lease.objects.filter(request__created_at__gte=since, released_at__isnull=False)
    columns = ("request_id", "acquired_at", "released_at", "tokens_in", "tokens_out")
    for key, began, over, *tokens in ended.order_by().values_list(*columns).iterator():
        seconds, spent = served.get(key, (0.0, 0))
        lasted_s = max((over - began).total_seconds(), 0.0) if over else 0.0
        served[key] = (seconds + lasted_s, spent + sum(tokens))
    usual = dict(Pool.objects.values_list("agent_type", "mean_service_s"))
    return traces.made(
        "recorded",
        (
            _job(str(kind), (at - since).total_seconds(), served.get(key), usual)
            for key, kind, at in asked.values_list("id", "pool_id", "created_at").iterator()
        ),
    )


def _job(
    kind: str, at_s: float, served: tuple[float, int] | None, usual: dict[str, float]
) -> "Job":
    from scaling.traces import Job

    if served is None:
        return Job(at_s, usual.get(kind, UNKNOWN_SERVICE_S), kind)
    return Job(at_s, served[0], kind, served[1])
