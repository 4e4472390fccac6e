"""How many agents are kept on standby, and what moves lead there, under any pool and policy."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scaling import decisions, policies, report, simulation, standby, traces
from scaling.decisions import PoolState
from scaling.history import History
from scaling.policies import PolicyInvalid, Rule
from scaling.simulation import demand_for
from scaling.standby import Moves, Plan, Sizes
from scaling.traces import Job, Shape

NOON = 12 * 3600.0
sizes = st.builds(
    lambda ready, busy, starting, standby: Sizes(ready, min(busy, ready), starting, standby),
    *[st.integers(0, 12)] * 4,
)
plans = st.builds(
    lambda on_duty, standby: Plan(on_duty + standby, on_duty, standby),
    *[st.integers(0, 12)] * 2,
)
wishes = st.sampled_from(["none", "auto", "1", "5"])
rules = st.sampled_from([rule for rule in Rule if rule != Rule.SCHEDULE])


def decide(text, pool, *, history=None):
    policy = policies.parse(text)
    return decisions.decide(
        policy=policy,
        pool=pool,
        demand=demand_for(policy),
        history=history or History(),
        now=NOON,
    )


# -- how many --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wish", "rate", "startup_s", "slots", "agents"),
    [
        (3, None, 60, 1, 3),
        ("auto", None, 60, 1, 0),
        # 0.05/s x 70 s = 3.5 requests while one agent starts up.
        ("auto", 0.05, 70, 1, 4),
        ("auto", 0.05, 70, 4, 1),
        # One arrival in 33 start-ups: nobody is kept for it.
        ("auto", 0.0005, 60, 1, 0),
        ("auto", 0.001, 60, 1, 1),
    ],
)
def test_standby_is_the_arrival_rate_times_the_start_up(wish, rate, startup_s, slots, agents):
    assert standby.wanted(wish, rate=rate, startup_s=startup_s, slots_per_agent=slots) == agents


@pytest.mark.parametrize("text", ["warm:standby=some", "warm:standby=-1", "warm:standby=1.5"])
def test_a_standby_that_cannot_be_names_its_field(text):
    with pytest.raises(PolicyInvalid) as caught:
        policies.parse(text)

    assert caught.value.field == "standby"


# -- which moves -----------------------------------------------------------------------------------


@given(sizes, plans)
def test_moves_lead_to_the_plan_and_touch_nobody_who_works(now, plan):
    moves = standby.moves(now, plan)
    ready = now.ready + moves.wake - moves.set_aside
    warm = now.standby - moves.wake + moves.set_aside

    assert ready >= now.busy
    assert min(now.ready, plan.on_duty) <= ready <= max(now.ready, plan.on_duty)
    assert 0 <= warm <= max(now.standby, plan.standby)
    assert now.total + moves.launch - moves.let_go == plan.target
    assert moves.cold <= moves.launch
    # Nobody is launched for work while one could be woken for it, nor goes while one comes.
    assert not moves.cold or warm == 0
    assert not (moves.wake and moves.set_aside)
    assert not (moves.launch and moves.let_go)


@given(sizes, plans)
def test_a_plan_that_is_followed_leaves_nothing_to_do(now, plan):
    moves = standby.moves(now, plan)
    ready = now.ready + moves.wake - moves.set_aside
    warm = now.standby - moves.wake + moves.set_aside
    young = min(moves.let_go, now.starting)
    spare = min(moves.let_go - young, max(0, warm - plan.standby))
    idle = min(moves.let_go - young - spare, ready - now.busy)
    # Those that start have come up.
    after = Sizes(ready - idle + now.starting - young + moves.launch, now.busy, 0, warm - spare)
    again = standby.moves(after, plan)

    assert (again.launch, again.wake) == (0, 0)
    if now.busy <= plan.on_duty:
        assert again.let_go == 0


# -- decisions -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "pool", "plan", "moves"),
    [
        # Two wait: both on standby are woken, and two are launched in their place.
        (
            "queue:standby=2",
            PoolState(3, 3, 0, 2, standby=2),
            Plan(7, 5, 2),
            Moves(wake=2, launch=2),
        ),
        # Four are missing, two can be woken: two are launched for work, two for the standby.
        (
            "queue:standby=2",
            PoolState(3, 3, 0, 4, standby=2),
            Plan(9, 7, 2),
            Moves(wake=2, launch=4, cold=2),
        ),
        # Three idle ones too many: two are set aside, one goes.
        ("queue:standby=2", PoolState(4, 1), Plan(3, 1, 2), Moves(set_aside=2, let_go=1)),
        # At the largest size work comes first.
        (
            "queue:standby=2,max_size=4",
            PoolState(3, 3, 0, 1, standby=1),
            Plan(4, 4, 0),
            Moves(wake=1),
        ),
        # Whom an operator put there is woken, too, and not replaced,
        ("queue", PoolState(2, 2, 0, 1, standby=1, kept=1), Plan(3, 3, 0), Moves(wake=1)),
        # and is not let go for being one too many.
        ("queue", PoolState(2, 2, standby=1, kept=1), Plan(3, 2, 1), Moves()),
        ("queue", PoolState(2, 2, standby=1), Plan(2, 2, 0), Moves(let_go=1)),
        # A step bounds launches; whoever is there already may work.
        (
            "queue:standby=2,step_up=1",
            PoolState(3, 3, 0, 2, standby=2),
            Plan(6, 5, 1),
            Moves(wake=2, launch=1),
        ),
        # 0.05/s x 70 s, as the pool's own launches took.
        (
            "queue:standby=auto",
            PoolState(1, 1, rate=0.05, startup_s=70),
            Plan(5, 1, 4),
            Moves(launch=4),
        ),
    ],
)
def test_standby_is_woken_before_anybody_is_launched(text, pool, plan, moves):
    made = decide(text, pool)

    assert (made.plan, made.moves) == (plan, moves)
    assert made.target == plan.target
    assert (made.action == "no_action") == (moves == Moves())
    assert "on standby" in made.reason


def test_predictive_holds_no_reserve_idle_that_is_on_standby():
    policy = policies.usual(Rule.PREDICTIVE)
    demand = demand_for(policy)
    for second in range(0, int(NOON), 20):
        demand.arrived(float(second))
    pool = PoolState(5, 5)
    found = [
        decisions.decide(
            policy=policies.changed(policy, standby=count),
            pool=pool,
            demand=demand,
            history=History(),
            now=NOON,
        ).plan
        for count in (0, 1, 50)
    ]

    plain, one, many = found
    assert plain.target > 6
    assert (one.target, one.on_duty, one.standby) == (plain.target, plain.target - 1, 1)
    assert (many.target, many.on_duty, many.standby) == (55, 5, 50)


@settings(max_examples=150)
@given(rules, wishes, sizes, st.integers(0, 20), st.integers(0, 6), st.integers(0, 20))
def test_standby_never_leaves_the_bounds_nor_takes_from_work(rule, wish, now, waiting, low, more):
    text = f"{rule}:standby={wish},min_size={low},max_size={low + more}"
    pool = PoolState(now.ready, now.busy, now.starting, waiting, 0.05, 60, 5, standby=now.standby)
    with_, without = decide(text, pool), decide(text.replace(wish, "none", 1), pool)

    assert with_.target <= max(low + more, now.busy)
    assert with_.plan.on_duty >= min(low, with_.target)
    assert with_.plan.on_duty >= now.busy
    assert with_.target >= without.target - now.standby
    assert with_.moves == standby.moves(now, with_.plan)


def test_the_budget_of_the_day_takes_the_standby_first():
    history = History()
    history.paid(at=0, size=4)
    history.paid(at=NOON - 4 * 3600, size=5)  # 52 of 60 agent-hours until noon
    text = "queue:standby=6,min_size=0,budget_agent_hours_per_day=60"

    made = decide(text, PoolState(4, 4), history=history)

    assert (made.plan, made.bounds) == (Plan(8, 4, 4), ("budget",))


# -- the replay ------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.builds(Job, st.integers(0, 3000).map(float), st.integers(1, 900).map(float)),
        min_size=1,
        max_size=50,
    ),
    st.sampled_from(
        ["queue:standby=2,stabilise_s=0", "predictive:standby=auto", "classic:standby=3"]
    ),
)
def test_the_timeline_gives_the_same_waits_and_the_standby_is_paid(work, text):
    trace = traces.made("drawn", work)
    done = simulation.replay(trace, policy=policies.parse(text), warmup_s=0.0, is_recorded=True)

    assert (report.waits_of(done.timeline, trace) == done.waits_s).all()
    hours = report.paid_hours(done.timeline, from_s=0.0, to_s=done.end_s)
    assert hours == pytest.approx(done.paid_s / 3600)
    assert all(each.busy <= each.ready <= each.paid for each in done.timeline)


def test_standby_spares_a_rule_without_a_reserve_most_of_its_late_requests():
    shape = Shape(days=2, busy=3, storms_per_week=0, mean_s=300)
    trace = traces.synthetic(name="busy", shape=shape, seed=4)
    plain, kept = (
        simulation.replay(trace, policy=policies.parse(text), warmup_s=0.0)
        for text in ("queue", "queue:standby=3")
    )

    late = [float((done.waits_s > 30).mean()) for done in (plain, kept)]
    assert late[1] < late[0] / 5
    assert kept.paid_s > plain.paid_s
    assert (plain.hits, kept.hits > 5 * kept.misses) == (0, True)


def test_what_is_no_count_of_standby_is_told_in_words():
    with pytest.raises(PolicyInvalid, match="neither none, nor auto, nor a whole number"):
        policies.parse("predictive:standby=lots")
