"""Trust: what a suspicion calls for, by what a pool bears."""

import pytest

from agentpool.registry.states import AgentHealth
from balancing import trust
from balancing.trust import Standing, Suspicion


def verdict(value, *, health, probation, quarantine=9.0):
    standing = Standing(health, "learning", 1, probation, quarantine)
    found = trust.verdict(Suspicion(value), standing, judge="learning")
    return found.health if found else None


@pytest.mark.parametrize("probation", [0.1, 0.5, 1.0, 5.0, 12.0])
def test_whoever_is_put_on_probation_stays_there_by_the_same_suspicion(probation):
    good, watched = AgentHealth.GOOD, AgentHealth.PROBATION

    assert verdict(probation, health=good, probation=probation) is watched
    assert verdict(probation, health=watched, probation=probation, quarantine=None) is None
    assert verdict(probation / 20, health=watched, probation=probation) is good


def test_whoever_comes_out_of_quarantine_is_suspected_but_not_enough_for_probation():
    for probation in (0.1, 0.5, 1.1, 5.0):
        forgiven = trust.forgiven(probation)
        assert 0 <= forgiven < probation
        assert verdict(forgiven, health=AgentHealth.UNKNOWN, probation=probation) is None
    assert trust.forgiven(5.0) == 4.8
