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
# The ids as one list: planned when the table was empty, a join would read all of it from then on.
_NUMBER = """
WITH batch AS (
    SELECT array_agg(x.id ORDER BY x.xid, x.id) AS ids FROM (
      SELECT id, xid FROM event
      WHERE seq IS NULL AND xid >= %(bound)s::xid8 ORDER BY xid, id LIMIT %(batch)s) x),
  numbered AS (
    UPDATE event e SET seq = s.last_seq + array_position(b.ids, e.id) FROM batch b, relay_state s
    WHERE e.id = ANY (b.ids) RETURNING e.seq),
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
        # Its statements are planned once, perhaps when there are few events.
        connection.execute("SET enable_seqscan = off")

    def step(self) -> int:
        """
        Number up to BATCH events and NOTIFY the last number; return how many.

        Locks relay_state to the end of its transaction: a second relay waits, and both count right.
        """
        told = {"bound": self.bound, "batch": BATCH, "channel": EVENTS_CHANNEL}
        with self.connection.pipeline(), self.connection.transaction():
            self.connection.execute(_LOCK, prepare=True)
            numbered = self.connection.execute(_NUMBER, told, prepare=True)
        count, xmin, _ = numbered.fetchone() or (0, self.bound, None)
        if count < BATCH:
            self.bound = xmin
        return int(count)
