"""
The way a call goes: by the gateway where it can be had, else by REST.

A door is opened with the first call that the gateway takes, and again after it broke; while it
can't be had, one line in the log says so, and calls go by REST.
"""

import asyncio
import logging
import os
import threading
import time
import weakref
from typing import Any

from agentpool.client import calls, config, errors, gateway
from agentpool.client.async_line import AsyncLine, dial
from agentpool.client.exchange import Reply
from agentpool.client.line import Line

log = logging.getLogger("agentpool.client")

# How long after an attempt that failed the gateway is tried again, in seconds.
RETRY_S = 30.0
_TOO_MANY = 429


class Hinge:
    """When the gateway may be tried, and what is said about it: the same for both faces."""

    def __init__(self, settings: config.Config, *, is_wanted: bool) -> None:
        self._settings = settings
        self._is_wanted = is_wanted and bool(settings.token)
        self._try_at = 0.0
        self._is_away = False
        # What the server said that it takes; none before it was asked.
        self._ops: frozenset[str] | None = None

    def may_take(self, call: calls.Call[Any]) -> bool:
        """Whether the gateway takes this call, as far as is known."""
        is_known = self._ops is None or call.op in self._ops
        return self._is_wanted and call.op is not None and is_known

    def may_try(self) -> bool:
        """Whether it is time to try to connect."""
        return time.monotonic() >= self._try_at

    def greeted(self, answer: gateway.Message) -> bool:
        """Return whether a hello was taken, and note it."""
        if answer.get("ok") is not True:
            self.failed(gateway.refusal(answer))
            return False
        self._ops = frozenset(answer.get("ops") or ())
        self.back()
        return True

    def taken(self, call: calls.Call[Any], reply: Reply) -> Reply | None:
        """Return a reply, None: more questions wait there than the gateway holds for one."""
        return None if reply.status == _TOO_MANY and call.op == "wait" else reply

    def back(self) -> None:
        """Note that it is there."""
        if self._is_away:
            log.info("gateway back url=%s", self._settings.url)
        self._is_away = False

    def failed(self, error: errors.ApiError) -> None:
        """Note that it can't be had; said once, until it is back."""
        self._try_at = time.monotonic() + RETRY_S
        # A token that is no good is no fault of the way: REST will say the same to the caller.
        if not self._is_away and not isinstance(error, errors.Unauthenticated):
            self._is_away = True
            log.warning(
                "gateway away url=%s reason=%r: calls go by REST, it is tried again every %g s",
                self._settings.url,
                error.detail,
                RETRY_S,
            )


class Door(Hinge):
    """The gateway for threads."""

    def __init__(self, settings: config.Config, *, is_wanted: bool) -> None:
        super().__init__(settings, is_wanted=is_wanted)
        self._line: Line | None = None
        # A client that nobody closed must not leave a thread behind.
        self._end = weakref.finalize(self, _nothing)
        self._opening = threading.Lock()
        self._process = os.getpid()

    def reply(self, call: calls.Call[Any]) -> Reply | None:
        """
        Return the gateway's reply to a call, None: it must go by REST.

        Raises: Unreachable, the connection broke and nobody knows whether the call was heard.
        """
        if not self.may_take(call) or (line := self._open()) is None:
            return None
        if not self.may_take(call):  # now that the server has said what it takes
            return None
        talk = gateway.talk(call)
        said, is_first = next(talk), True
        while True:
            try:
                answer = line.ask(said, within_s=gateway.within_s(said))
            except gateway.NotSaid:
                if is_first:
                    return None
                raise
            try:
                said, is_first = talk.send(answer), False
            except StopIteration as done:
                return self.taken(call, done.value)

    def close(self) -> None:
        """Hang up."""
        if self._line is not None:
            self._line.close()

    def _open(self) -> Line | None:
        line = self._line
        if line is not None and line.is_open and self._process == os.getpid():
            return line
        # Whoever comes while somebody connects does not wait for it.
        if not self.may_try() or not self._opening.acquire(blocking=False):
            return None
        try:
            self._line, self._process = self._dial(), os.getpid()
            return self._line
        finally:
            self._opening.release()

    def _dial(self) -> Line | None:
        try:
            line = Line(self._settings.url)
            (answer,) = line.greet([self._settings.token])
        except errors.Unreachable as error:
            self.failed(error)
            return None
        if not self.greeted(answer):
            line.close()
            return None
        threading.Thread(target=line.listen, name="agentpool-gateway", daemon=True).start()
        self._end.detach()
        self._end = weakref.finalize(self, line.close)
        return line


def _nothing() -> None:
    """There is no connection to end yet."""


class AsyncDoor(Hinge):
    """The gateway for asyncio."""

    def __init__(self, settings: config.Config, *, is_wanted: bool) -> None:
        super().__init__(settings, is_wanted=is_wanted)
        self._line: AsyncLine | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_opening = False

    async def reply(self, call: calls.Call[Any]) -> Reply | None:
        """Return the gateway's reply to a call, as `Door.reply` does."""
        if not self.may_take(call) or (line := await self._open()) is None:
            return None
        if not self.may_take(call):  # now that the server has said what it takes
            return None
        talk = gateway.talk(call)
        said, is_first = next(talk), True
        while True:
            try:
                answer = await line.ask(said, within_s=gateway.within_s(said))
            except gateway.NotSaid:
                if is_first:
                    return None
                raise
            try:
                said, is_first = talk.send(answer), False
            except StopIteration as done:
                return self.taken(call, done.value)

    async def close(self) -> None:
        """Hang up."""
        if self._line is not None:
            await self._line.close()

    async def _open(self) -> AsyncLine | None:
        if self._loop is not asyncio.get_running_loop():
            # A line serves the loop that it was opened in; an older one has ended with it.
            self._loop, self._line, self._is_opening = asyncio.get_running_loop(), None, False
        if self._line is not None and self._line.is_open:
            return self._line
        if self._is_opening or not self.may_try():
            return None
        self._is_opening = True
        try:
            if self._line is not None:
                await self._line.close()
            self._line = await self._dial()
            return self._line
        finally:
            self._is_opening = False

    async def _dial(self) -> AsyncLine | None:
        try:
            line, answer = await dial(self._settings.url, token=self._settings.token)
        except errors.Unreachable as error:
            self.failed(error)
            return None
        if not self.greeted(answer):
            await line.close()
            return None
        return line
