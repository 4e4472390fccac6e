"""REST as its callers see it: who may, what is refused and how, what a repeat brings."""

import contextlib
import json
import re
from base64 import b64encode
from urllib.parse import quote
from uuid import uuid4

import pytest

from agentpool.live.connect import connect
from agentpool.live.relay import Relay
from agentpool.registry import services
from agentpool.registry.errors import ConcurrentUpdate
from agentpool.registry.models import Agent, Event, IdempotencyKey, Lease, Request

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("whole")]

CODE = {"agent_type": "code", "project": "p"}
BIG = {"memory_mb": 4096, "cpu_cores": 4, "token_budget": 200_000, "disk_space_mb": 2000}


@pytest.fixture
def enrolled(api):
    """Register an agent as an agent does; returns its JSON with `credential`."""

    def enrol(agent_id="a1", agent_type="code", **fields):
        token = api.post(f"/pools/{agent_type}/enrolment-tokens").body["token"]
        body = {"agent_id": agent_id, "agent_type": agent_type, **fields}
        answer = api.post("", body, token=token)
        assert answer.status_code == 201, answer.body
        return answer.body

    return enrol


def refused(answer, status, code):
    assert (answer.status_code, answer.body["code"]) == (status, code), answer.body
    assert answer["Content-Type"] == "application/problem+json"
    assert answer.body["status"] == status
    return answer.body


# -- who may -----


def test_a_caller_without_a_token_is_asked_for_one(api):
    answer = api.get("", token="")

    refused(answer, 401, "unauthenticated")
    assert answer["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize("token", ["nonsense", "ap_" + "x" * 43, "é"])
def test_a_wrong_token_is_refused(api, token):
    refused(api.get("", token=token), 401, "unauthenticated")


def test_a_revoked_token_is_refused(api):
    made = api.post("/tokens", {"scope": "viewer", "name": "v"}).body
    assert api.get("", token=made["token"]).status_code == 200

    api.delete(f"/tokens/{made['id']}")

    refused(api.get("", token=made["token"]), 401, "unauthenticated")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/requests", {**CODE, "affinity": "\ud800"}),
        ("/requests", {**CODE, "\ud800": 1}),
        ("/scaling/stop", {"\ud800": 1}),
    ],
)
def test_what_no_text_can_hold_is_refused_in_words_that_can_be_sent(api, path, body):
    refused(api.post(path, body), 422, "invalid")


@pytest.mark.parametrize(
    "part",
    [
        '"payload": {"input": {"x": 1e400}}',
        '"payload": {"files": {"a\\u0000": ""}}',
        '"payload": {"files": {"a\\ud800": ""}}',
        '"requirements": {"capabilities": ["a\\u0000"]}',
        '"requirements": {"capabilities": ["a\\ud800"]}',
    ],
)
def test_what_postgres_cannot_store_is_refused(api, part):
    raw = f'{{"agent_type": "code", "project": "p", {part}}}'

    refused(api.call("POST", "/requests", raw=raw), 422, "invalid")


def test_a_label_without_end_is_refused(api):
    raw = '{"agent_type": "code", "agent_id": "a", "labels": {"x": 1e400}}'

    refused(api.call("POST", "", raw=raw), 422, "invalid")


@pytest.mark.parametrize(
    ("scope", "method", "path", "status"),
    [
        ("viewer", "GET", "", 200),
        ("viewer", "POST", "/requests", 403),
        ("viewer", "POST", "/pools", 403),
        ("viewer", "GET", "/tokens", 403),
        ("orchestrator", "GET", "/pools", 200),
        ("orchestrator", "POST", "/requests", 202),
        ("orchestrator", "POST", "/scaling/execute", 403),
        ("orchestrator", "POST", "/code-1/health", 403),
    ],
)
def test_a_scope_allows_what_it_should(api, token_of, scope, method, path, status):
    body = CODE if path == "/requests" else {}

    answer = api.call(method, path, body if method == "POST" else None, token=token_of(scope))

    assert answer.status_code == status, answer.body


