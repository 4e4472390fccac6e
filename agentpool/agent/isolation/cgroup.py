"""
Control groups: the kernel's own limits on memory, CPU and processes of one lease.

Version 2 and version 1 are used where this user may write them; else there is none, and the
runtime watches instead. Groups are named by runtime and lease, so that the next one in the same
folder finds what a killed one left behind.
"""

import contextlib
import errno
import os
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import psutil

_ROOT = Path("/sys/fs/cgroup")
_NEEDED = ("memory", "pids", "cpu")
_PERIOD_US = 100_000
_MB = 2**20
_GONE_S = 2.0
# Of version 2: where a runtime goes that stands in the group below which leases shall have theirs.
_LEAF = "agentpool-runtime"
# The folder of a runtime goes with its last group, and must not go while one is being made.
_changing = threading.Lock()


@dataclass(frozen=True, slots=True)
class Host:
    """
    Where groups may be made: the parent folder of each controller; version 2 has one for all.

    why: what is missing, empty when nothing is.
    """

    version: int
    parents: dict[str, Path] = field(default_factory=dict)
    why: str = ""

    @property
    def works(self) -> bool:
        """Whether groups can be made here."""
        return not self.why

    def top(self) -> dict[str, Path]:
        """Return the folder above all groups for each controller, where engines make theirs."""
        return {name: _ROOT if self.version == 2 else _ROOT / name for name in self.parents}


@cache
def host() -> Host:
    """Return what this process may do with control groups; looks once, by making one."""
    found = _version_2() if (_ROOT / "cgroup.controllers").exists() else _version_1()
    if found.works and (why := _try(found)):
        return Host(found.version, {}, why)
    return found


class Group:
    """
    The control group of one lease.

    is_top: not within this runtime's own group but above, with one path for all controllers.
    """

    def __init__(self, *, runtime: str, lease_id: str, is_top: bool = False) -> None:
        self._host = host()
        parents = self._host.top() if is_top else self._host.parents
        self._folders = {n: p / "agentpool" / runtime / lease_id for n, p in parents.items()}

    def make(self, *, memory_mb: int, cpu_cores: float, pids: int) -> None:
        """Make the group with its limits. Raises: OSError."""
        with _changing:
            for folder in dict.fromkeys(self._folders.values()):
                if self._host.version == 2:
                    _hand_down(*list(folder.parents)[2::-1])
                folder.mkdir(parents=True, exist_ok=True)
        self._write("pids", "pids.max", pids)
        if self._host.version == 2:
            with contextlib.suppress(OSError):
                self._write("memory", "memory.oom.group", 1)
                self._write("memory", "memory.swap.max", 0)
        self.resize(memory_mb=memory_mb, cpu_cores=cpu_cores)

    def resize(self, *, memory_mb: int, cpu_cores: float) -> None:
        """Change the limits of a group that may be in use. Raises: OSError, it uses more now."""
        size, quota = memory_mb * _MB, max(1000, int(cpu_cores * _PERIOD_US))
        if self._host.version == 2:
            self._write("memory", "memory.max", size)
            self._write("cpu", "cpu.max", f"{quota} {_PERIOD_US}")
            return
        self._write_v1_memory(size)
        self._write("cpu", "cpu.cfs_period_us", _PERIOD_US)
        try:
            self._write("cpu", "cpu.cfs_quota_us", quota)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            # More than a group above has: that one's holds, and none of its own may exceed it.
            self._write("cpu", "cpu.cfs_quota_us", -1)

    def entrances(self) -> list[str]:
        """Return the files into which a process writes 0 to be in the group."""
        folders = dict.fromkeys(self._folders.values())
        return [str(folder / "cgroup.procs") for folder in folders]

    def path(self) -> str:
        """Return what the group is called among the groups, as engines take it for a parent."""
        place = self._folders["memory"]
        return f"/{place.relative_to(_ROOT if self._host.version == 2 else _ROOT / 'memory')}"

    def memory_mb(self) -> float:
        """Return what processes hold in memory, without the file cache; up to 2 s old."""
        name = "anon" if self._host.version == 2 else "total_rss"
        return self._field("memory", "memory.stat", name) / _MB

    def cpu_seconds(self) -> float:
        """Return the CPU time used so far."""
        if self._host.version == 2:
            return self._field("cpu", "cpu.stat", "usage_usec") / 1e6
        return float(self._read("cpuacct", "cpuacct.usage") or 0) / 1e9

    def was_killed_for_memory(self) -> bool:
        """Whether the kernel has killed something here because the limit was reached."""
        if self._host.version == 2:
            return self._field("memory", "memory.events", "oom_kill") > 0
        return self._counted("memory", "memory.oom_control", "oom_kill") > 0

    def was_short_of_pids(self) -> bool:
        """Whether a process could not be made because there are as many as there may be."""
        return self._counted("pids", "pids.events", "max") > 0

    def kill(self) -> None:
        """Kill all that is in the group."""
        for pid in self.pids():
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)

    def pids(self) -> list[int]:
        """Return the processes in the group."""
        return [int(line) for line in self._read("pids", "cgroup.procs").split()]

    def remove(self) -> None:
        """Kill what is left and remove the group."""
        for folder in dict.fromkeys(self._folders.values()):
            _remove(folder)
            # The agent's own, once no lease of it is left.
            with _changing, contextlib.suppress(OSError):
                folder.parent.rmdir()

    def _write_v1_memory(self, size: int) -> None:
        # The limit with swap may never be below the one without: which goes first depends.
        names = ["memory.limit_in_bytes", "memory.memsw.limit_in_bytes"]
        now = int(self._read("memory", names[0]) or 0)
        for name in names if size < now else reversed(names):
            if (self._folders["memory"] / name).exists():
                self._write("memory", name, size)

    def _write(self, controller: str, name: str, value: object) -> None:
        (self._folders[controller] / name).write_text(str(value), encoding="ascii")

    def _read(self, controller: str, name: str) -> str:
        try:
            return (self._folders[controller] / name).read_text(encoding="ascii").strip()
        except OSError:
            return ""

    def _counted(self, controller: str, name: str, wanted: str) -> int:
        """Return a count of this group and those that an engine made within: either may have it."""
        own = self._folders[controller]
        within = [str(each.relative_to(own)) for each in own.glob(f"*/{name}")]
        return sum(self._field(controller, each, wanted) for each in (name, *within))

    def _field(self, controller: str, name: str, wanted: str) -> int:
        for line in self._read(controller, name).splitlines():
            key, _, value = line.partition(" ")
            if key == wanted:
                return int(value)
        return 0


