"""Rebalancing: which grants were or could be changed, why, and what became of it."""

from collections.abc import Mapping, Sequence
from typing import Any

from django.db.models import Count, F, Q, Sum

from agentpool.console import page
from agentpool.console.page import Params, Picture
from agentpool.console.pages._rows import matching
from agentpool.registry import queries as registry_queries
from agentpool.registry.models import REBALANCING_STATUSES, Pool, RebalancePolicy, Rebalancing

PARAMS = {"agent_type": "", "status": "", "shown": ""}
_SAVED = ("applied", "kept")


def picture(params: Params) -> Picture:
    """Return the pools with what running leases have given back, and the newest changes."""
    shown = page.rows_shown(params)
    columns = {"pool_id": "agent_type", "status": "status"}
    rows = list(matching(Rebalancing.objects.all(), columns, params)[: shown + 1])
    types = list(Pool.objects.values_list("agent_type", flat=True))
    return {
        "now": registry_queries.now(),
        "pools": _pools(types),
        "changes": [_change(row) for row in rows[:shown]],
        "more": page.more(shown, len(rows)),
        "agent_types": types,
        "statuses": REBALANCING_STATUSES,
    }


def _pools(types: Sequence[str]) -> list[dict[str, Any]]:
    policies = {str(row.pool_id): row for row in RebalancePolicy.objects.all()}
    live = Q(lease__status="active", status__in=_SAVED)
    cut, freed = live & Q(kind="shrink"), F("before") - F("after")
    rows = Rebalancing.objects.order_by().values("pool_id")
    sums = rows.annotate(
        memory_mb=Sum(freed, filter=cut & Q(resource="memory_mb"), default=0),
        cpu_cores=Sum(freed, filter=cut & Q(resource="cpu_cores"), default=0),
        added_mb=Sum(-freed, filter=live & Q(kind="grow"), default=0),
        proposed=Count("id", filter=Q(status="proposed")),
        begun=Count("id", filter=Q(status__in=("asked", "applied"))),
        kept=Count("id", filter=Q(status="kept")),
        undone=Count("id", filter=Q(status="undone")),
        refused=Count("id", filter=Q(status="refused")),
    )
    found: dict[str, Mapping[str, Any]] = {str(row["pool_id"]): row for row in sums}
    return [_pool(name, policies.get(name), found.get(name, {})) for name in types]


def _pool(name: str, row: RebalancePolicy | None, sums: Mapping[str, Any]) -> dict[str, Any]:
    policy = row or RebalancePolicy()
    return {
        "agent_type": name,
        "mode": policy.mode,
        "settings": sorted((key, f"{value:g}") for key, value in policy.settings.items()),
        "updated_by": policy.updated_by.removeprefix("user:"),
        **{key: sums.get(key, 0) for key in ("proposed", "begun", "kept", "undone", "refused")},
        "memory_mb": float(sums.get("memory_mb") or 0),
        "cpu_cores": float(sums.get("cpu_cores") or 0),
        "added_mb": float(sums.get("added_mb") or 0),
    }


def _change(row: Rebalancing) -> dict[str, Any]:
    return {
        "id": str(row.id),
        "lease_id": str(row.lease_id),
        "agent_type": row.pool_id,
        "agent_id": row.agent_id,
        "project": row.project,
        "is_memory": row.resource == "memory_mb",
        "kind": row.kind,
        "mode": row.mode,
        "status": row.status,
        "before": float(row.before),
        "after": float(row.after),
        "reason": row.reason,
        "bound": row.bound,
        "verdict": row.verdict,
        "actor": row.actor.removeprefix("user:"),
        "at": row.at,
        "wait_before_s": row.wait_before_s,
        "wait_after_s": row.wait_after_s,
        "is_measured": row.is_measured,
    }
