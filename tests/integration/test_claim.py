"""Acquire, release and the queue behind them, on a real database."""

import json
from datetime import datetime

import pytest
from rest_framework.utils.encoders import JSONEncoder

from agentpool.registry import queries as registry_queries
from agentpool.registry.errors import CapacityExhausted, LeaseLost, UnsupportedTransition
from agentpool.registry.models import Agent, Event, Lease, LeaseOutcome, LockKey, Request
from agentpool.registry.states import AgentHealth, Outcome
from balancing import claim, queries, showing
from balancing.services import agents, leases, requests

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("whole")]


def release(lease, outcome=Outcome.SUCCESS, **more):
    return leases.release(
        lease.id, token=lease.fencing_token, outcome=outcome, actor="test", **more
    )


def test_a_request_gets_a_free_agent_at_once(make_agent, submit):
    agent = make_agent()

    got = submit().held

    assert got.agent_id == agent.id
    assert got.status == "active"
    assert Agent.objects.get().status == "busy"


def test_a_payload_is_offered_first(make_agent, submit):
    make_agent()

    got = submit(payload={"command": ["true"]}).held

    assert got.status == "offered"


def test_a_request_without_a_free_agent_waits(submit):
    got = submit()

    assert got.held is None
    assert got.status == "waiting"


def test_assign_refuses_instead_of_waiting_and_stores_nothing(make_request):
    with pytest.raises(CapacityExhausted):
        requests.submit(make_request(), queue=False)

    assert not Request.objects.exists()


@pytest.mark.parametrize(
    ("need", "lack"),
    [
        ({"memory_mb": 2048}, {}),
        ({"cpu_cores": 2}, {}),
        ({"token_budget": 50_001}, {}),
        ({"disk_space_mb": 501}, {}),
        ({"special_tools": ["docker"]}, {"tools": ["git"]}),
        ({"capabilities": ["rust"]}, {"capabilities": ["python"]}),
        ({"labels": {"zone": "b"}}, {"labels": {"zone": "a"}}),
        ({"security_level": 3}, {"security_level": 2}),
        ({"isolation_level": 2}, {"isolation_levels": [1]}),
        ({"avoid_agents": ["it"]}, {"agent_id": "it"}),
    ],
)
def test_an_agent_that_lacks_something_is_not_chosen(make_agent, submit, need, lack):
    make_agent(**lack)

    assert submit(**need, allow_future=True).held is None


def test_a_stronger_isolation_satisfies_a_weaker_one(make_agent, submit):
    make_agent(isolation_levels=[3])

    assert submit(isolation_level=1).held is not None


@pytest.mark.parametrize("health", [AgentHealth.QUARANTINED, AgentHealth.MAINTENANCE])
def test_an_agent_out_of_health_gets_no_work(make_agent, submit, health):
    agents.set_health(make_agent(), health=health, note="", until=None, actor="test")

    assert submit().held is None


def test_the_preferred_agent_comes_first(make_agent, submit):
    make_agent(max_concurrent=2)
    wanted = make_agent(max_concurrent=2)
    submit(preferred_agent=wanted.agent_id)

    got = submit(preferred_agent=wanted.agent_id).held

    assert got.agent_id == wanted.id
    assert got.decision["tier"] == "preferred"


def test_work_of_a_cycle_sticks_to_its_agent(make_agent, submit):
    make_agent()
    sticky = make_agent(max_concurrent=2)
    first = submit(cycle_id="c", preferred_agent=sticky.agent_id).held
    release(first)

    got = submit(cycle_id="c", affinity="soft").held

    assert got.agent_id == sticky.id
    assert got.decision["tier"] == "affinity"


def test_hard_affinity_waits_for_its_agent(make_agent, submit):
    agent = make_agent()
    first = submit(cycle_id="c").held
    make_agent()

    waiting = submit(cycle_id="c", affinity="hard")
    release(first)
    waiting.refresh_from_db()

    assert waiting.status == "granted"
    assert waiting.leases.get().agent_id == agent.id


def test_the_least_loaded_agent_is_chosen(make_agent, submit):
    loaded, free = make_agent(max_concurrent=3), make_agent(max_concurrent=3)
    submit(preferred_agent=loaded.agent_id)

    assert submit().held.agent_id == free.id


