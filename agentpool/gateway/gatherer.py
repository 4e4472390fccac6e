"""
Gathers calls that arrive together and serves them by one piece of work.

While one batch is in the database the next one gathers, so a batch is as large as the load makes
it and a lone call waits for nobody.
"""

import asyncio
import contextlib
import copy
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

from balancing.services.combining import Trust

# From so many callers at once on, the next batch waits until they have called again: this long, and
# this share of what the last one took, at most.
_CROWD, _WAIT_FOR_CROWD_S, _WAIT_SHARE = 4, 0.02, 1.0

T = TypeVar("T")
R = TypeVar("R")


class Gatherer(Generic[T, R]):
    """
    The calls of one event loop; one thread with one connection serves them.

    work: answers a batch, in its order; an error among the answers is raised where it belongs.
    most: of one batch; above it, answers would wait longer for their neighbours than sharing saves.
    """

    def __init__(
        self, work: Callable[[Sequence[T]], Sequence[R | Exception]], *, name: str, most: int
    ) -> None:
        self._serve, self._most = work, most
        self._waiting: list[tuple[T, asyncio.Future[R | Exception]]] = []
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._worker: asyncio.Task[None] | None = None
        # How many calls make the crowd that the worker waits for, and what tells it.
        self._crowd = 0
        self._is_in = asyncio.Event()
        self._trust = Trust()

    def ask(self, wish: T) -> asyncio.Future[R | Exception]:
        """Return what will be the answer to one call; whatever befalls its batch is its error."""
        answer: asyncio.Future[R | Exception] = asyncio.get_running_loop().create_future()
        self._waiting.append((wish, answer))
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        elif self._crowd and len(self._waiting) >= self._crowd:
            self._is_in.set()
        return answer

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            batch, self._waiting = self._waiting[: self._most], self._waiting[self._most :]
            wishes = [wish for wish, _ in batch]
            began = time.monotonic()
            try:
                answers = await loop.run_in_executor(self._thread, self._in_thread, wishes)
            except Exception as error:
                for _, answer in batch:
                    if not answer.done():
                        # One of its own for each caller: raising writes into an exception.
                        own = copy.copy(error)
                        own.__cause__ = error
                        answer.set_exception(own)
                continue
            for (_, answer), got in zip(batch, answers, strict=True):
                if not answer.done():  # whoever hung up does not hear it
                    answer.set_result(got)
            if len(batch) >= _CROWD:
                await self._gather(len(batch), took=time.monotonic() - began)

    async def _gather(self, answered: int, *, took: float) -> None:
        """
        Wait a moment for those just answered, who are about to call again.

        One batch with them costs less than two that take turns.
        """
        self._crowd = min(self._most, answered + len(self._waiting))
        self._is_in.clear()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._is_in.wait(), min(_WAIT_FOR_CROWD_S, _WAIT_SHARE * took))
        self._crowd = 0

    def _in_thread(self, wishes: Sequence[T]) -> Sequence[R | Exception]:
        with self._trust.working():
            return self._serve(wishes)


class PerLoop(Generic[T, R]):
    """One gatherer for each event loop that asks for it."""

    def __init__(
        self, work: Callable[[Sequence[T]], Sequence[R | Exception]], *, name: str, most: int
    ) -> None:
        self._work, self._name, self._most = work, name, most
        self._made: dict[int, Gatherer[T, R]] = {}

    def ask(self, wish: T) -> asyncio.Future[R | Exception]:
        """Return what will be the answer of the running loop's gatherer."""
        loop = id(asyncio.get_running_loop())
        gatherer = self._made.get(loop)
        if gatherer is None:
            gatherer = Gatherer(self._work, name=self._name, most=self._most)
            self._made[loop] = gatherer
        return gatherer.ask(wish)

    async def call(self, wish: T) -> R:
        """Return the answer to one call; raises Refusal, and whatever befalls its batch."""
        got = await self.ask(wish)
        if isinstance(got, Exception):
            raise got
        return got
