"""Holds the work of one lease to its limits, and tells the control plane what was refused."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from agentpool.agent import lease_log, usage
from agentpool.agent.contract import Folder
from agentpool.agent.control import Control, Reason
from agentpool.agent.isolation import Environment, Incident
from agentpool.agent.isolation.policy import LONGEST_LIFE_S, TOKENS_WARN_SHARE, Policy
from agentpool.client import clock

_TOKENS_EVERY_S = 1.0
_MOST_DETAIL = 400
# What the control plane takes in one call.
_MOST_A_CALL = 50

Report = Callable[[Mapping[str, Any] | None, Sequence[Mapping[str, str]]], None]


class Guard:
    """
    Looks at one environment while the work runs.

    policy: what holds now, it may change. report: sends enforcement and incidents, may block.
    warn: writes a line to the log of the lease.
    """

    def __init__(
        self,
        *,
        environment: Environment,
        folder: Folder,
        control: Control,
        policy: Callable[[], Policy],
        report: Report,
        warn: Callable[[str], None],
        is_void: Callable[[], bool],
    ) -> None:
        self._environment = environment
        self._folder = folder
        self._control = control
        self._policy = policy
        self._report = report
        self._warn = warn
        # In order, in a thread of its own, repeated while the control plane is away: as the log.
        self._told = lease_log.LeaseLog(self._send, is_void=is_void, most_chunks=_MOST_A_CALL)
        self._is_warned = False
        self._tokens_at = 0.0
        self._began_at = clock.now()
        self.tell_held()

    def look(self) -> None:
        """Stop the work that breaks a limit of its grant, and note what it was refused."""
        if self._control.reason() is None:
            broken = self._environment.breach() or self._over_budget() or self._too_old()
            if broken is not None:
                self.note(broken)
                words = broken.kind.replace("_", " ")
                self._control.stop(Reason.LIMIT, f"{words}: {broken.detail}", is_urgent=True)
        for each in self._environment.incidents():
            self.note(each)

    def tell_held(self) -> None:
        """Tell which limits hold: at the start, and as the answer to each change of them."""
        held = {**asdict(self._environment.enforcement), "policy": self._policy().says()}
        self._told.write("enforcement", json.dumps(held))

    def note(self, incident: Incident) -> None:
        """Tell one incident."""
        detail = usage.storable(incident.detail)[:_MOST_DETAIL]
        self._told.write(incident.kind, detail or "-")

    def finish(self) -> None:
        """Tell what is left to tell; returns when that is done, or nobody listens any more."""
        try:
            for each in self._environment.incidents():
                self.note(each)
        finally:
            self._told.finish()

    def _too_old(self) -> Incident | None:
        if clock.now() - self._began_at < LONGEST_LIFE_S:
            return None
        return Incident(kind="timed_out", detail=f"{LONGEST_LIFE_S / 3600:g} hours")

    def _over_budget(self) -> Incident | None:
        """Hold the tokens that the work reports against its budget, now and then."""
        now, budget = clock.now(), self._policy().token_budget
        if not budget or now - self._tokens_at < _TOKENS_EVERY_S:
            return None
        self._tokens_at = now
        told = usage.tokens(usage.read_json(self._folder.progress).get("usage"))
        used = told.get("tokens_in", 0) + told.get("tokens_out", 0)
        if used >= budget:
            return Incident(kind="over_token_budget", detail=f"{used} of {budget} tokens")
        if used >= TOKENS_WARN_SHARE * budget and not self._is_warned:
            self._is_warned = True
            self._warn(f"[agentpool: {used} of {budget} tokens are used]\n")
        return None

    def _send(self, told: list[Mapping[str, Any]]) -> None:
        held = [json.loads(each["text"]) for each in told if each["stream"] == "enforcement"]
        # `stderr` is the log's own remark on what it had to drop.
        incidents = [
            {"kind": each["stream"], "detail": each["text"]}
            for each in told
            if each["stream"] not in ("enforcement", "stderr")
        ]
        self._report(held[-1] if held else None, incidents)
