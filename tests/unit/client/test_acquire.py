"""Acquire with a time-out: the second wait, and the reason when it was in vain."""

import time
from collections.abc import Iterator
from typing import Any

import pytest

from agentpool.client import Client, errors


@pytest.fixture
def client(server: Any) -> Iterator[Client]:
    with Client(url=server.url, token="secret", patience_s=5) as client:
        yield client


def test_acquire_waits_half_as_long_again_and_says_why_it_was_in_vain(
    server: Any, client: Client
) -> None:
    waiting = {"id": "r1", "status": "waiting", "agent_type": "code", "project": "shop"}
    why = {
        "reason": "no agent fits",
        "nearest": {"agent": "bee", "lacks": [{"name": "tools", "message": "tools: lacks git"}]},
    }
    server.answer("POST /requests", waiting, status=202)
    server.answer("GET /requests/r1", waiting)
    server.answer("GET /requests/r1/explain", why)
    server.answer("DELETE /requests/r1", {**waiting, "status": "cancelled"})
    began = time.monotonic()

    with pytest.raises(errors.CapacityExhausted) as caught:
        client.acquire("code", project="shop", wait_s=0.4)

    assert time.monotonic() - began >= 0.6
    assert caught.value.detail == (
        "no code for shop: waited 0.6 s, no agent fits; nearest is bee: tools: lacks git"
    )
    assert caught.value.problem["explanation"] == why
