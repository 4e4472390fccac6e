"""REST doors to facts: agents as they are, pools, tokens, profiles, events, metrics."""

from typing import Any, ClassVar
from uuid import UUID

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers as drf
from rest_framework.response import Response
from rest_framework.views import APIView

from agentpool.registry import (
    measuring,
    metrics,
    narrowing,
    queries,
    serializers,
    services,
    showing,
)
from agentpool.registry.errors import Forbidden
from agentpool.registry.fields import MAX_BIGINT, Query, Seconds
from agentpool.registry.models import (
    Agent,
    Credential,
    Pool,
    SecurityProfile,
)
from agentpool.registry.paging import page
from agentpool.registry.rest import (
    OPERATORS,
    READERS,
    ApiRequest,
    etag,
    idempotent,
    if_match,
)
from agentpool.registry.states import Scope

# What answers hold is told by docs/api.md; the schema says only that it is an object, or a page.
OBJECT = OpenApiTypes.OBJECT
ANY_JSON = {200: OBJECT}
CREATED = {201: OBJECT}
PAGE = {
    200: {
        "type": "object",
        "required": ["results", "next"],
        "properties": {
            "results": {"type": "array", "items": {"type": "object", "additionalProperties": True}},
            "next": {"type": ["string", "null"], "format": "uri"},
        },
    }
}
IF_MATCH = OpenApiParameter(
    "If-Match",
    location=OpenApiParameter.HEADER,
    description="The ETag of the version that the caller has seen; another one is refused (412).",
)


def checked(form: drf.Serializer[Any]) -> Any:
    """Return a form's values; raises ValidationError naming each faulty field."""
    form.is_valid(raise_exception=True)
    return form.validated_data


class AgentList(APIView):
    """All agents, filtered."""

    scopes: ClassVar = {"GET": READERS}

    @extend_schema(parameters=[serializers.AgentQuery], responses=PAGE)
    def get(self, request: ApiRequest) -> Response:
        """List agents: cursor pages, newest first unless `ordering` says otherwise."""
        query = checked(serializers.AgentQuery(data=request.query_params.dict()))
        return page(
            self,
            narrowing.agents(query),
            ordering=narrowing.ordering(query),
            show=showing.agents_json,
        )


class AgentDetail(APIView):
    """One agent by its row id."""

    scopes: ClassVar = {"GET": READERS | {Scope.AGENT}}

    @extend_schema(responses=ANY_JSON)
    def get(self, request: ApiRequest, pool_id: UUID) -> Response:
        """Show one agent."""
        return shown(request, queries.agent_by(id=pool_id))


class AgentByExternalId(APIView):
    """One agent by the id that its owner gave it."""

    scopes: ClassVar = {"GET": READERS | {Scope.AGENT}}

    @extend_schema(responses=ANY_JSON)
    def get(self, request: ApiRequest, agent_id: str) -> Response:
        """Show one agent."""
        return shown(request, queries.agent_by(agent_id=agent_id))


def shown(request: ApiRequest, agent: Agent, *, status: int = 200, **more: Any) -> Response:
    """
    Return the answer that shows an agent, with its version.

    Raises: Forbidden, an agent asks for another one.
    """
    if request.user.scope is Scope.AGENT and not request.user.may_act_as(agent):
        raise Forbidden("An agent's credential is good for itself only.")
    body = {**showing.agent_json(agent), **more}
    return Response(body, status=status, headers={"ETag": etag(agent.generation)})


class RotateCredential(APIView):
    """A new secret for an agent."""

    scopes: ClassVar = {"POST": OPERATORS}

    @extend_schema(request=serializers.Note, responses=CREATED)
    @idempotent
    def post(self, request: ApiRequest, agent_id: str) -> Response:
        """Make an agent's credential anew; it is shown this once, the old one is revoked."""
        body = checked(serializers.Note(data=request.data))
        agent = queries.agent_row(agent_id)
        issued = services.rotate_credential(agent, actor=request.user.name, note=body["note"])
        return Response(
            {
                "agent_id": agent.agent_id,
                "incarnation": agent.incarnation,
                "credential": issued.secret,
            },
            status=201,
        )


# -- pools, profiles, tokens ---------------------------------------------------------------------


