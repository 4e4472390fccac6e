"""A drain ends at its deadline; a waiting request may be served sooner; turns are told for many."""

from datetime import timedelta

import pytest

from agentpool.registry import queries as registry_queries
from agentpool.registry import services as registry_services
from agentpool.registry.errors import NotFound, StaleVersion, UnsupportedTransition
from agentpool.registry.models import Agent, Event, Lease, Request
from agentpool.registry.states import AgentHealth, Outcome, Scope
from balancing import explain, jobs
from balancing.services import agents, leases, limits, requests
from tests.integration.learning_job import learn

pytestmark = pytest.mark.django_db(transaction=True)


def agent(name="coder"):
    return registry_queries.agent_by(agent_id=name)


def soon(seconds):
    return registry_queries.now() + timedelta(seconds=seconds)


def release(wish):
    leases.release(
        wish.held.id, token=wish.held.fencing_token, outcome=Outcome.SUCCESS, actor="test"
    )


def limit(**fields):
    names = ("cpu_cores", "token_budget", "disk_space_mb", "network_bandwidth_mbps")
    ends = [f"max_{name}" for name in ("memory_mb", "cpu_cores", "token_budget", "disk_space_mb")]
    nothing = dict.fromkeys(("memory_mb", *names, *ends, "min_memory_mb", "min_cpu_cores"))
    return {"level": "project", "weight": 1, **nothing, **fields}


# -- deadlines -------------------------------------------------------------------------------------


def test_what_still_runs_at_a_drains_deadline_is_cancelled(make_agent, submit, whole):
    make_agent(agent_id="coder", max_concurrent=2)
    make_agent(agent_id="other")
    held = [submit(preferred_agent="coder").held, submit(preferred_agent="coder").held]
    agents.drain(agent(), retire=False, actor="user:ada", reason="disk", by=soon(-1))

    counts = jobs.expire()

    assert counts["drained"] == 2
    assert {Lease.objects.get(id=lease.id).status for lease in held} == {"cancelled"}
    assert "deadline" in Lease.objects.get(id=held[0].id).error
    assert (agent().status, agent().load) == ("draining", 0)
    whole()


def test_before_its_deadline_a_drain_waits(make_agent, submit):
    make_agent(agent_id="coder")
    lease = submit().held
    agents.drain(agent(), retire=False, actor="t", by=soon(60))

    assert jobs.expire()["drained"] == 0
    assert Lease.objects.get(id=lease.id).status == "active"


def test_a_drain_is_given_a_deadline_later(make_agent, submit):
    make_agent(agent_id="coder")
    submit()
    agents.drain(agent(), retire=False, actor="t")
    by = soon(60)

    agents.drain(agent(), retire=False, actor="user:ada", by=by)

    assert agent().drain_by == by
    assert Event.objects.filter(kind="agent.draining", actor="user:ada").count() == 1


def test_a_drain_by_rest_has_a_deadline_by_the_servers_clock(api, make_agent, submit):
    make_agent(agent_id="coder")
    submit()

    wrong = api.post("/coder/status", {"status": "idle", "deadline_s": 60})
    too_far = api.post("/coder/status", {"status": "draining", "deadline_s": 1e9})
    done = api.post("/coder/status", {"status": "draining", "deadline_s": 60})

    assert (wrong.status_code, wrong.body["errors"][0]["field"]) == (422, "deadline_s")
    assert too_far.status_code == 422
    assert done.body["drain_by"] is not None
    left_s = (agent().drain_by - registry_queries.now()).total_seconds()
    assert 50 < left_s <= 60
    assert api.post("/coder/status", {"status": "idle"}).body["drain_by"] is None


def test_an_agent_that_resumes_has_no_deadline(make_agent, submit):
    make_agent(agent_id="coder")
    lease = submit().held
    agents.drain(agent(), retire=False, actor="t", by=soon(-1))

    agents.resume(agent(), actor="t")
    jobs.expire()

    assert agent().drain_by is None
    assert Lease.objects.get(id=lease.id).status == "active"


# -- priorities ------------------------------------------------------------------------------------


def test_a_raised_request_is_served_first(make_agent, submit):
    make_agent()
    first, second, third = submit(), submit(), submit()

    requests.set_priority(third.id, priority=90, actor="user:ada", note="demo at noon")
    release(first)

    assert Request.objects.get(id=third.id).status == "granted"
    assert Request.objects.get(id=second.id).status == "waiting"
    event = Event.objects.get(kind="request.priority")
    assert (event.actor, event.detail["was"], event.detail["priority"]) == ("user:ada", 50, 90)
    assert "demo at noon" in event.detail["reason"]


