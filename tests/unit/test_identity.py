"""Ids that grow with time, from Python and from the database."""

import time

import pytest
from django.db import connection

from agentpool.registry.identity import time_ordered


def _of_the_database():
    with connection.cursor() as cursor:
        cursor.execute("SELECT new_id_1()")
        return cursor.fetchone()[0]


@pytest.mark.django_db
@pytest.mark.parametrize("make", [time_ordered, _of_the_database])
def test_an_id_is_a_uuid_of_version_7_that_says_when_it_was_made(make):
    found = [make() for _ in range(50)]

    assert {(each.version, each.variant) for each in found} == {(7, "specified in RFC 4122")}
    assert all(abs((each.int >> 80) / 1000 - time.time()) < 60 for each in found)
    assert len({each.int & (1 << 62) - 1 for each in found}) == 50
    assert [each.int >> 80 for each in found] == sorted(each.int >> 80 for each in found)
