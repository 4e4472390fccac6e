"""
The first program of a virtual machine: makes it ready, runs the command, tells the runtime.

It is process 1 of the guest. The kernel starts it from an archive in memory (`boot.py`): Python,
this file and what it imports. The work sees none of that, it has the lease's root, which the
runtime shares; what it may write there is decided outside. What is held in here (memory, CPU,
processes, system calls) holds against the work, not against a guest's kernel that was overcome:
that one meets the walls around the whole machine.
"""

import ctypes
import os
import sys
import time

# Beside this file in the guest; agentpool's packages would cost each start a second.
from inside import _become, _drop_to, _shut  # type: ignore[import-not-found]
from streams import Closed, Exchange  # type: ignore[import-not-found]

# Python itself may stand anywhere else.
_TOP = "/machine"
_ROOT, _GROUPS, _CODE, _MODULES = (f"{_TOP}/{name}" for name in ("root", "groups", "code", "modules"))
_OUT, _ERR = 1, 2
_MOST_TOLD = 16 * 2**20
_LOOK_S, _READY_S, _END_S = 1.0, 20.0, 5.0
_MS_NOSUID, _MS_NODEV, _MS_BIND, _MS_MOVE = 2, 4, 4096, 8192
_CLONE_NEWNS, _POWER_OFF = 0x20000, 0x4321FEDC
_PR_SET_NO_NEW_PRIVS = 38
_FINIT_MODULE = {"x86_64": 313, "aarch64": 273}
_RLIMIT_FSIZE, _RLIMIT_CORE, _RLIMIT_NOFILE = 1, 4, 7
_MOST_OPEN = 65536
# Name, mode, major and minor of the devices that the work has.
_DEVICES = (
    *(("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9)),
    ("tty", 5, 0),
)
_LINKS = (("fd", "/proc/self/fd"), ("stdin", "/proc/self/fd/0"), ("stdout", "/proc/self/fd/1"))
_SIGTERM = 15


class Guest:
    """The machine while it runs one command."""

    def __init__(self, libc: ctypes.CDLL, channel: int) -> None:
        self._libc = libc
        self._exchange = Exchange(
            channel, told=self._take, connect=lambda port: None, most_message=_MOST_TOLD
        )
        self._told: dict[str, object] = {}
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
            for line in _read(f"{_GROUPS}/work/cgroup.procs").split():
                os.kill(int(line), _SIGTERM)
        elif word == b"limits":
            memory, cpu = rest.decode().split(" ", 1)
            _write(f"{_GROUPS}/work/memory.max", memory)
            _write(f"{_GROUPS}/work/cpu.max", cpu)

    # --- the command ------------------------------------------------------------------------

    def _start(self, told: dict[str, object]) -> None:
        """Make the group of the work, open the doors, and start the command in it."""
        self._told = told
        _make_group(told)
        _network(self._exchange, told)
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
            os.fchown(number, told["uid"], told["uid"])  # type: ignore[arg-type]
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
            _write("/proc/self/oom_score_adj", "0")
            _write(f"{_GROUPS}/work/cgroup.procs", "0")
            _enter_root(libc)
            os.chdir(told["cwd"])  # type: ignore[arg-type]
            _limit(libc, _RLIMIT_FSIZE, told["largest_file"])
            _limit(libc, _RLIMIT_CORE, 0)
            _limit(libc, _RLIMIT_NOFILE, _MOST_OPEN)
            _drop_to(libc, told["uid"])
            libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
            if told["filter"]:
                _shut(libc, told["filter"], control, told["seccomp"])
            _become(told["command"], told["env"])
        except OSError as error:
            os.write(2, f"agentpool: {error.filename or 'the command'}: {error}\n".encode())

    def _observe(self, ours: object) -> int:
        """Take the filter's questions over to a helper that answers; return where it notes."""
        import _socket

        try:
            data, rights, *_ = ours.recvmsg(1, _socket.CMSG_SPACE(4))  # type: ignore[attr-defined]
            if not data or not rights:
                return -1
            listener = int.from_bytes(rights[0][2][:4], sys.byteorder)
            ours.send(b"k")  # type: ignore[attr-defined]
        finally:
            ours.close()  # type: ignore[attr-defined]
        notes, theirs = os.pipe()
        if os.fork() == 0:
            try:
                os.close(notes)
                _answer(listener, theirs, self._told)
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
        held = _field("memory.stat", b"anon") + _field("memory.stat", b"shmem")
        self._exchange.say(b"use %d %d" % (held, _field("cpu.stat", b"usage_usec")))
        for kind, name, key in (
            (b"killed_for_memory", "memory.events", b"oom_kill"),
            (b"too_many_processes", "pids.events", b"max"),
        ):
            if kind not in self._said and _field(name, key):
                self._said.add(kind)
                self._exchange.say(b"held " + kind)

    def _end(self, code: int) -> None:
        """Kill what is left, let everything out that was printed and noted, and say the end."""
        _write(f"{_GROUPS}/work/cgroup.kill", "1")
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
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        _write_early(libc)
        Guest(libc, _port()).run()
    except Closed:
        pass
    except BaseException:
        # On the console, of which the runtime keeps the last lines.
        sys.excepthook(*sys.exc_info())
    libc.reboot(_POWER_OFF)


def _write_early(libc: ctypes.CDLL) -> None:
    """Load what the archive has of the kernel, and mount what the machine consists of."""
    number = _FINIT_MODULE[os.uname().machine]
    for name in sorted(os.listdir(_MODULES)):
        file = os.open(f"{_MODULES}/{name}", os.O_RDONLY)
        libc.syscall(number, file, b"", 0)
        os.close(file)
    _mount(libc, "proc", "/proc", "proc")
    _mount(libc, "dev", "/dev", "devtmpfs")
    _mount(libc, "groups", _GROUPS, "cgroup2")
    _write("/proc/self/oom_score_adj", "-1000")
    until = time.monotonic() + _READY_S
    for name, place in (("system", _ROOT), ("lease", f"{_ROOT}/lease")):
        while not _mounted(libc, name, place, "virtiofs", until=until):
            time.sleep(0.005)
    if libc.mount(f"{_ROOT}/lease/tmp".encode(), f"{_ROOT}/tmp".encode(), None, _MS_BIND, None):
        raise OSError(ctypes.get_errno(), "can't be shown", "/tmp")  # noqa: S108
    quiet = _MS_NOSUID | _MS_NODEV
    # Of other users' processes the work sees nothing: that is, of ours.
    _mount(libc, "proc", f"{_ROOT}/proc", "proc", quiet, "hidepid=2")
    _mount(libc, "run", f"{_ROOT}/run", "tmpfs", quiet, "mode=755")
    _make_devices(libc, f"{_ROOT}/dev")


def _make_devices(libc: ctypes.CDLL, folder: str) -> None:
    _mount(libc, "dev", folder, "tmpfs", _MS_NOSUID, "mode=755")
    os.umask(0)
    for name, major, minor in _DEVICES:
        os.mknod(f"{folder}/{name}", 0o20666, os.makedev(major, minor))
    for name, target in (*_LINKS, ("stderr", "/proc/self/fd/2"), ("ptmx", "pts/ptmx")):
        os.symlink(target, f"{folder}/{name}")
    for name in ("pts", "shm"):
        os.mkdir(f"{folder}/{name}")
    _mount(libc, "pts", f"{folder}/pts", "devpts", _MS_NOSUID, "newinstance,ptmxmode=0666")
    _mount(libc, "shm", f"{folder}/shm", "tmpfs", _MS_NOSUID | _MS_NODEV, "mode=1777")
    os.umask(0o022)


def _port() -> int:
    """Return the channel to the runtime, once the kernel has it."""
    until = time.monotonic() + _READY_S
    while time.monotonic() < until:
        for name in os.listdir("/dev"):
            if name.startswith("vport"):
                return os.open(f"/dev/{name}", os.O_RDWR | os.O_NONBLOCK)
        time.sleep(0.005)
    raise OSError("there is no channel")


def _make_group(told: dict[str, object]) -> None:
    _write(f"{_GROUPS}/cgroup.subtree_control", "+memory +pids +cpu")
    os.mkdir(f"{_GROUPS}/work")
    for name, value in (
        *(("memory.max", told["memory"]), ("memory.swap.max", 0), ("memory.oom.group", 1)),
        *(("pids.max", told["pids"]), ("cpu.max", told["cpu"])),
    ):
        if name != "memory.swap.max" or os.path.exists(f"{_GROUPS}/work/{name}"):
            _write(f"{_GROUPS}/work/{name}", str(value))


def _network(exchange: "Exchange", told: dict[str, object]) -> None:
    """Bring up the loopback, on it the doors, and the way out where the policy says `full`."""
    import _socket

    asking = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM)
    _set_up(asking, b"lo")
    for port in told["ports"]:  # type: ignore[attr-defined]
        door = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)
        door.bind(("127.0.0.1", port))
        door.listen(64)
        exchange.open_door(door, port)
    if told["address"]:
        address, mask, gateway = (_socket.inet_aton(each) for each in told["address"])  # type: ignore[attr-defined]
        _address(asking, b"eth0", address, mask, gateway)
    asking.close()


