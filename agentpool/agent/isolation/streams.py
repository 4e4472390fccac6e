"""
Many streams over one channel: what a virtual machine and its runtime say to each other.

Both ends run this file, which imports next to nothing: a guest starts with it. Each stream has a
window, so that a slow reader holds up its own stream alone, and neither end ever holds more than
that of what the other one sent. Messages are whole and few. The far end is not trusted.
"""

import os
import select

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket
    from collections.abc import Callable, Iterable

WINDOW = 256 * 1024
# Of one frame, and of what waits for the channel before more is read for it.
_PIECE, _MOST_QUEUED = 32 * 1024, 128 * 1024
_HEAD_BYTES = 9
_MESSAGE, _OPEN, _DATA, _END, _CREDIT = range(5)
# Numbers below are agreed on; those of connections are counted from here.
_FIRST_CONNECTION = 16
_MOST_STREAMS = 96
_SHUT_WRITING = 1


class Closed(Exception):
    """The channel has ended."""


class Broken(Exception):
    """The far end does not keep to the rules."""


class Stream:
    """One stream: what is read here goes there, what comes from there is written here."""

    def __init__(self, source: int, sink: int, both: "_socket.socket | None" = None) -> None:
        self.source = source
        self.sink = sink
        self.both = both
        self.credit = WINDOW
        self.held = bytearray()
        self.written = 0
        self.is_ending = sink < 0

    @property
    def is_over(self) -> bool:
        """Whether nothing goes either way any more."""
        return self.source < 0 and self.sink < 0 and self.is_ending

    def end_source(self) -> None:
        """Read no more."""
        if self.both is None and self.source >= 0:
            os.close(self.source)
        self.source = -1
        self._close()

    def end_sink(self) -> None:
        """Write no more; what still comes is dropped."""
        self.held.clear()
        if self.sink >= 0:
            if self.both is None:
                os.close(self.sink)
            else:
                _shut(self.both)
        self.sink = -1
        self._close()

    def _close(self) -> None:
        if self.both is not None and self.source < 0 and self.sink < 0:
            self.both.close()


