"""Metrics: what each pool did over a range of time, as a table and as charts."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from agentpool.console import series
from agentpool.console.page import Params, Picture
from agentpool.registry import measuring
from agentpool.registry import metrics as registry_metrics
from agentpool.registry import queries as registry_queries

# How far back, how long the stretches of the charts are, and those that the table adds up; seconds.
BACKS = {
    "1h": (3600, 30, 300),
    "24h": (86_400, 300, 3600),
    "7d": (7 * 86_400, 3600, 21_600),
    "30d": (30 * 86_400, 21_600, 86_400),
}
PARAMS = {"back": "1h"}
# Of each chart: the column, its title, and what a value is multiplied with.
CHARTS = {
    "utilization": ("Slots in use, %", 100),
    "queue_depth": ("Requests that wait", 1),
    "request_rate_per_minute": ("Requests a minute", 1),
    "completion_rate_per_minute": ("Leases ended a minute", 1),
    "wait_p95_s": ("Wait of 95 %, s", 1),
    "service_p95_s": ("Work of 95 %, s", 1),
    "success_rate": ("Successes, %", 100),
    "resource_efficiency": ("Used of granted, %", 100),
}
_PERCENT = ("utilization", "success_rate", "error_rate", "timeout_rate", "resource_efficiency")


def picture(params: Params) -> Picture:
    """Return each pool's metrics over the range, and the lines of the charts."""
    at = registry_queries.now()
    back = params["back"] if params["back"] in BACKS else PARAMS["back"]
    back_s, step_s, sum_s = BACKS[back]
    since = registry_metrics.begin_of(measuring.ago(back_s), sum_s)
    rows = _rows(since, step_s)
    sums = _sums(since, sum_s)
    return {
        "now": at,
        "back": back,
        "backs": list(BACKS),
        "since": since,
        "pools": [_pool(name, each) for name, each in sums.items()],
        "pools_drawn": series.pools_drawn(len(sums)),
        "charts": {name: _chart(rows, name, factor) for name, (_, factor) in CHARTS.items()},
        "figures": [{"name": name, "title": title} for name, (title, _) in CHARTS.items()],
    }


def _sums(since: datetime, step_s: int) -> Mapping[str, Mapping[str, Any]]:
    """Return each pool's range as one stretch."""
    found: dict[str, registry_metrics.Stretch] = {}
    for row in measuring.samples(step_s).filter(at__gte=since).order_by("pool_id", "at"):
        stretch, name = measuring.stretch_of(row), str(row.pool_id)
        found[name] = found[name] + stretch if name in found else stretch
    return {name: registry_metrics.row(stretch) for name, stretch in found.items()}


def _pool(name: str, columns: Mapping[str, Any]) -> dict[str, Any]:
    percent = {f"{each}_percent": _percent(columns[each]) for each in _PERCENT}
    # Of nothing there is no mean, whatever the column has.
    means = {
        "wait_s": columns["average_wait_time_s"] if columns["granted"] else None,
        "work_s": columns["average_service_time_s"] if columns["ended"] else None,
    }
    return {"agent_type": name, **columns, **percent, **means}


def _percent(share: float | None) -> float | None:
    return None if share is None else round(100 * share, 1)


def _rows(since: datetime, step_s: int) -> Mapping[str, Sequence[Mapping[str, Any]]]:
    """Return what the charts draw, by pool; the pools with the most requests only."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    rows = measuring.samples(step_s).filter(at__gte=since).order_by("at")
    for row in rows.values("pool_id", "at", "arrivals", *CHARTS):
        found.setdefault(str(row["pool_id"]), []).append(row)
    busiest = sorted(found, key=lambda name: -sum(row["arrivals"] for row in found[name]))
    return {name: found[name] for name in sorted(busiest[: series.MOST_LINES])}


def _chart(
    rows: Mapping[str, Sequence[Mapping[str, Any]]], column: str, factor: float
) -> dict[str, Any]:
    at = sorted({row["at"] for found in rows.values() for row in found})
    lines = []
    for name, found in rows.items():
        known = {row["at"]: row[column] for row in found if row[column] is not None}
        values = [round(known[each] * factor, 2) if each in known else None for each in at]
        lines.append(series.line(name, values))
    return series.chart(at, lines)
