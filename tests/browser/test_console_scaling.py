"""The page *Scaling*: live decisions, starting with a confirmation, the policy, what-if."""

import json
from datetime import timedelta

import pytest
from django.db import connection
from django.db.models import F
from django.test import Client
from django.test.utils import CaptureQueriesContext

from agentpool.console.pages import PAGES
from agentpool.registry import metrics
from agentpool.registry import queries as registry_queries
from agentpool.registry.models import (
    Announcement,
    Launch,
    Lease,
    Pool,
    PoolSample,
    Request,
    ScalingDecision,
    ScalingPolicy,
)
from agentpool.registry.states import Outcome
from balancing.services import leases
from scaling import evaluation, governance

pytest_plugins = ["tests.browser.serving"]
pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]


@pytest.fixture
def memory(pools):
    """Pools whose agents need no runtime."""
    Pool.objects.update(driver="memory", min_size=0, max_size=20)


def policy():
    return ScalingPolicy.objects.get(pool="code")


def test_a_decision_and_its_detail_come_to_an_open_page(live_page, memory, submit):
    page = live_page("/scaling")
    page.evaluate("window.sameDocument = true")
    assert "Nothing was decided in this time" in page.locator("#decisions").inner_text()
    assert "Nothing has been decided yet" in page.locator("#pool-code").inner_text()
    governance.set_policy("code", mode="auto", rule="warm", settings={"k": 0}, actor="t")
    for _ in range(3):
        submit("code")

    evaluation.evaluate()

    page.locator("#pool-code", has_text="3 waiting").locator("a", has_text="Last").wait_for()
    page.locator("tr.is-change", has_text="0 → 3").wait_for()
    page.locator("#figures canvas").first.wait_for()
    assert page.evaluate("window.sameDocument") is True
    page.locator("tr.is-change a").click()
    page.locator("h1", has_text="code from 0 to 3").wait_for()
    assert "requests that wait" in page.locator("#inputs").inner_text()
    assert "queue" in page.locator("#alternatives").inner_text()
    assert page.locator("#outcome li").count() == Launch.objects.count() == 3


CHART = "Chart.getChart(document.querySelector(`[data-chart=%s] canvas`))"
SIZES = f"{CHART}.data.datasets[0].data"
TITLES = f"[{CHART}.scales.y, {CHART}.scales.right].map(axis => axis.options.title.text)"


def test_the_size_is_drawn_where_it_never_changed_and_where_nothing_was_decided(
    live_page, memory, make_agent
):
    for kind in ("data", "qa"):
        make_agent(kind), make_agent(kind)
    governance.stop("qa", actor="t")
    # One decision, and no more in the hour: the size is what it was.
    evaluation.evaluate()
    ScalingDecision.objects.update(at=F("at") - timedelta(minutes=20))

    page = live_page("/scaling")
    page.locator("#figures canvas").first.wait_for()

    for kind in ("data", "qa"):
        line = page.evaluate(SIZES % kind)
        assert len(line) >= 2
        assert {point["y"] for point in line} == {2}
        assert page.evaluate(TITLES % (kind, kind)) == ["size, demand, target", "mean wait, s"]
    assert page.locator("#pool-qa .spark polyline").count() >= 1


def test_a_line_goes_on_over_what_was_not_decided_but_not_over_an_hour_of_silence(
    live_page, memory, submit
):
    submit("code")
    evaluation.evaluate()
    now = metrics.begin_of(registry_queries.now(), 60)
    seen = ScalingDecision.objects.get(pool="code")
    stretch = metrics.Stretch(covered_s=30, readings=1)
    # Counted each half minute, decided each minute; a quarter of an hour is silent.
    for minutes in (*range(1, 11), *range(26, 36)):
        at = now - timedelta(minutes=minutes)
        ScalingDecision.objects.create(**{**_columns(seen), "at": at})
        for each in (at, at + timedelta(seconds=30)):
            PoolSample.objects.create(pool_id="code", at=each, **metrics.row(stretch))
    seen.delete()

    page = live_page("/scaling")
    page.locator("#figures canvas").first.wait_for()

    drawn = page.evaluate(f"""() => {{
        const chart = {CHART % "code"}, of = chart.getDatasetMeta(1).dataset;
        const isSeen = (segment) => segment.style?.borderColor !== "transparent";
        return of.segments.filter(isSeen).map((each) => each.end - each.start);
    }}""")
    assert len(drawn) == 2, drawn
    assert min(drawn) >= 17, drawn


def _columns(row):
    names = ("pool_id", "rule", "mode", "action", "current", "target", "wanted", "reason", "inputs")
    return {name: getattr(row, name) for name in names}


def test_scaling_is_started_and_stopped_after_saying_what_will_happen(live_page, memory, submit):
    governance.set_policy("code", rule="warm", settings={"k": 0}, actor="t")
    submit("code")
    page = live_page("/scaling")

    page.locator("#start-code").click()
    told = page.locator("#consequences").inner_text()
    page.locator("#field-note").fill("the night shift")
    page.locator("#do-it").click()
    page.locator("#messages .result", has_text="scales by itself").wait_for()
    page.locator("#stop-code").click()
    page.locator("#consequences", has_text="no agent is started or drained").wait_for()
    started = policy().mode
    page.locator("#do-it").click()
    page.locator("#pool-code .tag", has_text="off").wait_for()

    assert "starts and drains agents by itself, 0 to 20 agents" in told
    assert "from 0 to 1 agents: 0 busy, 1 waiting" in told
    assert (started, policy().mode) == ("auto", "off")


