"""The queue: who waits, why, how many are served before, and how long that will take."""

from uuid import UUID

from django.db.models import Q

from agentpool.console import page
from agentpool.console.page import Params, Picture
from agentpool.console.pages._rows import matching, request_row
from agentpool.registry import queries as registry_queries
from agentpool.registry.models import Pool, Request
from agentpool.registry.states import RequestStatus
from balancing import explain

BULK = ("prioritise", "cancel-request")
PARAMS = {"agent_type": "", "project": "", "search": "", "shown": ""}


def picture(params: Params) -> Picture:
    """Return what waits, in the order of pools, priorities and arrival."""
    at = registry_queries.now()
    shown = page.rows_shown(params)
    rows = Request.objects.filter(status=RequestStatus.WAITING)
    everything = rows.count()
    rows = matching(rows, {"pool_id": "agent_type", "project": "project"}, params)
    if text := params["search"]:
        rows = rows.filter(Q(cycle_id__icontains=text) | Q(project__icontains=text))
    total = rows.count()
    found = list(rows.order_by("pool", "-priority", "number")[:shown])
    reasons, turns = explain.reasons(found), explain.turns_of(found)
    queue = [request_row(row, reasons) for row in found]
    for row in queue:
        turn = turns.get(UUID(row["id"]))
        row["position"] = turn.position if turn else None
        row["expected_wait_s"] = turn.expected_wait_s if turn else None
    waiting = Request.objects.filter(status=RequestStatus.WAITING).order_by("project")
    return {
        "now": at,
        "queue": queue,
        "queue_depth": everything,
        "more": page.more(shown, total),
        "bulk": BULK,
        "agent_types": list(Pool.objects.values_list("agent_type", flat=True)),
        "projects": list(waiting.values_list("project", flat=True).distinct()[:100]),
    }
