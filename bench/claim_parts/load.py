"""
A lean load generator in a process of its own: clients of REST or the gateway, one call in flight.

Reads an order (a line of JSON) on stdin, connects, says "ready", starts at the next line, and
answers with a line of JSON. It shares the processors with what it measures, so it must cost little:
plain sockets and one epoll; bytes are put together beforehand, answers are searched, not parsed.
"""

import base64
import json
import os
import random
import resource
import select
import socket
import struct
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

TYPES = ("design", "qa", "code", "data")
PROJECTS, CYCLES = 1000, 1_000_000
_LONGEST_SHOWN = 300


def wish(strategy: str) -> dict[str, Any]:
    """
    Return what one cycle asks for: the random choice of claim_limit.pgbench.

    `default` says nothing about the choice of the agent. `least_loaded` wants what the yardstick
    does, and that is without affinity.
    """
    body: dict[str, Any] = {
        "agent_type": random.choice(TYPES),
        "project": f"project-{random.randrange(PROJECTS)}",
        "cycle_id": f"cycle-{random.randrange(CYCLES)}",
        "requirements": {"memory_mb": 512 * random.randint(1, 4), "special_tools": ["git"]},
    }
    if strategy != "default":
        body |= {"strategy": strategy, "affinity": "none"}
    return body


class Run:
    """One measured stretch: when it ends, and what the clients have seen."""

    def __init__(self, order: dict[str, Any]) -> None:
        self.order = order
        self.until = 0.0
        self.in_time = 0
        self.taken_us: list[int] = []
        self.errors: Counter[str] = Counter()

    def note_cycle(self, began: float) -> bool:
        """Count a finished cycle; return whether to go on."""
        now = time.perf_counter()
        self.taken_us.append(round((now - began) * 1e6))
        self.in_time += now <= self.until
        return now < self.until

    def report(self) -> dict[str, Any]:
        """Return what the bench is told."""
        return {
            "cycles": len(self.taken_us),
            "in_time": self.in_time,
            "taken_us": self.taken_us,
            "errors": dict(self.errors),
        }


class Client:
    """One connection that acquires and releases until the time is over."""

    def __init__(self, run: Run, connection: socket.socket) -> None:
        self.run, self.connection = run, connection
        self.is_ready = self.is_done = False
        self.bodies = [json.dumps(wish(run.order["strategy"])).encode() for _ in range(200)]
        self.buffer = b""
        self.holds = False
        self.began = 0.0

    def start(self) -> None:
        """This will begin a cycle."""
        self.began = time.perf_counter()
        self.holds = False
        self.send_acquire(random.choice(self.bodies))

    def answered(self, ok: bool, answer: bytes) -> None:
        """Take the answer to the call in flight: go on, or stop at an error or the end."""
        if not ok:
            self.run.errors[answer[:_LONGEST_SHOWN].decode(errors="replace")] += 1
            self.stop()
        elif not self.holds:
            self.holds = True
            token = _between(answer, b'"fencing_token"', b",").lstrip(b": ")
            self.send_release(self.lease_id(answer), token)
        elif self.run.note_cycle(self.began):
            self.start()
        else:
            self.stop()

    def stop(self) -> None:
        """This will end the client."""
        self.is_done = True

    def read(self) -> None:
        """Take what has arrived, or note that the server has hung up."""
        data = self.connection.recv(8_192)
        if data:
            self.received(data)
        elif not self.is_done:
            self.run.errors["connection lost"] += 1
            self.stop()

    def received(self, data: bytes) -> None:
        """Take bytes that have arrived."""
        raise NotImplementedError

    def send_acquire(self, body: bytes) -> None:
        """This will ask for an agent."""
        raise NotImplementedError

    def send_release(self, lease: bytes, token: bytes) -> None:
        """This will give it back."""
        raise NotImplementedError

    def lease_id(self, answer: bytes) -> bytes:
        """Return the id of the lease in an answer."""
        raise NotImplementedError


class Rest(Client):
    """HTTP/1.1, the connection kept."""

    def __init__(self, run: Run, connection: socket.socket) -> None:
        super().__init__(run, connection)
        order = run.order
        self.head = (
            f"Host: {urlsplit(order['url']).netloc}\r\nAuthorization: Bearer {order['token']}\r\n"
            "Content-Type: application/json\r\nContent-Length: "
        ).encode()
        self.is_ready = True

    def send_acquire(self, body: bytes) -> None:
        """This will ask for an agent."""
        self._post(b"/api/agent-pool/requests", body)

    def send_release(self, lease: bytes, token: bytes) -> None:
        """This will give it back."""
        self._post(b"/api/agent-pool/leases/%s/release" % lease, b'{"fencing_token":%s}' % token)

    def lease_id(self, answer: bytes) -> bytes:
        """Return the id of the lease in an answer."""
        return _between(answer, b'"id"', b",").strip(b': "')

    def _post(self, path: bytes, body: bytes) -> None:
        head = b"POST %s HTTP/1.1\r\n%s%d\r\n\r\n" % (path, self.head, len(body))
        self.connection.sendall(head + body)

    def received(self, data: bytes) -> None:
        """Take an answer when all of it is there."""
        self.buffer += data
        head, end, body = self.buffer.partition(b"\r\n\r\n")
        if not end:
            return
        if len(body) >= int(_between(head.lower(), b"content-length:", b"\r\n")):
            self.buffer = b""
            wanted = b" 200 " if self.holds else b" 201 "
            self.answered(wanted in head[:16], body if wanted in head[:16] else head[:16] + body)


