"""Reads what there is to learn from, writes what was learnt."""

import itertools
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any
from uuid import UUID

from django.db import connection

from agentpool.registry import queries as registry_queries
from agentpool.registry.models import (
    Agent,
    AgentLearning,
    Calibration,
    Outlook,
    PoolLearning,
)
from agentpool.registry.states import PLACEABLE_STATUS
from balancing import keeping, outlook
from balancing.calibration import Tally
from balancing.outlook import Lesson, Model
from balancing.trust import Suspicion

# Shorter leases count as this long, seconds: the logarithm has no bottom.
SHORTEST_S = 0.01
PIECE = 5000


@dataclass(frozen=True, slots=True)
class Told:
    """
    A lesson as the tables tell it.

    story: which work it was, so that its failures count once. elsewhere: the same work has failed
    with another agent, too.
    """

    agent_type: str
    agent_id: UUID
    lesson: Lesson
    is_success: bool
    duration_s: float
    story: str
    elsewhere: bool


def now() -> datetime:
    """Return the database's time."""
    return registry_queries.now()


def agents_at_work(agent_type: str) -> int:
    """Return how many agents of a pool take work."""
    return Agent.objects.filter(pool_id=agent_type, status__in=PLACEABLE_STATUS).count()


def last_event() -> int:
    """Return the number of the newest numbered event."""
    return int(_rows("SELECT coalesce(max(seq), 0) FROM event", [])[0][0])


def newest_event(after: int, *, batch: int) -> tuple[int, int]:
    """Return how many events of at most a batch there are after one, and the number of the last."""
    sql = (
        "SELECT count(*), max(seq) FROM"
        " (SELECT seq FROM event WHERE seq > %s ORDER BY seq LIMIT %s) e"
    )
    count, newest = _rows(sql, [after, batch])[0]
    return int(count), int(newest or after)


def lessons(after: int, to: int) -> list[Told]:
    """Return what the leases teach that ended between two events, in their order."""
    return [_told(row) for row in _rows("SELECT * FROM lessons_1(%s, %s)", [after, to])]


def refresh_service_times() -> int:
    """Take up the pools' mean service times; return how many changed."""
    return int(_rows("SELECT service_times_1()", [])[0][0])


def fold_outcomes(*, days: float, batch: int = 20_000) -> int:
    """Take outcomes older than this into the days' sums and delete them; return how many."""
    total = 0
    while count := int(_rows("SELECT outcomes_fold_1(%s, %s)", [days, batch])[0][0]):
        total += count
    return total


# -- writing -------------------------------------------------------------------------------------


def write_model(agent_type: str, model: Model) -> None:
    """Write down a pool's model."""
    sql = """
        INSERT INTO pool_learning (agent_type, model, leases, learnt_at)
        VALUES (%s, %s::jsonb, %s, to_timestamp(%s))
        ON CONFLICT (agent_type) DO UPDATE SET model = excluded.model, leases = excluded.leases,
          learnt_at = excluded.learnt_at"""
    told = json.dumps(keeping.model_json(model))
    _do(sql, [agent_type, told, model.leases, model.at])


def write_skills(
    agent_type: str, model: Model, names: Iterable[str], suspicions: Mapping[str, Suspicion]
) -> None:
    """Write down what is known of some agents, and how suspicious they are."""
    sql = """
        INSERT INTO agent_learning (agent_id, agent_type, skill, suspicion, streak, why, learnt_at)
        SELECT u.a, %s, u.skill::jsonb, u.suspicion, u.streak, u.why, to_timestamp(u.at)
        FROM unnest(%s::uuid[], %s::text[], %s::float8[], %s::int[], %s::text[], %s::float8[])
          u (a, skill, suspicion, streak, why, at) ORDER BY u.a
        ON CONFLICT (agent_id) DO UPDATE SET skill = excluded.skill,
          suspicion = excluded.suspicion, streak = excluded.streak, why = excluded.why,
          learnt_at = excluded.learnt_at"""
    for some in _batched(names):
        known = [(name, model.skills[name], suspicions.get(name, Suspicion())) for name in some]
        columns = [
            [name for name, _, _ in known],
            [json.dumps(keeping.skill_json(skill)) for _, skill, _ in known],
            [each.value for _, _, each in known],
            [each.streak for _, _, each in known],
            [each.why for _, _, each in known],
            [skill.at for _, skill, _ in known],
        ]
        _do(sql, [agent_type, *columns])


