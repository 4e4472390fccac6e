"""The ways to acquire and release: pgbench, the services, REST, the gateway; each run of one."""

import contextlib
import json
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from agentpool.host import ports, servers
from agentpool.host.probes import Site
from agentpool.host.servers import Servers
from claim_parts import cpu
from claim_parts.stage import YARDSTICKS, Stage

BENCH = Path(__file__).resolve().parents[1]
SERVICE_PROCESSES = 2
START_S, DRAIN_S = 60, 20


@dataclass
class Stretch:
    """What one run of one path saw: seconds of the clock, cycles, CPU seconds by who used them."""

    seconds: float
    cycles: int
    in_time: int
    taken_us: list[int]
    cpu_s: dict[str, float] = field(default_factory=dict)
    errors: dict[str, int] = field(default_factory=dict)

    @property
    def per_s(self) -> float:
        """Cycles finished within the time, per second."""
        return self.in_time / self.seconds

    def ms_per_cycle(self, *who: str) -> float:
        """CPU of some of its users, ms a cycle."""
        return 1000 * sum(self.cpu_s.get(one, 0.0) for one in who) / max(self.cycles, 1)


class Process:
    """A process of ours that is ended with its whole session."""

    def __init__(self, argv: Sequence[str], env: Mapping[str, str], **pipes: Any) -> None:
        self.popen = subprocess.Popen(argv, env=dict(env), start_new_session=True, **pipes)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.popen.pid

    def end(self) -> None:
        """End it and what it started."""
        for sent in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, sent)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.popen.wait(5)
        for pipe in (self.popen.stdin, self.popen.stdout):
            if pipe:
                pipe.close()


class Worker(Process):
    """A process of ours that takes orders: a load generator, or callers of the services."""

    def __init__(self, module: str, env: Mapping[str, str]) -> None:
        paths = os.pathsep.join([str(BENCH), env.get("PYTHONPATH", "")])
        argv = [sys.executable, "-m", f"claim_parts.{module}"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        super().__init__(argv, {**env, "PYTHONPATH": paths}, **pipes)

    def say(self, text: str) -> None:
        """Send a line."""
        assert self.popen.stdin
        self.popen.stdin.write(text + "\n")
        self.popen.stdin.flush()

    def answer(self) -> dict[str, Any]:
        """Return the next line."""
        assert self.popen.stdout
        line = self.popen.stdout.readline()
        if not line:
            raise SystemExit(f"process {self.pid} of the bench has ended: {self.popen.poll()}")
        answer: dict[str, Any] = json.loads(line)
        return answer


@dataclass(frozen=True)
class Way:
    """A path, and the server it goes through."""

    name: str
    server: str = "none"


# -- servers -------------------------------------------------------------------------------------


def server_argv(server: str, site: Site) -> tuple[tuple[str, ...], dict[str, str]]:
    """Return a web server's command, as `agentpool up` runs it, and its environment."""
    if server == "granian_wsgi":
        return servers.wsgi(Servers(kind="granian"), site=site), {}
    kind = server.removesuffix("_asgi")
    return servers.asgi(Servers(kind=kind), site=site), {"AGENTPOOL_DB_POOL": "20"}


@contextlib.contextmanager
def serving(there: Stage, server: str) -> Iterator[tuple[str, int]]:
    """Run a web server; give its address and process id."""
    site = Site(port=ports.any_free())
    argv, more = server_argv(server, site)
    process = Process([sys.executable, "-m", *argv], {**there.env, **more})
    try:
        _wait_for(site.url, process)
        yield site.url, process.pid
    finally:
        process.end()


def _wait_for(url: str, process: Process) -> None:
    deadline = time.monotonic() + START_S
    while True:
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"{url}/healthz", timeout=2).close()
            return
        if process.popen.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"No server came up at {url}.")
        time.sleep(0.1)


