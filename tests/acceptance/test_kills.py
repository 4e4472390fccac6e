"""A real batch ends green although everything it rests on is killed with -9, once each."""

import contextlib
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from agentpool.host.installation import code_folder
from tests.acceptance.running import POOLS, Running, launch_agents, running, wait_until

pytestmark = [pytest.mark.kill, pytest.mark.alone, pytest.mark.slow, pytest.mark.timeout(300)]

EXAMPLE = code_folder() / "examples" / "tdd"
CYCLES = 12
# Merging goes one by one under a lock key, so this makes the batch outlast the kills on a fast
# machine, too. Once they are over, a ref in the repository says so: what is left need not be slow.
MERGE = '["python", "tools/phase.py", "data"]'
OVER = "refs/kills/over"
SLOWLY = f"git ls-remote --exit-code origin {OVER} || sleep 4; exec python tools/phase.py data"
SLOW_MERGE = f'["sh", "-c", "{SLOWLY}"]'
HEAL_S = 60
BATCH_S = 200


class Batch:
    """Half of the example's cycles, run against an installation by the command line."""

    def __init__(self, site: Running) -> None:
        self.site = site
        self.repo = site.home.root / "repo.git"
        self.summary = site.home.root / "summary.json"
        self.log = site.home.root / "batch.log"
        self.file = site.home.root / "cycles.toml"
        text = (EXAMPLE / "cycles.toml").read_text()
        assert MERGE in text
        self.file.write_text(text.replace(MERGE, SLOW_MERGE))
        self.stories = [one["id"] for one in tomllib.loads(text)["cycle"]][:CYCLES]
        example("make_repo.py", str(self.repo))
        allowed = site.python(str(EXAMPLE / "allow_tools.py"))
        assert allowed.returncode == 0, allowed.stdout
        with self.log.open("wb") as out:
            self.process = site.start(
                *("agentpool.cli", "cycles", "run", str(self.file), "--repo", str(self.repo)),
                *("--summary", str(self.summary)),
                *(word for story in self.stories for word in ("--only", story)),
                to=out,
            )

    def hurry(self) -> None:
        """Let no merge wait any more: all kills are over."""
        ref = ["git", "--git-dir", str(self.repo), "update-ref", OVER, "main"]
        subprocess.run(ref, check=True)

    @property
    def is_running(self) -> bool:
        return self.process.poll() is None

    def said(self) -> str:
        return self.log.read_text(errors="replace")[-6000:] + self.site.said()


def test_the_batch_survives_a_kill_of_each_part(root: Path) -> None:
    with running(root) as site:
        launch_agents(site, per_pool=3)
        batch = Batch(site)

        struck = [strike(batch, name, find) for name, find in VICTIMS.items()]
        batch.hurry()
        code = batch.process.wait(timeout=BATCH_S)

        assert code == 0, batch.said()
        assert_every_cycle_passed(batch)
        assert_main_is_green(batch)
        assert_every_phase_was_done_once(site, killed=dict(struck)["runtime"])
        assert_nothing_is_left_open(site)
        assert_stops_and_leaves_nothing(site)


# -- the strikes ---------------------------------------------------------------------------------


def strike(batch: Batch, name: str, find: Callable[[Running], int]) -> tuple[str, int]:
    """Kill one part while the batch runs; return its name and pid once all is well again."""
    site = batch.site
    pid = wait_until(lambda: find(site), within_s=HEAL_S, what=f"a victim: {name}", said=batch.said)
    assert batch.is_running, f"the batch was over before {name} was killed\n{batch.said()}"
    struck_at = time.monotonic()

    os.kill(pid, signal.SIGKILL)

    wait_until(lambda: is_dead(pid), within_s=HEAL_S, what=f"{name} dead", said=batch.said)
    wait_until(
        lambda: works_since(site, time.monotonic() - struck_at),
        within_s=HEAL_S,
        what=f"well after the kill of {name}",
        said=batch.said,
    )
    print(f"{name} (pid {pid}) killed; all well after {time.monotonic() - struck_at:.1f} s")
    return name, pid


def runtime_at_work(site: Running) -> int:
    """Return the pid of a runtime whose work has begun a moment ago."""
    found = site.rows(
        "SELECT (launch.handle->>'pid')::int FROM lease JOIN launch USING (agent_id)"
        " WHERE lease.status = 'active' AND lease.phase IN ('qa', 'code')"
        " AND now() - lease.acked_at BETWEEN interval '0.5 s' AND interval '3 s'"
    )
    return found[0][0] if found else 0


def busy_worker(site: Running) -> int:
    """Return the pid of a job worker in the midst of a job."""
    return enqueue(site, "stay", 20)["stay"]


