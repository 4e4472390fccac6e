"""Every page of the admin opens, with rows in it, for each group of people."""

import re
from dataclasses import fields
from datetime import timedelta

import pytest
from django.contrib import admin
from django.contrib.auth import get_user_model
from django.test import Client
from django.urls import reverse

from agentpool.registry import collecting, metrics, roles
from agentpool.registry import queries as registry_queries
from agentpool.registry import services as registry_services
from agentpool.registry.admin import dashboard
from agentpool.registry.models import (
    Agent,
    Credential,
    Event,
    Lease,
    LeaseOutcome,
    OptimizerPolicy,
    Pool,
    PoolSample,
    RebalancePolicy,
    Request,
)
from agentpool.registry.states import Outcome
from balancing import rebalancing
from balancing.services import leases
from scaling import evaluation, governance, troubles
from scaling import services as scaling

WHOLE = dict.fromkeys(("memory_mb", "cpu_cores", "token_budget", "disk_space_mb"))


@pytest.fixture
def rows(make_agent, submit):
    """At least one row in most of the tables."""
    make_agent("code")
    wish = submit("code", payload={"command": ["true"], "env": {"KEY": "hunter2"}})
    registry_services.append_log(wish.held, chunks=[("stdout", "hello\n")])
    submit("code", lock_keys=["repo:main"])
    leases.release(
        wish.held.id, token=wish.held.fencing_token, outcome=Outcome.SUCCESS, actor="test"
    )
    collecting.collect()
    scaling.execute("qa", action="scale_up", count=1, reason="a test", actor="test")
    governance.set_policy("code", rule="warm", settings={"k": 1}, actor="test")
    soon = registry_queries.now()
    governance.announce("code", at=soon, count=3, spread_s=60, name="nightly", actor="test")
    evaluation.evaluate()


@pytest.fixture
def sign_in(pools):
    """A browser of a new person of a group: sign_in("viewer"); None: of no group."""

    def make(group):
        roles.settle()
        if group is None:
            user = get_user_model().objects.create_user("nobody")
        else:
            roles.make_user(f"the-{group}", group=group)
            user = get_user_model().objects.get(username=f"the-{group}")
        client = Client()
        client.force_login(user)
        return client

    return make


@pytest.fixture
def staff(pools):
    client = Client()
    client.force_login(get_user_model().objects.get(username="admin"))
    return client


def list_of(model):
    return reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist")


def ours():
    return [model for model in admin.site._registry if model._meta.app_label == "registry"]


@pytest.mark.slow
def test_every_list_and_its_first_row_and_history_open(staff, rows, subtests):
    for model, page in admin.site._registry.items():
        address = list_of(model)
        with subtests.test(model._meta.label):
            answer = staff.get(address, {"q": "x"} if page.search_fields else {})
            assert answer.status_code == 200
            row = page.get_queryset(answer.wsgi_request).first()
            if row is not None:
                assert staff.get(f"{address}{row.pk}/change/").status_code == 200
                assert staff.get(f"{address}{row.pk}/history/").status_code == 200


@pytest.mark.slow
def test_every_filter_of_every_list_can_be_used(staff, rows, subtests):
    for model in ours():
        page = staff.get(list_of(model)).context["cl"]
        for spec in page.filter_specs:
            for name in spec.expected_parameters():
                with subtests.test(f"{model._meta.label} {name}"):
                    value = {"at": "2026-01-01"}.get(name, "yes" if name == "live" else "works")
                    answer = staff.get(list_of(model), {name: value})
                    assert answer.status_code in (200, 302)


def test_the_links_from_a_row_lead_to_rows(staff, rows):
    agent = Agent.objects.get(pool_id="code")
    page = staff.get(f"{list_of(Agent)}{agent.pk}/change/").content.decode()
    for query in (f"lease/?agent={agent.pk}", f"request/?leases__agent={agent.pk}"):
        assert query in page
        answer = staff.get(f"/admin/registry/{query}")
        assert answer.status_code == 200
        assert answer.context["cl"].result_count == 2


@pytest.mark.parametrize(
    ("page", "made", "rules"),
    [
        ("rebalancepolicy", RebalancePolicy, rebalancing.Rules),
        ("optimizerpolicy", OptimizerPolicy, troubles.Rules),
    ],
)
def test_a_policy_leads_to_the_form_that_asks_for_all_it_can_set(staff, rows, page, made, rules):
    made.objects.get_or_create(pool_id="code")

    text = staff.get(f"/admin/registry/{page}/").content.decode()
    form = re.search(r'href="([^"]*-policy\?[^"]*=code)"', text)

    assert form is not None
    typed = staff.get(form[1]).content.decode()
    assert all(f'name="{each.name}"' in typed for each in fields(rules))


