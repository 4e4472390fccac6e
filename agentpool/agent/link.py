"""
The way to the control plane: one gateway websocket, and plain HTTP where it can't be had.

Callers see one interface: four calls that raise `ApiError`, and messages that come by themselves.
"""

import contextlib
import json
import random
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import urlsplit

from websockets.exceptions import WebSocketException
from websockets.sync.client import ClientConnection, connect

from agentpool.agent import journal, rest
from agentpool.agent.enrolment import Identity
from agentpool.client import calls, errors, models

T = TypeVar("T")
Message = Mapping[str, Any]

_OPEN_S = 5.0
_ANSWER_S = 10.0
_LONGEST_FRAME = 4 * 2**20
_FIRST_BACKOFF_S = 0.2
_LONGEST_BACKOFF_S = 5.0
# How long an HTTP poll for offers waits; after each the websocket is tried again.
_POLL_S = 15.0


class _Pending:
    """A question on the websocket that waits for its answer."""

    def __init__(self) -> None:
        self.done = threading.Event()
        self.answer: Message | None = None


class Link:
    """
    The connection of one agent.

    `on_message` gets pushes and commands, as the gateway writes them (`{push, ...}`), in the
    link's own thread; `on_cut_off` is called when the credential is no longer good.
    """

    def __init__(
        self,
        identity: Identity,
        *,
        on_message: Callable[[Message], None],
        on_cut_off: Callable[[str], None],
    ) -> None:
        self._identity = identity
        self._on_message = on_message
        self._on_cut_off = on_cut_off
        self._socket: ClientConnection | None = None
        self._sending = threading.Lock()
        self._pending: dict[str, _Pending] = {}
        self._next_id = 0
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="link", daemon=True)

    def start(self) -> None:
        """Connect, and stay connected, in the background."""
        self._thread.start()

    def close(self) -> None:
        """Hang up."""
        self._closed.set()
        self._drop(self._socket)

    @property
    def is_live(self) -> bool:
        """Whether the websocket is up."""
        return self._socket is not None

    def heartbeat(self, *, leases: list[calls.LeaseReport], draining: bool) -> models.Heartbeat:
        """Say that the agent lives; the answer renews its leases."""
        call = calls.heartbeat(
            self._identity.agent_id,
            incarnation=self._identity.incarnation,
            leases=leases,
            draining=draining,
        )
        return self._ask("heartbeat", call)

    def ack(self, lease_id: str, *, fencing_token: int) -> models.Lease:
        """Accept an offer."""
        return self._ask("ack", calls.ack(lease_id, fencing_token=fencing_token), lease_id)

    def log(self, lease_id: str, *, fencing_token: int, chunks: list[Message]) -> None:
        """Append to the log of a lease."""
        call = calls.append_log(lease_id, fencing_token=fencing_token, chunks=chunks)
        self._ask("log", call, lease_id)

    def security(self, lease_id: str, **report: Any) -> None:
        """Tell what holds for a lease and what was refused; `report` as in `calls.security`."""
        call = calls.report_security(lease_id, **report)
        rest.send(call, url=self._identity.url, token=self._identity.credential)

    def release(self, lease_id: str, **ending: Any) -> None:
        """End a lease; `ending` as in `calls.release`."""
        self._ask("release", calls.release(lease_id, **ending), lease_id)

    def retire(self) -> None:
        """Tell the control plane that the agent is gone for good."""
        call = calls.retire_agent(self._identity.id)
        rest.send(call, url=self._identity.url, token=self._identity.credential)

    # --- one call, by the way that is open --------------------------------------------------

    def _ask(self, op: str, call: calls.Call[T], lease_id: str | None = None) -> T:
        socket = self._socket
        if socket is None:
            return rest.send(call, url=self._identity.url, token=self._identity.credential)
        fields = {"agent_id": self._identity.agent_id, **call.body}
        if lease_id is not None:
            fields["lease_id"] = lease_id
        answer = self._question(socket, op, fields)
        # A lease has an id of its own, so the gateway nests it beside the message's.
        body = answer.get("lease") if isinstance(answer.get("lease"), Mapping) else answer
        try:
            return call.parse(body)
        except ValueError:
            # An answer without the lease still says that it was done.
            return call.parse({**answer, "id": lease_id or ""})

    def _question(self, socket: ClientConnection, op: str, fields: Message) -> Message:
        """Return the answer to one message. Raises: ApiError; Unreachable, none came in time."""
        waiting = _Pending()
        with self._sending:
            self._next_id += 1
            number = str(self._next_id)
            self._pending[number] = waiting
            try:
                socket.send(rest.encoded({**fields, "id": number, "op": op}))
            except (OSError, WebSocketException) as error:
                self._pending.pop(number, None)
                self._drop(socket)
                raise errors.Unreachable(f"the websocket broke: {error}") from error
        if not waiting.done.wait(_ANSWER_S):
            # A half-open connection looks like this; a new one will tell.
            self._drop(socket)
        self._pending.pop(number, None)
        if waiting.answer is None:
            raise errors.Unreachable(f"no answer to {op}")
        if waiting.answer.get("ok") is False:
            raise _refusal(waiting.answer)
        return waiting.answer

    # --- the thread that keeps the way open -------------------------------------------------

    def _run(self) -> None:
        backoff_s = _FIRST_BACKOFF_S
        while not self._closed.is_set():
            if self._listen_until_it_breaks() or self._poll():
                backoff_s = _FIRST_BACKOFF_S
                # Agents whose server went away at one moment must not return at one moment.
                self._closed.wait(random.uniform(0, backoff_s))
                continue
            self._closed.wait(backoff_s * random.uniform(0.5, 1.5))
            backoff_s = min(_LONGEST_BACKOFF_S, backoff_s * 2)

    def _listen_until_it_breaks(self) -> bool:
        """Serve one websocket to its end; False when it could not be had at all."""
        try:
            socket = connect(
                _gateway(self._identity.url),
                open_timeout=_OPEN_S,
                close_timeout=1,
                max_size=_LONGEST_FRAME,
                compression=None,
                ping_interval=None,
                max_queue=64,
            )
        except (OSError, WebSocketException, TimeoutError) as error:
            journal.note("link.no_websocket", reason=str(error) or type(error).__name__)
            return False
        try:
            return self._serve(socket)
        finally:
            self._drop(socket)

    def _serve(self, socket: ClientConnection) -> bool:
        try:
            if not self._hello(socket):
                return False
            for text in socket:
                self._receive(json.loads(text))
        except (OSError, WebSocketException, TimeoutError, ValueError) as error:
            if not self._closed.is_set():
                journal.note("link.broken", reason=str(error) or type(error).__name__)
        return True

    def _hello(self, socket: ClientConnection) -> bool:
        """Bind the agent to the connection and take what waits for it."""
        hello = {"id": "hello", "op": "hello", "token": self._identity.credential}
        socket.send(json.dumps(hello))
        answer = json.loads(socket.recv(timeout=_OPEN_S))
        if answer.get("ok") is False:
            error = _refusal(answer)
            journal.note("link.refused", reason=str(error))
            if isinstance(error, errors.Unauthenticated | errors.LeaseLost):
                self._on_cut_off(error.detail)
            return False
        self._socket = socket
        journal.note("link.connected", way="websocket")
        self._pass_on(answer.get("offers"), answer.get("commands"))
        return True

    def _receive(self, message: Message) -> None:
        if "push" in message:
            self._on_message(message)
        elif waiting := self._pending.get(str(message.get("id"))):
            waiting.answer = message
            waiting.done.set()

    def _poll(self) -> bool:
        """Ask once for offers over HTTP, waiting for some; False when nothing answers."""
        call = calls.offers(self._identity.agent_id, wait_s=_POLL_S)
        try:
            found = rest.send(call, url=self._identity.url, token=self._identity.credential)
        except (errors.Unauthenticated, errors.LeaseLost) as error:
            self._on_cut_off(error.detail)
            return False
        except errors.ApiError as error:
            journal.note("link.away", reason=error.detail)
            return False
        self._pass_on(found.offers, found.commands)
        return True

    def _pass_on(
        self, offers: Sequence[Message] | None, commands: Sequence[Message] | None
    ) -> None:
        for offer in offers or ():
            self._on_message({"push": "offer", "offer": offer})
        for command in commands or ():
            self._on_message({"push": "command", "command": command})

    def _drop(self, socket: ClientConnection | None) -> None:
        """Close a websocket and fail every question that waits on it."""
        if socket is None:
            return
        if self._socket is socket:
            self._socket = None
            for waiting in list(self._pending.values()):
                waiting.done.set()
        # Not close() at once: that would wait for the other side to agree.
        with contextlib.suppress(OSError):
            socket.socket.shutdown(2)
        threading.Thread(target=_close, args=(socket,), daemon=True).start()


def _close(socket: ClientConnection) -> None:
    try:
        socket.close()
    except (OSError, WebSocketException):
        return


def _gateway(url: str) -> str:
    address = urlsplit(url)
    scheme = "wss" if address.scheme == "https" else "ws"
    return f"{scheme}://{address.netloc}{address.path.rstrip('/')}/ws/gateway/"


def _refusal(answer: Message) -> errors.ApiError:
    problem = answer.get("error")
    status = problem.get("status", 400) if isinstance(problem, Mapping) else 400
    return errors.from_problem(status=int(status), problem=problem)
