"""What runtimes report of their sandboxes, and what a profile makes of it."""

import pytest
from django.urls import reverse

from agentpool.agent import isolation
from agentpool.registry.models import Agent, Event, LeaseIsolation
from balancing.services import security

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("whole")]
HELD = {"tier": "process", "enforced": ["network", "files"], "declared": ["cpu"], "policy": {}}


@pytest.fixture
def lease(api, make_agent):
    make_agent(agent_id="a1")
    return api.post("/requests", {"agent_type": "code", "project": "p"}).body


def report(api, lease, **body):
    fields = {"fencing_token": lease["fencing_token"], **body}
    return api.post(f"/leases/{lease['id']}/security", fields)


def refusal(kind="denied_network", detail="203.0.113.1 port 80"):
    return {"kind": kind, "detail": detail}


def test_the_runtime_and_the_server_know_the_same_incidents():
    assert isolation.KINDS == security.KINDS


def test_enforcement_is_stored_once_and_incidents_become_events(api, lease):
    assert api.get(f"/leases/{lease['id']}").body["isolation"] is None

    first = report(api, lease, enforcement=HELD, incidents=[refusal(), refusal("timed_out", "")])
    again = report(api, lease, enforcement={**HELD, "tier": "bare", "enforced": []})

    assert (first.status_code, again.status_code) == (200, 200), first.body
    shown = api.get(f"/leases/{lease['id']}").body["isolation"]
    assert (shown["tier"], shown["enforced"], shown["declared"]) == (
        "process",
        ["network", "files"],
        ["cpu"],
    )
    found = Event.objects.filter(kind__startswith="security.").order_by("id")
    assert [(e.kind, e.agent_id, str(e.lease_id), e.detail["what"]) for e in found] == [
        ("security.denied_network", "a1", lease["id"], "203.0.113.1 port 80"),
        ("security.timed_out", "a1", lease["id"], ""),
    ]


@pytest.mark.parametrize(
    "wrong",
    [
        {"incidents": [refusal("escaped")]},
        {"incidents": [refusal()] * 51},
        {"enforcement": {"tier": "process"}},
    ],
)
def test_what_no_runtime_says_is_refused(api, lease, wrong):
    answer = report(api, lease, **wrong)

    assert (answer.status_code, answer.body["code"]) == (422, "invalid")
    assert not LeaseIsolation.objects.exists()
    assert not Event.objects.filter(kind__startswith="security.").exists()


def test_a_stale_token_and_whoever_asked_for_the_lease_report_nothing(api, lease, token_of):
    stale = report(api, {**lease, "fencing_token": lease["fencing_token"] + 1}, enforcement=HELD)
    door, body = f"/leases/{lease['id']}/security", {"fencing_token": lease["fencing_token"]}
    asker = api.post(door, body, token=token_of("orchestrator"))

    assert (stale.status_code, stale.body["code"]) == (409, "lease_lost")
    assert asker.status_code == 403
    assert not LeaseIsolation.objects.exists()


def test_an_agent_is_quarantined_after_as_many_events_as_its_profile_says(api, lease):
    api.patch("/security/profiles/code", {"quarantine_after": 3})

    two = [refusal(), refusal(detail="203.0.113.2 port 80")]
    report(api, lease, incidents=two)
    report(api, lease, incidents=two)  # its answer was lost: it comes again and counts once
    assert Agent.objects.get().health == "unknown"
    assert Event.objects.filter(kind__startswith="security.").count() == 2
    report(api, lease, incidents=[refusal("tool_refused", "curl")])

    agent = Agent.objects.get()
    assert (agent.health, agent.health_by) == ("quarantined", "security")
    assert "3 security events" in agent.health_note


def test_an_offer_carries_the_profile_and_the_secrets_of_its_pool(api, make_agent):
    make_agent(agent_id="a1")
    api.patch(
        "/security/profiles/code",
        {"allowed_hosts": ["API.example.org:443"], "writable": ["notes/**"]},
    )
    changed = api.patch("/pools/code", {"secrets": ["key=PROVIDER_KEY"]})
    assert changed.status_code == 200, changed.body
    body = {"agent_type": "code", "project": "p", "payload": {"command": ["true"]}}
    api.post("/requests", body)

    offer = api.get("/a1/offers").body["offers"][0]

    assert offer["pool_secrets"] == ["key=PROVIDER_KEY"]
    assert offer["profile"] == {
        "version": 2,
        "allowed_tools": ["read", "write", "git", "test_execution"],
        "network_access": "limited",
        "file_access": "read_write_source",
        "allowed_hosts": ["api.example.org:443"],
        "writable": ["notes/**"],
    }


@pytest.mark.parametrize(
    "wrong",
    [{"allowed_hosts": ["http://x"]}, {"writable": ["../up"]}, {"writable": ["/etc"]}],
)
def test_a_profile_takes_hosts_and_globs_only(api, wrong):
    answer = api.patch("/security/profiles/code", wrong)

    assert (answer.status_code, answer.body["code"]) == (422, "invalid")


def test_the_page_of_a_lease_shows_what_held_and_what_was_refused(api, lease, admin_client):
    report(api, lease, enforcement=HELD, incidents=[refusal()])

    shown = admin_client.get(reverse("lease", args=[lease["id"]])).content.decode()

    assert "network, files" in shown
    assert "only told: cpu" in shown
    assert "203.0.113.1 port 80" in shown
    assert admin_client.get(reverse("settings")).status_code == 200
