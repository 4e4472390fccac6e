"""
Reads, writes and makes traces: when work arrived, how long it took on one agent, of which kind.

Pure but for the files it is given. The format is CSV with a head line: `arrival_s` (seconds from
the start), `duration_s` (service time on one agent), `kind` (agent type), `tokens` (may be empty).
"""

import csv
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

import numpy as np

from scaling.sizing import Floats

DAY_S = 86_400.0
WEEK_S = 7 * DAY_S
COLUMNS = ("arrival_s", "duration_s", "kind", "tokens")


class TraceInvalid(Exception):
    """A trace cannot be read, or has nothing in it; says where."""


@dataclass(frozen=True)
class Job:
    """One piece of work: arrival and service time in seconds; tokens None when not known."""

    arrival_s: float
    duration_s: float
    kind: str = ""
    tokens: int | None = None


@dataclass(frozen=True)
class Trace:
    """Work in the order it arrived, under a name for tables."""

    name: str
    jobs: tuple[Job, ...]

    @property
    def work_s(self) -> float:
        """Service time of all jobs together, agent-seconds."""
        return math.fsum(job.duration_s for job in self.jobs)

    @property
    def span_s(self) -> float:
        """Seconds from 0 to the last arrival."""
        return self.jobs[-1].arrival_s if self.jobs else 0.0

    def only(self, kind: str) -> "Trace":
        """Return the jobs of one kind; raises TraceInvalid, there are none."""
        jobs = tuple(job for job in self.jobs if job.kind == kind)
        if not jobs:
            there = ", ".join(sorted({job.kind for job in self.jobs}))
            raise TraceInvalid(f"{self.name} has no jobs of kind {kind!r}; it has {there}")
        return Trace(f"{self.name}:{kind}", jobs)


def made(name: str, jobs: Iterable[Job]) -> Trace:
    """Return a trace of jobs in any order; raises TraceInvalid, there are none."""
    found = sorted(jobs, key=lambda job: job.arrival_s)
    if not found:
        raise TraceInvalid(f"{name} has no jobs")
    return Trace(name, tuple(found))


def read(file: TextIO, *, name: str) -> Trace:
    """Read CSV; raises TraceInvalid with the number of the line that cannot be read."""
    rows = csv.DictReader(file)
    missing = {"arrival_s", "duration_s"} - set(rows.fieldnames or ())
    if missing:
        raise TraceInvalid(f"{name} has no column {', '.join(sorted(missing))}")
    return made(name, (_job(row, f"{name}, line {line}") for line, row in enumerate(rows, start=2)))


def _job(row: dict[str, str], where: str) -> Job:
    try:
        job = Job(
            arrival_s=float(row["arrival_s"]),
            duration_s=float(row["duration_s"]),
            kind=row.get("kind") or "",
            tokens=int(float(row["tokens"])) if row.get("tokens") else None,
        )
    except (TypeError, ValueError) as error:
        raise TraceInvalid(f"{where}: {error}") from error
    if not (0 <= job.arrival_s < math.inf and 0 <= job.duration_s < math.inf):
        raise TraceInvalid(f"{where}: times are finite and not below 0")
    return job


def write(trace: Trace, file: TextIO) -> None:
    """Write a trace as CSV."""
    out = csv.writer(file)
    out.writerow(COLUMNS)
    for job in trace.jobs:
        tokens = "" if job.tokens is None else job.tokens
        out.writerow([_short(job.arrival_s), _short(job.duration_s), job.kind, tokens])


def _short(seconds: float) -> str:
    return f"{seconds:.3f}".rstrip("0").rstrip(".")