def _set_up(asking: object, name: bytes) -> None:
    import fcntl

    request = name.ljust(16, b"\0") + (1 | 0x40).to_bytes(2, sys.byteorder) + bytes(14)
    fcntl.ioctl(asking.fileno(), 0x8914, request)  # type: ignore[attr-defined]


def _address(asking: object, name: bytes, address: bytes, mask: bytes, gateway: bytes) -> None:
    """Give an interface its address, and lead everything else through the gateway."""
    import fcntl

    def of(ip: bytes) -> bytes:
        return (2).to_bytes(2, sys.byteorder) + bytes(2) + ip + bytes(8)

    number = asking.fileno()  # type: ignore[attr-defined]
    fcntl.ioctl(number, 0x8916, name.ljust(16, b"\0") + of(address) + bytes(8))
    fcntl.ioctl(number, 0x891C, name.ljust(16, b"\0") + of(mask) + bytes(8))
    _set_up(asking, name)
    # struct rtentry: padding, destination, gateway, mask, flags (up, gateway), the rest.
    any_ = of(bytes(4))
    flags = (1 | 2).to_bytes(2, sys.byteorder)
    fcntl.ioctl(number, 0x890B, bytes(8) + any_ + of(gateway) + any_ + flags + bytes(62))


def _pair() -> tuple[object, object]:
    import _socket

    return _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM)


