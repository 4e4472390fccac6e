"""Limits are exact: never exceeded at any concurrency, and what fits under them is not refused."""

import json
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import pytest
from django.db import connection, transaction
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from agentpool.registry import queries as registry_queries
from agentpool.registry.errors import AgentBusy, CapacityExhausted, NotFound, Unsatisfiable
from agentpool.registry.models import (
    Agent,
    Lease,
    LimitShard,
    Request,
    ResourceLimit,
    SecurityProfile,
)
from agentpool.registry.states import HOLDING, Outcome
from balancing import claim, jobs, terms
from balancing.services import exchange, leases, limits, requests
from balancing.services.exchange import Call
from balancing.terms import Wish
from tests.integration.test_claim_machine import AMOUNTS, could_have, empty, places_now

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("whole")]

THREADS = 6
PLENTY = {"memory_mb": 10**6, "cpu_cores": 10**4, "token_budget": 10**8, "disk_space_mb": 10**6}
HAMMER_S = 3.0
PLACES = (("installation", ""), ("pool", "code"), ("project", "p"))


@pytest.fixture(autouse=True)
def wide_profiles(pools):
    SecurityProfile.objects.update(memory_mb=10**6, cpu_cores=10**4)


@pytest.fixture
def roomy(make_agent):
    """Agents that have plenty of everything: only limits bind."""
    return [make_agent(max_concurrent=200, **PLENTY) for _ in range(4)]


@pytest.fixture
def no_deadlocks():
    before = deadlocks()
    yield
    time.sleep(0.2)
    assert deadlocks() == before


def deadlocks():
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_stat_force_next_flush()")
        cursor.execute("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
        return cursor.fetchone()[0]


def limit_(level="installation", name="", **amounts):
    return claim.set_limit({"level": level, "name": name, **amounts})


def release(lease):
    how = {"outcome": Outcome.SUCCESS, "actor": "test"}
    return leases.release(lease.id, token=lease.fencing_token, **how)


def free(level="installation"):
    limit = ResourceLimit.objects.get(level=level)
    return sum(LimitShard.objects.filter(resource_limit=limit).values_list("memory_mb", flat=True))


def held():
    return sum(Lease.objects.filter(status__in=HOLDING).values_list("memory_mb", flat=True))


def threads(*calls):
    """Run calls in threads with connections of their own; return what they return."""
    barrier = threading.Barrier(len(calls))

    def run(call):
        barrier.wait(10)
        try:
            return call()
        finally:
            connection.close()

    with ThreadPoolExecutor(len(calls)) as pool:
        return [future.result(60) for future in [pool.submit(run, call) for call in calls]]


# -- one connection --------------------------------------------------------------------------------

steps = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), st.sampled_from("pq"), st.integers(1, 900), st.integers(1, 4)),
        st.tuples(st.just("free"), st.integers(0, 20)),
        st.tuples(st.just("park"), st.integers(0, 20)),
        st.tuples(st.just("resume"), st.integers(0, 20)),
        st.tuples(st.just("resize"), st.integers(0, 20), st.integers(1, 1500)),
        st.tuples(st.just("unlimit"), st.sampled_from(PLACES)),
        st.tuples(
            st.just("limit"),
            st.sampled_from(PLACES),
            st.fixed_dictionaries(
                {
                    "memory_mb": st.sampled_from((None, 0, 700, 2000, 5000)),
                    "cpu_cores": st.sampled_from((None, 3, 9)),
                    "token_budget": st.sampled_from((None, 5000)),
                    "network_bandwidth_mbps": st.sampled_from((None, 45.0)),
                }
            ),
        ),
    ),
    max_size=25,
)


