"""
Says hello to many at once: a host's agents, or a whole fleet after its server came back.

Two steps, with the subscription in between: who is this, and what is open for it. An offer made
between a look and a later subscription would be missed.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from agentpool.gateway.gatherer import PerLoop
from agentpool.gateway.session import Speaker
from agentpool.registry import credentials
from agentpool.registry import queries as registry_queries
from agentpool.registry.errors import Refusal, Unauthenticated
from agentpool.registry.models import Lease
from agentpool.registry.states import LIVE, LeaseStatus
from balancing import queries, showing
from balancing.services import heartbeats
from balancing.services.heartbeats import Beat

MOST_AT_ONCE = 500
Reply = dict[str, Any]


def _speakers(tokens: Sequence[str]) -> list[Speaker | Refusal]:
    known = credentials.find_many(set(tokens))
    return [
        Speaker(known[token], token=token)
        if token in known
        else Unauthenticated("The token is unknown, or has been revoked, or has expired.")
        for token in tokens
    ]


def _greetings(speakers: Sequence[Speaker]) -> list[Reply | Refusal]:
    # Hello is a sign of life: the offer that woke the agent must not find it unreachable.
    beats = [Beat(one.key, one.incarnation, str(one.credential)) for one in speakers]
    heard = heartbeats.hear(beats)
    commands = [_commands(beat, heard, one) for beat, one in zip(beats, speakers, strict=True)]
    held = _held(speakers)
    interval_s = registry_queries.heartbeat_interval_s()
    return [
        told if isinstance(told, Refusal) else _greeting(one, told, held[one.key], interval_s)
        for one, told in zip(speakers, commands, strict=True)
    ]


def _commands(
    beat: Beat, heard: heartbeats.Heard, speaker: Speaker
) -> list[dict[str, Any]] | Refusal:
    if (refusal := heard.refusal(beat, speaker.name)) is not None:
        return refusal
    try:
        return heartbeats.attend(beat) if heard.wants_more(beat) else heard.commands_of(beat)
    except Refusal as no:
        return no


def _held(speakers: Sequence[Speaker]) -> dict[str, list[Lease]]:
    rows = queries.leases().filter(agent__in=[s.agent for s in speakers], status__in=LIVE)
    held: dict[str, list[Lease]] = defaultdict(list)
    for lease in rows.order_by("fencing_token"):
        held[str(lease.agent_id)].append(lease)
    return held


def _greeting(
    speaker: Speaker, commands: list[dict[str, Any]], held: Sequence[Lease], interval_s: float
) -> Reply:
    return {
        "agent_id": speaker.name,
        "incarnation": speaker.incarnation,
        "heartbeat_interval_s": interval_s,
        "offers": [
            showing.offer_json(lease)
            for lease in held
            if lease.status == LeaseStatus.OFFERED and lease.incarnation == speaker.incarnation
        ],
        "commands": commands,
        "leases": [showing.lease_json(lease) for lease in held],
    }


speakers: PerLoop[str, Speaker] = PerLoop(_speakers, name="hello", most=MOST_AT_ONCE)
greetings: PerLoop[Speaker, Reply] = PerLoop(_greetings, name="greeting", most=MOST_AT_ONCE)
