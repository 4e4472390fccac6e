"""Says in words and numbers why a request was refused."""

from collections.abc import Sequence

from agentpool.registry.errors import (
    CapacityExhausted,
    InvalidField,
    QueueFull,
    Refusal,
    Unsatisfiable,
)
from agentpool.registry.models import Pool, Request
from balancing.explain import funnel, misses
from balancing.grants import Lack

# When to ask again, seconds: waiting requests move within that time as a rule.
RETRY_AFTER_S = 5.0
# Of a request, but not of its requirements.
_OWN_FIELDS = frozenset({"avoid_agents"})


def refusal(code: str, request: Request) -> Refusal:
    """Return the refusal for a code of acquire_1, with the numbers that made it."""
    if code == "unknown_type":
        names = ", ".join(Pool.objects.values_list("agent_type", flat=True))
        message = f"There is no pool {request.pool_id}; there are: {names}."
        return InvalidField(message, errors=[("agent_type", message)])
    if code == "queue_full":
        return _queue_full(request)
    if code == "unsatisfiable":
        return _unsatisfiable(request)
    return _exhausted(request)


def _queue_full(request: Request) -> QueueFull:
    pool = Pool.objects.get(agent_type=request.pool_id)
    return QueueFull(
        f"Too many requests wait for {pool.agent_type} already: at most {pool.queue_limit} may, "
        f"{pool.project_queue_limit} of one project.",
        retry_after_s=RETRY_AFTER_S,
    )


def _unsatisfiable(request: Request) -> Unsatisfiable:
    bounds = misses.bounds_on([request])
    misses.raised(request, bounds)
    if above := misses.ceilings(request, bounds):
        return Unsatisfiable(_sentence(above), errors=_errors(above))
    miss = misses.nearest(request)
    if miss is None:
        return Unsatisfiable(
            f"There is no {request.pool_id} agent, and the pool starts none by itself.",
            errors=[("agent_type", "There is no agent of this type.")],
        )
    return Unsatisfiable(
        f"No {request.pool_id} agent could ever serve this. Nearest is {miss.who}: "
        f"{miss.sentence}.",
        errors=_errors(miss.lacks),
    )


def _exhausted(request: Request) -> CapacityExhausted:
    """Return which it is: a limit, no slot, or too little free where there is one."""
    bounds = misses.bounds_on([request])
    misses.raised(request, bounds)
    short = [
        lack
        for bound in misses.binding(request, bounds)
        for lack in misses.shortages(request, bound)
    ]
    if short:
        return _capacity(_sentence(short), short)
    filters = funnel.funnel(request)
    if not funnel.left(filters, "health"):
        return _capacity(f"No {request.pool_id} agent is alive and in health.")
    if not funnel.left(filters, "free slot"):
        busy = funnel.all_busy(filters, f"{request.pool_id} agent")
        return _capacity(f"{busy[0].upper()}{busy[1:]}.")
    miss = funnel.nearest_now(request)
    if miss is None or not miss.lacks:
        return _capacity(f"No {request.pool_id} agent with a free slot may be had now.")
    return _capacity(
        f"No {request.pool_id} agent with a free slot fits now. Nearest is {miss.who}: "
        f"{miss.sentence}.",
        miss.lacks,
    )


def _capacity(detail: str, lacks: Sequence[Lack] = ()) -> CapacityExhausted:
    return CapacityExhausted(detail, errors=_errors(lacks), retry_after_s=RETRY_AFTER_S)


def _sentence(lacks: Sequence[Lack]) -> str:
    return "; ".join(lack.sentence for lack in lacks) + "."


def _errors(lacks: Sequence[Lack]) -> list[tuple[str, str]]:
    return [
        (lack.name if lack.name in _OWN_FIELDS else f"requirements.{lack.name}", lack.sentence)
        for lack in lacks
    ]
