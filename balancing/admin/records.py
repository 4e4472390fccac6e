"""The admin's pages of what the past says: outcomes, records of agents, shares of projects."""

from typing import Any

from django.contrib import admin
from django.db.models import OuterRef, QuerySet, Subquery
from django.http import HttpRequest
from unfold.contrib.filters.admin import (
    AllValuesCheckboxFilter,
    RelatedDropdownFilter,
)

from agentpool.registry.admin import show
from agentpool.registry.admin.frame import ReadOnly
from agentpool.registry.admin.moments import Between
from agentpool.registry.models import Agent, Lease, LeaseOutcome, Outlook, Share, ShareState


@admin.register(LeaseOutcome)
class LeaseOutcomeAdmin(ReadOnly):
    """Outcomes: what each ended lease teaches."""

    section = "balancing"
    icon = "flag"
    rank = 5
    live_kinds = ("lease.",)
    empty = "No lease has ended yet."
    list_display = (
        "of_lease",
        "of_agent",
        "for_whom",
        "outcome_shown",
        "lasted",
        "waited",
        "memory",
        "tokens",
        "cost",
        "ended",
    )
    list_filter = (
        ("outcome", AllValuesCheckboxFilter),
        ("pool", RelatedDropdownFilter),
        ("ended_at", Between),
    )
    list_filter_submit = True
    list_select_related = ("agent",)
    search_fields = ("project", "cycle_id", "agent__agent_id")
    ordering = ("-ended_at",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[LeaseOutcome]:
        """Return outcomes with the numbers of their leases, which they may outlive."""
        lease = Lease.objects.filter(pk=OuterRef("lease_id"))
        rows: QuerySet[LeaseOutcome] = super().get_queryset(request)
        return rows.annotate(number=Subquery(lease.values("fencing_token")))

    @show.column("lease", ordering="number")
    def of_lease(self, row: Any) -> str:
        """Return the lease's number, or that it is no longer kept."""
        return f"lease {row.number}" if row.number else "no longer kept"

    @show.column("agent", ordering="agent__agent_id")
    def of_agent(self, row: LeaseOutcome) -> Any:
        """Return the agent."""
        return show.to_row("agent", row.agent_id, row.agent.agent_id)

    @show.column("for", ordering="project")
    def for_whom(self, row: LeaseOutcome) -> Any:
        """Return project, cycle and phase."""
        return show.joined(row.project, row.cycle_id, row.phase)

    @show.column("outcome", ordering="outcome", label=show.COLOURS)
    def outcome_shown(self, row: LeaseOutcome) -> str:
        """Return the outcome as a badge."""
        return row.outcome

    @show.column("lasted", ordering="duration_s")
    def lasted(self, row: LeaseOutcome) -> str:
        """Return how long the work took."""
        return show.duration(row.duration_s)

    @show.column("waited", ordering="waited_s")
    def waited(self, row: LeaseOutcome) -> str:
        """Return how long it had waited."""
        return show.duration(row.waited_s)

    @show.column("peak memory", ordering="peak_memory_mb")
    def memory(self, row: LeaseOutcome) -> Any:
        """Return a bar of the peak under what was reserved."""
        text = show.of_megabytes(row.peak_memory_mb, row.memory_mb)
        return show.bar(row.peak_memory_mb, row.memory_mb, text)

    @show.column("tokens", ordering="tokens_out")
    def tokens(self, row: LeaseOutcome) -> Any:
        """Return a bar of used tokens under the budget."""
        used = row.tokens_in + row.tokens_out
        text = f"{show.count(used)} of {show.count(row.token_budget)}"
        return show.bar(used, row.token_budget, text)

    @show.column("cost", ordering="cost_usd")
    def cost(self, row: LeaseOutcome) -> str:
        """Return what it cost."""
        return f"${row.cost_usd:.2f}"

    ended = show.ago("ended", "ended_at")


@admin.register(Outlook)
class OutlookAdmin(ReadOnly):
    """What is expected of pools and agents."""

    section = "balancing"
    icon = "trending_up"
    is_technical = True
    empty = "Nothing has been learnt yet: a job reads the outcomes."
    list_display = ("agent_type", "of_agent", "story", "leases", "against_usual", "when")
    list_filter = (("agent_type", AllValuesCheckboxFilter),)
    search_fields = ("story_type",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Outlook]:
        """Return the rows with their agents' names."""
        names = Agent.objects.filter(pk=OuterRef("agent_id")).values("agent_id")[:1]
        rows: QuerySet[Outlook] = super().get_queryset(request)
        return rows.annotate(agent_name=Subquery(names))

    @show.column("agent", empty="the whole pool")
    def of_agent(self, row: Any) -> Any:
        """Return the agent."""
        return show.to_row("agent", row.agent_id, row.agent_name) if row.agent_name else None

    @show.column("story type", ordering="story_type")
    def story(self, row: Outlook) -> str:
        """Return the kind of work."""
        return "any other" if row.story_type is None else row.story_type or "unnamed"

    @show.column("hoped time of the usual", ordering="ratio", empty="–")
    def against_usual(self, row: Outlook) -> str | None:
        """Return the hoped time in per cent of that of an unknown agent."""
        return f"{100 * row.ratio:.0f} %" if row.agent_id else None

    when = show.ago("learnt", "learnt_at")


@admin.register(Share)
class ShareAdmin(ReadOnly):
    """What each project has used of a pool lately."""

    section = "balancing"
    icon = "balance"
    is_technical = True
    empty = "No project has used anything yet."
    list_display = ("project", "pool_name", "log_usage", "when")
    list_filter = (("pool", RelatedDropdownFilter),)
    search_fields = ("project",)

    pool_name = show.pool_name()

    when = show.ago("charged", "updated_at")


@admin.register(ShareState)
class ShareStateAdmin(ReadOnly):
    """Up to which event the shares are charged."""

    section = "balancing"
    is_technical = True
    list_display = ("id", "last_seq")
