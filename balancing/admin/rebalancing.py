"""The admin's pages of rebalancing: changes of grants, and each pool's policy."""

from django.contrib import admin
from unfold.contrib.filters.admin import AllValuesCheckboxFilter, RelatedDropdownFilter

from agentpool.registry.admin import show
from agentpool.registry.admin.frame import EditedOnConsole, ReadOnly
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

    when = show.at("when", "at")


@admin.register(RebalancePolicy)
class RebalancePolicyAdmin(EditedOnConsole):
    """Whether grants change by themselves; edited on the console's page, where one sees it act."""

    section = "balancing"
    icon = "rule"
    rank = 7
    live_kinds = ("rebalancing.policy_changed",)
    empty = "No pool has a policy of its own: each recommends, by the usual rules."
    list_display = ("pool", "mode", "settings", "edit", "updated_by", "updated_at")
    readonly_fields = ("edit",)

    edit = show.on_console("rebalance-policy", "rebalancing")
