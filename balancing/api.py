"""REST doors to whatever moves work: registration, heartbeats, requests, leases."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar
from uuid import UUID

from django.http import HttpRequest
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers as drf
from rest_framework.authentication import BaseAuthentication
from rest_framework.response import Response
from rest_framework.views import APIView

from agentpool.registry import api as registry_api
from agentpool.registry import queries as registry_queries
from agentpool.registry import serializers as registry_serializers
from agentpool.registry import services as registry_services
from agentpool.registry.api import ANY_JSON, CREATED, IF_MATCH, OBJECT, PAGE, checked, shown
from agentpool.registry.errors import Forbidden, NotFound
from agentpool.registry.models import Agent, Lease, Pool, Request
from agentpool.registry.rest import (
    AGENTS,
    HOLDERS,
    OPERATORS,
    ORCHESTRATORS,
    READERS,
    Answer,
    ApiRequest,
    Principal,
    Ready,
    etag,
    idempotent,
    if_match,
    page,
    remembering,
)
from agentpool.registry.states import (
    AgentHealth,
    AgentStatus,
    Outcome,
    RequestStatus,
    Scope,
)
from balancing import explain, insight, intake, queries, serializers
from balancing.services import agents, exchange, heartbeats, leases, limits, requests, security
from balancing.services.heartbeats import Heartbeat

REASON = OpenApiParameter("reason", str, description="Why; kept with the event.")

# -- agents --------------------------------------------------------------------------------------


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
            **registry_serializers.agent_json(done.agent),
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
        _own(request, registry_queries.agent_by(id=pool_id))
        fields = checked(registry_serializers.AgentFields(data=request.data))
        agent = agents.update_agent(
            pool_id,
            fields=fields,
            if_generation=if_match(request),
            actor=request.user.name,
        )
        return shown(request, agent)

    @extend_schema(
        parameters=[IF_MATCH, OpenApiParameter("force", bool), REASON],
        responses={202: OBJECT, 204: None},
    )
    def delete(self, request: ApiRequest, pool_id: UUID) -> Response:
        """Retire an agent: at once when it holds nothing, else after its leases."""
        agent = _own(request, registry_queries.agent_by(id=pool_id))
        after = agents.unregister(
            agent,
            force=request.query_params.get("force") == "true",
            if_generation=if_match(request),
            actor=request.user.name,
            reason=_reason(request) or "unregistered",
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
        agent = _named(request, agent_id)
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
        agent = _named(request, agent_id)
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

    @extend_schema(request=serializers.HeartbeatBody, responses=ANY_JSON)
    def post(self, request: ApiRequest, agent_id: str) -> Response:
        """Note that an agent lives and renew its leases; tell it what to do."""
        agent = _own(request, registry_queries.agent_row(agent_id))
        return Response(heartbeat_answer(agent, intake.heartbeat(request.data)))


def heartbeat_answer(agent: Agent, beat: Heartbeat) -> dict[str, Any]:
    """Return what a heartbeat is answered, through any door."""
    answer = heartbeats.heartbeat(agent, beat=beat)
    return {
        "next_heartbeat_s": answer.next_heartbeat_s,
        "commands": answer.commands,
        "leases": [serializers.kept_lease_json(lease) for lease in answer.leases],
    }


class Offers(APIView):
    """What an agent without a websocket is offered; `wait` is the gateway's to add."""

    scopes: ClassVar = {"GET": AGENTS}

    @extend_schema(parameters=[serializers.WaitQuery], responses=ANY_JSON)
    def get(self, request: ApiRequest, agent_id: str) -> Response:
        """Return offers and commands."""
        checked(serializers.WaitQuery(data=request.query_params.dict()))
        return Response(offers_answer(_named(request, agent_id)))


def offers_answer(agent: Agent) -> dict[str, Any]:
    """Return an agent's offers and commands, through any door."""
    return {
        "offers": [serializers.offer_json(lease) for lease in queries.offers_of(agent)],
        "commands": heartbeats.commands_for(agent),
    }


