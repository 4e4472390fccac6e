"""What operators do on the pages: asked first, told in numbers, done by services, undone."""

import re

import pytest
from django.test import Client
from django.urls import reverse

from agentpool.console.actions import ACTIONS
from agentpool.registry import queries as registry_queries
from agentpool.registry import services as registry_services
from agentpool.registry.models import (
    Agent,
    Announcement,
    Credential,
    Event,
    Lease,
    Optimization,
    OptimizerPolicy,
    Pool,
    RebalancePolicy,
    Request,
    ResourceLimit,
    ScalingPolicy,
    SecurityProfile,
)
from agentpool.registry.states import AgentHealth, Scope
from balancing.services import agents, limits
from tests.integration.test_deadlines_and_priorities import limit

pytest_plugins = ["tests.browser.serving"]
pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]

WHY = "because of the disk"


@pytest.fixture
def scene(make_agent, submit):
    """One agent at work, one idle, one that waits, a limit and a token."""
    make_agent(agent_id="coder")
    make_agent(agent_id="spare")
    work = submit(cycle_id="cart", preferred_agent="coder", project="shop")
    spare = submit(cycle_id="other", preferred_agent="spare")
    wish = submit(cycle_id="pay", project="shop")
    shop = limits.set_limit(limit(name="shop", memory_mb=4096), actor="t")
    token = registry_services.token(
        scope=Scope.VIEWER, name="wall", expires_in_s=None, actor="t"
    ).credential
    proposal = Optimization.objects.create(
        pool_id="code",
        kind="hot_agent",
        subject="coder",
        action="spread_work",
        change={"strategy": "least_loaded"},
        basis="the busiest agent was 3.0 times as busy as the mean of 2",
        metric="top_ratio",
        measured=3,
        without=3,
        computed=1.2,
        expected=1.2,
        attempts=60,
        over_s=3600,
    )
    assert (work.held.agent.agent_id, spare.held.agent.agent_id) == ("coder", "spare")
    return {
        "agent": work.held.agent_id,
        "request": wish.id,
        "lease": work.held.id,
        "limit": shop.id,
        "token": token.id,
        "pool": "code",
        "profile": "code",
        "scaling": "code",
        "rebalancing": "code",
        "optimizer": "code",
        "optimization": proposal.id,
    }


def coder():
    return Agent.objects.get(agent_id="coder")


def policy():
    return ScalingPolicy.objects.get(pool="code")


def health(word):
    return lambda scene: coder().health == word


