"""What arrives together is served in one transaction, and fails one by one."""

import json
import random
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.db import DatabaseError, connection, transaction
from django.db.models import F

from agentpool.registry import queries
from agentpool.registry.errors import LeaseLost
from agentpool.registry.models import Agent, Event, Lease, Request
from agentpool.registry.states import Outcome
from balancing import claim, prepared, terms
from balancing.services import agents, exchange, leases
from balancing.services.exchange import Call
from balancing.terms import Wish

BROKEN = prepared.Statement("broken", "SELECT 1 / 0 WHERE $1 || $2 <> ''")
ENDING = prepared.Statement(
    "ending", "SELECT pg_terminate_backend(pg_backend_pid())::text WHERE $1 || $2 <> ''"
)

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("whole")]


@pytest.fixture
def wish(make_request):
    def make(**changed):
        row = make_request()
        columns = terms.columns_of(row) | changed
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


def close_of(lease, *, token=None, actor="the holder"):
    return Call(
        leases.closing(
            lease.id, token=token or lease.fencing_token, outcome=Outcome.SUCCESS, actor=actor
        ),
        None,
    )


def test_who_may_not_end_a_lease_does_not_hinder_its_holder(make_agent, submit):
    make_agent()
    lease = submit().held

    refused, ended, late = exchange.answers(
        [close_of(lease, token=lease.fencing_token + 7), close_of(lease), close_of(lease)]
    )

    assert isinstance(refused, LeaseLost)
    assert json.loads(ended)["status"] == "released"
    assert isinstance(late, LeaseLost)


def test_an_agent_that_retires_does_so_by_whoever_ended_its_last_lease(make_agent, submit):
    other, drained = (make_agent(), submit().held), (make_agent(), submit().held)
    agents.drain(drained[0], retire=True, actor="ada")

    exchange.answers([close_of(other[1], actor="first"), close_of(drained[1], actor="second")])

    assert Event.objects.get(kind="agent.retired").actor == "second"


def test_nobody_that_asks_is_answered_nothing(pools):
    assert exchange.answers([]) == []


def test_a_look_that_fails_takes_nothing_back(make_agent, submit, wish, monkeypatch):
    make_agent(max_concurrent=2)
    lease = submit().held
    monkeypatch.setattr(claim, "_SERVEABLE", BROKEN)

    ended, granted = exchange.answers([close_of(lease), wish()])

    assert json.loads(ended)["status"] == "released"
    assert json.loads(granted)["id"] == str(Lease.objects.get(status="active").id)


def test_the_look_is_on_its_way_before_the_answer_is(make_agent, submit, monkeypatch):
    make_agent()
    lease = submit().held
    slow = claim._EXCHANGE.sql + ", LATERAL (SELECT pg_sleep(0.5) OFFSET 0) s"
    monkeypatch.setattr(claim, "_EXCHANGE", prepared.Statement("slow", slow))
    sent = []

    def noted(pg, known, asked):
        send(pg, known, asked)
        sent.extend((statement, time.monotonic()) for statement, _ in asked)

    send = prepared._send
    monkeypatch.setattr(prepared, "_send", noted)
    began = time.monotonic()

    (ended,) = exchange.answers([close_of(lease)])

    assert json.loads(ended)["status"] == "released"
    assert time.monotonic() - began >= 0.5
    (looked_at,) = [at for statement, at in sent if statement == claim._SERVEABLE]
    assert looked_at - began < 0.4


def test_what_was_done_stands_when_the_look_loses_the_connection(
    make_agent, submit, wish, monkeypatch
):
    make_agent(max_concurrent=2)
    lease = submit().held
    with monkeypatch.context() as during:
        during.setattr(claim, "_SERVEABLE", ENDING)
        ended, granted = exchange.answers([close_of(lease), wish()])

    assert json.loads(ended)["status"] == "released"
    assert json.loads(granted)["id"] == str(Lease.objects.get(status="active").id)
    assert json.loads(exchange.answers([wish()])[0])["status"] == "active"


def test_a_look_that_lost_the_connection_costs_the_next_call_nothing(
    make_agent, submit, wish, monkeypatch
):
    make_agent()
    lease = submit().held
    with monkeypatch.context() as during:
        during.setattr(claim, "_SERVEABLE", ENDING)
        # Nothing ends, so that no queue is looked at, either.
        (refused,) = exchange.answers([close_of(lease, token=lease.fencing_token + 7)])

    assert isinstance(refused, LeaseLost)
    assert claim.exchange([close_of(lease).wish], [], credentials=[]).ended[0].code == "ok"


def test_who_asks_and_must_wait_is_looked_for_once_that_is_to_be_seen(make_agent, wish):
    agent = make_agent()
    with ThreadPoolExecutor(1) as other, transaction.atomic():
        Agent.objects.select_for_update().get(id=agent.id)  # passed over as long as that holds
        done = other.submit(_exchanged, wish().wish).result()

    assert done.granted[0].code == "waiting"
    assert done.serveable == {"code"}


def test_who_asks_and_is_granted_something_pays_no_look(make_agent, wish, monkeypatch):
    make_agent()
    monkeypatch.setattr(claim, "_SERVEABLE", BROKEN)

    done = claim.exchange([], [wish().wish], credentials=[])

    assert (done.granted[0].code, done.serveable) == ("granted", frozenset())


