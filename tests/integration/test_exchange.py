"""What arrives together is served in one transaction, and fails one by one."""

import json

import pytest
from django.db import DatabaseError

from agentpool.registry.models import Lease
from balancing import claim
from balancing.claim import Wish
from balancing.services import exchange
from balancing.services.exchange import Call

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("whole")]


@pytest.fixture
def wish(make_request):
    def make(**changed):
        row = make_request()
        columns = claim.columns_of(row) | changed
        return Call(Wish(row.id, "code", json.dumps(columns)), None)

    return make


def test_a_call_that_the_database_refuses_fails_alone(make_agent, wish):
    make_agent(max_concurrent=2)
    # No door lets it in; of another kind, the next fault that one does will be like it.
    bad = wish(project="a\x00b")

    first, refused, last = exchange.answers([wish(), bad, wish()])

    assert isinstance(refused, DatabaseError)
    assert {json.loads(first)["id"], json.loads(last)["id"]} == {
        str(id) for id in Lease.objects.values_list("id", flat=True)
    }
