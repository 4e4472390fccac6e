"""How requests, leases, offers and limits are shown, by every door alike."""

from collections.abc import Iterable
from datetime import datetime
from decimal import Decimal
from typing import Any

from django.conf import settings

from agentpool.registry.models import (
    Lease,
    LeaseIsolation,
    Request,
    ResourceLimit,
)
from agentpool.registry.states import (
    FileAccess,
    IsolationLevel,
    NetworkAccess,
    RequestStatus,
    SecurityLevel,
)
from balancing import queries
from balancing.explain import Explanation
from balancing.services.heartbeats import Kept


def request_json(request: Request, lease: Lease | None, *, at: datetime) -> dict[str, Any]:
    """Return a request; `lease` is its newest one, shown while it lives or as its end."""
    waiting = request.status == RequestStatus.WAITING
    return {
        "id": str(request.id),
        "agent_type": request.agent_type,
        "project": request.project,
        "cycle_id": request.cycle_id,
        "phase": request.phase,
        "story_type": request.story_type,
        "tags": request.tags,
        "paths": request.paths,
        "priority": request.priority,
        "strategy": request.strategy,
        "requirements": _requirements_json(request),
        "preferred_agent": request.preferred_agent,
        "affinity": request.affinity,
        "avoid_agents": request.avoid_agents,
        "lock_keys": request.lock_keys,
        "status": request.status,
        "reason": request.reason,
        "attempts": request.attempts,
        "unsatisfiable": request.unsatisfiable,
        "urgent_at": request.urgent_at,
        "not_before": request.not_before,
        "outcome": request.outcome,
        "error": request.error,
        "result": request.result,
        "lease": lease_json(lease) if lease and not waiting else None,
        "created_at": request.created_at,
        "granted_at": request.granted_at,
        "finished_at": request.finished_at,
        "expires_at": request.expires_at,
        "waited_s": round(
            ((at if waiting else _answered_at(request, at)) - request.queued_at).total_seconds(),
            3,
        ),
    }


def explanation_json(found: Explanation) -> dict[str, Any]:
    """Return why a request got its agent, or why it waits."""
    nearest = found.nearest
    return {
        "request_id": str(found.request.id),
        "status": found.request.status,
        "code": found.code,
        "reason": found.reason,
        "filters": [vars(each) for each in found.filters],
        "candidates": list(found.candidates),
        "chosen": found.chosen,
        "runner_up": found.runner_up,
        "position": found.position,
        "expected_wait_s": found.expected_wait_s,
        "nearest": nearest
        and {
            "agent": nearest.who,
            "lacks": [{"name": one.name, "message": one.sentence} for one in nearest.lacks],
        },
        "timeline": [vars(each) for each in found.timeline],
    }


def _answered_at(request: Request, at: datetime) -> datetime:
    return request.granted_at or request.finished_at or at


def _requirements_json(request: Request) -> dict[str, Any]:
    return {
        "memory_mb": request.memory_mb,
        "min_memory_mb": request.min_memory_mb,
        "cpu_cores": float(request.cpu_cores),
        "min_cpu_cores": float(request.min_cpu_cores),
        "token_budget": request.token_budget,
        "disk_space_mb": request.disk_space_mb,
        "network_access": request.network_access,
        "special_tools": request.special_tools,
        "capabilities": request.capabilities,
        "labels": request.labels,
        "rules": request.rules,
        "preferences": request.preferences,
        "security_level": SecurityLevel(request.security_level).name.lower(),
        "isolation_level": IsolationLevel(request.isolation_level).name.lower(),
    }


def limit_json(limit: ResourceLimit, used: queries.Amounts) -> dict[str, Any]:
    """
    Return a limit with what is used of it.

    free is below 0 while a limit that was lowered waits for leases to end; utilisation: the share,
    0-1, of the amount that is used most, null without amounts.
    """
    fields = [f.name for f in ResourceLimit._meta.fields if f.name not in _LIMIT_HIDDEN]
    given = {name: v for name in queries.AMOUNTS if (v := getattr(limit, name)) is not None}
    taken = {name: used.get(name, 0) for name in given}
    shares = [float(taken[name]) / float(most) for name, most in given.items() if most]
    return {
        "id": str(limit.id),
        **{name: _number(getattr(limit, name)) for name in fields},
        "used": _numbers(taken),
        "free": _numbers({name: most - taken[name] for name, most in given.items()}),
        "utilisation": round(max(shares), 4) if shares else None,
        "overdrawn": any(taken[name] > most for name, most in given.items()),
        "generation": limit.generation,
        "updated_at": limit.updated_at,
    }


_LIMIT_HIDDEN = frozenset({"id", "is_overdrawn", "reserved_for", "generation", "updated_at"})


