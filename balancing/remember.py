"""
Writes down what was learnt, all pools of a batch by one statement.

The caller holds the mark (`memory.heard`, `memory.alone`), so that nobody else writes these rows.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import astuple
from typing import NamedTuple

import ujson

from balancing import estimate, keeping, outlook, prepared
from balancing.course import Course, Row
from balancing.outlook import Average, Cell
from balancing.trust import Suspicion

# match_odds, match_log_s, noise, retry_s: an agent has none of its own.
_OF_POOLS_ALONE = (0.0,) * 4


def all_of(courses: Iterable[Course], *, mark: int) -> None:
    """
    Write down what pools know now: models, agents they learnt from, what to expect, how sure.

    mark: up to which event has been learnt. Must be in a transaction.
    """
    several = list(courses)
    pieces = (
        _pieces(table, itertools.chain.from_iterable(map(rows, several)))
        for table, rows in _TABLES.items()
    )
    is_written = False
    for texts in itertools.zip_longest(*pieces, fillvalue="[]"):
        prepared.do(_STATEMENT, [*texts, mark])
        is_written = True
    if not is_written:  # the mark moves in any case
        prepared.do(_STATEMENT, [*["[]"] * len(_TABLES), mark])


def _pieces(table: "_Table", rows: Iterable[Row]) -> Iterator[str]:
    """Yield rows as JSON, as many at a time as one statement takes."""
    left = iter(rows)
    while some := list(itertools.islice(left, table.piece)):
        yield ujson.dumps([dict(zip(table.names, row, strict=True)) for row in some])


# -- the statements --------------------------------------------------------------------------------


class _Table(NamedTuple):
    """
    A statement that takes rows as JSON, and the names of their values.

    piece: rows of one statement: they are in memory at once.
    """

    sql: str
    names: tuple[str, ...]
    piece: int


def _upsert(
    table: str, columns: Mapping[str, str], *, key: str, adds: str = "", piece: int = 5000
) -> _Table:
    """
    Return what replaces the rows that are there.

    Nobody else writes them, so their order does not matter. columns: their types; times come in
    seconds since the epoch. adds: the assignments for a row that is there, if it is not simply
    replaced.
    """
    names = ", ".join(columns)
    # One JSON text: an array a column would take half of the time that learning takes.
    sent = ", ".join(
        f"{name} {'float8' if kind == 'timestamptz' else kind}" for name, kind in columns.items()
    )
    values = ", ".join(
        f"to_timestamp(u.{name})" if kind == "timestamptz" else f"u.{name}"
        for name, kind in columns.items()
    )
    others = [name for name in columns if name not in key.split(", ")]
    changed = adds or ", ".join(f"{name} = excluded.{name}" for name in others)
    sql = f"""
        INSERT INTO {table} AS t ({names})
        SELECT {values} FROM json_to_recordset(%s::json) u ({sent})
        ON CONFLICT ({key}) DO UPDATE SET {changed}"""  # noqa: S608
    return _Table(sql, tuple(columns), piece)


_MODELS = _upsert(
    "pool_learning",
    {
        "agent_type": "text",
        "model": "jsonb",
        "leases": "int8",
        "agents": "int",
        "counted_at": "timestamptz",
        "learnt_at": "timestamptz",
    },
    key="agent_type",
    piece=1000,
)
_SKILLS_OF_AGENTS = _upsert(
    "agent_learning",
    {
        "agent_id": "uuid",
        "agent_type": "text",
        "skill": "jsonb",
        "suspicion": "float8",
        "streak": "int",
        "why": "text",
        "learnt_at": "timestamptz",
    },
    key="agent_id",
    piece=1000,
)
_OF_AN_OUTLOOK = "odds log_s odds_doubt log_s_doubt match_odds match_log_s noise retry_s"
_OUTLOOKS = _upsert(
    "outlook",
    {
        "agent_type": "text",
        "agent_id": "uuid",
        "story_type": "text",
        **dict.fromkeys(_OF_AN_OUTLOOK.split(), "float8"),
        "tokens": "float8",
        "efficiency": "float8",
        "leases": "int",
        "ratio": "float8",
        "learnt_at": "timestamptz",
    },
    key="agent_type, agent_id, story_type",
)
_SUMS = ["squares", "naive_squares", "errors", "naive_errors", "gain", "gain_squares"]
_COUNTS = ["leases", "within"]
_BINS = {"bin_leases": "int[]", "bin_predicted": "float8[]", "bin_successes": "int[]"}
_ADDED = [f"{name} = t.{name} + excluded.{name}" for name in (*_COUNTS, *_SUMS)]
_ADDED += [
    f"{name} = (SELECT array_agg(a + b ORDER BY i)"  # noqa: S608
    f" FROM unnest(t.{name}, excluded.{name}) WITH ORDINALITY x (a, b, i))"
    for name in _BINS
]
_TALLIES = _upsert(
    "calibration",
    {
        "agent_type": "text",
        "day": "date",
        **dict.fromkeys(_COUNTS, "int"),
        **dict.fromkeys(_SUMS, "float8"),
        **_BINS,
    },
    key="agent_type, day",
    adds=", ".join(_ADDED),
)


# -- the rows --------------------------------------------------------------------------------------


def _model_rows(course: Course) -> Iterator[Row]:
    model, counted = course.model, (course.agents, course.counted_at)
    yield course.agent_type, keeping.model_json(model), model.leases, *counted, model.at


def _skill_rows(course: Course) -> Iterator[Row]:
    for name in course.touched:
        skill = course.model.skills[name]
        suspicion = course.suspicions.get(name, Suspicion())
        told = keeping.skill_json(skill)
        yield name, course.agent_type, told, *astuple(suspicion), skill.at


def _outlook_rows(course: Course) -> Iterator[Row]:
    model = course.model
    averages = estimate.averages(model, (None, *model.kinds))
    for kind, usual in averages.items():
        yield (
            course.agent_type,
            None,
            kind,
            usual.odds,
            usual.log_s,
            usual.odds_doubt,
            usual.log_s_doubt,
            usual.match_odds,
            usual.match_log_s,
            usual.noise,
            usual.retry_s,
            usual.tokens,
            usual.efficiency,
            usual.leases,
            1.0,
            usual.at,
        )
    of_unknown_s: dict[str | None, float] = {}
    for name in course.touched:
        skill = model.skills[name]
        found = estimate.cells(model, skill).items()
        for (kind, cell), match in zip(found, skill.match, strict=True):
            known = kind if kind in averages else None
            if known not in of_unknown_s:
                of_unknown_s[known] = _hoped_s(averages[known], None, 0.0)
            ratio = _hoped_s(averages[known], cell, match) / of_unknown_s[known]
            yield course.agent_type, name, kind, *_cell_values(cell, ratio)


def _cell_values(cell: Cell, ratio: float) -> Row:
    return (
        cell.odds,
        cell.log_s,
        cell.odds_doubt,
        cell.log_s_doubt,
        *_OF_POOLS_ALONE,
        cell.tokens,
        cell.efficiency,
        cell.leases,
        ratio,
        cell.at,
    )


def _hoped_s(usual: Average, cell: Cell | None, match: float) -> float:
    return outlook.hoped_s(outlook.expect(usual, cell, match=match), retry_s=usual.retry_s)


def _tally_rows(course: Course) -> Iterator[Row]:
    for day, tally in course.tallies.items():
        sums = [getattr(tally, name) for name in (*_COUNTS, *_SUMS, *_BINS)]
        yield course.agent_type, day.isoformat(), *sums


# The rows of each table, and all tables by one statement: every wait for an answer costs as much as
# what is waited for.
_TABLES: dict[_Table, Callable[[Course], Iterator[Row]]] = {
    _MODELS: _model_rows,
    _SKILLS_OF_AGENTS: _skill_rows,
    _OUTLOOKS: _outlook_rows,
    _TALLIES: _tally_rows,
}
_WRITTEN = ", ".join(f"t{i} AS ({table.sql})" for i, table in enumerate(_TABLES))
_STATEMENT = f"WITH {_WRITTEN} UPDATE learning_state SET last_seq = %s WHERE id = 1"  # noqa: S608
