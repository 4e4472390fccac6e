"""Who waits and is served by nobody on duty asks for a new agent, however many are idle."""

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from agentpool.registry.models import Agent, Launch, Lease, Pool, Request, ScalingDecision
from agentpool.registry.states import AgentHealth, AgentStatus, Outcome
from balancing.services import agents, leases
from scaling import evaluation, governance, services

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("whole")]

RULES = ("predictive", "warm", "queue", "utilization", "classic")


def auto(rule="warm", **said):
    settings = {"k": 0, **said} if rule == "warm" else said
    governance.set_policy("code", rule=rule, mode="auto", actor="test", settings=settings)


def come_up(**changed):
    """What runtimes do when the driver has started them: they are as large as they were told."""
    services.reconcile()
    for agent in Agent.objects.filter(status="starting").order_by("created_at"):
        sizes = {name: getattr(agent, name) for name in services.SIZES}
        fields = agent.pool.launch_template | sizes | changed
        agents.register(
            agent_id=agent.agent_id, pool=agent.pool, fields=fields, by=None, actor=agent.agent_id
        )


def statuses():
    return sorted(Agent.objects.exclude(status="retired").values_list("status", flat=True))


def newest():
    return ScalingDecision.objects.filter(pool="code").first()


def waiting():
    return Request.objects.filter(status="waiting").count()


def test_an_idle_agent_that_is_too_small_is_no_agent_for_those_who_wait(memory, make_agent, submit):
    Pool.objects.filter(agent_type="code").update(memory_mb=2048, max_size=40)
    auto()
    small = make_agent(memory_mb=1024)
    for _ in range(20):
        submit(memory_mb=2048)

    evaluation.evaluate()

    assert (newest().current, newest().target) == (1, 21)
    assert newest().inputs["apart"] == 1
    assert "could serve nobody who waits" in newest().reason
    assert Launch.objects.count() == 20
    # While they start nothing more is launched, and none of them is let go.
    evaluation.evaluate()
    assert statuses() == ["idle", *["starting"] * 20]
    come_up()
    assert waiting() == 0
    # Nobody waits: the idle one is one too many, as any other would be.
    evaluation.evaluate()
    assert Agent.objects.get(id=small.id).status == "retired"
    assert statuses() == ["busy"] * 20


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_that_follows_demand_launches_for_whom_the_idle_ones_do_not_fit(
    memory, make_agent, submit, rule
):
    auto(rule)
    for _ in range(3):
        make_agent()
    submit(memory_mb=4000)

    evaluation.evaluate()
    evaluation.evaluate()
    come_up()

    assert waiting() == 0
    assert Launch.objects.count() == 1


@pytest.mark.parametrize("rule", RULES)
def test_work_that_ends_on_agents_that_can_not_serve_it_is_not_waited_for(
    memory, make_agent, submit, rule
):
    auto(rule)
    for _ in range(12):
        make_agent()
        submit()
    submit(memory_mb=4000)

    evaluation.evaluate()

    assert 4000 in Launch.objects.values_list("agent__memory_mb", flat=True)


def test_a_free_slot_without_memory_left_is_no_slot(memory, make_agent, submit):
    Pool.objects.filter(agent_type="code").update(max_concurrent=2)
    auto()
    make_agent(max_concurrent=2, memory_mb=4096)
    submit(memory_mb=3000)
    assert submit(memory_mb=2000).status == "waiting"

    evaluation.evaluate()

    assert Launch.objects.count() == 1


def tried_in_vain(agent, submit):
    submit(avoid_agents=[agent.agent_id])


def in_maintenance(agent, submit):
    agents.set_health(agent, health=AgentHealth.MAINTENANCE, note="", until=None, actor="test")
    submit()


@pytest.mark.parametrize("case", [tried_in_vain, in_maintenance])
def test_an_idle_agent_that_may_not_serve_it_is_no_agent(memory, make_agent, submit, case):
    auto()
    case(make_agent(), submit)

    evaluation.evaluate()
    come_up()

    assert waiting() == 0


def test_agents_that_start_for_others_are_none_for_whoever_needs_a_larger_one(memory, submit):
    auto()
    submit()
    evaluation.evaluate()
    large = submit(memory_mb=4000)

    evaluation.evaluate()
    evaluation.evaluate()
    come_up()

    assert Request.objects.get(id=large.id).status == "granted"
    assert sorted(Launch.objects.values_list("agent__memory_mb", flat=True)) == [1024, 4000]


def test_of_those_who_wait_the_one_whom_nobody_fits_is_launched_for(memory, make_agent, submit):
    auto()
    make_agent()
    submit(lock_keys=["main"])
    first = submit(lock_keys=["main"])
    submit(memory_mb=4000)

    evaluation.evaluate()
    come_up()

    assert Request.objects.get(id=first.id).status == "waiting"
    assert list(Launch.objects.values_list("agent__memory_mb", flat=True)) == [4000]
    assert waiting() == 1


