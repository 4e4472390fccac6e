"""What waits on the gateway: requests live by their connection, questions by their answers."""

import json
import time
from datetime import timedelta

import pytest
from django.db.models.functions import Now
from websockets.exceptions import ConnectionClosed

from agentpool.registry import credentials
from agentpool.registry.models import Agent, IdempotencyKey, Lease, Request
from balancing.services import leases, queue, requests
from tests.integration.gateway_talk import refusal

pytest_plugins = ["tests.browser.serving", "tests.integration.gateway_lines"]
pytestmark = [pytest.mark.django_db(transaction=True)]
WISH = {"agent_type": "code", "project": "p"}


@pytest.fixture
def busy(make_agent, submit):
    """An agent that is taken; returns the lease that takes it."""
    make_agent()
    return submit().held


def test_a_request_waits_for_as_long_as_its_connection_is_open(boss, busy):
    waiting = boss.call("acquire", **WISH, ttl_s=1)["request_id"]
    deadline = time.monotonic() + 3.0
    while time.monotonic() < deadline:
        assert requests.time_out_requests() == 0
        time.sleep(0.1)

    leases.cancel(busy, reason="over", actor="test")

    assert boss.push("granted", request_id=waiting)["lease"]["status"] == "active"


def test_its_time_to_live_begins_when_the_connection_goes(boss, busy, eventually):
    waiting = boss.call("acquire", **WISH, ttl_s=1)["request_id"]
    time.sleep(1.5)
    assert Request.objects.get(id=waiting).status == "waiting"

    boss.socket.close()

    eventually(requests.time_out_requests, timeout_s=5)
    assert Request.objects.get(id=waiting).status == "timed_out"


def test_a_revoked_token_keeps_nothing_waiting(line, busy, token_of, eventually):
    token = token_of("orchestrator")
    mine = line()
    mine.call("hello", token=token)
    mine.call("acquire", **WISH, ttl_s=1)

    credentials.revoke(credentials.find(token).id)

    eventually(requests.time_out_requests, timeout_s=5)


@pytest.mark.parametrize("door", ["rest", "gateway"])
def test_only_who_asked_keeps_a_request_waiting(door, line, api, busy, token_of):
    token, viewer = token_of("orchestrator"), token_of("viewer")
    mine = line()
    mine.call("hello", token=token)
    waiting = mine.call("acquire", **WISH, ttl_s=60)["request_id"]
    mine.socket.close()
    before = Request.objects.get(id=waiting).expires_at
    Request.objects.filter(id=waiting).update(expires_at=before - timedelta(seconds=40))

    def asked_by(secret):
        """How much its deadline moves when somebody asks after it, seconds."""
        was = Request.objects.get(id=waiting).expires_at
        if door == "rest":
            assert api.get(f"/requests/{waiting}", token=secret).status_code == 200
        else:
            other = line()
            other.call("hello", token=secret)
            other.call("wait", request_id=waiting, wait_s=0)
        return (Request.objects.get(id=waiting).expires_at - was).total_seconds()

    assert asked_by(viewer) == 0
    assert asked_by(token) > 30


def test_who_acquired_is_told_of_an_end_that_is_no_grant(boss, busy):
    waiting = boss.call("acquire", **WISH)["request_id"]

    requests.cancel_request(waiting, actor="somebody", reason="too late")

    ended = boss.push("ended", request_id=waiting)["request"]
    assert (ended["status"], ended["reason"]) == ("cancelled", "too late")


@pytest.mark.parametrize("way", ["at once", "by a push", "with a key"])
@pytest.mark.slow
def test_whose_lease_is_lost_waits_on_by_its_connection_and_hears_of_the_next(
    boss, pools, make_agent, way
):
    if way != "by a push":
        make_agent()
    key = {"idempotency_key": "k1"} if way == "with a key" else {}
    answer = boss.call("acquire", **WISH, ttl_s=2, **key)
    mine = answer["request_id"]
    if way == "by a push":
        make_agent()
        queue.serve({"code"})
        answer = boss.push("granted", request_id=mine)

    leases.lose_all(Agent.objects.get(), why="gone", actor="test")

    deadline = time.monotonic() + 5.0
    while time.monotonic() < deadline:
        assert requests.time_out_requests() == 0
        time.sleep(0.1)
    Request.objects.update(not_before=None)
    queue.serve({"code"})
    granted = boss.push("granted", request_id=mine)["lease"]
    assert (granted["status"], granted["attempt"]) == ("active", 2)


