"""Opens connections of their own, beside Django's: for LISTEN, and for the pulse's lock."""

from typing import Any

import psycopg
from django.db import connections


def parameters() -> dict[str, Any]:
    """Return Django's connection parameters as plain psycopg ones."""
    params: dict[str, Any] = connections["default"].get_connection_params()
    for name in ("cursor_factory", "context", "pool"):
        params.pop(name, None)
    return {**params, "autocommit": True, "application_name": "agentpool live"}


def connect() -> psycopg.Connection[Any]:
    """Return a new autocommit connection; raises psycopg.OperationalError."""
    return psycopg.connect(**parameters())


async def connect_async() -> psycopg.AsyncConnection[Any]:
    """Return a new asynchronous autocommit connection; raises psycopg.OperationalError."""
    return await psycopg.AsyncConnection.connect(**parameters())
