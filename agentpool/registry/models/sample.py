"""Samples: what each pool looked like and did, every 30 seconds and rolled up; running totals."""

from django.db import models

from agentpool.registry.models._columns import cores
from agentpool.registry.models._of_pool import of_pool


class PoolSample(models.Model):
    """
    A stretch of `step_s` seconds from `at` on of one pool: the fields of the seed's PoolMetrics.

    agentpool.registry.metrics defines each column. Shares are 0 to 1; rates are per minute;
    `covered_s` says how much of the stretch has been counted yet: 0 while it is the newest.
    """

    pool = of_pool()
    step_s = models.PositiveIntegerField(default=30)
    at = models.DateTimeField()
    covered_s = models.FloatField(default=30)
    readings = models.PositiveIntegerField(default=1)

    total_agents = models.FloatField(default=0)
    available_agents = models.FloatField(default=0)
    busy_agents = models.FloatField(default=0)
    standby_agents = models.FloatField(default=0)
    slots = models.FloatField(default=0)
    slots_used = models.FloatField(default=0)
    queue_depth = models.FloatField(default=0)
    total_memory_allocated_mb = models.FloatField(default=0)
    total_cpu_allocated = cores(default=0)
    total_tokens_allocated = models.FloatField(default=0)

    arrivals = models.BigIntegerField(default=0)
    refused = models.BigIntegerField(default=0)
    timed_out_requests = models.BigIntegerField(default=0)
    granted = models.BigIntegerField(default=0)
    ended = models.BigIntegerField(default=0)
    succeeded = models.BigIntegerField(default=0)
    failed = models.BigIntegerField(default=0)
    timed_out = models.BigIntegerField(default=0)
    lost = models.BigIntegerField(default=0)
    cancelled = models.BigIntegerField(default=0)
    wait_sum_s = models.FloatField(default=0)
    service_sum_s = models.FloatField(default=0)
    efficiency_sum = models.FloatField(default=0)
    efficiency_count = models.BigIntegerField(default=0)
    tokens_used = models.BigIntegerField(default=0)
    cost_usd = models.FloatField(default=0)
    # Counts by log-spaced bucket (agentpool.registry.quantiles).
    wait_sketch = models.JSONField(default=dict, blank=True)
    service_sketch = models.JSONField(default=dict, blank=True)

    # What follows from the above, kept so that any reader of the table has it.
    utilization = models.FloatField(default=0)
    average_wait_time_s = models.FloatField(default=0)
    request_rate_per_minute = models.FloatField(default=0)
    completion_rate_per_minute = models.FloatField(default=0)
    average_service_time_s = models.FloatField(default=0)
    success_rate = models.FloatField(null=True)
    error_rate = models.FloatField(null=True)
    timeout_rate = models.FloatField(null=True)
    resource_efficiency = models.FloatField(null=True)
    throughput_per_agent = models.FloatField(default=0)
    wait_p50_s = models.FloatField(null=True)
    wait_p95_s = models.FloatField(null=True)
    wait_p99_s = models.FloatField(null=True)
    service_p50_s = models.FloatField(null=True)
    service_p95_s = models.FloatField(null=True)
    service_p99_s = models.FloatField(null=True)

    class Meta:
        db_table = "pool_sample"
        ordering = ["-at"]
        constraints = [
            # Also how a series is read: one pool, one length, a range of time.
            models.UniqueConstraint(fields=["pool", "step_s", "at"], name="pool_sample_once"),
        ]
        indexes = [
            # All pools over a range of time, and what is older than its kept time.
            models.Index(fields=["step_s", "at"], name="pool_sample_by_time"),
        ]

    def __str__(self) -> str:
        return f"{self.pool_id} at {self.at:%H:%M:%S}"


class MetricState(models.Model):
    """
    How far the collector is: which events are counted, and up to when time is covered.

    Its row is locked while one process collects, and moves in the same transaction as the counts.
    """

    id = models.PositiveSmallIntegerField(primary_key=True, default=1)
    last_seq = models.BigIntegerField(default=0)
    covered_until = models.DateTimeField(null=True)
    decisions_until = models.DateTimeField(null=True)

    class Meta:
        db_table = "metric_state"
        constraints = [models.CheckConstraint(condition=models.Q(id=1), name="metric_state_one")]

    def __str__(self) -> str:
        return str(self.last_seq)


class MetricTotal(models.Model):
    """One counter of /metrics since the installation began: it only grows, whoever restarts."""

    id = models.BigAutoField(primary_key=True)
    family = models.TextField()
    labels = models.JSONField(default=dict)
    value = models.FloatField(default=0)

    class Meta:
        db_table = "metric_total"
        constraints = [
            models.UniqueConstraint(fields=["family", "labels"], name="metric_total_one_each"),
        ]

    def __str__(self) -> str:
        return f"{self.family} {self.value:g}"
