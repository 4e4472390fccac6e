"""Launches: what scaling was asked for, and each agent that a driver started for it."""

import uuid

from django.db import models
from django.db.models import Q
from django.db.models.functions import Now

from agentpool.registry.models._columns import choices, one_of
from agentpool.registry.models._of_pool import of_pool
from agentpool.registry.models.agent import Agent
from agentpool.registry.states import LaunchStatus

SCALING_ACTIONS = ("scale_up", "scale_down", "set")


class ScalingEvent(models.Model):
    """
    One change of a pool's size: who asked, from what to what, why.

    Sizes include agents on standby. woken: agents that came from standby; set_aside: that went
    there; cold: that were missing at once, and had to be launched.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    pool = of_pool(on_delete=models.PROTECT)
    at = models.DateTimeField(db_default=Now())
    action = models.TextField()
    current_size = models.PositiveIntegerField()
    target_size = models.PositiveIntegerField()
    woken = models.PositiveIntegerField(default=0, db_default=0)
    set_aside = models.PositiveIntegerField(default=0, db_default=0)
    cold = models.PositiveIntegerField(default=0, db_default=0)
    reason = models.TextField(blank=True, default="")
    actor = models.TextField(blank=True, default="")

    class Meta:
        db_table = "scaling_event"
        ordering = ["-at"]
        indexes = [models.Index(fields=["pool", "-at"], name="scaling_event_of_pool")]
        constraints = [
            models.CheckConstraint(
                condition=Q(action__in=SCALING_ACTIONS),
                name="scaling_event_action_legal",
            )
        ]

    def __str__(self) -> str:
        return f"{self.action} {self.pool_id} {self.current_size} to {self.target_size}"


class Launch(models.Model):
    """
    One agent that a driver starts: the intent is committed before the driver is called.

    `handle` is what the driver needs to find the runtime again (for `local`: pid, start time).
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    event = models.ForeignKey(ScalingEvent, on_delete=models.CASCADE, related_name="launches")
    agent = models.OneToOneField(Agent, on_delete=models.CASCADE, related_name="launch")
    driver = models.TextField()
    status = models.TextField(default=LaunchStatus.INTENDED.value, choices=choices(LaunchStatus))
    handle = models.JSONField(default=dict, blank=True)
    error = models.TextField(blank=True, default="")
    created_at = models.DateTimeField(db_default=Now(), editable=False)
    started_at = models.DateTimeField(null=True, blank=True)
    ended_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        db_table = "launch"
        verbose_name_plural = "launches"
        ordering = ["-created_at"]
        constraints = [one_of("launch", "status", LaunchStatus)]

    def __str__(self) -> str:
        return f"{self.driver} launch of {self.agent_id}"
