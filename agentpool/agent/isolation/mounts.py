"""
What is in a sandbox or container: a private root with little of the machine in it.

The machine's libraries are there read only, its programs are not: the allowed ones stand in the
place of /usr/bin. Nothing here starts anything.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from agentpool.agent.isolation import INSIDE, Means, Spec, around, tools
from agentpool.agent.isolation.given import Given, compiled
from agentpool.agent.isolation.policy import Policy

# The first program inside, see there.
INSIDE_PROGRAM, INSIDE_CODE = Path(__file__).with_name("inside.py"), "/lease/inside.pyc"
# Of the machine's files these are shown, read only; its programs are not among them.
_SHOWN = (
    *("/usr/lib", "/usr/lib32", "/usr/lib64", "/usr/libx32", "/usr/libexec", "/usr/share"),
    *("/usr/include", "/usr/local/lib", "/usr/local/include", "/usr/local/share"),
    *("/etc/ssl", "/etc/ca-certificates", "/etc/alternatives", "/etc/fonts"),
    *("/etc/ld.so.conf.d", "/etc/pki", "/etc/crypto-policies"),
)
# Small ones, of which a sandbox gets copies.
_SHOWN_FILES = (
    *("/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/localtime", "/etc/timezone"),
    *("/etc/protocols", "/etc/services", "/etc/mime.types"),
)
# Of the sandbox around a virtual machine: the root that the machine mounts, and what it is made of.
SHARED, MACHINE = Path("/guest"), Path("/machine")
_OF_QEMU = (
    *("/usr/lib", "/usr/lib32", "/usr/lib64", "/usr/libx32", "/usr/local/lib", "/usr/libexec"),
    *("/usr/share/qemu", "/usr/share/seabios", "/etc/ld.so.cache", "/etc/alternatives"),
)
# How many words of bubblewrap's follow an option, the last of them a place inside.
_WORDS = {
    **dict.fromkeys(("--dir", "--tmpfs"), 1),
    **dict.fromkeys(("--bind", "--ro-bind", "--ro-bind-try", "--symlink", "--file"), 2),
}
# Of an image, where this tier's notes about refused tools stand.
REFUSALS = INSIDE / "refusals"
_GIT_PARTS = Path("/usr/lib/git-core")
_PARTS = ("in", "out", "home", "tmp")
_LINKS = {"bin": "usr/bin", "sbin": "usr/bin", "lib": "usr/lib", "lib64": "usr/lib64"}


def arguments(
    *,
    spec: Spec,
    policy: Policy,
    binaries: Path,
    roots: Sequence[Path],
    uid: int,
    cwd: Path,
    told: bytes,
    given: Given,
) -> list[str]:
    """
    Return bubblewrap's own arguments.

    binaries: the folder in the place of /usr/bin. roots: the parts of the workspace to mount
    writable. uid: whom `inside.py` will become, 0: bubblewrap makes a user namespace instead.
    told: what that program is told. given: takes what becomes a file inside.
    """
    # First, so that exposed folders may stand in them.
    found = [*_namespaces(policy, uid), "--bind", str(spec.folder / "tmp"), "/tmp"]  # noqa: S108
    # What lies in /run is memory that no process is seen to hold.
    run_bytes = str(policy.memory_mb * 2**20)
    found += ["--proc", "/proc", "--dev", "/dev", "--size", run_bytes, "--tmpfs", "/run"]
    found += _system(spec, policy, binaries, uid, given)
    if policy.network == "full":
        found += given.copy("/etc/resolv.conf", "/etc/resolv.conf")
    found += given.text(compiled(INSIDE_PROGRAM), INSIDE_CODE)
    found += given.text(told, "/lease/inside.txt", mode="0400")
    found += ["--ro-bind", str(spec.folder / "doors"), str(INSIDE / "doors")]
    found += ["--symlink", "../tmp", str(INSIDE / "tmp")]
    interpreter, shown_at = around.python()
    found += ["--ro-bind", str(interpreter), shown_at] if shown_at == "/lease/python" else []
    return [*found, *_lease(spec, roots), "--remount-ro", "/", "--chdir", str(inside(spec, cwd))]


def shared(
    *,
    spec: Spec,
    policy: Policy,
    binaries: Path,
    roots: Sequence[Path],
    uid: int,
    resolver: str,
    given: Given,
) -> list[str]:
    """
    Return bubblewrap's arguments for the same root, in two parts that a machine mounts.

    SHARED/system does not change while the machine runs, SHARED/lease does. resolver: the address
    of the one that the machine has.
    """
    system = _system(spec, policy, binaries, uid, given)
    said = f"nameserver {resolver}\n" if resolver else ""
    system += given.text(said.encode(), "/etc/resolv.conf")
    for name in ("proc", "dev", "run", "tmp", "lease"):
        system += ["--perms", "0755", "--dir", f"/{name}"]
    lease = [*_lease(spec, roots), "--bind", str(spec.folder / "tmp"), str(INSIDE / "tmp")]
    # Where the guest mounts again what of its /tmp is the machine's (`ready.py`).
    for folder in exposed(spec.means):
        if folder.is_relative_to("/tmp"):  # noqa: S108
            lease += ["--dir", str(INSIDE / "tmp" / folder.relative_to("/tmp").parts[0])]  # noqa: S108
    lease += ["--ro-bind", str(binaries), str(REFUSALS)]
    shown = [*_below(SHARED / "system", system), *_below(SHARED, lease)]
    return [*shown, "--remount-ro", "/"]


def around_machine(*, policy: Policy, uid: int, files: Mapping[str, Path]) -> list[str]:
    """
    Return bubblewrap's arguments for the sandbox in which a whole virtual machine runs.

    files: what stands in MACHINE, by name; `kvm` is a device. There is little else: libraries.
    """
    found = _namespaces(policy, uid, rights=("CAP_SYS_CHROOT", "CAP_SETPCAP"))
    found += ["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/run", "--tmpfs", "/tmp"]  # noqa: S108
    for place in (
        "/usr/share/qemu",
        "/usr/local/lib",
        "/etc/hosts",
        f"{MACHINE}/qemu",
        f"{SHARED}/system/in",
        f"{SHARED}/lease/in",
    ):
        found += _way_to(Path(place))
    for shown in _OF_QEMU:
        found += ["--ro-bind-try", shown, shown]
    base = Path(sys.base_prefix)
    if base not in (Path("/usr"), Path("/")):
        found += [*_way_to(base), "--ro-bind", str(base), str(base)]
    for name, to in _LINKS.items():
        if Path("/", to).is_dir():
            found += ["--symlink", to, f"/{name}"]
    interpreter, shown_at = around.python()
    found += ["--ro-bind", str(interpreter), shown_at] if shown_at == "/lease/python" else []
    for name, file in files.items():
        place = "/dev/kvm" if name == "kvm" else f"{MACHINE}/{name}"
        found += ["--dev-bind" if name == "kvm" else "--ro-bind", str(file), place]
    if policy.network == "full":
        found += ["--ro-bind-try", "/etc/resolv.conf", "/etc/resolv.conf"]
    return [*found, "--chdir", "/"]


@dataclass(frozen=True, slots=True)
class Bind:
    """A place of this machine that is shown inside; writable only where it says so."""

    source: Path
    target: str
    is_writable: bool = False


def binds(
    *, spec: Spec, policy: Policy, commands: Path, roots: Sequence[Path], is_machine: bool
) -> list[Bind]:
    """
    Return what a container shows, what is within another after it.

    commands: a folder that stands in the place of /usr/bin where the system is this machine's, else
    one that comes first on the PATH of the image. roots: the parts of the workspace to write in.
    """
    found = [Bind(spec.folder / "tmp", "/tmp", True)]  # noqa: S108 - the container's own
    if is_machine:
        places = [Path(each) for each in (*_SHOWN, *_SHOWN_FILES)]
        found += [
            Bind(each, str(each)) for each in (*places, *exposed(spec.means)) if each.exists()
        ]
        found.append(Bind(commands, "/usr/bin"))
        if _hides_git(policy):
            found.append(Bind(spec.folder / "etc" / "nothing", str(_GIT_PARTS)))
        found += [Bind(spec.folder / "etc" / name, f"/etc/{name}") for name in _etc(0)]
    else:
        found.append(Bind(commands, str(REFUSALS)))
    if policy.network != "full":
        found.append(Bind(spec.folder / "etc" / "resolv.conf", "/etc/resolv.conf"))
    found += [Bind(spec.folder / name, f"/lease/{name}", name != "in") for name in _PARTS]
    if spec.place not in roots:
        found.append(Bind(spec.place, str(INSIDE / "work")))
    return [*found, *(Bind(root, str(inside(spec, root)), True) for root in roots)]


def inside(spec: Spec, path: Path) -> Path:
    """Return what a path of the lease's folder or workspace is called inside."""
    if path.is_relative_to(spec.place):
        return INSIDE / "work" / path.relative_to(spec.place)
    if path.is_relative_to(spec.folder):
        return INSIDE / path.relative_to(spec.folder)
    return path


