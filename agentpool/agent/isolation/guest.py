"""
The first program of a virtual machine: makes it ready, runs the command, tells the runtime.

It is process 1 of the guest. The kernel starts it from an archive in memory (`boot.py`): Python,
this file and what it imports. The work sees none of that, it has the lease's root, which the
runtime shares; what it may write there is decided outside. What is held in here (memory, CPU,
processes, system calls) holds against the work, not against a guest's kernel that was overcome:
that one meets the walls around the whole machine.
"""

import os
import sys
import time

# Beside this file in the guest; agentpool's packages would cost each start a second.
import ready  # type: ignore[import-not-found]
from inside import Libc, _become, _drop_to, _shut, limit_to  # type: ignore[import-not-found]
from streams import Closed, Exchange  # type: ignore[import-not-found]

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket
    from typing import Any

_OUT, _ERR = 1, 2
_MOST_TOLD, _MOST_NOTES = 16 * 2**20, 200
_LOOK_S, _END_S = 1.0, 5.0
_POWER_OFF = 0x4321FEDC
_PR_SET_NO_NEW_PRIVS, _SIGTERM = 38, 15
_RLIMIT_FSIZE, _RLIMIT_CORE, _RLIMIT_NOFILE = 1, 4, 7
_MOST_OPEN = 65536
_WORK = f"{ready.GROUPS}/work"


class Guest:
    """The machine while it runs one command."""

    def __init__(self, libc: Libc, channel: int) -> None:
        self._libc = libc
        self._exchange = Exchange(
            channel, told=self._take, connect=lambda port: None, most_message=_MOST_TOLD
        )
        self._told: dict[str, Any] = {}
        self._command = self._notes = self._handle = -1
        self._status: int | None = None
        self._said: set[bytes] = set()
        self._looked_at = 0.0

    def run(self) -> None:
        """Say that the machine is up, and do what is told until the command has ended."""
        self._exchange.say(b"up")
        while self._status is None:
            watched = [number for number in (self._notes, self._handle) if number >= 0]
            ready = self._exchange.turn(_LOOK_S, watched)
            if self._notes in ready:
                self._pass_notes()
            self._reap()
            if self._command > 0 and time.monotonic() - self._looked_at >= _LOOK_S:
                self._measure()
        self._end(self._status)

    def _take(self, message: bytes) -> None:
        """Do what the runtime says."""
        word, _, rest = message.partition(b" ")
        if word == b"start" and self._command < 0:
            import marshal

            self._start(marshal.loads(rest))  # noqa: S302 - of the runtime, which made us
        elif word == b"terminate":
            for line in ready.read(f"{_WORK}/cgroup.procs").split():
                os.kill(int(line), _SIGTERM)
        elif word == b"limits":
            memory, cpu = rest.decode().split(" ", 1)
            ready.write(f"{_WORK}/memory.max", memory)
            ready.write(f"{_WORK}/cpu.max", cpu)

    # --- the command ------------------------------------------------------------------------

    def _start(self, told: "dict[str, Any]") -> None:
        """Make the group of the work, open the doors, and start the command in it."""
        self._told = told
        ready.make_group(told)
        if told["is_imaged"]:
            ready.tell_resolver(told["resolver"])
        ready.show_lease(self._libc, told)
        for door, port in ready.open_network(told):
            self._exchange.open_door(door, port)
        (out, theirs_out), (err, theirs_err) = os.pipe(), os.pipe()
        ours, theirs = _pair() if told["filter"] else (None, None)
        self._command = os.fork()
        if self._command == 0:
            try:
                control = -1 if theirs is None else theirs.fileno()
                self._become_work(theirs_out, theirs_err, control)
            finally:
                os._exit(78)
        self._handle = os.pidfd_open(self._command)
        for number in (theirs_out, theirs_err):
            # The work may open what it prints to by name, too, as /dev/stderr.
            os.fchown(number, told["uid"], told["uid"])
            os.close(number)
        for number, source in ((_OUT, out), (_ERR, err)):
            os.set_blocking(source, False)
            self._exchange.carry(number, source=source)
        if ours is not None and theirs is not None:
            theirs.close()
            self._notes = self._observe(ours)

    def _become_work(self, out: int, err: int, control: int) -> None:
        """Become the command: within the shared root, in the group, as the lease's user."""
        told, libc = self._told, self._libc
        for number, to in ((os.open("/dev/null", os.O_RDWR), 0), (out, 1), (err, 2)):
            os.dup2(number, to)
        try:
            os.setsid()
            ready.write("/proc/self/oom_score_adj", "0")
            ready.write(f"{_WORK}/cgroup.procs", "0")
            ready.enter_root(libc)
            os.chdir(told["cwd"])
            limit_to(libc, _RLIMIT_FSIZE, told["largest_file"])
            limit_to(libc, _RLIMIT_CORE, 0)
            limit_to(libc, _RLIMIT_NOFILE, _MOST_OPEN)
            if told["uid"]:
                _drop_to(libc, told["uid"])
            libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
            if told["filter"]:
                _shut(libc, told["filter"], control, told["seccomp"])
            _become(told["command"], told["env"])
        except OSError as error:
            os.write(2, f"agentpool: {error.filename or 'the command'}: {error}\n".encode())

    def _observe(self, ours: "_socket.socket") -> int:
        """Take the filter's questions over to a helper that answers; return where it notes."""
        import _socket

        try:
            data, rights, *_ = ours.recvmsg(1, _socket.CMSG_SPACE(4))
            if not data or not rights:
                return -1
            listener = int.from_bytes(rights[0][2][:4], sys.byteorder)
            ours.send(b"k")
        finally:
            ours.close()
        notes, theirs = os.pipe()
        if os.fork() == 0:
            try:
                os.close(notes)
                _answer(listener, theirs, self._told)
            except BaseException:
                sys.excepthook(*sys.exc_info())
            finally:
                os._exit(1)
        os.close(theirs)
        os.close(listener)
        os.set_blocking(notes, False)
        return notes

    # --- what is told of it -----------------------------------------------------------------

    def _pass_notes(self) -> None:
        """Pass on what the helper has noted, a line each."""
        try:
            while found := os.read(self._notes, 65536):
                for line in found.splitlines():
                    self._exchange.say(b"held " + line)
            os.close(self._notes)
            self._notes = -1
        except BlockingIOError:
            return

    def _reap(self) -> None:
        """Collect whatever has died; process 1 inherits all orphans."""
        try:
            while (found := os.waitpid(-1, os.WNOHANG))[0]:
                if found[0] == self._command:
                    self._status = os.waitstatus_to_exitcode(found[1])
        except ChildProcessError:
            return

    def _measure(self) -> None:
        self._looked_at = time.monotonic()
        held = ready.field("memory.stat", b"anon") + ready.field("memory.stat", b"shmem")
        self._exchange.say(b"use %d %d" % (held, ready.field("cpu.stat", b"usage_usec")))
        for kind, name, key in (
            (b"killed_for_memory", "memory.events", b"oom_kill"),
            (b"too_many_processes", "pids.events", b"max"),
        ):
            if kind not in self._said and ready.field(name, key):
                self._said.add(kind)
                self._exchange.say(b"held " + kind)

    def _end(self, code: int) -> None:
        """Kill what is left, let everything out that was printed and noted, and say the end."""
        ready.write(f"{_WORK}/cgroup.kill", "1")
        until = time.monotonic() + _END_S
        while not self._exchange.has_ended(_OUT, _ERR) and time.monotonic() < until:
            self._exchange.turn(0.05)
            self._reap()
        if self._notes >= 0:
            self._pass_notes()
        self._measure()
        os.sync()
        self._exchange.say(b"end %d" % code)
        while time.monotonic() < until + _END_S:
            self._exchange.turn(0.5)


