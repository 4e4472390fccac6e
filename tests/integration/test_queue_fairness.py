"""Who is next: by priority, by weight, by arrival; and nobody is passed for ever."""

import math
import threading
import time
from collections import Counter, deque
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from django.db import connection, transaction
from django.db.models.functions import Now

from agentpool.live.connect import connect
from agentpool.live.relay import Relay
from agentpool.registry import services
from agentpool.registry.errors import CapacityExhausted, QueueFull
from agentpool.registry.models import (
    Agent,
    Event,
    EventNumber,
    Lease,
    Pool,
    Request,
    ResourceLimit,
    SecurityProfile,
    Share,
)
from agentpool.registry.states import Outcome
from balancing import claim, fairness, jobs
from balancing.services import leases, requests

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("whole")]

MAX_BYPASS = 10


@pytest.fixture(autouse=True)
def pool_policy(pools):
    Pool.objects.update(max_bypass=MAX_BYPASS, reserve_after_s=3600)


def test_a_charge_beside_a_change_of_half_life_goes_by_the_new_one(pools):
    at_s = time.time()
    Share.objects.create(pool_id="code", project="p", log_usage=at_s / 3600 + math.log2(100))
    event = Event.objects.create(
        kind="lease.released", agent_type="code", project="p", detail={"charge_s": 60}
    )
    EventNumber.objects.create(seq=1, event=event)

    with ThreadPoolExecutor(1) as other:
        with transaction.atomic():
            services.update_pool(
                "code", fields={"share_half_life_s": 7200}, if_generation=None, actor="ada"
            )
            charging = other.submit(_charge_apart)
            wait_until_somebody_waits()
        assert charging.result(timeout=10) == 1

    used = Share.objects.get(project="p").log_usage
    assert fairness.usage_now(used, at_s=at_s, half_life_s=7200) == pytest.approx(160, rel=0.01)


def _charge_apart():
    try:
        return claim.fold_shares()
    finally:
        connection.close()


def wait_until_somebody_waits():
    deadline = time.monotonic() + 10
    sql = "SELECT FROM pg_locks WHERE NOT granted"
    while time.monotonic() < deadline:
        with connection.cursor() as cursor:
            cursor.execute(sql)
            if cursor.fetchone() is not None:
                return
        time.sleep(0.01)
    raise AssertionError("nobody waits")


def release(lease):
    how = {"outcome": Outcome.SUCCESS, "actor": "test"}
    return leases.release(lease.id, token=lease.fencing_token, **how)


def release_oldest():
    release(Lease.objects.filter(status="active").order_by("acquired_at").first())


def granted_order(waiting):
    """Give back one lease after the other; return the names of those granted, in order."""
    names = {request.id: name for name, request in waiting}
    order = []
    while Request.objects.filter(id__in=names, status="waiting").exists():
        before = set(Request.objects.filter(status="granted").values_list("id", flat=True))
        release_oldest()
        after = set(Request.objects.filter(status="granted").values_list("id", flat=True))
        order += [names[one] for one in after - before]
    return order


# -- whose turn it is ------------------------------------------------------------------------------


def test_the_higher_priority_first_then_the_earlier(make_agent, submit):
    make_agent()
    submit()
    names = (("low", 10), ("first", 50), ("second", 50), ("high", 90), ("third", 50))
    waiting = [(name, submit(priority=priority)) for name, priority in names]

    assert granted_order(waiting) == ["high", "first", "second", "third", "low"]


def test_weights_of_1_2_and_3_are_served_so(make_agent, submit):
    make_agent()
    for project, weight in (("a", 1), ("b", 2), ("c", 3)):
        claim.set_limit({"level": "project", "name": project, "weight": weight})
    submit(project="other")
    for _ in range(60):
        for project in "abc":
            submit(project=project, expected_duration_s=600)

    shares = Counter()
    for _ in range(60):
        release_oldest()
        # Until it ends a lease is charged as long as was expected; here it never ends.
        lease = Lease.objects.get(status="active")
        shares[lease.project] += 1
        Lease.objects.filter(id=lease.id).update(charged_s=0)

    assert shares["a"] == pytest.approx(10, abs=1)
    assert shares["b"] == pytest.approx(20, abs=1)
    assert shares["c"] == pytest.approx(30, abs=1)


