"""What callers may ask of scaling, and how its history is shown."""

from typing import Any

from rest_framework import serializers

from agentpool.registry.models import SCALING_ACTIONS, TYPE_NAME, ScalingEvent
from agentpool.registry.serializers import Query, Strict, Text, Whole


class Execute(Strict):
    """A change of a pool's size."""

    agent_type = Text(max_length=63, validators=[TYPE_NAME])
    action = serializers.ChoiceField(SCALING_ACTIONS)
    count = Whole(max_value=10_000)
    reason = Text(required=False, allow_blank=True, default="", max_length=400)


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
        "reason": event.reason,
        "actor": event.actor,
    }