def test_the_index_groups_pages_by_the_app_that_acts(staff, rows):
    answer = staff.get("/admin/")
    groups = {
        app["app_label"]: {page["object_name"] for page in app["models"]}
        for app in answer.context["app_list"]
    }

    assert {"Agent", "Request", "Lease", "ResourceLimit", "Share"} <= groups["balancing"]
    assert groups["scaling"] == {
        "Announcement",
        "Launch",
        "Optimization",
        "OptimizerPolicy",
        "ScalingDecision",
        "ScalingEvent",
        "ScalingPolicy",
    }
    assert {"Pool", "SecurityProfile", "Credential", "Event", "PoolSample"} <= groups["registry"]
    for section in groups:
        assert staff.get(f"/admin/{section}/").status_code == 200


def test_the_dashboard_counts_and_names_what_needs_a_person(staff, rows, make_agent):
    Agent.objects.filter(agent_id=make_agent("qa").agent_id).update(health="quarantined")

    answer = staff.get("/admin/")

    strip = {number["name"]: number["value"] for number in answer.context["strip"]}
    assert strip["Agents"] == 3
    assert strip["Busy"] == 1
    assert strip["In trouble"] == 1
    assert [need["count"] for need in answer.context["needs"]] == [1]
    for number in answer.context["strip"] + answer.context["needs"]:
        assert staff.get(number["link"]).status_code == 200


@pytest.mark.parametrize("group", ["viewer", "operator"])
def test_everybody_in_a_group_sees_every_table(sign_in, rows, group):
    client = sign_in(group)

    assert client.get("/admin/").status_code == 200
    assert [m._meta.label for m in ours() if client.get(list_of(m)).status_code != 200] == []


def test_a_viewer_sees_no_secret_no_action_and_no_form(sign_in, rows):
    client = sign_in("viewer")
    request = Request.objects.filter(payload__isnull=False).get()
    agent, pool = Agent.objects.get(pool_id="code"), Pool.objects.get(agent_type="code")

    assert "hunter2" not in client.get(f"{list_of(Request)}{request.pk}/change/").content.decode()
    assert 'name="action"' not in client.get(list_of(Agent)).content.decode()
    shown = client.get(f"{list_of(Agent)}{agent.pk}/change/")
    assert "/drain/" not in shown.content.decode()
    page = client.get(f"{list_of(Pool)}{pool.pk}/change/").content.decode()
    assert 'name="_save"' not in page
    assert client.get(f"{list_of(Pool)}add/").status_code == 403
    assert client.get(f"{list_of(Credential)}add/").status_code == 403
    for table in (OptimizerPolicy, RebalancePolicy):
        policy, address = table.objects.create(pool_id="data"), list_of(table)
        assert "on the console" not in client.get(address).content.decode()
        assert "on the console" not in client.get(f"{address}{policy.pk}/change/").content.decode()


@pytest.mark.parametrize("lookup", ["payload__env__KEY__startswith", "result__isnull"])
def test_what_a_viewer_may_not_see_cannot_be_found_out_by_narrowing_a_list(sign_in, rows, lookup):
    viewer, page = sign_in("viewer"), reverse("admin:registry_request_changelist")

    answers = {viewer.get(f"{page}?{lookup}={word}").status_code for word in ("h", "1")}

    assert answers == {400}


def test_the_dashboard_draws_the_mean_wait_of_grants_and_not_of_quiet_stretches(pools):
    begin = metrics.begin_of(registry_queries.now(), 300)
    for place, (granted, waited_s) in enumerate([(1, 60.0), (0, 0.0), (3, 0.0)]):
        at = begin + timedelta(seconds=30 * place)
        sums = {"granted": granted, "wait_sum_s": waited_s}
        means = {"average_wait_time_s": waited_s / max(1, granted)}
        PoolSample.objects.create(pool_id="code", at=at, slots=2, **sums, **means)

    (_, wait) = dashboard.dashboard(None, {})["charts"]

    assert wait["words"] == "code 15 s"


def test_an_outcome_is_shown_for_longer_than_its_lease(staff, rows):
    outcome = LeaseOutcome.objects.get()
    Lease.objects.filter(pk=outcome.lease_id).delete()

    page = staff.get("/admin/registry/leaseoutcome/").content.decode()
    own = staff.get(f"/admin/registry/leaseoutcome/{outcome.pk}/change/")

    assert "no longer kept" in page
    assert own.status_code == 200


def test_a_viewer_is_refused_what_only_operators_may(sign_in, rows):
    client = sign_in("viewer")
    agent, pool = Agent.objects.get(pool_id="code"), Pool.objects.get(agent_type="code")

    for path in (f"{list_of(Agent)}{agent.pk}/drain/", "/admin/registry/agent/check-health/"):
        assert client.get(path).status_code == 403
        assert client.post(path, {"apply": 1, "seen": ""}).status_code == 403
    client.post(list_of(Agent), {"action": "drain", "_selected_action": agent.pk, "apply": 1})
    client.post(f"{list_of(Pool)}{pool.pk}/change/", {"strategy": "bin_pack"})
    after = Pool.objects.get(agent_type="code")
    assert Agent.objects.get(pk=agent.pk).status == agent.status
    assert (after.strategy, after.generation) == (pool.strategy, pool.generation)