class AgentRelease(APIView):
    """The end of an agent's leases, by agent."""

    scopes: ClassVar = {"POST": HOLDERS}

    @extend_schema(request=serializers.ReleaseAgent, responses=ANY_JSON)
    def post(self, request: ApiRequest, agent_id: str) -> Response:
        """Release one lease, those of a project, or all of an agent's leases."""
        agent = registry_queries.agent_by(agent_id=agent_id)
        if request.user.scope is Scope.AGENT:
            _own(request, agent)
        body = checked(serializers.ReleaseAgent(data=request.data))
        ended = _release_some(request, agent, body)
        return Response({"released": [serializers.lease_json(lease) for lease in ended]})


def _release_some(request: ApiRequest, agent: Agent, body: dict[str, Any]) -> list[Lease]:
    outcome = Outcome(body["outcome"])
    actor = request.user.name
    if "lease_id" in body:
        lease = queries.lease(body["lease_id"])
        if lease.agent_id != agent.id:
            raise NotFound(f"{agent.agent_id} has no such lease.")
        _holder(request, lease)
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


def _reason(request: ApiRequest) -> str:
    """Return why a caller deletes; a DELETE has no body."""
    reason: str = checked(serializers.Reason(data=request.query_params.dict()))["reason"]
    return reason


def _named(request: ApiRequest, agent_id: str) -> Agent:
    return _own(request, registry_queries.agent_by(agent_id=agent_id))


def _own(request: ApiRequest, agent: Agent) -> Agent:
    if not request.user.may_act_as(agent):
        raise Forbidden("An agent's credential is good for itself only.")
    return agent


# -- requests ------------------------------------------------------------------------------------


class Assign(APIView):
    """Grant now, or not at all."""

    scopes: ClassVar = {"POST": ORCHESTRATORS}

    @extend_schema(request=serializers.NewRequest, responses=CREATED)
    @idempotent
    def post(self, request: ApiRequest) -> Response:
        """Assign an agent to a project at once; 409 capacity_exhausted when none is free."""
        fields = intake.read(serializers.NewRequest, request.data)
        row = serializers.request_row(fields, requested_by=request.user.name)
        lease = requests.submit(row, queue=False)
        if lease is None:
            raise RuntimeError("submit neither granted nor refused")
        return Response(serializers.lease_json(lease), status=201)


def _is_exchange(request: HttpRequest | None) -> bool:
    """Whether the call reaches the exchange for sure: a repeated one is answered before."""
    return bool(request and request.method == "POST" and "HTTP_IDEMPOTENCY_KEY" not in request.META)


class Requests(APIView):
    """Wishes for agents."""

    scopes: ClassVar = {"GET": READERS, "POST": ORCHESTRATORS}

    def get_authenticators(self) -> list[BaseAuthentication]:
        """Remember who asks, where the exchange holds the token against the database once more."""
        return remembering(_is_exchange(self.request))

    @extend_schema(parameters=[serializers.RequestQuery], responses=PAGE)
    def get(self, request: ApiRequest) -> Response:
        """List requests, newest first; an orchestrator sees its own."""
        query = checked(serializers.RequestQuery(data=request.query_params.dict()))
        rows = Request.objects.all()
        if request.user.scope is Scope.ORCHESTRATOR:
            rows = rows.filter(requested_by=request.user.name)
        columns = {"agent_type": "pool"}
        for name in ("status", "agent_type", "project", "cycle_id"):
            if name in query:
                rows = rows.filter(**{columns.get(name, name): query[name]})
        return page(self, rows, ordering=("-number",), show=_requests_json)

    @extend_schema(
        request=serializers.NewRequest,
        responses={201: OBJECT, 202: OBJECT},
    )
    @idempotent
    def post(self, request: ApiRequest) -> Answer:
        """Ask for an agent: 201 with the lease, or 202 with the waiting request."""
        name, credential = request.user.name, request.user.credential_id
        return ask(request.data, requested_by=name, credential=credential)


def ask(data: Any, *, requested_by: str, credential: UUID | None) -> Answer:
    """Ask for an agent, as every door answers it: 201 with the lease, or 202 with the request."""
    wish = intake.wish(data, requested_by=requested_by)
    lease = exchange.one(exchange.Call(wish, credential))
    if lease is not None:
        return Ready(lease, status=201, headers=_location(wish.id))
    return request_answer(wish.id, queries.live_lease_of(wish.id))


