"""The relay plans its statement once a connection: it must stay good when the table has grown."""

import pytest
from django.db import connection

from agentpool.live.connect import connect
from agentpool.live.relay import Relay

pytestmark = pytest.mark.django_db(transaction=True)

_READ = "SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_xact_user_tables WHERE relname = 'event'"


def _append(count):
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO event (kind, detail) SELECT 'test', '{}' FROM generate_series(1, %s)",
            [count],
        )


def test_a_step_planned_on_an_empty_table_reads_only_what_is_new(whole):
    with connection.cursor() as cursor:
        cursor.execute("VACUUM ANALYZE event")
    with connect() as own:
        relay = Relay(own)
        for _ in range(7):  # as often as it takes until the server keeps a plan
            _append(1)
            assert relay.step() == 1
        _append(900)
        assert relay.step() == 900

        _append(10)
        with own.transaction():
            before = own.execute(_READ).fetchone()[0]
            assert relay.step() == 10
            read = own.execute(_READ).fetchone()[0] - before

    assert read < 40, read
