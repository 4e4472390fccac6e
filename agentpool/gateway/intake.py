"""Reads heartbeats quickly: which agents speak in a message, and what each of them says."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agentpool.gateway.beats import Named, stale
from agentpool.gateway.session import Session, Speaker
from agentpool.registry.errors import Forbidden, Invalid, Unauthenticated
from balancing import intake
from balancing.services.heartbeats import Heartbeat

# Agents of one message; more is no host any more.
MOST_AGENTS = 5000
# What a message has beside what the agent says, and with nothing said but that it lives.
_FRAME = frozenset({"id", "op", "agent_id"})
_BARE = _FRAME | {"incarnation"}

Word = tuple[Speaker, Heartbeat | None]


@dataclass(frozen=True, slots=True)
class Read:
    """One message: what each agent says, which leases it named, and who was refused at once."""

    said: Sequence[Word]
    named: Sequence[Named]
    refused: Sequence[dict[str, Any]] = ()
    is_group: bool = False


def read(session: Session, message: Mapping[str, Any]) -> Read | None:
    """
    Return what a heartbeat says, None: it needs a look of its own (`ops.heartbeat`).

    Raises: Refusal and ValidationError, as REST would.
    """
    if "agents" in message:
        return _read_group(session, message)
    speaker = session.bound(message.get("agent_id"))
    if speaker is None:
        return None
    word = _word(speaker, message)
    if word is _STALE:
        return None
    return Read([(speaker, word)], [(speaker, _names(word))])


def _read_group(session: Session, message: Mapping[str, Any]) -> Read:
    entries = message["agents"]
    if not message.keys() <= {"id", "op", "agents"} or type(entries) is not list:
        raise Invalid("agents is a list, and stands alone.", errors=[("agents", "Not a list.")])
    if len(entries) > MOST_AGENTS:
        raise Invalid(f"At most {MOST_AGENTS} agents a message.", errors=[("agents", "Too many.")])
    said: list[Word] = []
    named: list[Named] = []
    refused: list[dict[str, Any]] = []
    agents = session.agents
    for index, entry in enumerate(entries):
        if type(entry) is not dict or type(name := entry.get("agent_id")) is not str:
            raise Invalid(
                f"agents[{index}] needs an agent_id.",
                errors=[(f"agents[{index}].agent_id", "This field is required.")],
            )
        speaker = agents.get(name)
        if speaker is None:
            refused.append({"agent_id": name, "error": _stranger(session).problem()})
            continue
        word = _word(speaker, entry)
        if word is _STALE:
            refused.append({"agent_id": name, "error": stale(speaker).problem()})
            continue
        said.append((speaker, word))
        named.append((speaker, _names(word)))
    return Read(said, named, refused, is_group=True)


_STALE = Heartbeat(incarnation=-1)


def _word(speaker: Speaker, entry: Mapping[str, Any]) -> Heartbeat | None:
    """Return what an agent says, None: only that it lives; _STALE: as another incarnation."""
    incarnation = entry.get("incarnation", speaker.incarnation)
    if entry.keys() <= _BARE and type(incarnation) is int and incarnation >= 1:
        return None if incarnation == speaker.incarnation else _STALE
    said = intake.heartbeat({k: v for k, v in entry.items() if k not in _FRAME})
    if said.incarnation not in (None, speaker.incarnation):
        return _STALE
    return said if said.leases or said.draining or said.age_s else None


def _names(word: Heartbeat | None) -> list[str] | None:
    return [str(entry["lease_id"]) for entry in word.leases] if word and word.leases else None


def _stranger(session: Session) -> Forbidden | Unauthenticated:
    if session.agents:
        return Forbidden("An agent's credential is good for itself only.")
    return Unauthenticated("It has not said hello on this connection.")
