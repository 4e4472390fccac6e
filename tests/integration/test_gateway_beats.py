"""Heartbeats that wait in memory: what is durable, what was overtaken, who is told what."""

import contextlib
import json
import socket as sockets
import time
import uuid
from datetime import timedelta

import pytest
from django.db import transaction
from django.db.models import F
from django.db.models.functions import Now
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from agentpool.registry import credentials, services
from agentpool.registry.models import Agent, Credential, Lease, Liveness, Request, Tick
from balancing.services import agents, leases
from tests.integration.gateway_talk import SOON_S, Line, refusal

pytest_plugins = ["tests.browser.serving", "tests.integration.gateway_lines"]
pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("whole")]

PAYLOAD = {"command": ["true"]}
ROOMY = {"max_concurrent": 4, "memory_mb": 8192, "cpu_cores": 8, "token_budget": 400_000}
ROOMY["disk_space_mb"] = 4000


def held(lease):
    return {"lease_id": str(lease.id), "fencing_token": lease.fencing_token}


def silence(seconds, **which):
    Liveness.objects.filter(**which).update(last_heartbeat_at=Now() - timedelta(seconds=seconds))


def silent_s(agent_id):
    rows = Liveness.objects.annotate(age=Now() - F("last_heartbeat_at"))
    return rows.get(agent__agent_id=agent_id).age.total_seconds()


@pytest.fixture
def host(line, enrolled):
    """A connection that speaks for three agents with room."""
    mine = line()
    for name in ("a1", "a2", "a3"):
        assert mine.call("hello", token=enrolled(name, **ROOMY)["credential"])["ok"]
    return mine


@pytest.fixture
def patient_web(own_web):
    """A daphne whose second flush is far away: what is said after the first one stays in memory."""
    return own_web(AGENTPOOL_FLUSH_S="30")


def rest_of(socket):
    """What still comes until the other side hangs up."""
    with contextlib.suppress(ConnectionClosed):
        while True:
            yield socket.recv(timeout=SOON_S)


def dial(web):
    return connect(web.url.replace("http", "ws", 1) + "/ws/gateway/", open_timeout=20)


# -- one message for many agents -------------------------------------------------------------------


def test_a_hosts_heartbeat_keeps_all_its_agents_alive(host):
    silence(20)

    answer = host.call("heartbeat", agents=[{"agent_id": name} for name in ("a1", "a2", "a3")])

    assert (answer["ok"], answer["agents"], answer["next_heartbeat_s"]) == (True, [], 10)
    assert max(silent_s(name) for name in ("a1", "a2", "a3")) < SOON_S


def test_a_hosts_heartbeat_is_told_of_kept_and_lost_leases_by_agent(host, submit):
    lease, gone = submit(preferred_agent="a2").held, str(uuid.uuid4())

    said = [{"agent_id": "a1"}, {"agent_id": "a2", "incarnation": 1, "leases": [held(lease)]}]
    said.append({"agent_id": "a3", "leases": [{"lease_id": gone, "fencing_token": 1}]})
    answer = host.call("heartbeat", agents=said)

    told = {each["agent_id"]: each for each in answer["agents"]}
    assert told.keys() == {"a2", "a3"}
    assert told["a2"]["leases"][0]["lease_id"] == str(lease.id)
    assert told["a3"]["commands"] == [{"kind": "cancel", "lease_id": gone, "reason": "lease_lost"}]


def test_a_hosts_heartbeat_names_who_is_refused_and_hears_the_others(host, enrolled):
    enrolled("stranger", "qa")
    enrolled("a1")  # registers again elsewhere
    silence(20)

    said = [{"agent_id": "a1"}, {"agent_id": "a2", "incarnation": 9}]
    said += [{"agent_id": "stranger"}, {"agent_id": "a3"}]
    answer = host.call("heartbeat", agents=said)

    codes = {each["agent_id"]: each["error"]["code"] for each in answer["agents"]}
    assert codes == {"a1": "unauthenticated", "a2": "lease_lost", "stranger": "forbidden"}
    assert silent_s("a3") < SOON_S < silent_s("a1")


@pytest.mark.parametrize(
    "said", ["x", [7], [{}], [{"agent_id": 7}], [{"agent_id": "a1", "age_s": -1}], [{"a": 1}]]
)
def test_a_malformed_heartbeat_of_a_host_is_refused_as_a_whole(host, said):
    refusal(host.call("heartbeat", agents=said), "invalid")


