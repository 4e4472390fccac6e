"""Ids of new requests and leases grow with time."""

from django.db import migrations, models

import agentpool.registry.identity


class Migration(migrations.Migration):
    dependencies = [("registry", "0020_written_decision")]

    operations = [
        migrations.AlterField(
            name,
            "id",
            models.UUIDField(
                default=agentpool.registry.identity.time_ordered,
                editable=False,
                primary_key=True,
                serialize=False,
            ),
        )
        for name in ("request", "lease")
    ]