def test_secrets_are_stored_nowhere(api, enrolled):
    from django.db import connection

    agent = enrolled()
    key = {"Idempotency-Key": "k"}
    token = api.post("/tokens", {"scope": "viewer"}, **key).body["token"]

    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT string_agg(c::text, '') || (SELECT string_agg(i::text, '') FROM"
            " idempotency_key i) FROM credential c"
        )
        (stored,) = cursor.fetchone()
    assert agent["credential"] not in stored
    assert token not in stored
    assert token[10:] not in stored


def test_an_agent_acts_for_itself_only(api, enrolled):
    mine, other = enrolled("mine"), enrolled("other")
    token = mine["credential"]

    assert api.post("/mine/heartbeat", {"incarnation": 1}, token=token).status_code == 200
    refused(api.post("/other/heartbeat", {}, token=token), 403, "forbidden")
    refused(api.post("/other/status", {"status": "draining"}, token=token), 403, "forbidden")
    refused(api.get(f"/{other['id']}", token=token), 403, "forbidden")
    refused(api.delete(f"/{other['id']}", token=token), 403, "forbidden")
    refused(api.get("", token=token), 403, "forbidden")


def test_an_agent_cannot_end_another_ones_lease(api, enrolled):
    enrolled("mine")
    lease = api.post("/requests", CODE).body
    other = enrolled("other")["credential"]
    body = {"fencing_token": lease["fencing_token"]}

    for door in ("ack", "renew", "release"):
        refused(api.post(f"/leases/{lease['id']}/{door}", body, token=other), 403, "forbidden")
    assert Lease.objects.get().status == "active"


def test_an_orchestrator_sees_only_what_it_asked_for(api, token_of):
    one, two = token_of("orchestrator"), token_of("orchestrator")
    mine = api.post("/requests", CODE, token=one).body["id"]

    assert api.get(f"/requests/{mine}", token=one).status_code == 200
    refused(api.get(f"/requests/{mine}", token=two), 404, "not_found")
    refused(api.delete(f"/requests/{mine}", token=two), 404, "not_found")
    assert api.get("/requests", token=two).body["results"] == []


def test_an_orchestrator_does_not_see_what_was_refused_to_others(api, token_of):
    mine, other = token_of("orchestrator"), token_of("orchestrator")
    after = api.get("/events").body["next"]
    refused(api.post("/assign", {**CODE, "project": "p"}, token=mine), 409, "capacity_exhausted")
    with connect() as own:
        Relay(own).step()

    told = [api.get(f"/events?after={after}", token=t).body["events"] for t in (mine, other)]

    kinds = [{event["kind"] for event in events} for events in told]
    assert ["request.refused" in found for found in kinds] == [True, False]


def test_a_browser_session_needs_the_csrf_token(api, pools):
    from django.test import Client

    browser = Client(enforce_csrf_checks=True)
    browser.login(username="admin", password=pools["password"])

    assert browser.get("/api/agent-pool").status_code == 200
    refused_ = browser.post("/api/agent-pool/requests", CODE, content_type="application/json")
    assert refused_.status_code == 403


# -- enrolment -----


def test_an_enrolment_token_is_good_for_its_uses_and_its_pool(api):
    token = api.post("/pools/code/enrolment-tokens", {"uses": 1}).body["token"]
    body = {"agent_id": "a1", "agent_type": "code"}

    refused(api.post("", {**body, "agent_type": "qa"}, token=token), 403, "forbidden")
    assert api.post("", body, token=token).status_code == 201
    refused(api.post("", {**body, "agent_id": "a2"}, token=token), 403, "forbidden")
    refused(api.get("", token=token), 403, "forbidden")


def test_a_lost_answer_to_an_enrolment_can_be_asked_for_again(api):
    token = api.post("/pools/code/enrolment-tokens", {"uses": 1}).body["token"]
    body, key = {"agent_id": "a1", "agent_type": "code"}, {"Idempotency-Key": "once"}

    first = api.post("", body, token=token, **key).body
    again = api.post("", body, token=token, **key)

    assert (again.status_code, again.body) == (201, first)
    assert Agent.objects.get().incarnation == 1


def test_registering_again_raises_the_incarnation_and_cuts_the_old_one_off(api, enrolled):
    old = enrolled("a1")

    new = api.post("", {"agent_id": "a1", "agent_type": "code"}, token=old["credential"]).body

    assert new["incarnation"] == 2
    refused(api.post("/a1/heartbeat", {}, token=old["credential"]), 401, "unauthenticated")
    assert api.post("/a1/heartbeat", {}, token=new["credential"]).status_code == 200


