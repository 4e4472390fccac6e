"""How each pool's size is decided: its policy, what was learnt of its demand, and the decisions."""

import uuid

from django.db import models
from django.db.models import Q
from django.db.models.functions import Now

from agentpool.registry.models._columns import words
from agentpool.registry.models._of_pool import of_pool, one_a_pool
from agentpool.registry.models.launch import ScalingEvent
from agentpool.registry.models.policy import MODES, PoolPolicy

# Those of `scaling.policies`, which knows nothing of tables; a test compares the two.
SCALING_RULES = ("classic", "utilization", "queue", "warm", "schedule", "static", "predictive")


class ScalingPolicy(PoolPolicy):
    """
    A pool's policy; sizes at least and at most are the pool's own.

    settings: the fields of `scaling.policies.Policy` that differ from the rule's usual ones.
    mode_before: what `start` goes back to after `stop`. A pool without a row recommends.
    """

    pool = one_a_pool(related_name="scaling_policy")
    rule = models.TextField(default="predictive")
    mode_before = models.TextField(default="auto")
    generation = models.PositiveIntegerField(default=1)

    class Meta:
        db_table = "scaling_policy"
        verbose_name_plural = "scaling policies"
        constraints = [
            models.CheckConstraint(
                condition=Q(rule__in=SCALING_RULES), name="scaling_policy_rule_legal"
            ),
            models.CheckConstraint(
                condition=Q(mode__in=MODES, mode_before__in=MODES[1:]),
                name="scaling_policy_mode_legal",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.pool_id}: {self.rule}, {self.mode}"


class ScalingState(models.Model):
    """
    What was learnt of a pool's demand, and up to which rows; small, and rebuilt from them if lost.

    heard_until: time up to which arrivals, begins and ends were counted. decided_at: time of the
    last decision. demand, history: `scaling.demand.Demand` and `scaling.history.History`.
    """

    pool = one_a_pool(related_name="scaling_state")
    heard_until = models.DateTimeField(null=True)
    decided_at = models.DateTimeField(null=True)
    demand = models.JSONField(null=True)
    history = models.JSONField(null=True)

    class Meta:
        db_table = "scaling_state"

    def __str__(self) -> str:
        return f"what is known of {self.pool_id}"


class ScalingDecision(models.Model):
    """
    One decision with everything it rested on; steady ones are kept once a minute.

    error: why it could not be carried out. event: the change of size that came of it.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    pool = of_pool(db_index=False)
    at = models.DateTimeField(db_default=Now())
    rule = models.TextField()
    mode = models.TextField()
    action = models.TextField()
    current = models.PositiveIntegerField()
    target = models.PositiveIntegerField()
    wanted = models.PositiveIntegerField()
    reason = models.TextField()
    bounds = words()
    inputs = models.JSONField(default=dict)
    alternatives = models.JSONField(default=list)
    forecast = models.JSONField(null=True)
    is_carried_out = models.BooleanField(default=False)
    error = models.TextField(blank=True, default="")
    event = models.OneToOneField(
        ScalingEvent, on_delete=models.SET_NULL, null=True, related_name="decision"
    )

    class Meta:
        db_table = "scaling_decision"
        ordering = ["-at"]
        indexes = [models.Index(fields=["pool", "-at"], name="scaling_decision_of_pool")]

    def __str__(self) -> str:
        return f"{self.action} {self.pool_id} {self.current} to {self.target}"


class Announcement(models.Model):
    """Work that is known ahead: so many requests from a time on, spread over some seconds."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    pool = of_pool()
    at = models.DateTimeField()
    count = models.PositiveIntegerField()
    spread_s = models.FloatField(default=60)
    name = models.TextField(blank=True, default="")
    announced_by = models.TextField(blank=True, default="")
    created_at = models.DateTimeField(db_default=Now())
    # Taken into the demand; from then on that counts down what has come of it.
    heard_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        db_table = "scaling_announcement"
        ordering = ["at"]

    def __str__(self) -> str:
        return f"{self.count} for {self.pool_id} at {self.at:%F %R}"
