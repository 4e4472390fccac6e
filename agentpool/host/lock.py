"""One process at a time: file locks that the kernel drops when their holder dies."""

import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agentpool.host.installation import HostError, make_folder, plain_os_errors

_RETRY_S = 0.05


class LockTaken(HostError):
    """Another process holds the lock."""


@contextmanager
def hold(path: Path, *, wait_s: float, note: Mapping[str, Any] | None = None) -> Iterator[None]:
    """
    Hold the lock at a path while the block runs.

    Args:
        wait_s: how long to wait for another holder; 0 tries once.
        note: what `holder` tells others about us, beside our pid.
    Raises: LockTaken, it was still held after the wait; HostError, the file can't be made.

    """
    make_folder(path.parent)
    with plain_os_errors(path.parent):
        # Opened without truncation: until we hold the lock the note is somebody else's.
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+")
    with file:
        _wait_for(file.fileno(), path=path, wait_s=wait_s)
        with plain_os_errors(path.parent):
            file.truncate(0)
            file.write(json.dumps({"pid": os.getpid(), **(note or {})}))
            file.flush()
        yield


def holder(path: Path) -> dict[str, Any] | None:
    """Return the note of the process that holds the lock, None when nobody does."""
    try:
        file = path.open()
    except OSError:
        return None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _note(file.read())
    return None


def _wait_for(descriptor: int, *, path: Path, wait_s: float) -> None:
    deadline = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError as error:
            if time.monotonic() >= deadline:
                raise LockTaken(f"Another process holds {path}.") from error
            time.sleep(_RETRY_S)


def _note(text: str) -> dict[str, Any]:
    try:
        note = json.loads(text)
    except ValueError:  # its holder is between taking the lock and writing the note
        note = {}
    return note if isinstance(note, dict) else {}
