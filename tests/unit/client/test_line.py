"""One connection to the gateway, and another side that has stopped to listen."""

import base64
import hashlib
import socket
import threading
from collections.abc import Iterator

import pytest

from agentpool.client import errors, line

pytestmark = pytest.mark.timeout(30)
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


@pytest.fixture
def stalled_url() -> Iterator[str]:
    """A server that agrees to a websocket and then reads no more."""
    door = socket.socket()
    door.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    door.bind(("127.0.0.1", 0))
    door.listen(1)
    open_ones: list[socket.socket] = []

    def serve() -> None:
        near, _ = door.accept()
        open_ones.append(near)
        head = b""
        while b"\r\n\r\n" not in head:
            head += near.recv(4096)
        key = next(
            each.split(b": ")[1]
            for each in head.split(b"\r\n")
            if each.lower().startswith(b"sec-websocket-key")
        )
        accept = base64.b64encode(hashlib.sha1(key + _GUID).digest())
        near.sendall(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
        )

    server = threading.Thread(target=serve)
    server.start()
    yield f"http://127.0.0.1:{door.getsockname()[1]}"
    server.join()
    for each in (door, *open_ones):
        each.close()


def test_a_message_that_nobody_takes_holds_nobody(
    stalled_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(line, "_SEND_S", 1)
    opened = line.Line(stalled_url, ping_s=None)
    # As small as it is towards a machine that is far away, or gone.
    opened._socket.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    failed: list[errors.Unreachable] = []

    def ask() -> None:
        try:
            opened.ask({"op": "log", "text": "x" * 300_000}, within_s=1)
        except errors.Unreachable as error:
            failed.append(error)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(5)

    assert [type(each) for each in failed] == [line.gateway.NotSaid]
    assert not opened.is_open