def test_the_launch_template_fills_what_an_agent_does_not_say(api, enrolled):
    api.patch("/pools/code", {"memory_mb": 3000, "tools": ["git"]})

    agent = enrolled(cpu_cores=2.5)

    assert (agent["memory_mb"], agent["tools"], agent["cpu_cores"]) == (3000, ["git"], 2.5)


def test_a_name_of_another_pool_is_a_duplicate(api, enrolled):
    enrolled("a1", "code")

    refused(api.post("", {"agent_id": "a1", "agent_type": "qa"}), 409, "duplicate")


@pytest.mark.parametrize(
    "name", ["requests", "leases", "metrics", "a b", "ä", "", "x" * 129, "a/b"]
)
def test_a_name_that_could_not_be_addressed_is_refused(api, name):
    refused(api.post("", {"agent_id": name, "agent_type": "code"}), 422, "invalid")


@pytest.mark.parametrize("name", ["user:admin", "token:3f2a"])
def test_no_agent_signs_its_events_with_the_name_of_somebody_else(api, name):
    refused(api.post("", {"agent_id": name, "agent_type": "code"}), 422, "invalid")


# -- bad input -----


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"project": "p"}, "agent_type"),
        ({**CODE, "agent_type": "nope"}, "agent_type"),
        ({**CODE, "agent_type": 7}, "agent_type"),
        ({**CODE, "project": ""}, "project"),
        ({**CODE, "project": "x" * 201}, "project"),
        ({**CODE, "project": "a\u0000b"}, "project"),
        ({**CODE, "priority": 101}, "priority"),
        ({**CODE, "priority": True}, "priority"),
        ({**CODE, "typo": 1}, "typo"),
        ({**CODE, "requirements": {"memory_mb": -1}}, "requirements.memory_mb"),
        ({**CODE, "requirements": {"memory_mb": 1e30}}, "requirements.memory_mb"),
        ({**CODE, "requirements": {"cpu_cores": "NaN"}}, "requirements.cpu_cores"),
        ({**CODE, "requirements": {"security_level": "root"}}, "requirements.security_level"),
        ({**CODE, "requirements": {"min_memory_mb": 2048}}, "requirements.min_memory_mb"),
        ({**CODE, "requirements": {"labels": {"a": "\ud800"}}}, "requirements.labels"),
        ({**CODE, "requirements": {"labels": {"a": [1]}}}, "requirements.labels.a"),
        ({**CODE, "lock_keys": "k"}, "lock_keys"),
        ({**CODE, "wait_s": 61}, "wait_s"),
        ({**CODE, "payload": {"env": {"AGENTPOOL_X": "1"}}}, "payload.env"),
        ({**CODE, "payload": {"workspace": {"git": "a", "path": "b"}}}, "payload.workspace"),
    ],
)
def test_a_faulty_field_is_named(api, body, field):
    problem = refused(api.post("/requests", body), 422, "invalid")

    assert field in [error["field"] for error in problem["errors"]]
    assert not Request.objects.exists()


@pytest.mark.parametrize("raw", ["{", "", "7", '"text"', "null", "[" * 100_000, '{"a": NaN}'])
def test_a_body_that_is_no_json_object_is_refused(api, raw):
    answer = api.call("POST", "/requests", raw=raw)

    assert answer.status_code in (400, 422)
    assert answer.body["code"] == "invalid"


def test_a_body_of_a_megabyte_is_refused(api):
    body = {**CODE, "payload": {"command": ["x" * 9000] * 120}}

    refused(api.post("/requests", body), 400, "invalid")
    assert not Request.objects.exists()


def test_another_media_type_is_refused(api):
    answer = api.client.post(
        "/api/agent-pool/requests",
        "a=b",
        content_type="application/x-www-form-urlencoded",
        HTTP_AUTHORIZATION=f"Bearer {api.token}",
    )

    assert (answer.status_code, answer.json()["code"]) == (415, "invalid")


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=501", "limit=x", "status=nope", "ordering=x", "cursor=x", "search=%00"],
)
def test_a_faulty_parameter_is_refused(api, query):
    answer = api.get(f"?{query}")

    assert answer.status_code in (400, 422), answer.body
    assert answer.body["code"] == "invalid"


