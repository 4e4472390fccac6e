"""The replay of traces: against queueing theory, against the timeline, and against itself."""

import heapq
import io
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scaling import clairvoyant, policies, report, simulation, sizing, traces
from scaling.demand import Demand
from scaling.history import History
from scaling.policies import Rule
from scaling.traces import DAY_S, Job, Shape, TraceInvalid

HOUR_S = 3600.0
jobs = st.lists(
    st.builds(
        Job, st.integers(0, 3000).map(float), st.integers(1, 900).map(float), st.just("code")
    ),
    min_size=1,
    max_size=60,
)
texts = st.sampled_from(
    ["predictive", "warm:k=1", "queue:min_size=0", "utilization", "classic", "classic:as_written=1"]
)


@pytest.fixture(scope="module")
def busy():
    shape = Shape(days=2.5, busy=6, storms_per_week=3, storm_jobs=60, mean_s=300)
    return traces.synthetic(name="busy", shape=shape, seed=4)


def replay(trace, text, **options):
    options.setdefault("warmup_s", 0.0)
    return simulation.replay(trace, policy=policies.parse(text), **options)


# -- against queueing theory -----------------------------------------------------------------------


def drawn(count, *, slots, rate, service_s):
    """Arrivals and service times of M/M/c."""
    random = np.random.default_rng(5)
    at = np.cumsum(random.exponential(1 / rate, count))
    return at.tolist(), random.exponential(service_s, count).tolist()


def recursion(at, lasts, *, slots):
    """Waits of a first-come-first-served queue, from nothing but when each server frees."""
    free, waits = [0.0] * slots, []
    for arrival, last in zip(at, lasts, strict=True):
        begin = max(heapq.heappop(free), arrival)
        waits.append(begin - arrival)
        heapq.heappush(free, begin + last)
    return np.array(waits)


def test_a_static_pool_waits_as_erlang_c_says():
    # The mean of waits, which hang together, needs millions of jobs to come within 1 %: the
    # simulator is held to the recursion job by job, and the recursion to Erlang's formula.
    slots, rate, service_s = 2, 0.01, 100.0
    at, lasts = drawn(4_000_000, slots=slots, rate=rate, service_s=service_s)
    waits = recursion(at, lasts, slots=slots)
    trace = traces.made("m/m/c", map(Job, at[:20_000], lasts[:20_000]))
    policy = f"static:size={slots},min_size={slots},tick_s=1e9,startup_s=0"
    simulated = replay(trace, policy).waits_s

    assert np.allclose(simulated, waits[:20_000], rtol=0, atol=1e-6)
    expected = sizing.erlang_c_wait_s(slots=slots, rate=rate, service_s=service_s)
    assert np.mean(waits) == pytest.approx(expected, rel=0.01)
    waited = sizing.erlang_c(slots=slots, load=rate * service_s)
    assert np.mean(waits > 0) == pytest.approx(waited, rel=0.01)


# -- against the timeline --------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(jobs, texts)
def test_anybody_gets_the_same_waits_and_hours_from_the_timeline(work, text):
    trace = traces.made("drawn", work)
    done = replay(trace, text, is_recorded=True)
    file = io.StringIO()
    report.write_timeline(done.timeline, file)
    timeline = report.read_timeline(io.StringIO(file.getvalue()))

    assert np.array_equal(report.waits_of(timeline, trace), done.waits_s)
    hours = report.paid_hours(timeline, from_s=0.0, to_s=done.end_s)
    assert hours == pytest.approx(done.paid_s / 3600)


@settings(max_examples=40, deadline=None)
@given(jobs, texts)
def test_nobody_is_stopped_at_work_and_all_work_is_done(work, text):
    done = replay(traces.made("drawn", work), text, is_recorded=True)

    assert all(change.busy <= change.ready <= change.paid for change in done.timeline)
    assert done.timeline[-1].waiting == done.timeline[-1].busy == 0
    assert done.busy_s == pytest.approx(sum(job.duration_s for job in work))


@settings(max_examples=40, deadline=None)
@given(jobs)
def test_nobody_needs_less_than_the_clairvoyant(work):
    trace = traces.made("drawn", work)
    best = clairvoyant.clairvoyant(trace, startup_s=60, slo_s=30, warmup_s=0)

    assert best.lower_hours <= best.hours + 1e-9
    assert best.hours <= sum(job.duration_s + 60 for job in work) / 3600 + 1e-9


def test_the_clairvoyant_keeps_an_agent_for_a_short_gap_and_waits_for_one_that_frees():
    # The second begins 40 s after the first ended, the third 20 s before the second ends.
    work = [Job(0, 100), Job(140, 100), Job(220, 100), Job(500, 100)]
    best = clairvoyant.clairvoyant(traces.made("four", work), startup_s=60, slo_s=30, warmup_s=0)

    # A launch before time 0 is paid from 0 on: the first start-up costs nothing here.
    assert best.hours * 3600 == pytest.approx(100 + 40 + 100 + 100 + 60 + 100)


# -- against itself --------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_same_trace_gives_the_same_decisions(busy):
    heard = [[], []]
    for each in heard:
        replay(busy, "predictive", heard=each.append)

    assert heard[0] == heard[1]


