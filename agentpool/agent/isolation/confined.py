"""
What the tiers that confine work have in common: doors, rights to the workspace, limits, notes.

A tier starts the command in its own way; what it is held to, and what is noted of it, is the same.
"""

import contextlib
import os
import signal
import threading
import time
from pathlib import Path

import psutil

from agentpool.agent import usage
from agentpool.agent.isolation import (
    INSIDE,
    Enforcement,
    Exit,
    Incident,
    Measure,
    Spec,
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

PATH = "/usr/bin"
_BRIDGED = INSIDE / "doors"
_DISK_EVERY_S = 1.0
_MEMORY_EVERY_S = 0.2
# More incidents than this of one lease say nothing new.
_MOST = 200
_MOST_SAID_BYTES = 4096


class Confined:
    """What is confined for one lease; a tier adds how it starts and ends."""

    def __init__(self, spec: Spec, *, is_top: bool = False) -> None:
        self._spec = spec
        self._policy = spec.policy
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
            self._group = cgroup.Group(runtime=spec.runtime, lease_id=spec.lease_id, is_top=is_top)
        self._machine = seccomp.machine()
        self._disk_at = self._memory_at = time.monotonic()
        self._peak_mb = 0.0
        self.origin_url = doors.ORIGIN_URL if self._has_origin() else ""

    def inside(self, path: Path) -> Path:
        """Return what a path of the lease's folder or workspace is called inside."""
        return mounts.inside(self._spec, path)

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
        if self._group is not None and self._main_pid() is not None:
            try:
                self._group.resize(memory_mb=policy.memory_mb, cpu_cores=policy.cpu_cores)
            except OSError:
                return False
        self._policy = policy
        return True

    def terminate(self) -> None:
        """Send SIGTERM to all that is in it."""
        for process in self._tree():
            with contextlib.suppress(psutil.Error):
                process.terminate()

    # --- how it is put together -------------------------------------------------------------

    def _commands(self, search: str) -> Path:
        """Return the folder of the allowed commands that are found on a search path."""
        return tools.make_folder(
            tools=self._policy.tools,
            cache=self._spec.means.cache / "commands",
            path=search,
            exposed=mounts.exposed(self._spec.means),
        )

    def _make_group(self) -> None:
        if self._group is not None:
            self._group.make(
                memory_mb=self._policy.memory_mb,
                cpu_cores=self._policy.cpu_cores,
                pids=self._policy.pids,
            )

    def _observe(self, machine: seccomp.Machine) -> Observer:
        self._observer = Observer(
            policy=self._policy, machine=machine, note=self._note, work=str(INSIDE / "work")
        )
        return self._observer

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
        is_own = spec.place.is_relative_to(spec.folder)
        roots = writable_roots(spec.place, self._policy.writable)
        for root in (each for each in roots if not each.exists()):
            if is_own:
                root.mkdir(parents=True)
            else:
                name = str(root.relative_to(spec.place))
                users.as_owner(spec.place, 'mkdir -p -- "$1"', name)
        if not self._uid:
            return roots
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

    def _leave(self) -> None:
        """Shut everything that was opened for it; nothing of it lives any more."""
        if self._observer is not None:
            self._observer.close()
        for door in self._doors:
            door.close()
        if self._group is not None:
            self._group.remove()
        users.give_back(self._own_uid)

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
        # The work writes it, and has us read it ten times a second: the first of it are enough.
        said = told[:_MOST_SAID_BYTES].decode("utf-8", "replace")
        for name in dict.fromkeys(said.split()):
            self._note(Incident(kind="tool_refused", detail=name[:100]))

    def _disk_mb(self) -> float:
        folder = self._spec.folder
        own = sum(usage.disk_space_mb(folder / name) for name in ("out", "home", "tmp"))
        is_own = self._spec.place.is_relative_to(folder)
        return round(own + (usage.disk_space_mb(self._spec.place) if is_own else 0.0), 1)

    def _main_pid(self) -> int | None:
        """Return the first process of it, outside's number; None: there is none (any more)."""
        raise NotImplementedError

    def _tree(self) -> list[psutil.Process]:
        pid = self._main_pid()
        if pid is None:
            return []
        with contextlib.suppress(psutil.Error):
            return psutil.Process(pid).children(recursive=True)
        return []


def enforcement(tier: str, policy: Policy, *, lacks: set[str]) -> Enforcement:
    """Return what holds: files and network by namespaces, amounts by group or by watching."""
    lacks = lacks | ({"network"} if policy.network == "full" else set())
    lacks |= {"syscalls"} if seccomp.machine() is None else set()
    return Enforcement(
        tier=tier,
        enforced=tuple(each for each in ASPECTS if each not in lacks),
        declared=tuple(each for each in ASPECTS if each in lacks),
    )


def exit_code(code: int) -> int:
    """
    Return what a shell-like code says; below 0: the number of the signal that killed it.

    bubblewrap and podman tell a signal as a shell does; a program may end with such a code, too.
    """
    return 128 - code if 128 < code < 128 + signal.NSIG else code
