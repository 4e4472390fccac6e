"""
Writes down what was learnt, all pools of a batch by one statement.

`learnt_1` writes only if nobody else has learnt since what is known was read.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import psycopg
from django.db import OperationalError

from balancing import arrays, estimate, keeping, outlook, prepared
from balancing.arrays import Blobs, Numbers, Words
from balancing.course import Course, Row
from balancing.outlook import Average, Cell
from balancing.trust import Suspicion

# match_odds, match_log_s, noise, retry_s: an agent has none of its own.
_OF_POOLS_ALONE = (0.0,) * 4
_BINS = ("bin_leases", "bin_predicted", "bin_successes")
_SUMS = ("squares", "naive_squares", "errors", "naive_errors", "gain", "gain_squares")


class Overtaken(Exception):
    """Somebody else has learnt since what is known was read, or is learning all anew."""


def all_of(courses: Iterable[Course], *, mark: int, version: int, lazily: bool = False) -> None:
    """
    Write down what pools know now: models, agents they learnt from, what to expect, how sure.

    mark: up to which event has been learnt. version: of the mark, as it was read. lazily: the
    commit does not wait for the disk. More than a thousand pools or agents are several statements,
    and must be in a transaction. Raises: Overtaken, and nothing was written.
    """
    several = list(courses)
    arrays.allow(prepared.raw())
    pieces = [_pieces(table, several) for table in _TABLES]
    for some in itertools.zip_longest(*pieces, fillvalue=()):
        _write(some, mark=mark, version=version, lazily=lazily)
        version += 1


def _pieces(table: "_Table", courses: list[Course]) -> Iterator[list[Row]]:
    """Yield rows, as many at a time as one statement takes; at least none once."""
    left = itertools.chain.from_iterable(map(table.rows, courses))
    yield list(itertools.islice(left, table.piece))
    while some := list(itertools.islice(left, table.piece)):
        yield some


def _write(some: Sequence[Sequence[Row]], *, mark: int, version: int, lazily: bool) -> None:
    """Write some rows of each table, in the order of the tables, and move the mark."""
    params: list[object] = [version, mark, lazily]
    for table, rows in zip(_TABLES, some, strict=True):
        count = len(table.words)
        for place, kind in enumerate(table.words):
            params.append(kind([row[place] for row in rows]))
        params.append(Numbers([row[count:] for row in rows]))
    try:
        is_written = prepared.rows(_LEARNT, params)[0][0]
    except OperationalError as error:
        if isinstance(error.__cause__, psycopg.errors.LockNotAvailable):
            raise Overtaken from error
        raise
    if not is_written:
        raise Overtaken


# -- the rows --------------------------------------------------------------------------------------


def _model_rows(course: Course) -> Iterator[Row]:
    model, counted = course.model, (course.agents, course.counted_at)
    yield course.agent_type, keeping.model_bytes(model), model.leases, *counted, model.at


def _skill_rows(course: Course) -> Iterator[Row]:
    for name in course.touched:
        skill = course.model.skills[name]
        now, kept = course.suspicions.get(name, Suspicion()), keeping.skill_bytes(skill)
        numbers_of = skill.leases[0], now.value, now.streak, skill.at
        yield name, course.agent_type, kept, now.why, *numbers_of


def _outlook_rows(course: Course) -> Iterator[Row]:
    model = course.model
    averages = estimate.averages(model)
    for kind, usual in averages.items():
        *values, leases, at = usual
        yield course.agent_type, None, kind, *values, leases, 1.0, at
    of_unknown_s: dict[str | None, float] = {}
    for name in course.touched:
        skill = model.skills[name]
        found = estimate.cells(model, skill).items()
        for (kind, cell), match in zip(found, skill.match, strict=True):
            known = kind if kind in averages else None
            if known not in of_unknown_s:
                of_unknown_s[known] = _hoped_s(averages[known], None, 0.0)
            ratio = _hoped_s(averages[known], cell, match) / of_unknown_s[known]
            *values, tokens, efficiency, leases, at = cell
            told = (*values, *_OF_POOLS_ALONE, tokens, efficiency, leases, ratio, at)
            yield course.agent_type, name, kind, *told


def _hoped_s(usual: Average, cell: Cell | None, match: float) -> float:
    return outlook.hoped_s(outlook.expect(usual, cell, match=match), retry_s=usual.retry_s)


def _tally_rows(course: Course) -> Iterator[Row]:
    for day, tally in course.tallies.items():
        bins = itertools.chain.from_iterable(getattr(tally, name) for name in _BINS)
        sums = [getattr(tally, name) for name in ("leases", "within", *_SUMS)]
        yield course.agent_type, day.isoformat(), *sums, *bins


class _Table(NamedTuple):
    """
    Where rows go: their words come first, each kind as an array of its own, then their numbers.

    piece: rows of one statement: they are in memory at once.
    """

    rows: Callable[[Course], Iterator[Row]]
    words: tuple[type[Words | Blobs], ...]
    piece: int


# As learnt_1 takes them. All tables by one statement: every wait for an answer costs as much as
# what is waited for.
_TABLES = (
    _Table(_model_rows, (Words, Blobs), 1000),
    _Table(_skill_rows, (Words, Words, Blobs, Words), 1000),
    _Table(_outlook_rows, (Words, Words, Words), 5000),
    _Table(_tally_rows, (Words, Words), 5000),
)
_LEARNT = f"SELECT learnt_1({', '.join(['%s'] * (3 + sum(len(t.words) + 1 for t in _TABLES)))})"
