"""Programs that stay: the websocket, and REST calls that wait, by a real daphne and pulse."""

import asyncio
import json
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import httpx
import psutil
import pytest

from agentpool.registry import credentials
from agentpool.registry import queries as registry_queries
from agentpool.registry.models import Agent, Credential, Event, Lease, Request
from agentpool.registry.states import AgentStatus, Outcome
from balancing.services import agents, leases, queue, requests
from tests.integration.gateway_talk import SOON_S, refusal

pytest_plugins = ["tests.browser.serving", "tests.integration.gateway_lines"]
pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("whole")]

PAYLOAD = {"command": ["true"]}
WAIT_S = 30  # a call that waits this long has missed its news


@pytest.fixture
def rest(web, pools):
    """REST over the network, as an operator; calls in threads return futures."""
    headers = {"Authorization": f"Bearer {pools['operator_token']}"}
    with (
        httpx.Client(base_url=f"{web.url}/api/agent-pool", headers=headers, timeout=60) as client,
        ThreadPoolExecutor(8) as threads,
    ):
        client.later = lambda method, path, **more: threads.submit(
            client.request, method, path, **more
        )
        yield client


def still_waits(future, for_s=0.5):
    """Assert that a call has not been answered for a while."""
    with pytest.raises(TimeoutError):
        future.result(timeout=for_s)


def answered(future, *, since):
    response = future.result(timeout=WAIT_S)
    took = time.monotonic() - since
    assert took < SOON_S, f"answered after {took:.2f} s"
    return response


# -- the websocket: saying hello -----


def test_hello_binds_an_agent_and_tells_what_it_needs(line, enrolled):
    agent = enrolled("a1")

    answer = line().call("hello", token=agent["credential"])

    assert (answer["ok"], answer["agent_id"], answer["incarnation"]) == (True, "a1", 1)
    assert answer["heartbeat_interval_s"] == 10
    assert answer["offers"] == answer["leases"] == []


def test_hello_brings_the_offers_that_are_open(line, enrolled, submit):
    agent = enrolled("a1")
    wish = submit(payload=PAYLOAD)

    answer = line().call("hello", token=agent["credential"])

    (offer,) = answer["offers"]
    assert (offer["request_id"], offer["payload"]) == (str(wish.id), PAYLOAD)


def test_hello_of_an_agent_that_was_lost_brings_it_back(line, enrolled):
    agent = enrolled("a1")
    Agent.objects.filter(agent_id="a1").update(status=AgentStatus.UNREACHABLE)

    assert line().call("hello", token=agent["credential"])["ok"]

    assert Agent.objects.get(agent_id="a1").status == AgentStatus.IDLE


def test_one_connection_speaks_for_many_agents(line, enrolled):
    host = line()
    for name in ("a1", "a2"):
        assert host.call("hello", token=enrolled(name)["credential"])["agent_id"] == name

    assert host.call("heartbeat", agent_id="a1", incarnation=1)["ok"]
    assert host.call("heartbeat", agent_id="a2", incarnation=1)["ok"]
    refusal(host.call("heartbeat", incarnation=1), "invalid")


def test_the_handshakes_bearer_header_is_a_hello(line, token_of):
    boss = line(Authorization=f"Bearer {token_of('orchestrator')}")

    answer = boss.call("acquire", agent_type="code", project="p")

    assert answer["ok"], answer


@pytest.mark.parametrize("token", ["nonsense", "", "é", None, 7, ["x"]])
def test_a_wrong_token_is_refused(line, pools, token):
    error = line().call("hello", token=token)["error"]

    assert error["code"] in ("unauthenticated", "invalid")


