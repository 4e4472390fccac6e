"""Logs: what the work under a lease printed, in chunks, capped with the tail kept."""

from django.db import models
from django.db.models import Q
from django.db.models.functions import Now

from agentpool.registry.models.lease import Lease


class LogChunk(models.Model):
    """Some lines of one stream; `id` is the order and the cursor that readers resume from."""

    lease = models.ForeignKey(Lease, on_delete=models.CASCADE, related_name="log")
    at = models.DateTimeField(db_default=Now())
    stream = models.TextField()
    text = models.TextField()
    size = models.PositiveIntegerField()

    class Meta:
        db_table = "log_chunk"
        ordering = ["id"]
        indexes = [
            models.Index(fields=["lease", "id"], name="log_of_lease"),
            models.Index(fields=["at"], name="log_age"),
        ]
        constraints = [
            models.CheckConstraint(
                condition=Q(stream__in=["stdout", "stderr"]), name="log_stream_legal"
            )
        ]

    def __str__(self) -> str:
        return self.text[:60]


class LogTotal(models.Model):
    """How much of a lease's log was written and how much was dropped to stay under the cap."""

    lease = models.OneToOneField(
        Lease, on_delete=models.CASCADE, primary_key=True, related_name="log_total"
    )
    kept_bytes = models.BigIntegerField(default=0)
    dropped_bytes = models.BigIntegerField(default=0)

    class Meta:
        db_table = "log_total"

    def __str__(self) -> str:
        return f"{self.kept_bytes} kept, {self.dropped_bytes} dropped"
