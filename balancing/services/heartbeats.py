"""Hears agents, and judges those that fall silent."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.db.models.functions import Now

from agentpool.registry import events
from agentpool.registry import queries as registry_queries
from agentpool.registry.errors import LeaseLost, UnsupportedTransition
from agentpool.registry.models import Agent, Lease, Liveness
from agentpool.registry.states import PLACEABLE_STATUS, AgentHealth, AgentStatus, AgentWish
from balancing import claim, queries
from balancing.services import agents, leases
from balancing.services.queue import serve_after_commit


@dataclass(frozen=True)
class Heartbeat:
    """
    One agent's sign of life.

    leases: {lease_id, fencing_token, progress, usage} each. age_s: seconds since it was sent.
    """

    incarnation: int | None
    leases: Sequence[Mapping[str, Any]] = ()
    draining: bool = False
    age_s: float = 0.0


@dataclass(frozen=True)
class Answer:
    """What an agent is told: when to speak again, what to do, which leases are its own."""

    next_heartbeat_s: float
    commands: list[dict[str, Any]] = field(default_factory=list)
    leases: list[Lease] = field(default_factory=list)


def heartbeat(agent: Agent, *, beat: Heartbeat) -> Answer:
    """
    Note that an agent lives, renew its leases, and tell it what to do.

    Raises: LeaseLost, a newer incarnation of the agent has registered.
    """
    incarnation = agent.incarnation if beat.incarnation is None else beat.incarnation
    with transaction.atomic():
        alive = Liveness.objects.filter(agent_id=agent.id, incarnation=incarnation)
        if not alive.update(last_heartbeat_at=Now()):
            raise LeaseLost(f"A newer incarnation of {agent.agent_id} has registered.")
        pairs = [(UUID(str(e["lease_id"])), e["fencing_token"]) for e in beat.leases]
        kept = claim.renew(
            agent=agent.id,
            incarnation=incarnation,
            leases=pairs,
            ttl_s=settings.RUN_LEASE_S,
            age_s=beat.age_s,
        )
        own = {lease.id for lease in kept}
        for (lease_id, _), entry in zip(pairs, beat.leases, strict=True):
            if lease_id not in own:
                continue
            leases.note_report(
                lease_id,
                token=entry["fencing_token"],
                usage=entry.get("usage") or {},
                progress=entry.get("progress") or {},
            )
    agent = _welcome_back(agent)
    if beat.draining and agent.status in PLACEABLE_STATUS:
        agent = agents.drain(
            agent, retire=True, actor=agent.agent_id, reason="the agent itself drains"
        )
    return Answer(
        next_heartbeat_s=registry_queries.heartbeat_interval_s(),
        commands=_cancelled(pairs, own) + commands_for(agent),
        leases=kept,
    )


# What an agent comes back to, other than work.
_WISHED = {AgentWish.DRAIN: AgentStatus.DRAINING, AgentWish.STANDBY: AgentStatus.STANDBY}


def _welcome_back(agent: Agent) -> Agent:
    """Take an agent that speaks out of starting, unreachable or lost."""
    if agent.status not in (
        AgentStatus.STARTING,
        AgentStatus.UNREACHABLE,
        AgentStatus.LOST,
    ):
        return agent
    to = AgentStatus.BUSY if agent.load else AgentStatus.IDLE
    if agent.status == AgentStatus.UNREACHABLE:
        to = _WISHED.get(AgentWish(agent.wish), to)
    try:
        agent = agents.move(agent, to=to, reason="it speaks", actor=agent.agent_id)
    except UnsupportedTransition:
        return queries.agent(
            agent.id
        )  # moved by somebody else meanwhile; the next beat looks again
    serve_after_commit(agent.pool_id)
    return agent


def _cancelled(named: Sequence[tuple[UUID, int]], own: set[UUID]) -> list[dict[str, Any]]:
    return [
        {"kind": "cancel", "lease_id": str(lease_id), "reason": "lease_lost"}
        for lease_id, _ in named
        if lease_id not in own
    ]


def commands_for(agent: Agent) -> list[dict[str, Any]]:
    """Return what an agent's status asks of it: to drain, or to stop."""
    if agent.status == AgentStatus.DRAINING:
        return [{"kind": "drain", "reason": agent.status_reason}]
    if agent.status == AgentStatus.RETIRED:
        return [{"kind": "stop", "reason": agent.status_reason}]
    return []


def check(*, actor: str = "", note: str = "") -> dict[str, int]:
    """
    Judge all agents now: silence, and judgements whose time is over; return how many changed.

    actor: the operator who asked for it, which leaves an event; empty: the schedule did.
    """
    counts = {**suspect_and_lose(), "lifted": lift_expired_health()}
    if actor:
        about: dict[str, Any] = {**counts, "note": note}
        events.append("health.checked", actor=actor, **about)
    return counts


def suspect_and_lose() -> dict[str, int]:
    """
    Judge the silence of all agents; return how many became unreachable and lost.

    While the control plane's own absence is not a full lost window ago, nobody is declared lost.
    """
    counts = {"unreachable": 0, "lost": 0}
    if registry_queries.grace_until() is not None:
        return counts
    for agent, to, silent in queries.silent_agents():
        if to is AgentStatus.LOST:
            leases.lose_all(agent, why="the agent was lost", actor="health")
            agent = queries.agent(agent.id)
        try:
            agents.move(agent, to=to, reason="no heartbeat", actor="health", only=silent)
        except UnsupportedTransition:
            continue  # it spoke, or got work, between the look and the move
        counts[to.value] += 1
    return counts


def lift_expired_health() -> int:
    """Give agents whose maintenance or quarantine has run out their good health back."""
    lifted = 0
    for agent in Agent.objects.filter(health_until__lt=Now()):
        agents.set_health(
            agent,
            health=AgentHealth.UNKNOWN,
            note="its time is over",
            until=None,
            actor="health",
        )
        lifted += 1
    return lifted
