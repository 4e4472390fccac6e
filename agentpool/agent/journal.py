"""Writes what the runtime does to stderr, one line of key=value pairs each."""

import contextlib
import io
import select
import sys
import threading
from datetime import UTC, datetime

_LOCK = threading.Lock()


def note(event: str, **facts: object) -> None:
    """Write one line; one that stderr does not take now is lost: it must never stop the work."""
    at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
    pairs = "".join(f" {key}={_value(value)}" for key, value in facts.items() if value is not None)
    with _LOCK, contextlib.suppress(OSError, ValueError, AttributeError):
        if not _takes_more():
            return
        sys.stderr.write(f"{at} event={event}{pairs}\n")
        sys.stderr.flush()


def _takes_more() -> bool:
    """Whether stderr can be written to without waiting, as a pipe that nobody reads can't."""
    try:
        number = sys.stderr.fileno()
    except io.UnsupportedOperation:
        return True
    poll = select.poll()
    poll.register(number, select.POLLOUT)
    return bool(poll.poll(0))


def _value(value: object) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    if text and text.isprintable() and not any(sign in text for sign in ' "='):
        return text
    # Some of it comes from work: what a terminal would obey is written out.
    shown = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(map(_visible, shown)) + '"'


def _visible(sign: str) -> str:
    return sign if sign.isprintable() else sign.encode("unicode_escape").decode("ascii")
