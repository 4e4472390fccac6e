"""REST doors to agents: registration, status, health, heartbeats, offers, release."""

from typing import Any, ClassVar
from uuid import UUID

from drf_spectacular.utils import extend_schema
from rest_framework.response import Response
from rest_framework.views import APIView

from agentpool.registry import api as registry_api
from agentpool.registry import queries as registry_queries
from agentpool.registry import serializers as registry_serializers
from agentpool.registry import showing as registry_showing
from agentpool.registry.api import ANY_JSON, CREATED, IF_MATCH, OBJECT, checked, shown
from agentpool.registry.errors import Forbidden, NotFound
from agentpool.registry.models import Agent, Lease, Pool
from agentpool.registry.rest import (
    AGENTS,
    HOLDERS,
    OPERATORS,
    READERS,
    ApiRequest,
    Principal,
    etag,
    idempotent,
    if_match,
)
from agentpool.registry.states import (
    AgentHealth,
    AgentStatus,
    Outcome,
    Scope,
)
from balancing import callers, intake, queries, reports, serializers, showing
from balancing.services import agents, heartbeats, leases
from balancing.services.heartbeats import Heartbeat


class Agents(registry_api.AgentList):
    """All agents; the door at which they register."""

    scopes: ClassVar = {
        "GET": READERS,
        "POST": frozenset({Scope.ENROLMENT, Scope.AGENT, Scope.OPERATOR}),
    }

    @extend_schema(request=registry_serializers.NewAgent, responses=CREATED)
    @idempotent
    def post(self, request: ApiRequest) -> Response:
        """Register an agent, or take it on again: its old incarnation is cut off."""
        fields = checked(registry_serializers.NewAgent(data=request.data))
        pool = registry_queries.pool(fields.pop("agent_type"))
        agent_id = fields.pop("agent_id")
        _may_register(request.user, pool, agent_id)
        enrolling = request.user.scope is Scope.ENROLMENT
        done = agents.register(
            agent_id=agent_id,
            pool=pool,
            fields=pool.launch_template | fields,
            by=request.user.credential if enrolling else None,
            actor=agent_id if enrolling else request.user.name,
        )
        body = {
            **registry_showing.agent_json(done.agent),
            "credential": done.credential,
            "heartbeat_interval_s": done.heartbeat_interval_s,
        }
        return Response(body, status=201, headers={"ETag": etag(done.agent.generation)})


def _may_register(principal: Principal, pool: Pool, agent_id: str) -> None:
    if principal.scope is Scope.ENROLMENT:
        token = principal.credential
        if token is None or token.pool_id != pool.agent_type:
            raise Forbidden(f"This enrolment token is not for the pool {pool.agent_type}.")
    if principal.scope is Scope.AGENT and principal.agent and principal.agent.agent_id != agent_id:
        raise Forbidden("An agent's credential is good for itself only.")


class AgentDetail(registry_api.AgentDetail):
    """One agent by its row id."""

    scopes: ClassVar = {
        "GET": READERS | {Scope.AGENT},
        "PATCH": AGENTS,
        "DELETE": AGENTS,
    }

    @extend_schema(
        request=registry_serializers.AgentFields, parameters=[IF_MATCH], responses=ANY_JSON
    )
    def patch(self, request: ApiRequest, pool_id: UUID) -> Response:
        """Change what an agent is or can."""
        callers.own(request, registry_queries.agent_by(id=pool_id))
        fields = checked(registry_serializers.AgentFields(data=request.data))
        agent = agents.update_agent(
            pool_id,
            fields=fields,
            if_generation=if_match(request),
            actor=request.user.name,
        )
        return shown(request, agent)

    @extend_schema(
        parameters=[IF_MATCH, serializers.Removal],
        responses={202: OBJECT, 204: None},
    )
    def delete(self, request: ApiRequest, pool_id: UUID) -> Response:
        """Retire an agent: at once when it holds nothing, else after its leases."""
        agent = callers.own(request, registry_queries.agent_by(id=pool_id))
        query = checked(serializers.Removal(data=request.query_params.dict()))
        after = agents.unregister(
            agent,
            force=query["force"],
            if_generation=if_match(request),
            actor=request.user.name,
            reason=query["reason"] or "unregistered",
        )
        if after.status == AgentStatus.RETIRED:
            return Response(status=204)
        return shown(request, after, status=202)


class AgentStatusDoor(APIView):
    """The moves a caller may ask of an agent."""

    scopes: ClassVar = {"POST": AGENTS}

    @extend_schema(request=registry_serializers.StatusChange, responses=ANY_JSON)
    def post(self, request: ApiRequest, agent_id: str) -> Response:
        """Drain, resume, put on standby, or retire an agent."""
        agent = callers.named(request, agent_id)
        wish = checked(registry_serializers.StatusChange(data=request.data))
        agent = agents.set_status(
            agent,
            to=AgentStatus(wish["status"]),
            reason=wish["reason"],
            actor=request.user.name,
            within_s=wish["deadline_s"],
        )
        return shown(request, agent)


