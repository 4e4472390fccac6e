"""
The doors out of a sandbox without a network: a filtering proxy, and the origin of the workspace.

Each is a socket in the lease's folder, served by this runtime. Inside, a loopback port leads to
it (`inside.py`). Names are resolved here, so the sandbox needs no resolver; only hosts on the list
are reached, and of a host's addresses none that belongs to this machine or its neighbourhood.
"""

import asyncio
import contextlib
import ipaddress
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import psutil

from agentpool.agent.isolation import Incident
from agentpool.agent.isolation.policy import allows_host

PROXY_PORT, ORIGIN_PORT = 3128, 9418
ORIGIN_URL = f"git://127.0.0.1:{ORIGIN_PORT}/origin"
_HEAD_BYTES = 64 * 1024
_HEAD_S, _CONNECT_S = 30.0, 15.0
_CHUNK = 64 * 1024
# Connections of one lease: each takes descriptors, and git processes, of the runtime.
_MOST_OPEN, _MOST_GITS = 64, 16

T = TypeVar("T")
Note = Callable[[Incident], None]


class Proxy:
    """HTTP proxy for one lease: CONNECT and plain requests to the hosts on its list."""

    def __init__(self, *, socket_path: Path, hosts: Sequence[str], note: Note) -> None:
        self._path = socket_path
        self._hosts = hosts
        self._note = note
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.Task[Any]] = set()

    def open(self) -> None:
        """Begin to listen."""
        self._server = _loop().run(self._listen())

    def close(self) -> None:
        """Stop, and cut what is open."""
        if self._server is not None:
            _loop().run(self._end(self._server))

    async def _listen(self) -> asyncio.Server:
        return await asyncio.start_unix_server(
            self._serve, sock=_door(self._path), limit=_HEAD_BYTES
        )

    async def _end(self, server: asyncio.Server) -> None:
        server.close()
        for each in self._open:
            each.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A task that ends as cancelled would be logged by asyncio, for each connection of the work.
        broken = (OSError, asyncio.IncompleteReadError, TimeoutError, asyncio.CancelledError)
        task = asyncio.current_task()
        if task is None or len(self._open) >= _MOST_OPEN:
            writer.close()
            return
        self._open.add(task)
        task.add_done_callback(self._open.discard)
        with contextlib.closing(writer), contextlib.suppress(*broken):
            await self._answer(reader, writer)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), _HEAD_S)
            method, target, version = head.split(b"\r\n", 1)[0].decode("ascii").split(" ")
            host, port, rest = _target(method, target)
        except (ValueError, UnicodeError, asyncio.LimitOverrunError):
            _refuse(writer, 400, "this is no request to a proxy")
            return
        if not allows_host(host, port, self._hosts):
            self._note(Incident(kind="denied_network", detail=f"{host} port {port}"))
            said = f"{host}:{port} is not among the hosts that this work may reach"
            _refuse(writer, 403, said)
            return
        try:
            far_reader, far_writer = await self._connect(host, port)
        except (OSError, UnicodeError, TimeoutError) as error:
            _refuse(writer, 502, f"{host}:{port}: {error or 'no answer in time'}")
            return
        with contextlib.closing(far_writer):
            if method == "CONNECT":
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                far_writer.write(_onward(method, target, rest, version, head))
            await asyncio.gather(_copy(reader, far_writer), _copy(far_reader, writer))

    async def _connect(
        self, host: str, port: int
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect to the first of the addresses it may reach that answers. Raises: OSError."""
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        # An address or a port that the list names is meant; a name must not lead inside by itself.
        is_named = f"{f'[{host}]' if ':' in host else host}:{port}" in self._hosts
        failed: OSError | None = None
        for family, _, _, _, address in found:
            if not (is_named or _is_elsewhere(str(address[0]))):
                continue
            try:
                opening = asyncio.open_connection(str(address[0]), port, family=family)
                return await asyncio.wait_for(opening, _CONNECT_S)
            except OSError as error:  # also when there is no answer in time
                failed = error
        if failed is not None:
            raise failed
        self._note(Incident(kind="denied_network", detail=f"{host} leads to a private address"))
        raise OSError("its addresses are private; name it with its port to allow that")


class Origin:
    """The local repository that a workspace was cloned from, served to the sandbox by git."""

    def __init__(self, *, socket_path: Path, repository: Path) -> None:
        self._path = socket_path
        self._repository = repository
        self._door: socket.socket | None = None
        self._free = threading.BoundedSemaphore(_MOST_GITS)

    def open(self) -> None:
        """Begin to listen."""
        root = self._path.parent / "origins"
        root.mkdir(exist_ok=True)
        (root / "origin").symlink_to(self._repository)
        self._door = _door(self._path)
        self._door.listen(16)
        threading.Thread(target=self._serve, args=(root,), name="origin", daemon=True).start()

    def close(self) -> None:
        """Stop."""
        if self._door is not None:
            # close() alone leaves a thread waiting in accept().
            with contextlib.suppress(OSError):
                self._door.shutdown(socket.SHUT_RDWR)
            self._door.close()

    def _serve(self, root: Path) -> None:
        door = self._door
        while door is not None:
            # More than these wait in the queue of the door.
            self._free.acquire()
            try:
                near, _ = door.accept()
            except OSError:
                return
            threading.Thread(
                target=self._run_git, args=(near, root), name="git", daemon=True
            ).start()

    def _run_git(self, near: socket.socket, root: Path) -> None:
        try:
            _run_git(near, root)
        finally:
            self._free.release()


def _door(path: Path) -> socket.socket:
    """Return a socket at a path, which may be longer than the 107 bytes that bind() takes."""
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        door = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        door.bind(f"/proc/self/fd/{folder}/{path.name}")
    finally:
        os.close(folder)
    path.chmod(0o666)  # the sandbox may be another user; nobody else sees the folder
    return door


def _run_git(near: socket.socket, root: Path) -> None:
    """Let git speak its own protocol over one connection."""
    with near:
        subprocess.run(
            [
                *("git", "daemon", "--inetd", "--strict-paths", "--export-all"),
                *("--enable=receive-pack", f"--base-path={root}", f"{root}/origin"),
            ],
            stdin=near.fileno(),
            stdout=near.fileno(),
            stderr=subprocess.DEVNULL,
            env={**os.environ, "GIT_TERMINAL_PROMPT": "0"},
            check=False,
        )
        with contextlib.suppress(OSError):
            near.shutdown(socket.SHUT_RDWR)


def proxy_variables() -> dict[str, str]:
    """Return the variables by which programs inside find the proxy."""
    url = f"http://127.0.0.1:{PROXY_PORT}"
    names = ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY", "all_proxy")
    return {**dict.fromkeys(names, url), "NO_PROXY": "127.0.0.1,localhost", "no_proxy": "127.0.0.1"}


class _Loop:
    """One event loop in one thread, for all proxies of this runtime."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, name="proxies", daemon=True).start()

    def run(self, what: Coroutine[Any, Any, T]) -> T:
        """Return what a coroutine returns that runs in the loop."""
        return asyncio.run_coroutine_threadsafe(what, self.loop).result(10)


_made: list[_Loop] = []
_making = threading.Lock()


def _loop() -> _Loop:
    with _making:
        if not _made:
            _made.append(_Loop())
        return _made[0]


def _is_elsewhere(address: str) -> bool:
    """Return whether an address belongs neither to this machine nor to its neighbourhood."""
    ours = (each.address for found in psutil.net_if_addrs().values() for each in found)
    return ipaddress.ip_address(address).is_global and address not in ours


def _target(method: str, target: str) -> tuple[str, int, str]:
    """Return host, port and the path onward. Raises: ValueError."""
    parts = urlsplit(f"//{target}" if method == "CONNECT" else target)
    if not parts.hostname or (method != "CONNECT" and parts.scheme != "http"):
        raise ValueError(target)
    if not parts.hostname.isprintable():
        # The resolver reads a name up to the first NUL: another one than the list was asked for.
        raise ValueError(target)
    port = parts.port or (443 if method == "CONNECT" else 80)
    path = f"{parts.path or '/'}{f'?{parts.query}' if parts.query else ''}"
    return parts.hostname, port, path


def _onward(method: str, target: str, path: str, version: str, head: bytes) -> bytes:
    """
    Return a request's head as the far server shall see it; one request a connection.

    It asks for the host that the list allows, not for another one that the same server has.
    """
    host = urlsplit(target).netloc.rpartition("@")[2]
    lines = head.split(b"\r\n")[1:-2]
    names = (line.partition(b":")[0].strip().lower() for line in lines)
    kept = [
        line
        for line, name in zip(lines, names, strict=True)
        if name not in (b"connection", b"host") and not name.startswith(b"proxy-")
    ]
    first = f"{method} {path} {version}\r\nHost: {host}".encode("ascii")
    return b"\r\n".join([first, *kept, b"Connection: close", b"", b""])


def _refuse(writer: asyncio.StreamWriter, status: int, said: str) -> None:
    body = f"agentpool: {said}\n".encode()
    words = {400: "Bad Request", 403: "Forbidden", 502: "Bad Gateway"}[status]
    head = f"HTTP/1.1 {status} {words}\r\nContent-Type: text/plain\r\nConnection: close\r\n"
    writer.write(head.encode() + f"Content-Length: {len(body)}\r\n\r\n".encode() + body)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(_CHUNK):
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
