"""The tables are empty after each test, even when a server of the test is still at work."""

import threading

import pytest
from django.core.management import call_command
from django.core.management.color import no_style
from django.core.management.sql import sql_flush
from django.db import connection

from agentpool.live.connect import connect
from agentpool.live.relay import Relay
from agentpool.registry import events
from agentpool.registry.models import EventNumber, Pool, SecurityProfile
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


def test_what_a_relay_numbers_meanwhile_is_emptied_as_well(pools, eventually):
    with connect() as own:
        relay = Relay(own)
        events.append("test")
        with own.transaction():
            assert relay.step() > 0  # it keeps the relay's lock
            emptying = threading.Thread(target=_empty)
            emptying.start()
            eventually(somebody_waits)
            events.append("test")
            assert relay.step() == 1
        emptying.join(timeout=20)
        assert not emptying.is_alive()

        assert not EventNumber.objects.exists()
        events.append("test")
        assert relay.step() == 1


def _place_in_the_flush(table):
    return "; ".join(sql_flush(no_style(), connection)).index(f'DELETE FROM "{table}"')


def _empty():
    call_command("flush", interactive=False, verbosity=0, inhibit_post_migrate=True)
    connection.close()