NOBODY = "3c6f2a54-7a0e-4d0e-9f43-0d9f0a3a7b11"


@pytest.mark.parametrize(
    "path",
    [
        "/nope/nope",
        f"/{NOBODY}",
        "/agent-id/nobody",
        f"/requests/{NOBODY}",
        "/pools/no",
    ],
)
def test_what_is_not_there_is_not_found(api, path):
    refused(api.get(path), 404, "not_found")


def test_a_stale_fencing_token_changes_nothing(api, enrolled):
    enrolled()
    lease = api.post("/requests", CODE).body
    stale = {"fencing_token": lease["fencing_token"] + 1}

    for door in ("renew", "usage", "release", "ack"):
        refused(api.post(f"/leases/{lease['id']}/{door}", stale), 409, "lease_lost")
    log = {**stale, "chunks": [{"stream": "stdout", "text": "x"}]}
    refused(api.post(f"/leases/{lease['id']}/log", log), 409, "lease_lost")
    assert Lease.objects.get().status == "active"


# -- asking and getting -----


def test_a_request_is_answered_with_the_lease_or_with_itself(api, enrolled):
    enrolled()

    got, waits = api.post("/requests", CODE), api.post("/requests", CODE)

    assert (got.status_code, got.body["status"]) == (201, "active")
    assert got.body["fencing_token"] > 0
    assert (waits.status_code, waits.body["status"], waits.body["position"]) == (202, "waiting", 1)
    assert waits["Location"] == f"/api/agent-pool/requests/{waits.body['id']}"


def test_assign_grants_or_says_that_nobody_is_free(api, enrolled):
    enrolled()

    assert api.post("/assign", CODE).status_code == 201
    answer = api.post("/assign", CODE)
    refused(answer, 409, "capacity_exhausted")
    assert int(answer["Retry-After"]) >= 1


def test_a_lease_shows_what_the_interface_promises(api, enrolled):
    enrolled(endpoint="http://a1", **BIG)

    lease = api.post("/assign", {**CODE, "cycle_id": "c", "phase": "code"}).body

    assert lease["agent"] == {"agent_id": "a1", "endpoint": "http://a1"}
    assert lease["grant"] == {
        # There is plenty: half as much again as was asked for.
        "memory_mb": 1536,
        "cpu_cores": 1.5,
        "token_budget": 50_000,
        "disk_space_mb": 500,
        "network_bandwidth_mbps": 10.0,
        "network": "limited",
    }
    promised = "id project cycle_id phase status fencing_token offered_at acked_at acquired_at"
    promised += " expires_at released_at waited_s outcome decision"
    assert set(promised.split()) <= set(lease)
    assert {"strategy", "tier", "score", "parts"} <= set(lease["decision"])


def test_an_agent_shows_what_the_interface_promises(api, enrolled):
    agent = enrolled()
    promised = """id agent_id agent_type name status health health_note schedulable
        current_project projects capabilities tools labels max_concurrent active_leases load
        memory_mb cpu_cores token_budget disk_space_mb used security_level isolation_levels
        provider endpoint host version incarnation last_heartbeat_at heartbeat_age_s performance
        created_at updated_at generation"""

    assert set(promised.split()) <= set(agent)
    assert {"leases", "success_rate", "mean_s", "p95_s", "tokens"} == set(agent["performance"])


def test_release_by_agent_ends_a_lease_a_projects_or_all(api, enrolled):
    enrolled(max_concurrent=3, **BIG)
    one = api.post("/assign", CODE).body
    api.post("/assign", {**CODE, "project": "q"})
    api.post("/assign", {**CODE, "project": "r"})

    by_lease = api.post("/a1/release", {"lease_id": one["id"], "outcome": "failure"}).body
    by_project = api.post("/a1/release", {"project": "q"}).body
    rest = api.post("/a1/release").body

    ended = [[x["project"] for x in answer["released"]] for answer in (by_lease, by_project, rest)]
    assert ended == [["p"], ["q"], ["r"]]
    assert by_lease["released"][0]["outcome"] == "failure"