def test_who_may_only_look_sees_it_and_can_do_nothing(live_page, memory, cookie_of):
    page = live_page("/scaling", user="viewer")
    client = Client()
    client.cookies["agentpool_session"] = cookie_of("viewer")["value"]

    answer = client.post("/do/scaling-start", {"scaling": "code"})

    assert page.locator("#pool-code", has_text="predictive").count() == 1
    assert page.locator("#live a[href^='/do']").count() == 0
    assert answer.status_code == 403
    assert not ScalingPolicy.objects.exists()


@pytest.mark.parametrize("has_script", [True, False])
def test_a_bad_setting_is_told_at_its_field_and_nothing_is_lost(open_page, memory, has_script):
    page = open_page("/scaling", java_script_enabled=has_script)
    page.locator("#more-code").click()
    page.locator("#choose-scaling-policy").click()
    page.locator("#field-rule").select_option("warm")
    assert page.locator("#field-k").is_visible()
    assert not page.locator("#field-target_per_agent").is_visible()
    page.locator("#field-k").fill("5")
    page.locator("#field-slo_q").fill("1.5")
    page.locator("#field-standby").fill("auto")

    page.locator("#do-it").click()
    page.locator("#fault-slo_q").wait_for()

    assert "at most 1" in page.locator("#fault-slo_q").inner_text()
    assert page.locator("#field-slo_q").get_attribute("aria-invalid") == "true"
    assert page.locator("#field-k").input_value() == "5"
    assert not ScalingPolicy.objects.exists()
    page.locator("#field-slo_q").fill("0.95")
    page.locator("#do-it").click()
    page.locator(".result").wait_for()
    assert (policy().rule, policy().settings) == (
        "warm",
        {"k": 5, "slo_q": 0.95, "standby": "auto"},
    )


def served(submit, count, *, every_s, lasts_s):
    """Requests of the last hours, one after the other, as if they had come then."""
    for number in range(count):
        wish = submit("code", project=f"p{number % 3}")
        lease = wish.held
        leases.release(lease.id, token=lease.fencing_token, outcome=Outcome.SUCCESS, actor="t")
        back = timedelta(seconds=every_s * (count - number))
        Request.objects.filter(id=wish.id).update(created_at=F("created_at") - back)
        acquired = F("acquired_at") - back
        Lease.objects.filter(id=lease.id).update(
            acquired_at=acquired, released_at=acquired + timedelta(seconds=lasts_s)
        )


def test_what_if_compares_the_policy_as_typed_and_changes_nothing(
    live_page, memory, submit, make_agent
):
    page = live_page("/scaling")
    page.locator("#more-code").click()
    page.locator("#choose-scaling-policy").click()
    page.locator("#try-it").click()
    page.locator("#trial", has_text="Only 0 requests were recorded").wait_for()
    make_agent("code")
    served(submit, 60, every_s=120, lasts_s=60)

    page.locator("#field-rule").select_option("static")
    page.locator("#field-size").fill("6")
    page.locator("#try-it").click()
    page.locator("#trial table").wait_for()

    rows = [row.split("\t") for row in page.locator("#trial tr").all_inner_texts()]
    figures = {row[0]: row[1:] for row in rows}
    now, then = map(float, figures["Agent-hours"])
    # Six agents over three quarters of two hours.
    assert 8.5 < then < 9.5
    assert now < then
    assert figures["Too late"][1] == "0.00 %"
    assert "60 requests" in page.locator("#trial").inner_text()
    assert not ScalingPolicy.objects.exists()


def test_announced_work_is_on_the_page_with_who_said_so(live_page, memory):
    page = live_page("/scaling")

    page.locator("#announce-code").click()
    page.locator("#field-count").fill("many")
    page.locator("#do-it").click()
    page.locator("#fault-count").wait_for()
    page.locator("#field-count").fill("40")
    page.locator("#field-name").fill("nightly")
    page.locator("#do-it").click()
    page.locator("#announced li", has_text="nightly").wait_for()

    assert "by admin" in page.locator("#announced li").inner_text()
    assert Announcement.objects.get().count == 40


def test_steady_decisions_are_one_row_and_the_queries_stay_as_many(pools):
    def decide(count, ago_s):
        ScalingDecision.objects.bulk_create(
            ScalingDecision(
                pool_id="code",
                at=registry_queries.now() - timedelta(seconds=ago_s + 10 * number),
                rule="predictive",
                mode="auto",
                action="no_action",
                current=2,
                target=2,
                wanted=2,
                reason="1 busy",
                inputs={"busy": 1, "waiting": 0},
            )
            for number in range(count)
        )

    def drawn():
        scaling = PAGES["scaling"]
        with CaptureQueriesContext(connection) as queries:
            found = scaling.picture(scaling.params_of({}))
        return found, len(queries)

    decide(3, 0)
    few, queries_few = drawn()
    decide(200, 60)
    many, queries_many = drawn()

    assert [row["count"] for row in few["decisions"]] == [3]
    assert [row["count"] for row in many["decisions"]] == [203]
    assert queries_few == queries_many
    # As decided from, and at the end as it is: these decisions are made up, there is no agent.
    *sizes, now = many["charts"]["code"]["lines"][0]["values"]
    assert (set(sizes), now) == ({2.0}, 0.0)
    assert len(json.dumps(many["charts"])) < 20_000
