"""
The listener: one LISTEN a web process, and the fan-out of events to whoever waits in it.

Events reach a subscriber in order and once; one who is too slow is told of the gap and must look
again. When the database goes away the listener resumes where it stopped.
"""

import asyncio
import contextlib
import logging
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Any

import psycopg
from django.conf import settings

from agentpool.live.connect import connect_async
from agentpool.live.relay import EVENTS_CHANNEL
from agentpool.live.threads import in_thread
from agentpool.registry import counters, services

log = logging.getLogger("agentpool.listener")

EVERYTHING = "*"
QUEUE_LIMIT = 2000
RETRY_S = 0.5
# How long notifications gather that nobody in this process hears.
REST_S = 0.1
_COLUMNS = (
    "seq, at, kind, agent_type, agent_id, project, request_id::text, lease_id::text, actor, detail"
)
_NAMES = [name.split("::")[0].strip() for name in _COLUMNS.split(",")]

Event = dict[str, Any]


class Subscription:
    """
    What one reader gets: events of its topics, in order.

    lagged: events were left out because the reader was too slow; it must look again.
    """

    def __init__(self) -> None:
        self.queue: asyncio.Queue[Event] = asyncio.Queue(QUEUE_LIMIT)
        self.lagged = False

    def offer(self, event: Event) -> None:
        """This will queue an event, or note that one was left out."""
        try:
            self.queue.put_nowait(event)
        except asyncio.QueueFull:
            self.lagged = True

    async def next(self, timeout_s: float | None = None) -> Event | None:
        """Return the next event, None when none came in time."""
        try:
            return await asyncio.wait_for(self.queue.get(), timeout_s)
        except TimeoutError:
            return None

    def drain(self) -> list[Event]:
        """Return all that is there already."""
        return [self.queue.get_nowait() for _ in range(self.queue.qsize())]


class Listener:
    """Follows the event stream and hands each event to the subscriptions of its topics."""

    def __init__(self) -> None:
        self.seq = 0
        self.heard_at = 0.0
        self._topics: dict[str, set[Subscription]] = defaultdict(set)
        self._taps: list[Callable[[Sequence[Event]], None]] = []
        self._task: asyncio.Task[None] | None = None
        self._wanted = asyncio.Event()
        self._is_resting = False

    @property
    def is_following(self) -> bool:
        """Whether `seq` says where in the stream this process is."""
        return self.heard_at > 0 and not self._is_resting

    def ensure_running(self) -> None:
        """Start following in the running event loop, if it does not already."""
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run())

    @contextlib.asynccontextmanager
    async def subscribe(self, *topics: str) -> AsyncIterator[Subscription]:
        """Give a subscription to topics: "*", "agent:ID", "request:ID", "lease:ID"."""
        self.ensure_running()
        subscription = Subscription()
        self.add(subscription, topics)
        try:
            yield subscription
        finally:
            self.remove(subscription, topics)

    def tap(self, take: Callable[[Sequence[Event]], None]) -> None:
        """This will hand every batch of events to `take`, in order, before anybody else hears."""
        self._taps.append(take)
        self._wanted.set()

    def untap(self, take: Callable[[Sequence[Event]], None]) -> None:
        """This will hand `take` nothing more."""
        self._taps.remove(take)

    @property
    def is_heard(self) -> bool:
        """Whether anybody in this process wants events; else none need be read."""
        return bool(self._topics or self._taps)

    def add(self, subscription: Subscription, topics: Iterable[str]) -> None:
        """This will let a subscription hear topics, too."""
        for topic in topics:
            self._topics[topic].add(subscription)
        self._wanted.set()

    def remove(self, subscription: Subscription, topics: Iterable[str]) -> None:
        """This will let a subscription hear topics no more."""
        for topic in topics:
            self._topics[topic].discard(subscription)
            if not self._topics[topic]:
                del self._topics[topic]

    async def _run(self) -> None:
        self._wanted = asyncio.Event()  # of this loop
        ticker = asyncio.create_task(self._tick())
        try:
            while True:
                try:
                    async with await connect_async() as connection:
                        await self._follow(connection)
                except psycopg.Error as error:
                    log.warning("stream broken error=%s", type(error).__name__)
                    await asyncio.sleep(RETRY_S)
        finally:
            ticker.cancel()

    async def _follow(self, connection: psycopg.AsyncConnection[Any]) -> None:
        await connection.execute(f"LISTEN {EVENTS_CHANNEL}")
        if not self.seq:
            cursor = await connection.execute("SELECT last_seq FROM relay_state")
            row = await cursor.fetchone()
            self.seq = int(row[0]) if row else 0
        await self._catch_up(connection)
        while True:
            self.heard_at = time.monotonic()
            newest = None
            async for note in connection.notifies(timeout=5, stop_after=1):
                newest = int(note.payload)
            if newest is not None and not self.is_heard:
                self.seq = max(self.seq, newest)
                await self._rest(connection)
            elif newest is None or newest > self.seq:
                await self._catch_up(connection)

    async def _rest(self, connection: psycopg.AsyncConnection[Any]) -> None:
        """Let notifications gather while nobody here hears them: each would cost its own waking."""
        self._is_resting = True
        self._wanted.clear()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._wanted.wait(), REST_S)
        if self.is_heard:
            await self._catch_up(connection)

    async def _catch_up(self, connection: psycopg.AsyncConnection[Any]) -> None:
        while True:
            cursor = await connection.execute(
                f"SELECT {_COLUMNS} FROM event_number n JOIN event e ON e.id = n.event_id"
                " WHERE n.seq > %s ORDER BY n.seq LIMIT 500",
                [self.seq],
            )
            rows = await cursor.fetchall()
            events = [dict(zip(_NAMES, row, strict=True)) for row in rows]
            for event in events:
                event["at"] = event["at"].isoformat()
            if events:
                self.seq = events[-1]["seq"]
                for take in list(self._taps):  # one may leave meanwhile
                    take(events)
            for event in events:
                self._fan_out(event)
            if len(rows) < 500:
                self._is_resting = False
                return

    def _fan_out(self, event: Event) -> None:
        topics = [EVERYTHING]
        for name in ("agent", "request", "lease"):
            if identity := event[f"{name}_id"]:
                topics.append(f"{name}:{identity}")
        # A set: one event reaches a subscription once, however many of its topics match.
        for reader in {r for topic in topics for r in self._topics.get(topic, ())}:
            reader.offer(event)

    async def _tick(self) -> None:
        """Note again and again that this process hears agents; the reaper spares them else."""
        every_s = min(5.0, settings.SUSPECT_S / 4)
        while True:
            try:
                await in_thread(services.tick_web)
                await in_thread(counters.flush)
            except Exception:
                log.warning("could not note the tick", exc_info=True)
            await asyncio.sleep(every_s)


listener = Listener()
