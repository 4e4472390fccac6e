"""Reads what running leases use of what they hold, and what is remembered of each."""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.db import connection

from agentpool.registry import policies as registry_policies
from agentpool.registry.models import RebalancePolicy
from balancing import rebalancing
from balancing.rebalancing import CPU, MEMORY, Held, Mode, Rules, Use

log = logging.getLogger("agentpool.rebalancing")

# Over at least so many seconds the CPU use of "now" is taken; runtimes report it each 10 s or so.
CPU_OVER_S = 20.0

# Policies are read once for each pool and project.
_LEASES = """
    WITH running AS MATERIALIZED (
      SELECT * FROM lease WHERE status = 'active' AND measured_memory_mb > 0),
    policies AS MATERIALIZED (
      SELECT k.agent_type, k.project, policy_of_1(k.agent_type, k.project) AS policy
      FROM (SELECT DISTINCT agent_type, project FROM running) k),
    rooms AS MATERIALIZED (
      -- What each limit has left; of one that is kept for a request nothing.
      SELECT p.agent_type, p.project, min(x.memory_mb)::bigint AS memory_mb
      FROM policies p CROSS JOIN LATERAL (
        SELECT CASE WHEN l.reserved_for IS NULL THEN greatest(0, sum(s.memory_mb)) ELSE 0 END
            AS memory_mb
          FROM unnest((p.policy).limits) l JOIN limit_shard s ON s.resource_limit_id = l.id
          WHERE l.memory_mb IS NOT NULL GROUP BY l.id, l.reserved_for) x
      GROUP BY p.agent_type, p.project)
    SELECT l.id, l.fencing_token, l.agent_type, a.agent_id, l.project, l.memory_mb, l.cpu_cores,
      l.measured_memory_mb, greatest(l.peak_memory_mb, l.measured_memory_mb), l.cpu_seconds,
      l.measured_cpu_cores,
      extract(epoch FROM now() - coalesce(l.acked_at, l.acquired_at))::float8, now(),
      greatest(r.min_memory_mb, (p.policy).least_memory_mb),
      greatest(r.min_cpu_cores, (p.policy).least_cpu_cores),
      l.memory_mb + least(a.memory_mb - a.used_memory_mb, o.memory_mb),
      (p.policy).ceiling_memory_mb,
      r.payload IS NOT NULL, i.lease_id IS NOT NULL,
      w.looked_at, w.cpu_seconds, w.cpu_cores, w.peak_cpu_cores, w.low_memory_since,
      w.low_cpu_since, w.changed_at, w.spared
    FROM running l JOIN policies p USING (agent_type, project)
      LEFT JOIN rooms o USING (agent_type, project)
      JOIN request r ON r.id = l.request_id JOIN agent a ON a.id = l.agent_id
      LEFT JOIN lease_isolation i ON i.lease_id = l.id
      LEFT JOIN usage_watch w ON w.lease_id = l.id
    ORDER BY l.fencing_token
"""


@dataclass(frozen=True, slots=True)
class Watch:
    """What is remembered of a lease after this look; the columns of usage_watch."""

    looked_at: datetime
    cpu_seconds: float
    cpu_cores: float
    peak_cpu_cores: float
    low_memory_since: datetime | None
    low_cpu_since: datetime | None
    changed_at: datetime | None
    spared: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Watched:
    """
    A running lease as this look found it.

    has_environment: a runtime of ours runs its work; is_told: it has said what it holds it to.
    """

    lease_id: UUID
    token: int
    agent_type: str
    agent_id: str
    project: str
    at: datetime
    age_s: float
    use: Use
    held: Held
    watch: Watch
    has_environment: bool
    is_told: bool

    @property
    def can_change(self) -> bool:
        """Whether a change can be made: acknowledged, or a number only without an environment."""
        return self.is_told or not self.has_environment


