"""Calls the claim protocol's SQL functions; each call here is one round trip (balancing/sql)."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import connection

from agentpool.registry.models import Lease, Request
from agentpool.registry.states import LeaseStatus, Outcome, RequestStatus

# Requests granted in one transaction of serve; more are granted by repeating it.
SERVE_BATCH = 50


@dataclass(frozen=True)
class Closed:
    """
    What ending a lease brought.

    ok: False when it was not the caller's to end (any more). handed_over: the lease that the freed
    slot went to. pools: the types whose queue must be looked at after the commit.
    """

    ok: bool
    handed_over: UUID | None
    pools: tuple[str, ...]


@dataclass(frozen=True)
class Ending:
    """
    How a lease shall end.

    retry: the request waits again, while attempts are left. request_to: its status otherwise.
    overdue_s: end it only if it expired that many seconds ago; None: in any case.
    """

    to: LeaseStatus
    outcome: Outcome
    error: str = ""
    retry: bool = False
    request_to: RequestStatus = RequestStatus.FINISHED
    result: dict[str, Any] | None = None
    usage: dict[str, Any] | None = None
    overdue_s: float | None = None


def acquire(request: Request, *, queue: bool) -> UUID | None:
    """
    Store the request and, if an agent is free, its lease; return the lease's id, None: it waits.

    queue: False stores nothing when no agent is free. Locks the agent it picks.
    """
    row = {field.column: _plain(field, request) for field in Request._meta.concrete_fields}
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT lease_id FROM acquire_1(%s::jsonb, %s, %s::timing_1)",
            [json.dumps(row), queue, _timing()],
        )
        lease_id: UUID | None = cursor.fetchone()[0]
        return lease_id


def serve(agent_type: str) -> tuple[int, bool]:
    """
    Grant waiting requests of one pool; return how many, and whether to look again.

    Takes the pool's serve lock to the end of the transaction: call it outside of any other.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT granted, again FROM serve_1(%s, %s, %s::timing_1)",
            [agent_type, SERVE_BATCH, _timing()],
        )
        granted, again = cursor.fetchone()
        return granted, again


def close(lease_id: UUID, *, token: int | None, ending: Ending, actor: str) -> Closed:
    """
    End a lease by compare-and-set and hand its slot over; token None: the server itself ends it.

    Locks lease, agent, request, in this order.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT code, handed_over, pools FROM close_1("
            "%s, %s, %s, %s, %s, %s::jsonb, %s::jsonb, %s, %s, %s, %s::timing_1, %s)",
            [
                lease_id,
                token,
                ending.to.value,
                ending.outcome.value,
                ending.error,
                json.dumps(ending.result) if ending.result is not None else None,
                json.dumps(ending.usage or {}),
                ending.retry,
                ending.request_to.value,
                ending.overdue_s,
                _timing(),
                actor,
            ],
        )
        code, handed_over, pools = cursor.fetchone()
        return Closed(ok=code == "ok", handed_over=handed_over, pools=tuple(pools or ()))


def renew(
    *,
    agent: UUID,
    incarnation: int,
    leases: Sequence[tuple[UUID, int]],
    ttl_s: float,
    age_s: float = 0.0,
) -> list[Lease]:
    """
    Renew (lease id, fencing token) pairs of one agent incarnation; return those that are its own.

    age_s: seconds since the renewal was sent, which do not count towards the new term.
    Locks the leases in the order of their ids.
    """
    return list(
        Lease.objects.raw(
            "SELECT * FROM renew_1(%s, %s, %s::uuid[], %s::bigint[], %s, %s)",
            [
                agent,
                incarnation,
                [i for i, _ in leases],
                [t for _, t in leases],
                ttl_s,
                age_s,
            ],
        )
    )


def _timing() -> tuple[float, float, float, int]:
    return (
        settings.RUN_LEASE_S,
        settings.OFFER_S,
        settings.BACKOFF_S,
        settings.MAX_ATTEMPTS,
    )


def _plain(field: Any, request: Request) -> Any:
    value = getattr(request, field.attname)
    if value is None or isinstance(value, str | int | float | bool | list | dict):
        return value
    return None if field.name in _SET_BY_SQL else str(value)


# Times and order of arrival are the database's to say.
_SET_BY_SQL = frozenset({"number", "created_at", "queued_at", "expires_at"})
