"""Calls the claim protocol's SQL functions; each call here is one round trip (balancing/sql)."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import connection

from agentpool.registry.models import Agent, Lease, Request, ResourceLimit
from agentpool.registry.states import LeaseStatus, Outcome, RequestStatus

# Requests granted in one transaction of serve; more are granted by repeating it.
SERVE_BATCH = 50


@dataclass(frozen=True)
class Acquired:
    """
    What asking for an agent brought.

    code: granted, waiting, or, with nothing stored, exhausted, unsatisfiable, queue_full,
    unknown_type, again (repeat exactly, in a new transaction). lease: granted only; its agent
    carries id, name and endpoint, its request is the caller's.
    """

    code: str
    request: Request
    lease: Lease | None


@dataclass(frozen=True)
class Closed:
    """
    What ending a lease brought.

    code: ok, lease_lost (it was not the caller's to end any more), not_found (nor ever). lease: as
    it ended, with its agent's id, name and endpoint. handed_over: the lease that the freed slot
    went to. pools: the types whose queue must be looked at after the commit.
    """

    code: str
    lease: Lease | None
    handed_over: UUID | None
    pools: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether this call ended the lease."""
        return self.code == "ok"


@dataclass(frozen=True)
class Served:
    """
    What a look at a queue brought.

    again: repeat it, something was only locked. exact: repeat it exactly, a limit was not sure.
    """

    granted: int
    again: bool
    exact: bool


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


@dataclass(frozen=True)
class Close:
    """
    One lease to end: by whom, with which token (None: the server itself), and how.

    asker: only if this principal asked for it; agent: only if it is this agent's.
    """

    lease_id: UUID
    token: int | None
    ending: Ending
    actor: str
    asker: str | None = None
    agent: UUID | None = None


def acquire(request: Request, *, queue: bool, exact: bool = False) -> Acquired:
    """
    Store the request and, if an agent is free, its lease.

    queue: False stores nothing when no agent is free. exact: settle doubts about limits by locking
    them, which may wait. Locks the agent it picks.
    """
    rows = _rows(
        _ACQUIRE + " acquire_1(%s::jsonb, %s, %s, %s::timing_1)",
        [json.dumps(_row(request)), queue, exact, _timing()],
    )
    return _acquired(rows[0], request)


def acquire_many(requests: Sequence[Request], *, queue: bool) -> list[Acquired]:
    """Do `acquire` for each request, in one transaction, never waiting for a lock."""
    rows = _rows(
        _ACQUIRE + " acquire_many_1(%s::jsonb, %s, %s::timing_1)",
        [json.dumps([_row(request) for request in requests]), queue, _timing()],
    )
    return [_acquired(row, request) for row, request in zip(rows, requests, strict=True)]


def serve(agent_type: str, *, exact: bool = False) -> Served:
    """
    Grant waiting requests of one pool.

    Takes the pool's serve lock to the end of the transaction: call it outside of any other.
    """
    rows = _rows(
        "SELECT granted, again, exact FROM serve_1(%s, %s, %s, %s::timing_1)",
        [agent_type, SERVE_BATCH, exact, _timing()],
    )
    return Served(*rows[0])


def reserve(agent_type: str) -> UUID | None:
    """Keep capacity for the request of a pool that was passed too often; return it."""
    request_id: UUID | None = _rows("SELECT reserve_1(%s)", [agent_type])[0][0]
    return request_id


def close(close: Close) -> Closed:
    """
    End a lease by compare-and-set and hand its slot over.

    Locks lease, agent, request, in this order.
    """
    ending = close.ending
    rows = _rows(
        _CLOSE + " close_1("
        "%s, %s, %s, %s, %s, %s::jsonb, %s::jsonb, %s, %s, %s, %s::timing_1, %s, %s, %s)",
        [
            close.lease_id,
            close.token,
            ending.to.value,
            ending.outcome.value,
            ending.error,
            json.dumps(ending.result) if ending.result is not None else None,
            json.dumps(ending.usage or {}),
            ending.retry,
            ending.request_to.value,
            ending.overdue_s,
            _timing(),
            close.actor,
            close.asker,
            close.agent,
        ],
    )
    return _closed(rows[0])


def close_many(closes: Iterable[Close]) -> list[Closed]:
    """Do `close` for each, in one transaction; leases and agents are locked in id order."""
    wishes = [
        {
            "lease": str(close.lease_id),
            "token": close.token,
            "to": close.ending.to.value,
            "outcome": close.ending.outcome.value,
            "error": close.ending.error,
            "result": close.ending.result,
            "usage": close.ending.usage or {},
            "retry": close.ending.retry,
            "request_to": close.ending.request_to.value,
            "actor": close.actor,
            "asker": close.asker,
            "agent": str(close.agent) if close.agent else None,
        }
        for close in closes
    ]
    rows = _rows(
        _CLOSE + " close_many_1(%s::jsonb, %s::timing_1)",
        [json.dumps(wishes), _timing()],
    )
    return [_closed(row) for row in rows]


def park(lease_id: UUID, *, token: int, actor: str, reason: str) -> str:
    """Free a lease's slot and amounts while it waits; return ok or lease_lost. Locks as close."""
    code: str = _rows(
        "SELECT park_1(%s, %s, %s, %s, %s::timing_1)", [lease_id, token, actor, reason, _timing()]
    )[0][0]
    return code


def resume(lease_id: UUID, *, token: int, actor: str, exact: bool) -> str:
    """
    Let a parked lease go on under a new token.

    Returns: ok, lease_lost, agent_busy, or again (repeat exactly). Locks lease and agent.
    """
    code: str = _rows(
        "SELECT code FROM resume_1(%s, %s, %s, %s, %s::timing_1)",
        [lease_id, token, actor, exact, _timing()],
    )[0][0]
    return code


def resize(
    lease_id: UUID, *, token: int, amounts: Mapping[str, Any], actor: str, exact: bool
) -> str:
    """
    Change what an active lease reserves; amounts: those of memory_mb, cpu_cores, ... that change.

    Returns: ok, lease_lost, exhausted, unsatisfiable, or again (repeat exactly).
    """
    code: str = _rows(
        "SELECT resize_1(%s, %s, %s, %s::numeric, %s, %s, %s, %s)",
        [
            lease_id,
            token,
            amounts.get("memory_mb"),
            amounts.get("cpu_cores"),
            amounts.get("token_budget"),
            amounts.get("disk_space_mb"),
            actor,
            exact,
        ],
    )[0][0]
    return code


def lock_limits() -> None:
    """
    Take all limits to the end of the transaction, in their order; it must be its first lock.

    A transaction that claims exactly for several projects would else meet another one in a ring.
    """
    _rows(
        "SELECT limits_lock_1(coalesce(array_agg(x ORDER BY x.id), '{}')) FROM resource_limit x",
        [],
    )


def set_limit(limit: Mapping[str, Any]) -> ResourceLimit:
    """Create or change the limit of a level and name; waits for every claim under way."""
    rows = ResourceLimit._default_manager.raw(
        "SELECT * FROM limit_set_1(%s::jsonb)", [json.dumps(limit)]
    )
    found: ResourceLimit = rows[0]
    return found


def fold_shares(*, batch: int = 20_000) -> int:
    """Charge the projects with what the newest events say; return how many events were read."""
    count: int = _rows("SELECT shares_fold_1(%s)", [batch])[0][0]
    return count


def refresh_records(*, days: int) -> int:
    """Take up what the newest outcomes say of agents and pools; return how many records changed."""
    count: int = _rows("SELECT track_records_1(%s)", [days])[0][0]
    return count


# -- rows ----------------------------------------------------------------------------------------

_FIELDS = Lease._meta.concrete_fields
_NAMES = [field.attname for field in _FIELDS]
_LEASE = ", ".join(f"(l).{field.column}" for field in _FIELDS)

_ACQUIRE = f"SELECT code, agent_name, endpoint, {_LEASE} FROM"
_CLOSE = f"SELECT code, agent_name, endpoint, handed_over, pools, {_LEASE} FROM"


def _rows(sql: str, params: Sequence[Any]) -> list[Any]:
    with connection.cursor() as cursor:
        cursor.execute(sql, params)
        found: list[Any] = cursor.fetchall()
        return found


def _acquired(row: Sequence[Any], request: Request) -> Acquired:
    code, agent_name, endpoint, *values = row
    lease = _lease(values, agent_name, endpoint) if code == "granted" else None
    if lease is not None:
        lease.request = request
    return Acquired(code, request, lease)


def _closed(row: Sequence[Any]) -> Closed:
    code, agent_name, endpoint, handed_over, pools, *values = row
    lease = _lease(values, agent_name, endpoint) if code == "ok" else None
    return Closed(code, lease, handed_over, tuple(pools or ()))


def _lease(values: Sequence[Any], agent_name: str, endpoint: str) -> Lease:
    found = Lease.from_db(connection.alias, _NAMES, _converted(values))
    found.agent = Agent(
        id=found.agent_id, pool_id=found.pool_id, agent_id=agent_name, endpoint=endpoint
    )
    return found


_JSON = [i for i, field in enumerate(_FIELDS) if field.get_internal_type() == "JSONField"]


def _converted(values: Sequence[Any]) -> list[Any]:
    """Django's cursor leaves jsonb to the fields, which a plain SELECT does not ask."""
    found = list(values)
    for i in _JSON:
        if isinstance(found[i], str):
            found[i] = json.loads(found[i])
    return found


def _timing() -> tuple[float, float, float, int]:
    return (
        settings.RUN_LEASE_S,
        settings.OFFER_S,
        settings.BACKOFF_S,
        settings.MAX_ATTEMPTS,
    )


# Times, order of arrival and what follows from them are the database's to say.
_SET_BY_SQL = frozenset({"number", "shape", "created_at", "queued_at", "expires_at"})
_SENT = [
    (str(field.column), field.attname)
    for field in Request._meta.concrete_fields
    if field.name not in _SET_BY_SQL
]


def _row(request: Request) -> dict[str, Any]:
    return {column: _plain(getattr(request, name)) for column, name in _SENT}


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, str | int | float | bool | list | dict):
        return value
    return str(value)
