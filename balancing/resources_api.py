"""REST doors to what is there and what is known: resources, limits, learning."""

from uuid import UUID

from drf_spectacular.utils import extend_schema
from rest_framework.response import Response
from rest_framework.views import APIView

from agentpool.registry import queries as registry_queries
from agentpool.registry.api import ANY_JSON, IF_MATCH, OBJECT, PAGE, checked
from agentpool.registry.rest import (
    ApiRequest,
    etag,
    if_match,
)
from balancing import callers, insight, queries, serializers, showing
from balancing.services import limits


class Resources(APIView):
    """What there is, what is reserved of it, and the limits on it."""

    @extend_schema(responses=ANY_JSON)
    def get(self, request: ApiRequest) -> Response:
        """Return totals and uses, by type and project, with all limits."""
        return Response(showing.resources_json(queries.resources()))


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
        return Response(insight.agent(registry_queries.agent_row(agent_id)))


class ResourceLimits(APIView):
    """How much an installation, a pool or a project may hold."""

    @extend_schema(responses=PAGE)
    def get(self, request: ApiRequest) -> Response:
        """List the limits with what is used and free of each."""
        shown = showing.resources_json(queries.resources())["limits"]
        return Response({"results": shown, "next": None})

    @extend_schema(request=serializers.NewLimit, responses=ANY_JSON)
    def post(self, request: ApiRequest) -> Response:
        """Create or change the limit of a level and name, as a whole."""
        fields = checked(serializers.NewLimit(data=request.data))
        limit = limits.set_limit(fields, actor=request.user.name)
        used = queries.resources().used_under(limit)
        return Response(showing.limit_json(limit, used))


class ResourceLimitDetail(APIView):
    """One limit."""

    @extend_schema(responses=ANY_JSON)
    def get(self, request: ApiRequest, limit_id: UUID) -> Response:
        """Show a limit with what is used and free of it."""
        limit = queries.limit(limit_id)
        used = queries.resources().used_under(limit)
        headers = {"ETag": etag(limit.generation)}
        return Response(showing.limit_json(limit, used), headers=headers)

    @extend_schema(parameters=[IF_MATCH, callers.REASON], responses={204: None})
    def delete(self, request: ApiRequest, limit_id: UUID) -> Response:
        """Remove a limit; whoever waits for it is served at once."""
        limits.remove_limit(
            limit_id,
            actor=request.user.name,
            note=callers.reason(request),
            if_generation=if_match(request),
        )
        return Response(status=204)
