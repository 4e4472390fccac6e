"""One decision about a pool's size: what it rested on, and what came of it."""

from collections.abc import Mapping
from typing import Any

from agentpool.console import page
from agentpool.console.page import Params, Picture
from agentpool.console.pages.scaling import forecast_told
from agentpool.registry import queries as registry_queries
from agentpool.registry.errors import NotFound
from agentpool.registry.models import Launch, ScalingDecision

# What each bound does, as the detail says it.
BOUNDS: Mapping[str, str] = {
    "headroom": "a share more than asked for",
    "min_idle": "some are kept idle",
    "stabilise_s": "it shrinks only to the highest wish of the last time",
    "dead_band": "so small a difference is left",
    "step": "one decision moves only so many",
    "cooldown_up_s": "it grew a short time ago",
    "cooldown_down_s": "it shrank a short time ago",
    "flap_budget": "it has turned too often in this hour",
    "min_size": "the pool's smallest size",
    "max_size": "the pool's largest size",
    "room": "idle agents that serve nobody who waits make room for others",
    "budget": "the budget of the day",
    "busy": "whoever works finishes",
    "fallback": "what is known is missing or too old",
}
INPUTS: Mapping[str, str] = {
    "ready": "slots of agents that are up",
    "busy": "slots in use",
    "starting": "slots to come",
    "waiting": "requests that wait, and that another agent would help",
    "apart": "slots that could serve none of them",
    "held_back": "slots in quarantine or maintenance",
    "expected": "arrivals expected in the lead",
    "held": "arrivals that are held for",
    "ending": "leases that will have ended",
    "announced": "announced requests to come",
    "share": "share of leads in which more may come",
    "lead_s": "lead, s",
    "surge_s": "since the surge began, s",
    "surge_arrivals": "arrivals of the surge",
    "surge_expected": "arrivals expected in that time",
    "surge_held": "arrivals that are held for in surges",
    "surge_times": "surges about this time",
    "surge_period": "of each",
    "surge_past": "arrivals of past surges, on average",
    "k": "slots to spare",
    "rate": "arrivals a second",
    "service_s": "mean service time, s",
    "average_wait_s": "mean wait, s",
    "utilization": "share that is busy",
    "peak": "peak ratio",
    "standby": "agents on standby",
    "standby_wanted": "agents wanted there",
    "wake": "of those on it, to be woken",
    "set_aside": "idle ones to be set aside",
    "cold": "missing, and nobody to wake for them",
}


def picture(params: Params) -> Picture:
    """Return a decision with everything that was kept of it; raises NotFound."""
    rows = ScalingDecision.objects.select_related("event")
    row = rows.filter(id=page.row_id(params)).first()
    if row is None:
        raise NotFound("There is no such decision.")
    return {
        "now": registry_queries.now(),
        "subject": f"{row.pool_id} {row.current} to {row.target}",
        "row": row,
        "agent_type": row.pool_id,
        "bounds": [(name, BOUNDS.get(name, "")) for name in row.bounds],
        "inputs": _inputs(row.inputs),
        "alternatives": [
            {"rule": rule, "target": target, "reason": reason}
            for rule, target, reason in row.alternatives
        ],
        "forecast": forecast_told(row.forecast or {}),
        "event": row.event,
        "launches": _launches(row),
    }


def _inputs(found: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Return the inputs in the order of `INPUTS`; Postgres keeps none."""
    names = [*(name for name in INPUTS if name in found), *sorted(set(found) - set(INPUTS))]
    return [(INPUTS.get(name, name), found[name]) for name in names]


def _launches(row: ScalingDecision) -> list[dict[str, Any]]:
    if row.event_id is None:
        return []
    found = Launch.objects.filter(event_id=row.event_id).select_related("agent")
    return [
        {
            "agent_row": launch.agent_id,
            "agent_id": launch.agent.agent_id,
            "status": launch.status,
            "agent_status": launch.agent.status,
            "error": launch.error,
        }
        for launch in found.order_by("created_at")
    ]
