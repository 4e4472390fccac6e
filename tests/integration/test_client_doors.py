"""The client through both of its doors: the same answers and errors, and losses in between."""

import asyncio
import gc
import itertools
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
import weakref
from dataclasses import replace

import pytest
from websockets.sync.client import connect

from agentpool.client import AsyncClient, Client, Host, errors
from agentpool.registry.models import Agent, Lease, Liveness, Request
from balancing.services import agents, leases, requests

pytest_plugins = ["tests.browser.serving", "tests.integration.gateway_lines"]
pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(120)]
DOORS = ["gateway", "rest"]
WISH = {"payload": {"command": ["true"]}}


@pytest.fixture(params=DOORS)
def client(request, web, token_of):
    """An orchestrator's client that is known to use the one door or the other."""
    wants = request.param == "gateway"
    with Client(url=web.url, token=token_of("orchestrator"), gateway=wants) as client:
        yield client
        assert (client._door._line is not None) is wants


def test_a_lease_lives_its_whole_life(client, make_agent, whole):
    make_agent(memory_mb=4096, cpu_cores=4)

    wish = {"requirements": {"min_memory_mb": 512}}
    lease = client.acquire("code", project="p", wait_s=0, **wish)
    renewed = client.renew(lease.id, fencing_token=lease.fencing_token)
    usage = {"tokens_in": 5, "memory_mb": 100}
    client.report_usage(lease.id, fencing_token=lease.fencing_token, usage=usage)
    smaller = client.resize(lease.id, fencing_token=lease.fencing_token, memory_mb=900)
    client.park(lease.id, fencing_token=lease.fencing_token, reason="a person")
    again = client.resume(lease.id, fencing_token=lease.fencing_token)
    text = [{"stream": "stdout", "text": "hello\n"}]
    written = client.append_log(lease.id, fencing_token=again.fencing_token, chunks=text)
    ended = client.release(lease.id, fencing_token=again.fencing_token, result={"commit": "abc"})

    assert (lease.status, renewed.status, ended.status) == ("active", "active", "released")
    assert renewed.expires_at > lease.expires_at
    assert smaller.grant["memory_mb"] == 900
    assert again.fencing_token > lease.fencing_token
    assert written["bytes"] == 6
    assert Lease.objects.get(id=lease.id).tokens_in == 5
    assert Request.objects.get(id=lease.request_id).result == {"commit": "abc"}


def test_the_same_things_are_refused_alike(client, make_agent, submit):
    make_agent()
    strange = submit()
    lease = client.release(**_held(client, outcome="success"))
    with pytest.raises(errors.LeaseLost):
        client.renew(lease.id, fencing_token=lease.fencing_token + 1)
    with pytest.raises(errors.NotFound):
        client.renew(str(uuid.uuid4()), fencing_token=1)
    with pytest.raises(errors.NotFound):
        client.explain(str(strange.id))
    with pytest.raises(errors.Invalid) as fault:
        client.request(agent_type="code", project="", priority=900)
    assert {each["field"] for each in fault.value.errors} >= {"priority"}
    with pytest.raises(errors.Unsatisfiable):
        client.acquire("code", project="p", requirements={"memory_mb": 10**7}, wait_s=0)
    key = str(uuid.uuid4())
    client.request(agent_type="code", project="p", idempotency_key=key)
    with pytest.raises(errors.Invalid, match="another body"):
        client.request(agent_type="code", project="q", idempotency_key=key)


def _held(client, **ending):
    agent = Agent.objects.get()
    lease = Lease.objects.filter(agent=agent, status="active").first()
    if lease is not None:
        leases.cancel(lease, reason="the test", actor="test")
    mine = client.acquire("code", project="p", wait_s=2)
    return {"lease_id": mine.id, "fencing_token": mine.fencing_token, **ending}


def test_who_waits_gets_the_agent_that_comes_free(client, make_agent, submit):
    make_agent()
    held = submit().held
    told = []
    waiting = threading.Thread(
        target=lambda: told.append(client.acquire("code", project="p", wait_s=20))
    )
    waiting.start()
    _until(lambda: Request.objects.filter(status="waiting").exists())
    began = time.monotonic()
    leases.cancel(held, reason="over", actor="test")
    waiting.join(timeout=10)

    assert told[0].status == "active"
    assert time.monotonic() - began < 3


