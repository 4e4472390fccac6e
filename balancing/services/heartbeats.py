"""Hears agents, and judges those that fall silent."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import Q
from django.db.models.functions import Now

from agentpool.registry import events
from agentpool.registry import queries as registry_queries
from agentpool.registry.errors import (
    LeaseLost,
    Refusal,
    StaleVersion,
    Unauthenticated,
    Unavailable,
    UnsupportedTransition,
)
from agentpool.registry.models import Agent
from agentpool.registry.states import PLACEABLE_STATUS, AgentHealth, AgentStatus, AgentWish
from balancing import hearing, queries
from balancing.hearing import Kept as Kept
from balancing.hearing import Noted
from balancing.services import agents, leases
from balancing.services.queue import serve_after_commit


@dataclass(frozen=True)
class Heartbeat:
    """
    One agent's sign of life, as it said it.

    incarnation None: the newest. leases: {lease_id, fencing_token, progress, usage} each.
    age_s: seconds since it was sent.
    """

    incarnation: int | None
    leases: Sequence[Mapping[str, Any]] = ()
    draining: bool = False
    age_s: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Beat:
    """
    A sign of life of an agent that is known, for `hear`; each is itself only.

    agent and credential: ids of their rows as text; credential None: it has been checked already.
    leases: what is said of each lease, by its id as text.
    """

    agent: str
    incarnation: int
    credential: str | None = None
    leases: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    draining: bool = False
    age_s: float = 0.0


@dataclass(frozen=True)
class Heard:
    """What became of a batch of beats: those that need more; the leases each may keep, by id."""

    noted: Mapping[Beat, Noted]
    kept: Mapping[tuple[Beat, str], Kept]

    def refusal(self, beat: Beat, agent_id: str) -> Refusal | None:
        """Return why an agent was not heard, None: it was."""
        noted = self.noted.get(beat)
        if noted is None or noted.code == "ok":
            return None
        if noted.code == "unauthenticated":
            return Unauthenticated("The token has been revoked or has expired.")
        if noted is UNHEARD:
            return Unavailable("The heartbeat could not be written; it is in the log.")
        return LeaseLost(f"A newer incarnation of {agent_id} has registered.")

    def kept_of(self, beat: Beat, names: Iterable[str] | None = None) -> list[Kept]:
        """Return the leases that are its agent's own, of those that a beat named, or of `names`."""
        named = beat.leases if names is None else names
        return [self.kept[beat, id] for id in named if (beat, id) in self.kept]

    def lost_of(self, beat: Beat, names: Iterable[str] | None = None) -> list[dict[str, Any]]:
        """Return the commands to stop whatever of these is not its agent's own."""
        return [
            {"kind": "cancel", "lease_id": id, "reason": "lease_lost"}
            for id in (beat.leases if names is None else names)
            if (beat, id) not in self.kept
        ]

    def wants_more(self, beat: Beat) -> bool:
        """Whether the agent must be moved (`attend`) before it can be answered."""
        noted = self.noted.get(beat)
        if noted is None:
            return beat.draining
        return noted.code == "ok" and noted.status in _BACK

    def commands_of(self, beat: Beat) -> list[dict[str, Any]]:
        """Return what an agent that does not want more is told to do."""
        return self.lost_of(beat) + self.status_commands_of(beat)

    def status_commands_of(self, beat: Beat) -> list[dict[str, Any]]:
        """Return what its status asks of an agent."""
        noted = self.noted.get(beat)
        return _told(noted.status, noted.reason) if noted else []


# Of a beat that could not be written, for whatever reason.
UNHEARD = Noted("unavailable", "", "")


@dataclass(frozen=True)
class Answer:
    """What an agent is told: when to speak again, what to do, which leases are its own."""

    next_heartbeat_s: float
    commands: list[dict[str, Any]] = field(default_factory=list)
    leases: list[Kept] = field(default_factory=list)


