"""The live page in a real browser: what it shows, how it moves, what it does without a line."""

import contextlib
import subprocess
import sys
import time
import uuid
from datetime import UTC, datetime

import pytest
from django.contrib.auth import get_user_model
from django.contrib.sessions.models import Session
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from agentpool.registry import queries as registry_queries
from agentpool.registry import services as registry_services
from agentpool.registry.models import Lease
from agentpool.registry.states import AgentHealth, Outcome
from balancing.services import agents, leases

pytest_plugins = ["tests.browser.serving"]
pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]

PHONE = {"width": 360, "height": 740}
LIVE_S = 1.0
LONG = "a-name-that-somebody-made-without-a-thought-for-the-width-of-a-telephone"


def agent_names(page):
    return page.locator(".agent h2").all_inner_texts()


def append(lease, text, stream="stdout"):
    registry_services.append_log(lease, chunks=[(stream, text)])


def shown_soon(act, shows, *, times=4):
    """Assert that what an act has committed is shown within a second."""
    taken = []
    # Several chances: a machine that is busy with other work may be late with the first.
    while not taken or (taken[-1] >= LIVE_S and len(taken) < times):
        act(len(taken))
        committed = time.monotonic()
        shows(len(taken))
        taken.append(time.monotonic() - committed)
    assert min(taken) < LIVE_S, taken


# -- who may look ----------------------------------------------------------------------------------


def test_the_page_needs_a_login_and_leads_back(open_page, settings, web):
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.PBKDF2PasswordHasher"]
    get_user_model().objects.create_user("ada", password="analytical engine")

    page = open_page("/agents?agent_type=qa", user=None)
    page.get_by_label("User name").fill("ada")
    page.get_by_label("Password").fill("wrong")
    page.get_by_role("button", name="Log in").click()
    page.get_by_role("alert").wait_for()
    page.get_by_label("Password").fill("analytical engine")
    page.get_by_role("button", name="Log in").click()
    page.locator("#agents").wait_for()

    assert page.url == f"{web.url}/agents?agent_type=qa"


def test_logging_out_ends_the_session(open_page, web):
    page = open_page()

    page.get_by_role("button", name="Log out").click()
    page.get_by_label("User name").wait_for()
    page.goto("/")

    assert page.url == f"{web.url}/login?next=/"


def test_the_websocket_of_the_page_needs_a_login_and_a_subject_too(web, cookie_of):
    address = web.url.replace("http", "ws", 1) + "/ws/console/"
    cookie = {"Cookie": "{name}={value}".format(**cookie_of("admin"))}
    gone = f"{address}?page=agent&id={uuid.uuid4()}"

    for where, headers, code in ((address, {}, 4401), (gone, cookie, 4404)):
        with connect(where, origin=web.url, additional_headers=headers, open_timeout=20) as socket:
            with pytest.raises(ConnectionClosed) as closed:
                socket.recv(timeout=20)
            assert closed.value.rcvd.code == code


def test_an_open_page_follows_what_its_person_may_still_do(web, cookie_of, make_agent):
    make_agent()
    address = web.url.replace("http", "ws", 1) + "/ws/console/?page=agents"
    cookies = [cookie_of("admin"), cookie_of("guest")]
    with contextlib.ExitStack() as opened:
        operator, guest = (
            opened.enter_context(
                connect(
                    address,
                    origin=web.url,
                    additional_headers={"Cookie": "{name}={value}".format(**cookie)},
                    open_timeout=20,
                )
            )
            for cookie in cookies
        )
        for socket in (operator, guest):
            socket.send('{"have": {"a": 1}}')
        assert 'id="do-' in _until(operator, 'id="agent-')

        admin = get_user_model().objects.get(username="admin")
        get_user_model().objects.filter(id=admin.id).update(is_superuser=False)
        admin.groups.clear()
        Session.objects.get(session_key=cookies[1]["value"]).delete()

        assert 'id="do-' not in _until(operator, 'id="agent-')
        with pytest.raises(ConnectionClosed) as closed:
            _until(guest, "nothing")
        assert closed.value.rcvd.code == 4401


def _until(socket, text):
    """Return the next message that has a text."""
    deadline = time.monotonic() + 25
    while text not in (message := socket.recv(timeout=20)):
        assert time.monotonic() < deadline, message
    return message


