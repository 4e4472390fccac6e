"""Which size a pool should have: each rule by hand, and the bounds under any input."""

import math
from dataclasses import replace
from datetime import datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scaling import decisions, policies
from scaling.decisions import PoolState
from scaling.demand import Demand
from scaling.forecast import Announced
from scaling.history import History
from scaling.policies import Mode, Policy, PolicyInvalid, Rule
from scaling.pool import Apart
from scaling.schedule import Window
from scaling.simulation import demand_for
from scaling.standby import Sizes

NOON = 12 * 3600.0
pools = st.builds(
    lambda ready, busy, starting, waiting, rate, service_s, wait_s: PoolState(
        ready, min(busy, ready), starting, waiting, rate, service_s, wait_s
    ),
    st.integers(0, 60),
    st.integers(0, 60),
    st.integers(0, 20),
    st.integers(0, 40),
    st.floats(0, 1),
    st.floats(1, 5000),
    st.floats(0, 600),
)


def parted(pool, ready, busy, starting, idle, held):
    """A pool of which a part is of no use to whoever waits, and another one is held back."""
    parts = []
    left, work = pool.ready, pool.busy
    for most in (ready, held):
        slots = min(most, left)
        used = max(min(busy, slots, work), work - (left - slots))
        left, work = left - slots, work - used
        parts.append(Apart(slots, used, 0, min(idle, slots - used)))
    apart = replace(parts[0], starting=min(starting, pool.starting))
    return replace(pool, apart=apart if pool.waiting else Apart(), held_back=parts[1])


few = st.integers(0, 10)
parted_pools = st.builds(parted, pools, few, few, few, few, few)
rules = st.sampled_from([rule for rule in Rule if rule != Rule.SCHEDULE])


def decide(policy, pool, *, demand=None, history=None, now=NOON):
    return decisions.decide(
        policy=policy,
        pool=pool,
        demand=demand or demand_for(policy),
        history=history or History(),
        now=now,
    )


# -- each rule, by hand ----------------------------------------------------------------------------


IDLE_ONE, BUSY_TEN = Apart(ready=1, idle=1), Apart(ready=10, busy=10)