def request_answer(request_id: UUID, lease: Lease | None) -> Response:
    """Return 201 with the lease, or 202 with the request that waits; Location names the request."""
    location = _location(request_id)
    if lease is not None:
        return Response(serializers.lease_json(lease), status=201, headers=location)
    return Response(request_body(request_id), status=202, headers=location)


def _location(request_id: UUID) -> dict[str, str]:
    return {"Location": f"/api/agent-pool/requests/{request_id}"}


def request_body(request_id: UUID, lease: Lease | None = None) -> dict[str, Any]:
    """Return a request with its newest lease, as every door shows it."""
    row = queries.request(request_id)
    newest = lease or queries.newest_lease_of(request_id)
    body = serializers.request_json(row, newest, at=registry_queries.now())
    if row.status == RequestStatus.WAITING:
        body["position"] = explain.position_of(row)
        body["reason"] = explain.reasons([row])[row.id].sentence
    return body


def _requests_json(rows: list[Request]) -> list[dict[str, Any]]:
    newest = queries.newest_leases_of([row.id for row in rows])
    at = registry_queries.now()
    return [serializers.request_json(row, newest.get(row.id), at=at) for row in rows]


class RequestBatch(APIView):
    """Several requests at once."""

    scopes: ClassVar = {"POST": ORCHESTRATORS}

    @extend_schema(request=serializers.Batch, responses=CREATED)
    @idempotent
    def post(self, request: ApiRequest) -> Response:
        """Store a list of requests in one transaction; `gang`: grant all at once, or none."""
        body = checked(serializers.Batch(data=request.data))
        rows = [
            serializers.request_row(fields, requested_by=request.user.name)
            for fields in body["requests"]
        ]
        stored = requests.submit_all(rows, gang=body["gang"])
        return Response({"requests": _requests_json(stored)}, status=201)


class RequestDetail(APIView):
    """One request; `wait` is the gateway's to add."""

    scopes: ClassVar = {"GET": READERS, "PATCH": ORCHESTRATORS, "DELETE": ORCHESTRATORS}

    @extend_schema(parameters=[serializers.WaitQuery], responses=ANY_JSON)
    def get(self, request: ApiRequest, request_id: UUID) -> Response:
        """Show a request; asking for it keeps it waiting."""
        checked(serializers.WaitQuery(data=request.query_params.dict()))
        row = queries.request(request_id)
        _asker(request, row)
        requests.touch_request(row)
        return Response(request_body(request_id))

    @extend_schema(request=serializers.PriorityChange, responses=ANY_JSON)
    def patch(self, request: ApiRequest, request_id: UUID) -> Response:
        """Change the priority of a request that waits."""
        _asker(request, queries.request(request_id))
        fields = checked(serializers.PriorityChange(data=request.data))
        requests.set_priority(request_id, actor=request.user.name, **fields)
        return Response(request_body(request_id))

    @extend_schema(parameters=[REASON], responses=ANY_JSON)
    def delete(self, request: ApiRequest, request_id: UUID) -> Response:
        """Cancel a request, and its lease if it has one."""
        _asker(request, queries.request(request_id))
        requests.cancel_request(
            request_id, actor=request.user.name, reason=_reason(request) or "cancelled"
        )
        return Response(request_body(request_id))


class RequestExplain(APIView):
    """Why a request got its agent, or why it waits."""

    scopes: ClassVar = {"GET": READERS}

    @extend_schema(responses=ANY_JSON)
    def get(self, request: ApiRequest, request_id: UUID) -> Response:
        """Explain a request: filters with counts, scores with parts, or the reason it waits."""
        row = queries.request(request_id)
        _asker(request, row)
        return Response(serializers.explanation_json(explain.explain(row)))


def _asker(request: ApiRequest, row: Request) -> None:
    if request.user.scope is Scope.ORCHESTRATOR and row.requested_by != request.user.name:
        raise NotFound(f"There is no request {row.id} of yours.")


# -- leases --------------------------------------------------------------------------------------


