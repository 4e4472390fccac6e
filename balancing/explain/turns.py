"""Says how many are served before a waiting request: priority, then fair share, then arrival."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from uuid import UUID

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
    its turns until its use has reached what this one will have used by then. (Rounded: whoever has
    reached it is not to have one more turn for the last digit of a decayed number.)
    """
    reached = own.use + own.count * own.charge
    return own.count + sum(
        min(each.count, max(0, ceil(round((reached - each.use) / each.charge, 6))))
        for each in others
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


@dataclass(frozen=True)
class Turn:
    """A waiting request's place in its pool's queue, from 1; None: no wait can be told."""

    position: int
    expected_wait_s: float | None


def turns_of(requests: Sequence[Request]) -> Mapping[UUID, Turn]:
    """
    Return the turns of many waiting requests, in three reads of their queues.

    The wait of one that backs off is that of its place: its back-off is not in it.
    """
    if not requests:
        return {}
    ids = [request.id for request in requests]
    types = list({request.pool_id for request in requests})
    groups: dict[tuple[str, int], list[Waiting]] = {}
    for (
        agent_type,
        priority,
        project,
        count,
        log_usage,
        weight,
        mean_s,
        half_life_s,
        at_s,
    ) in rows_of(_GROUPS, {"types": types}):
        use, charge = _use(log_usage, at_s, half_life_s), _charge(mean_s, weight)
        groups.setdefault((agent_type, priority), []).append(Waiting(project, count, use, charge))
    service = {row[:2]: row[2:] for row in rows_of(_SERVICE, {"ids": ids})}
    found = {}
    for id, agent_type, priority, project, shape, earlier, is_locked in rows_of(
        _PLACES, {"ids": ids}
    ):
        position = _position(groups, agent_type, priority, project, int(earlier))
        mean_s, slots = service.get((agent_type, shape), (None, None))
        is_known = mean_s is not None and slots and not is_locked
        wait_s = round(position * mean_s / slots, 3) if is_known else None
        found[id] = Turn(position, wait_s)
    return found


def _position(
    groups: Mapping[tuple[str, int], Sequence[Waiting]],
    agent_type: str,
    priority: int,
    project: str,
    earlier: int,
) -> int:
    ahead = sum(
        each.count
        for (type_, above), others in groups.items()
        if type_ == agent_type and above > priority
        for each in others
    )
    equals = groups.get((agent_type, priority), [])
    own = next((each for each in equals if each.project == project), None)
    others = [each for each in equals if each is not own]
    if own is None:
        return 1 + ahead
    return 1 + ahead + turns_before(Waiting(project, earlier, own.use, own.charge), others)


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
        p.share_half_life_s, extract(epoch FROM statement_timestamp())::float8
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
# Every project that waits, also one whose requests all back off: with none of them counted then.
_GROUPS = f"""
    SELECT x.agent_type, x.priority, x.project, x.waiting, s.log_usage, coalesce(l.weight, 1),
        p.mean_service_s, p.share_half_life_s, extract(epoch FROM statement_timestamp())::float8
      FROM (
        SELECT q.agent_type, q.priority, q.project, count(*) FILTER (WHERE {_READY}) AS waiting
          FROM request q WHERE q.agent_type = ANY (%(types)s) AND q.status = 'waiting'
          GROUP BY 1, 2, 3) x
        JOIN pool p USING (agent_type)
        LEFT JOIN share s ON s.agent_type = x.agent_type AND s.project = x.project
        LEFT JOIN resource_limit l ON l.level = 'project' AND l.name = x.project
    """  # noqa: S608
_PLACES = f"""
    SELECT r.id, r.agent_type, r.priority, r.project, r.shape, n.earlier,
        EXISTS (SELECT FROM lock_key k WHERE k.key = ANY (r.lock_keys))
      FROM request r CROSS JOIN LATERAL (
        SELECT count(*) AS earlier FROM request q
          WHERE q.agent_type = r.agent_type AND q.priority = r.priority AND q.project = r.project
            AND q.status = 'waiting' AND q.number < r.number AND {_READY}) n
      WHERE r.id = ANY (%(ids)s::uuid[]) AND r.status = 'waiting'
    """  # noqa: S608
_SERVICE = """
    SELECT r.agent_type, r.shape,
        CASE WHEN EXISTS (SELECT FROM outlook t
          WHERE t.agent_type = p.agent_type AND t.agent_id IS NULL) THEN p.mean_service_s END,
        (SELECT sum(a.max_concurrent) FROM capability_class c
            JOIN agent a ON a.capability_class = c.id
          WHERE c.agent_type = r.agent_type AND c.agents > 0 AND able_1(c, r)
            AND a.status IN ('busy', 'idle') AND a.health IN ('good', 'probation', 'unknown')
            AND a.agent_id <> ALL (r.avoid_agents))
      FROM pool p JOIN (SELECT DISTINCT ON (agent_type, shape) * FROM request
        WHERE id = ANY (%(ids)s::uuid[])) q USING (agent_type)
        JOIN request r ON r.id = q.id"""
