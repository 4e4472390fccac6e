"""Resources: what there is, what is reserved of it by whom, and the limits on that."""

from collections.abc import Mapping
from typing import Any

from agentpool.console import series
from agentpool.console.page import Params, Picture
from agentpool.console.pages._rows import bar
from agentpool.console.pages._samples import of_last_hour
from agentpool.registry import queries as registry_queries
from balancing import queries, showing

AMOUNTS = (
    ("memory_mb", "Memory", "mb"),
    ("cpu_cores", "CPU", "cores"),
    ("token_budget", "Tokens", "tokens"),
    ("disk_space_mb", "Disk", "mb"),
)
# What the charts draw, of the samples.
SAMPLED = {
    "memory": "total_memory_allocated_mb",
    "cpu": "total_cpu_allocated",
    "tokens": "total_tokens_allocated",
}
ALL_AMOUNTS = (*AMOUNTS, ("network_bandwidth_mbps", "Network", "Mbps"))


def picture(params: Params) -> Picture:
    """Return totals, uses and limits, read at one moment."""
    found = queries.resources()
    samples = of_last_hour(*SAMPLED.values())
    told = showing.resources_json(found)
    limits = {str(limit.id): limit for limit in found.limits}
    return {
        "now": registry_queries.now(),
        "total": {**told["total"], "leases": told["used"]["leases"]},
        "bars": _bars(told["used"], told["total"]),
        "by_type": [
            {
                "agent_type": row["agent_type"],
                "agents": row["total"]["agents"],
                "leases": row["used"]["leases"],
                "bars": _bars(row["used"], row["total"]),
            }
            for row in told["by_type"]
        ],
        "by_project": [
            {
                "project": row["project"],
                "leases": row["used"]["leases"],
                "bars": _bars(row["used"], told["total"]),
            }
            for row in sorted(told["by_project"], key=lambda r: -r["used"]["leases"])
        ],
        "pools_drawn": series.pools_drawn(len(samples)),
        "charts": {
            name: series.by_pool(samples, column, stacks=True) for name, column in SAMPLED.items()
        },
        "limits": [_limit(row, limits[row["id"]].is_overdrawn) for row in told["limits"]],
    }


def _bars(used: Mapping[str, Any], total: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [bar(label, used[name], total[name], unit) for name, label, unit in AMOUNTS]


def _limit(row: Mapping[str, Any], is_overdrawn: bool) -> dict[str, Any]:
    """Return a limit; caps: what one lease by itself may have."""
    caps = {
        "at most": [_cap(row, "max_", each) for each in AMOUNTS],
        "at least": [_cap(row, "min_", each) for each in AMOUNTS[:2]],
    }
    return {
        "id": row["id"],
        "level": row["level"],
        "name": row["name"],
        "weight": row["weight"],
        "is_overdrawn": is_overdrawn or row["overdrawn"],
        "bars": [
            bar(label, row["used"][name], row[name], unit, warns=True)
            for name, label, unit in ALL_AMOUNTS
            if row[name] is not None
        ],
        "caps": {word: [c for c in found if c] for word, found in caps.items() if any(found)},
    }


def _cap(row: Mapping[str, Any], prefix: str, each: tuple[str, str, str]) -> dict[str, Any] | None:
    name, label, unit = each
    value = row.get(prefix + name)
    return None if value is None else {"label": label.lower(), "value": value, "unit": unit}