def _enter_root(libc: ctypes.CDLL) -> None:
    """Make the shared root the only one that this process and its children have."""
    if libc.unshare(_CLONE_NEWNS):
        raise OSError(ctypes.get_errno(), "no mount namespace", "/")
    os.chdir(_ROOT)
    if libc.mount(b".", b"/", None, _MS_MOVE, None):
        raise OSError(ctypes.get_errno(), "the root can't be moved", "/")
    os.chroot(".")


def _answer(listener: int, notes: int, told: dict[str, object]) -> None:
    """Answer the filter's questions for as long as there are any, and note what was refused."""
    sys.path.insert(0, _CODE)
    from agentpool.agent.isolation.observer import Observer
    from agentpool.agent.isolation.policy import Policy
    from agentpool.agent.isolation.seccomp import Machine

    known: set[object] = set()

    def note(incident: object) -> None:
        if incident not in known and len(known) < 200:
            known.add(incident)
            kind, detail = incident.kind, incident.detail  # type: ignore[attr-defined]
            os.write(notes, f"{kind} {detail.encode().hex()}\n".encode())

    observer = Observer(
        policy=Policy(**told["policy"]),  # type: ignore[arg-type]
        machine=Machine(*told["machine"]),  # type: ignore[misc]
        note=note,
        work=f"{told['work']}",
    )
    observer.start(listener)
    while True:
        time.sleep(3600)


def _limit(libc: ctypes.CDLL, which: int, most: object) -> None:
    libc.setrlimit(which, ctypes.byref((ctypes.c_ulong * 2)(most, most)))


def _mount(
    libc: ctypes.CDLL, source: str, target: str, kind: str, flags: int = 0, data: str = ""
) -> None:
    if libc.mount(source.encode(), target.encode(), kind.encode(), flags, data.encode()):
        raise OSError(ctypes.get_errno(), f"{kind} can't be mounted", target)


def _mounted(libc: ctypes.CDLL, source: str, target: str, kind: str, *, until: float) -> bool:
    try:
        _mount(libc, source, target, kind)
    except OSError:
        if time.monotonic() > until:
            raise
        return False
    return True


def _field(name: str, key: bytes) -> int:
    for line in _read(f"{_GROUPS}/work/{name}").splitlines():
        word, _, value = line.partition(b" ")
        if word == key:
            return int(value)
    return 0


def _read(path: str) -> bytes:
    number = os.open(path, os.O_RDONLY)
    try:
        return os.read(number, 65536)
    finally:
        os.close(number)


def _write(path: str, text: str) -> None:
    number = os.open(path, os.O_WRONLY)
    try:
        os.write(number, text.encode())
    finally:
        os.close(number)


if __name__ == "__main__":
    main()
