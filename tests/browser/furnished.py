"""An installation after an hour's work, as a person would find it: for pictures and page tests."""

import math
import random
from datetime import timedelta
from types import SimpleNamespace

import pytest
from django.db.models.functions import Now

from agentpool.registry import metrics
from agentpool.registry import queries as registry_queries
from agentpool.registry import services as registry_services
from agentpool.registry.models import (
    Agent,
    Event,
    Lease,
    LeaseOutcome,
    Liveness,
    Optimization,
    OptimizerPolicy,
    Outlook,
    PoolSample,
    RebalancePolicy,
    Rebalancing,
    Request,
    ScalingDecision,
    ScalingEvent,
)
from agentpool.registry.states import AgentHealth, AgentStatus, Outcome, Scope
from balancing.services import agents, leases, limits
from scaling import governance
from tests.integration.learning_job import learn

FLEET = {
    "design": (3, 1, ["figma", "a11y"]),
    "qa": (5, 2, ["pytest", "browser"]),
    "code": (9, 2, ["python", "typescript"]),
    "data": (3, 1, ["sql"]),
}
STORIES = (
    ("cart-totals", "webshop"),
    ("refund-flow", "webshop"),
    ("search-facets", "webshop"),
    ("login-throttle", "webshop"),
    ("invoice-pdf", "billing"),
    ("vat-rates", "billing"),
    ("dunning-mails", "billing"),
    ("export-csv", "billing"),
    ("price-rounding", "billing"),
    ("gift-cards", "webshop"),
    ("usage-report", "insights"),
    ("churn-model", "insights"),
)
PHASES = (("design", "design"), ("red", "qa"), ("green", "code"), ("refactor", "code"))
NOTES = (
    "4 of 7 tests pass",
    "reading the failing test",
    "rewriting the query builder",
    "running the suite",
    "drafting the layout",
)


@pytest.fixture
def furnished(make_agent, submit):
    """Twenty agents at work, an hour of history, and some things that need a person."""
    draw = random.Random(7)
    _fleet(make_agent)
    _history(submit, draw)
    live = _at_work(submit, draw)
    _queue(submit)
    _troubles(live)
    _samples(draw)
    _rebalancings(live)
    _optimizations()
    _limits()
    _scaling(draw)
    for scope, name in (("viewer", "wall display"), ("orchestrator", "ci runner")):
        registry_services.token(
            scope=Scope(scope), name=name, expires_in_s=30 * 86_400, actor="user:ada"
        )
    # Nobody speaks while pictures are taken.
    silent = Liveness.objects.exclude(agent__agent_id="design-03")
    silent.update(last_heartbeat_at=Now() + timedelta(minutes=10))
    return SimpleNamespace(live=live, cycle=("webshop", STORIES[3][0]))


def _fleet(make_agent):
    for agent_type, (count, slots, capabilities) in FLEET.items():
        for n in range(1, count + 1):
            make_agent(
                agent_type,
                agent_id=f"{agent_type}-{n:02}",
                max_concurrent=slots,
                memory_mb=8192,
                cpu_cores=4,
                token_budget=800_000,
                disk_space_mb=20_000,
                host=f"build-{n % 3 + 1}",
                capabilities=capabilities,
                labels={"zone": "ab"[n % 2]},
                version="2.3.1",
            )
    Agent.objects.update(health=AgentHealth.GOOD, created_at=Now() - timedelta(days=3))


def _wish(submit, cycle, project, phase, agent_type, **more):
    return submit(
        agent_type,
        project=project,
        cycle_id=cycle,
        phase=phase,
        strategy="workload_aware",
        affinity="soft",
        memory_mb={"design": 1024, "qa": 1536}.get(agent_type, 2048),
        token_budget=200_000,
        payload={"command": ["true"]},
        **more,
    )


OLDER = ("login-form", "tax-export", "stock-levels")


def _history(submit, draw):
    for number, cycle in enumerate(OLDER):
        _phases(submit, draw, cycle, STORIES[number][1], PHASES, ago_s=3300 - 600 * number)
    for number, (cycle, project) in enumerate(STORIES[:8]):
        _phases(submit, draw, cycle, project, PHASES[: number % 4], ago_s=1000 - 20 * number)


def _phases(submit, draw, cycle, project, phases, *, ago_s):
    """One phase after the other; what fails is done again."""
    for phase, agent_type in phases:
        outcome = Outcome.FAILURE if draw.random() < 0.2 else Outcome.SUCCESS
        ago_s = _phase(submit, draw, cycle, project, phase, agent_type, outcome, ago_s)
        if outcome is Outcome.FAILURE:
            ago_s = _phase(submit, draw, cycle, project, phase, agent_type, Outcome.SUCCESS, ago_s)


