"""The admin's pages of resource limits: edited as a whole, through the service that REST calls."""

from typing import Any, ClassVar

from django import forms
from django.contrib import admin
from django.db.models import OuterRef, QuerySet, Subquery, Sum
from django.forms.models import model_to_dict
from django.http import HttpRequest
from rest_framework import serializers as drf
from unfold.contrib.filters.admin import ChoicesDropdownFilter

from agentpool.registry import queries as registry_queries
from agentpool.registry.admin import history, show
from agentpool.registry.admin.frame import Configuration, ReadOnly, SameAsRest, actor_of
from agentpool.registry.admin.pools import LABELS, as_rest
from agentpool.registry.errors import NotFound, StaleVersion
from agentpool.registry.models import Event, LimitShard, ResourceLimit
from agentpool.registry.states import LimitLevel
from balancing import serializers
from balancing.queries import AMOUNTS
from balancing.services import limits


class LimitForm(SameAsRest):
    """A limit as REST takes it; empty amounts are no limit."""

    seen_generation = forms.IntegerField(required=False, widget=forms.HiddenInput)

    class Meta:
        model = ResourceLimit
        exclude = ("generation",)
        labels: ClassVar = {
            **LABELS,
            "network_bandwidth_mbps": "Network (Mbps)",
            "max_memory_mb": "Most memory (MB)",
            "max_cpu_cores": "Most CPU cores",
            "max_token_budget": "Most tokens",
            "max_disk_space_mb": "Most disk space (MB)",
            "min_memory_mb": "Least memory (MB)",
            "min_cpu_cores": "Least CPU cores",
        }
        help_texts: ClassVar = {
            "name": "The pool or project; empty for the installation.",
            "weight": "A project of weight 2 gets twice the slots of one of weight 1 while both "
            "wait.",
            "min_memory_mb": "A smaller ask is raised to it.",
            "min_cpu_cores": "A smaller ask is raised to it.",
        }

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        if not self.instance._state.adding:
            self.initial["seen_generation"] = self.instance.generation

    def rest(self, values: dict[str, Any]) -> drf.Serializer[Any]:
        """Return REST's serializer over the whole limit."""
        names = list(serializers.NewLimit().fields)
        kept = {} if self.instance._state.adding else model_to_dict(self.instance, names)
        return serializers.NewLimit(data=as_rest({**kept, **values}, names))

    def clean(self) -> dict[str, Any]:
        """Return the values; the pool that a limit names must exist."""
        values = super().clean()
        if values.get("level") == LimitLevel.POOL and values.get("name"):
            try:
                registry_queries.pool(values["name"])
            except NotFound as error:
                self.add_error("name", error.detail)
        seen = values.get("seen_generation")
        if seen is not None and seen != self.instance.generation:
            self.add_error(None, "Somebody else changed this limit; load the page again.")
        return values