# Each action: what must be so before it, what is typed, and what is so afterwards.
CASES = {
    "drain": ({}, {"minutes": "15"}, lambda s: coder().status == "draining" and coder().drain_by),
    "resume": ({"drained": True}, {}, lambda s: coder().status == "busy"),
    "pause": ({}, {"minutes": "60"}, lambda s: coder().health == "maintenance"),
    "quarantine": ({}, {}, health("quarantined")),
    "good": ({}, {}, health("good")),
    "retire": ({}, {}, lambda s: coder().retire_when_drained),
    "release": ({}, {}, lambda s: Lease.objects.get(id=s["lease"]).status == "cancelled"),
    "restore-health": ({}, {}, health("unknown")),
    "cancel-request": (
        {},
        {},
        lambda s: Request.objects.get(id=s["request"]).status == "cancelled",
    ),
    "prioritise": (
        {},
        {"priority": "90"},
        lambda s: Request.objects.get(id=s["request"]).priority == 90,
    ),
    "cancel-lease": ({}, {}, lambda s: Lease.objects.get(id=s["lease"]).status == "cancelled"),
    "release-lease": (
        {},
        {"outcome": "failure"},
        lambda s: Lease.objects.get(id=s["lease"]).outcome == "failure",
    ),
    "edit-pool": (
        {},
        {"max_size": "7", "strategy": "bin_pack"},
        lambda s: (
            (
                Pool.objects.get(agent_type="code").max_size,
                Pool.objects.get(agent_type="code").strategy,
            )
            == (7, "bin_pack")
        ),
    ),
    "new-pool": (
        {},
        {"agent_type": "docs"},
        lambda s: Pool.objects.filter(agent_type="docs").exists(),
    ),
    "edit-profile": (
        {},
        {"memory_mb": "2000", "network_access": "none"},
        lambda s: SecurityProfile.objects.get(pool_id="code").memory_mb == 2000,
    ),
    "edit-limit": (
        {},
        {"memory_mb": "8192", "weight": "2.5"},
        lambda s: ResourceLimit.objects.get(id=s["limit"]).weight == 2.5,
    ),
    "remove-limit": (
        {},
        {"note": "it has left"},
        lambda s: not ResourceLimit.objects.filter(id=s["limit"]).exists(),
    ),
    "new-limit": (
        {},
        {"level": "project", "name": "bank", "cpu_cores": "3.5"},
        lambda s: ResourceLimit.objects.get(name="bank").cpu_cores == 3.5,
    ),
    "new-token": (
        {},
        {"name": "ci", "scope": "orchestrator"},
        lambda s: Credential.objects.filter(name="ci", scope="orchestrator").exists(),
    ),
    "enrol": (
        {},
        {"agent_type": "qa", "uses": "3"},
        lambda s: Credential.objects.get(scope="enrolment").uses_left == 3,
    ),
    "scaling-start": ({}, {}, lambda s: policy().mode == "auto"),
    "scaling-stop": ({}, {}, lambda s: policy().mode == "off"),
    "scaling-recommend": ({}, {}, lambda s: policy().mode == "recommend"),
    "scaling-policy": (
        {},
        {"rule": "warm", "k": "4", "min_idle": "2"},
        lambda s: (policy().rule, policy().settings) == ("warm", {"k": 4, "min_idle": 2}),
    ),
    "rebalance-now": ({}, {}, lambda s: Event.objects.filter(kind="rebalancing.run").exists()),
    "rebalance-policy": (
        {},
        {"mode": "auto", "hold_s": "5"},
        lambda s: (
            RebalancePolicy.objects.filter(mode="auto", settings={"hold_s": 5}, pool="code")
        ).exists(),
    ),
    "optimize-apply": (
        {},
        {"note": "it stands idle"},
        lambda s: (
            Optimization.objects.get(id=s["optimization"]).status == "applied"
            and Pool.objects.get(agent_type="code").strategy == "least_loaded"
        ),
    ),
    "optimize-dismiss": (
        {},
        {},
        lambda s: Optimization.objects.get(id=s["optimization"]).status == "dismissed",
    ),
    # Nothing has been worked on: what was proposed is no longer so.
    "optimize-look": (
        {},
        {},
        lambda s: Optimization.objects.get(id=s["optimization"]).status == "withdrawn",
    ),
    "optimize-policy": (
        {},
        {"mode": "auto", "wait_s": "60"},
        lambda s: OptimizerPolicy.objects.filter(mode="auto", settings={"wait_s": 60}).exists(),
    ),
    "announce": (
        {},
        {"at": "+2h", "count": "12", "name": "nightly"},
        lambda s: Announcement.objects.get(name="nightly").count == 12,
    ),
    "revoke-token": ({}, {}, lambda s: Credential.objects.get(id=s["token"]).revoked_at),
}


def test_every_action_has_a_case():
    assert set(CASES) == set(ACTIONS) - {"restore-priority"}


def address(action, scene):
    path = reverse("act", args=[action.name])
    return f"{path}?{action.on.name}={scene[action.on.name]}" if action.on else path


@pytest.mark.parametrize("name", CASES)
def test_an_action_is_asked_done_and_recorded(open_page, scene, name):
    before, typed, is_so = CASES[name]
    action = ACTIONS[name]
    if before.get("drained"):
        agents.drain(registry_queries.agent_by(agent_id="coder"), retire=False, actor="t")

    # Without JavaScript: what works so, works in every dialog, which shows the same parts.
    page = open_page(address(action, scene), java_script_enabled=False)
    assert len(page.locator("#consequences li").first.inner_text()) > 10
    for field, value in typed.items():
        box = page.locator(f"#field-{field}")
        if box.evaluate("e => e.tagName") == "SELECT":
            box.select_option(value)
        else:
            box.fill(value)
    if page.locator("#field-note").count():
        page.locator("#field-note").fill(WHY)
    page.locator("#do-it").click()
    page.locator(".result, [role=alert]").first.wait_for()

    assert page.locator("[role=alert], .is-bad").all_inner_texts() == []
    assert is_so(scene)
    if name not in ("restore-health", "new-token", "enrol"):
        said = Event.objects.filter(actor="user:admin").order_by("-id").first()
        assert said is not None
        lease = Lease.objects.get(id=scene["lease"])
        assert WHY in f"{said.detail} {lease.error} {coder().health_note} {coder().status_reason}"


