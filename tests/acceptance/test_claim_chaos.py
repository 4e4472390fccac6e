"""
Eight processes do anything to one database while they are killed at random; then all is whole.

AGENTPOOL_CHAOS_S: how long, seconds.
"""

import multiprocessing
import os
import random
import signal
import time
import traceback
from collections import Counter
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest
from django.db import connection, connections, transaction
from django.db.models.functions import Now

from agentpool.registry import queries as registry_queries
from agentpool.registry.errors import Refusal
from agentpool.registry.models import Agent, Lease, LeaseOutcome, Pool, Request, SecurityProfile
from agentpool.registry.states import LIVE, Outcome
from balancing import claim, jobs
from balancing.services import agents, leases, queue, requests
from tests.integration.test_claim_machine import could_have

pytestmark = [
    pytest.mark.kill,
    pytest.mark.alone,
    pytest.mark.slow,
    pytest.mark.django_db(transaction=True),
    pytest.mark.timeout(600),
]

CHAOS_S = float(os.environ.get("AGENTPOOL_CHAOS_S", "20"))
PROCESSES = 8
KILL_EVERY_S = 0.4
CRASHES = 0.005
TYPES, PROJECTS = ("code", "data"), tuple("abcd")
PLACES = [("installation", ""), ("pool", "code"), *(("project", name) for name in PROJECTS)]


def test_all_is_whole_after_random_work_and_kills(pools, settings, tmp_path):
    furnish(settings)
    before, killed = deadlocks(), 0
    connections.close_all()
    chance, until = random.Random(5), time.monotonic() + CHAOS_S
    team = [Actor(tmp_path, seed) for seed in range(PROCESSES)]

    while time.monotonic() < until:
        time.sleep(KILL_EVERY_S)
        one = chance.randrange(PROCESSES)
        killed += team[one].kill()
        for place, actor in enumerate(team):
            if not actor.process.is_alive():
                team[place] = Actor(tmp_path, chance.randrange(10**6))
    killed += sum(actor.kill() for actor in team)

    done = Counter("".join(file.read_text() for file in tmp_path.glob("*.done")).split())
    errors = "\n".join(file.read_text() for file in tmp_path.glob("*.error"))
    print(f"{sum(done.values())} operations {dict(done)}, {killed} kills, {len(errors)} of errors")
    wait_for_backends()
    settle()
    print(f"{deadlocks() - before} deadlocks, {LeaseOutcome.objects.count()} leases ended")
    assert errors == ""
    assert deadlocks() == before
    assert_whole()
    give_all_back()
    assert_whole()


def furnish(settings):
    settings.BACKOFF_S = 0
    settings.MAX_ATTEMPTS = 3
    SecurityProfile.objects.update(memory_mb=10**6, cpu_cores=10**4)
    Pool.objects.update(max_bypass=20, reserve_after_s=2, queue_limit=60)
    for number in range(6):
        enrol(f"{TYPES[number % 2]}-{number}")


def enrol(name):
    pool = registry_queries.pool(name.split("-")[0])
    size = {"max_concurrent": 5, "memory_mb": 4096, "cpu_cores": 5, "token_budget": 10**6}
    fields = {**pool.launch_template, **size, "disk_space_mb": 2000}
    agents.register(agent_id=name, pool=pool, fields=fields, by=None, actor="chaos")


# -- after it --------------------------------------------------------------------------------------


def assert_whole():
    assert registry_queries.broken_invariants() == {}
    waiting = Request.objects.filter(status="waiting", expires_at__gt=Now())
    assert {r.number: who for r in waiting if (who := could_have(r))} == {}


def settle():
    for _ in range(5):
        jobs.expire(), jobs.reserve(), queue.serve(TYPES), jobs.learn()


def give_all_back():
    """End everything: what is left must be an empty house."""
    for request in Request.objects.filter(status="waiting"):
        requests.cancel_request(request.id, actor="chaos")
    for lease in Lease.objects.filter(status__in=LIVE):
        leases.cancel(lease, reason="", actor="chaos")
    settle()
    assert not Agent.objects.filter(load__gt=0).exists()
    assert not Lease.objects.filter(status__in=LIVE).exists()


def wait_for_backends():
    """Wait until the server has noticed that its clients are dead."""
    for _ in range(200):
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
                " AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
                " AND (state <> 'idle' OR backend_xmin IS NOT NULL)"
            )
            if cursor.fetchone()[0] == 0:
                return
        time.sleep(0.1)
    raise AssertionError("backends of dead processes are still at work")