def test_an_agent_that_drains_is_moved_and_told(host):
    answer = host.call("heartbeat", agents=[{"agent_id": "a1", "draining": True}])

    assert Agent.objects.get(agent_id="a1").status == "retired"
    assert answer["agents"][0]["commands"][0]["kind"] == "stop"


def test_agents_that_were_unreachable_come_back_together(host):
    Agent.objects.update(status="unreachable")

    answer = host.call("heartbeat", agents=[{"agent_id": name} for name in ("a1", "a2", "a3")])

    assert answer["ok"]
    assert set(Agent.objects.values_list("status", flat=True)) == {"idle"}


def test_beats_of_one_flush_are_answered_each_with_what_it_named(host, submit):
    first, second = (submit(preferred_agent="a1").held for _ in range(2))
    host.call("heartbeat", agent_id="a1")

    for number, lease in enumerate((first, second)):
        message = {"id": f"n{number}", "op": "heartbeat", "agent_id": "a1", "leases": [held(lease)]}
        host.socket.send(json.dumps(message))
    answers = [host._read(lambda m, n=n: m.get("id") == f"n{n}") for n in range(2)]

    assert first.agent_id == second.agent_id
    kept = [[lease["lease_id"] for lease in answer["leases"]] for answer in answers]
    assert kept == [[str(first.id)], [str(second.id)]]


def test_reports_of_one_flush_are_all_noted(host, submit):
    lease = submit(preferred_agent="a2").held
    host.call("heartbeat", agent_id="a2")  # whatever comes within a second is one flush
    words = (
        {"usage": {"tokens_in": 7, "memory_mb": 100}, "progress": {"counter": 3}},
        {"usage": {"memory_mb": 200, "tokens_out": 8}},
        {},
    )
    for id, word in enumerate(words):
        said = {"agent_id": "a2", "leases": [{**held(lease), **word}]}
        host.socket.send(json.dumps({"id": f"w{id}", "op": "heartbeat", **said}))
    answers = [json.loads(host.socket.recv(timeout=SOON_S)) for _ in words]

    assert all(answer["ok"] for answer in answers)
    now = Lease.objects.get(id=lease.id)
    assert (now.tokens_in, now.tokens_out, now.progress_counter) == (7, 8, 3)
    assert now.measured_memory_mb == 200


def test_other_ops_do_not_wait_for_a_heartbeats_flush(patient_web, enrolled, submit):
    token = enrolled("a1")["credential"]
    lease = submit().held
    with dial(patient_web) as socket:
        mine = Line(socket)
        mine.call("hello", token=token)
        mine.call("heartbeat")
        socket.send(json.dumps({"id": "later", "op": "heartbeat"}))

        began = time.monotonic()
        assert mine.call("renew", **held(lease))["ok"]

        assert time.monotonic() - began < SOON_S


# -- what is durable -------------------------------------------------------------------------------


@pytest.mark.kill
def test_a_renewal_that_was_not_written_was_not_acknowledged(patient_web, enrolled, submit):
    token = enrolled("a1")["credential"]
    lease = submit().held
    with dial(patient_web) as socket:
        mine = Line(socket)
        mine.call("hello", token=token)
        mine.call("heartbeat")
        Lease.objects.update(expires_at=Now() + timedelta(seconds=7))
        before = Lease.objects.get().expires_at
        socket.send(json.dumps({"id": "lost", "op": "heartbeat", "leases": [held(lease)]}))
        assert mine.call("cancel", request_id=str(uuid.uuid4()))["ok"] is False  # it was received

        patient_web.stop()

        assert "lost" not in [json.loads(text).get("id") for text in rest_of(socket)]
    assert Lease.objects.get().expires_at == before


def test_an_answer_tells_the_expiry_that_is_committed(host, submit):
    lease = submit(preferred_agent="a1").held
    Lease.objects.update(expires_at=Now() + timedelta(seconds=1))

    answer = host.call("heartbeat", agent_id="a1", leases=[held(lease)])

    (kept,) = answer["leases"]
    assert kept["expires_at"] == Lease.objects.get().expires_at.isoformat().replace("+00:00", "Z")
    assert 110 < kept["expires_in_s"] <= 120


# -- what was overtaken ----------------------------------------------------------------------------