@pytest.mark.parametrize(
    ("text", "pool", "target"),
    [
        # One idle agent, fit for none of the twenty: each of them needs a new one.
        ("warm:k=0", PoolState(1, 0, 0, 20, apart=IDLE_ONE), 21),
        ("queue", PoolState(1, 0, 0, 20, apart=IDLE_ONE), 21),
        ("queue:target_per_agent=4", PoolState(1, 0, 0, 20, apart=IDLE_ONE), 6),
        ("utilization", PoolState(1, 0, 0, 20, apart=IDLE_ONE), 2),
        ("classic:max_scale_up_ratio=9", PoolState(1, 0, 0, 1, 0.0, 60, 5, apart=IDLE_ONE), 2),
        ("predictive", PoolState(1, 0, 0, 20, apart=IDLE_ONE), 21),
        # While they start it is the same size,
        ("warm:k=0", PoolState(1, 0, 20, 20, apart=IDLE_ONE), 21),
        # for whoever comes the idle one will do,
        ("warm:k=1", PoolState(1, 0, 0, 20, apart=IDLE_ONE), 21),
        ("warm:k=3", PoolState(1, 0, 0, 20, apart=IDLE_ONE), 23),
        # and it counts on no work that ends on agents that are none for them: nor as tolerance.
        ("queue", PoolState(10, 10, 0, 1, apart=BUSY_TEN), 11),
        ("utilization", PoolState(10, 10, 0, 1, apart=BUSY_TEN), 11),
        # Whoever is held back is nobody for any of them, and comes on top, work or none;
        ("warm:k=1", PoolState(1, 0, held_back=IDLE_ONE), 2),
        ("warm:k=1", PoolState(2, 0, 0, 1, apart=IDLE_ONE, held_back=IDLE_ONE), 3),
        ("warm:k=0", PoolState(2, 1, held_back=Apart(1, 1)), 2),
        ("utilization", PoolState(20, 10, held_back=BUSY_TEN), 11),
        ("static:size=2", PoolState(2, 0, held_back=IDLE_ONE), 3),
        ("queue:min_size=2", PoolState(2, 0, held_back=IDLE_ONE), 3),
        ("queue:min_idle=1", PoolState(1, 0, held_back=IDLE_ONE), 2),
        # up to the largest size, in slots of whole agents.
        ("static:size=2,max_size=2", PoolState(2, 0, held_back=IDLE_ONE), 2),
        ("warm:k=1", PoolState(4, 0, slots_per_agent=4, held_back=Apart(4, idle=1)), 2),
        # Who is idle and no use makes room in a full pool, for as many as are missing,
        ("warm:k=0,min_size=0,max_size=3", PoolState(3, 0, 0, 2, apart=Apart(3, idle=3)), 1),
        ("warm:k=0,min_size=0,max_size=3", PoolState(3, 0, 0, 9, apart=Apart(3, idle=3)), 0),
        ("warm:k=0,min_size=0,max_size=3", PoolState(3, 1, 0, 9, apart=Apart(3, 1, idle=2)), 1),
        ("warm:k=9,min_size=0,max_size=3", PoolState(3, 0, 0, 1, apart=Apart(3, idle=3)), 2),
        # never below the smallest size,
        ("warm:k=0,min_size=2,max_size=3", PoolState(3, 0, 0, 9, apart=Apart(3, idle=3)), 2),
        # but where there is room it is filled first, and nobody goes who is some use.
        ("warm:k=0,min_size=0,max_size=3", PoolState(2, 0, 0, 9, apart=Apart(2, idle=2)), 3),
        ("warm:k=0,min_size=0,max_size=3", PoolState(3, 3, 0, 9), 3),
        ("warm:k=9,min_size=0,max_size=3", PoolState(3, 0, apart=Apart()), 3),
        # Whose size does not follow demand, keeps it.
        ("static:size=7", PoolState(7, 2, 0, 9, apart=Apart(5)), 7),
        ("warm:k=3", PoolState(5, 4, 0, 2), 9),
        ("queue", PoolState(5, 5, 0, 3), 8),
        ("utilization", PoolState(10, 10), 14),
        ("static:size=7", PoolState(2, 1), 7),
        # Seed: 0.05/s x 600 s / 0.75 = 40; at most half as many more, at once.
        ("classic", PoolState(10, 9, 0, 1, 0.05, 600, 40), 15),
        ("classic:as_written=1", PoolState(10, 9, 0, 1, 0.05, 600, 40), 15),
        # The seed's trap: nobody can be busy when there is nobody.
        ("classic:as_written=1,min_size=0", PoolState(0, 0, 0, 4, 0.05, 600, 90), 0),
        ("classic:min_size=0", PoolState(0, 0, 0, 4, 0.05, 600, 90), 4),
    ],
)
def test_a_rule_asks_for(text, pool, target):
    assert decide(policies.parse(text), pool).target == target


@pytest.mark.parametrize("text", ["cooldown_down_s=300", "flap_budget=1"])
def test_no_room_is_made_again_at_once_where_turns_are_bounded(text):
    policy = policies.parse(f"warm:k=0,min_size=0,max_size=3,{text}")
    full = PoolState(3, 0, 0, 2, apart=Apart(3, idle=3))
    history = History()
    history.decided(at=NOON - 20, wanted=3, current=1, target=3)
    history.decided(at=NOON - 10, wanted=1, current=3, target=1)

    assert decide(policy, full, history=history).target == 3
    assert decide(policy, full).target == 1


def test_predictive_holds_a_reserve_for_what_it_expects():
    policy = policies.usual(Rule.PREDICTIVE)
    quiet, lively = demand_for(policy), demand_for(policy)
    for second in range(0, int(NOON), 20):
        lively.arrived(float(second))
    pool = PoolState(5, 5)

    assert decide(policy, pool, demand=lively).target > decide(policy, pool, demand=quiet).target


def test_predictive_says_in_plain_numbers_that_next_to_nothing_is_expected():
    said = decide(policies.usual(Rule.PREDICTIVE), PoolState(0, 0)).reason

    assert "s 0.0 more are expected" in said


