"""What people do to rows in the admin: foretold in numbers, done by services, kept in history."""

import re
from datetime import UTC, datetime, timedelta

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth import get_user_model
from django.contrib.messages import get_messages
from django.test import Client

from agentpool.registry import queries, roles
from agentpool.registry.models import (
    Agent,
    Credential,
    Event,
    Lease,
    Liveness,
    Pool,
    Request,
    ResourceLimit,
)
from balancing.services import agents

pytestmark = pytest.mark.django_db(transaction=True)
AGENTS = "/admin/registry/agent/"


@pytest.fixture
def operator(pools):
    roles.settle()
    roles.make_user("olga", group="operator")
    client = Client()
    client.force_login(get_user_model().objects.get(username="olga"))
    return client


def sentences(answer):
    return " ".join(answer.context["sentences"])


def ask_many(client, path, action, rows, **more):
    chosen = [str(row.pk) for row in rows]
    return client.post(path, {"action": action, "_selected_action": chosen, "index": 0, **more})


def apply(client, asked, path, *, action=None, **said):
    """Confirm what an answer asked."""
    form = {"apply": "1", "seen": asked.context["seen"], "note": "", **said}
    if action:
        form |= {"action": action, "_selected_action": str(asked.context["first"].pk)}
    return client.post(path, form)


def told(answer):
    return [str(message) for message in get_messages(answer.wsgi_request)]


def do(client, row, action, **said):
    """Carry out an act on the page of a row."""
    path = f"/admin/registry/{row._meta.model_name}/{row.pk}/{action.replace('_', '-')}/"
    asked = client.get(path)
    assert asked.status_code == 200
    return apply(client, asked, path, **said)


def test_many_agents_are_drained_with_numbers_first_and_a_note(operator, make_agent, submit):
    rows = [make_agent("code", max_concurrent=2) for _ in range(3)]
    holder = submit("code").held.agent_id
    rows.sort(key=lambda row: row.pk != holder)

    asked = ask_many(operator, AGENTS, "drain", rows[:2])
    assert "2 agents will take no new work." in sentences(asked)
    assert "1 of them holds 1 lease;" in sentences(asked)
    assert "The pool code keeps 2 of 6 slots" in sentences(asked)
    assert {a.status for a in Agent.objects.all()} <= {"idle", "busy"}, "asking changes nothing"
    answer = apply(operator, asked, AGENTS, action="drain", note="kernel update")

    assert answer.status_code == 302
    assert told(answer) == ["Drain: done for 2 agents."]
    after = Agent.objects.filter(pk__in=[row.pk for row in rows[:2]])
    assert {(a.status, a.status_reason) for a in after} == {("draining", "kernel update")}
    assert LogEntry.objects.get(object_id=str(rows[0].pk)).change_message == "Drain · kernel update"
    assert set(Event.objects.filter(kind="agent.draining").values_list("actor", flat=True)) == {
        "user:olga"
    }


def test_a_row_that_somebody_else_changed_is_left_alone_and_named(operator, make_agent):
    rows = [make_agent("code") for _ in range(2)]
    asked = ask_many(operator, AGENTS, "quarantine", rows)
    agents.drain(rows[0], retire=False, actor="user:omar")

    answer = apply(operator, asked, AGENTS, action="quarantine")

    assert "Quarantine: done for" in told(answer)[0]
    assert "Somebody changed it meanwhile" in told(answer)[1]
    assert rows[0].agent_id in told(answer)[1]
    health = dict(Agent.objects.values_list("agent_id", "health"))
    assert health[rows[0].agent_id] == "unknown"
    assert health[rows[1].agent_id] == "quarantined"


def test_what_a_service_refuses_is_told_row_by_row(operator, make_agent):
    rows = [make_agent("code") for _ in range(2)]
    Agent.objects.filter(pk=rows[0].pk).update(status="lost")

    asked = ask_many(operator, AGENTS, "resume", rows)
    answer = apply(operator, asked, AGENTS, action="resume")

    assert len(told(answer)) == 2
    assert "it must speak up itself" in told(answer)[1]


