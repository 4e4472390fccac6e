"""Rebalancing: the policy of each pool, what is remembered of running leases, and each change."""

import uuid

from django.db import models
from django.db.models import Q
from django.db.models.functions import Now

from agentpool.registry.models._columns import words
from agentpool.registry.models._of_pool import of_pool, one_a_pool
from agentpool.registry.models.lease import Lease
from agentpool.registry.models.policy import PoolPolicy, legal_mode

REBALANCING_OPEN = ("proposed", "asked", "applied")
REBALANCING_STATUSES = (
    *REBALANCING_OPEN,
    *("kept", "undone", "refused", "withdrawn", "ended"),
)


class RebalancePolicy(PoolPolicy):
    """
    Whether the grants of a pool are changed by themselves, and by which rules.

    settings: the fields of `balancing.rebalancing.Rules` that differ from the usual ones. A pool
    without a row recommends.
    """

    pool = one_a_pool(related_name="rebalance_policy")

    class Meta:
        db_table = "rebalance_policy"
        verbose_name_plural = "rebalance policies"
        constraints = [legal_mode("rebalance_policy")]


class UsageWatch(models.Model):
    """
    What is remembered of a running lease's use between two looks at it; gone with the lease.

    cpu_cores: over the last stretch of some 20 s; *_since: null while use is not low. spared:
    resources of which a shrink did harm.
    """

    lease = models.OneToOneField(
        Lease, on_delete=models.CASCADE, primary_key=True, related_name="watch", db_constraint=False
    )
    looked_at = models.DateTimeField(db_default=Now())
    cpu_seconds = models.FloatField(default=0)
    cpu_cores = models.FloatField(default=0)
    peak_cpu_cores = models.FloatField(default=0)
    low_memory_since = models.DateTimeField(null=True)
    low_cpu_since = models.DateTimeField(null=True)
    changed_at = models.DateTimeField(null=True)
    spared = words()

    class Meta:
        db_table = "usage_watch"

    def __str__(self) -> str:
        return f"watched at {self.looked_at:%H:%M:%S}"


class Rebalancing(models.Model):
    """
    One change of one resource of a lease's grant, proposed or made, with what it rested on.

    status: proposed > asked (the runtime was told) > applied (it holds, and is watched) > kept,
    or undone; refused: the runtime, a limit or time said no, withdrawn: it is no longer so, ended:
    the lease has ended before. wait_*_s: the pool's mean waits in the minutes before and after it.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    pool = of_pool(db_index=False)
    lease = models.ForeignKey(
        Lease, on_delete=models.CASCADE, related_name="rebalancings", db_constraint=False
    )
    agent_id = models.TextField(blank=True, default="")
    project = models.TextField(blank=True, default="")
    resource = models.TextField()
    kind = models.TextField()
    mode = models.TextField()
    status = models.TextField(default="proposed")
    before = models.DecimalField(max_digits=14, decimal_places=3)
    after = models.DecimalField(max_digits=14, decimal_places=3)
    reason = models.TextField()
    bound = models.TextField(blank=True, default="")
    verdict = models.TextField(blank=True, default="")
    actor = models.TextField(blank=True, default="")
    at = models.DateTimeField(db_default=Now())
    asked_at = models.DateTimeField(null=True)
    applied_at = models.DateTimeField(null=True)
    closed_at = models.DateTimeField(null=True)
    wait_before_s = models.FloatField(null=True)
    wait_after_s = models.FloatField(null=True)
    # Whether the waits have been measured; there may have been none.
    is_measured = models.BooleanField(default=False)

    class Meta:
        db_table = "rebalancing"
        ordering = ["-at"]
        constraints = [
            models.CheckConstraint(
                condition=Q(status__in=REBALANCING_STATUSES), name="rebalancing_status_legal"
            ),
            # One resource of one lease is not changed twice at once.
            models.UniqueConstraint(
                fields=["lease", "resource"],
                name="rebalancing_one_open",
                condition=Q(status__in=REBALANCING_OPEN),
            ),
        ]
        indexes = [
            models.Index(fields=["pool", "-at"], name="rebalancing_of_pool"),
            # Those whose effect on waits is still to be measured.
            models.Index(
                fields=["applied_at"],
                name="rebalancing_unmeasured",
                condition=Q(is_measured=False, applied_at__isnull=False),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.resource} {self.before:g} to {self.after:g}"