class Pools(APIView):
    """The pools with their launch templates."""

    @extend_schema(responses=PAGE)
    def get(self, request: ApiRequest) -> Response:
        """List pools."""
        rows = Pool.objects.order_by("agent_type")
        return Response({"results": [showing.pool_json(p) for p in rows], "next": None})

    @extend_schema(request=serializers.NewPool, responses=CREATED)
    @idempotent
    def post(self, request: ApiRequest) -> Response:
        """Make a pool for a new type of agents."""
        fields = checked(serializers.NewPool(data=request.data))
        pool = services.create_pool(
            fields.pop("agent_type"), fields=fields, actor=request.user.name
        )
        return Response(
            showing.pool_json(pool),
            status=201,
            headers={"ETag": etag(pool.generation)},
        )


class PoolDetail(APIView):
    """One pool."""

    @extend_schema(responses=ANY_JSON)
    def get(self, request: ApiRequest, agent_type: str) -> Response:
        """Show one pool."""
        pool = queries.pool(agent_type)
        return Response(showing.pool_json(pool), headers={"ETag": etag(pool.generation)})

    @extend_schema(request=serializers.PoolFields, parameters=[IF_MATCH], responses=ANY_JSON)
    def patch(self, request: ApiRequest, agent_type: str) -> Response:
        """Change a pool's policy or launch template."""
        pool = queries.pool(agent_type)
        fields = checked(serializers.PoolFields(pool, data=request.data))
        pool = services.update_pool(
            agent_type,
            fields=fields,
            if_generation=if_match(request),
            actor=request.user.name,
        )
        return Response(showing.pool_json(pool), headers={"ETag": etag(pool.generation)})


class EnrolmentTokens(APIView):
    """Tokens with which agents enrol in a pool."""

    @extend_schema(request=serializers.NewEnrolmentToken, responses=CREATED)
    @idempotent
    def post(self, request: ApiRequest, agent_type: str) -> Response:
        """Make an enrolment token; it is shown this once."""
        fields = checked(serializers.NewEnrolmentToken(data=request.data))
        issued = services.enrolment_token(
            queries.pool(agent_type), actor=request.user.name, **fields
        )
        body = showing.credential_json(issued.credential, secret=issued.secret)
        return Response(body, status=201)


class Tokens(APIView):
    """Tokens of people and orchestrators."""

    scopes: ClassVar = {"GET": OPERATORS, "POST": OPERATORS}

    @extend_schema(responses=PAGE)
    def get(self, request: ApiRequest) -> Response:
        """List tokens that are not revoked, without their secrets."""
        rows = Credential.objects.exclude(scope=Scope.AGENT).filter(revoked_at=None)
        return page(
            self,
            rows,
            ordering=("-created_at", "id"),
            show=lambda found: [showing.credential_json(c) for c in found],
        )

    @extend_schema(request=serializers.NewToken, responses=CREATED)
    @idempotent
    def post(self, request: ApiRequest) -> Response:
        """Make a token; it is shown this once."""
        fields = checked(serializers.NewToken(data=request.data))
        scope = Scope(fields.pop("scope"))
        issued = services.token(scope=scope, actor=request.user.name, **fields)
        body = showing.credential_json(issued.credential, secret=issued.secret)
        return Response(body, status=201)


class TokenDetail(APIView):
    """One token."""

    scopes: ClassVar = {"DELETE": OPERATORS}

    @extend_schema(responses={204: None})
    def delete(self, request: ApiRequest, token_id: UUID) -> Response:
        """Revoke a token at once."""
        services.revoke_token(token_id, actor=request.user.name)
        return Response(status=204)


class Whoami(APIView):
    """Who the caller is: what `agentpool login` asks to check a token."""

    scopes: ClassVar = {"GET": READERS | {Scope.AGENT}}

    @extend_schema(responses=ANY_JSON)
    def get(self, request: ApiRequest) -> Response:
        """Show the caller's name and scope."""
        return Response({"name": request.user.name, "scope": request.user.scope})


class Profiles(APIView):
    """Security profiles of all types."""

    @extend_schema(responses=PAGE)
    def get(self, request: ApiRequest) -> Response:
        """List security profiles."""
        rows = SecurityProfile.objects.order_by("pool")
        return Response({"results": [showing.profile_json(p) for p in rows], "next": None})


