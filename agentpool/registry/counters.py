"""
Counts for /metrics what only grows, in rows: right with any number of processes, whoever restarts.

The collector counts events in its own transaction. What leaves no event (a refused stale token, how
long a decision took) a process adds up in memory and hands over every few seconds; one that is
killed loses those seconds.
"""

import bisect
import json
import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from django.db import DatabaseError, connection
from django.db.models import Count, Q, Sum

from agentpool.registry import measuring
from agentpool.registry.measuring import Fact
from agentpool.registry.models import MetricState, ScalingDecision, ScalingEvent
from agentpool.registry.states import Outcome

log = logging.getLogger(__name__)

# Upper bounds of the histograms, seconds.
WAIT_BOUNDS_S = (0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)
DURATION_BOUNDS_S = (1, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 14_400)
DECISION_BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
BOUNDS: Mapping[str, tuple[float, ...]] = {
    "agentpool_assign_wait_seconds": WAIT_BOUNDS_S,
    "agentpool_lease_duration_seconds": DURATION_BOUNDS_S,
    "agentpool_decision_duration_seconds": DECISION_BOUNDS_S,
}
# Where a lease was lost, the beginning of why, as its end says it.
CAUSES = {
    "the agent was lost": "agent_lost",
    "the offer was not acknowledged": "not_acknowledged",
    "nobody renewed the lease": "not_renewed",
    "the hard end was reached": "hard_end",
}
_LEFT = {"request.refused": "refused", "request.timed_out": "timed_out"}
_LEFT |= {"request.cancelled": "cancelled"}
# Chosen for what it has worked on before.
_WARM = ("preferred", "affinity")
# A decision's row may be committed this long after its time.
_DECISION_LAG_S = 5.0

Labels = tuple[tuple[str, str], ...]


@dataclass
class Increments:
    """How much each counter grows, by family and labels."""

    values: dict[tuple[str, Labels], float] = field(default_factory=dict)

    def add(self, family: str, labels: Mapping[str, str], value: float = 1) -> None:
        """Let one counter grow."""
        key = (family, tuple(sorted(labels.items())))
        self.values[key] = self.values.get(key, 0) + value

    def observe(self, family: str, labels: Mapping[str, str], value: float) -> None:
        """Count a value into a histogram: its bucket, and the sum."""
        bounds = BOUNDS[family]
        place = bisect.bisect_left(bounds, value)
        bound = f"{bounds[place]:g}" if place < len(bounds) else "+Inf"
        self.add(f"{family}_bucket", {"le": bound, **labels})
        self.add(f"{family}_sum", labels, value)

    def count(self, fact: Fact) -> None:
        """Count one thing that happened."""
        of = {"type": fact.agent_type}
        if fact.is_arrival:
            self.add("agentpool_request_arrivals_total", of)
        if left := _LEFT.get(fact.kind):
            self.add("agentpool_requests_total", {"outcome": left, **of})
        if fact.waited_s is not None:
            self.add("agentpool_requests_total", {"outcome": "granted", **of})
            self.observe("agentpool_assign_wait_seconds", of, max(0.0, fact.waited_s))
            result = "hit" if fact.tier in _WARM else "miss"
            self.add("agentpool_warm_hits_total", {"result": result, **of})
        if fact.outcome is not None:
            self._count_end(fact, str(fact.outcome), of)

    def _count_end(self, fact: Fact, outcome: str, of: Mapping[str, str]) -> None:
        self.observe(
            "agentpool_lease_duration_seconds", {"outcome": outcome, **of}, fact.duration_s
        )
        if outcome == Outcome.LOST:
            cause = next((c for told, c in CAUSES.items() if fact.error.startswith(told)), "other")
            self.add("agentpool_leases_lost_total", {"cause": cause, **of})
        provider = {"provider": fact.provider or "unknown"}
        for direction, count in (("input", fact.tokens_in), ("output", fact.tokens_out)):
            if count:
                about = {"direction": direction, **of, **provider}
                self.add("agentpool_tokens_total", about, count)
        if fact.cost_usd:
            self.add("agentpool_cost_usd_total", provider, fact.cost_usd)


def count_decisions(state: MetricState, increments: Increments) -> None:
    """Count the scaling decisions since the last time; moves the state's mark."""
    until = measuring.ago(_DECISION_LAG_S)
    rows = ScalingDecision.objects.filter(at__lte=until)
    if state.decisions_until is not None:
        rows = rows.filter(at__gt=state.decisions_until)
    found = rows.order_by().values("pool_id", "action", "mode").annotate(n=Count("id"))
    for row in found:
        about = {"type": str(row["pool_id"]), "action": row["action"], "mode": row["mode"]}
        increments.add("agentpool_scaling_decisions_total", about, row["n"])
    _count_growth(state, increments, until)
    state.decisions_until = until


def _count_growth(state: MetricState, increments: Increments, until: datetime) -> None:
    """Count the agents that pools were missing: woken from standby, or launched."""
    rows = ScalingEvent.objects.filter(Q(woken__gt=0) | Q(cold__gt=0), at__lte=until)
    if state.decisions_until is not None:
        rows = rows.filter(at__gt=state.decisions_until)
    found = rows.order_by().values("pool_id").annotate(hit=Sum("woken"), miss=Sum("cold"))
    for row in found:
        for result in ("hit", "miss"):
            if row[result]:
                about = {"type": str(row["pool_id"]), "result": result}
                increments.add("agentpool_standby_hits_total", about, row[result])


def store(increments: Increments) -> None:
    """Add to the rows, in one statement; rows are locked in their order."""
    if not increments.values:
        return
    families, labels, values = [], [], []
    for (family, named), value in sorted(increments.values.items()):
        families.append(family)
        labels.append(json.dumps(dict(named)))
        values.append(float(value))
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO metric_total (family, labels, value)"
            " SELECT f, l::jsonb, v FROM unnest(%s::text[], %s::text[], %s::float8[]) u (f, l, v)"
            " ORDER BY f, l ON CONFLICT (family, labels)"
            " DO UPDATE SET value = metric_total.value + excluded.value",
            [families, labels, values],
        )


# -- what a process adds up ------------------------------------------------------------------------

FLUSH_S = 15.0
_lock = threading.Lock()
_pending = Increments()
_flushed_at = time.monotonic()


def add(family: str, labels: Mapping[str, str], value: float = 1) -> None:
    """Count what leaves no event; `flush` hands it over."""
    with _lock:
        _pending.add(family, labels, value)


def observe(family: str, labels: Mapping[str, str], value: float) -> None:
    """Count a value that leaves no event into a histogram; `flush` hands it over."""
    with _lock:
        _pending.observe(family, labels, value)


def flush_if_due() -> None:
    """
    Hand over where nothing else does it each few seconds, as in a process that only serves REST.

    Must run outside of a transaction, which would hold the counters' rows; fails silently, as
    counting must not harm a call.
    """
    if time.monotonic() - _flushed_at > FLUSH_S:
        try:
            flush()
        except DatabaseError as error:
            log.warning("could not hand over counters: %s", error)


def flush() -> None:
    """Hand over what this process has added up; what cannot be written stays for the next time."""
    global _pending, _flushed_at
    with _lock:
        taken, _pending = _pending, Increments()
        _flushed_at = time.monotonic()
    try:
        store(taken)
    except Exception:
        with _lock:
            for key, value in taken.values.items():
                _pending.values[key] = _pending.values.get(key, 0) + value
        raise
