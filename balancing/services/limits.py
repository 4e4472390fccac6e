"""Sets and removes resource limits; what that frees may be waited for, so queues are served."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.db import transaction

from agentpool.registry import events
from agentpool.registry import queries as registry_queries
from agentpool.registry.errors import InvalidField, NotFound, StaleVersion
from agentpool.registry.models import ResourceLimit
from agentpool.registry.states import LimitLevel
from balancing import claim, queries
from balancing.services.queue import serve_after_commit


@transaction.atomic
def set_limit(
    fields: Mapping[str, Any], *, actor: str, note: str = "", if_generation: int | None = None
) -> ResourceLimit:
    """
    Create or change, as a whole, the limit of a level and name; null amounts: no such limit.

    It may be below what is in use: then nothing is granted under it until enough has come back.
    Raises: InvalidField, the limit is of a pool that there is not.
    Locks the table of limits against every claim, for this transaction; it must hold no other lock.
    Raises: StaleVersion, the limit is not at `if_generation` any more.
    """
    if fields["level"] == LimitLevel.POOL:
        _known_pool(fields["name"])
    plain = {name: str(v) if isinstance(v, Decimal) else v for name, v in fields.items()}
    limit = claim.set_limit(plain)
    if if_generation is not None and limit.generation != if_generation + 1:
        # Looked at behind the lock; raising takes the change back.
        raise StaleVersion(f"The limit is at version {limit.generation - 1}, not {if_generation}.")
    events.append("limit.set", actor=actor, level=limit.level, name=limit.name, note=note)
    serve_after_commit(*queries.pools_with_waiters())
    return limit


@transaction.atomic
def remove_limit(
    limit_id: UUID, *, actor: str, note: str = "", if_generation: int | None = None
) -> None:
    """
    Remove a limit: what it bounded is bounded no more, and a project's weight is 1 again.

    Locks as `set_limit` does. Raises: NotFound; StaleVersion, it is not at `if_generation`.
    """
    limit = claim.remove_limit(limit_id, if_generation=if_generation)
    if limit is None:
        now = queries.limit(limit_id).generation
        raise StaleVersion(f"The limit is at version {now}, not {if_generation}.")
    events.append("limit.removed", actor=actor, level=limit.level, name=limit.name, note=note)
    serve_after_commit(*queries.pools_with_waiters())


def _known_pool(agent_type: str) -> None:
    try:
        registry_queries.pool(agent_type)
    except NotFound as error:
        raise InvalidField(error.detail, errors=[("name", error.detail)]) from error
