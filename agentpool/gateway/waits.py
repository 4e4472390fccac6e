"""
The waiting questions of one connection: each is answered when its request moves on, or in time.

They hold up nothing behind them, as heartbeats don't; a question is one coroutine, not a thread.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from agentpool.gateway import ops
from agentpool.gateway.session import Message, Session
from agentpool.gateway.waiting import until_settled
from agentpool.live.threads import in_thread
from agentpool.registry.api import checked
from agentpool.registry.errors import RateLimited
from balancing import serializers

# Questions of one connection that wait at a time.
MOST = 1000

Answered = Callable[[dict[str, Any], dict[str, Any] | Exception], None]


class Waits:
    """What a connection waits for; `answered` gets each message with its reply or its error."""

    def __init__(self, session: Session, answered: Answered) -> None:
        self._session, self._answered = session, answered
        self._tasks: set[asyncio.Task[None]] = set()

    def add(self, message: dict[str, Any]) -> None:
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

    async def _wait(self, message: dict[str, Any]) -> None:
        try:
            self._answered(message, await _moved_on(self._session, message))
        except Exception as error:
            self._answered(message, error)


async def _moved_on(session: Session, message: Message) -> dict[str, Any]:
    """Return the request once its status differs from `seen`, else as it is after `wait_s`."""
    asked = checked(serializers.Wait(data=ops.body_of(message)))

    def settled(first: dict[str, Any], newest: dict[str, Any]) -> bool:
        seen = asked.get("seen") or first["request"]["status"]
        return bool(newest["request"]["status"] != seen)

    return await until_settled(
        lambda: in_thread(ops.look, session, message),
        topics=[f"request:{message.get('request_id')}"],
        settled=settled,
        wait_s=asked["wait_s"],
    )
