"""Agents on standby: woken before anybody is launched, set aside before anybody goes."""

import os
import subprocess
import sys
import threading
import time
from datetime import timedelta

import pytest
from django.contrib.auth import get_user_model
from django.db import connection, connections
from django.db.models import F, Sum
from django.db.models.functions import Now

from agentpool.live.connect import connect
from agentpool.registry import collecting, roles
from agentpool.registry import queries as registry_queries
from agentpool.registry.errors import AgentBusy
from agentpool.registry.models import (
    Agent,
    Announcement,
    Event,
    Launch,
    Liveness,
    MetricTotal,
    Request,
    ScalingDecision,
    ScalingEvent,
    ScalingState,
)
from agentpool.registry.states import AgentHealth, AgentStatus
from balancing.services import agents, heartbeats, leases
from balancing.services.heartbeats import Heartbeat
from scaling import evaluation, governance, queries, services
from tests.locks import somebody_waits

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("whole")]


def auto(rule="warm", **said):
    governance.set_policy("code", rule=rule, mode="auto", actor="test", settings={"k": 0, **said})


def by_hand(agent):
    return agents.set_status(agent, to=AgentStatus.STANDBY, reason="", actor="test")


def come_up():
    """What runtimes do when the driver has started them."""
    services.reconcile()
    for agent in Agent.objects.filter(status="starting"):
        agents.register(
            agent_id=agent.agent_id,
            pool=agent.pool,
            fields=agent.pool.launch_template,
            by=None,
            actor=agent.agent_id,
        )


def statuses():
    return sorted(Agent.objects.exclude(status="retired").values_list("status", flat=True))


def newest():
    return ScalingDecision.objects.filter(pool="code").first()


def test_a_pool_keeps_its_standby_wakes_it_and_fills_it_again(memory, submit):
    auto(standby=2)
    evaluation.evaluate()
    assert newest().inputs["standby_wanted"] == 2
    come_up()
    # What was launched comes up idle; nobody waits, so that the next look sets it aside.
    evaluation.evaluate()
    assert statuses() == ["standby", "standby"]
    assert newest().event.set_aside == 2

    asked_at = time.monotonic()
    wishes = [submit() for _ in range(3)]
    assert {wish.status for wish in wishes} == {"waiting"}
    evaluation.evaluate()

    # Two were woken and have the work in the same look, one is launched for the third, two to
    # stand by.
    assert time.monotonic() - asked_at < 2
    assert statuses() == ["busy", "busy", "starting", "starting", "starting"]
    assert Request.objects.filter(status="granted").count() == 2
    event = newest().event
    assert (event.current_size, event.target_size) == (2, 5)
    assert (event.woken, event.cold, event.launches.count()) == (2, 1, 3)
    assert newest().inputs["wake"] == 2
    assert queries.growth() == {"code": (2, 1)}

    come_up()
    evaluation.evaluate()
    assert statuses() == ["busy", "busy", "busy", "standby", "standby"]


def test_standby_is_paid_and_surplus_goes_when_it_is_no_longer_wanted(memory, make_agent):
    auto(standby=3)
    for _ in range(4):
        make_agent()
    evaluation.evaluate()
    assert statuses() == ["standby"] * 3
    evaluation.evaluate()
    assert ScalingState.objects.get(pool="code").history["paid"][2] == 3

    auto(standby=1)
    evaluation.evaluate()

    assert statuses() == ["standby"]
    assert newest().event.target_size == 1


def test_an_agent_with_parked_work_is_not_set_aside(memory, make_agent, submit):
    auto(standby=1)
    make_agent()
    lease = submit().held
    leases.park(lease.id, token=lease.fencing_token, reason="", actor="test")

    evaluation.evaluate()

    assert "idle" in statuses()
    with pytest.raises(AgentBusy):
        agents.set_status(
            Agent.objects.get(id=lease.agent_id), to=AgentStatus.STANDBY, reason="", actor="ada"
        )
    leases.resume(lease.id, token=lease.fencing_token, actor="test")


