"""The overview: pools, what needs a person, what waits, what was decided lately."""

from collections.abc import Mapping, Sequence
from typing import Any

from agentpool.console import charts, series
from agentpool.console.page import Params, Picture
from agentpool.console.pages import _alarms
from agentpool.console.pages._rows import GONE, decision_row, request_row
from agentpool.console.pages._samples import of_last_hour
from agentpool.registry import queries as registry_queries
from agentpool.registry.models import Lease, Request
from agentpool.registry.states import AgentStatus, RequestStatus
from balancing import explain

QUEUE_SHOWN = 8
DECISIONS_SHOWN = 8


def picture(params: Params) -> Picture:
    """Return the state of the installation at one moment."""
    at = registry_queries.now()
    samples = of_last_hour("utilization", "average_wait_time_s")
    pools = [
        _pool(row, samples.get(row["agent_type"], [])) for row in registry_queries.pool_states()
    ]
    waiting = Request.objects.filter(status=RequestStatus.WAITING)
    first = list(waiting.order_by("queued_at")[:QUEUE_SHOWN])
    reasons = explain.reasons(first)
    recent = Lease.objects.select_related("agent").order_by("-fencing_token")[:DECISIONS_SHOWN]
    return {
        "now": at,
        "pools": pools,
        "summary": _summary(pools),
        "pools_drawn": series.pools_drawn(len(samples)),
        "charts": {
            "utilisation": series.by_pool(samples, "utilization", factor=100, most=100),
            "wait": series.by_pool(samples, "average_wait_time_s"),
        },
        "alarms": (alarms := _alarms.alarms(at)),
        "to_look_at": sum(alarm.count for alarm in alarms),
        "queue": [request_row(row, reasons) for row in first],
        "queue_depth": sum(pool["queue_depth"] for pool in pools),
        "decisions": [decision_row(lease) for lease in recent],
    }


def _pool(row: Mapping[str, Any], samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    slots, used = row["slots"], row["slots_used"]
    counts = {status.value: row[f"n_{status}"] for status in AgentStatus if status not in GONE}
    waits = [sample["average_wait_time_s"] for sample in samples]
    return {
        "agent_type": row["agent_type"],
        "counts": {name: count for name, count in counts.items() if count},
        "agents": sum(counts.values()),
        "min_size": row["min_size"],
        "max_size": row["max_size"],
        "slots": slots,
        "slots_used": used,
        "percent": round(100 * used / slots) if slots else 0,
        "queue_depth": row["queue_depth"] or 0,
        "oldest": row["oldest"],
        "utilisation_line": charts.spark_line([s["utilization"] for s in samples], most=1.0),
        "wait_line": charts.spark_line(waits, most=max(waits, default=0.0)),
        "longest_wait_s": max(waits, default=0.0),
    }


def _summary(pools: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    def total(status: str) -> int:
        return sum(pool["counts"].get(status, 0) for pool in pools)

    slots = sum(pool["slots"] for pool in pools)
    used = sum(pool["slots_used"] for pool in pools)
    return {
        "agents": sum(pool["agents"] for pool in pools),
        "busy": total("busy"),
        "idle": total("idle"),
        "slots": slots,
        "slots_used": used,
        "percent": round(100 * used / slots) if slots else 0,
        "waiting": sum(pool["queue_depth"] for pool in pools),
        "oldest": min((pool["oldest"] for pool in pools if pool["oldest"]), default=None),
    }