def test_a_newcomer_starts_level_with_whoever_used_least(make_agent, submit):
    make_agent()
    submit(project="old", expected_duration_s=600)
    Share.objects.create(pool_id="code", project="old", log_usage=1e6)
    submit(project="old")

    submit(project="new")

    assert Share.objects.get(project="new").log_usage == 1e6


def test_who_was_away_returns_level_with_whoever_used_least(make_agent, submit):
    make_agent()
    submit(project="old")
    Share.objects.create(pool_id="code", project="old", log_usage=1e6)
    Share.objects.create(pool_id="code", project="away", log_usage=5.0)
    submit(project="old")

    submit(project="away")

    shares = dict(Share.objects.values_list("project", "log_usage"))
    assert shares["away"] == fairness.entry(5.0, [shares["old"]]) == 1e6


def test_who_used_more_than_those_that_wait_keeps_that(make_agent, submit):
    make_agent()
    submit()
    Share.objects.create(pool_id="code", project="old", log_usage=1e6)
    Share.objects.create(pool_id="code", project="greedy", log_usage=2e6)
    submit(project="old")

    submit(project="greedy")

    assert Share.objects.get(project="greedy").log_usage == 2e6


def test_a_waiting_project_without_a_share_row_gets_one(make_agent, submit):
    make_agent()
    lease = submit().held
    waiting = submit(project="forgotten")
    Share.objects.all().delete()
    release(lease)
    assert Request.objects.get(id=waiting.id).status == "waiting"

    jobs.reserve()
    jobs.serve()

    assert Request.objects.get(id=waiting.id).status == "granted"


# -- bounded bypass --------------------------------------------------------------------------------


@pytest.fixture
def crowd(make_agent, make_request):
    """Keep agents full of small leases, each replaced as soon as it ends."""

    class Crowd:
        def __init__(self):
            self.agents = [
                make_agent(max_concurrent=4, memory_mb=1024, cpu_cores=8) for _ in range(2)
            ]
            self.live = deque()
            self.number = 0
            for _ in range(8):
                self.ask()

        def ask(self):
            self.number += 1
            small = make_request(
                project=f"small-{self.number % 3}", memory_mb=256, cpu_cores=1, min_cpu_cores=1
            )
            small.token_budget, small.disk_space_mb, small.priority = 100, 1, 50
            requests.submit(small)
            self.live.append(small.id)

        def step(self):
            """One ends, one comes, and the tick looks after the queue."""
            held = Lease.objects.filter(status="active", request_id__in=self.live)
            if lease := held.order_by("acquired_at").first():
                release(lease)
            self.ask()
            jobs.serve(), jobs.reserve()

        def passed_before(self, large):
            """Return how many small ones were granted, after its arrival, before the large one."""
            for _ in range(60):
                self.step()
                large.refresh_from_db()
                if large.status == "granted":
                    later = Request.objects.filter(number__gt=large.number)
                    return later.filter(granted_at__lt=large.granted_at).count()
            raise AssertionError("it is starving")

    return Crowd()


@pytest.mark.parametrize("priority", [50, 0])
@pytest.mark.parametrize("project", ["large", "small-0", "a"])
def test_a_large_request_is_not_passed_for_ever(crowd, submit, priority, project):
    amounts = {"memory_mb": 1024, "token_budget": 100, "disk_space_mb": 1}
    large = submit(project=project, priority=priority, **amounts)
    assert large.held is None

    assert crowd.passed_before(large) <= MAX_BYPASS + 10


@pytest.mark.parametrize("priority", [50, 0])
def test_a_request_of_the_crowds_own_shape_is_not_passed_for_ever(crowd, make_request, priority):
    """The kept agent takes it, though others of its shape come first by project or priority."""
    small = make_request(project="zz", memory_mb=256, cpu_cores=1, min_cpu_cores=1)
    small.token_budget, small.disk_space_mb, small.priority = 100, 1, priority
    requests.submit(small)
    small = Request.objects.get(id=small.id)
    Share.objects.filter(project="zz").update(log_usage=1e9)
    for _ in range(4):
        crowd.ask()

    assert crowd.passed_before(small) <= MAX_BYPASS + 10


