"""
How calls are sent, repeated and combined, apart from the wire.

A conversation is a generator: it yields a `Call` to send or a `Pause` to sleep, and receives the
`Reply`. The synchronous and the asynchronous client drive the same conversations. What
interrupts them is thrown in, so that a conversation can take back what it has asked for.
"""

import contextlib
import random
import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar, Unpack

from agentpool.client import calls, errors
from agentpool.client.models import FINAL_REQUEST_STATUSES, Json, Lease, Request

T = TypeVar("T")

# One long-poll; below the 60 s at which the server cuts it, and short for proxies in between.
POLL_S = 30.0
# How much longer `acquire` waits once its time is over and the request is urgent, as a share of it
# (seed 2, acquire_agent).
SECOND_WAIT = 0.5
# Between two polls that brought nothing: a server that does not wait must not be asked in a loop.
QUIET_S = 0.1
# Sleeps between repeats double from here, with jitter so that clients don't return in step.
_FIRST_BACKOFF_S = 0.2
_LONGEST_BACKOFF_S = 5.0


@dataclass(frozen=True, slots=True)
class Pause:
    """Sleep so long, in seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Reply:
    """What the wire brought back; `body` is parsed JSON or None, `text` the raw body of errors."""

    status: int
    headers: Mapping[str, str]
    body: Any
    text: str = ""


Conversation = Generator[calls.Call[Any] | Pause, Any, T]


def exchange(call: calls.Call[T], *, patience_s: float) -> Conversation[T]:
    """
    Send one call and return its parsed answer.

    A repeatable call is sent again after connection trouble, 503 and 429, until `patience_s`
    have passed since the first; a `Retry-After` beyond that ends it at once.

    Raises: ApiError, and of it Unreachable when nothing answers.
    """
    give_up_at = time.monotonic() + patience_s
    backoff_s = _FIRST_BACKOFF_S
    while True:
        try:
            return answer(call, (yield call))
        except (errors.Unreachable, errors.Unavailable, errors.RateLimited, errors.QueueFull) as e:
            wait_s = (
                backoff_s * random.uniform(0.5, 1.5)
                if e.retry_after_s is None
                else (e.retry_after_s + random.uniform(0, _FIRST_BACKOFF_S))
            )
            if not call.repeatable or time.monotonic() + wait_s > give_up_at:
                raise
        yield Pause(wait_s)
        backoff_s = min(_LONGEST_BACKOFF_S, backoff_s * 2)


def answer(call: calls.Call[T], reply: Reply) -> T:
    """
    Return the parsed answer.

    Raises: ApiError, the class of the answer's code; plain ApiError when it can't be read.
    """
    if reply.status >= 400:
        raise errors.from_problem(
            status=reply.status,
            problem=reply.body,
            retry_after=reply.headers.get("retry-after"),
            text=reply.text,
        )
    try:
        return call.parse(reply.body)
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        detail = f"the answer to {call.method} {call.path} can't be read: {error}"
        raise errors.ApiError(detail, status=reply.status) from error


def acquire(
    *,
    agent_type: str,
    project: str,
    wait_s: float = 30.0,
    patience_s: float,
    **wish: Unpack[calls.Wish],
) -> Conversation[Lease]:
    """
    Get a lease, waiting `wait_s` seconds for a free agent, then half as long again.

    When the first wait (of `wait_s`, at most one long-poll) ends in vain, the server marks the
    request urgent, so that the second one may be served by agents that are started for it.

    Raises: CapacityExhausted, none came free in time (the request is cancelled), its detail and
    its `problem["explanation"]` say why; Unsatisfiable, none ever could; ApiError, the request
    ended otherwise. Interrupted (Ctrl-C, a task that is cancelled), it cancels the request first.
    """
    all_s = wait_s * (1 + SECOND_WAIT)
    wish.setdefault("ttl_s", all_s + POLL_S)
    first = calls.request(
        agent_type=agent_type, project=project, wait_s=min(wait_s, POLL_S), **wish
    )
    try:
        return (yield from _acquired(first, wait_s=all_s, patience_s=patience_s))
    except GeneratorExit:
        raise
    except BaseException as error:
        if not isinstance(error, Exception):
            yield from _take_back(first)
        raise


def _acquired(
    first: calls.Call[Request], *, wait_s: float, patience_s: float
) -> Conversation[Lease]:
    give_up_at = time.monotonic() + wait_s
    answered = yield from exchange(first, patience_s=patience_s)
    if answered.status == "granted" and answered.lease is not None:
        return answered.lease
    waiting = yield from wait_request(
        answered.id,
        seen=answered.status if answered.status == "waiting" else None,
        wait_s=give_up_at - time.monotonic(),
        patience_s=patience_s,
    )
    if waiting.lease is not None and waiting.status == "granted":
        return waiting.lease
    return (yield from _withdraw(waiting, wait_s=wait_s, patience_s=patience_s))


def _take_back(first: calls.Call[Request]) -> Conversation[None]:
    """
    Cancel what a call asked for, though its answer, and with it the id, may never have come.

    The same call without the wait is answered at once, under its key with the same request.
    """
    again = replace(first, body={**first.body, "wait_s": 0}, hold_s=0)
    with contextlib.suppress(errors.ApiError):
        known = yield from exchange(again, patience_s=0)
        yield from exchange(
            calls.cancel_request(known.id, reason="whoever waited for it was interrupted"),
            patience_s=0,
        )


def wait_request(
    request_id: str, *, seen: str | None = None, wait_s: float = POLL_S, patience_s: float
) -> Conversation[Request]:
    """
    Return the request as soon as its status differs from `seen`, else as it is after `wait_s`.

    `seen` None means the status it has now.
    """
    give_up_at = time.monotonic() + max(0.0, wait_s)
    while True:
        left_s = max(0.0, give_up_at - time.monotonic())
        call = calls.get_request(request_id, wait_s=round(min(left_s, POLL_S), 3), seen=seen)
        request = yield from exchange(call, patience_s=patience_s)
        seen = request.status if seen is None else seen
        is_over = request.status != seen or request.status in FINAL_REQUEST_STATUSES
        if is_over or time.monotonic() >= give_up_at:
            return request
        yield Pause(QUIET_S)


def _withdraw(request: Request, *, wait_s: float, patience_s: float) -> Conversation[Lease]:
    """Cancel a request that waited too long, unless it was granted at that very moment."""
    waited = f"request is {request.status}" if request.is_final else f"waited {wait_s:g} s"
    why: Json = {}
    if not request.is_final:
        final = yield from exchange(calls.get_request(request.id), patience_s=patience_s)
        if final.status == "granted" and final.lease is not None:
            return final.lease
        why = yield from _explained(request)
        yield from exchange(calls.cancel_request(request.id), patience_s=patience_s)
    reason = _in_words(why) or request.reason
    raise errors.CapacityExhausted(
        f"no {request.agent_type or 'agent'} for {request.project or 'the project'}: {waited}"
        f"{f', {reason}' if reason else ''}",
        status=409,
        problem={"request_id": request.id, "explanation": dict(why)},
    )


def _explained(request: Request) -> Conversation[Json]:
    """Return why a request waits; nothing when that cannot be told: it is no reason to fail."""
    try:
        return (yield from exchange(calls.explain(request.id), patience_s=0))
    except errors.ApiError:
        return {}


def _in_words(why: Json) -> str:
    nearest = why.get("nearest") or {}
    lacks = "; ".join(str(each.get("message")) for each in nearest.get("lacks", ()))
    reason = str(why.get("reason") or "")
    # The reason often names the nearest one already.
    if not lacks or lacks in reason:
        return reason
    return f"{reason}; nearest is {nearest.get('agent')}: {lacks}"
