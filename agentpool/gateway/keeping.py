"""Keeps the requests of a connection waiting for as long as it is open (their time to live)."""

import asyncio
import contextlib
import logging
from uuid import UUID

from django.db import Error as DatabaseError

from agentpool.gateway import ops
from agentpool.gateway.gatherer import PerLoop

log = logging.getLogger("agentpool.gateway")

# How much of its time to live a request may use up before its deadline is pushed out again, and
# the least time between two looks, seconds: what falls due in between is kept in one go.
USED_SHARE, LEAST_S = 0.4, 0.25

# Of all connections whose requests fall due at about the same time, together.
_keeping: PerLoop[tuple[UUID, list[UUID]], None] = PerLoop(
    ops.keep_waiting, name="keeping", most=200
)


class Keeper:
    """
    The requests that one connection waits for.

    When the connection goes they keep what is left of their time to live: whoever comes back in
    time finds them in their place, and nobody is served who never does.
    """

    def __init__(self) -> None:
        self._due_at: dict[UUID, float] = {}
        self._every_s: dict[UUID, float] = {}
        self._credential: UUID | None = None
        self._task: asyncio.Task[None] | None = None
        self._woken = asyncio.Event()

    def keep(
        self, request_id: UUID, *, ttl_s: float, credential: UUID, at_once: bool = False
    ) -> None:
        """
        This will keep a request waiting, under a credential that must stay good.

        at_once: from now on, for it may have waited for a while already.
        """
        every_s = ttl_s * USED_SHARE
        self._every_s[request_id] = every_s
        first_s = 0 if at_once else every_s
        self._due_at[request_id] = asyncio.get_running_loop().time() + first_s
        self._credential = credential
        self._woken.set()
        if self._task is None:
            self._task = asyncio.create_task(self._run())

    def drop(self, request_id: UUID) -> None:
        """This will let a request go: it has its answer."""
        self._due_at.pop(request_id, None)
        self._every_s.pop(request_id, None)

    def end(self) -> None:
        """This will leave all requests to their time to live."""
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._woken.clear()
            next_at = min(self._due_at.values(), default=None)
            pause_s = None if next_at is None else max(LEAST_S, next_at - loop.time())
            with contextlib.suppress(TimeoutError):
                # A new request may be due before those that are here.
                await asyncio.wait_for(self._woken.wait(), pause_s)
                continue
            await self._keep_due(loop.time())

    async def _keep_due(self, now: float) -> None:
        due = [id for id, at in self._due_at.items() if at <= now + LEAST_S]
        try:
            if due and self._credential is not None:
                await _keeping.call((self._credential, due))
        except DatabaseError:
            log.warning("could not keep requests waiting count=%s", len(due), exc_info=True)
            return  # they are due still
        for id in due:
            if id in self._due_at:
                self._due_at[id] = now + self._every_s[id]
