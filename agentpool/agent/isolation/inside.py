"""
The first program inside a sandbox: opens its doors, shuts everything else, becomes the command.

Run by the machine's Python without the site module, from the bytecode of a single file that imports
next to nothing: it costs each lease 10 ms. What it is told stands in a file beside it, its
arguments are the command.
"""

import _ctypes
import _socket
import posix as os  # os itself costs more than all of this
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_PR_SET_NO_NEW_PRIVS, _PR_CAPBSET_DROP = 38, 24
_SECCOMP_SET_MODE_FILTER, _NEW_LISTENER, _WAIT_KILLABLE = 1, 1 << 3, 1 << 5
_LAST_CAPABILITY, _CAPABILITIES_V3 = 63, 0x20080522
_RLIMIT_FSIZE, _RLIMIT_CORE, _RLIMIT_NPROC = 1, 4, 6
_IN, _OUT = 1, 4  # of poll()
_MOST_ENDS = 256


def main(command: list[str]) -> None:
    """Become the command; whatever fails here ends with 78 and a line that says so."""
    libc = Libc()
    ports, uid, processes, largest, control, filter_, number, env = _told()
    if ports:
        _open_doors(ports)
    if uid:
        _drop_to(libc, uid)
    # A single file is never larger than all that may be written.
    for which, most in ((_RLIMIT_FSIZE, largest), (_RLIMIT_CORE, 0), (_RLIMIT_NPROC, processes)):
        if most or which == _RLIMIT_CORE:
            limit_to(libc, which, most)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if filter_:
        _shut(libc, filter_, control, number)
    if control >= 0:
        os.close(control)
    _become(command, env)


class _Byte(_ctypes._SimpleCData):  # type: ignore[type-arg]
    """One byte; a row of them is a place in memory that has an address."""

    _type_ = "c"


class _Int(_ctypes._SimpleCData):  # type: ignore[type-arg]
    _type_ = "i"


class _Function(_ctypes.CFuncPtr):
    _flags_ = _ctypes.FUNCFLAG_CDECL | _ctypes.FUNCFLAG_USE_ERRNO
    _restype_ = _Int


class Libc:
    """The C library without the module ctypes, whose import would cost 4 ms."""

    def __init__(self) -> None:
        self._handle = _ctypes.dlopen(None, 0)  # type: ignore[arg-type]

    def __getattr__(self, name: str) -> "Any":
        return _Function(_ctypes.dlsym(self._handle, name))

    def error(self, said: str, file: str = "") -> OSError:
        """Return the last error of a function, to be raised."""
        return OSError(_ctypes.get_errno(), said, file)


def limit_to(libc: Libc, which: int, most: int) -> None:
    """Set a limit of this process and its children, for good."""
    libc.setrlimit(which, most.to_bytes(8, sys.byteorder) * 2)


def _told() -> tuple[list[tuple[int, str]], int, int, int, int, bytes, int, dict[bytes, bytes]]:
    """Take apart what the runtime says; not JSON, whose parser would cost more than all of this."""
    with open("/lease/inside.txt", "rb") as file:
        text = file.read().decode("ascii")
    ports, uid, processes, largest, control, filter_, number, env = text.split(";")
    pairs = [pair.split("=", 1) for pair in ports.split(",") if pair]
    return (
        [(int(p), s) for p, s in pairs],
        int(uid),
        int(processes),
        int(largest),
        int(control),
        bytes.fromhex(filter_),
        int(number),
        # Of the work alone: this program obeys nothing that it was given.
        dict(pair.split(b"=", 1) for pair in bytes.fromhex(env).split(b"\0")),
    )


def _drop_to(libc: Libc, uid: int) -> None:
    """Become an ordinary user that nobody else here is, for good."""
    for capability in range(_LAST_CAPABILITY + 1):
        libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    # What is left is the inheritable set, which nothing could use any more; gone is gone.
    libc.capset(_CAPABILITIES_V3.to_bytes(4, sys.byteorder) + bytes(4), bytes(24))


