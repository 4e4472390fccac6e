"""
How a call is said on the gateway, and how its answer reads as REST's: apart from the wire.

A talk is a generator: it yields a message to send and receives its answer; the synchronous and the
asynchronous client drive the same talks. Errors and values come out as those of REST do.
"""

import json
from collections.abc import Generator, Mapping
from typing import Any
from urllib.parse import urlsplit

from agentpool.client import calls, errors
from agentpool.client.exchange import Reply

Message = Mapping[str, Any]

OPEN_S = 5.0
LONGEST_FRAME = 4 * 2**20
# What servers take in one message by default is 512 kB; longer ones go by REST, which says so.
MOST_BYTES = 400_000
# Agents of one heartbeat; the server takes 5,000.
MOST_AGENTS = 1000
# How often an idle line is tried, and how long the other side may take, in seconds.
PING_S = 20.0
_ANSWER_S = 15.0
# What answers carry beside their frame, of which REST's answer is one.
_BODIES = ("lease", "request", "explanation")


class NotSaid(errors.Unreachable):
    """Nothing of the message went out: it may be said another way."""


def address(url: str) -> str:
    """Return the gateway's address below a control plane's."""
    parts = urlsplit(url)
    scheme = "wss" if parts.scheme == "https" else "ws"
    return f"{scheme}://{parts.netloc}{parts.path.rstrip('/')}/ws/gateway/"


def encoded(body: Any) -> str:
    """Return a body as JSON that UTF-8 can carry: lone surrogates become question marks."""
    text = json.dumps(body, ensure_ascii=False)
    return text.encode("utf-8", "replace").decode("utf-8")


def message(call: calls.Call[Any]) -> Message:
    """Return what a call is on the gateway, without an id."""
    return {**call.about, **(call.body or {}), "op": call.op}


def talk(call: calls.Call[Any]) -> Generator[Message, Message, Reply]:
    """Say a call; one that asks for an agent and may wait for it, waits."""
    answer = yield message(call)
    if call.op == "acquire" and call.hold_s and isinstance(answer.get("request"), Mapping):
        asked = {"op": "wait", "request_id": answer["request_id"]}
        answer = yield {**asked, "seen": "waiting", "wait_s": call.hold_s}
        request = answer.get("request") or {}
        if request.get("status") == "granted" and request.get("lease"):
            return Reply(201, {}, request["lease"])
    return reply(answer)


def within_s(said: Message) -> float:
    """Return how long the answer to a message may take, in seconds."""
    return _ANSWER_S + (float(said["wait_s"]) if said.get("op") == "wait" else 0.0)


def reply(answer: Message) -> Reply:
    """Return an answer as REST would have given it."""
    if answer.get("ok") is not True:
        problem = answer.get("error")
        told: Mapping[str, Any] = problem if isinstance(problem, Mapping) else {}
        wait_s = told.get("retry_after_s")
        headers = {} if wait_s is None else {"retry-after": str(wait_s)}
        return Reply(int(told.get("status") or 400), headers, told, str(told.get("detail", "")))
    for name in _BODIES:
        if isinstance(answer.get(name), Mapping):
            return Reply(200, {}, answer[name])
    return Reply(200, {}, {k: v for k, v in answer.items() if k not in ("id", "ok")})


def refusal(answer: Message) -> errors.ApiError:
    """Return the error that an answer is."""
    said = reply(answer)
    return errors.from_problem(
        status=said.status, problem=said.body, retry_after=said.headers.get("retry-after")
    )
