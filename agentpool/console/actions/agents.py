"""What an operator may do to agents."""

from collections.abc import Sequence, Set
from datetime import datetime, timedelta

from agentpool.console.actions.base import (
    NOTE,
    Action,
    Done,
    Field,
    Kind,
    Run,
    Values,
    count,
    number,
)
from agentpool.registry import queries as registry_queries
from agentpool.registry.errors import AgentBusy, Invalid
from agentpool.registry.models import Agent, Lease, Request
from agentpool.registry.states import (
    PLACEABLE_HEALTH,
    PLACEABLE_STATUS,
    AgentHealth,
    AgentStatus,
    Outcome,
    RequestStatus,
)
from balancing.services import agents, leases

# A year: what is further off is a slip of the finger.
MOST_MINUTES = 525_600
_GONE = (AgentStatus.RETIRED, AgentStatus.LOST)
_MINUTES = (("", "none"), ("5", "in 5 min"), ("15", "in 15 min"), ("30", "in 30 min"))
_HOURS = (("60", "in 1 h"), ("240", "in 4 h"), ("1440", "in 24 h"))
_DEADLINE = Field("minutes", "Deadline", "minutes", choices=(*_MINUTES, *_HOURS))
_UNTIL = Field(
    "minutes", "Until", "minutes", choices=(("", "I say otherwise"), *_MINUTES[1:], *_HOURS)
)


def _load(ids: Sequence[str]) -> Sequence[Agent]:
    return list(registry_queries.agents().filter(id__in=ids).order_by("pool", "agent_id"))


def _state(row: Agent) -> str:
    is_judged = row.health not in (AgentHealth.GOOD, AgentHealth.UNKNOWN)
    return f"{row.status}, {row.health}" if is_judged else row.status


AGENT = Kind(
    name="agent",
    plural="agents",
    load=_load,
    told=lambda row: row.name or row.agent_id,
    seen=lambda row: str(row.generation),
    state=_state,
)


# -- what will happen ------------------------------------------------------------------------------


def _live(rows: Sequence[Agent]) -> Sequence[Lease]:
    return [lease for row in rows for lease in getattr(row, "live_leases", [])]


def _left(rows: Sequence[Agent]) -> list[str]:
    """Say what the pools lose, and who waits there: the price of taking agents out of work."""
    told = []
    for agent_type in sorted({row.pool_id for row in rows}):
        own = [row for row in rows if row.pool_id == agent_type and _takes_work(row)]
        slots = sum(row.max_concurrent for row in own)
        there = Agent.objects.filter(
            pool_id=agent_type, status__in=PLACEABLE_STATUS, health__in=PLACEABLE_HEALTH
        )
        left = there.exclude(id__in=[row.id for row in rows]).values_list("max_concurrent")
        waiting = Request.objects.filter(pool_id=agent_type, status=RequestStatus.WAITING).count()
        told.append(
            f"{agent_type} loses {slots} {'slot' if slots == 1 else 'slots'} for new work; "
            f"{sum(row[0] for row in left)} remain, {waiting} "
            f"{'request waits' if waiting == 1 else 'requests wait'} there now."
        )
    return told


def _finish_first(rows: Sequence[Agent]) -> str:
    held = _live(rows)
    if not held:
        return "Nothing runs on " + ("it" if len(rows) == 1 else "them") + " now."
    verb = "finishes" if len(held) == 1 else "finish"
    return f"{count(held, 'lease')} {verb} first; nothing new begins."


def _drain_tells(rows: Sequence[Agent]) -> list[str]:
    told = [_finish_first(rows), *_left(rows)]
    if _live(rows):
        told.insert(1, "With a deadline, what still runs then is cancelled.")
    return told


def _pause_tells(rows: Sequence[Agent]) -> list[str]:
    held = _live(rows)
    goes = f"{count(held, 'lease')} {'goes' if len(held) == 1 else 'go'} on; nothing new begins."
    return [goes if held else _finish_first(rows), *_left(rows)]


def _resume_tells(rows: Sequence[Agent]) -> list[str]:
    kept = [row for row in rows if row.health not in PLACEABLE_HEALTH]
    return _freed(rows, kept, {str(row.health) for row in kept})


def _good_tells(rows: Sequence[Agent]) -> list[str]:
    kept = [row for row in rows if row.status not in PLACEABLE_STATUS]
    return _freed(rows, kept, {str(row.status) for row in kept})


def _freed(rows: Sequence[Agent], kept: Sequence[Agent], why: Set[str]) -> list[str]:
    """Say which slots take work again, and of the agents kept from it that they still are."""
    able = [row for row in rows if row not in kept]
    them = "it is" if len(rows) == 1 else f"{len(kept)} of them {'is' if len(kept) == 1 else 'are'}"
    still = f"{them} {' or '.join(sorted(why))}."
    if not able:
        return [f"No slot is free for new work yet: {still}"]
    slots = sum(row.max_concurrent - row.load for row in able)
    types = {row.pool_id for row in able}
    waiting = Request.objects.filter(pool_id__in=types, status=RequestStatus.WAITING).count()
    looked = "request that waits is" if waiting == 1 else "requests that wait are"
    served = f"; the {waiting} {looked} looked at at once" if waiting else ""
    word = "slot is" if slots == 1 else "slots are"
    told = [f"{slots} {word} free for new work again{served}."]
    return [*told, f"Not yet on all: {still}"] if kept else told


def _retire_tells(rows: Sequence[Agent]) -> list[str]:
    silent = [row for row in rows if row.status == AgentStatus.UNREACHABLE]
    told = [_finish_first(rows)]
    if lost := _live(silent):
        told.append(f"{count(lost, 'lease')} on unreachable agents are cancelled at once.")
    told.append("A retired agent comes back only by registering again; its history is kept.")
    return [*told, *_left(rows)]