@hypothesis_settings(
    max_examples=25,
    deadline=None,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(steps)
def test_what_fits_is_granted_and_what_does_not_is_refused(make_agent, make_request, steps):
    empty()
    make_agent(max_concurrent=200, **PLENTY)
    for name, *arguments in steps:
        STEPS[name](make_request, *arguments)
        assert registry_queries.broken_invariants() == {}


def ask(make_request, project, memory, cpu):
    wish = make_request(project=project, memory_mb=memory, cpu_cores=cpu, min_cpu_cores=cpu)
    wish.token_budget, wish.disk_space_mb = 700, 10
    could = could_have(wish)
    try:
        requests.submit(wish, queue=False)
    except (CapacityExhausted, Unsatisfiable):
        assert not could
    else:
        assert could


def nth(status, which):
    found = list(Lease.objects.filter(status=status).order_by("acquired_at"))
    return found[which % len(found)] if found else None


def free_one(_, which):
    if lease := nth("active", which) or nth("parked", which):
        release(lease)


def park(_, which):
    if lease := nth("active", which):
        leases.park(lease.id, token=lease.fencing_token, reason="", actor="test")


def room_for(lease, less=None):
    """Say whether the limits have room for what a lease holds (less what it holds already)."""
    names = AMOUNTS[:4]
    return all(
        (left := place.free(name)) is None
        or left >= getattr(lease, name) - (getattr(less, name) if less else 0)
        for place in places_now()
        for name in names
        if not less or getattr(lease, name) > getattr(less, name)
        if place.limit.level != "project" or place.limit.name == lease.project
    ) and (
        less or all((f := p.free("network_bandwidth_mbps")) is None or f >= 10 for p in of(lease))
    )


def of(lease):
    return [p for p in places_now() if p.limit.level != "project" or p.limit.name == lease.project]


def resume(_, which):
    if lease := nth("parked", which):
        could = room_for(lease)
        try:
            leases.resume(lease.id, token=lease.fencing_token, actor="test")
        except AgentBusy:
            assert not could
        else:
            assert could


def resize(_, which, memory):
    if lease := nth("active", which):
        memory = max(memory, min(lease.memory_mb, lease.request.min_memory_mb))
        wanted = Lease.objects.get(id=lease.id)
        wanted.memory_mb = memory
        could = room_for(wanted, less=lease)
        wish = {"memory_mb": memory}
        try:
            leases.resize(lease.id, token=lease.fencing_token, amounts=wish, actor="test")
        except (CapacityExhausted, Unsatisfiable):
            assert not could
        else:
            assert could


def remove_limit(_, place):
    level, name = place
    limit = ResourceLimit.objects.filter(level=level, name=name).first()
    if limit is not None:
        limits.remove_limit(limit.id, actor="test")
        assert not LimitShard.objects.filter(resource_limit_id=limit.id).exists()


def set_limit(_, place, amounts):
    level, name = place
    found = claim.set_limit({"level": level, "name": name, **amounts})
    used = next(p for p in places_now() if p.limit.id == found.id)
    assert found.is_overdrawn == any((used.free(n) or 0) < 0 for n in AMOUNTS)


STEPS = {
    "ask": ask,
    "free": free_one,
    "park": park,
    "resume": resume,
    "resize": resize,
    "limit": set_limit,
    "unlimit": remove_limit,
}


def test_a_limit_lowered_below_its_use_takes_nothing_until_enough_came_back(roomy, submit):
    first, second, third = (submit(memory_mb=1000).held for _ in range(3))
    total = held()

    limit_(memory_mb=total - 1)

    assert ResourceLimit.objects.get().is_overdrawn
    waiting = submit(memory_mb=100)
    assert waiting.held is None
    release(first)
    waiting.refresh_from_db()
    assert waiting.status == "granted"
    assert free() == total - 1 - held()
    release(second), release(third)
    submit(memory_mb=100)
    assert not ResourceLimit.objects.get().is_overdrawn


def test_a_raised_limit_is_taken_up_by_the_next_look(roomy, submit):
    limit_(memory_mb=1000)
    submit(memory_mb=1000)
    waiting = submit(memory_mb=1000)

    limit_(memory_mb=2000)
    jobs.serve()

    waiting.refresh_from_db()
    assert waiting.status == "granted"


@pytest.mark.parametrize("how", ["parks", "shrinks"])
def test_what_a_lease_gives_back_alive_goes_to_who_waits_in_another_pool(
    roomy, make_agent, submit, how
):
    make_agent("data", **PLENTY)
    limit_(memory_mb=1000)
    lease = submit("code", memory_mb=1000, min_memory_mb=100).held
    waiting = submit("data", memory_mb=500)

    if how == "parks":
        leases.park(lease.id, token=lease.fencing_token, reason="", actor="test")
    else:
        wish = {"memory_mb": 500}
        leases.resize(lease.id, token=lease.fencing_token, amounts=wish, actor="test")

    waiting.refresh_from_db()
    assert waiting.status == "granted"


def test_a_lease_may_shrink_under_a_limit_that_was_lowered(roomy, submit):
    lease = submit(memory_mb=1000, min_memory_mb=100).held
    limit_(memory_mb=200)

    leases.resize(lease.id, token=lease.fencing_token, amounts={"memory_mb": 500}, actor="test")

    assert free() == 200 - 500


def test_a_lease_may_shrink_below_a_ceiling_that_was_lowered(roomy, submit):
    lease = submit(memory_mb=1000, min_memory_mb=100).held
    limit_(max_memory_mb=300)

    leases.resize(lease.id, token=lease.fencing_token, amounts={"memory_mb": 500}, actor="test")

    assert held() == 500


def test_a_resize_stays_inside_the_ceiling_of_disk(roomy, submit):
    lease = submit(disk_space_mb=100).held
    limit_(max_disk_space_mb=200)
    wish = {"disk_space_mb": 201}

    wish = {"disk_space_mb": 201}
    with pytest.raises(Unsatisfiable):
        leases.resize(lease.id, token=lease.fencing_token, amounts=wish, actor="test")


def test_what_a_list_takes_beforehand_comes_back_to_the_thousandth(roomy, make_request):
    limit_(cpu_cores=10)
    rows = [make_request(cpu_cores=cores, min_cpu_cores=cores) for cores in (0.333, 1)]

    exchange.answers(
        [Call(Wish(r.id, "code", json.dumps(terms.columns_of(r))), None) for r in rows]
    )

    assert Lease.objects.count() == 2
    assert registry_queries.broken_invariants() == {}


# -- several connections ---------------------------------------------------------------------------


def held_open(call):
    """Do something in a transaction that another thread holds open; return how to commit it."""
    done, commit = threading.Event(), threading.Event()
    result = []

    def run():
        with transaction.atomic():
            result.append(call())
            done.set()
            assert commit.wait(20)
        connection.close()

    thread = threading.Thread(target=run)
    thread.start()
    assert done.wait(10)

    def end():
        commit.set()
        thread.join(20)
        return result[0]

    return end


def lock_all_shards():
    with connection.cursor() as cursor:
        cursor.execute("SELECT id FROM limit_shard FOR NO KEY UPDATE")


def test_a_release_while_all_shards_are_locked_makes_a_new_one(roomy, submit):
    limit_(memory_mb=4000)
    lease = submit(memory_mb=1000).held
    shards = LimitShard.objects.count()
    end = held_open(lock_all_shards)

    release(lease)
    end()

    assert LimitShard.objects.count() == shards + 1
    assert free() == 4000
    assert submit(memory_mb=4000).held is not None
    assert free() == 0


def exactly(call):
    """Do in a transaction what a claim does that has locked the limits, with a call in between."""
    limits = "(SELECT array_agg(x ORDER BY x.id) FROM resource_limit x)"
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(f"SELECT limits_lock_1({limits})")
        threads(call)
        cursor.execute(f"SELECT limits_take_1({limits}, gen_random_uuid(), true, 500, 1, 1, 1, 10)")
        taken = cursor.fetchone()[0]
        cursor.execute(f"SELECT limits_spread_1({limits}, 500, 1, 1, 1, 10)")
        transaction.set_rollback(True)
    return taken


def test_what_comes_back_while_limits_are_locked_is_counted(roomy, submit):
    limit_(memory_mb=5000)
    lease = submit(memory_mb=1000).held

    assert exactly(lambda: release(lease))

    assert free() == 5000


def test_what_comes_back_to_an_overdrawn_limit_is_not_taken_at_once(roomy, submit):
    lease, _ = submit(memory_mb=1000).held, submit(memory_mb=1000)
    limit_(memory_mb=500)

    assert not exactly(lambda: release(lease))


def hammer(seed, until, make_request, *, projects="p", sizes=(64, 128, 256, 512)):
    """
    Acquire and release at random until the time has come; return how often, and the refused.

    It only acquires until it is refused for the first time: so slow machines reach the edge, too.
    """
    chance, mine, counts = random.Random(seed), [], {"granted": 0, "refused": 0}
    while time.monotonic() < until:
        if mine and counts["refused"] and chance.random() < 0.45:
            release(mine.pop(chance.randrange(len(mine))))
            continue
        size = chance.choice(sizes)
        wish = make_request(project=chance.choice(projects), memory_mb=size, token_budget=100)
        wish.min_cpu_cores = wish.cpu_cores = 1
        try:
            mine.append(requests.submit(wish, queue=False))
            counts["granted"] += 1
        except CapacityExhausted:
            counts["refused"] += 1
            if mine:
                release(mine.pop())
    return mine, counts


def watch(until):
    """Look again and again; each look is one snapshot, so everything must hold in it."""
    looks = 0
    while time.monotonic() < until:
        assert registry_queries.broken_invariants() == {}
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT x.level, x.memory_mb, sum(l.memory_mb) FROM resource_limit x JOIN lease l"
                " ON l.status IN ('active', 'offered') AND (x.level = 'installation'"
                "   OR x.level = 'pool' AND l.agent_type = x.name"
                "   OR x.level = 'project' AND l.project = x.name)"
                " WHERE x.memory_mb IS NOT NULL AND NOT x.is_overdrawn GROUP BY x.id"
                " HAVING sum(l.memory_mb) > x.memory_mb"
            )
            assert cursor.fetchall() == []
        looks += 1
        time.sleep(0.02)
    return looks


