"""A real HTTP server that answers what a test tells it to, and remembers what it was asked."""

import http.server
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest


@dataclass
class Asked:
    """One call as it came over the wire."""

    method: str
    path: str
    params: dict[str, str]
    headers: dict[str, str]
    body: Any


@dataclass
class Server:
    """Scripted answers by route; the last answer of a route is repeated."""

    url: str = ""
    asked: list[Asked] = field(default_factory=list)
    answers: dict[str, list[tuple[int, Any, dict[str, str]]]] = field(default_factory=dict)
    # How long an answer of a route takes, in seconds; it has been asked by then.
    delays: dict[str, float] = field(default_factory=dict)

    def answer(self, route: str, body: Any, *, status: int = 200, **headers: str) -> None:
        """Add an answer to a route such as `GET /leases`."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.answers.setdefault(route, []).append((status, body, named))

    def calls_of(self, route: str) -> list[Asked]:
        """Return what was asked of a route."""
        return [each for each in self.asked if f"{each.method} {each.path}" == route]


@pytest.fixture
def server() -> Iterator[Server]:
    """A scripted control plane."""
    script = Server()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            address = urlsplit(self.path)
            if address.path == "/ws/gateway/":
                # It speaks no websockets, so the clients must speak REST.
                self.send_error(404)
                return
            length = int(self.headers.get("Content-Length") or 0)
            asked = Asked(
                method=self.command,
                path=address.path.removeprefix("/api/agent-pool"),
                params=dict(parse_qsl(address.query)),
                headers={key.lower(): value for key, value in self.headers.items()},
                body=json.loads(self.rfile.read(length)) if length else None,
            )
            script.asked.append(asked)
            time.sleep(script.delays.get(f"{asked.method} {asked.path}", 0.0))
            missing = (404, {"code": "not_found", "detail": f"no answer for {asked.path}"}, {})
            answers = script.answers.get(f"{asked.method} {asked.path}", [missing])
            status, body, headers = answers.pop(0) if len(answers) > 1 else answers[0]
            content = b"" if body is None else json.dumps(body).encode()
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def do_POST(self) -> None:
            self.do_GET()

        def do_PATCH(self) -> None:
            self.do_GET()

        def do_DELETE(self) -> None:
            self.do_GET()

        def log_message(self, *_: object) -> None:
            pass

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.daemon_threads = True
    script.url = f"http://127.0.0.1:{httpd.server_address[1]}"
    threading.Thread(target=httpd.serve_forever, args=(0.02,), daemon=True).start()
    yield script
    httpd.shutdown()
    httpd.server_close()


@pytest.fixture
def lease_json() -> Callable[..., dict[str, Any]]:
    """Return a lease as the API shows it."""

    def make(**more: Any) -> dict[str, Any]:
        return {
            "id": "11111111-1111-4111-8111-111111111111",
            "agent": {"agent_id": "bee", "endpoint": "http://bee"},
            "project": "shop",
            "status": "active",
            "fencing_token": 7,
            "acquired_at": "2026-01-01T00:00:00Z",
            "expires_at": "2026-01-01T00:02:00Z",
            "a_field_of_tomorrow": 1,
            **more,
        }

    return make