def exposed(means: Means) -> list[Path]:
    """Return the folders outside of the system's own that are shown: this Python's, and more."""
    own = [Path(p) for p in dict.fromkeys((sys.prefix, sys.base_prefix))]
    inside_usr = [Path("/usr"), Path("/")]
    return [p for p in (*own, *means.exposed) if p not in inside_usr and p.is_dir()]


def write_etc(folder: Path, uid: int) -> None:
    """Write the few files of /etc that programs ask for, with nothing of this machine in them."""
    # For containers: an empty folder to hide another, and no resolver in the place of that of the
    # machine, which the engine would show.
    (folder / "nothing").mkdir(parents=True, exist_ok=True)
    for name, text in {**_etc(uid), "resolv.conf": ""}.items():
        (folder / name).write_text(text)


def _namespaces(policy: Policy, uid: int, rights: Sequence[str] = ()) -> list[str]:
    found = ["--unshare-ipc", "--unshare-pid", "--unshare-uts", "--unshare-cgroup-try"]
    if policy.network != "full":
        found += ["--unshare-net"]
    found += ["--cap-drop", "ALL"]
    # Just enough for the first program inside to become the lease's own user.
    become = ("CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP") if uid else ()
    for capability in dict.fromkeys((*become, *rights)):
        found += ["--cap-add", capability]
    if not uid:
        found += ["--unshare-user"]
    return [*found, "--hostname", "agentpool", "--die-with-parent", "--new-session"]


