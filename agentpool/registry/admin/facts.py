"""Pages of what was written down: events, samples, logs, repeats, and the relay's own state."""

from typing import Any

from django.contrib import admin
from django.http import HttpRequest
from unfold.contrib.filters.admin import (
    DropdownFilter,
    RelatedDropdownFilter,
)
from unfold.paginator import InfinitePaginator

from agentpool.registry import models
from agentpool.registry.admin import show
from agentpool.registry.admin.frame import ReadOnly
from agentpool.registry.admin.moments import Between

# The first words of the kinds of events, as the state machines name them.
_SUBJECTS = (
    "agent",
    "lease",
    "request",
    "pool",
    "profile",
    "limit",
    "scaling",
    "optimizer",
    "rebalancing",
    "learning",
    "metrics",
    "token",
    "health",
    "security",
)


class KindFilter(DropdownFilter):
    """What events are about: the word before the dot of their kind."""

    title = "subject"
    parameter_name = "subject"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """Return the subjects."""
        return [(word, word) for word in _SUBJECTS]

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        """Return the events of the chosen subject."""
        word = self.value()
        return queryset.filter(kind__startswith=f"{word}.") if word else queryset


class TypeFilter(DropdownFilter):
    """The pool that events name; asked of the pools, not of a million events."""

    title = "pool"
    parameter_name = "agent_type"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """Return the pools."""
        types = models.Pool.objects.order_by("agent_type").values_list("agent_type", flat=True)
        return [(name, name) for name in types]

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        """Return the events of the chosen pool."""
        return queryset.filter(agent_type=self.value()) if self.value() else queryset


@admin.register(models.Event)
class EventAdmin(ReadOnly):
    """Events: everything that happened, in order."""

    section = "registry"
    icon = "history"
    rank = 4
    live_kinds = ("",)
    empty = "Nothing has happened yet."
    list_display = ("seq_shown", "when", "kind", "about", "work", "actor", "said")
    list_filter = (KindFilter, TypeFilter, ("at", Between))
    list_filter_submit = True
    search_fields = ("kind", "agent_id", "project", "actor")
    # Millions of rows: they are not counted for a page of fifty.
    paginator = InfinitePaginator
    ordering = ("-id",)
    list_select_related = ("number",)

    @show.column("number", ordering="number__seq", empty="…")
    def seq_shown(self, row: models.Event) -> Any:
        """Return its number; none until the relay has seen it."""
        return row.number.seq if hasattr(row, "number") else None

    when = show.ago("when", "at", ordering="id")

    @show.column("about")
    def about(self, row: models.Event) -> Any:
        """Return its pool and agent."""
        agent = row.agent_id and show.to_list("agent", row.agent_id, agent_id=row.agent_id)
        return agent or row.agent_type or None

    @show.column("work")
    def work(self, row: models.Event) -> Any:
        """Return its project, request and lease."""
        request = row.request_id and show.to_row("request", row.request_id, "request")
        lease = row.lease_id and show.to_row("lease", row.lease_id, "lease")
        return show.joined(row.project, request, lease)

    @show.column("details")
    def said(self, row: models.Event) -> str:
        """Return what else it says, in short."""
        parts = [
            f"{name}: {value}" for name, value in row.detail.items() if value not in ("", None)
        ]
        text = ", ".join(parts)
        return text if len(text) <= 120 else f"{text[:119]}…"


