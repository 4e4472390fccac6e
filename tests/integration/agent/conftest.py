"""A control plane small enough to read: the documented interface over real sockets, scriptable."""

import base64
import contextlib
import hashlib
import http.server
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

Json = dict[str, Any]
_GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_BASE = "/api/agent-pool"


class Problem(Exception):
    """An error answer."""

    def __init__(self, status: int, code: str, detail: str = "") -> None:
        super().__init__(code)
        self.status = status
        self.body = {"status": status, "code": code, "detail": detail or code, "title": code}


class Plane:
    """What a control plane keeps about one agent, and what a test may make it do."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.leases: dict[str, Json] = {}
        self.waiting_offers: list[Json] = []
        self.releases: list[Json] = []
        self.heartbeats: list[Json] = []
        self.logs: dict[str, list[Json]] = {}
        self.security: dict[str, list[Json]] = {}
        self.commands: list[Json] = []
        self.registrations: list[Json] = []
        self.retired: list[str] = []
        self.ways: list[str] = []
        self.sockets: list[WebSocket] = []
        self.incarnation = 0
        self.interval_s = 0.3
        self.term_s = 30.0
        self.has_websocket = True
        self.mute_heartbeats = False
        self._server: _Server | None = None
        self._port = 0

    # --- for tests ------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        self._server = _Server(("127.0.0.1", self._port), _Handler)
        self._server.plane = self
        self._port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """Go away: no listener, no connection."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None
        for each in list(self.sockets):
            each.close()
        self.sockets.clear()

    def offer(self, payload: Json, *, hard_end_s: float = 600.0, **more: Any) -> str:
        now = datetime.now(UTC)
        lease = {
            "id": str(uuid.uuid4()),
            "request_id": str(uuid.uuid4()),
            "attempt": 1,
            "agent": {"agent_id": "a", "endpoint": ""},
            "project": "p",
            "cycle_id": "c1",
            "phase": "code",
            "status": "offered",
            "fencing_token": len(self.leases) + 41,
            "grant": {"memory_mb": 256, "token_budget": 1000, "network": "full"},
            "profile": {
                "allowed_tools": ["git", "test_execution"],
                "network_access": "full",
                "file_access": "full",
            },
            "offered_at": now.isoformat(),
            "hard_end_at": (now + timedelta(seconds=hard_end_s)).isoformat(),
            **more,
        }
        with self.changed:
            self.leases[lease["id"]] = lease
            offer = {**lease, "payload": payload, "ack_within_s": 5}
            self.waiting_offers.append(offer)
            self.changed.notify_all()
        self.push({"push": "offer", "agent_id": "a", "offer": offer})
        return str(lease["id"])

    def push(self, message: Json) -> None:
        for each in list(self.sockets):
            with contextlib.suppress(OSError):
                each.send(json.dumps(message))

    def command(self, **command: Any) -> None:
        self.push({"push": "command", "agent_id": "a", "command": command})

    def wait(self, claim: Callable[[], object], *, within_s: float = 30.0) -> None:
        end = time.monotonic() + within_s
        with self.changed:
            while not claim():
                left = end - time.monotonic()
                assert left > 0, "it did not happen in time"
                self.changed.wait(min(left, 0.05))

    def release_of(self, lease_id: str, *, within_s: float = 30.0) -> Json:
        found: list[Json] = []

        def is_there() -> bool:
            found[:] = [each for each in self.releases if each["lease_id"] == lease_id]
            return bool(found)

        self.wait(is_there, within_s=within_s)
        return found[0]

    def printed(self, lease_id: str, stream: str | None = None) -> str:
        chunks = self.logs.get(lease_id, [])
        return "".join(each["text"] for each in chunks if stream in (None, each["stream"]))

    # --- the interface --------------------------------------------------------------------------

    def do(self, way: str, op: str, lease_id: str, body: Json) -> Json:
        with self.changed:
            self.ways.append(f"{way}:{op}")
            self.changed.notify_all()
            return dict(getattr(self, f"_{op}")(lease_id, body))

    def _register(self, _: str, body: Json) -> Json:
        self.incarnation += 1
        self.registrations.append(body)
        return {
            "id": "row-1",
            "agent_id": body["agent_id"],
            "agent_type": body["agent_type"],
            "incarnation": self.incarnation,
            "credential": f"credential-{self.incarnation}",
            "heartbeat_interval_s": self.interval_s,
        }

    def _heartbeat(self, _: str, body: Json) -> Json:
        if self.mute_heartbeats:
            raise Problem(503, "unavailable")
        if body["incarnation"] != self.incarnation:
            raise Problem(409, "lease_lost")
        self.heartbeats.append(body)
        answers, commands = [], self.commands
        self.commands = []
        for each in body["leases"]:
            lease = self.leases.get(each["lease_id"], {"status": "lost"})
            if lease["status"] != "active":
                lost = {"kind": "cancel", "lease_id": each["lease_id"], "reason": "lease_lost"}
                commands.append(lost)
            else:
                answers.append({**each, "status": "active", "expires_in_s": self.term_s})
        return {"next_heartbeat_s": self.interval_s, "commands": commands, "leases": answers}

    def _ack(self, lease_id: str, body: Json) -> Json:
        lease = self._own(lease_id, body, "offered", "active")
        now = datetime.now(UTC)
        lease["status"] = "active"
        lease["acquired_at"] = lease["acked_at"] = now.isoformat()
        lease["expires_at"] = (now + timedelta(seconds=self.term_s)).isoformat()
        self.waiting_offers = [each for each in self.waiting_offers if each["id"] != lease_id]
        return {"lease": lease}

    def _log(self, lease_id: str, body: Json) -> Json:
        self._own(lease_id, body, "active")
        self.logs.setdefault(lease_id, []).extend(body["chunks"])
        return {"bytes": 1, "dropped_bytes": 0}

    def _security(self, lease_id: str, body: Json) -> Json:
        self._own(lease_id, body, "active")
        self.security.setdefault(lease_id, []).append(body)
        return {}

    def _release(self, lease_id: str, body: Json) -> Json:
        lease = self._own(lease_id, body, "active", "offered")
        lease["status"] = "released"
        self.releases.append({**body, "lease_id": lease_id})
        return {"lease": lease}

    def _offers(self, _: str, body: Json) -> Json:
        self.changed.wait_for(lambda: self.waiting_offers, timeout=float(body["wait"]))
        return {"offers": self.waiting_offers, "commands": []}

    def _retire(self, row_id: str, _: Json) -> Json:
        self.retired.append(row_id)
        return {}

    def _own(self, lease_id: str, body: Json, *statuses: str) -> Json:
        lease = self.leases[lease_id]
        is_own = lease["fencing_token"] == body["fencing_token"]
        if not is_own or lease["status"] not in statuses:
            raise Problem(409, "lease_lost")
        return lease