class AgentHealthDoor(APIView):
    """The operator's column."""

    scopes: ClassVar = {"POST": OPERATORS}

    @extend_schema(request=registry_serializers.HealthChange, responses=ANY_JSON)
    def post(self, request: ApiRequest, agent_id: str) -> Response:
        """Judge an agent: good, maintenance (paused), quarantined."""
        agent = callers.named(request, agent_id)
        wish = checked(registry_serializers.HealthChange(data=request.data))
        agent = agents.set_health(
            agent,
            health=AgentHealth(wish["health"]),
            note=wish["note"],
            until=wish["until"],
            actor=request.user.name,
        )
        return shown(request, agent)


class HealthCheck(APIView):
    """The check of all agents' silence, which else runs each 30 s."""

    scopes: ClassVar = {"POST": OPERATORS}

    @extend_schema(request=registry_serializers.Note, responses=ANY_JSON)
    def post(self, request: ApiRequest) -> Response:
        """Run it now; answer how many became unreachable or lost, or were lifted."""
        body = checked(registry_serializers.Note(data=request.data))
        return Response(heartbeats.check(actor=request.user.name, note=body["note"]))


class HeartbeatDoor(APIView):
    """An agent's sign of life."""

    scopes: ClassVar = {"POST": AGENTS}

    @extend_schema(request=reports.HeartbeatBody, responses=ANY_JSON)
    def post(self, request: ApiRequest, agent_id: str) -> Response:
        """Note that an agent lives and renew its leases; tell it what to do."""
        agent = callers.own(request, registry_queries.agent_row(agent_id))
        return Response(heartbeat_answer(agent, intake.heartbeat(request.data)))


def heartbeat_answer(agent: Agent, beat: Heartbeat) -> dict[str, Any]:
    """Return what a heartbeat is answered, through any door."""
    answer = heartbeats.heartbeat(agent, beat=beat)
    return {
        "next_heartbeat_s": answer.next_heartbeat_s,
        "commands": answer.commands,
        "leases": [showing.kept_lease_json(lease) for lease in answer.leases],
    }


class Offers(APIView):
    """What an agent without a websocket is offered; `wait` is the gateway's to add."""

    scopes: ClassVar = {"GET": AGENTS}

    @extend_schema(parameters=[serializers.WaitQuery], responses=ANY_JSON)
    def get(self, request: ApiRequest, agent_id: str) -> Response:
        """Return offers and commands."""
        checked(serializers.WaitQuery(data=request.query_params.dict()))
        return Response(offers_answer(callers.named(request, agent_id)))


def offers_answer(agent: Agent) -> dict[str, Any]:
    """Return an agent's offers and commands, through any door."""
    return {
        "offers": [showing.offer_json(lease) for lease in queries.offers_of(agent)],
        "commands": heartbeats.commands_for(agent),
    }


class AgentRelease(APIView):
    """The end of an agent's leases, by agent."""

    scopes: ClassVar = {"POST": HOLDERS}

    @extend_schema(request=reports.ReleaseAgent, responses=ANY_JSON)
    def post(self, request: ApiRequest, agent_id: str) -> Response:
        """Release one lease, those of a project, or all of an agent's leases."""
        agent = registry_queries.agent_by(agent_id=agent_id)
        if request.user.scope is Scope.AGENT:
            callers.own(request, agent)
        body = checked(reports.ReleaseAgent(data=request.data))
        ended = _release_some(request, agent, body)
        return Response({"released": [showing.lease_json(lease) for lease in ended]})


def _release_some(request: ApiRequest, agent: Agent, body: dict[str, Any]) -> list[Lease]:
    outcome = Outcome(body["outcome"])
    actor = request.user.name
    if "lease_id" in body:
        lease = queries.lease(body["lease_id"])
        if lease.agent_id != agent.id:
            raise NotFound(f"{agent.agent_id} has no such lease.")
        callers.holder(request, lease)
        return [
            leases.release(
                lease.id,
                token=body.get("fencing_token", lease.fencing_token),
                outcome=outcome,
                actor=actor,
                error=body["error"],
                retry=body["retry"],
                usage=body.get("usage"),
                result=body["result"],
            )
        ]
    if request.user.scope is Scope.ORCHESTRATOR and "project" not in body:
        raise Forbidden("An orchestrator names the project or the lease it releases.")
    return leases.release_agent(
        agent,
        project=body.get("project"),
        outcome=outcome,
        actor=actor,
        error=body["error"],
        only_of=None if request.user.scope is not Scope.ORCHESTRATOR else actor,
    )