def test_slots_of_an_agent_are_numbered_and_reused(make_agent, submit):
    make_agent(max_concurrent=3)
    one, two, three = (submit().held for _ in range(3))
    release(two)

    again = submit().held

    assert (one.slot, two.slot, three.slot, again.slot) == (1, 2, 3, 2)


def test_an_agent_may_lose_the_lower_of_its_slots(make_agent, submit):
    agent = make_agent(max_concurrent=3)
    first, second, last = (submit().held for _ in range(3))
    release(first), release(second)

    agents.update_agent(agent.id, fields={"max_concurrent": 1}, if_generation=None, actor="test")

    assert (last.slot, registry_queries.broken_invariants()) == (3, {})
    agents.update_agent(agent.id, fields={"max_concurrent": 2}, if_generation=None, actor="test")
    assert submit().held.slot == 1


def test_fencing_tokens_only_grow(make_agent, submit):
    make_agent()
    tokens = []
    for _ in range(5):
        lease = submit().held
        tokens.append(lease.fencing_token)
        release(lease)

    assert tokens == sorted(set(tokens))


def test_release_leaves_an_outcome_and_frees_everything(make_agent, submit):
    make_agent()
    lease = submit(story_type="feature").held

    release(lease, usage={"tokens_in": 7, "memory_mb": 99.5, "cost_usd": 0.25})

    agent, outcome = Agent.objects.get(), LeaseOutcome.objects.get()
    assert (agent.status, agent.load, agent.used_memory_mb) == ("idle", 0, 0)
    assert (outcome.outcome, outcome.tokens_in, outcome.story_type) == ("success", 7, "feature")
    assert outcome.peak_memory_mb == 99.5
    assert Request.objects.get().status == "finished"


def test_a_stale_token_changes_nothing(make_agent, submit):
    make_agent()
    lease = submit().held

    with pytest.raises(LeaseLost):
        leases.release(
            lease.id, token=lease.fencing_token + 1, outcome=Outcome.SUCCESS, actor="test"
        )

    assert Lease.objects.get().status == "active"


def test_a_second_release_is_refused(make_agent, submit):
    make_agent()
    lease = submit().held
    release(lease)

    with pytest.raises(LeaseLost, match="released"):
        release(lease)


def test_release_hands_the_slot_to_the_first_that_waits(make_agent, submit):
    make_agent()
    lease = submit().held
    low = submit(priority=10)
    high = submit(priority=90)

    release(lease)

    low.refresh_from_db(), high.refresh_from_db()
    assert (low.status, high.status) == ("waiting", "granted")


def test_a_waiter_that_does_not_fit_is_passed_by_one_that_does(make_agent, submit):
    make_agent()
    lease = submit().held
    big = submit(memory_mb=4096)
    small = submit(memory_mb=512)

    release(lease)

    big.refresh_from_db(), small.refresh_from_db()
    assert (big.status, small.status) == ("waiting", "granted")


def test_a_new_agent_serves_the_queue(make_agent, submit):
    waiting = [submit() for _ in range(3)]

    make_agent(max_concurrent=2)

    statuses = [Request.objects.get(id=w.id).status for w in waiting]
    assert statuses == ["granted", "granted", "waiting"]


def test_an_agent_that_grows_serves_the_queue(make_agent, submit):
    agent = make_agent()
    waiting = submit(memory_mb=4096)

    agents.update_agent(agent.id, fields={"memory_mb": 4096}, if_generation=None, actor="test")

    waiting.refresh_from_db()
    assert waiting.status == "granted"


def test_two_live_leases_never_share_a_lock_key(make_agent, submit):
    make_agent(max_concurrent=3)
    first = submit(lock_keys=["repo:main"]).held
    blocked = submit(lock_keys=["other", "repo:main"])
    free = submit(lock_keys=["repo:dev"])

    assert blocked.status == "waiting"
    assert free.held is not None

    release(first)

    blocked.refresh_from_db()
    assert blocked.status == "granted"
    assert {"repo:main", "other", "repo:dev"} == set(LockKey.objects.values_list("key", flat=True))