@pytest.mark.parametrize("priority", [50, 0])
@pytest.mark.parametrize("least", [1000, 100])
def test_a_large_request_is_not_passed_for_ever_under_a_limit(
    crowd, make_agent, submit, priority, least
):
    make_agent(max_concurrent=4, memory_mb=8192, cpu_cores=8, token_budget=10**6)
    claim.set_limit({"level": "installation", "name": "", "memory_mb": 2100})
    amounts = {"memory_mb": 1000, "min_memory_mb": least, "token_budget": 100, "disk_space_mb": 1}
    large = submit(project="large", priority=priority, **amounts)
    assert large.held is None

    assert crowd.passed_before(large) <= MAX_BYPASS + 15
    jobs.reserve()
    assert not ResourceLimit.objects.exclude(reserved_for=None).exists()


def test_who_cannot_be_helped_does_not_keep_others_from_being_helped(crowd, submit):
    """No agent at work could ever serve the first; a new one from the template could."""
    Pool.objects.update(max_size=100, driver="local")
    hopeless = submit(memory_mb=4096)
    large = submit(project="large", memory_mb=1024, token_budget=100, disk_space_mb=1)
    assert (hopeless.status, large.status) == ("waiting", "waiting")

    assert crowd.passed_before(large) <= MAX_BYPASS + 10


def test_what_is_kept_is_for_one_request_only(crowd, submit):
    large = submit(project="large", memory_mb=1024, token_budget=100, disk_space_mb=1)
    for _ in range(MAX_BYPASS):
        crowd.step()
    kept = Agent.objects.get(reserved_for=large.id)
    before = kept.leases.count()

    crowd.step()

    assert kept.leases.exclude(request=large).count() == before


def test_what_was_kept_for_a_request_that_gave_up_is_free_again(make_agent, submit, make_request):
    agent = make_agent(max_concurrent=1)
    lease = submit().held
    waiting = submit()
    Request.objects.filter(id=waiting.id).update(queued_at=Now() - timedelta(hours=2))
    jobs.reserve()
    assert Agent.objects.get().reserved_for == waiting.id
    requests.cancel_request(waiting.id, actor="test")
    release(lease)

    jobs.reserve()

    try:
        assert requests.submit(make_request(), queue=False).agent_id == agent.id
    except CapacityExhausted as refusal:
        raise AssertionError("refused beside an empty agent") from refusal


def test_an_agent_that_was_kept_serves_others_once_its_request_has_another(make_agent, submit):
    Pool.objects.update(reserve_after_s=0)
    roomy = {"cpu_cores": 8, "token_budget": 10**6, "disk_space_mb": 10**4}
    make_agent(max_concurrent=3, memory_mb=4000, labels={"zone": "a"}, **roomy)
    submit(memory_mb=2000)
    large = submit(memory_mb=3000)
    jobs.reserve()
    assert Agent.objects.get().reserved_for == large.id
    # Only the kept agent fits it.
    small = submit(memory_mb=1000, labels={"zone": "a"})
    assert small.held is None

    make_agent(memory_mb=4000, **roomy)

    assert not Request.objects.filter(status="waiting").exists()


@pytest.mark.parametrize("how", ["its agent is paused", "its ask is above a ceiling now"])
def test_a_limit_is_not_kept_for_whom_nobody_can_serve_any_more(make_agent, submit, how):
    SecurityProfile.objects.update(memory_mb=8000)
    Pool.objects.update(reserve_after_s=0)
    make_agent("code", memory_mb=8000), make_agent("data", memory_mb=8000, max_concurrent=2)
    claim.set_limit({"level": "installation", "name": "", "memory_mb": 4000})
    submit("data", memory_mb=2000)
    large = submit("code", memory_mb=3000)
    jobs.reserve()
    assert ResourceLimit.objects.get().reserved_for == large.id
    if how == "its agent is paused":
        Agent.objects.filter(pool="code").update(health="maintenance")
    else:
        SecurityProfile.objects.filter(pool="code").update(memory_mb=1000)

    jobs.reserve()

    assert submit("data", memory_mb=500).held is not None


