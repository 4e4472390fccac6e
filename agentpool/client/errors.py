"""One exception class for each stable error code of the API."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar


class ApiError(Exception):
    """
    The control plane refused a call, or could not be asked.

    Attributes: `status` the HTTP status (0 when nothing answered), `code` the stable word,
    `detail` one sentence for people, `errors` the faulty fields as `{field, message}`,
    `retry_after_s` seconds the server asked us to wait (None: it did not say).
    """

    code: ClassVar[str] = "error"

    def __init__(
        self,
        detail: str,
        *,
        status: int = 0,
        errors: Sequence[Mapping[str, Any]] = (),
        retry_after_s: float | None = None,
        problem: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.status = status
        self.errors = list(errors)
        self.retry_after_s = retry_after_s
        self.problem = dict(problem or {})

    def __str__(self) -> str:
        told = [(e.get("field", "?"), str(e.get("message", ""))) for e in self.errors]
        # The detail often says the same already.
        fields = "; ".join(f"{name}: {text}" for name, text in told if text not in self.detail)
        return f"{self.code}: {self.detail}" + (f" ({fields})" if fields else "")


class Invalid(ApiError):
    """A field of the call is wrong; `errors` names each one."""

    code = "invalid"


class Unauthenticated(ApiError):
    """The token is missing, unknown, revoked, or cut off by a newer incarnation."""

    code = "unauthenticated"


class Forbidden(ApiError):
    """The token is good, but its scope does not reach this call."""

    code = "forbidden"


class NotFound(ApiError):
    """There is no such row."""

    code = "not_found"


class Duplicate(ApiError):
    """Something of that name exists already."""

    code = "duplicate"


class UnsupportedTransition(ApiError):
    """The status may not move that way."""

    code = "unsupported_transition"


class LeaseLost(ApiError):
    """The lease, or the incarnation, is no longer the caller's; stop the work."""

    code = "lease_lost"


class CapacityExhausted(ApiError):
    """No fitting agent is free now."""

    code = "capacity_exhausted"


class ConcurrentUpdate(ApiError):
    """Somebody changed the row first; read it again."""

    code = "concurrent_update"


class AgentBusy(ApiError):
    """The agent holds leases."""

    code = "agent_busy"


class Gone(ApiError):
    """The events asked for are older than the kept ones."""

    code = "gone"


class Unsatisfiable(ApiError):
    """No agent, present or startable, could ever serve this; the detail names the nearest miss."""

    code = "unsatisfiable"


class BudgetExhausted(ApiError):
    """The token or money budget does not cover the request."""

    code = "budget_exhausted"


class StaleVersion(ApiError):
    """The row has a newer version than the one named in `If-Match`."""

    code = "stale_version"


class RateLimited(ApiError):
    """Too many calls; wait `retry_after_s`."""

    code = "rate_limited"


class QueueFull(ApiError):
    """The queue takes no more requests; wait `retry_after_s`."""

    code = "queue_full"


class Unavailable(ApiError):
    """The control plane is up, but something it needs is not."""

    code = "unavailable"


class Unreachable(ApiError):
    """Nothing answered at the address, or the answer broke off."""

    code = "unreachable"


BY_CODE: Mapping[str, type[ApiError]] = {kind.code: kind for kind in ApiError.__subclasses__()}

# For answers that carry no code, such as those of a proxy in between.
_BY_STATUS: Mapping[int, type[ApiError]] = {
    400: Invalid,
    401: Unauthenticated,
    403: Forbidden,
    404: NotFound,
    410: Gone,
    412: StaleVersion,
    422: Invalid,
    429: RateLimited,
    502: Unavailable,
    503: Unavailable,
    504: Unavailable,
}


def from_problem(
    *, status: int, problem: object, retry_after: str | None = None, text: str = ""
) -> ApiError:
    """
    Return the exception for an answer with an error status.

    Args:
        status: of the answer, 400 or above.
        problem: the parsed problem+json body; anything but a mapping counts as absent.
        retry_after: the Retry-After header, in seconds (a date is ignored).
        text: the raw body, used as detail when there is no problem document.

    """
    fields: Mapping[str, Any] = problem if isinstance(problem, Mapping) else {}
    kind = BY_CODE.get(str(fields.get("code", "")).removeprefix("agentpool."))
    kind = kind or _BY_STATUS.get(status, ApiError)
    detail = fields.get("detail") or fields.get("title") or _first_line(text) or f"HTTP {status}"
    errors = [e for e in fields.get("errors") or () if isinstance(e, Mapping)]
    return kind(
        str(detail),
        status=status,
        errors=errors,
        retry_after_s=_seconds(retry_after),
        problem=fields,
    )


def _seconds(value: str | None) -> float | None:
    try:
        return max(0.0, float(value)) if value is not None else None
    except ValueError:
        return None


def _first_line(text: str) -> str:
    line = text.strip().splitlines()[0] if text.strip() else ""
    return "" if line.startswith("<") else line[:200]
