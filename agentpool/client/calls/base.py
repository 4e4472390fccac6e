"""What a call is, and the few shapes in which calls are put together."""

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar
from urllib.parse import quote

from agentpool.client import models
from agentpool.client.models import Json

T = TypeVar("T")
BASE = "/api/agent-pool"


@dataclass(frozen=True, slots=True, kw_only=True)
class Call(Generic[T]):
    """
    One HTTP exchange, described.

    `repeatable`: a second copy does no harm, so it may be sent again when the answer got lost.
    `hold_s`: how long the server may hold the answer back (long-poll), on top of its own time.
    `op`, `about`: the gateway's name for the same call, None: it has none; and what its message
    names beside the body.
    """

    method: str
    path: str
    parse: Callable[[Any], T]
    params: Mapping[str, Any] = field(default_factory=dict)
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    repeatable: bool = False
    hold_s: float = 0.0
    op: str | None = None
    about: Mapping[str, Any] = field(default_factory=dict)


def by_gateway(call: Call[T], op: str, **about: Any) -> Call[T]:
    """Return a call that the gateway takes, too, as that op, with these fields."""
    return replace(call, op=op, about=present(about))


def part(value: str) -> str:
    """Return a value as one part of a path."""
    return quote(value, safe=":")


def present(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was said, without what is None."""
    return {key: value for key, value in values.items() if value is not None}


def get(
    path: str,
    *,
    parse: Callable[[Any], T],
    params: Mapping[str, Any] | None = None,
    hold_s: float = 0,
) -> Call[T]:
    """Return a GET; `hold_s` is how long the server may wait with the answer."""
    sent = present(params or {})
    if "next" in sent:
        # Pages are continued by their cursor, which answers show as part of `next`.
        sent["cursor"] = sent.pop("next")
    return Call(
        method="GET",
        path=BASE + path,
        parse=parse,
        params=sent,
        repeatable=True,
        hold_s=hold_s,
    )


def delete(path: str, *, params: Mapping[str, Any] | None = None) -> Call[Json]:
    """Return a DELETE; a second copy finds nothing left to do."""
    return Call(
        method="DELETE",
        path=BASE + path,
        parse=models.as_json,
        params=params or {},
        repeatable=True,
    )


def post(path: str, body: Json, *, parse: Callable[[Any], T], repeatable: bool = False) -> Call[T]:
    """Return a POST, sent once unless it is repeatable."""
    return Call(method="POST", path=BASE + path, parse=parse, body=body, repeatable=repeatable)


def create(
    path: str,
    body: Json,
    *,
    parse: Callable[[Any], T],
    key: str | None = None,
    hold_s: float = 0,
) -> Call[T]:
    """A POST that makes something: its key lets the server know a second copy."""
    return Call(
        method="POST",
        path=BASE + path,
        parse=parse,
        body=body,
        headers={"Idempotency-Key": key or str(uuid.uuid4())},
        repeatable=True,
        hold_s=hold_s,
    )
