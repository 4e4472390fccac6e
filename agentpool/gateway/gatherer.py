"""
Gathers calls that arrive together and serves them by one piece of work.

While one batch is in the database the next one gathers, so a batch is as large as the load makes
it and a lone call waits for nobody.
"""

import asyncio
import contextlib
import copy
import functools
import logging
import threading
import time
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

from balancing.services.combining import Trust

log = logging.getLogger("agentpool.gateway")

# From so many callers at once on, the next batch waits until they have called again: this long, and
# this share of what the last one took, at most.
_CROWD, _WAIT_FOR_CROWD_S, _WAIT_SHARE = 4, 0.02, 1.0

T = TypeVar("T")
R = TypeVar("R")
Tell = Callable[[R | Exception], None]


class Gatherer(Generic[T, R]):
    """
    The calls of one event loop; one thread with one connection serves them.

    Callbacks instead of tasks, and a queue instead of an executor: a batch may be as small as one
    call, which would pay for them alone.

    work: answers a batch, in its order; an error among the answers concerns its call only.
    most: of one batch; above it, answers would wait longer for their neighbours than sharing saves.
    is_first: of a crowd whose callers come back at once, these calls are a batch before the others,
    but not twice in a row: those just answered then ask for what the others do, and one batch of a
    kind costs less than two of both.
    """

    def __init__(
        self,
        work: Callable[[Sequence[T]], Sequence[R | Exception]],
        *,
        name: str,
        most: int,
        is_first: Callable[[T], bool] | None = None,
    ) -> None:
        self._serve, self._most, self._is_first = work, most, is_first
        self._waiting: list[tuple[T, Tell[R]]] = []
        # Whether there is no batch, neither in the thread nor about to begin.
        self._is_idle = True
        self._began = 0.0
        # How many calls make the crowd that is waited for, and what ends that wait in any case.
        self._crowd = 0
        self._patience: asyncio.TimerHandle | None = None
        # Whether the last crowd that was waited for has come back in time, and whether the last
        # batch was of those who go first.
        self._comes_back = self._was_first = False
        self._trust = Trust()
        self._batches: SimpleQueue[tuple[asyncio.AbstractEventLoop, list[tuple[T, Tell[R]]]]]
        self._batches = SimpleQueue()
        threading.Thread(target=self._work, name=name, daemon=True).start()

    def ask(self, wish: T, tell: Tell[R]) -> None:
        """This will tell the answer to one call; whatever befalls its batch is its error."""
        self._waiting.append((wish, tell))
        if self._is_idle:
            self._is_idle = False
            self._begin_soon()
        elif self._crowd and len(self._waiting) >= self._crowd:
            self._comes_back = True
            self._begin_soon()

    def _begin_soon(self) -> None:
        """This will begin the next batch, with all that call in this round of the event loop."""
        if self._patience is not None:
            self._patience.cancel()
        self._crowd = 0
        asyncio.get_running_loop().call_soon(self._begin)

    def _begin(self) -> None:
        """Give the thread the next batch, if anybody waits."""
        self._crowd = 0
        batch, self._waiting = self._next()
        self._is_idle = not batch
        if batch:
            self._began = time.monotonic()
            self._batches.put((asyncio.get_running_loop(), batch))

    def _next(self) -> tuple[list[tuple[T, Tell[R]]], list[tuple[T, Tell[R]]]]:
        """Return the next batch, and who waits on."""
        batch, rest = self._waiting[: self._most], self._waiting[self._most :]
        if self._is_first is None or not self._comes_back or len(batch) < _CROWD:
            return batch, rest
        first = [call for call in batch if self._is_first(call[0])]
        self._was_first = not self._was_first and 0 < len(first) < len(batch)
        if self._was_first:
            return first, [call for call in batch if not self._is_first(call[0])] + rest
        return batch, rest

    def _go_on(self, answers: Sequence[tuple[Tell[R], R | Exception]]) -> None:
        """Tell the answers of a batch, and begin the next one."""
        for tell, answer in answers:
            try:
                tell(answer)
            except Exception:
                log.exception("could not tell an answer")
        if len(answers) < _CROWD:
            self._begin()
        else:
            self._wait_for_crowd(len(answers), took=time.monotonic() - self._began)

    def _wait_for_crowd(self, answered: int, *, took: float) -> None:
        """
        Begin the next batch when those just answered have called again, or in a moment.

        One batch with them costs less than two that take turns.
        """
        self._crowd = min(self._most, answered + len(self._waiting))
        patience_s = min(_WAIT_FOR_CROWD_S, _WAIT_SHARE * took)
        self._patience = asyncio.get_running_loop().call_later(patience_s, self._give_up)

    def _give_up(self) -> None:
        """Begin without those of the crowd who have not come back."""
        self._comes_back = False
        self._begin()

    # -- in the thread -----------------------------------------------------------------------------

    def _work(self) -> None:
        while True:
            loop, batch = self._batches.get()
            answers = self._answers(batch)
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(self._go_on, answers)

    def _answers(self, batch: Sequence[tuple[T, Tell[R]]]) -> list[tuple[Tell[R], R | Exception]]:
        wishes, tells = zip(*batch, strict=True)
        try:
            with self._trust.working():
                return list(zip(tells, self._serve(wishes), strict=True))
        except Exception as error:
            return [(tell, error) for tell in tells]


class PerLoop(Generic[T, R]):
    """One gatherer for each event loop that asks for it; arguments as a gatherer's."""

    def __init__(
        self,
        work: Callable[[Sequence[T]], Sequence[R | Exception]],
        *,
        name: str,
        most: int,
        is_first: Callable[[T], bool] | None = None,
    ) -> None:
        self._work, self._name, self._most, self._is_first = work, name, most, is_first
        self._made: dict[int, Gatherer[T, R]] = {}

    def ask(self, wish: T, tell: Tell[R]) -> None:
        """This will tell the answer of the running loop's gatherer to one call."""
        loop = id(asyncio.get_running_loop())
        gatherer = self._made.get(loop)
        if gatherer is None:
            gatherer = Gatherer(
                self._work, name=self._name, most=self._most, is_first=self._is_first
            )
            self._made[loop] = gatherer
        gatherer.ask(wish, tell)

    async def call(self, wish: T) -> R:
        """Return the answer to one call; raises Refusal, and whatever befalls its batch."""
        answer: asyncio.Future[R | Exception] = asyncio.get_running_loop().create_future()
        self.ask(wish, functools.partial(_set, answer))
        got = await answer
        if isinstance(got, Exception):
            # One of its own for each caller: raising writes into an exception.
            raise copy.copy(got) from got
        return got


def _set(future: "asyncio.Future[Any]", value: Any) -> None:
    if not future.done():  # whoever hung up does not hear it
        future.set_result(value)
