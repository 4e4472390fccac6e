"""Statements that the server plans once a connection."""

import select
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import psycopg
from django.db import DEFAULT_DB_ALIAS, connections
from django.db.transaction import TransactionManagementError
from psycopg import pq

Connection = psycopg.Connection[Any]
# As the server writes them: values as text, None where there is none.
Rows = list[list[str | None]]


def rows(sql: str, params: Sequence[Any], *, binary: bool = False) -> list[Any]:
    """Return what a statement answers; binary: its values come as they are, not as text."""
    django = connections[DEFAULT_DB_ALIAS]
    with django.wrap_database_errors:
        # Django's own cursor puts the values into the text, and so every call is parsed and planned
        # anew, which costs as much as a claim.
        cursor = psycopg.Cursor(_raw(django))
        return cursor.execute(sql.encode(), params, prepare=True, binary=binary).fetchall()


@dataclass(frozen=True)
class Statement:
    """
    A statement that is sent with others.

    name: its own among all of these, for the server; sql: its parameters are $1, $2 and so on.
    """

    name: str
    sql: str


def round_trip(*asked: tuple[Statement, Sequence[str]]) -> list[Rows | psycopg.Error]:
    """
    Send statements together, each a transaction of its own; return what each answers, or its error.

    A statement whose rows are returned is committed; after the loss of the connection nobody knows
    of the others, and Django connects anew. Only the first may write: where the server has
    forgotten a statement, what follows it is run again. Values are text, without NUL. Raises:
    TransactionManagementError, inside of a transaction.

    By the driver's own layer over libpq: its pipelines and cursors took longer than the batch that
    they carried, and cannot tell whether a transaction was committed that another one follows.
    """
    django = connections[DEFAULT_DB_ALIAS]
    if django.in_atomic_block:
        raise TransactionManagementError("Each of these statements is a transaction of its own.")
    raw = _raw(django)
    known = _prepared.setdefault(raw, set())
    answers: list[Rows | psycopg.Error] = []
    try:
        _send(raw.pgconn, known, asked)
        for statement, _ in asked:
            answers.append(_answer(raw.pgconn, known, statement))
        raw.pgconn.exit_pipeline_mode()
    except BaseException as error:
        raw.close()  # halfway through, and of no use to anybody else
        django.close()
        if not isinstance(error, psycopg.Error):
            raise
        return answers + [error] * (len(asked) - len(answers))
    gone = [
        i
        for i, answer in enumerate(answers)
        if isinstance(answer, psycopg.errors.InvalidSqlStatementName)
    ]
    if not gone:
        return answers
    # The driver drops all that is prepared now and then; what was prepared since is still there.
    known.difference_update(asked[i][0].name.encode() for i in gone)
    return answers[: gone[0]] + round_trip(*asked[gone[0] :])


# The names of the statements that the server knows from us, of each connection.
_prepared: WeakKeyDictionary[Connection, set[bytes]] = WeakKeyDictionary()


def _send(
    pg: pq.abc.PGconn, known: set[bytes], asked: Sequence[tuple[Statement, Sequence[str]]]
) -> None:
    pg.enter_pipeline_mode()
    new: set[bytes] = set()
    for statement, values in asked:
        name = statement.name.encode()
        if name not in known and name not in new:
            pg.send_prepare(name, statement.sql.encode())
            new.add(name)
        pg.send_query_prepared(name, [value.encode() for value in values])
        pg.pipeline_sync()


def _answer(pg: pq.abc.PGconn, known: set[bytes], statement: Statement) -> Rows | psycopg.Error:
    """Return what a transaction answers, when it has ended; the first of its errors counts."""
    answer: Rows | psycopg.Error = []
    while (result := _next_result(pg)).status != pq.ExecStatus.PIPELINE_SYNC:
        if isinstance(answer, psycopg.Error):
            continue
        if result.status == pq.ExecStatus.TUPLES_OK:
            answer = list(_rows_of(result))
        elif result.status == pq.ExecStatus.COMMAND_OK:
            known.add(statement.name.encode())  # prepared; no rollback takes that back
        else:
            answer = psycopg.errors.error_from_result(result)
    return answer


def _rows_of(result: pq.abc.PGresult) -> Iterator[list[str | None]]:
    for row in range(result.ntuples):
        values = [result.get_value(row, column) for column in range(result.nfields)]
        yield [None if value is None else str(value, "utf-8") for value in values]


def _next_result(pg: pq.abc.PGconn) -> pq.abc.PGresult:
    """Send what is left to send, and wait for a result; raises OperationalError, it is lost."""
    while True:
        unsent = pg.flush()
        if pg.is_busy():
            news = select.poll()
            news.register(pg.socket, select.POLLIN | (select.POLLOUT if unsent else 0))
            news.poll()
            pg.consume_input()
        elif (result := pg.get_result()) is not None:
            return result
        elif pg.status == pq.ConnStatus.BAD:
            raise psycopg.OperationalError("The connection to the database was lost.")


def raw() -> Connection:
    """Return the driver's connection below Django's, open."""
    return _raw(connections[DEFAULT_DB_ALIAS])


def _raw(django: Any) -> Connection:
    django.close_if_health_check_failed()
    django.ensure_connection()
    found: Connection = django.connection
    return found
