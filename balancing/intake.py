"""
Reads bodies that come by the thousand: those that differ in a few names only are checked once.

A request's form has 40 fields; judging them anew each time costs 2 ms, more than the claim itself.
What varies is judged each time: at a glance, and where that leaves a doubt by the same form's
fields. The rest is remembered.
"""

import json
import marshal
import re
from collections.abc import Callable
from functools import cache
from threading import Lock
from typing import Any, Generic, TypeVar

from django.conf import settings
from rest_framework import serializers as drf

from agentpool.registry import counters
from agentpool.registry.fields import MAX_BIGINT, MAX_INT
from agentpool.registry.identity import time_ordered
from balancing import reports, serializers, terms
from balancing.services.heartbeats import Heartbeat
from balancing.terms import Wish

T = TypeVar("T")
MOST_REMEMBERED = 2048
LONGEST_REMEMBERED = 4000  # bytes; longer ones carry a payload of their own
_VARYING: dict[type[drf.Serializer[Any]], tuple[str, ...]] = {
    serializers.NewRequest: ("project", "cycle_id", "phase"),
    reports.ReleaseLease: ("fencing_token",),
}


class _Remembered(Generic[T]):
    """
    What was made of bodies, by what does not vary; those not used for longest go first, by halves.

    A look is one in a dict: to note the order of uses would cost as much again as all the rest.
    """

    def __init__(self) -> None:
        self._newer: dict[tuple[Any, bytes], T] = {}
        self._older: dict[tuple[Any, bytes], T] = {}
        self._lock = Lock()

    def get(self, key: tuple[Any, bytes]) -> T | None:
        found = self._newer.get(key)
        if found is None and (found := self._older.get(key)) is not None:
            self.put(key, found)
        return found

    def put(self, key: tuple[Any, bytes], value: T) -> None:
        with self._lock:
            self._newer[key] = value
            if len(self._newer) >= MOST_REMEMBERED // 2:
                self._older, self._newer = self._newer, {}


_checked: _Remembered[dict[str, Any]] = _Remembered()
# Of a request: its pool, and its columns as JSON.
_columns: _Remembered[tuple[str, str]] = _Remembered()


def read(form: type[drf.Serializer[Any]], data: Any) -> dict[str, Any]:
    """
    Return the checked fields of a body.

    Raises: drf.ValidationError, naming the faulty fields.
    """
    split = _split(form, data)
    if split is None:
        return _read_whole(form, data)
    varying, text = split
    rest = _checked.get((form, text))
    if rest is None:
        whole = _read_whole(form, data)
        # With the defaults of what the body leaves out of the varying ones; a copy: callers take
        # fields out of theirs.
        _checked.put((form, text), dict(whole))
        return whole
    judged = _judged(form, varying)
    return _read_whole(form, data) if judged is None else rest | judged


def wish(data: Any, *, requested_by: str) -> Wish:
    """
    Return what a request's body asks for, as the claim takes it.

    Raises: drf.ValidationError, naming the faulty fields.
    """
    request_id = time_ordered()
    form = serializers.NewRequest
    split = _split(form, data)
    judged = known = None
    if split is not None:
        # The one setting that a row takes on.
        key = ((requested_by, settings.HARD_END_S), split[1])
        known, judged = _columns.get(key), _judged(form, split[0])
    if known is None or judged is None:
        fields = read(form, data)
        row = serializers.request_row(fields, requested_by=requested_by)
        told = terms.columns_of(row)
        judged = {name: fields[name] for name in _VARYING[form]}
        unvarying = {k: v for k, v in told.items() if k != "id" and k not in judged}
        if split is not None:
            # What the body leaves out of the varying ones has its default.
            unvarying |= {name: judged[name] for name in judged if name not in split[0]}
        known = row.pool_id, json.dumps(unvarying)[1:-1]
        if split is not None:
            _columns.put(key, known)
    agent_type, columns = known
    varying = json.dumps(judged)[1:-1]
    comma = ", " if varying else ""
    return Wish(request_id, agent_type, f'{{{columns}, "id": "{request_id}"{comma}{varying}}}')


def _split(form: type[drf.Serializer[Any]], data: Any) -> tuple[dict[str, Any], bytes] | None:
    """Return what varies of a body and the rest as bytes, None: it is not to be remembered."""
    if type(data) is not dict:
        return None
    rest = data.copy()
    varying = {name: rest.pop(name) for name in _VARYING[form] if name in rest}
    try:
        # The second format says the same of equal values; 1, 1.0 and true are not equal to it.
        written = marshal.dumps((tuple(varying), rest), 2)
    except ValueError:
        return None
    return (varying, written) if len(written) <= LONGEST_REMEMBERED else None


def _judged(form: type[drf.Serializer[Any]], varying: dict[str, Any]) -> dict[str, Any] | None:
    """Return what varies, checked; None: something is wrong, and the whole form says what."""
    try:
        return {
            name: value if _GLANCES[name](value) else _fields(form)[name].run_validation(value)
            for name, value in varying.items()
        }
    except drf.ValidationError:
        return None