def test_a_freed_lock_key_serves_the_queue_of_another_pool(make_agent, submit):
    make_agent("code")
    make_agent("data")
    first = submit("code", lock_keys=["repo:main"]).held
    blocked = submit("data", lock_keys=["repo:main"])

    release(first)

    blocked.refresh_from_db()
    assert blocked.status == "granted"


def test_work_that_asks_to_be_tried_elsewhere_waits_again(make_agent, submit, settings):
    settings.BACKOFF_S = 60
    make_agent()
    lease = submit(payload={"command": ["x"]}).held

    release(lease, outcome=Outcome.FAILURE, retry=True, error="no network")

    request = Request.objects.get()
    assert (request.status, request.attempts) == ("waiting", 1)
    assert request.not_before is not None
    assert "no network" in request.reason


def test_work_to_be_tried_elsewhere_is_no_failure_of_the_agent(make_agent, submit):
    from agentpool.registry import queries

    agent = make_agent()
    lease = submit(payload={"command": ["x"]}).held

    release(lease, outcome=Outcome.FAILURE, retry=True)

    assert queries.performance([agent.id])[agent.id]["success_rate"] is None


def test_attempts_are_bounded(make_agent, submit, settings):
    settings.BACKOFF_S = 0
    make_agent()
    request = submit()
    for _ in range(3):
        lease = Lease.objects.filter(status="active").get()
        release(lease, outcome=Outcome.FAILURE, retry=True, error="again")

    request.refresh_from_db()
    assert (request.status, request.attempts) == ("failed", 3)


def test_cancelling_a_waiting_request_ends_it(submit):
    request = submit()

    requests.cancel_request(request.id, actor="test")

    request.refresh_from_db()
    assert request.status == "cancelled"


def test_cancelling_a_granted_request_ends_its_lease(make_agent, submit):
    make_agent()
    request = submit()

    requests.cancel_request(request.id, actor="test")

    request.refresh_from_db()
    assert (request.status, Lease.objects.get().status) == ("cancelled", "cancelled")


def test_cancelling_twice_is_refused(submit):
    request = submit()
    requests.cancel_request(request.id, actor="test")

    with pytest.raises(UnsupportedTransition):
        requests.cancel_request(request.id, actor="test")


def test_a_gang_is_granted_whole_or_not_at_all(make_agent, make_request):
    make_agent()

    with pytest.raises(CapacityExhausted):
        requests.submit_all([make_request(), make_request()], gang=True)

    assert not Lease.objects.exists()
    assert not Request.objects.exists()


def test_every_change_leaves_an_event(make_agent, submit):
    make_agent()
    release(submit().held)

    assert list(
        Event.objects.filter(kind__regex="agent|lease")
        .order_by("id")
        .values_list("kind", flat=True)
    ) == ["agent.registered", "lease.active", "lease.released"]


def test_a_lease_shown_by_sql_is_the_one_that_python_shows(whole, make_agent, submit):
    make_agent(endpoint="http://10.0.0.7:9000/", max_concurrent=3)
    held = submit(cycle_id="c", phase="code", cpu_cores=0.25, min_cpu_cores=0.25).held
    offered = submit(payload={"command": ["true"]}).held
    usage = {"memory_mb": 12.5, "tokens_in": 7, "cost_usd": 0.25}
    leases.report_usage(held.id, token=held.fencing_token, usage=usage, progress={"counter": 3})
    leases.park(held.id, token=held.fencing_token, reason="", actor="test")

    for lease in (held, offered):
        row = queries.lease(lease.id)
        in_sql = json.loads(claim.shown(row.id))
        in_python = json.loads(json.dumps(showing.lease_json(row), cls=JSONEncoder))
        times = [name for name in in_python if name.endswith("_at")]
        assert {n: moment(in_sql.pop(n)) for n in times} == {
            n: moment(in_python.pop(n)) for n in times
        }
        assert moment(in_sql["progress"].pop("at")) == moment(in_python["progress"].pop("at"))
        assert in_sql == in_python


def moment(text):
    """Return a time to the millisecond, which is what REST's JSON has."""
    found = text and datetime.fromisoformat(text)
    return found and found.replace(microsecond=found.microsecond // 1000 * 1000)