def test_a_wait_ends_when_somebody_cancels(client, submit, make_agent, token_of):
    make_agent()
    submit()
    asked = client.request(agent_type="code", project="p", **WISH)
    found = []
    waiting = threading.Thread(
        target=lambda: found.append(client.wait_request(asked.id, seen="waiting", wait_s=20))
    )
    waiting.start()
    time.sleep(0.3)
    requests.cancel_request(uuid.UUID(asked.id), actor="test")
    waiting.join(timeout=10)

    assert found[0].status == "cancelled"


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_who_is_interrupted_while_waiting_leaves_no_request(how, web, token_of, make_agent, submit):
    make_agent()
    submit()
    env = {**os.environ, "AGENTPOOL_URL": web.url, "AGENTPOOL_TOKEN": token_of("orchestrator")}
    argv = [sys.executable, "-m", "agentpool.cli.main", "acquire", "code", "--project=q"]
    with subprocess.Popen(argv, env=env, stderr=subprocess.PIPE) as waiting:
        _until(lambda: Request.objects.filter(project="q", status="waiting").exists())
        waiting.send_signal(how)

        assert waiting.wait(timeout=10) == 130
    assert Request.objects.get(project="q").status == "cancelled"


def test_a_task_cancelled_while_it_waits_leaves_no_request(client, submit, make_agent):
    make_agent()
    submit()
    how = {"gateway": client._door._is_wanted}

    async def work():
        url, token = client.settings.url, client.settings.token
        async with AsyncClient(url=url, token=token, **how) as waiting:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(waiting.acquire("code", project="q"), 0.5)

    asyncio.run(work())
    client.get_request(str(Request.objects.get(project="q").id))

    assert Request.objects.get(project="q").status == "cancelled"


def test_the_asynchronous_client_does_the_same(web, token_of, make_agent):
    make_agent(max_concurrent=30)
    token = token_of("orchestrator")

    async def cycle(client):
        async with client.lease("code", project="p", wait_s=5) as held:
            return (await client.renew(held.id, fencing_token=held.fencing_token)).status

    async def work():
        async with AsyncClient(url=web.url, token=token) as client:
            first = await cycle(client)
            assert client._door._line is not None
            return [first, *await asyncio.gather(*(cycle(client) for _ in range(25)))]

    assert asyncio.run(work()) == ["active"] * 26
    assert Lease.objects.filter(status="released").count() == 26


def test_threads_share_one_connection(web, token_of, make_agent, whole):
    make_agent(max_concurrent=8)
    with Client(url=web.url, token=token_of("orchestrator")) as client:

        def work():
            for _ in range(5):
                with client.lease("code", project="p", wait_s=20):
                    pass

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=60)

    assert Lease.objects.filter(status="released", outcome="success").count() == 40


def said(caplog):
    return [r.getMessage() for r in caplog.records if r.name == "agentpool.client"]


@pytest.mark.slow
def test_a_client_falls_back_to_rest_says_so_once_and_comes_back(
    own_web, token_of, make_agent, caplog, monkeypatch
):
    make_agent()
    web = own_web()
    with Client(url=web.url, token=token_of("orchestrator"), patience_s=30) as client:
        client._door._settings = type(client.settings)(url="http://127.0.0.1:9", token="x")
        with caplog.at_level(logging.INFO, logger="agentpool.client"):
            for _ in range(3):
                lease = client.acquire("code", project="p", wait_s=0)
                client.release(lease.id, fencing_token=lease.fencing_token)

            assert [line.split(" url=")[0] for line in said(caplog)] == ["gateway away"]
            client._door._settings = client.settings
            client._door._try_at = 0.0
            lease = client.acquire("code", project="p", wait_s=0)

        assert client._door._line.is_open
        assert said(caplog)[-1].startswith("gateway back")
        # The server dies in between: the release is repeated by the way that opens first.
        web.stop()
        web.start()
        client.release(lease.id, fencing_token=lease.fencing_token)
    assert Lease.objects.get(id=lease.id).status == "released"