def test_offers_are_taken_reported_on_and_released(api, enrolled):
    token = enrolled()["credential"]
    request = {**CODE, "payload": {"command": ["true"], "env": {"A": "b"}}}
    asked = api.post("/requests", request).body

    (offer,) = api.get("/a1/offers", token=token).body["offers"]
    assert (offer["id"], offer["payload"]["command"]) == (asked["id"], ["true"])
    fenced = {"fencing_token": offer["fencing_token"]}
    door = f"/leases/{offer['id']}"
    assert api.post(f"{door}/ack", fenced, token=token).body["status"] == "active"
    chunks = [{"stream": "stdout", "text": "hello\n"}, {"stream": "stderr", "text": "nul \0\n"}]
    assert api.post(f"{door}/log", {**fenced, "chunks": chunks}, token=token).body["bytes"] > 0
    usage = {"usage": {"memory_mb": 12.5, "tokens_in": 3}, "progress": {"counter": 1}}
    assert api.post(f"{door}/usage", {**fenced, **usage}, token=token).status_code == 200
    done = {**fenced, "outcome": "success", "result": {"answer": 42}}
    assert api.post(f"{door}/release", done, token=token).body["outcome"] == "success"

    log = api.get(f"{door}/log").body
    assert [c["text"] for c in log["chunks"]] == ["hello\n", "nul \ufffd\n"]
    assert api.get(f"{door}/log?after={log['next']}").body["complete"] is True
    ended = api.get(f"/requests/{asked['request_id']}").body
    assert (ended["status"], ended["outcome"]) == ("finished", "success")
    assert ended["result"] == {"answer": 42}


def test_a_log_keeps_its_tail_under_the_cap(api, enrolled, settings):
    settings.LOG_CAP_BYTES = 1000
    enrolled()
    lease = api.post("/assign", CODE).body
    for number in range(10):
        chunk = {"stream": "stdout", "text": str(number) * 300}
        body = {"fencing_token": lease["fencing_token"], "chunks": [chunk]}
        api.post(f"/leases/{lease['id']}/log", body)

    log = api.get(f"/leases/{lease['id']}/log").body

    assert [chunk["text"][0] for chunk in log["chunks"]] == ["7", "8", "9"]
    assert log["dropped_bytes"] == 7 * 300


def test_a_batch_is_stored_in_one_go(api, enrolled):
    enrolled(max_concurrent=2, **BIG)

    done = api.post("/requests/batch", {"requests": [CODE, CODE, CODE]}).body
    gang = api.post("/requests/batch", {"requests": [CODE], "gang": True})

    assert sorted(r["status"] for r in done["requests"]) == ["granted", "granted", "waiting"]
    refused(gang, 409, "capacity_exhausted")
    assert Request.objects.count() == 3


# -- repeats, versions, pages -----


def test_a_repeated_post_gets_the_same_answer_and_changes_nothing(api, enrolled):
    enrolled(max_concurrent=2, **BIG)
    key = {"Idempotency-Key": "abc"}

    first, again = api.post("/requests", CODE, **key), api.post("/requests", CODE, **key)

    assert (again.status_code, again.body) == (first.status_code, first.body)
    assert Lease.objects.count() == 1


def test_a_revoked_token_gets_no_answer_of_an_earlier_call(api, enrolled):
    enrolled(max_concurrent=2, **BIG)
    made = api.post("/tokens", {"name": "left", "scope": "orchestrator"}).body
    key = {"Idempotency-Key": "abc", "token": made["token"]}
    # Once without a key, so that the door remembers who it was.
    assert api.post("/requests", CODE, token=made["token"]).status_code == 201
    assert api.post("/requests", CODE, **key).status_code == 201

    api.delete(f"/tokens/{made['id']}")

    refused(api.post("/requests", CODE, **key), 401, "unauthenticated")


def test_a_key_with_another_body_is_refused(api):
    key = {"Idempotency-Key": "abc"}
    api.post("/requests", CODE, **key)

    refused(api.post("/requests", {**CODE, "project": "q"}, **key), 422, "invalid")


def test_a_key_asks_for_the_same_however_long_its_caller_waits(api):
    key = {"Idempotency-Key": "abc"}
    first = api.post("/requests", {**CODE, "wait_s": 0.1, "allow_future": True}, **key)

    again = api.post("/requests", {**CODE, "wait_s": 0, "allow_future": True}, **key)

    assert (again.status_code, again.body["id"]) == (202, first.body["id"])


