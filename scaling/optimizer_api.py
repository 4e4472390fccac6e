"""REST doors to the optimizer: to look, what was proposed, to do it or not, the policies."""

from typing import Any, ClassVar
from uuid import UUID

from drf_spectacular.utils import extend_schema
from rest_framework import serializers as drf
from rest_framework.response import Response
from rest_framework.views import APIView

from agentpool.registry import policy_api
from agentpool.registry.api import ANY_JSON, PAGE, checked
from agentpool.registry.fields import Choice, Query, Strict
from agentpool.registry.models import (
    OPTIMIZATION_STATUSES,
    Optimization,
    OptimizerPolicy,
)
from agentpool.registry.paging import page
from agentpool.registry.rest import OPERATORS, READERS, ApiRequest
from scaling import changing, optimizer, troubles


class LookBody(Strict):
    """At which pool; at all that are not off by default."""

    agent_type = drf.CharField(max_length=63, required=False)


class OptimizeQuery(Query):
    """Filters of the list of proposals."""

    agent_type = drf.CharField(max_length=63, required=False)
    status = Choice(OPTIMIZATION_STATUSES, required=False)


class NoteBody(Strict):
    """Why."""

    note = drf.CharField(max_length=400, required=False, allow_blank=True, default="")


class Optimize(APIView):
    """What is wrong with pools, and what would help."""

    scopes: ClassVar = {"POST": OPERATORS}

    @extend_schema(request=LookBody, responses=ANY_JSON)
    def post(self, request: ApiRequest) -> Response:
        """Look now: judge what was applied, propose what would help, in mode auto also do it."""
        body = checked(LookBody(data=request.data or {}))
        looked = optimizer.look(body.get("agent_type"), actor=request.user.name)
        return Response(
            {
                "issues_identified": [proposal_json(row, is_told=True) for row in looked.found],
                "optimizations_applied": looked.applied,
                "judged": looked.judged,
            }
        )


class OptimizeHistory(APIView):
    """What was proposed, newest first."""

    scopes: ClassVar = {"GET": READERS}

    @extend_schema(parameters=[OptimizeQuery], responses=PAGE)
    def get(self, request: ApiRequest) -> Response:
        """List proposals with what they rest on, what was expected, and what came of them."""
        query = checked(OptimizeQuery(data=request.query_params.dict()))
        rows = Optimization.objects.all()
        if "agent_type" in query:
            rows = rows.filter(pool_id=query["agent_type"])
        if "status" in query:
            rows = rows.filter(status=query["status"])
        return page(
            self,
            rows,
            ordering=("-at", "id"),
            show=lambda found: [proposal_json(row) for row in found],
        )


class OptimizeApply(APIView):
    """One proposal, carried out."""

    scopes: ClassVar = {"POST": OPERATORS}

    @extend_schema(request=NoteBody, responses=ANY_JSON)
    def post(self, request: ApiRequest, optimization_id: UUID) -> Response:
        """Carry out an open proposal; it is judged after a while."""
        body = checked(NoteBody(data=request.data or {}))
        row = optimizer.apply(optimization_id, actor=request.user.name, note=body["note"])
        return Response(proposal_json(row))


class OptimizeDismiss(APIView):
    """One proposal, closed."""

    scopes: ClassVar = {"POST": OPERATORS}

    @extend_schema(request=NoteBody, responses=ANY_JSON)
    def post(self, request: ApiRequest, optimization_id: UUID) -> Response:
        """Close an open proposal; it is not made again for a day."""
        body = checked(NoteBody(data=request.data or {}))
        row = optimizer.dismiss(optimization_id, actor=request.user.name, note=body["note"])
        return Response(proposal_json(row))


class OptimizePolicies(policy_api.Policies):
    """
    Whether proposals of each pool are carried out by themselves.

    The list tells by kind which share of the computed gain has come true so far, too.
    """

    table = OptimizerPolicy
    rules_of = staticmethod(troubles.rules_of)
    set_policy = staticmethod(optimizer.set_policy)

    def more(self) -> dict[str, Any]:
        """Return what came true of computed gains."""
        return {"factors": optimizer.factors()}


def proposal_json(row: Optimization, *, is_told: bool = False) -> dict[str, Any]:
    """Return a proposal as the interface tells it; is_told: with what applying it will do."""
    names = (
        "subject action change basis numbers metric measured without computed expected factor"
        " attempts over_s agent_hours_a_day usd_a_day status actor verdict at applied_at closed_at"
        " came_out"
    )
    shown = {name: getattr(row, name) for name in names.split()}
    told = {"will": changing.tells(row)} if is_told else {}
    return {"id": str(row.id), "agent_type": row.pool_id, "issue": row.kind, **shown, **told}