def heartbeat(agent: Agent, *, beat: Heartbeat) -> Answer:
    """
    Note that an agent lives, renew its leases, and tell it what to do: a batch of one.

    Raises: LeaseLost, a newer incarnation of the agent has registered.
    """
    one = beat_of(
        str(agent.id), agent.incarnation if beat.incarnation is None else beat.incarnation, beat
    )
    heard = hear([one])
    if (refusal := heard.refusal(one, agent.agent_id)) is not None:
        raise refusal
    if heard.wants_more(one):
        commands = heard.lost_of(one) + attend(one)
    else:
        commands = heard.commands_of(one) + (_resizes(agent) if one.leases else [])
    return Answer(
        next_heartbeat_s=registry_queries.heartbeat_interval_s(),
        commands=commands,
        leases=heard.kept_of(one),
    )


def beat_of(agent: str, incarnation: int, said: Heartbeat, credential: str | None = None) -> Beat:
    """Return what an agent said, for `hear`."""
    return Beat(
        agent=agent,
        incarnation=incarnation,
        credential=credential,
        leases={str(entry["lease_id"]): entry for entry in said.leases},
        draining=said.draining,
        age_s=said.age_s,
    )


def hear(beats: Sequence[Beat]) -> Heard:
    """
    Note that agents live, renew the leases they name and note their reports, in one transaction.

    Locks liveness, then leases, each in the order of their ids. Whoever
    `wants_more` is to be given to `attend` afterwards.
    """
    if not any(beat.leases for beat in beats):
        return Heard(_hear(beats), {})
    with transaction.atomic():
        noted = _hear(beats)
        deaf = {beat for beat, note in noted.items() if note.code != "ok"}
        said = [
            (beat, _said(beat, id, entry))
            for beat in beats
            if beat not in deaf
            for id, entry in beat.leases.items()
        ]
        return Heard(noted, _renewed(said) if said else {})


def _renewed(said: Sequence[tuple[Beat, Mapping[str, Any]]]) -> dict[tuple[Beat, str], Kept]:
    """Renew leases; one that several beats name is kept for whoever named it rightly alone."""
    renewed = hearing.renew([word for _, word in said])
    named = Counter(word["id"] for _, word in said)
    contested = [id for id in renewed if named[id] > 1]
    owners = queries.agents_of(contested) if contested else {}
    return {
        (beat, id): kept
        for beat, word in said
        if (kept := renewed.get(id := word["id"])) is not None
        and kept.fencing_token == word["token"]
        and owners.get(id, beat.agent) == beat.agent
    }


def _hear(beats: Sequence[Beat]) -> dict[Beat, Noted]:
    noted = hearing.hear(
        agents=[beat.agent for beat in beats],
        incarnations=[beat.incarnation for beat in beats],
        credentials=[beat.credential for beat in beats],
        ages_s=[beat.age_s for beat in beats],
    )
    return {beats[index]: note for index, note in noted.items()}


