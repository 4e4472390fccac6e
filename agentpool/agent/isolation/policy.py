"""
What the work of one lease may do: pure rules over the profile of its type, its grant, and globs.

The control plane sends profile and grant with each offer; the tiers turn a Policy into mounts,
namespaces and limits, and say which of it this host holds (`enforced`) and which not (`declared`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

# Weakest last: what is more is allowed more.
NETWORKS = ("none", "test_only", "limited", "full")
FILES = ("read_only", "read_write_tests", "read_write_source", "full")

# Processes and threads of one lease; a fork bomb ends here.
PIDS = 512
# An environment that is this old is ended, whatever its lease says (seed 2, setup_auto_cleanup).
LONGEST_LIFE_S = 6 * 3600.0
# Of the token budget: from here on the work is warned, at 1 it is stopped.
TOKENS_WARN_SHARE = 0.8

# Where each file level may write, as globs relative to the workspace; `full` and
# `read_write_source` write everywhere, the latter not into .git unless the tool git is allowed.
_WRITABLE: Mapping[str, tuple[str, ...]] = {
    "read_only": (),
    "read_write_tests": ("tests/**", "**/test/**", "**/tests/**", "**/test_*", "**/*_test.*"),
    "read_write_source": ("**",),
    "full": ("**",),
}
# What single tools may write on top of the level.
_TOOLS_WRITE: Mapping[str, tuple[str, ...]] = {
    "write_docs": ("docs/**", "plans/**", "*.md"),
    "git": (".git/**",),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """
    What holds for one lease.

    network: one of NETWORKS; hosts: those that `limited` reaches, `name`, `*.name` or `name:port`.
    files: one of FILES; writable: globs relative to the workspace. Memory and disk in MB.
    """

    network: str = "none"
    hosts: tuple[str, ...] = ()
    files: str = "read_only"
    writable: tuple[str, ...] = ()
    tools: tuple[str, ...] = ()
    memory_mb: int = 1024
    cpu_cores: float = 1.0
    disk_space_mb: int = 500
    token_budget: int | None = None
    pids: int = PIDS

    def says(self) -> dict[str, Any]:
        """Return it as the JSON that the work and the control plane read."""
        return {
            "network": self.network,
            "hosts": list(self.hosts),
            "files": self.files,
            "writable": list(self.writable),
            "tools": list(self.tools),
            "memory_mb": self.memory_mb,
            "cpu_cores": self.cpu_cores,
            "disk_space_mb": self.disk_space_mb,
            "token_budget": self.token_budget,
            "pids": self.pids,
        }


# What all aspects of a policy are called where it is told which of them hold.
ASPECTS = ("network", "files", "tools", "syscalls", "memory", "cpu", "disk", "pids", "time")


def policy_of(*, profile: Mapping[str, Any], grant: Mapping[str, Any]) -> Policy:
    """
    Return the effective policy: never more than the profile, never more than the grant.

    An offer without a profile (an older control plane) gets the strictest of everything.
    """
    tools = tuple(str(tool) for tool in profile.get("allowed_tools") or ())
    files = _known(profile.get("file_access"), FILES)
    extra = tuple(str(glob) for glob in profile.get("writable") or ())
    return Policy(
        network=weaker(
            _known(profile.get("network_access"), NETWORKS), _known(grant.get("network"), NETWORKS)
        ),
        hosts=tuple(str(host).lower() for host in profile.get("allowed_hosts") or ()),
        files=files,
        writable=writable_globs(files=files, tools=tools, extra=extra),
        tools=tools,
        memory_mb=max(1, int(grant.get("memory_mb") or 1024)),
        cpu_cores=max(0.01, float(grant.get("cpu_cores") or 1)),
        disk_space_mb=max(1, int(grant.get("disk_space_mb") or 500)),
        token_budget=grant.get("token_budget"),
    )


def weaker(one: str, other: str) -> str:
    """Return the network level of two that allows less."""
    return min(one, other, key=NETWORKS.index)


def writable_globs(*, files: str, tools: Sequence[str], extra: Sequence[str]) -> tuple[str, ...]:
    """Return where the work may write, relative to its workspace; each glob once, in order."""
    found = [*_WRITABLE[files], *extra]
    for tool in tools:
        found += _TOOLS_WRITE.get(tool, ())
    if files == "full":
        found.append(".git/**")
    return tuple(dict.fromkeys(found))


def writable_roots(place: Path, globs: Sequence[str]) -> list[Path]:
    """
    Return the files and folders of a workspace to mount writable, outermost only.

    A glob that begins with a plain folder names it, there or not yet (`tests/**`); others name what
    is there now. Nothing outside the workspace is ever returned, nor the way through a link.
    """
    if "**" in globs:
        return [place]
    found: set[Path] = set()
    for glob in globs:
        head, _, rest = glob.partition("/")
        if rest == "**" and not _is_pattern(head):
            found.add(place / head)
        else:
            found.update(_matches(place, glob))
    inside = sorted(path for path in found if _is_inside(path, place))
    return [p for p in inside if not any(o != p and p.is_relative_to(o) for o in inside)]


def is_writable(relative: str, globs: Sequence[str]) -> bool:
    """Return whether a path below the workspace is within the globs."""
    return any(
        glob == "**"
        or fnmatch(relative, glob)
        or (glob.endswith("/**") and fnmatch(relative, glob.removesuffix("/**")))
        or (glob.startswith("**/") and fnmatch(relative, glob.removeprefix("**/")))
        for glob in globs
    )


def allows_host(host: str, port: int, hosts: Sequence[str]) -> bool:
    """
    Return whether an allow-list has a host at a port.

    `name` and `*.name` mean the ports 80 and 443; `name:port` that one only.
    """
    host = host.lower().rstrip(".")
    for entry in hosts:
        name, colon, only = entry.rpartition(":") if _has_port(entry) else (entry, "", "")
        name = name.strip("[]")
        if not (port == int(only) if colon else port in (80, 443)):
            continue
        if host == name or (name.startswith("*.") and host.endswith(name[1:])):
            return True
    return False


def _has_port(entry: str) -> bool:
    head, colon, tail = entry.rpartition(":")
    # [::1]:80 has one, ::1 has none.
    return bool(colon) and tail.isdigit() and (":" not in head or head.endswith("]"))


def _known(value: object, legal: Sequence[str]) -> str:
    return str(value) if value in legal else legal[0]


def _is_pattern(text: str) -> bool:
    return any(sign in text for sign in "*?[")


def _matches(place: Path, glob: str) -> list[Path]:
    folder = glob.removesuffix("/**")
    if not folder or folder.startswith("/") or ".." in folder.split("/"):
        return []
    found = [path for path in place.glob(folder) if ".git" not in path.relative_to(place).parts[:1]]
    return found if not glob.endswith("/**") else [path for path in found if path.is_dir()]


def _is_inside(path: Path, place: Path) -> bool:
    if path.is_symlink():
        return False
    return path.resolve().is_relative_to(place.resolve())