def _batched(names: Iterable[str], size: int = 1000) -> Iterator[list[str]]:
    left = iter(names)
    while some := list(itertools.islice(left, size)):
        yield some


_OUTLOOK = ["agent_id", "story_type", "odds", "log_s", "odds_doubt", "log_s_doubt"]
_OUTLOOK += ["match_odds", "match_log_s", "noise", "retry_s", "tokens", "efficiency"]
_OUTLOOK += ["leases", "ratio", "learnt_at"]
_TYPES = ("uuid", "text", *["float8"] * 10, "int", "float8", "float8")


def write_outlooks(agent_type: str, model: Model, names: Iterable[str]) -> None:
    """Write down what to expect of a pool, and of some of its agents, at each kind of work."""
    averages = {kind: outlook.average(model, kind) for kind in (None, *model.kinds)}
    rows = itertools.chain(
        (_average_row(kind, average) for kind, average in averages.items()),
        (row for name in names for row in _cell_rows(model, name, averages)),
    )
    unnested = ", ".join(f"%s::{kind}[]" for kind in _TYPES)
    changed = ", ".join(f"{name} = excluded.{name}" for name in _OUTLOOK[2:])
    sql = f"""
        INSERT INTO outlook (agent_type, {", ".join(_OUTLOOK)})
        SELECT %s, {", ".join(f"u.{name}" for name in _OUTLOOK[:-1])}, to_timestamp(u.learnt_at)
        FROM unnest({unnested}) u ({", ".join(_OUTLOOK)}) ORDER BY u.agent_id, u.story_type
        ON CONFLICT (agent_type, agent_id, story_type) DO UPDATE SET {changed}"""  # noqa: S608
    while some := list(itertools.islice(rows, PIECE)):
        _do(sql, [agent_type, *map(list, zip(*some, strict=True))])


def _average_row(kind: str | None, average: outlook.Average) -> tuple[Any, ...]:
    return (
        None,
        kind,
        average.odds,
        average.log_s,
        average.odds_doubt,
        average.log_s_doubt,
        average.match_odds,
        average.match_log_s,
        average.noise,
        average.retry_s,
        average.tokens,
        average.efficiency,
        average.leases,
        1.0,
        average.at,
    )


def _cell_rows(
    model: Model, name: str, averages: Mapping[str | None, outlook.Average]
) -> Iterator[tuple[Any, ...]]:
    skill = model.skills[name]
    for place, kind in enumerate((None, *skill.kinds)):
        cell = outlook.cell(model, skill, kind)
        usual = averages.get(kind) or averages[None]
        hoped_s, of_unknown_s = (
            outlook.hoped_s(outlook.expect(usual, known, match=match), retry_s=usual.retry_s)
            for known, match in ((cell, skill.match[place]), (None, 0.0))
        )
        yield (
            name,
            kind,
            cell.odds,
            cell.log_s,
            cell.odds_doubt,
            cell.log_s_doubt,
            0.0,
            0.0,
            0.0,
            0.0,
            cell.tokens,
            cell.efficiency,
            cell.leases,
            hoped_s / of_unknown_s,
            cell.at,
        )


_SUMS: tuple[str, ...] = ("leases", "squares", "naive_squares", "errors", "naive_errors")
_SUMS += ("gain", "gain_squares", "within")
_BINS = ("bin_leases", "bin_predicted", "bin_successes")


