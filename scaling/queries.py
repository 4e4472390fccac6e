"""Reads launches and sizes; writes nothing."""

from collections.abc import Sequence
from datetime import timedelta

from django.db.models import Case, Q, When
from django.db.models.functions import Now

from agentpool.registry.models import Agent, Launch
from agentpool.registry.states import AgentStatus, LaunchStatus

# Agents that do, or soon will, supply capacity: draining ones do not, starting ones do.
SUPPLY = (AgentStatus.STARTING, AgentStatus.STANDBY, AgentStatus.IDLE, AgentStatus.BUSY)


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


def unsettled(*, register_within_s: float) -> Sequence[Launch]:
    """
    Return launches that need a hand: intended, to be stopped, late, or of an agent that is gone.

    register_within_s: a started runtime must have spoken by then.
    """
    late = Q(
        status=LaunchStatus.STARTED,
        agent__status=AgentStatus.STARTING,
        started_at__lt=Now() - timedelta(seconds=register_within_s),
    )
    gone = Q(status=LaunchStatus.STARTED, agent__status__in=[AgentStatus.RETIRED, AgentStatus.LOST])
    open_ = Q(status__in=[LaunchStatus.INTENDED, LaunchStatus.STOPPING])
    return list(Launch.objects.filter(open_ | late | gone).order_by("created_at"))


def running() -> Sequence[Launch]:
    """Return launches whose runtime should be running."""
    return list(
        Launch.objects.select_related("agent").filter(
            status__in=[LaunchStatus.STARTED, LaunchStatus.STOPPING]
        )
    )
