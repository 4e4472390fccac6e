"""The supervisor with small real processes: restarts, stalls, stops, and its own sudden death."""

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import psutil
import pytest

from agentpool.host import process_tree
from agentpool.host.installation import code_folder
from agentpool.host.output import Output
from agentpool.host.supervisor import Child, Health, StopRequest, Supervisor

_outputs: list[Output] = []

NOTE = "import os, sys, time, signal, subprocess; note = open(sys.argv[1], 'a', buffering=1)\n"
SLEEPER = NOTE + "print(os.getpid(), file=note); time.sleep(60)"
DEAF = NOTE + (
    "signal.signal(signal.SIGTERM, signal.SIG_IGN); print(os.getpid(), file=note); time.sleep(60)"
)
# A parent whose child moves to a process group of its own, as job workers may.
FAMILY = NOTE + (
    "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'],"
    " process_group=0)\nprint(os.getpid(), file=note); print(child.pid, file=note)\n"
)
DETACHING = FAMILY.replace("process_group=0", "start_new_session=True")


@pytest.fixture(autouse=True)
def _closed_outputs() -> Iterator[None]:
    yield
    while _outputs:
        _outputs.pop().close()


def test_a_child_that_ends_is_started_again_ever_more_slowly(tmp_path: Path) -> None:
    ends_at_once = NOTE + "print(time.monotonic(), file=note)"
    supervisor = _supervisor(tmp_path, _child("mayfly", ends_at_once, tmp_path))

    _run_until(supervisor, lambda: len(_notes(tmp_path, "mayfly")) == 4)

    starts = _notes(tmp_path, "mayfly")
    pauses = [later - earlier for earlier, later in pairwise(starts)]
    assert pauses[0] > 0.2
    assert pauses[1] > 0.4
    assert pauses[2] > 0.8


def test_a_child_that_cannot_be_started_is_tried_again(tmp_path: Path) -> None:
    shown = io.StringIO()
    missing = Child(name="missing", argv=(str(tmp_path / "nothing"),))
    supervisor = _supervisor(tmp_path, missing, stream=shown)

    _run_until(supervisor, lambda: shown.getvalue().count("cannot be started") == 2)

    assert "starting it again in 0.4 s" in shown.getvalue()


def test_the_lines_of_a_child_are_shown_under_its_name(tmp_path: Path) -> None:
    shown = io.StringIO()
    talker = _child("talker", "print('hello', flush=True); import time; time.sleep(60)", tmp_path)
    supervisor = _supervisor(tmp_path, talker, stream=shown)

    _run_until(supervisor, lambda: "talker | hello\n" in shown.getvalue())

    assert (tmp_path / "talker.log").read_text().endswith("hello\n")


def test_a_stalled_child_is_killed_with_its_family_and_started_again(tmp_path: Path) -> None:
    family = _child("family", FAMILY + "time.sleep(60)", tmp_path, stale_after_s=0.5)
    looks = iter([True, True])  # well at first, then stalled
    supervisor = _supervisor(tmp_path, family, poll=lambda: {"family": next(looks, False)})

    _run_until(supervisor, lambda: len(_notes(tmp_path, "family")) == 4)

    assert not any(_is_running(pid) for pid in _notes(tmp_path, "family"))


def test_a_child_of_which_nothing_is_known_is_left_alone(tmp_path: Path) -> None:
    quiet = _child("quiet", SLEEPER, tmp_path, stale_after_s=0.2, start_grace_s=0.2)
    began = time.monotonic()
    supervisor = _supervisor(tmp_path, quiet, poll=lambda: {"quiet": None})

    _run_until(supervisor, lambda: time.monotonic() - began > 1.5)

    assert len(_notes(tmp_path, "quiet")) == 1


def test_a_child_has_its_grace_until_it_was_well_once(tmp_path: Path) -> None:
    slow = _child("slow", SLEEPER, tmp_path, stale_after_s=0.1, start_grace_s=30)
    began = time.monotonic()
    supervisor = _supervisor(tmp_path, slow, poll=lambda: {"slow": False})

    _run_until(supervisor, lambda: time.monotonic() - began > 1.5)

    assert len(_notes(tmp_path, "slow")) == 1