# -- synthetic traces ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shape:
    """
    What a synthetic trace looks like.

    busy: mean busy agents. daily, weekend: how far the nights and the weekends lie below the
    mean, 0 (not at all) to 1 (nothing arrives). bursts: how uneven an hour is, as the variance of
    its rate (0: Poisson). storms_per_week batches of about storm_jobs arrive within storm_s.
    level_shift: the second half's rate over the first's. on_off_h: hours of work, then as many of
    silence; 0: never silent. mean_s and tail: mean and log-normal sigma of the service time.
    """

    days: float = 21.0
    busy: float = 5.0
    daily: float = 0.6
    weekend: float = 0.5
    bursts: float = 0.5
    storms_per_week: float = 0.0
    storm_jobs: float = 200.0
    storm_s: float = 60.0
    level_shift: float = 1.0
    on_off_h: float = 0.0
    mean_s: float = 600.0
    tail: float = 1.0
    kinds: tuple[str, ...] = ("code", "qa", "design", "data")


STEP_S = 60.0


def synthetic(*, name: str, shape: Shape, seed: int) -> Trace:
    """
    Return a made trace; the same seed and shape give the same one.

    Rate = busy / mean_s x day x week x level x hourly Gamma noise (which lasts), Poisson within a
    minute; storms come on top.
    """
    random = np.random.default_rng(seed)
    steps = int(shape.days * DAY_S / STEP_S)
    at = np.arange(steps) * STEP_S
    rate = _season(at, shape) * _bursts(len(at), shape, random)
    counts = random.poisson(rate * STEP_S)
    arrivals = np.repeat(at, counts) + random.uniform(0, STEP_S, counts.sum())
    arrivals = np.concatenate([arrivals, _storms(shape, random)])
    mu = math.log(shape.mean_s) - shape.tail**2 / 2
    durations = np.maximum(random.lognormal(mu, shape.tail, len(arrivals)), 1.0)
    kinds = random.choice(shape.kinds, len(arrivals), p=_weights(len(shape.kinds)))
    tokens = (durations * random.uniform(5, 40, len(arrivals))).astype(int)
    rows = zip(arrivals, durations, kinds, tokens, strict=True)
    return made(
        name,
        (
            Job(round(float(a), 3), round(float(d), 3), str(k), int(n))
            for a, d, k, n in rows
            if a < shape.days * DAY_S
        ),
    )


def _season(at: Any, shape: Shape) -> Floats:
    """Return the expected rate at each time, jobs/s."""
    day = 1 + shape.daily * np.cos(2 * np.pi * (at / DAY_S - 14 / 24))
    is_weekend = (at // DAY_S) % 7 >= 5
    week = np.where(is_weekend, 1 - shape.weekend, 1 + shape.weekend * 2 / 5)
    level = np.where(at < shape.days * DAY_S / 2, 1.0, shape.level_shift)
    if shape.on_off_h:
        level = level * (2 * ((at // (shape.on_off_h * 3600)) % 2 == 0))
    rates: Floats = shape.busy / shape.mean_s * day * week * level
    return rates


def _bursts(steps: int, shape: Shape, random: np.random.Generator) -> Floats:
    """Return Gamma noise of mean 1 that lasts for ten minutes to hours."""
    if not shape.bursts:
        return np.ones(steps)
    noise: Floats = np.ones(steps)
    for lasts_s in (600.0, 7200.0):
        blocks = int(steps * STEP_S / lasts_s) + 1
        drawn = random.gamma(2 / shape.bursts, shape.bursts / 2, blocks)
        noise *= np.repeat(drawn, int(lasts_s / STEP_S))[:steps]
    return noise


def _storms(shape: Shape, random: np.random.Generator) -> Floats:
    count = random.poisson(shape.storms_per_week * shape.days / 7)
    begin = random.uniform(0, shape.days * DAY_S, count)
    sizes = random.poisson(shape.storm_jobs, count)
    times: Floats = np.repeat(begin, sizes) + random.uniform(0, shape.storm_s, sizes.sum())
    return times


def _weights(count: int) -> Sequence[float]:
    """Return falling shares: half as many of each next kind."""
    raw = [2.0**-place for place in range(count)]
    return [value / sum(raw) for value in raw]