def test_who_may_only_look_can_do_nothing(scene, cookie_of):
    client = Client()
    client.cookies["agentpool_session"] = cookie_of("viewer")["value"]
    answers = {}
    for name, action in ACTIONS.items():
        path = reverse("act", args=[name])
        body = {action.on.name: str(scene[action.on.name])} if action.on else {}
        answers[name] = [client.get(path, body).status_code, client.post(path, body).status_code]

    assert {name: codes for name, codes in answers.items() if codes != [403, 403]} == {}
    assert client.get(reverse("choose"), {"agent": str(scene["agent"])}).status_code == 403
    assert not Event.objects.filter(actor="user:viewer").exists()


# -- in a browser with JavaScript -----------------------------------------------------------------


def test_several_agents_are_drained_told_and_taken_back(live_page, scene):
    page = live_page("/agents")
    page.evaluate("window.sameDocument = true")
    page.locator("#pick-all, [name=agent]").first.check()
    page.locator("[name=agent]").nth(1).check()
    assert "2 selected" in page.locator("#bulk-bar").inner_text()

    page.locator("#bulk-bar").get_by_role("button", name="Drain").click()
    assert "2 leases finish first" in page.locator("#consequences").inner_text()
    assert "1 request waits there" in page.locator("#consequences").inner_text()
    page.locator("#field-minutes").select_option("15")
    assert re.fullmatch(r"\d\d:\d\d your time", page.locator("[data-minutes-told]").inner_text())
    page.locator("#field-note").fill("kernel update")
    page.get_by_role("button", name="Drain 2 agents").click()
    page.locator("#messages .result", has_text="2 done").wait_for()

    assert page.locator("dialog[open]").count() == 0
    assert page.locator("#bulk-bar").is_hidden()
    page.locator(".agent", has_text="coder").locator(".status", has_text="draining").wait_for()
    assert coder().status_reason == "kernel update"
    page.locator("#messages").get_by_role("button", name="Undo").click()
    page.locator("#messages .result", has_text="takes work again").wait_for()
    page.locator(".agent", has_text="coder").locator(".status", has_text="busy").wait_for()
    assert page.evaluate("window.sameDocument") is True


def test_the_menu_of_a_row_offers_what_its_state_allows(live_page, scene):
    page = live_page("/agents?view=table")

    page.get_by_label("Actions on coder").click()
    page.locator("#choose-drain").wait_for()
    assert page.locator("#choose-resume").count() == 0
    page.locator("#choose-quarantine").click()
    page.locator("#field-note").fill("strange answers")
    page.locator("#do-it").click()
    page.locator("tr.agent", has_text="coder").get_by_text("quarantined").wait_for()
    page.locator("#messages").get_by_role("button", name="Undo").click()
    page.locator("tr.agent", has_text="coder").get_by_text("quarantined").wait_for(state="detached")

    assert coder().health == AgentHealth.UNKNOWN


def test_of_two_operators_the_second_is_told_what_the_first_did(live_page, scene, cookie_of):
    first, second = live_page("/agents"), live_page("/agents")
    second.get_by_label("Actions on coder").click()
    second.locator("#choose-pause").click()
    second.locator("#consequences").wait_for()

    first.get_by_label("Actions on coder").click()
    first.locator("#choose-drain").click()
    first.locator("#do-it").click()
    first.locator("#messages .result", has_text="is draining").wait_for()
    second.locator("#do-it").click()

    alert = second.locator("dialog [role=alert]")
    alert.wait_for()
    assert "somebody else changed it meanwhile: it is draining now" in alert.inner_text()
    assert coder().health == AgentHealth.UNKNOWN
    # Having seen it, the second may decide anew.
    second.locator("#do-it").click()
    second.locator("#messages .result", has_text="is paused").wait_for()
    assert coder().health == AgentHealth.MAINTENANCE


