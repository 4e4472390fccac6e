"""
Anything in any order, on the real database: after each step every promise of the claim holds.

AGENTPOOL_MACHINE_EXAMPLES and AGENTPOOL_MACHINE_STEPS make the run longer.
"""

import os
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal

import pytest
from django.db import connection
from django.db.models import Max
from django.db.models.functions import Now
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from agentpool.registry import queries as registry_queries
from agentpool.registry.errors import CapacityExhausted, Refusal
from agentpool.registry.models import (
    Agent,
    Lease,
    Liveness,
    LockKey,
    Pool,
    Request,
    ResourceLimit,
    SecurityProfile,
    Tick,
)
from agentpool.registry.states import HOLDING, LIVE, PLACEABLE_HEALTH, PLACEABLE_STATUS, Outcome
from balancing import claim, jobs
from balancing.fit import Capacity, Needs, fits
from balancing.scoring import STRATEGIES
from balancing.services import agents, heartbeats, leases, queue, requests

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(3600)]

EXAMPLES = int(os.environ.get("AGENTPOOL_MACHINE_EXAMPLES", "30"))
STEPS = int(os.environ.get("AGENTPOOL_MACHINE_STEPS", "30"))
TYPES, PROJECTS = ("code", "data"), ("p", "q")
SIZES = {  # of the agents: slots, MB, cores, tools
    "code-1": (1, 1024, 1, []),
    "code-2": (2, 1536, 2, ["docker"]),
    "code-3": (4, 4096, 3, []),
    "data-1": (2, 2048, 2, []),
}
AMOUNTS = ("memory_mb", "cpu_cores", "token_budget", "disk_space_mb", "network_bandwidth_mbps")
CHANGING = ("request", "lease", "agent", "capability_class", "lock_key", "outcome", "liveness")
CHANGING += ("resource_limit", "limit_shard", "share", "share_state", "outlook", "event")
CHANGING += ("pool_learning", "agent_learning", "calibration", "learning_state")

wishes = st.fixed_dictionaries(
    {
        "pool_id": st.sampled_from(("code", "code", "data")),
        "project": st.sampled_from(PROJECTS),
        "priority": st.sampled_from((50, 50, 10, 90)),
        "memory_mb": st.sampled_from((128, 512, 1024, 1500, 3000)),
        "cpu_cores": st.sampled_from((Decimal("0.5"), Decimal(1), Decimal(2))),
        "token_budget": st.sampled_from((0, 1000, 50_000)),
        "disk_space_mb": st.sampled_from((0, 100)),
        "special_tools": st.sampled_from(([], [], ["docker"])),
        "strategy": st.sampled_from(("", *STRATEGIES)),
        "affinity": st.sampled_from(("none", "soft", "hard")),
        "cycle_id": st.sampled_from(("", "c1", "c2")),
        "lock_keys": st.sampled_from(([], [], [], ["k"], ["k", "m"], ["m"])),
        "avoid_agents": st.sampled_from(([], [], ["code-3"])),
        "preferred_agent": st.sampled_from(("", "", "code-2")),
        "payload": st.sampled_from((None, {"command": ["x"]})),
    }
)
limits = st.fixed_dictionaries(
    {"place": st.sampled_from([("installation", ""), ("pool", "code"), ("project", "p")])},
    optional={
        "memory_mb": st.sampled_from((None, 500, 2000, 4000)),
        "cpu_cores": st.sampled_from((None, 2, 5)),
        "token_budget": st.sampled_from((None, 60_000)),
        "network_bandwidth_mbps": st.sampled_from((None, 25.0)),
        "max_memory_mb": st.sampled_from((None, 1400)),
        "min_memory_mb": st.sampled_from((None, 256)),
        "weight": st.sampled_from((1, 3)),
    },
)
some = st.integers(0, 50)


@dataclass(frozen=True)
class Place:
    """A limit with what holding leases have reserved under it."""

    limit: ResourceLimit
    used: dict

    def free(self, name):
        total = getattr(self.limit, name)
        return None if total is None else total - self.used[name]