def _phase(submit, draw, cycle, project, phase, agent_type, outcome, ago_s):
    wish = _wish(submit, cycle, project, phase, agent_type)
    lease = wish.held
    leases.acknowledge(lease.id, token=lease.fencing_token)
    usage = {
        "memory_mb": round(lease.memory_mb * draw.uniform(0.3, 0.9)),
        "tokens_in": draw.randint(20_000, 90_000),
        "tokens_out": draw.randint(4_000, 30_000),
        "cpu_seconds": draw.randint(20, 90),
        "cost_usd": round(draw.uniform(0.05, 0.9), 3),
    }
    leases.release(
        lease.id,
        token=lease.fencing_token,
        outcome=outcome,
        actor="test",
        usage=usage,
        error="2 tests fail still" if outcome is Outcome.FAILURE else "",
    )
    waited_s, took_s = draw.uniform(0.2, 24), draw.randint(60, 190)
    _put_back(wish, lease, ago_s - waited_s, took_s, waited_s)
    return ago_s - waited_s - took_s


def _put_back(wish, lease, ago_s, took_s, waited_s):
    """This will let it have happened some time ago."""
    begin = Now() - timedelta(seconds=ago_s)
    end = Now() - timedelta(seconds=max(5, ago_s - took_s))
    arrival = Now() - timedelta(seconds=ago_s + waited_s)
    Lease.objects.filter(id=lease.id).update(acquired_at=begin, released_at=end, waited_s=waited_s)
    Request.objects.filter(id=wish.id).update(
        created_at=arrival, queued_at=arrival, granted_at=begin, finished_at=end
    )
    LeaseOutcome.objects.filter(lease=lease).update(
        ended_at=end, duration_s=took_s, waited_s=waited_s
    )
    Event.objects.filter(lease_id=lease.id).update(at=end)


def _at_work(submit, draw):
    live = []
    for number, (cycle, project) in enumerate(STORIES[:8]):
        phase, agent_type = PHASES[number % 4]
        wish = _wish(submit, cycle, project, phase, agent_type)
        lease = wish.held
        leases.acknowledge(lease.id, token=lease.fencing_token)
        leases.report_usage(
            lease.id,
            token=lease.fencing_token,
            usage={
                "memory_mb": round(
                    lease.memory_mb * (1.07 if number == 6 else draw.uniform(0.3, 0.97))
                ),
                "cpu_cores": round(draw.uniform(0.1, 1.0), 2),
                "tokens_in": draw.randint(20_000, 150_000),
                "tokens_out": draw.randint(2_000, 40_000),
            },
            progress={"counter": number + 3, "phase": phase, "note": NOTES[number % 5]},
        )
        age = timedelta(seconds=draw.randint(8, 240))
        Lease.objects.filter(id=lease.id).update(acquired_at=Now() - age)
        Request.objects.filter(id=wish.id).update(created_at=Now() - age - timedelta(seconds=4))
        live.append(lease)
    registry_services.append_log(
        live[0],
        chunks=[
            ("stdout", "checkout of main at 4f1c2e9\n"),
            ("stdout", "tests/test_cart.py ....F.F\n"),
            ("stderr", "warning: 2 tests fail, as they should before the change\n"),
        ],
    )
    return live


def _queue(submit):
    more = (("seo-audit", "webshop"), ("cohort-tables", "insights"), ("ledger-diff", "billing"))
    for number, (cycle, project) in enumerate((*STORIES[8:], *more, *STORIES[:4])):
        wish = submit(
            "data",
            project=project,
            cycle_id=cycle,
            phase="report",
            memory_mb=4096,
            cpu_cores=2,
            min_cpu_cores=2,
            priority=50 + 10 * (number % 3),
            special_tools=["warehouse"] if number == 3 else [],
            allow_future=number == 3,
        )
        if wish.held is None:
            since = Now() - timedelta(seconds=20 + 45 * number)
            Request.objects.filter(id=wish.id).update(queued_at=since, created_at=since)
    learn()
    # Somebody has worked in this pool before.
    Outlook.objects.update_or_create(
        agent_type="data",
        agent_id=None,
        story_type="report",
        defaults={
            "odds": 1.5,
            "log_s": 4.5,
            "odds_doubt": 0.6,
            "log_s_doubt": 0.3,
            "noise": 0.36,
            "retry_s": 120,
            "tokens": 9000,
            "efficiency": 0.5,
            "leases": 20,
            "learnt_at": registry_queries.now(),
        },
    )


