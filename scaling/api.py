"""REST doors to how many agents there are."""

from drf_spectacular.utils import extend_schema
from rest_framework.response import Response
from rest_framework.views import APIView

from agentpool.registry.api import OBJECT, PAGE, checked
from agentpool.registry.models import ScalingEvent
from agentpool.registry.rest import ApiRequest, idempotent, page
from scaling import serializers, services


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
