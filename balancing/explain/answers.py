"""Puts the explanation of one request together: filters, candidates, position, timeline."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from agentpool.registry.errors import NotFound
from agentpool.registry.models import Event, LockKey, Request
from agentpool.registry.states import RequestStatus
from balancing import grants, queries
from balancing.explain import funnel, misses, turns
from balancing.explain.funnel import Filter
from balancing.explain.misses import Miss, rows_of
from balancing.explain.reasons import Facts, Reason, facts_of, reason_of

CANDIDATES_SHOWN = 3
TIMELINE_SHOWN = 200

Card = Mapping[str, Any]


@dataclass(frozen=True)
class Moment:
    """One thing that happened to a request."""

    at: datetime
    kind: str
    reason: str


@dataclass(frozen=True)
class Explanation:
    """
    Why this agent, or why it still waits.

    filters, candidates of a waiting request: as they are now; of another one, filters as they are
    now, and candidates as the claim stored them. position, from 1, and expected_wait_s: of a
    waiting one only; None: not known. nearest: who of those with a free slot comes nearest now.
    """

    request: Request
    code: str
    reason: str
    filters: Sequence[Filter]
    candidates: Sequence[Card]
    timeline: Sequence[Moment]
    chosen: Card | None = None
    runner_up: Card | None = None
    position: int | None = None
    expected_wait_s: float | None = None
    nearest: Miss | None = field(default=None)


def explain(request: Request) -> Explanation:
    """
    Return the explanation of a request as it stands; some ten reads, the largest of its pool.

    Raises: NotFound, it was deleted meanwhile.
    """
    if request.status == RequestStatus.WAITING:
        return _waiting(request)
    return _answered(request)


# -- why it waits ----------------------------------------------------------------------------------


def _waiting(request: Request) -> Explanation:
    facts = facts_of([request]).get(request.id)
    if facts is None:
        raise NotFound(f"There is no request {request.id} any more.")
    reason = reason_of(facts)
    filters = _filters(request)
    position = turns.position_of(request)
    miss = funnel.nearest_now(request) if reason.code == "busy" and facts.free else None
    return Explanation(
        request=request,
        code=reason.code,
        reason=_in_numbers(reason, facts, filters, miss, position),
        filters=filters,
        candidates=_candidates(request, facts),
        timeline=_timeline(request),
        position=position,
        expected_wait_s=_expected_wait_s(request, facts, position),
        nearest=miss if miss and miss.lacks else misses.nearest(request) if facts.lacks else None,
    )


def _in_numbers(
    reason: Reason, facts: Facts, filters: Sequence[Filter], miss: Miss | None, position: int
) -> str:
    if reason.code == "turn":
        if position == 1:
            return "an agent is free and it is its turn: the queue is being looked at"
        return f"{reason.sentence}: {position - 1} before it"
    if reason.code == "busy" and not facts.free:
        return funnel.all_busy(filters, "agent")
    if reason.code == "busy" and miss is not None and miss.lacks:
        return f"{reason.sentence}; nearest with a free slot is {miss.who}: {miss.sentence}"
    return reason.sentence


def _filters(request: Request) -> list[Filter]:
    """Return the funnel with what comes after the agents: lock keys, ceilings, limits by name."""
    found = funnel.funnel(request)
    bounds = misses.binding(request, misses.bounds_on([request]))
    others = LockKey.objects.filter(key__in=request.lock_keys).exclude(lease__request=request)
    held = others.exists()
    gates = [("lock keys", held), ("ceilings", bool(misses.ceilings(request, bounds)))]
    for bound in bounds:
        if bound.free != grants.UNLIMITED:
            kept = bound.kept_for not in (None, request.id)
            gates.append((bound.name, kept or bool(misses.shortages(request, bound))))
    for name, is_shut in gates:
        left = found[-1].kept
        found.append(Filter(name, 0 if is_shut else left, left if is_shut else 0))
    return found


def _candidates(request: Request, facts: Facts) -> list[Card]:
    """Return who would be asked first now, best first, as the claim's own function ranks them."""
    rows = rows_of(_CANDIDATES, [request.id])
    cards = json.loads(rows[0][0]) if rows else []
    # Hard affinity is decided before any strategy is asked.
    free = [card for card in cards if facts.bound in (None, card["agent_id"])]
    return free[:CANDIDATES_SHOWN]


