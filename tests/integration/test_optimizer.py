"""The optimizer on real rows: what it proposes, what a click changes, what is measured then."""

import uuid
from datetime import timedelta

import pytest
from django.db.models import F

from agentpool.registry import queries, services
from agentpool.registry.errors import Invalid, UnsupportedTransition
from agentpool.registry.models import (
    Agent,
    Event,
    Lease,
    LeaseOutcome,
    Optimization,
    OptimizerPolicy,
    Pool,
    Request,
    ResourceLimit,
    Tick,
)
from agentpool.registry.states import AgentHealth, LeaseStatus
from scaling import changing, governance, jobs, optimizer, recent, situations
from scaling.fleet import replay as fleet_replay

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def fleet(make_agent):
    """Agents that have been there for days."""

    def make(count, **fields):
        made = [make_agent(**fields) for _ in range(count)]
        Agent.objects.update(created_at=queries.now() - timedelta(days=2), health="good")
        return made

    return make


def work(agent, count, *, waited_s=0.0, lasts_s=50.0, every_s=58.0, outcome="success", **columns):
    """Leases of the last hour, as they stand in the table when they have ended."""
    now = queries.now()
    requests, leases = [], []
    for place in range(count):
        began = now - timedelta(seconds=3500 - place * every_s)
        asked = Request(
            pool_id="code",
            project=columns.get("project", "p"),
            status="finished",
            finished_at=now,
            expires_at=now,
            created_at=began - timedelta(seconds=waited_s),
        )
        requests.append(asked)
        leases.append(
            Lease(
                request=asked,
                agent=agent,
                incarnation=1,
                slot=1,
                pool_id="code",
                status=LeaseStatus.RELEASED,
                token_budget=1,
                disk_space_mb=1,
                acquired_at=began,
                released_at=began + timedelta(seconds=lasts_s),
                expires_at=now,
                hard_end_at=now,
                waited_s=waited_s,
                outcome=outcome,
                **{"project": "p", "memory_mb": 1024, "cpu_cores": 1, **columns},
            )
        )
    Request.objects.bulk_create(requests)
    Lease.objects.bulk_create(leases)


def later(seconds):
    """Let everything lie so much longer ago."""
    back = timedelta(seconds=seconds)
    Lease.objects.update(acquired_at=F("acquired_at") - back, released_at=F("released_at") - back)
    Optimization.objects.update(applied_at=F("applied_at") - back)
    Tick.objects.filter(name="optimize").update(at=F("at") - back)


def too_small(fleet):
    """Two agents that are busy all the time, and an hour's work that waited minutes for them."""
    for agent in fleet(2):
        work(agent, 60, waited_s=300, lasts_s=58)


def test_a_pool_that_is_too_small_is_proposed_to_grow_and_grows_by_a_click(fleet):
    too_small(fleet)

    (row,) = optimizer.look("code").found
    done = optimizer.apply(row.id, actor="user:ada", note="go")

    assert (row.kind, row.action, row.change) == ("high_wait_times", "scale_up", {"agents": 1})
    assert row.expected < row.without
    assert (row.attempts, round(row.over_s)) == (120, 3600)
    assert done.status == "applied"
    assert Agent.objects.filter(pool="code", status="starting").count() == 1
    told = Event.objects.get(kind="optimizer.applied")
    assert (told.actor, told.detail["note"]) == ("user:ada", "go")


def test_the_replay_begins_with_what_ran_and_with_who_waited(fleet):
    (agent,) = fleet(1)
    now = queries.now()
    work(agent, 1, lasts_s=400.0)
    Lease.objects.update(acquired_at=F("acquired_at") - timedelta(seconds=300), waited_s=7.0)
    lease = Lease.objects.get()
    LeaseOutcome.objects.create(
        lease=lease,
        agent=agent,
        pool_id="code",
        project="p",
        outcome="success",
        waited_s=7.0,
        duration_s=700.0,
        memory_mb=1024,
        cpu_cores=1,
        token_budget=1,
        peak_memory_mb=0,
        cpu_seconds=0,
        tokens_in=0,
        tokens_out=0,
        cost_usd=0,
        ended_at=lease.released_at,
    )
    work(agent, 1, waited_s=600.0, lasts_s=50.0)
    Lease.objects.exclude(id=lease.id).update(acquired_at=lease.released_at, released_at=now)

    found = recent.situation(agent.pool, since=now - timedelta(seconds=3600), until=now)
    replayed = fleet_replay(found.jobs, found.members, over_s=found.over_s)

    ran, waited = found.jobs
    assert (ran.is_running, waited.is_running) == (True, False)
    assert ran.work_s == pytest.approx(500, abs=1)
    assert waited.waited_s == pytest.approx(100, abs=1)
    assert situations.measured(found).mean_wait_s == pytest.approx(600, abs=1)
    assert (replayed.attempts, replayed.mean_wait_s) == (1, pytest.approx(600, abs=2))


