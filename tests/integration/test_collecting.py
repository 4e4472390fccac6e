"""The collector: every event counts once, whoever is killed; series come from what is kept."""

import os
import subprocess
import sys
import time
from contextlib import suppress
from datetime import timedelta

import pytest
from django.db import connection, transaction
from django.db.models.functions import Now

from agentpool.live.connect import connect
from agentpool.live.relay import Relay
from agentpool.registry import collecting, measuring, metrics, queries
from agentpool.registry.models import Event, MetricState, MetricTotal, PoolSample, Request
from agentpool.registry.states import Outcome
from balancing import jobs as balancing_jobs
from balancing.services import leases
from tests.locks import somebody_waits

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def numbered():
    """Give every event its number, as the pulse does."""

    def number():
        with connect() as own:
            Relay(own).step()

    return number


def finish(request, outcome=Outcome.SUCCESS):
    leases.release(
        request.held.id,
        token=request.held.fencing_token,
        outcome=outcome,
        actor="test",
        usage={"memory_mb": 512, "cpu_seconds": 0, "tokens_in": 20_000, "tokens_out": 5_000},
    )


def rewind(seconds=30):
    """Let the next collection find that a stretch has ended."""
    back = timedelta(seconds=seconds)
    MetricState.objects.update(covered_until=metrics.begin_of(queries.now(), 30) - back)


def counted(step_s=30, name="arrivals"):
    rows = PoolSample.objects.filter(step_s=step_s, pool_id="code")
    return sum(rows.values_list(name, flat=True))


def test_what_happened_is_counted_once_in_each_length(make_agent, submit, numbered):
    make_agent()
    first = submit()
    waiting = submit()
    finish(first)
    numbered()

    assert collecting.collect() == 4
    rewind()
    collecting.collect()

    for step_s in metrics.STEPS_S:
        names = ("arrivals", "granted", "ended", "succeeded", "tokens_used")
        assert [counted(step_s, name) for name in names] == [2, 2, 1, 1, 25_000], step_s
    assert waiting.held is None
    newest = measuring.samples().filter(pool_id="code").order_by("at").last()
    assert (newest.total_agents, newest.busy_agents, newest.utilization) == (1, 1, 1)


def test_a_collector_that_dies_before_its_commit_leaves_nothing(make_agent, submit, numbered):
    make_agent()
    submit()
    numbered()

    with suppress(ZeroDivisionError), transaction.atomic():
        collecting.collect()
        raise ZeroDivisionError

    assert not PoolSample.objects.exists()
    assert not MetricTotal.objects.exists()
    collecting.collect()
    assert counted() == 1


def test_two_collectors_at_once_count_once(make_agent, submit, numbered):
    make_agent()
    submit()
    numbered()
    collecting.collect()
    rewind()
    submit()
    numbered()
    with connect() as other:
        other.execute("BEGIN")
        other.execute("SELECT FROM metric_state FOR UPDATE")

        assert collecting.collect() == 0
        other.execute("ROLLBACK")

    collecting.collect()
    assert counted() == 2


def test_a_long_backlog_is_counted_in_several_batches(make_agent, submit, numbered, monkeypatch):
    make_agent(max_concurrent=8)
    for _ in range(6):
        finish(submit())
    numbered()
    monkeypatch.setattr(collecting, "BATCH", 4)

    collecting.collect()

    assert (counted(), counted(name="ended")) == (6, 6)


def test_who_has_waited_for_longer_than_events_are_kept_arrives_once(make_agent, submit, numbered):
    waiting = submit()
    numbered()
    collecting.collect()
    Event.objects.filter(request_id=waiting.id).delete()
    Request.objects.update(queued_at=Now() - timedelta(days=8), expires_at=Now() + timedelta(1))

    make_agent()
    balancing_jobs.serve()
    numbered()
    collecting.collect()

    assert (counted(name="granted"), counted()) == (1, 1)


def test_what_was_long_ago_is_shown_whichever_batch_has_counted_it(
    make_agent, submit, numbered, monkeypatch
):
    make_agent(max_concurrent=8)
    collecting.collect()
    numbered()
    collecting.collect()
    rewind(seconds=3 * 3600)
    for _ in range(3):
        finish(submit())
    Event.objects.exclude(kind="metrics.collected").update(at=Now() - timedelta(hours=2))
    for _ in range(4):  # more than the last batch holds
        finish(submit())
    numbered()
    monkeypatch.setattr(collecting, "BATCH", 4)

    collecting.collect()

    long_ago = measuring.samples().filter(at__lt=Now() - timedelta(hours=1.5), pool_id="code")
    assert sum(long_ago.values_list("arrivals", flat=True)) == 3


