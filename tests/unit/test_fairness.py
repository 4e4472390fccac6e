"""Who is served next when everybody wants more than there is."""

from collections import Counter
from fractions import Fraction
from math import isclose, log2

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancing.fairness import NOTHING, charge, entry, usage_now

HOUR = 3600.0
NOW = 1_800_000_000.0  # an epoch's time in seconds: far beyond what 2^(t / half-life) could hold
costs = st.floats(0.001, 1e6)
weights = st.floats(0.01, 100)
ages = st.floats(0, 20 * HOUR)
charges = st.lists(st.tuples(costs, weights, ages), min_size=1, max_size=6)


def charged(several, since=NOW):
    """The log usage after charges, each so many seconds after the start, in order of time."""
    usage = NOTHING
    for cost, weight, age_s in sorted(several, key=lambda one: one[2]):
        usage = charge(usage, cost=cost, weight=weight, at_s=since + age_s, half_life_s=HOUR)
    return usage


@given(charges, ages)
def test_usage_is_that_of_a_plain_recomputation(several, later_s):
    at_s = 20 * HOUR + later_s
    plain = sum(cost / weight * 0.5 ** ((at_s - age) / HOUR) for cost, weight, age in several)

    found = usage_now(charged(several), at_s=NOW + at_s, half_life_s=HOUR)

    assert isclose(found, plain, rel_tol=1e-6)


def test_a_small_usage_is_exact():
    # At time 0 nothing is inflated: 2^u is the plain sum, here in exact fractions.
    usage = NOTHING
    for cost in (3, 5, 8):
        usage = charge(usage, cost=cost, weight=4, at_s=0, half_life_s=HOUR)

    assert usage == pytest.approx(log2(Fraction(3 + 5 + 8, 4)))


@given(charges, charges, ages)
def test_the_order_never_changes_with_time(first, second, later_s):
    less, more = sorted([charged(first), charged(second)])

    now = [usage_now(one, at_s=NOW + later_s, half_life_s=HOUR) for one in (less, more)]

    assert now == sorted(now)


@given(charges, st.integers(1, 10))
def test_a_half_life_halves(several, times):
    usage = charged(several)
    before = usage_now(usage, at_s=NOW, half_life_s=HOUR)

    after = usage_now(usage, at_s=NOW + times * HOUR, half_life_s=HOUR)

    assert isclose(after * 2**times, before, rel_tol=1e-6)


@given(charges, charges)
def test_the_order_of_charges_at_one_time_does_not_matter(first, second):
    one, other = (
        charged([(c, w, 0) for c, w, _ in several])
        for several in ([*first, *second], [*second, *first])
    )

    assert isclose(one, other, rel_tol=1e-12)


@given(charges, costs, weights)
def test_a_charge_never_lowers_and_more_weight_never_costs_more(several, cost, weight):
    before = charged(several)

    light = charge(before, cost=cost, weight=weight, at_s=NOW, half_life_s=HOUR)
    heavy = charge(before, cost=cost, weight=2 * weight, at_s=NOW, half_life_s=HOUR)

    assert before <= heavy <= light


def test_a_cost_of_nothing_changes_nothing():
    assert charge(5.0, cost=0, weight=1, at_s=NOW, half_life_s=HOUR) == 5.0
    assert usage_now(NOTHING, at_s=NOW, half_life_s=HOUR) == 0.0


@pytest.mark.parametrize("wrong", [{"cost": -1}, {"weight": 0}, {"half_life_s": 0}])
def test_a_value_out_of_range_is_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        charge(0.0, **{"cost": 1, "weight": 1, "at_s": NOW, "half_life_s": HOUR, **wrong})


@pytest.mark.parametrize("half_life_s", [1.0, 60.0, HOUR, 168 * HOUR])
def test_no_half_life_overflows(half_life_s):
    usage = charge(NOTHING, cost=10, weight=1, at_s=NOW, half_life_s=half_life_s)
    usage = charge(usage, cost=10, weight=1, at_s=NOW * 2, half_life_s=half_life_s)

    found = usage_now(usage, at_s=NOW * 2, half_life_s=half_life_s)

    assert found == pytest.approx(10, rel=1e-5)


# -- entry -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("own", "others", "expected"),
    [
        (None, [], NOTHING),
        (None, [7.0, 3.0], 3.0),
        (1.0, [7.0, 3.0], 3.0),
        (5.0, [7.0, 3.0], 5.0),
        (5.0, [], 5.0),
        (None, [NOTHING, 3.0], NOTHING),
    ],
)
def test_whoever_begins_to_wait_starts_level_with_the_least(own, others, expected):
    assert entry(own, others) == expected


def test_a_newcomer_does_not_overtake_the_queue_with_a_burst():
    usage = {name: charged([(10 * HOUR, 1, 0)]) for name in ("a", "b")}
    usage["new"] = entry(None, usage.values())

    served = serve(usage, dict.fromkeys(usage, 1), grants=30)

    assert served["new"] == pytest.approx(10, abs=2)


# -- under saturation ------------------------------------------------------------------------------


def serve(usage, weight, *, grants, slot_s=60.0):
    """Give one slot after the other to whoever used least; everybody always wants one more."""
    usage, served = dict(usage), Counter()
    for turn in range(grants):
        first = min(usage, key=lambda name: (usage[name], name))
        served[first] += 1
        # Lengths differ, but not by project: 40 to 80 s.
        usage[first] = charge(
            usage[first],
            cost=40 + turn * 17 % 41,
            weight=weight[first],
            at_s=NOW + turn * slot_s,
            half_life_s=HOUR,
        )
    return served


def test_weights_are_what_projects_receive():
    weight = {"one": 1, "two": 2, "three": 3}

    served = serve(dict.fromkeys(weight, NOTHING), weight, grants=1200)

    for name, share in (("one", 1 / 6), ("two", 2 / 6), ("three", 3 / 6)):
        assert served[name] / 1200 == pytest.approx(share, abs=0.02)


def test_what_was_used_long_ago_is_forgiven():
    glutton = {"glutton": charged([(100 * HOUR, 1, 0)]), "modest": NOTHING}
    later = {
        name: charge(one, cost=60, weight=1, at_s=NOW + 40 * HOUR, half_life_s=HOUR)
        for name, one in glutton.items()
    }

    assert later["glutton"] == pytest.approx(later["modest"], abs=0.001)
