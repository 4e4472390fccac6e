"""Calls the claim protocol's SQL functions (balancing/sql): a call is a round trip, or says so."""

import functools
import json
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any
from uuid import UUID

import psycopg
from django.conf import settings
from django.db import connection

from agentpool.registry.models import Agent, Lease, Request, ResourceLimit
from balancing import prepared
from balancing.terms import (
    Acquired,
    Close,
    Closed,
    Exchange,
    Exchanged,
    Served,
    Wish,
    columns_of,
    usual_json,
)

log = logging.getLogger(__name__)

# Requests granted in one transaction of serve; more are granted by repeating it.
SERVE_BATCH = 50


def acquire(requests: Sequence[Request], *, queue: bool, exact: bool = False) -> list[Acquired]:
    """
    Store the requests and, where an agent is free, their leases, in one transaction, in order.

    queue: False stores nothing when no agent is free. exact: settle doubts about limits by locking
    them, which may wait. Locks the agents it picks, never waiting for one.
    """
    rows = prepared.rows(
        _ACQUIRE + " acquire_1(%s::jsonb, %s::jsonb, %s, %s, %s::text::timing_1)",
        [
            usual_json(),
            json.dumps([columns_of(request) for request in requests]),
            queue,
            exact,
            _timing(),
        ],
    )
    return [_acquired(row, request) for row, request in zip(rows, requests, strict=True)]


def exchange(
    closes: Sequence[Close], wishes: Sequence[Wish], *, credentials: Collection[UUID]
) -> Exchange:
    """
    Do `close`, then `acquire`, in one transaction; then look who may be served, in another.

    It is one round trip, and a second one if somebody who asked must wait. Must run outside of a
    transaction. Locks as `close`, then as `acquire`. Raises: DatabaseError, and nothing was done;
    when the connection was lost nobody knows what was committed.
    """
    ask = (
        _EXCHANGE,
        [
            json.dumps([_close(close) for close in closes]),
            usual_json(),
            f"[{','.join(wish.columns for wish in wishes)}]",
            _ids(credentials),
            _timing(),
        ],
    )
    look = (
        _SERVEABLE,
        [_ids(close.lease_id for close in closes), _ids(wish.id for wish in wishes)],
    )
    with connection.wrap_database_errors:
        # Who only asks frees nothing: then it is looked for those alone who must wait.
        done, *looked = prepared.round_trip(*([ask, look] if closes else [ask]))
        if isinstance(done, psycopg.Error):
            raise done
        if any(code == "waiting" for code, _, _ in done) and not looked:
            looked = prepared.round_trip(look)
    if done and done[0][0] == "unauthenticated":
        return Exchange([], [], frozenset(map(UUID, _words(done[0][2]))), frozenset())
    found = [Exchanged(str(code), shown, _words(words)) for code, shown, words in done]
    return Exchange(found[: len(closes)], found[len(closes) :], frozenset(), _pools(looked))


def _pools(looked: Sequence[prepared.Rows | psycopg.Error]) -> frozenset[str] | None:
    """Return the pools that a look has found, None: it failed; what was done stands in any case."""
    pools: set[str] = set()
    for rows in looked:
        if isinstance(rows, psycopg.Error):
            log.warning("could not look who may be served error=%s", rows)
            return None
        pools.update(str(agent_type) for (agent_type,) in rows)
    return frozenset(pools)


@functools.lru_cache(maxsize=1000)
def _words(text: str | None) -> tuple[str, ...]:
    """Read a list that many rows have alike."""
    return tuple(json.loads(text or "[]"))


_EXCHANGE = prepared.Statement(
    "exchange",
    "SELECT code, shown, nullif(to_json(words)::text, '[]') FROM exchange_1($1::jsonb, $2::jsonb,"
    " $3::jsonb, $4::uuid[], $5::text::timing_1)",
)
_SERVEABLE = prepared.Statement(
    "serveable_after",
    "SELECT agent_type FROM serveable_after_1($1::uuid[], $2::uuid[]) agent_type",
)


def shown(lease_id: UUID) -> str:
    """Return a lease as JSON, as every door shows it."""
    sql = (
        "SELECT lease_shown_1(l, a.agent_id, a.endpoint)"
        " FROM lease l JOIN agent a ON a.id = l.agent_id WHERE l.id = %s"
    )
    found: str = prepared.rows(sql, [lease_id])[0][0]
    return found


def waited_for(agent_types: Iterable[str]) -> list[str]:
    """Return those of some pools where somebody waits."""
    sql = (
        "SELECT k FROM unnest(%s::text[]) k WHERE EXISTS"
        " (SELECT FROM request q WHERE q.agent_type = k AND q.status = 'waiting')"
    )
    return [row[0] for row in prepared.rows(sql, [list(agent_types)])]


