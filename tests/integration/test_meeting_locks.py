"""Two transactions that meet at the same agent: who locks what first, and who comes second."""

import threading
import time
from datetime import timedelta

import pytest
from django.db import connection, transaction
from django.db.models.functions import Now

from agentpool.registry import queries as registry_queries
from agentpool.registry import services as registry_services
from agentpool.registry.errors import CapacityExhausted, Duplicate, StaleVersion
from agentpool.registry.models import (
    Agent,
    Event,
    Launch,
    Lease,
    Liveness,
    Request,
    ResourceLimit,
    Tick,
)
from agentpool.registry.states import Outcome
from balancing import claim
from balancing.services import agents, heartbeats, leases, requests
from balancing.services.heartbeats import Heartbeat
from scaling import services
from tests.locks import somebody_waits

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("whole")]


@pytest.fixture
def other():
    """A second connection, in a transaction, which never gives way."""
    second = connection.copy()
    with second.cursor() as cursor:
        cursor.execute("SET deadlock_timeout = '60s'")
        cursor.execute("BEGIN")
        yield cursor
    second.close()


class Started:
    """A call in a thread of its own, which has come as far as a lock that somebody else has."""

    def __init__(self, call):
        self.error = None
        self._call = call
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        deadline = time.monotonic() + 10
        while not somebody_waits():
            assert time.monotonic() < deadline, "nobody waits for a lock"
            time.sleep(0.01)

    def _run(self):
        try:
            self._call()
        except Exception as error:
            self.error = error
        finally:
            connection.close()

    def end(self):
        self._thread.join(timeout=20)
        return self.error


def test_who_declares_an_agent_lost_waits_for_whoever_ends_its_lease(make_agent, submit, other):
    agent = make_agent()
    lease = submit().held
    agent.refresh_from_db()
    # As ends_1 does: the lease, then its agent.
    other.execute("SELECT 1 FROM lease WHERE id = %s FOR NO KEY UPDATE", [lease.id])
    losing = Started(lambda: heartbeats.lose(agent, why="its runtime ended", actor="test"))
    other.execute("SELECT 1 FROM agent WHERE id = %s FOR NO KEY UPDATE", [agent.id])
    other.execute("COMMIT")

    assert losing.end() is None
    assert (Agent.objects.get().status, Lease.objects.get().status) == ("lost", "lost")


@pytest.mark.parametrize("how", ["removed", "released"])
def test_who_ends_all_of_an_agent_waits_for_whoever_ends_one_lease(make_agent, submit, other, how):
    agent = make_agent(max_concurrent=2)
    last = max(submit().held.id for _ in range(2))

    def end_all():
        with transaction.atomic():  # as an act of the admin
            if how == "removed":
                agents.unregister(
                    registry_queries.agent_by(id=agent.id),
                    force=True,
                    if_generation=None,
                    actor="test",
                )
            else:
                leases.release_agent(agent, project=None, outcome=Outcome.SUCCESS, actor="test")

    # As ends_1 does: the lease, then its agent.
    other.execute("SELECT 1 FROM lease WHERE id = %s FOR NO KEY UPDATE", [last])
    ending = Started(end_all)
    other.execute("SELECT 1 FROM agent WHERE id = %s FOR NO KEY UPDATE", [agent.id])
    other.execute("COMMIT")

    assert ending.end() is None
    assert not Lease.objects.filter(status="active").exists()


def test_an_agent_that_changes_at_the_last_moment_is_not_removed_as_it_was(make_agent, other):
    agent = registry_queries.agent_by(id=make_agent().id)
    seen = agent.generation
    # Somebody changes what it is, and has not committed yet.
    other.execute("UPDATE agent SET generation = generation + 1")
    removing = Started(
        lambda: agents.unregister(agent, force=False, if_generation=seen, actor="test")
    )
    other.execute("COMMIT")

    assert isinstance(removing.end(), StaleVersion)
    assert Agent.objects.get().status == "idle"


def test_agents_that_retire_together_leave_their_classes_in_one_order(make_agent, submit, other):
    made = [make_agent(memory_mb=1024 + number) for number in range(8)]
    # Their classes are numbered as they came, their ids are drawn: two that are in another order.
    high, low = next((b, a) for n, a in enumerate(made) for b in made[n + 1 :] if b.id < a.id)
    closes = []
    for agent in (high, low):
        lease = submit(preferred_agent=agent.agent_id).held
        agents.drain(registry_queries.agent_by(id=agent.id), retire=True, actor="test")
        closes.append(
            leases.closing(
                lease.id, token=lease.fencing_token, outcome=Outcome.SUCCESS, actor="test"
            )
        )
    lock = "SELECT 1 FROM capability_class WHERE id = %s FOR NO KEY UPDATE"
    # As another one that retires two of these classes: the lower one first.
    other.execute(lock, [low.capability_class_id])
    ending = Started(lambda: claim.close(closes))
    other.execute(lock, [high.capability_class_id])
    other.execute("COMMIT")

    assert ending.end() is None
    assert Agent.objects.filter(status="retired").count() == 2


