"""The numbers of a batch run: who passed, how long work waited and ran, how much ran at once."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """One lease: which agent worked, from when to when."""

    agent_id: str
    start: datetime
    end: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseRun:
    """
    How one phase of one cycle went.

    `tries` counts the runner's requests, `attempts` the leases the server needed for them;
    `waited_s` is the time in the queue and `ran_s` that under the last lease, None if unknown.
    """

    cycle: str
    phase: str
    passed: bool
    tries: int = 1
    attempts: int = 1
    waited_s: float | None = None
    ran_s: float | None = None
    lease_id: str | None = None
    agent_id: str | None = None
    outcome: str = ""
    error: str = ""

    @property
    def repeats(self) -> int:
        """How often the phase was started again, by the runner or by the server."""
        return max(self.tries, self.attempts) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseLine:
    """One phase over all cycles; times in seconds, None when no cycle got there."""

    phase: str
    done: int
    retried: int
    wait_p50_s: float | None
    wait_p95_s: float | None
    run_p50_s: float | None
    run_p95_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The result of a batch run; `passed` and `failed` count cycles, `phases` those done."""

    cycles: int
    phases: int
    passed: int
    failed: int
    retried: int
    wait_p50_s: float | None
    wait_p95_s: float | None
    wall_s: float
    peak_parallel: int
    agents_peak: int
    by_phase: Sequence[PhaseLine]
    failures: Sequence[Mapping[str, Any]]

    def as_json(self) -> dict[str, Any]:
        """Return the summary as plain values for a JSON file."""
        return asdict(self)


def summarize(
    *,
    cycles: int,
    phases: Sequence[str],
    runs: Sequence[PhaseRun],
    spans: Sequence[Span],
    wall_s: float,
) -> Summary:
    """
    Return the numbers of a run.

    Args:
        cycles: how many there were, also those that never started.
        phases: the names of the phases in order; a cycle passed when it passed each of them.
        runs: how each phase went that was begun.
        spans: all leases of the run, also those that were lost.
        wall_s: how long the whole run took.

    """
    done = [run for run in runs if run.passed]
    finished = [run.cycle for run in done if phases and run.phase == phases[-1]]
    waits = _known(run.waited_s for run in runs)
    return Summary(
        cycles=cycles,
        phases=len(done),
        passed=len(finished),
        failed=cycles - len(finished),
        retried=sum(run.repeats for run in runs),
        wait_p50_s=percentile(waits, 50),
        wait_p95_s=percentile(waits, 95),
        wall_s=round(wall_s, 3),
        peak_parallel=peak_parallel(spans),
        agents_peak=agents_peak(spans),
        by_phase=[_line(name, [run for run in runs if run.phase == name]) for name in phases],
        failures=[_failure(run) for run in runs if not run.passed],
    )


def percentile(values: Sequence[float], percent: float) -> float | None:
    """Return the nearest-rank percentile, rounded to ms; None without values."""
    if not values:
        return None
    rank = max(1, math.ceil(len(values) * percent / 100))
    return round(sorted(values)[rank - 1], 3)


def peak_parallel(spans: Sequence[Span]) -> int:
    """Return the most leases that ran at the same moment."""
    running = peak = 0
    for _, step, _agent in _moments(spans):
        running += step
        peak = max(peak, running)
    return peak


def agents_peak(spans: Sequence[Span]) -> int:
    """Return the most distinct agents that were busy at the same moment."""
    load: dict[str, int] = {}
    peak = 0
    for _, step, agent_id in _moments(spans):
        load[agent_id] = load.get(agent_id, 0) + step
        if not load[agent_id]:
            del load[agent_id]
        peak = max(peak, len(load))
    return peak


def _moments(spans: Sequence[Span]) -> list[tuple[datetime, int, str]]:
    """Starts (+1) and ends (-1) in order; at one moment ends come first."""
    edges = [(span.start, 1, span.agent_id) for span in spans if span.end > span.start]
    edges += [(span.end, -1, span.agent_id) for span in spans if span.end > span.start]
    return sorted(edges)


def _line(name: str, runs: Sequence[PhaseRun]) -> PhaseLine:
    waits, times = _known(run.waited_s for run in runs), _known(run.ran_s for run in runs)
    return PhaseLine(
        phase=name,
        done=sum(run.passed for run in runs),
        retried=sum(run.repeats for run in runs),
        wait_p50_s=percentile(waits, 50),
        wait_p95_s=percentile(waits, 95),
        run_p50_s=percentile(times, 50),
        run_p95_s=percentile(times, 95),
    )


def _failure(run: PhaseRun) -> dict[str, Any]:
    return {
        "cycle": run.cycle,
        "phase": run.phase,
        "outcome": run.outcome,
        "error": run.error,
        "lease_id": run.lease_id,
        "agent_id": run.agent_id,
    }


def _known(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]
