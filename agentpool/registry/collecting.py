"""
Collects the metrics: counts each event once, reads each pool each 30 s, rolls up as it goes.

Every batch is one transaction: what was counted, and how far, are committed together, so a process
that is killed leaves nothing counted twice or not at all. One process collects at a time.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.db import connection, transaction

from agentpool.registry import counters, events, measuring, metrics, queries, tracing
from agentpool.registry.metrics import FINEST_S, STEPS_S, Flows, Stretch
from agentpool.registry.models import MetricState, PoolSample

# Events that one transaction counts; a collector that was away catches up in several.
BATCH = 20_000
# Time without a reading longer ago than this stays uncovered where nothing happened either.
COVERED_BACK = timedelta(hours=1)

Key = tuple[str, int, datetime]


@dataclass
class Gathered:
    """What one batch adds, by pool, length and begin, and to which counters."""

    stretches: dict[Key, Stretch] = field(default_factory=dict)
    counts: counters.Increments = field(default_factory=counters.Increments)

    def add(self, agent_type: str, begin: datetime, stretch: Stretch) -> None:
        """Count a part of a finest stretch into it and into its roll-ups."""
        for step_s in STEPS_S:
            key = (agent_type, step_s, metrics.begin_of(begin, step_s))
            self.stretches[key] = self.stretches.get(key, Stretch()) + stretch


def collect() -> int:
    """
    Count what has happened, and read the pools if their time has come; return how many were read.

    Another process at work: 0. Locks metric_state.
    """
    while True:
        with transaction.atomic():
            state = _locked_state()
            if state is None:
                return 0
            after = state.last_seq
            is_last, read = _collect_batch(state)
        tracing.export(after, state.last_seq)
        if is_last:
            return read


def _locked_state() -> MetricState | None:
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO metric_state (id, last_seq) VALUES (1, 0) ON CONFLICT DO NOTHING"
        )
    return MetricState.objects.select_for_update(skip_locked=True).filter(id=1).first()


def _collect_batch(state: MetricState) -> tuple[bool, int]:
    """Return whether everything is counted now, and how many pools were read."""
    upto = _last_of_batch(state.last_seq)
    is_last = upto < state.last_seq + BATCH
    gathered = Gathered()
    active = _count(gathered, after=state.last_seq, upto=upto)
    read = _read(state, gathered, active) if is_last else 0
    if is_last:
        counters.count_decisions(state, gathered.counts)
    _store(gathered.stretches)
    counters.store(gathered.counts)
    state.last_seq = max(state.last_seq, upto)
    state.save(update_fields=["last_seq", "covered_until", "decisions_until"])
    return is_last, read


def _count(gathered: Gathered, *, after: int, upto: int) -> set[datetime]:
    """Count a batch of events; return the begins of the finest stretches in which they were."""
    pools = set(measuring.pools())
    happened: dict[tuple[str, datetime], list[Flows]] = {}
    for fact in measuring.facts_between(after, upto):
        gathered.counts.count(fact)
        if fact.agent_type in pools:
            key = (fact.agent_type, metrics.begin_of(fact.at, FINEST_S))
            happened.setdefault(key, []).append(fact.flows())
    for (agent_type, begin), flows in happened.items():
        gathered.add(agent_type, begin, Stretch(flows=metrics.summed(flows)))
    return {begin for _, begin in happened}


def _last_of_batch(after: int) -> int:
    """Return the number of the last event of the next batch; numbers have no gaps."""
    return min(queries.last_seq(), after + BATCH)


def _read(state: MetricState, gathered: Gathered, active: Iterable[datetime]) -> int:
    """Read the pools for the stretch that has just ended, once; cover the time up to its end."""
    end = metrics.begin_of(queries.now(), FINEST_S)
    since = state.covered_until or end - timedelta(seconds=FINEST_S)
    if since >= end:
        return 0
    found = measuring.gauges()
    quiet = max(since, end - COVERED_BACK)
    # Those that an earlier batch of a backlog has counted into, too.
    earlier = PoolSample.objects.filter(step_s=FINEST_S, covered_s=0, at__gte=since, at__lt=end)
    counted = {*active, *earlier.order_by().values_list("at", flat=True).distinct()}
    covered = {at for at in counted if since <= at < end} | {*metrics.finest_between(quiet, end)}
    for begin in sorted(covered):
        for agent_type in found:
            gathered.add(agent_type, begin, Stretch(covered_s=FINEST_S))
    newest = end - timedelta(seconds=FINEST_S)
    for agent_type, gauges in found.items():
        gathered.add(agent_type, newest, Stretch(readings=1, gauges=gauges))
    state.covered_until = end
    events.append("metrics.collected", pools=len(found), until=end.isoformat())
    return len(found)


def _store(stretches: Mapping[Key, Stretch]) -> None:
    """Add to the rows that are there, make those that are not."""
    if not stretches:
        return
    kept = _kept(stretches)
    rows = []
    for key, stretch in stretches.items():
        agent_type, step_s, at = key
        whole = kept[key] + stretch if key in kept else stretch
        rows.append(PoolSample(pool_id=agent_type, step_s=step_s, at=at, **_columns(whole)))
    PoolSample.objects.bulk_create(
        rows,
        batch_size=500,
        update_conflicts=True,
        unique_fields=["pool", "step_s", "at"],
        update_fields=list(_columns(Stretch())),
    )


def _kept(stretches: Mapping[Key, Stretch]) -> dict[Key, Stretch]:
    ats = {step_s: {key[2] for key in stretches if key[1] == step_s} for step_s in STEPS_S}
    return {
        (str(row.pool_id), row.step_s, row.at): measuring.stretch_of(row)
        for step_s, found in ats.items()
        for row in PoolSample.objects.filter(step_s=step_s, at__in=found).iterator()
    }


def _columns(stretch: Stretch) -> dict[str, Any]:
    columns = metrics.row(stretch)
    columns["total_cpu_allocated"] = round(columns["total_cpu_allocated"], 3)
    return columns


def prune() -> int:
    """Delete stretches that are older than those of their length are kept; return how many."""
    at = queries.now()
    return sum(
        PoolSample.objects.filter(step_s=step_s, at__lt=at - timedelta(seconds=age_s)).delete()[0]
        for step_s, age_s in measuring.kept_s().items()
    )