def _shut(libc: Libc, program: bytes, control: int, number: int) -> None:
    """Install the filter; the observer gets the other end of it over the control socket."""
    content = (_Byte * len(program)).from_buffer(bytearray(program))
    place = _ctypes.addressof(content)
    head = (len(program) // 8).to_bytes(8, sys.byteorder) + place.to_bytes(8, sys.byteorder)
    for flags in (_NEW_LISTENER | _WAIT_KILLABLE, _NEW_LISTENER) if control >= 0 else (0,):
        got = libc.syscall(number, _SECCOMP_SET_MODE_FILTER, flags, head)
        if got >= 0:
            break
    if got < 0:
        _end(f"the filter of system calls was refused: {os.strerror(_ctypes.get_errno())}", 78)
    if control >= 0:
        with _socket_of(control) as way:
            way.send_fd(got)
        os.close(got)


def _become(command: list[str], env: dict[bytes, bytes]) -> None:
    """Replace this program by the command; os.execvp would import more than all of this."""
    name = command[0]
    folders = [b""] if "/" in name else env.get(b"PATH", b"").split(b":")
    failed = OSError(2, "there is no such program")
    for folder in folders:
        try:
            called = name.encode("utf-8", "surrogateescape")
            os.execve(folder + b"/" + called if folder else called, command, env)
        except OSError as error:
            failed = failed if error.errno == 2 else error
    _end(f"{name}: {failed.strerror}", 127 if failed.errno == 2 else 126)


class _socket_of:  # noqa: N801 - a verb in a with statement
    """The control socket, by its number; detached again, so that it is closed once."""

    def __init__(self, number: int) -> None:
        self._socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM, 0, number)

    def __enter__(self) -> "_socket_of":
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.detach()

    def send_fd(self, number: int) -> None:
        """Send a descriptor and wait until the observer has it."""
        rights = (_socket.SOL_SOCKET, _socket.SCM_RIGHTS, number.to_bytes(4, sys.byteorder))
        self._socket.sendmsg([b"f"], [rights])
        self._socket.recv(1)


def _open_doors(ports: list[tuple[int, str]]) -> None:
    """Listen on the sandbox's own loopback; a child passes each connection on to the runtime."""
    doors = listen(ports)
    if os.fork():
        return  # the doors close with this frame
    null = os.open("/dev/null", os.O_RDWR)
    for number in range(256):
        if number < 3:
            os.dup2(null, number)
        elif number not in doors:
            _close(number)
    pass_on(doors)


def listen(ports: list[tuple[int, str]]) -> "dict[int, tuple[_socket.socket, str]]":
    """Return the doors, by descriptor, with where each leads to."""
    doors = {}
    for port, path in ports:
        door = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)
        door.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
        door.bind(("127.0.0.1", port))
        door.listen(64)
        doors[door.fileno()] = (door, path)
    return doors


class _End:
    """One end of a connection; what it says waits at the other one until that takes it."""

    def __init__(self, socket: _socket.socket) -> None:
        socket.setblocking(False)
        self.socket = socket
        self.other = self
        self.held = b""
        self.is_done = self.is_shut = False

    def wanted(self) -> int:
        """Return what to wait for; neither end may hold up the ends of other connections."""
        return (0 if self.is_done or self.other.held else _IN) | (_OUT if self.held else 0)

    def turn(self, ready: int) -> bool:
        """Take what is held for here, else pass on what is said; False: the connection is over."""
        other = self.other
        try:
            if self.held and ready & ~_IN:
                self.held = self.held[self.socket.send(self.held) :]
            if not self.is_done and not other.held and ready & ~_OUT:
                other.held = self.socket.recv(65536)
                self.is_done = not other.held
            for each in (self, other):
                if each.other.is_done and not each.held and not each.is_shut:
                    each.is_shut = True
                    each.socket.shutdown(_socket.SHUT_WR)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return any(each.held or not each.is_done for each in (self, other))


def pass_on(doors: "dict[int, tuple[_socket.socket, str]]", *, until: int = -1) -> None:
    """Shovel bytes until a descriptor has something to read, or the sandbox ends."""
    import select

    ends: dict[int, _End] = {}
    while True:
        poll = select.poll()
        for number in (*doors, *((until,) if until >= 0 else ())):
            if number == until or len(ends) < _MOST_ENDS:
                poll.register(number, _IN)
        for number, end in ends.items():
            if end.wanted():
                poll.register(number, end.wanted())
        for number, ready in poll.poll():
            if number == until:
                for end in ends.values():
                    end.socket.close()
                return
            if number in doors:
                _begin(*doors[number], ends)
            elif number in ends and not ends[number].turn(ready):
                for end in (ends[number], ends[number].other):
                    del ends[end.socket.fileno()]
                    end.socket.close()


def _begin(door: _socket.socket, path: str, ends: dict[int, _End]) -> None:
    """Take one connection, and make the one that it is passed on to."""
    here, _ = door._accept()  # type: ignore[attr-defined]
    near = _End(_socket.socket(_socket.AF_INET, _socket.SOCK_STREAM, 0, here))
    far = _End(_socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM))
    try:
        far.socket.connect(path)
    except OSError:
        near.socket.close()
        far.socket.close()
        return
    near.other, far.other = far, near
    ends[near.socket.fileno()], ends[far.socket.fileno()] = near, far


def _close(number: int) -> None:
    try:  # noqa: SIM105 - contextlib would cost more than all of this
        os.close(number)
    except OSError:
        pass


def _end(message: str, code: int) -> None:
    os.write(2, f"agentpool: {message}\n".encode())
    os._exit(code)


if __name__ == "__main__":
    main(sys.argv[1:])
