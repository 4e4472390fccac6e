"""What a person may do to agents from the admin: each act one service call an agent."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from agentpool.registry import queries as registry_queries
from agentpool.registry import services as registry_services
from agentpool.registry.admin.acts import Act, NoteUntil, how_many
from agentpool.registry.models import Agent
from agentpool.registry.states import PLACEABLE_STATUS, AgentHealth, Outcome
from balancing.services import agents, leases

Said = Mapping[str, Any]


def _fresh(row: Agent) -> Agent:
    return registry_queries.agent_by(id=row.id)


def _drain(row: Agent, said: Said, actor: str) -> None:
    agents.drain(_fresh(row), retire=False, actor=actor, reason=said["note"])


def _resume(row: Agent, said: Said, actor: str) -> None:
    agents.resume(_fresh(row), actor=actor, reason=said["note"])


def _judge(health: AgentHealth) -> Callable[[Agent, Said, str], None]:
    def apply(row: Agent, said: Said, actor: str) -> None:
        agents.set_health(
            row, health=health, note=said["note"], until=said.get("until"), actor=actor
        )

    return apply


def _retire(row: Agent, said: Said, actor: str) -> None:
    agents.unregister(
        _fresh(row),
        force=False,
        if_generation=None,
        actor=actor,
        reason=said["note"] or "retired by an operator",
    )


def _cancel_leases(row: Agent, said: Said, actor: str) -> None:
    leases.release_agent(
        row,
        project=None,
        outcome=Outcome.CANCELLED,
        actor=actor,
        error=said["note"] or "cancelled by an operator",
    )


def _rotate(row: Agent, said: Said, actor: str) -> str:
    issued = registry_services.rotate_credential(_fresh(row), actor=actor, note=said["note"])
    return issued.secret


# -- what will happen, in numbers ------------------------------------------------------------------


def _held(rows: Sequence[Agent]) -> tuple[int, int]:
    """Return how many of these agents hold leases, and how many leases."""
    return sum(1 for row in rows if row.load), sum(row.load for row in rows)


def _goes_on(rows: Sequence[Agent]) -> list[str]:
    holders, held = _held(rows)
    if not held:
        return ["None of them holds a lease."] if len(rows) > 1 else ["It holds no lease."]
    who = how_many(holders, "of them holds", "of them hold") if len(rows) > 1 else "It holds"
    return [f"{who} {how_many(held, 'lease')}; that work goes on to its end."]


def _left(rows: Sequence[Agent]) -> list[str]:
    """Return what is left of each pool without these agents."""
    gone: dict[str, int] = {}
    for row in rows:
        if row.status in PLACEABLE_STATUS:
            gone[row.agent_type] = gone.get(row.agent_type, 0) + row.max_concurrent
    there = {state["agent_type"]: state["slots"] for state in registry_queries.pool_states()}
    return [
        f"The pool {name} keeps {there.get(name, 0) - slots} of "
        f"{how_many(there.get(name, 0), 'slot')} that take work."
        for name, slots in sorted(gone.items())
    ]


def _odd(rows: Sequence[Agent], *statuses: str, will: str) -> list[str]:
    odd = [row for row in rows if row.status not in statuses]
    return [f"{how_many(len(odd), 'agent')} {will}."] if odd else []


def _will_drain(rows: Sequence[Agent]) -> list[str]:
    refuse = "cannot drain as things are and will be told by name"
    return [
        f"{how_many(len(rows), 'agent')} will take no new work.",
        *_goes_on(rows),
        *_left(rows),
        *_odd(rows, "idle", "busy", "draining", will=refuse),
        "“Resume” takes it back.",
    ]


def _will_resume(rows: Sequence[Agent]) -> list[str]:
    refuse = "must speak up themselves and will be told by name"
    held_back = sum(1 for row in rows if row.health in ("maintenance", "quarantined"))
    told = [f"{how_many(len(rows), 'agent')} will take work again, whoever waits is served."]
    if held_back:
        told.append(f"{how_many(held_back, 'agent')} stay held back by health: use “Good again”.")
    return [*told, *_odd(rows, "idle", "busy", "draining", "standby", will=refuse)]


def _will_be(word: str) -> Callable[[Sequence[Agent]], list[str]]:
    def foretell(rows: Sequence[Agent]) -> list[str]:
        return [
            f"{how_many(len(rows), 'agent')} will be {word} and get no new work.",
            *_goes_on(rows),
            *_left(rows),
        ]

    return foretell


def _will_be_good(rows: Sequence[Agent]) -> list[str]:
    return [f"{how_many(len(rows), 'agent')} will be good, and get work again if they are up."]


def _will_retire(rows: Sequence[Agent]) -> list[str]:
    holders, held = _held(rows)
    now = len(rows) - holders
    told = [f"{how_many(now, 'agent')} will be retired at once."] if now else []
    if holders:
        told.append(
            f"{how_many(holders, 'agent')} will drain first, because of "
            f"{how_many(held, 'lease')}, and be retired then."
        )
    silent = [row for row in rows if row.status == "unreachable" and row.load]
    if silent:
        told.append(
            f"{how_many(len(silent), 'of them is', 'of them are')} silent: their leases are "
            "cancelled at once."
        )
    return [*told, *_left(rows), "A retired agent can only come back by registering again."]


def _will_cancel(rows: Sequence[Agent]) -> list[str]:
    holders, held = _held(rows)
    return [
        f"{how_many(held, 'lease')} of {how_many(holders, 'agent')} will be cancelled, with the "
        "requests they were granted for.",
        "What the work has done so far is not taken back. The agents stay and take other work.",
    ]


def _will_rotate(rows: Sequence[Agent]) -> list[str]:
    return [
        f"{how_many(len(rows), 'agent')} will get a new credential, shown once on the next page.",
        "The old one is worth nothing at once: an agent that is not given the new one falls "
        "silent, and is lost when its silence has lasted too long.",
        *_goes_on(rows),
    ]


ACTS = (
    Act("drain", "Drain", _will_drain, _drain, icon="water_drop"),
    Act("resume", "Resume", _will_resume, _resume, icon="play_arrow"),
    Act(
        "pause",
        "Pause",
        _will_be("in maintenance"),
        _judge(AgentHealth.MAINTENANCE),
        form=NoteUntil,
        icon="pause",
    ),
    Act(
        "quarantine",
        "Quarantine",
        _will_be("quarantined"),
        _judge(AgentHealth.QUARANTINED),
        form=NoteUntil,
        icon="coronavirus",
        is_harsh=True,
    ),
    Act("good", "Good again", _will_be_good, _judge(AgentHealth.GOOD), icon="favorite"),
    Act(
        "cancel_leases",
        "Cancel their leases",
        _will_cancel,
        _cancel_leases,
        icon="cancel",
        is_harsh=True,
    ),
    Act(
        "rotate_credential",
        "Rotate credential",
        _will_rotate,
        _rotate,
        icon="key",
        is_harsh=True,
        once_about="From now on it is the bearer token of this agent; the old one is void.",
    ),
    Act("retire", "Retire", _will_retire, _retire, icon="logout", is_harsh=True),
)