def _exchanged(wish):
    try:
        return claim.exchange([], [wish], credentials=[])
    finally:
        connection.close()


def test_after_a_look_that_failed_everybody_concerned_is_looked_at(make_agent, submit, monkeypatch):
    held_on, free = make_agent(), make_agent()
    lease = submit(preferred_agent=held_on.agent_id, lock_keys=["main"]).held
    waiting = submit(avoid_agents=[held_on.agent_id], lock_keys=["main"])
    monkeypatch.setattr(claim, "_SERVEABLE", BROKEN)

    exchange.answers([close_of(lease)])

    granted = Lease.objects.get(status="active")
    assert (granted.request_id, granted.agent_id) == (waiting.id, free.id)


def test_what_fails_with_its_look_is_done_for_nobody(make_agent, submit, wish, monkeypatch):
    make_agent()
    lease = submit().held
    monkeypatch.setattr(claim, "_SERVEABLE", BROKEN)

    ended, refused = exchange.answers([close_of(lease), wish(project="a\x00b")])

    assert json.loads(ended)["status"] == "released"
    assert isinstance(refused, DatabaseError)


def test_an_agent_that_one_lease_leaves_is_there_for_the_next_of_the_same_list(
    make_agent, submit, wish
):
    agent = make_agent()
    lease = submit().held

    _, granted, waits = exchange.answers([close_of(lease), wish(), wish()])

    token = json.loads(granted)["fencing_token"]
    agent.refresh_from_db()
    assert (agent.load, agent.status, agent.last_token) == (1, "busy", token)
    assert waits is None
    assert not queries.broken_invariants()


def test_those_of_a_list_are_spread_over_the_least_loaded(make_agent, submit, wish):
    for _ in range(3):
        make_agent(max_concurrent=4)
    lease = submit().held

    exchange.answers([close_of(lease), *(wish(strategy="least_loaded") for _ in range(8))])

    assert sorted(Agent.objects.values_list("load", flat=True)) == [2, 3, 3]
    assert not queries.broken_invariants()


def test_a_list_finds_the_agent_that_its_own_end_left_warm(make_agent, submit, wish):
    for _ in range(3):
        make_agent(max_concurrent=2)
    lease = submit(project="warm", cycle_id="c").held

    _, granted = exchange.answers(
        [close_of(lease), wish(project="warm", cycle_id="c", affinity="soft")]
    )

    assert json.loads(granted)["agent"]["agent_id"] == lease.agent.agent_id
    assert json.loads(granted)["decision"]["tier"] == "affinity"


def test_an_empty_list_is_granted_nothing(pools):
    assert claim.acquire([], queue=True) == []


def test_of_equal_agents_one_is_taken_by_chance(make_agent, make_request):
    for _ in range(5):
        make_agent()
    taken = set()

    for _ in range(20):
        with transaction.atomic():
            got = claim.acquire([make_request(strategy="least_loaded")], queue=True)[0]
            taken.add(got.lease.agent.agent_id)
            transaction.set_rollback(True)

    assert len(taken) > 1


@pytest.mark.parametrize("strategy", ["least_loaded", "workload_aware"])
def test_what_can_never_be_is_refused_beside_what_is_granted_and_what_waits(
    make_agent, make_request, strategy
):
    make_agent(tools=["git"])
    make_agent(tools=["git", "docker"])
    of = {"strategy": strategy}
    wishes = [
        make_request(special_tools=["what-nobody-has"], **of),
        make_request(special_tools=["docker"], **of),
        make_request(special_tools=["docker"], **of),
        make_request(special_tools=["what-nobody-has"], allow_future=True, **of),
        make_request(special_tools=["git"], **of),
    ]

    got = claim.acquire(wishes, queue=True)

    assert [one.code for one in got] == [
        "unsatisfiable",
        "granted",
        "waiting",
        "waiting",
        "granted",
    ]
    assert set(Request.objects.values_list("status", "unsatisfiable")) == {
        ("granted", False),
        ("waiting", False),
        ("waiting", True),
    }
    assert not queries.broken_invariants()


@pytest.mark.parametrize("seed", range(3))
def test_whatever_is_asked_for_together_the_books_are_right(make_agent, wish, seed):
    chance = random.Random(seed)
    names = [make_agent(max_concurrent=slots).agent_id for slots in (1, 2, 2, 3)]
    strategies = ["", "least_loaded", "round_robin", "best_of_k", "bin_pack", "predictive"]

    def any_wish():
        return wish(
            project=chance.choice("pqr"),
            cycle_id=chance.choice(["", "c", "d"]),
            strategy=chance.choice(strategies),
            affinity=chance.choice(["none", "none", "soft", "hard"]),
            preferred_agent=chance.choice(["", "", "", *names]),
            lock_keys=chance.choice([[], [], [], ["main"]]),
        )

    for _ in range(12):
        live = list(Lease.objects.filter(status="active"))
        ends = [close_of(one) for one in chance.sample(live, chance.randint(0, len(live)))]
        answers = exchange.answers([*ends, *(any_wish() for _ in range(chance.randint(0, 6)))])

        assert not [answer for answer in answers if isinstance(answer, Exception)]
        assert not queries.broken_invariants()
        free = Agent.objects.filter(load__lt=F("max_concurrent")).exists()
        freely = Request.objects.filter(status="waiting", lock_keys=[]).exclude(affinity="hard")
        assert not (free and freely.exists())