def _system(spec: Spec, policy: Policy, binaries: Path, uid: int, given: Given) -> list[str]:
    """Return what shows the machine's own system, and what stands in the place of its parts."""
    found = []
    for place in ("/usr/local/lib", "/etc/hosts", "/lease/in"):
        found += _way_to(Path(place))
    for shown in _SHOWN:
        found += ["--ro-bind", shown, shown] if os.path.isdir(shown) else []
    for shown in _SHOWN_FILES:
        found += given.copy(shown, shown)
    for folder in exposed(spec.means):
        found += [*_way_to(folder), "--ro-bind", str(folder), str(folder)]
    if _hides_git(policy):
        found += ["--tmpfs", str(_GIT_PARTS)]
    found += ["--ro-bind", str(binaries), "/usr/bin"]
    for name, to in _LINKS.items():
        if Path("/", to).is_dir():
            found += ["--symlink", to, f"/{name}"]
    for name, text in _etc(uid or os.getuid()).items():
        found += given.text(text.encode(), f"/etc/{name}")
    return found


def _below(top: Path, arguments: Sequence[str]) -> list[str]:
    """Return bubblewrap's arguments with every place inside moved below a folder."""
    found, rest = [], list(arguments)
    while rest:
        option = rest.pop(0)
        count = _WORDS.get(option, 1)
        words = [rest.pop(0) for _ in range(count)]
        if option in _WORDS:
            words[-1] = f"{top}{words[-1]}"
        found += [option, *words]
    return found


def _lease(spec: Spec, roots: Sequence[Path]) -> list[str]:
    """Return the mounts of the lease's folder and workspace."""
    found = ["--ro-bind", str(spec.folder / "in"), str(INSIDE / "in")]
    for name in ("out", "home"):
        found += ["--bind", str(spec.folder / name), str(INSIDE / name)]
    if spec.place not in roots:
        found += ["--ro-bind", str(spec.place), str(INSIDE / "work")]
    for root in roots:
        found += ["--bind", str(root), str(inside(spec, root))]
    return found


def _hides_git(policy: Policy) -> bool:
    return "git" not in tools.commands_of(policy.tools) and _GIT_PARTS.is_dir()


def _etc(uid: int) -> Mapping[str, str]:
    return {
        "passwd": f"work:x:{uid}:{uid}::/lease/home:/bin/sh\nroot:x:0:0::/:/bin/false\n",
        "group": f"work:x:{uid}:\nroot:x:0:\n",
        "hosts": "127.0.0.1 localhost agentpool\n::1 localhost\n",
        "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
    }


def _way_to(folder: Path) -> list[str]:
    """Return the parents of a folder as bubblewrap must make them: its own only root may enter."""
    parents = [parent for parent in reversed(folder.parents) if parent != Path("/")]
    return [word for p in parents for word in ("--perms", "0755", "--dir", str(p))]
