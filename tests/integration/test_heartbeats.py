"""Signs of life, silence, and the interleavings that leases must survive (protocols, section 4)."""

from datetime import timedelta

import pytest
from django.db.models.functions import Now

from agentpool.registry import queries as registry_queries
from agentpool.registry import services as registry_services
from agentpool.registry.errors import LeaseLost
from agentpool.registry.models import Agent, Lease, Liveness, Request, Tick
from agentpool.registry.states import AgentStatus, Outcome
from balancing.services import agents, heartbeats, leases, requests
from balancing.services.heartbeats import Heartbeat

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("whole")]

PAYLOAD = {"command": ["true"]}


@pytest.fixture(autouse=True)
def no_grace(pools):
    """The control plane has been there all the time."""
    registry_services.tick_web()
    Tick.objects.filter(name="web").update(grace_until=None)


def silence(agent, seconds):
    Liveness.objects.filter(agent=agent).update(
        last_heartbeat_at=Now() - timedelta(seconds=seconds)
    )


def overdue(lease, seconds=60):
    Lease.objects.filter(id=lease.id).update(expires_at=Now() - timedelta(seconds=seconds))


def beat(agent, *held, **more):
    entries = [{"lease_id": x.id, "fencing_token": x.fencing_token} for x in held]
    return heartbeats.heartbeat(
        registry_queries.agent_by(id=agent.id),
        beat=Heartbeat(incarnation=agent.incarnation, leases=entries, **more),
    )


def lose(agent):
    silence(agent, 91)
    heartbeats.suspect_and_lose()
    heartbeats.suspect_and_lose()


def test_a_heartbeat_renews_the_lease(make_agent, submit):
    agent = make_agent()
    lease = submit().held
    Lease.objects.update(expires_at=Now() + timedelta(seconds=1))

    answer = beat(agent, lease)

    assert [lease.id] == [kept.id for kept in answer.leases]
    assert Lease.objects.get().expires_at > registry_queries.now() + timedelta(seconds=100)


def test_a_renewal_never_passes_the_hard_end(make_agent, submit):
    agent = make_agent()
    lease = submit(duration_limit_s=50).held

    beat(agent, lease)

    assert Lease.objects.get().expires_at == Lease.objects.get().hard_end_at


def test_the_time_a_renewal_spent_on_its_way_does_not_count(make_agent, submit):
    agent = make_agent()
    lease = submit().held
    Lease.objects.update(expires_at=Now())

    beat(agent, lease, age_s=50)

    assert Lease.objects.get().expires_at < registry_queries.now() + timedelta(seconds=71)


def test_a_lease_that_is_not_its_own_is_cancelled(make_agent, submit):
    agent = make_agent()
    lease = submit().held
    leases.release(lease.id, token=lease.fencing_token, outcome=Outcome.SUCCESS, actor="test")

    answer = beat(agent, lease)

    assert answer.commands == [
        {"kind": "cancel", "lease_id": str(lease.id), "reason": "lease_lost"}
    ]


def test_whoever_names_a_lease_wrongly_loses_it_though_its_agent_speaks_in_the_same_batch(
    make_agent, submit
):
    agent, lease, stranger = make_agent(), submit().held, make_agent()

    def said(who, token=lease.fencing_token):
        entry = {"lease_id": lease.id, "fencing_token": token}
        return heartbeats.beat_of(str(who.id), 1, Heartbeat(incarnation=1, leases=[entry]))

    rightly, strange = said(agent), said(stranger)
    stale = said(agent, lease.fencing_token + 1)

    heard = heartbeats.hear([strange, rightly, stale])

    assert [kept.id for kept in heard.kept_of(rightly)] == [lease.id]
    assert (heard.kept_of(strange), heard.kept_of(stale)) == ([], [])
    lost = {"kind": "cancel", "lease_id": str(lease.id), "reason": "lease_lost"}
    assert (heard.lost_of(strange), heard.lost_of(stale)) == ([lost], [lost])


def test_an_agent_cannot_report_on_another_ones_lease(make_agent, submit):
    make_agent()
    lease = submit().held
    other = make_agent()
    entry = {
        "lease_id": lease.id,
        "fencing_token": lease.fencing_token,
        "usage": {"tokens_in": 9},
    }

    answer = heartbeats.heartbeat(other, beat=Heartbeat(incarnation=1, leases=[entry]))

    assert answer.leases == []
    assert Lease.objects.get().tokens_in == 0


def test_silence_makes_unreachable_then_lost(make_agent, submit):
    agent = make_agent()
    lease = submit(payload=PAYLOAD).held
    leases.acknowledge(lease.id, token=lease.fencing_token)

    silence(agent, 31)
    heartbeats.suspect_and_lose()
    assert Agent.objects.get().status == "unreachable"
    assert Lease.objects.get().status == "active"

    silence(agent, 91)
    heartbeats.suspect_and_lose()
    assert (Agent.objects.get().status, Lease.objects.get().status) == ("lost", "lost")
    assert Request.objects.get().status == "waiting"


