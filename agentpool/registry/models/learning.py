"""What was learnt from outcomes: predictions, what they rest on, how good they were."""

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import Q

from agentpool.registry.models._of_pool import one_a_pool


class Outlook(models.Model):
    """
    What is expected of one agent at one kind of work, as the claim reads it (balancing.outlook).

    agent_id null: what is usual in the pool. story_type null: for kinds that have no row. odds and
    log_s (log odds of success, log seconds) of an agent are differences from its pool's row, their
    doubts are variances; match_odds to retry_s are the pool's alone. ratio: seconds hoped for, of
    those of an unknown agent: the order in which a claim looks at agents. learnt_at: end of the
    newest lease it rests on.
    """

    id = models.BigAutoField(primary_key=True)
    agent_type = models.TextField()
    agent_id = models.UUIDField(null=True)
    story_type = models.TextField(null=True)
    odds = models.FloatField()
    log_s = models.FloatField()
    odds_doubt = models.FloatField()
    log_s_doubt = models.FloatField()
    match_odds = models.FloatField(default=0)
    match_log_s = models.FloatField(default=0)
    noise = models.FloatField(default=0)
    retry_s = models.FloatField(default=0)
    tokens = models.FloatField()
    efficiency = models.FloatField()
    leases = models.IntegerField()
    ratio = models.FloatField(default=1)
    learnt_at = models.DateTimeField()

    class Meta:
        db_table = "outlook"
        ordering = ["agent_type", "story_type", "ratio"]
        constraints = [
            models.UniqueConstraint(
                fields=["agent_type", "agent_id", "story_type"],
                name="outlook_one_each",
                nulls_distinct=False,
            ),
        ]
        indexes = [
            # The claim: what is known of a candidate.
            models.Index(fields=["agent_id", "story_type"], name="outlook_of_agent"),
            # The claim by `learnt`: who promises most, best first.
            models.Index(
                fields=["agent_type", "story_type", "ratio"],
                name="outlook_best",
                condition=Q(agent_id__isnull=False),
            ),
        ]

    def __str__(self) -> str:
        leases = "1 lease" if self.leases == 1 else f"{self.leases} leases"
        return f"{self.agent_type} {self.story_type or 'any'}, {leases}"


class PoolLearning(models.Model):
    """
    The model of one pool without its agents: what `balancing.belief.Model` says of all.

    model: as `balancing.keeping` writes it. agents: at work when they were last counted.
    """

    pool = one_a_pool(db_constraint=False)
    model = models.BinaryField()
    leases = models.BigIntegerField(default=0)
    agents = models.IntegerField(default=0)
    counted_at = models.DateTimeField(null=True)
    learnt_at = models.DateTimeField()

    class Meta:
        db_table = "pool_learning"

    def __str__(self) -> str:
        return f"{self.pool_id}: {self.leases} leases"


class AgentLearning(models.Model):
    """
    What the model knows of one agent, and how suspicious its newest outcomes are.

    skill: as `balancing.keeping` writes it. suspicion: log likelihood ratio of a broken agent
    against one like its pool, 0 or more; streak: failures in a row that count; why: the newest
    thing that raised it (balancing.trust).
    """

    agent_id = models.UUIDField(primary_key=True)
    agent_type = models.TextField()
    skill = models.BinaryField()
    leases = models.BigIntegerField(default=0)
    suspicion = models.FloatField(default=0)
    streak = models.IntegerField(default=0)
    why = models.TextField(blank=True, default="")
    learnt_at = models.DateTimeField()

    class Meta:
        db_table = "agent_learning"
        indexes = [models.Index(fields=["agent_type"], name="agent_learning_of_pool")]

    def __str__(self) -> str:
        return f"suspicion {self.suspicion:.1f}"


class LearningState(models.Model):
    """Up to which event outcomes have been learnt from; version: how often that has changed."""

    id = models.PositiveSmallIntegerField(primary_key=True, default=1)
    last_seq = models.BigIntegerField(default=0)
    version = models.BigIntegerField(default=0)

    class Meta:
        db_table = "learning_state"

    def __str__(self) -> str:
        return str(self.last_seq)


class OutcomeDay(models.Model):
    """
    What one agent's outcomes of one kind came to on one day; the single rows are kept no longer.

    Sums over leases that were not cancelled; log_s: of log seconds. With these all can be learnt
    anew.
    """

    id = models.BigAutoField(primary_key=True)
    day = models.DateField()
    agent_type = models.TextField()
    agent_id = models.UUIDField()
    story_type = models.TextField(blank=True, default="")
    leases = models.IntegerField()
    successes = models.IntegerField()
    log_s = models.FloatField()
    log_s_squares = models.FloatField()
    duration_s = models.FloatField()
    waited_s = models.FloatField()
    match = models.FloatField()
    efficiency = models.FloatField()
    tokens = models.BigIntegerField()
    cost_usd = models.DecimalField(max_digits=16, decimal_places=6)

    class Meta:
        db_table = "outcome_day"
        ordering = ["-day"]
        constraints = [
            models.UniqueConstraint(
                fields=["day", "agent_type", "agent_id", "story_type"], name="outcome_day_one_each"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.successes} of {self.leases} on {self.day}"


class Calibration(models.Model):
    """
    How good the predictions of one pool were on one day, each made before its outcome was known.

    Sums over leases. squares: (predicted share of success - 0 or 1) squared; errors: |log(predicted
    / taken seconds)|; naive: the same for the mean of the kind of work. gain, gain_squares: of what
    the prediction was better in both, as shares of the naive errors. within: leases whose time lay
    inside the bounds for 8 of 10. bins: by tenths of predicted success: leases, predicted, seen.
    """

    id = models.BigAutoField(primary_key=True)
    agent_type = models.TextField()
    day = models.DateField()
    leases = models.IntegerField(default=0)
    squares = models.FloatField(default=0)
    naive_squares = models.FloatField(default=0)
    errors = models.FloatField(default=0)
    naive_errors = models.FloatField(default=0)
    gain = models.FloatField(default=0)
    gain_squares = models.FloatField(default=0)
    within = models.IntegerField(default=0)
    bin_leases = ArrayField(models.IntegerField())
    bin_predicted = ArrayField(models.FloatField())
    bin_successes = ArrayField(models.IntegerField())

    class Meta:
        db_table = "calibration"
        ordering = ["-day"]
        constraints = [
            models.UniqueConstraint(fields=["agent_type", "day"], name="calibration_one_each"),
        ]

    def __str__(self) -> str:
        return f"{self.agent_type} on {self.day}"
