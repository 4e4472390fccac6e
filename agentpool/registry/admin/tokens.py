"""Tokens and credentials: made and revoked here, their secrets shown once and never again."""

from collections.abc import Mapping, Sequence
from typing import Any

from django import forms
from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils import timezone
from rest_framework import serializers as drf
from unfold.contrib.filters.admin import ChoicesDropdownFilter, RelatedDropdownFilter
from unfold.widgets import UnfoldAdminSelectWidget, UnfoldAdminTextInputWidget

from agentpool.registry import serializers, services
from agentpool.registry.admin import history, show
from agentpool.registry.admin.acts import Act, Acting, how_many
from agentpool.registry.admin.frame import Configuration, SameAsRest, actor_of
from agentpool.registry.models import Credential, Event, Pool
from agentpool.registry.states import Scope


def _revoke(row: Credential, said: Mapping[str, Any], actor: str) -> None:
    services.revoke_token(row.id, actor=actor, note=said["note"])


def _foretell(rows: Sequence[Credential]) -> list[str]:
    of_agents = [row for row in rows if row.scope == Scope.AGENT]
    told = [f"{how_many(len(rows), 'credential')} will be worth nothing at once."]
    if of_agents:
        told.append(
            f"{how_many(len(of_agents), 'of them is an', 'of them are')} agent's: it cannot speak "
            "any more, and is lost when its silence has lasted too long. To give it another, "
            "rotate its credential instead."
        )
    return [*told, "This cannot be taken back."]


REVOKE = Act(
    name="revoke",
    title="Revoke",
    foretell=_foretell,
    apply=_revoke,
    icon="block",
    is_harsh=True,
)


class NewCredential(SameAsRest):
    """A token for a person, an orchestrator, or agents that enrol in a pool."""

    scope = forms.ChoiceField(
        choices=[(s.value, s.value) for s in Scope if s is not Scope.AGENT],
        widget=UnfoldAdminSelectWidget,
        help_text="viewer: look; orchestrator: ask for agents; operator: everything; "
        "enrolment: let agents register in a pool.",
    )
    name = forms.CharField(
        required=False,
        max_length=200,
        widget=UnfoldAdminTextInputWidget,
        help_text="Whose it is, or what for.",
    )
    pool = forms.ModelChoiceField(
        Pool.objects.order_by("agent_type"),
        required=False,
        widget=UnfoldAdminSelectWidget,
        help_text="Of an enrolment token: the pool whose agents may enrol.",
    )
    uses = forms.IntegerField(
        required=False,
        widget=UnfoldAdminTextInputWidget(attrs={"type": "number"}),
        help_text="Of an enrolment token: how many agents may enrol with it (empty: one).",
    )
    hours = forms.FloatField(
        required=False,
        widget=UnfoldAdminTextInputWidget(attrs={"type": "number", "step": "any"}),
        help_text="After so many hours it is worth nothing (empty: enrolment a day, others never).",
    )

    class Meta:
        model = Credential
        fields = ("scope", "name")

    def rest(self, values: dict[str, Any]) -> drf.Serializer[Any]:
        """Return REST's serializer for the kind of token."""
        said = {"name": values["name"]}
        if values.get("hours") is not None:
            said["expires_in_s"] = values["hours"] * 3600
        if values["scope"] != Scope.ENROLMENT:
            return serializers.NewToken(data={**said, "scope": values["scope"]})
        if values.get("uses") is not None:
            said["uses"] = values["uses"]
        return serializers.NewEnrolmentToken(data=said)

    def clean(self) -> dict[str, Any]:
        """Return the values; an enrolment token needs its pool, others have none."""
        values = super().clean()
        if (values.get("scope") == Scope.ENROLMENT) != (values.get("pool") is not None):
            self.add_error("pool", "An enrolment token needs a pool; no other token has one.")
        return values

    def _post_clean(self) -> None:
        # The row is made by the service; a model's own check would miss the digest it has not yet.
        pass


