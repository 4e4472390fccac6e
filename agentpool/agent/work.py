"""The work of one lease, from its offer to its release, in a thread of its own."""

import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from agentpool.agent import (
    clock,
    contract,
    execution,
    isolation,
    journal,
    lease_log,
    usage,
    workspace,
)
from agentpool.agent.control import Control, Reason
from agentpool.agent.enrolment import Identity
from agentpool.agent.link import Link
from agentpool.client import calls, errors, models

_DEFAULT_ACK_S = 15.0
_FIRST_BACKOFF_S = 0.2
_LONGEST_BACKOFF_S = 5.0
_AWAY = (errors.Unreachable, errors.Unavailable, errors.RateLimited)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """What the release of a lease says."""

    outcome: str
    error: str | None = None
    retry: bool = False
    usage: calls.Usage = field(default_factory=calls.Usage)
    result: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What all works of a runtime share."""

    identity: Identity
    link: Link
    workdir: Path
    slots: threading.Semaphore
    exec_line: str | None = None
    secrets_dir: Path | None = None
    may_start: Callable[[], bool] = lambda: True
    # Called at the end of each work.
    on_over: Callable[[], None] = lambda: None
    # After this moment nobody waits for an answer any more; None: no such moment.
    leaves_at: Callable[[], float | None] = lambda: None


class Work:
    """One lease in this runtime's hands."""

    def __init__(self, offer: Mapping[str, Any], *, bench: Bench) -> None:
        self.lease_id = str(offer["id"])
        self.fencing_token = int(offer["fencing_token"])
        self.control = Control()
        self.is_acked = False
        self.is_over = False
        self._offer = offer
        self._grant: Mapping[str, Any] = offer.get("grant") or {}
        self._payload: Mapping[str, Any] = offer.get("payload") or {}
        self._bench = bench
        self._folder = contract.Folder(root=bench.workdir / "leases" / self.lease_id)
        self._meter: usage.Meter | None = None
        self._thread = threading.Thread(target=self._run, name=f"work-{self.lease_id[:8]}")
        self._thread.daemon = True

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def report(self, *, is_bare: bool = False) -> calls.LeaseReport:
        """Return what the heartbeat says about the lease; bare, without what the work reported."""
        said: calls.LeaseReport = {"lease_id": self.lease_id, "fencing_token": self.fencing_token}
        if is_bare:
            return said
        if meter := self._meter:
            said["usage"] = {**meter.usage(), **self._tokens()}
        if progress := usage.progress(usage.read_json(self._folder.progress)):
            said["progress"] = progress
        return said

    def resize(self, grant: Mapping[str, Any]) -> None:
        """Take a changed grant; the work finds it in its payload file."""
        self._grant = {**self._grant, **grant}
        if self._folder.payload.exists():
            contract.write_payload(folder=self._folder, lease=self._lease(), payload=self._payload)

    # --- the thread -------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._from_offer_to_release()
        except Exception as error:
            journal.note("work.broken", lease=self.lease_id, error=repr(error))
            self._release(Ending(outcome="failure", error=f"agent fault: {error!r}"[:2000]))
        finally:
            workspace.remove(self._folder.root)
            self.is_over = True
            self._bench.on_over()

    def _from_offer_to_release(self) -> None:
        ack_until = clock.now() + float(self._offer.get("ack_within_s") or _DEFAULT_ACK_S)
        # The slot of a lease that ends just now comes free a moment after its release.
        if not self._bench.slots.acquire(timeout=max(0.1, ack_until - clock.now() - 1.0)):
            journal.note("offer.no_slot", lease=self.lease_id)
            return
        try:
            if not self._accept(ack_until):
                return
            ending = self._do()
        finally:
            self._bench.slots.release()
        self._release(ending)

    def _accept(self, ack_until: float) -> bool:
        """Acknowledge the offer; False when it is not ours to do."""
        if refusal := self._refusal():
            journal.note("offer.refused", lease=self.lease_id, reason=refusal)
            self._decline(refusal)
            return False
        while clock.now() < ack_until:
            sent_at = clock.now()
            try:
                lease = self._bench.link.ack(self.lease_id, fencing_token=self.fencing_token)
            except _AWAY:
                time.sleep(random.uniform(0.05, 0.3))
                continue
            except errors.ApiError as error:
                journal.note("offer.gone", lease=self.lease_id, reason=str(error))
                return False
            self._begins(lease, sent_at)
            return True
        return False

    def _refusal(self) -> str | None:
        if not self._bench.may_start():
            return "the agent is leaving"
        try:
            isolation.tier(self._isolation())
        except isolation.IsolationUnavailable as error:
            return str(error)
        return None

    def _decline(self, reason: str) -> None:
        """Hand an offer back at once; else it would be withdrawn only when its time is up."""
        try:
            self._bench.link.release(
                self.lease_id,
                fencing_token=self.fencing_token,
                outcome="cancelled",
                retry=True,
                error=reason,
            )
        except errors.ApiError as error:
            journal.note("offer.not_declined", lease=self.lease_id, reason=str(error))

    def _begins(self, lease: models.Lease, sent_at: float) -> None:
        """Count the lease's ends from here, by differences of the server's own times."""
        began = lease.acked_at or lease.acquired_at
        if lease.expires_in_s is not None:
            self.control.renewed(sent_at=sent_at, expires_in_s=lease.expires_in_s)
        elif lease.expires_at is not None and began is not None:
            left_s = (lease.expires_at - began).total_seconds()
            self.control.renewed(sent_at=sent_at, expires_in_s=left_s)
        hard_end = lease.hard_end_at or _time(self._offer.get("hard_end_at"))
        if hard_end is not None and began is not None:
            self.control.ends(at=sent_at + (hard_end - began).total_seconds())
        self.is_acked = True
        journal.note(
            "lease.started",
            lease=self.lease_id,
            project=self._offer.get("project"),
            cycle=self._offer.get("cycle_id"),
            phase=self._offer.get("phase"),
            token=self.fencing_token,
        )

    def _do(self) -> Ending:
        """Make the workspace, run the command, read what it reported."""
        began = clock.now()
        spec = isolation.Spec(lease_id=self.lease_id, folder=self._folder.root, grant=self._grant)
        log = lease_log.LeaseLog(self._send_log, is_void=self._is_void)
        environment = isolation.tier(self._isolation()).create(spec)
        try:
            ending = self._attempt(environment, log)
            if ending.error:
                log.write("stderr", f"[agentpool: {ending.error}]\n")
        finally:
            environment.destroy()
            log.finish()
        journal.note(
            "lease.ended",
            lease=self.lease_id,
            outcome=ending.outcome,
            error=ending.error,
            seconds=round(clock.now() - began, 3),
        )
        return ending

    def _attempt(self, environment: isolation.Environment, log: lease_log.LeaseLog) -> Ending:
        """Run the command; what keeps it from running is an ending, too."""
        try:
            return self._run_command(environment, log)
        except (workspace.WorkspaceFailed, ValueError) as error:
            return Ending(outcome="failure", error=str(error))
        except contract.SecretMissing as error:
            return _config_fault(str(error))
        except OSError as error:
            return _config_fault(f"{error.filename or 'command'}: {error.strerror or error}")
        except workspace.Stopped:
            return self._stopped(self.control.reason() or Reason.CANCELLED)

    def _run_command(self, environment: isolation.Environment, log: lease_log.LeaseLog) -> Ending:
        place, env = self._prepare()
        command = contract.command_of(
            payload=self._payload, exec_line=self._bench.exec_line, env=env
        )
        is_own = place.is_relative_to(self._folder.root)
        self._meter = usage.Meter(environment, workspace=place if is_own else None)
        ended = execution.execute(
            environment=environment,
            command=command,
            env=env,
            cwd=place,
            control=self.control,
            meter=self._meter,
            write=log.write,
        )
        return self._judge(ended)

    def _prepare(self) -> tuple[Path, dict[str, str]]:
        """Make folder, workspace, files and secrets; return where to start, and with what."""
        workspace.remove(self._folder.root)
        self._folder.make()
        git = workspace.Git(
            mirrors=self._bench.workdir / "mirrors",
            is_stopped=lambda: self.control.reason() is not None,
        )
        place = workspace.prepare(
            wanted=self._payload.get("workspace"), folder=self._folder.root, git=git
        )
        workspace.write_files(files=self._payload.get("files") or {}, place=place)
        contract.place_secrets(
            names=self._payload.get("secrets") or (),
            source=self._bench.secrets_dir,
            folder=self._folder,
        )
        lease = self._lease()
        contract.write_payload(folder=self._folder, lease=lease, payload=self._payload)
        identity = self._bench.identity
        return place, contract.environment(
            agent_id=identity.agent_id,
            agent_type=identity.agent_type,
            url=identity.url,
            lease=lease,
            payload=self._payload,
            folder=self._folder,
        )

    def _lease(self) -> dict[str, Any]:
        lease = {key: value for key, value in self._offer.items() if key != "payload"}
        return {**lease, "grant": self._grant}

    def _judge(self, ended: execution.Ending) -> Ending:
        """Return what the exit code, or the reason it was stopped for, says."""
        result = {**usage.read_json(self._folder.result), "exit_code": ended.exit.code}
        used = self._used()
        if ended.reason is not None:
            stopped = self._stopped(ended.reason)
            return Ending(
                outcome=stopped.outcome,
                error=stopped.error,
                retry=stopped.retry,
                usage=used,
                result=result,
            )
        code = ended.exit.code
        if code == 0:
            return Ending(outcome="success", usage=used, result=result)
        return Ending(
            outcome="failure",
            error=_exit_words(code, ended.last_line),
            retry=code == contract.RETRY_ELSEWHERE,
            usage=used,
            result=result,
        )

    def _stopped(self, reason: Reason) -> Ending:
        note = self.control.note
        if reason is Reason.TIMEOUT:
            return Ending(outcome="timeout", error="the work took longer than its limit")
        if reason is Reason.UNRENEWED:
            error = "the control plane was away for too long; the agent stopped the work"
            return Ending(outcome="cancelled", error=error, retry=True)
        if reason is Reason.LEAVING:
            return Ending(outcome="cancelled", error="the agent is leaving", retry=True)
        return Ending(outcome="cancelled", error=note or "cancelled")

    # --- the way back -----------------------------------------------------------------------

    def _release(self, ending: Ending) -> None:
        """Give the lease back; goes on until the control plane took it or says it is not ours."""
        backoff_s = _FIRST_BACKOFF_S
        while not self._is_void():
            try:
                self._bench.link.release(
                    self.lease_id,
                    fencing_token=self.fencing_token,
                    outcome=ending.outcome,
                    retry=ending.retry,
                    error=ending.error,
                    usage=ending.usage,
                    result=ending.result,
                )
            except _AWAY as error:
                journal.note("release.waiting", lease=self.lease_id, reason=error.detail)
            except errors.Invalid as error:
                journal.note("release.invalid", lease=self.lease_id, reason=str(error))
                if ending.result is None and not ending.usage:
                    return
                # What the work reported can't be taken; that it ended still must be.
                remark = f"{ending.error or ''} (its report was refused: {error.detail})"
                ending = replace(ending, usage={}, result=None, error=remark.strip()[:2000])
                continue
            except errors.ApiError as error:
                journal.note("release.refused", lease=self.lease_id, reason=str(error))
                return
            else:
                journal.note("lease.released", lease=self.lease_id, outcome=ending.outcome)
                return
            time.sleep(backoff_s * random.uniform(0.5, 1.5))
            backoff_s = min(_LONGEST_BACKOFF_S, backoff_s * 2)
        journal.note("lease.dropped", lease=self.lease_id, lost=self.control.is_lost)

    def _is_void(self) -> bool:
        """Whether there is nobody left to tell: the lease is lost, or the runtime must go."""
        leaves_at = self._bench.leaves_at()
        return self.control.is_lost or (leaves_at is not None and clock.now() >= leaves_at)

    def _send_log(self, chunks: list[Mapping[str, Any]]) -> None:
        self._bench.link.log(self.lease_id, fencing_token=self.fencing_token, chunks=chunks)

    def _tokens(self) -> calls.Usage:
        """Tokens and cost, from the result once it is there, else from the progress."""
        result = usage.tokens(usage.read_json(self._folder.result).get("usage"))
        return result or usage.tokens(usage.read_json(self._folder.progress).get("usage"))

    def _used(self) -> calls.Usage:
        measured = self._meter.usage(is_over=True) if self._meter else calls.Usage()
        return {**measured, **self._tokens()}

    def _isolation(self) -> str:
        """The isolation that the request asks for."""
        needs = self._offer.get("requirements") or {}
        return str(needs.get("isolation_level") or isolation.LEVELS[0])


def _config_fault(error: str) -> Ending:
    code = contract.CONFIG_FAULT
    return Ending(
        outcome="failure", error=f"{error} (exit code {code})", result={"exit_code": code}
    )


def _exit_words(code: int, last_line: str) -> str:
    words = {
        contract.RETRY_ELSEWHERE: "asks to be tried elsewhere",
        contract.NO_PERMISSION: "lacks a permission on this agent",
        contract.CONFIG_FAULT: "finds this agent set up wrongly",
    }
    ended = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
    meaning = f", {words[code]}" if code in words else ""
    return f"{ended}{meaning}{f': {last_line}' if last_line else ''}"[:2000]


def _time(value: object) -> datetime | None:
    return datetime.fromisoformat(value) if isinstance(value, str) else None
