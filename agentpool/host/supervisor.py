"""Keep a set of processes running: restart the dead, kill and restart the stalled, stop all."""

import contextlib
import ctypes
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from agentpool.host import process_tree
from agentpool.host.installation import HostError
from agentpool.host.output import Output

_FIRST_BACKOFF_S = 0.2
_LONGEST_BACKOFF_S = 10.0
_SETTLED_S = 30.0  # alive this long, and the next death starts from the first back-off again
_TICK_S = 0.1
_STOP_STEP_S = 1.0
_LAST_WORDS_S = 0.5  # a process that detached itself may hold the pipe open
_STARTING_POLL_S = 0.2  # the first healthy answer is noticed soon
# A pause of the whole machine (sleep, a stopped container) is not the child's staleness.
_LONGEST_STEP_S = 5.0
_LONGEST_LINE_BYTES = 64 * 1024
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None

# What a look at the children says by probe name: works, does not, None or absent: can't tell.
Health = Mapping[str, bool | None]


@dataclass(frozen=True)
class Child:
    """
    A process to keep running.

    probe: its name in the health that is polled; None: only its death is noticed.
    stale_after_s: unhealthy for this many seconds, and it is killed and started again.
    start_grace_s: the same before it was healthy for the first time.
    """

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    probe: str | None = None
    stale_after_s: float = 15.0
    start_grace_s: float = 60.0


@dataclass
class StopRequest:
    """Counts the wishes to stop; a plain number, because a signal may set it at any moment."""

    wishes: int = 0

    def __bool__(self) -> bool:
        """Return whether somebody wishes to stop."""
        return self.wishes > 0

    def ask(self) -> None:
        """Wish to stop; a second wish means at once."""
        self.wishes += 1


@dataclass
class _Place:
    """What is known about one child now; times are monotonic seconds."""

    child: Child
    process: subprocess.Popen[bytes] | None = None
    relay: threading.Thread | None = None
    started_at: float = 0.0
    start_at: float = 0.0
    backoff_s: float = _FIRST_BACKOFF_S
    unhealthy_s: float = 0.0
    was_healthy: bool = False