def resources_json(found: queries.Resources) -> dict[str, Any]:
    """Return what there is, what is reserved of it, and the limits on it."""
    types = sorted({*found.totals, *(agent_type for agent_type, _ in found.used)})
    projects = sorted({project for _, project in found.used})
    return {
        "total": _all(found.totals.values(), "agents", "slots"),
        "used": _all(found.used.values(), "leases"),
        "by_type": [
            {
                "agent_type": name,
                "total": _all([found.totals.get(name, {})], "agents", "slots"),
                "used": _all((v for (t, _), v in found.used.items() if t == name), "leases"),
            }
            for name in types
        ],
        "by_project": [
            {
                "project": name,
                "used": _all((v for (_, p), v in found.used.items() if p == name), "leases"),
            }
            for name in projects
        ],
        "limits": [limit_json(limit, found.used_under(limit)) for limit in found.limits],
    }


def _all(rows: Iterable[queries.Amounts], *counts: str) -> dict[str, Any]:
    nothing = dict.fromkeys((*counts, *queries.AMOUNTS[:4]), 0)
    return _numbers({**nothing, **queries.summed(rows)})


def _numbers(amounts: queries.Amounts) -> dict[str, Any]:
    return {name: _number(value) for name, value in amounts.items()}


def _number(value: Any) -> Any:
    return float(value) if isinstance(value, Decimal) else value


def lease_json(lease: Lease) -> dict[str, Any]:
    """Return a lease."""
    return {
        "id": str(lease.id),
        "request_id": str(lease.request_id),
        "agent": {"agent_id": lease.agent.agent_id, "endpoint": lease.agent.endpoint},
        "agent_type": lease.agent_type,
        "project": lease.project,
        "cycle_id": lease.cycle_id,
        "phase": lease.phase,
        "attempt": lease.attempt,
        "status": lease.status,
        "fencing_token": lease.fencing_token,
        "grant": {
            "memory_mb": lease.memory_mb,
            "cpu_cores": float(lease.cpu_cores),
            "token_budget": lease.token_budget,
            "disk_space_mb": lease.disk_space_mb,
            "network_bandwidth_mbps": lease.network_bandwidth_mbps,
            "network": NetworkAccess(lease.network).name.lower(),
        },
        "usage": {
            "memory_mb": lease.measured_memory_mb,
            "peak_memory_mb": lease.peak_memory_mb,
            "cpu_cores": lease.measured_cpu_cores,
            "cpu_seconds": lease.cpu_seconds,
            "disk_space_mb": lease.measured_disk_space_mb,
            "tokens_in": lease.tokens_in,
            "tokens_out": lease.tokens_out,
            "cost_usd": float(lease.cost_usd),
        },
        "progress": {
            "counter": lease.progress_counter,
            "phase": lease.progress_phase,
            "note": lease.progress_note,
            "at": lease.progress_at,
        },
        "offered_at": lease.offered_at,
        "acked_at": lease.acked_at,
        "acquired_at": lease.acquired_at,
        "expires_at": lease.expires_at,
        "hard_end_at": lease.hard_end_at,
        "released_at": lease.released_at,
        "waited_s": round(lease.waited_s, 3),
        "outcome": lease.outcome or None,
        "error": lease.error,
        "decision": lease.decision,
    }


def offer_json(lease: Lease) -> dict[str, Any]:
    """Return what an agent is asked to do: the lease, its payload, and the time to say yes."""
    return {
        **lease_json(lease),
        "payload": lease.request.payload,
        "requirements": _requirements_json(lease.request),
        "profile": _profile_json(lease),
        "pool_secrets": lease.pool.secrets,
        "ack_within_s": settings.OFFER_S,
    }


def _profile_json(lease: Lease) -> dict[str, Any]:
    """Return what the agent's type allows; resource ceilings are in the grant already."""
    profile = lease.pool.profile
    return {
        "version": profile.version,
        "allowed_tools": profile.allowed_tools,
        "network_access": NetworkAccess(profile.network_access).name.lower(),
        "file_access": FileAccess(profile.file_access).name.lower(),
        "allowed_hosts": profile.allowed_hosts,
        "writable": profile.writable,
    }


def isolation_json(row: LeaseIsolation | None) -> dict[str, Any] | None:
    """Return how a lease's work is isolated, None: nobody has reported it."""
    if row is None:
        return None
    return {
        "tier": row.tier,
        "enforced": row.enforced,
        "declared": row.declared,
        "policy": row.policy,
        "at": row.at,
    }


def kept_lease_json(lease: Kept) -> dict[str, Any]:
    """Return a lease as a heartbeat's answer names it."""
    return {
        "lease_id": str(lease.id),
        "fencing_token": lease.fencing_token,
        "status": lease.status,
        "expires_at": lease.expires_at,
        "expires_in_s": round(lease.expires_in_s, 3),
    }
