"""Agents: registered workers, what they can, and what of them is taken."""

import uuid

from django.contrib.postgres.fields import ArrayField
from django.core.validators import RegexValidator
from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Now

from agentpool.registry.models._columns import choices, cores, never_negative, values, words
from agentpool.registry.models._of_pool import of_pool
from agentpool.registry.models.pool import _process_only
from agentpool.registry.states import (
    PLACEABLE_HEALTH,
    PLACEABLE_STATUS,
    AgentHealth,
    AgentStatus,
    AgentWish,
    SecurityLevel,
)

AGENT_ID = RegexValidator(
    r"^[A-Za-z0-9._:-]{1,128}\Z", "1 to 128 of letters, digits, '.', '_', ':' and '-'."
)


class CapabilityClass(models.Model):
    """
    All that is the same in agents with the same static profile.

    A pool of 100,000 agents has some hundred classes, so "could anybody ever serve this?" is asked
    of them. Rows are made by the trigger `agent_class_1`; only their count changes.
    """

    id = models.BigAutoField(primary_key=True)
    agent_type = models.TextField()
    memory_mb = models.PositiveIntegerField()
    cpu_cores = cores()
    token_budget = models.PositiveBigIntegerField()
    disk_space_mb = models.PositiveIntegerField()
    security_level = models.PositiveSmallIntegerField()
    isolation_levels = ArrayField(models.PositiveSmallIntegerField())
    tools = words()
    capabilities = words()
    labels = models.JSONField(default=dict)
    # Of all of the above: md5, so that equal profiles meet in one row.
    digest = models.TextField()
    # Those neither lost nor retired; kept by the trigger `agent_counted_1`.
    agents = models.PositiveIntegerField(default=0, db_default=0)

    class Meta:
        db_table = "capability_class"
        verbose_name_plural = "capability classes"
        # In the order in which a claim asks them: those of many agents can do what most want.
        indexes = [
            models.Index("agent_type", models.F("agents").desc(), name="capability_class_order")
        ]
        constraints = [
            models.UniqueConstraint(fields=["digest"], name="capability_class_one_each"),
        ]

    def __str__(self) -> str:
        return f"class {self.pk} of {self.agent_type}"


