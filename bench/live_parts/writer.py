"""
Commits events at a rate, as the product does or as the yardstick does, in a process of its own.

Reads orders (a line of JSON each) on stdin. Each event carries its number and the moment just
before its commit, by the machine's monotonic clock.
"""

import json
import sys
import time
from typing import Any

import django

django.setup()

from django.db import connection, transaction  # noqa: E402

from agentpool.registry import events  # noqa: E402
from live_parts.bare import CHANNEL  # noqa: E402

_PAD = "x" * 60
_TABLE = "CREATE TABLE IF NOT EXISTS bare_event (id bigserial PRIMARY KEY, detail jsonb NOT NULL)"


def ours(number: int) -> None:
    """Do as every service does: the event in the transaction of what it tells."""
    with transaction.atomic():
        detail = {"n": number, "pad": _PAD, "sent": time.monotonic()}
        events.append("bench.push", agent_type="code", actor="bench", **detail)


def bare(number: int) -> None:
    """Insert the same, and notify in the same transaction."""
    with transaction.atomic(), connection.cursor() as cursor:
        detail = {"n": number, "pad": _PAD, "sent": time.monotonic()}
        event = {"kind": "bench.push", "agent_type": "code", "actor": "bench", "detail": detail}
        cursor.execute("INSERT INTO bare_event (detail) VALUES (%s)", [json.dumps(detail)])
        cursor.execute("SELECT pg_notify(%s, %s)", [CHANNEL, json.dumps(event)])


def run(order: dict[str, Any]) -> int:
    """Commit events at the rate for the time; return how many."""
    write = {"ours": ours, "bare": bare}[order["way"]]
    began = time.monotonic()
    count = round(order["seconds"] * order["events_per_s"])
    for number in range(count):
        pause = began + number / order["events_per_s"] - time.monotonic()
        if pause > 0:
            time.sleep(pause)
        write(order["first"] + number)
    return count


def main() -> None:
    """Serve orders until stdin ends."""
    with connection.cursor() as cursor:
        cursor.execute(_TABLE)
    print(json.dumps({"ready": True}), flush=True)
    for line in iter(sys.stdin.readline, ""):
        print(json.dumps({"count": run(json.loads(line))}), flush=True)


if __name__ == "__main__":
    main()
