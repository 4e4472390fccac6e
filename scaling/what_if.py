"""Replays what was asked of a pool lately through its policy and another one; writes nothing."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

import numpy as np

from agentpool.registry import queries as registry_queries
from agentpool.registry.models import Pool, Request
from scaling import hearing, policies, queries, simulation
from scaling.policies import Mode, Policy
from scaling.simulation import Replay
from scaling.traces import DAY_S, Trace, TraceInvalid

# The longest stretch that is replayed within the time is taken.
WINDOWS_S = (7 * DAY_S, DAY_S, DAY_S / 4)
MOST_SECONDS = 3.0
MOST_REQUESTS = 5000
LEAST_REQUESTS = 20
WARMUP_SHARE = 0.25


class TooLittle(Exception):
    """There is not enough recorded to say anything; the message has the numbers."""


class _TooLong(Exception):
    """The replay did not end in time."""


@dataclass(frozen=True)
class Figures:
    """
    What a policy would have cost and given; hours of agents, waits in seconds.

    woken: of the agents that were `missing`, how many were on standby.
    """

    agent_hours: float
    late_percent: float
    mean_wait_s: float
    p95_wait_s: float
    longest_wait_s: float
    busy_percent: float
    launches: int
    woken: int
    missing: int


@dataclass(frozen=True)
class Comparison:
    """Two policies on the same work: `scored` of the `requests` that came within `over_s`."""

    over_s: float
    requests: int
    scored: int
    startup_s: float
    present: Figures
    other: Figures


def compare(pool: Pool, *, present: Policy, other: Policy) -> Comparison:
    """
    Return what both would have made of the requests of the last days.

    As if each agent had one slot; the first quarter of the time only warms up. Takes some seconds
    at most. Raises: TooLittle.
    """
    startup_s = hearing.startup_s(pool.agent_type, otherwise=present.startup_s)
    for window_s in WINDOWS_S:
        trace, over_s = _recorded(pool.agent_type, window_s)
        try:
            until = time.monotonic() + MOST_SECONDS
            replays = [
                simulation.replay(
                    trace,
                    policy=policies.changed(each, mode=Mode.AUTO, startup_s=startup_s),
                    warmup_s=over_s * WARMUP_SHARE,
                    progress=_stopper(until),
                )
                for each in (present, other)
            ]
        except _TooLong:
            continue
        if not replays[0].scored:
            raise TooLittle("All that was recorded lies in the first quarter, which only warms up.")
        first, second = (_figures(replay) for replay in replays)
        return Comparison(over_s, len(trace.jobs), replays[0].scored, startup_s, first, second)
    raise TooLittle(
        f"There is too much to replay it within {MOST_SECONDS:g} s; use `manage.py simulate`."
    )


def _recorded(agent_type: str, window_s: float) -> tuple[Trace, float]:
    """Return the newest requests of a pool within a time, and how far back they reach."""
    now = registry_queries.now()
    asked = Request.objects.filter(
        pool_id=agent_type, created_at__gt=now - timedelta(seconds=window_s)
    ).order_by("-created_at")
    moments = list(asked.values_list("created_at", flat=True)[:MOST_REQUESTS])
    if len(moments) < LEAST_REQUESTS:
        raise TooLittle(
            f"Only {len(moments)} requests were recorded in {window_s / DAY_S:g} days; "
            f"{LEAST_REQUESTS} are needed to compare policies on them."
        )
    over_s = (now - moments[-1]).total_seconds() + 1.0
    try:
        return queries.recorded(over_s=over_s, agent_type=agent_type), over_s
    except TraceInvalid as error:
        raise TooLittle(str(error)) from error


def _stopper(until: float) -> Callable[[float], None]:
    def stop_late(share: float) -> None:
        if time.monotonic() > until:
            raise _TooLong

    return stop_late


def _figures(replay: Replay) -> Figures:
    waits = replay.waits_s[-replay.scored :]
    return Figures(
        agent_hours=replay.paid_s / 3600,
        late_percent=100 * float(np.mean(waits > replay.policy.slo_s)),
        mean_wait_s=float(waits.mean()),
        p95_wait_s=float(np.quantile(waits, 0.95)),
        longest_wait_s=float(waits.max()),
        busy_percent=100 * replay.busy_s / replay.paid_s if replay.paid_s else 0.0,
        launches=replay.launches,
        woken=replay.hits,
        missing=replay.hits + replay.misses,
    )
