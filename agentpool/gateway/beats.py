"""
Coalesces heartbeats: they wait in memory, about a second, for one statement that writes them all.

An answer goes out after the commit, with the expiry that was committed: whoever got none, because
the process died in between, has renewed nothing and knows it (docs/decisions/0012).
"""

import asyncio
import itertools
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from django.conf import settings
from django.db import DatabaseError, InterfaceError, OperationalError, close_old_connections

from agentpool.gateway.session import Speaker
from agentpool.gateway.wording import encoded
from agentpool.live.outgoing import Outlet
from agentpool.live.threads import in_thread
from agentpool.registry import queries as registry_queries
from agentpool.registry.errors import LeaseLost, Refusal, Unavailable
from balancing import showing
from balancing.services import heartbeats
from balancing.services.heartbeats import Beat, Heard, Heartbeat

log = logging.getLogger("agentpool.gateway")

# A lone beat waits so long for company, seconds; the event loop takes in what is there meanwhile.
GATHER_S = 0.005
# Agents of one statement; locks are held for as long as it takes.
MOST_AT_ONCE = 20_000
# Agents that are moved one by one in one thread before the next ones' turn.
ATTENDED_AT_ONCE = 50
# Answers written before the event loop may do something else.
WRITTEN_AT_ONCE = 500

# Who spoke, and the ids of the leases that this message named (None: none).
Named = tuple[Speaker, Sequence[str] | None]


class Asker:
    """One message that waits for its answer: where to, its id as JSON, and who spoke in it."""

    __slots__ = ("id", "is_group", "named", "outlet", "refused")

    def __init__(
        self,
        outlet: Outlet,
        id: str,
        named: Sequence[Named],
        *,
        refused: Sequence[dict[str, Any]] = (),
        is_group: bool = False,
    ) -> None:
        self.outlet, self.id, self.named = outlet, id, named
        self.refused, self.is_group = refused, is_group


class Batch:
    """What has been said since the last flush: each agent once, and all who wait for an answer."""

    def __init__(self) -> None:
        self.said: dict[Speaker, Heartbeat | None] = {}
        self.askers: list[Asker] = []

    def add(self, speaker: Speaker, said: Heartbeat | None) -> None:
        """Take a sign of life up; None: nothing but that it lives."""
        before = self.said.setdefault(speaker, said)
        if before is said or said is None:
            return
        if before is None:
            self.said[speaker] = said
            return
        leases: dict[str, Mapping[str, Any]] = {}
        for entry in (*before.leases, *said.leases):
            id = str(entry["lease_id"])
            leases[id] = _both(leases[id], entry) if id in leases else entry
        draining = before.draining or said.draining
        self.said[speaker] = Heartbeat(said.incarnation, tuple(leases.values()), draining)


