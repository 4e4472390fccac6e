"""Looks at who waits for whom in the database of the test; the other test processes have theirs."""

from django.db import connection


def somebody_waits():
    """Return whether anybody waits for a lock; to be asked outside of a transaction."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT 1 FROM pg_stat_activity"
            " WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        return cursor.fetchone() is not None