def test_an_acquire_whose_answer_is_lost_is_not_made_twice(web, token_of, make_agent, monkeypatch):
    make_agent(max_concurrent=5)
    with Client(url=web.url, token=token_of("orchestrator")) as client:
        line = client._door._open()
        ask = line.ask

        def lossy(said, *, within_s):
            ask(said, within_s=within_s)
            line.close()
            raise errors.Unreachable("the answer is lost")

        monkeypatch.setattr(line, "ask", lossy)
        monkeypatch.setattr(client._door, "_try_at", time.monotonic() + 60)
        lease = client.acquire("code", project="p", wait_s=0)

        assert client._door._line is line
    assert Lease.objects.count() == 1
    assert str(Lease.objects.get().id) == lease.id


def test_what_is_too_long_for_a_message_goes_by_rest(web, token_of, make_agent):
    make_agent()
    long, longer = (
        {
            "payload": {
                "command": ["true"],
                "files": {f"{n}.txt": "x" * 90_000 for n in range(count)},
            }
        }
        for count in (5, 7)
    )
    with Client(url=web.url, token=token_of("orchestrator")) as client:
        asked = client.request(agent_type="code", project="p", **long)
        with pytest.raises(errors.Invalid, match="bytes"):
            client.request(agent_type="code", project="p", **longer)
        assert client.explain(asked.id)["status"] == "granted"
        assert client._door._line.is_open


def test_ops_that_an_older_server_does_not_know_go_by_rest(web, token_of, make_agent):
    make_agent()
    with Client(url=web.url, token=token_of("orchestrator")) as client:
        line = client._door._open()
        assert {"acquire", "wait", "release"} <= client._door._ops
        client._door._ops = frozenset({"release"})
        asked = []
        said, line.ask = line.ask, lambda m, **kw: asked.append(m["op"]) or said(m, **kw)

        lease = client.acquire("code", project="p", wait_s=0)
        client.release(lease.id, fencing_token=lease.fencing_token)

    assert asked == ["release"]


def test_a_connection_that_was_lost_is_not_kept(web, token_of):
    with Client(url=web.url, token=token_of("viewer")) as client:
        first = weakref.ref(client._door._open())
        first().close()
        _until(lambda: client._door._open() is not first())

        _until(lambda: gc.collect() >= 0 and first() is None)


def test_a_client_that_nobody_closes_leaves_no_thread(web, token_of):
    client = Client(url=web.url, token=token_of("orchestrator"))
    line = client._door._open()
    client._http.close()

    del client
    gc.collect()

    _until(lambda: not line.is_open)


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:9", "http://127.0.0.1:9", "nonsense"])
def test_a_proxy_that_carries_no_websocket_is_a_reason_for_rest(
    web, token_of, make_agent, monkeypatch, proxy
):
    make_agent()
    # For websockets only: what they can't have, plain calls may. None is asked for this machine, so
    # that of another one is put in its place.
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setattr(
        "agentpool.client.line.connect",
        lambda url, **said: connect(url, **{**said, "proxy": proxy}),
    )
    with Client(url=web.url, token=token_of("orchestrator")) as client:
        assert client.acquire("code", project="p", wait_s=0).status == "active"
        assert client._door._line is None


def test_a_bad_token_is_no_fault_of_the_gateways(web, caplog):
    with (
        Client(url=web.url, token="ap_nonsense", patience_s=0) as client,
        caplog.at_level(logging.INFO, logger="agentpool.client"),
        pytest.raises(errors.Unauthenticated),
    ):
        client.acquire("code", project="p", wait_s=0)

    assert said(caplog) == []


# -- many agents behind one connection -----------------------------------------------------------


@pytest.fixture
def registered(web, token_of, pools):
    """Register agents as their own host does: registered(3)."""
    numbers = itertools.count(1)

    def make(count, **fields):
        with Client(url=web.url, token=pools["operator_token"], gateway=False) as client:
            return [
                client.register_agent(agent_id=f"h-{next(numbers)}", agent_type="code", **fields)
                for _ in range(count)
            ]

    return make


