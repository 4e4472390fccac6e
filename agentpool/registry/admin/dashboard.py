"""The dashboard at /admin/: how the pools are, how they were, and what needs a person."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from django.db import connection
from django.db.models import Q
from django.http import HttpRequest

from agentpool.registry import queries
from agentpool.registry.admin import show
from agentpool.registry.models import Agent, Event, Launch, Request, ResourceLimit
from agentpool.registry.states import AgentHealth, AgentStatus, LaunchStatus, RequestStatus

HOURS = 6
STEP_S = 300
EVENTS_SHOWN = 12
# Colours that people who see few colours can tell, and a dash for each line besides. No number of
# the one divides the other, so that a dozen pools are a dozen different lines.
_COLOURS = ("var(--color-primary-600)", "#0891b2", "#d97706", "#64748b")
_DASHES: tuple[list[int], ...] = ([], [6, 3], [2, 2], [8, 3, 2, 3], [1, 4])
_GONE = (AgentStatus.LOST, AgentStatus.RETIRED)
# Kinds that come by the dozen each second tell nobody anything here.
_QUIET = ("lease.log", "request.reason")


def dashboard(request: HttpRequest, context: dict[str, Any]) -> dict[str, Any]:
    """Return unfold's context of the index with ours; a handful of queries at any size."""
    pools = [_pool(row) for row in queries.pool_states()]
    past = _past()
    context.update(
        {
            "strip": _strip(pools),
            "pools": pools,
            "needs": _needs(),
            "events": _events(),
            "charts": [
                _chart("Slots in use", "%", past, "use"),
                _chart("Mean wait for an agent", "s", past, "wait_s"),
            ],
            "has_past": bool(past),
            "hours": HOURS,
            "live_after": queries.last_seq(),
        }
    )
    return context


def _pool(row: Mapping[str, Any]) -> dict[str, Any]:
    slots, used = row["slots"], row["slots_used"]
    there = [status for status in AgentStatus if status not in _GONE]
    counts = {status.value: row[f"n_{status}"] for status in there}
    return {
        "name": row["agent_type"],
        "agents": sum(counts.values()),
        "counts": {word: number for word, number in counts.items() if number},
        "busy": counts["busy"],
        "slots": slots,
        "used": used,
        "bar": show.bar(used, slots, f"{used} of {slots} slot{'' if slots == 1 else 's'}"),
        "waiting": row["queue_depth"] or 0,
        "oldest_s": row["oldest_wait_s"],
        "oldest": show.duration(row["oldest_wait_s"]) if row["oldest_wait_s"] else "",
        "agents_link": show.list_of("agent", pool=row["agent_type"]),
        "queue_link": show.list_of("request", pool=row["agent_type"], status="waiting"),
    }


