"""The agents: as cards or as a table, filtered, searched and sorted by the database."""

from django.db.models import Count, Exists, F, OuterRef, Q, QuerySet

from agentpool.console import page
from agentpool.console.page import Params, Picture
from agentpool.console.pages._rows import GONE, agent_row
from agentpool.registry import queries as registry_queries
from agentpool.registry.models import Agent, CapabilityClass, Lease, Pool
from agentpool.registry.states import LIVE, AgentHealth, AgentStatus

# Each ends in the name, so that no row changes places without a reason.
SORTS = {
    "name": ("agent_id",),
    "-name": ("-agent_id",),
    "type": ("pool_id", "agent_id"),
    "status": ("status", "agent_id"),
    "load": ("load", "agent_id"),
    "-load": (F("load").desc(), "agent_id"),
    "-memory": (F("used_memory_mb").desc(), "agent_id"),
    "-tokens": (F("used_token_budget").desc(), "agent_id"),
    "heard": (F("liveness__last_heartbeat_at").asc(nulls_first=True), "agent_id"),
    "newest": ("-created_at", "agent_id"),
}
BULK = ("drain", "resume", "pause", "quarantine", "good", "retire", "release")
PARAMS = {
    "view": "cards",
    "agent_type": "",
    "status": "",
    "health": "",
    "project": "",
    "capability": "",
    "search": "",
    "sort": "type",
    "shown": "",
}


def picture(params: Params) -> Picture:
    """Return the agents that the filters let through."""
    at = registry_queries.now()
    shown = page.rows_shown(params)
    counts = _counts(params)
    rows = _filtered(registry_queries.agents(), params, "status")
    rows = rows.filter(_status(params)).order_by(*SORTS.get(params["sort"], SORTS["type"]))
    found = [agent_row(agent, at) for agent in rows[:shown]]
    total = sum(n for name, n in counts.items() if _is_shown(name, params))
    return {
        "now": at,
        "agents": found,
        "more": page.more(shown, total),
        "bulk": BULK,
        "is_table": params["view"] == "table",
        "any_agents": bool(found) or Agent.objects.exclude(status__in=GONE).exists(),
        "statuses": [(status.value, counts.get(status.value, 0)) for status in AgentStatus],
        "present": sum(n for name, n in counts.items() if name not in GONE),
        "healths": [health.value for health in AgentHealth],
        "agent_types": list(Pool.objects.values_list("agent_type", flat=True)),
        "projects": _projects(),
        "capabilities": _capabilities(),
    }


def _status(params: Params) -> Q:
    return Q(status=params["status"]) if params["status"] else ~Q(status__in=GONE)


def _is_shown(status: str, params: Params) -> bool:
    return status == params["status"] if params["status"] else status not in GONE


def _counts(params: Params) -> dict[str, int]:
    rows = _filtered(Agent.objects.all(), params, "status").order_by()
    return dict(rows.values_list("status").annotate(n=Count("id")))


def _filtered(rows: QuerySet[Agent], params: Params, but: str) -> QuerySet[Agent]:
    """Return the rows that pass all filters but one."""
    if params["agent_type"]:
        rows = rows.filter(pool_id=params["agent_type"])
    if params["health"]:
        rows = rows.filter(health=params["health"])
    if params["capability"]:
        rows = rows.filter(capabilities__contains=[params["capability"]])
    if params["project"]:
        held = Lease.objects.filter(
            agent=OuterRef("id"), project=params["project"], status__in=LIVE
        )
        rows = rows.filter(Exists(held))
    if text := params["search"]:
        named = Q(agent_id__icontains=text) | Q(name__icontains=text) | Q(host__icontains=text)
        rows = rows.filter(named)
    return rows


def _projects() -> list[str]:
    live = Lease.objects.filter(status__in=LIVE).order_by("project")
    return list(live.values_list("project", flat=True).distinct()[:100])


def _capabilities() -> list[str]:
    kept = CapabilityClass.objects.filter(agents__gt=0).values_list("capabilities", flat=True)
    return sorted({capability for row in kept for capability in row})