def test_a_pause_has_a_note_and_an_end(operator, make_agent):
    agent = make_agent("code")
    until = (datetime.now(UTC) + timedelta(hours=2)).replace(second=0, microsecond=0)

    answer = do(operator, agent, "pause", note="reboot", until=until.strftime("%Y-%m-%dT%H:%M"))

    agent.refresh_from_db()
    assert answer.status_code == 302
    assert (agent.health, agent.health_note, agent.health_by, agent.health_until) == (
        "maintenance",
        "reboot",
        "user:olga",
        until,
    )
    wrong = do(operator, agent, "quarantine", until="2001-01-01T00:00")
    assert "That time is over." in wrong.content.decode()
    do(operator, agent, "good", note="it is up")
    agent.refresh_from_db()
    assert (agent.health, agent.health_until) == ("good", None)


def test_a_credential_is_rotated_shown_once_and_the_old_one_is_void(
    operator, make_agent, api, pools
):
    first = api.post("", {"agent_id": "bee", "agent_type": "code"}).body
    agent = Agent.objects.get(agent_id="bee")

    page = do(operator, agent, "rotate_credential", note="it leaked").content.decode()

    (secret,) = re.findall(r"<code[^>]*>(ap_[^<]+)</code>", page)
    beat = {"incarnation": first["incarnation"], "leases": []}
    assert api.post("/bee/heartbeat", beat, token=first["credential"]).status_code == 401
    assert api.post("/bee/heartbeat", beat, token=secret).status_code == 200
    event = Event.objects.get(kind="agent.credential_rotated")
    assert (event.actor, event.detail["note"]) == ("user:olga", "it leaked")
    assert secret not in str(list(Event.objects.values_list("detail", flat=True)))
    made = api.post("/bee/rotate-credential", {"note": "again"})
    assert made.status_code == 201
    assert api.post("/bee/heartbeat", beat, token=secret).status_code == 401
    assert api.post("/bee/heartbeat", beat, token=made.body["credential"]).status_code == 200
    assert api.post("/bee/rotate-credential", {}, token=made.body["credential"]).status_code == 403


def test_leases_of_agents_are_cancelled_and_agents_retired(operator, make_agent, submit, whole):
    agent = make_agent("code", max_concurrent=2)
    held = [submit("code"), submit("code")]

    asked = operator.get(f"{AGENTS}{agent.pk}/cancel-leases/")
    assert "2 leases of 1 agent will be cancelled" in sentences(asked)
    do(operator, agent, "cancel_leases", note="hung")
    assert set(Lease.objects.values_list("status", "error")) == {("cancelled", "hung")}
    assert {Request.objects.get(pk=r.pk).status for r in held} == {"cancelled"}
    do(operator, agent, "retire")
    agent.refresh_from_db()
    assert agent.status == "retired"


def test_requests_are_cancelled_and_leases_released(operator, make_agent, submit, whole):
    make_agent("code")
    granted, waiting = submit("code"), submit("code")
    lease = granted.held

    asked = operator.get(f"/admin/registry/lease/{lease.pk}/release/")
    assert "1 lease on 1 agent will be released" in sentences(asked)
    do(operator, waiting, "cancel_request", note="too late")
    do(operator, lease, "release", outcome="failure", note="gave up")

    waiting.refresh_from_db()
    lease.refresh_from_db()
    assert (waiting.status, waiting.reason) == ("cancelled", "too late")
    assert (lease.status, lease.outcome, lease.error) == ("released", "failure", "gave up")
    again = do(operator, lease, "cancel")
    assert "has ended" in told(again)[0]


def test_the_explanation_and_the_log_are_a_click_away(operator, make_agent, submit):
    make_agent("code")
    wish = submit("code")

    explain = operator.get(f"/admin/registry/request/{wish.pk}/explain/")
    log = operator.get(f"/admin/registry/lease/{wish.held.pk}/log/")

    assert explain.headers["Location"] == f"/requests/{wish.pk}/"
    assert log.headers["Location"] == f"/leases/{wish.held.pk}"


def test_the_health_check_runs_at_once(operator, make_agent, api):
    agent = make_agent("code")
    silent_since = queries.now() - timedelta(hours=1)
    Liveness.objects.filter(agent=agent).update(last_heartbeat_at=silent_since)

    answer = operator.post(f"{AGENTS}check-health/", {"note": "it looks stuck"})

    assert "1 unreachable" in told(answer)[0]
    event = Event.objects.get(kind="health.checked")
    assert (event.actor, event.detail["unreachable"]) == ("user:olga", 1)
    assert api.post("/health/check").body == {"unreachable": 0, "lost": 1, "lifted": 0}


