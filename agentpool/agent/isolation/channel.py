"""
The runtime's end of the channel to one virtual machine: orders in, output and news out.

A thread serves it for as long as the machine lives. What comes from the guest is not trusted: it
is bounded, and says no more than what the work of a lease may say of itself.
"""

import contextlib
import marshal
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from agentpool.agent.isolation import KINDS, Incident, Measure, streams

_OUT, _ERR = 1, 2
_MB = 2**20
_MOST_MESSAGE, _MOST_DETAIL, _MOST_CONSOLE = 4096, 400, 4096
_MOST_LINES, _MOST_WORDS = 20, 2000
# What virtiofsd says of each end of its machine.
_NO_NEWS = "virtio_loop:"
_TURN_S, _CONNECT_S, _END_S = 1.0, 5.0, 5.0
# The kernel of the guest says it, not the sandbox around it: what ends the work.
_ENDS = "killed_for_memory"


class Channel:
    """
    One channel.

    start: what the guest is told once it is up. doors: where the connections to its ports lead.
    note: takes what was refused, from this channel's thread.
    """

    def __init__(
        self,
        *,
        start: Mapping[str, Any],
        doors: Mapping[int, Path],
        note: Callable[[Incident], None],
    ) -> None:
        self._start = start
        self._doors = doors
        self._note = note
        self._ours, self.theirs = socket.socketpair()
        self._ours.setblocking(False)
        self._exchange = streams.Exchange(
            self._ours.fileno(),
            told=self._take,
            connect=self._connect,
            most_message=_MOST_MESSAGE,
        )
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._lock = threading.Lock()
        self._orders: list[bytes] = []
        self._pipes: list[int] = []
        self._server: threading.Thread | None = None
        self._said_code: int | None = None
        self._console = bytearray()
        self._last = -1
        self.is_up = False
        # The machine is being ended from here; else its end by itself is worth a line.
        self.is_expected = False
        self.used = Measure()
        self.broken: Incident | None = None
        # Known once all that was printed is in the pipes.
        self.code: int | None = None

    def serve(self, console: int) -> tuple[int, int]:
        """Begin; return where the command's output is read. console: what machine and qemu say."""
        self.theirs.close()
        os.set_blocking(console, False)
        for number in (_OUT, _ERR):
            ours, theirs = os.pipe2(os.O_CLOEXEC)
            os.set_blocking(theirs, False)
            self._exchange.carry(number, sink=theirs)
            self._pipes.append(ours)
        self._last = os.dup(theirs)
        self._server = threading.Thread(
            target=self._serve, args=(console,), name="machine", daemon=True
        )
        self._server.start()
        return self._pipes[0], self._pipes[1]

    def order(self, message: bytes) -> None:
        """Tell the guest something; any thread may."""
        with self._lock:
            self._orders.append(message)
            if self._wake >= 0:
                os.eventfd_write(self._wake, 1)

    def last_words(self) -> str:
        """Return what machine and qemu said last, in one line."""
        said = bytes(self._console).decode("utf-8", "replace").split("\n")
        lines = [line.strip() for line in said if line.strip() and _NO_NEWS not in line]
        return " ".join(lines[-_MOST_LINES:])[-_MOST_WORDS:]

    def join(self) -> None:
        """Wait for the end of the thread; the machine must have ended."""
        if self._server is not None:
            self._server.join(_END_S)

    def close(self) -> None:
        """Close what is left; nobody reads the output any more."""
        for pipe in self._pipes:
            os.close(pipe)
        self._pipes = []
        self.join()
        self.theirs.close()
        self._ours.close()
        with self._lock:
            if self._wake >= 0:
                os.close(self._wake)
            self._wake = -1

    # --- the thread -------------------------------------------------------------------------

    def _serve(self, console: int) -> None:
        watched = [self._wake, console]
        with contextlib.suppress(streams.Closed, streams.Broken):
            while True:
                ready = self._exchange.turn(_TURN_S, watched)
                if self._wake in ready:
                    self._pass_orders()
                if console in ready and not self._read_console(console):
                    watched.remove(console)
                if self._said_code is not None and self._exchange.has_ended(_OUT, _ERR):
                    self.code = self._said_code
        while self._read_console(console) and self._said_code is None and not self.is_expected:
            time.sleep(0.01)  # qemu says why it ends while it does
        if self._said_code is None and not self.is_expected:
            with contextlib.suppress(OSError):
                said = f"agentpool: the virtual machine has ended: {self.last_words()}\n"
                os.write(self._last, said.encode())
        os.close(self._last)
        self._exchange.close()

    def _pass_orders(self) -> None:
        with self._lock:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._wake)
            orders, self._orders = self._orders, []
        for order in orders:
            self._exchange.say(order)

    def _read_console(self, console: int) -> bool:
        """Keep the last of what was said; False: nobody will say any more."""
        try:
            said = os.read(console, _MOST_CONSOLE)
        except BlockingIOError:
            return True
        except OSError:
            return False
        self._console += said
        del self._console[:-_MOST_CONSOLE]
        return bool(said)

    def _take(self, message: bytes) -> None:
        """Take what the guest says; what it should not say is left alone."""
        word, _, rest = message.decode("ascii", "replace").partition(" ")
        with contextlib.suppress(ValueError):
            if word == "up" and not self.is_up:
                self.is_up = True
                self._exchange.say(b"start " + marshal.dumps(dict(self._start)))
            elif word == "use":
                held, cpu_us = (int(each) for each in rest.split())
                self.used = Measure(memory_mb=round(held / _MB, 1), cpu_seconds=cpu_us / 1e6)
            elif word == "held":
                self._take_incident(rest)
            elif word == "end":
                self._said_code = int(rest)

    def _take_incident(self, said: str) -> None:
        kind, _, detail = said.partition(" ")
        if kind not in KINDS:
            return
        told = bytes.fromhex(detail).decode("utf-8", "replace")[:_MOST_DETAIL]
        incident = Incident(kind=kind, detail=told)
        if kind == _ENDS:
            self.broken = incident
        else:
            self._note(incident)

    def _connect(self, port: int) -> socket.socket | None:
        """Connect to what is behind a port of the guest's loopback; None: nothing is."""
        if port not in self._doors:
            return None
        far = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        folder, name = os.path.split(self._doors[port])
        # By way of a descriptor: a socket's own path may have but 107 bytes.
        way = os.open(folder, os.O_PATH | os.O_DIRECTORY)
        try:
            far.settimeout(_CONNECT_S)
            far.connect(f"/proc/self/fd/{way}/{name}")
        except OSError:
            far.close()
            return None
        finally:
            os.close(way)
        return far