class Leases(APIView):
    """The rights to agents' slots."""

    scopes: ClassVar = {"GET": READERS | {Scope.AGENT}}

    @extend_schema(parameters=[serializers.LeaseQuery], responses=PAGE)
    def get(self, request: ApiRequest) -> Response:
        """List leases, newest first; orchestrators and agents see their own."""
        query = checked(serializers.LeaseQuery(data=request.query_params.dict()))
        rows = queries.leases()
        if request.user.scope is Scope.ORCHESTRATOR:
            rows = rows.filter(request__requested_by=request.user.name)
        if request.user.scope is Scope.AGENT:
            rows = rows.filter(agent=request.user.agent)
        columns = {"agent_type": "pool", "agent_id": "agent__agent_id"}
        for name in ("status", "agent_type", "project", "cycle_id", "agent_id"):
            if name in query:
                rows = rows.filter(**{columns.get(name, name): query[name]})
        return page(
            self,
            rows,
            ordering=("-fencing_token",),
            show=lambda found: [serializers.lease_json(lease) for lease in found],
        )


class LeaseDetail(APIView):
    """One lease."""

    scopes: ClassVar = {"GET": READERS | {Scope.AGENT}}

    @extend_schema(responses=ANY_JSON)
    def get(self, request: ApiRequest, lease_id: UUID) -> Response:
        """Show one lease."""
        lease = _holder(request, queries.lease(lease_id))
        isolation = serializers.isolation_json(queries.isolation_of(lease))
        return Response({**serializers.lease_json(lease), "isolation": isolation})


class LeaseDoor(APIView, ABC):
    """A write by the holder of a lease; a stale fencing token changes nothing."""

    scopes: ClassVar = {"POST": HOLDERS}
    form: ClassVar[type[drf.Serializer[Any]]] = serializers.Fenced

    def post(self, request: ApiRequest, lease_id: UUID) -> Response:
        """Check who calls and what; then do the door's one call."""
        _holder(request, queries.lease(lease_id))
        body = checked(self.form(data=request.data))
        token = body.pop("fencing_token")
        return Response(self.act(request, lease_id, token, body))

    @abstractmethod
    def act(
        self, request: ApiRequest, lease_id: UUID, token: int, body: dict[str, Any]
    ) -> dict[str, Any]:
        """Return the answer's body."""


@extend_schema(request=serializers.Fenced, responses=ANY_JSON)
class LeaseAck(LeaseDoor):
    """The agent takes the offer."""

    def act(
        self, request: ApiRequest, lease_id: UUID, token: int, body: dict[str, Any]
    ) -> dict[str, Any]:
        """Turn the offer into an active lease."""
        return serializers.lease_json(leases.acknowledge(lease_id, token=token))


@extend_schema(request=serializers.Fenced, responses=ANY_JSON)
class LeaseRenew(LeaseDoor):
    """The holder still needs it."""

    def act(
        self, request: ApiRequest, lease_id: UUID, token: int, body: dict[str, Any]
    ) -> dict[str, Any]:
        """Give the lease its full term again."""
        return serializers.lease_json(leases.renew(lease_id, token=token))


@extend_schema(request=serializers.UsageReport, responses=ANY_JSON)
class LeaseUsage(LeaseDoor):
    """What the work uses and how far it is."""

    form = serializers.UsageReport

    def act(
        self, request: ApiRequest, lease_id: UUID, token: int, body: dict[str, Any]
    ) -> dict[str, Any]:
        """Note use and progress."""
        lease = leases.report_usage(
            lease_id,
            token=token,
            usage=body.get("usage") or {},
            progress=body.get("progress") or {},
        )
        return serializers.lease_json(lease)


@extend_schema(request=serializers.SecurityReport, responses=ANY_JSON)
class LeaseSecurity(LeaseDoor):
    """How the work is isolated, and what was refused to it; not the asker's to say."""

    scopes: ClassVar = {"POST": AGENTS}
    form = serializers.SecurityReport

    def act(
        self, request: ApiRequest, lease_id: UUID, token: int, body: dict[str, Any]
    ) -> dict[str, Any]:
        """Store it; the agent may be quarantined for it."""
        lease = security.report(
            lease_id,
            token=token,
            enforcement=body.get("enforcement"),
            incidents=body.get("incidents") or [],
        )
        isolation = serializers.isolation_json(queries.isolation_of(lease))
        return {**serializers.lease_json(lease), "isolation": isolation}


