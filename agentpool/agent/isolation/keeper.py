"""
Stands beside one container: keeps its network, opens its doors, ends it when the runtime dies.

A program of its own, started with the machine's Python without the site module: it holds the
namespace with nothing in it but a loopback, listens there for what `doors.py` serves, and waits
for a word from the runtime. Silence (the runtime was killed) means: remove the container.

    keeper.py NETWORK PORTS COMMAND…

NETWORK is own or host, PORTS is port=path,…, and COMMAND removes the container.
"""

import ctypes
import os
import sys

# This file's folder is first on the path; agentpool's packages would cost each lease 50 ms.
from inside import listen, pass_on  # type: ignore[import-not-found]

_CLONE_NEWNET = 0x40000000
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1


def main(network: str, told: str, command: list[str]) -> None:
    """Make the network, say so, keep the doors until there is an end of standard input."""
    if network == "own":
        _own_network()
    pairs = (pair.split("=", 1) for pair in told.split(",") if pair)
    doors = listen([(int(port), _short(path)) for port, path in pairs])
    os.write(1, b"ready\n")
    os.close(1)
    pass_on(doors, until=0)
    if not os.read(0, 1):
        os.execvp(command[0], command)  # noqa: S606 - there is no shell in this


def _short(path: str) -> str:
    """Return another name of a socket, whose own may have more than the 107 bytes there are."""
    folder, name = os.path.split(path)
    return f"/proc/self/fd/{os.open(folder, os.O_PATH | os.O_DIRECTORY)}/{name}"


def _own_network() -> None:
    import _socket
    import fcntl
    import struct

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "no network namespace can be made")
    asking = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM)
    request = struct.pack("16sH14x", b"lo", 0)
    flags = struct.unpack("16sH14x", fcntl.ioctl(asking.fileno(), _SIOCGIFFLAGS, request))[1]
    fcntl.ioctl(asking.fileno(), _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", flags | _IFF_UP))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
