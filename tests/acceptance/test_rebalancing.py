"""Grants of real work follow what it uses: cut, undone when that presses it, raised; none dies."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.running import Running, launch_agents, running, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

# What each work does: hold a share of its first grant; when the grant has changed, fill it to 94 %
# if that was a cut; end when the grant is what it was, or larger.
WORK = """
import json, os, sys, time
def grant():
    with open(os.environ['AGENTPOOL_PAYLOAD']) as file:
        return json.load(file)['lease']['grant']['memory_mb']
first, share = grant(), float(sys.argv[1])
held = [bytearray(int((share * first - 10) * 2**20))]
print('holds', share, 'of', first, flush=True)
while (now := grant()) == first: time.sleep(0.2)
print('is now', now, flush=True)
if now < first:
    held.append(bytearray(int((0.94 * now - share * first) * 2**20)))
    while grant() < first: time.sleep(0.2)
    print('is again', grant(), flush=True)
"""
QUICK = {"hold_s": 2, "rest_s": 3, "watch_s": 30, "ack_s": 15, "low_cpu_share": 0}


@pytest.fixture
def site(root: Path) -> Iterator[Running]:
    with running(root, migrated=True) as one:
        launch_agents(one, per_pool=2)
        yield one


def submit(client: Any, share: float, memory_mb: int) -> Any:
    needs = {"memory_mb": memory_mb, "min_memory_mb": 60, "disk_space_mb": 50}
    return client.request(
        agent_type="design",
        project="p",
        requirements=needs,
        payload={"command": ["python", "-c", WORK, str(share)]},
        ttl_s=120,
    )


def test_grants_follow_use_and_a_harmful_cut_is_undone(site: Running) -> None:
    with site.client() as client:
        tools = client.profile("design")["allowed_tools"]
        client.change_profile("design", changes={"allowed_tools": [*tools, "python"]})
        client.set_rebalance_policy(
            policy={"agent_type": "design", "mode": "auto", "settings": QUICK}
        )
        asked = [submit(client, 0.2, 500), submit(client, 0.94, 200)]

        ended = "SELECT count(*) FROM request WHERE status = 'finished'"
        wait_until(
            lambda: site.rows(ended)[0][0] == 2,
            within_s=150,
            what="both works have ended",
            said=lambda: f"{changes(site)}\n{site.said()}",
        )

    rows = "SELECT outcome, error FROM lease ORDER BY fencing_token"
    assert site.rows(rows) == [("success", "")] * 2, changes(site)
    found = changes(site)
    assert ("shrink", "undone") in found
    assert any(kind == "grow" and status in ("applied", "kept", "ended") for kind, status in found)
    killed = "SELECT count(*) FROM event WHERE kind LIKE 'security.killed%'"
    assert site.rows(killed) == [(0,)]
    assert len(asked) == 2


def changes(site: Running) -> list[tuple[Any, ...]]:
    return site.rows("SELECT kind, status FROM rebalancing ORDER BY at")
