"""One readable stream of what all processes print, and a log file for each of them."""

import os
import re
import sys
import threading
import time
from pathlib import Path
from typing import BinaryIO, TextIO

from agentpool.host.installation import HostError, plain_os_errors

_CAP_BYTES = 5 * 2**20
_KEPT = 3
_COLOURS = (36, 33, 32, 35, 34, 96)  # cyan, yellow, green, magenta, blue, bright cyan
_NAME_WIDTH = 7
# What terminals are told among the text: colours, and the titles and links of windows.
_ESCAPES = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[ -/]+[0-~]|[@-Z\\^_=>])"
)


class Output:
    """
    Lines by name: to a terminal (in colour), and to `<name>.log` in a folder.

    What a process printed in colours is kept without them where no terminal shows them.
    A log that cannot be written (the disk is full) is passed over: the work goes on.
    """

    def __init__(self, *, folder: Path, stream: TextIO | None = None) -> None:
        self._folder = folder
        self._stream = stream or sys.stdout
        self._is_coloured = self._stream.isatty()
        self._logs: dict[str, _RotatingLog] = {}
        self._is_closed = False
        self._lock = threading.Lock()

    def line(self, name: str, text: str) -> None:
        """Write a line of a process to the stream and to its log."""
        stamp = time.strftime("%H:%M:%S")
        plain = _ESCAPES.sub("", text)
        with self._lock:
            if not self._is_closed:
                log = self._logs.setdefault(name, _RotatingLog(self._folder / f"{name}.log"))
                log.write(f"{time.strftime('%Y-%m-%d')} {stamp} {plain}\n")
            self._show(f"{stamp} {self._label(name)} {text if self._is_coloured else plain}")

    def private(self, name: str, text: str) -> None:
        """Write a line to the stream only: a password does not belong into a file."""
        with self._lock:
            self._show(f"{time.strftime('%H:%M:%S')} {self._label(name)} {text}")

    def close(self) -> None:
        """Close the log files; what comes later goes to the stream only."""
        with self._lock:
            self._is_closed = True
            for log in self._logs.values():
                log.close()

    def _label(self, name: str) -> str:
        label = f"{name:<{_NAME_WIDTH}}|"
        if not self._is_coloured:
            return label
        colour = _COLOURS[sum(name.encode()) % len(_COLOURS)]
        return f"\x1b[{colour}m{label}\x1b[0m"

    def _show(self, text: str) -> None:
        try:
            self._stream.write(text + "\n")
            self._stream.flush()
        except (OSError, ValueError):  # the terminal is gone, or its pipe was closed
            return


class _RotatingLog:
    """A file that moves to .1, .2, .3 when it has grown to 5 MB."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None

    def write(self, text: str) -> None:
        try:
            if self._file is None:
                self._file = _open_private(self._path)
            self._file.write(text.encode(errors="replace"))
            if self._file.tell() >= _CAP_BYTES:
                self._rotate()
        except (OSError, HostError):
            self.close()

    def close(self) -> None:
        if self._file:
            self._file.close()
            self._file = None

    def _rotate(self) -> None:
        self.close()
        for number in range(_KEPT - 1, 0, -1):
            older = self._path.with_name(f"{self._path.name}.{number}")
            if older.exists():
                older.replace(self._path.with_name(f"{self._path.name}.{number + 1}"))
        self._path.replace(self._path.with_name(f"{self._path.name}.1"))


def _open_private(path: Path) -> BinaryIO:
    with plain_os_errors(path.parent):
        # Unbuffered: what was printed before a kill -9 is in the file.
        return open(path, "ab", buffering=0, opener=_opener)


def _opener(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
