"""
Who steers a pool, and how: its policy, its mode, and work that is announced ahead.

Each change is one transaction with its event.
"""

from collections.abc import Mapping
from dataclasses import fields
from datetime import datetime
from typing import Any

from django.db import transaction

from agentpool.registry import events
from agentpool.registry import queries as registry_queries
from agentpool.registry.errors import Invalid
from agentpool.registry.models import Announcement, Pool, ScalingPolicy
from scaling import policies
from scaling.policies import Mode, Policy, PolicyInvalid, Rule

# What a pool says itself, or what is not a setting.
_NOT_SET_HERE = frozenset({"rule", "mode", "min_size", "max_size", "overridden"})
SETTINGS = tuple(each.name for each in fields(Policy) if each.name not in _NOT_SET_HERE)


def row_of(pool: Pool) -> ScalingPolicy:
    """Return a pool's policy row, an unsaved one with the defaults where there is none yet."""
    found = ScalingPolicy.objects.filter(pool_id=pool.agent_type).first()
    return found or ScalingPolicy(pool=pool)


def policy_of(pool: Pool, row: ScalingPolicy) -> Policy:
    """Return the policy that holds for a pool; raises PolicyInvalid."""
    return policies.usual(
        Rule(row.rule),
        mode=Mode(row.mode),
        min_size=pool.min_size,
        max_size=pool.max_size,
        **policies.read_settings(row.settings),
    )


def edited(
    row: ScalingPolicy, *, rule: str | None = None, settings: Mapping[str, Any] | None = None
) -> ScalingPolicy:
    """
    Return the row, unsaved, as it would be with these changes; judged as a whole.

    Raises: Invalid, naming the field.
    """
    row.rule = rule or row.rule
    merged = {**row.settings, **(settings or {})}
    row.settings = {name: value for name, value in merged.items() if value is not None}
    _judge(row.pool, row)
    return row


@transaction.atomic
def set_policy(
    agent_type: str,
    *,
    actor: str,
    rule: str | None = None,
    mode: str | None = None,
    settings: Mapping[str, Any] | None = None,
    note: str = "",
) -> ScalingPolicy:
    """
    Change a pool's policy; what is not given stays, a setting that is None goes back to its usual.

    Judged as a whole, but for what is only switched off: that must work whatever is stored. Locks
    the pool. Raises: Invalid, naming the field; NotFound.
    """
    pool = _locked(agent_type)
    row = row_of(pool)
    is_new = row._state.adding
    row.pool = pool
    if mode is not None:
        row.mode = mode
        row.mode_before = mode if mode != Mode.OFF else row.mode_before
    if rule or settings or row.mode != Mode.OFF:
        edited(row, rule=rule, settings=settings)
    row.generation = 1 if is_new else row.generation + 1
    row.updated_by = actor
    row.updated_at = registry_queries.now()
    row.save(force_insert=is_new)
    events.append(
        "scaling.policy_changed",
        agent_type=agent_type,
        actor=actor,
        rule=row.rule,
        mode=row.mode,
        settings=row.settings,
        note=note,
    )
    return row


def start(agent_type: str | None, *, actor: str, note: str = "") -> list[ScalingPolicy]:
    """Switch scaling of one or all pools to what it was before it was stopped, at first to auto."""
    return [
        set_policy(pool.agent_type, mode=mode_at_start(row_of(pool)), actor=actor, note=note)
        for pool in _named(agent_type)
    ]


def stop(agent_type: str | None, *, actor: str, note: str = "") -> list[ScalingPolicy]:
    """Switch scaling of one or all pools off; their agents stay as they are."""
    return [
        set_policy(pool.agent_type, mode=Mode.OFF, actor=actor, note=note)
        for pool in _named(agent_type)
    ]


@transaction.atomic
def announce(
    agent_type: str,
    *,
    at: datetime,
    count: int,
    spread_s: float,
    name: str,
    actor: str,
    note: str = "",
) -> Announcement:
    """Take note of work to come, so that agents are there before it; raises NotFound."""
    pool = registry_queries.pool(agent_type)
    row = Announcement.objects.create(
        pool=pool, at=at, count=count, spread_s=spread_s, name=name, announced_by=actor
    )
    events.append(
        "scaling.announced",
        agent_type=agent_type,
        actor=actor,
        at=at.isoformat(),
        count=count,
        name=name,
        note=note,
    )
    return row


def mode_at_start(row: ScalingPolicy) -> str:
    """Return the mode that start brings: a pool that only recommended was never stopped."""
    return row.mode_before if row.mode == Mode.OFF else Mode.AUTO


def _named(agent_type: str | None) -> list[Pool]:
    if agent_type is not None:
        return [registry_queries.pool(agent_type)]
    return list(Pool.objects.order_by("agent_type"))


def _locked(agent_type: str) -> Pool:
    pool = registry_queries.pool(agent_type)
    return Pool.objects.select_for_update(no_key=True).get(id=pool.id)


def _judge(pool: Pool, row: ScalingPolicy) -> None:
    if unknown := sorted(set(row.settings) - set(SETTINGS)):
        raise Invalid(
            f"A policy has no setting {unknown[0]!r}; it has: {', '.join(SETTINGS)}.",
            errors=[(name, "Unknown setting.") for name in unknown],
        )
    try:
        policy_of(pool, row)
    except PolicyInvalid as error:
        raise Invalid(str(error), errors=[(error.field, error.message)]) from error
