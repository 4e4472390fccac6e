"""What callers may ask of scaling, and how its history is shown."""

from typing import TYPE_CHECKING, Any

from rest_framework import serializers

from agentpool.registry.fields import Choice, Query, Strict, Text, Whole
from agentpool.registry.models import (
    SCALING_ACTIONS,
    TYPE_NAME,
    Announcement,
    Pool,
    ScalingDecision,
    ScalingEvent,
    ScalingPolicy,
)
from agentpool.registry.showing import pool_json
from scaling import governance, queries, standby
from scaling.policies import Mode, PolicyInvalid, Rule

if TYPE_CHECKING:
    from scaling.evaluation import Look


class Execute(Strict):
    """A change of a pool's size."""

    agent_type = Text(max_length=63, validators=[TYPE_NAME])
    action = Choice(SCALING_ACTIONS)
    count = Whole(max_value=10_000)
    reason = Text(required=False, allow_blank=True, default="", max_length=400)


class Policy(Strict):
    """A pool's policy; what is not said stays, a setting that is null goes back to its usual."""

    agent_type = Text(max_length=63, validators=[TYPE_NAME])
    rule = Choice(list(Rule), required=False)
    mode = Choice(list(Mode), required=False)
    settings = serializers.DictField(required=False)


class OfPool(Strict):
    """One pool; nothing: all of them."""

    agent_type = Text(max_length=63, validators=[TYPE_NAME], required=False)


class Announce(Strict):
    """Work to come."""

    agent_type = Text(max_length=63, validators=[TYPE_NAME])
    at = serializers.DateTimeField()
    count = Whole(min_value=1, max_value=1_000_000)
    spread_s = serializers.FloatField(min_value=0, max_value=86_400, required=False, default=60.0)
    name = Text(required=False, allow_blank=True, default="")


class HistoryQuery(Query):
    """Filters of the history."""

    agent_type = serializers.CharField(max_length=63, required=False)


def event_json(event: ScalingEvent) -> dict[str, Any]:
    """Return one change of size."""
    return {
        "id": str(event.id),
        "at": event.at,
        "agent_type": event.pool_id,
        "action": event.action,
        "current_size": event.current_size,
        "target_size": event.target_size,
        "woken": event.woken,
        "set_aside": event.set_aside,
        "cold": event.cold,
        "reason": event.reason,
        "actor": event.actor,
    }


def policy_json(row: ScalingPolicy, pool: Pool) -> dict[str, Any]:
    """
    Return one pool's policy: what was said, and what holds with the usual values.

    fault: why nothing holds, as after an upgrade that knows a setting no more; else "".
    """
    effective, fault = {}, ""
    try:
        policy = governance.policy_of(pool, row)
        effective = {name: _plain(getattr(policy, name)) for name in governance.SETTINGS}
    except PolicyInvalid as error:
        fault = str(error)
    return {
        "agent_type": pool.agent_type,
        "rule": row.rule,
        "mode": row.mode,
        "settings": row.settings,
        "effective": effective,
        "fault": fault,
        "min_size": pool.min_size,
        "max_size": pool.max_size,
        "generation": row.generation,
        "updated_at": row.updated_at if row.updated_by else None,
        "updated_by": row.updated_by,
        "pool": pool_json(pool),
    }


def look_json(look: "Look", growth: tuple[int, int]) -> dict[str, Any]:
    """
    Return what would be done about one pool now, and everything it rests on.

    growth: of the agents that were missing within `queries.GROWTH_OVER`, how many were woken, and
    how many had to be launched.
    """
    decision, (hits, misses) = look.decision, growth
    return {
        "agent_type": look.pool.agent_type,
        "rule": look.row.rule,
        "mode": look.row.mode,
        "action": decision.action,
        "current_size": decision.current,
        "target_size": decision.target,
        "wanted_size": decision.wanted,
        "reason": decision.reason,
        "bounds": list(decision.bounds),
        "standby": {
            "now": decision.inputs.get("standby", 0),
            "wanted": decision.plan.standby,
            "wake": decision.moves.wake,
            "set_aside": decision.moves.set_aside,
            "hits": hits,
            "misses": misses,
            "hit_share": standby.hit_share(hits=hits, misses=misses),
            "over_s": queries.GROWTH_OVER.total_seconds(),
        },
        "inputs": dict(decision.inputs),
        "alternatives": [
            {"rule": rule, "target_size": size, "reason": reason}
            for rule, size, reason in look.alternatives
        ],
        "forecast": look.forecast,
    }


def decision_json(row: ScalingDecision) -> dict[str, Any]:
    """Return one decision that was kept."""
    return {
        "id": str(row.id),
        "at": row.at,
        "agent_type": row.pool_id,
        "rule": row.rule,
        "mode": row.mode,
        "action": row.action,
        "current_size": row.current,
        "target_size": row.target,
        "wanted_size": row.wanted,
        "reason": row.reason,
        "bounds": row.bounds,
        "inputs": row.inputs,
        "forecast": row.forecast,
        "is_carried_out": row.is_carried_out,
        "error": row.error,
        "event": str(row.event_id) if row.event_id else None,
    }


def announcement_json(row: Announcement) -> dict[str, Any]:
    """Return one piece of announced work."""
    return {
        "id": str(row.id),
        "agent_type": row.pool_id,
        "at": row.at,
        "count": row.count,
        "spread_s": row.spread_s,
        "name": row.name,
        "announced_by": row.announced_by,
    }


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [str(each) for each in value]
    return value