class ProfileDetail(APIView):
    """The security profile of one type."""

    @extend_schema(responses=ANY_JSON)
    def get(self, request: ApiRequest, agent_type: str) -> Response:
        """Show one profile."""
        queries.pool(agent_type)
        return _profile(SecurityProfile.objects.get(pool_id=agent_type))

    @extend_schema(request=serializers.ProfileFields, parameters=[IF_MATCH], responses=ANY_JSON)
    def patch(self, request: ApiRequest, agent_type: str) -> Response:
        """Change a profile; its version rises."""
        fields = checked(serializers.ProfileFields(data=request.data))
        return _profile(
            services.update_profile(
                agent_type, fields=fields, if_version=if_match(request), actor=request.user.name
            )
        )


def _profile(profile: SecurityProfile) -> Response:
    return Response(showing.profile_json(profile), headers={"ETag": etag(profile.version)})


# -- events and metrics --------------------------------------------------------------------------


class EventQuery(Query):
    """Where in the stream to begin, and how long to wait for more."""

    after = drf.IntegerField(min_value=0, max_value=MAX_BIGINT, required=False)
    wait = Seconds(min_value=0, max_value=60, required=False)


class Events(APIView):
    """The event stream, in order, resumable."""

    scopes: ClassVar = {"GET": READERS}

    @extend_schema(parameters=[EventQuery], responses=ANY_JSON)
    def get(self, request: ApiRequest) -> Response:
        """
        Return the events after a number; without `after`, only where the stream stands.

        An orchestrator does not see those of requests that others made.
        """
        query = checked(EventQuery(data=request.query_params.dict()))
        if "after" not in query:
            return Response({"events": [], "next": queries.last_seq()})
        found = queries.events_after(query["after"], limit=query.get("limit", 500))
        seen = found
        if request.user.scope is Scope.ORCHESTRATOR:
            seen = queries.own_events(found, name=request.user.name)
        body = [showing.event_json(event) for event in seen]
        return Response({"events": body, "next": found[-1].number.seq if found else query["after"]})


class MetricsQuery(drf.Serializer[Any]):
    """A range of time and a step."""

    agent_type = drf.CharField(max_length=63, required=False)
    since = drf.DateTimeField(required=False)
    until = drf.DateTimeField(required=False)
    step_s = Seconds(min_value=30, max_value=31 * 86_400, required=False)


class MetricsSummary(APIView):
    """What the pools look like now, or looked like over a range of time."""

    @extend_schema(parameters=[MetricsQuery], responses=ANY_JSON)
    def get(self, request: ApiRequest) -> Response:
        """Return each pool's metrics and the total; with `since`, the series."""
        query = checked(MetricsQuery(data=request.query_params.dict()))
        types = list(Pool.objects.values_list("agent_type", flat=True))
        if "agent_type" in query:
            types = [queries.pool(query["agent_type"]).agent_type]
        if "since" in query:
            return Response(_series(types, query))
        at, found = measuring.now()
        pools = [measuring.told(name, at, found[name]) for name in types]
        total = measuring.told("", at, metrics.total(found[name] for name in types))
        del total["agent_type"]
        return Response({"timestamp": at, "pools": pools, "total": total})


def _series(types: list[str], query: dict[str, Any]) -> dict[str, Any]:
    step_s, points = measuring.series(
        types,
        since=query["since"],
        until=query.get("until"),
        step_s=query.get("step_s"),
    )
    return {"step_s": step_s, "series": points}


class MetricsHealth(APIView):
    """How each agent is: its last sign of life, status, health, and why it gets no work."""

    @extend_schema(parameters=[serializers.AgentQuery], responses=PAGE)
    def get(self, request: ApiRequest) -> Response:
        """List agents with age of heartbeat, status, health and reasons."""
        query = checked(serializers.AgentQuery(data=request.query_params.dict()))
        return page(
            self,
            narrowing.agents(query),
            ordering=narrowing.ordering(query),
            show=lambda agents: [_health(a) for a in showing.agents_json(agents)],
        )


def _health(agent: dict[str, Any]) -> dict[str, Any]:
    reasons = []
    if agent["status"] not in ("idle", "busy"):
        reasons.append(f"status {agent['status']}: {agent['status_reason'] or 'no reason given'}")
    if agent["health"] in ("quarantined", "maintenance"):
        reasons.append(f"health {agent['health']}: {agent['health_note'] or 'no note given'}")
    if agent["load"] >= agent["max_concurrent"]:
        reasons.append(f"all {agent['max_concurrent']} slots are in use")
    names = "agent_id agent_type status health heartbeat_age_s last_heartbeat_at schedulable"
    return {name: agent[name] for name in names.split()} | {"reasons": reasons}
