"""Why a request was refused, waits, or got its agent: in words, with numbers that are so."""

import pytest
from django.db import connection
from django.db.models import F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentpool.registry.models import Agent, Request, Share
from agentpool.registry.states import AgentHealth, Outcome
from balancing import claim, explain
from balancing.explain import funnel, misses
from balancing.services import agents, leases
from scaling import governance
from tests.integration.test_learning import learn

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("whole")]

CODE = {"agent_type": "code", "project": "p"}


def release(request):
    lease = request.leases.latest("fencing_token")
    leases.release(lease.id, token=lease.fencing_token, outcome=Outcome.SUCCESS, actor="test")


def explained(api, request):
    answer = api.get(f"/requests/{request.id}/explain")
    assert answer.status_code == 200, answer.body
    return answer.body


def kept(body):
    return {each["name"]: each["kept"] for each in body["filters"]}


def test_the_lock_keys_that_a_request_holds_itself_are_not_in_its_way(api, make_agent, submit):
    make_agent(max_concurrent=2)
    holder, waiter = submit(lock_keys=["k"]), submit(lock_keys=["k"])

    assert kept(explained(api, holder))["lock keys"] == 1
    assert kept(explained(api, waiter))["lock keys"] == 0


# -- refused ---------------------------------------------------------------------------------------


def test_an_impossible_request_names_the_nearest_agent_and_each_thing_it_lacks(api, make_agent):
    no_growth(api)
    make_agent(agent_id="small", memory_mb=512, tools=["git"])
    make_agent(agent_id="large", memory_mb=1024, tools=["git", "make"])

    needs = {"memory_mb": 1500, "special_tools": ["docker"], "capabilities": ["rust"]}
    answer = api.post("/requests", {**CODE, "requirements": needs})

    assert (answer.status_code, answer.body["code"]) == (422, "unsatisfiable")
    assert "Nearest is large: memory: needs 1500 MB, has 1024" in answer.body["detail"]
    assert answer.body["errors"] == [
        {"field": "requirements.memory_mb", "message": "memory: needs 1500 MB, has 1024"},
        {"field": "requirements.special_tools", "message": "tools: lacks docker"},
        {"field": "requirements.capabilities", "message": "capabilities: lacks rust"},
    ]


def test_the_launch_template_may_be_the_nearest_while_the_pool_may_grow(api):
    answer = api.post("/requests", {**CODE, "requirements": {"security_level": "critical"}})

    assert "launch template of code: security: needs critical" in answer.body["detail"]


def test_of_many_alike_one_is_named(api, make_agent):
    no_growth(api)
    for _ in range(3):
        make_agent()

    answer = api.post("/requests", {**CODE, "requirements": {"disk_space_mb": 10_000}})

    assert ", one of 3 alike: disk: needs 10000 MB, has 500" in answer.body["detail"]


def test_a_ceiling_is_named_with_its_numbers(api, make_agent):
    make_agent(memory_mb=64_000)
    claim.set_limit({"level": "project", "name": "p", "max_memory_mb": 8192})
    api.patch("/security/profiles/code", {"memory_mb": 20_000})

    answer = api.post("/requests", {**CODE, "requirements": {"memory_mb": 9000}})

    assert answer.body["errors"] == [
        {
            "field": "requirements.memory_mb",
            "message": "Memory request 9000MB exceeds limit 8192MB (limit of project p)",
        }
    ]


def test_only_avoided_agents_are_a_lack_too(api, make_agent):
    no_growth(api)
    make_agent(agent_id="a1")

    answer = api.post("/requests", {**CODE, "avoid_agents": ["a1"]})

    assert answer.body["errors"] == [
        {"field": "avoid_agents", "message": "a1 is to be avoided"},
    ]


def no_growth(api):
    assert api.patch("/pools/code", {"max_size": 0}).status_code == 200


def test_assign_says_that_all_are_busy(api, make_agent, submit):
    make_agent()
    submit()

    answer = api.post("/assign", CODE)

    assert (answer.status_code, answer.body["code"]) == (409, "capacity_exhausted")
    assert answer.body["detail"] == "The only code agent that takes work is busy."
    assert answer["Retry-After"] == "5"


