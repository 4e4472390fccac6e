"""The live loop of scaling: what is learnt from the rows, decided from them, and set in motion."""

from dataclasses import fields
from datetime import timedelta

import psycopg
import pytest
from django.conf import settings
from django.contrib.auth import get_user_model
from django.db import connection
from django.db.models.functions import Now
from django.urls import reverse

from agentpool.live import due
from agentpool.registry import queries as registry_queries
from agentpool.registry import roles
from agentpool.registry.models import (
    MODES,
    SCALING_RULES,
    Agent,
    Announcement,
    Launch,
    Lease,
    Pool,
    Request,
    ScalingDecision,
    ScalingEvent,
    ScalingState,
)
from agentpool.registry.states import Outcome
from balancing.services import agents, leases
from scaling import decisions, evaluation, governance, hearing, services
from scaling.demand import Demand
from scaling.history import History
from scaling.policies import Mode, Policy, Rule

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("whole")]


def auto(agent_type="code", **said):
    return governance.set_policy(agent_type, mode="auto", actor="test", settings=said or None)


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


def later(seconds):
    """Let time pass for what was learnt and waits, by moving it back."""
    back = timedelta(seconds=seconds)
    from django.db.models import F

    Request.objects.update(created_at=F("created_at") - back, queued_at=F("queued_at") - back)
    Lease.objects.update(acquired_at=F("acquired_at") - back)
    ScalingState.objects.update(decided_at=F("decided_at") - back)


def test_rules_and_modes_of_the_tables_are_those_of_the_core():
    assert tuple(Rule) == SCALING_RULES
    assert tuple(Mode) == MODES


def test_a_pool_without_a_policy_recommends_and_changes_nothing(memory, submit):
    submit()

    assert evaluation.evaluate()["code"] == "scale_up"

    assert Agent.objects.count() == 0
    kept = ScalingDecision.objects.get(pool="code")
    assert (kept.mode, kept.target, kept.is_carried_out) == ("recommend", 1, False)
    assert "1 waiting" in kept.reason


def test_in_auto_the_intent_and_the_decision_are_one_transaction(memory, submit):
    auto()
    for _ in range(3):
        submit()

    evaluation.evaluate()

    decision = ScalingDecision.objects.get(pool="code")
    assert decision.event.target_size == decision.target >= 3
    assert Launch.objects.filter(event=decision.event, status="intended").count() >= 3
    assert decision.event.actor == "scaling"
    assert decision.inputs["waiting"] == 3


def test_what_is_coming_is_not_launched_again(memory, submit):
    governance.set_policy("code", rule="warm", mode="auto", settings={"k": 0}, actor="test")
    submit()
    evaluation.evaluate()
    first = Launch.objects.count()

    evaluation.evaluate()
    services.reconcile()
    evaluation.evaluate()

    assert Launch.objects.count() == first


def test_a_pool_grows_serves_and_shrinks_without_touching_work(memory, submit):
    auto()
    wishes = [submit() for _ in range(4)]
    evaluation.evaluate()
    come_up()
    held = list(Lease.objects.filter(status__in=["offered", "active"]))
    assert len(held) == 4

    for lease in held[:3]:
        leases.release(lease.id, token=lease.fencing_token, outcome=Outcome.SUCCESS, actor="test")
    governance.set_policy("code", rule="warm", settings={"k": 0}, actor="test")
    evaluation.evaluate()

    assert Lease.objects.get(id=held[3].id).status in ("offered", "active")
    busy = Agent.objects.get(id=held[3].agent_id)
    assert busy.status == "busy"
    assert Agent.objects.filter(status="idle").count() == 0
    assert len(wishes) == 4
    assert ScalingEvent.objects.filter(target_size=1).exists()


def test_the_minimum_and_maximum_of_the_pool_hold(memory, submit):
    Pool.objects.filter(agent_type="code").update(min_size=2, max_size=3)
    auto()

    evaluation.evaluate()
    assert Launch.objects.count() == 2
    for _ in range(9):
        submit()
    evaluation.evaluate()

    assert Launch.objects.count() == 3
    assert "max_size" in ScalingDecision.objects.filter(pool="code").first().bounds