def test_a_wrong_word_is_refused_with_the_right_ones(api):
    answer = api.patch("/pools/code", {"strategy": "silly"})

    refused(answer, 422, "invalid")
    assert "least_loaded" in answer.body["detail"]


def test_an_id_that_is_none_is_told_from_a_path_that_is_none(api):
    wrong = [api.get("/requests/zzz/explain"), api.get("/leases/xyz"), api.delete("/tokens/12")]
    nowhere = api.get("/leases/xyz/nothing/here")

    for answer, id in zip(wrong, ("zzz", "xyz", "12"), strict=True):
        refused(answer, 404, "not_found")
        assert answer.body["detail"].startswith(f"{id} is no id")
    assert answer.body["status"] == nowhere.body["status"]


def test_a_refusal_does_not_use_a_key_up(api, enrolled):
    key = {"Idempotency-Key": "abc"}
    refused(api.post("/assign", CODE, **key), 409, "capacity_exhausted")
    enrolled()

    assert api.post("/assign", CODE, **key).status_code == 201
    assert IdempotencyKey.objects.count() == 1


@pytest.mark.parametrize("key", [{}, {"Idempotency-Key": "abc"}])
def test_what_is_refused_is_counted_as_demand_whether_or_not_it_has_a_key(api, enrolled, key):
    enrolled()

    refused(api.post("/assign", {**CODE, "requirements": BIG}, **key), 422, "unsatisfiable")
    gang = {"requests": [CODE, CODE, CODE], "gang": True}
    key = dict.fromkeys(key, "another")
    refused(api.post("/requests/batch", gang, **key), 409, "capacity_exhausted")

    told = Event.objects.filter(kind="request.refused").order_by("id")
    reasons = [event.detail["reason"] for event in told]
    assert reasons == ["unsatisfiable", "exhausted", "exhausted", "exhausted"]
    assert not Request.objects.exists()


def test_a_key_with_another_token_of_the_same_agent_is_refused(api, enrolled):
    body, key = {"agent_id": "a1", "agent_type": "code"}, {"Idempotency-Key": "abc"}
    again = api.post("", body, token=enrolled()["credential"], **key)
    assert again.status_code == 201, again.body

    refused(api.post("", body, token=again.body["credential"], **key), 422, "invalid")


def test_a_stale_version_is_refused(api, enrolled):
    agent = enrolled()
    seen = api.get(f"/{agent['id']}")["ETag"]

    changed = api.patch(f"/{agent['id']}", {"name": "n"}, **{"If-Match": seen})
    stale = api.patch(f"/{agent['id']}", {"name": "m"}, **{"If-Match": seen})

    assert changed.status_code == 200
    assert changed["ETag"] != seen
    refused(stale, 412, "stale_version")
    refused(api.delete(f"/{agent['id']}", **{"If-Match": seen}), 412, "stale_version")
    refused(api.patch(f"/{agent['id']}", {}, **{"If-Match": "x"}), 400, "invalid")


def test_an_agent_cannot_shrink_below_what_it_has_given_out(api, enrolled):
    agent = enrolled()
    api.post("/assign", CODE)

    refused(api.patch(f"/{agent['id']}", {"memory_mb": 10}), 409, "agent_busy")


def test_pages_bring_each_row_once(api, enrolled):
    for number in range(7):
        enrolled(f"a{number}")
    seen, path = [], "?limit=3&ordering=agent_id"
    while path:
        body = api.get(path).body
        seen += [agent["agent_id"] for agent in body["results"]]
        path = "?" + body["next"].partition("?")[2] if body["next"] else None

    assert seen == [f"a{number}" for number in range(7)]


def test_pages_of_equal_rows_go_on_beyond_a_thousand_and_past_those_that_leave(api, make_agent):
    agent = make_agent()
    columns = {f.attname: getattr(agent, f.attname) for f in Agent._meta.concrete_fields}
    del columns["id"]
    Agent.objects.bulk_create(Agent(**columns | {"agent_id": f"b{n}"}) for n in range(2000))
    seen, path, left = [], "?ordering=status&limit=500", set()
    while path:
        page = api.get(path).body
        names = [row["agent_id"] for row in page["results"]]
        seen += names
        path = page["next"] and "?" + page["next"].partition("?")[2]
        # Some that were shown already stop being equal to the rest.
        Agent.objects.filter(agent_id__in=names[:10]).update(status="draining")
        left |= {*names[:10]}
        assert len(seen) <= 2001

    assert len({*seen}) == len(seen) == 2001
    assert Agent.objects.filter(status="draining").count() == len(left)


