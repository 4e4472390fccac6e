"""On which server the relay has seen what it keeps: by a dump that comes to another one."""

from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("registry", "0021_time_ordered_ids")]

    operations = [
        migrations.RunSQL(
            """
            ALTER TABLE relay_state ADD COLUMN server bigint NOT NULL DEFAULT 0;
            UPDATE relay_state SET server = (SELECT system_identifier FROM pg_control_system());
            """,
            "ALTER TABLE relay_state DROP COLUMN server",
        ),
    ]
