"""The admin's pages of pools and limits: what they change goes through the services."""

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth import get_user_model
from django.forms.models import model_to_dict
from django.test import Client

from agentpool.registry import services
from agentpool.registry.models import Event, Pool, ResourceLimit, SecurityProfile
from balancing.services import limits
from tests.integration.test_deadlines_and_priorities import limit

pytestmark = pytest.mark.django_db(transaction=True)
WHOLE = dict.fromkeys(("memory_mb", "cpu_cores", "token_budget", "disk_space_mb"))


@pytest.fixture
def staff(pools):
    client = Client()
    client.force_login(get_user_model().objects.get(username="admin"))
    return client


def form_of(pool, **changes):
    values = {**model_to_dict(pool), **changes}
    lists = ("tools", "capabilities", "secrets", "isolation_levels")
    values |= {name: ",".join(map(str, values[name])) for name in lists}
    return {name: value for name, value in values.items() if value is not None}


def test_a_strategy_is_switched_with_version_and_event(staff):
    pool = Pool.objects.get(agent_type="code")

    answer = staff.post(
        f"/admin/registry/pool/{pool.pk}/change/", form_of(pool, strategy="bin_pack")
    )

    after = Pool.objects.get(agent_type="code")
    assert answer.status_code == 302, answer.content
    assert (after.strategy, after.generation) == ("bin_pack", pool.generation + 1)
    assert "strategy" in Event.objects.get(kind="pool.updated").detail["fields"]


def test_what_is_emptied_is_never_done(staff):
    pool = Pool.objects.get(agent_type="code")
    SecurityProfile.objects.filter(pool=pool).update(quarantine_after=3)
    profile = model_to_dict(SecurityProfile.objects.get(pool=pool))
    lists = ("allowed_tools", "allowed_hosts", "writable")
    profile |= {name: ",".join(profile[name]) for name in lists}

    changed = staff.post(
        f"/admin/registry/pool/{pool.pk}/change/", form_of(pool, suspicion_quarantine=None)
    )
    said = staff.post(
        "/admin/registry/securityprofile/code/change/", {**profile, "quarantine_after": ""}
    )

    assert (changed.status_code, said.status_code) == (302, 302), said.content
    assert Pool.objects.get(agent_type="code").suspicion_quarantine is None
    assert SecurityProfile.objects.get(pool=pool).quarantine_after is None


def test_a_new_pool_gets_its_profile(staff):
    pool = Pool(agent_type="docs")

    answer = staff.post("/admin/registry/pool/add/", form_of(pool))

    assert answer.status_code == 302, answer.content
    assert SecurityProfile.objects.filter(pool_id="docs").exists()


def test_limits_are_shown_with_the_way_to_set_them(staff):
    limits.set_limit(
        {"level": "project", "name": "shop", "weight": 1, **WHOLE, "memory_mb": 4096},
        actor="test",
    )

    page = staff.get("/admin/registry/resourcelimit/").content.decode()

    assert "0 MB of 4 GB" in page
    assert "agentpool limits set" in page


def test_what_rest_refuses_is_an_error_at_the_field(staff):
    pool = Pool.objects.get(agent_type="code")

    answer = staff.post(
        f"/admin/registry/pool/{pool.pk}/change/",
        form_of(pool, min_size=30, share_half_life_s=0.5),
    )

    errors = answer.context["adminform"].form.errors
    assert answer.status_code == 200
    assert "share_half_life_s" in errors
    after = Pool.objects.get(agent_type="code")
    assert after.generation == pool.generation
    low = staff.post(f"/admin/registry/pool/{pool.pk}/change/", form_of(pool, min_size=30))
    assert "min_size" in low.context["adminform"].form.errors


def test_a_pool_that_somebody_else_changed_is_not_written_over(staff):
    pool = Pool.objects.get(agent_type="code")
    form = form_of(pool, strategy="bin_pack", seen_generation=pool.generation)
    services.update_pool("code", fields={"max_size": 7}, if_generation=None, actor="user:omar")

    answer = staff.post(f"/admin/registry/pool/{pool.pk}/change/", form)

    assert "Somebody else changed this pool" in answer.content.decode()
    after = Pool.objects.get(agent_type="code")
    assert (after.strategy, after.max_size) == (pool.strategy, 7)


