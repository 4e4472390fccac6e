"""The connections of the pulse and the listener, beside Django's."""

import os
import socket

import pytest

from agentpool.live.connect import connect

pytestmark = pytest.mark.django_db(transaction=True)


def test_a_machine_that_vanished_is_noticed_by_both_sides_in_less_than_a_minute():
    with connect() as connection:
        names = ("idle", "interval", "count")
        theirs = [_shown(connection, f"tcp_keepalives_{name}") for name in names]
        with socket.socket(fileno=os.dup(connection.pgconn.socket)) as ours:
            options = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
            mine = [ours.getsockopt(socket.IPPROTO_TCP, option) for option in options]
        unheard_ms = _shown(connection, "tcp_user_timeout")

    for idle, interval, count in (theirs, mine):
        assert 0 < idle + interval * count < 60
    assert 0 < unheard_ms < 60_000


def _shown(connection, name):
    (row,) = connection.execute("SELECT setting FROM pg_settings WHERE name = %s", [name])
    return int(row[0])
