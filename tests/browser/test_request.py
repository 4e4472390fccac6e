"""The page of a request: why it waits, why this agent, and that it moves by itself."""

import os

import pytest

from agentpool.registry.states import Outcome
from balancing.services import leases

pytest_plugins = ["tests.browser.serving"]
pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]


def release(wish):
    leases.release(
        wish.held.id, token=wish.held.fencing_token, outcome=Outcome.SUCCESS, actor="test"
    )


def picture(page, name):
    """Keep what the page looks like, for people: only when they ask for it."""
    if folder := os.environ.get("AGENTPOOL_TEST_PICTURES"):
        page.screenshot(path=f"{folder}/{name}.png", full_page=True)


def test_the_queue_leads_to_why_a_request_waits(open_page, make_agent, submit):
    make_agent(agent_id="coder")
    submit(cycle_id="pay")
    submit(cycle_id="cart")

    page = open_page("/queue", java_script_enabled=False)
    page.get_by_role("link", name="cart", exact=True).click()

    assert page.locator("#reason").inner_text() == "the only agent that takes work is busy"
    row = page.locator(".funnel tr", has_text="free slot")
    assert row.locator(".number").all_inner_texts() == ["0", "1"]
    assert page.locator("#why h2 .badge").inner_text() == "0 of 1"
    assert "Position" in page.locator("#request").inner_text()
    assert "arrived" in page.locator("#timeline").inner_text()
    picture(page, "waiting")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_grant_shows_the_parts_of_each_score(open_page, make_agent, submit, scheme):
    make_agent(agent_id="coder", max_concurrent=2)
    make_agent(agent_id="other", max_concurrent=2)
    wish = submit(cycle_id="cart", strategy="workload_aware")

    page = open_page(f"/requests/{wish.id}/", color_scheme=scheme)

    assert page.locator("#reason").inner_text() == "it was the best by workload_aware"
    assert page.locator(".candidates li").count() == 2
    assert page.locator(".is-chosen rect").count() == 5
    assert page.locator(".tag", has_text="runner-up").count() == 1
    assert "granted on" in page.locator("#timeline").inner_text()
    picture(page, f"granted-{scheme}")


def test_the_page_moves_when_the_request_is_granted(live_page, make_agent, submit):
    make_agent(agent_id="coder")
    first, second = submit(cycle_id="pay"), submit(cycle_id="cart")
    page = live_page(f"/requests/{second.id}/")
    page.evaluate("window.sameDocument = true")
    assert "busy" in page.locator("#reason").inner_text()

    release(first)
    page.locator("#lease-link").wait_for()

    assert "Why coder" in page.locator("#request").inner_text()
    assert page.evaluate("window.sameDocument") is True


def test_a_telephone_needs_no_scrolling_sideways(open_page, make_agent, submit):
    make_agent(agent_id="coder-with-a-name-that-is-long-for-the-width-of-a-telephone")
    submit()
    wish = submit(project="a-project-that-somebody-named-without-a-thought")

    page = open_page(f"/requests/{wish.id}/", viewport={"width": 360, "height": 740})

    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    picture(page, "telephone")


def test_a_request_that_does_not_exist_is_not_found(open_page, pools):
    page = open_page()

    answer = page.goto("/requests/00000000-0000-4000-8000-000000000000/")

    assert answer.status == 404


def test_on_a_telephone_no_filter_is_broken_within_its_word(open_page, make_agent, submit):
    make_agent(agent_id="coder")
    submit()

    page = open_page(f"/requests/{submit().id}/", viewport={"width": 390, "height": 844})

    heights = {
        name: page.locator(".funnel th", has_text=name).bounding_box()["height"]
        for name in ("memory", "capabilities")
    }
    assert heights["capabilities"] == heights["memory"]
    picture(page, "waiting-phone")