def test_lists_are_filtered(api, enrolled):
    enrolled("a1", capabilities=["rust"], labels={"zone": "b"})
    enrolled("b2", "qa")
    api.post("/assign", CODE)

    def found(query):
        return [agent["agent_id"] for agent in api.get(f"?{query}").body["results"]]

    assert found("agent_type=qa") == ["b2"]
    assert found("status=busy") == ["a1"]
    assert found("project=p") == ["a1"]
    assert found("capability=rust") == ["a1"]
    assert found("label=zone=b") == ["a1"]
    assert found("search=B2") == ["b2"]
    assert found("health=quarantined") == []


@pytest.mark.parametrize(
    ("label", "found"),
    [
        ("zone=a", 1),
        ("0=x", 1),
        ("gpu=2", 1),
        ("ssd=true", 1),
        ("gpu=NaN", 0),
        ("gpu=1e400", 0),
        ("zone__regex=(", 0),
        ("zone__range=a", 0),
        ("zone__isnull=a", 0),
    ],
)
def test_a_label_is_a_name_and_a_value_and_nothing_else(api, make_agent, label, found):
    make_agent(labels={"zone": "a", "0": "x", "gpu": 2, "ssd": True})

    answer = api.get(f"?label={label}")

    assert answer.status_code == 200, answer.body
    assert len(answer.body["results"]) == found


def test_deleting_a_busy_agent_drains_it(api, enrolled):
    busy, idle = enrolled("a1"), enrolled("b2", "qa")
    api.post("/assign", CODE)

    assert api.delete(f"/{idle['id']}").status_code == 204
    draining = api.delete(f"/{busy['id']}")
    assert (draining.status_code, draining.body["status"]) == (202, "draining")
    assert api.delete(f"/{busy['id']}?force=true").status_code == 204


@pytest.mark.parametrize("status", ["lost", "unreachable", "starting"])
def test_nobody_may_set_what_only_the_machine_knows(api, enrolled, status):
    enrolled()

    refused(api.post("/a1/status", {"status": status}), 409, "unsupported_transition")


def test_pools_can_be_made_changed_and_not_made_twice(api):
    made = api.post("/pools", {"agent_type": "docs", "max_size": 3})

    assert made.status_code == 201
    refused(api.post("/pools", {"agent_type": "docs"}), 409, "duplicate")
    refused(api.patch("/pools/docs", {"min_size": 9}), 422, "invalid")
    assert api.patch("/pools/docs", {"min_size": 2}).body["min_size"] == 2
    assert api.get("/security/profiles/docs").body["network_access"] == "none"


def test_two_changes_of_a_pool_that_contradict_each_other_are_not_both_made(pools):
    """Each is good by what its caller saw: a least size of 10, and a most of 5."""
    services.update_pool("code", fields={"max_size": 5}, if_generation=None, actor="one")

    with pytest.raises(ConcurrentUpdate):
        services.update_pool("code", fields={"min_size": 10}, if_generation=None, actor="other")


@pytest.mark.parametrize(
    ("force", "status"), [("True", 204), ("1", 204), ("tru", 422), ("no", 202)]
)
def test_force_is_a_flag_or_is_refused(api, make_agent, submit, force, status):
    agent = make_agent()
    submit()

    assert api.delete(f"/{agent.id}?force={force}").status_code == status


def test_events_are_resumed_from_a_number(api, enrolled):
    from agentpool.live.connect import connect
    from agentpool.live.relay import Relay

    enrolled()
    with connect() as own:
        Relay(own).step()
    start = api.get("/events").body["next"]
    enrolled("b2")
    with connect() as own:
        Relay(own).step()

    events = api.get(f"/events?after={start}").body["events"]

    assert [event["kind"] for event in events] == ["token.created", "agent.registered"]
    assert events[-1]["agent_id"] == "b2"
    assert api.get(f"/events?after={events[-1]['seq']}").body["events"] == []