def test_a_look_that_fails_is_not_the_last_one(tmp_path: Path) -> None:
    shown = io.StringIO()
    stalled = _child("stalled", SLEEPER, tmp_path, stale_after_s=0.2, start_grace_s=0.2)
    looks = iter([OSError("no memory for a process")])

    def look() -> Health:
        if trouble := next(looks, None):
            raise trouble
        return {"stalled": False}

    supervisor = _supervisor(tmp_path, stalled, poll=look, stream=shown)

    _run_until(supervisor, lambda: len(_notes(tmp_path, "stalled")) == 2)

    assert "no memory for a process" in shown.getvalue()


def test_a_child_runs_also_where_no_note_of_it_can_be_written(tmp_path: Path) -> None:
    shown = io.StringIO()
    mayfly = _child("mayfly", NOTE + "print(1, file=note)", tmp_path)
    supervisor = _supervisor(tmp_path, mayfly, stream=shown)
    # In the way of its note, as a full disk is.
    (tmp_path / "run" / f"mayfly.child.json.{os.getpid()}.new").mkdir()

    _run_until(supervisor, lambda: len(_notes(tmp_path, "mayfly")) == 2)

    assert "mayfly: no note of it is kept" in shown.getvalue()


def test_the_orphans_of_a_dead_child_are_killed_before_it_starts_again(tmp_path: Path) -> None:
    supervisor = _supervisor(tmp_path, _child("parent", FAMILY, tmp_path))

    _run_until(supervisor, lambda: len(_notes(tmp_path, "parent")) == 4)

    assert not any(_is_running(pid) for pid in _notes(tmp_path, "parent"))


def test_a_process_that_detached_itself_outlives_its_parent(tmp_path: Path) -> None:
    parent = _child("parent", DETACHING + "time.sleep(60)", tmp_path)
    supervisor = _supervisor(tmp_path, parent)

    _run_until(supervisor, lambda: len(_notes(tmp_path, "parent")) == 2)

    detached = int(_notes(tmp_path, "parent")[1])
    assert _is_running(detached)
    os.kill(detached, signal.SIGKILL)


def test_a_stop_ends_also_a_child_that_does_not_listen(tmp_path: Path) -> None:
    children = [_child("deaf", DEAF, tmp_path), _child("polite", SLEEPER, tmp_path)]
    supervisor = _supervisor(tmp_path, *children)
    began = _run(supervisor, lambda: bool(_notes(tmp_path, "deaf") and _notes(tmp_path, "polite")))

    supervisor.stop(grace_s=1.0)

    assert time.monotonic() - began < 3
    pids = _notes(tmp_path, "deaf") + _notes(tmp_path, "polite")
    assert not any(_is_running(pid) for pid in pids)
    assert list((tmp_path / "run").iterdir()) == []


def test_a_stop_asks_the_last_started_first(tmp_path: Path) -> None:
    polite = NOTE + (
        "def end(*_): print(time.monotonic(), file=note); sys.exit()\n"
        "signal.signal(signal.SIGTERM, end); note.write('0\\n'); time.sleep(60)"
    )
    children = [_child(name, polite, tmp_path) for name in ("web", "jobs")]
    supervisor = _supervisor(tmp_path, *children)
    _run(supervisor, lambda: bool(_notes(tmp_path, "web") and _notes(tmp_path, "jobs")))

    supervisor.stop()

    assert _notes(tmp_path, "jobs")[1] < _notes(tmp_path, "web")[1]


def test_a_hurry_ends_the_grace(tmp_path: Path) -> None:
    supervisor = _supervisor(tmp_path, _child("deaf", DEAF, tmp_path))
    began = _run(supervisor, lambda: bool(_notes(tmp_path, "deaf")))

    supervisor.stop(grace_s=30, at_once=lambda: True)

    assert time.monotonic() - began < 5


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal is Linux's")
def test_children_end_when_their_supervisor_is_killed(tmp_path: Path) -> None:
    pid = _pid_under_a_killed_supervisor(tmp_path, SLEEPER)

    assert _becomes(lambda: not _is_running(pid))


def test_what_a_killed_supervisor_left_is_killed_by_the_next(tmp_path: Path) -> None:
    pid = _pid_under_a_killed_supervisor(tmp_path, DEAF)
    assert _is_running(pid)

    killed = process_tree.kill_leftovers(tmp_path / "run")

    assert killed == 1
    assert _becomes(lambda: not _is_running(pid))


