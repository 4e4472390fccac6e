"""How work is isolated: on profiles, on leases, and an index for the events of security."""

import django.contrib.postgres.fields
import django.db.models.deletion
import django.db.models.functions.datetime
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("registry", "0004_groups"),
    ]

    operations = [
        migrations.CreateModel(
            name="LeaseIsolation",
            fields=[
                (
                    "lease",
                    models.OneToOneField(
                        db_constraint=False,
                        on_delete=django.db.models.deletion.CASCADE,
                        primary_key=True,
                        related_name="isolation",
                        serialize=False,
                        to="registry.lease",
                    ),
                ),
                ("tier", models.TextField()),
                (
                    "enforced",
                    django.contrib.postgres.fields.ArrayField(
                        base_field=models.TextField(), blank=True, default=list, size=None
                    ),
                ),
                (
                    "declared",
                    django.contrib.postgres.fields.ArrayField(
                        base_field=models.TextField(), blank=True, default=list, size=None
                    ),
                ),
                ("policy", models.JSONField(default=dict)),
                ("at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
            ],
            options={
                "verbose_name_plural": "isolation of leases",
                "db_table": "lease_isolation",
            },
        ),
        migrations.AddField(
            model_name="securityprofile",
            name="allowed_hosts",
            field=django.contrib.postgres.fields.ArrayField(
                base_field=models.TextField(), blank=True, default=list, size=None
            ),
        ),
        migrations.AddField(
            model_name="securityprofile",
            name="quarantine_after",
            field=models.PositiveIntegerField(blank=True, null=True),
        ),
        migrations.AddField(
            model_name="securityprofile",
            name="writable",
            field=django.contrib.postgres.fields.ArrayField(
                base_field=models.TextField(), blank=True, default=list, size=None
            ),
        ),
        migrations.AddIndex(
            model_name="event",
            index=models.Index(
                condition=models.Q(("kind__startswith", "security.")),
                fields=["agent_id", "-at"],
                name="event_of_security",
            ),
        ),
    ]
