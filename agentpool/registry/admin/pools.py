"""Pools and their security profiles: editable, through the services that REST calls."""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, ClassVar

from django import forms
from django.contrib import admin
from django.db.models import Count, Q, QuerySet, Sum
from django.forms.models import model_to_dict
from django.http import HttpRequest
from rest_framework import serializers as drf
from unfold.contrib.filters.admin import ChoicesDropdownFilter
from unfold.widgets import (
    UnfoldAdminCheckboxSelectMultipleWidget,
    UnfoldAdminSelectWidget,
    UnfoldAdminTextInputWidget,
)

from agentpool.registry import queries, serializers, services
from agentpool.registry.admin import history, show
from agentpool.registry.admin.acts import Act, Acting, Note
from agentpool.registry.admin.frame import Configuration, SameAsRest, actor_of
from agentpool.registry.errors import StaleVersion
from agentpool.registry.models import Event, Pool, SecurityProfile
from agentpool.registry.states import (
    PLACEABLE_STATUS,
    FileAccess,
    IsolationLevel,
    NetworkAccess,
    SecurityLevel,
)

_LEVELS = {
    "security_level": SecurityLevel,
    "isolation_levels": IsolationLevel,
    "network_access": NetworkAccess,
    "file_access": FileAccess,
}


def as_rest(values: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Return a form's values as a caller of REST would say them: levels by name, plain numbers."""
    return {name: _as_rest(name, values[name]) for name in names if name in values}


def _as_rest(name: str, value: Any) -> Any:
    if value is None:
        return None  # emptied on purpose: never, or no such limit
    if name in _LEVELS:
        enum = _LEVELS[name]
        if isinstance(value, list):
            known = {int(member) for member in enum}
            return [enum(one).name.lower() if one in known else str(one) for one in map(int, value)]
        return enum(int(value)).name.lower()
    return str(value) if isinstance(value, Decimal) else value


LABELS = {
    "memory_mb": "Memory (MB)",
    "disk_space_mb": "Disk space (MB)",
    "cpu_cores": "CPU cores",
    "affinity_half_life_s": "Affinity half-life (s)",
    "share_half_life_s": "Share half-life (s)",
    "reserve_after_s": "Reserve after (s)",
    "max_bypass": "Bypass at most (grants)",
    "queue_limit": "May wait at most",
    "project_queue_limit": "Of one project",
    "suspicion_probation": "Probation from a suspicion of",
    "suspicion_quarantine": "Quarantine from a suspicion of",
    "quarantine_s": "Quarantine (s)",
}
_COMMAS = "Separated by commas."
WORDS_HELP = dict.fromkeys(
    ("tools", "capabilities", "secrets", "allowed_tools", "allowed_hosts", "writable"), _COMMAS
)


class TokenWish(Note):
    """How many agents may enrol, and for how long."""

    uses = forms.IntegerField(
        min_value=1,
        max_value=100_000,
        initial=1,
        widget=UnfoldAdminTextInputWidget(attrs={"type": "number"}),
        help_text="So many agents may enrol with it.",
    )
    hours = forms.FloatField(
        min_value=0.01,
        max_value=365 * 24,
        initial=24,
        widget=UnfoldAdminTextInputWidget(attrs={"type": "number", "step": "any"}),
        help_text="After so many hours it is worth nothing.",
    )


def _make_token(pool: Pool, said: Mapping[str, Any], actor: str) -> str:
    issued = services.enrolment_token(
        pool, uses=said["uses"], expires_in_s=said["hours"] * 3600, name=said["note"], actor=actor
    )
    return issued.secret


ENROL = Act(
    name="make_enrolment_token",
    title="Make an enrolment token",
    foretell=lambda pools: [
        f"A token is made with which agents may enrol in {', '.join(map(str, pools))}.",
        "It is shown once, on the next page.",
    ],
    apply=_make_token,
    form=TokenWish,
    icon="key",
    once_about="On the agent's machine: export AGENTPOOL_ENROLMENT_TOKEN=…, then "
    "agentpool agent run --pool TYPE",
)


class PoolForm(SameAsRest):
    """A pool as REST takes it; `seen_generation` tells whether somebody else was faster."""

    seen_generation = forms.IntegerField(required=False, widget=forms.HiddenInput)
    isolation_levels = forms.TypedMultipleChoiceField(
        coerce=int,
        choices=[(int(level), level.name.lower().replace("_", " ")) for level in IsolationLevel],
        initial=[int(IsolationLevel.PROCESS)],
        widget=UnfoldAdminCheckboxSelectMultipleWidget,
    )
    driver = forms.ChoiceField(
        choices=[(name, name) for name in serializers.DRIVERS],
        initial="local",
        widget=UnfoldAdminSelectWidget,
    )

    class Meta:
        model = Pool
        exclude = ("generation",)
        labels: ClassVar = LABELS
        help_texts: ClassVar = {
            **WORDS_HELP,
            "exec": "The LLM tool, say, that works for the agents; empty: work brings its command.",
            "driver_resources": "Of the driver ray, what an agent takes there: gpu=1, one a line.",
            "mean_service_s": "What a grant is charged with until it ends.",
            "max_concurrent": "Slots: so many leases at once on one agent.",
        }

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        if not self.instance._state.adding:
            self.initial["seen_generation"] = self.instance.generation

    def rest(self, values: dict[str, Any]) -> drf.Serializer[Any]:
        """Return REST's serializer: of a new pool, or over the fields that changed."""
        fields = serializers.NewPool if self.instance._state.adding else serializers.PoolFields
        names = [name for name in list(fields().fields) if name in self.changed_data]
        before = None if self.instance._state.adding else Pool.objects.get(pk=self.instance.pk)
        return fields(before, data=as_rest(values, names))

    def clean(self) -> dict[str, Any]:
        """Return the values; refuses to write over what somebody else has changed."""
        values = super().clean()
        seen = values.get("seen_generation")
        if seen is not None and seen != self.instance.generation:
            self.add_error(
                None,
                "Somebody else changed this pool while you looked at it "
                f"(version {seen} is now {self.instance.generation}). Load the page again.",
            )
        return values


@admin.register(Pool)
class PoolAdmin(Acting, Configuration):
    """Pools with launch templates."""

    section = "registry"
    icon = "dns"
    rank = 1
    live_kinds = ("pool.", "agent.", "lease.")
    empty = "There are no pools yet: add one for each type of agent."
    acts = (ENROL,)
    form = PoolForm
    list_display = ("agent_type", "agents", "slots", "sizes", "strategy", "template", "driver")
    list_filter = (("strategy", ChoicesDropdownFilter),)
    search_fields = ("agent_type", "description")
    readonly_fields = ("mean_service_s", "generation", "created_at", "updated_at")
    fieldsets = (
        (None, {"fields": ("agent_type", "description", ("min_size", "max_size"))}),
        (
            "Launch template: what a new agent would be",
            {
                "fields": (
                    ("memory_mb", "cpu_cores"),
                    ("token_budget", "disk_space_mb"),
                    ("max_concurrent", "security_level"),
                    ("tools", "capabilities"),
                    ("isolation_levels", "secrets"),
                    ("driver", "exec"),
                    "driver_resources",
                )
            },
        ),
        (
            "Placing and queueing",
            {
                "fields": (
                    "strategy",
                    ("affinity_half_life_s", "share_half_life_s"),
                    ("reserve_after_s", "max_bypass"),
                    ("queue_limit", "project_queue_limit"),
                    ("suspicion_probation", "suspicion_quarantine", "quarantine_s"),
                )
            },
        ),
        (
            "Measured",
            {
                "fields": (
                    "mean_service_s",
                    ("generation", "created_at", "updated_at"),
                    "seen_generation",
                )
            },
        ),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Pool]:
        """Return pools with their agents and slots counted."""
        rows: QuerySet[Pool] = super().get_queryset(request)
        works = Q(agent__status__in=PLACEABLE_STATUS)
        return rows.annotate(
            n_agents=Count("agent", filter=~Q(agent__status__in=("lost", "retired"))),
            n_slots=Sum("agent__max_concurrent", filter=works, default=0),
            n_used=Sum("agent__load", filter=works, default=0),
        )

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        """Return the groups of fields: of a new pool nothing has been measured."""
        return self.fieldsets if obj else self.fieldsets[:-1]

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        """Return the fields that stay: of a pool that exists, its name, too."""
        return (*self.readonly_fields, "agent_type") if obj else self.readonly_fields

    def seen(self, row: Pool) -> str:
        """Return the version."""
        return f"version {row.generation}"

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        """This will make or change the pool with its event, version and profile."""
        fields, actor = dict(form.said), actor_of(request)
        if change and fields:
            seen = form.cleaned_data.get("seen_generation")
            services.update_pool(obj.agent_type, fields=fields, if_generation=seen, actor=actor)
        if change:
            return
        fields.pop("agent_type", None)
        services.create_pool(obj.agent_type, fields={**fields, "id": obj.id}, actor=actor)

    def events_of(self, row: Pool) -> QuerySet[Event]:
        """Return what happened to the pool itself."""
        return history.configuration_events(row.agent_type)

    @show.column("agents")
    def agents(self, row: Any) -> Any:
        """Return how many agents there are, leading to them."""
        return show.to_list("agent", row.n_agents, pool=row.agent_type)

    @show.column("slots used")
    def slots(self, row: Any) -> Any:
        """Return a bar of used slots."""
        return show.bar(row.n_used, row.n_slots, f"{row.n_used} of {row.n_slots}")

    @show.column("size", ordering="max_size")
    def sizes(self, row: Pool) -> str:
        """Return the bounds of its size."""
        return f"{row.min_size} to {row.max_size}"

    @show.column("a new agent")
    def template(self, row: Pool) -> str:
        """Return the launch template's amounts."""
        slots = f"{row.max_concurrent} slot{'' if row.max_concurrent == 1 else 's'}"
        return f"{slots}, {show.megabytes(row.memory_mb)}, {float(row.cpu_cores):g} cores"


class ProfileForm(SameAsRest):
    """A security profile as REST takes it."""

    seen_version = forms.IntegerField(required=False, widget=forms.HiddenInput)

    class Meta:
        model = SecurityProfile
        exclude = ("pool", "version")
        labels: ClassVar = LABELS
        help_texts: ClassVar = WORDS_HELP

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.initial["seen_version"] = self.instance.version

    def rest(self, values: dict[str, Any]) -> drf.Serializer[Any]:
        """Return REST's serializer over the fields that changed."""
        known = list(serializers.ProfileFields().fields)
        names = [name for name in known if name in self.changed_data]
        return serializers.ProfileFields(data=as_rest(values, names))

    def clean(self) -> dict[str, Any]:
        """Return the values; refuses to write over what somebody else has changed."""
        before = model_to_dict(SecurityProfile.objects.get(pk=self.instance.pk), ["version"])
        values = super().clean()
        seen = values.get("seen_version")
        if seen is not None and seen != before["version"]:
            self.add_error(None, "Somebody else changed this profile; load the page again.")
        return values


@admin.register(SecurityProfile)
class SecurityProfileAdmin(Configuration):
    """Security profiles; each came with its pool, so none is added or deleted."""

    section = "registry"
    icon = "shield"
    rank = 2
    form = ProfileForm
    list_display = (
        "pool",
        "network",
        "files",
        "memory",
        "cpu_cores",
        "tools",
        "version",
        "changed",
    )
    list_filter = (("network_access", ChoicesDropdownFilter),)
    search_fields = ("pool__agent_type",)
    readonly_fields = ("pool", "version", "updated_at")
    fields = (
        "pool",
        "allowed_tools",
        ("network_access", "file_access"),
        "allowed_hosts",
        "writable",
        ("memory_mb", "cpu_cores"),
        "quarantine_after",
        ("version", "updated_at"),
        "seen_version",
    )

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return False."""
        return False

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        """This will change the profile with its event and version."""
        seen = form.cleaned_data.get("seen_version")
        now = SecurityProfile.objects.select_for_update().get(pk=obj.pk).version
        if seen is not None and seen != now:
            raise StaleVersion(f"The profile is at version {now}, not {seen}.")
        if not form.said:
            return
        services.update_profile(obj.pk, fields=dict(form.said), actor=actor_of(request))

    def events_of(self, row: SecurityProfile) -> QuerySet[Event]:
        """Return the changes of this profile."""
        return history.configuration_events(queries.pool(row.pk).agent_type, "profile.updated")

    @show.column("network", ordering="network_access")
    def network(self, row: SecurityProfile) -> str:
        """Return the network access by name."""
        return NetworkAccess(row.network_access).name.lower()

    @show.column("files", ordering="file_access")
    def files(self, row: SecurityProfile) -> str:
        """Return the file access by name."""
        return FileAccess(row.file_access).name.lower().replace("_", " ")

    @show.column("memory", ordering="memory_mb")
    def memory(self, row: SecurityProfile) -> str:
        """Return the memory ceiling."""
        return show.megabytes(row.memory_mb)

    @show.column("tools")
    def tools(self, row: SecurityProfile) -> str:
        """Return the tools that may be used."""
        return show.words(row.allowed_tools)

    changed = show.ago("changed", "updated_at")
