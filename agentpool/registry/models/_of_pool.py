"""The columns of tables whose rows belong to a pool."""

from typing import Any

from django.db import models

from agentpool.registry.models.pool import Pool


def of_pool(on_delete: Any = models.CASCADE, **options: Any) -> models.ForeignKey[Pool, Pool]:
    """Return a column for the pool that a row belongs to, by the pool's agent type."""
    return models.ForeignKey(
        Pool, on_delete, to_field="agent_type", db_column="agent_type", **options
    )


def one_a_pool(**options: Any) -> models.OneToOneField[Pool, Pool]:
    """Return a key for tables that have one row a pool."""
    return models.OneToOneField(
        Pool,
        models.CASCADE,
        primary_key=True,
        to_field="agent_type",
        db_column="agent_type",
        **options,
    )