def policies() -> Mapping[str, tuple[Mode, Rules]]:
    """
    Return each pool's mode and rules; without a row of its own it recommends by the usual.

    A pool whose stored settings make no rules is left out, and told in the log.
    """
    found = {}
    for row in registry_policies.policies(RebalancePolicy):
        try:
            found[row.pool_id] = (Mode(row.mode), rebalancing.rules_of(row.settings))
        except ValueError as error:
            log.warning("not watched pool=%s: its policy does not do: %s", row.pool_id, error)
    return found


def leases(rules: Mapping[str, Rules]) -> Sequence[Watched]:
    """Return the running leases whose use is known, by what their pools' rules call low."""
    with connection.cursor() as cursor:
        cursor.execute(_LEASES)
        return [_watched(row, rules[row[2]]) for row in cursor.fetchall() if row[2] in rules]


def _watched(row: Sequence[Any], rules: Rules) -> Watched:
    (lease_id, token, agent_type, agent_id, project, memory_mb, cpu_cores, *measured) = row
    now_mb, peak_mb, cpu_s, mean_cores, age_s, at, min_mb, min_cores, *rest = measured
    room_mb, ceiling_mb, has_environment, is_told, *remembered = rest
    watch = _watch(remembered, at=at, cpu_seconds=cpu_s, mean_cores=mean_cores)
    is_low = {
        MEMORY: rebalancing.is_low(MEMORY, used=now_mb, granted=memory_mb, rules=rules),
        CPU: rebalancing.is_low(CPU, used=watch.cpu_cores, granted=float(cpu_cores), rules=rules),
    }
    watch = _since(watch, is_low, at)
    held = Held(
        memory_mb=memory_mb,
        cpu_cores=cpu_cores,
        min_memory_mb=min_mb,
        min_cpu_cores=min_cores,
        most_memory_mb=room_mb if ceiling_mb is None else min(room_mb, max(ceiling_mb, memory_mb)),
        most_cpu_cores=Decimal(10**6),
    )
    return Watched(
        lease_id=lease_id,
        token=token,
        agent_type=agent_type,
        agent_id=agent_id,
        project=project,
        at=at,
        age_s=age_s,
        use=_use(now_mb, peak_mb, watch, at),
        held=held,
        watch=watch,
        has_environment=has_environment,
        is_told=is_told,
    )


def _use(memory_mb: float, peak_memory_mb: float, watch: Watch, at: datetime) -> Use:
    return Use(
        memory_mb=memory_mb,
        peak_memory_mb=peak_memory_mb,
        cpu_cores=watch.cpu_cores,
        peak_cpu_cores=watch.peak_cpu_cores,
        low_memory_s=_age_s(watch.low_memory_since, at),
        low_cpu_s=_age_s(watch.low_cpu_since, at),
        since_change_s=_age_s(watch.changed_at, at, never=math.inf),
        spared=frozenset(watch.spared),
    )


def _watch(
    remembered: Sequence[Any], *, at: datetime, cpu_seconds: float, mean_cores: float
) -> Watch:
    """Return what is remembered, with the CPU since then when that is long enough."""
    looked_at, seconds, cores, peak, low_memory, low_cpu, changed_at, spared = remembered
    if looked_at is None:
        return Watch(at, cpu_seconds, mean_cores, mean_cores, None, None, None, ())
    length_s = (at - looked_at).total_seconds()
    if length_s >= CPU_OVER_S:
        cores = max(0.0, cpu_seconds - seconds) / length_s
        looked_at, seconds, peak = at, cpu_seconds, max(peak, cores)
    return Watch(looked_at, seconds, cores, peak, low_memory, low_cpu, changed_at, tuple(spared))


def _since(watch: Watch, is_low: Mapping[str, bool], at: datetime) -> Watch:
    return Watch(
        watch.looked_at,
        watch.cpu_seconds,
        watch.cpu_cores,
        watch.peak_cpu_cores,
        (watch.low_memory_since or at) if is_low[MEMORY] else None,
        (watch.low_cpu_since or at) if is_low[CPU] else None,
        watch.changed_at,
        watch.spared,
    )


def _age_s(since: datetime | None, at: datetime, *, never: float = 0.0) -> float:
    return (at - since).total_seconds() if since is not None else never
