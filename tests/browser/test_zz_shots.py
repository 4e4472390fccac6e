import pytest
from tests.browser.test_pictures import addresses, SIZES

pytest_plugins = ["tests.browser.serving", "tests.browser.furnished"]
pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]


def test_shots(furnished, open_page):
    found = addresses(furnished)
    for size, viewport in SIZES.items():
        for scheme in ("light", "dark"):
            page = open_page("/", viewport=viewport, color_scheme=scheme)
            for name in ("scaling", "scaling_decision"):
                page.goto(found[name])
                page.locator("#live-state[data-state=live]").wait_for()
                page.screenshot(
                    path=f"/tmp/shots/{name}-{size}-{scheme}.png", full_page=name == "scaling"
                )
            page.goto("/scaling")
            page.locator("#live-state[data-state=live]").wait_for()
            page.locator("#more-code").click()
            page.locator("#choose-scaling-policy").click()
            page.locator("#try-it").wait_for()
            page.locator("#try-it").click()
            page.locator("#trial").wait_for()
            page.screenshot(path=f"/tmp/shots/policy-{size}-{scheme}.png")