def test_a_lease_that_was_reaped_while_its_renewal_waited_is_lost(host, submit):
    lease = submit(preferred_agent="a1").held
    services.tick_web()
    Tick.objects.filter(name="web").update(grace_until=None)
    Lease.objects.update(expires_at=Now() - timedelta(seconds=60))
    host.call("heartbeat", agent_id="a2")

    with transaction.atomic():
        # The reaper has the row when the flush comes: it waits for the reaper's end.
        Lease.objects.select_for_update().get()
        host.socket.send(
            json.dumps({"id": "r", "op": "heartbeat", "agent_id": "a1", "leases": [held(lease)]})
        )
        time.sleep(1.5)
        assert leases.expire_leases() == 1
    answer = host._read(lambda m: m.get("id") == "r")

    assert answer["leases"] == []
    assert [c["reason"] for c in answer["commands"]] == ["lease_lost"]
    assert Lease.objects.get().status == "expired"


def test_a_renewal_that_was_faster_than_the_reaper_keeps_the_lease(host, submit):
    lease = submit(preferred_agent="a1").held
    Lease.objects.update(expires_at=Now() - timedelta(seconds=60))

    assert host.call("heartbeat", agent_id="a1", leases=[held(lease)])["leases"]

    assert leases.expire_leases() == 0
    assert Lease.objects.get().status == "active"


def test_a_stale_flush_after_a_new_registration_touches_nothing(host, api, submit):
    lease = submit(preferred_agent="a1").held
    host.call("heartbeat", agent_id="a2")
    Liveness.objects.update(last_heartbeat_at=Now() - timedelta(seconds=50))

    with transaction.atomic():
        # The new registration holds the liveness row when the old incarnation's flush comes.
        agent = Agent.objects.get(agent_id="a1")
        Liveness.objects.select_for_update().get(agent=agent)
        host.socket.send(
            json.dumps({"id": "s", "op": "heartbeat", "agent_id": "a1", "leases": [held(lease)]})
        )
        time.sleep(1.5)
        leases.lose_all(agent, why="the agent registered again", actor="test")
        Liveness.objects.filter(agent=agent).update(incarnation=2)
        Agent.objects.filter(id=agent.id).update(incarnation=2)
    answer = host._read(lambda m: m.get("id") == "s")

    refusal(answer, "lease_lost")
    assert silent_s("a1") > 45
    assert Lease.objects.get().status == "lost"


def test_an_offer_that_crosses_a_heartbeat_is_pushed_and_not_lost(host, submit):
    host.call("heartbeat", agent_id="a1")
    host.socket.send(json.dumps({"id": "x", "op": "heartbeat", "agent_id": "a1"}))

    wish = submit(preferred_agent="a1", payload=PAYLOAD)

    assert host.push("offer", agent_id="a1")["offer"]["id"] == str(wish.held.id)
    assert host._read(lambda m: m.get("id") == "x")["commands"] == []


def test_two_flushes_of_the_same_agents_do_not_deadlock(line, enrolled):
    tokens = [enrolled(f"n{number}")["credential"] for number in range(30)]
    lines = [line(), line()]
    for mine in lines:
        for token in tokens:
            assert mine.call("hello", token=token)["ok"]
    names = [{"agent_id": f"n{number}"} for number in range(30)]

    for number in range(5):
        order = names if number % 2 else names[::-1]
        for mine, said in zip(lines, (order, order[::-1]), strict=True):
            mine.socket.send(json.dumps({"id": number, "op": "heartbeat", "agents": said}))
    answers = [m._read(lambda a: a.get("id") == 4) for m in lines]

    assert [answer["ok"] for answer in answers] == [True, True]


# -- tokens ----------------------------------------------------------------------------------------


def test_a_token_revoked_while_its_heartbeat_waits_is_refused(patient_web, enrolled):
    token = enrolled("a1")["credential"]
    silence(20)
    with dial(patient_web) as socket:
        mine = Line(socket)
        mine.call("hello", token=token)
        credentials.revoke(Credential.objects.get(scope="agent").id)
        silence(20)

        refusal(mine.call("heartbeat"), "unauthenticated")

    assert silent_s("a1") > 15


def test_a_heartbeat_said_right_after_hello_waits_for_it(line, enrolled):
    token, mine = enrolled("a1")["credential"], line()

    mine.socket.send(json.dumps({"id": 1, "op": "hello", "token": token}))
    answer = mine.send({"id": 2, "op": "heartbeat", "agent_id": "a1", "incarnation": 1})

    assert answer["ok"], answer


# -- bounds ----------------------------------------------------------------------------------------


