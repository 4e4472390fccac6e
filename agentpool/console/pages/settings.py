"""Settings: pools with launch template and policy, security profiles, tokens."""

from datetime import datetime
from typing import Any

from agentpool.console.page import Params, Picture
from agentpool.registry import queries as registry_queries
from agentpool.registry.models import Credential, Pool
from agentpool.registry.states import (
    FileAccess,
    IsolationLevel,
    NetworkAccess,
    Scope,
    SecurityLevel,
)

TOKENS_SHOWN = 100


def picture(params: Params) -> Picture:
    """Return what an operator may set."""
    at = registry_queries.now()
    pools = list(Pool.objects.select_related("profile").order_by("agent_type"))
    tokens = (
        Credential.objects.filter(revoked_at=None)
        .exclude(scope=Scope.AGENT)
        .exclude(uses_left=0)  # each launch leaves one
        .order_by("-created_at")
    )
    return {
        "now": at,
        "pools": [_pool(pool) for pool in pools],
        "profiles": [_profile(pool) for pool in pools],
        "tokens": [_token(row, at) for row in tokens[:TOKENS_SHOWN]],
        "tokens_hidden": max(0, tokens.count() - TOKENS_SHOWN),
    }


def _pool(pool: Pool) -> dict[str, Any]:
    return {
        "agent_type": pool.agent_type,
        "id": pool.id,
        "description": pool.description,
        "size": f"{pool.min_size} to {pool.max_size}",
        "strategy": pool.strategy,
        "driver": pool.driver,
        "slots": pool.max_concurrent,
        "memory_mb": pool.memory_mb,
        "cpu_cores": pool.cpu_cores,
        "token_budget": pool.token_budget,
        "disk_space_mb": pool.disk_space_mb,
        "security": SecurityLevel(pool.security_level).name.lower(),
        "isolation": ", ".join(
            IsolationLevel(level).name.lower().replace("_", " ") for level in pool.isolation_levels
        ),
        "capabilities": ", ".join(pool.capabilities),
        "reserve_after_s": pool.reserve_after_s,
        "max_bypass": pool.max_bypass,
        "share_half_life_s": pool.share_half_life_s,
        "affinity_half_life_s": pool.affinity_half_life_s,
        "generation": pool.generation,
    }


def _profile(pool: Pool) -> dict[str, Any]:
    profile = pool.profile
    return {
        "agent_type": pool.agent_type,
        "tools": ", ".join(profile.allowed_tools),
        "network": NetworkAccess(profile.network_access).name.lower().replace("_", " "),
        "files": FileAccess(profile.file_access).name.lower().replace("_", " "),
        "hosts": ", ".join(profile.allowed_hosts),
        "memory_mb": profile.memory_mb,
        "cpu_cores": profile.cpu_cores,
        "version": profile.version,
    }


def _token(row: Credential, at: datetime) -> dict[str, Any]:
    return {
        "id": row.id,
        "dom_id": str(row.id),
        "name": row.name,
        "scope": row.scope,
        "pool": row.pool_id or "",
        "hint": row.hint,
        "uses_left": row.uses_left,
        "is_spent": row.uses_left == 0,
        "created_at": row.created_at,
        "created_by": row.created_by.removeprefix("user:"),
        "expires_at": row.expires_at,
        "has_expired": row.expires_at is not None and row.expires_at < at,
    }
