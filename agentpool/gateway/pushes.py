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

from django.conf import settings
from django.db import Error as DatabaseError

from agentpool.gateway import ops
from agentpool.gateway.following import Following
from agentpool.gateway.session import Session
from agentpool.gateway.wording import encoded
from agentpool.live.listener import Event, Subscription, listener
from agentpool.live.outgoing import Outlet
from agentpool.live.threads import in_thread
from agentpool.registry.errors import NotFound, Refusal, Unauthenticated
from balancing.services.heartbeats import resize_command

log = logging.getLogger("agentpool.gateway")

_LOST = {"lease.lost", "lease.expired", "lease.cancelled"}
_STATUS = {"agent.draining", "agent.retired"}


class Pusher:
    """The pushes of one connection; `too_slow` is called when its reader does not catch up."""

    def __init__(self, session: Session, outlet: Outlet, *, too_slow: Callable[[], None]) -> None:
        self._session, self._outlet, self._too_slow = session, outlet, too_slow
        self._news = Subscription()
        self._topics: set[str] = set()
        listener.ensure_running()
        self._task = asyncio.create_task(self._run())
        self.requests = Following(session, outlet, self._news)

    def listen(self, topic: str) -> None:
        """This will push the news of a topic, too."""
        self._topics.add(topic)
        listener.add(self._news, [topic])

    def end(self) -> None:
        """This will stop listening."""
        listener.remove(self._news, self._topics)
        self._topics.clear()
        self.requests.end()
        self._task.cancel()

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
                except (NotFound, Unauthenticated):
                    continue  # what it was about, or who it was for, is not there any more
                except (Refusal, DatabaseError):
                    log.warning("could not push event=%s", event, exc_info=True)

    async def _push_all(self) -> None:
        """Send everything that is still open: this reader was too slow, events were left out."""
        self._news.lagged = False
        self._news.drain()
        for agent_id, speaker in list(self._session.agents.items()):
            try:
                still_open = await in_thread(ops.open_of, speaker)
            except (Unauthenticated, NotFound):
                continue  # nothing is for it any more, and much for the others
            for offer in still_open["offers"]:
                self._push("offer", agent_id=agent_id, offer=offer)
            for command in still_open["commands"]:
                self._push("command", agent_id=agent_id, command=command)
        await self.requests.look_at_all()

    async def _push_event(self, event: Event) -> None:
        kind, agent_id = event["kind"], event["agent_id"]
        if speaker := self._session.agents.get(agent_id):
            if kind == "lease.offered":
                offer = await in_thread(ops.offer_of, event["lease_id"], speaker)
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
        await self.requests.hear(event)

    def _push(self, name: str, **fields: Any) -> None:
        self._outlet.write(encoded({"push": name, **fields}))


def _loss(event: Event) -> dict[str, Any]:
    detail = event["detail"]
    return {
        "lease_id": event["lease_id"],
        "fencing_token": detail.get("fencing_token"),
        "reason": detail.get("error") or event["kind"],
    }
