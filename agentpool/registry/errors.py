"""
The ways in which agentpool says no: one class a stable code, the same through every door.

A code never changes its meaning; docs/errors.md lists them and a test compares.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar


class Refusal(Exception):
    """
    A foreseen no.

    detail: a sentence for people, with numbers. errors: the faulty fields as (field, message).
    untold: requests that it refused, each with the reason, whose events went with a transaction.
    """

    code: ClassVar[str]
    status: ClassVar[int]
    title: ClassVar[str]

    def __init__(
        self,
        detail: str,
        *,
        errors: Sequence[tuple[str, str]] = (),
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.errors = list(errors)
        self.retry_after_s = retry_after_s
        self.untold: list[tuple[Any, str]] = []

    def problem(self) -> Mapping[str, Any]:
        """Return the body of an RFC 9457 answer."""
        return {
            "type": f"urn:agentpool:problem:{self.code}",
            "title": self.title,
            "status": self.status,
            "code": self.code,
            "detail": _sendable(self.detail),
            "errors": [
                {"field": _sendable(field), "message": _sendable(message)}
                for field, message in self.errors
            ],
        }


class Invalid(Refusal):
    """The input does not say what it should."""

    code, status, title = "invalid", 400, "Invalid input"


class InvalidField(Refusal):
    """A field is well-formed and still names nothing that exists."""

    code, status, title = "invalid", 422, "Invalid input"


class InvalidReuse(Refusal):
    """An Idempotency-Key came again with another body or token."""

    code, status, title = "invalid", 422, "Idempotency-Key reused"


class Unauthenticated(Refusal):
    """No credential, or one that is unknown, revoked or expired."""

    code, status, title = "unauthenticated", 401, "Who are you?"


class Forbidden(Refusal):
    """The credential is good, its scope does not allow this."""

    code, status, title = "forbidden", 403, "Not allowed"


class NotFound(Refusal):
    """There is no such row, or it is not the caller's to see."""

    code, status, title = "not_found", 404, "Not found"


class Duplicate(Refusal):
    """Something with that name exists."""

    code, status, title = "duplicate", 409, "Already exists"


class UnsupportedTransition(Refusal):
    """The row's status does not allow that move."""

    code, status, title = "unsupported_transition", 409, "Move not allowed"


class LeaseLost(Refusal):
    """The lease has ended, or the fencing token or incarnation is not the newest."""

    code, status, title = "lease_lost", 409, "Lease lost"


class CapacityExhausted(Refusal):
    """Nobody is free now who could."""

    code, status, title = "capacity_exhausted", 409, "Capacity exhausted"


class ConcurrentUpdate(Refusal):
    """Somebody else changed the row in between; read it again."""

    code, status, title = "concurrent_update", 409, "Changed by somebody else"


class AgentBusy(Refusal):
    """The agent holds leases that forbid this."""

    code, status, title = "agent_busy", 409, "Agent busy"


class Gone(Refusal):
    """The events asked for are older than those kept."""

    code, status, title = "gone", 410, "No longer kept"


class StaleVersion(Refusal):
    """If-Match names a version that is not the newest."""

    code, status, title = "stale_version", 412, "Stale version"


class Unsatisfiable(Refusal):
    """No agent, nor one that could be launched, could ever serve this."""

    code, status, title = "unsatisfiable", 422, "Unsatisfiable"


class QueueFull(Refusal):
    """Too many wait already."""

    code, status, title = "queue_full", 429, "Queue full"


class RateLimited(Refusal):
    """Too many calls."""

    code, status, title = "rate_limited", 429, "Slow down"


class Unavailable(Refusal):
    """A part of the control plane is away for the moment."""

    code, status, title = "unavailable", 503, "Unavailable"


def _sendable(text: str) -> str:
    """Return a text with what was said in lone surrogates, which UTF-8 has not, spelled out."""
    return text.encode(errors="backslashreplace").decode()