@pytest.mark.parametrize("op", ["heartbeat", "ack", "log", "usage", "release", "renew", "acquire"])
def test_an_op_before_hello_is_refused(line, make_agent, submit, op):
    make_agent("code", agent_id="a1")
    wish = submit()
    held = {"lease_id": str(wish.held.id), "fencing_token": wish.held.fencing_token}

    refusal(line().call(op, agent_id="a1", **held), "unauthenticated")

    assert Lease.objects.get().status == "active"


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e400"])
def test_what_is_no_number_in_json_is_not_told_back(line, number):
    mine = line()

    mine.socket.send(f'{{"id": {number}, "op": "x"}}')

    answer = json.loads(mine.socket.recv(timeout=SOON_S))
    refusal(answer, "invalid")
    assert answer["id"] is None


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "7", '"x"', "\x00", '{"op": "hello"', "[" * 100_000]
)
def test_what_is_no_message_is_refused_and_the_line_lives_on(line, pools, text):
    mine = line()

    refusal(mine.send(text), "invalid")

    refusal(mine.call("heartbeat"), "unauthenticated")


@pytest.mark.parametrize("op", ["fly", "", None, 7, {"a": 1}, "__class__"])
def test_an_unknown_op_is_refused(line, pools, op):
    error = refusal(line().send({"id": 1, "op": op}), "invalid")

    assert "heartbeat" in error["detail"]


def test_a_binary_message_is_refused(line, pools):
    mine = line()

    mine.socket.send(b"\x00\x01")

    refusal(json.loads(mine.socket.recv(timeout=SOON_S)), "invalid")


def test_a_newer_incarnation_cuts_the_old_connection_off(worker, enrolled):
    old = worker("a1")

    enrolled("a1")

    refusal(old.call("heartbeat", agent_id="a1", incarnation=1), "unauthenticated")


# -- the websocket: work -----


def test_an_offer_is_pushed_once_it_is_committed_elsewhere(worker, submit):
    mine = worker("a1")

    wish = submit(payload=PAYLOAD)

    offer = mine.push("offer", agent_id="a1")["offer"]
    assert (offer["id"], offer["request_id"]) == (str(wish.held.id), str(wish.id))
    assert (offer["payload"], offer["ack_within_s"]) == (PAYLOAD, 15)


def test_a_line_that_cannot_keep_up_is_told_what_is_still_open(worker, submit):
    mine = worker("a1")
    noise = [
        Event(kind="lease.offered", agent_id="a1", agent_type="code", lease_id=uuid.uuid4())
        for _ in range(4000)
    ]

    Event.objects.bulk_create(noise)
    wish = submit(payload=PAYLOAD)

    assert mine.push("offer")["offer"]["id"] == str(wish.held.id)


def test_work_goes_from_offer_over_log_and_usage_to_its_end(worker, submit):
    mine = worker("a1")
    wish = submit(payload=PAYLOAD)
    offer = mine.push("offer")["offer"]
    held = {"agent_id": "a1", "lease_id": offer["id"], "fencing_token": offer["fencing_token"]}

    assert mine.call("ack", **held)["lease"]["status"] == "active"
    written = mine.call("log", **held, chunks=[{"stream": "stdout", "text": "hello\n"}])
    assert (written["bytes"], written["dropped_bytes"]) == (6, 0)
    used = mine.call("usage", **held, usage={"memory_mb": 7}, progress={"counter": 3})
    assert used["lease"]["usage"]["memory_mb"] == 7
    assert mine.call("renew", **held)["ok"]
    ended = mine.call("release", **held, outcome="success", result={"commit": "abc"})

    assert (ended["lease"]["status"], ended["lease"]["outcome"]) == ("released", "success")
    after = Request.objects.get(id=wish.id)
    assert (after.status, after.outcome, after.result) == (
        "finished",
        "success",
        {"commit": "abc"},
    )


def test_a_heartbeat_renews_leases_and_names_lost_ones(worker, submit):
    mine = worker("a1", max_concurrent=2, memory_mb=4096, cpu_cores=4, token_budget=200_000)
    lease = submit().held
    gone = str(uuid.uuid4())

    answer = mine.call(
        "heartbeat",
        incarnation=1,
        leases=[
            {"lease_id": str(lease.id), "fencing_token": lease.fencing_token},
            {"lease_id": gone, "fencing_token": 1},
        ],
    )

    assert answer["commands"] == [{"kind": "cancel", "lease_id": gone, "reason": "lease_lost"}]
    (kept,) = answer["leases"]
    assert kept["lease_id"] == str(lease.id)
    assert 110 < kept["expires_in_s"] <= 120