class Gateway(Client):
    """The websocket, an op at a time; frames are masked with zeros, which costs nothing."""

    def __init__(self, run: Run, connection: socket.socket) -> None:
        """Shake hands; the token in the handshake says hello."""
        super().__init__(run, connection)
        self.is_open = False
        order = run.order
        connection.sendall(
            (
                f"GET /ws/gateway/ HTTP/1.1\r\nHost: {urlsplit(order['url']).netloc}\r\n"
                f"Authorization: Bearer {order['token']}\r\n"
                "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
                f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}\r\n\r\n"
            ).encode()
        )

    def send_acquire(self, body: bytes) -> None:
        """This will ask for an agent."""
        self._send(b'{"id":1,"op":"acquire",' + body[1:])

    def send_release(self, lease: bytes, token: bytes) -> None:
        """This will give it back."""
        message = b'{"id":2,"op":"release","lease_id":"%s","fencing_token":%s}' % (lease, token)
        self._send(message)

    def lease_id(self, answer: bytes) -> bytes:
        """Return the id of the lease in an answer."""
        lease = answer[answer.find(b'"lease"') + 7 :]
        return _between(lease, b'"id"', b",").strip(b': "')

    def _send(self, text: bytes) -> None:
        size = len(text)
        length = struct.pack("!B", 0x80 | size) if size < 126 else struct.pack("!BH", 0xFE, size)
        self.connection.sendall(b"\x81" + length + b"\0\0\0\0" + text)

    def received(self, data: bytes) -> None:
        """Take each message that is there as a whole."""
        self.buffer += data
        if not self.is_open:
            head, end, rest = self.buffer.partition(b"\r\n\r\n")
            if not end:
                return
            self.is_open, self.buffer = True, rest
            if b" 101 " not in head[:16]:
                self.run.errors[head[:_LONGEST_SHOWN].decode(errors="replace")] += 1
                self.stop()
        while (message := self._message()) is not None:
            self._take(message)

    def _message(self) -> bytes | None:
        if len(self.buffer) < 4:
            return None
        size, at = self.buffer[1], 2
        if size >= 126:
            form, at = ("!H", 4) if size == 126 else ("!Q", 10)
            if len(self.buffer) < at:
                return None
            size = struct.unpack_from(form, self.buffer, 2)[0]
        if len(self.buffer) < at + size:
            return None
        message, self.buffer = self.buffer[at : at + size], self.buffer[at + size :]
        return message

    def _take(self, message: bytes) -> None:
        if not self.is_ready:  # the answer to the handshake's hello
            self.is_ready = True
        elif b'"push"' not in message[:12]:
            is_ok = b'"ok": true' in message or b'"ok":true' in message
            has_lease = self.holds or b'"lease"' in message
            self.answered(is_ok and has_lease, message)


def _between(text: bytes, start: bytes, end: bytes) -> bytes:
    begin = text.find(start) + len(start)
    stop = text.find(end, begin)
    return text[begin : stop if stop >= 0 else len(text)].strip()


def measure(order: dict[str, Any]) -> dict[str, Any]:
    """Connect the clients, wait for the start, run, and report."""
    kind = {"rest": Rest, "fast": Gateway}[order["path"]]
    run = Run(order)
    where = urlsplit(order["url"])
    clients: dict[int, Client] = {}
    with select.epoll() as news:
        for _ in range(order["clients"]):
            connection = socket.create_connection((where.hostname, where.port), timeout=30)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            clients[connection.fileno()] = kind(run, connection)
            news.register(connection.fileno(), select.EPOLLIN)
        _follow(news, clients, until=lambda client: client.is_ready or client.is_done)
        print(json.dumps({"ready": True}), flush=True)
        sys.stdin.readline()
        run.until = time.perf_counter() + order["seconds"]
        for client in clients.values():
            client.start()
        _follow(news, clients, until=lambda client: client.is_done)
    for client in clients.values():
        client.connection.close()
    return run.report()


def _follow(
    news: select.epoll, clients: dict[int, Client], *, until: Callable[[Client], bool]
) -> None:
    """Let the clients take what arrives until each of them is so far."""
    open_ones = {number for number, client in clients.items() if not until(client)}
    while open_ones:
        for number, _ in news.poll():
            client = clients[number]
            client.read()
            if client.is_done:
                news.unregister(number)
            if until(client):
                open_ones.discard(number)


def main() -> None:
    """Serve orders until stdin ends."""
    for line in iter(sys.stdin.readline, ""):
        before = resource.getrusage(resource.RUSAGE_SELF)
        report = measure(json.loads(line))
        after = resource.getrusage(resource.RUSAGE_SELF)
        used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        print(json.dumps({**report, "cpu_s": used}), flush=True)


if __name__ == "__main__":
    main()
