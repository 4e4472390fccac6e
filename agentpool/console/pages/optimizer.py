"""Optimizer: what is wrong with pools, what would help, and what came of what was done."""

from typing import Any

from agentpool.console import page
from agentpool.console.actions.optimizer import METRICS
from agentpool.console.page import Params, Picture
from agentpool.console.pages._rows import matching
from agentpool.registry import queries as registry_queries
from agentpool.registry.models import OPTIMIZATION_STATUSES, Optimization, OptimizerPolicy, Pool
from scaling import optimizer

PARAMS = {"agent_type": "", "status": "", "shown": ""}


def picture(params: Params) -> Picture:
    """Return the pools with how they are looked after, and the newest proposals."""
    shown = page.rows_shown(params)
    columns = {"pool_id": "agent_type", "status": "status"}
    rows = list(matching(Optimization.objects.all(), columns, params)[: shown + 1])
    types = list(Pool.objects.values_list("agent_type", flat=True))
    policies = {str(row.pool_id): row for row in OptimizerPolicy.objects.all()}
    return {
        "now": registry_queries.now(),
        "pools": [_pool(name, policies.get(name)) for name in types],
        "factors": [
            (kind.replace("_", " "), f"{value:.0%}")
            for kind, value in sorted(optimizer.factors().items())
        ],
        "proposals": [_proposal(row) for row in rows[:shown]],
        "more": page.more(shown, len(rows)),
        "agent_types": types,
        "statuses": OPTIMIZATION_STATUSES,
    }


def _pool(name: str, row: OptimizerPolicy | None) -> dict[str, Any]:
    policy = row or OptimizerPolicy()
    return {
        "agent_type": name,
        "mode": policy.mode,
        "settings": sorted((key, f"{value:g}") for key, value in policy.settings.items()),
        "updated_by": policy.updated_by.removeprefix("user:"),
    }


def _proposal(row: Optimization) -> dict[str, Any]:
    metric, unit = METRICS[row.metric]
    return {
        "id": str(row.id),
        "agent_type": row.pool_id,
        "kind": row.kind.replace("_", " "),
        "subject": row.subject,
        "action": row.action.replace("_", " "),
        "basis": row.basis,
        "metric": metric,
        "unit": unit,
        "measured": _short(row.measured),
        "without": _short(row.without),
        "expected": _short(row.expected),
        "came_out": None if row.came_out is None else _short(row.came_out),
        "factor": f"{row.factor:.0%}",
        "attempts": row.attempts,
        "minutes": round(row.over_s / 60),
        "agent_hours_a_day": f"{row.agent_hours_a_day:+.1f}" if row.agent_hours_a_day else "",
        "usd_a_day": f"{row.usd_a_day:+.2f}" if row.usd_a_day else "",
        "status": row.status,
        "is_open": row.status == "open",
        "verdict": row.verdict,
        "actor": row.actor.removeprefix("user:"),
        "at": row.at,
    }


def _short(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
