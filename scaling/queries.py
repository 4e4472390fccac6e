"""Reads launches, sizes, and what was asked for; writes nothing."""

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.db.models import Case, Q, When
from django.db.models.functions import Now

from agentpool.registry import queries as registry_queries
from agentpool.registry.models import Agent, Launch, Lease, Pool, Request
from agentpool.registry.states import AgentStatus, LaunchStatus, RequestStatus

if TYPE_CHECKING:
    from scaling.traces import Job, Trace

GONE = (AgentStatus.RETIRED, AgentStatus.LOST)
# Agents that do, or soon will, supply capacity: draining ones do not, starting ones do.
SUPPLY = (AgentStatus.STARTING, AgentStatus.STANDBY, AgentStatus.IDLE, AgentStatus.BUSY)

# What a request that never got a lease is taken to last, when its pool is gone, too.
UNKNOWN_SERVICE_S = 60.0


def size(agent_type: str) -> int:
    """Return how many agents of a pool supply capacity, those that are starting included."""
    return Agent.objects.filter(pool_id=agent_type, status__in=SUPPLY).count()


def victims(agent_type: str, *, count: int) -> Sequence[Agent]:
    """Return whom to let go: who has not started yet, then the one idle longest, then the busy."""
    starting = Case(When(status=AgentStatus.STARTING, then=0), default=1)
    return list(
        Agent.objects.filter(pool_id=agent_type, status__in=SUPPLY).order_by(
            starting, "load", "updated_at", "id"
        )[:count]
    )


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