def test_another_agents_lease_is_forbidden(worker, submit):
    worker("a1")
    lease = submit(payload=PAYLOAD).held
    other = worker("b1", agent_type="qa")

    answer = other.call(
        "ack", agent_id="b1", lease_id=str(lease.id), fencing_token=lease.fencing_token
    )

    refusal(answer, "forbidden")
    assert Lease.objects.get().status == "offered"


@pytest.mark.parametrize("op", ["ack", "log", "usage", "renew", "release"])
def test_a_stale_fencing_token_changes_nothing(worker, submit, op):
    mine = worker("a1")
    lease = submit(payload=PAYLOAD).held
    more = {"chunks": [{"stream": "stdout", "text": "x"}]} if op == "log" else {}

    answer = mine.call(op, lease_id=str(lease.id), fencing_token=lease.fencing_token + 1, **more)

    refusal(answer, "lease_lost")
    assert Lease.objects.get().status == "offered"


def test_a_message_that_says_too_much_is_refused_by_field(worker, submit):
    mine = worker("a1")
    lease = submit(payload=PAYLOAD).held

    answer = mine.call("ack", lease_id=str(lease.id), fencing_token="x", colour="red")

    assert refusal(answer, "invalid")["errors"] == [
        {"field": "colour", "message": "Unknown field."}
    ]


def test_draining_pushes_the_command(worker):
    mine = worker("a1")

    agents.drain(
        registry_queries.agent_by(agent_id="a1"), retire=False, actor="test", reason="tonight"
    )

    assert mine.push("command")["command"] == {"kind": "drain", "reason": "tonight"}


def test_retiring_pushes_stop(worker):
    mine = worker("a1")

    agents.unregister(
        registry_queries.agent_by(agent_id="a1"), force=False, if_generation=None, actor="test"
    )

    assert mine.push("command")["command"]["kind"] == "stop"


def test_cancelling_a_request_pushes_the_loss_of_its_lease(worker, submit):
    mine = worker("a1")
    wish = submit(payload=PAYLOAD)
    mine.push("offer")

    requests.cancel_request(wish.id, actor="test", reason="not needed")

    lost = mine.push("lease_lost", agent_id="a1")
    assert (lost["lease_id"], lost["fencing_token"]) == (
        str(wish.held.id),
        wish.held.fencing_token,
    )
    assert lost["reason"] == "not needed"


def test_acquire_brings_the_lease_at_once(boss, make_agent):
    make_agent("code", agent_id="a1")

    answer = boss.call("acquire", agent_type="code", project="p")

    assert answer["lease"]["agent"]["agent_id"] == "a1"
    assert answer["request_id"] == answer["lease"]["request_id"]


def test_an_acquire_that_waits_is_granted_by_a_push(boss, make_agent):
    make_agent("code")
    first = boss.call("acquire", agent_type="code", project="p")["lease"]
    waits = boss.call("acquire", agent_type="code", project="p")
    assert (waits["request"]["status"], waits["request"]["position"]) == ("waiting", 1)

    leases.release(
        uuid.UUID(first["id"]), token=first["fencing_token"], outcome=Outcome.SUCCESS, actor="t"
    )

    granted = boss.push("granted", request_id=waits["request_id"])
    assert granted["lease"]["request_id"] == waits["request_id"]


def test_an_orchestrator_releases_and_cancels_its_own(boss, make_agent):
    make_agent("code")
    lease = boss.call("acquire", agent_type="code", project="p")["lease"]
    waits = boss.call("acquire", agent_type="code", project="p")

    gone = boss.call("cancel", request_id=waits["request_id"])
    ended = boss.call("release", lease_id=lease["id"], fencing_token=lease["fencing_token"])

    assert gone["request"]["status"] == "cancelled"
    assert ended["lease"]["status"] == "released"


def test_an_orchestrator_does_not_see_what_others_asked_for(boss, make_agent, submit):
    make_agent("code")
    wish = submit()

    held = {"lease_id": str(wish.held.id), "fencing_token": wish.held.fencing_token}
    refusal(boss.call("release", **held), "not_found")
    refusal(boss.call("cancel", request_id=str(wish.id)), "not_found")

    assert Request.objects.get(id=wish.id).status == "granted"


