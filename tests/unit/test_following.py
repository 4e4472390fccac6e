"""Requests are heard of when it is time, by one timer a connection; what is over is not."""

import asyncio

import pytest

from agentpool.gateway import following
from agentpool.gateway.following import Following

HEARD_AFTER_S = 0.2


@pytest.fixture
def heard(monkeypatch):
    """Return what is heard of, and looked at, with the loop's time of it."""
    found = []
    monkeypatch.setattr(following, "HEARD_AFTER_S", HEARD_AFTER_S)
    monkeypatch.setattr(following, "_TOGETHER_S", 0.02)
    monkeypatch.setattr(following, "UUID", str)  # they have plain names here
    monkeypatch.setattr(following.listener, "add", lambda news, topics: found.extend(topics))
    monkeypatch.setattr(following.listener, "remove", lambda news, topics: None)

    async def look(self, request_id):
        found.append((request_id, asyncio.get_running_loop().time()))

    monkeypatch.setattr(Following, "look", look)
    return found


def play(script):
    async def within():
        requests = Following(session=None, outlet=None, news=None)
        await script(requests)
        requests.end()

    asyncio.run(within())


def looked_at(heard):
    return {one[0]: one[1] for one in heard if isinstance(one, tuple)}


def test_each_is_heard_of_in_its_time_also_one_that_comes_later_and_is_due_before(heard):
    began = {}

    async def script(requests):
        for name, ttl_s in (("long", 60), ("short", 0.1), ("last", 60)):
            began[name] = asyncio.get_running_loop().time()
            requests.begin(name, ttl_s=ttl_s)
            await asyncio.sleep(0.03)
        await asyncio.sleep(0.5)

    play(script)
    taken = {name: at - began[name] for name, at in looked_at(heard).items()}
    assert list(taken) == ["short", "long", "last"]
    assert 0.02 <= taken["short"] < 0.1
    assert all(HEARD_AFTER_S - 0.03 <= taken[name] < 0.4 for name in ("long", "last"))
    assert "request:short" in heard


def test_what_is_over_before_is_not_heard_of(heard):
    async def script(requests):
        for name in ("a", "b", "c"):
            requests.begin(name, ttl_s=60)
        requests.forget("a")
        requests.forget("c")
        await asyncio.sleep(0.3)
        requests.begin("d", ttl_s=60)
        requests.end()
        await asyncio.sleep(0.3)

    play(script)
    assert list(looked_at(heard)) == ["b"]


def test_who_asks_again_is_heard_of_from_then_on(heard):
    async def script(requests):
        requests.begin("a", ttl_s=60)
        await asyncio.sleep(0.15)
        requests.begin("a", ttl_s=60)
        await asyncio.sleep(0.15)
        assert not heard
        await asyncio.sleep(0.15)

    play(script)
    assert list(looked_at(heard)) == ["a"]


def test_thousands_are_heard_of_together(heard):
    async def script(requests):
        for number in range(3000):
            requests.begin(str(number), ttl_s=60)
        await asyncio.sleep(0.5)

    play(script)
    assert len(looked_at(heard)) == 3000
