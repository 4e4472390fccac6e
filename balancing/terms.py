"""
What is said to the claim and what it answers: values alone (balancing.claim calls).

Tuples where each call makes some: a frozen dataclass takes four times as long to make.
"""

import functools
import json
from dataclasses import dataclass
from typing import Any, NamedTuple
from uuid import UUID

from agentpool.registry.models import Lease, Request
from agentpool.registry.states import LeaseStatus, Outcome, RequestStatus


class Wish(NamedTuple):
    """A request that is no row yet; columns: those of `columns_of`, as a JSON object."""

    id: UUID
    agent_type: str
    columns: str

    def request(self) -> Request:
        """Return the row that it would be."""
        fields = {str(field.column): field for field in Request._meta.concrete_fields}
        told = usual() | json.loads(self.columns)
        return Request(
            **{fields[name].attname: fields[name].to_python(told[name]) for name in told}
        )


# Times, order of arrival and what follows from them are the database's to say.
_SET_BY_SQL = frozenset({"number", "shape", "created_at", "queued_at", "expires_at"})
_SENT = [
    (str(field.column), field.attname)
    for field in Request._meta.concrete_fields
    if field.name not in _SET_BY_SQL
]


def columns_of(request: Request) -> dict[str, Any]:
    """
    Return what a claim needs of a request beyond `usual`: columns by name, as plain JSON values.

    To read a row's fifty columns out of JSON costs Postgres as much as to insert it.
    """
    ordinary = usual()
    told = {column: _plain(getattr(request, name)) for column, name in _SENT}
    return {
        column: value
        for column, value in told.items()
        if column not in ordinary or ordinary[column] != value
    }


@functools.cache
def usual() -> dict[str, Any]:
    """Return the columns of a request of which nothing is said, but for its id."""
    blank = Request()
    return {column: _plain(getattr(blank, name)) for column, name in _SENT if column != "id"}


@functools.cache
def usual_json() -> str:
    """Return `usual` as the claim's functions take it."""
    return json.dumps(usual())


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, str | int | float | bool | list | dict):
        return value
    return str(value)


class Ending(NamedTuple):
    """
    How a lease shall end.

    retry: the request waits again, while attempts are left. request_to: its status otherwise.
    overdue_s: end it only if it expired that many seconds ago; None: in any case.
    """

    to: LeaseStatus
    outcome: Outcome
    error: str = ""
    retry: bool = False
    request_to: RequestStatus = RequestStatus.FINISHED
    result: dict[str, Any] | None = None
    usage: dict[str, Any] | None = None
    overdue_s: float | None = None


class Close(NamedTuple):
    """
    One lease to end: by whom, with which token (None: the server itself), and how.

    asker: only if this principal asked for it; agent: only if it is this agent's.
    """

    lease_id: UUID
    token: int | None
    ending: Ending
    actor: str
    asker: str | None = None
    agent: UUID | None = None


@dataclass(frozen=True)
class Acquired:
    """
    What asking for an agent brought.

    code: granted, waiting, or, with nothing stored, exhausted, locked (repeat), unsatisfiable,
    queue_full, unknown_type, again (repeat exactly, in a new transaction). lease: granted only; its
    agent carries id, name and endpoint, its request is the caller's.
    """

    code: str
    request: Request
    lease: Lease | None


@dataclass(frozen=True)
class Closed:
    """
    What ending a lease brought.

    code: ok, lease_lost (it was not the caller's to end any more), not_found (nor ever). lease: as
    it ended, with its agent's id, name and endpoint. handed_over: the lease that the freed slot
    went to. pools: the types whose queue must be looked at after the commit.
    """

    code: str
    lease: Lease | None
    handed_over: UUID | None
    pools: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether this call ended the lease."""
        return self.code == "ok"


class Exchanged(NamedTuple):
    """
    What came of one end or one wish: a code of `Closed` or `Acquired`.

    shown: the lease as JSON, as every door shows it; None without one. pools: as of `Closed`.
    """

    code: str
    shown: str | None
    pools: tuple[str, ...]


@dataclass(frozen=True)
class Exchange:
    """
    What an exchange brought: for each end and each wish, in their order, what came of it.

    refused: credentials that are good no more; then nothing has been done for anybody. serveable:
    pools where somebody waits whom a free agent fits, once it was committed; None: not known.
    """

    ended: list[Exchanged]
    granted: list[Exchanged]
    refused: frozenset[UUID]
    serveable: frozenset[str] | None


@dataclass(frozen=True)
class Served:
    """
    What a look at a queue brought.

    again: repeat it, something was only locked. exact: repeat it exactly, a limit was not sure.
    """

    granted: int
    again: bool
    exact: bool
