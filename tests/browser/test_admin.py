"""Every page of the admin that lists rows opens, with rows in it."""

import pytest
from django.contrib import admin
from django.contrib.auth import get_user_model
from django.test import Client
from django.urls import reverse

from agentpool.registry import services as registry_services
from agentpool.registry.states import Outcome
from balancing.services import leases


@pytest.fixture
def rows(make_agent, submit):
    """At least one row in most of the tables."""
    make_agent("code")
    wish = submit("code", payload={"command": ["true"]})
    registry_services.append_log(wish.held, chunks=[("stdout", "hello\n")])
    submit("code")
    leases.release(
        wish.held.id, token=wish.held.fencing_token, outcome=Outcome.SUCCESS, actor="test"
    )


@pytest.fixture
def staff(pools):
    client = Client()
    client.force_login(get_user_model().objects.get(username="admin"))
    return client


def test_the_index_opens(staff, rows):
    assert staff.get("/admin/").status_code == 200


def test_every_list_and_its_first_row_open(staff, rows, subtests):
    for model, page in admin.site._registry.items():
        address = reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist")
        with subtests.test(model._meta.label):
            assert staff.get(address).status_code == 200
            assert staff.get(address, {"q": "x"}).status_code == 200
            row = page.get_queryset(staff.get(address).wsgi_request).first()
            if row is not None:
                assert staff.get(f"{address}{row.pk}/change/").status_code == 200


def test_a_person_who_is_no_staff_is_sent_to_log_in(client, pools):
    client.force_login(get_user_model().objects.create_user("ada"))

    assert client.get("/admin/").status_code == 302