@pytest.mark.slow
@pytest.mark.parametrize("levels", [PLACES[:1], PLACES])
def test_hammered_at_its_edge_a_limit_is_exact(roomy, make_request, no_deadlocks, levels):
    for level, name in levels:
        limit_(level, name, memory_mb=8000)
    until = time.monotonic() + HAMMER_S

    results = threads(
        lambda: watch(until),
        *(
            lambda seed=seed: hammer(seed, until, make_request, projects="ppq")
            for seed in range(THREADS)
        ),
    )

    done = {name: sum(c[name] for _, c in results[1:]) for name in ("granted", "refused")}
    assert done["granted"] > 20, "hardly anything happened: this proves nothing"
    assert done["refused"] > 5, "the limit was never full: this proves nothing"
    for level, _ in levels:
        left = sum(
            lease.memory_mb
            for lease in Lease.objects.filter(status__in=HOLDING)
            if level != "project" or lease.project == "p"
        )
        assert free(level) == 8000 - left
    # What is left fits to the last MB, though it lies in many shards.
    if rest := min(free(level) for level, _ in levels):
        assert requests.submit(make_request(memory_mb=rest, token_budget=1), queue=False)
    with pytest.raises(CapacityExhausted):
        requests.submit(make_request(memory_mb=1, token_budget=1), queue=False)