def _is_plain_text(value: Any) -> bool:
    """Whether a text is beyond doubt; any other one is its field's to judge."""
    return (
        type(value) is str
        and 0 < len(value) <= _LONGEST_PLAIN
        and value.isascii()
        and value.isprintable()
        and value[0] != " " != value[-1]
    )


_LONGEST_PLAIN = 200
_GLANCES: dict[str, Callable[[Any], bool]] = {
    "project": _is_plain_text,
    "cycle_id": _is_plain_text,
    "phase": _is_plain_text,
    "fencing_token": lambda value: _is_whole(value, 1, MAX_BIGINT),
}


def _read_whole(form: type[drf.Serializer[Any]], data: Any) -> dict[str, Any]:
    filled = form(data=data)
    filled.is_valid(raise_exception=True)
    return dict(filled.validated_data)


@cache
def _fields(form: type[drf.Serializer[Any]]) -> Any:
    return form().fields


# -- heartbeats ----------------------------------------------------------------------------------

_BEAT = frozenset({"incarnation", "leases", "draining", "age_s"})
_LEASE = frozenset({"lease_id", "fencing_token", "progress", "usage"})
_PROGRESS = frozenset({"counter", "phase", "note"})
_ROW_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z")
_LONGEST_PHASE = 200
_usage: dict[str, Any] = dict(reports.Usage().fields)
_USAGE_KINDS: dict[str, tuple[type, ...]] = {
    name: (int,) if isinstance(field, drf.IntegerField) else (int, float)
    for name, field in _usage.items()
}
_USAGE_MOST: dict[str, float] = {name: field.max_value for name, field in _usage.items()}


# A provider's name as labels may have it.
_PROVIDER = re.compile(r"[A-Za-z0-9._-]{1,40}")


def heartbeat(data: Any) -> Heartbeat:
    """
    Return what a heartbeat says.

    One that is beyond doubt is taken at a glance; any other one is the form's to judge, which
    costs a hundred times as much. Raises: drf.ValidationError, naming the faulty fields.
    """
    if type(data) is dict and data.keys() <= _BEAT and _is_plain(data):
        return Heartbeat(
            incarnation=data.get("incarnation"),
            leases=data.get("leases", ()),
            draining=data.get("draining", False),
            age_s=data.get("age_s", 0.0),
        )
    body = _read_whole(reports.HeartbeatBody, data)
    for each in body["throttled"]:
        # The name is an agent's word: what is no plain one is told together.
        name = each["provider"] if _PROVIDER.fullmatch(each["provider"]) else "other"
        counters.add("agentpool_provider_throttled_total", {"provider": name})
    return Heartbeat(
        incarnation=body.get("incarnation"),
        leases=body["leases"],
        draining=body["draining"],
        age_s=body["age_s"],
    )


def _is_plain(data: dict[str, Any]) -> bool:
    age_s, leases = data.get("age_s", 0), data.get("leases", [])
    return (
        _is_whole(data.get("incarnation", 1), 1, MAX_INT)
        and type(data.get("draining", False)) is bool
        and (type(age_s) is int or type(age_s) is float)
        and 0 <= age_s <= reports.LONGEST_AGE_S
        and type(leases) is list
        and len(leases) <= reports.MOST_LEASES
        and all(map(_is_plain_lease, leases))
    )


def _is_plain_lease(entry: Any) -> bool:
    if type(entry) is not dict or not entry.keys() <= _LEASE:
        return False
    lease_id = entry.get("lease_id")
    return (
        type(lease_id) is str
        and _ROW_ID.match(lease_id) is not None
        and _is_whole(entry.get("fencing_token"), 1, MAX_BIGINT)
        and _is_plain_usage(entry.get("usage", {}))
        and _is_plain_progress(entry.get("progress", {}))
    )


def _is_plain_usage(usage: Any) -> bool:
    if type(usage) is not dict:
        return False
    for name, value in usage.items():
        kinds = _USAGE_KINDS.get(name)
        if kinds is None:
            return False
        if value is not None and not (type(value) in kinds and 0 <= value <= _USAGE_MOST[name]):
            return False
    return True


def _is_plain_progress(progress: Any) -> bool:
    if type(progress) is not dict or not progress.keys() <= _PROGRESS:
        return False
    if "counter" in progress and not _is_whole(progress["counter"], 0, MAX_BIGINT):
        return False
    return all(
        type(text) is str
        and len(text) <= _LONGEST_PHASE
        and text.isprintable()
        # What the form would trim, it shall trim.
        and text == text.strip()
        for text in (progress.get("phase", ""), progress.get("note", ""))
    )


def _is_whole(value: Any, least: int, most: int) -> bool:
    return type(value) is int and least <= value <= most
