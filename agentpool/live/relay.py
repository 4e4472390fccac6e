"""
Numbers the outbox: gives each visible event the next `seq` and tells every listener at once.

One statement snapshot numbers the rows and yields the next bound, so no row is ever passed over:
a transaction that was open then has an xid at or above the snapshot's xmin (docs/decisions/0004).
"""

from typing import Any

import psycopg

EVENTS_CHANNEL = "agentpool_events"
BATCH = 1000

_NUMBER = """
WITH batch AS (
    SELECT id, row_number() OVER (ORDER BY xid, id) AS n FROM event
    WHERE seq IS NULL AND xid >= %(bound)s::xid8 ORDER BY xid, id LIMIT %(batch)s),
  numbered AS (
    UPDATE event e SET seq = %(last)s + b.n FROM batch b WHERE e.id = b.id RETURNING e.seq)
SELECT count(*), max(seq), pg_snapshot_xmin(pg_current_snapshot())::text FROM numbered
"""


class Relay:
    """Numbers events over one autocommit connection; keeps the bound between its steps."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self.connection = connection
        self.bound = "0"

    def step(self) -> int:
        """
        Number up to BATCH events and NOTIFY the last number; return how many.

        Locks relay_state to the end of its transaction: a second relay waits, and both count right.
        """
        with self.connection.transaction():
            last = self._lock_state()
            row = self.connection.execute(
                _NUMBER, {"bound": self.bound, "batch": BATCH, "last": last}
            ).fetchone()
            count, newest, xmin = row or (0, None, self.bound)
            if count:
                self.connection.execute("UPDATE relay_state SET last_seq = %s", [newest])
                self.connection.execute("SELECT pg_notify(%s, %s)", [EVENTS_CHANNEL, str(newest)])
        if count < BATCH:
            self.bound = xmin
        return int(count)

    def _lock_state(self) -> int:
        row = self.connection.execute(
            "INSERT INTO relay_state (id, last_seq) VALUES (1, 0)"
            " ON CONFLICT (id) DO UPDATE SET id = 1 RETURNING last_seq"
        ).fetchone()
        return int(row[0]) if row else 0
