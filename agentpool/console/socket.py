"""
The viewer's websocket: after each burst of events, the fragments that have changed, as HTML.

htmx swaps them in by their ids. Viewers of the same page with the same filters share one drawing.
"""

import asyncio
import contextlib
import json
import logging
import time
from typing import Any
from urllib.parse import parse_qsl

from channels.generic.websocket import AsyncWebsocketConsumer
from django.db import DatabaseError, InterfaceError

from agentpool.console.draw import draw
from agentpool.console.fragments import Drawing, Seen, changes, messages
from agentpool.console.page import Page
from agentpool.console.pages import PAGES
from agentpool.live import origin
from agentpool.live.listener import Event, Subscription, listener
from agentpool.live.threads import in_thread
from agentpool.registry.errors import NotFound, Unauthenticated

log = logging.getLogger("agentpool.console")

# Events of one transaction arrive together; a person reads no faster than four pictures a second,
# so 1,000 events a second stay cheap. A page that is long in drawing rests longer.
GATHER_S = 0.02
DRAW_EVERY_S = 0.25
REST_PER_DRAWING = 2.0
# Reasons to wait and lateness change without any event.
REDRAW_EVERY_S = 10.0
# Who signs out elsewhere, or may act no more, sees so much more of the page at most.
LOOK_EVERY_S = 9.0
SIGNED_OUT, GONE = 4401, 4404
# A browser says at once what it has; one that says nothing gets all.
TOLD_WITHIN_S = 3.0
MOST_TOLD = 20_000
# What comes of a message that says something else.
_NO_LIST = (ValueError, TypeError, LookupError, AttributeError, RecursionError)

_Key = tuple[str, bool, tuple[str, ...]]
_shared: dict[_Key, tuple[float, "asyncio.Future[Drawing]"]] = {}


class _HungUp(Exception):
    """The browser has closed the page."""


class ConsoleSocket(AsyncWebsocketConsumer):
    """One open page of one person: `?page=NAME` and the page's parameters."""

    async def connect(self) -> None:
        """Accept people who are logged in, from pages of ours, for pages that there are."""
        if not origin.is_ours(dict(self.scope["headers"])):
            await self.close()
            return
        # A browser learns the code of a close only of a connection that was accepted.
        await self.accept()
        try:
            await self._look_who_it_is()
        except Unauthenticated:
            await self.close(code=SIGNED_OUT)
            return
        query = dict(parse_qsl(self.scope["query_string"].decode(errors="replace")))
        page = PAGES.get(query.get("page", "overview"))
        if page is None:
            await self.close(code=GONE)
            return
        self.page: Page = page
        self.params = page.params_of(query)
        self.seen = Seen()
        self.told = asyncio.Event()
        self.news = Subscription()
        try:
            self.topics = [await in_thread(page.topic, self.params)]
        except NotFound:
            await self.close(code=GONE)
            return
        listener.ensure_running()
        listener.add(self.news, self.topics)
        self.drawer = asyncio.create_task(self._draw())

    async def disconnect(self, code: int) -> None:
        """Stop drawing."""
        if hasattr(self, "drawer"):
            listener.remove(self.news, self.topics)
            self.drawer.cancel()

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        """Hear, once, what the browser has on its screen: {"have": [[id, version, list], ...]}."""
        if self.told.is_set() or not text_data:
            return
        with contextlib.suppress(*_NO_LIST):
            told = json.loads(text_data).get("have") or []
            self.seen = Seen.of(told[:MOST_TOLD])
        self.told.set()

    async def _look_who_it_is(self) -> None:
        """Note what the person may do; raises Unauthenticated, nobody is signed in."""
        key = self.scope["session"].session_key or ""
        self.may_act = (await in_thread(origin.person_of, key)).is_operator
        self.looked_at = time.monotonic()

    async def _draw(self) -> None:
        try:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.told.wait(), TOLD_WITHIN_S)
            await self._follow()
        except _HungUp:
            return  # its disconnect is on the way
        except NotFound:
            await self.close(code=GONE)  # what the page was about is not there any more
        except Unauthenticated:
            await self.close(code=SIGNED_OUT)
        except (DatabaseError, InterfaceError) as error:
            # The browser comes back, again and again, and says meanwhile that it is not live.
            log.warning("page not drawn page=%s error=%s", self.page.name, type(error).__name__)
            await self.close(code=1011)
        except Exception:
            # The edge of the loop: the page says that it is not live, and comes back.
            log.exception("page not drawn page=%s", self.page.name)
            await self.close(code=1011)

    async def _follow(self) -> None:
        heard = time.monotonic()
        while True:
            began = time.monotonic()
            if began - self.looked_at >= LOOK_EVERY_S:
                await self._look_who_it_is()
            drawing = await _drawing(self.page, self.params, self.may_act, since=heard)
            # Something is sent in any case: the browser knows by it that what it shows is so.
            clock = _CLOCK % (time.time() * 1000)
            for html in messages([*changes(self.seen, drawing), clock]):
                await self._push(html)
            took_s = time.monotonic() - began
            heard = await self._heard(began + max(DRAW_EVERY_S, REST_PER_DRAWING * took_s))

    async def _push(self, html: str) -> None:
        try:
            await self.send(text_data=html)
        except (OSError, RuntimeError) as error:
            raise _HungUp from error  # a server says so when the browser is gone already

    async def _heard(self, not_before: float) -> float:
        """Wait for news of the page, and to the moment of its next drawing; return when it came."""
        deadline = time.monotonic() + REDRAW_EVERY_S
        while (left := deadline - time.monotonic()) > 0:
            event = await self.news.next(left)
            if event is not None and self._is_concerned([event, *self.news.drain()]):
                break
        heard = time.monotonic()
        await asyncio.sleep(max(GATHER_S, not_before - heard))
        if self.news.drain():
            heard = time.monotonic()
        return heard

    def _is_concerned(self, events: list[Event]) -> bool:
        lagged, self.news.lagged = self.news.lagged, False
        return lagged or any(self.page.concerns(event["kind"]) for event in events)


# The server's clock, by which the browser counts ages.
_CLOCK = '<data id="clock" value="%d" hidden></data>'


async def _drawing(page: Page, params: Any, may_act: bool, *, since: float) -> Drawing:
    """Return a drawing that was begun at `since` or later, by whoever asked for it first."""
    key = (page.name, may_act, tuple(params.values()))
    now = time.monotonic()
    for old in [k for k, (at, task) in _shared.items() if now - at > 1 and task.done()]:
        del _shared[old]
    kept = _shared.get(key)
    if kept is None or kept[0] < since:
        task = asyncio.ensure_future(in_thread(_drawn, page, dict(params), may_act))
        task.add_done_callback(_heard_out)
        kept = _shared[key] = (now, task)
    return await asyncio.shield(kept[1])


def _heard_out(task: "asyncio.Future[Drawing]") -> None:
    """Take note of a drawing that failed when all its viewers had gone meanwhile."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.debug("drawing failed error=%r", error)


def _drawn(page: Page, params: dict[str, str], may_act: bool) -> Drawing:
    return draw(page, params, may_act=may_act)[1]