def _both(before: Mapping[str, Any], after: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what two words of a lease say; of what both say the newer, with another token all."""
    if before["fencing_token"] != after["fencing_token"]:
        return after
    said = (before.get("usage") or {}, after.get("usage") or {})
    usage = {name: v for each in said for name, v in each.items() if v is not None}
    return {**before, **after, "usage": usage}


class Coalescer:
    """The heartbeats of one event loop; one thread with one connection writes them."""

    def __init__(self) -> None:
        self._batch = Batch()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="heartbeats")
        self._task: asyncio.Task[None] | None = None
        self._flushed_at = float("-inf")
        self._attending: set[asyncio.Task[None]] = set()

    def take(self, asker: Asker, said: Iterable[tuple[Speaker, Heartbeat | None]]) -> None:
        """This will write what was said with the next flush, and answer after its commit."""
        now = asyncio.get_running_loop().time()
        for speaker, word in said:
            speaker.said_at = now if word is None else now - word.age_s
            self._batch.add(speaker, word)
        self._batch.askers.append(asker)
        if self._task is None:
            self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._batch.askers:
                due_at = self._flushed_at + settings.FLUSH_S
                await asyncio.sleep(max(GATHER_S, due_at - loop.time()))
                batch, self._batch = self._batch, Batch()
                self._flushed_at = loop.time()
                await self._flush(batch, loop.time())
        finally:
            self._task = None

    async def _flush(self, batch: Batch, now: float) -> None:
        work = asyncio.get_running_loop().run_in_executor(self._thread, _written, batch, now)
        try:
            written = await work
        except Exception as error:
            if not isinstance(error, OperationalError | InterfaceError):
                log.exception("could not write heartbeats agents=%s", len(batch.said))
            await _write(_failures(batch.askers))
            return
        await _write(written.answers)
        if written.held:
            task = asyncio.create_task(_attend(written))
            self._attending.add(task)
            task.add_done_callback(self._attending.discard)


class _Written:
    """A flush that is durable: answers to give, and askers whose agents must be moved first."""

    def __init__(self, heard: Heard, beats: Mapping[Speaker, Beat]) -> None:
        self.heard, self.beats = heard, beats
        self.interval_s = registry_queries.heartbeat_interval_s()
        self.answers: list[tuple[Outlet, str]] = []
        self.held: list[Asker] = []
        self.moved: dict[Speaker, list[dict[str, Any]] | Refusal] = {}

    def answer(self, asker: Asker) -> str:
        """Return the answer to one message."""
        if asker.is_group:
            return self._group_answer(asker)
        ((speaker, names),) = asker.named
        told = self.told(speaker, names)
        if isinstance(told, Refusal):
            return f'{{"id": {asker.id}, "ok": false, "error": {encoded(told.problem())}}}'
        commands, kept = told
        return (
            f'{{"id": {asker.id}, "ok": true, "next_heartbeat_s": {self.interval_s}, '
            f'"commands": {encoded(commands)}, "leases": {encoded(kept)}}}'
        )

    def _group_answer(self, asker: Asker) -> str:
        agents = list(asker.refused)
        noted = self.heard.noted
        for speaker, names in asker.named:
            if names is None and self.beats[speaker] not in noted and speaker not in self.moved:
                continue  # it lives, and there is nothing to tell it
            told = self.told(speaker, names)
            if isinstance(told, Refusal):
                agents.append({"agent_id": speaker.name, "error": told.problem()})
            elif told[0] or told[1]:
                commands, kept = told
                agents.append({"agent_id": speaker.name, "commands": commands, "leases": kept})
        return (
            f'{{"id": {asker.id}, "ok": true, "next_heartbeat_s": {self.interval_s}, '
            f'"agents": {encoded(agents)}}}'
        )

    def told(
        self, speaker: Speaker, names: Sequence[str] | None
    ) -> tuple[list[Any], list[Any]] | Refusal:
        """Return the commands for an agent and the leases it keeps, of those that it named."""
        beat = self.beats[speaker]
        if names is None and beat not in self.heard.noted and speaker not in self.moved:
            return [], []
        if (refusal := self.heard.refusal(beat, speaker.name)) is not None:
            return refusal
        commands = self.heard.lost_of(beat, names or ())
        moved = self.moved.get(speaker)
        if isinstance(moved, Refusal):
            return moved
        commands += self.heard.status_commands_of(beat) if moved is None else moved
        kept = [showing.kept_lease_json(lease) for lease in self.heard.kept_of(beat, names or ())]
        return commands, kept


def _written(batch: Batch, now: float) -> _Written:
    """Write a batch, in this thread's connection; return it with the answers it allows."""
    close_old_connections()
    try:
        beats = {speaker: _beat(speaker, said, now) for speaker, said in batch.said.items()}
        heard = _heard(list(beats.values()))
        written = _Written(heard, beats)
        moving = {speaker for speaker, beat in beats.items() if heard.wants_more(beat)}
        for asker in batch.askers:
            if moving and any(speaker in moving for speaker, _ in asker.named):
                written.held.append(asker)
            else:
                written.answers.append((asker.outlet, written.answer(asker)))
        return written
    finally:
        close_old_connections()


def _beat(speaker: Speaker, said: Heartbeat | None, now: float) -> Beat:
    age_s = max(0.0, now - speaker.said_at)
    if said is None:
        return Beat(speaker.key, speaker.incarnation, str(speaker.credential), age_s=age_s)
    leases = {str(entry["lease_id"]): entry for entry in said.leases}
    credential = str(speaker.credential)
    return Beat(speaker.key, speaker.incarnation, credential, leases, said.draining, age_s)


def _heard(beats: Sequence[Beat]) -> Heard:
    noted: dict[Beat, Any] = {}
    kept: dict[Any, Any] = {}
    for start in range(0, len(beats), MOST_AT_ONCE):
        some = beats[start : start + MOST_AT_ONCE]
        try:
            found = [heartbeats.hear(some)]
        except (OperationalError, InterfaceError):
            raise
        except DatabaseError:
            # Whatever it was concerns one of them: the others shall be heard.
            log.exception("could not write heartbeats together agents=%s", len(some))
            found = list(itertools.chain.from_iterable(map(_heard_alone, some)))
        for one in found:
            noted.update(one.noted)
            kept.update(one.kept)
    return Heard(noted, kept)


def _heard_alone(beat: Beat) -> list[Heard]:
    try:
        return [heartbeats.hear([beat])]
    except DatabaseError:
        log.exception("could not write a heartbeat agent=%s", beat.agent)
        return [Heard({beat: heartbeats.UNHEARD}, {})]


async def _attend(written: _Written) -> None:
    """Move the agents that need it, some at a time, then answer who waits for them."""
    moving = [speaker for speaker, beat in written.beats.items() if written.heard.wants_more(beat)]
    for start in range(0, len(moving), ATTENDED_AT_ONCE):
        some = moving[start : start + ATTENDED_AT_ONCE]
        try:
            await in_thread(_attend_some, written, some)
        except Exception:
            log.exception("could not attend agents=%s", len(some))
            away = Unavailable("This failed here; try again.", retry_after_s=2)
            written.moved.update(dict.fromkeys(some, away))
    await _write([(asker.outlet, written.answer(asker)) for asker in written.held])


def _attend_some(written: _Written, speakers: Sequence[Speaker]) -> None:
    for speaker in speakers:
        try:
            written.moved[speaker] = heartbeats.attend(written.beats[speaker])
        except Refusal as refusal:
            written.moved[speaker] = refusal


def _failures(askers: Sequence[Asker]) -> list[tuple[Outlet, str]]:
    away = Unavailable("The heartbeat was not written; try again.", retry_after_s=2)
    problem = json.dumps(away.problem())
    return [
        (asker.outlet, f'{{"id": {asker.id}, "ok": false, "error": {problem}}}') for asker in askers
    ]


async def _write(answers: Sequence[tuple[Outlet, str]]) -> None:
    for count, (outlet, text) in enumerate(answers, start=1):
        outlet.write(text)
        if count % WRITTEN_AT_ONCE == 0:
            await asyncio.sleep(0)


def stale(speaker: Speaker) -> LeaseLost:
    """Return why an incarnation that is not the token's own is refused."""
    return LeaseLost(f"{speaker.name} speaks as another incarnation than {speaker.incarnation}.")


_coalescers: dict[int, Coalescer] = {}


def coalescer() -> Coalescer:
    """Return the running event loop's coalescer."""
    loop = id(asyncio.get_running_loop())
    found = _coalescers.get(loop)
    if found is None:
        found = _coalescers[loop] = Coalescer()
    return found