class Supervisor:
    """Runs children from the thread that calls `run`; health is polled in a thread beside it."""

    def __init__(
        self,
        children: Sequence[Child],
        *,
        run_folder: Path,
        output: Output,
        poll: Callable[[], Health] | None = None,
        poll_every_s: float = 1.0,
    ) -> None:
        self._places = [_Place(child) for child in children]
        self._run_folder = run_folder
        self._output = output
        self._poll = poll
        self._poll_every_s = poll_every_s
        self._health: tuple[int, Health] = (0, {})
        self._is_settled = False
        self._is_over = threading.Event()
        self._mark = secrets.token_hex(8)

    def run(self, *, stop: StopRequest) -> None:
        """Start the children and tend them until a stop is asked for; then call `stop`."""
        if self._poll:
            threading.Thread(target=self._keep_polling, name="poll", daemon=True).start()
        seen, judged_at = 0, time.monotonic()
        while not stop:
            for place in self._places:
                self._tend(place)
            number, health = self._health
            if number != seen:
                now = time.monotonic()
                self._judge(health, elapsed_s=min(now - judged_at, _LONGEST_STEP_S))
                seen, judged_at = number, now
            process_tree.reap_strangers({one.process.pid for one in self._places if one.process})
            time.sleep(_TICK_S)

    def stop(self, *, grace_s: float = 8.0, at_once: Callable[[], bool] = bool) -> None:
        """
        Stop all children, last started first, and leave no process behind.

        The next one is asked when the one before has ended, or after a second.

        Args:
            grace_s: seconds until the sessions of all that still run are killed.
            at_once: asked while waiting; True ends the grace.

        """
        self._is_over.set()
        to_ask = [one for one in self._places if one.process]
        asked: list[_Place] = []
        ask_at, deadline = 0.0, time.monotonic() + grace_s
        while (to_ask or asked) and time.monotonic() < deadline and not at_once():
            asked = [one for one in asked if self._exit_code(one) is None]
            if to_ask and (not asked or time.monotonic() >= ask_at):
                asked.append(to_ask.pop())
                _ask_to_end(asked[-1])
                ask_at = time.monotonic() + _STOP_STEP_S
            time.sleep(_TICK_S / 4)
        for place in (*asked, *to_ask):
            self._say(place, "did not stop in time: killed")
            self._bury(place)

    def _tend(self, place: _Place) -> None:
        now = time.monotonic()
        if place.process is None:
            if now >= place.start_at:
                self._start(place)
            return
        code = self._exit_code(place)
        if code is not None:
            self._schedule(place, why=_death(code))

    def _judge(self, health: Health, *, elapsed_s: float) -> None:
        """Add up how long each child has been unhealthy; kill the ones over their limit."""
        for place in self._places:
            is_healthy = health.get(place.child.probe) if place.child.probe else None
            if place.process is None or is_healthy is None:
                continue
            if is_healthy:
                place.unhealthy_s, place.was_healthy = 0.0, True
                continue
            place.unhealthy_s += elapsed_s
            limit_s = _patience_s(place)
            if place.unhealthy_s >= limit_s:
                self._bury(place)
                self._schedule(place, why=f"it has stalled for {limit_s:.0f} s, killed")

    def _start(self, place: _Place) -> None:
        child = place.child
        env = {**os.environ, **child.env, process_tree.MARK: self._mark}
        place.started_at, place.unhealthy_s, place.was_healthy = time.monotonic(), 0.0, False
        try:
            place.process = subprocess.Popen(
                child.argv,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_end_with_parent(os.getpid()),
            )
        except OSError as error:
            self._schedule(place, why=f"it cannot be started: {error}")
            return
        place.relay = threading.Thread(
            target=self._relay, args=(child.name, place.process), name=child.name, daemon=True
        )
        place.relay.start()
        try:
            process_tree.remember(
                self._run_folder, name=child.name, pid=place.process.pid, mark=self._mark
            )
        except HostError as error:
            # A full disk must not end what runs; the note is for the case that we are killed, too.
            self._say(place, f"no note of it is kept: {error}")

    def _schedule(self, place: _Place, *, why: str) -> None:
        now = time.monotonic()
        if now - place.started_at >= _SETTLED_S:
            place.backoff_s = _FIRST_BACKOFF_S
        place.start_at = now + place.backoff_s
        self._say(place, f"{why}; starting it again in {place.backoff_s:.1f} s")
        place.backoff_s = min(place.backoff_s * 2, _LONGEST_BACKOFF_S)

    def _exit_code(self, place: _Place) -> int | None:
        """Return the exit code of a child that ended (its orphans are killed), else None."""
        assert place.process
        # Looked at without reaping: while the zombie stands, its session number is not reused.
        return self._bury(place) if process_tree.has_ended(place.process.pid) else None

    def _bury(self, place: _Place) -> int:
        """Kill the session of a child, reap it, and return its exit code."""
        assert place.process
        process_tree.kill_session(place.process.pid)
        code = place.process.wait()
        if place.relay:  # its last words come before what we say about its end
            place.relay.join(timeout=_LAST_WORDS_S)
        process_tree.forget(self._run_folder, name=place.child.name)
        place.process = None
        return code

    def _keep_polling(self) -> None:
        assert self._poll
        number = 0
        while not self._is_over.wait(self._pause_s()):
            number += 1
            try:
                self._health = (number, self._poll())
            except Exception as error:
                # Whatever it was: without this thread nobody would notice a stall any more.
                self._output.line("up", f"the look at the children failed: {error!r}")

    def _pause_s(self) -> float:
        if not self._is_settled:
            probed = [one for one in self._places if one.child.probe]
            self._is_settled = all(one.was_healthy for one in probed)
        quick_s = min(self._poll_every_s, _STARTING_POLL_S)
        return self._poll_every_s if self._is_settled else quick_s

    def _relay(self, name: str, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout
        with process.stdout as pipe:
            for line in iter(lambda: pipe.readline(_LONGEST_LINE_BYTES), b""):
                self._output.line(name, line.decode(errors="replace").rstrip())

    def _say(self, place: _Place, text: str) -> None:
        self._output.line("up", f"{place.child.name}: {text}")


def _ask_to_end(place: _Place) -> None:
    assert place.process
    # Not `terminate()`, which reaps a child that has just ended.
    with contextlib.suppress(ProcessLookupError):
        os.kill(place.process.pid, signal.SIGTERM)


def _patience_s(place: _Place) -> float:
    child = place.child
    if place.was_healthy:
        return child.stale_after_s
    return max(child.stale_after_s, child.start_grace_s)


def _death(code: int) -> str:
    if code >= 0:
        return f"it ended with exit code {code}"
    return f"it was killed by {signal.Signals(-code).name}"


def _end_with_parent(parent: int) -> Callable[[], None] | None:
    """
    Return what makes a child get SIGTERM when its supervisor is killed, None where unknown.

    SIGTERM, because a job cluster that gets it ends its own workers, and SIGKILL would orphan
    them. Between fork and exec only C functions that were looked up before are called, so a
    lock that another thread held at the fork is not needed. The signal comes when the *thread*
    that forked ends: children are started by the main thread only.
    """
    if _LIBC is None:
        return None
    prctl = _LIBC.prctl

    def end_with_parent() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it died between the fork and the line above
            os._exit(1)

    return end_with_parent