def test_cancelled_work_takes_room_and_is_neither_done_nor_failed(fleet):
    (agent,) = fleet(1)
    work(agent, 10, lasts_s=40.0, outcome="cancelled", cycle_id="c", phase="red")
    until = queries.now()

    found = recent.situation(agent.pool, since=until - timedelta(hours=1), until=until)
    measured = situations.measured(found)

    assert (measured.throughput_per_agent_h, measured.turnaround_s) == (0, 0)
    assert measured.busy_share == pytest.approx(400 / 3600, rel=0.01)
    assert [job.work_s for job in found.jobs] == pytest.approx([40.0] * 10)
    assert [member.leases for member in found.members] == [0]


def test_a_lease_takes_no_room_while_it_is_parked(fleet):
    (agent,) = fleet(1)
    work(agent, 1, lasts_s=3000.0, parked_s=2900.0)
    until = queries.now()

    found = recent.situation(agent.pool, since=until - timedelta(hours=1), until=until)

    assert [job.work_s for job in found.jobs] == [pytest.approx(100)]
    assert situations.measured(found).busy_share == pytest.approx(100 / 3600, rel=0.01)


def test_a_steered_pool_grows_by_its_minimum(fleet):
    too_small(fleet)
    governance.set_policy("code", actor="test", mode="auto")

    (row,) = optimizer.look("code").found
    optimizer.apply(row.id, actor="user:ada")

    assert Pool.objects.get(agent_type="code").min_size == 3
    assert not Agent.objects.filter(pool="code", status="starting").exists()


def test_an_agent_that_fails_is_proposed_for_quarantine_and_quarantined(fleet):
    good, other, bad = fleet(3)
    for agent in (good, other):
        work(agent, 40, every_s=78, lasts_s=20)
    work(bad, 40, every_s=78, lasts_s=20, outcome="failure")

    row = Optimization.objects.get(id=optimizer.look("code").found[0].id)
    optimizer.apply(row.id, actor="user:ada")

    assert (row.kind, row.subject) == ("bad_agent", bad.agent_id)
    assert "40 of its 40 leases failed" in row.basis
    assert Agent.objects.get(id=bad.id).health == AgentHealth.QUARANTINED
    assert Agent.objects.get(id=bad.id).health_by == "user:ada"


def test_waste_is_told_to_whoever_asks_and_never_done_alone(fleet):
    work(fleet(1)[0], 60, peak_memory_mb=100)
    optimizer.set_policy("code", actor="test", mode="auto")

    optimizer.look()

    row = Optimization.objects.get(kind="resource_waste")
    assert (row.status, row.change, row.metric) == ("open", {"memory_mb": 120}, "reserved_mb")
    assert row.verdict == "only whoever asks for agents can ask for less"
    assert "must ask for 120 MB" in changing.tells(row)


def test_what_was_applied_is_judged_and_corrects_the_next_expectation(fleet):
    too_small(fleet)
    (row,) = optimizer.look("code").found
    optimizer.apply(row.id, actor="user:ada")
    later(3700)
    agent = Agent.objects.get(pool="code", agent_id="code-1")
    work(agent, 40, waited_s=150, every_s=78)

    looked = optimizer.look("code")

    row.refresh_from_db()
    assert looked.judged == 1
    assert (row.status, row.came_out) == ("judged", pytest.approx(150))
    assert "better" in row.verdict
    real, computed = 300 - 150, row.without - row.computed
    assert optimizer.factors() == {
        "high_wait_times": pytest.approx(max(0.25, (2 + min(3, real / computed)) / 3))
    }


def test_too_little_work_after_it_says_nothing(fleet):
    too_small(fleet)
    (row,) = optimizer.look("code").found
    optimizer.apply(row.id, actor="user:ada")
    later(90_000)

    optimizer.look("code")

    row.refresh_from_db()
    assert (row.status, row.came_out) == ("judged", None)
    assert "only 0 leases" in row.verdict


def test_a_project_that_asked_for_nothing_since_is_not_judged(fleet):
    several = fleet(2)
    for agent in several:
        work(agent, 30, waited_s=300, project="hungry")
        work(agent, 30, waited_s=1, project="other")
    row = next(each for each in optimizer.look("code").found if each.subject == "hungry")
    optimizer.apply(row.id, actor="user:ada")
    later(3700)
    work(several[0], 40, waited_s=1, project="other")

    assert optimizer.look("code").judged == 0

    row.refresh_from_db()
    assert (row.status, row.came_out, optimizer.factors()) == ("applied", None, {})