def test_an_operator_sees_what_the_work_runs_and_may_act(sign_in, rows):
    client = sign_in("operator")
    request = Request.objects.filter(payload__isnull=False).get()

    assert "hunter2" in client.get(f"{list_of(Request)}{request.pk}/change/").content.decode()
    assert 'name="action"' in client.get(list_of(Agent)).content.decode()
    assert client.get(f"{list_of(Pool)}add/").status_code == 200
    assert client.get("/admin/auth/user/").status_code == 403


def test_an_admin_manages_people_but_makes_no_superuser(sign_in, rows):
    client = sign_in("admin")
    made = {"username": "ada", "password1": "correct-horse-9", "password2": "correct-horse-9"}
    group = roles.Group.objects.get(name="viewer")

    answer = client.post("/admin/auth/user/add/", {**made, "groups": [group.pk]})

    ada = get_user_model().objects.get(username="ada")
    assert answer.status_code == 302
    assert ada.is_staff
    assert {g.name for g in ada.groups.all()} == {"viewer"}
    changed = {"username": "ada", "is_active": "on", "is_superuser": "on", "groups": [group.pk]}
    client.post(f"/admin/auth/user/{ada.pk}/change/", changed)
    ada.refresh_from_db()
    assert not ada.is_superuser
    boss = get_user_model().objects.get(username="admin", is_superuser=True)
    page = client.get(f"/admin/auth/user/{boss.pk}/change/").content.decode()
    assert 'name="_save"' not in page
    assert client.get(f"/admin/auth/user/{boss.pk}/password/").status_code == 403


@pytest.mark.parametrize("model", ["schedule", "success", "failure", "ormq"])
def test_nobody_but_a_superuser_changes_jobs(sign_in, rows, model):
    client = sign_in("admin")

    page = client.get(f"/admin/django_q/{model}/")

    assert page.status_code == 200
    assert 'name="action"' not in page.content.decode()
    assert client.get(f"/admin/django_q/{model}/add/").status_code == 403


def test_a_person_of_no_group_is_sent_to_log_in(sign_in, rows):
    assert sign_in(None).get("/admin/").status_code == 302


@pytest.mark.parametrize(
    "address",
    ["agent/?status__exact=a%00b", "event/?subject=%00", "tick/%00/change/", "tick/%00/history/"],
)
def test_an_address_with_nul_is_a_bad_request(staff, address):
    assert staff.get(f"/admin/registry/{address}").status_code == 400


@pytest.mark.parametrize("day", ["0001-01-01", "9999-12-31", "99999-01-01", "-1", "294277-01-01"])
@pytest.mark.parametrize("end", ["from", "to"])
def test_a_date_beyond_all_years_is_no_fault_of_the_servers(staff, day, end):
    found = {}
    for path, column in (("event", "at"), ("lease", "acquired_at"), ("request", "created_at")):
        answer = staff.get(
            f"/admin/registry/{path}/",
            {f"{column}_{end}_0": day, f"{column}_{end}_1": "00:00:00"},
            follow=True,
        )
        by_lookup = staff.get(f"/admin/registry/{path}/", {f"{column}__gte": day}, follow=True)
        found[path] = (answer.status_code, by_lookup.status_code)

    assert set(found.values()) == {(200, 200)}


@pytest.mark.parametrize(
    "lookup",
    [
        "created_at__year=99999",
        "created_at__year=-1",
        "created_at__year=99999999999999999999",
        "created_at__lt=9999-12-31T23:59:59-23:59",
        "agent_id__regex=(",
        "agent_id__range=a",
    ],
)
def test_a_lookup_that_nothing_can_answer_is_a_bad_request(staff, lookup):
    assert staff.get(f"/admin/registry/agent/?{lookup}").status_code == 400


def test_a_list_is_narrowed_to_days_and_moments(staff, rows):
    def shown(**said):
        answer = staff.get("/admin/registry/event/", said)
        return len(answer.context["cl"].result_list)

    day = registry_queries.now().date().isoformat()

    assert shown(at_from_0=day, at_to_0=day) == Event.objects.count()
    assert shown(at_from_0=day, at_from_1="23:59:59") == 0
    assert shown(at_to_0="2001-01-01", at_to_1="10:00:00") == 0
    assert shown(at_from_0="yesterday", at_from_1="noon") == Event.objects.count()


def test_a_page_says_in_which_section_it_stands(staff, rows):
    agent = Agent.objects.first()
    for path, section in {
        "/admin/registry/agent/": "Work and who does it",
        f"/admin/registry/agent/{agent.pk}/change/": "Work and who does it",
        "/admin/registry/pool/": "Pools and facts",
        "/admin/registry/launch/": "How many agents",
    }.items():
        page = staff.get(path).content.decode()
        crumbs = page[page.index('aria-label="Where you are"') :].split("</nav>")[0]
        assert section in crumbs
        assert "Registry" not in page


def test_no_two_pools_are_drawn_alike_on_the_dashboard():
    lines = [dashboard._line(number, "a", {}, []) for number in range(12)]

    assert len({(line["borderColor"], *line["borderDash"]) for line in lines}) == 12
