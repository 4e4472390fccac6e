"""Shows beside the batch how grants follow use: two works hold too much, one needs more."""

import contextlib
import time
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from agentpool.client import Client
from agentpool.client.errors import ApiError

POOL = "steady"
# Quicker than usual, so that it is over when the batch is.
SETTINGS = {"hold_s": 5, "rest_s": 30, "watch_s": 10}
WORKS = {"idle-1": (0.15, 400), "idle-2": (0.2, 300), "pressed": (0.94, 120)}
# Holds a share of its grant until the grant has changed, 75 s at most.
_WORK = """
import json, os, sys, time
def grant():
    with open(os.environ['AGENTPOOL_PAYLOAD']) as file:
        return json.load(file)['lease']['grant']['memory_mb']
first, share = grant(), float(sys.argv[1])
held = bytearray(int((share * first - 10) * 2**20))
until = time.monotonic() + 75
while grant() == first and time.monotonic() < until: time.sleep(0.5)
print(first, '>', grant(), 'MB', flush=True)
time.sleep(2)
"""


def begin() -> list[str]:
    """Start one agent of a pool of its own and three works on it; return their requests."""
    with Client() as client:
        with contextlib.suppress(ApiError):  # it is there since the last demo
            client.create_pool(
                agent_type=POOL, settings={"max_concurrent": len(WORKS), "memory_mb": 2048}
            )
        tools = client.profile(POOL)["allowed_tools"]
        if "python" not in tools:
            client.change_profile(POOL, changes={"allowed_tools": [*tools, "python"]})
        client.set_rebalance_policy(
            policy={"agent_type": POOL, "mode": "auto", "settings": SETTINGS}
        )
        client.scale(agent_type=POOL, action="set", count=1, reason="make demo")
        return [
            client.request(
                agent_type=POOL,
                project="rebalancing",
                cycle_id=name,
                requirements={
                    "memory_mb": memory_mb,
                    "min_memory_mb": 60,
                    "cpu_cores": 0.3,
                    "min_cpu_cores": 0.1,
                    "token_budget": 1000,
                    "disk_space_mb": 50,
                },
                payload={"command": ["python", "-c", _WORK, str(share)]},
                ttl_s=120,
            ).id
            for name, (share, memory_mb) in WORKS.items()
        ]


def end(requests: Sequence[str], *, within_s: float) -> bool:
    """Wait for the works, tell what became of their grants; return whether none was harmed."""
    until = time.monotonic() + within_s
    with Client() as client:
        found = [client.get_request(each) for each in requests]
        while any(each.status in ("waiting", "granted") for each in found):
            if time.monotonic() > until:
                break
            time.sleep(0.5)
            found = [client.get_request(each) for each in requests]
        rows = client.rebalance_history(agent_type=POOL, limit=50)["results"]
    _report(rows)
    return all(each.outcome == "success" for each in found)


def _report(rows: Sequence[dict]) -> None:
    shown = Table("agent", "grant", "is", "why", "then", title="Grants that followed use", box=None)
    for row in rows:
        unit = "MB" if row["resource"] == "memory_mb" else "cores"
        change = f"{row['current_allocation']:g} > {row['suggested_allocation']:g} {unit}"
        shown.add_row(row["agent_id"], change, row["status"], row["reason"], row["verdict"])
    Console(highlight=False).print(shown)
