"""A whole installation of its own, run as a person runs it, for tests that look from outside."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import psycopg

from agentpool.client import Client, config
from agentpool.host import ports, postgres, probes
from agentpool.host.installation import Installation, code_folder, stored_database_url
from tests import prepared

INSTANCE = "acceptance"
POOLS = ("design", "qa", "code", "data")
# Short, so that each loss is noticed within seconds; a lease outlives a restart of the database
# or the web process, as it does with the defaults.
WINDOWS = {
    "AGENTPOOL_HEARTBEAT_S": "0.5",
    "AGENTPOOL_SUSPECT_S": "2",
    "AGENTPOOL_LOST_S": "5",
    "AGENTPOOL_OFFER_S": "4",
    "AGENTPOOL_RUN_LEASE_S": "10",
    "AGENTPOOL_REAP_SLACK_S": "0.5",
    "AGENTPOOL_BACKOFF_S": "0.5",
    "AGENTPOOL_CANARY_EVERY_S": "1",
    "AGENTPOOL_STALE_S": "6",
}
START_S = 90
STOP_S = 15
_LOOK_S = 0.1
# What the tests' own database and the user's own installation say must not reach this one.
_FOREIGN = ("DATABASE_URL", "AGENTPOOL_DB_PORT", "AGENTPOOL_TOKEN", "AGENTPOOL_TOKEN_FILE")


class Running:
    """One `agentpool up` in a process of its own, with its data below `root`."""

    def __init__(self, root: Path) -> None:
        self.site = probes.Site(port=ports.any_free())
        self.home = Installation(key="test", instance=INSTANCE, root=root)
        self.log = root / "up.log"
        self.env = {name: value for name, value in os.environ.items() if name not in _FOREIGN} | {
            "AGENTPOOL_HOME": str(root),
            "AGENTPOOL_INSTANCE": INSTANCE,
            "AGENTPOOL_CONFIG": str(root / "config.toml"),
            "AGENTPOOL_URL": self.site.url,
            "DJANGO_SETTINGS_MODULE": "agentpool.settings",
            "PYTHONPATH": str(code_folder()),
            **WINDOWS,
        }
        with self.log.open("wb") as out:
            self.process = self.start("agentpool.cli", "up", "--port", str(self.site.port), to=out)

    def start(self, module: str, *arguments: str, to: Any) -> subprocess.Popen[bytes]:
        """Start `python -m module` in the installation's environment."""
        return subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=to,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def python(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run python in the environment of the installation's processes, to its end."""
        url = {"DATABASE_URL": self.database_url}
        return subprocess.run(
            [sys.executable, *arguments],
            env=self.env | url,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
        )

    def client(self) -> Client:
        stored = config.load(env=self.env)
        return Client(url=stored.url, token=stored.token)

    @property
    def database_url(self) -> str:
        return stored_database_url(self.home) or ""

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """Ask the database directly; raises psycopg.OperationalError while it is away."""
        with psycopg.connect(self.database_url, autocommit=True) as connection:
            return connection.execute(sql).fetchall()

    def readiness(self) -> probes.Readiness:
        return probes.readiness(self.site)

    def pid_of(self, name: str) -> int:
        """Return the pid of web, jobs, pulse or database; 0 while it does not run."""
        if name == "database":
            return postgres.status(self.home).pid or 0
        file = self.home.run_folder / f"{name}.child.json"
        with contextlib.suppress(OSError):
            if found := re.search(r'"pid": (\d+)', file.read_text()):
                return int(found[1])
        return 0

    def processes(self) -> list[psutil.Process]:
        """Return every process of the installation: database, agents and their work, too."""
        return [one for one in psutil.process_iter() if self._is_ours(one)]

    def stop(self) -> tuple[int, float]:
        """Press Ctrl-C; return exit code and seconds."""
        began = time.monotonic()
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(timeout=STOP_S), time.monotonic() - began

    def kill(self) -> None:
        """End whatever is left, for a test that failed half-way."""
        self.process.kill()
        self.process.wait()
        for one in self.processes():
            with contextlib.suppress(psutil.Error):
                one.kill()
        postgres.stop(self.home, mode="immediate")

    def said(self) -> str:
        return self.log.read_text(errors="replace")[-6000:]

    def _is_ours(self, process: psutil.Process) -> bool:
        root = str(self.home.root)
        try:
            if process.pid == os.getpid() or process.status() == psutil.STATUS_ZOMBIE:
                return False
            if process.cwd().startswith(root) or any(root in word for word in process.cmdline()):
                return True
            environ = process.environ()
        except (psutil.Error, OSError):
            return False
        return root == environ.get("AGENTPOOL_HOME") or self.site.url == environ.get(
            "AGENTPOOL_URL"
        )


def wait_until(
    claim: Callable[[], Any], *, within_s: float, what: str, said: Callable[[], str]
) -> Any:
    """Return the claim's first true value; fail with what was said when none comes in time."""
    deadline = time.monotonic() + within_s
    while True:
        with contextlib.suppress(psycopg.OperationalError, psutil.Error):
            if value := claim():
                return value
        assert time.monotonic() < deadline, f"not within {within_s} s: {what}\n{said()}"
        time.sleep(_LOOK_S)


@contextlib.contextmanager
def running(root: Path, *, migrated: bool = False) -> Iterator[Running]:
    """Give an installation that is ready; nothing of it runs afterwards."""
    if migrated:
        prepared.lay(Installation(key="test", instance=INSTANCE, root=root))
    one = Running(root)
    try:
        wait_until(lambda: one.readiness().is_ok, within_s=START_S, what="ready", said=one.said)
        yield one
    finally:
        one.kill()


def launch_agents(site: Running, *, per_pool: int) -> None:
    """Let scaling start agents, and wait until they are idle."""
    with site.client() as client:
        for pool in POOLS:
            client.scale(agent_type=pool, action="set", count=per_pool, reason="a test")
    idle = "SELECT count(*) FROM agent WHERE status = 'idle'"
    wait_until(
        lambda: site.rows(idle)[0][0] == per_pool * len(POOLS),
        within_s=60,
        what="all agents idle",
        said=site.said,
    )
