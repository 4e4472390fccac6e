"""The leases: what each was granted, and what it uses of that."""

from django.db.models import F, Q

from agentpool.console import page
from agentpool.console.page import Params, Picture
from agentpool.console.pages._rows import lease_row, matching
from agentpool.registry import queries as registry_queries
from agentpool.registry.models import Pool
from agentpool.registry.states import LIVE, LeaseStatus
from balancing import queries

SORTS = {
    "newest": ("-fencing_token",),
    "oldest": ("fencing_token",),
    "-memory": (F("measured_memory_mb").desc(), "-fencing_token"),
    "-tokens": ((F("tokens_in") + F("tokens_out")).desc(), "-fencing_token"),
    "expires": ("expires_at", "-fencing_token"),
}
# "live" stands for every status that is not an end.
STATUSES = ("live", "all", *(status.value for status in LeaseStatus))
BULK = ("release-lease", "cancel-lease")
PARAMS = {
    "status": "live",
    "agent_type": "",
    "project": "",
    "search": "",
    "sort": "newest",
    "shown": "",
}


def picture(params: Params) -> Picture:
    """Return the leases that the filters let through, the newest first."""
    at = registry_queries.now()
    shown = page.rows_shown(params)
    rows = queries.leases()
    if params["status"] in ("", "live"):
        rows = rows.filter(status__in=LIVE)
    elif params["status"] != "all":
        rows = rows.filter(status=params["status"])
    rows = matching(rows, {"pool_id": "agent_type", "project": "project"}, params)
    if text := params["search"]:
        rows = rows.filter(
            Q(cycle_id__icontains=text)
            | Q(project__icontains=text)
            | Q(agent__agent_id__icontains=text)
        )
    # Ended leases are kept by the hundred thousand: counting stops where showing does.
    total = rows.order_by()[: page.MOST_ROWS + 1].count()
    ordered = rows.order_by(*SORTS.get(params["sort"], SORTS["newest"]))
    return {
        "now": at,
        "leases": [lease_row(lease) for lease in ordered[:shown]],
        "more": page.more(shown, total),
        "bulk": BULK,
        "statuses": STATUSES,
        "agent_types": list(Pool.objects.values_list("agent_type", flat=True)),
    }
