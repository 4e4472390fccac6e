"""
Numbers the outbox: gives each visible event the next `seq` and tells every listener at once.

One statement snapshot numbers the rows and yields the next bound, so no row is ever passed over:
a transaction that was open then has an xid at or above the snapshot's xmin (docs/decisions/0004).
"""

from typing import Any

import psycopg

EVENTS_CHANNEL = "agentpool_events"
BATCH = 1000

_LOCK = """
INSERT INTO relay_state (id, last_seq) VALUES (1, 0) ON CONFLICT (id) DO UPDATE SET id = 1
"""
# A statement after the lock's, so that its snapshot is newer than what the relay before committed.
_NUMBER = """
WITH batch AS (
    SELECT id, row_number() OVER (ORDER BY xid, id) AS n FROM event
    WHERE seq IS NULL AND xid >= %(bound)s::xid8 ORDER BY xid, id LIMIT %(batch)s),
  numbered AS (
    UPDATE event e SET seq = s.last_seq + b.n FROM batch b, relay_state s
    WHERE e.id = b.id RETURNING e.seq),
  found AS (SELECT count(*) AS n, max(seq) AS newest FROM numbered),
  moved AS (UPDATE relay_state SET last_seq = f.newest FROM found f WHERE f.n > 0)
SELECT f.n, pg_snapshot_xmin(pg_current_snapshot())::text,
  CASE WHEN f.n > 0 THEN pg_notify(%(channel)s, f.newest::text) END FROM found f
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
        told = {"bound": self.bound, "batch": BATCH, "channel": EVENTS_CHANNEL}
        with self.connection.pipeline(), self.connection.transaction():
            self.connection.execute(_LOCK)
            numbered = self.connection.execute(_NUMBER, told)
        count, xmin, _ = numbered.fetchone() or (0, self.bound, None)
        if count < BATCH:
            self.bound = xmin
        return int(count)
