"""One open connection to the gateway, shared by threads: each question gets its own answer."""

import contextlib
import json
import socket
import struct
import threading
from collections.abc import Callable, Sequence

from websockets.exceptions import WebSocketException
from websockets.sync.client import ClientConnection, connect

from agentpool.client import config, errors, gateway
from agentpool.client.gateway import Message

# How long the other side may take nothing of a message, in seconds: all other questions wait.
_SEND_S = 10
# An import fails where the environment names a kind of proxy that is not installed for.
_TROUBLE = (OSError, WebSocketException, TimeoutError, ValueError, ImportError)


class _Pending:
    """A question that waits for its answer."""

    def __init__(self) -> None:
        self.done = threading.Event()
        self.answer: Message | None = None


class Line:
    """
    A connection. `greet` first; then somebody's thread must `listen`, while any thread may `ask`.

    `on_push` gets the messages that come by themselves, in the thread that listens.
    """

    def __init__(
        self,
        url: str,
        *,
        on_push: Callable[[Message], None] | None = None,
        ping_s: float | None = gateway.PING_S,
    ) -> None:
        """Connect; `ping_s` None leaves it to questions to find out. Raises: Unreachable."""
        self._on_push = on_push
        self._sending = threading.Lock()
        self._pending: dict[str, _Pending] = {}
        self._next_id = 0
        self._opened = contextlib.ExitStack()
        self.is_open = True
        self.fault = ""
        try:
            self._socket: ClientConnection = self._opened.enter_context(
                connect(
                    gateway.address(url),
                    open_timeout=gateway.OPEN_S,
                    close_timeout=1,
                    max_size=gateway.LONGEST_FRAME,
                    compression=None,
                    ping_interval=ping_s,
                    ping_timeout=ping_s,
                    max_queue=64,
                    proxy=None if config.is_here(url) else True,
                )
            )
            # Neither websockets nor TCP gives up on a peer that is gone while a message goes out.
            limit = struct.pack("ll", _SEND_S, 0)
            self._socket.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        except _TROUBLE as error:
            self._opened.close()
            raise errors.Unreachable(_told(error)) from error

    def greet(self, tokens: Sequence[str]) -> list[Message]:
        """
        Say hello for these tokens in one go; return their answers.

        Only before anybody listens. Raises: Unreachable.
        """
        hellos = [{"id": str(n), "op": "hello", "token": t} for n, t in enumerate(tokens)]
        answers: dict[str, Message] = {}
        try:
            for hello in hellos:
                self._socket.send(json.dumps(hello))
            while len(answers) < len(hellos):
                heard = json.loads(self._socket.recv(timeout=gateway.OPEN_S))
                if "push" in heard:
                    self._hear(heard)
                else:
                    answers[str(heard.get("id"))] = heard
        except _TROUBLE as error:
            self.close()
            raise errors.Unreachable(f"no answer to hello: {_told(error)}") from error
        return [answers[str(hello["id"])] for hello in hellos]

    def ask(self, message: Message, *, within_s: float) -> Message:
        """
        Return the answer to one message, be it a refusal.

        Raises: NotSaid, it was not sent; Unreachable, nobody knows whether it was heard.
        """
        waiting = _Pending()
        with self._sending:
            self._next_id += 1
            number = f"q{self._next_id}"
            text = gateway.encoded({**message, "id": number})
            if len(text) > gateway.MOST_BYTES:
                raise gateway.NotSaid("the message is too long")
            self._pending[number] = waiting
            try:
                if not self.is_open:
                    raise OSError("it is closed")
                self._socket.send(text)
            except (OSError, WebSocketException) as error:
                self._pending.pop(number, None)
                self.close()
                raise gateway.NotSaid(f"the websocket broke: {_told(error)}") from error
        if not waiting.done.wait(within_s):
            # A half-open connection looks like this; a new one will tell.
            self.close()
        self._pending.pop(number, None)
        if waiting.answer is None:
            raise errors.Unreachable(f"no answer to {message.get('op')}")
        return waiting.answer

    def listen(self) -> None:
        """Read until the connection ends; `fault` then says why, "" when it was closed here."""
        try:
            for text in self._socket:
                self._hear(json.loads(text))
        except _TROUBLE as error:
            if self.is_open:
                self.fault = _told(error)
        finally:
            self.close()

    def close(self) -> None:
        """Hang up, and fail every question that waits."""
        if not self.is_open:
            return
        self.is_open = False
        for waiting in list(self._pending.values()):
            waiting.done.set()
        # Not close() at once: that would wait for the other side to agree.
        with contextlib.suppress(OSError):
            self._socket.socket.shutdown(2)
        threading.Thread(target=self._close, daemon=True).start()

    def _close(self) -> None:
        with contextlib.suppress(OSError, WebSocketException):
            self._opened.close()

    def _hear(self, message: Message) -> None:
        if "push" in message:
            if self._on_push is not None:
                self._on_push(message)
        elif waiting := self._pending.get(str(message.get("id"))):
            waiting.answer = message
            waiting.done.set()


def _told(error: Exception) -> str:
    return str(error) or type(error).__name__
