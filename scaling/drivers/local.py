"""
The `local` driver: runtimes as detached processes on this machine.

They are started through a short-lived parent, so they belong to no process of the installation:
they outlive the job worker, a restart of the job cluster, and the supervisor's clean-up of its
process trees. A handle (pid and start time) or the launch's mark in the environment finds them.
"""

import contextlib
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil

from scaling.drivers import runtimes
from scaling.drivers.base import DriverError, Handle, Spec

START_TIMEOUT_S = 10

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
        pid = int(done.stdout)
        return {"pid": pid, "create_time": _create_time(pid), "folder": str(folder), **_here()}

    def find(self, launch_id: str) -> Handle | None:
        """Look for the launch's mark among the processes of this user."""
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                is_runtime = "agentpool.agent" in process.cmdline()
                if is_runtime and process.environ().get(runtimes.MARK) == launch_id:
                    return _handle(process)
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


def _handle(process: psutil.Process) -> Handle:
    command = process.cmdline()
    folder = command[command.index("--workdir") + 1] if "--workdir" in command else ""
    return {"pid": process.pid, "create_time": process.create_time(), "folder": folder, **_here()}


def _here() -> Handle:
    return {"host": socket.gethostname()}


def _create_time(pid: int) -> float:
    try:
        return float(psutil.Process(pid).create_time())
    except psutil.Error as error:
        raise DriverError("The runtime ended at once; its log says why.") from error


def _process(handle: Handle) -> psutil.Process | None:
    try:
        process = psutil.Process(int(handle["pid"]))
        same = abs(process.create_time() - float(handle["create_time"])) < 0.1
        alive = same and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.Error, KeyError, TypeError):
        return None
    return process if alive else None


def _tree(process: psutil.Process) -> Iterator[psutil.Process]:
    with contextlib.suppress(psutil.Error):
        yield from process.children(recursive=True)
    yield process
