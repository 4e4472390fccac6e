"""Who did what to a row, when and why: the admin's own log and our events on one time line."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.contrib.admin.models import LogEntry
from django.contrib.contenttypes.models import ContentType
from django.db.models import QuerySet

from agentpool.registry.models import Event

SHOWN = 200


@dataclass(frozen=True)
class Line:
    """One thing that happened; source: `admin` (the log of this site) or `event`."""

    at: datetime
    who: str
    what: str
    why: str
    source: str


def lines(row: Any, events: QuerySet[Event]) -> list[Line]:
    """Return the newest of both sources, newest first, at most SHOWN of each."""
    kind = ContentType.objects.get_for_model(row)
    entries = LogEntry.objects.filter(content_type=kind, object_id=str(row.pk))
    own = [_of_entry(each) for each in entries.select_related("user").order_by("-id")[:SHOWN]]
    found = [_of_event(each) for each in events.order_by("-id")[:SHOWN]]
    return sorted([*own, *found], key=lambda line: line.at, reverse=True)


def configuration_events(agent_type: str, *kinds: str) -> QuerySet[Event]:
    """Return events about a pool itself (empty: the installation), along their own index."""
    rows = Event.objects.filter(
        agent_type=agent_type, agent_id="", request_id__isnull=True, lease_id__isnull=True
    )
    return rows.filter(kind__in=kinds) if kinds else rows


def _of_entry(entry: LogEntry) -> Line:
    what, _, why = entry.get_change_message().partition(" · ")
    return Line(entry.action_time, f"user:{entry.user.get_username()}", what, why, "admin")


def _of_event(event: Event) -> Line:
    detail = dict(event.detail)
    why = detail.pop("reason", None) or detail.pop("note", None) or ""
    return Line(event.at, event.actor or "agentpool", event.kind, f"{why}{_rest(detail)}", "event")


def _rest(detail: Mapping[str, Any]) -> str:
    said = [f"{name}: {_plain(value)}" for name, value in detail.items() if value not in ("", None)]
    return f" ({'; '.join(said)})" if said else ""


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
