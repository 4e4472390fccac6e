"""Rebalancing on real rows: who is asked what, what frees when, what is rolled back and undone."""

from datetime import timedelta
from decimal import Decimal

import pytest
from django.db.models.functions import Now

from agentpool.registry import metrics, queries
from agentpool.registry.models import (
    Agent,
    Event,
    Lease,
    LeaseIsolation,
    PoolSample,
    RebalancePolicy,
    Rebalancing,
    Request,
    Tick,
    UsageWatch,
)
from agentpool.registry.states import Outcome
from balancing import jobs
from balancing.services import heartbeats, leases, limits, rebalancing, security, settling

pytestmark = pytest.mark.django_db(transaction=True)
PAYLOAD = {"command": ["true"]}


@pytest.fixture
def work(make_agent, submit):
    """An active lease of 1000 MB and 2 cores in an environment that says what it holds."""

    def begin(*, payload=PAYLOAD, memory_mb=1000, room_mb=1000, **wish):
        make_agent(memory_mb=room_mb, cpu_cores=2)
        asked = {"min_memory_mb": 100, "cpu_cores": 2, "min_cpu_cores": Decimal("0.2"), **wish}
        lease = submit(memory_mb=memory_mb, payload=payload, **asked).held
        if payload is not None:
            leases.acknowledge(lease.id, token=lease.fencing_token)
            holds(lease, memory_mb=lease.memory_mb, cpu_cores=float(lease.cpu_cores))
        return Lease.objects.get(id=lease.id)

    return begin


def holds(lease, **policy):
    """Let the runtime say which limits hold."""
    told = {"tier": "process", "enforced": ["memory"], "declared": [], "policy": policy}
    security.report(lease.id, token=lease.fencing_token, enforcement=told, incidents=[])


def uses(lease, memory_mb, cpu_seconds=0.0):
    usage = {"memory_mb": memory_mb, "cpu_cores": 0.01, "cpu_seconds": cpu_seconds}
    leases.report_usage(lease.id, token=lease.fencing_token, usage=usage, progress={})


def pass_time(seconds):
    """Let everything that is remembered lie so much longer ago."""
    back = timedelta(seconds=seconds)
    for row in UsageWatch.objects.all():
        for name in ("looked_at", "low_memory_since", "low_cpu_since", "changed_at"):
            if (value := getattr(row, name)) is not None:
                setattr(row, name, value - back)
        row.save()
    for row in Rebalancing.objects.all():
        for name in ("asked_at", "applied_at"):
            if (value := getattr(row, name)) is not None:
                setattr(row, name, value - back)
        row.save()
    Tick.objects.filter(name="rebalance").update(at=Now() - timedelta(minutes=1))


def look():
    Tick.objects.filter(name="rebalance").update(at=Now() - timedelta(minutes=1))
    return jobs.rebalance()


def auto(mode="auto", **settings):
    rebalancing.set_policy("code", actor="test", mode=mode, settings=settings)


def asked_of(lease):
    kinds = ("lease.resize_asked", "lease.resized")
    rows = Event.objects.filter(lease_id=lease.id, kind__in=kinds).order_by("id")
    return [(row.kind, row.detail.get("memory_mb")) for row in rows if "memory_mb" in row.detail]


def only(resource="memory_mb"):
    return Rebalancing.objects.exclude(status="withdrawn").get(resource=resource)


def test_an_over_allocated_lease_shrinks_when_its_runtime_says_so(work, whole):
    auto()
    lease = work()
    uses(lease, 100)
    look()
    assert not Rebalancing.objects.exists()  # not long enough yet
    pass_time(61)

    look()

    assert (only().status, asked_of(lease)) == ("asked", [("lease.resize_asked", 600.0)])
    assert Agent.objects.get().used_memory_mb == 1000  # nothing is free before the runtime agrees
    holds(lease, memory_mb=600, cpu_cores=1.4)
    look()

    lease.refresh_from_db()
    assert (lease.memory_mb, lease.cpu_cores) == (600, Decimal("1.4"))
    assert Agent.objects.get().used_memory_mb == 600
    assert {row.status for row in Rebalancing.objects.all()} == {"applied"}
    pass_time(121)
    look()
    assert {row.status for row in Rebalancing.objects.filter(applied_at__isnull=False)} == {"kept"}
    whole()


