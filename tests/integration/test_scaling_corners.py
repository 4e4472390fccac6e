"""Scaling where sizes, clocks and calendars are not the usual ones."""

from datetime import timedelta

import pytest
from django.db.models.functions import Now

from agentpool.registry import queries as registry_queries
from agentpool.registry import services as registry_services
from agentpool.registry.models import (
    Agent,
    Credential,
    Launch,
    Lease,
    LeaseOutcome,
    Liveness,
    Pool,
    Request,
    ScalingDecision,
    ScalingPolicy,
    ScalingState,
)
from agentpool.registry.states import Outcome
from balancing.services import agents, leases
from scaling import evaluation, governance, hearing, services
from scaling.demand import Demand

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("whole")]


def auto(rule="warm", **said):
    settings = {"k": 0, **said} if rule == "warm" else said
    governance.set_policy("code", rule=rule, mode="auto", actor="test", settings=settings)


def newest():
    return ScalingDecision.objects.filter(pool="code").first()


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


def test_agents_of_fewer_slots_than_the_template_are_counted_as_they_are(
    memory, make_agent, submit
):
    Pool.objects.filter(agent_type="code").update(max_concurrent=4)
    auto()
    for _ in range(3):
        make_agent(max_concurrent=1)
    for _ in range(7):
        submit()

    evaluation.evaluate()

    # Three are busy, four wait: one more of four slots.
    assert (newest().current, newest().target) == (3, 4)
    assert Launch.objects.count() == 1
    assert Agent.objects.filter(status="busy").count() == 3


def test_a_calendar_that_closes_a_pool_is_carried_out_below_its_least_size(memory, make_agent):
    Pool.objects.filter(agent_type="code").update(min_size=2)
    auto(schedule=["* * * * */3600/0/0"])
    for _ in range(2):
        make_agent()

    evaluation.evaluate()

    assert (newest().target, newest().error) == (0, "")
    assert set(Agent.objects.values_list("status", flat=True)) == {"retired"}


def test_announced_work_that_is_still_coming_is_launched_for(memory):
    auto("predictive")
    at = registry_queries.now() - timedelta(minutes=20)
    governance.announce("code", at=at, count=6, spread_s=7200, name="", actor="test")

    evaluation.evaluate()

    assert newest().inputs["announced"] == 6


@pytest.mark.parametrize("back_s", [10, 10_000])
def test_a_clock_that_goes_back_counts_no_request_twice(memory, submit, back_s):
    pool, now = Pool.objects.get(agent_type="code"), registry_queries.now()
    for _ in range(5):
        submit()
    Request.objects.update(created_at=now - timedelta(seconds=5))
    state = ScalingState(pool=pool)

    for seconds in (0, back_s, 0):
        evaluation._look(pool, state, now=now - timedelta(seconds=seconds))

    a_day = Demand.restored(state.demand).arrivals.recent[-1] * 86_400
    assert a_day == pytest.approx(5, rel=0.01)


def test_a_launch_that_came_up_ends_the_row_of_failed_ones(memory, submit):
    auto()
    memory.failing = "no room"
    for _ in range(3):
        submit()
    evaluation.evaluate()
    services.reconcile()
    ended = Launch.objects.filter(status="failed")
    assert (
        ended.update(ended_at=Now() - timedelta(hours=1), created_at=Now() - timedelta(hours=1))
        == 3
    )
    memory.failing = ""
    evaluation.evaluate()
    come_up()
    memory.failing = "no room"
    submit()
    evaluation.evaluate()
    services.reconcile()

    evaluation.evaluate()

    assert newest().error.startswith("launching failed once")


def test_a_runtime_that_ends_at_once_is_noticed_before_it_is_late(memory):
    services.execute("code", action="scale_up", count=1, reason="test", actor="test")
    services.reconcile()
    memory.running.clear()
    Launch.objects.update(started_at=Now() - timedelta(seconds=11))

    services.reconcile()

    launch = Launch.objects.get()
    assert (launch.status, launch.error) == ("stopped", "the runtime ended before it registered")


def test_a_launch_by_a_driver_that_is_gone_has_failed(memory, submit):
    auto()
    submit()
    Pool.objects.update(driver="nomad")
    evaluation.evaluate()
    services.reconcile()

    evaluation.evaluate()

    launch = Launch.objects.get()
    assert (launch.status, launch.agent.status) == ("failed", "retired")
    assert "There is no driver nomad" in launch.error
    assert newest().error.startswith("launching failed once")


def test_a_credential_that_is_changed_later_is_no_start_up(memory):
    services.execute("code", action="scale_up", count=3, reason="test", actor="test")
    come_up()
    a_day_ago = Now() - timedelta(days=1)
    Launch.objects.update(created_at=a_day_ago, started_at=a_day_ago)
    Credential.objects.update(created_at=a_day_ago + timedelta(seconds=20))

    registry_services.rotate_credential(Agent.objects.first(), actor="test")

    assert hearing.startup_s("code", otherwise=60.0) == pytest.approx(20, abs=1)


def test_work_whose_end_was_committed_late_is_not_taken_to_run_for_ever(memory, make_agent, submit):
    make_agent()
    held = submit().held
    Lease.objects.update(acquired_at=Now() - timedelta(minutes=2))
    evaluation.evaluate()
    assert sum(learnt().running.values()) == 1

    leases.release(held.id, token=held.fencing_token, outcome=Outcome.SUCCESS, actor="test")
    LeaseOutcome.objects.update(ended_at=Now() - timedelta(minutes=1))
    evaluation.evaluate()

    assert not learnt().running


@pytest.mark.parametrize(("lived_s", "launched"), [(10, 1), (3600, 2)])
def test_a_runtime_that_ends_soon_after_it_registered_is_not_replaced_at_once(
    memory, lived_s, launched
):
    auto(min_idle=1)
    evaluation.evaluate()
    come_up()
    Launch.objects.update(started_at=Now() - timedelta(seconds=lived_s))
    memory.running.clear()
    Liveness.objects.update(last_heartbeat_at=Now() - timedelta(minutes=1))

    services.reconcile()
    evaluation.evaluate()

    assert Launch.objects.count() == launched
    assert ("launching failed" in newest().error) is (launched == 1)


def test_launches_that_fail_together_have_failed_once(memory):
    auto(min_idle=6)
    memory.failing = "the image can't be fetched"
    evaluation.evaluate()
    services.reconcile()

    evaluation.evaluate()

    assert Launch.objects.filter(status="failed").count() == 6
    assert newest().error.startswith("launching failed once; the next try is in")


def learnt():
    return Demand.restored(ScalingState.objects.get(pool="code").demand)


def test_a_stored_policy_that_does_not_do_hides_and_holds_up_no_other_pool(memory, api):
    # As after an upgrade that knows a setting no more.
    ScalingPolicy.objects.create(pool_id="code", mode="auto", settings={"nonsense": 1})

    told = api.get("/scaling/policy").body["results"]
    now = api.get("/scaling/recommendation").body
    alone = api.get("/scaling/recommendation?agent_type=code")
    stopped = api.post("/scaling/stop")

    faults = {each["agent_type"]: each["fault"] for each in told}
    assert "nonsense" in faults["code"]
    assert faults["data"] == faults["qa"] == ""
    assert [each["agent_type"] for each in now["results"]] == ["data", "design", "qa"]
    assert list(now["faults"]) == ["code"]
    assert (alone.status_code, alone.body["code"]) == (400, "invalid")
    assert {each["mode"] for each in stopped.body["results"]} == {"off"}
