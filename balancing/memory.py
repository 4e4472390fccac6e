"""Reads what there is to learn from, and what is known so far of the pools and agents concerned."""

import itertools
import json
from collections.abc import Collection, Iterator, Mapping
from datetime import datetime
from typing import Any, NamedTuple

from django.db import connection

from agentpool.registry import queries as registry_queries
from agentpool.registry.models import (
    AgentLearning,
    Calibration,
    Outlook,
    PoolLearning,
)
from agentpool.registry.states import PLACEABLE_STATUS
from balancing import course, keeping
from balancing.belief import Model
from balancing.course import Course, Row, Told
from balancing.trust import Suspicion

PIECE = 5000


class Heard(NamedTuple):
    """The next events, and what the leases teach that ended by them; newest: the last event."""

    events: int
    newest: int
    told: list[Told]


def now() -> datetime:
    """Return the database's time."""
    return registry_queries.now()


def mark() -> int | None:
    """
    Return up to which event has been learnt; None: somebody else is learning.

    Locks the mark to the end of the transaction: whoever holds it is the only one who learns. The
    commit does not wait for the disk: what a crash takes is learnt again, as the mark goes with it.
    """
    sql = """
        SELECT last_seq, set_config('synchronous_commit', 'off', true) FROM learning_state
          WHERE id = 1 FOR NO KEY UPDATE SKIP LOCKED"""
    found = _rows(sql, [])
    if not found:
        _do("INSERT INTO learning_state (id, last_seq) VALUES (1, 0) ON CONFLICT DO NOTHING", [])
        found = _rows(sql, [])
    return int(found[0][0]) if found else None


def heard(after: int, *, batch: int) -> Heard:
    """Return the events after one, at most a batch, and what they teach in their order."""
    sql = f"""
        WITH heard AS (SELECT count(*) AS events, max(seq) AS newest FROM
          (SELECT seq FROM event WHERE seq > %s ORDER BY seq LIMIT %s) e)
        SELECT h.events, h.newest, {_TOLD} FROM heard h
          LEFT JOIN LATERAL lessons_1(%s, h.newest) WITH ORDINALITY o ON true
          ORDER BY o.ordinality"""  # noqa: S608
    rows = _rows(sql, [after, batch, after])
    events, newest = rows[0][:2]
    lessons = course.told(row[2:] for row in rows if row[2] is not None)
    return Heard(int(events), int(newest or after), lessons)


def courses(concerned: Mapping[str, Collection[str]]) -> dict[str, Course]:
    """Return the models of some pools, each with the agents concerned; by agent type."""
    sql = """
        SELECT p.agent_type, l.model::text,
            (SELECT count(*) FROM agent a WHERE a.agent_type = p.agent_type AND a.status = ANY (%s))
          FROM unnest(%s::text[]) p (agent_type) LEFT JOIN pool_learning l USING (agent_type)"""
    at_work = [status.value for status in PLACEABLE_STATUS]
    found = {
        agent_type: Course(
            agent_type, agents, keeping.model_of(json.loads(told)) if told else Model()
        )
        for agent_type, told, agents in _rows(sql, [at_work, list(concerned)])
    }
    agents = list(itertools.chain.from_iterable(concerned.values()))
    sql = """
        SELECT agent_type, agent_id::text, skill::text, suspicion, streak, why
          FROM agent_learning WHERE agent_id = ANY (%s::uuid[])"""
    for agent_type, name, told, *suspicion in _rows(sql, [agents]) if agents else ():
        if (pool := found.get(agent_type)) is not None:
            pool.model.skills[name] = keeping.skill_of(json.loads(told))
            pool.suspicions[name] = Suspicion(*suspicion)
    return found


def last_event() -> int:
    """Return the number of the newest numbered event."""
    return int(_rows("SELECT coalesce(max(seq), 0) FROM event", [])[0][0])


def refresh_service_times() -> int:
    """Take up the pools' mean service times; return how many changed."""
    return int(_rows("SELECT service_times_1()", [])[0][0])