def _troubles(live):
    now = registry_queries.now()
    for name, health, note in (
        ("code-08", AgentHealth.QUARANTINED, "answers in French since noon"),
        ("qa-05", AgentHealth.MAINTENANCE, "new disk"),
    ):
        agents.set_health(
            registry_queries.agent_by(agent_id=name),
            health=health,
            note=note,
            until=None,
            actor="user:ada",
        )
    agents.drain(
        registry_queries.agent_by(agent_id="code-09"),
        retire=False,
        actor="user:ada",
        reason="kernel update",
        by=now + timedelta(minutes=25),
    )
    Agent.objects.filter(agent_id="design-03").update(status=AgentStatus.UNREACHABLE)
    Liveness.objects.filter(agent__agent_id="design-03").update(
        last_heartbeat_at=now - timedelta(seconds=74)
    )
    Lease.objects.filter(id=live[3].id).update(progress_at=now - timedelta(minutes=13))


def _samples(draw):
    now = metrics.begin_of(registry_queries.now(), 300)
    rows = []
    for agent_type in FLEET:
        phase = draw.uniform(0, 6)
        for n in range(120):
            wave = 0.5 + 0.35 * math.sin(n / 14 + phase) + draw.uniform(-0.06, 0.06)
            stretch = metrics.Stretch(
                covered_s=30,
                readings=1,
                gauges=metrics.Gauges(
                    total_agents=5,
                    available_agents=2,
                    busy_agents=3,
                    slots=10,
                    slots_used=10 * max(0.0, min(1.0, wave)),
                    total_memory_allocated_mb=4096,
                    total_cpu_allocated=4,
                    total_tokens_allocated=200_000,
                ),
                flows=metrics.arrived()
                + metrics.granted(waited_s=max(0.0, 9 * (wave - 0.55)))
                + metrics.ended(outcome="success", duration_s=60 * wave, efficiency=wave / 2),
            )
            at = now - timedelta(seconds=30 * (120 - n))
            rows += [
                PoolSample(pool_id=agent_type, at=at, **metrics.row(stretch)),
                *([_five_minutes(agent_type, at, stretch)] if n % 10 == 0 else []),
            ]
    PoolSample.objects.bulk_create(rows)


def _rebalancings(live):
    now = registry_queries.now()
    told = (
        ("memory_mb", "shrink", "kept", 2048, 1229, 4.2, 1.1),
        ("cpu_cores", "shrink", "applied", 2, 1.4, None, None),
        ("memory_mb", "shrink", "undone", 1024, 614, None, None),
        ("memory_mb", "grow", "applied", 1024, 1440, None, None),
    )
    for number, (resource, kind, status, before, after, was, became) in enumerate(told):
        lease = live[number]
        Rebalancing.objects.create(
            pool_id=lease.pool_id,
            lease_id=lease.id,
            agent_id=lease.agent.agent_id,
            project=lease.project,
            resource=resource,
            kind=kind,
            status=status,
            mode="auto",
            before=before,
            after=after,
            reason="212 of 2048 MB are used, at most 240 so far, for 64 s",
            verdict="560 of 614 were used then" if status == "undone" else "",
            at=now - timedelta(minutes=3 * number),
            applied_at=now - timedelta(minutes=3 * number),
            wait_before_s=was,
            wait_after_s=became,
            is_measured=was is not None,
        )
    RebalancePolicy.objects.create(pool_id="code", mode="auto", settings={"hold_s": 30})


def _optimizations():
    now = registry_queries.now()
    told = (
        ("high_wait_times", "", "scale_up", "mean_wait_s", 214, 61, "open", None),
        ("bad_agent", "code-4", "quarantine", "turnaround_s", 1310, 1040, "applied", None),
        ("resource_waste", "", "lower_requirements", "reserved_mb", 9400, 3100, "judged", 3400),
        ("low_utilization", "", "scale_down", "agent_hours", 6, 5, "dismissed", None),
    )
    for number, (kind, subject, action, metric, before, after, status, out) in enumerate(told):
        Optimization.objects.create(
            pool_id="code",
            kind=kind,
            subject=subject,
            action=action,
            change={"agents": 2, "agent_id": subject, "memory_mb": 512},
            basis="184 leases waited 214 s on average while 93% of the slots were busy",
            metric=metric,
            measured=before,
            without=before * 1.02,
            computed=after,
            expected=after,
            attempts=184,
            over_s=3600,
            agent_hours_a_day=48 if action == "scale_up" else 0,
            status=status,
            actor="" if status == "open" else "user:olga",
            at=now - timedelta(minutes=31 * number),
            applied_at=now - timedelta(minutes=30) if status == "applied" else None,
            closed_at=now if status in ("judged", "dismissed") else None,
            came_out=out,
            verdict="reserved_mb 9400 before, 3400 after: better; 95% of the gain computed"
            if out
            else "",
        )
    OptimizerPolicy.objects.create(pool_id="code", mode="auto", settings={"wait_s": 60})


