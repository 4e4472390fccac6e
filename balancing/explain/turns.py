"""Says how many are served before a waiting request: priority, then fair share, then arrival."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from agentpool.registry.models import Request
from balancing import fairness
from balancing.explain.misses import rows_of

# Shorter leases than this are not told apart in the charge of a turn, seconds.
LEAST_CHARGE_S = 0.001


@dataclass(frozen=True)
class Waiting:
    """
    One project's requests of one priority that wait in a pool.

    use: what it has used of the pool lately, slot-seconds per unit of weight; charge: what a grant
    adds to it, the same unit, > 0.
    """

    project: str
    count: int
    use: float
    charge: float


def turns_before(own: Waiting, others: Sequence[Waiting]) -> int:
    """
    Return how many grants come before a project's next one after its `count` earlier requests.

    Whoever has the least use is served and charged, as `next_waiter_1` does: another project has
    its turns until its use has reached what this one will have used by then.
    """
    reached = own.use + own.count * own.charge
    return own.count + sum(
        min(each.count, max(0, ceil((reached - each.use) / each.charge))) for each in others
    )


def position_of(request: Request) -> int:
    """Return a waiting request's place in its pool's queue, from 1; two reads of the queue."""
    rows = rows_of(_QUEUE, {"id": request.id})
    projects = [
        Waiting(project, count, _use(log_usage, at_s, half_life_s), _charge(mean_s, weight))
        for project, count, log_usage, weight, mean_s, half_life_s, at_s in rows
    ]
    own = next((p for p in projects if p.project == request.project), None)
    others = [p for p in projects if p is not own]
    ahead = rows_of(_HIGHER, {"id": request.id})[0][0]
    return 1 + int(ahead) + (turns_before(own, others) if own else 0)


def _use(log_usage: float | None, at_s: float, half_life_s: float) -> float:
    if log_usage is None:
        return 0.0
    # More than 1,000 half-lives of use at once is no use that anybody could have had.
    newest = min(log_usage, at_s / half_life_s + 1000)
    return fairness.usage_now(newest, at_s=at_s, half_life_s=half_life_s)


def _charge(mean_s: float, weight: float) -> float:
    return max(LEAST_CHARGE_S, mean_s) / weight


_READY = "(q.not_before IS NULL OR q.not_before <= clock_timestamp())"
_HIGHER = f"""
    SELECT count(*) FROM request r JOIN request q USING (agent_type)
    WHERE r.id = %(id)s AND q.status = 'waiting' AND q.priority > r.priority AND {_READY}
    """  # noqa: S608
# The request's own project is always among them, with those of its requests that came earlier.
_QUEUE = f"""
    SELECT x.project, x.waiting, s.log_usage, coalesce(l.weight, 1), p.mean_service_s,
        p.share_half_life_s, extract(epoch FROM clock_timestamp())::float8
      FROM (
        SELECT r.agent_type, q.project, count(*) FILTER (WHERE q.id <> r.id AND {_READY}
            AND (q.project <> r.project OR q.number < r.number)) AS waiting
          FROM request r JOIN request q USING (agent_type, priority)
          WHERE r.id = %(id)s AND q.status = 'waiting'
          GROUP BY r.agent_type, q.project) x
        JOIN pool p USING (agent_type)
        LEFT JOIN share s ON s.agent_type = x.agent_type AND s.project = x.project
        LEFT JOIN resource_limit l ON l.level = 'project' AND l.name = x.project
    """  # noqa: S608