def test_a_runtime_without_a_socket_hears_it_with_its_heartbeat_until_it_answers(work, whole):
    auto()
    lease = work()
    agent = Agent.objects.get(id=lease.agent_id)
    beat = heartbeats.Heartbeat(
        incarnation=None,
        leases=[{"lease_id": str(lease.id), "fencing_token": lease.fencing_token}],
    )
    uses(lease, 100)
    look()
    pass_time(70)
    look()

    told = heartbeats.heartbeat(agent, beat=beat).commands
    assert [(c["kind"], c["lease_id"], c["grant"]) for c in told] == [
        ("resize", str(lease.id), {"memory_mb": 600.0}),
        ("resize", str(lease.id), {"cpu_cores": 1.4}),
    ]
    assert heartbeats.commands_for(agent) == told  # also asked for its offers, or after a cut

    holds(lease, memory_mb=600, cpu_cores=1.4)
    assert heartbeats.heartbeat(agent, beat=beat).commands == []


def test_a_runtime_that_refuses_keeps_everything_as_it_was(work, whole):
    auto()
    lease = work()
    uses(lease, 100)
    look()
    pass_time(61)
    look()
    holds(lease, memory_mb=1000, cpu_cores=2)
    LeaseIsolation.objects.update(at=Now() - timedelta(seconds=4))
    Rebalancing.objects.update(asked_at=Now() - timedelta(seconds=5))

    look()

    assert only().status == "refused"
    assert "keeps to 1000" in only().verdict
    assert Lease.objects.get().memory_mb == Agent.objects.get().used_memory_mb == 1000
    whole()


def test_a_runtime_that_does_not_answer_is_told_the_old_limits(work, whole):
    auto()
    lease = work()
    uses(lease, 100)
    look()
    pass_time(61)
    look()
    pass_time(31)

    jobs.rebalance()

    assert only().status == "refused"
    assert [each[1] for each in asked_of(lease)] == [600, 1000]
    whole()


def test_a_lease_under_pressure_grows_at_once_and_is_rolled_back_without_an_answer(work, whole):
    auto()
    lease = work(memory_mb=400, room_mb=1000, cpu_cores=1)
    Lease.objects.filter(id=lease.id).update(memory_mb=400)
    Agent.objects.update(used_memory_mb=400)
    uses(lease, 390)

    look()

    row = only()
    assert (row.kind, row.status, row.after) == ("grow", "asked", 585)
    assert Lease.objects.get().memory_mb == Agent.objects.get().used_memory_mb == 585
    pass_time(31)
    settling.settle()
    assert only().status == "refused"
    assert Lease.objects.get().memory_mb == Agent.objects.get().used_memory_mb == 400
    look()
    assert Rebalancing.objects.count() == 1  # who has not agreed is not asked again
    whole()


def test_work_that_goes_on_growing_is_not_held_up(work, whole):
    auto()
    lease = work(memory_mb=400, room_mb=1000, cpu_cores=1)
    Lease.objects.filter(id=lease.id).update(memory_mb=400)
    Agent.objects.update(used_memory_mb=400)
    for used, granted in ((390, 585), (580, 870), (860, 1000)):
        uses(lease, used)
        look()
        holds(lease, memory_mb=granted, cpu_cores=float(lease.cpu_cores))
        settling.settle()
        assert Lease.objects.get().memory_mb == granted

    statuses = Rebalancing.objects.order_by("at").values_list("status", flat=True)
    assert list(statuses) == ["kept", "kept", "applied"]
    whole()


def test_a_growth_ends_at_what_a_limit_has_left(work, whole):
    auto()
    lease, other = work(room_mb=4000), work(room_mb=4000)
    limit = {"level": "project", "name": "p"}
    held_mb = lease.memory_mb + other.memory_mb
    limits.set_limit({**limit, "memory_mb": held_mb}, actor="ada")
    uses(lease, lease.memory_mb * 0.95)
    look()
    assert not Rebalancing.objects.exists()

    limits.set_limit({**limit, "memory_mb": held_mb + 300}, actor="ada")
    look()

    assert (only().status, only().after) == ("asked", lease.memory_mb + 300)
    assert Lease.objects.get(id=lease.id).memory_mb == lease.memory_mb + 300
    whole()


def test_what_somebody_else_has_changed_is_left_to_them(work, whole):
    lease = shrunk(work)
    leases.resize(lease.id, token=lease.fencing_token, amounts={"memory_mb": 900}, actor="holder")
    uses(lease, 880)

    settling.settle()

    memory = Rebalancing.objects.get(resource="memory_mb")
    assert (memory.status, Lease.objects.get().memory_mb) == ("withdrawn", 900)
    whole()


def shrunk(work):
    auto()
    lease = work()
    uses(lease, 100)
    look()
    pass_time(61)
    look()
    holds(lease, memory_mb=600, cpu_cores=1.4)
    look()
    assert only().status == "applied"
    return lease


