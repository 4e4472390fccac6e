"""
Numbers the outbox: gives each visible event the next `seq` and tells every listener at once.

One statement numbers what its snapshot shows and the one before did not, and keeps its snapshot for
the next: so no event is passed over or numbered twice, however long its transaction took
(docs/decisions/0004).
"""

from typing import Any

import psycopg

EVENTS_CHANNEL = "agentpool_events"

_LOCK = """
INSERT INTO relay_state (id, last_seq) VALUES (1, 0) ON CONFLICT (id) DO UPDATE SET id = 1
"""
# A statement after the lock's, so that its snapshot is newer than what the relay before committed.
# Where nothing is new nothing is written: what was seen before is as good, once anything was.
_NUMBER = """
WITH numbered AS (
    INSERT INTO event_number (seq, event_id)
      SELECT s.last_seq + row_number() OVER (ORDER BY u.xid, u.id), u.id
        FROM relay_state s, event_unnumbered u RETURNING seq),
  found AS (SELECT count(*) AS n, max(seq) AS newest FROM numbered),
  moved AS (
    UPDATE relay_state s SET last_seq = coalesce(f.newest, s.last_seq), seen = pg_current_snapshot()
      FROM found f
      WHERE f.n > 0 OR pg_snapshot_xmax(s.seen) = '1')
SELECT f.n, CASE WHEN f.n > 0 THEN pg_notify(%(channel)s, f.newest::text) END FROM found f
"""
# What was seen on another server, from which a dump came, says nothing here: then nothing was seen.
_FORGET = """
UPDATE relay_state SET seen = '1:1:', server = c.system_identifier
  FROM pg_control_system() c WHERE server <> c.system_identifier
"""
# Events of that dump whose transactions have ids that are still to come here: long past, all the
# same. Numbered they are by now; the relay would only look at them again each time.
_SETTLE = "UPDATE event SET xid = '1' WHERE xid >= pg_snapshot_xmax(pg_current_snapshot())"


class Relay:
    """Numbers events over an autocommit connection of its own: nobody else may plan as it does."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self.connection = connection
        # Its statements are planned once, perhaps when there are few events.
        for way in ("seqscan", "hashjoin", "mergejoin"):
            connection.execute(f"SET enable_{way} = off")
        self._number(_LOCK, _FORGET)
        connection.execute(_SETTLE)

    def step(self) -> int:
        """
        Number all events that are new, and NOTIFY the last number; return how many.

        Locks relay_state to the end of its transaction: a second relay waits, and both count right.
        """
        return self._number(_LOCK)

    def _number(self, *before: str) -> int:
        with self.connection.pipeline(), self.connection.transaction():
            for statement in before:
                self.connection.execute(statement, prepare=True)
            found = self.connection.execute(_NUMBER, {"channel": EVENTS_CHANNEL}, prepare=True)
        row = found.fetchone()
        return int(row[0]) if row else 0
