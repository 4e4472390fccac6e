"""
Says which leases hold more than they use, or less than they need, and whether a change did harm.

Pure. The seed's shares decide what is too much and too little; the rest keeps work from being
harmed by it: a floor above what it has ever used, time before and between changes, bounds.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import ROUND_DOWN, ROUND_UP, Decimal
from enum import StrEnum
from typing import Any

from agentpool.registry.adjustable import chosen, number, share

MEMORY, CPU = "memory_mb", "cpu_cores"
# Among what a lease is spared: to grow. Its runtime did not agree once.
GROWTH = "growth"
CORE_STEP = Decimal("0.001")


class Mode(StrEnum):
    """Whether grants of a pool are changed by themselves."""

    OFF = "off"
    RECOMMEND = "recommend"
    AUTO = "auto"


@dataclass(frozen=True, slots=True)
class Rules:
    """
    When a grant is changed, and by how much; shares are 0 to 1, times seconds.

    low_*: used less than this share of the grant, freed_*: then so much of it goes. pressure_share:
    used more than this, grown_share: then it gets so much of what it uses on top. headroom: nothing
    falls below the measured peak times this. hold_s: how long use must be low; rest_s: between two
    changes of a lease; ack_s: for the runtime to say that it holds; watch_s: how long after a
    shrink it is watched. least_*: smaller changes are not worth one.
    Source of the shares: seed 2, ResourceRebalancer.
    """

    low_memory_share: float = share(0.3, "Memory is low below", "share of the grant")
    freed_memory_share: float = share(0.4, "Memory then given back", "share of the grant")
    low_cpu_share: float = share(0.25, "CPU is low below", "share of the grant")
    freed_cpu_share: float = share(0.3, "CPU then given back", "share of the grant")
    pressure_share: float = share(0.9, "Pressed above", "share of the grant")
    grown_share: float = number(0.5, "Grows then by", "share of what it uses")
    headroom: float = number(1.2, "Never below the peak times")
    hold_s: float = number(60, "Low for at least", "s")
    rest_s: float = number(120, "Between two changes", "s")
    ack_s: float = number(30, "The runtime must answer within", "s")
    watch_s: float = number(120, "Watched for", "s")
    least_memory_mb: float = number(16, "Memory worth giving back", "MB")
    least_cpu_cores: float = number(0.05, "CPU worth giving back", "cores")


USUAL = Rules()
# How sure each kind is (seed 2): the surest come first.
CONFIDENCE: Mapping[tuple[str, str], float] = {
    (MEMORY, "grow"): 0.9,
    (MEMORY, "shrink"): 0.8,
    (CPU, "shrink"): 0.7,
}


@dataclass(frozen=True, slots=True)
class Use:
    """
    What a lease's work uses: MB and cores, now and at most so far.

    low_*_s: for how long it has been below the low share; since_change_s: since its grant was
    changed, infinite if never. spared: what is not tried again: resources whose shrink did harm or
    was refused, GROWTH when that was.
    """

    memory_mb: float
    peak_memory_mb: float
    cpu_cores: float
    peak_cpu_cores: float
    low_memory_s: float = 0.0
    low_cpu_s: float = 0.0
    since_change_s: float = math.inf
    spared: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Held:
    """What a lease holds, the least that its caller can live with, the most it may get now."""

    memory_mb: int
    cpu_cores: Decimal
    min_memory_mb: int = 0
    min_cpu_cores: Decimal = Decimal(0)
    most_memory_mb: int = 2**31 - 1
    most_cpu_cores: Decimal = Decimal(10**6)


@dataclass(frozen=True, slots=True)
class Change:
    """One change of one resource of a grant; reason: with the numbers, bound: what limited it."""

    resource: str
    kind: str
    before: Decimal
    after: Decimal
    reason: str
    bound: str = ""

    @property
    def confidence(self) -> float:
        """How sure the seed is of such a change."""
        return CONFIDENCE[self.resource, self.kind]

    @property
    def freed(self) -> Decimal:
        """How much comes free; below zero: how much more is held."""
        return self.before - self.after


def is_low(resource: str, *, used: float, granted: float, rules: Rules) -> bool:
    """Whether so little is used of a grant that some of it could go."""
    share = rules.low_memory_share if resource == MEMORY else rules.low_cpu_share
    return used < share * granted


def is_pressed(*, used: float, granted: float, rules: Rules) -> bool:
    """Whether so much is used of a grant that work may soon be held up, or killed."""
    return used > rules.pressure_share * granted


def changes(*, use: Use, held: Held, rules: Rules = USUAL) -> tuple[Change, ...]:
    """Return what should change about a lease's grant, the surest first; usually nothing."""
    found = [*_growth(use, held, rules), *_shrinks(use, held, rules)]
    return tuple(sorted(found, key=lambda change: -change.confidence))


