"""Ask the web process over HTTP how it and the jobs are, with nothing but a socket."""

import json
import socket
import time
from dataclasses import dataclass

DEFAULT_PORT = 8600
DEFAULT_BIND = "127.0.0.1"
_LARGEST_ANSWER_BYTES = 64 * 1024


@dataclass(frozen=True)
class Site:
    """The address that the web process listens on."""

    bind: str = DEFAULT_BIND
    port: int = DEFAULT_PORT

    @property
    def host(self) -> str:
        """Return the host by which this machine reaches the site."""
        return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.bind, self.bind)  # noqa: S104

    @property
    def url(self) -> str:
        """Return the address to open in a browser."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"


@dataclass(frozen=True)
class Readiness:
    """
    What /readyz says; None: it did not say.

    detail: why not, in words, for a person.
    """

    is_ok: bool = False
    database: bool | None = None
    jobs: bool | None = None
    relay: bool | None = None
    detail: str = "no answer"


def is_alive(site: Site, *, timeout_s: float = 3.0) -> bool:
    """Return whether /healthz answers 200 in time (seconds)."""
    return _get("/healthz", site=site, timeout_s=timeout_s)[0] == 200


def readiness(site: Site, *, timeout_s: float = 5.0) -> Readiness:
    """Return what /readyz says in time (seconds); a page that is not it says nothing."""
    status, body = _get("/readyz", site=site, timeout_s=timeout_s)
    try:
        parts = json.loads(body)
        said = {name: bool(parts[name]["ok"]) for name in ("database", "jobs", "relay")}
        reasons = [f"{name}: {parts[name].get('detail', '')}" for name in said if not said[name]]
    except (ValueError, KeyError, TypeError, AttributeError):
        return Readiness(detail=f"/readyz answered {status}" if status else "no answer")
    return Readiness(is_ok=status == 200, detail="; ".join(reasons), **said)


def _get(path: str, *, site: Site, timeout_s: float) -> tuple[int, bytes]:
    """Return status and body; (0, b"") when there is none. http.client would cost 4 MB."""
    deadline = time.monotonic() + timeout_s
    request = f"GET {path} HTTP/1.0\r\nHost: {site.url.removeprefix('http://')}\r\n\r\n"
    try:
        with socket.create_connection((site.host, site.port), timeout=timeout_s) as connection:
            connection.sendall(request.encode())
            answer = _read(connection, deadline=deadline)
        head, _, body = answer.partition(b"\r\n\r\n")
        return int(head.split(b" ", 2)[1]), body
    except (OSError, ValueError, IndexError):
        return 0, b""


def _read(connection: socket.socket, *, deadline: float) -> bytes:
    answer = b""
    while len(answer) < _LARGEST_ANSWER_BYTES:
        # The limit is for the whole answer: one that trickles must not hold the watch.
        connection.settimeout(max(deadline - time.monotonic(), 0.001))
        piece = connection.recv(16 * 1024)
        if not piece:
            break
        answer += piece
    return answer
