"""Alarms: what a person should look at, why, and what can be done about it."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeVar

from django.conf import settings
from django.db.models import Count, F, Model, Q, QuerySet, Window
from django.urls import reverse

from agentpool.registry import queries as registry_queries
from agentpool.registry.models import Agent, Launch, Lease, Request
from agentpool.registry.states import (
    AgentHealth,
    AgentStatus,
    LaunchStatus,
    LeaseStatus,
    RequestStatus,
)
from balancing import explain, queries

Row = TypeVar("Row", bound=Model)

# Of each kind of alarm; the rest is counted in one more.
SHOWN = 5
STALLED_AFTER = timedelta(minutes=10)
ENDS_SOON = timedelta(minutes=10)
LATE_AFTER = timedelta(minutes=10)
# Reasons for which a request waits until a person does something.
HOPELESS = frozenset({"nobody", "unfit", "unable", "ceiling"})
_OLDEST_ASKED = 50


@dataclass(frozen=True)
class Alarm:
    """
    One thing to look at.

    level: bad (work is lost or stands still) or warn. since: a moment, None: not known. action: the
    name of an action with the row it acts on; link: where to look. count: of how many it tells.
    """

    id: str
    level: str
    what: str
    why: str
    link: str
    since: datetime | None = None
    action: str = ""
    action_label: str = ""
    row: str = ""
    count: int = 1

    @property
    def dom_id(self) -> str:
        """Its id on the page: the same wherever it stands, so that the keyboard stays with it."""
        return f"{self.id}-{self.what.rpartition(' ')[2]}".replace(" ", "-")


def alarms(at: datetime) -> list[Alarm]:
    """Return all alarms, the bad ones first; some eight reads."""
    found = [
        *_plane(),
        *_agents(at),
        *_requests(at),
        *_leases(at),
        *_limits(),
        *_launches(at),
    ]
    return sorted(found, key=lambda alarm: alarm.level != "bad")


def _plane() -> Iterator[Alarm]:
    parts = {"jobs": "The job cluster", "relay": "The relay of live events"}
    for name, what in parts.items():
        age = registry_queries.tick_age_s(name)
        if age is not None and age > settings.STALE_S:
            why = "it has not been seen working since; nothing expires or scales without it"
            if name == "relay":
                why = "it has not been seen working since; pages and agents hear of nothing new"
            since = registry_queries.now() - timedelta(seconds=age)
            yield Alarm(f"alarm-{name}", "bad", f"{what} is silent", why, "/readyz", since)


def _agents(at: datetime) -> Iterator[Alarm]:
    unreachable = Agent.objects.filter(status=AgentStatus.UNREACHABLE).select_related("liveness")
    rows, more = _some(unreachable.order_by("-load", "agent_id"))
    for row in rows:
        why = f"silent; {_leases_of(row)} will be lost if it stays so" if row.load else "silent"
        heard = row.liveness.last_heartbeat_at if hasattr(row, "liveness") else None
        yield _of_agent(row, "bad", "is unreachable", why, "retire", "Retire", heard)
    yield from _more(more, "bad", "agents are unreachable", "agents", "status=unreachable")
    judged = Agent.objects.filter(health=AgentHealth.QUARANTINED).exclude(
        status__in=[AgentStatus.RETIRED, AgentStatus.LOST]
    )
    rows, more = _some(judged.order_by("agent_id"))
    for row in rows:
        why = row.health_note or "no reason was noted"
        why = f"{why} ({row.health_by.removeprefix('user:')})" if row.health_by else why
        yield _of_agent(row, "warn", "is quarantined", why, "good", "Good again")
    yield from _more(more, "warn", "agents are quarantined", "agents", "health=quarantined")
    overdue = Q(drain_by__lt=at) | Q(drain_by=None, updated_at__lt=at - timedelta(hours=1))
    draining = Agent.objects.filter(overdue, status=AgentStatus.DRAINING, load__gt=0)
    rows, more = _some(draining.order_by("updated_at"))
    for row in rows:
        why = f"{_leases_of(row)} still {'runs' if row.load == 1 else 'run'} on it"
        yield _of_agent(row, "warn", "drains and drains", why, "release", "Release", row.updated_at)
    yield from _more(more, "warn", "agents drain and drain", "agents", "status=draining")


def _of_agent(
    row: Agent,
    level: str,
    what: str,
    why: str,
    action: str,
    label: str,
    since: datetime | None = None,
) -> Alarm:
    link = reverse("agent", args=[row.id])
    name = row.name or row.agent_id
    return Alarm(
        f"alarm-{row.id}",
        level,
        f"{name} {what}",
        why,
        link,
        since,
        action,
        label,
        f"agent={row.id}",
    )


def _leases_of(row: Agent) -> str:
    return "1 lease" if row.load == 1 else f"{row.load} leases"


def _requests(at: datetime) -> Iterator[Alarm]:
    rows = list(
        Request.objects.filter(status=RequestStatus.WAITING).order_by("queued_at")[:_OLDEST_ASKED]
    )
    shown: dict[tuple[str, str], int] = {}
    for id, reason in explain.reasons(rows).items():
        row = next(r for r in rows if r.id == id)
        is_hopeless = reason.code in HOPELESS
        if not is_hopeless and at - row.queued_at < LATE_AFTER:
            continue
        # Hundreds may wait for one and the same thing: one alarm says so.
        same = (row.pool_id, reason.short)
        shown[same] = shown.get(same, 0) + 1
        if shown[same] > 1 or len(shown) > SHOWN:
            continue
        title = row.cycle_id or row.project
        verb = "cannot be served" if is_hopeless else "waits long"
        yield Alarm(
            f"alarm-{row.id}",
            "bad" if is_hopeless else "warn",
            f"{title} {verb}",
            reason.sentence,
            reverse("request", args=[row.id]),
            row.queued_at,
        )
    yield from _more(len(shown) - SHOWN, "warn", "reasons why others wait", "queue", "")


def _leases(at: datetime) -> Iterator[Alarm]:
    active = Lease.objects.filter(status=LeaseStatus.ACTIVE)
    stalled = active.filter(progress_at__lt=at - STALLED_AFTER, request__payload__isnull=False)
    rows, more = _some(stalled.order_by("progress_at"))
    for row in rows:
        why = f"no progress, {row.tokens_in + row.tokens_out:,} tokens so far"
        yield _of_lease(row, "stands still", why, row.progress_at)
    yield from _more(more, "warn", "leases stand still", "leases", "sort=oldest")
    ending = active.filter(hard_end_at__lt=at + ENDS_SOON)
    rows, more = _some(ending.order_by("hard_end_at"))
    for row in rows:
        why = "its hard end is near; the work is ended then, whatever it has done"
        yield _of_lease(row, "must end soon", why, None)
    yield from _more(more, "warn", "leases must end soon", "leases", "sort=expires")


def _of_lease(row: Lease, what: str, why: str, since: datetime | None) -> Alarm:
    title = f"{row.cycle_id or row.project} {row.phase}".rstrip()
    link = reverse("lease", args=[row.id])
    return Alarm(
        f"alarm-{row.id}",
        "warn",
        f"{title} {what}",
        why,
        link,
        since,
        "cancel-lease",
        "Cancel",
        f"lease={row.id}",
    )


_AMOUNTS = {
    "memory_mb": "MB of memory",
    "cpu_cores": "cores",
    "token_budget": "tokens",
    "disk_space_mb": "MB of disk",
    "network_bandwidth_mbps": "Mbps",
}


def _limits() -> Iterator[Alarm]:
    found = queries.resources()
    for limit in found.limits:
        used = found.used_under(limit)
        for name in queries.AMOUNTS:
            most = getattr(limit, name)
            if most and used.get(name, 0) > most:
                word = _AMOUNTS[name]
                why = f"{used[name]:,.6g} of {most:,.6g} {word} in use; nothing is granted under it"
                yield Alarm(
                    f"alarm-{limit.id}",
                    "warn",
                    f"The limit of {limit.name or 'the installation'} is overdrawn",
                    why,
                    reverse("resources"),
                    None,
                    "edit-limit",
                    "Edit",
                    f"limit={limit.id}",
                )
                break


def _launches(at: datetime) -> Iterator[Alarm]:
    failed = Launch.objects.filter(
        status=LaunchStatus.FAILED, created_at__gt=at - timedelta(hours=1)
    ).annotate(agent_type=F("agent__pool_id"))
    # Of each pool the newest.
    for row in failed.order_by("agent_type", "-created_at").distinct("agent_type"):
        yield Alarm(
            f"alarm-launches-{row.agent_type}",
            "bad",
            f"Agents of {row.agent_type} could not be started",
            row.error or "the driver gave no reason",
            reverse("scaling"),
            row.created_at,
        )


def _some(rows: QuerySet[Row]) -> tuple[list[Row], int]:
    """Return the first rows, and how many more there are."""
    some = list(rows.annotate(total=Window(Count("pk")))[:SHOWN])
    return some, some[0].total - len(some) if some else 0  # type: ignore[attr-defined]


def _more(count: int, level: str, what: str, page: str, query: str) -> Iterator[Alarm]:
    if count > 0:
        link = reverse(page) + (f"?{query}" if query else "")
        yield Alarm(f"alarm-more-{what}", level, f"{count} more {what}", "", link, count=count)
