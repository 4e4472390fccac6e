"""
The viewer's websocket: after each burst of events, the changed page parts as HTML.

htmx swaps them in by their ids. Viewers with the same filters share one rendering.
"""

import asyncio
import contextlib
import time
from typing import Any
from urllib.parse import parse_qs
from uuid import UUID

from channels.generic.websocket import AsyncWebsocketConsumer
from django.template.loader import render_to_string

from agentpool.console import pictures, reasons
from agentpool.live.listener import EVERYTHING, Subscription, listener
from agentpool.live.threads import in_thread
from agentpool.registry.errors import NotFound

# Bursts are drawn once: a person reads no faster, and 1,000 events a second stay cheap.
COALESCE_S = 0.25
# Ages and waits grow without any event.
REDRAW_EVERY_S = 10.0

_shared: dict[tuple[str, ...], tuple[float, "asyncio.Future[str]"]] = {}


class ConsoleSocket(AsyncWebsocketConsumer):
    """One open page of one person: `?lease=ID`, `?request=ID`, else the pool with its filters."""

    async def connect(self) -> None:
        """Accept people who are logged in."""
        user = self.scope.get("user")
        if user is None or not user.is_authenticated:
            await self.close(code=4401)
            return
        query = {k: v[0] for k, v in parse_qs(self.scope["query_string"].decode()).items()}
        self.lease_id = _uuid(query.get("lease"))
        self.filters = pictures.filters_of(query)
        self.request_id = _uuid(query.get("request"))
        self.topics = [self._topic()]
        self.news = Subscription()
        listener.ensure_running()
        listener.add(self.news, self.topics)
        await self.accept()
        self.drawer = asyncio.create_task(self._draw())

    def _topic(self) -> str:
        if self.lease_id is not None:
            return f"lease:{self.lease_id}"
        return EVERYTHING if self.request_id is None else f"request:{self.request_id}"

    async def disconnect(self, code: int) -> None:
        """Stop drawing."""
        if hasattr(self, "drawer"):
            listener.remove(self.news, self.topics)
            self.drawer.cancel()

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        """Take nothing: this socket only shows."""

    async def _draw(self) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            while True:
                html = await self._html()
                await self.send(text_data=html)
                await self.news.next(REDRAW_EVERY_S)
                await asyncio.sleep(COALESCE_S)
                self.news.drain()

    async def _html(self) -> str:
        if self.lease_id is not None:
            return await in_thread(_lease_html, self.lease_id)
        if self.request_id is not None:
            return await in_thread(_request_html, self.request_id)
        return await _shared_html(self.filters)


async def _shared_html(filters: dict[str, str]) -> str:
    """Return the page parts for these filters, rendered at most once per COALESCE_S."""
    key = tuple(filters.values())
    now = time.monotonic()
    for old in [k for k, (at, _) in _shared.items() if now - at > COALESCE_S]:
        del _shared[old]
    if key not in _shared:
        _shared[key] = (now, asyncio.ensure_future(in_thread(_pool_html, dict(filters))))
    return await asyncio.shield(_shared[key][1])


def _pool_html(filters: dict[str, str]) -> str:
    return render_to_string("console/_push.html", pictures.pool_picture(filters))


def _lease_html(lease_id: UUID) -> str:
    try:
        context: dict[str, Any] = pictures.lease_picture(lease_id)
    except NotFound:
        return ""
    return render_to_string("console/_push_lease.html", context)


def _request_html(request_id: UUID) -> str:
    try:
        context = reasons.request_picture(request_id)
    except NotFound:
        return ""
    return render_to_string("console/_push_request.html", context)


def _uuid(text: str | None) -> UUID | None:
    try:
        return UUID(text) if text else None
    except ValueError:
        return None
