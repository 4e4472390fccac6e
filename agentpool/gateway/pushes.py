"""
Pushes what happens to whoever speaks on a connection: offers, commands, losses, grants, ends.

They come from the event stream, so they follow the commit that caused them. A reader that does
not keep up is sent everything that is still open instead of what was left out.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import Error as DatabaseError

from agentpool.gateway import ops
from agentpool.gateway.keeping import Keeper
from agentpool.gateway.session import Session
from agentpool.gateway.wording import encoded
from agentpool.live.listener import Event, Subscription, listener
from agentpool.live.outgoing import Outlet
from agentpool.live.threads import in_thread
from agentpool.registry.errors import NotFound, Refusal
from balancing.services.heartbeats import resize_command

log = logging.getLogger("agentpool.gateway")

_LOST = {"lease.lost", "lease.expired", "lease.cancelled"}
# What may be the answer to a request that waits: a lease, or its end.
_ANSWERS = {
    "lease.offered",
    "lease.active",
    "request.timed_out",
    "request.cancelled",
    "request.refused",
    "request.failed",
}
_STATUS = {"agent.draining", "agent.retired"}


class Pusher:
    """The pushes of one connection; `too_slow` is called when its reader does not catch up."""

    def __init__(self, session: Session, outlet: Outlet, *, too_slow: Callable[[], None]) -> None:
        self._session, self._outlet, self._too_slow = session, outlet, too_slow
        self._news = Subscription()
        self._topics: set[str] = set()
        listener.ensure_running()
        self._task = asyncio.create_task(self._run())
        self._urgent: set[asyncio.Task[None]] = set()
        self._keeper = Keeper()

    def listen(self, topic: str) -> None:
        """This will push the news of a topic, too."""
        self._topics.add(topic)
        listener.add(self._news, [topic])

    def forget(self, topic: str) -> None:
        """This will push no more news of a topic."""
        self._topics.discard(topic)
        listener.remove(self._news, [topic])
        kind, _, id = topic.partition(":")
        if kind == "request":
            self._keeper.drop(UUID(id))

    def end(self) -> None:
        """This will stop listening."""
        listener.remove(self._news, self._topics)
        self._topics.clear()
        self._keeper.end()
        for task in (self._task, *self._urgent):
            task.cancel()

    async def follow(self, request_id: str, *, wait_s: float, ttl_s: float) -> None:
        """
        Push what becomes of a request, and keep it waiting for as long as the connection is open.

        One that waited `wait_s` in vain becomes urgent.
        """
        self.listen(f"request:{request_id}")
        speaker = self._session.orchestrator
        if speaker is not None:
            self._keeper.keep(UUID(request_id), ttl_s=ttl_s, credential=speaker.credential)
        if wait_s > 0:
            task = asyncio.create_task(self._make_urgent(request_id, wait_s))
            self._urgent.add(task)
            task.add_done_callback(self._urgent.discard)
        # Granted between the commit and now? Then no event will come any more.
        await self._push_answer(request_id)

    async def _make_urgent(self, request_id: str, wait_s: float) -> None:
        await asyncio.sleep(wait_s)
        if f"request:{request_id}" in self._topics:
            with contextlib.suppress(DatabaseError):
                await in_thread(ops.mark_urgent, request_id)

    async def _run(self) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            while True:
                event = await self._news.next()
                if self._outlet.full and not await self._outlet.drained(settings.SLOW_READER_S):
                    self._too_slow()
                    return
                try:
                    if self._news.lagged:
                        await self._push_all()
                    elif event is not None:
                        await self._push_event(event)
                except NotFound:
                    continue  # what it was about has been removed since
                except (Refusal, DatabaseError):
                    log.warning("could not push event=%s", event, exc_info=True)

    async def _push_all(self) -> None:
        """Send everything that is still open: this reader was too slow, events were left out."""
        self._news.lagged = False
        self._news.drain()
        for agent_id in list(self._session.agents):
            still_open = await in_thread(ops.open_of, agent_id)
            for offer in still_open["offers"]:
                self._push("offer", agent_id=agent_id, offer=offer)
            for command in still_open["commands"]:
                self._push("command", agent_id=agent_id, command=command)
        for topic in list(self._topics):
            if topic.startswith("request:"):
                await self._push_answer(topic.removeprefix("request:"))

    async def _push_event(self, event: Event) -> None:
        kind, agent_id = event["kind"], event["agent_id"]
        if agent_id in self._session.agents:
            if kind == "lease.offered":
                offer = await in_thread(ops.offer_of, event["lease_id"])
                if offer is not None:
                    self._push("offer", agent_id=agent_id, offer=offer)
            elif kind in _LOST:
                self._push("lease_lost", agent_id=agent_id, **_loss(event))
            elif kind in ("lease.resized", "lease.resize_asked"):
                command = resize_command(event["lease_id"] or "", event["detail"])
                self._push("command", agent_id=agent_id, command=command)
            elif kind in _STATUS:
                for command in await in_thread(ops.commands_of, agent_id):
                    self._push("command", agent_id=agent_id, command=command)
        if kind in _ANSWERS and event["request_id"]:
            await self._push_answer(event["request_id"])

    async def _push_answer(self, request_id: str) -> None:
        topic = f"request:{request_id}"
        if topic not in self._topics:
            return
        answer = await in_thread(ops.answer_of, request_id)
        if answer is not None and topic in self._topics:
            self.forget(topic)
            self._outlet.write(encoded(answer))

    def _push(self, name: str, **fields: Any) -> None:
        self._outlet.write(encoded({"push": name, **fields}))


def _loss(event: Event) -> dict[str, Any]:
    detail = event["detail"]
    return {
        "lease_id": event["lease_id"],
        "fencing_token": detail.get("fencing_token"),
        "reason": detail.get("error") or event["kind"],
    }
