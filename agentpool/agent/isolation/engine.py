"""
The container engine of one runtime: podman, spoken to over its API.

Each runtime has a podman of its own behind a socket that only root may open; it ends with the
runtime. Images and containers are the machine's.
"""

import contextlib
import fcntl
import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
import threading
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from agentpool.agent.isolation import IsolationUnavailable, cgroup

if TYPE_CHECKING:
    import docker

LABEL = "agentpool.agent"
_RUN, _STORAGE = Path("/run/agentpool"), Path("/var/lib/containers")
# Of docker's interface, as podman 4 speaks it.
_API = "1.41"
_READY_S, _ANSWER_S, _COMMAND_S, _END_S = 20.0, 60.0, 60.0, 5.0
# The machine's own system, mounted into an image with nothing in it; another layout, another name.
_MACHINE = "localhost/agentpool-machine-1"
_PLACES = ("usr/bin", "usr/lib", "usr/local", "etc", "lease", "proc", "dev", "sys", "tmp", "run")
_LINKS = {"bin": "usr/bin", "sbin": "usr/bin", "lib": "usr/lib", "lib64": "usr/lib64"}
# What podman makes the first process of a container, to reap and to pass signals on.
_FIRST = ("/usr/libexec/podman/catatonit", "/usr/libexec/catatonit/catatonit", "/usr/bin/catatonit")
_INSTALL = "apt-get install podman runc catatonit"
_starting = threading.Lock()
_started: dict[str, "subprocess.Popen[bytes]"] = {}


def folder(runtime: str) -> Path:
    """Return where a runtime keeps sockets; a socket's path has but 107 bytes."""
    return _RUN / hashlib.sha256(runtime.encode()).hexdigest()[:16]


@cache
def fails() -> str:
    """Return why this machine has no engine for us, and what mends it; empty: it has."""
    if os.geteuid() != 0:
        return "containers need a runtime that is root; as another user take the level process"
    try:
        import docker  # noqa: F401 - whether it is there
    except ImportError:
        return "the client of the engine's API is missing: pip install 'agentpool[container]'"
    if shutil.which("podman") is None:
        return f"podman is not installed: {_INSTALL}"
    if not cgroup.host().works:
        return f"containers need control groups: {cgroup.host().why}"
    done = _podman("info", "--format", "{{.Host.OCIRuntime.Path}}")
    if done.returncode or not done.stdout.strip():
        return f"podman does not work here ({done.stderr.strip()[-200:]}); try: {_INSTALL}"
    if not any(
        Path(each).exists() for each in ("/usr/libexec/podman/catatonit", "/usr/bin/catatonit")
    ):
        return f"podman has no first process for containers: {_INSTALL}"
    return ""


def has_image(image: str) -> bool:
    """Return whether the machine has an image; nothing is ever fetched."""
    return _podman("image", "exists", image).returncode == 0


def client(runtime: str) -> "docker.APIClient":
    """
    Return a new client of this runtime's engine, which is started when it does not run yet.

    Raises: IsolationUnavailable.
    """
    import docker

    place = folder(runtime)
    socket = place / "podman.sock"
    with _starting:
        child = _started.get(runtime)
        if child is None or child.poll() is not None:
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
            socket.unlink(missing_ok=True)
            _start(runtime, socket)
    return docker.APIClient(base_url=f"unix://{socket}", version=_API, timeout=_ANSWER_S)


def machine_image() -> str:
    """Return the name of the empty image into which the machine's own system is mounted."""
    _RUN.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (_RUN / "image.lock").open("w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not has_image(_MACHINE):
            done = subprocess.run(
                ["podman", "import", "--quiet", "-", f"{_MACHINE}:latest"],
                input=_empty_root(),
                capture_output=True,
                timeout=_COMMAND_S,
                check=False,
            )
            if done.returncode:
                raise IsolationUnavailable(f"podman import: {done.stderr.decode()[-300:]}")
    return f"{_MACHINE}:latest"


def seccomp_file(where: Path, *, profile: dict[str, object], listener: Path) -> None:
    """Write a filter of system calls, with the socket that the kernel's questions are handed to."""
    where.write_text(json.dumps({**profile, "listenerPath": str(listener)}), encoding="ascii")


def remove_command(name: str) -> list[str]:
    """Return the command that ends and removes a container, whoever started it."""
    return ["podman", "rm", "--force", "--volumes", "--time", "0", "--ignore", name]


def remove_left(runtime: str) -> int:
    """End all containers of a runtime and its engine, be it this one or one that was killed."""
    place = folder(runtime)
    # Not whether the sockets are there: they go when the machine starts anew, containers do not.
    if os.geteuid() != 0 or not _STORAGE.is_dir() or shutil.which("podman") is None:
        return 0
    found = _podman("ps", "--all", "--quiet", "--filter", f"label={LABEL}={runtime}")
    left = found.stdout.split()
    if left:
        _podman("rm", "--force", "--volumes", "--time", "0", "--ignore", *left)
    with _starting:
        child = _started.pop(runtime, None)
    if child is not None and child.poll() is None:
        child.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(_END_S)
    shutil.rmtree(place, ignore_errors=True)
    return len(left)


def _start(runtime: str, socket: Path) -> None:
    """Start the engine, in a thread that lives as long: the kernel ends it with its starter."""
    is_begun = threading.Event()

    def serve() -> None:
        tied = ["setpriv", "--pdeathsig", "KILL", "--"] if shutil.which("setpriv") else []
        words = ("podman", "--cgroup-manager", "cgroupfs", "system", "service", "--time", "0")
        with (socket.with_name("podman.log")).open("wb") as log:
            child = _started[runtime] = subprocess.Popen(
                [*tied, *words, f"unix://{socket}"],
                # Its monitors leave a file "oom" where they stand when a container has too much.
                cwd=socket.parent,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        is_begun.set()
        child.wait()

    threading.Thread(target=serve, name="podman", daemon=True).start()
    until = time.monotonic() + _READY_S
    while time.monotonic() < until:
        if is_begun.is_set() and (socket.exists() or _started[runtime].poll() is not None):
            break
        time.sleep(0.01)
    if not socket.exists():
        said = socket.with_name("podman.log").read_text(errors="replace")[-300:]
        raise IsolationUnavailable(f"podman does not serve its API: {said}")


def _empty_root() -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for entry in _entries():
            tar.addfile(entry)
    return packed.getvalue()


def _entries() -> Iterator[tarfile.TarInfo]:
    for name in ("usr", *_PLACES):
        folder = tarfile.TarInfo(name)
        folder.type, folder.mode = tarfile.DIRTYPE, 0o755
        yield folder
    for name, to in _LINKS.items():
        if Path("/", to).is_dir():
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, to
            yield link


def _podman(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["podman", *words],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=_COMMAND_S,
        check=False,
    )