def _five_minutes(agent_type, at, stretch):
    whole = stretch
    for _ in range(9):
        whole += stretch
    return PoolSample(pool_id=agent_type, at=at, step_s=300, **metrics.row(whole))


LAUNCHES_FAILED = "launching failed 2 times; the next try is in 8 s"


def _scaling(draw):
    """An hour of decisions: steady ones, changes, and one that could not be carried out."""
    now = registry_queries.now()
    governance.set_policy("code", mode="auto", settings={"min_idle": 1}, actor="user:ada")
    governance.set_policy("qa", rule="warm", mode="auto", settings={"k": 3}, actor="user:ada")
    governance.stop("design", actor="user:ada")
    governance.announce(
        "code",
        at=now + timedelta(minutes=20),
        count=40,
        spread_s=120,
        name="nightly",
        actor="user:ada",
    )
    for agent_type, (size, _, _) in FLEET.items():
        for n in range(60):
            at = now - timedelta(minutes=60 - n)
            busy, waiting = draw.randint(1, size), draw.choice((0, 0, 0, 1, 2))
            _decision(agent_type, at, size, min(size + 2, busy + waiting + 2), busy, waiting, n)


def _decision(agent_type, at, size, target, busy, waiting, number):
    mode = {"code": "auto", "qa": "auto", "design": "off"}.get(agent_type, "recommend")
    is_change = number % 12 == 0 and mode == "auto"
    target = target if is_change else size
    action = "no_action" if target == size else "scale_up" if target > size else "scale_down"
    event = None
    if action != "no_action":
        event = ScalingEvent.objects.create(
            pool_id=agent_type,
            at=at,
            action="set",
            current_size=size,
            target_size=target,
            reason="",
            actor="scaling",
        )
    ScalingDecision.objects.create(
        pool_id=agent_type,
        at=at,
        rule="warm" if agent_type == "qa" else "predictive",
        mode=mode,
        action=action,
        current=size,
        target=target,
        wanted=target,
        reason=f"{busy} busy, {waiting} waiting; 0.4 arrivals expected in 30 s, up to 2 held for",
        bounds=["min_idle"] if is_change else [],
        inputs={"ready": size, "busy": busy, "waiting": waiting, "starting": 0, "lead_s": 30.0},
        alternatives=[["queue", busy + waiting, f"{waiting} waiting and {busy} running"]],
        forecast={
            "time_horizon_minutes": 30.0,
            "predicted_demand": 0.4,
            "base_demand": 0.5,
            "seasonal_multiplier": 0.8,
            "event_multiplier": 1.0,
            "peak_demand_ratio": 1.0,
            "confidence": 0.81,
            "skill": 0.12,
            "source": "seasonal",
            "reason": "",
        },
        is_carried_out=event is not None,
        error=LAUNCHES_FAILED if number == 40 and agent_type == "code" else "",
        event=event,
    )


def _limits():
    nothing = dict.fromkeys(
        (
            "memory_mb",
            "cpu_cores",
            "token_budget",
            "disk_space_mb",
            "network_bandwidth_mbps",
            "max_memory_mb",
            "max_cpu_cores",
            "max_token_budget",
            "max_disk_space_mb",
            "min_memory_mb",
            "min_cpu_cores",
        )
    )
    for level, name, weight, amounts in (
        ("installation", "", 1, {"memory_mb": 65_536, "token_budget": 6_000_000}),
        ("project", "webshop", 2, {"memory_mb": 16_384, "token_budget": 1_500_000}),
        ("project", "billing", 1, {"memory_mb": 8192, "max_memory_mb": 6144}),
        ("pool", "data", 1, {"cpu_cores": 8}),
    ):
        fields = {"level": level, "name": name, "weight": weight, **nothing, **amounts}
        limits.set_limit(fields, actor="user:ada")