class WebSocket:
    """The server's end of one websocket: text frames only."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._file = connection.makefile("rb")
        self._lock = threading.Lock()

    def send(self, text: str) -> None:
        content = text.encode()
        length = len(content)
        head = (
            bytes([0x81, length])
            if length < 126
            else bytes([0x81, 126]) + struct.pack(">H", length)
        )
        with self._lock:
            self._connection.sendall(head + content)

    def receive(self) -> str | None:
        head = self._file.read(2)
        if len(head) < 2 or head[0] & 0x0F == 8:
            return None
        length = head[1] & 0x7F
        if length == 126:
            length = struct.unpack(">H", self._file.read(2))[0]
        elif length == 127:
            length = struct.unpack(">Q", self._file.read(8))[0]
        mask, content = self._file.read(4), self._file.read(length)
        return bytes(byte ^ mask[index % 4] for index, byte in enumerate(content)).decode()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True
    plane: Plane

    def handle_error(self, *_: object) -> None:
        """A runtime that is killed breaks its connection; that is no news."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        if self.path == "/ws/gateway/":
            self._gateway()
        else:
            self._rest()

    def do_POST(self) -> None:
        self._rest()

    def do_DELETE(self) -> None:
        self._rest()

    def log_message(self, *_: object) -> None:
        pass

    def _rest(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else {}
        try:
            status, answer = self._answer(body)
        except Problem as problem:
            status, answer = problem.status, problem.body
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _answer(self, body: Json) -> tuple[int, Json]:
        plane, address = self.server.plane, urlsplit(self.path)
        parts = address.path.removeprefix(_BASE).strip("/").split("/")
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if parts == [""]:
            if token not in ("enrolment", "operator", f"credential-{plane.incarnation}"):
                raise Problem(401, "unauthenticated")
            return 201, plane.do("rest", "register", "", body)
        if token != f"credential-{plane.incarnation}":
            raise Problem(401, "unauthenticated", "cut off by a newer incarnation")
        if self.command == "DELETE":
            return 200, plane.do("rest", "retire", parts[0], body)
        if parts[0] == "leases":
            answer = plane.do("rest", parts[2], parts[1], body)
            return 200, answer.get("lease", answer)
        query = {key: values[0] for key, values in parse_qs(address.query).items()}
        return 200, plane.do("rest", parts[1], parts[0], body or query)

    def _gateway(self) -> None:
        plane = self.server.plane
        self.close_connection = True
        if not plane.has_websocket:
            self.send_error(404)
            return
        key = self.headers["Sec-WebSocket-Key"]
        accept = base64.b64encode(hashlib.sha1((key + _GUID).encode()).digest()).decode()
        self.send_response(101)
        for name, value in (
            ("Upgrade", "websocket"),
            ("Connection", "Upgrade"),
            ("Sec-WebSocket-Accept", accept),
        ):
            self.send_header(name, value)
        self.end_headers()
        channel = WebSocket(self.connection)
        with contextlib.suppress(OSError):
            while (text := channel.receive()) is not None:
                channel.send(json.dumps(self._reply(channel, json.loads(text))))
        if channel in plane.sockets:
            plane.sockets.remove(channel)

    def _reply(self, channel: WebSocket, message: Json) -> Json:
        plane, number, op = self.server.plane, message.pop("id"), message.pop("op")
        try:
            if op == "hello":
                if message["token"] != f"credential-{plane.incarnation}":
                    raise Problem(401, "unauthenticated")
                plane.sockets.append(channel)
                return {"id": number, "ok": True, "offers": plane.waiting_offers, "leases": []}
            return {
                "id": number,
                "ok": True,
                **plane.do("ws", op, message.get("lease_id", ""), message),
            }
        except Problem as problem:
            return {"id": number, "ok": False, "error": problem.body}


@pytest.fixture
def plane() -> Iterator[Plane]:
    """A control plane that listens."""
    plane = Plane()
    plane.start()
    yield plane
    plane.stop()


class Agent:
    """A real runtime process."""

    def __init__(self, plane: Plane, workdir: Path, *options: str, **env: str) -> None:
        self.plane = plane
        self.workdir = workdir
        self.stderr = workdir.with_suffix(f".{uuid.uuid4().hex[:6]}.log")
        environment = {
            **os.environ,
            "AGENTPOOL_URL": plane.url,
            "AGENTPOOL_CONFIG": str(workdir.with_suffix(".toml")),
            "AGENTPOOL_ENROLMENT_TOKEN": "enrolment",
            # What a test does not care about runs sandboxed where that can be, else bare.
            "AGENTPOOL_ALLOW_BARE": "1",
            **env,
        }
        with self.stderr.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "agentpool.agent", "--pool", "code"),
                    *("--workdir", str(workdir), *options),
                ],
                env=environment,
                stdin=subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,
            )

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def exit_code(self, *, within_s: float = 40.0) -> int:
        return self.process.wait(timeout=within_s)

    def said(self) -> str:
        return self.stderr.read_text()

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGQUIT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout=5)
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


