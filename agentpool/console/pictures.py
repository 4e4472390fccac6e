"""What the live page shows, as plain values for the templates; read in a handful of queries."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from django.db.models import Q

from agentpool.registry import queries as registry_queries
from agentpool.registry.models import Agent, Pool, Request
from agentpool.registry.states import AgentHealth, AgentStatus, RequestStatus
from balancing import explain, queries

FILTERS = ("agent_type", "status", "project", "search")
AGENTS_SHOWN = 500
QUEUE_SHOWN = 50
GONE = (AgentStatus.RETIRED, AgentStatus.LOST)

Filters = Mapping[str, str]


def filters_of(parameters: Mapping[str, Any]) -> dict[str, str]:
    """Return the page's filters from a query string; unknown names and NULs are ignored."""
    found = {name: str(parameters.get(name) or "")[:200] for name in FILTERS}
    return {name: value.replace("\x00", "").strip() for name, value in found.items()}


def pool_picture(filters: Filters) -> dict[str, Any]:
    """Return all that the page shows, read at one moment."""
    at = registry_queries.now()
    agents, hidden = _agents(filters, at)
    pools = [_pool(row) for row in registry_queries.pool_states()]
    return {
        "now": at,
        "filters": dict(filters),
        "agent_types": list(Pool.objects.values_list("agent_type", flat=True)),
        "statuses": [status.value for status in AgentStatus if status not in GONE],
        "pools": pools,
        "summary": _summary(pools),
        "agents": agents,
        "agents_hidden": hidden,
        "any_agents": any(sum(pool["counts"].values()) for pool in pools),
        "queue": _queue(filters, at),
        "queue_depth": sum(pool["queue_depth"] for pool in pools),
    }


def _summary(pools: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the strip above the pools; troubled: agents that a person should look at."""

    def total(status: str) -> int:
        return sum(pool["counts"][status] for pool in pools)

    return {
        "agents": sum(sum(pool["counts"].values()) for pool in pools),
        "busy": total("busy"),
        "idle": total("idle"),
        "slots": sum(pool["slots"] for pool in pools),
        "slots_used": sum(pool["slots_used"] for pool in pools),
        "waiting": sum(pool["queue_depth"] for pool in pools),
        "oldest_wait_s": max((pool["oldest_wait_s"] for pool in pools), default=0.0),
        "troubled": _troubled(),
    }


def _troubled() -> int:
    troubled = Q(status=AgentStatus.UNREACHABLE) | Q(health=AgentHealth.QUARANTINED)
    return Agent.objects.exclude(status__in=GONE).filter(troubled).count()


def _pool(row: Mapping[str, Any]) -> dict[str, Any]:
    slots, used = row["slots"], row["slots_used"]
    counts = {status.value: row[f"n_{status}"] for status in AgentStatus if status not in GONE}
    return {
        "agent_type": row["agent_type"],
        "counts": counts,
        "agents": sum(counts.values()),
        "slots": slots,
        "slots_used": used,
        "utilisation": used / slots if slots else 0.0,
        "utilisation_percent": round(100 * used / slots) if slots else 0,
        "queue_depth": row["queue_depth"] or 0,
        "oldest_wait_s": round(row["oldest_wait_s"], 1),
    }


def _agents(filters: Filters, at: datetime) -> tuple[list[dict[str, Any]], int]:
    rows = registry_queries.agents().order_by("pool", "agent_id")
    if filters["status"]:
        rows = rows.filter(status=filters["status"])
    else:
        rows = rows.exclude(status__in=GONE)
    if filters["agent_type"]:
        rows = rows.filter(pool_id=filters["agent_type"])
    if filters["project"]:
        rows = rows.filter(leases__project=filters["project"], load__gt=0).distinct()
    if text := filters["search"]:
        rows = rows.filter(Q(agent_id__icontains=text) | Q(name__icontains=text))
    shown = list(rows[: AGENTS_SHOWN + 1])
    hidden = rows.count() - AGENTS_SHOWN if len(shown) > AGENTS_SHOWN else 0
    return [_agent(agent, at) for agent in shown[:AGENTS_SHOWN]], hidden


def _agent(agent: Agent, at: datetime) -> dict[str, Any]:
    leases = [
        {
            "id": lease.id,
            "project": lease.project,
            "cycle_id": lease.cycle_id,
            "phase": lease.phase,
            "status": lease.status,
            "started_at": lease.acquired_at,
        }
        for lease in getattr(agent, "live_leases", [])
    ]
    heard = agent.liveness.last_heartbeat_at if hasattr(agent, "liveness") else None
    return {
        "id": agent.id,
        "agent_id": agent.agent_id,
        "agent_type": agent.agent_type,
        "name": agent.name,
        "status": agent.status,
        "health": agent.health,
        "load": agent.load,
        "max_concurrent": agent.max_concurrent,
        "load_percent": round(100 * agent.load / agent.max_concurrent),
        "heard_at": heard,
        "heartbeat_age_s": round((at - heard).total_seconds(), 1) if heard else None,
        "projects": list(dict.fromkeys(lease["project"] for lease in leases)),
        "current_cycle": leases[0]["cycle_id"] if leases else "",
        "current_phase": leases[0]["phase"] if leases else "",
        "host": agent.host,
        "leases": leases,
    }


def _queue(filters: Filters, at: datetime) -> list[dict[str, Any]]:
    rows = Request.objects.filter(status=RequestStatus.WAITING).order_by(
        "pool", "-priority", "number"
    )
    if filters["agent_type"]:
        rows = rows.filter(pool_id=filters["agent_type"])
    if filters["project"]:
        rows = rows.filter(project=filters["project"])
    shown = list(rows[:QUEUE_SHOWN])
    reasons = explain.reasons(shown)
    return [
        {
            "id": row.id,
            "agent_type": row.agent_type,
            "project": row.project,
            "cycle_id": row.cycle_id,
            "phase": row.phase,
            "priority": row.priority,
            "waited_s": round((at - row.queued_at).total_seconds(), 1),
            "queued_at": row.queued_at,
            "reason": reasons[row.id].sentence if row.id in reasons else row.reason,
        }
        for row in shown
    ]


def lease_picture(lease_id: Any) -> dict[str, Any]:
    """Return a lease with what it printed; raises NotFound."""
    lease = queries.lease(lease_id)
    return {
        "now": registry_queries.now(),
        "lease": lease,
        "chunks": registry_queries.log_after(lease, after=0, limit=5000),
        "dropped_bytes": registry_queries.dropped_bytes(lease),
    }