def test_whom_an_operator_put_on_standby_is_woken_by_need_and_not_sent_away(
    memory, make_agent, submit
):
    auto()
    agent = by_hand(make_agent())
    evaluation.evaluate()
    assert (statuses(), ScalingEvent.objects.count()) == (["standby"], 0)

    wish = submit()
    evaluation.evaluate()

    assert Request.objects.get(id=wish.id).status == "granted"
    assert (statuses(), Launch.objects.count()) == (["busy"], 0)
    assert Agent.objects.get(id=agent.id).wish == "work"
    assert (newest().current, newest().target, newest().action) == (1, 1, "scale_up")


def test_a_pool_that_only_recommends_wakes_nobody_and_says_whom_it_would(
    memory, make_agent, submit, api
):
    by_hand(make_agent())
    submit()

    evaluation.evaluate()
    (said,) = api.get("/scaling/recommendation?agent_type=code").json()["results"]

    assert statuses() == ["standby"]
    assert (said["action"], said["current_size"]) == ("scale_up", 1)
    assert said["standby"] == {
        "now": 1,
        "wanted": 0,
        "wake": 1,
        "set_aside": 0,
        "hits": 0,
        "misses": 0,
        "hit_share": None,
        "over_s": 86_400.0,
    }


def silent(agent):
    Liveness.objects.filter(agent=agent).update(last_heartbeat_at=Now() - timedelta(seconds=31))


def ended(agent):
    event = ScalingEvent.objects.create(
        pool=agent.pool, action="set", current_size=0, target_size=1
    )
    Launch.objects.create(event=event, agent=agent, driver="memory", status="stopped")


def paused(agent):
    agents.set_health(agent, health=AgentHealth.MAINTENANCE, note="", until=None, actor="test")


def smaller(agent):
    agents.update_agent(agent.id, fields={"memory_mb": 512}, if_generation=None, actor="test")


@pytest.mark.parametrize("spoil", [silent, ended, paused, smaller])
def test_whom_a_wake_would_not_bring_is_neither_counted_nor_woken(
    memory, make_agent, submit, spoil
):
    auto(standby=1)
    spoil(by_hand(make_agent()))
    submit()

    evaluation.evaluate()

    assert statuses() == ["standby", "starting", "starting"]
    assert (newest().event.woken, newest().event.cold) == (0, 1)


def test_who_was_set_aside_and_fell_silent_comes_back_to_work(memory, make_agent):
    auto(standby=1)
    make_agent()
    evaluation.evaluate()
    silent(Agent.objects.get())
    heartbeats.suspect_and_lose()
    assert statuses() == ["unreachable"]

    heartbeats.heartbeat(
        registry_queries.agent_by(agent_id=Agent.objects.get().agent_id), beat=Heartbeat(None)
    )

    assert statuses() == ["idle"]


def test_a_wake_goes_on_while_launches_fail(memory, make_agent, submit):
    memory.failing = "no room"
    auto()
    submit()
    evaluation.evaluate()
    services.reconcile()
    make_agent()
    by_hand(make_agent())
    for _ in range(2):
        submit()
    assert Request.objects.filter(status="granted").count() == 1

    evaluation.evaluate()

    assert Request.objects.filter(status="granted").count() == 2
    assert "launching failed" in newest().error
    assert (newest().event.woken, newest().event.launches.count()) == (1, 0)


def test_who_is_launched_is_as_large_as_the_request_that_nobody_woken_can_serve(
    memory, make_agent, submit
):
    auto()
    by_hand(make_agent())
    submit(memory_mb=4000)
    small = submit()

    evaluation.evaluate()

    assert Request.objects.get(id=small.id).status == "granted"
    assert [each.agent.memory_mb for each in newest().event.launches.all()] == [4000]