def test_predictive_needs_no_reserve_when_agents_come_up_within_the_slo():
    policy = policies.usual(Rule.PREDICTIVE, startup_s=10.0)

    assert decide(policy, PoolState(4, 3, 0, 2)).target == 5


def test_announced_work_is_launched_for_before_it_comes_and_until_it_has_come():
    policy = policies.usual(Rule.PREDICTIVE, startup_s=10.0)
    demand = demand_for(policy)
    demand.announce(Announced(at=NOON + 10, count=3))

    before = decide(policy, PoolState(1, 0), demand=demand).target
    for _ in range(3):
        demand.arrived(NOON + 10)

    assert before == 3
    assert decide(policy, PoolState(4, 3), demand=demand, now=NOON + 11).target == 3


def test_slots_are_turned_into_agents():
    policy = policies.parse("warm:k=1")

    assert decide(policy, PoolState(8, 8, 0, 3, slots_per_agent=4)).target == 3


@given(rules, st.integers(1, 4), few, few, few, few, few, few)
def test_agents_that_are_alike_are_counted_as_they_would_be_reckoned(
    rule, slots, ready, starting, held, busy, waiting, least
):
    held = min(held, ready)
    pool = PoolState(
        ready * slots,
        min(busy, ready * slots),
        starting * slots,
        waiting,
        *(0.1, 60.0, 0.0),
        slots_per_agent=slots,
        held_back=Apart(held * slots, idle=held),
    )
    policy = policies.usual(rule, size=least, min_size=least, min_idle=1)
    counted = replace(pool, counted=Sizes(ready, 0, starting, 0))

    assert decide(policy, pool) == decide(policy, counted)


def test_a_decision_says_what_each_other_rule_would_ask_for():
    policy = policies.usual(Rule.PREDICTIVE)
    found = decisions.alternatives(
        policy=policy, pool=PoolState(3, 3, 0, 1, 0.1, 60, 3), demand=demand_for(policy), now=NOON
    )

    assert [name for name, _, _ in found] == ["classic", "utilization", "queue", "warm"]


# -- modes and missing inputs ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "target", "is_carried_out"),
    [(Mode.OFF, 2, False), (Mode.RECOMMEND, 9, False), (Mode.AUTO, 9, True)],
)
def test_a_mode_says_whether_it_is_decided_and_carried_out(mode, target, is_carried_out):
    made = decide(policies.usual(Rule.WARM, k=3, mode=mode), PoolState(2, 2, 0, 4))

    assert (made.target, made.is_carried_out) == (target, is_carried_out)


def test_without_inputs_the_size_is_kept_and_the_fallback_reached():
    pool = PoolState(2, 2, observed_at=NOON - 1000)

    assert decide(policies.usual(Rule.WARM), pool).target == 2
    assert decide(policies.usual(Rule.WARM, fallback_size=6), pool).target == 6
    assert decide(policies.usual(Rule.CLASSIC), PoolState(3, 3)).bounds == ("fallback",)


# -- bounds ----------------------------------------------------------------------------------------


@settings(max_examples=200)
@given(rules, parted_pools, st.integers(0, 10), st.integers(0, 30), st.integers(0, 5))
def test_sizes_never_leave_the_bounds_except_for_those_who_work(rule, pool, low, more, idle):
    policy = policies.usual(rule, min_size=low, max_size=low + more, min_idle=idle)
    target = decide(policy, pool).target

    assert target <= max(low + more, pool.busy)
    assert target >= max(low, pool.busy)


@given(pools, st.integers(0, 20))
def test_warm_is_monotone_in_the_queue(pool, more):
    policy = policies.usual(Rule.WARM)
    longer = replace(pool, waiting=pool.waiting + more)

    assert decide(policy, pool).target <= decide(policy, longer).target


@given(pools, st.floats(0, 1))
def test_headroom_never_takes_away(pool, headroom):
    plain, roomy = policies.usual(Rule.QUEUE), policies.usual(Rule.QUEUE, headroom=headroom)

    assert decide(plain, pool).target <= decide(roomy, pool).target


