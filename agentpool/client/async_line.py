"""One open connection to the gateway for asyncio: each question gets its own answer."""

import asyncio
import contextlib
import json

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

from agentpool.client import config, errors, gateway
from agentpool.client.gateway import Message

# An import fails where the environment names a kind of proxy that is not installed for.
_TROUBLE = (OSError, WebSocketException, TimeoutError, ValueError, ImportError)


class AsyncLine:
    """A connection that has said hello; made by `dial`."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._pending: dict[str, asyncio.Future[Message]] = {}
        self._next_id = 0
        self.is_open = True
        self._listener = asyncio.create_task(self._listen())

    async def ask(self, message: Message, *, within_s: float) -> Message:
        """
        Return the answer to one message, be it a refusal.

        Raises: NotSaid, it was not sent; Unreachable, nobody knows whether it was heard.
        """
        self._next_id += 1
        number = f"q{self._next_id}"
        text = gateway.encoded({**message, "id": number})
        if len(text) > gateway.MOST_BYTES:
            raise gateway.NotSaid("the message is too long")
        answer: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._pending[number] = answer
        try:
            await self._send(text)
            async with asyncio.timeout(within_s):
                return await answer
        except TimeoutError:
            # A half-open connection looks like this; a new one will tell.
            self._end()
            raise errors.Unreachable(f"no answer to {message.get('op')}") from None
        finally:
            self._pending.pop(number, None)
            if not answer.done():
                answer.cancel()

    async def close(self) -> None:
        """Hang up, and fail every question that waits."""
        self._end()
        self._listener.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._listener
        with contextlib.suppress(OSError, WebSocketException):
            await self._socket.close()

    async def _send(self, text: str) -> None:
        try:
            if not self.is_open:
                raise OSError("it is closed")
            await self._socket.send(text)
        except (OSError, WebSocketException) as error:
            self._end()
            raise gateway.NotSaid(f"the websocket broke: {_told(error)}") from error

    async def _listen(self) -> None:
        with contextlib.suppress(*_TROUBLE):
            async for text in self._socket:
                message = json.loads(text)
                answer = self._pending.get(str(message.get("id")))
                if answer is not None and not answer.done():
                    answer.set_result(message)
        self._end()

    def _end(self) -> None:
        self.is_open = False
        for answer in self._pending.values():
            if not answer.done():
                answer.set_exception(errors.Unreachable("the websocket broke"))


async def dial(url: str, *, token: str) -> tuple[AsyncLine, Message]:
    """Return a connection that has said hello, and the answer to it. Raises: Unreachable."""
    try:
        socket = await connect(
            gateway.address(url),
            open_timeout=gateway.OPEN_S,
            close_timeout=1,
            max_size=gateway.LONGEST_FRAME,
            compression=None,
            ping_interval=gateway.PING_S,
            ping_timeout=gateway.PING_S,
            max_queue=64,
            proxy=None if config.is_here(url) else True,
        )
    except _TROUBLE as error:
        raise errors.Unreachable(_told(error)) from error
    line = AsyncLine(socket)
    try:
        return line, await line.ask({"op": "hello", "token": token}, within_s=gateway.OPEN_S)
    except BaseException:
        await line.close()
        raise


def _told(error: Exception) -> str:
    return str(error) or type(error).__name__
