"""Counts, filter by filter, how many of a pool's agents are left for a request now."""

from collections.abc import Sequence
from dataclasses import dataclass

from agentpool.registry.models import Agent, Request
from balancing import fit
from balancing.explain.misses import GONE, Miss, capacity_of, needs_of, record_of, rows_of

# Agents that are compared in numbers to name the nearest one: those that pass the most filters.
AGENTS_JUDGED = 20

# Each filter with what makes an agent fail it, in the order of the claim's own (fits_1.sql).
FILTERS = (
    ("status", "a.status NOT IN ('busy', 'idle')"),
    ("health", "a.health NOT IN ('good', 'probation', 'unknown')"),
    (
        "free slot",
        "a.load >= CASE a.health WHEN 'probation' THEN 1 ELSE a.max_concurrent END",
    ),
    ("not kept for another", "a.reserved_for <> r.id"),
    (
        "memory",
        "a.memory_mb - a.used_memory_mb < greatest(r.min_memory_mb, r.memory_mb::bigint * 8 / 10)",
    ),
    (
        "cpu",
        "a.cpu_cores - a.used_cpu_cores < greatest(r.min_cpu_cores, trunc(r.cpu_cores * 0.8, 3))",
    ),
    ("tokens", "a.token_budget - a.used_token_budget < r.token_budget"),
    ("disk", "a.disk_space_mb - a.used_disk_space_mb < r.disk_space_mb"),
    ("security", "a.security_level < r.security_level"),
    ("isolation", "NOT r.isolation_level <= ANY (a.isolation_levels)"),
    ("tools", "NOT a.tools @> r.special_tools"),
    ("capabilities", "NOT a.capabilities @> r.capabilities"),
    ("labels", "NOT (a.labels @> r.labels AND rules_hold_1(a.labels, a.capabilities, r.rules))"),
    ("avoid_agents", "a.agent_id = ANY (r.avoid_agents)"),
    ("affinity", "a.id <> r.bound"),
)
SLOT = 2


@dataclass(frozen=True)
class Filter:
    """One filter: how many agents it left, how many it dropped."""

    name: str
    kept: int
    dropped: int


def funnel(request: Request) -> list[Filter]:
    """Return the filters in their order; one read of the pool's agents that are not gone."""
    stopped = dict(rows_of(_COUNTS, [record_of(request), *_GONE]))
    left = sum(stopped.values())
    filters = []
    for place, (name, _) in enumerate(FILTERS):
        dropped = stopped.get(place, 0)
        left -= dropped
        filters.append(Filter(name, left, dropped))
    return filters


def nearest_now(request: Request) -> Miss | None:
    """Return who comes nearest with what it has free now, None: nobody has a free slot."""
    rows = rows_of(_FURTHEST, [record_of(request), *_GONE, SLOT, AGENTS_JUDGED])
    agents = Agent.objects.filter(id__in=[row[0] for row in rows])
    found = fit.nearest((capacity_of(a, free=True) for a in agents), needs_of(request))
    return Miss(found[0].agent_id, found[1]) if found else None


def left(filters: Sequence[Filter], name: str) -> int:
    """Return how many agents a filter has left."""
    return next(each.kept for each in filters if each.name == name)


def all_busy(filters: Sequence[Filter], noun: str) -> str:
    """Return the words for a pool without a free slot."""
    count = left(filters, "health")
    if count == 1:
        return f"the only {noun} that takes work is busy"
    return f"all {count} {noun}s that take work are busy"


_GONE = [status.value for status in GONE]
_STOPS = "\n".join(f"WHEN {fails} THEN {place}" for place, (_, fails) in enumerate(FILTERS))
# Every name here is a constant of this file.
_STOPPED = f"""
    WITH r AS MATERIALIZED (
      SELECT q.*, CASE WHEN q.affinity = 'hard' THEN bound_to_1(q) END AS bound
      FROM jsonb_populate_record(NULL::request, %s::jsonb) q)
    SELECT a.id, a.load, CASE {_STOPS} ELSE {len(FILTERS)} END AS stop
      FROM r JOIN agent a ON a.agent_type = r.agent_type
      WHERE a.status NOT IN (%s, %s)"""  # noqa: S608
_COUNTS = f"SELECT x.stop, count(*) FROM ({_STOPPED}) x GROUP BY x.stop"  # noqa: S608
_FURTHEST = (
    f"SELECT x.id FROM ({_STOPPED}) x WHERE x.stop > %s"  # noqa: S608
    " ORDER BY x.stop DESC, x.load, x.id LIMIT %s"
)