def write_tallies(agent_type: str, tallies: Mapping[date, Tally]) -> None:
    """Add to the days' calibration; the caller holds the mark, so nobody else adds to it."""
    for day, tally in tallies.items():
        row, _ = Calibration.objects.get_or_create(
            agent_type=agent_type,
            day=day,
            defaults={name: getattr(Tally(), name) for name in _BINS},
        )
        for name in _SUMS:
            setattr(row, name, getattr(row, name) + getattr(tally, name))
        for name in _BINS:
            pairs = zip(getattr(row, name), getattr(tally, name), strict=True)
            setattr(row, name, [a + b for a, b in pairs])
        row.save(update_fields=[*_SUMS, *_BINS])


def tally_of(rows: Iterable[Calibration]) -> Tally:
    """Return the sum of some days."""
    total = Tally()
    for row in rows:
        for name in _SUMS:
            setattr(total, name, getattr(total, name) + getattr(row, name))
        for name in _BINS:
            pairs = zip(getattr(total, name), getattr(row, name), strict=True)
            setattr(total, name, [a + b for a, b in pairs])
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


def everything(mark: int) -> Iterator[list[Told]]:
    """Yield all that teaches anything up to an event, in its order of time, in pieces."""
    for sql, params in ((_DAYS, []), (_OUTCOMES, [mark])):
        with connection.chunked_cursor() as cursor:
            cursor.execute(sql, params)
            while rows := cursor.fetchmany(PIECE):
                yield [_told(row) for row in rows]


_DAYS = """
    SELECT d.agent_type, d.agent_id, d.story_type,
        extract(epoch FROM d.day)::float8 + 43200, d.log_s / d.leases, d.successes,
        d.match / d.leases, d.waited_s / d.leases, d.tokens::float8 / d.leases,
        d.efficiency / d.leases, '', false, d.leases
      FROM outcome_day d ORDER BY d.day, d.agent_id, d.story_type"""
_OUTCOMES = """
    SELECT o.agent_type, o.agent_id, o.story_type, extract(epoch FROM o.ended_at)::float8,
        o.duration_s, o.outcome = 'success',
        CASE WHEN o.tags = '{}' THEN 0 ELSE (SELECT count(*) FROM unnest(o.tags) t
          WHERE t = ANY (a.capabilities))::float8 / cardinality(o.tags) - 0.5 END,
        o.waited_s, (o.tokens_in + o.tokens_out)::float8, efficiency_1(o), '', false
      FROM outcome o JOIN agent a ON a.id = o.agent_id
      WHERE o.outcome <> 'cancelled' AND o.lease_id NOT IN (
        SELECT e.lease_id FROM event e WHERE (e.seq IS NULL OR e.seq > %s)
          AND e.kind IN ('lease.released', 'lease.expired', 'lease.lost', 'lease.cancelled'))
      ORDER BY o.ended_at, o.lease_id"""


def _told(row: Any) -> Told:
    """Return a lesson from a row; one more column than an outcome has: a day's."""
    (kind_of, agent_id, story_type, at, size, good, match, waited_s, tokens, efficiency) = row[:10]
    leases = row[12] if len(row) > 12 else 1
    log_s = size if len(row) > 12 else math.log(max(SHORTEST_S, size))
    lesson = Lesson(
        str(agent_id),
        story_type,
        at,
        log_s,
        float(good),
        leases,
        float(match),
        waited_s,
        tokens,
        efficiency,
    )
    return Told(kind_of, agent_id, lesson, bool(good), size, row[10], row[11])


def _rows(sql: str, params: list[Any]) -> list[Any]:
    with connection.cursor() as cursor:
        cursor.execute(sql, params)
        found: list[Any] = cursor.fetchall()
        return found


def _do(sql: str, params: list[Any]) -> None:
    with connection.cursor() as cursor:
        cursor.execute(sql, params)