def test_a_shrink_that_presses_the_work_is_undone_and_not_tried_again(work, whole):
    lease = shrunk(work)
    uses(lease, 560)

    look()

    memory = Rebalancing.objects.get(resource="memory_mb", kind="shrink")
    assert (memory.status, Lease.objects.get().memory_mb) == ("undone", 1000)
    assert UsageWatch.objects.get().spared == ["memory_mb"]
    uses(lease, 50)
    for _ in range(3):
        pass_time(300)
        look()
    assert Rebalancing.objects.filter(resource="memory_mb", kind="shrink").count() == 1
    whole()


def test_an_undo_without_room_is_tried_again(work, submit, whole):
    lease = shrunk(work)
    Agent.objects.update(max_concurrent=2)
    small = {"cpu_cores": Decimal("0.1"), "min_cpu_cores": Decimal("0.1")}
    other = submit(memory_mb=400, token_budget=0, disk_space_mb=0, **small).held
    assert other is not None
    uses(lease, 560)

    look()
    assert Rebalancing.objects.get(resource="memory_mb", kind="shrink").status == "applied"
    assert "not undone yet" in Rebalancing.objects.get(resource="memory_mb", kind="shrink").verdict

    leases.release(other.id, token=other.fencing_token, outcome=Outcome.SUCCESS, actor="test")
    look()
    assert Rebalancing.objects.get(resource="memory_mb", kind="shrink").status == "undone"
    whole()


def test_a_pool_that_recommends_changes_nothing(work):
    lease = work()
    uses(lease, 100)
    look()
    pass_time(61)

    look()
    look()

    assert only().status == "proposed"
    assert asked_of(lease) == []
    uses(lease, 800)
    look()
    assert Rebalancing.objects.get(resource="memory_mb").status == "withdrawn"


def test_a_pool_that_is_off_is_not_looked_at(work):
    auto("off")
    uses(work(), 100)

    assert look()["watched"] == 0
    assert not UsageWatch.objects.exists()


def test_a_pool_whose_stored_policy_does_not_do_stops_no_other(work, api):
    RebalancePolicy.objects.create(pool_id="qa", settings={"nonsense": 1})
    uses(work(), 100)

    assert look()["watched"] == 1
    path = "/resources/rebalance"
    assert api.post(path, {"agent_type": "code"}).status_code == 200
    assert api.post(path, {"agent_type": "qa"}).status_code == 400
    told = {each["agent_type"]: each for each in api.get(f"{path}/policy").body["results"]}
    assert (told["qa"]["effective"], "nonsense" in told["qa"]["fault"]) == ({}, True)
    assert (told["code"]["effective"] != {}, told["code"]["fault"]) == (True, "")


def test_a_misspelt_field_is_refused(api):
    """It would else mean all pools, or change nothing."""
    for path in ("/resources/rebalance", "/resources/rebalance/policy", "/optimize"):
        assert api.post(path, {"agent_typ": "code"}).status_code == 422


@pytest.mark.parametrize("value", [10**400, 1e300])
def test_a_setting_beyond_all_bounds_is_refused(api, value):
    body = {"agent_type": "code", "settings": {"hold_s": value}}

    assert api.post("/resources/rebalance/policy", body).status_code == 400


def test_never_below_the_least_of_the_caller_or_a_limit(work):
    auto()
    limits.set_limit(
        {"level": "pool", "name": "code", "weight": 1, "min_memory_mb": 900}
        | dict.fromkeys(("memory_mb", "cpu_cores", "token_budget", "disk_space_mb")),
        actor="test",
    )
    lease = work(min_cpu_cores=Decimal("1.9"))
    uses(lease, 100)
    look()
    pass_time(61)

    look()

    assert (only().after, only("cpu_cores").after) == (900, Decimal("1.9"))


def test_a_lease_that_ends_closes_what_is_open(work):
    lease = shrunk(work)
    leases.release(lease.id, token=lease.fencing_token, outcome=Outcome.SUCCESS, actor="test")

    look()

    assert {row.status for row in Rebalancing.objects.all()} == {"ended"}
    assert not UsageWatch.objects.exists()


def test_an_orchestrator_sees_the_changes_of_its_own_leases_only(work, api, token_of):
    mine, other = shrunk(work), work()
    as_asker = {"token": token_of("orchestrator")}
    asked = api.post("/requests", {"agent_type": "code", "project": "p"}, **as_asker).body["id"]
    asker = Request.objects.get(id=asked).requested_by
    Request.objects.filter(id=mine.request_id).update(requested_by=asker)
    Rebalancing.objects.create(
        pool_id="code", lease=other, resource="memory_mb", kind="shrink", before=2, after=1
    )

    shown = api.get("/resources/rebalance/history", **as_asker).body["results"]

    assert {each["lease_id"] for each in shown} == {str(mine.id)}
    assert len(api.get("/resources/rebalance/history").body["results"]) == len(shown) + 1