def test_an_unreachable_agent_gets_no_work_and_comes_back(make_agent, submit):
    agent = make_agent()
    silence(agent, 31)
    heartbeats.suspect_and_lose()
    waiting = submit()
    assert waiting.held is None

    beat(agent)

    waiting.refresh_from_db()
    assert waiting.status == "granted"


def test_an_agent_that_was_draining_comes_back_draining(make_agent):
    agent = make_agent()
    agents.drain(agent, retire=False, actor="test")
    silence(agent, 31)
    heartbeats.suspect_and_lose()

    beat(agent)

    assert Agent.objects.get().status == "draining"


def test_an_agent_whose_last_lease_ended_in_its_silence_retires_when_it_speaks(make_agent, submit):
    agent = make_agent()
    lease = submit().held
    agents.drain(registry_queries.agent_by(id=agent.id), retire=True, actor="test")
    silence(agent, 31)
    heartbeats.suspect_and_lose()
    leases.release(
        lease.id, token=lease.fencing_token, outcome=Outcome.SUCCESS, actor="who asked for it"
    )

    answer = beat(agent)

    assert Agent.objects.get().status == AgentStatus.RETIRED
    assert [command["kind"] for command in answer.commands] == ["stop"]


def test_an_agent_on_standby_comes_back_on_standby(make_agent):
    agents.set_status(make_agent(), to=AgentStatus.STANDBY, reason="", actor="test")
    agent = Agent.objects.get()
    silence(agent, 31)
    heartbeats.suspect_and_lose()

    beat(agent)

    assert Agent.objects.get().status == "standby"


def test_a_lost_agent_that_speaks_again_is_idle_without_its_leases(make_agent, submit):
    agent = make_agent()
    lease = submit(payload=PAYLOAD).held
    lose(agent)

    answer = beat(agent, lease)

    assert answer.commands[0]["reason"] == "lease_lost"
    assert Agent.objects.get().status == "idle"


def test_work_of_a_lost_agent_goes_to_another_one(make_agent, submit, settings):
    settings.BACKOFF_S = 0
    agent = make_agent()
    submit(payload=PAYLOAD)
    other = make_agent()

    lose(agent)

    assert Lease.objects.get(status="offered").agent_id == other.id


def test_nobody_is_lost_after_the_control_planes_own_absence(make_agent):
    agent = make_agent()
    Tick.objects.filter(name="web").update(at=Now() - timedelta(seconds=300))
    registry_services.tick_web()

    lose(agent)

    assert Agent.objects.get().status == "idle"
    assert registry_queries.grace_until() is not None


def test_no_lease_expires_while_nobody_could_renew_it(make_agent, submit):
    make_agent(max_concurrent=2)
    before = submit().held
    overdue(before)
    Lease.objects.update(acquired_at=Now() - timedelta(seconds=400))
    Tick.objects.filter(name="web").update(at=Now() - timedelta(seconds=300))
    registry_services.tick_web()
    since = submit(payload=PAYLOAD).held
    overdue(since)

    assert leases.expire_leases() == 1

    assert Lease.objects.get(id=before.id).status == "active"
    assert Lease.objects.get(id=since.id).status == "expired"


def test_everybody_is_judged_again_after_the_grace(make_agent):
    agent = make_agent()
    Tick.objects.filter(name="web").update(at=Now() - timedelta(seconds=300))
    registry_services.tick_web()
    Tick.objects.filter(name="web").update(grace_until=Now() - timedelta(seconds=1))

    lose(agent)

    assert Agent.objects.get().status == "lost"


def test_a_new_incarnation_cuts_the_old_one_off(make_agent, submit):
    old = make_agent(agent_id="it")
    lease = submit(payload=PAYLOAD).held

    new = make_agent(agent_id="it")

    assert new.incarnation == 2
    assert Lease.objects.get(id=lease.id).status == "lost"
    with pytest.raises(LeaseLost):
        beat(old, lease)


def test_a_stale_flush_after_reregistration_renews_nothing(make_agent, submit):
    old = make_agent(agent_id="it")
    submit()
    make_agent(agent_id="it")
    lease = submit(affinity="none").held

    with pytest.raises(LeaseLost):
        beat(old, lease)


# -- offers, expiry, and the reaper -----


def test_an_offer_nobody_takes_waits_again(make_agent, submit):
    make_agent()
    lease = submit(payload=PAYLOAD).held
    overdue(lease)

    assert leases.expire_leases() == 1

    assert Lease.objects.get(id=lease.id).status == "expired"
    assert Request.objects.get().status == "waiting"


