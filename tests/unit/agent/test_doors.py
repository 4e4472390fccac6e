"""The proxy of a sandbox, asked by work that means no good."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentpool.agent.isolation import doors

pytestmark = pytest.mark.timeout(30)


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[Path]:
    """A door to all hosts below one name."""
    opened = doors.Proxy(
        socket_path=tmp_path / "proxy", hosts=["*.example.invalid"], note=lambda incident: None
    )
    opened.open()
    yield tmp_path / "proxy"
    opened.close()


@pytest.mark.parametrize("name", ["a..b", "a" * 70])
def test_a_name_that_is_none_is_answered_and_not_logged(
    proxy: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    """The log of the runtime is not counted as disk of the work, and must not be its to fill."""
    answer = ask(proxy, f"CONNECT {name}.example.invalid:443 HTTP/1.1")

    assert answer.startswith(b"HTTP/1.1 502 ")
    assert caplog.records == []


def test_a_name_that_ends_within_itself_is_not_looked_up(
    proxy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The resolver reads up to the first NUL, which would be a host that is not on the list."""
    looked_up = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *words, **_: looked_up.append(words) or [])

    answer = ask(proxy, "CONNECT elsewhere.test\0.example.invalid:443 HTTP/1.1")

    assert answer.startswith(b"HTTP/1.1 400 ")
    assert looked_up == []


def ask(proxy: Path, line: str) -> bytes:
    with socket.socket(socket.AF_UNIX) as near:
        near.connect(str(proxy))
        near.sendall(f"{line}\r\n\r\n".encode())
        return near.recv(1024)
