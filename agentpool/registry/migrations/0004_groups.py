"""The permission to operate, the groups viewer, operator and admin, and the history's index."""

from django.contrib.auth.management import create_permissions
from django.db import migrations, models
from django.db.models import Q

LOOK = Q(content_type__app_label__in=["registry", "django_q"], codename__startswith="view_")
ACT = Q(content_type__app_label="registry", codename="operate")
PEOPLE = Q(content_type__app_label="auth", content_type__model__in=["user", "group"])
HELD = {"viewer": LOOK, "operator": LOOK | ACT, "admin": LOOK | ACT | PEOPLE}


def make_groups(apps, schema_editor):
    # On a fresh database permissions come after the last migration; the groups need them now.
    for label in ("registry", "auth", "django_q"):
        config = apps.get_app_config(label)
        before = getattr(config, "models_module", None)
        config.models_module = True
        create_permissions(config, apps=apps, verbosity=0)
        config.models_module = before
    for name, held in HELD.items():
        group, _ = apps.get_model("auth", "Group").objects.get_or_create(name=name)
        group.permissions.add(*apps.get_model("auth", "Permission").objects.filter(held))
    # Until now whoever was staff was an operator; they stay what they were.
    staff = apps.get_model("auth", "User").objects.filter(is_staff=True, is_superuser=False)
    apps.get_model("auth", "Group").objects.get(name="operator").user_set.add(*staff)


class Migration(migrations.Migration):
    dependencies = [
        ("registry", "0003_drain_deadline"),
        ("auth", "0012_alter_user_first_name_max_length"),
        ("contenttypes", "0002_remove_content_type_name"),
        ("django_q", "0019_alter_task_options_alter_ormq_key_alter_ormq_lock_and_more"),
    ]

    operations = [
        migrations.AlterModelOptions(
            name="agent",
            options={
                "ordering": ["-created_at", "id"],
                "permissions": [("operate", "Can act on the fleet and change its configuration")],
            },
        ),
        migrations.AlterModelOptions(
            name="capabilityclass", options={"verbose_name_plural": "capability classes"}
        ),
        migrations.AlterModelOptions(
            name="launch",
            options={"ordering": ["-created_at"], "verbose_name_plural": "launches"},
        ),
        migrations.AlterModelOptions(
            name="liveness", options={"verbose_name_plural": "signs of life"}
        ),
        migrations.AddIndex(
            model_name="event",
            index=models.Index(
                fields=["agent_type", "-id"],
                name="event_of_configuration",
                condition=Q(agent_id="", request_id__isnull=True, lease_id__isnull=True),
            ),
        ),
        migrations.RunPython(make_groups, migrations.RunPython.noop, elidable=False),
    ]
