"""Reads what there is to learn from, and what is known so far of the pools and agents concerned."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import ujson
from django.db import connection

from agentpool.registry import queries as registry_queries
from agentpool.registry.models import (
    AgentLearning,
    Calibration,
    Outlook,
    PoolLearning,
)
from agentpool.registry.states import PLACEABLE_STATUS, AgentHealth, AgentStatus
from balancing import course, keeping, prepared
from balancing.belief import Model
from balancing.course import Course, Row, Told
from balancing.trust import Standing, Suspicion

PIECE = 5000


class Heard(NamedTuple):
    """
    The next events, and what the leases teach that ended by them.

    version: of the mark after which they come. newest: the last event. courses: the pools
    concerned, with the agents concerned; by agent type. standings: of these agents, by id.
    """

    version: int
    events: int
    newest: int
    told: list[Told]
    courses: dict[str, Course]
    standings: dict[str, Standing]


def now() -> datetime:
    """Return the database's time."""
    return registry_queries.now()


def heard(*, batch: int) -> Heard | None:
    """
    Return the events after the mark, at most a batch; None: there are none.

    All as it was at one moment; locks nothing.
    """
    found = prepared.rows(_HEARD, [batch], binary=True)[0]
    version, events, newest, lessons, pools, models, agents, skills = found
    if not events:
        return None
    courses, bounds, standings = {}, {}, {}
    for model, (pool, probation, quarantine, *counted) in _each(pools, models):
        courses[pool] = _course(pool, model, *counted)
        bounds[pool] = probation, quarantine
    for skill, (pool, name, health, by, generation, *suspicion) in _each(agents, skills):
        standings[name] = Standing(AgentHealth(health), by, generation, *bounds[pool])
        if skill is not None:
            courses[pool].model.skills[name] = keeping.skill_of(skill)
            courses[pool].suspicions[name] = Suspicion(*suspicion)
    return Heard(version, events, newest, course.told(_rows_of(lessons)), courses, standings)


_HEARD = (
    "SELECT version, events, newest, told::text, pools::text, models, agents::text, skills"
    " FROM heard_1(%s)"
)


def _each(text: str | None, kept: list[bytes | None] | None) -> Iterator[tuple[bytes | None, Row]]:
    return zip(kept or (), _rows_of(text), strict=True)


def _rows_of(text: str | None) -> Sequence[Row]:
    rows: Sequence[Row] = ujson.loads(text) if text else ()
    return rows


def _course(agent_type: str, kept: bytes | None, agents: int, counted_at: float) -> Course:
    model = keeping.model_of(kept) if kept is not None else Model()
    return Course(agent_type, agents, model, counted_at=counted_at)


def last_event() -> int:
    """Return the number of the newest numbered event."""
    return int(_rows("SELECT coalesce(max(seq), 0) FROM event_number", [])[0][0])


def refresh_service_times() -> int:
    """Take up the pools' mean service times; return how many changed."""
    return int(_rows("SELECT service_times_1()", [])[0][0])


def fold_outcomes(*, days: float, batch: int = 20_000) -> int:
    """Take outcomes older than this into the days' sums and delete them; return how many."""
    total = 0
    while count := int(_rows("SELECT outcomes_fold_1(%s, %s)", [days, batch])[0][0]):
        total += count
    return total


def forget_gone() -> None:
    """
    Delete what is expected of agents that have been lost or retired for a day.

    A claim looks at the first few by what they promise: not at those who are gone. What is known of
    them stays, for when they come back.
    """
    _rows(_FORGET_GONE, [[AgentStatus.LOST, AgentStatus.RETIRED]])


_FORGET_GONE = """
    WITH gone AS (
      DELETE FROM outlook o USING agent a WHERE a.id = o.agent_id AND a.status = ANY (%s)
        AND a.updated_at < now() - interval '1 day' RETURNING o.id)
    SELECT count(*) FROM gone"""


# -- anew ----------------------------------------------------------------------------------------


def alone() -> int:
    """
    Keep all others from learning to the end of the transaction, and see one state of all tables.

    Must be the first statement of a transaction. Returns the version of the mark.
    """
    with connection.cursor() as cursor:
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        cursor.execute("LOCK TABLE learning_state IN SHARE ROW EXCLUSIVE MODE")
    return int(_rows("SELECT coalesce(max(version), 0) FROM learning_state", [])[0][0])


def blank(agent_type: str) -> Course:
    """Return the course of a pool of which nothing is known."""
    sql = """
        SELECT count(*), extract(epoch FROM now())::float8 FROM agent
          WHERE agent_type = %s AND status = ANY (%s)"""
    at_work = [status.value for status in PLACEABLE_STATUS]
    agents, counted_at = _rows(sql, [agent_type, at_work])[0]
    return Course(agent_type, agents, Model(), counted_at=counted_at)


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


_DAYS = """
    SELECT d.agent_type, d.agent_id::text, d.story_type,
        extract(epoch FROM d.day)::float8 + 43200, d.log_s / d.leases, d.successes::float8,
        d.leases, d.match / d.leases, d.waited_s / d.leases, d.tokens::float8 / d.leases,
        d.efficiency / d.leases, d.successes > 0, d.duration_s / d.leases, false
      FROM outcome_day d ORDER BY d.day, d.agent_id, d.story_type"""
_OUTCOMES = """
    SELECT t.*, false
      FROM outcome o JOIN agent a ON a.id = o.agent_id, lesson_1(o, a.capabilities) t
      WHERE o.outcome <> 'cancelled' AND o.lease_id NOT IN (
        SELECT e.lease_id FROM event e WHERE e.id IN (
            SELECT n.event_id FROM event_number n WHERE n.seq > %s
            UNION ALL SELECT u.id FROM event_unnumbered u)
          AND e.kind IN ('lease.released', 'lease.expired', 'lease.lost', 'lease.cancelled'))
      ORDER BY o.ended_at, o.lease_id"""


def _rows(sql: str, params: list[Any]) -> list[Any]:
    with connection.cursor() as cursor:
        cursor.execute(sql, params)
        found: list[Any] = cursor.fetchall()
        return found
