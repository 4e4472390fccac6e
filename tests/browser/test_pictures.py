"""Pictures of every page, for people to look at: `make screenshots` makes them anew."""

import os
import shutil

import pytest
from django.conf import settings

from agentpool.registry.models import Agent, Lease, Request, ScalingDecision

pytest_plugins = ["tests.browser.serving", "tests.browser.furnished"]
pytestmark = [
    pytest.mark.browser,
    pytest.mark.django_db(transaction=True),
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        os.environ.get("AGENTPOOL_PICTURES") != "1",
        reason="pictures are made on demand: make screenshots",
    ),
]

FOLDER = settings.BASE_DIR / "var" / "screenshots"
# The ones that stand in the documents.
KEPT = {
    "overview-desktop-light": "pool.png",
    "agents-desktop-dark": "agents.png",
    "cycle-desktop-light": "cycle.png",
}
KEPT_FOLDER = settings.BASE_DIR / "docs" / "images"
LARGEST_BYTES = 200_000
SIZES = {"desktop": {"width": 1440, "height": 900}, "phone": {"width": 390, "height": 844}}


def addresses(furnished):
    lease = furnished.live[0]
    coder = Agent.objects.filter(pool_id="code", load__gt=0).first()
    done = Lease.objects.filter(outcome="failure").first()
    waiting = Request.objects.filter(status="waiting").order_by("queued_at").first()
    sizing = ScalingDecision.objects.filter(pool="qa", event__isnull=False).first()
    project, cycle = furnished.cycle
    return {
        "overview": "/",
        "agents": "/agents",
        "agents-table": "/agents?view=table",
        "agent": f"/agents/{coder.id}",
        "queue": "/queue",
        "leases": "/leases",
        "lease": f"/leases/{lease.id}",
        "lease-failed": f"/leases/{done.id}",
        "request": f"/requests/{lease.request_id}/",
        "request-waiting": f"/requests/{waiting.id}/",
        "cycles": "/cycles",
        "cycle": f"/cycles?project={project}&cycle={cycle}",
        "decisions": "/decisions",
        "resources": "/resources",
        "metrics": "/pool-metrics",
        "scaling": "/scaling",
        "scaling_decision": f"/scaling/decisions/{sizing.id}",
        "rebalancing": "/rebalancing",
        "optimizer": "/optimizer",
        "learning": "/learning?agent_type=code",
        "settings": "/settings",
        "confirm": f"/do/drain?agent={coder.id}",
    }


def test_pictures_of_every_page(furnished, open_page):
    FOLDER.mkdir(parents=True, exist_ok=True)
    for size, viewport in SIZES.items():
        for scheme in ("light", "dark"):
            page = open_page("/", viewport=viewport, color_scheme=scheme)
            for name, path in addresses(furnished).items():
                page.goto(path)
                if name != "confirm":
                    page.locator("#live-state[data-state=live]").wait_for()
                page.screenshot(path=FOLDER / f"{name}-{size}-{scheme}.png")
            page.goto("/agents?agent_type=code")
            page.locator("[name=agent]").nth(0).check()
            page.locator("[name=agent]").nth(1).check()
            page.locator("#bulk-bar button", has_text="Drain").click()
            page.locator("#consequences").wait_for()
            page.locator("#field-minutes").select_option("15")
            page.screenshot(path=FOLDER / f"dialog-{size}-{scheme}.png")
    for name, kept in KEPT.items():
        shutil.copy(FOLDER / f"{name}.png", KEPT_FOLDER / kept)
        assert (KEPT_FOLDER / kept).stat().st_size < LARGEST_BYTES
