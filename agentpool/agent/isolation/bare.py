"""
No isolation: a process group of the agent's own user, ended as a whole. It hides nothing.

Only for machines without bubblewrap, and only where `--allow-bare` says so.

Three nets catch what a command leaves running: its process group; on Linux this runtime is the
subreaper of all its descendants, so that none can slip away to init, and each is known by the
lease id in its environment; and the kernel kills the command when the runtime itself is killed.
"""

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import psutil

from agentpool.agent.isolation import Enforcement, Exit, Incident, Means, Measure, Spec
from agentpool.agent.isolation.policy import ASPECTS, Policy
from agentpool.agent.usage import disk_space_mb

MARK, RUNTIME = "AGENTPOOL_LEASE_ID", "AGENTPOOL_RUNTIME"
_MB = 2**20
_PR_SET_CHILD_SUBREAPER = 36
_STRAY_ROUNDS = 3
_LOOK_EVERY_S = 1.0
# A child that somebody waits for is never a zombie for long; an adopted one is so for ever.
_ZOMBIE_S = 5.0


class ProcessEnvironment:
    """One process group, and what escaped from it."""

    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        self._policy = spec.policy
        self._child: subprocess.Popen[bytes] | None = None
        self._exit: Exit | None = None
        self._looked_at = time.monotonic()
        held = ("memory", "disk", "time")
        declared = tuple(each for each in ASPECTS if each not in held)
        self.origin_url = ""
        self.enforcement = Enforcement(tier="bare", enforced=held, declared=declared)

    def inside(self, path: Path) -> Path:
        """Return the path itself: there is no inside."""
        return path

    def run(self, *, command: Sequence[str], env: Mapping[str, str], cwd: Path) -> tuple[int, int]:
        """Start the command in a session of its own, without stdin."""
        program = shutil.which(command[0], path=env.get("PATH", os.defpath))
        if program is None and not (cwd / command[0]).is_file():
            raise FileNotFoundError(2, "no such program on this agent", command[0])
        self._child = subprocess.Popen(
            [*_tied_to_parent(), *command],
            cwd=cwd,
            env={**env, MARK: self._spec.lease_id, RUNTIME: self._spec.runtime},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        out, err = self._child.stdout, self._child.stderr
        if out is None or err is None:
            raise OSError("the pipes of the command are missing")
        return out.fileno(), err.fileno()

    def poll(self) -> Exit | None:
        """Return how the command ended; at that moment its whole group is killed."""
        child = self._child
        if child is None or self._exit is not None:
            return self._exit
        # Not reaped yet: while it is a zombie, no other group can get its number.
        if os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            return None
        self._signal(signal.SIGKILL)
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        self._exit = Exit(
            code=child.returncode,
            cpu_seconds=round(used.ru_utime + used.ru_stime, 3),
            peak_memory_mb=round(used.ru_maxrss / (1024 if sys.platform == "linux" else _MB), 1),
        )
        return self._exit

    def measure(self) -> Measure:
        """Return the memory and CPU of the command and all its descendants."""
        return measure(self._tree())

    def breach(self) -> Incident | None:
        """Return the limit of memory or disk that is broken, looking once a second."""
        now = time.monotonic()
        if now - self._looked_at < _LOOK_EVERY_S:
            return None
        self._looked_at = now
        memory_mb, policy = self.measure().memory_mb, self._policy
        if memory_mb > policy.memory_mb:
            detail = f"{memory_mb:g} of {policy.memory_mb} MB"
            return Incident(kind="killed_for_memory", detail=detail)
        if (disk_mb := disk_space_mb(self._spec.folder)) > policy.disk_space_mb:
            detail = f"{disk_mb:g} of {policy.disk_space_mb} MB"
            return Incident(kind="killed_for_disk", detail=detail)
        return None

    def incidents(self) -> list[Incident]:
        """Return nothing: nothing is refused."""
        return []

    def resize(self, policy: Policy) -> bool:
        """Take changed limits."""
        self._policy = policy
        return True

    def terminate(self) -> None:
        """Send SIGTERM to the group."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL to the group and to all descendants."""
        for process in self._tree():
            with contextlib.suppress(psutil.Error):
                process.kill()
        self._signal(signal.SIGKILL)

    def destroy(self) -> None:
        """Kill what is left, wait for it, close the pipes."""
        if self._child is not None and self._exit is None:
            self.kill()
            while self.poll() is None:
                time.sleep(0.005)
        _end_strays(self._spec.lease_id)
        _reap_adopted()
        for pipe in (self._child.stdout, self._child.stderr) if self._child else ():
            if pipe is not None:
                pipe.close()

    def _signal(self, number: signal.Signals) -> None:
        if self._child is not None and self._exit is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._child.pid, number)

    def _tree(self) -> list[psutil.Process]:
        if self._child is None or self._exit is not None:
            return []
        with contextlib.suppress(psutil.Error):
            root = psutil.Process(self._child.pid)
            return [root, *root.children(recursive=True)]
        return []