@pytest.mark.slow
def test_exchanges_that_take_for_all_at_once_stay_exact(roomy, make_request, no_deadlocks):
    """A list reserves for all of its requests in one step, and gives back what it did not need."""
    limit_(memory_mb=8000)
    limit_("pool", "code", memory_mb=7000)
    until = time.monotonic() + HAMMER_S

    def exchange_():
        ended, granted = [], 0
        while time.monotonic() < until:
            rows = [make_request(memory_mb=250, min_memory_mb=100) for _ in range(5)]
            wishes = [Wish(r.id, "code", json.dumps(terms.columns_of(r))) for r in rows]
            answers = exchange.answers([Call(each, None) for each in [*ended, *wishes]])
            shown = [json.loads(a) for a in answers if isinstance(a, str)]
            held = [a for a in shown if a.get("status") == "active"]
            granted += len(held)
            # Who waits would be given what the others leave, and nobody here would give it back.
            for waiting in {str(row.id) for row in rows} - {a["request_id"] for a in held}:
                requests.cancel_request(UUID(waiting), actor="test")
            ended = [
                leases.closing(
                    UUID(a["id"]),
                    token=a["fencing_token"],
                    outcome=Outcome.SUCCESS,
                    actor="test",
                )
                for a in held
            ]
        return granted

    granted = sum(threads(lambda: watch(until), *([exchange_] * 4))[1:])

    assert granted > 100, "hardly anything happened: this proves nothing"
    for request in Request.objects.filter(status="waiting"):
        requests.cancel_request(request.id, actor="test")
    for lease in Lease.objects.filter(status="active"):
        release(lease)
    assert (free(), free("pool")) == (8000, 7000)