def test_without_an_environment_a_grant_is_only_a_number(work, api, whole):
    lease = work(payload=None)
    uses(lease, 100)

    tried = api.post("/resources/rebalance?dry_run=true").body
    done = api.post("/resources/rebalance", {"agent_type": "code"}).body

    assert (tried["rebalanced"], tried["opportunities_found"]) == (False, 2)
    assert tried["total_resources_freed"] == {"memory_mb": 400.0, "cpu_cores": 0.6}
    assert (done["rebalanced"], done["successful_rebalances"]) == (True, 2)
    assert {each["type"] for each in done["opportunities"]} == {"memory_reduction", "cpu_reduction"}
    assert Lease.objects.get().memory_mb == 600
    history = api.get("/resources/rebalance/history?status=applied").body["results"]
    assert {each["actor"] for each in history} == {done["opportunities"][0]["actor"]}
    again = api.post("/resources/rebalance").body
    assert (again["rebalanced"], again["reason"].split()[0]) == (False, "No")
    whole()


def test_why_nothing_was_changed_is_said(work):
    lease = work()
    uses(lease, 100)
    LeaseIsolation.objects.all().delete()

    done = rebalancing.rebalance(dry_run=False, actor="ada")

    assert (len(done.rows), done.successful) == (2, 0)
    assert done.reason == "the runtime has not said yet what it holds the work to"
    look()
    pass_time(61)
    look()
    assert only().verdict == done.reason
    holds(lease, memory_mb=lease.memory_mb, cpu_cores=float(lease.cpu_cores))
    look()
    assert only().verdict == ""


def test_nothing_to_do_is_said(api):
    body = api.post("/resources/rebalance").body

    assert (body["rebalanced"], body["opportunities_found"]) == (False, 0)
    assert body["reason"] == "No beneficial rebalancing opportunities found"


def test_policies_are_judged_as_a_whole(api, token_of):
    path = "/resources/rebalance/policy"

    good = api.post(path, {"agent_type": "qa", "mode": "auto", "settings": {"hold_s": 5}})
    bad = api.post(path, {"agent_type": "qa", "settings": {"headroom": 0.5}})

    assert (good.status_code, good.body["effective"]["hold_s"]) == (200, 5)
    assert (bad.status_code, bad.body["code"]) == (400, "invalid") or bad.status_code == 422
    assert RebalancePolicy.objects.get().settings == {"hold_s": 5}
    modes = {each["agent_type"]: each["mode"] for each in api.get(path).body["results"]}
    assert (modes["qa"], modes["code"]) == ("auto", "recommend")
    assert api.post(path, {"agent_type": "qa"}, token=token_of("viewer")).status_code == 403
    assert api.post("/resources/rebalance", token=token_of("orchestrator")).status_code == 403


def test_what_it_did_to_waits_is_measured_later(work):
    shrunk(work)
    pass_time(720)
    first = Rebalancing.objects.get(resource="memory_mb")
    at = first.applied_at
    for minutes, waited in ((-3, 8.0), (-2, 4.0), (2, 1.0), (3, 2.0)):
        begin = metrics.begin_of(at + timedelta(minutes=minutes), 30)
        stretch = metrics.Stretch(30, 1, metrics.Gauges(), metrics.granted(waited_s=waited))
        PoolSample.objects.create(pool_id="code", at=begin, **metrics.row(stretch))

    look()

    row = Rebalancing.objects.get(id=first.id)
    assert (row.wait_before_s, row.wait_after_s, row.is_measured) == (6.0, 1.5, True)


def test_the_minimum_of_a_request_holds_by_default(make_agent, submit):
    make_agent(memory_mb=4096, cpu_cores=4)
    lease = submit(memory_mb=1000).held
    uses(lease, 10)

    rows = rebalancing.rebalance(dry_run=True, actor="test").rows

    assert [row.after for row in rows if row.resource == "memory_mb"] in ([], [1000])
    assert Request.objects.get().min_memory_mb == 1000
    assert queries.now() is not None


@pytest.mark.parametrize("said", [{}, {"memory_mb": "much"}, {"memory_mb": 1e300}])
def test_a_runtime_that_says_no_amount_holds_up_nobody(work, whole, said):
    auto()
    lease = work()
    uses(lease, 100)
    look()
    pass_time(61)
    look()
    holds(lease, cpu_cores=2, **said)
    LeaseIsolation.objects.update(at=Now() - timedelta(seconds=4))
    Rebalancing.objects.update(asked_at=Now() - timedelta(seconds=5))

    look()

    assert only().status == "refused"
    assert "says nothing of memory_mb" in only().verdict
    whole()