@given(pools, st.integers(1, 5), st.integers(1, 5))
def test_a_step_is_never_longer_than_allowed(pool, up, down):
    policy = policies.usual(Rule.WARM, min_size=0, step_up=up, step_down=down)
    made = decide(policy, pool)

    assert made.target <= max(made.current + up, pool.busy)
    assert made.target >= made.current - down


@given(pools, st.integers(0, 10))
def test_a_small_change_is_not_worth_it(pool, band):
    policy = policies.usual(Rule.WARM, min_size=0, dead_band=band)
    made = decide(policy, replace(pool, waiting=0))

    assert made.target == made.current or abs(made.target - made.current) > band


@pytest.mark.parametrize(("passed_s", "target"), [(59, 5), (60, 2)])
def test_a_cool_down_keeps_the_size_for_its_time(passed_s, target):
    policy = policies.usual(Rule.WARM, k=2, cooldown_down_s=60)
    history = History()
    history.decided(at=NOON - passed_s, wanted=5, current=6, target=5)

    assert decide(policy, PoolState(5, 0), history=history).target == target


def test_a_cool_down_of_one_direction_does_not_hinder_the_other():
    history = History()
    history.decided(at=NOON - 1, wanted=5, current=6, target=5)
    policy = policies.usual(Rule.WARM, k=2, cooldown_down_s=60)

    assert decide(policy, PoolState(5, 5), history=history).target == 7


@pytest.mark.parametrize(("passed_s", "target"), [(299, 9), (301, 3)])
def test_stabilising_follows_the_highest_wish_of_its_time(passed_s, target):
    policy = policies.usual(Rule.WARM, k=3, stabilise_s=300)
    history = History()
    history.decided(at=NOON - passed_s, wanted=9, current=10, target=10)
    history.decided(at=NOON - 10, wanted=3, current=10, target=10)

    assert decide(policy, PoolState(10, 0), history=history).target == target


def test_a_flapping_pool_is_no_longer_shrunk():
    policy = policies.usual(Rule.WARM, k=2, flap_budget=2)
    history = History()
    for minute in range(4):
        history.decided(
            at=NOON - 600 + 60 * minute, wanted=4, current=4, target=5 if minute % 2 else 3
        )

    made = decide(policy, PoolState(5, 0), history=history)

    assert (made.target, made.bounds) == (5, ("flap_budget",))


def test_a_budget_keeps_the_minimum_until_midnight():
    policy = policies.usual(Rule.WARM, k=0, min_size=2, budget_agent_hours_per_day=60)
    history = History()
    history.paid(at=0, size=2)  # 24 of 60 agent-hours until noon, and 24 to come

    made = decide(policy, PoolState(5, 5, 0, 40), history=history)

    assert (made.target, made.bounds) == (14, ("budget",))


def test_a_calendar_is_combined_with_any_rule():
    # At 11:30 each day, for an hour, at least eight and at most twelve.
    window = policies.parse("warm:k=1,schedule=30_11_*_*_*/3600/8/12")

    assert decide(window, PoolState(2, 0)).target == 8
    assert decide(window, PoolState(2, 0, 0, 40)).target == 12
    assert decide(window, PoolState(2, 0), now=NOON + 1800).target == 1


def test_a_calendar_follows_its_time_zone():
    window = policies.parse("schedule:schedule=0_9_*_*_*/3600/5//America/New_York")
    midsummer = 1_751_288_400.0 + 1800  # 2025-06-30 13:30 UTC, half past nine in New York

    assert decide(window, PoolState(2, 0), now=midsummer).target == 5
    assert decide(window, PoolState(2, 0), now=midsummer + 3600).target == 1


