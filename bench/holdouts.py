"""
Families of traces for `bench/scaling.py`: one to choose constants on, another to report from.

Both hold the given traces halved, turned (begun some days later, the beginning put behind the end),
thinned, run backwards and laid upon each other; made traces of 0.1 to 60 busy agents with days,
weekends, bursts, shifts and heavy tails; made traces with storms at random; and with storms that
recur. Seeds, shares and shifts differ, so that nothing of the second family was chosen on.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from scaling import traces
from scaling.traces import DAY_S, Job, Shape, Trace

SHAPES: dict[str, Shape] = {
    "daily": Shape(busy=8, daily=0.9, weekend=0.7),
    "flat": Shape(busy=8, daily=0, weekend=0, bursts=0),
    "bursty": Shape(busy=8, bursts=2.0),
    "small": Shape(days=35, busy=0.4, bursts=1.0),
    "tiny": Shape(days=60, busy=0.1, mean_s=900),
    "third": Shape(days=42, busy=0.3),
    "one": Shape(days=28, busy=1.0),
    "three": Shape(days=28, busy=3.0, bursts=1.0),
    "shift": Shape(busy=5, level_shift=4.0),
    "drop": Shape(busy=10, level_shift=0.25),
    "on_off": Shape(busy=6, on_off_h=12, daily=0, weekend=0),
    "heavy": Shape(busy=10, tail=2.0),
    "short": Shape(busy=5, mean_s=60, days=14),
    "thirty": Shape(busy=30, days=16),
    "sixty": Shape(busy=60, days=14),
    "slow": Shape(busy=20, mean_s=3000, tail=1.5),
}
STORMS: dict[str, Shape] = {
    "storms": Shape(busy=3, storms_per_week=3, storm_jobs=200),
    "storms_small": Shape(busy=3, storms_per_week=5, storm_jobs=30),
    "storms_rare": Shape(busy=8, storms_per_week=1, storm_jobs=100),
    "storms_slow": Shape(busy=5, storms_per_week=3, storm_jobs=200, storm_s=600),
}


@dataclass(frozen=True)
class Recurring:
    """Storms at the same time: what they come on top of, when (days), how many jobs, over what."""

    on: Shape
    days: Sequence[float]
    jobs: int
    over_s: float
    off_s: float


RECURRING: dict[str, Recurring] = {
    "nightly": Recurring(Shape(busy=3), [d + 2 / 24 for d in range(21)], 150, 20, 3),
    "weekday": Recurring(Shape(busy=6), [d + 9 / 24 for d in range(21) if d % 7 < 5], 200, 60, 60),
    "weekly": Recurring(Shape(busy=6, days=35), [d + 6 / 24 for d in range(0, 35, 7)], 300, 30, 10),
    "thrice": Recurring(
        Shape(busy=8), [d + h / 24 for d in range(21) for h in (1, 9, 17)], 60, 5, 2
    ),
    "rough": Recurring(Shape(busy=6), [d + 9 / 24 for d in range(21)], 120, 120, 180),
}


@dataclass(frozen=True)
class Half:
    """What one family does to the given traces, and its seeds."""

    seed: int
    storm_seed: int
    is_first: bool
    turned_days: float
    shares: tuple[float, ...]


CHOOSE = Half(seed=11, storm_seed=21, is_first=True, turned_days=10, shares=(0.7, 0.3, 0.06))
REPORT = Half(seed=12, storm_seed=31, is_first=False, turned_days=20, shares=(0.5, 0.2, 0.04))


def changed(given: Sequence[Trace], half: Half) -> Iterator[Trace]:
    """Yield the given traces, changed."""
    random = np.random.default_rng(half.seed)
    for whole in given:
        if whole.span_s > 28 * DAY_S:
            yield _half(whole, half)
        yield _turned(whole, half.turned_days)
        for share in half.shares:
            kept = random.random(len(whole.jobs)) < share
            jobs = [job for job, is_kept in zip(whole.jobs, kept, strict=True) if is_kept]
            if jobs[-1].arrival_s > 10 * DAY_S and len(jobs) > 500:
                yield traces.made(f"{whole.name}/{share:g}", jobs)
    for whole in given[:1] if half.is_first else given[1:]:
        at = whole.span_s
        yield _moved(f"{whole.name}/backwards", whole.jobs, lambda job, at=at: at - job.arrival_s)
    for one, other in zip(given, [*given[1:], given[0]], strict=True):
        yield _both(one, _turned(one if half.is_first else other, half.turned_days + 4))


def made(half: Half) -> Iterator[Trace]:
    """Yield made traces."""
    for name, shape in SHAPES.items():
        yield traces.synthetic(name=name, shape=shape, seed=half.seed)


def stormy(half: Half) -> Iterator[Trace]:
    """Yield made traces with storms: at random, then such that recur."""
    for name, shape in STORMS.items():
        for seed in (half.storm_seed, half.storm_seed + 1):
            yield traces.synthetic(name=f"{name}-{seed}", shape=shape, seed=seed)
    for number, (name, each) in enumerate(RECURRING.items()):
        yield _recurring(name, each, half.storm_seed + 100 + number)


def _recurring(name: str, each: Recurring, seed: int) -> Trace:
    random = np.random.default_rng(seed)
    jobs = list(traces.synthetic(name=name, shape=each.on, seed=seed).jobs)
    for day in each.days:
        count = int(random.poisson(each.jobs))
        at = day * DAY_S + random.normal(0, each.off_s) + random.uniform(0, each.over_s, count)
        lasts = random.lognormal(math.log(each.on.mean_s) - 0.5, 1.0, count)
        pairs = zip(at.tolist(), lasts.tolist(), strict=True)
        jobs += [Job(max(0.0, a), max(1.0, lasted)) for a, lasted in pairs]
    return traces.made(name, jobs)


def _half(trace: Trace, half: Half) -> Trace:
    middle = trace.span_s / 2
    if half.is_first:
        return traces.made(f"{trace.name}/1st", [j for j in trace.jobs if j.arrival_s < middle])
    late = [job for job in trace.jobs if job.arrival_s >= middle]
    return _moved(f"{trace.name}/2nd", late, lambda job: job.arrival_s - middle)


def _turned(trace: Trace, days: float) -> Trace:
    span_s = math.ceil(trace.span_s / DAY_S) * DAY_S
    name = f"{trace.name}/turned"
    return _moved(name, trace.jobs, lambda job: (job.arrival_s + days * DAY_S) % span_s)


def _both(one: Trace, other: Trace) -> Trace:
    ends_s = min(one.span_s, other.span_s)
    jobs = [job for job in (*one.jobs, *other.jobs) if job.arrival_s < ends_s]
    return traces.made(f"{one.name}+{other.name}", jobs)


def _moved(name: str, jobs: Iterable[Job], to: Callable[[Job], float]) -> Trace:
    return traces.made(name, [Job(to(job), job.duration_s, job.kind, job.tokens) for job in jobs])
