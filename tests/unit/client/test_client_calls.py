"""The two clients over real sockets: the same calls, errors, repeats and waits."""

import asyncio
import inspect
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from agentpool.client import AsyncClient, Client, HeldLease, calls, errors
from agentpool.client.calls import Call

pytestmark = pytest.mark.timeout(30)
LEASE = "11111111-1111-4111-8111-111111111111"


@pytest.fixture
def client(server: Any) -> Iterator[Client]:
    with Client(url=server.url, token="secret", patience_s=5) as client:
        yield client


@pytest.fixture
def hasty(server: Any) -> Iterator[Client]:
    """A client that never repeats a call."""
    with Client(url=server.url, token="secret", patience_s=0) as client:
        yield client


def wait_until_lost(held: HeldLease) -> None:
    while not held.lost:
        time.sleep(0.02)


def test_every_call_is_a_method_of_both_clients() -> None:
    names = {
        name
        for name in calls.__all__
        if inspect.isfunction(getattr(calls, name)) and name != "events"
    }

    assert names <= set(dir(Client))
    assert names <= set(dir(AsyncClient))


def test_a_call_carries_token_and_body(server: Any, client: Client, lease_json: Any) -> None:
    server.answer(f"POST /leases/{LEASE}/renew", lease_json())

    lease = client.renew(LEASE, fencing_token=7)

    asked = server.asked[0]
    assert asked.headers["authorization"] == "Bearer secret"
    assert asked.body == {"fencing_token": 7}
    assert lease.agent is not None
    assert lease.agent.agent_id == "bee"
    assert lease.expires_at == datetime(2026, 1, 1, 0, 2, tzinfo=UTC)
    assert lease.raw["a_field_of_tomorrow"] == 1


def test_the_asynchronous_client_answers_the_same(server: Any, lease_json: Any) -> None:
    server.answer("GET /leases", {"results": [lease_json()], "next": None})

    async def ask() -> Any:
        async with AsyncClient(url=server.url, token="secret") as client:
            return await client.leases(project="shop")

    page = asyncio.run(ask())

    assert [lease.id for lease in page.items] == [LEASE]
    assert server.asked[0].params == {"project": "shop"}


def test_a_page_is_continued_by_the_cursor_of_its_address(server: Any, client: Client) -> None:
    server.answer("GET ", {"results": [], "next": "http://x/api/agent-pool?cursor=abc&limit=2"})

    first = client.agents(limit=2)
    client.agents(limit=2, next=first.next or "")

    assert server.asked[1].params == {"limit": "2", "cursor": "abc"}


@pytest.mark.parametrize("code", sorted(errors.BY_CODE))
def test_each_code_has_its_exception(server: Any, hasty: Client, code: str) -> None:
    problem = {
        "code": code,
        "detail": "why",
        "errors": [{"field": "f", "message": "m"}],
        "status": 409,
    }
    server.answer("GET /pools", problem, status=409)

    with pytest.raises(errors.BY_CODE[code]) as caught:
        hasty.pools()

    assert type(caught.value).code == code
    assert str(caught.value) == f"{code}: why (f: m)"


@pytest.mark.parametrize(
    ("status", "kind"), [(401, errors.Unauthenticated), (502, errors.Unavailable)]
)
def test_an_answer_without_a_code_is_read_by_its_status(
    server: Any, hasty: Client, status: int, kind: type[errors.ApiError]
) -> None:
    server.answer("GET /pools", None, status=status)

    with pytest.raises(kind):
        hasty.pools()


def test_nobody_there_is_unreachable() -> None:
    with (
        Client(url="http://127.0.0.1:9", token="secret", patience_s=0) as client,
        pytest.raises(errors.Unreachable, match=r"127\.0\.0\.1:9"),
    ):
        client.pools()


