"""Leases: the right to use one slot of one agent until a time, with a fencing token."""

from django.db import models
from django.db.models import Q
from django.db.models.functions import Now

from agentpool.registry.identity import time_ordered
from agentpool.registry.models._columns import (
    NextVal,
    WrittenJSON,
    choices,
    cores,
    money,
    never_negative,
    values,
    words,
)
from agentpool.registry.models._of_pool import of_pool
from agentpool.registry.models.agent import Agent
from agentpool.registry.models.request import Request
from agentpool.registry.states import HOLDING, LIVE, LeaseStatus, NetworkAccess


class Lease(models.Model):
    """
    One slot of one agent, for one request, until `expires_at`, never past `hard_end_at`.

    `fencing_token` comes from one sequence that only grows: of two leases ever given out, the later
    has the larger token, so an outside resource can refuse the earlier holder.
    """

    id = models.UUIDField(primary_key=True, default=time_ordered, editable=False)
    fencing_token = models.BigIntegerField(
        unique=True, db_default=NextVal("lease_fencing_token_seq"), editable=False
    )
    # Its rows are written by the claim's functions only, beside the rows that these name: Postgres
    # need not look them up once more for each lease. `queries.broken_invariants` does.
    request = models.ForeignKey(
        Request,
        on_delete=models.CASCADE,
        related_name="leases",
        db_constraint=False,
        db_index=False,
    )
    agent = models.ForeignKey(
        Agent, on_delete=models.PROTECT, related_name="leases", db_constraint=False, db_index=False
    )
    incarnation = models.IntegerField()
    slot = models.SmallIntegerField()
    pool = of_pool(on_delete=models.PROTECT, db_constraint=False, db_index=False)
    project = models.TextField()
    cycle_id = models.TextField(blank=True, default="")
    phase = models.TextField(blank=True, default="")
    attempt = models.SmallIntegerField(default=1)

    status = models.TextField(choices=choices(LeaseStatus))
    memory_mb = models.IntegerField()
    cpu_cores = cores()
    token_budget = models.BigIntegerField()
    disk_space_mb = models.IntegerField()
    network_bandwidth_mbps = models.FloatField(default=10)
    network = models.SmallIntegerField(default=NetworkAccess.LIMITED.value)
    decision = WrittenJSON(default=dict, blank=True)

    offered_at = models.DateTimeField(null=True, blank=True)
    acked_at = models.DateTimeField(null=True, blank=True)
    acquired_at = models.DateTimeField(db_default=Now())
    expires_at = models.DateTimeField()
    hard_end_at = models.DateTimeField()
    released_at = models.DateTimeField(null=True, blank=True)
    waited_s = models.FloatField(default=0)
    # Since when it is parked, and for how long it was before: nobody works then, no slot is held.
    parked_at = models.DateTimeField(null=True, blank=True)
    parked_s = models.FloatField(null=True, blank=True)
    # Slot-seconds that the project's share was charged with at the grant; settled at the end.
    charged_s = models.FloatField(default=0)
    outcome = models.TextField(blank=True, default="")
    error = models.TextField(blank=True, default="")

    # What the agent reports: the newest values; peak of memory.
    progress_counter = models.BigIntegerField(default=0)
    progress_phase = models.TextField(blank=True, default="")
    progress_note = models.TextField(blank=True, default="")
    progress_at = models.DateTimeField(null=True, blank=True)
    measured_memory_mb = models.FloatField(default=0)
    peak_memory_mb = models.FloatField(default=0)
    measured_cpu_cores = models.FloatField(default=0)
    cpu_seconds = models.FloatField(default=0)
    measured_disk_space_mb = models.FloatField(default=0)
    tokens_in = models.BigIntegerField(default=0)
    tokens_out = models.BigIntegerField(default=0)
    cost_usd = money(default=0)

    class Meta:
        db_table = "lease"
        ordering = ["-fencing_token"]
        indexes = [
            # Every index is written at a grant, and those without a condition at the end again. So
            # there is none by cycle: its leases are found by its requests.
            # Affinity: who worked last on this project.
            models.Index(fields=["project", "pool", "-fencing_token"], name="lease_by_project"),
            models.Index(fields=["agent", "-fencing_token"], name="lease_of_agent"),
            # The reaper: live leases by the time that permits to end them.
            models.Index(
                fields=["expires_at"],
                name="lease_live_expiry",
                condition=Q(status__in=values(LIVE)),
            ),
        ]
        constraints = [
            never_negative("lease", "memory_mb", "cpu_cores", "token_budget", "disk_space_mb"),
            # Two leases never hold one slot of one agent.
            models.UniqueConstraint(
                fields=["agent", "slot"],
                name="lease_one_per_slot",
                condition=Q(status__in=values(HOLDING)),
            ),
            # A request has at most one live lease: no phase runs twice at once. For each attempt
            # there is one lease, and a request is tried again when the lease before has ended.
            models.UniqueConstraint(fields=["request", "attempt"], name="lease_one_per_attempt"),
            models.CheckConstraint(condition=Q(slot__gte=1), name="lease_slot_from_one"),
        ]

    def __str__(self) -> str:
        return f"lease {self.fencing_token} of {self.project} {self.cycle_id}".rstrip()

    @property
    def agent_type(self) -> str:
        """The pool's name, without a query."""
        return self.pool_id


class LockKey(models.Model):
    """A name (a repository and branch, say) that one live lease holds; the key is the row."""

    key = models.TextField(primary_key=True)
    lease = models.ForeignKey(Lease, on_delete=models.CASCADE, related_name="locks")

    class Meta:
        db_table = "lock_key"

    def __str__(self) -> str:
        return self.key


class LeaseOutcome(models.Model):
    """What one ended lease teaches; kept from the first day so that learning has a past."""

    lease = models.OneToOneField(
        Lease,
        on_delete=models.DO_NOTHING,  # it may outlive the lease
        primary_key=True,
        related_name="lesson",
        db_constraint=False,
    )
    agent = models.ForeignKey(
        Agent, on_delete=models.DO_NOTHING, db_constraint=False, db_index=False
    )
    pool = of_pool(on_delete=models.PROTECT, db_constraint=False, db_index=False)
    project = models.TextField()
    cycle_id = models.TextField(blank=True, default="")
    phase = models.TextField(blank=True, default="")
    story_type = models.TextField(blank=True, default="")
    tags = words()
    paths = words()
    attempt = models.SmallIntegerField(default=1)
    outcome = models.TextField()
    waited_s = models.FloatField()
    duration_s = models.FloatField()
    memory_mb = models.IntegerField()
    cpu_cores = cores()
    token_budget = models.BigIntegerField()
    peak_memory_mb = models.FloatField()
    cpu_seconds = models.FloatField()
    tokens_in = models.BigIntegerField()
    tokens_out = models.BigIntegerField()
    cost_usd = money()
    ended_at = models.DateTimeField()

    class Meta:
        db_table = "outcome"
        ordering = ["-ended_at"]
        indexes = [
            # An agent's are found by its leases.
            models.Index(fields=["pool", "-ended_at"], name="outcome_of_pool"),
        ]

    def __str__(self) -> str:
        return f"{self.outcome} after {self.duration_s:.1f} s"
