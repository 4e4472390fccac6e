"""The tables are empty after each test, even when a server of the test is still at work."""

import threading

import pytest
from django.core.management import call_command
from django.core.management.color import no_style
from django.core.management.sql import sql_flush
from django.db import connection

from agentpool.registry.models import Pool, SecurityProfile
from tests.locks import somebody_waits

pytest_plugins = ["tests.browser.serving"]
pytestmark = pytest.mark.django_db(transaction=True)


def test_a_writer_that_wants_the_rows_the_other_way_does_not_keep_tables_full(pools, eventually):
    first, last = sorted(("pool", "security_profile"), key=_place_in_the_flush)
    other = connection.copy()
    with other.cursor() as writer:
        writer.execute("SET deadlock_timeout = '60s'")  # it is the other one who gives way
        writer.execute("BEGIN")
        writer.execute(f"SELECT 1 FROM {last} FOR UPDATE")
        emptying = threading.Thread(target=_empty)
        emptying.start()
        eventually(somebody_waits)
        writer.execute(f"SELECT 1 FROM {first} FOR UPDATE")  # now each waits for the other
        writer.execute("COMMIT")
    other.close()
    emptying.join(timeout=20)
    assert not emptying.is_alive()
    assert (Pool.objects.count(), SecurityProfile.objects.count()) == (0, 0)


def _place_in_the_flush(table):
    return "; ".join(sql_flush(no_style(), connection)).index(f'DELETE FROM "{table}"')


def _empty():
    call_command("flush", interactive=False, verbosity=0, inhibit_post_migrate=True)
    connection.close()
