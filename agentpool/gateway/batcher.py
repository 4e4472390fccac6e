"""
The fast path: acquires and releases of this process that arrive together share one transaction.

While one batch is in the database the next one gathers, so a batch is as large as the load makes
it and a lone call waits for nobody. Each message is answered when its transaction has committed.
"""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from django.db import close_old_connections

from agentpool.registry.errors import Refusal
from balancing.services.exchange import MOST_AT_ONCE, Answer, answers
from balancing.services.exchange import Call as Call


class Batcher:
    """Gathers the calls of one event loop; one thread with one connection serves them."""

    def __init__(self) -> None:
        self._waiting: list[tuple[Call, asyncio.Future[Answer]]] = []
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="batcher")
        self._worker: asyncio.Task[None] | None = None

    async def call(self, call: Call) -> str | None:
        """Return the lease, as JSON, None: the request waits; raises Refusal."""
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((call, answer))
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        got = await answer
        if isinstance(got, Refusal):
            raise got
        return got

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            batch, self._waiting = (
                self._waiting[:MOST_AT_ONCE],
                self._waiting[MOST_AT_ONCE:],
            )
            try:
                answers = await loop.run_in_executor(
                    self._thread, _answers, [call for call, _ in batch]
                )
            except Exception as error:
                for _, answer in batch:
                    if not answer.done():
                        answer.set_exception(error)
                continue
            for (_, answer), got in zip(batch, answers, strict=True):
                if not answer.done():  # whoever hung up does not hear it; the lease expires
                    answer.set_result(got)


def _answers(calls: Sequence[Call]) -> list[Answer]:
    close_old_connections()
    try:
        return answers(calls)
    finally:
        close_old_connections()


_batchers: dict[int, Batcher] = {}


def batcher() -> Batcher:
    """Return the running event loop's batcher."""
    loop = asyncio.get_running_loop()
    return _batchers.setdefault(id(loop), Batcher())
