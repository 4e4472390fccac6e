"""
Appends events: one row for each thing that happened, in the transaction that made it happen.

Writers never NOTIFY inside a transaction (it would serialise durable commits); the pulse relays.
"""

import time
from typing import Any
from uuid import UUID

from django.db import connection, transaction

from agentpool.registry.errors import Refusal
from agentpool.registry.models import Agent, Event, Lease, Request

NUDGE_CHANNEL = "agentpool_nudge"
# The relay polls every 5 ms for 50 ms after a nudge or an event, so one per 40 ms wakes it for all.
_NUDGE_EVERY_S = 0.04
_last_nudge = 0.0


def append(
    kind: str,
    *,
    agent: Agent | None = None,
    request: Request | None = None,
    lease: Lease | None = None,
    agent_type: str = "",
    actor: str = "",
    **detail: Any,
) -> None:
    """This will write one event; `detail` must be plain JSON values."""
    Event.objects.create(
        kind=kind,
        agent_type=agent_type or _type_of(agent, request, lease),
        agent_id=agent.agent_id if agent else "",
        project=request.project if request else lease.project if lease else "",
        request_id=_id(request) or (lease.request_id if lease else None),
        lease_id=_id(lease),
        actor=actor,
        detail=detail,
    )
    nudge_on_commit()


def tell_refused(refusal: Refusal) -> None:
    """
    This will write the events of refused requests, outside of the transaction that took them back.

    Demand is counted at arrival, also what was refused; inside of another one it is left to that.
    """
    if connection.in_atomic_block:
        return
    for request, reason in refusal.untold:
        append(
            "request.refused",
            request=request,
            actor=request.requested_by,
            cycle_id=request.cycle_id,
            phase=request.phase,
            reason=reason,
        )
    refusal.untold.clear()


def nudge_on_commit() -> None:
    """This will wake the relay once the current transaction is visible."""
    transaction.on_commit(_nudge)


def _nudge() -> None:
    global _last_nudge
    now = time.monotonic()
    if now - _last_nudge < _NUDGE_EVERY_S or connection.in_atomic_block:
        return
    _last_nudge = now
    with connection.cursor() as cursor:
        cursor.execute(f"NOTIFY {NUDGE_CHANNEL}")


def _type_of(agent: Agent | None, request: Request | None, lease: Lease | None) -> str:
    row = agent or request or lease
    return row.agent_type if row else ""


def _id(row: Request | Lease | None) -> UUID | None:
    return row.id if row else None