def test_in_auto_it_acts_alone_within_limits(fleet):
    too_small(fleet)
    optimizer.set_policy("code", actor="test", mode="auto", settings={"most_agents_a_day": 0})
    optimizer.look()
    row = Optimization.objects.get()
    assert (row.status, row.verdict) == (
        "open",
        "at most 0 agents a day are added or let go without a person",
    )

    optimizer.set_policy("code", actor="test", settings={"most_agents_a_day": None})
    looked = optimizer.look()

    row.refresh_from_db()
    assert (looked.applied, row.status, row.actor) == (1, "applied", "optimizer")


def test_what_was_dismissed_is_not_proposed_again(fleet):
    too_small(fleet)
    (row,) = optimizer.look("code").found

    optimizer.dismiss(row.id, actor="user:ada", note="we wait gladly")

    assert optimizer.look("code").found == []
    row.refresh_from_db()
    assert (row.status, row.verdict) == ("dismissed", "we wait gladly")
    with pytest.raises(UnsupportedTransition):
        optimizer.apply(row.id, actor="user:ada")


def test_what_is_no_longer_so_is_withdrawn(fleet):
    too_small(fleet)
    optimizer.look("code")
    later(7200)

    optimizer.look("code")

    assert Optimization.objects.get().status == "withdrawn"


def test_a_project_gets_more_weight_and_keeps_its_limits(pools):
    row = Optimization(
        id=uuid.uuid4(),
        pool_id="code",
        kind="starving_project",
        subject="poor",
        action="project_weight",
        change={"project": "poor", "weight": 2.0},
        basis="it waits",
        metric="project_wait_s",
        measured=100,
        without=100,
        computed=50,
        expected=50,
        attempts=50,
        over_s=3600,
    )
    row.save(force_insert=True)
    ResourceLimit.objects.all().delete()
    changing.limits.set_limit(
        {"level": "project", "name": "poor", **changing._limit_of("poor"), "memory_mb": 9000},
        actor="test",
    )

    optimizer.apply(row.id, actor="user:ada")

    limit = ResourceLimit.objects.get(level="project", name="poor")
    assert (limit.weight, limit.memory_mb) == (2.0, 9000)


def test_the_job_looks_each_five_minutes(fleet):
    too_small(fleet)

    assert jobs.optimize() == {"found": 1, "applied": 0, "judged": 0}
    assert jobs.optimize()["found"] == 0
    later(310)
    assert jobs.optimize()["found"] == 1


def test_the_rest_doors_tell_apply_and_dismiss(fleet, api):
    too_small(fleet)

    (found,) = api.post("/optimize", {"agent_type": "code"}).json()["issues_identified"]
    assert (found["issue"], found["action"]) == ("high_wait_times", "scale_up")
    assert found["will"].startswith("3 agents will run, 1 more than now")

    done = api.post(f"/optimize/{found['id']}/apply", {"note": "yes"})
    assert (done.status_code, done.json()["status"]) == (200, "applied")
    assert api.post(f"/optimize/{found['id']}/dismiss", {}).status_code == 409
    (kept,) = api.get("/optimize/history?status=applied").json()["results"]
    assert kept["id"] == found["id"]

    policy = {"agent_type": "code", "mode": "auto", "settings": {"wait_s": 60}}
    assert api.post("/optimize/policy", policy).json()["effective"]["wait_s"] == 60
    told = api.get("/optimize/policy").json()
    assert {each["agent_type"]: each["mode"] for each in told["results"]}["code"] == "auto"


def test_off_is_off_and_rules_are_judged(fleet):
    too_small(fleet)
    optimizer.set_policy("code", actor="test", mode="off")

    assert optimizer.look().found == []
    with pytest.raises(Invalid):
        optimizer.set_policy("code", actor="test", settings={"nonsense": 1})
    assert OptimizerPolicy.objects.get().mode == "off"


def test_a_pool_whose_stored_policy_does_not_do_stops_no_other(fleet, api):
    too_small(fleet)
    services.create_pool("a-first", fields={}, actor="test")
    # As after an upgrade that knows a setting no more.
    OptimizerPolicy.objects.create(pool_id="a-first", settings={"nonsense": 1})

    assert [row.pool_id for row in optimizer.look().found] == ["code"]
    answer = api.post("/optimize", {"agent_type": "a-first"})
    assert (answer.status_code, "nonsense" in answer.body["detail"]) == (400, True)
