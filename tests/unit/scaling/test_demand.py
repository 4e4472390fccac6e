"""Demand: what is learnt does not depend on how often it is looked at."""

import pytest

from scaling.arrivals import SLOT_S
from scaling.demand import Demand
from scaling.forecast import Announced

HOUR_S = 3600.0


@pytest.fixture
def demand():
    """A pool with a lead of half a minute."""
    return Demand(lead_s=32.0, patience_s=62.0, late=0.0093)


def fed(demand, *, hours, look=None, each_s=20.0, look_s=30.0):
    """Let a request arrive each 20 s, and look each 30 s, or never; return when it ended."""
    look_at = look_s
    for number in range(int(hours * HOUR_S / each_s)):
        at = number * each_s
        while look is not None and look_at <= at:
            look(look_at)
            look_at += look_s
        demand.arrived(at)
    return hours * HOUR_S


@pytest.mark.parametrize("look", ["rate", "outlook", "predict"])
def test_whoever_looks_takes_no_slot_away_from_the_forecast(demand, look):
    now = fed(demand, hours=6, look=getattr(demand, look))
    demand.predict(now)

    assert list(demand.forecast.counts) == [SLOT_S / 20] * 36


@pytest.mark.parametrize("startup_s", [1.0, 60.0])
def test_the_same_start_up_as_before_forgets_nothing(startup_s):
    patience_s = startup_s + 2
    demand = Demand(lead_s=patience_s - 30, patience_s=patience_s, late=0.0093)

    def look(now):
        demand.retuned(lead_s=patience_s - 30, patience_s=patience_s)
        demand.outlook(now)

    fed(demand, hours=3, look=look)

    assert demand.tails.arrivals > 400


def test_announced_work_that_never_came_takes_nothing_from_what_is_learnt_later(demand):
    # Nobody asks for the outlook of a pool whose scaling is off.
    demand.announce(Announced(at=HOUR_S, count=1000))
    now = fed(demand, hours=6)

    assert demand.rate(now) == pytest.approx(1 / 20, rel=0.1)