def test_the_websocket_of_the_page_is_for_pages_of_ours(web, cookie_of):
    address = web.url.replace("http", "ws", 1) + "/ws/console/"
    cookie = {"Cookie": "{name}={value}".format(**cookie_of("admin"))}

    with connect(address, origin=web.url, additional_headers=cookie, open_timeout=20) as socket:
        assert socket.recv(timeout=20)
    with pytest.raises(InvalidStatus):
        connect(address, origin="http://evil.example", additional_headers=cookie, open_timeout=20)


@pytest.mark.parametrize("path", ["/ws/console", "/ws/consoles/"])
def test_a_websocket_that_there_is_not_is_refused(web, path):
    with pytest.raises(InvalidStatus) as refused:
        connect(web.url.replace("http", "ws", 1) + path, origin=web.url, open_timeout=20)

    assert refused.value.response.status_code == 403


def test_no_script_runs_that_was_written_into_a_page(chromium, web, cookie_of):
    context = chromium.new_context(base_url=web.url)
    context.add_cookies([cookie_of("admin")])
    page = context.new_page()
    for path in ("/", "/admin/"):
        page.goto(path)
        page.evaluate("""() => {
            const script = document.createElement("script");
            script.textContent = "window.ran = true";
            const image = document.createElement("img");
            image.setAttribute("onerror", "window.ran = true");
            document.body.append(script, image);
            image.src = "data:,";
        }""")
        time.sleep(0.2)
        assert page.evaluate("window.ran") is None
    context.close()


def test_the_interface_is_described_by_a_page(open_page):
    page = open_page("/api/docs")

    page.locator(".opblock").first.wait_for()


# -- what is shown ---------------------------------------------------------------------------------


def test_an_empty_pool_says_how_an_agent_joins(live_page):
    page = live_page("/agents")

    commands = page.locator("#agents code").all_inner_texts()

    assert commands[0] == "agentpool pools enrol code"
    assert "agentpool agent run --pool code" in commands[1]
    assert page.get_by_role("button", name="Copy").count() == 2


def test_the_overview_shows_pools_the_queue_and_decisions(open_page, make_agent, submit):
    make_agent("code", agent_id="coder")
    submit("code", project="shop", cycle_id="cart", phase="green")
    submit("code", project="shop", cycle_id="pay", phase="red", priority=70)

    page = open_page()

    assert "1 of 1 slots" in page.locator("#pool-code").inner_text()
    assert "pay" in page.locator("#queue").inner_text()
    assert "busy" in page.locator("#queue .reason").inner_text()
    assert "coder" in page.locator("#decisions").inner_text()


def test_the_page_works_without_javascript(open_page, make_agent, submit):
    make_agent("code", agent_id="coder")
    make_agent("qa", agent_id="tester")
    wish = submit("code", cycle_id="cart", payload={"command": ["true"]})
    append(wish.held, "hello from the work\n")

    page = open_page("/agents", java_script_enabled=False)
    assert agent_names(page) == ["coder", "tester"]
    page.locator("#filter-type").select_option("qa")
    page.get_by_role("button", name="Filter").click()
    assert agent_names(page) == ["tester"]
    page.get_by_role("link", name="Clear").click()
    page.get_by_role("link", name="cart").click()

    assert "hello from the work" in page.locator("#log").inner_text()


def test_filters_are_part_of_the_address(open_page, make_agent, submit):
    make_agent("code", agent_id="coder")
    make_agent("qa", agent_id="tester", capabilities=["sql"])
    submit("code", project="shop")
    shown = {
        "agent_type=qa": ["tester"],
        "status=busy": ["coder"],
        "project=shop": ["coder"],
        "search=TEST": ["tester"],
        "health=good": [],
        "capability=sql": ["tester"],
        "sort=-load&view=table": ["coder", "tester"],
        "agent_type=qa&status=busy": [],
        "agent_type=nonsense&colour=red": [],
    }

    page = open_page("/agents", java_script_enabled=False)
    names = page.locator(".agent :is(h2, th) > a")

    assert {
        query: page.goto(f"/agents?{query}") and names.all_inner_texts() for query in shown
    } == shown


# -- what moves by itself --------------------------------------------------------------------------


