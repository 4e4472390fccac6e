"""The numbers of events in a table of their own; the relay remembers what it has seen."""

import django.db.models.deletion
from django.db import migrations, models

# Where the relay has never been: all that ever was is after it.
_SEEN = "coalesce((SELECT seen FROM relay_state), '1:1:')"
_VIEW = f"""
    -- What the relay has not numbered: of transactions that were not over when it looked last. Those
    -- that had not begun have ids from xmax on; those that ran are listed. Numbered all the same are
    -- only events that came by a dump from a server whose transactions had higher ids.
    CREATE VIEW event_unnumbered AS
      SELECT x.id, x.xid FROM (
        SELECT e.id, e.xid FROM event e WHERE e.xid >= pg_snapshot_xmax({_SEEN})
        UNION ALL
        SELECT e.id, e.xid FROM pg_snapshot_xip({_SEEN}) ran JOIN event e ON e.xid = ran) x
      WHERE NOT EXISTS (SELECT FROM event_number n WHERE n.event_id = x.id);
"""  # noqa: S608 - our own words


class Migration(migrations.Migration):
    dependencies = [("registry", "0018_parked")]

    operations = [
        migrations.CreateModel(
            "EventNumber",
            [
                ("seq", models.BigIntegerField(primary_key=True, serialize=False)),
                (
                    "event",
                    models.OneToOneField(
                        "registry.event",
                        on_delete=django.db.models.deletion.DO_NOTHING,
                        db_constraint=False,
                        related_name="number",
                    ),
                ),
            ],
            options={"db_table": "event_number"},
        ),
        migrations.RunSQL(
            """
            -- No writer is in between: whoever writes an event afterwards is after `seen`, or among
            -- those that it lists.
            LOCK TABLE event IN ACCESS EXCLUSIVE MODE;
            INSERT INTO relay_state (id, last_seq) VALUES (1, 0) ON CONFLICT (id) DO NOTHING;
            UPDATE event e SET seq = s.last_seq + x.n FROM relay_state s, (
                SELECT id, row_number() OVER (ORDER BY xid, id) AS n FROM event WHERE seq IS NULL) x
              WHERE e.id = x.id;
            UPDATE relay_state SET
              last_seq = greatest(last_seq, (SELECT coalesce(max(seq), 0) FROM event));
            INSERT INTO event_number (seq, event_id) SELECT seq, id FROM event;
            ALTER TABLE relay_state ADD COLUMN seen pg_snapshot NOT NULL DEFAULT '1:1:';
            UPDATE relay_state SET seen = pg_current_snapshot();
            DROP INDEX event_unnumbered;
            CREATE INDEX event_by_transaction ON event (xid);
            """,
            """
            DROP INDEX event_by_transaction;
            ALTER TABLE relay_state DROP COLUMN seen;
            UPDATE event e SET seq = n.seq FROM event_number n WHERE n.event_id = e.id;
            CREATE INDEX event_unnumbered ON event (xid, id) WHERE seq IS NULL;
            """,
        ),
        migrations.RemoveConstraint("event", "event_seq_unique"),
        migrations.RemoveField("event", "seq"),
        migrations.RunSQL(_VIEW, "DROP VIEW event_unnumbered"),
        migrations.RemoveIndex("agent", "agent_newest"),
        migrations.AddIndex("agent", models.Index(fields=["-created_at"], name="agent_newest")),
    ]