@extend_schema(request=serializers.ParkLease, responses=ANY_JSON)
class LeasePark(LeaseDoor):
    """The work waits for a person or a rate limit."""

    form = serializers.ParkLease

    def act(
        self, request: ApiRequest, lease_id: UUID, token: int, body: dict[str, Any]
    ) -> dict[str, Any]:
        """Free the slot and the amounts; the lease and its lock keys stay."""
        lease = leases.park(lease_id, token=token, reason=body["reason"], actor=request.user.name)
        return serializers.lease_json(lease)


@extend_schema(request=serializers.Fenced, responses=ANY_JSON)
class LeaseResume(LeaseDoor):
    """The work goes on."""

    def act(
        self, request: ApiRequest, lease_id: UUID, token: int, body: dict[str, Any]
    ) -> dict[str, Any]:
        """Take a slot of the same agent again; the answer has the new fencing token."""
        return serializers.lease_json(leases.resume(lease_id, token=token, actor=request.user.name))


@extend_schema(request=serializers.ResizeLease, responses=ANY_JSON)
class LeaseResize(LeaseDoor):
    """The work needs more, or can do with less."""

    form = serializers.ResizeLease

    def act(
        self, request: ApiRequest, lease_id: UUID, token: int, body: dict[str, Any]
    ) -> dict[str, Any]:
        """Change what the lease reserves."""
        lease = leases.resize(lease_id, token=token, amounts=body, actor=request.user.name)
        return serializers.lease_json(lease)


class LeaseRelease(APIView):
    """The end of the work."""

    scopes: ClassVar = {"POST": HOLDERS}

    def get_authenticators(self) -> list[BaseAuthentication]:
        """Remember who asks, where the exchange holds the token against the database once more."""
        return remembering(_is_exchange(self.request))

    @extend_schema(request=serializers.ReleaseLease, responses=ANY_JSON)
    def post(self, request: ApiRequest, lease_id: UUID) -> Answer:
        """End the lease; that it is the caller's to end is checked in the same statement."""
        body = intake.read(serializers.ReleaseLease, request.data)
        who = request.user
        wish = leases.closing(
            lease_id,
            token=body.pop("fencing_token"),
            outcome=Outcome(body.pop("outcome")),
            actor=who.name,
            asker=who.name if who.scope is Scope.ORCHESTRATOR else None,
            agent=who.agent.id if who.scope is Scope.AGENT and who.agent else None,
            **body,
        )
        return Ready(exchange.one(exchange.Call(wish, who.credential_id)) or "")


class LeaseLog(LeaseDoor):
    """What the work printed; `wait` is the gateway's to add."""

    scopes: ClassVar = {"GET": READERS | {Scope.AGENT}, "POST": HOLDERS}
    form = serializers.LogChunks

    @extend_schema(parameters=[serializers.LogQuery], responses=ANY_JSON)
    def get(self, request: ApiRequest, lease_id: UUID) -> Response:
        """Return the chunks after one, in order."""
        query = checked(serializers.LogQuery(data=request.query_params.dict()))
        lease = _holder(request, queries.lease(lease_id))
        return Response(log_answer(lease, after=query["after"]))

    @extend_schema(request=serializers.LogChunks, responses=ANY_JSON)
    def post(self, request: ApiRequest, lease_id: UUID) -> Response:
        """Append what the work printed."""
        return super().post(request, lease_id)

    def act(
        self, request: ApiRequest, lease_id: UUID, token: int, body: dict[str, Any]
    ) -> dict[str, Any]:
        """Append chunks, for as long as the lease is the caller's."""
        return write_log(lease_id, token, body["chunks"])


def write_log(lease_id: UUID, token: int, chunks: list[dict[str, str]]) -> dict[str, Any]:
    """Append chunks to a live lease's log, through any door; raises LeaseLost."""
    lease = leases.mine(lease_id, token)
    written = registry_services.append_log(
        lease, chunks=[(chunk["stream"], chunk["text"]) for chunk in chunks]
    )
    return {"bytes": written, "dropped_bytes": registry_queries.dropped_bytes(lease)}


