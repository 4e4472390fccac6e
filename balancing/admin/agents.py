"""The admin's pages of agents and of their signs of life."""

from typing import Any

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from unfold.contrib.filters.admin import (
    ChoicesDropdownFilter,
    DropdownFilter,
    RelatedDropdownFilter,
)

from agentpool.registry.admin import show
from agentpool.registry.admin.acts import Acting, Note, button, how_many
from agentpool.registry.admin.frame import ReadOnly, actor_of
from agentpool.registry.models import Agent, CapabilityClass, Event, Liveness
from agentpool.registry.states import (
    PLACEABLE_HEALTH,
    PLACEABLE_STATUS,
    AgentStatus,
    IsolationLevel,
    SecurityLevel,
)
from balancing.admin.agent_acts import ACTS
from balancing.services import heartbeats

_GONE = (AgentStatus.LOST, AgentStatus.RETIRED)


class PresenceFilter(DropdownFilter):
    """Whether agents are still there, and whether they get work."""

    title = "presence"
    parameter_name = "presence"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """Return the kinds of presence."""
        return [
            ("there", "there: not lost or retired"),
            ("works", "gets work"),
            ("trouble", "in trouble: unreachable or quarantined"),
        ]

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        """Return the agents of the chosen kind."""
        match self.value():
            case "there":
                return queryset.exclude(status__in=_GONE)
            case "works":
                return queryset.filter(status__in=PLACEABLE_STATUS, health__in=PLACEABLE_HEALTH)
            case "trouble":
                there = queryset.exclude(status__in=_GONE)
                return there.filter(status="unreachable") | there.filter(health="quarantined")
        return queryset