def test_a_proxy_is_not_asked_for_this_machine(
    server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # where nobody listens
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    server.answer("GET /pools", {"results": []})

    async def ask() -> Any:
        async with AsyncClient(url=server.url, token="t", patience_s=0) as client:
            return await client.pools()

    with Client(url=server.url, token="t", patience_s=0) as client:
        assert client.pools().items == ()
    assert asyncio.run(ask()).items == ()


def test_a_creating_call_is_repeated_with_the_same_key(server: Any, client: Client) -> None:
    server.answer("POST /requests", {"code": "unavailable"}, status=503)
    server.answer("POST /requests", {"id": "r1", "status": "waiting"}, status=202)

    request = client.request(agent_type="code", project="shop")

    keys = [each.headers["idempotency-key"] for each in server.asked]
    assert request.id == "r1"
    assert len(keys) == 2
    assert keys[0] == keys[1]


def test_a_call_that_must_happen_once_is_not_repeated(server: Any, client: Client) -> None:
    server.answer(f"POST /leases/{LEASE}/resume", {"code": "unavailable"}, status=503)

    with pytest.raises(errors.Unavailable):
        client.resume(LEASE, fencing_token=7)

    assert len(server.asked) == 1


def test_retry_after_is_honoured(server: Any, client: Client) -> None:
    server.answer("GET /pools", {"code": "rate_limited"}, status=429, Retry_After="1")
    server.answer("GET /pools", {"results": []})
    began = time.monotonic()

    client.pools()

    assert time.monotonic() - began >= 1.0


def test_a_retry_after_beyond_patience_ends_it_at_once(server: Any, client: Client) -> None:
    server.answer("GET /pools", {"code": "queue_full"}, status=429, Retry_After="60")

    with pytest.raises(errors.QueueFull) as caught:
        client.pools()

    assert caught.value.retry_after_s == 60
    assert len(server.asked) == 1


def test_acquire_returns_the_lease_that_comes_at_once(
    server: Any, client: Client, lease_json: Any
) -> None:
    answer = {"id": "r1", "status": "granted", "lease": lease_json()}
    server.answer("POST /requests", answer, status=201)

    lease = client.acquire("code", project="shop", phase="design")

    assert lease.id == LEASE
    assert server.asked[0].body["phase"] == "design"
    assert server.asked[0].body["wait_s"] == 30


def test_acquire_polls_until_it_is_granted(server: Any, client: Client, lease_json: Any) -> None:
    server.answer("POST /requests", {"id": "r1", "status": "waiting"}, status=202)
    server.answer("GET /requests/r1", {"id": "r1", "status": "waiting"})
    server.answer("GET /requests/r1", {"id": "r1", "status": "granted", "lease": lease_json()})

    lease = client.acquire("code", project="shop", wait_s=5)

    assert lease.id == LEASE
    assert server.calls_of("GET /requests/r1")[0].params["seen"] == "waiting"


def test_acquire_gives_up_in_time_and_cancels_its_request(server: Any, client: Client) -> None:
    waiting = {"id": "r1", "status": "waiting", "reason": "all agents are busy"}
    server.answer("POST /requests", waiting, status=202)
    server.answer("GET /requests/r1", waiting)
    server.answer("DELETE /requests/r1", {**waiting, "status": "cancelled"})

    with pytest.raises(errors.CapacityExhausted, match="all agents are busy"):
        client.acquire("code", project="shop", wait_s=0.2)

    assert server.calls_of("DELETE /requests/r1")


def test_a_held_lease_is_renewed_and_released(
    server: Any, client: Client, lease_json: Callable[..., Any]
) -> None:
    lease = lease_json(expires_at="2026-01-01T00:00:00.6Z")
    server.answer("POST /requests", {"id": "r1", "status": "granted", "lease": lease})
    server.answer(f"POST /leases/{LEASE}/renew", lease)
    server.answer(f"POST /leases/{LEASE}/release", lease)

    with client.lease("code", project="shop") as held:
        time.sleep(0.9)
        assert not held.lost

    assert len(server.calls_of(f"POST /leases/{LEASE}/renew")) >= 2
    assert server.calls_of(f"POST /leases/{LEASE}/release")[0].body["outcome"] == "success"


def test_a_block_that_raises_releases_as_failure(
    server: Any, client: Client, lease_json: Callable[..., Any]
) -> None:
    server.answer("POST /requests", {"id": "r1", "status": "granted", "lease": lease_json()})
    server.answer(f"POST /leases/{LEASE}/release", lease_json())

    with pytest.raises(ZeroDivisionError), client.lease("code", project="shop"):
        _ = 1 / 0

    body = server.calls_of(f"POST /leases/{LEASE}/release")[0].body
    assert body["outcome"] == "failure"
    assert "ZeroDivisionError" in body["error"]


def test_a_lost_lease_is_told_and_not_released(
    server: Any, client: Client, lease_json: Callable[..., Any]
) -> None:
    lease = lease_json(expires_at="2026-01-01T00:00:00.3Z")
    server.answer("POST /requests", {"id": "r1", "status": "granted", "lease": lease})
    server.answer(f"POST /leases/{LEASE}/renew", {"code": "lease_lost"}, status=409)

    with pytest.raises(errors.LeaseLost), client.lease("code", project="shop") as held:
        wait_until_lost(held)

    assert not server.calls_of(f"POST /leases/{LEASE}/release")


def test_a_lease_that_could_not_be_renewed_in_time_is_lost_by_our_own_clock(
    server: Any, client: Client, lease_json: Callable[..., Any]
) -> None:
    lease = lease_json(expires_at="2026-01-01T00:00:00.6Z")
    server.answer("POST /requests", {"id": "r1", "status": "granted", "lease": lease})
    server.answer(f"POST /leases/{LEASE}/renew", {"code": "unavailable"}, status=503)

    with pytest.raises(errors.LeaseLost), client.lease("code", project="shop") as held:
        time.sleep(0.8)

    assert held.lost
    assert not server.calls_of(f"POST /leases/{LEASE}/release")


def test_an_asynchronous_lease_is_renewed_and_released(
    server: Any, lease_json: Callable[..., Any]
) -> None:
    lease = lease_json(expires_at="2026-01-01T00:00:00.3Z")
    server.answer("POST /requests", {"id": "r1", "status": "granted", "lease": lease})
    server.answer(f"POST /leases/{LEASE}/renew", lease)
    server.answer(f"POST /leases/{LEASE}/release", lease)

    async def hold() -> None:
        async with (
            AsyncClient(url=server.url, token="secret") as client,
            client.lease("code", project="shop") as held,
        ):
            await asyncio.sleep(0.35)
            assert held.fencing_token == 7

    asyncio.run(hold())

    assert server.calls_of(f"POST /leases/{LEASE}/renew")
    assert server.calls_of(f"POST /leases/{LEASE}/release")


def test_logs_are_followed_to_their_end(server: Any, client: Client) -> None:
    first = {"chunks": [{"seq": 4, "stream": "stdout", "text": "a"}], "next": 4}
    server.answer(f"GET /leases/{LEASE}/log", {**first, "complete": False})
    server.answer(f"GET /leases/{LEASE}/log", {"chunks": [], "next": 4, "complete": True})

    printed = [chunk.text for chunk in client.logs(LEASE, follow=True)]

    assert printed == ["a"]
    assert server.asked[1].params["after"] == "4"


def test_events_are_read_to_the_newest(server: Any, client: Client) -> None:
    server.answer("GET /events", {"events": [{"seq": 5, "kind": "lease.active"}], "next": 5})
    server.answer("GET /events", {"events": [], "next": 5})

    assert [event.seq for event in client.events(after=0)] == [5]
    assert server.asked[1].params["after"] == "5"


def test_one_client_serves_many_threads(server: Any, client: Client) -> None:
    server.answer("GET /pools", {"results": []})
    failures: list[BaseException] = []

    def ask() -> None:
        try:
            client.pools()
        except errors.ApiError as error:
            failures.append(error)

    threads = [threading.Thread(target=ask) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failures == []
    assert len(server.asked) == 16


def test_an_answer_that_makes_no_sense_is_an_error_not_a_crash(server: Any, client: Client) -> None:
    server.answer(f"GET /leases/{LEASE}", ["no", "lease"])

    with pytest.raises(errors.ApiError, match="can't be read"):
        client.get_lease(LEASE)


def test_path_parts_are_quoted() -> None:
    call: Call[Any] = calls.agent("a/../b?c")

    assert call.path == "/api/agent-pool/agent-id/a%2F..%2Fb%3Fc"
