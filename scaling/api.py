"""REST doors to how many agents there are."""

from collections.abc import Mapping
from typing import Any, ClassVar

from drf_spectacular.utils import extend_schema
from rest_framework.response import Response
from rest_framework.views import APIView

from agentpool.registry import queries as registry_queries
from agentpool.registry.api import ANY_JSON, CREATED, OBJECT, PAGE, checked
from agentpool.registry.errors import Invalid
from agentpool.registry.models import Pool, ScalingDecision, ScalingEvent
from agentpool.registry.paging import page
from agentpool.registry.rest import OPERATORS, ApiRequest, idempotent
from agentpool.registry.states import Scope
from scaling import governance, queries, serializers, services


class Execute(APIView):
    """Grow or shrink a pool."""

    @extend_schema(request=serializers.Execute, responses={202: OBJECT})
    @idempotent
    def post(self, request: ApiRequest) -> Response:
        """Carry out a scaling action: agents start and drain after the answer."""
        body = checked(serializers.Execute(data=request.data))
        done = services.execute(body.pop("agent_type"), actor=request.user.name, **body)
        return Response(
            {
                **serializers.event_json(done.event),
                "launched": [agent.agent_id for agent in done.launched],
                "drained": [agent.agent_id for agent in done.drained],
                "woken_agents": [agent.agent_id for agent in done.woken],
            },
            status=202,
        )


class History(APIView):
    """What was scaled, when, by whom and why."""

    @extend_schema(parameters=[serializers.HistoryQuery], responses=PAGE)
    def get(self, request: ApiRequest) -> Response:
        """List changes of size, newest first."""
        query = checked(serializers.HistoryQuery(data=request.query_params.dict()))
        rows = ScalingEvent.objects.all()
        if "agent_type" in query:
            rows = rows.filter(pool=query["agent_type"])
        return page(
            self,
            rows,
            ordering=("-at", "id"),
            show=lambda found: [serializers.event_json(event) for event in found],
        )


class Recommendation(APIView):
    """What scaling would do now."""

    @extend_schema(parameters=[serializers.HistoryQuery], responses=ANY_JSON)
    def get(self, request: ApiRequest) -> Response:
        """Decide for one pool, or each, without carrying anything out."""
        query = checked(serializers.HistoryQuery(data=request.query_params.dict()))
        grown = queries.growth()
        if "agent_type" in query:
            return Response({"results": [_recommended(query["agent_type"], grown)], "faults": {}})
        results, faults = [], {}
        for pool in Pool.objects.order_by("agent_type"):
            try:
                results.append(_recommended(pool.agent_type, grown))
            except Invalid as refusal:
                faults[pool.agent_type] = refusal.detail
        return Response({"results": results, "faults": faults})


def _recommended(agent_type: str, grown: Mapping[str, tuple[int, int]]) -> dict[str, Any]:
    # Only here: the core's arrays cost each web process 20 MB.
    from scaling import evaluation

    (look,) = evaluation.recommend(agent_type)
    return serializers.look_json(look, grown.get(agent_type, (0, 0)))


class Decisions(APIView):
    """What was decided, by which rule, from what."""

    @extend_schema(parameters=[serializers.HistoryQuery], responses=PAGE)
    def get(self, request: ApiRequest) -> Response:
        """List decisions, newest first; steady ones are kept once a minute."""
        query = checked(serializers.HistoryQuery(data=request.query_params.dict()))
        rows = ScalingDecision.objects.all()
        if "agent_type" in query:
            rows = rows.filter(pool=query["agent_type"])
        return page(
            self,
            rows,
            ordering=("-at", "id"),
            show=lambda found: [serializers.decision_json(each) for each in found],
        )


class Policies(APIView):
    """How the size of each pool is decided."""

    @extend_schema(responses=ANY_JSON)
    def get(self, request: ApiRequest) -> Response:
        """Return the policy of each pool, with the pool's launch template."""
        pools = Pool.objects.order_by("agent_type")
        shown = [serializers.policy_json(governance.row_of(pool), pool) for pool in pools]
        return Response({"results": shown})

    @extend_schema(request=serializers.Policy, responses=ANY_JSON)
    @idempotent
    def post(self, request: ApiRequest) -> Response:
        """Change the policy of one pool; it is judged as a whole."""
        body = checked(serializers.Policy(data=request.data))
        row = governance.set_policy(body.pop("agent_type"), actor=request.user.name, **body)
        return Response(serializers.policy_json(row, registry_queries.pool(row.pool_id)))


class Start(APIView):
    """Switch scaling on."""

    @extend_schema(request=serializers.OfPool, responses=ANY_JSON)
    @idempotent
    def post(self, request: ApiRequest) -> Response:
        """Go back to the mode before the stop; at first that is auto."""
        body = checked(serializers.OfPool(data=request.data))
        rows = governance.start(body.get("agent_type"), actor=request.user.name)
        return Response({"results": [{"agent_type": r.pool_id, "mode": r.mode} for r in rows]})


class Stop(APIView):
    """Switch scaling off."""

    @extend_schema(request=serializers.OfPool, responses=ANY_JSON)
    @idempotent
    def post(self, request: ApiRequest) -> Response:
        """Decide nothing more; agents stay as they are."""
        body = checked(serializers.OfPool(data=request.data))
        rows = governance.stop(body.get("agent_type"), actor=request.user.name)
        return Response({"results": [{"agent_type": r.pool_id, "mode": r.mode} for r in rows]})


class Announcements(APIView):
    """Work that is known ahead."""

    scopes: ClassVar = {"POST": OPERATORS | {Scope.ORCHESTRATOR}}

    @extend_schema(request=serializers.Announce, responses=CREATED)
    @idempotent
    def post(self, request: ApiRequest) -> Response:
        """Announce work, so that agents are there when it comes."""
        body = checked(serializers.Announce(data=request.data))
        row = governance.announce(body.pop("agent_type"), actor=request.user.name, **body)
        return Response(serializers.announcement_json(row), status=201)
