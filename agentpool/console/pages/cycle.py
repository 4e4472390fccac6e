"""Cycles: the newest ones, or the phases and leases of one on a time line."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from django.db.models import Count, Max, Min, Q

from agentpool.console import charts
from agentpool.console.charts import Span
from agentpool.console.page import Params, Picture
from agentpool.console.pages._rows import lease_row
from agentpool.registry import queries as registry_queries
from agentpool.registry.errors import NotFound
from agentpool.registry.models import Lease, Request
from agentpool.registry.states import LIVE, RequestStatus
from balancing import explain

CYCLES_SHOWN = 60
# The newest requests are looked at to find the newest cycles: kept rows grow without end.
_REQUESTS_ASKED = 3000
_LANE = 34
PARAMS = {"project": "", "cycle": ""}


def picture(params: Params) -> Picture:
    """Return one cycle, or without its name the newest ones; raises NotFound."""
    at = registry_queries.now()
    if not params["cycle"]:
        return {"now": at, "cycles": _newest(params["project"])}
    requests = list(
        Request.objects.filter(project=params["project"], cycle_id=params["cycle"]).order_by(
            "number"
        )
    )
    if not requests:
        raise NotFound(f"There is no cycle {params['cycle']} of {params['project']}.")
    leases = list(
        Lease.objects.select_related("agent")
        .filter(project=params["project"], cycle_id=params["cycle"])
        .order_by("fencing_token")
    )
    return {
        "now": at,
        "cycle": params["cycle"],
        "subject": params["cycle"],
        "project": params["project"],
        "totals": _totals(requests, leases),
        "lines": _lines(requests, leases, at),
        "leases": [lease_row(lease) for lease in leases],
    }


def _newest(project: str) -> list[dict[str, Any]]:
    newest = Request.objects.exclude(cycle_id="").order_by("-number")
    if project:
        newest = newest.filter(project=project)
    floor = list(newest.values_list("number", flat=True)[:_REQUESTS_ASKED])[-1:] or [0]
    rows = (
        newest.filter(number__gte=floor[0])
        .order_by()
        .values("project", "cycle_id")
        .annotate(
            phases=Count("id"),
            last=Max("number"),
            began=Min("created_at"),
            ended=Max("finished_at"),
            waiting=Count("id", filter=Q(status=RequestStatus.WAITING)),
            running=Count("id", filter=Q(status=RequestStatus.GRANTED)),
            ok=Count("id", filter=Q(outcome="success")),
            bad=Count("id", filter=Q(status__in=["failed", "timed_out"]) | Q(outcome="failure")),
        )
        .order_by("-last")
    )
    return [{**row, "dom_id": f"cycle-{row['last']}"} for row in rows[:CYCLES_SHOWN]]


def _totals(requests: Sequence[Request], leases: Sequence[Lease]) -> dict[str, Any]:
    is_open = any(r.status in (RequestStatus.WAITING, RequestStatus.GRANTED) for r in requests)
    spans = [(row.acquired_at, row.released_at) for row in leases if row.released_at]
    ends = [end for _, end in spans]
    first = min(request.created_at for request in requests)
    end = None if is_open or not ends else max(ends)
    return {
        "phases": len(requests),
        "leases": len(leases),
        "is_open": is_open,
        "began_at": first,
        "took_s": (end - first).total_seconds() if end else None,
        "waited_s": sum(lease.waited_s for lease in leases),
        "worked_s": sum((end - begin).total_seconds() for begin, end in spans),
        "tokens": sum(lease.tokens_in + lease.tokens_out for lease in leases),
        "cost_usd": sum(float(lease.cost_usd) for lease in leases),
    }


def _lines(requests: Sequence[Request], leases: Sequence[Lease], at: datetime) -> dict[str, Any]:
    """Return a lane a request: its waits hatched, its leases as boxes."""
    reasons = explain.reasons([r for r in requests if r.status == RequestStatus.WAITING])
    spans = [Span(0, lease.acquired_at, lease.released_at) for lease in leases]
    spans += [Span(0, r.created_at, r.finished_at) for r in requests]
    scale = charts.scale(spans, now=at)
    lanes = []
    for number, request in enumerate(requests):
        own = [lease for lease in leases if lease.request_id == request.id]
        reason = reasons.get(request.id)
        lanes.append(
            {
                "id": request.id,
                "y": _LANE * number,
                "label": request.phase or request.pool_id,
                "agent_type": request.pool_id,
                "status": request.status,
                "outcome": request.outcome,
                "reason": reason.sentence if reason else "",
                "boxes": [_box(scale, lease, at) for lease in own],
                "waits": _waits(scale, request, own),
            }
        )
    return {
        "lanes": lanes,
        "height": _LANE * len(lanes),
        "marks": charts.marked(scale),
    }


def _box(scale: charts.Scale, lease: Lease, at: datetime) -> dict[str, Any]:
    x, width = scale.box(Span(0, lease.acquired_at, lease.released_at))
    return {
        "id": lease.id,
        "x": x,
        "width": width,
        "agent": lease.agent.agent_id,
        "state": lease.outcome or ("parked" if lease.status == "parked" else "running"),
        "is_live": lease.status in LIVE,
        "took_s": ((lease.released_at or at) - lease.acquired_at).total_seconds(),
    }


def _waits(scale: charts.Scale, request: Request, own: Sequence[Lease]) -> list[dict[str, float]]:
    """Return the stretches before the first lease, between leases, and up to now while it waits."""
    found, begin = [], request.created_at
    for lease in own:
        x, width = scale.box(Span(0, begin, lease.acquired_at))
        found.append({"x": x, "width": width})
        begin = lease.released_at or scale.end
    if request.status == RequestStatus.WAITING or not own:
        x, width = scale.box(Span(0, begin, request.finished_at))
        found.append({"x": x, "width": width})
    return [wait for wait in found if wait["width"] > 3]
