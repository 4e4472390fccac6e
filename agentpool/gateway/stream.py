"""
`/ws/pool/?after=SEQ`: the event stream as JSON, in order, resumable, for programs and pages.

A reader is served from the table until it has caught up, then from memory. One that falls behind is
served from the table again, from where it stopped: nothing is left out, and nothing is kept for it.
"""

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs

from django.conf import settings
from django.db import Error as DatabaseError

from agentpool.gateway import callers
from agentpool.gateway.wording import encoded
from agentpool.live.broadcast import broadcast, written
from agentpool.live.listener import EVERYTHING, Subscription, listener
from agentpool.live.outgoing import Outlet, Send, outlet
from agentpool.live.threads import in_thread
from agentpool.registry import queries, showing
from agentpool.registry.errors import Forbidden, Gone, Invalid, Refusal, Unauthenticated
from agentpool.registry.rest import READERS
from agentpool.registry.states import Scope

log = logging.getLogger("agentpool.stream")

PAGE = 500
# How long a socket may be silent: a quiet stream must be told from one that broke.
PING_EVERY_S = 20.0
# How long somebody may take to say who it is.
HELLO_S = 10.0
RETRY_S, AGAIN_S = 1.0, 0.01
TOO_SLOW = 4408


async def stream(scope: Mapping[str, Any], receive: Any, send: Send) -> None:
    """Serve one reader of the event stream."""
    if (await receive())["type"] != "websocket.connect":
        return
    await send({"type": "websocket.accept"})
    out = outlet(send)
    try:
        caller = await _caller(scope, receive)
        after = await _start(scope)
    except Refusal as refusal:
        await _refuse(out, refusal)
        return
    reader = _Reader(out, caller, after)
    feeding = asyncio.create_task(reader.feed())
    try:
        while (await receive())["type"] != "websocket.disconnect":
            pass  # a reader has nothing to say
    finally:
        reader.end()
        feeding.cancel()


class _Reader:
    """One socket that follows the stream."""

    def __init__(self, outlet: Outlet, caller: callers.Caller, after: int) -> None:
        self.outlet, self.caller, self.seq = outlet, caller, after
        self._behind = asyncio.Event()
        self._ping_at = time.monotonic() + PING_EVERY_S
        # An orchestrator's own events are chosen by a query, so it is served from the table only.
        self._owner = caller.name if caller.scope is Scope.ORCHESTRATOR else None

    def fall_behind(self) -> None:
        """This will let the feeder serve it again."""
        self._behind.set()

    def end(self) -> None:
        """This will stop serving it."""
        broadcast.leave(self)
        self.outlet.end()

    async def feed(self) -> None:
        """Serve the reader until it goes, is too slow, or may not look any more."""
        self.outlet.write(json.dumps({"ready": True, "after": self.seq}))
        with contextlib.suppress(asyncio.CancelledError):
            async with listener.subscribe(*([EVERYTHING] if self._owner else [])) as news:
                while True:
                    try:
                        await self._serve(news)
                    except Refusal as refusal:
                        await _refuse(self.outlet, refusal)
                        return
                    except DatabaseError:
                        log.warning("the table could not be read", exc_info=True)
                        await asyncio.sleep(RETRY_S)
                        continue
                    if self.outlet.full and not await self.outlet.drained(settings.SLOW_READER_S):
                        await self.outlet.close(TOO_SLOW)
                        return

    async def _serve(self, news: Subscription) -> None:
        """Bring the reader up to date, then wait until something is to be done for it."""
        self._behind.clear()
        if time.monotonic() >= self._ping_at:
            # Much may happen, and nothing of it be for this reader.
            await self._ping()
        if self._owner is None and broadcast.join(self):
            await self._idle()
            return
        if await self._read_page():
            return
        if self._owner is None:
            await asyncio.sleep(AGAIN_S)  # the listener may be faster than the page just read
            return
        await news.next(max(0.0, self._ping_at - time.monotonic()))
        news.drain()

    async def _idle(self) -> None:
        """Let the broadcast serve it until it falls behind."""
        while not self._behind.is_set():
            try:
                await asyncio.wait_for(self._behind.wait(), PING_EVERY_S)
            except TimeoutError:
                await self._ping()

    async def _read_page(self) -> bool:
        """Write the next events from the table; return whether there may be more."""
        found, seen = await in_thread(_page, self.seq, self._owner)
        for event in seen:
            self.outlet.write(written(showing.event_json(event)))
        if found:
            self.seq = found[-1].number.seq
        return len(found) == PAGE

    async def _ping(self) -> None:
        self._ping_at = time.monotonic() + PING_EVERY_S
        await callers.checks.call(self.caller)
        self.outlet.write(json.dumps({"ping": True, "after": self.seq}))


def _page(after: int, owner: str | None) -> tuple[list[Any], list[Any]]:
    found = queries.events_after(after, limit=PAGE)
    return found, found if owner is None else queries.own_events(found, name=owner)


async def _caller(scope: Mapping[str, Any], receive: Any) -> callers.Caller:
    """Return who reads: by the handshake, else by the first message, `{"token": ...}`."""
    caller = await callers.of_handshake(scope)
    if caller is None:
        try:
            event = await asyncio.wait_for(receive(), HELLO_S)
            message = json.loads(event.get("text") or "null")
            token = message["token"]
        except (TimeoutError, ValueError, TypeError, KeyError, RecursionError) as error:
            said = 'Send {"token": ...} first, or an Authorization header.'
            raise Unauthenticated(said) from error
        caller = await callers.of_token(str(token))
    if caller.scope not in READERS:
        raise Forbidden(f"The scope {caller.scope} may not read the stream.")
    return caller


async def _start(scope: Mapping[str, Any]) -> int:
    """Return the number after which to begin: the newest when none is said."""
    query = parse_qs(scope.get("query_string", b"").decode("latin-1"))
    if "after" not in query:
        return listener.seq if listener.is_following else await in_thread(queries.last_seq)
    text = query["after"][0]
    if not text.isdecimal() or len(text) > 18:
        raise Invalid("after must be a number.", errors=[("after", "Not a number.")])
    after = int(text)
    if after > await in_thread(queries.last_seq):
        # As after a restore: waiting here for that number would miss all that comes before it.
        raise Invalid("after is ahead of the stream.", errors=[("after", "No event has it yet.")])
    return after


_CLOSES: Mapping[type[Refusal], int] = {
    Invalid: 4400,
    Unauthenticated: 4401,
    Forbidden: 4403,
    Gone: 4410,
}


async def _refuse(out: Outlet, refusal: Refusal) -> None:
    out.write(encoded({"error": refusal.problem()}))
    await out.flushed()
    await out.close(_CLOSES.get(type(refusal), 4400))
