"""Plans are kept for a connection's life: one made on empty tables must serve full ones."""

import json
from collections import Counter

import pytest
from django.db import connection, transaction

from agentpool.registry.models import Lease
from agentpool.registry.states import LeaseStatus, Outcome, Strategy
from balancing import claim, terms
from balancing.services import leases

pytestmark = [pytest.mark.django_db(transaction=True)]

# Ended leases of other cycles, as many as a busy hour leaves.
_HISTORY = """
WITH made AS (
  INSERT INTO request SELECT n.* FROM request r, generate_series(1, 3000) i,
    LATERAL jsonb_populate_record(r, jsonb_build_object('id', gen_random_uuid(), 'number',
      nextval('request_number_seq'), 'cycle_id', 'other-' || i, 'project', 'other')) n
    WHERE r.id = (SELECT min(id::text)::uuid FROM request)
    RETURNING id)
INSERT INTO lease SELECT n.* FROM lease l, made m,
  LATERAL jsonb_populate_record(l, jsonb_build_object('id', gen_random_uuid(), 'request_id', m.id,
    'fencing_token', nextval('lease_fencing_token_seq'), 'project', 'other')) n
  WHERE l.id = (SELECT min(id::text)::uuid FROM lease)
"""


@pytest.fixture(params=["empty", "small"])
def plan(pools, request):
    """
    Make the plans of a connection by some work: plan(work).

    The planner knows that the tables are empty, or that they have as few rows as the work makes.
    """

    def know():
        with connection.cursor() as cursor:
            cursor.execute("VACUUM ANALYZE request, lease, outcome, agent, capability_class, pool")
        connection.close()

    def do(work):
        work()
        if request.param == "small":
            know()
            work()

    with connection.cursor() as cursor:
        cursor.execute("TRUNCATE request, lease, outcome CASCADE")
    know()
    yield do
    connection.close()


def test_a_claim_of_a_new_cycle_does_not_read_all_leases(plan, make_agent, make_request):
    make_agent(max_concurrent=2)

    def ask(project, cycle_id):
        of = {"affinity": "soft", "project": project, "cycle_id": cycle_id}
        return claim.acquire([make_request(**of), make_request(**of)], queue=True)

    @plan
    def _():
        for got in ask("p", "a"):
            release(got.lease)

    with connection.cursor() as cursor:
        cursor.execute(_HISTORY)

    with transaction.atomic(), connection.cursor() as cursor:
        before = _read(cursor)
        ask("new", "b")
        read = _read(cursor) - before

    assert max(read.values()) < 100, read


def release(lease):
    leases.release(lease.id, token=lease.fencing_token, outcome=Outcome.SUCCESS, actor="test")


# As many agents as the one there is, with another class for each ten.
_FLEET = """
INSERT INTO agent SELECT n.* FROM agent a, generate_series(1, 400) i,
  LATERAL jsonb_populate_record(a, jsonb_build_object('id', gen_random_uuid(),
    'agent_id', 'of-many-' || i, 'memory_mb', 2048 + i / 10)) n
"""


def test_who_waits_for_what_nobody_has_costs_no_look_at_all_agents(plan, make_agent, make_request):
    make_agent(max_concurrent=4)

    @plan
    def _():
        for _ in range(3):
            release(claim.acquire([make_request()], queue=True)[0].lease)

    with connection.cursor() as cursor:
        cursor.execute(_HISTORY)
        cursor.execute(_FLEET)
    wish = make_request(special_tools=["what-nobody-has"], allow_future=True)
    assert claim.acquire([wish], queue=True)[0].code == "waiting"

    # As an exchange does: a lease ends, and it is looked who may be served.
    lease = claim.acquire([make_request()], queue=True)[0].lease
    with transaction.atomic(), connection.cursor() as cursor:
        before = _read(cursor)
        release(lease)
        cursor.execute("SELECT serveable_pools_1()")
        assert cursor.fetchall() == []
        read = _read(cursor) - before

    assert read["agent"] < 20, read
    assert read["request"] < 100, read
    assert read["lease"] < 20, read


@pytest.mark.parametrize(
    ("strategy", "affinity"),
    [*((one, "none") for one in Strategy), (Strategy.LEARNT, "soft"), (Strategy.LEARNT, "hard")],
)
def test_what_nobody_has_is_refused_without_a_look_at_agents(
    plan, make_agent, make_request, strategy, affinity
):
    make_agent(max_concurrent=4)
    of = {"strategy": strategy, "affinity": affinity, "cycle_id": "c"}

    @plan
    def _():
        release(claim.acquire([make_request(**of)], queue=True)[0].lease)

    with connection.cursor() as cursor:
        cursor.execute(_FLEET)
    vain = make_request(special_tools=["what-nobody-has"], **of)

    with transaction.atomic(), connection.cursor() as cursor:
        before = _read(cursor)
        got = claim.acquire([vain], queue=True)[0]
        read = _read(cursor) - before

    assert got.code == "unsatisfiable"
    assert read["agent"] == 0, read