@pytest.fixture
def agent(plane: Plane, tmp_path: Path) -> Iterator[Callable[..., Agent]]:
    """Start runtimes of this test's control plane; they are ended with it."""
    started: list[Agent] = []

    def start(*options: str, workdir: Path | None = None, **env: str) -> Agent:
        begun = Agent(plane, workdir or tmp_path / "agent", *options, **env)
        started.append(begun)
        return begun

    yield start
    for each in started:
        each.close()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A bare repository with a branch `main`, a branch `story/one` and a tag `v1`."""
    source, bare = tmp_path / "source", tmp_path / "repo.git"
    git(tmp_path, "init", "--quiet", "--initial-branch=main", str(source))
    (source / "hello.txt").write_text("hello\n")
    git(source, "add", ".")
    git(source, "commit", "--quiet", "-m", "one")
    git(source, "tag", "v1")
    git(source, "branch", "story/one")
    (source / "hello.txt").write_text("hello again\n")
    git(source, "commit", "--quiet", "-am", "two")
    git(tmp_path, "clone", "--quiet", "--bare", str(source), str(bare))
    return bare


def git(cwd: Path, *arguments: str) -> str:
    """Run git as nobody in particular."""
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(cwd),
        **{f"GIT_{who}_NAME": "t" for who in ("AUTHOR", "COMMITTER")},
        **{f"GIT_{who}_EMAIL": "t@t.invalid" for who in ("AUTHOR", "COMMITTER")},
    }
    done = subprocess.run(
        ["git", *arguments], cwd=cwd, env=env, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


@pytest.fixture
def git_command() -> Callable[..., str]:
    """Run git in a folder."""
    return git
