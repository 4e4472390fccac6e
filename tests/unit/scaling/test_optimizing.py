"""
The optimizer on recorded bad situations: it finds the cause, and what it expects comes true.

What then happens is told by a world of its own: a plain walk through time in small steps, with
other dice, that knows what is truly wrong with an agent, which the optimizer must infer.
"""

import math
import random
from dataclasses import dataclass, replace
from fractions import Fraction
from statistics import fmean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scaling import fleet, optimizing, situations, troubles
from scaling.fleet import Job, Member
from scaling.policies import Rule, usual
from scaling.situations import Attempt
from scaling.troubles import Action, Kind

HOURS = 6 * 3600.0
STEP_S = 3.0


@dataclass
class Truth:
    """An agent as it truly is."""

    name: str
    slots: int = 1
    memory_mb: float = 8192
    fails: float = 0.02
    slowness: float = 1.0


@dataclass
class Work:
    """A piece of work as it truly is."""

    key: str
    arrival_s: float
    work_s: float
    memory_mb: float = 1024
    peak_mb: float = 700


def load(*, per_hour, mean_s, seed, hours=HOURS, **more):
    dice = random.Random(seed)
    at, works = 0.0, []
    while (at := at + dice.expovariate(per_hour / 3600)) < hours:
        lasts_s = dice.lognormvariate(math.log(mean_s) - 0.18, 0.6)
        works.append(Work(f"work-{len(works)}", at, lasts_s, **more))
    return works


def happen(works, truths, *, seed):
    """Walk through time in steps: what truly happens, as leases record it."""
    dice = random.Random(seed)
    queue, running, record, at, left = [], [], [], 0.0, list(works)
    while left or queue or running:
        for one in [one for one in running if one[0] <= at]:
            running.remove(one)
            _, attempt, work, truth = one
            record.append(replace(attempt, ended_s=at))
            if not attempt.is_success:
                queue.insert(0, (work, at))
        while left and left[0].arrival_s <= at:
            queue.append((left[0], left[0].arrival_s))
            left.pop(0)
        while queue:
            work, since = queue[0]
            free = [truth for truth in truths if _fits(truth, work, running)]
            if not free:
                break
            truth = dice.choice(free)
            is_failed = dice.random() < truth.fails
            lasts_s = work.work_s * truth.slowness * (0.5 if is_failed else 1.0)
            attempt = Attempt(
                work.key,
                since,
                max(0.0, at - since),
                at,
                agent=truth.name,
                is_success=not is_failed,
                memory_mb=work.memory_mb,
                peak_mb=work.peak_mb,
            )
            running.append((at + lasts_s, attempt, work, truth))
            queue.pop(0)
        at += STEP_S
    return record


def _fits(truth, work, running):
    mine = [one for one in running if one[3] is truth]
    held = sum(one[2].memory_mb for one in mine)
    return len(mine) < truth.slots and held + work.memory_mb <= truth.memory_mb


def situation(record, truths, since_s=0.0, until_s=None):
    """Return what a window of the record shows, as the tables would; usually the whole of it."""
    until_s = until_s or max(each.ended_s for each in record)
    seats = [Member(each.name, each.slots, each.memory_mb) for each in truths]
    seen_ = [_seen(each, since_s, until_s) for each in record]
    attempts_ = [each for each in seen_ if each is not None]
    return situations.made("code", over_s=until_s - since_s, attempts=attempts_, seats=seats)


def _seen(each, since_s, until_s):
    if each.arrival_s > until_s or each.ended_s <= since_s:
        return None
    told = replace(each, arrival_s=each.arrival_s - since_s)
    if each.began_s > until_s:
        waited_s = until_s - each.arrival_s
        return replace(told, waited_s=waited_s, began_s=None, ended_s=None, agent="")
    ended_s = each.ended_s - since_s if each.ended_s <= until_s else None
    return replace(told, began_s=each.began_s - since_s, ended_s=ended_s)


def figures(record, truths, **window):
    return situations.measured(situation(record, truths, **window))


# Waits depend on whose work fails: one piece of work in a full pool delays all that come after.
SEEDS = range(11, 17)


