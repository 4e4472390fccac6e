"""
One connection that speaks for many agents: a machine's worth of heartbeats in one message.

For whoever runs agents of their own by the hundred in one process. Where the gateway can't be had,
each agent's heartbeat goes by REST, under its own credential.
"""

import contextlib
import json
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Self

import httpx

from agentpool.client import calls, config, errors, exchange, gateway, models, wire
from agentpool.client.doors import Hinge
from agentpool.client.gateway import Message
from agentpool.client.line import Line

log = logging.getLogger("agentpool.client")

# How many say hello in one go; the server serves 500 together.
_HELLOS = 500
# How long to wait when the server says that they come too fast, in seconds.
_SLOWED_S = 0.5
# How long hellos may take in all before everybody speaks by REST, in seconds.
_GREET_S = 60.0

Heard = models.Heartbeat | errors.ApiError


@dataclass(frozen=True, slots=True)
class _Member:
    agent_id: str
    incarnation: int
    credential: str


class Host:
    """
    The agents of one machine, behind one connection; safe to share between threads.

    Args:
        url: of the control plane; None: as the environment or the config file says.
        on_push: gets offers, commands and losses as they come (`{push, agent_id, ...}`), in a
            thread of its own; what was open before comes with the answer to `add`.

    """

    def __init__(
        self, *, url: str | None = None, on_push: Callable[[Message], None] | None = None
    ) -> None:
        self._settings = config.Config(url=(url or config.load().url).rstrip("/"), token="")
        self._http = httpx.Client(**wire.http_options(self._settings))
        self._hinge = Hinge(self._settings, is_wanted=True)
        self._on_push = on_push
        self._members: dict[str, _Member] = {}
        # Whose hello was refused, and why.
        self._cut: dict[str, errors.ApiError] = {}
        self._line: Line | None = None
        self._lock = threading.Lock()
        self._pushes: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        if on_push is not None:
            # Its own thread: who is called may take its time, and may call the host.
            threading.Thread(target=self._pass_on, name="agentpool-pushes", daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Hang up; the agents stay what they are until their silence is noticed."""
        if self._line is not None:
            self._line.close()
        self._pushes.put(None)
        self._http.close()

    @property
    def is_live(self) -> bool:
        """Whether the gateway is there."""
        return self._line is not None and self._line.is_open

    def add(self, agents: Iterable[models.Agent]) -> None:
        """
        Speak for these agents, as they were registered (`register_agent`), from now on.

        Hello is said at once on an open connection, else with the next heartbeat, which also
        tells of those whose credential is no good.
        """
        with self._lock:
            for agent in agents:
                member = _Member(agent.agent_id, agent.incarnation, agent.credential or "")
                self._members[agent.agent_id] = member
                self._cut.pop(agent.agent_id, None)
                if self._line is not None and self._line.is_open:
                    said = {"op": "hello", "token": member.credential}
                    with contextlib.suppress(errors.Unreachable):  # a new line greets everybody
                        answer = self._line.ask(said, within_s=gateway.within_s(said))
                        self._greeted(member, answer)

    def remove(self, agent_id: str) -> None:
        """Speak for an agent no more."""
        with self._lock:
            self._members.pop(agent_id, None)
            self._cut.pop(agent_id, None)

    def heartbeat(
        self,
        leases: Mapping[str, Sequence[calls.LeaseReport]] | None = None,
        *,
        draining: Iterable[str] = (),
    ) -> dict[str, Heard]:
        """
        Say that all agents live and what their leases do; return what each is told.

        leases: by agent, renewed by it. draining: those that want nothing new. An agent whose
        heartbeat was refused has the error instead: Unauthenticated and LeaseLost mean that it was
        cut off. Raises: Unreachable, nobody knows whether anything was heard; say it again.
        """
        with self._lock:
            reports, leaving = leases or {}, set(draining)
            beats = [
                calls.heartbeat(
                    member.agent_id,
                    incarnation=member.incarnation,
                    leases=reports.get(member.agent_id, ()),
                    draining=member.agent_id in leaving,
                )
                for member in self._members.values()
            ]
            if beats and not self.is_live and self._hinge.may_try():
                self._dial()
            line = self._line
            if line is None or not line.is_open:
                return {beat.about["agent_id"]: self._by_rest(beat) for beat in beats}
            told: dict[str, Heard] = dict(self._cut)
            for some in _messages([b for b in beats if b.about["agent_id"] not in told]):
                told.update(_told(line, some))
            return told

    # --- the connection ---------------------------------------------------------------------

    def _dial(self) -> None:
        """Connect and say hello for everybody."""
        self._cut.clear()
        left = list(self._members.values())
        try:
            line = Line(self._settings.url, on_push=self._pushes.put if self._on_push else None)
            give_up_at = time.monotonic() + _GREET_S
            while left:
                if time.monotonic() > give_up_at:
                    line.close()
                    raise errors.Unreachable("the server takes no more hellos")
                some, left = left[:_HELLOS], left[_HELLOS:]
                answers = line.greet([member.credential for member in some])
                slowed = [
                    member
                    for member, answer in zip(some, answers, strict=True)
                    if not self._greeted(member, answer)
                ]
                if slowed:
                    time.sleep(_SLOWED_S)
                left = [*slowed, *left]
        except errors.Unreachable as error:
            self._hinge.failed(error)
            return
        self._hinge.back()
        self._line = line
        threading.Thread(target=line.listen, name="agentpool-host", daemon=True).start()

    def _greeted(self, member: _Member, answer: Message) -> bool:
        """Pass on what waited for an agent, or note its refusal; False: say hello once more."""
        if answer.get("ok") is not True:
            refusal = gateway.refusal(answer)
            if isinstance(refusal, errors.RateLimited | errors.Unavailable):
                return False
            self._cut[member.agent_id] = refusal
            return True
        if self._on_push is None:
            return True
        for offer in answer.get("offers") or ():
            self._pushes.put({"push": "offer", "agent_id": member.agent_id, "offer": offer})
        for command in answer.get("commands") or ():
            told = {"push": "command", "agent_id": member.agent_id, "command": command}
            self._pushes.put(told)
        return True

    def _pass_on(self) -> None:
        while (message := self._pushes.get()) is not None:
            try:
                if self._on_push is not None:
                    self._on_push(message)
            except Exception:
                log.exception("on_push failed push=%s", message.get("push"))

    def _by_rest(self, beat: calls.Call[models.Heartbeat]) -> Heard:
        credential = self._members[beat.about["agent_id"]].credential
        call = replace(beat, headers={**beat.headers, "Authorization": f"Bearer {credential}"})
        try:
            reply = wire.reply(self._http.request(**wire.request_options(call)))
            return exchange.answer(call, reply)
        except httpx.HTTPError as error:
            return wire.unreachable(error, self._settings.url)
        except errors.ApiError as error:
            return error


def _messages(beats: Sequence[calls.Call[Any]]) -> Iterator[list[Message]]:
    """Yield what the agents say in messages that the gateway takes."""
    some: list[Message] = []
    size = 0
    for beat in beats:
        entry = {**beat.about, **{k: v for k, v in beat.body.items() if v or k != "leases"}}
        length = len(json.dumps(entry))
        if some and (len(some) == gateway.MOST_AGENTS or size + length > gateway.MOST_BYTES):
            yield some
            some, size = [], 0
        some.append(entry)
        size += length
    if some:
        yield some


def _told(line: Line, some: Sequence[Message]) -> dict[str, Heard]:
    """Send one message; return what each of its agents is told."""
    said = {"op": "heartbeat", "agents": some}
    answer = line.ask(said, within_s=gateway.within_s(said))
    if answer.get("ok") is not True:
        return {entry["agent_id"]: gateway.refusal(answer) for entry in some}
    # Of most agents there is nothing to tell, and the answer leaves them out.
    nothing = {"next_heartbeat_s": answer["next_heartbeat_s"], "commands": [], "leases": []}
    told: dict[str, Heard] = {
        entry["agent_id"]: models.read(models.Heartbeat, nothing) for entry in some
    }
    for one in answer.get("agents") or ():
        problem = {"ok": False, "error": one.get("error")}
        told[one["agent_id"]] = (
            gateway.refusal(problem)
            if one.get("error")
            else models.read(models.Heartbeat, {**nothing, **one})
        )
    return told
