"""Says in words and numbers why a request was refused, waits, or got its agent. Reads only."""

from agentpool.registry.errors import (
    CapacityExhausted,
    InvalidField,
    QueueFull,
    Refusal,
    Unsatisfiable,
)
from agentpool.registry.models import Pool, Request

# When to ask again, seconds: waiting requests move within that time as a rule.
RETRY_AFTER_S = 5.0


def refusal(code: str, request: Request) -> Refusal:
    """Return the refusal for a code of acquire_1, with the numbers that made it."""
    if code == "unknown_type":
        names = ", ".join(Pool.objects.values_list("agent_type", flat=True))
        message = f"There is no pool {request.pool_id}; there are: {names}."
        return InvalidField(message, errors=[("agent_type", message)])
    if code == "queue_full":
        return QueueFull("Too many requests wait already.", retry_after_s=RETRY_AFTER_S)
    if code == "unsatisfiable":
        return Unsatisfiable("No agent could ever serve this.")
    return CapacityExhausted(
        f"No {request.pool_id} agent with a free slot fits now.", retry_after_s=RETRY_AFTER_S
    )
