"""Says why requests wait: the first of the ordered reasons that holds, in one read for many."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from agentpool.registry.models import Request
from balancing.explain import misses
from balancing.explain.misses import Bound, rows_of


@dataclass(frozen=True)
class Reason:
    """
    Why a request waits.

    code: backing_off, locked, ceiling, limit, standby, nobody, unfit, bound, unable, kept, busy or
    turn.
    short: without numbers that move, to be stored; sentence: with them.
    """

    code: str
    short: str
    sentence: str


@dataclass(frozen=True)
class Facts:
    """
    What one look at the pool says of a waiting request; `Reason` follows from it alone.

    ceilings, shortages: sentences; shortages with the limit's name, "" as sentence: it is kept for
    another. alive, sound, free: is there an agent idle or busy; of these, in health; of these, with
    a slot. resting: is there one on standby, in health; woken: does scaling wake it by itself.
    able: could one that is there ever serve it; fits: could one now.
    """

    at: datetime
    error: str = ""
    not_before: datetime | None = None
    attempts: int = 0
    key: str | None = None
    holder: str = ""
    ceilings: tuple[str, ...] = ()
    shortages: tuple[tuple[str, str], ...] = ()
    there: bool = False
    resting: bool = False
    woken: bool = False
    alive: bool = False
    sound: bool = False
    free: bool = False
    able: bool = False
    fits: bool = False
    bound: str | None = None
    kept: str | None = None
    lacks: str = ""


def reason_of(facts: Facts) -> Reason:
    """Return the first reason that holds; the order is fixed: what waiting itself ends, first."""
    if facts.not_before is not None and facts.not_before > facts.at:
        until = f"{facts.not_before:%H:%M:%S} UTC, after attempt {facts.attempts}"
        why = facts.error.removeprefix("backing off: ")
        return Reason("backing_off", facts.error, f"backing off until {until}: {why}")
    if facts.key is not None:
        text = f"{facts.key} is locked" + (f" by {facts.holder}" if facts.holder else "")
        return Reason("locked", text, text)
    if facts.ceilings:
        return Reason("ceiling", facts.ceilings[0], "; ".join(facts.ceilings))
    if facts.shortages:
        name, sentence = facts.shortages[0]
        if not sentence:
            text = f"the {name} is kept for a request that waits longer"
            return Reason("limit", text, text)
        return Reason("limit", f"the {name} leaves too little", sentence)
    return _of_agents(facts)


def _of_agents(facts: Facts) -> Reason:
    if not facts.alive:
        return _of_none(facts)
    if not facts.sound:
        text = "every agent is quarantined or in maintenance"
        return Reason("unfit", text, text)
    if not facts.able:
        text = f"no agent has what it needs: {facts.lacks}" if facts.lacks else "no agent can"
        return Reason("unable", text, text)
    if facts.fits:
        text = "an agent is free; it is the turn of others"
        return Reason("turn", text, text)
    if facts.bound is not None:
        text = f"it waits for {facts.bound}, which worked on its cycle"
        return Reason("bound", text, text)
    if facts.kept is not None:
        text = f"{facts.kept} is kept for it, as soon as it has room"
        return Reason("kept", text, text)
    who = "the agents that could serve it are" if facts.free else "all agents are"
    return Reason("busy", f"{who} busy", f"{who} busy")


def _of_none(facts: Facts) -> Reason:
    if facts.resting and facts.woken and facts.able:
        text = "its agents are on standby and are being woken"
        return Reason("standby", text, text)
    text = "no agent is alive" if facts.there else "there are no agents"
    if facts.resting:
        text = "all agents are on standby; scaling wakes them only in the mode auto"
        if not facts.able:
            text = "all agents are on standby, and none of them has what it needs"
    return Reason("nobody", text, text)


def reasons(requests: Sequence[Request]) -> Mapping[UUID, Reason]:
    """Return why each of these waiting requests waits; a fixed number of queries for any number."""
    return {id: reason_of(facts) for id, facts in facts_of(requests).items()}


def facts_of(requests: Sequence[Request]) -> Mapping[UUID, Facts]:
    """Return what is so for each of these requests now; agents are asked once for each shape."""
    if not requests:
        return {}
    bounds = misses.bounds_on(requests)
    by_id = {request.id: request for request in requests}
    found: dict[UUID, Facts] = {}
    lacks: dict[Any, str] = {}
    for id, at, key, holder, shape, kept, *flags, bound in rows_of(_FACTS, [list(by_id)]):
        request = by_id[id]
        there, resting, woken, alive, sound, free, able, fits = flags
        if sound and not able and (request.pool_id, shape) not in lacks:
            miss = misses.nearest(request)
            lacks[request.pool_id, shape] = f"{miss.who}: {miss.sentence}" if miss else ""
        found[id] = Facts(
            at=at,
            error=request.reason,
            not_before=request.not_before,
            attempts=request.attempts,
            key=key,
            holder=holder or "",
            ceilings=tuple(lack.sentence for lack in misses.ceilings(request, bounds)),
            shortages=_shortages(request, bounds),
            there=there,
            resting=resting,
            woken=woken,
            alive=alive,
            sound=sound,
            free=free,
            able=able,
            fits=fits,
            bound=bound,
            kept=kept,
            lacks=lacks.get((request.pool_id, shape), ""),
        )
    return found


def _shortages(request: Request, bounds: Sequence[Bound]) -> tuple[tuple[str, str], ...]:
    found = []
    for bound in misses.binding(request, bounds):
        if bound.kept_for not in (None, request.id):
            found.append((bound.name, ""))
        found += [(bound.name, lack.sentence) for lack in misses.shortages(request, bound)]
    return tuple(found)


# Agents are looked at once a pool and once a shape; a placeable one is found by agent_placeable.
_FACTS = """
    WITH w AS MATERIALIZED (SELECT q FROM request q WHERE q.id = ANY (%s::uuid[])),
    pools AS MATERIALIZED (
      SELECT t.agent_type, c.there, f.free,
          NOT f.free AND c.there AND EXISTS (SELECT FROM agent a WHERE a.agent_type = t.agent_type
            AND a.status = 'standby' AND a.health IN ('good', 'probation', 'unknown')) AS resting,
          EXISTS (SELECT FROM scaling_policy s
            WHERE s.agent_type = t.agent_type AND s.mode = 'auto') AS woken,
          f.free OR (c.there AND EXISTS (SELECT FROM agent a WHERE a.agent_type = t.agent_type
            AND a.status IN ('busy', 'idle'))) AS alive,
          f.free OR (c.there AND EXISTS (SELECT FROM agent a WHERE a.agent_type = t.agent_type
            AND a.status IN ('busy', 'idle')
            AND a.health IN ('good', 'probation', 'unknown'))) AS sound
        FROM (SELECT DISTINCT (q).agent_type FROM w) t
          CROSS JOIN LATERAL (SELECT EXISTS (SELECT FROM capability_class c
            WHERE c.agent_type = t.agent_type AND c.agents > 0) AS there) c
          CROSS JOIN LATERAL (SELECT EXISTS (SELECT FROM agent a
            WHERE a.agent_type = t.agent_type AND a.status IN ('busy', 'idle')
              AND a.health IN ('good', 'probation', 'unknown')
              AND a.load < a.max_concurrent) AS free) f),
    shapes AS MATERIALIZED (
      SELECT o.agent_type, o.shape, b.agent_id AS bound, x.able,
          x.able AND p.free AND EXISTS (SELECT FROM agent a
            WHERE a.agent_type = o.agent_type AND a.status IN ('busy', 'idle')
              AND a.health IN ('good', 'probation', 'unknown') AND a.load < a.max_concurrent
              AND fits_1(a, o.q) AND (b.id IS NULL OR b.id = a.id)) AS fits
        FROM (SELECT DISTINCT ON ((q).agent_type, (q).shape)
            (q).agent_type, (q).shape, q FROM w) o
          JOIN pools p USING (agent_type)
          CROSS JOIN LATERAL (SELECT EXISTS (SELECT FROM capability_class c
            WHERE c.agent_type = o.agent_type AND c.agents > 0 AND able_1(c, o.q)
              AND ((o.q).avoid_agents = '{}' OR EXISTS (SELECT FROM agent a
                WHERE a.capability_class = c.id AND a.status NOT IN ('lost', 'retired')
                  AND a.agent_id <> ALL ((o.q).avoid_agents)))) AS able) x
          LEFT JOIN agent b ON (o.q).affinity = 'hard' AND b.id = bound_to_1(o.q))
    SELECT (q).id, clock_timestamp(), k.key, k.holder, (q).shape, r.agent_id,
        p.there, p.resting, p.woken, p.alive, p.sound, p.free, s.able, s.fits, s.bound
      FROM w JOIN pools p ON p.agent_type = (q).agent_type
        JOIN shapes s ON s.agent_type = (q).agent_type AND s.shape = (q).shape
        LEFT JOIN agent r ON r.id = (q).reserved_agent
        LEFT JOIN LATERAL (
          SELECT h.key, coalesce(nullif(l.cycle_id, ''), l.project) AS holder
            FROM lock_key h JOIN lease l ON l.id = h.lease_id
            WHERE h.key = ANY ((q).lock_keys) ORDER BY h.key LIMIT 1) k ON true"""
