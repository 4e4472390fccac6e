"""What limits, waiting requests and impossible wishes cost, beside the same without them."""

import json
import statistics
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

from claim_parts.paths import Paths, Way
from claim_parts.stage import TYPES, Stage

PATH = Way("fast", "granian_asgi")
ROUNDS, SECONDS = 3, 2.0
WAITING = 10_000
# Of each lease of the load.
TOKENS = 50_000
_IMPOSSIBLE_TOOL = "what-nobody-has"


def measured(there: Stage, paths: Paths) -> dict[str, float]:
    """Return the share of cycles that each costs, 0 to 1."""
    held = paths.clients * TOKENS
    return {
        "limits_cost": _cost(paths, lambda: _limit(there, tokens=2 * held)),
        "limits_cost_full": _cost(paths, lambda: _limit(there, tokens=held * 100 // 95)),
        "waiters_cost": waiters_cost(there, paths),
    }


def waiters_cost(there: Stage, paths: Paths) -> float:
    """Return the share of cycles that 10,000 requests cost which wait for what nobody has."""
    return _cost(paths, lambda: _waiters(there))


def _cost(paths: Paths, burden: Callable[[], Any]) -> float:
    """Return the median of 1 - cycles with a burden / cycles without, over interleaved rounds."""
    lost = []
    for _ in range(ROUNDS):
        free = paths.run(PATH, strategy="least_loaded", seconds=SECONDS)
        with burden():
            burdened = paths.run(PATH, strategy="least_loaded", seconds=SECONDS)
        if burdened.errors:
            raise SystemExit(f"under a burden: {burdened.errors}")
        lost.append(1 - burdened.per_s / free.per_s)
    return round(statistics.median(lost), 4)


@contextmanager
def _limit(there: Stage, *, tokens: int) -> Iterator[None]:
    """Limit the installation's tokens."""
    wish = {"level": "installation", "name": "", "token_budget": tokens, "weight": 1}
    with there.connect() as connection:
        connection.execute("SELECT limit_set_1(%s::jsonb)", [json.dumps(wish)])
        try:
            yield
        finally:
            connection.execute("TRUNCATE resource_limit CASCADE")


@contextmanager
def _waiters(there: Stage) -> Iterator[None]:
    """Let requests wait, over all pools, for agents that do not exist yet."""
    with there.connect() as connection:
        for agent_type in TYPES:
            wish = _impossible(connection) | {"agent_type": agent_type, "allow_future": True}
            connection.execute(_ACQUIRE, [json.dumps([wish]), True])
        connection.execute(_MULTIPLY, [WAITING // len(TYPES) - 1])
        connection.execute(_SHARES)
        connection.execute("ANALYZE request")
        try:
            yield
        finally:
            connection.execute("DELETE FROM request WHERE status = 'waiting'")


def impossible_ms(there: Stage) -> float:
    """Return the median milliseconds that the server needs to say that nobody ever can."""
    with there.connect() as connection:
        wishes = [json.dumps([_impossible(connection)]) for _ in range(110)]
        taken = [
            (connection.execute(_TIMED, [wish], prepare=True).fetchone() or [0.0])[0]
            for wish in wishes
        ]
    return round(statistics.median(taken[10:]), 3)


# By the server's own clock: the way to it and back waits for a processor that clients share.
_TIMED = """
SELECT 1000 * extract(epoch FROM clock_timestamp() - began)::float8
FROM (SELECT clock_timestamp() AS began OFFSET 0) x
  CROSS JOIN LATERAL (SELECT code FROM acquire_1('{}', %s::jsonb, x.began IS NULL, false,
    '(120,15,5,3)'::timing_1)) y
"""
_ACQUIRE = "SELECT code FROM acquire_1('{}', %s::jsonb, %s, false, '(120,15,5,3)'::timing_1)"
_MULTIPLY = """
INSERT INTO request SELECT n.* FROM request q, generate_series(1, %s) i,
  LATERAL jsonb_populate_record(q, jsonb_build_object('id', gen_random_uuid(),
    'number', nextval('request_number_seq'), 'project', 'project-' || i %% 1000)) n
  WHERE q.status = 'waiting'
"""
_SHARES = """
INSERT INTO share (agent_type, project, log_usage)
SELECT DISTINCT agent_type, project, 0 FROM request WHERE status = 'waiting' ON CONFLICT DO NOTHING
"""


def _impossible(connection: psycopg.Connection) -> dict[str, Any]:
    """Return a request of the load that wants, too, what no agent has."""
    row = connection.execute("SELECT to_jsonb(q) FROM request q LIMIT 1").fetchone()
    assert row
    known: dict[str, Any] = row[0]
    return known | {
        "id": str(uuid.uuid4()),
        "special_tools": [_IMPOSSIBLE_TOOL],
        "status": "waiting",
        "ttl_s": 3600,
        "attempts": 0,
        "granted_at": None,
        "finished_at": None,
        "outcome": "",
    }
