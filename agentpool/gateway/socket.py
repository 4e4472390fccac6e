"""
The gateway's websocket: many messages, answered by id; offers, commands and losses are pushed.

Messages of one connection are answered in their order. Pushes come from the event stream, so they
follow the commit that caused them; after a gap the socket sends everything that is still open.
"""

import asyncio
import contextlib
import json
import logging
from collections.abc import Callable
from typing import Any

from channels.generic.websocket import AsyncWebsocketConsumer
from django.db import Error as DatabaseError

from agentpool.gateway import ops
from agentpool.gateway.batcher import Call, batcher
from agentpool.live.listener import Event, Subscription, listener
from agentpool.live.threads import in_thread
from agentpool.registry.errors import Invalid, Refusal, Unavailable
from agentpool.registry.rest import problem

log = logging.getLogger("agentpool.gateway")

Prepare = Callable[[ops.Session, dict[str, Any]], Call]

MAX_MESSAGE_BYTES = 512 * 1024
_LOST = {"lease.lost", "lease.expired", "lease.cancelled"}
_STATUS = {"agent.draining", "agent.retired"}


class GatewaySocket(AsyncWebsocketConsumer):
    """One connection of a worker host or an orchestrator."""

    async def connect(self) -> None:
        """Accept; who speaks is said by hello, or by the handshake's Authorization header."""
        self.session = ops.Session()
        self.news = Subscription()
        self.topics: set[str] = set()
        listener.ensure_running()
        await self.accept()
        self.pusher = asyncio.create_task(self._push())
        headers = dict(self.scope["headers"])
        scheme, _, secret = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
        if scheme.lower() == "bearer":
            await self._answer({"id": None, "op": "hello", "token": secret.strip()})

    async def disconnect(self, code: int) -> None:
        """Stop listening for whoever spoke here."""
        listener.remove(self.news, self.topics)
        if hasattr(self, "pusher"):
            self.pusher.cancel()

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        """Answer one message."""
        try:
            message = _parsed(text_data)
        except Invalid as refusal:
            await self._send({"id": None, "ok": False, "error": refusal.problem()})
            return
        await self._answer(message)

    async def _answer(self, message: dict[str, Any]) -> None:
        answer: dict[str, Any] = {"id": message.get("id")}
        try:
            reply = await self._call(message)
        except Exception as error:
            answer |= {"ok": False, "error": _problem_of(error, message)}
        else:
            answer |= {"ok": True, **reply}
        await self._send(answer)

    async def _call(self, message: dict[str, Any]) -> dict[str, Any]:
        name = message.get("op")
        if isinstance(name, str) and name in ops.BATCHED:
            return await self._call_batched(ops.BATCHED[name], message)
        call = ops.OPS.get(name) if isinstance(name, str) else None
        if call is None:
            names = ", ".join((*ops.OPS, *ops.BATCHED))
            raise Invalid(f"There is no op {name!r}; the ops are: {names}.")
        if name == "hello":
            # Listen first: an offer made between the look and the subscription would be missed.
            reply = await in_thread(call, self.session, message)
            if "agent_id" in reply:
                self._listen(f"agent:{reply['agent_id']}")
                return await in_thread(call, self.session, message)
            return reply
        return await in_thread(call, self.session, message)

    async def _call_batched(self, prepare: Prepare, message: dict[str, Any]) -> dict[str, Any]:
        if len(self.session.agents) > 1 and "agent_id" not in message:
            call = await in_thread(prepare, self.session, message)  # must look whose lease it is
        else:
            call = prepare(self.session, message)
        reply = ops.shown(call, await batcher().call(call))
        if "lease" in reply:
            return reply
        request_id = reply["request_id"]
        self._listen(f"request:{request_id}")
        # Granted between the commit and now? Then no event will come any more.
        await self._push_grant(request_id)
        return await in_thread(ops.waiting, request_id)

    def _listen(self, topic: str) -> None:
        self.topics.add(topic)
        listener.add(self.news, [topic])

    async def _push(self) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            while True:
                event = await self.news.next()
                if event is None:
                    continue
                try:
                    if self.news.lagged:
                        await self._push_all()
                    else:
                        await self._push_event(event)
                except (Refusal, DatabaseError):
                    log.warning("could not push kind=%s", event["kind"], exc_info=True)

    async def _push_all(self) -> None:
        """Send everything that is still open: this reader was too slow, events were left out."""
        self.news.lagged = False
        self.news.drain()
        for agent_id in list(self.session.agents):
            still_open = await in_thread(ops.open_of, agent_id)
            for offer in still_open["offers"]:
                await self._send({"push": "offer", "agent_id": agent_id, "offer": offer})
            for command in still_open["commands"]:
                await self._send({"push": "command", "agent_id": agent_id, "command": command})
        for topic in list(self.topics):
            if topic.startswith("request:"):
                await self._push_grant(topic.removeprefix("request:"))

    async def _push_event(self, event: Event) -> None:
        kind, agent_id = event["kind"], event["agent_id"]
        if agent_id in self.session.agents:
            if kind == "lease.offered":
                offer = await in_thread(ops.offer_of, event["lease_id"])
                if offer is not None:
                    await self._send({"push": "offer", "agent_id": agent_id, "offer": offer})
            elif kind in _LOST:
                await self._send(_loss(event))
            elif kind in _STATUS:
                for command in await in_thread(ops.commands_of, agent_id):
                    await self._send({"push": "command", "agent_id": agent_id, "command": command})
        if kind in ("lease.offered", "lease.active") and event["request_id"]:
            await self._push_grant(event["request_id"])

    async def _push_grant(self, request_id: str) -> None:
        topic = f"request:{request_id}"
        if topic not in self.topics:
            return
        lease = await in_thread(ops.grant_of, request_id)
        if lease is not None:
            self.topics.discard(topic)
            listener.remove(self.news, [topic])
            await self._send({"push": "granted", "request_id": request_id, "lease": lease})

    async def _send(self, message: dict[str, Any]) -> None:
        await self.send(text_data=json.dumps(message, default=str))


def _parsed(text: str | None) -> dict[str, Any]:
    if text is None:
        raise Invalid("Messages are JSON text.")
    if len(text) > MAX_MESSAGE_BYTES:
        raise Invalid(f"A message has at most {MAX_MESSAGE_BYTES:,} bytes.")
    try:
        message = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Invalid(f"The message is not JSON: {error}") from error
    if not isinstance(message, dict):
        raise Invalid("A message is a JSON object.")
    return message


def _loss(event: Event) -> dict[str, Any]:
    detail = event["detail"]
    return {
        "push": "lease_lost",
        "agent_id": event["agent_id"],
        "lease_id": event["lease_id"],
        "fencing_token": detail.get("fencing_token"),
        "reason": detail.get("error") or event["kind"],
    }


def _problem_of(error: Exception, message: dict[str, Any]) -> Any:
    answer = problem(error, {})
    if answer is not None:
        return answer.data
    log.exception("op failed op=%s", message.get("op"))
    return Unavailable("This failed here; it is in the log.").problem()
