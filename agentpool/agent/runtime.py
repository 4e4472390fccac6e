"""
The runtime of one agent: connects, takes offers, keeps its leases alive, leaves when told.

Threads: this one waits for signals; the link listens; the heart beats; each lease has its own.
"""

import os
import random
import select
import signal
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from agentpool.agent import doctor, enrolment, journal, workspace
from agentpool.agent.bench import Bench
from agentpool.agent.control import Reason
from agentpool.agent.link import Link
from agentpool.agent.options import Options
from agentpool.agent.work import Work
from agentpool.client import clock, errors, models

DRAINED = 0
CANNOT_START = 1
NOTHING_ACQUIRED = 27
CUT_OFF = 29

_TICK_S = 1.0
_FIRST_BACKOFF_S = 0.5
# Once work was cancelled because the runtime leaves: how long its leases may be given back.
_LEAVE_S = 15.0
_LEAVE_NOW_S = 2.0
_REMEMBERED = 1000
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1, signal.SIGHUP)


class Signals:
    """Signals as bytes in a pipe: a handler may interrupt anything, so it does nothing more."""

    def __init__(self) -> None:
        self._out, self._in = os.pipe()
        os.set_blocking(self._in, False)
        for number in _SIGNALS:
            # Who starts it under nohup wants it to outlive the terminal.
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._came)

    def wait(self, seconds: float) -> list[int]:
        """Return the signals that came, waiting up to `seconds` for the first."""
        ready, _, _ = select.select([self._out], [], [], seconds)
        return [number for number in os.read(self._out, 64) if number] if ready else []

    def poke(self) -> None:
        """End a wait from another thread."""
        self._write(0)

    def _came(self, number: int, _frame: FrameType | None) -> None:
        self._write(number)

    def _write(self, number: int) -> None:
        try:
            os.write(self._in, bytes([number]))
        except BlockingIOError:
            # The pipe is full of signals that nobody read yet; one more says nothing new.
            return


