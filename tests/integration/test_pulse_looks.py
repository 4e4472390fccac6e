"""The pulse's looks for jobs that are due, over the connection that the pulse has for them."""

import threading

import pytest

from agentpool.live import due, pulse

pytestmark = pytest.mark.django_db(transaction=True)


def test_a_look_is_planned_as_any_query_and_not_as_the_relay_numbers(pools, monkeypatch):
    """With sequential scans off, a look at who was not heard of read 100,000 agents by an index."""
    freely = "SELECT current_setting('enable_seqscan') = 'on'"
    table = [due.Due(job="planned freely", every_s=0, sql=freely), due.Due(job="after", every_s=0)]
    monkeypatch.setattr(due, "jobs", lambda: table)
    enqueued, done = [], threading.Event()

    def enqueue(job):
        enqueued.append(job)
        if job == "after":
            done.set()

    thread = threading.Thread(
        target=pulse.run, kwargs={"enqueue": enqueue, "stopping": done.is_set}
    )
    thread.start()
    thread.join(20)

    assert not thread.is_alive()
    assert enqueued == ["planned freely", "after"]