def log_answer(lease: Lease, *, after: int) -> dict[str, Any]:
    """Return the chunks after one; complete: the lease has ended and nothing more will come."""
    chunks = registry_queries.log_after(lease, after=after)
    return {
        "chunks": [registry_serializers.chunk_json(chunk) for chunk in chunks],
        "next": chunks[-1].id if chunks else after,
        "complete": lease.released_at is not None and not chunks,
        "dropped_bytes": registry_queries.dropped_bytes(lease),
    }


def _holder(request: ApiRequest, lease: Lease) -> Lease:
    principal = request.user
    if principal.scope is Scope.AGENT and not principal.may_act_as(lease.agent):
        raise Forbidden("An agent's credential is good for its own leases only.")
    if principal.scope is Scope.ORCHESTRATOR and lease.request.requested_by != principal.name:
        raise NotFound(f"There is no lease {lease.id} of yours.")
    return lease


# -- resources -----------------------------------------------------------------------------------


class Resources(APIView):
    """What there is, what is reserved of it, and the limits on it."""

    @extend_schema(responses=ANY_JSON)
    def get(self, request: ApiRequest) -> Response:
        """Return totals and uses, by type and project, with all limits."""
        return Response(serializers.resources_json(queries.resources()))


class Learning(APIView):
    """What was learnt of each pool, and how good its predictions were lately."""

    @extend_schema(parameters=[serializers.LearningQuery], responses=ANY_JSON)
    def get(self, request: ApiRequest) -> Response:
        """List the pools: leases learnt from, errors, and whether `learnt` is proposed."""
        query = checked(serializers.LearningQuery(data=request.query_params.dict()))
        return Response({"results": insight.pools(**query)})


class LearningOfPool(APIView):
    """What was learnt of one pool, with its kinds of work and its agents."""

    @extend_schema(
        operation_id="agent_pool_learning_of_pool",
        parameters=[serializers.LearningQuery],
        responses=OBJECT,
    )
    def get(self, request: ApiRequest, agent_type: str) -> Response:
        """Return predictions with their bounds, and each day's errors."""
        query = checked(serializers.LearningQuery(data=request.query_params.dict()))
        pool = registry_queries.pool(agent_type)
        return Response(
            {
                **insight.pool(pool, **query),
                "kinds": insight.kinds(agent_type),
                "agents": insight.agents(agent_type),
                "reliability": insight.reliability(agent_type, **query),
            }
        )


class LearningOfAgent(APIView):
    """What is expected of one agent, and how suspicious it is."""

    @extend_schema(operation_id="agent_pool_learning_of_agent", responses=OBJECT)
    def get(self, request: ApiRequest, agent_id: str) -> Response:
        """Return its predictions at each kind of work, with bounds, leases and date."""
        return Response(insight.agent(_named(request, agent_id)))


class ResourceLimits(APIView):
    """How much an installation, a pool or a project may hold."""

    @extend_schema(responses=PAGE)
    def get(self, request: ApiRequest) -> Response:
        """List the limits with what is used and free of each."""
        shown = serializers.resources_json(queries.resources())["limits"]
        return Response({"results": shown, "next": None})

    @extend_schema(request=serializers.NewLimit, responses=ANY_JSON)
    def post(self, request: ApiRequest) -> Response:
        """Create or change the limit of a level and name, as a whole."""
        fields = checked(serializers.NewLimit(data=request.data))
        limit = limits.set_limit(fields, actor=request.user.name)
        used = queries.resources().used_under(limit)
        return Response(serializers.limit_json(limit, used))


class ResourceLimitDetail(APIView):
    """One limit."""

    @extend_schema(responses=ANY_JSON)
    def get(self, request: ApiRequest, limit_id: UUID) -> Response:
        """Show a limit with what is used and free of it."""
        limit = queries.limit(limit_id)
        used = queries.resources().used_under(limit)
        headers = {"ETag": etag(limit.generation)}
        return Response(serializers.limit_json(limit, used), headers=headers)

    @extend_schema(parameters=[IF_MATCH, REASON], responses={204: None})
    def delete(self, request: ApiRequest, limit_id: UUID) -> Response:
        """Remove a limit; whoever waits for it is served at once."""
        limits.remove_limit(
            limit_id,
            actor=request.user.name,
            note=_reason(request),
            if_generation=if_match(request),
        )
        return Response(status=204)
