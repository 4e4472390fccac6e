"""Requests: somebody's wish for an agent, waiting or answered."""

from django.contrib.postgres.indexes import BrinIndex
from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Now

from agentpool.registry.identity import time_ordered
from agentpool.registry.models._columns import NextVal, choices, cores, never_negative, words
from agentpool.registry.models._of_pool import of_pool
from agentpool.registry.states import (
    IsolationLevel,
    RequestStatus,
    SecurityLevel,
)

AFFINITIES = ("none", "soft", "hard")


class Request(models.Model):
    """
    A wish for one agent: what it must be, for whom, how long it may wait, what it shall run.

    `number` is the order of arrival; `shape` a hash of all that decides whether an agent fits,
    so that thousands of equal waiting requests are judged once.
    """

    id = models.UUIDField(primary_key=True, default=time_ordered, editable=False)
    number = models.BigIntegerField(db_default=NextVal("request_number_seq"), editable=False)
    # No foreign key in the database: thousands of claims a second would lock the pool's row.
    pool = of_pool(on_delete=models.PROTECT, db_constraint=False, db_index=False)
    project = models.TextField()
    cycle_id = models.TextField(blank=True, default="")
    phase = models.TextField(blank=True, default="")
    story_type = models.TextField(blank=True, default="")
    tags = words()
    paths = words()
    priority = models.SmallIntegerField(default=50)

    memory_mb = models.IntegerField(default=1024)
    min_memory_mb = models.IntegerField(default=1024)
    cpu_cores = cores(default=1)
    min_cpu_cores = cores(default=1)
    token_budget = models.BigIntegerField(default=50_000)
    disk_space_mb = models.IntegerField(default=500)
    network_access = models.BooleanField(default=True)
    special_tools = words()
    capabilities = words()
    labels = models.JSONField(default=dict, blank=True)
    # Comparators beyond equality: required ones, and weighted wishes (balancing.fit.Rule).
    rules = models.JSONField(default=list, blank=True)
    preferences = models.JSONField(default=list, blank=True)
    security_level = models.SmallIntegerField(default=SecurityLevel.STANDARD.value)
    isolation_level = models.SmallIntegerField(default=IsolationLevel.PROCESS.value)
    shape = models.BigIntegerField(default=0, editable=False)

    strategy = models.TextField(blank=True, default="")
    preferred_agent = models.TextField(blank=True, default="")
    affinity = models.TextField(default="soft")
    avoid_agents = words()
    lock_keys = words()
    expected_duration_s = models.FloatField(null=True, blank=True)
    duration_limit_s = models.FloatField(default=14_400)
    allow_future = models.BooleanField(default=False)
    payload = models.JSONField(null=True, blank=True)

    status = models.TextField(default=RequestStatus.WAITING.value, choices=choices(RequestStatus))
    reason = models.TextField(blank=True, default="")
    # Of the reason to wait (balancing.explain); empty: not looked at yet, or it waits no more.
    reason_code = models.TextField(blank=True, default="")
    attempts = models.SmallIntegerField(default=0)
    not_before = models.DateTimeField(null=True, blank=True)
    # Somebody waited in vain for it: scaling hurries.
    urgent_at = models.DateTimeField(null=True, blank=True)
    # Nobody can serve it today; it waits for an agent that does not exist yet (allow_future).
    unsatisfiable = models.BooleanField(default=False)
    # The agent that is kept for it, after others passed it too often.
    reserved_agent = models.UUIDField(null=True, editable=False)
    outcome = models.TextField(blank=True, default="")
    error = models.TextField(blank=True, default="")
    result = models.JSONField(null=True, blank=True)
    ttl_s = models.FloatField(default=300)
    requested_by = models.TextField(blank=True, default="")
    created_at = models.DateTimeField(db_default=Now(), editable=False)
    # When it last began to wait: its arrival, or the moment its last lease was lost.
    queued_at = models.DateTimeField(db_default=Now(), editable=False)
    expires_at = models.DateTimeField()
    granted_at = models.DateTimeField(null=True, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        db_table = "request"
        ordering = ["-number"]
        indexes = [
            # The queue in the order it is served, and the walk over the shapes that wait.
            models.Index(
                fields=["pool", "-priority", "number"],
                name="request_queue",
                condition=Q(status=RequestStatus.WAITING.value),
            ),
            models.Index(
                fields=["pool", "shape", "project", "priority", "number"],
                name="request_waiting_shapes",
                condition=Q(status=RequestStatus.WAITING.value),
            ),
            models.Index(
                fields=["pool", "project"],
                name="request_waiting_projects",
                condition=Q(status=RequestStatus.WAITING.value),
            ),
            models.Index(fields=["-number"], name="request_newest"),
            models.Index(fields=["project", "cycle_id"], name="request_by_cycle"),
            # Arrivals by time: demand, counted at arrival, the refused ones too.
            BrinIndex(fields=["created_at"], name="request_arrivals", pages_per_range=16),
        ]
        constraints = [
            never_negative("request", "memory_mb", "cpu_cores", "token_budget", "disk_space_mb"),
            models.CheckConstraint(
                condition=Q(priority__lte=100), name="request_priority_0_to_100"
            ),
            models.CheckConstraint(
                condition=Q(min_memory_mb__lte=F("memory_mb"), min_cpu_cores__lte=F("cpu_cores")),
                name="request_minima_in_order",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.pool_id} for {self.project} {self.cycle_id} {self.phase}".rstrip()

    @property
    def agent_type(self) -> str:
        """The pool's name, without a query."""
        return self.pool_id