@pytest.mark.slow
def test_limits_that_change_under_load_stay_exact(roomy, make_request, no_deadlocks):
    until = time.monotonic() + HAMMER_S

    def change():
        chance = random.Random(1)
        while time.monotonic() < until:
            level, name = chance.choice(PLACES)
            amounts = {"memory_mb": chance.choice((None, 2000, 6000, 9000))}
            limit_(level, name, **amounts)
            time.sleep(chance.choice((0.01, 0.1)))

    def park_and_resize():
        chance = random.Random(2)
        while time.monotonic() < until:
            try:
                mine = requests.submit(make_request(memory_mb=300, min_memory_mb=100))
            except Unsatisfiable:
                continue
            if mine is None:
                jobs.reserve()
                continue
            for _ in range(4):
                wish = {"memory_mb": chance.choice((100, 200, 600))}
                try:
                    leases.resize(mine.id, token=mine.fencing_token, amounts=wish, actor="test")
                    leases.park(mine.id, token=mine.fencing_token, reason="", actor="test")
                    mine = leases.resume(mine.id, token=mine.fencing_token, actor="test")
                except (CapacityExhausted, AgentBusy):
                    break
            release(mine)

    threads(
        lambda: watch(until),
        change,
        park_and_resize,
        *(lambda s=s: hammer(s, until, make_request, projects="pq") for s in range(4)),
    )

    for lease in Lease.objects.filter(status__in=["active", "parked"]):
        release(lease)
    for request in Request.objects.filter(status="waiting"):
        requests.cancel_request(request.id, actor="test")
    for lease in Lease.objects.filter(status="active"):
        release(lease)
    assert Agent.objects.filter(load__gt=0).count() == 0
    for limit in ResourceLimit.objects.exclude(memory_mb=None):
        shards = LimitShard.objects.filter(resource_limit=limit)
        assert sum(shards.values_list("memory_mb", flat=True)) == limit.memory_mb


def test_a_limit_that_comes_while_a_claim_is_under_way_counts_it(roomy, make_request):
    """Its creator waits for the claim to commit, and then sees its lease."""
    end = held_open(lambda: requests.submit(make_request(memory_mb=1000)))
    maker = threading.Thread(target=lambda: (limit_(memory_mb=5000), connection.close()))
    maker.start()
    time.sleep(0.2)
    assert maker.is_alive()

    lease = end()
    maker.join(20)

    assert free() == 5000 - lease.memory_mb


def test_a_lease_that_ends_while_a_limit_comes_is_not_counted_twice(roomy, submit):
    lease = submit(memory_mb=1000).held
    end = held_open(lambda: release(lease))
    maker = threading.Thread(target=lambda: (limit_(memory_mb=5000), connection.close()))
    maker.start()
    time.sleep(0.2)

    end()
    maker.join(20)

    assert free() == 5000


def test_a_claim_that_waits_for_a_new_limit_obeys_it(roomy, make_request):
    end = held_open(lambda: limit_(memory_mb=500))
    refused = []

    def ask_too_much():
        try:
            requests.submit(make_request(memory_mb=1000), queue=False)
        except Unsatisfiable as refusal:
            refused.append(refusal)
        connection.close()

    asker = threading.Thread(target=ask_too_much)
    asker.start()
    time.sleep(0.2)
    end()
    asker.join(20)

    assert refused
    assert held() == 0


@pytest.mark.slow
def test_a_limit_that_goes_while_work_comes_and_goes_leaves_nothing_behind(
    roomy, make_request, no_deadlocks
):
    over = time.monotonic() + HAMMER_S

    def work():
        while time.monotonic() < over:
            lease = requests.submit(make_request(memory_mb=100))
            if lease is not None:
                release(lease)

    def remove():
        while time.monotonic() < over:
            limit_(memory_mb=random.choice([150, 500, 5000]))
            time.sleep(0.02)
            limits.remove_limit(ResourceLimit.objects.get().id, actor="test")

    threads(*[work] * 4, remove)

    assert not LimitShard.objects.exists()
    assert not Request.objects.filter(status="waiting").exists()


def test_of_two_that_remove_a_limit_one_is_told(pools, no_deadlocks):
    limit = limit_(memory_mb=500)

    def remove():
        try:
            limits.remove_limit(limit.id, actor="test", if_generation=limit.generation)
        except NotFound as refusal:
            return refusal.code
        return "removed"

    assert sorted(threads(*[remove] * 4)) == ["not_found"] * 3 + ["removed"]