def remove_left(runtime: str) -> int:
    """Remove the groups that a killed runtime of this name left behind; return how many."""
    count = 0
    for parent in {*host().parents.values(), *host().top().values()}:
        own = parent / "agentpool" / runtime
        if not own.is_dir():
            continue
        for folder in [each for each in own.iterdir() if each.is_dir()]:
            _remove(folder)
            count += 1
        with contextlib.suppress(OSError):
            own.rmdir()
    return count


def _version_2() -> Host:
    """Return this process's own group where it can be used, else the one above all."""
    own = _ROOT / _own_paths().get("", "").lstrip("/")
    whys = []
    for parent in dict.fromkeys((own.parent if own.name == _LEAF else own, _ROOT)):
        if not (why := _lacks(parent)):
            return Host(2, dict.fromkeys(_NEEDED, parent))
        whys.append(why)
    return Host(2, {}, "; ".join(whys))


def _lacks(parent: Path) -> str:
    """
    Return why groups of version 2 can't be made below one, which is made fit for it if that is all.

    A group whose children have controllers has no processes of its own: if those in it are this
    one's alone, they go to a leaf beside the others.
    """
    try:
        there = set((parent / "cgroup.controllers").read_text(encoding="ascii").split())
        if missing := [name for name in _NEEDED if name not in there]:
            return f"the controllers {', '.join(missing)} are not handed to {parent}"
        try:
            _hand_down(parent)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            if others := set(_pids_in(parent)) - _own_pids():
                return f"{parent} has other processes ({min(others)}): give it a group of its own"
            _move(_own_pids(), parent / _LEAF)
            _hand_down(parent)
    except OSError as error:
        return f"{error.filename or parent}: {error.strerror}"
    return ""


def _move(pids: Iterable[int], leaf: Path) -> None:
    leaf.mkdir(exist_ok=True)
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            (leaf / "cgroup.procs").write_text(str(pid), encoding="ascii")


def _own_pids() -> set[int]:
    """Return this process and all that it has started."""
    found = {os.getpid()}
    with contextlib.suppress(psutil.Error):
        found |= {each.pid for each in psutil.Process().children(recursive=True)}
    return found


def _version_1() -> Host:
    paths = _own_paths()
    parents = {}
    for name in (*_NEEDED, "cpuacct"):
        folder = _ROOT / name
        if not folder.is_dir():
            return Host(1, {}, f"{folder} is not there")
        own = folder / paths.get(name, "/").lstrip("/")
        parents[name] = own if own.is_dir() else folder
    return Host(1, parents)


def _own_paths() -> dict[str, str]:
    """Return the path of this process's group, by controller; version 2 under the empty name."""
    found = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        for name in names.split(","):
            found[name] = path
    return found


def _try(found: Host) -> str:
    """Make and remove a group; return why that does not work."""
    try:
        for parent in dict.fromkeys(found.parents.values()):
            probe = parent / "agentpool" / f"probe-{os.getpid()}"
            if found.version == 2:
                _hand_down(parent, probe.parent)
            probe.mkdir(parents=True, exist_ok=True)
            if not os.access(probe / "cgroup.procs", os.W_OK):
                return f"{probe}/cgroup.procs may not be written"
            probe.rmdir()
    except OSError as error:
        return f"{error.filename}: {error.strerror}"
    return ""


def _hand_down(*parents: Path) -> None:
    """Let the controllers reach what is below some groups: each must hand them to its children."""
    for parent in parents:
        parent.mkdir(exist_ok=True)
        control = parent / "cgroup.subtree_control"
        given = control.read_text(encoding="ascii").split()
        if any(name not in given for name in _NEEDED):
            control.write_text(" ".join(f"+{name}" for name in _NEEDED), encoding="ascii")


def _remove(folder: Path) -> None:
    """Kill what is in a group, and in those that an engine made within it, and remove them."""
    until = time.monotonic() + _GONE_S
    while folder.exists():
        inner = [each for each in folder.rglob("*") if each.is_dir()]
        for each in (*sorted(inner, reverse=True), folder):
            for pid in _pids_in(each):
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(OSError):
                each.rmdir()
        if time.monotonic() > until:
            return
        if folder.exists():
            time.sleep(0.005)


def _pids_in(folder: Path) -> Iterator[int]:
    with contextlib.suppress(OSError):
        yield from (int(line) for line in (folder / "cgroup.procs").read_text().split())