class Paths:
    """All processes that the chosen paths need, and the runs of each path."""

    def __init__(self, there: Stage, *, clients: int) -> None:
        self.there, self.clients = there, clients
        self.closing = contextlib.ExitStack()
        self.servers: dict[str, tuple[str, int]] = {}
        self.callers: list[Worker] = []
        self.connecting_s = {"app": 0.0, "postgres": 0.0}

    def open(self, paths: Sequence[Way]) -> None:
        """Start the pulse, the servers, the generator and the callers."""
        self.pulse = self._keep(Process([sys.executable, "-m", "django", "pulse"], self.there.env))
        self.generator = self._keep(Worker("load", self.there.env))
        if any(path.name == "service" for path in paths):
            made = [Worker("service", self.there.env) for _ in range(SERVICE_PROCESSES)]
            self.callers = [self._keep(caller) for caller in made]
        for server in dict.fromkeys(path.server for path in paths):
            if server != "none":
                self.servers[server] = self.closing.enter_context(serving(self.there, server))

    def _keep(self, process: Any) -> Any:
        self.closing.callback(process.end)
        return process

    def run(self, path: Way, *, strategy: str, seconds: float) -> Stretch:
        """Run one path for some seconds."""
        if path.name == "pgbench":
            return self._pgbench(seconds=seconds)
        order = {"path": path.name, "strategy": strategy, "seconds": seconds}
        if path.name == "service":
            apps = [caller.pid for caller in self.callers]
            return self._ordered(self.callers, apps, order)
        url, pid = self.servers[path.server]
        order |= {"url": url, "token": self.there.token}
        return self._ordered([self.generator], [pid], order)

    # -- ours ------------------------------------------------------------------------------------

    def _ordered(
        self, workers: Sequence[Worker], apps: Sequence[int], order: dict[str, Any]
    ) -> Stretch:
        for worker in workers:
            worker.say(json.dumps({**order, "clients": self.clients // len(workers)}))
        for worker in workers:
            worker.answer()
        before = self._used(apps)
        for worker in workers:
            worker.say("go")
        reports = [worker.answer() for worker in workers]
        self._drain()
        after = self._used(apps)
        errors: dict[str, int] = {}
        for report in reports:
            for text, count in report["errors"].items():
                errors[text] = errors.get(text, 0) + count
        return Stretch(
            seconds=order["seconds"],
            cycles=sum(report["cycles"] for report in reports),
            in_time=sum(report["in_time"] for report in reports),
            taken_us=[taken for report in reports for taken in report["taken_us"]],
            cpu_s={who: after[who] - before[who] for who in after}
            | {"generator": sum(report["cpu_s"] for report in reports)},
            errors=errors,
        )

    def _used(self, apps: Sequence[int]) -> dict[str, float]:
        return {
            "app": sum(cpu.seconds(pid) for pid in apps),
            "pulse": cpu.seconds(self.pulse.pid),
            "postgres": cpu.seconds(self.there.postmaster),
        }

    def _drain(self) -> None:
        """Wait until the relay has numbered every event: its work belongs to who caused it."""
        deadline = time.monotonic() + DRAIN_S
        with self.there.connect() as connection:
            while time.monotonic() < deadline:
                left = connection.execute("SELECT EXISTS (SELECT FROM event_unnumbered)")
                if not (left.fetchone() or [False])[0]:
                    return
                time.sleep(0.02)

    # -- pgbench -----------------------------------------------------------------------------------

    def learn_connecting(self) -> None:
        """Note what it costs pgbench's clients to connect, which is no part of a cycle."""
        once = self._pgbench_once("-t", "1")
        self.connecting_s = {who: once.cpu_s[who] for who in self.connecting_s}

    def _pgbench(self, *, seconds: float) -> Stretch:
        ran = self._pgbench_once("-T", str(max(1, round(seconds))))
        for who, used in self.connecting_s.items():
            ran.cpu_s[who] = max(ran.cpu_s[who] - used, 0.0)
        return ran

    def _pgbench_once(self, *length: str) -> Stretch:
        where = urlsplit(self.there.url)
        argv = [self.there.program("pgbench"), "-n", "-M", "prepared", "-c", str(self.clients)]
        argv += ["-j", "2", *length, "-f", str(YARDSTICKS / "claim_limit.pgbench")]
        argv += ["-h", str(where.hostname), "-p", str(where.port), "-U", str(where.username)]
        with tempfile.TemporaryDirectory(prefix="agentpool-claim-") as folder:
            log = ["-l", "--sampling-rate=0.2", f"--log-prefix={folder}/log"]
            before, mine = cpu.seconds(self.there.postmaster), _children_s()
            done = subprocess.run(
                [*argv, *log, where.path.lstrip("/")],
                env={**os.environ, "PGPASSWORD": str(where.password)},
                capture_output=True,
                text=True,
            )
            used, own = cpu.seconds(self.there.postmaster) - before, _children_s() - mine
            taken = [
                int(line.split()[2])
                for file in Path(folder).glob("log*")
                for line in file.read_text().splitlines()
            ]
        return _told(done, taken, {"app": own, "postgres": used})


def _told(
    done: subprocess.CompletedProcess[str], taken: list[int], used: dict[str, float]
) -> Stretch:
    """Return what pgbench says of itself; its time leaves the connecting out."""
    cycles = re.search(r"actually processed: (\d+)", done.stdout)
    rate = re.search(r"tps = ([\d.]+)", done.stdout)
    if done.returncode != 0 or not cycles or not rate:
        raise SystemExit(f"pgbench failed:\n{done.stderr[-2000:]}")
    count = int(cycles[1])
    return Stretch(count / float(rate[1]), count, count, taken, used)


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