def serve(agent_type: str, *, exact: bool = False) -> Served:
    """
    Grant waiting requests of one pool.

    Takes the pool's serve lock to the end of the transaction: call it outside of any other.
    """
    rows = prepared.rows(
        "SELECT granted, again, exact FROM serve_1(%s, %s, %s, %s::text::timing_1)",
        [agent_type, SERVE_BATCH, exact, _timing()],
    )
    return Served(*rows[0])


def reserve(agent_type: str) -> UUID | None:
    """Keep capacity for the request of a pool that was passed too often; return it."""
    request_id: UUID | None = prepared.rows("SELECT reserve_1(%s)", [agent_type])[0][0]
    return request_id


def close(closes: Iterable[Close]) -> list[Closed]:
    """
    End leases by compare-and-set and hand their slots over, in one transaction.

    Locks leases, agents (each in the order of their ids) and requests, in this order.
    """
    wishes = json.dumps([_close(close) for close in closes])
    rows = prepared.rows(_CLOSE + " close_1(%s::jsonb, %s::text::timing_1)", [wishes, _timing()])
    return [_closed(row) for row in rows]


def retire_drained(agent_id: UUID, *, actor: str) -> None:
    """Retire an agent that drains, shall go, and holds nothing, nor parked. Locks the agent."""
    prepared.rows(
        "SELECT retire_drained_1(ARRAY[%s]::uuid[], ARRAY[%s]::text[])", [agent_id, actor]
    )


def park(lease_id: UUID, *, token: int, actor: str, reason: str) -> str:
    """Free a lease's slot and amounts while it waits; return ok or lease_lost. Locks as close."""
    code: str = prepared.rows(
        "SELECT park_1(%s, %s, %s, %s, %s::text::timing_1)",
        [lease_id, token, actor, reason, _timing()],
    )[0][0]
    return code


def resume(lease_id: UUID, *, token: int, actor: str, exact: bool) -> str:
    """
    Let a parked lease go on under a new token.

    Returns: ok, lease_lost, agent_busy, or again (repeat exactly). Locks lease and agent.
    """
    code: str = prepared.rows(
        "SELECT code FROM resume_1(%s, %s, %s, %s, %s::text::timing_1)",
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
    code: str = prepared.rows(
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
    prepared.rows(
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


def remove_limit(limit_id: UUID, *, if_generation: int | None) -> ResourceLimit | None:
    """
    Remove a limit and its shards; waits for every claim under way, as `set_limit` does.

    Returns the limit, None: there is none, or it is not at `if_generation` any more.
    """
    with connection.cursor() as cursor:
        # First, so that nothing is given back to a shard of a limit that is gone.
        cursor.execute("LOCK TABLE resource_limit IN ACCESS EXCLUSIVE MODE")
    rows = ResourceLimit._default_manager.filter(id=limit_id)
    if if_generation is not None:
        rows = rows.filter(generation=if_generation)
    found: ResourceLimit | None = rows.first()
    if found is not None:
        rows.delete()  # and its shards: the key's cascade is Django's
    return found


def fold_shares(*, batch: int = 20_000) -> int:
    """Charge the projects with what the newest events say; return how many events were read."""
    count: int = prepared.rows("SELECT shares_fold_1(%s)", [batch])[0][0]
    return count


# -- rows ----------------------------------------------------------------------------------------

_FIELDS = Lease._meta.concrete_fields
_NAMES = [field.attname for field in _FIELDS]
_LEASE = ", ".join(f"(l).{field.column}" for field in _FIELDS)

_ACQUIRE = f"SELECT code, agent_name, endpoint, {_LEASE} FROM"
_CLOSE = f"SELECT code, agent_name, endpoint, handed_over, pools, {_LEASE} FROM"


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


def _close(close: Close) -> dict[str, Any]:
    """Return an end as ends_1 reads it: what is not said of it is left out."""
    ending = close.ending
    told = {
        "lease": str(close.lease_id),
        "token": close.token,
        "to": ending.to.value,
        "outcome": ending.outcome.value,
        "request_to": ending.request_to.value,
        "actor": close.actor,
        "error": ending.error or None,
        "result": ending.result,
        "usage": ending.usage or None,
        "retry": ending.retry or None,
        "overdue_s": ending.overdue_s,
        "asker": close.asker,
        "agent": str(close.agent) if close.agent else None,
    }
    return {name: value for name, value in told.items() if value is not None}


def _ids(ids: Iterable[UUID]) -> str:
    """Return the type uuid[] as Postgres reads it: the driver takes its time for a list."""
    return f"{{{','.join(map(str, ids))}}}"


def _timing() -> str:
    """Return the type timing_1 as Postgres reads it."""
    times = (settings.RUN_LEASE_S, settings.OFFER_S, settings.BACKOFF_S)
    return f"({','.join(map(str, times))},{settings.MAX_ATTEMPTS})"