def test_assign_says_which_limit_is_used_up(api, make_agent, submit):
    make_agent(max_concurrent=4)
    claim.set_limit({"level": "project", "name": "p", "memory_mb": 1536})
    submit(project="p")

    answer = api.post("/assign", CODE)

    assert answer.body["detail"] == (
        "Insufficient memory: need 1024MB, available 512MB (limit of project p)."
    )


def test_assign_says_what_the_nearest_free_agent_has_left(api, make_agent, submit):
    make_agent(agent_id="a1", max_concurrent=2, memory_mb=1536)
    submit(memory_mb=1024, min_memory_mb=1024)

    answer = api.post("/assign", CODE)

    assert "Nearest is a1: memory: needs 1024 MB, has 512" in answer.body["detail"]


def test_a_full_queue_says_how_many_may_wait(api):
    api.patch("/pools/code", {"queue_limit": 1})
    api.post("/requests", CODE)

    answer = api.post("/requests", CODE)

    assert (answer.status_code, answer.body["code"]) == (429, "queue_full")
    assert "at most 1 may" in answer.body["detail"]
    assert answer["Retry-After"] == "5"


# -- why it waits ----------------------------------------------------------------------------------


def test_waiting_for_a_slot(api, make_agent, submit):
    make_agent()
    submit()

    body = explained(api, submit())

    assert (body["status"], body["code"]) == ("waiting", "busy")
    assert body["reason"] == "the only agent that takes work is busy"
    assert (body["position"], body["chosen"], body["candidates"]) == (1, None, [])
    assert kept(body)["health"] == 1
    assert body["filters"][-1]["kept"] == 0


def test_waiting_where_nobody_is_alive(api, make_agent, submit):
    Agent.objects.filter(id=make_agent().id).update(status="unreachable")

    assert explained(api, submit())["reason"] == "no agent is alive"
    assert explained(api, submit("qa"))["reason"] == "there are no agents"


def test_waiting_where_all_are_on_standby_says_whether_they_are_woken(api, make_agent, submit):
    agents.set_status(make_agent(), to="standby", reason="", actor="test")
    request, large = submit(), submit(memory_mb=4000)

    by_hand = explained(api, request)
    governance.set_policy("code", mode="auto", actor="test", settings=None)
    woken, unable = explained(api, request), explained(api, large)

    assert (by_hand["code"], by_hand["reason"]) == (
        "nobody",
        "all agents are on standby; scaling wakes them only in the mode auto",
    )
    assert (woken["code"], woken["reason"]) == (
        "standby",
        "its agents are on standby and are being woken",
    )
    assert (unable["code"], unable["reason"]) == (
        "nobody",
        "all agents are on standby, and none of them has what it needs",
    )


def test_waiting_where_all_are_in_maintenance(api, make_agent, submit):
    agents.set_health(
        make_agent(), health=AgentHealth.MAINTENANCE, note="", until=None, actor="test"
    )

    assert explained(api, submit())["code"] == "unfit"


def test_waiting_for_a_lock_key_names_its_holder(api, make_agent, submit):
    make_agent(max_concurrent=2)
    submit(lock_keys=["repo:main"], cycle_id="cart")

    body = explained(api, submit(lock_keys=["repo:main"]))

    assert body["reason"] == "repo:main is locked by cart"
    assert kept(body)["lock keys"] == 0
    assert [card["agent_id"] for card in body["candidates"]] == ["code-1"]


def test_waiting_for_a_limit_names_it_with_its_numbers(api, make_agent, submit):
    make_agent(max_concurrent=4)
    claim.set_limit({"level": "installation", "name": "", "token_budget": 60_000})
    submit(token_budget=50_000)

    body = explained(api, submit(token_budget=50_000))

    assert body["reason"] == (
        "Insufficient tokens: need 50000, available 10000 (limit of the installation)"
    )
    assert kept(body)["limit of the installation"] == 0


def test_waiting_for_somebody_who_does_not_exist_yet(api, make_agent, submit):
    no_growth(api)
    make_agent(agent_id="a1")

    body = explained(api, submit(capabilities=["rust"], allow_future=True))

    assert body["reason"] == "no agent has what it needs: a1: capabilities: lacks rust"
    assert body["nearest"]["lacks"] == [
        {"name": "capabilities", "message": "capabilities: lacks rust"}
    ]


