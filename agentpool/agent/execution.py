"""Runs one command in an environment to its end: output out, measures in, stopped when told."""

import codecs
import os
import selectors
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from agentpool.agent.control import Control, Reason
from agentpool.agent.isolation import Environment, Exit
from agentpool.agent.usage import Meter
from agentpool.client import clock

# Output goes out after this time or size, whichever comes first.
FLUSH_S = 0.5
_FLUSH_BYTES = 16 * 1024
# How often the loop looks at the clock and at the child when nothing is printed.
_LOOK_S = 0.1
_LOOK_SOON_S = 0.01
_READ_BYTES = 16 * 1024
# Of what is still in the pipes when everything that could write is dead.
_MOST_AFTER_END = 4 * 2**20
_TAIL = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How the command ended: by itself, or stopped for a reason; `last_line` is of stderr."""

    exit: Exit
    reason: Reason | None
    last_line: str


class Stream:
    """One output of the command: bytes in, text out in pieces."""

    def __init__(self, name: str, write: Callable[[str, str], None]) -> None:
        self._name = name
        self._write = write
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held: list[str] = []
        self._size = 0
        self._since = 0.0
        self.tail = ""

    def feed(self, content: bytes, *, now: float, is_last: bool = False) -> None:
        """Take what was read."""
        # Postgres and JSON readers stumble over NUL.
        text = self._decoder.decode(content, is_last).replace("\x00", "\ufffd")
        if text:
            self._since = self._since if self._held else now
            self._held.append(text)
            self._size += len(text)
            self.tail = (self.tail + text)[-_TAIL:]

    def flush(self, *, now: float, is_due: bool = False) -> None:
        """Pass on what is held, when it is large or old enough or `is_due`."""
        if not self._held:
            return
        if is_due or self._size >= _FLUSH_BYTES or now - self._since >= FLUSH_S:
            self._write(self._name, "".join(self._held))
            self._held, self._size = [], 0


def execute(
    *,
    environment: Environment,
    command: Sequence[str],
    env: Mapping[str, str],
    cwd: Path,
    control: Control,
    meter: Meter,
    write: Callable[[str, str], None],
    look: Callable[[], None] = lambda: None,
) -> Ending:
    """
    Run the command until it ends or `control` stops it.

    `write(stream, text)` gets the output and must not block; `look` is called again and again, to
    look at limits, and must not block either. Stopped work gets SIGTERM, then
    SIGKILL after its grace. When this returns, nothing of the command's group lives.
    Raises: OSError, the command can't be started.
    """
    out, err = environment.run(command=command, env=env, cwd=cwd)
    streams = {out: Stream("stdout", write), err: Stream("stderr", write)}
    with selectors.DefaultSelector() as selector:
        for number in streams:
            os.set_blocking(number, False)
            selector.register(number, selectors.EVENT_READ)
        ended, reason = _watch(environment, streams, selector, control, meter, look)
    _drain(streams)
    meter.finish(ended)
    return Ending(exit=ended, reason=reason, last_line=_last_line(streams[err].tail))


def _watch(
    environment: Environment,
    streams: Mapping[int, Stream],
    selector: selectors.BaseSelector,
    control: Control,
    meter: Meter,
    look: Callable[[], None],
) -> tuple[Exit, Reason | None]:
    """Pass output on and look at clock and child until the child has ended."""
    stopping: Reason | None = None
    kill_at = float("inf")
    while (ended := environment.poll()) is None:
        _pass_on(streams, selector)
        reason = control.reason()
        if reason is not None and reason is not stopping:
            stopping = reason
            kill_at = clock.now() + control.grace_s(reason)
            if kill_at > clock.now():
                environment.terminate()
        if clock.now() >= kill_at or (stopping is not None and control.is_urgent):
            environment.kill()
        meter.tick()
        look()
    look()  # what killed it may be known only now
    if ended.code != 0 and stopping is None:
        stopping = control.reason() if control.reason() is Reason.LIMIT else None
    # Work that ended well before it noticed is not stopped work.
    return ended, stopping if ended.code != 0 or stopping is Reason.LOST else None


def _pass_on(streams: Mapping[int, Stream], selector: selectors.BaseSelector) -> None:
    # Both pipes closed: most likely the child is about to end, so look soon.
    ready = selector.select(_LOOK_S if selector.get_map() else _LOOK_SOON_S)
    now = clock.now()
    for key, _ in ready:
        if not _read(key.fd, streams[key.fd], now):
            selector.unregister(key.fd)
    for stream in streams.values():
        stream.flush(now=now)


def _read(number: int, stream: Stream, now: float) -> int:
    """Read once; 0 at the end of the stream."""
    try:
        content = os.read(number, _READ_BYTES)
    except BlockingIOError:
        return -1
    stream.feed(content, now=now)
    return len(content)


def _drain(streams: Mapping[int, Stream]) -> None:
    """Take what the dead command left in its pipes; bounded, a stray may still hold them open."""
    now = clock.now()
    for number, stream in streams.items():
        taken = 0
        while taken < _MOST_AFTER_END and (length := _read(number, stream, now)) > 0:
            taken += length
        stream.feed(b"", now=now, is_last=True)
        stream.flush(now=now, is_due=True)


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""