def test_a_request_that_waits_no_more_keeps_its_priority(make_agent, submit):
    make_agent()
    wish = submit()

    with pytest.raises(UnsupportedTransition):
        requests.set_priority(wish.id, priority=90, actor="t")

    assert Request.objects.get(id=wish.id).priority == 50


def test_its_asker_or_an_operator_changes_a_priority_by_rest(api, token_of, make_agent):
    ours, others = token_of("orchestrator"), token_of("orchestrator")
    wish = {"agent_type": "code", "project": "p", "allow_future": True}
    id = api.post("/requests", wish, token=ours).body["id"]

    asked = api.patch(f"/requests/{id}", {"priority": 70}, token=ours)
    stranger = api.patch(f"/requests/{id}", {"priority": 99}, token=others)
    looker = api.patch(f"/requests/{id}", {"priority": 99}, token=token_of("viewer"))
    wrong = api.patch(f"/requests/{id}", {"priority": 101}, token=ours)
    operator = api.patch(f"/requests/{id}", {"priority": 80, "note": "urgent"})

    assert (asked.status_code, asked.body["priority"]) == (200, 70)
    assert (stranger.status_code, looker.status_code) == (404, 403)
    assert (wrong.status_code, wrong.body["errors"][0]["field"]) == (422, "priority")
    assert (operator.status_code, operator.body["priority"]) == (200, 80)


def test_turns_of_many_are_those_of_each(make_agent, submit):
    # Weights that do not divide each other: two equal uses would be told apart by rounding alone.
    for name, weight in (("a", 1), ("b", 1.37), ("c", 2.71)):
        limits.set_limit(limit(name=name, weight=weight), actor="t")
    make_agent()
    for number in range(12):
        submit(project="abc"[number % 3], priority=(50, 60)[number % 2])
    waiting = list(Request.objects.filter(status="waiting"))

    turns = explain.turns_of(waiting)

    assert len(waiting) == 11
    assert {row.id: turns[row.id].position for row in waiting} == {
        row.id: explain.position_of(row) for row in waiting
    }
    assert sorted(turn.position for turn in turns.values())[0] == 1


def test_expected_waits_of_many_are_those_of_each(make_agent, submit):
    make_agent()
    release(submit())
    submit(lock_keys=["main"])
    learn()
    waiting = [submit(), submit(), submit(lock_keys=["main"])]

    turns = explain.turns_of(waiting)

    assert [turns[row.id].expected_wait_s for row in waiting] == [
        explain.explain(row).expected_wait_s for row in waiting
    ]
    assert turns[waiting[1].id].expected_wait_s is not None
    assert turns[waiting[2].id].expected_wait_s is None


# -- versions and notes ----------------------------------------------------------------------------


def test_a_judgement_of_an_older_version_is_refused(make_agent):
    make_agent(agent_id="coder")
    seen = agent()
    judge = {"note": "", "until": None, "actor": "t"}
    agents.set_health(seen, health=AgentHealth.MAINTENANCE, **judge)

    with pytest.raises(StaleVersion):
        agents.set_health(seen, health=AgentHealth.GOOD, if_generation=seen.generation, **judge)

    assert Agent.objects.get(agent_id="coder").health == "maintenance"


def test_a_limit_of_an_older_version_is_not_overwritten(pools):
    fields = limit(name="shop")
    first = limits.set_limit({**fields, "memory_mb": 1}, actor="t")
    limits.set_limit({**fields, "memory_mb": 2}, actor="t", if_generation=first.generation)

    with pytest.raises(StaleVersion):
        limits.set_limit({**fields, "memory_mb": 3}, actor="t", if_generation=first.generation)

    first.refresh_from_db()
    assert (first.memory_mb, first.generation) == (2, 2)


def test_tokens_leave_events_without_their_secrets(pools):
    issued = registry_services.token(
        scope=Scope.VIEWER, name="wall", expires_in_s=None, actor="user:ada"
    )

    registry_services.revoke_token(issued.credential.id, actor="user:bob", note="left")

    made, gone = Event.objects.filter(kind__startswith="token.", detail__name="wall").order_by("id")
    assert (made.kind, made.actor) == ("token.created", "user:ada")
    assert (gone.kind, gone.actor, gone.detail["note"]) == ("token.revoked", "user:bob", "left")
    assert issued.secret not in str(made.detail)
    with pytest.raises(NotFound):
        registry_services.revoke_token(issued.credential.id, actor="t")