class Agent(models.Model):
    """
    A registered worker with slots.

    `load` and the `used_*` columns are what its holding leases (offered, active) reserve; they
    change in the same SQL function as the lease rows, and `queries.broken_invariants` compares.
    Heartbeats are kept in `Liveness`: updating this row for each would make a claim that skips
    locked rows believe that the pool is empty.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    agent_id = models.TextField(validators=[AGENT_ID])
    pool = of_pool(on_delete=models.PROTECT, db_index=False)
    name = models.TextField(blank=True, default="")
    status = models.TextField(default=AgentStatus.IDLE.value, choices=choices(AgentStatus))
    status_reason = models.TextField(blank=True, default="")
    # What somebody asked of it last; survives a time of being unreachable.
    wish = models.TextField(default=AgentWish.WORK.value, choices=choices(AgentWish))
    retire_when_drained = models.BooleanField(default=False)
    # What still runs on it then is cancelled; null: it may take as long as it takes.
    drain_by = models.DateTimeField(null=True, blank=True)
    health = models.TextField(default=AgentHealth.UNKNOWN.value, choices=choices(AgentHealth))
    health_note = models.TextField(blank=True, default="")
    health_by = models.TextField(blank=True, default="")
    health_until = models.DateTimeField(null=True, blank=True)

    capabilities = words()
    tools = words()
    labels = models.JSONField(default=dict, blank=True)
    max_concurrent = models.SmallIntegerField(default=1)
    memory_mb = models.IntegerField(default=1024)
    cpu_cores = cores(default=1)
    token_budget = models.BigIntegerField(default=50_000)
    disk_space_mb = models.IntegerField(default=500)
    security_level = models.SmallIntegerField(
        choices=choices(SecurityLevel), default=SecurityLevel.STANDARD.value
    )
    isolation_levels = ArrayField(models.SmallIntegerField(), default=_process_only)
    provider = models.TextField(blank=True, default="")
    endpoint = models.TextField(blank=True, default="")
    version = models.TextField(blank=True, default="")
    host = models.TextField(blank=True, default="")

    # Set by the trigger agent_class_1 from the columns above.
    capability_class = models.ForeignKey(
        CapabilityClass,
        on_delete=models.PROTECT,
        db_column="capability_class",
        db_index=False,
        null=True,
        editable=False,
    )
    generality = models.SmallIntegerField(default=0, editable=False)
    # Kept for one waiting request that others have passed too often; nobody else is placed here.
    reserved_for = models.UUIDField(null=True, editable=False)
    # Fencing token of its newest lease: whose turn it is.
    last_token = models.BigIntegerField(default=0, editable=False)

    load = models.SmallIntegerField(default=0, editable=False)
    used_memory_mb = models.IntegerField(default=0, editable=False)
    used_cpu_cores = cores(default=0, editable=False)
    used_token_budget = models.BigIntegerField(default=0, editable=False)
    used_disk_space_mb = models.IntegerField(default=0, editable=False)

    incarnation = models.IntegerField(default=1, editable=False)
    generation = models.IntegerField(default=1, editable=False)
    created_at = models.DateTimeField(db_default=Now(), editable=False)
    updated_at = models.DateTimeField(db_default=Now(), editable=False)

    class Meta:
        db_table = "agent"
        ordering = ["-created_at", "id"]
        # What decides who is an operator, on pages and in REST (agentpool/registry/roles.py).
        permissions = [("operate", "Can act on the fleet and change its configuration")]
        indexes = [
            # balancing/sql: the claim's walk from the least loaded agent upwards.
            models.Index(
                fields=["pool", "load", "generality"],
                name="agent_placeable",
                condition=Q(
                    status__in=values(PLACEABLE_STATUS),
                    health__in=values(PLACEABLE_HEALTH),
                    load__lt=F("max_concurrent"),
                ),
            ),
            # The same by capability class, for requests that few can serve.
            models.Index(
                fields=["capability_class", "load"],
                name="agent_placeable_class",
                condition=Q(
                    status__in=values(PLACEABLE_STATUS),
                    health__in=values(PLACEABLE_HEALTH),
                    load__lt=F("max_concurrent"),
                ),
            ),
            # None for the order of the list: each claim writes an agent into all of these anew, and
            # to sort 100,000 for a page takes 40 ms.
            models.Index(
                fields=["reserved_for"],
                name="agent_reserved",
                condition=Q(reserved_for__isnull=False),
            ),
        ]
        constraints = [
            # As a constraint: the field's own option would add an index for LIKE.
            models.UniqueConstraint(fields=["agent_id"], name="agent_agent_id_unique"),
            never_negative(
                "agent", "used_memory_mb", "used_cpu_cores", "used_token_budget", "load"
            ),
            models.CheckConstraint(
                condition=Q(max_concurrent__gte=1, load__lte=F("max_concurrent")),
                name="agent_load_within_slots",
            ),
            models.CheckConstraint(
                condition=Q(
                    used_memory_mb__lte=F("memory_mb"),
                    used_cpu_cores__lte=F("cpu_cores"),
                    used_token_budget__lte=F("token_budget"),
                    used_disk_space_mb__lte=F("disk_space_mb"),
                ),
                name="agent_use_within_capacity",
            ),
            models.CheckConstraint(
                condition=~Q(status=AgentStatus.IDLE.value, load__gt=0)
                & ~Q(status=AgentStatus.BUSY.value, load=0),
                name="agent_busy_means_load",
            ),
            models.CheckConstraint(
                condition=~Q(
                    status__in=[AgentStatus.LOST.value, AgentStatus.RETIRED.value],
                    load__gt=0,
                ),
                name="agent_gone_holds_nothing",
            ),
        ]

    def __str__(self) -> str:
        return self.agent_id

    @property
    def agent_type(self) -> str:
        """The pool's name, without a query."""
        return self.pool_id