def test_an_operator_releases_what_others_asked_for(line, pools, make_agent, submit):
    make_agent("code")
    wish = submit()
    operator = line()
    assert operator.call("hello", token=pools["operator_token"])["scope"] == "operator"

    held = {"lease_id": str(wish.held.id), "fencing_token": wish.held.fencing_token}

    assert operator.call("release", **held)["lease"]["status"] == "released"


@pytest.mark.parametrize("scope", ["orchestrator", "agent"])
def test_a_token_that_is_revoked_after_its_hello_is_worth_nothing(line, api, enrolled, scope):
    mine = line()
    made = api.post("/tokens", {"scope": "orchestrator"}).body if scope != "agent" else {}
    assert mine.call("hello", token=made.get("token") or enrolled("a1")["credential"])["ok"]

    for credential in Credential.objects.filter(scope=scope):
        credentials.revoke(credential.id)

    op = {"op": "heartbeat"} if scope == "agent" else {"agent_type": "code", "project": "p"}
    refusal(mine.call(op.pop("op", "acquire"), **op), "unauthenticated")


def test_a_token_that_is_revoked_hears_of_no_new_work(line, worker, token_of, make_agent, submit):
    mine, token = worker("a1"), token_of("orchestrator")
    boss = line()
    boss.call("hello", token=token)
    waits = boss.call("acquire", agent_type="qa", project="p")["request_id"]
    for credential in Credential.objects.filter(scope__in=["agent", "orchestrator"]):
        credentials.revoke(credential.id)

    wish = submit(payload=PAYLOAD)
    make_agent("qa")
    queue.serve({"qa"})

    assert wish.held.status == "offered"
    assert Request.objects.get(id=waits).status == "granted"
    for of_old in (mine, boss):
        with pytest.raises(TimeoutError):
            of_old.socket.recv(timeout=1)


def test_a_viewer_may_not_acquire(line, token_of):
    guest = line()
    assert guest.call("hello", token=token_of("viewer"))["ok"]

    refusal(guest.call("acquire", agent_type="code", project="p"), "forbidden")


# -- REST that waits -----


def test_offers_are_answered_when_one_comes(rest, enrolled, submit):
    enrolled("a1")
    call = rest.later("GET", "/a1/offers", params={"wait": WAIT_S})
    still_waits(call)

    wish = submit(payload=PAYLOAD)

    body = answered(call, since=time.monotonic()).json()
    assert [offer["request_id"] for offer in body["offers"]] == [str(wish.id)]


def test_offers_are_answered_with_commands_when_the_agent_drains(rest, enrolled):
    enrolled("a1")
    call = rest.later("GET", "/a1/offers", params={"wait": WAIT_S})
    still_waits(call)

    agents.drain(registry_queries.agent_by(agent_id="a1"), retire=False, actor="t", reason="r")

    assert answered(call, since=time.monotonic()).json()["commands"] == [
        {"kind": "drain", "reason": "r"}
    ]


def test_a_wait_without_news_ends_in_time(rest, enrolled):
    enrolled("a1")
    began = time.monotonic()

    body = rest.get("/a1/offers", params={"wait": 0.3}).json()

    assert body == {"offers": [], "commands": []}
    assert 0.3 <= time.monotonic() - began < SOON_S


def test_a_request_is_answered_when_its_status_changes(rest, make_agent, submit):
    make_agent("code")
    first, second = submit(), submit()
    call = rest.later("GET", f"/requests/{second.id}", params={"wait": WAIT_S})
    still_waits(call)

    leases.release(
        first.held.id, token=first.held.fencing_token, outcome=Outcome.SUCCESS, actor="t"
    )

    body = answered(call, since=time.monotonic()).json()
    assert (body["status"], body["lease"]["request_id"]) == ("granted", str(second.id))


def test_a_request_whose_status_was_seen_differently_is_answered_at_once(rest, make_agent, submit):
    make_agent("code")
    wish = submit()
    params = {"wait": WAIT_S, "seen": "waiting"}

    body = answered(
        rest.later("GET", f"/requests/{wish.id}", params=params), since=time.monotonic()
    ).json()

    assert body["status"] == "granted"
    still = rest.later("GET", f"/requests/{wish.id}", params={"wait": 1, "seen": "granted"})
    still_waits(still)