def test_too_many_messages_are_refused_with_the_time_to_wait_then_the_line_is_cut(
    own_web,
):
    with dial(own_web(AGENTPOOL_MESSAGES_PER_S="20")) as socket:
        for number in range(60):
            socket.send(json.dumps({"id": number, "op": "fly"}))
        answers = [json.loads(socket.recv(timeout=SOON_S)) for _ in range(60)]
        limited = [a["error"] for a in answers if a["error"]["code"] == "rate_limited"]

        assert limited
        assert all(error["retry_after_s"] > 0 for error in limited)
        assert len(answers) - len(limited) >= 40  # two seconds' worth may come at once
        with contextlib.suppress(ConnectionClosed):
            for number in range(1000):
                socket.send(json.dumps({"id": number, "op": "fly"}))
        list(rest_of(socket))
        assert socket.close_code == 4429


def test_a_message_that_is_too_long_is_refused(line, pools):
    error = refusal(line().send(" " * 600_000), "invalid")

    assert "524,288 bytes" in error["detail"]


def test_a_reader_that_does_not_read_is_cut_and_holds_up_nobody(own_web, enrolled):
    patient_web = own_web(AGENTPOOL_SLOW_READER_S="1")
    raw = sockets.socket()
    raw.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, 4096)
    raw.connect(("127.0.0.1", patient_web.port))
    address = patient_web.url.replace("http", "ws", 1) + "/ws/gateway/"
    with connect(address, sock=raw, max_queue=1, open_timeout=20, close_timeout=1) as deaf:
        question = json.dumps({"id": "x" * 100_000, "op": "fly"})
        cut = False
        deadline = time.monotonic() + 20
        try:
            while time.monotonic() < deadline:
                deaf.send(question)
                time.sleep(0.01)
        except (ConnectionClosed, OSError):
            cut = True
        assert cut
        with dial(patient_web) as other:
            assert Line(other).call("hello", token=enrolled("a1")["credential"])["ok"]
    assert "Traceback" not in patient_web.log


# -- coming back -----------------------------------------------------------------------------------


def test_an_offer_committed_before_a_cut_and_not_pushed_comes_with_the_next_hello(
    patient_web, enrolled, submit
):
    token = enrolled("a1")["credential"]
    with dial(patient_web) as socket:
        assert Line(socket).call("hello", token=token)["ok"]
        with transaction.atomic():
            wish = submit(payload=PAYLOAD)
            patient_web.stop()  # between the offer's commit and its push
    patient_web.start()

    with dial(patient_web) as socket:
        answer = Line(socket).call("hello", token=token)

    assert [offer["id"] for offer in answer["offers"]] == [str(wish.held.id)]
    assert [lease["id"] for lease in answer["leases"]] == [str(wish.held.id)]


def test_hello_tells_a_draining_agent_so(line, enrolled):
    token = enrolled("a1")["credential"]
    agents.drain(Agent.objects.get(), retire=False, actor="test", reason="tonight")

    answer = line().call("hello", token=token)

    assert answer["commands"] == [{"kind": "drain", "reason": "tonight"}]


def test_a_whole_hosts_hellos_sent_at_once_are_all_answered(line, enrolled):
    tokens = [enrolled(f"n{number}")["credential"] for number in range(25)]
    mine = line()

    for number, token in enumerate([*tokens, "nonsense"]):
        mine.socket.send(json.dumps({"id": number, "op": "hello", "token": token}))
    answers = [mine._read(lambda m, n=n: m.get("id") == n) for n in range(26)]

    assert [a.get("agent_id") for a in answers[:25]] == [f"n{number}" for number in range(25)]
    refusal(answers[25], "unauthenticated")


def test_a_resize_is_pushed_to_the_agent(host, submit):
    lease = submit(preferred_agent="a1", min_memory_mb=256).held

    leases.resize(lease.id, token=lease.fencing_token, amounts={"memory_mb": 512}, actor="test")

    command = host.push("command", agent_id="a1")["command"]
    assert (command["kind"], command["grant"]["memory_mb"]) == ("resize", 512)


def test_an_acquire_that_waited_in_vain_becomes_urgent(line, token_of, eventually, pools):
    mine = line(Authorization=f"Bearer {token_of('orchestrator')}")
    answer = mine.call("acquire", agent_type="code", project="p", wait_s=0.2)

    row = Request.objects.filter(id=answer["request_id"])
    eventually(lambda: row.get().urgent_at)


@pytest.mark.parametrize("name", ["a\x00b", "", "a/b", "x" * 129, 7, ["a1"], {"a": 1}])
def test_what_is_no_agents_id_is_the_callers_fault(line, pools, name):
    operator = line()
    operator.call("hello", token=pools["operator_token"])

    error = refusal(operator.call("heartbeat", agent_id=name), "invalid")

    assert error["errors"][0]["field"] == "agent_id"