def test_who_waits_for_a_lock_asks_for_no_agent(memory, submit, make_agent):
    make_agent()
    auto()
    submit(lock_keys=["main"])
    submit(lock_keys=["main"])
    assert Request.objects.filter(status="waiting").count() == 1

    look = evaluation.recommend("code")[0]

    assert look.decision.inputs["waiting"] == 0


def test_failed_launches_are_backed_off_and_told(memory, submit):
    # A rule that learns nothing: what it wants is the same a second later.
    governance.set_policy("code", rule="warm", mode="auto", settings={"k": 0}, actor="test")
    submit()
    memory.failing = "no room"
    evaluation.evaluate()
    services.reconcile()
    failed = Launch.objects.filter(status="failed").count()
    assert failed

    evaluation.evaluate()

    assert Launch.objects.count() == failed
    refused = ScalingDecision.objects.filter(pool="code").first()
    assert "launching failed" in refused.error
    # What was not launched starts no cool-down, and is not told again each time.
    history = History.restored(ScalingState.objects.get(pool="code").history)
    assert history.last_up_at < refused.at.timestamp() - hearing.LAG_S
    evaluation.evaluate()
    assert ScalingDecision.objects.filter(pool="code").first() == refused


def test_learning_goes_on_where_it_was_after_a_restart(memory, submit, make_agent):
    make_agent(max_concurrent=4)
    auto()
    for _ in range(3):
        submit()
    later(60)
    evaluation.evaluate()
    state = ScalingState.objects.get(pool="code")
    heard = Demand.restored(state.demand)

    evaluation.evaluate()

    again = Demand.restored(ScalingState.objects.get(pool="code").demand)
    assert heard.steering.requests == again.steering.requests == 3
    assert sum(again.running.values()) == 3


def test_a_state_of_another_version_is_learnt_anew(memory, submit, make_agent):
    make_agent()
    submit()
    later(60)
    ScalingState.objects.create(pool_id="code", demand={"version": -1}, heard_until=Now())

    evaluation.evaluate()

    assert sum(Demand.restored(ScalingState.objects.get(pool="code").demand).running.values()) == 1


def test_the_core_decides_the_same_from_what_was_stored(memory, submit, make_agent):
    make_agent()
    auto()
    for _ in range(5):
        submit()
    later(30)
    look = evaluation.recommend("code")[0]
    pool = decisions.PoolState(
        ready=1, busy=1, starting=0, waiting=4, service_s=look.pool.mean_service_s
    )
    state = evaluation._state(look.pool)
    until = registry_queries.now() - timedelta(seconds=hearing.LAG_S)
    demand, _ = evaluation._learnt(state, look.policy, until)
    hearing.tell(demand, state, policy=look.policy, until=until)

    again = decisions.decide(
        policy=look.policy, pool=pool, demand=demand, history=History(), now=until.timestamp()
    )

    assert again.target == look.decision.target


def test_announced_work_is_launched_for_before_it_comes(memory, api):
    auto()
    soon = registry_queries.now() + timedelta(seconds=40)
    said = {"agent_type": "code", "at": soon.isoformat(), "count": 6, "name": "nightly"}

    assert api.post("/scaling/events", said).status_code == 201
    evaluation.evaluate()

    assert Launch.objects.count() >= 6
    assert Announcement.objects.get().heard_at is not None


def test_start_goes_back_to_the_mode_before_the_stop(memory, api):
    modes = []
    for way in ("start", "stop"):
        answer = api.post(f"/scaling/{way}", {"agent_type": "code"})
        modes.append(answer.json()["results"][0]["mode"])
    api.post("/scaling/policy", {"agent_type": "code", "mode": "recommend"})
    for way in ("stop", "start"):
        answer = api.post(f"/scaling/{way}", {"agent_type": "code"})
        modes.append(answer.json()["results"][0]["mode"])

    assert modes == ["auto", "off", "off", "recommend"]


