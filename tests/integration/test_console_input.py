"""Whatever is typed into a form of the console, or into its address, gets an answer."""

import html
from uuid import UUID, uuid4

import pytest
from django.contrib.auth import get_user_model
from django.test import Client

from agentpool.registry import collecting, services
from agentpool.registry.models import Agent, Launch, Pool, ScalingEvent
from agentpool.registry.states import AgentHealth
from balancing.services import agents, limits
from tests.integration.test_deadlines_and_priorities import limit

pytestmark = [pytest.mark.django_db(transaction=True)]

NUL = "a\x00b"
NO_NUMBERS = ("nan", "inf", "-inf", "1e400")


@pytest.fixture
def browser(pools):
    client = Client()
    client.force_login(get_user_model().objects.create_superuser("olga"))
    return client


@pytest.mark.parametrize("address", ["/do?pool=", "/do?profile=", "/do/edit-pool?pool="])
def test_a_name_with_nul_in_the_address_is_of_no_row(browser, address):
    answer = browser.get(f"{address}a%00b")

    assert answer.status_code == 200
    assert "not there any more" in answer.content.decode()


def test_what_somebody_removed_meanwhile_is_said_to_be_gone(browser):
    shop = limits.set_limit(limit(name="shop", memory_mb=4096), actor="t")
    limits.remove_limit(shop.id, actor="somebody")

    answers = [
        browser.get(f"/do?limit={shop.id}"),
        browser.get(f"/do/remove-limit?limit={shop.id}"),
        browser.post("/do/remove-limit", {"limit": str(shop.id)}),
    ]

    for answer in answers:
        assert "not there any more" in answer.content.decode()
        assert "Select at least one row" not in answer.content.decode()
    assert "Select at least one row first." in browser.get("/do/drain").content.decode()


@pytest.mark.parametrize("status", ["all", "lost", "expired"])
def test_no_lease_in_a_state_is_not_told_as_nothing_running(browser, make_agent, submit, status):
    if status != "all":
        make_agent()
        submit()

    told = browser.get(f"/leases?status={status}").content.decode()

    assert "Nothing runs now" not in told
    assert (
        "Nothing has had an agent yet." if status == "all" else f"No lease is {status}."
    ) in told


def test_a_dialog_counts_only_the_slots_that_change_hands(browser, make_agent, submit):
    drains = make_agent(agent_id="a", max_concurrent=2)
    make_agent(agent_id="b")
    agents.drain(drains, retire=False, actor="t", reason="", by=None)
    agents.set_health(
        drains, health=AgentHealth.QUARANTINED, note="", until=None, actor="t", if_generation=None
    )
    submit(preferred_agent="b")
    submit()
    chosen = f"agent={drains.id}"

    def told(name):
        return html.unescape(browser.get(f"/do/{name}?{chosen}").content.decode())

    assert "No slot is free for new work yet: it is draining." in told("good")
    assert "No slot is free for new work yet: it is quarantined." in told("resume")
    assert "code loses 0 slots" in told("retire")
    drains.refresh_from_db()
    agents.set_health(
        drains, health=AgentHealth.GOOD, note="", until=None, actor="t", if_generation=None
    )
    again = "2 slots are free for new work again; the 1 request that waits is looked at at once."
    assert again in told("resume")


def test_the_overview_counts_all_that_needs_a_person(browser, make_agent):
    for number in range(8):
        make_agent(agent_id=f"a{number}")
    Agent.objects.update(status="unreachable")
    for agent_type, agent_id in (("code", "a0"), ("qa", "q1")):
        agent = Agent.objects.filter(agent_id=agent_id).first() or make_agent("qa", agent_id="q1")
        event = ScalingEvent.objects.create(
            pool_id=agent_type, at=agent.created_at, action="set", current_size=0, target_size=1
        )
        Launch.objects.create(
            event=event, agent=agent, driver="memory", status="failed", error="no room"
        )

    told = browser.get("/").content.decode()

    assert "3 more agents are unreachable" in told
    assert "Agents of code could not be started" in told
    assert "Agents of qa could not be started" in told
    assert "<dd>10</dd>" in " ".join(told.split()).replace("</svg> 10", "<dd>10")


