"""Leases that park, resume and change size, and requests that come together, through REST."""

import threading

import httpx
import pytest
from django.db import connection

from agentpool.registry.errors import AgentBusy
from agentpool.registry.models import Agent, Event, Lease, Request
from agentpool.registry.states import AgentStatus
from balancing.services import agents, notes, requests

pytest_plugins = ["tests.browser.serving"]
pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("whole")]

CODE = {"agent_type": "code", "project": "p"}


@pytest.fixture
def lease(api, make_agent):
    make_agent(agent_id="a1", memory_mb=2048, max_concurrent=1)
    answer = api.post(
        "/requests",
        {**CODE, "requirements": {"memory_mb": 2000, "min_memory_mb": 512}, "lock_keys": ["k"]},
    )
    assert answer.status_code == 201, answer.body
    return answer.body


def move(api, lease, verb, *, token=None, fencing_token=None, **body):
    fields = {"fencing_token": fencing_token or lease["fencing_token"], **body}
    return api.post(f"/leases/{lease['id']}/{verb}", fields, token=token)


def refused(answer, status, code):
    assert (answer.status_code, answer.body["code"]) == (status, code), answer.body
    return answer.body


# -- park and resume -------------------------------------------------------------------------------


def test_a_parked_lease_frees_its_slot_and_keeps_its_keys(api, lease):
    assert api.post("/requests", CODE).status_code == 202
    parked = move(api, lease, "park", reason="a person must look")

    assert (parked.status_code, parked.body["status"]) == (200, "parked")
    assert api.get("/leases?status=active").body["results"][0]["id"] != lease["id"]
    locked = api.post("/requests", {**CODE, "lock_keys": ["k"]})
    assert (locked.status_code, locked.body["reason"]) == (202, "k is locked by p")
    assert Event.objects.get(kind="lease.parked").detail["reason"] == "a person must look"


def test_a_resumed_lease_has_a_new_token_and_the_old_one_is_worth_nothing(api, lease):
    move(api, lease, "park")
    resumed = move(api, lease, "resume")

    assert (resumed.status_code, resumed.body["status"]) == (200, "active")
    assert resumed.body["fencing_token"] > lease["fencing_token"]
    refused(move(api, lease, "renew"), 409, "lease_lost")
    assert move(api, resumed.body, "renew").status_code == 200


def test_a_lease_cannot_resume_where_there_is_no_room(api, lease):
    move(api, lease, "park")
    assert api.post("/requests", CODE).status_code == 201

    answer = move(api, lease, "resume")

    refused(answer, 409, "agent_busy")
    assert answer["Retry-After"]


def test_an_agent_that_shall_go_stays_for_what_is_parked_on_it(api, lease):
    move(api, lease, "park")

    agents.drain(Agent.objects.get(agent_id="a1"), retire=True, actor="ada")
    agents.drain(Agent.objects.get(agent_id="a1"), retire=False, actor="ada")
    assert Agent.objects.get(agent_id="a1").status == "draining"

    drained_at = Agent.objects.get(agent_id="a1").updated_at

    assert move(api, lease, "release", outcome="success").status_code == 200
    gone = Agent.objects.get(agent_id="a1")
    assert (gone.status, gone.updated_at > drained_at) == ("retired", True)
    assert Event.objects.filter(kind="agent.retired").count() == 1


def test_an_agent_is_not_retired_over_what_is_parked_on_it(api, lease):
    move(api, lease, "park")

    with pytest.raises(AgentBusy):
        agents.set_status(
            Agent.objects.get(agent_id="a1"), to=AgentStatus.RETIRED, reason="", actor="ada"
        )
    assert Agent.objects.get(agent_id="a1").status == "idle"


def test_only_an_active_lease_parks_and_only_a_parked_one_resumes(api, lease):
    refused(move(api, lease, "resume"), 409, "unsupported_transition")
    move(api, lease, "park")
    refused(move(api, lease, "park"), 409, "unsupported_transition")


def test_a_stale_token_moves_nothing(api, lease):
    stale = lease["fencing_token"] + 1

    for verb, body in (("park", {}), ("resume", {}), ("resize", {"memory_mb": 1000})):
        refused(move(api, lease, verb, fencing_token=stale, **body), 409, "lease_lost")
    assert Lease.objects.get().status == "active"


def test_only_the_holder_moves_a_lease(api, lease, token_of):
    body = {"memory_mb": 1000}

    for verb in ("park", "resume", "resize"):
        more = body if verb == "resize" else {}
        answer = move(api, lease, verb, token=token_of("viewer"), **more)
        refused(answer, 403, "forbidden")
        answer = move(api, lease, verb, token=token_of("orchestrator"), **more)
        refused(answer, 404, "not_found")


# -- resize ----------------------------------------------------------------------------------------


def test_a_lease_becomes_smaller_and_what_it_gives_back_is_free(api, lease):
    resized = move(api, lease, "resize", memory_mb=600, token_budget=1000)

    assert resized.status_code == 200
    assert resized.body["grant"]["memory_mb"] == 600
    assert resized.body["grant"]["token_budget"] == 1000
    assert api.get("/agent-id/a1").body["used"]["memory_mb"] == 600


