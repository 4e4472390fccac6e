"""The user that sandboxed work runs as, where the runtime is root: one that nobody else is."""

import contextlib
import errno
import hashlib
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agentpool.agent.isolation import IsolationUnavailable

# Users that nobody else on the machine should be; one for each lease.
_FIRST_UID, _UIDS = 2_000_000, 100_000
# How long a few words of shell may take in a folder where others may have put a pipe.
_SHELL_S = 10.0
_choosing = threading.Lock()
_taken_here: set[int] = set()


def take(lease_id: str) -> int:
    """Return a user id that nobody has: the lease's own, or the next; give it back in the end."""
    with _choosing:
        taken = _taken_here | set(_uids_at_work())
        start = int(hashlib.sha256(lease_id.encode()).hexdigest()[:8], 16)
        for step in range(_UIDS):
            uid = _FIRST_UID + (start + step) % _UIDS
            if uid not in taken:
                _taken_here.add(uid)
                return uid
    raise IsolationUnavailable("all users for sandboxes are taken on this machine")


def give_back(uid: int) -> None:
    """Let another lease have this user id."""
    with _choosing:
        _taken_here.discard(uid)


def owner_of(place: Path) -> int:
    """Return whose folder it is: work in it runs as that user. Raises: PermissionError."""
    uid = place.stat().st_uid
    if uid == 0:
        said = "it belongs to root, and work never runs as root: give the folder to another user"
        raise PermissionError(13, said, str(place))
    return uid


def as_owner(place: Path, script: str, *words: str, content: bytes = b"") -> None:
    """
    Run a line of shell in a folder; where this runtime is root, with its owner's rights alone.

    Whoever may write there may put links and pipes in our way: the kernel judges them, in time.
    Raises: PermissionError, the folder is root's; OSError, the line failed.
    """
    who: dict[str, Any] = {}
    if os.geteuid() == 0:
        uid = owner_of(place)
        who = {"user": uid, "group": uid, "extra_groups": []}
    try:
        subprocess.run(
            ["/bin/sh", "-ec", script, "sh", *words],
            cwd=place,
            env={"PATH": os.defpath, "LC_ALL": "C"},
            input=content,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=_SHELL_S,
            check=True,
            **who,
        )
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode("utf-8", "replace").strip()
        raise OSError(errno.EACCES, said or f"exit code {error.returncode}") from error
    except subprocess.TimeoutExpired as error:
        raise OSError(errno.ETIMEDOUT, f"not done in {_SHELL_S:g} s") from error


def give(path: Path, uid: int) -> None:
    """Give a file or folder with all that is in it to a user; links are not followed."""
    os.lchown(path, uid, uid)
    if not path.is_dir() or path.is_symlink():
        return
    for folder, names, files in os.walk(path):
        for name in (*names, *files):
            os.lchown(os.path.join(folder, name), uid, uid)


def _uids_at_work() -> Iterator[int]:
    for pid in os.listdir("/proc"):
        if pid.isdigit():
            with contextlib.suppress(OSError):
                yield os.stat(f"/proc/{pid}").st_uid
