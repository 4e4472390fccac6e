"""The admin in a real browser: the dashboard, a list that moves, an act with its confirmation."""

import pytest

from agentpool.registry import collecting, roles
from agentpool.registry.models import Agent
from agentpool.registry.states import Outcome
from balancing.services import leases

pytest_plugins = ["tests.browser.serving"]
pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]

AGENTS = "/admin/registry/agent/"
PHONE = {"width": 390, "height": 844}
# A fetch a second at most, and the time that drawing a page takes on a busy machine.
LIVE_MS = 10_000


@pytest.fixture
def live(open_page):
    """Open a page of the admin that says it is live."""

    def open_(path, **options):
        page = open_page(path, **options)
        page.locator("#live-state[data-state=live]").wait_for()
        return page

    return open_


def row(page, agent_id):
    name = page.get_by_text(agent_id, exact=True)
    return page.locator("#result_list tbody tr.data-row").filter(has=name)


def test_the_dashboard_counts_draws_and_moves(live, make_agent, submit):
    collecting.collect()
    page = live("/admin/")
    agents = page.get_by_role("link", name="Agents 0", exact=True)
    agents.wait_for()
    page.evaluate("window.stayed = true")

    make_agent("code")
    submit("code", project="shop")
    submit("code", project="shop")

    page.get_by_role("link", name="Agents 1", exact=True).wait_for(timeout=LIVE_MS)
    page.get_by_role("link", name="Slots in use 1 of 1").wait_for(timeout=LIVE_MS)
    page.get_by_role("link", name="1 waiting, oldest").wait_for(timeout=LIVE_MS)
    page.locator("#live-events", has_text="lease.active").wait_for(timeout=LIVE_MS)
    charts = "[...document.querySelectorAll('[data-live-chart]')].map(c => !!Chart.getChart(c))"
    assert page.evaluate(charts) == [True, True]
    assert page.evaluate("window.stayed"), "the page was loaded again"


def test_a_list_moves_when_the_pool_does_and_keeps_its_place(live, make_agent, submit):
    for _ in range(30):
        make_agent("code")
    page = live(AGENTS, viewport={"width": 1280, "height": 500})
    page.evaluate("window.stayed = true; window.scrollTo(0, 400)")

    wish = submit("code")
    name = wish.held.agent.agent_id
    row(page, name).get_by_text("1 of 1", exact=True).wait_for(timeout=LIVE_MS)
    leases.release(
        wish.held.id, token=wish.held.fencing_token, outcome=Outcome.SUCCESS, actor="test"
    )

    row(page, name).get_by_text("0 of 1", exact=True).wait_for(timeout=LIVE_MS)
    assert page.evaluate("window.scrollY") == 400
    assert page.evaluate("window.stayed"), "the page was loaded again"


def test_the_first_row_comes_into_an_empty_list(live, make_agent):
    page = live(AGENTS)
    page.locator("#empty-list", has_text="No agent has registered here").wait_for()

    name = make_agent("code").agent_id

    row(page, name).wait_for(timeout=LIVE_MS)
    row(page, name).locator("input.action-select").check()
    assert page.locator(".action-counter").inner_text() == "1 of 1 selected"


def test_ticked_rows_are_kept_until_somebody_wants_the_news(live, make_agent, submit):
    names = [make_agent("code").agent_id for _ in range(3)]
    page = live(AGENTS)
    box = row(page, names[1]).locator("input.action-select")
    box.check()

    wish = submit("code")

    page.locator("#live-state[data-state=paused]").wait_for(timeout=LIVE_MS)
    assert box.is_checked()
    assert row(page, wish.held.agent.agent_id).get_by_text("0 of 1", exact=True).is_visible()
    page.get_by_role("button", name="Show it").click()
    row(page, wish.held.agent.agent_id).get_by_text("1 of 1", exact=True).wait_for()
    assert not box.is_checked()
    page.locator("#action-toggle").check()
    assert page.locator(".action-counter").inner_text() == "3 of 3 selected"


def test_agents_are_drained_after_a_confirmation_in_numbers(live, make_agent):
    names = [make_agent("code").agent_id for _ in range(3)]
    page = live(AGENTS)
    for name in names[:2]:
        row(page, name).locator("input.action-select").check()
    page.locator("select[name=action]").select_option("drain")
    page.locator("button[name=index]").click()

    page.locator("#foretold", has_text="2 agents will take no new work.").wait_for()
    page.get_by_label("Note").fill("kernel update")
    page.get_by_role("button", name="Drain").click()

    page.get_by_text("Drain: done for 2 agents.").wait_for()
    status = dict(Agent.objects.values_list("agent_id", "status"))
    assert [status[name] for name in names] == ["draining", "draining", "idle"]


def test_a_cut_connection_is_told_and_comes_back(live, make_agent, web):
    make_agent("code")
    page = live(AGENTS)

    web.stop()
    state = page.locator("#live-state[data-state=away]")
    state.wait_for(timeout=30_000)
    assert "shown as of" in state.inner_text()
    web.start()

    page.locator("#live-state[data-state=live]").wait_for(timeout=30_000)
    name = make_agent("code").agent_id
    row(page, name).wait_for(timeout=LIVE_MS)


def test_a_viewer_sees_all_and_may_do_nothing(live, make_agent):
    agent = make_agent("code")
    roles.settle()
    roles.make_user("vera", group="viewer")

    page = live(AGENTS, user="vera", viewport=PHONE)

    row(page, agent.agent_id).wait_for()
    assert page.locator("input.action-select, select[name=action]").count() == 0
    assert page.get_by_text("Run the health check now").count() == 0
    page.goto(f"{AGENTS}{agent.pk}/change/")
    page.get_by_text("History").first.wait_for(state="attached")
    assert page.locator("a[href*='/drain/'], a[href*='/retire/'], input[name=_save]").count() == 0
