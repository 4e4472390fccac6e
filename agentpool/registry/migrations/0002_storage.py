"""
What Django's models cannot say: the outbox's xid column, pages that leave room for updates, domains.

The columns of the tables that each claim writes are held to their enums by domains, not by CHECK
constraints of the table: Postgres parses those anew for every statement, which was 38 % of the cost
of a claim (docs/decisions/0013). Tests hold the domains against the enums.
"""

from django.db import migrations

_AGENT_STATUS = "starting standby idle busy draining unreachable lost retired"
_OUTCOMES = "success failure timeout cancelled lost"
# Name of domain and constraint: legal values, and the columns that are held to them.
WORDS = {
    "agent_status": (_AGENT_STATUS, [("agent", "status")]),
    "agent_health": ("good unknown probation quarantined maintenance", [("agent", "health")]),
    "agent_wish": ("work drain standby", [("agent", "wish")]),
    "request_status": (
        "waiting granted finished failed timed_out cancelled refused",
        [("request", "status")],
    ),
    "request_affinity": ("none soft hard", [("request", "affinity")]),
    "lease_status": (
        "offered active parked released expired lost cancelled",
        [("lease", "status")],
    ),
    "outcome_outcome": (_OUTCOMES, [("outcome", "outcome")]),
}
RANGES = {
    "security_level": (1, 4, [("agent", "security_level"), ("request", "security_level")]),
    "isolation_level": (1, 3, [("request", "isolation_level")]),
    "network_access": (0, 3, [("lease", "network")]),
}


def _domains() -> str:
    """Return the statements that make the domains and give them to their columns."""
    parts = []
    for name, (words, columns) in WORDS.items():
        legal = ", ".join(f"'{word}'" for word in words.split())
        parts.append(
            f"CREATE DOMAIN {name} AS text CONSTRAINT {name}_legal CHECK (VALUE IN ({legal}))"
        )
        parts += [f"ALTER TABLE {t} ALTER COLUMN {c} TYPE {name}" for t, c in columns]
    for name, (low, high, columns) in RANGES.items():
        parts.append(
            f"CREATE DOMAIN {name} AS smallint CONSTRAINT {name}_legal"
            f" CHECK (VALUE BETWEEN {low} AND {high})"
        )
        parts += [f"ALTER TABLE {t} ALTER COLUMN {c} TYPE {name}" for t, c in columns]
    return ";\n".join(parts)


class Migration(migrations.Migration):
    dependencies = [("registry", "0001_tables")]

    operations = [
        migrations.RunSQL(_domains(), migrations.RunSQL.noop),
        migrations.RunSQL(
            """
            -- An open request or lease has no end, an ended one has.
            ALTER TABLE request ADD CONSTRAINT request_ended_has_time
              CHECK ((finished_at IS NULL) = (status = 'waiting' OR status = 'granted'));
            ALTER TABLE lease ADD CONSTRAINT lease_ended_has_time CHECK (
              (released_at IS NULL) = (status = 'active' OR status = 'offered' OR status = 'parked'));
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
