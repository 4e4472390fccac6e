"""Two connections at once: whoever changes the row first has done it, the other nothing."""

import threading
from datetime import timedelta

import pytest
from django.db import connection, transaction
from django.db.models.functions import Now

from agentpool.live.connect import connect
from agentpool.live.relay import Relay
from agentpool.registry import events
from agentpool.registry import queries as registry_queries
from agentpool.registry.errors import LeaseLost, Refusal
from agentpool.registry.models import Agent, Event, Lease, LeaseOutcome, LockKey, Request
from agentpool.registry.states import Outcome
from balancing.services import agents, heartbeats, leases, requests
from balancing.services.heartbeats import Heartbeat

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("whole")]
ROUNDS = 6


def at_once(*calls):
    """Run calls in threads with connections of their own, started together; return what came."""
    barrier, results = threading.Barrier(len(calls)), [None] * len(calls)

    def run(index, call):
        barrier.wait()
        try:
            results[index] = call()
        except Refusal as refusal:
            results[index] = refusal
        finally:
            connection.close()

    threads = [threading.Thread(target=run, args=pair) for pair in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)
    return results


def release(lease):
    return leases.release(
        lease.id, token=lease.fencing_token, outcome=Outcome.SUCCESS, actor="test"
    )


@pytest.mark.parametrize("round_", range(ROUNDS))
def test_release_and_reap_at_once_end_a_lease_once(make_agent, submit, round_):
    make_agent()
    lease = submit().held
    Lease.objects.update(expires_at=Now() - timedelta(seconds=60))

    released, reaped = at_once(lambda: release(lease), leases.expire_leases)

    assert isinstance(released, LeaseLost) == (reaped == 1)
    assert LeaseOutcome.objects.count() == 1


@pytest.mark.parametrize("round_", range(ROUNDS))
def test_release_and_cancel_at_once_end_a_lease_once(make_agent, submit, round_):
    make_agent()
    request = submit()

    at_once(
        lambda: release(request.held),
        lambda: requests.cancel_request(request.id, actor="test"),
    )

    assert LeaseOutcome.objects.count() == 1
    assert Agent.objects.get().load == 0


@pytest.mark.parametrize("round_", range(ROUNDS))
def test_one_slot_is_given_once(make_agent, make_request, round_):
    make_agent()

    at_once(*(lambda: requests.submit(make_request()) for _ in range(4)))

    assert Lease.objects.filter(status="active").count() == 1
    assert Request.objects.filter(status="waiting").count() == 3


@pytest.mark.parametrize("round_", range(ROUNDS))
def test_a_release_while_somebody_queues_leaves_nobody_beside_a_free_slot(
    make_agent, make_request, submit, round_
):
    make_agent()
    lease = submit().held

    at_once(lambda: release(lease), lambda: requests.submit(make_request()))

    assert not Request.objects.filter(status="waiting").exists()


@pytest.mark.parametrize("round_", range(ROUNDS))
def test_one_lock_key_is_given_once(make_agent, make_request, round_):
    for _ in range(3):
        make_agent()

    at_once(
        *(lambda: requests.submit(make_request(lock_keys=["repo:main"])) for _ in range(3)),
    )

    assert LockKey.objects.count() == 1
    assert Lease.objects.filter(status="active").count() == 1


@pytest.mark.parametrize("round_", range(ROUNDS))
def test_a_freed_key_is_never_left_beside_a_waiter(make_agent, make_request, submit, round_):
    make_agent("code"), make_agent("data")
    lease = submit("code", lock_keys=["k"]).held

    at_once(
        lambda: release(lease),
        lambda: requests.submit(make_request("data", lock_keys=["k"])),
    )

    assert not Request.objects.filter(status="waiting").exists()


@pytest.mark.parametrize("round_", range(ROUNDS))
def test_registering_again_while_work_is_given_out_keeps_the_tables_whole(
    make_agent, make_request, pools, round_
):
    agent = make_agent(agent_id="it")

    at_once(
        lambda: make_agent(agent_id="it"),
        lambda: requests.submit(make_request(payload={"command": ["x"]})),
        lambda: heartbeats.heartbeat(
            registry_queries.agent_by(id=agent.id), beat=Heartbeat(incarnation=1)
        ),
    )

    stale = Lease.objects.filter(status__in=["offered", "active"]).exclude(
        incarnation=Agent.objects.get().incarnation
    )
    assert not stale.exists()


@pytest.mark.parametrize("round_", range(ROUNDS))
def test_draining_while_work_ends_retires_the_agent(make_agent, submit, round_):
    agent = make_agent()
    lease = submit().held

    at_once(
        lambda: release(lease),
        lambda: agents.drain(
            registry_queries.agent_by(id=agent.id), retire=True, actor="test", reason=""
        ),
    )

    assert Agent.objects.get().status == "retired"


# -- the outbox -----


def test_the_relay_numbers_every_event_once_and_in_order(pools):
    with connect() as own:
        relay = Relay(own)
        for _ in range(5):
            events.append("test", actor="a")
        assert relay.step() == 5

    numbers = list(Event.objects.order_by("number").values_list("number", flat=True))
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))


def _number(kind):
    return Event.objects.get(kind=kind).number.seq


def test_a_writer_held_open_delays_only_its_own_events(pools):
    written, commit = threading.Event(), threading.Event()

    def slow():
        with transaction.atomic():
            events.append("slow")
            written.set()
            assert commit.wait(10)
        connection.close()

    with connect() as own:
        relay = Relay(own)
        relay.step()
        writer = threading.Thread(target=slow)
        writer.start()
        assert written.wait(10)
        events.append("quick")
        assert relay.step() == 1
        commit.set()
        writer.join(10)
        relay.step()

    assert _number("slow") == _number("quick") + 1


@pytest.mark.parametrize("ahead", [1_000_000_000, 6])
def test_events_of_a_dump_and_those_written_before_the_relay_are_numbered(pools, ahead):
    with connect() as own:
        relay = Relay(own)
        events.append("numbered")
        relay.step()
        events.append("not numbered")
        # As a dump from another server has it, whose transactions had come further than these here:
        # far, or so little that a few transactions overtake them.
        own.execute(f"UPDATE event SET xid = (xid::text::bigint + {ahead})::text::xid8")
        own.execute(
            "UPDATE relay_state SET server = 1, seen = format('%s:%s:', x, x)::pg_snapshot"
            " FROM (SELECT min(xid) AS x FROM event_unnumbered) u"
        )
    for _ in range(5):
        events.append("in between")

    with connect() as own:
        relay = Relay(own)
        assert own.execute("SELECT FROM event WHERE xid >= pg_current_xact_id()").fetchone() is None
        events.append("later")
        assert relay.step() == 1
        assert relay.step() == 0

    assert not Event.objects.filter(number=None).exists()
    assert _number("later") == _number("numbered") + 7 == Event.objects.count()


def test_two_relays_number_each_event_once(pools):
    for _ in range(50):
        events.append("test")

    def relay():
        with connect() as own:
            return Relay(own).step()

    at_once(relay, relay, relay)

    numbers = list(Event.objects.values_list("number", flat=True))
    assert len(set(numbers)) == len(numbers)
    assert None not in numbers
