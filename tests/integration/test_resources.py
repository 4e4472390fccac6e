"""Totals, uses and limits as their readers and operators see them; switching a pool's policy."""

import pytest

from agentpool.registry.models import Event, Request, ResourceLimit, Share

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("whole")]

PROJECT = {"level": "project", "name": "shop"}


def limit(api, **fields):
    answer = api.post("/resources/limits", {**PROJECT, **fields})
    assert answer.status_code == 200, answer.body
    return answer.body


def test_used_is_the_sum_of_live_leases_by_type_and_project(api, make_agent, submit):
    make_agent("code", max_concurrent=2)
    make_agent("qa", memory_mb=4096)
    first = submit("code", project="shop", memory_mb=1024, token_budget=20_000)
    submit("code", project="bank", memory_mb=512, token_budget=5000)
    held = first.held

    body = api.get("/resources").body

    assert body["total"]["agents"] == 2
    assert (body["total"]["slots"], body["total"]["memory_mb"]) == (3, 6144)
    assert (body["used"]["leases"], body["used"]["token_budget"]) == (2, 25_000)
    types = {each["agent_type"]: each for each in body["by_type"]}
    assert types["code"]["used"]["leases"] == 2
    assert types["qa"]["used"]["leases"] == 0
    assert types["qa"]["total"]["memory_mb"] == 4096
    projects = {each["project"]: each["used"] for each in body["by_project"]}
    assert projects["shop"]["memory_mb"] == held.memory_mb
    assert projects["bank"]["token_budget"] == 5000


def test_nothing_there_is_nothing_used(api):
    body = api.get("/resources").body

    assert (body["total"]["agents"], body["used"]["memory_mb"], body["limits"]) == (0, 0, [])


def test_a_limit_shows_what_is_used_and_free_of_it(api, make_agent, submit):
    make_agent(max_concurrent=4)
    limit(api, memory_mb=2048, cpu_cores=2.5)
    held = submit(project="shop").held
    submit(project="other")

    (shown,) = api.get("/resources/limits").body["results"]

    assert (shown["level"], shown["name"], shown["cpu_cores"]) == ("project", "shop", 2.5)
    assert shown["used"]["memory_mb"] == held.memory_mb
    assert shown["free"]["memory_mb"] == 2048 - held.memory_mb
    assert shown["utilisation"] == pytest.approx(
        max(held.memory_mb / 2048, float(held.cpu_cores) / 2.5), abs=1e-4
    )
    assert api.get("/resources").body["limits"] == [shown]


def test_a_limit_is_changed_as_a_whole(api):
    first = limit(api, memory_mb=2048, max_memory_mb=1024, weight=2)

    second = limit(api, token_budget=100_000)

    assert first["id"] == second["id"]
    assert second["generation"] == first["generation"] + 1
    assert (second["memory_mb"], second["max_memory_mb"], second["weight"]) == (None, None, 1)


def test_all_amounts_null_keep_a_row_that_limits_nothing(api, make_agent, submit):
    make_agent(max_concurrent=4)
    limit(api, memory_mb=1)
    assert limit(api)["utilisation"] is None

    assert submit(project="shop").held is not None


def test_a_raised_limit_serves_those_who_waited_for_it(api, make_agent, submit):
    make_agent(max_concurrent=4)
    limit(api, memory_mb=1024)
    submit(project="shop")
    waiting = submit(project="shop")
    assert waiting.held is None

    limit(api, memory_mb=2048)
    waiting.refresh_from_db()

    assert waiting.status == "granted"
    assert Event.objects.filter(kind="limit.set").count() == 2


def test_a_removed_limit_serves_those_who_waited_for_it(api, make_agent, submit, token_of, whole):
    make_agent(max_concurrent=4)
    row = limit(api, memory_mb=1024)
    path = f"/resources/limits/{row['id']}"
    held = submit(project="shop").held
    waiting = submit(project="shop")
    assert api.delete(path, token=token_of("orchestrator")).status_code == 403
    assert api.delete(path, if_match='"g9"').body["code"] == "stale_version"
    assert api.get(path).headers["ETag"] == f'"g{row["generation"]}"'

    answer = api.delete(f"{path}?reason=it+left", if_match=f'"g{row["generation"]}"')

    waiting.refresh_from_db()
    assert (answer.status_code, waiting.status) == (204, "granted")
    assert Event.objects.get(kind="limit.removed").detail == {
        "level": "project",
        "name": "shop",
        "note": "it left",
    }
    assert api.delete(path).status_code == api.get(path).status_code == 404
    held.refresh_from_db()
    assert held.status == "active"


