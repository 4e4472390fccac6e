"""How long an agent's silence may last before it is suspected, then given up."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from agentpool.registry.states import AgentStatus


@dataclass(frozen=True)
class Windows:
    """Lengths of silence, seconds: after `suspect_s` no new work, after `lost_s` leases end."""

    heartbeat_s: float
    suspect_s: float
    lost_s: float


@dataclass(frozen=True)
class Absence:
    """
    What is known of the control plane's own silence.

    last_seen_at: when it last worked, None: never before; until: end of a grace already given.
    """

    last_seen_at: datetime | None
    until: datetime | None


# Moved by silence. `starting` has not spoken yet (scaling watches it); `lost` has its verdict.
WATCHED = frozenset(
    {
        AgentStatus.IDLE,
        AgentStatus.BUSY,
        AgentStatus.DRAINING,
        AgentStatus.STANDBY,
        AgentStatus.UNREACHABLE,
    }
)


def verdict(*, status: AgentStatus, silent_s: float, windows: Windows) -> AgentStatus:
    """
    Return the status that an agent's silence (seconds) calls for; its own when none.

    A silent agent is suspected first and lost only from there, so both moves leave an event.
    """
    if status not in WATCHED:
        return status
    if status is AgentStatus.UNREACHABLE:
        return AgentStatus.LOST if silent_s > windows.lost_s else status
    return AgentStatus.UNREACHABLE if silent_s > windows.suspect_s else status


def grace_until(*, absence: Absence, now: datetime, windows: Windows) -> datetime | None:
    """
    Return until when nobody may be declared lost, None: no grace.

    The control plane was away itself if its last sign of life is older than the suspect window;
    agents then get one full lost window to speak (measured from its return, `now`). Before its
    first sign of life there was nobody to hear, and so nobody to spare.
    """
    if absence.last_seen_at is None:
        return None
    if now - absence.last_seen_at > timedelta(seconds=windows.suspect_s):
        return now + timedelta(seconds=windows.lost_s)
    return absence.until if absence.until and absence.until > now else None


def heartbeat_interval_s(*, base_s: float, agents: int, per_s: float = 50.0) -> float:
    """
    Return how often an agent shall speak, so that the fleet's heartbeats stay under `per_s`.

    Source: Nomad, TTL = max(minimum, n / 50 per second).
    """
    return max(base_s, agents / per_s)