def test_an_agent_that_registers_appears_without_a_reload(live_page, make_agent):
    page = live_page("/agents")
    page.evaluate("window.sameDocument = true")

    shown_soon(
        lambda n: make_agent("code", agent_id=f"new-{n}"),
        lambda n: page.get_by_role("heading", name=f"new-{n}").wait_for(),
    )

    assert page.evaluate("window.sameDocument") is True


def test_a_grant_of_another_process_appears_without_a_reload(live_page, make_agent, web, pools):
    make_agent("code", agent_id="coder", max_concurrent=4)
    page = live_page("/agents")
    card = page.locator(".agent", has_text="coder")
    ask = (
        "import httpx, sys; httpx.post(sys.argv[1], headers={'Authorization': 'Bearer ' + "
        "sys.argv[2]}, json={'agent_type': 'code', 'project': 'p', 'cycle_id': sys.argv[3]})"
        ".raise_for_status()"
    )

    def grant(n):
        address = f"{web.url}/api/agent-pool/assign"
        argv = [sys.executable, "-c", ask, address, pools["operator_token"], f"story-{n}"]
        subprocess.run(argv, check=True)

    shown_soon(grant, lambda n: card.get_by_role("link", name=f"story-{n}").wait_for())

    assert "busy" in card.inner_text()


def test_a_grant_and_its_end_appear_without_a_reload(live_page, make_agent, submit):
    make_agent("code", agent_id="coder", max_concurrent=4)
    page = live_page("/agents")
    card = page.locator(".agent", has_text="coder")

    shown_soon(
        lambda n: submit("code", cycle_id=f"story-{n}"),
        lambda n: card.get_by_role("link", name=f"story-{n}").wait_for(),
    )
    for lease in Lease.objects.all():
        leases.release(lease.id, token=lease.fencing_token, outcome=Outcome.SUCCESS, actor="t")

    card.locator(".status", has_text="idle").wait_for()
    assert page.locator("#statuses", has_text="idle 1").count() == 1


def test_a_change_of_one_agent_sends_one_card(live_page, make_agent, submit):
    for n in range(12):
        make_agent("code", agent_id=f"coder-{n:02}")
    page = live_page("/agents")
    page.evaluate("""() => {
        window.swapped = [];
        document.addEventListener("htmx:oobBeforeSwap", (e) => window.swapped.push(e.target.id));
    }""")

    submit("code", cycle_id="cart", preferred_agent="coder-05")
    page.get_by_role("link", name="cart").wait_for()

    cards = page.evaluate("window.swapped.filter((id) => id.startsWith('agent'))")
    assert cards == [f"agent-{registry_queries.agent_by(agent_id='coder-05').id}"]


def test_a_page_that_is_up_to_date_is_sent_nothing_but_the_time(live_page, make_agent, eventually):
    make_agent("code", agent_id="coder")
    page = live_page("/agents")
    page.evaluate("""() => {
        window.swapped = [];
        document.addEventListener("htmx:oobBeforeSwap", (e) => window.swapped.push(e.target.id));
    }""")

    registry_services.update_pool(
        "code", fields={"max_size": 7}, if_generation=None, actor="what this page does not show"
    )
    eventually(lambda: page.evaluate("window.swapped.length > 0"))

    assert page.evaluate("window.swapped") == ["clock"]


def test_a_request_that_must_wait_appears_with_its_reason(live_page, make_agent, submit):
    make_agent("code")
    submit("code")
    page = live_page("/queue")

    submit("code", cycle_id="later")

    row = page.locator("#queue tr", has_text="later")
    row.wait_for()
    assert len(row.locator(".reason").inner_text()) > 5
    assert row.locator("[data-label=Place]").inner_text() == "1"


def test_what_the_work_prints_appears_on_the_page_of_its_lease(live_page, make_agent, submit):
    make_agent("code")
    lease = submit("code", cycle_id="cart", payload={"command": ["true"]}).held
    leases.acknowledge(lease.id, token=lease.fencing_token)
    page = live_page(f"/leases/{lease.id}")

    shown_soon(
        lambda n: append(lease, f"line <b>{n}</b>\n"),
        lambda n: page.locator("#log", has_text=f"line <b>{n}</b>").wait_for(),
    )
    append(lease, "a warning\n", stream="stderr")
    leases.release(lease.id, token=lease.fencing_token, outcome=Outcome.FAILURE, actor="t")

    page.locator("#log .stderr", has_text="a warning").wait_for()
    page.locator("#lease .outcome", has_text="failure").wait_for()
    page.locator("#log", has_text="end of the log").wait_for()


