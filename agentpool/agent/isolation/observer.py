"""
Answers for the kernel when sandboxed work makes a system call that is denied or worth a note.

The filter (`seccomp.py`) stops such a call until this thread has answered: denied ones fail with
EPERM, others go on, and are refused by mounts and namespaces. What is noted here is only ever a
note: the work may change its memory after we have read it, so nothing is allowed by reading it.
"""

import array
import ctypes
import errno
import fcntl
import ipaddress
import os
import select
import socket
import struct
import threading
from collections.abc import Callable
from pathlib import PurePosixPath

from agentpool.agent.isolation import INSIDE, Incident
from agentpool.agent.isolation.policy import Policy, is_writable
from agentpool.agent.isolation.seccomp import DENIED, OPENS, Machine

_RECV, _SEND = 0xC0502100, 0xC0182101
_CONTINUE = 1
_PATH_MAX = 4096
_AT_FDCWD = -100
# Where anybody may write in a sandbox.
_OWN = (str(INSIDE / name) for name in ("tmp", "out", "home"))
_OPEN_TO_ALL = ("/tmp", "/dev", "/run", *_OWN)  # noqa: S108 - the sandbox's own
_IO_S = 0.5

Note = Callable[[Incident], None]


class Observer:
    """One thread for one sandbox; ends when nothing of the sandbox is left."""

    def __init__(self, *, policy: Policy, machine: Machine, note: Note, work: str) -> None:
        self._policy = policy
        self._machine = machine
        self._note = note
        self._work = work
        self.ours, self.theirs = socket.socketpair()

    def start(self, listener: int | None = None) -> None:
        """
        Begin, once the sandbox has been started with the other end of the socket.

        listener: the filter's descriptor, where somebody else has brought it; it is closed here.
        """
        self.theirs.close()
        name, words = "observer", (listener,)
        threading.Thread(target=self._run, args=words, name=name, daemon=True).start()

    def close(self) -> None:
        """End; the calls of a sandbox that still lives fail from now on."""
        for one in (self.ours, self.theirs):
            one.close()

    def _run(self, listener: int | None) -> None:
        try:
            number = self._take_listener() if listener is None else listener
        except OSError:
            return
        if number is None:
            return
        try:
            self._answer_all(number)
        finally:
            os.close(number)

    def _take_listener(self) -> int | None:
        data, rights, _, _ = self.ours.recvmsg(1, socket.CMSG_SPACE(4))
        if not data or not rights:
            return None
        numbers = array.array("i")
        numbers.frombytes(rights[0][2][:4])
        self.ours.send(b"k")
        return numbers[0]

    def _answer_all(self, number: int) -> None:
        poll = select.poll()
        poll.register(number, select.POLLIN)
        asked = bytearray(80)
        while True:
            events = poll.poll(1000 * _IO_S)
            if not events:
                if self.ours.fileno() < 0:
                    return
                continue
            if events[0][1] & (select.POLLHUP | select.POLLERR):
                return
            asked[:] = bytes(80)
            try:
                fcntl.ioctl(number, _RECV, asked)
            except OSError as error:
                if error.errno in (errno.ENOENT, errno.EINTR):
                    continue  # whoever asked was killed meanwhile
                return
            self._answer(number, asked)

    def _answer(self, number: int, asked: bytearray) -> None:
        call_id, pid, _, nr, _, _, *arguments = struct.unpack("<QIIiIQ6Q", asked)
        name = self._machine.name(nr)
        try:
            refused = self._look(name, pid, arguments)
        except (OSError, ValueError, OverflowError):
            # Gone meanwhile, or given what is no address or path.
            refused = name in DENIED
        if refused:
            reply = struct.pack("<QqiI", call_id, 0, -errno.EPERM, 0)
        else:
            reply = struct.pack("<QqiI", call_id, 0, 0, _CONTINUE)
        try:
            fcntl.ioctl(number, _SEND, bytearray(reply))
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise

    def _look(self, name: str, pid: int, arguments: list[int]) -> bool:
        """Note what this is; return whether to refuse it."""
        if name in DENIED or name == "clone":
            self._tell("denied_syscall", name)
            return True
        if name in ("setuid", "setreuid", "setresuid"):
            if 0 in [ctypes.c_int32(each).value for each in arguments[: _IDS[name]]]:
                self._tell("denied_syscall", f"{name} to root")
                return True
        elif name == "connect":
            self._look_at_address(_memory(pid, arguments[1], min(arguments[2], 28)))
        elif name == "kill":
            self._look_at_target(pid, ctypes.c_int32(arguments[0]).value)
        elif name in OPENS or name == "creat":
            self._look_at_path(name, pid, arguments)
        return False

    def _look_at_address(self, raw: bytes) -> None:
        family = int.from_bytes(raw[:2], "little")
        if family not in (socket.AF_INET, socket.AF_INET6) or self._policy.network == "full":
            return
        packed = raw[4:8] if family == socket.AF_INET else raw[8:24]
        address = ipaddress.ip_address(packed)
        mapped = getattr(address, "ipv4_mapped", None) or address
        if not (mapped.is_loopback or mapped.is_unspecified):
            port = int.from_bytes(raw[2:4], "big")
            self._tell("denied_network", f"{mapped} port {port}")

    def _look_at_target(self, pid: int, target: int) -> None:
        if target > 0 and not os.path.exists(f"/proc/{pid}/root/proc/{target}"):
            self._tell("denied_signal", f"process {target} is not in the sandbox")

    def _look_at_path(self, name: str, pid: int, arguments: list[int]) -> None:
        place = arguments[0] if name in ("open", "creat") else arguments[1]
        raw = _memory(pid, place, _PATH_MAX).split(b"\0", 1)[0]
        path = PurePosixPath(os.fsdecode(raw))
        if not path.is_absolute():
            folder = ctypes.c_int32(arguments[0]).value if name == "openat" else _AT_FDCWD
            where = "cwd" if folder == _AT_FDCWD else f"fd/{folder}"
            path = PurePosixPath(os.readlink(f"/proc/{pid}/{where}")) / path
        plain = os.path.normpath(str(path))
        if not self._may_write(plain):
            self._tell("denied_write", plain)

    def _may_write(self, path: str) -> bool:
        if any(path == each or path.startswith(f"{each}/") for each in _OPEN_TO_ALL):
            return True
        if path.startswith("/proc/"):
            return True  # its own processes; what is not its own is not there
        if path == self._work or path.startswith(f"{self._work}/"):
            return is_writable(path.removeprefix(self._work).lstrip("/"), self._policy.writable)
        return False

    def _tell(self, kind: str, detail: str) -> None:
        self._note(Incident(kind=kind, detail=detail[:400]))


_IDS = {"setuid": 1, "setreuid": 2, "setresuid": 3}


def _memory(pid: int, address: int, length: int) -> bytes:
    """Read another process's memory, up to the end of its page at least."""
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        page_left = 4096 - address % 4096
        memory.seek(address)
        found = memory.read(min(length, page_left))
        if len(found) == page_left < length and b"\0" not in found:
            found += memory.read(length - page_left)
        return found
