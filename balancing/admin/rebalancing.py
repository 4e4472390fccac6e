"""The admin's pages of rebalancing: changes of grants, and each pool's policy; both read only."""

from typing import Any

from django.contrib import admin
from unfold.contrib.filters.admin import AllValuesCheckboxFilter, RelatedDropdownFilter

from agentpool.registry.admin import show
from agentpool.registry.admin.frame import ReadOnly
from agentpool.registry.admin.moments import Between
from agentpool.registry.models import RebalancePolicy, Rebalancing


@admin.register(Rebalancing)
class RebalancingAdmin(ReadOnly):
    """Changes of grants, and what became of them."""

    section = "balancing"
    icon = "balance"
    rank = 6
    live_kinds = ("rebalancing.",)
    empty = "No grant has been changed, and no change proposed: what leases hold is what they use."
    list_display = ("pool", "agent_id", "change", "status", "mode", "reason", "verdict", "when")
    list_filter = (
        ("pool", RelatedDropdownFilter),
        ("status", AllValuesCheckboxFilter),
        ("at", Between),
    )
    list_filter_submit = True
    search_fields = ("agent_id", "project")
    ordering = ("-at",)

    @show.column("change")
    def change(self, row: Rebalancing) -> str:
        """Return from what to what."""
        unit = "MB" if row.resource == "memory_mb" else "cores"
        return f"{row.before:g} to {row.after:g} {unit}"

    @show.column("when", ordering="at")
    def when(self, row: Rebalancing) -> Any:
        """Return when it was found."""
        return show.moment(row.at)


@admin.register(RebalancePolicy)
class RebalancePolicyAdmin(ReadOnly):
    """Whether grants change by themselves; changed on the console's page Rebalancing."""

    section = "balancing"
    icon = "rule"
    rank = 7
    empty = "No pool has a policy of its own: each recommends, by the usual rules."
    list_display = ("pool", "mode", "settings", "updated_by", "updated_at")
