"""What people may do: the groups viewer, operator and admin, and the permission that tells them."""

from collections.abc import Iterable
from typing import Any

from django.apps import apps
from django.contrib.auth import get_user_model
from django.contrib.auth.management import create_permissions
from django.contrib.auth.models import Group, Permission
from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import Q
from django.utils.crypto import get_random_string

from agentpool.registry.errors import Duplicate, InvalidField, NotFound

OPERATE = "registry.operate"
VIEWER, OPERATOR, ADMIN = GROUPS = ("viewer", "operator", "admin")

# Tables that everybody who may sign in to the admin sees, and those of people. Schedules are for
# superusers: whoever edits one runs any function on the server.
_SEEN = ("registry", "django_q")
_LOOK = Q(content_type__app_label__in=_SEEN, codename__startswith="view_")
_ACT = Q(content_type__app_label="registry", codename="operate")
_PEOPLE = Q(content_type__app_label="auth", content_type__model__in=["user", "group"])
_HELD = {VIEWER: _LOOK, OPERATOR: _LOOK | _ACT, ADMIN: _LOOK | _ACT | _PEOPLE}


@transaction.atomic
def settle() -> None:
    """
    Make the three groups if they are missing, and give each what tables made since then need.

    Only ever adds: what an administrator gave a group besides stays.
    """
    for label in (*_SEEN, "auth"):
        create_permissions(apps.get_app_config(label), verbosity=0)
    for name, held in _HELD.items():
        group, _ = Group.objects.get_or_create(name=name)
        group.permissions.add(*Permission.objects.filter(held))


def is_operator(user: Any) -> bool:
    """Whether a person may act on the fleet; one query, kept with the user object."""
    return bool(user.is_active and user.has_perm(OPERATE))


@transaction.atomic
def make_user(username: str, *, group: str, password: str | None = None) -> str:
    """
    Make a person who may sign in, in one of the groups; return the password.

    password: None makes one of 16 random characters. Raises: Duplicate; NotFound, no such group;
    InvalidField, the password is too short or too common.
    """
    users = get_user_model().objects
    if users.filter(username=username).exists():
        raise Duplicate(f"There is a user {username} already.")
    found = Group.objects.filter(name=group).first()
    if found is None:
        raise NotFound(f"There is no group {group}; the groups are: {', '.join(GROUPS)}.")
    if password is not None:
        _check(password)
    secret = password or get_random_string(16)
    user = users.create_user(username, password=secret)
    user.groups.add(found)
    let_in([user])
    return secret


def _check(password: str) -> None:
    try:
        validate_password(password)
    except ValidationError as error:
        why = " ".join(error.messages)
        raise InvalidField(why, errors=[("password", why)]) from error


def let_in(users: Iterable[Any]) -> None:
    """This will let people who are in a group sign in to the admin: Django asks for `is_staff`."""
    ids = [user.pk for user in users]
    get_user_model().objects.filter(pk__in=ids, groups__isnull=False).update(is_staff=True)


def people() -> list[dict[str, Any]]:
    """Return everybody with their groups, by name."""
    rows = get_user_model().objects.prefetch_related("groups").order_by("username")
    return [
        {
            "username": user.get_username(),
            "groups": sorted(group.name for group in user.groups.all()),
            "superuser": user.is_superuser,
            "active": user.is_active,
            "last_login": user.last_login,
        }
        for user in rows
    ]