def test_a_heartbeat_that_crosses_the_offer_leaves_its_window_alone(make_agent, submit):
    agent = make_agent()
    lease = submit(payload=PAYLOAD).held

    beat(agent, lease)

    assert Lease.objects.get().expires_at == lease.expires_at


def test_an_acknowledgement_after_the_withdrawal_is_refused(make_agent, submit):
    make_agent()
    lease = submit(payload=PAYLOAD).held
    overdue(lease)
    leases.expire_leases()

    with pytest.raises(LeaseLost):
        leases.acknowledge(lease.id, token=lease.fencing_token)


def test_acknowledging_twice_is_harmless(make_agent, submit):
    make_agent()
    lease = submit(payload=PAYLOAD).held

    leases.acknowledge(lease.id, token=lease.fencing_token)
    again = leases.acknowledge(lease.id, token=lease.fencing_token)

    assert again.status == "active"


def test_a_renewal_that_was_faster_than_the_reaper_wins(make_agent, submit, monkeypatch):
    agent = make_agent()
    lease = submit().held
    overdue(lease)
    seen = leases.queries.overdue_leases(slack_s=5)
    beat(agent, lease)
    monkeypatch.setattr(leases.queries, "overdue_leases", lambda slack_s: seen)

    assert leases.expire_leases() == 0
    assert Lease.objects.get().status == "active"


def test_a_renewal_after_the_reaper_is_refused(make_agent, submit):
    make_agent()
    lease = submit().held
    overdue(lease)
    leases.expire_leases()

    with pytest.raises(LeaseLost):
        leases.renew(lease.id, token=lease.fencing_token)


def test_the_reaper_leaves_a_lease_alone_for_its_slack(make_agent, submit):
    make_agent()
    lease = submit().held
    overdue(lease, seconds=3)

    assert leases.expire_leases() == 0


def test_work_an_orchestrator_abandoned_fails(make_agent, submit):
    make_agent()
    lease = submit().held
    overdue(lease)

    leases.expire_leases()

    assert Request.objects.get().status == "failed"


def test_work_past_its_hard_end_has_timed_out(make_agent, submit):
    make_agent()
    lease = submit(payload=PAYLOAD).held
    leases.acknowledge(lease.id, token=lease.fencing_token)
    Lease.objects.update(
        expires_at=Now() - timedelta(seconds=60), hard_end_at=Now() - timedelta(seconds=60)
    )

    leases.expire_leases()

    request = Request.objects.get()
    assert (request.status, request.outcome) == ("finished", "timeout")


def test_a_request_nobody_asks_for_times_out(submit):
    request = submit()
    Request.objects.update(expires_at=Now() - timedelta(seconds=1))

    assert requests.time_out_requests() == 1

    request.refresh_from_db()
    assert request.status == "timed_out"


def test_asking_for_a_request_keeps_it_waiting(submit):
    request = submit(ttl_s=100)
    Request.objects.update(expires_at=Now() + timedelta(seconds=1))
    requests.touch_request(request, by=request.requested_by)

    request.refresh_from_db()
    assert request.expires_at > registry_queries.now() + timedelta(seconds=90)


# -- draining and retiring -----


def test_a_draining_agent_finishes_and_retires(make_agent, submit):
    agent = make_agent()
    lease = submit().held

    agents.unregister(
        registry_queries.agent_by(id=agent.id), force=False, if_generation=None, actor="test"
    )
    assert Agent.objects.get().status == "draining"

    leases.release(lease.id, token=lease.fencing_token, outcome=Outcome.SUCCESS, actor="test")
    assert Agent.objects.get().status == "retired"


def test_forcing_cancels_the_leases_first(make_agent, submit):
    agent = make_agent()
    submit()

    agents.unregister(
        registry_queries.agent_by(id=agent.id), force=True, if_generation=None, actor="test"
    )

    assert (Agent.objects.get().status, Lease.objects.get().status) == ("retired", "cancelled")


def test_resuming_takes_a_draining_agent_back(make_agent, submit):
    agent = make_agent()
    drained = agents.drain(agent, retire=False, actor="test")
    waiting = submit()
    assert waiting.held is None

    agents.resume(drained, actor="test")

    waiting.refresh_from_db()
    assert waiting.status == "granted"


def test_maintenance_ends_by_itself(make_agent, submit):
    from agentpool.registry.states import AgentHealth

    agents.set_health(
        make_agent(),
        health=AgentHealth.MAINTENANCE,
        note="disk",
        until=registry_queries.now() - timedelta(seconds=1),
        actor="test",
    )
    waiting = submit()

    assert heartbeats.lift_expired_health() == 1

    waiting.refresh_from_db()
    assert waiting.status == "granted"