def test_whoever_fits_is_woken_from_standby_beside_an_idle_one_that_does_not(
    memory, make_agent, submit
):
    auto()
    make_agent()
    other = make_agent(memory_mb=4096)
    agents.set_status(other, to=AgentStatus.STANDBY, reason="", actor="test")
    submit(memory_mb=4000)

    evaluation.evaluate()

    assert (waiting(), Launch.objects.count()) == (0, 0)
    assert (newest().event.woken, newest().target) == (1, 2)


def needs_a_tool(make_agent, submit):
    make_agent(tools=["gpu"])
    submit(special_tools=["gpu"])
    submit(special_tools=["gpu"])


def is_bound(make_agent, submit):
    make_agent()
    submit(cycle_id="c1")
    submit(cycle_id="c1", affinity="hard")


@pytest.mark.parametrize("case", [needs_a_tool, is_bound])
def test_whom_no_new_agent_could_serve_asks_for_none(memory, make_agent, submit, case):
    auto()
    case(make_agent, submit)
    make_agent(memory_mb=512)
    assert waiting() == 1

    for _ in range(3):
        evaluation.evaluate()
        come_up()

    assert newest().inputs["waiting"] == 0
    assert Launch.objects.count() == 0


def test_what_only_one_on_standby_can_serve_wakes_it_and_launches_nobody(
    memory, make_agent, submit
):
    auto()
    able = make_agent(tools=["gpu"])
    agents.set_status(able, to=AgentStatus.STANDBY, reason="", actor="test")
    make_agent()
    submit(special_tools=["gpu"])

    evaluation.evaluate()

    assert (waiting(), Launch.objects.count()) == (0, 0)


def test_launches_that_come_up_unable_are_not_repeated_for_ever(memory, submit):
    Pool.objects.filter(agent_type="code").update(isolation_levels=[1, 2])
    auto()
    submit(isolation_level=2)

    for _ in range(5):
        evaluation.evaluate()
        come_up(isolation_levels=[1])

    assert Launch.objects.count() == 1


def test_what_fits_is_asked_once_a_decision_however_many_wait(memory, make_agent, submit):
    auto()
    make_agent()
    counts = []
    for more in (1, 8):
        for number in range(more):
            submit(memory_mb=2000 + 10 * number + more)
        with CaptureQueriesContext(connection) as seen:
            evaluation.recommend("code")
        counts.append(len(seen))

    assert counts[0] == counts[1]


def test_the_unfit_one_serves_again_when_such_work_comes(memory, make_agent, submit):
    auto(min_idle=1)
    make_agent()
    submit(memory_mb=4000)
    evaluation.evaluate()
    come_up()
    held = Lease.objects.get(agent__memory_mb=4000)

    small = submit()

    assert small.held is not None
    leases.release(held.id, token=held.fencing_token, outcome=Outcome.SUCCESS, actor="test")


@pytest.mark.parametrize("health", [AgentHealth.QUARANTINED, AgentHealth.MAINTENANCE])
def test_whoever_is_held_back_is_nobodys_reserve_and_stays(memory, make_agent, health):
    Pool.objects.filter(agent_type="code").update(min_size=0)
    auto(k=1)
    held = make_agent()
    agents.set_health(held, health=health, note="", until=None, actor="test")

    evaluation.evaluate()
    come_up()

    assert (newest().current, newest().target) == (1, 2)
    assert newest().inputs["held_back"] == 1
    assert "1 of the slots are held back" in newest().reason
    assert statuses() == ["idle", "idle"]
    # Of two that are idle one is to go: not the one that somebody wants to look at.
    auto(k=0)
    evaluation.evaluate()
    assert Agent.objects.get(id=held.id).status == "idle"
    assert statuses() == ["idle"]


def test_idle_ones_that_serve_nobody_make_room_in_a_full_pool(memory, make_agent, submit):
    Pool.objects.filter(agent_type="code").update(max_size=4, min_size=0)
    auto()
    make_agent(memory_mb=4096)
    for _ in range(3):
        make_agent()
    for _ in range(3):
        submit(memory_mb=4000)

    evaluation.evaluate()

    assert statuses() == ["busy", "idle"]
    assert newest().bounds == ["max_size", "room"]
    evaluation.evaluate()
    assert statuses() == ["busy", "idle", "starting", "starting"]
    come_up()
    assert waiting() == 0
    assert statuses()[:3] == ["busy"] * 3


def test_whoever_works_or_starts_never_makes_room(memory, make_agent, submit):
    Pool.objects.filter(agent_type="code").update(max_size=3, min_size=0)
    auto()
    large = make_agent(memory_mb=4096)
    submit(memory_mb=4000)
    submit(memory_mb=2000)
    evaluation.evaluate()
    make_agent()
    for _ in range(3):
        submit(memory_mb=4000)

    evaluation.evaluate()

    assert statuses() == ["busy", "starting"]
    assert Agent.objects.get(id=large.id).status == "busy"
    evaluation.evaluate()
    come_up()
    assert statuses() == ["busy"] * 3
    assert waiting() == 2
