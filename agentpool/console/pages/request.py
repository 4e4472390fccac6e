"""One request: the filters as bars, the scores as stacked ones, the wait."""

from collections.abc import Mapping
from typing import Any

from agentpool.console import actions, page
from agentpool.console.page import Params, Picture
from agentpool.console.pages import _rows
from agentpool.registry import queries as registry_queries
from agentpool.registry.models import Pool
from agentpool.registry.states import RequestStatus
from balancing import explain, queries
from balancing.explain import Explanation
from balancing.explain.funnel import Filter


def picture(params: Params) -> Picture:
    """Return why a request got its agent, or why it waits; raises NotFound."""
    row = queries.request(page.row_id(params))
    found = explain.explain(row)
    is_waiting = row.status == RequestStatus.WAITING
    return {
        "now": registry_queries.now(),
        "wish": row,
        "request_id": str(row.id),
        "subject": f"{row.cycle_id or row.project} {row.phase}".rstrip(),
        "doable": [action.name for action in actions.offered(actions.work.REQUEST, [row])],
        "is_waiting": is_waiting,
        "lease": queries.newest_lease_of(row.id),
        "code": found.code,
        "reason": found.reason,
        "position": found.position,
        "expected_wait_s": found.expected_wait_s,
        "nearest": found.nearest,
        "chosen": found.chosen,
        "runner_up": found.runner_up,
        "filters": [_filter(each) for each in found.filters],
        "agents": found.filters[0].kept + found.filters[0].dropped,
        "could_serve": found.filters[-1].kept,
        "candidates": [_candidate(card, found) for card in found.candidates],
        "strategy": _strategy(found),
        "timeline": found.timeline,
    }


def _strategy(found: Explanation) -> str:
    if found.chosen:
        return str(found.chosen.get("strategy", ""))
    request = found.request
    return request.strategy or Pool.objects.get(agent_type=request.pool_id).strategy


def _filter(each: Filter) -> dict[str, Any]:
    # A limit is called by what people have named.
    name = each.name if each.name.startswith("limit of") else each.name.replace("_", " ")
    return {"name": name, "kept": each.kept, "dropped": each.dropped}


def _candidate(card: Mapping[str, Any], found: Explanation) -> dict[str, Any]:
    chosen = found.chosen or {}
    return {
        **_rows.card(card, _strategy(found)),
        "is_chosen": chosen.get("agent_id") == card["agent_id"],
    }
