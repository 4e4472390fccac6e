"""REST doors to requests: asking for an agent, changing, cancelling, explaining."""

from typing import Any, ClassVar
from uuid import UUID

from drf_spectacular.utils import extend_schema
from rest_framework.authentication import BaseAuthentication
from rest_framework.response import Response
from rest_framework.views import APIView

from agentpool.registry import queries as registry_queries
from agentpool.registry.api import ANY_JSON, CREATED, OBJECT, PAGE, checked
from agentpool.registry.errors import NotFound
from agentpool.registry.models import Lease, Request
from agentpool.registry.paging import page
from agentpool.registry.rest import (
    ORCHESTRATORS,
    READERS,
    Answer,
    ApiRequest,
    Ready,
    idempotent,
    remembering,
)
from agentpool.registry.states import (
    RequestStatus,
    Scope,
)
from balancing import callers, explain, intake, queries, serializers, showing
from balancing.services import exchange, requests


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
        return Response(showing.lease_json(lease), status=201)


class Requests(APIView):
    """Wishes for agents."""

    scopes: ClassVar = {"GET": READERS, "POST": ORCHESTRATORS}

    def get_authenticators(self) -> list[BaseAuthentication]:
        """Remember who asks, where the exchange holds the token against the database once more."""
        return remembering(callers.is_exchange(self.request))

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
        return Response(showing.lease_json(lease), status=201, headers=location)
    return Response(request_body(request_id), status=202, headers=location)


def _location(request_id: UUID) -> dict[str, str]:
    return {"Location": f"/api/agent-pool/requests/{request_id}"}


def request_body(request_id: UUID, lease: Lease | None = None) -> dict[str, Any]:
    """Return a request with its newest lease, as every door shows it."""
    row = queries.request(request_id)
    newest = lease or queries.newest_lease_of(request_id)
    body = showing.request_json(row, newest, at=registry_queries.now())
    if row.status == RequestStatus.WAITING:
        body["position"] = explain.position_of(row)
        body["reason"] = explain.reasons([row])[row.id].sentence
    return body


def _requests_json(rows: list[Request]) -> list[dict[str, Any]]:
    newest = queries.newest_leases_of([row.id for row in rows])
    at = registry_queries.now()
    return [showing.request_json(row, newest.get(row.id), at=at) for row in rows]


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
        """Show a request; it waits for as long as whoever wants it asks for it."""
        checked(serializers.WaitQuery(data=request.query_params.dict()))
        row = queries.request(request_id)
        _asker(request, row)
        requests.touch_request(row, by=request.user.name)
        return Response(request_body(request_id))

    @extend_schema(request=serializers.PriorityChange, responses=ANY_JSON)
    def patch(self, request: ApiRequest, request_id: UUID) -> Response:
        """Change the priority of a request that waits."""
        _asker(request, queries.request(request_id))
        fields = checked(serializers.PriorityChange(data=request.data))
        requests.set_priority(request_id, actor=request.user.name, **fields)
        return Response(request_body(request_id))

    @extend_schema(parameters=[callers.REASON], responses=ANY_JSON)
    def delete(self, request: ApiRequest, request_id: UUID) -> Response:
        """Cancel a request, and its lease if it has one."""
        _asker(request, queries.request(request_id))
        requests.cancel_request(
            request_id, actor=request.user.name, reason=callers.reason(request) or "cancelled"
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
        return Response(showing.explanation_json(explain.explain(row)))


def _asker(request: ApiRequest, row: Request) -> None:
    if request.user.scope is Scope.ORCHESTRATOR and row.requested_by != request.user.name:
        raise NotFound(f"There is no request {row.id} of yours.")