def test_filters_act_at_once_and_hold_for_what_comes_later(live_page, make_agent):
    make_agent("code", agent_id="coder")
    page = live_page("/agents")
    page.evaluate("window.sameDocument = true")

    page.locator("#filter-type").select_option("qa")
    page.get_by_text("No agent matches these filters").wait_for()
    make_agent("code", agent_id="coder-2")
    make_agent("qa", agent_id="tester")
    page.get_by_role("heading", name="tester").wait_for()

    assert agent_names(page) == ["tester"]
    assert "agent_type=qa" in page.url
    page.locator("#filter-search").press_sequentially("nobody")
    page.wait_for_url("**search=nobody**")
    page.get_by_text("No agent matches these filters").wait_for()
    assert page.evaluate("window.sameDocument") is True


def test_a_push_leaves_the_keyboard_where_it_was(live_page, make_agent):
    make_agent("code", agent_id="coder")
    page = live_page("/agents")
    page.locator("#filter-search").focus()
    page.keyboard.type("co")

    make_agent("code", agent_id="coder-2")
    page.get_by_role("heading", name="coder-2").wait_for()
    page.keyboard.type("d")

    assert page.locator("#filter-search").input_value() == "cod"
    page.wait_for_url("**search=cod&**")

    # An answer that comes while its reader types on.
    held = []
    page.route("**/agents?search=code&**", lambda route: held.append(route))
    page.keyboard.type("e")
    page.wait_for_timeout(400)
    late = held[0].fetch()
    page.keyboard.type("r")
    held[0].fulfill(response=late)
    page.wait_for_url("**search=coder&**")
    page.keyboard.type("-2")
    page.wait_for_url("**search=coder-2&**")
    assert page.locator("#filter-search").input_value() == "coder-2"


def test_a_page_whose_line_is_cut_says_so_and_comes_back_fresh(live_page, make_agent, web):
    make_agent("code", agent_id="before")
    page = live_page("/agents")
    banner = page.locator("#disconnected")
    assert not banner.is_visible()

    web.stop()
    try:
        banner.wait_for()
        assert page.locator("#live-state").get_attribute("data-state") == "gone"
        make_agent("code", agent_id="meanwhile")
    finally:
        web.start()

    page.get_by_role("heading", name="meanwhile").wait_for()
    banner.wait_for(state="hidden")
    page.locator("#live-state[data-state=live]").wait_for()


def test_a_silent_line_is_dialled_again_and_who_is_signed_out_is_told(open_page, make_agent):
    make_agent("code", agent_id="before")
    page = open_page("/login")
    page.clock.install()
    lines = []

    def dial(browser):
        server, number = browser.connect_to_server(), len(lines)
        lines.append(server)
        browser.on_message(server.send)
        # The first one breaks without a word, as when a machine has slept.
        server.on_message(lambda said: number < len(silent) or browser.send(said))

    silent = []
    page.route_web_socket("**/ws/console/**", dial)
    page.goto("/agents")
    page.locator("#live-state[data-state=live]").wait_for()
    silent.append(1)
    make_agent("code", agent_id="meanwhile")

    page.clock.fast_forward(60_000)
    page.get_by_role("heading", name="meanwhile").wait_for()
    page.locator("#live-state[data-state=live]").wait_for()
    Session.objects.all().delete()

    banner = page.get_by_text("Signed out.")
    banner.wait_for()
    page.get_by_role("link", name="Sign in").click()
    page.get_by_label("User name").wait_for()
    assert page.url.endswith("/login?next=/agents")


# -- for every hand and eye ------------------------------------------------------------------------