def test_a_name_that_another_pool_takes_at_the_same_moment_is_a_duplicate(make_agent, other):
    taken = make_agent("qa", agent_id="a1")
    Agent.objects.filter(id=taken.id).update(agent_id="a2")
    # Somebody registers a1 for qa, and has not committed yet.
    other.execute("UPDATE agent SET agent_id = 'a1' WHERE id = %s", [taken.id])
    code = registry_queries.pool("code")
    register = {"agent_id": "a1", "pool": code, "by": None, "actor": "test"}
    coming = Started(lambda: agents.register(**register, fields=code.launch_template))
    other.execute("COMMIT")

    assert isinstance(coming.end(), Duplicate)
    assert Agent.objects.get().incarnation == 1


def test_a_runtime_that_registers_at_the_last_moment_is_left_alone(memory, other):
    services.execute("code", action="set", count=1, reason="", actor="test")
    services.reconcile()
    Launch.objects.update(started_at=Now() - timedelta(seconds=61))
    # It registers, and has not committed yet.
    other.execute("UPDATE agent SET status = 'idle', incarnation = incarnation + 1")
    judging = Started(services.reconcile)
    other.execute("COMMIT")

    assert judging.end() is None
    assert (Agent.objects.get().status, Launch.objects.get().status) == ("idle", "started")
    assert len(memory.running) == 1
    assert not Event.objects.filter(kind="agent.retired").exists()


def test_who_asks_under_a_key_waits_for_the_limits_with_nothing_locked(
    make_agent, submit, api, other
):
    make_agent(max_concurrent=4)
    for level, name in (("installation", ""), ("project", "p")):
        claim.set_limit({"level": level, "name": name, "memory_mb": 4000})
    first, second = ResourceLimit.objects.order_by("id")
    claim.set_limit({"level": second.level, "name": second.name, "memory_mb": 2000})
    submit(memory_mb=1500)
    # As limits_lock_1 does: the limit, then its shards, of which the first look has taken one.
    other.execute(
        "SELECT pg_advisory_xact_lock(hashtextextended('limit:' || %s, 0))", [str(first.id)]
    )
    answers = []
    body = {"agent_type": "code", "project": "p"}
    asking = Started(
        lambda: answers.append(api.post("/requests", body, idempotency_key="once").status_code)
    )
    other.execute("SELECT limits_lock_1(array_agg(x ORDER BY x.id)) FROM resource_limit x")
    other.execute("COMMIT")

    assert (asking.end(), answers) == (None, [202])
    assert Request.objects.filter(status="waiting").count() == 1


def test_who_speaks_before_its_turn_to_be_lost_keeps_its_leases(make_agent, submit, other):
    registry_services.tick_web()
    Tick.objects.update(grace_until=None)
    first, second = sorted((make_agent(), make_agent()), key=lambda agent: agent.id)
    held = {lease.agent_id: lease for lease in (submit().held, submit().held)}
    Liveness.objects.update(last_heartbeat_at=Now() - timedelta(seconds=91))
    heartbeats.suspect_and_lose()
    # Somebody who ends the first one's lease holds the judge up; meanwhile the second one speaks.
    other.execute("SELECT 1 FROM lease WHERE id = %s FOR NO KEY UPDATE", [held[first.id].id])
    judging = Started(heartbeats.suspect_and_lose)
    heartbeats.heartbeat(registry_queries.agent_by(id=second.id), beat=Heartbeat(incarnation=1))
    other.execute("COMMIT")

    assert judging.end() is None
    assert Lease.objects.get(agent=first).status == "lost"
    assert Lease.objects.get(agent=second).status == "active"


def test_who_will_not_wait_is_not_refused_beside_an_agent_that_is_only_locked(
    make_agent, make_request, other
):
    make_agent(max_concurrent=2)
    # Somebody else is just being given the one slot, and commits a moment later.
    other.execute("SELECT 1 FROM agent FOR NO KEY UPDATE")
    soon = threading.Timer(0.01, other.execute, ["COMMIT"])
    soon.start()

    lease = requests.submit(make_request(), queue=False)
    soon.join()

    assert lease is not None


def test_who_will_not_wait_is_refused_beside_an_agent_that_stays_locked(
    make_agent, make_request, other
):
    make_agent()
    other.execute("SELECT 1 FROM agent FOR NO KEY UPDATE")

    with pytest.raises(CapacityExhausted):
        requests.submit(make_request(), queue=False)

    other.execute("COMMIT")


def test_a_judgement_made_anew_at_the_last_moment_is_not_lifted(make_agent, other):
    make_agent()
    Agent.objects.update(health="maintenance", health_until=Now() - timedelta(seconds=1))
    # An operator gives it another hour, and has not committed yet.
    other.execute(
        "UPDATE agent SET health_until = now() + interval '1 hour', generation = generation + 1"
    )
    lifting = Started(heartbeats.lift_expired_health)
    other.execute("COMMIT")

    assert lifting.end() is None
    assert Agent.objects.get().health == "maintenance"