def _release_tells(rows: Sequence[Agent]) -> list[str]:
    held = _live(rows)
    cycles = {lease.cycle_id for lease in held if lease.cycle_id}
    of = f" of {count(list(cycles), 'cycle')}" if cycles else ""
    return [
        f"{count(held, 'lease')}{of} {'ends' if len(held) == 1 else 'end'} now as cancelled; "
        "whatever runs under them is killed and their requests are not tried again.",
        "The slots are free at once.",
    ]


# -- doing it --------------------------------------------------------------------------------------


def _by(values: Values) -> datetime | None:
    minutes = number(values, "minutes", "Deadline")
    if minutes is None:
        return None
    if not 0 < minutes <= MOST_MINUTES:
        raise Invalid(f"The deadline is 1 to {MOST_MINUTES} minutes from now.")
    return registry_queries.now() + timedelta(minutes=minutes)


def _drain(row: Agent, values: Values, actor: str) -> Done:
    by = _by(values)
    after = agents.drain(row, retire=False, actor=actor, reason=values.get("note", ""), by=by)
    held = after.load
    rest = f"; {held} {'lease finishes' if held == 1 else 'leases finish'} first" if held else ""
    return Done(f"is draining{rest}", undo="resume")


def _resume(row: Agent, values: Values, actor: str) -> Done:
    agents.resume(row, actor=actor, reason=values.get("note", ""))
    return Done("takes work again")


def _judge(health: AgentHealth, sentence: str) -> Run:
    def run(row: Agent, values: Values, actor: str) -> Done:
        was = row.health
        agents.set_health(
            row,
            health=health,
            note=values.get("note", ""),
            until=_by(values),
            actor=actor,
            if_generation=row.generation,
        )
        return Done(sentence, undo=was)

    return run


def _restore(row: Agent, values: Values, actor: str) -> Done:
    try:
        health = AgentHealth(values.get(f"was-{row.id}", ""))
    except ValueError:
        health = AgentHealth.UNKNOWN
    note = "taken back"
    agents.set_health(
        row, health=health, note=note, until=None, actor=actor, if_generation=row.generation
    )
    return Done(f"is {health} again")


def _retire(row: Agent, values: Values, actor: str) -> Done:
    after = agents.unregister(
        row,
        force=False,
        if_generation=row.generation,
        actor=actor,
        reason=values.get("note") or "retired",
    )
    if after.status == AgentStatus.RETIRED:
        return Done("is retired")
    return Done(f"retires after its {after.load} {'lease' if after.load == 1 else 'leases'}")


def _release(row: Agent, values: Values, actor: str) -> Done:
    if not _live([row]):
        raise AgentBusy("It holds no lease any more.")
    note = values.get("note") or "released by an operator"
    ended = leases.release_agent(
        row, project=None, outcome=Outcome.CANCELLED, actor=actor, error=note
    )
    return Done(f"{count(ended, 'lease')} ended")


def _takes_work(row: Agent) -> bool:
    return row.status in PLACEABLE_STATUS and row.health in PLACEABLE_HEALTH


def _is_placeable(row: Agent) -> bool:
    return row.status in PLACEABLE_STATUS


def _is_present(row: Agent) -> bool:
    return row.status not in _GONE


def _with_deadline(rows: Sequence[Agent]) -> Sequence[Field]:
    return (_DEADLINE, NOTE)


def _with_until(rows: Sequence[Agent]) -> Sequence[Field]:
    return (_UNTIL, NOTE)


ACTIONS = (
    Action(
        "drain",
        "Drain",
        AGENT,
        _drain_tells,
        _drain,
        _with_deadline,
        lambda row: _is_placeable(row) or row.status == AgentStatus.DRAINING,
        undo="resume",
        is_for_many=True,
    ),
    Action(
        "resume",
        "Resume",
        AGENT,
        _resume_tells,
        _resume,
        allows=lambda row: row.status in (AgentStatus.DRAINING, AgentStatus.STANDBY),
        is_for_many=True,
    ),
    Action(
        "pause",
        "Pause",
        AGENT,
        _pause_tells,
        _judge(AgentHealth.MAINTENANCE, "is paused"),
        _with_until,
        lambda row: _is_present(row) and row.health != AgentHealth.MAINTENANCE,
        undo="restore-health",
        is_for_many=True,
    ),
    Action(
        "quarantine",
        "Quarantine",
        AGENT,
        _pause_tells,
        _judge(AgentHealth.QUARANTINED, "is quarantined"),
        _with_until,
        lambda row: _is_present(row) and row.health != AgentHealth.QUARANTINED,
        undo="restore-health",
        is_for_many=True,
    ),
    Action(
        "good",
        "Good again",
        AGENT,
        _good_tells,
        _judge(AgentHealth.GOOD, "is good"),
        allows=lambda row: _is_present(row) and row.health != AgentHealth.GOOD,
        undo="restore-health",
        is_for_many=True,
    ),
    Action(
        "retire",
        "Retire",
        AGENT,
        _retire_tells,
        _retire,
        allows=lambda row: row.status != AgentStatus.RETIRED,
        is_grave=True,
        is_for_many=True,
    ),
    Action(
        "release",
        "Release leases",
        AGENT,
        _release_tells,
        _release,
        allows=lambda row: bool(_live([row])),
        is_grave=True,
        is_for_many=True,
    ),
    Action(
        "restore-health",
        "Take back",
        AGENT,
        _good_tells,
        _restore,
        is_for_many=True,
        is_hidden=True,
    ),
)
