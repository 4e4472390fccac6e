"""A pulse that is killed in mid-stream: another one goes on where it stopped."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time

import httpx
import psutil
import pytest
from django.db import connection

from tests.integration.stream_talk import bearer, dial, events_of, hear, tell

pytest_plugins = ["tests.browser.serving", "tests.integration.gateway_lines"]
pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def two_pulses(transactional_db, tmp_path):
    """Two real pulses, of which one leads."""
    from tests.browser import serving

    with (tmp_path / "pulse.log").open("wb") as log:
        argv = [sys.executable, "-m", "django", "pulse"]
        env = {**serving._environment(), "DJANGO_SETTINGS_MODULE": "agentpool.settings"}
        both = [subprocess.Popen(argv, env=env, stdout=log, stderr=log) for _ in range(2)]
        yield both
        for process in both:
            process.kill()
            process.wait()


def leader():
    """The process that leads, told by the port of its connection."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT client_port FROM pg_stat_activity a JOIN pg_locks l ON l.pid = a.pid"
            " WHERE l.locktype = 'advisory' AND l.granted AND a.datname = current_database()"
            " AND application_name = 'agentpool live'"
        )
        ports = {row[0] for row in cursor.fetchall()}
    for process in psutil.process_iter(["pid", "cmdline"]):
        if "pulse" in (process.info["cmdline"] or []):
            with contextlib.suppress(psutil.Error):
                if any(c.laddr.port in ports for c in process.net_connections("tcp") if c.laddr):
                    return process.pid
    return None


@pytest.mark.kill
def test_a_pulse_killed_in_mid_stream_loses_and_doubles_nothing(
    transactional_db, web_process, two_pulses, token_of, eventually
):
    first = eventually(leader, timeout_s=60)
    many = 600
    with dial(web_process, **bearer(token_of("viewer"))) as socket:
        assert hear(socket)["ready"]
        killer = threading.Timer(0.7, os.kill, (first, signal.SIGKILL))
        killer.start()
        for number in range(many):
            tell(number)
            time.sleep(0.002)
        found = events_of(socket, many, 20)
        killer.join()

    assert [event["detail"]["n"] for event in found] == list(range(many))
    numbers = [event["seq"] for event in found]
    assert numbers == list(range(numbers[0], numbers[0] + many))
    assert eventually(leader, timeout_s=20) != first
    assert httpx.get(f"{web_process.url}/healthz", timeout=5).status_code == 200