def test_metrics_count_what_is_there(api, enrolled):
    enrolled(max_concurrent=2, **BIG)
    api.post("/assign", CODE)

    body = api.get("/metrics/summary?agent_type=code").body
    (code,) = body["pools"]

    assert (code["total_agents"], code["busy_agents"], code["utilization"]) == (1, 1, 0.5)
    assert (code["total_memory_allocated_mb"], code["request_rate_per_minute"]) == (1536, 1)
    assert body["total"]["slots_used"] == 1
    (health,) = api.get("/metrics/health").body["results"]
    assert (health["agent_id"], health["reasons"]) == ("a1", [])


def test_the_health_of_agents_is_ordered_as_their_list_is(api, make_agent):
    for name in ("b", "c", "a"):
        make_agent(agent_id=name)

    rows = api.get("/metrics/health?ordering=agent_id").body["results"]

    assert [row["agent_id"] for row in rows] == ["a", "b", "c"]


def test_samples_give_the_series(api):
    from agentpool.registry import jobs

    assert jobs.sample() == 4

    series = api.get("/metrics/summary?since=2020-01-01T00:00:00Z&agent_type=qa").body["series"]
    assert [point["agent_type"] for point in series] == ["qa"]


@pytest.mark.parametrize("step_s", [86_400, 604_800, 31 * 86_400])
def test_a_series_may_begin_before_everything(api, step_s):
    answer = api.get(f"/metrics/summary?since=0001-01-01T00:00:00Z&step_s={step_s}")

    assert (answer.status_code, answer.body["step_s"]) == (200, step_s)


def test_a_number_ahead_of_the_stream_is_refused(api):
    assert refused(api.get("/events?after=999999"), 400, "invalid")["errors"][0]["field"] == "after"


def test_what_was_learnt_of_an_agent_is_for_readers(api, make_agent, token_of):
    make_agent(agent_id="a1")

    assert api.get("/a1/learning", token=token_of("viewer")).status_code == 200


def test_a_profile_has_a_version_that_a_change_may_name(api):
    seen = api.get("/security/profiles/code")["ETag"]
    changed = api.patch("/security/profiles/code", {"memory_mb": 2048}, if_match=seen)
    stale = api.patch("/security/profiles/code", {"memory_mb": 4096}, if_match=seen)

    assert (changed.status_code, changed["ETag"]) == (200, '"g2"')
    refused(stale, 412, "stale_version")
    assert api.get("/security/profiles/code").body["resource_limits"]["memory_mb"] == 2048


def test_health_answers_say_what_is_missing(client, pools):
    assert client.get("/healthz").json() == {"ok": True}

    answer = client.get("/readyz")

    assert answer.status_code == 503
    assert answer.json()["jobs"]["detail"] == "never seen working"


def test_the_schema_and_its_page_are_served(client, pools):
    assert client.get("/api/schema").status_code == 200
    page = client.get("/api/docs")

    assert page.status_code == 200
    asked = re.findall(r'(?:src|href)="([^"]+)"', page.content.decode())
    assert len(asked) >= 3
    assert [each for each in asked if not re.match("/[a-z]", each)] == []
    for each in asked:
        with contextlib.closing(client.get(each)) as file:
            assert file.status_code == 200, each


def test_a_cursor_that_somebody_wrote_himself_is_refused_or_begins_a_page(api):
    api.post("/requests", {**CODE, "allow_future": True})
    beyond = "9999-12-31T23:59:59-23:59"
    codes = {}
    for place in ("1", "\0", "2026-01-01T00:00Z", "99999-01-01", beyond):
        for said in (json.dumps([place]), json.dumps([place, str(uuid4())]), f"p={place}"):
            cursor = quote(b64encode(said.encode()).decode())
            for path in ("/requests", "/leases", "", "/tokens", "/scaling/decisions"):
                answer = api.get(f"{path}?cursor={cursor}")
                codes[path, said] = answer.body.get("code", answer.status_code)

    # A number or a moment may be one of that list's.
    assert set(codes.values()) == {"invalid", 200}, codes
    assert codes["/requests", '["2026-01-01T00:00Z"]'] == codes["/tokens", "p=1"] == "invalid"
    assert codes["/requests", '["1"]'] == 200