def _said(beat: Beat, lease_id: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    said: dict[str, Any] = {
        "id": lease_id,
        "token": entry["fencing_token"],
        "agent": beat.agent,
        "incarnation": beat.incarnation,
        "age_s": beat.age_s,
    }
    if usage := entry.get("usage"):
        said |= usage
    if progress := entry.get("progress"):
        said["counter"] = progress.get("counter", 0)
        said["phase"] = progress.get("phase", "")[:200]
        said["note"] = progress.get("note", "")[:400]
    return said


def attend(beat: Beat) -> list[dict[str, Any]]:
    """
    Take an agent that speaks back, or let it drain as it wishes; return what it is told to do.

    Each is a move of its own, apart from the batch: few need it, and it looks at the queues.
    """
    agent = _welcome_back(queries.agent(UUID(beat.agent)))
    if beat.draining and agent.status in PLACEABLE_STATUS:
        agent = agents.drain(
            agent, retire=True, actor=agent.agent_id, reason="the agent itself drains"
        )
    return commands_for(agent)


# Statuses out of which an agent comes by speaking.
_BACK = frozenset({AgentStatus.STARTING, AgentStatus.UNREACHABLE, AgentStatus.LOST})
# What an agent comes back to, other than work.
_WISHED = {AgentWish.DRAIN: AgentStatus.DRAINING, AgentWish.STANDBY: AgentStatus.STANDBY}


def _welcome_back(agent: Agent) -> Agent:
    """Take an agent that speaks out of starting, unreachable or lost."""
    if agent.status not in _BACK:
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


def commands_for(agent: Agent) -> list[dict[str, Any]]:
    """Return what is asked of an agent: to drain, to stop, to hold leases to other limits."""
    return _told(agent.status, agent.status_reason) + _resizes(agent)


def _resizes(agent: Agent) -> list[dict[str, Any]]:
    """Return the commands for new limits, each until the runtime has said what it holds since."""
    return [resize_command(id, told) for id, told in queries.unanswered_resizes(agent.id)]


def resize_command(lease_id: UUID | str, told: Mapping[str, Any]) -> dict[str, Any]:
    """Return the command to hold a lease's work to new limits; told: detail of its event."""
    return {
        "kind": "resize",
        "lease_id": str(lease_id),
        "fencing_token": told.get("fencing_token"),
        "grant": {name: told[name] for name in _AMOUNTS if name in told},
    }


_AMOUNTS = ("memory_mb", "cpu_cores", "token_budget", "disk_space_mb")


def _told(status: str, reason: str) -> list[dict[str, Any]]:
    if status == AgentStatus.DRAINING:
        return [{"kind": "drain", "reason": reason}]
    if status == AgentStatus.RETIRED:
        return [{"kind": "stop", "reason": reason}]
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
        try:
            if to is AgentStatus.LOST:
                _give_up(agent, silent)
            else:
                agents.move(agent, to=to, reason="no heartbeat", actor="health", only=silent)
        except UnsupportedTransition:
            continue  # it spoke, or got work, between the look and the move
        counts[to.value] += 1
    return counts


@transaction.atomic
def _give_up(agent: Agent, silent: Q) -> None:
    """
    End a silent agent's leases, then declare it lost; locks the leases, then the agent.

    Raises: UnsupportedTransition, it has spoken since the look, and nothing has changed.
    """
    leases.hold(agent)
    rows = Agent.objects.select_for_update(no_key=True, of=("self",))
    if rows.filter(silent, id=agent.id, status=agent.status).first() is None:
        raise UnsupportedTransition(f"{agent.agent_id} has spoken meanwhile.")
    leases.lose_all(agent, why="the agent was lost", actor="health")
    gone = queries.agent(agent.id)
    agents.move(gone, to=AgentStatus.LOST, reason="no heartbeat", actor="health", only=silent)


def lose(agent: Agent, *, why: str, actor: str) -> None:
    """
    Declare an agent lost that is known to have ended: nobody waits for its silence to last.

    Its leases end as lost, their requests wait again. Locks the leases, then the agent. Raises:
    UnsupportedTransition, it is gone already, or has changed meanwhile.
    """
    with transaction.atomic():
        # In the order of whoever ends one of them: holding the agent first, each would wait for
        # the other.
        leases.hold(agent)
        if agent.status != AgentStatus.UNREACHABLE:
            # First of all nobody gives it any more work.
            agent = agents.move(agent, to=AgentStatus.UNREACHABLE, reason=why, actor=actor)
        leases.lose_all(agent, why=why, actor=actor)
        agents.move(queries.agent(agent.id), to=AgentStatus.LOST, reason=why, actor=actor)


def lift_expired_health() -> int:
    """Give agents whose maintenance or quarantine has run out their good health back."""
    lifted = 0
    for agent in Agent.objects.filter(health_until__lt=Now()):
        try:
            agents.set_health(
                agent,
                health=AgentHealth.UNKNOWN,
                note="its time is over",
                until=None,
                actor="health",
                if_generation=agent.generation,
            )
        except StaleVersion:
            continue  # judged anew, or moved, since the look; the next one sees
        lifted += 1
    return lifted
