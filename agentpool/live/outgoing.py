"""
The way out of a websocket: messages in order, without a task for each, and bounded.

A reader that does not read must cost neither memory nor anybody else's time. ASGI says nothing of
how much a server still holds for a client: daphne's `send` never waits, granian's waits until the
message is on its way. So each has an outlet of its own, and `full` means the same for all.
"""

import asyncio
import contextlib
import functools
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

Send = Callable[[dict[str, Any]], Awaitable[None]]

# What may wait for one reader beyond what the kernel and the server hold, bytes.
FULL_BYTES = 64 * 1024
# Beyond this even answers are dropped with the connection: nobody reads them.
OVERFULL_BYTES = 4 * 1024 * 1024


class Outlet:
    """What one websocket is still to be sent, over any ASGI server."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._waiting: deque[str] = deque()
        self._bytes = 0
        self._task: asyncio.Task[None] | None = None
        self._drained = asyncio.Event()
        self._drained.set()
        self.is_open = True

    @property
    def full(self) -> bool:
        """Whether the reader lags: nothing should be written that can be left out or can wait."""
        return not self._drained.is_set()

    @property
    def overfull(self) -> bool:
        """Whether what waits has no end: close."""
        return self._bytes > OVERFULL_BYTES

    async def drained(self, timeout_s: float) -> bool:
        """Wait until the reader has caught up; False: it did not in time, or is gone."""
        try:
            await asyncio.wait_for(self._drained.wait(), timeout_s)
        except TimeoutError:
            return False
        return self.is_open

    async def flushed(self) -> None:
        """Wait until the server has taken everything, before a close that would overtake it."""
        if self._task is not None:
            await asyncio.wait([self._task], timeout=1)

    def write(self, text: str) -> None:
        """This will send a message, after those before it; what comes after the end is dropped."""
        if not self.is_open:
            return
        self._waiting.append(text)
        self._bytes += len(text)
        if self._bytes > FULL_BYTES:
            self._drained.clear()
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._work())

    def write_prepared(self, message: "Prepared") -> None:
        """This will send a message that many get."""
        self.write(message.text)

    async def close(self, code: int) -> None:
        """Close the connection from this side."""
        if self.is_open:
            self.end()
            with contextlib.suppress(OSError, RuntimeError):  # it may have hung up meanwhile
                await self._send({"type": "websocket.close", "code": code})

    def end(self) -> None:
        """This will drop what waits: the other side is gone."""
        self.is_open = False
        self._waiting.clear()
        self._drained.set()
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()

    async def _work(self) -> None:
        try:
            while self._waiting:
                text = self._waiting.popleft()
                await self._send({"type": "websocket.send", "text": text})
                self._bytes -= len(text)
                if self._bytes <= FULL_BYTES // 2:
                    self._drained.set()
        except (OSError, RuntimeError):
            self.end()  # a server says so when the client hung up
        finally:
            self._task = None


class GranianOutlet(Outlet):
    """
    The same over granian, whose `send` is under way once it is called, without being awaited.

    So a message that has none before it needs neither a task nor a waking of the event loop when it
    has been sent: whether it has is looked at when the next one comes, which waits else.
    """

    def __init__(self, send: Send) -> None:
        super().__init__(send)
        # What granian made of the newest message that no task waits for.
        self._sent: Any = None

    def write(self, text: str) -> None:
        """This will send a message, after those before it; what comes after the end is dropped."""
        if not self.is_open or len(text) > FULL_BYTES or not self._is_idle():
            super().write(text)
        else:
            self._sent = self._send({"type": "websocket.send", "text": text})
            if not hasattr(self._sent, "done"):
                self._wait_for_sent()  # what is no future is an error that awaiting raises

    async def flushed(self) -> None:
        """Wait until the server has taken everything, before a close that would overtake it."""
        if not self._is_idle():
            self._wait_for_sent()
        await super().flushed()

    def end(self) -> None:
        """This will drop what waits: the other side is gone."""
        super().end()
        if self._task is None and self._sent is not None:
            self._sent.cancel()  # else a close would wait for who does not read
            self._sent = None

    def _is_idle(self) -> bool:
        """Whether all messages before are sent, and well."""
        if self._task is not None or self._sent is None:
            return self._task is None
        return bool(self._sent.done()) and self._sent.exception() is None

    def _wait_for_sent(self) -> None:
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._work())

    async def _work(self) -> None:
        try:
            if self._sent is not None:
                await self._sent
        except (OSError, RuntimeError):
            self.end()
        self._sent = None
        await super()._work()


class DaphneOutlet(Outlet):
    """
    The same over daphne: straight into Twisted's transport, which tells when it holds too much.

    Through ASGI, each message would cost a coroutine and a frame of its own, and nothing would
    ever say that the reader does not read.
    """

    def __init__(self, send: Send, protocol: Any) -> None:
        super().__init__(send)
        self._protocol, self._transport = protocol, protocol.transport
        # Neither TLS nor compression may be passed by.
        self._is_plain = (
            type(protocol.transport).__module__ == "twisted.internet.tcp"
            and not getattr(protocol.transport, "TLS", True)
            and protocol._perMessageCompress is None
        )
        # Twisted asks whoever produces to pause at 64 kB. Until now that was daphne's HTTP part,
        # which has had its last word with the upgrade.
        protocol.transport.unregisterProducer()
        protocol.transport.registerProducer(self, True)

    def write(self, text: str) -> None:
        """This will send a message, after those before it; what comes after the end is dropped."""
        self._write(self._protocol.factory.prepareMessage(text.encode()))

    def write_prepared(self, message: "Prepared") -> None:
        """This will send a message that many get; it is framed once for all of them."""
        if message.framed is None:
            message.framed = self._protocol.factory.prepareMessage(message.text.encode())
        self._write(message.framed)

    def _write(self, framed: Any) -> None:
        if not self.is_open or self._protocol.state != self._protocol.STATE_OPEN:
            return
        if self._may_write_through():
            sent = self._transport.writeSomeData(framed.payloadHybi)
            if type(sent) is int and sent == len(framed.payloadHybi):
                return
            rest = framed.payloadHybi[sent:] if type(sent) is int else framed.payloadHybi
            self._transport.write(rest)  # which also finds out that the connection is lost
            return
        self._protocol.sendPreparedMessage(framed)
        if self.full:
            self._bytes += len(framed.payload)

    def _may_write_through(self) -> bool:
        """
        Whether nothing is before this message, so that it may go to the kernel at once.

        Twisted would note each socket as one to be written, and write it in its next round: twice
        the work for each reader, and the last of 1,000 hears of an event twice as late.
        """
        transport = self._transport
        return (
            self._is_plain
            and transport.connected
            and not transport.disconnecting
            and not transport.dataBuffer
            and not transport._tempDataBuffer
            and not self._protocol.send_queue
        )

    # -- Twisted's names for a producer --------------------------------------------------------

    def pauseProducing(self) -> None:  # noqa: N802
        """This will note that the transport holds more than it likes to."""
        self._drained.clear()

    def resumeProducing(self) -> None:  # noqa: N802
        """This will note that the reader has caught up."""
        self._bytes = 0
        self._drained.set()

    def stopProducing(self) -> None:  # noqa: N802
        """This will note that the connection is gone."""
        self.end()


class Prepared:
    """A message for many: its text, and its frame once an outlet has needed one."""

    __slots__ = ("framed", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.framed: Any = None


def outlet(send: Send) -> Outlet:
    """Return the outlet for a connection that has been accepted, as its server needs it."""
    if isinstance(send, functools.partial) and send.args:
        protocol = send.args[0]
        if hasattr(protocol, "sendPreparedMessage") and getattr(protocol, "transport", None):
            return DaphneOutlet(send, protocol)
    if type(getattr(send, "__self__", None)).__module__ == "granian._granian":
        return GranianOutlet(send)
    return Outlet(send)
