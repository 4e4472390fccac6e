"""Samples: what each pool looked like, every 30 seconds."""

from django.db import models

from agentpool.registry.models._columns import cores
from agentpool.registry.models.pool import Pool


class PoolSample(models.Model):
    """
    One reading of one pool: the fields of the seed's PoolMetrics.

    Shares are 0 to 1; rates are per minute over the minute before `at`; times are seconds.
    """

    pool = models.ForeignKey(
        Pool, on_delete=models.CASCADE, to_field="agent_type", db_column="agent_type"
    )
    at = models.DateTimeField()
    total_agents = models.PositiveIntegerField()
    available_agents = models.PositiveIntegerField()
    busy_agents = models.PositiveIntegerField()
    standby_agents = models.PositiveIntegerField()
    slots = models.PositiveIntegerField()
    slots_used = models.PositiveIntegerField()
    utilization = models.FloatField()
    queue_depth = models.PositiveIntegerField()
    average_wait_time_s = models.FloatField()
    request_rate_per_minute = models.FloatField()
    completion_rate_per_minute = models.FloatField()
    average_service_time_s = models.FloatField()
    success_rate = models.FloatField(null=True)
    error_rate = models.FloatField(null=True)
    timeout_rate = models.FloatField(null=True)
    total_memory_allocated_mb = models.BigIntegerField()
    total_cpu_allocated = cores()
    total_tokens_allocated = models.BigIntegerField()
    resource_efficiency = models.FloatField(null=True)
    throughput_per_agent = models.FloatField()

    class Meta:
        db_table = "pool_sample"
        ordering = ["-at"]
        constraints = [models.UniqueConstraint(fields=["pool", "at"], name="pool_sample_once")]

    def __str__(self) -> str:
        return f"{self.pool_id} at {self.at:%H:%M:%S}"
