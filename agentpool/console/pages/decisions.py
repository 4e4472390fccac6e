"""Decisions: who was chosen lately, before whom, by which strategy, with which score."""

from django.db.models import Q
from django.db.models.fields.json import KT

from agentpool.console import page
from agentpool.console.page import Params, Picture
from agentpool.console.pages._rows import decision_row, matching
from agentpool.registry import queries as registry_queries
from agentpool.registry.models import Lease, Pool
from agentpool.registry.states import Strategy
from balancing import scoring

TIERS = ("preferred", "affinity", "strategy", "contended", "queue")
PARAMS = {"agent_type": "", "strategy": "", "tier": "", "search": "", "shown": ""}


def picture(params: Params) -> Picture:
    """Return the newest placements that the filters let through."""
    shown = page.rows_shown(params)
    columns = {
        "pool_id": "agent_type",
        "strategy": "strategy",
        "tier": "tier",
    }
    leases = Lease.objects.select_related("agent")
    leases = leases.annotate(strategy=KT("decision__strategy"), tier=KT("decision__tier"))
    rows = matching(leases, columns, params)
    if text := params["search"]:
        rows = rows.filter(
            Q(cycle_id__icontains=text)
            | Q(project__icontains=text)
            | Q(agent__agent_id__icontains=text)
        )
    found = list(rows.order_by("-fencing_token")[: shown + 1])
    return {
        "now": registry_queries.now(),
        "decisions": [decision_row(lease) for lease in found[:shown]],
        "more": page.more(shown, len(found)),
        "agent_types": list(Pool.objects.values_list("agent_type", flat=True)),
        "strategies": [strategy.value for strategy in Strategy],
        "tiers": TIERS,
        "part_names": list(scoring.WORKLOAD_WEIGHTS),
    }