def test_who_acquired_is_told_when_what_was_granted_is_cancelled_and_not_of_its_release(
    boss, make_agent
):
    make_agent(max_concurrent=2)
    done, dropped = (boss.call("acquire", **WISH)["lease"] for _ in range(2))
    held = {"lease_id": done["id"], "fencing_token": done["fencing_token"]}
    assert boss.call("release", **held)["ok"]

    requests.cancel_request(dropped["request_id"], actor="somebody", reason="too late")

    ended = boss.push("ended")["request"]
    assert (ended["id"], ended["reason"]) == (dropped["request_id"], "too late")
    assert boss.pushed == []


def test_a_wait_is_answered_by_news_and_holds_up_nothing(boss, busy):
    waiting = boss.call("acquire", **WISH)["request_id"]
    question = {"id": "w", "op": "wait", "request_id": waiting, "seen": "waiting", "wait_s": 30}
    boss.socket.send(json.dumps(question))
    began = time.monotonic()
    assert boss.call("explain", request_id=waiting)["ok"]
    leases.cancel(busy, reason="over", actor="test")

    answer = boss._read(lambda m: m.get("id") == "w")

    assert answer["request"]["status"] == "granted"
    assert answer["request"]["lease"]["status"] == "active"
    assert time.monotonic() - began < 5


def test_a_wait_ends_in_time_and_is_as_checked_as_rests(boss, line, busy, token_of, submit):
    waiting = boss.call("acquire", **WISH)["request_id"]

    began = time.monotonic()
    answer = boss.call("wait", request_id=waiting, wait_s=0.4)

    assert answer["request"]["status"] == "waiting"
    assert 0.4 <= time.monotonic() - began < 3
    refusal(boss.call("wait", request_id=waiting, wait_s=61), "invalid")
    refusal(boss.call("wait", request_id=waiting, seen="asleep"), "invalid")
    refusal(boss.call("wait", request_id=waiting, colour="red"), "invalid")
    refusal(boss.call("wait", request_id="x"), "invalid")
    refusal(boss.call("wait", request_id=str(submit().id)), "not_found")
    refusal(line().call("wait", request_id=waiting), "unauthenticated")


def test_the_same_key_gets_the_same_answer_by_either_door(boss, api, token_of, line, make_agent):
    token = token_of("orchestrator")
    mine = line()
    mine.call("hello", token=token)
    make_agent(max_concurrent=5)

    by_gateway = mine.call("acquire", **WISH, idempotency_key="k1")
    again = mine.call("acquire", **WISH, idempotency_key="k1")
    by_rest = api.post("/requests", WISH, token=token, idempotency_key="k1")

    assert Lease.objects.count() == 1
    assert again["lease"] == by_gateway["lease"] == by_rest.body
    assert by_rest.status_code == 201
    other = {**WISH, "project": "q"}
    refusal(mine.call("acquire", **other, idempotency_key="k1"), "invalid")
    refusal(mine.call("acquire", **WISH, idempotency_key=7), "invalid")
    refusal(mine.call("acquire", **WISH, idempotency_key="a\x00b"), "invalid")
    # Keys are each caller's own, and answers are not kept in clear.
    assert boss.call("acquire", **WISH, idempotency_key="k1")["lease"] != by_rest.body
    assert by_rest.body["id"].encode() not in bytes(IdempotencyKey.objects.first().sealed_body)


def test_a_keyed_request_that_waits_is_followed_when_it_is_asked_for_again(line, token_of, busy):
    token = token_of("orchestrator")
    first, second = line(), line()
    first.call("hello", token=token)
    waiting = first.call("acquire", **WISH, idempotency_key="k")["request_id"]
    first.socket.close()
    second.call("hello", token=token)

    assert second.call("acquire", **WISH, idempotency_key="k")["request_id"] == waiting
    leases.cancel(busy, reason="over", actor="test")

    assert second.push("granted", request_id=waiting)


