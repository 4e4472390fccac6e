"""Resource limits: how much an installation, a pool or a project may hold at once, and in all."""

from __future__ import annotations

import uuid
from typing import Any

from django.db import models
from django.db.models import Q
from django.db.models.functions import Now

from agentpool.registry.models._columns import choices, cores, one_of
from agentpool.registry.states import LimitLevel


def _amount() -> models.PositiveBigIntegerField[Any, Any]:
    return models.PositiveBigIntegerField(null=True, blank=True)


class ResourceLimit(models.Model):
    """
    The most that live leases may reserve together, and each by itself; null: no such limit.

    Exact at any concurrency: what is free stands in `LimitShard` rows, which grants take from. Rows
    are written by `limit_set_1` only, which builds the shards anew from the live leases.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    level = models.TextField(choices=choices(LimitLevel))
    # The pool's agent_type or the project; empty for the installation.
    name = models.TextField(blank=True, default="")

    memory_mb = _amount()
    cpu_cores = cores(null=True, blank=True)
    token_budget = _amount()
    disk_space_mb = _amount()
    network_bandwidth_mbps = models.FloatField(null=True, blank=True)

    # For one lease: a larger ask can never be served; a smaller minimum is raised to the least.
    max_memory_mb = _amount()
    max_cpu_cores = cores(null=True, blank=True)
    max_token_budget = _amount()
    max_disk_space_mb = _amount()
    min_memory_mb = _amount()
    min_cpu_cores = cores(null=True, blank=True)

    # Fair share: a project of weight 2 gets twice the slots of one of weight 1, while both wait.
    weight = models.FloatField(default=1)

    # Lowered below what is in use: every grant looks at all shards until enough has come back.
    is_overdrawn = models.BooleanField(default=False, editable=False)
    # Kept for one waiting request that others have passed too often.
    reserved_for = models.UUIDField(null=True, editable=False)
    generation = models.PositiveIntegerField(default=1, editable=False)
    updated_at = models.DateTimeField(db_default=Now(), editable=False)

    class Meta:
        db_table = "resource_limit"
        ordering = ["level", "name"]
        constraints = [
            one_of("resource_limit", "level", LimitLevel),
            models.UniqueConstraint(fields=["level", "name"], name="resource_limit_one_each"),
            models.CheckConstraint(
                condition=Q(level=LimitLevel.INSTALLATION.value, name="")
                | (~Q(level=LimitLevel.INSTALLATION.value) & ~Q(name="")),
                name="resource_limit_named",
            ),
            models.CheckConstraint(condition=Q(weight__gt=0), name="resource_limit_weight"),
        ]

    def __str__(self) -> str:
        return f"{self.level} {self.name}".rstrip()


class LimitShard(models.Model):
    """
    A part of what is free under one limit (null: that amount has none).

    A grant takes from one shard that nobody else has locked; what comes back goes to any. So
    thousands of grants a second do not queue for one row (docs/decisions/0011).
    """

    id = models.BigAutoField(primary_key=True)
    resource_limit = models.ForeignKey(ResourceLimit, on_delete=models.CASCADE, db_constraint=False)
    memory_mb = models.BigIntegerField(null=True)
    cpu_cores = cores(null=True)
    token_budget = models.BigIntegerField(null=True)
    disk_space_mb = models.BigIntegerField(null=True)
    network_bandwidth_mbps = models.FloatField(null=True)

    class Meta:
        db_table = "limit_shard"

    def __str__(self) -> str:
        return f"shard {self.pk}"