class Exchange:
    """
    One end of a channel.

    channel: a descriptor that does not block. told: takes the messages of the far end. connect:
    returns where a connection leads that the far end opens, None: nowhere. most_message: bytes.
    """

    def __init__(
        self,
        channel: int,
        *,
        told: "Callable[[bytes], None]",
        connect: "Callable[[int], _socket.socket | None]",
        most_message: int,
    ) -> None:
        self._channel = channel
        self._told = told
        self._connect = connect
        self._most_message = most_message
        self._streams: dict[int, Stream] = {}
        self._doors: dict[int, tuple[_socket.socket, int]] = {}
        self._out, self._in = bytearray(), bytearray()
        self._next = _FIRST_CONNECTION

    def say(self, message: bytes) -> None:
        """Send a message; it goes out with the next turns."""
        self._put(_MESSAGE, 0, message)

    def carry(self, number: int, *, source: int = -1, sink: int = -1) -> None:
        """Carry a stream that both ends know; descriptors that do not block, closed at its end."""
        self._streams[number] = Stream(source, sink)

    def open_door(self, door: "_socket.socket", port: int) -> None:
        """Take connections here; the far end connects each to what it has at this port."""
        self._doors[door.fileno()] = (door, port)

    def has_ended(self, *numbers: int) -> bool:
        """Whether these streams are over."""
        return not any(number in self._streams for number in numbers)

    @property
    def is_flushed(self) -> bool:
        """Whether nothing waits to be sent."""
        return not self._out

    def turn(self, wait_s: float, watched: "Iterable[int]" = ()) -> list[int]:
        """
        Wait for something to do and do it; return which of the watched descriptors are ready.

        Raises: Closed, Broken.
        """
        readers = {s.source: n for n, s in self._streams.items() if self._may_read(s)}
        writers = {s.sink: n for n, s in self._streams.items() if s.held and s.sink >= 0}
        wanted = dict.fromkeys((*watched, *readers), select.POLLIN)
        if len(self._streams) < _MOST_STREAMS:
            wanted |= dict.fromkeys(self._doors, select.POLLIN)
        for number in writers:
            wanted[number] = wanted.get(number, 0) | select.POLLOUT
        wanted[self._channel] = select.POLLIN | (select.POLLOUT if self._out else 0)
        poll = select.poll()
        for number, mask in wanted.items():
            poll.register(number, mask)
        ready = dict(poll.poll(1000 * wait_s))
        for number, events in ready.items():
            if number in self._doors:
                self._accept(*self._doors[number])
            if number in readers and events & ~select.POLLOUT:
                self._read(readers[number])
            if number in writers and events & ~select.POLLIN:
                self._write(writers[number])
        self._serve_channel(ready.get(self._channel, 0))
        return [number for number in watched if number in ready]

    def _may_read(self, stream: Stream) -> bool:
        return stream.source >= 0 and stream.credit > 0 and len(self._out) < _MOST_QUEUED

    def _read(self, number: int) -> None:
        stream = self._streams[number]
        try:
            data = os.read(stream.source, min(_PIECE, stream.credit))
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            stream.credit -= len(data)
            self._put(_DATA, number, data)
            return
        stream.end_source()
        self._put(_END, number)
        self._forget(number)

    def _write(self, number: int) -> None:
        """Write what is held for here, and tell the far end that there is room again."""
        stream = self._streams.get(number)
        if stream is None or not stream.held or stream.sink < 0:
            return
        try:
            done = os.write(stream.sink, stream.held)
            del stream.held[:done]
        except BlockingIOError:
            return
        except OSError:  # nobody reads it any more
            done = len(stream.held)
            stream.end_sink()
        self._give_credit(number, stream, done)
        if stream.is_ending and not stream.held:
            stream.end_sink()
        self._forget(number)

    def _give_credit(self, number: int, stream: Stream, count: int) -> None:
        stream.written += count
        if stream.written >= WINDOW // 4 and not stream.is_ending:
            self._put(_CREDIT, number, stream.written.to_bytes(4, "little"))
            stream.written = 0

    def _accept(self, door: "_socket.socket", port: int) -> None:
        import _socket

        try:
            number, _ = door._accept()  # type: ignore[attr-defined]
        except OSError:
            return
        near = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM, 0, number)
        near.setblocking(False)
        self._streams[self._next] = Stream(near.fileno(), near.fileno(), near)
        self._put(_OPEN, self._next, port.to_bytes(4, "little"))
        self._next += 1

    def _serve_channel(self, events: int) -> None:
        try:
            if events & ~select.POLLOUT:
                data = os.read(self._channel, 2 * _PIECE)
                if not data:
                    raise Closed
                self._in += data
                self._take_all()
            if self._out:
                del self._out[: os.write(self._channel, self._out[: 2 * _PIECE])]
        except BlockingIOError:
            return
        except OSError as error:
            raise Closed from error

    def _put(self, kind: int, number: int, data: bytes = b"") -> None:
        head = number.to_bytes(4, "little") + len(data).to_bytes(4, "little")
        self._out += bytes([kind]) + head + data

    def _take_all(self) -> None:
        while len(self._in) >= _HEAD_BYTES:
            kind = self._in[0]
            number = int.from_bytes(self._in[1:5], "little")
            end = _HEAD_BYTES + int.from_bytes(self._in[5:9], "little")
            if end > _HEAD_BYTES + (self._most_message if kind == _MESSAGE else _PIECE):
                raise Broken("a frame is too long")
            if len(self._in) < end:
                return
            data = bytes(self._in[_HEAD_BYTES:end])
            del self._in[:end]
            self._take(kind, number, data)

    def _take(self, kind: int, number: int, data: bytes) -> None:
        if kind == _MESSAGE:
            self._told(data)
            return
        if kind == _OPEN:
            self._open(number, int.from_bytes(data, "little"))
            return
        stream = self._streams.get(number)
        if stream is None:
            return  # it has ended here, which the far end will learn
        if kind == _CREDIT:
            stream.credit = min(WINDOW, stream.credit + int.from_bytes(data, "little"))
        elif kind == _END:
            stream.is_ending = True
            if not stream.held:
                stream.end_sink()
            self._forget(number)
        elif kind == _DATA and len(stream.held) + len(data) <= WINDOW:
            if stream.sink < 0:
                self._give_credit(number, stream, len(data))
                return
            stream.held += data
            self._write(number)
        else:
            raise Broken(f"a frame of kind {kind} with {len(data)} bytes")

    def _open(self, number: int, port: int) -> None:
        if number in self._streams or len(self._streams) >= _MOST_STREAMS:
            raise Broken("more connections than there may be")
        far = self._connect(port)
        if far is None:
            if len(self._out) > WINDOW:
                raise Broken("answers that nobody reads")
            self._put(_END, number)
            return
        far.setblocking(False)
        self._streams[number] = Stream(far.fileno(), far.fileno(), far)

    def _forget(self, number: int) -> None:
        if number in self._streams and self._streams[number].is_over:
            del self._streams[number]

    def close(self) -> None:
        """Close everything that is carried."""
        for stream in self._streams.values():
            stream.end_source()
            stream.end_sink()
        self._streams.clear()


def _shut(one: "_socket.socket") -> None:
    try:  # noqa: SIM105 - contextlib would cost a guest more than all of this
        one.shutdown(_SHUT_WRITING)
    except OSError:
        pass