def test_the_orphans_of_a_child_that_is_gone_are_found_by_their_mark(tmp_path: Path) -> None:
    leader = subprocess.Popen(
        [sys.executable, "-c", FAMILY, str(tmp_path / "family")],
        env=os.environ | {process_tree.MARK: "abc"},
        start_new_session=True,
    )
    process_tree.remember(tmp_path, name="family", pid=leader.pid, mark="abc")
    leader.wait()
    orphan = int(_notes(tmp_path, "family")[1])

    killed = process_tree.kill_leftovers(tmp_path)

    assert killed == 1
    assert _becomes(lambda: not _is_running(orphan))


def test_a_stranger_with_a_noted_number_is_left_alone(tmp_path: Path) -> None:
    stranger = subprocess.Popen([sys.executable, "-c", SLEEPER, os.devnull], start_new_session=True)
    (tmp_path / "web.child.json").write_text(
        f'{{"pid": {stranger.pid}, "create_time": 1.0, "mark": "abc"}}'
    )

    killed = process_tree.kill_leftovers(tmp_path)

    assert (killed, stranger.poll()) == (0, None)
    stranger.kill()
    stranger.wait()


def _child(
    name: str, code: str, folder: Path, *, stale_after_s: float = 15, start_grace_s: float = 60
) -> Child:
    return Child(
        name=name,
        argv=(sys.executable, "-c", code, str(folder / name)),
        probe=name,
        stale_after_s=stale_after_s,
        start_grace_s=start_grace_s,
    )


def _supervisor(
    folder: Path,
    *children: Child,
    poll: Callable[[], Health] | None = None,
    stream: io.StringIO | None = None,
) -> Supervisor:
    (folder / "run").mkdir()
    output = Output(folder=folder, stream=stream or io.StringIO())
    _outputs.append(output)
    return Supervisor(
        children, run_folder=folder / "run", output=output, poll=poll, poll_every_s=0.1
    )


class _StopWhen(StopRequest):
    """A stop request that is made by something having happened."""

    def __init__(self, has_happened: Callable[[], bool]) -> None:
        super().__init__()
        self._has_happened = has_happened
        self._deadline = time.monotonic() + 20

    def __bool__(self) -> bool:
        assert time.monotonic() < self._deadline, "it did not happen within 20 s"
        return self._has_happened()


def _run(supervisor: Supervisor, has_happened: Callable[[], bool]) -> float:
    """Run until something has happened, and return the time (monotonic) of it."""
    supervisor.run(stop=_StopWhen(has_happened))
    return time.monotonic()


def _run_until(supervisor: Supervisor, has_happened: Callable[[], bool]) -> None:
    try:
        _run(supervisor, has_happened)
    finally:
        supervisor.stop(grace_s=1.0)


def _notes(folder: Path, name: str) -> list[float]:
    file = folder / name
    return [float(line) for line in file.read_text().splitlines()] if file.exists() else []


def _is_running(pid: float) -> bool:
    try:
        return psutil.Process(int(pid)).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _becomes(claim: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 5
    while not claim():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _pid_under_a_killed_supervisor(folder: Path, code: str) -> int:
    """Return the pid of a child whose supervisor, a process of its own, was killed."""
    (folder / "run").mkdir()
    program = (
        "import sys; from pathlib import Path\n"
        "from agentpool.host.output import Output\n"
        "from agentpool.host.supervisor import Child, StopRequest, Supervisor\n"
        "folder = Path(sys.argv[1])\n"
        "child = Child('child', (sys.executable, '-c', sys.argv[2], str(folder / 'child')))\n"
        "output = Output(folder=folder)\n"
        "Supervisor([child], run_folder=folder / 'run', output=output).run(stop=StopRequest())\n"
    )
    supervisor = subprocess.Popen(
        [sys.executable, "-c", program, str(folder), code],
        env=os.environ | {"PYTHONPATH": str(code_folder())},
    )
    # The child's own note may be there before the supervisor has noted the child.
    is_noted = lambda: bool(list((folder / "run").glob("*.child.json")))  # noqa: E731
    assert _becomes(lambda: bool(_notes(folder, "child")) and is_noted())
    supervisor.kill()
    supervisor.wait()
    return int(_notes(folder, "child")[0])
