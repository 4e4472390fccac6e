"""What runtimes report of their sandboxes: how work is isolated, and what was refused to it."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.db import transaction

from agentpool.registry import events
from agentpool.registry import queries as registry_queries
from agentpool.registry.models import Event, Lease, LeaseIsolation, SecurityProfile
from agentpool.registry.states import PLACEABLE_HEALTH, AgentHealth
from balancing.services import agents, leases

# What a sandbox may report; the runtime has the same list, a test compares them.
KINDS = (
    "denied_network",
    "denied_write",
    "denied_syscall",
    "denied_signal",
    "tool_refused",
    "killed_for_memory",
    "killed_for_disk",
    "too_many_processes",
    "timed_out",
    "over_token_budget",
)
# Over which security events are counted.
WINDOW = timedelta(hours=24)


@transaction.atomic
def report(
    lease_id: UUID,
    *,
    token: int,
    enforcement: Mapping[str, Any] | None,
    incidents: Sequence[Mapping[str, str]],
) -> Lease:
    """
    Store how a lease's work is isolated, once, the limits that hold, and an event an incident.

    The agent is quarantined when its type's profile says so. Raises: LeaseLost.
    """
    lease = leases.mine(lease_id, token)
    if enforcement is not None:
        _store(lease, enforcement)
    # A report may come again, when its answer was lost: each incident is told once a lease.
    told = Event.objects.filter(request_id=lease.request_id, lease_id=lease.id)
    known = {(event.kind, event.detail.get("what")) for event in told}
    fresh = dict.fromkeys((each["kind"], each["detail"]) for each in incidents)
    for kind, detail in fresh:
        if (f"security.{kind}", detail) in known:
            continue
        events.append(
            f"security.{kind}",
            lease=lease,
            agent=lease.agent,
            phase=lease.phase,
            cycle_id=lease.cycle_id,
            what=detail,
        )
    if incidents:
        _judge(lease)
    return lease


def _store(lease: Lease, enforcement: Mapping[str, Any]) -> None:
    """Keep the tier and what it enforces as first said; the limits of its policy may change."""
    _, is_new = LeaseIsolation.objects.get_or_create(lease=lease, defaults=dict(enforcement))
    if not is_new:
        LeaseIsolation.objects.filter(lease=lease).update(
            policy=enforcement["policy"], at=registry_queries.now()
        )


def count(agent_id: str) -> int:
    """Return the security events of an agent in the last 24 hours."""
    since = registry_queries.now() - WINDOW
    found = Event.objects.filter(agent_id=agent_id, kind__startswith="security.", at__gte=since)
    return found.count()


def _judge(lease: Lease) -> None:
    """Quarantine the lease's agent when there were as many events as its profile allows."""
    profile = SecurityProfile.objects.get(pool_id=lease.pool_id)
    most, agent = profile.quarantine_after, lease.agent
    if most is None or AgentHealth(agent.health) not in PLACEABLE_HEALTH:
        return
    found = count(agent.agent_id)
    if found >= most:
        agents.set_health(
            agent,
            health=AgentHealth.QUARANTINED,
            note=f"{found} security events in 24 hours, the profile allows {most - 1}",
            until=None,
            actor="security",
        )
