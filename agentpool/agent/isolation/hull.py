"""
Starts a virtual machine inside the sandbox around it: what shares its folders, and qemu.

Run within bubblewrap by the machine's Python without the site module. All programs become the
lease's own user first; those that share a folder keep, for their start alone, the right to shut
themselves up in it. When one ends, so does this, and with it the sandbox.

    hull.py UID LARGEST SOCKET SHARE… -- SOCKET SHARE… -- QEMU…

What shares a folder takes the descriptor of its socket as `--fd=N`; qemu finds it at SOCKET.
"""

import _socket
import os
import resource
import sys

# This file's folder is first on the path.
from inside import Libc, _drop_to, limit_to  # type: ignore[import-not-found]

_PR_SET_KEEPCAPS, _PR_CAP_AMBIENT, _AMBIENT_RAISE = 8, 47, 2
_PR_SET_PDEATHSIG, _SIGKILL, _SIGXFSZ = 1, 9, 25
_CAP_SETPCAP, _CAP_SYS_CHROOT = 8, 18
_RLIMIT_FSIZE, _RLIMIT_CORE, _RLIMIT_NOFILE = 1, 4, 7
_VERSION, _MOST_OPEN = 0x20080522, 256


def main(uid: int, largest: int, shares: list[list[str]], qemu: list[str]) -> int:
    """Start all, wait for the first that ends, and return its code."""
    libc = Libc()
    limit_to(libc, _RLIMIT_CORE, 0)
    for socket, *share in shares:
        door = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        door.bind(socket)
        os.chmod(socket, 0o666)  # noqa: S103 - there is nobody else in this sandbox
        door.listen(1)
        if os.fork() == 0:
            number = door.fileno()
            # Above all not the machine's channel.
            os.closerange(3, number)
            os.closerange(number + 1, _MOST_OPEN)
            os.set_inheritable(number, True)
            _become_share(libc, uid, largest, [*share, f"--fd={number}"])
        door.close()
    machine = os.fork()
    if machine == 0:
        libc.prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0)
        if uid:
            _drop_to(libc, uid)
        os.execv(qemu[0], qemu)  # noqa: S606 - there is no shell in this
    ended, status = os.wait()
    if ended != machine:
        os.write(2, b"agentpool: what shares the machine's folders has ended\n")
        return 70
    return os.waitstatus_to_exitcode(status) & 0xFF


def _become_share(libc: Libc, uid: int, largest: int, words: list[str]) -> None:
    """Become what shares the root, with two rights and no file larger than may be written."""
    libc.prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0)
    import _signal  # type: ignore[import-not-found]

    # Told as an error instead: the work in the machine gets it.
    _signal.signal(_SIGXFSZ, _signal.SIG_IGN)
    limit_to(libc, _RLIMIT_FSIZE, largest)
    # Its own most: it holds one for everything that the guest knows of.
    limit_to(libc, _RLIMIT_NOFILE, resource.getrlimit(_RLIMIT_NOFILE)[1])
    if uid:
        libc.prctl(_PR_SET_KEEPCAPS, 1, 0, 0, 0)
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    kept = 1 << _CAP_SETPCAP | 1 << _CAP_SYS_CHROOT
    head, low = _VERSION.to_bytes(4, sys.byteorder) + bytes(4), kept.to_bytes(4, sys.byteorder)
    if libc.capset(head, low * 3 + bytes(12)):
        os.write(2, f"agentpool: {libc.error('capset')}\n".encode())
        os._exit(78)
    for capability in (_CAP_SETPCAP, _CAP_SYS_CHROOT):
        libc.prctl(_PR_CAP_AMBIENT, _AMBIENT_RAISE, capability, 0, 0)
    os.execv(words[0], words)  # noqa: S606 - there is no shell in this


def _parts(words: list[str]) -> list[list[str]]:
    found: list[list[str]] = [[]]
    for word in words:
        if word == "--":
            found.append([])
        else:
            found[-1].append(word)
    return found


if __name__ == "__main__":
    *told, qemu_words = _parts(sys.argv[3:])
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]), told, qemu_words))
