"""The bench's search for a knob: it ends where trying every number ends, sooner."""

import runpy
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

BENCH = Path(__file__).resolve().parents[3] / "bench"
whole = runpy.run_path(str(BENCH / "hindsight.py"))["whole"]

falling = st.lists(st.floats(0, 1), min_size=61, max_size=61).map(
    lambda found: sorted(found, reverse=True)
)
geometric = st.builds(
    lambda first, ratio: [first * ratio**number for number in range(61)],
    st.floats(0.01, 1),
    st.floats(0.3, 0.95),
)


@given(falling | geometric)
def test_the_search_ends_at_the_first_number_that_does(late):
    does = [number for number in range(61) if late[number] <= 0.01]

    found = whole(lambda number: late[int(number)], most=60, aim=0.01)

    assert found == (does[0] if does else 60)


@given(geometric)
def test_it_takes_few_tries_where_the_late_share_falls_evenly(late):
    tried = []

    def late_of(number):
        tried.append(number)
        return late[int(number)]

    whole(late_of, most=60, aim=0.01)

    assert len(tried) == len(set(tried)) <= 6