def test_a_limit_may_be_set_below_what_is_in_use(api, make_agent, submit):
    make_agent(max_concurrent=4)
    held = submit(project="shop").held

    shown = limit(api, memory_mb=512)

    assert shown["overdrawn"] is True
    assert shown["free"]["memory_mb"] == 512 - held.memory_mb
    assert submit(project="shop", memory_mb=256, min_memory_mb=256).held is None


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"level": "planet"}, "level"),
        ({"level": "pool", "name": "nobody"}, "name"),
        ({"level": "installation", "name": "x"}, "name"),
        ({"level": "project", "name": ""}, "name"),
        ({"memory_mb": -1}, "memory_mb"),
        ({"cpu_cores": "many"}, "cpu_cores"),
        ({"weight": 0}, "weight"),
        ({"min_memory_mb": 2, "max_memory_mb": 1}, "min_memory_mb"),
        ({"memory": 1}, "memory"),
    ],
)
def test_a_wrong_limit_is_refused_and_named(api, wrong, field):
    answer = api.post("/resources/limits", {**PROJECT, **wrong})

    assert answer.status_code == 422
    assert [each["field"] for each in answer.body["errors"]] == [field]
    assert not ResourceLimit.objects.exists()


def test_only_operators_set_limits_and_readers_see_them(api, token_of):
    viewer = token_of("viewer")

    assert api.get("/resources", token=viewer).status_code == 200
    assert api.get("/resources/limits", token=viewer).status_code == 200
    assert api.post("/resources/limits", PROJECT, token=viewer).status_code == 403
    assert api.post("/resources/limits", PROJECT, token=token_of("orchestrator")).status_code == 403


# -- pools -----------------------------------------------------------------------------------------


def test_switching_a_strategy_holds_from_the_next_claim_on(api, make_agent, submit):
    make_agent(max_concurrent=4)
    tried = []

    for strategy in ("round_robin", "bin_pack", "predictive", "workload_aware"):
        changed = api.patch("/pools/code", {"strategy": strategy})
        assert (changed.status_code, changed.body["strategy"]) == (200, strategy)
        tried.append(submit().held.decision["strategy"])

    assert tried == ["round_robin", "bin_pack", "predictive", "workload_aware"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"strategy": "astrology"},
        {"affinity_half_life_s": 0},
        {"share_half_life_s": -1},
        {"reserve_after_s": -1},
        {"max_bypass": 0},
        {"queue_limit": 0},
        {"project_queue_limit": "many"},
    ],
)
def test_a_wrong_policy_is_refused(api, wrong):
    answer = api.patch("/pools/code", wrong)

    assert answer.status_code == 422
    assert [each["field"] for each in answer.body["errors"]] == list(wrong)


def test_another_half_life_keeps_what_was_used(api, make_agent, submit):
    make_agent()
    submit(project="a")
    submit(project="a")
    submit(project="b")
    before = _uses(3600)

    api.patch("/pools/code", {"share_half_life_s": 600})

    assert _uses(600) == pytest.approx(before, rel=0.05)


def _uses(half_life_s):
    from agentpool.registry import queries
    from balancing import fairness

    at_s = queries.now().timestamp()
    return {
        share.project: fairness.usage_now(share.log_usage, at_s=at_s, half_life_s=half_life_s)
        for share in Share.objects.all()
    }


# -- what is kept with a waiting request -----------------------------------------------------------


def test_reasons_are_noted_when_they_change_and_told_in_the_timeline(api, make_agent, submit):
    from agentpool.registry.models import Tick
    from balancing import jobs

    def noted():
        Tick.objects.filter(name="reasons").delete()
        return jobs.reserve()["noted"]

    waiting = submit()
    assert (noted(), noted()) == (1, 0)
    make_agent(agent_id="a1", max_concurrent=2)
    waiting = Request.objects.get(id=waiting.id)
    assert waiting.status == "granted"
    other = submit(lock_keys=["k"])
    last = submit(lock_keys=["k"])
    assert other.held
    assert noted() == 1

    told = api.get(f"/requests/{last.id}/explain").body["timeline"]
    first = api.get(f"/requests/{waiting.id}/explain").body["timeline"]

    assert [each["reason"] for each in told] == ["arrived", "k is locked by p"]
    assert [each["reason"] for each in first[:2]] == ["arrived", "there are no agents"]


def test_reasons_are_looked_at_every_few_seconds_only(submit):
    from balancing import jobs

    submit()
    assert jobs.reserve()["noted"] == 1
    Request.objects.update(reason="")

    assert jobs.reserve()["noted"] == 0
