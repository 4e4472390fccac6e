"""Statements that the server plans once a connection."""

from collections.abc import Sequence
from typing import Any

import psycopg
from django.db import DEFAULT_DB_ALIAS, connections


def rows(sql: str, params: Sequence[Any], *, binary: bool = False) -> list[Any]:
    """Return what a statement answers; binary: its values come as they are, not as text."""
    django = connections[DEFAULT_DB_ALIAS]
    with django.wrap_database_errors:
        # Django's own cursor puts the values into the text, and so every call is parsed and planned
        # anew, which costs as much as a claim.
        cursor = psycopg.Cursor(_raw(django))
        return cursor.execute(sql.encode(), params, prepare=True, binary=binary).fetchall()


def raw() -> psycopg.Connection[Any]:
    """Return the driver's connection below Django's, open."""
    return _raw(connections[DEFAULT_DB_ALIAS])


def _raw(django: Any) -> psycopg.Connection[Any]:
    django.close_if_health_check_failed()
    django.ensure_connection()
    found: psycopg.Connection[Any] = django.connection
    return found