# A stop is known by what it is: pushes put new elements in the place of old ones.
STOP = "const stop = e => [e.tagName, e.id, e.textContent.trim().slice(0, 40)].join(' ');"
STOPS = f"""() => {{ {STOP}
  return [...document.querySelectorAll('a[href], button, input, select, [tabindex]')]
    .filter(e => e.tabIndex >= 0 && e.type !== 'hidden' && e.checkVisibility()).map(stop);
}}"""
FOCUSED = f"""() => {{ {STOP}
  const e = document.activeElement, style = getComputedStyle(e);
  return [stop(e), style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) > 0];
}}"""


def test_the_keyboard_reaches_everything_and_shows_where_it_is(live_page, make_agent, submit):
    make_agent("code", agent_id="coder")
    submit("code", cycle_id="cart")
    page = live_page("/agents?search=coder")
    stops = page.evaluate(STOPS)

    reached = {}
    for _ in range(len(stops)):
        page.keyboard.press("Tab")
        stop, is_outlined = page.evaluate(FOCUSED)
        reached[stop] = is_outlined

    assert set(stops) == set(reached)
    assert all(reached.values()), reached


def test_the_first_stop_skips_to_the_content(open_page):
    page = open_page()

    page.keyboard.press("Tab")
    page.keyboard.press("Enter")

    assert page.evaluate("document.activeElement.id") == "content"


@pytest.mark.parametrize("where", ["pool", "empty", "lease", "login"])
def test_a_telephone_needs_no_scrolling_sideways(open_page, make_agent, submit, where):
    path = "/agents"
    if where in ("pool", "lease"):
        make_agent("code", agent_id=LONG, host=LONG)
        first = submit("code", project=LONG, cycle_id=LONG, phase="green")
        submit("code", project=LONG, cycle_id=LONG, phase="green")
        append(first.held, LONG * 5 + "\n")
        path = f"/leases/{first.held.id}" if where == "lease" else "/agents"

    page = open_page(path, viewport=PHONE, user=None if where == "login" else "admin")

    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


def test_status_is_told_by_a_word_too(open_page, make_agent):
    make_agent("code", agent_id="coder")
    agents.drain(
        registry_queries.agent_by(agent_id="coder"), retire=False, actor="t", reason="tonight"
    )

    page = open_page("/agents", java_script_enabled=False)

    assert page.locator(".agent .status").first.inner_text().strip() == "draining"


def test_what_needs_a_person_is_said_with_reason_and_action(open_page, make_agent):
    make_agent("code", agent_id="coder")
    agents.set_health(
        registry_queries.agent_by(agent_id="coder"),
        health=AgentHealth.QUARANTINED,
        note="strange answers",
        until=None,
        actor="user:ada",
    )

    page = open_page(java_script_enabled=False)

    alarm = page.locator(".alarm", has_text="coder is quarantined")
    assert "strange answers (ada)" in alarm.inner_text()
    alarm.get_by_role("link", name="Good again").click()
    assert "slot is free for new work" in page.locator("#consequences").inner_text()


def test_times_are_in_the_readers_zone(open_page, make_agent, submit):
    make_agent("code")
    lease = submit("code").held
    moment = datetime(2026, 3, 1, 23, 30, 5, tzinfo=UTC)
    Lease.objects.filter(id=lease.id).update(acquired_at=moment)

    plain = open_page(f"/leases/{lease.id}", java_script_enabled=False)
    page = open_page(f"/leases/{lease.id}", timezone_id="Asia/Kolkata", locale="en-GB")

    began = f"time[datetime='{moment:%Y-%m-%dT%H:%M:%S}.000Z'][data-local]"
    assert plain.locator(began).inner_text() == "2026-03-01 23:30:05 UTC"
    assert page.locator(began).inner_text() == "2 Mar, 05:00:05"


def test_keys_lead_to_search_and_pages(live_page, make_agent):
    make_agent("code")
    page = live_page("/agents")

    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "filter-search"
    page.keyboard.press("Tab")
    page.locator("main").focus()
    page.keyboard.press("?")
    page.get_by_role("heading", name="Keys").wait_for()
    page.keyboard.press("Escape")
    page.keyboard.press("g")
    page.keyboard.press("q")
    page.wait_for_url("**/queue")
    page.keyboard.press("g")
    page.keyboard.press("e")
    page.wait_for_url("**/learning")


def test_the_admin_asks_no_other_host_and_raises_no_error(open_page):
    page = open_page("/admin/")

    assert page.get_by_role("link", name="Agents").first.is_visible()
