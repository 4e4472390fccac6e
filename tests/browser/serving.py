"""A real daphne and a real pulse on the test database, for tests that talk to them from outside."""

import os
import subprocess
import sys
import threading
import time
from urllib.parse import urlsplit

import pytest
from django.db import connection

from agentpool.host import ports, probes
from agentpool.host.probes import Site
from agentpool.live import pulse

START_S = 60


@pytest.fixture
def eventually():
    """Wait for a condition: eventually(lambda: rows.exists())."""
    return poll


def poll(look, *, timeout_s=10.0):
    """Return the first true answer of `look`; asserts that one comes in time."""
    deadline = time.monotonic() + timeout_s
    while not (found := look()):
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s; the last look: {found!r}"
        time.sleep(0.01)
    return found


class Web:
    """One daphne on the test database, at one address however often it is started again."""

    def __init__(self, *, log):
        self.port = ports.any_free()
        self.url = f"http://127.0.0.1:{self.port}"
        self._log = log
        self.process = None

    def start(self):
        argv = ("-m", "daphne", "-v", "0", "-b", "127.0.0.1", "-p", str(self.port))
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, *argv, "agentpool.asgi:application"],
                env=_environment(),
                stdout=log,
                stderr=log,
            )
        poll(self._is_up, timeout_s=START_S)

    def stop(self):
        """End it as kill -9 does: no goodbye to anybody."""
        self.process.kill()
        self.process.wait()

    @property
    def log(self):
        return self._log.read_text(errors="replace")

    def _is_up(self):
        assert self.process.poll() is None, self.log[-3000:]
        return probes.is_alive(Site(port=self.port))


def _environment():
    name = connection.settings_dict["NAME"]
    database = urlsplit(os.environ["DATABASE_URL"])._replace(path=f"/{name}")
    env = {**os.environ, "DATABASE_URL": database.geturl()}
    env.pop("DJANGO_ALLOW_ASYNC_UNSAFE", None)  # what the browser's tests need would hide a fault
    return env


@pytest.fixture(scope="session")
def web_process(django_db_setup, django_db_blocker, tmp_path_factory):
    """One for all modules: its start costs as much as ten tests that use it."""
    web = Web(log=tmp_path_factory.mktemp("web") / "daphne.log")
    web.start()
    yield web
    web.stop()


@pytest.fixture(scope="module")
def pulse_thread(django_db_setup):
    """The relay alone: a job that runs by itself would surprise a test."""
    stop = threading.Event()
    thread = threading.Thread(
        target=pulse.run, kwargs={"enqueue": lambda job: None, "stopping": stop.is_set}
    )
    thread.start()
    yield thread
    stop.set()
    thread.join()


@pytest.fixture
def web(transactional_db, web_process, pulse_thread):
    """The server; asserts afterwards that nothing went wrong inside of it."""
    _go_on_counting()
    said = len(web_process.log)
    yield web_process
    _note_count()
    assert "Traceback" not in web_process.log[said:], web_process.log[said:][-3000:]


# Tables are emptied after each test, but a stream's numbers only grow: listeners live longer.
_count = {"last_seq": 0}


def _go_on_counting():
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO relay_state (id, last_seq) VALUES (1, %s)"
            " ON CONFLICT (id) DO UPDATE SET last_seq = greatest(relay_state.last_seq, %s)",
            [_count["last_seq"]] * 2,
        )


def _note_count():
    with connection.cursor() as cursor:
        cursor.execute("SELECT last_seq FROM relay_state")
        _count["last_seq"] = cursor.fetchone()[0] + 1000