def test_by_hand_a_pool_grows_by_whoever_is_on_standby_first(memory, make_agent):
    for _ in range(2):
        by_hand(make_agent())

    up = services.execute("code", action="scale_up", count=3, reason="", actor="test")

    assert (len(up.woken), len(up.launched), up.event.target_size) == (2, 1, 3)
    by_hand(Agent.objects.filter(status="idle").first())
    down = services.execute("code", action="scale_down", count=2, reason="", actor="test")
    assert len(down.drained) == 2
    assert statuses() == ["idle"]


def test_two_evaluators_and_an_operator_at_once_wake_an_agent_once(memory, make_agent, submit):
    auto()
    by_hand(make_agent())
    submit()
    start = threading.Barrier(3)

    def at_once(act):
        start.wait()
        try:
            act()
        finally:
            connections.close_all()

    up = {"action": "scale_up", "count": 1, "reason": "", "actor": "test"}
    acts = [evaluation.evaluate, evaluation.evaluate, lambda: services.execute("code", **up)]
    threads = [threading.Thread(target=at_once, args=[act]) for act in acts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert ScalingEvent.objects.aggregate(n=Sum("woken"))["n"] == 1
    assert Event.objects.filter(kind="agent.idle").count() == 1
    assert Request.objects.filter(status="granted").count() == 1


EVALUATE = "import django; django.setup(); from scaling import jobs; jobs.evaluate()"


@pytest.mark.kill
def test_a_job_that_is_killed_while_it_wakes_leaves_nothing_half_done(memory, make_agent, submit):
    auto()
    evaluation.evaluate()
    by_hand(make_agent())
    submit()
    Announcement.objects.create(pool_id="code", at=Now() + timedelta(days=1), count=1)
    name = connection.settings_dict["NAME"]
    url = os.environ["DATABASE_URL"].rsplit("/", 1)[0] + f"/{name}"
    env = {**os.environ, "DATABASE_URL": url, "DJANGO_SETTINGS_MODULE": "agentpool.settings"}
    with connect() as other:
        # The last thing that a decision writes: there the job stands, with the agent woken.
        other.execute("BEGIN")
        other.execute("SELECT FROM scaling_announcement FOR UPDATE")
        victim = subprocess.Popen([sys.executable, "-c", EVALUATE], env=env)
        while not somebody_waits():
            assert victim.poll() is None
            time.sleep(0.05)
        # Another evaluator passes the pool by.
        assert "code" not in evaluation.evaluate()
        victim.kill()
        victim.wait()
        other.execute("ROLLBACK")

    assert (statuses(), ScalingEvent.objects.count()) == (["standby"], 0)
    evaluation.evaluate()

    assert (statuses(), Launch.objects.count()) == (["busy"], 0)
    assert ScalingEvent.objects.get().woken == 1


def test_doors_take_and_show_the_standby(memory, make_agent, submit, api, client):
    for said in ("auto", "none", 2):
        answer = api.post(
            "/scaling/policy",
            {"agent_type": "code", "rule": "warm", "mode": "auto", "settings": {"standby": said}},
        )
        assert answer.status_code == 200, answer.json()
    bad = api.post("/scaling/policy", {"agent_type": "code", "settings": {"standby": "some"}})
    assert "standby" in str(bad.json()["errors"])
    roles.make_user("olga", group="admin")
    client.force_login(get_user_model().objects.get(username="olga"))

    by_hand(make_agent())
    submit()
    evaluation.evaluate()
    ScalingEvent.objects.update(at=F("at") - timedelta(seconds=10))
    collecting.collect()

    (event,) = api.get("/scaling/history").json()["results"]
    assert (event["woken"], event["set_aside"], event["cold"]) == (1, 0, 2)
    page = client.get("/scaling").content.decode()
    assert (
        "<b>0</b> of 2 wanted; in a day 3 agents were missing, 1 of them (33 %) were woken" in page
    )
    shown = client.get(f"/scaling/decisions/{newest().id}").content.decode()
    assert "1 woken from standby" in shown
    counted = MetricTotal.objects.filter(family="agentpool_standby_hits_total")
    assert {row.labels["result"]: row.value for row in counted} == {"hit": 1, "miss": 2}
