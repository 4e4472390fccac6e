"""What Django's models cannot say: the outbox's xid column, and pages that leave room for updates."""

from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("registry", "0001_tables")]

    operations = [
        migrations.RunSQL(
            """
            -- The relay numbers visible rows at or above the oldest transaction it may have missed.
            ALTER TABLE event ADD COLUMN xid xid8 NOT NULL DEFAULT pg_current_xact_id();
            CREATE INDEX event_unnumbered ON event (xid, id) WHERE seq IS NULL;
            -- Updated often, indexed columns untouched: room for heap-only updates.
            ALTER TABLE liveness SET (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05);
            ALTER TABLE agent SET (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05);
            ALTER TABLE lease SET (fillfactor = 80);
            ALTER TABLE request SET (fillfactor = 80);
            """,
            """
            DROP INDEX event_unnumbered;
            ALTER TABLE event DROP COLUMN xid;
            """,
        ),
    ]
