"""The rules of rebalancing: the seed's shares, and what keeps work from being harmed by them."""

import math
from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancing import rebalancing
from balancing.rebalancing import CPU, MEMORY, USUAL, Held, Use

HELD = Held(1000, Decimal(2), min_memory_mb=0, min_cpu_cores=Decimal(0), most_memory_mb=4000)
BUSY = Use(memory_mb=600, peak_memory_mb=700, cpu_cores=1, peak_cpu_cores=1.5)
LOW = Use(100, 120, 0.1, 0.2, low_memory_s=90, low_cpu_s=90)


def only(use, held=HELD, rules=USUAL):
    (change,) = rebalancing.changes(use=use, held=held, rules=rules)
    return change


def test_the_seeds_shares_decide():
    memory, cpu = rebalancing.changes(use=LOW, held=HELD)

    assert (memory.resource, memory.before, memory.after, memory.freed) == (MEMORY, 1000, 600, 400)
    assert (cpu.resource, cpu.before, cpu.after) == (CPU, 2, Decimal("1.4"))
    assert memory.confidence > cpu.confidence


def test_a_lease_that_uses_what_it_holds_stays():
    assert rebalancing.changes(use=BUSY, held=HELD) == ()


def test_pressure_gives_half_of_what_is_used_on_top_at_once():
    pressed = replace(BUSY, memory_mb=950, peak_memory_mb=950, since_change_s=0)

    assert only(pressed).after == math.ceil(950 * 1.5)
    assert only(pressed, replace(HELD, most_memory_mb=1200)).after == 1200
    assert only(pressed, replace(HELD, most_memory_mb=1200)).bound.startswith("what its agent")
    assert rebalancing.changes(use=pressed, held=replace(HELD, most_memory_mb=1000)) == ()


@pytest.mark.parametrize(
    ("use", "held", "after", "bound"),
    [
        (replace(LOW, low_cpu_s=0), HELD, 600, ""),
        (replace(LOW, low_cpu_s=0, peak_memory_mb=700), HELD, 840, "the peak with headroom"),
        (replace(LOW, low_cpu_s=0), replace(HELD, min_memory_mb=900), 900, "the least that"),
    ],
)
def test_a_shrink_ends_at_its_floors(use, held, after, bound):
    change = only(use, held)

    assert (change.after, change.bound.startswith(bound)) == (after, True)


@pytest.mark.parametrize(
    "use",
    [
        replace(LOW, low_memory_s=59, low_cpu_s=59),
        replace(LOW, since_change_s=119),
        replace(LOW, spared=frozenset({MEMORY, CPU})),
        replace(LOW, peak_memory_mb=825, peak_cpu_cores=1.64),
    ],
    ids=["not long enough", "just changed", "did harm once", "not worth it"],
)
def test_a_lease_is_left_alone(use):
    assert rebalancing.changes(use=use, held=HELD) == ()


memory = st.floats(0, 5000)
cores = st.floats(0, 10)


@given(
    used=memory,
    more=memory,
    cpu=cores,
    more_cpu=cores,
    granted=st.integers(1, 5000),
    granted_cpu=st.decimals("0.1", "10", places=3),
    minimum=st.floats(0, 1),
    room=st.integers(0, 5000),
)
def test_nothing_ever_falls_below_its_floors_or_rises_above_its_bounds(
    used, more, cpu, more_cpu, granted, granted_cpu, minimum, room
):
    use = Use(used, used + more, cpu, cpu + more_cpu, low_memory_s=1e9, low_cpu_s=1e9)
    held = Held(
        granted,
        granted_cpu,
        min_memory_mb=int(minimum * granted),
        min_cpu_cores=granted_cpu * Decimal(str(round(minimum, 3))),
        most_memory_mb=granted + room,
    )

    for change in rebalancing.changes(use=use, held=held):
        if change.kind == "grow":
            assert granted < change.after <= granted + room
        elif change.resource == MEMORY:
            assert change.after < granted
            assert change.after >= max(held.min_memory_mb, 1.2 * use.peak_memory_mb)
            assert change.after >= 0.6 * granted
        else:
            assert change.after < granted_cpu
            assert change.after >= held.min_cpu_cores
            assert float(change.after) >= 1.2 * use.peak_cpu_cores - 1e-9


@given(granted=st.integers(64, 100_000), share=st.floats(0, 0.2999))
def test_what_was_shrunk_neither_shrinks_again_nor_grows_by_itself(granted, share):
    """Hysteresis: from low use a few shrinks lead to a grant at which nothing more happens."""
    used = share * granted
    use, held = Use(used, used, 0, 0, low_memory_s=1e9), Held(granted, Decimal(1))
    seen = []
    while found := rebalancing.changes(use=use, held=held):
        seen.append(found[0])
        held = replace(held, memory_mb=int(found[0].after))

    assert {change.kind for change in seen} <= {"shrink"}
    assert not rebalancing.is_pressed(used=used, granted=held.memory_mb, rules=USUAL)


@pytest.mark.parametrize(
    ("chosen", "named"),
    [
        ({"nonsense": 1}, "nonsense"),
        ({"hold_s": -1}, "hold_s"),
        ({"hold_s": "soon"}, "hold_s"),
        ({"low_memory_share": 1.5}, "low_memory_share"),
        ({"headroom": 0.9}, "headroom"),
        ({"low_cpu_share": 0.95}, "low_cpu_share"),
        ({"watch_s": math.inf}, "watch_s"),
    ],
)
def test_rules_that_make_no_sense_are_refused(chosen, named):
    with pytest.raises(ValueError, match=f"^{named}"):
        rebalancing.rules_of(chosen)


def test_other_rules_are_taken():
    assert rebalancing.rules_of({"hold_s": 5}) == replace(USUAL, hold_s=5)
