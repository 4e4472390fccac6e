"""A chromium for the whole module, and pages of a person who is logged in."""

import shutil

import pytest
from django.conf import settings
from django.contrib.auth import get_user_model
from django.test import Client
from playwright.sync_api import sync_playwright

# A window's field for addresses draws two pages of its own for what it may suggest: two thirds of
# what a page of ours costs. The others are Playwright's choice, which a list of ours replaces.
_WITHOUT = (
    "WebUIOmniboxPopup",
    "WebUIOmniboxAimPopup",
    "AimEnabled",
    "AvoidCorsURLLoaderRestartOnRedirect",
    "AvoidUnnecessaryBeforeUnloadCheckSync",
    "DestroyProfileOnBrowserClose",
    "HttpsFirstBalancedModeAutoEnable",
    "HttpsUpgrades",
    "LensOverlay",
    "MediaRouter",
    "NetworkTimeServiceQuerying",
    "OptimizationHints",
    "PaintHolding",
    "PreconnectToSearch",
    "ThirdPartyStoragePartitioning",
)
_SWITCHES = (
    f"--disable-features={','.join(_WITHOUT)}",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@pytest.fixture(scope="module")
def chromium():
    where = shutil.which("chromium") or shutil.which("chromium-browser")
    with pytest.MonkeyPatch.context() as patch, sync_playwright() as playwright:
        # Playwright keeps an event loop in this thread, in which Django would refuse its database.
        patch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "1")
        browser = playwright.chromium.launch(executable_path=where, args=_SWITCHES)
        yield browser
        browser.close()


@pytest.fixture
def cookie_of(pools, web):
    """The session of a user, as the browser keeps it; whoever is not there yet may look only."""

    def log_in(username):
        users = get_user_model().objects
        user = users.filter(username=username).first() or users.create_user(username)
        client = Client()
        client.force_login(user)
        name = settings.SESSION_COOKIE_NAME
        return {"name": name, "value": client.cookies[name].value, "url": web.url}

    return log_in


@pytest.fixture
def open_page(chromium, web, cookie_of):
    """
    Open a page: open_page("/", user="ada", viewport=..., java_script_enabled=...).

    Asserts afterwards that no page failed inside, was refused a script or style by the content
    policy, nor asked another host for anything.
    """
    contexts, failures = [], []

    def open_(path="/", *, user="admin", **options):
        # Nothing here looks at movement, and drawing it takes half a core.
        context = chromium.new_context(base_url=web.url, reduced_motion="reduce", **options)
        contexts.append(context)
        context.set_default_timeout(15_000)
        if user:
            context.add_cookies([cookie_of(user)])
        page = context.new_page()
        page.on("pageerror", lambda error: failures.append(str(error)))
        page.on("console", lambda m: _is_refusal(m.text) and failures.append(m.text))
        page.on("request", lambda r: _is_ours(r.url, web.url) or failures.append(r.url))
        page.goto(path)
        return page

    yield open_
    for context in contexts:
        context.close()
    assert failures == []


def _is_refusal(text):
    return "Content Security Policy" in text


def _is_ours(address, site):
    return address.startswith((site, "data:", "blob:"))


@pytest.fixture
def live_page(open_page):
    """Open a page and wait until its websocket has shown something."""

    def open_(path="/", **options):
        page = open_page(path, **options)
        page.locator("#live-state[data-state=live]").wait_for()
        return page

    return open_
