"""Steering: what was late beyond the budget is paid back, whoever took it, and no more."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaling import policies, simulation
from scaling.policies import Rule
from scaling.steering import LEAST_AIM, Steering
from scaling.tails import LEAST_LOG
from scaling.traces import DAY_S

LATE = 0.01


def served(steering, *, late, of, since=0.0, over_s=DAY_S, is_steering=True):
    """Judge some requests, the late ones first."""
    for number in range(of):
        at = since + over_s * number / of
        steering.judged(at=at, is_late=number < late, is_steering=is_steering)


def test_a_budget_in_order_leaves_the_aim_as_it_is():
    steering = Steering(late=LATE)
    served(steering, late=20, of=2000)

    assert steering.aim(DAY_S) == pytest.approx(LATE)


@pytest.mark.parametrize("is_steering", [True, False])
def test_what_was_late_too_often_is_paid_back_until_it_is_in_order(is_steering):
    steering = Steering(late=LATE)
    before = steering.correction(0)
    served(steering, late=30, of=2000, is_steering=is_steering)

    aim, after = steering.aim(DAY_S), steering.correction(DAY_S)
    assert LEAST_AIM * LATE <= aim < 0.95 * LATE
    # A large surge says nothing of the reserve: what is aimed at moves it, at the next fit.
    assert after < before if is_steering else after >= before - 1e-9

    served(steering, late=0, of=4000, since=DAY_S)
    assert steering.aim(2 * DAY_S) == LATE


def test_a_storm_that_nothing_can_pay_back_is_forgotten():
    steering = Steering(late=LATE)
    served(steering, late=150, of=300, over_s=60, is_steering=False)

    assert steering.aim(60) == LEAST_AIM * LATE
    assert steering.aim(90 * DAY_S) > 0.95 * LATE


@given(st.lists(st.tuples(st.floats(0, DAY_S), st.booleans(), st.booleans()), max_size=60))
def test_the_aim_is_never_above_the_budget_and_survives_a_restart(judged):
    steering, now = Steering(late=LATE), 0.0
    for passed_s, is_late, is_steering in judged:
        now += passed_s
        steering.judged(at=now, is_late=is_late, is_steering=is_steering)
    again = Steering(late=LATE)
    again.restore(steering.state())

    assert LEAST_AIM * LATE <= steering.aim(now) <= LATE
    assert again.correction(now + 1) == steering.correction(now + 1)


@pytest.mark.parametrize(("apart_s", "is_lower"), [(900.0, False), (6 * 3600.0, True)])
def test_a_pool_of_few_requests_may_hold_longer_for_each(apart_s, is_lower):
    demand = simulation.demand_for(policies.usual(Rule.PREDICTIVE))
    at = 0.0
    while at < 14 * DAY_S:
        demand.arrived(at)
        at += apart_s
    demand.base = 2 * LEAST_LOG

    share = demand.log_share(at)
    assert 1.4 * LEAST_LOG < share < LEAST_LOG if is_lower else share == LEAST_LOG
