"""
Follows the requests that one connection acquired, from the asking to their end.

While one waits, also because its lease was lost, the connection keeps it waiting. Each grant that
its asker does not know of yet is pushed, and so is an end that is no release.

Most leases are granted at once and over soon: a process that has no others reads no events. So a
request is heard of only when it waits, or some time after it was granted.
"""

import asyncio
import contextlib
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.db import Error as DatabaseError

from agentpool.gateway import ops
from agentpool.gateway.keeping import Keeper
from agentpool.gateway.session import Session
from agentpool.gateway.wording import encoded
from agentpool.live.listener import Event, Subscription, listener
from agentpool.live.outgoing import Outlet
from agentpool.live.threads import in_thread
from agentpool.registry.errors import Refusal
from agentpool.registry.states import RequestStatus
from balancing.services import notes

# What grants a request that waits, and what ends one that was never granted.
_ANSWERS = {
    "lease.offered",
    "lease.active",
    "request.timed_out",
    "request.cancelled",
    "request.refused",
    "request.failed",
}
# The end of a lease: of its request, too, unless that waits again.
_ENDS = {"lease.released", "lease.lost", "lease.expired", "lease.cancelled"}
_FIRST = 1
# When it is heard of in any case; of one that lives shorter, so that it can still be kept.
HEARD_AFTER_S = 2.0
# Those that fall due within this time are heard of together.
_TOGETHER_S = 0.1


@dataclass(slots=True)
class Followed:
    """A request; told: the attempt of the newest lease that its asker knows of, 0: of none."""

    ttl_s: float
    told: int = _FIRST
    waits: bool = False


class Following:
    """The requests of one connection; `news` gets the events about them."""

    def __init__(self, session: Session, outlet: Outlet, news: Subscription) -> None:
        self._session, self._outlet, self._news = session, outlet, news
        self._followed: dict[str, Followed] = {}
        # Those not heard of yet, each with the loop's time when it will be. One timer for all, for
        # most are gone by then.
        self._unheard: dict[str, float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._keeper = Keeper()

    def begin(self, request_id: str, *, ttl_s: float, told: int = _FIRST) -> None:
        """This will follow a request; told: its lease of this attempt is answered otherwise."""
        self.forget(request_id)
        self._followed[request_id] = Followed(ttl_s, told)
        loop = asyncio.get_running_loop()
        due_at = self._unheard[request_id] = loop.time() + min(HEARD_AFTER_S, ttl_s / 2)
        if self._timer is None or due_at < self._timer.when():
            self._wake_at(due_at)

    def forget(self, request_id: str) -> None:
        """This will follow a request no more; one that is not followed is passed over."""
        if self._followed.pop(request_id, None) is None:
            return
        if self._unheard.pop(request_id, None) is None:
            listener.remove(self._news, [_topic(request_id)])
            self._keeper.drop(UUID(request_id))

    def end(self) -> None:
        """This will leave all requests to their time to live."""
        for request_id in list(self._followed):
            self.forget(request_id)
        if self._timer is not None:
            self._timer.cancel()
        self._keeper.end()
        for task in self._tasks:
            task.cancel()

    async def wait(self, request_id: str, *, wait_s: float) -> None:
        """
        Keep a request waiting for as long as the connection is open; its next grant is pushed.

        One that waits `wait_s` in vain becomes urgent.
        """
        followed = self._followed.get(request_id)
        if followed is None:
            return
        followed.told = 0
        self._wait_on(request_id, followed)
        if wait_s > 0:
            self._do(self._make_urgent(request_id, wait_s))
        # Granted between the commit and now? Its event may have been passed over.
        await self.look(request_id)

    async def hear(self, event: Event) -> None:
        """Push what an event means for a request that is followed here."""
        kind, request_id = event["kind"], event["request_id"] or ""
        followed = self._followed.get(request_id)
        if followed is None:
            return
        if kind in _ENDS and event["detail"].get("waits_again"):
            self._wait_on(request_id, followed)
        elif kind == "lease.released":
            self.forget(request_id)
        elif kind in _ENDS or (followed.waits and kind in _ANSWERS):
            await self.look(request_id)

    async def look_at_all(self) -> None:
        """Push what is not told yet of any request: events were left out."""
        told = {request_id: followed.told for request_id, followed in self._followed.items()}
        for request_id in await in_thread(ops.moved_on, told):
            await self.look(request_id)

    async def look(self, request_id: str) -> None:
        """Push a request's lease or its end, if its asker does not know of it yet."""
        followed, asker = self._followed.get(request_id), self._session.orchestrator
        if followed is None or asker is None:
            return
        answer = await in_thread(ops.answer_of, request_id, asker)
        if self._followed.get(request_id) is not followed:
            return
        if answer is None:
            self._wait_on(request_id, followed, at_once=not followed.waits)
        elif answer["push"] == "ended":
            self.forget(request_id)
            if followed.waits or answer["request"]["status"] != RequestStatus.FINISHED:
                self._outlet.write(encoded(answer))
        else:
            followed.waits = False
            self._keeper.drop(UUID(request_id))
            if answer["lease"]["attempt"] != followed.told:
                followed.told = answer["lease"]["attempt"]
                self._outlet.write(encoded(answer))

    def _hear(self, request_id: str) -> None:
        if self._unheard.pop(request_id, None) is not None:
            listener.add(self._news, [_topic(request_id)])

    def _wake_at(self, due_at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_at(due_at, self._hear_those_due)

    def _hear_those_due(self) -> None:
        """Hear of requests from now on, and look what there was before."""
        self._timer = None
        until = asyncio.get_running_loop().time() + _TOGETHER_S
        for request_id in [id for id, due_at in self._unheard.items() if due_at <= until]:
            self._hear(request_id)
            self._do(self.look(request_id))
        if self._unheard:
            self._wake_at(min(self._unheard.values()))

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(_quietly(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _wait_on(self, request_id: str, followed: Followed, *, at_once: bool = False) -> None:
        asker = self._session.orchestrator
        followed.waits = True
        self._hear(request_id)
        if asker is not None:
            self._keeper.keep(
                UUID(request_id),
                ttl_s=followed.ttl_s,
                credential=asker.credential,
                at_once=at_once,
            )

    async def _make_urgent(self, request_id: str, wait_s: float) -> None:
        await asyncio.sleep(wait_s)
        followed = self._followed.get(request_id)
        if followed is not None and not followed.told:
            await in_thread(notes.mark_urgent, UUID(request_id))


async def _quietly(work: Coroutine[Any, Any, None]) -> None:
    # What is not seen now is by the next event, or by the asker who looks.
    with contextlib.suppress(DatabaseError, Refusal):
        await work


def _topic(request_id: str) -> str:
    return f"request:{request_id}"
