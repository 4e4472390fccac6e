"""
Doors that can wait: the same REST views, asked again when news of their subject arrives.

A waiting call is one coroutine, not a thread. It subscribes before it looks, so nothing that
happens in between is missed; and it looks every few seconds in any case, should the stream be away.
"""

import json
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar
from uuid import UUID

from django.conf import settings
from django.core.exceptions import RequestDataTooBig
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.csrf import csrf_exempt

from agentpool.live.listener import EVERYTHING, Subscription, listener
from agentpool.live.threads import in_thread
from agentpool.registry import api as registry_api
from agentpool.registry.errors import Invalid
from agentpool.registry.rest import plain_problem
from agentpool.registry.states import RequestStatus
from balancing import agents_api, leases_api, queries, requests_api, showing
from balancing.services import notes

MAX_WAIT_S = 60.0
LOOK_EVERY_S = 5.0

T = TypeVar("T")
View = Callable[..., Any]
Body = dict[str, Any]


def waiting(
    view: View,
    *,
    topics: Callable[[Body], Sequence[str]],
    settled: Callable[[HttpRequest, Body, Body], bool],
) -> View:
    """
    Return a view that answers when its GET has something new, or after `wait` seconds.

    topics: of the path's arguments. settled: of request, first body, newest body.
    """

    @csrf_exempt
    async def door(request: HttpRequest, **kwargs: Any) -> HttpResponse:
        wait_s = _wait_s(request)
        if request.method != "GET" or not wait_s:
            return await in_thread(view, request, **kwargs)

        def over(first: HttpResponse, newest: HttpResponse) -> bool:
            return newest.status_code != 200 or settled(request, _body(first), _body(newest))

        return await until_settled(
            lambda: in_thread(view, request, **kwargs),
            topics=topics(kwargs),
            settled=over,
            wait_s=wait_s,
        )

    return _documented(door, view)


async def until_settled(
    look: Callable[[], Awaitable[T]],
    *,
    topics: Sequence[str],
    settled: Callable[[T, T], bool],
    wait_s: float,
) -> T:
    """
    Return the first look that is settled (of the first and the newest one), or one after `wait_s`.

    topics: of the stream; news of them are a reason to look again.
    """
    deadline = time.monotonic() + wait_s
    async with listener.subscribe(*topics) as news:
        first = newest = await look()
        over = not wait_s
        while not over and not settled(first, newest):
            over = await _news(news, deadline)
            newest = await look()
        return newest


def _documented(door: View, view: View) -> View:
    """Return the door, which the OpenAPI document shows as the view behind it."""
    for name in ("cls", "initkwargs"):
        setattr(door, name, getattr(view, name))
    door.plain = _plain(view)  # type: ignore[attr-defined]
    return door


def _plain(view: View) -> View:
    """Return the view for servers whose calls hold a thread: asking it to wait is refused."""

    @csrf_exempt
    def door(request: HttpRequest, **kwargs: Any) -> HttpResponse:
        name = "wait" if request.method == "GET" else "wait_s"
        if not (_wait_s(request) if name == "wait" else _asked_wait_s(request)):
            return view(request, **kwargs)  # type: ignore[no-any-return]
        said = f"Nothing waits at this listener: ask without {name}, or at {settings.PUBLIC_URL}."
        return plain_problem(Invalid(said, errors=[(name, "Not taken here.")]))

    return door


async def _news(news: Subscription, deadline: float) -> bool:
    """Wait for news; return whether the time is over."""
    left = deadline - time.monotonic()
    if left > 0:
        await news.next(min(left, LOOK_EVERY_S))
    return time.monotonic() >= deadline


def _wait_s(request: HttpRequest) -> float:
    try:
        return min(MAX_WAIT_S, max(0.0, float(request.GET.get("wait", 0))))
    except ValueError:
        return 0.0  # the view itself refuses it, naming the field


def _body(response: HttpResponse) -> Body:
    data = getattr(response, "data", None)
    return data if isinstance(data, dict) else {}


def _moved_on(request: HttpRequest, first: Body, newest: Body) -> bool:
    seen = request.GET.get("seen") or first.get("status")
    return newest.get("status") != seen


request_detail = waiting(
    requests_api.RequestDetail.as_view(),
    topics=lambda path: [f"request:{path['request_id']}"],
    settled=_moved_on,
)
offers = waiting(
    agents_api.Offers.as_view(),
    topics=lambda path: [f"agent:{path['agent_id']}"],
    settled=lambda request, first, newest: bool(
        newest.get("offers")
        or newest.get("commands") != first.get("commands")
        or any(c["kind"] == "stop" for c in newest.get("commands", ()))
    ),
)
lease_log = waiting(
    leases_api.LeaseLog.as_view(),
    topics=lambda path: [f"lease:{path['lease_id']}"],
    settled=lambda request, first, newest: bool(newest.get("chunks") or newest.get("complete")),
)
events = waiting(
    registry_api.Events.as_view(),
    topics=lambda path: [EVERYTHING],
    settled=lambda request, first, newest: bool(newest.get("events")) or "after" not in request.GET,
)

_requests: View = requests_api.Requests.as_view()


@csrf_exempt
async def requests(request: HttpRequest, **kwargs: Any) -> HttpResponse:
    """List requests; or ask for an agent and, with `wait_s`, wait for the grant."""
    response: HttpResponse = await in_thread(_requests, request, **kwargs)
    wait_s = _asked_wait_s(request) if response.status_code == 202 else 0.0
    if not wait_s:
        return response
    request_id = str(_body(response)["id"])
    deadline = time.monotonic() + wait_s
    async with listener.subscribe(f"request:{request_id}") as news:
        is_open, over = True, False
        while is_open and not over:
            response, is_open = await in_thread(_answer, request_id)
            over = is_open and await _news(news, deadline)
    if is_open:
        await in_thread(notes.mark_urgent, UUID(request_id))
        response, _ = await in_thread(_answer, request_id)  # also granted at the last moment
    return response


_documented(requests, _requests)


def _answer(request_id: str) -> tuple[HttpResponse, bool]:
    """
    Return 201 with the request's lease, or 202 with the request, as its POST would.

    And whether it may be granted yet: not when it has its lease, nor when it has ended.
    """
    lease = queries.live_lease_of(UUID(request_id))
    body = showing.lease_json(lease) if lease else requests_api.request_body(UUID(request_id))
    response = JsonResponse(
        body,
        status=201 if lease else 202,
        headers={"Location": f"/api/agent-pool/requests/{request_id}"},
    )
    return response, lease is None and body["status"] in _OPEN


_OPEN = {RequestStatus.WAITING, RequestStatus.GRANTED}


def _asked_wait_s(request: HttpRequest) -> float:
    try:
        if b"wait_s" not in request.body:  # spares most calls a second parsing
            return 0.0
        return min(MAX_WAIT_S, float(json.loads(request.body).get("wait_s") or 0))
    except (ValueError, TypeError, AttributeError, RequestDataTooBig):
        return 0.0  # the view itself refuses it
