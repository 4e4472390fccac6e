"""
The `local` driver: runtimes as detached processes on this machine.

They are started through a short-lived parent, so they belong to no process of the installation:
they outlive the job worker, a restart of the job cluster, and the supervisor's clean-up of its
process trees. A pid and the launch's mark in the environment find them; a start time would not do:
it is a date, which moves when the machine's clock is set.
"""

import contextlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from scaling.drivers import runtimes
from scaling.drivers.base import DriverError, Handle, Spec

START_TIMEOUT_S, EXECUTED_WITHIN_S = 10, 0.5

# Forks, makes a session of its own, prints the child's pid, and is gone.
_DETACH = """
import os, sys
pid = os.fork()
if pid:
    print(pid, flush=True)
    os._exit(0)
os.setsid()
log = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
null = os.open(os.devnull, os.O_RDONLY)
os.dup2(null, 0); os.dup2(log, 1); os.dup2(log, 2)
os.closerange(3, 256)
os.execv(sys.argv[2], sys.argv[2:])
"""


class LocalDriver:
    """Starts `agentpool agent run` on this machine."""

    def start(self, spec: Spec) -> Handle:
        """Start a runtime; raises DriverError."""
        if spec.resources:
            named = ", ".join(spec.resources)
            raise DriverError(f"The driver local knows no resources of its own, such as {named}.")
        folder = runtimes.folder_of(spec)
        try:
            start = [str(runtimes.log_file(spec)), *runtimes.command(spec, folder)]
            done = subprocess.run(
                [sys.executable, "-S", "-E", "-c", _DETACH, *start],
                env=runtimes.environment(spec),
                capture_output=True,
                stdin=subprocess.DEVNULL,
                timeout=START_TIMEOUT_S,
                check=True,
                text=True,
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise DriverError(f"The runtime did not start: {error}") from error
        handle = _handle(int(done.stdout), spec.launch_id, str(folder))
        if _process(handle) is None:
            raise DriverError("The runtime ended at once; its log says why.")
        return handle

    def find(self, launch_id: str) -> Handle | None:
        """Look for the launch's mark among the processes of this user."""
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                command = process.cmdline()
                is_runtime = "agentpool.agent" in command
                if is_runtime and process.environ().get(runtimes.MARK) == launch_id:
                    folder = command[command.index("--workdir") + 1]
                    return _handle(process.pid, launch_id, folder)
        return None

    def reaches(self, handle: Handle) -> bool:
        """Return whether the runtime runs on this machine."""
        return handle.get("host") == socket.gethostname()

    def is_alive(self, handle: Handle) -> bool:
        """Return whether that very process runs; a pid alone may have been given out again."""
        return _process(handle) is not None

    def stop(self, handle: Handle, *, urgent: bool) -> None:
        """SIGTERM: the first drains, the second cancels the work."""
        process = _process(handle)
        if process is None:
            return
        with contextlib.suppress(psutil.Error):
            process.send_signal(signal.SIGTERM)
            if urgent:
                process.send_signal(signal.SIGQUIT)

    def kill(self, handle: Handle) -> None:
        """SIGKILL the runtime and everything below it."""
        process = _process(handle)
        if process is None:
            return
        for victim in _tree(process):
            with contextlib.suppress(psutil.Error):
                victim.kill()

    def clean(self, handle: Handle) -> None:
        """Remove the runtime's work folder; its log stays for whoever asks what happened."""
        if (folder := handle.get("folder")) and _process(handle) is None:
            runtimes.remove_left(Path(folder))


def _handle(pid: int, launch_id: str, folder: str) -> Handle:
    return {"pid": pid, "launch_id": launch_id, "folder": folder, "host": socket.gethostname()}


def _process(handle: Handle) -> psutil.Process | None:
    try:
        process = psutil.Process(int(handle["pid"]))
        mark = _environ(process).get(runtimes.MARK)
        # Handles of earlier versions do not name the launch.
        same = mark is not None and mark == handle.get("launch_id", mark)
        alive = same and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.Error, OSError, KeyError, TypeError):
        return None
    return process if alive else None


def _environ(process: psutil.Process) -> dict[str, str]:
    """Return a process's environment; one that is just being executed shows none for an instant."""
    until = time.monotonic() + EXECUTED_WITHIN_S
    while not (found := process.environ()) and time.monotonic() < until:
        if process.status() == psutil.STATUS_ZOMBIE:
            break
        time.sleep(0.005)
    return found


def _tree(process: psutil.Process) -> Iterator[psutil.Process]:
    with contextlib.suppress(psutil.Error):
        yield from process.children(recursive=True)
    yield process
