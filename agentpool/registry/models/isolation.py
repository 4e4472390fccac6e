"""How the work of a lease was isolated, as its runtime has reported it."""

from django.db import models
from django.db.models.functions import Now

from agentpool.registry.models._columns import words
from agentpool.registry.models.lease import Lease


class LeaseIsolation(models.Model):
    """
    The tier, and which aspects of the policy it holds (`enforced`) or only tells (`declared`).

    Written when the runtime reports it: at the start, and after each change of its limits, which it
    so acknowledges. policy: profile, grant and host's ability together.
    """

    lease = models.OneToOneField(
        Lease,
        on_delete=models.CASCADE,
        primary_key=True,
        related_name="isolation",
        db_constraint=False,
    )
    tier = models.TextField()
    enforced = words()
    declared = words()
    policy = models.JSONField(default=dict)
    at = models.DateTimeField(db_default=Now())

    class Meta:
        db_table = "lease_isolation"
        verbose_name_plural = "isolation of leases"

    def __str__(self) -> str:
        return self.tier