def rules_of(settings: Mapping[str, Any]) -> Rules:
    """
    Return the usual rules with some of them changed.

    Raises: ValueError, a name or a value is none, or shares contradict each other.
    """
    made = chosen(Rules, settings)
    if made.headroom < 1:
        raise ValueError("headroom: 1 or more, or what is used would not fit.")
    for name in ("low_memory_share", "low_cpu_share"):
        if getattr(made, name) >= made.pressure_share:
            raise ValueError(f"{name}: below pressure_share, or a lease would shrink and grow.")
    return made


def _growth(use: Use, held: Held, rules: Rules) -> Iterator[Change]:
    is_asked = is_pressed(used=use.memory_mb, granted=held.memory_mb, rules=rules)
    if GROWTH in use.spared or not is_asked:
        return
    wanted = math.ceil(use.memory_mb * (1 + rules.grown_share))
    after = min(wanted, held.most_memory_mb)
    if after <= held.memory_mb:
        return
    yield Change(
        MEMORY,
        "grow",
        Decimal(held.memory_mb),
        Decimal(after),
        f"{use.memory_mb:.0f} of {held.memory_mb} MB are used, more than"
        f" {rules.pressure_share:.0%}",
        "what its agent, its profile and limits allow" if after < wanted else "",
    )


def _shrinks(use: Use, held: Held, rules: Rules) -> Iterator[Change]:
    if use.since_change_s < rules.rest_s:
        return
    if MEMORY not in use.spared and use.low_memory_s >= rules.hold_s:
        yield from _less_memory(use, held, rules)
    if CPU not in use.spared and use.low_cpu_s >= rules.hold_s:
        yield from _less_cpu(use, held, rules)


def _less_memory(use: Use, held: Held, rules: Rules) -> Iterator[Change]:
    if not is_low(MEMORY, used=use.memory_mb, granted=held.memory_mb, rules=rules):
        return
    floors = {
        "": held.memory_mb - int(held.memory_mb * rules.freed_memory_share),
        "the peak with headroom": math.ceil(use.peak_memory_mb * rules.headroom),
        "the least that its request can live with": held.min_memory_mb,
    }
    bound = max(floors, key=lambda name: floors[name])
    after = floors[bound]
    if held.memory_mb - after < max(1.0, rules.least_memory_mb):
        return
    yield Change(
        MEMORY,
        "shrink",
        Decimal(held.memory_mb),
        Decimal(after),
        f"{use.memory_mb:.0f} of {held.memory_mb} MB are used, at most {use.peak_memory_mb:.0f}"
        f" so far, for {use.low_memory_s:.0f} s",
        bound,
    )


def _less_cpu(use: Use, held: Held, rules: Rules) -> Iterator[Change]:
    granted = float(held.cpu_cores)
    if not is_low(CPU, used=use.cpu_cores, granted=granted, rules=rules):
        return
    freed = (held.cpu_cores * Decimal(str(rules.freed_cpu_share))).quantize(CORE_STEP, ROUND_DOWN)
    peak = Decimal(str(use.peak_cpu_cores * rules.headroom)).quantize(CORE_STEP, ROUND_UP)
    floors = {
        "": held.cpu_cores - freed,
        "the peak with headroom": peak,
        "the least that its request can live with": held.min_cpu_cores,
    }
    bound = max(floors, key=lambda name: floors[name])
    after = floors[bound]
    if float(held.cpu_cores - after) < max(0.001, rules.least_cpu_cores):
        return
    yield Change(
        CPU,
        "shrink",
        held.cpu_cores,
        after,
        f"{use.cpu_cores:.2f} of {granted:g} cores are used, at most {use.peak_cpu_cores:.2f}"
        f" so far, for {use.low_cpu_s:.0f} s",
        bound,
    )
