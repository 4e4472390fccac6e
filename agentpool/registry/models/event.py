"""Events: the outbox that every state change writes, and the relay's place in it."""

from django.contrib.postgres.indexes import BrinIndex
from django.db import models
from django.db.models import Q
from django.db.models.functions import Now


class Event(models.Model):
    """
    One thing that happened, written in the transaction that made it happen.

    Readers follow its number (EventNumber), never `id`. The column `xid` (the writing transaction)
    is the relay's alone and stands in the migrations only.
    """

    at = models.DateTimeField(db_default=Now())
    kind = models.TextField()
    agent_type = models.TextField(blank=True, default="", db_default="")
    agent_id = models.TextField(blank=True, default="", db_default="")
    project = models.TextField(blank=True, default="", db_default="")
    request_id = models.UUIDField(null=True)
    lease_id = models.UUIDField(null=True)
    actor = models.TextField(blank=True, default="", db_default="")
    detail = models.JSONField(default=dict)

    class Meta:
        db_table = "event"
        ordering = ["-id"]
        indexes = [
            BrinIndex(fields=["at"], name="event_age", pages_per_range=16),
            # What happened to an agent itself; its leases' events are found by their request.
            models.Index(
                fields=["agent_id", "-id"],
                name="event_of_agent",
                condition=Q(lease_id__isnull=True),
            ),
            models.Index(
                fields=["request_id"],
                name="event_of_request",
                condition=Q(request_id__isnull=False),
            ),
            # How often the sandboxes of an agent had to refuse something lately.
            models.Index(
                fields=["agent_id", "-at"],
                name="event_of_security",
                condition=Q(kind__startswith="security."),
            ),
            # What was done to pools, profiles, limits and sizes: few rows among millions.
            models.Index(
                fields=["agent_type", "-id"],
                name="event_of_configuration",
                condition=Q(agent_id="", request_id__isnull=True, lease_id__isnull=True),
            ),
        ]

    def __str__(self) -> str:
        return self.kind


class EventNumber(models.Model):
    """
    The place of one event in the stream: the relay numbers events once they are visible.

    So a reader who has seen n has missed nothing below n. A row of its own, for it is much cheaper
    to write than an event anew with all its indexes. Without a foreign key for the same reason:
    the relay numbers what it has just read.
    """

    seq = models.BigIntegerField(primary_key=True)
    event = models.OneToOneField(
        Event, on_delete=models.DO_NOTHING, db_constraint=False, related_name="number"
    )

    class Meta:
        db_table = "event_number"

    def __str__(self) -> str:
        return str(self.seq)


class RelayState(models.Model):
    """
    The last number given to an event; its lock makes one relay at a time number them.

    What the relay had seen by then, a snapshot (`seen`) of a server (`server`), stands in the
    migrations only.
    """

    id = models.PositiveSmallIntegerField(primary_key=True, default=1)
    last_seq = models.BigIntegerField(default=0)

    class Meta:
        db_table = "relay_state"
        constraints = [models.CheckConstraint(condition=Q(id=1), name="relay_state_one_row")]

    def __str__(self) -> str:
        return str(self.last_seq)
