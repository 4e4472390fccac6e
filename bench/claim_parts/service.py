"""
Calls the services in this process, from threads with a connection each: no door, no network.

Speaks the same protocol as load.py; the bench starts two of these, for Python's lock lets one
use one core.
"""

import json
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import django

django.setup()

from agentpool.registry.models import Request  # noqa: E402
from agentpool.registry.states import Outcome  # noqa: E402
from balancing.services import leases, requests  # noqa: E402
from claim_parts.load import Run, wish  # noqa: E402

MOST_CLIENTS = 256


def row_of(body: dict[str, Any]) -> Request:
    """Return the row that REST would make of such a body."""
    fields = dict(body)
    needs = fields.pop("requirements")
    needs["min_memory_mb"] = needs["memory_mb"]
    return Request(pool_id=fields.pop("agent_type"), requested_by="bench", **needs, **fields)


def cycle(run: Run, body: dict[str, Any]) -> bool:
    """Acquire and release; return whether to go on."""
    began = time.perf_counter()
    lease = requests.submit(row_of(body))
    if lease is None:
        run.errors["it waits"] += 1
        return False
    leases.release(lease.id, token=lease.fencing_token, outcome=Outcome.SUCCESS, actor="bench")
    return run.note_cycle(began)


def client(run: Run, start: threading.Barrier) -> None:
    """Be one client: connect, wait for the start, go round until the end."""
    bodies = [wish(run.order["strategy"]) for _ in range(1000)]
    django.db.connection.ensure_connection()
    start.wait()
    try:
        number = 0
        while cycle(run, bodies[number % len(bodies)]):
            number += 1
    except Exception as error:
        run.errors[f"{type(error).__name__}: {error}"[:300]] += 1


def measure(order: dict[str, Any], threads: ThreadPoolExecutor) -> dict[str, Any]:
    """Run one stretch."""
    run = Run(order)
    start = threading.Barrier(order["clients"] + 1)
    running = [threads.submit(client, run, start) for _ in range(order["clients"])]
    while start.n_waiting < order["clients"]:
        time.sleep(0.01)
    print(json.dumps({"ready": True}), flush=True)
    sys.stdin.readline()
    run.until = time.perf_counter() + order["seconds"]
    start.wait()
    wait(running)
    return run.report() | {"cpu_s": 0}  # what it uses is the product's own, and counted as such


def main() -> None:
    """Serve orders until stdin ends."""
    # The threads stay, with their connections: a server's do, too.
    with ThreadPoolExecutor(MOST_CLIENTS) as threads:
        for line in iter(sys.stdin.readline, ""):
            print(json.dumps(measure(json.loads(line), threads)), flush=True)


if __name__ == "__main__":
    main()
