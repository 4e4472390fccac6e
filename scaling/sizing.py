"""
The formulas from which sizes are made: Little, Erlang, thresholds, and tails of counts.

Pure. Rates are per second, times in seconds, shares 0 to 1, sizes in slots (one lease each).
"""

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def little(*, rate: float, service_s: float, target_share: float) -> int:
    """
    Return how many slots keep the busy share at the target.

    Little's law: busy = rate x service time; the seed divides by a target utilisation.
    """
    return math.ceil(_steady(rate * service_s / target_share))


def by_utilization(*, size: int, used: int, target: float, tolerance: float) -> int:
    """
    Return the size that brings the used share to the target, as Kubernetes' HPA finds it.

    size: ready slots; used: busy ones. Within the tolerance (a share of the ratio) nothing moves.
    From zero it can only see that something is used; it starts with one.
    """
    if size <= 0:
        return 1 if used else 0
    ratio = used / size / target
    return size if abs(ratio - 1) <= tolerance else math.ceil(_steady(size * ratio))


def by_queue(*, size: int, waiting: int, busy: int, per_slot: float, tolerance: float) -> int:
    """
    Return the size that gives each slot `per_slot` requests, waiting and running, as KEDA does.

    Zero requests need zero slots. Within the tolerance nothing moves.
    """
    demand = waiting + busy
    if size > 0 and demand and abs(demand / size / per_slot - 1) <= tolerance:
        return size
    return math.ceil(_steady(demand / per_slot))


def erlang_c(*, slots: int, load: float) -> float:
    """
    Return the share of arrivals that wait in M/M/c.

    load: rate x service time, in Erlang. 1 when the load is not below the slots.
    Source: Erlang's recurrence for the blocking share, which does not overflow.
    """
    if load <= 0:
        return 0.0
    if slots <= load:
        return 1.0
    blocked = 1.0
    for number in range(1, slots + 1):
        blocked = load * blocked / (number + load * blocked)
    return blocked / (1 - (load / slots) * (1 - blocked))


def erlang_c_wait_s(*, slots: int, rate: float, service_s: float) -> float:
    """Return the mean wait in M/M/c, waiting or not; infinite when the load is too high."""
    load = rate * service_s
    if slots <= load:
        return math.inf
    return erlang_c(slots=slots, load=load) * service_s / (slots - load)


def erlang_c_late(*, slots: int, rate: float, service_s: float, slo_s: float) -> float:
    """Return the share of arrivals that wait longer than slo_s in M/M/c."""
    load = rate * service_s
    if slots <= load:
        return 1.0
    waits = erlang_c(slots=slots, load=load)
    return waits * math.exp(-(slots - load) * slo_s / service_s)


def erlang_c_size(*, rate: float, service_s: float, slo_s: float, late: float) -> int:
    """Return the fewest slots with at most a share `late` of waits above slo_s in M/M/c."""
    slots = max(1, math.ceil(rate * service_s))
    while erlang_c_late(slots=slots, rate=rate, service_s=service_s, slo_s=slo_s) > late:
        slots += 1
    return slots


def negative_binomial_above(*, mean: float, dispersion: float, upto: int) -> Floats:
    """
    Return P(count > j) for j = 0..upto: (upto + 1,).

    dispersion: variance over mean, above 1; near 1 it is the Poisson distribution.
    """
    size = mean / (dispersion - 1)
    stop = 1 / dispersion
    j = np.arange(1, upto + 1)
    # Ratios of neighbouring terms: (j - 1 + size) / j x (1 - stop).
    steps = np.log((j - 1 + size) / j) + math.log1p(-stop)
    terms = np.exp(size * math.log(stop) + np.concatenate([[0.0], np.cumsum(steps)]))
    above: Floats = np.clip(1 - np.cumsum(terms), 0.0, 1.0)
    # Below the precision of 1 - x: the rest of the series, summed from its far end.
    tail = np.cumsum(terms[::-1])[::-1]
    exact = np.concatenate([tail[1:], [0.0]])
    return np.where(above < 1e-9, exact, above)


def smallest_above(*, above: Floats, share: float) -> int:
    """Return the smallest j with P(count > j) <= share; the array's length when there is none."""
    return int(np.searchsorted(-above, -share, side="left"))


def _steady(value: float) -> float:
    """Take away what floating point adds, so that 3.0000000000000004 agents are 3."""
    return value - 1e-9 * max(1.0, abs(value))
