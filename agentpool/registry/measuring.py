"""Reads what the pools look like now, what has happened to them, and what was kept of it."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import connection
from django.db.models import QuerySet

from agentpool.registry import metrics, queries
from agentpool.registry.metrics import FINEST_S, Flows, Gauges, Stretch
from agentpool.registry.models import Pool, PoolSample

# The rates of "now" look back this far; efficiency further, as the seed has it.
NOW_S = 60.0
EFFICIENCY_S = 3600.0
# A series without a step has about this many points.
POINTS = 240

_GAUGES = """
    SELECT p.agent_type, coalesce(a.total, 0), coalesce(a.idle, 0), coalesce(a.busy, 0),
      coalesce(a.standby, 0), coalesce(a.slots, 0), coalesce(a.used, 0), coalesce(q.waiting, 0),
      coalesce(a.memory_mb, 0), coalesce(a.cpu_cores, 0)::float8, coalesce(a.tokens, 0)::float8
    FROM pool p
    LEFT JOIN (
      SELECT agent_type,
        count(*) FILTER (WHERE status <> 'starting') AS total,
        count(*) FILTER (WHERE status = 'idle') AS idle,
        count(*) FILTER (WHERE status = 'busy') AS busy,
        count(*) FILTER (WHERE status = 'standby') AS standby,
        sum(max_concurrent) FILTER (WHERE status IN ('idle', 'busy')) AS slots,
        sum(load) FILTER (WHERE status IN ('idle', 'busy')) AS used,
        sum(used_memory_mb) AS memory_mb, sum(used_cpu_cores) AS cpu_cores,
        sum(used_token_budget) AS tokens
      FROM agent WHERE status NOT IN ('lost', 'retired') GROUP BY agent_type) a USING (agent_type)
    LEFT JOIN (SELECT agent_type, count(*) AS waiting FROM request WHERE status = 'waiting'
      GROUP BY agent_type) q USING (agent_type)
    ORDER BY p.agent_type
"""
# One row for each event that counts. An arrival is the first event of its request; where that has
# waited for longer than events are kept, it was counted long ago. A grant says what was waited; an
# end has an outcome row. A request that left its queue only counts by its kind.
_FACTS = """
    SELECT e.agent_type, e.at, e.kind,
      CASE WHEN e.kind = 'request.waiting' THEN e.detail->>'reason' = 'arrived'
        WHEN e.kind = 'request.refused' THEN true
        ELSE e.detail ? 'waited_s' AND e.detail->>'attempt' = '1'
          AND (e.detail->>'waited_s')::float8 < %(kept_s)s AND NOT EXISTS (
          SELECT FROM event w WHERE w.request_id = e.request_id AND w.kind = 'request.waiting') END,
      (e.detail->>'waited_s')::float8, e.detail->>'tier', e.detail->>'error',
      o.outcome, o.duration_s, o.peak_memory_mb, o.memory_mb, o.cpu_seconds, o.cpu_cores::float8,
      o.tokens_in, o.tokens_out, o.token_budget, o.cost_usd::float8, a.provider
    FROM event e
    LEFT JOIN outcome o ON o.lease_id = e.lease_id AND e.detail ? 'outcome'
    LEFT JOIN agent a ON a.id = o.agent_id
    WHERE {range} AND e.agent_type <> '' AND (e.kind = ANY (%(kinds)s))
"""
# As metrics.efficiency_of has it.
_EFFICIENCY = """
    SELECT agent_type, sum(part), count(part) FROM (
      SELECT o.agent_type, 0.4 * least(1, o.peak_memory_mb / nullif(o.memory_mb, 0))
        + 0.4 * least(1, CASE WHEN o.duration_s > 0 THEN o.cpu_seconds / o.duration_s ELSE 0 END
            / nullif(o.cpu_cores, 0)::float8)
        + 0.2 * least(1, (o.tokens_in + o.tokens_out)::float8 / nullif(o.token_budget, 0)) AS part
      FROM pool p JOIN outcome o USING (agent_type)
      WHERE o.ended_at > now() - make_interval(secs => %s)) x GROUP BY agent_type
