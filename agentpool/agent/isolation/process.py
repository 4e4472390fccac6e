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
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from agentpool.agent import usage
from agentpool.agent.isolation import (
    INSIDE,
    Enforcement,
    Exit,
    Incident,
    IsolationUnavailable,
    Means,
    Measure,
    Spec,
    around,
    bare,
    cgroup,
    doors,
    mounts,
    seccomp,
    tools,
    users,
)
from agentpool.agent.isolation.observer import Observer
from agentpool.agent.isolation.policy import ASPECTS, Policy, writable_roots

_BRIDGED = INSIDE / "doors"
_PATH = "/usr/bin"
_MB = 2**20
_DISK_EVERY_S = 1.0
_MEMORY_EVERY_S = 0.2
# More incidents than this of one lease say nothing new.
_MOST = 200
_SYSCALL_SECCOMP = {"x86_64": 317, "aarch64": 277}


class Sandbox:
    """One bubblewrap sandbox."""

    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        self._policy = spec.policy
        self._child: subprocess.Popen[bytes] | None = None
        self._exit: Exit | None = None
        self._lock = threading.Lock()
        self._noted: list[Incident] = []
        self._known: set[Incident] = set()
        self._doors: list[doors.Proxy | doors.Origin] = []
        self._observer: Observer | None = None
        # 0: this runtime is no root, bubblewrap makes a user namespace instead.
        self._uid = self._own_uid = users.take(spec.lease_id) if os.geteuid() == 0 else 0
        self._group: cgroup.Group | None = None
        if cgroup.host().works:
            self._group = cgroup.Group(agent_id=spec.agent_id, lease_id=spec.lease_id)
        self._machine = seccomp.machine()
        self._disk_at = self._memory_at = time.monotonic()
        self._peak_mb = 0.0
        self.origin_url = doors.ORIGIN_URL if self._has_origin() else ""
        self.enforcement = _enforcement(
            self._policy, self._machine, has_group=self._group is not None
        )

    def inside(self, path: Path) -> Path:
        """Return what a path of the lease's folder or workspace is called inside."""
        return mounts.inside(self._spec, path)

    def run(self, *, command: Sequence[str], env: Mapping[str, str], cwd: Path) -> tuple[int, int]:
        """Start the command in a new sandbox."""
        spec = self._spec
        binaries = tools.make_folder(
            tools=self._policy.tools,
            cache=spec.means.cache / "commands",
            path=around.search_path(),
            exposed=mounts.exposed(spec.means),
        )
        self._refuse_unknown(command[0], binaries, cwd)
        ports = self._open_doors()
        roots = self._give_workspace()
        if self._group is not None:
            self._group.make(
                memory_mb=self._policy.memory_mb,
                cpu_cores=self._policy.cpu_cores,
                pids=self._policy.pids,
            )
        env = {**env, "PATH": _PATH}
        if doors.PROXY_PORT in ports:
            env |= doors.proxy_variables()
        mounts.write_etc(spec.folder / "etc", self._uid or os.getuid())
        (spec.folder / mounts.TOLD).touch()
        arguments = mounts.arguments(
            spec=spec, policy=self._policy, binaries=binaries, roots=roots, uid=self._uid, cwd=cwd
        )
        child = self._start(arguments, command, env, ports)
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
        code = os.waitstatus_to_exitcode(status)
        child.returncode = code
        # bubblewrap tells a signal as a shell does; a program may end with such a code, too.
        if 128 < code < 128 + signal.NSIG:
            code = 128 - code
        cpu = self._group.cpu_seconds() if self._group else used.ru_utime + used.ru_stime
        self._exit = Exit(
            code=code,
            cpu_seconds=round(cpu, 3),
            peak_memory_mb=round(max(self._peak_mb, used.ru_maxrss / 1024), 1),
        )
        return self._exit

    def measure(self) -> Measure:
        """Return what everything in the sandbox uses now."""
        if self._group is not None:
            found = Measure(
                memory_mb=round(self._group.memory_mb(), 1),
                cpu_seconds=round(self._group.cpu_seconds(), 3),
            )
        else:
            found = bare.measure(self._tree())
        self._peak_mb = max(self._peak_mb, found.memory_mb)
        return found

    def breach(self) -> Incident | None:
        """Return the limit of memory or disk that is broken, looking at each now and then."""
        now = time.monotonic()
        if self._group is not None and self._group.was_killed_for_memory():
            return Incident(kind="killed_for_memory", detail=f"{self._policy.memory_mb} MB")
        if self._group is None and now - self._memory_at >= _MEMORY_EVERY_S:
            self._memory_at = now
            used = self.measure().memory_mb
            if used > self._policy.memory_mb:
                detail = f"{used:g} of {self._policy.memory_mb} MB"
                return Incident(kind="killed_for_memory", detail=detail)
        if now - self._disk_at >= _DISK_EVERY_S:
            self._disk_at = now
            used = self._disk_mb()
            if used > self._policy.disk_space_mb:
                detail = f"{used:g} of {self._policy.disk_space_mb} MB"
                return Incident(kind="killed_for_disk", detail=detail)
        return None

    def incidents(self) -> list[Incident]:
        """Return what was refused since the last call."""
        self._read_refused_tools()
        if self._group is not None and self._group.was_short_of_pids():
            self._note(Incident(kind="too_many_processes", detail=f"{self._policy.pids}"))
        with self._lock:
            found, self._noted = self._noted, []
        return found

    def resize(self, policy: Policy) -> bool:
        """Take changed limits of memory, CPU and disk."""
        if self._group is not None and self._exit is None and self._child is not None:
            try:
                self._group.resize(memory_mb=policy.memory_mb, cpu_cores=policy.cpu_cores)
            except OSError:
                return False
        self._policy = policy
        return True

    def terminate(self) -> None:
        """Send SIGTERM to all that is in the sandbox."""
        for process in self._tree():
            with contextlib.suppress(psutil.Error):
                process.terminate()

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
        if self._observer is not None:
            self._observer.close()
        for door in self._doors:
            door.close()
        if self._group is not None:
            self._group.remove()
        users.give_back(self._own_uid)
        for pipe in (self._child.stdout, self._child.stderr) if self._child else ():
            if pipe is not None:
                pipe.close()

    # --- how it is put together -------------------------------------------------------------

    def _start(
        self,
        arguments: list[str],
        command: Sequence[str],
        env: Mapping[str, str],
        ports: Mapping[int, Path],
    ) -> subprocess.Popen[bytes]:
        """Start bubblewrap, in it `inside.py`, which becomes the command."""
        control = self._tell_inside(ports, env)
        # Not on the command line: the sandbox's first process shows that to the work.
        told = os.memfd_create("arguments")
        os.write(told, "\0".join([*arguments, ""]).encode())
        os.lseek(told, 0, os.SEEK_SET)
        try:
            child = self._child = subprocess.Popen(
                [
                    *around.wrapped(self._group, self._policy),
                    *("bwrap", "--args", str(told), "--"),
                    *(around.python()[1], "-I", "-S", "-B", f"/lease/{mounts.INSIDE_PROGRAM.name}"),
                    *command,
                ],
                # Nothing of the work's own: the loader would obey it out here, with our rights.
                env={
                    "PATH": os.environ.get("PATH", os.defpath),
                    bare.MARK: self._spec.lease_id,
                    bare.AGENT: self._spec.agent_id,
                },
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
                pass_fds=[told] if control is None else [told, control],
            )
        finally:
            os.close(told)
        if self._observer is not None:
            self._observer.start()
        return child

    def _tell_inside(self, ports: Mapping[int, Path], env: Mapping[str, str]) -> int | None:
        """Write what `inside.py` reads; return the descriptor over which it sends the filter's."""
        control, program, number = None, b"", 0
        if self._machine is not None:
            number = _SYSCALL_SECCOMP[os.uname().machine]
            program = seccomp.program(self._machine, asks=True)
            self._observer = Observer(
                policy=self._policy,
                machine=self._machine,
                note=self._note,
                work=str(INSIDE / "work"),
            )
            control = self._observer.theirs.fileno()
        doors_told = ",".join(f"{port}={path}" for port, path in ports.items())
        processes = self._policy.pids if self._group is None else 0
        variables = "\0".join(f"{name}={value}" for name, value in env.items())
        words = (
            *(self._uid, processes, -1 if control is None else control, program.hex(), number),
            variables.encode("utf-8", "surrogateescape").hex(),
        )
        told = ";".join([doors_told, *map(str, words)])
        (self._spec.folder / mounts.TOLD).write_text(told, encoding="ascii")
        return control

    def _open_doors(self) -> dict[int, Path]:
        """Open the doors that the policy allows; return the ports inside and where they lead."""
        folder = self._spec.folder / "doors"
        folder.mkdir(exist_ok=True)
        found = {}
        if self._policy.network == "limited" and self._policy.hosts:
            path = folder / "proxy"
            hosts = self._policy.hosts
            self._doors.append(doors.Proxy(socket_path=path, hosts=hosts, note=self._note))
            found[doors.PROXY_PORT] = _BRIDGED / "proxy"
        if self._spec.origin is not None and self._has_origin():
            path = folder / "origin"
            self._doors.append(doors.Origin(socket_path=path, repository=self._spec.origin))
            found[doors.ORIGIN_PORT] = _BRIDGED / "origin"
        for door in self._doors:
            door.open()
        return found

    def _has_origin(self) -> bool:
        has_git = "git" in tools.commands_of(self._policy.tools)
        return has_git and self._spec.origin is not None

    def _give_workspace(self) -> list[Path]:
        """Make the writable parts of the workspace, and give them to the work's user."""
        spec = self._spec
        roots = writable_roots(spec.place, self._policy.writable)
        for root in roots:
            if not root.exists():
                root.mkdir(parents=True)
        if not self._uid:
            return roots
        is_own = spec.place.is_relative_to(spec.folder)
        if not is_own:
            self._uid = users.owner_of(spec.place) if roots else self._uid
        for part in ("home", "tmp", "out", "in"):
            users.give(spec.folder / part, self._uid)
        if is_own:
            # All of it: what is not to be written is mounted read only, and git refuses a
            # repository of somebody else.
            users.give(spec.place, self._uid)
        return roots

    def _refuse_unknown(self, program: str, binaries: Path, cwd: Path) -> None:
        """Raises: FileNotFoundError or PermissionError, the sandbox will not have this program."""
        name = Path(program).name
        if "/" not in program and not (binaries / program).exists():
            raise FileNotFoundError(2, "no such program on this agent", program)
        if "/" not in program and name in tools.refused(self._policy.tools):
            self._note(Incident(kind="tool_refused", detail=name))
            said = "this tool is not in the security profile of the agent's type"
            raise PermissionError(13, said, program)

    # --- what happens in it -----------------------------------------------------------------

    def _note(self, incident: Incident) -> None:
        """Keep an incident, each once a lease and _MOST in all; any thread may call this."""
        with self._lock:
            if incident not in self._known and len(self._known) < _MOST:
                self._known.add(incident)
                self._noted.append(incident)

    def _read_refused_tools(self) -> None:
        try:
            told = usage.read_plain(self._spec.folder / "out" / tools.REFUSED)
        except OSError:
            return
        for name in dict.fromkeys(told.decode("utf-8", "replace").split()):
            self._note(Incident(kind="tool_refused", detail=name[:100]))

    def _disk_mb(self) -> float:
        folder = self._spec.folder
        own = sum(usage.disk_space_mb(folder / name) for name in ("out", "home", "tmp"))
        is_own = self._spec.place.is_relative_to(folder)
        return round(own + (usage.disk_space_mb(self._spec.place) if is_own else 0.0), 1)

    def _tree(self) -> list[psutil.Process]:
        if self._child is None or self._exit is not None:
            return []
        with contextlib.suppress(psutil.Error):
            return psutil.Process(self._child.pid).children(recursive=True)
        return []


def create(spec: Spec) -> Sandbox:
    """Return a new sandbox. Raises: IsolationUnavailable."""
    if why := missing(spec.means):
        raise IsolationUnavailable(why)
    return Sandbox(spec)


def missing(means: Means) -> str:
    """Return why this machine can't offer the tier; empty: it can."""
    return around.bubblewrap_fails()


def remove_left(agent_id: str) -> int:
    """End what a killed runtime of this agent left: processes die with it, groups stay."""
    return bare.remove_left(agent_id) + cgroup.remove_left(agent_id)


def _enforcement(
    policy: Policy, machine: seccomp.Machine | None, *, has_group: bool
) -> Enforcement:
    """Return what holds: files and network by namespaces, amounts by group or by watching."""
    missing_here = set()
    if machine is None:
        missing_here.add("syscalls")
    if policy.network == "full":
        missing_here.add("network")
    if not has_group:
        missing_here.add("cpu")  # begun on few cores, which the work may change
    return Enforcement(
        tier="process",
        enforced=tuple(each for each in ASPECTS if each not in missing_here),
        declared=tuple(each for each in ASPECTS if each in missing_here),
    )