def main() -> None:
    """Be process 1."""
    libc = Libc()
    try:
        ready.mount_all(libc, needs=sys.argv[1:])
        ready.write("/proc/self/oom_score_adj", "-1000")
        Guest(libc, ready.channel()).run()
    except Closed:
        pass
    except BaseException:
        # On the console, of which the runtime keeps the last lines.
        sys.excepthook(*sys.exc_info())
    libc.reboot(_POWER_OFF)


def _pair() -> "tuple[_socket.socket, _socket.socket]":
    import _socket

    return _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM)


def _answer(listener: int, notes: int, told: "dict[str, Any]") -> None:
    """Answer the filter's questions for as long as there are any, and note what was refused."""
    os.nice(10)  # what is loaded here must not hold up the command's start
    sys.path.insert(0, ready.CODE)
    from agentpool.agent.isolation import Incident
    from agentpool.agent.isolation.observer import Observer
    from agentpool.agent.isolation.policy import Policy
    from agentpool.agent.isolation.seccomp import Machine

    known: set[Incident] = set()

    def note(incident: Incident) -> None:
        if incident not in known and len(known) < _MOST_NOTES:
            known.add(incident)
            kind, detail = incident.kind, incident.detail
            os.write(notes, f"{kind} {detail.encode().hex()}\n".encode())

    observer = Observer(
        policy=Policy(**told["policy"]),
        machine=Machine(*told["machine"]),
        note=note,
        work=f"{told['work']}",
    )
    os.nice(-10)
    observer.start(listener)
    while True:
        time.sleep(3600)


if __name__ == "__main__":
    main()
