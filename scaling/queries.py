"""Reads launches, sizes, and what was asked for; writes nothing."""

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from django.conf import settings
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
from scaling.standby import Sizes

if TYPE_CHECKING:
    from scaling.traces import Job, Trace

GONE = (AgentStatus.RETIRED, AgentStatus.LOST)
# Agents that do, or soon will, supply capacity: draining ones do not, starting ones do.
SUPPLY = (AgentStatus.STARTING, AgentStatus.STANDBY, AgentStatus.IDLE, AgentStatus.BUSY)

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
# Of the first fifty that wait for an agent: is there none, or one that this agent can serve?
_FITS = RawSQL(
    "SELECT count(*) = 0 OR bool_or(fits_1(agent, w.asked)) FROM (SELECT q AS asked"
    " FROM request q WHERE q.agent_type = agent.agent_type AND q.status = 'waiting'"
    " AND NOT q.unsatisfiable ORDER BY q.priority DESC, q.number LIMIT 50) w",
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


def longest_idle(agent_type: str, *, count: int) -> Sequence[Agent]:
    """Return agents that hold nothing, nor parked, and are kept for nobody, longest idle first."""
    idle = Agent.objects.filter(
        pool_id=agent_type,
        status=AgentStatus.IDLE,
        health__in=PLACEABLE_HEALTH,
        reserved_for__isnull=True,
    )
    idle = idle.exclude(leases__status=LeaseStatus.PARKED)
    return list(idle.order_by("updated_at", "id")[:count])


def victims(agent_type: str, *, count: int, standby: int = 0) -> Sequence[Agent]:
    """
    Return whom to let go.

    Who has not started yet, the newest first; then who is on standby beyond so many; then the one
    idle longest; then the busy, and at the very last the others on standby.
    """
    of_pool = Agent.objects.filter(pool_id=agent_type)
    starting = of_pool.filter(status=AgentStatus.STARTING).order_by("-created_at", "id")
    ready = of_pool.filter(status__in=PLACEABLE_STATUS).order_by("load", "updated_at", "id")
    warm = of_pool.filter(status=AgentStatus.STANDBY).annotate(is_kept=_KEPT)
    warm = warm.order_by("is_kept", "updated_at", "id")
    surplus = max(0, warm.count() - standby)
    order = [*starting[:count], *warm[:surplus], *ready[:count], *warm[surplus:]]
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


def next_waiting(agent_type: str, *, count: int) -> Sequence[Request]:
    """Return the first requests of a pool's queue that wait for an agent, at most `count`."""
    waiting = Request.objects.filter(pool_id=agent_type, status=RequestStatus.WAITING)
    return list(waiting.order_by("-priority", "number")[:count])


def unsettled(*, register_within_s: float) -> Sequence[Launch]:
    """
    Return launches that need a hand: intended, to be stopped, late, of an agent that is gone.

    And those of one that has missed a heartbeat: the driver may know that its runtime has ended.
    register_within_s: a started runtime must have spoken by then.
    """
    late = Q(
        status=LaunchStatus.STARTED,
        agent__status=AgentStatus.STARTING,
        started_at__lt=Now() - timedelta(seconds=register_within_s),
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
