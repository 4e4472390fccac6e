"""What the page of a request shows: the filters as bars, the scores as stacked ones, the wait."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from agentpool.registry import queries as registry_queries
from agentpool.registry.models import Pool
from agentpool.registry.states import RequestStatus
from balancing import explain, queries, scoring
from balancing.explain import Explanation

# The weights of a score whose parts are shares of it; other scores are told in numbers.
_WEIGHTS: Mapping[str, Mapping[str, float]] = {
    "workload_aware": scoring.WORKLOAD_WEIGHTS,
    "predictive": scoring.PREDICTIVE_WEIGHTS,
}


def request_picture(request_id: UUID) -> dict[str, Any]:
    """Return why a request got its agent, or why it waits, at one moment; raises NotFound."""
    with registry_queries.snapshot():
        return _picture(request_id)


def _picture(request_id: UUID) -> dict[str, Any]:
    row = queries.request(request_id)
    found = explain.explain(row)
    at = registry_queries.now()
    is_waiting = row.status == RequestStatus.WAITING
    return {
        "now": at,
        "wish": row,
        "is_waiting": is_waiting,
        "is_open": row.status in (RequestStatus.WAITING, RequestStatus.GRANTED),
        "lease": queries.newest_lease_of(request_id),
        "reason": found.reason,
        "position": found.position,
        "expected_wait_s": found.expected_wait_s,
        "waited_s": max(0.0, (at - row.queued_at).total_seconds()) if is_waiting else None,
        "nearest": found.nearest,
        "chosen": found.chosen,
        "runner_up": found.runner_up,
        "filters": found.filters,
        "agents": found.filters[0].kept + found.filters[0].dropped,
        "candidates": [_candidate(card, found) for card in found.candidates],
        "strategy": _strategy(found),
        "timeline": found.timeline,
    }


def _strategy(found: Explanation) -> str:
    if found.chosen:
        return str(found.chosen.get("strategy", ""))
    request = found.request
    return request.strategy or Pool.objects.get(agent_type=request.pool_id).strategy


def _candidate(card: Mapping[str, Any], found: Explanation) -> dict[str, Any]:
    parts = card.get("parts") or {}
    weights = _WEIGHTS.get(_strategy(found), {})
    chosen = found.chosen or {}
    return {
        "agent_id": card["agent_id"],
        "score": card["score"],
        "is_chosen": chosen.get("agent_id") == card["agent_id"],
        "parts": parts,
        "bars": _bars(parts, weights) if set(weights) <= set(parts) else [],
    }


def _bars(parts: Mapping[str, float], weights: Mapping[str, float]) -> list[dict[str, Any]]:
    """Return each part's share of the score, 0 to 100, beside the one before it."""
    bars, at = [], 0.0
    for number, (name, weight) in enumerate(weights.items(), 1):
        width = round(100 * weight * min(1.0, max(0.0, parts[name])), 2)
        bars.append({"name": name, "number": number, "x": round(at, 2), "width": width})
        at += width
    return bars
