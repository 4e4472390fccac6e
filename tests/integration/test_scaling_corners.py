"""Scaling where sizes, clocks and calendars are not the usual ones."""

import pytest

from agentpool.registry.models import Agent, Launch, Pool, ScalingDecision
from scaling import evaluation, governance

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("whole")]


def auto(rule="warm", **said):
    settings = {"k": 0, **said} if rule == "warm" else said
    governance.set_policy("code", rule=rule, mode="auto", actor="test", settings=settings)


def newest():
    return ScalingDecision.objects.filter(pool="code").first()


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