def test_what_is_learnt_is_small_and_goes_on_after_being_stored(busy):
    half = DAY_S * 1.5
    policy = policies.usual(Rule.PREDICTIVE)
    through, stored = simulation.demand_for(policy), simulation.demand_for(policy)
    for each in (through, stored):
        for job in busy.jobs:
            if job.arrival_s < half:
                _feed(each, job)
    text = json.dumps(stored.state())
    stored = Demand.restored(json.loads(text))
    for job in busy.jobs:
        if job.arrival_s >= half:
            _feed(through, job)
            _feed(stored, job)

    assert len(text) < 100_000
    assert stored.outlook(2.5 * DAY_S) == through.outlook(2.5 * DAY_S)
    assert stored.predict(2.5 * DAY_S) == through.predict(2.5 * DAY_S)
    assert json.dumps(stored.state()) == json.dumps(through.state())


def _feed(demand, job):
    """A pool with an agent for everybody, and work that ends at once."""
    demand.arrived(job.arrival_s)
    demand.began(job.arrival_s)
    late = job.duration_s > 900
    demand.judged(at=job.arrival_s, arrived_at=job.arrival_s, is_late=late)
    demand.ended(job.arrival_s, began_at=job.arrival_s)


def test_fast_starts_need_hardly_more_than_the_clairvoyant(busy):
    policy = policies.parse("predictive:startup_s=10")
    done = simulation.replay(busy, policy=policy, warmup_s=DAY_S)
    best = clairvoyant.clairvoyant(busy, startup_s=10, slo_s=30, warmup_s=DAY_S)
    row = report.row(done, policy="predictive", best=best)

    assert row.over_slo_pct == 0
    assert row.ratio < 1.1


@pytest.mark.slow
def test_a_storm_does_not_make_the_quiet_days_dear():
    quiet = Shape(days=6, busy=2, bursts=0, daily=0, weekend=0, mean_s=300)
    calm = traces.synthetic(name="calm", shape=quiet, seed=2)
    storm = traces.made("storm", [*calm.jobs, *(Job(DAY_S + n / 10, 300) for n in range(300))])
    hours = [replay(trace, "predictive", warmup_s=2 * DAY_S).paid_s for trace in (calm, storm)]

    assert hours[1] < 1.6 * hours[0]


def test_a_budget_holds_over_a_day(busy):
    done = replay(busy, "warm:k=2,budget_agent_hours_per_day=120", is_recorded=True)
    day = report.paid_hours(done.timeline, from_s=DAY_S, to_s=2 * DAY_S)

    # Work that runs is never stopped, so that the last of a day may go over.
    assert day <= 120 * 1.1


# -- traces ----------------------------------------------------------------------------------------


@given(st.integers(0, 2**32))
@settings(max_examples=10, deadline=None)
def test_a_seed_gives_one_trace_that_survives_being_written(seed):
    shape = Shape(days=1, busy=1, storms_per_week=7, storm_jobs=20)
    trace = traces.synthetic(name="one", shape=shape, seed=seed)
    file = io.StringIO()
    traces.write(trace, file)

    assert trace == traces.synthetic(name="one", shape=shape, seed=seed)
    assert traces.read(io.StringIO(file.getvalue()), name="one") == trace


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("arrival_s,kind\n1,code\n", "no column duration_s"),
        ("arrival_s,duration_s\n", "no jobs"),
        ("arrival_s,duration_s\n1,2\nx,2\n", "line 3"),
        ("arrival_s,duration_s\n-1,2\n", "not below 0"),
        ("arrival_s,duration_s\n1,nan\n", "finite"),
    ],
)
def test_a_trace_that_cannot_be_read_says_where(text, said):
    with pytest.raises(TraceInvalid, match=said):
        traces.read(io.StringIO(text), name="mine")


def test_a_synthetic_trace_is_as_busy_as_asked():
    shape = Shape(days=28, busy=5, bursts=0.2)
    trace = traces.synthetic(name="busy", shape=shape, seed=1)

    assert trace.work_s / (28 * DAY_S) == pytest.approx(5, rel=0.1)


def test_a_forecast_that_loses_to_the_naive_one_is_switched_off_and_says_so():
    demand = simulation.demand_for(policies.usual(Rule.PREDICTIVE))
    # Every day the same lone batch at another hour of the level: nobody foretells it but a clock.
    for day in range(21):
        for minute in range(60):
            demand.arrived(day * DAY_S + 9 * HOUR_S + minute * 60)
    told = demand.predict(21 * DAY_S)

    assert told.skill is not None
    assert told.source == ("naive" if told.skill < 0 else "seasonal")
    assert f"{abs(told.skill):.0%}" in told.reason


def test_a_size_is_held_for_as_long_as_it_is_to_be_stabilised():
    work = [Job(n * 30.0, 900.0) for n in range(120)] + [Job(n * 600.0, 60.0) for n in range(48)]
    policy = policies.parse("warm:k=0,stabilise_s=7200")
    made = []
    simulation.replay(traces.made("peak", work), policy=policy, warmup_s=0.0, heard=made.append)

    wishes = [(each.at, each.wanted) for each in made]
    for each in made:
        assert each.target >= max(w for at, w in wishes if each.at - 7200 <= at <= each.at)


@pytest.mark.parametrize("text", ["warm:max_size=0", "classic:as_written=1"])
def test_a_replay_ends_though_a_policy_never_serves(text):
    work = traces.made("served by nobody", [Job(n * 60.0, 60.0) for n in range(5)])

    told = []

    def endless(share):
        told.append(share)
        assert len(told) < 30

    found = replay(work, f"{text},min_size=0,tick_s=600", progress=endless)

    assert found.waits_s.min() > 7 * DAY_S


def test_history_of_nothing_is_empty():
    assert History().turns(since=0) == 0
