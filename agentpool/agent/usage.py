"""What the work under a lease uses: memory, CPU, disk, and the tokens and progress it reports."""

import errno
import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agentpool.agent.isolation import Environment, Exit
from agentpool.client import calls, clock

# Looking costs CPU that the work could have: memory often, the disk seldom, both bounded.
_SAMPLE_S = 2.0
_DISK_EVERY_S = 10.0
_MOST_FILES = 20_000
_MOST_BYTES = 256 * 1024
# More than this is not taken as the tokens, or the cost, of one lease.
_MOST_TOKENS, _MOST_USD = 10**12, 100_000
_BLOCK = 512
_MB = 2**20


class Meter:
    """Measures one environment and its workspace while the work runs."""

    def __init__(self, environment: Environment, *, workspace: Path | None) -> None:
        self._environment = environment
        self._workspace = workspace
        self._began_at = clock.now()
        self._sampled_at = self._began_at - _SAMPLE_S + 0.3
        self._disk_at = self._began_at
        self._now_mb = 0.0
        self._peak_mb = 0.0
        self._cpu_seconds = 0.0
        self._disk_mb = 0.0

    def tick(self) -> None:
        """Look again when it is time to."""
        now = clock.now()
        if now - self._sampled_at < _SAMPLE_S:
            return
        self._sampled_at = now
        found = self._environment.measure()
        self._now_mb = found.memory_mb
        self._peak_mb = max(self._peak_mb, found.memory_mb)
        self._cpu_seconds = max(self._cpu_seconds, found.cpu_seconds)
        if now - self._disk_at >= _DISK_EVERY_S:
            self._look_at_disk(now)

    def finish(self, ended: Exit | None) -> None:
        """Take the last and exact figures once the command has ended."""
        self._now_mb = 0.0
        if ended is not None:
            self._peak_mb = max(self._peak_mb, ended.peak_memory_mb)
            self._cpu_seconds = max(self._cpu_seconds, ended.cpu_seconds)
        self._look_at_disk(clock.now())

    def usage(self, *, is_over: bool = False) -> calls.Usage:
        """Return the figures; memory is that of now, and the peak once it is over."""
        lasted_s = max(0.001, clock.now() - self._began_at)
        return {
            "memory_mb": self._peak_mb if is_over else self._now_mb,
            "cpu_cores": round(self._cpu_seconds / lasted_s, 3),
            "cpu_seconds": self._cpu_seconds,
            "disk_space_mb": self._disk_mb,
        }

    def _look_at_disk(self, now: float) -> None:
        self._disk_at = now
        if self._workspace is not None:
            self._disk_mb = disk_space_mb(self._workspace)


def disk_space_mb(folder: Path) -> float:
    """Return what a folder takes on disk, looking at 20,000 files at most; links count as 0."""
    total, seen, folders = 0, 0, [str(folder)]
    while folders and seen < _MOST_FILES:
        try:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    seen += 1
                    found = entry.stat(follow_symlinks=False)
                    total += found.st_blocks * _BLOCK
                    if stat.S_ISDIR(found.st_mode):
                        folders.append(entry.path)
        except OSError:
            # The work removes files while we look.
            continue
    return round(total / _MB, 2)


def read_json(path: Path) -> Mapping[str, Any]:
    """
    Return the object in a file that the work wrote; empty when it is absent, half or no object.

    The work is not trusted: only a plain file is read, of 256 kB at most.
    """
    try:
        content = read_plain(path)
        found = json.loads(content) if len(content) <= _MOST_BYTES else {}
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def read_plain(path: Path) -> bytes:
    """
    Return the content of a file that the work wrote, 256 kB and one byte at most.

    Raises: OSError, it is not there, or no plain file but a link, a folder or a pipe.
    """
    # O_NONBLOCK: a pipe put there by the work must not hold the runtime.
    number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    try:
        if not stat.S_ISREG(os.fstat(number).st_mode):
            raise OSError(errno.EINVAL, "no plain file", str(path))
        return os.read(number, _MOST_BYTES + 1)
    finally:
        os.close(number)


def tokens(reported: object) -> calls.Usage:
    """Return tokens and cost from what the work wrote as `usage`, in the API's words."""
    if not isinstance(reported, Mapping):
        return {}
    found: calls.Usage = {}
    count = _amount(reported, "input_tokens", "tokens_in")
    if count is not None and count <= _MOST_TOKENS:
        found["tokens_in"] = int(count)
    count = _amount(reported, "output_tokens", "tokens_out")
    if count is not None and count <= _MOST_TOKENS:
        found["tokens_out"] = int(count)
    cost = _amount(reported, "cost_usd")
    if cost is not None and cost <= _MOST_USD:
        found["cost_usd"] = cost
    return found


def progress(reported: Mapping[str, Any]) -> calls.Progress:
    """Return `counter`, `phase` and `note` of what the work wrote, as far as they are sound."""
    found: calls.Progress = {}
    if (counter := _amount(reported, "counter")) is not None:
        found["counter"] = int(counter)
    if isinstance(phase := reported.get("phase"), str):
        found["phase"] = storable(phase)[:100]
    if isinstance(text := reported.get("note"), str):
        found["note"] = storable(text)[:400]
    return found


def storable(text: str) -> str:
    """Return text from the work without NUL, for which a whole message would be refused."""
    return text.replace("\x00", "\ufffd")


def _amount(values: Mapping[str, Any], *names: str) -> float | None:
    for name in names:
        value = values.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 10**15:
            return float(value)
    return None
