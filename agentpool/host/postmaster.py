"""The processes of a Postgres server: find the live postmaster, end it, clear what is dead."""

import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import psutil

from agentpool.host import server_files

StopMode = Literal["smart", "fast", "immediate"]

_SIGNALS: Mapping[str, signal.Signals] = {
    "smart": signal.SIGTERM,
    "fast": signal.SIGINT,
    "immediate": signal.SIGQUIT,
}
_ORPHANS_S = 5.0
_POLL_S = 0.03


def find(data: Path) -> psutil.Process | None:
    """Return the live postmaster of a data folder; a zombie or a recycled pid is none."""
    pid = server_files.pid_of(data)
    if pid is None:
        return None
    try:
        process = psutil.Process(pid)
        is_ours = process.status() != psutil.STATUS_ZOMBIE and _works_in(process, data)
    except psutil.Error:
        return None
    return process if is_ours else None


def end(process: psutil.Process, *, mode: StopMode, timeout_s: float) -> None:
    """End a process of the server; after the timeout (seconds) by ever harder signals."""
    for sent in (_SIGNALS[mode], signal.SIGQUIT, signal.SIGKILL):
        try:
            process.send_signal(sent)
        except psutil.NoSuchProcess:
            return
        if is_gone(process, timeout_s=timeout_s if sent == _SIGNALS[mode] else _ORPHANS_S):
            return


def is_gone(process: psutil.Process, *, timeout_s: float) -> bool:
    """Return whether a process ends within a time (seconds); a zombie has ended."""
    deadline = time.monotonic() + timeout_s
    while process.is_running() and _state(process) != psutil.STATUS_ZOMBIE:
        if time.monotonic() >= deadline:
            return False
        time.sleep(_POLL_S)
    return True


def clear_the_dead(data: Path, *, socket_folder: Path | None) -> None:
    """
    Clear what a killed postmaster left, so that the next one starts.

    Backends that outlived it come first: as long as one is attached to the old shared memory
    it may write. Only then the files with its pid go, which Postgres itself takes for a living
    server's when that pid is a zombie (a container whose pid 1 does not reap) or now somebody
    else's.
    """
    if find(data):
        return
    for orphan in [one for one in psutil.process_iter() if _is_orphan(one, data=data)]:
        end(orphan, mode="immediate", timeout_s=_ORPHANS_S)
    sockets = socket_folder.glob(".s.PGSQL.*") if socket_folder else ()
    for file in (data / "postmaster.pid", *sockets):
        file.unlink(missing_ok=True)


def _is_orphan(process: psutil.Process, *, data: Path) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE and _works_in(process, data)
    except psutil.Error:
        return False


def _works_in(process: psutil.Process, data: Path) -> bool:
    # Every Postgres process changes to its data folder.
    return process.name().startswith("postgres") and process.cwd() == str(data.resolve())


def _state(process: psutil.Process) -> str:
    try:
        return process.status()
    except psutil.Error:
        return psutil.STATUS_ZOMBIE
