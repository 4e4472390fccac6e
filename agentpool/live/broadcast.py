"""
Hands every event to many sockets at once: written as JSON once, framed once, no task each.

Only readers that keep up are here. One that does not is taken out and told so; it reads the table
from where it stopped, and comes back when it has caught up. So nobody's slowness is kept in memory.
"""

import json
from collections.abc import Sequence
from typing import Any, Protocol

from agentpool.live.listener import Event, listener
from agentpool.live.outgoing import Outlet, Prepared


class Reader(Protocol):
    """One socket that follows the stream. seq: the last event that was written to it."""

    seq: int
    outlet: Outlet

    def fall_behind(self) -> None:
        """Be told that it is not handed events any more."""


class Broadcast:
    """The readers of one process that are up to date."""

    def __init__(self) -> None:
        self._readers: dict[int, Reader] = {}

    def join(self, reader: Reader) -> bool:
        """Hand a reader what comes from now on; False: it has not caught up yet."""
        if not listener.is_following or reader.seq < listener.seq:
            return False
        if not self._readers:
            listener.tap(self._take)
        self._readers[id(reader)] = reader
        return True

    def leave(self, reader: Reader) -> None:
        """This will hand a reader nothing more."""
        if self._readers.pop(id(reader), None) is not None and not self._readers:
            listener.untap(self._take)

    def _take(self, events: Sequence[Event]) -> None:
        for event in events:
            seq, message = event["seq"], Prepared(written(event))
            behind = []
            for reader in self._readers.values():
                if reader.outlet.full:
                    behind.append(reader)
                elif seq > reader.seq:
                    reader.outlet.write_prepared(message)
                    reader.seq = seq
            for reader in behind:
                self.leave(reader)
                reader.fall_behind()


def written(event: dict[str, Any]) -> str:
    """Return an event as the stream carries it."""
    return json.dumps(event, default=str)


broadcast = Broadcast()
