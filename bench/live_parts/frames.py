"""The least of a websocket client: frames put together beforehand, answers cut, not parsed."""

import asyncio
import base64
import os
import struct
from collections.abc import Mapping
from urllib.parse import urlsplit


def frame(text: bytes) -> bytes:
    """Return a text frame, masked with zeros: that costs nothing on either side."""
    size = len(text)
    if size < 126:
        head = struct.pack("!BB", 0x81, 0x80 | size)
    elif size < 65536:
        head = struct.pack("!BBH", 0x81, 0xFE, size)
    else:
        head = struct.pack("!BBQ", 0x81, 0xFF, size)
    return head + b"\0\0\0\0" + text


class Line(asyncio.Protocol):
    """One connection; `message` gets each text, pings are answered."""

    def __init__(self, url: str, path: str, headers: Mapping[str, str]) -> None:
        loop = asyncio.get_running_loop()
        self.opened: asyncio.Future[None] = loop.create_future()
        self.lost: asyncio.Future[None] = loop.create_future()
        self._request = (
            f"GET {path} HTTP/1.1\r\nHost: {urlsplit(url).netloc}\r\n"
            + "".join(f"{name}: {value}\r\n" for name, value in headers.items())
            + "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}\r\n\r\n"
        ).encode()
        self._buffer = b""
        self._is_open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Shake hands."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(self._request)

    def connection_lost(self, error: Exception | None) -> None:
        """Note that the other side has hung up."""
        if not self.opened.done():
            self.opened.set_exception(ConnectionError("no websocket"))
        if not self.lost.done():
            self.lost.set_result(None)

    def data_received(self, data: bytes) -> None:
        """Cut what came into messages."""
        buffer = self._buffer + data if self._buffer else data
        if not self._is_open:
            head, end, rest = buffer.partition(b"\r\n\r\n")
            if not end:
                self._buffer = buffer
                return
            if b" 101 " not in head[:16]:
                self.opened.set_exception(ConnectionError(head[:200].decode(errors="replace")))
                self.transport.close()
                return
            self._is_open, buffer = True, rest
            self.opened.set_result(None)
        at, most = 0, len(buffer)
        while most - at >= 2:
            size, start = buffer[at + 1], at + 2
            if size >= 126:
                form, start = ("!H", at + 4) if size == 126 else ("!Q", at + 10)
                if most < start:
                    break
                (size,) = struct.unpack_from(form, buffer, at + 2)
            if most < start + size:
                break
            self._frame(buffer[at], buffer[start : start + size])
            at = start + size
        self._buffer = buffer[at:]

    def _frame(self, head: int, body: bytes) -> None:
        if head == 0x81:
            self.message(body)
        elif head == 0x89:
            self.transport.write(b"\x8a" + frame(body)[1:])

    def message(self, text: bytes) -> None:
        """Take a message."""
        raise NotImplementedError


def address(url: str) -> tuple[str, int]:
    """Return host and port of a URL."""
    where = urlsplit(url)
    return str(where.hostname), int(where.port or 80)
