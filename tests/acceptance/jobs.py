"""Jobs that acceptance tests enqueue in a real cluster, to know a worker's pid."""

import os
import time
from pathlib import Path


def tell_pid(file: str) -> None:
    """Write the pid of the worker that runs this, and return at once."""
    _write(Path(file))


def stay(file: str, seconds: float) -> None:
    """Write the pid and keep the worker busy; the second try of a killed job returns at once."""
    if Path(file).exists():
        return
    _write(Path(file))
    time.sleep(seconds)


def _write(file: Path) -> None:
    partial = file.with_suffix(".new")
    partial.write_text(str(os.getpid()))
    partial.replace(file)
