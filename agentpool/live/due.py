"""
The jobs that cannot wait for Django-Q's scheduler (which ticks each 30 s), and when each is due.

A look is one cheap query; only what it finds is enqueued, by its dotted name: the pulse knows no
rules. A job enqueued twice does no harm, every one of them is idempotent.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import psycopg
from django.conf import settings

Enqueue = Callable[[str], Any]


@dataclass
class Due:
    """
    A job, the query that says whether it is due (None: always), and its shortest interval, seconds.
    """

    job: str
    every_s: float
    sql: str | None = None
    params: dict[str, Any] = field(default_factory=dict)
    last: float = float("-inf")

    def is_due(self, connection: psycopg.Connection[Any], *, now: float) -> bool:
        """Return whether to enqueue it at `now` (monotonic seconds)."""
        if now - self.last < self.every_s:
            return False
        if self.sql is None:
            return True
        row = connection.execute(self.sql, self.params).fetchone()
        return bool(row and row[0])


def jobs() -> list[Due]:
    """Return the table of jobs, with the installation's settings."""
    return [
        Due(job="agentpool.registry.jobs.canary", every_s=settings.CANARY_EVERY_S),
        Due(
            job="agentpool.registry.jobs.sample",
            every_s=2,
            # Once in each half minute, aligned as metrics.begin_of does it.
            sql="SELECT NOT EXISTS (SELECT FROM metric_state WHERE covered_until"
            " > now() - interval '30 seconds')",
        ),
        Due(
            job="balancing.jobs.check_health",
            every_s=max(0.5, settings.SUSPECT_S / 6),
            sql="SELECT EXISTS (SELECT FROM liveness v JOIN agent a ON a.id = v.agent_id"
            " WHERE (a.status IN ('idle', 'busy', 'draining', 'standby')"
            "   AND v.last_heartbeat_at < now() - make_interval(secs => %(suspect)s))"
            " OR (a.status = 'unreachable'"
            "   AND v.last_heartbeat_at < now() - make_interval(secs => %(lost)s)))",
            params={"suspect": settings.SUSPECT_S, "lost": settings.LOST_S},
        ),
        Due(
            job="balancing.jobs.expire",
            every_s=1,
            sql="SELECT EXISTS (SELECT FROM lease WHERE status IN ('active', 'offered', 'parked')"
            "   AND expires_at < now() - make_interval(secs => %(slack)s))"
            " OR EXISTS (SELECT FROM request WHERE status = 'waiting' AND expires_at < now())",
            params={"slack": settings.REAP_SLACK_S},
        ),
        Due(
            job="balancing.jobs.serve",
            every_s=1,
            sql="SELECT EXISTS (SELECT FROM request q JOIN agent a USING (agent_type)"
            " WHERE q.status = 'waiting' AND (q.not_before IS NULL OR q.not_before <= now())"
            " AND a.status IN ('busy', 'idle') AND a.health IN ('good', 'probation', 'unknown')"
            " AND a.load < a.max_concurrent"
            " AND NOT EXISTS (SELECT FROM lock_key k WHERE k.key = ANY (q.lock_keys)))",
        ),
        Due(
            job="balancing.jobs.reserve",
            every_s=1,
            sql="SELECT EXISTS (SELECT FROM agent WHERE reserved_for IS NOT NULL)"
            " OR EXISTS (SELECT FROM resource_limit WHERE reserved_for IS NOT NULL)"
            " OR EXISTS (SELECT FROM request q JOIN pool p USING (agent_type)"
            "   WHERE q.status = 'waiting' AND q.queued_at < now()"
            "     - make_interval(secs => least(p.reserve_after_s, 5)))",
        ),
        Due(
            job="balancing.jobs.learn",
            every_s=2,
            sql="SELECT coalesce((SELECT last_seq FROM relay_state), 0)"
            " > least(coalesce((SELECT last_seq FROM share_state), 0),"
            " coalesce((SELECT last_seq FROM learning_state), 0))",
        ),
        Due(
            job="balancing.jobs.rebalance",
            every_s=2,
            # A look each 10 s while work runs; at once when an answer is there, or work is pressed
            # by a grant that was cut.
            sql="SELECT EXISTS (SELECT FROM lease l WHERE l.status = 'active'"
            "   AND l.expires_at > now() AND l.measured_memory_mb > 0"
            "   AND NOT EXISTS (SELECT FROM tick WHERE name = 'rebalance'"
            "     AND at > now() - interval '9 seconds'))"
            " OR EXISTS (SELECT FROM rebalancing b JOIN lease l ON l.id = b.lease_id"
            "   LEFT JOIN lease_isolation i ON i.lease_id = l.id"
            "   WHERE b.status IN ('asked', 'applied') AND (l.status <> 'active'"
            "     OR b.status = 'asked' AND i.at > b.asked_at"
            "     OR b.status = 'applied' AND l.measured_memory_mb > 0.9 * l.memory_mb))"
            " OR EXISTS (SELECT FROM rebalancing WHERE NOT is_measured"
            "   AND applied_at < now() - interval '11 minutes')",
        ),
        Due(
            job="scaling.jobs.evaluate",
            every_s=1,
            # Half a minute after the last time, and soon after something was asked for or lost;
            # where the last time is still to come, the clock has gone back.
            sql="SELECT EXISTS (SELECT FROM pool p LEFT JOIN scaling_state s USING (agent_type)"
            " WHERE s.decided_at IS NULL OR s.decided_at > now()"
            " OR s.decided_at < now() - interval '30 seconds'"
            " OR EXISTS (SELECT FROM request q WHERE q.agent_type = p.agent_type"
            "   AND q.status = 'waiting' AND (q.queued_at > s.decided_at"
            "     OR q.urgent_at > s.decided_at))"
            " OR EXISTS (SELECT FROM agent a WHERE a.agent_type = p.agent_type"
            "   AND a.status = 'lost' AND a.updated_at > s.decided_at)"
            " OR EXISTS (SELECT FROM scaling_policy y WHERE y.agent_type = p.agent_type"
            "   AND y.updated_at > s.decided_at)"
            " OR EXISTS (SELECT FROM scaling_announcement n WHERE n.agent_type = p.agent_type"
            "   AND n.heard_at IS NULL))",
        ),
        Due(
            job="scaling.jobs.optimize",
            every_s=30,
            # Each 5 minutes, where somebody worked since the last time.
            sql="SELECT NOT EXISTS (SELECT FROM tick WHERE name = 'optimize'"
            "   AND at > now() - interval '299 seconds')"
            " AND (EXISTS (SELECT FROM optimization WHERE status IN ('open', 'applied'))"
            "   OR EXISTS (SELECT FROM outcome WHERE ended_at > now() - interval '10 minutes')"
            "   OR EXISTS (SELECT FROM request WHERE status = 'waiting'))",
        ),
        Due(
            job="scaling.jobs.reconcile",
            every_s=1,
            sql="SELECT EXISTS (SELECT FROM launch l JOIN agent a ON a.id = l.agent_id"
            " WHERE l.status IN ('intended', 'stopping')"
            " OR (l.status = 'started' AND a.status IN ('retired', 'lost'))"
            " OR (l.status = 'started' AND a.status = 'starting'"
            "   AND l.started_at < now() - interval '10 seconds'))"
            # One that misses a heartbeat may have ended, which its driver knows at once.
            " OR EXISTS (SELECT FROM launch l JOIN liveness v USING (agent_id)"
            "   WHERE l.status = 'started'"
            "   AND v.last_heartbeat_at < now() - make_interval(secs => %(missed)s))",
            params={"missed": settings.HEARTBEAT_S * 1.5},
        ),
    ]


def enqueue_due(
    table: list[Due], connection: psycopg.Connection[Any], *, now: float, enqueue: Enqueue
) -> Iterator[str]:
    """This will enqueue what is due and yield the names."""
    for due in table:
        if due.is_due(connection, now=now):
            enqueue(due.job)
            due.last = now
            yield due.job
