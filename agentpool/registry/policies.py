"""A pool's policy that is a mode and some rules: reads it, and changes it as a whole."""

from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

from django.db import models, transaction

from agentpool.registry import events, queries
from agentpool.registry.errors import Invalid
from agentpool.registry.models import MODES, Pool

P = TypeVar("P", bound=models.Model)


def policies(table: type[P], agent_types: Collection[str] | None = None) -> list[P]:
    """Return the policies of some pools, all by default; an unsaved one where there is none."""
    pools = Pool.objects.order_by("agent_type")
    if agent_types is not None:
        pools = pools.filter(agent_type__in=agent_types)
    kept = table._default_manager.in_bulk([pool.agent_type for pool in pools])
    return [kept.get(pool.agent_type) or table(pool=pool) for pool in pools]


@transaction.atomic
def change(
    table: type[P],
    agent_type: str,
    *,
    check: Callable[[Mapping[str, Any]], object],
    event: str,
    actor: str,
    mode: str | None = None,
    settings: Mapping[str, Any] | None = None,
    note: str = "",
) -> P:
    """
    Change a pool's mode and rules; what is not given stays, a setting that is None goes back.

    check: raises ValueError when the settings make no rules. Locks the row. Raises: Invalid, naming
    what is wrong; NotFound.
    """
    pool = queries.pool(agent_type)
    table._default_manager.get_or_create(pool=pool)
    row: Any = table._default_manager.select_for_update().get(pool=pool)
    merged = {**row.settings, **(settings or {})}
    row.mode = mode or row.mode
    row.settings = {name: value for name, value in merged.items() if value is not None}
    try:
        check(row.settings)
        if row.mode not in MODES:
            raise ValueError(f"mode: one of {', '.join(MODES)}.")
    except ValueError as error:
        raise Invalid(str(error), errors=[("settings", str(error))]) from error
    row.updated_by, row.updated_at = actor, queries.now()
    row.save(update_fields=["mode", "settings", "updated_by", "updated_at"])
    told = {"mode": row.mode, "settings": row.settings, "note": note}
    events.append(event, agent_type=agent_type, actor=actor, **told)
    changed: P = row
    return changed