def test_an_agent_is_not_kept_for_whom_waits_for_a_lock(make_agent, submit):
    Pool.objects.update(reserve_after_s=0)
    make_agent(memory_mb=4000)
    make_agent("data")
    held = submit(memory_mb=2000).held
    wants = submit(memory_mb=3000, lock_keys=["main"])
    jobs.reserve()
    assert Agent.objects.get(pool="code").reserved_for == wants.id
    assert submit("data", lock_keys=["main"]).held is not None
    release(held)
    assert submit(memory_mb=1000).held is None

    jobs.reserve()
    jobs.serve()

    assert Request.objects.filter(pool="code", memory_mb=1000).get().status == "granted"


# -- queue limits ----------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [0, 1, 3])
def test_a_full_queue_refuses_and_stores_nothing(submit, make_request, limit):
    Pool.objects.update(queue_limit=limit)
    for number in range(limit):
        submit(project=f"p{number}")

    with pytest.raises(QueueFull):
        requests.submit(make_request(project="late"))

    assert Request.objects.count() == limit


@pytest.mark.parametrize("limit", [0, 1, 2])
def test_a_projects_full_queue_refuses_that_project_only(submit, make_request, limit):
    Pool.objects.update(project_queue_limit=limit)
    for _ in range(limit):
        submit(project="greedy")

    with pytest.raises(QueueFull):
        requests.submit(make_request(project="greedy"))

    assert Request.objects.count() == limit
    if limit:
        assert submit(project="other").status == "waiting"


def test_a_full_queue_does_not_refuse_what_can_be_granted(make_agent, submit):
    Pool.objects.update(queue_limit=1)
    submit(memory_mb=4096)
    make_agent()

    assert submit().held is not None


# -- what was used ---------------------------------------------------------------------------------


def used(project):
    """Return what is left of a project's usage, in slot-seconds."""
    log_usage = Share.objects.get(project=project).log_usage
    with connection.cursor() as cursor:
        cursor.execute("SELECT extract(epoch FROM clock_timestamp())::float8")
        return 2 ** (log_usage - cursor.fetchone()[0] / 3600)


def number_events():
    with connect() as own:
        relay = Relay(own)
        while relay.step():
            continue


def charge_events(count, *, project, cost):
    for _ in range(count):
        Event.objects.create(
            kind="lease.released",
            agent_type="code",
            project=project,
            detail={"charge_s": cost},
        )


def test_every_event_counts_once_however_often_it_is_folded(pools):
    charge_events(10, project="a", cost=60.0)
    number_events()

    assert sum(claim.fold_shares(batch=3) for _ in range(10)) >= 10
    assert claim.fold_shares() == 0

    # A new project begins with one slot-second.
    assert used("a") == pytest.approx(601, rel=0.01)


def test_folds_at_once_count_every_event_once(pools):
    done = []

    def fold():
        # A thread that finds another at work gets 0 at once: it is the count that ends this.
        end = time.monotonic() + 30
        while sum(done) < 300 and time.monotonic() < end:
            done.append(claim.fold_shares(batch=7))
        connection.close()

    number_events()
    while claim.fold_shares():
        continue
    charge_events(200, project="a", cost=10.0)
    charge_events(100, project="b", cost=5.0)
    number_events()
    threads = [threading.Thread(target=fold) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(40)

    assert sum(done) == 300
    assert used("a") == pytest.approx(2001, rel=0.01)
    assert used("b") == pytest.approx(501, rel=0.01)


def test_a_lease_is_charged_for_what_it_lasted(make_agent, submit):
    """At its grant for what was expected, at its end for the difference."""
    make_agent()
    release(submit(project="a", expected_duration_s=3600).held)
    number_events()
    while claim.fold_shares():
        continue

    assert used("a") < 10
    assert math.isfinite(used("a"))
