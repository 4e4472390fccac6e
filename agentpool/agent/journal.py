"""Writes what the runtime does to stderr, one line of key=value pairs each."""

import contextlib
import sys
import threading
from datetime import UTC, datetime

_LOCK = threading.Lock()


def note(event: str, **facts: object) -> None:
    """Write one line; a stderr that is closed or full must never stop the work."""
    at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
    pairs = "".join(f" {key}={_value(value)}" for key, value in facts.items() if value is not None)
    with _LOCK, contextlib.suppress(OSError, ValueError, AttributeError):
        sys.stderr.write(f"{at} event={event}{pairs}\n")
        sys.stderr.flush()


def _value(value: object) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    is_plain = text and not any(sign in text for sign in ' "=\n\t')
    if is_plain:
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
