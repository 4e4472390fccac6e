"""
Says how much of an agent a lease gets, and whether limits allow the ask at all, in numbers.

Pure. The claim grants the same amounts in SQL; a test holds the two together.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from decimal import ROUND_DOWN, Decimal
from typing import TypeVar

# Utilisation from which nothing is given on top, and from which the grant shrinks (seed 2,
# AllocationOptimizer).
PLENTY_BELOW = Decimal("0.6")
SCARCE_FROM = Decimal("0.8")
# How far a grant may grow and shrink, as shares of the ask (same source).
GROWN = Decimal("1.5")
SHRUNK = Decimal("0.8")
# CPU is counted in thousandths of a core, as its columns are.
CORE_STEP = Decimal("0.001")
# What is recorded when a request says nothing about its network (same source).
BANDWIDTH_MBPS = Decimal(10)

Number = int | float | Decimal
N = TypeVar("N", int, Decimal)


@dataclass(frozen=True)
class Lack:
    """
    One thing that is missing: its name, and a sentence with the numbers.

    shortage: the missing share of what is needed, 0 < shortage <= 1. never: waiting cannot help,
    a limit's total or a per-agent maximum is exceeded; False also where that was not the question.
    """

    name: str
    sentence: str
    shortage: float = 1.0
    never: bool = False


@dataclass(frozen=True)
class Ask:
    """
    What a request asks for: MB, cores (three decimals), tokens, MB, Mbps.

    min_memory_mb, min_cpu_cores: 0 to the ask; None: the ask itself, no less will do.
    """

    memory_mb: int
    cpu_cores: Decimal
    token_budget: int
    disk_space_mb: int
    network_bandwidth_mbps: Decimal = BANDWIDTH_MBPS
    min_memory_mb: int | None = None
    min_cpu_cores: Decimal | None = None


@dataclass(frozen=True)
class Room:
    """What the picked agent has, and what its leases hold of it before this one; slots >= 1."""

    memory_mb: int
    cpu_cores: Decimal
    used_memory_mb: int
    used_cpu_cores: Decimal
    max_concurrent: int


@dataclass(frozen=True)
class Limits:
    """Amounts that must not be exceeded, in the units of Ask; None: no limit."""

    memory_mb: int | None = None
    cpu_cores: Decimal | None = None
    token_budget: int | None = None
    disk_space_mb: int | None = None
    network_bandwidth_mbps: Decimal | None = None


@dataclass(frozen=True)
class Grant:
    """What a lease reserves, in the units of Ask."""

    memory_mb: int
    cpu_cores: Decimal
    token_budget: int
    disk_space_mb: int
    network_bandwidth_mbps: Decimal


UNLIMITED = Limits()
_AMOUNTS = (
    ("memory_mb", "Memory", "memory", "MB"),
    ("cpu_cores", "CPU", "CPU", ""),
    ("token_budget", "Token", "tokens", ""),
    ("disk_space_mb", "Disk", "disk", "MB"),
    ("network_bandwidth_mbps", "Bandwidth", "bandwidth", "Mbps"),
)


def optimise(
    *,
    ask: Ask,
    room: Room,
    ceiling: Limits = UNLIMITED,
    limits_used: tuple[Decimal, Decimal] = (Decimal(0), Decimal(0)),
) -> Grant:
    """
    Return what a lease gets of an agent that fits: more while there is plenty, less when scarce.

    Memory and CPU each follow their own utilisation, of the agent or of the limit that is fullest:
    below 0.6 up to 1.5 of the ask, below 0.8 the ask, else the floor. Tokens, disk and bandwidth
    are exactly the ask.

    The seed's optimiser could give 1.5 times the ask although the agent itself has less, eat what
    its other slots need, and cut below what the request can live with. Here the extra ends at the
    slot's share (capacity / max_concurrent) and at the ceiling, and nothing falls below the floor.

    Args:
        ceiling: the tightest of the profile's and the limits' maxima for one agent.
        limits_used: share, 0-1, of the fullest limit's memory and CPU that is in use.
    Raises: ValueError, not even the floor is free: the agent does not fit.
    Source: seed 2, AllocationOptimizer.optimize.
    """
    return Grant(
        memory_mb=_memory(ask, room, ceiling.memory_mb, limits_used[0]),
        cpu_cores=_cpu(ask, room, ceiling.cpu_cores, limits_used[1]),
        token_budget=ask.token_budget,
        disk_space_mb=ask.disk_space_mb,
        network_bandwidth_mbps=ask.network_bandwidth_mbps,
    )


def memory_floor(ask: int, minimum: int | None) -> int:
    """Return the least memory, MB, that a grant for this ask may be; minimum None: the ask."""
    return ask if minimum is None else max(minimum, int(SHRUNK * ask))


def cpu_floor(ask: Decimal, minimum: Decimal | None) -> Decimal:
    """Return the least CPU, cores, that a grant for this ask may be; minimum None: the ask."""
    return ask if minimum is None else max(minimum, _in_steps(SHRUNK * ask))


def tightest(*limits: Limits) -> Limits:
    """Return for each amount the smallest of several limits."""
    given = [[getattr(one, field.name) for one in limits] for field in fields(Limits)]
    return Limits(*(min((x for x in each if x is not None), default=None) for each in given))


def infeasible(*, ask: Ask, maxima: Limits, free: Limits) -> tuple[Lack, ...]:
    """
    Return why limits forbid an ask, at most one sentence an amount; empty: they allow it.

    Args:
        maxima: the tightest of the per-agent maxima and the limits' totals; the ask is held
            against them, and whoever exceeds one waits in vain (`never`).
        free: what the limits leave now; the floor is held against them, as no grant is smaller.
    Source: seed 2, ResourceAllocator._check_allocation_feasibility.
    """
    return tuple(_infeasible(ask, maxima, free))


def number(value: Number) -> str:
    """Return a number as people write it: all its digits, no exponent, no trailing zeros."""
    return f"{Decimal(str(value)).normalize():f}"


def shortage(need: Number, has: Number) -> float:
    """Return the missing share of a need that is larger than what there is, at most 1."""
    return min(1.0, float((Decimal(str(need)) - Decimal(str(has))) / Decimal(str(need))))


def _memory(ask: Ask, room: Room, ceiling: int | None, elsewhere: Decimal) -> int:
    return _banded(
        "memory",
        ask=ask.memory_mb,
        floor=memory_floor(ask.memory_mb, ask.min_memory_mb),
        grown=_smallest(int(GROWN * ask.memory_mb), room.memory_mb // room.max_concurrent, ceiling),
        used=room.used_memory_mb,
        capacity=room.memory_mb,
        elsewhere=elsewhere,
    )


def _cpu(ask: Ask, room: Room, ceiling: Decimal | None, elsewhere: Decimal) -> Decimal:
    share = _in_steps(room.cpu_cores / room.max_concurrent)
    return _banded(
        "CPU",
        ask=ask.cpu_cores,
        floor=cpu_floor(ask.cpu_cores, ask.min_cpu_cores),
        grown=_smallest(_in_steps(GROWN * ask.cpu_cores), share, ceiling),
        used=room.used_cpu_cores,
        capacity=room.cpu_cores,
        elsewhere=elsewhere,
    )


def _banded(
    word: str, *, ask: N, floor: N, grown: N, used: N, capacity: N, elsewhere: Decimal
) -> N:
    free = capacity - used
    if floor > free:
        raise ValueError(f"{word}: the grant must not be below {floor}, free are {free}")
    # An agent that has nothing of it counts as full: there is nothing to give on top.
    utilisation = max(elsewhere, Decimal(used) / Decimal(capacity) if capacity else Decimal(1))
    if utilisation < PLENTY_BELOW:
        wanted = max(ask, grown)
    elif utilisation < SCARCE_FROM:
        wanted = ask
    else:
        wanted = floor
    return min(wanted, free)


def _in_steps(cores: Decimal) -> Decimal:
    return cores.quantize(CORE_STEP, rounding=ROUND_DOWN)


def _smallest(grown: N, share: N, ceiling: N | None) -> N:
    bounded = min(grown, share)
    return bounded if ceiling is None else min(bounded, ceiling)


def _infeasible(ask: Ask, maxima: Limits, free: Limits) -> Iterator[Lack]:
    floors: dict[str, Number] = {
        "memory_mb": memory_floor(ask.memory_mb, ask.min_memory_mb),
        "cpu_cores": cpu_floor(ask.cpu_cores, ask.min_cpu_cores),
    }
    for name, request, plain, unit in _AMOUNTS:
        asked: Number = getattr(ask, name)
        limit: Number | None = getattr(maxima, name)
        left: Number | None = getattr(free, name)
        need = floors.get(name, asked)
        if limit is not None and asked > limit:
            numbers = f"{number(asked)}{unit} exceeds limit {number(limit)}{unit}"
            yield Lack(name, f"{request} request {numbers}", shortage(asked, limit), never=True)
        elif left is not None and need > left:
            numbers = f"need {number(need)}{unit}, available {number(left)}{unit}"
            yield Lack(name, f"Insufficient {plain}: {numbers}", shortage(need, left))
