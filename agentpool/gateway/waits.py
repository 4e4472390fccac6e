"""
The waiting questions of one connection: each is answered when its request moves on, or in time.

They hold up nothing behind them, as heartbeats don't. A question is one coroutine, not a thread,
and while nothing has changed all questions of the process are looked after by one query.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any
from uuid import UUID

from agentpool.gateway import ops
from agentpool.gateway.gatherer import PerLoop
from agentpool.gateway.session import Session, Speaker
from agentpool.gateway.waiting import LOOK_EVERY_S
from agentpool.live.listener import listener
from agentpool.registry.api import checked
from agentpool.registry.errors import RateLimited
from balancing import serializers

# Questions of one connection that wait at a time.
MOST = 5000

Message = dict[str, Any]
Answered = Callable[[Message, dict[str, Any] | Exception], None]

# Who asks after which request: the status that it has.
_statuses: PerLoop[tuple[Speaker, UUID], str] = PerLoop(ops.statuses_of, name="waits", most=1000)
# In a thread of their own: they cost the most, and may all be due at one moment.
_shown: PerLoop[UUID, dict[str, Any]] = PerLoop(ops.shown_requests, name="shown", most=50)


class Waits:
    """What a connection waits for; `answered` gets each message with its reply or its error."""

    def __init__(self, session: Session, answered: Answered) -> None:
        self._session, self._answered = session, answered
        self._tasks: set[asyncio.Task[None]] = set()

    def add(self, message: Message) -> None:
        """This will answer a message once there is something new. Raises: RateLimited."""
        if len(self._tasks) >= MOST:
            raise RateLimited(f"{MOST} questions wait here already.", retry_after_s=1)
        task = asyncio.create_task(self._wait(message))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def end(self) -> None:
        """This will forget all questions."""
        for task in self._tasks:
            task.cancel()

    async def _wait(self, message: Message) -> None:
        try:
            self._answered(message, await self._moved_on(message))
        except Exception as error:
            self._answered(message, error)

    async def _moved_on(self, message: Message) -> dict[str, Any]:
        """Return the request once its status differs from `seen`, else as it is after `wait_s`."""
        subject = ops.asked_after(self._session, message)
        asked = checked(serializers.Wait(data=ops.body_of(message)))
        deadline = time.monotonic() + asked["wait_s"]
        # Listen first: what happens between a look and a later subscription would be missed.
        async with listener.subscribe(f"request:{subject[1]}") as news:
            status = await _statuses.call(subject)
            seen = asked.get("seen") or status
            while status == seen and (left := deadline - time.monotonic()) > 0:
                await news.next(min(left, LOOK_EVERY_S))
                news.drain()
                status = await _statuses.call(subject)
        return await _shown.call(subject[1])