def test_a_lease_grows_within_its_agent_only(api, lease):
    assert move(api, lease, "resize", memory_mb=2048).status_code == 200
    refused(move(api, lease, "resize", memory_mb=2049), 409, "capacity_exhausted")


def test_what_can_never_be_is_unsatisfiable(api, lease):
    refused(move(api, lease, "resize", token_budget=50_001), 422, "unsatisfiable")
    refused(move(api, lease, "resize", memory_mb=511), 422, "unsatisfiable")


@pytest.mark.parametrize("body", [{}, {"memory_mb": 0}, {"cpu_cores": -1}, {"memory": 1}])
def test_a_wrong_size_is_refused(api, lease, body):
    refused(move(api, lease, "resize", **body), 422, "invalid")


# -- batches ---------------------------------------------------------------------------------------


def batch(api, *wishes, gang=False):
    body = {"requests": [{**CODE, **wish} for wish in wishes], "gang": gang}
    return api.post("/requests/batch", body)


def test_a_batch_grants_what_it_can(api, make_agent):
    make_agent(max_concurrent=2)

    answer = batch(api, {}, {"priority": 80}, {})

    statuses = [each["status"] for each in answer.body["requests"]]
    assert (answer.status_code, sorted(statuses)) == (201, ["granted", "granted", "waiting"])


def test_a_gang_is_granted_as_a_whole(api, make_agent):
    make_agent("code", max_concurrent=2)
    make_agent("qa")

    answer = batch(api, {}, {}, {"agent_type": "qa"}, gang=True)

    assert answer.status_code == 201
    assert [each["status"] for each in answer.body["requests"]] == ["granted"] * 3


def test_a_gang_that_does_not_fit_leaves_nothing_behind(api, make_agent):
    make_agent(max_concurrent=2)

    answer = batch(api, {}, {}, {}, gang=True)

    refused(answer, 409, "capacity_exhausted")
    assert (Request.objects.count(), Lease.objects.count()) == (0, 0)


def test_two_gangs_at_once_never_hold_a_part_each(api, make_agent):
    for _ in range(3):
        make_agent(max_concurrent=1)
    start = threading.Barrier(2)
    codes = []

    def ask():
        start.wait()
        try:
            codes.append(batch(api, {}, {}, gang=True).status_code)
        finally:
            connection.close()

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert codes.count(201) <= 1
    assert Lease.objects.count() == 2 * codes.count(201)
    assert Request.objects.count() == 2 * codes.count(201)
    assert set(codes) <= {201, 409}


def test_a_batch_of_more_than_500_is_refused(api):
    refused(batch(api, *[{}] * 501), 422, "invalid")
    assert not Request.objects.exists()


# -- priority and urgency --------------------------------------------------------------------------


def test_the_highest_priority_is_served_first(api, make_agent):
    make_agent()
    first = api.post("/requests", CODE).body
    low = api.post("/requests", {**CODE, "priority": 10}).body
    high = api.post("/requests", {**CODE, "priority": 90}).body
    assert api.get(f"/requests/{low['id']}").body["position"] == 2

    move(api, first, "release")

    assert api.get(f"/requests/{high['id']}").body["status"] == "granted"
    assert api.get(f"/requests/{low['id']}").body["position"] == 1


def test_a_request_becomes_urgent_once_and_only_while_it_waits(api, make_agent, submit):
    waiting = submit()

    assert notes.mark_urgent(waiting.id)
    assert not notes.mark_urgent(waiting.id)

    shown = api.get(f"/requests/{waiting.id}").body
    assert shown["urgent_at"] is not None
    assert Event.objects.filter(kind="request.urgent", request_id=waiting.id).count() == 1
    make_agent(max_concurrent=2)
    assert not notes.mark_urgent(submit().id)


def test_acquire_in_vain_makes_it_urgent_and_says_why(web, pools, make_agent, submit):
    from agentpool.client import CapacityExhausted, Client

    make_agent()
    submit()

    with (
        Client(url=web.url, token=pools["operator_token"]) as client,
        pytest.raises(CapacityExhausted, match="the only agent that takes work is busy"),
    ):
        client.acquire("code", project="p", wait_s=0.5)

    last = Request.objects.latest("number")
    assert last.status == "cancelled"
    assert last.urgent_at is not None
    assert list(
        Event.objects.filter(request_id=last.id).order_by("id").values_list("kind", flat=True)
    ) == ["request.waiting", "request.urgent", "request.cancelled"]


def test_who_waits_for_a_grant_hears_at_once_that_there_will_be_none(
    web, pools, make_agent, submit, eventually
):
    make_agent()
    submit()
    answers = []

    def ask():
        answers.append(
            httpx.post(
                f"{web.url}/api/agent-pool/requests",
                json={**CODE, "wait_s": 20},
                headers={"Authorization": f"Bearer {pools['operator_token']}"},
                timeout=30,
            )
        )

    asking = threading.Thread(target=ask)
    asking.start()
    waiting = eventually(lambda: Request.objects.filter(status="waiting").first())
    requests.cancel_request(waiting.id, actor="test")
    asking.join(10)  # without the pulse it looks each 5 s

    assert answers, "it waits on for what cannot come"
    assert answers[0].json()["status"] == "cancelled"
    asking.join(20)