_CANDIDATES = """
    SELECT cards_1(candidates_1(
        r, coalesce(nullif(r.strategy, ''), p.strategy), w.ids, w.warmth, '{}', '{}'), 16)
      FROM request r JOIN pool p USING (agent_type)
      CROSS JOIN LATERAL (
        SELECT array_agg(w.agent_id) AS ids, array_agg(w.warmth) AS warmth
          FROM warm_1(r, p.affinity_half_life_s) w WHERE r.affinity = 'soft') w
    WHERE r.id = %s"""


def _expected_wait_s(request: Request, facts: Facts, position: int) -> float | None:
    """
    Return how long a request will wait, seconds, None: it cannot be told.

    That is when nothing was measured, nobody could, or it waits for a lock, which no free slot is.
    Each of the slots that could serve it comes free once a mean service time: so the next one after
    mean / slots, and the one for whoever is at this position after as many of those.
    """
    if facts.key is not None:
        return None
    mean_s, slots = rows_of(_SLOTS, [misses.record_of(request)])[0]
    if mean_s is None or not slots:
        return None
    back_off = (facts.not_before - facts.at).total_seconds() if facts.not_before else 0.0
    return float(round(max(0.0, back_off) + position * mean_s / slots, 3))


_SLOTS = """
    SELECT CASE WHEN EXISTS (SELECT FROM outlook t
          WHERE t.agent_type = p.agent_type AND t.agent_id IS NULL) THEN p.mean_service_s END,
        (SELECT sum(a.max_concurrent) FROM capability_class c
            JOIN agent a ON a.capability_class = c.id
          WHERE c.agent_type = r.agent_type AND c.agents > 0 AND able_1(c, r)
            AND a.status IN ('busy', 'idle') AND a.health IN ('good', 'probation', 'unknown')
            AND a.agent_id <> ALL (r.avoid_agents))
      FROM jsonb_populate_record(NULL::request, %s::jsonb) r JOIN pool p USING (agent_type)"""


# -- why this agent --------------------------------------------------------------------------------


def _answered(request: Request) -> Explanation:
    lease = queries.newest_lease_of(request.id)
    decision = dict(lease.decision) if lease else {}
    ranked = list(decision.pop("candidates", None) or ())
    chosen = {"agent_id": lease.agent.agent_id, **decision} if lease else None
    runner_up = next((c for c in ranked if chosen and c["agent_id"] != chosen["agent_id"]), None)
    reason = _TIERS.get(decision.get("tier", ""), "") if lease else request.reason
    return Explanation(
        request=request,
        code=decision.get("tier", request.status),
        reason=reason.format(**decision) if lease else reason,
        filters=_filters(request),
        candidates=ranked or ([chosen] if chosen else []),
        timeline=_timeline(request),
        chosen=chosen,
        runner_up=runner_up,
    )


_TIERS = {
    "preferred": "it was the preferred agent and had room",
    "affinity": "it remembers the cycle, the project or its paths",
    "strategy": "it was the best by {strategy}",
    "contended": "the best by {strategy} were being given to others; it was the least loaded left",
    "queue": "it came free when it was this request's turn",
}


# -- what happened ---------------------------------------------------------------------------------


def _timeline(request: Request) -> list[Moment]:
    events = Event.objects.filter(request_id=request.id).exclude(kind="lease.log").order_by("id")
    return [Moment(each.at, each.kind, _told(each)) for each in events[:TIMELINE_SHOWN]]


def _told(event: Event) -> str:
    detail = event.detail
    noun, _, word = event.kind.partition(".")
    if noun == "request":
        why = detail.get("reason", "")
        return str(why) if word in ("waiting", "reason") else f"{word}: {why}".rstrip(": ")
    if word in ("active", "offered"):
        if "tier" not in detail:
            return f"acknowledged by {event.agent_id}"
        return f"{_GRANTS[word]} {event.agent_id} ({detail['tier']})"
    why = detail.get("reason") or detail.get("error") or detail.get("outcome") or ""
    again = ", waits again" if detail.get("waits_again") else ""
    return f"{word} on {event.agent_id}{f': {why}' if why else ''}{again}"


_GRANTS = {"active": "granted on", "offered": "offered to"}
