"""The admin's pages of leases and lock keys: who works for whom, until when, and what it used."""

from collections.abc import Mapping, Sequence
from typing import Any

from django import forms
from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.urls import reverse
from unfold.contrib.filters.admin import (
    ChoicesDropdownFilter,
    DropdownFilter,
    RelatedDropdownFilter,
)
from unfold.widgets import UnfoldAdminSelectWidget

from agentpool.registry.admin import show
from agentpool.registry.admin.acts import Act, Acting, Note, how_many, links_to
from agentpool.registry.admin.frame import ReadOnly
from agentpool.registry.admin.moments import Between
from agentpool.registry.errors import LeaseLost
from agentpool.registry.models import Event, Lease, LockKey
from agentpool.registry.states import LIVE, NetworkAccess, Outcome
from balancing.services import leases


class ReleaseWish(Note):
    """How the work ended."""

    outcome = forms.ChoiceField(
        choices=[(o.value, o.value) for o in (Outcome.SUCCESS, Outcome.FAILURE, Outcome.TIMEOUT)],
        widget=UnfoldAdminSelectWidget,
        help_text="What its history, and the agent's record, will say.",
    )


def _release(row: Lease, said: Mapping[str, Any], actor: str) -> None:
    leases.release(
        row.id,
        token=row.fencing_token,
        outcome=Outcome(said["outcome"]),
        actor=actor,
        error=said["note"],
    )


def _cancel_lease(row: Lease, said: Mapping[str, Any], actor: str) -> None:
    if not leases.cancel(row, reason=said["note"] or "cancelled by an operator", actor=actor):
        raise LeaseLost("The lease has ended by itself meanwhile.")


def _will_end(word: str, effect: str) -> Any:
    def foretell(rows: Sequence[Lease]) -> list[str]:
        live = [row for row in rows if row.status in LIVE]
        agents = {row.agent_id for row in live}
        told = [
            f"{how_many(len(live), 'lease')} on {how_many(len(agents), 'agent')} will be {word}: "
            "what each reserved is free at once, and whoever waits gets it.",
            effect,
        ]
        if over := len(rows) - len(live):
            told.append(f"{how_many(over, 'lease has', 'leases have')} ended already.")
        return told

    return foretell


LEASE_ACTS = (
    Act(
        "release",
        "Release",
        _will_end("released", "The requests count as answered, with the outcome below."),
        _release,
        form=ReleaseWish,
        icon="task_alt",
    ),
    Act(
        "cancel",
        "Cancel",
        _will_end(
            "cancelled", "Their requests are cancelled, too; agents are told to stop the work."
        ),
        _cancel_lease,
        icon="cancel",
        is_harsh=True,
    ),
)


class LiveFilter(DropdownFilter):
    """Whether leases still hold."""

    title = "live"
    parameter_name = "live"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """Return the two kinds."""
        return [("yes", "live"), ("no", "ended")]

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        """Return the chosen ones."""
        match self.value():
            case "yes":
                return queryset.filter(status__in=LIVE)
            case "no":
                return queryset.exclude(status__in=LIVE)
        return queryset