@given(st.floats(min_value=0, max_value=4e9))
def test_a_window_from_each_minute_is_open_at_each_instant(now):
    # Also within the last second before a minute.
    assert Window(cron="* * * * *", for_s=60.5, min_size=1).is_open(now)
    assert Window(cron="* * * * *", for_s=60.5, min_size=1).is_open(60 * (now // 60) - 0.2)


@pytest.mark.parametrize(
    ("cron", "for_s", "at", "is_open"),
    [
        # Of eight hours from midnight, the clock shows nine in spring and seven in autumn.
        ("0 0 * * *", 28_800, "2026-03-29T08:30+02:00", True),
        ("0 0 * * *", 28_800, "2026-03-29T09:00+02:00", False),
        ("0 0 * * *", 28_800, "2026-10-25T06:59+01:00", True),
        ("0 0 * * *", 28_800, "2026-10-25T07:00+01:00", False),
        # The hour that comes twice.
        ("0 * * * *", 1800, "2026-10-25T02:10+02:00", True),
        ("0 * * * *", 1800, "2026-10-25T02:40+02:00", False),
        ("0 * * * *", 1800, "2026-10-25T02:10+01:00", True),
        ("0 * * * *", 1800, "2026-10-25T02:40+01:00", False),
    ],
)
def test_a_window_is_as_long_as_it_says_when_clocks_are_changed(cron, for_s, at, is_open):
    window = Window(cron, for_s, 1, zone="Europe/Berlin")

    assert window.is_open(datetime.fromisoformat(at).timestamp()) is is_open


# -- policies --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("fuzzy", "policy"),
        ("warm:l=3", "l"),
        ("warm:k", "k"),
        ("warm:k=many", "k"),
        ("warm:k=-1", "k"),
        ("warm:k=inf", "k"),
        ("predictive:startup_s=inf", "startup_s"),
        ("warm:min_size=3,max_size=2", "min_size"),
        ("classic:scale_down_threshold=.9", "scale_down_threshold"),
        ("predictive:slo_q=1", "slo_q"),
        ("schedule", "schedule"),
        ("warm:schedule=61_9_*_*_*/3600/5", "schedule"),
        ("warm:schedule=0_9_*_*_*/3600/5//Mars/Olympus", "schedule"),
        ("warm:budget_usd_per_day=3", "budget_usd_per_day"),
    ],
)
def test_a_policy_that_cannot_be_names_its_field(text, field):
    with pytest.raises(PolicyInvalid) as caught:
        policies.parse(text)

    assert caught.value.field == field


def test_what_is_said_wins_over_the_rules_own_defaults():
    assert policies.parse("queue").stabilise_s == 300
    assert policies.parse("queue:stabilise_s=0").stabilise_s == 0
    assert Policy().rule == Rule.PREDICTIVE


@given(st.integers(0, 10), st.integers(0, 3600))
def test_history_survives_being_stored(changes, now):
    history = History()
    for number in range(changes):
        history.decided(at=float(number), wanted=number, current=3, target=2 + number % 3)
    history.paid(at=changes, size=4)

    stored = History.restored(history.state())

    assert stored.state() == history.state()
    assert stored.highest(since=0, at_least=1) == history.highest(since=0, at_least=1)
    assert math.isclose(stored.agent_hours(10_000 + now), history.agent_hours(10_000 + now))


def test_a_demand_knows_nothing_of_another_version():
    with pytest.raises(Exception, match="version"):
        Demand.restored({"version": 0})


@settings(max_examples=200)
@given(
    st.sampled_from([Rule.WARM, Rule.PREDICTIVE, Rule.CLASSIC, Rule.UTILIZATION, Rule.QUEUE]),
    pools,
    st.integers(0, 60),
    st.integers(0, 60),
    st.integers(0, 20),
)
def test_what_is_no_use_to_those_who_wait_never_makes_a_pool_smaller(
    rule, pool, ready, busy, starting
):
    busy = min(busy, pool.busy)
    free = min(ready, pool.ready - pool.busy)
    apart = Apart(ready=free + busy, busy=busy, starting=min(starting, pool.starting))
    policy = policies.usual(rule)
    if not pool.waiting:
        apart = Apart()

    plain, fitted = (decide(policy, replace(pool, apart=each)) for each in (Apart(), apart))

    if rule in (Rule.WARM, Rule.PREDICTIVE):
        assert fitted.wanted >= plain.wanted
        assert fitted.wanted >= pool.busy + pool.waiting + apart.free
        assert fitted.wanted <= plain.wanted + apart.free
    assert fitted.plan.on_duty >= pool.busy
    if pool.waiting and apart.ready == pool.ready and apart.starting == pool.starting:
        assert fitted.target > pool.ready + pool.starting