"""
_NUMBERED = "e.id IN (SELECT event_id FROM event_number WHERE seq > %(after)s AND seq <= %(upto)s)"
_KINDS = [
    *("request.waiting", "request.refused", "request.timed_out", "request.cancelled"),
    *("lease.offered", "lease.active", "lease.released", "lease.expired", "lease.lost"),
    "lease.cancelled",
]


@dataclass(frozen=True, slots=True)
class Fact:
    """
    One thing that happened to a request or a lease, as the events and outcomes have it.

    waited_s: of a grant, None: it is none; outcome: of an end, None: it is none.
    """

    agent_type: str
    at: datetime
    kind: str
    is_arrival: bool
    waited_s: float | None
    tier: str
    error: str
    outcome: str | None
    duration_s: float
    efficiency: float | None
    tokens_in: int
    tokens_out: int
    cost_usd: float
    provider: str

    def flows(self) -> Flows:
        """Return what it counts for."""
        found = Flows(timed_out_requests=int(self.kind == "request.timed_out"))
        if self.is_arrival:
            found += metrics.arrived(is_refused=self.kind == "request.refused")
        if self.waited_s is not None:
            found += metrics.granted(waited_s=self.waited_s)
        if self.outcome is not None:
            found += metrics.ended(
                outcome=self.outcome,
                duration_s=self.duration_s,
                efficiency=self.efficiency,
                tokens=self.tokens_in + self.tokens_out,
                cost_usd=self.cost_usd,
            )
        return found


def gauges() -> Mapping[str, Gauges]:
    """Return what each pool looks like now; one pass over the agents, whatever their number."""
    with connection.cursor() as cursor:
        cursor.execute(_GAUGES)
        return {row[0]: Gauges(*map(float, row[1:])) for row in cursor.fetchall()}


def facts_between(after: int, upto: int) -> Iterator[Fact]:
    """Return what the events say whose numbers are above one and not above the other."""
    return _facts(_NUMBERED, {"after": after, "upto": upto})


def facts_since(seconds: float) -> Iterator[Fact]:
    """Return what happened in the last seconds, whether it is numbered yet or not."""
    return _facts("e.at > now() - make_interval(secs => %(seconds)s)", {"seconds": seconds})


def _facts(range_: str, params: Mapping[str, Any]) -> Iterator[Fact]:
    kept_s = settings.KEEP_EVENTS_DAYS * 86_400
    with connection.cursor() as cursor:
        cursor.execute(_FACTS.format(range=range_), {**params, "kept_s": kept_s, "kinds": _KINDS})
        yield from map(_fact, cursor.fetchall())


def _fact(found: Sequence[Any]) -> Fact:
    agent_type, at, kind, is_arrival, waited_s, tier, error, outcome, duration_s = found[:9]
    peak_mb, memory_mb, cpu_s, cores, tokens_in, tokens_out, budget, cost, provider = found[9:]
    efficiency = None
    if outcome is not None:
        tokens = float(tokens_in + tokens_out)
        mean_cores = cpu_s / duration_s if duration_s > 0 else 0.0
        used = {"memory_mb": peak_mb, "cpu_cores": mean_cores, "tokens": tokens}
        given = {"memory_mb": memory_mb, "cpu_cores": cores, "tokens": budget}
        efficiency = metrics.efficiency_of(used, given)
    return Fact(
        agent_type=agent_type,
        at=at,
        kind=kind,
        is_arrival=bool(is_arrival),
        waited_s=waited_s,
        tier=tier or "",
        error=error or "",
        outcome=outcome,
        duration_s=duration_s or 0.0,
        efficiency=efficiency,
        tokens_in=tokens_in or 0,
        tokens_out=tokens_out or 0,
        cost_usd=cost or 0.0,
        provider=provider or "",
    )


def now() -> tuple[datetime, Mapping[str, Stretch]]:
    """
    Return the moment, and what each pool is like: gauges of now, what happened in the last minute.

    Efficiency is that of the last hour's leases.
    """
    at = queries.now()
    happened: dict[str, list[Flows]] = {}
    for fact in facts_since(NOW_S):
        happened.setdefault(fact.agent_type, []).append(fact.flows())
    efficiency = _efficiency_of_last_hour()
    found = {}
    for agent_type, gauges_ in gauges().items():
        total_, count = efficiency.get(agent_type, (0.0, 0))
        flows = replace(
            metrics.summed(happened.get(agent_type, [])),
            efficiency_sum=total_,
            efficiency_count=count,
        )
        found[agent_type] = Stretch(NOW_S, 1, gauges_, flows)
    return at, found


def told(agent_type: str, at: datetime, stretch: Stretch) -> dict[str, Any]:
    """Return a stretch as the interface tells it."""
    return _told({"pool_id": agent_type, "at": at, **metrics.row(stretch)}, stretch.covered_s)


def _efficiency_of_last_hour() -> Mapping[str, tuple[float, int]]:
    """Return sum and count of the efficiency of the leases that ended in the last hour, by pool."""
    with connection.cursor() as cursor:
        cursor.execute(_EFFICIENCY, [EFFICIENCY_S])
        return {name: (value, count) for name, value, count in cursor.fetchall() if count}


# -- what was kept ---------------------------------------------------------------------------------


def kept_s() -> Mapping[int, float]:
    """Return how long stretches of each length are kept, seconds."""
    days = (
        settings.KEEP_SAMPLES_DAYS,
        settings.KEEP_SAMPLES_FIVE_MIN_DAYS,
        settings.KEEP_SAMPLES_HOURLY_DAYS,
        settings.KEEP_SAMPLES_HOURLY_DAYS,
        settings.KEEP_SAMPLES_DAILY_DAYS,
    )
    return {step_s: each * 86_400 for step_s, each in zip(metrics.STEPS_S, days, strict=True)}


def samples(step_s: int = FINEST_S) -> QuerySet[PoolSample]:
    """Return the kept stretches of one length that have been counted, at least in part."""
    return PoolSample.objects.filter(step_s=step_s, covered_s__gt=0)


def series(
    agent_types: Iterable[str],
    *,
    since: datetime,
    until: datetime | None = None,
    step_s: float | None = None,
) -> tuple[int, list[dict[str, Any]]]:
    """
    Return the step, seconds, and the series of pools over a range, in the order of time.

    step_s None: one that gives about POINTS points. Where the wanted step is finer than what is
    kept so long, it becomes that.
    """
    at, since = queries.now(), max(since, metrics.EPOCH)
    length_s = max(FINEST_S, ((until or at) - since).total_seconds())
    wanted_s = step_s or min(
        (each for each in metrics.STEPS_S if length_s / each <= POINTS), default=86_400
    )
    reach_s = (at - since).total_seconds()
    level = metrics.level_for(step_s=wanted_s, reach_s=reach_s, kept_s=kept_s())
    step = max(level, int(wanted_s // level) * level)
    begins = metrics.begin_of(since, step)
    rows = samples(level).filter(pool_id__in=list(agent_types), at__gte=begins)
    if until is not None:
        rows = rows.filter(at__lte=until)
    return step, list(_points(rows.order_by("at", "pool_id"), level, step))


def _points(rows: QuerySet[PoolSample], level: int, step: int) -> Iterator[dict[str, Any]]:
    if step == level:
        names = ("pool_id", "at", *COLUMNS)
        for found in rows.values_list(*names).iterator():
            yield _told(dict(zip(names, found, strict=True)), step)
        return
    by_pool: dict[str, list[tuple[datetime, Stretch]]] = {}
    for sample in rows.iterator():
        by_pool.setdefault(str(sample.pool_id), []).append((sample.at, stretch_of(sample)))
    merged = [
        (at, agent_type, stretch)
        for agent_type, found in by_pool.items()
        for at, stretch in metrics.gathered(found, step_s=step).items()
    ]
    for at, agent_type, stretch in sorted(merged, key=lambda each: each[:2]):
        yield _told({"pool_id": agent_type, "at": at, **metrics.row(stretch)}, step)


def _told(columns: Mapping[str, Any], step_s: float) -> dict[str, Any]:
    shown = {name: columns[name] for name in COLUMNS}
    shown["total_cpu_allocated"] = float(shown["total_cpu_allocated"])
    return {
        "agent_type": columns["pool_id"],
        "timestamp": columns["at"],
        "step_s": step_s,
        **shown,
    }


# What a reading tells: everything but the sketches, of which the quantiles are told.
COLUMNS = tuple(
    name for name in metrics.row(Stretch()) if name not in metrics.SKETCHES and name != "readings"
)


def stretch_of(sample: PoolSample) -> Stretch:
    """Return a row as the stretch that it keeps."""
    sketches: dict[str, Any] = {
        name: {int(bucket): count for bucket, count in getattr(sample, name).items()}
        for name in metrics.SKETCHES
    }
    return Stretch(
        covered_s=sample.covered_s,
        readings=sample.readings,
        gauges=Gauges(**{name: float(getattr(sample, name)) for name in metrics.GAUGES}),
        flows=Flows(**{name: getattr(sample, name) for name in metrics.SUMS}, **sketches),
    )


def pools() -> Sequence[str]:
    """Return the pools there are."""
    return list(Pool.objects.values_list("agent_type", flat=True))


def ago(seconds: float) -> datetime:
    """Return the moment so long ago."""
    return queries.now() - timedelta(seconds=seconds)