@admin.register(models.PoolSample)
class PoolSampleAdmin(ReadOnly):
    """Samples: what each pool was and did in 30 s, and in longer stretches."""

    section = "registry"
    icon = "monitoring"
    rank = 5
    empty = "There are no samples yet: a job takes one of each pool every 30 s."
    list_display = ("pool", "when", "length", "use", "queue", "wait", "agents", "done", "errors")
    list_filter = (("pool", RelatedDropdownFilter), "step_s", ("at", Between))
    list_filter_submit = True
    paginator = InfinitePaginator

    when = show.at("from", "at")

    @show.column("length", ordering="step_s")
    def length(self, row: models.PoolSample) -> str:
        """Return how long the stretch is."""
        return show.duration(row.step_s)

    @show.column("queue", ordering="queue_depth")
    def queue(self, row: models.PoolSample) -> str:
        """Return how many requests waited."""
        return f"{row.queue_depth:g}"

    @show.column("slots used", ordering="utilization")
    def use(self, row: models.PoolSample) -> Any:
        """Return a bar of used slots."""
        return show.bar(row.slots_used, row.slots, f"{row.slots_used:g} of {row.slots:g}")

    @show.column("mean wait", ordering="average_wait_time_s")
    def wait(self, row: models.PoolSample) -> str:
        """Return the mean wait of its grants."""
        return show.duration(row.average_wait_time_s)

    @show.column("agents", ordering="total_agents")
    def agents(self, row: models.PoolSample) -> str:
        """Return agents and how many of them are idle."""
        return f"{row.total_agents:g} ({row.available_agents:g} idle)"

    @show.column("ended a minute", ordering="completion_rate_per_minute")
    def done(self, row: models.PoolSample) -> str:
        """Return how many leases ended a minute."""
        return f"{row.completion_rate_per_minute:.3g}"

    @show.column("failed", ordering="error_rate")
    def errors(self, row: models.PoolSample) -> str | None:
        """Return the share that failed."""
        return None if row.error_rate is None else f"{row.error_rate:.0%}"


@admin.register(models.LogChunk)
class LogChunkAdmin(ReadOnly):
    """What the work printed."""

    section = "registry"
    icon = "terminal"
    is_technical = True
    empty = "No work has printed anything yet."
    list_display = ("id", "of_lease", "stream", "when", "size", "text_shown")
    list_select_related = ("lease",)
    paginator = InfinitePaginator
    ordering = ("-id",)

    @show.column("lease")
    def of_lease(self, row: models.LogChunk) -> Any:
        """Return the lease's own log page."""
        return show.link(f"/leases/{row.lease_id}", row.lease)

    when = show.ago("when", "at")

    @show.column("text")
    def text_shown(self, row: models.LogChunk) -> str:
        """Return its first characters."""
        return row.text[:80]


@admin.register(models.LogTotal)
class LogTotalAdmin(ReadOnly):
    """How much of each log is kept."""

    section = "registry"
    is_technical = True
    list_display = ("of_lease", "kept_bytes", "dropped_bytes")
    list_select_related = ("lease",)
    paginator = InfinitePaginator

    @show.column("lease")
    def of_lease(self, row: models.LogTotal) -> Any:
        """Return the lease's name."""
        return str(row.lease)


@admin.register(models.LeaseIsolation)
class LeaseIsolationAdmin(ReadOnly):
    """How the work of each lease was isolated."""

    section = "registry"
    is_technical = True
    list_display = ("of_lease", "tier", "enforced", "declared", "when")
    list_select_related = ("lease",)
    paginator = InfinitePaginator

    @show.column("lease")
    def of_lease(self, row: models.LeaseIsolation) -> Any:
        """Return the lease's name."""
        return str(row.lease)

    when = show.ago("when", "at")


@admin.register(models.IdempotencyKey)
class IdempotencyKeyAdmin(ReadOnly):
    """Answers kept for repeated POSTs; their bodies are sealed."""

    section = "registry"
    is_technical = True
    list_display = ("key", "principal", "status", "when")
    search_fields = ("key", "principal")

    when = show.ago("when", "created_at")


@admin.register(models.RelayState)
class RelayStateAdmin(ReadOnly):
    """The relay's place in the outbox."""

    section = "registry"
    is_technical = True
    list_display = ("id", "last_seq")


@admin.register(models.Tick)
class TickAdmin(ReadOnly):
    """When each part was last seen working."""

    section = "registry"
    icon = "timer"
    is_technical = True
    list_display = ("name", "seen_working", "grace_until")

    seen_working = show.ago("last seen working", "at")