def test_a_lease_is_shown_and_cancelled_in_words_for_people(browser, make_agent, submit):
    make_agent()
    held = submit(payload={"command": ["true"]}).held
    services.append_log(held, chunks=[("stdout", "a \x1b[1;31mred\x1b[0m \x1b]0;title\x07word")])

    log = browser.get(f"/leases/{held.id}").content.decode()
    asked = browser.get(f"/do/cancel-lease?lease={held.id}").content.decode()

    assert "a red word</span>" in log
    assert 'id="do-it">Cancel the lease</button>' in asked, "Cancel alone may mean: leave it"


@pytest.mark.parametrize("typed", [*NO_NUMBERS, "1e300", "-5", "99999999999999999999"])
def test_a_deadline_that_is_no_moment_is_refused(browser, make_agent, typed):
    agent = make_agent()

    answer = browser.post("/do/drain", {"agent": str(agent.id), "minutes": typed})

    assert answer.status_code == 409
    agent.refresh_from_db()
    assert (agent.status, agent.drain_by) == ("idle", None)


@pytest.mark.parametrize("typed", NO_NUMBERS)
def test_an_amount_that_is_no_number_is_refused(browser, typed):
    before = Pool.objects.get(agent_type="code").memory_mb

    answer = browser.post("/do/edit-pool", {"pool": "code", "memory_mb": typed})

    assert answer.status_code == 409
    assert "is no number" in answer.content.decode()
    assert Pool.objects.get(agent_type="code").memory_mb == before


def test_as_many_rows_as_a_page_shows_can_be_changed_at_once(browser, make_agent):
    ids = [str(make_agent().id), *(str(uuid4()) for _ in range(999))]
    form = {"agent": ids, "seen": [f"{id}=1" for id in ids]}

    answer = browser.post("/do/drain", form)

    assert answer.status_code in (200, 409)


def test_nul_in_a_note_is_left_out(browser, make_agent):
    agent = make_agent()

    answer = browser.post("/do/quarantine", {"agent": str(agent.id), "note": NUL})

    assert answer.status_code == 200
    assert Agent.objects.get(id=agent.id).health_note == "ab"


@pytest.mark.parametrize("path", ["/nope", "/agents/00000000-0000-0000-0000-000000000000"])
def test_a_path_that_leads_nowhere_is_a_page_for_people_and_json_for_programs(browser, path):
    page, told = browser.get(path, headers={"Accept": "text/html"}), browser.get(path)

    assert (page.status_code, told.status_code) == (404, 404)
    assert "There is nothing here" in page.content.decode()
    assert told.json()["code"] == "not_found"


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("/agents/", "/agents"),
        ("/queue/?project=p&search=a%2Fb", "/queue?project=p&search=a%2Fb"),
        (f"/requests/{UUID(int=1)}", f"/requests/{UUID(int=1)}/"),
        ("/admin", "/admin/"),
    ],
)
def test_a_slash_too_many_or_too_few_leads_to_the_page_that_was_meant(browser, typed, meant):
    answer = browser.get(typed, headers={"Accept": "text/html"})

    assert (answer.status_code, answer.headers.get("Location")) == (302, meant)


@pytest.mark.parametrize("path", ["/admin/nothing", "/admin/nothing/", "/admin/people", "/nope/"])
def test_nobody_is_led_in_a_circle(pools, path):
    client = Client()
    client.force_login(get_user_model().objects.create_user("vera", is_staff=True))

    answer = client.get(path, headers={"Accept": "text/html"}, follow=True)

    assert answer.status_code == 404


def test_who_may_look_only_is_told_so_on_a_page(pools):
    client = Client()
    client.force_login(get_user_model().objects.create_user("vera"))

    answer = client.get("/do/new-token")

    assert answer.status_code == 403
    assert "Only operators may change something here." in answer.content.decode()