def came_true(each):
    """Assert what a pair (expected, what then happened) a seed must come to."""
    errors = [expected / then - 1 for expected, then in each]

    assert sum(abs(error) <= 0.25 for error in errors) >= len(errors) - 1, errors
    assert abs(fmean(errors)) < 0.1, errors


def test_too_small_a_pool_is_found_and_the_wait_with_more_agents_comes_true():
    truths, found = [Truth(f"agent-{each}") for each in range(10)], []
    for seed in SEEDS:
        works = load(per_hour=37, mean_s=1000, seed=seed)

        record = happen(works, truths, seed=2 + seed)
        first, *_ = optimizing.proposals(situation(record, truths))
        grown = truths + [Truth(f"more-{each}") for each in range(first.change["agents"])]
        then = figures(happen(works, grown, seed=3 * seed), grown).mean_wait_s

        assert (first.kind, first.action) == (Kind.HIGH_WAIT_TIMES, Action.SCALE_UP)
        assert first.change == {"agents": 2}
        assert then < 0.8 * figures(record, truths).mean_wait_s
        found.append((first.expected, then))
    came_true(found)


def test_wasteful_requirements_are_found_and_the_wait_with_less_comes_true():
    truths = [Truth(f"agent-{each}", slots=2, memory_mb=8192) for each in range(4)]
    found = []
    for seed in SEEDS:
        works = load(per_hour=23, mean_s=1000, seed=seed, memory_mb=8192, peak_mb=2000)

        record = happen(works, truths, seed=5 + seed)
        first, *_ = optimizing.proposals(situation(record, truths))
        lower = [replace(work, memory_mb=first.change["memory_mb"]) for work in works]
        then = figures(happen(lower, truths, seed=6 * seed), truths).mean_wait_s

        assert (first.kind, first.action) == (Kind.RESOURCE_WASTE, Action.LOWER_REQUIREMENTS)
        assert first.change["memory_mb"] == pytest.approx(2400, abs=1)
        found.append((first.expected, then))
    came_true(found)


def test_one_bad_agent_is_found_and_the_time_without_it_comes_true():
    truths, found, before = [Truth(f"agent-{each}") for each in range(6)], [], []
    truths[3] = replace(truths[3], fails=0.8, slowness=2.0)
    for seed in SEEDS:
        works = load(per_hour=10, mean_s=1000, seed=seed)

        record = happen(works, truths, seed=8 + seed)
        first, *_ = optimizing.proposals(situation(record, truths))
        without = [each for each in truths if each.name != "agent-3"]
        then = figures(happen(works, without, seed=9 * seed), without).turnaround_s

        assert (first.kind, first.action, first.subject) == (
            Kind.BAD_AGENT,
            Action.QUARANTINE,
            "agent-3",
        )
        found.append((first.expected, then))
        before.append(figures(record, truths).turnaround_s)
    came_true(found)
    assert fmean(then for _, then in found) < fmean(before)


def test_a_window_within_busy_hours_is_replayed_as_it_was():
    """It begins with what ran and who waited; what is not over at its end is guessed."""
    truths, found = [Truth(f"agent-{each}") for each in range(10)], []
    for seed in range(11, 21):
        record = happen(load(per_hour=35, mean_s=1000, seed=seed), truths, seed=seed)
        seen_ = situation(record, truths, since_s=7200.0, until_s=14400.0)
        replayed = fleet.replay(seen_.jobs, seen_.members, over_s=seen_.over_s)
        found.append((replayed.mean_wait_s, situations.measured(seen_).mean_wait_s))

    without, measured = (fmean(each) for each in zip(*found, strict=True))

    assert without == pytest.approx(measured, rel=0.1)


# -- what is learnt of agents ----------------------------------------------------------------------


def test_of_many_agents_that_are_alike_hardly_one_is_taken_to_differ():
    truths = [Truth(f"agent-{each}", fails=0.1) for each in range(10)]
    apart = 0
    for seed in range(20):
        record = happen(load(per_hour=30, mean_s=300, seed=seed), truths, seed=seed)
        members = situation(record, truths).members
        usual = members[0].fails
        apart += any(each.slowness != 1 or each.fails != usual for each in members)

    assert apart <= 5


