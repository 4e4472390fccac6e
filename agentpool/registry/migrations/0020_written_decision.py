"""The decision as it was written."""

from django.db import migrations

import agentpool.registry.models._columns


class Migration(migrations.Migration):
    dependencies = [("registry", "0019_event_number")]

    operations = [
        migrations.AlterField(
            "lease",
            "decision",
            agentpool.registry.models._columns.WrittenJSON(blank=True, default=dict),
        ),
    ]
