"""Narrows the list of agents to what a caller wants to see."""

import json
from collections.abc import Mapping
from contextlib import suppress
from math import isfinite
from typing import Any

from django.db.models import Q, QuerySet

from agentpool.registry import queries
from agentpool.registry.models import Agent
from agentpool.registry.states import LIVE


def agents(query: Mapping[str, Any]) -> QuerySet[Agent]:
    """Return the agents that checked parameters (`serializers.AgentQuery`) leave."""
    rows = queries.agents()
    plain = {"agent_type": "pool", "status": "status", "health": "health"}
    for name, column in plain.items():
        if name in query:
            rows = rows.filter(**{column: query[name]})
    if "project" in query:
        rows = rows.filter(leases__project=query["project"], leases__status__in=LIVE).distinct()
    if "capability" in query:
        rows = rows.filter(capabilities__contains=[query["capability"]])
    if "label" in query:
        rows = rows.filter(_label(query["label"]))
    if "search" in query:
        text = query["search"]
        rows = rows.filter(
            Q(agent_id__icontains=text) | Q(name__icontains=text) | Q(host__icontains=text)
        )
    return rows


def ordering(query: Mapping[str, Any]) -> tuple[str, str]:
    """Return the order that is asked for, the newest first by default, as columns."""
    return (query.get("ordering") or "-created_at").replace("agent_type", "pool"), "id"


def _label(said: str) -> Q:
    """Return what NAME or NAME=VALUE asks of labels; a value may stand for a number or boolean."""
    name, equals, value = said.partition("=")
    if not equals:
        return Q(labels__has_key=name)
    # By what labels contain: as a lookup a name could be an index, or say how to compare.
    found = Q(labels__contains={name: value})
    with suppress(ValueError):
        plain = json.loads(value)
        if isinstance(plain, int | float) and isfinite(plain):
            found |= Q(labels__contains={name: plain})
    return found
