"""REST doors to policies that are a mode and some rules, whatever they rule."""

from dataclasses import asdict
from typing import Any, ClassVar

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.response import Response
from rest_framework.views import APIView

from agentpool.registry import policies
from agentpool.registry.api import ANY_JSON, PAGE, checked
from agentpool.registry.fields import Choice, Strict
from agentpool.registry.models import MODES
from agentpool.registry.rest import OPERATORS, READERS, ApiRequest


class PolicyBody(Strict):
    """A pool's mode and rules; a setting that is null goes back to the usual."""

    agent_type = serializers.CharField(max_length=63)
    mode = Choice(MODES, required=False)
    settings = serializers.DictField(required=False)


class Policies(APIView):
    """A subclass says of which table, by which rules, and by which service they are changed."""

    scopes: ClassVar = {"GET": READERS, "POST": OPERATORS}
    table: ClassVar[Any]
    rules_of: ClassVar[Any]
    set_policy: ClassVar[Any]

    @extend_schema(responses=PAGE)
    def get(self, request: ApiRequest) -> Response:
        """List the policies."""
        found = [self._json(row) for row in policies.policies(self.table)]
        return Response({"results": found, "next": None, **self.more()})

    @extend_schema(request=PolicyBody, responses=ANY_JSON)
    def post(self, request: ApiRequest) -> Response:
        """Change one; it is judged as a whole."""
        body = checked(PolicyBody(data=request.data))
        agent_type = body.pop("agent_type")
        return Response(self._json(self.set_policy(agent_type, actor=request.user.name, **body)))

    def more(self) -> dict[str, Any]:
        """Return what the list tells beside the policies."""
        return {}

    def _json(self, row: Any) -> dict[str, Any]:
        effective, fault = {}, ""
        try:
            effective = asdict(self.rules_of(row.settings))
        except ValueError as error:
            fault = str(error)
        return {
            "agent_type": row.pool_id,
            "mode": row.mode,
            "settings": row.settings,
            "effective": effective,
            "fault": fault,
            "updated_by": row.updated_by,
        }
