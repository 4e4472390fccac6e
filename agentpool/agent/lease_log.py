"""Carries what the work prints to the log of its lease, in order, with bounded memory."""

import random
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from agentpool.client import errors

_MOST_PENDING = 512 * 1024
# With what may follow it, well below the 512 kB that one message may have.
_MOST_PER_CALL = 32 * 1024
_MOST_CHUNKS = 100
_FIRST_BACKOFF_S = 0.2
_LONGEST_BACKOFF_S = 5.0

Send = Callable[[list[Mapping[str, Any]]], None]


class LeaseLog:
    """
    The outgoing log of one lease.

    The work never waits for the log. While the control plane is away the newest 512 kB are kept;
    what had to go is said in the log itself. A chunk whose answer got lost is sent again.
    """

    def __init__(
        self, send: Send, *, is_void: Callable[[], bool], most_chunks: int = _MOST_CHUNKS
    ) -> None:
        self._send = send
        self._is_void = is_void
        self._most_chunks = most_chunks
        self._chunks: deque[tuple[str, str]] = deque()
        self._size = 0
        self._dropped = 0
        self._ended = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def write(self, stream: str, text: str) -> None:
        """Append text of a stream, `stdout` or `stderr`."""
        if not text:
            return
        with self._changed:
            self._chunks.append((stream, text))
            self._size += len(text)
            while self._size > _MOST_PENDING and len(self._chunks) > 1:
                self._dropped += self._forget_oldest()
            self._changed.notify()

    def finish(self) -> None:
        """Return when everything is sent, or there is no use in sending it."""
        with self._changed:
            self._ended = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        backoff_s = _FIRST_BACKOFF_S
        while batch := self._next():
            while True:
                try:
                    self._send([{"stream": stream, "text": text} for stream, text in batch])
                    backoff_s = _FIRST_BACKOFF_S
                    break
                except (errors.Unreachable, errors.Unavailable, errors.RateLimited):
                    time.sleep(backoff_s * random.uniform(0.5, 1.5))
                    backoff_s = min(_LONGEST_BACKOFF_S, backoff_s * 2)
                except errors.ApiError:
                    # Refused: the log is lost, the work goes on.
                    break
                if self._is_void():
                    return

    def _next(self) -> list[tuple[str, str]]:
        """Wait for chunks and take some; none when the log has ended."""
        with self._changed:
            while not (self._chunks or self._ended):
                self._changed.wait()
            batch: list[tuple[str, str]] = []
            if self._dropped:
                batch.append(("stderr", f"[agentpool: {self._dropped} characters dropped]\n"))
                self._dropped = 0
            taken = 0
            while self._chunks and taken < _MOST_PER_CALL and len(batch) < self._most_chunks:
                batch.append(self._chunks[0])
                taken += self._forget_oldest()
            return batch

    def _forget_oldest(self) -> int:
        length = len(self._chunks.popleft()[1])
        self._size -= length
        return length
