"""How agents, pools, tokens, events and logs are shown, by every door alike."""

from datetime import datetime
from typing import Any
from uuid import UUID

from agentpool.registry import queries
from agentpool.registry.models import Agent, Credential, Event, LogChunk, Pool, SecurityProfile
from agentpool.registry.states import (
    PLACEABLE_HEALTH,
    PLACEABLE_STATUS,
    AgentStatus,
    FileAccess,
    IsolationLevel,
    NetworkAccess,
    SecurityLevel,
)


def agents_json(agents: list[Agent]) -> list[dict[str, Any]]:
    """Return agents as JSON, with performance, in one query more for any number of them."""
    performance = queries.performance([agent.id for agent in agents])
    at = queries.now()
    return [_agent_json(agent, at, performance.get(agent.id)) for agent in agents]


def agent_json(agent: Agent) -> dict[str, Any]:
    """Return one agent as JSON."""
    return agents_json([agent])[0]


def _agent_json(agent: Agent, at: datetime, performance: Any) -> dict[str, Any]:
    live = agent.live_leases if hasattr(agent, "live_leases") else []
    heard = agent.liveness.last_heartbeat_at if hasattr(agent, "liveness") else None
    projects = list(dict.fromkeys(lease.project for lease in live))
    free = agent.load < agent.max_concurrent
    return {
        "id": str(agent.id),
        "agent_id": agent.agent_id,
        "agent_type": agent.agent_type,
        "name": agent.name,
        "status": agent.status,
        "status_reason": agent.status_reason,
        "drain_by": agent.drain_by if agent.status == AgentStatus.DRAINING else None,
        "health": agent.health,
        "health_note": agent.health_note,
        "health_until": agent.health_until,
        "schedulable": (
            agent.status in PLACEABLE_STATUS and agent.health in PLACEABLE_HEALTH and free
        ),
        "current_project": projects[0] if projects else None,
        "projects": projects,
        "capabilities": agent.capabilities,
        "tools": agent.tools,
        "labels": agent.labels,
        "max_concurrent": agent.max_concurrent,
        "active_leases": len(live),
        "load": agent.load,
        "memory_mb": agent.memory_mb,
        "cpu_cores": float(agent.cpu_cores),
        "token_budget": agent.token_budget,
        "disk_space_mb": agent.disk_space_mb,
        "used": {
            "memory_mb": agent.used_memory_mb,
            "cpu_cores": float(agent.used_cpu_cores),
            "token_budget": agent.used_token_budget,
            "disk_space_mb": agent.used_disk_space_mb,
        },
        "security_level": SecurityLevel(agent.security_level).name.lower(),
        "isolation_levels": [IsolationLevel(v).name.lower() for v in agent.isolation_levels],
        "provider": agent.provider,
        "endpoint": agent.endpoint,
        "host": agent.host,
        "version": agent.version,
        "incarnation": agent.incarnation,
        "last_heartbeat_at": heard,
        "heartbeat_age_s": round((at - heard).total_seconds(), 3) if heard else None,
        "performance": performance
        or {
            "leases": 0,
            "success_rate": None,
            "mean_s": None,
            "p95_s": None,
            "tokens": 0,
        },
        "created_at": agent.created_at,
        "updated_at": agent.updated_at,
        "generation": agent.generation,
    }


def pool_json(pool: Pool) -> dict[str, Any]:
    """Return a pool with its launch template."""
    template = pool.launch_template
    return {
        "id": str(pool.id),
        "agent_type": pool.agent_type,
        "description": pool.description,
        "min_size": pool.min_size,
        "max_size": pool.max_size,
        "template": {
            **template,
            "cpu_cores": float(pool.cpu_cores),
            "security_level": SecurityLevel(pool.security_level).name.lower(),
            "isolation_levels": [IsolationLevel(v).name.lower() for v in pool.isolation_levels],
            "driver": pool.driver,
            "driver_resources": pool.driver_resources,
            "exec": pool.exec,
            "secrets": pool.secrets,
        },
        "strategy": pool.strategy,
        "affinity_half_life_s": pool.affinity_half_life_s,
        "share_half_life_s": pool.share_half_life_s,
        "reserve_after_s": pool.reserve_after_s,
        "max_bypass": pool.max_bypass,
        "queue_limit": pool.queue_limit,
        "project_queue_limit": pool.project_queue_limit,
        "suspicion_probation": pool.suspicion_probation,
        "suspicion_quarantine": pool.suspicion_quarantine,
        "quarantine_s": pool.quarantine_s,
        "mean_service_s": round(pool.mean_service_s, 3),
        "generation": pool.generation,
        "created_at": pool.created_at,
        "updated_at": pool.updated_at,
    }


def profile_json(profile: SecurityProfile) -> dict[str, Any]:
    """Return a security profile."""
    return {
        "agent_type": profile.pk,
        "allowed_tools": profile.allowed_tools,
        "network_access": NetworkAccess(profile.network_access).name.lower(),
        "file_access": FileAccess(profile.file_access).name.lower(),
        "resource_limits": {
            "memory_mb": profile.memory_mb,
            "cpu_cores": float(profile.cpu_cores),
        },
        "allowed_hosts": profile.allowed_hosts,
        "writable": profile.writable,
        "quarantine_after": profile.quarantine_after,
        "version": profile.version,
        "updated_at": profile.updated_at,
    }


def credential_json(credential: Credential, *, secret: str | None = None) -> dict[str, Any]:
    """Return a token; its secret only when it was just made."""
    shown = {
        "id": str(credential.id),
        "scope": credential.scope,
        "name": credential.name,
        "hint": credential.hint,
        "agent_type": credential.pool_id,
        "uses_left": credential.uses_left,
        "created_at": credential.created_at,
        "created_by": credential.created_by,
        "expires_at": credential.expires_at,
        "revoked_at": credential.revoked_at,
    }
    return {**shown, "token": secret} if secret else shown


def event_json(event: Event) -> dict[str, Any]:
    """Return an event as every stream carries it."""
    return {
        "seq": event.number.seq,
        "at": event.at.isoformat() if isinstance(event.at, datetime) else event.at,
        "kind": event.kind,
        "agent_type": event.agent_type,
        "agent_id": event.agent_id,
        "project": event.project,
        "request_id": _text(event.request_id),
        "lease_id": _text(event.lease_id),
        "actor": event.actor,
        "detail": event.detail,
    }


def chunk_json(chunk: LogChunk) -> dict[str, Any]:
    """Return some lines of a log."""
    return {"seq": chunk.id, "at": chunk.at, "stream": chunk.stream, "text": chunk.text}


def _text(value: UUID | None) -> str | None:
    return str(value) if value else None