def test_acquires_sent_in_one_go_are_served_together(boss, make_agent, whole):
    make_agent(max_concurrent=50)
    for number in range(50):
        boss.socket.send(json.dumps({"id": f"a{number}", "op": "acquire", **WISH}))

    answers = [boss._read(lambda m, n=n: m.get("id") == f"a{n}") for n in range(50)]

    assert all(answer["lease"]["status"] == "active" for answer in answers)
    assert Lease.objects.values("agent_id").count() == 50


@pytest.mark.slow
@pytest.mark.slow
def test_a_connection_that_says_no_hello_is_closed(line, token_of):
    strange, known = line(), line()
    known.call("hello", token=token_of("viewer"))
    strange.send({"id": 1, "op": "hello", "token": "no"})

    strange.socket.recv(timeout=20)
    with pytest.raises(ConnectionClosed) as closed:
        strange.socket.recv(timeout=20)

    assert closed.value.rcvd.code == 4401
    assert known.call("explain", request_id="x")["error"]["code"] == "invalid"


def test_keeping_leaves_alone_what_waits_no_more(busy, submit):
    over, waiting = submit(), submit()
    requests.cancel_request(over.id, actor="test")
    soon = {"expires_at": Now() + timedelta(seconds=1)}
    Request.objects.filter(id__in=[over.id, waiting.id]).update(**soon)

    requests.keep_waiting([over.id, waiting.id])

    over.refresh_from_db()
    waiting.refresh_from_db()
    assert (waiting.expires_at - over.expires_at).total_seconds() > 250
    kept = waiting.expires_at
    requests.keep_waiting([waiting.id])
    waiting.refresh_from_db()
    assert waiting.expires_at == kept, "it has hardly used up any of its time"


def test_a_key_that_comes_many_times_at_once_makes_one_request(line, token_of, make_agent, whole):
    make_agent(max_concurrent=50)
    token = token_of("orchestrator")
    lines = [line(Authorization=f"Bearer {token}") for _ in range(8)]
    said = {"op": "acquire", **WISH, "idempotency_key": "k"}
    for number in range(5):
        for mine in lines:
            mine.socket.send(json.dumps({"id": f"a{number}", **said}))

    answers = [
        mine._read(lambda m, n=n: m.get("id") == f"a{n}")["lease"]["id"]
        for n in range(5)
        for mine in lines
    ]

    assert len(set(answers)) == Lease.objects.count() == Request.objects.count() == 1


@pytest.mark.slow
def test_thousands_may_wait_on_a_connection_and_hold_up_nobody(boss, busy):
    waiting = boss.call("acquire", **WISH)["request_id"]
    said = {"op": "wait", "request_id": waiting, "seen": "waiting", "wait_s": 60}
    for number in range(3000):
        boss.socket.send(json.dumps({"id": number + 10_000, **said}))
        if number % 1000 == 999:
            time.sleep(0.5)  # within the rate that is allowed

    began = time.monotonic()
    assert boss.call("cancel", request_id=waiting)["ok"]
    took_s = time.monotonic() - began
    boss._read(lambda m: m.get("id") == 10_000)

    assert took_s < 20, "held up by what waits 60 s"


def test_questions_of_a_connection_that_goes_are_forgotten(line, token_of, busy):
    mine = line(Authorization=f"Bearer {token_of('orchestrator')}")
    waiting = mine.call("acquire", **WISH)["request_id"]
    said = {"op": "wait", "request_id": waiting, "seen": "waiting", "wait_s": 60}
    for number in range(200):
        mine.socket.send(json.dumps({"id": number + 10, **said}))
    mine.socket.close()

    requests.cancel_request(waiting, actor="somebody")
    time.sleep(0.5)

    # The server's log is looked at when the test ends.
    assert line(Authorization=f"Bearer {token_of('viewer')}").call("explain", request_id="x")
