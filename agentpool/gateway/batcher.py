"""
The fast path: acquires and releases of this process that arrive together share one transaction.

Each message is answered when its transaction has committed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from agentpool.gateway.gatherer import PerLoop
from agentpool.registry import credentials
from agentpool.registry.errors import Refusal, Unauthenticated
from agentpool.registry.models import Lease, Request
from balancing.services.exchange import exchange
from balancing.services.leases import Close

MOST_AT_ONCE = 128

Answer = Lease | Refusal | None


@dataclass(frozen=True)
class Call:
    """One message: what is asked for, and the credential that must still be good."""

    wish: Request | Close
    credential: UUID | None


def _answers(calls: Sequence[Call]) -> list[Answer]:
    held = {call.credential for call in calls if call.credential is not None}
    good = credentials.good(held) if held else set()
    valid = [c for c in calls if c.credential is None or c.credential in good]
    closes = [c.wish for c in valid if isinstance(c.wish, Close)]
    wishes = [c.wish for c in valid if isinstance(c.wish, Request)]
    ended, granted = exchange(closes, wishes)
    found: dict[int, Any] = dict(zip(map(id, closes), ended, strict=True))
    found |= dict(zip(map(id, wishes), granted, strict=True))
    revoked = Unauthenticated("The token has been revoked or has expired.")
    return [found.get(id(call.wish), revoked) for call in calls]


batcher: PerLoop[Call, Lease | None] = PerLoop(_answers, name="batcher", most=MOST_AT_ONCE)