def test_a_profile_is_changed_with_version_and_event(staff):
    profile = SecurityProfile.objects.get(pool_id="code")
    form = {
        "allowed_tools": "read,write",
        "network_access": profile.network_access,
        "file_access": profile.file_access,
        "memory_mb": 4096,
        "cpu_cores": 3,
        "seen_version": profile.version,
    }

    answer = staff.post("/admin/registry/securityprofile/code/change/", form)

    after = SecurityProfile.objects.get(pool_id="code")
    assert answer.status_code == 302, answer.context["errors"]
    assert (after.allowed_tools, after.memory_mb) == (["read", "write"], 4096)
    assert after.version == profile.version + 1
    assert Event.objects.get(kind="profile.updated").actor == "user:admin"
    again = staff.post("/admin/registry/securityprofile/code/change/", form)
    assert "Somebody else changed this profile" in again.content.decode()


def test_a_limit_is_made_and_changed_and_waiters_are_served(staff, make_agent, submit, whole):
    make_agent("code")
    shop = {"level": "project", "name": "shop", "weight": "1"}
    add = "/admin/registry/resourcelimit/add/"

    answer = staff.post(add, {**shop, "memory_mb": "512"})
    row = ResourceLimit.objects.get(name="shop")
    waiting = submit("code", project="shop", memory_mb=1024, allow_future=True)
    assert answer.status_code == 302, answer.content
    assert waiting.held is None
    change = f"/admin/registry/resourcelimit/{row.pk}/change/"
    staff.post(change, {"weight": "2", "memory_mb": "4096", "seen_generation": row.generation})

    row.refresh_from_db()
    waiting.refresh_from_db()
    assert (row.weight, row.memory_mb) == (2, 4096)
    assert waiting.status == "granted", "whoever waits is served after the change"
    history = staff.get(f"/admin/registry/resourcelimit/{row.pk}/history/")
    assert [line.what for line in history.context["lines"]].count("limit.set") == 2


def test_a_limit_is_removed_and_who_waited_for_it_is_served(staff, make_agent, submit, whole):
    make_agent("code")
    row = limits.set_limit(limit(name="shop", memory_mb=512), actor="t")
    waiting = submit("code", project="shop", memory_mb=1024, allow_future=True)
    page = f"/admin/registry/resourcelimit/{row.pk}/delete/"

    asked = staff.get(page)
    answer = staff.post(page, {"post": "yes"})

    waiting.refresh_from_db()
    assert "project shop" in asked.content.decode()
    assert (answer.status_code, waiting.status) == (302, "granted")
    assert not ResourceLimit.objects.exists()
    gone = Event.objects.get(kind="limit.removed")
    assert (gone.actor, gone.detail["name"]) == ("user:admin", "shop")
    assert LogEntry.objects.get().is_deletion()


@pytest.mark.parametrize(
    ("said", "field"),
    [
        ({"level": "pool", "name": "nowhere"}, "name"),
        ({"level": "installation", "name": "shop"}, "name"),
        (
            {"level": "project", "name": "shop", "min_memory_mb": 9, "max_memory_mb": 8},
            "min_memory_mb",
        ),
        ({"level": "project", "name": "shop", "weight": "0"}, "weight"),
    ],
)
def test_a_wrong_limit_is_an_error_at_its_field(staff, said, field):
    answer = staff.post("/admin/registry/resourcelimit/add/", {"weight": "1", **said})

    assert answer.status_code == 200
    assert field in answer.context["adminform"].form.errors
    assert not ResourceLimit.objects.exists()


def test_the_form_of_a_new_pool_shows_nothing_that_is_not_there_yet(staff):
    page = staff.get("/admin/registry/pool/add/").content.decode()

    assert "DatabaseDefault" not in page
    assert "Measured" not in page
