"""The admin's pages of rebalancing: changes of grants, and each pool's policy."""

from typing import Any
from urllib.parse import urlencode

from django.contrib import admin
from django.urls import reverse
from django.utils.html import format_html
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
    """Whether grants change by themselves; edited on the console's page, where one sees it act."""

    section = "balancing"
    icon = "rule"
    rank = 7
    live_kinds = ("rebalancing.policy_changed",)
    empty = "No pool has a policy of its own: each recommends, by the usual rules."
    list_display = ("pool", "mode", "settings", "edit", "updated_by", "updated_at")
    readonly_fields = ("edit",)

    @show.column("edit")
    def edit(self, row: RebalancePolicy) -> Any:
        """Return a link to the form that changes it."""
        form = (
            f"{reverse('act', args=['rebalance-policy'])}?{urlencode({'rebalancing': row.pool_id})}"
        )
        return format_html('<a href="{}">on the console</a>', form)