def test_waiting_for_what_others_use_of_an_agent_names_the_nearest(api, make_agent, submit):
    make_agent(agent_id="a1", max_concurrent=2, memory_mb=1536)
    submit()

    body = explained(api, submit())

    assert "nearest with a free slot is a1: memory: needs 1024 MB, has 512" in body["reason"]


def test_waiting_for_the_agent_of_its_cycle(api, make_agent, submit):
    make_agent(agent_id="a1")
    submit(cycle_id="c")
    make_agent()

    body = explained(api, submit(cycle_id="c", affinity="hard"))

    assert body["reason"] == "it waits for a1, which worked on its cycle"
    assert kept(body)["affinity"] == 0


def test_backing_off_says_until_when_and_why(api, make_agent, submit):
    make_agent()
    wish = submit()
    leases.release(
        wish.held.id,
        token=wish.held.fencing_token,
        outcome=Outcome.FAILURE,
        actor="test",
        error="the disk is full",
        retry=True,
    )
    wish.refresh_from_db()

    body = explained(api, wish)

    assert body["code"] == "backing_off"
    assert body["reason"].endswith("UTC, after attempt 1: the disk is full")


def test_a_wait_is_expected_from_measured_times_only(api, make_agent, submit):
    make_agent(max_concurrent=2)
    done, _, first, second = (submit() for _ in range(4))
    assert explained(api, second)["expected_wait_s"] is None
    release(done)
    learn()
    mean_s = api.get("/pools/code").body["mean_service_s"]
    first.refresh_from_db()

    body = explained(api, second)

    assert first.status == "granted"
    assert body["position"] == 1
    assert body["expected_wait_s"] == pytest.approx(mean_s / 2, abs=0.002)


def test_the_timeline_tells_what_happened(api, make_agent, submit):
    make_agent(agent_id="a1")
    first, second = submit(), submit()
    release(first)

    told = [each["reason"] for each in explained(api, second)["timeline"]]

    assert told == ["arrived", "granted on a1 (queue)"]


# -- why this agent --------------------------------------------------------------------------------


def test_a_grant_is_explained_by_what_the_claim_stored(api, make_agent, submit):
    make_agent(agent_id="busier", max_concurrent=3)
    submit(preferred_agent="busier")
    make_agent(agent_id="idle", max_concurrent=3)
    wish = submit(strategy="least_loaded")

    body = explained(api, wish)

    decision = wish.held.decision
    assert body["chosen"]["agent_id"] == "idle"
    assert (body["chosen"]["score"], body["chosen"]["parts"]) == (
        decision["score"],
        decision["parts"],
    )
    assert body["runner_up"]["agent_id"] == "busier"
    assert body["candidates"] == decision["candidates"]
    assert body["reason"] == "it was the best by least_loaded"
    assert (body["position"], body["expected_wait_s"]) == (None, None)


def test_a_preferred_agent_needs_no_runner_up(api, make_agent, submit):
    make_agent(agent_id="a1")

    body = explained(api, submit(preferred_agent="a1"))

    assert (body["chosen"]["agent_id"], body["runner_up"]) == ("a1", None)
    assert body["reason"] == "it was the preferred agent and had room"


def test_only_readers_and_the_asker_may_ask(api, token_of, submit):
    wish = submit()

    assert api.get(f"/requests/{wish.id}/explain", token=token_of("viewer")).status_code == 200
    assert (
        api.get(f"/requests/{wish.id}/explain", token=token_of("orchestrator")).status_code == 404
    )


# -- it must agree with the claim ------------------------------------------------------------------

