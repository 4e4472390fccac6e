"""
The process tier: bubblewrap's namespaces, a filter of system calls, and limits by control group.

Inside there is a private root: the machine's libraries, the allowed commands in the place of
/usr/bin, the workspace with its writable parts, an empty home and /tmp, no network but a loopback
of its own, no other process. As root, the work becomes a user that nobody else is; as an ordinary
user it gets a user namespace of its own. Everything in it dies with this runtime.
"""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from agentpool.agent.isolation import (
    Exit,
    IsolationUnavailable,
    Means,
    Spec,
    around,
    bare,
    cgroup,
    doors,
    mounts,
    seccomp,
)
from agentpool.agent.isolation.confined import PATH, Confined, enforcement, exit_code
from agentpool.agent.isolation.given import given

_MB = 2**20
SYSCALL_SECCOMP = {"x86_64": 317, "aarch64": 277}


class Sandbox(Confined):
    """One bubblewrap sandbox."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self._child: subprocess.Popen[bytes] | None = None
        # Without a group: begun on few cores, which the work may change.
        lacks = set() if self._group is not None else {"cpu"}
        self.enforcement = enforcement("process", self._policy, lacks=lacks)

    def run(self, *, command: Sequence[str], env: Mapping[str, str], cwd: Path) -> tuple[int, int]:
        """Start the command in a new sandbox."""
        spec = self._spec
        binaries = self._commands(around.search_path())
        self._refuse_unknown(command[0], binaries, cwd)
        ports = self._open_doors()
        roots = self._give_workspace()
        self._make_group()
        env = {**env, "PATH": PATH}
        if doors.PROXY_PORT in ports:
            env |= doors.proxy_variables()
        with given() as files:
            control, told = self._tell_inside(ports, env)
            arguments = mounts.arguments(
                spec=spec,
                policy=self._policy,
                binaries=binaries,
                roots=roots,
                uid=self._uid,
                cwd=cwd,
                told=told,
                given=files,
            )
            child = self._start(command, files.arguments(arguments), files.numbers, control)
        if child.stdout is None or child.stderr is None:
            raise OSError("the pipes of the command are missing")
        return child.stdout.fileno(), child.stderr.fileno()

    def poll(self) -> Exit | None:
        """Return how the command ended; at that moment nothing in the sandbox lives."""
        child = self._child
        if child is None or self._exit is not None:
            return self._exit
        pid, status, used = os.wait4(child.pid, os.WNOHANG)
        if pid == 0:
            return None
        code = child.returncode = os.waitstatus_to_exitcode(status)
        cpu = self._group.cpu_seconds() if self._group else used.ru_utime + used.ru_stime
        self._exit = Exit(
            code=exit_code(code),
            cpu_seconds=round(cpu, 3),
            peak_memory_mb=round(max(self._peak_mb, used.ru_maxrss / 1024), 1),
        )
        return self._exit

    def kill(self) -> None:
        """Kill the sandbox; the kernel ends all that is in it."""
        for process in self._tree():
            with contextlib.suppress(psutil.Error):
                process.kill()
        if self._child is not None and self._exit is None:
            # Not Popen.kill(): that would collect the exit status, which poll() waits for.
            os.kill(self._child.pid, signal.SIGKILL)

    def destroy(self) -> None:
        """Kill what is left, close the doors, remove the control group."""
        if self._child is not None and self._exit is None:
            self.kill()
            while self.poll() is None:
                time.sleep(0.002)
        self._leave()
        for pipe in (self._child.stdout, self._child.stderr) if self._child else ():
            if pipe is not None:
                pipe.close()

    # --- how it is put together -------------------------------------------------------------

    def _start(
        self, command: Sequence[str], arguments: int, files: list[int], control: int | None
    ) -> subprocess.Popen[bytes]:
        """Start bubblewrap, in it `inside.py`, which becomes the command."""
        child = self._child = subprocess.Popen(
            [
                *around.wrapped(self._group, self._policy),
                *("bwrap", "--args", str(arguments), "--"),
                *(around.python()[1], "-I", "-S", "-B", mounts.INSIDE_CODE),
                *command,
            ],
            # Nothing of the work's own: the loader would obey it out here, with our rights.
            env={
                "PATH": os.environ.get("PATH", os.defpath),
                bare.MARK: self._spec.lease_id,
                bare.RUNTIME: self._spec.runtime,
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            pass_fds=files if control is None else [*files, control],
        )
        if self._observer is not None:
            self._observer.start()
        return child

    def _tell_inside(
        self, ports: Mapping[int, Path], env: Mapping[str, str]
    ) -> tuple[int | None, bytes]:
        """Return the descriptor over which `inside.py` sends the filter's, and what it is told."""
        control, program, number = None, b"", 0
        if self._machine is not None:
            number = SYSCALL_SECCOMP[os.uname().machine]
            program = seccomp.program(self._machine, asks=True)
            control = self._observe(self._machine).theirs.fileno()
        doors_told = ",".join(f"{port}={path}" for port, path in ports.items())
        processes = self._policy.pids if self._group is None else 0
        variables = "\0".join(f"{name}={value}" for name, value in env.items())
        words = (
            *(self._uid, processes, self._policy.disk_space_mb * _MB),
            *(-1 if control is None else control, program.hex(), number),
            variables.encode("utf-8", "surrogateescape").hex(),
        )
        return control, ";".join([doors_told, *map(str, words)]).encode("ascii")

    def _main_pid(self) -> int | None:
        is_over = self._child is None or self._exit is not None
        return None if is_over or self._child is None else self._child.pid


def create(spec: Spec) -> Sandbox:
    """Return a new sandbox. Raises: IsolationUnavailable."""
    if why := missing(spec.means):
        raise IsolationUnavailable(why)
    return Sandbox(spec)


def missing(means: Means) -> str:
    """Return why this machine can't offer the tier; empty: it can."""
    return around.bubblewrap_fails()


def remove_left(runtime: str) -> int:
    """End what a killed runtime of this name left: processes die with it, groups stay."""
    return bare.remove_left(runtime) + cgroup.remove_left(runtime)