def idle_worker(site: Running) -> int:
    """
    Return the pid of the job worker that waits for the next job.

    While the other one is busy it is alone at the queue and holds its lock: killed then, it takes
    the lock along, and the whole cluster waits for ever.
    """
    pids = enqueue(site, "stay", 5, "tell_pid")
    is_alone = pids["stay"] != pids["tell_pid"]
    # It has the jobs of two meanwhile, and little rest between them.
    looks = (is_waiting(pids["tell_pid"]) for _ in range(40))
    return pids["tell_pid"] if is_alone and any(looks) else 0


VICTIMS: dict[str, Callable[[Running], int]] = {
    "runtime": runtime_at_work,
    "busy worker": busy_worker,
    "database": lambda site: site.pid_of("database"),
    "web": lambda site: site.pid_of("web"),
    "pulse": lambda site: site.pid_of("pulse"),
    "idle worker": idle_worker,
}


def enqueue(site: Running, *wishes: str | float) -> dict[str, int]:
    """Enqueue jobs of jobs.py, the seconds of `stay` after it; return the pids that took them."""
    files, calls = {}, ""
    for job, seconds in itertools.pairwise([*wishes, ""]):
        if isinstance(job, str):
            files[job] = Path(tempfile.mkdtemp(dir=site.home.root)) / "pid"
            more = f", {seconds}" if job == "stay" else ""
            calls += f"async_task('tests.acceptance.jobs.{job}', {str(files[job])!r}{more}); "
    setup = "import django; django.setup(); from django_q.tasks import async_task; "
    done = site.python("-c", setup + calls)
    assert done.returncode == 0, done.stdout
    for job, file in files.items():
        wait_until(file.exists, within_s=HEAL_S, what=f"the job {job}", said=site.said)
    return {job: int(file.read_text()) for job, file in files.items()}


def is_dead(pid: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    return True


def is_waiting(pid: int) -> bool:
    """Return whether a process does nothing for a moment."""
    process = psutil.Process(pid)
    used = process.cpu_times()
    time.sleep(0.05)
    return process.status() == psutil.STATUS_SLEEPING and process.cpu_times() == used


def works_since(site: Running, seconds: float) -> bool:
    """Return whether the installation is ready, and jobs and relay worked within so many s."""
    ages = site.rows(
        "SELECT extract(epoch FROM now() - at) FROM tick WHERE name IN ('jobs', 'relay')"
    )
    return site.readiness().is_ok and all(age < seconds for (age,) in ages)


# -- before and after ----------------------------------------------------------------------------


def example(name: str, *arguments: str) -> str:
    """Return what one of the example's programs prints."""
    command = [sys.executable, str(EXAMPLE / name), *arguments]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True).stdout


def assert_every_cycle_passed(batch: Batch) -> None:
    numbers = json.loads(batch.summary.read_text())
    print({name: value for name, value in numbers.items() if name != "by_phase"})

    assert (numbers["passed"], numbers["failed"]) == (numbers["cycles"], 0), batch.said()


def assert_main_is_green(batch: Batch) -> None:
    checked = example("check_main.py", str(batch.repo))
    sound = {line.split()[0] for line in checked.splitlines() if line.endswith("  none")}

    assert sound == set(batch.stories), checked
    assert re.search(r"^suite: \d+ passed in", checked, re.M), checked


def assert_every_phase_was_done_once(site: Running, *, killed: int) -> None:
    """No request ever had two leases at a time, and no phase of a cycle was done twice."""
    leases = site.rows(
        "SELECT request_id, phase, cycle_id, fencing_token, acquired_at, released_at, outcome"
        " FROM lease ORDER BY request_id, fencing_token"
    )
    for _, group in itertools.groupby(leases, key=lambda row: row[0]):
        assert_one_after_the_other(list(group))
    # The lock key of main: its holders came one after the other, each with a larger token.
    merging = [row for row in leases if row[1] == "data"]
    assert_one_after_the_other(sorted(merging, key=lambda row: row[3]))
    done = [row[1:3] for row in leases if row[6] == "success"]
    phases = CYCLES * len(POOLS)
    assert (len(done), len(set(done))) == (phases, phases)
    assert site.rows(
        "SELECT DISTINCT outcome FROM lease JOIN launch USING (agent_id)"
        f" WHERE (launch.handle->>'pid')::int = {killed} AND outcome = 'lost'"
    ), "the killed runtime was not at work"


def assert_one_after_the_other(leases: list) -> None:
    for earlier, later in itertools.pairwise(leases):
        assert earlier[5] is not None, earlier
        assert earlier[5] <= later[4], (earlier, later)


def assert_nothing_is_left_open(site: Running) -> None:
    open_ = "SELECT id, status FROM lease WHERE status IN ('active', 'offered', 'parked')"
    assert site.rows(open_) == []
    assert site.rows("SELECT * FROM lock_key") == []
    checked = site.python("-m", "django", "check_invariants")
    assert checked.returncode == 0, checked.stdout


def assert_stops_and_leaves_nothing(site: Running) -> None:
    code, seconds = site.stop()
    print(f"stopped in {seconds:.1f} s")

    assert (code, seconds < 10) == (0, True), site.said()
    assert [one.cmdline() for one in site.processes()] == []
