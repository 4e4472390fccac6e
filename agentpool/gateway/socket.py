"""
The gateway's websocket: many messages, answered by id; offers, commands and losses are pushed.

Plain ASGI, for a message must cost little: reading is one loop without a task a message.
Heartbeats go to the coalescer at once, and waits are coroutines of their own; all other ops of a
connection are answered in their order, but for hellos, and for acquires and releases, sent in one
go: these are served together.
"""

import asyncio
import contextlib
import functools
import json
import logging
from collections import deque
from collections.abc import Awaitable, Mapping, Set
from itertools import islice
from typing import Any

from django.conf import settings
from rest_framework.exceptions import ValidationError

from agentpool.gateway import intake, ops
from agentpool.gateway.batcher import batcher
from agentpool.gateway.beats import Asker, coalescer
from agentpool.gateway.greetings import greetings, speakers
from agentpool.gateway.meter import Meter
from agentpool.gateway.pushes import Pusher
from agentpool.gateway.session import Session
from agentpool.gateway.waits import Waits
from agentpool.gateway.wording import encoded, parsed, request_of
from agentpool.live.outgoing import Outlet, Send, outlet
from agentpool.live.threads import in_thread
from agentpool.registry.errors import Invalid, RateLimited, Refusal, Unauthenticated, Unavailable
from agentpool.registry.rest import problem
from balancing.services.exchange import Call, Wish

log = logging.getLogger("agentpool.gateway")

Message = dict[str, Any]

# Ops of one connection that wait for those before them; a host that says hello for 1,000 agents.
MOST_PENDING = 2000
# Messages taken from the server before the event loop may do something else.
TAKEN_AT_ONCE = 200
# How long somebody may take to say who it is, seconds.
HELLO_S = 10.0
# Ops that are served together when they follow each other, and how many of them at once.
HELLOS, EXCHANGES = frozenset({"hello"}), frozenset({"acquire", "release"})
ALIKE_AT_ONCE = 500
STRANGER, TOO_SLOW, TOO_MANY = 4401, 4408, 4429


async def gateway(scope: Mapping[str, Any], receive: Any, send: Send) -> None:
    """Serve one connection of a worker host or an orchestrator."""
    if (await receive())["type"] != "websocket.connect":
        return
    await send({"type": "websocket.accept"})
    connection = Connection(outlet(send))
    try:
        connection.greet(dict(scope["headers"]).get(b"authorization", b""))
        await connection.read(receive)
    finally:
        connection.end()


