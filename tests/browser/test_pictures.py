"""Pictures for the documents, made of a pool at work: AGENTPOOL_PICTURES=1 makes them anew."""

import os
from datetime import timedelta

import pytest
from django.conf import settings
from django.db.models.functions import Now

from agentpool.registry import queries as registry_queries
from agentpool.registry.models import Agent, Lease, Liveness, Request
from agentpool.registry.states import AgentHealth
from balancing.services import agents, leases

pytest_plugins = ["tests.browser.serving"]
pytestmark = [
    pytest.mark.browser,
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(
        os.environ.get("AGENTPOOL_PICTURES") != "1",
        reason="pictures are made on demand: AGENTPOOL_PICTURES=1",
    ),
]

FOLDER = settings.BASE_DIR / "docs" / "images"
DESKTOP = {"width": 1440, "height": 960}
LARGEST_BYTES = 200_000

FLEET = {"design": 2, "qa": 3, "code": 5, "data": 2}
# cycle, project, type, seconds at work
AT_WORK = [
    ("cart-totals", "webshop", "code", 64),
    ("refund-flow", "webshop", "code", 212),
    ("invoice-pdf", "billing", "code", 37),
    ("vat-rates", "billing", "qa", 18),
    ("login-throttle", "webshop", "code", 141),
    ("search-facets", "webshop", "design", 95),
    ("export-csv", "billing", "qa", 51),
]
WAITING = [
    ("gift-cards", "webshop", "code", 80, 41),
    ("dunning-mails", "billing", "code", 50, 26),
    ("price-rounding", "billing", "code", 50, 9),
]
PHASES = {"design": "design", "qa": "red", "code": "green", "data": "report"}


@pytest.fixture
def pool_at_work(make_agent, submit):
    """Twelve agents, seven of them busy, and three requests that wait for a coder."""
    for agent_type, count in FLEET.items():
        for n in range(1, count + 1):
            make_agent(agent_type, agent_id=f"{agent_type}-{n}", host=f"build-{n % 3 + 1}")
    Agent.objects.update(health=AgentHealth.GOOD)
    _judge_one()
    for cycle, project, agent_type, age_s in AT_WORK:
        wish = submit(
            agent_type, project=project, cycle_id=cycle, phase=PHASES[agent_type], payload={}
        )
        leases.acknowledge(wish.held.id, token=wish.held.fencing_token)
        since = Now() - timedelta(seconds=age_s)
        Lease.objects.filter(id=wish.held.id).update(acquired_at=since)
    for cycle, project, agent_type, priority, age_s in WAITING:
        wish = submit(
            agent_type,
            project=project,
            cycle_id=cycle,
            phase=PHASES[agent_type],
            priority=priority,
        )
        Request.objects.filter(id=wish.id).update(queued_at=Now() - timedelta(seconds=age_s))
    for n, liveness in enumerate(Liveness.objects.order_by("agent__agent_id")):
        liveness.last_heartbeat_at -= timedelta(seconds=n % 5)
        liveness.save(update_fields=["last_heartbeat_at"])


def _judge_one():
    """One coder rests, so that a status beside busy and idle is seen."""
    resting = registry_queries.agent_by(agent_id="code-5")
    agents.set_health(
        resting, health=AgentHealth.MAINTENANCE, note="new disk", until=None, actor="ada"
    )


def test_the_picture_of_the_pool(pool_at_work, live_page):
    page = live_page("/", viewport=DESKTOP, color_scheme="light")
    assert "7 busy" in page.locator("#summary").inner_text()
    assert page.locator("#queue tbody tr").count() == 3
    FOLDER.mkdir(parents=True, exist_ok=True)

    page.screenshot(path=FOLDER / "pool.png")

    assert (FOLDER / "pool.png").stat().st_size < LARGEST_BYTES
