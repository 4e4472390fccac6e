"""Calls the SQL functions that hear agents: signs of life and renewals, many in one round trip."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import connection


@dataclass(frozen=True, slots=True)
class Noted:
    """
    An agent that needs more than that it lives.

    code: ok; unauthenticated or lease_lost, nothing was noted of it. status and reason: the row's.
    """

    code: str
    status: str
    reason: str


@dataclass(frozen=True, slots=True)
class Kept:
    """A lease that is its agent's; expires_in_s: from the moment it was renewed."""

    id: UUID
    fencing_token: int
    status: str
    expires_at: datetime
    expires_in_s: float


def hear(
    *,
    agents: Sequence[str],
    incarnations: Sequence[int],
    credentials: Sequence[str | None],
    ages_s: Sequence[float],
) -> dict[int, Noted]:
    """
    Note that agents live, one entry each in every list; return those that need more, by index.

    Locks their rows of liveness in the order of their ids.
    """
    rows = _rows(
        "SELECT n, code, status, reason"
        " FROM hear_1(%s::uuid[], %s::int[], %s::uuid[], %s::float8[])",
        [_array(agents), _array(incarnations), _array(credentials), _array(ages_s)],
    )
    return {n - 1: Noted(code, status, reason) for n, code, status, reason in rows}


def renew(said: Sequence[Mapping[str, Any]]) -> dict[str, Kept]:
    """
    Renew leases and note what is reported of them; return those that are their agents' own, by id.

    said: {id, token, agent, incarnation, age_s} each, and what is reported.
    Locks the leases in the order of their ids.
    """
    rows = _rows(
        "SELECT lease, token, status, expires_at, expires_in_s FROM renew_many_1(%s::jsonb, %s)",
        [json.dumps(said), settings.RUN_LEASE_S],
    )
    return {str(row[0]): Kept(*row) for row in rows}


def _array(values: Sequence[Any]) -> str:
    """Return a list as Postgres writes one: far quicker than adapting each value for the driver."""
    return "{" + ",".join("NULL" if value is None else str(value) for value in values) + "}"


def _rows(sql: str, params: Sequence[Any]) -> list[Any]:
    with connection.cursor() as cursor:
        cursor.execute(sql, params)
        found: list[Any] = cursor.fetchall()
        return found
