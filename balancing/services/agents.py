"""Registers agents, changes what they are, and lets them drain, resume and retire."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import IntegrityError, transaction
from django.db.models import F, Q
from django.db.models.functions import Now

from agentpool.registry import credentials, events
from agentpool.registry import queries as registry_queries
from agentpool.registry.errors import (
    AgentBusy,
    Duplicate,
    NotFound,
    StaleVersion,
    UnsupportedTransition,
)
from agentpool.registry.models import Agent, Credential, Liveness, Pool
from agentpool.registry.states import (
    AGENT_MOVES,
    LIVE,
    PLACEABLE_STATUS,
    AgentHealth,
    AgentStatus,
    AgentWish,
    LeaseStatus,
    Scope,
)
from balancing import claim, queries
from balancing.services import leases
from balancing.services.queue import serve_after_commit


@dataclass(frozen=True)
class Registration:
    """A registered agent with its secret, which is shown this once."""

    agent: Agent
    credential: str
    heartbeat_interval_s: float


def register(
    *,
    agent_id: str,
    pool: Pool,
    fields: Mapping[str, Any],
    by: Credential | None,
    actor: str,
) -> Registration:
    """
    Register an agent, or take it on again with a higher incarnation.

    The old incarnation is cut off: its credential is revoked and its leases are lost.
    by: the enrolment token used, one use of which is spent. Locks the agent.
    Raises: Duplicate, the name belongs to an agent of another pool.
    """
    agent = Agent.objects.filter(agent_id=agent_id).first()
    if agent is not None:
        _of_pool(agent, pool)
        leases.lose_all(agent, why="the agent registered again", actor=actor)
    with transaction.atomic():
        if by is not None:
            credentials.spend(by)
        agent = _enrol(agent_id, pool, fields, actor)
        secret = credentials.issue(
            scope=Scope.AGENT,
            agent=agent,
            incarnation=agent.incarnation,
            created_by=actor,
        ).secret
        Liveness.objects.update_or_create(
            agent=agent,
            defaults={"incarnation": agent.incarnation, "last_heartbeat_at": Now()},
        )
        serve_after_commit(pool.agent_type)
    return Registration(
        agent=queries.agent(agent.id),
        credential=secret,
        heartbeat_interval_s=registry_queries.heartbeat_interval_s(),
    )


def _enrol(agent_id: str, pool: Pool, fields: Mapping[str, Any], actor: str) -> Agent:
    agent, created = Agent.objects.select_for_update(no_key=True).get_or_create(
        agent_id=agent_id, defaults={"pool": pool, **fields}
    )
    if not created:
        _of_pool(agent, pool)  # it may have been registered since we looked
        if agent.load:
            # A lease was granted to the old incarnation since we closed them; the caller repeats.
            raise AgentBusy(f"{agent_id} holds {agent.load} leases of its old incarnation.")
        Credential.objects.filter(agent=agent, revoked_at=None).update(revoked_at=Now())
        Agent.objects.filter(id=agent.id).update(
            **fields,
            status=AgentStatus.IDLE,
            status_reason="",
            wish=AgentWish.WORK,
            retire_when_drained=False,
            drain_by=None,
            incarnation=F("incarnation") + 1,
            generation=F("generation") + 1,
            updated_at=Now(),
        )
        agent.refresh_from_db()
    kind = "agent.registered" if created else "agent.reregistered"
    events.append(kind, agent=agent, actor=actor, incarnation=agent.incarnation)
    return agent


def _of_pool(agent: Agent, pool: Pool) -> None:
    if agent.pool_id != pool.agent_type:
        raise Duplicate(f"{agent.agent_id} is an agent of the pool {agent.pool_id}.")


@transaction.atomic
def update_agent(
    agent_id: UUID, *, fields: Mapping[str, Any], if_generation: int | None, actor: str
) -> Agent:
    """
    Change what an agent is or can; its lifecycle columns are not among the fields.

    Raises: StaleVersion; AgentBusy, it has given out more than the new values allow.
    """
    agent = Agent.objects.select_for_update(no_key=True).filter(id=agent_id).first()
    if agent is None:
        raise NotFound("There is no such agent.")
    if if_generation is not None and agent.generation != if_generation:
        raise StaleVersion(f"The agent is at version {agent.generation}, not {if_generation}.")
    try:
        with transaction.atomic():
            Agent.objects.filter(id=agent.id).update(
                **fields, generation=F("generation") + 1, updated_at=Now()
            )
    except IntegrityError as error:
        raise AgentBusy(
            f"{agent.agent_id} has given out {agent.load} slots, {agent.used_memory_mb} MB, "
            f"{agent.used_cpu_cores:g} cores and {agent.used_token_budget} tokens: "
            "it cannot become smaller than that now."
        ) from error
    events.append("agent.updated", agent=agent, actor=actor, fields=sorted(fields))
    serve_after_commit(agent.pool_id)
    return queries.agent(agent.id)


def set_health(
    agent: Agent,
    *,
    health: AgentHealth,
    note: str,
    until: datetime | None,
    actor: str,
    if_generation: int | None = None,
) -> Agent:
    """
    Note an operator's judgement; running leases go on, new work follows the new health.

    Raises: StaleVersion, the agent is not at `if_generation` any more.
    """
    with transaction.atomic():
        rows = Agent.objects.filter(id=agent.id)
        if if_generation is not None:
            rows = rows.filter(generation=if_generation)
        changed = rows.update(
            health=health,
            health_note=note,
            health_by=actor,
            health_until=until,
            generation=F("generation") + 1,
            updated_at=Now(),
        )
        if not changed:
            raise StaleVersion(f"{agent.agent_id} changed meanwhile; read it again.")
        events.append("agent.health", agent=agent, actor=actor, health=health, note=note)
        serve_after_commit(agent.pool_id)
    return queries.agent(agent.id)


def set_status(
    agent: Agent, *, to: AgentStatus, reason: str, actor: str, within_s: float | None = None
) -> Agent:
    """
    Make one of the moves a caller may ask for: drain, resume, standby, retire.

    within_s: of a drain, seconds from now after which what still runs is cancelled, None: never.
    `idle` asked of an agent with leases makes it busy: the two are one wish, to take work.
    Raises: UnsupportedTransition; AgentBusy, standby or retirement of an agent with leases.
    """
    if to in (AgentStatus.IDLE, AgentStatus.BUSY):
        return resume(agent, actor=actor, reason=reason)
    if to is AgentStatus.DRAINING:
        by = None if within_s is None else registry_queries.now() + timedelta(seconds=within_s)
        return drain(agent, retire=False, actor=actor, reason=reason, by=by)
    if to in (AgentStatus.STANDBY, AgentStatus.RETIRED):
        held = agent.leases.filter(status__in=LIVE).count()
        if held:
            raise AgentBusy(f"{agent.agent_id} holds {held} leases; drain it first.")
        wish = AgentWish.STANDBY if to is AgentStatus.STANDBY else AgentWish.WORK
        return move(agent, to=to, reason=reason, actor=actor, wish=wish)
    raise UnsupportedTransition(f"Nobody may set an agent {to}; the health check does that.")


@transaction.atomic
def drain(
    agent: Agent, *, retire: bool, actor: str, reason: str = "", by: datetime | None = None
) -> Agent:
    """
    Let an agent finish what it has and take nothing new; `retire` it once it is empty.

    by: what still runs on it then is cancelled, None: never. Raises: UnsupportedTransition.
    """
    if agent.status == AgentStatus.DRAINING:
        return _drain_on(agent, retire=retire, actor=actor, reason=reason, by=by)
    return move(
        agent,
        to=AgentStatus.DRAINING,
        reason=reason,
        actor=actor,
        wish=AgentWish.DRAIN,
        retire_when_drained=retire,
        drain_by=by,
    )


def _drain_on(agent: Agent, *, retire: bool, actor: str, reason: str, by: datetime | None) -> Agent:
    """Add to a drain what was not asked of it yet: that it retires, or a deadline."""
    more: dict[str, Any] = {"retire_when_drained": True} if retire else {}
    more |= {"drain_by": by} if by else {}
    draining = Agent.objects.filter(id=agent.id, status=AgentStatus.DRAINING)
    if more and draining.update(**more, generation=F("generation") + 1):
        until = by.isoformat() if by else None
        events.append("agent.draining", agent=agent, actor=actor, reason=reason, by=until)
    claim.retire_drained(agent.id, actor=actor)
    return queries.agent(agent.id)


def end_overdue_drains() -> int:
    """Cancel what still runs on agents whose drain has reached its deadline; return how many."""
    overdue = Agent.objects.filter(
        status=AgentStatus.DRAINING, drain_by__lt=Now(), leases__status__in=LIVE
    )
    ended = 0
    for agent in overdue.distinct().order_by("id"):
        for lease in agent.leases.filter(status__in=LIVE).order_by("id"):
            why = "the drain of its agent has reached its deadline"
            ended += leases.cancel(lease, reason=why, actor="expiry")
    return ended


def resume(agent: Agent, *, actor: str, reason: str = "") -> Agent:
    """
    Let an agent take work (again).

    Raises: UnsupportedTransition, it is lost or retired and must register again, or unreachable.
    """
    if agent.status in PLACEABLE_STATUS:
        return agent
    if agent.status not in (AgentStatus.DRAINING, AgentStatus.STANDBY):
        raise UnsupportedTransition(f"{agent.agent_id} is {agent.status}; it must speak up itself.")
    moved = move(
        agent,
        to=AgentStatus.BUSY if agent.load else AgentStatus.IDLE,
        reason=reason,
        actor=actor,
        wish=AgentWish.WORK,
        retire_when_drained=False,
        drain_by=None,
    )
    serve_after_commit(agent.pool_id)
    return moved


@transaction.atomic
def unregister(
    agent: Agent,
    *,
    force: bool,
    if_generation: int | None,
    actor: str,
    reason: str = "unregistered",
) -> Agent:
    """
    Retire an agent: at once when it is empty, else after its leases; force cancels them first.

    Locks the leases, then the agent, as whoever ends one of them does. Raises: StaleVersion.
    """
    leases.hold(agent)
    if if_generation is not None:
        now = Agent.objects.select_for_update(no_key=True).get(id=agent.id).generation
        if now != if_generation:
            raise StaleVersion(f"The agent is at version {now}, not {if_generation}.")
    if agent.status == AgentStatus.RETIRED:
        return agent
    if agent.status in (AgentStatus.IDLE, AgentStatus.BUSY, AgentStatus.DRAINING):
        agent = drain(agent, retire=True, actor=actor, reason=reason)
    if force or agent.status == AgentStatus.UNREACHABLE:
        for lease in agent.leases.filter(status__in=LIVE).order_by("id"):
            leases.cancel(lease, reason="the agent was unregistered", actor=actor)
        agent = queries.agent(agent.id)
    if agent.status not in (AgentStatus.DRAINING, AgentStatus.RETIRED):
        agent = move(agent, to=AgentStatus.RETIRED, reason=reason, actor=actor)
    return agent


@transaction.atomic
def move(
    agent: Agent,
    *,
    to: AgentStatus,
    reason: str,
    actor: str,
    only: Q | None = None,
    **columns: Any,
) -> Agent:
    """
    Move an agent by compare-and-set on the status the caller saw, `agent.status`.

    idle and busy change into each other by the minute, so a move asked of either is tried on both.
    One that drains, shall go and holds nothing retires at once.
    only: a further condition on the row at the moment of the change.
    Raises: UnsupportedTransition, the move is not legal or the row has changed meanwhile.
    """
    seen = AgentStatus(agent.status)
    if to not in AGENT_MOVES[seen]:
        raise UnsupportedTransition(f"{agent.agent_id} is {seen}; it cannot become {to}.")
    was = PLACEABLE_STATUS if seen in PLACEABLE_STATUS else {seen}
    rows = Agent.objects.filter(only or Q(), id=agent.id, status__in=was)
    if to in (AgentStatus.IDLE, AgentStatus.BUSY):
        rows = rows.filter(Q(load=0) if to is AgentStatus.IDLE else Q(load__gt=0))
    elif to in (AgentStatus.STANDBY, AgentStatus.RETIRED, AgentStatus.LOST):
        rows = rows.filter(load=0)
    if to in (AgentStatus.STANDBY, AgentStatus.RETIRED):
        # What is parked can only go on where its agent is up. Who parks a lease holds the
        # agent's row: only after that what is parked is seen.
        Agent.objects.select_for_update(no_key=True).get(id=agent.id)
        rows = rows.exclude(leases__status=LeaseStatus.PARKED)
    changed = rows.update(
        status=to,
        status_reason=reason,
        generation=F("generation") + 1,
        updated_at=Now(),
        **columns,
    )
    if not changed:
        raise UnsupportedTransition(f"{agent.agent_id} changed meanwhile; read it again.")
    events.append(f"agent.{to}", agent=agent, actor=actor, reason=reason, was=seen.value)
    if to is AgentStatus.DRAINING:
        # What it held may have ended already, as while it was silent.
        claim.retire_drained(agent.id, actor=actor)
    return queries.agent(agent.id)