@pytest.mark.parametrize("door", DOORS)
def test_a_host_speaks_for_all_its_agents(web, registered, submit, door):
    mine = registered(5)
    held = submit().held
    pushed = []
    report = {"lease_id": str(held.id), "fencing_token": held.fencing_token}
    Liveness.objects.update(last_heartbeat_at="2020-01-01T00:00:00Z")
    with Host(url=web.url, on_push=pushed.append) as host:
        if door == "rest":
            host._hinge.failed(errors.Unreachable("the test"))
        host.add(mine)
        told = host.heartbeat({held.agent.agent_id: [report]}, draining=["h-5"])
        agents.unregister(
            Agent.objects.get(agent_id="h-2"), force=True, if_generation=None, actor="test"
        )
        again = host.heartbeat()

        assert host.is_live is (door == "gateway")
    assert set(told) == {agent.agent_id for agent in mine}
    renewed = told[held.agent.agent_id].leases
    assert [lease["lease_id"] for lease in renewed] == [str(held.id)]
    assert Liveness.objects.filter(last_heartbeat_at__year=2020).count() == 0
    assert Agent.objects.get(agent_id="h-5").status in ("draining", "retired")
    assert [c["kind"] for c in again["h-2"].commands] == ["stop"]


def test_a_host_hears_offers_and_who_was_cut_off(web, registered, submit, eventually, pools):
    first, second = registered(2)
    pushed = []
    with Host(url=web.url, on_push=pushed.append) as host:
        host.add([first])
        assert set(host.heartbeat()) == {first.agent_id}
        host.add([second])
        offered = submit(payload={"command": ["true"]}).held
        eventually(lambda: [p for p in pushed if p["push"] == "offer"])
        with Client(url=web.url, token=pools["operator_token"], gateway=False) as client:
            client.register_agent(agent_id=second.agent_id, agent_type="code")
        told = host.heartbeat()

    assert pushed[0]["offer"]["id"] == str(offered.id)
    assert isinstance(told[second.agent_id], errors.Unauthenticated | errors.LeaseLost)


def test_who_hears_pushes_may_call_the_host(web, registered, submit, eventually):
    (mine,) = registered(1)
    told = []
    with Host(url=web.url, on_push=lambda push: told.append(host.heartbeat())) as host:
        host.add([mine])
        host.heartbeat()
        submit(payload={"command": ["true"]})
        eventually(lambda: told)

    assert set(told[0]) == {mine.agent_id}


def test_a_credential_that_is_no_good_is_told_for_its_agent_alone(web, registered):
    first, second = registered(2)
    bad = replace(second, credential="ap_nonsense")
    with Host(url=web.url) as host:
        host.add([first, bad])
        told = host.heartbeat()

    assert isinstance(told[second.agent_id], errors.Unauthenticated)
    assert told[first.agent_id].next_heartbeat_s > 0


def test_a_host_of_thousands_says_what_it_says_in_messages_that_are_taken():
    from agentpool.client import calls, hosting

    beats = [
        calls.heartbeat(
            f"agent-{n}",
            incarnation=1,
            leases=[{"lease_id": str(uuid.uuid4()), "fencing_token": 1}] * (n % 20),
        )
        for n in range(5000)
    ]

    messages = list(hosting._messages(beats))

    assert sum(map(len, messages)) == 5000
    assert max(map(len, messages)) <= 1000
    assert max(len(str(some)) for some in messages) < 512 * 1024


def _until(look, timeout_s=10):
    deadline = time.monotonic() + timeout_s
    while not look():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.slow
def test_who_waits_while_the_server_is_away_gets_one_lease_each(
    own_web, token_of, make_agent, whole
):
    web = own_web()
    token, got = token_of("orchestrator"), []
    with Client(url=web.url, token=token, patience_s=60) as client:

        def work():
            got.append(client.acquire("code", project="p", wait_s=40, allow_future=True))

        threads = [threading.Thread(target=work) for _ in range(12)]
        for thread in threads:
            thread.start()
        _until(lambda: Request.objects.filter(status="waiting").count() == 12)
        web.stop()
        web.start()
        make_agent(max_concurrent=12)
        for thread in threads:
            thread.join(timeout=60)

    assert len({lease.id for lease in got}) == 12
    assert Request.objects.count() == Lease.objects.filter(status="active").count() == 12