def test_an_enrolment_token_of_a_pool_is_shown_once_and_works(operator, api):
    pool = Pool.objects.get(agent_type="code")

    page = do(operator, pool, "make_enrolment_token", uses=1, hours=1).content.decode()

    (secret,) = re.findall(r"<code[^>]*>(ap_[^<]+)</code>", page)
    body = {"agent_id": "new", "agent_type": "code"}
    assert api.post("", body, token=secret).status_code == 201
    assert api.post("", {**body, "agent_id": "newer"}, token=secret).status_code == 403


def test_a_token_is_made_shown_once_and_revoked(operator, api):
    add = "/admin/registry/credential/add/"
    page = operator.post(add, {"scope": "viewer", "name": "grafana", "hours": ""}).content.decode()
    (secret,) = re.findall(r"<code[^>]*>(ap_[^<]+)</code>", page)
    assert api.get("/pools", token=secret).status_code == 200
    row = Credential.objects.get(name="grafana")

    do(operator, row, "revoke", note="not needed")

    assert api.get("/pools", token=secret).status_code == 401
    kinds = Event.objects.filter(detail__token=str(row.pk)).values_list("kind", flat=True)
    assert set(kinds) == {"token.created", "token.revoked"}
    wrong = operator.post(add, {"scope": "enrolment", "name": "x"})
    assert "needs a pool" in wrong.content.decode()


def test_the_history_of_a_row_shows_both_logs_newest_first(operator, make_agent):
    agent = make_agent("code")
    do(operator, agent, "drain", note="kernel update")
    do(operator, agent, "resume", note="done")

    lines = operator.get(f"{AGENTS}{agent.pk}/history/").context["lines"]

    assert [line.at for line in lines] == sorted((line.at for line in lines), reverse=True)
    assert {(line.source, line.who) for line in lines[:4]} == {
        ("admin", "user:olga"),
        ("event", "user:olga"),
    }
    assert {"Drain", "Resume", "agent.draining", "agent.registered"} <= {x.what for x in lines}
    assert "kernel update" in {line.why for line in lines}


def test_a_made_up_row_in_a_confirmation_changes_nothing(operator, make_agent):
    agent = make_agent("code")
    form = {"apply": "1", "note": "", "seen": "nonsense=at work, unknown"}

    answer = operator.post(f"{AGENTS}{agent.pk}/drain/", form)

    assert answer.status_code == 302
    agent.refresh_from_db()
    assert agent.status == "idle"


def test_too_many_rows_at_once_are_refused(operator, make_agent, monkeypatch):
    from agentpool.registry.admin import acts

    monkeypatch.setattr(acts, "AT_MOST", 2)
    rows = [make_agent("code") for _ in range(3)]

    answer = ask_many(operator, AGENTS, "drain", rows)

    assert answer.status_code == 302
    assert "More than 2 rows" in told(answer)[0]


@pytest.fixture
def unwritten(monkeypatch, operator):
    """The admin's log cannot be written: the disk is full, the process dies, somebody kills it."""

    def fail(*_, **__):
        raise OSError("no room")

    monkeypatch.setattr(LogEntry.objects, "log_actions", fail)
    operator.raise_request_exception = False
    return operator


def test_an_act_and_what_is_written_about_it_are_one(unwritten, make_agent, submit, whole):
    agent = make_agent("code")
    lease = submit("code").held
    before = Event.objects.count()

    answer = do(unwritten, Agent.objects.get(pk=agent.pk), "cancel_leases", note="hung")

    lease.refresh_from_db()
    assert answer.status_code == 500
    assert (lease.status, Event.objects.count()) == ("active", before)


def test_an_edit_and_what_is_written_about_it_are_one(unwritten, pools):
    roles.make_user("ada", group="admin")
    unwritten.force_login(get_user_model().objects.get(username="ada"))
    said = {"level": "project", "name": "shop", "weight": "1", "memory_mb": "512"}

    answer = unwritten.post("/admin/registry/resourcelimit/add/", said)

    assert answer.status_code == 500
    assert not ResourceLimit.objects.exists()
    assert not Event.objects.filter(kind="limit.set").exists()
