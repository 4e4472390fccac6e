"""How much a lease gets, and what limits forbid."""

from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancing.grants import (
    Ask,
    Limits,
    Room,
    cpu_floor,
    infeasible,
    memory_floor,
    number,
    optimise,
    shortage,
    tightest,
)

ASK = Ask(
    memory_mb=1000,
    cpu_cores=Decimal("1.000"),
    token_budget=50_000,
    disk_space_mb=500,
    min_memory_mb=500,
    min_cpu_cores=Decimal("0.500"),
)
# Two slots, so that a slot's share is 2000 MB and 2 cores.
EMPTY = Room(
    memory_mb=4000,
    cpu_cores=Decimal(4),
    used_memory_mb=0,
    used_cpu_cores=Decimal(0),
    max_concurrent=2,
)
megabytes = st.integers(0, 20_000)
cores = st.decimals(0, 64, places=3)


@st.composite
def asks(draw):
    memory, cpu = draw(megabytes), draw(cores)
    return Ask(
        memory_mb=memory,
        cpu_cores=cpu,
        token_budget=draw(megabytes),
        disk_space_mb=draw(megabytes),
        min_memory_mb=draw(st.none() | st.integers(0, memory)),
        min_cpu_cores=draw(st.none() | st.decimals(0, cpu, places=3)),
    )


@st.composite
def rooms(draw, ask):
    """An agent on which at least the floor of the ask is free."""
    used, used_cores = draw(megabytes), draw(cores)
    free = draw(st.integers(floor_mb(ask), 40_000))
    free_cores = draw(st.decimals(floor_cores(ask), 128, places=3))
    return Room(
        memory_mb=used + free,
        cpu_cores=used_cores + free_cores,
        used_memory_mb=used,
        used_cpu_cores=used_cores,
        max_concurrent=draw(st.integers(1, 8)),
    )


asked_and_room = asks().flatmap(lambda ask: st.tuples(st.just(ask), rooms(ask)))


def floor_mb(ask):
    return memory_floor(ask.memory_mb, ask.min_memory_mb)


def floor_cores(ask):
    return cpu_floor(ask.cpu_cores, ask.min_cpu_cores)


# -- the bands -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("used_mb", "granted_mb"),
    [(0, 1500), (2399, 1500), (2400, 1000), (3000, 1000), (3199, 801), (3200, 800)],
)
def test_memory_follows_the_utilisation_of_the_agent(used_mb, granted_mb):
    grant = optimise(ask=ASK, room=replace(EMPTY, used_memory_mb=used_mb))

    assert grant.memory_mb == granted_mb


@pytest.mark.parametrize(
    ("used", "granted"), [("0", "1.5"), ("2.399", "1.5"), ("2.4", "1"), ("3.2", "0.8")]
)
def test_cpu_follows_its_own_utilisation(used, granted):
    grant = optimise(
        ask=ASK, room=replace(EMPTY, used_cpu_cores=Decimal(used), used_memory_mb=3200)
    )

    assert (grant.cpu_cores, grant.memory_mb) == (Decimal(granted), 800)


def test_the_extra_ends_where_the_next_slot_begins():
    grant = optimise(ask=ASK, room=replace(EMPTY, memory_mb=2400, cpu_cores=Decimal("2.401")))

    assert (grant.memory_mb, grant.cpu_cores) == (1200, Decimal("1.200"))


def test_whoever_asks_for_more_than_a_slots_share_gets_the_ask():
    grant = optimise(ask=replace(ASK, memory_mb=3000), room=EMPTY)

    assert grant.memory_mb == 3000


def test_the_extra_ends_at_the_ceiling():
    ceiling = tightest(Limits(memory_mb=1200), Limits(memory_mb=9000, cpu_cores=Decimal("1.25")))

    grant = optimise(ask=ASK, room=EMPTY, ceiling=ceiling)

    assert (grant.memory_mb, grant.cpu_cores) == (1200, Decimal("1.25"))


def test_tokens_disk_and_bandwidth_are_exactly_the_ask():
    grant = optimise(ask=ASK, room=EMPTY)

    assert (grant.token_budget, grant.disk_space_mb, grant.network_bandwidth_mbps) == (
        50_000,
        500,
        10,
    )


def test_without_a_minimum_nothing_is_cut():
    full = replace(EMPTY, memory_mb=10_000, used_memory_mb=9000)

    assert optimise(ask=replace(ASK, min_memory_mb=None), room=full).memory_mb == 1000


def test_an_agent_without_room_for_the_floor_is_refused():
    with pytest.raises(ValueError, match="memory: the grant must not be below 800, free are 799"):
        optimise(ask=ASK, room=replace(EMPTY, used_memory_mb=3201))


