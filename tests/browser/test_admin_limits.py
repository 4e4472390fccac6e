"""The admin's pages of pools and limits: what they change goes through the services."""

import pytest
from django.contrib.auth import get_user_model
from django.forms.models import model_to_dict
from django.test import Client

from agentpool.registry.models import Event, Pool, SecurityProfile
from balancing.services import limits

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

    assert "0 of 4 GB" in page
    assert "agentpool limits set" in page