def fold_outcomes(*, days: float, batch: int = 20_000) -> int:
    """Take outcomes older than this into the days' sums and delete them; return how many."""
    total = 0
    while count := int(_rows("SELECT outcomes_fold_1(%s, %s)", [days, batch])[0][0]):
        total += count
    return total


# -- anew ----------------------------------------------------------------------------------------


def alone() -> None:
    """
    Keep all others from learning to the end of the transaction, and see one state of all tables.

    Must be the first statement of a transaction.
    """
    with connection.cursor() as cursor:
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        cursor.execute("LOCK TABLE learning_state IN SHARE ROW EXCLUSIVE MODE")


def suspicions() -> dict[str, Suspicion]:
    """Return how suspicious agents are: who learns anew does not pardon them."""
    return {
        str(row.agent_id): Suspicion(row.suspicion, row.streak, row.why)
        for row in AgentLearning.objects.exclude(suspicion=0)
    }


def forget() -> None:
    """Delete all that was learnt; the outcomes and the days' sums stay."""
    for table in (Outlook, AgentLearning, PoolLearning, Calibration):
        table.objects.all().delete()


def count() -> int:
    """Return how many outcomes and days there are to learn from."""
    sql = (
        "SELECT (SELECT count(*) FROM outcome) + (SELECT coalesce(sum(leases), 0) FROM outcome_day)"
    )
    return int(_rows(sql, [])[0][0])


def everything(mark: int) -> Iterator[list[Row]]:
    """Yield all that teaches anything up to an event, in its order of time, in pieces."""
    for sql, params in ((_DAYS, []), (_OUTCOMES, [mark])):
        with connection.chunked_cursor() as cursor:
            cursor.execute(sql, params)
            while rows := cursor.fetchmany(PIECE):
                yield rows


# Of an outcome `o`, as `Told` has it.
_TOLD = """o.agent_type, o.agent_id::text, o.story_type, o.at,
    ln(greatest(0.01, o.duration_s)), o.is_success::int::float8, 1, o.match, o.waited_s, o.tokens,
    o.efficiency, o.is_success, o.duration_s, o.story, o.elsewhere"""
_DAYS = """
    SELECT d.agent_type, d.agent_id::text, d.story_type,
        extract(epoch FROM d.day)::float8 + 43200, d.log_s / d.leases, d.successes::float8,
        d.leases, d.match / d.leases, d.waited_s / d.leases, d.tokens::float8 / d.leases,
        d.efficiency / d.leases, true, d.duration_s / d.leases, '', false
      FROM outcome_day d ORDER BY d.day, d.agent_id, d.story_type"""
_OUTCOMES = f"""
    SELECT {_TOLD} FROM (
      SELECT o.agent_type, o.agent_id, o.story_type, extract(epoch FROM o.ended_at)::float8 AS at,
          o.duration_s, o.outcome = 'success' AS is_success,
          CASE WHEN o.tags = '{{}}' THEN 0 ELSE (SELECT count(*) FROM unnest(o.tags) t
            WHERE t = ANY (a.capabilities))::float8 / cardinality(o.tags) - 0.5 END AS match,
          o.waited_s, (o.tokens_in + o.tokens_out)::float8 AS tokens,
          efficiency_1(o) AS efficiency, '' AS story, false AS elsewhere, o.ended_at, o.lease_id
        FROM outcome o JOIN agent a ON a.id = o.agent_id
        WHERE o.outcome <> 'cancelled' AND o.lease_id NOT IN (
          SELECT e.lease_id FROM event e WHERE (e.seq IS NULL OR e.seq > %s)
            AND e.kind IN ('lease.released', 'lease.expired', 'lease.lost', 'lease.cancelled'))) o
      ORDER BY o.ended_at, o.lease_id"""  # noqa: S608


def _rows(sql: str, params: list[Any]) -> list[Any]:
    with connection.cursor() as cursor:
        cursor.execute(sql, params)
        found: list[Any] = cursor.fetchall()
        return found


def _do(sql: str, params: list[Any]) -> None:
    with connection.cursor() as cursor:
        cursor.execute(sql, params)
