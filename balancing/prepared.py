"""Statements that the server plans once a connection, and a transaction in one pipeline."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
from django.db import connection


@contextmanager
def pipeline() -> Iterator[None]:
    """
    Send statements without waiting for their answers, but for those that are read.

    They are one transaction, without a word sent to begin and end it; so is what an outer one has.
    Errors of what is not read are raised at the end.
    """
    connection.close_if_health_check_failed()
    connection.ensure_connection()
    with connection.wrap_database_errors, connection.connection.pipeline():
        yield


def rows(sql: str, params: Sequence[Any]) -> list[Any]:
    """Return what a statement answers. Must be in a pipeline or transaction."""
    return _sent(sql, params).fetchall()


def do(sql: str, params: Sequence[Any]) -> None:
    """Do a statement without an answer. Must be in a pipeline or transaction."""
    _sent(sql, params)


def _sent(sql: str, params: Sequence[Any]) -> psycopg.Cursor[Any]:
    # Django's own cursor puts the values into the text: every call is parsed and planned anew.
    cursor: psycopg.Cursor[Any] = psycopg.Cursor(connection.connection)
    return cursor.execute(sql.encode(), params, prepare=True)
