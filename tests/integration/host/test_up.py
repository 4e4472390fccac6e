"""`agentpool up` with everything real: the first start, a stop, and what dies in between."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from agentpool.client import Client
from agentpool.host import lock, ports, postgres, probes
from agentpool.host.installation import Installation, code_folder, make_home
from agentpool.host.probes import Site
from tests import prepared

MAIN = "from agentpool.cli.up import up; up()"
START_S = 60
pytestmark = [pytest.mark.slow, pytest.mark.kill]


class Run:
    """One `agentpool up` in a process of its own, and what it printed."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.shown = ""
        self.process = subprocess.Popen(
            [sys.executable, "-c", MAIN, "--port", str(site.port)],
            env=os.environ
            | {"PYTHONPATH": str(code_folder())}
            | {"AGENTPOOL_STALE_S": "3", "AGENTPOOL_CANARY_EVERY_S": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout
        with self.process.stdout as pipe:
            for line in pipe:
                self.shown += line

    def is_ready(self) -> bool:
        return self.process.poll() is None and probes.readiness(self.site).is_ok

    def end(self, sent: signal.Signals) -> int:
        self.process.send_signal(sent)
        return self.wait()

    def wait(self) -> int:
        code = self.process.wait(timeout=15)
        self._reader.join(timeout=5)
        return code


@pytest.fixture
def start(home: Installation) -> Iterator[Callable[..., Run]]:
    """Start an `up` on a port of its own; all are killed, with their children, at the end."""
    site = Site(port=ports.any_free())
    runs: list[Run] = []

    def start_one(site: Site = site) -> Run:
        runs.append(Run(site))
        return runs[-1]

    yield start_one
    for run in runs:
        run.process.kill()
        run.wait()
    for process in _children_of(home):
        process.kill()


@pytest.fixture
def migrated(home: Installation) -> Installation:
    """An installation whose first start has its database, and only furnishes it."""
    prepared.lay(home)
    return home


def test_the_first_start_answers_and_ctrl_c_leaves_nothing_behind(
    home: Installation, start: Callable[[], Run]
) -> None:
    run = start()
    _wait(run.is_ready, run=run)
    assert len(_children_of(home)) >= 3

    began = time.monotonic()
    code = run.end(signal.SIGINT)

    assert (code, time.monotonic() - began < 10) == (0, True), run.shown
    assert _children_of(home) == []
    assert not postgres.status(home).is_running
    assert f"agentpool is at {run.site.url}" in run.shown
    assert re.search(r"sign in as \S+ with the password \S+", run.shown)
    assert (home.home / "config.toml").stat().st_mode & 0o777 == 0o600
    assert "password" not in (home.log_folder / "up.log").read_text()


def test_a_second_up_on_the_same_data_names_the_first(home: Installation) -> None:
    make_home(home)

    with lock.hold(home.run_folder / "up.lock", wait_s=0, note={"url": "http://first"}):
        run = Run(Site(port=ports.any_free()))
        code = run.wait()

    assert code == 1
    assert f"already running at http://first (pid {os.getpid()})" in run.shown
    assert "Traceback" not in run.shown


@pytest.mark.usefixtures("home")
def test_a_taken_port_is_named_with_the_way_out() -> None:
    port = ports.any_free()
    with socket.create_server(("127.0.0.1", port)):
        run = Run(Site(port=port))
        code = run.wait()

    assert code == 1
    assert f"Port {port} on 127.0.0.1 cannot be used" in run.shown
    assert "--port" in run.shown


def test_a_killed_up_is_replaced_by_the_next_also_at_another_port(
    migrated: Installation, start: Callable[..., Run]
) -> None:
    first = start()
    _wait(first.is_ready, run=first)
    first.end(signal.SIGKILL)

    second = start(Site(port=ports.any_free()))

    _wait(second.is_ready, run=second)
    with Client() as client:
        assert client.pools()
    assert second.end(signal.SIGTERM) == 0
    assert _children_of(migrated) == []


@pytest.mark.long
def test_whatever_is_killed_comes_back(migrated: Installation, start: Callable[[], Run]) -> None:
    run = start()
    _wait(run.is_ready, run=run)

    for victim in ("jobs", "web", "pulse", "database"):
        pid = _pid_of(victim, migrated)
        os.kill(pid, signal.SIGKILL)
        _wait_for_another(victim, migrated, run=run, than=pid)

    assert run.end(signal.SIGINT) == 0


def test_a_job_cluster_whose_workers_hang_is_killed_and_started_again(
    migrated: Installation, start: Callable[[], Run]
) -> None:
    run = start()
    _wait(run.is_ready, run=run)
    cluster = psutil.Process(_pid_of("jobs", migrated))

    for process in cluster.children(recursive=True):
        process.send_signal(signal.SIGSTOP)

    _wait_for_another("jobs", migrated, run=run, than=cluster.pid)
    assert run.end(signal.SIGINT) == 0
    assert "jobs: it has stalled" in run.shown


def _wait_for_another(name: str, home: Installation, *, run: Run, than: int) -> None:
    _wait(lambda: _pid_of(name, home) not in (0, than) and run.is_ready(), run=run)


def _pid_of(name: str, home: Installation) -> int:
    if name == "database":
        return postgres.status(home).pid or 0
    file = home.run_folder / f"{name}.child.json"
    found = re.search(r'"pid": (\d+)', file.read_text()) if file.exists() else None
    return int(found[1]) if found else 0


def _children_of(home: Installation) -> list[psutil.Process]:
    """Return the running processes, other than the database, that belong to an installation."""
    return [one for one in psutil.process_iter() if _belongs(one, home.root)]


def _belongs(process: psutil.Process, root: Path) -> bool:
    try:
        is_ours = process.environ().get("AGENTPOOL_HOME") == str(root)
        is_child = not {"daphne", "jobs", "pulse"}.isdisjoint(process.cmdline())
    except psutil.Error:
        return False
    return is_ours and is_child


def _wait(claim: Callable[[], bool], *, run: Run) -> None:
    deadline = time.monotonic() + START_S
    while not claim():
        assert run.process.poll() is None, run.shown
        assert time.monotonic() < deadline, run.shown
        time.sleep(0.1)