def _strip(pools: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    def total(name: str) -> int:
        return sum(pool[name] for pool in pools)

    oldest_s = max((pool["oldest_s"] for pool in pools), default=0.0)
    troubled = _troubled().count()
    return [
        _number("Agents", total("agents"), show.list_of("agent", presence="there")),
        _number("Busy", total("busy"), show.list_of("agent", status="busy")),
        _number(
            "Slots in use",
            f"{total('used')} of {total('slots')}",
            show.list_of("lease", live="yes"),
        ),
        _number("Waiting", total("waiting"), show.list_of("request", status="waiting")),
        _number(
            "Oldest wait",
            show.duration(oldest_s) if oldest_s else "–",
            show.list_of("request", status="waiting"),
        ),
        _number(
            "In trouble", troubled, show.list_of("agent", presence="trouble"), bad=troubled > 0
        ),
    ]


def _number(name: str, value: object, link: str, *, bad: bool = False) -> dict[str, Any]:
    return {"name": name, "value": value, "link": link, "bad": bad}


def _troubled() -> Any:
    troubled = Q(status=AgentStatus.UNREACHABLE) | Q(health=AgentHealth.QUARANTINED)
    return Agent.objects.exclude(status__in=_GONE).filter(troubled)


def _needs() -> list[dict[str, Any]]:
    """Return what a person should look at, each with a number and where to go."""
    there = Agent.objects.exclude(status__in=_GONE)
    waiting = Request.objects.filter(status=RequestStatus.WAITING)
    found = (
        (
            there.filter(status=AgentStatus.UNREACHABLE).count(),
            "unreachable: no heartbeat",
            show.list_of("agent", status="unreachable"),
        ),
        (
            there.filter(health=AgentHealth.QUARANTINED).count(),
            "quarantined: held back until somebody says otherwise",
            show.list_of("agent", health="quarantined"),
        ),
        (
            waiting.filter(unsatisfiable=True).count(),
            "requests that no agent of today could serve",
            show.list_of("request", status="waiting", unsatisfiable="1"),
        ),
        (
            waiting.filter(urgent_at__isnull=False).count(),
            "urgent requests: somebody waited in vain",
            show.list_of("request", status="waiting", urgent_at__isnull="0"),
        ),
        (
            Launch.objects.filter(
                status=LaunchStatus.FAILED, ended_at__gt=queries.now() - queries.DAY
            ).count(),
            "launches failed in the last 24 h",
            show.list_of("launch", status="failed"),
        ),
        (
            ResourceLimit.objects.filter(is_overdrawn=True).count(),
            "limits have more in use than they allow",
            show.list_of("resourcelimit"),
        ),
    )
    return [{"count": count, "what": what, "link": link} for count, what, link in found if count]


def _events() -> list[dict[str, Any]]:
    rows = Event.objects.exclude(kind__in=_QUIET).order_by("-id")[:EVENTS_SHOWN]
    return [
        {
            "when": show.age(row.at),
            "kind": row.kind,
            "about": row.agent_id or row.project or row.agent_type,
            "who": row.actor,
        }
        for row in rows
    ]


# -- the last hours --------------------------------------------------------------------------------


def _past() -> list[tuple[str, float, float, float]]:
    """Return (pool, seconds since 1970, share of slots in use, mean wait) for each step."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT agent_type, floor(extract(epoch FROM at) / %(step)s) * %(step)s AS since,"
            " coalesce(sum(slots_used) / nullif(sum(slots), 0), 0),"
            " coalesce(sum(wait_sum_s) / nullif(sum(granted), 0), 0) FROM pool_sample"
            " WHERE step_s = 30 AND covered_s > 0"
            " AND at > now() - make_interval(hours => %(hours)s)"
            " GROUP BY 1, 2 ORDER BY 1, 2",
            {"step": STEP_S, "hours": HOURS},
        )
        return [(row[0], float(row[1]), float(row[2]), float(row[3])) for row in cursor.fetchall()]


def _chart(
    title: str, unit: str, past: Sequence[tuple[str, float, float, float]], which: str
) -> dict[str, Any]:
    """Return a chart as unfold's script wants it, with the newest values as words."""
    times = sorted({since for _, since, _, _ in past})
    values: dict[str, dict[float, float]] = {}
    for pool, since, use, wait_s in past:
        value = round(100 * use, 1) if which == "use" else round(wait_s, 2)
        values.setdefault(pool, {})[since] = value
    sets = [_line(number, pool, values[pool], times) for number, pool in enumerate(values)]
    newest = ", ".join(f"{pool} {found[max(found)]:g} {unit}" for pool, found in values.items())
    return {
        "title": title,
        "unit": unit,
        "which": which,
        "data": json.dumps({"labels": times, "datasets": sets}),
        "words": newest or "no samples yet",
    }


def _line(
    number: int, pool: str, found: Mapping[float, float], times: Sequence[float]
) -> dict[str, Any]:
    colour = _COLOURS[number % len(_COLOURS)]
    return {
        "label": pool,
        "data": [found.get(since) for since in times],
        "borderColor": colour,
        "backgroundColor": colour,
        "borderDash": _DASHES[number % len(_DASHES)],
        "borderWidth": 2,
        "pointRadius": 0,
        "spanGaps": True,
    }
