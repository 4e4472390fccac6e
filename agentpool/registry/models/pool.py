"""Pools: the agents of one type, and what a new agent of it would be."""

import uuid
from typing import Any

from django.contrib.postgres.fields import ArrayField
from django.core.validators import RegexValidator
from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Now

from agentpool.registry.models._columns import (
    choices,
    cores,
    never_negative,
    one_of,
    words,
)
from agentpool.registry.states import IsolationLevel, SecurityLevel, Strategy

TYPE_NAME = RegexValidator(
    r"^[a-z][a-z0-9_-]{0,62}\Z", "lower-case letters, digits, '-' and '_', at most 63."
)


def _process_only() -> list[int]:
    return [int(IsolationLevel.PROCESS)]


class Pool(models.Model):
    """The agents of one type with their policy and launch template."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    agent_type = models.TextField(unique=True, validators=[TYPE_NAME])
    description = models.TextField(blank=True, default="")
    min_size = models.PositiveIntegerField(default=0)
    max_size = models.PositiveIntegerField(default=20)

    # The launch template: what a new agent of this pool would be (the seed's _create_agent).
    memory_mb = models.PositiveIntegerField(default=1024)
    cpu_cores = cores(default=1)
    token_budget = models.PositiveBigIntegerField(default=50_000)
    disk_space_mb = models.PositiveIntegerField(default=500)
    tools = words()
    capabilities = words()
    security_level = models.PositiveSmallIntegerField(
        choices=choices(SecurityLevel), default=SecurityLevel.STANDARD.value
    )
    isolation_levels = ArrayField(models.PositiveSmallIntegerField(), default=_process_only)
    max_concurrent = models.PositiveSmallIntegerField(default=1)
    driver = models.TextField(default="local")
    # What an agent takes of the driver's own kinds of resources: NAME=AMOUNT each.
    driver_resources = words()
    exec = models.TextField(blank=True, default="")
    secrets = words()

    # How work is placed; a request may name another strategy.
    strategy = models.TextField(default=Strategy.WORKLOAD_AWARE.value, choices=choices(Strategy))
    # An agent's memory of a cycle or project is worth half after this long.
    affinity_half_life_s = models.FloatField(default=300)

    # The queue: how long a project's past use counts against it, how long the first in line may be
    # passed (seconds, and grants to later ones) before capacity is kept for it, how many may wait.
    share_half_life_s = models.FloatField(default=3600)
    reserve_after_s = models.FloatField(default=60)
    max_bypass = models.PositiveIntegerField(default=100)
    queue_limit = models.PositiveIntegerField(default=20_000)
    project_queue_limit = models.PositiveIntegerField(default=20_000)
    # How suspicious (balancing.trust) an agent must be to work on probation, one lease at a time;
    # and there, to be quarantined, for how long. Null: never.
    suspicion_probation = models.FloatField(null=True, blank=True, default=5)
    suspicion_quarantine = models.FloatField(null=True, blank=True, default=9)
    quarantine_s = models.FloatField(default=3600)
    # Mean seconds of its newest leases, measured: what a grant is charged with until it ends.
    mean_service_s = models.FloatField(default=60, editable=False)

    generation = models.PositiveIntegerField(default=1)
    created_at = models.DateTimeField(db_default=Now(), editable=False)
    updated_at = models.DateTimeField(db_default=Now(), editable=False)

    class Meta:
        db_table = "pool"
        ordering = ["agent_type"]
        constraints = [
            one_of("pool", "security_level", SecurityLevel),
            never_negative("pool", "memory_mb", "cpu_cores", "token_budget", "disk_space_mb"),
            models.CheckConstraint(
                condition=Q(min_size__lte=F("max_size")), name="pool_sizes_in_order"
            ),
            models.CheckConstraint(
                condition=Q(max_concurrent__gte=1), name="pool_max_concurrent_positive"
            ),
            one_of("pool", "strategy", Strategy),
            models.CheckConstraint(
                condition=Q(affinity_half_life_s__gt=0, share_half_life_s__gt=0),
                name="pool_half_lives_positive",
            ),
        ]

    def __str__(self) -> str:
        return self.agent_type

    @property
    def launch_template(self) -> dict[str, Any]:
        """The columns that a new agent of this pool has unless it says otherwise."""
        names = (
            "memory_mb cpu_cores token_budget disk_space_mb tools capabilities security_level"
            " isolation_levels max_concurrent"
        )
        return {name: getattr(self, name) for name in names.split()}
