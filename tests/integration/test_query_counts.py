"""
How many queries each list makes: the same however many rows there are, and what was reviewed.

`query_counts.json` holds the reviewed numbers. AGENTPOOL_WRITE_QUERY_COUNTS=1 writes them anew; the
diff is then read by a person.
"""

import json
import os
from pathlib import Path

import pytest
from django.contrib import admin
from django.contrib.auth import get_user_model
from django.db import connection
from django.test.client import Client, ClientHandler
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from agentpool.console.pages import PAGES as CONSOLE
from agentpool.registry import queries as registry_queries
from agentpool.registry import roles
from agentpool.registry import services as registry_services
from agentpool.registry.models import Event, EventNumber
from agentpool.registry.states import Outcome
from balancing.services import leases, limits
from scaling import evaluation, governance
from scaling import services as scaling

# A snapshot of its own (`resources`) cannot be taken inside of a transaction.
pytestmark = [pytest.mark.slow, pytest.mark.django_db(transaction=True)]
BASELINE = Path(__file__).with_name("query_counts.json")
SMALL, LARGE = 5, 60
WHOLE = dict.fromkeys(("memory_mb", "cpu_cores", "token_budget", "disk_space_mb"))

API = (
    "",
    "?search=a&ordering=load",
    "/requests",
    "/leases",
    "/pools",
    "/tokens",
    "/security/profiles",
    "/events?after=0",
    "/metrics/health",
    "/metrics/summary",
    "/scaling/history",
    "/scaling/decisions",
    "/scaling/policy",
    "/resources",
    "/resources/limits",
)
# Pages of other apps are added here: an address each, opened by an operator.
PAGES = (
    "/admin/",
    *(f"/{page.path}" for page in CONSOLE.values() if "<" not in page.path),
)


def addresses():
    for path in API:
        yield f"/api/agent-pool{path}"
    yield from PAGES
    for model in admin.site._registry:
        yield reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist")


class PlainHandler(ClientHandler):
    """Django with the plain view of each door that can wait, as the WSGI listener has it."""

    def resolve_request(self, request):
        match = super().resolve_request(request)
        match.func = getattr(match.func, "plain", match.func)
        return match


@pytest.fixture
def operator(pools):
    roles.settle()
    roles.make_user("olga", group="admin")
    client = Client()
    client.handler = PlainHandler(enforce_csrf_checks=False)
    client.force_login(get_user_model().objects.get(username="olga"))
    return client


@pytest.fixture
def grow(make_agent, submit):
    """Add agents, each with a live lease, an ended one, and a request that waits."""

    def add(count):
        first = make_agent("code").agent_id
        for _ in range(count - 1):
            make_agent("code")
        for number in range(2 * count):
            wish = submit("code", project=f"p{number % 7}", cycle_id=f"c{number}")
            if wish.held is None:
                continue
            registry_services.append_log(wish.held, chunks=[("stdout", "hello\n")])
            if number % 2:
                token = wish.held.fencing_token
                leases.release(wish.held.id, token=token, outcome=Outcome.SUCCESS, actor="test")
        limits.set_limit(
            {"level": "project", "name": first, "weight": 1, **WHOLE, "memory_mb": 10**6},
            actor="test",
        )
        for _ in range(count // 5):
            evaluation.evaluate()
            soon = registry_queries.now()
            governance.announce("qa", at=soon, count=1, spread_s=1, name="n", actor="test")
            scaling.execute("qa", action="scale_up", count=1, reason="a test", actor="test")
            registry_services.token(scope="viewer", name="a token", expires_in_s=None, actor="test")
        # What the relay would do: number the events, so that the streams are full, too.
        last = EventNumber.objects.count()
        new = Event.objects.filter(number=None).order_by("id")
        EventNumber.objects.bulk_create(
            EventNumber(seq=seq, event=event) for seq, event in enumerate(new, last + 1)
        )

    return add


def counted(client):
    """Return the number of queries of each address."""
    found = {}
    for address in addresses():
        client.get(address)  # what is read once and kept, such as content types, is not counted
        with CaptureQueriesContext(
            connection,
        ) as queries:
            answer = client.get(address)
        assert answer.status_code == 200, address
        found[address] = len(queries)
    return found


def test_every_list_makes_the_same_queries_at_any_size(operator, grow):
    grow(SMALL)
    few = counted(operator)
    grow(LARGE - SMALL)
    many = counted(operator)

    grown = {a: (few[a], many[a]) for a in few if few[a] != many[a]}
    assert grown == {}, "these grow with the number of rows (few, many)"
    if os.environ.get("AGENTPOOL_WRITE_QUERY_COUNTS") == "1":
        BASELINE.write_text(json.dumps(many, indent=2) + "\n")
    assert many == json.loads(BASELINE.read_text())