def test_a_thousand_rows_are_asked_about_in_the_body(browser, make_agent):
    agent = make_agent()
    ids = [str(agent.id), *(str(uuid4()) for _ in range(999))]

    answer = browser.post("/do/drain", {"agent": ids, "ask": "1"})

    assert answer.status_code == 200
    assert "Nothing runs on" in answer.content.decode()
    agent.refresh_from_db()
    assert agent.status == "idle", "it was done, not asked about"


@pytest.mark.parametrize("method", ["get", "post"])
def test_what_is_meant_for_one_row_is_not_done_to_two(browser, method):
    before = list(Pool.objects.order_by("agent_type").values_list("generation", flat=True))

    answer = getattr(browser, method)("/do/edit-pool", {"pool": ["code", "qa"], "max_size": 9})

    assert answer.status_code == 400
    assert "one pool at a time, not 2" in answer.content.decode()
    after = list(Pool.objects.order_by("agent_type").values_list("generation", flat=True))
    assert after == before


@pytest.mark.parametrize("path", ["/do/drain", "/agents"])
def test_a_part_for_who_is_signed_out_leads_the_whole_page_to_the_sign_in(pools, path):
    shown = "http://testserver/agents?status=idle"
    asked = {"HX-Request": "true", "HX-Current-URL": shown}

    answer = Client().get(path, headers=asked)
    strange = Client().get(path, headers={**asked, "HX-Current-URL": "https://evil.example/x"})

    assert answer.headers["HX-Redirect"] == "/login?next=/agents%3Fstatus%3Didle"
    assert answer.content == b""
    assert strange.headers["HX-Redirect"] == "/login?next=/"
    assert Client().get(path).headers["Location"].startswith("/login?next=")


def test_a_form_without_its_token_is_answered_by_a_page_of_ours(pools):
    client = Client(enforce_csrf_checks=True)
    client.force_login(get_user_model().objects.create_superuser("olga"))

    answer = client.post("/do/drain", {"agent": "x"})

    assert answer.status_code == 403
    assert "Nothing was done" in answer.content.decode()
    assert "Load the page again" in answer.content.decode()


def test_a_number_is_never_told_in_the_words_of_the_language_below(browser):
    typed = {"scaling": "code", "seen": "code=new", "rule": "predictive", "headroom": "x"}

    told = html.unescape(browser.post("/do/scaling-policy", typed).content.decode())

    assert "'x' is no number" in told
    assert "could not convert" not in told


def test_one_of_a_thing_is_told_as_one(browser, make_agent, submit):
    make_agent()
    submit(project="shop")

    resources = browser.get("/resources").content.decode()
    dashboard = browser.get("/admin/").content.decode()

    assert "1 agent, 1 lease<" in resources
    assert "1 agent, 1 of 1 slot<" in resources
    assert '<span class="share">1 lease<' in resources
    assert "1 agent (1 busy)" in dashboard


def test_where_nothing_was_granted_no_wait_is_told(browser):
    collecting.collect()

    told = browser.get("/pool-metrics").content.decode()

    assert 'data-label="Wait" class="number">–' in told
    assert 'data-label="Work" class="number">–' in told


def test_a_request_of_a_pool_without_agents_says_so_instead_of_counting_none(browser, submit):
    wish = submit("data")

    told = browser.get(f"/requests/{wish.id}/").content.decode()

    assert "The pool has no agents" in told
    assert "avoid_agents" not in told


@pytest.mark.parametrize("page", ["/", "/resources", "/pool-metrics"])
def test_charts_that_leave_pools_out_say_so(browser, page):
    assert "6 pools with the most" not in browser.get(page).content.decode()
    for number in range(4):
        services.create_pool(f"more-{number}", fields={}, actor="t")
    collecting.collect()

    assert "6 pools with the most" in browser.get(page).content.decode()
