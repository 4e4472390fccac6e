"""
End a child with everything it started, also when nobody is left who knows it.

The unit is the *session*: each child leads one, and what it starts stays in it even when it
moves to another process group or its parent dies. A process that makes a session of its own
asks to outlive us (a detached agent runtime does) and is left alone.
"""

import contextlib
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from agentpool.host.installation import write_private

MARK = "AGENTPOOL_SUPERVISED_BY"


def kill_session(leader: int) -> int:
    """
    Kill every process of a session and return how many there were.

    The caller must not have reaped the leader: its zombie keeps the number from being reused.
    """
    killed = 0
    # A fork may slip between the look and the kill; a second look finds it.
    for _look in range(3):
        alive = [one for one in members(leader) if _send(one, signal.SIGKILL)]
        if not alive:
            break
        killed += len(alive)
        _wait_for_death(alive)
    return killed


def members(leader: int) -> list[psutil.Process]:
    """Return the processes of a session that still run, its leader included."""
    found = [_process(pid) for pid in psutil.pids() if _session(pid) == leader]
    return [one for one in found if one and _state(one) != psutil.STATUS_ZOMBIE]


def has_ended(pid: int) -> bool:
    """Return whether a child of ours is dead, without reaping it."""
    process = _process(pid)
    return process is None or _state(process) == psutil.STATUS_ZOMBIE


def remember(folder: Path, *, name: str, pid: int, mark: str) -> None:
    """Write down a child, so that the next supervisor finds it when we are killed."""
    with contextlib.suppress(psutil.NoSuchProcess):  # it ended already: nothing to find
        note = {"pid": pid, "create_time": psutil.Process(pid).create_time(), "mark": mark}
        write_private(folder / f"{name}.child.json", text=json.dumps(note))


def forget(folder: Path, *, name: str) -> None:
    """Remove the note of a child that ended."""
    (folder / f"{name}.child.json").unlink(missing_ok=True)


def kill_leftovers(folder: Path) -> int:
    """
    Kill what an earlier supervisor that was killed left behind; return how many processes.

    Its children are told to end when it dies, but one that hangs, or a grandchild whose parent
    was quicker to die, still holds the port and the jobs. A process counts only when it is the
    noted one (same start time) or carries the noted mark: numbers are reused.
    """
    killed = 0
    for file in folder.glob("*.child.json"):
        for process in _noted(file):
            killed += _send(process, signal.SIGKILL)
        file.unlink(missing_ok=True)
    return killed


def reap_strangers(own: set[int]) -> None:
    """Reap dead orphans when we are pid 1 of a container, where nobody else does."""
    if os.getpid() != 1:
        return
    for child in psutil.Process().children():
        if child.pid not in own and _state(child) == psutil.STATUS_ZOMBIE:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(child.pid, os.WNOHANG)


def _noted(file: Path) -> Iterator[psutil.Process]:
    try:
        note = json.loads(file.read_text())
        pid, created, mark = int(note["pid"]), float(note["create_time"]), str(note["mark"])
    except (OSError, ValueError, KeyError):
        return
    for process in members(pid):
        with contextlib.suppress(psutil.Error):
            is_leader = process.pid == pid and abs(process.create_time() - created) < 1
            if is_leader or process.environ().get(MARK) == mark:
                yield process


def _wait_for_death(processes: list[psutil.Process]) -> None:
    # psutil's own wait reaps our children, and with them their exit codes.
    deadline = time.monotonic() + 1
    while time.monotonic() < deadline:
        if all(_state(one) == psutil.STATUS_ZOMBIE for one in processes):
            return
        time.sleep(0.01)


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except OSError:
        return None


def _process(pid: int) -> psutil.Process | None:
    try:
        return psutil.Process(pid)
    except psutil.Error:
        return None


def _send(process: psutil.Process, sent: signal.Signals) -> bool:
    try:
        process.send_signal(sent)
    except psutil.Error:
        return False
    return True


def _state(process: psutil.Process) -> str:
    try:
        return process.status()
    except psutil.Error:
        return psutil.STATUS_ZOMBIE