def test_of_many_each_row_is_told_what_became_of_it(live_page, scene):
    page = live_page("/agents")
    for box in page.locator("[name=agent]").all():
        box.check()
    page.locator("#bulk-bar").get_by_role("button", name="Pause").click()
    page.locator("#consequences").wait_for()
    agents.drain(registry_queries.agent_by(agent_id="spare"), retire=False, actor="user:bob")

    page.get_by_role("button", name="Pause 2 agents").click()
    page.locator("#messages .result", has_text="1 done, 1 not").wait_for()

    told = page.locator("#messages .outcomes li").all_inner_texts()
    assert "spare" in told[0]
    assert "changed it meanwhile" in told[0]
    assert "coder is paused" in told[1].replace("\n", " ")


def test_an_enrolment_token_is_shown_once_with_its_command(live_page, pools):
    page = live_page("/agents")

    page.locator("#register").click()
    page.locator("#field-agent_type").select_option("qa")
    page.locator("#do-it").click()
    secret = page.locator("#secret-1")
    secret.wait_for()
    text = secret.inner_text()
    command = page.locator("#command-1-1").inner_text()
    page.get_by_role("link", name="Done").click()

    assert text.startswith("ap_")
    assert text in command
    assert "agentpool agent run --pool qa" in command
    assert page.locator("dialog[open]").count() == 0
    assert text not in page.content()
    page.reload()
    assert text not in page.content()


def test_a_form_that_is_wrong_says_so_and_keeps_what_was_typed(live_page, scene):
    page = live_page("/resources")

    page.locator(f"#edit-limit-{scene['limit']}").click()
    page.locator("#field-memory_mb").fill("much")
    page.locator("#field-note").fill(WHY)
    page.locator("#do-it").click()
    alert = page.locator("dialog [role=alert]")
    alert.wait_for()

    assert "Memory: 'much' is no number." in alert.inner_text()
    assert page.locator("#field-note").input_value() == WHY
    page.locator("#field-memory_mb").fill("9000")
    page.locator("#do-it").click()
    page.locator("#limits", has_text="8.8 GB").wait_for()


def test_what_is_ticked_stays_ticked_while_the_page_moves(live_page, scene, submit):
    page = live_page("/agents")
    page.locator(f"#pick-{scene['agent']}").check()

    agents.set_health(
        registry_queries.agent_by(agent_id="coder"),
        health=AgentHealth.PROBATION,
        note="",
        until=None,
        actor="t",
    )
    page.locator(".agent", has_text="probation").wait_for()

    assert page.locator(f"#pick-{scene['agent']}").is_checked()
    assert "1 selected" in page.locator("#bulk-bar").inner_text()


def test_a_form_that_is_refused_outright_says_so(live_page, scene):
    page = live_page(f"/agents/{scene['agent']}")
    page.locator(f'a[href^="/do/pause?agent={scene["agent"]}"]').first.click()
    page.locator("#do-it").wait_for()
    page.evaluate("document.querySelector('#dialog [name=csrfmiddlewaretoken]').value = 'old'")

    page.locator("#do-it").click()

    page.get_by_text("Not done: the server answered 403").wait_for()
    assert health("unknown")


def test_who_was_signed_out_meanwhile_is_led_to_the_sign_in_and_back(scene, live_page):
    page = live_page(f"/agents/{scene['agent']}")
    page.context.clear_cookies()

    page.locator("#act-drain").click()

    page.wait_for_url(re.compile(rf"/login\?next=/agents/{scene['agent']}$"))
    assert page.locator("dialog[open]").count() == 0


def test_text_that_is_marked_beyond_the_edge_of_a_dialog_is_not_lost(live_page, scene):
    page = live_page("/resources")
    page.locator("#new-limit").click()
    page.locator("#field-name").fill("a long name")
    field = page.locator("#field-name").bounding_box()

    page.mouse.move(field["x"] + 40, field["y"] + 8)
    page.mouse.down()
    page.mouse.move(5, field["y"] + 8, steps=4)
    page.mouse.up()

    assert page.locator("#field-name").input_value() == "a long name"