@pytest.mark.parametrize(("count", "least"), [(20, 3), (400, 13), (4000, 90)])
def test_the_chance_of_bad_luck_is_known_of_any_number_of_leases(count, least):
    share = Fraction(1, 50)
    fewer = sum(
        math.comb(count, hits) * share**hits * (1 - share) ** (count - hits)
        for hits in range(least)
    )

    assert situations.tail(count, least, 0.02) == pytest.approx(float(1 - fewer), rel=1e-6)


def test_an_agent_that_differs_is_known_and_spoils_nothing_for_the_others():
    truths = [Truth(f"agent-{each}", fails=0.1) for each in range(6)]
    truths[2] = replace(truths[2], fails=0.6, slowness=2.5)

    record = happen(load(per_hour=20, mean_s=500, seed=8), truths, seed=9)
    bad, *others = sorted(situation(record, truths).members, key=lambda each: -each.fails)

    assert bad.name == "agent-2"
    assert bad.fails == pytest.approx(0.6, abs=0.2)
    assert 1.4 < bad.slowness < 3.5
    assert [each.slowness for each in others] == [1.0] * 5
    assert [each.fails for each in others] == [pytest.approx(0.1, abs=0.07)] * 5
    assert bad.fail_share == pytest.approx(0.5, abs=0.1)


# -- each rule, on a few leases --------------------------------------------------------------------


def attempts(count, *, agent="a", every_s=60.0, lasts_s=30.0, waited_s=0.0, **more):
    return [
        Attempt(
            f"{agent}-{more.get('project', '')}-{each}",
            each * every_s,
            waited_s,
            each * every_s + waited_s,
            each * every_s + waited_s + lasts_s,
            agent=agent,
            **more,
        )
        for each in range(count)
    ]


def seen(record, seats, over_s=3600.0, **more):
    found = situations.made("code", over_s=over_s, attempts=record, seats=seats)
    return replace(found, **more)


def kinds(found, rules=troubles.USUAL):
    return {one.kind: one for one in troubles.findings(found, situations.measured(found), rules)}


def test_a_healthy_pool_is_left_alone():
    found = seen(attempts(60), [Member("a")])

    assert optimizing.proposals(found) == []


def test_nothing_is_said_of_a_few_leases():
    found = seen(attempts(19, waited_s=100), [Member("a")])

    assert optimizing.proposals(found) == []


def test_idle_agents_are_let_go_as_far_as_nobody_waits_for_it():
    names = "abcdefghij"
    record = [one for name in names for one in attempts(20, agent=name, every_s=180, lasts_s=20)]
    found = seen(record, [Member(name) for name in names])

    (made,) = optimizing.proposals(found)

    assert (made.action, made.change) == (Action.SCALE_DOWN, {"agents": 2})
    assert (made.without, made.computed) == (10.0, 8.0)
    assert made.agent_hours_a_day == pytest.approx(-48)


def test_waits_beside_free_slots_call_for_tuning_not_for_agents():
    record = attempts(60, waited_s=40, used_cores=0.2)
    found = seen(record, [Member("a", slots=1, cores=2), Member("b", slots=1, cores=2)])

    made = kinds(found)[Kind.HIGH_WAIT_TIMES]

    assert (made.action, made.change) == (Action.AGENT_TUNING, {"slots": 2})


def test_no_agent_is_tuned_to_more_than_it_has_room_for():
    """The pool's slots become those of each of its agents."""
    record = attempts(60, waited_s=40, used_cores=0.9)
    found = seen(record, [Member("a", slots=1, cores=2), Member("b", slots=4, cores=8)])

    assert Kind.HIGH_WAIT_TIMES not in kinds(found)


def test_tuning_needs_room_for_what_work_was_seen_to_use():
    record = attempts(60, waited_s=40, used_cores=1.5)
    found = seen(record, [Member("a", cores=2), Member("b", cores=2)])

    assert Kind.HIGH_WAIT_TIMES not in kinds(found)


def test_a_pool_that_does_less_than_before_has_poor_throughput():
    found = seen(
        attempts(60, lasts_s=55, used_cores=0.1),
        [Member("a", cores=2)],
        usual_throughput=100.0,
    )

    assert kinds(found)[Kind.POOR_THROUGHPUT].metric == "throughput_per_agent_h"


