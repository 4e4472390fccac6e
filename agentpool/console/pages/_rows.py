"""Agents, leases and requests as the plain values that several pages show."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.conf import settings

from agentpool.console import charts, tags
from agentpool.registry.models import Agent, Lease, Request
from agentpool.registry.states import LIVE, AgentStatus
from balancing import scoring

GONE = (AgentStatus.RETIRED, AgentStatus.LOST)

# The weights of a score whose parts are shares of it; other scores are told in numbers.
WEIGHTS: Mapping[str, Mapping[str, float]] = {
    "workload_aware": scoring.WORKLOAD_WEIGHTS,
    "predictive": scoring.PREDICTIVE_WEIGHTS,
}


def bar(label: str, used: Any, most: Any, unit: str = "", *, warns: bool = False) -> dict[str, Any]:
    """Return one amount as a bar; unit: mb, cores, tokens, or none. warns: nearly full is bad."""
    share = float(used) / float(most) if most else 0.0
    return {
        "label": label,
        "used": float(used),
        "most": float(most) or 1.0,
        "text": _of(_written(used, unit), _written(most, unit)),
        "percent": round(100 * share),
        "is_full": warns and share >= 0.95,
        "is_over": share > 1.0,
    }


def _written(value: Any, unit: str) -> str:
    if unit == "mb":
        return tags.mb(value)
    if unit == "tokens":
        return tags.amount(value)
    return f"{tags.plain(round(float(value), 2))} {unit}".rstrip()


def _of(used: str, most: str) -> str:
    number, _, unit = used.partition(" ")
    is_same = unit == most.partition(" ")[2] or number == "0"
    return f"{number if is_same else used} of {most}"


def agent_row(agent: Agent, at: datetime) -> dict[str, Any]:
    """Return an agent as cards and tables show it; it must come from registry.queries.agents."""
    heard = agent.liveness.last_heartbeat_at if hasattr(agent, "liveness") else None
    late = timedelta(seconds=max(settings.SUSPECT_S / 2, settings.HEARTBEAT_S * 1.5))
    return {
        "id": str(agent.id),
        "agent_id": agent.agent_id,
        "agent_type": agent.agent_type,
        "name": agent.name or agent.agent_id,
        "status": agent.status,
        "health": agent.health,
        "health_note": agent.health_note,
        "drain_by": agent.drain_by if agent.status == AgentStatus.DRAINING else None,
        "host": agent.host,
        # In time is in time: a row that says so need not be sent again with every heartbeat.
        "heard_at": heard,
        "is_late": heard is not None and at - heard > late and agent.status not in GONE,
        "bars": [
            bar("Slots", agent.load, agent.max_concurrent),
            bar("Memory", agent.used_memory_mb, agent.memory_mb, "mb"),
            bar("CPU", agent.used_cpu_cores, agent.cpu_cores, "cores"),
            bar("Tokens", agent.used_token_budget, agent.token_budget, "tokens"),
        ],
        "leases": [_work(lease) for lease in getattr(agent, "live_leases", [])],
    }


def _work(lease: Lease) -> dict[str, Any]:
    return {
        "id": str(lease.id),
        "title": lease.cycle_id or lease.project,
        "project": lease.project,
        "phase": lease.phase,
        "is_parked": lease.status == "parked",
        "acquired_at": lease.acquired_at,
    }


def lease_row(lease: Lease) -> dict[str, Any]:
    """Return a lease with its grant held against what was measured of its use."""
    is_live = lease.status in LIVE
    memory = lease.measured_memory_mb if is_live else lease.peak_memory_mb
    return {
        "id": str(lease.id),
        "title": lease.cycle_id or lease.project,
        "project": lease.project,
        "cycle_id": lease.cycle_id,
        "phase": lease.phase,
        "attempt": lease.attempt,
        "agent": lease.agent.agent_id,
        "agent_row": lease.agent_id,
        "agent_type": lease.agent_type,
        "status": lease.status,
        "outcome": lease.outcome,
        "is_live": is_live,
        "token": lease.fencing_token,
        "acquired_at": lease.acquired_at,
        "released_at": lease.released_at,
        "took_s": _length_s(lease),
        "waited_s": lease.waited_s,
        "progress": lease.progress_note or lease.progress_phase,
        "error": lease.error,
        "bars": use_bars(lease, memory),
    }


def use_bars(lease: Lease, memory_mb: float) -> list[dict[str, Any]]:
    """Return what a lease uses of its grant; of cores, once it has ended, their mean."""
    cores = lease.measured_cpu_cores
    if lease.status not in LIVE:
        length_s = _length_s(lease) or 0.0
        cores = lease.cpu_seconds / length_s if length_s else 0.0
    tokens = lease.tokens_in + lease.tokens_out
    return [
        bar("Memory", memory_mb, lease.memory_mb, "mb", warns=True),
        bar("CPU", cores, lease.cpu_cores, "cores"),
        bar("Tokens", tokens, lease.token_budget, "tokens", warns=True),
    ]


def _length_s(lease: Lease) -> float | None:
    return (lease.released_at - lease.acquired_at).total_seconds() if lease.released_at else None


def request_row(request: Request, reasons: Mapping[UUID, Any]) -> dict[str, Any]:
    """Return a waiting request with why it waits."""
    reason = reasons.get(request.id)
    return {
        "id": str(request.id),
        "title": request.cycle_id or request.project,
        "agent_type": request.agent_type,
        "project": request.project,
        "cycle_id": request.cycle_id,
        "phase": request.phase,
        "priority": request.priority,
        "queued_at": request.queued_at,
        "is_urgent": request.urgent_at is not None,
        "attempts": request.attempts,
        "code": reason.code if reason else "",
        "reason": reason.sentence if reason else request.reason,
    }


def decision_row(lease: Lease) -> dict[str, Any]:
    """Return how a lease's agent was chosen; cards: at most the two best, best first."""
    decision = dict(lease.decision)
    ranked = list(decision.get("candidates") or ())
    others = [card for card in ranked if card["agent_id"] != lease.agent.agent_id]
    strategy = str(decision.get("strategy", ""))
    chosen = {"agent_id": lease.agent.agent_id, **decision}
    return {
        "id": str(lease.id),
        "request_id": lease.request_id,
        "title": lease.cycle_id or lease.project,
        "project": lease.project,
        "phase": lease.phase,
        "agent_type": lease.agent_type,
        "at": lease.acquired_at,
        "waited_s": lease.waited_s,
        "tier": str(decision.get("tier", "")),
        "strategy": strategy,
        "agent_row": lease.agent_id,
        "chosen": card(chosen, strategy),
        "runner_up": card(others[0], strategy) if others else None,
    }


def card(candidate: Mapping[str, Any], strategy: str) -> dict[str, Any]:
    """Return a candidate with the parts of its score, as bars where they are shares of it."""
    parts = candidate.get("parts") or {}
    weights = WEIGHTS.get(strategy, {})
    known = bool(weights) and set(weights) <= set(parts)
    return {
        "agent_id": candidate["agent_id"],
        "score": candidate.get("score"),
        "parts": parts,
        "bars": charts.score_bars(parts, weights) if known else [],
    }


def matching(rows: Any, columns: Mapping[str, str], params: Mapping[str, str]) -> Any:
    """Return rows whose columns equal the parameters that are given."""
    given = {column: params[name] for column, name in columns.items() if params[name]}
    return rows.filter(**given)
