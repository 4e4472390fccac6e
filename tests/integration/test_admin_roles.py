"""The groups viewer, operator and admin: made by a migration, kept by prepare, heeded by REST."""

import importlib
import json
from io import StringIO
from pathlib import Path

import pytest
from django.apps import apps
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group, Permission
from django.core.management import CommandError, call_command
from django.test import Client

from agentpool.registry import migrations, roles

pytestmark = pytest.mark.django_db


def test_the_migration_makes_the_groups_before_there_are_permissions():
    name = next(Path(migrations.__path__[0]).glob("*_groups.py")).stem
    module = importlib.import_module(f"agentpool.registry.migrations.{name}")
    boss = get_user_model().objects.create_user("old-staff", is_staff=True)
    Group.objects.all().delete()
    Permission.objects.all().delete()

    module.make_groups(apps, None)

    held = {
        group.name: {p.codename for p in group.permissions.all()} for group in Group.objects.all()
    }
    assert set(held) == set(roles.GROUPS)
    assert "view_agent" in held["viewer"]
    assert [name for name in held["viewer"] if not name.startswith("view_")] == []
    assert held["operator"] - held["viewer"] == {"operate"}
    assert {"add_user", "change_group"} <= held["admin"]
    assert [g.name for g in boss.groups.all()] == ["operator"]


def test_settling_gives_new_tables_to_the_groups_and_takes_nothing():
    roles.settle()
    viewer = Group.objects.get(name="viewer")
    viewer.permissions.remove(Permission.objects.get(codename="view_lease"))
    extra = Permission.objects.get(codename="add_logentry")
    viewer.permissions.add(extra)

    roles.settle()

    codenames = set(viewer.permissions.values_list("codename", flat=True))
    assert {"view_lease", extra.codename} <= codenames


def test_prepare_leaves_the_three_groups():
    Group.objects.all().delete()

    call_command("prepare", stdout=StringIO())

    assert set(Group.objects.values_list("name", flat=True)) == set(roles.GROUPS)


def made(name, *options):
    out = StringIO()
    call_command("make_user", name, *options, stdout=out)
    return out.getvalue()


def test_a_person_is_made_and_may_sign_in_with_the_printed_password():
    told = json.loads(made("ada", "--group", "operator", "--json"))

    client = Client()
    assert client.login(username="ada", password=told["password"])
    assert client.get("/admin/").status_code == 200
    with pytest.raises(CommandError, match="already"):
        made("ada")
    out = StringIO()
    call_command("list_users", "--json", stdout=out)
    assert {"ada": ["operator"]}.items() <= {
        each["username"]: each["groups"] for each in json.loads(out.getvalue())
    }.items()
    out = StringIO()
    call_command("list_users", stdout=out)
    assert "ada" in out.getvalue()


def session_of(group):
    roles.settle()
    roles.make_user(f"rest-{group}", group=group)
    client = Client()
    client.force_login(get_user_model().objects.get(username=f"rest-{group}"))
    return client


@pytest.mark.parametrize(
    ("group", "scope"), [("viewer", "viewer"), ("operator", "operator"), ("admin", "operator")]
)
def test_rest_knows_a_session_by_its_group(pools, group, scope):
    client = session_of(group)

    assert client.get("/api/agent-pool/tokens/whoami").json()["scope"] == scope
    answer = client.post("/api/agent-pool/health/check", content_type="application/json")
    assert answer.status_code == (200 if scope == "operator" else 403)


def test_staff_without_the_permission_only_look(pools):
    user = get_user_model().objects.create_user("staff-only", is_staff=True)
    client = Client()
    client.force_login(user)

    assert client.get("/api/agent-pool/tokens/whoami").json()["scope"] == "viewer"
