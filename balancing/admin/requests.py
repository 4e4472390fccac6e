"""The admin's page of requests: what waits, why, and how it ended."""

from collections.abc import Mapping, Sequence
from typing import Any

from django.contrib import admin
from django.db.models import OuterRef, QuerySet, Subquery
from django.http import HttpRequest
from django.urls import reverse
from unfold.contrib.filters.admin import (
    ChoicesDropdownFilter,
    RelatedDropdownFilter,
)

from agentpool.registry.admin import show
from agentpool.registry.admin.acts import Act, Acting, how_many, links_to
from agentpool.registry.admin.frame import ReadOnly
from agentpool.registry.admin.moments import Between
from agentpool.registry.models import Event, Lease, Request
from agentpool.registry.states import RequestStatus
from balancing.services import requests


def _cancel_request(row: Request, said: Mapping[str, Any], actor: str) -> None:
    requests.cancel_request(row.id, actor=actor, reason=said["note"] or "cancelled by an operator")


def _will_cancel_requests(rows: Sequence[Request]) -> list[str]:
    waiting = sum(1 for row in rows if row.status == RequestStatus.WAITING)
    granted = sum(1 for row in rows if row.status == RequestStatus.GRANTED)
    over = len(rows) - waiting - granted
    told = [f"{how_many(waiting, 'request')} will leave the queue."] if waiting else []
    if granted:
        told.append(
            f"{how_many(granted, 'granted request')} will end with the lease each has: "
            "the work under it is stopped."
        )
    if over:
        told.append(f"{how_many(over, 'request has', 'requests have')} ended already.")
    return told


CANCEL_REQUEST = Act(
    "cancel_request", "Cancel", _will_cancel_requests, _cancel_request, icon="cancel", is_harsh=True
)


@admin.register(Request)
class RequestAdmin(Acting, ReadOnly):
    """Requests: somebody's wish for an agent, waiting or answered."""

    section = "balancing"
    icon = "queue"
    rank = 2
    live_kinds = ("request.", "lease.")
    empty = "Nobody has asked for an agent yet: agentpool acquire code --project shop."
    acts = (CANCEL_REQUEST,)
    row_links = ("explain",)
    list_display = (
        "number",
        "pool_name",
        "for_whom",
        "status_shown",
        "why",
        "waited",
        "priority",
        "attempts",
        "given",
        "arrived",
    )
    list_filter = (
        ("status", ChoicesDropdownFilter),
        ("pool", RelatedDropdownFilter),
        ("created_at", Between),
    )
    list_filter_submit = True
    search_fields = ("project", "cycle_id", "phase", "id")
    ordering = ("-number",)

    explain = links_to("Explain", "help", lambda pk: reverse("request", args=[pk]))

    def get_queryset(self, request: HttpRequest) -> QuerySet[Request]:
        """Return requests with the agent and lease each had last."""
        newest = Lease.objects.filter(request=OuterRef("pk")).order_by("-fencing_token")
        rows: QuerySet[Request] = super().get_queryset(request)
        return rows.annotate(
            last_lease=Subquery(newest.values("pk")[:1]),
            last_agent=Subquery(newest.values("agent__agent_id")[:1]),
        )

    def lookup_allowed(self, lookup: str, value: str, request: Any = None) -> bool:
        """Whether a list may be narrowed so: by who worked on it, not by what it runs."""
        if lookup.partition("__")[0] in ("payload", "result"):
            # Who may not see it could find it out, letter by letter.
            return False
        return lookup == "leases__agent" or bool(super().lookup_allowed(lookup, value, request))

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        """Return the fields; what the work runs (it may name secrets) is for operators only."""
        runs = [("What it runs", {"fields": ("payload_shown", "result_shown")})]
        return (
            (
                None,
                {
                    "fields": (
                        ("number", "pool_name", "status_shown"),
                        ("project", "cycle_id", "phase"),
                        ("why", "waited", "given"),
                        ("priority", "attempts", "requested_by"),
                        ("outcome", "error"),
                        "neighbours",
                    )
                },
            ),
            (
                "What it asks for",
                {
                    "fields": (
                        ("memory_mb", "min_memory_mb", "cpu_cores", "min_cpu_cores"),
                        ("token_budget", "disk_space_mb", "network_access"),
                        ("special_tools", "capabilities", "labels"),
                        ("strategy", "affinity", "preferred_agent"),
                        ("avoid_agents", "lock_keys"),
                    )
                },
            ),
            *(runs if self.has_operate_permission(request) else ()),
            (
                "Times",
                {
                    "fields": (
                        ("created_at", "queued_at", "expires_at"),
                        ("granted_at", "finished_at", "not_before"),
                        ("ttl_s", "duration_limit_s"),
                    )
                },
            ),
        )

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        """Return the columns that are made from others."""
        return (
            *("pool_name", "status_shown", "why", "waited", "given", "neighbours"),
            *("payload_shown", "result_shown"),
        )

    def events_of(self, row: Request) -> QuerySet[Event]:
        """Return all that happened to it and to its leases."""
        return Event.objects.filter(request_id=row.pk)

    pool_name = show.pool_name()

    @show.column("for", ordering="project")
    def for_whom(self, row: Request) -> Any:
        """Return project, cycle and phase."""
        return show.joined(row.project, row.cycle_id, row.phase)

    @show.column("status", ordering="status", label=show.COLOURS)
    def status_shown(self, row: Request) -> str:
        """Return the status as a badge."""
        return row.status

    @show.column("why")
    def why(self, row: Request) -> Any:
        """Return the reason or outcome, leading to the explanation."""
        text = row.reason or row.outcome or "explain"
        return show.link(reverse("request", args=[row.pk]), text)

    @show.column("waited")
    def waited(self, row: Request) -> str:
        """Return how long it has waited, or did."""
        return show.since(row.queued_at, row.granted_at or row.finished_at)

    @show.column("agent")
    def given(self, row: Any) -> Any:
        """Return whom it was given to last, leading to the lease."""
        return show.to_row("lease", row.last_lease, row.last_agent)

    arrived = show.ago("arrived", "created_at", ordering="number")

    @show.column("look at")
    def neighbours(self, row: Request) -> Any:
        """Return links to all that belongs to it."""
        return show.joined(
            show.to_list("lease", "its leases", request=row.pk),
            show.to_list("event", "its events", request_id=row.pk),
            show.link(reverse("request", args=[row.pk]), "its explanation"),
        )

    @show.column("payload")
    def payload_shown(self, row: Request) -> Any:
        """Return what an agent runs for it."""
        return show.as_json(row.payload)

    @show.column("result")
    def result_shown(self, row: Request) -> Any:
        """Return what came of it."""
        return show.as_json(row.result)
