"""The work of one lease, from its offer to its release, in a thread of its own."""

import contextlib
import threading
import uuid
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from agentpool.agent import (
    contract,
    ending,
    enrolment,
    execution,
    guard,
    isolation,
    journal,
    lease_log,
    usage,
    workspace,
)
from agentpool.agent.bench import Bench
from agentpool.agent.control import Control, Reason
from agentpool.agent.ending import Ending
from agentpool.agent.isolation.policy import Policy, policy_of
from agentpool.agent.lease_link import LeaseLink
from agentpool.client import calls, clock, models

_DEFAULT_ACK_S = 15.0
# A smaller limit is not taken when more than this share of it is in use.
_FULL_SHARE = 0.9


class Work:
    """One lease in this runtime's hands."""

    def __init__(self, offer: Mapping[str, Any], *, bench: Bench) -> None:
        # It names a folder that is emptied: anything but an id might be a way to another one.
        self.lease_id = str(uuid.UUID(str(offer["id"])))
        self.fencing_token = int(offer["fencing_token"])
        self.control = Control()
        self.is_acked = False
        self.is_over = False
        self._offer = offer
        self._grant: Mapping[str, Any] = offer.get("grant") or {}
        self._payload: Mapping[str, Any] = offer.get("payload") or {}
        self._bench = bench
        self._link = LeaseLink(
            bench,
            lease_id=self.lease_id,
            fencing_token=self.fencing_token,
            control=self.control,
        )
        self._folder = contract.Folder(root=bench.workdir / "leases" / self.lease_id)
        self._policy = policy_of(profile=offer.get("profile") or {}, grant=self._grant)
        self._environment: isolation.Environment | None = None
        self._meter: usage.Meter | None = None
        self._guard: guard.Guard | None = None
        self._variables: Mapping[str, str] = {}
        self._telling = threading.Lock()
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
        """
        Take a changed grant: its limits hold at once, the work finds it in its payload file.

        What would hold less than the work uses now is refused: it would be killed. Either way the
        control plane is told which limits hold.
        """
        wanted = {**self._grant, **grant}
        policy = policy_of(profile=self._offer.get("profile") or {}, grant=wanted)
        if self._is_held_to(policy):
            self._grant, self._policy = wanted, policy
        else:
            journal.note("resize.refused", lease=self.lease_id)
        if self._guard is not None:
            self._guard.tell_held()
        # Told by the websocket and by a heartbeat, perhaps while the folder is being removed.
        with self._telling, contextlib.suppress(OSError):
            if self._folder.payload.exists():
                self._tell_work()

    def _is_held_to(self, policy: Policy) -> bool:
        """Hold the environment to other limits, if they leave the work what it has."""
        environment = self._environment
        if environment is None:
            return True
        is_less = policy.memory_mb < self._policy.memory_mb
        if is_less and environment.measure().memory_mb > _FULL_SHARE * policy.memory_mb:
            return False
        return environment.resize(policy)

    # --- the thread -------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._from_offer_to_release()
        except Exception as error:
            journal.note("work.broken", lease=self.lease_id, error=repr(error))
            self._link.release(Ending(outcome="failure", error=f"agent fault: {error!r}"[:2000]))
        finally:
            try:
                workspace.remove(self._folder.root)
            finally:
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
            ended = self._do()
        finally:
            self._bench.slots.release()
        self._link.release(ended)

    def _accept(self, ack_until: float) -> bool:
        """Acknowledge the offer; False when it is not ours to do."""
        if refusal := self._refusal():
            journal.note("offer.refused", lease=self.lease_id, reason=refusal)
            self._link.decline(refusal)
            return False
        taken = self._link.ack(until=ack_until)
        if taken is not None:
            self._begins(*taken)
        return taken is not None

    def _refusal(self) -> str | None:
        if not self._bench.may_start():
            return "the agent is leaving"
        try:
            self._level()
        except isolation.IsolationUnavailable as error:
            return str(error)
        return None

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
        log = lease_log.LeaseLog(self._link.log, is_void=self._link.is_void)
        try:
            ended = self._attempt(log)
            if ended.error:
                log.write("stderr", f"[agentpool: {ended.error}]\n")
        finally:
            try:
                if self._environment is not None:
                    self._environment.destroy()
            finally:
                log.finish()
                if self._guard is not None:
                    self._guard.finish()
        journal.note(
            "lease.ended",
            lease=self.lease_id,
            outcome=ended.outcome,
            error=ended.error,
            seconds=round(clock.now() - began, 3),
        )
        return ended

    def _attempt(self, log: lease_log.LeaseLog) -> Ending:
        """Run the command; what keeps it from running is an ending, too."""
        try:
            return self._run_command(log)
        except (workspace.WorkspaceFailed, ValueError) as error:
            return Ending(outcome="failure", error=str(error))
        except (contract.SecretMissing, isolation.IsolationUnavailable) as error:
            return ending.config_fault(str(error))
        except OSError as error:
            said = f"{error.filename or 'command'}: {error.strerror or error}"
            return ending.config_fault(said)
        except workspace.Stopped:
            return self._stopped(self.control.reason() or Reason.CANCELLED)

    def _run_command(self, log: lease_log.LeaseLog) -> Ending:
        place = self._prepare()
        environment = self._isolate(place)
        self._furnish(place)
        guard = self._guard = self._guard_of(environment, log)
        env = self._variables_for(environment)
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
            look=guard.look,
        )
        return self._judge(ended)

    def _guard_of(self, environment: isolation.Environment, log: lease_log.LeaseLog) -> guard.Guard:
        return guard.Guard(
            environment=environment,
            folder=self._folder,
            control=self.control,
            policy=lambda: self._policy,
            report=self._link.security,
            warn=lambda text: log.write("stderr", text),
            is_void=self._link.is_void,
        )

    def _prepare(self) -> Path:
        """Make folder and workspace; return the workspace."""
        workspace.remove(self._folder.root)
        self._folder.make()
        wanted = self._payload.get("workspace") or {}
        private = (self._bench.workdir, self._bench.secrets_dir)
        if source := wanted.get("git"):
            workspace.refuse_private(str(source), private=private)
        place = workspace.prepare(wanted=wanted, folder=self._folder.root, git=self._git())
        workspace.keep_private(place, own=self._folder.root, private=private)
        return place

    def _furnish(self, place: Path) -> None:
        """Write files and secrets; no git of ours runs after that, files may tell it anything."""
        is_own = place.is_relative_to(self._folder.root)
        workspace.write_files(
            files=self._payload.get("files") or {},
            place=place,
            shared=None if is_own else self._policy.writable,
        )
        self._variables = contract.place_secrets(
            names=self._secrets(), source=self._bench.secrets_dir, folder=self._folder
        )
        self._tell_work()

    def _tell_work(self) -> None:
        payload = {**self._payload, "secrets": self._secrets()}
        contract.write_payload(folder=self._folder, lease=self._lease(), payload=payload)
        contract.write_profile(folder=self._folder, policy=self._policy.says())

    def _isolate(self, place: Path) -> isolation.Environment:
        """Return the environment for the work, of the weakest level here that is strong enough."""
        source = str((self._payload.get("workspace") or {}).get("git") or "")
        spec = isolation.Spec(
            lease_id=self.lease_id,
            runtime=enrolment.runtime_name(self._bench.workdir),
            folder=self._folder.root,
            place=place,
            policy=self._policy,
            means=self._bench.means,
            origin=Path(source) if source.startswith("/") else None,
        )
        tier = isolation.tier(self._level(), bare=self._bench.is_bare)
        environment = self._environment = tier.create(spec)
        if environment.origin_url:
            # The repository itself is not in there, but a door to it.
            self._git().run("remote", "set-url", "origin", environment.origin_url, cwd=place)
        return environment

    def _git(self) -> workspace.Git:
        return workspace.Git(
            mirrors=self._bench.workdir / "mirrors",
            is_stopped=lambda: self.control.reason() is not None,
        )

    def _variables_for(self, environment: isolation.Environment) -> dict[str, str]:
        """Return the environment variables of the work, with the paths that it sees."""
        identity = self._bench.identity
        told = contract.environment(
            agent_id=identity.agent_id,
            agent_type=identity.agent_type,
            url=identity.url,
            lease=self._lease(),
            payload={**self._payload, "secrets": self._secrets()},
            folder=contract.Folder(root=environment.inside(self._folder.root)),
        )
        return {**told, **self._variables}

    # --- what it is told and how it ends ----------------------------------------------------

    def _lease(self) -> dict[str, Any]:
        lease = {key: value for key, value in self._offer.items() if key != "payload"}
        return {**lease, "grant": self._grant}

    def _judge(self, ended: execution.Ending) -> Ending:
        """Return what the exit code, or the reason it was stopped for, says."""
        result = {**usage.read_json(self._folder.result), "exit_code": ended.exit.code}
        if ended.reason is not None:
            said = self._stopped(ended.reason)
        else:
            said = ending.exited(ended.exit.code, ended.last_line)
        return replace(said, usage=self._used(), result=result)

    def _stopped(self, reason: Reason) -> Ending:
        if reason is Reason.TIMEOUT and self._guard is not None:
            self._guard.note(isolation.Incident(kind="timed_out", detail="the hard end"))
        return ending.stopped(reason, self.control.note)

    # --- what it says -----------------------------------------------------------------------

    def _tokens(self) -> calls.Usage:
        """Tokens and cost, from the result once it is there, else from the progress."""
        result = usage.tokens(usage.read_json(self._folder.result).get("usage"))
        return result or usage.tokens(usage.read_json(self._folder.progress).get("usage"))

    def _used(self) -> calls.Usage:
        measured = self._meter.usage(is_over=True) if self._meter else calls.Usage()
        return {**measured, **self._tokens()}

    def _level(self) -> str:
        """Return the level that the work gets. Raises: IsolationUnavailable."""
        needs = self._offer.get("requirements") or {}
        wanted = str(needs.get("isolation_level") or isolation.LEVELS[0])
        return isolation.weakest(wanted, self._bench.levels)

    def _secrets(self) -> list[str]:
        """Return the secrets that the payload names, and those of the pool."""
        named = [*(self._payload.get("secrets") or ()), *(self._offer.get("pool_secrets") or ())]
        return list(dict.fromkeys(str(each) for each in named))


def _time(value: object) -> datetime | None:
    return datetime.fromisoformat(value) if isinstance(value, str) else None