@admin.register(Lease)
class LeaseAdmin(Acting, ReadOnly):
    """Leases: who works for whom, until when, and what it used."""

    section = "balancing"
    icon = "handshake"
    rank = 3
    live_kinds = ("lease.",)
    empty = "No lease was given out yet."
    acts = LEASE_ACTS
    row_links = ("log_page",)
    list_display = (
        "fencing_token",
        "of_agent",
        "for_whom",
        "status_shown",
        "outcome_shown",
        "memory",
        "tokens",
        "progress",
        "lasted",
        "ends",
        "more",
    )
    list_filter = (
        LiveFilter,
        ("status", ChoicesDropdownFilter),
        ("pool", RelatedDropdownFilter),
        ("acquired_at", Between),
    )
    list_filter_submit = True
    list_select_related = ("agent",)
    search_fields = ("project", "cycle_id", "phase", "id", "agent__agent_id")
    ordering = ("-fencing_token",)
    fieldsets = (
        (
            None,
            {
                "fields": (
                    ("fencing_token", "of_agent", "slot", "incarnation"),
                    ("project", "cycle_id", "phase", "attempt"),
                    ("status_shown", "outcome_shown", "error"),
                    "neighbours",
                )
            },
        ),
        (
            "Reserved, and measured",
            {
                "fields": (
                    ("memory", "tokens"),
                    ("cpu_cores", "measured_cpu_cores", "cpu_seconds"),
                    ("disk_space_mb", "measured_disk_space_mb", "peak_memory_mb"),
                    ("tokens_in", "tokens_out", "cost_usd"),
                    ("network_bandwidth_mbps", "network_shown"),
                    ("progress", "progress_note", "progress_at"),
                )
            },
        ),
        ("How it was placed", {"fields": ("decision_shown", ("waited_s", "charged_s"))}),
        (
            "Times",
            {
                "fields": (
                    ("offered_at", "acked_at", "acquired_at"),
                    ("expires_at", "hard_end_at", "released_at"),
                )
            },
        ),
    )
    readonly_fields = (
        *("of_agent", "status_shown", "outcome_shown", "memory", "tokens", "progress"),
        *("neighbours", "network_shown", "decision_shown"),
    )

    log_page = links_to("Log", "terminal", lambda pk: reverse("lease", args=[pk]))

    def events_of(self, row: Lease) -> QuerySet[Event]:
        """Return its events, along those of its request."""
        return Event.objects.filter(request_id=row.request_id, lease_id=row.pk)

    @show.column("agent", ordering="agent__agent_id")
    def of_agent(self, row: Lease) -> Any:
        """Return the agent."""
        return show.to_row("agent", row.agent_id, row.agent.agent_id)

    @show.column("for", ordering="project")
    def for_whom(self, row: Lease) -> Any:
        """Return project, cycle and phase."""
        return show.joined(row.project, row.cycle_id, row.phase)

    @show.column("status", ordering="status", label=show.COLOURS)
    def status_shown(self, row: Lease) -> str:
        """Return the status as a badge."""
        return row.status

    @show.column("outcome", ordering="outcome", label=show.COLOURS)
    def outcome_shown(self, row: Lease) -> str:
        """Return the outcome as a badge."""
        return row.outcome

    @show.column("memory", ordering="memory_mb")
    def memory(self, row: Lease) -> Any:
        """Return a bar of measured memory under what is reserved."""
        text = show.of_megabytes(row.measured_memory_mb, row.memory_mb)
        return show.bar(row.measured_memory_mb, row.memory_mb, text)

    @show.column("tokens", ordering="token_budget")
    def tokens(self, row: Lease) -> Any:
        """Return a bar of used tokens under the budget."""
        used = row.tokens_in + row.tokens_out
        text = f"{show.count(used)} of {show.count(row.token_budget)}"
        return show.bar(used, row.token_budget, text)

    @show.column("progress")
    def progress(self, row: Lease) -> Any:
        """Return what the agent said last of its progress."""
        said = row.progress_phase or (
            f"step {row.progress_counter}" if row.progress_counter else ""
        )
        return show.joined(said, show.age(row.progress_at)) if said else None

    @show.column("lasted", ordering="acquired_at")
    def lasted(self, row: Lease) -> str:
        """Return how long it has been held, or was."""
        return show.since(row.acquired_at, row.released_at)

    @show.column("ends", ordering="expires_at")
    def ends(self, row: Lease) -> Any:
        """Return when it ends by itself, unless it is renewed."""
        return show.age(row.expires_at) if row.status in LIVE else None

    @show.column("look at")
    def more(self, row: Lease) -> Any:
        """Return the links that a list has room for."""
        return show.one_line(
            show.joined(
                show.link(reverse("lease", args=[row.pk]), "log"),
                show.to_row("request", row.request_id, "request"),
            )
        )

    @show.column("look at")
    def neighbours(self, row: Lease) -> Any:
        """Return links to all that belongs to it."""
        return show.joined(
            show.link(reverse("lease", args=[row.pk]), "its log"),
            show.to_row("request", row.request_id, "its request"),
            show.link(reverse("request", args=[row.request_id]), "why this agent"),
            show.to_list("lockkey", "its lock keys", lease=row.pk),
            show.to_list("event", "its events", lease_id=row.pk),
        )

    @show.column("network")
    def network_shown(self, row: Lease) -> str:
        """Return the network access by name."""
        return NetworkAccess(row.network).name.lower()

    @show.column("decision")
    def decision_shown(self, row: Lease) -> Any:
        """Return what the decision was made from."""
        return show.as_json(row.decision or None)


@admin.register(LockKey)
class LockKeyAdmin(ReadOnly):
    """Lock keys that live leases hold."""

    section = "balancing"
    icon = "lock"
    is_technical = True
    empty = "No live lease holds a lock key."
    list_display = ("key", "held_by", "for_whom")
    list_select_related = ("lease",)
    search_fields = ("key",)

    @show.column("held by")
    def held_by(self, row: LockKey) -> Any:
        """Return the lease."""
        return show.to_row("lease", row.lease_id, f"lease {row.lease.fencing_token}")

    @show.column("for")
    def for_whom(self, row: LockKey) -> Any:
        """Return project and cycle."""
        return show.joined(row.lease.project, row.lease.cycle_id)
