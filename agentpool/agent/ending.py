"""How the work of a lease ended, in the words of its release."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from agentpool.agent import contract
from agentpool.agent.control import Reason
from agentpool.client import calls


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """What the release of a lease says."""

    outcome: str
    error: str | None = None
    retry: bool = False
    usage: calls.Usage = field(default_factory=calls.Usage)
    result: Mapping[str, Any] | None = None


def config_fault(error: str) -> Ending:
    """Return the ending of work that this agent is not set up for."""
    code = contract.CONFIG_FAULT
    return Ending(
        outcome="failure", error=f"{error} (exit code {code})", result={"exit_code": code}
    )


def stopped(reason: Reason, note: str) -> Ending:
    """Return the ending of work that was stopped; note: what was said along with the reason."""
    if reason is Reason.TIMEOUT:
        return Ending(outcome="timeout", error="the work took longer than its limit")
    if reason is Reason.LIMIT:
        return Ending(outcome="failure", error=note)
    if reason is Reason.UNRENEWED:
        error = "the control plane was away for too long; the agent stopped the work"
        return Ending(outcome="cancelled", error=error, retry=True)
    if reason is Reason.LEAVING:
        return Ending(outcome="cancelled", error="the agent is leaving", retry=True)
    return Ending(outcome="cancelled", error=note or "cancelled")


def exited(code: int, last_line: str) -> Ending:
    """Return the ending of work that ended by itself; last_line: of its standard error."""
    if code == 0:
        return Ending(outcome="success")
    words = {
        contract.RETRY_ELSEWHERE: "asks to be tried elsewhere",
        contract.NO_PERMISSION: "lacks a permission on this agent",
        contract.CONFIG_FAULT: "finds this agent set up wrongly",
    }
    ended = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
    meaning = f", {words[code]}" if code in words else ""
    said = f"{ended}{meaning}{f': {last_line}' if last_line else ''}"
    return Ending(outcome="failure", error=said[:2000], retry=code == contract.RETRY_ELSEWHERE)