def test_work_that_is_heaped_on_one_agent_is_spread():
    record = attempts(58, lasts_s=56)
    found = seen(record, [Member("a"), Member("b"), Member("c")])

    made = kinds(found)[Kind.HOT_AGENT]

    assert (made.subject, made.action) == ("a", Action.SPREAD_WORK)
    assert made.world.replayed(3600).top_ratio < 1.2


def test_a_project_that_waits_much_longer_than_the_others_gets_more_weight():
    record = [
        *attempts(60, project="rich", waited_s=2, lasts_s=50),
        *attempts(30, project="poor", waited_s=200, every_s=120, lasts_s=50),
    ]
    found = seen(record, [Member("a")], weights={"rich": 4.0})

    made = kinds(found)[Kind.STARVING_PROJECT]

    assert made.change == {"project": "poor", "weight": 2.0}
    with_it = made.world.replayed(3600).project_wait_s["poor"]
    assert (
        with_it
        < fleet.replay(
            found.jobs, found.members, over_s=3600, weights=found.weights
        ).project_wait_s["poor"]
    )


def test_a_pool_that_flaps_is_calmed_as_far_as_its_policy_does_it():
    record = [
        replace(one, key=f"{one.key}-{burst}", arrival_s=one.arrival_s + burst * 600)
        for burst in range(6)
        for one in attempts(20, every_s=6, lasts_s=60)
    ]
    policy = usual(Rule.UTILIZATION, min_size=1, max_size=50, stabilise_s=0.0, tick_s=15.0)
    found = seen(record, [Member("a", slots=20)], turns=12, policy=policy)

    made = next(one for one in optimizing.proposals(found) if one.kind is Kind.FLAPPING)

    assert made.change == {"stabilise_s": 300.0}
    assert made.computed < made.without


@pytest.mark.parametrize(
    ("moves", "count"), [([], 0), ([1, 2, 0, 3], 0), ([1, -1, 0, -2, 5], 2), ([0, 0], 0)]
)
def test_a_turn_is_a_change_the_other_way(moves, count):
    assert situations.turns(moves) == count


def test_expectations_are_corrected_by_what_came_true():
    assert optimizing.factor_after([]) == 1.0
    assert optimizing.factor_after([(10, 5), (10, 5)]) == 0.75
    assert optimizing.corrected(without=100, computed=20, factor=0.75) == 40


@pytest.mark.parametrize(
    "settings_",
    [{"nonsense": 1}, {"wait_s": -1}, {"busy_share": 1.1}, {"headroom": 0.9}, {"window_s": 0},
     {"idle_share": 0.9}, {"wait_s": "x"}, {"wait_s": True}, {"least_attempts": 0},
     {"weight_ratio": 0}],
)  # fmt: skip
def test_rules_that_cannot_be_are_refused(settings_):
    with pytest.raises(ValueError, match=r":"):
        troubles.rules_of(settings_)


WORK = st.lists(
    st.tuples(st.floats(0, 1000), st.floats(0.1, 300), st.integers(1, 4)), min_size=1, max_size=40
)


@given(WORK, st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_more_agents_never_make_equal_work_wait_longer(work, count):
    jobs = sorted((Job(at, lasts, 1.0) for at, lasts, _ in work), key=lambda job: job.arrival_s)
    fewer = [Member(str(each)) for each in range(count)]

    before = fleet.replay(jobs, fewer, over_s=1000)
    after = fleet.replay(jobs, [*fewer, Member("more")], over_s=1000)

    assert after.mean_wait_s <= before.mean_wait_s + 1e-6
    assert before.attempts == after.attempts == len(jobs)


@given(WORK, st.floats(0, 0.9))
@settings(max_examples=60, deadline=None)
def test_all_work_ends_or_is_counted_as_unserved(work, fails):
    jobs = sorted(
        (Job(at, lasts, float(size), project=str(size)) for at, lasts, size in work),
        key=lambda job: job.arrival_s,
    )

    found = fleet.replay(jobs, [Member("a", 2, 3.0, fails=fails), Member("b")], over_s=1000)

    assert found.unserved == 0 or fails > 0
    assert 0 <= found.busy_share <= 1 + 1e-9
    assert found.attempts >= len(jobs)
