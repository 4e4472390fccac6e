"""Opens connections of their own, beside Django's: for LISTEN, and for the pulse's lock."""

from typing import Any

import psycopg
from django.db import connections

# A machine that loses its power hangs up on nobody. Without these, Postgres would find out after
# two hours, and nobody else could be the pulse meanwhile; this side would wait as long for events.
_SILENCE_S, _PROBE_S, _PROBES = 10, 10, 3
_GIVE_UP_MS = 1000 * (_SILENCE_S + _PROBE_S * _PROBES)
_OURS = {
    "keepalives_idle": _SILENCE_S,
    "keepalives_interval": _PROBE_S,
    "keepalives_count": _PROBES,
    "tcp_user_timeout": _GIVE_UP_MS,
}
# Said once connected: poolers refuse what they don't know when it comes with the connection.
_THEIRS = f"""
SET tcp_keepalives_idle = {_SILENCE_S};
SET tcp_keepalives_interval = {_PROBE_S};
SET tcp_keepalives_count = {_PROBES};
SET tcp_user_timeout = {_GIVE_UP_MS}
"""


def parameters() -> dict[str, Any]:
    """Return Django's connection parameters as plain psycopg ones."""
    params: dict[str, Any] = connections["default"].get_connection_params()
    for name in ("cursor_factory", "context", "pool"):
        params.pop(name, None)
    return {**_OURS, **params, "autocommit": True, "application_name": "agentpool live"}


def connect() -> psycopg.Connection[Any]:
    """Return a new autocommit connection; raises psycopg.OperationalError."""
    connection = psycopg.connect(**parameters())
    connection.execute(_THEIRS)
    return connection


async def connect_async() -> psycopg.AsyncConnection[Any]:
    """Return a new asynchronous autocommit connection; raises psycopg.OperationalError."""
    connection = await psycopg.AsyncConnection.connect(**parameters())
    await connection.execute(_THEIRS)
    return connection