def test_time_that_nobody_covered_is_covered_an_hour_back(pools, numbered):
    collecting.collect()
    rewind(seconds=3 * 3600)

    collecting.collect()

    assert len(set(measuring.samples().values_list("at", flat=True))) in (120, 121)
    hours = measuring.samples(3600).filter(pool_id="code").values_list("covered_s", flat=True)
    assert 3600 <= sum(hours) <= 3630


def test_a_reading_is_taken_once_in_half_a_minute(pools):
    assert collecting.collect() == 4
    events = Event.objects.filter(kind="metrics.collected").count()

    assert collecting.collect() == 0
    assert Event.objects.filter(kind="metrics.collected").count() == events == 1


def test_a_series_of_another_step_is_the_sum_of_its_parts(pools, api):
    at = metrics.begin_of(queries.now(), 3600) - timedelta(hours=3)
    for number in range(4):
        stretch = metrics.Stretch(
            300, 10, metrics.Gauges(slots=2, slots_used=1), metrics.granted(waited_s=number)
        )
        PoolSample.objects.create(
            pool_id="qa", step_s=300, at=at + timedelta(minutes=5 * number), **metrics.row(stretch)
        )

    since = at.isoformat().replace("+00:00", "Z")
    body = api.get(f"/metrics/summary?agent_type=qa&since={since}&step_s=600").body

    assert body["step_s"] == 600
    points = body["series"]
    assert [point["granted"] for point in points] == [2, 2]
    assert [point["average_wait_time_s"] for point in points] == [0.5, 2.5]
    assert points[1]["wait_p95_s"] == pytest.approx(2, rel=0.05)
    assert points[0]["utilization"] == 0.5


def test_the_pools_now_are_told_with_their_quantiles(api, make_agent, submit):
    make_agent()
    finish(submit())

    body = api.get("/metrics/summary?agent_type=code").body
    (code,) = body["pools"]

    assert (code["ended"], code["success_rate"]) == (1, 1.0)
    assert 0 <= code["wait_p50_s"] < 1
    assert code["resource_efficiency"] == pytest.approx(0.4 * 0.5 + 0.2 * 0.5)
    assert body["total"]["completion_rate_per_minute"] == 1


def test_what_is_too_old_goes_by_its_length(pools, settings):
    at = queries.now()
    for step_s, days in ((30, 3), (300, 3), (300, 15), (86_400, 400)):
        PoolSample.objects.create(pool_id="qa", step_s=step_s, at=at - timedelta(days=days))

    assert collecting.prune() == 2
    assert {row.step_s for row in PoolSample.objects.all()} == {300, 86_400}


def test_agents_are_counted_in_one_pass(make_agent, django_assert_num_queries):
    for _ in range(3):
        make_agent()
        make_agent("qa")

    with django_assert_num_queries(1):
        found = measuring.gauges()

    assert (found["code"].total_agents, found["qa"].slots, found["data"].slots) == (3, 3, 0)
    assert connection.in_atomic_block is False


COLLECT = "import django; django.setup(); from agentpool.registry import jobs; jobs.sample()"


@pytest.mark.kill
def test_a_collector_that_is_killed_while_it_writes_counts_nothing_twice(
    make_agent, submit, numbered
):
    make_agent()
    submit()
    numbered()
    name = connection.settings_dict["NAME"]
    url = os.environ["DATABASE_URL"].rsplit("/", 1)[0] + f"/{name}"
    env = {**os.environ, "DATABASE_URL": url, "DJANGO_SETTINGS_MODULE": "agentpool.settings"}
    with connect() as other:
        # A counter that another transaction holds: there the collector stands, all else written.
        other.execute("BEGIN")
        other.execute(
            "INSERT INTO metric_total (family, labels, value)"
            ' VALUES (\'agentpool_requests_total\', \'{"type": "code", "outcome": "granted"}\', 0)'
        )
        victim = subprocess.Popen([sys.executable, "-c", COLLECT], env=env)
        while not somebody_waits():
            assert victim.poll() is None
            time.sleep(0.05)
        victim.kill()
        victim.wait()
        other.execute("ROLLBACK")

    collecting.collect()
    rewind()
    collecting.collect()

    assert (counted(), counted(86_400)) == (1, 1)
    found = MetricTotal.objects.get(family="agentpool_requests_total", labels__outcome="granted")
    assert found.value == 1
