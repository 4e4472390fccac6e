"""What the policies of a pool have in common: a mode, and what differs from the usual settings."""

from django.db import models
from django.db.models import Q
from django.db.models.functions import Now

# Those of `scaling.policies`, which knows nothing of tables; a test compares the two.
MODES = ("off", "recommend", "auto")


class PoolPolicy(models.Model):
    """
    Who looks after a pool, and how.

    mode: not at all, by proposals only, or by itself. settings: those that differ from the usual
    ones.
    """

    mode = models.TextField(default="recommend")
    settings = models.JSONField(default=dict, blank=True)
    updated_at = models.DateTimeField(db_default=Now())
    updated_by = models.TextField(blank=True, default="")

    class Meta:
        abstract = True

    def __str__(self) -> str:
        return f"{self.pk}: {self.mode}"


def legal_mode(table: str) -> models.CheckConstraint:
    """Return the constraint that holds a policy's mode to the three there are."""
    return models.CheckConstraint(condition=Q(mode__in=MODES), name=f"{table}_mode_legal")
