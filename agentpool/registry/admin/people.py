"""People and groups: who may sign in, and as what (agentpool/registry/roles.py)."""

from typing import Any

from django.contrib import admin
from django.contrib.auth import get_user_model
from django.contrib.auth.admin import GroupAdmin as DjangoGroupAdmin
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.contrib.auth.models import Group
from django.db.models import Count
from django.http import HttpRequest
from unfold.admin import ModelAdmin
from unfold.forms import AdminPasswordChangeForm, UserChangeForm, UserCreationForm

from agentpool.registry import roles
from agentpool.registry.admin import show

User = get_user_model()
admin.site.unregister(User)
admin.site.unregister(Group)
# What only a superuser gives away: it would lift somebody above the group admin.
_BEYOND = ("is_superuser", "user_permissions")


@admin.register(User)
class UserAdmin(DjangoUserAdmin, ModelAdmin):  # type: ignore[type-arg]
    """People. Whoever is in a group may sign in to the admin; that is set when one is chosen."""

    section = "people"
    icon = "person"
    is_technical = False
    form = UserChangeForm
    add_form = UserCreationForm
    change_password_form = AdminPasswordChangeForm
    list_display = ("username", "roles_shown", "is_active", "signed_in")
    list_filter = ("groups", "is_active")
    filter_horizontal = ()
    autocomplete_fields = ("groups",)
    readonly_fields = ("is_staff", "last_login", "date_joined")
    fieldsets = (
        (None, {"fields": ("username", "password")}),
        ("May", {"fields": ("groups", "is_active", "is_staff", *_BEYOND)}),
        ("Person", {"fields": ("first_name", "last_name", "email")}),
        ("Times", {"fields": (("last_login", "date_joined"),)}),
    )
    add_fieldsets = ((None, {"fields": ("username", "password1", "password2", "groups")}),)

    def get_queryset(self, request: HttpRequest) -> Any:
        """Return people with their groups."""
        return super().get_queryset(request).prefetch_related("groups")

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        """Return what this person may not give away."""
        beyond = () if request.user.is_superuser else _BEYOND
        return (*self.readonly_fields, *beyond)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Whether this person may change that one: a superuser only another superuser."""
        allowed = bool(super().has_change_permission(request, obj))
        is_above = getattr(obj, "is_superuser", False) and not request.user.is_superuser
        return allowed and not is_above

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Whether this person may delete that one; nobody deletes a superuser but another."""
        allowed = bool(super().has_delete_permission(request, obj))
        is_above = getattr(obj, "is_superuser", False) and not request.user.is_superuser
        return allowed and not is_above

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:
        """This will save the groups, and let a person who is in one sign in."""
        super().save_related(request, form, formsets, change)
        roles.let_in([form.instance])

    @show.column("groups")
    def roles_shown(self, row: Any) -> str:
        """Return the groups, or that all is allowed anyway."""
        names = [group.name for group in row.groups.all()]
        return ", ".join(["superuser", *names] if row.is_superuser else names) or "–"

    signed_in = show.ago("last sign-in", "last_login", empty="never")


@admin.register(Group)
class GroupAdmin(DjangoGroupAdmin, ModelAdmin):
    """Groups; viewer, operator and admin are made by agentpool."""

    section = "people"
    icon = "group"
    is_technical = False
    list_display = ("name", "people")
    filter_horizontal = ()
    autocomplete_fields = ()

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        """Return `permissions` for all but superusers: they would lift somebody above the group."""
        return () if request.user.is_superuser else ("permissions",)

    def get_queryset(self, request: HttpRequest) -> Any:
        """Return groups with their people counted."""
        return super().get_queryset(request).annotate(n_people=Count("user"))

    @show.column("people", ordering="n_people")
    def people(self, row: Any) -> int:
        """Return how many are in it."""
        return int(row.n_people)