class Runtime:
    """One agent at work."""

    def __init__(self, said: Options) -> None:
        self._said = said
        self._signals = Signals()
        self._works: dict[str, Work] = {}
        self._known: deque[str] = deque(maxlen=_REMEMBERED)
        self._lock = threading.Lock()
        self._beat_now = threading.Event()
        self._stopped = threading.Event()
        self._draining = False
        self._cut_off = ""
        self._acquired = 0
        self._leaves_at: float | None = None
        self._began_at = self._busy_at = clock.now()

    def run(self) -> int:
        """
        Be an agent until told to leave, and return the exit code.

        Raises: enrolment.CannotStart, the control plane takes no such agent.
        """
        workdir, agent_id, lock = enrolment.open_workdir(self._said)
        with lock:
            self._end_leftovers(workdir)
            ability = self._ability = doctor.ability(self._said, workdir)
            identity = enrolment.enrol(
                said=self._said,
                levels=ability.levels,
                workdir=workdir,
                agent_id=agent_id,
                is_over=self._is_told_to_leave,
            )
            if identity is None:
                return NOTHING_ACQUIRED if self._said.once else DRAINED
            self._connect(identity, workdir)
            self._heart.start()
            self._link.start()
            self._wait_until_over()
            return self._leave(workdir)

    # --- beginning and end ------------------------------------------------------------------

    def _connect(self, identity: enrolment.Identity, workdir: Path) -> None:
        journal.note(
            "agent.started",
            agent=identity.agent_id,
            pool=identity.agent_type,
            incarnation=identity.incarnation,
            slots=self._said.slots,
            isolation=",".join(self._ability.levels) + (" (bare)" if self._ability.is_bare else ""),
            url=identity.url,
            pid=os.getpid(),
        )
        self._link = Link(identity, on_message=self._take, on_cut_off=self._cut)
        self._bench = Bench(
            identity=identity,
            link=self._link,
            workdir=workdir,
            slots=threading.Semaphore(1 if self._said.once else self._said.slots),
            means=self._ability.means,
            levels=self._ability.levels,
            is_bare=self._ability.is_bare,
            exec_line=self._said.exec,
            secrets_dir=self._said.secrets_dir,
            may_start=self._may_start,
            on_over=self._signals.poke,
            leaves_at=lambda: self._leaves_at,
        )
        self._interval_s = identity.heartbeat_interval_s
        self._heart = threading.Thread(target=self._beat, name="heart", daemon=True)

    def _end_leftovers(self, workdir: Path) -> None:
        """After a kill -9 of this runtime: its works may still run, their folders are there."""
        ended, leases = doctor.remove_left(workdir), workdir / "leases"
        if leases.is_dir() and any(leases.iterdir()):
            workspace.remove(leases)
            journal.note("leftovers.ended", found=ended)

    def _is_told_to_leave(self) -> bool:
        told = set(self._signals.wait(0)) - {signal.SIGUSR1}
        self._draining = self._draining or bool(told)
        return self._draining

    def _may_start(self) -> bool:
        """Whether one more lease may begin."""
        has_had_one = self._acquired or any(work.is_acked for work in self._held())
        return not self._draining and not (self._said.once and has_had_one)

    def _wait_until_over(self) -> None:
        """Serve signals and timers until nothing is left to do."""
        while not self._is_over():
            self._obey(self._signals.wait(_TICK_S))
            self._forget_ended()
            self._look_at_timers()

    def _is_over(self) -> bool:
        if self._cut_off or (self._leaves_at is not None and clock.now() >= self._leaves_at):
            return not any(work.is_acked for work in self._works.values()) or self._is_late()
        return self._draining and not self._works

    def _is_late(self) -> bool:
        """Whether even the time for killing and cleaning up is used up."""
        return self._leaves_at is not None and clock.now() >= self._leaves_at + _LEAVE_NOW_S

    def _leave(self, workdir: Path) -> int:
        """Say good-bye, and tell the exit code."""
        self._stopped.set()
        self._beat_now.set()
        if self._cut_off:
            journal.note("agent.cut_off", reason=self._cut_off)
            self._link.close()
            return CUT_OFF
        try:
            self._link.retire()
            workspace.remove(self._ability.means.cache)
            enrolment.forget(workdir)
        except errors.ApiError as error:
            journal.note("agent.not_retired", reason=str(error))
        self._link.close()
        doctor.remove_left(workdir)
        journal.note("agent.left", leases=self._acquired)
        return NOTHING_ACQUIRED if self._said.once and not self._acquired else DRAINED

    # --- signals and timers -----------------------------------------------------------------

    def _obey(self, numbers: list[int]) -> None:
        for number in numbers:
            if number == signal.SIGUSR1:
                self._tell_state()
            elif number == signal.SIGHUP:
                # A terminal that closes says so more than once (its shell, the kernel).
                self._drain(signal.Signals(number).name)
            elif number == signal.SIGQUIT or self._leaves_at is not None:
                self._cancel_all(_LEAVE_NOW_S, is_urgent=True)
            elif self._draining:
                self._cancel_all(_LEAVE_S)
            else:
                self._drain(signal.Signals(number).name)

    def _drain(self, reason: str) -> None:
        if not self._draining:
            self._draining = True
            journal.note("agent.draining", reason=reason, leases=len(self._works))
            self._beat_now.set()

    def _cancel_all(self, within_s: float, *, is_urgent: bool = False) -> None:
        """Stop all work and give the leases back, within so many seconds."""
        self._draining = True
        if self._leaves_at is None or clock.now() + within_s < self._leaves_at:
            self._leaves_at = clock.now() + within_s
        for work in self._held():
            work.control.stop(Reason.LEAVING, is_urgent=is_urgent)

    def _look_at_timers(self) -> None:
        now = clock.now()
        if self._works:
            self._busy_at = now
        idle_s, uptime_s = self._said.disconnect_after_idle_s, self._said.disconnect_after_uptime_s
        if self._said.once and self._acquired:
            self._drain("once")
        elif idle_s is not None and now - self._busy_at >= idle_s:
            self._drain("idle")
        elif uptime_s is not None and now - self._began_at >= uptime_s:
            self._drain("uptime")

    def _tell_state(self) -> None:
        journal.note(
            "agent.state",
            websocket=self._link.is_live,
            draining=self._draining,
            leases=" ".join(self._works) or "none",
            acquired=self._acquired,
        )

    # --- offers and commands ----------------------------------------------------------------

    def _take(self, message: Mapping[str, Any]) -> None:
        """Act on what the control plane says; runs in the link's or the heart's thread."""
        kind = message.get("push")
        try:
            if kind == "offer":
                self._take_offer(message.get("offer") or {})
            elif kind == "command":
                self._take_command(message.get("command") or {})
            elif kind == "lease_lost":
                self._lose(str(message.get("lease_id")), message.get("fencing_token"))
        except Exception as error:
            # Without its thread the agent would be deaf, or without a pulse, and look alive.
            journal.note("message.failed", kind=kind, error=repr(error))

    def _take_offer(self, offer: Mapping[str, Any]) -> None:
        try:
            work = Work(offer, bench=self._bench)
        except (KeyError, TypeError, ValueError) as error:
            journal.note("offer.unreadable", error=repr(error))
            return
        with self._lock:
            if work.lease_id in self._known:
                return
            self._known.append(work.lease_id)
            # There may be no more threads to be had: then it is nobody's, and withdrawn in time.
            work.start()
            self._works[work.lease_id] = work

    def _take_command(self, command: Mapping[str, Any]) -> None:
        kind, lease_id = command.get("kind"), str(command.get("lease_id") or "")
        if kind == "drain":
            # Said with every heartbeat while it lasts. The server offers nothing meanwhile, and
            # may take it back, so this is no order to leave.
            return
        journal.note("command", kind=kind, lease=lease_id or None, reason=command.get("reason"))
        work = self._works.get(lease_id)
        if kind == "stop":
            self._drain("command")
            self._cancel_all(_LEAVE_S)
            self._signals.poke()
        elif kind == "resize" and work is not None:
            grant = command.get("grant")
            work.resize(grant if isinstance(grant, Mapping) else {})
        elif kind == "refresh":
            self._beat_now.set()
        elif kind == "cancel" and command.get("reason") == "lease_lost":
            self._lose(lease_id, command.get("fencing_token"))
        elif kind == "cancel" and work is not None:
            work.control.stop(Reason.CANCELLED, str(command.get("reason") or ""))

    def _lose(self, lease_id: str, fencing_token: object) -> None:
        work = self._works.get(lease_id)
        if work is not None and fencing_token in (None, work.fencing_token):
            work.control.stop(Reason.LOST)

    def _cut(self, reason: str) -> None:
        """A newer incarnation is there: everything here is void."""
        self._cut_off = self._cut_off or reason or "the credential is no longer good"
        self._draining = True
        for work in self._held():
            work.control.stop(Reason.LOST)
        if self._leaves_at is None:
            self._leaves_at = clock.now() + _LEAVE_NOW_S
        self._signals.poke()

    # --- the heart --------------------------------------------------------------------------

    def _beat(self) -> None:
        """Send a heartbeat at the interval the server sets, whatever the works do."""
        backoff_s = _FIRST_BACKOFF_S
        while not self._stopped.is_set():
            if self._beat_once():
                backoff_s = _FIRST_BACKOFF_S
                pause_s = self._interval_s
            else:
                pause_s = min(self._interval_s, backoff_s) * random.uniform(0.5, 1.0)
                backoff_s *= 2
            self._beat_now.wait(pause_s)
            self._beat_now.clear()

    def _beat_once(self) -> bool:
        """Send one heartbeat and act on its answer; False when none came."""
        sent_at = clock.now()
        held = [work for work in self._held() if work.is_acked and not work.control.is_lost]
        try:
            answer = self._send_beat(held)
        except (errors.Unauthenticated, errors.Forbidden, errors.LeaseLost, errors.NotFound) as e:
            self._cut(e.detail)
            return True
        except errors.ApiError as error:
            journal.note("heartbeat.failed", reason=str(error))
            return False
        self._interval_s = max(0.05, answer.next_heartbeat_s)
        self._renew(answer, sent_at)
        for command in answer.commands:
            self._take({"push": "command", "command": command})
        return True

    def _send_beat(self, held: Sequence[Work]) -> models.Heartbeat:
        try:
            reports = [work.report() for work in held]
            return self._link.heartbeat(leases=reports, draining=self._draining)
        except errors.Invalid as error:
            # What some work reported can't be taken; the leases must be renewed all the same.
            journal.note("heartbeat.invalid", reason=str(error))
            reports = [work.report(is_bare=True) for work in held]
            return self._link.heartbeat(leases=reports, draining=self._draining)

    def _renew(self, answer: models.Heartbeat, sent_at: float) -> None:
        for lease in answer.leases:
            work = self._works.get(str(lease.get("lease_id")))
            is_same = work is not None and lease.get("fencing_token") == work.fencing_token
            if work is not None and is_same and lease.get("expires_in_s") is not None:
                work.control.renewed(sent_at=sent_at, expires_in_s=float(lease["expires_in_s"]))

    # --- works ------------------------------------------------------------------------------

    def _held(self) -> list[Work]:
        with self._lock:
            return list(self._works.values())

    def _forget_ended(self) -> None:
        for work in self._held():
            if work.is_over:
                with self._lock:
                    del self._works[work.lease_id]
                self._acquired += work.is_acked
                self._busy_at = clock.now()
