"""
The pulse: one process of an installation relays the outbox and enqueues jobs that are due soon.

Elected by a session lock in the database: others stand by and take over when its connection ends,
however it died.
"""

import logging
import time
from collections.abc import Callable
from typing import Any

import psycopg

from agentpool.live import due
from agentpool.live.connect import connect
from agentpool.live.relay import Relay
from agentpool.registry.events import NUDGE_CHANNEL

log = logging.getLogger("agentpool.pulse")

_LOCK = "SELECT pg_try_advisory_lock(hashtextextended('agentpool pulse', 0))"
STAND_BY_S = 0.5
# After a nudge the relay polls quickly for a moment: further writers need not nudge again.
BUSY_POLL_S, BUSY_FOR_S, IDLE_POLL_S = 0.005, 0.05, 0.25
# Numbering takes at most an eighth of the relay's time: when much happens, more at once.
REST_PER_STEP = 7.0
LOOK_EVERY_S = 0.5
TICK_EVERY_S = 2.0


def run(*, enqueue: due.Enqueue, stopping: Callable[[], bool]) -> None:
    """This will be the pulse, or stand by for it, until `stopping` says so."""
    while not stopping():
        try:
            with connect() as connection:
                if not _elected(connection):
                    time.sleep(STAND_BY_S)
                    continue
                log.info("elected")
                with connect() as numbering:
                    relay = Relay(numbering)
                    _lead(connection, relay, enqueue=enqueue, stopping=stopping)
        except psycopg.OperationalError as error:
            log.warning("database away error=%s", str(error).strip().splitlines()[:1])
            time.sleep(STAND_BY_S)


def _elected(connection: psycopg.Connection[Any]) -> bool:
    row = connection.execute(_LOCK).fetchone()
    return bool(row and row[0])


def _lead(
    connection: psycopg.Connection[Any],
    relay: Relay,
    *,
    enqueue: due.Enqueue,
    stopping: Callable[[], bool],
) -> None:
    connection.execute(f"LISTEN {NUDGE_CHANNEL}")
    table = due.jobs()
    busy_until = look_at = tick_at = 0.0
    while not stopping():
        began = time.monotonic()
        count = relay.step()
        if count:
            busy_until = time.monotonic() + BUSY_FOR_S
        now = time.monotonic()
        took = now - began
        if now >= look_at:
            look_at = now + LOOK_EVERY_S
            for name in due.enqueue_due(table, connection, now=now, enqueue=enqueue):
                log.debug("enqueued job=%s", name)
        if now >= tick_at:
            tick_at = now + TICK_EVERY_S
            _tick(connection)
        if now < busy_until:
            time.sleep(min(IDLE_POLL_S, max(BUSY_POLL_S, REST_PER_STEP * took)))
            continue
        for _ in connection.notifies(timeout=IDLE_POLL_S, stop_after=1):
            busy_until = time.monotonic() + BUSY_FOR_S


def _tick(connection: psycopg.Connection[Any]) -> None:
    connection.execute(
        "INSERT INTO tick (name, at) VALUES ('relay', now())"
        " ON CONFLICT (name) DO UPDATE SET at = now()"
    )