@admin.register(Credential)
class CredentialAdmin(Acting, Configuration):
    """
    Tokens and credentials, without their secrets.

    What one is worth never changes after it was made, but to nothing: revoke it, make another.
    """

    section = "registry"
    icon = "key"
    rank = 3
    live_kinds = ("token.", "agent.registered", "agent.reregistered", "agent.credential_rotated")
    empty = "There are no tokens yet."
    acts = (REVOKE,)
    list_display = ("hint", "scope_shown", "state", "name", "whose", "left", "made", "ends")
    list_filter = (("scope", ChoicesDropdownFilter), ("pool", RelatedDropdownFilter))
    list_select_related = ("agent",)
    search_fields = ("hint", "name", "created_by", "agent__agent_id")
    ordering = ("-created_at",)
    add_form_template = "admin/new_token.html"

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return False."""
        return False

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        """Return the form of a new token, or what is kept of one."""
        if obj is None:
            return ("scope", "name", "pool", "uses", "hours")
        return (
            ("hint", "scope_shown", "state"),
            ("name", "whose"),
            ("uses_left", "incarnation"),
            ("created_at", "created_by"),
            ("expires_at", "revoked_at"),
        )

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        """Return the columns that are made from others."""
        return () if obj is None else ("hint", "scope_shown", "state", "whose")

    def get_form(self, request: HttpRequest, obj: Any = None, **options: Any) -> Any:
        """Return the form of a new token; what exists has none."""
        return NewCredential if obj is None else super().get_form(request, obj, **options)

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        """This will make the token; its secret is kept for the one answer that shows it."""
        said, actor, scope = dict(form.said), actor_of(request), form.cleaned_data["scope"]
        if scope == Scope.ENROLMENT:
            issued = services.enrolment_token(form.cleaned_data["pool"], actor=actor, **said)
        else:
            said.pop("scope")
            issued = services.token(scope=Scope(scope), actor=actor, **said)
        obj.pk, obj.hint = issued.credential.pk, issued.credential.hint
        obj.issued_secret = issued.secret

    def response_add(self, request: HttpRequest, obj: Any, *args: Any, **more: Any) -> HttpResponse:
        """Show the secret, this once."""
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": "The new token",
            "report": {"secrets": [(str(obj), obj.issued_secret)], "refused": []},
            "back": show.list_of("credential"),
        }
        response = TemplateResponse(request, "admin/secrets.html", context)
        response.headers["Cache-Control"] = "no-store"
        return response

    def seen(self, row: Credential) -> str:
        """Return whether it is good."""
        return _state(row)

    def events_of(self, row: Credential) -> QuerySet[Event]:
        """Return when it was made and revoked."""
        rows = history.configuration_events(row.pool_id or "", "token.created", "token.revoked")
        return rows.filter(detail__token=str(row.pk))

    @show.column("scope", ordering="scope", label={"operator": "warning", "agent": "info"})
    def scope_shown(self, row: Credential) -> str:
        """Return the scope as a badge."""
        return row.scope

    @show.column("state", label={**show.COLOURS, "expired": "danger"})
    def state(self, row: Credential) -> str:
        """Return whether it is good."""
        return _state(row)

    @show.column("whose")
    def whose(self, row: Credential) -> Any:
        """Return its agent or pool."""
        if row.agent_id is not None and row.agent is not None:
            return show.to_row("agent", row.agent_id, row.agent.agent_id)
        return row.pool_id

    @show.column("uses left", ordering="uses_left")
    def left(self, row: Credential) -> Any:
        """Return how many agents may still enrol."""
        return row.uses_left

    @show.column("made", ordering="created_at")
    def made(self, row: Credential) -> Any:
        """Return when and by whom it was made."""
        return show.joined(show.age(row.created_at), row.created_by)

    ends = show.ago("ends", "expires_at", empty="never")


def _state(row: Credential) -> str:
    if row.revoked_at is not None:
        return "revoked"
    if row.expires_at is not None and row.expires_at <= timezone.now():
        return "expired"
    return "used up" if row.uses_left == 0 else "good"