@admin.register(ResourceLimit)
class ResourceLimitAdmin(Configuration):
    """
    Resource limits, set as a whole; the queues are looked at afterwards, also after a removal.
    """

    section = "balancing"
    icon = "speed"
    rank = 4
    empty = "Nothing is limited."
    form = LimitForm
    list_before_template = "console/_limits_how.html"
    list_display = (
        "level_name",
        "memory",
        "cores",
        "tokens",
        "disk",
        "one_lease",
        "weight",
        "held",
    )
    list_filter = (("level", ChoicesDropdownFilter),)
    search_fields = ("name",)
    fieldsets = (
        (None, {"fields": (("level", "name"), "weight", "seen_generation")}),
        (
            "All live leases together (empty: no limit)",
            {
                "fields": (
                    ("memory_mb", "cpu_cores"),
                    ("token_budget", "disk_space_mb"),
                    "network_bandwidth_mbps",
                )
            },
        ),
        (
            "Each lease by itself",
            {
                "fields": (
                    ("max_memory_mb", "max_cpu_cores"),
                    ("max_token_budget", "max_disk_space_mb"),
                    ("min_memory_mb", "min_cpu_cores"),
                )
            },
        ),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[ResourceLimit]:
        """Return the limits, each with what is free under it."""
        rows: QuerySet[ResourceLimit] = super().get_queryset(request)
        shards = LimitShard.objects.filter(resource_limit=OuterRef("pk")).order_by()
        sums = shards.values("resource_limit").annotate(**{f"sum_{n}": Sum(n) for n in AMOUNTS})
        return rows.annotate(**{f"free_{n}": Subquery(sums.values(f"sum_{n}")) for n in AMOUNTS})

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        """Return what a limit is of, once it exists."""
        return ("level", "name") if obj else ()

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        """This will set the limit as a whole; locks the table of limits for the transaction."""
        seen = form.cleaned_data.get("seen_generation")
        if change and seen is not None:
            now = ResourceLimit.objects.get(pk=obj.pk).generation
            if now != seen:
                raise StaleVersion(f"The limit is at version {now}, not {seen}.")
        obj.pk = limits.set_limit(form.said, actor=actor_of(request)).pk

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Whether this person operates."""
        return self.has_operate_permission(request)

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> Any:
        """Return what goes: the limits; their shards are no business of a person's."""
        return [str(each) for each in objs], {"limits": len(objs)}, set(), []

    def delete_model(self, request: HttpRequest, obj: ResourceLimit) -> None:
        """This will remove a limit; locks the table of limits for the transaction."""
        limits.remove_limit(obj.pk, actor=actor_of(request), if_generation=obj.generation)

    def get_actions(self, request: HttpRequest) -> Any:
        """Return no deletion of many: it would be written down before it is done."""
        return {k: v for k, v in super().get_actions(request).items() if k != "delete_selected"}

    def events_of(self, row: ResourceLimit) -> QuerySet[Event]:
        """Return when it was set, and that one before it was removed."""
        rows = history.configuration_events("", "limit.set", "limit.removed")
        return rows.filter(detail__level=row.level, detail__name=row.name)

    @show.column("of", ordering="level")
    def level_name(self, row: ResourceLimit) -> str:
        """Return whom it limits."""
        return str(row)

    @show.column("memory", empty="no limit")
    def memory(self, row: ResourceLimit) -> Any:
        """Return a bar of memory in use."""
        return _used(row, "memory_mb")

    @show.column("cores", empty="no limit")
    def cores(self, row: ResourceLimit) -> Any:
        """Return a bar of cores in use."""
        return _used(row, "cpu_cores")

    @show.column("tokens", empty="no limit")
    def tokens(self, row: ResourceLimit) -> Any:
        """Return a bar of tokens in use."""
        return _used(row, "token_budget")

    @show.column("disk", empty="no limit")
    def disk(self, row: ResourceLimit) -> Any:
        """Return a bar of disk in use."""
        return _used(row, "disk_space_mb")

    @show.column("one lease")
    def one_lease(self, row: ResourceLimit) -> str | None:
        """Return the bounds of each lease."""
        names = ("memory_mb", "cpu_cores", "token_budget", "disk_space_mb")
        most = [
            f"{name.removesuffix('_mb').replace('_', ' ')} ≤ {getattr(row, f'max_{name}'):g}"
            for name in names
            if getattr(row, f"max_{name}") is not None
        ]
        return ", ".join(most) or None

    @show.column("state", label=show.COLOURS)
    def held(self, row: ResourceLimit) -> Any:
        """Return that more is in use than it allows."""
        return ("failed", "overdrawn") if row.is_overdrawn else "good"


def _used(row: ResourceLimit, name: str) -> Any:
    most = getattr(row, name)
    if most is None:
        return None
    used = float(most - (getattr(row, f"free_{name}") or 0))
    if name.endswith("_mb"):
        text = show.of_megabytes(used, float(most))
    else:
        text = f"{show.count(used)} of {show.count(float(most))}"
    return show.bar(used, float(most), text)


@admin.register(LimitShard)
class LimitShardAdmin(ReadOnly):
    """What is free under each limit, in parts."""

    section = "balancing"
    is_technical = True
    list_display = ("id", "of_limit", "memory_mb", "cpu_cores", "token_budget", "disk_space_mb")
    list_select_related = ("resource_limit",)

    @show.column("limit")
    def of_limit(self, row: LimitShard) -> str:
        """Return the limit's name."""
        return str(row.resource_limit)
