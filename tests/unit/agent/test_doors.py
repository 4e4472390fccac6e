"""The proxy of a sandbox, asked by work that means no good."""

import asyncio
import contextlib
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentpool.agent.isolation import doors, inside

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


def test_a_listed_host_is_not_asked_for_another_one_that_it_may_serve(tmp_path: Path) -> None:
    """Many names stand behind one address: a plain request is for the one that the list allows."""
    with socket.create_server(("127.0.0.1", 0)) as far:
        name = f"127.0.0.1:{far.getsockname()[1]}"
        opened = doors.Proxy(socket_path=tmp_path / "door", hosts=[name], note=print)
        opened.open()
        with socket.socket(socket.AF_UNIX) as near:
            near.connect(str(tmp_path / "door"))
            asked = f"GET http://{name}/a?b HTTP/1.1\r\nHost : other.invalid\r\nAccept: c\r\n\r\n"
            near.sendall(asked.encode())
            with far.accept()[0] as taken:
                head = taken.recv(1024)
        opened.close()

    assert head.splitlines()[0] == b"GET /a?b HTTP/1.1"
    assert b"Accept: c" in head
    assert [line for line in head.splitlines() if b"host" in line.lower()] == [
        f"Host: {name}".encode()
    ]


@contextlib.contextmanager
def line_to(host: str, door: Path) -> Iterator[tuple[socket.socket, doors.Proxy]]:
    """Open a line through a proxy that lists only this host and port; asserts that it stands."""
    opened = doors.Proxy(socket_path=door, hosts=[host], note=print)
    opened.open()
    with socket.socket(socket.AF_UNIX) as near:
        near.settimeout(5)
        near.connect(str(door))
        near.sendall(f"CONNECT {host} HTTP/1.1\r\n\r\n".encode())
        assert near.recv(1024).startswith(b"HTTP/1.1 200 ")
        yield near, opened
    opened.close()


def test_a_connection_that_is_cut_by_the_end_of_its_lease_is_not_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as far,
        line_to(f"127.0.0.1:{far.getsockname()[1]}", tmp_path / "door") as (near, opened),
    ):
        opened.close()

        assert near.recv(1024) == b""
    doors._loop().run(asyncio.sleep(0.05))
    assert caplog.records == []


# In a network of its own, whose machine has an address of the world.
OWN_ADDRESS = """
import pathlib, socket, sys
from agentpool.agent.isolation import doors
far = socket.create_server(("0.0.0.0", 443))
found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.88.99.9", 443))]
socket.getaddrinfo = lambda *words, **more: found
opened = doors.Proxy(socket_path=pathlib.Path(sys.argv[1]), hosts=["a.test"], note=print)
opened.open()
near = socket.socket(socket.AF_UNIX)
near.connect(sys.argv[1])
near.sendall(b"CONNECT a.test:443 HTTP/1.1\\r\\n\\r\\n")
print(near.recv(1024).decode())
"""


def _in_own_network(script: str, *words: str) -> "subprocess.CompletedProcess[str]":
    """Run a script in a network with an address of the world; skips where none can be made."""
    made = "ip link set lo up && ip address add 192.88.99.9/32 dev lo"
    own = ["unshare", "--net", "--map-root-user", "sh", "-ec"]
    tools = [name for name in ("unshare", "ip") if shutil.which(name) is None]
    if tools:
        why = f"{' and '.join(tools)} missing: make system"
        pytest.fail(why) if os.environ.get("CI") == "true" else pytest.skip(why)
    if subprocess.run([*own, made], capture_output=True).returncode:
        pytest.skip("this host lets nobody make a network of its own")
    return subprocess.run(
        [*own, f"{made} && {script}", "sh", *words], capture_output=True, text=True, timeout=20
    )


def test_a_listed_name_that_leads_to_this_machine_is_refused(tmp_path: Path) -> None:
    words = [sys.executable, "-c", OWN_ADDRESS, str(tmp_path / "door")]
    done = _in_own_network('"$@"', *words)

    assert done.returncode == 0, done.stderr
    assert "leads to a private address" in done.stdout
    assert "HTTP/1.1 502 " in done.stdout


def test_a_host_is_tried_by_each_of_its_addresses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as far:
        port = far.getsockname()[1]
        found = [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
            for address in ("127.0.0.2", "127.0.0.1")
        ]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *words, **_: found)

        with line_to(f"a.invalid:{port}", tmp_path / "door"):
            pass


def test_an_address_with_colons_is_reached_as_it_is_listed(tmp_path: Path) -> None:
    if not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6")
    with (
        socket.create_server(("::1", 0), family=socket.AF_INET6) as far,
        line_to(f"[::1]:{far.getsockname()[1]}", tmp_path / "door"),
    ):
        pass


@pytest.fixture
def bridge(tmp_path: Path) -> Iterator[tuple[int, socket.socket]]:
    """A port inside, and the door that it is passed on to."""
    with socket.socket(socket.AF_UNIX) as door, socket.create_server(("127.0.0.1", 0)) as free:
        door.bind(str(tmp_path / "door"))
        door.listen(8)
        port = free.getsockname()[1]
        free.close()
        until, end = os.pipe()
        listening = inside.listen([(port, str(tmp_path / "door"))])
        words = {"target": inside.pass_on, "args": (listening,), "kwargs": {"until": until}}
        thread = threading.Thread(**words)
        thread.start()
        yield port, door
        os.close(end)
        thread.join()
        os.close(until)
        for opened, _ in listening.values():
            opened.close()


def test_a_stream_that_nobody_reads_holds_up_no_other(bridge: tuple[int, socket.socket]) -> None:
    port, door = bridge
    with socket.create_connection(("127.0.0.1", port)), door.accept()[0] as full:
        full.settimeout(0.5)
        with contextlib.suppress(TimeoutError):
            full.sendall(bytes(50_000_000))
        with socket.create_connection(("127.0.0.1", port)) as near, door.accept()[0] as far:
            far.sendall(b"answer")
            near.settimeout(10)

            assert near.recv(100) == b"answer"


def test_both_ways_are_passed_on_whole_at_once(bridge: tuple[int, socket.socket]) -> None:
    port, door = bridge
    sent = os.urandom(3_000_000)
    with socket.create_connection(("127.0.0.1", port)) as near, door.accept()[0] as far:
        for each in (near, far):
            threading.Thread(target=say_all, args=(each, sent), daemon=True).start()

        assert [hear_all(each) for each in (near, far)] == [sent, sent]


def say_all(end: socket.socket, sent: bytes) -> None:
    end.sendall(sent)
    end.shutdown(socket.SHUT_WR)


def hear_all(end: socket.socket) -> bytes:
    end.settimeout(10)
    return b"".join(iter(lambda: end.recv(65536), b""))


def ask(proxy: Path, line: str) -> bytes:
    with socket.socket(socket.AF_UNIX) as near:
        near.connect(str(proxy))
        near.sendall(f"{line}\r\n\r\n".encode())
        return near.recv(1024)
