"""
The way to the control plane: one gateway websocket, and plain HTTP where it can't be had.

Callers see one interface: four calls that raise `ApiError`, and messages that come by themselves.
"""

import random
import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from agentpool.agent import journal, rest
from agentpool.agent.enrolment import Identity
from agentpool.client import calls, errors, exchange, gateway, models
from agentpool.client.gateway import Message
from agentpool.client.line import Line

T = TypeVar("T")

_ANSWER_S = 10.0
_FIRST_BACKOFF_S = 0.2
_LONGEST_BACKOFF_S = 5.0
# How long an HTTP poll for offers waits; after each the websocket is tried again.
_POLL_S = 15.0


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
        self._line: Line | None = None
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="link", daemon=True)

    def start(self) -> None:
        """Connect, and stay connected, in the background."""
        self._thread.start()

    def close(self) -> None:
        """Hang up."""
        self._closed.set()
        if self._line is not None:
            self._line.close()

    @property
    def is_live(self) -> bool:
        """Whether the websocket is up."""
        return self._line is not None and self._line.is_open

    def heartbeat(self, *, leases: list[calls.LeaseReport], draining: bool) -> models.Heartbeat:
        """Say that the agent lives; the answer renews its leases."""
        call = calls.heartbeat(
            self._identity.agent_id,
            incarnation=self._identity.incarnation,
            leases=leases,
            draining=draining,
        )
        return self._ask(call)

    def ack(self, lease_id: str, *, fencing_token: int) -> models.Lease:
        """Accept an offer."""
        return self._ask(calls.ack(lease_id, fencing_token=fencing_token))

    def log(self, lease_id: str, *, fencing_token: int, chunks: list[Message]) -> None:
        """Append to the log of a lease."""
        self._ask(calls.append_log(lease_id, fencing_token=fencing_token, chunks=chunks))

    def security(self, lease_id: str, **report: Any) -> None:
        """Tell what holds for a lease and what was refused; `report` as in `calls.security`."""
        call = calls.report_security(lease_id, **report)
        rest.send(call, url=self._identity.url, token=self._identity.credential)

    def release(self, lease_id: str, **ending: Any) -> None:
        """End a lease; `ending` as in `calls.release`."""
        self._ask(calls.release(lease_id, **ending))

    def retire(self) -> None:
        """Tell the control plane that the agent is gone for good."""
        call = calls.retire_agent(self._identity.id)
        rest.send(call, url=self._identity.url, token=self._identity.credential)

    # --- one call, by the way that is open --------------------------------------------------

    def _ask(self, call: calls.Call[T]) -> T:
        line = self._line
        if line is None or not line.is_open:
            return rest.send(call, url=self._identity.url, token=self._identity.credential)
        said = {"agent_id": self._identity.agent_id, **gateway.message(call)}
        try:
            answer = line.ask(said, within_s=_ANSWER_S)
        except gateway.NotSaid:
            return rest.send(call, url=self._identity.url, token=self._identity.credential)
        return exchange.answer(call, gateway.reply(answer))

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
            line = Line(self._identity.url, on_push=self._on_message, ping_s=None)
        except errors.Unreachable as error:
            journal.note("link.no_websocket", reason=error.detail)
            return False
        try:
            if not self._hello(line):
                return False
        except errors.Unreachable as error:
            journal.note("link.broken", reason=error.detail)
            return True
        finally:
            if self._line is not line:
                line.close()
        line.listen()
        if line.fault and not self._closed.is_set():
            journal.note("link.broken", reason=line.fault)
        return True

    def _hello(self, line: Line) -> bool:
        """Bind the agent to the connection and take what waits for it."""
        (answer,) = line.greet([self._identity.credential])
        if answer.get("ok") is not True:
            error = gateway.refusal(answer)
            journal.note("link.refused", reason=str(error))
            if isinstance(error, errors.Unauthenticated | errors.LeaseLost):
                self._on_cut_off(error.detail)
            return False
        self._line = line
        if self._closed.is_set():
            line.close()
        journal.note("link.connected", way="websocket")
        self._pass_on(answer.get("offers"), answer.get("commands"))
        return True

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
