"""
What all admin pages share: who may what, the app that acts, the live script, and the history.

Rows of a state machine are `ReadOnly` and change by acts (`agentpool.registry.admin.acts`); rows
that people write are `Configuration`, saved by the service that REST calls, too.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from django import forms
from django.contrib import messages
from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from rest_framework import serializers as drf
from unfold.admin import ModelAdmin
from unfold.widgets import UnfoldAdminTextInputWidget

from agentpool.registry import queries, roles
from agentpool.registry.admin import history
from agentpool.registry.errors import Refusal
from agentpool.registry.models import Event


def actor_of(request: HttpRequest) -> str:
    """Return the name under which a person's doing is kept in events."""
    return f"user:{request.user.get_username()}"


class Page(ModelAdmin):
    """
    A table in the admin.

    section: the app that acts on it, by which the index groups pages (design: tables live in
    registry, behaviour does not). is_technical: kept out of the sidebar. rank: its place in the
    section. live_kinds: beginnings of
    the events' kinds after which an open list is fetched again. empty: what an empty list says.
    """

    section: ClassVar[str] = "registry"
    icon: ClassVar[str] = "table"
    is_technical: ClassVar[bool] = False
    rank: ClassVar[int] = 9
    live_kinds: ClassVar[tuple[str, ...]] = ()
    empty: ClassVar[str] = "There is nothing here yet."

    list_per_page = 50
    list_max_show_all = 200
    show_full_result_count = False
    list_before_template = "admin/live_list.html"
    object_history_template = "admin/object_history_with_events.html"

    class Media:
        js = ("admin_live.js",)

    def has_operate_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Whether this person may act on the fleet."""
        return roles.is_operator(request.user)

    def lookup_allowed(self, lookup: str, value: str, request: Any = None) -> bool:
        """Whether a list may be narrowed so; Django overlooks that pools are known by name."""
        return lookup.startswith("pool__agent_type") or bool(
            super().lookup_allowed(lookup, value, request)
        )

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> Any:
        """Show the list, and from which event on the open page has to look for news."""
        after = {"live_after": queries.last_seq()} if self.live_kinds else {}
        return super().changelist_view(request, {**after, **(extra_context or {})})

    def history_view(self, request: HttpRequest, object_id: str, extra_context: Any = None) -> Any:
        """Show what people did to a row here, and what its events say, newest first."""
        row = self.get_object(request, object_id)
        lines = history.lines(row, self.events_of(row)) if row is not None else []
        return super().history_view(request, object_id, {"lines": lines, **(extra_context or {})})

    def events_of(self, row: Any) -> QuerySet[Event]:
        """Return the events that tell a row's past; none unless a page knows better."""
        return Event.objects.none()


class ReadOnly(Page):
    """Rows that only services write: shown, searched, never edited past the state machine."""

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return False."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return False."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return False."""
        return False


class EditedOnConsole(ReadOnly):
    """Rows whose form is the console's; the column `edit` leads there, whom it lets in."""

    def get_list_display(self, request: HttpRequest) -> Any:
        """Return the columns."""
        return _without_edit(super().get_list_display(request), request)

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        """Return the fields of a row's page."""
        return _without_edit(super().get_fields(request, obj), request)


def _without_edit(names: Any, request: HttpRequest) -> list[Any]:
    may = roles.is_operator(request.user)
    return [name for name in names if may or name != "edit"]


class SameAsRest(forms.ModelForm):  # type: ignore[type-arg]
    """
    A form whose values REST's serializer checks, so that both doors refuse the same.

    rest_fields: what the serializer takes of `data`; its errors stand at their fields. Afterwards
    `said` holds what the service is to be given.
    """

    said: Mapping[str, Any]

    def rest(self, values: dict[str, Any]) -> drf.Serializer[Any]:
        """Return the serializer over the form's values."""
        raise NotImplementedError

    def clean(self) -> dict[str, Any]:
        """Return the values; what the serializer refuses is an error of the field."""
        values: dict[str, Any] = super().clean() or self.cleaned_data
        if self.errors:
            return values
        form = self.rest(values)
        if form.is_valid():
            self.said = form.validated_data
            return values
        for name, found in form.errors.items():
            for text in _texts(found):
                self.add_error(name if name in self.fields else None, text)
        return values


def _texts(found: Any) -> list[str]:
    if isinstance(found, Mapping):
        return [text for each in found.values() for text in _texts(each)]
    if isinstance(found, list | tuple):
        return [text for each in found for text in _texts(each)]
    return [str(found)]


class Configuration(Page):
    """Rows that operators write, through the service that REST calls, too."""

    # Most of our texts are a word or a line.
    formfield_overrides: ClassVar = {
        models.TextField: {"widget": UnfoldAdminTextInputWidget},
        ArrayField: {"widget": UnfoldAdminTextInputWidget},
    }

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Whether this person operates."""
        return self.has_operate_permission(request)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Whether this person operates."""
        return self.has_operate_permission(request)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return False: nothing that has a past is deleted, and no service does it."""
        return False

    def changeform_view(self, request: HttpRequest, *args: Any, **options: Any) -> HttpResponse:
        """Show or save; what a service refuses in the last moment is told, nothing is saved."""
        try:
            answer: HttpResponse = super().changeform_view(request, *args, **options)
        except Refusal as refusal:
            messages.error(request, refusal.detail)
            return redirect(request.path)
        return answer
