"""
Says what a pool's metrics are: what is counted of a stretch of time, and what follows from it.

Pure. docs/metrics.md defines each one by an example that a test computes with these functions.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta
from typing import Any

from agentpool.registry import quantiles
from agentpool.registry.quantiles import Sketch
from agentpool.registry.states import Outcome

# Lengths of the stretches that are kept, seconds: the finest, and its roll-ups. Six hours are what
# the page draws of a month.
STEPS_S = (30, 300, 3600, 21_600, 86_400)
FINEST_S = STEPS_S[0]
# Weights of the parts of efficiency: memory, CPU, tokens (seed 2, PoolMetricsCollector).
EFFICIENCY_WEIGHTS = (0.4, 0.4, 0.2)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Gauges:
    """
    What a pool looked like: means over the readings of a stretch.

    MB, cores and tokens are those that live leases hold; a parked lease holds nothing. slots and
    slots_used are of agents that are idle or busy.
    """

    total_agents: float = 0.0
    available_agents: float = 0.0
    busy_agents: float = 0.0
    standby_agents: float = 0.0
    slots: float = 0.0
    slots_used: float = 0.0
    queue_depth: float = 0.0
    total_memory_allocated_mb: float = 0.0
    total_cpu_allocated: float = 0.0
    total_tokens_allocated: float = 0.0


@dataclass(frozen=True, slots=True)
class Flows:
    """
    What happened to a pool in a stretch: counts, and sums of seconds, tokens, dollars.

    succeeded to cancelled are the ways in which leases `ended`; efficiency_sum: over those
    `efficiency_count` of them whose efficiency is known.
    """

    arrivals: int = 0
    refused: int = 0
    timed_out_requests: int = 0
    granted: int = 0
    ended: int = 0
    succeeded: int = 0
    failed: int = 0
    timed_out: int = 0
    lost: int = 0
    cancelled: int = 0
    wait_sum_s: float = 0.0
    service_sum_s: float = 0.0
    efficiency_sum: float = 0.0
    efficiency_count: int = 0
    tokens_used: int = 0
    cost_usd: float = 0.0
    wait_sketch: Sketch = field(default_factory=dict)
    service_sketch: Sketch = field(default_factory=dict)

    def __add__(self, other: "Flows") -> "Flows":
        """Return what happened in both."""
        return Flows(
            **{name: getattr(self, name) + getattr(other, name) for name in SUMS},
            wait_sketch=quantiles.merged(self.wait_sketch, other.wait_sketch),
            service_sketch=quantiles.merged(self.service_sketch, other.service_sketch),
        )


SKETCHES = ("wait_sketch", "service_sketch")
SUMS = tuple(each.name for each in fields(Flows) if each.name not in SKETCHES)
GAUGES = tuple(each.name for each in fields(Gauges))


def summed(flows: Sequence[Flows]) -> Flows:
    """Return what happened in all of them, in one pass."""
    sketches: dict[str, Any] = {name: {} for name in SKETCHES}
    for each in flows:
        for name, found in sketches.items():
            for bucket, count in getattr(each, name).items():
                found[bucket] = found.get(bucket, 0) + count
    sums: dict[str, Any] = {name: sum(getattr(one, name) for one in flows) for name in SUMS}
    return Flows(**sums, **sketches)


@dataclass(frozen=True, slots=True)
class Stretch:
    """A stretch of time of one pool; covered_s: seconds of it that have been counted so far."""

    covered_s: float = 0.0
    readings: int = 0
    gauges: Gauges = Gauges()
    flows: Flows = Flows()

    def __add__(self, other: "Stretch") -> "Stretch":
        """Return the two stretches as one: readings count alike, whatever is counted adds up."""
        readings = self.readings + other.readings
        mine, others = self.gauges, other.gauges
        means = {
            name: (getattr(mine, name) * self.readings + getattr(others, name) * other.readings)
            / max(1, readings)
            for name in GAUGES
        }
        return Stretch(
            covered_s=self.covered_s + other.covered_s,
            readings=readings,
            gauges=Gauges(**means),
            flows=self.flows + other.flows,
        )


def derived(stretch: Stretch) -> dict[str, float | None]:
    """
    Return the metrics that follow from what was counted.

    Rates are per minute of the time covered. None: there was nothing to take a share, quantile or
    efficiency of; means are 0 then.
    """
    gauges, flows = stretch.gauges, stretch.flows
    minutes = stretch.covered_s / 60
    # What was cancelled says nothing about the agent.
    judged = flows.ended - flows.cancelled
    working = gauges.available_agents + gauges.busy_agents
    completed = flows.ended / minutes if minutes else 0.0
    return {
        "utilization": gauges.slots_used / gauges.slots if gauges.slots else 0.0,
        "average_wait_time_s": _mean(flows.wait_sum_s, flows.granted) or 0.0,
        "request_rate_per_minute": flows.arrivals / minutes if minutes else 0.0,
        "completion_rate_per_minute": completed,
        "average_service_time_s": _mean(flows.service_sum_s, flows.ended) or 0.0,
        "success_rate": _mean(flows.succeeded, judged),
        "error_rate": _mean(judged - flows.succeeded - flows.timed_out, judged),
        "timeout_rate": _mean(flows.timed_out, judged),
        "resource_efficiency": _mean(flows.efficiency_sum, flows.efficiency_count),
        "throughput_per_agent": completed / working if working else 0.0,
        "wait_p50_s": quantiles.quantile(flows.wait_sketch, 0.5),
        "wait_p95_s": quantiles.quantile(flows.wait_sketch, 0.95),
        "wait_p99_s": quantiles.quantile(flows.wait_sketch, 0.99),
        "service_p50_s": quantiles.quantile(flows.service_sketch, 0.5),
        "service_p95_s": quantiles.quantile(flows.service_sketch, 0.95),
        "service_p99_s": quantiles.quantile(flows.service_sketch, 0.99),
    }


def _mean(total: float, count: int) -> float | None:
    return total / count if count else None


# -- what single facts count for -------------------------------------------------------------------


def arrived(*, is_refused: bool = False) -> Flows:
    """Return what one request counts for when it arrives."""
    return Flows(arrivals=1, refused=int(is_refused))


def granted(*, waited_s: float) -> Flows:
    """Return what one lease counts for when it is given."""
    waited_s = max(0.0, waited_s)
    return Flows(granted=1, wait_sum_s=waited_s, wait_sketch={quantiles.bucket_of(waited_s): 1})


def ended(
    *,
    outcome: str,
    duration_s: float,
    efficiency: float | None = None,
    tokens: int = 0,
    cost_usd: float = 0.0,
) -> Flows:
    """Return what one lease counts for when it ends; efficiency: as `efficiency_of` has it."""
    return Flows(
        ended=1,
        succeeded=int(outcome == Outcome.SUCCESS),
        failed=int(outcome == Outcome.FAILURE),
        timed_out=int(outcome == Outcome.TIMEOUT),
        lost=int(outcome == Outcome.LOST),
        cancelled=int(outcome == Outcome.CANCELLED),
        service_sum_s=duration_s,
        service_sketch={quantiles.bucket_of(duration_s): 1},
        efficiency_sum=efficiency or 0.0,
        efficiency_count=int(efficiency is not None),
        tokens_used=tokens,
        cost_usd=cost_usd,
    )


def efficiency_of(used: Mapping[str, float], granted: Mapping[str, float]) -> float | None:
    """
    Return how much of a grant was used: .4 memory + .4 CPU + .2 tokens, each at most 1.

    Keys: memory_mb (the peak), cpu_cores (the mean), tokens. None: one of them was not granted.
    """
    names = ("memory_mb", "cpu_cores", "tokens")
    if not all(granted[name] > 0 for name in names):
        return None
    return sum(
        weight * min(1.0, used[name] / granted[name])
        for weight, name in zip(EFFICIENCY_WEIGHTS, names, strict=True)
    )


# -- time ------------------------------------------------------------------------------------------


def begin_of(at: datetime, step_s: int) -> datetime:
    """Return when the stretch of this length began in which a moment lies; aligned to 1970."""
    return EPOCH + (at - EPOCH) // timedelta(seconds=step_s) * timedelta(seconds=step_s)


def finest_between(since: datetime, until: datetime) -> Iterator[datetime]:
    """Return the begins of the finest stretches from `since` to `until`, both of them begins."""
    while since < until:
        yield since
        since += timedelta(seconds=FINEST_S)


def level_for(*, step_s: float, reach_s: float, kept_s: Mapping[int, float]) -> int:
    """
    Return which kept length serves a series: the coarsest that the step is a multiple of.

    reach_s: how far back it begins. Where that length is not kept so long, a coarser one is taken.
    """
    fine = max((each for each in STEPS_S if step_s % each == 0), default=FINEST_S)
    reaching = (each for each in STEPS_S if each >= fine and kept_s[each] >= reach_s)
    return next(reaching, STEPS_S[-1])


def gathered(
    stretches: Iterable[tuple[datetime, Stretch]], *, step_s: int
) -> dict[datetime, Stretch]:
    """Return stretches as fewer, longer ones, by their begins."""
    found: dict[datetime, Stretch] = {}
    for at, stretch in stretches:
        begin = begin_of(at, step_s)
        found[begin] = found[begin] + stretch if begin in found else stretch
    return found


def total(stretches: Iterable[Stretch]) -> Stretch:
    """Return several pools over the same time as one: what they are, and what happened, adds up."""
    gauges = dict.fromkeys(GAUGES, 0.0)
    flows, covered_s, readings = Flows(), 0.0, 0
    for each in stretches:
        for name in GAUGES:
            gauges[name] += getattr(each.gauges, name)
        flows, covered_s = flows + each.flows, max(covered_s, each.covered_s)
        readings = max(readings, each.readings)
    return Stretch(covered_s, readings, Gauges(**gauges), flows)


def row(stretch: Stretch) -> dict[str, Any]:
    """Return a stretch as the columns of its row, those that follow included."""
    columns: dict[str, Any] = {"covered_s": stretch.covered_s, "readings": stretch.readings}
    columns |= {name: getattr(stretch.gauges, name) for name in GAUGES}
    columns |= {name: getattr(stretch.flows, name) for name in (*SUMS, *SKETCHES)}
    return columns | derived(stretch)