class Connection:
    """One open connection."""

    def __init__(self, outlet: Outlet) -> None:
        self.session = Session()
        self.outlet = outlet
        self.pusher = Pusher(self.session, outlet, too_slow=lambda: self._close(TOO_SLOW))
        self._meter = Meter(per_s=settings.MESSAGES_PER_S)
        self._parsed = functools.partial(parsed, most_bytes=settings.MESSAGE_BYTES)
        self._waits = Waits(self.session, self._reply)
        self._todo: deque[Message] = deque()
        self._worker: asyncio.Task[None] | None = None
        # Whether an acquire or a release is on its way, without the worker.
        self._has_asked = False
        self._closing: asyncio.Task[None] | None = None
        self._stranger: asyncio.Task[None] | None = None

    def greet(self, header: bytes) -> None:
        """This will take the handshake's bearer token for a hello."""
        scheme, _, secret = header.decode("latin-1").partition(" ")
        if scheme.lower() == "bearer":
            self._queue({"id": None, "op": "hello", "token": secret.strip()})

    async def read(self, receive: Any) -> None:
        """Take messages until the other side hangs up."""
        self._stranger = asyncio.create_task(self._close_if_stranger())
        count = 0
        while (event := await receive())["type"] != "websocket.disconnect":
            if self._closing is None:
                self._take(event.get("text"))
            count += 1
            if self.outlet.full:
                # Who does not read is not read from, either.
                await self._wait_for_reader()
            elif count % TAKEN_AT_ONCE == 0:
                await asyncio.sleep(0)

    def end(self) -> None:
        """This will forget the connection; what was said on it stands."""
        self.outlet.end()
        self.pusher.end()
        self._waits.end()
        if self._stranger is not None:
            self._stranger.cancel()
        if self._worker is not None:
            self._worker.cancel()

    async def _wait_for_reader(self) -> None:
        in_time = await self.outlet.drained(settings.SLOW_READER_S)
        if not in_time or self.outlet.overfull:
            self._close(TOO_SLOW)

    async def _close_if_stranger(self) -> None:
        """Hang up on who does not say hello: an open connection costs memory and a descriptor."""
        await asyncio.sleep(HELLO_S)
        if self.session.is_empty and self._worker is not None:
            await asyncio.sleep(HELLO_S)  # its hello may be being looked at
        if self.session.is_empty:
            said = f"No hello within {HELLO_S:g} s."
            self._refuse(None, Unauthenticated(said))
            await self.outlet.flushed()
            self._close(STRANGER)

    def _close(self, code: int) -> None:
        if self._closing is None:
            self._closing = asyncio.create_task(self.outlet.close(code))

    # -- one message ---------------------------------------------------------------------------

    def _take(self, text: str | None) -> None:
        wait_s = self._meter.spend()
        if wait_s is not None:
            self._slow_down(text, wait_s)
            return
        try:
            message = self._parsed(text)
        except Invalid as refusal:
            self._refuse(None, refusal)
            return
        if self._todo or self._has_asked:
            # What is said before a hello is through waits for it.
            self._queue(message)
        elif message.get("op") == "heartbeat":
            self._hear(message)
        elif self._worker is None and self._is_batched(message):
            self._ask(message)
        else:
            self._queue(message)

    def _slow_down(self, text: str | None, wait_s: float) -> None:
        if self._meter.is_hopeless:
            self._close(TOO_MANY)
            return
        id = None
        with contextlib.suppress(Invalid):
            id = self._parsed(text).get("id")
        said = f"More than {settings.MESSAGES_PER_S:g} messages a second: wait."
        self._refuse(id, RateLimited(said, retry_after_s=wait_s))

    def _hear(self, message: Message) -> None:
        """Give a heartbeat to the coalescer, or to the worker when it needs a look of its own."""
        try:
            read = intake.read(self.session, message)
        except (Refusal, ValidationError) as error:
            self._refuse(message.get("id"), error)
            return
        if read is None:
            self._queue(message)
            return
        asker = Asker(
            self.outlet,
            json.dumps(message.get("id")),
            read.named,
            refused=read.refused,
            is_group=read.is_group,
        )
        coalescer().take(asker, read.said)

    # -- in order --------------------------------------------------------------------------------

    def _queue(self, message: Message) -> None:
        if len(self._todo) >= MOST_PENDING:
            said = f"{MOST_PENDING} messages wait here: wait for answers."
            self._refuse(message.get("id"), RateLimited(said, retry_after_s=1))
            return
        self._todo.append(message)
        self._go_on()

    def _go_on(self) -> None:
        """This will answer what waits, unless something before it is still on its way."""
        if self._todo and self._worker is None and not self._has_asked:
            self._worker = asyncio.create_task(self._work())

    def _is_batched(self, message: Message) -> bool:
        """Whether the batcher can do it all, so that it needs no task of its own."""
        return (
            message.get("op") in ("acquire", "release")
            and "idempotency_key" not in message
            and (len(self.session.agents) <= 1 or "agent_id" in message)
        )

    def _ask(self, message: Message) -> None:
        """Give an acquire or a release to the batcher; it is answered when that has."""
        try:
            call = ops.BATCHED[message["op"]](self.session, message)
        except Exception as error:
            self._refuse(message.get("id"), error, op=message["op"])
            return
        self._begin(message, call)
        self._has_asked = True
        batcher.ask(call, functools.partial(self._told, message, call))

    def _told(self, message: Message, call: Call, got: str | Exception | None) -> None:
        self._has_asked = False
        self._settle(message, call, got)
        if isinstance(got, Exception):
            self._refuse(message.get("id"), got, op=message["op"])
        elif isinstance(got, str):
            self._reply(message, ops.shown(call, got))
        elif self.outlet.is_open:
            # It waits: what is to be said of that must be looked up first.
            self._worker = asyncio.create_task(self._say_that_it_waits(message, call))
            return
        self._go_on()

    async def _say_that_it_waits(self, message: Message, call: Call) -> None:
        try:
            await self._answer_with(message, self._wait(message, call))
        finally:
            self._worker = None
        self._go_on()

    async def _work(self) -> None:
        """Answer what waits, in its order; what follows each other of one kind is done together."""
        try:
            while self._todo:
                alike = self._leading(HELLOS) or self._leading(EXCHANGES)
                if alike:
                    await asyncio.gather(*map(self._answer, alike))
                    for _ in alike:
                        self._todo.popleft()
                    continue
                await self._serve(self._todo[0])
                self._todo.popleft()
        finally:
            self._worker = None

    def _leading(self, names: Set[str]) -> list[Message]:
        """Return the messages at the head that share these ops, a batch of them at most."""
        found = []
        for message in islice(self._todo, ALIKE_AT_ONCE):
            name = message.get("op")
            if not isinstance(name, str) or name not in names:
                break
            found.append(message)
        return found

    async def _serve(self, message: Message) -> None:
        name = message.get("op")
        if name == "wait":
            try:
                self._waits.add(message)
            except Refusal as refusal:
                self._reply(message, refusal)
            return
        read = None
        if name == "heartbeat":
            with contextlib.suppress(Refusal, ValidationError):
                read = intake.read(self.session, message)
        if read is not None:
            self._hear(message)
        else:
            await self._answer(message)

    async def _answer(self, message: Message) -> None:
        await self._answer_with(message, self._call(message))

    async def _answer_with(self, message: Message, call: Awaitable[dict[str, Any] | str]) -> None:
        try:
            reply = await call
        except Exception as error:
            self._reply(message, error)
        else:
            self._reply(message, reply)

    def _reply(self, message: Message, reply: dict[str, Any] | str | Exception) -> None:
        """Answer a message: with fields, with such in JSON already, or with a refusal."""
        if isinstance(reply, Exception):
            self._refuse(message.get("id"), reply, op=message.get("op"))
        elif isinstance(reply, str):
            id = message.get("id")
            named = id if type(id) is int else json.dumps(id)
            self.outlet.write(f'{{"id": {named}, "ok": true, {reply}}}')
        else:
            self.outlet.write(encoded({"id": message.get("id"), "ok": True, **reply}))

    async def _call(self, message: Message) -> dict[str, Any] | str:
        name = message.get("op")
        if name == "hello":
            return await self._hello(message)
        if name == "acquire" and "idempotency_key" in message:
            return await self._acquire_once(message)
        if isinstance(name, str) and name in ops.BATCHED:
            return await self._call_batched(name, message)
        call = ops.OPS.get(name) if isinstance(name, str) else None
        if call is None:
            raise Invalid(f"There is no op {name!r}; the ops are: {', '.join(ops.NAMES)}.")
        return await in_thread(call, self.session, message)

    async def _hello(self, message: Message) -> dict[str, Any]:
        token = message.get("token")
        if not isinstance(token, str):
            raise Invalid("hello needs a token.", errors=[("token", "This field is required.")])
        speaker = await speakers.call(token)
        if speaker.agent is None:
            self.session.bind(speaker)
            # With the ops, so that a client that is newer than this knows what to ask elsewhere.
            return {"name": speaker.name, "scope": speaker.scope, "ops": ops.NAMES}
        # Listen first: an offer made between the look and the subscription would be missed.
        topic = f"agent:{speaker.name}"
        self.pusher.listen(topic)
        self.session.bind(speaker)
        return await greetings.call(speaker)

    async def _call_batched(self, name: str, message: Message) -> dict[str, Any] | str:
        prepare = ops.BATCHED[name]
        if len(self.session.agents) > 1 and "agent_id" not in message:
            call = await in_thread(prepare, self.session, message)  # must look whose lease it is
        else:
            call = prepare(self.session, message)
        self._begin(message, call)
        try:
            lease = await batcher.call(call)
        except Exception as error:
            self._settle(message, call, error)
            raise
        self._settle(message, call, lease)
        return await self._wait(message, call) if lease is None else ops.shown(call, lease)

    async def _acquire_once(self, message: Message) -> dict[str, Any]:
        told = await in_thread(ops.acquire_once, self.session, message)
        request_id, requests = told["request_id"], self.pusher.requests
        requests.begin(request_id, ttl_s=_seconds(message, "ttl_s") or ops.TTL_S)
        if "lease" in told:
            # The answer may be an old one, and its lease gone since.
            await requests.look(request_id)
        else:
            await requests.wait(request_id, wait_s=_seconds(message, "wait_s"))
        return told

    async def _wait(self, message: Message, call: Call) -> dict[str, Any]:
        request_id = ops.asked_for(call)
        await self.pusher.requests.wait(request_id, wait_s=_seconds(message, "wait_s"))
        return await in_thread(ops.waiting, request_id)

    def _begin(self, message: Message, call: Call) -> None:
        """Follow what is about to be asked for: from then on no news of it is missed."""
        if isinstance(call.wish, Wish):
            ttl_s = _seconds(message, "ttl_s") or ops.TTL_S
            self.pusher.requests.begin(ops.asked_for(call), ttl_s=ttl_s)

    def _settle(self, message: Message, call: Call, got: str | BaseException | None) -> None:
        """Follow no more what was refused, or has been released."""
        if isinstance(call.wish, Wish):
            if isinstance(got, BaseException):
                self.pusher.requests.forget(ops.asked_for(call))
        elif isinstance(got, str) and not message.get("retry"):
            self.pusher.requests.forget(request_of(got))

    def _refuse(self, id: Any, error: Exception, *, op: object = None) -> None:
        answer = problem(error, {})
        if answer is not None:
            body = dict(answer.data)
            if isinstance(error, Refusal) and error.retry_after_s is not None:
                body["retry_after_s"] = round(error.retry_after_s, 3)
        else:
            log.error("op failed op=%s", op, exc_info=error)
            body = dict(Unavailable("This failed here; it is in the log.").problem())
        self.outlet.write(encoded({"id": id, "ok": False, "error": body}))


def _seconds(message: Message, name: str) -> float:
    """Return a length of time that a message says, and that has been checked; 0: it does not."""
    return float(message.get(name) or 0)
