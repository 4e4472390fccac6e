"""Optimizing: how each pool is looked after, and what was proposed, done, and came of it."""

import uuid

from django.db import models
from django.db.models import Q
from django.db.models.functions import Now

from agentpool.registry.models._of_pool import of_pool, one_a_pool
from agentpool.registry.models.policy import PoolPolicy, legal_mode

OPTIMIZATION_STATUSES = ("open", "applied", "judged", "dismissed", "withdrawn")


class OptimizerPolicy(PoolPolicy):
    """
    Whether proposals of a pool are carried out by themselves, and by which rules they are found.

    settings: the fields of `scaling.troubles.Rules` that differ from the usual ones. A pool without
    a row recommends.
    """

    pool = one_a_pool(related_name="optimizer_policy")

    class Meta:
        db_table = "optimizer_policy"
        verbose_name_plural = "optimizer policies"
        constraints = [legal_mode("optimizer_policy")]


class Optimization(models.Model):
    """
    One proposal with what it rests on, what it was expected to do, and what it did.

    status: open > applied > judged, or dismissed by a person, or withdrawn: it is no longer so.
    measured: the metric over the window of `over_s` seconds before; without, computed: in the
    replay without and with the change; expected: computed, corrected by `factor`; came_out:
    measured after it was applied, null: not yet, or there was too little work to say.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    pool = of_pool(db_index=False)
    kind = models.TextField()
    subject = models.TextField(blank=True, default="")
    action = models.TextField()
    change = models.JSONField(default=dict)
    basis = models.TextField()
    numbers = models.JSONField(default=dict)
    metric = models.TextField()
    measured = models.FloatField()
    without = models.FloatField()
    computed = models.FloatField()
    expected = models.FloatField()
    factor = models.FloatField(default=1)
    attempts = models.IntegerField()
    over_s = models.FloatField()
    agent_hours_a_day = models.FloatField(default=0)
    usd_a_day = models.FloatField(default=0)
    status = models.TextField(default="open")
    at = models.DateTimeField(db_default=Now())
    actor = models.TextField(blank=True, default="")
    applied_at = models.DateTimeField(null=True)
    closed_at = models.DateTimeField(null=True)
    came_out = models.FloatField(null=True)
    verdict = models.TextField(blank=True, default="")

    class Meta:
        db_table = "optimization"
        ordering = ["-at"]
        constraints = [
            models.CheckConstraint(
                condition=Q(status__in=OPTIMIZATION_STATUSES), name="optimization_status_legal"
            ),
            models.UniqueConstraint(
                fields=["pool", "kind", "subject"],
                name="optimization_one_open",
                condition=Q(status="open"),
            ),
        ]
        indexes = [
            models.Index(fields=["pool", "-at"], name="optimization_of_pool"),
            # Those whose effect is still to be measured.
            models.Index(
                fields=["applied_at"],
                name="optimization_unjudged",
                condition=Q(status="applied"),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.kind} of {self.pool_id} {self.subject}".rstrip()