def test_asking_for_an_agent_waits_until_somebody_releases_one(
    rest, make_agent, submit, eventually
):
    make_agent("code")
    held = submit().held
    body = {"agent_type": "code", "project": "p", "wait_s": WAIT_S}
    taken = []

    # Several chances: a machine that is busy with other work may be late with the first.
    while not taken or (min(taken) >= 1 and len(taken) < 4):
        call = rest.later("POST", "/requests", json=body)
        eventually(lambda: Request.objects.filter(status="waiting").exists())
        still_waits(call)
        leases.release(held.id, token=held.fencing_token, outcome=Outcome.SUCCESS, actor="t")
        released = time.monotonic()
        response = answered(call, since=released)
        taken.append(time.monotonic() - released)
        assert response.status_code == 201
        assert response.headers["Location"].endswith(response.json()["request_id"])
        held = Lease.objects.get(id=response.json()["id"])

    assert min(taken) < 1, taken


def test_asking_for_an_agent_in_vain_ends_in_time_and_keeps_waiting(rest, make_agent, submit):
    make_agent("code")
    submit()

    response = rest.post("/requests", json={"agent_type": "code", "project": "p", "wait_s": 0.3})

    assert (response.status_code, response.json()["status"]) == (202, "waiting")


def test_a_log_is_answered_when_a_line_comes_and_when_the_lease_ends(rest, worker, submit):
    mine = worker("a1")
    lease = submit(payload=PAYLOAD).held
    held = {"lease_id": str(lease.id), "fencing_token": lease.fencing_token}
    mine.call("ack", **held)
    call = rest.later("GET", f"/leases/{lease.id}/log", params={"wait": WAIT_S})
    still_waits(call)

    mine.call("log", **held, chunks=[{"stream": "stderr", "text": "one\n"}])
    first = answered(call, since=time.monotonic()).json()
    call = rest.later(
        "GET", f"/leases/{lease.id}/log", params={"wait": WAIT_S, "after": first["next"]}
    )
    still_waits(call)
    mine.call("release", **held, outcome="success")
    last = answered(call, since=time.monotonic()).json()

    assert [(c["stream"], c["text"]) for c in first["chunks"]] == [("stderr", "one\n")]
    assert (last["chunks"], last["complete"]) == ([], True)


def test_events_are_answered_in_their_order_as_they_come(rest, make_agent, eventually):
    eventually(lambda: not Event.objects.filter(number=None).exists())  # a token was made for this
    start = rest.get("/events").json()["next"]
    call = rest.later("GET", "/events", params={"after": start, "wait": WAIT_S})
    still_waits(call)

    make_agent("code", agent_id="a1")

    body = answered(call, since=time.monotonic()).json()
    (event,) = body["events"]
    assert (event["kind"], event["agent_id"]) == ("agent.registered", "a1")
    assert body["next"] == event["seq"] > start


def test_fifty_that_wait_do_not_hold_up_another_call(web, rest, make_agent, submit):
    make_agent("code")
    submit()
    waits = submit()
    process = psutil.Process(web.process.pid)
    idle_threads = process.num_threads()

    async def crowd():
        limits = httpx.Limits(max_connections=60)
        async with httpx.AsyncClient(
            base_url=rest.base_url, headers=rest.headers, timeout=60, limits=limits
        ) as client:
            path = f"/requests/{waits.id}"
            calls = [
                asyncio.create_task(client.get(path, params={"wait": WAIT_S})) for _ in range(50)
            ]
            _, pending = await asyncio.wait(calls, timeout=2)
            began = time.monotonic()
            await client.get("/pools")
            took = time.monotonic() - began
            threads = process.num_threads()
            await client.delete(path)
            return len(pending), took, threads, await asyncio.gather(*calls)

    waiting, took, threads, responses = asyncio.run(crowd())

    assert waiting == 50
    assert took < SOON_S
    assert {response.json()["status"] for response in responses} == {"cancelled"}
    assert threads - idle_threads < 25