@given(asked_and_room)
def test_a_grant_is_never_below_the_floor_nor_above_what_is_free(pair):
    ask, room = pair

    grant = optimise(ask=ask, room=room)

    assert floor_mb(ask) <= grant.memory_mb <= room.memory_mb - room.used_memory_mb
    assert floor_cores(ask) <= grant.cpu_cores <= room.cpu_cores - room.used_cpu_cores
    assert grant.memory_mb <= max(ask.memory_mb, room.memory_mb // room.max_concurrent)


@given(asked_and_room, st.data())
def test_more_use_never_brings_more(pair, data):
    ask, room = pair
    most_mb, most_cores = room.memory_mb - floor_mb(ask), room.cpu_cores - floor_cores(ask)
    fuller = replace(
        room,
        used_memory_mb=data.draw(st.integers(room.used_memory_mb, most_mb)),
        used_cpu_cores=data.draw(st.decimals(room.used_cpu_cores, most_cores, places=3)),
    )

    before, after = optimise(ask=ask, room=room), optimise(ask=ask, room=fuller)

    assert after.memory_mb <= before.memory_mb
    assert after.cpu_cores <= before.cpu_cores


@given(st.integers(1, 8), megabytes, st.data())
def test_slots_that_ask_for_their_share_or_less_never_run_out(slots, memory_mb, data):
    room = replace(EMPTY, memory_mb=memory_mb, max_concurrent=slots)
    for _ in range(slots):
        share = data.draw(st.integers(0, memory_mb // slots))
        grant = optimise(ask=Ask(share, Decimal(0), 0, 0), room=room)
        room = replace(room, used_memory_mb=room.used_memory_mb + grant.memory_mb)

    assert room.used_memory_mb <= memory_mb


# -- the floor -------------------------------------------------------------------------------------


@given(st.integers(0, 2**31 - 1), st.integers(0, 2**31 - 1))
def test_the_floor_of_memory_is_that_of_whole_number_arithmetic(ask, minimum):
    assert memory_floor(ask, minimum) == max(minimum, ask * 4 // 5) == max(minimum, int(0.8 * ask))


@pytest.mark.parametrize(
    ("ask", "minimum", "floor"),
    [("1", "0.5", "0.8"), ("0.333", "0.1", "0.266"), ("1", "1", "1"), ("1", None, "1")],
)
def test_the_floor_of_cpu_is_rounded_down_to_three_places(ask, minimum, floor):
    assert cpu_floor(Decimal(ask), minimum and Decimal(minimum)) == Decimal(floor)


# -- limits ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ask", "sentence"),
    [
        ({"memory_mb": 9000}, "Memory request 9000MB exceeds limit 8192MB"),
        ({"cpu_cores": Decimal("9.500")}, "CPU request 9.5 exceeds limit 8"),
        ({"token_budget": 2_000_000}, "Token request 2000000 exceeds limit 1000000"),
        ({"disk_space_mb": 9001}, "Disk request 9001MB exceeds limit 9000MB"),
        (
            {"network_bandwidth_mbps": Decimal(200)},
            "Bandwidth request 200Mbps exceeds limit 100Mbps",
        ),
    ],
)
def test_an_ask_above_a_maximum_can_never_be_granted(ask, sentence):
    maxima = Limits(8192, Decimal(8), 1_000_000, 9000, Decimal(100))

    (lack,) = infeasible(ask=replace(ASK, **ask), maxima=maxima, free=Limits())

    assert (lack.sentence, lack.never, lack.name) == (sentence, True, next(iter(ask)))


@pytest.mark.parametrize(
    ("ask", "sentence"),
    [
        ({"memory_mb": 1024}, "Insufficient memory: need 1024MB, available 512MB"),
        ({"cpu_cores": Decimal("4")}, "Insufficient CPU: need 4, available 2.5"),
        ({"token_budget": 10}, "Insufficient tokens: need 10, available 0"),
        ({"disk_space_mb": 10}, "Insufficient disk: need 10MB, available 0MB"),
        (
            {"network_bandwidth_mbps": Decimal(11)},
            "Insufficient bandwidth: need 11Mbps, available 10Mbps",
        ),
    ],
)
def test_an_ask_above_what_is_free_is_not_granted_now(ask, sentence):
    small = Ask(1, Decimal(1), 0, 0)

    (lack,) = infeasible(
        ask=replace(small, **ask),
        maxima=Limits(),
        free=Limits(512, Decimal("2.500"), 0, 0, Decimal(10)),
    )

    assert (lack.sentence, lack.never, lack.name) == (sentence, False, next(iter(ask)))


def test_what_is_free_is_held_against_the_floor():
    assert infeasible(ask=ASK, maxima=Limits(), free=Limits(memory_mb=800)) == ()

    (lack,) = infeasible(ask=ASK, maxima=Limits(), free=Limits(memory_mb=799))

    assert lack.sentence == "Insufficient memory: need 800MB, available 799MB"


def test_never_is_said_before_not_now():
    limits = Limits(memory_mb=10)

    (lack,) = infeasible(ask=ASK, maxima=limits, free=limits)

    assert lack.never


@given(asked_and_room, st.none() | megabytes, st.none() | cores)
def test_what_limits_allow_is_granted_within_them(pair, more_mb, more_cores):
    ask, room = pair
    maxima = Limits(
        memory_mb=None if more_mb is None else ask.memory_mb + more_mb,
        cpu_cores=None if more_cores is None else ask.cpu_cores + more_cores,
    )

    grant = optimise(ask=ask, room=room, ceiling=maxima)

    assert infeasible(ask=ask, maxima=maxima, free=Limits()) == ()
    assert maxima.memory_mb is None or grant.memory_mb <= maxima.memory_mb
    assert maxima.cpu_cores is None or grant.cpu_cores <= maxima.cpu_cores


def test_the_tightest_of_limits_is_taken_amount_by_amount():
    assert tightest(
        Limits(memory_mb=5, cpu_cores=Decimal(2)), Limits(memory_mb=7), Limits()
    ) == Limits(memory_mb=5, cpu_cores=Decimal(2))


@pytest.mark.parametrize(
    ("value", "text"),
    [(2_000_000, "2000000"), (4.5, "4.5"), (Decimal("4.500"), "4.5"), (0, "0"), (100, "100")],
)
def test_a_number_has_all_its_digits_and_no_more(value, text):
    assert number(value) == text


def test_a_shortage_is_the_missing_share_of_the_need():
    assert (shortage(8, 6), shortage(Decimal("0.5"), 0)) == (0.25, 1.0)
