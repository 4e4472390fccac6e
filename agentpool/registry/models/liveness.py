"""When each agent was last heard, apart from the agents so that heartbeats never block a claim."""

from django.db import models
from django.db.models.functions import Now

from agentpool.registry.models.agent import Agent


class Liveness(models.Model):
    """
    The newest sign of life of one agent.

    `last_heartbeat_at` stands in no index and pages are filled to half, so that an update stays
    within its page; `commands` are what the agent must be told with its next answer.
    """

    agent = models.OneToOneField(
        Agent, on_delete=models.CASCADE, primary_key=True, related_name="liveness"
    )
    incarnation = models.PositiveIntegerField(default=1)
    last_heartbeat_at = models.DateTimeField(db_default=Now())

    class Meta:
        db_table = "liveness"
        verbose_name_plural = "signs of life"

    def __str__(self) -> str:
        return f"{self.pk} at {self.last_heartbeat_at:%H:%M:%S}"


class Tick(models.Model):
    """When each part of the control plane itself was last seen working, by the database's clock."""

    name = models.TextField(primary_key=True)
    at = models.DateTimeField(db_default=Now())
    # After an absence nobody is declared lost before this moment; null when never absent.
    grace_until = models.DateTimeField(null=True, blank=True)

    class Meta:
        db_table = "tick"

    def __str__(self) -> str:
        return self.name