def create(spec: Spec) -> ProcessEnvironment:
    """Return a new environment."""
    _become_subreaper()
    return ProcessEnvironment(spec)


def missing(means: Means) -> str:
    """Return nothing: a process can be started everywhere."""
    return ""


def measure(processes: Iterable[psutil.Process]) -> Measure:
    """Return what some processes use together."""
    memory, cpu = 0.0, 0.0
    for process in processes:
        with contextlib.suppress(psutil.Error):
            memory += process.memory_info().rss / _MB
            times = process.cpu_times()
            cpu += times.user + times.system + times.children_user + times.children_system
    return Measure(memory_mb=round(memory, 1), cpu_seconds=round(cpu, 3))


def remove_left(runtime: str) -> int:
    """Kill what an earlier runtime of this name, killed itself, left running; return how many."""
    left = [each for each in psutil.process_iter() if _is_leftover(each, runtime)]
    for process in left:
        with contextlib.suppress(psutil.Error):
            process.kill()
    return len(left)


def _is_leftover(process: psutil.Process, runtime: str) -> bool:
    with contextlib.suppress(psutil.Error, OSError):
        environ = process.environ()
        return MARK in environ and environ.get(RUNTIME) == runtime
    return False


def _tied_to_parent() -> list[str]:
    """Return the prefix that lets the kernel kill the command when this runtime dies."""
    # An exec, not a fork: it costs a millisecond. preexec_fn is not safe beside threads.
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "KILL", "--"] if setpriv else []


def _end_strays(lease_id: str) -> None:
    """Kill descendants that left the group of the lease; a few rounds, they may still fork."""
    for _ in range(_STRAY_ROUNDS):
        strays = list(_strays(lease_id))
        if not strays:
            return
        for process in strays:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(strays, timeout=1)


def _strays(lease_id: str) -> Iterator[psutil.Process]:
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error, OSError):
            is_dead = process.status() == psutil.STATUS_ZOMBIE
            if not is_dead and process.environ().get(MARK) == lease_id:
                yield process


_reaping = threading.Lock()
_zombies: dict[int, float] = {}
_is_subreaper = False


def _become_subreaper() -> None:
    global _is_subreaper
    if _is_subreaper or sys.platform != "linux":
        return
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        _is_subreaper = True


def _reap_adopted() -> None:
    """Collect zombies whose parent died before them; they would stay as long as we live."""
    now = time.monotonic()
    with _reaping:
        found = {}
        for process in psutil.Process().children():
            with contextlib.suppress(psutil.Error):
                if process.status() == psutil.STATUS_ZOMBIE:
                    found[process.pid] = _zombies.get(process.pid, now)
        for pid, since in list(found.items()):
            if now - since > _ZOMBIE_S:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)
                del found[pid]
        _zombies.clear()
        _zombies.update(found)
