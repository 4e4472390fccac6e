"""What several doors ask of a call: whom it concerns, whether it may be repeated, and why."""

from django.http import HttpRequest
from drf_spectacular.utils import OpenApiParameter

from agentpool.registry import queries as registry_queries
from agentpool.registry.api import checked
from agentpool.registry.errors import Forbidden, NotFound
from agentpool.registry.models import Agent, Lease
from agentpool.registry.rest import (
    ApiRequest,
)
from agentpool.registry.states import (
    Scope,
)
from balancing import serializers

REASON = OpenApiParameter("reason", str, description="Why; kept with the event.")


def reason(request: ApiRequest) -> str:
    """Return why a caller deletes; a DELETE has no body."""
    said: str = checked(serializers.Reason(data=request.query_params.dict()))["reason"]
    return said


def is_exchange(request: HttpRequest | None) -> bool:
    """Whether the call reaches the exchange for sure: a repeated one is answered before."""
    return bool(request and request.method == "POST" and "HTTP_IDEMPOTENCY_KEY" not in request.META)


def named(request: ApiRequest, agent_id: str) -> Agent:
    """Return the agent of a name. Raises: NotFound; Forbidden, as `own`."""
    return own(request, registry_queries.agent_by(agent_id=agent_id))


def own(request: ApiRequest, agent: Agent) -> Agent:
    """Return the agent. Raises: Forbidden, the caller is another agent."""
    if not request.user.may_act_as(agent):
        raise Forbidden("An agent's credential is good for itself only.")
    return agent


def holder(request: ApiRequest, lease: Lease) -> Lease:
    """Return the lease. Raises: Forbidden or NotFound, it is not the caller's."""
    principal = request.user
    if principal.scope is Scope.AGENT and not principal.may_act_as(lease.agent):
        raise Forbidden("An agent's credential is good for its own leases only.")
    if principal.scope is Scope.ORCHESTRATOR and lease.request.requested_by != principal.name:
        raise NotFound(f"There is no lease {lease.id} of yours.")
    return lease