some = st.sampled_from
AGENTS = st.fixed_dictionaries(
    {
        "memory_mb": some([1024, 2048]),
        "cpu_cores": some([1, 2]),
        "token_budget": some([50_000, 80_000]),
        "disk_space_mb": some([500, 900]),
        "max_concurrent": some([1, 2]),
        "security_level": some([1, 2, 3]),
        "isolation_levels": some([[1], [1, 2], [3]]),
        "tools": some([[], ["git"], ["git", "make"]]),
        "capabilities": some([[], ["rust"]]),
        "labels": some([{}, {"gpu": 1}, {"gpu": 2, "zone": "a"}]),
    }
)
WISHES = st.fixed_dictionaries(
    {
        "memory_mb": some([800, 1024, 1200]),
        "min_memory_mb": some([512, 800]),
        "cpu_cores": some([1, 2]),
        "token_budget": some([40_000, 60_000]),
        "disk_space_mb": some([400, 600]),
        "security_level": some([1, 2, 3]),
        "isolation_level": some([1, 2]),
        "special_tools": some([[], ["make"]]),
        "capabilities": some([[], ["rust"]]),
        "labels": some([{}, {"zone": "a"}]),
        "rules": some(
            [[], [{"kind": "label", "name": "gpu", "op": ">", "value": 1}]],
        ),
        "avoid_agents": some([[], ["code-1"]]),
        "lock_keys": some([[], [], ["k"]]),
        "affinity": some(["none", "soft", "hard"]),
        "cycle_id": some(["", "c"]),
        "project": some(["p", "q"]),
        "allow_future": st.just(True),
    }
)


@given(fleet=st.lists(AGENTS, max_size=4), wishes=st.lists(WISHES, min_size=1, max_size=8))
@settings(
    max_examples=15,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_filters_and_reasons_agree_with_the_claim(make_agent, submit, fleet, wishes):
    _empty()
    claim.set_limit({"level": "project", "name": "q", "memory_mb": 2000})
    for place, fields in enumerate(fleet, 1):
        make_agent(agent_id=f"code-{place}", **fields)
    asked = [submit(**wish) for wish in wishes]

    for wish in asked:
        found = explain.explain(wish)
        fits = _fits(wish)
        # What an agent's columns say, and the claim's own word for it.
        assert funnel.left(found.filters, "affinity") == fits
        if wish.status == "waiting":
            assert fits == 0 or found.code in ("locked", "limit"), found
            assert found.filters[-1].kept == 0, found
            assert found.reason
            assert bool(found.candidates) == (fits > 0)
        else:
            assert found.chosen["agent_id"] == wish.held.agent.agent_id


def _fits(wish):
    return len(
        misses.rows_of(
            "SELECT a.id FROM agent a, request q WHERE q.id = %s AND a.agent_type = q.agent_type"
            " AND a.status IN ('idle', 'busy') AND a.health IN ('good', 'unknown', 'probation')"
            " AND a.load < a.max_concurrent AND fits_1(a, q)"
            " AND (q.affinity <> 'hard' OR coalesce(bound_to_1(q), a.id) = a.id)",
            [wish.id],
        )
    )


def _empty():
    with connection.cursor() as cursor:
        cursor.execute(
            "DELETE FROM lock_key; DELETE FROM outcome; DELETE FROM lease; DELETE FROM request;"
            "DELETE FROM liveness; DELETE FROM credential WHERE agent_id IS NOT NULL;"
            "DELETE FROM agent; DELETE FROM limit_shard;"
            "DELETE FROM resource_limit; DELETE FROM share; DELETE FROM event"
        )
    assert not Agent.objects.exists()
    assert not Request.objects.exists()


# -- turns -----------------------------------------------------------------------------------------


def test_positions_are_the_order_in_which_requests_are_served(make_agent, submit):
    make_agent(agent_id="a1", max_concurrent=1)
    holder = submit(project="z")
    mine = [("a", 50), ("a", 50), ("a", 50), ("b", 50), ("b", 50), ("c", 90), ("b", 10)]
    waiting = [submit(project=project, priority=priority) for project, priority in mine]
    # Of equal use, nobody can say whose turn it is.
    Share.objects.filter(project="b").update(log_usage=F("log_usage") + 0.5)
    told = {wish.id: explain.position_of(wish) for wish in waiting}
    served = []

    current = holder
    while current is not None:
        release(current)
        current = Request.objects.filter(status="granted").first()
        if current is not None:
            served.append(current.id)

    assert sorted(told, key=told.get) == served
