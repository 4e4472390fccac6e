"""Shares: what each project has used of a pool lately; the queue is served by it."""

from django.db import models
from django.db.models.functions import Now

from agentpool.registry.models._of_pool import of_pool


class Share(models.Model):
    """
    The decayed use of one pool by one project, inflated so that their order never changes by time.

    log_usage = log2 of the sum of cost / weight x 2^(t / half-life) (balancing.fairness).
    """

    id = models.BigAutoField(primary_key=True)
    pool = of_pool(db_constraint=False, db_index=False)
    project = models.TextField()
    log_usage = models.FloatField()
    updated_at = models.DateTimeField(db_default=Now())

    class Meta:
        db_table = "share"
        constraints = [
            models.UniqueConstraint(fields=["pool", "project"], name="share_one_each"),
        ]
        indexes = [models.Index(fields=["pool", "log_usage"], name="share_order")]

    def __str__(self) -> str:
        return f"{self.project} in {self.pool}"


class ShareState(models.Model):
    """Up to which event the shares have been charged."""

    id = models.PositiveSmallIntegerField(primary_key=True, default=1)
    last_seq = models.BigIntegerField(default=0)

    class Meta:
        db_table = "share_state"

    def __str__(self) -> str:
        return str(self.last_seq)
