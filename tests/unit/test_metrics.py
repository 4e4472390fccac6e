"""The metrics' definitions: the table in the documents by hand, merging, quantiles, and levels."""

import math
import random
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentpool.registry import metrics, quantiles
from agentpool.registry.metrics import Flows, Gauges, Stretch
from tests.unit.test_docs import page, rows

AT = datetime(2026, 5, 1, 12, tzinfo=UTC)
SECONDS = st.floats(0, 1e6)


def example():
    """What docs/metrics.md tells of one pool in half a minute."""
    granted = {"memory_mb": 1024, "cpu_cores": 1, "tokens": 50_000}
    used = {"memory_mb": 512, "cpu_cores": 0.25, "tokens": 25_000}
    nothing = dict.fromkeys(used, 0)
    none = metrics.efficiency_of(nothing, granted)
    flows = [
        metrics.arrived(),
        metrics.arrived(),
        metrics.arrived(is_refused=True),
        metrics.granted(waited_s=0),
        metrics.granted(waited_s=6),
        metrics.ended(
            outcome="success",
            duration_s=10,
            efficiency=metrics.efficiency_of(used, granted),
            tokens=25_000,
        ),
        metrics.ended(outcome="success", duration_s=30, efficiency=none),
        metrics.ended(outcome="failure", duration_s=20, efficiency=none),
        metrics.ended(outcome="cancelled", duration_s=4, efficiency=none),
    ]
    gauges = Gauges(
        total_agents=3,
        available_agents=1,
        busy_agents=1,
        standby_agents=1,
        slots=3,
        slots_used=1,
        queue_depth=1,
        total_memory_allocated_mb=1024,
        total_cpu_allocated=1,
        total_tokens_allocated=50_000,
    )
    return Stretch(30, 1, gauges, metrics.summed(flows))


def test_each_metric_is_what_its_example_in_the_documents_says():
    told = {row[0].strip("`"): row[2] for row in rows(page("metrics.md"), "## What each one means")}
    computed = metrics.row(example())
    shown = {name for name in computed if name not in metrics.SKETCHES} - {"readings"}

    assert set(told) == shown
    for name, value in told.items():
        assert computed[name] == pytest.approx(float(value), abs=5e-5), name


def test_a_pool_in_which_nothing_happens_has_no_rates_and_no_shares():
    found = metrics.derived(Stretch(covered_s=30, readings=1))

    assert found["success_rate"] is found["wait_p95_s"] is found["resource_efficiency"] is None
    assert found["request_rate_per_minute"] == found["utilization"] == 0


@given(st.lists(SECONDS, min_size=1, max_size=200), st.sampled_from([0.0, 0.5, 0.95, 0.99, 1.0]))
def test_a_quantile_is_within_five_percent_of_a_value_that_was_seen(values, share):
    exact = sorted(values)[math.floor(share * (len(values) - 1))]

    told = quantiles.quantile(quantiles.sketch_of(values), share)

    assert told == pytest.approx(exact, rel=quantiles.RELATIVE_ERROR + 1e-9, abs=quantiles.LOWEST)


@given(st.lists(SECONDS), st.lists(SECONDS))
def test_merging_sketches_is_the_sketch_of_all_values(one, other):
    merged = quantiles.merged(quantiles.sketch_of(one), quantiles.sketch_of(other))

    assert merged == quantiles.sketch_of([*one, *other])


@given(st.lists(st.tuples(st.sampled_from(["success", "failure", "lost"]), SECONDS), max_size=30))
def test_summing_at_once_is_adding_one_by_one(ends):
    flows = [metrics.ended(outcome=outcome, duration_s=value) for outcome, value in ends]
    one_by_one = Flows()
    for each in flows:
        one_by_one += each

    at_once = metrics.summed(flows)

    assert at_once.service_sketch == one_by_one.service_sketch
    assert (at_once.ended, at_once.lost) == (one_by_one.ended, one_by_one.lost)
    assert at_once.service_sum_s == pytest.approx(one_by_one.service_sum_s)


def test_readings_count_alike_and_counts_add_up():
    busy = Stretch(30, 2, Gauges(slots=4, slots_used=4), Flows(arrivals=3))
    calm = Stretch(30, 1, Gauges(slots=4, slots_used=1), Flows(arrivals=0))

    both = busy + calm

    assert (both.covered_s, both.readings, both.gauges.slots_used) == (60, 3, 3)
    assert metrics.derived(both)["request_rate_per_minute"] == 3


def test_the_order_of_merging_does_not_matter():
    chance = random.Random(4)
    parts = [
        Stretch(30, 1, Gauges(slots=chance.randint(0, 9)), metrics.granted(waited_s=n))
        for n in range(20)
    ]
    forwards, backwards = Stretch(), Stretch()
    for part in parts:
        forwards += part
    for part in reversed(parts):
        backwards += part

    assert forwards.flows == backwards.flows
    assert forwards.gauges.slots == pytest.approx(backwards.gauges.slots)


def test_a_moment_lies_in_one_stretch_of_each_length():
    at = AT + timedelta(minutes=7, seconds=44)

    begins = [metrics.begin_of(at, step_s) for step_s in metrics.STEPS_S]

    assert [begin.strftime("%H:%M:%S") for begin in begins] == [
        "12:07:30",
        "12:05:00",
        "12:00:00",
        "12:00:00",
        "00:00:00",
    ]


DAY = 86_400.0
KEPT = {30: 2 * DAY, 300: 14 * DAY, 3600: 120 * DAY, 21_600: 120 * DAY, 86_400: 1100 * DAY}


@pytest.mark.parametrize(
    ("step_s", "reach_s", "level"),
    [
        (30, 3600, 30),
        (90, 3600, 30),
        (600, 3600, 300),
        (30, 3 * DAY, 300),
        (3600, 30 * DAY, 3600),
        (21_600, 30 * DAY, 21_600),
        (300, 200 * DAY, 86_400),
        (30, 9000 * DAY, 86_400),
    ],
)
def test_a_series_is_read_from_the_coarsest_stretches_that_serve_it(step_s, reach_s, level):
    assert metrics.level_for(step_s=step_s, reach_s=reach_s, kept_s=KEPT) == level