def test_a_claim_asks_the_classes_only_up_to_the_first_that_is_able(plan, make_agent, make_request):
    make_agent(max_concurrent=4)

    @plan
    def _():
        release(claim.acquire([make_request()], queue=True)[0].lease)

    with connection.cursor() as cursor:
        cursor.execute(_FLEET)
        cursor.execute("ANALYZE capability_class")
    connection.close()
    release(claim.acquire([make_request()], queue=True)[0].lease)
    with transaction.atomic(), connection.cursor() as cursor:
        before = _read(cursor)
        got = claim.acquire([make_request()], queue=True)[0]
        read = _read(cursor) - before

    assert got.code == "granted"
    assert read["capability_class"] < 5, read


def test_whoever_is_served_from_the_queue_costs_no_look_at_all_rows(plan, make_agent, make_request):
    only = make_agent(max_concurrent=1)

    def ask():
        return claim.acquire([make_request()], queue=True)[0].lease

    def end(lease):
        ending = terms.Ending(to=LeaseStatus.RELEASED, outcome=Outcome.SUCCESS)
        close = terms.Close(lease_id=lease.id, token=lease.fencing_token, ending=ending, actor="t")
        return claim.close([close])[0].handed_over

    @plan
    def _():
        held = ask()
        assert ask() is None
        end(Lease.objects.get(id=end(held)))

    with connection.cursor() as cursor:
        cursor.execute(_HISTORY)
        cursor.execute(_FLEET)
        cursor.execute("UPDATE agent SET health = 'maintenance' WHERE id <> %s", [only.id])
    held = ask()
    assert ask() is None

    with transaction.atomic(), connection.cursor() as cursor:
        before = _read(cursor)
        handed_over = end(held)
        read = _read(cursor) - before
    assert handed_over is not None
    assert max(read.values()) < 100, read

    # And by a look at the queue.
    assert ask() is None
    with connection.cursor() as cursor:
        cursor.execute("UPDATE agent SET health = 'good' WHERE agent_id = 'of-many-1'")
    with transaction.atomic(), connection.cursor() as cursor:
        before = _read(cursor)
        assert claim.serve("code").granted == 1
        read = _read(cursor) - before
    assert max(read.values()) < 100, read


# 250 kinds of request that nobody fits, before all others in the order of their shapes.
_KINDS = """
INSERT INTO request SELECT n.* FROM request q, generate_series(1, 250) i,
  LATERAL jsonb_populate_record(q, jsonb_build_object('id', gen_random_uuid(), 'number',
    nextval('request_number_seq'), 'shape', -9223372036854775807 + i)) n
  WHERE q.status = 'waiting'
"""


def test_many_kinds_that_wait_in_vain_hide_nobody_who_can_be_served(plan, make_agent, make_request):
    make_agent(max_concurrent=1)
    plan(lambda: release(claim.acquire([make_request()], queue=True)[0].lease))
    vain = make_request(special_tools=["what-nobody-has"], allow_future=True)
    claim.acquire([vain], queue=True)
    with connection.cursor() as cursor:
        cursor.execute(_KINDS)
    lease = claim.acquire([make_request()], queue=True)[0].lease
    assert claim.acquire([make_request()], queue=True)[0].code == "waiting"

    ending = terms.Ending(to=LeaseStatus.RELEASED, outcome=Outcome.SUCCESS)
    close = terms.Close(lease_id=lease.id, token=lease.fencing_token, ending=ending, actor="test")
    done = claim.exchange([close], [], credentials=[])

    assert done.ended[0].code == "ok"
    assert done.serveable == {"code"}


def _read(cursor):
    """Return how many rows of each table were read lately: a transaction tells them all at once."""
    cursor.execute(
        "SELECT relname, seq_tup_read + idx_tup_fetch FROM pg_stat_xact_user_tables"
        " WHERE relname IN ('agent', 'request', 'lease', 'capability_class')"
    )
    return Counter(dict(cursor.fetchall()))


def test_the_calls_of_the_claim_are_planned_once(pools, make_agent, make_request):
    make_agent(max_concurrent=1)
    for _ in range(3):  # one is granted, two wait: who waits is looked for
        request = make_request()
        wish = terms.Wish(request.id, "code", json.dumps(terms.columns_of(request)))
        claim.exchange([], [wish], credentials=[])

    with connection.cursor() as cursor:
        cursor.execute("SELECT statement FROM pg_prepared_statements")
        prepared = [row[0] for row in cursor.fetchall()]

    assert any("exchange_1" in text for text in prepared)
    assert any("serveable_after_1" in text for text in prepared)
