"""REST doors to leases: from the acknowledgement to the release, and their logs."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar
from uuid import UUID

from drf_spectacular.utils import extend_schema
from rest_framework import serializers as drf
from rest_framework.authentication import BaseAuthentication
from rest_framework.response import Response
from rest_framework.views import APIView

from agentpool.registry import queries as registry_queries
from agentpool.registry import services as registry_services
from agentpool.registry import showing as registry_showing
from agentpool.registry.api import ANY_JSON, PAGE, checked
from agentpool.registry.models import Lease
from agentpool.registry.paging import page
from agentpool.registry.rest import (
    AGENTS,
    HOLDERS,
    READERS,
    Answer,
    ApiRequest,
    Ready,
    remembering,
)
from agentpool.registry.states import (
    Outcome,
    Scope,
)
from balancing import callers, intake, queries, reports, serializers, showing
from balancing.services import exchange, leases, security


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
            show=lambda found: [showing.lease_json(lease) for lease in found],
        )


class LeaseDetail(APIView):
    """One lease."""

    scopes: ClassVar = {"GET": READERS | {Scope.AGENT}}

    @extend_schema(responses=ANY_JSON)
    def get(self, request: ApiRequest, lease_id: UUID) -> Response:
        """Show one lease."""
        lease = callers.holder(request, queries.lease(lease_id))
        isolation = showing.isolation_json(queries.isolation_of(lease))
        return Response({**showing.lease_json(lease), "isolation": isolation})


class LeaseDoor(APIView, ABC):
    """A write by the holder of a lease; a stale fencing token changes nothing."""

    scopes: ClassVar = {"POST": HOLDERS}
    form: ClassVar[type[drf.Serializer[Any]]] = reports.Fenced

    def post(self, request: ApiRequest, lease_id: UUID) -> Response:
        """Check who calls and what; then do the door's one call."""
        callers.holder(request, queries.lease(lease_id))
        body = checked(self.form(data=request.data))
        token = body.pop("fencing_token")
        return Response(self.act(request, lease_id, token, body))

    @abstractmethod
    def act(
        self, request: ApiRequest, lease_id: UUID, token: int, body: dict[str, Any]
    ) -> dict[str, Any]:
        """Return the answer's body."""


@extend_schema(request=reports.Fenced, responses=ANY_JSON)
class LeaseAck(LeaseDoor):
    """The agent takes the offer."""

    def act(
        self, request: ApiRequest, lease_id: UUID, token: int, body: dict[str, Any]
    ) -> dict[str, Any]:
        """Turn the offer into an active lease."""
        return showing.lease_json(leases.acknowledge(lease_id, token=token))


@extend_schema(request=reports.Fenced, responses=ANY_JSON)
class LeaseRenew(LeaseDoor):
    """The holder still needs it."""

    def act(
        self, request: ApiRequest, lease_id: UUID, token: int, body: dict[str, Any]
    ) -> dict[str, Any]:
        """Give the lease its full term again."""
        return showing.lease_json(leases.renew(lease_id, token=token))


@extend_schema(request=reports.UsageReport, responses=ANY_JSON)
class LeaseUsage(LeaseDoor):
    """What the work uses and how far it is."""

    form = reports.UsageReport

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
        return showing.lease_json(lease)


@extend_schema(request=reports.SecurityReport, responses=ANY_JSON)
class LeaseSecurity(LeaseDoor):
    """How the work is isolated, and what was refused to it; not the asker's to say."""

    scopes: ClassVar = {"POST": AGENTS}
    form = reports.SecurityReport

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
        isolation = showing.isolation_json(queries.isolation_of(lease))
        return {**showing.lease_json(lease), "isolation": isolation}


@extend_schema(request=reports.ParkLease, responses=ANY_JSON)
class LeasePark(LeaseDoor):
    """The work waits for a person or a rate limit."""

    form = reports.ParkLease

    def act(
        self, request: ApiRequest, lease_id: UUID, token: int, body: dict[str, Any]
    ) -> dict[str, Any]:
        """Free the slot and the amounts; the lease and its lock keys stay."""
        lease = leases.park(lease_id, token=token, reason=body["reason"], actor=request.user.name)
        return showing.lease_json(lease)


@extend_schema(request=reports.Fenced, responses=ANY_JSON)
class LeaseResume(LeaseDoor):
    """The work goes on."""

    def act(
        self, request: ApiRequest, lease_id: UUID, token: int, body: dict[str, Any]
    ) -> dict[str, Any]:
        """Take a slot of the same agent again; the answer has the new fencing token."""
        return showing.lease_json(leases.resume(lease_id, token=token, actor=request.user.name))


@extend_schema(request=reports.ResizeLease, responses=ANY_JSON)
class LeaseResize(LeaseDoor):
    """The work needs more, or can do with less."""

    form = reports.ResizeLease

    def act(
        self, request: ApiRequest, lease_id: UUID, token: int, body: dict[str, Any]
    ) -> dict[str, Any]:
        """Change what the lease reserves."""
        lease = leases.resize(lease_id, token=token, amounts=body, actor=request.user.name)
        return showing.lease_json(lease)


class LeaseRelease(APIView):
    """The end of the work."""

    scopes: ClassVar = {"POST": HOLDERS}

    def get_authenticators(self) -> list[BaseAuthentication]:
        """Remember who asks, where the exchange holds the token against the database once more."""
        return remembering(callers.is_exchange(self.request))

    @extend_schema(request=reports.ReleaseLease, responses=ANY_JSON)
    def post(self, request: ApiRequest, lease_id: UUID) -> Answer:
        """End the lease; that it is the caller's to end is checked in the same statement."""
        body = intake.read(reports.ReleaseLease, request.data)
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
    form = reports.LogChunks

    @extend_schema(parameters=[serializers.LogQuery], responses=ANY_JSON)
    def get(self, request: ApiRequest, lease_id: UUID) -> Response:
        """Return the chunks after one, in order."""
        query = checked(serializers.LogQuery(data=request.query_params.dict()))
        lease = callers.holder(request, queries.lease(lease_id))
        return Response(log_answer(lease, after=query["after"]))

    @extend_schema(request=reports.LogChunks, responses=ANY_JSON)
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
        "chunks": [registry_showing.chunk_json(chunk) for chunk in chunks],
        "next": chunks[-1].id if chunks else after,
        "complete": lease.released_at is not None and not chunks,
        "dropped_bytes": registry_queries.dropped_bytes(lease),
    }