def test_a_stopped_pool_is_left_alone(memory, submit):
    auto()
    governance.stop("code", actor="test")
    submit()

    evaluation.evaluate()

    assert Launch.objects.count() == 0


@pytest.mark.parametrize(
    ("said", "field"),
    [
        ({"settings": {"k": -1}}, "k"),
        ({"settings": {"nosuch": 1}}, "nosuch"),
        ({"settings": {"slo_q": "high"}}, "slo_q"),
        ({"rule": "schedule"}, "schedule"),
        ({"rule": "magic"}, "rule"),
        ({"settings": {"schedule": ["0 9 * * 1-5/28800/5/10/Mars"]}}, "schedule"),
    ],
)
def test_a_policy_is_judged_as_a_whole_and_the_field_is_named(memory, api, said, field):
    before = api.get("/scaling/policy").json()

    answer = api.post("/scaling/policy", {"agent_type": "code", **said})

    assert answer.status_code in (400, 422), answer.json()
    assert answer.json()["code"] == "invalid"
    assert field in str(answer.json()["errors"])
    assert api.get("/scaling/policy").json() == before


def test_a_policy_is_shown_with_what_holds_and_the_launch_template(memory, api):
    api.post(
        "/scaling/policy",
        {"agent_type": "code", "rule": "warm", "settings": {"k": 3, "schedule": None}},
    )

    shown = {each["agent_type"]: each for each in api.get("/scaling/policy").json()["results"]}

    assert shown["code"]["settings"] == {"k": 3}
    assert shown["code"]["effective"]["k"] == 3
    assert shown["code"]["pool"]["template"]["memory_mb"] == 1024
    names = {each.name for each in fields(Policy)} - governance._NOT_SET_HERE
    assert set(shown["qa"]["effective"]) == names


def test_the_recommendation_tells_what_it_rests_on(memory, api, submit):
    submit()

    (said,) = api.get("/scaling/recommendation?agent_type=code").json()["results"]

    assert (said["action"], said["current_size"], said["target_size"]) == ("scale_up", 0, 1)
    assert said["inputs"]["waiting"] == 1
    assert said["forecast"]["confidence"] is None
    assert {each["rule"] for each in said["alternatives"]} >= {"classic", "queue", "warm"}
    assert ScalingDecision.objects.count() == 0


def test_it_is_due_when_something_is_asked_for_or_half_a_minute_has_passed(memory, submit):
    (job,) = [each for each in due.jobs() if each.job == "scaling.jobs.evaluate"]
    where = psycopg.conninfo.make_conninfo(
        host=connection.settings_dict["HOST"],
        port=connection.settings_dict["PORT"],
        dbname=connection.settings_dict["NAME"],
        user=connection.settings_dict["USER"],
        password=connection.settings_dict["PASSWORD"],
    )
    assert settings.DATABASES

    with psycopg.connect(where, autocommit=True) as own:
        at_first = job.is_due(own, now=0.0)
        evaluation.evaluate()
        rested = job.is_due(own, now=0.0)
        submit()
        asked = job.is_due(own, now=0.0)
        evaluation.evaluate()
        again = job.is_due(own, now=0.0)
        later(31)
        after = job.is_due(own, now=0.0)
        later(-90)
        gone_back = job.is_due(own, now=0.0)

    assert (at_first, rested, asked, again, after) == (True, False, True, False, True)
    assert gone_back


def test_announced_work_is_shown_for_as_long_as_it_may_still_come(memory, client):
    an_hour_ago = registry_queries.now() - timedelta(hours=1)
    for name, spread_s in (("old-one", 60), ("slow-one", 7200)):
        Announcement.objects.create(
            pool_id="code", at=an_hour_ago, count=9, spread_s=spread_s, name=name
        )
    roles.make_user("olga", group="viewer")
    client.force_login(get_user_model().objects.get(username="olga"))

    shown = client.get(reverse("scaling")).content.decode()

    assert "slow-one" in shown
    assert "old-one" not in shown
