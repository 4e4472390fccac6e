"""Surges: when one begins, what is held for it, when it is foreseen, who does not learn of it."""

import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scaling import decisions, policies, simulation, traces
from scaling.decisions import PoolState
from scaling.demand import Demand
from scaling.forecast import Announced
from scaling.history import History
from scaling.policies import Rule
from scaling.surges import LONGEST_S
from scaling.tails import Tails
from scaling.traces import DAY_S, Job, Shape

HOUR_S = 3600.0
NIGHT = 2 * HOUR_S


@pytest.fixture
def demand():
    """A pool that has one request a quarter of an hour, since a day."""
    made = simulation.demand_for(policies.usual(Rule.PREDICTIVE))
    for quarter in range(96):
        made.arrived(quarter * 900.0)
    return made


def storm(demand, at, count=200, over_s=60.0):
    for number in range(count):
        demand.arrived(at + number * over_s / count)


def decide(demand, now):
    policy = policies.usual(Rule.PREDICTIVE)
    pool = PoolState(3, 1)
    return decisions.decide(policy=policy, pool=pool, demand=demand, history=History(), now=now)


def test_a_surge_is_held_for_at_its_pace_and_said_until_it_is_over(demand):
    before = decide(demand, DAY_S)
    storm(demand, DAY_S, count=100, over_s=30.0)
    during, after = decide(demand, DAY_S + 30), decide(demand, DAY_S + 120)

    assert "surge" not in before.reason
    assert "a surge began 30 s ago: 100 arrivals where 0.03" in during.reason
    # Twice the pace of 10 in 3 s for a lead of 30 s.
    assert during.inputs["surge_held"] == pytest.approx(200, rel=0.05)
    assert during.target == 1 + during.inputs["surge_held"]
    assert after.target == before.target
    assert [surge.arrivals for surge in demand.surges.past] == [100]


def test_no_more_is_held_than_the_largest_of_the_past_brought(demand):
    storm(demand, DAY_S)
    demand.outlook(DAY_S + HOUR_S)
    storm(demand, DAY_S + 2 * HOUR_S, count=50, over_s=15.0)

    made = decide(demand, DAY_S + 2 * HOUR_S + 15)

    assert made.inputs["surge_held"] == 150
    assert made.reason.endswith("past ones brought 200")


def test_a_surge_that_recurs_is_held_for_ahead_of_its_time(demand):
    for day in (1, 2, 3):
        storm(demand, day * DAY_S + NIGHT + 20 * day)
    ahead = decide(demand, 4 * DAY_S + NIGHT - 150)
    at_noon = decide(demand, 4 * DAY_S + 12 * HOUR_S)

    assert ahead.target >= 200
    assert "3 came about this time of the day" in ahead.reason
    assert at_noon.target < 10


def test_once_it_has_come_or_stays_away_it_is_foreseen_no_more(demand):
    for day in (1, 2, 3):
        storm(demand, day * DAY_S + NIGHT)
    storm(demand, 4 * DAY_S + NIGHT - 60)

    assert decide(demand, 4 * DAY_S + NIGHT + 90).target < 10
    # Four of the nine nights since.
    assert decide(demand, 10 * DAY_S + NIGHT).target < 10


def test_what_is_foreseen_is_an_event_of_the_forecast(demand):
    for day in (1, 2, 3):
        storm(demand, day * DAY_S + NIGHT)

    assert demand.predict(4 * DAY_S + NIGHT - 1200).event_multiplier >= 2
    assert demand.predict(4 * DAY_S + 12 * HOUR_S).event_multiplier == 1


def test_nothing_else_learns_from_a_large_surge(demand):
    storm(demand, DAY_S)
    for number in range(200):
        arrived_at = DAY_S + number * 0.3
        demand.judged(at=DAY_S + 100, arrived_at=arrived_at, is_late=True)
    demand.advance(DAY_S + HOUR_S)
    share = demand.log_share(DAY_S + HOUR_S)

    assert demand.steering.late_requests == 200
    assert demand.tails.arrivals < 97
    demand.judged(at=DAY_S + HOUR_S, arrived_at=DAY_S + HOUR_S, is_late=True)
    assert demand.log_share(DAY_S + HOUR_S) < share


def test_what_was_announced_is_no_surge(demand):
    demand.announce(Announced(at=DAY_S, count=200))
    storm(demand, DAY_S)

    assert demand.surges.current is None
    assert not demand.announced or demand.announced[0].count == 0


def test_a_level_that_lasts_is_learnt(demand):
    for second in range(8 * 3600):
        demand.arrived(DAY_S + second)
    seen = demand.outlook(DAY_S + 8 * 3600)

    assert demand.surges.current is None
    assert seen.surge is None
    assert not demand.surges.past
    assert seen.expected == pytest.approx(30, rel=0.2)
    assert LONGEST_S < 3600


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 1000), st.integers(1, 120)), min_size=1, max_size=8),
    st.integers(0, 400),
)
def test_a_stored_state_goes_on_as_if_nothing_had_happened(bursts, cut):
    at, times = 0.0, []
    for gap_s, count in bursts:
        at += gap_s
        times += [at + number * 0.2 for number in range(count)]
        at = times[-1]
    through = simulation.demand_for(policies.usual(Rule.PREDICTIVE))
    stored = simulation.demand_for(policies.usual(Rule.PREDICTIVE))
    for number, moment in enumerate(times):
        through.arrived(moment)
        stored.arrived(moment)
        if number == cut:
            # Postgres takes no infinity.
            stored = Demand.restored(json.loads(json.dumps(stored.state(), allow_nan=False)))

    assert stored.outlook(at + 1) == through.outlook(at + 1)
    assert stored.state() == through.state()


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0.01, 20), st.integers(0, 60)), max_size=40),
    st.floats(0.01, 20),
    st.floats(-9, -2),
    st.floats(0, 3),
)
def test_a_smaller_share_never_holds_less(windows, expected, log_share, less):
    tails = Tails()
    for mean, net in windows:
        tails.learn(expected=mean, arrivals=net, net=net)

    wide = tails.held(expected=expected, log_share=log_share)
    assert tails.held(expected=expected, log_share=log_share - less) >= wide


def test_nightly_storms_are_served_in_time_from_the_third_on():
    quiet = Shape(days=6, busy=2, bursts=0, mean_s=300)
    calm = traces.synthetic(name="calm", shape=quiet, seed=2)
    nightly = [Job(day * DAY_S + NIGHT + n / 10, 300.0) for day in range(6) for n in range(150)]
    trace = traces.made("nightly", [*calm.jobs, *nightly])
    policy = policies.usual(Rule.PREDICTIVE)
    done = simulation.replay(trace, policy=policy, warmup_s=2 * DAY_S)
    at = [job.arrival_s for job in trace.jobs]
    late = sum(
        wait_s > 30 for wait_s, when in zip(done.waits_s, at, strict=True) if when >= 2 * DAY_S
    )

    assert late < 0.02 * done.scored


def test_thousands_at_once_are_heard_within_a_job(demand):
    began = time.process_time()
    storm(demand, DAY_S, count=10_000, over_s=1.0)
    for number in range(10_000):
        at = DAY_S + 2 + number / 10_000
        demand.began(at)
        demand.judged(at=at, arrived_at=at - 2, is_late=False)

    assert demand.surges.current.arrivals == 10_000
    # Some 0.2 s; where each looked at all before it, it was 8 s, and nine times that for three.
    assert time.process_time() - began < 2