@admin.register(Agent)
class AgentAdmin(Acting, ReadOnly):
    """Agents: what they are, what is taken of them, and what a person may do to them."""

    section = "balancing"
    icon = "smart_toy"
    rank = 1
    live_kinds = ("agent.", "lease.")
    empty = (
        "No agent has registered here. Make an enrolment token on the page of a pool, or start "
        "agents with: agentpool scale code up 3."
    )
    acts = ACTS
    actions_list = ("check_health",)
    list_display = (
        "agent_id",
        "pool_name",
        "status_shown",
        "health_shown",
        "slots",
        "memory",
        "tokens",
        "heard",
        "host_shown",
        "more",
    )
    list_filter = (
        PresenceFilter,
        ("status", ChoicesDropdownFilter),
        ("health", ChoicesDropdownFilter),
        ("pool", RelatedDropdownFilter),
    )
    search_fields = ("agent_id", "name", "host")
    list_select_related = ("liveness",)
    ordering = ("pool", "agent_id")
    fieldsets = (
        (
            None,
            {
                "fields": (
                    ("agent_id", "name", "pool_name"),
                    ("status_shown", "status_reason", "wish"),
                    ("health_shown", "health_note"),
                    ("health_by", "health_until"),
                    ("heard", "incarnation", "generation"),
                    "neighbours",
                )
            },
        ),
        (
            "Given out",
            {"fields": (("slots", "memory"), ("cores", "tokens"), ("disk", "last_token"))},
        ),
        (
            "What it can",
            {
                "fields": (
                    ("capabilities", "tools", "labels"),
                    ("security_shown", "isolation_shown"),
                    ("provider", "endpoint"),
                    ("host", "version"),
                )
            },
        ),
        ("Times", {"fields": (("created_at", "updated_at"),)}),
    )
    readonly_fields = (
        *("pool_name", "status_shown", "health_shown", "heard", "neighbours", "slots", "memory"),
        *("cores", "tokens", "disk", "security_shown", "isolation_shown"),
    )

    def seen(self, row: Agent) -> str:
        """Return status and health; idle and busy change by the minute and count as one."""
        status = "at work" if row.status in PLACEABLE_STATUS else row.status
        return f"{status}, {row.health}"

    def events_of(self, row: Agent) -> QuerySet[Event]:
        """Return what happened to the agent itself; its leases have a history of their own."""
        return Event.objects.filter(agent_id=row.agent_id, lease_id__isnull=True)

    @button("Run the health check now", icon="ecg_heart")
    def check_health(self, request: HttpRequest) -> HttpResponse:
        """Ask, then judge the silence of all agents at once."""
        back = show.list_of("agent")
        form = Note(request.POST or None)
        if request.method == "POST" and form.is_valid():
            note = form.cleaned_data["note"]
            counts = heartbeats.check(actor=actor_of(request), note=note)
            told = ", ".join(f"{number} {name}" for name, number in counts.items())
            messages.success(request, f"The health check has run: {told}.")
            return HttpResponseRedirect(back)
        there = Agent.objects.exclude(status__in=_GONE).count()
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": "Run the health check now",
            "act": {"title": "Run it", "icon": "ecg_heart", "is_harsh": False},
            "form": form,
            "sentences": [
                f"The silence of {how_many(there, 'agent')} is judged at once, instead of within "
                "the next 30 s.",
                "Who was silent too long becomes unreachable, who was unreachable too long is lost "
                "and its work is given to others; maintenance and quarantine whose time is over "
                "end.",
            ],
            "rows": (),
            "seen": "",
            "back": back,
        }
        return TemplateResponse(request, "admin/act.html", context)

    # -- columns -----------------------------------------------------------------------------------

    @show.column("pool", ordering="pool")
    def pool_name(self, row: Agent) -> str:
        """Return the pool's name without a query."""
        return row.agent_type

    @show.column("status", ordering="status", label=show.COLOURS)
    def status_shown(self, row: Agent) -> str:
        """Return the status as a badge."""
        return row.status

    @show.column("health", ordering="health", label=show.COLOURS)
    def health_shown(self, row: Agent) -> str:
        """Return the health as a badge."""
        return row.health

    @show.column("slots", ordering="load")
    def slots(self, row: Agent) -> Any:
        """Return a bar of used slots."""
        return show.bar(row.load, row.max_concurrent, f"{row.load} of {row.max_concurrent}")

    @show.column("memory", ordering="used_memory_mb")
    def memory(self, row: Agent) -> Any:
        """Return a bar of reserved memory."""
        text = show.of_megabytes(row.used_memory_mb, row.memory_mb)
        return show.bar(row.used_memory_mb, row.memory_mb, text)

    @show.column("cores")
    def cores(self, row: Agent) -> Any:
        """Return a bar of reserved cores."""
        text = f"{float(row.used_cpu_cores):g} of {float(row.cpu_cores):g}"
        return show.bar(float(row.used_cpu_cores), float(row.cpu_cores), text)

    @show.column("tokens", ordering="used_token_budget")
    def tokens(self, row: Agent) -> Any:
        """Return a bar of reserved tokens."""
        text = f"{show.count(row.used_token_budget)} of {show.count(row.token_budget)}"
        return show.bar(row.used_token_budget, row.token_budget, text)

    @show.column("disk")
    def disk(self, row: Agent) -> Any:
        """Return a bar of reserved disk."""
        text = show.of_megabytes(row.used_disk_space_mb, row.disk_space_mb)
        return show.bar(row.used_disk_space_mb, row.disk_space_mb, text)

    @show.column("heard", ordering="liveness__last_heartbeat_at", empty="never")
    def heard(self, row: Agent) -> Any:
        """Return how long ago it was heard."""
        alive = getattr(row, "liveness", None)
        return show.age(alive.last_heartbeat_at) if alive else None

    @show.column("host", ordering="host")
    def host_shown(self, row: Agent) -> Any:
        """Return the host, on one line."""
        return show.one_line(row.host)

    @show.column("look at")
    def more(self, row: Agent) -> Any:
        """Return the links that a list has room for."""
        return show.one_line(
            show.joined(
                show.to_list("lease", "leases", agent=row.pk),
                show.to_list("event", "events", agent_id=row.agent_id),
            )
        )

    @show.column("look at")
    def neighbours(self, row: Agent) -> Any:
        """Return links to all that belongs to it."""
        return show.joined(
            show.to_list("lease", how_many(row.load, "live lease"), agent=row.pk, live="yes"),
            show.to_list("lease", "all its leases", agent=row.pk),
            show.to_list("request", "their requests", leases__agent=row.pk),
            show.to_list("leaseoutcome", "outcomes", agent=row.pk),
            show.to_list("event", "events", agent_id=row.agent_id),
            show.to_list("credential", "credentials", agent=row.pk),
            show.to_list("launch", "launch", agent=row.pk),
        )

    @show.column("security level")
    def security_shown(self, row: Agent) -> str:
        """Return the level by name."""
        return SecurityLevel(row.security_level).name.lower()

    @show.column("isolation levels")
    def isolation_shown(self, row: Agent) -> str:
        """Return the levels by name."""
        return show.words([_isolation(level) for level in row.isolation_levels])


def _isolation(level: int) -> str:
    return IsolationLevel(level).name.lower().replace("_", " ")


@admin.register(Liveness)
class LivenessAdmin(ReadOnly):
    """Signs of life."""

    section = "balancing"
    is_technical = True
    list_display = ("of_agent", "incarnation", "heard")
    list_select_related = ("agent",)
    search_fields = ("agent__agent_id",)

    @show.column("agent", ordering="agent__agent_id")
    def of_agent(self, row: Liveness) -> str:
        """Return the agent's name."""
        return row.agent.agent_id

    heard = show.ago("heard", "last_heartbeat_at")


@admin.register(CapabilityClass)
class CapabilityClassAdmin(ReadOnly):
    """Agents with the same static profile, counted."""

    section = "balancing"
    is_technical = True
    list_display = ("id", "agent_type", "counted", "memory", "cpu_cores", "token_budget", "able")
    search_fields = ("agent_type",)

    @show.column("agents", ordering="agents")
    def counted(self, row: CapabilityClass) -> Any:
        """Return how many there are, leading to them."""
        return show.to_list("agent", row.agents, capability_class=row.pk)

    @show.column("memory", ordering="memory_mb")
    def memory(self, row: CapabilityClass) -> str:
        """Return the memory."""
        return show.megabytes(row.memory_mb)

    @show.column("can")
    def able(self, row: CapabilityClass) -> str:
        """Return capabilities and tools."""
        return show.words([*row.capabilities, *row.tools])