class Machine(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        empty()
        self.tokens, self.overdrawn, self.was_set = set(), {}, set()
        for name in SIZES:
            enrol(name)

    # -- requests

    @rule(wish=wishes, least=st.sampled_from((1, 1, 2)))
    def acquire(self, wish, least):
        with suppress(Refusal):
            requests.submit(made(wish, least))

    @rule(wish=wishes, least=st.sampled_from((1, 2)))
    def assign(self, wish, least):
        """Without queueing: what fits is granted, what is refused did not fit."""
        request = made(wish, least)
        could = could_have(request)
        try:
            requests.submit(request, queue=False)
        except CapacityExhausted:
            assert not could, f"refused, though {could} fits: {wish}"
        except Refusal:
            assert not could
        else:
            assert could, f"granted, though nobody fits: {wish}"

    @rule(several=st.lists(wishes, min_size=2, max_size=4), is_gang=st.booleans())
    def gang(self, several, is_gang):
        made_ = [made(wish, 1) for wish in several]
        try:
            requests.submit_all(made_, gang=is_gang)
        except Refusal:
            assert not Request.objects.filter(id__in=[one.id for one in made_]).exists()
        else:
            granted = Lease.objects.filter(request__in=made_, status__in=LIVE).count()
            assert granted == len(made_) or not is_gang

    @rule(several=st.lists(wishes, min_size=2, max_size=4))
    def batch(self, several):
        for got in claim.acquire([made(wish, 1) for wish in several], queue=True):
            with suppress(Refusal):
                requests.answered(got)

    @rule(which=some)
    def cancel(self, which):
        if request := nth(Request.objects.filter(status__in=["waiting", "granted"]), which):
            requests.cancel_request(request.id, actor="machine")

    @rule(which=some)
    def time_out(self, which):
        if request := nth(Request.objects.filter(status="waiting"), which):
            Request.objects.filter(id=request.id).update(expires_at=Now() - timedelta(seconds=1))
            jobs.expire()

    # -- leases

    @rule(which=some, outcome=st.sampled_from(Outcome), retry=st.booleans())
    def release(self, which, outcome, retry):
        if lease := nth(Lease.objects.filter(status__in=LIVE), which):
            how = {"outcome": outcome, "retry": retry, "actor": "machine"}
            leases.release(lease.id, token=lease.fencing_token, **how)
            with pytest.raises(Refusal):
                leases.release(lease.id, token=lease.fencing_token, **how)

    @rule(several=st.sets(some, max_size=4))
    def release_many(self, several):
        found = {nth(Lease.objects.filter(status__in=LIVE), which) for which in several} - {None}
        how = {"outcome": Outcome.SUCCESS, "actor": "machine"}
        closes = [leases.closing(one.id, token=one.fencing_token, **how) for one in found]
        assert {closed.code for closed in claim.close(closes)} <= {"ok"}

    @rule(which=some)
    def acknowledge(self, which):
        if lease := nth(Lease.objects.filter(status="offered"), which):
            leases.acknowledge(lease.id, token=lease.fencing_token)

    @rule(which=some)
    def expire(self, which):
        if lease := nth(Lease.objects.filter(status__in=LIVE), which):
            Lease.objects.filter(id=lease.id).update(expires_at=Now() - timedelta(seconds=60))
            jobs.expire()
            assert Lease.objects.get(id=lease.id).status == "expired"

    @rule(which=some)
    def park(self, which):
        if lease := nth(Lease.objects.filter(status="active"), which):
            leases.park(lease.id, token=lease.fencing_token, reason="", actor="machine")

    @rule(which=some)
    def resume(self, which):
        lease = nth(Lease.objects.filter(status="parked"), which)
        with suppress(Refusal):
            if lease:
                old = lease.fencing_token
                assert leases.resume(lease.id, token=old, actor="machine").fencing_token > old
                assert claim.park(lease.id, token=old, actor="", reason="") == "lease_lost"

    @rule(
        which=some,
        memory=st.sampled_from((None, 100, 600, 2000)),
        cpu=st.sampled_from((None, 0.5, 2)),
        tokens=st.sampled_from((None, 0, 500)),
    )
    def resize(self, which, memory, cpu, tokens):
        lease = nth(Lease.objects.filter(status="active"), which)
        wish = {"memory_mb": memory, "cpu_cores": cpu, "token_budget": tokens}
        with suppress(Refusal):
            if lease:
                leases.resize(lease.id, token=lease.fencing_token, amounts=wish, actor="machine")

    @rule(which=some, part=st.sampled_from((0.5, 0.9, 1)))
    def shrink(self, which, part):
        """Giving back is never refused, whatever a limit says."""
        if lease := nth(Lease.objects.filter(status="active"), which):
            least = lease.request.min_memory_mb
            memory = max(int(lease.memory_mb * part), min(least, lease.memory_mb))
            wish = {"memory_mb": memory}
            leases.resize(lease.id, token=lease.fencing_token, amounts=wish, actor="machine")

    # -- agents

    @rule(name=st.sampled_from(sorted(SIZES)))
    def lose(self, name):
        Liveness.objects.filter(agent__agent_id=name).update(
            last_heartbeat_at=Now() - timedelta(seconds=91)
        )
        heartbeats.suspect_and_lose()
        heartbeats.suspect_and_lose()

    @rule(name=st.sampled_from(sorted(SIZES)))
    def register(self, name):
        with suppress(Refusal):
            enrol(name)

    @rule(name=st.sampled_from(sorted(SIZES)), retire=st.booleans())
    def drain(self, name, retire):
        with suppress(Refusal):
            agents.drain(Agent.objects.get(agent_id=name), retire=retire, actor="machine")

    @rule(name=st.sampled_from(sorted(SIZES)))
    def resume_agent(self, name):
        with suppress(Refusal):
            agents.resume(Agent.objects.get(agent_id=name), actor="machine")

    @rule(name=st.sampled_from(sorted(SIZES)), memory=st.sampled_from((1024, 2048, 4096)))
    def change(self, name, memory):
        agent = Agent.objects.get(agent_id=name)
        fields = {"memory_mb": memory, "labels": {"size": memory}}
        with suppress(Refusal):
            agents.update_agent(agent.id, fields=fields, if_generation=None, actor="machine")

    # -- limits and jobs

    @rule(limit=limits)
    def set_limit(self, limit):
        level, name = limit["place"]
        rest = {name: value for name, value in limit.items() if name != "place"}
        claim.set_limit({"level": level, "name": name, **rest})
        self.was_set.add((level, name))

    @rule()
    def tick(self):
        jobs.serve(), jobs.reserve(), jobs.learn()

    @precondition(lambda self: Request.objects.filter(status="waiting").exists())
    @rule()
    def pass_by(self):
        """The longest waiting ones have been passed often enough to have capacity kept."""
        Request.objects.filter(status="waiting").update(queued_at=Now() - timedelta(seconds=90))
        jobs.reserve()

    # -- promises

    @invariant()
    def is_whole(self):
        assert registry_queries.broken_invariants() == {}

    @invariant()
    def tokens_only_grow(self):
        now = set(Lease.objects.values_list("fencing_token", flat=True))
        fresh = now - self.tokens
        assert not fresh or min(fresh) > max(self.tokens, default=0)
        self.tokens |= now

    @invariant()
    def nothing_is_over_a_limit(self):
        places = places_now()
        over = {}
        for place in places:
            for name in AMOUNTS:
                free = place.free(name)
                if free is None or free >= 0:
                    continue
                key = (place.limit.level, place.limit.name)
                assert place.limit.is_overdrawn, f"{key}: {free} {name}"
                over[key, name] = free
                if key not in self.was_set:
                    assert free >= self.overdrawn[key, name], f"{key}: more and more {name}"
        self.overdrawn, self.was_set = over, set()

    @invariant()
    def nobody_waits_beside_what_fits(self):
        queue.serve(TYPES)
        waiting = Request.objects.filter(status="waiting", expires_at__gt=Now())
        forgotten = {r.number: who for r in waiting if (who := could_have(r))}
        assert not forgotten


def test_every_promise_holds_whatever_happens(pools, settings_of_the_machine):
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            database=None,
            # Making a failure smaller takes minutes, and chance in ties may hide it.
            phases=[Phase.generate],
            print_blob=False,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.fixture
def settings_of_the_machine(settings):
    settings.BACKOFF_S = 0
    settings.MAX_ATTEMPTS = 2
    Pool.objects.update(max_bypass=3)
    SecurityProfile.objects.update(memory_mb=10**6, cpu_cores=10**4)
    Tick.objects.update_or_create(name="web", defaults={"at": registry_queries.now()})
    Tick.objects.filter(name="web").update(grace_until=None, at=Now() + timedelta(hours=1))


# -- the world as an outsider sees it --------------------------------------------------------------


def empty():
    with connection.cursor() as cursor:
        cursor.execute("SET session_replication_role = replica")
        for table in CHANGING:
            cursor.execute(f"DELETE FROM {table}")
        cursor.execute("SET session_replication_role = DEFAULT")


def enrol(name):
    pool = registry_queries.pool(name.split("-")[0])
    slots, memory, cpu, tools = SIZES[name]
    size = {"max_concurrent": slots, "memory_mb": memory, "cpu_cores": cpu, "tools": tools}
    fields = {**pool.launch_template, **size, "token_budget": 120_000, "disk_space_mb": 500}
    agents.register(agent_id=name, pool=pool, fields=fields, by=None, actor="machine")


def made(wish, least):
    """Return an unsaved request; it can live with an n-th of the memory and CPU."""
    if wish["affinity"] == "hard":
        wish = wish | {"preferred_agent": ""}  # which of the two wins: test_claim_mirrors
    minima = {"min_memory_mb": wish["memory_mb"] // least, "min_cpu_cores": wish["cpu_cores"]}
    return Request(**wish, **minima, requested_by="machine")


def nth(rows, which):
    """Return one of the rows, None: there is none. The order is that of their creation."""
    found = list(rows.order_by("number" if rows.model is Request else "acquired_at"))
    return found[which % len(found)] if found else None


def places_now():
    held = list(Lease.objects.filter(status__in=HOLDING))
    return [
        Place(
            limit,
            {
                name: sum(getattr(one, name) for one in held if is_under(one, limit))
                for name in AMOUNTS
            },
        )
        for limit in ResourceLimit.objects.all()
    ]


def is_under(row, limit):
    name = {"installation": "", "pool": row.pool_id, "project": row.project}[limit.level]
    return name == limit.name


def could_have(request):
    """Return the agent that could serve a request now, as far as the pure rules say; else None."""
    if LockKey.objects.filter(key__in=request.lock_keys).exists():
        return None
    request = raised(request)
    needs = needs_of(request)
    if not all(allows(place, request) for place in places_now() if is_under(request, place.limit)):
        return None
    bound = bound_to(request)
    for agent in Agent.objects.filter(
        pool_id=request.pool_id, status__in=PLACEABLE_STATUS, health__in=PLACEABLE_HEALTH
    ):
        is_kept = agent.reserved_for not in (None, request.id)
        slots = 1 if agent.health == "probation" else agent.max_concurrent
        is_open = agent.load < slots and bound in (None, agent.id)
        if is_open and not is_kept and fits(room_of(agent), needs):
            return agent.agent_id
    return None


def raised(request):
    """Return the request with the least that limits demand of every lease."""
    if request.number is not None and not request._state.adding:
        return request
    for limit in ResourceLimit.objects.all():
        if is_under(request, limit) and limit.min_memory_mb:
            copy = Request(**{f.attname: getattr(request, f.attname) for f in request._meta.fields})
            copy.memory_mb = max(request.memory_mb, limit.min_memory_mb)
            copy.min_memory_mb = max(request.min_memory_mb, limit.min_memory_mb)
            request = copy
    return request


def allows(place, request):
    if place.limit.reserved_for not in (None, request.id) and has_amounts(place.limit):
        return False
    asked = {name: getattr(needs_of(request), name) for name in AMOUNTS[2:4]}
    asked |= {"memory_mb": floor_of(request), "cpu_cores": cpu_floor_of(request)}
    asked["network_bandwidth_mbps"] = 10
    ceiling = place.limit.max_memory_mb
    if ceiling is not None and asked["memory_mb"] > ceiling:
        return False
    return all(
        (free := place.free(name)) is None or not amount or free >= amount
        for name, amount in asked.items()
    )


def has_amounts(limit):
    return any(getattr(limit, name) is not None for name in AMOUNTS)


def floor_of(request):
    return max(request.min_memory_mb, request.memory_mb * 8 // 10)


def cpu_floor_of(request):
    return max(request.min_cpu_cores, request.cpu_cores * Decimal("0.8"))


def needs_of(request):
    return Needs(
        memory_mb=request.memory_mb,
        cpu_cores=request.cpu_cores,
        token_budget=request.token_budget,
        disk_space_mb=request.disk_space_mb,
        security_level=request.security_level,
        isolation_level=request.isolation_level,
        special_tools=frozenset(request.special_tools),
        avoid_agents=frozenset(request.avoid_agents),
        min_memory_mb=request.min_memory_mb,
        min_cpu_cores=request.min_cpu_cores,
    )


def room_of(agent):
    return Capacity(
        memory_mb=agent.memory_mb - agent.used_memory_mb,
        cpu_cores=agent.cpu_cores - agent.used_cpu_cores,
        token_budget=agent.token_budget - agent.used_token_budget,
        disk_space_mb=agent.disk_space_mb - agent.used_disk_space_mb,
        security_level=agent.security_level,
        isolation_levels=agent.isolation_levels,
        tools=frozenset(agent.tools),
        agent_id=agent.agent_id,
    )


def bound_to(request):
    """Return the agent that hard affinity binds to, None: any will do."""
    if request.affinity != "hard" or not request.cycle_id:
        return None
    of_cycle = Lease.objects.filter(
        project=request.project, cycle_id=request.cycle_id, pool_id=request.pool_id
    )
    newest = of_cycle.aggregate(token=Max("fencing_token"))["token"]
    agent = Agent.objects.filter(leases__fencing_token=newest or 0).first()
    return agent.id if agent and agent.status not in ("lost", "retired") else None
