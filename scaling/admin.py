"""The admin's pages of how many agents there are: policies, decisions, changes, launches."""

from typing import Any

from django.contrib import admin
from django.db.models import Count, QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html
from unfold.contrib.filters.admin import (
    AllValuesCheckboxFilter,
    ChoicesDropdownFilter,
    RelatedDropdownFilter,
)

from agentpool.registry.admin import history, show
from agentpool.registry.admin.frame import EditedOnConsole, ReadOnly
from agentpool.registry.models import (
    Announcement,
    Event,
    Launch,
    Optimization,
    OptimizerPolicy,
    ScalingDecision,
    ScalingEvent,
    ScalingPolicy,
)


@admin.register(ScalingEvent)
class ScalingEventAdmin(ReadOnly):
    """Changes of size: who asked, from what to what, why."""

    section = "scaling"
    icon = "expand"
    live_kinds = ("scaling.",)
    empty = "No pool has been grown or shrunk yet: agentpool scale code up 3."
    list_display = ("when", "pool_name", "action_shown", "change", "launched", "reason", "actor")
    list_filter = (("action", AllValuesCheckboxFilter), ("pool", RelatedDropdownFilter))
    search_fields = ("reason", "actor")
    date_hierarchy = "at"
    ordering = ("-at",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[ScalingEvent]:
        """Return changes with their launches counted."""
        rows: QuerySet[ScalingEvent] = super().get_queryset(request)
        return rows.annotate(n_launches=Count("launches"))

    def events_of(self, row: ScalingEvent) -> QuerySet[Event]:
        """Return the pool's changes of size."""
        return history.configuration_events(row.pool_id, "scaling.executed")

    when = show.ago("when", "at")

    pool_name = show.pool_name()

    @show.column(
        "action", ordering="action", label={"scale_up": "success", "scale_down": "warning"}
    )
    def action_shown(self, row: ScalingEvent) -> str:
        """Return the action as a badge."""
        return row.action

    @show.column("agents")
    def change(self, row: ScalingEvent) -> str:
        """Return the sizes before and after, and who woke or was set aside."""
        woken = f", {row.woken} woken" if row.woken else ""
        aside = f", {row.set_aside} set aside" if row.set_aside else ""
        return f"{row.current_size} → {row.target_size}{woken}{aside}"

    @show.column("launches")
    def launched(self, row: Any) -> Any:
        """Return how many agents were started for it, leading to them."""
        return show.to_list("launch", row.n_launches, event=row.pk) if row.n_launches else None


@admin.register(Launch)
class LaunchAdmin(ReadOnly):
    """Agents that drivers started."""

    section = "scaling"
    icon = "rocket_launch"
    live_kinds = ("agent.", "scaling.")
    empty = "No agent was started by a driver yet: agentpool scale code up 3."
    list_display = (
        "launch_of",
        "driver",
        "status_shown",
        "agent_status",
        "began",
        "came_up",
        "error_shown",
    )
    list_filter = (("status", ChoicesDropdownFilter), ("driver", AllValuesCheckboxFilter))
    list_select_related = ("agent", "event")
    search_fields = ("agent__agent_id", "error")
    date_hierarchy = "created_at"
    ordering = ("-created_at",)
    fields = (
        ("launch_of", "agent_link"),
        ("driver", "status_shown"),
        "for_what",
        "error",
        "handle",
        ("created_at", "started_at", "ended_at"),
    )
    readonly_fields = ("launch_of", "agent_link", "status_shown", "for_what")

    def events_of(self, row: Launch) -> QuerySet[Event]:
        """Return what happened to its agent."""
        return Event.objects.filter(agent_id=row.agent.agent_id, lease_id__isnull=True)

    @show.column("launch of", ordering="agent__agent_id")
    def launch_of(self, row: Launch) -> str:
        """Return the agent's name."""
        return row.agent.agent_id

    @show.column("agent")
    def agent_link(self, row: Launch) -> Any:
        """Return a link to the agent."""
        return show.to_row("agent", row.agent_id, row.agent.agent_id)

    @show.column("status", ordering="status", label=show.COLOURS)
    def status_shown(self, row: Launch) -> str:
        """Return the status as a badge."""
        return row.status

    @show.column("the agent is")
    def agent_status(self, row: Launch) -> Any:
        """Return the agent's status, leading to it."""
        return show.to_row("agent", row.agent_id, row.agent.status)

    began = show.ago("intended", "created_at")

    @show.column("started after", ordering="started_at")
    def came_up(self, row: Launch) -> str | None:
        """Return how long the driver took."""
        return show.since(row.created_at, row.started_at) if row.started_at else None

    @show.column("error", ordering="error")
    def error_shown(self, row: Launch) -> Any:
        """Return what went wrong."""
        return format_html('<span title="{}">{}</span>', row.error, row.error[:80]) or None

    @show.column("because of")
    def for_what(self, row: Launch) -> Any:
        """Return the change of size that it belongs to."""
        return show.to_row("scalingevent", row.event_id, row.event)


@admin.register(ScalingPolicy)
class ScalingPolicyAdmin(ReadOnly):
    """How the size of each pool is decided; edited on the console's page, where it is judged."""

    section = "scaling"
    icon = "rule"
    rank = 1
    live_kinds = ("scaling.policy_changed",)
    empty = "All pools have the usual policy: predictive, and it only recommends."
    list_display = ("pool_name", "rule", "mode_shown", "settings_shown", "changed", "updated_by")
    list_filter = (("rule", AllValuesCheckboxFilter), ("mode", AllValuesCheckboxFilter))
    search_fields = ("pool__agent_type", "updated_by")
    ordering = ("pool_id",)
    fields = (
        ("pool_name", "edit"),
        ("rule", "mode_shown", "mode_before"),
        "settings_shown",
        ("generation", "updated_at", "updated_by"),
    )
    readonly_fields = ("pool_name", "edit", "mode_shown", "settings_shown")

    def events_of(self, row: ScalingPolicy) -> QuerySet[Event]:
        """Return what was changed of it."""
        return history.configuration_events(row.pool_id, "scaling.policy_changed")

    pool_name = show.pool_name()

    @show.column("mode", ordering="mode", label={"auto": "success", "off": "warning"})
    def mode_shown(self, row: ScalingPolicy) -> str:
        """Return the mode as a badge."""
        return row.mode

    @show.column("settings")
    def settings_shown(self, row: ScalingPolicy) -> str:
        """Return what differs from the rule's usual values."""
        return ", ".join(f"{name}={value}" for name, value in sorted(row.settings.items()))

    changed = show.ago("changed", "updated_at")

    @show.column("edit")
    def edit(self, row: ScalingPolicy) -> Any:
        """Return a link to the page where it is edited."""
        return format_html('<a href="{}">on the console</a>', reverse("scaling"))


@admin.register(ScalingDecision)
class ScalingDecisionAdmin(ReadOnly):
    """What was decided, from what; steady ones are kept once a minute."""

    section = "scaling"
    icon = "balance"
    rank = 2
    live_kinds = ("scaling.",)
    empty = "Nothing was decided yet."
    list_display = ("when", "pool_name", "rule", "mode", "change", "done", "reason", "error")
    list_filter = (
        ("action", AllValuesCheckboxFilter),
        ("mode", AllValuesCheckboxFilter),
        ("pool", RelatedDropdownFilter),
    )
    search_fields = ("reason", "error")
    date_hierarchy = "at"
    ordering = ("-at",)

    when = show.ago("when", "at")

    pool_name = show.pool_name()

    @show.column("agents")
    def change(self, row: ScalingDecision) -> str:
        """Return the size and the target."""
        return f"{row.current} → {row.target}"

    @show.column("change of size")
    def done(self, row: ScalingDecision) -> Any:
        """Return a link to the change that came of it."""
        return show.to_row("scalingevent", row.event_id, "see") if row.event_id else None


@admin.register(Announcement)
class AnnouncementAdmin(ReadOnly):
    """Work that was announced."""

    section = "scaling"
    icon = "event_upcoming"
    rank = 3
    live_kinds = ("scaling.",)
    empty = "Nothing was announced: agentpool scaling announce code --at +30m --count 40."
    list_display = ("at", "pool_name", "count", "spread_s", "name", "announced_by", "heard_at")
    list_filter = (("pool", RelatedDropdownFilter),)
    search_fields = ("name", "announced_by")
    date_hierarchy = "at"
    ordering = ("-at",)

    pool_name = show.pool_name()


@admin.register(Optimization)
class OptimizationAdmin(ReadOnly):
    """Proposals of the optimizer and what came of them; applied on the console's page Optimizer."""

    section = "scaling"
    icon = "trending_up"
    live_kinds = ("optimizer.",)
    empty = "Nothing has been proposed: a replay of recent work finds nothing that would help."
    list_display = ("pool", "kind", "subject", "action", "status", "effect", "basis", "when")
    list_filter = (("pool", RelatedDropdownFilter), ("status", AllValuesCheckboxFilter))
    search_fields = ("subject", "basis")
    ordering = ("-at",)

    @show.column("effect")
    def effect(self, row: Optimization) -> str:
        """Return the metric before, as expected, and as it came out."""
        after = "" if row.came_out is None else f", came out {row.came_out:.4g}"
        return f"{row.metric} {row.measured:.4g}, expected {row.expected:.4g}{after}"

    when = show.at("when", "at")


@admin.register(OptimizerPolicy)
class OptimizerPolicyAdmin(EditedOnConsole):
    """Whether proposals are carried out by themselves; edited on the console's page."""

    section = "scaling"
    icon = "rule"
    empty = "No pool has a policy of its own: each recommends, by the usual rules."
    list_display = ("pool", "mode", "settings", "edit", "updated_by", "updated_at")
    readonly_fields = ("edit",)

    edit = show.on_console("optimize-policy", "optimizer")