def deadlocks():
    time.sleep(0.2)
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_stat_force_next_flush()")
        cursor.execute("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
        return cursor.fetchone()[0]


# -- one process -----------------------------------------------------------------------------------


class Actor:
    """A process that works until it is killed, or kills itself in the midst of something."""

    def __init__(self, folder: Path, seed: int) -> None:
        # Forked, so that a new one is at work within milliseconds.
        self.process = multiprocessing.get_context("fork").Process(
            target=act, args=(folder, seed), daemon=True
        )
        self.process.start()

    def kill(self) -> bool:
        was_alive = self.process.is_alive()
        self.process.kill()
        self.process.join(10)
        return was_alive


def act(folder: Path, seed: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    random.seed(seed)
    done = os.open(folder / f"{os.getpid()}.done", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    try:
        while True:
            operation = random.choice(OPERATIONS)
            if random.random() < CRASHES:
                crash_within(operation)
            with suppress(Refusal):
                operation()
            os.write(done, f"{operation.__name__} ".encode())
    except BaseException:
        (folder / f"{os.getpid()}.error").write_text(traceback.format_exc())
    finally:
        os._exit(1)


def crash_within(operation):
    with transaction.atomic():
        with suppress(Refusal):
            operation()
        os.kill(os.getpid(), signal.SIGKILL)


def wish():
    memory = random.choice((64, 128, 256, 512, 1024, 3000))
    cpu = random.choice((1, 1, 1, 2))
    return Request(
        pool_id=random.choice(TYPES),
        project=random.choice(PROJECTS),
        priority=random.choice((10, 50, 50, 90)),
        memory_mb=memory,
        min_memory_mb=memory // random.choice((1, 2)),
        cpu_cores=cpu,
        min_cpu_cores=cpu,
        token_budget=random.choice((100, 1000)),
        disk_space_mb=10,
        affinity=random.choice(("none", "soft", "hard")),
        cycle_id=random.choice(("", "c1", "c2", "c3")),
        lock_keys=random.sample("klmn", random.choice((0, 0, 0, 1, 2))),
        strategy=random.choice(("", "least_loaded", "best_of_k", "bin_pack", "predictive")),
        requested_by="chaos",
    )


def one_of(rows):
    return rows.order_by("?").first()


def ask():
    requests.submit(wish(), queue=random.random() < 0.7)


def ask_many():
    for got in claim.acquire([wish() for _ in range(random.randint(2, 6))], queue=True):
        with suppress(Refusal):
            requests.answered(got)


def ask_gang():
    requests.submit_all([wish() for _ in range(random.randint(2, 3))], gang=random.random() < 0.7)


def release():
    if lease := one_of(Lease.objects.filter(status__in=LIVE)):
        how = {"outcome": random.choice(list(Outcome)), "retry": random.random() < 0.2}
        leases.release(lease.id, token=lease.fencing_token, actor="chaos", **how)


def release_many():
    found = Lease.objects.filter(status__in=LIVE).order_by("?")[: random.randint(2, 8)]
    how = {"outcome": Outcome.SUCCESS, "actor": "chaos"}
    closes = [leases.closing(one.id, token=one.fencing_token, **how) for one in found]
    closed = claim.close(closes)
    queue.serve({pool for one in closed for pool in one.pools})


def park():
    if lease := one_of(Lease.objects.filter(status="active")):
        leases.park(lease.id, token=lease.fencing_token, reason="", actor="chaos")


def resume():
    if lease := one_of(Lease.objects.filter(status="parked")):
        leases.resume(lease.id, token=lease.fencing_token, actor="chaos")


def resize():
    if lease := one_of(Lease.objects.filter(status="active")):
        amounts = {"memory_mb": random.choice((64, 200, 800, 2000))}
        leases.resize(lease.id, token=lease.fencing_token, amounts=amounts, actor="chaos")


def cancel():
    if request := one_of(Request.objects.filter(status__in=["waiting", "granted"])):
        requests.cancel_request(request.id, actor="chaos")


def expire():
    for rows in (
        Lease.objects.filter(status__in=LIVE),
        Request.objects.filter(status="waiting"),
    ):
        if row := one_of(rows):
            rows.filter(id=row.id).update(expires_at=Now() - timedelta(seconds=60))
    jobs.expire()


def change_limit():
    if random.random() < 0.3:  # the moment of a change stops the rest
        level, name = random.choice(PLACES)
        amounts = {
            "memory_mb": random.choice((None, 500, 4000, 9000)),
            "cpu_cores": random.choice((None, 6, 12)),
            "network_bandwidth_mbps": random.choice((None, 100.0)),
            "weight": random.choice((1, 2, 3)),
        }
        claim.set_limit({"level": level, "name": name, **amounts})
        queue.serve(TYPES)


def drain_or_resume():
    agent = one_of(Agent.objects.all())
    if agent.status == "draining" or random.random() < 0.7:
        agents.resume(agent, actor="chaos")
    else:
        agents.drain(agent, retire=False, actor="chaos")


def register():
    if random.random() < 0.2:
        enrol(one_of(Agent.objects.all()).agent_id)


def tick():
    jobs.serve(), jobs.reserve(), jobs.learn()


OPERATIONS = [ask] * 8 + [ask_many] * 2 + [ask_gang] + [release] * 10 + [release_many]
OPERATIONS += [park, resume, resize, cancel, expire, change_limit, drain_or_resume, register, tick]
