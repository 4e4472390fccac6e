"""
Lets threads that call at the same moment share one call, which a thread of its own makes for all.

That thread has one connection, so that what the server has planned and read for it is there for
everybody. After a crowd it waits a moment for those just answered, who are about to call again: one
call with them costs less than two that take turns. A lone caller waits for nobody.
"""

import copy
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Generic, TypeVar

from django.db import InterfaceError, OperationalError, close_old_connections, connection

# A connection that worked a moment ago is not asked whether it works.
_TRUSTED_S = 2.0
# So many callers are a crowd. It is waited for this long, and this share of what its call took, at
# most.
_CROWD, _WAIT_FOR_CROWD_S, _WAIT_SHARE = 4, 0.02, 1.0

T = TypeVar("T")
R = TypeVar("R")


class Trust:
    """What one thread knows of its connection: when it last worked."""

    def __init__(self) -> None:
        self._used_at = float("-inf")

    @contextmanager
    def working(self) -> Iterator[None]:
        """Let the block begin with a connection that works, and not leave a broken one behind."""
        now = time.monotonic()
        if now - self._used_at > _TRUSTED_S:
            close_old_connections()  # or looks whether it still works
        self._used_at = now
        try:
            yield
        except (OperationalError, InterfaceError):
            connection.close()
            raise


class _Place(Generic[T, R]):
    """One caller: what it wants, and what came of it. The lock is held until that is known."""

    __slots__ = ("answer", "error", "item", "lock")

    def __init__(self, item: T) -> None:
        self.item = item
        self.answer: R | None = None
        self.error: BaseException | None = None
        self.lock = threading.Lock()
        self.lock.acquire()


class Combined(Generic[T, R]):
    """A function of many, callable with one from any thread."""

    def __init__(
        self, call: Callable[[Sequence[T]], Sequence[R]], *, most: int, name: str = "combined"
    ) -> None:
        self._call, self._most, self._name = call, most, name
        self._news = threading.Condition()
        self._waiting: list[_Place[T, R]] = []
        # How many callers the thread waits for; 0: it is at work.
        self._wanted = 0
        self._thread: threading.Thread | None = None

    def __call__(self, item: T) -> R:
        """Return the answer to one item; raises a copy of what the call for all raised."""
        mine: _Place[T, R] = _Place(item)
        with self._news:
            self._waiting.append(mine)
            if self._thread is None or not self._thread.is_alive():  # as after a fork
                self._thread = threading.Thread(target=self._serve, name=self._name, daemon=True)
                self._thread.start()
            elif self._wanted and len(self._waiting) >= self._wanted:
                self._news.notify()
        mine.lock.acquire()
        if mine.error is not None:
            # One of its own for each thread: raising writes into an exception.
            raise copy.copy(mine.error) from mine.error
        return mine.answer  # type: ignore[return-value]

    def _serve(self) -> None:
        trust = Trust()
        crowd, patience_s = 0, 0.0
        while True:
            batch = self._next(crowd, patience_s)
            began = time.monotonic()
            self._answer(batch, trust)
            patience_s = min(_WAIT_FOR_CROWD_S, _WAIT_SHARE * (time.monotonic() - began))
            crowd = len(batch) if len(batch) >= _CROWD else 0

    def _next(self, crowd: int, patience_s: float) -> list[_Place[T, R]]:
        """Wait for callers; for those of a crowd, who come beside others, for a moment only."""
        with self._news:
            if crowd:
                self._wanted = min(self._most, crowd + len(self._waiting))
                self._news.wait_for(lambda: len(self._waiting) >= self._wanted, patience_s)
            self._wanted = 1
            self._news.wait_for(lambda: self._waiting)
            self._wanted = 0
            batch, self._waiting = self._waiting[: self._most], self._waiting[self._most :]
        return batch

    def _answer(self, batch: Sequence[_Place[T, R]], trust: Trust) -> None:
        try:
            with trust.working():
                answers = self._call([place.item for place in batch])
            for place, answer in zip(batch, answers, strict=True):
                place.answer = answer
        except BaseException as error:
            for place in batch:
                place.error = error
        for place in batch:
            place.lock.release()
