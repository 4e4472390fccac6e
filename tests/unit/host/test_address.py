"""The address of the web process, the ones of databases, and the answers of health pages."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from agentpool.host import backup, ports, probes
from agentpool.host.probes import Readiness, Site


@pytest.mark.parametrize(
    ("bind", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8600"),
        ("0.0.0.0", "http://127.0.0.1:8600"),
        ("::", "http://[::1]:8600"),
        ("pool.example", "http://pool.example:8600"),
    ],
)
def test_the_shown_address_is_one_that_a_browser_here_can_open(bind: str, url: str) -> None:
    assert Site(bind=bind, port=8600).url == url


def test_a_readyz_of_503_names_the_part_that_is_not_well() -> None:
    body = (
        b'{"ok": false, "database": {"ok": true}, "jobs": {"ok": false, "detail": "stalled"},'
        b' "relay": {"ok": true}}'
    )
    with _answering(b"HTTP/1.1 503 Unavailable\r\n\r\n" + body) as site:
        found = probes.readiness(site)

    assert found == Readiness(False, True, False, True, "jobs: stalled")


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\n\r\nhello", b"nonsense"])
def test_an_answer_that_is_no_readiness_says_nothing(answer: bytes) -> None:
    with _answering(answer) as site:
        found = probes.readiness(site)

    assert (found.is_ok, found.database, found.jobs, found.relay) == (False, None, None, None)


def test_a_server_that_trickles_is_not_alive() -> None:
    with _answering(b"HTTP/1.1 200 OK\r\n", then_s=1.0) as site:
        assert probes.is_alive(site, timeout_s=0.2) is False


def test_a_port_that_somebody_listens_on_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        reason = ports.why_taken(port)

    assert reason is not None
    assert ports.why_taken(port) is None


def test_the_password_of_an_address_is_taken_out_of_it() -> None:
    found = backup._without_password("postgresql://me:a%20b@db.example:5432/pool?sslmode=require")

    assert found == ("postgresql://me@db.example:5432/pool?sslmode=require", "a b")


@contextmanager
def _answering(answer: bytes, *, then_s: float = 0.0) -> Iterator[Site]:
    """Serve one connection with these bytes, keep it open for `then_s` seconds, close it."""
    is_over = threading.Event()

    def serve() -> None:
        connection, _ = server.accept()
        with connection:
            connection.recv(1024)
            connection.sendall(answer)
            is_over.wait(then_s)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve)
        thread.start()
        yield Site(port=server.getsockname()[1])
        is_over.set()
        thread.join()


@pytest.mark.parametrize(
    ("url", "shown", "password"),
    [
        ("postgresql://u@h/d?password=p%40&a=b%20c", "postgresql://u@h/d?a=b%20c", "p@"),
        ("postgresql:///d?host=/run/pg&password=p", "postgresql:///d?host=/run/pg", "p"),
        ("postgresql://h/d", "postgresql://h/d", None),
    ],
)
def test_no_password_stands_on_a_command_line(url: str, shown: str, password: str | None) -> None:
    assert backup._without_password(url) == (shown, password)
