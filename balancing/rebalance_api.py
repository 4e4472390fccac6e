"""REST doors to rebalancing: what could change, what was changed, to change it, the policies."""

from collections.abc import Mapping
from typing import Any, ClassVar

from drf_spectacular.utils import extend_schema
from rest_framework import serializers as drf
from rest_framework.response import Response
from rest_framework.views import APIView

from agentpool.registry import policy_api
from agentpool.registry.api import ANY_JSON, PAGE, checked
from agentpool.registry.fields import Choice, Query, Strict
from agentpool.registry.models import (
    REBALANCING_STATUSES,
    RebalancePolicy,
    Rebalancing,
)
from agentpool.registry.paging import page
from agentpool.registry.rest import OPERATORS, READERS, ApiRequest
from agentpool.registry.states import Scope
from balancing import rebalancing as rules
from balancing.services import rebalancing


class RunQuery(drf.Serializer[Any]):
    """Whether it only tells what it would do."""

    dry_run = drf.BooleanField(default=False)


class RunBody(Strict):
    """Of which pool; of all by default."""

    agent_type = drf.CharField(max_length=63, required=False)


class HistoryQuery(Query):
    """Filters of the list of changes."""

    agent_type = drf.CharField(max_length=63, required=False)
    status = Choice(REBALANCING_STATUSES, required=False)


class Rebalance(APIView):
    """Grants after what is used of them."""

    scopes: ClassVar = {"POST": OPERATORS}

    @extend_schema(parameters=[RunQuery], request=RunBody, responses=ANY_JSON)
    def post(self, request: ApiRequest) -> Response:
        """Change the grants of running leases now; with `dry_run` only tell what would change."""
        query = checked(RunQuery(data=request.query_params.dict()))
        body = checked(RunBody(data=request.data or {}))
        done = rebalancing.rebalance(
            dry_run=query["dry_run"],
            actor=request.user.name,
            agent_type=body.get("agent_type"),
        )
        return Response(_result_json(done))


class RebalanceHistory(APIView):
    """What was proposed and changed, newest first."""

    scopes: ClassVar = {"GET": READERS}

    @extend_schema(parameters=[HistoryQuery], responses=PAGE)
    def get(self, request: ApiRequest) -> Response:
        """
        List changes with what they rested on, what became of them, and the waits around them.

        An orchestrator sees those of its own leases.
        """
        query = checked(HistoryQuery(data=request.query_params.dict()))
        rows = Rebalancing.objects.all()
        if request.user.scope is Scope.ORCHESTRATOR:
            rows = rows.filter(lease__request__requested_by=request.user.name)
        if "agent_type" in query:
            rows = rows.filter(pool_id=query["agent_type"])
        if "status" in query:
            rows = rows.filter(status=query["status"])
        return page(
            self, rows, ordering=("-at", "id"), show=lambda found: [_row_json(r) for r in found]
        )


class RebalancePolicies(policy_api.Policies):
    """Whether the grants of each pool change by themselves."""

    table = RebalancePolicy
    rules_of = staticmethod(rules.rules_of)
    set_policy = staticmethod(rebalancing.set_policy)


def _result_json(done: rebalancing.Result) -> Mapping[str, Any]:
    freed = {name: float(value) for name, value in done.freed.items()}
    return {
        "rebalanced": not done.is_dry_run and done.successful > 0,
        "dry_run": done.is_dry_run,
        "reason": done.reason,
        "opportunities_found": len(done.rows),
        "successful_rebalances": done.successful,
        "total_resources_freed": freed,
        "opportunities": [_row_json(row) for row in done.rows],
    }


def _row_json(row: Rebalancing) -> dict[str, Any]:
    freed = row.before - row.after
    return {
        "id": str(row.id),
        "type": f"{row.resource.split('_')[0]}_{'increase' if freed < 0 else 'reduction'}",
        "agent_type": row.pool_id,
        "lease_id": str(row.lease_id),
        "agent_id": row.agent_id,
        "project": row.project,
        "resource": row.resource,
        "current_allocation": float(row.before),
        "suggested_allocation": float(row.after),
        "freed_amount": max(float(freed), 0.0),
        "needed_amount": max(-float(freed), 0.0),
        "confidence": rules.CONFIDENCE[row.resource, row.kind],
        "mode": row.mode,
        "status": row.status,
        "reason": row.reason,
        "bound": row.bound,
        "verdict": row.verdict,
        "actor": row.actor,
        "at": row.at,
        "asked_at": row.asked_at,
        "applied_at": row.applied_at,
        "closed_at": row.closed_at,
        "wait_before_s": row.wait_before_s,
        "wait_after_s": row.wait_after_s,
    }
