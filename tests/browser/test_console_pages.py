"""Every page of the console: shown, for whoever may only look, on a telephone, for every eye."""

import json

import pytest
from axe_playwright_python.sync_playwright import Axe

from agentpool.console.pages import PAGES
from agentpool.registry import collecting
from balancing.services import limits
from tests.browser.test_pictures import addresses
from tests.integration.test_deadlines_and_priorities import limit

pytest_plugins = ["tests.browser.serving", "tests.browser.furnished"]
pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]

PHONE = {"width": 390, "height": 844}
GRAVE = ("serious", "critical")


def test_every_page_has_an_address_here(furnished):
    assert set(PAGES) - {"cycles"} <= {name.split("-")[0] for name in addresses(furnished)}


def test_every_page_is_live_and_told_without_javascript(furnished, open_page, live_page):
    live, plain = live_page("/"), open_page("/", java_script_enabled=False)
    differing = {}
    for name, path in addresses(furnished).items():
        live.goto(path)
        plain.goto(path, wait_until="domcontentloaded")
        if name != "confirm":
            live.locator("#live-state[data-state=live]").wait_for()
        heads = [page.locator("h1, .do h2").first.inner_text() for page in (live, plain)]
        if heads[0] != heads[1] or not heads[0]:
            differing[name] = heads

    assert differing == {}


def test_who_may_only_look_sees_every_page_and_no_action(furnished, live_page):
    page = live_page("/", user="viewer")
    found = {}
    for name, path in addresses(furnished).items():
        answer = page.goto(path)
        buttons = page.locator("#live a[href^='/do'], #live button[formaction], #live [name=agent]")
        if name != "confirm":
            page.locator("#live-state[data-state=live]").wait_for()
        found[name] = (answer.status, buttons.count())

    assert found.pop("confirm") == (403, 0)
    assert set(found.values()) == {(200, 0)}


# Cells of a table that is blocks on a telephone, too narrow for a word.
NARROW = """
[...document.querySelectorAll('.table td')].filter(cell => cell.innerText
  && cell.getBoundingClientRect().width < 90).map(cell => cell.dataset.label || cell.innerText)
"""


def test_every_page_fits_on_a_telephone(furnished, open_page):
    page = open_page("/", viewport=PHONE)
    wide, narrow = {}, {}
    for name, path in addresses(furnished).items():
        page.goto(path)
        width = page.evaluate("document.documentElement.scrollWidth")
        if width > PHONE["width"]:
            wide[name] = width
        if cells := page.evaluate(NARROW):
            narrow[name] = set(cells)

    assert (wide, narrow) == ({}, {})


def test_no_page_has_a_serious_fault_for_those_who_see_or_act_otherwise(furnished, open_page):
    page = open_page("/")
    faults = {}
    for name, path in {**addresses(furnished), "login": "/login"}.items():
        page.goto(path, wait_until="domcontentloaded")
        faults |= _faults(page, name)
    page.goto("/agents")
    page.locator("#register").click()
    page.locator("#field-uses").wait_for()
    faults |= _faults(page, "dialog")

    assert faults == {}


def test_an_empty_installation_has_no_serious_fault_on_a_telephone(open_page, pools):
    page = open_page("/", viewport=PHONE)
    faults = _faults(page, "overview")
    page.goto("/agents")

    assert faults | _faults(page, "agents") == {}


def _faults(page, name):
    """The grave faults of a page; the dark scheme differs in its colours alone."""
    found, axe = {}, Axe()
    for scheme, rules in (("light", {}), ("dark", {"runOnly": ["color-contrast"]})):
        page.emulate_media(color_scheme=scheme)
        answer = axe.run(page, options={"resultTypes": ["violations"], **rules}).response
        grave = [_told(each) for each in answer["violations"] if each["impact"] in GRAVE]
        found |= {f"{name}, {scheme}": grave} if grave else {}
        axe = Axe(axe_script="0")  # the page has it by now
    return found


def _told(fault):
    return fault["id"], [node["html"][:140] for node in fault["nodes"]][:4]


def test_a_page_that_is_not_there_is_not_found(open_page, pools):
    page = open_page("/")
    nowhere = "00000000-0000-4000-8000-000000000000"

    for path in (f"/agents/{nowhere}", f"/leases/{nowhere}", "/cycles?project=p&cycle=none"):
        assert page.goto(path).status == 404


def test_charts_are_drawn_followed_and_left_out_without_javascript(
    furnished, open_page, live_page, eventually
):
    drawn = "[...document.querySelectorAll('[data-chart]')].map(box =>"
    drawn += " Chart.getChart(box.querySelector('canvas')).data.datasets.map(d => d.data.length))"
    live, plain = live_page("/"), open_page("/", java_script_enabled=False)
    for path, count in {"/": 2, "/resources": 3, "/pool-metrics": 8}.items():
        live.goto(path)
        live.locator(".charts").wait_for()
        plain.goto(path, wait_until="domcontentloaded")

        assert len(live.evaluate(drawn)) == count
        assert all(lines and min(lines) > 1 for lines in live.evaluate(drawn))
        assert not plain.locator(".charts").is_visible()

    # The points, not how many they are: as many may leave the window as come.
    points = f"JSON.stringify({drawn.replace('d.data.length', 'd.data')})"
    before = json.dumps(live.evaluate(points))
    collecting.collect()
    make_news()
    eventually(lambda: live.evaluate(f"{points} !== {before}"))
    plain.goto("/", wait_until="domcontentloaded")
    assert plain.locator(".spark polyline").count() > 0


def make_news():
    limits.set_limit(limit(name="news", memory_mb=4096), actor="t")
