"""
Lets threads that call at the same moment share one call: one of them makes it for all.

Who comes while nobody is at it becomes the leader and calls for all that wait; who comes meanwhile
waits, and one of these leads next. So a lone caller waits for nobody, and a hundred cost one
transaction; nobody serves others for longer than its own call takes.
"""

import copy
import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class _Place(Generic[T, R]):
    """One caller: what it wants, and what came of it."""

    def __init__(self, item: T) -> None:
        self.item = item
        self.woken = threading.Event()
        self.answer: R | None = None
        self.error: BaseException | None = None
        self.is_done = False


class Combined(Generic[T, R]):
    """A function of many, callable with one from any thread."""

    def __init__(self, call: Callable[[Sequence[T]], Sequence[R]], *, most: int) -> None:
        self._call = call
        self._most = most
        self._lock = threading.Lock()
        self._waiting: list[_Place[T, R]] = []
        self._is_led = False

    def __call__(self, item: T) -> R:
        """Return the answer to one item; raises a copy of what the call for it raised."""
        mine: _Place[T, R] = _Place(item)
        with self._lock:
            self._waiting.append(mine)
            leads = not self._is_led
            self._is_led = True
        if not leads:
            mine.woken.wait()
        if not mine.is_done:
            self._lead()
        if mine.error is not None:
            # One of its own for each thread: raising writes into an exception.
            raise copy.copy(mine.error) from mine.error
        return mine.answer  # type: ignore[return-value]

    def _lead(self) -> None:
        """Call for those that wait, oneself among them, and hand the lead to the next."""
        with self._lock:
            batch, self._waiting = self._waiting[: self._most], self._waiting[self._most :]
        try:
            answers = self._call([place.item for place in batch])
            for place, answer in zip(batch, answers, strict=True):
                place.answer = answer
        except BaseException as error:
            for place in batch:
                place.error = error
        finally:
            with self._lock:
                heir = self._waiting[0] if self._waiting else None
                self._is_led = heir is not None
            for place in batch:
                place.is_done = True
                place.woken.set()
            if heir is not None:
                heir.woken.set()
