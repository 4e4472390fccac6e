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
    with connection.wrap_database_errors, raw().pipeline():
        yield


def rows(sql: str, params: Sequence[Any]) -> list[Any]:
    """Return what a statement answers."""
    with connection.wrap_database_errors:
        return _sent(sql, params).fetchall()


def do(sql: str, params: Sequence[Any]) -> None:
    """Do a statement without an answer."""
    with connection.wrap_database_errors:
        _sent(sql, params)


def raw() -> psycopg.Connection[Any]:
    """Return the driver's connection below Django's, open."""
    connection.close_if_health_check_failed()
    connection.ensure_connection()
    found: psycopg.Connection[Any] = connection.connection
    return found


def _sent(sql: str, params: Sequence[Any]) -> psycopg.Cursor[Any]:
    # Django's own cursor puts the values into the text, and so every call is parsed and planned
    # anew, which costs as much as a claim.
    return psycopg.Cursor(raw()).execute(sql.encode(), params, prepare=True)
