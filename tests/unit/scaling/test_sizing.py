"""The formulas that sizes are made of."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaling import sizing


def test_little_is_the_seeds_example():
    # 3 a minute, 10 minutes each, 75 %.
    assert sizing.little(rate=3 / 60, service_s=600, target_share=0.75) == 40


@pytest.mark.parametrize(
    ("size", "used", "wanted"), [(10, 10, 14), (10, 8, 10), (10, 3, 4), (0, 0, 0), (0, 1, 1)]
)
def test_utilization_moves_when_it_is_out_of_tolerance(size, used, wanted):
    assert wanted == sizing.by_utilization(size=size, used=used, target=0.75, tolerance=0.1)


def test_queue_counts_what_waits_and_what_runs():
    assert sizing.by_queue(size=3, waiting=4, busy=3, per_slot=1, tolerance=0.1) == 7
    assert sizing.by_queue(size=3, waiting=0, busy=0, per_slot=1, tolerance=0.1) == 0


@pytest.mark.parametrize(("slots", "load"), [(1, 0.5), (5, 4.0), (60, 50.0)])
def test_erlang_c_is_its_sum(slots, load):
    terms = [load**n / math.factorial(n) for n in range(slots)]
    last = load**slots / math.factorial(slots) * slots / (slots - load)

    assert sizing.erlang_c(slots=slots, load=load) == pytest.approx(last / (sum(terms) + last))


@given(st.floats(0.01, 50), st.floats(1.03, 30))
def test_negative_binomial_has_its_mean_and_never_rises(mean, dispersion):
    above = sizing.negative_binomial_above(mean=mean, dispersion=dispersion, upto=4000)

    assert np.all(np.diff(above) <= 1e-12)
    # The sum of P(count > j) over all j is the mean.
    assert above.sum() == pytest.approx(mean, rel=1e-3)


@given(st.floats(0, 1), st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_smallest_above_is_the_first_that_is_seldom_exceeded(share, values):
    above = np.array(sorted(values, reverse=True))
    found = sizing.smallest_above(above=above, share=share)

    assert all(above[:found] > share)
    assert found == len(above) or above[found] <= share


@given(st.floats(0.001, 1), st.floats(1, 1000), st.floats(0, 60))
def test_erlang_c_size_is_the_smallest_that_does(rate, service_s, slo_s):
    def late(slots):
        return sizing.erlang_c_late(slots=slots, rate=rate, service_s=service_s, slo_s=slo_s)

    slots = sizing.erlang_c_size(rate=rate, service_s=service_s, slo_s=slo_s, late=0.01)

    assert late(slots) <= 0.01
    assert slots == max(1, math.ceil(rate * service_s)) or late(slots - 1) > 0.01
